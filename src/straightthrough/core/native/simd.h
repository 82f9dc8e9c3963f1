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

typedef uint16_t ShortWords __attribute__((vector_size(kBytes / 2)));

// GCC 12 converts 16-bit words in halves.
#if defined(__AVX512F__)
ALWAYS_INLINE Words widen(ShortWords x) { return (Words)_mm512_cvtepu16_epi32((__m256i)x); }
ALWAYS_INLINE ShortWords narrow(Words x) { return (ShortWords)_mm512_cvtepi32_epi16((__m512i)x); }
#else
ALWAYS_INLINE Words widen(ShortWords x) { return __builtin_convertvector(x, Words); }
ALWAYS_INLINE ShortWords narrow(Words x) { return __builtin_convertvector(x, ShortWords); }
#endif

template <class V>
ALWAYS_INLINE V absolute(V x) {
  using I = typename Traits<Lane<V>>::Int;
  return bits_of<V>(bits_of<IntVec<Lane<V>>>(x) & std::numeric_limits<I>::max());
}

// The size of one vector with the sign of another; it has none itself.
template <class V>
ALWAYS_INLINE V with_sign_of(V x, V size) {
  using I = typename Traits<Lane<V>>::Int;
  using Ints = IntVec<Lane<V>>;
  return bits_of<V>((bits_of<Ints>(x) & std::numeric_limits<I>::min()) | bits_of<Ints>(size));
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
ALWAYS_INLINE V within(Lane<V> bound, V x, V source) {
  const V infinity = broadcast(std::numeric_limits<Lane<V>>::infinity());
  return absolute(source) < infinity ? at_least(-bound, at_most(bound, x)) : x;
}

// The number itself, and not the product that the compiler would join with a sum made of it.
template <class V>
ALWAYS_INLINE V rounded_apart(V x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__SSE2__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
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
typedef float HalfAsManyFloats __attribute__((vector_size(kBytes / 2)));
ALWAYS_INLINE Wide<float> widen(Vec<float> x) {
  HalfAsManyFloats parts[2];
  std::memcpy(parts, &x, kBytes);
  return {__builtin_convertvector(parts[0], Doubles), __builtin_convertvector(parts[1], Doubles)};
}
ALWAYS_INLINE Vec<float> narrow(const Wide<float>& x) {
  const HalfAsManyFloats parts[2] = {__builtin_convertvector(x[0], HalfAsManyFloats),
                                     __builtin_convertvector(x[1], HalfAsManyFloats)};
  Vec<float> out;
  std::memcpy(&out, parts, kBytes);
  return out;
}
#endif

}  // namespace simd
