// Categorical draws by inverse CDF, in double sums: the CPU kernels of reference.py, same names, same
// order.
#include "rows.h"

namespace {

using namespace rows;

template <class V>
int64_t last_positive(V weight) {
  int64_t i = lanes<Lane<V>> - 1;
  while (i > 0 && !(weight[i] > 0)) --i;
  return i;
}

// One row: sums of blocks first, then a walk through the block that holds the target.
template <class T, class S>
INLINE_CALLS int64_t draw_long(const S* x, int64_t classes, double uniform) {
  constexpr int64_t most = 1024;
  const Tile<T, false> t(classes);
  const T rest = -std::numeric_limits<T>::infinity();
  const Source<T, false, S> row(t, x, rest);
  const T peak = t.most([&](int64_t i) { return row[i]; })[0];
  const auto weight = [&](int64_t i) { return exp(row[i] - peak); };

  const int64_t block = (t.size() / most / 8 + 1) * 8;
  double sums[most], total = 0;
  int64_t blocks = 0;
  for (int64_t i = 0; i < t.size(); i += block, ++blocks) {
    Sum<T, false> sum;
    int64_t k = i;
    for (; k + 4 <= std::min(t.size(), i + block); k += 4) {
      for (int ahead = 0; ahead < 4; ++ahead) row.fetch_ahead(k + ahead);
      sum.add((weight(k) + weight(k + 1)) + (weight(k + 2) + weight(k + 3)));
    }
    for (; k < std::min(t.size(), i + block); ++k) sum.add(weight(k));
    total += sums[blocks] = sum.total();
  }
  if (total != total) return -1;

  const double target = uniform * total;
  double running = 0;
  int64_t b = 0;
  while (b + 1 < blocks && running + sums[b] <= target) running += sums[b++];
  int64_t last = -1;
  for (int64_t i = b * block; i < t.size(); ++i) {
    const Vec<T> w = weight(i);
    Sum<T, false> sum;
    sum.add(w);
    const double whole = sum.total();
    if (whole > 0 && running + whole <= target) {
      running += whole;
      last = i * lanes<T> + last_positive(w);
      continue;
    }
    for (int64_t k = 0; k < lanes<T>; ++k) {
      if (w[k] > 0) last = i * lanes<T> + k;
      running += w[k];
      if (running > target) return i * lanes<T> + k;
    }
  }
  return last;
}

// As many short rows at once as a vector has lanes.
template <class T, class S>
INLINE_CALLS void draw_short(const Layout& of, const S* x, int rows, uint64_t seed, int64_t first,
                             int64_t* index) {
  const int64_t classes = of.classes;
  const Tile<T, true> t(classes);
  alignas(64) T weight[kShort * lanes<T>];
  of.load(x, rows, T(0), weight);
  const Vec<T> peak = t.most([&](int64_t j) { return t.at(weight, j); });
  Sum<T, true> sum;
  for (int64_t j = 0; j < classes; ++j) {
    const Vec<T> w = exp(t.at(weight, j) - peak);
    t.put(weight, j, w);
    sum.add(w);
  }
  const auto [b] = philox::blocks<1>(seed, {philox::positions(first, 0, philox::kDraw)});
  constexpr int part = lanes<double>;
  Wide<T> target = sum.lanes(), running{};
  std::array<IntVec<double>, target.size()> passed{};
  for (int r = 0; r < lanes<T>; ++r)
    target[r / part][r % part] *= philox::unit53(b.w[0][r], b.w[1][r]);
  for (int64_t j = 0; j < classes; ++j) {
    const Wide<T> w = widen(t.at(weight, j));
    for (size_t k = 0; k < w.size(); ++k) {
      running[k] += w[k];
      passed[k] -= running[k] <= target[k];
    }
  }
  for (int r = 0; r < lanes<T>; ++r)
    index[r] = target[r / part][r % part] >= 0 ? passed[r / part][r % part] : -1;
}

template <class T, class S>
void draw_rows(const Layout& of, const S* x, int64_t begin, int64_t end, uint64_t seed,
               int64_t offset, int64_t* index) {
  const int64_t classes = of.classes;
  int64_t row = begin;
  while (classes <= kShort && row < end) {
    int64_t drawn[lanes<T>];
    const int rows = of.together<T>(row, end);
    draw_short<T>(of, x + of.at(row), rows, seed, offset + row, drawn);
    std::copy(drawn, drawn + rows, index + row);
    row += rows;
  }
  for (; row < end; row += philox::kLanes) {
    const auto [b] = philox::blocks<1>(seed, {philox::positions(offset + row, 0, philox::kDraw)});
    for (int64_t r = 0; r < philox::kLanes && row + r < end; ++r)
      index[row + r] = draw_long<T>(x + (row + r) * classes, classes,
                                    philox::unit53(b.w[0][r], b.w[1][r]));
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

Tensor draw_index(const Tensor& given, const Tensor& seed, int64_t offset) {
  const Layout of(given);
  const Tensor logits = laid_out(of, given);
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), aoti_torch_dtype_int64());
  const uint64_t key = key_of(seed);
  int64_t* drawn = out<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    const auto* x = in<decltype(stored)>(logits);
    torch::stable::parallel_for(0, of.rows, grain(of.classes), [&](int64_t begin, int64_t end) {
      draw_rows<decltype(compute)>(of, x, begin, end, key, offset, drawn);
    });
  });
  return index;
}

std::tuple<Tensor, Tensor> draw(const Tensor& given, const Tensor& seed, int64_t offset) {
  const Layout of(given);
  const Tensor logits = laid_out(of, given);
  Tensor y = fresh_in(of, given);
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), aoti_torch_dtype_int64());
  const uint64_t key = key_of(seed);
  int64_t* drawn = out<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    torch::stable::parallel_for(0, of.rows, grain(of.classes), [&](int64_t begin, int64_t end) {
      draw_rows<T>(of, in<S>(logits), begin, end, key, offset, drawn);
      one_hot_rows(of, drawn, begin, end, out<S>(y));
    });
  });
  return {y, index};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  m.impl("draw_index", TORCH_BOX(&draw_index));
  m.impl("draw", TORCH_BOX(&draw));
}
