// At most 4 input channels a group, kernel 3 and stride 2 on all axes, 16-bit types: part of cuda_direct, on mma.sync.
//
// Idea      Multiply-adds would take longer than the bytes of y. With 4 input channels two taps fill the 8 deep of an
//           mma.m16n8k8, and two taps of an output are always at hand: of its phase they are the neighbours along the
//           width, else the height, else the depth. Of the 27 taps only the middle one stays alone; its other half is
//           zero in both operands, so no product touches a value outside an output's window. 14 products make all 8
//           phases of 8 columns and 16 output channels. Output channels are rows of the accumulator: a warp keeps the
//           weights of 32 in registers, marches along the height, and of each step a thread reads 16 pairs of channels
//           of x and holds 8 neighbouring outputs of 4 channels: 16-byte stores in NCDHW, 8-byte stores of 4
//           neighbouring channels in NDHWC, where channels go to rows in another order.
// Requires  f16 or bf16; kernel 3, stride 2, dilation 1, any padding; at most 4 input channels a group. Sums are f32,
//           of at most 32 products; one order for all outputs, whatever the slab: padding that is even is odd padding
//           and a first output of -1.
// Tile      4 warps x 16 columns of the width x 32 output channels x 8 phases a step, at most 32 steps.
// Measured  one H200, autoenc_4_32 in f16: 0.231 ms, 0.56 of the floor, NDHWC 0.212, 0.61; ReLU 0.253, SiLU 0.312. What
//           is left is instructions around the products: addresses of 64 bits, tests of what exists.
#pragma once

#include "direct_few.cuh"

#if CONVT3D__PART(6)

namespace convt3d_cuda {

template <class T> struct MatrixConfig {
    typedef T Element;
    typedef float Accumulator;
    static constexpr int Threads = 128, Columns = 16, Channels = 32, Products = 14, Fragments = 8;
};

// c += a * b, 16 x 8 x 8.
static __device__ __forceinline__ void matrix_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b, const __half *)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}
static __device__ __forceinline__ void matrix_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b,
                                                  const __nv_bfloat16 *)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Product i: of phases row 2*ed + eh and ew; with which pair of elements of x; their two taps. Pairs of x: 0 to 3:
// along the width in row 2*d + h of the window, 4 and 5: along the height in plane d, 6: along the depth, 7: one alone.
// The element further on comes first, as its tap does.
struct MatrixProduct { int row, ew, fragment, tap[2]; };
__device__ __forceinline__ constexpr MatrixProduct matrix_product(int i)
{
    switch (i) {
    case 0:  return {0, 1, 0, {12, 14}};
    case 1:  return {0, 0, 7, {13, -1}};
    case 2:  return {1, 1, 1, {9, 11}};
    case 3:  return {1, 1, 0, {15, 17}};
    case 4:  return {1, 0, 4, {10, 16}};
    case 5:  return {2, 1, 2, {3, 5}};
    case 6:  return {2, 1, 0, {21, 23}};
    case 7:  return {2, 0, 6, {4, 22}};
    case 8:  return {3, 1, 3, {0, 2}};
    case 9:  return {3, 1, 2, {6, 8}};
    case 10: return {3, 1, 1, {18, 20}};
    case 11: return {3, 1, 0, {24, 26}};
    case 12: return {3, 0, 5, {1, 7}};
    default: return {3, 0, 4, {19, 25}};
    }
}

// Where a lane stands in the fragments: channel `row` of 8 and pair of inputs; which of two taps.
struct MatrixLane {
    int row, pair, half;
    __device__ __forceinline__ MatrixLane()
        : row(threadIdx.x % 32 / 4), pair(threadIdx.x % 2), half(threadIdx.x / 2 % 2) {}
};

// Output channel of half `r` of block m of 16 rows. Inner: channels of y lie side by side.
template <bool Inner> __device__ __forceinline__ int matrix_channel(int row, int m, int r)
{
    return Inner ? 4 * row + 2 * m + r : 16 * m + 8 * r + row;
}

static __device__ __forceinline__ uint32_t matrix_join(uint16_t low, uint16_t high)
{
    return (uint32_t)high << 16 | low;
}

// Two inputs of one element of x.
template <class T>
__device__ __forceinline__ uint32_t matrix_pair(const HaloProblem<T> &p, const T *x, bool first, bool second)
{
    if (p.x_vectors) return first ? *(const uint32_t *)x : 0;
    uint16_t low = 0, high = 0;
    if (first) low = *(const uint16_t *)x;
    if (second) high = *(const uint16_t *)(x + p.x_stride[1]);
    return matrix_join(low, high);
}

