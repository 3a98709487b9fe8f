// sm90_narrow: stride 2 on every axis and few input channels a group: a whole cell of outputs as rows of one wgmma.
//
// Idea      The 64 rows of operand A are weights: 8 output channels x 2 x 2 x 2 phases. Columns of the product are 64
//           positions of x, its depth the shifts of x at which any phase has a tap, times channels: zeros where a phase
//           has none. x lies in shared memory as cells of 16 bytes (narrow.cuh), and a shift is an addition to the
//           address of operand B: no operand passes through registers. A warp then has one phase of depth and height,
//           a lane four neighbours of a row of y.
// Work      One block a multiprocessor keeps the weights of a group. Each of its warpgroups goes from tile to tile on
//           its own: x to cells, products, stores, so that some wait for memory while others multiply. Where channels
//           lie side by side (NDHWC) its warpgroups have two groups (not f32), which share lines of x and y.
// Runs      64 positions are 8 x 8: neighbours along a row of x, or 8 rows of 8, whichever wastes less.
// f32, tf32, NaN, infinity  As narrow_sm80.cuh does it.
// Requires  sm_90a; f32, f16, bf16; x and y not empty; 32-bit indices; stride 2 on every axis; at most 16 input
//           channels a group; 2 to 63 shifts times 8 channels (f32: 24); weights and tiles within shared memory.
// Tile      up to 4 warpgroups; a warpgroup has up to 4 x 32 rows of any width, by cells_search().
// Store     four outputs of a row at once where rows of y are aligned; where they are not, pieces of 128 outputs pass
//           through a warp's own shared memory. 16-bit NDHWC: 8 channels at once, turned by movmatrix.
// Measured  one H200, NCDHW, weights packed in the call, ms (sm80_narrow): kb_l1_72 f32 0.094 (0.099), tf32 0.063
//           (0.085), f16 0.045 to 0.050 (0.062); kb_l1_73 0.583 (0.626), 0.517 (0.555), 0.330 (0.376);
//           casmvs_16_8 0.026 (0.034), 0.023 (0.035), 0.017 (0.021). kb_l1_72 with ReLU 2% in f32, 8% in f16 longer,
//           SiLU 7%, 32%. Both operands from shared memory at N = 64 take all of its 128 bytes a clock, which bounds
//           f32; the rest is waiting for x, of which a warpgroup has one tile. Did not help: 16-bit pieces of rows put
//           as words.
#pragma once

#include "narrow.cuh"

CONVT3D__DECLARE_KERNEL(narrow_sm90)
CONVT3D__DECLARE_PACK(narrow_sm90)

#if CONVT3D__PART(19)

namespace convt3d_cuda {

enum { CELLS_NB = 8, CELLS_POSITIONS = 64, CELLS_ROWS = 64, CELLS_MOST_SLOTS = 64, CELLS_MOST_SPLIT_STEPS = 12 };

// Elements of a channel's piece of a row in shared memory, so that channels meet different banks.
__host__ __device__ constexpr int cells_pitch(int size) { return 2 * CELLS_POSITIONS + (size == 2 ? 16 : 4); }

// Form: of the lists it applies; with any it may store wide.
template <int Mode_, ListForm Form_> struct CellsConfig {
    static constexpr int Mode = Mode_;
    static constexpr ListForm Form = Form_;
    typedef typename Sm80Mode<Mode>::T T;
    static constexpr bool Split = Mode == SM80_SPLIT, Halves = Mode == SM80_HALF || Mode == SM80_BFLOAT;
    static constexpr int Parts = Halves ? 1 : 2;    // of 16 bytes a cell: high and low halves, or 4 + 4 channels
    static constexpr int Lots = Split ? 2 : 1;      // of operand A: high and low halves
    static constexpr int Threads = 128;             // of a warpgroup, which is all that the stages of x know of
    static constexpr int Warpgroups = 4;
    static __device__ __forceinline__ uint32_t thread() { return threadIdx.x % 128; }
};
template <int Mode> struct CellsOperand { typedef __half Type; };
template <> struct CellsOperand<SM80_BFLOAT> { typedef __nv_bfloat16 Type; };
template <> struct CellsOperand<SM80_TF32> { typedef Tf32 Type; };

// The tiling of a plan, kept in plan->state. cells: of a plane, with some to spare.
struct CellsShape {
    int32_t mode, first[3], columns[3], tile[3], tiles[3], low[3], extent[3];
    int32_t cells, cell_planes, steps, channel_blocks, row_blocks, along, runs[3], x_rows, traded;
    int32_t warpgroups, share, shared;          // share: groups that a block has at a time
    double cycles;                              // of a tile
};

template <class T> struct CellsProblem {
    HaloProblem<T> h;
    const void *weights;
    const float *inverse;                       // of the scales of weights, 8 a block of channels
    uint32_t step[CELLS_MOST_SLOTS];            // operand B: cells from a position to the first half of a depth, and
    int32_t steps, channel_blocks;              // from there to the second << 16
    int32_t cells, cell_planes, x_rows, along, vectors, channel_lots, traded;
    int32_t share, tile_all, weights_bytes, tile_bytes, trade_bytes, stride_blocks; // tile_all: tiles of the batch
    HaloDivisor by_runs[2];                     // of the width, of the height
    int32_t runs;
};
static_assert(sizeof(CellsProblem<float>) <= 4096, "a kernel's parameters");

// ---- on the device: products ----

#if CONVT3D__SM90A

__device__ __forceinline__ uint64_t cells_descriptor(uint32_t low, uint32_t blocks)
{
    return (uint64_t)blocks << 32 | low;
}

template <class C> struct CellsSum { float v[32], cross[C::Split ? 32 : 1]; };

// Step s: a is of operand A's first step, b of the run's first position, both in cells.
template <class C>
__device__ __forceinline__ void cells_step(const CellsProblem<typename C::T> &p, CellsSum<C> &sum, uint32_t a,
                                           uint32_t b, uint32_t blocks, int32_t s)
{
    typedef typename CellsOperand<C::Mode>::Type Operand;
    const uint64_t high = cells_descriptor((a + s * 2 * CELLS_ROWS) | CELLS_ROWS << 16, 8);
    const uint64_t x = cells_descriptor(b + p.step[s], blocks);
    Wgmma<Operand, CELLS_POSITIONS>::multiply(sum.v, high, x, s > 0);
    if constexpr (C::Split) {
        const uint64_t low = cells_descriptor((a + (p.steps + s) * 2 * CELLS_ROWS) | CELLS_ROWS << 16, 8);
        const uint64_t x_low = cells_descriptor(b + p.cells + p.step[s], blocks);
        Wgmma<Operand, CELLS_POSITIONS>::multiply(sum.cross, high, x_low, s > 0);
        Wgmma<Operand, CELLS_POSITIONS>::multiply(sum.cross, low, x, 1);
    }
}

// None is left in flight across the end of a loop: ptxas would serialise them all.
template <class C, int Steps>
__device__ __forceinline__ void cells_steps(const CellsProblem<typename C::T> &p, CellsSum<C> &sum, uint32_t a,
                                            uint32_t b, uint32_t blocks, int32_t s)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < Steps; i++) cells_step<C>(p, sum, a, b, blocks, s + i);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(sum.v);
    if constexpr (C::Split) wgmma_pin(sum.cross);
}

