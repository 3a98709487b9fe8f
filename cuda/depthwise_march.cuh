// Depth-wise problems with kernel 3 and stride 2 on all axes: part of cuda_depthwise, from registers alone.
//
// Idea      Of such a problem an output meets 3.4 taps: bytes are what it takes, and everything but loading each x and
//           storing each y once is to be saved. Whatever the padding, the 8 outputs of a column meet 2 x 2 x 2 elements
//           of x, and each tap once. So a thread keeps its channel's 27 weights and the elements around its column in
//           registers and marches: each step loads what comes next and stores all outputs of the column it leaves. Rows
//           lie side by side (NCDHW): a thread has columns for 16 bytes of a row of y and marches along the height; the
//           lanes of a warp follow the width. Channels lie side by side (NDHWC): a thread has two channels and marches
//           along the width; lanes follow the channels.
// Requires  kernel 3, stride 2, dilation 1, odd paddings; one channel a group.
// Tile      NCDHW: 128 threads x (16 bytes of y) x 2 x 2 outputs a step, at most 16 steps. NDHWC: 256 threads x 2
//           channels (f64: 1) x 2 x 2 x 2 outputs, at most 32 steps; the block's weights pass through shared memory.
// Measured  one H200, depthwise_64_k3, of the floor: f32 0.319 ms, 0.89 (NDHWC 0.328, 0.87), f64 0.630 (0.666), f16
//           0.169, 0.85 (0.185, 0.77). ReLU costs 0.3% in f32 and 1.2% in f16, SiLU 1.6% and 22%: in f16 its two
//           functions of the special unit take as long as the stores. What is loaded is wanted two steps later; with
//           one step f16 took 0.201 ms (NDHWC 0.279). 16-bit values stay in pairs until then: one by one they were
//           spilled.
#pragma once

#include "halo.cuh"

#if CONVT3D__PART(5) || CONVT3D__PART(6)       // direct_few.cuh shares columns, list and store

