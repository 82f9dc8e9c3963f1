// One-hots of the largest class: the CPU kernel of `argmax_hot` in reference.py.
#include "../../core/native/rows.h"

namespace {

using namespace rows;

struct Argmax {
  static constexpr bool of_logits = true, of_grad = false;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    // Every lane's own, the first class where it is, and whether there is a NaN.
    Vec<T> top = r.x(0);
    IntVec<T> chosen = r.t.classes_at(0), unordered = top != top;
    for (int64_t i = 1; i < r.t.size(); ++i) {
      r.fetch_ahead(i);
      const Vec<T> x = r.x(i);
      const IntVec<T> larger = x > top;
      chosen = larger ? r.t.classes_at(i) : chosen;
      top = larger ? x : top;
      unordered |= x != x;
    }
    if constexpr (!Across) {
      chosen = first_of(chosen, top);
      unordered = IntVec<T>{} - any(unordered);
      top = broadcast(largest(top));
    }
    const auto without = unordered | (top == -std::numeric_limits<T>::infinity());
    const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN()), zero{};
    const Vec<T> off = without ? nan : zero, on = without ? nan : zero + T(1);
    for (int64_t i = 0; i < r.t.size(); ++i) r.put(i, r.t.classes_at(i) == chosen ? on : off);
  }

 private:
  // The first class of a long row that is the largest, out of what each lane found.
  template <class I, class V>
  static I first_of(I chosen, V top) {
    const auto peak = largest(top);
    Lane<I> first = std::numeric_limits<Lane<I>>::max();
    for (int lane = 0; lane < lanes<Lane<V>>; ++lane)
      if (top[lane] == peak) first = std::min(first, chosen[lane]);
    return I{} + first;
  }
  template <class I>
  static Lane<I> any(I truth) {
    Lane<I> found = 0;
    for (int lane = 0; lane < lanes<Lane<I>>; ++lane) found |= truth[lane] & 1;
    return found;
  }
};

Tensor argmax_hot(const Tensor& logits) {
  check_rows("logits", logits);
  return over_rows(Argmax{}, logits, logits);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&argmax_hot>(m, "argmax_hot");
}
