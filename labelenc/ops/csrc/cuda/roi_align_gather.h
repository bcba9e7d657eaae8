// The backward kernels of multilevel_roi_align on the GPU.
#pragma once

#include "roi_align_regions.h"

namespace labelenc {

// Side of the square of cells whose gradient a block gathers, one row per warp.
constexpr int kTile = kWarps;
// Regions that a block of the gradient looks through at a time, several per thread.
constexpr int kRegionsAtOnce = 4 * kThreads;

template <typename T>
struct alignas(16) TileWeights {
  T v[kTile];
};

// The cells a region may take part of, ends excluded, and the image of a level that it lies on.
struct Extent {
  int64_t group;
  int32_t top, bottom, left, right;
};

template <typename Storage, typename T>
__global__ void __launch_bounds__(kThreads) find_extents(
    const __grid_constant__ Pyramid<Storage, T> pyramid, Regions<T> regions, Extent* __restrict__ extents) {
  const int64_t number = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (number >= regions.count) {
    return;
  }
  const RegionAxes<T> axes = region_axes(pyramid, regions, number);
  const T bottom = axes.y.start + product(static_cast<T>(regions.bins_high), axes.y.size);
  const T right = axes.x.start + product(static_cast<T>(regions.bins_wide), axes.x.size);
  const bool off_map = !(bottom >= T(-2) && right >= T(-2));
  extents[number] = {
      off_map ? -1 : axes.level * pyramid.images + axes.image,
      cell_near(axes.y, axes.y.start), cell_near(axes.y, bottom) + 3,
      cell_near(axes.x, axes.x.start), cell_near(axes.x, right) + 3};
}

// Numbers of the regions among [first, first + kRegionsAtOnce) that reach into a tile, in order, to `found`;
// returns how many there are. `counts` has one place per warp and round.
__device__ __forceinline__ int regions_of_tile(
    const Extent* __restrict__ extents, int64_t first, int64_t count, int64_t group, int top, int left,
    int64_t* found, int* counts) {
  constexpr int kRounds = kRegionsAtOnce / kThreads;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  unsigned hits[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t number = first + round * kThreads + threadIdx.x;
    bool hit = false;
    if (number < count) {
      const Extent extent = extents[number];
      hit = extent.group == group && extent.top < top + kTile && extent.bottom > top &&
          extent.left < left + kTile && extent.right > left;
    }
    hits[round] = __ballot_sync(0xffffffffU, hit);
    if (lane == 0) {
      counts[round * kWarps + warp] = __popc(hits[round]);
    }
  }
  __syncthreads();
  int place = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int other = 0; other < kWarps; ++other) {
      if (other == warp && (hits[round] >> lane & 1U) != 0) {
        found[place + __popc(hits[round] & ((1U << lane) - 1U))] = first + round * kThreads + threadIdx.x;
      }
      place += counts[round * kWarps + other];
    }
  }
  __syncthreads();
  return place;
}

// The weights of a bin on the eight cells from `first` on; returns whether there is one that isn't 0.
template <typename T>
__device__ __forceinline__ bool tile_weights(const RoiAxis<T>& axis, int bin, int first, TileWeights<T>& weights) {
  for (int i = 0; i < kTile; ++i) {
    weights.v[i] = T(0);
  }
  bool any = false;
  RoiSample<T> sample;
  const SampleRange range = samples_between(axis, bin, static_cast<T>(first - 1), static_cast<T>(first + kTile));
  for (int64_t i = range.first; i < range.last; ++i) {
    if (!sample_at(axis, bin, i, sample)) {
      continue;
    }
    if (sample.low >= first && sample.low < first + kTile) {
      weights.v[sample.low - first] += sample.low_weight;
      any = true;
    }
    if (sample.high >= first && sample.high < first + kTile) {
      weights.v[sample.high - first] += sample.high_weight;
      any = true;
    }
  }
  return any;
}

// Adds what a region gives to one row of a tile. `weights` are those of its vertical bins, then of its horizontal
// ones, `grads` (bins, channels).
template <typename Storage, typename T, int Vector>
__device__ __forceinline__ void add_region(
    const Regions<T>& regions, const TileWeights<T>* weights, const bool* nonzero, int row, const Storage* grads,
    int64_t channels, T (&sums)[kTile][Vector]) {
  int first = 0, last = regions.bins_high;
  while (first < last && weights[first].v[row] == T(0)) {
    ++first;
  }
  while (last > first && weights[last - 1].v[row] == T(0)) {
    --last;
  }
  for (int bin = 0; bin < regions.bins_wide && first < last; ++bin) {
    if (!nonzero[regions.bins_high + bin]) {
      continue;
    }
    T column[Vector] = {};
    for (int y = first; y < last; ++y) {
      const int64_t offset = (static_cast<int64_t>(y) * regions.bins_wide + bin) * channels;
      const auto grad = load_pack<Vector>(grads + offset);
      const T weight = weights[y].v[row];
#pragma unroll
      for (int c = 0; c < Vector; ++c) {
        column[c] += weight * static_cast<T>(grad.values[c]);
      }
    }
    const TileWeights<T> shares = weights[regions.bins_high + bin];
#pragma unroll
    for (int x = 0; x < kTile; ++x) {
      if (shares.v[x] != T(0)) {
#pragma unroll
        for (int c = 0; c < Vector; ++c) {
          sums[x][c] += shares.v[x] * column[c];
        }
      }
    }
  }
}

