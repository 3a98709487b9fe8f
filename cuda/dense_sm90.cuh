// sm90_dense: dense convolution as an implicit GEMM on Hopper's wgmma, for any kernel, stride, padding and dilation.
//
// Idea      x becomes planes of 16-byte cells with zeros after rows, planes and samples (split.cuh), so that in the
//           flat order of positions every tap is one shift, for all outputs of a phase. A tile is R*128 flat positions
//           of one (d, h) phase and NB channels. Its taps, sorted by shift, are cut into stages: the span of shifts
//           that one segment of x in shared memory serves, for 16 channels (more where one product does). One warp
//           loads segments, one streams weights, both by bulk copies; two warpgroups multiply, positions as A, each R
//           times 64 of them. Both w phases of a stride of 2 are one tile's, so that they interleave in whole sectors.
//           Results pass through shared memory to be stored as rows (NCDHW) or channels (NDHWC).
// f32       three f16 products of scaled halves (split.cuh): [low|high] weights are one operand of 2*NB columns for the
//           high half of x, and the low half of x adds to the first NB columns (into the second, ptxas serialises
//           wgmma). Every 16*U products the sums leave the matrix unit's accumulator, which truncates, for an f32
//           register.
// Others    f16, bf16: one product, accumulated in the matrix unit. CONVT3D_TF32: one tf32 product.
// NaN, inf  x or w that holds any is seen by the splitting pass (weights: by packing) and the outputs of that sample,
//           or channel, are computed again by dense_repair_kernel, which otherwise ends at once. One product needs
//           this for w alone; tf32 also where x or w holds subnormals.
// Requires  sm_90; not f64; for f32 4 channels a group; at most 640 taps, 64 phases (w phases of a stride of 2 count
//           as one), 2^30 positions with their zeros; everything the generic kernel calls 32-bit.
// Tiles     NB = 16, 24, 32, 48, 64 (and 128 where one product does); R = 4, 3 or 2 and U = 3, 4, 8 or 9 by dense_r and
//           dense_u: what registers and shared memory hold. Persistent: one block of 384 threads a multiprocessor.
// Measured  one H200, NCDHW, weights packed in the call: kb_l1_61 f32 1.60 ms (0.66 of the floor), tf32 1.11 (0.64),
//           f16 0.66 (0.52); kb_l2_61 1.31 (0.72), 0.81 (0.78), 0.48 (0.64); gan_128_64_32 f32 3.54 (0.60); strided
//           and small problems lie at 0.2 to 0.4, held back by the store (15% of the main kernel on kb_l1_61, more
//           where taps are few) and by stages of few taps.
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
}

#if CONVT3D__PART(2)

