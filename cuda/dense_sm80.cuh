// sm80_dense: implicit GEMM on mma.sync from planar tiles of x: f64, few channels and groups, cards without wgmma.
//
// Idea      A block stages x with its halo in shared memory as planes (channel, d, h, w) of f32 or f64 (halo.cuh). Rows
//           of a fragment of A are columns q, its depth 8 input channels: one load a register, at any shift, without
//           conflicts or alignment. All outputs of a column in a stride of 2 are phases of one warp's accumulators, so
//           that an input shift is loaded once for all phases that have a tap there, and both outputs of the width
//           leave in one store. With 4 input channels or fewer the depth is two shifts of the width times 4 channels.
// Weights   are packed in the order in which they are met, a fragment of B after the other; they lie in shared memory
//           where they fit beside x, else they come through L1.
// f32       three tf32 products: operands times 2^24 as high + low, each rounded to 11 bits. Where an output has more
//           than 8 fragments of A, full or not, each sum of one leaves the matrix unit, which truncates, for an f32
//           register.
// Others    tf32, f16, bf16: one tf32 product, exact for 16-bit operands. f64: the f64 matrix unit.
// NaN, inf  in an operand, or made by the scale, reach their own rows and columns of a product only. An output that is
//           not finite is computed again by multiply-adds from global memory. Zeros in place of taps and halo can thus
//           make a sum NaN, but not an output.
// List      instances of their own, which trade f32 (f64) always: a lane takes 8 channels of an output, and sums move
//           to the front in turn, so that the list's code stands once. kb_l1_72 with ReLU (SiLU) takes 25% (30%) longer
//           in f32, 39% (47%) in f16.
// Store     A warp's outputs of 8 channels pass through shared memory to leave as rows; straight to y where rows are
//           not contiguous (NDHWC: two channels a store).
// Requires  sm_80; x and y not empty; 32-bit indices; at most 32 shifts and 64 taps an axis, strides to 8; a tile with
//           its halo within shared memory.
// Tile      256 threads; a warp has 32 columns x up to 8 (f64: 4) fragments, which are phases fused (2 of the width, 4
//           of height and width, 8 of all axes) times blocks of 8 channels. The tile of columns by sm80_search().
// Measured  one H200, NCDHW, weights packed in the call: kb_l1_72 (groups of 8, k 3x5x7 s2) f32 0.183 ms, tf32 0.136,
//           f16 0.147; casmvs_16_8 f32 0.044, tf32 0.033, f16 0.034; kb_l1_73 f32 0.66, f16 0.61; f64: kb_l1_61 6.7 ms
//           (39 TFLOP/s, 0.68 of the floor), psmnet_64_32 0.24, unet3d_128_64 2.63, gan_128_64_32 22.6. The
//           instructions of loads, splits and stores bound the small ones.
#pragma once

#include "sm80.cuh"

CONVT3D__DECLARE_KERNEL(dense_sm80)
CONVT3D__DECLARE_PACK(dense_sm80)

// The instances that apply lists, CONVT3D_CUDA_PART 13.
extern "C" {
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm80_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                            convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm80_list_ready(const convt3d__plan *plan, convt3d_error *error);
}

#if CONVT3D__PART(7) || CONVT3D__PART(13)

