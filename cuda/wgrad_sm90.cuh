// sm90_wgrad: dw of dense convolutions, and dbias, on Hopper's wgmma, for any kernel, stride, padding and dilation.
//
// Idea      dw[ic, oc, k] is a product of two matrices over all positions of the input: x [ic][position] and, for each
//           tap, a plane of dy [oc][position + shift] (phases.cuh). Cells of eight channels are what wgmma calls
//           MN-major, so both come from planes as they are, and a tap is an addition to an address. The taps along the
//           inner axes (w; or h and w; or all, by what is brought least) that meet one phase of dy are a class. The
//           columns of the product are cells of dy for each tap along the outer axes, NB/8 of them to a segment in
//           shared memory, which serves all taps of its class: an entry is a segment at the distance of one of them.
//           The rows are 8 cells of x; where there are fewer, the same cells again `stack` times, each one step of w
//           behind the one before, so that an entry gives as many taps. Four warps copy, two warpgroups multiply: T
//           entries each or, where there are more than 8 cells of x (tall), both the same T, with 8 cells each. The sum
//           over positions is cut into pieces, as the shape says; what they give is merged in order, in double. dbias
//           is summed with dy's planes where these hold all of it.
// Left      Where sm90_dgrad has just made dx, dy's planes are in the workspace.
// f32       three f16 products of scaled halves (split.cuh), added to f32 registers after every 64 positions, with the
//           scale of their sample. CONVT3D_TF32: the product of the high halves alone, which have tf32's digits but for
//           values 2^28 times smaller than the largest of their sample; stages near such a value, which the pass that
//           makes planes marks, take all three. f16, bf16: one product.
// Groups    few channels a group: rows may hold several groups (a super-group), of whose products with the columns of
//           all of them the pairs that belong together are kept.
// NaN, inf  and samples whose scales lie more than 2^100 apart: dw is summed by wgrad_merge_kernel, from x and dy.
// Launches  scales and dbias, operands, what the guess of split.cuh missed, products, merging.
// Requires  sm_90; not f64; stride <= 16, at most 400 taps, 128 along w, 2^30 positions with their zeros.
// Measured  one H200, NCDHW, products alone and all of dw and dbias after dx, ms in f32 and f16: unet3d_128_64 0.30 and
//           0.13, 0.37 and 0.20; gan_128_64_32 2.36 and 0.76, 2.59 and 0.92; gan_512_256_4 0.26 and 0.10, 0.35 and
//           0.18; kb_l2_61, where no planes are left, 1.05 and 0.37, 1.38 and 0.64. With copies by one warp alone it
//           took 1.4 times as long.
// CONVT3D_CUDA_PART 14.
#pragma once

CONVT3D__DECLARE_KERNEL(wgrad_sm90)

#if CONVT3D__PART(14)