namespace convt3d_cuda {

enum { DENSE_SPLIT = 0, DENSE_F16 = 1, DENSE_BF16 = 2, DENSE_TF32 = 3 };
enum { DENSE_THREADS = 384, DENSE_MOST_PHASES = 64, DENSE_MOST_STAGES = 96, DENSE_MOST_STEPS = 640 };
enum { DENSE_MOST_X = 6, DENSE_SLOTS = 4, DENSE_BARRIER_BYTES = 256, DENSE_SHARED = 227 * 1024 };

// ---- the walk over taps, made on the host ----

struct DensePhase { uint16_t begin, end; int32_t d, h, w; };           // stages; its first output on each axis
struct DenseStage { int32_t base; uint16_t length, first[2], count[2]; };  // shift; positions; steps of each w phase

struct DenseTable {
    int phases, stages, steps;
    DensePhase phase[DENSE_MOST_PHASES];
    DenseStage stage[DENSE_MOST_STAGES];
    uint16_t offset[DENSE_MOST_STEPS];      // of a step (one k of the matrix unit), in cells from its segment's first
};

// How a mode multiplies.
template <int Mode> struct DenseMode;
template <> struct DenseMode<DENSE_SPLIT> { typedef float T; typedef __half Operand; enum { Kind = SPLIT_F16 }; };
template <> struct DenseMode<DENSE_F16> { typedef __half T; typedef __half Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_BF16> { typedef __nv_bfloat16 T, Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_TF32> { typedef float T; typedef Tf32 Operand; enum { Kind = ROUND_TF32 }; };

// One instance: NB channels, R times 64 positions a warpgroup, Q w phases, U steps a slot of weights.
template <int Mode_, int NB_, int R_, int Q_, int U_> struct DenseTile {
    typedef typename DenseMode<Mode_>::T T;
    typedef typename DenseMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, NB = NB_, R = R_, Q = Q_, U = U_;
    static constexpr int Kind = DenseMode<Mode>::Kind, Parts = CellKind<Kind>::Parts;
    static constexpr int Rows = Parts * NB;                         // of the weights' operand
    static constexpr int Positions = R * 128;
    static constexpr int Slots = Q == 1 ? (NB == 64 ? 2 : 3) : NB == 48 ? 1 : 2;    // a split takes at a time
    static constexpr int Ping = Q * R * NB / 2 + 2 * NB <= 200 ? 2 : 1;     // accumulators of a split, by registers
    static constexpr int SlotBytes = U * 2 * Rows * 16;
    static constexpr int Columns = Q * R * 64, Column = Columns + 4;    // floats; 4 more keep the banks apart
    static constexpr int StoreBytes = 8 * Column * 4 + Columns * 8 + NB * 8;     // of DenseStore
    static constexpr int FixedBytes = DENSE_BARRIER_BYTES + DENSE_SLOTS * SlotBytes + 2 * StoreBytes;
};

struct DenseProblem {
    const uint4 *planes, *weights;
    const int *x_exponent, *w_exponent;
    const void *bias;
    void *y;
    int64_t y_stride[5];
    int batch, out[3], stride[3], in_d;
    int out_group, blocks_group, blocks;            // channel blocks of a group, of all
    int units, tiles;                               // position tiles x blocks; with phases
    int pitch, lead, plane_blocks, cells;           // K blocks of a group; cells of one (position of a stage)
    int segment, x_stages;                          // cells between planes of a segment in shared memory
    Divisor d, h, w, plane;
    DenseTable table;
};
static_assert(sizeof(DenseProblem) <= 4096, "a kernel's parameters");

#if CONVT3D__SM90A

// A tile as both producers and consumers see it. Blocks take a band of as many units (positions x channels) as there
// are blocks through all its phases, so that all have the same work and x is still in L2; what is left over is dealt
// out phase by phase, the heaviest first.
struct DenseWork {
    int position, block, phase;
    __device__ __forceinline__ DenseWork(const DenseProblem &p, int tile, int positions)
    {
        int phases = p.table.phases, full = p.units / (int)gridDim.x * (int)gridDim.x, unit;
        if (tile < full * phases) {
            int round = tile / (int)gridDim.x;
            phase = round % phases;
            unit = round / phases * (int)gridDim.x + tile % (int)gridDim.x;
        } else {
            tile -= full * phases;
            phase = tile / (p.units - full);
            unit = full + tile % (p.units - full);
        }
        block = unit % p.blocks;
        position = unit / p.blocks * positions;
    }
};

// A segment that holds nothing but the zeros between samples is neither loaded nor multiplied.
__device__ __forceinline__ bool dense_skips(const DenseProblem &p, int first, int length)
{
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
    uint32_t x_full, x_empty, w_full, w_empty, segments, slots, store;
    template <class C> __device__ __forceinline__ static DenseShared of(const DenseProblem &p, uint32_t base)
    {
        DenseShared s;
        s.x_full = base;  s.x_empty = base + 64;  s.w_full = base + 128;  s.w_empty = base + 192;
        s.slots = base + DENSE_BARRIER_BYTES;
        s.store = s.slots + DENSE_SLOTS * C::SlotBytes;
        s.segments = s.store + 2 * C::StoreBytes;
        return s;
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
                int first = work.position + p.table.stage[i].base, length = p.table.stage[i].length;
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
                if (dense_skips(p, work.position + stage.base, stage.length)) continue;
                for (int q = 0; q < C::Q; q++)
                    for (int done = 0; done < stage.count[q]; done += C::U) {
                        int steps = min(stage.count[q] - done, C::U);
                        barrier_wait(s.w_empty + ring.index * 8, ring.parity ^ 1);
                        barrier_expect(s.w_full + ring.index * 8, (uint32_t)(steps * 2 * C::Rows * 16));
                        bulk_load(s.slots + ring.index * C::SlotBytes, w + (stage.first[q] + done) * (2 * C::Rows),
                                  (uint32_t)(steps * 2 * C::Rows * 16), s.w_full + ring.index * 8);
                        ring.next(DENSE_SLOTS);
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
                cursor.slot.next(DENSE_SLOTS);
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
            if (++index == DENSE_SLOTS) index = 0;
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
            cursor.slot.next(DENSE_SLOTS);
        }
    } else {
        int last = -1;          // the slot before this one, still being read
#pragma unroll 1
        for (; left > 0; left -= C::U, offset += C::U) {
            uint64_t b = cursor.take<C>();
            wgmma_fence();
            if (left >= C::U) dense_add<C, C::U>(sum, cursor, b, offset);
            else
#pragma unroll 1
                for (int u = 0; u < left; u++, b = wgmma_advance(b, 2 * C::Rows)) {
                    wgmma_fence();
                    dense_add<C, 1>(sum, cursor, b, offset + u);
                }
            wgmma_commit();
            wgmma_wait<1>();
            if (last >= 0) cursor.release(last);
            last = cursor.slot.index;
            cursor.slot.next(DENSE_SLOTS);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < C::R; r++) wgmma_pin(sum[r]);
        if (last >= 0) cursor.release(last);
    }
}

// What a warpgroup needs to store its results, in shared memory.
template <class C> struct DenseStore {
    float traded[8 * C::Column];        // eight channels of all positions
    int64_t where[C::Columns];          // in y, bytes, of channel 0; negative: no output
    float scale[C::NB], bias[C::NB];
};

// The sample of the warpgroup's first position, or -1 where its positions are not all of one sample.
__device__ __forceinline__ int dense_sample(const DenseProblem &p, int position, int count)
{
    uint32_t rest, first = divide(divide((uint32_t)position, p.plane, &rest), p.d, &rest);
    return divide(divide((uint32_t)(position + count - 1), p.plane, &rest), p.d, &rest) == first ? (int)first : -1;
}

// Fills the tables; false if the scales need more than one multiplication by a normal number.
template <class C>
__device__ __forceinline__ bool dense_locate(const DenseProblem &p, const DensePhase &phase, DenseStore<C> *store,
                                             int position, int sample, int row, int oc, int left)
{
    typedef typename C::T T;
    bool simple = C::Mode != DENSE_SPLIT || sample >= 0;
    for (int i = threadIdx.x % 128; i < C::Columns; i += 128) {
        uint32_t d, h, w, n = divide(divide(divide((uint32_t)(position + i / C::Q), p.w, &w), p.h, &h), p.d, &d);
        int od = phase.d + (int)d * p.stride[0], oh = phase.h + (int)h * p.stride[1];
        int ow = phase.w + i % C::Q + (int)w * p.stride[2];
        bool inside = (int)n < p.batch && od < p.out[0] && oh < p.out[1] && ow < p.out[2];
        store->where[i] = !inside ? -1 : (n * p.y_stride[0] + od * p.y_stride[2] + oh * p.y_stride[3] +
                                          ow * p.y_stride[4]) * (int64_t)sizeof(T);
    }
    for (int c = threadIdx.x % 128; c < C::NB; c += 128) {
        store->bias[c] = p.bias && c < left ? Number<T>::widen(((const T *)p.bias)[oc + c]) : 0.f;
        if (C::Mode != DENSE_SPLIT || sample < 0) continue;
        int e = -usable_exponent(p.w_exponent[row + c]);
        if (sample < p.batch) e -= usable_exponent(p.x_exponent[sample]);
        if (e < -100 || e > 100) simple = false;
        else store->scale[c] = power_of_two(e);
    }
    return simple;
}

// Eight channels from shared memory to y. A warp's 32 threads are consecutive outputs of two channels or, where
// channels lie side by side, four pairs of channels of eight consecutive outputs.
template <class C>
__device__ __forceinline__ void dense_store_eight(const DenseStore<C> *store, const int64_t (&where)[C::Columns / 32],
                                                  char *const (&y)[2], int column, int first, int b, int left)
{
    typedef typename C::T T;
    constexpr int Many = C::Columns / 32;
    float v[2][Many];
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < Many; j++) v[half][j] = store->traded[(first + half) * C::Column + column + j * 32];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int c = b * 8 + first + half;
        const float scale = C::Mode == DENSE_SPLIT ? store->scale[c] : 1.f, bias = store->bias[c];
        const bool real = c < left;
#pragma unroll
        for (int j = 0; j < Many; j++)
            if (real && where[j] >= 0)
                *(T *)(y[half] + where[j]) = Number<T>::round(C::Mode == DENSE_SPLIT ? fmaf(v[half][j], scale, bias)
                                                                                     : v[half][j] + bias);
    }
}

// The same where positions are of several samples or scales are extreme: one result at a time.
template <class C>
__device__ __forceinline__ void dense_store_slowly(const DenseProblem &p, const DenseStore<C> *store, int position,
                                                   int row, int oc, int b, int left)
{
    typedef typename C::T T;
#pragma unroll 1
    for (int i = threadIdx.x % 128; i < 8 * C::Columns; i += 128) {
        int c = i / C::Columns, column = i % C::Columns;
        int64_t at = store->where[column];
        if (b * 8 + c >= left || at < 0) continue;
        uint32_t rest, n = divide(divide((uint32_t)(position + column / C::Q), p.plane, &rest), p.d, &rest);
        float v = scale_result(store->traded[c * C::Column + column],
                               -usable_exponent(p.x_exponent[n]) - usable_exponent(p.w_exponent[row + b * 8 + c]));
        *(T *)((char *)p.y + (oc + b * 8 + c) * p.y_stride[1] * (int64_t)sizeof(T) + at) =
            Number<T>::round(v + store->bias[b * 8 + c]);
    }
}

template <class C>
__device__ __forceinline__ void dense_store(const DenseProblem &p, const DenseWork &work, DenseStore<C> *store,
                                            const float (&sum)[C::Q][C::R][C::NB / 2])
{
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int channel = work.block % p.blocks_group * C::NB, left = p.out_group - channel;
    const int oc = work.block / p.blocks_group * p.out_group + channel, row = work.block * C::NB;
    const int position = work.position + group * C::R * 64, sample = dense_sample(p, position, C::R * 64);
    bool simple = dense_locate<C>(p, p.table.phase[work.phase], store, position, sample, row, oc, left);
    simple = warpgroup_and(1 + group, simple);      // and the tables are there
    typedef typename C::T T;
    const bool by_channel = p.y_stride[1] == 1;
    const int column = by_channel ? warp * 8 + lane / 4 : lane, first = (by_channel ? lane % 4 : warp) * 2;
    const int64_t channel_bytes = p.y_stride[1] * (int64_t)sizeof(T);
    char *y[2] = {(char *)p.y + (oc + first) * channel_bytes, (char *)p.y + (oc + first + 1) * channel_bytes};
    int64_t where[C::Columns / 32];
#pragma unroll
    for (int j = 0; j < C::Columns / 32; j++) where[j] = store->where[j * 32 + column];
#pragma unroll
    for (int b = 0; b < C::NB / 8; b++) {
#pragma unroll
        for (int r = 0; r < C::R; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *to = store->traded + (lane % 4 * 2 + i % 2) * C::Column +
                            (r * 64 + warp * 16 + lane / 4 + i / 2 * 8) * C::Q;
                if constexpr (C::Q == 2) *(float2 *)to = make_float2(sum[0][r][b * 4 + i], sum[1][r][b * 4 + i]);
                else *to = sum[0][r][b * 4 + i];
            }
        warpgroup_sync(1 + group);
        if (simple) dense_store_eight<C>(store, where, y, column, first, b, left);
        else if (C::Mode == DENSE_SPLIT) dense_store_slowly<C>(p, store, position, row, oc, b, left);
        y[0] += 8 * channel_bytes;
        y[1] += 8 * channel_bytes;
        warpgroup_sync(1 + group);
    }
}

template <class C>
__device__ __forceinline__ void dense_consume(const DenseProblem &p, const DenseShared &s, unsigned char *shared)
{
    static_assert(sizeof(DenseStore<C>) == C::StoreBytes, "");
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    const uint64_t a0 = wgmma_descriptor(s.segments + group * C::R * 64 * 16, p.segment);
    DenseStore<C> *store = (DenseStore<C> *)(shared + (s.store - (uint32_t)__cvta_generic_to_shared(shared))) + group;
    DenseCursor cursor;
    cursor.b0 = wgmma_descriptor(s.slots, C::Rows);
    cursor.low = 2 * p.segment;
    cursor.full = s.w_full;
    cursor.empty = s.w_empty;
    Ring segment;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        float sum[C::Q][C::R][C::NB / 2] = {};
        for (int block = 0; block < p.plane_blocks; block++)
            for (int i = phase.begin; i < phase.end; i++) {
                const DenseStage &stage = p.table.stage[i];
                if (dense_skips(p, work.position + stage.base, stage.length)) continue;
                barrier_wait(s.x_full + segment.index * 8, segment.parity);
                cursor.a = wgmma_advance(a0, segment.index * p.cells * p.segment);
#pragma unroll
                for (int q = 0; q < C::Q; q++)
                    dense_steps<C>(sum[q], cursor, p.table.offset + stage.first[q], stage.count[q]);
                if (threadIdx.x % 32 == 0) barrier_arrive(s.x_empty + segment.index * 8);
                segment.next(p.x_stages);
            }
        dense_store<C>(p, work, store, sum);
    }
}
#endif

