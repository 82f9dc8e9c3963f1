// Exact draws of k of n: the CPU kernel of reference.py.
#include "../../estimators/subset_tree.h"

namespace {

using namespace subset_tree;

// How many leaves of each node are chosen, from the root to the leaves.
template <bool Across>
class Descent {
 public:
  Descent(Tree<Across>& tree, int64_t k)
      : tree_(tree), k_(k), uniforms_(tree.nodes(0)), counts_(tree.nodes(0)), cumulative_(k + 1) {}

  const std::vector<int64_t>& operator()(uint64_t seed, int64_t position) {
    const Tile<double, Across> t(tree_.nodes(0) / tree_.kRows);
    t.with_uniforms(seed, position, philox::kDraw,
                    [&](int64_t i, Doubles u) { t.put(uniforms_.data(), i, u); });
    std::fill_n(counts_.begin(), tree_.kRows, k_);
    const double* uniform = uniforms_.data();
    for (int64_t below = tree_.depth(); below-- > 0;) {
      const int64_t parents = tree_.nodes(below + 1), most = tree_.powers(below) - 1;
      for (int64_t j = 0; j < parents; ++j) {
        const int64_t count = counts_[j];
        const double* left = tree_.level(below) + j;
        counts_[j] = count ? drawn(left, parents, count, most, uniform[j]) : 0;
        counts_[j + parents] = count - counts_[j];
      }
      uniform += parents;
    }
    return counts_;
  }

 private:
  // How many of a node's leaves are its first child's, which lies `parents` before the second.
  int64_t drawn(const double* left, int64_t parents, int64_t count, int64_t most, double uniform) {
    const int64_t first = std::max<int64_t>(0, count - most), last = std::min(count, most);
    const double* right = left + parents;
    double total = 0;
    for (int64_t i = first; i <= last; ++i)
      cumulative_[i] = total += left[2 * parents * i] * right[2 * parents * (count - i)];
    int64_t chosen = first;
    while (chosen < last && cumulative_[chosen] <= uniform * total) ++chosen;
    return chosen;
  }

  Tree<Across>& tree_;
  int64_t k_;
  std::vector<double> uniforms_;
  std::vector<int64_t> counts_;
  std::vector<double> cumulative_;
};

Tensor draw_subset(const Tensor& unordered, int64_t k, const Tensor& seed, int64_t offset) {
  check_rows("logits", unordered);
  check_k(k, unordered);
  const uint64_t key = key_of(seed, offset);
  const Tensor logits = ordered(unordered);
  Tensor result = fresh_like(logits);
  const int64_t n = logits.sizes().back();
  dispatch(dtype_of(logits), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S* x = in<S>(logits);
    S* y = out<S>(result);
    const S nan = narrow<S>(std::numeric_limits<decltype(compute)>::quiet_NaN());
    over_ranges(logits, k, [&](auto across, int64_t begin, int64_t end) {
      Tree<across> tree(n, k, 1);
      Descent<across> descent(tree, k);
      for (int64_t row = begin; row < end; row += tree.kRows) {
        const int64_t count = std::min(tree.kRows, end - row);
        const auto valid = tree.make_leaves(x + row * n, count);
        tree.upward();
        const auto& chosen = descent(key, offset + row);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t i = 0; i < n; ++i)
            y[(row + r) * n + i] =
                valid[r] ? narrow<S>(decltype(compute)(chosen[i * tree.kRows + r])) : nan;
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&draw_subset>(m, "draw_subset");
}
