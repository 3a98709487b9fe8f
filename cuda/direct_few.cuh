// At most 4 input channels a group, kernel 3 and stride 2 on all axes: part of cuda_direct.
//
// Idea      As in depthwise_march.cuh the 8 outputs of a column meet 2 x 2 x 2 elements of x, of each input channel,
//           and each of its 27 taps once. A thread keeps the elements around its columns in registers, two along the
//           height of columns for 16 bytes of a row of y, and goes through the output channels: 27 weights of an input
//           channel come as 7 broadcast vectors from shared memory and meet all columns; what is summed leaves as 8
//           whole vectors. A register of weights costs the shared memory what 4 multiply-adds cost: it must serve as
//           many.
// Requires  f32; kernel 3, stride 2, dilation 1, odd paddings; 3 or 4 input channels a group; rows of y side by side.
// Tile      128 threads x (16 bytes of y) x 2 x 4 rows, 8 to 32 output channels one after the other.
// Measured  one H200, autoenc_4_32 in f32: 0.281 ms, 0.92 of the floor; with one column along the height 0.338. ReLU
//           0.295, SiLU 0.330, with instances for such lists.
#pragma once

#include "depthwise_march.cuh"

#if CONVT3D__PART(6)

namespace convt3d_cuda {

// Weights of a pair of channels, in whole vectors; columns of a thread along the height, rows of x that they meet.
enum { FEW_INPUTS = 4, FEW_WEIGHTS = 28, FEW_COLUMNS = 2, FEW_ROWS = FEW_COLUMNS + 1 };

// Stages the packed weights of `channels` output channels as [channel][ic][tap], zeros where there is no ic; from one
// ic to the next: `pair`. Returns whether one of those that this thread looked after is not finite.
template <class T, class W, int Threads>
__device__ __forceinline__ bool few_stage_w(const HaloProblem<T> &p, int32_t g, int32_t first, int32_t channels,
                                            int32_t pair, W *to)
{
    constexpr int together = 9;             // loads in flight
    bool found = false;
    const int64_t from = ((int64_t)g * p.out_group + first) * p.in_group;
    const int32_t all = channels * FEW_INPUTS * 27;
    for (int32_t begin = threadIdx.x; begin < all; begin += together * Threads) {
        typename Number<T>::Accumulator v[together] = {};
#pragma unroll
        for (int j = 0; j < together; j++) {
            const int32_t both = (begin + j * Threads) / 27, tap = begin + j * Threads - both * 27;
            const int32_t oc = both / FEW_INPUTS, ic = both % FEW_INPUTS;
            if (begin + j * Threads < all && ic < p.in_group) v[j] = p.packed[(from + oc * p.in_group + ic) * 27 + tap];
        }
#pragma unroll
        for (int j = 0; j < together; j++) {
            const int32_t both = (begin + j * Threads) / 27, tap = begin + j * Threads - both * 27;
            if (begin + j * Threads < all) to[both * pair + tap] = Number<W>::round(v[j]);
        }
    }
    for (int32_t i = threadIdx.x; i < channels * p.in_group; i += Threads) found = found || p.flags[from + i];
    return found;
}

// The elements around a thread's columns, of each input channel. id, ih: index of the first.
template <class K, bool Whole>
__device__ __forceinline__ void few_load(const HaloProblem<typename K::Element> &p, const typename K::Element *x,
                                         const MarchReach &reach, bool any, int32_t id, int32_t ih,
                                         typename K::Accumulator (&window)[FEW_INPUTS][2][FEW_ROWS][K::Lot + 1])
{
    MarchRow<K> row[FEW_INPUTS][2 * FEW_ROWS];
#pragma unroll
    for (int ic = 0; ic < FEW_INPUTS; ic++)
#pragma unroll
        for (int r = 0; r < 2 * FEW_ROWS; r++) {
            const int d = r / FEW_ROWS, h = r % FEW_ROWS;
            const bool inside = any && ic < p.in_group && (uint32_t)(id + d) < (uint32_t)p.axis[0].in &&
                                (uint32_t)(ih + h) < (uint32_t)p.axis[1].in;
            row[ic][r].template load<Whole>(p, x + ic * p.x_stride[1] + d * p.x_stride[2] + h * p.x_stride[3], inside,
                                            reach);
        }
#pragma unroll
    for (int ic = 0; ic < FEW_INPUTS; ic++)
#pragma unroll
        for (int r = 0; r < 2 * FEW_ROWS; r++) row[ic][r].widen(window[ic][r / FEW_ROWS][r % FEW_ROWS]);
}

// A weight is not finite: every output of `channels` channels from global memory.
template <class K>
__device__ __noinline__ void few_exact(const HaloProblem<typename K::Element> &p, MarchTarget t, int32_t g,
                                       int32_t channels)
{
    const int32_t rows = 4 * FEW_COLUMNS;
    for (int32_t i = 0; i < rows * t.outputs * channels; i++) {
        const int32_t at = i % (rows * t.outputs), c = t.channel + i / (rows * t.outputs);
        const int32_t od = t.od + at % 2, oh = t.oh + at % rows / 2, ow = t.ow + at / rows;
        if (od >= p.axis[0].out || oh >= p.axis[1].out) continue;
        halo_finish(p, t.n * p.y_stride[0] + c * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                           ow * p.y_stride[4],
                    halo_exact_sum(p, p.packed, {1, p.out_group, 3}, t.n, g, c - g * p.out_group, od, oh, ow),
                    {t.n, c, od, oh, ow, 1, 1});
    }
}

// Bias, list and store of one column.
template <class K, ListForm Form>
__device__ __forceinline__ void few_finish(const HaloProblem<typename K::Element> &p, const MarchTarget &t, int64_t at,
                                           bool whole, typename K::Accumulator bias, MarchSums<K> &sum)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    A (&all)[8 * K::Lot] = reinterpret_cast<A (&)[8 * K::Lot]>(sum);
#pragma unroll
    for (int i = 0; i < 8 * K::Lot; i++) all[i] += bias;
    if constexpr (Form == LIGHT_LIST) halo_light(p.list, t.channel, all);
    else if (Form == WHOLE_LIST && p.list.count > 0) march_apply_rows<K>(p, t, at, sum);
    if (whole) march_store_rows<T, K, true>(p, t, p.y + at, sum);
    else march_store_rows<T, K, false>(p, t, p.y + at, sum);
}

