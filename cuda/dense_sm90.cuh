// sm90_dense: dense convolution as an implicit GEMM on Hopper's wgmma, for any kernel, stride, padding and dilation.
//
// Idea      x becomes planes of 16-byte cells with zeros after rows, planes and samples (split.cuh), so that in the
//           flat order of positions every tap is one shift, for all outputs of a phase. A tile is R*128 flat positions
//           of one (d, h) phase and NB channels. Its taps, sorted by shift, are cut into stages: the span of shifts
//           that one segment of x in shared memory serves, for 16 channels (more where one product does). One warp
//           loads segments, one streams weights, both by bulk copies; two warpgroups multiply, positions as A, each R
//           times 64 of them. Both w phases of a stride of 2 are one tile's, so that they interleave in whole sectors.
//           Finished results go through a ring of chunks in shared memory (64 positions, all channels) to four more
//           warps, which store them as rows (NCDHW) or channels (NDHWC) while the next tile is multiplied.
// f32       three f16 products of scaled halves (split.cuh): [low|high] weights are one operand of 2*NB columns for the
//           high half of x, and the low half of x adds to the first NB columns (into the second, ptxas serialises
//           wgmma). Every 16*U products the sums leave the matrix unit's accumulator, which truncates, for an f32
//           register.
// Others    f16, bf16: one product, accumulated in the matrix unit. CONVT3D_TF32: one tf32 product.
// List      instances of their own keep results in f32 in the ring; the warps that store apply the list on the way,
//           beside the products of the next tile, and round if y is not wide. Not yet measured.
// NaN, inf  x or w that holds any is seen by the splitting pass (weights: by packing) and the outputs of that sample,
//           or channel (eight of them but for f32 without a list), are computed again by dense_repair_kernel, which
//           otherwise ends at once. One product needs this for w alone; tf32 also where x or w holds subnormals.
// Launches  f32: scales, operands, for large samples what the guess of split.cuh missed, main, repair; one product has
//           no scales. Each starts while the one before ends (programmatic dependent launch).
// Requires  sm_90; not f64; for f32 4 channels a group; at most 640 taps, 64 phases (w phases of a stride of 2 count
//           as one), 2^30 positions with their zeros; everything the generic kernel calls 32-bit.
// Tiles     NB = 16, 24, 32, 48, 64 (and 128 where one product does); R = 4, 3 or 2 and U = 3, 4, 8 or 9 by dense_r and
//           dense_u: what registers and shared memory hold. Persistent: one block of 512 threads a multiprocessor.
// Measured  one H200, NCDHW, weights packed in the call, of the floor: stride 1 f32 0.54-0.79 (kb_l1_61 1.41 ms,
//           kb_l2_61 1.17), f16 0.61-0.81, but 0.41 and 0.29 where 16 channels leave the matrix unit waiting for
//           positions (kb_l1_58); stride 2 f32 0.53-0.70 (gan_128_64_32 3.0 ms), where results are many for their
//           products 0.29-0.40, held back by a warpgroup's work between tiles, which both do at the same time. NDHWC
//           lies within 15% of that. Samples of 4^3 compute twice their outputs in zeros (gan_512_256_4 0.26).
#pragma once

