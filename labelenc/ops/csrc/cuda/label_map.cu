// Boxes drawn as pixelwise maxima into one map per slot, on the GPU.
//
// A block owns a few rows of one map: it collects the boxes that touch them, then writes every pixel once. So
// nothing has to be cleared before, and no two threads write one pixel.
#include "../label_map.h"
#include "../label_map_arguments.h"
#include "pack.h"
#include "stream.h"

#include <cassert>
#include <cstdint>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 8;

struct Maps {
  const float* boxes;
  const int64_t* slots;
  const float* scales;
  int64_t n, count, height, width, bands;
  float* out;
};

// Boxes of one map that touch the block's rows, at most one for each thread at a time.
struct Touching {
  float x_centre[kThreads], x_extent[kThreads], y_centre[kThreads], y_extent[kThreads], factor[kThreads];
  int x_first[kThreads], x_last[kThreads];
  int count;
};

__device__ void collect(const Maps& m, int64_t box, int64_t slot, int64_t first_row, Touching& touching) {
  if (box >= m.n) {
    return;
  }
  assert(m.slots[box] >= 0 && m.slots[box] < m.count);
  if (m.slots[box] != slot) {
    return;
  }
  const float* corners = m.boxes + 4 * box;
  const BoxAxis x = box_axis(corners[0], corners[2], m.width), y = box_axis(corners[1], corners[3], m.height);
  if (x.first >= x.last || y.first >= first_row + kRows || y.last <= first_row) {
    return;
  }
  // The order differs from run to run; the maximum does not depend on it.
  const int at = atomicAdd(&touching.count, 1);
  touching.x_centre[at] = x.centre;
  touching.x_extent[at] = x.extent;
  touching.y_centre[at] = y.centre;
  touching.y_extent[at] = y.extent;
  touching.factor[at] = m.scales == nullptr ? 1.0f : m.scales[box];
  touching.x_first[at] = static_cast<int>(x.first);
  touching.x_last[at] = static_cast<int>(x.last);
}

// Raises kVector pixels of row y, from column x on, to what the boxes draw there.
template <int kVector>
__device__ void raise(const Touching& touching, int y, int x, Pack<float, kVector>& pixels) {
  for (int i = 0; i < touching.count; ++i) {
    if (x + kVector <= touching.x_first[i] || x >= touching.x_last[i]) {
      continue;
    }
    const float limit = label_map_value(static_cast<float>(y), touching.y_centre[i], touching.y_extent[i]);
    for (int k = 0; k < kVector; ++k) {
      const float along_x =
          label_map_value(static_cast<float>(x + k), touching.x_centre[i], touching.x_extent[i]);
      const float value = (along_x < limit ? along_x : limit) * touching.factor[i];
      pixels.values[k] = value > pixels.values[k] ? value : pixels.values[k];
    }
  }
}

template <int kVector>
__global__ void __launch_bounds__(kThreads) draw(Maps m) {
  __shared__ Touching touching;
  const int64_t slot = blockIdx.x / m.bands;
  const int64_t first_row = (blockIdx.x - slot * m.bands) * kRows;
  const int rows = static_cast<int>(m.height - first_row < kRows ? m.height - first_row : kRows);
  const int vectors = static_cast<int>(m.width / kVector);
  auto* out = reinterpret_cast<Pack<float, kVector>*>(m.out + (slot * m.height + first_row) * m.width);
  int64_t begin = 0;
  do {
    __syncthreads();
    if (threadIdx.x == 0) {
      touching.count = 0;
    }
    __syncthreads();
    collect(m, begin + threadIdx.x, slot, first_row, touching);
    __syncthreads();
    // Later rounds go on from what the same thread has written.
    if (begin == 0 || touching.count > 0) {
      for (int row = 0; row < rows; ++row) {
        for (int i = threadIdx.x; i < vectors; i += kThreads) {
          Pack<float, kVector> pixels{};
          if (begin > 0) {
            pixels = out[static_cast<int64_t>(row) * vectors + i];
          }
          raise<kVector>(touching, static_cast<int>(first_row) + row, i * kVector, pixels);
          out[static_cast<int64_t>(row) * vectors + i] = pixels;
        }
      }
    }
    begin += kThreads;
  } while (begin < m.n);
}

Tensor label_map(
    Tensor boxes, Tensor slots, std::optional<Tensor> scales, int64_t count, int64_t height, int64_t width) {
  check_label_map_arguments(boxes, slots, scales, count, height, width);
  constexpr int64_t kMost = INT32_MAX;
  const int64_t bands = (height + kRows - 1) / kRows;
  STD_TORCH_CHECK(
      height < kMost - kThreads && width < kMost - 4 * kThreads && count * bands < kMost, "label_map: too large");
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor dense = torch::stable::contiguous(boxes), dense_slots = torch::stable::contiguous(slots);
  std::optional<Tensor> dense_scales;
  if (scales.has_value()) {
    dense_scales = torch::stable::contiguous(*scales);
  }
  Tensor out = torch::stable::new_empty(boxes, {count, height, width});
  if (out.numel() == 0) {
    return out;
  }
  const Maps maps{
      static_cast<const float*>(dense.const_data_ptr()),
      static_cast<const int64_t*>(dense_slots.const_data_ptr()),
      dense_scales.has_value() ? static_cast<const float*>(dense_scales->const_data_ptr()) : nullptr,
      boxes.size(0), count, height, width, bands, static_cast<float*>(out.mutable_data_ptr())};
  const cudaStream_t stream = current_stream(boxes.get_device_index());
  const unsigned blocks = static_cast<unsigned>(count * bands);
  if (width % 4 == 0) {
    draw<4><<<blocks, kThreads, 0, stream>>>(maps);
  } else {
    draw<1><<<blocks, kThreads, 0, stream>>>(maps);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("label_map", TORCH_BOX(&labelenc::label_map));
}
