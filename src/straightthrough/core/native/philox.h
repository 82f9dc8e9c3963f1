// Philox4x32-10, the words and the meaning of the counter as in noise.py, a block a lane.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "simd.h"

namespace philox {

using simd::bits_of;
using simd::LongWords;
using simd::Words;

constexpr uint32_t kDraw = 0, kConditional = 1;
constexpr int kLanes = simd::lanes<float>;

// The stream of sample k of an average over conditional draws.
inline uint32_t conditional(int64_t k) {
  constexpr int64_t streams = 256;
  return static_cast<uint32_t>(kConditional + streams * k);
}

// Of Philox: what the words are multiplied by, what is added to the key after a round, and how
// many.
constexpr uint32_t kMultipliers[] = {0xD2511F53, 0xCD9E8D57};
constexpr uint32_t kWeyl[] = {0x9E3779B9, 0xBB67AE85};
constexpr int kRounds = 10;

// As many counters as a vector has lanes, or what they give: a word of each in a vector.
struct Block {
  Words w[4];
};

// Enough to keep the multipliers busy: one alone waits for its own products.
constexpr int kAtOnce = 2;
using Blocks = std::array<Block, kAtOnce>;

// The 64-bit products of the lower halves of the lanes.
ALWAYS_INLINE LongWords products(LongWords a, uint32_t m) {
#if defined(__AVX512F__)
  return (LongWords)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
  return (LongWords)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
  return (LongWords)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
  return (a & 0xffffffffu) * static_cast<uint64_t>(m);
#endif
}

// Every other counter of a block, each word in the lower half of a lane of 64 bits, as products
// take it; the upper halves hold what products leave.
struct EveryOther {
  LongWords c0, c1, c2, c3;

  ALWAYS_INLINE void round(LongWords k0, LongWords k1) {
    const LongWords p0 = products(c0, kMultipliers[0]), p1 = products(c2, kMultipliers[1]);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c3 = p0;
  }
};

ALWAYS_INLINE LongWords even(Words w) { return bits_of<LongWords>(w); }
ALWAYS_INLINE LongWords odd(Words w) { return bits_of<LongWords>(w) >> 32; }
ALWAYS_INLINE Words interleaved(LongWords even, LongWords odd) {
  return bits_of<Words>((even & 0xffffffffu) | (odd << 32));
}

template <size_t N>
ALWAYS_INLINE std::array<Block, N> blocks(uint64_t seed, const std::array<Block, N>& counters) {
  // What the keys carry beyond their 32 bits falls into the upper halves.
  LongWords k0 = LongWords{} + static_cast<uint32_t>(seed), k1 = LongWords{} + (seed >> 32);
  EveryOther parts[2 * N];
#pragma GCC unroll 4
  for (size_t i = 0; i < N; ++i) {
    const Words* w = counters[i].w;
    parts[2 * i] = {even(w[0]), even(w[1]), even(w[2]), even(w[3])};
    parts[2 * i + 1] = {odd(w[0]), odd(w[1]), odd(w[2]), odd(w[3])};
  }
#pragma GCC unroll 10
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 2 * N; ++i) parts[i].round(k0, k1);
    k0 += kWeyl[0];
    k1 += kWeyl[1];
  }
  std::array<Block, N> out;
#pragma GCC unroll 4
  for (size_t i = 0; i < N; ++i) {
    const EveryOther &a = parts[2 * i], &b = parts[2 * i + 1];
    out[i] = {interleaved(a.c0, b.c0), interleaved(a.c1, b.c1), interleaved(a.c2, b.c2),
              interleaved(a.c3, b.c3)};
  }
  return out;
}

ALWAYS_INLINE Words iota(uint32_t first) {
  Words out{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) out[i] = i;
  return out + first;
}

// The counters of the positions from `first` on.
ALWAYS_INLINE Block positions(int64_t first, uint32_t group, uint32_t tag) {
  const uint64_t position = static_cast<uint64_t>(first);
  const Words low = iota(static_cast<uint32_t>(position));
  const auto carried = low < static_cast<uint32_t>(position);  // -1 where it is
  const Words high = static_cast<uint32_t>(position >> 32) - bits_of<Words>(carried);
  return {low, high, Words{} + group, Words{} + tag};
}

// The counters of the groups of classes of one row from `group` on.
ALWAYS_INLINE Block groups(int64_t row, uint32_t group, uint32_t tag) {
  const uint64_t position = static_cast<uint64_t>(row);
  return {Words{} + static_cast<uint32_t>(position),
          Words{} + static_cast<uint32_t>(position >> 32), iota(group), Words{} + tag};
}

// Odd multiples of 2^-53 in (0, 1).
ALWAYS_INLINE double unit53(uint32_t high, uint32_t low) {
  const uint64_t bits = ((static_cast<uint64_t>(high) << 20) ^ (low >> 12)) << 1 | 1;
  return static_cast<double>(bits) * 0x1p-53;
}

// The same of every lane.
ALWAYS_INLINE std::array<simd::Doubles, 2> unit53(Words high, Words low) {
  typedef uint32_t HalfAsManyWords __attribute__((vector_size(simd::kBytes / 2)));
  const Words lower = low >> 12;
  HalfAsManyWords first[2], second[2];
  std::memcpy(first, &high, sizeof(Words));
  std::memcpy(second, &lower, sizeof(Words));
  std::array<simd::Doubles, 2> out;
  for (int i = 0; i < 2; ++i)
    out[i] = __builtin_convertvector(first[i], simd::Doubles) * 0x1p-32 +
             (__builtin_convertvector(second[i], simd::Doubles) * 0x1p-52 + 0x1p-53);
  return out;
}

