// cuda_depthwise: one output channel at a time, from a window of x in registers. Depth-wise problems, and few output
// channels: 64 -> 1.
//
// Classes   The first that fits: kernel 5 or 7 on all axes, stride 2, 16-bit types: bands of weights on mma.sync
//           (depthwise_matrix.cuh). About such kernels in f32: depthwise_long.cuh. Kernel 3, stride 2:
//           depthwise_march.cuh. What is below serves all else.
// Idea      With one output channel there is nothing to multiply a value of x with but the taps. So a thread owns
//           `Columns` neighbouring columns of one channel, loads the window of x that they need from one row of the
//           staged tile (halo.cuh) as 16-byte vectors, and uses it for all taps along the width and both phases; where
//           depth and height have stride 2 too, for all taps of all 8 phases that read this row: the thread then owns 8
//           outputs of each column. Its outputs along the width are neighbours in y: whole 16-byte stores.
//           Where channels lie side by side (NDHWC) lanes are channels instead, windows come straight from global
//           memory, a warp reading and writing 32 neighbouring channels, and only depth-wise problems are taken so.
// Requires  what cuda_direct does; width: stride 1 or 2, dilation 1, kernel at most 8; at most 4 output channels a
//           group.
// Tile      128 threads x (4 or 8 columns) x 1, 2 or 8 phases.
// List      instances of their own, so that plain ones do without its registers: the list on all outputs of a thread.
// Measured  one H200: gan_64_1_32 0.53 ms in f32, 16 TFLOP/s, 0.13 of the floor; the other classes in their files.
#pragma once

#include "halo.cuh"
#include "depthwise_march.cuh"
#include "depthwise_long.cuh"
#include "depthwise_matrix.cuh"

CONVT3D__DECLARE_KERNEL(depthwise)
CONVT3D__DECLARE_PACK(depthwise)

#if CONVT3D__PART(5)

