// Greedy suppression of boxes sorted by decreasing score, per group, on the GPU.
//
// Two kernels alternate over chunks of rows: the first writes, for every pair (row i, column j > i), one bit that
// says whether box i would remove box j; the second walks over the rows in order and ORs the bits of surviving
// rows into the set of removed boxes. Chunks bound the memory for the bits, and nothing waits for the host.
#include "../iou.h"
#include "../nms_arguments.h"
#include "stream.h"

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

constexpr int kTile = 64;
constexpr int kScanThreads = 1024;
constexpr int64_t kMaxBitBytes = int64_t(256) << 20;
constexpr int64_t kMaxGridRows = 32768;

// One thread per row of a 64 x 64 tile. bits is (rows of the chunk, words); words left of the diagonal stay
// unwritten and are never read.
template <typename T>
__global__ void __launch_bounds__(kTile) overlap_bits(
    const T* __restrict__ boxes, const int64_t* __restrict__ groups, int64_t n, int64_t words, int64_t first_tile,
    T threshold, T offset, unsigned long long* __restrict__ bits) {
  const int64_t row_tile = first_tile + blockIdx.y;
  const int64_t column_tile = blockIdx.x;
  if (column_tile < row_tile) {
    return;
  }
  __shared__ T tile[kTile][5];
  __shared__ int64_t tile_group[kTile];
  const int lane = threadIdx.x;
  const int64_t column = column_tile * kTile + lane;
  if (column < n) {
    const T* box = boxes + 4 * column;
    for (int k = 0; k < 4; ++k) {
      tile[lane][k] = box[k];
    }
    tile[lane][4] = box_area(box[0], box[1], box[2], box[3], offset);
    tile_group[lane] = groups == nullptr ? 0 : groups[column];
  }
  __syncthreads();
  const int64_t row = row_tile * kTile + lane;
  if (row >= n) {
    return;
  }
  const T x0 = boxes[4 * row], y0 = boxes[4 * row + 1], x1 = boxes[4 * row + 2], y1 = boxes[4 * row + 3];
  const T area = box_area(x0, y0, x1, y1, offset);
  const int64_t group = groups == nullptr ? 0 : groups[row];
  const int64_t left = n - column_tile * kTile;
  const int columns = left < kTile ? static_cast<int>(left) : kTile;
  unsigned long long word = 0;
  for (int j = column_tile == row_tile ? lane + 1 : 0; j < columns; ++j) {
    const T* other = tile[j];
    if (tile_group[j] == group &&
        overlaps(x0, y0, x1, y1, area, other[0], other[1], other[2], other[3], other[4], offset, threshold)) {
      word |= 1ULL << j;
    }
  }
  bits[(static_cast<int64_t>(blockIdx.y) * kTile + lane) * words + column_tile] = word;
}

// A single block. removed holds one bit per box and carries over from chunk to chunk.
__global__ void __launch_bounds__(kScanThreads) scan_rows(
    const unsigned long long* __restrict__ bits, int64_t n, int64_t words, int64_t first_tile, int64_t tiles,
    unsigned long long* __restrict__ removed, bool* __restrict__ keep) {
  __shared__ unsigned long long diagonal[kTile];
  __shared__ unsigned long long survivors;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t tile = first_tile + t;
    const unsigned long long* tile_bits = bits + t * kTile * words;
    const int64_t left = n - tile * kTile;
    const int rows = left < kTile ? static_cast<int>(left) : kTile;
    if (threadIdx.x < rows) {
      diagonal[threadIdx.x] = tile_bits[threadIdx.x * words + tile];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long gone = removed[tile];
      unsigned long long found = 0;
      for (int i = 0; i < rows; ++i) {
        if (!(gone >> i & 1)) {
          found |= 1ULL << i;
          gone |= diagonal[i];
        }
      }
      survivors = found;
    }
    __syncthreads();
    const unsigned long long found = survivors;
    if (threadIdx.x < rows) {
      keep[tile * kTile + threadIdx.x] = (found >> threadIdx.x & 1) != 0;
    }
    for (int64_t word = tile + 1 + threadIdx.x; word < words; word += kScanThreads) {
      unsigned long long gone = removed[word];
      for (unsigned long long rest = found; rest != 0; rest &= rest - 1) {
        gone |= tile_bits[(__ffsll(static_cast<long long>(rest)) - 1) * words + word];
      }
      removed[word] = gone;
    }
    __syncthreads();
  }
}

template <typename T>
void run(const Tensor& boxes, const int64_t* groups, double iou_threshold, bool legacy_offset, Tensor& keep) {
  const int64_t n = boxes.size(0);
  const int64_t words = (n + kTile - 1) / kTile;
  const int64_t bytes_per_tile = kTile * words * static_cast<int64_t>(sizeof(int64_t));
  const int64_t tiles_per_chunk =
      std::min({words, kMaxGridRows, std::max<int64_t>(1, kMaxBitBytes / bytes_per_tile)});
  Tensor bits = torch::stable::new_empty(boxes, {tiles_per_chunk * kTile * words}, ScalarType::Long);
  Tensor removed = torch::stable::new_zeros(boxes, {words}, ScalarType::Long);
  auto* bits_data = static_cast<unsigned long long*>(bits.mutable_data_ptr());
  auto* removed_data = static_cast<unsigned long long*>(removed.mutable_data_ptr());
  const cudaStream_t stream = current_stream(boxes.get_device_index());
  for (int64_t first = 0; first < words; first += tiles_per_chunk) {
    const int64_t tiles = std::min(tiles_per_chunk, words - first);
    const dim3 grid(static_cast<unsigned>(words), static_cast<unsigned>(tiles));
    overlap_bits<T><<<grid, kTile, 0, stream>>>(
        static_cast<const T*>(boxes.const_data_ptr()), groups, n, words, first, static_cast<T>(iou_threshold),
        legacy_offset ? T(1) : T(0), bits_data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    scan_rows<<<1, kScanThreads, 0, stream>>>(
        bits_data, n, words, first, tiles, removed_data, static_cast<bool*>(keep.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Tensor nms_sorted(Tensor boxes, std::optional<Tensor> groups, double iou_threshold, bool legacy_offset) {
  check_nms_arguments(boxes, groups);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  Tensor keep = torch::stable::new_empty(boxes, {boxes.size(0)}, ScalarType::Bool);
  if (boxes.size(0) == 0) {
    return keep;
  }
  const Tensor dense = torch::stable::contiguous(boxes);
  std::optional<Tensor> dense_groups;
  if (groups.has_value()) {
    dense_groups = torch::stable::contiguous(*groups);
  }
  const int64_t* group =
      dense_groups.has_value() ? static_cast<const int64_t*>(dense_groups->const_data_ptr()) : nullptr;
  if (boxes.scalar_type() == ScalarType::Float) {
    run<float>(dense, group, iou_threshold, legacy_offset, keep);
  } else {
    run<double>(dense, group, iou_threshold, legacy_offset, keep);
  }
  return keep;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("nms_sorted", TORCH_BOX(&labelenc::nms_sorted));
}
