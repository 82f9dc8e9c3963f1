// Binary draws: the CPU kernel of reference.py.
#include "draw.h"

namespace {

using namespace draws;

std::tuple<Tensor, Tensor> binary_draw(const Tensor& unordered, bool of_probs, const Tensor& seed,
                                       int64_t offset) {
  check_floating("x", unordered);
  const uint64_t key = key_of(seed, offset);
  const Tensor x = ordered(unordered);
  Tensor y = fresh_like(x);
  Tensor bits = fresh_bits(x.numel());
  uint8_t* bit = out<uint8_t>(bits);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const BinaryDraws<T> draw{key, offset, of_probs};
    const Reader<T, S> from{in<S>(x), T(0)};
    const Writer<T, S> to{out<S>(y)};
    over_elements(x.numel(), kNoisyGrain, [=](int64_t begin, int64_t end) {
      draw.each(begin, end, [=](int64_t i, int64_t n, Vec<T> least) {
        const auto drawn = draw(i, from.next(i, n), least);
        to.next(i, drawn.value, n);
        store_bits<T>(bit, i, drawn.truth, n);
      });
    });
  });
  return {y, bits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&binary_draw>(m, "binary_draw");
}
