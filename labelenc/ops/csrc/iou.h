// Box overlap, shared by the CPU and the CUDA kernels so that both round alike.
#pragma once

#include "arithmetic.h"

namespace labelenc {

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
