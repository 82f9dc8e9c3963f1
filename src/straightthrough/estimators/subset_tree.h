// The law of k of n on a balanced tree: subset_tree.py, in vectors, of one long row or of as many
// short rows as a vector has lanes.
#pragma once
#include "../relaxations/level.h"

namespace subset_tree {

using namespace level;

constexpr double kFar = 1000;  // FAR of level.py
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class V>
ALWAYS_INLINE V get(const double* from) {
  V x;
  std::memcpy(&x, from, sizeof(V));
  return x;
}
template <class V>
ALWAYS_INLINE void put(double* to, V x) {
  std::memcpy(to, &x, sizeof(V));
}

// out += sum_i a[i] b[i] of numbers that lie so many steps apart, for all nodes of a level.
template <class V>
ALWAYS_INLINE void add_products(const double* a, int64_t a_step, const double* b, int64_t b_step,
                                int64_t terms, double* out, int64_t nodes) {
  for (int64_t j = 0; j < nodes; j += sizeof(V) / sizeof(double)) {
    V even = get<V>(out + j), odd{};  // two sums, as one would wait for itself
    const double *x = a + j, *y = b + j;
    int64_t i = 0;
    for (; i + 2 <= terms; i += 2, x += 2 * a_step, y += 2 * b_step) {
      even += get<V>(x) * get<V>(y);
      odd += get<V>(x + a_step) * get<V>(y + b_step);
    }
    if (i < terms) even += get<V>(x) * get<V>(y);
    put(out + j, even + odd);
  }
}
inline void add(const double* a, int64_t a_step, const double* b, int64_t b_step, int64_t terms,
                double* out, int64_t nodes) {
  if (nodes % lanes<double> == 0)
    add_products<Doubles>(a, a_step, b, b_step, terms, out, nodes);
  else
    add_products<double>(a, a_step, b, b_step, terms, out, nodes);
}

// Polynomials of a level lie as in subset_tree.py but for their counts, which come before the
// nodes: of those that a vector holds each is of another node, or of another row.
template <bool Across>
class Tree {
 public:
  static constexpr int64_t kRows = Across ? lanes<double> : 1;
  using Lanes = IntVec<double>;

  Tree(int64_t n, int64_t k, int64_t components) : n_(n), k_(k), components_(components) {
    while (int64_t{1} << depth_ < n) ++depth_;
    int64_t size = 0;
    for (int64_t level = 0; level <= depth_; ++level) {
      starts_.push_back(size);
      size += components * powers(level) * nodes(level);
    }
    memory_.resize(size);
    rows_.resize(nodes(0));
    scratch_.resize(2 * nodes(0));
  }

  int64_t depth() const { return depth_; }
  int64_t components() const { return components_; }
  // Of a level, those of all rows.
  int64_t nodes(int64_t level) const { return (kRows << depth_) >> level; }
  // Coefficients of a node's polynomial.
  int64_t powers(int64_t level) const { return std::min(int64_t{1} << level, k_) + 1; }
  double* level(int64_t level, int64_t component = 0) {
    return memory_.data() + starts_[level] + component * powers(level) * nodes(level);
  }

  // Rows of a tensor in the order of nodes; what is beyond them in a row or a tile is `fill`.
  template <class S>
  void load(const S* from, int64_t count, double fill, double* to) const {
    std::fill_n(to, nodes(0), fill);
    for (int64_t row = 0; row < count; ++row)
      for (int64_t i = 0; i < n_; ++i) to[i * kRows + row] = widen(from[row * n_ + i]);
  }

  // Make the leaves of rows of logits, independent entries that sum to k on average; return which
  // rows have an outcome. The others, and those that are not there, are rows of equal logits.
  template <class S>
  Lanes make_leaves(const S* logits, int64_t count) {
    load(logits, count, -kInfinity, rows_.data());
    const Lanes invalid = tilt();
    double *off = level(0), *on = off + nodes(0);
    for (int64_t i = 0; i < nodes(0); i += lanes<double>) {
      const Doubles x = get<Doubles>(&rows_[i]), e = exp(-absolute(x));
      const Doubles common = 1.0 / (1.0 + e), rare = e * common;
      put(off + i, x > 0.0 ? rare : common);
      put(on + i, x > 0.0 ? common : rare);
    }
    return ~invalid;
  }

