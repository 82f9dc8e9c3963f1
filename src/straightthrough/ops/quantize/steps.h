// What the kernels of quantized numbers share: rows that have a scale, and the passes over them.
//
// A grid is a class with the scale of every row. Neighbours of `unit` elements have the same steps:
// `steps<T>(x)(i)` makes those of unit i; `place(x, rounding)` of these says what a vector becomes,
// `value(q)` what that is in units of the input. Nothing is fetched ahead: there is so little to
// compute that the processor, which sees what comes next by itself, is only held up.
#pragma once
#include <vector>

#include "../../core/native/draws.h"
#include "../../core/native/elementwise.h"

namespace quantize {

using namespace operators;
using namespace simd;

// ---- rows ----

constexpr int64_t kAligned = 32;     // rows begin at whole bytes of bits, and at whole vectors
constexpr int64_t kSegment = 4096;   // elements that are summed in the precision of the work

// The scale with its entries in order, one a row.
inline Tensor scales_of(const Tensor& x, const Tensor& scale) {
  check_floating("x", x);
  check_cpu("scales", scale);
  const int32_t due = dtype_of(x) == kFloat64 ? kFloat64 : kFloat32;
  const int64_t rows = scale.numel();
  const bool fits = dtype_of(scale) == due && scale.dim() <= kMostDimensions && rows > 0 &&
                    x.numel() % rows == 0 && (rows == 1 || x.numel() / rows % kAligned == 0);
  if (!fits)
    refuse("scales must be one number a row of ", described(x), ", in what it is computed in, and ",
           "rows of a multiple of ", kAligned, ", got ", described(scale));
  return ordered(scale);
}

// The scale of a row, NaN where it is none.
template <class T>
T valid(T scale) {
  const bool is = scale > 0 && scale < std::numeric_limits<T>::infinity();
  return is ? scale : std::numeric_limits<T>::quiet_NaN();
}

// Where a vector lies: in units of the scale, the value that it becomes, and whether in the range.
template <class T>
struct Placed {
  Vec<T> v, q;
  Truth<T> inside;
};

template <class T>
ALWAYS_INLINE Truth<T> both(Truth<T> a, Truth<T> b) {
  return a & b;
}

// ---- whole numbers ----

// The nearest whole number, half to even.
template <class V>
ALWAYS_INLINE V nearest(V x) {
  using T = Lane<V>;
#if defined(__AVX512F__)
  constexpr int to_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(T) == 4)
    return (V)_mm512_roundscale_ps((__m512)x, to_even);
  else
    return (V)_mm512_roundscale_pd((__m512d)x, to_even);
#elif defined(__AVX2__)
  constexpr int to_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(T) == 4)
    return (V)_mm256_round_ps((__m256)x, to_even);
  else
    return (V)_mm256_round_pd((__m256d)x, to_even);
#else
  constexpr T shift = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
  const V size = absolute(x), all = broadcast(shift);
  const V near = size < all ? (size + shift) - shift : size;
  return with_sign_of(x, near);
#endif
}

// How numbers are made whole. `of<T>()` is what does it: `hold(begin, end)` prepares at most kHeld
// elements, and `at(i)` is then the rounding of the vector from i on.
struct ToNearest {
  static constexpr int64_t kHeld = std::numeric_limits<int64_t>::max();

  struct Rounding {
    template <class V>
    ALWAYS_INLINE V operator()(V v) const {
      return nearest(v);
    }
  };
  template <class T>
  ToNearest of() const {
    return {};
  }
  ALWAYS_INLINE void hold(int64_t, int64_t) {}
  ALWAYS_INLINE Rounding at(int64_t) const { return {}; }
};

// To one of the two whole numbers beside, the upper one where a uniform number is below what is
// beyond the lower. Those of many elements are made at once, as units may be short.
struct ByUniforms {
  uint64_t key;
  int64_t offset;

  template <class T>
  struct Rounding {
    Vec<T> uniform;
    ALWAYS_INLINE Vec<T> operator()(Vec<T> v) const {
      const Vec<T> near = nearest(v), below = select(less(v, near), near - T(1), near);
      return select(less(uniform, v - below), below + T(1), below);
    }
  };
  template <class T>
  struct Held {
    static constexpr int64_t kHeld = 1024;
    uint64_t key;
    int64_t offset, first = 0;
    alignas(kBytes) T uniforms[kHeld + lanes<T>];

    ALWAYS_INLINE void hold(int64_t begin, int64_t end) {
      first = begin;
      draws::with_uniforms<T>(begin, end, key, offset, philox::kDraw,
                              [this, begin](int64_t i, int64_t, Vec<T> uniform) {
                                std::memcpy(uniforms + (i - begin), &uniform, kBytes);
                              });
    }
    ALWAYS_INLINE Rounding<T> at(int64_t i) const {
      Rounding<T> rounding;
      std::memcpy(&rounding.uniform, uniforms + (i - first), kBytes);
      return rounding;
    }
  };
  template <class T>
  Held<T> of() const {
    return {key, offset};
  }
};

// ---- passes ----

// Call f(i, steps, count) for vectors of the elements in [begin, end), which are held.
template <class T, class Steps, class Roundings, class F>
ALWAYS_INLINE void over_steps(int64_t begin, int64_t end, int64_t unit, const Steps& steps_of,
                              Roundings& roundings, const F& f) {
  while (begin < end) {
    const int64_t held = begin + std::min(Roundings::kHeld, end - begin);
    roundings.hold(begin, held);
    while (begin < held) {
      const int64_t index = begin / unit, stop = std::min(held, (index + 1) * unit);
      const auto steps = steps_of(index);
      over_vectors<T>(begin, stop, [=](int64_t i, auto count) { f(i, steps, count); });
      begin = stop;
    }
  }
}

