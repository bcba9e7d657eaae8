// What the kernels of multilevel_roi_align demand of their arguments.
#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "tensor_types.h"

namespace labelenc {

struct RoiAlignSettings {
  int64_t bins_high, bins_wide;
  std::vector<double> scales;
  int64_t sampling_ratio;
};

inline void check_roi_align_arguments(
    const std::vector<Tensor>& features, const Tensor& rois, const Tensor& levels,
    const RoiAlignSettings& settings) {
  STD_TORCH_CHECK(
      !features.empty() && features.size() == settings.scales.size(),
      "multilevel_roi_align: needs one scale for each of one or more levels");
  const auto type = features[0].scalar_type();
  for (const Tensor& feature : features) {
    STD_TORCH_CHECK(
        feature.dim() == 4 && feature.size(2) > 0 && feature.size(3) > 0,
        "multilevel_roi_align: features must be (N, C, H, W) with H, W > 0");
    STD_TORCH_CHECK(
        feature.size(0) == features[0].size(0) && feature.size(1) == features[0].size(1) &&
            feature.scalar_type() == type && same_device(feature, rois),
        "multilevel_roi_align: all levels must have the same images, channels, type and device as the others");
    STD_TORCH_CHECK(
        feature.size(2) <= INT32_MAX / 2 && feature.size(3) <= INT32_MAX / 2, "multilevel_roi_align: map too large");
  }
  STD_TORCH_CHECK(
      rois.dim() == 2 && rois.size(1) == 5 && rois.scalar_type() == accumulation_type(features[0]),
      "multilevel_roi_align: rois must be (K, 5), float64 for features of that type, otherwise float32");
  STD_TORCH_CHECK(
      levels.dim() == 1 && levels.size(0) == rois.size(0) && levels.scalar_type() == ScalarType::Long &&
          same_device(levels, rois),
      "multilevel_roi_align: levels must be (K,) int64 like the rois");
  STD_TORCH_CHECK(
      settings.bins_high > 0 && settings.bins_wide > 0 && settings.sampling_ratio >= 0,
      "multilevel_roi_align: bins must be positive, sampling_ratio at least 0");
}

// Checked arguments; rois and levels dense.
struct RoiAlignCall {
  std::vector<Tensor> features;
  Tensor rois, levels;
  RoiAlignSettings settings;

  RoiAlignCall(
      const std::vector<Tensor>& features, const Tensor& rois, const Tensor& levels, int64_t bins_high,
      int64_t bins_wide, const std::vector<double>& scales, int64_t sampling_ratio)
      : features(features), rois(rois), levels(levels), settings{bins_high, bins_wide, scales, sampling_ratio} {
    check_roi_align_arguments(features, rois, levels, settings);
    this->rois = torch::stable::contiguous(rois);
    this->levels = torch::stable::contiguous(levels);
  }

  Tensor new_result() const {
    return torch::stable::new_empty(
        features[0], {rois.size(0), features[0].size(1), settings.bins_high, settings.bins_wide});
  }

  std::vector<Tensor> new_feature_gradients() const {
    std::vector<Tensor> grads;
    for (const Tensor& feature : features) {
      grads.push_back(torch::stable::empty_like(feature));
    }
    return grads;
  }

  Tensor dense_gradient(const Tensor& grad) const {
    STD_TORCH_CHECK(
        grad.dim() == 4 && grad.size(0) == rois.size(0) && grad.size(1) == features[0].size(1) &&
            grad.size(2) == settings.bins_high && grad.size(3) == settings.bins_wide &&
            grad.scalar_type() == features[0].scalar_type() && same_device(grad, rois),
        "multilevel_roi_align_backward: the gradient must be like the result");
    return torch::stable::contiguous(grad);
  }
};

}  // namespace labelenc
