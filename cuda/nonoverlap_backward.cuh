// sm90_nonoverlap (backward): dx, dw and dbias where kernel == stride, on Hopper's wgmma, from one reading of dy.
//
// Idea      Every dy meets one position of x and one tap: with a column for each (oc, tap), dy is a matrix
//           [position][column], dx^T = W dy^T and dw = x^T dy. A block goes through tiles of 64 positions, 64 columns
//           (a stage) at a time. Four warps copy rows of dy (an oc, kd and kh) as they lie in memory; two warpgroups in
//           turn make them, and once a tile x, operands in shared memory, where the W phases come apart. One operand
//           serves both products: K-major for the warpgroup of dx, whose slice of W stays in shared memory, and
//           transposed for that of dw, which keeps its sums in registers over all tiles of the block.
// Order     positions lie in operands so that each thread's results of dx are 4 neighbours: see patch_position.
// f32       three f16 products of scaled halves (split.cuh), each stage and tile of x with a scale of its own, so no
//           pass looks for one; added to f32 registers after 64 products, rescaled where a larger scale comes.
//           CONVT3D_TF32 is the same. f16, bf16: one product. dbias: plain sums of what is read.
// Pieces    a block has one piece of the tiles, 64 input channels and up to 256 columns. dw's pieces, and dx's sums
//           where there are more columns, are merged in order by patch_merge_kernel; the shape alone decides them.
// NaN, inf  tiles of dx with any in their dy, channels with any in their weights, are computed again from dy and w; dw
//           as a whole.
// Launches  products, merging (not for dx alone where there are up to 256 columns).
// Requires  sm_90; f32, f16, bf16; kernel == stride, 2 or 4 along w; no padding, dilation or output_padding; x, dx with
//           dense voxels and dy with dense rows, else slow copies, element by element, as where these are not in whole
//           cells of 16 bytes; dx is not added to.
// Measured  one H200, NCDHW, all three gradients, ms in f32 (as in tf32) and f16: nnunet_64_32_64 0.350 and 0.182,
//           nnunet_128_64_32 0.210 and 0.123, nnunet_256_128_16 0.106 and 0.060; in f32 0.54, 0.33 and 0.32 of a floor
//           that counts dy once. With rows of dy copied by bulk instructions of one warp nnunet_64_32_64 took 0.56 and
//           0.48.
// CONVT3D_CUDA_PART 17.
#pragma once

CONVT3D__DECLARE_KERNEL(patch)

#if CONVT3D__PART(17)