namespace convt3d_cuda {

// One instance. Window: most taps of one phase; Rotation: phase of a column's first output; Planes: outputs of a column
// of depth, and of height, that a thread owns; Taps: of the width, 0: any number that fits.
template <class T, int Columns_, int Fused_, int Window_, int Rotation_, int Planes_, int Taps_>
struct DepthwiseConfig {
    typedef T Element;
    typedef typename Number<T>::Accumulator Accumulator;
    static constexpr int Columns = Columns_, Fused = Fused_, Window = Window_, Rotation = Rotation_;
    static constexpr int Outputs = Columns * Fused, Most = Window * Fused, Taps = Taps_;
    static constexpr int Vector = 16 / (int)sizeof(Accumulator);
    static constexpr int Loaded = (Columns + Window + Vector - 1) / Vector * Vector;
    static constexpr int WeightRow = (Most + Vector - 1) / Vector * Vector;
    static constexpr int Planes = Planes_, Warps = 4, Threads = 32 * Warps;
    static constexpr int Blocks = 96 / (Planes * Planes * Outputs * (int)sizeof(Accumulator) / 8 + 16) + 1;
};

template <class K> using DepthwiseSums = typename K::Accumulator[K::Planes][K::Planes][K::Outputs];

// The products of one row of x with one row of taps.
template <class K>
__device__ __forceinline__ void depthwise_row(const typename K::Accumulator (&window)[K::Loaded],
                                              const typename K::Accumulator *w, int32_t kernel_w,
                                              typename K::Accumulator (&sum)[K::Outputs])
{
    typename K::Accumulator weight[K::WeightRow];
    load_vectors(weight, w);
#pragma unroll
    for (int k = 0; k < (K::Taps ? K::Taps : K::Most); k++) {
        if (K::Taps == 0 && k >= kernel_w) break;
        const int r = k % K::Fused, t = k / K::Fused, e = (r - K::Rotation + K::Fused) % K::Fused;
        const int shift = K::Window - 1 - t + (r < K::Rotation ? 1 : 0);
#pragma unroll
        for (int j = 0; j < K::Columns; j++) sum[j * K::Fused + e] += window[j + shift] * weight[k];
    }
}

// The products of all 8 phases: each row of x near the columns is loaded once, from the highest index down, so that
// every phase meets its taps in rising order. Output e of column q reads x[q + i] with tap e + rotation - 2i.
template <class K>
__device__ __forceinline__ void depthwise_multiply_planes(const HaloProblem<typename K::Element> &p,
                                                          const typename K::Accumulator *x,
                                                          const typename K::Accumulator *w, int32_t count,
                                                          DepthwiseSums<K> &sum)
{
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    const int32_t kernel_d = p.axis[0].kernel, kernel_h = p.axis[1].kernel, kernel_w = p.axis[2].kernel;
    const int32_t rows_d = s.extent[0] - s.tile[0], rows_h = s.extent[1] - s.tile[1], taps = s.weight_row;
    const int32_t kd_first = s.rotation[0] - K::Planes * (rows_d + s.low[0]);
    const int32_t kh_first = s.rotation[1] - K::Planes * (rows_h + s.low[1]);
    x += (rows_d * s.extent[1] + rows_h) * s.pitch;
    w += (kd_first * kernel_h + kh_first) * taps;
    for (int32_t ic = 0; ic < count; ic++, x += s.plane, w += kernel_d * kernel_h * taps) {
        const A *x_d = x, *w_d = w;
        for (int32_t d = 0, kd = kd_first; d <= rows_d; d++, kd += K::Planes, x_d -= s.extent[1] * s.pitch,
             w_d += K::Planes * kernel_h * taps) {
            const A *x_h = x_d, *w_h = w_d;
            for (int32_t h = 0, kh = kh_first; h <= rows_h; h++, kh += K::Planes, x_h -= s.pitch,
                 w_h += K::Planes * taps) {
                A window[K::Loaded];
                load_vectors(window, x_h);
#pragma unroll
                for (int ed = 0; ed < K::Planes; ed++)
#pragma unroll
                    for (int eh = 0; eh < K::Planes; eh++)
                        if ((uint32_t)(kd + ed) < (uint32_t)kernel_d && (uint32_t)(kh + eh) < (uint32_t)kernel_h)
                            depthwise_row<K>(window, w_h + (ed * kernel_h + eh) * taps, kernel_w, sum[ed][eh]);
            }
        }
    }
}

// The products with the staged channels, over ic, kd, kh, kw. x points at the thread's window of tile row (0, 0).
template <class K>
__device__ __forceinline__ void depthwise_multiply(const HaloProblem<typename K::Element> &p,
                                                   const typename K::Accumulator *x, const typename K::Accumulator *w,
                                                   int32_t count, int32_t phase,
                                                   typename K::Accumulator (&sum)[K::Outputs])
{
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    HaloPhase d = halo_phase(s, p.axis[0], 0, phase / p.axis[1].stride);
    HaloPhase h = halo_phase(s, p.axis[1], 1, phase % p.axis[1].stride);
    x += ((d.offset - s.low[0]) * s.extent[1] + h.offset - s.low[1]) * s.pitch;
    const bool compact = halo_compact(s);
    const int32_t taps_h = (compact ? 1 : p.axis[1].tap_step) * s.weight_row;
    const int32_t taps_d = (compact ? h.count : p.axis[0].tap_step * p.axis[1].kernel) * s.weight_row;
    const int32_t taps_ic = (compact ? d.count * h.count : p.axis[0].kernel * p.axis[1].kernel) * s.weight_row;
    if (!compact) w += (d.k * p.axis[1].kernel + h.k) * s.weight_row;
    for (int32_t ic = 0; ic < count; ic++, x += s.plane, w += taps_ic)
        for (int32_t td = 0; td < d.count; td++)
            for (int32_t th = 0; th < h.count; th++) {
                A window[K::Loaded];
                load_vectors(window, x - (td * p.axis[0].in_step * s.extent[1] + th * p.axis[1].in_step) * s.pitch);
                depthwise_row<K>(window, w + td * taps_d + th * taps_h, p.axis[2].kernel, sum);
            }
}

// Where the outputs of a thread begin, and how many exist.
struct DepthwiseTarget { int32_t od, oh, ow, outputs; int64_t offset; };

template <class K>
__device__ __forceinline__ DepthwiseTarget depthwise_target(const HaloProblem<typename K::Element> &p,
                                                            const HaloBlock &b, int32_t ed, int32_t eh, int32_t oc,
                                                            HaloColumn q)
{
    DepthwiseTarget t;
    t.od = p.axis[0].stride * (b.q[0] + q.d - p.s.first[0]) + ed;
    t.oh = p.axis[1].stride * (b.q[1] + q.h - p.s.first[1]) + eh;
    t.ow = K::Fused * (b.q[2] + q.w - p.s.first[2]);
    bool inside = q.d < p.s.tile[0] && t.od < p.axis[0].out && t.oh < p.axis[1].out && t.ow < p.axis[2].out;
    t.outputs = inside ? min(min(K::Columns, p.s.tile[2] - q.w) * K::Fused, p.axis[2].out - t.ow) : 0;
    t.offset = b.n * p.y_stride[0] + ((int64_t)b.g * p.out_group + oc) * p.y_stride[1] + t.od * p.y_stride[2] +
               t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
    return t;
}

template <class K>
using DepthwiseGroups = typename K::Accumulator[K::Planes * K::Planes][K::Outputs];

// The list after its head on all outputs of a thread; those of the next plane are one output further.
template <class K>
__device__ __forceinline__ void depthwise_apply(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                const DepthwiseTarget &t, int64_t channel, DepthwiseGroups<K> &all)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    apply_common_first(p.list, p.list.head.entries, all, [=](int) { return channel; },
                       [&](const Entry<A> &e, int g, A (&r)[K::Outputs]) {
        const int ed = g / K::Planes, eh = g % K::Planes;
        const bool here = t.od + ed < p.axis[0].out && t.oh + eh < p.axis[1].out;
        const int64_t at = offset_of({b.n, channel, t.od + ed, t.oh + eh, t.ow, 1, 1}, e.stride);
        const bool vectors = e.rows && p.row_vectors == 2;
        if (vectors && here && t.outputs == K::Outputs) residual_vectors<T>(e.residual, at, r);
        else
#pragma unroll
            for (int i = 0; i < K::Outputs; i++) {
                T v = Number<T>::round(0);
                if (here && i < t.outputs) v = ((const T *)e.residual)[at + i * e.stride[4]];
                r[i] = Number<T>::widen(v);
            }
    });
}

