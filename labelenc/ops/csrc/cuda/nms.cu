// Greedy suppression of boxes sorted by decreasing score, per group, on the GPU.
//
// The boxes are taken in chunks, each in three kernels: overlap_bits writes one bit for every pair of the chunk that
// says whether the earlier box would remove the later one; scan_chunk walks over the chunk in order and finds its
// survivors; apply_survivors compares these with all later boxes. So the bits take 32 MiB at most, whatever the
// number of boxes, and nothing waits for the host.
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

using Word = unsigned long long;

constexpr int kTile = 64;
constexpr int kChunkTiles = 256;
constexpr int kScanThreads = 1024;
constexpr int kApplyThreads = 256;

template <typename T>
struct Boxes {
  const T* corners;
  const int64_t* groups;
  int64_t n;
  T threshold, offset;
};

template <typename T>
struct Box {
  T x0, y0, x1, y1, area;
  int64_t group;
};

template <typename T>
__device__ Box<T> load(const Boxes<T>& boxes, int64_t i) {
  const T* c = boxes.corners + 4 * i;
  return {c[0], c[1], c[2], c[3], box_area(c[0], c[1], c[2], c[3], boxes.offset),
          boxes.groups == nullptr ? 0 : boxes.groups[i]};
}

template <typename T>
__device__ bool removes(const Boxes<T>& boxes, const Box<T>& a, const Box<T>& b) {
  return a.group == b.group &&
      overlaps(a.x0, a.y0, a.x1, a.y1, a.area, b.x0, b.y0, b.x1, b.y1, b.area, boxes.offset, boxes.threshold);
}

// One thread per row of a 64 x 64 tile. bits is (rows of the chunk, words); words left of the diagonal and rows of
// boxes that are gone stay unwritten and are never read.
template <typename T>
__global__ void __launch_bounds__(kTile) overlap_bits(
    Boxes<T> boxes, int64_t first_box, int words, const bool* __restrict__ keep, Word* __restrict__ bits) {
  const int row_tile = blockIdx.y, column_tile = blockIdx.x, lane = threadIdx.x;
  if (column_tile < row_tile) {
    return;
  }
  __shared__ Box<T> columns[kTile];
  const int64_t first_column = first_box + static_cast<int64_t>(column_tile) * kTile;
  if (first_column + lane < boxes.n) {
    columns[lane] = load(boxes, first_column + lane);
  }
  __syncthreads();
  const int64_t row = first_box + static_cast<int64_t>(row_tile) * kTile + lane;
  if (row >= boxes.n || !keep[row]) {
    return;
  }
  const Box<T> own = load(boxes, row);
  const int count = static_cast<int>(boxes.n - first_column < kTile ? boxes.n - first_column : kTile);
  Word word = 0;
  for (int j = column_tile == row_tile ? lane + 1 : 0; j < count; ++j) {
    if (removes(boxes, own, columns[j])) {
      word |= Word(1) << j;
    }
  }
  bits[static_cast<int64_t>(row_tile * kTile + lane) * words + column_tile] = word;
}

// Survivors of one tile: `gone` are the boxes removed before, diagonal[i] those that box i of the tile removes in it.
__device__ Word tile_survivors(const Word* diagonal, Word gone) {
  Word found = 0;
  for (Word left = ~gone; left != 0;) {
    const int i = __ffsll(static_cast<long long>(left)) - 1;
    found |= Word(1) << i;
    left &= ~(diagonal[i] | Word(1) << i);
  }
  return found;
}

