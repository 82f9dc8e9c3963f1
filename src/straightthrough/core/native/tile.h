// What a row formula is written over: n vectors whose lanes are either classes of one long row, or
// one class of as many short rows. Reductions give a value a lane either way.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "philox.h"
#include "stored.h"

namespace tile {

using namespace simd;

constexpr int64_t kFarthest = 4096;  // no element further ahead is worth fetching
constexpr int64_t kShort = 64;  // rows of at most so many classes are worked on across rows

// A sum of vectors held in double precision; what is added may be a sum of four vectors already,
// whose rounding is that of their elements.
template <class T, bool Across>
class Sum {
 public:
  ALWAYS_INLINE void add(Vec<T> x) {
    const Wide<T> wide = widen(x);
    for (size_t i = 0; i < wide.size(); ++i) lanes_[i] += wide[i];
  }
  // Each lane's own, or all of them together.
  const Wide<T>& lanes() const { return lanes_; }
  double total() const {
    Doubles all = lanes_[0];
    for (size_t i = 1; i < lanes_.size(); ++i) all += lanes_[i];
    return sum(all);
  }
  ALWAYS_INLINE Vec<T> value() const {
    if constexpr (Across) return narrow(lanes_);
    return broadcast(static_cast<T>(total()));
  }

 private:
  Wide<T> lanes_{};
};

template <class T, bool Across>
class Tile {
 public:
  // `rows` of at most `lanes<T>` rows (1 unless Across) of `classes` each.
  explicit Tile(int64_t classes)
      : classes_(classes), n_(Across ? classes : (classes + lanes<T> - 1) / lanes<T>) {}

  int64_t classes() const { return classes_; }
  int64_t size() const { return n_; }
  int64_t padded() const { return n_ * lanes<T>; }

  ALWAYS_INLINE static Vec<T> at(const T* from, int64_t i) {
    Vec<T> x;
    std::memcpy(&x, from + i * lanes<T>, kBytes);
    return x;
  }
  ALWAYS_INLINE static void put(T* to, int64_t i, Vec<T> x) {
    std::memcpy(to + i * lanes<T>, &x, kBytes);
  }

  // Vector i of what a formula reads or writes: a long row where it lies, or short rows in a tile.
  template <class S>
  ALWAYS_INLINE Vec<T> at(const Reader<T, S>& row, int64_t i) const {
    if constexpr (Across) return at(row.from, i);
    return row.get(i * lanes<T>, classes_ - i * lanes<T>);
  }
  template <class S>
  ALWAYS_INLINE void put(const Writer<T, S>& row, int64_t i, Vec<T> x) const {
    if constexpr (Across)
      put(row.to, i, x);
    else
      row.put(i * lanes<T>, saturated<S>(x), classes_ - i * lanes<T>);
  }
  // Fetch what is read a row later, or written in a later pass over this one.
  template <class S>
  ALWAYS_INLINE void fetch_ahead(const Reader<T, S>& row, int64_t i) const {
    if constexpr (!Across) row.fetch(i * lanes<T> + std::min(classes_, kFarthest));
  }
  template <class S>
  ALWAYS_INLINE void fetch_ahead(const Writer<T, S>& row, int64_t i) const {
    if constexpr (!Across) row.fetch(i * lanes<T>);
  }

  // In these walks `n` is a copy, as `n_` might be what an f has just written, and is read again.

  // The largest f(i) over the classes; a NaN may be passed over, and is found by a sum.
  template <class F>
  ALWAYS_INLINE Vec<T> highest(const F& f) const {
    const int64_t n = n_;
    Vec<T> top[4] = {f(0), f(0), f(0), f(0)};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) top[k] = max(f(i + k), top[k]);
    for (; i < n; ++i) top[0] = max(f(i), top[0]);
    const Vec<T> all = max(max(top[0], top[1]), max(top[2], top[3]));
    if constexpr (Across) return all;
    return broadcast(largest(all));
  }