template <class C>
__global__ void __launch_bounds__(DENSE_THREADS, 1) dense_kernel(const __grid_constant__ DenseProblem p)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char dense_shared[];
    const DenseShared s = DenseShared::of<C>(p, (uint32_t)__cvta_generic_to_shared(dense_shared));
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.x_stages; i++) {
            barrier_init(s.x_full + i * 8, 1);
            barrier_init(s.x_empty + i * 8, 8);
        }
        for (int i = 0; i < DENSE_SLOTS; i++) {
            barrier_init(s.w_full + i * 8, 1);
            barrier_init(s.w_empty + i * 8, 8);
        }
        barrier_init_done();
    }
    __syncthreads();
    int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (warp >= 8) {
        give_registers<40>();
        if (warp == 8) dense_load_x<C>(p, s);
        if (warp == 9) dense_load_w<C>(p, s);
    } else {
        take_registers<232>();
        dense_consume<C>(p, s, dense_shared);
    }
#endif
}

// ---- before: scales, then operands ----

// Packed weights: exponents, the operand's rows in the order of the walk, and w as it came for dense_repair_kernel.
struct DensePackProblem {
    const void *w;
    int *exponent;
    uint4 *rows;
    void *copy;
    int in_group, out_group, blocks_group, taps, taps_used, cells_group, chunks;    // chunks: of a K block
    int octets, scan_blocks, pack_blocks;   // eighths of rows; blocks of the two launches, none where w came packed
    uint16_t tap[DENSE_MOST_STEPS];
};

