// Sums over parts of the positions to dw and dbias, for cuda_wgrad and cuda_walk.
#pragma once

#if CONVT3D__PART(14) || CONVT3D__PART(18)

namespace convt3d_cuda {

enum { MERGE_THREADS = 256, MERGE_BLOCKS = 264 };

struct PartsMerge {
    const double *partial, *bias_sums;      // [part][element of dw], [part][channel]
    void *dw, *dbias;                       // null: not wanted
    int64_t count;                          // of dw's elements
    int parts, bias_parts, channels, accumulate;
};

// Has put(i, channel, bias, sum) called for every element i of dw and then, with bias, for every channel of dbias. A
// warp sums the parts of one, in a fixed order, in double; its first lane puts them.
template <class Put> __device__ __forceinline__ void merge_parts(const PartsMerge &p, Put put)
{
    const int64_t warp = ((int64_t)blockIdx.x * MERGE_THREADS + threadIdx.x) / 32, all = p.dw ? p.count : 0;
    const int64_t warps = (int64_t)gridDim.x * (MERGE_THREADS / 32);
    for (int64_t i = warp; i < all + (p.dbias ? p.channels : 0); i += warps) {
        const bool bias = i >= all;
        const double *from = bias ? p.bias_sums + (i - all) : p.partial + i;
        const int64_t step = bias ? p.channels : p.count;
        double sum = 0;
        for (int part = threadIdx.x % 32; part < (bias ? p.bias_parts : p.parts); part += 32) sum += from[part * step];
        for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
        if (threadIdx.x % 32 == 0) put(i, i - all, bias, sum);
    }
}

}

#endif
