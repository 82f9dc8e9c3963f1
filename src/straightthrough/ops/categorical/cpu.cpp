// Categorical operators: the CPU kernels of reference.py, same names, same order.
#include "../../core/operators.h"
#include "../../core/tile.h"

namespace {

using namespace operators;
using namespace tile;

// ---- forward: the index by inverse CDF, in double sums ----

template <class V>
int64_t last_positive(V weight) {
  int64_t i = lanes<Lane<V>> - 1;
  while (i > 0 && !(weight[i] > 0)) --i;
  return i;
}

// One row: sums of blocks first, then a walk through the block that holds the target.
template <class T, class S>
int64_t draw_long(const S* x, int64_t classes, double uniform) {
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
void draw_short(const S* x, int64_t classes, int rows, uint64_t seed, int64_t first,
                int64_t* index) {
  const Tile<T, true> t(classes);
  alignas(64) T weight[kShort * lanes<T>];
  load_short<T>(x, classes, rows, T(0), weight);
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
void draw_rows(const S* x, int64_t classes, int64_t begin, int64_t end, uint64_t seed,
               int64_t offset, int64_t* index) {
  int64_t row = begin;
  if (classes <= kShort)
    for (; row < end; row += lanes<T>) {
      int64_t drawn[lanes<T>];
      const int rows = static_cast<int>(std::min<int64_t>(lanes<T>, end - row));
      draw_short<T>(x + row * classes, classes, rows, seed, offset + row, drawn);
      std::copy(drawn, drawn + rows, index + row);
    }
  for (; row < end; row += philox::kLanes) {
    const auto [b] = philox::blocks<1>(seed, {philox::positions(offset + row, 0, philox::kDraw)});
    for (int64_t r = 0; r < philox::kLanes && row + r < end; ++r)
      index[row + r] = draw_long<T>(x + (row + r) * classes, classes,
                                    philox::unit53(b.w[0][r], b.w[1][r]));
  }
}

template <class S>
void one_hot_rows(const int64_t* index, int64_t classes, int64_t begin, int64_t end, S* y) {
  std::memset(static_cast<void*>(y + begin * classes), 0, (end - begin) * classes * sizeof(S));
  for (int64_t row = begin; row < end; ++row) {
    if (index[row] >= 0)
      y[row * classes + index[row]] = narrow<S>(1.0f);
    else
      std::fill_n(y + row * classes, classes, narrow<S>(std::nanf("")));
  }
}

// ---- backward: one formula an estimator, over a tile ----

template <class T, bool Across, class S>
struct Row {
  const Tile<T, Across>& t;
  Source<T, Across, S> logits, grad;
  Sink<T, Across, S> out;
  T* scratch[3];
  IntVec<T> chosen;
  uint64_t seed;
  int64_t position;
  Vec<T> peak, grad_chosen;

  Vec<T> weight(int64_t i) const { return exp(logits[i] - peak); }
  Vec<T> weight(int64_t i, T inverse_tau) const { return exp((logits[i] - peak) * inverse_tau); }
  // The gradient to the one-hot, less its entry at the outcome.
  Vec<T> g(int64_t i) const { return grad[i] - grad_chosen; }
  void fetch_ahead(int64_t i) const {
    logits.fetch_ahead(i);
    grad.fetch_ahead(i);
  }
};

struct StraightThrough {
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    T* e = r.scratch[0];
    const T inverse = T(1) / T(tau);
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i, inverse);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 2>{w, w * r.g(i)};
    });
    const Vec<T> mean = weighted / total, factor = inverse / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.out.put(i, r.t.at(e, i) * factor * (r.g(i) - mean));
  }
};

