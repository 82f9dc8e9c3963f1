// Soft categorical values: the CPU kernel of `gumbel_softmax` in reference.py.
#include "../../core/native/rows.h"

namespace {

using namespace rows;

// softmax((x + G) / tau). With E = exp(-G), which is Exp(1), its weights are (e^x / E)^(1 / tau).
struct GumbelSoftmax {
  static constexpr bool of_logits = true, of_grad = false;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    T* w = r.scratch[0];
    const bool product = tau == 1 || tau == 0.5;  // in range as it is, else by its logarithm
    const Vec<T> peak = r.peak();
    r.t.with_uniforms(r.seed, r.position, philox::kConditional, [&](int64_t i, Vec<T> u) {
      const Vec<T> x = r.x(i) - peak, e = -log1m(u);
      r.t.put(w, i, product ? exp(x) / e : x - log_normal(e));
    });
    const T inverse = T(1) / T(tau);
    const Vec<T> top = r.t.highest([&](int64_t i) { return r.t.at(w, i); });
    const auto [total] = r.t.template sums<1>([&](int64_t i) {
      Vec<T> v = r.t.at(w, i);
      if (tau == 0.5) v = v * v;
      if (!product) v = exp((v - top) * inverse);
      r.t.put(w, i, v);
      return std::array<Vec<T>, 1>{v};
    });
    const Vec<T> scale = T(1) / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.at(w, i) * scale);
  }
};

Tensor gumbel_softmax(const Tensor& logits, double tau, const Tensor& seed, int64_t offset) {
  check_rows("logits", logits);
  return over_rows(GumbelSoftmax{tau}, logits, logits, key_of(seed, offset), offset);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&gumbel_softmax>(m, "gumbel_softmax");
}