namespace convt3d_cuda {

enum { WGRAD_SPLIT = 0, WGRAD_F16 = 1, WGRAD_BF16 = 2, WGRAD_TF32 = 3 };
enum { WGRAD_THREADS = 384, WGRAD_SHARED = 220 * 1024, WGRAD_MOST_STAGES = 6, WGRAD_HEAD = 512, WGRAD_SPREAD = 100 };
enum { WGRAD_MOST_INNER = 128, WGRAD_MOST_CLASSES = 64, WGRAD_MOST_PITCH = 1024 };

template <int Mode> struct WgradMode;
template <> struct WgradMode<WGRAD_SPLIT> { typedef float T; typedef __half Operand; enum { Kind = SPLIT_F16 }; };
template <> struct WgradMode<WGRAD_TF32> { typedef float T; typedef __half Operand; enum { Kind = SPLIT_F16 }; };
template <> struct WgradMode<WGRAD_F16> { typedef __half T, Operand; enum { Kind = COPY_16 }; };
template <> struct WgradMode<WGRAD_BF16> { typedef __nv_bfloat16 T, Operand; enum { Kind = COPY_16 }; };

// Positions of a stage.
static constexpr int wgrad_k(int mode, int nb, int t, bool tall)
{
    return mode == WGRAD_SPLIT || mode == WGRAD_TF32 || (tall && t * nb > 256) ? 64 : 128;
}

// One instance: T entries of NB columns a warpgroup. Tall: the same for both, which have eight cells of x each.
template <int Mode_, int NB_, int T_, bool Tall_> struct WgradTile {
    typedef typename WgradMode<Mode_>::T Element;
    typedef typename WgradMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, NB = NB_, T = T_, Kind = WgradMode<Mode_>::Kind;
    static constexpr int Parts = CellKind<Kind>::Parts, Cells = NB / 8;
    static constexpr bool Split = Kind == SPLIT_F16, Tf32 = Mode_ == WGRAD_TF32;
    static constexpr bool Tall = Tall_;
    static constexpr int XBlocks = Tall ? 2 : 1, Entries = Tall ? T_ : 2 * T_;      // of a block of threads
    static constexpr int K = wgrad_k(Mode_, NB_, T_, Tall_);
    static constexpr int Ping = T_ * NB_ / 2 + 2 * NB_ <= 192 ? 2 : 1;      // accumulators of a split, by registers
    static constexpr int XCells = XBlocks * Parts * 8 * K;                  // of a stage
};

struct WgradProblem {
    const uint4 *x, *dy;
    const int *x_exponent, *y_exponent;     // of each sample, for a split
    const int *x_rough, *y_rough;           // of PhaseProblem
    float *partial;                         // [piece][unit][entry][64 or, if tall, 128][NB]
    int batch, x_pitch, y_pitch;            // positions of a row of planes; of a sample:
    int x_sample, y_sample;
    int y_pair;                             // cells of dy side by side in a part
    int reach;                              // the last position of dy that a stage meets, from its first
    int chunks, piece;                      // stages of all samples; of a piece
    int units, m_blocks, tile_entries;      // of a super-group: blocks of input channels, of entries
    int entries, rows;                      // of a super-group; taps along the outer axes
    int x_cells, y_cells, x_super, y_super; // of all groups, of a super-group
    int x_lead, stack, step;                // zeros before x; copies of its cells, and their distance
    int pitch, segments, stages;            // of dy in shared memory
    Divisor sample_chunks;
    int classes;                            // phases along the inner axes; of each:
    uint16_t first_entry[WGRAD_MOST_CLASSES + 1], columns[WGRAD_MOST_CLASSES];      // entries; of one segment,
    uint16_t first_column[WGRAD_MOST_CLASSES], span[WGRAD_MOST_CLASSES];            // where in it, the last of these
    uint16_t column[WGRAD_MOST_INNER];
    uint16_t row_phase[PHASE_MOST_TAPS];    // of each row: its phase along the outer axes, and shift
    int32_t row_shift[PHASE_MOST_TAPS];
};
static_assert(sizeof(WgradProblem) <= 4096, "a kernel's parameters");

#if CONVT3D__SM90A

// Shared operand: eight positions are a core matrix, the next eight follow; pitch: from eight channels to the next.
__device__ __forceinline__ uint64_t wgrad_descriptor(uint32_t address, uint32_t pitch)
{
    return (uint64_t)(address >> 4) | (uint64_t)8 << 16 | (uint64_t)pitch << 32;
}

// What a block multiplies: its input channels and entries, and where these lie in a stage.
struct WgradTable {
    int64_t row[16 * 16];                   // of each segment's cells: where in dy it begins, in cells; -1: none
    int offset[16];                         // of each entry, in cells from the stage's dy
    int length[16];                         // of each segment, in positions; its class; its block of NB/8 cells
    int of_class[16], block[16];
    int segments, cells;                    // cells: of all that there are
};

struct WgradUnit {
    int x_cell, x_cells, super, tile;
    __device__ __forceinline__ WgradUnit(const WgradProblem &p, int unit, int x_blocks)
    {
        tile = unit % p.tile_entries;
        int block = unit / p.tile_entries % p.m_blocks;
        super = unit / p.tile_entries / p.m_blocks;
        int end = min(p.x_cells, (super + 1) * p.x_super);
        x_cell = super * p.x_super + block * x_blocks * 8;
        x_cells = max(0, min(x_blocks * 8, end - x_cell));
    }
};

// By one thread: segments, and where entries lie in them.
template <class C> __device__ void wgrad_table(const WgradProblem &p, const WgradUnit &unit, WgradTable *t)
{
    int last = -1, of_class = 0;
    t->segments = t->cells = 0;
    for (int i = 0; i < C::Entries; i++) {
        const int e = min(unit.tile * C::Entries + i, p.entries - 1);
        while (e >= p.first_entry[of_class + 1]) of_class++;
        const int columns = p.columns[of_class], block = (e - p.first_entry[of_class]) / columns;
        const int column = e - p.first_entry[of_class] - block * columns;
        if (e - column != last) {
            last = e - column;
            t->of_class[t->segments] = of_class;
            t->block[t->segments] = block;
            t->length[t->segments++] = C::K + p.span[of_class];
        }
        t->offset[i] = (t->segments - 1) * C::Parts * C::Cells * p.pitch +
                       p.column[p.first_column[of_class] + column];
    }
}

// By all threads: the cells of segments.
template <class C> __device__ void wgrad_rows(const WgradProblem &p, const WgradUnit &unit, WgradTable *t)
{
    for (int i = threadIdx.x; i < t->segments * C::Cells; i += WGRAD_THREADS) {
        const int s = i / C::Cells, column = t->block[s] * C::Cells + i - s * C::Cells, row = column / p.y_super;
        const int cell = unit.super * p.y_super + column - row * p.y_super;
        const bool real = row < p.rows && cell < p.y_cells;
        const int64_t phase = real ? p.row_phase[row] * p.classes + t->of_class[s] : 0;
        t->row[i] = real ? ((phase * p.y_cells + cell - cell % p.y_pair) * C::Parts + cell % p.y_pair) * p.y_pitch +
                           p.row_shift[row] : -1;
        if (real) atomicAdd(&t->cells, t->length[s]);
    }
}

// Where a chunk begins in x and (but for the shift) in dy.
struct WgradPlace {
    int n, x, y;
    __device__ __forceinline__ WgradPlace(const WgradProblem &p, int chunk, int k)
    {
        uint32_t rest;
        n = (int)divide((uint32_t)chunk, p.sample_chunks, &rest);
        x = p.x_lead + n * p.x_sample + (int)rest * k;
        y = n * p.y_sample + (int)rest * k;
    }
};

// Whether high halves alone do not do for a stage; the same in all threads of the warp.
__device__ __forceinline__ bool wgrad_is_rough(const WgradProblem &p, const WgradPlace &at, int positions)
{
    const int x_first = max(0, at.x - p.stack * p.step) / ROUGH_POSITIONS;
    const int y_first = at.y / ROUGH_POSITIONS, lane = threadIdx.x % 32;
    const int x_last = min(p.x_pitch - 1, at.x + positions) / ROUGH_POSITIONS;
    const int y_last = min(p.y_pitch - 1, at.y + p.reach) / ROUGH_POSITIONS;
    int any = 0;
    for (int i = x_first + lane; i <= x_last; i += 32) any |= __ldg(p.x_rough + i);
    for (int i = y_first + lane; i <= y_last; i += 32) any |= __ldg(p.y_rough + i);
    return __any_sync(0xffffffffu, any != 0);
}

// Four warps: rows of x and of all segments, shared out over warps first, since a warp's copies go one after another.
// rough: of each stage, whether low halves come as well.
template <class C>
__device__ __forceinline__ void wgrad_load(const WgradProblem &p, const WgradUnit &unit, const WgradTable &t,
                                           int *rough, uint32_t shared, uint32_t full, uint32_t empty, int begin,
                                           int end)
{
    const int worker = threadIdx.x % 32 * 4 + threadIdx.x % 128 / 32, x_rows = unit.x_cells * p.stack;
    const int stage_cells = C::XCells + p.segments * C::Parts * C::Cells * p.pitch;
    const int width = p.stack > 1 ? p.x_super : C::XBlocks * 8;         // of a copy of x
    const uint32_t bytes = (uint32_t)(x_rows * C::K + t.cells) * 16;    // of a part
    int stage = 0;
    uint32_t parity = 1;
    for (int chunk = begin; chunk < end; chunk++) {
        const WgradPlace at(p, chunk, C::K);
        const uint32_t base = shared + (uint32_t)(stage * stage_cells) * 16, barrier = full + stage * 8;
        const bool all = !C::Tf32 || wgrad_is_rough(p, at, C::K);
        barrier_wait(empty + stage * 8, parity);
        if (worker == 0) {
            if (C::Tf32) rough[stage] = all;
            barrier_expect(barrier, all ? C::Parts * bytes : bytes);
        }
        __syncwarp();
        if (worker < C::Parts * width * p.stack) {
            int part = worker % C::Parts, row = worker / C::Parts, behind = row / width, cell = row % width;
            if (cell < unit.x_cells && (all || part == 0))
                bulk_load(base + (uint32_t)(((row / 8 * C::Parts + part) * 8 + row % 8) * C::K) * 16,
                          p.x + (int64_t)((unit.x_cell + cell) * C::Parts + part) * p.x_pitch + at.x -
                              behind * p.step, C::K * 16, barrier);
        }
        for (int i = worker; i < t.segments * C::Parts * C::Cells; i += 128) {
            int s = i / (C::Parts * C::Cells), row = i % (C::Parts * C::Cells);
            int part = C::Parts == 2 ? 1 - row / C::Cells : 0;          // low halves first
            int64_t from = t.row[s * C::Cells + row % C::Cells];
            if (from >= 0 && (all || part == 0))
                bulk_load(base + (uint32_t)(C::XCells + i * p.pitch) * 16,
                          p.dy + (from + (int64_t)(part * p.y_pair) * p.y_pitch + at.y), (uint32_t)t.length[s] * 16,
                          barrier);
        }
        if (++stage == p.stages) { stage = 0;  parity ^= 1; }
    }
}

// A split's products of one stage. Accumulators take turns, and none is left in flight at the end.
template <class C>
__device__ __forceinline__ void wgrad_split(float (&sum)[C::T][C::NB / 2], uint64_t a, uint64_t b, uint32_t high,
                                            const int (&offset)[C::T], float scale)
{
    float accumulator[C::Ping][C::NB];
#pragma unroll
    for (int i = 0; i < C::T + C::Ping - 1; i++) {
        if (i < C::T) {
            float *to = accumulator[i % C::Ping];
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < C::K / 16; k++) {
                uint64_t x = wgmma_advance(a, k * 16), y = wgmma_advance(b, offset[i] + k * 16);
                WgmmaOuter<__half, 2 * C::NB>::multiply(to, x, y, k > 0);
                WgmmaOuter<__half, C::NB>::multiply(to, wgmma_advance(x, 8 * C::K), wgmma_advance(y, high), 1);
            }
            wgmma_commit();
        }
        const int done = i - (C::Ping - 1);
        if (done < 0) continue;
        if (i < C::T && C::Ping == 2) wgmma_wait<1>(); else wgmma_wait<0>();
        float (&from)[C::NB] = accumulator[done % C::Ping];
        wgmma_pin(from);
#pragma unroll
        for (int c = 0; c < C::NB / 2; c++)
            sum[done][c] = fmaf(fmaf(from[c], 1.f / 4096, from[C::NB / 2 + c]), scale, sum[done][c]);
    }
}

// Of high halves alone.
template <class C>
__device__ __forceinline__ void wgrad_high(float (&sum)[C::T][C::NB / 2], uint64_t a, uint64_t b,
                                           const int (&offset)[C::T], float scale)
{
    float accumulator[2][C::NB / 2];
#pragma unroll
    for (int i = 0; i < C::T + 1; i++) {
        if (i < C::T) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < C::K / 16; k++)
                WgmmaOuter<__half, C::NB>::multiply(accumulator[i % 2], wgmma_advance(a, k * 16),
                                                    wgmma_advance(b, offset[i] + k * 16), k > 0);
            wgmma_commit();
        }
        if (i == 0) continue;
        if (i < C::T) wgmma_wait<1>(); else wgmma_wait<0>();
        float (&from)[C::NB / 2] = accumulator[(i - 1) % 2];
        wgmma_pin(from);
#pragma unroll
        for (int c = 0; c < C::NB / 2; c++) sum[i - 1][c] = fmaf(from[c], scale, sum[i - 1][c]);
    }
}

template <class C>
__device__ __forceinline__ void wgrad_single(float (&sum)[C::T][C::NB / 2], uint64_t a, uint64_t b,
                                             const int (&offset)[C::T])
{
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < C::K / 16; k++)
#pragma unroll
        for (int i = 0; i < C::T; i++)
            WgmmaOuter<typename C::Operand, C::NB>::multiply(sum[i], wgmma_advance(a, k * 16),
                                                             wgmma_advance(b, offset[i] + k * 16), 1);
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < C::T; i++) wgmma_pin(sum[i]);
}

