// The nearest of few codewords, by distances in double precision, and codewords by their numbers:
// the CPU kernels of reference.py.
#include <vector>

#include "../../core/native/elementwise.h"

namespace {

using namespace operators;
using namespace simd;

constexpr int kRows = 4, kVectors = 2;
constexpr int64_t kBeside = kVectors * lanes<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Write a vector in double precision, `step` apart; say whether all of it is finite.
template <class S>
bool widened(const S* from, int64_t width, double* to, int64_t step) {
  bool finite = true;
  for (int64_t d = 0; d < width; ++d) {
    const double x = widen(from[d]);
    finite &= std::abs(x) < kInfinity;
    to[d * step] = x;
  }
  return finite;
}

// The codewords, kBeside of them entry by entry beside each other. One that is not finite, and what
// is beyond the last, is infinitely far.
struct Codebook {
  int64_t width, blocks, first = -1;  // the first codeword that is finite
  std::vector<double> entries;

  template <class S>
  Codebook(const S* from, int64_t codes, int64_t width)
      : width(width),
        blocks((codes + kBeside - 1) / kBeside),
        entries(blocks * kBeside * width, kInfinity) {
    for (int64_t code = 0; code < codes; ++code) {
      double* to = entries.data() + code / kBeside * kBeside * width + code % kBeside;
      if (!widened(from + code * width, width, to, kBeside))
        for (int64_t d = 0; d < width; ++d) to[d * kBeside] = kInfinity;
      else if (first < 0)
        first = code;
    }
  }
};

// Of rows, the least distance a lane, its codeword, and the next larger distance.
template <int rows>
struct Found {
  Doubles least[rows], following[rows];
  IntVec<double> place[rows];

  explicit Found(int64_t first) {
    for (int r = 0; r < rows; ++r)
      least[r] = following[r] = broadcast(kInfinity), place[r] = IntVec<double>{} + first;
  }
  ALWAYS_INLINE void take(int r, Doubles distance, IntVec<double> code) {
    const Doubles larger = max(distance, least[r]);
    following[r] = larger < following[r] ? larger : following[r];
    place[r] = distance < least[r] ? code : place[r];
    least[r] = distance < least[r] ? distance : least[r];
  }
  int64_t nearest(int r) const { return place[r][first_least(r)]; }

  // The nearest; or -1 if another is as near, as far as rounding lets it be told.
  int64_t told(int r, double rounding) const {
    const int lane = first_least(r);
    double next = following[r][lane];
    for (int other = 0; other < lanes<double>; ++other)
      if (other != lane) next = std::min(next, least[r][other]);
    return next > least[r][lane] * (1 + rounding) ? place[r][lane] : -1;
  }