namespace convt3d_cuda {

// One instance. Lot: columns, or channels, of a thread, whose neighbours along the width are Step further in its
// window; Weights: those that a tap has for them.
template <class T, int Rotation_, int Lot_, int Step_, int Weights_, int Threads_> struct MarchConfig {
    typedef T Element;
    typedef typename Number<T>::Accumulator Accumulator;
    static constexpr int Rotation = Rotation_, Low = Rotation_ - 1;     // the window begins at x[q + Low]
    static constexpr int Lot = Lot_, Step = Step_, Weights = Weights_, Threads = Threads_, Taps = 27;
    typedef typename HaloRaw<(int)sizeof(T) * Lot>::Type Raw;
};
template <class T, int Rotation> using MarchRows = MarchConfig<T, Rotation, 8 / (int)sizeof(T), 1, 1, 128>;
template <class T, int Rotation, int Packed>
using MarchChannels = MarchConfig<T, Rotation, Packed, Packed, Packed, 256>;

template <class K> using MarchWindow = typename K::Accumulator[2][2][K::Lot + K::Step];
template <class K> using MarchWeights = typename K::Accumulator[K::Taps][K::Weights];
template <class K> using MarchSums = typename K::Accumulator[4][2 * K::Lot];        // [2*ed + eh][value]

// The tap with which output e of a column meets element i of its window, or -1.
template <class K> __device__ __forceinline__ constexpr int march_tap(int e, int i)
{
    return e - 2 * (K::Low + i) + K::Rotation >= 0 && e - 2 * (K::Low + i) + K::Rotation < 3
               ? e - 2 * (K::Low + i) + K::Rotation : -1;
}

// Value `at` of a thread's row of outputs: rows of y follow the columns, channels their position.
template <class K> __device__ __forceinline__ constexpr int march_value(int lot, int ew)
{
    return K::Step == 1 && K::Weights == 1 ? 2 * lot + ew : ew * K::Lot + lot;
}

// Adds the products of one input channel to all outputs of a thread's column, each over kd, kh, kw in rising order.
// Rows: those of the height that x holds; the window begins at row First.
template <class K, int First = 0, int Rows = 2>
__device__ __forceinline__ void march_multiply(const typename K::Accumulator (&x)[2][Rows][K::Lot + K::Step],
                                               const MarchWeights<K> &w, MarchSums<K> &sum)
{
#pragma unroll
    for (int e = 0; e < 8; e++)
#pragma unroll
        for (int lot = 0; lot < K::Lot; lot++) {
            typename K::Accumulator &total = sum[e / 2][march_value<K>(lot, e % 2)];
#pragma unroll
            for (int i = 7; i >= 0; i--) {
                const int kd = march_tap<K>(e / 4, i / 4), kh = march_tap<K>(e / 2 % 2, i / 2 % 2);
                const int kw = march_tap<K>(e % 2, i % 2);
                if (kd >= 0 && kh >= 0 && kw >= 0)
                    total += x[i / 4][First + i / 2 % 2][lot + i % 2 * K::Step] *
                             w[9 * kd + 3 * kh + kw][lot % K::Weights];
            }
        }
}

// A thread's outputs of one step: the first, and how many exist along the width.
struct MarchTarget {
    int32_t channel, od, oh, ow, outputs;
    int64_t n;
};

// A weight is not finite: every output from global memory.
template <class K>
__device__ __noinline__ void march_exact(const HaloProblem<typename K::Element> &p, MarchTarget t)
{
    const int32_t channels = K::Weights, width = K::Weights > 1 || K::Step > 1 || K::Lot == 1 ? 2 : 2 * K::Lot;
    for (int32_t i = 0; i < 4 * channels * width; i++) {
        const int32_t c = t.channel + i % channels, r = i / channels % 4, w = i / channels / 4;
        const int32_t od = t.od + r / 2, oh = t.oh + r % 2, ow = t.ow + w;
        if (od >= p.axis[0].out || oh >= p.axis[1].out || w >= t.outputs) continue;
        halo_finish(p, t.n * p.y_stride[0] + c * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                           ow * p.y_stride[4],
                    halo_exact_sum(p, p.w, {1, 1, 3}, t.n, c, 0, od, oh, ow), {t.n, c, od, oh, ow, 1, 1});
    }
}

template <class K>
__device__ __forceinline__ bool march_all_finite(const MarchWeights<K> &w)
{
    typename K::Accumulator sum = 0;
#pragma unroll
    for (int i = 0; i < K::Taps * K::Weights; i++) sum += fabs(w[i / K::Weights][i % K::Weights]);
    return !not_finite(sum);            // may overflow: then the way around is taken for nothing
}

// ---- rows side by side ----

// What a thread reads of a row of x: its columns from iw, as one vector if `vector`, and the element beside them.
struct MarchReach { int32_t iw; bool vector, beside; };

// One row's elements as they lie in memory.
template <class K> struct MarchRow {
    typedef typename K::Element T;
    typename K::Raw raw;
    T beside;
    template <bool Whole>           // reach.vector holds
    __device__ __forceinline__ void load(const HaloProblem<T> &p, const T *row, bool here, const MarchReach &reach)
    {
        constexpr int side = K::Rotation ? K::Lot : -1;
        raw = {};
        beside = Number<T>::round(0);
        if (Whole) {
            if (here) raw = *(const typename K::Raw *)row;
            if (here && reach.beside) beside = row[side];
            return;
        }
        if (!here) return;
        if (reach.vector) raw = *(const typename K::Raw *)row;
        else
#pragma unroll
            for (int j = 0; j < K::Lot; j++)
                if ((uint32_t)(reach.iw + j) < (uint32_t)p.axis[2].in) ((T *)&raw)[j] = row[j * p.x_stride[4]];
        if (reach.beside) beside = row[side * p.x_stride[4]];
    }
    __device__ __forceinline__ void widen(typename K::Accumulator (&x)[K::Lot + 1]) const
    {
        typename K::Accumulator v[K::Lot];
        widen_raw<T>(raw, v);
        x[K::Rotation ? K::Lot : 0] = Number<T>::widen(beside);
#pragma unroll
        for (int j = 0; j < K::Lot; j++) x[K::Rotation ? j : j + 1] = v[j];
    }
};

// The list on the outputs of a step. at[r]: where row r lies in y.
template <class K>
__device__ __forceinline__ void march_apply_rows(const HaloProblem<typename K::Element> &p, const MarchTarget &t,
                                                 int64_t at, MarchSums<K> &sum)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    apply_common_first(p.list, 0, sum, [=](int) { return (int64_t)t.channel; },
                       [&](const Entry<A> &e, int r, A (&v)[2 * K::Lot]) {
        int64_t offset = e.like_y ? at : offset_of({t.n, t.channel, t.od, t.oh, t.ow, 1, 1}, e.stride);
        const bool here = t.od + r / 2 < p.axis[0].out && t.oh + r % 2 < p.axis[1].out;
        const T *from = (const T *)e.residual + offset + r / 2 * e.stride[2] + r % 2 * e.stride[3];
        if (e.rows && here && t.outputs == 2 * K::Lot && K::Lot * sizeof(T) == 8) residual_vectors<T>(from, 0, v);
        else
#pragma unroll
            for (int i = 0; i < 2 * K::Lot; i++)
                v[i] = Number<T>::widen(here && i < t.outputs ? from[i * e.stride[4]] : Number<T>::round(0));
    });
}

