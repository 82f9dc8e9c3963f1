// Soft categorical values and their gradients: the CPU kernels of `gumbel_softmax` in reference.py
// and of estimators/softmax.py, same names, same order.
#include "../../core/operators.h"
#include "../../core/tile.h"

namespace {

using namespace operators;
using namespace tile;

template <class T>
constexpr T kNone = -std::numeric_limits<T>::infinity();

template <class T, bool Across, class S>
struct Row {
  const Tile<T, Across>& t;
  Source<T, Across, S> x, grad;
  Sink<T, Across, S> out;
  T* scratch;
  uint64_t seed;
  int64_t position;

  Vec<T> peak() const {
    return t.most([&](int64_t i) { return x[i]; });
  }

  // Write J(y) g / tau, y in proportion to weight(i). J(y) sends constants to 0: relative to g of
  // the likeliest class a row that is all but certain loses no digits.
  template <class F>
  void pull(Vec<T> peak, double tau, const F& weight) const {
    const Vec<T> likeliest =
        t.most([&](int64_t i) { return x[i] == peak ? grad[i] : broadcast(kNone<T>); });
    const auto [total, weighted] = t.template sums<2>([&](int64_t i) {
      const Vec<T> w = weight(i);
      t.put(scratch, i, w);
      return std::array<Vec<T>, 2>{w, w * (grad[i] - likeliest)};
    });
    const Vec<T> mean = weighted / total, factor = T(1) / T(tau) / total;
    for (int64_t i = 0; i < t.size(); ++i)
      out.put(i, t.at(scratch, i) * factor * ((grad[i] - likeliest) - mean));
  }
};

// softmax((x + G) / tau). With E = exp(-G), which is Exp(1), its weights are (e^x / E)^(1 / tau).
struct GumbelSoftmax {
  static constexpr bool of_logits = true, of_grad = false;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    T* w = r.scratch;
    const bool product = tau == 1 || tau == 0.5;  // in range as it is, else by its logarithm
    const Vec<T> peak = r.peak();
    r.t.with_uniforms(r.seed, r.position, philox::kConditional, [&](int64_t i, Vec<T> u) {
      const Vec<T> x = r.x[i] - peak, e = -log1m(u);
      r.t.put(w, i, product ? exp(x) / e : x - log_normal(e));
    });
    const T inverse = T(1) / T(tau);
    const Vec<T> top = r.t.most([&](int64_t i) { return r.t.at(w, i); });
    const auto [total] = r.t.template sums<1>([&](int64_t i) {
      Vec<T> v = r.t.at(w, i);
      if (tau == 0.5) v = v * v;
      if (!product) v = exp((v - top) * inverse);
      r.t.put(w, i, v);
      return std::array<Vec<T>, 1>{v};
    });
    const Vec<T> scale = T(1) / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.out.put(i, r.t.at(w, i) * scale);
  }
};

struct SoftmaxBackward {
  static constexpr bool of_logits = false, of_grad = true;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    r.pull(r.peak(), tau, [&](int64_t i) { return r.x[i]; });
  }
};

struct SoftmaxGradient {
  static constexpr bool of_logits = true, of_grad = true;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    const Vec<T> peak = r.peak();
    const T inverse = T(1) / T(tau);
    r.pull(peak, tau, [&](int64_t i) { return exp((r.x[i] - peak) * inverse); });
  }
};

template <class T, class S, class Formula>
void rows_of(const Formula& formula, const S* x, const S* g, int64_t classes, int64_t begin,
             int64_t end, uint64_t seed, int64_t offset, S* out) {
  constexpr T rest = Formula::of_logits ? kNone<T> : T(0);
  const bool across = classes <= kShort;
  const int64_t size = (across ? classes : (classes + lanes<T> - 1) / lanes<T>) * lanes<T>;
  std::vector<T> memory(4 * size + 16);
  void* start = memory.data();
  size_t space = memory.size() * sizeof(T);
  T* scratch = static_cast<T*>(std::align(64, 4 * size * sizeof(T), start, space));
  if (!across) {
    const Tile<T, false> t(classes);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * classes;
      formula(Row<T, false, S>{t, {t, x + at, rest}, {t, g + at, T(0)}, {t, out + at}, scratch,
                               seed, offset + row});
    }
    return;
  }
  const Tile<T, true> t(classes);
  T *tile = scratch + size, *grad = tile + size, *result = grad + size;
  for (int64_t row = begin; row < end; row += lanes<T>) {
    const int rows = static_cast<int>(std::min<int64_t>(lanes<T>, end - row));
    const int64_t at = row * classes;
    load_short<T>(x + at, classes, rows, rest, tile);
    if (Formula::of_grad) load_short<T>(g + at, classes, rows, T(0), grad);
    formula(Row<T, true, T>{t, {t, tile, rest}, {t, grad, T(0)}, {t, result}, scratch, seed,
                            offset + row});
    store_short(out + at, classes, rows, result);
  }
}

// A formula without a gradient is given its input in the place of one.
template <class Formula>
Tensor over_rows(const Formula& formula, const Tensor& given, const Tensor& given_grad,
                 uint64_t key = 0, int64_t offset = 0) {
  const Tensor input = ordered(given), grad = ordered_like(given, given_grad);
  const int64_t classes = input.sizes().back(), rows = input.numel() / classes;
  const int64_t grain = (16384 / classes / 16 + 1) * 16;
  Tensor result = fresh_like(input);
  dispatch(input.scalar_type(), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(input), *g = in<S>(grad);
    S* to = out<S>(result);
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      rows_of<decltype(compute)>(formula, x, g, classes, begin, end, key, offset, to);
    });
  });
  return result;
}

Tensor gumbel_softmax(const Tensor& logits, const Tensor& seed, int64_t offset, double tau) {
  return over_rows(GumbelSoftmax{tau}, logits, logits, key_of(seed), offset);
}

Tensor softmax_backward(const Tensor& y, const Tensor& grad, double tau) {
  return over_rows(SoftmaxBackward{tau}, y, grad);
}

Tensor softmax_gradient(const Tensor& x, const Tensor& grad, double tau) {
  return over_rows(SoftmaxGradient{tau}, x, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  m.impl("gumbel_softmax", TORCH_BOX(&gumbel_softmax));
  m.impl("softmax_backward", TORCH_BOX(&softmax_backward));
  m.impl("softmax_gradient", TORCH_BOX(&softmax_gradient));
}
