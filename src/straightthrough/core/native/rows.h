// The walk over rows that every categorical formula shares: one long row after the other where they
// lie, or as many short rows at once as a vector has lanes.
#pragma once
#include "operators.h"
#include "tile.h"

namespace rows {

using namespace operators;
using namespace tile;

// Where rows lie: one after the other or, if `inner` is not 0, that many beside each other with the
// classes `stride` apart, as the pixels of an image do whose channels are the classes.
struct Layout {
  int64_t rows, classes, stride = 1, inner = 0, outer = 0;

  // Of a tensor whose classes, at least one, come last, to be `ordered` or not; short rows beside
  // each other are left where they lie.
  explicit Layout(const Tensor& x, bool ordered = false) : classes(x.sizes().back()) {
    rows = x.numel() / classes;
    if (ordered || classes > kShort || x.is_contiguous() || !is_dense(x)) return;
    int64_t step = 1, d = x.dim() - 2;
    for (; d >= 0 && x.stride(d) == step; --d) step *= x.size(d);
    const int64_t next = d < 0 ? step * classes : x.stride(d);
    int64_t beyond = next;
    for (; d >= 0 && x.stride(d) == beyond; --d) beyond *= x.size(d);
    constexpr int64_t worth = 32;
    if (d >= 0 || step < worth) return;
    inner = step, outer = next, stride = x.stride(x.dim() - 1);
  }
  int64_t at(int64_t row) const {
    return inner ? row / inner * outer + row % inner : row * classes;
  }
  // How many rows from `row` on may be one tile.
  template <class T>
  int rows_at_once(int64_t row, int64_t end) const {
    const int64_t available = std::min<int64_t>(lanes<T>, end - row);
    return static_cast<int>(inner ? std::min(available, inner - row % inner) : available);
  }
  template <class T, class S>
  void load(const S* from, int count, T fill, T* to) const {
    if (!inner) return load_short<T>(from, classes, count, fill, to);
    for (int64_t j = 0; j < classes; ++j)
      Tile<T, true>::put(to, j, simd::load<T>(from + j * stride, count, fill));
  }
  template <class T, class S>
  void store(S* to, int count, const T* from) const {
    if (!inner) return store_short(to, classes, count, from);
    for (int64_t j = 0; j < classes; ++j)
      simd::store<S>(to + j * stride, saturated<S>(Tile<T, true>::at(from, j)), count);
  }
};

inline Tensor laid_out(const Layout& of, const Tensor& x) { return of.inner ? x : ordered(x); }
inline Tensor fresh_in(const Layout& of, const Tensor& x) {
  return of.inner ? fresh(x.sizes(), x.strides().data(), dtype_of(x)) : fresh_like(x);
}

// What a formula works on: a long row, or a tile of short rows. `logits` and `grads` are read,
// `out` is written; `scratch` holds three vectors a vector of the input.
template <class T, bool Across, class S>
struct Row {
  const Tile<T, Across>& t;
  Reader<T, S> logits, grads;
  Writer<T, S> out;
  T* scratch[3];
  int64_t first;  // of its rows, in the tensor
  int count;
  uint64_t seed;
  int64_t position;  // of the first row's noise

  ALWAYS_INLINE Vec<T> x(int64_t i) const { return t.at(logits, i); }
  ALWAYS_INLINE Vec<T> grad(int64_t i) const { return t.at(grads, i); }
  ALWAYS_INLINE void put(int64_t i, Vec<T> value) const { t.put(out, i, value); }

  Vec<T> peak() const {
    return t.highest([&](int64_t i) { return x(i); });
  }
  void fetch_ahead(int64_t i) const {
    t.fetch_ahead(logits, i);
    t.fetch_ahead(grads, i);
    t.fetch_ahead(out, i);
  }
};

// Without INLINE_CALLS compilers leave calls in the innermost loops, at half the speed; and a field
// behind a reference might be what a formula has just written, and is read again.
template <class T, bool Across, class S, class Formula>
INLINE_CALLS void apply(const Formula& formula, const Row<T, Across, S>& row) {
  const Formula f = formula;
  const Row<T, Across, S> r = row;
  f(r);
}

// Rows `begin` to `end`. A formula says whether it reads logits (which -infinity pads) and a grad.
template <class T, class S, class Formula>
void apply_to(const Formula& formula, const Layout& of, const S* x, const S* g, int64_t begin,
              int64_t end, uint64_t seed, int64_t offset, S* out) {
  constexpr T fill = Formula::of_logits ? -std::numeric_limits<T>::infinity() : T(0);
  const int64_t classes = of.classes;
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
      apply(formula, Row<T, false, S>{t, {x + at, fill}, {g + at, T(0)}, {out + at},
                                      {a, b, c}, row, 1, seed, offset + row});
    }
    return;
  }
  const Tile<T, true> t(classes);
  for (int64_t row = begin; row < end;) {
    const int count = of.rows_at_once<T>(row, end);
    const int64_t at = of.at(row);
    of.load(x + at, count, fill, tile);
    if (Formula::of_grad) of.load(g + at, count, T(0), grad);
    if (!of.inner) fetch_to_write(out + at + kTilesAhead * count * classes, count * classes);
    apply(formula, Row<T, true, T>{t, {tile, fill}, {grad, T(0)}, {result},
                                   {a, b, c}, row, count, seed, offset + row});
    of.store(out + at, count, result);
    row += count;
  }
}

// Rows that one thread takes at least, whole tiles of them.
inline int64_t grain(int64_t classes) {
  return (16384 / std::max<int64_t>(classes, 1) / 16 + 1) * 16;
}

// A formula that reads no grad is given its input in the place of one; both are checked.
template <class Formula>
Tensor over_rows(const Formula& formula, const Tensor& unordered, const Tensor& unordered_grad,
            uint64_t key = 0, int64_t offset = 0) {
  const Layout of(unordered, !unordered_grad.strides().equals(unordered.strides()));
  const Tensor input = laid_out(of, unordered), grad = laid_out(of, unordered_grad);
  Tensor result = fresh_in(of, unordered);
  dispatch(dtype_of(input), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(input), *g = in<S>(grad);
    S* to = out<S>(result);
    torch::stable::parallel_for(0, of.rows, grain(of.classes), [&](int64_t begin, int64_t end) {
      apply_to<decltype(compute)>(formula, of, x, g, begin, end, key, offset, to);
    });
  });
  return result;
}

}  // namespace rows