// The bias and the list.
template <class K, bool Lists>
__device__ __forceinline__ void depthwise_finish(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                 const DepthwiseTarget &t, int32_t oc, DepthwiseSums<K> &sum)
{
    typedef typename K::Accumulator A;
    DepthwiseGroups<K> &all = reinterpret_cast<DepthwiseGroups<K> &>(sum);
    const int64_t channel = (int64_t)b.g * p.out_group + oc;
    const A bias = halo_bias(p, channel);
    [[maybe_unused]] const A factor = Lists ? p.list.head.factor(channel) : A(1);
    [[maybe_unused]] const A term = Lists ? p.list.head.term(channel) : A(0);
#pragma unroll
    for (int i = 0; i < K::Planes * K::Planes * K::Outputs; i++) all[i / K::Outputs][i % K::Outputs] += bias;
    if constexpr (Lists) {
        if (p.list.head.entries > 0)
#pragma unroll
            for (int i = 0; i < K::Planes * K::Planes * K::Outputs; i++)
                all[i / K::Outputs][i % K::Outputs] = fma(all[i / K::Outputs][i % K::Outputs], factor, term);
        if (p.list.count > p.list.head.entries) depthwise_apply<K>(p, b, t, channel, all);
    }
}

// Asks for what depthwise_apply() will read of a residual.
template <class K>
__device__ __forceinline__ void depthwise_ask_early(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                    const DepthwiseTarget &t, int32_t oc)
{
    if (p.list.residual == p.list.count || t.outputs == 0) return;
    const Entry<typename K::Accumulator> &e = p.list.entry[p.list.residual];
    for (int32_t ed = 0; ed < K::Planes && t.od + ed < p.axis[0].out; ed++)
        for (int32_t eh = 0; eh < K::Planes && t.oh + eh < p.axis[1].out; eh++)
            ask_early((const typename K::Element *)e.residual +
                      offset_of({b.n, (int64_t)b.g * p.out_group + oc, t.od + ed, t.oh + eh, t.ow, 1, 1}, e.stride));
}

// A row of a thread's outputs as elements of Out.
template <class Out, class K>
__device__ __forceinline__ void depthwise_store_row(const HaloProblem<typename K::Element> &p, int64_t offset,
                                                    int32_t outputs, const typename K::Accumulator (&sum)[K::Outputs])
{
    Out value[K::Outputs], *y = (Out *)p.y + offset;
#pragma unroll
    for (int i = 0; i < K::Outputs; i++) value[i] = Number<Out>::round(sum[i]);
    if (p.row_vectors == 2 && outputs == K::Outputs) { store_vector(y, value);  return; }
#pragma unroll
    for (int i = 0; i < K::Outputs; i++) if (i < outputs) y[p.row_neighbours ? i : i * p.y_stride[4]] = value[i];
}

template <class Out, class K>
__device__ __forceinline__ void depthwise_store(const HaloProblem<typename K::Element> &p, const DepthwiseTarget &t,
                                                const DepthwiseSums<K> &sum)
{
#pragma unroll
    for (int ed = 0; ed < K::Planes; ed++)
#pragma unroll
        for (int eh = 0; eh < K::Planes; eh++)
            if (t.outputs > 0 && t.od + ed < p.axis[0].out && t.oh + eh < p.axis[1].out)
                depthwise_store_row<Out, K>(p, t.offset + ed * p.y_stride[2] + eh * p.y_stride[3], t.outputs,
                                            sum[ed][eh]);
}

// A weight is not finite: every output from global memory.
template <class K>
__device__ __noinline__ void depthwise_store_exact(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                   const DepthwiseTarget &t, int32_t oc)
{
    const HaloPacking packing = {1, p.s.channel_blocks, p.s.weight_row};
    for (int32_t ed = 0; ed < K::Planes && t.od + ed < p.axis[0].out; ed++)
        for (int32_t eh = 0; eh < K::Planes && t.oh + eh < p.axis[1].out; eh++)
            for (int32_t i = 0; i < t.outputs; i++)
                halo_finish(p, t.offset + ed * p.y_stride[2] + eh * p.y_stride[3] + i * p.y_stride[4],
                            halo_exact_sum(p, p.packed, packing, b.n, b.g, oc, t.od + ed, t.oh + eh, t.ow + i),
                            {b.n, (int64_t)b.g * p.out_group + oc, t.od + ed, t.oh + eh, t.ow + i, 1, 1});
}

