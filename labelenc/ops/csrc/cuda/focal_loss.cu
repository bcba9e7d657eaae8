// Sigmoid focal loss and its gradient on the GPU.
//
// A thread takes 16 bytes of logits at a time, all of one row. A sum is added up per thread, per block, and by a
// last small kernel in a fixed order, so that it is the same in every run.
#include "../focal_loss.h"
#include "../focal_loss_arguments.h"
#include "pack.h"
#include "stream.h"

#include <algorithm>
#include <cassert>
#include <cstdint>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {


constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 4;
constexpr int kBlocksPerProcessor = 8;

enum class Output { kSum, kLoss, kGradient };

template <typename Logit, typename T>
struct Arguments {
  const Logit* logits;
  const int64_t* targets;
  int64_t vectors;
  uint32_t vectors_per_row;
  T gamma, alpha;
  bool square;
  const T* grad;
  bool one_grad;
  void* out;
};

template <Output kOutput, bool kSquare, typename T>
__device__ T negative(T x, T gamma) {
  return kOutput == Output::kGradient ? negative_slope<kSquare>(x, gamma) : negative_loss<kSquare>(x, gamma);
}

// The kVector columns that begin at column, of a row with this target.
template <Output kOutput, int kVector, typename Logit, typename T>
__device__ void elements(
    const Arguments<Logit, T>& a, const Pack<Logit, kVector>& logits, int64_t target, int64_t column, T* out) {
  for (int k = 0; k < kVector; ++k) {
    out[k] = 0;
  }
  if (target < 0) {
    return;
  }
  const T weight = T(1) - a.alpha;
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    const T x = static_cast<T>(logits.values[k]);
    out[k] = weight * (a.square ? negative<kOutput, true>(x, a.gamma) : negative<kOutput, false>(x, a.gamma));
  }
  const int64_t positive = target - 1 - column;
  if (positive < 0 || positive >= kVector) {
    return;
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    if (k == positive) {
      const T x = static_cast<T>(logits.values[k]);
      out[k] = a.alpha * (kOutput == Output::kGradient ? positive_slope(x, a.gamma) : positive_loss(x, a.gamma));
    }
  }
}

template <Output kOutput, int kVector, typename Logit, typename T>
__device__ void store(const Arguments<Logit, T>& a, int64_t vector, T* values) {
  if constexpr (kOutput == Output::kLoss) {
    T* out = static_cast<T*>(a.out) + vector * kVector;
    for (int k = 0; k < kVector; ++k) {
      out[k] = values[k];
    }
  } else {
    Pack<Logit, kVector> packed;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      packed.values[k] = static_cast<Logit>(values[k] * (a.one_grad ? *a.grad : a.grad[vector * kVector + k]));
    }
    static_cast<Pack<Logit, kVector>*>(a.out)[vector] = packed;
  }
}

// Sum over the block's threads, valid in thread 0.
__device__ double block_sum(double value) {
  __shared__ double warps[kWarps];
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, step);
  }
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    sum += warps[warp];
  }
  return sum;
}

