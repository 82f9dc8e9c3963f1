// Categorical draws by inverse CDF, in double sums: the CPU kernels of reference.py, same names,
// same order.
#include "../../core/native/rows.h"

namespace {

using namespace rows;

// How many of some cumulative sums, each in lanes still apart, are at most `target`; the last of
// these.
struct Passed {
  int64_t count;
  double sum;
};
template <class Lanes>
ALWAYS_INLINE Passed passed(const Lanes* until, int64_t count, double target) {
  constexpr int n = lanes<double>;
  Passed out{0, 0};
  for (int64_t i = 0; i < count; i += n) {
    Doubles rows[n];
    for (int k = 0; k < n; ++k) {
      rows[k] = until[i + k][0];
      for (size_t part = 1; part < until[i].size(); ++part) rows[k] += until[i + k][part];
    }
    transpose(rows);
    for (int k = 1; k < n; ++k) rows[0] += rows[k];
    const int of = static_cast<int>(std::min<int64_t>(n, count - i));
    const auto below_target = less_equal(rows[0], broadcast(target));
    const int below = __builtin_popcount(bits_of_lanes<double>(below_target) & ((1u << of) - 1));
    if (below > 0) out = {out.count + below, rows[0][below - 1]};
    if (below < n) break;
  }
  return out;
}

// The class at which `running` and the weights from vector i on come above `target`. (Rounding may
// lead past the last weight, or to a class without one.)
template <class T, class Weight>
ALWAYS_INLINE int64_t first_above(const Weight& weight, int64_t i, int64_t size, double running,
                                  double target) {
  constexpr int64_t chunk = 8;
  alignas(64) T weights[chunk * lanes<T>];
  int64_t vectors;
  for (;; i += chunk) {
    Wide<T> until[chunk];
    Sum<T, false> sum;
    for (int64_t k = 0; k < chunk; ++k) {
      const Vec<T> w = i + k < size ? weight(i + k) : Vec<T>{};
      Tile<T, false>::put(weights, k, w);
      sum.add(w);
      until[k] = sum.lanes();
    }
    const Passed whole = passed(until, chunk, target - running);
    running += whole.sum, vectors = whole.count;
    if (vectors < chunk || i + chunk >= size) break;
  }
  const int64_t first = std::min(vectors, chunk - 1) * lanes<T>;
  int64_t lane = 0;
  for (int64_t j = 0; j < lanes<T>; ++j) lane += (running += weights[first + j]) <= target;
  return i * lanes<T> + first + lane;
}

// The first class at which the cumulative weight of a long row is above a share of the total; -1 if
// there is a NaN. Sums up to the end of every block of vectors tell where to look. Nothing branches
// on the outcome, so that the processor is at work on the next row already. `to` is written next.
template <class T, class S>
INLINE_CALLS int64_t draw_long(const S* x, int64_t classes, double share, const S* to) {
  constexpr int64_t capacity = 128, unit = 8;
  const Tile<T, false> t(classes);
  const Reader<T, S> row{x, -std::numeric_limits<T>::infinity()};
  const T peak = t.highest([&](int64_t i) { return t.at(row, i); })[0];
  const auto weight = [&](int64_t i) { return exp(t.at(row, i) - peak); };

  const int64_t block = (t.size() / capacity / unit + 1) * unit;
  Wide<T> until[capacity + unit];
  Sum<T, false> sum;
  int64_t blocks = 0;
  for (int64_t i = 0; i < t.size(); until[blocks++] = sum.lanes()) {
    const int64_t stop = std::min(t.size(), i + block);
    for (; i + 4 <= stop; i += 4) {
      for (int64_t k = i; k < i + 4; ++k) {
        t.fetch_ahead(row, k);
        if (to) __builtin_prefetch(to + k * lanes<T>, 1);
      }
      sum.add((weight(i) + weight(i + 1)) + (weight(i + 2) + weight(i + 3)));
    }
    for (; i < stop; ++i) sum.add(weight(i));
  }
  const double total = sum.total();
  if (total != total) return -1;

  const double target = share * total;
  const Passed whole = passed(until, blocks - 1, target);
  int64_t drawn = first_above<T>(weight, whole.count * block, t.size(), whole.sum, target);
  drawn = std::min(drawn, classes - 1);
  while (drawn > 0 && !(weight(drawn / lanes<T>)[drawn % lanes<T>] > 0)) --drawn;
  return drawn;
}

// As many short rows at once as a vector has lanes.
template <class T, class S>
INLINE_CALLS void draw_short(const Layout& of, const S* x, int rows, uint64_t seed, int64_t first,
                             int64_t* index) {
  const int64_t classes = of.classes;
  const Tile<T, true> t(classes);
  alignas(64) T weight[kShort * lanes<T>];
  of.load(x, rows, T(0), weight);
  const Vec<T> peak = t.highest([&](int64_t j) { return t.at(weight, j); });
  Sum<T, true> sum;
  for (int64_t j = 0; j < classes; ++j) {
    const Vec<T> w = exp(t.at(weight, j) - peak);
    t.put(weight, j, w);
    sum.add(w);
  }
  const auto [b] = philox::blocks<1>(seed, {philox::positions(first, 0, philox::kDraw)});
  const auto uniform = philox::unit53(b.w[0], b.w[1]);
  Wide<T> target = sum.lanes(), running{};
  std::array<IntVec<double>, target.size()> passed{};
  for (size_t k = 0; k < target.size(); ++k) target[k] *= uniform[k];
  for (int64_t j = 0; j < classes; ++j) {
    const Wide<T> w = widen(t.at(weight, j));
    for (size_t k = 0; k < w.size(); ++k) {
      running[k] += w[k];
      passed[k] -= running[k] <= target[k];
    }
  }
  for (size_t k = 0; k < target.size(); ++k) {
    const IntVec<double> drawn = target[k] >= 0 ? passed[k] : -1;  // NaN is not
    std::memcpy(index + k * lanes<double>, &drawn, sizeof(drawn));
  }
}

template <class S>
void one_hot_rows(const Layout& of, const int64_t* index, int64_t begin, int64_t end, S* y) {
  const auto clear = [&](int64_t at, int64_t count) {
    std::memset(static_cast<void*>(y + at), 0, count * sizeof(S));
  };
  if (!of.inner) clear(begin * of.classes, (end - begin) * of.classes);
  for (int64_t row = begin; of.inner && row < end;) {
    const int64_t count = std::min(end - row, of.inner - row % of.inner);
    for (int64_t j = 0; j < of.classes; ++j) clear(of.at(row) + j * of.stride, count);
    row += count;
  }
  for (int64_t row = begin; row < end; ++row) {
    S* to = y + of.at(row);
    if (index[row] >= 0)
      to[index[row] * of.stride] = narrow<S>(1.0f);
    else
      for (int64_t j = 0; j < of.classes; ++j) to[j * of.stride] = narrow<S>(std::nanf(""));
  }
}

template <class T, class S>
void draw_tiles(const Layout& of, const S* x, int64_t row, int64_t end, uint64_t seed,
                int64_t offset, int64_t* index, const S* y) {
  while (row < end) {
    int64_t drawn[lanes<T>];
    const int count = of.rows_at_once<T>(row, end);
    if (y && !of.inner) fetch_to_write(y + row * of.classes, count * of.classes);
    draw_short<T>(of, x + of.at(row), count, seed, offset + row, drawn);
    std::copy(drawn, drawn + count, index + row);
    row += count;
  }
}

// The outcomes of rows `begin` to `end`, and their one-hots where `y` is given.
template <class T, class S>
void draw_rows(const Layout& of, const S* x, int64_t begin, int64_t end, uint64_t seed,
               int64_t offset, int64_t* index, S* y) {
  const bool across = of.classes <= kShort;
  const int64_t step = across ? 256 : 1;
  philox::Block noise;
  for (int64_t row = begin; row < end; row += step) {
    const int64_t stop = std::min(end, row + step), at = row * of.classes;
    const int64_t lane = (row - begin) % philox::kLanes;
    if (across) {
      draw_tiles<T>(of, x, row, stop, seed, offset, index, y);
    } else {
      if (lane == 0)
        noise = philox::blocks<1>(seed, {philox::positions(offset + row, 0, philox::kDraw)})[0];
      const double share = philox::unit53(noise.w[0][lane], noise.w[1][lane]);
      index[row] = draw_long<T>(x + at, of.classes, share, y ? y + at : nullptr);
    }
    if (y) one_hot_rows(of, index, row, stop, y);
  }
}

Tensor draw_index(const Tensor& unordered, const Tensor& seed, int64_t offset) {
  check_rows("logits", unordered);
  const uint64_t key = key_of(seed, offset);
  const Layout of(unordered);
  const Tensor logits = laid_out(of, unordered);
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), kInt64);
  int64_t* drawn = out<int64_t>(index);
  dispatch(dtype_of(logits), [&](auto compute, auto stored) {
    using S = decltype(stored);
    torch::stable::parallel_for(0, of.rows, grain(of.classes), [&](int64_t begin, int64_t end) {
      draw_rows<decltype(compute), S>(of, in<S>(logits), begin, end, key, offset, drawn, nullptr);
    });
  });
  return index;
}

std::tuple<Tensor, Tensor> draw(const Tensor& unordered, const Tensor& seed, int64_t offset) {
  check_rows("logits", unordered);
  const uint64_t key = key_of(seed, offset);
  const Layout of(unordered);
  const Tensor logits = laid_out(of, unordered);
  Tensor y = fresh_in(of, unordered);
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), kInt64);
  int64_t* drawn = out<int64_t>(index);
  dispatch(dtype_of(logits), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    torch::stable::parallel_for(0, of.rows, grain(of.classes), [&](int64_t begin, int64_t end) {
      draw_rows<T>(of, in<S>(logits), begin, end, key, offset, drawn, out<S>(y));
    });
  });
  return {y, index};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&draw_index>(m, "draw_index");
  implement<&draw>(m, "draw");
}
