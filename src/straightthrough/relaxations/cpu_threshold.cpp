// The gradient of sigmoids that share a threshold: the CPU kernel of threshold.py.
#include "../core/native/selection.h"

namespace {

using namespace selection;

// The k-th largest of each row and the one after it, k below the number of classes.
template <class T>
struct Neighbours {
  Vec<T> least, after;
};

template <class T, class S>
ALWAYS_INLINE Neighbours<T> neighbours(const Row<T, true, S>& r, int64_t k) {
  const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
  const auto [least, chosen] = take_largest(r, r.scratch[0], k);
  Vec<T> after = none;
  for (int64_t i = 0; i < r.t.size(); ++i)
    after = max(r.t.classes_at(i) == chosen ? none : r.t.at(r.scratch[0], i), after);
  return {least, after};
}
template <class T, class S>
Neighbours<T> neighbours(const Row<T, false, S>& r, int64_t k) {
  const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
  store_keys(r, r.scratch[0]);
  const Keys<T> keys{r.t, r.scratch[0]};
  const auto [key, count] = reached_by(keys, k);
  if (count < k) return {none, none};
  const auto of = [&](bool above, T sign) {
    return r.t.highest([&, key = key](int64_t i) {
      const IntVec<T> here = above ? keys.at(i) >= key : keys.at(i) < key;
      return here ? r.x(i) * sign : none;
    });
  };
  const Vec<T> least = -of(true, T(-1));
  return {least, count > k ? least : of(false, T(1))};
}

struct LogisticBackward {
  static constexpr bool of_logits = true, of_grad = true;
  static constexpr int kSteps = 8;
  int64_t k;
  double tau;

  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    const T infinity = std::numeric_limits<T>::infinity(), inverse = T(1) / T(tau);
    const auto [least, after] = neighbours(r, k);
    const Vec<T> zero{}, one = zero + T(1), nan = zero + std::numeric_limits<T>::quiet_NaN();
    const Vec<T> gap = (after - least) * inverse;
    const IntVec<T> certain = ~(absolute(gap) < infinity);  // NaN too
    T* z = r.scratch[0];
    T* f = r.scratch[1];
    IntVec<T> unordered{};
    for (int64_t i = 0; i < r.t.size(); ++i) {
      unordered |= r.x(i) != r.x(i);
      r.t.put(z, i, (r.x(i) - least) * inverse);
    }
    const auto [above, tied] = r.t.template sums<2>([&](int64_t i) {
      const Vec<T> x = r.t.at(z, i);
      return std::array<Vec<T>, 2>{x > zero ? one : zero, x == zero ? one : zero};
    });
    const Vec<T> b = level(r, z, certain ? zero : gap * T(0.5), T(k) - above,
                           above + tied - T(k), certain);
    for (int64_t i = 0; i < r.t.size(); ++i)
      r.t.put(f, i, sigmoid(r.t.at(z, i) - b).slope);
    // The Jacobian sends constants to 0: relative to g of the entry nearest to the threshold a row
    // that has no other near it loses no digits.
    const Vec<T> peak = r.t.highest([&](int64_t i) { return r.t.at(f, i); });
    const Vec<T> likeliest = r.t.highest(
        [&](int64_t i) { return r.t.at(f, i) == peak ? r.grad(i) : zero - infinity; });
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      const Vec<T> w = r.t.at(f, i);
      return std::array<Vec<T>, 2>{w, w * (r.grad(i) - likeliest)};
    });
    const Vec<T> mean = total > zero ? weighted / total : zero;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> pulled = r.t.at(f, i) * inverse * ((r.grad(i) - likeliest) - mean);
      r.put(i, any_of(r, unordered) ? nan : (certain ? zero : pulled));
    }
  }

 private:
  // Newton's method on log(R / D): D is what the k largest lack of k, R what the others have.
  template <class T, bool Across, class S>
  static Vec<T> level(const Row<T, Across, S>& r, const T* z, Vec<T> b, Vec<T> tied_above,
                      Vec<T> tied_below, IntVec<T> done) {
    const Vec<T> zero{};
    for (int step = 0; step < kSteps; ++step) {
      const auto [lacking, having, falls, rises] = r.t.template sums<4>([&](int64_t i) {
        const Vec<T> x = r.t.at(z, i);
        const IntVec<T> up = x > zero, down = x < zero;
        const auto [part, slope] = sigmoid(up ? b - x : x - b);
        return std::array<Vec<T>, 4>{up ? part : zero, down ? part : zero, up ? slope : zero,
                                     down ? slope : zero};
      });
      const auto [over, slope] = sigmoid(b);
      const Vec<T> under = sigmoid(-b).value;
      const Vec<T> d = lacking + tied_above * over, h = having + tied_below * under;
      const Vec<T> slopes = (falls + tied_above * slope) / d + (rises + tied_below * slope) / h;
      done |= ~((d > zero) & (h > zero));
      const Vec<T> change = done ? zero : log(h / d) / slopes;
      b += change;
      done |= absolute(change) <= 4 * std::numeric_limits<T>::epsilon() * (absolute(b) + T(1));
      if (all(done)) break;
    }
    return b;
  }
  template <class I>
  static bool all(I done) {
    bool every = true;
    for (size_t lane = 0; lane < sizeof(I) / sizeof(done[0]); ++lane) every &= done[lane] != 0;
    return every;
  }
  // Whether a row holds one: of short rows each its own, of a long row all lanes.
  template <class T, bool Across, class S>
  ALWAYS_INLINE static IntVec<T> any_of(const Row<T, Across, S>&, IntVec<T> lanes_of) {
    if constexpr (Across) return lanes_of;
    Int<T> found = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) found |= lanes_of[lane];
    return IntVec<T>{} + found;
  }
};

Tensor logistic_backward(const Tensor& x, const Tensor& grad, int64_t k, double tau) {
  check_rows("x", x);
  check_grad(grad, x);
  const int64_t classes = x.sizes().back();
  if (k < 1 || k > classes) refuse("k must lie in [1, ", classes, "], got ", k);
  return over_rows(LogisticBackward{k, tau}, x, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&logistic_backward>(m, "logistic_backward");
}
