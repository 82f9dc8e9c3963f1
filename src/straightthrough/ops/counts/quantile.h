// Counts of which a uniform is the distribution function: searched from 0 on, or near the mean.
#pragma once
#include "../../core/native/draws.h"

namespace counts {

using namespace draws;

constexpr int kTable = 256;  // no search from 0 goes further
using Table = std::array<double, kTable>;

// Counts whose weights follow from another by times * ratios[k], from `first` at 0 on. What is left
// out once a weight is below kNothing is less than the rounding of the sum.
ALWAYS_INLINE Doubles from_zero(Doubles first, Doubles times, const Table& ratios, Doubles u) {
  constexpr double nothing = 0x1p-60;
  Doubles weight = first, until = first, count{};
  for (int k = 0; k + 1 < kTable; ++k) {
    const auto open = less(until, u) & less(broadcast(nothing), weight);
    if (bits_of_lanes<double>(open) == 0) break;
    count += where<Doubles>(open, 1, 0);
    weight *= times * ratios[k];
    until += weight;
  }
  return count;
}

// The normal quantile of a uniform to 4.5e-4 (Abramowitz and Stegun, 26.2.23).
inline double rough_normal_quantile(double u) {
  const double t = std::sqrt(-2 * std::log(std::min(u, 1 - u)));
  const double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                           (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
  return u < 0.5 ? -z : z;
}

// The same to its last digits, by two steps of Halley's.
inline double normal_quantile(double u) {
  constexpr double root_half = 0.70710678118654752, density_at_0 = 0.39894228040143268;
  const double tail = std::min(u, 1 - u);
  double z = -std::abs(rough_normal_quantile(u));
  for (int step = 0; step < 2; ++step) {
    const double by = (0.5 * std::erfc(-z * root_half) - tail) / density_at_0 * std::exp(z * z / 2);
    z -= by / (1 + z * by / 2);
  }
  return u < 0.5 ? z : -z;
}

// log(n!) less Stirling's formula.
inline double stirling_rest(double n) {
  if (n < 16) {
    constexpr double half_log_2_pi = 0.91893853320467274;
    return std::lgamma(n + 1) - (n + 0.5) * std::log(n) + n - half_log_2_pi;
  }
  const double r = 1 / (n * n);
  return (1 / 12.0 - r * (1 / 360.0 - r * (1 / 1260.0 - r / 1680.0))) / n;
}

template <class V>
ALWAYS_INLINE V log1p(V x) {
  return log1m(-x);
}

constexpr double kTwoPi = 6.2831853071795865;

// The probability of k, 0 < k, at rates t.
struct PoissonWeight {
  double k, factor;
  explicit PoissonWeight(double k)
      : k(k), factor(std::exp(-stirling_rest(k)) / std::sqrt(kTwoPi * k)) {}
  Doubles operator()(Doubles t) const {
    return factor * exp(k * log1p((t - k) / k) - (t - k));
  }
};

// The probability of k of n, 0 < k < n, at probabilities t.
struct BinomialWeight {
  double n, k, factor;
  BinomialWeight(double n, double k) : n(n), k(k) {
    const double correction = stirling_rest(n) - stirling_rest(k) - stirling_rest(n - k);
    factor = std::exp(correction) * std::sqrt(n / (kTwoPi * k * (n - k)));
  }
  Doubles operator()(Doubles t) const {
    const Doubles away = n * t - k;
    return factor * exp(k * log1p(away / k) + (n - k) * log1p(-away / (n - k)));
  }
};

// The integral from `from` to `to`.
template <class F>
double integral(const F& f, double from, double to) {
  const double middle = (from + to) / 2, half = (to - from) / 2;
  Doubles sums{};
  for (int i = 0; i < kNodes; i += lanes<double>) {
    Doubles node, weight;
    std::memcpy(&node, kNode + i, sizeof(node));
    std::memcpy(&weight, kWeight + i, sizeof(weight));
    sums += weight * f(middle + half * node);
  }
  return std::abs(half) * sum(sums);
}

// A law far from 0 says what the derivative of its distribution function at k is in the parameter,
// where that peaks, how wide it is, and the parameter's ends.
struct Poisson {
  double rate;
  double parameter() const { return rate; }
  double last() const { return 0x1p53; }
  double guess(double z) const { return rate + std::sqrt(rate) * z + (z * z - 1) / 6; }
  auto slope(double k) const { return PoissonWeight(k); }
  double peak(double k) const { return k; }
  double width(double k) const { return std::sqrt(k); }
  double end() const { return std::numeric_limits<double>::infinity(); }
  double weight(double k) const { return PoissonWeight(k)(broadcast(rate))[0]; }
  double ratio(double k) const { return rate / k; }  // of the weights of k and k - 1
};

struct Binomial {
  double trials, p;
  double parameter() const { return p; }
  double last() const { return trials - 2; }
  double guess(double z) const {
    const double mean = trials * p;
    return mean + std::sqrt(mean * (1 - p)) * z + (1 - 2 * p) * (z * z - 1) / 6;
  }
  auto slope(double k) const {
    const BinomialWeight weight(trials - 1, k);
    return [=, n = trials](Doubles t) { return n * weight(t); };
  }
  double peak(double k) const { return k / (trials - 1); }
  double width(double k) const { return std::sqrt(peak(k) * (1 - peak(k)) / (trials - 1)); }
  double end() const { return 1; }
  double weight(double k) const { return BinomialWeight(trials, k)(broadcast(p))[0]; }
  double ratio(double k) const { return (trials - k + 1) / k * (p / (1 - p)); }
};

// The smallest count whose distribution function is at least u. From the function at a guess, in
// the tail that is on the other side of the peak, it is a few steps to there.
template <class Law>
__attribute__((noinline)) double near_mean(const Law& law, double u) {
  double k = std::floor(law.guess(rough_normal_quantile(u)));
  k = std::min(std::max(k, 1.0), law.last());
  const double at = law.parameter(), peak = law.peak(k), width = law.width(k);
  double excess;  // of the function at k over u
  if (at > peak) {
    const double far = std::min(law.end(), at + 12 * width);
    excess = integral(law.slope(k), at, far) - u;
  } else {
    const double far = std::max(0.0, at - 9 * width);
    excess = (1 - u) - integral(law.slope(k), far, at);
  }
  double weight = law.weight(k);
  for (; excess < 0 && weight > 0 && k < law.last(); excess += weight)
    weight *= law.ratio(++k);
  for (; excess >= weight && weight > 0 && k > 0; weight /= law.ratio(k--)) excess -= weight;
  return k;
}

}  // namespace counts
