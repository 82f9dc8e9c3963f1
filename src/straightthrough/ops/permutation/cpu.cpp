// Ranks and their gradient: the CPU kernels of reference.py.
#include <cmath>
#include <vector>

#include "../../core/native/operators.h"

namespace {

using namespace operators;
using namespace simd;

// ---- forward ----

// Whole numbers in the order of the numbers: both zeros are one, NaN is the largest.
template <class T>
ALWAYS_INLINE auto key_of(T x) {
  using Key = std::make_unsigned_t<typename Traits<T>::Int>;
  constexpr int kSign = 8 * sizeof(Key) - 1;
  const auto bits = bits_of<Key>(x + T(0));
  const Key flipped = (Key{0} - (bits >> kSign)) | Key{1} << kSign;
  return x == x ? bits ^ flipped : ~Key{0};
}

// The places of a row in the order of their keys, equal ones as they come.
template <class Key>
class Sorter {
 public:
  struct Entry {
    Key key, place;

    bool operator<(const Entry& other) const {
      return key != other.key ? key < other.key : place < other.place;
    }
  };

  explicit Sorter(int64_t size) : entries_(size), spare_(size) {}

  template <class F>
  const std::vector<Entry>& operator()(const F& key) {
    for (size_t i = 0; i < entries_.size(); ++i) entries_[i] = {key(i), static_cast<Key>(i)};
    if (entries_.size() < kMany)
      std::sort(entries_.begin(), entries_.end());
    else
      sort_by_digits();
    return entries_;
  }

 private:
  static constexpr size_t kMany = 64, kDigits = sizeof(Key), kValues = 256;

  static size_t digit_of(Key key, size_t n) { return key >> 8 * n & (kValues - 1); }

  // From the lowest digit on, each time keeping the order of before.
  void sort_by_digits() {
    size_t counts[kDigits][kValues] = {};
    for (const Entry& entry : entries_)
      for (size_t n = 0; n < kDigits; ++n) ++counts[n][digit_of(entry.key, n)];
    for (size_t n = 0; n < kDigits; ++n) {
      if (counts[n][digit_of(entries_[0].key, n)] == entries_.size()) continue;
      size_t begin = 0;
      for (size_t& count : counts[n]) begin += std::exchange(count, begin);
      for (const Entry& entry : entries_) spare_[counts[n][digit_of(entry.key, n)]++] = entry;
      entries_.swap(spare_);
    }
  }

  std::vector<Entry> entries_, spare_;
};

// One row after the other, in memory that they share.
template <class T, class S>
class Ranks {
  using Key = decltype(key_of(T()));

 public:
  Ranks(int64_t size, bool descending) : sorter_(size), size_(size), descending_(descending) {}

  void operator()(const S* x, S* value, int64_t* order) {
    const T infinity = std::numeric_limits<T>::infinity();
    int64_t absent = 0;
    bool unordered = false;
    for (int64_t i = 0; i < size_; ++i) {
      const T score = widen(x[i]);
      absent += score == -infinity;
      unordered |= score != score;
    }
    const Key flipped = descending_ ? ~Key{0} : 0;
    const auto& entries = sorter_([&](size_t i) { return key_of<T>(widen(x[i])) ^ flipped; });
    const int64_t below = descending_ ? 0 : absent, ranked = size_ - absent;
    for (int64_t i = 0; i < size_; ++i) {
      const int64_t place = entries[i].place, rank = i + 1 - below;
      order[i] = place;
      value[place] = narrow<S>(static_cast<T>(rank > 0 && rank <= ranked ? rank : 0));
    }
    if (unordered || ranked == 0)
      std::fill_n(value, size_, narrow<S>(std::numeric_limits<T>::quiet_NaN()));
  }

 private:
  Sorter<Key> sorter_;
  int64_t size_;
  bool descending_;
};

std::tuple<Tensor, Tensor> ranks(const Tensor& unordered, bool descending) {
  check_rows("scores", unordered);
  const Tensor scores = ordered(unordered);
  const int64_t size = scores.sizes().back(), rows = scores.numel() / size;
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  if (size > kMost) refuse("scores must have at most ", kMost, " entries a row, got ", size);
  Tensor value = fresh_like(scores), order = fresh(scores.sizes(), kInt64);
  dispatch(dtype_of(scores), [&](auto compute, auto stored) {
    using S = decltype(stored);
    const S* x = in<S>(scores);
    S* to = out<S>(value);
    int64_t* places = out<int64_t>(order);
    const int64_t grain = 1024 / size + 1;
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      Ranks<decltype(compute), S> row(size, descending);
      for (int64_t i = first * size; i < last * size; i += size) row(x + i, to + i, places + i);
    });
  });
  return {value, order};
}

// ---- backward ----

constexpr double kTied = 1e-9;  // TIED of reference.py

// Neighbours in the order of a row that share a level, and what is summed over them.
struct Block {
  double sum, count, mean;
  int64_t begin;
};

template <class S>
S stored(double x) {
  using T = decltype(widen(S()));
  if constexpr (std::is_same_v<T, S>) {
    const double most = std::numeric_limits<S>::max();
    return static_cast<S>(std::isfinite(x) ? std::clamp(x, -most, most) : x);
  } else {
    const double most = kMost<S>;
    return narrow<S>(static_cast<T>(std::isfinite(x) ? std::clamp(x, -most, most) : x));
  }
}