template <class K, bool Lists>
__global__ void __launch_bounds__(K::Threads, K::Blocks)
depthwise_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Accumulator A;
    const HaloShape &s = p.s;
    const HaloBlock b = halo_block(p, blockIdx.x);
    const int32_t warp = threadIdx.x / 32, item_warp = warp % s.item_warps, items = s.phase_step * s.channel_step;
    const int32_t first_slot = warp / s.item_warps * 32 + threadIdx.x % 32, round_slots = K::Warps / s.item_warps * 32;
    bool found = halo_stage<K>(p, b, 0, (A *)halo_shared), exact = false;
    for (int32_t pass = 0, first = 0, round = 0; first < items; pass++) {
        HaloColumn q = halo_column(p, first_slot + round * round_slots);
        int32_t item = first + item_warp, local = item % s.channel_step, oc = b.channel_block + local;
        int32_t phase = b.phase + item / s.channel_step;
        q.w *= K::Columns;
        int32_t window = q.d < s.tile[0] ? (q.d * s.extent[1] + q.h) * s.pitch + q.w : 0;
        if (++round == s.rounds) { round = 0;  first += s.item_warps; }
        bool active = item < items && oc < s.channel_blocks && phase < s.phases;
        if (Lists && active && p.list.residual < p.list.count)
            depthwise_ask_early<K>(p, b, depthwise_target<K>(p, b, K::Planes > 1 ? 0 : phase / p.axis[1].stride,
                                                             K::Planes > 1 ? 0 : phase % p.axis[1].stride, oc, q), oc);
        A sum[K::Planes][K::Planes][K::Outputs] = {};
        for (int32_t chunk = 0; chunk < s.chunks; chunk++) {
            const A *w = (const A *)halo_shared + (chunk & 1) * s.stage;
            const A *x = w + s.channel_step * s.weight_block + window;
            int32_t count = min(s.chunk, p.in_group - chunk * s.chunk);
            if (pass == 0) {                    // streaming has one round of items
                stage_wait();
                exact = __syncthreads_or(found) || exact;
                if (chunk + 1 < s.chunks)
                    found = halo_stage<K>(p, b, chunk + 1, (A *)halo_shared + (~chunk & 1) * s.stage);
            }
            if (!active) continue;
            if constexpr (K::Planes > 1) depthwise_multiply_planes<K>(p, x, w + local * s.weight_block, count, sum);
            else depthwise_multiply<K>(p, x, w + local * s.weight_block, count, phase, sum[0][0]);
        }
        if (!active) continue;
        DepthwiseTarget t = depthwise_target<K>(p, b, K::Planes > 1 ? 0 : phase / p.axis[1].stride,
                                                K::Planes > 1 ? 0 : phase % p.axis[1].stride, oc, q);
        if (exact) { depthwise_store_exact<K>(p, b, t, oc);  continue; }
        depthwise_finish<K, Lists>(p, b, t, oc, sum);
        if (Lists && sizeof(typename K::Element) == 2 && p.wide) depthwise_store<A, K>(p, t, sum);
        else depthwise_store<typename K::Element, K>(p, t, sum);
    }
}

template <class K> struct DepthwiseKernel : HaloPacker<DepthwiseKernel<K>, typename K::Element> {
    static auto *function(const convt3d__plan *plan)
    {
        return halo_lists(plan) ? depthwise_kernel<K, true> : depthwise_kernel<K, false>;
    }
    static HaloKernel describe()
    {
        return {1, K::Fused, K::Columns, 1, K::Warps, K::Window, K::WeightRow, K::Columns == 4 ? 4 : 1, K::Planes > 1,
                74 * 1024};
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96])
    {
        return halo_plan(plan, describe(), s, why);
    }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        return halo_run<typename K::Element>(plan, io, function(plan), K::Threads, K::Columns, error);
    }
};

// ---- channels side by side (NDHWC): lanes are channels ----

// One instance. Packed: channels of a lane, as one load of at most 4 bytes (8 for f64).
template <class T, int Packed_, int Fused_, int Window_, int Rotation_> struct ChannelsConfig {
    typedef T Element;
    typedef typename Number<T>::Accumulator Accumulator;
    static constexpr int Packed = Packed_, Fused = Fused_, Window = Window_, Rotation = Rotation_;
    static constexpr int Columns = 4;
    static constexpr int Outputs = Columns * Fused, Taps = Window * Fused, Loaded = Columns + Window;
    static constexpr int Warps = 4, Threads = 32 * Warps, Lanes = 32 * Packed;
    struct alignas(sizeof(T) * Packed) Pack { T v[Packed]; };
    struct alignas(sizeof(Accumulator) * Packed) Wide { Accumulator v[Packed]; };
};

template <class K> using ChannelsSums = typename K::Accumulator[K::Outputs][K::Packed];

