// An accelerator without silicon, in the place that torch keeps for the accelerators of others.
//
// Its memory is mapped twice. The address that a tensor has can be neither read nor written, as with
// a GPU's; copies and kernels use the second mapping, which nobody else knows. Code that takes a
// tensor's address for the CPU's ends in a segmentation fault here, and not in a right result.

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_local_scalar_dense_cpu_dispatch.h>
#include <ATen/ops/_reshape_alias_cpu_dispatch.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_cpu_dispatch.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_cpu_dispatch.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;

c10::DeviceIndex device_count() {
  const char* asked = std::getenv("STAND_IN_DEVICES");
  return static_cast<c10::DeviceIndex>(asked ? std::atoi(asked) : 1);
}

thread_local c10::DeviceIndex current = 0;  // Each thread's own, as CUDA's.
std::atomic<uint64_t> used{0};              // One bit for each device that was made current or held memory.

c10::DeviceIndex exchange(c10::DeviceIndex index) {
  TORCH_CHECK(index < device_count(), "no stand-in device ", static_cast<int>(index));
  const auto before = current;
  if (index >= 0) current = index;
  return before;
}

// ---- memory

std::mutex blocks_lock;
std::map<char*, std::pair<char*, size_t>> blocks;  // By the device's address: the CPU's, and the size.

char* on_host(const void* address) {
  if (address == nullptr) return nullptr;
  const std::lock_guard<std::mutex> held(blocks_lock);
  char* wanted = const_cast<char*>(static_cast<const char*>(address));
  auto found = blocks.upper_bound(wanted);
  TORCH_CHECK(found != blocks.begin(), "not an address of the stand-in's memory");
  --found;
  TORCH_CHECK(wanted < found->first + found->second.second, "not an address of the stand-in's memory");
  return found->second.first + (wanted - found->first);
}

void release(void* address) {
  if (address == nullptr) return;
  std::pair<char*, size_t> block;
  {
    const std::lock_guard<std::mutex> held(blocks_lock);
    auto found = blocks.find(static_cast<char*>(address));
    block = found->second;
    blocks.erase(found);
  }
  munmap(address, block.second);
  munmap(block.first, block.second);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(KIND, current);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    used |= uint64_t{1} << current;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t size = (bytes + page - 1) / page * page;
    const int file = memfd_create("stand-in", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, static_cast<off_t>(size)) == 0, "out of memory");
    void* host = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    void* there = mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0);
    close(file);
    TORCH_CHECK(host != MAP_FAILED && there != MAP_FAILED, "out of memory");
    const std::lock_guard<std::mutex> held(blocks_lock);
    blocks[static_cast<char*>(there)] = {static_cast<char*>(host), size};
    return {there, there, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(on_host(to), on_host(from), bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

// ---- devices

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device d) const override { return {KIND, exchange(d.index())}; }
  c10::Device getDevice() const override { return {KIND, current}; }
  void setDevice(c10::Device d) const override { exchange(d.index()); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { current = d.index(); }
  c10::Stream getStream(c10::Device d) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, d);
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return getStream(d); }
  c10::Stream getNewStream(c10::Device d, int) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex index) const override { return used >> index & 1; }
  c10::DeviceIndex deviceCount() const override { return device_count(); }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchange(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return exchange(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchange(index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    const auto before = exchange(storage.device().index());
    c10::DataPtr larger = memory.allocate(size);
    exchange(before);
    const size_t kept = std::min(size, storage.nbytes());
    if (kept) memory.copy_data(larger.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(larger));
    storage.set_nbytes(size);
  }
};

const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

// ---- operations: a few here, all others on the CPU, by torch's own fallback

at::Tensor empty(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>,
    std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size,
    c10::IntArrayRef stride,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

// The tensor's memory, as a tensor of the CPU's that is not told of.
at::Tensor seen(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  const auto options = tensor.options().device(c10::kCPU);
  at::Tensor made = at::from_blob(on_host(tensor.data_ptr()), tensor.sizes(), tensor.strides(), options);
  if (tensor.is_neg()) made._set_neg(true);
  if (tensor.is_conj()) made._set_conj(true);
  return made;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (to.numel()) seen(to).copy_(seen(from));
  return to;
}

const at::Tensor& resized(
    const at::Tensor& tensor, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(tensor.device());
  return at::native::resize_(tensor, size, format);
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  resized(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& tensor) { return at::cpu::_local_scalar_dense(seen(tensor)); }

void elsewhere(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", at::cpu::as_strided);
  m.impl("resize_", resized);
  m.impl("_reshape_alias", at::cpu::_reshape_alias);
  m.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  m.impl("unfold", at::cpu::unfold);
  m.impl("view", at::cpu::view);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", item);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&elsewhere>());
}

// What the Python half asks for.
extern "C" int stand_in_current() { return current; }
extern "C" int stand_in_count() { return device_count(); }
extern "C" void stand_in_set(int index) { exchange(static_cast<c10::DeviceIndex>(index)); }
extern "C" unsigned long long stand_in_used() { return used; }
