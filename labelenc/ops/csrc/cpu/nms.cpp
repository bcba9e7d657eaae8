// Greedy suppression of boxes sorted by decreasing score, per group, on the CPU.
//
// The boxes of a group are taken in blocks. Inside a block survivors are found one after the other; then all of
// the block's survivors are applied to the later boxes, which vectorises over the later boxes and splits over
// threads. Boxes that are gone are squeezed out when they are the majority. Many boxes that mostly lie apart go
// through a grid instead.
#include "../iou.h"
#include "../nms_arguments.h"
#include "clones.h"
#include "nms_grid.h"
#include "nms_groups.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kLanes = 32;
// Work worth waking a thread for, half a millisecond: on a busy machine the wait for it can cost far more.
constexpr int64_t kPairsPerThread = 1 << 21;
// Comparing a pair through the grid costs several times as much, but leaves most pairs out.
constexpr int64_t kGridFrom = 2048;
constexpr double kGridShare = 0.1;
constexpr double kGridThreshold = 0.1;

// Coordinates by column, padded with boxes that overlap nothing to a whole number of lanes.
template <typename T>
struct Columns {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  std::vector<T> x0, y0, x1, y1, area;
  std::vector<Flag> removed;
  std::vector<int64_t> position;
  int64_t count = 0;

  explicit Columns(int64_t capacity) {
    const int64_t padded = (capacity + kLanes - 1) / kLanes * kLanes;
    for (auto* column : {&x0, &y0, &x1, &y1, &area}) {
      column->resize(padded);
    }
    removed.resize(padded);
    position.resize(padded);
  }

  void push(const T* box, int64_t box_position, T offset) {
    x0[count] = box[0];
    y0[count] = box[1];
    x1[count] = box[2];
    y1[count] = box[3];
    area[count] = box_area(box[0], box[1], box[2], box[3], offset);
    removed[count] = 0;
    position[count++] = box_position;
  }

  void copy_within(int64_t from, int64_t to) {
    x0[to] = x0[from];
    y0[to] = y0[from];
    x1[to] = x1[from];
    y1[to] = y1[from];
    area[to] = area[from];
    removed[to] = removed[from];
    position[to] = position[from];
  }

  void pad() {
    for (int64_t i = count; i < static_cast<int64_t>(removed.size()) && i % kLanes != 0; ++i) {
      x0[i] = y0[i] = x1[i] = y1[i] = area[i] = std::numeric_limits<T>::quiet_NaN();
      removed[i] = 1;
    }
  }
};

// Plain pointers, because a compiler can't prove that vectors don't change behind its back.
template <typename T>
struct View {
  const T *x0, *y0, *x1, *y1, *area;
  typename Columns<T>::Flag* removed;

  explicit View(Columns<T>& c)
      : x0(c.x0.data()), y0(c.y0.data()), x1(c.x1.data()), y1(c.y1.data()), area(c.area.data()),
        removed(c.removed.data()) {}
};

template <typename T>
LABELENC_HOST_DEVICE void remove_overlapping(
    const View<T>& v, int64_t i, int64_t begin, int64_t end, T offset, T threshold) {
  const T x0 = v.x0[i], y0 = v.y0[i], x1 = v.x1[i], y1 = v.y1[i], area = v.area[i];
  const T *bx0 = v.x0, *by0 = v.y0, *bx1 = v.x1, *by1 = v.y1, *b_area = v.area;
  auto* __restrict removed = v.removed;
  for (int64_t j = begin; j < end; ++j) {
    removed[j] |= overlaps(x0, y0, x1, y1, area, bx0[j], by0[j], bx1[j], by1[j], b_area[j], offset, threshold);
  }
}

template <typename T>
LABELENC_HOST_DEVICE int64_t survivors_of_block(
    const View<T>& v, int64_t begin, int64_t end, T offset, T threshold, int64_t* survivors) {
  int64_t found = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (v.removed[i]) {
      continue;
    }
    survivors[found++] = i;
    remove_overlapping(v, i, i + 1, end, offset, threshold);
  }
  return found;
}

template <typename T>
LABELENC_HOST_DEVICE bool all_removed(const View<T>& v, int64_t begin) {
  typename Columns<T>::Flag all = 1;
  for (int64_t j = begin; j < begin + kLanes; ++j) {
    all &= v.removed[j];
  }
  return all != 0;
}

template <typename T>
LABELENC_HOST_DEVICE void apply_survivors(
    const View<T>& v, const int64_t* survivors, int64_t found, int64_t begin, int64_t end, T offset, T threshold) {
  for (int64_t lanes = begin; lanes < end; lanes += kLanes) {
    for (int64_t k = 0; k < found; ++k) {
      if (k % 16 == 0 && all_removed(v, lanes)) {
        break;
      }
      remove_overlapping(v, survivors[k], lanes, lanes + kLanes, offset, threshold);
    }
  }
}

// Function versions can't be templates, hence the pairs.
LABELENC_CLONES int64_t survivors_in(
    const View<float>& v, int64_t begin, int64_t end, float offset, float threshold, int64_t* survivors) {
  return survivors_of_block(v, begin, end, offset, threshold, survivors);
}

LABELENC_CLONES int64_t survivors_in(
    const View<double>& v, int64_t begin, int64_t end, double offset, double threshold, int64_t* survivors) {
  return survivors_of_block(v, begin, end, offset, threshold, survivors);
}

