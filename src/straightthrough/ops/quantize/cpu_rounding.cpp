// One of the two whole numbers beside an element, drawn: the CPU kernel of reference.py.
#include "../../core/native/draws.h"
#include "steps.h"

namespace {

using namespace draws;
using quantize::nearest;

template <class T>
ALWAYS_INLINE Vec<T> whole_below(Vec<T> x) {
  const Vec<T> near = nearest(x);
  return select(less(x, near), near - T(1), near);
}

Tensor stochastic_round(const Tensor& given, const Tensor& seed, int64_t offset) {
  check_floating("x", given);
  const uint64_t key = key_of(seed, offset);
  const Tensor x = ordered(given);
  Tensor y = fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(x), T(0)};
    const Writer<T, S> to{out<S>(y)};
    over_elements(x.numel(), kNoisyGrain, [=](int64_t begin, int64_t end) {
      with_uniforms<T>(begin, end, key, offset, philox::kDraw,
                       [=](int64_t i, int64_t n, Vec<T> uniform) {
                         const Vec<T> v = from.next(i, n), below = whole_below<T>(v);
                         to.next(i, select(less(uniform, v - below), below + T(1), below), n);
                       });
    });
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&stochastic_round>(m, "stochastic_round");
}
