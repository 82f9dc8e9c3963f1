// Noise an element.
#pragma once
#include <algorithm>
#include <tuple>

#include "operators.h"
#include "philox.h"

namespace draws {

using namespace operators;
using namespace simd;

constexpr int64_t kNoisyGrain = 16384;

// Call f(element, count, noise) for vectors of the elements in [begin, end), each at a whole number
// of bytes from `begin` in a bit an element. make(group) gives the noise of as many elements as it
// likes, from the first of a group on; all of it is made before any f, as two short chains of
// instructions overlap better than a long one.
template <class T, class Make, class F>
void with_noise(int64_t begin, int64_t end, int64_t offset, const Make& make, const F& f) {
  constexpr int64_t width = philox::per_group<T>, vectors = std::tuple_size_v<decltype(make(0))>;
  constexpr int64_t step = vectors * lanes<T>;
  for (int64_t i = begin; i < end;) {
    const int64_t skip = (offset + i) % width;
    const auto noise = make((offset + i) / width);
    if (skip == 0 && i + step <= end) {
#pragma GCC unroll 1  // more would crowd the constants of f out of the registers
      for (int k = 0; k < vectors; ++k, i += lanes<T>) f(i, lanes<T>, noise[k]);
      continue;
    }
    const int64_t stop = std::min(end, i + (step - skip) / 8 * 8);
    const T* from = reinterpret_cast<const T*>(&noise) + skip;
    for (; i < stop; i += lanes<T>, from += lanes<T>) {
      const int64_t count = std::min<int64_t>(lanes<T>, stop - i);
      f(i, count, simd::load<T>(from, count, T(1)));  // no draw against 1 is true
    }
    i = stop;
  }
}

template <class T, class F>
void with_uniforms(int64_t begin, int64_t end, uint64_t seed, int64_t offset, uint32_t stream,
                   const F& f) {
  const auto make = [=](int64_t group) { return philox::element_uniforms<T>(seed, group, stream); };
  with_noise<T>(begin, end, offset, make, f);
}

}  // namespace draws
