// One region's values, or their gradient, for one block of channels.
#pragma once

#include "channel_block.h"
#include "roi_plan.h"

#include <algorithm>
#include <cstdint>
#include <memory>

namespace labelenc {

// Memory of one thread. Two rows of horizontal sums, by whether their number is even: the rows that neighbouring
// bins share are the last two of the first bin.
template <typename T>
struct Scratch {
  Scratch(int64_t cells, int64_t bins_high, int64_t bins_wide)
      : map(new T[cells * kBlock]), rows(new T[2 * bins_wide * kBlock]), bins(new T[bins_high * bins_wide * kBlock]),
        result(new T[bins_high * bins_wide * kBlock]) {}

  std::unique_ptr<T[]> map, rows, bins, result;
};

template <typename T>
LABELENC_HOST_DEVICE void sum_row(
    const RoiPlan<T>& plan, int64_t region, const T* row, int64_t cell_stride, T* sums) {
  for (int64_t bin = 0; bin < plan.bins_wide; ++bin) {
    T sum[kBlock] = {};
    for (const RoiTap<T>& tap : plan.horizontal(region, bin)) {
      const T* cell = row + tap.cell * cell_stride;
      for (int64_t c = 0; c < kBlock; ++c) {
        sum[c] += tap.weight * cell[c];
      }
    }
    std::copy(sum, sum + kBlock, sums + bin * kBlock);
  }
}

// `bins` becomes (bins high, bins wide, kBlock).
template <typename T>
LABELENC_HOST_DEVICE void pool_region(
    const RoiPlan<T>& plan, int64_t region, const T* map, int64_t row_stride, int64_t cell_stride,
    const Scratch<T>& scratch) {
  const int64_t width = plan.bins_wide * kBlock;
  int32_t row_in[2] = {-1, -1};
  for (int64_t bin = 0; bin < plan.bins_high; ++bin) {
    T* __restrict sums = scratch.bins.get() + bin * width;
    std::fill(sums, sums + width, T(0));
    for (const RoiTap<T>& tap : plan.vertical(region, bin)) {
      const int slot = tap.cell & 1;
      T* row = scratch.rows.get() + slot * width;
      if (row_in[slot] != tap.cell) {
        sum_row(plan, region, map + tap.cell * row_stride, cell_stride, row);
        row_in[slot] = tap.cell;
      }
      for (int64_t i = 0; i < width; ++i) {
        sums[i] += tap.weight * row[i];
      }
    }
  }
}

template <typename T>
LABELENC_HOST_DEVICE void spread_row(const RoiPlan<T>& plan, int64_t region, const T* grads, T* row) {
  for (int64_t bin = 0; bin < plan.bins_wide; ++bin) {
    const T* grad = grads + bin * kBlock;
    for (const RoiTap<T>& tap : plan.horizontal(region, bin)) {
      T* cell = row + tap.cell * kBlock;
      for (int64_t c = 0; c < kBlock; ++c) {
        cell[c] += tap.weight * grad[c];
      }
    }
  }
}

// Adds the gradient of a region, `bins` (bins high, bins wide, kBlock), to the block.
template <typename T>
LABELENC_HOST_DEVICE void spread_region(
    const RoiPlan<T>& plan, int64_t region, T* map, int64_t row_stride, const Scratch<T>& scratch) {
  const int64_t width = plan.bins_wide * kBlock;
  int32_t row_in[2] = {-1, -1};
  for (int64_t bin = 0; bin < plan.bins_high; ++bin) {
    const T* grads = scratch.bins.get() + bin * width;
    for (const RoiTap<T>& tap : plan.vertical(region, bin)) {
      const int slot = tap.cell & 1;
      T* __restrict row = scratch.rows.get() + slot * width;
      if (row_in[slot] != tap.cell) {
        if (row_in[slot] >= 0) {
          spread_row(plan, region, row, map + row_in[slot] * row_stride);
        }
        std::fill(row, row + width, T(0));
        row_in[slot] = tap.cell;
      }
      for (int64_t i = 0; i < width; ++i) {
        row[i] += tap.weight * grads[i];
      }
    }
  }
  for (int slot = 0; slot < 2; ++slot) {
    if (row_in[slot] >= 0) {
      spread_row(plan, region, scratch.rows.get() + slot * width, map + row_in[slot] * row_stride);
    }
  }
}

}  // namespace labelenc
