// Where the taps of a deformable convolution read the image; shared by the CPU and the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace labelenc {

// Sizes of one call. Positions of the output count over the images, row by row.
struct DeformShape {
  int64_t images, height, width, channels;
  int64_t out_height, out_width;
  int64_t taps, kernel_width, groups, deformable_groups;
  int64_t stride[2], padding[2], dilation[2];

  LABELENC_HOST_DEVICE int64_t positions() const { return out_height * out_width; }
};

// A tensor (image, channel, row, column) of any strides: offsets, masks and their gradients.
template <typename A>
struct Field {
  A* data;
  int64_t image, channel, row, column;

  LABELENC_HOST_DEVICE A& at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return data[n * image + c * channel + y * row + x * column];
  }
};

// A point between the cells (top, left) and (top + 1, left + 1), which may lie off the map, and its distance
// from the former. Of a point further off no cell is on the map.
template <typename A>
struct Sample {
  int32_t top, left;
  A down, right;

  LABELENC_HOST_DEVICE bool on_map(int corner, int64_t height, int64_t width) const {
    const int32_t y = top + corner / 2, x = left + corner % 2;
    return y >= 0 && y < height && x >= 0 && x < width;
  }

  LABELENC_HOST_DEVICE A share(int corner) const {
    return (corner / 2 ? down : 1 - down) * (corner % 2 ? right : 1 - right);
  }
};

// Of a position that is not a number neither are the shares, and so what is computed with them.
template <typename A>
LABELENC_HOST_DEVICE Sample<A> sample_at(A y, A x, int64_t height, int64_t width) {
  if (y > -1 && y < height && x > -1 && x < width) {
    const A top = std::floor(y), left = std::floor(x);
    return {static_cast<int32_t>(top), static_cast<int32_t>(left), y - top, x - left};
  }
  const A distance = y != y || x != x ? static_cast<A>(NAN) : A(0);
  return {-2, -2, distance, distance};
}

// The tap (ky, kx) at output position (oy, ox) of image n. Its dy is in the given channel, its dx in the next.
template <typename A>
LABELENC_HOST_DEVICE Sample<A> deformed_sample(
    const DeformShape& shape, const Field<const A>& offset, int64_t n, int64_t oy, int64_t ox, int64_t ky,
    int64_t kx, int64_t channel) {
  const int64_t y = oy * shape.stride[0] - shape.padding[0] + ky * shape.dilation[0];
  const int64_t x = ox * shape.stride[1] - shape.padding[1] + kx * shape.dilation[1];
  return sample_at(
      static_cast<A>(y) + offset.at(n, channel, oy, ox), static_cast<A>(x) + offset.at(n, channel + 1, oy, ox),
      shape.height, shape.width);
}

// Derivatives of a loss to the vertical and horizontal place of a sample and to its factor. dots are the sums
// over channels of gradient times image at the four corners.
template <typename A>
struct FieldGrads {
  A y, x, factor;
};

template <typename A>
LABELENC_HOST_DEVICE FieldGrads<A> field_grads(const Sample<A>& at, A factor, const A (&dots)[4]) {
  return {
      factor * ((1 - at.right) * (dots[2] - dots[0]) + at.right * (dots[3] - dots[1])),
      factor * ((1 - at.down) * (dots[1] - dots[0]) + at.down * (dots[3] - dots[2])),
      at.share(0) * dots[0] + at.share(1) * dots[1] + at.share(2) * dots[2] + at.share(3) * dots[3]};
}

}  // namespace labelenc
