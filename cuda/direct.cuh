// cuda_direct: plain multiply-adds from a register tile. What f64 runs on, and f32 and the 16-bit types where channels
// are few: 4 -> 32, 16 -> 8, groups of 8.
//
// Classes   The first that fits: at most 4 input channels a group, kernel 3, stride 2: in 16-bit types on mma.sync
//           (direct_matrix.cuh), in f32 from registers (direct_few.cuh). What is below serves all else.
// Idea      A block stages x with its halo and its weights in shared memory (halo.cuh). A thread owns 4 or 8 columns, a
//           warp apart so that each load of x is 32 neighbours, times 4 or 8 output channels, times the phases of the
//           width where the stride is 2 or 4: those are neighbours in y and leave in one store. A tap costs one load of
//           x for each column, a broadcast load of the channels' weights, and columns x channels multiply-adds.
// Requires  indices of 32 bits, strides to 4096, a tile with its halo and weights within shared memory; sm_80.
// Tile      f32 accumulators: 256 threads x (4 columns x 8 channels, or 8 x 4); f64: 128 threads of the same.
// List      instances of their own: 64 sums and what a list wants are more than 128 registers.
// Measured  one H200: autoenc_4_32 in f32 NDHWC 0.434 ms, 0.59 of the floor; groups of 8 (kb_l1_73) 0.67 ms, 22
//           TFLOP/s, 0.41; f64 48 -> 48, k3 s1 (kb_l1_61) 17 ms, 15 TFLOP/s.
#pragma once

#include "halo.cuh"
#include "direct_few.cuh"
#include "direct_matrix.cuh"

CONVT3D__DECLARE_KERNEL(direct)
CONVT3D__DECLARE_PACK(direct)

#if CONVT3D__PART(6)

