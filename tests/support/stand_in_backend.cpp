// A backend for the stand-in accelerator, as NCCL is one for GPUs: it moves tensors of that device
// alone, contiguous ones, and combines no bits. Underneath gloo moves copies on the CPU.
//
// Like NCCL it can be split from; whether anybody did so, for which all its ranks must come, is
// told by `splits`.

#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

namespace {

using Tensors = std::vector<at::Tensor>;
using Done = c10::intrusive_ptr<c10d::Work>;

struct Completed final : c10d::Work {
  explicit Completed(const Tensors& results) {
    const auto type = c10::ListType::create(c10::TensorType::get());
    std::vector<c10::Device> devices;
    if (!results.empty()) devices.push_back(results[0].device());
    future_ = c10::make_intrusive<c10::ivalue::Future>(type, devices);
    future_->markCompleted(c10::IValue(results));
  }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }

 private:
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

at::Tensor copied(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_privateuseone(), "stand_in moves no tensor on ", tensor.device());
  TORCH_CHECK(tensor.is_contiguous(), "stand_in moves contiguous tensors only");
  TORCH_CHECK(!tensor.is_complex(), "stand_in has no complex numbers");
  return tensor.cpu();
}

Tensors copied(const Tensors& tensors) {
  Tensors made;
  for (const auto& tensor : tensors) made.push_back(copied(tensor));
  return made;
}

void back(const Tensors& from, Tensors& to) {
  for (size_t i = 0; i < from.size(); i++) to[i].copy_(from[i]);
}

Done done(const Tensors& results = {}) { return c10::make_intrusive<Completed>(results); }

void refuse_bits(const c10d::ReduceOp& op) {
  using Op = c10d::ReduceOp;
  TORCH_CHECK(op != Op::BAND && op != Op::BOR && op != Op::BXOR, "stand_in combines no bits");
}

struct StandIn final : c10d::Backend {
  StandIn(c10::intrusive_ptr<c10d::Backend> gloo, int rank, int size)
      : Backend(rank, size), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "stand_in"; }
  bool supportsSplitting() const override { return true; }
  void eagerConnectSingleDevice(at::Device device) override { connected_ = device.str(); }

  Done allreduce(Tensors& tensors, const c10d::AllreduceOptions& how) override {
    refuse_bits(how.reduceOp);
    Tensors sent = copied(tensors);
    gloo_->allreduce(sent, how)->wait();
    back(sent, tensors);
    return done(tensors);
  }
  Done broadcast(Tensors& tensors, const c10d::BroadcastOptions& how) override {
    Tensors sent = copied(tensors);
    gloo_->broadcast(sent, how)->wait();
    back(sent, tensors);
    return done(tensors);
  }
  Done allgather(
      std::vector<Tensors>& into, Tensors& mine, const c10d::AllgatherOptions& how) override {
    std::vector<Tensors> got{copied(into[0])};
    Tensors sent = copied(mine);
    gloo_->allgather(got, sent, how)->wait();
    back(got[0], into[0]);
    return done();
  }
  Done _allgather_base(
      at::Tensor& into, at::Tensor& mine, const c10d::AllgatherOptions& how) override {
    at::Tensor got = copied(into), sent = copied(mine);
    gloo_->_allgather_base(got, sent, how)->wait();
    into.copy_(got);
    return done();
  }
  Done reduce_scatter(
      Tensors& into, std::vector<Tensors>& parts, const c10d::ReduceScatterOptions& how) override {
    refuse_bits(how.reduceOp);
    c10d::AllreduceOptions each;
    each.reduceOp = how.reduceOp;
    for (int i = 0; i < size_; i++) {
      Tensors sent{copied(parts[0][i])};
      gloo_->allreduce(sent, each)->wait();
      if (i == rank_) into[0].copy_(sent[0]);
    }
    return done();
  }
  Done alltoall(Tensors& into, Tensors& parts, const c10d::AllToAllOptions&) override {
    Tensors got = copied(into), sent = copied(parts);
    std::vector<Done> begun;
    for (int i = 0; i < size_; i++) {
      Tensors one{got[i]}, other{sent[i]};
      if (i == rank_) got[i].copy_(sent[i]);
      if (i != rank_ && got[i].numel()) begun.push_back(gloo_->recv(one, i, 7));
      if (i != rank_ && sent[i].numel()) begun.push_back(gloo_->send(other, i, 7));
    }
    for (auto& work : begun) work->wait();
    back(got, into);
    return done();
  }
  Done barrier(const c10d::BarrierOptions& how) override {
    gloo_->barrier(how)->wait();
    return done();
  }

  void nocolor(const at::Device&) { splits_++; }
  int splits() const { return splits_; }
  std::string connected() const { return connected_; }

 private:
  c10::intrusive_ptr<c10d::Backend> gloo_;
  std::string connected_;
  int splits_ = 0;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::module::import("torch.distributed");
  py::class_<StandIn, c10d::Backend, c10::intrusive_ptr<StandIn>>(m, "StandIn")
      .def(py::init<c10::intrusive_ptr<c10d::Backend>, int, int>())
      .def("perform_nocolor_split", &StandIn::nocolor)
      .def_property_readonly("splits", &StandIn::splits)
      .def_property_readonly("connected", &StandIn::connected);
}
