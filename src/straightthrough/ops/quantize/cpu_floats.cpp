// Small floating formats times a scale a row, alone or with a scale a block: the CPU kernels of
// reference.py, same names, same order.
#include <string>

#include "steps.h"

namespace {

using namespace quantize;

// ---- formats ----

struct Format {
  const char* name;
  int mantissa, least;  // bits, and the exponent of the least normal number
  double largest;
};

constexpr Format kFormats[] = {
    {"e4m3", 3, -6, 448}, {"e5m2", 2, -14, 57344}, {"e2m1", 1, 0, 6},
    {"e2m3", 3, 0, 7.5},  {"e3m2", 2, -2, 28},
};

Format format_of(const std::string& element) {
  for (const Format& each : kFormats)
    if (element == each.name) return each;
  refuse("element must be a floating format, got ", element);
}

// The largest power of two that is at most `size`, above 0; of a denormal number 0, and of NaN what
// is no number either.
template <class V>
ALWAYS_INLINE V power_of_two(V size) {
  if constexpr (std::is_floating_point_v<V>) {
    using I = typename Traits<V>::Int;
    return bits_of<V>(bits_of<I>(size) & bits_of<I>(std::numeric_limits<V>::infinity()));
  } else {
    using T = Lane<V>;
    using I = typename Traits<T>::Int;
    return bits_of<V>(bits_of<IntVec<T>>(size) & bits_of<I>(std::numeric_limits<T>::infinity()));
  }
}

// Numbers of a format, rounded half to even.
template <class T>
struct Rounded {
  T least, high, step, shift;

  explicit Rounded(const Format& of)
      : least(std::ldexp(T(1), of.least)),
        high(of.largest),
        step(std::ldexp(T(1), -of.mantissa)),
        shift(std::ldexp(T(1.5), std::numeric_limits<T>::digits - 1 - of.mantissa)) {}

  // Of sizes: where the distance of two numbers is that of two of the format, it rounds.
  template <class V>
  ALWAYS_INLINE V operator()(V size, V least_or_size) const {
    const V far = power_of_two(least_or_size) * shift;
    return (size + far) - far;
  }
  ALWAYS_INLINE Vec<T> of_vector(Vec<T> x, ToNearest::Rounding) const {
    const Vec<T> size = at_most(high, absolute(x));
    return with_sign_of(x, (*this)(size, at_least(least, size)));
  }
  ALWAYS_INLINE Vec<T> of_vector(Vec<T> x, const ByUniforms::Rounding<T>& rounding) const {
    const Vec<T> size = at_least(least, at_most(high, absolute(x)));
    const Vec<T> width = power_of_two(size) * step;
    return at_least(-high, at_most(high, rounding(x / width) * width));
  }
};

// ---- scales of blocks ----

enum class Mode { kNone, kFloor, kCeil, kRceil, kEven, kNVFP4 };

constexpr std::pair<const char*, Mode> kModes[] = {
    {"", Mode::kNone},       {"floor", Mode::kFloor}, {"ceil", Mode::kCeil},
    {"rceil", Mode::kRceil}, {"even", Mode::kEven},   {"nvfp4", Mode::kNVFP4},
};

Mode mode_of(const std::string& name) {
  for (const auto& [known, mode] : kModes)
    if (name == known) return mode;
  refuse("mode must be floor, ceil, rceil, even, nvfp4, or empty without blocks, got ", name);
}

template <class T>
struct BlockScale {
  Mode mode;
  Format of;
  Rounded<T> e4m3{kFormats[0]};

  T operator()(T largest) const {
    if (!(largest < std::numeric_limits<T>::infinity())) return std::numeric_limits<T>::quiet_NaN();
    const T size = largest > 0 ? largest : T(1), top = T(of.largest);
    if (mode == Mode::kNVFP4) {
      const T scale = std::clamp(size / top, e4m3.least, e4m3.high);
      return e4m3(scale, scale);
    }
    const T scale = mode == Mode::kRceil ? size / top : size;
    T power = power_of_two(scale);
    bool up = mode != Mode::kFloor && scale > power;
    if (mode == Mode::kEven) up = scale / power >= 2 - std::ldexp(T(1), -(of.mantissa + 1));
    if (mode != Mode::kRceil) power /= power_of_two(top);
    return std::max(up ? 2 * power : power, T(0x1p-126));
  }
};

// The largest size of elements as integers order it: an infinity or NaN where there is one.
template <class T, class S>
ALWAYS_INLINE T largest_size(const S* x, int64_t count) {
  IntVec<T> most{};
  for (int64_t i = 0; i < count; i += lanes<T>)
    most = max(most, bits_of<IntVec<T>>(absolute(simd::load<T>(x + i, count - i, T(0)))));
  return bits_of<T>(simd::largest(most));
}

// ---- steps ----

template <class T, bool in_blocks>
struct FloatSteps {
  Vec<T> scale, block;
  Rounded<T> rounded;
  bool by_value;

