// Outputs that no tap reaches, where they are whole rows of y: the bias alone.
//
// With a stride and a dilation that share a factor, or a stride beyond the kernel, most phases of depth and height may
// have no tap. Their rows need no matrix unit: an earlier launch stores them, 16 bytes a thread.
// Planes without a tap are one run where y is dense.
#pragma once

namespace convt3d_cuda {

struct FillProblem {
    const void *bias;
    void *y;
    int64_t y_stride[5];
    int height, width;              // of y
    uint32_t items;                 // planes of a channel or, where channels lie side by side, rows; 0: there are none
    int blocks;                     // of threads that share them
    Divisor depth, columns;         // of y; channels or rows
    Divisor phases[2];              // of depth and height; o belongs to phase o % phases
    Divisor units;                  // channels, in units of what is stored at a time
    uint64_t rows;                  // bit d*phases[1] + h: rows of this phase have no tap
    uint64_t planes;                // bit d: all rows of a plane of this phase have none, and they are one run
    int vectors;                    // y: the channels of a position are whole, aligned 16-byte units
};

__device__ __forceinline__ bool fill_row(const FillProblem &p, uint32_t phase, int oh)
{
    uint32_t rest;
    divide((uint32_t)oh, p.phases[1], &rest);
    return p.rows >> (phase * p.phases[1].by + rest) & 1;
}

template <class V, class T> struct alignas(sizeof(V)) FillUnit { T at[sizeof(V) / sizeof(T)]; };

// Elements side by side, by one warp.
template <class T> __device__ __forceinline__ void fill_run(T *to, int count, T v)
{
    typedef FillUnit<uint4, T> Unit;
    constexpr int Count = 16 / (int)sizeof(T);
    const int lane = threadIdx.x % 32, head = min(count, (int)(((0 - (uintptr_t)to) & 15) / sizeof(T)));
    if (lane < head) to[lane] = v;
    to += head;
    count -= head;
    Unit unit;
#pragma unroll
    for (int i = 0; i < Count; i++) unit.at[i] = v;
#pragma unroll 1
    for (int i = lane; i < count / Count; i += 32) ((Unit *)to)[i] = unit;
    if (lane < count % Count) to[count / Count * Count + lane] = v;
}

// One plane of one channel.
template <class T> __device__ __forceinline__ void fill_plane(const FillProblem &p, T *y, uint32_t phase, T v)
{
    const bool whole = p.planes >> phase & 1;
#pragma unroll 1
    for (int oh = 0; oh < (whole ? 1 : p.height); oh++, y += p.y_stride[3]) {
        if (!fill_row(p, phase, oh)) continue;
        if (p.y_stride[4] == 1) fill_run(y, whole ? p.height * p.width : p.width, v);
        else for (int ow = threadIdx.x % 32; ow < p.width; ow += 32) y[ow * p.y_stride[4]] = v;
    }
}

// One row of all channels, which lie side by side in units of V.
template <class V, class T> __device__ __forceinline__ void fill_cells(const FillProblem &p, T *row)
{
    typedef FillUnit<V, T> Unit;
    Unit v;
#pragma unroll
    for (T &at : v.at) at = Number<T>::round(0);
#pragma unroll 1
    for (uint32_t i = threadIdx.x % 32; i < p.width * p.units.by; i += 32) {
        uint32_t unit, ow = divide(i, p.units, &unit);
        if (p.bias) v = ((const Unit *)p.bias)[unit];
        *((Unit *)(row + ow * p.y_stride[4]) + unit) = v;
    }
}

// The share of one warp of `warps`.
template <class T> __device__ __forceinline__ void fill_warp(const FillProblem &p, uint32_t warp, uint32_t warps)
{
    const bool by_channel = p.y_stride[1] == 1;
#pragma unroll 1
    for (uint32_t i = warp; i < p.items; i += warps) {
        uint32_t od, column, phase, n = divide(divide(i, p.depth, &od), p.columns, &column);
        T *y = (T *)p.y + n * p.y_stride[0] + od * p.y_stride[2] + column * p.y_stride[by_channel ? 3 : 1];
        divide(od, p.phases[0], &phase);
        if (!by_channel) fill_plane<T>(p, y, phase, p.bias ? ((const T *)p.bias)[column] : Number<T>::round(0));
        else if (!fill_row(p, phase, (int)column)) continue;
        else if (p.vectors) fill_cells<uint4>(p, y);
        else fill_cells<T>(p, y);
    }
}

}