// What a lane reads of x, and the index of its first element on each axis.
template <class T> struct MatrixInput {
    const T *x;
    int32_t id, ih, iw;
    bool first, second;         // its inputs exist
};

// The pairs of elements of x around the lane's two columns.
template <class K>
__device__ __forceinline__ void matrix_load(const HaloProblem<typename K::Element> &p,
                                            const MatrixInput<typename K::Element> &in, int half,
                                            uint32_t (&b)[2][K::Fragments])
{
    const int32_t other = 1 - half;
    bool d[2], h[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        d[i] = (uint32_t)(in.id + i) < (uint32_t)p.axis[0].in;
        h[i] = (uint32_t)(in.ih + i) < (uint32_t)p.axis[1].in;
    }
    const bool d_other = half ? d[0] : d[1], h_other = half ? h[0] : h[1];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const int32_t iw = in.iw + 2 * j;
        const bool w = (uint32_t)iw < (uint32_t)p.axis[2].in, w_other = (uint32_t)(iw + other) < (uint32_t)p.axis[2].in;
        auto pair = [&](bool here, int64_t step_d, int64_t step_h, int64_t step_w) {
            return matrix_pair(p, in.x + step_d * p.x_stride[2] + step_h * p.x_stride[3] + step_w * p.x_stride[4],
                               here && in.first, here && in.second);
        };
#pragma unroll
        for (int i = 0; i < 4; i++) b[j][i] = pair(d[i / 2] && h[i % 2] && w_other, i / 2, i % 2, 2 * j + other);
#pragma unroll
        for (int i = 0; i < 2; i++) b[j][4 + i] = pair(d[i] && h_other && w, i, other, 2 * j);
        b[j][6] = pair(d_other && h[0] && w, other, 0, 2 * j);
        b[j][7] = pair(!half && d[0] && h[0] && w, 0, 0, 2 * j);
    }
}

// A thread's outputs of one row: 8 along the width from ow, of 4 channels.
struct MatrixTarget {
    int32_t channel[4], od, oh, ow;
    int32_t channels;           // of them that exist
    int64_t n;
};

// The sums of a thread in the order of y: [channel][ow], or [ow][channel].
template <bool Inner> struct MatrixSums;
template <> struct MatrixSums<false> {
    float v[4][8];
    __device__ __forceinline__ float &at(int channel, int ow) { return v[channel][ow]; }
    static __device__ __forceinline__ int channel_of(int i) { return i / 8; }
};
template <> struct MatrixSums<true> {
    float v[8][4];
    __device__ __forceinline__ float &at(int channel, int ow) { return v[ow][channel]; }
    static __device__ __forceinline__ int channel_of(int i) { return i % 4; }
};

// All products of row 2*ed + eh.
template <class K, bool Inner, int Row>
__device__ __forceinline__ void matrix_multiply(const uint32_t (&w)[K::Products][2][2],
                                                const uint32_t (&b)[2][K::Fragments], MatrixSums<Inner> &sum)
{
    float c[2][2][2][4] = {};               // [ew][m][j]
#pragma unroll
    for (int i = 0; i < K::Products; i++) {
        const MatrixProduct product = matrix_product(i);
        if (product.row != Row) continue;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                matrix_add(c[product.ew][m][j], w[i][m], b[j][product.fragment], (const typename K::Element *)0);
    }
#pragma unroll
    for (int i = 0; i < 32; i++)            // bits of i: ew, m, j, row of the fragment, column
        sum.at(i / 8 % 2 * 2 + i / 2 % 2, i / 4 % 2 * 4 + i % 2 * 2 + i / 16) = c[i / 16][i / 8 % 2][i / 4 % 2][i % 4];
}