template <class K, ListForm Form>
__global__ void __launch_bounds__(K::Threads, 3)
few_rows_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    uint32_t range = blockIdx.x, g = p.by_ranges[1].split(range), block = p.by_groups.split(g);
    const int32_t first = range * s.channel_step, channels = min(s.channel_step, p.out_group - first);
    const A *w = (const A *)halo_shared;
    bool exact = few_stage_w<T, A, K::Threads>(p, g, first, channels, FEW_WEIGHTS, (A *)halo_shared);
    uint32_t lane = block * K::Threads + threadIdx.x, h = p.by_columns.split(lane);
    uint32_t d = p.by_rows.split(h), n = p.by_tiles[0].split(d);
    const int32_t id = s.first[0] + (int32_t)d + K::Low, ih = s.first[1] + FEW_COLUMNS * (int32_t)h + K::Low;
    const int32_t iw = s.first[2] + (int32_t)lane * K::Lot, beside = iw + (K::Rotation ? K::Lot : -1);
    const bool any = n < (uint32_t)s.phases;
    const MarchReach reach = {iw, p.x_vectors && iw >= 0 && iw + K::Lot <= p.axis[2].in,
                              (uint32_t)beside < (uint32_t)p.axis[2].in};
    const T *x = p.x + n * p.x_stride[0] + (int64_t)g * p.in_group * p.x_stride[1] + id * p.x_stride[2] +
                 ih * p.x_stride[3] + iw * p.x_stride[4];
    A window[FEW_INPUTS][2][FEW_ROWS][K::Lot + 1];
    if (reach.vector) few_load<K, true>(p, x, reach, any, id, ih, window);
    else few_load<K, false>(p, x, reach, any, id, ih, window);
    exact = __syncthreads_or(exact);
    if (!any) return;
    MarchTarget t = {(int32_t)g * p.out_group + first, 2 * (int32_t)d, 2 * FEW_COLUMNS * (int32_t)h,
                     2 * K::Lot * (int32_t)lane, 0,
                     (int64_t)n};
    t.outputs = min(2 * K::Lot, p.axis[2].out - t.ow);
    if (exact) { few_exact<K>(p, t, g, channels);  return; }
    const bool whole = p.row_vectors == 2 && !p.wide && t.outputs == 2 * K::Lot && t.od + 2 <= p.axis[0].out &&
                       t.oh + 2 * FEW_COLUMNS <= p.axis[1].out;
    int64_t at = t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] + t.oh * p.y_stride[3] +
                 t.ow * p.y_stride[4];
