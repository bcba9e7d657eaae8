// Where RoIAlign samples along one axis, shared by the CPU and the CUDA kernels so that both find the same cells.
#pragma once

#include "arithmetic.h"

#include <cmath>
#include <cstdint>

namespace labelenc {

// One axis of a region: bins of `size` cells from `start` on, each with `samples` samples, on a map of `cells`.
template <typename T>
struct RoiAxis {
  T start, size, samples;
  int32_t cells;
};

// The cells that a sample lies between and their shares of a bin's mean.
template <typename T>
struct RoiSample {
  int32_t low, high;
  T low_weight, high_weight;
};

// A cell with its share of a bin's mean.
template <typename T>
struct RoiTap {
  int32_t cell;
  T weight;
};

struct SampleRange {
  int64_t first, last;
};

template <typename T>
LABELENC_HOST_DEVICE bool is_finite_region(const T* corners) {
  bool finite = true;
  for (int i = 0; i < 4; ++i) {
    finite = finite && corners[i] - corners[i] == T(0);
  }
  return finite;
}

// The axis from pixel `low` to `high`, at least one cell long; far before the map for a region that isn't finite.
// sampling_ratio 0 stands for a sample for each cell, or part of one, that a bin is long.
template <typename T>
LABELENC_HOST_DEVICE RoiAxis<T> roi_axis(
    T low, T high, bool finite, T scale, int64_t bins, int64_t sampling_ratio, int64_t cells) {
  const T start = finite ? product(low, scale) : T(-9);
  const T end = finite ? product(high, scale) : T(-9);
  const T size = larger(end - start, T(1)) / static_cast<T>(bins);
  const T samples = sampling_ratio > 0 ? static_cast<T>(sampling_ratio) : std::ceil(size);
  return {start, size, samples, static_cast<int32_t>(cells)};
}

// All samples of a bin between two positions, and a few around them.
template <typename T>
LABELENC_HOST_DEVICE SampleRange samples_between(const RoiAxis<T>& axis, int64_t bin, T from, T to) {
  const T few = 8;
  const T many = T(1 << 30);
  if (!(axis.samples < many)) {
    // The part on the map is as good as nothing of such a bin.
    return {0, 0};
  }
  if (axis.samples <= few) {
    return {0, static_cast<int64_t>(axis.samples)};
  }
  const T origin = axis.start + product(static_cast<T>(bin), axis.size);
  const T step = axis.size / axis.samples;
  const T first = smaller(larger((from - origin) / step - T(2), T(0)), axis.samples);
  const T last = smaller(larger((to - origin) / step + T(2), T(0)), axis.samples);
  return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

template <typename T>
LABELENC_HOST_DEVICE SampleRange samples_on_map(const RoiAxis<T>& axis, int64_t bin) {
  return samples_between(axis, bin, T(-1), static_cast<T>(axis.cells));
}

// False for a sample that isn't on the map: before -1 or beyond the last cell by more than one.
template <typename T>
LABELENC_HOST_DEVICE bool sample_at(const RoiAxis<T>& axis, int64_t bin, int64_t number, RoiSample<T>& sample) {
  const T left = product(static_cast<T>(bin), axis.size);
  const T step = product(static_cast<T>(number) + T(0.5), axis.size) / axis.samples;
  const T position = axis.start + left + step;
  const T cells = static_cast<T>(axis.cells);
  if (!(position >= T(-1) && position <= cells)) {
    return false;
  }
  const T inside = smaller(larger(position, T(0)), cells - T(1));
  const int32_t low = static_cast<int32_t>(inside);
  const T share = inside - static_cast<T>(low);
  sample.low = low;
  // A neighbour without a share isn't looked at, as the last cell has none and others may not be finite.
  sample.high = share > T(0) ? low + 1 : low;
  sample.low_weight = (T(1) - share) / axis.samples;
  sample.high_weight = share / axis.samples;
  return true;
}

// Adds to the list of a bin's taps, in which a new sample can only share the last two cells.
template <typename T>
LABELENC_HOST_DEVICE int add_tap(RoiTap<T>* taps, int count, int room, int32_t cell, T weight) {
  for (int back = 1; back <= 2 && back <= count; ++back) {
    if (taps[count - back].cell == cell) {
      taps[count - back].weight += weight;
      return count;
    }
  }
  if (count < room) {
    taps[count++] = {cell, weight};
  }
  return count;
}

// The cell of a position that is moved onto the map.
template <typename T>
LABELENC_HOST_DEVICE int32_t cell_near(const RoiAxis<T>& axis, T position) {
  return static_cast<int32_t>(smaller(larger(position, T(0)), static_cast<T>(axis.cells) - T(1)));
}

// How many taps a bin can have, if it isn't so far away that its samples are beyond precision. Over all bins of an
// axis these are at most `cells + 4 bins`.
template <typename T>
LABELENC_HOST_DEVICE int most_taps(const RoiAxis<T>& axis, int64_t bin) {
  const T begin = axis.start + product(static_cast<T>(bin), axis.size);
  const int span = cell_near(axis, begin + axis.size) - cell_near(axis, begin) + 3;
  return axis.samples < static_cast<T>(span) ? smaller(span, 2 * static_cast<int>(axis.samples)) : span;
}

// The taps of a bin in increasing order, at most most_taps; returns their number.
template <typename T>
LABELENC_HOST_DEVICE int find_taps(const RoiAxis<T>& axis, int64_t bin, RoiTap<T>* taps) {
  int count = 0;
  const int room = most_taps(axis, bin);
  RoiSample<T> sample;
  const SampleRange range = samples_on_map(axis, bin);
  for (int64_t i = range.first; i < range.last; ++i) {
    if (sample_at(axis, bin, i, sample)) {
      count = add_tap(taps, count, room, sample.low, sample.low_weight);
      count = add_tap(taps, count, room, sample.high, sample.high_weight);
    }
  }
  return count;
}

}  // namespace labelenc