namespace convt3d_cuda {

// One instance: element type, output channels, columns, fused phases of the width; the taps along the width where they
// are unrolled (dilation 1; 0: any number, any dilation), and then the phase of a column's first output.
template <class T, int Channels_, int Columns_, int Fused_, int Taps_, int Rotation_> struct DirectConfig {
    typedef T Element;
    typedef typename Number<T>::Accumulator Accumulator;
    static constexpr int Channels = Channels_, Columns = Columns_, Fused = Fused_, KernelW = Taps_;
    static constexpr int Rotation = Rotation_;
    static constexpr int Shifts = (Taps_ + Fused_ - 1) / Fused_ + (Taps_ % Fused_ == 0 && Rotation_ > 0);
    static constexpr int Warps = sizeof(Accumulator) == 8 ? 4 : 8, Threads = 32 * Warps, Blocks = 2;
};

// Shared memory at a byte offset. Offsets are kept instead of pointers: a thread's column and a tap's row are then one
// addition apart.
template <class V> __device__ __forceinline__ V direct_load(int32_t offset)
{
    return *(const V *)(halo_shared + offset);
}

template <class A, int N> struct alignas(16) DirectWeights { A v[N]; };

// The products of one row of x with one row of taps, unrolled. Phase r reads x[q + carry - t] with tap r + t*Fused,
// where carry = r < Rotation: few different columns, each loaded once.
template <class K>
__device__ __forceinline__ void direct_row_unrolled(int32_t x, int32_t w, const int32_t (&slot)[K::Columns],
                                                    typename K::Accumulator (&sum)[K::Columns][K::Fused][K::Channels])
{
    typedef typename K::Accumulator A;
    const int top = K::Rotation > 0;
    A value[K::Shifts][K::Columns];
#pragma unroll
    for (int u = 0; u < K::Columns; u++)
#pragma unroll
        for (int i = 0; i < K::Shifts; i++) value[i][u] = direct_load<A>(slot[u] + x + (top - i) * (int)sizeof(A));
#pragma unroll
    for (int k = 0; k < K::KernelW; k++) {
        const int r = k % K::Fused, shift = top - (r < K::Rotation) + k / K::Fused;
        DirectWeights<A, K::Channels> weight = direct_load<DirectWeights<A, K::Channels>>(w + k * (int)sizeof(weight));
#pragma unroll
        for (int u = 0; u < K::Columns; u++)
#pragma unroll
            for (int c = 0; c < K::Channels; c++) sum[u][r][c] += value[shift][u] * weight.v[c];
    }
}

// The same for any taps: natural phase r has `phase[r]`, steps in bytes.
template <class K>
__device__ __forceinline__ void direct_row(int32_t x, int32_t w, const HaloPhase (&phase)[K::Fused], int32_t x_step,
                                           int32_t w_step, const int32_t (&slot)[K::Columns],
                                           typename K::Accumulator (&sum)[K::Columns][K::Fused][K::Channels])
{
    typedef typename K::Accumulator A;
#pragma unroll
    for (int r = 0; r < K::Fused; r++) {
        int32_t x_tap = x + phase[r].offset * (int)sizeof(A), w_tap = w + phase[r].k * K::Channels * (int)sizeof(A);
#pragma unroll 1
        for (int32_t t = 0; t < phase[r].count; t++, x_tap -= x_step, w_tap += w_step) {
            DirectWeights<A, K::Channels> weight = direct_load<DirectWeights<A, K::Channels>>(w_tap);
            A value[K::Columns];
#pragma unroll
            for (int u = 0; u < K::Columns; u++) value[u] = direct_load<A>(slot[u] + x_tap);
#pragma unroll
            for (int u = 0; u < K::Columns; u++)
#pragma unroll
                for (int c = 0; c < K::Channels; c++) sum[u][r][c] += value[u] * weight.v[c];
        }
    }
}

// The products of a thread's outputs with the staged input channels, over ic, kd, kh, kw. x and w: byte offsets.
template <class K>
__device__ __forceinline__ void direct_multiply(const HaloProblem<typename K::Element> &p, int32_t x, int32_t w,
                                                int32_t count, int32_t phase, const int32_t (&slot)[K::Columns],
                                                typename K::Accumulator (&sum)[K::Columns][K::Fused][K::Channels])
{
    constexpr int size = sizeof(typename K::Accumulator);
    const HaloShape &s = p.s;
    int32_t phases_w = K::Fused > 1 ? 1 : p.axis[2].stride, dh = phase / phases_w;
    HaloPhase d = halo_phase(s, p.axis[0], 0, dh / p.axis[1].stride);
    HaloPhase h = halo_phase(s, p.axis[1], 1, dh % p.axis[1].stride), phase_w[K::Fused];
    if (K::KernelW == 0)
#pragma unroll
        for (int r = 0; r < K::Fused; r++)      // natural phase r is that of output (r - rotation) mod stride
            phase_w[r] = halo_phase(s, p.axis[2], 2, K::Fused > 1 ? (r + K::Fused - s.rotation[2]) % K::Fused
                                                                  : phase % phases_w);
    const int32_t x_step = p.axis[2].in_step * size, w_step = p.axis[2].tap_step * K::Channels * size;
    const int32_t row = s.pitch * size, row_d = p.axis[0].in_step * s.extent[1] * row, row_h = p.axis[1].in_step * row;
    const bool compact = halo_compact(s);
    const int32_t taps = s.weight_row * size, taps_h = (compact ? 1 : p.axis[1].tap_step) * taps;
    const int32_t taps_d = compact ? h.count * taps : p.axis[0].tap_step * p.axis[1].kernel * taps;
    const int32_t taps_ic = (compact ? d.count * h.count : p.axis[0].kernel * p.axis[1].kernel) * taps;
    x += ((d.offset - s.low[0]) * s.extent[1] + h.offset - s.low[1]) * row - s.low[2] * size;
    if (!compact) w += (d.k * p.axis[1].kernel + h.k) * taps;
    for (int32_t ic = 0; ic < count; ic++, x += s.plane * size, w += taps_ic) {
        int32_t x_d = x, w_d = w;
        for (int32_t td = 0; td < d.count; td++, x_d -= row_d, w_d += taps_d) {
            int32_t x_h = x_d, w_h = w_d;
#pragma unroll 1
            for (int32_t th = 0; th < h.count; th++, x_h -= row_h, w_h += taps_h)
                if constexpr (K::KernelW > 0) direct_row_unrolled<K>(x_h, w_h, slot, sum);
                else direct_row<K>(x_h, w_h, phase_w, x_step, w_step, slot, sum);
        }
    }
}

// What the outputs of an item have in common: the first of the tile, and where it lies in y.
struct DirectItem { int32_t od, oh, ow, oc; int64_t offset; };

template <class K> __device__ __forceinline__ DirectItem direct_item(const HaloProblem<typename K::Element> &p,
                                                                     const HaloBlock &b, int32_t phase, int32_t oc)
{
    int32_t phases_w = K::Fused > 1 ? 1 : p.axis[2].stride, dh = phase / phases_w;
    DirectItem t;
    t.od = p.axis[0].stride * (b.q[0] - p.s.first[0]) + dh / p.axis[1].stride;
    t.oh = p.axis[1].stride * (b.q[1] - p.s.first[1]) + dh % p.axis[1].stride;
    t.ow = p.axis[2].stride * (b.q[2] - p.s.first[2]) + phase % phases_w;
    t.oc = oc;
    t.offset = b.n * p.y_stride[0] + ((int64_t)b.g * p.out_group + oc) * p.y_stride[1] + t.od * p.y_stride[2] +
               t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
    return t;
}

// Where one column of a thread lies in y, from the item's first output; how many of its fused outputs exist.
struct DirectTarget { int32_t od, oh, ow, outputs, offset; };

template <class K> __device__ __forceinline__ DirectTarget direct_target(const HaloProblem<typename K::Element> &p,
                                                                         const DirectItem &item, int32_t slot)
{
    HaloColumn q = halo_column(p, slot);
    int32_t d = q.d * p.axis[0].stride, h = q.h * p.axis[1].stride, w = q.w * p.axis[2].stride;
    DirectTarget t = {item.od + d, item.oh + h, item.ow + w, 0, 0};
    t.offset = d * (int32_t)p.y_stride[2] + h * (int32_t)p.y_stride[3] + w * (int32_t)p.y_stride[4];
    if (q.d < p.s.tile[0] && t.od < p.axis[0].out && t.oh < p.axis[1].out && t.ow < p.axis[2].out)
        t.outputs = K::Fused > 1 ? min(K::Fused, p.axis[2].out - t.ow) : 1;
    return t;
}

// value[r] is phase r's; moves the phase of the column's first output to the front.
template <class A, int Fused> __device__ __forceinline__ void rotate_phases(A (&value)[Fused], int32_t rotation)
{
#pragma unroll
    for (int step = 1; step < Fused; step *= 2) {
        A moved[Fused];
#pragma unroll
        for (int r = 0; r < Fused; r++) moved[r] = rotation & step ? value[(r + step) % Fused] : value[r];
#pragma unroll
        for (int r = 0; r < Fused; r++) value[r] = moved[r];
    }
}

// The outputs of one column as vectors along c, one output after the other.
template <class Out, class K>
__device__ __forceinline__ void direct_store_channels(const HaloProblem<typename K::Element> &p, int32_t outputs,
                                                      Out *y, const Out (&value)[K::Channels][K::Fused])
{
    constexpr int inner = K::Channels * (int)sizeof(Out) >= 16 ? 16 / (int)sizeof(Out) : K::Channels;
#pragma unroll
    for (int r = 0; r < K::Fused; r++, y += p.y_stride[4])
#pragma unroll
        for (int c = 0; c < K::Channels; c += inner) {
            Out part[inner];
#pragma unroll
            for (int i = 0; i < inner; i++) part[i] = value[c + i][r];
            if (r < outputs) store_vector(y + c, part);
        }
}

// The outputs of one column channel by channel: Mode 2 as vectors along w, 1 side by side, 0 with any stride.
template <class Out, class K, int Mode>
__device__ __forceinline__ void direct_store_rows(const HaloProblem<typename K::Element> &p, int32_t outputs,
                                                  int32_t channels, Out *y,
                                                  const Out (&value)[K::Channels][K::Fused])
{
    [[maybe_unused]] const int64_t step = Mode > 0 ? 1 : p.y_stride[4];
#pragma unroll
    for (int c = 0; c < K::Channels; c++, y += p.y_stride[1]) {
        if constexpr (Mode == 2) {
            if (c < channels) store_vector(y, value[c]);
        } else {
#pragma unroll
            for (int r = 0; r < K::Fused; r++)
                if (r < outputs && c < channels) y[r * step] = value[c][r];
        }
    }
}

template <class K> using DirectSums = typename K::Accumulator[K::Columns][K::Fused][K::Channels];

// The bias on all outputs of a thread, which then are in the order of y.
template <class K>
__device__ __forceinline__ void direct_add_bias(const HaloProblem<typename K::Element> &p, int64_t channel,
                                                int32_t channels, DirectSums<K> &sum)
{
#pragma unroll
    for (int c = 0; c < K::Channels; c++) {
        typename K::Accumulator bias = c < channels ? halo_bias(p, channel + c) : 0;
#pragma unroll
        for (int u = 0; u < K::Columns; u++) {
            typename K::Accumulator column[K::Fused];
#pragma unroll
            for (int r = 0; r < K::Fused; r++) column[r] = sum[u][r][c] + bias;
            rotate_phases(column, K::KernelW > 0 ? K::Rotation : p.s.rotation[2]);
#pragma unroll
            for (int r = 0; r < K::Fused; r++) sum[u][r][c] = column[r];
        }
    }
}

// What one column adds from a residual: vectors along c, along w, or one by one.
template <class K>
__device__ __forceinline__ void direct_residual(const HaloProblem<typename K::Element> &p,
                                                const Entry<typename K::Accumulator> &e, int64_t at, int32_t outputs,
                                                int32_t channels,
                                                typename K::Accumulator (&r)[K::Fused * K::Channels])
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    if (K::Fused > 1 && p.row_vectors && e.rows && outputs == K::Fused) {
#pragma unroll
        for (int c = 0; c < K::Channels; c++) {
            A row[K::Fused] = {};
            if (c < channels) residual_vectors<T>(e.residual, at + c * e.stride[1], row);
#pragma unroll
            for (int i = 0; i < K::Fused; i++) r[i * K::Channels + c] = row[i];
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < K::Fused; i++) {
        A (&all)[K::Channels] = reinterpret_cast<A (&)[K::Fused][K::Channels]>(r)[i];
        if (p.channel_vectors && e.channels) {
            if (i < outputs) residual_vectors<T>(e.residual, at + i * e.stride[4], all);
            continue;
        }
#pragma unroll
        for (int c = 0; c < K::Channels; c++) {
            T v = Number<T>::round(0);
            if (i < outputs && c < channels) v = ((const T *)e.residual)[at + c * e.stride[1] + i * e.stride[4]];
            all[c] = Number<T>::widen(v);
        }
    }
}

template <class K>
__device__ __forceinline__ void direct_apply(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                             const DirectItem &item, int32_t first_slot, int32_t slot_step,
                                             int32_t channels, DirectSums<K> &sum)
{
    typedef typename K::Accumulator A;
    enum { Size = K::Fused * K::Channels };
    const int64_t channel = (int64_t)b.g * p.out_group + item.oc;
    apply_common_first(p.list, 0, reinterpret_cast<A (&)[K::Columns][Size]>(sum),
                       [=](int i) { return channel + min(i % K::Channels, channels - 1); },
                       [&](const Entry<A> &e, int u, A (&r)[Size]) {
        DirectTarget t = direct_target<K>(p, item, first_slot + u * slot_step);
        direct_residual<K>(p, e, offset_of({b.n, channel, t.od, t.oh, t.ow, 1, 1}, e.stride), t.outputs, channels, r);
    });
}

// All outputs of a thread to y, as elements of Out.
template <class Out, class K>
__device__ __forceinline__ void direct_store(const HaloProblem<typename K::Element> &p, const DirectItem &item,
                                             int32_t first_slot, int32_t slot_step, int32_t channels,
                                             const DirectSums<K> &sum)
{
    Out *y = (Out *)p.y + item.offset;
#pragma unroll
    for (int u = 0; u < K::Columns; u++) {
        DirectTarget t = direct_target<K>(p, item, first_slot + u * slot_step);
        Out value[K::Channels][K::Fused];
        if (t.outputs == 0) continue;
#pragma unroll
        for (int c = 0; c < K::Channels; c++)
#pragma unroll
            for (int r = 0; r < K::Fused; r++) value[c][r] = Number<Out>::round(sum[u][r][c]);
        if (p.channel_vectors) direct_store_channels<Out, K>(p, t.outputs, y + t.offset, value);
        else if (p.row_vectors && t.outputs == K::Fused)
            direct_store_rows<Out, K, 2>(p, t.outputs, channels, y + t.offset, value);
        else if (p.row_neighbours) direct_store_rows<Out, K, 1>(p, t.outputs, channels, y + t.offset, value);
        else direct_store_rows<Out, K, 0>(p, t.outputs, channels, y + t.offset, value);
    }
}

// A weight is not finite: every output from global memory.
template <class K>
__device__ __noinline__ void direct_store_exact(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                const DirectItem &item, int32_t first_slot, int32_t slot_step)
{
    const HaloPacking packing = {K::Channels, p.s.channel_blocks, p.s.weight_row};
    for (int32_t u = 0; u < K::Columns; u++) {
        DirectTarget t = direct_target<K>(p, item, first_slot + u * slot_step);
        for (int32_t c = 0; c < K::Channels && item.oc + c < p.out_group; c++)
            for (int32_t r = 0; r < t.outputs; r++)
                halo_finish(p, item.offset + t.offset + c * p.y_stride[1] + r * p.y_stride[4],
                            halo_exact_sum(p, p.packed, packing, b.n, b.g, item.oc + c, t.od, t.oh, t.ow + r),
                            {b.n, (int64_t)b.g * p.out_group + item.oc + c, t.od, t.oh, t.ow + r, 1, 1});
    }
}

template <class K, bool Lists>
__global__ void __launch_bounds__(K::Threads, K::Blocks)
direct_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Accumulator A;
    constexpr int size = sizeof(A);
    const HaloShape &s = p.s;
    const HaloBlock b = halo_block(p, blockIdx.x);
    const int32_t warp = threadIdx.x / 32, item_warp = warp % s.item_warps, position_warp = warp / s.item_warps;
    const int32_t lane_block = threadIdx.x % s.lane_blocks, slot_step = 32 / s.lane_blocks;
    const int32_t first_slot = position_warp * K::Columns * slot_step + threadIdx.x % 32 / s.lane_blocks;
    const int32_t items = s.phase_step * s.channel_step;
    int32_t slot[K::Columns];
#pragma unroll
    for (int u = 0; u < K::Columns; u++) {
        HaloColumn q = halo_column(p, first_slot + u * slot_step);
        slot[u] = q.d < s.tile[0] ? ((q.d * s.extent[1] + q.h) * s.pitch + q.w) * size : 0;
    }
    bool found = halo_stage<K>(p, b, 0, (A *)halo_shared), exact = false;
    for (int32_t first = 0; first < items; first += s.item_warps) {
        int32_t item = first + item_warp, phase = item / s.channel_step;
        int32_t local = (item - phase * s.channel_step) * s.lane_blocks + lane_block;
        int32_t oc = (b.channel_block + local) * K::Channels;
        phase += b.phase;
        bool active = item < items && oc < p.out_group && phase < s.phases;
        A sum[K::Columns][K::Fused][K::Channels] = {};
        for (int32_t chunk = 0; chunk < s.chunks; chunk++) {
            int32_t stage = (chunk & 1) * s.stage * size;
            if (first == 0) {                   // streaming has one round of items
                stage_wait();
                exact = __syncthreads_or(found) || exact;
                if (chunk + 1 < s.chunks)
                    found = halo_stage<K>(p, b, chunk + 1, (A *)halo_shared + (~chunk & 1) * s.stage);
            }
            if (active)
                direct_multiply<K>(p, stage + s.channel_step * s.lane_blocks * s.weight_block * size,
                                   stage + local * s.weight_block * size, min(s.chunk, p.in_group - chunk * s.chunk),
                                   phase, slot, sum);
        }
        if (!active) continue;
        DirectItem place = direct_item<K>(p, b, phase, oc);
        if (exact) { direct_store_exact<K>(p, b, place, first_slot, slot_step);  continue; }
        const int32_t channels = min(K::Channels, p.out_group - oc);
        direct_add_bias<K>(p, (int64_t)b.g * p.out_group + oc, channels, sum);
        if constexpr (Lists)
            if (p.list.count > 0) direct_apply<K>(p, b, place, first_slot, slot_step, channels, sum);
        if (Lists && sizeof(typename K::Element) == 2 && p.wide)
            direct_store<A, K>(p, place, first_slot, slot_step, channels, sum);
        else direct_store<typename K::Element, K>(p, place, first_slot, slot_step, channels, sum);
    }
}

