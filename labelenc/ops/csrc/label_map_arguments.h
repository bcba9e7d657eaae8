// What both kernels of label_map demand of their arguments.
#pragma once

#include <optional>

#include "tensor_types.h"

namespace labelenc {

inline void check_label_map_arguments(
    const Tensor& boxes, const Tensor& slots, const std::optional<Tensor>& scales, int64_t count, int64_t height,
    int64_t width) {
  const auto fits = [&](const Tensor& t, ScalarType type) {
    return t.dim() == 1 && t.size(0) == boxes.size(0) && t.scalar_type() == type && same_device(t, boxes);
  };
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.scalar_type() == ScalarType::Float,
      "label_map: boxes must be float32 (K, 4)");
  STD_TORCH_CHECK(fits(slots, ScalarType::Long), "label_map: slots must be int64 (K,) on the device of the boxes");
  STD_TORCH_CHECK(
      !scales.has_value() || fits(*scales, ScalarType::Float),
      "label_map: scales must be float32 (K,) on the device of the boxes");
  STD_TORCH_CHECK(count >= 0 && height >= 0 && width >= 0, "label_map: sizes must not be negative");
}

}  // namespace labelenc