// All outputs of a step as elements of Out. Whole: every one exists and every row is a vector.
template <class Out, class K, bool Whole>
__device__ __forceinline__ void march_store_rows(const HaloProblem<typename K::Element> &p, const MarchTarget &t,
                                                 Out *y, const MarchSums<K> &sum)
{
#pragma unroll
    for (int r = 0; r < 4; r++) {
        Out *row = y + r / 2 * p.y_stride[2] + r % 2 * p.y_stride[3];
        if (Whole) { store_rounded(row, sum[r]);  continue; }
        if (t.od + r / 2 >= p.axis[0].out || t.oh + r % 2 >= p.axis[1].out) continue;
        if (p.row_vectors == 2 && t.outputs == 2 * K::Lot) { store_rounded(row, sum[r]);  continue; }
#pragma unroll
        for (int i = 0; i < 2 * K::Lot; i++)
            if (i < t.outputs) row[i * p.y_stride[4]] = Number<Out>::round(sum[r][i]);
    }
}

// A thread's steps along the height. row: of x, at its columns, of the window's first element; ih: its index. whole:
// whatever it reads and stores are vectors, and all of its outputs exist.
template <class K, bool Lists>
__device__ __forceinline__ void march_rows(const HaloProblem<typename K::Element> &p, MarchTarget t,
                                           const MarchReach &reach, bool whole, const typename K::Element *row,
                                           int32_t ih, const bool (&inside)[2],
                                           int32_t steps)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    const int64_t plane = p.x_stride[2], pitch = p.x_stride[3], y_pitch = 2 * p.y_stride[3];
    MarchWindow<K> x;
    MarchRow<K> begin[2], next[2][2];       // two steps ahead of their use
    auto load = [&](MarchRow<K> (&to)[2], bool wanted) {
        wanted = wanted && (uint32_t)ih < (uint32_t)p.axis[1].in;
        if (whole)
#pragma unroll
            for (int d = 0; d < 2; d++) to[d].template load<true>(p, row + d * plane, wanted && inside[d], reach);
        else
#pragma unroll
            for (int d = 0; d < 2; d++) to[d].template load<false>(p, row + d * plane, wanted && inside[d], reach);
        ih++;
        row += pitch;
    };
    load(begin, true);
    load(next[0], true);
    load(next[1], steps > 1);
    typename K::Accumulator w[K::Taps][1];
#pragma unroll
    for (int k = 0; k < K::Taps; k++) w[k][0] = Number<T>::widen(p.w[t.channel * K::Taps + k]);
    const A bias = halo_bias(p, t.channel);
    if (!march_all_finite<K>(w)) {
        for (; steps > 0; steps--, t.oh += 2) march_exact<K>(p, t);
        return;
    }
    begin[0].widen(x[0][0]);
    begin[1].widen(x[1][0]);
    int64_t at = t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] + t.oh * p.y_stride[3] +
                 t.ow * p.y_stride[4];
#pragma unroll (Lists ? 1 : 2)
    for (; steps > 0; steps--, at += y_pitch, t.oh += 2) {
#pragma unroll
        for (int d = 0; d < 2; d++) {
            next[0][d].widen(x[d][1]);
            next[0][d] = next[1][d];
        }
        load(next[1], steps > 2);
        MarchSums<K> sum = {};
        march_multiply<K>(x, w, sum);
#pragma unroll
        for (int i = 0; i < 8 * K::Lot; i++) sum[i / (2 * K::Lot)][i % (2 * K::Lot)] += bias;
        if constexpr (Lists)
            if (p.list.count > 0) march_apply_rows<K>(p, t, at, sum);
        if (whole) march_store_rows<T, K, true>(p, t, p.y + at, sum);
        else if (Lists && sizeof(T) == 2 && p.wide) march_store_rows<A, K, false>(p, t, (A *)p.y + at, sum);
        else march_store_rows<T, K, false>(p, t, p.y + at, sum);
#pragma unroll
        for (int j = 0; j < K::Lot + 1; j++) { x[0][0][j] = x[0][1][j];  x[1][0][j] = x[1][1][j]; }
    }
}