// Where the tile of a block lies.
struct TilePlace {
  int level;
  int64_t image;
  int top, left;
};

template <typename Storage, typename T>
__device__ __forceinline__ TilePlace tile_place(const Pyramid<Storage, T>& pyramid, int64_t number) {
  int level = 0;
  while (level + 1 < pyramid.levels && pyramid.level[level + 1].first_tile <= number) {
    ++level;
  }
  const LevelMap<Storage, T>& map = pyramid.level[level];
  const int64_t row_tiles = (map.width + kTile - 1) / kTile, column_tiles = (map.height + kTile - 1) / kTile;
  const int64_t tile = number - map.first_tile;
  return {
      level, tile / (row_tiles * column_tiles), static_cast<int>(tile / row_tiles % column_tiles) * kTile,
      static_cast<int>(tile % row_tiles) * kTile};
}

// The first `width` cells of a row of a tile.
template <typename Storage, typename T, int Vector>
__device__ __forceinline__ void store_cells(
    const T (&sums)[kTile][Vector], int width, int64_t cell_stride, Storage* cells) {
#pragma unroll
  for (int x = 0; x < kTile; ++x) {
    if (x < width) {
      Pack<Storage, Vector> cell;
#pragma unroll
      for (int c = 0; c < Vector; ++c) {
        cell.values[c] = static_cast<Storage>(sums[x][c]);
      }
      store_pack(cells + x * cell_stride, cell);
    }
  }
}

// One block per tile of cells and chunk of channels (blockIdx.y). It adds up what the regions that reach into the
// tile give it, in their order: the result is always the same, is written once and needs no atomic operation.
// `pooled` is the gradient of the result, (regions, bins, channels).
template <typename Storage, typename T, int Vector>
__global__ void __launch_bounds__(kThreads, 2) gather_gradient(
    const __grid_constant__ Pyramid<Storage, T> pyramid, Regions<T> regions,
    const Extent* __restrict__ extents, int batch, const Storage* __restrict__ pooled) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ int64_t found[kRegionsAtOnce];
  __shared__ int counts[kRegionsAtOnce / kThreads * kWarps];
  const int lists = regions.bins_high + regions.bins_wide;
  auto* weights = reinterpret_cast<TileWeights<T>*>(memory);
  auto* nonzero = reinterpret_cast<bool*>(weights + batch * lists);

  const auto [level, image, top, left] = tile_place(pyramid, static_cast<int64_t>(blockIdx.x));
  const LevelMap<Storage, T>& map = pyramid.level[level];
  const int row = threadIdx.x / kLanes;
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x % kLanes) * Vector;
  const int64_t bins = static_cast<int64_t>(regions.bins_high) * regions.bins_wide;

  T sums[kTile][Vector] = {};
  for (int64_t first = 0; first < regions.count; first += kRegionsAtOnce) {
    const int hits = regions_of_tile(
        extents, first, regions.count, level * pyramid.images + image, top, left, found, counts);
    for (int begin = 0; begin < hits; begin += batch) {
      const int here = smaller(batch, hits - begin);
      for (int i = threadIdx.x; i < here * lists; i += kThreads) {
        const RegionAxes<T> axes = region_axes(pyramid, regions, found[begin + i / lists]);
        const int bin = i % lists;
        nonzero[i] = bin < regions.bins_high
            ? tile_weights(axes.y, bin, top, weights[i])
            : tile_weights(axes.x, bin - regions.bins_high, left, weights[i]);
      }
      __syncthreads();
      for (int i = 0; i < here && channel < pyramid.channels; ++i) {
        const TileWeights<T>* of_region = weights + i * lists;
        const Storage* grads = pooled + found[begin + i] * bins * pyramid.channels + channel;
        add_region(regions, of_region, nonzero + i * lists, row, grads, pyramid.channels, sums);
      }
      __syncthreads();
    }
  }
  if (channel >= pyramid.channels || top + row >= map.height) {
    return;
  }
  const int64_t cell = image * map.image_stride + (top + row) * map.row_stride + left * map.cell_stride;
  store_cells(sums, map.width - left, map.cell_stride, map.data + cell + channel);
}

}  // namespace labelenc