extern "C" {
CONVT3D__HIDDEN int32_t convt3d__dense_sm90_refuses(convt3d__plan *plan, char why[96]);
CONVT3D__HIDDEN double convt3d__dense_sm90_cost(const convt3d__plan *plan);
CONVT3D__HIDDEN int64_t convt3d__dense_sm90_workspace(const convt3d__plan *plan);
CONVT3D__HIDDEN int64_t convt3d__dense_sm90_packed(const convt3d__plan *plan);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm90_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                        void *stream, convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm90_run(const convt3d__plan *plan, const convt3d_io *io,
                                                       convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm90_ready(const convt3d__plan *plan, convt3d_error *error);
// The instances that apply lists, CONVT3D_CUDA_PART 12.
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm90_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                            convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm90_list_ready(const convt3d__plan *plan, convt3d_error *error);
}

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {

enum { DENSE_SPLIT = 0, DENSE_F16 = 1, DENSE_BF16 = 2, DENSE_TF32 = 3 };
enum { DENSE_THREADS = 512, DENSE_MOST_PHASES = 64, DENSE_MOST_STAGES = 90, DENSE_MOST_STEPS = 640 };
enum { DENSE_EXACT = 65536 };   // elements of a sample below which its largest magnitude is looked up, not guessed
enum { DENSE_MOST_X = 6, DENSE_MOST_CHUNKS = 4, DENSE_BARRIER_BYTES = 384, DENSE_SHARED = 227 * 1024 };

// ---- the walk over taps, made on the host ----

struct DensePhase { uint8_t begin, end, d, h, w; };         // stages; its first output on each axis
struct DenseStage { uint16_t length, first[2], count[2]; }; // positions; steps of each w phase

struct DenseTable {
    int phases, stages, steps;
    DensePhase phase[DENSE_MOST_PHASES];
    int32_t base[DENSE_MOST_STAGES];        // of a stage: its first shift
    DenseStage stage[DENSE_MOST_STAGES];
    uint16_t offset[DENSE_MOST_STEPS];      // of a step (one k of the matrix unit), in cells from its segment's first
};

// How a mode multiplies.
template <int Mode> struct DenseMode;
template <> struct DenseMode<DENSE_SPLIT> { typedef float T; typedef __half Operand; enum { Kind = SPLIT_F16 }; };
template <> struct DenseMode<DENSE_F16> { typedef __half T; typedef __half Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_BF16> { typedef __nv_bfloat16 T, Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_TF32> { typedef float T; typedef Tf32 Operand; enum { Kind = ROUND_TF32 }; };

static constexpr int dense_least(int a, int b) { return a < b ? a : b; }
static constexpr int dense_most(int a, int b) { return a < b ? b : a; }

template <bool Wide, class T> struct DenseChunk { typedef T Value; };
template <class T> struct DenseChunk<true, T> { typedef float Value; };

// One instance: NB channels, R times 64 positions a warpgroup, Q w phases, U steps a slot of weights. Lists: results
// stay f32 in their ring, and the warps that store them apply the list, and round if y is not wide.
template <int Mode_, int NB_, int R_, int Q_, int U_, bool Lists_> struct DenseTile {
    typedef typename DenseMode<Mode_>::T T;
    typedef typename DenseChunk<Lists_, T>::Value Value;            // a result in the ring
    typedef typename DenseMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, NB = NB_, R = R_, Q = Q_, U = U_;
    static constexpr bool Lists = Lists_;
    static constexpr int Kind = DenseMode<Mode>::Kind, Parts = CellKind<Kind>::Parts;
    static constexpr int Rows = Parts * NB;                         // of the weights' operand
    static constexpr int Positions = R * 128;
    static constexpr int WeightSlots = Mode == DENSE_SPLIT && Q == 2 ? 3 : 4;
    static constexpr int Slots = NB == 48 ? 1 : Q == 2 || NB == 64 ? 2 : 3; // of these, those a split takes at a time
    static constexpr int Ping = Q * R * NB / 2 + 2 * NB <= 200 ? 2 : 1;     // accumulators of a split, by registers
    static constexpr int SlotBytes = U * 2 * Rows * 16;
    static constexpr int Columns = Q * 64;                          // of a chunk of results, R of them a warpgroup
    static constexpr int RowPitch = Columns + (sizeof(Value) == 4 ? 4 : 8);     // between channels: keeps banks apart
    // Between columns, where channels lie together; the same.
    static constexpr int CellPitch = Q == 2 && sizeof(Value) == 4 ? NB + 4 : NB % 16 == 0 ? NB + 8 : NB;
    static constexpr int ChunkBytes = dense_most(NB * RowPitch, Columns * CellPitch) * (int)sizeof(Value);
    // A ring for all of a tile is worth less than long stages, but where these are short anyway.
    static constexpr int RingBytes = (Mode == DENSE_SPLIT && Q == 1 ? 58 : 28) * 1024;
    static constexpr int Chunks = dense_least(R, dense_most(1, RingBytes / ChunkBytes));
    static constexpr int ScaleBytes = 4 * NB * 4;                   // DenseScales
    // Of a thread, by role; multiplying counts twice, 512 in all. What has a list wants more to store.
    static constexpr int MultiplyRegisters =
        !Lists ? (Q == 1 ? 216 : 200) : Mode != DENSE_SPLIT ? 176 : Q == 1 ? 208 : 200;
    static constexpr int LoadRegisters = Lists ? (Mode != DENSE_SPLIT ? 32 : 24) : Q == 1 ? 24 : 32;
    static constexpr int StoreRegisters = 512 - 2 * MultiplyRegisters - LoadRegisters;
    static constexpr int Listed = Mode == DENSE_SPLIT ? 4 : 8;  // results that a list is applied to at a time
    static constexpr int FixedBytes = DENSE_BARRIER_BYTES + WeightSlots * SlotBytes +
                                      2 * (Chunks * ChunkBytes + ScaleBytes);
};

struct DenseProblem {
    const uint4 *planes, *weights;
    const int *x_exponent, *w_exponent;
    const void *bias;
    void *y;
    int64_t y_stride[5];
    int batch, out[3], stride[3], in_d, skips;      // skips: whether a segment may hold nothing but zeros
    int out_group, blocks_group, blocks;            // channel blocks of a group, of all
    int units, tiles;                               // position tiles x blocks; with phases
    int pitch, lead, plane_blocks, cells;           // K blocks of a group; cells of one (position of a stage)
    int segment, x_stages;                          // cells between planes of a segment in shared memory
    int y_vectors;                                  // channels lie side by side, in whole 16-byte units
    Divisor d, h, w, plane;
    int full;                                       // units that are dealt out in whole rounds
    Divisor grid, rest, phases, block;              // blocks of threads; units but for `full`; phases; blocks
    DenseTable table;
};

// What says that outputs are to be computed again.
struct DenseFlags {
    const int *x_exponent, *w;
    const uint32_t *subnormal;              // of each sample; this and x_exponent: null where x needs no repair
    int count, flag;                        // how many of w there are, and what says so; of a channel:
    int rows, step;                         // rows that share one; from one of a channel to its next, or 0
};

// What an instance that applies lists wants besides.
template <class T, bool Lists> struct DenseFollows {};
template <class T> struct DenseFollows<T, true> {
    List<T> list;
    DenseFlags flags;
    int wide;                               // y has f32, whatever T
};
static_assert(sizeof(DenseProblem) + sizeof(DenseFollows<float, true>) <= 4096, "a kernel's parameters");

__device__ __forceinline__ bool dense_bad_sample(const DenseFlags &f, int n)
{
    return (f.x_exponent && f.x_exponent[n] == NOT_FINITE) || (f.subnormal && f.subnormal[n] != 0);
}

__device__ __forceinline__ bool dense_bad_row(const DenseFlags &f, int row)
{
    int i = row / f.rows;
    bool any = f.w[i] == f.flag;
    if (f.step > 0) for (i += f.step; i < f.count && !any; i += f.step) any = f.w[i] == f.flag;
    return any;
}

// Lists: eight rows are stored, or left to be repaired, together.
__device__ __forceinline__ bool dense_bad_octet(const DenseFlags &f, int octet)
{
    bool any = false;
    for (int i = 0; i < 8; i += f.rows) any = any || dense_bad_row(f, octet * 8 + i);
    return any;
}

// Of this thread's share.
__device__ __forceinline__ bool dense_bad_any(const DenseFlags &f, int batch, int threads)
{
    bool any = false;
    for (int n = threadIdx.x; n < batch; n += threads) any = any || dense_bad_sample(f, n);
#pragma unroll 4
    for (int i = threadIdx.x; i < f.count; i += threads) any = any || f.w[i] == f.flag;
    return any;
}

#if CONVT3D__SM90A

// A tile as both producers and consumers see it. Blocks take a band of as many units (positions x channels) as there
// are blocks through all its phases, so that all have the same work and x is still in L2; what is left over is dealt
// out phase by phase, the heaviest first.
struct DenseWork {
    int position, block, phase;
    __device__ __forceinline__ DenseWork(const DenseProblem &p, int tile, int positions)
    {
        uint32_t rest, first = (uint32_t)(p.full * p.table.phases), unit;
        if ((uint32_t)tile < first) {
            uint32_t round = divide((uint32_t)tile, p.grid, &rest), band = divide(round, p.phases, &unit);
            phase = (int)unit;
            unit = band * p.grid.by + rest;
        } else {
            phase = (int)divide((uint32_t)tile - first, p.rest, &rest);
            unit = (uint32_t)p.full + rest;
        }
        position = (int)divide(unit, p.block, &rest) * positions;
        block = (int)rest;
    }
};

// A segment that holds nothing but the zeros between samples is neither loaded nor multiplied.
__device__ __forceinline__ bool dense_skips(const DenseProblem &p, int first, int length)
{
    if (!p.skips) return false;
    uint32_t rest, d;
    int last = first + length - 1;
    if (last < 0) return true;
    uint32_t begin = divide((uint32_t)max(first, 0), p.plane, &rest), end = divide((uint32_t)last, p.plane, &rest);
    divide(begin, p.d, &d);
    return (int)d >= p.in_d && end - begin < p.d.by - d;
}

// Where a ring of buffers stands.
struct Ring {
    int index = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next(int size)
    {
        if (++index == size) { index = 0;  parity ^= 1; }
    }
};

struct DenseShared {
    uint32_t x_full, x_empty, w_full, w_empty, y_full, y_empty, segments, slots, scales, chunks;
    template <class C> __device__ __forceinline__ static DenseShared of(uint32_t base)
    {
        DenseShared s;
        s.x_full = base;  s.x_empty = base + 64;  s.w_full = base + 128;  s.w_empty = base + 192;
        s.y_full = base + 256;  s.y_empty = base + 320;
        s.slots = base + DENSE_BARRIER_BYTES;
        s.scales = s.slots + C::WeightSlots * C::SlotBytes;
        s.chunks = s.scales + 2 * C::ScaleBytes;
        s.segments = s.chunks + 2 * C::Chunks * C::ChunkBytes;
        return s;
    }
    // Of a warpgroup's ring of results.
    template <class C> __device__ __forceinline__ uint32_t chunk(int group, int index) const
    {
        return chunks + (uint32_t)((group * C::Chunks + index) * C::ChunkBytes);
    }
    static __device__ __forceinline__ uint32_t ring(int group, int index)
    {
        return (uint32_t)((group * DENSE_MOST_CHUNKS + index) * 8);
    }
};

template <class C> __device__ __forceinline__ void dense_load_x(const DenseProblem &p, const DenseShared &s)
{
    Ring ring;
    const int lane = threadIdx.x % 32;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        int64_t cells = (int64_t)(work.block / p.blocks_group) * p.plane_blocks * p.cells;
        for (int block = 0; block < p.plane_blocks; block++, cells += p.cells)
            for (int i = phase.begin; i < phase.end; i++) {
                int first = work.position + p.table.base[i], length = p.table.stage[i].length;
                if (dense_skips(p, first, length)) continue;
                barrier_wait(s.x_empty + ring.index * 8, ring.parity ^ 1);
                if (lane == 0) barrier_expect(s.x_full + ring.index * 8, (uint32_t)(p.cells * length * 16));
                __syncwarp();
                if (lane < p.cells)
                    bulk_load(s.segments + (uint32_t)((ring.index * p.cells + lane) * p.segment * 16),
                              p.planes + ((cells + lane) * p.pitch + p.lead + first), (uint32_t)length * 16,
                              s.x_full + ring.index * 8);
                ring.next(p.x_stages);
            }
    }
}

template <class C> __device__ __forceinline__ void dense_load_w(const DenseProblem &p, const DenseShared &s)
{
    Ring ring;
    if (threadIdx.x % 32 != 0) return;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        for (int block = 0; block < p.plane_blocks; block++) {
            const uint4 *w = p.weights + (int64_t)(work.block * p.plane_blocks + block) * p.table.steps * (2 * C::Rows);
            for (int i = phase.begin; i < phase.end; i++) {
                const DenseStage &stage = p.table.stage[i];
                if (dense_skips(p, work.position + p.table.base[i], stage.length)) continue;
                for (int q = 0; q < C::Q; q++)
                    for (int done = 0; done < stage.count[q]; done += C::U) {
                        int steps = min(stage.count[q] - done, C::U);
                        barrier_wait(s.w_empty + ring.index * 8, ring.parity ^ 1);
                        barrier_expect(s.w_full + ring.index * 8, (uint32_t)(steps * 2 * C::Rows * 16));
                        bulk_load(s.slots + ring.index * C::SlotBytes, w + (stage.first[q] + done) * (2 * C::Rows),
                                  (uint32_t)(steps * 2 * C::Rows * 16), s.w_full + ring.index * 8);
                        ring.next(C::WeightSlots);
                    }
            }
        }
    }
}

// What the consumers walk through: slots of weights and the segment of x that they go with.
struct DenseCursor {
    Ring slot;
    uint64_t a, b0;         // this warpgroup's positions in the segment; the first slot
    uint32_t low;           // cells from the high to the low half of x
    uint32_t full, empty;   // barriers of slots
    template <class C> __device__ __forceinline__ uint64_t take()
    {
        barrier_wait(full + slot.index * 8, slot.parity);
        return wgmma_advance(b0, slot.index * (C::SlotBytes / 16));
    }
    __device__ __forceinline__ void release(int index) const
    {
        if (threadIdx.x % 32 == 0) barrier_arrive(empty + index * 8);
    }
};

// A split's products: `Slots` slots of `Steps` steps each, R times 64 positions, into sum. Accumulators take turns, one
// being added to sum while the matrix unit fills the other; none is left in flight at the end, since ptxas would then
// serialise everything. So the more slots, the fewer stalls.
template <class C, int Slots, int Steps>
__device__ __forceinline__ void dense_multiply(float (&sum)[C::R][C::NB / 2], DenseCursor &cursor, uint64_t b,
                                               const uint16_t *offset)
{
    float accumulator[C::Ping][C::NB];
    int index = cursor.slot.index;
#pragma unroll
    for (int i = 0; i < Slots * C::R + C::Ping - 1; i++) {
        if (i < Slots * C::R) {
            const int r = i % C::R;
            if (Slots > 1 && r == 0) {
                b = cursor.take<C>();
                cursor.slot.next(C::WeightSlots);
            }
            wgmma_fence();
#pragma unroll
            for (int u = 0; u < Steps; u++) {
                uint64_t x = wgmma_advance(cursor.a, offset[i / C::R * Steps + u] + 64 * r);
                uint64_t w = wgmma_advance(b, u * 2 * C::Rows);
                float *to = accumulator[i % C::Ping];
                Wgmma<__half, 2 * C::NB>::multiply(to, x, w, u > 0);
                Wgmma<__half, C::NB>::multiply(to, wgmma_advance(x, cursor.low), wgmma_advance(w, C::NB), 1);
            }
            wgmma_commit();
        }
        const int done = i - (C::Ping - 1);
        if (done < 0) continue;
        if (i < Slots * C::R && C::Ping == 2) wgmma_wait<1>(); else wgmma_wait<0>();
        float (&from)[C::NB] = accumulator[done % C::Ping];
        wgmma_pin(from);
#pragma unroll
        for (int c = 0; c < C::NB / 2; c++) sum[done % C::R][c] += fmaf(from[c], 1.f / 4096, from[C::NB / 2 + c]);
        if (Slots > 1 && done % C::R == C::R - 1) {
            cursor.release(index);
            if (++index == C::WeightSlots) index = 0;
        }
    }
}

// One product, accumulated where it is made.
template <class C, int Steps>
__device__ __forceinline__ void dense_add(float (&sum)[C::R][C::NB / 2], const DenseCursor &cursor, uint64_t b,
                                          const uint16_t *offset)
{
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int u = 0; u < Steps; u++)
            Wgmma<typename C::Operand, C::NB>::multiply(sum[r], wgmma_advance(cursor.a, offset[u] + 64 * r),
                                                        wgmma_advance(b, u * 2 * C::Rows), 1);
}

// All steps of one w phase in one stage.
template <class C>
__device__ __forceinline__ void dense_steps(float (&sum)[C::R][C::NB / 2], DenseCursor &cursor, const uint16_t *offset,
                                            int left)
{
    if constexpr (C::Mode == DENSE_SPLIT) {
        if constexpr (C::Slots > 1)
#pragma unroll 1
            for (; left >= C::Slots * C::U; left -= C::Slots * C::U, offset += C::Slots * C::U)
                dense_multiply<C, C::Slots, C::U>(sum, cursor, 0, offset);
#pragma unroll 1
        for (; left > 0; left -= C::U, offset += C::U) {
            uint64_t b = cursor.take<C>();
            if (left >= C::U) dense_multiply<C, 1, C::U>(sum, cursor, b, offset);
            else if (left == 3) dense_multiply<C, 1, 3>(sum, cursor, b, offset);
            else if (left == 2) dense_multiply<C, 1, 2>(sum, cursor, b, offset);
            else dense_multiply<C, 1, 1>(sum, cursor, b, offset);
            cursor.release(cursor.slot.index);
            cursor.slot.next(C::WeightSlots);
        }
    } else {
        int last = -1;          // the slot before this one, still being read
#pragma unroll 1
        for (; left > 0; left -= C::U, offset += C::U) {
            uint64_t b = cursor.take<C>();
            wgmma_fence();
            if (left >= C::U) dense_add<C, C::U>(sum, cursor, b, offset);
            else {
                int u = 0;
                if (left >= 4) {
                    dense_add<C, 4>(sum, cursor, b, offset);
                    u = 4;
                }
#pragma unroll 1
                for (; u < left; u++) {
                    wgmma_fence();
                    dense_add<C, 1>(sum, cursor, wgmma_advance(b, u * 2 * C::Rows), offset + u);
                }
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (last >= 0) cursor.release(last);
            last = cursor.slot.index;
            cursor.slot.next(C::WeightSlots);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < C::R; r++) wgmma_pin(sum[r]);
        if (last >= 0) cursor.release(last);
    }
}

// ---- results: from accumulators to y ----
//
// A warpgroup finishes its results and puts them, 64 positions at a time, into a ring of chunks in shared memory; two
// other warps take them from there to y while it multiplies the next tile.

// Of a warpgroup's channels: the scale, as a factor where it is moderate, and its exponent; 1; the bias.
template <class C> struct DenseScales { float whole[C::NB], one[C::NB], bias[C::NB];  int exponent[C::NB]; };

template <class T> struct alignas(2 * sizeof(T)) DensePair { T at[2]; };

// The sample of the warpgroup's first position, or -1 where its positions are not all of one sample.
__device__ __forceinline__ int dense_sample(const DenseProblem &p, int position, int count)
{
    uint32_t rest, first = divide(divide((uint32_t)position, p.plane, &rest), p.d, &rest);
    return divide(divide((uint32_t)(position + count - 1), p.plane, &rest), p.d, &rest) == first ? (int)first : -1;
}

// What a block of channels is.
struct DenseChannels {
    int row, oc, left;          // in the pack; in y; how many there are
    template <class C> __device__ __forceinline__ static DenseChannels of(const DenseProblem &p, int block)
    {
        const int channel = block % p.blocks_group * C::NB;
        return {block * C::NB, block / p.blocks_group * p.out_group + channel, p.out_group - channel};
    }
};

// What the results will need of memory, loaded before the products: of channel threadIdx.x % 128, and of the sample of
// all positions, where there is but one (otherwise it is negative).
template <class C> struct DenseAhead {
    int w, x, sample;
    float bias;
    __device__ __forceinline__ DenseAhead(const DenseProblem &p, int position, const DenseChannels &channels)
    {
        typedef typename C::T T;
        const int t = threadIdx.x % 128;
        const bool real = t < C::NB && t < channels.left;
        bias = real && p.bias ? Number<T>::widen(((const T *)p.bias)[channels.oc + t]) : 0.f;
        w = C::Mode == DENSE_SPLIT && t < C::NB ? p.w_exponent[channels.row + t] : 0;
        sample = C::Mode == DENSE_SPLIT ? dense_sample(p, position, C::R * 64) : 0;
        x = C::Mode == DENSE_SPLIT && sample >= 0 && sample < p.batch ? p.x_exponent[sample] : 0;
    }
};

// A scale 2^e that needs no care: a product of two of them and a sum of products changes no bits.
__device__ __forceinline__ bool dense_moderate(int e) { return e >= -30 && e <= 30; }

// Undoes the scales of x and w: by a factor of the position and one of the channel where both are moderate. Elsewhere
// sum is multiplied here by two halves of the whole scale, so that nothing leaves f32's range on the way. Where either
// would do both give the same bits, so that a sample's results do not depend on its neighbours.
template <class C> struct DenseUnscale {
    float row[C::R][2];         // what is left to multiply by, of each of this thread's positions
    const float *channel;       // and of each channel
    // Fills the tables too, and is a barrier of the warpgroup.
    __device__ __forceinline__ DenseUnscale(const DenseProblem &p, DenseScales<C> *scales, int position,
                                            const DenseAhead<C> &ahead, float (&sum)[C::Q][C::R][C::NB / 2])
    {
        const int t = threadIdx.x % 128, lane = threadIdx.x % 32;
        bool moderate = true;
        int e[C::R][2];
        if (t < C::NB) {
            scales->bias[t] = ahead.bias;
            if (C::Mode == DENSE_SPLIT) {
                const int ew = -usable_exponent(ahead.w);
                moderate = dense_moderate(ew);
                scales->whole[t] = power_of_two(ew);
                scales->one[t] = 1.f;
                scales->exponent[t] = ew;
            }
        }
        if constexpr (C::Mode == DENSE_SPLIT) {
            const int first = position + t / 32 * 16 + lane / 4;
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) {
                e[i / 2][i % 2] = -usable_exponent(ahead.x);
                if (ahead.sample < 0) {
                    uint32_t rest, n = divide((uint32_t)(first + i / 2 * 64 + i % 2 * 8), p.plane, &rest);
                    n = divide(n, p.d, &rest);
                    e[i / 2][i % 2] = n < (uint32_t)p.batch ? -usable_exponent(p.x_exponent[n]) : 0;
                }
                moderate = moderate && dense_moderate(e[i / 2][i % 2]);
            }
        }
        moderate = warpgroup_and(1 + threadIdx.x / 128, moderate);
        channel = scales->whole;
        if constexpr (C::Mode == DENSE_SPLIT) {
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) row[i / 2][i % 2] = power_of_two(e[i / 2][i % 2]);
            if (moderate) return;
            channel = scales->one;
#pragma unroll
            for (int r = 0; r < C::R; r++)
#pragma unroll
                for (int c = 0; c < C::NB / 2; c++) {
                    const int i = scales->exponent[c / 4 * 8 + lane % 4 * 2 + c % 2] + e[r][c / 2 % 2];
                    const int whole = max(-250, min(250, i)), half = whole / 2;
#pragma unroll
                    for (int q = 0; q < C::Q; q++)
                        sum[q][r][c] = sum[q][r][c] * power_of_two(half) * power_of_two(whole - half);
                }
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) row[i / 2][i % 2] = 1.f;
        }
    }
};

