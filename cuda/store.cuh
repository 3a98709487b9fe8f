// A block's results to y: `channels` results of each thread, whose position in y is `offset` (negative: nothing there).
//
// Where the channels of y lie side by side (NDHWC) the block trades results through shared memory, so that neighbouring
// threads write neighbouring channels and every 32-byte sector is written whole; otherwise neighbouring threads are
// neighbouring positions already.
#pragma once

namespace convt3d_cuda {

template <class T, int Threads, int Channels>
__device__ __forceinline__ void store_block(T *y, int64_t offset, int64_t channel_stride, int channels,
                                            const T (&value)[Channels])
{
    if (Channels == 1 || channel_stride != 1) {
        if (offset >= 0)
#pragma unroll
            for (int c = 0; c < Channels; c++)
                if (c < channels) y[offset + c * channel_stride] = value[c];
        return;
    }
    __shared__ T traded[Channels][Threads + 1];
    __shared__ int64_t offsets[Threads];
    offsets[threadIdx.x] = offset;
#pragma unroll
    for (int c = 0; c < Channels; c++) traded[c][threadIdx.x] = value[c];
    __syncthreads();
    for (int i = threadIdx.x; i < Threads * Channels; i += Threads) {
        int c = i % Channels, t = i / Channels;
        if (c < channels && offsets[t] >= 0) y[offsets[t] + c] = traded[c][t];
    }
    __syncthreads();
}

}