template <class C>
__device__ __forceinline__ void cells_products(const CellsProblem<typename C::T> &p, CellsSum<C> &sum, uint32_t a,
                                               uint32_t b, uint32_t blocks)
{
    int32_t s = 0;
#pragma unroll 1
    for (; s + 4 <= p.steps; s += 4) cells_steps<C, 4>(p, sum, a, b, blocks, s);
#pragma unroll 1
    for (; s < p.steps; s++) cells_steps<C, 1>(p, sum, a, b, blocks, s);
}

// ---- outputs ----

// This lane's outputs of a run: four of a row for each of its 8 blocks, the first at od, oh, ow.
struct CellsPlace {
    int64_t n;
    int32_t g, oc, channel;             // channel: of 8, or -1 where there is none
    int32_t od, oh, ow, step_h, step_w; // from a block to the next
    int32_t count, width;               // blocks that exist; outputs of the first block's row from ow on
    __device__ __forceinline__ int32_t exist(int j) const { return j < count ? width - j * step_w : 0; }
};

typedef float CellsValues[CELLS_NB][4];

// Those that are not finite, exactly.
template <class T>
__device__ __noinline__ void cells_exact(const CellsProblem<T> &p, const CellsPlace &at, CellsValues &v)
{
    for (int32_t j = 0; j < CELLS_NB; j++)
        for (int32_t i = 0; i < min(at.exist(j), 4); i++)
            if (not_finite(v[j][i]))
                v[j][i] = sm80_exact(p.h, at.n, at.g, at.oc + at.channel, at.od, at.oh + j * at.step_h,
                                     at.ow + j * at.step_w + i);
}

template <class T>
__device__ __forceinline__ void cells_list(const CellsProblem<T> &p, const CellsPlace &at, CellsValues &v)
{
    const int64_t channel = (int64_t)at.g * p.h.out_group + at.oc + max(at.channel, 0);
    apply_common_first(p.h.list, 0, v, [&](int) { return channel; }, [&](const Entry<float> &e, int j, float (&r)[4]) {
        const int32_t width = at.exist(j);
        const int64_t from = offset_of({at.n, channel, at.od, at.oh + j * at.step_h, at.ow + j * at.step_w, 1, 1},
                                       e.stride);
        narrow_residual<T>(e, from, width, r);
    });
}

// To y from registers.
template <class Out, class T>
__device__ __forceinline__ void cells_store(const CellsProblem<T> &p, const CellsPlace &at, Out *y,
                                            const CellsValues &v)
{
    const int64_t step = at.step_h * p.h.y_stride[3] + at.step_w * p.h.y_stride[4], next = p.h.y_stride[4];
    const bool whole = __all_sync(0xffffffffu, at.exist(CELLS_NB - 1) >= 4);
    if (whole && p.vectors) {
#pragma unroll
        for (int j = 0; j < CELLS_NB; j++) store_rounded(y + j * step, v[j]);
    } else if (whole) {
#pragma unroll
        for (int k = 0; k < CELLS_NB * 4; k++) y[k / 4 * step + k % 4 * next] = Number<Out>::round(v[k / 4][k % 4]);
    } else
#pragma unroll
        for (int j = 0; j < CELLS_NB; j++) {
            const int32_t width = at.exist(j);
            if (p.vectors && width >= 4) { store_rounded(y + j * step, v[j]);  continue; }
#pragma unroll
            for (int i = 0; i < 4; i++) if (i < width) y[j * step + i * next] = Number<Out>::round(v[j][i]);
        }
}

