// sm90_nonoverlap: w packed by a kernel of its own, brought into shared memory by every block, and, where two parts do
// not fit together, streamed through it.
#pragma once

#if CONVT3D__PART(4)

#include "nonoverlap90_load.cuh"

namespace convt3d_cuda {

template <class T> __device__ __forceinline__ uint32_t nonoverlap90_bits(const T *at)
{
    return sizeof(T) == 4 ? __ldg((const unsigned *)at) : (uint32_t)__ldg((const unsigned short *)at);
}

// Element i (0 ... 7) of cell `cell` (0 ... 3) of a block of 32 channels: lane i / 2 of a quad holds it.
template <class T> __device__ __forceinline__ constexpr int nonoverlap90_channel(int cell, int i)
{
    return sizeof(T) == 4 ? cell / 2 * 16 + i / 2 * 4 + cell % 2 * 2 + i % 2
                          : i / 2 * 8 + cell / 2 * 4 + cell % 2 * 2 + i % 2;
}

template <class T>
__device__ __forceinline__ void nonoverlap90_fetch(const Nonoverlap90Problem &p, int column, int first,
                                                   uint32_t (&v)[32])
{
    const T *w = (const T *)p.w + (int64_t)first * p.columns + column;
#pragma unroll
    for (int i = 0; i < 32; i++)
        v[i] = column >= 0 && first + i < p.in_channels ? nonoverlap90_bits(w + (int64_t)i * p.columns) : 0;
}

// A cell, whose address may be a multiple of 2 alone.
static __device__ __forceinline__ void nonoverlap90_put_cell(unsigned char *to, const uint32_t (&v)[4])
{
    if ((uintptr_t)to % 16 == 0) *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
    else
#pragma unroll
        for (int i = 0; i < 8; i++) ((uint16_t *)to)[i] = (uint16_t)(v[i / 2] >> i % 2 * 16);
}

// 32 channels of one row of w into their four cells.
template <class Mode>
__device__ __forceinline__ void nonoverlap90_pack(unsigned char *to, int rows, int64_t part, const uint32_t (&v)[32],
                                                  float factor)
{
#pragma unroll
    for (int cell = 0; cell < 4; cell++) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t u0 = v[nonoverlap90_channel<typename Mode::T>(cell, 2 * i)];
            uint32_t u1 = v[nonoverlap90_channel<typename Mode::T>(cell, 2 * i + 1)];
            if (!Mode::Scaled) high[i] = u0 | u1 << 16;
            else if (Mode::Parts == 2) split_far(__uint_as_float(u0), __uint_as_float(u1), factor, high[i], low[i]);
            else high[i] = halves_of(__uint_as_float(u0) * factor, __uint_as_float(u1) * factor);
        }
        nonoverlap90_put_cell(to + cell * rows * 16, high);
        if (Mode::Parts == 2) nonoverlap90_put_cell(to + part + cell * rows * 16, low);
    }
}

static __device__ __forceinline__ HalfScale nonoverlap90_scale(const Nonoverlap90Problem &p, const uint32_t *magnitudes,
                                                               int line, bool narrow)
{
    Magnitudes range;
    range.most = magnitudes[line];
    if (narrow) range.least = ~magnitudes[p.lines + line];
    return HalfScale(range, narrow ? p.keep : 0);
}

// Whether a line is repaired: it is wide, or one that is stored together with it, of four channels.
template <bool ChannelsLast>
__device__ __forceinline__ bool nonoverlap90_wide_line(const Nonoverlap90Problem &p, const uint32_t *magnitudes,
                                                       int line, bool narrow)
{
    const int together = ChannelsLast ? 4 : 1, begin = line / together * together;
    bool wide = false;
    for (int i = begin; i < begin + together; i++)
        wide = wide || nonoverlap90_scale(p, magnitudes, i, narrow).wide;
    return wide;
}

// Packed, slice by slice: the cells, [part][eight channels][row], and the magnitudes of each line; after the last slice
// w itself, where values beyond the halves' range must be multiplied as they are.
template <class Mode> __host__ __device__ int64_t nonoverlap90_packed_slice(const Nonoverlap90Problem &p, int channels)
{
    return ((int64_t)p.rows * channels * 2 * Mode::Parts + p.lines * 8 + 15) / 16 * 16;
}

enum { NONOVERLAP90_PACK_ROWS = 16, NONOVERLAP90_PACK_THREADS = 256 };

// Row i of all slices in an order in which neighbours are neighbours in w. Its line within the block of 16.
struct Nonoverlap90Packed { int slice, n, column, line, line_of_block; };