template <Output kOutput, int kVector, typename Logit, typename T>
__global__ void __launch_bounds__(kThreads) focal_loss_kernel(Arguments<Logit, T> a) {
  constexpr int64_t kChunk = kThreads * kUnroll;
  T sum = 0;
  for (int64_t begin = blockIdx.x * kChunk; begin < a.vectors; begin += gridDim.x * kChunk) {
    // One long division for the chunk; what is left of it fits in 32 bits.
    const int64_t first_row = begin / a.vectors_per_row;
    const uint32_t first_offset = static_cast<uint32_t>(begin - first_row * a.vectors_per_row);
#pragma unroll
    for (int step = 0; step < kUnroll; ++step) {
      const uint32_t i = step * kThreads + threadIdx.x;
      const int64_t vector = begin + i;
      if (vector >= a.vectors) {
        break;
      }
      const uint32_t rows = (first_offset + i) / a.vectors_per_row;
      const uint32_t offset = first_offset + i - rows * a.vectors_per_row;
      const int64_t target = a.targets[first_row + rows];
      assert(target >= -1 && target <= static_cast<int64_t>(a.vectors_per_row) * kVector);
      T values[kVector];
      elements<kOutput, kVector>(
          a, reinterpret_cast<const Pack<Logit, kVector>*>(a.logits)[vector], target,
          static_cast<int64_t>(offset) * kVector, values);
      if constexpr (kOutput == Output::kSum) {
        for (int k = 0; k < kVector; ++k) {
          sum += values[k];
        }
      } else {
        store<kOutput, kVector>(a, vector, values);
      }
    }
  }
  if constexpr (kOutput == Output::kSum) {
    const double total = block_sum(sum);
    if (threadIdx.x == 0) {
      static_cast<double*>(a.out)[blockIdx.x] = total;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) add_parts(const double* __restrict__ parts, int count, T* out) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    sum += parts[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *out = static_cast<T>(sum);
  }
}

int blocks_for(int64_t vectors, int32_t device) {
  int processors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  constexpr int64_t kChunk = kThreads * kUnroll;
  return static_cast<int>(std::min<int64_t>((vectors + kChunk - 1) / kChunk, processors * kBlocksPerProcessor));
}

// Launches with vectors of 16 bytes where rows are made of whole ones, else element by element.
template <Output kOutput, typename Logit, typename T>
int launch(Arguments<Logit, T> a, int64_t rows, int64_t columns, int32_t device) {
  constexpr int kVector = sizeof(Logit) == 8 ? 1 : 16 / sizeof(Logit);
  auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool wide = columns % kVector == 0 && aligned(a.logits) && aligned(a.out);
  a.vectors_per_row = static_cast<uint32_t>(wide ? columns / kVector : columns);
  a.vectors = rows * a.vectors_per_row;
  const int blocks = blocks_for(a.vectors, device);
  const cudaStream_t stream = current_stream(device);
  if (wide) {
    focal_loss_kernel<kOutput, kVector><<<blocks, kThreads, 0, stream>>>(a);
  } else {
    focal_loss_kernel<kOutput, 1><<<blocks, kThreads, 0, stream>>>(a);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return blocks;
}

template <typename Logit, typename T>
void run_loss(Arguments<Logit, T> a, const Tensor& logits, bool total, Tensor& out) {
  const int32_t device = logits.get_device_index();
  if (!total) {
    a.out = out.mutable_data_ptr();
    launch<Output::kLoss>(a, logits.size(0), logits.size(1), device);
    return;
  }
  Tensor parts = torch::stable::new_empty(logits, {blocks_for(logits.numel(), device)}, ScalarType::Double);
  a.out = parts.mutable_data_ptr();
  const int count = launch<Output::kSum>(a, logits.size(0), logits.size(1), device);
  add_parts<<<1, kThreads, 0, current_stream(device)>>>(
      static_cast<const double*>(parts.const_data_ptr()), count, static_cast<T*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Calls with arguments typed by the logits, filled in as far as loss and gradient share them.
template <typename Call>
void with_arguments(const Tensor& logits, const Tensor& targets, double gamma, double alpha, const Call& call) {
  for_floating_type(logits, "focal_loss: logits", [&](auto logit, auto computed) {
    using Logit = decltype(logit);
    using T = decltype(computed);
    Arguments<Logit, T> a{};
    a.logits = static_cast<const Logit*>(logits.const_data_ptr());
    a.targets = static_cast<const int64_t*>(targets.const_data_ptr());
    a.gamma = static_cast<T>(gamma);
    a.alpha = static_cast<T>(alpha);
    a.square = gamma == 2;
    call(a);
  });
}

Tensor focal_loss(Tensor logits, Tensor targets, double gamma, double alpha, bool total) {
  check_focal_loss_arguments(logits, targets);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Tensor x = torch::stable::contiguous(logits), t = torch::stable::contiguous(targets);
  if (x.numel() == 0 && total) {
    return torch::stable::new_zeros(x, {}, accumulation_type(x));
  }
  Tensor out = total ? torch::stable::new_empty(x, {}, accumulation_type(x))
                     : torch::stable::new_empty(x, {x.size(0), x.size(1)}, accumulation_type(x));
  if (x.numel() > 0) {
    with_arguments(x, t, gamma, alpha, [&](const auto& a) { run_loss(a, x, total, out); });
  }
  return out;
}

Tensor focal_loss_backward(Tensor grad, Tensor logits, Tensor targets, double gamma, double alpha) {
  check_focal_loss_arguments(logits, targets);
  check_focal_loss_grad(grad, logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Tensor x = torch::stable::contiguous(logits), t = torch::stable::contiguous(targets);
  const bool one_grad = is_one_number(grad);
  const Tensor g = one_grad ? grad : torch::stable::contiguous(grad);
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  if (x.numel() == 0) {
    return out;
  }
  with_arguments(x, t, gamma, alpha, [&](auto a) {
    a.grad = static_cast<decltype(a.grad)>(g.const_data_ptr());
    a.one_grad = one_grad;
    a.out = out.mutable_data_ptr();
    launch<Output::kGradient>(a, x.size(0), x.size(1), x.get_device_index());
  });
  return out;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("focal_loss", TORCH_BOX(&labelenc::focal_loss));
  m.impl("focal_loss_backward", TORCH_BOX(&labelenc::focal_loss_backward));
}
