// Draws that most often need only half of their noise.
#pragma once
#include "../../core/native/draws.h"

namespace draws {

// Draws for logits or probabilities: 1 where u < p.
template <class T>
struct BinaryDraws {
  uint64_t seed;
  int64_t offset;
  bool of_probs;

  struct Outcome {
    Truth<T> truth;
    Vec<T> value;  // NaN where p is no probability
  };

  // Call f(element, count, least) with what each u is at least.
  template <class F>
  void each(int64_t begin, int64_t end, const F& f) const {
    const auto make = [key = seed](int64_t group) {
      return philox::element_bounds<T>(key, group, philox::kDraw);
    };
    with_noise<T>(begin, end, offset, make, f);
  }

  ALWAYS_INLINE Outcome operator()(int64_t i, Vec<T> x, Vec<T> least) const {
    const Vec<T> zero{}, one = broadcast(T(1));
    if (of_probs) {
      const auto below = [&](Vec<T> u) { return less(u, x); };
      const Truth<T> drawn = settled(i, least, [&](Vec<T> u, T) { return below(u); }, below);
      const Truth<T> valid = less_equal(zero, x) & less_equal(x, one);
      const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN());
      return {drawn, select(valid, select(drawn, one, zero), nan)};
    }
    // u < sigmoid(x) without the division. (Beyond that there is no need of the exponential: u >=
    // 2^-33.)
    const Vec<T> y = at_most(T(kLargestExponent), -x), odds = rough_exp(y);
    const Truth<T> drawn = settled(
        i, least, [&](Vec<T> u, T slack) { return less(u + u * odds, broadcast(1 + slack)); },
        [&](Vec<T> u) { return less(u + u * exp(y), one); });
    return {drawn, select(drawn, one, odds - odds)};
  }

 private:
  // The truth of below(u), which is monotone: in most lanes the bounds of u tell. roughly(u, slack)
  // is no less than below(u) if the slack is kRoughly, and no more if it is -kRoughly.
  template <class Roughly, class Below>
  ALWAYS_INLINE Truth<T> settled(int64_t i, Vec<T> least, const Roughly& roughly,
                                 const Below& below) const {
    constexpr T slack = philox::kSlack<T>;
    if (slack == 0) return below(least);
    const Truth<T> surely = roughly(least + slack, -kRoughly<T>);
    const uint32_t open = bits_of_lanes<T>(roughly(least, kRoughly<T>)) & ~bits_of_lanes<T>(surely);
    if (__builtin_expect(open == 0, true)) return surely;
    return below(completed(i, least, open));
  }
  __attribute__((noinline)) Vec<T> completed(int64_t i, Vec<T> u, uint32_t open) const {
    for (; open != 0; open &= open - 1) {
      const int lane = __builtin_ctz(open);
      u[lane] = philox::element_uniform<T>(seed, offset + i + lane, philox::kDraw);
    }
    return u;
  }
};

}  // namespace draws
