// Depth-wise problems with long kernels and stride 2 on all axes, 7x7x7 and 5x5x5 above all: part of cuda_depthwise.
//
// Idea      An output meets 43 taps of 7x7x7: multiply-adds are what it takes, and loads from shared memory per
//           multiply-add are to be saved. A block stages a tile of x with its halo. A thread owns 4 columns along the
//           width, with both phases, times 4 rows along the height of one phase of depth and height: it keeps the
//           weights of one kd of that phase in registers, loads each row of x that its 4 rows meet once, and uses it
//           for all taps along height and width: 448 multiply-adds from 7 rows. It does two phases one after the other,
//           those with most and fewest taps together, so that all warps have as much to do. Rows side by side (NCDHW):
//           lanes are columns and rows of one channel, whose weights a warp reads by broadcast. Channels side by side
//           (NDHWC): lanes are 32 channels, and so are the rows of the staged tile.
// Requires  f32; stride 2, dilation 1; of the width kernel 7 with odd or 5 with even padding; kernel of the height at
//           most one off that, of the depth at most 8; one channel a group.
// Tile      256 threads, two phases of each. NCDHW: 128 slots of 4 x 4 columns along width, height, then depth. NDHWC:
//           32 channels x 8 x 8 columns, up to 4 such tiles one after the other, for which weights are staged once.
// Measured  one H200, mednext_64_k7 in f32: 0.060 ms, 22 TFLOP/s, 0.30 of the floor, NDHWC 0.071; with ReLU 2%, SiLU
//           10% longer. 8 rows a thread, with half the loads a product, took as long (0.064 to 0.066).
#pragma once

#include "halo.cuh"

#if CONVT3D__PART(5)