template <bool ChannelsLast>
__device__ __forceinline__ Nonoverlap90Packed nonoverlap90_packed_row(const Nonoverlap90Problem &p, int i)
{
    Nonoverlap90Packed r;
    if (ChannelsLast) {
        int oc = i / p.taps, row = i < p.columns ? (i - oc * p.taps) * p.out_channels + oc : i;
        r.slice = row / p.rows;
        r.line = row - r.slice * p.rows;
        r.n = r.line / 16 * 16 + r.line % 4 / 2 * 8 + r.line % 16 / 4 * 2 + r.line % 2;
        r.column = i < p.columns ? i : -1;
        r.line_of_block = i % NONOVERLAP90_PACK_ROWS;
    } else {
        r.slice = i / p.rows;
        r.n = i - r.slice * p.rows;
        Nonoverlap90Row row = nonoverlap90_row<false>(p, r.slice, r.n);
        r.column = row.column;
        r.line = row.line;
        r.line_of_block = row.line - r.n / 16 * (16 / p.kernel[2]);
    }
    return r;
}

// A block packs 16 rows of w, all channels: whole lines.
template <class Mode, class Tile, bool ChannelsLast>
__global__ void __launch_bounds__(NONOVERLAP90_PACK_THREADS)
nonoverlap90_pack_kernel(const __grid_constant__ Nonoverlap90Problem p, unsigned char *packed, void *copy)
{
#if CONVT3D__SM90A
    typedef typename Mode::T T;
    enum { Rows = NONOVERLAP90_PACK_ROWS, Threads = NONOVERLAP90_PACK_THREADS };
    __shared__ uint32_t most[Rows], most_inverse[Rows];     // by line of the block; ~least
    asm volatile("griddepcontrol.launch_dependents;");
    int blocks = p.chunks * Tile::Channels / 32, units = Rows * blocks, begin = (int)blockIdx.x * Rows;
    uint32_t v[32];
    if (Mode::Scaled) {
        if (threadIdx.x < Rows) most[threadIdx.x] = most_inverse[threadIdx.x] = 0;
        __syncthreads();
        for (int unit = threadIdx.x; unit < units; unit += Threads) {
            Nonoverlap90Packed r = nonoverlap90_packed_row<ChannelsLast>(p, begin + unit % Rows);
            Magnitudes range;
            nonoverlap90_fetch<T>(p, r.column, unit / Rows * 32, v);
#pragma unroll
            for (int i = 0; i < 32; i++) range.add(v[i]);
            atomicMax(most + r.line_of_block, range.most);
            atomicMax(most_inverse + r.line_of_block, ~range.least);
        }
        __syncthreads();
    }
    for (int unit = threadIdx.x; unit < units; unit += Threads) {
        int block = unit / Rows;
        Nonoverlap90Packed r = nonoverlap90_packed_row<ChannelsLast>(p, begin + unit % Rows);
        unsigned char *to = packed + r.slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
        int64_t part = (int64_t)p.rows * blocks * 64;
        float factor = 1;
        if (!Mode::Scaled || units > (int)Threads) nonoverlap90_fetch<T>(p, r.column, block * 32, v);
        if (Mode::Scaled && copy && r.column >= 0)
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (block * 32 + i < p.in_channels)
                    ((uint32_t *)copy)[(int64_t)(block * 32 + i) * p.columns + r.column] = v[i];
        if (Mode::Scaled) {
            Magnitudes range;
            range.most = most[r.line_of_block];
            if (Mode::Narrow) range.least = ~most_inverse[r.line_of_block];
            factor = HalfScale(range, Mode::Narrow ? p.keep : 0).factor;
            if (block == 0) {
                uint32_t *magnitudes = (uint32_t *)(to + part * Mode::Parts);
                magnitudes[r.line] = range.most;
                if (Mode::Narrow) magnitudes[p.lines + r.line] = ~range.least;
            }
        }
        nonoverlap90_pack<Mode>(to + ((int64_t)block * 4 * p.rows + r.n) * 16, p.rows, part, v, factor);
    }
#endif
}

#if CONVT3D__SM90A