// The one place where accumulators become results: 64 positions of the warpgroup, as values of the ring in `chunk`.
// Element 4*b + i of sum belongs to channel 8*b + lane%4*2 + i%2 and position warp*16 + lane/4 + i/2*8.
template <class C>
__device__ __forceinline__ void dense_finish(const float (&sum)[C::Q][C::R][C::NB / 2], int r,
                                             const DenseUnscale<C> &scale, const DenseScales<C> *scales,
                                             typename C::Value *chunk, bool by_channel)
{
    typedef typename C::Value T;
    typedef DensePair<T> Pair;
    const int lane = threadIdx.x % 32, position = threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int b = 0; b < C::NB / 8; b++) {
        const int channel = b * 8 + lane % 4 * 2;
        const float2 factor = *(const float2 *)(scale.channel + channel);
        const float2 bias = *(const float2 *)(scales->bias + channel);
        T v[C::Q][4];
#pragma unroll
        for (int q = 0; q < C::Q; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float s = sum[q][r][b * 4 + i], add = i % 2 ? bias.y : bias.x;
                v[q][i] = Number<T>::round(C::Mode != DENSE_SPLIT ? s + add : fmaf(s * scale.row[r][i / 2],
                                                                                   i % 2 ? factor.y : factor.x, add));
            }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (by_channel) {
                if (i % 2) continue;
#pragma unroll
                for (int q = 0; q < C::Q; q++)
                    *(Pair *)(chunk + ((position + i / 2 * 8) * C::Q + q) * C::CellPitch + channel) =
                        Pair{{v[q][i], v[q][i + 1]}};
            } else {
                T *to = chunk + (channel + i % 2) * C::RowPitch + (position + i / 2 * 8) * C::Q;
                if constexpr (C::Q == 2) *(Pair *)to = Pair{{v[0][i], v[1][i]}};
                else *to = v[0][i];
            }
        }
    }
}

template <class C>
__device__ __forceinline__ void dense_put(const DenseProblem &p, const DenseShared &s, unsigned char *shared,
                                          const DenseAhead<C> &ahead, int position, Ring &ring,
                                          float (&sum)[C::Q][C::R][C::NB / 2])
{
    const int group = threadIdx.x / 128;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    DenseScales<C> *scales = (DenseScales<C> *)(shared + (s.scales - origin)) + group;
    const DenseUnscale<C> scale(p, scales, position, ahead, sum);
#pragma unroll
    for (int r = 0; r < C::R; r++) {
        const uint32_t at = DenseShared::ring(group, ring.index);
        barrier_wait(s.y_empty + at, ring.parity ^ 1);
        dense_finish<C>(sum, r, scale, scales, (typename C::Value *)(shared + (s.chunk<C>(group, ring.index) - origin)),
                        p.y_stride[1] == 1);
        barrier_arrive(s.y_full + at);
        ring.next(C::Chunks);
    }
    warpgroup_sync(1 + group);      // the scales are free
}

// Where in y, in bytes from channel 0, a position's output lies; negative: nowhere. *pair: its neighbour, one further
// on w, is an output too.
__device__ __forceinline__ int64_t dense_where(const DenseProblem &p, const DensePhase &phase, int position, int size,
                                               bool *pair)
{
    uint32_t d, h, w, n = divide(divide(divide((uint32_t)position, p.w, &w), p.h, &h), p.d, &d);
    int od = phase.d + (int)d * p.stride[0], oh = phase.h + (int)h * p.stride[1], ow = phase.w + (int)w * p.stride[2];
    bool inside = (int)n < p.batch && od < p.out[0] && oh < p.out[1] && ow < p.out[2];
    *pair = inside && ow + 1 < p.out[2];
    return !inside ? -1 : (n * p.y_stride[0] + od * p.y_stride[2] + oh * p.y_stride[3] + ow * p.y_stride[4]) * size;
}

// A store under a predicate, not a branch: what takes results to y must not wait for branches to meet again.
__device__ __forceinline__ void dense_store_if(bool real, char *to, float v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.f32 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "f"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint16_t v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.u16 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "h"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint32_t v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.u32 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "r"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint2 v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v2.u32 [%1], {%2, %3};}" ::
                 "r"((int)real), "l"(to), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint4 v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v4.u32 [%1], {%2, %3, %4, %5};}" ::
                 "r"((int)real), "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Two values of y's type, and one, as bits.
template <int Size> struct DenseBits;
template <> struct DenseBits<4> {
    typedef uint2 Pair;
    typedef uint32_t One;
    static __device__ __forceinline__ One low(Pair v) { return v.x; }
    static __device__ __forceinline__ One high(Pair v) { return v.y; }
};
template <> struct DenseBits<2> {
    typedef uint32_t Pair;
    typedef uint16_t One;
    static __device__ __forceinline__ One low(Pair v) { return (One)v; }
    static __device__ __forceinline__ One high(Pair v) { return (One)(v >> 16); }
};

// A chunk to y where positions are neighbours: a lane takes pairs of columns, and every second channel from `first` on.
template <class C>
__device__ __forceinline__ void dense_store_rows(const DenseProblem &p, const DensePhase &phase, int position,
                                                 const DenseChannels &channels, const typename C::T *chunk, int first,
                                                 uint32_t full, uint32_t parity)
{
    constexpr int Batch = 4, Size = (int)sizeof(typename C::T);
    typedef DenseBits<Size> Bits;
    const int lane = threadIdx.x % 32, count = min(C::NB, channels.left);
    const int64_t channel_bytes = p.y_stride[1] * Size;
    char *y = (char *)p.y + (channels.oc + first) * channel_bytes, *at[C::Q][2];
    bool real[C::Q][2], whole = channel_bytes % (2 * Size) == 0;
#pragma unroll
    for (int k = 0; k < C::Q; k++) {
        bool pair;
        int64_t where = dense_where(p, phase, position + (C::Q == 2 ? k * 32 + lane : 2 * lane), Size, &pair);
        int64_t next = C::Q == 2 ? where + p.y_stride[4] * Size
                                 : dense_where(p, phase, position + 2 * lane + 1, Size, &real[k][1]);
        real[k][0] = where >= 0;
        real[k][1] = C::Q == 2 ? pair : next >= 0;
        at[k][0] = y + where;
        at[k][1] = y + next;
        whole = whole && real[k][0] == real[k][1] &&
                (!real[k][0] || (next == where + Size && (uintptr_t)at[k][0] % (2 * Size) == 0));
    }
    whole = __all_sync(0xffffffffu, whole);
    barrier_wait(full, parity);
    chunk += 2 * lane;
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        typename Bits::Pair v[Batch][C::Q];
#pragma unroll
        for (int i = 0; i < Batch; i++)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                v[i][k] = *(const typename Bits::Pair *)(chunk + (c + 2 * i) * C::RowPitch + k * 64);
        if (whole) {
#pragma unroll
            for (int i = 0; i < Batch; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    dense_store_if(real[k][0] && c + 2 * i < count, at[k][0], v[i][k]);
                    at[k][0] += 2 * channel_bytes;
                }
        } else {
#pragma unroll
            for (int i = 0; i < Batch; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    dense_store_if(real[k][0] && c + 2 * i < count, at[k][0], Bits::low(v[i][k]));
                    dense_store_if(real[k][1] && c + 2 * i < count, at[k][1], Bits::high(v[i][k]));
                    at[k][0] += 2 * channel_bytes;
                    at[k][1] += 2 * channel_bytes;
                }
        }
    }
}

// A chunk to y where channels lie side by side: lanes take neighbouring units of V, of columns of half the chunk.
template <class C, class V>
__device__ __forceinline__ void dense_store_cells(const DenseProblem &p, const DenseChannels &channels,
                                                  const typename C::T *chunk, int half, int64_t at, uint32_t pairs)
{
    constexpr int Size = (int)sizeof(typename C::T), Units = C::NB * Size / (int)sizeof(V);
    constexpr int Batch = C::Q * Units % 4 == 0 ? 4 : C::Q * Units % 3 == 0 ? 3 : 2;
    const int lane = threadIdx.x % 32, count = min(C::NB, channels.left) * Size / (int)sizeof(V);
    char *y = (char *)p.y + channels.oc * (int64_t)Size;
    static_assert(C::Q * Units % Batch == 0, "");
#pragma unroll 1
    for (int first = lane; first < 32 * C::Q * Units; first += 32 * Batch) {
        V v[Batch];
        char *to[Batch];
        bool real[Batch];
#pragma unroll
        for (int i = 0; i < Batch; i++) {
            const int column = (first + i * 32) / Units, unit = (first + i * 32) % Units;
            const int64_t where = __shfl_sync(0xffffffffu, at, column / C::Q);
            const bool second = C::Q == 2 && column % 2 != 0;
            real[i] = where >= 0 && unit < count && (!second || (pairs >> column / 2 & 1));
            to[i] = y + where + (second ? p.y_stride[4] * (int64_t)Size : 0) + unit * (int)sizeof(V);
            v[i] = ((const V *)(chunk + (half * 32 * C::Q + column) * C::CellPitch))[unit];
        }
#pragma unroll
        for (int i = 0; i < Batch; i++) dense_store_if(real[i], to[i], v[i]);
    }
}

