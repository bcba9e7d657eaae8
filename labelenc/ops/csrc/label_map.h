// What a box draws into its label map, shared by the CPU and the CUDA kernels so that both round alike.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace labelenc {

// 1 in the middle of the box, 0.5 at its border, 0 outside. A pixel's value is the smaller one of both axes:
// 1 - max(a, b) is min(1 - a, 1 - b), also after rounding.
LABELENC_HOST_DEVICE float label_map_value(float position, float centre, float extent) {
  const float value = 1.0f - fabsf(position - centre) / extent;
  return value >= 0.5f ? value : 0.0f;
}

// Along one axis: centre, size, and the pixels [first, last) that may be in the box.
struct BoxAxis {
  float centre, extent;
  int64_t first, last;
};

LABELENC_HOST_DEVICE int64_t pixel_between(float position, int64_t size) {
  return position < 0.0f ? 0 : position > static_cast<float>(size) ? size : static_cast<int64_t>(position);
}

// No pixels where the box has no size or one that is not finite.
LABELENC_HOST_DEVICE BoxAxis box_axis(float low, float high, int64_t size) {
  const float extent = high - low;
  if (!(extent > 0.0f && extent < INFINITY)) {
    return {0.0f, 1.0f, 0, 0};
  }
  return {(low + high) / 2.0f, extent, pixel_between(floorf(low), size), pixel_between(ceilf(high) + 1.0f, size)};
}

}  // namespace labelenc