// The block's slice of w and its tables, for all threads.
template <class Mode, class Tile, bool ChannelsLast, int Lists>
__device__ __forceinline__ void nonoverlap90_prepare(const Nonoverlap90Problem &p,
                                                     [[maybe_unused]] const List<typename Mode::T> &list,
                                                     const Nonoverlap90Shared<Mode, Tile, Lists> &layout,
                                                     unsigned char *shared, int slice)
{
    typedef typename Mode::T T;
    uint32_t *any_wide = (uint32_t *)(shared + layout.any_wide);
    uint32_t barrier = shared_address(shared + layout.barrier);
    Nonoverlap90Line *lines = (Nonoverlap90Line *)(shared + layout.lines);
    const unsigned char *packed = p.packed + slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    if (threadIdx.x == 0) {
        for (int i = 0; i < (Tile::Streams ? 3 : 1); i++) barrier_init(barrier + 8 * i, 1);
        if (Tile::Streams) *(uint2 *)(shared + layout.barrier + 24) = make_uint2(0, 0);
        barrier_init_done();
        *any_wide = 0;
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    bool bulk = (uintptr_t)packed % 16 == 0;
    if (!bulk)
        for (int i = threadIdx.x; i < layout.slots / 2; i += Tile::Threads)
            ((uint16_t *)shared)[i] = ((const uint16_t *)packed)[i];
    if (!bulk) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (threadIdx.x == 0 && bulk) {
        const int most = 32768;
        barrier_expect(barrier, layout.slots);
        for (int at = 0; at < layout.slots; at += most)
            bulk_load(shared_address(shared) + at, packed + at, min(most, layout.slots - at), barrier);
    }
    const uint32_t *magnitudes = (const uint32_t *)(packed + layout.slot * p.chunks * Mode::Parts);
    for (int n = threadIdx.x; n < p.rows; n += Tile::Threads) {
        Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
        if (!ChannelsLast && r.kw > 0) continue;
        Nonoverlap90Line line = {-1, 1, 0, {0}};
        int oc = 0;
        bool wide = false;
        if (Mode::Scaled) {
            HalfScale scale = nonoverlap90_scale(p, magnitudes, r.line, Mode::Narrow);
            line.inverse = scale.inverse;
            wide = Lists ? nonoverlap90_wide_line<ChannelsLast>(p, magnitudes, r.line, Mode::Narrow) : scale.wide;
            if (wide) atomicOr(any_wide, 1);
        }
        if (r.column >= 0) {
            if (!(Lists && wide)) line.offset = (int)nonoverlap90_offset<ChannelsLast>(p, r);   // else it is repaired
            line.oc = oc = r.oc;
            if (p.bias) line.bias = Number<T>::widen(((const T *)p.bias)[r.oc]);
        }
        if constexpr (Lists == WHOLE_LIST)
            ((Nonoverlap90Head *)(shared + layout.heads))[r.line] = {list.head.factor(oc), list.head.term(oc)};
        if constexpr (Lists == LIGHT_LIST) {
            line.factor = list.head.factor(oc);
            ((float *)(shared + layout.heads))[r.line] = list.head.term(oc);
        }
        lines[r.line] = line;
    }
    __syncthreads();
    if (bulk) barrier_wait(barrier, 0);
}

// The low halves of w on their way through two slots, chunk after chunk, tile after tile. All warps of a block leave a
// slot, and the last of them has it filled again.
template <class Mode, class Tile, int Lists> struct Nonoverlap90Stream {
    typedef Nonoverlap90Shared<Mode, Tile, Lists> Layout;
    const Layout &layout;
    unsigned char *shared;
    const unsigned char *low;       // of the slice
    int chunks, at, end;            // chunks that this warp has left, and that there will be

    __device__ __forceinline__ uint32_t barrier(int i) const
    {
        return shared_address(shared + layout.barrier) + 8 + i % 2 * 8;
    }

    // By a warp: fills the slot of chunk i of all, if there is one.
    __device__ __forceinline__ void fill(int i) const
    {
        if (i >= end) return;
        unsigned char *to = shared + layout.slots + i % 2 * layout.slot;
        const unsigned char *from = low + (int64_t)(i % chunks) * layout.slot;
        const int lane = threadIdx.x % 32;
        if ((uintptr_t)from % 16 == 0) {
            if (lane > 0) return;
            barrier_expect(barrier(i), layout.slot);
            bulk_load(shared_address(to), from, layout.slot, barrier(i));
            return;
        }
        for (int k = lane; k < layout.slot / 2; k += 32) ((uint16_t *)to)[k] = ((const uint16_t *)from)[k];
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        if (lane == 0) barrier_expect(barrier(i), 0);
    }

    // Cells from the weights on to the next chunk, when it is there.
    __device__ __forceinline__ uint32_t next() const
    {
        barrier_wait(barrier(at), at / 2 % 2);
        return (uint32_t)(layout.slots + at % 2 * layout.slot) / 16;
    }

    __device__ __forceinline__ void leave()
    {
        uint32_t before = 0;
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;"
                         : "=r"(before) : "r"(shared_address(shared + layout.barrier) + 24 + at % 2 * 4) : "memory");
        before = __shfl_sync(0xffffffffu, before, 0);
        if (before % (Tile::Threads / 32) == Tile::Threads / 32 - 1) fill(at + 2);
        at++;
    }
};

#endif

}

#endif