struct ReinMax {
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    if (tau != 1) return general(r);
    T* others = r.scratch[0];
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i), other = w * r.g(i);
      r.t.put(others, i, other);
      return std::array<Vec<T>, 2>{w, other};
    });
    const Vec<T> factor = T(0.5) / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.out.put(i, r.t.at(others, i) * factor);
    r.out.set(r.chosen, -weighted * factor);
  }

 private:
  template <class T, bool Across, class S>
  void general(const Row<T, Across, S>& r) const {
    T *e = r.scratch[0], *warm = r.scratch[1];
    const T inverse = T(1) / T(tau);
    const auto [total, weighted, warm_total, warm_weighted] =
        r.t.template sums<4>([&](int64_t i) {
          r.fetch_ahead(i);
          const Vec<T> w = r.weight(i), h = r.weight(i, inverse), g = r.g(i);
          r.t.put(e, i, w);
          r.t.put(warm, i, h);
          return std::array<Vec<T>, 4>{w, w * g, h, h * g};
        });
    const Vec<T> factor = T(0.5) / total, mean = weighted / total;
    const Vec<T> warm_factor = T(0.5) / warm_total, middle_mean = T(0.5) * warm_weighted / warm_total;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> g = r.g(i), m = r.t.at(warm, i) * warm_factor;
      const Vec<T> middle = r.t.classes_at(i) == r.chosen ? m + T(0.5) : m;
      r.out.put(i, T(2) * middle * (g - middle_mean) - r.t.at(e, i) * factor * (g - mean));
    }
  }
};

// The mean over `samples` conditional draws; with one sample, straight-through Gumbel-softmax.
// Relative to the outcome's weight of 1, class j weighs (E_x p_j / (E_j + E_x p_j))^(1 / tau).
struct Gumbel {
  double tau;
  int64_t samples;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    T *e = r.scratch[0], *noise = r.scratch[1], *so_far = r.scratch[2];
    const auto [total] = r.t.template sums<1>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 1>{w};
    });
    for (int64_t k = 0; k < samples; ++k) {
      const auto tag = static_cast<uint32_t>(philox::kConditional + 256 * k);
      r.t.with_uniforms(r.seed, r.position, tag,
                        [&](int64_t i, Vec<T> u) { r.t.put(noise, i, -log1m(u)); });
      const Vec<T> least = r.t.pick(noise, r.chosen) / total;
      const auto [sum, weighted] = r.t.template sums<2>([&](int64_t i) {
        const Vec<T> part = least * r.t.at(e, i);
        Vec<T> y = power(part / (part + r.t.at(noise, i)));
        y = r.t.classes_at(i) == r.chosen ? broadcast(T(1)) : y;
        r.t.put(noise, i, y);
        return std::array<Vec<T>, 2>{y, y * r.g(i)};
      });
      const Vec<T> mean = weighted / sum, factor = T(1 / (tau * samples)) / sum;
      for (int64_t i = 0; i < r.t.size(); ++i) {
        const Vec<T> own = r.t.at(noise, i) * factor * (r.g(i) - mean);
        const Vec<T> all = k == 0 ? own : r.t.at(so_far, i) + own;
        if (k + 1 < samples)
          r.t.put(so_far, i, all);
        else
          r.out.put(i, all);
      }
    }
  }

 private:
  template <class V>
  V power(V ratio) const {
    if (tau == 1) return ratio;
    if (tau == 0.5) return ratio * ratio;
    return simd::exp(simd::log(ratio) * Lane<V>(1 / tau));
  }
};

// `rows` rows of a tile, or one long row where it lies.
template <class T, bool Across, class S, class Formula>
void backward_tile(const Formula& formula, const Tile<T, Across>& t, const S* x, const S* g,
                   const int64_t* index, int rows, uint64_t seed, int64_t position, T* scratch,
                   S* out) {
  const Source<T, Across, S> logits(t, x, -std::numeric_limits<T>::infinity()), grad(t, g, T(0));
  IntVec<T> chosen{};
  for (int r = 0; r < lanes<T>; ++r)
    chosen[r] = r < rows || !Across ? std::max<int64_t>(index[Across ? r : 0], 0) : 0;
  const Vec<T> peak = t.most([&](int64_t i) { return logits[i]; });
  const int64_t size = t.padded();
  formula(Row<T, Across, S>{t, logits, grad, Sink<T, Across, S>(t, out),
                            {scratch, scratch + size, scratch + 2 * size}, chosen, seed, position,
                            peak, grad.pick(chosen)});
}

