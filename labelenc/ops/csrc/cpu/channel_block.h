// Blocks of a few channels that lie side by side for every cell, cut out of tensors of any layout.
#pragma once

#include "../host_device.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace labelenc {

// A cache line of float32: work on one cell fills the vector units and touches one line.
constexpr int64_t kBlock = 16;

// Element (row, column) of `from` becomes (column, row) of `to`.
template <typename T>
LABELENC_HOST_DEVICE void transpose(
    const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      to[column * to_stride + row] = from[row * from_stride + column];
    }
  }
}

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)

// Compilers don't find these shuffles on their own.
using Float8 = float __attribute__((vector_size(32), aligned(4), may_alias));

LABELENC_HOST_DEVICE void transpose_8x8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  Float8 row[8], pair[8];
  for (int i = 0; i < 8; ++i) {
    row[i] = *reinterpret_cast<const Float8*>(from + i * from_stride);
  }
  for (int i = 0; i < 8; i += 2) {
    pair[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pair[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = i; j < i + 2; ++j) {
      row[j] = __builtin_shufflevector(pair[j], pair[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      row[j + 2] = __builtin_shufflevector(pair[j], pair[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const Float8 low = __builtin_shufflevector(row[i], row[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    const Float8 high = __builtin_shufflevector(row[i], row[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    *reinterpret_cast<Float8*>(to + i * to_stride) = low;
    *reinterpret_cast<Float8*>(to + (i + 4) * to_stride) = high;
  }
}

// The last squares overlap the ones before them, where sides are no multiples of eight.
LABELENC_HOST_DEVICE void transpose(
    const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  if (rows < 8 || columns < 8) {
    transpose<float>(from, from_stride, rows, columns, to, to_stride);
    return;
  }
  for (int64_t begin = 0; begin < rows; begin += 8) {
    const int64_t row = std::min(begin, rows - 8);
    for (int64_t start = 0; start < columns; start += 8) {
      const int64_t column = std::min(start, columns - 8);
      transpose_8x8(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
    }
  }
}

#endif

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

// At most kBlock neighbours from `data` on to (cells, kBlock); channels that aren't there become 0.
template <typename Storage, typename T>
LABELENC_HOST_DEVICE void pack_cells(
    const MapView<const Storage>& map, const Storage* data, int64_t cells, int64_t channels, T* block) {
  if (channels < kBlock) {
    std::fill(block, block + cells * kBlock, T(0));
  }
  if (map.channel_stride == 1) {
    for (int64_t cell = 0; cell < cells; ++cell) {
      convert(data + cell * map.cell_stride, block + cell * kBlock, channels);
    }
  } else if (map.cell_stride != 1) {
    for (int64_t cell = 0; cell < cells; ++cell) {
      for (int64_t c = 0; c < channels; ++c) {
        block[cell * kBlock + c] = static_cast<T>(data[cell * map.cell_stride + c * map.channel_stride]);
      }
    }
  } else if constexpr (std::is_same_v<Storage, T>) {
    transpose(data, map.channel_stride, channels, cells, block, kBlock);
  } else {
    T rows[kBlock * kBlock];
    for (int64_t c = 0; c < channels; ++c) {
      convert(data + c * map.channel_stride, rows + c * kBlock, cells);
    }
    transpose(rows, kBlock, channels, cells, block, kBlock);
  }
}

// The way back.
template <typename Storage, typename T>
LABELENC_HOST_DEVICE void unpack_cells(
    const MapView<Storage>& map, Storage* data, int64_t cells, int64_t channels, const T* block) {
  if (map.channel_stride == 1) {
    for (int64_t cell = 0; cell < cells; ++cell) {
      convert(block + cell * kBlock, data + cell * map.cell_stride, channels);
    }
  } else if (map.cell_stride != 1) {
    for (int64_t cell = 0; cell < cells; ++cell) {
      for (int64_t c = 0; c < channels; ++c) {
        data[cell * map.cell_stride + c * map.channel_stride] = static_cast<Storage>(block[cell * kBlock + c]);
      }
    }
  } else if constexpr (std::is_same_v<Storage, T>) {
    transpose(block, kBlock, cells, channels, data, map.channel_stride);
  } else {
    T rows[kBlock * kBlock];
    transpose(block, kBlock, cells, channels, rows, kBlock);
    for (int64_t c = 0; c < channels; ++c) {
      convert(rows + c * kBlock, data + c * map.channel_stride, cells);
    }
  }
}

}  // namespace labelenc