// The list on all of them.
template <class K, bool Inner>
__device__ __forceinline__ void matrix_apply(const HaloProblem<typename K::Element> &p, const MatrixTarget &t,
                                             MatrixSums<Inner> &sum)
{
    typedef typename K::Element T;
    enum { Size = Inner ? 4 : 8 };
    apply_common_first(p.list, 0, sum.v,
                       [&](int i) {
        return (int64_t)t.channel[min(MatrixSums<Inner>::channel_of(i), max(t.channels - 1, 0))];
    },
                       [&](const Entry<float> &e, int group, float (&v)[Size]) {
        const bool row = t.od >= 0 && t.oh >= 0 && t.od < p.axis[0].out && t.oh < p.axis[1].out;
        const T *from = (const T *)e.residual + offset_of({t.n, 0, t.od, t.oh, t.ow, 1, 1}, e.stride);
#pragma unroll
        for (int i = 0; i < Size; i++) {
            const int c = Inner ? i : group, w = Inner ? group : i;
            v[i] = 0;
            if (row && c < t.channels && t.ow + w >= 0 && t.ow + w < p.axis[2].out)
                v[i] = Number<T>::widen(from[(c == 0 ? t.channel[0] : c == 1 ? t.channel[1] : c == 2 ? t.channel[2]
                                                                                                     : t.channel[3]) *
                                                 e.stride[1] + w * e.stride[4]]);
        }
    });
}

// All of them to y, as elements of Out.
template <class Out, class K>
__device__ __forceinline__ void matrix_store(const HaloProblem<typename K::Element> &p, const MatrixTarget &t,
                                             MatrixSums<false> &sum)
{
    Out *y = (Out *)p.y + t.n * p.y_stride[0] + t.od * p.y_stride[2] + t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
    const bool whole = p.row_vectors == 2 && t.ow % 8 == 0 && t.ow + 8 <= p.axis[2].out;
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (c >= t.channels) break;
        Out *row = y + t.channel[c] * p.y_stride[1];
        if (whole) { store_rounded(row, sum.v[c]);  continue; }
#pragma unroll
        for (int w = 0; w < 8; w++)
            if (t.ow + w >= 0 && t.ow + w < p.axis[2].out) row[w * p.y_stride[4]] = Number<Out>::round(sum.v[c][w]);
    }
}
template <class Out, class K>
__device__ __forceinline__ void matrix_store(const HaloProblem<typename K::Element> &p, const MatrixTarget &t,
                                             MatrixSums<true> &sum)
{
    Out *y = (Out *)p.y + t.n * p.y_stride[0] + t.od * p.y_stride[2] + t.oh * p.y_stride[3] + t.ow * p.y_stride[4] +
             t.channel[0];
#pragma unroll
    for (int w = 0; w < 8; w++, y += p.y_stride[4]) {
        if (t.ow + w < 0 || t.ow + w >= p.axis[2].out) continue;
        if (p.channel_vectors) { if (t.channels == 4) store_rounded(y, sum.v[w]); }
        else
#pragma unroll
            for (int c = 0; c < 4; c++) if (c < t.channels) y[c] = Number<Out>::round(sum.v[w][c]);
    }
}

// A weight is not finite: every output of a thread's steps from global memory.
template <class K>
__device__ __noinline__ void matrix_exact(const HaloProblem<typename K::Element> &p, MatrixTarget t, int32_t g,
                                          int32_t steps)
{
    for (int32_t i = 0; i < steps * 32 * t.channels; i++) {
        const int32_t at = i / t.channels, c = t.channel[i % t.channels];
        const int32_t ow = t.ow + at % 8, od = t.od + at / 8 % 2, oh = t.oh + at / 16;
        if (od < 0 || od >= p.axis[0].out || oh < 0 || oh >= p.axis[1].out || ow < 0 || ow >= p.axis[2].out) continue;
        halo_finish(p, t.n * p.y_stride[0] + c * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                           ow * p.y_stride[4],
                    halo_exact_sum(p, p.packed, {1, p.out_group, 3}, t.n, g, c - g * p.out_group, od, oh, ow),
                    {t.n, c, od, oh, ow, 1, 1});
    }
}

