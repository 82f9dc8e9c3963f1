// Kernels that are one pass over the elements: elementwise(inputs, outputs, f).
#pragma once
#include <atomic>
#include <tuple>

#include "operators.h"

namespace operators {

constexpr int64_t kGrain = 32768;  // elements that one thread takes at least

template <class Value>
ALWAYS_INLINE std::tuple<Value> tuple_of(Value value) {
  return {value};
}
template <class... Values>
ALWAYS_INLINE std::tuple<Values...> tuple_of(std::tuple<Values...> values) {
  return values;
}

// Call f with the elements of two tuples in turn.
template <size_t i = 0, class A, class B, class F>
ALWAYS_INLINE void each_pair(const A& a, const B& b, const F& f) {
  if constexpr (i < std::tuple_size_v<A>) {
    f(std::get<i>(a), std::get<i>(b));
    each_pair<i + 1>(a, b, f);
  }
}

// What `elementwise` reads and writes of tensors whose elements are in order: numbers.
struct Numbers {
  const Tensor& tensor;

  template <class T, class S>
  simd::Reader<T, S> reader() const {
    return {in<S>(tensor), std::numeric_limits<T>::quiet_NaN()};
  }
  template <class T, class S>
  simd::Writer<T, S> writer() const {
    return {out<S>(tensor)};
  }
};

// Numbers that every dtype holds exactly, such as -1, 0, 1, and what was read of a tensor of it.
struct ExactNumbers {
  const Tensor& tensor;

  template <class T, class S>
  simd::Writer<T, S, true> writer() const {
    return {out<S>(tensor)};
  }
};

// A gradient, held in the range of its dtype where it may be larger than what it is made of.
struct Gradient {
  const Tensor& tensor;
  bool steep;

  template <class T, class S>
  struct InRange {
    simd::Writer<T, S> writer;
    bool steep;
    template <class Count>
    ALWAYS_INLINE void next(int64_t i, simd::Vec<T> x, Count count) const {
      writer.next(i, steep ? simd::saturated<S>(x) : x, count);
    }
  };
  template <class T, class S>
  InRange<T, S> writer() const {
    return {{out<S>(tensor)}, steep};
  }
};

// One bit an element, from a byte on.
struct Bits {
  const Tensor& tensor;
  int64_t first = 0;

  template <class T, class Byte>
  struct Truths {
    Byte* bits;
    template <class Count>
    ALWAYS_INLINE simd::Truth<T> next(int64_t i, Count count) const {
      return simd::load_bits<T>(bits, i, count);
    }
    template <class Count>
    ALWAYS_INLINE void next(int64_t i, simd::Truth<T> truth, Count count) const {
      simd::store_bits<T>(bits, i, truth, count);
    }
  };
  template <class T, class S>
  Truths<T, const uint8_t> reader() const {
    return {in<uint8_t>(tensor) + first};
  }
  template <class T, class S>
  Truths<T, uint8_t> writer() const {
    return {out<uint8_t>(tensor) + first};
  }
};

// Whether it holds of any element.
struct Any {
  std::atomic<bool>& found;

  template <class T>
  struct Truths {
    std::atomic<bool>* found;
    template <class Count>
    ALWAYS_INLINE void next(int64_t, simd::Truth<T> truth, Count count) const {
      if (simd::bits_of_lanes<T>(truth, count)) found->store(true, std::memory_order_relaxed);
    }
  };
  template <class T, class S>
  Truths<T> writer() const {
    return {&found};
  }
};

// Outputs = f(inputs) in one pass: f is given a vector of each input, the first of which are
// numbers that say the dtype, and returns one vector, or a tuple of one for each output. What it is
// given beyond the last element is NaN, and no bit.
template <class... In, class... Out, class F>
void elementwise(const std::tuple<In...>& inputs, const std::tuple<Out...>& outputs, const F& f) {
  const Tensor& x = std::get<0>(inputs).tensor;
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const auto readers = std::apply(
        [](const In&... in) { return std::tuple(in.template reader<T, S>()...); }, inputs);
    const auto writers = std::apply(
        [](const Out&... out) { return std::tuple(out.template writer<T, S>()...); }, outputs);
    const auto vector = [=](int64_t i, auto count) {
      const auto values = std::apply(
          [&](const auto&... reader) { return tuple_of(f(reader.next(i, count)...)); }, readers);
      each_pair(writers, values, [&](const auto& writer, auto value) {
        writer.next(i, value, count);
      });
    };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, vector);
    });
  });
}

}  // namespace operators
