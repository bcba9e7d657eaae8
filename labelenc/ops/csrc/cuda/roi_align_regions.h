// What the kernels of multilevel_roi_align on the GPU have in common: channels lie side by side (channels_last), a
// warp works on the channels of one bin or of one row of cells, and each of its lanes on 16 bytes of them.
#pragma once

#include "../roi_sampling.h"
#include "pack.h"

#include <cstdint>

namespace labelenc {

constexpr int kMaxLevels = 16;
constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kLanes * kWarps;

// A level, channels_last; strides in elements.
template <typename Storage, typename T>
struct LevelMap {
  Storage* data;
  int64_t image_stride, row_stride, cell_stride;
  int32_t height, width;
  T scale;
  // Of the gradient's tiles, which are numbered through all levels.
  int64_t first_tile;
};

template <typename Storage, typename T>
struct Pyramid {
  LevelMap<Storage, T> level[kMaxLevels];
  int levels;
  int64_t images, channels;
};

template <typename T>
struct Regions {
  const T* rois;
  const int64_t* levels;
  int64_t count;
  int bins_high, bins_wide;
  int64_t sampling_ratio;
};

template <typename T>
struct RegionAxes {
  int level;
  int64_t image;
  RoiAxis<T> y, x;
};

// A region whose image or level doesn't exist is one that is not finite: it has no samples.
template <typename Storage, typename T>
__device__ __forceinline__ RegionAxes<T> region_axes(
    const Pyramid<Storage, T>& pyramid, const Regions<T>& regions, int64_t number) {
  const T* roi = regions.rois + 5 * number;
  const int64_t level = regions.levels[number];
  const bool exists = level >= 0 && level < pyramid.levels && roi[0] >= T(0) &&
      roi[0] < static_cast<T>(pyramid.images);
  const bool good = exists && is_finite_region(roi + 1);
  const LevelMap<Storage, T>& map = pyramid.level[exists ? level : 0];
  return {
      exists ? static_cast<int>(level) : 0, exists ? static_cast<int64_t>(roi[0]) : 0,
      roi_axis(roi[2], roi[4], good, map.scale, regions.bins_high, regions.sampling_ratio, map.height),
      roi_axis(roi[1], roi[3], good, map.scale, regions.bins_wide, regions.sampling_ratio, map.width)};
}

}  // namespace labelenc
