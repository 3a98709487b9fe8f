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
// Rows      Flat tiles compute the zeros between rows too. Where a row of a phase, or as many strips (split.cuh) as
//           fit, fill 64 positions or almost, a chunk of a tile is one row instead, and rows of zeros have no tiles: samples
//           of 4^3 take half of the products that flat tiles do.
// Folds     With few output channels the matrix unit waits for positions, which cost as much for 16 channels as for 64.
//           There, where one product does, every tap along w (of stride 1) has columns of its own: NB = taps times
//           channels, one product of x for all of them, and the warps that store sum them, each shifted by its tap.
//           Tiles overlap by that reach.
// List      a light list (epilogue.cuh) is applied to what leaves the accumulators. For any other list instances of their
//           own keep results in f32 in the ring; the warps that store apply the list on the way,
//           beside the products of the next tile, and round if y is not wide.
// NaN, inf  x or w that holds any is seen by the splitting pass (weights: by packing) and the outputs of that sample,
//           or channel (eight of them but for f32 without a list), are computed again by dense_repair_kernel, which
//           otherwise ends at once. One product needs this for w alone; tf32 also where x or w holds subnormals.
// Fill      Rows of y that no tap reaches have no tiles but where there is a list: the launch of the operands stores
//           them (fill.cuh).
// Launches  f32: scales, operands, for large samples what the guess of split.cuh missed, main, repair; one product has
//           no scales. Each starts while the one before ends (programmatic dependent launch).
// Requires  sm_90; not f64; for f32 4 channels a group; at most 640 taps, 64 phases (w phases of a stride of 2 count
//           as one), 2^30 positions with their zeros; everything the generic kernel calls 32-bit.
// Tiles     NB = 16, 24, 32, 48, 64 (and 128 where one product does), of folds 112; R = 4, 3 or 2 and U = 3, 4,
//           5, 8 or 9 by dense_r, dense_fold_r and dense_u: what registers and shared memory hold.
//           Persistent: one block of 512 threads a multiprocessor.
// Measured  one H200, NCDHW, weights packed in the call, ms in f32, tf32, f16: kb_l1_61 1.55, 1.20, 0.61; kb_l1_68 6.86,
//           4.34, 2.43; kb_l2_61 1.37, 0.85, 0.47; gan_128_64_32 3.32, 1.88, 1.08. Rows: gan_512_256_4 0.219, 0.171,
//           0.081, where flat tiles take 0.358, 0.212, 0.112. Folds: kb_l1_58 0.56 (none), 0.30, 0.22; without
//           0.50, 0.26.
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

#if CONVT3D__SM90A

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
    const int slots = dense_slots<C>(p);
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
                        ring.next(slots);
                    }
            }
        }
    }
}

// What the consumers walk through: slots of weights and the segment of x that they go with.
struct DenseCursor {
    Ring slot;
    uint64_t a, b0;         // this warpgroup's positions in the segment; the first slot
    uint32_t low, step;     // cells from the high to the low half of x, from chunk to chunk
    uint32_t full, empty;   // barriers of slots
    int slots;
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

// What products still in flight read: a slot of weights, and a segment of x by its barrier; negative, 0: none.
struct DenseHeld {
    int slot = -1;
    uint32_t segment = 0;
    __device__ __forceinline__ void release(const DenseCursor &cursor)
    {
        if (slot >= 0) cursor.release(slot);
        if (segment != 0 && threadIdx.x % 32 == 0) barrier_arrive(segment);
        slot = -1;
        segment = 0;
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
                cursor.slot.next(cursor.slots);
            }
            wgmma_fence();
#pragma unroll
            for (int u = 0; u < Steps; u++) {
                uint64_t x = wgmma_advance(cursor.a, offset[i / C::R * Steps + u] + cursor.step * r);
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
            if (++index == cursor.slots) index = 0;
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
            Wgmma<typename C::Operand, C::NB>::multiply(sum[r], wgmma_advance(cursor.a, offset[u] + cursor.step * r),
                                                        wgmma_advance(b, u * 2 * C::Rows), 1);
}

// All steps of one w phase in one stage. With one product the matrix unit is never waited for to the end of them: the
// last slot and the segment of x before this one are then given back here, after the next products are on their way.
template <class C>
__device__ __forceinline__ void dense_steps(float (&sum)[C::R][C::NB / 2], DenseCursor &cursor, const uint16_t *offset,
                                            int left, [[maybe_unused]] DenseHeld &held)
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
            cursor.slot.next(cursor.slots);
        }
    } else {
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
            held.release(cursor);
            held.slot = cursor.slot.index;
            cursor.slot.next(cursor.slots);
        }
    }
}