// Both warpgroups: the stages of a piece, then its sums to the workspace. least: of the samples' exponents.
template <class C>
__device__ __forceinline__ void wgrad_consume(const WgradProblem &p, const WgradTable &t, const int *rough,
                                              uint32_t shared, uint32_t full, uint32_t empty, int begin, int end,
                                              int least)
{
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
    const int stage_cells = C::XCells + p.segments * C::Parts * C::Cells * p.pitch;
    const uint64_t a0 = wgrad_descriptor(shared + (C::Tall ? group * C::Parts * 8 * C::K * 16 : 0), C::K);
    const uint64_t b0 = wgrad_descriptor(shared + C::XCells * 16, p.pitch);
    int offset[C::T], stage = 0, n = -1;
    uint32_t parity = 0;
    float sum[C::T][C::NB / 2] = {}, scale = 1;
#pragma unroll
    for (int i = 0; i < C::T; i++) offset[i] = __shfl_sync(0xffffffffu, t.offset[(C::Tall ? 0 : group * C::T) + i], 0);
#pragma unroll 1
    for (int chunk = begin; chunk < end; chunk++) {
        const WgradPlace at(p, chunk, C::K);
        if (C::Split && at.n != n) {
            n = at.n;
            scale = power_of_two(max(-126, least - usable_exponent(p.x_exponent[n]) -
                                           usable_exponent(p.y_exponent[n])));
        }
        barrier_wait(full + stage * 8, parity);
        const uint64_t a = wgmma_advance(a0, stage * stage_cells), b = wgmma_advance(b0, stage * stage_cells);
        if constexpr (C::Tf32) {
            if (__shfl_sync(0xffffffffu, rough[stage], 0)) wgrad_split<C>(sum, a, b, C::Cells * p.pitch, offset, scale);
            else wgrad_high<C>(sum, a, wgmma_advance(b, C::Cells * p.pitch), offset, scale);
        } else if constexpr (C::Split) wgrad_split<C>(sum, a, b, C::Cells * p.pitch, offset, scale);
        else wgrad_single<C>(sum, a, b, offset);
        if (lane == 0) barrier_arrive(empty + stage * 8);
        if (++stage == p.stages) { stage = 0;  parity ^= 1; }
    }
    float *out = p.partial + ((int64_t)blockIdx.x * 2 * C::T + group * (C::Tall ? 1 : C::T)) * 64 * C::NB +
                 (threadIdx.x % 128 / 32 * 16 + lane / 4) * C::NB + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < C::T; i++)
#pragma unroll
        for (int c = 0; c < C::NB / 2; c += 2) {
            float2 v = make_float2(sum[i][c], sum[i][c + 1]);
            if (C::Split) v = make_float2(scale_result(v.x, -least), scale_result(v.y, -least));
            *(float2 *)(out + (i * C::XBlocks * 64 + c / 2 % 2 * 8) * C::NB + c / 4 * 8) = v;
        }
}

// The least exponent of a product of the two tensors' scales over all samples.
__device__ __forceinline__ int wgrad_least(const WgradProblem &p, int *shared)
{
    if (!p.x_exponent) return 0;
    if (threadIdx.x == 0) *shared = INT_MAX;
    __syncthreads();
    for (int n = threadIdx.x; n < p.batch; n += WGRAD_THREADS)
        atomicMin(shared, usable_exponent(p.x_exponent[n]) + usable_exponent(p.y_exponent[n]));
    __syncthreads();
    return *shared;
}
#endif

template <class C>
__global__ void __launch_bounds__(WGRAD_THREADS, 1) wgrad_kernel(const __grid_constant__ WgradProblem p)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char wgrad_shared[];
    __shared__ WgradTable table;
    __shared__ int least_shared, rough[WGRAD_MOST_STAGES];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(wgrad_shared), full = shared, empty = shared + 64;
    const WgradUnit unit(p, blockIdx.x % p.units, C::XBlocks);
    const int begin = blockIdx.x / p.units * p.piece, end = min(p.chunks, begin + p.piece);
    if (threadIdx.x == 0) {
        wgrad_table<C>(p, unit, &table);
        for (int i = 0; i < p.stages; i++) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, 8);
        }
        barrier_init_done();
    }
    const int least = wgrad_least(p, &least_shared);
    __syncthreads();
    wgrad_rows<C>(p, unit, &table);
    __syncthreads();
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (warp >= 8) {
        give_registers<24>();
        wgrad_load<C>(p, unit, table, rough, shared + WGRAD_HEAD, full, empty, begin, end);
    } else {
        take_registers<240>();
        wgrad_consume<C>(p, table, rough, shared + WGRAD_HEAD, full, empty, begin, end, least);
    }
#endif
}

// ---- before: scales and dbias, then operands ----

// dbias, cut into parts along positions: a block's threads are `lanes` neighbouring channels by 256/lanes positions.
struct WgradBias {
    const void *dy;
    double *sums;                       // [part][channel]
    int64_t positions, part, stride[5]; // of all samples; of a part
    int channels, lanes, tiles, linear; // linear: the positions of a sample have one stride
    int height, width, voxels;
};

// Of [begin, end) of a run of elements: 16 bytes at a time, added in the accumulator's type, but for what is not aligned.
template <class T> __device__ __forceinline__ double wgrad_run_sum(const T *from, int begin, int end)
{
    constexpr int N = 16 / (int)sizeof(T);
    struct alignas(16) Lot { T v[N]; };
    const int thread = (int)threadIdx.x;
    const int head = min(end, begin + (int)(-(uintptr_t)(from + begin) % 16 / sizeof(T)));
    const Lot *lots = (const Lot *)(from + head);
    const int count = (end - head) / N, tail = head + count * N;
    double sum = 0;
    if (thread < head - begin) sum += (double)Number<T>::widen(from[begin + thread]);
    if (thread < end - tail) sum += (double)Number<T>::widen(from[tail + thread]);
#pragma unroll 8
    for (int i = thread; i < count; i += SPLIT_THREADS) {
        const Lot lot = lots[i];
        typename Number<T>::Accumulator one = Number<T>::widen(lot.v[0]);
#pragma unroll
        for (int j = 1; j < N; j++) one += Number<T>::widen(lot.v[j]);
        sum += (double)one;
    }
    return sum;
}

template <class T> __device__ __forceinline__ double wgrad_bias_sum(const WgradBias &p, int channel, int64_t part)
{
    const T *dy = (const T *)p.dy + channel * p.stride[1];
    const int64_t end = min(p.positions, (part + 1) * p.part);
    const int step = SPLIT_THREADS / p.lanes;
    int64_t at = part * p.part, n = at / p.voxels;
    double sum = 0;
    for (; at < end; n++) {             // sample by sample
        const int64_t stop = min(end, (n + 1) * p.voxels);
        const T *from = dy + n * p.stride[0];
        const int begin = (int)(at - n * p.voxels), last = (int)(stop - n * p.voxels);
        at = stop;
        if (p.lanes == 1 && p.linear && p.stride[4] == 1) {
            sum += wgrad_run_sum(from, begin, last);
            continue;
        }
#pragma unroll 4
        for (int i = begin + threadIdx.x / p.lanes; i < last; i += step) {
            int64_t offset = p.linear ? i * p.stride[4] : i / p.width / p.height * p.stride[2] +
                                        i / p.width % p.height * p.stride[3] + i % p.width * p.stride[4];
            sum += (double)Number<T>::widen(from[offset]);
        }
    }
    return sum;
}

