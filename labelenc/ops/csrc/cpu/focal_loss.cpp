// Sigmoid focal loss and its gradient on the CPU.
//
// A block of logits is computed as if no column were its row's class, which vectorises; then the few columns that
// are, and the ignored rows, are written over. A sum therefore needs no memory beyond a block.
#if defined(__GNUC__) && !defined(__clang__)
// Fused multiply-adds, a third less time: unlike in NMS nothing here has to round as on other devices.
#pragma GCC optimize("fp-contract=fast")
#endif

#include "../focal_loss.h"
#include "../focal_loss_arguments.h"
#include "clones.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace labelenc {
namespace {


constexpr int64_t kBlock = 2048;
constexpr int64_t kLanes = 16;
constexpr int64_t kBlocksPerThread = 32;

template <typename T>
struct Settings {
  T gamma, alpha;
  bool slope;
};

struct Problem {
  const int64_t* targets;
  int64_t rows, columns;
};

// Function versions can't be templates, hence one for each type that is worth it.
template <typename T, typename Loaded>
LABELENC_HOST_DEVICE void convert_all(const T* from, Loaded* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<Loaded>(from[i]);
  }
}

LABELENC_CLONES void convert(const float* from, float* to, int64_t n) { convert_all(from, to, n); }
LABELENC_CLONES void convert(const Half* from, float* to, int64_t n) { convert_all(from, to, n); }
LABELENC_CLONES void convert(const BFloat16* from, float* to, int64_t n) { convert_all(from, to, n); }
LABELENC_CLONES void convert(const float* from, Half* to, int64_t n) { convert_all(from, to, n); }
LABELENC_CLONES void convert(const float* from, BFloat16* to, int64_t n) { convert_all(from, to, n); }
void convert(const double* from, double* to, int64_t n) { std::copy(from, from + n, to); }

template <bool kSquare, bool kSlope, typename T>
LABELENC_HOST_DEVICE void negatives_as(const T* __restrict x, T* __restrict out, int64_t n, T gamma, T weight) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (kSlope) {
      out[i] = weight * negative_slope<kSquare>(x[i], gamma);
    } else {
      out[i] = weight * negative_loss<kSquare>(x[i], gamma);
    }
  }
}

template <typename T>
LABELENC_HOST_DEVICE void all_negatives(const T* x, T* out, int64_t n, const Settings<T>& with) {
  const T weight = T(1) - with.alpha;
  const bool square = with.gamma == T(2);
  if (square && with.slope) {
    negatives_as<true, true>(x, out, n, with.gamma, weight);
  } else if (square) {
    negatives_as<true, false>(x, out, n, with.gamma, weight);
  } else if (with.slope) {
    negatives_as<false, true>(x, out, n, with.gamma, weight);
  } else {
    negatives_as<false, false>(x, out, n, with.gamma, weight);
  }
}

LABELENC_CLONES void negatives(const float* x, float* out, int64_t n, const Settings<float>& with) {
  all_negatives(x, out, n, with);
}

void negatives(const double* x, double* out, int64_t n, const Settings<double>& with) {
  all_negatives(x, out, n, with);
}

// Writes over what is not negative in the elements [begin, end).
template <typename T>
void patch(const Problem& of, int64_t begin, int64_t end, const T* x, T* out, const Settings<T>& with) {
  for (int64_t row = begin / of.columns; row * of.columns < end; ++row) {
    const int64_t target = of.targets[row];
    const int64_t first = row * of.columns;
    if (target < 0) {
      std::fill(out + std::max(first, begin) - begin, out + std::min(first + of.columns, end) - begin, T(0));
    } else if (target > 0 && target <= of.columns) {
      const int64_t at = first + target - 1 - begin;
      if (at >= 0 && at < end - begin) {
        out[at] = with.alpha * (with.slope ? positive_slope(x[at], with.gamma) : positive_loss(x[at], with.gamma));
      }
    }
  }
}

template <typename Logit, typename T>
void elements(
    const Logit* logits, const Problem& of, int64_t begin, int64_t end, T* out, const Settings<T>& with) {
  T x[kBlock];
  convert(logits + begin, x, end - begin);
  negatives(x, out, end - begin, with);
  patch(of, begin, end, x, out, with);
}

