// What comparisons of vectors give, and one bit an element.
#pragma once
#include "simd.h"

namespace simd {

// ---- truth: a bit a lane where the processor has registers for that, else a lane of a vector ----

#if defined(__AVX512F__)
template <class T>
using Truth = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;
ALWAYS_INLINE __mmask16 less(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
}
ALWAYS_INLINE __mmask8 less(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ);
}
ALWAYS_INLINE __mmask16 less_equal(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
}
ALWAYS_INLINE __mmask8 less_equal(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
}
ALWAYS_INLINE __mmask16 same(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
}
ALWAYS_INLINE __mmask8 same(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
}
ALWAYS_INLINE __mmask16 is_nan(Vec<float> x) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
}
ALWAYS_INLINE __mmask8 is_nan(Vec<double> x) {
  return _mm512_cmp_pd_mask((__m512d)x, (__m512d)x, _CMP_UNORD_Q);
}
ALWAYS_INLINE Vec<float> select(__mmask16 truth, Vec<float> yes, Vec<float> no) {
  return (Vec<float>)_mm512_mask_blend_ps(truth, (__m512)no, (__m512)yes);
}
ALWAYS_INLINE Vec<double> select(__mmask8 truth, Vec<double> yes, Vec<double> no) {
  return (Vec<double>)_mm512_mask_blend_pd(truth, (__m512d)no, (__m512d)yes);
}
template <class T>
ALWAYS_INLINE uint32_t bits_of_lanes(Truth<T> truth) {
  return truth;
}
template <class T>
ALWAYS_INLINE Truth<T> lanes_of_bits(uint32_t bits) {
  return static_cast<Truth<T>>(bits);
}
#else
template <class T>
using Truth = IntVec<T>;
template <class V>
ALWAYS_INLINE Truth<Lane<V>> less(V a, V b) {
  return a < b;
}
template <class V>
ALWAYS_INLINE Truth<Lane<V>> less_equal(V a, V b) {
  return a <= b;
}
template <class V>
ALWAYS_INLINE Truth<Lane<V>> same(V a, V b) {
  return a == b;
}
template <class V>
ALWAYS_INLINE Truth<Lane<V>> is_nan(V x) {
  return x != x;
}
template <class V>
ALWAYS_INLINE V select(Truth<Lane<V>> truth, V yes, V no) {
  return truth ? yes : no;
}
template <class T>
ALWAYS_INLINE uint32_t bits_of_lanes(Truth<T> truth) {
#if defined(__AVX2__)
  return sizeof(T) == 4 ? _mm256_movemask_ps((__m256)truth) : _mm256_movemask_pd((__m256d)truth);
#elif defined(__SSE2__)
  return sizeof(T) == 4 ? _mm_movemask_ps((__m128)truth) : _mm_movemask_pd((__m128d)truth);
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes<T>; ++i) bits |= (truth[i] & 1u) << i;
  return bits;
#endif
}
template <class T>
ALWAYS_INLINE Truth<T> lanes_of_bits(uint32_t bits) {
  using I = typename Traits<T>::Int;
  IntVec<T> place;
#pragma GCC unroll 16
  for (int i = 0; i < lanes<T>; ++i) place[i] = I(1) << i;
  return ((IntVec<T>{} + static_cast<I>(bits)) & place) != 0;
}
#endif

// y, but x where that is NaN.
template <class V>
ALWAYS_INLINE V unless_nan(V x, V y) {
#if defined(__AVX512F__)
  constexpr int quiet_or_signalling_as_it_is = 0x11;  // of all kinds of x only these count
  if constexpr (std::is_same_v<V, Vec<float>>)
    return (V)_mm512_fixupimm_ps((__m512)y, (__m512)x,
                                 _mm512_set1_epi32(quiet_or_signalling_as_it_is), 0);
#endif
  return select(is_nan(x), x, y);
}

template <class V>
ALWAYS_INLINE V where(Truth<Lane<V>> truth, double yes, double no) {
  return select(truth, broadcast(Lane<V>(yes)), broadcast(Lane<V>(no)));
}

// The same of the first `count` lanes.
template <class T>
ALWAYS_INLINE uint32_t bits_of_lanes(Truth<T> truth, int64_t count) {
  const uint32_t bits = bits_of_lanes<T>(truth);
  return count < lanes<T> ? bits & ((1u << count) - 1) : bits;
}

// The bits of element i and those after it, out of a bit an element. Vectors of fewer lanes than a
// byte has bits come in order.
template <class T>
ALWAYS_INLINE void store_bits(uint8_t* to, int64_t i, Truth<T> truth, int64_t count) {
  constexpr int n = lanes<T>;
  const uint32_t bits = bits_of_lanes<T>(truth, count);
  if constexpr (n < 8)
    to[i / 8] = static_cast<uint8_t>((i % 8 ? to[i / 8] : 0) | bits << i % 8);
  else
    std::memcpy(to + i / 8, &bits, count < n ? (count + 7) / 8 : n / 8);
}
template <class T>
ALWAYS_INLINE Truth<T> load_bits(const uint8_t* from, int64_t i, int64_t count) {
  constexpr int n = lanes<T>;
  uint32_t bits = 0;
  if constexpr (n < 8)
    bits = from[i / 8] >> i % 8;
  else
    std::memcpy(&bits, from + i / 8, count < n ? (count + 7) / 8 : n / 8);
  return lanes_of_bits<T>(bits);
}

}  // namespace simd