template <class K, bool Lists>
__global__ void __launch_bounds__(K::Threads, 4)
march_rows_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    uint32_t lane = blockIdx.x * K::Threads + threadIdx.x, strip = p.by_columns.split(lane);
    uint32_t d = p.by_tiles[1].split(strip), channel = p.by_tiles[0].split(d), n = p.by_groups.split(channel);
    if (n >= (uint32_t)s.phases) return;
    const int32_t h_first = strip * s.tile[1], steps = min(s.tile[1], s.columns[1] - h_first);
    const int32_t id = s.first[0] + (int32_t)d + K::Low, ih = s.first[1] + h_first + K::Low;
    const int32_t iw = s.first[2] + (int32_t)lane * K::Lot;
    const int32_t beside = iw + (K::Rotation ? K::Lot : -1);
    MarchTarget t = {(int32_t)channel, 2 * (int32_t)d, 2 * h_first, 2 * K::Lot * (int32_t)lane, 0, (int64_t)n};
    t.outputs = min(2 * K::Lot, p.axis[2].out - t.ow);
    const MarchReach reach = {iw, p.x_vectors && iw >= 0 && iw + K::Lot <= p.axis[2].in,
                              (uint32_t)beside < (uint32_t)p.axis[2].in};
    const bool inside[2] = {(uint32_t)id < (uint32_t)p.axis[0].in, (uint32_t)(id + 1) < (uint32_t)p.axis[0].in};
    const T *row = p.x + n * p.x_stride[0] + channel * p.x_stride[1] + id * p.x_stride[2] + ih * p.x_stride[3] +
                   iw * p.x_stride[4];
    const bool whole = reach.vector && p.row_vectors == 2 && !p.wide && t.outputs == 2 * K::Lot &&
                       t.od + 2 <= p.axis[0].out && t.oh + 2 * steps <= p.axis[1].out;
    march_rows<K, Lists>(p, t, reach, whole, row, ih, inside, steps);
}

// ---- channels side by side ----

// Stages the weights of the block's channels as [tap][channel]; returns whether one of this thread's is not finite.
template <class K>
__device__ __forceinline__ bool march_stage_w(const HaloProblem<typename K::Element> &p, int32_t channel,
                                              int32_t channels, typename K::Accumulator *to)
{
    constexpr int together = 4;             // loads in flight
    bool found = false;
    const int32_t all = min(channels, p.groups - channel) * K::Taps;
    const typename K::Element *from = p.w + (int64_t)channel * K::Taps;
    for (int32_t first = threadIdx.x; first < all; first += together * K::Threads) {
        typename K::Element v[together] = {};
#pragma unroll
        for (int j = 0; j < together; j++) if (first + j * K::Threads < all) v[j] = from[first + j * K::Threads];
#pragma unroll
        for (int j = 0; j < together; j++) {
            const int32_t i = first + j * K::Threads;
            const typename K::Accumulator wide = Number<typename K::Element>::widen(v[j]);
            found = found || not_finite(wide);
            if (i < all) to[i % K::Taps * channels + i / K::Taps] = wide;
        }
    }
    return found;
}

