// Arguments of deform_columns and deform_columns_backward, checked and unpacked for the kernels.
//
// x is (N, H, W, C) and dense. columns is dense too, (rows, groups, taps, C / groups), and belongs to the
// positions from first on. geometry is {kernel width, deformable groups, then vertical and horizontal stride,
// padding, dilation}.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "deform_sample.h"
#include "tensor_types.h"

namespace labelenc {

template <typename A>
Field<A> field(const Tensor& t) {
  A* data;
  if constexpr (std::is_const_v<A>) {
    data = static_cast<A*>(t.const_data_ptr());
  } else {
    data = static_cast<A*>(t.mutable_data_ptr());
  }
  return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// Without a tensor the field is empty: data is null.
template <typename A>
Field<A> field(const std::optional<Tensor>& t) {
  return t.has_value() ? field<A>(*t) : Field<A>{nullptr, 0, 0, 0, 0};
}

inline void check_field(const Tensor& field, const Tensor& x, const DeformShape& shape, int64_t channels) {
  STD_TORCH_CHECK(
      field.dim() == 4 && field.size(0) == shape.images && field.size(1) == channels &&
          field.size(2) == shape.out_height && field.size(3) == shape.out_width,
      "deform_columns: offset and mask must fit x, kernel and deformable groups");
  STD_TORCH_CHECK(
      field.scalar_type() == accumulation_type(x) && same_device(field, x),
      "deform_columns: offset and mask must be float32 (float64 for x in float64) and where x is");
}

inline DeformShape deform_shape(
    const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& columns, int64_t first,
    const std::vector<int64_t>& geometry) {
  STD_TORCH_CHECK(x.dim() == 4 && x.is_contiguous(), "deform_columns: x must be dense (N, H, W, C)");
  STD_TORCH_CHECK(offset.dim() == 4, "deform_columns: offset must have four dimensions");
  STD_TORCH_CHECK(columns.dim() == 4 && columns.is_contiguous(), "deform_columns: columns must be dense, 4-d");
  STD_TORCH_CHECK(
      columns.scalar_type() == x.scalar_type() && same_device(columns, x),
      "deform_columns: columns must have the type of x and be where x is");
  STD_TORCH_CHECK(geometry.size() == 8, "deform_columns: geometry must have eight numbers");
  const DeformShape shape{
      x.size(0), x.size(1), x.size(2), x.size(3), offset.size(2), offset.size(3), columns.size(2), geometry[0],
      columns.size(1), geometry[1], {geometry[2], geometry[3]}, {geometry[4], geometry[5]},
      {geometry[6], geometry[7]}};
  STD_TORCH_CHECK(
      shape.groups * columns.size(3) == shape.channels && shape.deformable_groups > 0 &&
          shape.channels % shape.deformable_groups == 0 && shape.kernel_width > 0,
      "deform_columns: groups must divide the channels");
  STD_TORCH_CHECK(
      shape.height < (int64_t(1) << 30) && shape.width < (int64_t(1) << 30), "deform_columns: the image is too large");
  STD_TORCH_CHECK(
      first >= 0 && first + columns.size(0) <= shape.images * shape.positions(),
      "deform_columns: columns must belong to positions of the output");
  check_field(offset, x, shape, 2 * shape.deformable_groups * shape.taps);
  if (mask.has_value()) {
    check_field(*mask, x, shape, shape.deformable_groups * shape.taps);
  }
  return shape;
}

// Gradients are added to grad_x, dense (N, H, W, C), and written to those of the fields, all of the type that
// sums are computed in.
inline void check_deform_grads(
    const DeformShape& shape, const Tensor& x, const std::optional<Tensor>& mask, const Tensor& grad_x,
    const Tensor& grad_offset, const std::optional<Tensor>& grad_mask) {
  check_field(grad_offset, x, shape, 2 * shape.deformable_groups * shape.taps);
  STD_TORCH_CHECK(mask.has_value() == grad_mask.has_value(), "deform_columns_backward: a mask has a gradient");
  if (grad_mask.has_value()) {
    check_field(*grad_mask, x, shape, shape.deformable_groups * shape.taps);
  }
  STD_TORCH_CHECK(
      grad_x.dim() == 4 && grad_x.is_contiguous() && grad_x.size(0) == x.size(0) && grad_x.size(1) == x.size(1) &&
          grad_x.size(2) == x.size(2) && grad_x.size(3) == x.size(3) &&
          grad_x.scalar_type() == accumulation_type(x) && same_device(grad_x, x),
      "deform_columns_backward: grad_x must be dense, of the shape of x, in float32 (float64 for x in float64)");
}

}  // namespace labelenc