template <class C>
__device__ __forceinline__ void dense_store(const DenseProblem &p, const DenseShared &s, const unsigned char *shared)
{
    typedef typename C::T T;
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2, lane = threadIdx.x % 32;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        const DenseChannels channels = DenseChannels::of<C>(p, work.block);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.position + (group * C::R + r) * 64;
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const T *chunk = (const T *)(shared + (s.chunk<C>(group, ring.index) - origin));
            if (p.y_stride[1] == 1) {
                bool pair;
                int64_t at = dense_where(p, phase, position + half * 32 + lane, (int)sizeof(T), &pair);
                uint32_t pairs = __ballot_sync(0xffffffffu, pair);
                barrier_wait(s.y_full + barrier, ring.parity);
                if (p.y_vectors) dense_store_cells<C, uint4>(p, channels, chunk, half, at, pairs);
                else dense_store_cells<C, typename DenseBits<sizeof(T)>::One>(p, channels, chunk, half, at, pairs);
            } else {
                dense_store_rows<C>(p, phase, position, channels, chunk, half, s.y_full + barrier, ring.parity);
            }
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}

// ---- results with a list: applied on the way to y ----
//
// The warps that store apply it, while the matrix unit multiplies the next tile. A residual may be y, so what
// dense_repair_kernel computes again is not stored here if there is one.

template <int Bytes> struct DenseWord;
template <> struct DenseWord<2> { typedef uint16_t Bits; };
template <> struct DenseWord<4> { typedef uint32_t Bits; };
template <> struct DenseWord<8> { typedef uint2 Bits; };
template <> struct DenseWord<16> { typedef uint4 Bits; };

// N neighbours, as elements of Out in one store.
template <class Out, int N> __device__ __forceinline__ void dense_store_as(bool real, Out *to, const float *v)
{
    union { Out at[N];  typename DenseWord<N * (int)sizeof(Out)>::Bits bits; } lot = {};
#pragma unroll
    for (int i = 0; i < N; i++) lot.at[i] = Number<Out>::round(v[i]);
    dense_store_if(real, (char *)to, lot.bits);
}

// Where the list is applied: of which tile, in which phase.
template <class C> struct DenseListed {
    const DenseProblem &p;
    const DenseFollows<typename C::T, true> &f;
    const DensePhase &phase;
    DenseChannels channels;
    uint32_t bad;               // octets of channels that are left to be repaired
    bool repairs;               // there may be such, or such samples
    __device__ __forceinline__ DenseListed(const DenseProblem &problem,
                                           const DenseFollows<typename C::T, true> &follows, const DensePhase &of,
                                           int block, bool some)
        : p(problem), f(follows), phase(of), channels(DenseChannels::of<C>(problem, block)), bad(0), repairs(some)
    {
        if (!repairs) return;
        const int lane = threadIdx.x % 32;
        bad = __ballot_sync(0xffffffffu, lane < C::NB / 8 && dense_bad_octet(f.flags, channels.row / 8 + lane));
    }
    // A position's output in elements from channel 0, negative: none is stored. *pair as of dense_where().
    __device__ __forceinline__ int64_t at(int position, bool *pair) const
    {
        int64_t where = dense_where(p, phase, position, 1, pair);
        if (repairs && where >= 0) {
            uint32_t rest, n = divide(divide((uint32_t)position, p.plane, &rest), p.d, &rest);
            if (dense_bad_sample(f.flags, (int)n)) { where = -1;  *pair = false; }
        }
        return where;
    }
    // N neighbours to elements `to` and on of y.
    template <int N> __device__ __forceinline__ void store(bool real, int64_t to, const float *v) const
    {
        typedef typename C::T T;
        if (sizeof(T) == 4 || f.wide) dense_store_as<float, N>(real, (float *)p.y + to, v);
        else dense_store_as<T, N>(real, (T *)p.y + to, v);
    }
    // The same output in a tensor of any strides, for a position that has one.
    __device__ __forceinline__ int64_t at(int position, const int64_t (&stride)[5]) const
    {
        uint32_t d, h, w, n = divide(divide(divide((uint32_t)position, p.w, &w), p.h, &h), p.d, &d);
        return n * stride[0] + (phase.d + (int64_t)d * p.stride[0]) * stride[2] +
               (phase.h + (int64_t)h * p.stride[1]) * stride[3] + (phase.w + (int64_t)w * p.stride[2]) * stride[4];
    }
    __device__ __forceinline__ bool stores(int channel) const { return !(bad >> channel / 8 & 1); }
};

// As dense_store_rows: a lane takes pairs of columns, and every second channel from `first` on.
template <class C>
__device__ __forceinline__ void dense_list_rows(const DenseListed<C> &l, int position, const float *chunk, int first,
                                                uint32_t full, uint32_t parity)
{
    typedef typename C::T T;
    constexpr int N = C::Listed, Batch = N / (2 * C::Q);
    const DenseProblem &p = l.p;
    const List<T> &list = l.f.list;
    const int lane = threadIdx.x % 32, count = min(C::NB, l.channels.left);
    const int64_t step = p.y_stride[1];
    int64_t at[C::Q][2];
    bool whole = step % 2 == 0 && (uintptr_t)p.y % (l.f.wide ? 8 : 2 * sizeof(T)) == 0;
#pragma unroll
    for (int k = 0; k < C::Q; k++) {
        bool pair, other;
        at[k][0] = l.at(position + (C::Q == 2 ? k * 32 + lane : 2 * lane), &pair);
        if (C::Q == 2) at[k][1] = pair ? at[k][0] + p.y_stride[4] : -1;
        else at[k][1] = l.at(position + 2 * lane + 1, &other);
        whole = whole && (at[k][0] >= 0 ? at[k][0] % 2 == 0 && at[k][1] == at[k][0] + 1 : at[k][1] < 0);
    }
    whole = __all_sync(0xffffffffu, whole);
    if (list.residual < list.count && list.entry[list.residual].like_y)
        for (int c = first; c < count; c += 2)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                if (at[k][0] >= 0)
                    ask_early((const T *)list.entry[list.residual].residual + at[k][0] + (l.channels.oc + c) * step);
    barrier_wait(full, parity);
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        float v[1][N];                          // of channel c + 2*i, columns k and j: (i*Q + k)*2 + j
        auto channel = [&](int i) { return min(c + i / (2 * C::Q) * 2, count - 1); };
        auto real = [&](int i) { return at[i / 2 % C::Q][i % 2] >= 0 && c + i / (2 * C::Q) * 2 < count; };
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const float *from = chunk + (c + i / (2 * C::Q) * 2) * C::RowPitch;
            const float2 pair = *(const float2 *)(from + i / 2 % C::Q * 64 + 2 * lane);
            v[0][i] = pair.x;
            v[0][i + 1] = pair.y;
        }
        apply_in_registers(list, 0, v, [&](int i) { return l.channels.oc + channel(i); },
                           [&](const Entry<float> &e, int, float (&r)[N]) {
            const T *from = (const T *)e.residual;
            const bool pairs = whole && e.like_y && e.aligned;
#pragma unroll
            for (int i = 0; i < N; i += 2) {
                DensePair<T> pair = {{Number<T>::round(0), Number<T>::round(0)}};
                const int64_t oc = l.channels.oc + channel(i);
                if (e.like_y) {
                    const T *row = from + oc * step;
                    if (pairs) { if (real(i)) pair = *(const DensePair<T> *)(row + at[i / 2 % C::Q][0]); }
                    else {
                        if (real(i)) pair.at[0] = row[at[i / 2 % C::Q][0]];
                        if (real(i + 1)) pair.at[1] = row[at[i / 2 % C::Q][1]];
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int q = position + (C::Q == 2 ? i / 2 % C::Q * 32 + lane : 2 * lane + j);
                        const int64_t second = C::Q == 2 && j == 1 ? e.stride[4] : 0;
                        if (real(i + j)) pair.at[j] = from[l.at(q, e.stride) + oc * e.stride[1] + second];
                    }
                }
                r[i] = Number<T>::widen(pair.at[0]);
                r[i + 1] = Number<T>::widen(pair.at[1]);
            }
        });
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const bool stores = l.stores(channel(i));
            const int64_t oc = (l.channels.oc + channel(i)) * step;
            if (whole) l.template store<2>(real(i) && stores, oc + at[i / 2 % C::Q][0], v[0] + i);
            else {
                l.template store<1>(real(i) && stores, oc + at[i / 2 % C::Q][0], v[0] + i);
                l.template store<1>(real(i + 1) && stores, oc + at[i / 2 % C::Q][1], v[0] + i + 1);
            }
        }
    }
}

// As dense_store_cells: lanes take lots of neighbouring channels, of columns of half the chunk from `position` on.
template <class C, int Lot>
__device__ __forceinline__ void dense_list_cells(const DenseListed<C> &l, int position, const float *chunk, int64_t at,
                                                 uint32_t pairs)
{
    typedef typename C::T T;
    constexpr int N = C::Listed, Batch = N / Lot, Units = C::NB / Lot;
    static_assert(C::Q * Units % Batch == 0, "");
    struct alignas(Lot * 4) Values { float at[Lot]; };
    const DenseProblem &p = l.p;
    const int lane = threadIdx.x % 32, count = min(C::NB, l.channels.left);
#pragma unroll 1
    for (int first = lane; first < 32 * C::Q * Units; first += 32 * Batch) {
        float v[1][N];
        int64_t to[Batch];                      // negative: not stored
#pragma unroll
        for (int b = 0; b < Batch; b++) {
            const int column = (first + b * 32) / Units, c = (first + b * 32) % Units * Lot;
            const int64_t where = __shfl_sync(0xffffffffu, at, column / C::Q);
            const bool second = C::Q == 2 && column % 2 != 0, real = !second || (pairs >> column / 2 & 1);
            to[b] = where >= 0 && c < count && real && l.stores(c) ? where + (second ? p.y_stride[4] : 0) + c : -1;
            Values values = *(const Values *)(chunk + column * C::CellPitch + c);
#pragma unroll
            for (int j = 0; j < Lot; j++) v[0][b * Lot + j] = values.at[j];
        }
        auto channel = [&](int i) {
            return l.channels.oc + min((first + i / Lot * 32) % Units * Lot + i % Lot, count - 1);
        };
        apply_in_registers(l.f.list, 0, v, channel, [&](const Entry<float> &e, int, float (&r)[N]) {
#pragma unroll
            for (int b = 0; b < Batch; b++) {
                float (&lot)[Lot] = reinterpret_cast<float (&)[Lot]>(r[b * Lot]);
#pragma unroll
                for (int j = 0; j < Lot; j++) lot[j] = 0;
                if (to[b] < 0) continue;
                const int column = (first + b * 32) / Units;
                const int64_t second = C::Q == 2 && column % 2 != 0 ? e.stride[4] : 0;
                const int64_t from = e.like_y ? l.channels.oc + to[b]
                                              : l.at(position + column / C::Q, e.stride) + second +
                                                    channel(b * Lot) * e.stride[1];
                if (Lot > 1 && e.channels) residual_vectors<T>(e.residual, from, lot);
                else
#pragma unroll
                    for (int j = 0; j < Lot; j++)
                        lot[j] = Number<T>::widen(((const T *)e.residual)[from + j * e.stride[1]]);
            }
        });
#pragma unroll
        for (int b = 0; b < Batch; b++)
            l.template store<Lot>(to[b] >= 0, l.channels.oc + to[b], v[0] + b * Lot);
    }
}

template <class C>
__device__ __forceinline__ void dense_list_chunk(const DenseListed<C> &l, int position, const float *chunk, int half,
                                                 uint32_t full, uint32_t parity)
{
    if (l.p.y_stride[1] != 1) { dense_list_rows<C>(l, position, chunk, half, full, parity);  return; }
    bool pair;
    const int lane = threadIdx.x % 32;
    const int64_t at = l.at(position + half * 32 + lane, &pair);
    const uint32_t pairs = __ballot_sync(0xffffffffu, pair);
    chunk += half * 32 * C::Q * C::CellPitch;
    position += half * 32;
    barrier_wait(full, parity);
    if (l.p.y_vectors) dense_list_cells<C, 4>(l, position, chunk, at, pairs);
    else dense_list_cells<C, 1>(l, position, chunk, at, pairs);
}

template <class C>
__device__ __forceinline__ void dense_store_listed(const DenseProblem &p, const DenseFollows<typename C::T, true> &f,
                                                   const DenseShared &s, const unsigned char *shared, bool repairs)
{
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DenseListed<C> l(p, f, p.table.phase[work.phase], work.block, repairs);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.position + (group * C::R + r) * 64;
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const float *chunk = (const float *)(shared + (s.chunk<C>(group, ring.index) - origin));
            dense_list_chunk<C>(l, position, chunk, half, s.y_full + barrier, ring.parity);
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}