// One row after the other, in memory that they share.
template <class S>
class Gradients {
 public:
  Gradients(int64_t size, double strength, bool descending)
      : size_(size), strength_(strength), sign_(descending ? 1 : -1), falling_(size) {
    blocks_.reserve(size);
  }

  void operator()(const S* x, const int64_t* order, const S* grad, S* out) {
    bool unordered = false, infinite = false;
    for (int64_t i = 0; i < size_; ++i) {
      const double value = widen(x[i]);
      unordered |= value != value;
      infinite |= value == std::numeric_limits<double>::infinity();
    }
    std::fill(out, out + size_, stored<S>(unordered ? std::nan("") : 0.0));
    if (unordered || infinite) return;
    const auto absent = [&](int64_t i) { return std::isinf(double(widen(x[order[i]]))); };
    int64_t begin = 0, end = size_;
    while (begin < end && absent(begin)) ++begin;
    while (begin < end && absent(end - 1)) --end;
    if (begin == end) return;
    fit(x, order, begin, end);
    spread(order, grad, end, out);
  }

 private:
  // The blocks of the non-increasing fit of what lies in [begin, end).
  void fit(const S* x, const int64_t* order, int64_t begin, int64_t end) {
    const auto half = [&](int64_t i) { return sign_ * widen(x[order[i]]) / 2; };
    const double top = half(begin), span = top - half(end - 1);
    const double steps = static_cast<double>(end - begin - 1) / strength_;
    const bool flat = !(span >= std::numeric_limits<double>::min());
    slope_ = flat ? 1 / strength_ : 0.5 * steps / span;
    blocks_.clear();
    for (int64_t i = begin; i < end; ++i) {
      const double scaled = flat ? 0 : (half(i) - top) / span * steps;
      const double y = scaled + static_cast<double>(i);
      Block last{y, 1, y, i};
      while (!blocks_.empty() && last.mean >= blocks_.back().mean) join(last);
      blocks_.push_back(last);
    }
  }
  void join(Block& last) {
    const Block& before = blocks_.back();
    const double sum = last.sum + before.sum, count = last.count + before.count;
    last = {sum, count, sum / count, before.begin};
    blocks_.pop_back();
  }

  // What the gradient is above its mean over a block, or over several that rounding has parted.
  void spread(const int64_t* order, const S* grad, int64_t end, S* out) {
    for (size_t b = 0; b < blocks_.size();) {
      const int64_t first = blocks_[b].begin;
      while (++b < blocks_.size() && blocks_[b - 1].mean - blocks_[b].mean <= kTied) {
      }
      const int64_t last = b < blocks_.size() ? blocks_[b].begin : end;
      double sum = 0;
      for (int64_t i = first; i < last; ++i) sum += falling_[i] = widen(grad[order[i]]);
      const double mean = sum / static_cast<double>(last - first);
      for (int64_t i = first; i < last; ++i)
        out[order[i]] = stored<S>(slope_ * (falling_[i] - mean));
    }
  }

  int64_t size_;
  double strength_, sign_, slope_ = 0;
  std::vector<double> falling_;  // the gradient in the order of the scores
  std::vector<Block> blocks_;
};

// The places of a row's entries in their order, all in order.
Tensor ordered_places(const Tensor& places, const Tensor& scores) {
  check_cpu("places", places);
  if (dtype_of(places) != kInt64 || !places.sizes().equals(scores.sizes()))
    refuse("places must be Long, one an entry of ", described(scores), ", got ",
           described(places));
  const Tensor in_order = ordered(places);
  const int64_t size = scores.sizes().back(), *begin = in<int64_t>(in_order);
  const int64_t* end = begin + in_order.numel();
  const auto wrong = [=](int64_t at) { return at < 0 || at >= size; };
  const int64_t* found = std::find_if(begin, end, wrong);
  if (found != end) refuse("places must lie in [0, ", size, "), got ", *found);
  return in_order;
}

Tensor rank_gradient(const Tensor& unordered, const Tensor& unordered_places,
                     const Tensor& unordered_grad, double strength, bool descending) {
  check_rows("scores", unordered);
  const Tensor grad = ordered_grad(unordered_grad, unordered), scores = ordered(unordered);
  const Tensor places = ordered_places(unordered_places, unordered);
  Tensor result = fresh_like(scores);
  const int64_t size = scores.sizes().back(), rows = scores.numel() / size;
  dispatch(dtype_of(scores), [&](auto, auto stored) {
    using S = decltype(stored);
    const S *x = in<S>(scores), *g = in<S>(grad);
    const int64_t* at = in<int64_t>(places);
    S* to = out<S>(result);
    const int64_t grain = 4096 / size + 1;
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      Gradients<S> row(size, strength, descending);
      for (int64_t r = first; r < last; ++r)
        row(x + r * size, at + r * size, g + r * size, to + r * size);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&ranks>(m, "ranks");
  implement<&rank_gradient>(m, "rank_gradient");
}
