// The forward kernel of multilevel_roi_align on the GPU.
#pragma once

#include "roi_align_regions.h"

namespace labelenc {

// Bins that a block pools at most, so that its results fit into shared memory.
constexpr int kBinsAtOnce = 64;

// Channels of a bin in shared memory, padded so that the bins of one channel lie in different banks.
__host__ __device__ constexpr int result_stride(int vector) {
  return kLanes * vector + vector;
}

// A multiple of 16, as the tables behind it demand.
template <typename Storage>
__host__ __device__ constexpr int result_bytes(int vector, int bins) {
  return (static_cast<int>(sizeof(Storage)) * result_stride(vector) * bins + 15) / 16 * 16;
}

// Places of the tables in shared memory, where each bin has a list of taps.
template <typename T>
struct TapTables {
  RoiTap<T>* taps;
  int2* lists;
};

// Vertical bins come first, then the horizontal ones; `room` is that of one axis.
template <typename T>
__device__ __forceinline__ void fill_tables(
    const RegionAxes<T>& axes, const Regions<T>& regions, int room, const TapTables<T>& tables) {
  for (int number = threadIdx.x; number < regions.bins_high + regions.bins_wide; number += kThreads) {
    const bool vertical = number < regions.bins_high;
    const RoiAxis<T> axis = vertical ? axes.y : axes.x;
    const int bin = vertical ? number : number - regions.bins_high;
    int begin = vertical ? 0 : room;
    for (int before = 0; before < bin; ++before) {
      begin += most_taps(axis, before);
    }
    tables.lists[number] = make_int2(begin, begin + find_taps(axis, bin, tables.taps + begin));
  }
}

// Results of `count` bins, `stride` values each, to (channels, bins).
template <typename Storage>
__device__ __forceinline__ void store_results(
    const Storage* results, int stride, int channels, int count, int bins, Storage* out) {
  for (int i = threadIdx.x; i < channels * count; i += kThreads) {
    out[static_cast<int64_t>(i / count) * bins + i % count] = results[i % count * stride + i / count];
  }
}

// One block per region, chunk of channels (blockIdx.y) and portion of bins (blockIdx.z). Results are collected in
// shared memory, because a region's channels are its slowest dimension. Regions need no sorting: those of a
// training step are all on the GPU at the same time.
template <typename Storage, typename T, int Vector>
__global__ void __launch_bounds__(kThreads) pool_regions(
    const __grid_constant__ Pyramid<Storage, T> pyramid, Regions<T> regions, int room, int bins_at_once,
    Storage* __restrict__ pooled) {
  constexpr int kChunk = kLanes * Vector;
  constexpr int kStride = result_stride(Vector);
  extern __shared__ __align__(16) unsigned char memory[];
  auto* results = reinterpret_cast<Storage*>(memory);
  auto* taps = reinterpret_cast<RoiTap<T>*>(memory + result_bytes<Storage>(Vector, bins_at_once));
  const TapTables<T> tables{taps, reinterpret_cast<int2*>(taps + 2 * room)};
  const int64_t region = blockIdx.x;
  const RegionAxes<T> axes = region_axes(pyramid, regions, region);
  fill_tables(axes, regions, room, tables);
  __syncthreads();

  const int bins = regions.bins_high * regions.bins_wide;
  const int first_bin = blockIdx.z * bins_at_once;
  const int here = smaller(bins_at_once, bins - first_bin);
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * kChunk;
  const int lane = threadIdx.x % kLanes;
  const int64_t channel = first_channel + lane * Vector;
  const LevelMap<Storage, T>& map = pyramid.level[axes.level];
  const Storage* cells = map.data + axes.image * map.image_stride + channel;
  for (int bin = threadIdx.x / kLanes; bin < here && channel < pyramid.channels; bin += kWarps) {
    const int2 rows = tables.lists[(first_bin + bin) / regions.bins_wide];
    const int2 columns = tables.lists[regions.bins_high + (first_bin + bin) % regions.bins_wide];
    T sums[Vector] = {};
    for (int y = rows.x; y < rows.y; ++y) {
      const Storage* row = cells + taps[y].cell * map.row_stride;
#pragma unroll 4
      for (int x = columns.x; x < columns.y; ++x) {
        const auto cell = load_pack<Vector>(row + taps[x].cell * map.cell_stride);
        const T weight = taps[y].weight * taps[x].weight;
#pragma unroll
        for (int c = 0; c < Vector; ++c) {
          sums[c] += weight * static_cast<T>(cell.values[c]);
        }
      }
    }
    Pack<Storage, Vector> result;
#pragma unroll
    for (int c = 0; c < Vector; ++c) {
      result.values[c] = static_cast<Storage>(sums[c]);
    }
    store_pack(results + bin * kStride + lane * Vector, result);
  }
  __syncthreads();

  const int64_t left = pyramid.channels - first_channel;
  const int channels = left < kChunk ? static_cast<int>(left) : kChunk;
  Storage* out = pooled + (region * pyramid.channels + first_channel) * bins + first_bin;
  store_results(results, kStride, channels, here, bins, out);
}

}  // namespace labelenc
