// ScaleShift: y = alpha * x + beta, element by element, with its gradient left to Python.
// A small op that shows the whole way: shape function, CPU kernel, GPU kernel from a .cu file.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#ifdef SCALE_SHIFT_CUDA
#include <cuda_runtime.h>

#include "tensorflow/core/platform/stream_executor.h"

// Defined in scale_shift_kernel.cu: plain CUDA, which nvcc compiles without TensorFlow's headers.
cudaError_t LaunchScaleShift(const float* x, float alpha, float beta, float* y, long long n,
                             cudaStream_t stream);
#endif

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

REGISTER_OP("ScaleShift")
    .Input("x: float")
    .Output("y: float")
    .Attr("alpha: float = 1.0")
    .Attr("beta: float = 0.0")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

class ScaleShiftOp : public OpKernel {
 public:
  explicit ScaleShiftOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("alpha", &alpha_));
    OP_REQUIRES_OK(context, context->GetAttr("beta", &beta_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    if (x.NumElements() > 0) {
      Run(context, x.flat<float>().data(), y->flat<float>().data(), x.NumElements());
    }
  }

 protected:
  virtual void Run(OpKernelContext* context, const float* x, float* y, int64_t n) = 0;

  float alpha_;
  float beta_;
};

class ScaleShiftCpu : public ScaleShiftOp {
 public:
  using ScaleShiftOp::ScaleShiftOp;

 protected:
  void Run(OpKernelContext*, const float* x, float* y, int64_t n) override {
    for (int64_t i = 0; i < n; ++i) y[i] = alpha_ * x[i] + beta_;
  }
};

REGISTER_KERNEL_BUILDER(Name("ScaleShift").Device(tensorflow::DEVICE_CPU), ScaleShiftCpu);

#ifdef SCALE_SHIFT_CUDA
class ScaleShiftGpu : public ScaleShiftOp {
 public:
  using ScaleShiftOp::ScaleShiftOp;

 protected:
  void Run(OpKernelContext* context, const float* x, float* y, int64_t n) override {
    auto* stream = context->op_device_context()->stream();
    auto handle = static_cast<cudaStream_t>(stream->platform_specific_handle().stream);
    const cudaError_t status = LaunchScaleShift(x, alpha_, beta_, y, n, handle);
    OP_REQUIRES(context, status == cudaSuccess,
                tensorflow::errors::Internal("ScaleShift: ", cudaGetErrorString(status)));
  }
};

REGISTER_KERNEL_BUILDER(Name("ScaleShift").Device(tensorflow::DEVICE_GPU), ScaleShiftGpu);
#endif

}  // namespace