namespace convt3d_cuda {

enum { PATCH_SPLIT = 0, PATCH_F16 = 1, PATCH_BF16 = 2 };
enum { PATCH_THREADS = 640, PATCH_MAKERS = 2, PATCH_STAGES = 4, PATCH_MOST_RING = 12, PATCH_MOST_OPERANDS = 4,
       PATCH_SHARED = 226 * 1024, PATCH_HEAD = 4096, PATCH_ZERO = 1000, PATCH_NO_SCALE = 1 << 20 };

template <int Mode> struct PatchMode;
template <> struct PatchMode<PATCH_SPLIT> { typedef float T; typedef __half Operand; };
template <> struct PatchMode<PATCH_F16> { typedef __half T, Operand; };
template <> struct PatchMode<PATCH_BF16> { typedef __nv_bfloat16 T, Operand; };

// One instance. Operands in shared memory: [cell of 8 of K or N][row][16 bytes], a split's low halves as 64 more rows;
// of W with a row to spare, so that neighbouring cells lie in other banks.
template <int Mode_, int SW_> struct PatchTile {
    typedef typename PatchMode<Mode_>::T T;
    typedef typename PatchMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, SW = SW_, Size = sizeof(T);
    static constexpr bool Split = Mode_ == PATCH_SPLIT;
    static constexpr int Rows = 64 / SW_, CellRows = 8 / SW_;   // of dy: in a stage, in a cell
    static constexpr int Pitch = 64 * SW_ * Size + 16, XPitch = 64 * Size + 16;
    static constexpr int Slot = Rows * Pitch > 64 * XPitch ? Rows * Pitch : 64 * XPitch;
    static constexpr int Lead = Split ? 128 : 64, Bytes = 8 * Lead * 16, WLead = Lead + 1, WBytes = 8 * WLead * 16;
    static constexpr int Operands = Split ? 3 : 4;              // of dy
    static constexpr int Fixed = PATCH_HEAD + PATCH_STAGES * WBytes + (2 + Operands) * Bytes;
    static constexpr int Room = (PATCH_SHARED - Fixed) / Slot;
    static constexpr int Ring = Room < PATCH_MOST_RING ? Room / 2 * 2 : PATCH_MOST_RING;    // a slot has one maker
    static constexpr int Shared = Fixed + Ring * Slot;
};

struct PatchProblem {
    const void *x, *w, *dy;
    void *dx;                               // null: not wanted, as dw_part
    float *dx_part;                         // [slice][n][ic][position], or null
    float *dw_part, *bias_part;             // [block][ic][column of the slice]; [piece][maker][g][slice][row]
    int *unfit;                             // [block]: dw's products met NaN or infinity
    int64_t x_stride[5], dx_stride[5], y_stride[5];
    int plain;                              // tensors are copied element by element
    int batch, in_group, out_group, in_channels, positions;     // of a sample
    int kernel_d;
    int rows, stages, slices, blocks_group, units, groups;      // rows of dy of a group; stages of a slice
    int sample_tiles, tiles, piece;
    Divisor by_h, by_w, by_kh, by_taps, by_sample;
};

// The position of a tile that row i of an operand holds: of 16, a thread's results (2c, 2c + 1, 8 + 2c, 9 + 2c) are
// positions 4c to 4c + 3.
__device__ __forceinline__ int patch_position(int i)
{
    return (i & ~15) + i % 8 / 2 * 4 + i % 16 / 8 * 2 + i % 2;
}

// A row of a slice: where its elements lie, from those of its position.
__device__ __forceinline__ int64_t patch_row_offset(const PatchProblem &p, int row)
{
    uint32_t tap, kh, oc = divide((uint32_t)row, p.by_taps, &tap), kd = divide(tap, p.by_kh, &kh);
    return oc * p.y_stride[1] + kd * p.y_stride[2] + kh * p.y_stride[3];
}

// Where position `at` of a sample meets dy.
template <int SW> __device__ __forceinline__ int64_t patch_y_offset(const PatchProblem &p, int at)
{
    uint32_t w, h, d = divide(divide((uint32_t)at, p.by_w, &w), p.by_h, &h);
    return (int64_t)(d * p.kernel_d) * p.y_stride[2] + (int64_t)(h * p.by_kh.by) * p.y_stride[3] +
           (int64_t)(w * SW) * p.y_stride[4];
}

// Where position `at` of a sample lies in x or dx.
__device__ __forceinline__ int64_t patch_x_offset(const PatchProblem &p, const int64_t *stride, int at)
{
    if (!p.plain) return at;
    uint32_t w, h, d = divide(divide((uint32_t)at, p.by_w, &w), p.by_h, &h);
    return d * stride[2] + h * stride[3] + w * stride[4];
}

#if CONVT3D__SM90A

// WgmmaTurned's B: cells [8 of N][row of K], `lead` rows from one cell to the next.
__device__ __forceinline__ uint64_t patch_turned(uint32_t address, uint32_t lead)
{
    return (uint64_t)(address >> 4) | (uint64_t)8 << 16 | (uint64_t)lead << 32;
}

// Words of shared memory.
template <int Count> __device__ __forceinline__ void patch_read(uint32_t *v, uint32_t address)
{
    if constexpr (Count == 1) asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v[0]) : "r"(address));
    else if constexpr (Count == 2)
        asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(address));
    else
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(address));
}
__device__ __forceinline__ void patch_write(uint32_t address, const uint32_t (&v)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                 ::"r"(address), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
__device__ __forceinline__ void patch_write(uint32_t address, uint32_t v)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
template <class T> __device__ __forceinline__ void patch_write_element(uint32_t to, T v)
{
    if constexpr (sizeof(T) == 4) asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(__float_as_uint(v)) : "memory");
    else asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(*(const uint16_t *)&v) : "memory");
}

// ---- the parts of a block ----

// What scales an operand: 2^exponent; unfit: it holds NaN or infinity.
struct PatchScale { int exponent, unfit; };

struct PatchHead {
    uint64_t full[PATCH_MOST_RING], empty[PATCH_MOST_RING];                     // of the ring
    uint64_t y_full[PATCH_MOST_OPERANDS], y_empty[PATCH_MOST_OPERANDS];         // of operands
    uint64_t x_full[2], x_empty[2], w_full;
    PatchScale y_scale[PATCH_MOST_OPERANDS], x_scale[2];
    uint32_t largest[PATCH_MAKERS][2][4];       // of what a maker's warps have in hand
    int exponent[64];                           // of the channels of W
    float bias[PATCH_MAKERS][PATCH_STAGES * 32];
    int64_t row[PATCH_STAGES * 32];             // of dy: elements from those of the tile
};
static_assert(sizeof(PatchHead) <= PATCH_HEAD, "the head of a block's shared memory");

__device__ __forceinline__ uint32_t patch_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

struct PatchBlock {
    int unit, piece, slice, block, g, channels, x_channels, rows, first, end;   // channels, rows that there are; tiles
    __device__ __forceinline__ PatchBlock(const PatchProblem &p, int rows_of_stage)
    {
        piece = blockIdx.x / p.units;
        unit = blockIdx.x - piece * p.units;
        slice = unit % p.slices;
        block = unit / p.slices % p.blocks_group;
        g = unit / p.slices / p.blocks_group;
        channels = min(64, p.in_group - block * 64);
        x_channels = p.x ? channels : 0;
        rows = min(p.stages * rows_of_stage, p.rows - slice * p.stages * rows_of_stage);
        first = piece * p.piece;
        end = min(p.tiles, first + p.piece);
    }
};

struct PatchPlace { int n, first, positions; };     // of a tile

