// The gradient of Sinkhorn's iterations: the CPU kernel of reference.py.
#include <cmath>
#include <vector>

#include "../../core/native/operators.h"

namespace {

using namespace operators;
using namespace simd;

using Memory = std::vector<Doubles>;
using Index = int64_t;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Index kMostIterations = 1 << 24;

// Where a scale goes beyond kMostScale, or the largest gradient beyond kMostGrad, either way,
// logarithms serve. Otherwise two scales times a gradient, and sums of these, are numbers, and what
// exp loses below 1e-307 is below 1e-87 when it is scaled.
constexpr double kMostScale = 1e110, kMostGrad = 1e60;

constexpr Index kAtOnce = 4;  // vectors of sums that are in registers

const double* numbers(const Doubles* x) { return reinterpret_cast<const double*>(x); }

template <class F>
INLINE_CALLS void over_blocks(Index width, const F& f) {
  Index j = 0;
  for (; j + kAtOnce <= width; j += kAtOnce) f(j, std::integral_constant<Index, kAtOnce>());
  for (; j < width; ++j) f(j, std::integral_constant<Index, 1>());
}

// One square after the other, in memory that they share: rows of `width_` vectors, the last filled
// up, and as many of them as they have numbers, so that they can be transposed.
template <class S>
class Gradients {
  using T = decltype(widen(S()));
  static constexpr Index kPart = lanes<double>;

 public:
  Gradients(Index size, double tau, Index iterations)
      : size_(size),
        width_((size + lanes<T> - 1) / lanes<T> * (lanes<T> / kPart)),
        steps_(2 * iterations),
        half_tau_(tau / 2),
        x_(width_ * kPart * width_),
        turned_(x_.size()),
        g_(x_.size()),
        scales_((steps_ + 1) * width_),
        pulls_(scales_.size()),
        row_(width_) {}

  void operator()(const S* x, const S* grad, S* out) {
    read(x, grad);
    if (is_moderate() && scale()) return pull(out);
    read(x, grad);
    by_logarithms(x, out);
  }

 private:
  // ---- in and out ----

  void read(const S* x, const S* grad) {
    for (Index i = 0; i < size_; ++i) {
      read_row(x + i * size_, -kInfinity, &x_[i * width_]);
      relate_to_largest(&x_[i * width_]);
      read_row(grad + i * size_, 0, &g_[i * width_]);
    }
  }
  void read_row(const S* from, T fill, Doubles* to) const {
    for (Index j = 0; j < size_; j += lanes<T>) {
      const auto parts = widen(load<T>(from + j, size_ - j, fill));
      std::copy(parts.begin(), parts.end(), to + j / kPart);
    }
  }
  // `(x - max x) / tau`, in halves, as the difference of two numbers may not be one.
  void relate_to_largest(Doubles* row) const {
    Doubles top = broadcast(-kInfinity);
    for (Index j = 0; j < width_; ++j) top = max(top, row[j] = row[j] / 2);
    const double found = largest(top), peak = std::isfinite(found) ? found : 0;
    for (Index j = 0; j < width_; ++j) {
      const Doubles x = (row[j] - peak) / half_tau_;
      row[j] = row[j] == -kInfinity ? row[j] : at_least(-1e300, x);
    }
  }

  void write(const Doubles* from, S* to) const {
    constexpr double most = std::is_same_v<S, T> ? std::numeric_limits<T>::max() : kMost<S>;
    for (Index j = 0; j < size_; j += lanes<T>) {
      Wide<T> parts;
      for (Doubles& part : parts) part = *from++, part = within(most, part, part);
      store<S>(to + j, narrow(parts), size_ - j);
    }
  }

  void transpose(const Memory& from, Memory& to) const {
    for (Index i = 0; i < width_; ++i)
      for (Index j = 0; j < width_; ++j) {
        Doubles block[kPart];
        for (Index k = 0; k < kPart; ++k) block[k] = from[(i * kPart + k) * width_ + j];
        simd::transpose(block);
        for (Index k = 0; k < kPart; ++k) to[(j * kPart + k) * width_ + i] = block[k];
      }
  }

  // ---- by scales: the matrix is exp(x), its rows and columns multiplied ----

