// Vectors of 64 bytes by the compiler's own extension: one source for every instruction set.
// Where a register is narrower the compiler splits them; the file is compiled once a level.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// Vectors that pass through a real call go by memory; everything small is inlined.
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace simd {

template <class T>
struct Traits;
template <>
struct Traits<float> {
  using Int = int32_t;
  typedef float Vector __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
};
template <>
struct Traits<double> {
  using Int = int64_t;
  typedef double Vector __attribute__((vector_size(64)));
  typedef int64_t Ints __attribute__((vector_size(64)));
};

template <class T>
constexpr int lanes = 64 / sizeof(T);
template <class T>
using Vec = typename Traits<T>::Vector;
template <class T>
using IntVec = typename Traits<T>::Ints;
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint64_t LongWords __attribute__((vector_size(64)));
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

typedef uint16_t ShortWords __attribute__((vector_size(32)));
typedef float16 Halves __attribute__((vector_size(32)));

template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from) {
  Vec<T> out;
  if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(&out, from, 64);
    return out;
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    ShortWords bits;
    std::memcpy(&bits, from, 32);
    return bits_of<Vec<float>>(__builtin_convertvector(bits, Words) << 16);
  } else {
    Halves halves;
    std::memcpy(&halves, from, 32);
    return __builtin_convertvector(halves, Vec<float>);
  }
}

template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from, int64_t count, T rest) {
  if (count >= lanes<T>) return load<T>(from);
  Vec<T> out = broadcast(rest);
  for (int i = 0; i < count; ++i) out[i] = widen(from[i]);
  return out;
}

template <class S, class V>
ALWAYS_INLINE void store(S* to, V x, int64_t count) {
  using T = Lane<V>;
  if (count < lanes<T>) {
    for (int i = 0; i < count; ++i) to[i] = narrow<S>(x[i]);
  } else if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(to, &x, 64);
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    const Words bits = bits_of<Words>(x);
    const Words even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
    const auto out = __builtin_convertvector(x == x ? even : nan, ShortWords);
    std::memcpy(to, &out, 32);
  } else {
    const auto out = __builtin_convertvector(x, Halves);
    std::memcpy(to, &out, 32);
  }
}

// Whether each lane is true, as bytes.
template <class I>
ALWAYS_INLINE void store_bytes(uint8_t* to, I truth, int64_t count) {
  constexpr int n = sizeof(I) / sizeof(truth[0]);
  typedef int8_t Each __attribute__((vector_size(n)));
  const Each bytes = __builtin_convertvector(-truth, Each);
  std::memcpy(to, &bytes, count < n ? count : n);
}

template <class T>
ALWAYS_INLINE IntVec<T> load_bytes(const uint8_t* from, int64_t count) {
  typedef int8_t Each __attribute__((vector_size(lanes<T>)));
  Each bytes{};
  std::memcpy(&bytes, from, count < lanes<T> ? count : lanes<T>);
  return __builtin_convertvector(bytes, IntVec<T>);
}

// ---- across lanes ----

template <class V>
ALWAYS_INLINE V max(V a, V b) {
  return a > b ? a : b;  // a NaN in a gives b: NaNs are found by their sums
}

template <class V>
ALWAYS_INLINE Lane<V> largest(V x) {
  Lane<V> out = x[0];
  for (int i = 1; i < lanes<Lane<V>>; ++i) out = x[i] > out ? x[i] : out;
  return out;
}

ALWAYS_INLINE double sum(Doubles x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

// The lower and the upper eight lanes, in double precision.
#if defined(__AVX512F__)
ALWAYS_INLINE Doubles low(Vec<float> x) {
  return (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x));
}
ALWAYS_INLINE Doubles high(Vec<float> x) {
  return (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1));
}
#else
typedef float HalfVector __attribute__((vector_size(32)));
ALWAYS_INLINE Doubles low(Vec<float> x) {
  const HalfVector half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_convertvector(half, Doubles);
}
ALWAYS_INLINE Doubles high(Vec<float> x) {
  const HalfVector half = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_convertvector(half, Doubles);
}
#endif

// ---- exp and log ----

// p 2^n, which may be subnormal or 0.
ALWAYS_INLINE Vec<float> scale(Vec<float> p, Vec<float> n) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const IntVec<float> k = __builtin_convertvector(n, IntVec<float>), half = k >> 1;
  const IntVec<float> first = (half + 127) << 23, second = (k - half + 127) << 23;
  return p * bits_of<Vec<float>>(first) * bits_of<Vec<float>>(second);
#endif
}

// 1 / x to the last digit but one, for x far from the ends of the range.
ALWAYS_INLINE Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> guess = (Vec<float>)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}
ALWAYS_INLINE Vec<double> reciprocal(Vec<double> x) { return 1.0 / x; }

// The exponential, of at most 88: 2^n e^r with |r| <= ln 2 / 2, e^r to 4e-9.
ALWAYS_INLINE Vec<float> exp(Vec<float> x) {
  x = x < -104.0f ? broadcast(-104.0f) : x;
  const Vec<float> n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  Vec<float> r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  Vec<float> p = broadcast(0.00137512791f);
  p = p * r + 0.00836895178f;
  p = p * r + 0.0416695387f;
  p = p * r + 0.166665182f;
  p = p * r + 0.499999886f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return scale(p, n);
}

// The logarithm: x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), log(1 + f) to 7e-9.
ALWAYS_INLINE Vec<float> log(Vec<float> x) {
  const Vec<float> given = x;
  const auto small = x < std::numeric_limits<float>::min();
  x = small ? x * 8388608.0f : x;
  const IntVec<float> bits = bits_of<IntVec<float>>(x), k = (bits - 0x3f3504f3) >> 23;
  const Vec<float> f = bits_of<Vec<float>>(bits - (k << 23)) - 1.0f;
  Vec<float> q = broadcast(-0.0736285787f);
  q = q * f + 0.126203273f;
  q = q * f - 0.132021042f;
  q = q * f + 0.14227114f;
  q = q * f - 0.166213699f;
  q = q * f + 0.199998266f;
  q = q * f - 0.250008519f;
  q = q * f + 0.33333354f;
  const Vec<float> converted = __builtin_convertvector(k, Vec<float>);
  const Vec<float> e = small ? converted - 23.0f : converted, f2 = f * f;
  const Vec<float> rest = f2 * (f * q - 0.5f) + e * 1.42860677e-6f;
  Vec<float> out = e * 0.693145752f + (f + rest);
  const float infinity = std::numeric_limits<float>::infinity();
  out = given == 0.0f ? broadcast(-infinity) : out;
  out = given < 0.0f ? broadcast(std::numeric_limits<float>::quiet_NaN()) : out;
  return given < infinity ? out : given;  // infinity and NaN are their own logarithms
}

ALWAYS_INLINE Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}
ALWAYS_INLINE Vec<double> log(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

// s = sigmoid(x) and rest = sigmoid(-x), both to their last digit.
template <class V>
ALWAYS_INLINE void sigmoids(V x, V& s, V& rest) {
  using T = Lane<V>;
  const V e = exp(x < T(0) ? x : -x), one = reciprocal(T(1) + e);
  s = x < T(0) ? e * one : one;
  rest = x < T(0) ? one : e * one;
  s = x == x ? s : x;
  rest = x == x ? rest : x;
}

// log(1 - u) for u in (0, 1), exact near 0 too: what rounding took from 1 - u is put back.
template <class V>
ALWAYS_INLINE V log1m(V u) {
  using T = Lane<V>;
  const V w = T(1) - u, lost = u - (T(1) - w);
  return log(w) - (lost + lost * u);
}

}  // namespace simd