ALWAYS_INLINE simd::Vec<float> unit24(Words w) {
  const simd::Vec<float> u = (__builtin_convertvector(w, simd::Vec<float>) + 0.5f) * 0x1p-32f;
  const simd::Vec<float> below_one = simd::broadcast(1.0f - 0x1p-24f);
  return u < below_one ? u : below_one;
}

// The words of all the blocks in order.
ALWAYS_INLINE std::array<Words, 4> in_order(const Block& b) {
  using simd::interleave_high, simd::interleave_low;
  const Words even_low = interleave_low(b.w[0], b.w[2]), odd_low = interleave_low(b.w[1], b.w[3]);
  const Words even_high = interleave_high(b.w[0], b.w[2]);
  const Words odd_high = interleave_high(b.w[1], b.w[3]);
  return {interleave_low(even_low, odd_low), interleave_high(even_low, odd_low),
          interleave_low(even_high, odd_high), interleave_high(even_high, odd_high)};
}

// ---- one uniform a class: four of a block in single precision, two in double ----

template <class T>
constexpr int per_block = sizeof(T) == 4 ? 4 : 2;

// The uniforms that each lane's block holds, one a vector.
template <class T>
ALWAYS_INLINE std::array<simd::Vec<T>, 4> columns(const Block& b) {
  if constexpr (sizeof(T) == 4) {
    return {unit24(b.w[0]), unit24(b.w[1]), unit24(b.w[2]), unit24(b.w[3])};
  } else {
    std::array<simd::Vec<T>, 4> out{};
    for (int i = 0; i < simd::lanes<T>; ++i) {
      out[0][i] = unit53(b.w[0][i], b.w[1][i]);
      out[1][i] = unit53(b.w[2][i], b.w[3][i]);
    }
    return out;
  }
}

// The uniforms of all the blocks in order: four vectors in single or in double precision.
template <class T>
ALWAYS_INLINE std::array<simd::Vec<T>, 4> uniforms(const Block& b) {
  if constexpr (sizeof(T) == 4) {
    const auto [w0, w1, w2, w3] = in_order(b);
    return {unit24(w0), unit24(w1), unit24(w2), unit24(w3)};
  } else {
    const auto even = unit53(b.w[0], b.w[1]), odd = unit53(b.w[2], b.w[3]);
    return {simd::interleave_low(even[0], odd[0]), simd::interleave_high(even[0], odd[0]),
            simd::interleave_low(even[1], odd[1]), simd::interleave_high(even[1], odd[1])};
  }
}

// ---- one uniform an element ----

// In double precision two elements share a block. In single precision eight share two: the upper
// halves of their words, then the lower ones.
template <class T>
constexpr int per_group = sizeof(T) == 4 ? 8 : 2;

// The uniforms of the elements from the first one of `group` on.
template <class T>
ALWAYS_INLINE std::array<simd::Vec<T>, 8> element_uniforms(uint64_t seed, int64_t group,
                                                           uint32_t tag) {
  std::array<simd::Vec<T>, 8> out;
  if constexpr (sizeof(T) == 4) {
    const Blocks halves = blocks(seed, Blocks{positions(group, 0, tag), positions(group, 1, tag)});
    const auto upper = in_order(halves[0]), lower = in_order(halves[1]);
    for (int k = 0; k < 4; ++k) {
      const Words even = upper[k] << 16 | (lower[k] & 0xffff);
      const Words odd = (upper[k] & 0xffff0000) | lower[k] >> 16;
      out[2 * k] = unit24(simd::interleave_low(even, odd));
      out[2 * k + 1] = unit24(simd::interleave_high(even, odd));
    }
  } else {
    const Block first = positions(group, 0, tag), next = positions(group + kLanes, 0, tag);
    const Blocks drawn = blocks(seed, Blocks{first, next});
    for (int k = 0; k < 8; ++k) out[k] = uniforms<T>(drawn[k / 4])[k % 4];
  }
  return out;
}

// The same of one element.
template <class T>
__attribute__((noinline)) T element_uniform(uint64_t seed, int64_t element, uint32_t tag) {
  const int64_t i = element % per_group<T>;
  constexpr int n = simd::lanes<T>;
  return element_uniforms<T>(seed, element / per_group<T>, tag)[i / n][i % n];
}

// What the uniforms are at least, to within kSlack: in single precision the upper halves of the
// words, which decide most draws and are half of the work.
template <class T>
constexpr T kSlack = sizeof(T) == 4 ? 0x1p-16f : 0;

template <class T>
ALWAYS_INLINE auto element_bounds(uint64_t seed, int64_t group, uint32_t tag) {
  if constexpr (sizeof(T) == 8) {
    return element_uniforms<T>(seed, group, tag);
  } else {
    const Block first = positions(group, 0, tag), next = positions(group + kLanes, 0, tag);
    const Blocks drawn = blocks(seed, Blocks{first, next});
    std::array<simd::Vec<T>, 16> out;
    for (int k = 0; k < 8; ++k) {
      simd::ShortWords halves[2];
      std::memcpy(halves, &in_order(drawn[k / 4])[k % 4], sizeof(halves));
      for (int half = 0; half < 2; ++half) {
        const auto whole = bits_of<simd::IntVec<T>>(simd::widen(halves[half]));
        out[2 * k + half] = __builtin_convertvector(whole, simd::Vec<T>) * kSlack<T>;
      }
    }
    return out;
  }
}

}  // namespace philox
