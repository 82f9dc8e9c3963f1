// Windows: whether |x - centre| is within a bound.
#pragma once
#include "../core/native/elementwise.h"

namespace window {

using namespace operators;
using namespace simd;

template <class V>
ALWAYS_INLINE auto inside(V x, double centre, double bound, bool includes_bound) {
  using T = Lane<V>;
  const V distance = absolute(x - T(centre)), edge = V{} + T(bound);
  return includes_bound ? less_equal(distance, edge) : less(distance, edge);
}

// The bits of a window, beside other outputs: f gives of x what goes into these, and whether it is
// inside. Behind them come the bits that say where x is NaN: if it is so anywhere, or if a graph
// counts on a `fixed` size.
template <class... Out, class F>
Tensor with_window(const Tensor& x, bool fixed, const std::tuple<Out...>& outputs, const F& f) {
  const Tensor bits = fresh_bits(x.numel(), fixed ? 2 : 1);
  const auto and_nan = [=](auto v) { return std::tuple_cat(f(v), std::tuple(is_nan(v))); };
  const auto write = [&](auto nan) {
    elementwise(std::tuple{Numbers{x}}, std::tuple_cat(outputs, std::tuple{Bits{bits}, nan}),
                and_nan);
  };
  if (fixed) {
    write(Bits{bits, bytes_of_bits(x.numel())});
    return bits;
  }
  std::atomic<bool> found = false;
  write(Any{found});
  return found ? with_window(x, true, outputs, f) : bits;
}

}  // namespace window
