// Outputs that no tap reaches, where they are whole rows of y: the bias alone, stored at the rate of a copy.
//
// With a stride and a dilation that share a factor, or a stride beyond the kernel, most phases of depth and height may
// have no tap. Their rows need no matrix unit; planes without a tap are one run where y is dense.
#pragma once

namespace convt3d_cuda {

enum { FILL_THREADS = 256 };

struct FillProblem {
    const void *bias;
    void *y;
    int64_t y_stride[5];
    int batch, channels, out[3];
    int phases[2];                  // of depth and height; o belongs to phase o % phases
    uint64_t rows;                  // bit d*phases[1] + h: rows of this phase have no tap
    uint64_t planes, some;          // bit d: all rows of a plane of this phase have none; some have
    int vectors;                    // y: the channels of a position are whole, aligned 16-byte units
    int blocks;
};

__device__ __forceinline__ bool fill_row(const FillProblem &p, int od, int oh)
{
    return p.rows >> (od % p.phases[0] * p.phases[1] + oh % p.phases[1]) & 1;
}

// Elements side by side, by one warp.
template <class T> __device__ __forceinline__ void fill_run(T *to, int64_t count, T v)
{
    constexpr int Unit = 16 / (int)sizeof(T);
    struct alignas(16) Pack { T at[Unit]; } pack;
    const int lane = threadIdx.x % 32, head = (int)(((0 - (uintptr_t)to) & 15) / sizeof(T));
#pragma unroll
    for (int i = 0; i < Unit; i++) pack.at[i] = v;
    if (lane < head && lane < count) to[lane] = v;
    const int64_t units = count > head ? (count - head) / Unit : 0, tail = head + units * Unit;
    for (int64_t i = lane; i < units; i += 32) ((Pack *)(to + head))[i] = pack;
    if (tail + lane < count) to[tail + lane] = v;
}

// One plane of one channel.
template <class T> __device__ __forceinline__ void fill_plane(const FillProblem &p, int n, int c, int od)
{
    if (!(p.some >> od % p.phases[0] & 1)) return;
    const T v = p.bias ? ((const T *)p.bias)[c] : Number<T>::round(0);
    T *y = (T *)p.y + n * p.y_stride[0] + c * p.y_stride[1] + od * p.y_stride[2];
    if ((p.planes >> od % p.phases[0] & 1) && p.y_stride[4] == 1 && p.y_stride[3] == p.out[2])
        return fill_run(y, (int64_t)p.out[1] * p.out[2], v);
    for (int oh = 0; oh < p.out[1]; oh++) {
        if (!fill_row(p, od, oh)) continue;
        T *row = y + oh * p.y_stride[3];
        if (p.y_stride[4] == 1) fill_run(row, p.out[2], v);
        else for (int ow = threadIdx.x % 32; ow < p.out[2]; ow += 32) row[ow * p.y_stride[4]] = v;
    }
}

// One row of all channels, which lie side by side in units of V.
template <class T, class V> __device__ __forceinline__ void fill_cells(const FillProblem &p, T *row)
{
    constexpr int Unit = (int)(sizeof(V) / sizeof(T));
    struct alignas(sizeof(V)) Pack { T at[Unit]; } pack = {};
    const int units = p.channels / Unit;
    int held = -1;
    for (int i = threadIdx.x % 32; i < p.out[2] * units; i += 32) {
        const int ow = i / units, unit = i - ow * units;
        if (unit != held && p.bias)
#pragma unroll
            for (int j = 0; j < Unit; j++) pack.at[j] = ((const T *)p.bias)[unit * Unit + j];
        held = unit;
        *(Pack *)(row + ow * p.y_stride[4] + unit * Unit) = pack;
    }
}

// One block's share, of p.blocks.
template <class T> __device__ __forceinline__ void fill_block(const FillProblem &p, int block)
{
    const bool by_channel = p.y_stride[1] == 1;
    const int64_t items = (int64_t)p.batch * (by_channel ? p.out[1] : p.channels) * p.out[0];
    const int64_t warp = (int64_t)block * (FILL_THREADS / 32) + threadIdx.x / 32;
    for (int64_t i = warp; i < items; i += (int64_t)p.blocks * (FILL_THREADS / 32)) {
        const int od = (int)(i % p.out[0]);
        const int64_t rest = i / p.out[0];
        if (!by_channel) {
            fill_plane<T>(p, (int)(rest / p.channels), (int)(rest % p.channels), od);
            continue;
        }
        const int oh = (int)(rest % p.out[1]);
        if (!fill_row(p, od, oh)) continue;
        T *row = (T *)p.y + rest / p.out[1] * p.y_stride[0] + od * p.y_stride[2] + oh * p.y_stride[3];
        if (p.vectors) fill_cells<T, uint4>(p, row);
        else fill_cells<T, T>(p, row);
    }
}

}
