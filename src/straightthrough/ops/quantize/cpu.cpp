// Integers times a scale a row, and their gradients: the CPU kernels of reference.py, same names,
// same order.
#include "steps.h"

namespace {

using namespace quantize;

// ---- steps ----

// What moves the grid: nothing, the code of the value 0, or what is taken off before.
enum class Shift { kNone, kZeroPoint, kOffset };

template <class T, Shift shift>
struct IntegerSteps {
  Vec<T> scale, by;
  T low, high;
  bool by_value;

  template <class Rounding>
  ALWAYS_INLINE Placed<T> place(Vec<T> x, const Rounding& rounding) const {
    constexpr bool moved = shift == Shift::kZeroPoint;
    const Vec<T> v = (shift == Shift::kOffset ? x - by : x) / scale;
    const Vec<T> code = moved ? nearest(v) + by : nearest(v), whole = rounding(v);
    const Vec<T> kept = clamped(moved ? whole + by : whole), q = moved ? kept - by : kept;
    if (!by_value) return {v, q, same(clamped(code), code)};
    const Vec<T> least = broadcast(low), most = broadcast(high);
    return {v, q, both<T>(less(moved ? least - by : least, v), less(v, moved ? most - by : most))};
  }
  ALWAYS_INLINE Vec<T> clamped(Vec<T> code) const { return at_least(low, at_most(high, code)); }
  ALWAYS_INLINE Vec<T> value(Vec<T> q) const {
    const Vec<T> y = (q + Vec<T>{}) * scale;  // the sum has no -0
    return shift == Shift::kOffset ? rounded_apart(y) + by : y;
  }
};

template <Shift shift>
struct Integers {
  const Tensor &scales, &shifts;  // without a shift the second is not read
  double low, high;
  bool by_value = false;

  int64_t unit(const Tensor& x) const { return x.numel() / scales.numel(); }

  template <class T, class S>
  auto steps(const S*) const {
    return [scale = in<T>(scales), by = in<T>(shifts), low = T(low), high = T(high),
            by_value = by_value](int64_t row) {
      const Vec<T> of_row = broadcast(shift == Shift::kNone ? T(0) : by[row]);
      return IntegerSteps<T, shift>{broadcast(valid(scale[row])),
                                    shift == Shift::kZeroPoint ? nearest(of_row) : of_row, low,
                                    high, by_value};
    };
  }
};

// ---- whole numbers from `low` to `high` ----

using Plain = Integers<Shift::kNone>;

Tensor integers(const Tensor& given, const Tensor& scale, double low, double high) {
  const Tensor scales = scales_of(given, scale);
  return values(ordered(given), Plain{scales, scales, low, high});
}

std::tuple<Tensor, Tensor> integers_and_inside(const Tensor& given, const Tensor& scale, double low,
                                               double high, bool by_value) {
  const Tensor scales = scales_of(given, scale);
  return values_and_inside(ordered(given), Plain{scales, scales, low, high, by_value});
}

Tensor passed_bits(const Tensor& given, const Tensor& truth) {
  check_floating("grad", given);
  const Tensor grad = ordered(given), bits = packed("bits", truth, given);
  Tensor result = fresh_like(grad);
  const uint8_t* truths = in<uint8_t>(bits);
  dispatch(dtype_of(grad), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(grad), T(0)};
    const Writer<T, S, true> to{out<S>(result)};
    over_elements(grad.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto count) {
        to.put(i, select(load_bits<T>(truths, i, count), from.get(i, count), Vec<T>{}), count);
      });
    });
  });
  return result;
}

std::tuple<Tensor, Tensor> integers_backward(const Tensor& given, const Tensor& grad_given,
                                             const Tensor& scale, double low, double high,
                                             bool by_value, double factor) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given), scales = scales_of(given, scale);
  const Plain grid{scales, scales, low, high, by_value};
  const auto [to_x, to_scale, _] = backward<false>(ordered(given), grad, scales, grid, factor);
  return {to_x, to_scale};
}

// ---- the same, one of both beside an element drawn: reference_drawn.py ----

Tensor integers_drawn(const Tensor& given, const Tensor& scale, double low, double high,
                      const Tensor& seed, int64_t offset) {
  const Tensor scales = scales_of(given, scale);
  const ByUniforms draw{key_of(seed, offset), offset};
  return values(ordered(given), Plain{scales, scales, low, high}, draw);
}