template <class C>
__device__ __forceinline__ void dense_consume(const DenseProblem &p, const DenseFollows<typename C::T, C::Form> &f, const DenseShared &s,
                                              unsigned char *shared)
{
    static_assert(sizeof(DenseScales<C>) == C::ScaleBytes, "");
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    const int step = 64 + p.rows.chunk_more, offset = group * (C::R * step - (C::Folds ? p.fold.reach : 0));
    const uint64_t a0 = wgmma_descriptor(s.segments + offset * 16, p.segment);
    DenseCursor cursor;
    cursor.step = step;
    cursor.b0 = wgmma_descriptor(s.slots, C::Rows);
    cursor.low = 2 * p.segment;
    cursor.full = s.w_full;
    cursor.slots = dense_slots<C>(p);
    cursor.empty = s.w_empty;
    Ring segment, chunk;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        const int position = work.position + offset;
        const DenseAhead<C> ahead(p, f, position, DenseChannels::of<C>(p, work.block));
        float sum[C::Q][C::R][C::NB / 2] = {};
        [[maybe_unused]] DenseHeld held;
        for (int block = 0; block < p.plane_blocks; block++)
            for (int i = phase.begin; i < phase.end; i++) {
                const DenseStage &stage = p.table.stage[i];
                if (dense_skips(p, work.position + p.table.base[i], stage.length)) continue;
                barrier_wait(s.x_full + segment.index * 8, segment.parity);
                cursor.a = wgmma_advance(a0, segment.index * p.cells * p.segment);
#pragma unroll
                for (int q = 0; q < C::Q; q++)
                    dense_steps<C>(sum[q], cursor, p.table.offset + stage.first[q], stage.count[q], held);
                if constexpr (C::Mode == DENSE_SPLIT) {
                    if (threadIdx.x % 32 == 0) barrier_arrive(s.x_empty + segment.index * 8);
                } else held.segment = s.x_empty + segment.index * 8;
                segment.next(p.x_stages);
            }
        if constexpr (C::Mode != DENSE_SPLIT) {
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < C::Q * C::R; i++) wgmma_pin(sum[i / C::R][i % C::R]);
            held.release(cursor);
        }
        dense_put<C>(p, f, s, shared, ahead, position, chunk, sum);
    }
}
#endif

template <class C>
__global__ void __launch_bounds__(DENSE_THREADS, 1)
dense_kernel(const __grid_constant__ DenseProblem p, const __grid_constant__ DenseFollows<typename C::T, C::Form> f)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char dense_shared[];
    const int w_slots = dense_slots<C>(p);
    const DenseShared s = DenseShared::of<C>((uint32_t)__cvta_generic_to_shared(dense_shared), w_slots);
    let_next_start();
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.x_stages; i++) {
            barrier_init(s.x_full + i * 8, 1);
            barrier_init(s.x_empty + i * 8, 8);
        }
        for (int i = 0; i < w_slots; i++) {
            barrier_init(s.w_full + i * 8, 1);
            barrier_init(s.w_empty + i * 8, 8);
        }
        for (int i = 0; i < 2 * DENSE_MOST_CHUNKS; i++) {
            barrier_init(s.y_full + i * 8, 128);        // every thread arrives, so that racecheck can follow
            barrier_init(s.y_empty + i * 8, 64);
        }
        for (int i = 0; i < 2 * DENSE_TABLES; i++) {
            barrier_init(s.t_full + i * 8, 32);
            barrier_init(s.t_empty + i * 8, 64);
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
        dense_consume<C>(p, f, s, dense_shared);
    } else if (warp < 12) {
        give_registers<C::LoadRegisters>();
        if (warp == 8) dense_load_x<C>(p, s);
        if (warp == 9) dense_load_w<C>(p, s);
        if constexpr (C::Tables) if (warp >= 10) dense_table<C>(p, s, dense_shared, warp - 10);
    } else {
        give_registers<C::StoreRegisters>();
        if constexpr (C::Lists) dense_store_listed<C>(p, f, s, dense_shared, repairs);
        else if constexpr (C::Folds) dense_store_folded<C>(p, s, dense_shared);
        else dense_store<C>(p, s, dense_shared);
    }
#endif
}

}

#endif
