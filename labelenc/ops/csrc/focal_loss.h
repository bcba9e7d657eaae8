// Sigmoid focal loss of one logit and its derivative, shared by the CPU and the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace labelenc {

// exp(t) for t <= 0; below -87 it stays at the smallest normal number. No branches and no calls on the CPU, so
// that loops over it vectorise. A NaN stays one.
LABELENC_HOST_DEVICE float exp_of_negative(float t) {
  constexpr float kLog2E = 1.44269504f, kLog2ELow = 1.92596299e-8f;
  t = t < -87.0f ? -87.0f : t;
#if defined(__CUDA_ARCH__)
  // 2^y in hardware, and a correction for what y lost by rounding.
  const float y = t * kLog2E;
  const float lost = fmaf(t, kLog2E, -y) + t * kLog2ELow;
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(y));
  return fmaf(power, lost * 0.693147181f, power);
#else
  // t = n ln 2 + f with |f| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  constexpr float kRound = 12582912.0f, kLn2 = 0.693145752f, kLn2Low = 1.42860677e-6f;
  (void)kLog2ELow;
  const float shifted = t * kLog2E + kRound;
  const float n = shifted - kRound;
  const float f = t - n * kLn2 - n * kLn2Low;
  const float tail =
      0.499999935f + f * (0.166665206f + f * (0.0416683881f + f * (0.00836871690f + f * 0.00138145984f)));
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power * (1.0f + f * (1.0f + f * tail));
#endif
}

LABELENC_HOST_DEVICE double exp_of_negative(double t) {
  return exp(t);
}

LABELENC_HOST_DEVICE float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// With p the sigmoid of x: p, 1 - p, and log(1 + exp(-|x|)), each without cancellation.
template <typename T>
struct Sigmoid {
  T p, not_p, log_one;
};

// Only one division: 1 / (1 + e) and the s = e / (2 + e) of log(1 + e) = 2 atanh(s) share it.
LABELENC_HOST_DEVICE Sigmoid<float> sigmoid(float x) {
  const float e = exp_of_negative(x < 0.0f ? x : -x);
  const float one = 1.0f + e, two = 2.0f + e;
  const float inverse = quotient(1.0f, one * two);
  const float s = e * one * inverse, z = s * s;
  const float tail = 0.333332081f + z * (0.200107671f + z * (0.140008391f + z * 0.140063329f));
  const float log_one = 2.0f * s * (1.0f + z * tail);
  const float larger = two * inverse, smaller = e * larger;
  const bool negative = x < 0.0f;
  return {negative ? smaller : larger, negative ? larger : smaller, log_one};
}

LABELENC_HOST_DEVICE Sigmoid<double> sigmoid(double x) {
  const bool negative = x < 0.0;
  const double e = exp(negative ? x : -x);
  const double larger = 1.0 / (1.0 + e), smaller = e * larger;
  return {negative ? smaller : larger, negative ? larger : smaller, log1p(e)};
}

// -log(1 - p) = log(1 + exp(x)).
template <typename T>
LABELENC_HOST_DEVICE T softplus(T x, const Sigmoid<T>& at) {
  return (x < T(0) ? T(0) : x) + at.log_one;
}

// p^gamma; log p is -log(1 + exp(-x)).
template <bool kSquare, typename T>
LABELENC_HOST_DEVICE T modulation(T x, const Sigmoid<T>& at, T gamma) {
  if constexpr (kSquare) {
    return at.p * at.p;
  } else {
    return exp_of_negative(gamma * ((x < T(0) ? x : T(0)) - at.log_one));
  }
}

// Loss of a logit in a column that is not the class of its row, without the factor 1 - alpha. kSquare: gamma is 2.
template <bool kSquare, typename T>
LABELENC_HOST_DEVICE T negative_loss(T x, T gamma) {
  const Sigmoid<T> at = sigmoid(x);
  return modulation<kSquare>(x, at, gamma) * softplus(x, at);
}

template <bool kSquare, typename T>
LABELENC_HOST_DEVICE T negative_slope(T x, T gamma) {
  const Sigmoid<T> at = sigmoid(x);
  return modulation<kSquare>(x, at, gamma) * (gamma * at.not_p * softplus(x, at) + at.p);
}

// The class of the row: the mirror image, with -log p at most that of the smallest normal float. Without alpha.
template <typename T>
LABELENC_HOST_DEVICE T positive_loss(T x, T gamma) {
  const Sigmoid<T> at = sigmoid(-x);
  const T limit = T(87.336544750553), minus_log_p = softplus(-x, at);
  return modulation<false>(-x, at, gamma) * (minus_log_p > limit ? limit : minus_log_p);
}

template <typename T>
LABELENC_HOST_DEVICE T positive_slope(T x, T gamma) {
  return -negative_slope<false>(-x, gamma);
}

}  // namespace labelenc