  // Move the leaves along a direction: of 0 and 1 the weight of the rarer one.
  void move_leaves(int64_t direction, const double* along) {
    for (int64_t a = 0; a < int64_t{1} << direction; ++a) {
      const double *off = level(0, a), *on = off + nodes(0);
      double *moved_off = level(0, a | int64_t{1} << direction), *moved_on = moved_off + nodes(0);
      for (int64_t i = 0; i < nodes(0); i += lanes<double>) {
        const Doubles v = get<Doubles>(along + i), zero{};
        const auto often = get<Doubles>(&rows_[i]) > zero;
        put(moved_off + i, get<Doubles>(off + i) * (often ? -v : zero));
        put(moved_on + i, get<Doubles>(on + i) * (often ? zero : v));
      }
    }
  }

  // Call f(a, b) for the components of two jets whose product is a part of component a | b.
  template <class F>
  void over_pairs(const F& f) const {
    for (int64_t a = 0; a < components_; ++a)
      for (int64_t b = 0; b < components_; ++b)
        if ((a & b) == 0) f(a, b);
  }

  // The polynomials of every level out of those of the leaves.
  void upward() {
    for (int64_t above = 1; above <= depth_; ++above) {
      const int64_t width = nodes(above), last = powers(above - 1) - 1, step = 2 * width;
      std::fill_n(level(above), components_ * powers(above) * width, 0.0);
      over_pairs([&](int64_t a, int64_t b) {
        const double *left = level(above - 1, a), *right = level(above - 1, b) + width;
        double* out = level(above, a | b);
        for (int64_t power = 0; power < powers(above); ++power) {
          const int64_t first = std::max<int64_t>(0, power - last), end = std::min(power, last) + 1;
          add(left + first * step, step, right + (power - first) * step, -step, end - first,
              out + power * width, width);
        }
      });
    }
  }

 private:
  // Rows less what `tilted` takes from them; which have no outcome.
  Lanes tilt() {
    const Tile<double, Across> t(n_);
    double *z = scratch_.data(), *x = rows_.data();
    const Row<double, Across, double> r{
        t, {x, -kInfinity}, {nullptr, 0.0}, {nullptr}, {z + nodes(0), nullptr, nullptr},
        0, kRows,           0,              0};
    const auto [least, after] = neighbours(r, k_);
    const Doubles zero{}, far = zero - kFar;
    Lanes invalid = ~(least > zero - kInfinity);
    for (int64_t i = 0; i < t.size(); ++i) invalid |= ~(r.x(i) < zero + kInfinity);
    invalid = t.any(invalid);
    for (int64_t i = 0; i < t.size(); ++i)
      t.put(z, i, invalid ? zero : max(r.x(i) - least, far));
    const Doubles gap = invalid ? zero : max(after - least, far);
    const Doubles b = k_ < n_ ? logistic_level(t, z, k_, gap, Lanes{}) : far;
    for (int64_t i = 0; i < nodes(0); i += lanes<double>)
      put(x + i, (invalid ? zero : get<Doubles>(x + i) - least) - b);
    return invalid;
  }

  int64_t n_, k_, components_, depth_ = 0;
  std::vector<int64_t> starts_;
  std::vector<double> memory_, rows_, scratch_;
};

// Call f(across, begin, end) for ranges of the rows of a tensor.
template <class F>
void over_ranges(const Tensor& x, int64_t k, const F& f) {
  const int64_t n = x.sizes().back(), grain = (int64_t{1} << 15) / (n * (k + 1)) + 1;
  torch::stable::parallel_for(0, x.numel() / n, grain, [&](int64_t begin, int64_t end) {
    if (n <= kShort)
      f(std::true_type(), begin, end);
    else
      f(std::false_type(), begin, end);
  });
}

inline void check_k(int64_t k, const Tensor& x) {
  if (k < 1 || k > x.sizes().back())
    refuse("k must lie in [1, ", x.sizes().back(), "], got ", k);
}

}  // namespace subset_tree
