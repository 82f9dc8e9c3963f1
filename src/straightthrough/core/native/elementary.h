// exp, log and the logistic function of vectors, to their last digit but one.
#pragma once
#include "simd.h"

namespace simd {

// e^x = p 2^n, which may be subnormal. Where it is 0 no subnormal comes up on the way there: some
// processors take two hundred cycles over one.
ALWAYS_INLINE Vec<float> scale(Vec<float> p, Vec<float> n, Vec<float> x) {
#if defined(__AVX512F__)
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-104), _CMP_NLE_UQ);
  return (Vec<float>)_mm512_maskz_scalef_ps(above, (__m512)p, (__m512)n);
#else
  const IntVec<float> k = __builtin_convertvector(n, IntVec<float>), half = k >> 1;
  const IntVec<float> first = (half + 127) << 23, second = (k - half + 127) << 23;
  return p * bits_of<Vec<float>>(x > -104.0f ? first : 0) * bits_of<Vec<float>>(second);
#endif
}

// The exponential, of at most 88: 2^n e^r with |r| <= ln 2 / 2, e^r to 4e-9.
ALWAYS_INLINE Vec<float> exp(Vec<float> x) {
#if !defined(__AVX512F__)
  x = at_least(-104.0f, x);
#endif
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
  return scale(p, n, x);
}

// The logarithm of a normal number above 0, plus `more` times log 2: x = 2^k (1 + f) with 1 + f in
// [sqrt(1/2), sqrt(2)), log(1 + f) to 7e-9.
ALWAYS_INLINE Vec<float> log_normal(Vec<float> x, Vec<float> more = Vec<float>{}) {
  const Words bits = bits_of<Words>(x);
  const IntVec<float> k = bits_of<IntVec<float>>(bits - 0x3f3504f3u) >> 23;
  const Vec<float> f = bits_of<Vec<float>>(bits - (bits_of<Words>(k) << 23)) - 1.0f;
  Vec<float> q = broadcast(-0.0736285787f);
  q = q * f + 0.126203273f;
  q = q * f - 0.132021042f;
  q = q * f + 0.14227114f;
  q = q * f - 0.166213699f;
  q = q * f + 0.199998266f;
  q = q * f - 0.250008519f;
  q = q * f + 0.33333354f;
  const Vec<float> e = __builtin_convertvector(k, Vec<float>) + more, f2 = f * f;
  const Vec<float> rest = f2 * (f * q - 0.5f) + e * 1.42860677e-6f;
  return e * 0.693145752f + (f + rest);
}

ALWAYS_INLINE Vec<float> log(Vec<float> given) {
  const auto small = given < std::numeric_limits<float>::min();
  const Vec<float> x = small ? given * 8388608.0f : given;
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

// The exponential, of at most 88, to within kRoughly of itself where a table makes that cheaper.
#if defined(__AVX512F__)
template <class T>
constexpr T kRoughly = sizeof(T) == 4 ? 0x1p-15f : 0;

constexpr std::array<float, 32> kRoots = [] {  // of 2
  std::array<float, 32> roots{};
  double root = 1.0000293;  // shares out the error of 1 + r
  for (float& x : roots) x = static_cast<float>(root), root *= 1.0218971486541166;
  return roots;
}();

// 2^(k / 32) (1 + r) with |r| <= ln 2 / 64.
ALWAYS_INLINE Vec<float> rough_exp(Vec<float> x) {
  x = at_least(-104.0f, x);
  const Vec<float> shifted = x * 1.44269504f + 393216.0f, n = shifted - 393216.0f;
  const __m512 low = _mm512_loadu_ps(&kRoots[0]), high = _mm512_loadu_ps(&kRoots[16]);
  const auto root = (Vec<float>)_mm512_permutex2var_ps(low, (__m512i)shifted, high);
  const Vec<float> p = root * (x - n * 0.693147181f) + root;
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
