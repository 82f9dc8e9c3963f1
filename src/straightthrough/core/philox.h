// Philox4x32-10, the words and the meaning of the counter as in noise.py, sixteen blocks at once.
#pragma once
#include "simd.h"

namespace philox {

using simd::Words;

constexpr uint32_t kDraw = 0, kConditional = 1;

struct Block {
  Words w[4];
};

// The high and the low halves of the sixteen products of 32-bit words.
ALWAYS_INLINE void multiply(Words a, uint32_t m, Words& high, Words& low) {
  using Wide = simd::LongWords;
  const Wide even_in = simd::bits_of<Wide>(a) & 0xffffffffu;
  const Wide odd_in = simd::bits_of<Wide>(a) >> 32;
  Wide even, odd;
#if defined(__AVX512F__)
  even = (Wide)_mm512_mul_epu32((__m512i)even_in, _mm512_set1_epi64(m));
  odd = (Wide)_mm512_mul_epu32((__m512i)odd_in, _mm512_set1_epi64(m));
#else
  even = even_in * static_cast<uint64_t>(m);
  odd = odd_in * static_cast<uint64_t>(m);
#endif
  const Wide lows = (even & 0xffffffffu) | (odd << 32);
  const Wide highs = (even >> 32) | (odd & 0xffffffff00000000u);
  low = simd::bits_of<Words>(lows);
  high = simd::bits_of<Words>(highs);
}

ALWAYS_INLINE Block blocks(uint64_t seed, Words c0, Words c1, Words c2, Words c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Words high0, low0, high1, low1;
    multiply(c0, 0xD2511F53u, high0, low0);
    multiply(c2, 0xCD9E8D57u, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
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
  return __builtin_shuffle(a, b,
                           simd::IntVec<float>{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
ALWAYS_INLINE simd::Vec<float> interleave_high(simd::Vec<float> a, simd::Vec<float> b) {
  return __builtin_shuffle(
      a, b, simd::IntVec<float>{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
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
