// Philox4x32-10, the words and the meaning of the counter as in noise.py, sixteen blocks at once.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "simd.h"

namespace philox {

using simd::LongWords;
using simd::Words;

constexpr uint32_t kDraw = 0, kConditional = 1;

struct Block {
  Words w[4];
};

// The 64-bit products of the lower halves of the lanes.
ALWAYS_INLINE LongWords products(LongWords a, uint32_t m) {
#if defined(__AVX512F__)
  return (LongWords)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
  __m256i parts[2];
  std::memcpy(parts, &a, 64);
  for (auto& part : parts) part = _mm256_mul_epu32(part, _mm256_set1_epi64x(m));
  std::memcpy(&a, parts, 64);
  return a;
#elif defined(__SSE2__)
  __m128i parts[4];
  std::memcpy(parts, &a, 64);
  for (auto& part : parts) part = _mm_mul_epu32(part, _mm_set1_epi64x(m));
  std::memcpy(&a, parts, 64);
  return a;
#else
  return (a & 0xffffffffu) * static_cast<uint64_t>(m);
#endif
}

// Eight blocks, a word in the lower half of each lane; the upper halves hold what products leave.
struct Eight {
  LongWords c0, c1, c2, c3;

  ALWAYS_INLINE void round(uint32_t k0, uint32_t k1) {
    const LongWords p0 = products(c0, 0xD2511F53u), p1 = products(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c3 = p0;
  }
};

ALWAYS_INLINE LongWords even(Words w) { return simd::bits_of<LongWords>(w); }
ALWAYS_INLINE LongWords odd(Words w) { return simd::bits_of<LongWords>(w) >> 32; }
ALWAYS_INLINE Words together(LongWords even, LongWords odd) {
  return simd::bits_of<Words>((even & 0xffffffffu) | (odd << 32));
}

ALWAYS_INLINE Block blocks(uint64_t seed, Words c0, Words c1, Words c2, Words c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  Eight a{even(c0), even(c1), even(c2), even(c3)}, b{odd(c0), odd(c1), odd(c2), odd(c3)};
  for (int round = 0; round < 10; ++round) {
    a.round(k0, k1);
    b.round(k0, k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{together(a.c0, b.c0), together(a.c1, b.c1), together(a.c2, b.c2), together(a.c3, b.c3)}};
}

ALWAYS_INLINE Words iota(uint32_t first) {
  Words out;
  for (int i = 0; i < 16; ++i) out[i] = first + i;
  return out;
}

// The blocks of sixteen positions from `first` on.
ALWAYS_INLINE Block at_positions(uint64_t seed, int64_t first, uint32_t group, uint32_t tag) {
  Words low, high;
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<uint32_t>(first + i);
    high[i] = static_cast<uint32_t>(static_cast<uint64_t>(first + i) >> 32);
  }
  return blocks(seed, low, high, Words{} + group, Words{} + tag);
}

// The blocks of sixteen groups of classes of one row, from `group` on.
ALWAYS_INLINE Block at_groups(uint64_t seed, int64_t row, uint32_t group, uint32_t tag) {
  const uint64_t position = static_cast<uint64_t>(row);
  return blocks(seed, Words{} + static_cast<uint32_t>(position),
                Words{} + static_cast<uint32_t>(position >> 32), iota(group), Words{} + tag);
}

// Odd multiples of 2^-53 in (0, 1).
ALWAYS_INLINE double unit53(uint32_t high, uint32_t low) {
  const uint64_t bits = ((static_cast<uint64_t>(high) << 20) ^ (low >> 12)) << 1 | 1;
  return static_cast<double>(bits) * 0x1p-53;
}

ALWAYS_INLINE simd::Vec<float> unit24(Words w) {
  const simd::Vec<float> u = (__builtin_convertvector(w, simd::Vec<float>) + 0.5f) * 0x1p-32f;
  const simd::Vec<float> most = simd::broadcast(1.0f - 0x1p-24f);
  return u < most ? u : most;
}

// The uniforms that sixteen blocks hold, in order: 64 in single precision, 32 in double.
template <class T>
constexpr int per_block = sizeof(T) == 4 ? 4 : 2;
template <class T>
constexpr int per_sixteen = 16 * per_block<T>;

ALWAYS_INLINE simd::Vec<float> interleave_low(simd::Vec<float> a, simd::Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
ALWAYS_INLINE simd::Vec<float> interleave_high(simd::Vec<float> a, simd::Vec<float> b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

ALWAYS_INLINE void uniforms(const Block& b, float* to) {
  const simd::Vec<float> w0 = unit24(b.w[0]), w1 = unit24(b.w[1]);
  const simd::Vec<float> w2 = unit24(b.w[2]), w3 = unit24(b.w[3]);
  const simd::Vec<float> even_low = interleave_low(w0, w2), odd_low = interleave_low(w1, w3);
  const simd::Vec<float> even_high = interleave_high(w0, w2), odd_high = interleave_high(w1, w3);
  const simd::Vec<float> out[4] = {
      interleave_low(even_low, odd_low), interleave_high(even_low, odd_low),
      interleave_low(even_high, odd_high), interleave_high(even_high, odd_high)};
  std::memcpy(to, out, sizeof(out));
}

ALWAYS_INLINE void uniforms(const Block& b, double* to) {
  for (int i = 0; i < 16; ++i) {
    to[2 * i] = unit53(b.w[0][i], b.w[1][i]);
    to[2 * i + 1] = unit53(b.w[2][i], b.w[3][i]);
  }
}

}  // namespace philox
