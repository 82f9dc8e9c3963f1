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
  const int64_t block = (classes / most / 256 + 1) * 256;
  const T rest = -std::numeric_limits<T>::infinity();
  Vec<T> top = broadcast(rest);
  for (int64_t j = 0; j < classes; j += lanes<T>)
    top = max(simd::load<T>(x + j, classes - j, rest), top);
  const T peak = largest(top);

  double sums[most + 1], total = 0;
  int64_t blocks = 0;
  for (int64_t j = 0; j < classes; j += block, ++blocks) {
    const int64_t end = std::min(classes, j + block);
    Sum<T, false> sum;
    for (int64_t i = j; i < end; i += lanes<T>)
      sum.add(exp(simd::load<T>(x + i, end - i, rest) - peak));
    total += sums[blocks] = sum.total();
  }
  if (total != total) return -1;

  const double target = uniform * total;
  double running = 0;
  int64_t b = 0;
  while (b + 1 < blocks && running + sums[b] <= target) running += sums[b++];
  int64_t last = -1;
  for (int64_t j = b * block; j < classes; j += lanes<T>) {
    const Vec<T> weight = exp(simd::load<T>(x + j, classes - j, rest) - peak);
    Sum<T, false> sum;
    sum.add(weight);
    const double whole = sum.total();
    if (whole > 0 && running + whole <= target) {
      running += whole;
      last = j + last_positive(weight);
      continue;
    }
    for (int64_t i = 0; i < lanes<T>; ++i) {
      if (weight[i] > 0) last = j + i;
      running += weight[i];
      if (running > target) return j + i;
    }
  }
  return last;
}

// Sixteen short rows at once (eight in double precision).
template <class T, class S>
void draw_short(const S* x, int64_t classes, int rows, uint64_t seed, int64_t first,
                int64_t* index) {
  const Tile<T, true> t(classes);
  alignas(64) T weight[kShort * lanes<T>];
  t.load(x, rows, T(0), weight);
  Vec<T> peak = t.at(weight, 0);
  for (int64_t j = 1; j < classes; ++j) peak = max(t.at(weight, j), peak);
  Sum<T, true> sum;
  for (int64_t j = 0; j < classes; ++j) {
    const Vec<T> w = exp(t.at(weight, j) - peak);
    t.put(weight, j, w);
    sum.add(w);
  }
  const philox::Block b = philox::at_positions(seed, first, 0, philox::kDraw);
  alignas(64) double target[lanes<T>], running[lanes<T>]{};
  sum.totals(target);
  for (int r = 0; r < lanes<T>; ++r) {
    index[r] = target[r] == target[r] ? 0 : -classes - 1;
    target[r] *= philox::unit53(b.w[0][r], b.w[1][r]);
  }
  for (int64_t j = 0; j < classes; ++j)
    for (int r = 0; r < lanes<T>; ++r) {
      running[r] += weight[j * lanes<T> + r];
      index[r] += running[r] <= target[r];
    }
  for (int r = 0; r < lanes<T>; ++r) index[r] = index[r] < 0 ? -1 : index[r];
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
  for (; row < end; row += 16) {
    const philox::Block b = philox::at_positions(seed, offset + row, 0, philox::kDraw);
    for (int64_t r = 0; r < 16 && row + r < end; ++r)
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

template <class T, bool Across>
struct Row {
  const Tile<T, Across>& t;
  T* x;          // logits in, the formula's own afterwards
  const T* g;    // the gradient to the one-hot, less its entry at the outcome
  T* out;
  T* scratch;
  IntVec<T> chosen;
  uint64_t seed;
  int64_t position;
};

// Put exp((x - max x) / tau) into `to`; return one over its sum.
template <class T, bool Across>
Vec<T> softmax(const Tile<T, Across>& t, const T* x, T tau, T* to) {
  Vec<T> peak = t.at(x, 0);
  for (int64_t i = 1; i < t.size(); ++i) peak = max(t.at(x, i), peak);
  peak = t.reduce_max(peak);
  const T inverse = T(1) / tau;
  Sum<T, Across> total;
  for (int64_t i = 0; i < t.size(); ++i) {
    const Vec<T> e = exp((t.at(x, i) - peak) * inverse);
    t.put(to, i, e);
    total.add(e);
  }
  return T(1) / total.value();
}

template <class T, bool Across>
Vec<T> dot(const Tile<T, Across>& t, const T* a, const T* b) {
  Sum<T, Across> sum;
  for (int64_t i = 0; i < t.size(); ++i) sum.add(t.at(a, i) * t.at(b, i));
  return sum.value();
}

struct StraightThrough {
  double tau;
  template <class T, bool Across>
  void operator()(const Row<T, Across>& r) const {
    const Vec<T> scale = softmax(r.t, r.x, static_cast<T>(tau), r.x);
    const Vec<T> mean = dot(r.t, r.x, r.g) * scale, factor = scale / T(tau);
    for (int64_t i = 0; i < r.t.size(); ++i)
      r.t.put(r.out, i, r.t.at(r.x, i) * factor * (r.t.at(r.g, i) - mean));
  }
};

struct ReinMax {
  double tau;
  template <class T, bool Across>
  void operator()(const Row<T, Across>& r) const {
    if (tau != 1) return general(r);
    const Vec<T> scale = softmax(r.t, r.x, T(1), r.x) * T(0.5);
    Sum<T, Across> others;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> other = scale * r.t.at(r.x, i) * r.t.at(r.g, i);
      others.add(other);
      r.t.put(r.out, i, other);
    }
    r.t.set(r.out, r.chosen, -others.value());
  }

 private:
  template <class T, bool Across>
  void general(const Row<T, Across>& r) const {
    const Vec<T> warm = softmax(r.t, r.x, T(tau), r.scratch) * T(0.5);
    const Vec<T> scale = softmax(r.t, r.x, T(1), r.x);
    const Vec<T> middle_mean = dot(r.t, r.scratch, r.g) * warm;
    const Vec<T> mean = dot(r.t, r.x, r.g) * scale;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> g = r.t.at(r.g, i), m = r.t.at(r.scratch, i) * warm;
      const Vec<T> middle = r.t.classes_at(i) == r.chosen ? m + T(0.5) : m;
      const Vec<T> p = r.t.at(r.x, i) * scale;
      r.t.put(r.out, i, T(2) * middle * (g - middle_mean) - T(0.5) * p * (g - mean));
    }
  }
};