// Exchanges among four lanes: word i of lane t becomes word t of lane i.
__device__ __forceinline__ void cells_turn(uint32_t (&word)[4])
{
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
        const bool odd = threadIdx.x & step;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & step) continue;
            const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? word[i] : word[i + step], step);
            if (odd) word[i] = got;
            else word[i + step] = got;
        }
    }
}

// To y, 16-bit types, where 8 channels side by side are a vector: a lane has them of a position of four blocks. y: of
// this lane as before.
template <class T>
__device__ __forceinline__ void cells_store_channels(const CellsProblem<T> &p, const CellsPlace &at, T *y,
                                                     const CellsValues &v)
{
    const int32_t lane = threadIdx.x % 32, t = lane % 4, first = lane / 4 * 2;
    const int64_t step = at.step_h * p.h.y_stride[3] + at.step_w * p.h.y_stride[4];
    y += (first - 4 * t) * p.h.y_stride[4] - lane / 4;
#pragma unroll
    for (int k = 0; k < 4; k++) {           // half of the blocks, phase of the width
        const int half = k / 2 * 4, ew = k % 2;
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t pair = round_pair(v[half + j][ew], v[half + j][2 + ew], (const T *)0);
            asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(word[j]) : "r"(pair));
        }
        cells_turn(word);
        const int32_t j = half + t, width = at.width + 4 * t - first - ew;      // of this position
        if (j < at.count && width > j * at.step_w)
            __stcs((uint4 *)(y + j * step + ew * p.h.y_stride[4]), make_uint4(word[0], word[1], word[2], word[3]));
    }
}

// A warp's 8 pieces of rows through its own shared memory: vectors leave from where y is aligned. y: of this lane.
template <class T>
__device__ __forceinline__ void cells_trade(const CellsProblem<T> &p, const CellsPlace &at, T *y, T *trade,
                                            const CellsValues &v)
{
    constexpr int vector = 16 / (int)sizeof(T), pitch = cells_pitch(sizeof(T));
    constexpr int lanes = 2 * CELLS_POSITIONS / vector;                                 // of a row
    const int32_t in_row = threadIdx.x % 4 * 4, lane = threadIdx.x % 32, l = lane % lanes;
    T *slot = trade + lane / 4 * pitch + narrow_before(y - in_row) + in_row;
    if (__all_sync(0xffffffffu, at.exist(CELLS_NB - 1) >= 4)) {
#pragma unroll
        for (int k = 0; k < CELLS_NB * 4; k++) slot[k / 4 * 16 + k % 4] = Number<T>::round(v[k / 4][k % 4]);
    } else
#pragma unroll
        for (int j = 0; j < CELLS_NB; j++) {
            const int32_t width = at.exist(j);
#pragma unroll
            for (int i = 0; i < 4; i++) if (i < width) slot[16 * j + i] = Number<T>::round(v[j][i]);
        }
    __syncwarp();
    const int32_t count = __shfl_sync(0xffffffffu, min(at.width, at.count * 16), 0);
    const int32_t channels = count > 0 ? min(8, p.h.out_group - at.oc) : 0;
    y = (T *)__shfl_sync(0xffffffffu, (unsigned long long)y, 0) + lane / lanes * p.h.y_stride[1];
#pragma unroll
    for (int first = 0; first < 8; first += 32 / lanes, y += 32 / lanes * p.h.y_stride[1]) {
        const int32_t channel = first + lane / lanes, before = narrow_before(y), end = before + count;
        const int32_t last = end / vector, i = (before > 0) + l;
        const T *from = trade + channel * pitch;
        if (channel >= channels) continue;
        if (i < last) __stcs((uint4 *)(y - before) + i, ((const uint4 *)from)[i]);
        const int32_t edge = l < vector ? l : (last - 1) * vector + l;      // before the first vector, after the last
        const bool head = l < vector && before > 0 && l >= before;
        const bool tail = l >= vector && l < 2 * vector && (last > 0 || before == 0);
        if ((head || tail) && edge < end) y[edge - before] = from[edge];
    }
    __syncwarp();
}

// ---- the kernel ----