// The exponent of one row, and the copy.
template <int Mode, int NB> __device__ __forceinline__ void dense_scan_row(const DensePackProblem &p, int row)
{
    typedef typename DenseMode<Mode>::T T;
    const int block = row / NB, g = block / p.blocks_group, oc = block % p.blocks_group * NB + row % NB;
    const int64_t first = ((int64_t)g * p.in_group * p.out_group + oc) * p.taps, step = (int64_t)p.out_group * p.taps;
    uint32_t most = 0;
    bool exact = true;
    if (oc < p.out_group)
#pragma unroll 4
        for (int i = threadIdx.x; i < p.in_group * p.taps; i += SPLIT_THREADS) {
            int ic = i / p.taps;
            T v = ((const T *)p.w)[first + ic * step + (i - ic * p.taps)];
            ((T *)p.copy)[first + ic * step + (i - ic * p.taps)] = v;
            most = max(most, magnitude_bits(Number<T>::widen(v)));
            if (Mode == DENSE_TF32) exact = exact && !is_subnormal(Number<T>::widen(v));
        }
    exact = __syncthreads_and(exact);
    most = block_largest(most);
    if (threadIdx.x == 0) p.exponent[row] = exact ? scale_exponent(most) : NOT_FINITE;
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
    const int exponent = p.exponent[row];
    for (int s = threadIdx.x / 8; s < p.taps_used; s += SPLIT_THREADS / 8) {
        alignas(16) Element v[Cell::Channels] = {};
        if (oc < p.out_group && channel < p.in_group) load_cell(w + p.tap[s], step, p.in_group - channel, false, v);
        uint4 *out = rows + ((s * p.chunks + chunk) * 2 + cell % 2) * (Cell::Parts * NB);
        alignas(16) uint32_t high[4], low[4];
        if constexpr (Mode == DENSE_SPLIT) {
            split_cell(v, usable_exponent(exponent), nullptr, high, low);
            *out = *(const uint4 *)low;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if constexpr (Mode == DENSE_TF32) high[j] = round_to_tf32(v[j]);
                else high[j] = ((const uint32_t *)v)[j];
            }
        }
        out[Cell::Parts * NB - NB] = *(const uint4 *)high;
    }
}

