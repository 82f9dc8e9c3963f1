// The CPU kernels of gumbels.py and noise.py.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <limits>
#include <vector>

#include "native/rows.h"

namespace {

using namespace rows;

struct Gumbels {
  static constexpr bool of_logits = false, of_grad = false;
  uint32_t stream;

  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    r.t.with_uniforms(r.seed, r.position, stream,
                      [&](int64_t i, Vec<T> u) { r.put(i, -log_normal(-log1m(u))); });
  }
};

Tensor gumbels(const Tensor& x, int64_t sample, const Tensor& seed, int64_t offset) {
  check_rows("x", x);
  if (sample < 0 || sample >= kMostSamples)
    refuse("sample must lie in [0, ", kMostSamples, "), got ", sample);
  const Gumbels formula{philox::conditional(sample)};
  return over_rows(formula, x, x, key_of(seed, offset), offset);
}

// The seed that a draw takes from torch's default generator: from there, in Python, it costs
// compiled code ten times as much where caches are cold.
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
  implement<&gumbels>(m, "gumbels");
  implement<&fresh_seed>(m, "fresh_seed");
}
