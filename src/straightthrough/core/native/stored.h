// Elements as tensors store them: half precision is widened on the way in and rounded to even on
// the way out.
#pragma once
#include <torch/headeronly/util/BFloat16.h>

#include "simd.h"

namespace simd {

// torch's type, and its widening. Rounding is ours: torch's makes one NaN of all of them, and where
// a forward hands its input on a NaN stays as it is.
using torch::headeronly::BFloat16;
// The compiler's type, whose vectors it converts where no instruction does; torch's has none.
#if defined(__aarch64__)
using Float16 = __fp16;  // GCC 12 has no _Float16 there
#else
using Float16 = _Float16;
#endif

ALWAYS_INLINE float widen(float x) { return x; }
ALWAYS_INLINE double widen(double x) { return x; }
ALWAYS_INLINE float widen(Float16 x) { return static_cast<float>(x); }
ALWAYS_INLINE float widen(BFloat16 x) { return static_cast<float>(x); }

// A bfloat16 is the upper half of the word of a float. Added to the lower half, what is just below
// half of it carries where it is more than half; the bit that makes a NaN quiet keeps it a NaN.
constexpr uint32_t kBelowHalf = 0x7fff, kQuiet = 0x40;

template <class Word>
ALWAYS_INLINE Word rounded_to_even(Word bits) {
  return (bits + kBelowHalf + ((bits >> 16) & 1)) >> 16;
}
template <class Word>
ALWAYS_INLINE Word quiet_nan(Word bits) {
  return (bits >> 16) | kQuiet;
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
ALWAYS_INLINE BFloat16 narrow<BFloat16>(float x) {
  const auto bits = bits_of<uint32_t>(x);
  const uint32_t out = x == x ? rounded_to_even(bits) : quiet_nan(bits);
  return {static_cast<uint16_t>(out), BFloat16::from_bits()};
}

// The largest number of a dtype of half precision.
template <class S>
constexpr float kMost = 65504.0f;
template <>
constexpr float kMost<BFloat16> = 0x1.fep127f;

typedef Float16 Float16Vector __attribute__((vector_size(kBytes / 2)));

// GCC 12 converts half precision element by element.
#if defined(__AVX512F__)
ALWAYS_INLINE Vec<float> widen(Float16Vector x) { return (Vec<float>)_mm512_cvtph_ps((__m256i)x); }
ALWAYS_INLINE Float16Vector narrow(Vec<float> x) {
  return (Float16Vector)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
ALWAYS_INLINE Vec<float> widen(Float16Vector x) { return (Vec<float>)_mm256_cvtph_ps((__m128i)x); }
ALWAYS_INLINE Float16Vector narrow(Vec<float> x) {
  return (Float16Vector)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
}
#else
ALWAYS_INLINE Vec<float> widen(Float16Vector x) { return __builtin_convertvector(x, Vec<float>); }
ALWAYS_INLINE Float16Vector narrow(Vec<float> x) {
  return __builtin_convertvector(x, Float16Vector);
}
#endif

template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from) {
  Vec<T> out;
  if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(&out, from, kBytes);
    return out;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    ShortWords bits;
    std::memcpy(&bits, from, kBytes / 2);
    return bits_of<Vec<float>>(widen(bits) << 16);
  } else {
    Float16Vector stored;
    std::memcpy(&stored, from, kBytes / 2);
    return widen(stored);
  }
}

// The first `count` elements, then `rest`.
template <class T, class S>
ALWAYS_INLINE Vec<T> load(const S* from, int64_t count, T fill) {
  if (count >= lanes<T>) return load<T>(from);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>)
    return (Vec<T>)_mm512_mask_loadu_ps((__m512)broadcast(fill), (1u << count) - 1, from);
#endif
  Vec<T> out = broadcast(fill);
  for (int i = 0; i < count; ++i) out[i] = widen(from[i]);
  return out;
}

// A gradient in the range of S, what is finite and beyond it as its largest number.
template <class S, class V>
ALWAYS_INLINE V saturated(V x) {
  if constexpr (sizeof(S) == sizeof(Lane<V>)) {
    return x;
  } else {
#if defined(__AVX512DQ__)
    constexpr int of_smaller_size = 2, infinite_or_nan = 0x99;
    const __m512 near = _mm512_range_ps((__m512)x, _mm512_set1_ps(kMost<S>), of_smaller_size);
    const __mmask16 as_it_is = _mm512_fpclass_ps_mask((__m512)x, infinite_or_nan);
    return (V)_mm512_mask_mov_ps(near, as_it_is, (__m512)x);
#else
    return within(kMost<S>, x, x);
#endif
  }
}

// Where S holds x exactly, nothing needs to be rounded.
template <class S, bool exact = false, class V>
ALWAYS_INLINE void store(S* to, V x, int64_t count) {
  using T = Lane<V>;
  if (count < lanes<T>) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<S, float>)
      return _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)x);
#endif
    for (int i = 0; i < count; ++i) to[i] = narrow<S>(x[i]);
  } else if constexpr (sizeof(S) == sizeof(T)) {
    std::memcpy(to, &x, kBytes);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    const Words bits = bits_of<Words>(x);
    const ShortWords out =
        narrow(exact ? bits >> 16 : x == x ? rounded_to_even(bits) : quiet_nan(bits));
    std::memcpy(to, &out, kBytes / 2);
  } else {
    const Float16Vector out = narrow(x);
    std::memcpy(to, &out, kBytes / 2);
  }
}

// ---- what kernels read and write ----

// So many elements on is fetched while there is more to compute than to read or to write.
template <class S>
constexpr int64_t kAhead = 4096 / sizeof(S);

template <class T, class S>
struct Reader {
  const S* from;
  T fill;  // what an incomplete vector has beyond its last element

  // Element i and those after it, of which there are `count`.
  template <class Count>
  ALWAYS_INLINE Vec<T> get(int64_t i, Count count) const {
    return load<T>(from + i, count, fill);
  }
  // The same where all elements are read in order.
  template <class Count>
  ALWAYS_INLINE Vec<T> next(int64_t i, Count count) const {
    fetch(i + kAhead<S>);
    return get(i, count);
  }
  ALWAYS_INLINE void fetch(int64_t i) const { __builtin_prefetch(from + i); }
};

template <class T, class S, bool exact = false>
struct Writer {
  S* to;

  // The first `count` elements of `x`, to element i and those after it.
  template <class Count>
  ALWAYS_INLINE void put(int64_t i, Vec<T> x, Count count) const {
    store<S, exact>(to + i, x, count);
  }
  // The same where all elements are written in order: the memory that comes next is fetched too, in
  // vain, but in time.
  template <class Count>
  ALWAYS_INLINE void next(int64_t i, Vec<T> x, Count count) const {
    fetch(i + kAhead<S>);
    put(i, x, count);
  }
  ALWAYS_INLINE void fetch(int64_t i) const { __builtin_prefetch(to + i, 1); }
};

}  // namespace simd