// A warpgroup's tile of x as cells. Returns what undoes their scale.
template <class C>
__device__ __forceinline__ float cells_stage(const CellsProblem<typename C::T> &p, const HaloBlock &b, uint4 *cell,
                                             float *met, int barrier)
{
    float inverse = 1;
    [[maybe_unused]] const float most = narrow_stage<C>(p, b, cell);
    if constexpr (C::Split) {
        const uint32_t bits = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
        if (threadIdx.x % 32 == 0) met[threadIdx.x / 32 % 4] = __uint_as_float(bits);
        warpgroup_sync(barrier);
        const TileScale scale(fmaxf(fmaxf(met[0], met[1]), fmaxf(met[2], met[3])));
        narrow_halves<C>(p, scale.factor, cell);
        inverse = scale.inverse;
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    return inverse;
}

// One run of a tile and one block of channels, from its products on.
template <class C>
__device__ __forceinline__ void cells_run(const CellsProblem<typename C::T> &p, const HaloBlock &b, int32_t run,
                                          int32_t oc, int32_t weights_at, uint32_t cell, float undo,
                                          typename C::T *trade)
{
    typedef typename C::T T;
    constexpr int scale = C::Split ? 0 : Sm80Mode<C::Mode>::Scale * !C::Halves;
    const HaloShape &s = p.h.s;
    const Axis<int32_t> (&axis)[3] = p.h.axis;
    const int32_t lane = threadIdx.x % 32, q = threadIdx.x / 32 % 4;
    uint32_t w = run, h = p.by_runs[0].split(w), d = p.by_runs[1].split(h);
    w *= p.along ? CELLS_POSITIONS : 8;
    h *= p.along ? 1 : 8;

    CellsPlace at;
    at.n = b.n;
    at.g = b.g;
    at.oc = oc;
    at.channel = lane / 4 < p.h.out_group - oc ? lane / 4 : -1;
    at.step_h = p.along ? 0 : 2;
    at.step_w = p.along ? 16 : 0;
    at.od = 2 * (b.q[0] - s.first[0] + (int32_t)d) + q / 2;
    at.oh = 2 * (b.q[1] - s.first[1] + (int32_t)h) + q % 2;
    at.ow = 2 * (b.q[2] - s.first[2] + (int32_t)w) + lane % 4 * 4;
    at.width = axis[2].out - at.ow;
    const int32_t blocks = p.along ? (s.tile[2] - (int32_t)w + 7) / 8 : s.tile[1] - (int32_t)h;
    const int32_t rows = p.along ? (at.oh < axis[1].out) * 8 : (axis[1].out - at.oh + 1) / 2;
    at.count = at.od < axis[0].out && at.channel >= 0 ? min(min(blocks, rows), 8) : 0;

    CellsSum<C> sum;
    const uint32_t first = ((int32_t)d * s.extent[1] + (int32_t)h) * s.extent[2] + (int32_t)w;
    cells_products<C>(p, sum, oc / 8 * p.steps * C::Lots * 2 * CELLS_ROWS +
                                  (shared_address(halo_shared + weights_at) >> 4),
                      cell + first, p.along ? 8 : s.extent[2]);

    const int64_t channel = (int64_t)b.g * p.h.out_group + oc + max(at.channel, 0);
    const float bias = halo_bias(p.h, channel);
    float inverse = 1.f / (1 << scale) / (1 << scale), check = 0;           // check: NaN where one is not finite
    if constexpr (C::Split) inverse = undo * p.inverse[(b.g * p.channel_blocks + oc / 8) * 8 + lane / 4];
    CellsValues v;
#pragma unroll
    for (int j = 0; j < CELLS_NB; j++) {
        float here = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int from = j * 4 + i / 2 + i % 2 * 2;
            v[j][i] = sum.v[from];
            if constexpr (C::Split) v[j][i] = fmaf(sum.cross[from], 1.f / 2048, v[j][i]);
            v[j][i] = fmaf(v[j][i], inverse, bias);
            here = fmaf(v[j][i], 0.f, here);
        }
        if (j < at.count) check += here;
    }
    if (__any_sync(0xffffffffu, check != 0.f)) {
        CellsValues copy;                       // so that the others may stay in registers
        const CellsPlace place = at;
#pragma unroll
        for (int k = 0; k < CELLS_NB * 4; k++) copy[k / 4][k % 4] = v[k / 4][k % 4];
        cells_exact(p, place, copy);
#pragma unroll
        for (int k = 0; k < CELLS_NB * 4; k++) v[k / 4][k % 4] = copy[k / 4][k % 4];
    }
    if constexpr (C::Form == LIGHT_LIST) halo_light(p.h.list, channel, reinterpret_cast<float (&)[CELLS_NB * 4]>(v));
    else if constexpr (C::Form == WHOLE_LIST) cells_list(p, at, v);
    const int64_t to = b.n * p.h.y_stride[0] + channel * p.h.y_stride[1] + at.od * p.h.y_stride[2] +
                       at.oh * p.h.y_stride[3] + at.ow * p.h.y_stride[4];
    if (C::Form == WHOLE_LIST && sizeof(T) == 2 && p.h.wide) cells_store(p, at, (float *)p.h.y + to, v);
    else if (p.traded) cells_trade(p, at, p.h.y + to, trade, v);
    else if constexpr (C::Halves) {
        if (p.channel_lots) cells_store_channels(p, at, p.h.y + to, v);
        else cells_store(p, at, p.h.y + to, v);
    }
    else cells_store(p, at, p.h.y + to, v);
}

#endif

