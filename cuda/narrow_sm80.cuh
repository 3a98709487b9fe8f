// sm80_narrow: stride 2 of the width and few input channels a group: both outputs of a column as rows of one fragment.
//
// Idea      A fragment of A holds weights: 8 output channels x the two phases of the width. Its columns are 8 positions
//           of x, its depth two cells of 8 input channels: two shifts of the width, or two cells of one shift. A lane
//           then has four neighbours of a row of y. x is staged once as planes of cells of 16 bytes, already as halves:
//           eight positions at any shift are one matrix of ldmatrix, without conflicts, and serve all phases of depth
//           and height that have a tap at this shift (their sums stay in registers).
// f32       v * 2^e = high + low * 2^-11, two halves, e from the largest magnitude of the block's tile of x (of an
//           output channel for weights): high*high and the cross terms go to two sums. What is lost is 2^-22 of a value
//           or 2^-50 of the largest, whichever is more. A tile or channel whose largest is beyond 2^+-60 becomes NaN.
// Others    f16, bf16: as they are. tf32: rounded to nearest, times 2^24, cells as two matrices of 4 channels.
// NaN, inf  Outputs that are not finite are computed again by multiply-adds from global memory.
// Store     straight from registers, four outputs at once where rows of y are aligned; where they are not, whole rows
//           pass through shared memory and leave as vectors that start where y is aligned.
// Requires  sm_80; f32, f16, bf16; x and y not empty; 32-bit indices; stride 2 of the width, 1 or 2 of depth
//           and height; at most 16 input channels a group; f32: 192 products an output; a tile within shared memory.
// Tile      128 (f32: 256) threads; a warp has 4 (f32: 2) blocks of 8 positions x 4 phases of depth and height x 8
//           output channels.
// Measured  one H200, NCDHW (NDHWC), weights packed in the call, ms: kb_l1_72 f32 0.102 (0.140), tf32 0.083 (0.096),
//           f16 0.060 (0.100); kb_l1_73 0.629 (0.605), 0.557 (0.509), 0.372 (0.88); casmvs_16_8 0.031 (0.034), 0.033,
//           0.019 (0.021); autoenc_4_32 0.336, 0.298, 0.206. Bound by latency: 12 to 16 warps issue 40 to 50% of the
//           time. In NDHWC pieces of 16 bytes are half sectors. Did not help: eight warps of 2 blocks but for f32.
#pragma once

#include "narrow.cuh"

CONVT3D__DECLARE_KERNEL(narrow_sm80)
CONVT3D__DECLARE_PACK(narrow_sm80)

#if CONVT3D__PART(15)

