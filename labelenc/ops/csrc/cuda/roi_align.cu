// RoIAlign over the levels of a pyramid, and its gradient, on the GPU.
//
// The kernels work on channels_last maps; others are transposed first, which costs reading and writing them once.
// The gradient is gathered: each of its elements is written once by the block that owns it, in the features' type,
// without atomic operations, so that it is the same in every run. Nothing waits for the host.
#include "../roi_align_arguments.h"
#include "roi_align_gather.h"
#include "roi_align_pool.h"
#include "stream.h"
#include "transpose.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

// Shared memory that any GPU gives a block without being asked.
constexpr int64_t kSharedBytes = 48 << 10;
constexpr int64_t kTableBytes = 16 << 10;

unsigned grid_size(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "multilevel_roi_align: too large for one launch");
  return static_cast<unsigned>(blocks);
}

// (batches, rows, columns) to (batches, columns, rows).
template <typename Storage>
void transpose(const void* from, int64_t batches, int64_t rows, int64_t columns, void* to, cudaStream_t stream) {
  const int64_t blocks = squares(batches, rows, columns);
  if (blocks > 0) {
    transpose_squares<Storage><<<grid_size(blocks), dim3(kSide, kSideRows), 0, stream>>>(
        static_cast<const Storage*>(from), rows, columns, static_cast<Storage*>(to));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

bool is_channels_last(const Tensor& map) {
  return map.stride(1) == 1 || map.size(1) == 1;
}

Tensor empty_channels_last(const Tensor& like) {
  // As (N, H, W, C), because the stable interface has no memory format for new_empty.
  return torch::stable::new_empty(like, {like.size(0), like.size(2), like.size(3), like.size(1)});
}

// A level's entry for the kernels. `map` is (N, C, H, W) channels_last, or its dense copy (N, H, W, C).
template <typename Storage, typename T>
LevelMap<Storage, T> level_map(const Tensor& feature, const Tensor& map, bool copied, double scale, void* data) {
  const int64_t channels = feature.size(1), height = feature.size(2), width = feature.size(3);
  LevelMap<Storage, T> level;
  level.data = static_cast<Storage*>(data);
  level.image_stride = copied ? height * width * channels : map.stride(0);
  level.row_stride = copied ? width * channels : map.stride(2);
  level.cell_stride = copied ? channels : map.stride(3);
  level.height = static_cast<int32_t>(height);
  level.width = static_cast<int32_t>(width);
  level.scale = static_cast<T>(scale);
  return level;
}

// Whether 16 bytes at a time of every cell can be moved at once.
template <typename Storage, typename T>
bool fits_vectors(const Pyramid<Storage, T>& pyramid) {
  constexpr int64_t kVector = 16 / sizeof(Storage);
  bool fits = pyramid.channels % kVector == 0;
  for (int i = 0; i < pyramid.levels; ++i) {
    const LevelMap<Storage, T>& map = pyramid.level[i];
    fits = fits && map.image_stride % kVector == 0 && map.row_stride % kVector == 0 &&
        map.cell_stride % kVector == 0 && reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
  }
  return fits;
}

template <typename T>
Regions<T> describe_regions(const Tensor& rois, const Tensor& levels, const RoiAlignSettings& settings) {
  STD_TORCH_CHECK(
      settings.bins_high * settings.bins_wide < (1 << 20) && settings.scales.size() <= kMaxLevels,
      "multilevel_roi_align: on the GPU at most 16 levels and a million bins");
  return {
      static_cast<const T*>(rois.const_data_ptr()), static_cast<const int64_t*>(levels.const_data_ptr()),
      rois.size(0), static_cast<int>(settings.bins_high), static_cast<int>(settings.bins_wide),
      settings.sampling_ratio};
}

template <typename Storage, typename T, int Vector>
void launch_pool(
    const Pyramid<Storage, T>& pyramid, const Regions<T>& regions, Storage* pooled, cudaStream_t stream) {
  const int64_t bins = int64_t(regions.bins_high) * regions.bins_wide;
  const int64_t most_bins = std::max(regions.bins_high, regions.bins_wide);
  int64_t room = 0;
  for (int i = 0; i < pyramid.levels; ++i) {
    room = std::max<int64_t>(room, std::max(pyramid.level[i].height, pyramid.level[i].width) + 4 * most_bins);
  }
  if (regions.sampling_ratio > 0) {
    room = std::min(room, 2 * regions.sampling_ratio * most_bins);
  }
  const int64_t tables = 2 * room * sizeof(RoiTap<T>) + (regions.bins_high + regions.bins_wide) * sizeof(int2);
  int64_t at_once = std::min<int64_t>(bins, kBinsAtOnce);
  while (at_once > kWarps && result_bytes<Storage>(Vector, at_once) + tables > kSharedBytes) {
    at_once = (at_once + 1) / 2;
  }
  const int64_t bytes = result_bytes<Storage>(Vector, at_once) + tables;
  const auto kernel = pool_regions<Storage, T, Vector>;
  if (bytes > kSharedBytes) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  }
  const int64_t chunk = kLanes * Vector;
  const int64_t chunks = (pyramid.channels + chunk - 1) / chunk;
  const int64_t portions = (bins + at_once - 1) / at_once;
  STD_TORCH_CHECK(chunks <= 65535 && portions <= 65535, "multilevel_roi_align: too many channels or bins");
  const dim3 grid(grid_size(regions.count), static_cast<unsigned>(chunks), static_cast<unsigned>(portions));
  kernel<<<grid, kThreads, bytes, stream>>>(
      pyramid, regions, static_cast<int>(room), static_cast<int>(at_once), pooled);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Storage, typename T, int Vector>
void launch_gather(
    const Pyramid<Storage, T>& pyramid, const Regions<T>& regions, int64_t tiles, const Extent* extents,
    const Storage* grads, cudaStream_t stream) {
  const int64_t lists = regions.bins_high + regions.bins_wide;
  const int64_t bytes_of_region = lists * (sizeof(TileWeights<T>) + sizeof(bool));
  const int64_t batch = std::max<int64_t>(1, std::min<int64_t>(kLanes, kTableBytes / bytes_of_region));
  const auto kernel = gather_gradient<Storage, T, Vector>;
  if (batch * bytes_of_region > kTableBytes) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(batch * bytes_of_region)));
  }
  const int64_t chunk = kLanes * Vector;
  const int64_t chunks = (pyramid.channels + chunk - 1) / chunk;
  STD_TORCH_CHECK(chunks <= 65535, "multilevel_roi_align: too many channels");
  kernel<<<dim3(grid_size(tiles), static_cast<unsigned>(chunks)), kThreads, batch * bytes_of_region, stream>>>(
      pyramid, regions, extents, static_cast<int>(batch), grads);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor multilevel_roi_align(
    std::vector<Tensor> features, Tensor rois, Tensor levels, int64_t bins_high, int64_t bins_wide,
    std::vector<double> scales, int64_t sampling_ratio) {
  const RoiAlignCall call(features, rois, levels, bins_high, bins_wide, scales, sampling_ratio);
  const torch::stable::accelerator::DeviceGuard guard(rois.get_device_index());
  const cudaStream_t stream = current_stream(rois.get_device_index());
  Tensor pooled = call.new_result();
  if (pooled.numel() == 0) {
    return pooled;
  }
  for_floating_type(features[0], "multilevel_roi_align: features", [&](auto zero, auto) {
    using Storage = decltype(zero);
    using T = AccumulationType<Storage>;
    const Regions<T> regions = describe_regions<T>(call.rois, call.levels, call.settings);
    Pyramid<Storage, T> pyramid;
    pyramid.levels = static_cast<int>(features.size());
    pyramid.images = features[0].size(0);
    pyramid.channels = features[0].size(1);
    std::vector<Tensor> kept;
    for (size_t i = 0; i < features.size(); ++i) {
      const Tensor& feature = features[i];
      const bool copy = !is_channels_last(feature);
      if (copy) {
        const Tensor dense = torch::stable::contiguous(feature);
        kept.push_back(empty_channels_last(feature));
        transpose<Storage>(
            dense.const_data_ptr(), feature.size(0), feature.size(1), feature.size(2) * feature.size(3),
            kept.back().mutable_data_ptr(), stream);
      } else {
        kept.push_back(feature);
      }
      pyramid.level[i] = level_map<Storage, T>(
          feature, kept.back(), copy, scales[i], const_cast<void*>(kept.back().const_data_ptr()));
    }
    auto* out = static_cast<Storage*>(pooled.mutable_data_ptr());
    if (fits_vectors(pyramid)) {
      launch_pool<Storage, T, 16 / sizeof(Storage)>(pyramid, regions, out, stream);
    } else {
      launch_pool<Storage, T, 1>(pyramid, regions, out, stream);
    }
  });
  return pooled;
}