__device__ __forceinline__ PatchPlace patch_place(const PatchProblem &p, int tile)
{
    uint32_t rest;
    PatchPlace at;
    at.n = (int)divide((uint32_t)tile, p.by_sample, &rest);
    at.first = (int)rest * 64;
    at.positions = min(64, p.positions - at.first);
    return at;
}

// A place in a ring, and the parity of its barrier's phase.
template <int Count> struct PatchTurn {
    int slot;
    uint32_t parity;
    __device__ __forceinline__ void next() { if (++slot == Count) { slot = 0;  parity ^= 1; } }
};

// All of the warp are done with what the barrier guards.
__device__ __forceinline__ void patch_warp_arrive(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// ---- copies: the ring gets x of each tile, then its stages of dy, what there is of them ----

__device__ __forceinline__ void patch_fetch(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// The thread's copies, once they are there, count as its arrival.
__device__ __forceinline__ void patch_fetched(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

template <class C> struct PatchCopy {
    typedef typename C::T T;
    const PatchProblem &p;
    const PatchBlock &b;
    const T *x, *dy;                        // of the group's and block's channels
    const int64_t *row;
    uint32_t ring, full, empty;
    PatchTurn<C::Ring> turn;

    __device__ __forceinline__ PatchCopy(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t ring)
        : p(p), b(b), row(head->row), ring(ring), full(patch_address(head->full)), empty(patch_address(head->empty)),
          turn{0, 1}
    {
        x = (const T *)p.x + (int64_t)(b.g * p.in_group + b.block * 64) * p.x_stride[1];
        dy = (const T *)p.dy + (int64_t)b.g * p.out_group * p.y_stride[1];
    }

    // Waits for the next slot: its address.
    __device__ __forceinline__ uint32_t wait() const
    {
        barrier_wait(empty + turn.slot * 8, turn.parity);
        return ring + turn.slot * C::Slot;
    }

    // A thread copies 16 bytes at a time.
    __device__ __forceinline__ void cells(const PatchPlace &at, bool with_x)
    {
        enum { Lot = 16 / C::Size, XCells = 64 / Lot, Cells = 64 * C::SW / Lot };
        const int thread = threadIdx.x % 128, xcell = thread % XCells, element = thread % Cells * Lot;
        if (with_x) {
            const uint32_t to = wait() + xcell * 16;
            const T *from = x + at.n * p.x_stride[0] + at.first + xcell * Lot;
            if (xcell * Lot < at.positions)
#pragma unroll 4
                for (int ic = thread / XCells; ic < b.x_channels; ic += 128 / XCells)
                    patch_fetch(to + ic * C::XPitch, from + ic * p.x_stride[1]);
            patch_fetched(full + turn.slot * 8);
            turn.next();
        }
        const bool inside = element < at.positions * C::SW;
        const T *from = dy + at.n * p.y_stride[0] + element % C::SW;
        if (inside) from += patch_y_offset<C::SW>(p, at.first + element / C::SW);
        for (int stage = 0; stage * C::Rows < b.rows; stage++) {
            const int rows = min((int)C::Rows, b.rows - stage * C::Rows);
            const uint32_t to = wait() + element * C::Size;
            if (inside)
#pragma unroll
                for (int i = 0; i < C::Rows; i += 128 / Cells) {
                    const int own = i + thread / Cells;
                    if (own < rows) patch_fetch(to + own * C::Pitch, from + row[stage * C::Rows + own]);
                }
            patch_fetched(full + turn.slot * 8);
            turn.next();
        }
    }

    __device__ __forceinline__ void elements(const PatchPlace &at, bool with_x)
    {
        const int thread = threadIdx.x % 128;
        if (with_x) {
            const uint32_t to = wait();
            const T *from = x + at.n * p.x_stride[0];
            for (int i = thread; i < b.x_channels * 64; i += 128)
                if (i % 64 < at.positions)
                    patch_write_element(to + i / 64 * C::XPitch + i % 64 * C::Size,
                                        from[i / 64 * p.x_stride[1] +
                                             patch_x_offset(p, p.x_stride, at.first + i % 64)]);
            barrier_arrive(full + turn.slot * 8);
            turn.next();
        }
        const T *from = dy + at.n * p.y_stride[0];
        for (int stage = 0; stage * C::Rows < b.rows; stage++) {
            const int rows = min((int)C::Rows, b.rows - stage * C::Rows);
            const uint32_t to = wait();
            for (int i = thread; i < rows * 64 * C::SW; i += 128) {
                const int own = i / (64 * C::SW), position = i / C::SW % 64, k = i % C::SW;
                if (position < at.positions)
                    patch_write_element(to + own * C::Pitch + (position * C::SW + k) * C::Size,
                                        from[patch_y_offset<C::SW>(p, at.first + position) + k * p.y_stride[4] +
                                             row[stage * C::Rows + own]]);
            }
            barrier_arrive(full + turn.slot * 8);
            turn.next();
        }
    }
};

template <class C>
__device__ __forceinline__ void patch_copy(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t ring)
{
    PatchCopy<C> copy(p, b, head, ring);
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const PatchPlace at = patch_place(p, tile);
        if (p.plain) copy.elements(at, p.dw_part != nullptr);
        else copy.cells(at, p.dw_part != nullptr);
    }
}

// ---- operands ----

// The scale of all values of a maker's hands, of which `largest` is the thread's; for every other call another buffer.
template <class C>
__device__ __forceinline__ PatchScale patch_scale(PatchHead *head, int maker, int buffer, uint32_t largest)
{
    PatchScale scale = {0, 0};
    if (!C::Split) return scale;
    uint32_t *all = head->largest[maker][buffer];
    largest = __reduce_max_sync(0xffffffffu, largest);
    if (threadIdx.x % 32 == 0) all[threadIdx.x % 128 / 32] = largest;
    warpgroup_sync(1 + maker);
    largest = max(max(all[0], all[1]), max(all[2], all[3]));
    scale.unfit = largest >= 0x7f800000u;
    scale.exponent = scale.unfit ? 0 : largest == 0 ? (int)PATCH_ZERO : min(scale_exponent(largest), 127);
    return scale;
}

template <int Count> __device__ __forceinline__ uint32_t patch_largest(const uint32_t (&v)[Count], uint32_t largest)
{
    float most = __uint_as_float(largest);
#pragma unroll
    for (int i = 0; i < Count; i++) most = max_nan(most, fabsf(__uint_as_float(v[i])));
    return __float_as_uint(most);
}

// A cell of scaled pairs, and their low halves 64 rows further.
__device__ __forceinline__ void patch_write_split(uint32_t to, const float (&v)[8], float by)
{
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) split_pair(v[2 * i] * by, v[2 * i + 1] * by, &high[i], &low[i]);
    patch_write(to, high);
    patch_write(to + 64 * 16, low);
}

// Sums of CellRows rows over 16 lanes: of row (lane % 16) / (16 / CellRows), in its lanes.
template <int Rows> __device__ __forceinline__ float patch_sum_lanes(const float (&v)[Rows])
{
    float sum;
    const int lane = threadIdx.x;
    if constexpr (Rows == 4) {
        const bool upper = lane & 8, odd = lane & 4;
        float a = upper ? v[2] : v[0], b = upper ? v[3] : v[1];
        a += __shfl_xor_sync(0xffffffffu, upper ? v[0] : v[2], 8);
        b += __shfl_xor_sync(0xffffffffu, upper ? v[1] : v[3], 8);
        sum = odd ? b : a;
        sum += __shfl_xor_sync(0xffffffffu, odd ? a : b, 4);
    } else {
        const bool upper = lane & 8;
        sum = upper ? v[1] : v[0];
        sum += __shfl_xor_sync(0xffffffffu, upper ? v[0] : v[1], 8);
        sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 1);
}

template <class C> __device__ __forceinline__ float patch_sum_word(uint32_t v)
{
    if constexpr (C::Split) return __uint_as_float(v);
    else if constexpr (C::Mode == PATCH_F16) {
        const float2 pair = __half22float2(*(const __half2 *)&v);
        return pair.x + pair.y;
    } else return __uint_as_float(v << 16) + __uint_as_float(v & 0xffff0000u);
}

template <class C> struct PatchMaker {
    enum { Words = 2 * C::Size, RowWords = Words / C::CellRows };   // of eight elements; of those of one row
    const PatchProblem &p;
    const PatchBlock &b;
    PatchHead *head;
    int own, buffer;                        // which maker; see patch_scale

    // A stage of dy: a thread has eight columns of four positions.
    __device__ __forceinline__ void make_y(const PatchPlace &at, int stage, uint32_t raw, uint32_t raw_empty,
                                           uint32_t to, int operand, uint32_t parity)
    {
        const int thread = threadIdx.x % 128, cell = thread / 16, row = thread % 16, position = patch_position(row);
        const int rows = b.rows - stage * C::Rows - cell * C::CellRows;
        uint32_t v[4][Words];
        raw += cell * C::CellRows * C::Pitch + position * (C::SW * C::Size);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < C::CellRows; j++)
                patch_read<RowWords>(&v[i][j * RowWords], raw + j * C::Pitch + 16 * i * (C::SW * C::Size));
        patch_warp_arrive(raw_empty);
        if (at.positions < 64 || b.rows < (stage + 1) * C::Rows)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int k = 0; k < Words; k++)
                    if (16 * i + position >= at.positions || k / RowWords >= rows) v[i][k] = 0;
        if (p.bias_part && b.block == 0) sum_bias(v, stage * C::Rows + cell * C::CellRows);
        uint32_t largest = 0;
        if constexpr (C::Split)
#pragma unroll
            for (int i = 0; i < 4; i++) largest = patch_largest(v[i], largest);
        const PatchScale scale = patch_scale<C>(head, own, buffer, largest);
        buffer ^= 1;
        barrier_wait(patch_address(&head->y_empty[operand]), parity);
        if (thread == 0) head->y_scale[operand] = scale;
        to += (cell * C::Lead + row) * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (C::Split) {
                float f[8];
#pragma unroll
                for (int k = 0; k < 8; k++) f[k] = __uint_as_float(v[i][k]);
                patch_write_split(to + 16 * i * 16, f, power_of_two(min(scale.exponent, 127)));
            } else patch_write(to + 16 * i * 16, v[i]);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        patch_warp_arrive(patch_address(&head->y_full[operand]));
    }

    __device__ __forceinline__ void sum_bias(const uint32_t (&v)[4][Words], int first)
    {
        float sum[C::CellRows] = {};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < Words; k++) sum[k / RowWords] += patch_sum_word<C>(v[i][k]);
        const float all = patch_sum_lanes(sum);
        enum { Lanes = 16 / C::CellRows };
        if (threadIdx.x % Lanes == 0) head->bias[own][first + threadIdx.x % 16 / Lanes] += all;
    }

    // x of a tile: a thread has a channel's positions, two times 16.
    __device__ __forceinline__ void make_x(const PatchPlace &at, uint32_t raw, uint32_t raw_empty, uint32_t to,
                                           int operand, uint32_t parity)
    {
        const int thread = threadIdx.x % 128, ic = thread % 64, half = thread / 64;
        uint32_t v[2][2 * Words];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int k = 0; k < 2 * Words; k += 4)
                patch_read<4>(&v[i][k], raw + ic * C::XPitch + (32 * half + 16 * i) * C::Size + k * 4);
        patch_warp_arrive(raw_empty);
        if (at.positions < 64 || b.x_channels < 64)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int k = 0; k < 2 * Words; k++) {
                    const int left = at.positions - 32 * half - 16 * i - k * 4 / C::Size;
                    if (ic >= b.x_channels || left <= 0) v[i][k] = 0;
                    else if (C::Size == 2 && left == 1) v[i][k] &= 0xffff;
                }
        uint32_t largest = 0;
        if constexpr (C::Split) largest = patch_largest(v[1], patch_largest(v[0], 0));
        const PatchScale scale = patch_scale<C>(head, own, buffer, largest);
        buffer ^= 1;
        barrier_wait(patch_address(&head->x_empty[operand]), parity);
        if (thread == 0) head->x_scale[operand] = scale;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const uint32_t cell = to + ((4 * half + 2 * i + j) * C::Lead + ic) * 16;
                const uint32_t *u = v[i];
                if constexpr (C::Split) {
                    float f[8];
#pragma unroll
                    for (int k = 0; k < 8; k++) f[k] = __uint_as_float(u[k / 2 * 4 + 2 * j + k % 2]);
                    patch_write_split(cell, f, power_of_two(min(scale.exponent, 127)));
                } else patch_write(cell, {u[j], u[2 + j], u[4 + j], u[6 + j]});
            }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        patch_warp_arrive(patch_address(&head->x_full[operand]));
    }
};