namespace convt3d_cuda {

// One instance. Step: from one column of shared memory to the next.
template <class T, int Rotation_, int Taps_, bool Channels_> struct LongConfig {
    typedef T Element;
    typedef typename Number<T>::Accumulator Accumulator;
    static constexpr int Rotation = Rotation_, Taps = Taps_, Window = (Taps_ + 1) / 2;
    static constexpr bool Channels = Channels_;
    static constexpr int Step = Channels_ ? 32 : 1, WeightRow = Channels_ ? Taps_ * 32 : 8;
    static constexpr int Lot = 4, Rows = 4, Outputs = 2 * Lot, Loaded = 8;
    static constexpr int Threads = 256;
    static_assert(Lot + Window <= Loaded && Taps <= 8, "a window of 8 elements");
};

template <class K> using LongSums = typename K::Accumulator[K::Rows][K::Outputs];

// The elements of x around a thread's columns, or one row of weights, from shared memory.
template <class K, int N, int Used>
__device__ __forceinline__ void long_load(typename K::Accumulator (&to)[N], const typename K::Accumulator *from)
{
    if constexpr (K::Channels) {
#pragma unroll
        for (int i = 0; i < Used; i++) to[i] = from[i * K::Step];
    } else load_vectors(to, from);
}

// The products of one kd with `count` taps along the height, Window or one less. x: row of the thread's first column
// that the first tap of its first row meets; w: the first of these taps.
template <class K>
__device__ __forceinline__ void long_rows(const typename K::Accumulator *x, int32_t pitch,
                                          const typename K::Accumulator *w, int32_t count, LongSums<K> &sum)
{
    typedef typename K::Accumulator A;
    constexpr int most = K::Window;
    A weight[most][8];
#pragma unroll
    for (int t = 0; t < most; t++)
        if (t < most - 1 || count == most) long_load<K, 8, K::Taps>(weight[t], w + 2 * t * K::WeightRow);
    x += (K::Rows - 1) * pitch;
#pragma unroll
    for (int i = K::Rows - 1; i > -most; i--, x -= pitch) {
        A window[K::Loaded];
        if (i == 1 - most && count < most) break;
        long_load<K, K::Loaded, K::Lot + K::Window>(window, x);
#pragma unroll
        for (int t = 0; t < most; t++) {
            if (i + t < 0 || i + t >= K::Rows) continue;
            if (t == most - 1 && count < most) continue;
#pragma unroll
            for (int k = 0; k < K::Taps; k++) {
                const int r = k % 2, e = (r - K::Rotation + 2) % 2, shift = K::Window - 1 - k / 2 + (r < K::Rotation);
#pragma unroll
                for (int j = 0; j < K::Lot; j++) sum[i + t][2 * j + e] += window[j + shift] * weight[t][k];
            }
        }
    }
}

// All products of a thread with one phase of depth and height. x: its first column in the staged tile.
template <class K>
__device__ __forceinline__ void long_multiply(const HaloProblem<typename K::Element> &p,
                                              const typename K::Accumulator *x, const typename K::Accumulator *w,
                                              int32_t ed, int32_t eh, LongSums<K> &sum)
{
    const HaloShape &s = p.s;
    const HaloPhase d = halo_phase(s, p.axis[0], 0, ed), h = halo_phase(s, p.axis[1], 1, eh);
    x += (d.offset - s.low[0]) * s.plane + (h.offset - s.low[1]) * s.pitch;
    w += (d.k * p.axis[1].kernel + h.k) * K::WeightRow;
    const int32_t taps_d = 2 * p.axis[1].kernel * K::WeightRow;
#pragma unroll 1
    for (int32_t td = 0; td < d.count; td++, x -= s.plane, w += taps_d) long_rows<K>(x, s.pitch, w, h.count, sum);
}

// A thread's outputs of one phase: the first; `outputs` along the width exist, other rows are 2 apart.
struct LongTarget {
    int32_t channel, od, oh, ow, outputs;
    int64_t n;
};

// A weight is not finite: every output from global memory.
template <class K>
__device__ __noinline__ void long_exact(const HaloProblem<typename K::Element> &p, const LongTarget &t)
{
    for (int32_t i = 0; i < K::Rows * t.outputs; i++) {
        const int32_t oh = t.oh + i / t.outputs * 2, ow = t.ow + i % t.outputs;
        if (oh >= p.axis[1].out) return;
        halo_finish(p, t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] + oh * p.y_stride[3] +
                           ow * p.y_stride[4],
                    halo_exact_sum(p, p.w, {1, 1, K::Taps}, t.n, t.channel, 0, t.od, oh, ow),
                    {t.n, t.channel, t.od, oh, ow, 1, 1});
    }
}

// The list on all of them.
template <class K>
__device__ __forceinline__ void long_apply(const HaloProblem<typename K::Element> &p, const LongTarget &t,
                                           LongSums<K> &sum)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    apply_common_first(p.list, 0, sum, [=](int) { return (int64_t)t.channel; },
                       [&](const Entry<A> &e, int row, A (&v)[K::Outputs]) {
        const int32_t oh = t.oh + 2 * row;
        const T *from = (const T *)e.residual + offset_of({t.n, t.channel, t.od, oh, t.ow, 1, 1}, e.stride);
        const bool here = oh < p.axis[1].out;
        if (!K::Channels && e.rows && here && t.outputs == K::Outputs) residual_vectors<T>(from, 0, v);
        else
#pragma unroll
            for (int i = 0; i < K::Outputs; i++)
                v[i] = Number<T>::widen(here && i < t.outputs ? from[i * e.stride[4]] : Number<T>::round(0));
    });
}

// All of them to y, as elements of Out.
template <class Out, class K>
__device__ __forceinline__ void long_store(const HaloProblem<typename K::Element> &p, const LongTarget &t,
                                           const LongSums<K> &sum)
{
    Out *y = (Out *)p.y + t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] +
             t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
