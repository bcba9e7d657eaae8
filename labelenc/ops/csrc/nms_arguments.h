// What both kernels of nms_sorted demand of their arguments.
#pragma once

#include <optional>

#include "tensor_types.h"

namespace labelenc {

inline void check_nms_arguments(const Tensor& boxes, const std::optional<Tensor>& groups) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "nms_sorted: boxes must be (N, 4)");
  const auto type = boxes.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double, "nms_sorted: boxes must be float32 or float64");
  if (groups.has_value()) {
    STD_TORCH_CHECK(
        groups->dim() == 1 && groups->size(0) == boxes.size(0), "nms_sorted: groups must be (N,) like the boxes");
    STD_TORCH_CHECK(groups->scalar_type() == ScalarType::Long, "nms_sorted: groups must be int64");
    STD_TORCH_CHECK(same_device(*groups, boxes), "nms_sorted: boxes and groups must be on one device");
  }
}

}  // namespace labelenc