// The window of x of one row around column q for the lane's channels; zeros outside the input.
template <class K>
__device__ __forceinline__ void channels_window(const HaloProblem<typename K::Element> &p,
                                                const typename K::Element *row, int32_t q,
                                                typename K::Accumulator (&window)[K::Loaded][K::Packed])
{
    typename K::Pack pack[K::Loaded];
    int32_t iw = q + 1 - K::Window;
    const int64_t step = p.x_stride[4];
    row += iw * step;
    if (iw >= 0 && iw + K::Loaded <= p.axis[2].in)
#pragma unroll
        for (int j = 0; j < K::Loaded; j++, row += step) pack[j] = *(const typename K::Pack *)row;
    else
#pragma unroll
        for (int j = 0; j < K::Loaded; j++, row += step) {
            pack[j] = {};
            if ((uint32_t)(iw + j) < (uint32_t)p.axis[2].in) pack[j] = *(const typename K::Pack *)row;
        }
#pragma unroll
    for (int j = 0; j < K::Loaded; j++)
#pragma unroll
        for (int c = 0; c < K::Packed; c++) window[j][c] = Number<typename K::Element>::widen(pack[j].v[c]);
}

// The products of one row of x with one row of taps.
template <class K>
__device__ __forceinline__ void channels_row(const typename K::Accumulator (&window)[K::Loaded][K::Packed],
                                             const typename K::Wide *w, int32_t kernel_w, ChannelsSums<K> &sum)
{
#pragma unroll
    for (int k = 0; k < K::Taps; k++) {
        if (k >= kernel_w) break;
        typename K::Wide weight = w[k * 32];
        const int r = k % K::Fused, t = k / K::Fused, e = (r - K::Rotation + K::Fused) % K::Fused;
        const int shift = K::Window - 1 - t + (r < K::Rotation ? 1 : 0);
#pragma unroll
        for (int j = 0; j < K::Columns; j++)
#pragma unroll
            for (int c = 0; c < K::Packed; c++) sum[j * K::Fused + e][c] += window[j + shift][c] * weight.v[c];
    }
}

// The sums of the lane's channels over kd, kh, kw for Columns columns from q of output row (od, oh).
template <class K>
__device__ __forceinline__ void channels_multiply(const HaloProblem<typename K::Element> &p,
                                                  const typename K::Element *x, const typename K::Wide *w, int32_t od,
                                                  int32_t oh, int32_t q, ChannelsSums<K> &sum)
{
    Taps<int32_t> d = taps_of(p.axis[0], od), h = taps_of(p.axis[1], oh);
    for (int32_t td = 0; td < d.count; td++)
        for (int32_t th = 0; th < h.count; th++) {
            typename K::Accumulator window[K::Loaded][K::Packed];
            channels_window<K>(p, x + (int64_t)(d.i - td * p.axis[0].in_step) * p.x_stride[2] +
                                  (int64_t)(h.i - th * p.axis[1].in_step) * p.x_stride[3], q, window);
            channels_row<K>(window, w + ((d.k + td * p.axis[0].tap_step) * p.axis[1].kernel + h.k +
                                         th * p.axis[1].tap_step) * p.axis[2].kernel * 32, p.axis[2].kernel, sum);
        }
}

// Stages the weights of the block's channels as [tap][channel]; returns whether one of this thread's is not finite.
template <class K>
__device__ __forceinline__ bool channels_stage_w(const HaloProblem<typename K::Element> &p, int32_t channel,
                                                 typename K::Accumulator *to)
{
    bool found = false;
    int32_t channels = min(K::Lanes, p.groups - channel);
    for (int32_t i = threadIdx.x; i < p.taps * channels; i += K::Threads) {
        int32_t c = i / p.taps, tap = i - c * p.taps;
        typename K::Accumulator v = Number<typename K::Element>::widen(p.w[(int64_t)channel * p.taps + i]);
        found = found || not_finite(v);
        to[tap * K::Lanes + c] = v;
    }
    return found;
}

// The outputs of a lane: of its columns the first one's; `width` of them exist along the width.
struct ChannelsTarget { int32_t channel, od, oh, ow, width; int64_t n; };

// A weight is not finite: every output from global memory.
template <class K>
__device__ __noinline__ void channels_exact(const HaloProblem<typename K::Element> &p, const ChannelsTarget &t,
                                            ChannelsSums<K> &sum)
{
    for (int32_t o = 0; o < t.width; o++)
        for (int32_t c = 0; c < K::Packed; c++)
            sum[o][c] = halo_exact_sum(p, p.w, {1, 1, p.axis[2].kernel}, t.n, t.channel + c, 0, t.od, t.oh, t.ow + o);
}

// The list on all outputs of a lane.
template <class K>
__device__ __forceinline__ void channels_apply(const HaloProblem<typename K::Element> &p, const ChannelsTarget &t,
                                               ChannelsSums<K> &sum)
{
    typedef typename K::Element T;
    typedef typename K::Accumulator A;
    enum { Size = K::Outputs * K::Packed };
    apply_common_first(p.list, 0, reinterpret_cast<A (&)[1][Size]>(sum),
                       [=](int i) { return t.channel + i % K::Packed; },
                       [&](const Entry<A> &e, int, A (&r)[Size]) {
        const T *from = (const T *)e.residual + offset_of({t.n, t.channel, t.od, t.oh, t.ow, 1, 1}, e.stride);
#pragma unroll
        for (int i = 0; i < Size; i++) {
            T v = Number<T>::round(0);
            if (i / K::Packed < t.width) v = from[i / K::Packed * e.stride[4] + i % K::Packed * e.stride[1]];
            r[i] = Number<T>::widen(v);
        }
    });
}