template <class T> __device__ __forceinline__ void wgrad_bias_block(const WgradBias &p, int block)
{
    __shared__ double sums[SPLIT_THREADS];
    const int tile = block % p.tiles, channel = tile * p.lanes + threadIdx.x % p.lanes;
    sums[threadIdx.x] = channel < p.channels ? wgrad_bias_sum<T>(p, channel, block / p.tiles) : 0;
    for (int half = SPLIT_THREADS / 2; half >= p.lanes; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if ((int)threadIdx.x < p.lanes && channel < p.channels)
        p.sums[(int64_t)(block / p.tiles) * p.channels + channel] = sums[threadIdx.x];
}

template <class T>
__global__ void __launch_bounds__(SPLIT_THREADS)
wgrad_scan_kernel(const __grid_constant__ GuessProblem x, const __grid_constant__ GuessProblem dy, int x_blocks,
                  int y_blocks, const __grid_constant__ WgradBias bias, int *rough, int rough_count)
{
    const int block = (int)blockIdx.x;
    for (int i = block * SPLIT_THREADS + threadIdx.x; i < rough_count; i += gridDim.x * SPLIT_THREADS) rough[i] = 0;
    if (block >= x_blocks + y_blocks) return wgrad_bias_block<T>(bias, block - x_blocks - y_blocks);
    const GuessProblem &p = block < x_blocks ? x : dy;
    if (p.count > 0) return guess_block(p, block < x_blocks ? block : block - x_blocks);
    if (threadIdx.x == 0) p.beyond[block < x_blocks ? block : block - x_blocks] = 0;
}

// N: positions of a thread. The bound keeps as many threads as hide the latency of their loads.
template <int Kind, int N>
__global__ void __launch_bounds__(SPLIT_THREADS, N == 1 ? 4 : 3)
wgrad_planes_kernel(const __grid_constant__ PhaseProblem x, const __grid_constant__ PhaseProblem dy, int x_blocks)
{
    if ((int)blockIdx.x < x_blocks) phase_block<Kind, N>(x, blockIdx.x, false);
    else phase_block<Kind, N>(dy, blockIdx.x - x_blocks, false);
}

template <int N>
__global__ void __launch_bounds__(SPLIT_THREADS)
wgrad_again_kernel(const __grid_constant__ PhaseProblem x, const __grid_constant__ PhaseProblem dy, bool x_alone)
{
    if (!x.base.exact && planes_beyond(x.base))
        for (int i = blockIdx.x; i < phase_blocks(x); i += gridDim.x) phase_block<SPLIT_F16, N>(x, i, true);
    if (!x_alone && !dy.base.exact && planes_beyond(dy.base))
        for (int i = blockIdx.x; i < phase_blocks(dy); i += gridDim.x) phase_block<SPLIT_F16, N>(dy, i, true);
}

// ---- after: pieces to dw ----

enum { MERGE_MOST = 8 * PHASE_MOST_TAPS };  // sums of a block

struct WgradMerge {
    const float *partial;
    const double *bias_sums;                // [part][channel]; or
    const float *plane_sums;                // [row of planes][its block][channel of a cell]: of phase_sums
    void *dw, *dbias;                       // or null
    const int *x_exponent, *y_exponent;     // of a split
    const uint32_t *x_flag, *y_flag;        // of the rest: samples that are not finite
    const void *x, *dy;                     // for the exact sum
    Axis<int32_t> axis[3];
    int64_t x_stride[5], y_stride[5], count;    // elements of dw
    int batch, pieces, units, tile, nb, accumulate, bias_parts, channels, in_channels;
    int in_group, out_group, taps, x_cells_group, y_cells_group, x_super, y_super, y_cells;
    int m_blocks, m_cells, tile_entries, stack, sum_rows, sum_width;
    int cells, across, slices;              // of dy for a block; blocks for one input channel; shares of the pieces
    // Of a tap along the inner axes: its entry in the first segment of its class, entries of a segment, which copy of x
    // it has.
    int inner;
    uint16_t first_entry[WGRAD_MOST_INNER];
    uint8_t columns[WGRAD_MOST_INNER], behind[WGRAD_MOST_INNER];
};
static_assert(sizeof(WgradMerge) <= 4096, "a kernel's parameters");

// Whether matrix units must not be trusted with these tensors; the same in all threads.
__device__ __forceinline__ bool wgrad_unfit(const WgradMerge &p)
{
    __shared__ int least, most;
    int bad = 0;
    if (threadIdx.x == 0) { least = INT_MAX;  most = INT_MIN; }
    __syncthreads();
    for (int n = threadIdx.x; n < p.batch; n += SPLIT_THREADS) {
        if (p.x_exponent) {
            int ex = p.x_exponent[n], ey = p.y_exponent[n];
            bad |= ex == NOT_FINITE || ey == NOT_FINITE;
            atomicMin(&least, usable_exponent(ex) + usable_exponent(ey));
            atomicMax(&most, usable_exponent(ex) + usable_exponent(ey));
        } else bad |= p.x_flag[n] != 0 || p.y_flag[n] != 0;
    }
    bad = __syncthreads_or(bad);
    return bad || (p.x_exponent && most - least > WGRAD_SPREAD);
}

// Where a piece holds an element of dw.
__device__ __forceinline__ int64_t wgrad_place(const WgradMerge &p, int ic, int oc, int tap)
{
    const int g = ic / p.in_group, c = ic - g * p.in_group;
    const int x_cell = g * p.x_cells_group + c / 8, super = x_cell / p.x_super, x = x_cell - super * p.x_super;
    const int outer = tap / p.inner, k = tap - outer * p.inner;
    const int column = outer * p.y_super + g * p.y_cells_group + oc / 8 - super * p.y_super, cells = p.nb / 8;
    const int entry = p.first_entry[k] + column / cells * p.columns[k];
    const int unit = (super * p.m_blocks + x / p.m_cells) * p.tile_entries + entry / p.tile;
    const int m = p.stack > 1 ? p.behind[k] * p.x_super + x : x % p.m_cells;
    const int64_t row = (((int64_t)unit * p.tile + entry % p.tile) * p.m_cells + m) * 8 + c % 8;
    return row * p.nb + column % cells * 8 + oc % 8;
}

template <class T> __device__ __forceinline__ void wgrad_put(T *to, double value, bool accumulate)
{
    if (accumulate) value += (double)Number<T>::widen(*to);
    *to = Number<T>::round((typename Number<T>::Accumulator)value);
}

// One element from x and dy themselves, by a block.
template <class T> __device__ void wgrad_exact(const WgradMerge &p, int ic, int oc, int tap, T *to)
{
    __shared__ double sums[SPLIT_THREADS];
    const int kw = tap % p.axis[2].kernel, kh = tap / p.axis[2].kernel % p.axis[1].kernel;
    const int kd = tap / p.axis[2].kernel / p.axis[1].kernel, g = ic / p.in_group;
    const int rows = p.axis[0].in * p.axis[1].in;
    double sum = 0;
    for (int row = threadIdx.x / 32; row < p.batch * rows; row += SPLIT_THREADS / 32) {
        int n = row / rows, d = row % rows / p.axis[1].in, h = row % p.axis[1].in;
        int64_t od = (int64_t)d * p.axis[0].stride - p.axis[0].padding + (int64_t)kd * p.axis[0].dilation;
        int64_t oh = (int64_t)h * p.axis[1].stride - p.axis[1].padding + (int64_t)kh * p.axis[1].dilation;
        if (od < 0 || od >= p.axis[0].out || oh < 0 || oh >= p.axis[1].out) continue;
        const T *x = (const T *)p.x + n * p.x_stride[0] + ic * p.x_stride[1] + d * p.x_stride[2] + h * p.x_stride[3];
        const T *dy = (const T *)p.dy + n * p.y_stride[0] + (int64_t)(g * p.out_group + oc) * p.y_stride[1] +
                      od * p.y_stride[2] + oh * p.y_stride[3];
        for (int w = threadIdx.x % 32; w < p.axis[2].in; w += 32) {
            int64_t ow = (int64_t)w * p.axis[2].stride - p.axis[2].padding + (int64_t)kw * p.axis[2].dilation;
            if (ow < 0 || ow >= p.axis[2].out) continue;
            sum += (double)Number<T>::widen(x[w * p.x_stride[4]]) * (double)Number<T>::widen(dy[ow * p.y_stride[4]]);
        }
    }
    __syncthreads();
    sums[threadIdx.x] = sum;
    for (int half = SPLIT_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) wgrad_put(to, sums[0], p.accumulate & CONVT3D_BACKWARD_W);
}

// dbias of one channel, by a block.
template <class T> __device__ void wgrad_merge_bias(const WgradMerge &p, int oc)
{
    __shared__ double sums[SPLIT_THREADS];
    double sum = 0;
    if (p.plane_sums) {
        const int g = oc / p.out_group, c = oc - g * p.out_group, cell = g * p.y_cells_group + c / 8;
        for (int i = threadIdx.x; i < p.sum_rows * p.sum_width; i += SPLIT_THREADS) {
            int row = i / p.sum_width;
            sum += (double)p.plane_sums[(((int64_t)row * p.y_cells + cell) * p.sum_width + i - row * p.sum_width) * 8 +
                                        c % 8];
        }
    } else
        for (int i = threadIdx.x; i < p.bias_parts; i += SPLIT_THREADS)
            sum += p.bias_sums[(int64_t)i * p.channels + oc];
    __syncthreads();
    sums[threadIdx.x] = sum;
    for (int half = SPLIT_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) wgrad_put((T *)p.dbias + oc, sums[0], p.accumulate & CONVT3D_BACKWARD_BIAS);
}

// All taps of `cells` cells of dy and one input channel, which lie together in dw: four channels a thread, and one in
// `slices` of the pieces.
template <class T> __device__ __forceinline__ void wgrad_merge_tile(const WgradMerge &p, int tile, double *shared)
{
    const int ic = tile / p.across, first = (tile - ic * p.across) * p.cells;
    const int cells = min(p.cells, p.y_cells_group - first), elements = cells * 8 * p.taps, items = elements / 4;
    const int64_t size = (int64_t)p.units * p.tile * p.m_cells * 8 * p.nb;
    for (int i = threadIdx.x; i < items * p.slices; i += SPLIT_THREADS) {
        const int slice = i / items, rest = (i - slice * items) / p.taps, tap = i - slice * items - rest * p.taps;
        const float *from = p.partial + wgrad_place(p, ic, first * 8 + rest * 4, tap);
        double sum[4] = {};
#pragma unroll 8
        for (int piece = slice; piece < p.pieces; piece += p.slices) {
            const float4 v = *(const float4 *)(from + piece * size);
            sum[0] += (double)v.x;  sum[1] += (double)v.y;  sum[2] += (double)v.z;  sum[3] += (double)v.w;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) shared[slice * elements + (rest * 4 + j) * p.taps + tap] = sum[j];
    }
    __syncthreads();
    T *to = (T *)p.dw + ((int64_t)ic * p.out_group + first * 8) * p.taps;
    for (int i = threadIdx.x; i < min(cells * 8, p.out_group - first * 8) * p.taps; i += SPLIT_THREADS) {
        double sum = shared[i];
        for (int slice = 1; slice < p.slices; slice++) sum += shared[slice * elements + i];
        wgrad_put(to + i, sum, p.accumulate & CONVT3D_BACKWARD_W);
    }
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(SPLIT_THREADS) wgrad_merge_kernel(const __grid_constant__ WgradMerge p)
{
    __shared__ double shared[MERGE_MOST];
    const int before = p.dbias ? p.channels : 0, block = (int)blockIdx.x - before, blocks = (int)gridDim.x - before;
    if (block < 0) return wgrad_merge_bias<T>(p, (int)blockIdx.x);
    if (wgrad_unfit(p)) {
        for (int64_t i = block; i < p.count; i += blocks) {
            int64_t pair = i / p.taps;
            wgrad_exact(p, (int)(pair / p.out_group), (int)(pair % p.out_group), (int)(i % p.taps), (T *)p.dw + i);
        }
        return;
    }
    for (int tile = block; tile < p.in_channels * p.across; tile += blocks) wgrad_merge_tile<T>(p, tile, shared);
}

// ---- the host's side ----

struct WgradShape {
    PhaseShape phases;
    int mode, nb, t, tall, k, parts;        // the instance; positions of a stage
    int x_cells_group, y_cells_group, x_cells, y_cells, x_super, y_super, supers, m_blocks;
    int super, stack, entries, tile_entries, units;     // super: groups of one
    // Taps along the outer axes are rows, those along the inner ones columns, by classes: as of WgradProblem.
    int outer, inner, rows, classes, column_step;
    uint16_t row_phase[PHASE_MOST_TAPS], first_entry[WGRAD_MOST_CLASSES + 1], columns[WGRAD_MOST_CLASSES];
    uint16_t first_column[WGRAD_MOST_CLASSES], span[WGRAD_MOST_CLASSES], column[WGRAD_MOST_INNER];
    int32_t row_shift[PHASE_MOST_TAPS];
    uint8_t tap_class[WGRAD_MOST_INNER], tap_column[WGRAD_MOST_INNER], tap_behind[WGRAD_MOST_INNER];
    int pitch, segments, stages, chunks, sample_chunks, piece, pieces;  // chunks: of all samples
    int64_t x_sample, x_pitch, x_lead;
    PhaseRoom room;                         // of dy's planes
    int tile() const { return tall ? t : 2 * t; }
    int m_cells() const { return tall ? 16 : 8; }
};

static int wgrad_mode(const convt3d_desc &d)
{
    return d.dtype == CONVT3D_F16 ? WGRAD_F16 : d.dtype == CONVT3D_BF16 ? WGRAD_BF16
                                  : d.math == CONVT3D_TF32 ? WGRAD_TF32 : WGRAD_SPLIT;
}

// The instances: columns, entries of a warpgroup, whether tall. From the tenth on: only where one product of 16-bit
// operands does, for registers.
struct WgradInstance { int nb, t, tall; };
static const WgradInstance wgrad_instances[] = {{64, 4, 0}, {64, 3, 0}, {64, 2, 0}, {48, 3, 0}, {32, 4, 0}, {16, 8, 0},
                                                {64, 4, 1}, {64, 3, 1}, {64, 2, 1},
                                                {64, 6, 0}, {64, 6, 1}, {128, 3, 0}, {128, 2, 0}, {128, 3, 1},
                                                {128, 2, 1}};
enum { WGRAD_INSTANCES = 15, WGRAD_OF_SPLIT = 9 };

template <int Mode, class Act> auto wgrad_with_block(const WgradShape &s, Act act)
{
    if constexpr (Mode == WGRAD_F16 || Mode == WGRAD_BF16) {
        if (s.nb == 128 && s.tall && s.t == 3) return act(WgradTile<Mode, 128, 3, true>());
        if (s.nb == 128 && s.tall) return act(WgradTile<Mode, 128, 2, true>());
        if (s.nb == 128 && s.t == 3) return act(WgradTile<Mode, 128, 3, false>());
        if (s.nb == 128) return act(WgradTile<Mode, 128, 2, false>());
        if (s.t == 6 && s.tall) return act(WgradTile<Mode, 64, 6, true>());
        if (s.t == 6) return act(WgradTile<Mode, 64, 6, false>());
    }
    if (s.tall && s.t == 4) return act(WgradTile<Mode, 64, 4, true>());
    if (s.tall && s.t == 3) return act(WgradTile<Mode, 64, 3, true>());
    if (s.tall) return act(WgradTile<Mode, 64, 2, true>());
    if (s.nb == 64 && s.t == 4) return act(WgradTile<Mode, 64, 4, false>());
    if (s.nb == 64 && s.t == 3) return act(WgradTile<Mode, 64, 3, false>());
    if (s.nb == 64) return act(WgradTile<Mode, 64, 2, false>());
    if (s.nb == 48) return act(WgradTile<Mode, 48, 3, false>());
    if (s.nb == 32) return act(WgradTile<Mode, 32, 4, false>());
    return act(WgradTile<Mode, 16, 8, false>());
}
template <class Act> auto wgrad_instance(const WgradShape &s, Act act)
{
#ifndef CONVT3D__WGRAD_SPLIT_ALONE
    if (s.mode == WGRAD_F16) return wgrad_with_block<WGRAD_F16>(s, act);
    if (s.mode == WGRAD_BF16) return wgrad_with_block<WGRAD_BF16>(s, act);
    if (s.mode == WGRAD_TF32) return wgrad_with_block<WGRAD_TF32>(s, act);
#endif
    return wgrad_with_block<WGRAD_SPLIT>(s, act);
}

// A tap along the axes from `first` to `end`, the last counting fastest: its phase along these, and shift.
struct WgradTap { int phase, k[3]; int64_t shift; };

static WgradTap wgrad_tap(const convt3d__plan *plan, const PhaseShape &p, int first, int end, int index)
{
    const int64_t scale[3] = {p.plane, p.pitch[2], 1};
    WgradTap t = {0, {0, 0, 0}, 0};
    for (int a = end - 1, rest = index; a >= first; a--) {
        t.k[a] = rest % (int)plan->axis[a].kernel;
        rest /= (int)plan->axis[a].kernel;
    }
    for (int a = first; a < end; a++) {
        t.phase = t.phase * p.count[a] + p.at[a][t.k[a]];
        t.shift += p.q[a][t.k[a]] * scale[a];
    }
    return t;
}

// Rows and columns, the axes from `outer` on being the inner ones; `stack` taps along w to a column. False: too many.
static bool wgrad_classes(const convt3d__plan *plan, WgradShape *s, int outer, int stack)
{
    const PhaseShape &p = s->phases;
    const int step = (int)plan->axis[2].in_step;
    int across[PHASE_MOST_STRIDE] = {}, rows[WGRAD_MOST_CLASSES] = {};      // taps along w of its phases; of the rest
    int order[WGRAD_MOST_INNER];                                            // of a tap along w among those of its phase
    s->outer = outer;  s->stack = stack;  s->column_step = step;
    s->rows = s->inner = s->classes = 1;
    for (int a = 0; a < 3; a++) {
        if (a < outer) s->rows *= (int)plan->axis[a].kernel;
        else {
            s->inner *= (int)plan->axis[a].kernel;
            s->classes *= p.count[a];
        }
    }
    if (s->inner > WGRAD_MOST_INNER || s->classes > WGRAD_MOST_CLASSES) return false;
    for (int r = 0; r < s->rows; r++) {
        const WgradTap t = wgrad_tap(plan, p, 0, outer, r);
        s->row_phase[r] = (uint16_t)t.phase;
        s->row_shift[r] = (int32_t)t.shift;
    }
    for (int k = 0; k < (int)plan->axis[2].kernel; k++) order[k] = across[p.at[2][k]]++;
    for (int i = 0; i < s->inner; i++) {
        const WgradTap t = wgrad_tap(plan, p, outer, 3, i);
        rows[t.phase] += order[t.k[2]] == 0;
    }
    for (int c = 0, first = 0; c < s->classes; c++) {
        s->first_column[c] = (uint16_t)first;
        s->columns[c] = (uint16_t)(rows[c] * ((across[c % p.count[2]] + stack - 1) / stack));
        s->span[c] = 0;
        first += s->columns[c];
        rows[c] = 0;
    }
    for (int i = 0; i < s->inner; i++) {
        const WgradTap t = wgrad_tap(plan, p, outer, 3, i);
        const int index = order[t.k[2]], of_class = t.phase, w = p.at[2][t.k[2]];
        const int64_t at = t.shift - index % stack * step;
        if (index == 0) rows[of_class]++;
        if (at > WGRAD_MOST_PITCH) return false;
        s->tap_class[i] = (uint8_t)of_class;
        s->tap_column[i] = (uint8_t)((rows[of_class] - 1) * ((across[w] + stack - 1) / stack) + index / stack);
        s->tap_behind[i] = (uint8_t)(index % stack);
        s->column[s->first_column[of_class] + s->tap_column[i]] = (uint16_t)at;
        s->span[of_class] = (uint16_t)convt3d__max(s->span[of_class], at);
    }
    return true;
}

// What a super-group of `super` groups comes to, for the instance and classes of s. False: too much.
static bool wgrad_entries(WgradShape *s, int64_t groups, int super)
{
    int64_t entries = 0, blocks;
    int span = 0;
    s->super = super;
    s->supers = (int)convt3d__ceil_div(groups, super);
    s->x_super = super * s->x_cells_group;  s->y_super = super * s->y_cells_group;
    s->m_blocks = (s->x_super * s->stack + s->m_cells() - 1) / s->m_cells();
    blocks = convt3d__ceil_div((int64_t)s->rows * s->y_super, s->nb / 8);
    for (int c = 0; c < s->classes; c++) {
        s->first_entry[c] = (uint16_t)entries;
        entries += blocks * s->columns[c];
        span = (int)convt3d__max(span, s->span[c]);
        if (entries > 65535) return false;
    }
    s->first_entry[s->classes] = (uint16_t)entries;
    s->entries = (int)entries;
    s->tile_entries = (int)convt3d__ceil_div(entries, s->tile());
    s->pitch = s->k + span;
    if ((int64_t)s->tile_entries * s->supers * s->m_blocks > 1 << 20) return false;
    s->units = s->supers * s->m_blocks * s->tile_entries;
    return s->pitch <= WGRAD_MOST_PITCH;
}

// Segments of the tile that has most of them, as wgrad_table counts them. cells: of dy that a tile's stage brings, in
// the mean, of one part.
static int wgrad_segments(const WgradShape &s, double *cells)
{
    int most = 0;
    int64_t positions = 0;
    for (int tile = 0, c = 0; tile < s.tile_entries; tile++) {
        int count = 0, last = -1;
        for (int i = 0; i < s.tile(); i++) {
            const int e = (int)convt3d__min(tile * s.tile() + i, s.entries - 1);
            while (e >= s.first_entry[c + 1]) c++;
            const int begin = e - (e - s.first_entry[c]) % s.columns[c];
            if (begin != last) {
                count++;
                positions += s.k + s.span[c];
            }
            last = begin;
        }
        most = (int)convt3d__max(most, count);
    }
    *cells = (double)positions * (s.nb / 8) / s.tile_entries;
    return most;
}

// Cycles of a stage: the matrix unit's, those of its reading shared memory, where `cells` arrive besides, or those of
// fetching these from the second-level cache.
static double wgrad_cycles(const WgradShape &s, double cells)
{
    auto one = [](double n) { return n / 2 > 16 + n / 4 ? n / 2 : 16 + n / 4; };
    const double steps = 2 * s.t * s.k / 16, bytes = 16 * (s.mode == WGRAD_SPLIT ? cells : cells / s.parts);
    double cycles = steps * (s.mode == WGRAD_SPLIT ? one(2 * s.nb) + one(s.nb) : one(s.nb));
    const double shared = steps * (16 + s.nb / 4) + bytes / 128;
    if (s.mode != WGRAD_SPLIT && cycles < shared) cycles = shared;
    const double fetch = bytes / (s.phases.phases == 1 ? 38 : 25);     // of one plane, tiles share most
    return cycles + 100 > fetch ? cycles + 100 : fetch;
}

// Pieces of the sum over positions, by the shape alone: what a card of 132 multiprocessors takes least time for.
static double wgrad_cut(WgradShape *s, double cycles)
{
    const double merge = (double)s->units * 2 * s->t * 64 * s->nb * 4 * 2 / 3e12 * 1.6e9;   // cycles of one piece
    double least = 0;
    int64_t best = 1;
    for (int64_t pieces = 1; pieces <= 264 && pieces <= s->chunks; pieces++) {
        double rounds = (double)convt3d__ceil_div(s->units * pieces, 132);
        double time = rounds * ((double)convt3d__ceil_div(s->chunks, pieces) * cycles + 4000) + (double)pieces * merge;
        if (least != 0 && time > least * 0.99) continue;
        least = time;
        best = pieces;
    }
    s->piece = (int)convt3d__ceil_div(s->chunks, best);
    s->pieces = (int)convt3d__ceil_div(s->chunks, s->piece);
    return least;
}

// The stages of all positions: sample by sample, or, where samples have no scales, over all of them where that is less.
// False: too many.
static bool wgrad_positions(const convt3d__plan *plan, WgradShape *s)
{
    const convt3d_desc &d = plan->desc;
    const PhaseShape &p = s->phases;
    const int64_t limit = (int64_t)1 << 30;
    const int64_t last = ((d.in_size[0] - 1) * p.pitch[1] + d.in_size[1] - 1) * p.pitch[2] + d.in_size[2];
    s->x_lead = (s->stack - 1) * s->column_step;
    int64_t chunks = convt3d__ceil_div(last + s->x_lead, s->k);
    s->x_sample = chunks * s->k;
    if (convt3d__max(s->x_sample, p.sample) > limit / d.batch || p.reach > limit || s->x_lead > PHASE_SLACK / 2)
        return false;
    const int64_t all = convt3d__ceil_div((d.batch - 1) * p.sample + last + s->x_lead, s->k);
    s->sample_chunks = (int)chunks;
    chunks *= d.batch;
    if (s->parts == 1 && all < chunks) {
        s->sample_chunks = (int)all;
        s->x_sample = p.sample;
        chunks = all;
    }
    s->chunks = (int)chunks;
    s->x_pitch = s->x_lead + convt3d__max(d.batch * s->x_sample, chunks * s->k);
    return convt3d__max(s->x_pitch, s->room.pitch) / 128 * p.phases <= INT32_MAX / 4 / (s->x_cells + s->y_cells);
}

// What the best choice so far must be beaten by.
struct WgradChoice {
    WgradShape best;
    double least = 0;
    // s has its instance and classes; `super` groups together.
    void look(const convt3d__plan *plan, WgradShape *s, int super)
    {
        double cells;
        if (!wgrad_entries(s, plan->desc.groups, super) || !wgrad_positions(plan, s)) return;
        // Before looking closely: what the products alone would take.
        if (least != 0 && (double)s->units * s->chunks * wgrad_cycles(*s, 0) / 132 > least) return;
        s->segments = wgrad_segments(*s, &cells);
        const int64_t stage = (int64_t)s->parts * (s->m_cells() * s->k + s->segments * (s->nb / 8) * s->pitch);
        s->stages = (int)convt3d__min((WGRAD_SHARED - WGRAD_HEAD) / (stage * 16), WGRAD_MOST_STAGES);
        if (s->stages < 2) return;
        const double time = wgrad_cut(s, wgrad_cycles(*s, s->parts * (s->m_cells() * s->k + cells)));
        if (least != 0 && time > least * 0.999) return;
        least = time;
        best = *s;
    }
};

// The instance, axes within segments, groups together and copies of x that take the least time; its cycles, or 0 where
// none has room for two stages.
static double wgrad_choose(const convt3d__plan *plan, WgradShape *s)
{
    const bool split = s->parts == 2;
    const int cells = s->x_cells_group;
    WgradChoice choice;
    int across[PHASE_MOST_STRIDE] = {}, columns = 1;
    for (int k = 0; k < (int)plan->axis[2].kernel; k++)
        columns = (int)convt3d__max(columns, ++across[s->phases.at[2][k]]);
    for (int outer = 2; outer >= 0; outer--)
        for (int stack = 1; stack <= columns && (stack == 1 || stack * cells <= 8); stack++) {
            if (!wgrad_classes(plan, s, outer, stack)) continue;
            for (int i = 0; i < (split ? WGRAD_OF_SPLIT : WGRAD_INSTANCES); i++) {
                s->nb = wgrad_instances[i].nb;  s->t = wgrad_instances[i].t;  s->tall = wgrad_instances[i].tall;
                s->k = wgrad_k(s->mode, s->nb, s->t, s->tall);
                if (s->tall && (stack > 1 || cells <= 8)) continue;
                for (int super = 1; super <= plan->desc.groups && (super == 1 || super * stack * cells <= 8); super++)
                    choice.look(plan, s, super);
            }
        }
    if (choice.least > 0) *s = choice.best;
    return choice.least;
}

// Everything the launches need, from the plan alone. Empty text, or why not. cycles: of the products.
static const char *wgrad_shape(const convt3d__plan *plan, WgradShape *s, double *cycles)
{
    const convt3d_desc &d = plan->desc;
    const char *why = phase_shape(plan, &s->phases);
    if (*why) return why;
    s->mode = wgrad_mode(d);
    s->parts = s->mode == WGRAD_SPLIT || s->mode == WGRAD_TF32 ? 2 : 1;
    if (plan->in_group > 65536 || plan->out_group > 65536 || d.groups > 65536 || plan->w_count > INT32_MAX)
        return "too many channels";
    s->x_cells_group = (int)convt3d__ceil_div(plan->in_group, 8);
    s->y_cells_group = (int)convt3d__ceil_div(plan->out_group, 8);
    if (d.groups * s->x_cells_group > 65536 || d.groups * s->y_cells_group > 65536) return "too many channels";
    s->x_cells = (int)d.groups * s->x_cells_group;
    s->y_cells = (int)d.groups * s->y_cells_group;
    s->room = phase_room(plan, s->phases, s->y_cells_group, s->parts);
    if (plan->axis[2].kernel > WGRAD_MOST_INNER) return "more than 128 taps along w";
    *cycles = wgrad_choose(plan, s);
    return *cycles > 0 ? "" : "too many positions, or taps too far apart for shared memory";
}

struct WgradLayout {
    int64_t x, x_exponent, x_beyond, x_guess, bias, x_rough, y_rough, partial;
    int64_t bias_part, bias_parts, bytes;
};

static int64_t wgrad_round(int64_t bytes) { return phase_round(bytes); }

static bool wgrad_channels_last(const convt3d_desc &d) { return d.dy_stride[1] < d.dy_stride[4]; }

static WgradLayout wgrad_layout(const convt3d__plan *plan, const WgradShape &s)
{
    const convt3d_desc &d = plan->desc;
    const int64_t positions = d.batch * plan->axis[0].out * plan->axis[1].out * plan->axis[2].out;
    const convt3d_io none = {};
    WgradLayout l;
    l.x = s.room.bytes;
    l.x_exponent = wgrad_round(l.x + s.x_pitch * s.x_cells * s.parts * 16);
    l.x_beyond = wgrad_round(l.x_exponent + d.batch * 4);
    l.x_guess = wgrad_round(l.x_beyond + d.batch * 4);
    l.bias = wgrad_round(l.x_guess + d.batch * 4 * phase_guess_blocks(phase_tensor_x(plan, &none)));
    l.bias_part = wgrad_channels_last(d) ? 4096 : positions / 65536 * d.out_channels >= 2112 ? 65536 : 16384;
    l.bias_part = convt3d__max(l.bias_part, convt3d__ceil_div(positions, 1024));
    l.bias_parts = convt3d__ceil_div(positions, l.bias_part);
    l.x_rough = wgrad_round(l.bias + l.bias_parts * d.out_channels * 8);
    l.y_rough = l.x_rough + convt3d__ceil_div(s.x_pitch, ROUGH_POSITIONS) * 4;
    l.partial = wgrad_round(l.y_rough + convt3d__ceil_div(s.room.pitch, ROUGH_POSITIONS) * 4);
    l.bytes = l.partial + (int64_t)s.pieces * s.units * 2 * s.t * 64 * s.nb * 4;
    return l;
}

static WgradBias wgrad_bias(const convt3d__plan *plan, const convt3d_io *io, const WgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    WgradBias p = {};
    p.dy = io->dy;
    p.sums = (double *)((char *)io->workspace + l.bias);
    p.height = (int)plan->axis[1].out;  p.width = (int)plan->axis[2].out;
    p.voxels = (int)(plan->axis[0].out * p.height * p.width);
    p.positions = d.batch * p.voxels;
    p.part = l.bias_part;
    p.channels = (int)d.out_channels;
    p.lanes = wgrad_channels_last(d) ? 32 : 1;
    p.tiles = (p.channels + p.lanes - 1) / p.lanes;
    p.linear = d.dy_stride[3] == p.width * d.dy_stride[4] && d.dy_stride[2] == p.height * d.dy_stride[3];
    for (int i = 0; i < 5; i++) p.stride[i] = d.dy_stride[i];
    return p;
}

// Whether sm90_dgrad has just made dx, and left dy's planes in the workspace.
static bool wgrad_is_left(const convt3d__plan *plan)
{
    return (plan->pass & CONVT3D_BACKWARD_X) != 0 && phase_is_common(plan);
}

// As sm90_dgrad has them.
static int wgrad_pair(const WgradShape &s) { return s.y_cells_group % 2 == 0 ? 2 : 1; }

// Positions of a thread that makes planes: two where rows come as they are or, left by sm90_dgrad, only x is made.
static int wgrad_each(const convt3d__plan *plan) { return plan->axis[2].stride == 1 || wgrad_is_left(plan) ? 2 : 1; }

static WgradProblem wgrad_problem(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s,
                                  const WgradLayout &l)
{
    const char *workspace = (const char *)io->workspace;
    const bool split = s.parts == 2;
    WgradProblem p = {};
    p.x = (const uint4 *)(workspace + l.x);
    p.dy = (const uint4 *)workspace;
    p.x_exponent = split ? (const int *)(workspace + l.x_exponent) : nullptr;
    p.y_exponent = split ? (const int *)(workspace + s.room.exponent) : nullptr;
    p.x_rough = (const int *)(workspace + l.x_rough);
    p.y_rough = (const int *)(workspace + l.y_rough);
    p.reach = (int)s.phases.reach + s.pitch;
    p.partial = (float *)((char *)io->workspace + l.partial);
    p.batch = (int)plan->desc.batch;
    p.x_pitch = (int)s.x_pitch;  p.y_pitch = (int)s.room.pitch;
    p.x_sample = (int)s.x_sample;  p.y_sample = (int)s.phases.sample;
    p.y_pair = wgrad_pair(s);
    p.chunks = s.chunks;  p.piece = s.piece;
    p.units = s.units;  p.m_blocks = s.m_blocks;  p.tile_entries = s.tile_entries;
    p.entries = s.entries;  p.rows = s.rows;
    p.x_cells = s.x_cells;  p.y_cells = s.y_cells;  p.x_super = s.x_super;  p.y_super = s.y_super;
    p.x_lead = (int)s.x_lead;  p.stack = s.stack;  p.step = s.column_step;
    p.pitch = s.pitch;  p.segments = s.segments;  p.stages = s.stages;
    p.sample_chunks = divisor_of(s.sample_chunks);
    p.classes = s.classes;
    memcpy(p.first_entry, s.first_entry, sizeof p.first_entry);
    memcpy(p.columns, s.columns, sizeof p.columns);
    memcpy(p.first_column, s.first_column, sizeof p.first_column);
    memcpy(p.span, s.span, sizeof p.span);
    memcpy(p.column, s.column, sizeof p.column);
    memcpy(p.row_phase, s.row_phase, sizeof p.row_phase);
    memcpy(p.row_shift, s.row_shift, sizeof p.row_shift);
    return p;
}

static WgradMerge wgrad_merge(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s,
                              const WgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    const char *workspace = (const char *)io->workspace;
    const bool split = s.parts == 2;
    WgradMerge p = {};
    p.partial = (const float *)(workspace + l.partial);
    p.bias_sums = (const double *)(workspace + l.bias);
    p.dw = io->dw;  p.dbias = io->dbias;
    p.x_exponent = split ? (const int *)(workspace + l.x_exponent) : nullptr;
    p.y_exponent = split ? (const int *)(workspace + s.room.exponent) : nullptr;
    p.x_flag = (const uint32_t *)(workspace + l.x_beyond);
    p.y_flag = (const uint32_t *)(workspace + s.room.beyond);
    p.x = io->x;  p.dy = io->dy;
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.dy_stride[i]; }
    p.count = plan->w_count;
    p.batch = (int)d.batch;  p.pieces = s.pieces;  p.units = s.units;  p.tile = s.tile();  p.nb = s.nb;
    p.accumulate = d.accumulate;
    p.bias_parts = (int)l.bias_parts;  p.channels = (int)d.out_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.taps = (int)plan->taps;  p.stack = s.stack;
    p.x_cells_group = s.x_cells_group;  p.y_cells_group = s.y_cells_group;
    p.x_super = s.x_super;  p.y_super = s.y_super;  p.y_cells = s.y_cells;
    p.m_blocks = s.m_blocks;  p.m_cells = s.m_cells();  p.tile_entries = s.tile_entries;
    p.sum_rows = s.phases.count[0] * s.phases.count[1];
    p.sum_width = phase_width(s.room.pitch, s.phases.sample, s.phases.pitch[2], wgrad_each(plan));
    p.in_channels = (int)d.in_channels;
    p.cells = (int)convt3d__max(1, convt3d__min(p.y_cells_group, MERGE_MOST / 8 / p.taps));
    while (p.cells > 1 && d.in_channels * convt3d__ceil_div(p.y_cells_group, p.cells) < 528)
        p.cells = (p.cells + 1) / 2;
    p.across = (int)convt3d__ceil_div(p.y_cells_group, p.cells);
    p.slices = 1;
    if (d.in_channels * p.across * p.cells * 2 * p.taps < 132 * 2048)
        p.slices = (int)convt3d__max(1, convt3d__min(convt3d__min(8, p.pieces / 4), MERGE_MOST / 8 / p.taps / p.cells));
    p.inner = s.inner;
    for (int k = 0; k < s.inner; k++) {
        p.first_entry[k] = (uint16_t)(s.first_entry[s.tap_class[k]] + s.tap_column[k]);
        p.columns[k] = (uint8_t)s.columns[s.tap_class[k]];
        p.behind[k] = s.tap_behind[k];
    }
    return p;
}

// The two tensors' planes, told where to report to.
template <int Kind>
void wgrad_tensors(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s, const WgradLayout &l,
                   const int64_t *out, PhaseProblem *x, PhaseProblem *dy)
{
    char *workspace = (char *)io->workspace;
    const int groups = (int)plan->desc.groups;
    *x = phase_problem<Kind>(phase_tensor_x(plan, io), s.phases, false, plan->desc.stride,
                             {s.x_sample, s.x_pitch, groups, (int)plan->in_group, s.x_cells_group, 1, (int)s.x_lead,
                              wgrad_each(plan)});
    *dy = phase_problem<Kind>(phase_tensor_dy(plan, io, out), s.phases, true, plan->desc.stride,
                              {s.phases.sample, s.room.pitch, groups, (int)plan->out_group, s.y_cells_group,
                               wgrad_pair(s), 0, wgrad_each(plan)});
    x->base.planes = (uint4 *)(workspace + l.x);
    dy->base.planes = (uint4 *)workspace;
    x->base.exponent = (int *)(workspace + l.x_exponent);
    dy->base.exponent = (int *)(workspace + s.room.exponent);
    x->base.beyond = (uint32_t *)(workspace + l.x_beyond);
    dy->base.beyond = (uint32_t *)(workspace + s.room.beyond);
    x->base.guess = (const uint32_t *)(workspace + l.x_guess);
    dy->base.guess = (const uint32_t *)(workspace + s.room.guess);
}

template <class C>
convt3d_status wgrad_run(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s, convt3d_error *error)
{
    typedef typename C::Element T;
    const int64_t out[3] = {plan->axis[0].out, plan->axis[1].out, plan->axis[2].out};
    const WgradLayout l = wgrad_layout(plan, s);
    char *workspace = (char *)io->workspace;
    const bool split = C::Split, dw = io->dw != nullptr, left = wgrad_is_left(plan);    // dy's planes are there
    const dim3 threads(SPLIT_THREADS);
    const int each = wgrad_each(plan);
    PhaseProblem x, dy;
    wgrad_tensors<C::Kind>(plan, io, s, l, out, &x, &dy);
    const GuessProblem guess_x = phase_guess(phase_tensor_x(plan, io), split, (uint32_t *)(workspace + l.x_guess),
                                             x.base.beyond);
    const GuessProblem guess_dy = phase_guess(phase_tensor_dy(plan, io, out), split,
                                              (uint32_t *)(workspace + s.room.guess), dy.base.beyond);
    const WgradBias bias = wgrad_bias(plan, io, l);
    const int x_scan = dw ? (int)plan->desc.batch * guess_x.blocks : 0;
    const int y_scan = dw && !left ? (int)plan->desc.batch * guess_dy.blocks : 0;
    const bool with_planes = dw && io->dbias && phase_covers(plan, s.phases);   // dbias is summed with dy's planes
    if (with_planes) dy.sums = (float *)(workspace + s.room.sums);
    if (C::Tf32) {
        x.rough = (int *)(workspace + l.x_rough);
        dy.rough = (int *)(workspace + l.y_rough);
    }
    const int64_t scan = x_scan + y_scan + (io->dbias && !with_planes ? l.bias_parts * bias.tiles : 0);
    convt3d_status status = CONVT3D_OK;
    if (scan > 0)
        status = convt3d__launch(error, wgrad_scan_kernel<T>, dim3((unsigned)scan), threads, 0, io->stream, guess_x,
                                 guess_dy, x_scan, y_scan, bias, x.rough,
                                 C::Tf32 && dw ? (int)(l.partial - l.x_rough) / 4 : 0);
    if (dw && status == CONVT3D_OK)
        status = convt3d__launch(error, each == 2 ? wgrad_planes_kernel<C::Kind, 2> : wgrad_planes_kernel<C::Kind, 1>,
                                 dim3((unsigned)(phase_blocks(x) + (left ? 0 : phase_blocks(dy)))), threads, 0,
                                 io->stream, x, dy, phase_blocks(x));
    if (dw && status == CONVT3D_OK && split && !(x.base.exact && (left || dy.base.exact)))
        status = convt3d__launch(error, each == 2 ? wgrad_again_kernel<2> : wgrad_again_kernel<1>, dim3(132), threads,
                                 0, io->stream, x, dy, left);
    if (dw && status == CONVT3D_OK) {
        const int64_t stage = C::XCells + (int64_t)s.segments * C::Parts * C::Cells * s.pitch;
        status = convt3d__launch(error, wgrad_kernel<C>, dim3((unsigned)(s.units * s.pieces)), dim3(WGRAD_THREADS),
                                 (size_t)(WGRAD_HEAD + s.stages * stage * 16), io->stream,
                                 wgrad_problem(plan, io, s, l));
    }
    if ((dw || io->dbias) && status == CONVT3D_OK) {
        WgradMerge merge = wgrad_merge(plan, io, s, l);
        merge.plane_sums = dy.sums;
        const int64_t tiles = dw ? convt3d__min(plan->desc.in_channels * merge.across, 132 * 8) : 0;
        status = convt3d__launch(error, wgrad_merge_kernel<T>,
                                 dim3((unsigned)(tiles + (io->dbias ? plan->desc.out_channels : 0))), threads, 0,
                                 io->stream, merge);
    }
    return status;
}

}