// Products, bias, list and store of one row of phases.
template <class K, bool Inner, ListForm Form>
__device__ __forceinline__ void matrix_row(const HaloProblem<typename K::Element> &p, MatrixTarget t, int32_t row,
                                           const uint32_t (&w)[K::Products][2][2],
                                           const uint32_t (&b)[2][K::Fragments], const float (&bias)[4])
{
    t.od += row / 2;
    t.oh += row % 2;
    if (t.od < 0 || t.oh < 0 || t.od >= p.axis[0].out || t.oh >= p.axis[1].out) return;
    MatrixSums<Inner> sum;
    if (row == 0) matrix_multiply<K, Inner, 0>(w, b, sum);
    else if (row == 1) matrix_multiply<K, Inner, 1>(w, b, sum);
    else if (row == 2) matrix_multiply<K, Inner, 2>(w, b, sum);
    else matrix_multiply<K, Inner, 3>(w, b, sum);
#pragma unroll
    for (int i = 0; i < 32; i++) sum.at(i / 8, i % 8) += bias[i / 8];
    if constexpr (Form == LIGHT_LIST) {
        if (p.list.head.entries > 0)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const float factor = p.list.head.factor(t.channel[c]), term = p.list.head.term(t.channel[c]);
#pragma unroll
                for (int w = 0; w < 8; w++) sum.at(c, w) = fmaf(sum.at(c, w), factor, term);
            }
        apply_light(p.list, reinterpret_cast<float (&)[32]>(sum.v));
    } else if (Form == WHOLE_LIST && p.list.count > 0) matrix_apply<K, Inner>(p, t, sum);
    if (Form == WHOLE_LIST && p.wide) matrix_store<float, K>(p, t, sum);
    else matrix_store<typename K::Element, K>(p, t, sum);
}

template <class K, bool Inner, ListForm Form>
__global__ void __launch_bounds__(K::Threads, 3)
matrix_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    const MatrixLane lane;
    uint32_t range = blockIdx.x, g = p.by_ranges[1].split(range), block = p.by_groups.split(g);
    const int32_t first = range * K::Channels, channels = min((int32_t)K::Channels, p.out_group - first);
    T *staged = (T *)halo_shared;
    for (int32_t i = channels * FEW_INPUTS * 27 + threadIdx.x; i < K::Channels * FEW_INPUTS * 27; i += K::Threads)
        staged[i] = Number<T>::round(0);
    bool exact = few_stage_w<T, T, K::Threads>(p, g, first, channels, 27, staged);
    exact = __syncthreads_or(exact);
    uint32_t tile = block * (K::Threads / 32) + threadIdx.x / 32, strip = p.by_columns.split(tile);
    uint32_t d = p.by_tiles[1].split(strip), n = p.by_tiles[0].split(d);
    if (n >= (uint32_t)s.phases) return;
    uint32_t w[K::Products][2][2];
#pragma unroll
    for (int i = 0; i < K::Products * 4; i++) {
        const MatrixProduct product = matrix_product(i / 4);
        const int tap = lane.half ? max(product.tap[1], 0) : product.tap[0];
        const int channel = matrix_channel<Inner>(lane.row, i / 2 % 2, i % 2);
        const T *from = staged + (channel * FEW_INPUTS + 2 * lane.pair) * 27 + tap;
        w[i / 4][i / 2 % 2][i % 2] = lane.half && product.tap[1] < 0
                                         ? 0 : matrix_join(*(const uint16_t *)from, *(const uint16_t *)(from + 27));
    }
    const int32_t h_first = strip * s.tile[1], steps = min(s.tile[1], s.columns[1] - h_first);
    const int32_t column = (int32_t)tile * K::Columns + lane.row / 2 * 4 + lane.row % 2;
    MatrixInput<T> in = {NULL, s.first[0] + (int32_t)d, s.first[1] + h_first, s.first[2] + column,
                         2 * lane.pair < p.in_group, 2 * lane.pair + 1 < p.in_group};
    in.x = p.x + n * p.x_stride[0] + ((int64_t)g * p.in_group + 2 * lane.pair) * p.x_stride[1] +
           in.id * p.x_stride[2] + in.ih * p.x_stride[3] + in.iw * p.x_stride[4];
    const int32_t quad = 2 * lane.half + lane.pair;
    MatrixTarget t = {{}, 2 * (int32_t)d - s.low[0], 2 * h_first - s.low[1],
                      2 * ((int32_t)tile * K::Columns + 4 * quad) - s.low[2], 0, (int64_t)n};
    float bias[4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        const int32_t channel = matrix_channel<Inner>(lane.row, c / 2, c % 2);
        t.channel[c] = g * p.out_group + first + min(channel, channels - 1);
        t.channels += channel < channels;
        bias[c] = halo_bias(p, t.channel[c]);
    }
    if (exact) { matrix_exact<K>(p, t, g, steps);  return; }
    uint32_t b[2][K::Fragments], next[2][K::Fragments];
    matrix_load<K>(p, in, lane.half, next);