// The list on the outputs of a step.
template <class K>
__device__ __forceinline__ void march_apply_channels(const HaloProblem<typename K::Element> &p, const MarchTarget &t,
                                                     int64_t at, MarchSums<K> &sum)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    apply_common_first(p.list, 0, sum, [=](int i) { return (int64_t)t.channel + i % K::Lot; },
                       [&](const Entry<A> &e, int r, A (&v)[2 * K::Lot]) {
        int64_t offset = e.like_y ? at : offset_of({t.n, t.channel, t.od, t.oh, t.ow, 1, 1}, e.stride);
        const bool here = t.od + r / 2 < p.axis[0].out && t.oh + r % 2 < p.axis[1].out;
        const T *from = (const T *)e.residual + offset + r / 2 * e.stride[2] + r % 2 * e.stride[3];
#pragma unroll
        for (int ew = 0; ew < 2; ew++, from += e.stride[4]) {
            typename K::Raw raw = {};
            if (here && ew < t.outputs) {
                if (e.channels) raw = *(const typename K::Raw *)from;
                else
#pragma unroll
                    for (int c = 0; c < K::Lot; c++) ((T *)&raw)[c] = from[c * e.stride[1]];
            }
            widen_raw<T>(raw, reinterpret_cast<A (&)[2][K::Lot]>(v)[ew]);
        }
    });
}

// Whole: every output of the step exists.
template <class Out, class K, bool Whole>
__device__ __forceinline__ void march_store_channels(const HaloProblem<typename K::Element> &p, const MarchTarget &t,
                                                     Out *y, const MarchSums<K> &sum)
{
#pragma unroll
    for (int r = 0; r < 4; r++) {
        Out *row = y + r / 2 * p.y_stride[2] + r % 2 * p.y_stride[3];
        const bool here = t.od + r / 2 < p.axis[0].out && t.oh + r % 2 < p.axis[1].out;
#pragma unroll
        for (int ew = 0; ew < 2; ew++, row += p.y_stride[4]) {
            typedef typename K::Accumulator A;
            if (Whole || (here && ew < t.outputs))
                store_rounded(row, reinterpret_cast<const A (&)[2][K::Lot]>(sum[r])[ew]);
        }
    }
}

// The thread's channels at one position of the four rows that it reads.
template <class K> struct MarchColumn {
    typename K::Raw raw[4];
    __device__ __forceinline__ void load(const typename K::Element *x, const bool (&inside)[4], bool here,
                                         int64_t step_d, int64_t step_h)
    {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const typename K::Element *at = x + r / 2 * step_d + r % 2 * step_h;
            raw[r] = {};
            if (here && inside[r]) raw[r] = *(const typename K::Raw *)at;
        }
    }
    __device__ __forceinline__ void widen(MarchWindow<K> &x, int i) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            typename K::Accumulator v[K::Lot];
            widen_raw<typename K::Element>(raw[r], v);
#pragma unroll
            for (int j = 0; j < K::Lot; j++) x[r / 2][r % 2][i * K::Lot + j] = v[j];
        }
    }
};

// A thread's steps along the width. begin: the window's first elements; next: those after it; from, iw: what comes
// then. whole: all outputs exist.
template <class K, bool Lists>
__device__ __forceinline__ void march_channels(const HaloProblem<typename K::Element> &p, MarchTarget t,
                                               const MarchWeights<K> &w, const typename K::Accumulator (&bias)[K::Lot],
                                               const MarchColumn<K> &begin, MarchColumn<K> (&next)[2],
                                               const typename K::Element *from, int32_t iw, const bool (&inside)[4],
                                               bool whole, int32_t steps)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    const int64_t plane = p.x_stride[2], row = p.x_stride[3], step = p.x_stride[4], y_step = 2 * p.y_stride[4];
    MarchWindow<K> x;
    begin.widen(x, 0);
    int64_t at = t.n * p.y_stride[0] + t.channel + t.od * p.y_stride[2] + t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
#pragma unroll (Lists ? 1 : 2)
    for (; steps > 0; steps--, iw++, from += step, at += y_step, t.ow += 2) {
        next[0].widen(x, 1);
        next[0] = next[1];
        next[1].load(from, inside, steps > 2 && (uint32_t)iw < (uint32_t)p.axis[2].in, plane, row);
        MarchSums<K> sum = {};
        march_multiply<K>(x, w, sum);
#pragma unroll
        for (int i = 0; i < 8 * K::Lot; i++) sum[i / (2 * K::Lot)][i % (2 * K::Lot)] += bias[i % K::Lot];
        t.outputs = min(2, p.axis[2].out - t.ow);
        if constexpr (Lists)
            if (p.list.count > 0) march_apply_channels<K>(p, t, at, sum);
        if (whole) march_store_channels<T, K, true>(p, t, p.y + at, sum);
        else if (Lists && sizeof(T) == 2 && p.wide) march_store_channels<A, K, false>(p, t, (A *)p.y + at, sum);
        else march_store_channels<T, K, false>(p, t, p.y + at, sum);
#pragma unroll
        for (int j = 0; j < 4 * K::Lot; j++)
            x[j / K::Lot / 2][j / K::Lot % 2][j % K::Lot] = x[j / K::Lot / 2][j / K::Lot % 2][K::Lot + j % K::Lot];
    }
}

