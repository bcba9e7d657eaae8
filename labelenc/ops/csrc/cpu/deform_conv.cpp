// The matrix that turns a deformable convolution into a product, and its gradients, on the CPU.
//
// Images are channels last, so the four corners of a sample are four dense rows, and all that depends on the
// place is computed once for many channels. In the backward pass a thread owns an image, a deformable group or
// some channels of it: nothing is added to one place by two threads.
#include "../deform_arguments.h"
#include "clones.h"
#include "deform_rows.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {

// Column entries worth waking a thread for, and channels worth computing a sample's place anew for.
constexpr int64_t kEntriesPerThread = 1 << 18;
constexpr int64_t kChannelsPerThread = 16;

template <typename T, typename A>
struct Task {
  const DeformShape& shape;
  const T* x;
  Field<const A> offset, mask;
  T* columns;
  int64_t first;
  const T* zeros;  // as many as there are channels, read for corners off the map

  T* column(int64_t row, int64_t tap, int64_t channel) const {
    const int64_t per_group = shape.channels / shape.groups;
    const int64_t group = channel / per_group;
    return columns + ((row * shape.groups + group) * shape.taps + tap) * per_group + channel % per_group;
  }

  // Up to which channel the entries after column(…, channel) are dense.
  int64_t run_end(int64_t channel) const {
    const int64_t per_group = shape.channels / shape.groups;
    return (channel / per_group + 1) * per_group;
  }
};

// A position of the output and what it is called in columns.
struct Position {
  int64_t image, y, x;

  Position(const DeformShape& shape, int64_t index)
      : image(index / shape.positions()), y(index % shape.positions() / shape.out_width),
        x(index % shape.out_width) {}

  void advance(const DeformShape& shape) {
    if (++x == shape.out_width) {
      x = 0;
      if (++y == shape.out_height) {
        y = 0;
        ++image;
      }
    }
  }
};

template <typename T, typename A>
LABELENC_HOST_DEVICE void columns_of(const Task<T, A>& task, int64_t begin, int64_t end) {
  const DeformShape& shape = task.shape;
  const int64_t per_group = shape.channels / shape.deformable_groups;
  Position at(shape, task.first + begin);
  for (int64_t row = begin; row < end; ++row, at.advance(shape)) {
    const T* image = task.x + at.image * shape.height * shape.width * shape.channels;
    for (int64_t tap = 0; tap < shape.taps; ++tap) {
      const int64_t ky = tap / shape.kernel_width, kx = tap % shape.kernel_width;
      for (int64_t group = 0; group < shape.deformable_groups; ++group) {
        const int64_t field = group * shape.taps + tap;
        const Sample<A> sample = deformed_sample(shape, task.offset, at.image, at.y, at.x, ky, kx, 2 * field);
        const A factor = task.mask.data == nullptr ? A(1) : task.mask.at(at.image, field, at.y, at.x);
        const T* rows[4];
        corner_rows(shape, sample, image, task.zeros, rows);
        const A shares[4] = {
            factor * sample.share(0), factor * sample.share(1), factor * sample.share(2), factor * sample.share(3)};
        const int64_t last = (group + 1) * per_group;
        for (int64_t channel = group * per_group; channel < last;) {
          const int64_t stop = std::min(last, task.run_end(channel));
          interpolate(rows, shares, channel, stop, task.column(row, tap, channel));
          channel = stop;
        }
      }
    }
  }
}

// Some channels of one deformable group in one image, the share of a thread. Field gradients of position `row`
// and tap `tap` go to field_grads[row * taps + tap].
template <typename A>
struct Share {
  int64_t group, begin_channel, end_channel, begin_row, end_row;
  FieldGrads<A>* field_grads;
  A* off_map;
};

template <typename T, typename A>
LABELENC_HOST_DEVICE void gradients_of(const Task<T, A>& task, A* grad_x, const Share<A>& share) {
  const DeformShape& shape = task.shape;
  Position at(shape, task.first + share.begin_row);
  const int64_t image_start = at.image * shape.height * shape.width * shape.channels;
  for (int64_t row = share.begin_row; row < share.end_row; ++row, at.advance(shape)) {
    for (int64_t tap = 0; tap < shape.taps; ++tap) {
      const int64_t ky = tap / shape.kernel_width, kx = tap % shape.kernel_width;
      const int64_t field = share.group * shape.taps + tap;
      const Sample<A> sample = deformed_sample(shape, task.offset, at.image, at.y, at.x, ky, kx, 2 * field);
      const A factor = task.mask.data == nullptr ? A(1) : task.mask.at(at.image, field, at.y, at.x);
      const T* rows[4];
      A* grads[4];
      corner_rows(shape, sample, task.x + image_start, task.zeros, rows);
      corner_rows(shape, sample, grad_x + image_start, share.off_map, grads);
      const A shares[4] = {
          factor * sample.share(0), factor * sample.share(1), factor * sample.share(2), factor * sample.share(3)};
      A dots[4] = {0, 0, 0, 0};
      for (int64_t channel = share.begin_channel; channel < share.end_channel;) {
        const int64_t stop = std::min(share.end_channel, task.run_end(channel));
        spread(rows, grads, shares, channel, stop, task.column(row, tap, channel), dots);
        channel = stop;
      }
      share.field_grads[row * shape.taps + tap] = field_grads(sample, factor, dots);
    }
  }
}

// Function versions can't be templates, hence one of each for every type.
#define LABELENC_DEFORM_VERSIONS(T, A)                                                               \
  LABELENC_CLONES void compute_columns(const Task<T, A>& task, int64_t begin, int64_t end) {         \
    columns_of(task, begin, end);                                                                    \
  }                                                                                                  \
  LABELENC_CLONES void compute_gradients(const Task<T, A>& task, A* grad_x, const Share<A>& share) { \
    gradients_of(task, grad_x, share);                                                               \
  }
