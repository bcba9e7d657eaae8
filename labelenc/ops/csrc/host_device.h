// Marks functions that are compiled for the CPU and for the GPU.
#pragma once

#if defined(__CUDACC__)
#define LABELENC_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define LABELENC_HOST_DEVICE inline __attribute__((always_inline))
#else
#define LABELENC_HOST_DEVICE inline
#endif