// All of them to y, as elements of Out.
template <class Out, class K>
__device__ __forceinline__ void channels_store(const HaloProblem<typename K::Element> &p, const ChannelsTarget &t,
                                               const ChannelsSums<K> &sum)
{
    struct alignas(sizeof(Out) * K::Packed) Pack { Out v[K::Packed]; };
    Out *y = (Out *)p.y + t.n * p.y_stride[0] + t.channel + t.od * p.y_stride[2] + t.oh * p.y_stride[3] +
             t.ow * p.y_stride[4];
#pragma unroll
    for (int o = 0; o < K::Outputs; o++, y += p.y_stride[4]) {
        Pack pack;
#pragma unroll
        for (int c = 0; c < K::Packed; c++) pack.v[c] = Number<Out>::round(sum[o][c]);
        if (o < t.width) *(Pack *)y = pack;
    }
}

template <class K, bool Lists>
__global__ void __launch_bounds__(K::Threads, 4)
channels_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t index = blockIdx.x, first[2], n = p.by_ranges[1].split(index);
    int32_t channel = (int32_t)index * K::Lanes;
    for (int a = 1; a >= 0; a--) {
        uint32_t next = p.by_tiles[a].divide(n);
        first[a] = (n - next * s.tiles[a]) * s.tile[a];
        n = next;
    }
    const bool exact = __syncthreads_or(channels_stage_w<K>(p, channel, (typename K::Accumulator *)halo_shared));
    channel += lane * K::Packed;
    if (channel >= p.groups) return;
    const typename K::Wide *w = (const typename K::Wide *)halo_shared + lane;
    const T *x = p.x + n * p.x_stride[0] + channel;
    typename K::Accumulator bias[K::Packed];
    for (int c = 0; c < K::Packed; c++) bias[c] = halo_bias(p, channel + c);
    for (uint32_t i = warp; i < s.tile[0] * s.tile[1] * p.by_columns.divisor; i += K::Warps) {
        uint32_t group = i, h = p.by_columns.split(group), d = p.by_rows.split(h);
        int32_t qd = first[0] + d, qh = first[1] + h, q = s.first[2] + group * K::Columns, ow = group * K::Outputs;
        if (qd >= s.columns[0] || qh >= s.columns[1]) continue;
        ChannelsSums<K> sum = {};
        if (!exact) channels_multiply<K>(p, x, w, qd, qh, q, sum);
        ChannelsTarget t = {channel, qd, qh, ow, min((int32_t)K::Outputs, p.axis[2].out - ow), (int64_t)n};
        if (exact) {
            ChannelsSums<K> found;              // in memory: sum stays in registers
            channels_exact<K>(p, t, found);
            memcpy(sum, found, sizeof sum);
        }
#pragma unroll
        for (int i = 0; i < K::Outputs * K::Packed; i++) sum[i / K::Packed][i % K::Packed] += bias[i % K::Packed];
        if constexpr (Lists)
            if (p.list.count > 0) channels_apply<K>(p, t, sum);
        if (Lists && sizeof(T) == 2 && p.wide) channels_store<typename K::Accumulator, K>(p, t, sum);
        else channels_store<T, K>(p, t, sum);
    }
}

// Tiles of rows of outputs.
static inline bool channels_plan(const convt3d__plan *plan, const HaloKernel &kernel, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    if (plan->y_count == 0) return true;
    int64_t element = plan->desc.dtype == CONVT3D_F64 ? 8 : 4, lanes = kernel.weight_row;
    int64_t shared = plan->taps < HALO_MOST_SHARED ? plan->taps * lanes * element : HALO_MOST_SHARED + 1;
    if (!fits_32_bits(plan) || shared > halo_most_shared(plan)) {
        convt3d__put(&text, "indices of 64 bits, or weights beyond shared memory");
        return false;
    }
    for (int a = 0; a < 3; a++)
        if (a == 2) halo_axis(s, a, plan->axis[a], kernel);
        else s.columns[a] = (int32_t)plan->axis[a].out;
    s.tile[2] = (int32_t)(convt3d__ceil_div(s.columns[2], kernel.span) * kernel.span);
    s.shared = (int32_t)shared;
    s.channels = s.channel_step = s.phases = s.phase_step = s.lane_blocks = 1;
    s.channel_blocks = s.channel_items = (int32_t)convt3d__ceil_div(plan->desc.groups, lanes);
    for (int64_t rows = 4; ; rows /= 2) {
        for (int a = 0; a < 2; a++) {
            s.tile[a] = (int32_t)convt3d__min(rows, s.columns[a]);
            s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        }
        int64_t blocks = plan->desc.batch * s.channel_blocks * s.tiles[0];
        if (blocks > INT32_MAX / s.tiles[1]) {
            convt3d__put(&text, "too many tiles");
            return false;
        }
        if (rows == 1 || blocks * s.tiles[1] >= 8 * plan->multiprocessors) return true;
    }
}

