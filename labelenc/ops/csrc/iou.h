// Box overlap, shared by the CPU and the CUDA kernels so that both round alike.
#pragma once

#include "host_device.h"

namespace labelenc {

// A product that no compiler fuses with the following sum: a fused multiply-add rounds once instead of twice,
// and a box right at the threshold would then be judged differently on CPU and GPU. The host files are compiled
// with -ffp-contract=off for the same reason.
LABELENC_HOST_DEVICE float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

LABELENC_HOST_DEVICE double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

template <typename T>
LABELENC_HOST_DEVICE T smaller(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
LABELENC_HOST_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

// offset is 1 where a box includes its last pixel, else 0.
template <typename T>
LABELENC_HOST_DEVICE T box_area(T x0, T y0, T x1, T y1, T offset) {
  return product(x1 - x0 + offset, y1 - y0 + offset);
}

// Whether the intersection over union of boxes a and b is greater than the threshold. A NaN coordinate makes an
// area NaN, hence the ratio NaN, hence the answer false.
template <typename T>
LABELENC_HOST_DEVICE bool overlaps(
    T ax0, T ay0, T ax1, T ay1, T a_area, T bx0, T by0, T bx1, T by1, T b_area, T offset, T threshold) {
  const T width = larger(smaller(ax1, bx1) - larger(ax0, bx0) + offset, T(0));
  const T height = larger(smaller(ay1, by1) - larger(ay0, by0) + offset, T(0));
  const T common = product(width, height);
  return common / (a_area + b_area - common) > threshold;
}

}  // namespace labelenc