template <int Mode, int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_scan_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ GuessProblem x)
{
    if ((int)blockIdx.x < w.scan_blocks) dense_scan_row<Mode, NB>(w, blockIdx.x);
    else guess_block(x, blockIdx.x - w.scan_blocks);
}

template <int Mode, int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_split_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ PlanesProblem x)
{
    if ((int)blockIdx.x < w.pack_blocks) dense_pack_octet<Mode, NB>(w, blockIdx.x);
    else if (x.pairs) planes_pairs_block<DenseMode<Mode>::Kind>(x, blockIdx.x - w.pack_blocks);
    else planes_block<DenseMode<Mode>::Kind>(x, x.width, blockIdx.x - w.pack_blocks, false);
}

// Samples whose guess was too small.
static __global__ void __launch_bounds__(SPLIT_THREADS) dense_again_kernel(const __grid_constant__ PlanesProblem p)
{
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
    const int *x_exponent, *w_exponent;
    const uint32_t *subnormal;              // of each sample; this and x_exponent: null where x needs no repair
    Axis<int32_t> axis[3];
    int batch, channels, in_group, out_group, blocks_group, rows, row_block;
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

template <class T>
__global__ void __launch_bounds__(256) dense_repair_kernel(const __grid_constant__ DenseRepairProblem p)
{
    auto bad = [&](int n) {
        return (p.x_exponent && p.x_exponent[n] == NOT_FINITE) || (p.subnormal && p.subnormal[n] != 0);
    };
    int any = 0;
    for (int n = threadIdx.x; n < p.batch; n += 256) any |= bad(n);
    for (int i = threadIdx.x; i < p.rows; i += 256) any |= p.w_exponent[i] == NOT_FINITE;
    if (!__syncthreads_or(any)) return;
    const Epilogue<T> epilogue = {(const T *)p.bias};
    const int outputs = p.axis[0].out * p.axis[1].out * p.axis[2].out;
    for (int i = 0; i < p.batch * p.channels; i++) {
        int n = i / p.channels, oc = i % p.channels, g = oc / p.out_group, c = oc % p.out_group;
        int row = (g * p.blocks_group + c / p.row_block) * p.row_block + c % p.row_block;
        if (p.w_exponent[row] != NOT_FINITE && !bad(n)) continue;
        for (int o = blockIdx.x * 256 + threadIdx.x; o < outputs; o += gridDim.x * 256) {
            int ow = o % p.axis[2].out, oh = o / p.axis[2].out % p.axis[1].out, od = o / p.axis[2].out / p.axis[1].out;
            Taps<int32_t> t[3] = {taps_of(p.axis[0], od), taps_of(p.axis[1], oh), taps_of(p.axis[2], ow)};
            ((T *)p.y)[n * p.y_stride[0] + oc * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                       ow * p.y_stride[4]] = epilogue.finish(dense_exact<T>(p, n, oc, t), oc);
        }
    }
}

// ---- the host's side ----

struct DenseShape {
    int mode, nb, r, q;                     // the instance
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
    return mode == DENSE_SPLIT ? (q == 1 ? 3 : 4) : nb == 128 ? 4 : q == 1 ? 9 : 8;
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
        stage->base = (int32_t)base;
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
        phase->begin = (uint16_t)s->table.stages;
        phase->d = (int32_t)od;  phase->h = (int32_t)oh;  phase->w = (int32_t)ow;
        if (!dense_cut(s, shift, first, end, span)) return "taps too far apart";
        phase->end = (uint16_t)s->table.stages;
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
                        (uint16_t)(shift[t] - stage->base + c * (s->cells / s->chunks) * s->segment);
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
        if (all % chunks != 0) continue;
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
template <int Mode, int NB, int Q> struct DenseInstance {
    typedef DenseTile<Mode, NB, dense_r(Mode, NB, Q), Q, dense_u(Mode, NB, Q)> Tile;
};
template <int Mode, int NB, class Act> auto dense_with_phases(int q, Act act)
{
    if constexpr (NB < (Mode == DENSE_SPLIT ? 64 : 128))
        if (q == 2) return act(typename DenseInstance<Mode, NB, 2>::Tile());
    return act(typename DenseInstance<Mode, NB, 1>::Tile());
}
template <int Mode, class Act> auto dense_with_block(const DenseShape &s, Act act)
{
    if constexpr (Mode != DENSE_SPLIT)
        if (s.nb == 128) return dense_with_phases<Mode, 128>(s.q, act);
    if (s.nb == 64) return dense_with_phases<Mode, 64>(s.q, act);
    if (s.nb == 48) return dense_with_phases<Mode, 48>(s.q, act);
    if (s.nb == 32) return dense_with_phases<Mode, 32>(s.q, act);
    if (s.nb == 24) return dense_with_phases<Mode, 24>(s.q, act);
    return dense_with_phases<Mode, 16>(s.q, act);
}
template <class Act> auto dense_instance(const DenseShape &s, Act act)
{
#ifndef DENSE_SPLIT_ONLY
    if (s.mode == DENSE_F16) return dense_with_block<DENSE_F16>(s, act);
    if (s.mode == DENSE_BF16) return dense_with_block<DENSE_BF16>(s, act);
    if (s.mode == DENSE_TF32) return dense_with_block<DENSE_TF32>(s, act);
#endif
    return dense_with_block<DENSE_SPLIT>(s, act);
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *dense_shape(const convt3d__plan *plan, DenseShape *s)
{
    const convt3d_desc &d = plan->desc;
    s->mode = dense_mode(d);
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
    s->position_tiles = (int)convt3d__ceil_div(d.batch * s->sample, s->tile);
    const int cell = s->mode == DENSE_TF32 ? 4 : 8;
    s->cells_group = (int)convt3d__ceil_div(plan->in_group, 2 * cell) * 2;
    s->blocks_group = (int)convt3d__ceil_div(plan->out_group, s->nb);
    s->blocks = (int)d.groups * s->blocks_group;
    if (d.groups * s->cells_group > 65535 || plan->taps > 65535) return "too many channels or taps";
    if (s->position_tiles * (s->tile / 64) > INT32_MAX / (d.groups * s->cells_group)) return "too many positions";
    const int fixed = dense_instance(*s, [](auto tile) { return (int)decltype(tile)::FixedBytes; });
    const char *why = dense_stages(plan, s, fixed);
    if (*why) return why;
    if ((int64_t)s->position_tiles * s->blocks * s->table.phases > INT32_MAX) return "too many tiles";
    s->lead = 0;
    for (int i = 0; i < s->table.stages; i++) s->lead = (int)convt3d__max(s->lead, -(int64_t)s->table.stage[i].base);
    s->lead += s->lead % 2;                     // for planes_pairs_block
    s->packed_rows = (int64_t)s->blocks * s->cells_group * s->taps_used * (s->mode == DENSE_SPLIT ? 2 : 1) * s->nb;
    return "";
}

static int64_t dense_plane_pitch(const DenseShape &s)
{
    int64_t reach = 0;
    for (int i = 0; i < s.table.stages; i++)
        reach = convt3d__max(reach, (int64_t)s.table.stage[i].base + s.table.stage[i].length - s.tile);
    return (s.lead + (int64_t)s.position_tiles * s.tile + reach + 3) / 4 * 4;
}

static int64_t dense_round(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The pack: exponents of rows, rows, w. The workspace: planes; of samples the exponents, the largest magnitudes and the
// guesses; a pack.
struct DenseLayout { int64_t rows, copy, packed, x_exponent, beyond, guess, pack, workspace; int guess_blocks; };

static DenseLayout dense_layout(const convt3d__plan *plan, const DenseShape &s)
{
    DenseLayout l;
    const convt3d_desc &d = plan->desc;
    l.rows = dense_round((int64_t)s.blocks * s.nb * 4);
    l.copy = dense_round(l.rows + s.packed_rows * 16);
    l.packed = dense_round(l.copy + plan->w_count * convt3d__element_size(d.dtype));
    l.guess_blocks = s.mode != DENSE_SPLIT ? 1 : (int)convt3d__max(1, convt3d__min(GUESS_MOST_BLOCKS,
                                                                                   plan->x_count / d.batch / 4096));
    l.x_exponent = dense_round(dense_plane_pitch(s) * d.groups * s.cells_group * (s.mode == DENSE_SPLIT ? 32 : 16));
    l.beyond = dense_round(l.x_exponent + d.batch * 4);
    l.guess = dense_round(l.beyond + d.batch * 4);
    l.pack = dense_round(l.guess + d.batch * l.guess_blocks * 4);
    l.workspace = l.pack + l.packed;
    return l;
}

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
        p.skip = p.count < 65536 ? 1 : GUESS_STRIDE;
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
    p.blocks = l.guess_blocks;  p.batch = (int)d.batch;
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

// w null: it came packed, and nothing of it is to be done.
static DensePackProblem dense_packing(const convt3d__plan *plan, const DenseShape &s, const DenseLayout &l,
                                      const void *w, void *packed)
{
    DensePackProblem p = {};
    if (!w) return p;
    p.w = w;
    p.exponent = (int *)packed;
    p.rows = (uint4 *)((char *)packed + l.rows);
    p.copy = (char *)packed + l.copy;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.taps = (int)plan->taps;  p.taps_used = s.taps_used;
    p.cells_group = s.cells_group;  p.chunks = s.chunks;
    p.scan_blocks = s.blocks * s.nb;
    p.octets = s.blocks * s.nb / 8;
    p.pack_blocks = p.octets * s.cells_group;
    memcpy(p.tap, s.tap, sizeof p.tap);
    return p;
}

// The two launches before the main one: scales of w and x, then both as operands; either may have nothing to do.
template <class C>
convt3d_status dense_prepare(const DensePackProblem &w, const GuessProblem &guess, const PlanesProblem &planes,
                             int guess_blocks, int planes_blocks, void *stream, convt3d_error *error)
{
    convt3d_status status = CONVT3D_OK;
    if (w.scan_blocks + guess_blocks > 0)
        status = convt3d__launch(error, dense_scan_kernel<C::Mode, C::NB>,
                                 dim3((unsigned)(w.scan_blocks + guess_blocks)), dim3(SPLIT_THREADS), 0, stream, w,
                                 guess);
    if (status != CONVT3D_OK || w.pack_blocks + planes_blocks == 0) return status;
    return convt3d__launch(error, dense_split_kernel<C::Mode, C::NB>, dim3((unsigned)(w.pack_blocks + planes_blocks)),
                           dim3(SPLIT_THREADS), 0, stream, w, planes);
}

template <class C>
convt3d_status dense_main(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, const DenseLayout &l,
                          const void *packed, convt3d_error *error)
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
    p.d = divisor_of(s.pitch[0]);  p.h = divisor_of(s.pitch[1]);  p.w = divisor_of(s.pitch[2]);
    p.plane = divisor_of(s.plane);
    p.table = s.table;
    return convt3d__launch(error, dense_kernel<C>, dim3((unsigned)convt3d__min(p.tiles, plan->multiprocessors)),
                           dim3(DENSE_THREADS), (size_t)s.shared, io->stream, p);
}

template <class T>
convt3d_status dense_repair(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, const DenseLayout &l,
                            const void *packed, convt3d_error *error)
{
    const convt3d_desc &d = plan->desc;
    DenseRepairProblem p = {};
    p.x = io->x;
    p.w = (const char *)packed + l.copy;
    p.bias = io->bias;
    p.y = io->y;
    p.x_exponent = s.mode == DENSE_SPLIT ? (const int *)((const char *)io->workspace + l.x_exponent) : nullptr;
    p.subnormal = s.mode == DENSE_TF32 ? (const uint32_t *)((const char *)io->workspace + l.beyond) : nullptr;
    p.w_exponent = (const int *)packed;
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    p.batch = (int)d.batch;  p.channels = (int)d.out_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.rows = s.blocks * s.nb;  p.row_block = s.nb;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    return convt3d__launch(error, dense_repair_kernel<T>, dim3((unsigned)plan->multiprocessors), dim3(256), 0,
                           io->stream, p);
}

template <class C>
convt3d_status dense_run(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, convt3d_error *error)
{
    const DenseLayout l = dense_layout(plan, s);
    void *packed = io->w_packed ? (void *)io->w_packed : (char *)io->workspace + l.pack;
    constexpr bool looks = C::Mode == DENSE_SPLIT || C::Mode == DENSE_TF32;
    const GuessProblem guess = looks ? dense_guess(plan, io, l) : GuessProblem();
    const PlanesProblem planes = dense_planes<C::Kind>(plan, io, s, l);
    convt3d_status status =
        dense_prepare<C>(dense_packing(plan, s, l, io->w_packed ? nullptr : io->w, packed), guess, planes,
                         looks ? (int)plan->desc.batch * l.guess_blocks : 0, planes.width * planes.height,
                         io->stream, error);
    if (status == CONVT3D_OK && C::Mode == DENSE_SPLIT)
        status = convt3d__launch(error, dense_again_kernel, dim3((unsigned)plan->multiprocessors),
                                 dim3(SPLIT_THREADS), 0, io->stream, planes);
    if (status == CONVT3D_OK) status = dense_main<C>(plan, io, s, l, packed, error);
    if (status == CONVT3D_OK) status = dense_repair<typename C::T>(plan, io, s, l, packed, error);
    return status;
}

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

// Seconds: bytes of the passes before at 3.5e12, the matrix unit's cycles at 1.3e9 (tf32 1.7e9: what was measured of an
// H200's clock), y's bytes at 2.5e12, 10 us of launches; weights once more for what their packing scatters.
extern "C" double convt3d__dense_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    DenseShape s;
    if (*dense_shape(plan, &s)) return 1e30;
    const DenseLayout l = dense_layout(plan, s);
    const double size = (double)convt3d__element_size(plan->desc.dtype), blocks = (double)plan->multiprocessors;
    const double bytes = (double)plan->x_count * size + (double)l.x_exponent + 3.0 * (double)l.packed;
    const double units = (double)s.position_tiles * s.blocks, tiles = units * s.table.phases;
    const double rounds = tiles < blocks ? 1 : tiles / blocks;      // what is left over is dealt out by phases
    const double steps = rounds / s.table.phases * (s.r * 2) * s.taps_used * (s.cells_group / 2);
    const double rate = s.mode == DENSE_TF32 ? 1.7e9 : 1.3e9;
    return bytes / 3.5e12 + steps * dense_step_cycles(s.mode, s.nb) / rate + (double)plan->y_count * size / 2.5e12 +
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
    return dense_instance(s, [&](auto tile) {
        return dense_prepare<decltype(tile)>(dense_packing(plan, s, dense_layout(plan, s), w, packed), GuessProblem(),
                                             PlanesProblem(), 0, 0, stream, error);
    });
}

extern "C" convt3d_status convt3d__dense_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    return dense_instance(s, [&](auto tile) {
        typedef decltype(tile) C;
        convt3d_status status = convt3d__load_kernel(error, plan, dense_kernel<C>, DENSE_SHARED);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_scan_kernel<C::Mode, C::NB>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_split_kernel<C::Mode, C::NB>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_again_kernel, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_repair_kernel<typename C::T>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__dense_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dense_shape(plan, &s);
    return dense_instance(s, [&](auto tile) { return dense_run<decltype(tile)>(plan, io, s, error); });
}

#endif