template <class K, bool Lists>
__global__ void __launch_bounds__(K::Threads, 2)
march_channels_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    const uint32_t lanes = s.lane_blocks, place = threadIdx.x / lanes;
    uint32_t range = blockIdx.x, block = p.by_ranges[1].split(range);
    int32_t channel = (int32_t)(range * lanes) * K::Lot;
    const int32_t first_channel = channel, lane = threadIdx.x - place * lanes;
    channel += lane * K::Lot;
    uint32_t h = block * (K::Threads / lanes) + place;
    uint32_t strip = p.by_rows.split(h), d = p.by_tiles[2].split(strip), n = p.by_tiles[0].split(d);
    const bool any = place < K::Threads / lanes && channel < p.groups && n < (uint32_t)s.phases;
    const int32_t w_first = strip * s.tile[2], steps = min(s.tile[2], s.columns[2] - w_first);
    const int32_t id = s.first[0] + (int32_t)d + K::Low, ih = s.first[1] + (int32_t)h + K::Low;
    const int32_t iw = s.first[2] + w_first + K::Low;
    MarchTarget t = {channel, 2 * (int32_t)d, 2 * (int32_t)h, 2 * w_first, 2, (int64_t)n};
    bool inside[4];
#pragma unroll
    for (int r = 0; r < 4; r++)
        inside[r] = any && (uint32_t)(id + r / 2) < (uint32_t)p.axis[0].in &&
                    (uint32_t)(ih + r % 2) < (uint32_t)p.axis[1].in;
    const T *from = p.x + n * p.x_stride[0] + channel + id * p.x_stride[2] + ih * p.x_stride[3] + iw * p.x_stride[4];
    MarchColumn<K> begin, next[2];
    begin.load(from, inside, (uint32_t)iw < (uint32_t)p.axis[2].in, p.x_stride[2], p.x_stride[3]);
#pragma unroll
    for (int i = 0; i < 2; i++)
        next[i].load(from + (i + 1) * p.x_stride[4], inside,
                     i < steps && (uint32_t)(iw + i + 1) < (uint32_t)p.axis[2].in, p.x_stride[2], p.x_stride[3]);
    bool exact = march_stage_w<K>(p, first_channel, lanes * K::Lot, (A *)halo_shared);
    exact = __syncthreads_or(exact);
    if (!any) return;
    if (exact) {
        for (int32_t step = 0; step < steps; step++, t.ow += 2) {
            t.outputs = min(2, p.axis[2].out - t.ow);
            march_exact<K>(p, t);
        }
        return;
    }
    A w[K::Taps][K::Weights], bias[K::Lot];
#pragma unroll
    for (int i = 0; i < K::Taps * K::Lot; i++)
        w[i / K::Lot][i % K::Lot] = ((const A *)halo_shared)[(i / K::Lot * lanes + lane) * K::Lot + i % K::Lot];
#pragma unroll
    for (int c = 0; c < K::Lot; c++) bias[c] = halo_bias(p, channel + c);
    const bool whole = !p.wide && t.od + 2 <= p.axis[0].out && t.oh + 2 <= p.axis[1].out &&
                       t.ow + 2 * steps <= p.axis[2].out;
    march_channels<K, Lists>(p, t, w, bias, begin, next, from + 3 * p.x_stride[4], iw + 3, inside, whole, steps);
}

// ---- on the host ----

// Whether kernel, stride and padding are those of the class.
static inline bool march_axes(const convt3d__plan *plan)
{
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel != 3 || axis.stride != 2 || axis.dilation != 1) return false;
        if ((axis.padding & 1) == 0) return false;
    }
    return true;
}

static inline bool march_takes(const convt3d__plan *plan)
{
    return plan->in_group == 1 && plan->out_group == 1 && march_axes(plan);
}