  template <class Rounding>
  ALWAYS_INLINE Placed<T> place(Vec<T> x, const Rounding& rounding) const {
    const Vec<T> v = x / scale, u = in_blocks ? v / block : v;
    const Vec<T> near = rounded.of_vector(u, rounding);
    const Vec<T> size = absolute(u), high = broadcast(rounded.high);
    return {v, in_blocks ? near * block : near,
            by_value ? less(size, high) : less_equal(size, high)};
  }
  ALWAYS_INLINE Vec<T> value(Vec<T> q) const { return q * scale; }
};

template <bool in_blocks>
struct Floats {
  const Tensor& scales;
  Format format;
  Mode mode;
  int64_t length, block;  // of a row, of a block
  bool by_value;

  int64_t unit(const Tensor&) const { return in_blocks ? block : length; }

  template <class T, class S>
  auto steps(const S* x) const {
    return [x, scale = in<T>(scales), rounded = Rounded<T>(format),
            of_block = BlockScale<T>{mode, format}, length = length, block = block,
            by_value = by_value](int64_t index) {
      if constexpr (in_blocks) {
        const T s = valid(scale[index * block / length]);
        const T t = of_block(largest_size<T>(x + index * block, block) / s);
        return FloatSteps<T, true>{broadcast(s), broadcast(t), rounded, by_value};
      } else {
        return FloatSteps<T, false>{broadcast(valid(scale[index])), {}, rounded, by_value};
      }
    };
  }
};

// f(grid), with the scales and the format checked.
template <class F>
auto with_grid(const Tensor& x, const Tensor& scale, const std::string& element, int64_t block,
               const std::string& name, bool by_value, const F& f) {
  const Tensor scales = scales_of(x, scale);
  const Format format = format_of(element);
  const Mode mode = mode_of(name);
  const int64_t length = x.numel() / scales.numel();
  if (mode != Mode::kNone && block == 0) refuse("mode must be empty where block is 0, got ", name);
  const bool fits = mode == Mode::kNone ? block == 0
                                        : block > 0 && block % 8 == 0 && length % block == 0;
  if (!fits)
    refuse("block must be 0 without a mode, else a multiple of 8 that divides rows of ", length,
           ", got ", block);
  if (mode == Mode::kNone) return f(Floats<false>{scales, format, mode, length, 0, by_value});
  return f(Floats<true>{scales, format, mode, length, block, by_value});
}

// ---- operators ----

Tensor floats(const Tensor& x, const Tensor& scales, std::string element, int64_t block,
              std::string mode) {
  return with_grid(x, scales, element, block, mode, false,
                   [&](const auto& grid) { return values(ordered(x), grid); });
}

std::tuple<Tensor, Tensor> floats_and_inside(const Tensor& x, const Tensor& scales,
                                             std::string element, int64_t block, std::string mode,
                                             bool by_value) {
  return with_grid(x, scales, element, block, mode, by_value,
                   [&](const auto& grid) { return values_and_inside(ordered(x), grid); });
}

std::tuple<Tensor, Tensor> floats_backward(const Tensor& x, const Tensor& grad,
                                           const Tensor& scales, std::string element,
                                           int64_t block, std::string mode, bool by_value,
                                           double factor) {
  check_floating("x", x);
  const Tensor g = ordered_grad(grad, x);
  return with_grid(x, scales, element, block, mode, by_value, [&](const auto& grid) {
    const auto [to_x, to_scale, _] = backward<false>(ordered(x), g, grid.scales, grid, factor);
    return std::tuple{to_x, to_scale};
  });
}

// ---- the same, one of both beside an element drawn: reference_drawn.py ----

Tensor floats_drawn(const Tensor& x, const Tensor& scales, std::string element, int64_t block,
                    std::string mode, const Tensor& seed, int64_t offset) {
  const ByUniforms draw{key_of(seed, offset), offset};
  return with_grid(x, scales, element, block, mode, false,
                   [&](const auto& grid) { return values(ordered(x), grid, draw); });
}

std::tuple<Tensor, Tensor> floats_drawn_and_inside(const Tensor& x, const Tensor& scales,
                                                   std::string element, int64_t block,
                                                   std::string mode, bool by_value,
                                                   const Tensor& seed, int64_t offset) {
  const ByUniforms draw{key_of(seed, offset), offset};
  return with_grid(x, scales, element, block, mode, by_value,
                   [&](const auto& grid) { return values_and_inside(ordered(x), grid, draw); });
}

std::tuple<Tensor, Tensor> floats_drawn_backward(const Tensor& x, const Tensor& grad,
                                                 const Tensor& scales, std::string element,
                                                 int64_t block, std::string mode, bool by_value,
                                                 double factor, const Tensor& seed,
                                                 int64_t offset) {
  check_floating("x", x);
  const Tensor g = ordered_grad(grad, x);
  const ByUniforms draw{key_of(seed, offset), offset};
  return with_grid(x, scales, element, block, mode, by_value, [&](const auto& grid) {
    const auto [to_x, to_scale, _] =
        backward<false>(ordered(x), g, grid.scales, grid, factor, draw);
    return std::tuple{to_x, to_scale};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&floats>(m, "floats");
  implement<&floats_and_inside>(m, "floats_and_inside");
  implement<&floats_backward>(m, "floats_backward");
  implement<&floats_drawn>(m, "floats_drawn");
  implement<&floats_drawn_and_inside>(m, "floats_drawn_and_inside");
  implement<&floats_drawn_backward>(m, "floats_drawn_backward");
}
