// Counts by inversion of one uniform each, in double precision: the CPU kernels of reference.py,
// same names, same order.
#include "quantile.h"

namespace {

using namespace counts;

constexpr double kFarRate = 32;  // up to it a search from 0 is short, and begins above nothing
constexpr double kLargestPower = 700;  // of e that is finite in double precision

// Replace the counts of the lanes where `far` by what count(lane) is.
template <class F>
ALWAYS_INLINE void replace(Truth<double> far, Doubles& counts, const F& count) {
  for (uint32_t open = bits_of_lanes<double>(far); open != 0; open &= open - 1) {
    const int lane = __builtin_ctz(open);
    counts[lane] = count(lane);
  }
}

ALWAYS_INLINE Doubles poisson_quantile(Doubles u, Doubles rate, const Table& inverses) {
  const Doubles near = at_most(kFarRate, rate);
  Doubles count = from_zero(exp(-near), near, inverses, u);
  const auto finite = less(rate, broadcast(0x1p53));
  replace(less(broadcast(kFarRate), rate) & finite, count,
          [&](int lane) { return near_mean(Poisson{rate[lane]}, u[lane]); });
  return count;
}

constexpr Table kInverses = [] {
  Table out{};
  for (int k = 0; k < kTable; ++k) out[k] = 1.0 / (k + 1);
  return out;
}();

// What a draw returns: counts, and the means that say whether they are any.
struct Draws {
  Doubles count, mean;
};

// y = draw(x, u, position) for every element, NaN where the mean is none or above `largest`.
template <class F>
Tensor draw_each(const Tensor& unordered, double largest, uint64_t key, int64_t offset,
                 const F& draw) {
  const Tensor x = ordered(unordered);
  Tensor y = fresh_like(x);
  dispatch(dtype_of(x), [&](auto, auto stored) {
    using S = decltype(stored);
    using Narrow = std::conditional_t<sizeof(S) == 8, double, float>;
    const S* from = in<S>(x);
    S* to = out<S>(y);
    over_elements(x.numel(), kNoisyGrain / 8, [=](int64_t begin, int64_t end) {
      with_uniforms<double>(begin, end, key, offset, philox::kDraw,
                            [=](int64_t i, int64_t n, Doubles u) {
        Doubles wide{};
        if (n == lanes<double>)
          for (int j = 0; j < lanes<double>; ++j) wide[j] = widen(from[i + j]);
        else
          for (int64_t j = 0; j < n; ++j) wide[j] = widen(from[i + j]);
        const Draws drawn = draw(wide, u, offset + i);
        const auto valid = less_equal(Doubles{}, drawn.mean) &
                           less_equal(drawn.mean, broadcast(largest));
        const Doubles nan = broadcast(std::numeric_limits<double>::quiet_NaN());
        const Doubles value = select(valid, drawn.count, nan);
        if (n == lanes<double>)
          for (int j = 0; j < lanes<double>; ++j) to[i + j] = narrow<S>(Narrow(value[j]));
        else
          for (int64_t j = 0; j < n; ++j) to[i + j] = narrow<S>(Narrow(value[j]));
      });
    });
  });
  return y;
}

ALWAYS_INLINE Doubles odds_of(Doubles logit) { return exp(at_most(kLargestPower, logit)); }

Tensor poisson(const Tensor& x, bool direct, double largest, const Tensor& seed, int64_t offset) {
  check_floating("x", x);
  return draw_each(x, largest, key_of(seed, offset), offset,
                   [=](Doubles x, Doubles u, int64_t) -> Draws {
    const Doubles rate = direct ? x : odds_of(x);
    return {poisson_quantile(u, rate, kInverses), rate};
  });
}

Tensor binomial(const Tensor& x, bool direct, int64_t trials, const Tensor& seed, int64_t offset) {
  check_floating("x", x);
  constexpr int64_t limit = 1 << 15;
  if (trials < 1 || trials > limit) refuse("trials must lie in [1, ", limit, "], got ", trials);
  const double n = static_cast<double>(trials);
  Table ratios;
  for (int k = 0; k < kTable; ++k) ratios[k] = std::max(n - k, 0.0) / (k + 1);
  return draw_each(x, n, key_of(seed, offset), offset,
                   [=](Doubles x, Doubles u, int64_t) -> Draws {
    // Of what is rarer, success or failure.
    const Doubles odds = odds_of(-absolute(x)), one = broadcast(1.0), zero{};
    const auto often = less(broadcast(direct ? 0.5 : 0.0), x);
    const Doubles rare = select(often, one - x, x);
    const Doubles p = direct ? rare : odds / (one + odds), share = select(often, one - u, u);
    const Doubles log_none = n * log1m(p);
    const auto is_far = less(log_none, broadcast(-kFarRate));
    const Doubles first = exp(log_none);
    Doubles count = from_zero(select(is_far, zero, first), p / (one - p), ratios, share);
    replace(is_far, count, [&](int lane) { return near_mean(Binomial{n, p[lane]}, share[lane]); });
    return {select(often, n - count, count), n * select(often, one - p, p)};
  });
}

Tensor geometric(const Tensor& x, bool direct, double largest, const Tensor& seed, int64_t offset) {
  check_floating("x", x);
  return draw_each(x, largest, key_of(seed, offset), offset,
                   [=](Doubles x, Doubles u, int64_t) -> Draws {
    const Doubles one = broadcast(1.0), zero{}, e = odds_of(-absolute(x));
    const Doubles log_failure =
        direct ? log1m(x) : log1m(e / (one + e)) - select(less(zero, x), x, zero);
    const Doubles share = log_normal(u) / log_failure;
    const Doubles nearest = (share + kToWholesOfDouble) - kToWholesOfDouble;
    const Doubles count = nearest - where<Doubles>(less(share, nearest), 1, 0);
    const Doubles mean = direct ? (one - x) / x : odds_of(-x);
    return {select(less(zero, mean), count, zero), mean};
  });
}

// A gamma draw of scale 1, by Marsaglia and Tsang, as in reference.py.
double gamma(double shape, uint64_t key, int64_t position) {
  constexpr int attempts = 12, groups = (2 * attempts + 2) / 2;
  double u[2 * groups + 2 * philox::kLanes];
  for (int g = 0; g < groups; g += philox::kLanes) {
    const auto counters = philox::groups(position, g, philox::kConditional);
    const philox::Block b = philox::blocks<1>(key, {counters})[0];
    for (int i = 0; i < philox::kLanes; ++i) {
      u[2 * (g + i)] = philox::unit53(b.w[0][i], b.w[1][i]);
      u[2 * (g + i) + 1] = philox::unit53(b.w[2][i], b.w[3][i]);
    }
  }
  const double d = (shape >= 1 ? shape : shape + 1) - 1 / 3.0;
  double value = 0;
  for (int i = 0; i < attempts; ++i) {
    const double normal = normal_quantile(u[i]), side = 1 + normal / std::sqrt(9 * d);
    const double cube = side * side * side;
    if (i == 0) value = d * cube;  // if none passes
    const double bound = normal * normal / 2 + d - d * cube + d * std::log(cube);
    if (std::log(u[attempts + i]) < bound) {
      value = d * cube;
      break;
    }
  }
  return shape >= 1 ? value : value * std::exp(std::log(u[2 * attempts]) / shape);
}

Tensor negative_binomial(const Tensor& x, bool direct, double total_count, double near,
                         double largest, const Tensor& seed, int64_t offset) {
  check_floating("x", x);
  const uint64_t key = key_of(seed, offset);
  const double limit = direct ? 1 / (1 + std::exp(-near)) : near;
  Table ratios;
  for (int k = 0; k < kTable; ++k) ratios[k] = (total_count + k) / (k + 1);
  return draw_each(x, largest, key, offset,
                   [=](Doubles x, Doubles u, int64_t position) -> Draws {
    const Doubles one = broadcast(1.0), zero{}, e = odds_of(-absolute(x));
    const Doubles p = direct ? x : select(less(x, zero), e, one) / (one + e);
    const Doubles odds = direct ? x / (one - x) : odds_of(x), mean = total_count * odds;
    const auto is_near = less_equal(x, broadcast(limit));
    const Doubles few = select(is_near, p, zero);
    Doubles count = from_zero(exp(total_count * log1m(few)), few, ratios, u);
    const auto is_far = less(broadcast(limit), x) & less_equal(mean, broadcast(largest));
    if (bits_of_lanes<double>(is_far) == 0) return {count, mean};
    Doubles rate{};
    replace(is_far, rate,
            [&](int lane) { return odds[lane] * gamma(total_count, key, position + lane); });
    return {select(is_far, poisson_quantile(u, rate, kInverses), count), mean};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&poisson>(m, "poisson");
  implement<&binomial>(m, "binomial");
  implement<&geometric>(m, "geometric");
  implement<&negative_binomial>(m, "negative_binomial");
}
