// Integers times a scale a row, and their gradients: the CPU kernels of reference.py, same names,
// same order.
#include <vector>

#include "../../core/native/elementwise.h"

namespace {

using namespace operators;
using namespace simd;

// ---- rows ----

constexpr int64_t kAligned = 32;     // rows begin at whole bytes of bits, and at whole vectors
constexpr int64_t kSegment = 4096;   // elements that are summed in the precision of the work

// The scale with its entries in order, one a row.
Tensor scales_of(const Tensor& x, const Tensor& scale) {
  check_floating("x", x);
  check_cpu("scales", scale);
  const int32_t due = dtype_of(x) == kFloat64 ? kFloat64 : kFloat32;
  const int64_t rows = scale.numel();
  const bool fits = dtype_of(scale) == due && scale.dim() == 1 && rows > 0 &&
                    x.numel() % rows == 0 && (rows == 1 || x.numel() / rows % kAligned == 0);
  if (!fits)
    refuse("scales must be one number a row of ", described(x), ", in what it is computed in, and ",
           "rows of a multiple of ", kAligned, ", got ", described(scale));
  return ordered(scale);
}

// Call f(row, begin, end) for the parts of rows that lie in [begin, end).
template <class F>
void over_rows(int64_t begin, int64_t end, int64_t length, const F& f) {
  while (begin < end) {
    const int64_t row = begin / length, stop = std::min(end, (row + 1) * length);
    f(row, begin, stop);
    begin = stop;
  }
}

// ---- steps ----

// The nearest whole number, half to even, of what is far smaller than 2^22.
template <class V>
ALWAYS_INLINE V nearest(V x) {
  using T = Lane<V>;
  constexpr T shift = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);
  return (x + shift) - shift;
}

template <class T>
struct Steps {
  Vec<T> scale;
  T low, high;
  bool by_value;

  Steps(T given, double low, double high, bool by_value)
      : scale(broadcast(given > 0 && given < std::numeric_limits<T>::infinity()
                            ? given
                            : std::numeric_limits<T>::quiet_NaN())),
        low(T(low)),
        high(T(high)),
        by_value(by_value) {}

  struct Placed {
    Vec<T> v, code;
    Truth<T> inside;
  };
  // Clamped to one step more than the range before it is rounded, so that beyond it shows.
  ALWAYS_INLINE Placed place(Vec<T> x) const {
    const Vec<T> v = x / scale;
    const Vec<T> near = nearest(at_least(low - 1, at_most(high + 1, v)));
    const Vec<T> code = at_least(low, at_most(high, near));
    const Vec<T> least = broadcast(low), most = broadcast(high);
    if (by_value) return {v, code, both(less(least, v), less(v, most))};
    return {v, code, both(less_equal(least, near), less_equal(near, most))};
  }
  static ALWAYS_INLINE Truth<T> both(Truth<T> a, Truth<T> b) { return a & b; }
};

// y = f(element) for vectors of rows, each with the steps of its own scale.
template <class F>
void over_steps(const Tensor& x, const Tensor& scales, double low, double high, bool by_value,
                const F& f) {
  const int64_t length = x.numel() / scales.numel();
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(x), std::numeric_limits<T>::quiet_NaN()};
    const T* scale = in<T>(scales);
    over_elements(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      over_rows(begin, end, length, [&](int64_t row, int64_t first, int64_t last) {
        const Steps<T> steps(scale[row], low, high, by_value);
        over_vectors<T>(first, last, [=](int64_t i, auto count) {
          const auto placed = steps.place(from.next(i, count));
          f(compute, stored, i, placed.code * steps.scale, placed.inside, count);
        });
      });
    });
  });
}

Tensor integers(const Tensor& given, const Tensor& scale, double low, double high) {
  const Tensor scales = scales_of(given, scale), x = ordered(given);
  Tensor y = fresh_like(x);
  void* to = y.mutable_data_ptr();
  over_steps(x, scales, low, high, false,
             [=](auto compute, auto stored, int64_t i, auto value, auto, auto count) {
               using S = decltype(stored);
               Writer<decltype(compute), S>{static_cast<S*>(to)}.next(i, value, count);
             });
  return y;
}