#pragma unroll
    for (int row = 0; row < K::Rows; row++, y += 2 * p.y_stride[3]) {
        if (t.oh + 2 * row >= p.axis[1].out) return;
        if (!K::Channels && p.row_vectors == 2 && t.outputs == K::Outputs) { store_rounded(y, sum[row]);  continue; }
        Out *at = y;
#pragma unroll
        for (int i = 0; i < K::Outputs; i++, at += p.y_stride[4])
            if (i < t.outputs) *at = Number<Out>::round(sum[row][i]);
    }
}

// Bias, list and store.
template <class K, ListForm Form>
__device__ __forceinline__ void long_finish(const HaloProblem<typename K::Element> &p, const LongTarget &t,
                                            LongSums<K> &sum)
{
    typedef typename K::Accumulator A;
    A (&all)[K::Rows * K::Outputs] = reinterpret_cast<A (&)[K::Rows * K::Outputs]>(sum);
    const A bias = halo_bias(p, t.channel);
#pragma unroll
    for (int i = 0; i < K::Rows * K::Outputs; i++) all[i] += bias;
    if constexpr (Form == LIGHT_LIST) halo_light(p.list, t.channel, all);
    else if (Form == WHOLE_LIST && p.list.count > 0) long_apply<K>(p, t, sum);
    if (Form == WHOLE_LIST && sizeof(typename K::Element) == 2 && p.wide) long_store<A, K>(p, t, sum);
    else long_store<typename K::Element, K>(p, t, sum);
}

// Stages the weights of a channel as rows of 8, or of 32 channels side by side; returns whether one of those that this
// thread looked after is not finite.
template <class K>
__device__ __forceinline__ bool long_stage_w(const HaloProblem<typename K::Element> &p, int32_t channel,
                                             typename K::Accumulator *to)
{
    typedef typename K::Accumulator A;
    constexpr int together = 8;             // loads in flight
    bool found = false;
    const typename K::Element *from = p.w + (int64_t)channel * p.taps;
    const int32_t all = K::Channels ? min(32, p.groups - channel) * p.taps : p.taps;
    int32_t c = 0, tap = threadIdx.x;
    for (int32_t first = threadIdx.x; first < all; first += together * K::Threads) {
        typename K::Element v[together] = {};
#pragma unroll
        for (int i = 0; i < together; i++) if (first + i * K::Threads < all) v[i] = from[first + i * K::Threads];
#pragma unroll
        for (int i = 0; i < together; i++, tap += K::Threads) {
            while (tap >= p.taps) { tap -= p.taps;  c++; }
            const A wide = Number<typename K::Element>::widen(v[i]);
            found = found || not_finite(wide);
            if (first + i * K::Threads < all)
                to[K::Channels ? tap * 32 + c : tap / K::Taps * K::WeightRow + tap % K::Taps] = wide;
        }
    }
    return found;
}

// ---- rows side by side ----

// Stages a channel's tile: a thread has every so many rows of one column of the tile.
template <class K>
__device__ __forceinline__ void long_stage_rows(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                typename K::Accumulator *to)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    constexpr int together = 12;            // loads in flight
    uint32_t column = threadIdx.x, h = p.by_width.split(column);
    const int32_t step = K::Threads / s.extent[2], rows = s.extent[0] * s.extent[1];
    const int32_t id = b.q[0] + s.low[0], ih = b.q[1] + s.low[1], iw = b.q[2] + s.low[2] + (int32_t)column;
    if ((int32_t)h >= step) return;
    const T *from = p.x + b.n * p.x_stride[0] + b.g * p.x_stride[1] + id * p.x_stride[2] + ih * p.x_stride[3] +
                    iw * p.x_stride[4];
    const bool inside = (uint32_t)iw < (uint32_t)p.axis[2].in;
    const int32_t step_d = (int32_t)p.x_stride[2], step_h = (int32_t)p.x_stride[3];
    int32_t d = 0, at = h * step_h;
    to += column + h * s.pitch;
    for (int32_t first = h; first < rows; first += together * step) {
        T v[together];
#pragma unroll
        for (int i = 0; i < together; i++, h += step, at += step * step_h) {
            while ((int32_t)h >= s.extent[1]) { h -= s.extent[1];  d++;  at += step_d - s.extent[1] * step_h; }
            v[i] = Number<T>::round(0);
            if (inside && first + i * step < rows && (uint32_t)(id + d) < (uint32_t)p.axis[0].in &&
                (uint32_t)(ih + (int32_t)h) < (uint32_t)p.axis[1].in)
                v[i] = from[at];
        }
#pragma unroll
        for (int i = 0; i < together; i++, to += step * s.pitch)
            if (first + i * step < rows) *to = Number<T>::widen(v[i]);
    }
}

