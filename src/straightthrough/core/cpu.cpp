// The seed that a draw takes from torch's default generator, as noise.py does it: from there, in
// Python, it costs compiled code ten times as much where caches are cold.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <limits>
#include <vector>

#include "native/registration.h"

namespace {

using namespace operators;

Tensor fresh_seed(const Tensor&, std::vector<int64_t> shape) {
  for (const int64_t size : shape)
    if (size < 0) refuse("shape must have no negative size, got ", size);
  int32_t dtype = kInt64;
  AtenTensorHandle seed;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_randint(std::numeric_limits<int64_t>::max(), shape.data(),
                                                shape.size(), &dtype, nullptr, nullptr, 0, nullptr,
                                                &seed));
  return Tensor(seed);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&fresh_seed>(m, "fresh_seed");
}
