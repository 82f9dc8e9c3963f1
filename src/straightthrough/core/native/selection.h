// The k largest of a row.
#pragma once
#include "rows.h"

namespace selection {

using namespace rows;

template <class T>
using Int = typename Traits<T>::Int;

// Whole numbers in the order of the numbers whose bits they are; both zeros are one.
template <class T>
ALWAYS_INLINE IntVec<T> key_of(Vec<T> x) {
  const IntVec<T> bits = bits_of<IntVec<T>>(x + T(0));
  return bits ^ ((bits >> (8 * sizeof(T) - 1)) & std::numeric_limits<Int<T>>::max());
}

// The keys of a long row.
template <class T>
struct Keys {
  const Tile<T, false>& t;
  const T* keys;

  ALWAYS_INLINE IntVec<T> at(int64_t i) const { return bits_of<IntVec<T>>(t.at(keys, i)); }

  int64_t at_least(Int<T> bound) const {
    IntVec<T> count{};
    for (int64_t i = 0; i < t.size(); ++i) count -= at(i) >= bound;
    int64_t total = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) total += count[lane];
    return total;
  }
  // The class of the n-th that is `key`, counted from 1.
  int64_t place_of(Int<T> key, int64_t n) const {
    int64_t place = 0;
    for (;; ++place) {
      n -= at(place / lanes<T>)[place % lanes<T>] == key;
      if (n == 0) return place;
    }
  }
};

// A key that at least k reach, and how many: more than k only if it is the k-th largest; fewer if
// fewer than k are above -infinity.
template <class T>
struct Bound {
  Int<T> key;
  int64_t count;
};

template <class T>
Bound<T> reached_by(const Keys<T>& keys, int64_t k) {
  const T infinity = std::numeric_limits<T>::infinity();
  int64_t low = key_of<T>(broadcast(-infinity))[0] + 1;
  int64_t high = key_of<T>(broadcast(infinity))[0];
  int64_t count = keys.at_least(static_cast<Int<T>>(low));
  while (count > k && low < high) {
    const auto width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    const auto middle = static_cast<int64_t>(static_cast<uint64_t>(low) + width / 2 + width % 2);
    const int64_t above = keys.at_least(static_cast<Int<T>>(middle));
    if (above < k)
      high = middle - 1;
    else
      low = middle, count = above;
  }
  return {static_cast<Int<T>>(low), count};
}

// The keys of a row into scratch memory; whether one of its numbers is NaN.
template <class T, class S>
bool store_keys(const Row<T, false, S>& r, T* keys) {
  IntVec<T> unordered{};
  for (int64_t i = 0; i < r.t.size(); ++i) {
    r.fetch_ahead(i);
    unordered |= r.x(i) != r.x(i);
    r.t.put(keys, i, bits_of<Vec<T>>(key_of<T>(r.x(i))));
  }
  bool any = false;
  for (int lane = 0; lane < lanes<T>; ++lane) any |= unordered[lane] != 0;
  return any;
}

// Short rows, whose largest left is taken away k times: the last one taken, and its class. What is
// left is in scratch memory, -infinity where a class was taken but the last.
template <class T, class S>
struct Taken {
  Vec<T> value;
  IntVec<T> chosen;
};

template <class T, class S>
ALWAYS_INLINE Taken<T, S> take_largest(const Row<T, true, S>& r, T* left, int64_t k) {
  const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
  IntVec<T> chosen = IntVec<T>{} - 1;
  for (int64_t i = 0; i < r.t.size(); ++i) r.t.put(left, i, r.x(i));
  Vec<T> top = none;
  for (int64_t n = 0; n < k; ++n) {
    const IntVec<T> before = chosen;
    top = none;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const IntVec<T> here = r.t.classes_at(i);
      const Vec<T> x = here == before ? none : r.t.at(left, i);
      r.t.put(left, i, x);
      chosen = x > top ? here : chosen;
      top = max(x, top);
    }
  }
  return {top, chosen};
}

}  // namespace selection
