// What the kernels of codes share that number rows of entries.
#pragma once
#include "../../core/native/operators.h"

namespace codes {

using namespace operators;
using namespace simd;

constexpr int64_t kBlock = 2048;  // elements, about, that are worked on before they are numbered

// f(first, rows) for blocks of the rows of z.
template <class F>
void over_blocks(const Tensor& z, const F& f) {
  const int64_t width = z.sizes().back(), step = kBlock / width + 1;
  torch::stable::parallel_for(0, z.numel() / width, 16384 / width + 1,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t first = begin; first < end; first += step)
                                  f(first, std::min(step, end - first));
                              });
}

// Rows that hold NaN become NaN, and their number -1.
template <class T, class S>
void withhold(S* code, int64_t rows, int64_t width, int64_t* number) {
  const auto no_number = [](S entry) { return widen(entry) != widen(entry); };
  for (int64_t row = 0; row < rows; ++row, code += width) {
    if (std::none_of(code, code + width, no_number)) continue;
    std::fill_n(code, width, narrow<S>(std::numeric_limits<T>::quiet_NaN()));
    number[row] = -1;
  }
}

}  // namespace codes