// Whether a thread's columns of a row of x may be read as one vector.
template <class K> bool march_vectors(const convt3d__plan *plan, const HaloShape &s)
{
    bool vectors = plan->desc.x_stride[4] == 1 && s.first[2] % K::Lot == 0 &&
                   plan->desc.alignment >= (int64_t)sizeof(typename K::Raw);
    for (int i = 0; i < 4; i++) vectors = vectors && plan->desc.x_stride[i] % K::Lot == 0;
    return vectors;
}

// The steps of a thread: at most `most`, fewer where that leaves multiprocessors without work. others: threads but for
// the marching axis.
static inline int32_t march_steps(const convt3d__plan *plan, int64_t columns, int64_t most, double others)
{
    int64_t steps = convt3d__min(most, convt3d__max(columns, 1));
    while (steps > 4 && others * (double)columns / (double)steps < 2048.0 * (double)plan->multiprocessors)
        steps = (steps + 1) / 2;
    return (int32_t)steps;
}

// Columns, and the shape's use here: lane_blocks: lanes that are channels; phases: samples; tile: steps of the marching
// axis, lanes x Lot of the width of rows.
template <class K> bool march_plan(const convt3d__plan *plan, bool channels, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    s.chunk = 1;
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    if (plan->y_count == 0) return true;
    const HaloKernel kernel = {1, 2, K::Lot, 1, 1, 0, 0, 1, 1, 0};
    for (int a = 0; a < 3; a++) {
        halo_axis(s, a, plan->axis[a], kernel);
        s.tile[a] = s.tiles[a] = 1;
    }
    const double samples = (double)plan->desc.batch;
    int64_t lanes = convt3d__ceil_div(plan->desc.groups, K::Lot);
    s.phases = (int32_t)plan->desc.batch;
    s.phase_step = s.channel_step = s.channels = s.item_warps = 1;
    s.channel_items = 1;
    double threads;
    s.tiles[0] = s.columns[0];
    if (channels) {
        s.lane_blocks = (int32_t)convt3d__min(lanes, 64);
        s.channel_items = (int32_t)convt3d__ceil_div(lanes, s.lane_blocks);
        s.shared = K::Taps * s.lane_blocks * K::Lot * (int32_t)sizeof(typename K::Accumulator);
        s.tile[1] = s.columns[1];
        threads = samples * s.columns[0] * s.columns[1] * (double)lanes;
        s.tile[2] = march_steps(plan, s.columns[2], 32, threads);
        s.tiles[2] = (int32_t)convt3d__ceil_div(s.columns[2], s.tile[2]);
        threads *= 8.0 * s.tiles[2];
    } else {
        s.lane_blocks = 1;
        s.tile[2] = (int32_t)(convt3d__ceil_div(s.columns[2], K::Lot) * K::Lot);
        threads = samples * s.columns[0] * s.tile[2] / K::Lot * (double)plan->desc.groups;
        s.tile[1] = march_steps(plan, s.columns[1], 16, threads);
        s.tiles[1] = (int32_t)convt3d__ceil_div(s.columns[1], s.tile[1]);
        threads *= s.tiles[1];
    }
    if (threads < (double)INT32_MAX / 2) return true;
    convt3d__put(&text, "too many columns");
    return false;
}

template <class K, bool Channels> struct MarchKernel : HaloPlain<MarchKernel<K, Channels>> {
    static auto *function(const convt3d__plan *plan)
    {
        if constexpr (Channels)
            return halo_lists(plan) ? march_channels_kernel<K, true> : march_channels_kernel<K, false>;
        else return halo_lists(plan) ? march_rows_kernel<K, true> : march_rows_kernel<K, false>;
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96])
    {
        return march_plan<K>(plan, Channels, s, why);
    }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        const HaloShape s = halo_shape(plan);
        int64_t blocks;
        HaloProblem<typename K::Element> p = halo_problem<typename K::Element>(plan, io, s, K::Lot);
        p.x_vectors = march_vectors<K>(plan, s);
        if (Channels)
            blocks = s.channel_items * convt3d__ceil_div(plan->desc.batch * s.columns[0] * s.columns[1] * s.tiles[2],
                                                         K::Threads / s.lane_blocks);
        else
            blocks = convt3d__ceil_div(plan->desc.batch * plan->desc.groups * s.columns[0] * s.tiles[1] *
                                       (s.tile[2] / K::Lot), K::Threads);
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks), dim3(K::Threads), (size_t)s.shared,
                               io->stream, p);
    }
};

}

#endif
