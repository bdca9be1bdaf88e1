// The GPU part of ScaleShift. No TensorFlow header is included: nvcc's front end does not accept
// all of Abseil, and a kernel that takes a stream does not need it.
#include <cuda_runtime.h>

namespace {

__global__ void ScaleShift(const float* x, float alpha, float beta, float* y, long long n) {
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    y[i] = alpha * x[i] + beta;
  }
}

}  // namespace

cudaError_t LaunchScaleShift(const float* x, float alpha, float beta, float* y, long long n,
                             cudaStream_t stream) {
  constexpr int kThreads = 256;
  constexpr long long kMaxBlocks = 4096;
  const long long blocks = (n + kThreads - 1) / kThreads;
  ScaleShift<<<blocks < kMaxBlocks ? blocks : kMaxBlocks, kThreads, 0, stream>>>(x, alpha, beta, y, n);
  return cudaGetLastError();
}