template <class C>
__global__ void __launch_bounds__(C::Warpgroups * 128, 1)
cells_kernel(const __grid_constant__ CellsProblem<typename C::T> p)
{
#if CONVT3D__SM90A
    typedef typename C::T T;
    __shared__ float met[C::Warpgroups][4];
    const int32_t warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), all = blockDim.x / 128;
    uint32_t block = blockIdx.x;
    const uint32_t index = p.h.by_groups.split(block);
    const int32_t weights_at = warpgroup % p.share * p.weights_bytes, weights_all = p.share * p.weights_bytes;
    uint4 *cell = (uint4 *)(halo_shared + weights_all + warpgroup * p.tile_bytes);
    T *trade = (T *)(halo_shared + weights_all + all * p.tile_bytes + warpgroup * p.trade_bytes +
                     threadIdx.x / 32 % 4 * (p.trade_bytes / 4));
    const int32_t together = all / p.share, g = (int32_t)block * p.share + warpgroup % p.share;
    int32_t tile = index * together + warpgroup / p.share;
    HaloBlock b = narrow_tile(p.h, tile, g);
    float undo = 1;
    if (tile < p.tile_all) undo = cells_stage<C>(p, b, cell, met[warpgroup], warpgroup + 1);
    await_launch_before();
    const char *weights = (const char *)p.weights + (int64_t)block * weights_all;
    for (int32_t i = threadIdx.x * 16; i < weights_all; i += blockDim.x * 16)
        stage_vector((float *)(halo_shared + i), (const float *)(weights + i));
    stage_wait();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
#pragma unroll 1
    while (tile < p.tile_all) {
#pragma unroll 1
        for (int32_t oc = 0; oc < p.h.out_group; oc += 8)
#pragma unroll 1
            for (int32_t run = 0; run < p.runs; run++)
                cells_run<C>(p, b, run, oc, weights_at, shared_address(cell) >> 4, undo, trade);
        tile += p.stride_blocks * together;
        if (tile >= p.tile_all) break;
        b = narrow_tile(p.h, tile, g);
        warpgroup_sync(warpgroup + 1);              // no warp multiplies any more
        undo = cells_stage<C>(p, b, cell, met[warpgroup], warpgroup + 1);
        warpgroup_sync(warpgroup + 1);
    }
#endif
}

// ---- packing ----

// A half of a step's depth (tf32: a whole step), 8 channels of a shift: their cell, the taps of both phases of an axis.
struct CellsSlot { int8_t cell, k[3][2]; };

template <class T> struct CellsPacking {
    typedef T Element;
    const T *w;
    void *weights;
    float *inverse;
    T *copy;                                        // of w as it came, where the pack outlives it
    CellsSlot slot[CELLS_MOST_SLOTS];
    int32_t steps, channel_blocks, in_group, out_group, taps, kernel_h, kernel_w, parts;
    int64_t elements;
};

// A block packs a part of the cells of one block of channels.
template <class C> __global__ void __launch_bounds__(256)
cells_pack_kernel(const __grid_constant__ CellsPacking<typename C::T> p)
{
    typedef typename C::T T;
    __shared__ float factor[8];
    start_next_launch();
    const int32_t thread = threadIdx.x, block = blockIdx.x / p.parts, part = blockIdx.x - block * p.parts;
    const int32_t g = block / p.channel_blocks, oc = (block - g * p.channel_blocks) * 8;
    const int32_t cells = p.steps * 2 * CELLS_ROWS;
    narrow_pack_begins<C>(p, g, oc, block, part, factor);
    for (int32_t i = part * 256 + thread; i < cells; i += p.parts * 256) {
        constexpr int each = C::Mode == SM80_TF32 ? 4 : 8;
        const int32_t row = i % CELLS_ROWS, half = i / CELLS_ROWS, q = row / 16;
        const CellsSlot &slot = p.slot[C::Mode == SM80_TF32 ? half / 2 : half];
        const int32_t kd = slot.k[0][q / 2], kh = slot.k[1][q % 2], kw = slot.k[2][row / 8 % 2];
        const int32_t ic = slot.cell * 8 + (C::Mode == SM80_TF32 ? half % 2 * 4 : 0), tap = kd * p.kernel_h + kh;
        const bool real = slot.cell >= 0 && kd >= 0 && kh >= 0;
        float v[each];
#pragma unroll
        for (int c = 0; c < each; c++) v[c] = narrow_weight(p, g, oc + row % 8, ic + c, tap, real ? kw : -1);
        uint4 *to = (uint4 *)p.weights + (int64_t)block * C::Lots * cells + i;
        uint32_t r[4];
        if constexpr (C::Mode == SM80_TF32) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[c]) : "f"(v[c] * (1 << Sm80Mode<C::Mode>::Scale)));
        } else if constexpr (C::Split) {
            uint32_t low[4];
#pragma unroll
            for (int c = 0; c < 4; c++) split_apart(v[2 * c], v[2 * c + 1], factor[row % 8], r[c], low[c]);
            to[cells] = make_uint4(low[0], low[1], low[2], low[3]);
        } else
#pragma unroll
            for (int c = 0; c < 4; c++) r[c] = round_pair(v[2 * c], v[2 * c + 1], (const T *)0);
        to[0] = make_uint4(r[0], r[1], r[2], r[3]);
    }
}

// ---- on the host ----

// The slots of a plan in the order of their places in a tile, lowest first, since the second half of a depth must lie
// behind the first; an odd one gets a half of zeros before it.
struct CellsSlots {
    int32_t count, at[CELLS_MOST_SLOTS];
    CellsSlot slot[CELLS_MOST_SLOTS];
};