template <class C>
__device__ __forceinline__ void dense_consume(const DenseProblem &p, const DenseShared &s, unsigned char *shared)
{
    static_assert(sizeof(DenseScales<C>) == C::ScaleBytes, "");
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    const uint64_t a0 = wgmma_descriptor(s.segments + group * C::R * 64 * 16, p.segment);
    DenseCursor cursor;
    cursor.b0 = wgmma_descriptor(s.slots, C::Rows);
    cursor.low = 2 * p.segment;
    cursor.full = s.w_full;
    cursor.empty = s.w_empty;
    Ring segment, chunk;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        const int position = work.position + group * C::R * 64;
        const DenseAhead<C> ahead(p, position, DenseChannels::of<C>(p, work.block));
        float sum[C::Q][C::R][C::NB / 2] = {};
        for (int block = 0; block < p.plane_blocks; block++)
            for (int i = phase.begin; i < phase.end; i++) {
                const DenseStage &stage = p.table.stage[i];
                if (dense_skips(p, work.position + p.table.base[i], stage.length)) continue;
                barrier_wait(s.x_full + segment.index * 8, segment.parity);
                cursor.a = wgmma_advance(a0, segment.index * p.cells * p.segment);
#pragma unroll
                for (int q = 0; q < C::Q; q++)
                    dense_steps<C>(sum[q], cursor, p.table.offset + stage.first[q], stage.count[q]);
                if (threadIdx.x % 32 == 0) barrier_arrive(s.x_empty + segment.index * 8);
                segment.next(p.x_stages);
            }
        dense_put<C>(p, s, shared, ahead, position, chunk, sum);
    }
}
#endif

template <class C>
__global__ void __launch_bounds__(DENSE_THREADS, 1)
dense_kernel(const __grid_constant__ DenseProblem p, const __grid_constant__ DenseFollows<typename C::T, C::Lists> f)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char dense_shared[];
    const DenseShared s = DenseShared::of<C>((uint32_t)__cvta_generic_to_shared(dense_shared));
    let_next_start();
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.x_stages; i++) {
            barrier_init(s.x_full + i * 8, 1);
            barrier_init(s.x_empty + i * 8, 8);
        }
        for (int i = 0; i < C::WeightSlots; i++) {
            barrier_init(s.w_full + i * 8, 1);
            barrier_init(s.w_empty + i * 8, 8);
        }
        for (int i = 0; i < 2 * DENSE_MOST_CHUNKS; i++) {
            barrier_init(s.y_full + i * 8, 128);        // every thread arrives, so that racecheck can follow
            barrier_init(s.y_empty + i * 8, 64);
        }
        barrier_init_done();
    }
    __syncthreads();
    wait_for_previous();
    [[maybe_unused]] bool repairs = false;
    if constexpr (C::Lists)
        if (f.list.residual < f.list.count) repairs = __syncthreads_or(dense_bad_any(f.flags, p.batch, DENSE_THREADS));
    int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (warp < 8) {
        take_registers<C::MultiplyRegisters>();
        dense_consume<C>(p, s, dense_shared);
    } else if (warp < 12) {
        give_registers<C::LoadRegisters>();
        if (warp == 8) dense_load_x<C>(p, s);
        if (warp == 9) dense_load_w<C>(p, s);
    } else {
        give_registers<C::StoreRegisters>();
        if constexpr (C::Lists) dense_store_listed<C>(p, f, s, dense_shared, repairs);
        else dense_store<C>(p, s, dense_shared);
    }
#endif
}

// ---- before: scales, then operands ----

// Packed weights: flags, the operand's rows in the order of the walk and, where they are to be kept, w as it came for
// dense_repair_kernel. Flags of a split: the exponent of each row; otherwise, for each cell of K, whether eight rows
// hold what the matrix unit must not see.
struct DensePackProblem {
    const void *w;
    int *flags;
    uint4 *rows;
    void *copy;                             // or null
    int in_group, out_group, blocks_group, taps, taps_used, cells_group, chunks;    // chunks: of a K block
    int octets, scan_blocks, pack_blocks;   // eighths of rows; blocks of the two launches, none where w came packed
    int vectors;                            // the taps of a pair of channels are whole, aligned 16-byte units
    uint16_t tap[DENSE_MOST_STEPS];
};

// The exponent of one row.
template <int NB> __device__ __forceinline__ void dense_scan_row(const DensePackProblem &p, int row)
{
    const int block = row / NB, g = block / p.blocks_group, oc = block % p.blocks_group * NB + row % NB;
    const int unit = p.vectors ? 4 : 1, units = p.taps / unit;
    const int64_t step = (int64_t)p.out_group * p.taps;
    const float *w = (const float *)p.w + ((int64_t)g * p.in_group * p.out_group + oc) * p.taps;
    uint32_t most = 0;
    if (oc < p.out_group)
#pragma unroll 8
        for (int i = threadIdx.x; i < p.in_group * units; i += SPLIT_THREADS) {
            int ic = i / units;
            const float *at = w + ic * step + (i - ic * units) * unit;
            float4 v = p.vectors ? __ldg((const float4 *)at) : make_float4(__ldg(at), 0, 0, 0);
            most = max(max(most, max(magnitude_bits(v.x), magnitude_bits(v.y))),
                       max(magnitude_bits(v.z), magnitude_bits(v.w)));
        }
    most = block_largest(most);
    if (threadIdx.x == 0) p.flags[row] = scale_exponent(most);
}

// What must not reach the matrix unit: NaN and infinity; for tf32 also what it rounds too coarsely.
template <int Mode, class Element> __device__ __forceinline__ bool dense_unfit(Element v)
{
    if constexpr (Mode == DENSE_F16) return (v & 0x7c00) == 0x7c00;
    else if constexpr (Mode == DENSE_BF16) return (v & 0x7f80) == 0x7f80;
    else return magnitude_bits(v) >= 0x7f800000u || is_subnormal(v);
}

// Eight rows of one cell.
template <int Mode, int NB> __device__ __forceinline__ void dense_pack_octet(const DensePackProblem &p, int item)
{
    typedef CellKind<DenseMode<Mode>::Kind> Cell;
    typedef typename Cell::Element Element;
    const int cell = item / p.octets, row = item % p.octets * 8 + (int)threadIdx.x % 8, block = row / NB;
    const int g = block / p.blocks_group, oc = block % p.blocks_group * NB + row % NB, channel = cell * Cell::Channels;
    const int64_t step = (int64_t)p.out_group * p.taps;
    const Element *w = (const Element *)p.w + ((int64_t)(g * p.in_group + channel) * p.out_group + oc) * p.taps;
    const int k = cell / 2 / p.chunks, chunk = cell / 2 % p.chunks;
    uint4 *rows = p.rows + ((int64_t)block * (p.cells_group / 2 / p.chunks) + k) * p.taps_used * p.chunks * 2 *
                           (Cell::Parts * NB) + row % NB;
    const int exponent = Mode == DENSE_SPLIT ? p.flags[row] : 0;
    bool unfit = false;
    for (int s = threadIdx.x / 8; s < p.taps_used; s += SPLIT_THREADS / 8) {
        alignas(16) Element v[Cell::Channels] = {};
        const int channels = oc < p.out_group ? p.in_group - channel : 0;
        if (channels > 0) load_cell(w + p.tap[s], step, channels, false, v);
        uint4 *out = rows + ((s * p.chunks + chunk) * 2 + cell % 2) * (Cell::Parts * NB);
        alignas(16) uint32_t high[4], low[4];
        if constexpr (Mode == DENSE_SPLIT) {
            split_cell(v, usable_exponent(exponent), nullptr, high, low);
            *out = *(const uint4 *)low;
        } else {
#pragma unroll
            for (int j = 0; j < Cell::Channels; j++) unfit = unfit || dense_unfit<Mode>(v[j]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if constexpr (Mode == DENSE_TF32) high[j] = round_to_tf32(v[j]);
                else high[j] = ((const uint32_t *)v)[j];
            }
        }
        out[Cell::Parts * NB - NB] = *(const uint4 *)high;
    }
    if constexpr (Mode != DENSE_SPLIT) {
        unfit = __syncthreads_or(unfit);
        if (threadIdx.x == 0) p.flags[item] = unfit;
    }
    if (!p.copy) return;
    for (int i = threadIdx.x; i < 8 * Cell::Channels * p.taps; i += SPLIT_THREADS) {
        int k = i % p.taps, c = i / p.taps / 8, o = oc - (int)threadIdx.x % 8 + i / p.taps % 8;
        if (channel + c >= p.in_group || o >= p.out_group) continue;
        int64_t at = ((int64_t)(g * p.in_group + channel + c) * p.out_group + o) * p.taps + k;
        ((Element *)p.copy)[at] = ((const Element *)p.w)[at];
    }
}

// The kernels before the main one. Only a split needs the exponents of weights first; tf32 has flags to clear.
template <int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_scan_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ GuessProblem x)
{
    let_next_start();
    if ((int)blockIdx.x < w.scan_blocks) dense_scan_row<NB>(w, blockIdx.x);
    else guess_block(x, blockIdx.x - w.scan_blocks);
}

template <int Mode, int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_split_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ PlanesProblem x)
{
    let_next_start();
    wait_for_previous();
    if ((int)blockIdx.x < w.pack_blocks) dense_pack_octet<Mode, NB>(w, blockIdx.x);
    else if (x.pairs) planes_pairs_block<DenseMode<Mode>::Kind>(x, blockIdx.x - w.pack_blocks);
    else planes_block<DenseMode<Mode>::Kind>(x, x.width, blockIdx.x - w.pack_blocks, false);
}

// Samples whose guess was too small.
static __global__ void __launch_bounds__(SPLIT_THREADS) dense_again_kernel(const __grid_constant__ PlanesProblem p)
{
    let_next_start();
    wait_for_previous();
    if (!planes_beyond(p)) return;
    const int positions = p.by_channel ? SPLIT_THREADS / 4 : SPLIT_THREADS;
    const int width = (p.pitch + positions - 1) / positions;
    for (int block = blockIdx.x; block < width * p.height; block += gridDim.x)
        planes_block<SPLIT_F16>(p, width, block, true);
}

// ---- what NaN and infinity reach, in plain arithmetic ----

struct DenseRepairProblem {
    const void *x, *w, *bias;
    void *y;
    DenseFlags flags;
    Axis<int32_t> axis[3];
    int batch, channels, in_group, out_group, blocks_group, row_block;
    int64_t x_stride[5], y_stride[5];
};

template <class T>
__device__ __forceinline__ float dense_exact(const DenseRepairProblem &p, int n, int oc, const Taps<int32_t> (&t)[3])
{
    const int g = oc / p.out_group, taps = p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel;
    float sum = 0;
    for (int ic = 0; ic < p.in_group; ic++) {
        const T *x = (const T *)p.x + n * p.x_stride[0] + (int64_t)(g * p.in_group + ic) * p.x_stride[1];
        const T *w = (const T *)p.w + ((int64_t)(g * p.in_group + ic) * p.out_group + oc % p.out_group) * taps;
        for (int a = 0; a < t[0].count; a++)
            for (int b = 0; b < t[1].count; b++)
                for (int c = 0; c < t[2].count; c++) {
                    int64_t i = (t[0].i - (int64_t)a * p.axis[0].in_step) * p.x_stride[2] +
                                (t[1].i - (int64_t)b * p.axis[1].in_step) * p.x_stride[3] +
                                (t[2].i - (int64_t)c * p.axis[2].in_step) * p.x_stride[4];
                    int k = ((t[0].k + a * p.axis[0].tap_step) * p.axis[1].kernel + t[1].k + b * p.axis[1].tap_step) *
                            p.axis[2].kernel + t[2].k + c * p.axis[2].tap_step;
                    sum += Number<T>::widen(x[i]) * Number<T>::widen(w[k]);
                }
    }
    return sum;
}

