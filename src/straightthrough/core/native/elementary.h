// exp, log and the logistic function of vectors, to their last digit but one.
#pragma once
#include "coefficients.h"
#include "simd.h"

namespace simd {

// Added and taken away again, it leaves a float rounded to a whole number: it is 1.5 2^23, beside
// which the last digit is worth 1, for negative numbers too. Beside 1.5 2^18 it is worth 1/32.
constexpr float kToWholes = 1.5f * 0x1p23f, kToRoots = 1.5f * 0x1p23f / kRoots;
// Where e^x becomes 0 in single precision, and up to where it is no infinity.
constexpr float kVanishing = -104.0f, kLargestExponent = 88.0f;
// The exponent of a float stands above its fraction, and is its own plus the bias.
constexpr int kFractionBits = 23, kBias = 127;

template <class V, class T, size_t count>
ALWAYS_INLINE V polynomial(const T (&coefficients)[count], V x) {
  V p = broadcast(coefficients[0]);
#pragma GCC unroll 16
  for (size_t i = 1; i < count; ++i) p = p * x + coefficients[i];
  return p;
}

// e^x = p 2^n, which may be subnormal. Where it is 0 no subnormal comes up on the way there: some
// processors take two hundred cycles over one.
ALWAYS_INLINE Vec<float> scale(Vec<float> p, Vec<float> n, Vec<float> x) {
#if defined(__AVX512F__)
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(kVanishing), _CMP_NLE_UQ);
  return (Vec<float>)_mm512_maskz_scalef_ps(above, (__m512)p, (__m512)n);
#else
  const IntVec<float> k = __builtin_convertvector(n, IntVec<float>), half = k >> 1;
  const IntVec<float> first = (half + kBias) << kFractionBits;
  const IntVec<float> second = (k - half + kBias) << kFractionBits;
  return p * bits_of<Vec<float>>(x > kVanishing ? first : 0) * bits_of<Vec<float>>(second);
#endif
}

// The exponential, of at most kLargestExponent: 2^n e^r with |r| <= log 2 / 2.
ALWAYS_INLINE Vec<float> exp(Vec<float> x) {
#if !defined(__AVX512F__)
  x = at_least(kVanishing, x);
#endif
  const Vec<float> n = (x * kLog2E + kToWholes) - kToWholes;
  Vec<float> r = x - n * kLn2First;
  r = r - n * kLn2Rest;
  return scale((polynomial(kExp, r) * r + 1.0f) * r + 1.0f, n, x);
}

constexpr uint32_t kBitsOfRootHalf = 0x3f3504f3;  // of the float sqrt(1/2)

// The logarithm of a normal number above 0, plus `more` times log 2: x = 2^k (1 + f) with 1 + f in
// [sqrt(1/2), sqrt(2)).
ALWAYS_INLINE Vec<float> log_normal(Vec<float> x, Vec<float> more = Vec<float>{}) {
  const Words bits = bits_of<Words>(x);
  const IntVec<float> k = bits_of<IntVec<float>>(bits - kBitsOfRootHalf) >> kFractionBits;
  const Vec<float> f = bits_of<Vec<float>>(bits - (bits_of<Words>(k) << kFractionBits)) - 1.0f;
  const Vec<float> e = __builtin_convertvector(k, Vec<float>) + more, f2 = f * f;
  const Vec<float> tail = f2 * (f * polynomial(kLog, f) - 0.5f) + e * kLn2Rest;
  return e * kLn2First + (f + tail);
}

ALWAYS_INLINE Vec<float> log(Vec<float> argument) {
  const auto small = argument < std::numeric_limits<float>::min();
  const Vec<float> x = small ? argument * 0x1p23f : argument;  // a normal number
  Vec<float> out = log_normal(x, small ? broadcast(-23.0f) : Vec<float>{});
  const float infinity = std::numeric_limits<float>::infinity();
  out = argument == 0.0f ? broadcast(-infinity) : out;
  out = argument < 0.0f ? broadcast(std::numeric_limits<float>::quiet_NaN()) : out;
  return argument < infinity ? out : argument;  // infinity and NaN are their own logarithms
}

// In double precision the terms of Taylor's series are few enough.
constexpr double kToWholesOfDouble = 1.5 * 0x1p52, kVanishingInDouble = -745.2;
constexpr int kFractionBitsOfDouble = 52, kBiasOfDouble = 1023;