 private:
  int first_least(int r) const {
    int lane = 0;
    for (int other = 1; other < lanes<double>; ++other) {
      const double distance = least[r][other], so_far = least[r][lane];
      if (distance < so_far || (distance == so_far && place[r][other] < place[r][lane]))
        lane = other;
    }
    return lane;
  }
};

// Distances to all codewords, the squares added entry after entry: as the machine does it best, or
// each of them rounded before, as the reference has it.
template <int rows, bool apart>
INLINE_CALLS Found<rows> distances(const double* z, const Codebook& book) {
  Found<rows> found(book.first);
  IntVec<double> here{};
  for (int lane = 0; lane < lanes<double>; ++lane) here[lane] = lane;
  const double* code = book.entries.data();
  for (int64_t block = 0; block < book.blocks; ++block) {
    Doubles sum[rows][kVectors] = {};
    for (int64_t d = 0; d < book.width; ++d)
      for (int v = 0; v < kVectors; ++v, code += lanes<double>)
        for (int r = 0; r < rows; ++r) {
          const Doubles away = z[r * book.width + d] - load<double>(code);
          sum[r][v] += apart ? rounded_apart(away * away) : away * away;
        }
    for (int v = 0; v < kVectors; ++v, here += lanes<double>)
      for (int r = 0; r < rows; ++r) found.take(r, sum[r][v], here);
  }
  return found;
}

template <int rows>
void nearest_to(const double* z, const Codebook& book, int64_t* nearest) {
  const double rounding = 4 * (book.width + 4) * std::numeric_limits<double>::epsilon();
  const Found<rows> found = distances<rows, false>(z, book);
  for (int r = 0; r < rows; ++r) {
    nearest[r] = found.told(r, rounding);
    if (nearest[r] < 0) nearest[r] = distances<1, true>(z + r * book.width, book).nearest(0);
  }
}

Tensor nearest_of_few(const Tensor& unordered, const Tensor& codewords) {
  check_rows("z", unordered);
  check_rows("codebook", codewords);
  const bool fits = codewords.dim() == 2 && dtype_of(codewords) == dtype_of(unordered) &&
                    codewords.sizes().back() == unordered.sizes().back();
  if (!fits)
    refuse("codebook must be one vector a row, of the width and dtype of ", described(unordered),
           ", got ", described(codewords));
  const Tensor z = ordered(unordered), codebook = ordered(codewords);
  const int64_t width = z.sizes().back(), codes = codebook.size(0);
  Tensor index = fresh(z.sizes().slice(0, z.dim() - 1), kInt64);
  dispatch(dtype_of(z), [&](auto, auto stored) {
    using S = decltype(stored);
    const Codebook book(in<S>(codebook), codes, width);
    const S* from = in<S>(z);
    int64_t* to = out<int64_t>(index);
    const int64_t grain = 32768 / (width * (codes + 1)) + kRows;
    torch::stable::parallel_for(0, z.numel() / width, grain, [&](int64_t begin, int64_t end) {
      std::vector<double> rows(kRows * width);
      for (int64_t row = begin; row < end;) {
        const int count = end - row < kRows ? 1 : kRows;
        bool finite[kRows];
        for (int r = 0; r < count; ++r)
          finite[r] = widened(from + (row + r) * width, width, rows.data() + r * width, 1);
        if (count == 1)
          nearest_to<1>(rows.data(), book, to + row);
        else
          nearest_to<kRows>(rows.data(), book, to + row);
        for (int r = 0; r < count; ++r, ++row)
          if (!finite[r]) to[row] = -1;
      }
    });
  });
  return index;
}

// In the precision of the work, NaN for -1.
Tensor codewords(const Tensor& unordered, const Tensor& given) {
  check_rows("table", unordered);
  check_cpu("numbers", given);
  if (unordered.dim() != 2) refuse("table must be one vector a row, got ", described(unordered));
  if (dtype_of(given) != kInt64 || given.dim() >= kMostDimensions)
    refuse("numbers must be Long, of fewer than ", kMostDimensions, " dimensions, got ",
           described(given));
  const Tensor table = ordered(unordered), numbers = ordered(given);
  const int64_t width = table.size(1), codes = table.size(0), rows = numbers.numel();
  const int64_t* at = in<int64_t>(numbers);
  if (!are_classes_or_none(at, at + rows, codes))
    refuse("numbers must lie in [0, ", codes, "), or be -1 for a row without a codeword");
  std::vector<int64_t> shape(given.sizes().begin(), given.sizes().end());
  shape.push_back(width);
  const int32_t due = dtype_of(table) == kFloat64 ? kFloat64 : kFloat32;
  Tensor value = fresh({shape.data(), shape.size()}, due);
  dispatch(dtype_of(table), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S* from = in<S>(table);
    T* to = out<T>(value);
    torch::stable::parallel_for(0, rows, kGrain / width + 1, [=](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* next = to + row * width;
        if (at[row] < 0)
          std::fill_n(next, width, std::numeric_limits<T>::quiet_NaN());
        else
          std::transform(from + at[row] * width, from + (at[row] + 1) * width, next,
                         [](S x) { return widen(x); });
      }
    });
  });
  return value;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&nearest_of_few>(m, "nearest_of_few");
  implement<&codewords>(m, "codewords");
}
