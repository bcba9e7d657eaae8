// How a block of threads shares out the samples of a deformable convolution, and where these lie.
#pragma once

#include <cstdint>

#include "../deform_sample.h"
#include "pack.h"

namespace labelenc {

constexpr int kThreads = 256;
constexpr int kMostSamples = 64;

template <typename T, typename A>
struct Task {
  DeformShape shape;
  const T* x;
  Field<const A> offset, mask;
  T* columns;
  int64_t first, rows;
  int positions;  // per block
  int samples;    // per position, of all taps and deformable groups

  __device__ T* column(int64_t row, int64_t tap, int64_t channel) const {
    if (shape.groups == 1) {
      return columns + (row * shape.taps + tap) * shape.channels + channel;
    }
    const int64_t per_group = shape.channels / shape.groups;
    const int64_t group = channel / per_group;
    return columns + ((row * shape.groups + group) * shape.taps + tap) * per_group + channel % per_group;
  }
};

// Where a sample lies, as the threads of a block tell each other. origin is the first channel of cell
// (top, left), bit c of on_map says whether corner c is on the map.
template <typename A>
struct Place {
  int64_t origin;
  A down, right, factor;
  unsigned on_map;
};

// What a block works on: samples [first_sample, + samples) of the positions at rows [first_row, + positions).
// A sample counts the deformable groups of a tap before the next tap, as the columns do.
struct Tile {
  int64_t first_row;
  int first_sample, positions, samples;

  template <typename T, typename A>
  __device__ explicit Tile(const Task<T, A>& task)
      : first_row(int64_t(blockIdx.x) * task.positions), first_sample(blockIdx.y * kMostSamples),
        positions(static_cast<int>(min(int64_t(task.positions), task.rows - first_row))),
        samples(min(kMostSamples, task.samples - first_sample)) {}

  __device__ int count() const { return positions * samples; }
};

struct OutputPosition {
  int64_t image, y, x;

  __device__ OutputPosition(const DeformShape& shape, int64_t index) {
    image = index / shape.positions();
    const int rest = static_cast<int>(index - image * shape.positions());
    const int width = static_cast<int>(shape.out_width);
    y = rest / width;
    x = rest - static_cast<int>(y) * width;
  }
};

template <typename T, typename A>
__device__ void find_places(const Task<T, A>& task, const Tile& tile, Place<A>* places) {
  const DeformShape& shape = task.shape;
  const int groups = static_cast<int>(shape.deformable_groups), width = static_cast<int>(shape.kernel_width);
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < tile.count(); i += kThreads) {
    const int sample = i / tile.positions, position = i % tile.positions;
    const int tap = (tile.first_sample + sample) / groups, group = (tile.first_sample + sample) % groups;
    const OutputPosition at(shape, task.first + tile.first_row + position);
    const int64_t field = group * shape.taps + tap;
    const Sample<A> found = deformed_sample(
        shape, task.offset, at.image, at.y, at.x, tap / width, tap % width, 2 * field);
    unsigned on_map = 0;
    for (int corner = 0; corner < 4; ++corner) {
      on_map |= unsigned(found.on_map(corner, shape.height, shape.width)) << corner;
    }
    places[position * tile.samples + sample] = {
        ((at.image * shape.height + found.top) * shape.width + found.left) * shape.channels, found.down,
        found.right, task.mask.data == nullptr ? A(1) : task.mask.at(at.image, field, at.y, at.x), on_map};
  }
  __syncthreads();
}

template <typename A>
__device__ __forceinline__ Sample<A> distances(const Place<A>& place) {
  return {0, 0, place.down, place.right};
}

// Elements from corner 0 of a sample to its other corners.
__device__ __forceinline__ int64_t corner_step(const DeformShape& shape, int corner) {
  return (corner / 2 * shape.width + corner % 2) * shape.channels;
}

template <int N, typename T, typename A>
__device__ __forceinline__ void load_corners(
    const Task<T, A>& task, const Place<A>& place, int64_t channel, Pack<T, N> (&corners)[4]) {
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (place.on_map >> corner & 1) {
      corners[corner] = load_pack<N>(task.x + place.origin + corner_step(task.shape, corner) + channel);
    } else {
      corners[corner] = Pack<T, N>{};
    }
  }
}

}  // namespace labelenc