template <class K, ListForm Form>
__global__ void __launch_bounds__(K::Threads, 2)
long_rows_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    const HaloBlock b = halo_block(p, blockIdx.x);
    A *w = (A *)halo_shared, *x = w + s.weight_block;
    bool exact = long_stage_w<K>(p, b.g, w);
    long_stage_rows<K>(p, b, x);
    exact = __syncthreads_or(exact);
    const int32_t warp = threadIdx.x / 32, pair = warp & 1;
    HaloColumn q = halo_column(p, warp / 2 * 32 + threadIdx.x % 32);
    q.w *= K::Lot;
    q.h *= K::Rows;
    const int32_t qd = b.q[0] - s.first[0] + q.d, qh = b.q[1] - s.first[1] + q.h, qw = b.q[2] - s.first[2] + q.w;
    if (q.d >= s.tile[0] || qd >= s.columns[0] || qh >= s.columns[1] || qw >= s.columns[2]) return;
    x += q.d * s.plane + q.h * s.pitch + q.w;
#pragma unroll 1
    for (int ed = 0; ed < 2; ed++) {
        const int eh = ed ^ pair;
        LongTarget t = {b.g, 2 * qd + ed, 2 * qh + eh, 2 * qw, 0, b.n};
        t.outputs = min((int32_t)K::Outputs, p.axis[2].out - t.ow);
        if (t.od >= p.axis[0].out) return;
        if (exact) { long_exact<K>(p, t);  continue; }
        LongSums<K> sum = {};
        long_multiply<K>(p, x, w, ed, eh, sum);
        long_finish<K, Form>(p, t, sum);
    }
}

// ---- channels side by side ----

enum { LONG_EDGE = 8 };         // columns of a tile along width and height

// Stages the tile of 32 channels: a thread goes along the depth with 4 channels of one position.
template <class K>
__device__ __forceinline__ void long_stage_channels(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                    int32_t channel, typename K::Accumulator *to)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    struct alignas(4 * sizeof(T)) Pack { T v[4]; };
    struct alignas(4 * sizeof(A)) Wide { A v[4]; };
    constexpr int together = 5, places = K::Threads / 8;        // loads in flight; positions side by side
    const HaloShape &s = p.s;
    const int32_t quad = threadIdx.x % 8 * 4, positions = s.extent[1] * s.extent[2];
    const T *x = p.x + b.n * p.x_stride[0] + channel + quad + (b.q[0] + s.low[0]) * p.x_stride[2] +
                 (b.q[1] + s.low[1]) * p.x_stride[3] + (b.q[2] + s.low[2]) * p.x_stride[4];
    const int32_t step_d = (int32_t)p.x_stride[2], step_h = (int32_t)p.x_stride[3], step_w = (int32_t)p.x_stride[4];
    to += quad;
    for (int32_t d = 0; d < s.extent[0]; d++, to += s.plane) {
        const int32_t id = b.q[0] + s.low[0] + d;
        for (int32_t first = threadIdx.x / 8; first < positions; first += together * places) {
            Pack pack[together];
#pragma unroll
            for (int i = 0; i < together; i++) {
                const int32_t at = first + i * places;
                uint32_t w = at, h = p.by_width.split(w);
                const int32_t ih = b.q[1] + s.low[1] + (int32_t)h, iw = b.q[2] + s.low[2] + (int32_t)w;
                const bool here = at < positions && (uint32_t)id < (uint32_t)p.axis[0].in &&
                                  (uint32_t)ih < (uint32_t)p.axis[1].in && (uint32_t)iw < (uint32_t)p.axis[2].in;
                const T *from = x + (d * step_d + (int32_t)h * step_h + (int32_t)w * step_w);
                pack[i] = {};
                if (here && p.x_vectors) pack[i] = *(const Pack *)from;
                if (here && !p.x_vectors)
#pragma unroll
                    for (int c = 0; c < 4; c++) if (channel + quad + c < p.groups) pack[i].v[c] = from[c];
            }
#pragma unroll
            for (int i = 0; i < together; i++) {
                Wide wide;
#pragma unroll
                for (int c = 0; c < 4; c++) wide.v[c] = Number<T>::widen(pack[i].v[c]);
                if (first + i * places < positions) *(Wide *)(to + (first + i * places) * 32) = wide;
            }
        }
    }
}

