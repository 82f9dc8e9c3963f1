// Vectors as wide as a register, by the compiler's own extension: one source for every instruction
// set, compiled once a level.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

// Vectors that pass through a real call go by memory; everything small is inlined.
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define INLINE_CALLS __attribute__((flatten))

namespace simd {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class T>
struct Traits;
template <>
struct Traits<float> {
  using Int = int32_t;
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef int32_t Ints __attribute__((vector_size(kBytes)));
};
template <>
struct Traits<double> {
  using Int = int64_t;
  typedef double Vector __attribute__((vector_size(kBytes)));
  typedef int64_t Ints __attribute__((vector_size(kBytes)));
};

template <class T>
constexpr int lanes = kBytes / sizeof(T);
template <class T>
using Vec = typename Traits<T>::Vector;
template <class T>
using IntVec = typename Traits<T>::Ints;
typedef uint32_t Words __attribute__((vector_size(kBytes)));
typedef uint64_t LongWords __attribute__((vector_size(kBytes)));
using Doubles = Vec<double>;
template <class V>
using Lane = std::remove_reference_t<decltype(V{}[0])>;

template <class To, class From>
ALWAYS_INLINE To bits_of(From x) {
  To to;
  std::memcpy(&to, &x, sizeof(To));
  return to;
}

template <class T>
ALWAYS_INLINE Vec<T> broadcast(T x) {
  return Vec<T>{} + x;
}

// ---- memory: half precision is widened on the way in and rounded to even on the way out ----

struct bfloat16 {
  uint16_t bits;
};
#if defined(__aarch64__)
using float16 = __fp16;  // GCC 12 has no _Float16 there
#else
using float16 = _Float16;
#endif

ALWAYS_INLINE float widen(float x) { return x; }
ALWAYS_INLINE double widen(double x) { return x; }
ALWAYS_INLINE float widen(float16 x) { return static_cast<float>(x); }
ALWAYS_INLINE float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

template <class S>
ALWAYS_INLINE S narrow(float x) {
  return static_cast<S>(x);
}
template <class S>
ALWAYS_INLINE S narrow(double x) {
  return static_cast<S>(x);
}
template <>
ALWAYS_INLINE bfloat16 narrow<bfloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <class S>
constexpr float kMost = 65504.0f;
template <>
constexpr float kMost<bfloat16> = 0x1.fep127f;

typedef uint16_t ShortWords __attribute__((vector_size(kBytes / 2)));
typedef float16 Halves __attribute__((vector_size(kBytes / 2)));

// GCC 12 converts 16-bit words in halves.
#if defined(__AVX512F__)
ALWAYS_INLINE Words widen(ShortWords x) { return (Words)_mm512_cvtepu16_epi32((__m256i)x); }
ALWAYS_INLINE ShortWords narrow(Words x) { return (ShortWords)_mm512_cvtepi32_epi16((__m512i)x); }
#else
ALWAYS_INLINE Words widen(ShortWords x) { return __builtin_convertvector(x, Words); }
ALWAYS_INLINE ShortWords narrow(Words x) { return __builtin_convertvector(x, ShortWords); }
#endif

// GCC 12 converts half precision element by element.
#if defined(__AVX512F__)
ALWAYS_INLINE Vec<float> widen(Halves x) { return (Vec<float>)_mm512_cvtph_ps((__m256i)x); }
ALWAYS_INLINE Halves narrow(Vec<float> x) {
  return (Halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
ALWAYS_INLINE Vec<float> widen(Halves x) { return (Vec<float>)_mm256_cvtph_ps((__m128i)x); }
ALWAYS_INLINE Halves narrow(Vec<float> x) {
  return (Halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
}
#else
ALWAYS_INLINE Vec<float> widen(Halves x) { return __builtin_convertvector(x, Vec<float>); }
ALWAYS_INLINE Halves narrow(Vec<float> x) { return __builtin_convertvector(x, Halves); }
#endif

template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from) {
  Vec<T> out;
  if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(&out, from, kBytes);
    return out;
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    ShortWords bits;
    std::memcpy(&bits, from, kBytes / 2);
    return bits_of<Vec<float>>(widen(bits) << 16);
  } else {
    Halves halves;
    std::memcpy(&halves, from, kBytes / 2);
    return widen(halves);
  }
}

// The first `count` elements, then `rest`.
template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from, int64_t count, T rest) {
  if (count >= lanes<T>) return load<T>(from);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>)
    return (Vec<T>)_mm512_mask_loadu_ps((__m512)broadcast(rest), (1u << count) - 1, from);
#endif
  Vec<T> out = broadcast(rest);
  for (int i = 0; i < count; ++i) out[i] = widen(from[i]);
  return out;
}

template <class V>
ALWAYS_INLINE V absolute(V x) {
  using I = typename Traits<Lane<V>>::Int;
  return bits_of<V>(bits_of<IntVec<Lane<V>>>(x) & std::numeric_limits<I>::max());
}

// No less than a bound; a NaN stays.
template <class V>
ALWAYS_INLINE V at_least(Lane<V> bound, V x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>)
    return (V)_mm512_max_ps((__m512)broadcast(bound), (__m512)x);
#endif
  const V all = broadcast(bound);
  return all > x ? all : x;
}
template <class V>
ALWAYS_INLINE V at_most(Lane<V> bound, V x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>)
    return (V)_mm512_min_ps((__m512)broadcast(bound), (__m512)x);