namespace convt3d_cuda {

enum { SM80_THREADS = 256, SM80_WARPS = 8, SM80_M = 2, SM80_ROWS = 16 * SM80_M };

template <bool Lists, class T> struct Sm80Traded { typedef T Value; };
template <class T> struct Sm80Traded<true, T> { typedef typename Number<T>::Accumulator Value; };

// One instance: fused phases P (of the width; of height and width; of all axes), fragments of channels NT. Lists: it
// applies the list, and may store wide.
template <int Mode_, int P_, int NT_, bool Lists_> struct Sm80Config {
    static constexpr int Mode = Mode_, P = P_, NT = NT_, M = SM80_M;
    static constexpr bool Lists = Lists_;
    typedef typename Sm80Mode<Mode>::T T;
    typedef typename Sm80Mode<Mode>::A A;
    typedef typename Sm80Traded<Lists, T>::Value Value;             // an output on its way to y
    typedef typename Sm80Mode<Mode>::Weight Weight;
    static constexpr int FusedW = P >= 2 ? 2 : 1, FusedH = P >= 4 ? 2 : 1, FusedD = P >= 8 ? 2 : 1;
    static constexpr bool Split = Mode == SM80_SPLIT || Mode == SM80_SHORT;
    static constexpr int Blocks = 2;
};

// The tiling of a plan, kept in plan->state.
struct Sm80Shape {
    int32_t mode, p, nt;
    int32_t first[3], columns[3], tile[3], tiles[3], low[3], extent[3], groups[3];
    int32_t pitch, plane, depth, paired;        // depth: input channels of a fragment, 8, or 4 where shifts are paired
    int32_t chunk, chunks, staged;              // input channels at a time, how often, with those that are zeros
    int32_t blocks, items, item_step, item_warps, rounds;
    int32_t pairs[3], shared, stage, weights;   // bytes; elements of x; bytes of weights in shared memory, or 0
    double cycles;
};

template <class T> struct Sm80Problem {
    HaloProblem<T> h;                           // h.w: weights as they came
    const void *weights;
    Sm80Axis axis[3];
    int32_t groups[3], pairs[3];
    int32_t blocks, items, item_step, item_ranges, item_warps, rounds, depth, fragments, staged;
    int32_t weights_at, store_at;                   // in shared memory, bytes: weights (0: in global memory), outputs
    int32_t row_vectors, channel_vectors, row_neighbours;   // y takes vectors of two outputs of a row, of two channels
    int32_t channel_lots;                           // and of 8 channels, in stores of 16 bytes
};
static_assert(sizeof(Sm80Problem<float>) <= 4096, "a kernel's parameters");

// ---- products ----

template <class C> struct Sm80Sum { typename C::A v[C::P][C::NT][C::M][4]; };

// The products of the loaded columns with the weights of phases q ... q + Count - 1. A split's are summed by themselves
// first, since the matrix unit truncates.
template <class C, int Count>
__device__ __forceinline__ void sm80_add(Sm80Sum<C> &sum, int q, const Sm80Operand<C::Mode> (&operand)[C::M],
                                         const typename C::Weight (&weight)[Count][C::NT])
{
    constexpr int together = C::NT * Count * C::M <= 8 ? C::NT : 8 / (Count * C::M);
#pragma unroll
    for (int first = 0; first < C::NT; first += together) {
        typename C::A part[Count][together][C::M][4] = {};
#pragma unroll
        for (int product = 0; product < (C::Split ? 3 : 1); product++)
#pragma unroll
            for (int i = 0; i < Count * together * C::M; i++) {
                const int e = i / (together * C::M), n = i / C::M % together, m = i % C::M;
                if (n >= C::NT - first) continue;
                if constexpr (C::Mode == SM80_SPLIT) operand[m].add(part[e][n][m], weight[e][first + n], product);
                else operand[m].add(sum.v[q + e][first + n][m], weight[e][first + n], product);
            }
        if constexpr (C::Mode == SM80_SPLIT)
#pragma unroll
            for (int i = 0; i < Count * together * C::M * 4; i++) {
                const int e = i / (together * C::M * 4), n = i / (C::M * 4) % together, m = i / 4 % C::M;
                if (n < C::NT - first) sum.v[q + e][first + n][m][i % 4] += part[e][n][m][i % 4];
            }
    }
}

// The products of phases First ... First + Count - 1 of the width, for each phase of depth and height that has the tap.
// Each is a loop of at most one pass: of an if ptxas makes predicates, and issues what is not done.
template <class C, int First, int Count>
__device__ __forceinline__ void sm80_phases(Sm80Sum<C> &sum, int32_t phases,
                                            const Sm80Operand<C::Mode> (&operand)[C::M], const typename C::Weight *&w)
{
#pragma unroll
    for (int q = 0; q < C::P; q += C::FusedW) {
        int32_t times = phases >> q & 1;
        if (C::P > C::FusedW) asm volatile("" : "+r"(times));
#pragma unroll 1
        while (C::P == C::FusedW || times > 0) {
            typename C::Weight weight[Count][C::NT];
#pragma unroll
            for (int i = 0; i < Count * C::NT; i++) weight[i / C::NT][i % C::NT] = w[i * 32];
            w += Count * C::NT * 32;
            sm80_add<C, Count>(sum, q + First, operand, weight);
            if (C::P == C::FusedW) break;
            times--;
            asm volatile("" : "+r"(times));
        }
    }
}

// The products of the columns at `row` (bytes in shared memory, of columns g and g + 8, channel t) with one item's
// weights, over the channels that are staged, d, h, w shifts and phases: the order of the packed weights.
template <class C>
__device__ __forceinline__ void sm80_multiply(const Sm80Problem<typename C::T> &p, const Sm80Group (&group)[3],
                                              int32_t fragments, const typename C::Weight *w,
                                              const int32_t (&row)[C::M][2], Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    const int32_t lane_step = p.h.s.plane * p.depth * (int32_t)sizeof(A);
    constexpr bool ahead = C::P == 1 && C::NT <= 4;     // weights are loaded a step ahead
    typename C::Weight next[1][C::NT];
    if (ahead)
#pragma unroll
        for (int n = 0; n < C::NT; n++) next[0][n] = w[n * 32];
    int32_t x = 0;
#pragma unroll 1
    for (int32_t f = 0; f < fragments; f++, x += lane_step)
#pragma unroll 1
        for (int32_t d = group[0].begin; d < group[0].end; d++)
#pragma unroll 1
            for (int32_t h = group[1].begin; h < group[1].end; h++) {
                const int32_t x_row = x + p.axis[0].entry[d].offset + p.axis[1].entry[h].offset;
                const int32_t phases = p.axis[0].entry[d].mask & p.axis[1].entry[h].mask;
#pragma unroll 1
                for (int32_t l = group[2].begin; l < group[2].end; l++) {
                    const Sm80Entry entry = p.axis[2].entry[l];
                    const int32_t at = x_row + entry.offset;
                    Sm80Operand<C::Mode> operand[C::M];
#pragma unroll
                    for (int m = 0; m < C::M; m++)
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            operand[m].set(i, *(const A *)(halo_shared + row[m][i % 2] + at + (i / 2) * entry.second));
                    if constexpr (ahead) {
                        typename C::Weight weight[1][C::NT];
                        w += C::NT * 32;
#pragma unroll
                        for (int n = 0; n < C::NT; n++) {
                            weight[0][n] = next[0][n];
                            next[0][n] = w[n * 32];
                        }
                        sm80_add<C, 1>(sum, 0, operand, weight);
                    } else {
                        const int32_t width = entry.mask & 3;
                        if constexpr (C::P == 1) sm80_phases<C, 0, 1>(sum, phases, operand, w);
                        else if (width == 3) sm80_phases<C, 0, 2>(sum, phases, operand, w);
                        else if (width == 1) sm80_phases<C, 0, 1>(sum, phases, operand, w);
                        else sm80_phases<C, 1, 1>(sum, phases, operand, w);
                    }
                }
            }
}

// ---- results ----

// What a warp's outputs have in common: the first of the block's tile and the item's phase, its first channel.
struct Sm80Item {
    int32_t o[3], oc, g;
    int64_t n, offset;
};

// Where a column lies: its first outputs, and its place in y from the item's.
struct Sm80Place { int32_t od, oh, ow, offset; bool inside; };

template <class C>
__device__ __forceinline__ Sm80Place sm80_place(const Sm80Problem<typename C::T> &p, const Sm80Item &item, int32_t slot)
{
    const HaloProblem<typename C::T> &h = p.h;
    HaloColumn q = halo_column(h, slot);
    int32_t d = q.d * h.axis[0].stride, l = q.h * h.axis[1].stride, w = q.w * h.axis[2].stride;
    Sm80Place t = {item.o[0] + d, item.o[1] + l, item.o[2] + w, 0, false};
    t.offset = d * (int32_t)h.y_stride[2] + l * (int32_t)h.y_stride[3] + w * (int32_t)h.y_stride[4];
    t.inside = q.d < h.s.tile[0] && t.od < h.axis[0].out && t.oh < h.axis[1].out && t.ow < h.axis[2].out;
    return t;
}

// A warp's outputs that are not finite again, exactly. Its stores must have been seen by all its lanes.
template <class C>
__device__ __noinline__ void sm80_store_exact(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                              int32_t first_slot)
{
    const HaloProblem<typename C::T> &h = p.h;
    const Sm80Place t = sm80_place<C>(p, item, first_slot + threadIdx.x % 32);
    __threadfence_block();
    __syncwarp();
    if (!t.inside) return;
    for (int32_t q = 0; q < C::P; q++) {
        int32_t ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH, ew = q % C::FusedW;
        if (t.od + ed >= h.axis[0].out || t.oh + eh >= h.axis[1].out || t.ow + ew >= h.axis[2].out) continue;
        for (int32_t channel = 0; channel < min(8 * C::NT, h.out_group - item.oc); channel++) {
            typename C::T *y = h.y + item.offset + t.offset + ed * h.y_stride[2] + eh * h.y_stride[3] +
                               ew * h.y_stride[4] + channel * h.y_stride[1];
            typename C::T v = *(const volatile typename C::T *)y;
            if (not_finite(Number<typename C::T>::widen(v)))
                *y = Number<typename C::T>::round(
                    sm80_exact(h, item.n, item.g, item.oc + channel, t.od + ed, t.oh + eh, t.ow + ew));
        }
    }
}

// What becomes of a thread's sums of channels oc, oc + 1 (bias[0], bias[1]) at (n, od, oh, ow) and (.., ow + 1): undoes
// the operands' scales, adds the bias, rounds. Whatever else is done to finished outputs belongs here.
template <class C>
__device__ __forceinline__ void sm80_finish(const Sm80Problem<typename C::T> &p, const typename C::A (&bias)[2],
                                            const typename C::A (&sum)[C::FusedW][2],
                                            typename C::T (&out)[C::FusedW][2])
{
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    (void)p;
#pragma unroll
    for (int e = 0; e < C::FusedW; e++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            if constexpr (scale != 0)
                out[e][j] = Number<typename C::T>::round(fmaf(sum[e][j], 1.f / (1 << scale) / (1 << scale), bias[j]));
            else out[e][j] = Number<typename C::T>::round(sum[e][j] + bias[j]);
}

template <class T> __device__ __forceinline__ void sm80_store_pair(T *to, T a, T b)
{
    T v[2] = {a, b};
    store_vector(to, v);
}

// 2 x 2 finished outputs straight to y: of neighbours along the width, of two channels.
template <class C>
__device__ __forceinline__ void sm80_write(const Sm80Problem<typename C::T> &p, typename C::T *y, int32_t width,
                                           int32_t channels, const typename C::T (&v)[C::FusedW][2])
{
#pragma unroll
    for (int e = 0; e < C::FusedW; e++, y += p.h.y_stride[4]) {
        if (e >= width) break;
        if (p.channel_vectors && channels >= 2) sm80_store_pair(y, v[e][0], v[e][1]);
        else {
            if (channels > 0) y[0] = v[e][0];
            if (channels > 1) y[p.h.y_stride[1]] = v[e][1];
        }
    }
}

// A warp's outputs of 8 channels of one row of phases, traded through shared memory: rows of them are stored.
template <class C> struct Sm80Trade {
    typedef typename C::Value T;
    static constexpr int Padding = (C::FusedW == 2 || sizeof(T) > 4 ? 16 : sizeof(T) == 2 ? 8 : 16) / sizeof(T);
    T v[8][SM80_ROWS * C::FusedW + Padding];
};

// One lane's two places: of outputs lane and 32 + lane of a row or, where both outputs of a column are stored as one,
// of column lane.
struct Sm80Lane { int32_t od, oh, offset; int32_t width; };

template <class C>
__device__ __forceinline__ Sm80Lane sm80_lane(const Sm80Problem<typename C::T> &p, const Sm80Item &item, int32_t slot,
                                              int32_t e)
{
    const Sm80Place t = sm80_place<C>(p, item, slot);
    Sm80Lane to = {t.od, t.oh, t.offset + e, t.inside ? p.h.axis[2].out - t.ow - e : 0};
    return to;
}

// One lane's outputs of `channels` channels, of all 8 where Full. at: the first channel's place, bytes from y.
template <class C, bool Full, int Vector>
__device__ __forceinline__ void sm80_store_lane(const typename C::T *from, char *y, uint32_t at, int64_t channel_bytes,
                                                bool real, int32_t channels)
{
    typedef typename C::T T;
    struct alignas(Vector * sizeof(T)) Pack { T v[Vector]; };
    constexpr int row = sizeof(Sm80Trade<C>) / 8 / sizeof(T);
    Pack pack[8];
#pragma unroll
    for (int c = 0; c < 8; c++) pack[c] = *(const Pack *)(from + c * row);
#pragma unroll
    for (int c = 0; c < 8; c++, y += channel_bytes) {
        if (!Full && c >= channels) break;
        if (real) store_vector((T *)(y + at), pack[c].v);
    }
}

template <class C>
__device__ __forceinline__ void sm80_store_rows(const Sm80Problem<typename C::T> &p, const Sm80Trade<C> &trade,
                                                typename C::T *y, const Sm80Lane (&to)[C::FusedW], int ed, int eh,
                                                int32_t channels)
{
    typedef typename C::T T;
    const int lane = threadIdx.x % 32;
    const int32_t out_d = p.h.axis[0].out - ed, out_h = p.h.axis[1].out - eh;
    const int64_t channel_bytes = p.h.y_stride[1] * (int64_t)sizeof(T);
    const bool pairs = C::FusedW == 2 && p.row_vectors;
#pragma unroll
    for (int i = 0; i < C::FusedW; i++) {
        const T *from = &trade.v[0][pairs ? lane * 2 + i : lane + 32 * i];
        const uint32_t at = (uint32_t)(to[i].offset * (int32_t)sizeof(T));
        const bool real = to[i].od < out_d && to[i].oh < out_h && to[i].width > 0;
        if (C::FusedW == 2 && pairs) {
            if (i > 0) break;
            const bool both = real && to[i].width >= 2;
            if (channels >= 8) sm80_store_lane<C, true, C::FusedW>(from, (char *)y, at, channel_bytes, both, 8);
            else sm80_store_lane<C, false, C::FusedW>(from, (char *)y, at, channel_bytes, both, channels);
            if (real && !both) sm80_store_lane<C, false, 1>(from, (char *)y, at, channel_bytes, true, channels);
        } else if (channels >= 8) sm80_store_lane<C, true, 1>(from, (char *)y, at, channel_bytes, real, 8);
        else sm80_store_lane<C, false, 1>(from, (char *)y, at, channel_bytes, real, channels);
    }
}

template <class C>
__device__ __forceinline__ void sm80_store(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                           int32_t first_slot, const Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    typedef typename C::T T;
    const HaloProblem<T> &h = p.h;
    const int32_t lane = threadIdx.x % 32, lane_channel = lane % 4 * 2, left = h.out_group - item.oc;
    Sm80Trade<C> &trade = ((Sm80Trade<C> *)(halo_shared + p.store_at))[threadIdx.x / 32];
    T *y = h.y + item.offset;
    bool finite = true;
    Sm80Lane to[C::FusedW] = {};
    if (p.row_neighbours)
#pragma unroll
        for (int i = 0; i < C::FusedW; i++)
            to[i] = C::FusedW == 1 || p.row_vectors ? sm80_lane<C>(p, item, first_slot + lane, 0)
                                                    : sm80_lane<C>(p, item, first_slot + (lane + 32 * i) / 2, lane % 2);
#pragma unroll
    for (int n = 0; n < C::NT; n++, y += 8 * h.y_stride[1]) {
        const int32_t channels = left - n * 8;
        if (C::NT > 1 && channels <= 0) break;
        A bias[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            bias[j] = lane_channel + j < channels
                          ? halo_bias(h, (int64_t)item.g * h.out_group + item.oc + lane_channel + n * 8 + j) : A(0);
#pragma unroll
        for (int q = 0; q < C::P; q += C::FusedW) {
            const int ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH;
            T *row = y + ed * h.y_stride[2] + eh * h.y_stride[3];
#pragma unroll
            for (int i = 0; i < 2 * C::M; i++) {
                A part[C::FusedW][2];
                T out[C::FusedW][2];
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                    for (int j = 0; j < 2; j++) part[e][j] = sum.v[q + e][n][i / 2][i % 2 * 2 + j];
                sm80_finish<C>(p, bias, part, out);
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                    for (int j = 0; j < 2; j++) finite = finite && !not_finite(Number<T>::widen(out[e][j]));
                const int32_t slot = lane / 4 + i * 8;
                if (p.row_neighbours) {
#pragma unroll
                    for (int j = 0; j < 2; j++)
#pragma unroll
                        for (int e = 0; e < C::FusedW; e++) trade.v[lane_channel + j][slot * C::FusedW + e] = out[e][j];
                } else {
                    const Sm80Place t = sm80_place<C>(p, item, first_slot + slot);
                    if (t.inside && t.od + ed < h.axis[0].out && t.oh + eh < h.axis[1].out)
                        sm80_write<C>(p, row + lane_channel * h.y_stride[1] + t.offset, h.axis[2].out - t.ow,
                                      channels - lane_channel, out);
                }
            }
            if (p.row_neighbours) {
                __syncwarp();
                sm80_store_rows<C>(p, trade, row, to, ed, eh, channels);
                __syncwarp();
            }
        }
    }
    if (__any_sync(0xffffffffu, !finite)) sm80_store_exact<C>(p, item, first_slot);
}

// ---- outputs with a list ----

// 8 channels of an output, of which the first `channels` exist, as elements of Out.
template <class Out, class A>
__device__ __forceinline__ void sm80_store_channels(Out *y, int64_t stride, bool lots, int32_t channels,
                                                    const A (&v)[8])
{
    Out out[8];
#pragma unroll
    for (int c = 0; c < 8; c++) out[c] = Number<Out>::round(v[c]);
    if (lots && channels >= 8) { store_vector(y, out);  return; }
#pragma unroll
    for (int c = 0; c < 8; c++) if (c < channels) y[c * stride] = out[c];
}

// 8 channels, from oc on, of one output of the row: what the warp has traded, summed exactly where it is not finite,
// and the list. A residual may be y: nothing is stored before.
template <class C>
__device__ __forceinline__ void sm80_list_channels(const Sm80Problem<typename C::T> &p, const Sm80Trade<C> &trade,
                                                   const Sm80Item &item, int32_t first_slot, int32_t at, int32_t oc,
                                                   int32_t ed, int32_t eh)
{
    typedef typename C::T T;
    typedef typename C::A A;
    const HaloProblem<T> &h = p.h;
    const Sm80Place t = sm80_place<C>(p, item, first_slot + at / C::FusedW);
    const int32_t od = t.od + ed, oh = t.oh + eh, ow = t.ow + at % C::FusedW, channels = h.out_group - oc;
    if (!t.inside || od >= h.axis[0].out || oh >= h.axis[1].out || ow >= h.axis[2].out) return;
    A v[1][8];
    bool finite = true;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        v[0][c] = trade.v[c][at];
        finite = finite && (c >= channels || !not_finite(v[0][c]));
    }
    if (!finite)
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (c < channels && not_finite(v[0][c])) v[0][c] = sm80_exact(h, item.n, item.g, oc + c, od, oh, ow);
    const Where place = {item.n, (int64_t)item.g * h.out_group + oc, od, oh, ow, 1, 1};
    apply_in_registers(h.list, 0, v, [&](int c) { return place.oc + min(c, channels - 1); },
                       [&](const Entry<A> &e, int, A (&r)[8]) {
        const int64_t from = offset_of(place, e.stride);
        if (e.channels && channels >= 8 && place.oc % 8 == 0) residual_vectors<T>(e.residual, from, r);
        else
#pragma unroll
            for (int c = 0; c < 8; c++) {
                T element = Number<T>::round(0);
                if (c < channels) element = ((const T *)e.residual)[from + c * e.stride[1]];
                r[c] = Number<T>::widen(element);
            }
    });
    const int64_t to = offset_of(place, h.y_stride);
    if (sizeof(T) == 2 && h.wide) sm80_store_channels((A *)h.y + to, h.y_stride[1], p.channel_lots, channels, v[0]);
    else sm80_store_channels((T *)h.y + to, h.y_stride[1], p.channel_lots, channels, v[0]);
}

// As sm80_store(), a row of phases and 8 channels at a time, those which come next moving to the front of the sums: the
// list's code stands once.
template <class C>
__device__ __forceinline__ void sm80_store_list(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                                int32_t first_slot, Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    const HaloProblem<typename C::T> &h = p.h;
    const int32_t lane = threadIdx.x % 32, lane_channel = lane % 4 * 2;
    Sm80Trade<C> &trade = ((Sm80Trade<C> *)(halo_shared + p.store_at))[threadIdx.x / 32];
#pragma unroll 1
    for (int q = 0; q < C::P; q += C::FusedW) {
        const int ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH;
#pragma unroll 1
        for (int n = 0; n < C::NT; n++) {
            const int32_t oc = item.oc + n * 8, channels = h.out_group - oc;
            if (channels > 0) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const A bias = lane_channel + j < channels
                                       ? halo_bias(h, (int64_t)item.g * h.out_group + oc + lane_channel + j) : A(0);
#pragma unroll
                    for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                        for (int i = 0; i < 2 * C::M; i++) {
                            A v = sum.v[e][0][i / 2][i % 2 * 2 + j];
                            if constexpr (scale != 0) v = fmaf(v, 1.f / (1 << scale) / (1 << scale), bias);
                            else v += bias;
                            trade.v[lane_channel + j][(lane / 4 + i * 8) * C::FusedW + e] = v;
                        }
                }
                __syncwarp();
#pragma unroll 1
                for (int i = 0; i < C::FusedW; i++)
                    sm80_list_channels<C>(p, trade, item, first_slot, lane + 32 * i, oc, ed, eh);
                __syncwarp();
            }
            if constexpr (C::NT > 1)
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
                    turn<C::M * 4>(reinterpret_cast<A (&)[C::NT * C::M * 4]>(sum.v[e]));
        }
        if constexpr (C::P > C::FusedW)
            turn<C::FusedW * C::NT * C::M * 4>(reinterpret_cast<A (&)[C::P * C::NT * C::M * 4]>(sum.v));
    }
}

