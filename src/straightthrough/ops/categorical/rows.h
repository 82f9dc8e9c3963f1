// The walk over rows that every categorical formula shares: one long row after the other where they
// lie, or as many short rows at once as a vector has lanes.
#pragma once
#include "../../core/operators.h"
#include "../../core/tile.h"

namespace rows {

using namespace operators;
using namespace tile;

// What a formula works on: a long row, or a tile of short rows. `x` and `grad` are read, `out` is
// written; `scratch` holds three vectors a vector of the input.
template <class T, bool Across, class S>
struct Row {
  const Tile<T, Across>& t;
  Source<T, Across, S> x, grad;
  Sink<T, Across, S> out;
  T* scratch[3];
  int64_t first;  // of its rows, in the tensor
  int count;
  uint64_t seed;
  int64_t position;  // of the first row's noise

  Vec<T> peak() const {
    return t.most([&](int64_t i) { return x[i]; });
  }
  void fetch_ahead(int64_t i) const {
    x.fetch_ahead(i);
    grad.fetch_ahead(i);
  }
};

// Without INLINE_CALLS compilers leave calls in the innermost loops, at half the speed.
template <class T, bool Across, class S, class Formula>
INLINE_CALLS void apply(const Formula& formula, const Row<T, Across, S>& row) {
  formula(row);
}

// Rows `begin` to `end`. A formula says whether it reads logits (which -infinity pads) and a grad.
template <class T, class S, class Formula>
void apply_to(const Formula& formula, const S* x, const S* g, int64_t classes, int64_t begin,
              int64_t end, uint64_t seed, int64_t offset, S* out) {
  constexpr T rest = Formula::of_logits ? -std::numeric_limits<T>::infinity() : T(0);
  const bool across = classes <= kShort;
  const int64_t size = (across ? classes : (classes + lanes<T> - 1) / lanes<T>) * lanes<T>;
  std::vector<T> memory(6 * size + 16);
  void* start = memory.data();
  size_t space = memory.size() * sizeof(T);
  T* a = static_cast<T*>(std::align(64, 6 * size * sizeof(T), start, space));
  T *b = a + size, *c = b + size, *tile = c + size, *grad = tile + size, *result = grad + size;
  if (!across) {
    const Tile<T, false> t(classes);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * classes;
      apply(formula, Row<T, false, S>{t, {t, x + at, rest}, {t, g + at, T(0)}, {t, out + at},
                                      {a, b, c}, row, 1, seed, offset + row});
    }
    return;
  }
  const Tile<T, true> t(classes);
  for (int64_t row = begin; row < end; row += lanes<T>) {
    const int count = static_cast<int>(std::min<int64_t>(lanes<T>, end - row));
    const int64_t at = row * classes;
    load_short<T>(x + at, classes, count, rest, tile);
    if (Formula::of_grad) load_short<T>(g + at, classes, count, T(0), grad);
    apply(formula, Row<T, true, T>{t, {t, tile, rest}, {t, grad, T(0)}, {t, result},
                                   {a, b, c}, row, count, seed, offset + row});
    store_short(out + at, classes, count, result);
  }
}

// Rows that one thread takes at least, whole tiles of them.
inline int64_t grain(int64_t classes) {
  return (16384 / std::max<int64_t>(classes, 1) / 16 + 1) * 16;
}

// A formula that reads no grad is given its input in the place of one.
template <class Formula>
Tensor over(const Formula& formula, const Tensor& given, const Tensor& given_grad,
            uint64_t key = 0, int64_t offset = 0) {
  const Tensor input = ordered(given), grad = ordered_like(given, given_grad);
  const int64_t classes = input.sizes().back(), rows = input.numel() / classes;
  Tensor result = fresh_like(input);
  dispatch(input.scalar_type(), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(input), *g = in<S>(grad);
    S* to = out<S>(result);
    torch::stable::parallel_for(0, rows, grain(classes), [&](int64_t begin, int64_t end) {
      apply_to<decltype(compute)>(formula, x, g, classes, begin, end, key, offset, to);
    });
  });
  return result;
}

}  // namespace rows
