// A tile is what a row formula is written over: n vectors whose lanes are either sixteen classes
// of one long row, or one class of sixteen short rows. Reductions give a value a lane either way.
#pragma once
#include <algorithm>
#include <vector>

#include "philox.h"

namespace tile {

using namespace simd;

constexpr int64_t kShort = 64;  // rows of at most so many classes are worked on across rows

template <class T, bool Across>
class Tile {
 public:
  // `rows` of at most `lanes<T>` rows (1 unless Across) of `classes` each.
  explicit Tile(int64_t classes)
      : classes_(classes), n_(Across ? classes : (classes + lanes<T> - 1) / lanes<T>) {}

  int64_t size() const { return n_; }
  int64_t padded() const { return n_ * lanes<T>; }

  template <class S>
  void load(const S* from, int rows, T rest, T* to) const {
    if constexpr (Across) {
      for (int r = 0; r < lanes<T>; ++r)
        for (int64_t j = 0; j < n_; ++j)
          to[j * lanes<T> + r] = r < rows ? widen(from[r * classes_ + j]) : rest;
    } else {
      for (int64_t i = 0; i < n_; ++i)
        put(to, i, simd::load<T>(from + i * lanes<T>, classes_ - i * lanes<T>, rest));
    }
  }

  template <class S>
  void store(S* to, int rows, const T* from) const {
    if constexpr (Across) {
      for (int r = 0; r < rows; ++r)
        for (int64_t j = 0; j < n_; ++j)
          to[r * classes_ + j] = narrow<S>(from[j * lanes<T> + r]);
    } else {
      for (int64_t i = 0; i < n_; ++i)
        simd::store<S>(to + i * lanes<T>, at(from, i), classes_ - i * lanes<T>);
    }
  }

  static Vec<T> at(const T* from, int64_t i) {
    Vec<T> x;
    std::memcpy(&x, from + i * lanes<T>, 64);
    return x;
  }
  static void put(T* to, int64_t i, Vec<T> x) { std::memcpy(to + i * lanes<T>, &x, 64); }

  static Vec<T> reduce_max(Vec<T> x) {
    if constexpr (Across) return x;
    return broadcast(largest(x));
  }

  // The class that each lane of vector i stands for.
  static IntVec<T> classes_at(int64_t i) {
    using I = typename Traits<T>::Int;
    IntVec<T> out{};
    if constexpr (Across) return out + static_cast<I>(i);
    for (int r = 0; r < lanes<T>; ++r) out[r] = static_cast<I>(i * lanes<T> + r);
    return out;
  }

  // The value at class `chosen` (one a lane).
  Vec<T> pick(const T* from, IntVec<T> chosen) const {
    if constexpr (!Across) return broadcast(from[chosen[0]]);
    Vec<T> out;
    for (int r = 0; r < lanes<T>; ++r) out[r] = from[chosen[r] * lanes<T> + r];
    return out;
  }

  // Set the value at class `chosen` (one a lane).
  void set(T* to, IntVec<T> chosen, Vec<T> value) const {
    const int each = Across ? lanes<T> : 1;
    for (int r = 0; r < each; ++r) to[Across ? chosen[r] * lanes<T> + r : chosen[r]] = value[r];
  }

  // One uniform a class into `to`, those of row `first + lane`, or all of row `first`.
  void uniforms(uint64_t seed, int64_t first, uint32_t tag, T* to) const {
    constexpr int width = philox::per_block<T>;
    if constexpr (Across) {
      for (int64_t j = 0; j < n_; j += width) {
        const auto b = philox::at_positions(seed, first, static_cast<uint32_t>(j / width), tag);
        for (int k = 0; k < width && j + k < n_; ++k) put(to, j + k, unit(b, k));
      }
    } else {
      for (int64_t j = 0; j < padded(); j += philox::per_sixteen<T>) {
        T chunk[philox::per_sixteen<T>];
        philox::uniforms(
            philox::at_groups(seed, first, static_cast<uint32_t>(j / width), tag), chunk);
        const int64_t count = std::min<int64_t>(padded() - j, philox::per_sixteen<T>);
        std::memcpy(to + j, chunk, count * sizeof(T));
      }
    }
  }

 private:
  static Vec<T> unit(const philox::Block& b, int k) {
    if constexpr (sizeof(T) == 4) {
      return philox::unit24(b.w[k]);
    } else {
      Vec<T> out;
      for (int r = 0; r < lanes<T>; ++r)
        out[r] = philox::unit53(b.w[2 * k][r], b.w[2 * k + 1][r]);
      return out;
    }
  }

  int64_t classes_, n_;
};

// A sum of vectors held in double precision.
template <class T, bool Across>
class Sum;

template <bool Across>
class Sum<float, Across> {
 public:
  void add(Vec<float> x) {
    low_ += low(x);
    high_ += high(x);
  }
  double total() const { return sum(low_ + high_); }
  void totals(double* to) const {
    std::memcpy(to, &low_, 64);
    std::memcpy(to + 8, &high_, 64);
  }
  Vec<float> value() const {
    if constexpr (!Across) return broadcast(static_cast<float>(total()));
    Vec<float> out;
    for (int i = 0; i < 8; ++i) {
      out[i] = static_cast<float>(low_[i]);
      out[i + 8] = static_cast<float>(high_[i]);
    }
    return out;
  }

 private:
  Doubles low_{}, high_{};
};

template <bool Across>
class Sum<double, Across> {
 public:
  void add(Doubles x) { total_ += x; }
  double total() const { return sum(total_); }
  void totals(double* to) const { std::memcpy(to, &total_, 64); }
  Doubles value() const { return Across ? total_ : broadcast(sum(total_)); }

 private:
  Doubles total_{};
};

}  // namespace tile