  bool is_moderate() const {
    Doubles top{}, unordered{};
    for (Index i = 0; i < size_ * width_; ++i) {
      top = max(top, absolute(g_[i]));
      unordered += g_[i] - g_[i];
    }
    const double peak = largest(top), rate = 1 / half_tau_;
    return (peak == 0 || (peak > 1 / kMostGrad && peak < kMostGrad)) && sum(unordered) == 0 &&
           std::isfinite(rate);
  }

  Doubles* scale_after(Index step) { return &scales_[step * width_]; }
  Doubles* pull_after(Index step) { return &pulls_[step * width_]; }

  // Sums over the rows of a matrix, each weighted.
  void add_up(const Memory& matrix, const Doubles* weights, Doubles* sums) const {
    const double* weight = numbers(weights);
    over_blocks(width_, [&](Index j, auto count) {
      Doubles total[count] = {};
      const Doubles* from = &matrix[j];
      for (Index i = 0; i < size_; ++i, from += width_)
        for (Index c = 0; c < count; ++c) total[c] += from[c] * weight[i];
      std::copy(total, total + count, sums + j);
    });
  }
  const Memory& summed_at(Index step) const { return step % 2 ? turned_ : x_; }

  // The scales of rows after odd steps, of columns after even ones; whether all are in range. What
  // fills up rows is 1, as are numbers there.
  bool scale() {
    for (Index i = 0; i < size_; ++i) exp_of(&x_[i * width_]);
    std::fill(x_.begin() + size_ * width_, x_.end(), broadcast(1.0));
    transpose(x_, turned_);
    std::fill_n(scale_after(0), width_, broadcast(1.0));
    IntVec<double> inside = ~IntVec<double>{};
    for (Index step = 1; step <= steps_; ++step) {
      Doubles* to = scale_after(step);
      add_up(summed_at(step), scale_after(step - 1), to);
      for (Index j = 0; j < width_; ++j) {
        to[j] = 1.0 / to[j];
        inside &= (to[j] > 1 / kMostScale) & (to[j] < kMostScale);
      }
    }
    for (int k = 0; k < kPart; ++k)
      if (!inside[k]) return false;
    return true;
  }
  void exp_of(Doubles* row) const {
    for (Index j = 0; j < width_; ++j) row[j] = exp(row[j]);
    double* filling = reinterpret_cast<double*>(row);
    std::fill(filling + size_, filling + width_ * kPart, 1.0);
  }

  // The gradient to the logarithm of every scale, times the scale, from the last one back; then
  // that to the matrix, of which every step has two factors.
  void pull(S* out) {
    weigh_gradient();
    for (Index step = steps_ - 1; step > 0; --step) {
      add_up(summed_at(step), pull_after(step + 1), row_.data());
      const Doubles* scale = scale_after(step);
      Doubles* to = pull_after(step);
      const bool last_rows = step == steps_ - 1;
      for (Index j = 0; j < width_; ++j)
        to[j] = scale[j] * ((last_rows ? to[j] : Doubles{}) - scale[j] * row_[j]);
    }
    const double rate = 1 / half_tau_ / 2;
    for (Index i = 0; i < size_; ++i) {
      over_blocks(width_, [&](Index j, auto count) {
        Doubles total[count] = {};
        for (Index step = 1; step < steps_; step += 2) {
          const Doubles *before = scale_after(step - 1) + j, *after = pull_after(step + 1) + j;
          const double scale = numbers(scale_after(step))[i], to_it = numbers(pull_after(step))[i];
          for (Index c = 0; c < count; ++c) total[c] += before[c] * to_it + after[c] * scale;
        }
        const Index at = i * width_ + j;
        for (Index c = 0; c < count; ++c) row_[j + c] = (g_[at + c] - x_[at + c] * total[c]) * rate;
      });
      write(row_.data(), out + i * size_);
    }
  }