// A single block. Turns keep of the chunk's boxes final and lists the survivors: their number, then where they are.
__global__ void __launch_bounds__(kScanThreads) scan_chunk(
    const Word* __restrict__ bits, int64_t n, int64_t first_box, int words, bool* __restrict__ keep,
    int64_t* __restrict__ survivors) {
  __shared__ Word gone[kChunkTiles], diagonal[kTile], found;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t end = n - first_box < int64_t(words) * kTile ? n - first_box : int64_t(words) * kTile;
  for (int word = threadIdx.x; word < words; word += kScanThreads) {
    Word removed = 0;
    for (int i = 0; i < kTile; ++i) {
      const int64_t box = int64_t(word) * kTile + i;
      removed |= Word(box >= end || !keep[first_box + box]) << i;
    }
    gone[word] = removed;
  }
  int64_t listed = 0;
  for (int tile = 0; tile < words; ++tile) {
    __syncthreads();
    const Word* rows = bits + static_cast<int64_t>(tile) * kTile * words;
    if (threadIdx.x < kTile) {
      diagonal[threadIdx.x] = gone[tile] >> threadIdx.x & 1 ? 0 : rows[threadIdx.x * words + tile];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      found = tile_survivors(diagonal, gone[tile]);
    }
    __syncthreads();
    const Word alive = found;
    if (threadIdx.x < kTile) {
      const int64_t box = int64_t(tile) * kTile + threadIdx.x;
      const bool survives = alive >> threadIdx.x & 1;
      if (box < end) {
        keep[first_box + box] = survives;
      }
      if (survives) {
        survivors[1 + listed + __popcll(alive & ((Word(1) << threadIdx.x) - 1))] = first_box + box;
      }
    }
    listed += __popcll(alive);
    // Each warp has two rows of the tile, each of its lanes every 32nd word of them.
    const bool has_first = alive >> warp & 1, has_second = alive >> (warp + 32) & 1;
    if (has_first || has_second) {
#pragma unroll 4
      for (int word = tile + 1 + lane; word < words; word += 32) {
        const Word removed =
            (has_first ? rows[warp * words + word] : 0) | (has_second ? rows[(warp + 32) * words + word] : 0);
        if (removed != 0) {
          atomicOr(&gone[word], removed);
        }
      }
    }
  }
  if (threadIdx.x == 0) {
    survivors[0] = listed;
  }
}

// One thread for each box behind the chunk.
template <typename T>
__global__ void __launch_bounds__(kApplyThreads) apply_survivors(
    Boxes<T> boxes, int64_t first_box, const int64_t* __restrict__ survivors, bool* __restrict__ keep) {
  __shared__ Box<T> better[kApplyThreads];
  const int64_t i = first_box + int64_t(blockIdx.x) * kApplyThreads + threadIdx.x;
  bool alive = i < boxes.n && keep[i];
  const bool was_alive = alive;
  const Box<T> own = alive ? load(boxes, i) : Box<T>{};
  const int64_t count = survivors[0];
  for (int64_t begin = 0; begin < count && __syncthreads_or(alive); begin += kApplyThreads) {
    const int part = static_cast<int>(count - begin < kApplyThreads ? count - begin : kApplyThreads);
    if (threadIdx.x < part) {
      better[threadIdx.x] = load(boxes, survivors[1 + begin + threadIdx.x]);
    }
    __syncthreads();
    for (int k = 0; k < part && alive; ++k) {
      alive = !removes(boxes, better[k], own);
    }
  }
  if (was_alive && !alive) {
    keep[i] = false;
  }
}

template <typename T>
void run(const Boxes<T>& boxes, const Tensor& like, Tensor& keep) {
  constexpr int64_t kChunk = int64_t(kChunkTiles) * kTile;
  const int64_t most_words = (std::min(boxes.n, kChunk) + kTile - 1) / kTile;
  Tensor bits = torch::stable::new_empty(like, {most_words * most_words * kTile}, ScalarType::Long);
  Tensor survivors = torch::stable::new_empty(like, {1 + most_words * kTile}, ScalarType::Long);
  auto* bit_words = static_cast<Word*>(bits.mutable_data_ptr());
  auto* list = static_cast<int64_t*>(survivors.mutable_data_ptr());
  auto* kept = static_cast<bool*>(keep.mutable_data_ptr());
  const cudaStream_t stream = current_stream(like.get_device_index());
  STD_CUDA_CHECK(cudaMemsetAsync(kept, 1, boxes.n, stream));
  for (int64_t first = 0; first < boxes.n; first += kChunk) {
    const int64_t left = boxes.n - first;
    const int words = static_cast<int>((std::min(left, kChunk) + kTile - 1) / kTile);
    overlap_bits<T><<<dim3(words, words), kTile, 0, stream>>>(boxes, first, words, kept, bit_words);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    scan_chunk<<<1, kScanThreads, 0, stream>>>(bit_words, boxes.n, first, words, kept, list);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (left > kChunk) {
      const int64_t blocks = (left - kChunk + kApplyThreads - 1) / kApplyThreads;
      apply_survivors<T><<<static_cast<unsigned>(blocks), kApplyThreads, 0, stream>>>(
          boxes, first + kChunk, list, kept);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
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
  auto start = [&](auto zero) {
    using T = decltype(zero);
    const Boxes<T> all{
        static_cast<const T*>(dense.const_data_ptr()), group, boxes.size(0), static_cast<T>(iou_threshold),
        legacy_offset ? T(1) : T(0)};
    run(all, boxes, keep);
  };
  if (boxes.scalar_type() == ScalarType::Float) {
    start(0.0f);
  } else {
    start(0.0);
  }
  return keep;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CUDA, m) {
  m.impl("nms_sorted", TORCH_BOX(&labelenc::nms_sorted));
}