template <class K> struct DirectKernel : HaloPacker<DirectKernel<K>, typename K::Element> {
    static auto *function(const convt3d__plan *plan)
    {
        return halo_lists(plan) ? direct_kernel<K, true> : direct_kernel<K, false>;
    }
    static HaloKernel describe(const convt3d__plan *plan)
    {
        return {K::Channels, K::Fused, 1, K::Columns, K::Warps, 0, (int32_t)plan->axis[2].kernel * K::Channels, 1, 0,
                110 * 1024};
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96])
    {
        return halo_plan(plan, describe(plan), s, why);
    }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        return halo_run<typename K::Element>(plan, io, function(plan), K::Threads, 1, error);
    }
};

// Calls act with the plan's instance: the one place where they are listed.
template <class T, int Channels, int Columns, class Act>
auto direct_instance(const convt3d__plan *plan, Act act)
{
    const convt3d__axis &w = plan->axis[2];
    bool three = w.kernel == 3 && w.dilation == 1, odd = w.padding & 1;
    if (w.stride == 2 && three && odd) return act(DirectKernel<DirectConfig<T, Channels, Columns, 2, 3, 1>>());
    if (w.stride == 2 && three) return act(DirectKernel<DirectConfig<T, Channels, Columns, 2, 3, 0>>());
    if (w.stride == 2) return act(DirectKernel<DirectConfig<T, Channels, Columns, 2, 0, 0>>());
    if (w.stride == 4) return act(DirectKernel<DirectConfig<T, Channels, Columns / 2, 4, 0, 0>>());
    if (w.stride == 1 && three) return act(DirectKernel<DirectConfig<T, Channels, Columns, 1, 3, 0>>());
    return act(DirectKernel<DirectConfig<T, Channels, Columns, 1, 0, 0>>());
}