static inline void cells_slots(const CellsShape &s, const Sm80Walk (&walk)[3], CellsSlots &slots)
{
    memset(&slots, 0, sizeof slots);
    const int32_t all = walk[0].entries * walk[1].entries * walk[2].entries * s.cell_planes;
    const bool odd = s.mode != SM80_TF32 && all % 2 == 1;
    if (odd) {
        slots.slot[0] = {-1, {{-1, -1}, {-1, -1}, {-1, -1}}};
        slots.count = 1;
    }
    for (int32_t cell = 0; cell < s.cell_planes; cell++)        // shifts are in descending order
        for (int32_t d = walk[0].entries - 1; d >= 0; d--)
            for (int32_t h = walk[1].entries - 1; h >= 0; h--)
                for (int32_t w = walk[2].entries - 1; w >= 0; w--) {
                    const int32_t entry[3] = {d, h, w};
                    CellsSlot &slot = slots.slot[slots.count];
                    int32_t at[3];
                    slot.cell = (int8_t)cell;
                    for (int a = 0; a < 3; a++) {
                        at[a] = walk[a].axis.entry[entry[a]].offset - s.low[a];
                        for (int e = 0; e < 2; e++) slot.k[a][e] = (int8_t)narrow_tap(walk[a], entry[a], e);
                    }
                    slots.at[slots.count++] = cell * narrow_parts(s.mode) * s.cells +
                                              (at[0] * s.extent[1] + at[1]) * s.extent[2] + at[2];
                }
    if (odd) {                                                  // zeros times what the first slot reads, too
        slots.at[0] = slots.at[1];
        if (slots.count > 2) {                                  // the halves: {nothing, last}, then pairs
            const CellsSlot last = slots.slot[slots.count - 1];
            const int32_t at = slots.at[slots.count - 1];
            for (int32_t i = slots.count - 1; i > 1; i--) {
                slots.slot[i] = slots.slot[i - 1];
                slots.at[i] = slots.at[i - 1];
            }
            slots.slot[1] = last;
            slots.at[1] = at;
        }
    }
}

static inline int64_t narrow_weights_bytes(const CellsShape &s)
{
    return (int64_t)s.channel_blocks * s.steps * 2 * CELLS_ROWS * 16 * (s.mode == SM80_SPLIT ? 2 : 1);
}

static inline int64_t cells_tile_bytes(const CellsShape &s)
{
    return (int64_t)s.cells * narrow_parts(s.mode) * s.cell_planes * 16;
}

static inline int64_t cells_trade_bytes(const CellsShape &s)
{
    return s.traded ? 4 * 8 * (narrow_halved(s.mode) ? 2 * cells_pitch(2) : 4 * cells_pitch(4)) : 0;
}

// Groups that a block does at the same time: two where channels lie side by side, which share lines of x and y, unless
// weights and tiles of a split would leave no room.
static inline int32_t cells_share(const convt3d__plan *plan, const CellsShape &s)
{
    const bool two = plan->desc.y_stride[1] == 1 && plan->desc.groups % 2 == 0 && s.mode != SM80_SPLIT;
    return two && 2 * narrow_weights_bytes(s) <= 72 * 1024 ? 2 : 1;
}

// Fills in what depends on the tile; false where it is too large.
static inline bool cells_measure(const convt3d__plan *plan, CellsShape &s, const Sm80Walk (&walk)[3], int64_t limit)
{
    int64_t cells = 1;
    int32_t halo[3];
    for (int a = 0; a < 3; a++) {
        halo[a] = walk[a].high - s.low[a];
        s.extent[a] = s.tile[a] + halo[a];
        if (a == 2 && s.x_rows) s.extent[a] = (s.extent[a] + 3) / 4 * 4;
        s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        cells *= s.extent[a];
    }
    s.row_blocks = (int32_t)convt3d__ceil_div(s.tile[2], 8);
    s.runs[0] = s.tile[0];
    s.runs[1] = s.along ? s.tile[1] : (int32_t)convt3d__ceil_div(s.tile[1], 8);
    s.runs[2] = s.along ? (int32_t)convt3d__ceil_div(s.row_blocks, CELLS_NB) : s.row_blocks;
    const int64_t rows = (int64_t)(s.tile[0] - 1 + halo[0]) * s.extent[1] + s.runs[1] * (s.along ? 1 : 8) - 1 + halo[1];
    const int64_t width = s.runs[2] * (s.along ? CELLS_POSITIONS : 8) + halo[2];
    cells = convt3d__max(cells, rows * s.extent[2] + width);        // what the last run reads
    if (s.extent[2] >= 1 << 14 || cells * narrow_parts(s.mode) * s.cell_planes >= 1 << 14) return false;
    s.cells = (int32_t)cells;
    const int64_t each = cells_tile_bytes(s) + cells_trade_bytes(s), left = limit - s.share * narrow_weights_bytes(s);
    if (left < each) return false;
    s.warpgroups = (int32_t)(convt3d__min(left / each, 4) / s.share * s.share);
    if (s.warpgroups < 1) return false;
    s.shared = (int32_t)(s.share * narrow_weights_bytes(s) + s.warpgroups * each);
    const double runs = (double)s.runs[0] * s.runs[1] * s.runs[2] * s.channel_blocks;
    const double matrix = runs * s.steps * 32 * (s.mode == SM80_SPLIT ? 3 : 1);
    const double size = (double)convt3d__element_size(plan->desc.dtype);
    // Measured on an H200: runs with blocks that do not exist, f32 rows in pieces, and narrow tiles where channels are
    // neighbours take longer to store.
    double stores = runs * 4096 * (size / 16 + (s.traded ? s.tiles[2] > 1 && size == 4 ? 0.15 : 0.1 : 0.03));
    if (s.along && s.row_blocks % CELLS_NB != 0) stores *= 1.25;
    if (plan->desc.y_stride[1] == 1) stores *= 1 + 6.0 / s.tile[2];
    const double staged = (double)cells * s.cell_planes * (s.mode == SM80_SPLIT ? 2 : 1);
    s.cycles = matrix + stores + staged + 1500;
    return true;
}