  // The gradient times the scaled matrix, and the sums of that: of columns and of rows.
  void weigh_gradient() {
    Doubles* columns = pull_after(steps_);
    const Doubles* across = scale_after(steps_);
    const double* down = numbers(scale_after(steps_ - 1));
    double* rows = reinterpret_cast<double*>(pull_after(steps_ - 1));
    std::fill_n(columns, width_, Doubles{});
    for (Index i = 0; i < size_; ++i) {
      Doubles total{};
      for (Index j = 0; j < width_; ++j) {
        const Index at = i * width_ + j;
        g_[at] *= x_[at] * (across[j] * down[i]);
        columns[j] += g_[at];
        total += g_[at];
      }
      rows[i] = sum(total);
    }
    for (Index j = 0; j < width_; ++j) columns[j] *= across[j];
  }

  // ---- by logarithms: as the reference, columns being rows of the transposed matrix ----

  void by_logarithms(const S* x, S* out) {
    std::fill(x_.begin() + size_ * width_, x_.end(), broadcast(-kInfinity));
    std::fill(g_.begin() + size_ * width_, g_.end(), Doubles{});
    scaled_.resize(steps_);
    for (Memory& scaled : scaled_) {
      scaled.resize(size_ * width_);
      for (Index i = 0; i < size_; ++i) scale_row(&x_[i * width_], &scaled[i * width_]);
      turn(x_);
    }
    for (Index step = steps_; step-- > 0;) {
      turn(g_);
      if (step + 1 == steps_)
        for (Index i = 0; i < size_ * width_; ++i) g_[i] *= scaled_[step][i];
      for (Index i = 0; i < size_; ++i) pull_row(&g_[i * width_], &scaled_[step][i * width_]);
    }
    for (Index i = 0; i < size_; ++i) {
      read_row(x + i * size_, -kInfinity, row_.data());
      for (Index j = 0; j < width_; ++j)
        row_[j] = row_[j] == -kInfinity ? Doubles{} : g_[i * width_ + j] / half_tau_ / 2;
      write(row_.data(), out + i * size_);
    }
  }

  void turn(Memory& matrix) {
    transpose(matrix, turned_);
    matrix.swap(turned_);
  }

  void scale_row(Doubles* row, Doubles* scaled) const {
    Doubles top = broadcast(-kInfinity), total{};
    for (Index j = 0; j < width_; ++j) top = max(top, row[j]);
    const double found = largest(top), peak = std::isfinite(found) ? found : 0;
    for (Index j = 0; j < width_; ++j) total += scaled[j] = exp(row[j] -= peak);
    const double all = sum(total), logarithm = std::log(all);
    for (Index j = 0; j < width_; ++j) row[j] -= logarithm, scaled[j] /= all;
  }
  void pull_row(Doubles* row, const Doubles* scaled) const {
    Doubles total{};
    for (Index j = 0; j < width_; ++j) total += row[j];
    const double pulled = sum(total);
    for (Index j = 0; j < width_; ++j) row[j] -= scaled[j] * pulled;
  }

  Index size_, width_, steps_;
  double half_tau_;
  Memory x_, turned_, g_, scales_, pulls_, row_;
  std::vector<Memory> scaled_;  // the matrix after every step, where logarithms serve
};

Tensor sinkhorn_gradient(const Tensor& unordered, const Tensor& unordered_grad, double tau,
                         Index iterations) {
  check_floating("squares", unordered);
  const Index dims = unordered.dim(), size = dims < 2 ? 0 : unordered.sizes().back();
  if (size == 0 || unordered.size(dims - 2) != size)
    refuse("squares must be (..., n, n) with n at least 1, got ", described(unordered));
  if (iterations < 1 || iterations > kMostIterations)
    refuse("iterations must lie in [1, ", kMostIterations, "], got ", iterations);
  const Tensor grad = ordered_grad(unordered_grad, unordered), squares = ordered(unordered);
  Tensor result = fresh_like(squares);
  const Index entries = size * size, count = squares.numel() / entries;
  dispatch(dtype_of(squares), [&](auto, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(squares), *g = in<S>(grad);
    S* to = out<S>(result);
    const Index grain = 32768 / entries / iterations + 1;
    torch::stable::parallel_for(0, count, grain, [&](Index first, Index last) {
      Gradients<S> square(size, tau, iterations);
      for (Index i = first * entries; i < last * entries; i += entries)
        square(x + i, g + i, to + i);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&sinkhorn_gradient>(m, "sinkhorn_gradient");
}
