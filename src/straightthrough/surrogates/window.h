// Windows: whether |x - centre| is within a bound.
#pragma once
#include "../core/native/elementwise.h"

namespace window {

using namespace operators;
using namespace simd;

template <class V>
ALWAYS_INLINE auto inside(V x, double centre, double bound, bool includes_bound) {
  using T = Lane<V>;
  const V distance = absolute(x - T(centre)), most = V{} + T(bound);
  return includes_bound ? less_equal(distance, most) : less(distance, most);
}

}  // namespace window
