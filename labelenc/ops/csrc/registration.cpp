// Schemas of the operations, and a description of the build. No Python headers: not everyone has them installed.
#include <string>

#include <torch/csrc/stable/library.h>

#if defined(_WIN32)
#define LABELENC_EXPORT extern "C" __declspec(dllexport)
#else
#define LABELENC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

STABLE_TORCH_LIBRARY(labelenc, m) {
  m.def("nms_sorted(Tensor boxes, Tensor? groups, float iou_threshold, bool legacy_offset) -> Tensor");
  m.def(
      "multilevel_roi_align(Tensor[] features, Tensor rois, Tensor levels, int bins_high, int bins_wide, "
      "float[] scales, int sampling_ratio) -> Tensor");
  m.def(
      "multilevel_roi_align_backward(Tensor grad, Tensor[] features, Tensor rois, Tensor levels, int bins_high, "
      "int bins_wide, float[] scales, int sampling_ratio) -> Tensor[]");
  m.def("focal_loss(Tensor logits, Tensor targets, float gamma, float alpha, bool total) -> Tensor");
  m.def("focal_loss_backward(Tensor grad, Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor");
  m.def("label_map(Tensor boxes, Tensor slots, Tensor? scales, SymInt count, SymInt height, SymInt width) -> Tensor");
  m.def("deform_columns(Tensor x, Tensor offset, Tensor? mask, Tensor(a!) columns, int first, int[] geometry) -> ()");
  m.def(
      "deform_columns_backward(Tensor x, Tensor offset, Tensor? mask, Tensor(a!) columns, Tensor(b!) grad_x, "
      "Tensor(c!) grad_offset, Tensor(d!)? grad_mask, int first, int[] geometry) -> ()");
}

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown compiler";
#endif
}

}  // namespace

// "PyTorch version|compiler|CUDA architectures", the last empty without CUDA kernels.
LABELENC_EXPORT const char* labelenc_build() {
  static const std::string text =
      std::string(LABELENC_TORCH_VERSION) + "|" + compiler() + "|" + LABELENC_CUDA_ARCHITECTURES;
  return text.c_str();
}