#endif
  const V all = broadcast(bound);
  return all < x ? all : x;
}

// Between -most and most where `given` is finite; NaN stays.
template <class V>
ALWAYS_INLINE V within(Lane<V> most, V x, V given) {
  const V infinity = broadcast(std::numeric_limits<Lane<V>>::infinity());
  return absolute(given) < infinity ? at_least(-most, at_most(most, x)) : x;
}

// A gradient in the range of S, what is finite and beyond it as its largest number.
template <class S, class V>
ALWAYS_INLINE V saturated(V x) {
  if constexpr (sizeof(S) == sizeof(Lane<V>)) {
    return x;
  } else {
#if defined(__AVX512DQ__)
    constexpr int of_smaller_size = 2, infinite_or_nan = 0x99;
    const __m512 near = _mm512_range_ps((__m512)x, _mm512_set1_ps(kMost<S>), of_smaller_size);
    const __mmask16 as_it_is = _mm512_fpclass_ps_mask((__m512)x, infinite_or_nan);
    return (V)_mm512_mask_mov_ps(near, as_it_is, (__m512)x);
#else
    return within(kMost<S>, x, x);
#endif
  }
}

template <class S, class V>
ALWAYS_INLINE void store(S* to, V x, int64_t count) {
  using T = Lane<V>;
  if (count < lanes<T>) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<S, float>)
      return _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)x);
#endif
    for (int i = 0; i < count; ++i) to[i] = narrow<S>(x[i]);
  } else if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(to, &x, kBytes);
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    const Words bits = bits_of<Words>(x);
    const Words even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
    const ShortWords out = narrow(x == x ? even : nan);
    std::memcpy(to, &out, kBytes / 2);
  } else {
    const Halves out = narrow(x);
    std::memcpy(to, &out, kBytes / 2);
  }
}

// ---- across lanes ----

template <class V>
using Sequence = std::make_index_sequence<lanes<Lane<V>>>;

// Elements of two vectors in turn, from the `first` of each on.
template <int first, class V, size_t... i>
ALWAYS_INLINE V interleave(V a, V b, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, (first + i / 2 + i % 2 * sizeof...(i))...);
}
template <class V>
ALWAYS_INLINE V interleave_low(V a, V b) {
  return interleave<0>(a, b, Sequence<V>());
}
template <class V>
ALWAYS_INLINE V interleave_high(V a, V b) {
  return interleave<lanes<Lane<V>> / 2>(a, b, Sequence<V>());
}

// As many vectors as they have lanes: element j of vector i becomes element i of vector j.
template <class V>
ALWAYS_INLINE void transpose(V* x) {
  constexpr int n = lanes<Lane<V>>;
  for (int step = 1; step < n; step *= 2) {
    V y[n];
    for (int i = 0; i < n / 2; ++i) {
      y[2 * i] = interleave_low(x[i], x[i + n / 2]);
      y[2 * i + 1] = interleave_high(x[i], x[i + n / 2]);
    }
    std::memcpy(x, y, sizeof(y));
  }
}

template <class V>
ALWAYS_INLINE V max(V a, V b) {
  return a > b ? a : b;  // a NaN in a gives b: NaNs are found by their sums
}

// Every lane with the one `step` further on, by halves down to one lane.
template <int step, class V, size_t... i>
ALWAYS_INLINE V rotate(V x, std::index_sequence<i...>) {
  return __builtin_shufflevector(x, x, ((i + step) % sizeof...(i))...);
}
template <int step, class V, class F>
ALWAYS_INLINE Lane<V> reduce(V x, const F& f) {
  if constexpr (step == 0)
    return x[0];
  else
    return reduce<step / 2>(f(rotate<step>(x, Sequence<V>()), x), f);
}
template <class V>
ALWAYS_INLINE Lane<V> largest(V x) {
  return reduce<lanes<Lane<V>> / 2>(x, [](V a, V b) { return max(a, b); });
}
ALWAYS_INLINE double sum(Doubles x) {
  return reduce<lanes<double> / 2>(x, [](Doubles a, Doubles b) { return a + b; });
}

// The lanes in double precision, and back.
template <class T>
using Wide = std::array<Doubles, lanes<T> / lanes<double>>;
ALWAYS_INLINE Wide<double> widen(Doubles x) { return {x}; }
ALWAYS_INLINE Doubles narrow(const Wide<double>& x) { return x[0]; }
#if defined(__AVX512F__)
ALWAYS_INLINE Wide<float> widen(Vec<float> x) {
  return {(Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x)),
          (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1))};
}
ALWAYS_INLINE Vec<float> narrow(const Wide<float>& x) {
  const __m512 out = _mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)x[0]));
  return (Vec<float>)_mm512_insertf32x8(out, _mm512_cvtpd_ps((__m512d)x[1]), 1);
}
#else
typedef float HalfVector __attribute__((vector_size(kBytes / 2)));
ALWAYS_INLINE Wide<float> widen(Vec<float> x) {
  HalfVector halves[2];
  std::memcpy(halves, &x, kBytes);
  return {__builtin_convertvector(halves[0], Doubles), __builtin_convertvector(halves[1], Doubles)};
}
ALWAYS_INLINE Vec<float> narrow(const Wide<float>& x) {
  const HalfVector halves[2] = {__builtin_convertvector(x[0], HalfVector),
                                __builtin_convertvector(x[1], HalfVector)};
  Vec<float> out;
  std::memcpy(&out, halves, kBytes);
  return out;
}
#endif

}  // namespace simd
