// Vectors of 64 bytes by the compiler's own extension: one source for every instruction set.
// Where a register is narrower the compiler splits them; the file is compiled once a level.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

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
inline To bits_of(From x) {
  To to;
  std::memcpy(&to, &x, sizeof(To));
  return to;
}

template <class T>
inline Vec<T> broadcast(T x) {
  return Vec<T>{} + x;
}

// ---- memory: half precision is widened on the way in and rounded to even on the way out ----

struct bfloat16 {
  uint16_t bits;
};
using float16 = _Float16;

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(float16 x) { return static_cast<float>(x); }
inline float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

template <class S>
inline S narrow(float x) {
  return static_cast<S>(x);
}
template <class S>
inline S narrow(double x) {
  return static_cast<S>(x);
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <class T, class S>
inline Vec<T> load(const S* from) {
  Vec<T> out;
  if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(&out, from, 64);
  } else {
    for (int i = 0; i < lanes<T>; ++i) out[i] = widen(from[i]);
  }
  return out;
}

template <class T, class S>
inline Vec<T> load(const S* from, int64_t count, T rest) {
  if (count >= lanes<T>) return load<T>(from);
  Vec<T> out = broadcast(rest);
  for (int i = 0; i < count; ++i) out[i] = widen(from[i]);
  return out;
}

template <class S, class V>
inline void store(S* to, V x, int64_t count) {
  using T = Lane<V>;
  if constexpr (sizeof(S) == sizeof(T)) {
    if (count >= lanes<T>) {
      std::memcpy(to, &x, 64);
      return;
    }
  }
  const int n = count < lanes<T> ? static_cast<int>(count) : lanes<T>;
  for (int i = 0; i < n; ++i) to[i] = narrow<S>(x[i]);
}

// ---- across lanes ----

template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;  // a NaN in a gives b: NaNs are found by their sums
}

template <class V>
inline Lane<V> largest(V x) {
  Lane<V> out = x[0];
  for (int i = 1; i < lanes<Lane<V>>; ++i) out = x[i] > out ? x[i] : out;
  return out;
}

inline double sum(Doubles x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

typedef float HalfVector __attribute__((vector_size(32)));

inline Doubles low(Vec<float> x) {
  return __builtin_convertvector(bits_of<HalfVector>(x), Doubles);
}
inline Doubles high(Vec<float> x) {
  HalfVector half;
  std::memcpy(&half, reinterpret_cast<const char*>(&x) + 32, 32);
  return __builtin_convertvector(half, Doubles);
}

// ---- exp and log ----

inline Vec<float> exp(Vec<float> x) {
  // 2^n e^r with |r| <= ln 2 / 2; the power of 2 is applied in two halves, so that subnormal
  // results are reached. Inputs are at most 88.
  x = x < -104.0f ? broadcast(-104.0f) : x;
  const Vec<float> n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  Vec<float> r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  Vec<float> p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec<float> k = __builtin_convertvector(n, IntVec<float>);
  const IntVec<float> half = k >> 1;
  const IntVec<float> first = (half + 127) << 23, second = (k - half + 127) << 23;
  return p * bits_of<Vec<float>>(first) * bits_of<Vec<float>>(second);
}

inline Vec<float> log(Vec<float> x) {
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)); positive normal numbers, 0 and infinity.
  const Vec<float> given = x;
  IntVec<float> bits = bits_of<IntVec<float>>(x);
  IntVec<float> k = ((bits - 0x3f3504f3) >> 23);
  bits = bits - (k << 23);
  const Vec<float> f = bits_of<Vec<float>>(bits) - 1.0f;
  const Vec<float> s = f / (2.0f + f);
  const Vec<float> z = s * s;
  Vec<float> p = broadcast(0.24279079f);
  p = p * z + 0.28498787f;
  p = p * z + 0.40000972f;
  p = p * z + 0.66666663f;
  const Vec<float> e = __builtin_convertvector(k, Vec<float>);
  const Vec<float> half = 0.5f * f * f;
  Vec<float> out = e * 0.693145752f - ((half - (s * (half + z * p) + e * 1.42860677e-6f)) - f);
  const float infinity = std::numeric_limits<float>::infinity();
  out = given == 0.0f ? broadcast(-infinity) : out;
  out = given < 0.0f ? broadcast(std::numeric_limits<float>::quiet_NaN()) : out;
  return given < infinity ? out : given;  // infinity and NaN are their own logarithms
}

inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}
inline Vec<double> log(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

// s = sigmoid(x) and rest = sigmoid(-x), both to their last digit.
template <class V>
inline void sigmoids(V x, V& s, V& rest) {
  using T = Lane<V>;
  const V e = exp(x < T(0) ? x : -x), one = T(1) / (T(1) + e);
  s = x < T(0) ? e * one : one;
  rest = x < T(0) ? one : e * one;
  s = x == x ? s : x;
  rest = x == x ? rest : x;
}

// log(1 - u) for u in (0, 1), exact near 0 too: Kahan's correction of the rounded 1 - u.
template <class V>
inline V log1m(V u) {
  using T = Lane<V>;
  const V w = T(1) - u;
  const V corrected = log(w) * (u / (T(1) - w));
  return w == T(1) ? -u : corrected;
}

}  // namespace simd