  // The sums of the K vectors that f(i) returns, over the classes.
  template <size_t K, class F>
  ALWAYS_INLINE std::array<Vec<T>, K> sums(const F& f) const {
    const int64_t n = n_;
    Sum<T, Across> sum[K];
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const std::array<Vec<T>, K> a = f(i), b = f(i + 1), c = f(i + 2), d = f(i + 3);
      for (size_t k = 0; k < K; ++k) sum[k].add((a[k] + b[k]) + (c[k] + d[k]));
    }
    for (; i < n; ++i) {
      const std::array<Vec<T>, K> a = f(i);
      for (size_t k = 0; k < K; ++k) sum[k].add(a[k]);
    }
    std::array<Vec<T>, K> out;
    for (size_t k = 0; k < K; ++k) out[k] = sum[k].value();
    return out;
  }

  // Whether a lane of a row is set, in all of its lanes.
  ALWAYS_INLINE static IntVec<T> any(IntVec<T> truth) {
    if constexpr (Across) return truth;
    typename Traits<T>::Int found = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) found |= truth[lane];
    return IntVec<T>{} + found;
  }

  // The class that each lane of vector i stands for.
  ALWAYS_INLINE static IntVec<T> classes_at(int64_t i) {
    using I = typename Traits<T>::Int;
    IntVec<T> out{};
    if constexpr (Across) return out + static_cast<I>(i);
    for (int r = 0; r < lanes<T>; ++r) out[r] = static_cast<I>(i * lanes<T> + r);
    return out;
  }

  // The value at class `chosen` (one a lane).
  template <class S>
  Vec<T> pick(const S* from, IntVec<T> chosen) const {
    if constexpr (!Across) return broadcast<T>(widen(from[chosen[0]]));
    Vec<T> out;
    for (int r = 0; r < lanes<T>; ++r) out[r] = from[chosen[r] * lanes<T> + r];
    return out;
  }
  // Set it.
  template <class S>
  ALWAYS_INLINE void set(const Writer<T, S>& row, IntVec<T> chosen, Vec<T> value) const {
    if constexpr (Across)
      for (int r = 0; r < lanes<T>; ++r) row.to[chosen[r] * lanes<T> + r] = value[r];
    else
      row.put(chosen[0], saturated<S>(value), 1);
  }

  // Call f(i, u) for every i, u holding one uniform a class: of row `first + lane`, or of row
  // `first`.
  template <class F>
  ALWAYS_INLINE void with_uniforms(uint64_t seed, int64_t first, uint32_t tag, const F& f) const {
    const int64_t n = n_;
    constexpr int64_t width = philox::per_block<T>, each = Across ? width : 4;
    for (int64_t i = 0; i < n; i += philox::kAtOnce * each) {
      philox::Blocks counters;
      for (int k = 0; k < philox::kAtOnce; ++k) {
        const auto group = static_cast<uint32_t>((i + k * each) * (Across ? 1 : lanes<T>) / width);
        counters[k] =
            Across ? philox::positions(first, group, tag) : philox::groups(first, group, tag);
      }
      const philox::Blocks drawn = philox::blocks(seed, counters);
#pragma GCC unroll 2
      for (int k = 0; k < philox::kAtOnce; ++k) {
        const int64_t from = i + k * each, count = std::min(each, n - from);
        const auto u = Across ? philox::columns<T>(drawn[k]) : philox::uniforms<T>(drawn[k]);
        if (count == each)
          for (int64_t j = 0; j < each; ++j) f(from + j, u[j]);
        else
          for (int64_t j = 0; j < count; ++j) f(from + j, u[j]);
      }
    }
  }

 private:
  int64_t classes_, n_;
};

// The work on a tile is long enough for the processor to lose sight of those that follow.
constexpr int kTilesAhead = 4;

// Fetch elements that are read soon.
template <class S>
void fetch(const S* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(S)) __builtin_prefetch(from + i);
}
// Fetch the memory of elements that are written soon.
template <class S>
void fetch_to_write(S* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(S)) __builtin_prefetch(to + i, 1);
}

// Short rows into a tile's own order, a block of the transpose at a time, and back.
template <class T, class S>
__attribute__((noinline)) void load_short(const S* from, int64_t classes, int rows, T fill, T* to) {
  fetch(from + kTilesAhead * rows * classes, rows * classes);
  for (int64_t j = 0; j < classes; j += lanes<T>) {
    Vec<T> block[lanes<T>];
    for (int r = 0; r < lanes<T>; ++r)
      block[r] = r < rows ? simd::load<T>(from + r * classes + j, classes - j, fill)
                          : broadcast(fill);
    transpose(block);
    // (A copy of so few vectors takes less time than the call of memcpy that it would become.)
    for (int k = 0; k < lanes<T> && j + k < classes; ++k) Tile<T, true>::put(to, j + k, block[k]);
  }
}
template <class T, class S>
__attribute__((noinline)) void store_short(S* to, int64_t classes, int rows, const T* from) {
  for (int64_t j = 0; j < classes; j += lanes<T>) {
    Vec<T> block[lanes<T>];
    for (int k = 0; k < lanes<T> && j + k < classes; ++k) block[k] = Tile<T, true>::at(from, j + k);
    transpose(block);
    for (int r = 0; r < rows; ++r)
      simd::store<S>(to + r * classes + j, saturated<S>(block[r]), classes - j);
  }
}

}  // namespace tile