// One of the makers: every other of what the ring gets.
template <class C>
__device__ __forceinline__ void patch_make(const PatchProblem &p, const PatchBlock &b, PatchHead *head,
                                           uint32_t x_operand, uint32_t y_operand, uint32_t ring, int own)
{
    PatchMaker<C> maker = {p, b, head, own, 0};
    PatchTurn<C::Ring> turn = {0, 0};
    PatchTurn<C::Operands> y = {0, 1};
    PatchTurn<2> x = {0, 1};
    const uint32_t full = patch_address(head->full), empty = patch_address(head->empty);
    const int with_x = p.dw_part != nullptr, stages = (b.rows + C::Rows - 1) / C::Rows;
    int count = own;
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const PatchPlace at = patch_place(p, tile);
#pragma unroll 1
        for (int stage = -with_x; stage < stages; stage++) {
            if (count++ % PATCH_MAKERS == 0) {
                const uint32_t raw = ring + turn.slot * C::Slot, done = empty + turn.slot * 8;
                barrier_wait(full + turn.slot * 8, turn.parity);
                if (stage < 0) maker.make_x(at, raw, done, x_operand + x.slot * C::Bytes, x.slot, x.parity);
                else maker.make_y(at, stage, raw, done, y_operand + y.slot * C::Bytes, y.slot, y.parity);
            }
            turn.next();
            if (stage < 0) x.next();
            else y.next();
        }
    }
    if (!p.bias_part || b.block != 0) return;
    warpgroup_sync(1 + own);
    const int rows = p.stages * C::Rows, thread = threadIdx.x % 128;
    float *to = p.bias_part + (((int64_t)(b.piece * PATCH_MAKERS + own) * p.groups + b.g) * p.slices + b.slice) * rows;
    if (thread < rows) to[thread] = head->bias[own][thread];
}