LABELENC_DEFORM_VERSIONS(float, float)
LABELENC_DEFORM_VERSIONS(double, double)
LABELENC_DEFORM_VERSIONS(Half, float)
LABELENC_DEFORM_VERSIONS(BFloat16, float)
#undef LABELENC_DEFORM_VERSIONS

template <typename T, typename A>
Task<T, A> make_task(
    const DeformShape& shape, const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
    const Tensor& columns, int64_t first, const std::vector<T>& zeros) {
  return {
      shape, static_cast<const T*>(x.const_data_ptr()), field<const A>(offset), field<const A>(mask),
      static_cast<T*>(columns.mutable_data_ptr()), first, zeros.data()};
}

void deform_columns(
    Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor columns, int64_t first,
    std::vector<int64_t> geometry) {
  const DeformShape shape = deform_shape(x, offset, mask, columns, first, geometry);
  const int64_t entries = std::max<int64_t>(1, shape.taps * shape.channels);
  for_floating_type(x, "deform_columns: x", [&](auto value, auto sum) {
    using T = decltype(value);
    using A = decltype(sum);
    const std::vector<T> zeros(shape.channels, T(0));
    const Task<T, A> task = make_task<T, A>(shape, x, offset, mask, columns, first, zeros);
    const int64_t grain = std::max<int64_t>(1, kEntriesPerThread / entries);
    torch::stable::parallel_for(0, columns.size(0), grain, [&](int64_t begin, int64_t end) {
      compute_columns(task, begin, end);
    });
  });
}

// Into how many parts each deformable group is split, so that all threads have about the same to do.
int64_t parts_per_group(const DeformShape& shape, int64_t images, int64_t rows) {
  const int64_t most = std::max<int64_t>(1, shape.channels / shape.deformable_groups / kChannelsPerThread);
  const int64_t worthwhile = 1 + rows * shape.taps * shape.channels / kEntriesPerThread;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), worthwhile);
  const int64_t units = images * shape.deformable_groups;
  for (int64_t parts = 1; parts <= most; ++parts) {
    if (units * parts % threads == 0 || units * parts >= 4 * threads) {
      return parts;
    }
  }
  return most;
}

// Adds up what the parts of a deformable group found and puts it where it belongs.
template <typename A>
void gather_field_grads(
    const DeformShape& shape, const std::vector<FieldGrads<A>>& found, int64_t parts, int64_t first, int64_t rows,
    const Field<A>& grad_offset, const Field<A>& grad_mask) {
  for (int64_t group = 0; group < shape.deformable_groups; ++group) {
    Position at(shape, first);
    for (int64_t row = 0; row < rows; ++row, at.advance(shape)) {
      for (int64_t tap = 0; tap < shape.taps; ++tap) {
        FieldGrads<A> sum{0, 0, 0};
        for (int64_t part = 0; part < parts; ++part) {
          const FieldGrads<A>& one = found[((group * parts + part) * rows + row) * shape.taps + tap];
          sum = {sum.y + one.y, sum.x + one.x, sum.factor + one.factor};
        }
        const int64_t channel = group * shape.taps + tap;
        grad_offset.at(at.image, 2 * channel, at.y, at.x) = sum.y;
        grad_offset.at(at.image, 2 * channel + 1, at.y, at.x) = sum.x;
        if (grad_mask.data != nullptr) {
          grad_mask.at(at.image, channel, at.y, at.x) = sum.factor;
        }
      }
    }
  }
}

void deform_columns_backward(
    Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor columns, Tensor grad_x, Tensor grad_offset,
    std::optional<Tensor> grad_mask, int64_t first, std::vector<int64_t> geometry) {
  const DeformShape shape = deform_shape(x, offset, mask, columns, first, geometry);
  check_deform_grads(shape, x, mask, grad_x, grad_offset, grad_mask);
  const int64_t rows = columns.size(0);
  if (rows == 0) {
    return;
  }
  const int64_t first_image = first / shape.positions();
  const int64_t images = (first + rows - 1) / shape.positions() - first_image + 1;
  const int64_t parts = parts_per_group(shape, images, rows);
  const int64_t units = shape.deformable_groups * parts;
  for_floating_type(x, "deform_columns: x", [&](auto value, auto sum) {
    using T = decltype(value);
    using A = decltype(sum);
    const std::vector<T> zeros(shape.channels, T(0));
    const Task<T, A> task = make_task<T, A>(shape, x, offset, mask, columns, first, zeros);
    std::vector<FieldGrads<A>> found(units * rows * shape.taps);
    A* const grad = static_cast<A*>(grad_x.mutable_data_ptr());
    torch::stable::parallel_for(0, images * units, 1, [&](int64_t begin, int64_t end) {
      std::vector<A> off_map(shape.channels);
      const int64_t per_group = shape.channels / shape.deformable_groups;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = first_image + i / units, group = i % units / parts, part = i % parts;
        const Share<A> share{
            group, group * per_group + part * per_group / parts, group * per_group + (part + 1) * per_group / parts,
            std::max<int64_t>(0, image * shape.positions() - first),
            std::min(rows, (image + 1) * shape.positions() - first), found.data() + i % units * rows * shape.taps,
            off_map.data()};
        compute_gradients(task, grad, share);
      }
    });
    gather_field_grads(shape, found, parts, first, rows, field<A>(grad_offset), field<A>(grad_mask));
  });
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CPU, m) {
  m.impl("deform_columns", TORCH_BOX(&labelenc::deform_columns));
  m.impl("deform_columns_backward", TORCH_BOX(&labelenc::deform_columns_backward));
}
