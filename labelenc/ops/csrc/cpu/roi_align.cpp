// RoIAlign over the levels of a pyramid, and its gradient, on the CPU.
//
// The work is cut into (image of a level, block of 16 channels). A unit copies the cells that its regions take part
// of to a block in which the channels of a cell are one vector; so sampling costs one vector operation per tap, in
// any layout and type, and the block stays in the cache. The taps of a region are the same for all channels and are
// found once. Backward a unit owns its part of the gradient: no two threads write to one place, and sums are always
// made in the same order.
#include "../roi_align_arguments.h"
#include "../roi_sampling.h"
#include "channel_block.h"
#include "clones.h"
#include "roi_plan.h"
#include "roi_regions.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

// So that a lambda is compiled for the machine that its caller is compiled for.
#if defined(__GNUC__)
#define LABELENC_INLINED __attribute__((always_inline))
#else
#define LABELENC_INLINED
#endif

namespace labelenc {
namespace {


// Work worth waking a thread for, about half a millisecond.
constexpr int64_t kWorkPerThread = 1 << 21;

// One unit of work. `map` and `pooled` start at its channels, `pooled` has all channels of all regions.
template <typename Storage>
struct Unit {
  using T = AccumulationType<Storage>;
  const RoiPlan<T>& plan;
  const RoiGroup& group;
  MapView<Storage> map;
  Storage* pooled;
  int64_t pooled_stride;
  int64_t channels;
  Scratch<T>& scratch;
};

// Calls `visit(touched, offset in the map, offset in the block, cells)` for each tile of a group.
template <typename Storage, typename Visit>
LABELENC_HOST_DEVICE void for_each_tile(const Unit<Storage>& unit, const Visit& visit) {
  const RoiGroup& group = unit.group;
  for (int64_t y = 0; y < group.height; ++y) {
    for (int64_t tile = 0; tile < group.row_tiles; ++tile) {
      const int64_t x = tile * kTileCells;
      const bool touched = !group.touched.empty() && group.touched[y * group.row_tiles + tile];
      visit(
          touched, y * unit.map.row_stride + x * unit.map.cell_stride, (y * group.width + x) * kBlock,
          std::min(kTileCells, group.width - x));
    }
  }
}

template <typename Storage>
LABELENC_HOST_DEVICE void pool(const Unit<Storage>& unit) {
  using T = AccumulationType<Storage>;
  T* block = unit.scratch.map.get();
  const MapView<const Storage> map{
      unit.map.data, unit.map.channel_stride, unit.map.row_stride, unit.map.cell_stride};
  for_each_tile(unit, [&](bool touched, int64_t from, int64_t to, int64_t cells) LABELENC_INLINED {
    if (touched) {
      pack_cells(map, map.data + from, cells, unit.channels, block + to);
    }
  });
  const int64_t bins = unit.plan.bins_high * unit.plan.bins_wide;
  T* result = unit.scratch.result.get();
  for (int64_t region = unit.group.first; region < unit.group.last; ++region) {
    pool_region(unit.plan, region, block, unit.group.width * kBlock, kBlock, unit.scratch);
    Storage* pooled = unit.pooled + unit.plan.rows[region] * unit.pooled_stride;
    if constexpr (std::is_same_v<Storage, T>) {
      transpose(unit.scratch.bins.get(), kBlock, bins, unit.channels, pooled, bins);
    } else {
      transpose(unit.scratch.bins.get(), kBlock, bins, unit.channels, result, bins);
      convert(result, pooled, unit.channels * bins);
    }
  }
}

template <typename Storage>
LABELENC_HOST_DEVICE void spread(const Unit<Storage>& unit) {
  using T = AccumulationType<Storage>;
  T* block = unit.scratch.map.get();
  for_each_tile(unit, [&](bool touched, int64_t, int64_t to, int64_t cells) LABELENC_INLINED {
    if (touched) {
      std::fill(block + to, block + to + cells * kBlock, T(0));
    }
  });
  const int64_t bins = unit.plan.bins_high * unit.plan.bins_wide;
  T* grads = unit.scratch.result.get();
  if (unit.channels < kBlock) {
    std::fill(unit.scratch.bins.get(), unit.scratch.bins.get() + bins * kBlock, T(0));
  }
  for (int64_t region = unit.group.first; region < unit.group.last; ++region) {
    const Storage* pooled = unit.pooled + unit.plan.rows[region] * unit.pooled_stride;
    if constexpr (std::is_same_v<Storage, T>) {
      transpose(pooled, bins, unit.channels, bins, unit.scratch.bins.get(), kBlock);
    } else {
      convert(pooled, grads, unit.channels * bins);
      transpose(grads, bins, unit.channels, bins, unit.scratch.bins.get(), kBlock);
    }
    spread_region(unit.plan, region, block, unit.group.width * kBlock, unit.scratch);
  }
  const T nothing[kTileCells * kBlock] = {};
  for_each_tile(unit, [&](bool touched, int64_t from, int64_t to, int64_t cells) LABELENC_INLINED {
    unpack_cells(unit.map, unit.map.data + from, cells, unit.channels, touched ? block + to : nothing);
  });
}

// Function versions can't be templates.
LABELENC_CLONES void forward(const Unit<float>& unit) { pool(unit); }
LABELENC_CLONES void forward(const Unit<double>& unit) { pool(unit); }
LABELENC_CLONES void forward(const Unit<Half>& unit) { pool(unit); }
LABELENC_CLONES void forward(const Unit<BFloat16>& unit) { pool(unit); }
LABELENC_CLONES void backward(const Unit<float>& unit) { spread(unit); }
LABELENC_CLONES void backward(const Unit<double>& unit) { spread(unit); }
LABELENC_CLONES void backward(const Unit<Half>& unit) { spread(unit); }
LABELENC_CLONES void backward(const Unit<BFloat16>& unit) { spread(unit); }

// Calls `run` with every unit, on all threads; `maps` are the levels' data.
template <typename Storage, typename Run>
void for_each_unit(
    const RoiPlan<AccumulationType<Storage>>& plan, const std::vector<Tensor>& features,
    const std::vector<Storage*>& maps, Storage* pooled, bool empty_ones_too, const Run& run) {
  using T = AccumulationType<Storage>;
  std::vector<const RoiGroup*> groups;
  int64_t cells = 0, all_cells = 0;
  for (const RoiGroup& group : plan.groups) {
    if (empty_ones_too || group.first < group.last) {
      groups.push_back(&group);
      cells = std::max(cells, group.height * group.width);
      all_cells += group.height * group.width;
    }
  }
  const int64_t channels = features[0].size(1);
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const auto group_count = static_cast<int64_t>(groups.size());
  const int64_t shares = 1 + (plan.work + all_cells) * channels / kWorkPerThread;
  const int64_t grain = (blocks * group_count + shares - 1) / shares;
  torch::stable::parallel_for(0, blocks * group_count, grain, [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(cells, plan.bins_high, plan.bins_wide);
    for (int64_t number = begin; number < end; ++number) {
      const RoiGroup& group = *groups[number % group_count];
      const int64_t channel = number / group_count * kBlock;
      const Tensor& feature = features[group.level];
      const int64_t bins = plan.bins_high * plan.bins_wide;
      const MapView<Storage> map{
          maps[group.level] + group.image * feature.stride(0) + channel * feature.stride(1), feature.stride(1),
          feature.stride(2), feature.stride(3)};
      run(Unit<Storage>{
          plan, group, map, pooled + channel * bins, channels * bins, std::min(kBlock, channels - channel),
          scratch});
    }
  });
}

Tensor multilevel_roi_align(
    std::vector<Tensor> features, Tensor rois, Tensor levels, int64_t bins_high, int64_t bins_wide,
    std::vector<double> scales, int64_t sampling_ratio) {
  const RoiAlignCall call(features, rois, levels, bins_high, bins_wide, scales, sampling_ratio);
  Tensor pooled = call.new_result();
  for_floating_type(features[0], "multilevel_roi_align: features", [&](auto zero, auto) {
    using Storage = decltype(zero);
    const RoiPlan<AccumulationType<Storage>> plan(features, call.rois, call.levels, call.settings);
    std::vector<Storage*> maps;
    for (const Tensor& feature : features) {
      maps.push_back(const_cast<Storage*>(static_cast<const Storage*>(feature.const_data_ptr())));
    }
    for_each_unit<Storage>(
        plan, features, maps, static_cast<Storage*>(pooled.mutable_data_ptr()), false,
        [](const Unit<Storage>& unit) { forward(unit); });
  });
  return pooled;
}

std::vector<Tensor> multilevel_roi_align_backward(
    Tensor grad, std::vector<Tensor> features, Tensor rois, Tensor levels, int64_t bins_high, int64_t bins_wide,
    std::vector<double> scales, int64_t sampling_ratio) {
  const RoiAlignCall call(features, rois, levels, bins_high, bins_wide, scales, sampling_ratio);
  const Tensor dense_grad = call.dense_gradient(grad);
  std::vector<Tensor> grads = call.new_feature_gradients();
  for_floating_type(features[0], "multilevel_roi_align: features", [&](auto zero, auto) {
    using Storage = decltype(zero);
    const RoiPlan<AccumulationType<Storage>> plan(features, call.rois, call.levels, call.settings);
    std::vector<Storage*> maps;
    for (const Tensor& of_level : grads) {
      maps.push_back(static_cast<Storage*>(of_level.mutable_data_ptr()));
    }
    auto* pooled = const_cast<Storage*>(static_cast<const Storage*>(dense_grad.const_data_ptr()));
    for_each_unit<Storage>(
        plan, grads, maps, pooled, true, [](const Unit<Storage>& unit) { backward(unit); });
  });
  return grads;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CPU, m) {
  m.impl("multilevel_roi_align", TORCH_BOX(&labelenc::multilevel_roi_align));
  m.impl("multilevel_roi_align_backward", TORCH_BOX(&labelenc::multilevel_roi_align_backward));
}
