// The four element types: what they are accumulated in, how they are read and how a result is rounded, once.
#pragma once

namespace convt3d_cuda {

template <class T> struct Number;

// max and min that keep NaN, one instruction for f32.
static __device__ __forceinline__ float max_nan(float a, float b)
{
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}
static __device__ __forceinline__ float min_nan(float a, float b)
{
    float r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}
static __device__ __forceinline__ double max_nan(double a, double b) { return a < b ? b : a; }      // b is no NaN
static __device__ __forceinline__ double min_nan(double a, double b) { return a > b ? b : a; }

template <> struct Number<float> {
    typedef float Accumulator;
    static __device__ float widen(float v) { return v; }
    static __device__ float round(float v) { return v; }
};

template <> struct Number<double> {
    typedef double Accumulator;
    static __device__ double widen(double v) { return v; }
    static __device__ double round(double v) { return v; }
};

template <> struct Number<__half> {
    typedef float Accumulator;
    static __device__ float widen(__half v) { return __half2float(v); }
    static __device__ __half round(float v) { return __float2half_rn(v); }
};

template <> struct Number<__nv_bfloat16> {
    typedef float Accumulator;
    static __device__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
    static __device__ __nv_bfloat16 round(float v) { return __float2bfloat16_rn(v); }
};

}