// y = f(element) for all vectors, in what they are computed in and stored as.
template <class Grid, class How, class F>
void over_grid(const Tensor& x, const Grid& grid, const How& how, const F& f) {
  const int64_t unit = grid.unit(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(x), std::numeric_limits<T>::quiet_NaN()};
    const auto steps_of = grid.template steps<T>(in<S>(x));
    over_elements(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      auto roundings = how.template of<T>();
      over_steps<T>(begin, end, unit, steps_of, roundings,
                    [&, from](int64_t i, const auto& steps, auto count) {
                      const auto placed = steps.place(from.get(i, count), roundings.at(i));
                      f(compute, stored, i, steps.value(placed.q), placed.inside, count);
                    });
    });
  });
}

template <class Grid, class How = ToNearest>
Tensor values(const Tensor& x, const Grid& grid, const How& how = {}) {
  Tensor y = fresh_like(x);
  void* to = y.mutable_data_ptr();
  over_grid(x, grid, how, [=](auto compute, auto stored, int64_t i, auto value, auto, auto count) {
    using S = decltype(stored);
    Writer<decltype(compute), S>{static_cast<S*>(to)}.put(i, value, count);
  });
  return y;
}

template <class Grid, class How = ToNearest>
std::tuple<Tensor, Tensor> values_and_inside(const Tensor& x, const Grid& grid,
                                             const How& how = {}) {
  Tensor y = fresh_like(x), bits = fresh_bits(x.numel());
  void* to = y.mutable_data_ptr();
  uint8_t* truths = out<uint8_t>(bits);
  over_grid(x, grid, how,
            [=](auto compute, auto stored, int64_t i, auto value, auto inside, auto count) {
              using T = decltype(compute);
              using S = decltype(stored);
              Writer<T, S>{static_cast<S*>(to)}.put(i, value, count);
              store_bits<T>(truths, i, inside, count);
            });
  return {y, bits};
}

// ---- gradients ----

// What the elements of a part add to the gradients of the scale and of what shifts the grid.
struct Sums {
  double scale = 0, shift = 0;
};

template <class V>
double total(V sum) {
  double result = 0;
  for (const auto part : widen(sum)) result += simd::sum(part);
  return result;
}

// The gradient to a part of a row, and its sums.
template <bool shifts, class T, class S, class Steps, class How>
INLINE_CALLS Sums backward_of_part(const S* x, const S* grad, S* to, int64_t unit,
                                   const Steps& steps_of, const How& how, int64_t begin,
                                   int64_t end) {
  const Reader<T, S> from{x, std::numeric_limits<T>::quiet_NaN()}, of{grad, T(0)};
  const Writer<T, S, true> writer{to};
  Vec<T> to_scale{}, to_shift{};
  auto roundings = how.template of<T>();
  over_steps<T>(begin, end, unit, steps_of, roundings, [&, from, of, writer](
                                                           int64_t i, const auto& steps,
                                                           auto count) {
    const auto placed = steps.place(from.get(i, count), roundings.at(i));
    const Vec<T> g = of.get(i, count), none{};
    writer.put(i, select(placed.inside, g, none), count);
    const Truth<T> counts = less_equal(placed.q, placed.q);  // what has no value adds nothing
    const Vec<T> share = select(placed.inside, placed.q - placed.v, placed.q);
    to_scale += select(counts, g * share, none);
    if (shifts) to_shift += select(counts, select(placed.inside, none, g), none);
  });
  return {total(to_scale), shifts ? total(to_shift) : 0};
}

// The gradient in the range, and one row after the other the sums of g (q - v) there and g q beyond
// it, times a factor, and where the grid is shifted those of g beyond it.
template <bool shifts, class Grid, class How = ToNearest>
std::array<Tensor, 3> backward(const Tensor& x, const Tensor& grad, const Tensor& scales,
                               const Grid& grid, double factor, const How& how = {}) {
  Tensor to_x = fresh_like(x), to_scale = fresh_like(scales);
  Tensor to_shift = shifts ? fresh_like(scales) : to_scale;
  const int64_t rows = scales.numel(), length = x.numel() / rows, unit = grid.unit(x);
  const int64_t parts = (length + kSegment - 1) / kSegment;
  std::vector<Sums> sums(rows * parts);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *from = in<S>(x), *of = in<S>(grad);
    S* to = out<S>(to_x);
    const auto steps_of = grid.template steps<T>(from);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::clamp<int64_t>(length, 1, kSegment));
    torch::stable::parallel_for(0, rows * parts, grain, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t row = part / parts, begin = row * length + part % parts * kSegment;
        const int64_t end = std::min(begin + kSegment, (row + 1) * length);
        sums[part] = backward_of_part<shifts, T, S>(from, of, to, unit, steps_of, how, begin, end);
      }
    });
    T *of_scale = out<T>(to_scale), *of_shift = out<T>(to_shift);
    for (int64_t row = 0; row < rows; ++row) {
      Sums all;
      for (int64_t part = row * parts; part < (row + 1) * parts; ++part) {
        all.scale += sums[part].scale;
        all.shift += sums[part].shift;
      }
      of_scale[row] = T(all.scale * factor);
      if (shifts) of_shift[row] = T(all.shift);
    }
  });
  return {to_x, to_scale, to_shift};
}

}  // namespace quantize