template <class K> struct ChannelsKernel : HaloPlain<ChannelsKernel<K>> {
    static auto *function(const convt3d__plan *plan)
    {
        return halo_lists(plan) ? channels_kernel<K, true> : channels_kernel<K, false>;
    }
    static HaloKernel describe()
    {
        return {1, K::Fused, K::Columns, 1, K::Warps, K::Window, K::Lanes, 1, 0, 0};
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96])
    {
        return channels_plan(plan, describe(), s, why);
    }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        HaloShape s = halo_shape(plan);
        int64_t blocks = plan->desc.batch * s.tiles[0] * s.tiles[1] * s.channel_blocks;
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks), dim3(K::Threads), (size_t)s.shared,
                               io->stream, halo_problem<typename K::Element>(plan, io, s, K::Columns));
    }
};

// Depth-wise with channels side by side in x and y.
static inline bool depthwise_channels(const convt3d__plan *plan)
{
    return plan->in_group == 1 && plan->out_group == 1 && plan->desc.groups >= 8 && plan->desc.x_stride[1] == 1 &&
           plan->desc.y_stride[1] == 1;
}

// Whether two channels may be read and written as one word.
static inline bool depthwise_packs(const convt3d__plan *plan)
{
    bool even = plan->desc.groups % 2 == 0 && plan->desc.alignment >= 8;
    for (int i = 0; i < 5; i++)
        even = even && (i == 1 || (plan->desc.x_stride[i] % 2 == 0 && plan->desc.y_stride[i] % 2 == 0));
    return even;
}

// Depth and height have stride 2 as well.
static inline bool depthwise_planes(const convt3d__plan *plan)
{
    for (int a = 0; a < 2; a++)
        if (plan->axis[a].stride != 2 || plan->axis[a].dilation != 1) return false;
    return true;
}

// Calls act with the plan's instance: here and below they are listed.
template <class T, bool Channels, class Act> auto long_instance(const convt3d__plan *plan, Act act)
{
    return plan->axis[2].kernel == 5 ? act(LongKernel<LongConfig<T, 0, 5, Channels>>())
                                     : act(LongKernel<LongConfig<T, 1, 7, Channels>>());
}

template <class T, bool Channels, class Act> auto band_instance(const convt3d__plan *plan, Act act)
{
    return plan->axis[0].kernel == 5 ? act(BandKernel<BandConfig<T, 5>, Channels>())
                                     : act(BandKernel<BandConfig<T, 7>, Channels>());
}

template <class T, int Packed, class Act> auto channels_instance(const convt3d__plan *plan, Act act)
{
    const convt3d__axis &w = plan->axis[2];
    bool odd = w.padding & 1;
    if constexpr (sizeof(T) == 2)
        if (band_takes(plan)) return band_instance<T, true>(plan, act);
    if constexpr (sizeof(T) == 4)
        if (long_takes(plan)) return long_instance<T, true>(plan, act);
    if (march_takes(plan)) return act(MarchKernel<MarchChannels<T, 1, Packed>, true>());
    if constexpr (sizeof(T) == 4 && Packed == 2) return channels_instance<T, 1>(plan, act);
    else {
        if (w.stride == 1) {
            if (w.kernel <= 4) return act(ChannelsKernel<ChannelsConfig<T, Packed, 1, 4, 0>>());
            return act(ChannelsKernel<ChannelsConfig<T, Packed, 1, 8, 0>>());
        }
        if (w.kernel <= 4)
            return odd ? act(ChannelsKernel<ChannelsConfig<T, Packed, 2, 2, 1>>())
                       : act(ChannelsKernel<ChannelsConfig<T, Packed, 2, 2, 0>>());
        return odd ? act(ChannelsKernel<ChannelsConfig<T, Packed, 2, 4, 1>>())
                   : act(ChannelsKernel<ChannelsConfig<T, Packed, 2, 4, 0>>());
    }
}

// f64 keeps half as many columns of 8 outputs: registers.
template <class T, int Rotation, int Planes, class Act> auto depthwise_window(const convt3d__plan *plan, Act act)
{
    constexpr int many = Planes == 2 && sizeof(T) == 8 ? 4 : 8;
    const int64_t kernel = plan->axis[2].kernel;
    if constexpr (Planes == 2) {            // the usual widths, without a test per tap
        if (kernel == 4 && plan->in_group > 4)
            return act(DepthwiseKernel<DepthwiseConfig<T, many, 2, 2, Rotation, 2, 4>>());
        if (sizeof(T) == 8 && kernel == 7)
            return act(DepthwiseKernel<DepthwiseConfig<T, many, 2, 4, Rotation, 2, sizeof(T) == 8 ? 7 : 0>>());
    }
    if (kernel <= 4) return act(DepthwiseKernel<DepthwiseConfig<T, 4, 2, 2, Rotation, Planes, 0>>());
    return act(DepthwiseKernel<DepthwiseConfig<T, many, 2, 4, Rotation, Planes, 0>>());
}