template <typename T>
double sum_of(const T* values, int64_t n) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) {
      lanes[k] += values[i + k];
    }
  }
  double sum = 0;
  for (; i < n; ++i) {
    sum += values[i];
  }
  for (const T lane : lanes) {
    sum += lane;
  }
  return sum;
}

template <typename Visit>
void for_each_block(int64_t size, const Visit& visit) {
  const int64_t blocks = (size + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, blocks, kBlocksPerThread, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      visit(block, block * kBlock, std::min(size, (block + 1) * kBlock));
    }
  });
}

// The sum does not depend on the number of threads: blocks are added up in order.
template <typename Logit, typename T>
void run_loss(const Logit* logits, const Problem& of, const Settings<T>& with, bool total, T* out) {
  const int64_t size = of.rows * of.columns;
  std::vector<double> sums(total ? (size + kBlock - 1) / kBlock : 0);
  for_each_block(size, [&](int64_t block, int64_t begin, int64_t end) {
    T buffer[kBlock];
    T* values = total ? buffer : out + begin;
    elements(logits, of, begin, end, values, with);
    if (total) {
      sums[block] = sum_of(values, end - begin);
    }
  });
  if (total) {
    double sum = 0;
    for (const double part : sums) {
      sum += part;
    }
    *out = static_cast<T>(sum);
  }
}

template <typename Logit, typename T>
void run_backward(
    const T* grad, bool one_grad, const Logit* logits, const Problem& of, const Settings<T>& with, Logit* out) {
  for_each_block(of.rows * of.columns, [&](int64_t, int64_t begin, int64_t end) {
    T slopes[kBlock];
    elements(logits, of, begin, end, slopes, with);
    for (int64_t i = 0; i < end - begin; ++i) {
      slopes[i] *= one_grad ? *grad : grad[begin + i];
    }
    convert(slopes, out + begin, end - begin);
  });
}

Tensor focal_loss(Tensor logits, Tensor targets, double gamma, double alpha, bool total) {
  check_focal_loss_arguments(logits, targets);
  const Tensor x = torch::stable::contiguous(logits), t = torch::stable::contiguous(targets);
  const Problem problem{static_cast<const int64_t*>(t.const_data_ptr()), x.size(0), x.size(1)};
  Tensor out = total ? torch::stable::new_empty(x, {}, accumulation_type(x))
                     : torch::stable::new_empty(x, {x.size(0), x.size(1)}, accumulation_type(x));
  for_floating_type(x, "focal_loss: logits", [&](auto logit, auto computed) {
    using Logit = decltype(logit);
    using T = decltype(computed);
    const Settings<T> settings{static_cast<T>(gamma), static_cast<T>(alpha), false};
    run_loss(
        static_cast<const Logit*>(x.const_data_ptr()), problem, settings, total,
        static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor focal_loss_backward(Tensor grad, Tensor logits, Tensor targets, double gamma, double alpha) {
  check_focal_loss_arguments(logits, targets);
  check_focal_loss_grad(grad, logits);
  const Tensor x = torch::stable::contiguous(logits), t = torch::stable::contiguous(targets);
  const Problem problem{static_cast<const int64_t*>(t.const_data_ptr()), x.size(0), x.size(1)};
  const bool one_grad = is_one_number(grad);
  const Tensor g = one_grad ? grad : torch::stable::contiguous(grad);
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  for_floating_type(x, "focal_loss: logits", [&](auto logit, auto computed) {
    using Logit = decltype(logit);
    using T = decltype(computed);
    run_backward(
        static_cast<const T*>(g.const_data_ptr()), one_grad, static_cast<const Logit*>(x.const_data_ptr()), problem,
        Settings<T>{static_cast<T>(gamma), static_cast<T>(alpha), true}, static_cast<Logit*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace
}  // namespace labelenc

STABLE_TORCH_LIBRARY_IMPL(labelenc, CPU, m) {
  m.impl("focal_loss", TORCH_BOX(&labelenc::focal_loss));
  m.impl("focal_loss_backward", TORCH_BOX(&labelenc::focal_loss_backward));
}
