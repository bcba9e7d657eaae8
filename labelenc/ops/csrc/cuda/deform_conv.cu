// The matrix that turns a deformable convolution into a product, and its gradients, on the GPU.
//
// A block takes a few neighbouring positions of the output. First its threads work out where the samples lie,
// one sample each with neighbouring threads at neighbouring positions, as the offsets lie in memory. Then a row
// of threads takes one sample after the other with up to 16 bytes of channels per thread; images are channels last.
// Gradients of offsets and mask are summed in the row of threads, those of the image by atomic additions.
#include "../deform_arguments.h"
#include "deform_places.h"
#include "pack.h"
#include "stream.h"

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace labelenc {
namespace {

constexpr int kWarp = 32;
constexpr int kMostPositions = 16;
constexpr int kLeastPositions = 4;
constexpr int kBlocksPerProcessor = 4;

template <typename A>
struct Gradients {
  A* x;
  Field<A> offset, mask;
};

template <int N, typename T, typename A>
__device__ __forceinline__ Pack<T, N> mix(const Pack<T, N> (&corners)[4], const A (&shares)[4]) {
  Pack<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    A sum = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      sum += shares[corner] * static_cast<A>(corners[corner].values[i]);
    }
    out.values[i] = static_cast<T>(sum);
  }
  return out;
}

template <int N, typename T, typename A>
__global__ void __launch_bounds__(kThreads) columns_kernel(const Task<T, A> task) {
  extern __shared__ __align__(16) unsigned char shared[];
  Place<A>* const places = reinterpret_cast<Place<A>*>(shared);
  const Tile tile(task);
  find_places(task, tile, places);
  const int groups = static_cast<int>(task.shape.deformable_groups);
  const int per_group = static_cast<int>(task.shape.channels) / groups;
  for (int i = threadIdx.y; i < tile.count(); i += blockDim.y) {
    const Place<A> place = places[i];
    const int row = i / tile.samples, sample = tile.first_sample + i % tile.samples;
    const Sample<A> at = distances(place);
    A shares[4];
    for (int corner = 0; corner < 4; ++corner) {
      shares[corner] = place.factor * at.share(corner);
    }
    const int first_channel = sample % groups * per_group;
#pragma unroll 2
    for (int c = threadIdx.x * N; c < per_group; c += blockDim.x * N) {
      Pack<T, N> corners[4];
      load_corners(task, place, first_channel + c, corners);
      store_pack(task.column(tile.first_row + row, sample / groups, first_channel + c), mix(corners, shares));
    }
  }
}

// Gradients of the N columns at `column` go to the image and, summed, to dots; the columns take their place.
template <int N, typename T, typename A>
__device__ __forceinline__ void spread(
    const Task<T, A>& task, const Place<A>& place, const A (&shares)[4], int64_t channel, T* column, A* grad_x,
    A (&dots)[4]) {
  Pack<T, N> corners[4];
  const Pack<T, N> grad = load_pack<N>(static_cast<const T*>(column));
  load_corners(task, place, channel, corners);
  store_pack(column, mix(corners, shares));
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    A parts[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A g = static_cast<A>(grad.values[i]);
      dots[corner] += g * static_cast<A>(corners[corner].values[i]);
      parts[i] = shares[corner] * g;
    }
    if (place.on_map >> corner & 1) {
      add_atomically(grad_x + place.origin + corner_step(task.shape, corner) + channel, parts);
    }
  }
}

template <typename T, typename A>
__device__ void store_field_grads(
    const Task<T, A>& task, const Tile& tile, const Place<A>* grads, const Gradients<A>& to) {
  const DeformShape& shape = task.shape;
  const int groups = static_cast<int>(shape.deformable_groups);
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < tile.count(); i += kThreads) {
    const int sample = i / tile.positions, position = i % tile.positions;
    const int tap = (tile.first_sample + sample) / groups, group = (tile.first_sample + sample) % groups;
    const OutputPosition at(shape, task.first + tile.first_row + position);
    const int64_t field = group * shape.taps + tap;
    const Place<A>& found = grads[position * tile.samples + sample];
    to.offset.at(at.image, 2 * field, at.y, at.x) = found.down;
    to.offset.at(at.image, 2 * field + 1, at.y, at.x) = found.right;
    if (to.mask.data != nullptr) {
      to.mask.at(at.image, field, at.y, at.x) = found.factor;
    }
  }
}

template <int N, typename T, typename A>
__global__ void __launch_bounds__(kThreads) gradients_kernel(const Task<T, A> task, const Gradients<A> to) {
  extern __shared__ __align__(16) unsigned char shared[];
  Place<A>* const places = reinterpret_cast<Place<A>*>(shared);
  const Tile tile(task);
  find_places(task, tile, places);
  const int groups = static_cast<int>(task.shape.deformable_groups);
  const int per_group = static_cast<int>(task.shape.channels) / groups;
  // All threads of a warp go through the loop equally often, since they exchange sums.
  for (int start = 0; start < tile.count(); start += blockDim.y) {
    const int i = start + threadIdx.y;
    const bool exists = i < tile.count();
    const Place<A> place = exists ? places[i] : Place<A>{};
    const Sample<A> at = distances(place);
    A shares[4], dots[4] = {0, 0, 0, 0};
    for (int corner = 0; corner < 4; ++corner) {
      shares[corner] = place.factor * at.share(corner);
    }
    if (exists) {
      const int row = i / tile.samples, sample = tile.first_sample + i % tile.samples;
      const int first_channel = sample % groups * per_group;
      for (int c = threadIdx.x * N; c < per_group; c += blockDim.x * N) {
        T* const column = task.column(tile.first_row + row, sample / groups, first_channel + c);
        spread<N>(task, place, shares, first_channel + c, column, to.x, dots);
      }
    }
    for (int step = blockDim.x / 2; step > 0; step /= 2) {
      for (int corner = 0; corner < 4; ++corner) {
        dots[corner] += __shfl_xor_sync(0xffffffffu, dots[corner], step);
      }
    }
    __syncwarp();
    if (exists && threadIdx.x == 0) {
      const FieldGrads<A> found = field_grads(at, place.factor, dots);
      places[i] = {0, found.y, found.x, found.factor, 0};
    }
  }
  __syncthreads();
  store_field_grads(task, tile, places, to);
}

