// Boxes drawn as pixelwise maxima into one map per slot, on the CPU.
//
// Only pixels inside boxes are touched once the maps are cleared, each from two profiles: the box's values along x,
// computed once per band of rows, and one value along y per row.
#include "../label_map.h"
#include "../label_map_arguments.h"
#include "clones.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

constexpr int64_t kBandRows = 32;
constexpr int64_t kPixelsPerThread = 1 << 18;

struct Drawing {
  BoxAxis x, y;
  float factor;
};

// Drawings ordered by slot, and where those of each slot begin.
struct Slots {
  std::vector<Drawing> drawings;
  std::vector<int64_t> begins;
};

Slots by_slot(
    const float* boxes, const int64_t* slots, const float* scales, int64_t n, int64_t count, int64_t height,
    int64_t width) {
  Slots result;
  result.begins.assign(count + 1, 0);
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(slots[i] >= 0 && slots[i] < count, "label_map: a slot is outside 0..count-1");
    ++result.begins[slots[i] + 1];
  }
  for (int64_t slot = 0; slot < count; ++slot) {
    result.begins[slot + 1] += result.begins[slot];
  }
  std::vector<int64_t> next(result.begins.begin(), result.begins.end());
  result.drawings.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    const float* box = boxes + 4 * i;
    result.drawings[next[slots[i]]++] = {
        box_axis(box[0], box[2], width), box_axis(box[1], box[3], height), scales == nullptr ? 1.0f : scales[i]};
  }
  return result;
}

LABELENC_CLONES void fill_profile(const BoxAxis& axis, float factor, float* profile) {
  const int32_t n = static_cast<int32_t>(axis.last - axis.first);
  const float first = static_cast<float>(axis.first), centre = axis.centre, extent = axis.extent;
  for (int32_t i = 0; i < n; ++i) {
    profile[i] = label_map_value(first + static_cast<float>(i), centre, extent) * factor;
  }
}

LABELENC_CLONES void raise_row(float* __restrict row, const float* __restrict profile, int64_t n, float limit) {
  for (int64_t i = 0; i < n; ++i) {
    const float value = profile[i] < limit ? profile[i] : limit;
    row[i] = value > row[i] ? value : row[i];
  }
}

void draw(const Drawing& d, int64_t first_row, int64_t last_row, int64_t width, float* map, float* profile) {
  const int64_t first = std::max(d.y.first, first_row), last = std::min(d.y.last, last_row);
  const int64_t pixels = d.x.last - d.x.first;
  if (first >= last || pixels <= 0) {
    return;
  }
  fill_profile(d.x, d.factor, profile);
  for (int64_t y = first; y < last; ++y) {
    const float limit = label_map_value(static_cast<float>(y), d.y.centre, d.y.extent) * d.factor;
    if (limit > 0.0f) {
      raise_row(map + y * width + d.x.first, profile, pixels, limit);
    }
  }
}

void run(const Slots& slots, int64_t count, int64_t height, int64_t width, float* out) {
  const int64_t bands = (height + kBandRows - 1) / kBandRows;
  const int64_t grain = std::max<int64_t>(1, kPixelsPerThread / std::max<int64_t>(1, kBandRows * width));
  torch::stable::parallel_for(0, count * bands, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> profile(width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / bands, first_row = i % bands * kBandRows;
      const int64_t last_row = std::min(first_row + kBandRows, height);
      float* map = out + slot * height * width;
      for (int64_t k = slots.begins[slot]; k < slots.begins[slot + 1]; ++k) {
        draw(slots.drawings[k], first_row, last_row, width, map, profile.data());
      }
    }
  });
}

Tensor label_map(
    Tensor boxes, Tensor slots, std::optional<Tensor> scales, int64_t count, int64_t height, int64_t width) {
  check_label_map_arguments(boxes, slots, scales, count, height, width);
  const Tensor dense = torch::stable::contiguous(boxes), dense_slots = torch::stable::contiguous(slots);
  std::optional<Tensor> dense_scales;
  if (scales.has_value()) {
    dense_scales = torch::stable::contiguous(*scales);
  }
  Tensor out = torch::stable::new_zeros(boxes, {count, height, width});
  const Slots sorted = by_slot(
      static_cast<const float*>(dense.const_data_ptr()), static_cast<const int64_t*>(dense_slots.const_data_ptr()),
      dense_scales.has_value() ? static_cast<const float*>(dense_scales->const_data_ptr()) : nullptr, boxes.size(0),
      count, height, width);
  run(sorted, count, height, width, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CPU, m) {
  m.impl("label_map", TORCH_BOX(&labelenc::label_map));
}