namespace convt3d_cuda {

enum { NARROW_STEP = 16, NARROW_P = 4 };      // blocks of 8 positions that a block of threads has at a time; phases
enum { NARROW_MOST_ROWS = 32, NARROW_MOST_STEPS = 12, NARROW_MOST_FRAGMENTS = 400 };

// Lists: it applies the list, and may store wide.
template <int Mode_, bool Lists_> struct NarrowConfig {
    static constexpr int Mode = Mode_;
    static constexpr bool Lists = Lists_;
    typedef typename Sm80Mode<Mode>::T T;
    static constexpr bool Split = Mode == SM80_SPLIT, Halves = Mode == SM80_HALF || Mode == SM80_BFLOAT;
    static constexpr int Parts = Halves ? 1 : 2;    // of 16 bytes a cell: high and low halves, or 4 + 4 channels
    static constexpr int Lots = Split ? 2 : 1;      // of 16 bytes a lane's weights of a fragment
    static constexpr int NB = Split ? 2 : 4, Threads = 32 * NARROW_STEP / NB;  // NB: blocks of 8 positions of a warp
    static constexpr int Blocks = Split ? 2 : Lists ? 3 : 4;
    static __device__ __forceinline__ uint32_t thread() { return threadIdx.x; }
};

// A shift of depth and height: bytes from a position's cell, and the phases that have a tap there.
struct NarrowRow { int32_t offset, mask; };

// The cells of one product: bytes of the lower and of the upper half of its depth.
struct NarrowStep { int32_t first, second; };

// The tiling of a plan, kept in plan->state.
struct NarrowShape {
    int32_t mode, first[3], columns[3], tile[3], tiles[3], low[3], extent[3], fused[3];
    int32_t cells, cell_planes, rows, steps, fragments, channel_blocks;     // cells: of a plane, with some to spare
    int32_t row_blocks, step_blocks;            // blocks of 8 positions of a row of the tile; at a time of a tile
    int32_t x_rows, traded, joined, pitch;      // pitch: elements of two rows of y in shared memory
    int32_t shared;
    double cycles;
};

template <class T, int NB> struct NarrowProblem {
    static constexpr int Warps = NARROW_STEP / NB, Threads = 32 * Warps;
    HaloProblem<T> h;
    const void *weights;
    const float *inverse;                       // of the scales of weights, 8 a block of channels
    NarrowRow row[NARROW_MOST_ROWS];
    NarrowStep step[NARROW_MOST_STEPS];
    int32_t rows, steps, fragments, channel_blocks, cells, cell_planes, row_blocks, step_blocks, tile_blocks;
    int32_t x_rows, vectors, traded, joined, pitch, weights_bytes, trade_at;
    HaloDivisor by_row_blocks;
};
static_assert(sizeof(NarrowProblem<float, 2>) <= 4096, "a kernel's parameters");

// ---- products ----

template <class C> struct NarrowSum {
    float v[NARROW_P][C::NB][4], cross[C::Split ? NARROW_P : 1][C::Split ? C::NB : 1][4];
};

// One block of 8 positions: b is {high 0, high 1, low 0, low 1} for a split, else the two halves of its depth.
template <class C>
__device__ __forceinline__ void narrow_multiply(NarrowSum<C> &sum, int q, int j, const uint4 (&a)[C::Lots],
                                                const uint32_t (&b)[4])
{
    if constexpr (C::Split) {
        MmaHalf::add(sum.cross[q][j], a[0].x, a[0].y, a[0].z, a[0].w, b[2], b[3]);
        MmaHalf::add(sum.v[q][j], a[0].x, a[0].y, a[0].z, a[0].w, b[0], b[1]);
        MmaHalf::add(sum.cross[q][j], a[1].x, a[1].y, a[1].z, a[1].w, b[0], b[1]);
    } else {
        const uint32_t b0 = b[j % 2 * 2], b1 = b[j % 2 * 2 + 1];
        if constexpr (C::Mode == SM80_HALF) MmaHalf::add(sum.v[q][j], a[0].x, a[0].y, a[0].z, a[0].w, b0, b1);
        else if constexpr (C::Mode == SM80_BFLOAT) MmaBfloat::add(sum.v[q][j], a[0].x, a[0].y, a[0].z, a[0].w, b0, b1);
        else {
            const uint32_t all[4] = {a[0].x, a[0].y, a[0].z, a[0].w};
            sm80_tf32(sum.v[q][j], all, b0, b1);
        }
    }
}

// All products of four blocks of positions, whose cells this lane finds at `position`, with the fragments at w.
template <class C>
__device__ __forceinline__ void narrow_products(const NarrowProblem<typename C::T, C::NB> &p, const uint4 *w,
                                                const uint32_t (&position)[C::NB], NarrowSum<C> &sum)
{
    constexpr int loads = C::Split ? C::NB : C::NB / 2;
    const bool upper = threadIdx.x & 8;
#pragma unroll 1
    for (int32_t r = 0; r < p.rows; r++) {
        const NarrowRow row = p.row[r];
#pragma unroll 1
        for (int32_t s = 0; s < p.steps; s++) {
            const NarrowStep step = p.step[s];
            const uint32_t offset = row.offset + (upper ? step.second : step.first);
            uint32_t b[loads][4];
#pragma unroll
            for (int i = 0; i < loads; i++) load_matrices(b[i], position[i] + offset);
#pragma unroll
            for (int q = 0; q < NARROW_P; q++) {
                if (!(row.mask >> q & 1)) continue;
                uint4 a[C::Lots];
#pragma unroll
                for (int i = 0; i < C::Lots; i++) a[i] = w[i * 32];
                w += C::Lots * 32;
#pragma unroll
                for (int j = 0; j < C::NB; j++) narrow_multiply<C>(sum, q, j, a, b[C::Split ? j : j / 2]);
            }
        }
    }
}

// ---- results ----

// Where a block's tile begins in y; y is this lane's channel there.
template <class T> struct NarrowOrigin {
    T *y;
    int64_t n;
    int32_t o[3], g, oc, channel;               // channel: of 8, or -1 where there is none
    int32_t before;                             // elements before y, as many as count for its place in 16 bytes
};

// A block of 8 positions: its row of the tile, the first outputs that this lane has of it and where they are from y.
struct NarrowPlace { int32_t row, od, oh, ow, offset; bool real; };

template <class T, int NB>
__device__ __forceinline__ NarrowPlace narrow_place(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to,
                                                    int32_t first, int32_t block)
{
    uint32_t at = first + block, row = p.by_row_blocks.split(at), h = row, d = p.h.by_rows.split(h);
    const int32_t from_d = (int32_t)d * p.h.axis[0].stride, from_h = (int32_t)h * p.h.axis[1].stride;
    const int32_t from_w = (int32_t)at * 16 + (int32_t)threadIdx.x % 4 * 4;
    NarrowPlace t = {(int32_t)row, to.o[0] + from_d, to.o[1] + from_h, to.o[2] + from_w, 0, false};
    t.offset = from_d * (int32_t)p.h.y_stride[2] + from_h * (int32_t)p.h.y_stride[3] +
               from_w * (int32_t)p.h.y_stride[4];
    t.real = block < p.step_blocks && first + block < p.tile_blocks && to.channel >= 0;
    return t;
}

// Those of a warp's four blocks. Often they lie in one row.
template <class T, int NB>
__device__ __forceinline__ void narrow_places(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to, int32_t first,
                                              int32_t block, NarrowPlace (&t)[NB])
{
    t[0] = narrow_place(p, to, first, block);
#pragma unroll
    for (int j = 1; j < NB; j++) {
        t[j] = t[0];
        t[j].ow += 16 * j;
        t[j].offset += 16 * j * (int32_t)p.h.y_stride[4];
    }
    if (p.row_blocks % NB != 0)
#pragma unroll
        for (int j = 1; j < NB; j++) t[j] = narrow_place(p, to, first, block + j);
}

// Outputs of the width that this lane has of a block in phase q.
template <class T, int NB>
__device__ __forceinline__ int32_t narrow_width(const NarrowProblem<T, NB> &p, const NarrowPlace &t, int q)
{
    const bool real = t.real && t.od + q / 2 < p.h.axis[0].out && t.oh + q % 2 < p.h.axis[1].out;
    return real && (q / 2 < p.h.axis[0].stride) && (q % 2 < p.h.axis[1].stride) ? p.h.axis[2].out - t.ow : 0;
}

// Where the outputs of a channel, of row `row` of this step and of plane ed begin in shared memory: both rows of y that
// belong to it, as one run where they are one in y.
template <class T, int NB>
__device__ __forceinline__ int32_t narrow_slot(const NarrowProblem<T, NB> &p, int32_t row, int32_t ed, int32_t channel)
{
    return ((row * 2 + ed) * 8 + channel) * p.pitch;
}

// Four outputs of a row, of which `width` exist.
template <class Out>
__device__ __forceinline__ void narrow_write(Out *y, int32_t width, int32_t step, bool vectors, const Out (&v)[4])
{
    if (vectors && width >= 4) store_vector(y, v);
    else
#pragma unroll
        for (int i = 0; i < 4; i++) if (i < width) y[i * step] = v[i];
}

// How outputs leave: four of a row at once, one by one, or through shared memory.
enum { NARROW_ROWS, NARROW_SINGLE, NARROW_TRADED };

// A lane's outputs of a warp's blocks to y or to shared memory on their way there. value(q, j, exists, v): the four of
// block j in phase q. Whole: all phases exist and, if not traded, all outputs.
template <int Way, bool Whole, class T, int NB, class Value>
__device__ __forceinline__ void narrow_store(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to, int32_t first,
                                             const NarrowPlace (&places)[NB], T *trade, Value value)
{
    constexpr int vector = 16 / (int)sizeof(T);
    const int32_t plane = (int32_t)p.h.y_stride[2], line = (int32_t)p.h.y_stride[3];
    const int32_t first_row = (int32_t)p.by_row_blocks.divide(first), half = p.joined ? line : p.pitch / 2;
#pragma unroll
    for (int j = 0; j < NB; j++) {
        const NarrowPlace &t = places[j];
        const int32_t in_row = t.ow - to.o[2], exist = t.real ? p.h.axis[2].out - t.ow : 0;
        const int32_t width = Whole && Way != NARROW_TRADED ? 4 : exist;
#pragma unroll
        for (int ed = 0; ed < 2; ed++) {
            T *y = to.y + t.offset + ed * plane;
            [[maybe_unused]] const int32_t run = to.before + t.offset + ed * plane - in_row;
            [[maybe_unused]] T *slot = trade + narrow_slot(p, t.row - first_row, ed, to.channel) + in_row;
#pragma unroll
            for (int eh = 0; eh < 2; eh++) {
                const bool exists = Whole || (width > 0 && narrow_width(p, t, 2 * ed + eh) > 0);
                T v[4];
                value(2 * ed + eh, j, exists, v);
                if (!exists) continue;
                if constexpr (Way == NARROW_TRADED) {
                    T *at = slot + (run + (eh && !p.joined ? line : 0)) % vector + eh * half;
#pragma unroll
                    for (int i = 0; i < 4; i++) if (i < width) at[i] = v[i];
                } else if constexpr (Whole && Way == NARROW_ROWS) store_vector(y + eh * line, v);
                else if constexpr (Whole)
#pragma unroll
                    for (int i = 0; i < 4; i++) y[eh * line + i * (int32_t)p.h.y_stride[4]] = v[i];
                else narrow_write(y + eh * line, width, (int32_t)p.h.y_stride[4], p.vectors, v);
            }
        }
    }
}

// Whether all outputs of a warp's four blocks exist; all phases of those that do, where they are traded.
template <class T, int NB>
__device__ __forceinline__ bool narrow_whole(const NarrowProblem<T, NB> &p, const NarrowPlace (&places)[NB])
{
    const Axis<int32_t> (&axis)[3] = p.h.axis;
    bool whole = axis[0].stride == 2 && axis[1].stride == 2;
#pragma unroll
    for (int j = 0; j < NB; j++) {
        const NarrowPlace &t = places[j];
        const bool inside = t.od + 1 < axis[0].out && t.oh + 1 < axis[1].out;
        whole = whole && (p.traded ? inside || !t.real : inside && t.real && t.ow + 4 <= axis[2].out);
    }
    return __all_sync(0xffffffffu, whole);
}

// The same for whatever rows of y are.
template <class T, int NB, class Value>
__device__ __forceinline__ void narrow_store_all(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to,
                                                 int32_t first, int32_t block, T *trade, Value value)
{
    NarrowPlace t[NB];
    narrow_places(p, to, first, block, t);
    const bool whole = narrow_whole(p, t);
    if (p.traded) {
        if (whole) narrow_store<NARROW_TRADED, true>(p, to, first, t, trade, value);
        else narrow_store<NARROW_TRADED, false>(p, to, first, t, trade, value);
    } else if (whole && p.vectors) narrow_store<NARROW_ROWS, true>(p, to, first, t, trade, value);
    else if (whole) narrow_store<NARROW_SINGLE, true>(p, to, first, t, trade, value);
    else narrow_store<NARROW_SINGLE, false>(p, to, first, t, trade, value);
}

// A warp copies a run: in vectors from where y is aligned, and what is left at its ends one by one. y, from: aligned,
// and `before` elements before the run.
template <class T>
__device__ __forceinline__ void narrow_copy_run(T *y, const T *from, int32_t before, int32_t count)
{
    constexpr int vector = 16 / (int)sizeof(T);
    const int32_t lane = threadIdx.x % 32, end = before + count, last = end / vector;
#pragma unroll 4
    for (int32_t i = (before > 0) + lane; i < last; i += 32) {
        alignas(16) T v[vector];
        *(uint4 *)v = *(const uint4 *)(from + i * vector);
        store_vector(y + i * vector, v);
    }
    if (before > 0 && lane >= before && lane < min(vector, end)) y[lane] = from[lane];
    if ((last > 0 || before == 0) && lane < end - last * vector) y[last * vector + lane] = from[last * vector + lane];
}

// What lies in shared memory to y: a warp has one plane and four channels of each row.
template <class T, int NB>
__device__ __forceinline__ void narrow_store_runs(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to,
                                                  int32_t first_row, int32_t rows, T *y, const T *trade)
{
    const Axis<int32_t> (&axis)[3] = p.h.axis;
    constexpr int warps = NARROW_STEP / NB, each = 16 / warps;
    const int32_t warp = threadIdx.x / 32, ed = warp / (warps / 2), first = warp % (warps / 2) * each;
    const int32_t end = min(first + each, p.h.out_group - to.oc);
    const int32_t left = min(axis[2].out - to.o[2], p.row_blocks * 16);
    for (int32_t r = 0; r < rows; r++) {
        uint32_t h = first_row + r, d = p.h.by_rows.split(h);
        const int32_t from_d = (int32_t)d * axis[0].stride + ed, from_h = (int32_t)h * axis[1].stride;
        const int32_t lines = min(axis[1].stride, axis[1].out - to.o[1] - from_h);
        if (ed >= axis[0].stride || to.o[0] + from_d >= axis[0].out) continue;
        T *run = y + first * p.h.y_stride[1] + from_d * (int32_t)p.h.y_stride[2] + from_h * (int32_t)p.h.y_stride[3];
        const T *from = trade + narrow_slot(p, r, ed, first);
        for (int32_t channel = first; channel < end; channel++, run += p.h.y_stride[1], from += p.pitch) {
            if (p.joined) {
                const int32_t before = narrow_before(run);
                if (lines > 0) narrow_copy_run(run - before, from, before, lines * left);
            } else
                for (int32_t line = 0; line < lines; line++) {
                    T *one = run + line * (int32_t)p.h.y_stride[3];
                    const int32_t before = narrow_before(one);
                    narrow_copy_run(one - before, from + line * (p.pitch / 2), before, left);
                }
        }
    }
}

// This lane's outputs of four blocks that are not finite again, exactly. Its stores must have been seen.
template <class T, int NB>
__device__ __noinline__ void narrow_exact(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to, int32_t first,
                                          int32_t block)
{
    for (int32_t j = 0; j < NB; j++) {
        const NarrowPlace t = narrow_place(p, to, first, block + j);
        for (int32_t q = 0; q < NARROW_P; q++)
            for (int32_t i = 0; i < min(narrow_width(p, t, q), 4); i++) {
                T *y = to.y + t.offset + q / 2 * p.h.y_stride[2] + q % 2 * p.h.y_stride[3] + i * p.h.y_stride[4];
                const T v = *(const volatile T *)y;
                if (not_finite(Number<T>::widen(v)))
                    *y = Number<T>::round(
                        sm80_exact(p.h, to.n, to.g, to.oc + to.channel, t.od + q / 2, t.oh + q % 2, t.ow + i));
            }
    }
}

// ---- outputs with a list ----

template <int NB> struct NarrowValues { float v[NARROW_P * NB][4]; };

// Those of a lane's outputs that are not finite, exactly.
template <class T, int NB>
__device__ __forceinline__ void narrow_exact_values(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to,
                                                    int32_t first, int32_t block, NarrowValues<NB> &values)
{
#pragma unroll 1
    for (int32_t k = 0; k < NARROW_P * NB * 4; k++) {
        const int32_t q = k / (NB * 4), i = k % 4;
        const NarrowPlace t = narrow_place(p, to, first, block + k / 4 % NB);
        if (i < narrow_width(p, t, q) && not_finite(values.v[0][0]))
            values.v[0][0] = sm80_exact(p.h, to.n, to.g, to.oc + to.channel, t.od + q / 2, t.oh + q % 2, t.ow + i);
        turn<1>(reinterpret_cast<float (&)[NARROW_P * NB * 4]>(values.v));
    }
}

// The list on all outputs of a lane, and these to y. A residual may be y: nothing of these was stored before.
template <class T, int NB>
__device__ __forceinline__ void narrow_list(const NarrowProblem<T, NB> &p, const NarrowOrigin<T> &to, int32_t first,
                                            int32_t block, NarrowValues<NB> &values, T *trade)
{
    const int64_t channel = (int64_t)to.g * p.h.out_group + to.oc + max(to.channel, 0);
    apply_in_registers(p.h.list, 0, values.v, [&](int) { return channel; },
                       [&](const Entry<float> &e, int k, float (&r)[4]) {
        const int32_t q = k / NB;
        const NarrowPlace t = narrow_place(p, to, first, block + k % NB);
        const int32_t width = narrow_width(p, t, q);
        const int64_t from = offset_of({to.n, channel, t.od + q / 2, t.oh + q % 2, t.ow, 1, 1}, e.stride);
        narrow_residual<T>(e, from, width, r);
    });
    if (sizeof(T) == 2 && p.h.wide) {
#pragma unroll
        for (int k = 0; k < NARROW_P * NB; k++) {
            const int q = k / NB;
            const NarrowPlace t = narrow_place(p, to, first, block + k % NB);
            float *y = (float *)p.h.y + (to.y - p.h.y) + t.offset + q / 2 * (int32_t)p.h.y_stride[2] +
                       q % 2 * (int32_t)p.h.y_stride[3];
            narrow_write(y, narrow_width(p, t, q), (int32_t)p.h.y_stride[4], p.vectors, values.v[k]);
        }
        return;
    }
    auto value = [&](int q, int j, bool, T (&v)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = Number<T>::round(values.v[q * NB + j][i]);
    };
    narrow_store_all(p, to, first, block, trade, value);
}

// ---- the kernel ----

// x and the weights of the block's group in shared memory. Returns what undoes the scale of x.
template <class C>
__device__ __forceinline__ float narrow_prepare(const NarrowProblem<typename C::T, C::NB> &p, const HaloBlock &b,
                                                uint4 *cell)
{
    __shared__ float met[(NARROW_STEP / C::NB)];
    await_launch_before();
    const char *weights = (const char *)p.weights + (int64_t)b.g * p.weights_bytes;
    for (int32_t i = threadIdx.x * 16; i < p.weights_bytes; i += C::Threads * 16)
        stage_vector((float *)(halo_shared + i), (const float *)(weights + i));
    float inverse = 1;
    [[maybe_unused]] const float most = narrow_stage<C>(p, b, cell);
    if constexpr (C::Split) {
        const uint32_t bits = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
        if (threadIdx.x % 32 == 0) met[threadIdx.x / 32] = __uint_as_float(bits);
        __syncthreads();
        float all = 0;
#pragma unroll
        for (int i = 0; i < NARROW_STEP / C::NB; i++) all = fmaxf(all, met[i]);
        const TileScale scale(all);
        narrow_halves<C>(p, scale.factor, cell);
        inverse = scale.inverse;
    }
    stage_wait();
    __syncthreads();
    return inverse;
}

template <class C>
__global__ void __launch_bounds__(C::Threads, C::Blocks)
narrow_kernel(const __grid_constant__ NarrowProblem<typename C::T, C::NB> p)
{
    typedef typename C::T T;
    constexpr int scale = C::Split ? 0 : Sm80Mode<C::Mode>::Scale * !C::Halves;
    const HaloShape &s = p.h.s;
    uint32_t g = blockIdx.x;
    const uint32_t tile = p.h.by_groups.split(g);
    const HaloBlock b = narrow_tile(p.h, tile, (int32_t)g);
    uint4 *cell = (uint4 *)(halo_shared + p.weights_bytes);
    T *trade = (T *)(halo_shared + p.trade_at);
    const float undo = narrow_prepare<C>(p, b, cell);
    const int32_t lane = threadIdx.x % 32, block = (int32_t)threadIdx.x / 32 * C::NB;
    const int32_t rows = p.step_blocks / p.row_blocks;
    // Matrices of one load: {lower, upper half of the depth} x {high, low halves, or two blocks of positions}.
    const uint32_t matrix = shared_address(cell) + lane % 8 * 16 + (C::Split ? lane / 16 * p.cells * 16 : 0);
    const bool one_row = s.tile[2] % (8 * C::NB) == 0;      // a warp's four blocks lie in one
    NarrowOrigin<T> to;
    to.n = b.n;
    to.g = b.g;
    for (int a = 0; a < 3; a++) to.o[a] = p.h.axis[a].stride * (b.q[a] - s.first[a]);
    for (to.oc = 0; to.oc < p.h.out_group; to.oc += 8) {
        const int64_t first_channel = (int64_t)b.g * p.h.out_group + to.oc;
        T *y = p.h.y + b.n * p.h.y_stride[0] + first_channel * p.h.y_stride[1] + to.o[0] * p.h.y_stride[2] +
               to.o[1] * p.h.y_stride[3] + to.o[2] * p.h.y_stride[4];
        to.channel = lane / 4 < p.h.out_group - to.oc ? lane / 4 : -1;
        to.y = y + max(to.channel, 0) * p.h.y_stride[1];
        to.before = narrow_before(to.y);
        const float bias = to.channel >= 0 ? halo_bias(p.h, first_channel + to.channel) : 0.f;
        float inverse = 1.f / (1 << scale) / (1 << scale);
        if constexpr (C::Split) inverse = undo * p.inverse[(b.g * p.channel_blocks + to.oc / 8) * 8 + lane / 4];
        const uint4 *w = (const uint4 *)halo_shared + to.oc / 8 * p.fragments * C::Lots * 32 + lane;
#pragma unroll 1
        for (int32_t first = 0; first < p.tile_blocks; first += p.step_blocks) {
            uint32_t position[C::NB];
#pragma unroll
            for (int i = 0; i < (C::Split ? C::NB : C::NB / 2); i++) {
                if (i > 0 && one_row) {
                    position[i] = position[0] + (C::Split ? 128 : 256) * i;
                    continue;
                }
                const int32_t own = C::Split ? i : 2 * i + lane / 16;
                uint32_t at = one_row ? min(first + block, p.tile_blocks - C::NB) + own
                                      : min(first + block + own, p.tile_blocks - 1);
                uint32_t row = p.by_row_blocks.split(at), d = p.h.by_rows.split(row);
                position[i] = matrix + (((int32_t)d * s.extent[1] + (int32_t)row) * s.pitch + (int32_t)at * 8) * 16;
            }
            NarrowSum<C> sum = {};
            narrow_products(p, w, position, sum);
            float check = 0;            // 0, or NaN where an output is not finite
            auto value = [&](int q, int j, bool exists, float (&v)[4]) {
                float here = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = i / 2 + i % 2 * 2;
                    v[i] = sum.v[q][j][at];
                    if constexpr (C::Split) v[i] = fmaf(sum.cross[q][j][at], 1.f / 2048, v[i]);
                    v[i] = fmaf(v[i], inverse, bias);
                    here = fmaf(v[i], 0.f, here);
                }
                if (exists) check += here;
            };
            if constexpr (C::Lists) {
                NarrowValues<C::NB> values;
#pragma unroll
                for (int k = 0; k < NARROW_P * C::NB; k++) value(k / C::NB, k % C::NB, true, values.v[k]);
                if (__any_sync(0xffffffffu, check != 0.f)) narrow_exact_values(p, to, first, block, values);
                narrow_list(p, to, first, block, values, trade);
            } else {
                auto rounded = [&](int q, int j, bool exists, T (&out)[4]) {
                    float v[4];
                    value(q, j, exists, v);
#pragma unroll
                    for (int i = 0; i < 4; i++) out[i] = Number<T>::round(v[i]);
                };
                narrow_store_all(p, to, first, block, trade, rounded);
            }
            if (p.traded) {
                __syncthreads();
                const int32_t first_row = (int32_t)p.by_row_blocks.divide(first);
                narrow_store_runs(p, to, first_row, min(rows, s.tile[0] * s.tile[1] - first_row), y, trade);
                __syncthreads();
            }
            if (!C::Lists && __any_sync(0xffffffffu, check != 0.f)) {
                __threadfence_block();
                __syncwarp();
                const NarrowOrigin<T> copy = to;        // so that the other may stay in registers
                narrow_exact(p, copy, first, block);
            }
        }
    }
}