struct Launch {
  dim3 blocks, threads;
  size_t shared;
  cudaStream_t stream;
};

// Small matrices get small tiles, so that every processor has something to do.
template <typename T, typename A>
Launch plan(Task<T, A>& task, int values_per_thread, int32_t device) {
  int processors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int tiles = (task.samples + kMostSamples - 1) / kMostSamples;
  const auto blocks = [&](int positions) { return (task.rows + positions - 1) / positions; };
  task.positions = kMostPositions;
  while (task.positions > kLeastPositions && blocks(task.positions) * tiles < kBlocksPerProcessor * processors) {
    task.positions /= 2;
  }
  const int64_t per_group = task.shape.channels / task.shape.deformable_groups;
  int lanes = 1;
  while (lanes < kWarp && lanes * values_per_thread < per_group) {
    lanes *= 2;
  }
  return {
      dim3(static_cast<unsigned>(blocks(task.positions)), tiles), dim3(lanes, kThreads / lanes),
      sizeof(Place<A>) * task.positions * std::min(task.samples, kMostSamples), current_stream(device)};
}

template <typename T, typename A>
Task<T, A> make_task(
    const DeformShape& shape, const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
    const Tensor& columns, int64_t first) {
  STD_TORCH_CHECK(
      shape.positions() < (int64_t(1) << 31) && shape.channels < (int64_t(1) << 31) &&
          shape.taps * shape.deformable_groups < (int64_t(1) << 20),
      "deform_columns: the output is too large");
  return {
      shape, static_cast<const T*>(x.const_data_ptr()), field<const A>(offset), field<const A>(mask),
      static_cast<T*>(columns.mutable_data_ptr()), first, columns.size(0), 0,
      static_cast<int>(shape.taps * shape.deformable_groups)};
}

template <int N, typename T, typename A>
bool fits_packs(const Task<T, A>& task) {
  return task.shape.channels / task.shape.groups % N == 0 &&
      task.shape.channels / task.shape.deformable_groups % N == 0 && starts_packs<N>(task.x) &&
      starts_packs<N>(task.columns);
}

template <typename T, typename A>
void launch_columns(Task<T, A> task, int32_t device) {
  constexpr int N = kPackBytes / sizeof(T);
  const bool packs = fits_packs<N>(task);
  const Launch l = plan(task, packs ? N : 1, device);
  const auto kernel = packs ? columns_kernel<N, T, A> : columns_kernel<1, T, A>;
  kernel<<<l.blocks, l.threads, l.shared, l.stream>>>(task);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Here the pack is one of the sums, so that the additions of neighbouring threads are neighbours too.
template <typename T, typename A>
void launch_gradients(Task<T, A> task, const Gradients<A>& to, int32_t device) {
  constexpr int N = kPackBytes / sizeof(A);
  const bool packs = fits_packs<N>(task) && starts_packs<N>(to.x);
  const Launch l = plan(task, packs ? N : 1, device);
  const auto kernel = packs ? gradients_kernel<N, T, A> : gradients_kernel<1, T, A>;
  kernel<<<l.blocks, l.threads, l.shared, l.stream>>>(task, to);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void deform_columns(
    Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor columns, int64_t first,
    std::vector<int64_t> geometry) {
  const DeformShape shape = deform_shape(x, offset, mask, columns, first, geometry);
  if (columns.size(0) == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  for_floating_type(x, "deform_columns: x", [&](auto value, auto sum) {
    using T = decltype(value);
    using A = decltype(sum);
    launch_columns(make_task<T, A>(shape, x, offset, mask, columns, first), x.get_device_index());
  });
}

void deform_columns_backward(
    Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor columns, Tensor grad_x, Tensor grad_offset,
    std::optional<Tensor> grad_mask, int64_t first, std::vector<int64_t> geometry) {
  const DeformShape shape = deform_shape(x, offset, mask, columns, first, geometry);
  check_deform_grads(shape, x, mask, grad_x, grad_offset, grad_mask);
  if (columns.size(0) == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  for_floating_type(x, "deform_columns: x", [&](auto value, auto sum) {
    using T = decltype(value);
    using A = decltype(sum);
    const Gradients<A> to{
        static_cast<A*>(grad_x.mutable_data_ptr()), field<A>(grad_offset), field<A>(grad_mask)};
    launch_gradients(make_task<T, A>(shape, x, offset, mask, columns, first), to, x.get_device_index());
  });
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("deform_columns", TORCH_BOX(&labelenc::deform_columns));
  m.impl("deform_columns_backward", TORCH_BOX(&labelenc::deform_columns_backward));
}