template <class T, bool Lists>
__global__ void __launch_bounds__(256) dense_repair_kernel(const __grid_constant__ DenseRepairProblem p,
                                                           const __grid_constant__ DenseFollows<T, Lists> f)
{
    wait_for_previous();
    if (!__syncthreads_or(dense_bad_any(p.flags, p.batch, 256))) return;
    const Epilogue<T> epilogue = {(const T *)p.bias};
    const int outputs = p.axis[0].out * p.axis[1].out * p.axis[2].out;
    for (int i = 0; i < p.batch * p.channels; i++) {
        int n = i / p.channels, oc = i % p.channels, g = oc / p.out_group, c = oc % p.out_group;
        int row = (g * p.blocks_group + c / p.row_block) * p.row_block + c % p.row_block;
        if (!dense_bad_sample(p.flags, n) && !(Lists ? dense_bad_octet(p.flags, row / 8) : dense_bad_row(p.flags, row)))
            continue;
        for (int o = blockIdx.x * 256 + threadIdx.x; o < outputs; o += gridDim.x * 256) {
            int ow = o % p.axis[2].out, oh = o / p.axis[2].out % p.axis[1].out, od = o / p.axis[2].out / p.axis[1].out;
            Taps<int32_t> t[3] = {taps_of(p.axis[0], od), taps_of(p.axis[1], oh), taps_of(p.axis[2], ow)};
            int64_t at = n * p.y_stride[0] + oc * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                         ow * p.y_stride[4];
            float v = epilogue.widen(dense_exact<T>(p, n, oc, t), oc);
            if constexpr (Lists) {
                if (f.list.count > 0) list_in_memory(f.list, &v, 1, 1, {n, oc, od, oh, ow, 1, 1});
                if (f.wide) { ((float *)p.y)[at] = v;  continue; }
            }
            ((T *)p.y)[at] = Number<T>::round(v);
        }
    }
}

// ---- the host's side ----

struct DenseShape {
    int mode, nb, r, q, lists;              // the instance
    int chunks, cells_group, cells;         // chunks and cells of a stage; cells of a group of channels
    int blocks_group, blocks, position_tiles, tile;
    int taps_used, segment, x_stages, shared, lead;
    int64_t pitch[3], plane, sample, packed_rows;
    uint16_t tap[DENSE_MOST_STEPS];         // linear index of the tap of each step of one chunk
    DenseTable table;
};

static int dense_mode(const convt3d_desc &d)
{
    if (d.dtype == CONVT3D_F16) return DENSE_F16;
    if (d.dtype == CONVT3D_BF16) return DENSE_BF16;
    return d.math == CONVT3D_TF32 ? DENSE_TF32 : DENSE_SPLIT;
}

// Positions of a warpgroup and steps of a slot for each instance: what registers and shared memory hold.
static constexpr int dense_r(int mode, int nb, int q)
{
    if (mode == DENSE_SPLIT) return q == 1 ? (nb <= 32 ? 4 : nb <= 48 ? 3 : 2) : 2;
    return nb == 128 ? 2 : q == 1 ? 4 : nb <= 32 ? 3 : 2;
}
static constexpr int dense_u(int mode, int nb, int q)
{
    return mode == DENSE_SPLIT ? (q == 1 || nb == 48 ? 3 : 4) : nb == 128 ? 4 : q == 1 ? 9 : 8;
}

// Cycles of one step on 64 positions: the matrix unit's, or those of reading both operands, copies going on beside.
static double dense_step_cycles(int mode, int nb)
{
    auto one = [](double n) { return n / 2 > 18 + n / 4 ? n / 2 : 18 + n / 4; };
    return mode == DENSE_SPLIT ? one(2 * nb) + one(nb) : one(nb);
}

static int dense_channel_block(int mode, int q, int64_t out_group)
{
    static const int sizes[] = {128, 64, 48, 32, 24, 16};
    int best = 0;
    double least = 0;
    for (int nb : sizes) {
        if (nb == 128 && (mode == DENSE_SPLIT || q == 2)) continue;     // what registers hold: results and,
        if (nb == 64 && mode == DENSE_SPLIT && q == 2) continue;        // for a split, two accumulators
        double cycles = (double)convt3d__ceil_div(out_group, nb) * dense_step_cycles(mode, nb);
        if (best == 0 || cycles < least * 0.999) { best = nb;  least = cycles; }
    }
    return best;
}

// Taps of the phase of output o on an axis that meet the input at all, and how many outputs the phase has.
struct DenseAxisPhase { convt3d__taps taps; int64_t outputs; };

static DenseAxisPhase dense_axis_phase(const convt3d__axis &axis, int64_t o)
{
    int64_t outputs = convt3d__ceil_div(axis.out - o, axis.stride);
    return {convt3d__taps_of(&axis, o, outputs), outputs};
}

static int64_t dense_phases(const convt3d__axis &axis) { return convt3d__min(axis.stride, axis.out); }

// The pitch of an axis: its input or outputs, and zeros for what any tap reads on either side.
static int64_t dense_pitch(const convt3d__axis &axis)
{
    int64_t zeros = 0, most = 0;
    for (int64_t o = 0; o < dense_phases(axis); o++) {
        DenseAxisPhase p = dense_axis_phase(axis, o);
        most = convt3d__max(most, p.outputs);
        if (p.taps.count == 0) continue;
        zeros = convt3d__max(zeros, (p.taps.count - 1) * axis.in_step - p.taps.i);
        zeros = convt3d__max(zeros, p.outputs - 1 + p.taps.i - (axis.in - 1));
    }
    return convt3d__max(axis.in + zeros, most);
}

// Appends the steps of one w phase in the order of their shifts; false if there are too many.
static bool dense_append(const convt3d__plan *plan, DenseShape *s, const DenseAxisPhase &d, const DenseAxisPhase &h,
                         const DenseAxisPhase &w, int64_t *shift)
{
    const convt3d__axis *axis = plan->axis;
    if (d.taps.count * h.taps.count * w.taps.count > DENSE_MOST_STEPS - s->taps_used) return false;
    for (int64_t a = d.taps.count - 1; a >= 0; a--)
        for (int64_t b = h.taps.count - 1; b >= 0; b--)
            for (int64_t c = w.taps.count - 1; c >= 0; c--) {
                int64_t kd = d.taps.k + a * axis[0].tap_step, kh = h.taps.k + b * axis[1].tap_step;
                int64_t kw = w.taps.k + c * axis[2].tap_step;
                shift[s->taps_used] = ((d.taps.i - a * axis[0].in_step) * s->pitch[1] + h.taps.i -
                                       b * axis[1].in_step) * s->pitch[2] + w.taps.i - c * axis[2].in_step;
                s->tap[s->taps_used++] = (uint16_t)((kd * axis[1].kernel + kh) * axis[2].kernel + kw);
            }
    return true;
}

// Cuts the steps [first[q], end[q]) of a phase into stages that span at most `span` shifts.
static bool dense_cut(DenseShape *s, const int64_t *shift, const int *first, const int *end, int64_t span)
{
    int at[2] = {first[0], first[1]};
    while (at[0] < end[0] || at[1] < end[1]) {
        if (s->table.stages == DENSE_MOST_STAGES) return false;
        DenseStage *stage = &s->table.stage[s->table.stages++];
        int64_t base = INT64_MAX, last = INT64_MIN;
        for (int q = 0; q < 2; q++) if (at[q] < end[q]) base = convt3d__min(base, shift[at[q]]);
        for (int q = 0; q < 2; q++) {
            stage->first[q] = (uint16_t)at[q];
            for (; at[q] < end[q] && shift[at[q]] - base <= span; at[q]++) last = convt3d__max(last, shift[at[q]]);
            stage->count[q] = (uint16_t)(at[q] - stage->first[q]);
        }
        s->table.base[s->table.stages - 1] = (int32_t)base;
        stage->length = (uint16_t)(s->tile + last - base);
        s->segment = (int)convt3d__max(s->segment, stage->length);
    }
    return true;
}

static void dense_heaviest_first(DenseTable *t)
{
    int steps[DENSE_MOST_PHASES] = {};
    for (int i = 0; i < t->phases; i++)
        for (int j = t->phase[i].begin; j < t->phase[i].end; j++)
            steps[i] += t->stage[j].count[0] + t->stage[j].count[1];
    for (int i = 1; i < t->phases; i++)
        for (int j = i; j > 0 && steps[j] > steps[j - 1]; j--) {
            DensePhase phase = t->phase[j];
            int count = steps[j];
            t->phase[j] = t->phase[j - 1];  t->phase[j - 1] = phase;
            steps[j] = steps[j - 1];  steps[j - 1] = count;
        }
}

// Phases, their stages and, for s->chunks chunks a stage, the offsets of steps. Empty text: done.
static const char *dense_walk(const convt3d__plan *plan, DenseShape *s, int64_t span)
{
    const convt3d__axis *axis = plan->axis;
    int64_t shift[DENSE_MOST_STEPS], pd = dense_phases(axis[0]), ph = dense_phases(axis[1]);
    int64_t pw = s->q == 2 ? 1 : dense_phases(axis[2]);
    s->table.phases = s->table.stages = s->table.steps = s->taps_used = s->segment = 0;
    if (pd > DENSE_MOST_PHASES || ph > DENSE_MOST_PHASES || pw > DENSE_MOST_PHASES || pd * ph * pw > DENSE_MOST_PHASES)
        return "more than 64 phases";
    for (int64_t i = 0; i < pd * ph * pw; i++) {
        int64_t od = i / pw / ph, oh = i / pw % ph, ow = i % pw;
        DensePhase *phase = &s->table.phase[s->table.phases++];
        int first[2] = {0, 0}, end[2] = {0, 0};
        for (int q = 0; q < s->q; q++) {
            first[q] = s->taps_used;
            if (!dense_append(plan, s, dense_axis_phase(axis[0], od), dense_axis_phase(axis[1], oh),
                              dense_axis_phase(axis[2], ow + q), shift)) return "more than 640 taps";
            end[q] = s->taps_used;
        }
        phase->begin = (uint8_t)s->table.stages;
        phase->d = (uint8_t)od;  phase->h = (uint8_t)oh;  phase->w = (uint8_t)ow;
        if (!dense_cut(s, shift, first, end, span)) return "taps too far apart";
        phase->end = (uint8_t)s->table.stages;
    }
    dense_heaviest_first(&s->table);
    s->table.steps = s->taps_used * s->chunks;
    if (s->table.steps > DENSE_MOST_STEPS) return "more than 640 taps";
    for (int i = 0; i < s->table.stages; i++) {
        DenseStage *stage = &s->table.stage[i];
        for (int q = 0; q < 2; q++) {
            for (int t = stage->first[q]; t < stage->first[q] + stage->count[q]; t++)
                for (int c = 0; c < s->chunks; c++)
                    s->table.offset[t * s->chunks + c] =
                        (uint16_t)(shift[t] - s->table.base[i] + c * (s->cells / s->chunks) * s->segment);
            stage->first[q] = (uint16_t)(stage->first[q] * s->chunks);
            stage->count[q] = (uint16_t)(stage->count[q] * s->chunks);
        }
    }
    return "";
}

// As dense_walk, with the most chunks a stage (the longer a stage, the less it costs to start one) that leave room for
// three segments; for a split, whose w phases have few taps each, two are enough.
static const char *dense_stages(const convt3d__plan *plan, DenseShape *s, int fixed)
{
    const bool split = s->mode == DENSE_SPLIT;
    const int parts = split ? 2 : 1, all = s->cells_group / 2, room = DENSE_SHARED - fixed;
    const char *why = "taps too far apart";
    for (int chunks = split && s->q == 1 ? 1 : 4; chunks > 0; chunks--) {
        if (all % chunks != 0 || (split && s->nb == 48 && chunks == 4)) continue;    // 3 steps a slot
        s->chunks = chunks;
        s->cells = chunks * 2 * parts;
        int64_t most = room / (split && chunks > 1 ? 2 : 3) / (s->cells * 16);
        if (most <= s->tile + s->pitch[2] && chunks > 1) continue;
        if (most <= s->tile) continue;
        why = dense_walk(plan, s, most - s->tile);
        if (*why) continue;
        if (s->segment == 0) s->segment = s->tile;      // no taps at all: the bias alone
        s->x_stages = (int)convt3d__min(room / (s->segment * s->cells * 16), DENSE_MOST_X);
        s->shared = fixed + s->x_stages * s->segment * s->cells * 16;
        return "";
    }
    return why;
}

