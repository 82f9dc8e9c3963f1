// The seed that a draw takes from torch's default generator, as noise.py does it: from there, in
// Python, it costs compiled code ten times as much where caches are cold.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <limits>
#include <vector>

#include "native/registration.h"

namespace {

using namespace operators;

Tensor fresh_seed(const Tensor& like, std::vector<int64_t> shape) {
  using torch::stable::detail::from;
  for (const int64_t size : shape)
    if (size < 0) refuse("shape must have no negative size, got ", size);
  const Tensor seed =
      torch::stable::new_empty(like, shape, torch::headeronly::ScalarType::Long);
  std::array<StableIValue, 3> stack{from(seed), from(std::numeric_limits<int64_t>::max()),
                                    from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::random_", "to", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&fresh_seed>(m, "fresh_seed");
}