LABELENC_CLONES void apply(
    const View<float>& v, const int64_t* survivors, int64_t found, int64_t begin, int64_t end, float offset,
    float threshold) {
  apply_survivors(v, survivors, found, begin, end, offset, threshold);
}

LABELENC_CLONES void apply(
    const View<double>& v, const int64_t* survivors, int64_t found, int64_t begin, int64_t end, double offset,
    double threshold) {
  apply_survivors(v, survivors, found, begin, end, offset, threshold);
}

// Squeezes removed boxes out of [begin, count) when they are the majority there.
template <typename T>
void squeeze(Columns<T>& c, int64_t begin) {
  const auto gone = std::count_if(
      c.removed.begin() + begin, c.removed.begin() + c.count, [](auto flag) { return flag != 0; });
  if (2 * gone <= c.count - begin) {
    return;
  }
  int64_t to = begin;
  for (int64_t from = begin; from < c.count; ++from) {
    if (!c.removed[from]) {
      c.copy_within(from, to++);
    }
  }
  c.count = to;
  c.pad();
}

// False where the grid would not help.
template <typename T>
bool suppress_in_grid(const Columns<T>& c, T offset, T threshold, bool* keep) {
  const int64_t n = c.count;
  if (n < kGridFrom || n > (1 << 30) || !(threshold >= kGridThreshold)) {
    return false;
  }
  const BoxGrid<T> grid({c.x0.data(), c.y0.data(), c.x1.data(), c.y1.data(), c.area.data()}, n, offset, threshold);
  if (grid.share_near() > kGridShare) {
    return false;
  }
  grid.for_survivors([&](int64_t i) { keep[c.position[i]] = true; });
  return true;
}

template <typename T>
void suppress(Columns<T>& c, T offset, T threshold, bool* keep) {
  if (suppress_in_grid(c, offset, threshold, keep)) {
    return;
  }
  c.pad();
  int64_t survivors[kBlock];
  for (int64_t begin = 0; begin < c.count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, c.count);
    const View<T> view(c);
    const int64_t found = survivors_in(view, begin, end, offset, threshold, survivors);
    for (int64_t k = 0; k < found; ++k) {
      keep[c.position[survivors[k]]] = true;
    }
    if (end == c.count) {
      return;
    }
    const int64_t lane_groups = (c.count - end + kLanes - 1) / kLanes;
    const int64_t grain = std::max<int64_t>(1, kPairsPerThread / (kLanes * std::max<int64_t>(found, 1)));
    torch::stable::parallel_for(0, lane_groups, grain, [&](int64_t first, int64_t last) {
      apply(view, survivors, found, end + first * kLanes, end + last * kLanes, offset, threshold);
    });
    squeeze(c, end);
  }
}

template <typename T>
void run(
    const T* boxes, const int64_t* groups, int64_t n, double iou_threshold, bool legacy_offset, bool* keep) {
  const T offset = legacy_offset ? T(1) : T(0);
  const T threshold = static_cast<T>(iou_threshold);
  if (groups == nullptr) {
    Columns<T> columns(n);
    for (int64_t i = 0; i < n; ++i) {
      columns.push(boxes + 4 * i, i, offset);
    }
    suppress(columns, offset, threshold, keep);
    return;
  }
  const Grouping grouping = group_positions(groups, n);
  const int64_t count = static_cast<int64_t>(grouping.begins.size()) - 1;
  double pairs = 0;
  for (int64_t g = 0; g < count; ++g) {
    const double size = static_cast<double>(grouping.begins[g + 1] - grouping.begins[g]);
    pairs += size * size / 2;
  }
  const int64_t shares = 1 + static_cast<int64_t>(pairs / kPairsPerThread);
  const int64_t grain = (count + shares - 1) / shares;
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      Columns<T> columns(grouping.begins[g + 1] - grouping.begins[g]);
      for (int64_t i = grouping.begins[g]; i < grouping.begins[g + 1]; ++i) {
        columns.push(boxes + 4 * grouping.positions[i], grouping.positions[i], offset);
      }
      suppress(columns, offset, threshold, keep);
    }
  });
}

Tensor nms_sorted(Tensor boxes, std::optional<Tensor> groups, double iou_threshold, bool legacy_offset) {
  check_nms_arguments(boxes, groups);
  const int64_t n = boxes.size(0);
  Tensor keep = torch::stable::new_zeros(boxes, {n}, ScalarType::Bool);
  if (n == 0) {
    return keep;
  }
  const Tensor dense = torch::stable::contiguous(boxes);
  std::optional<Tensor> dense_groups;
  if (groups.has_value()) {
    dense_groups = torch::stable::contiguous(*groups);
  }
  const int64_t* group =
      dense_groups.has_value() ? static_cast<const int64_t*>(dense_groups->const_data_ptr()) : nullptr;
  bool* out = static_cast<bool*>(keep.mutable_data_ptr());
  if (boxes.scalar_type() == ScalarType::Float) {
    run(static_cast<const float*>(dense.const_data_ptr()), group, n, iou_threshold, legacy_offset, out);
  } else {
    run(static_cast<const double*>(dense.const_data_ptr()), group, n, iou_threshold, legacy_offset, out);
  }
  return keep;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CPU, m) {
  m.impl("nms_sorted", TORCH_BOX(&labelenc::nms_sorted));
}
