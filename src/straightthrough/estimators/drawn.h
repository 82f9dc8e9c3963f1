// What formulas given the outcome of a draw share.
#pragma once
#include "../core/native/rows.h"

namespace drawn {

using namespace rows;

// A row with its outcome.
template <class T, bool Across, class S>
struct Drawn : Row<T, Across, S> {
  IntVec<T> chosen{};
  Vec<T> peak, grad_chosen;

  Drawn(const Row<T, Across, S>& row, const int64_t* index) : Row<T, Across, S>(row) {
    for (int r = 0; r < lanes<T>; ++r)
      if (!Across || r < row.count)
        chosen[r] = std::max<int64_t>(index[row.first + (Across ? r : 0)], 0);
    peak = row.peak();
    grad_chosen = row.t.pick(row.grads.from, chosen);
  }
  Vec<T> weight(int64_t i) const { return exp(this->x(i) - peak); }
  Vec<T> weight(int64_t i, T inverse_tau) const { return exp((this->x(i) - peak) * inverse_tau); }
  // The gradient to the one-hot, less its entry at the outcome.
  Vec<T> g(int64_t i) const { return this->grad(i) - grad_chosen; }
};

// What a formula given the outcome reads.
struct OfOutcome {
  static constexpr bool of_logits = true, of_grad = true;
  const int64_t* index;
};

template <class Formula, class... Fields>
Tensor backward(const Tensor& logits, const Tensor& index, const Tensor& grad, uint64_t key,
                int64_t offset, Fields... fields) {
  check_rows("logits", logits);
  check_grad(grad, logits);
  const Tensor drawn = ordered_index(index, logits);
  return over_rows(Formula{{in<int64_t>(drawn)}, fields...}, logits, grad, key, offset);
}

}  // namespace drawn