// ---- packing ----

struct NarrowFragment { int16_t tap, step; };       // of depth and height; -1: none
struct NarrowSlot { int8_t cell, k[2]; };           // of a half of a product's depth: cell of channels, taps of phases

template <class T> struct NarrowPacking {
    typedef T Element;
    const T *w;
    void *weights;
    float *inverse;
    T *copy;                                        // of w as it came, where the pack outlives it
    NarrowFragment fragment[NARROW_MOST_FRAGMENTS];
    NarrowSlot slot[NARROW_MOST_STEPS][2];
    int32_t fragments, channel_blocks, in_group, out_group, taps, kernel_w, parts;
    int64_t elements;
};
static_assert(sizeof(NarrowPacking<float>) <= 4096, "a kernel's parameters");

// A block packs a part of the fragments of one block of channels.
template <class C> __global__ void __launch_bounds__(256)
narrow_pack_kernel(const __grid_constant__ NarrowPacking<typename C::T> p)
{
    typedef typename C::T T;
    __shared__ float factor[8];
    start_next_launch();
    const int32_t thread = threadIdx.x, block = blockIdx.x / p.parts, part = blockIdx.x - block * p.parts;
    const int32_t g = block / p.channel_blocks, oc = (block - g * p.channel_blocks) * 8;
    narrow_pack_begins<C>(p, g, oc, block, part, factor);
    for (int32_t i = part * 256 + thread; i < p.fragments * 32; i += p.parts * 256) {
        const NarrowFragment fragment = p.fragment[i / 32];
        const int32_t lane = i % 32, row = oc + lane / 4;
        uint32_t r[4], low[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {       // register j: phase j % 2, half j / 2 of the depth
            if constexpr (C::Mode == SM80_TF32) {
                const NarrowSlot slot = p.slot[fragment.step][0];
                const int32_t ic = slot.cell * 8 + j / 2 * 4 + lane % 4;
                const float v = narrow_weight(p, g, row, ic, fragment.tap, slot.k[j % 2]);
                asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[j]) : "f"(v * (1 << Sm80Mode<C::Mode>::Scale)));
            } else {
                const NarrowSlot slot = p.slot[fragment.step][j / 2];
                const int32_t ic = slot.cell * 8 + lane % 4 * 2;
                const float a = narrow_weight(p, g, row, ic, fragment.tap, slot.k[j % 2]);
                const float b = narrow_weight(p, g, row, ic + 1, fragment.tap, slot.k[j % 2]);
                if constexpr (C::Split) split_apart(a, b, factor[lane / 4], r[j], low[j]);
                else {
                    const T pair[2] = {Number<T>::round(a), Number<T>::round(b)};
                    r[j] = *(const uint32_t *)pair;
                }
            }
        }
        uint4 *to = (uint4 *)p.weights + ((int64_t)block * p.fragments + i / 32) * C::Lots * 32 + lane;
        to[0] = make_uint4(r[0], r[1], r[2], r[3]);
        if constexpr (C::Split) to[32] = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

// ---- on the host ----

static inline int32_t narrow_fragment_bytes(int32_t mode) { return mode == SM80_SPLIT ? 1024 : 512; }

// Phases of depth and height that have a tap at a row of shifts.
static inline int32_t narrow_mask(int32_t d, int32_t h)
{
    int32_t mask = 0;
    for (int q = 0; q < NARROW_P; q++) if (d >> q / 2 & 1 && h >> q % 2 & 1) mask |= 1 << q;
    return mask;
}

// Rows and fragments of a walk, and the most products of an output.
static inline void narrow_count(NarrowShape &s, const Sm80Walk (&walk)[3], int32_t &most)
{
    int32_t taps[NARROW_P] = {};
    s.rows = s.fragments = most = 0;
    for (int32_t d = 0; d < walk[0].entries; d++)
        for (int32_t h = 0; h < walk[1].entries; h++) {
            const int32_t mask = narrow_mask(walk[0].axis.entry[d].mask, walk[1].axis.entry[h].mask);
            s.rows++;
            for (int q = 0; q < NARROW_P; q++)
                if (mask >> q & 1) {
                    s.fragments += s.steps;
                    taps[q] += s.steps;
                    most = (int32_t)convt3d__max(most, taps[q]);
                }
        }
}

static inline int64_t narrow_weights_bytes(const NarrowShape &s)
{
    return (int64_t)s.channel_blocks * s.fragments * narrow_fragment_bytes(s.mode);
}

// Bytes of shared memory of a tile; fills in what depends on it.
static inline int64_t narrow_bytes(const convt3d__plan *plan, NarrowShape &s, const Sm80Walk (&walk)[3])
{
    const int64_t size = convt3d__element_size(plan->desc.dtype), vector = 16 / size;
    int64_t cells = 1;
    for (int a = 0; a < 3; a++) {
        s.extent[a] = s.tile[a] + walk[a].high - s.low[a];
        if (a == 2 && s.x_rows) s.extent[a] = (s.extent[a] + 3) / 4 * 4;
        s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        cells *= s.extent[a];
        if (cells > 1 << 16) return INT64_MAX;
    }
    s.row_blocks = (int32_t)convt3d__ceil_div(s.tile[2], 8);
    s.cells = (int32_t)(cells + convt3d__max(s.row_blocks * 8 + walk[2].high - s.low[2] - s.extent[2], 0));
    s.step_blocks = s.traded ? NARROW_STEP / s.row_blocks * s.row_blocks : NARROW_STEP;
    const int64_t row = convt3d__min(2 * s.tile[2], plan->axis[2].out);
    s.joined = s.fused[1] == 2 && s.tiles[2] == 1 && plan->desc.y_stride[3] == row;
    const int64_t joined = convt3d__ceil_div(vector - 1 + 2 * row, vector);
    const int64_t one = convt3d__ceil_div(vector - 1 + row, vector);
    s.pitch = (int32_t)(s.joined ? (joined | 1) * vector : one * 2 * vector);   // channels of a warp in different banks
    const int64_t trade = s.traded ? s.step_blocks / s.row_blocks * 16 * s.pitch * size : 0;
    return narrow_weights_bytes(s) + (int64_t)s.cells * narrow_parts(s.mode) * s.cell_planes * 16 + trade;
}

// Cycles of a multiprocessor for one block: products, what passes shared memory, staging, and waiting that the other
// blocks there (`each` at most) do not fill.
static inline double narrow_block_cycles(const convt3d__plan *plan, const NarrowShape &s, double each)
{
    const double split = s.mode == SM80_SPLIT, size = (double)convt3d__element_size(plan->desc.dtype);
    const double blocks = (double)convt3d__ceil_div((int64_t)s.tile[0] * s.tile[1] * s.row_blocks, s.step_blocks) *
                          NARROW_STEP * s.channel_blocks;
    const double products = blocks * s.fragments * (split ? 4.5 : 1.5);
    const double outputs = blocks * 128 * s.fused[0] * s.fused[1];
    const double shared = blocks * (s.rows * s.steps * (split ? 4 : 2) + s.fragments * (split ? 2 : 1)) +
                          outputs * (s.traded ? 1 / 32.0 + 2 * size / 128 : size / 128 + 1 / 128.0);
    const double staged = (double)s.cells * s.cell_planes * (split ? 1.2 : 0.6) + (double)narrow_weights_bytes(s) / 64;
    double resident = (double)convt3d__min(split ? 2 : 4, 227 * 1024 / (s.shared + 1024)) * (split ? 1.5 : 1);
    if (resident > each) resident = each;
    const double most = products > shared ? products : shared, least = products + shared - most;
    const double busy = most + 0.5 * least + outputs / 32 * 6 / 4 + staged;
    return busy * (resident < 3 ? 3 / resident : 1) + 4000 / resident;
}

// Cycles of the whole card: what the batch does not decide where a tile has a scale, so that no sample's scales do.
static inline double narrow_cycles(const convt3d__plan *plan, const NarrowShape &s)
{
    double tiles = (double)s.tiles[0] * s.tiles[1] * s.tiles[2], each = 3;
    if (s.mode != SM80_SPLIT) {
        tiles *= (double)plan->desc.batch * (double)plan->desc.groups / plan->multiprocessors;
        if (tiles < 6)
            tiles = (double)convt3d__ceil_div((int64_t)(tiles * plan->multiprocessors), plan->multiprocessors);
        each = tiles;
    }
    return tiles * narrow_block_cycles(plan, s, each);
}

// The tile that costs least.
static inline bool narrow_search(const convt3d__plan *plan, NarrowShape &best, const Sm80Walk (&walk)[3], int64_t limit)
{
    const int32_t blocks = (int32_t)convt3d__ceil_div(best.columns[2], 8);
    const int32_t pieces = (int32_t)convt3d__ceil_div(blocks, NARROW_STEP);
    best.cycles = 0;
    for (int32_t d = 1; d <= convt3d__min(best.columns[0], 8); d++)
        for (int32_t h = 1; h <= convt3d__min(best.columns[1], 32); h++) {
            NarrowShape s = best;
            s.tile[0] = (int32_t)convt3d__ceil_div(s.columns[0], convt3d__ceil_div(s.columns[0], d));
            s.tile[1] = (int32_t)convt3d__ceil_div(s.columns[1], convt3d__ceil_div(s.columns[1], h));
            s.tile[2] = pieces == 1 ? s.columns[2] : 8 * (int32_t)convt3d__ceil_div(blocks, pieces);
            if (s.tile[0] != d || s.tile[1] != h || (int64_t)d * h * convt3d__min(blocks, NARROW_STEP) > 256) continue;
            const int64_t bytes = narrow_bytes(plan, s, walk);
            if (bytes > limit) continue;
            s.shared = (int32_t)bytes;
            s.cycles = narrow_cycles(plan, s);
            if (best.cycles == 0 || s.cycles < best.cycles) best = s;
        }
    return best.cycles > 0;
}

static inline const char *narrow_plan(const convt3d__plan *plan, NarrowShape &s, Sm80Walk (&walk)[3])
{
    memset(&s, 0, sizeof s);
    if (plan->cuda_arch < 80) return "needs sm_80";
    const bool strides = plan->axis[2].stride == 2 && plan->axis[0].stride <= 2 && plan->axis[1].stride <= 2;
    const char *refusal = narrow_begin(
        plan, strides ? "" : "strides other than 2 of the width, 1 or 2 of depth and height", s, walk);
    if (*refusal) return refusal;
    for (int a = 0; a < 3; a++) s.fused[a] = (int32_t)plan->axis[a].stride;
    const int32_t slots = walk[2].entries * s.cell_planes;
    int32_t most;
    s.steps = s.mode == SM80_TF32 ? slots : (slots + 1) / 2;
    if (s.steps > NARROW_MOST_STEPS || walk[0].entries * walk[1].entries > NARROW_MOST_ROWS) return "too many shifts";
    narrow_count(s, walk, most);
    if (s.fragments > NARROW_MOST_FRAGMENTS) return "too many taps";
    if (s.mode == SM80_SPLIT && most > NARROW_MOST_STEPS) return "too many products of an output for one sum";
    const int64_t together = s.mode == SM80_SPLIT ? 2 : halo_lists(plan) ? 3 : 4;       // blocks on a multiprocessor
    const int64_t limits[3] = {227 * 1024 / together - 1024, 112 * 1024, sm80_most_shared(plan)};
    bool found = false;
    for (int64_t limit : limits)
        found = found || narrow_search(plan, s, walk, convt3d__min(limit, sm80_most_shared(plan)));
    if (!found) return "a tile with its halo exceeds shared memory";
    return narrow_end(plan, s, 8);
}

template <class C>
convt3d_status narrow_pack(const convt3d__plan *plan, const NarrowShape &s, const Sm80Walk (&walk)[3], const void *w,
                           void *packed, bool copy, void *stream, convt3d_error *error)
{
    NarrowPacking<typename C::T> p = {};
    narrow_packing(plan, s, w, packed, copy, p);
    for (int32_t d = 0; d < walk[0].entries; d++)
        for (int32_t h = 0; h < walk[1].entries; h++)
            for (int32_t step = 0; step < s.steps; step++)
                for (int q = 0; q < NARROW_P; q++) {
                    const int32_t kd = narrow_tap(walk[0], d, q / 2), kh = narrow_tap(walk[1], h, q % 2);
                    if (kd < 0 || kh < 0) continue;
                    p.fragment[p.fragments++] = {(int16_t)(kd * plan->axis[1].kernel + kh), (int16_t)step};
                }
    const int32_t halves = s.mode == SM80_TF32 ? 1 : 2;
    for (int32_t i = 0; i < s.steps * halves; i++) {
        const int32_t entry = i / s.cell_planes;
        NarrowSlot &slot = p.slot[i / halves][i % halves];
        slot = {(int8_t)(i % s.cell_planes), {-1, -1}};
        if (entry < walk[2].entries)
            for (int e = 0; e < 2; e++) slot.k[e] = (int8_t)narrow_tap(walk[2], entry, e);
    }
    p.parts = (int32_t)convt3d__ceil_div(s.fragments * 32, 256);
    return convt3d__launch(error, narrow_pack_kernel<C>,
                           dim3((unsigned)(plan->desc.groups * s.channel_blocks * p.parts)), dim3(256), 0, stream, p);
}

template <class C>
convt3d_status narrow_run(const convt3d__plan *plan, const convt3d_io *io, const NarrowShape &s,
                          const Sm80Walk (&walk)[3], convt3d_error *error)
{
    NarrowProblem<typename C::T, C::NB> p = {};
    convt3d_status aligned = narrow_problem<typename C::T>(plan, io, s, p, error);
    if (aligned != CONVT3D_OK) return aligned;
    for (int32_t a = 0; a < walk[0].entries; a++)
        for (int32_t b = 0; b < walk[1].entries; b++) {
            const Sm80Entry &depth = walk[0].axis.entry[a], &height = walk[1].axis.entry[b];
            NarrowRow &row = p.row[p.rows++];
            row.offset = ((depth.offset - s.low[0]) * s.extent[1] + height.offset - s.low[1]) * s.extent[2] * 16;
            row.mask = narrow_mask(depth.mask, height.mask);
        }
    const int32_t halves = s.mode == SM80_TF32 ? 1 : 2, slots = walk[2].entries * s.cell_planes;
    for (int32_t i = 0; i < s.steps * halves; i++) {
        const int32_t slot = (int32_t)convt3d__min(i, slots - 1);       // the last again where there is none
        const int32_t at = (slot % s.cell_planes * narrow_parts(s.mode) * s.cells +
                            walk[2].axis.entry[slot / s.cell_planes].offset - s.low[2]) * 16;
        NarrowStep &step = p.step[i / halves];
        if (i % halves == 0) step.first = at;
        if (halves == 1) step.second = at + s.cells * 16;
        else if (i % halves == 1) step.second = at;
    }
    p.fragments = s.fragments;
    p.row_blocks = s.row_blocks;
    p.step_blocks = s.step_blocks;
    p.tile_blocks = s.tile[0] * s.tile[1] * s.row_blocks;
    p.joined = s.joined;
    p.pitch = s.pitch;
    p.trade_at = p.weights_bytes + s.cells * narrow_parts(s.mode) * s.cell_planes * 16;
    p.by_row_blocks = halo_divisor(s.row_blocks);
    return sm80_launch_after(plan, !io->w_packed, error, narrow_kernel<C>, dim3((unsigned)narrow_tiles(plan, s)),
                             dim3(C::Threads), (size_t)s.shared, io->stream, p);
}

// As NarrowTable wants it.
struct NarrowSm80 {
    typedef NarrowShape Shape;
    static const char *plan(const convt3d__plan *plan, Shape &s, Sm80Walk (&walk)[3])
    {
        return narrow_plan(plan, s, walk);
    }
    template <class Act> static auto instance(const convt3d__plan *plan, const Shape &s, Act act)
    {
        return narrow_with_mode(s.mode, [&](auto mode) {
            constexpr int Mode = decltype(mode)::Mode;
            return halo_lists(plan) ? act(NarrowConfig<Mode, true>()) : act(NarrowConfig<Mode, false>());
        });
    }
    template <class C, class... Actual> static convt3d_status pack(Actual &&...actual)
    {
        return narrow_pack<C>(actual...);
    }
    template <class C, class... Actual> static convt3d_status run(Actual &&...actual)
    {
        return narrow_run<C>(actual...);
    }
    template <class C> static auto *packing() { return narrow_pack_kernel<C>; }
    template <class C> static auto *running() { return narrow_kernel<C>; }
};
typedef NarrowTable<NarrowSm80> NarrowSm80Table;

}