template <class T, class S, class Formula>
void backward_rows(const Formula& formula, const S* x, const S* g, const int64_t* index,
                   int64_t classes, int64_t begin, int64_t end, uint64_t seed, int64_t offset,
                   S* out) {
  const bool across = classes <= kShort;
  const int64_t size = (across ? classes : (classes + lanes<T> - 1) / lanes<T>) * lanes<T>;
  std::vector<T> memory(6 * size + 16);
  void* start = memory.data();
  size_t space = memory.size() * sizeof(T);
  T* scratch = static_cast<T*>(std::align(64, 6 * size * sizeof(T), start, space));
  if (!across) {
    const Tile<T, false> t(classes);
    for (int64_t row = begin; row < end; ++row)
      backward_tile<T, false, S>(formula, t, x + row * classes, g + row * classes, index + row, 1,
                                 seed, offset + row, scratch, out + row * classes);
    return;
  }
  const Tile<T, true> t(classes);
  T *logits = scratch + 3 * size, *grad = logits + size, *result = grad + size;
  for (int64_t row = begin; row < end; row += lanes<T>) {
    const int rows = static_cast<int>(std::min<int64_t>(lanes<T>, end - row));
    const T rest = -std::numeric_limits<T>::infinity();
    load_short<T>(x + row * classes, classes, rows, rest, logits);
    load_short<T>(g + row * classes, classes, rows, T(0), grad);
    backward_tile<T, true, T>(formula, t, logits, grad, index + row, rows, seed, offset + row,
                              scratch, result);
    store_short(out + row * classes, classes, rows, result);
  }
}

// ---- the operators ----

int64_t grain(int64_t classes) {
  const int64_t rows = std::max<int64_t>(1, 16384 / std::max<int64_t>(classes, 1));
  return (rows + 15) / 16 * 16;
}

template <class F>
void over_rows(int64_t rows, int64_t classes, const F& f) {
  torch::stable::parallel_for(0, rows, grain(classes), f);
}

Tensor draw_index(const Tensor& given, const Tensor& seed, int64_t offset) {
  const Tensor logits = ordered(given);
  const int64_t classes = logits.sizes().back(), rows = logits.numel() / classes;
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), aoti_torch_dtype_int64());
  const uint64_t key = key_of(seed);
  int64_t* drawn = out<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    const auto* x = in<decltype(stored)>(logits);
    over_rows(rows, classes, [&](int64_t begin, int64_t end) {
      draw_rows<decltype(compute)>(x, classes, begin, end, key, offset, drawn);
    });
  });
  return index;
}

std::tuple<Tensor, Tensor> draw(const Tensor& given, const Tensor& seed, int64_t offset) {
  const Tensor logits = ordered(given);
  const int64_t classes = logits.sizes().back(), rows = logits.numel() / classes;
  Tensor y = fresh_like(logits);
  Tensor index = fresh(logits.sizes().slice(0, logits.dim() - 1), aoti_torch_dtype_int64());
  const uint64_t key = key_of(seed);
  int64_t* drawn = out<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    over_rows(rows, classes, [&](int64_t begin, int64_t end) {
      draw_rows<T>(in<S>(logits), classes, begin, end, key, offset, drawn);
      one_hot_rows(drawn, classes, begin, end, out<S>(y));
    });
  });
  return {y, index};
}

template <class Formula>
Tensor backward(const Formula& formula, const Tensor& given, const Tensor& given_index,
                const Tensor& given_grad, uint64_t key, int64_t offset) {
  const Tensor logits = ordered(given), index = ordered(given_index);
  const Tensor grad = ordered_like(given, given_grad);
  const int64_t classes = logits.sizes().back(), rows = logits.numel() / classes;
  Tensor result = fresh_like(logits);
  const auto* chosen = in<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *x = in<S>(logits), *g = in<S>(grad);
    S* to = out<S>(result);
    over_rows(rows, classes, [&](int64_t begin, int64_t end) {
      backward_rows<T>(formula, x, g, chosen, classes, begin, end, key, offset, to);
    });
  });
  return result;
}

Tensor straight_through(const Tensor& logits, const Tensor& index, const Tensor& grad,
                        double tau) {
  return backward(StraightThrough{tau}, logits, index, grad, 0, 0);
}

Tensor reinmax(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau) {
  return backward(ReinMax{tau}, logits, index, grad, 0, 0);
}

Tensor gumbel_st(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau,
              int64_t samples, const Tensor& seed, int64_t offset) {
  const uint64_t key = key_of(seed);
  return backward(Gumbel{tau, samples}, logits, index, grad, key, offset);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  m.impl("draw_index", TORCH_BOX(&draw_index));
  m.impl("draw", TORCH_BOX(&draw));
  m.impl("straight_through", TORCH_BOX(&straight_through));
  m.impl("reinmax", TORCH_BOX(&reinmax));
  m.impl("gumbel_st", TORCH_BOX(&gumbel_st));
}