// Cycles of the card for `batch` samples, as tiles divide among warpgroups, of which three hide each other's waiting.
static inline double cells_cycles(const convt3d__plan *plan, const CellsShape &s, double batch)
{
    const double tiles = batch * (double)plan->desc.groups * s.tiles[0] * s.tiles[1] * s.tiles[2];
    const double each = tiles / plan->multiprocessors, busy = convt3d__min(each, (double)s.warpgroups);
    const double rounds = (double)convt3d__ceil_div((int64_t)tiles, plan->multiprocessors * s.warpgroups);
    return s.cycles * (busy < each ? rounds * s.warpgroups : each) * (busy < 3 ? 3 / busy : 1);
}

// The tile that costs least. What the batch is does not matter where tiles have scales, so that no sample's depend on
// it.
static inline bool cells_search(const convt3d__plan *plan, CellsShape &best, const Sm80Walk (&walk)[3], int64_t limit)
{
    const int32_t blocks = (int32_t)convt3d__ceil_div(best.columns[2], 8);
    double least = 0;
    const CellsShape blank = best;
    for (int along = 0; along < 2; along++) {
        if (blank.traded && !along) continue;
        for (int32_t w = 1; w <= blocks; w++) {                     // pieces of the width
            const int32_t wide = (int32_t)convt3d__ceil_div(blocks, w) * 8;
            if (w > 1 && convt3d__ceil_div(blocks * 8, wide) != w) continue;
            for (int32_t d = 1; d <= convt3d__min(best.columns[0], 4); d++)
                for (int32_t h = 1; h <= convt3d__min(best.columns[1], 32); h++) {
                    CellsShape s = blank;
                    s.along = along;
                    s.tile[0] = d;
                    s.tile[1] = h;
                    s.tile[2] = (int32_t)convt3d__min(wide, best.columns[2]);
                    if (!along && h % 8 != 0 && h != best.columns[1]) continue;
                    if (!cells_measure(plan, s, walk, limit)) continue;
                    double cycles = 0;
                    for (int batch = 1; batch <= 8; batch *= 2) cycles += cells_cycles(plan, s, batch) / batch;
                    if (s.mode != SM80_SPLIT) cycles = cells_cycles(plan, s, (double)plan->desc.batch);
                    if (least > 0 && cycles >= least) continue;
                    least = cycles;
                    best = s;
                }
        }
    }
    return least > 0;
}

static inline const char *cells_plan(const convt3d__plan *plan, CellsShape &s, Sm80Walk (&walk)[3])
{
    memset(&s, 0, sizeof s);
    if (!convt3d__has_sm90a(plan)) return "needs sm_90a";
    const bool strides = plan->axis[0].stride == 2 && plan->axis[1].stride == 2 && plan->axis[2].stride == 2;
    const char *refusal = narrow_begin(plan, strides ? "" : "a stride that is not 2", s, walk);
    if (*refusal) return refusal;
    int64_t slots = s.cell_planes;
    for (int a = 0; a < 3; a++) slots *= walk[a].entries;
    if (slots < 2 || slots > CELLS_MOST_SLOTS - 1) return slots < 2 ? "a single shift" : "too many shifts";
    s.steps = (int32_t)(s.mode == SM80_TF32 ? slots : (slots + 1) / 2);
    if (s.mode == SM80_SPLIT && s.steps > CELLS_MOST_SPLIT_STEPS) return "too many products of an output for one sum";
    s.share = cells_share(plan, s);
    if (!cells_search(plan, s, walk, 226 * 1024)) return "a tile with its halo exceeds shared memory";
    return narrow_end(plan, s, 64);
}

template <class C>
convt3d_status cells_pack(const convt3d__plan *plan, const CellsShape &s, const Sm80Walk (&walk)[3], const void *w,
                          void *packed, bool copy, void *stream, convt3d_error *error)
{
    CellsPacking<typename C::T> p = {};
    CellsSlots slots;
    cells_slots(s, walk, slots);
    memcpy(p.slot, slots.slot, sizeof p.slot);
    narrow_packing(plan, s, w, packed, copy, p);
    p.steps = s.steps;
    p.kernel_h = (int32_t)plan->axis[1].kernel;
    p.parts = (int32_t)convt3d__ceil_div(s.steps * 2 * CELLS_ROWS, 256);
    return convt3d__launch(error, cells_pack_kernel<C>,
                           dim3((unsigned)(plan->desc.groups * s.channel_blocks * p.parts)), dim3(256), 0, stream, p);
}

