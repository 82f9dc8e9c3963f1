// Finite scalars and their gradients: the CPU kernels of reference.py.
#include <vector>

#include "numbered.h"

namespace {

using namespace codes;

// Entry d is bounded to reach tanh(slope z + shift) - offset, and read in steps of one from -half.
template <class T>
struct Bounds {
  int64_t width;
  T slope;
  bool symmetric;
  std::vector<T> reach, offset, shift, half, most;
  std::vector<int64_t> places;

  // Each row of numbers goes on with its first ones, for vectors that begin anywhere in it.
  Bounds(const std::vector<int64_t>& levels, double slope, bool symmetric)
      : width(levels.size()), slope(T(slope)), symmetric(symmetric) {
    int64_t place = 1;
    for (int64_t i = 0; i < width + lanes<T>; ++i) {
      const int64_t n = levels[i % width];
      const double below = symmetric || n % 2 ? 0.0 : 0.5, range = static_cast<double>(n - 1);
      const double above = range / 2 * (symmetric ? 1.0 : 1 + 1e-3);
      reach.push_back(T(above)), offset.push_back(T(below)), most.push_back(T(range));
      shift.push_back(T(std::atanh(below / above)));
      half.push_back(symmetric ? T(range / 2) : T(n / 2));
      if (i < width) places.push_back(place), place = int64_t(uint64_t(place) * uint64_t(n));
    }
  }
  static ALWAYS_INLINE Vec<T> at(const std::vector<T>& row, int64_t d) {
    return load<T>(row.data() + d, std::integral_constant<int64_t, lanes<T>>(), T(0));
  }
  // e^(-2 |u|) of the argument u of tanh, which is +-(1 - e) / (1 + e), and its derivative
  // 4 e / (1 + e)^2.
  struct Inner {
    Vec<T> u, e;
  };
  ALWAYS_INLINE Inner inner(Vec<T> z, int64_t d) const {
    const Vec<T> u = z * slope + at(shift, d);
    return {u, exp(at_least(T(-80), absolute(u) * T(-2)))};
  }
  ALWAYS_INLINE Vec<T> level(Vec<T> z, int64_t d) const {
    const auto [u, e] = inner(z, d);
    const Vec<T> size = (T(1) - e) / (T(1) + e), t = u < T(0) ? -size : size;
    Vec<T> x = t * at(reach, d) - at(offset, d), all = at(half, d);
    for (int lane = 0; lane < lanes<T>; ++lane)
      x[lane] = symmetric ? std::floor(x[lane] + all[lane] + T(0.5)) : std::nearbyint(x[lane]);
    x = at_least(T(0), symmetric ? x : x + all);
    const Vec<T> last = at(most, d);
    x = x > last ? last : x;
    return unless_nan(z, x);
  }
  ALWAYS_INLINE Vec<T> code(Vec<T> level, int64_t d) const {
    return (level - at(half, d)) / at(half, d);
  }
  ALWAYS_INLINE Vec<T> derivative(Vec<T> z, int64_t d) const {
    const Vec<T> e = inner(z, d).e, below = T(1) / (T(1) + e);
    return unless_nan(z, at(reach, d) / at(half, d) * slope * (T(4) * e * below * below));
  }
};

constexpr int64_t kMostLevels = int64_t{1} << 62;

void check_levels(const Tensor& z, const std::vector<int64_t>& levels) {
  check_rows("z", z);
  if (static_cast<int64_t>(levels.size()) != z.sizes().back())
    refuse("levels must be one an entry of ", described(z), ", got ", levels.size());
  for (const int64_t n : levels)
    if (n < 2 || n > kMostLevels) refuse("levels must lie in [2, ", kMostLevels, "], got ", n);
}

// The number of each row of levels; any where one of them is NaN.
template <class T>
void number_rows(const T* levels, int64_t rows, int64_t width, const int64_t* places, int64_t* to) {
  for (int64_t row = 0; row < rows; ++row, levels += width) {
    uint64_t sum = 0;  // which may be more than fits, where nobody looked at the product of levels
    for (int64_t d = 0; d < width; ++d) {
      const T level = levels[d] >= T(0) ? levels[d] : T(0);
      sum += static_cast<uint64_t>(static_cast<int64_t>(level)) * static_cast<uint64_t>(places[d]);
    }
    to[row] = static_cast<int64_t>(sum);
  }
}

std::tuple<Tensor, Tensor> finite_scalars(const Tensor& unordered, std::vector<int64_t> levels,
                                          double slope, bool symmetric) {
  check_levels(unordered, levels);
  const Tensor z = ordered(unordered);
  Tensor code = fresh_like(z), index = fresh(z.sizes().slice(0, z.dim() - 1), kInt64);
  dispatch(dtype_of(z), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Bounds<T> bounds(levels, slope, symmetric);
    const Reader<T, S> from{in<S>(z), T(0)};
    const Writer<T, S> to{out<S>(code)};
    int64_t* number = out<int64_t>(index);
    const int64_t width = bounds.width;
    over_blocks(z, [&](int64_t first, int64_t rows) {
      std::vector<T> held(rows * width + lanes<T>);
      const int64_t start = first * width;
      Truth<T> unordered{};
      over_vectors<T>(0, rows * width, [&](int64_t i, auto count) {
        const Vec<T> level = bounds.level(from.next(start + i, count), i % width);
        unordered |= is_nan(level);
        std::memcpy(held.data() + i, &level, kBytes);
        to.next(start + i, bounds.code(level, i % width), count);
      });
      number_rows(held.data(), rows, width, bounds.places.data(), number + first);
      if (bits_of_lanes<T>(unordered))
        withhold<T>(out<S>(code) + start, rows, width, number + first);
    });
  });
  return {code, index};
}

Tensor finite_scalars_gradient(const Tensor& unordered, const Tensor& given_grad,
                               std::vector<int64_t> levels, double slope, bool symmetric) {
  check_levels(unordered, levels);
  const Tensor z = ordered(unordered);
  const Tensor grad = ordered_grad(given_grad, unordered);
  Tensor result = fresh_like(z);
  dispatch(dtype_of(z), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Bounds<T> bounds(levels, slope, symmetric);
    const Reader<T, S> from{in<S>(z), T(0)}, pulled{in<S>(grad), T(0)};
    const Writer<T, S> to{out<S>(result)};
    const T most = sizeof(S) == sizeof(T) ? std::numeric_limits<T>::max() : T(kMost<S>);
    const int64_t width = bounds.width;
    over_blocks(z, [&](int64_t first, int64_t rows) {
      over_vectors<T>(first * width, (first + rows) * width, [&](int64_t i, auto count) {
        const Vec<T> g = pulled.next(i, count);
        const Vec<T> x = bounds.derivative(from.next(i, count), i % width) * g;
        to.next(i, within(most, x, g), count);
      });
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&finite_scalars>(m, "finite_scalars");
  implement<&finite_scalars_gradient>(m, "finite_scalars_gradient");
}
