// Moments of the law of k of n: the CPU kernel of exactly_k.py.
#include "subset_tree.h"

namespace {

using namespace subset_tree;

constexpr int64_t kMostDirections = 8;  // components of a jet double with each

// The marginals of a tile of rows, or their derivative along the directions it was moved along.
template <bool Across>
class Cumulant {
 public:
  explicit Cumulant(Tree<Across>& tree)
      : tree_(tree), inverse_(tree.components() * tree.kRows), result_(tree.nodes(0)) {
    int64_t size = 0;
    for (int64_t level = 0; level <= tree.depth(); ++level)
      size = std::max(size, tree.powers(level) * tree.nodes(level));
    outer_.resize(tree.components() * size);
    below_.resize(outer_.size());
  }

  const std::vector<double>& operator()(int64_t k) {
    tree_.upward();
    invert(k);
    downward(k);
    const int64_t whole = tree_.components() - 1, nodes = tree_.nodes(0);
    std::fill(result_.begin(), result_.end(), 0.0);
    tree_.over_pairs([&](int64_t a, int64_t b) {
      const double* rest = &inverse_[(whole ^ (a | b)) * tree_.kRows];
      const double* on = tree_.level(0, a) + nodes;
      const double* outer = outer_.data() + (2 * b + 1) * nodes;
      for (int64_t i = 0; i < nodes; ++i) result_[i] += on[i] * outer[i] * rest[i % tree_.kRows];
    });
    return result_;
  }

 private:
  // One over the coefficient of k at the root, a jet.
  void invert(int64_t k) {
    constexpr int64_t rows = Tree<Across>::kRows;
    const auto total = [&](int64_t a, int64_t row) {
      return tree_.level(tree_.depth(), a)[k * rows + row];
    };
    for (int64_t row = 0; row < rows; ++row) {
      const double first = inverse_[row] = 1 / total(0, row);
      for (int64_t a = 1; a < tree_.components(); ++a) {
        double rest = 0;
        for (int64_t b = 1; b <= a; ++b)
          if ((b & ~a) == 0) rest += total(b, row) * inverse_[(a ^ b) * rows + row];
        inverse_[a * rows + row] = -first * rest;
      }
    }
  }

  // By how much each leaf's polynomial adds to the coefficient of k at the root.
  void downward(int64_t k) {
    std::fill(outer_.begin(), outer_.end(), 0.0);
    std::fill_n(outer_.begin() + k * tree_.kRows, tree_.kRows, 1.0);
    for (int64_t below = tree_.depth(); below-- > 0;) {
      const int64_t width = tree_.nodes(below + 1), step = 2 * width;
      const int64_t above = tree_.powers(below + 1), powers = tree_.powers(below);
      std::fill_n(below_.begin(), tree_.components() * powers * step, 0.0);
      tree_.over_pairs([&](int64_t a, int64_t b) {
        const double *outer = outer_.data() + a * above * width, *nodes = tree_.level(below, b);
        double* out = below_.data() + (a | b) * powers * step;
        for (int64_t power = 0; power < powers; ++power)
          for (const int64_t side : {int64_t{0}, width})
            add(outer + power * width, width, nodes + (width - side), step,
                std::min(powers, above - power), out + power * step + side, width);
      });
      std::swap(outer_, below_);
    }
  }

  Tree<Across>& tree_;
  std::vector<double> inverse_, result_, outer_, below_;
};

// One direction after the other, each of the logits' shape.
int64_t directions_of(const Tensor& directions, const Tensor& logits) {
  check_cpu("directions", directions);
  const auto sizes = directions.sizes();
  if (dtype_of(directions) != dtype_of(logits) || sizes.size() != logits.sizes().size() + 1 ||
      !sizes.slice(1).equals(logits.sizes()) || sizes.front() > kMostDirections)
    refuse("directions must be at most ", kMostDirections, ", each of ", described(logits),
           ", got ", described(directions));
  return sizes.front();
}

Tensor subset_cumulant(const Tensor& unordered, const Tensor& unordered_directions, int64_t k) {
  check_rows("logits", unordered);
  check_k(k, unordered);
  const int64_t directions = directions_of(unordered_directions, unordered);
  const Tensor logits = ordered(unordered), moved = ordered(unordered_directions);
  Tensor result = fresh_like(logits);
  const int64_t n = logits.sizes().back();
  dispatch(dtype_of(logits), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(logits), *v = in<S>(moved);
    S* y = out<S>(result);
    over_ranges(logits, k, [&](auto across, int64_t begin, int64_t end) {
      Tree<across> tree(n, k, int64_t{1} << directions);
      Cumulant<across> cumulant(tree);
      std::vector<double> along(tree.nodes(0));
      for (int64_t row = begin; row < end; row += tree.kRows) {
        const int64_t count = std::min(tree.kRows, end - row);
        const auto valid = tree.make_leaves(x + row * n, count);
        for (int64_t d = 0; d < directions; ++d) {
          tree.load(v + d * logits.numel() + row * n, count, 0.0, along.data());
          tree.move_leaves(d, along.data());
        }
        const auto& found = cumulant(k);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t i = 0; i < n; ++i)
            y[(row + r) * n + i] = narrow<S>(decltype(compute)(
                valid[r] ? found[i * tree.kRows + r] : std::numeric_limits<double>::quiet_NaN()));
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&subset_cumulant>(m, "subset_cumulant");
}