extern "C" int32_t convt3d__narrow_sm80_refuses(convt3d__plan *plan, char why[96])
{
    return convt3d_cuda::NarrowSm80Table::refuses(plan, why);
}

extern "C" double convt3d__narrow_sm80_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const NarrowShape s = kept_shape<NarrowShape>(plan);
    const double blocks = narrow_tiles(plan, s), size = (double)convt3d__element_size(plan->desc.dtype);
    double each = blocks / plan->multiprocessors;
    if (each < 4) each = (double)convt3d__ceil_div((int64_t)blocks, plan->multiprocessors);
    // Fitted to times of an H200. Where channels are neighbours, pieces of 8 channels bound it.
    double compute = each * narrow_block_cycles(plan, s, each) / (s.mode == SM80_SPLIT ? 1.25e9 : 1.1e9);
    if (each < 4) compute *= 0.6;
    double memory = (double)(plan->y_count + plan->x_count) * size / 3.2e12;
    if (plan->desc.y_stride[4] != 1) {
        memory = (double)plan->y_count * (size < 4 ? 3.4e-12 : s.channel_blocks > 1 ? 3.3e-12 : 2.3e-12);
        if ((double)plan->y_count * size < 25e6) memory *= 0.5;     // the L2 puts the pieces together
    }
    // With many taps products take longer than this says; it matters where sm90_narrow is the other choice.
    const bool others = plan->axis[0].stride == 2 && plan->axis[1].stride == 2 && convt3d__has_sm90a(plan);
    if (others && (plan->desc.y_stride[4] == 1 || compute > memory)) compute *= 1.9;
    return (compute > memory ? compute : memory) + 9e-6;
}

extern "C" int64_t convt3d__narrow_sm80_workspace(const convt3d__plan *plan)
{
    return convt3d_cuda::NarrowSm80Table::workspace(plan);
}

extern "C" int64_t convt3d__narrow_sm80_packed(const convt3d__plan *plan)
{
    return convt3d_cuda::NarrowSm80Table::packed(plan);
}

extern "C" convt3d_status convt3d__narrow_sm80_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                    void *stream, convt3d_error *error)
{
    return convt3d_cuda::NarrowSm80Table::pack(plan, w, packed, stream, error);
}

extern "C" convt3d_status convt3d__narrow_sm80_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::NarrowSm80Table::ready(plan, error);
}

extern "C" convt3d_status convt3d__narrow_sm80_run(const convt3d__plan *plan, const convt3d_io *io,
                                                   convt3d_error *error)
{
    return convt3d_cuda::NarrowSm80Table::run(plan, io, error);
}

#endif
