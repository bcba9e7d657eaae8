// The loops over channels of a deformable convolution: four rows of an image, one row of columns.
#pragma once

#include <cstdint>

#include "../deform_sample.h"

namespace labelenc {

// Rows of the four corners, from a channel on.
template <typename T, typename A>
LABELENC_HOST_DEVICE void corner_rows(
    const DeformShape& shape, const Sample<A>& at, T* map, T* off_map, T* (&rows)[4]) {
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t cell = (at.top + corner / 2) * shape.width + at.left + corner % 2;
    rows[corner] = at.on_map(corner, shape.height, shape.width) ? map + cell * shape.channels : off_map;
  }
}

template <typename T, typename A>
LABELENC_HOST_DEVICE void interpolate(
    const T* const (&rows)[4], const A (&shares)[4], int64_t begin, int64_t end, T* __restrict out) {
  const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const A sa = shares[0], sb = shares[1], sc = shares[2], sd = shares[3];
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    out[i - begin] = static_cast<T>(
        sa * static_cast<A>(a[i]) + sb * static_cast<A>(b[i]) + sc * static_cast<A>(c[i]) + sd * static_cast<A>(d[i]));
  }
}

// In: gradients of columns in column. Out: the columns themselves there, gradients added to grads and dots.
template <typename T, typename A>
LABELENC_HOST_DEVICE void spread(
    const T* const (&rows)[4], A* const (&grads)[4], const A (&shares)[4], int64_t begin, int64_t end,
    T* __restrict column, A (&dots)[4]) {
  const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  A *ga = grads[0], *gb = grads[1], *gc = grads[2], *gd = grads[3];
  const A sa = shares[0], sb = shares[1], sc = shares[2], sd = shares[3];
  A da = 0, db = 0, dc = 0, dd = 0;
#pragma omp simd reduction(+ : da, db, dc, dd)
  for (int64_t i = begin; i < end; ++i) {
    const A g = static_cast<A>(column[i - begin]);
    const A va = static_cast<A>(a[i]), vb = static_cast<A>(b[i]), vc = static_cast<A>(c[i]), vd = static_cast<A>(d[i]);
    da += g * va;
    db += g * vb;
    dc += g * vc;
    dd += g * vd;
    column[i - begin] = static_cast<T>(sa * va + sb * vb + sc * vc + sd * vd);
    ga[i] += sa * g;
    gb[i] += sb * g;
    gc[i] += sc * g;
    gd[i] += sd * g;
  }
  dots[0] += da;
  dots[1] += db;
  dots[2] += dc;
  dots[3] += dd;
}

}  // namespace labelenc
