// The equations of MVE, of as many rows at once as a vector has lanes: the CPU kernel of mve.py.
#include "drawn.h"

namespace {

using namespace drawn;

// Symmetric equations with two right sides, solved by Cholesky's factors L D L^T.
class Equations {
 public:
  explicit Equations(int size) : size_(size), lower_(size * (size + 1) / 2) {}
  Doubles& at(int i, int j) { return lower_[i * (i + 1) / 2 + j]; }  // j <= i

  using Pair = std::array<Doubles, 2>;
  void solve(Pair* x) {
    Doubles column[kShort];
    for (int j = 0; j < size_; ++j) {
      const Doubles inverse = 1.0 / at(j, j);
      for (int i = j + 1; i < size_; ++i) {
        column[i] = at(i, j);
        const Doubles factor = column[i] * inverse;
        for (int k = j + 1; k <= i; ++k) at(i, k) -= factor * column[k];
        for (int side = 0; side < 2; ++side) x[i][side] -= factor * x[j][side];
      }
      for (int side = 0; side < 2; ++side) x[j][side] *= inverse;
    }
    for (int j = size_; j-- > 0;) {
      const Doubles inverse = 1.0 / at(j, j);
      for (int i = j + 1; i < size_; ++i)
        for (int side = 0; side < 2; ++side) x[j][side] -= at(i, j) * inverse * x[i][side];
    }
  }

 private:
  int size_;
  std::vector<Doubles> lower_;
};

// J diag(1/2 + half) y as in mve.py, of probabilities p and gradients g relative to the outcome's;
// it is left in p.
void pull(int size, Doubles epsilon, IntVec<double> chosen, Doubles* p, const Doubles* g) {
  const Doubles none{};
  const auto is_chosen = [&](int i) { return IntVec<double>{} + i == chosen; };
  Doubles at_chosen = none, weighted = none, weights = none, sum_of_diagonal = none;
  for (int i = 0; i < size; ++i) at_chosen = is_chosen(i) ? p[i] : at_chosen;
  Doubles sums[kShort], diagonal[kShort];
  Equations equations(size);
  Equations::Pair x[kShort];
  for (int i = 0; i < size; ++i) {
    const Doubles weight = g[i] / (epsilon + p[i] + at_chosen);
    weights += weight, weighted += weight * p[i];
    x[i][0] = weight * (p[i] + epsilon);
    sums[i] = p[i] / (epsilon + p[i] + p[i]), diagonal[i] = none;
  }
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < i; ++j) {
      const Doubles inverse = 1.0 / (epsilon + p[i] + p[j]), off = p[i] * p[j] * inverse;
      equations.at(i, j) = -off;
      sums[i] += p[j] * inverse, sums[j] += p[i] * inverse;
      diagonal[i] += off, diagonal[j] += off;
    }
  for (int i = 0; i < size; ++i) {
    x[i][0] = is_chosen(i) ? -weighted : x[i][0];
    x[i][1] = epsilon * sums[i];
    diagonal[i] += x[i][1];
    sum_of_diagonal += diagonal[i];
  }
  for (int i = 0; i < size; ++i) {
    const Doubles share = diagonal[i] / sum_of_diagonal;
    for (int j = 0; j < i; ++j) equations.at(i, j) += share * diagonal[j];
    equations.at(i, i) = diagonal[i] + share * diagonal[i];
  }
  equations.solve(x);
  Doubles above = weights, below = none;
  for (int i = 0; i < size; ++i) {
    above -= sums[i] * x[i][0];
    below += sums[i] * (1.0 - x[i][1]);
  }
  const Doubles eta = above / below;
  Doubles likeliest = p[0], reference = none, mean = none;
  for (int i = 0; i < size; ++i) {
    const Doubles half = epsilon / (2.0 * epsilon + 4.0 * p[i]), b = x[i][0], a = x[i][1];
    x[i][0] = 0.5 * (b - eta * a) + half * (b + eta * (1.0 - a));
    reference = p[i] >= likeliest ? x[i][0] : reference;
    likeliest = simd::max(p[i], likeliest);
  }
  for (int i = 0; i < size; ++i) mean += p[i] * (x[i][0] - reference);
  for (int i = 0; i < size; ++i) p[i] *= (x[i][0] - reference) - mean;
}

struct MVE : OfOutcome {
  double epsilon;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& row) const {
    if constexpr (Across) {
      const Drawn r(row, index);
      const int size = static_cast<int>(r.t.size());
      Doubles p[kShort], g[kShort];
      Wide<T> result[kShort];
      for (size_t part = 0; part < result[0].size(); ++part) {
        Doubles total{};
        IntVec<double> chosen;
        for (int lane = 0; lane < lanes<double>; ++lane)
          chosen[lane] = r.chosen[part * lanes<double> + lane];
        for (int i = 0; i < size; ++i) {
          p[i] = exp(widen(r.x(i))[part] - widen(r.peak)[part]);
          total += p[i];
          g[i] = widen(r.grad(i))[part] - widen(r.grad_chosen)[part];
        }
        for (int i = 0; i < size; ++i) p[i] /= total;
        pull(size, broadcast(epsilon), chosen, p, g);
        for (int i = 0; i < size; ++i) result[i][part] = p[i];
      }
      for (int i = 0; i < size; ++i) r.put(i, narrow(result[i]));
    }
  }
};

Tensor mve(const Tensor& logits, const Tensor& index, const Tensor& grad, double epsilon) {
  check_rows("logits", logits);
  if (logits.sizes().back() > kShort)
    refuse("logits must have at most ", kShort, " classes, got ", described(logits));
  return backward<MVE>(logits, index, grad, 0, 0, epsilon);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&mve>(m, "mve");
}