// The slice of W: a warp has four channels, a lane two neighbouring columns of each stage.
template <class C>
__device__ __forceinline__ void patch_make_w(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t to)
{
    typedef typename C::T T;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T *w = (const T *)p.w +
                 ((int64_t)(b.g * p.in_group + b.block * 64) * p.rows + b.slice * p.stages * C::Rows) * C::SW;
    T v[4][PATCH_STAGES][2];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int k = 0; k < 2 * PATCH_STAGES; k++) {
            const int ic = 4 * warp + i, column = k / 2 * 64 + 2 * lane + k % 2;
            const bool real = ic < b.channels && column < b.rows * C::SW;
            v[i][k / 2][k % 2] = real ? w[(int64_t)ic * p.rows * C::SW + column] : T(0.f);
        }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int ic = 4 * warp + i;
        uint32_t most = 0;
        if constexpr (C::Split) {
#pragma unroll
            for (int k = 0; k < 2 * PATCH_STAGES; k++) most = max(most, magnitude_bits(v[i][k / 2][k % 2]));
            most = __reduce_max_sync(0xffffffffu, most);
        }
        const int exponent = C::Split ? scale_exponent(most) : 0;
        const Scale scale(exponent);
        if (lane == 0) head->exponent[ic] = exponent;
#pragma unroll
        for (int stage = 0; stage < PATCH_STAGES; stage++) {
            const uint32_t at = to + stage * C::WBytes + (lane / 4 * C::WLead + ic) * 16 + lane % 4 * 4;
            const T *pair = v[i][stage];
            if constexpr (C::Split) {
                uint32_t high, low;
                split_pair(scale(pair[0]), scale(pair[1]), &high, &low);
                patch_write(at, high);
                patch_write(at + 64 * 16, low);
            } else patch_write(at, (uint32_t)*(const uint16_t *)&pair[1] << 16 | *(const uint16_t *)&pair[0]);
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    patch_warp_arrive(patch_address(&head->w_full));
}