#pragma unroll 1
    for (int32_t step = 0; step < steps; step++, t.oh += 2) {
#pragma unroll
        for (int i = 0; i < 2 * K::Fragments; i++)
            b[i / K::Fragments][i % K::Fragments] = next[i / K::Fragments][i % K::Fragments];
        in.ih++;
        in.x += p.x_stride[3];
        if (step + 1 < steps) matrix_load<K>(p, in, lane.half, next);
#pragma unroll 1                                // the list and the store are long
        for (int32_t row = 0; row < 4; row++) matrix_row<K, Inner, Form>(p, t, row, w, b, bias);
    }
}

// ---- on the host ----

// Whether the problem is of this class.
static inline bool matrix_takes(const convt3d__plan *plan)
{
    for (int a = 0; a < 3; a++)
        if (plan->axis[a].kernel != 3 || plan->axis[a].stride != 2 || plan->axis[a].dilation != 1) return false;
    return plan->in_group <= FEW_INPUTS;
}

// The shape's use here. low: 1 where the first output of the first column is not there; phases: samples; tile: steps
// along the height, all columns of the width.
template <class K> bool matrix_plan(const convt3d__plan *plan, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    s.chunk = s.chunks = s.channels = s.item_warps = s.phase_step = 1;
    s.fused = 2;
    s.weight_row = 3;
    s.channel_blocks = (int32_t)convt3d__min(plan->out_group, INT32_MAX / 64);
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    if (plan->y_count == 0) return true;
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        s.first[a] = (int32_t)convt3d__floor_div(axis.padding - 1, 2);
        s.low[a] = !(axis.padding & 1);
        s.columns[a] = (int32_t)convt3d__ceil_div(axis.out + s.low[a], 2);
        s.tile[a] = s.columns[a];
        s.tiles[a] = a == 0 ? s.columns[a] : 1;
    }
    s.tile[2] = (int32_t)(convt3d__ceil_div(s.columns[2], K::Columns) * K::Columns);
    s.phases = (int32_t)plan->desc.batch;
    s.channel_step = K::Channels;
    s.channel_items = s.channel_blocks;
    const double ranges = (double)convt3d__ceil_div(plan->out_group, K::Channels) * (double)plan->desc.groups;
    const double warps = (double)plan->desc.batch * s.columns[0] * (s.tile[2] / K::Columns);
    s.tile[1] = march_steps(plan, s.columns[1], 32, 64 * warps * ranges);
    s.tiles[1] = (int32_t)convt3d__ceil_div(s.columns[1], s.tile[1]);
    s.shared = K::Channels * FEW_INPUTS * 27 * (int32_t)sizeof(typename K::Element);
    if (warps * s.tiles[1] * ranges < INT32_MAX / 2 && halo_packed_rows(plan, s) <= INT32_MAX) return true;
    convt3d__put(&text, "too many columns");
    return false;
}

template <class K> struct MatrixKernel : HaloPacker<MatrixKernel<K>, typename K::Element> {
    typedef typename K::Element T;
    template <bool Inner> static auto *instance(const convt3d__plan *plan)
    {
        return halo_with_form(plan, [](auto form) { return matrix_kernel<K, Inner, decltype(form)::Form>; });
    }
    static auto *function(const convt3d__plan *plan)
    {
        return plan->desc.y_stride[1] == 1 ? instance<true>(plan) : instance<false>(plan);
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96]) { return matrix_plan<K>(plan, s, why); }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        const convt3d_desc &d = plan->desc;
        const HaloShape s = halo_shape(plan);
        if (!io->w_packed) {
            convt3d_status status = this->pack(plan, io->w, io->workspace, io->stream, error);
            if (status != CONVT3D_OK) return status;
        }
        HaloProblem<T> p = halo_problem<T>(plan, io, s, K::Columns);
        p.x_vectors = d.x_stride[1] == 1 && plan->in_group == FEW_INPUTS && d.alignment >= 4;
        p.channel_vectors = d.y_stride[1] == 1 && plan->out_group % 4 == 0 && d.alignment >= 16;
        for (int i = 0; i < 5; i++) {
            if (i != 1 && d.x_stride[i] % 2 != 0) p.x_vectors = 0;
            if (i != 1 && d.y_stride[i] % 4 != 0) p.channel_vectors = 0;
        }
        const int64_t warps = d.batch * s.columns[0] * s.tiles[1] * (s.tile[2] / K::Columns);
        const int64_t blocks = convt3d__ceil_div(warps, K::Threads / 32) * d.groups *
                               convt3d__ceil_div(plan->out_group, K::Channels);
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks), dim3(K::Threads), (size_t)s.shared,
                               io->stream, p);
    }
};

}

#endif