// From `map`, (N, H, W, C) and dense, to `target`, (N, C, H, W). Where that has an unusual layout, a contiguous one
// comes between.
template <typename Storage>
void transpose_back(const Tensor& map, Tensor target, cudaStream_t stream) {
  const int64_t images = target.size(0), channels = target.size(1), height = target.size(2), width = target.size(3);
  Tensor dense =
      target.is_contiguous() ? target : torch::stable::new_empty(target, {images, channels, height, width});
  transpose<Storage>(
      map.const_data_ptr(), images, height * width, channels, dense.mutable_data_ptr(), stream);
  if (!target.is_contiguous()) {
    torch::stable::copy_(target, dense);
  }
}

// From the gradient (K, C, bins) to the one the kernel reads, (K, bins, C), and from there to the maps.
template <typename Storage>
void backward(
    const Tensor& grad, const std::vector<Tensor>& grads, const Tensor& rois, const Tensor& levels,
    const RoiAlignSettings& settings, cudaStream_t stream) {
  using T = AccumulationType<Storage>;
  const Regions<T> regions = describe_regions<T>(rois, levels, settings);
  Pyramid<Storage, T> pyramid;
  pyramid.levels = static_cast<int>(grads.size());
  pyramid.images = grads[0].size(0);
  pyramid.channels = grads[0].size(1);
  std::vector<Tensor> maps;
  int64_t tiles = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    const bool copy = !is_channels_last(grads[i]);
    maps.push_back(copy ? empty_channels_last(grads[i]) : grads[i]);
    pyramid.level[i] =
        level_map<Storage, T>(grads[i], maps[i], copy, settings.scales[i], maps[i].mutable_data_ptr());
    pyramid.level[i].first_tile = tiles;
    tiles += pyramid.images * ((grads[i].size(2) + kTile - 1) / kTile) * ((grads[i].size(3) + kTile - 1) / kTile);
  }
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2) * grad.size(3);
  const Tensor by_bin = torch::stable::new_empty(grad, {count, bins, channels});
  transpose<Storage>(grad.const_data_ptr(), count, channels, bins, by_bin.mutable_data_ptr(), stream);
  const int64_t extent_words = count * static_cast<int64_t>(sizeof(Extent) / sizeof(int64_t));
  const Tensor extents = torch::stable::new_empty(levels, {extent_words}, ScalarType::Long);
  auto* extents_data = static_cast<Extent*>(extents.mutable_data_ptr());
  if (count > 0) {
    const unsigned blocks = grid_size((count + kThreads - 1) / kThreads);
    find_extents<Storage, T><<<blocks, kThreads, 0, stream>>>(pyramid, regions, extents_data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const auto* by_bin_data = static_cast<const Storage*>(by_bin.const_data_ptr());
  if (fits_vectors(pyramid)) {
    launch_gather<Storage, T, 16 / sizeof(Storage)>(pyramid, regions, tiles, extents_data, by_bin_data, stream);
  } else {
    launch_gather<Storage, T, 1>(pyramid, regions, tiles, extents_data, by_bin_data, stream);
  }
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!is_channels_last(grads[i])) {
      transpose_back<Storage>(maps[i], grads[i], stream);
    }
  }
}

std::vector<Tensor> multilevel_roi_align_backward(
    Tensor grad, std::vector<Tensor> features, Tensor rois, Tensor levels, int64_t bins_high, int64_t bins_wide,
    std::vector<double> scales, int64_t sampling_ratio) {
  const RoiAlignCall call(features, rois, levels, bins_high, bins_wide, scales, sampling_ratio);
  const torch::stable::accelerator::DeviceGuard guard(rois.get_device_index());
  const cudaStream_t stream = current_stream(rois.get_device_index());
  const Tensor dense_grad = call.dense_gradient(grad);
  std::vector<Tensor> grads = call.new_feature_gradients();
  // Maps have height and width, checked above.
  if (features[0].size(0) > 0 && features[0].size(1) > 0) {
    for_floating_type(features[0], "multilevel_roi_align: features", [&](auto zero, auto) {
      backward<decltype(zero)>(dense_grad, grads, call.rois, call.levels, call.settings, stream);
    });
  }
  return grads;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("multilevel_roi_align", TORCH_BOX(&labelenc::multilevel_roi_align));
  m.impl("multilevel_roi_align_backward", TORCH_BOX(&labelenc::multilevel_roi_align_backward));
}