// ---- products ----

// Adds a stage's products, which count 2^-now, to sums that count 2^-least.
__device__ __forceinline__ void patch_add(float (&sum)[32], const float (&from)[32], int *least, int now)
{
    const int next = min(*least, now);
    const float by = power_of_two(max(-126, next - now)), old = power_of_two(max(-126, next - *least));
    if (next != *least)
#pragma unroll
        for (int i = 0; i < 32; i++) sum[i] *= old;
    *least = next;
#pragma unroll
    for (int i = 0; i < 32; i++) sum[i] = fmaf(from[i], by, sum[i]);
}

// One element of dx, of the slice's columns, in plain arithmetic.
template <class C>
__device__ __forceinline__ float patch_exact(const PatchProblem &p, const PatchBlock &b, const PatchHead *head, int n,
                                             int ic, int position)
{
    typedef typename C::T T;
    const T *dy = (const T *)p.dy + n * p.y_stride[0] + (int64_t)b.g * p.out_group * p.y_stride[1] +
                  patch_y_offset<C::SW>(p, position);
    const T *w = (const T *)p.w + ((int64_t)(b.g * p.in_group + ic) * p.rows + b.slice * p.stages * C::Rows) * C::SW;
    float sum = 0;
#pragma unroll 1
    for (int row = 0; row < b.rows; row++)
#pragma unroll 1
        for (int k = 0; k < C::SW; k++)
            sum = fmaf(Number<T>::widen(dy[head->row[row] + k * p.y_stride[4]]),
                       Number<T>::widen(w[row * C::SW + k]), sum);
    return sum;
}

// One result of dx, or of its share. ic: of the group.
template <class C>
__device__ __forceinline__ void patch_put(const PatchProblem &p, const PatchBlock &b, int n, int ic, int position,
                                          float v)
{
    typedef typename C::T T;
    const int c = b.g * p.in_group + ic;
    if (p.dx_part)
        p.dx_part[(((int64_t)b.slice * p.batch + n) * p.in_channels + c) * p.positions + position] = v;
    else
        ((T *)p.dx)[n * p.dx_stride[0] + c * p.dx_stride[1] + patch_x_offset(p, p.dx_stride, position)] =
            Number<T>::round(v);
}

// Four neighbouring ones.
template <class T> struct alignas(4 * sizeof(T)) PatchFour { T at[4]; };
template <class T> __device__ __forceinline__ void patch_put_four(T *to, const float (&v)[4])
{
    *(PatchFour<T> *)to =
        PatchFour<T>{{Number<T>::round(v[0]), Number<T>::round(v[1]), Number<T>::round(v[2]), Number<T>::round(v[3])}};
}

// A thread's results of a channel once more.
template <class C>
__device__ __forceinline__ void patch_repair(const PatchProblem &p, const PatchBlock &b, const PatchHead *head,
                                          const PatchPlace &at, int ic, int c)
{
#pragma unroll 1
    for (int i = 0; i < 16; i++) {
        const int position = i / 4 * 16 + 4 * c + i % 4;
        if (position < at.positions)
            patch_put<C>(p, b, at.n, ic, at.first + position,
                         patch_exact<C>(p, b, head, at.n, ic, at.first + position));
    }
}