template <class K, ListForm Form>
__global__ void __launch_bounds__(K::Threads, 2)
long_channels_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    uint32_t range = blockIdx.x, block = p.by_ranges[1].split(range);
    const int32_t first = (int32_t)range * 32, warp = threadIdx.x / 32, pair = warp & 1;
    const int32_t w_column = warp / 2 % 2 * K::Lot, h_column = warp / 4 * K::Rows;
    A *w = (A *)halo_shared, *x = w + s.weight_block;
    bool exact = long_stage_w<K>(p, first, w);
    for (int32_t round = 0; round < s.rounds; round++) {
        HaloBlock b;
        uint32_t next = block * s.rounds + round;
        for (int a = 2; a >= 0; a--) {
            uint32_t index = next;
            next = p.by_tiles[a].split(index);
            b.q[a] = s.first[a] + (int32_t)index * s.tile[a];
        }
        b.n = next;
        const bool any = next < (uint32_t)s.phases;
        if (any) long_stage_channels<K>(p, b, first, x);
        exact = __syncthreads_or(exact);
        const int32_t channel = first + threadIdx.x % 32, qd = b.q[0] - s.first[0];
        const int32_t qh = b.q[1] - s.first[1] + h_column, qw = b.q[2] - s.first[2] + w_column;
        const A *window = x + h_column * s.pitch + w_column * 32 + threadIdx.x % 32;
#pragma unroll 1
        for (int ed = 0; ed < 2 && any && channel < p.groups && qh < s.columns[1] && qw < s.columns[2]; ed++) {
            const int eh = ed ^ pair;
            LongTarget t = {channel, 2 * qd + ed, 2 * qh + eh, 2 * qw, 0, b.n};
            t.outputs = min((int32_t)K::Outputs, p.axis[2].out - t.ow);
            if (t.od >= p.axis[0].out) break;
            if (exact) { long_exact<K>(p, t);  continue; }
            LongSums<K> sum = {};
            long_multiply<K>(p, window, w + threadIdx.x % 32, ed, eh, sum);
            long_finish<K, Form>(p, t, sum);
        }
        __syncthreads();
    }
}

// ---- on the host ----

// Whether the problem is of this class.
static inline bool long_takes(const convt3d__plan *plan)
{
    if (plan->in_group != 1 || plan->out_group != 1 || plan->desc.dtype != CONVT3D_F32) return false;
    for (int a = 0; a < 3; a++)
        if (plan->axis[a].stride != 2 || plan->axis[a].dilation != 1 || plan->axis[a].kernel > 8) return false;
    const convt3d__axis &w = plan->axis[2];
    const int64_t beyond = plan->axis[1].kernel - w.kernel;
    return (w.kernel == 5 || w.kernel == 7) && beyond >= -1 && beyond <= 1 && (w.padding & 1) == w.kernel / 2 % 2;
}