template <class C>
convt3d_status cells_launch(const convt3d__plan *plan, const convt3d_io *io, const CellsShape &s,
                            const Sm80Walk (&walk)[3], convt3d_error *error)
{
    const convt3d_desc &d = plan->desc;
    CellsProblem<typename C::T> p = {};
    CellsSlots slots;
    convt3d_status aligned = narrow_problem<typename C::T>(plan, io, s, p, error);
    if (aligned != CONVT3D_OK) return aligned;
    cells_slots(s, walk, slots);
    for (int32_t i = 0; i < s.steps; i++) {
        if (s.mode == SM80_TF32) p.step[i] = slots.at[i] | s.cells << 16;
        else p.step[i] = slots.at[2 * i] | (slots.at[2 * i + 1] - slots.at[2 * i]) << 16;
    }
    p.along = s.along;
    p.channel_lots = d.y_stride[1] == 1 && plan->out_group % 8 == 0 && d.alignment >= 16;
    for (int i = 0; i < 5; i++) if (i != 1 && d.y_stride[i] % 8 != 0) p.channel_lots = 0;
    p.tile_bytes = (int32_t)cells_tile_bytes(s);
    p.trade_bytes = (int32_t)cells_trade_bytes(s);
    p.by_runs[0] = halo_divisor(s.runs[2]);
    p.by_runs[1] = halo_divisor(s.runs[1]);
    p.runs = s.runs[0] * s.runs[1] * s.runs[2];
    int64_t tiles = d.batch;
    for (int a = 0; a < 3; a++) tiles *= s.tiles[a];
    p.tile_all = (int32_t)tiles;
    p.share = s.share;
    const int64_t sets = d.groups / s.share;
    p.h.by_groups = halo_divisor(sets);
    p.stride_blocks = (int32_t)convt3d__min(convt3d__ceil_div(tiles, s.warpgroups / s.share),
                                            convt3d__max(plan->multiprocessors / sets, 1));
    return sm80_launch_after(plan, !io->w_packed, error, cells_kernel<C>,
                             dim3((unsigned)(p.stride_blocks * sets)), dim3((unsigned)s.warpgroups * 128),
                             (size_t)s.shared, io->stream, p);
}

// As NarrowTable wants it.
struct NarrowSm90 {
    typedef CellsShape Shape;
    static const char *plan(const convt3d__plan *plan, Shape &s, Sm80Walk (&walk)[3])
    {
        return cells_plan(plan, s, walk);
    }
    template <class Act> static auto instance(const convt3d__plan *plan, const Shape &s, Act act)
    {
        return narrow_with_mode(s.mode, [&](auto mode) {
            return halo_with_form(plan, [&](auto form) {
                return act(CellsConfig<decltype(mode)::Mode, decltype(form)::Form>());
            });
        });
    }
    template <class C, class... Actual> static convt3d_status pack(Actual &&...actual)
    {
        return cells_pack<C>(actual...);
    }
    template <class C, class... Actual> static convt3d_status run(Actual &&...actual)
    {
        return cells_launch<C>(actual...);
    }
    template <class C> static auto *packing() { return cells_pack_kernel<C>; }
    template <class C> static auto *running() { return cells_kernel<C>; }
};
typedef NarrowTable<NarrowSm90> NarrowSm90Table;

}

extern "C" int32_t convt3d__narrow_sm90_refuses(convt3d__plan *plan, char why[96])
{
    return convt3d_cuda::NarrowSm90Table::refuses(plan, why);
}

extern "C" double convt3d__narrow_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const CellsShape s = kept_shape<CellsShape>(plan);
    const double size = (double)convt3d__element_size(plan->desc.dtype);
    // Fitted to times of an H200, within 15%. Where channels are neighbours, pieces of 8 channels bound it.
    const double compute = cells_cycles(plan, s, (double)plan->desc.batch) / 2e9;
    double memory = (double)(plan->y_count + plan->x_count) * size / 3.2e12;
    if (plan->desc.y_stride[4] != 1) {
        const double one = size < 4 ? 2.4e-12 : s.mode == SM80_SPLIT ? 2.45e-12 : 2.6e-12;
        memory = (double)plan->y_count * (s.channel_blocks == 1 ? one : size < 4 ? 13e-12 : 7.3e-12);
        if ((double)plan->y_count * size < 25e6) memory *= 0.5;     // the L2 puts the pieces together
    }
    return (compute > memory ? compute : memory) + 6e-6;
}

extern "C" int64_t convt3d__narrow_sm90_workspace(const convt3d__plan *plan)
{
    return convt3d_cuda::NarrowSm90Table::workspace(plan);
}

extern "C" int64_t convt3d__narrow_sm90_packed(const convt3d__plan *plan)
{
    return convt3d_cuda::NarrowSm90Table::packed(plan);
}

extern "C" convt3d_status convt3d__narrow_sm90_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                    void *stream, convt3d_error *error)
{
    return convt3d_cuda::NarrowSm90Table::pack(plan, w, packed, stream, error);
}

extern "C" convt3d_status convt3d__narrow_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::NarrowSm90Table::ready(plan, error);
}

extern "C" convt3d_status convt3d__narrow_sm90_run(const convt3d__plan *plan, const convt3d_io *io,
                                                   convt3d_error *error)
{
    return convt3d_cuda::NarrowSm90Table::run(plan, io, error);
}

#endif
