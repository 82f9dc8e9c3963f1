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

template <class V, size_t count>
ALWAYS_INLINE V polynomial(const float (&coefficients)[count], V x) {
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
  const Vec<float> rest = f2 * (f * polynomial(kLog, f) - 0.5f) + e * kLn2Rest;
  return e * kLn2First + (f + rest);
}

ALWAYS_INLINE Vec<float> log(Vec<float> given) {
  const auto small = given < std::numeric_limits<float>::min();
  const Vec<float> x = small ? given * 0x1p23f : given;  // a normal number
  Vec<float> out = log_normal(x, small ? broadcast(-23.0f) : Vec<float>{});
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
ALWAYS_INLINE Vec<double> log_normal(Vec<double> x) { return log(x); }

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