// A thread's rows of a tile: channels of `first` and of 8 more. unfit: none of them may come from products.
template <class C>
__device__ __forceinline__ void patch_store_dx(const PatchProblem &p, const PatchBlock &b, const PatchHead *head,
                                               const PatchPlace &at, const float (&sum)[32], int least, bool unfit,
                                               int first, int c)
{
    typedef typename C::T T;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + 8 * h, ic = b.block * 64 + row;
        if (row >= b.channels) continue;
        const int of_w = C::Split ? usable_exponent(head->exponent[row]) : 0;
        const int exponent = -(least < PATCH_ZERO / 2 ? least : 0) - of_w;
        const bool easy = !C::Split || abs(exponent) <= 100;
        const float by = power_of_two(easy ? exponent : 0);
        const int64_t channel = (int64_t)at.n * p.in_channels + b.g * p.in_group + ic;
        float *part = p.dx_part + ((int64_t)b.slice * p.batch * p.in_channels + channel) * p.positions + at.first;
        T *dx = (T *)p.dx + at.n * p.dx_stride[0] + (b.g * p.in_group + ic) * p.dx_stride[1] + at.first;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int position = 16 * i + 4 * c;
            float v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                v[k] = sum[8 * i + k / 2 * 4 + 2 * h + k % 2];
                if (C::Split) v[k] = easy ? v[k] * by : scale_result(v[k], exponent);
            }
            if (p.plain) {
#pragma unroll
                for (int k = 0; k < 4; k++)
                    if (position + k < at.positions) patch_put<C>(p, b, at.n, ic, at.first + position + k, v[k]);
            } else if (position < at.positions) {
                if (p.dx_part) patch_put_four(part + position, v);
                else patch_put_four(dx + position, v);
            }
        }
        if constexpr (C::Split)
            if (unfit || head->exponent[row] == NOT_FINITE) patch_repair<C>(p, b, head, at, ic, c);
    }
}

// The warpgroup of dx.
template <class C>
__device__ __forceinline__ void patch_dx(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t weights,
                                         uint32_t y_operand)
{
    typedef Wgmma<typename C::Operand, 64> Product;
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const uint64_t a = wgmma_descriptor(weights, C::WLead), b0 = wgmma_descriptor(y_operand, C::Lead);
    PatchTurn<C::Operands> turn = {0, 0};
    barrier_wait(patch_address(&head->w_full), 0);
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const PatchPlace at = patch_place(p, tile);
        float sum[32] = {};
        int least = PATCH_NO_SCALE;
        bool unfit = false;
#pragma unroll 1
        for (int stage = 0; stage * C::Rows < b.rows; stage++) {
            const uint64_t w = wgmma_advance(a, stage * (C::WBytes / 16));
            const uint64_t y = wgmma_advance(b0, turn.slot * (C::Bytes / 16));
            barrier_wait(patch_address(&head->y_full[turn.slot]), turn.parity);
            if constexpr (C::Split) {
                float high[32], cross[32];
                wgmma_fence();
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    const uint64_t ws = wgmma_advance(w, s * 2 * C::WLead), ys = wgmma_advance(y, s * 2 * C::Lead);
                    Product::multiply(cross, ws, wgmma_advance(ys, 64), s > 0);
                    Product::multiply(high, ws, ys, s > 0);
                    Product::multiply(cross, wgmma_advance(ws, 64), ys, 1);
                }
                wgmma_commit();
                const PatchScale scale = head->y_scale[turn.slot];
                wgmma_wait<0>();
                wgmma_pin(high);
                wgmma_pin(cross);
                patch_warp_arrive(patch_address(&head->y_empty[turn.slot]));
#pragma unroll
                for (int i = 0; i < 32; i++) high[i] = fmaf(cross[i], 1.f / 4096, high[i]);
                patch_add(sum, high, &least, scale.exponent);
                unfit = unfit || scale.unfit;
            } else {
                wgmma_pin(sum);
                wgmma_fence();
#pragma unroll
                for (int s = 0; s < 4; s++)
                    Product::multiply(sum, wgmma_advance(w, s * 2 * C::WLead), wgmma_advance(y, s * 2 * C::Lead), 1);
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_pin(sum);
                patch_warp_arrive(patch_address(&head->y_empty[turn.slot]));
            }
            turn.next();
        }
        patch_store_dx<C>(p, b, head, at, sum, C::Split ? least : 0, unfit, 16 * warp + lane / 4, lane % 4);
    }
}