std::tuple<Tensor, Tensor> integers_and_inside(const Tensor& given, const Tensor& scale, double low,
                                               double high, bool by_value) {
  const Tensor scales = scales_of(given, scale), x = ordered(given);
  Tensor y = fresh_like(x), bits = fresh_bits(x.numel());
  void* to = y.mutable_data_ptr();
  uint8_t* truths = out<uint8_t>(bits);
  over_steps(x, scales, low, high, by_value,
             [=](auto compute, auto stored, int64_t i, auto value, auto inside, auto count) {
               using T = decltype(compute);
               using S = decltype(stored);
               Writer<T, S>{static_cast<S*>(to)}.next(i, value, count);
               store_bits<T>(truths, i, inside, count);
             });
  return {y, bits};
}

Tensor passed_bits(const Tensor& given, const Tensor& truth) {
  check_floating("grad", given);
  const Tensor grad = ordered(given), bits = packed("bits", truth, given);
  Tensor result = fresh_like(grad);
  elementwise(std::tuple{Numbers{grad}, Bits{bits}}, std::tuple{ExactNumbers{result}},
              [](auto g, auto truth) { return select(truth, g, decltype(g){}); });
  return result;
}

// The gradient to a part of a row, and what it adds to that of the scale.
template <class T, class S>
INLINE_CALLS double backward_of_part(const S* x, const S* grad, S* to, const Steps<T>& steps,
                                     int64_t begin, int64_t end) {
  const Reader<T, S> from{x, std::numeric_limits<T>::quiet_NaN()}, of{grad, T(0)};
  const Writer<T, S> writer{to};
  Vec<T> sum{};
  const auto vector = [&](int64_t i, auto count) {
    const auto placed = steps.place(from.next(i, count));
    const Vec<T> g = of.next(i, count), none{};
    writer.next(i, select(placed.inside, g, none), count);
    const Vec<T> share = placed.code - select(placed.inside, placed.v, none);
    sum += select(less_equal(placed.v, placed.v), g * share, none);
  };
  constexpr int64_t n = lanes<T>;
  int64_t i = begin;
  for (; i + n <= end; i += n) vector(i, std::integral_constant<int64_t, n>());
  if (i < end) vector(i, end - i);
  double total = 0;
  for (const auto part : widen(sum)) total += simd::sum(part);
  return total;
}

std::tuple<Tensor, Tensor> integers_backward(const Tensor& given, const Tensor& grad_given,
                                             const Tensor& scale, double low, double high,
                                             bool by_value) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given);
  const Tensor scales = scales_of(given, scale), x = ordered(given);
  Tensor to_x = fresh_like(x), to_scale = fresh(scales.sizes(), kFloat64);
  const int64_t rows = scales.numel(), length = x.numel() / rows;
  const int64_t parts = (length + kSegment - 1) / kSegment;
  std::vector<double> sums(rows * parts);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const T* scale = in<T>(scales);
    const S *from = in<S>(x), *of = in<S>(grad);
    S* to = out<S>(to_x);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::clamp<int64_t>(length, 1, kSegment));
    torch::stable::parallel_for(0, rows * parts, grain, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t row = part / parts, begin = row * length + part % parts * kSegment;
        const int64_t end = std::min(begin + kSegment, (row + 1) * length);
        const Steps<T> steps(scale[row], low, high, by_value);
        sums[part] = backward_of_part<T, S>(from, of, to, steps, begin, end);
      }
    });
  });
  double* to = out<double>(to_scale);
  for (int64_t row = 0; row < rows; ++row) {
    to[row] = 0;
    for (int64_t part = 0; part < parts; ++part) to[row] += sums[row * parts + part];
  }
  return {to_x, to_scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&integers>(m, "integers");
  implement<&integers_and_inside>(m, "integers_and_inside");
  implement<&passed_bits>(m, "passed_bits");
  implement<&integers_backward>(m, "integers_backward");
}