template <class T, class Act> auto direct_channels(const convt3d__plan *plan, Act act)
{
    if constexpr (sizeof(T) == 2)
        if (matrix_takes(plan)) return act(MatrixKernel<MatrixConfig<T>>());
    if constexpr (sizeof(T) == 4)
        if (few_takes(plan)) return act(FewKernel<MarchRows<T, 1>>());
    return plan->out_group <= 4 ? direct_instance<T, 4, 8>(plan, act) : direct_instance<T, 8, 4>(plan, act);
}

template <class Act> auto direct_dispatch(const convt3d__plan *plan, Act act)
{
    switch (plan->desc.dtype) {
    case CONVT3D_F32: return direct_channels<float>(plan, act);
    case CONVT3D_F64: return direct_channels<double>(plan, act);
    case CONVT3D_F16: return direct_channels<__half>(plan, act);
    default:          return direct_channels<__nv_bfloat16>(plan, act);
    }
}

}

extern "C" int32_t convt3d__direct_refuses(convt3d__plan *plan, char why[96])
{
    convt3d_cuda::HaloShape s;
    if (plan->cuda_arch < 80) return convt3d__refuse(why, "needs sm_80");
    if (!convt3d_cuda::direct_dispatch(plan, [&](auto instance) { return instance.plan(plan, s, why); })) return 1;
    convt3d_cuda::keep_shape(plan, s);
    why[0] = 0;
    return 0;
}

