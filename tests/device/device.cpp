// A device of its own for torch, whose memory is the CPU's: what is on the CPU is refused beside it.
//
// torch's own operators run on the CPU and come back, so a test sees their values. An operator that
// has a kernel on the CPU or on GPUs has none here, and its reference serves.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/ScopeExit.h>
#include <torch/extension.h>

namespace {

using at::Tensor;
constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

struct Guard final : c10::impl::DeviceGuardImplInterface {
    static c10::Device device() { return c10::Device(KIND, 0); }
    c10::DeviceType type() const override { return KIND; }
    c10::Device exchangeDevice(c10::Device) const override { return device(); }
    c10::Device getDevice() const override { return device(); }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device on) const override {
        return c10::Stream(c10::Stream::DEFAULT, on);
    }
    c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Memory final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        void* data = c10::alloc_cpu(std::max<size_t>(bytes, 1));
        return {data, data, &c10::free_cpu, Guard::device()};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
    void copy_data(void* to, const void* from, std::size_t bytes) const override {
        std::memcpy(to, from, bytes);
    }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct Generator final : at::CPUGeneratorImpl {
    Generator() { be_on(Guard::device()); }
    void be_on(c10::Device device) { device_ = device; }
};

void grow(const c10::Storage& storage, size_t bytes) {
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
}

struct Hooks final : at::PrivateUse1HooksInterface {
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
        static const auto generator = at::make_generator<Generator>();
        return generator;
    }
    at::Generator getNewGenerator(c10::DeviceIndex) const override {
        return at::make_generator<Generator>();
    }
    void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
        grow(storage, bytes);
    }
};

Tensor empty(c10::SymIntArrayRef sizes, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
    const auto given = C10_AS_INTARRAYREF_SLOW(sizes);
    return at::detail::empty_generic(given, &memory, KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
    const auto type = c10::dtype_or_default(dtype);
    return at::detail::empty_strided_generic(sizes, strides, &memory, KEYS, type);
}

// The same memory as a tensor on the CPU.
Tensor on_cpu(const Tensor& x) {
    if (!x.is_privateuseone()) return x;
    auto* kept = new c10::Storage(x.storage());
    const auto drop = [](void* storage) { delete static_cast<c10::Storage*>(storage); };
    c10::DataPtr data(const_cast<void*>(kept->data()), kept, drop, c10::Device(c10::kCPU));
    const c10::Storage storage(c10::Storage::use_byte_size_t(), kept->nbytes(), std::move(data));
    const c10::DispatchKeySet keys(c10::DispatchKey::CPU);
    auto result = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys, x.dtype());
    result.unsafeGetTensorImpl()->set_storage_offset(x.storage_offset());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides());
    result._set_conj(x.is_conj());
    result._set_neg(x.is_neg());
    return result;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
    on_cpu(to).copy_(on_cpu(from));
    return to;
}

const Tensor& resize_(const Tensor& x, c10::SymIntArrayRef sizes, std::optional<at::MemoryFormat>) {
    x.unsafeGetTensorImpl()->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(sizes));
    const size_t bytes = (x.storage_offset() + x.numel()) * x.element_size();
    if (bytes > x.storage().nbytes()) grow(x.storage(), bytes);
    return x;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
    if (to.sizes() != from.sizes()) resize_(to, c10::fromIntArrayRefSlow(from.sizes()), {});
    return copy_from(from, to, false);
}

Tensor& set_source(Tensor& x, at::Storage source, int64_t offset, c10::IntArrayRef sizes,
                   c10::IntArrayRef strides) {
    x.unsafeGetTensorImpl()->set_storage_and_dtype(source, x.dtype());
    x.unsafeGetTensorImpl()->set_storage_offset(offset);
    x.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
    return x;
}

at::Scalar item(const Tensor& x) { return on_cpu(x).item(); }

Tensor as_strided(const Tensor& x, c10::IntArrayRef sizes, c10::IntArrayRef strides,
                  std::optional<int64_t> offset) {
    return at::cpu::as_strided(x, sizes, strides, offset);
}

Tensor reshape_alias(const Tensor& x, c10::IntArrayRef sizes, c10::IntArrayRef strides) {
    return at::cpu::as_strided(x, sizes, strides, x.storage_offset());
}

Tensor view(const Tensor& x, c10::SymIntArrayRef sizes) {
    return at::native::view(x, C10_AS_INTARRAYREF_SLOW(sizes));
}

void through_the_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
    const auto check = [&](const Tensor& x) {
        TORCH_CHECK(!x.defined() || !x.is_cpu() || x.dim() == 0, operation.schema().name(),
                    " is given a tensor on the CPU beside one on the device");
    };
    std::vector<at::Generator> moved;
    for (const auto& value : torch::jit::last(*stack, operation.schema().arguments().size())) {
        if (value.isTensor()) check(value.toTensor());
        if (value.isTensorList())
            for (const Tensor& x : value.toTensorVector()) check(x);
        if (value.isGenerator() && value.toGenerator().device().type() == KIND)
            moved.push_back(value.toGenerator());
    }
    const auto move = [&](c10::Device to) {
        for (auto& each : moved) static_cast<Generator*>(each.unsafeGetGeneratorImpl())->be_on(to);
    };
    move(c10::Device(c10::kCPU));
    const auto back = c10::make_scope_exit([&] { move(Guard::device()); });
    at::native::cpu_fallback(operation, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
    library.impl("empty.memory_format", empty);
    library.impl("empty_strided", empty_strided);
    library.impl("_copy_from", copy_from);
    library.impl("_copy_from_and_resize", copy_from_and_resize);
    library.impl("_local_scalar_dense", item);
    library.impl("resize_", resize_);
    library.impl("set_.source_Storage_storage_offset", set_source);
    library.impl("as_strided", as_strided);
    library.impl("_reshape_alias", reshape_alias);
    library.impl("view", view);
    library.impl("unfold", at::native::unfold);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&through_the_cpu>());
}

TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, library) {
    library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
    library.fallback(torch::CppFunction::makeFallthrough());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
    module.def("begin", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
}