// act(DenseTile instance) for the shape's mode, block of channels and phases.
template <int Mode, int NB, int Q, bool Lists> struct DenseInstance {
    typedef DenseTile<Mode, NB, dense_r(Mode, NB, Q), Q, dense_u(Mode, NB, Q), Lists> Tile;
};
template <int Mode, int NB, bool Lists, class Act> auto dense_with_phases(int q, Act act)
{
    if constexpr (NB < (Mode == DENSE_SPLIT ? 64 : 128))
        if (q == 2) return act(typename DenseInstance<Mode, NB, 2, Lists>::Tile());
    return act(typename DenseInstance<Mode, NB, 1, Lists>::Tile());
}
template <int Mode, bool Lists, class Act> auto dense_with_block(const DenseShape &s, Act act)
{
    if constexpr (Mode != DENSE_SPLIT)
        if (s.nb == 128) return dense_with_phases<Mode, 128, Lists>(s.q, act);
    if (s.nb == 64) return dense_with_phases<Mode, 64, Lists>(s.q, act);
    if (s.nb == 48) return dense_with_phases<Mode, 48, Lists>(s.q, act);
    if (s.nb == 32) return dense_with_phases<Mode, 32, Lists>(s.q, act);
    if (s.nb == 24) return dense_with_phases<Mode, 24, Lists>(s.q, act);
    return dense_with_phases<Mode, 16, Lists>(s.q, act);
}
template <bool Lists, class Act> auto dense_instance(const DenseShape &s, Act act)
{
#ifndef DENSE_SPLIT_ONLY
    if (s.mode == DENSE_F16) return dense_with_block<DENSE_F16, Lists>(s, act);
    if (s.mode == DENSE_BF16) return dense_with_block<DENSE_BF16, Lists>(s, act);
    if (s.mode == DENSE_TF32) return dense_with_block<DENSE_TF32, Lists>(s, act);
#endif
    return dense_with_block<DENSE_SPLIT, Lists>(s, act);
}

// Whether the plan wants an instance that applies lists.
static inline bool dense_lists(const convt3d__plan *plan)
{
    return plan->pass == CONVT3D_FORWARD && (plan->fused > 0 || plan->stored != plan->desc.dtype);
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *dense_shape(const convt3d__plan *plan, DenseShape *s)
{
    const convt3d_desc &d = plan->desc;
    s->mode = dense_mode(d);
    s->lists = dense_lists(plan);
    s->q = dense_phases(plan->axis[2]) == 2 ? 2 : 1;
    s->nb = dense_channel_block(s->mode, s->q, plan->out_group);
    s->r = dense_r(s->mode, s->nb, s->q);
    s->tile = s->r * 128;
    for (int a = 0; a < 3; a++) s->pitch[a] = dense_pitch(plan->axis[a]);
    const int64_t most = (int64_t)1 << 30;
    s->plane = s->pitch[1] * s->pitch[2];
    if (s->pitch[0] > most || s->plane > most || s->pitch[0] * s->plane > most) return "too many positions";
    s->sample = s->pitch[0] * s->plane;
    if (d.batch > 65535 || s->sample > most / d.batch) return "too many positions";
    int64_t last[3];                            // output of a phase; behind it nothing is computed
    for (int a = 0; a < 3; a++) last[a] = convt3d__ceil_div(plan->axis[a].out, plan->axis[a].stride) - 1;
    s->position_tiles = (int)convt3d__ceil_div((d.batch - 1) * s->sample + last[0] * s->plane +
                                               last[1] * s->pitch[2] + last[2] + 1, s->tile);
    const int cell = s->mode == DENSE_TF32 ? 4 : 8;
    s->cells_group = (int)convt3d__ceil_div(plan->in_group, 2 * cell) * 2;
    s->blocks_group = (int)convt3d__ceil_div(plan->out_group, s->nb);
    s->blocks = (int)d.groups * s->blocks_group;
    if (d.groups * s->cells_group > 65535 || plan->taps > 65535) return "too many channels or taps";
    if (s->position_tiles * (s->tile / 64) > INT32_MAX / (d.groups * s->cells_group)) return "too many positions";
    auto bytes = [](auto tile) { return (int)decltype(tile)::FixedBytes; };
    const int fixed = s->lists ? dense_instance<true>(*s, bytes) : dense_instance<false>(*s, bytes);
    const char *why = dense_stages(plan, s, fixed);
    if (*why) return why;
    if ((int64_t)s->position_tiles * s->blocks * s->table.phases > INT32_MAX) return "too many tiles";
    s->lead = 0;
    for (int i = 0; i < s->table.stages; i++) s->lead = (int)convt3d__max(s->lead, -(int64_t)s->table.base[i]);
    s->lead += s->lead % 2;                     // for planes_pairs_block
    s->packed_rows = (int64_t)s->blocks * s->cells_group * s->taps_used * (s->mode == DENSE_SPLIT ? 2 : 1) * s->nb;
    return "";
}

static int64_t dense_plane_pitch(const DenseShape &s)
{
    int64_t reach = 0;
    for (int i = 0; i < s.table.stages; i++)
        reach = convt3d__max(reach, (int64_t)s.table.base[i] + s.table.stage[i].length - s.tile);
    return (s.lead + (int64_t)s.position_tiles * s.tile + reach + 3) / 4 * 4;
}

static int64_t dense_round(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Is a sample of x one run of elements?
static bool dense_contiguous(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    static const int orders[2][4] = {{4, 3, 2, 1}, {1, 4, 3, 2}};
    for (const int *order : orders) {
        int64_t step = 1;
        bool dense = true;
        for (int i = 0; i < 4; i++) {
            int a = order[i];
            dense = dense && d.x_stride[a] == step;
            step *= a == 1 ? d.in_channels : d.in_size[a - 2];
        }
        if (dense) return true;
    }
    return false;
}

// The pack: flags, rows, w. The workspace: planes; of samples the exponents, the largest magnitudes and the
// guesses; a pack.
struct DenseLayout {
    int64_t flags, rows, copy, packed, x_exponent, beyond, guess, pack, workspace;
    int guess_blocks, exact;
};

static DenseLayout dense_layout(const convt3d__plan *plan, const DenseShape &s)
{
    DenseLayout l;
    const convt3d_desc &d = plan->desc;
    l.flags = (int64_t)s.blocks * s.nb * (s.mode == DENSE_SPLIT ? 8 : s.cells_group) / 8;
    l.rows = dense_round(l.flags * 4);
    l.copy = dense_round(l.rows + s.packed_rows * 16);
    l.packed = dense_round(l.copy + plan->w_count * convt3d__element_size(d.dtype));
    // By the sample alone: its bits must not depend on how many there are.
    const int64_t sample = plan->x_count / d.batch;
    l.exact = s.mode == DENSE_SPLIT && (sample < DENSE_EXACT || !dense_contiguous(plan));
    l.guess_blocks = s.mode != DENSE_SPLIT ? 1 : (int)convt3d__max(1, convt3d__min(GUESS_MOST_BLOCKS, sample / 4096));
    l.x_exponent = dense_round(dense_plane_pitch(s) * d.groups * s.cells_group * (s.mode == DENSE_SPLIT ? 32 : 16));
    l.beyond = dense_round(l.x_exponent + d.batch * 4);
    l.guess = dense_round(l.beyond + d.batch * 4);
    l.pack = dense_round(l.guess + d.batch * l.guess_blocks * 4);
    l.workspace = l.pack + l.packed;
    return l;
}

static GuessProblem dense_guess(const convt3d__plan *plan, const convt3d_io *io, const DenseLayout &l)
{
    const convt3d_desc &d = plan->desc;
    GuessProblem p = {};
    p.x = (const float *)io->x;
    p.guess = (uint32_t *)((char *)io->workspace + l.guess);
    p.beyond = (uint32_t *)((char *)io->workspace + l.beyond);
    p.blocks = l.guess_blocks;
    p.n_stride = d.x_stride[0];
    if (dense_mode(d) == DENSE_TF32) return p;      // nothing to guess: beyond is to be zeroed
    p.count = plan->x_count / d.batch;
    if (dense_contiguous(plan)) {
        p.skip = l.exact ? 1 : GUESS_STRIDE;
        p.runs = convt3d__ceil_div(p.count, GUESS_RUN * p.skip);
        return p;
    }
    p.rows = d.in_channels * d.in_size[0] * d.in_size[1];
    p.row = d.in_size[2];  p.h = d.in_size[1];  p.d = d.in_size[0];
    for (int i = 0; i < 4; i++) p.stride[i] = d.x_stride[1 + i];
    return p;
}

static bool dense_aligned(const convt3d__plan *plan, const void *x, int64_t bytes)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size = convt3d__element_size(d.dtype);
    bool aligned = (uintptr_t)x % 16 == 0 && d.x_stride[1] == 1 && plan->in_group * size % bytes == 0;
    for (int a = 0; a < 5; a++) aligned = aligned && (a == 1 || d.x_stride[a] * size % 16 == 0);
    return aligned;
}

static bool dense_pairs(const convt3d__plan *plan, const DenseShape &s, const void *x)
{
    const convt3d_desc &d = plan->desc;
    bool even = d.x_stride[4] == 1 && d.in_size[2] % 2 == 0 && s.pitch[2] % 2 == 0 && s.lead % 2 == 0;
    for (int a = 0; a < 4; a++) even = even && d.x_stride[a] % 2 == 0;
    return even && (uintptr_t)x % (uintptr_t)(2 * convt3d__element_size(d.dtype)) == 0;
}

template <int Kind>
PlanesProblem dense_planes(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, const DenseLayout &l)
{
    const convt3d_desc &d = plan->desc;
    char *workspace = (char *)io->workspace;
    PlanesProblem p = {};
    p.x = io->x;
    p.planes = (uint4 *)workspace;
    p.guess = (const uint32_t *)(workspace + l.guess);
    p.beyond = (uint32_t *)(workspace + l.beyond);
    p.exponent = (int *)(workspace + l.x_exponent);
    p.blocks = l.guess_blocks;  p.exact = l.exact;  p.batch = (int)d.batch;
    for (int a = 0; a < 3; a++) p.in[a] = (int)d.in_size[a];
    p.in_group = (int)plan->in_group;
    p.cells_group = s.cells_group;  p.cells = (int)d.groups * s.cells_group;
    p.pitch = (int)dense_plane_pitch(s);  p.lead = s.lead;
    p.by_channel = d.x_stride[1] == 1 && d.x_stride[4] != 1;
    p.vectors = dense_aligned(plan, io->x, CellKind<Kind>::Channels * convt3d__element_size(d.dtype));
    p.pairs = !p.by_channel && dense_pairs(plan, s, io->x);
    p.width = (int)convt3d__ceil_div(p.pitch, p.by_channel ? SPLIT_THREADS / 4 : SPLIT_THREADS << p.pairs);
    p.height = p.by_channel ? (p.cells + 3) / 4 : p.cells;
    p.d = divisor_of(s.pitch[0]);  p.h = divisor_of(s.pitch[1]);  p.w = divisor_of(s.pitch[2]);
    for (int a = 0; a < 5; a++) p.stride[a] = d.x_stride[a];
    return p;
}

// w null: it came packed, and nothing of it is to be done. keep: the pack outlives w.
static DensePackProblem dense_packing(const convt3d__plan *plan, const DenseShape &s, const DenseLayout &l,
                                      const void *w, void *packed, bool keep)
{
    DensePackProblem p = {};
    if (!w) return p;
    p.w = w;
    p.flags = (int *)packed;
    p.rows = (uint4 *)((char *)packed + l.rows);
    p.copy = keep ? (char *)packed + l.copy : nullptr;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.taps = (int)plan->taps;  p.taps_used = s.taps_used;
    p.cells_group = s.cells_group;  p.chunks = s.chunks;
    p.vectors = plan->taps % 4 == 0 && (uintptr_t)w % 16 == 0;
    p.scan_blocks = s.mode == DENSE_SPLIT ? s.blocks * s.nb : 0;
    p.octets = s.blocks * s.nb / 8;
    p.pack_blocks = p.octets * s.cells_group;
    memcpy(p.tap, s.tap, sizeof p.tap);
    return p;
}

// A row of launches: each may start, but for what it waits for, while the one before it ends.
struct DenseLaunches {
    void *stream;
    convt3d_error *error;
    int count;
    template <class... Formal, class... Actual>
    convt3d_status operator()(void (*kernel)(Formal...), int64_t blocks, int threads, int shared, Actual... actual)
    {
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute early = {};
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
        config.gridDim = dim3((unsigned)blocks);
        config.blockDim = dim3((unsigned)threads);
        config.dynamicSmemBytes = (size_t)shared;
        config.stream = (cudaStream_t)stream;
        config.attrs = &early;
        config.numAttrs = count++ > 0;
        cudaError_t cause = cudaLaunchKernelEx(&config, kernel, Formal(actual)...);
        return cause == cudaSuccess ? convt3d__ok(error) : convt3d__cuda_fail(error, cause, 0);
    }
};

// The launches before the main one: scales of w and x, then both as operands; either may have nothing to do.
template <class C>
convt3d_status dense_prepare(DenseLaunches &launch, const DensePackProblem &w, const GuessProblem &guess,
                             const PlanesProblem &planes, int64_t guess_blocks, int64_t planes_blocks)
{
    convt3d_status status = CONVT3D_OK;
    if (w.scan_blocks + guess_blocks > 0)
        status = launch(dense_scan_kernel<C::NB>, w.scan_blocks + guess_blocks, SPLIT_THREADS, 0, w, guess);
    if (status == CONVT3D_OK && w.pack_blocks + planes_blocks > 0)
        status = launch(dense_split_kernel<C::Mode, C::NB>, w.pack_blocks + planes_blocks, SPLIT_THREADS, 0, w, planes);
    if (status == CONVT3D_OK && C::Mode == DENSE_SPLIT && planes_blocks > 0 && !planes.exact)
        status = launch(dense_again_kernel, 132, SPLIT_THREADS, 0, planes);
    return status;
}

// Whether the channels of a position are 16-byte units, wherever a block of them begins.
static bool dense_y_vectors(const convt3d__plan *plan, const void *y)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size = convt3d__element_size(plan->stored);
    bool aligned = (uintptr_t)y % 16 == 0 && d.y_stride[1] == 1 && plan->out_group * size % 16 == 0;
    for (int a = 0; a < 5; a++) aligned = aligned && (a == 1 || d.y_stride[a] * size % 16 == 0);
    return aligned;
}

