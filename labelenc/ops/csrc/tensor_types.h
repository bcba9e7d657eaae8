// What operations ask of the types and devices of their tensors.
#pragma once

#include <type_traits>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

namespace labelenc {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

// The type that sums are made in.
inline ScalarType accumulation_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
using AccumulationType = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls with a value of the C++ type behind a tensor, and one of the type that sums are made in. `what` names the
// tensor if its type is none of the four.
template <typename Call>
void for_floating_type(const Tensor& t, const char* what, const Call& call) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return call(float(), float());
    case ScalarType::Double:
      return call(double(), double());
    case ScalarType::Half:
      return call(Half(), float());
    case ScalarType::BFloat16:
      return call(BFloat16(), float());
    default:
      STD_TORCH_CHECK(false, what, " must be float16, bfloat16, float32 or float64");
  }
}

}  // namespace labelenc