// The mean over `samples` conditional draws; with one sample, straight-through Gumbel-softmax.
// Relative to the outcome's weight of 1, class j weighs (E_x p_j / (E_j + E_x p_j))^(1 / tau).
struct Gumbel {
  double tau;
  int64_t samples;
  template <class T, bool Across>
  void operator()(const Row<T, Across>& r) const {
    const Vec<T> scale = softmax(r.t, r.x, T(1), r.x);
    for (int64_t i = 0; i < r.t.size(); ++i) r.t.put(r.out, i, Vec<T>{});
    for (int64_t k = 0; k < samples; ++k) {
      const auto tag = static_cast<uint32_t>(philox::kConditional + 256 * k);
      r.t.uniforms(r.seed, r.position, tag, r.scratch);
      const Vec<T> least = -log1m(r.t.pick(r.scratch, r.chosen));
      Sum<T, Across> total, weighted;
      for (int64_t i = 0; i < r.t.size(); ++i) {
        const Vec<T> part = least * (r.t.at(r.x, i) * scale);
        const Vec<T> ratio = part * reciprocal(part - log1m(r.t.at(r.scratch, i)));
        Vec<T> y = power(ratio);
        y = r.t.classes_at(i) == r.chosen ? broadcast(T(1)) : y;
        r.t.put(r.scratch, i, y);
        total.add(y);
        weighted.add(y * r.t.at(r.g, i));
      }
      const Vec<T> inverse = T(1) / total.value(), mean = weighted.value() * inverse;
      const Vec<T> factor = inverse * T(1 / (tau * samples));
      for (int64_t i = 0; i < r.t.size(); ++i) {
        const Vec<T> add = r.t.at(r.scratch, i) * factor * (r.t.at(r.g, i) - mean);
        r.t.put(r.out, i, r.t.at(r.out, i) + add);
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

template <class T, bool Across, class S, class Formula>
void backward_tiles(const Formula& formula, const S* x, const S* g, const int64_t* index,
                    int64_t classes, int64_t begin, int64_t end, uint64_t seed, int64_t offset,
                    S* out) {
  const Tile<T, Across> t(classes);
  const int64_t step = Across ? lanes<T> : 1, size = t.padded();
  std::vector<T> memory(4 * size + 16);
  void* start = memory.data();
  size_t space = memory.size() * sizeof(T);
  T* a = static_cast<T*>(std::align(64, 4 * size * sizeof(T), start, space));
  for (int64_t row = begin; row < end; row += step) {
    const int rows = static_cast<int>(std::min(step, end - row));
    t.load(x + row * classes, rows, -std::numeric_limits<T>::infinity(), a);
    t.load(g + row * classes, rows, T(0), a + size);
    IntVec<T> chosen{};
    if constexpr (Across) {
      for (int r = 0; r < rows; ++r) chosen[r] = std::max<int64_t>(index[row + r], 0);
    } else {
      chosen = chosen + static_cast<typename Traits<T>::Int>(std::max<int64_t>(index[row], 0));
    }
    const Vec<T> at_x = t.pick(a + size, chosen);
    for (int64_t i = 0; i < t.size(); ++i) t.put(a + size, i, t.at(a + size, i) - at_x);
    formula(Row<T, Across>{t, a, a + size, a + 2 * size, a + 3 * size, chosen, seed, offset + row});
    t.store(out + row * classes, rows, a + 2 * size);
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
  const std::vector<int64_t> shape(logits.sizes().begin(), logits.sizes().end() - 1);
  Tensor index = torch::stable::new_empty(logits, shape, ScalarType::Long);
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
  const std::vector<int64_t> shape(logits.sizes().begin(), logits.sizes().end() - 1);
  Tensor y = torch::stable::empty_like(logits);
  Tensor index = torch::stable::new_empty(logits, shape, ScalarType::Long);
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
  Tensor result = torch::stable::empty_like(logits);
  const auto* chosen = in<int64_t>(index);
  dispatch(logits.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *x = in<S>(logits), *g = in<S>(grad);
    S* to = out<S>(result);
    over_rows(rows, classes, [&](int64_t begin, int64_t end) {
      if (classes <= kShort)
        backward_tiles<T, true>(formula, x, g, chosen, classes, begin, end, key, offset, to);
      else
        backward_tiles<T, false>(formula, x, g, chosen, classes, begin, end, key, offset, to);
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