// ---- the kernel ----

// Which block of channels and which phases an item is.
struct Sm80Part { int32_t block, g[3]; };

template <class T> __device__ __forceinline__ Sm80Part sm80_part(const Sm80Problem<T> &p, int32_t item)
{
    Sm80Part part;
#pragma unroll
    for (int a = 2; a >= 0; a--) {
        part.g[a] = item % p.groups[a];
        item /= p.groups[a];
    }
    part.block = item;
    return part;
}

// Fragments of weights (of NT) of the group before those of an item.
template <class T> __device__ __forceinline__ int32_t sm80_weights_before(const Sm80Problem<T> &p, const Sm80Part &part)
{
    const Sm80Group &d = p.axis[0].group[part.g[0]], &h = p.axis[1].group[part.g[1]], &w = p.axis[2].group[part.g[2]];
    return p.fragments * (part.block * p.pairs[0] * p.pairs[1] * p.pairs[2] + d.base * p.pairs[1] * p.pairs[2] +
                          d.pairs * (h.base * p.pairs[2] + h.pairs * w.base));
}

template <class C>
__device__ __forceinline__ void sm80_stage_weights(const Sm80Problem<typename C::T> &p, int32_t g, int32_t before,
                                                   int32_t count)
{
    typedef typename C::Weight Weight;
    const Weight *from = (const Weight *)p.weights + 32 * C::NT *
        ((int64_t)g * p.blocks * p.pairs[0] * p.pairs[1] * p.pairs[2] * p.fragments + before);
    unsigned char *to = halo_shared + p.weights_at;
    const int32_t bytes = count * 32 * C::NT * (int32_t)sizeof(Weight);
    for (int32_t i = threadIdx.x * 16; i < bytes; i += SM80_THREADS * 16)
        stage_vector((float *)(to + i), (const float *)((const char *)from + i));
}