// Columns of a block on the three axes.
template <class K> void long_tile(HaloShape &s)
{
    if (K::Channels) {
        s.tile[0] = 1;
        s.tile[1] = s.tile[2] = LONG_EDGE;
        return;
    }
    int32_t slots = K::Threads / 2, lots = (int32_t)convt3d__ceil_div(s.columns[2], K::Lot);
    lots = halo_even(lots, 16, 1);
    int32_t rows = halo_even((int32_t)convt3d__ceil_div(s.columns[1], K::Rows), convt3d__min(slots / lots, 8), 1);
    s.tile[2] = lots * K::Lot;
    s.tile[1] = rows * K::Rows;
    s.tile[0] = halo_even(s.columns[0], convt3d__min(slots / (lots * rows), 8), 1);
}

template <class K> bool long_plan(const convt3d__plan *plan, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    s.chunk = 1;
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    if (plan->y_count == 0) return true;
    const HaloKernel kernel = {1, 2, K::Lot, 1, 1, K::Window, 0, 1, 1, 0};
    double blocks = (double)plan->desc.batch;
    for (int a = 0; a < 3; a++) halo_axis(s, a, plan->axis[a], kernel);
    long_tile<K>(s);
    for (int a = 0; a < 3; a++) {
        s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        s.extent[a] += s.tile[a];
        blocks *= s.tiles[a];
    }
    s.extent[2] = s.tile[2] + (K::Channels ? K::Window : 4);
    s.phases = (int32_t)plan->desc.batch;
    s.phase_step = s.phases > 0 ? s.phases : 1;
    s.channel_step = s.channels = s.item_warps = s.lane_blocks = s.rounds = 1;
    s.channel_items = K::Channels ? (int32_t)convt3d__ceil_div(plan->desc.groups, 32) : 1;
    if (K::Channels)
        while (s.rounds < 4 && blocks * s.channel_items > 2.0 * s.rounds * plan->multiprocessors) s.rounds *= 2;
    s.pitch = s.extent[2] * K::Step;
    s.plane = s.extent[1] * s.pitch;
    s.weight_block = (int32_t)(plan->taps / K::Taps) * K::WeightRow;
    s.shared = (s.weight_block + s.extent[0] * s.plane) * (int32_t)sizeof(typename K::Accumulator);
    blocks *= K::Channels ? s.channel_items : (double)plan->desc.groups;
    if (!halo_spans_32_bits(plan, s)) convt3d__put(&text, "a tile spans more than 2^31 elements of x or y");
    else if (s.shared > halo_most_shared(plan)) convt3d__put(&text, "a tile with its halo exceeds shared memory");
    else if (blocks > INT32_MAX / 2) convt3d__put(&text, "too many tiles for one grid");
    else return true;
    return false;
}

template <class K> struct LongKernel : HaloPlain<LongKernel<K>> {
    template <ListForm Form> static auto *instance()
    {
        if constexpr (K::Channels) return long_channels_kernel<K, Form>;
        else return long_rows_kernel<K, Form>;
    }
    static auto *function(const convt3d__plan *plan)
    {
        return halo_with_form(plan, [](auto form) { return instance<decltype(form)::Form>(); });
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96]) { return long_plan<K>(plan, s, why); }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        const HaloShape s = halo_shape(plan);
        HaloProblem<typename K::Element> p = halo_problem<typename K::Element>(plan, io, s, K::Lot);
        int64_t blocks = plan->desc.batch;
        for (int a = 0; a < 3; a++) blocks *= s.tiles[a];
        blocks = K::Channels ? convt3d__ceil_div(blocks, s.rounds) * s.channel_items : blocks * plan->desc.groups;
        p.by_rows = halo_divisor(s.tile[1] / K::Rows);
        p.x_vectors = plan->desc.groups % 4 == 0 && plan->desc.alignment >= 4 * (int64_t)sizeof(typename K::Element);
        for (int i = 0; i < 5; i++) if (i != 1 && plan->desc.x_stride[i] % 4 != 0) p.x_vectors = 0;
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks), dim3(K::Threads), (size_t)s.shared,
                               io->stream, p);
    }
};

}

#endif
