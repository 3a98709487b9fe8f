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

// Of [begin, end) of a run of elements: 16 bytes at a time, added in the accumulator's type, but for what is not
// aligned.
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

}

#endif
