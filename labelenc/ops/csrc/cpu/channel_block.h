// Blocks of a few channels that lie side by side for every cell, cut out of tensors of any layout.
#pragma once

#include "../host_device.h"

#include <algorithm>
#include <cstdint>

namespace labelenc {

// A cache line of float32: work on one cell fills the vector units and touches one line.
constexpr int64_t kBlock = 16;

// Element (row, column) of `from` becomes (column, row) of `to`.
template <typename From, typename To>
LABELENC_HOST_DEVICE void transpose(
    const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to, int64_t to_stride) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      to[column * to_stride + row] = static_cast<To>(from[row * from_stride + column]);
    }
  }
}

template <typename From, typename To>
LABELENC_HOST_DEVICE void convert(const From* from, To* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<To>(from[i]);
  }
}

// One image of a map, its data from a certain channel on.
template <typename Storage>
struct MapView {
  Storage* data;
  int64_t channel_stride, row_stride, cell_stride;
};

// `cells` neighbours from `data` on to (cells, kBlock); channels that aren't there become 0.
template <typename Storage, typename T>
LABELENC_HOST_DEVICE void pack_cells(
    const MapView<const Storage>& map, const Storage* data, int64_t cells, int64_t channels, T* block) {
  if (channels < kBlock) {
    std::fill(block, block + cells * kBlock, T(0));
  }
  if (map.cell_stride == 1) {
    transpose(data, map.channel_stride, channels, cells, block, kBlock);
    return;
  }
  for (int64_t cell = 0; cell < cells; ++cell) {
    for (int64_t c = 0; c < channels; ++c) {
      block[cell * kBlock + c] = static_cast<T>(data[cell * map.cell_stride + c * map.channel_stride]);
    }
  }
}

// The way back.
template <typename Storage, typename T>
LABELENC_HOST_DEVICE void unpack_cells(
    const MapView<Storage>& map, Storage* data, int64_t cells, int64_t channels, const T* block) {
  if (map.cell_stride == 1) {
    transpose(block, kBlock, cells, channels, data, map.channel_stride);
    return;
  }
  for (int64_t cell = 0; cell < cells; ++cell) {
    for (int64_t c = 0; c < channels; ++c) {
      data[cell * map.cell_stride + c * map.channel_stride] = static_cast<Storage>(block[cell * kBlock + c]);
    }
  }
}

}  // namespace labelenc
