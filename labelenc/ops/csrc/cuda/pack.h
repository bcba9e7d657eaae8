// Several neighbouring values read, written or added to memory at once.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace labelenc {

constexpr int kPackBytes = 16;

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Adds to memory that other threads add to as well; `to` is aligned to 16 bytes if N is a multiple of 4.
template <int N>
__device__ __forceinline__ void add_atomically(float* to, const float (&values)[N]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(to + i), make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
    }
  } else {
    atomicAdd(to, values[0]);
    static_assert(N == 1, "one value or whole packs");
  }
#else
#pragma unroll
  for (int i = 0; i < N; ++i) {
    atomicAdd(to + i, values[i]);
  }
#endif
}

template <int N>
__device__ __forceinline__ void add_atomically(double* to, const double (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    atomicAdd(to + i, values[i]);
  }
}

// Whether every pack of N values that begins a multiple of N after the start is aligned.
template <int N, typename T>
bool starts_packs(const T* data) {
  return reinterpret_cast<std::uintptr_t>(data) % (sizeof(T) * N) == 0;
}

}  // namespace labelenc