#pragma unroll 1
    for (int32_t c = 0; c < channels; c++, w += FEW_INPUTS * FEW_WEIGHTS, t.channel++, at += p.y_stride[1]) {
        MarchSums<K> sum[FEW_COLUMNS] = {};
#pragma unroll
        for (int ic = 0; ic < FEW_INPUTS; ic++) {
            A row[FEW_WEIGHTS];
            load_vectors(row, w + ic * FEW_WEIGHTS);
            march_multiply<K, 0>(window[ic], reinterpret_cast<const MarchWeights<K> &>(row), sum[0]);
            march_multiply<K, 1>(window[ic], reinterpret_cast<const MarchWeights<K> &>(row), sum[1]);
        }
        const A bias = halo_bias(p, t.channel);
#pragma unroll
        for (int column = 0; column < FEW_COLUMNS; column++) {
            MarchTarget here = t;
            here.oh += 2 * column;
            few_finish<K, Form>(p, here, at + 2 * column * p.y_stride[3], whole, bias, sum[column]);
        }
    }
}

// ---- on the host ----

// Whether the problem is of this class.
static inline bool few_takes(const convt3d__plan *plan)
{
    return plan->in_group >= 3 && plan->in_group <= FEW_INPUTS && march_axes(plan) && plan->desc.y_stride[4] == 1;
}

// The shape's use here. phases: samples; channel_step: output channels of a block, of channel_items; tile: threads
// along the height, lanes x Lot of the width.
template <class K> bool few_plan(const convt3d__plan *plan, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    s.chunk = s.chunks = s.channels = s.item_warps = s.phase_step = 1;
    s.weight_row = 3;
    s.channel_blocks = (int32_t)convt3d__min(plan->out_group, INT32_MAX / 64);
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    if (plan->y_count == 0) return true;
    for (int a = 0; a < 3; a++) {
        halo_axis(s, a, plan->axis[a], {1, 2, K::Lot, 1, 1, 0, 0, 1, 1, 0});
        s.tile[a] = s.columns[a];
        s.tiles[a] = a == 0 ? s.columns[a] : 1;
    }
    s.tile[1] = (int32_t)convt3d__ceil_div(s.columns[1], FEW_COLUMNS);
    s.tile[2] = (int32_t)(convt3d__ceil_div(s.columns[2], K::Lot) * K::Lot);
    s.phases = (int32_t)plan->desc.batch;
    s.channel_items = s.channel_blocks;
    s.channel_step = halo_even(s.channel_items, 32, 1);
    const double threads = (double)plan->desc.batch * s.columns[0] * s.tile[1] * (s.tile[2] / K::Lot);
    const double wanted = 4096.0 * (double)plan->multiprocessors / (double)plan->desc.groups;
    while (s.channel_step > 8 && threads * s.channel_items / s.channel_step < wanted)
        s.channel_step = (s.channel_step + 1) / 2;
    s.shared = s.channel_step * FEW_INPUTS * FEW_WEIGHTS * (int32_t)sizeof(typename K::Accumulator);
    if (threads * (double)plan->desc.out_channels < INT32_MAX / 2 && halo_packed_rows(plan, s) <= INT32_MAX)
        return true;
    convt3d__put(&text, "too many columns");
    return false;
}

template <class K> struct FewKernel : HaloPacker<FewKernel<K>, typename K::Element> {
    static auto *function(const convt3d__plan *plan)
    {
        return halo_with_form(plan, [](auto form) { return few_rows_kernel<K, decltype(form)::Form>; });
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96]) { return few_plan<K>(plan, s, why); }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        const HaloShape s = halo_shape(plan);
        if (!io->w_packed) {
            convt3d_status status = this->pack(plan, io->w, io->workspace, io->stream, error);
            if (status != CONVT3D_OK) return status;
        }
        HaloProblem<typename K::Element> p = halo_problem<typename K::Element>(plan, io, s, K::Lot);
        p.x_vectors = march_vectors<K>(plan, s);
        const int64_t threads = plan->desc.batch * s.columns[0] * s.tile[1] * (s.tile[2] / K::Lot);
        const int64_t blocks = convt3d__ceil_div(threads, K::Threads) * plan->desc.groups *
                               convt3d__ceil_div(s.channel_items, s.channel_step);
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks), dim3(K::Threads), (size_t)s.shared,
                               io->stream, p);
    }
};

}

#endif