static DenseFlags dense_flags(const convt3d_io *io, const DenseShape &s, const DenseLayout &l, const void *packed)
{
    DenseFlags f = {};
    f.x_exponent = s.mode == DENSE_SPLIT ? (const int *)((const char *)io->workspace + l.x_exponent) : nullptr;
    f.subnormal = s.mode == DENSE_TF32 ? (const uint32_t *)((const char *)io->workspace + l.beyond) : nullptr;
    f.w = (const int *)packed;
    f.count = (int)l.flags;
    f.flag = s.mode == DENSE_SPLIT ? NOT_FINITE : 1;
    f.rows = s.mode == DENSE_SPLIT ? 1 : 8;
    f.step = s.mode == DENSE_SPLIT ? 0 : s.blocks * s.nb / 8;
    return f;
}

template <class C>
DenseFollows<typename C::T, C::Lists> dense_follows(const convt3d__plan *plan, const convt3d_io *io,
                                                    [[maybe_unused]] const DenseFlags &flags)
{
    if constexpr (C::Lists)
        return {list_of<typename C::T>(plan, io, 0, plan->fused), flags, plan->stored != plan->desc.dtype};
    else return {};
}

template <class C>
convt3d_status dense_main(DenseLaunches &launch, const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s,
                          const DenseLayout &l, const void *packed)
{
    const convt3d_desc &d = plan->desc;
    const char *workspace = (const char *)io->workspace;
    DenseProblem p = {};
    p.planes = (const uint4 *)workspace;
    p.weights = (const uint4 *)((const char *)packed + l.rows);
    p.x_exponent = (const int *)(workspace + l.x_exponent);
    p.w_exponent = (const int *)packed;
    p.bias = io->bias;
    p.y = io->y;
    p.batch = (int)d.batch;  p.in_d = (int)d.in_size[0];
    for (int i = 0; i < 5; i++) p.y_stride[i] = d.y_stride[i];
    for (int a = 0; a < 3; a++) { p.out[a] = (int)plan->axis[a].out;  p.stride[a] = (int)d.stride[a]; }
    p.out_group = (int)plan->out_group;  p.blocks_group = s.blocks_group;  p.blocks = s.blocks;
    p.units = s.position_tiles * s.blocks;  p.tiles = p.units * s.table.phases;
    p.pitch = (int)dense_plane_pitch(s);  p.lead = s.lead;
    p.plane_blocks = s.cells_group / 2 / s.chunks;  p.cells = s.cells;
    p.segment = s.segment;  p.x_stages = s.x_stages;
    p.y_vectors = dense_y_vectors(plan, io->y);
    p.d = divisor_of(s.pitch[0]);  p.h = divisor_of(s.pitch[1]);  p.w = divisor_of(s.pitch[2]);
    p.plane = divisor_of(s.plane);
    p.table = s.table;
    const int64_t grid = convt3d__min(p.tiles, plan->multiprocessors);
    p.full = (int)(p.units / grid * grid);
    p.grid = divisor_of(grid);  p.rest = divisor_of(convt3d__max(1, p.units - p.full));
    p.phases = divisor_of(s.table.phases);  p.block = divisor_of(s.blocks);
    // Where stages are short, looking costs more than it saves unless there is much to skip.
    const int64_t zeros = s.pitch[0] - d.in_size[0];
    p.skips = zeros * s.plane >= s.tile && (C::Q == 1 || 10 * zeros >= s.pitch[0]);
    return launch(dense_kernel<C>, grid, DENSE_THREADS, s.shared, p,
                  dense_follows<C>(plan, io, dense_flags(io, s, l, packed)));
}

template <class C>
convt3d_status dense_repair(DenseLaunches &launch, const convt3d__plan *plan, const convt3d_io *io,
                            const DenseShape &s, const DenseLayout &l, const void *packed)
{
    const convt3d_desc &d = plan->desc;
    DenseRepairProblem p = {};
    p.x = io->x;
    p.w = io->w_packed ? (const char *)packed + l.copy : io->w;
    p.bias = io->bias;
    p.y = io->y;
    p.flags = dense_flags(io, s, l, packed);
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    p.batch = (int)d.batch;  p.channels = (int)d.out_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.row_block = s.nb;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    return launch(dense_repair_kernel<typename C::T, C::Lists>, plan->multiprocessors, 256, 0, p,
                  dense_follows<C>(plan, io, p.flags));
}

template <class C>
convt3d_status dense_run(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, convt3d_error *error)
{
    const DenseLayout l = dense_layout(plan, s);
    void *packed = io->w_packed ? (void *)io->w_packed : (char *)io->workspace + l.pack;
    constexpr bool looks = C::Mode == DENSE_SPLIT || C::Mode == DENSE_TF32;
    const GuessProblem guess = looks ? dense_guess(plan, io, l) : GuessProblem();
    const PlanesProblem planes = dense_planes<C::Kind>(plan, io, s, l);
    DenseLaunches launch = {io->stream, error, 0};
    convt3d_status status =
        dense_prepare<C>(launch, dense_packing(plan, s, l, io->w_packed ? nullptr : io->w, packed, false), guess,
                         planes,
                         looks ? plan->desc.batch * l.guess_blocks : 0, (int64_t)planes.width * planes.height);
    if (status == CONVT3D_OK) status = dense_main<C>(launch, plan, io, s, l, packed);
    if (status == CONVT3D_OK) status = dense_repair<C>(launch, plan, io, s, l, packed);
    return status;
}

template <class C> convt3d_status dense_ready(const convt3d__plan *plan, convt3d_error *error)
{
    convt3d_status status = convt3d__load_kernel(error, plan, dense_kernel<C>, DENSE_SHARED);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_scan_kernel<C::NB>, 0);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_split_kernel<C::Mode, C::NB>, 0);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_again_kernel, 0);
    if (status == CONVT3D_OK)
        status = convt3d__load_kernel(error, plan, dense_repair_kernel<typename C::T, C::Lists>, 0);
    return status;
}

}

#endif
#if CONVT3D__PART(2)

namespace convt3d_cuda {

// What packs must agree on: the block of channels, the chunks of a stage and the order of taps.
static uint64_t dense_variant(const DenseShape &s)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ (uint64_t)(s.nb * 16 + s.chunks);
    for (int i = 0; i < s.taps_used; i++) hash = (hash ^ s.tap[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int32_t dense_refusal(char why[96], const char *text)
{
    convt3d__text out = {why, 96, 0};
    convt3d__put(&out, text);
    return 1;
}

}

extern "C" int32_t convt3d__dense_sm90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    DenseShape s;
    if (plan->desc.dtype == CONVT3D_F64) return dense_refusal(why, "f64 has no wgmma");
    if (plan->x_count == 0 || plan->y_count == 0) return dense_refusal(why, "x or y is empty");
    if (dense_mode(plan->desc) == DENSE_SPLIT && plan->in_group < 4)
        return dense_refusal(why, "fewer than 4 input channels a group");
    if (!fits_32_bits(plan)) return dense_refusal(why, "indices beyond 32 bits");
    if (!convt3d__has_sm90a(plan)) return dense_refusal(why, "needs sm_90 and a build with sm_90a code");
    const char *text = dense_shape(plan, &s);
    if (*text) return dense_refusal(why, text);
    plan->pack_variant = dense_variant(s);
    return 0;
}

// Seconds: bytes of the passes before at 3.5e12; the matrix unit's cycles, of which it spends nine in ten, and for each
// tile 2000 and one for 14 bytes of results, at 1.65e9 (what was measured of an H200's clock); 10 us of launches.
// Weights count once more for what their packing scatters.
extern "C" double convt3d__dense_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    DenseShape s;
    if (*dense_shape(plan, &s)) return 1e30;
    const DenseLayout l = dense_layout(plan, s);
    const double size = (double)convt3d__element_size(plan->desc.dtype), blocks = (double)plan->multiprocessors;
    const double bytes = (double)plan->x_count * size + (double)l.x_exponent + 3.0 * (double)l.packed;
    const double tiles = (double)s.position_tiles * s.blocks * s.table.phases;
    const double rounds = tiles < blocks ? 1 : tiles / blocks;      // what is left over is dealt out by phases
    const double steps = rounds / s.table.phases * (s.r * 2) * s.taps_used * (s.cells_group / 2);
    const double results = (double)s.tile * s.q * s.nb * (double)convt3d__element_size(plan->stored);
    return bytes / 3.5e12 + (steps * dense_step_cycles(s.mode, s.nb) / 0.9 + rounds * (2000 + results / 14)) / 1.65e9 +
           1e-5;
}

extern "C" int64_t convt3d__dense_sm90_workspace(const convt3d__plan *plan)
{
    convt3d_cuda::DenseShape s;
    return *convt3d_cuda::dense_shape(plan, &s) ? 0 : convt3d_cuda::dense_layout(plan, s).workspace;
}

extern "C" int64_t convt3d__dense_sm90_packed(const convt3d__plan *plan)
{
    convt3d_cuda::DenseShape s;
    return *convt3d_cuda::dense_shape(plan, &s) ? 0 : convt3d_cuda::dense_layout(plan, s).packed;
}

extern "C" convt3d_status convt3d__dense_sm90_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                   convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dense_shape(plan, &s);
    return dense_instance<false>(s, [&](auto tile) {      // packs of both are made alike
        DenseLaunches launch = {stream, error, 0};
        return dense_prepare<decltype(tile)>(launch, dense_packing(plan, s, dense_layout(plan, s), w, packed, true),
                                             GuessProblem(), PlanesProblem(), 0, 0);
    });
}

extern "C" convt3d_status convt3d__dense_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    if (s.lists) return convt3d__dense_sm90_list_ready(plan, error);
    return dense_instance<false>(s, [&](auto tile) { return dense_ready<decltype(tile)>(plan, error); });
}

extern "C" convt3d_status convt3d__dense_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dense_shape(plan, &s);
    if (s.lists) return convt3d__dense_sm90_list_run(plan, io, error);
    return dense_instance<false>(s, [&](auto tile) { return dense_run<decltype(tile)>(plan, io, s, error); });
}

#endif
#if CONVT3D__PART(12)

extern "C" convt3d_status convt3d__dense_sm90_list_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    return dense_instance<true>(s, [&](auto tile) { return dense_ready<decltype(tile)>(plan, error); });
}

extern "C" convt3d_status convt3d__dense_sm90_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                       convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    return dense_instance<true>(s, [&](auto tile) { return dense_run<decltype(tile)>(plan, io, s, error); });
}

#endif