std::tuple<Tensor, Tensor> integers_drawn_and_inside(const Tensor& given, const Tensor& scale,
                                                     double low, double high, bool by_value,
                                                     const Tensor& seed, int64_t offset) {
  const Tensor scales = scales_of(given, scale);
  const ByUniforms draw{key_of(seed, offset), offset};
  return values_and_inside(ordered(given), Plain{scales, scales, low, high, by_value}, draw);
}

std::tuple<Tensor, Tensor> integers_drawn_backward(const Tensor& given, const Tensor& grad_given,
                                                   const Tensor& scale, double low, double high,
                                                   bool by_value, double factor,
                                                   const Tensor& seed, int64_t offset) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given), scales = scales_of(given, scale);
  const ByUniforms draw{key_of(seed, offset), offset};
  const Plain grid{scales, scales, low, high, by_value};
  const auto [to_x, to_scale, _] =
      backward<false>(ordered(given), grad, scales, grid, factor, draw);
  return {to_x, to_scale};
}

Tensor stochastic_round(const Tensor& given, const Tensor& seed, int64_t offset) {
  check_floating("x", given);
  const ByUniforms draw{key_of(seed, offset), offset};
  const Tensor x = ordered(given);
  Tensor y = fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(x), T(0)};
    const Writer<T, S> to{out<S>(y)};
    over_elements(x.numel(), draws::kNoisyGrain, [=](int64_t begin, int64_t end) {
      draws::with_uniforms<T>(begin, end, draw.key, offset, philox::kDraw,
                              [=](int64_t i, int64_t n, Vec<T> uniform) {
                                const ByUniforms::Rounding<T> rounding{uniform};
                                to.next(i, rounding(from.next(i, n)), n);
                              });
    });
  });
  return y;
}

// ---- with a zero point or an offset a row ----

Tensor shifts_of(const Tensor& shift, const Tensor& scales) {
  check_cpu("shifts", shift);
  const bool fits = dtype_of(shift) == dtype_of(scales) && shift.numel() == scales.numel();
  if (!fits || shift.dim() > kMostDimensions)
    refuse("shifts must be one number a scale, of ", described(scales), ", got ", described(shift));
  return ordered(shift);
}

// f(grid), with the scales and the shifts checked.
template <class F>
auto with_grid(const Tensor& x, const Tensor& scale, const Tensor& shift, bool by_offset,
               double low, double high, bool by_value, const F& f) {
  const Tensor scales = scales_of(x, scale), shifts = shifts_of(shift, scales);
  if (by_offset) return f(Integers<Shift::kOffset>{scales, shifts, low, high, by_value});
  return f(Integers<Shift::kZeroPoint>{scales, shifts, low, high, by_value});
}

Tensor shifted(const Tensor& given, const Tensor& scale, const Tensor& shift, bool by_offset,
               double low, double high) {
  return with_grid(given, scale, shift, by_offset, low, high, false,
                   [&](const auto& grid) { return values(ordered(given), grid); });
}

std::tuple<Tensor, Tensor> shifted_and_inside(const Tensor& given, const Tensor& scale,
                                              const Tensor& shift, bool by_offset, double low,
                                              double high, bool by_value) {
  return with_grid(given, scale, shift, by_offset, low, high, by_value,
                   [&](const auto& grid) { return values_and_inside(ordered(given), grid); });
}

std::tuple<Tensor, Tensor, Tensor> shifted_backward(const Tensor& given, const Tensor& grad_given,
                                                    const Tensor& scale, const Tensor& shift,
                                                    bool by_offset, double low, double high,
                                                    bool by_value, double factor) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given);
  return with_grid(given, scale, shift, by_offset, low, high, by_value, [&](const auto& grid) {
    const auto [to_x, to_scale, to_shift] =
        backward<true>(ordered(given), grad, grid.scales, grid, factor);
    return std::tuple{to_x, to_scale, to_shift};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&integers>(m, "integers");
  implement<&integers_and_inside>(m, "integers_and_inside");
  implement<&passed_bits>(m, "passed_bits");
  implement<&integers_backward>(m, "integers_backward");
  implement<&integers_drawn>(m, "integers_drawn");
  implement<&integers_drawn_and_inside>(m, "integers_drawn_and_inside");
  implement<&integers_drawn_backward>(m, "integers_drawn_backward");
  implement<&stochastic_round>(m, "stochastic_round");
  implement<&shifted>(m, "shifted");
  implement<&shifted_and_inside>(m, "shifted_and_inside");
  implement<&shifted_backward>(m, "shifted_backward");
}