// Zeros in the channels that fill up a fragment's depth.
template <class C> __device__ __forceinline__ void sm80_fill(const Sm80Problem<typename C::T> &p, int32_t count,
                                                             typename C::A *to)
{
    int32_t padded = (count + p.depth - 1) / p.depth * p.depth;
    for (int32_t i = count * p.h.s.plane + threadIdx.x; i < padded * p.h.s.plane; i += SM80_THREADS) to[i] = 0;
}

template <class C>
__device__ __forceinline__ void sm80_stage(const Sm80Problem<typename C::T> &p, const HaloBlock &b, int32_t chunk)
{
    typename C::A *to = (typename C::A *)halo_shared + (chunk & 1) * p.h.s.stage;
    int32_t ic = chunk * p.h.s.chunk, count = min(p.h.s.chunk, p.h.in_group - ic);
    halo_stage_x<typename C::T, typename C::A, SM80_THREADS>(p.h, b, ic, count, to);
    sm80_fill<C>(p, count, to);
}

template <class C>
__global__ void __launch_bounds__(SM80_THREADS, C::Blocks)
sm80_kernel(const __grid_constant__ Sm80Problem<typename C::T> p)
{
    typedef typename C::T T;
    constexpr int size = sizeof(typename C::A);
    const HaloShape &s = p.h.s;
    const int32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int32_t item_warp = warp % p.item_warps, position_warp = warp / p.item_warps;
    HaloBlock b;
    uint32_t index = blockIdx.x, next = index / p.item_ranges;
    const int32_t first_item = (int32_t)(index - next * p.item_ranges) * p.item_step;
    index = next;
    next = p.h.by_groups.split(index);
    b.g = (int32_t)index;
    for (int a = 2; a >= 0; a--) {
        index = next;
        next = p.h.by_tiles[a].split(index);
        b.q[a] = s.first[a] + (int32_t)index * s.tile[a];
    }
    b.n = next;
    b.phase = b.channel_block = 0;
    const int32_t weights_before = sm80_weights_before(p, sm80_part(p, first_item));
    if (p.weights_at) {
        const int32_t last = min(first_item + p.item_step, p.items);
        const int32_t end = last < p.items ? sm80_weights_before(p, sm80_part(p, last))
                                           : p.blocks * p.fragments * p.pairs[0] * p.pairs[1] * p.pairs[2];
        sm80_stage_weights<C>(p, b.g, weights_before, end - weights_before);
    }
    sm80_stage<C>(p, b, 0);
    for (int32_t local = item_warp; local - item_warp < p.item_step; local += p.item_warps) {
        const bool active = local < p.item_step && first_item + local < p.items;
        const Sm80Part part = sm80_part(p, active ? first_item + local : 0);
        const Sm80Group group[3] = {p.axis[0].group[part.g[0]], p.axis[1].group[part.g[1]],
                                    p.axis[2].group[part.g[2]]};
        const int32_t pairs = group[0].pairs * group[1].pairs * group[2].pairs;
        const int32_t before = sm80_weights_before(p, part);
        const typename C::Weight *weights = lane +
            (p.weights_at ? (const typename C::Weight *)(halo_shared + p.weights_at) +
                            32 * C::NT * (before - weights_before)
                          : (const typename C::Weight *)p.weights + 32 * C::NT *
                            ((int64_t)b.g * p.blocks * p.pairs[0] * p.pairs[1] * p.pairs[2] * p.fragments + before));
        Sm80Item item;
        item.o[0] = p.h.axis[0].stride * (b.q[0] - s.first[0]) + part.g[0] * C::FusedD;
        item.o[1] = p.h.axis[1].stride * (b.q[1] - s.first[1]) + part.g[1] * C::FusedH;
        item.o[2] = p.h.axis[2].stride * (b.q[2] - s.first[2]) + part.g[2] * C::FusedW;
        item.oc = part.block * C::NT * 8;
        item.g = b.g;
        item.n = b.n;
        item.offset = b.n * p.h.y_stride[0] + ((int64_t)b.g * p.h.out_group + item.oc) * p.h.y_stride[1] +
                      item.o[0] * p.h.y_stride[2] + item.o[1] * p.h.y_stride[3] + item.o[2] * p.h.y_stride[4];
        for (int32_t round = 0; round < p.rounds; round++) {
            const int32_t first_slot = (round * (SM80_WARPS / p.item_warps) + position_warp) * SM80_ROWS;
            const typename C::Weight *w = weights;
            int32_t row[C::M][2];
#pragma unroll
            for (int i = 0; i < 2 * C::M; i++) {
                HaloColumn q = halo_column(p.h, first_slot + lane / 4 + i * 8);
                int32_t at = q.d < s.tile[0] ? (q.d * s.extent[1] + q.h) * s.pitch + q.w : 0;
                row[i / 2][i % 2] = (at + lane % 4 * s.plane) * size;
            }
            Sm80Sum<C> sum = {};
            for (int32_t chunk = 0; chunk < s.chunks; chunk++) {
                if (round == 0 && local == item_warp) {     // streaming has one round of items
                    stage_wait();
                    __syncthreads();
                    if (chunk + 1 < s.chunks) sm80_stage<C>(p, b, chunk + 1);
                }
                const int32_t count = (min(s.chunk, p.h.in_group - chunk * s.chunk) + p.depth - 1) / p.depth;
                if (active && pairs > 0) {
                    sm80_multiply<C>(p, group, count, w, row, sum);
                    w += (int64_t)count * pairs * C::NT * 32;
                }
#pragma unroll
                for (int i = 0; i < 2 * C::M; i++)
                    row[i / 2][i % 2] += (s.chunks > 1 ? (chunk & 1 ? -1 : 1) * s.stage * size : 0);
            }
            if constexpr (C::Lists) { if (active) sm80_store_list<C>(p, item, first_slot, sum); }
            else if (active) sm80_store<C>(p, item, first_slot, sum);
        }
    }
}