template <class T, class Act> auto depthwise_instance(const convt3d__plan *plan, Act act)
{
    const convt3d__axis &w = plan->axis[2];
    bool odd = w.padding & 1;
    if (depthwise_channels(plan)) {
        if constexpr (sizeof(T) <= 4)
            if (depthwise_packs(plan)) return channels_instance<T, 2>(plan, act);
        return channels_instance<T, 1>(plan, act);
    }
    if constexpr (sizeof(T) == 2)
        if (band_takes(plan)) return band_instance<T, false>(plan, act);
    if constexpr (sizeof(T) == 4)
        if (long_takes(plan)) return long_instance<T, false>(plan, act);
    if (march_takes(plan)) return act(MarchKernel<MarchRows<T, 1>, false>());
    if (w.stride == 1) {
        if (w.kernel <= 4) return act(DepthwiseKernel<DepthwiseConfig<T, 4, 1, 4, 0, 1, 0>>());
        return act(DepthwiseKernel<DepthwiseConfig<T, 8, 1, 8, 0, 1, 0>>());
    }
    if (depthwise_planes(plan))
        return odd ? depthwise_window<T, 1, 2>(plan, act) : depthwise_window<T, 0, 2>(plan, act);
    return odd ? depthwise_window<T, 1, 1>(plan, act) : depthwise_window<T, 0, 1>(plan, act);
}

template <class Act> auto depthwise_dispatch(const convt3d__plan *plan, Act act)
{
    switch (plan->desc.dtype) {
    case CONVT3D_F32: return depthwise_instance<float>(plan, act);
    case CONVT3D_F64: return depthwise_instance<double>(plan, act);
    case CONVT3D_F16: return depthwise_instance<__half>(plan, act);
    default:          return depthwise_instance<__nv_bfloat16>(plan, act);
    }
}

// Whether the plan's instance reads the weights as the user laid them out.
static inline bool depthwise_plain(const convt3d__plan *plan)
{
    return depthwise_dispatch(plan, [](auto instance) { return (bool)decltype(instance)::plain; });
}

}

extern "C" int32_t convt3d__depthwise_refuses(convt3d__plan *plan, char why[96])
{
    convt3d_cuda::HaloShape s;
    const convt3d__axis &w = plan->axis[2];
    if (plan->cuda_arch < 80) return convt3d__refuse(why, "needs sm_80");
    if (plan->out_group > 4) return convt3d__refuse(why, "more than 4 output channels a group");
    if (w.stride > 2 || w.dilation > 1 || w.kernel > 8)
        return convt3d__refuse(why, "width: stride beyond 2, dilation beyond 1 or kernel beyond 8");
    if (!convt3d_cuda::depthwise_dispatch(plan, [&](auto instance) { return instance.plan(plan, s, why); })) return 1;
    convt3d_cuda::keep_shape(plan, s);
    plan->pack_variant = convt3d_cuda::depthwise_plain(plan);
    why[0] = 0;
    return 0;
}

// Seconds: products against bytes, at the rates seen on an H200.
extern "C" double convt3d__depthwise_cost(const convt3d__plan *plan)
{
    double products = (double)plan->y_count * (double)plan->in_group;
    for (int a = 0; a < 3; a++) products *= (double)plan->axis[a].kernel / (double)plan->axis[a].stride;
    double bytes = (double)(plan->x_count + plan->y_count) * (double)convt3d__element_size(plan->desc.dtype);
    const bool f64 = plan->desc.dtype == CONVT3D_F64, channels = convt3d_cuda::depthwise_channels(plan);
    const bool half = convt3d__element_size(plan->desc.dtype) == 2;
    double most = channels ? 3.2e12 : f64 ? 5e12 : 8e12, rate = f64 || channels ? 1.6e12 : 3e12;
    if (convt3d_cuda::march_takes(plan)) rate = half ? 2.8e12 : 3.5e12, most = 16e12;
    else if (!channels && half && convt3d_cuda::band_takes(plan)) most = 60e12;
    else if (convt3d_cuda::long_takes(plan)) most = channels ? 9e12 : 14e12;
    const double seconds = products / most;
    return 6e-6 + (seconds > bytes / rate ? seconds : bytes / rate);
}

extern "C" int64_t convt3d__depthwise_packed(const convt3d__plan *plan)
{
    if (convt3d_cuda::depthwise_plain(plan)) return convt3d__plain_w_packed(plan);
    return convt3d_cuda::halo_packed(plan, convt3d_cuda::halo_shape(plan));
}

extern "C" int64_t convt3d__depthwise_workspace(const convt3d__plan *plan)
{
    return convt3d_cuda::depthwise_plain(plan) ? 0 : convt3d__depthwise_packed(plan);
}

extern "C" convt3d_status convt3d__depthwise_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                  convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::depthwise_dispatch(plan, [=](auto kernel) {
        return kernel.pack(plan, w, packed, stream, error);
    });
}

extern "C" convt3d_status convt3d__depthwise_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::depthwise_dispatch(plan, [=](auto kernel) { return kernel.ready(plan, error); });
}

extern "C" convt3d_status convt3d__depthwise_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::depthwise_dispatch(plan, [=](auto kernel) { return kernel.run(plan, io, error); });
}

#endif