ALWAYS_INLINE Vec<double> exp(Vec<double> x) {
  constexpr double log2_e = 1.4426950408889634;
  constexpr double inverse_factorials[] = {
      1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0,
      1 / 5040.0,       1 / 720.0,       1 / 120.0,      1 / 24.0,      1 / 6.0,      1 / 2.0,
      1.0,              1.0};
  x = at_least(kVanishingInDouble, x);
  const Vec<double> shifted = x * log2_e + kToWholesOfDouble, n = shifted - kToWholesOfDouble;
  const Vec<double> r = (x - n * kLn2InTwo[0]) - n * kLn2InTwo[1];
  const auto k = bits_of<IntVec<double>>(shifted) - bits_of<int64_t>(kToWholesOfDouble);
  const IntVec<double> half = k >> 1, first = (half + kBiasOfDouble) << kFractionBitsOfDouble;
  const IntVec<double> second = (k - half + kBiasOfDouble) << kFractionBitsOfDouble;
  return polynomial(inverse_factorials, r) *
         bits_of<Vec<double>>(x > kVanishingInDouble ? first : 0) * bits_of<Vec<double>>(second);
}

// log(1 + f) = 2 artanh(f / (2 + f)).
ALWAYS_INLINE Vec<double> log_normal(Vec<double> x) {
  constexpr uint64_t bits_of_root_half = 0x3fe6a09e667f3bcd;
  constexpr double odd[] = {1 / 21.0, 1 / 19.0, 1 / 17.0, 1 / 15.0, 1 / 13.0, 1 / 11.0,
                            1 / 9.0,  1 / 7.0,  1 / 5.0,  1 / 3.0};
  const LongWords bits = bits_of<LongWords>(x);
  const auto k = bits_of<IntVec<double>>(bits - bits_of_root_half) >> kFractionBitsOfDouble;
  const auto whole = bits_of<Vec<double>>(k + bits_of<int64_t>(kToWholesOfDouble));
  const Vec<double> exponent = whole - kToWholesOfDouble;
  const LongWords fraction = bits - (bits_of<LongWords>(k) << kFractionBitsOfDouble);
  const Vec<double> f = bits_of<Vec<double>>(fraction) - 1.0, s = f / (f + 2.0), s2 = s * s;
  const Vec<double> tail = s2 * s * polynomial(odd, s2) * 2.0 + exponent * kLn2InTwo[1];
  return exponent * kLn2InTwo[0] + (2.0 * s + tail);
}
ALWAYS_INLINE Vec<double> log(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

// The exponential, of at most kLargestExponent, to within kRoughly of itself where a table makes
// that cheaper.
#if defined(__AVX512F__)
template <class T>
constexpr T kRoughly = sizeof(T) == 4 ? 0x1p-15f : 0;

constexpr std::array<float, kRoots> kPowersOfRoot = [] {
  std::array<float, kRoots> powers{};
  double power = kShare;
  for (float& x : powers) x = static_cast<float>(power), power *= kRoot;
  return powers;
}();

// 2^(k / 32) (1 + r) with |r| <= log 2 / 64.
ALWAYS_INLINE Vec<float> rough_exp(Vec<float> x) {
  x = at_least(kVanishing, x);
  const Vec<float> shifted = x * kLog2E + kToRoots, n = shifted - kToRoots;  // k in the last 5 bits
  const __m512 low = _mm512_loadu_ps(&kPowersOfRoot[0]);
  const __m512 high = _mm512_loadu_ps(&kPowersOfRoot[lanes<float>]);
  const auto root = (Vec<float>)_mm512_permutex2var_ps(low, (__m512i)shifted, high);
  const Vec<float> p = root * (x - n * kLn2) + root;
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)n);
}
ALWAYS_INLINE Vec<double> rough_exp(Vec<double> x) { return exp(x); }
#else
template <class T>
constexpr T kRoughly = 0;
template <class V>
ALWAYS_INLINE V rough_exp(V x) {
  return exp(x);
}
#endif

template <class V>
struct ValueAndSlope {
  V value, slope;
};

// sigmoid(x) and its derivative, sigmoid(x) sigmoid(-x), both to their last digit.
template <class V>
ALWAYS_INLINE ValueAndSlope<V> sigmoid(V x) {
  using T = Lane<V>;
  const V e = exp(-absolute(x)), one = T(1) / (T(1) + e), other = e * one;
  return {x < T(0) ? other : one, one * other};
}

// log(1 - u) for u in (0, 1), exact near 0 too: what rounding took from 1 - u is put back.
template <class V>
ALWAYS_INLINE V log1m(V u) {
  using T = Lane<V>;
  const V w = T(1) - u, lost = u - (T(1) - w);
  return log_normal(w) - (lost + lost * u);
}

}  // namespace simd
