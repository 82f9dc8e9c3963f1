// What an operator is given, refused where its kernel can't read it: a line an argument. What is
// thrown names the argument; registration.h adds the operator.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

#include "memory.h"

namespace operators {

constexpr int64_t kMostSamples = 1 << 24;  // as many as the counter of the noise tells apart

const int32_t kFloat32 = aoti_torch_dtype_float32(), kFloat64 = aoti_torch_dtype_float64();
const int32_t kBFloat16 = aoti_torch_dtype_bfloat16(), kFloat16 = aoti_torch_dtype_float16();
const int32_t kInt64 = aoti_torch_dtype_int64(), kUInt8 = aoti_torch_dtype_uint8();
const int32_t kBool = aoti_torch_dtype_bool();

template <class... Parts>
[[noreturn]] __attribute__((cold, noinline)) void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// The dtype and the shape of a tensor, in words.
__attribute__((cold, noinline)) inline std::string described(const Tensor& x) {
  std::ostringstream text;
  text << torch::headeronly::toString(x.scalar_type()) << " of shape [";
  for (int64_t d = 0; d < x.dim(); ++d) text << (d ? ", " : "") << x.size(d);
  text << "]";
  return text.str();
}

inline void check_cpu(const char* name, const Tensor& x) {
  if (!x.is_cpu()) refuse(name, " must be on the CPU");
}

inline void check_floating(const char* name, const Tensor& x) {
  check_cpu(name, x);
  const int32_t dtype = dtype_of(x);
  if (dtype != kFloat32 && dtype != kFloat64 && dtype != kBFloat16 && dtype != kFloat16)
    refuse(name, " must be Float, Double, BFloat16 or Half, got ", described(x));
  if (x.dim() > kMostDimensions)
    refuse(name, " must have at most ", kMostDimensions, " dimensions, got ", x.dim());
}

// Numbers whose last dimension is that of the classes.
inline void check_rows(const char* name, const Tensor& x) {
  check_floating(name, x);
  if (x.dim() == 0 || x.sizes().back() == 0)
    refuse(name, " must have a last dimension of at least one class, got ", described(x));
}

inline void check_alike(const char* name, const Tensor& x, const Tensor& input) {
  check_cpu(name, x);
  if (dtype_of(x) != dtype_of(input) || !x.sizes().equals(input.sizes()))
    refuse(name, " must have the dtype and the shape of the input, ", described(input), ", got ",
           described(x));
}

inline void check_grad(const Tensor& grad, const Tensor& input) {
  check_alike("grad", grad, input);
}

// Of all int64 the wrong ones set the sign of one of two differences.
inline bool are_classes_or_none(const int64_t* index, const int64_t* end, int64_t classes) {
  uint64_t signs = 0;
  for (; index < end; ++index) {
    const auto at = static_cast<uint64_t>(*index);
    signs |= (at + 1) | (static_cast<uint64_t>(classes) - 1 - at);
  }
  return signs >> 63 == 0;
}

// The class of every row, or -1 for a row without one, in order.
inline Tensor ordered_index(const Tensor& index, const Tensor& logits) {
  check_cpu("index", index);
  const auto rows = logits.sizes().slice(0, logits.dim() - 1);
  if (dtype_of(index) != kInt64 || !index.sizes().equals(rows))
    refuse("index must be Long, one a row of ", described(logits), ", got ", described(index));
  const Tensor in_order = ordered(index);
  const int64_t *begin = in<int64_t>(in_order), *end = begin + in_order.numel();
  const int64_t classes = logits.sizes().back();
  const auto wrong = [=](int64_t at) { return at < -1 || at >= classes; };
  if (!are_classes_or_none(begin, end, classes))
    refuse("index must lie in [0, ", classes, "), or be -1 for a row without an outcome, got ",
           *std::find_if(begin, end, wrong));
  return in_order;
}

inline int64_t bytes_of_bits(int64_t count) { return (count + 7) / 8; }

// One bit an element, or so many, as bits.py packs them, or one bool.
inline void check_bits(const char* name, const Tensor& truth, const Tensor& of, int64_t planes) {
  check_cpu(name, truth);
  const int32_t dtype = dtype_of(truth);
  const int64_t bytes = planes * bytes_of_bits(of.numel());
  const bool bits = dtype == kUInt8 && truth.dim() == 1 && truth.numel() == bytes;
  if (!bits && (dtype != kBool || !truth.sizes().equals(of.sizes())))
    refuse(name, " must be Byte with a bit an element, or Bool, of ", described(of), ", got ",
           described(truth));
}

// The key of the noise from position `offset` on.
inline uint64_t key_of(const Tensor& seed, int64_t offset) {
  check_cpu("seed", seed);
  if (dtype_of(seed) != kInt64 || seed.numel() != 1)
    refuse("seed must be one number of dtype Long, got ", described(seed));
  if (offset < 0 || offset >> 62) refuse("offset must lie in [0, 2^62), got ", offset);
  return static_cast<uint64_t>(*in<int64_t>(seed));
}

inline void check_samples(int64_t samples) {
  if (samples < 1 || samples > kMostSamples)
    refuse("samples must lie in [1, ", kMostSamples, "], got ", samples);
}

}  // namespace operators
