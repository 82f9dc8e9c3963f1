// The level of a row at which sigmoids sum to k: level.py, in vectors.
#pragma once
#include "../core/native/selection.h"

namespace level {

using namespace selection;

// The k-th largest of each row and the one after it, -infinity where there is none.
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

template <class I>
bool all(I truth) {
  bool every = true;
  for (size_t lane = 0; lane < sizeof(I) / sizeof(truth[0]); ++lane) every &= truth[lane] != 0;
  return every;
}

// Newton's method on log(R / D), from the middle of the gap: D is what the k largest lack of k, R
// what the others have. Rows are relative to their k-th largest, and `gap` is the one after it; the
// level of those that are done stays.
template <class T, bool Across>
Vec<T> logistic_level(const Tile<T, Across>& t, const T* z, int64_t k, Vec<T> gap,
                      IntVec<T> done) {
  constexpr int steps = 8;
  const Vec<T> zero{}, one = zero + T(1);
  const auto [above, tied] = t.template sums<2>([&](int64_t i) {
    const Vec<T> x = t.at(z, i);
    return std::array<Vec<T>, 2>{x > zero ? one : zero, x == zero ? one : zero};
  });
  const Vec<T> tied_above = T(k) - above, tied_below = tied - tied_above;
  Vec<T> b = gap * T(0.5);
  for (int step = 0; step < steps; ++step) {
    const auto [lacking, having, falls, rises] = t.template sums<4>([&](int64_t i) {
      const Vec<T> x = t.at(z, i);
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

}  // namespace level
