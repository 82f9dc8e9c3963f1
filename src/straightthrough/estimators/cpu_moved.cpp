// Gradients given the outcome that is moved, or numbered: the CPU kernels of gapped.py and
// mve_integer.py, same names.
#include "drawn.h"

namespace {

using namespace drawn;

struct Gapped : OfOutcome {
  double tau, gap;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    T* e = r.scratch[0];
    const T inverse = T(1) / T(tau);
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> below = at_most(T(-gap), r.x(i) - r.peak);
      const Vec<T> w = r.t.classes_at(i) == r.chosen ? broadcast(T(1)) : exp(below * inverse);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 2>{w, w * r.g(i)};
    });
    const Vec<T> mean = weighted / total, factor = inverse / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.at(e, i) * factor * (r.g(i) - mean));
  }
};

struct MVEInteger : OfOutcome {
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    T* e = r.scratch[0];
    const auto number = [&](int64_t i) {
      return __builtin_convertvector(r.t.classes_at(i) - r.chosen, Vec<T>);
    };
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 2>{w, w * number(i)};
    });
    const Vec<T> mean = weighted / total;
    const auto square = [&](int64_t i) { return (number(i) - mean) * (number(i) - mean); };
    const auto [spread] = r.t.template sums<1>([&](int64_t i) {
      return std::array<Vec<T>, 1>{r.t.at(e, i) * square(i)};
    });
    const IntVec<T> first{}, second = first + (r.t.classes() > 1);
    const Vec<T> slope = r.t.pick(r.grads.from, second) - r.t.pick(r.grads.from, first);
    const T epsilon = std::max(T(1 / tau), std::numeric_limits<T>::min());
    const Vec<T> variance = spread / total, skew = mean / (epsilon + T(2) * variance);
    const Vec<T> factor = slope / total;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> pull = (number(i) - mean) - skew * (square(i) - variance);
      r.put(i, r.t.at(e, i) * factor * pull);
    }
  }
};

Tensor gapped(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau,
              double gap) {
  return backward<Gapped>(logits, index, grad, 0, 0, tau, gap);
}

Tensor mve_integer(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau) {
  return backward<MVEInteger>(logits, index, grad, 0, 0, tau);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&gapped>(m, "gapped");
  implement<&mve_integer>(m, "mve_integer");
}
