// Arithmetic that gives the same on the CPU and on the GPU.
#pragma once

#include "host_device.h"

namespace labelenc {

// A product that no compiler fuses with the following sum: a fused multiply-add rounds once instead of twice,
// and a box right at a threshold, or a sample right at a border, would then be judged differently on CPU and GPU.
// The host files are compiled with -ffp-contract=off for the same reason.
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

}  // namespace labelenc
