// Matrices transposed on the GPU, many at once: channels before cells to channels after them, and back.
#pragma once

#include <cstdint>

namespace labelenc {

constexpr int kSide = 32;
constexpr int kSideRows = 8;

// (batches, rows, columns) to (batches, columns, rows); one block of kSide x kSideRows threads per square.
template <typename Storage>
__global__ void __launch_bounds__(kSide* kSideRows)
    transpose_squares(const Storage* __restrict__ from, int64_t rows, int64_t columns, Storage* __restrict__ to) {
  __shared__ Storage square[kSide][kSide + 1];
  const int64_t wide = (columns + kSide - 1) / kSide;
  const int64_t high = (rows + kSide - 1) / kSide;
  const int64_t number = blockIdx.x;
  const int64_t batch = number / (wide * high);
  const int64_t row = number / wide % high * kSide;
  const int64_t column = number % wide * kSide;
  from += batch * rows * columns;
  to += batch * rows * columns;
  for (int y = threadIdx.y; y < kSide; y += kSideRows) {
    if (row + y < rows && column + threadIdx.x < columns) {
      square[y][threadIdx.x] = from[(row + y) * columns + column + threadIdx.x];
    }
  }
  __syncthreads();
  for (int y = threadIdx.y; y < kSide; y += kSideRows) {
    if (column + y < columns && row + threadIdx.x < rows) {
      to[(column + y) * rows + row + threadIdx.x] = square[threadIdx.x][y];
    }
  }
}

inline int64_t squares(int64_t batches, int64_t rows, int64_t columns) {
  return batches * ((rows + kSide - 1) / kSide) * ((columns + kSide - 1) / kSide);
}

}  // namespace labelenc
