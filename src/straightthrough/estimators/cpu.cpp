// Gradients given the outcome, one formula an estimator: the CPU kernels of straight_through.py,
// darn.py, reinmax.py and gumbel.py, same names.
#include "drawn.h"

namespace {

using namespace drawn;

struct StraightThrough : OfOutcome {
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    T* e = r.scratch[0];
    const T inverse = T(1) / T(tau);
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i, inverse);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 2>{w, w * r.g(i)};
    });
    const Vec<T> mean = weighted / total, factor = inverse / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.at(e, i) * factor * (r.g(i) - mean));
  }
};

struct Darn : OfOutcome {
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    T* e = r.scratch[0];
    const auto [total, others, weighted] = r.t.template sums<3>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i), zero{};
      r.t.put(e, i, w);
      const Vec<T> other = r.t.classes_at(i) == r.chosen ? zero : w;
      return std::array<Vec<T>, 3>{w, other, w * r.g(i)};
    });
    const Vec<T> factor = weighted / total / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.at(e, i) * factor);
    r.t.set(r.out, r.chosen, -others * factor);
  }
};

struct ReinMax : OfOutcome {
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    if (tau != 1) return general(r);
    T* others = r.scratch[0];
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i), other = w * r.g(i);
      r.t.put(others, i, other);
      return std::array<Vec<T>, 2>{w, other};
    });
    const Vec<T> factor = T(0.5) / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.at(others, i) * factor);
    r.t.set(r.out, r.chosen, -weighted * factor);
  }

 private:
  template <class T, bool Across, class S>
  void general(const Drawn<T, Across, S>& r) const {
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
    const Vec<T> warm_factor = T(0.5) / warm_total;
    const Vec<T> middle_mean = T(0.5) * warm_weighted / warm_total;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> g = r.g(i), m = r.t.at(warm, i) * warm_factor;
      const Vec<T> middle = r.t.classes_at(i) == r.chosen ? m + T(0.5) : m;
      r.put(i, T(2) * middle * (g - middle_mean) - r.t.at(e, i) * factor * (g - mean));
    }
  }
};

// The mean over `samples` conditional draws; with one sample, straight-through Gumbel-softmax.
// Relative to the outcome's weight of 1, class j weighs (E_x p_j / (E_j + E_x p_j))^(1 / tau).
struct Gumbel : OfOutcome {
  double tau;
  int64_t samples;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    const Drawn r(row, index);
    if (tau == 1) return average(r, [](Vec<T> ratio) { return ratio; }, Across);
    if (tau == 0.5) return average(r, [](Vec<T> ratio) { return ratio * ratio; }, Across);
    const T inverse = T(1 / tau);
    average(r, [=](Vec<T> ratio) { return exp(log(ratio) * inverse); }, true);
  }

 private:
  // The noise is taken to its logarithm in a loop `apart` where one loop would crowd the registers.
  template <class T, bool Across, class S, class Power>
  ALWAYS_INLINE void average(const Drawn<T, Across, S>& r, const Power& power, bool apart) const {
    T *e = r.scratch[0], *noise = r.scratch[1], *so_far = r.scratch[2];
    const auto [total] = r.t.template sums<1>([&](int64_t i) {
      r.fetch_ahead(i);
      const Vec<T> w = r.weight(i);
      r.t.put(e, i, w);
      return std::array<Vec<T>, 1>{w};
    });
    for (int64_t k = 0; k < samples; ++k) {
      const uint32_t tag = philox::conditional(k);
      r.t.with_uniforms(r.seed, r.position, tag,
                        [&](int64_t i, Vec<T> u) { r.t.put(noise, i, u); });
      if (apart)
        for (int64_t i = 0; i < r.t.size(); ++i) r.t.put(noise, i, -log1m(r.t.at(noise, i)));
      const Vec<T> chosen = r.t.pick(noise, r.chosen);
      const Vec<T> least = (apart ? chosen : -log1m(chosen)) / total;
      const auto [sum, weighted] = r.t.template sums<2>([&](int64_t i) {
        const Vec<T> part = least * r.t.at(e, i), own = r.t.at(noise, i);
        Vec<T> y = power(part / (part + (apart ? own : -log1m(own))));
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
          r.put(i, all);
      }
    }
  }
};

Tensor straight_through(const Tensor& logits, const Tensor& index, const Tensor& grad,
                        double tau) {
  return backward<StraightThrough>(logits, index, grad, 0, 0, tau);
}

Tensor darn(const Tensor& logits, const Tensor& index, const Tensor& grad) {
  return backward<Darn>(logits, index, grad, 0, 0);
}

Tensor reinmax(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau) {
  return backward<ReinMax>(logits, index, grad, 0, 0, tau);
}

Tensor gumbel_st(const Tensor& logits, const Tensor& index, const Tensor& grad, double tau,
                 int64_t samples, const Tensor& seed, int64_t offset) {
  check_samples(samples);
  return backward<Gumbel>(logits, index, grad, key_of(seed, offset), offset, tau, samples);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&straight_through>(m, "straight_through");
  implement<&darn>(m, "darn");
  implement<&reinmax>(m, "reinmax");
  implement<&gumbel_st>(m, "gumbel_st");
}