extern "C" int32_t convt3d__wgrad_sm90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    if (plan->desc.dtype == CONVT3D_F64) return convt3d__refuse(why, "f64 has no wgmma");
    if (plan->x_count == 0 || plan->y_count == 0) return convt3d__refuse(why, "x or y is empty");
    if (!fits_32_bits(plan)) return convt3d__refuse(why, "indices beyond 32 bits");
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs sm_90 and a build with sm_90a code");
    if (plan->desc.batch > 65535) return convt3d__refuse(why, "too many samples");
    const char *text = wgrad_shape(plan, &s, &cycles);
    return convt3d__refuse(why, text);
}

// Seconds: planes written and read at 2.5e12 bytes, the products' cycles (wgrad_cut) at 1.6e9, 15 us of launches.
extern "C" double convt3d__wgrad_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    if (*wgrad_shape(plan, &s, &cycles)) return 1e30;
    const WgradLayout l = wgrad_layout(plan, s);
    const double size = (double)convt3d__element_size(plan->desc.dtype);
    const double bytes = (double)s.room.exponent + (double)(l.x_exponent - l.x) +
                         (double)(plan->x_count + 2 * plan->y_count) * size;
    return bytes / 2.5e12 + cycles / 1.6e9 + 15e-6;
}

extern "C" int64_t convt3d__wgrad_sm90_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    return *wgrad_shape(plan, &s, &cycles) ? 0 : wgrad_layout(plan, s).bytes;
}

extern "C" convt3d_status convt3d__wgrad_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    wgrad_shape(plan, &s, &cycles);
    return wgrad_instance(s, [&](auto tile) {
        typedef decltype(tile) C;
        typedef typename C::Element T;
        convt3d_status status = convt3d__load_kernel(error, plan, wgrad_kernel<C>, WGRAD_SHARED);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_scan_kernel<T>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_planes_kernel<C::Kind, 1>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_planes_kernel<C::Kind, 2>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_again_kernel<1>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_again_kernel<2>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_merge_kernel<T>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__wgrad_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    wgrad_shape(plan, &s, &cycles);
    return wgrad_instance(s, [&](auto tile) { return wgrad_run<decltype(tile)>(plan, io, s, error); });
}

#endif