// Seconds: products of all columns and channel blocks at the rates seen on an H200, against bytes.
extern "C" double convt3d__direct_cost(const convt3d__plan *plan)
{
    const convt3d_cuda::HaloShape s = convt3d_cuda::halo_shape(plan);
    double products = (double)plan->desc.batch * (double)plan->desc.groups * s.channel_blocks * s.channels *
                      (double)plan->in_group * (double)plan->taps;
    for (int a = 0; a < 3; a++) products *= (double)s.columns[a];
    double bytes = (double)(plan->x_count + plan->y_count) * (double)convt3d__element_size(plan->desc.dtype);
    const int64_t element = convt3d__element_size(plan->desc.dtype);
    if (element == 2 && convt3d_cuda::matrix_takes(plan)) return 6e-6 + bytes / 2.8e12;
    if (element == 4 && convt3d_cuda::few_takes(plan)) return 6e-6 + bytes / 3.5e12;
    double rate = plan->desc.dtype == CONVT3D_F64 ? 6.5e12 : s.chunks == 1 ? 9e12 : 6e12, seconds = products / rate;
    bytes /= 2.5e12 * (0.5 + 0.5 * (double)plan->out_group / ((double)s.channel_blocks * s.channels));
    return 6e-6 + (seconds > bytes ? seconds : bytes);
}

extern "C" int64_t convt3d__direct_packed(const convt3d__plan *plan)
{
    return convt3d_cuda::halo_packed(plan, convt3d_cuda::halo_shape(plan));
}

extern "C" int64_t convt3d__direct_workspace(const convt3d__plan *plan) { return convt3d__direct_packed(plan); }

extern "C" convt3d_status convt3d__direct_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                               convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::direct_dispatch(plan, [=](auto kernel) {
        return kernel.pack(plan, w, packed, stream, error);
    });
}

extern "C" convt3d_status convt3d__direct_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::direct_dispatch(plan, [=](auto kernel) { return kernel.ready(plan, error); });
}

extern "C" convt3d_status convt3d__direct_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::direct_dispatch(plan, [=](auto kernel) { return kernel.run(plan, io, error); });
}

#endif