// ---- packing ----

template <class T> struct Sm80Packing {
    const T *w;
    void *weights;
    T *copy;                            // of w as it came, where the pack outlives it
    Sm80Pair pair[3][64];
    int32_t pairs[3], kernel[3], groups_blocks, blocks, fragments, depth, paired, in_group, out_group, taps;
    int64_t lanes, elements;
};
static_assert(sizeof(Sm80Packing<float>) <= 4096, "a kernel's parameters");

template <class C> __global__ void __launch_bounds__(SM80_THREADS)
sm80_pack_kernel(const __grid_constant__ Sm80Packing<typename C::T> p)
{
    typedef typename C::A A;
    const int64_t threads = (int64_t)gridDim.x * SM80_THREADS, all = (int64_t)p.pairs[0] * p.pairs[1] * p.pairs[2];
    if (p.copy)
        for (int64_t i = (int64_t)blockIdx.x * SM80_THREADS + threadIdx.x; i < p.elements; i += threads)
            p.copy[i] = p.w[i];
    for (int64_t i = (int64_t)blockIdx.x * SM80_THREADS + threadIdx.x; i < p.lanes; i += threads) {
        const int32_t lane = (int32_t)(i % 32);
        int64_t rest = i / 32;
        const int32_t l = (int32_t)(rest % p.pairs[2]);
        rest /= p.pairs[2];
        const int32_t h = (int32_t)(rest % p.pairs[1]);
        rest /= p.pairs[1];
        const int32_t d = (int32_t)(rest % p.pairs[0]);
        rest /= p.pairs[0];
        const int32_t n = (int32_t)(rest % C::NT);
        rest /= C::NT;
        const int32_t f = (int32_t)(rest % p.fragments), block = (int32_t)(rest / p.fragments);
        const Sm80Pair &pd = p.pair[0][d], &ph = p.pair[1][h], &pl = p.pair[2][l];
        const int64_t before = (int64_t)pd.base * p.pairs[1] * p.pairs[2] +
                               pd.pairs * (ph.base * p.pairs[2] + ph.pairs * pl.base);
        const int32_t pairs = pd.pairs * ph.pairs * pl.pairs;
        const int32_t rank = pd.before * ph.pairs * pl.pairs +
                             pd.count * (ph.before * pl.pairs + ph.count * pl.before) +
                             (pd.rank * ph.count + ph.rank) * pl.count + pl.rank;
        const int64_t at = ((block * all + before) * p.fragments + (int64_t)f * pairs + rank) * C::NT + n;
        const int32_t g = block / p.blocks, oc = (block - g * p.blocks) * C::NT * 8 + n * 8 + lane / 4;
        A v[2] = {0, 0};
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int32_t ic = f * p.depth + lane % 4 + (p.paired ? 0 : part * 4), kw = pl.k[p.paired ? part : 0];
            if (ic >= p.in_group || oc >= p.out_group || kw < 0) continue;
            const int64_t tap = ((int64_t)pd.k[0] * p.kernel[1] + ph.k[0]) * p.kernel[2] + kw;
            v[part] = Number<typename C::T>::widen(
                p.w[(((int64_t)g * p.in_group + ic) * p.out_group + oc) * p.taps + tap]);
        }
        ((typename C::Weight *)p.weights)[at * 32 + lane] = sm80_weight<C::Mode>(v[0], v[1]);
    }
}

// Fragments of weights; some more are read, and not used, at the end of a walk.

}

#endif
