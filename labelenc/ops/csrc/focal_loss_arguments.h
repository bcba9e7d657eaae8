// What all kernels of focal_loss and focal_loss_backward demand of their arguments.
#pragma once

#include "tensor_types.h"

namespace labelenc {

inline void check_focal_loss_arguments(const Tensor& logits, const Tensor& targets) {
  STD_TORCH_CHECK(logits.dim() == 2, "focal_loss: logits must be (N, C)");
  STD_TORCH_CHECK(
      targets.dim() == 1 && targets.size(0) == logits.size(0), "focal_loss: targets must be (N,) like the logits");
  STD_TORCH_CHECK(targets.scalar_type() == ScalarType::Long, "focal_loss: targets must be int64");
  STD_TORCH_CHECK(same_device(targets, logits), "focal_loss: logits and targets must be on one device");
}

// Whether grad is one number for all elements, as after a sum; it is (), or (N, C) and possibly expanded.
inline bool is_one_number(const Tensor& grad) {
  for (int64_t d = 0; d < grad.dim(); ++d) {
    if (grad.stride(d) != 0) {
      return false;
    }
  }
  return true;
}

inline void check_focal_loss_grad(const Tensor& grad, const Tensor& logits) {
  STD_TORCH_CHECK(
      grad.dim() == 0 || (grad.dim() == 2 && grad.size(0) == logits.size(0) && grad.size(1) == logits.size(1)),
      "focal_loss_backward: grad must be a number or (N, C) like the logits");
  STD_TORCH_CHECK(
      grad.scalar_type() == accumulation_type(logits), "focal_loss_backward: grad must have the type of the loss");
  STD_TORCH_CHECK(same_device(grad, logits), "focal_loss_backward: grad and logits must be on one device");
}

}  // namespace labelenc