// A stage of dw: x^T dy, added to the sums of its columns.
template <class C>
__device__ __forceinline__ void patch_multiply_dw(float (&sum)[32], int *least, uint64_t x, uint64_t y, int exponent)
{
    typedef WgmmaTurned<typename C::Operand, 64> Product;
    if constexpr (C::Split) {
        float accumulator[32];
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) {
            const uint64_t xs = wgmma_advance(x, s * 2 * C::Lead), ys = wgmma_advance(y, s * 16);
            Product::multiply(accumulator, xs, wgmma_advance(ys, 64), s > 0);
            Product::multiply(accumulator, wgmma_advance(xs, 64), ys, 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(accumulator);
#pragma unroll
        for (int i = 0; i < 32; i++) accumulator[i] *= 1.f / 4096;
        wgmma_pin(accumulator);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++)
            Product::multiply(accumulator, wgmma_advance(x, s * 2 * C::Lead), wgmma_advance(y, s * 16), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(accumulator);
        patch_add(sum, accumulator, least, exponent);
    } else {
        wgmma_pin(sum);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++)
            Product::multiply(sum, wgmma_advance(x, s * 2 * C::Lead), wgmma_advance(y, s * 16), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(sum);
    }
}

// The warpgroup of dw.
template <class C>
__device__ __forceinline__ void patch_dw(const PatchProblem &p, const PatchBlock &b, PatchHead *head,
                                         uint32_t x_operand, uint32_t y_operand)
{
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const uint64_t x0 = wgmma_descriptor(x_operand, C::Lead), y0 = patch_turned(y_operand, C::Lead);
    const int stages = (b.rows + C::Rows - 1) / C::Rows, columns = p.stages * 64;
    float sum[PATCH_STAGES][32] = {};
    int least[PATCH_STAGES] = {PATCH_NO_SCALE, PATCH_NO_SCALE, PATCH_NO_SCALE, PATCH_NO_SCALE};
    PatchTurn<C::Operands> turn = {0, 0};
    PatchTurn<2> x_turn = {0, 0};
    int unfit = 0;
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const uint64_t x = wgmma_advance(x0, x_turn.slot * (C::Bytes / 16));
        barrier_wait(patch_address(&head->x_full[x_turn.slot]), x_turn.parity);
        const PatchScale x_scale = head->x_scale[x_turn.slot];
        unfit |= x_scale.unfit;
#pragma unroll
        for (int stage = 0; stage < PATCH_STAGES; stage++) {
            if (stage >= stages) break;
            barrier_wait(patch_address(&head->y_full[turn.slot]), turn.parity);
            const PatchScale scale = head->y_scale[turn.slot];
            patch_multiply_dw<C>(sum[stage], &least[stage], x, wgmma_advance(y0, turn.slot * (C::Bytes / 16)),
                                 x_scale.exponent + scale.exponent);
            patch_warp_arrive(patch_address(&head->y_empty[turn.slot]));
            unfit |= scale.unfit;
            turn.next();
        }
        patch_warp_arrive(patch_address(&head->x_empty[x_turn.slot]));
        x_turn.next();
    }
    float *to = p.dw_part + ((int64_t)blockIdx.x * 64 + 16 * warp + lane / 4) * columns + 2 * (lane % 4);
#pragma unroll
    for (int stage = 0; stage < PATCH_STAGES; stage++)
        if (stage < p.stages)
#pragma unroll
            for (int i = 0; i < 16; i++) {
                float2 v = make_float2(sum[stage][2 * i], sum[stage][2 * i + 1]);
                if (C::Split) {
                    const int exponent = -min(least[stage], 400);
                    v = make_float2(scale_result(v.x, exponent), scale_result(v.y, exponent));
                }
                *(float2 *)(to + i % 2 * 8 * columns + stage * 64 + i / 2 * 8) = v;
            }
    if (threadIdx.x % 128 == 0) p.unfit[blockIdx.x] = unfit;
}

// Barriers, rows of dy, sums for dbias.
template <class C>
__device__ __forceinline__ void patch_begin(const PatchProblem &p, const PatchBlock &b, PatchHead *head)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::Ring; i++) {
            barrier_init(patch_address(&head->full[i]), 128);
            barrier_init(patch_address(&head->empty[i]), 4);
        }
        for (int i = 0; i < C::Operands; i++) {
            barrier_init(patch_address(&head->y_full[i]), 4);
            barrier_init(patch_address(&head->y_empty[i]), (p.dx ? 4 : 0) + (p.dw_part ? 4 : 0));
        }
        for (int i = 0; i < 2; i++) {
            barrier_init(patch_address(&head->x_full[i]), 4);
            barrier_init(patch_address(&head->x_empty[i]), 4);
        }
        barrier_init(patch_address(&head->w_full), 16);
        barrier_init_done();
    }
    for (int row = threadIdx.x; row < b.rows; row += PATCH_THREADS)
        head->row[row] = patch_row_offset(p, b.slice * p.stages * C::Rows + row);
    for (int i = threadIdx.x; i < PATCH_MAKERS * PATCH_STAGES * 32; i += PATCH_THREADS)
        head->bias[i / (PATCH_STAGES * 32)][i % (PATCH_STAGES * 32)] = 0;
}
#endif

template <class C>
__global__ void __launch_bounds__(PATCH_THREADS, 1) patch_kernel(const __grid_constant__ PatchProblem p)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char patch_shared[];
    PatchHead *head = (PatchHead *)patch_shared;
    const uint32_t weights = patch_address(patch_shared) + PATCH_HEAD;
    const uint32_t x_operand = weights + PATCH_STAGES * C::WBytes, y_operand = x_operand + 2 * C::Bytes;
    const uint32_t ring = y_operand + C::Operands * C::Bytes;
    const PatchBlock b(p, C::Rows);
    let_next_start();
    patch_begin<C>(p, b, head);
    wait_for_previous();
    __syncthreads();
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (group < 4 && p.dx) patch_make_w<C>(p, b, head, weights);
    if (group == 4) {
        give_registers<32>();
        patch_copy<C>(p, b, head, ring);
    } else if (group >= 2) {
        give_registers<64>();
        patch_make<C>(p, b, head, x_operand, y_operand, ring, group - 2);
    } else if (group == 0) {
        take_registers<120>();
        if (p.dx) patch_dx<C>(p, b, head, weights, y_operand);
    } else {
        take_registers<200>();
        if (p.dw_part) patch_dw<C>(p, b, head, x_operand, y_operand);
    }
#endif
}

}

#endif
