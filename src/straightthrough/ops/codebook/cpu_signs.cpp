// Signs with the number that they spell, and the gradient of a vector over its length: the CPU
// kernels of reference.py.
#include "../../core/native/rows.h"
#include "numbered.h"

namespace {

using namespace rows;
using namespace codes;

constexpr int64_t kMostBits = 63;

// Bits [first, first + count) of as many as there are, the first of them the least.
ALWAYS_INLINE int64_t number_of(const uint8_t* bits, int64_t first, int64_t count) {
  const uint8_t* from = bits + first / 8;
  const int skip = first % 8;
  uint64_t low;
  std::memcpy(&low, from, sizeof low);
  const uint64_t high = from[sizeof low];
  const uint64_t all = skip ? low >> skip | high << (64 - skip) : low;
  return static_cast<int64_t>(all & ((uint64_t{1} << count) - 1));
}

std::tuple<Tensor, Tensor> signs(const Tensor& unordered, double size) {
  check_rows("z", unordered);
  const Tensor z = ordered(unordered);
  const int64_t width = z.sizes().back();
  if (width > kMostBits) refuse("z must have at most ", kMostBits, " entries a row, got ", width);
  Tensor code = fresh_like(z), index = fresh(z.sizes().slice(0, z.dim() - 1), kInt64);
  dispatch(dtype_of(z), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(z), T(0)};
    const Writer<T, S> to{out<S>(code)};
    const Vec<T> above = broadcast(T(size)), below = -above;
    over_blocks(z, [&](int64_t first, int64_t rows) {
      uint8_t bits[(kBlock + kMostBits) / 8 + 16];
      Truth<T> unordered = is_nan(above);
      over_vectors<T>(0, rows * width, [&](int64_t i, auto count) {
        const Vec<T> x = from.next(first * width + i, count);
        const Truth<T> up = less_equal(Vec<T>{}, x);
        to.next(first * width + i, unless_nan(x, select(up, above, below)), count);
        store_bits<T>(bits, i, up, count);
        unordered |= is_nan(x);
      });
      int64_t* number = out<int64_t>(index) + first;
      for (int64_t row = 0; row < rows; ++row) number[row] = number_of(bits, row * width, width);
      if (bits_of_lanes<T>(unordered))
        withhold<T>(out<S>(code) + first * width, rows, width, number);
    });
  });
  return {code, index};
}

template <class V>
ALWAYS_INLINE V root(V x) {
  for (int lane = 0; lane < lanes<Lane<V>>; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
}

struct OverLength {
  static constexpr bool of_logits = false, of_grad = true;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    const Vec<T> most = r.t.highest([&](int64_t i) { return absolute(r.x(i)); });
    const auto [squares, along] = r.t.template sums<2>([&](int64_t i) {
      const Vec<T> x = r.x(i) / most;
      return std::array<Vec<T>, 2>{x * x, x * r.grad(i)};
    });
    // The squares are no number where z is 0 or not finite.
    const Truth<T> given = less_equal(squares, squares);
    const Vec<T> share = along / squares, length = root(squares);
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> g = r.grad(i), across = (g - r.x(i) / most * share) / length / most;
      r.put(i, select(given, within(std::numeric_limits<T>::max(), across, g), Vec<T>{}));
    }
  }
};

Tensor sphere_gradient(const Tensor& z, const Tensor& grad) {
  check_rows("z", z);
  check_alike("grad", grad, z);
  return over_rows(OverLength{}, z, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&signs>(m, "signs");
  implement<&sphere_gradient>(m, "sphere_gradient");
}
