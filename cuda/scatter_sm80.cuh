// sm80_scatter: few output channels: every tap's product with every input once, on mma.sync, summed from shared memory.
//
// Idea      With one output channel, gathering wastes the matrix unit: its 8 columns are phases, most of which have no
//           tap at a given shift. Here columns are taps: 64 of them, (kd, kh, kw, oc), times 256 positions of one plane
//           of x times all input channels, which is each useful product once. x goes from global memory to registers
//           (rows of a fragment are four neighbours of a row of x: one load), the weights stay in shared memory. A
//           block marches along the depth: the columns of the first taps of kd complete the planes of y that end with
//           this plane of x, the others wait in shared memory for the next. The complete ones go to shared memory as
//           planes [kh][kw][oc] of positions, from which each output gathers its taps of height and width.
// f32 etc.  as dense_sm80.cuh: split into three tf32 products, or one. An output that is not finite is computed again.
// Requires  sm_80; not f64; x and y not empty; 32-bit indices; dilation 1; padding not negative; at most 4 taps of
//           depth, 16 (height, width, output channel) of a group, 4 taps of a phase of the width; 64 input channels a
//           group for f32, 128 else; weights and sums within shared memory.
// Tile      256 threads, 256 positions (a warp has 32) of one plane, two blocks a multiprocessor; 4 fragments of 8
//           input channels in flight (tf32: 2, f32: 1, by registers).
// Measured  one H200, NCDHW, weights packed in the call: gan_64_1_32 (64 -> 1, k4 s2) f32 0.282 ms, tf32 0.210, f16
//           0.184, bf16 0.204; NDHWC 0.307, 0.220, 0.198, 0.221. Bound by instructions of the gather and by waiting
//           for x. Did not help: 16-bit values taken apart as they are loaded (f16 0.47: it waits for the load).
#pragma once

#include "sm80.cuh"

CONVT3D__DECLARE_KERNEL(scatter_sm80)
CONVT3D__DECLARE_PACK(scatter_sm80)

#if CONVT3D__PART(9)

namespace convt3d_cuda {

enum { SCATTER_THREADS = 256, SCATTER_POSITIONS = 256, SCATTER_PITCH = 276, SCATTER_M = 2 };
enum { SCATTER_KD = 4, SCATTER_NC = 2, SCATTER_COLUMNS = 8 * SCATTER_NC, SCATTER_WIDTH_TAPS = 4 };

// Lists: it applies the list, and may store wide.
template <int Mode_, bool Lists_> struct ScatterConfig {
    static constexpr int Mode = Mode_;
    static constexpr bool Lists = Lists_;
    typedef typename Sm80Mode<Mode>::T T;
    typedef typename Sm80Mode<Mode>::Weight Weight;
    static constexpr int Ahead = Mode == SM80_SHORT ? 1 : Mode == SM80_TF32 ? 2 : 4;    // fragments of x in flight
};

static inline int32_t scatter_ahead(int32_t mode) { return mode == SM80_SHORT ? 1 : mode == SM80_TF32 ? 2 : 4; }

// The tiling of a plan, kept in plan->state. step: inputs from one tile to the next; span: inputs of a tile.
struct ScatterShape {
    int32_t mode, step[3], span[3], tiles[3], fragments, shared, carried, emitted;
    double cycles;
};

template <class T> struct ScatterProblem {
    HaloProblem<T> h;                   // of it: tensors, axes, channels
    const void *weights;
    int32_t step[3], span[3], tiles[3], fragments, carried, emitted;
    int32_t width_log;                  // log2 of span[2]
    int32_t rows_of_four, pairs_of_channels;    // x: four of a row, two of a position's channels are one load
    int32_t taps_w;                     // most of a phase of the width
    HaloDivisor by_stride[2];           // of height, of width
};

// ---- on the device ----

// The type's number whose bits are the lower half of a word.
template <class T> __device__ __forceinline__ float scatter_half(uint32_t bits)
{
    const uint16_t half = (uint16_t)bits;
    return Number<T>::widen(*(const T *)&half);
}

// A thread's values of 8 input channels: 2 of them at 4 neighbours of a row, as they were loaded. 16-bit types stay in
// words until they are used: taking them apart would wait for the load.
template <class T> struct ScatterValues {
    uint32_t word[2 * sizeof(T)];       // [channel][neighbour], or [neighbour][channel] where those are one load
    __device__ __forceinline__ void values(bool by_channel, float (&v)[2][4]) const
    {
#pragma unroll
        for (int c = 0; c < 2; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = c * 4 + i, turned = i * 2 + c;
                if constexpr (sizeof(T) == 4) v[c][i] = __uint_as_float(by_channel ? word[turned] : word[at]);
                else {
                    const uint32_t pair = by_channel ? word[turned / 2] : word[at / 2];
                    v[c][i] = scatter_half<T>(by_channel ? pair >> 16 * c : pair >> i % 2 * 16);
                }
            }
    }
};

template <class T> struct ScatterLoader {
    const T *x;         // the first of its positions in plane 0, first channel of its two
    int32_t valid;      // positions that are inside
    __device__ __forceinline__ void load(const ScatterProblem<T> &p, int32_t d, int32_t fragment,
                                         ScatterValues<T> &to) const
    {
        constexpr int words = 2 * sizeof(T), size = sizeof(T);
        struct alignas(4 * size) Four { uint32_t word[size]; };
        const int32_t channel = fragment * 8 + threadIdx.x % 4 * 2;
        const T *from = x + d * p.h.x_stride[2] + fragment * 8 * p.h.x_stride[1];
#pragma unroll
        for (int i = 0; i < words; i++) to.word[i] = 0;
        if (d >= p.h.axis[0].in || valid <= 0) return;
        if (p.rows_of_four) {
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (channel + c < p.h.in_group) {
                    const Four four = *(const Four *)(from + c * p.h.x_stride[1]);
#pragma unroll
                    for (int j = 0; j < size; j++) to.word[c * size + j] = four.word[j];
                }
        } else if (p.pairs_of_channels) {
            struct alignas(2 * size) Two { uint32_t word[size / 2]; };
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (i < valid && channel < p.h.in_group) {
                    const Two two = *(const Two *)(from + i * p.h.x_stride[4]);
#pragma unroll
                    for (int j = 0; j < size / 2; j++) to.word[i * (size / 2) + j] = two.word[j];
                }
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (i % 4 < valid && channel + i / 4 < p.h.in_group) {
                    const T *one = from + i / 4 * p.h.x_stride[1] + i % 4 * p.h.x_stride[4];
                    if constexpr (size == 4) to.word[i] = *(const uint32_t *)one;
                    else to.word[i / 2] |= (uint32_t)*(const uint16_t *)one << i % 2 * 16;
                }
        }
    }
};

struct ScatterSum { float v[SCATTER_KD * SCATTER_NC][SCATTER_M][4]; };

template <class C> struct ScatterOperands {
    Sm80Operand<C::Mode> m[SCATTER_M];
    __device__ __forceinline__ ScatterOperands(const ScatterValues<typename C::T> &x, bool by_channel)
    {
        float v[2][4];
        x.values(by_channel, v);
#pragma unroll
        for (int i = 0; i < SCATTER_M * 4; i++) m[i / 4].set(i % 4, v[i % 4 / 2][i / 4 * 2 + i % 2]);
    }
};

template <class C>
__device__ __forceinline__ void scatter_multiply(const ScatterOperands<C> &operand, const typename C::Weight *w,
                                                 ScatterSum &sum)
{
#pragma unroll
    for (int n = 0; n < SCATTER_KD * SCATTER_NC; n++) {
        const typename C::Weight weight = w[n * 32];
#pragma unroll
        for (int product = 0; product < (C::Mode == SM80_SHORT ? 3 : 1); product++)
#pragma unroll
            for (int m = 0; m < SCATTER_M; m++) operand.m[m].add(sum.v[n][m], weight, product);
    }
}

// Adds what earlier planes left, hands on complete columns as planes of positions and keeps the rest. carry: this
// thread's, 256 apart; begins: nothing is carried yet.
template <class T>
__device__ __forceinline__ void scatter_hand_on(const ScatterProblem<T> &p, ScatterSum &sum, float *carry,
                                                float *planes, bool begins)
{
    const int32_t lane = threadIdx.x % 32, position = threadIdx.x / 32 * 32 + lane / 4 * 4;
    constexpr int values = SCATTER_NC * SCATTER_M * 4;
#pragma unroll
    for (int k = 0; k < SCATTER_KD; k++) {
        float v[SCATTER_NC][SCATTER_M][4];
#pragma unroll
        for (int i = 0; i < values; i++) {
            float &part = v[i / 8][i / 4 % 2][i % 4];
            part = sum.v[k * SCATTER_NC + i / 8][i / 4 % 2][i % 4];
            if (k < p.carried && !begins) part += carry[(k * values + i) * SCATTER_THREADS];
        }
        if (k < p.emitted) {
#pragma unroll
            for (int n = 0; n < SCATTER_NC; n++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    *(float4 *)(planes + (k * SCATTER_COLUMNS + n * 8 + lane % 4 * 2 + j) * SCATTER_PITCH + position) =
                        make_float4(v[n][0][j], v[n][0][2 + j], v[n][1][j], v[n][1][2 + j]);
        } else {
#pragma unroll
            for (int i = 0; i < values; i++)
                carry[((k - p.emitted) * values + i) * SCATTER_THREADS] = v[i / 8][i / 4 % 2][i % 4];
        }
    }
}

// Which outputs of an axis a tile completes, and its inputs.
struct ScatterRange { int32_t in, begin, end; };

template <class T>
__device__ __forceinline__ ScatterRange scatter_range(const ScatterProblem<T> &p, int a, int32_t tile)
{
    const Axis<int32_t> &axis = p.h.axis[a];
    ScatterRange r;
    r.in = tile * p.step[a];
    const int32_t reach = max(axis.kernel, axis.stride) - axis.stride - axis.padding;
    r.begin = r.in == 0 ? 0 : r.in * axis.stride + reach;
    r.end = tile + 1 == p.tiles[a] ? axis.out : (r.in + p.step[a]) * axis.stride + reach;
    r.begin = max(r.begin, 0);
    r.end = min(r.end, axis.out);
    return r;
}

// Where a block's outputs are.
struct ScatterPlace { int64_t n; int32_t g; ScatterRange h, w; };

// One output from its sum: undoes the operands' scales, adds the bias, rounds.
template <class C>
__device__ __forceinline__ typename C::T scatter_finish(const ScatterProblem<typename C::T> &p, float sum, float bias,
                                                        const ScatterPlace &at, int32_t oc, int32_t od, int32_t oh,
                                                        int32_t ow)
{
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    const typename C::T v =
        Number<typename C::T>::round(scale != 0 ? fmaf(sum, 1.f / (1 << scale) / (1 << scale), bias) : sum + bias);
    if (not_finite(Number<typename C::T>::widen(v)))
        return Number<typename C::T>::round(sm80_exact(p.h, at.n, at.g, oc, od, oh, ow));
    return v;
}

// The same, and the list, to y.
template <class C>
__device__ __forceinline__ void scatter_list(const ScatterProblem<typename C::T> &p, float sum, float bias,
                                             const ScatterPlace &at, int32_t oc, int32_t od, int32_t oh, int32_t ow)
{
    typedef typename C::T T;
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    const Where place = {at.n, (int64_t)at.g * p.h.out_group + oc, od, oh, ow, 1, 1};
    float v[1][1] = {{scale != 0 ? fmaf(sum, 1.f / (1 << scale) / (1 << scale), bias) : sum + bias}};
    if (not_finite(v[0][0])) v[0][0] = sm80_exact(p.h, at.n, at.g, oc, od, oh, ow);
    apply_in_registers(p.h.list, 0, v, [&](int) { return place.oc; }, [&](const Entry<float> &e, int, float (&r)[1]) {
        r[0] = Number<T>::widen(((const T *)e.residual)[offset_of(place, e.stride)]);
    });
    const int64_t to = offset_of(place, p.h.y_stride);
    if (sizeof(T) == 2 && p.h.wide) ((float *)p.h.y)[to] = v[0][0];
    else ((T *)p.h.y)[to] = Number<T>::round(v[0][0]);
}

// The outputs of plane od of y: sums of the taps of height and width, from plane k of the complete columns. Taps: most
// of a phase of the width.
template <class C, int Taps>
__device__ __forceinline__ void scatter_gather(const ScatterProblem<typename C::T> &p, const ScatterPlace &at,
                                               const float *planes, int32_t k, int32_t od)
{
    typedef typename C::T T;
    const HaloProblem<T> &h = p.h;
    const Axis<int32_t> &axis_h = h.axis[1], &axis_w = h.axis[2];
    const int32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    const int32_t kernel_h = k < p.emitted ? axis_h.kernel : 0;
    const int32_t column_h = axis_w.kernel * h.out_group * SCATTER_PITCH;
    const int32_t tap_step = axis_h.stride * column_h - (1 << p.width_log);
    planes += (kernel_h > 0 ? k : 0) * SCATTER_COLUMNS * SCATTER_PITCH;
    for (int32_t ow = at.w.begin + (int32_t)threadIdx.x % 32; ow < at.w.end; ow += 32) {
        uint32_t kw = ow + axis_w.padding;
        const int32_t iw = (int32_t)p.by_stride[1].split(kw);
        int32_t from[Taps];             // of a tap's column and position; negative: there is none
#pragma unroll
        for (int j = 0; j < Taps; j++) {
            const int32_t tap = (int32_t)kw + j * axis_w.stride, i = iw - j;
            const bool real = tap < axis_w.kernel && i >= 0 && i < axis_w.in;
            from[j] = real ? tap * h.out_group * SCATTER_PITCH + i - at.w.in : -1;
        }
        for (int32_t oc = 0; oc < h.out_group; oc++) {
            const int64_t channel = (int64_t)at.g * h.out_group + oc;
            const int64_t row = at.n * h.y_stride[0] + channel * h.y_stride[1] + od * h.y_stride[2];
            [[maybe_unused]] T *y = h.y + row + ow * h.y_stride[4];
            const float bias = halo_bias(h, channel), *first = planes + oc * SCATTER_PITCH;
            for (int32_t oh = at.h.begin + warp; oh < at.h.end; oh += SCATTER_THREADS / 32) {
                uint32_t kh = oh + axis_h.padding;
                int32_t ih = (int32_t)p.by_stride[0].split(kh);
                const float *column = first + (int32_t)kh * column_h + ((ih - at.h.in) << p.width_log);
                float sum = 0;
                for (; (int32_t)kh < kernel_h; kh += axis_h.stride, ih--, column += tap_step)
                    if ((uint32_t)ih < (uint32_t)axis_h.in)
#pragma unroll
                        for (int j = 0; j < Taps; j++)
                            if (from[j] >= 0) sum += column[from[j]];
                if constexpr (C::Lists) scatter_list<C>(p, sum, bias, at, oc, od, oh, ow);
                else y[oh * h.y_stride[3]] = scatter_finish<C>(p, sum, bias, at, oc, od, oh, ow);
            }
        }
    }
}

template <class C>
__global__ void __launch_bounds__(SCATTER_THREADS, 2)
scatter_kernel(const __grid_constant__ ScatterProblem<typename C::T> p)
{
    typedef typename C::T T;
    typedef typename C::Weight Weight;
    constexpr int all = SCATTER_KD * SCATTER_NC * 32;
    const int32_t lane = threadIdx.x % 32;
    int32_t index = blockIdx.x, tile[3];
    for (int a = 2; a >= 0; a--) {
        tile[a] = index % p.tiles[a];
        index /= p.tiles[a];
    }
    ScatterPlace at;
    at.g = index % p.h.groups;
    at.n = index / p.h.groups;
    at.h = scatter_range(p, 1, tile[1]);
    at.w = scatter_range(p, 2, tile[2]);
    const ScatterRange range = scatter_range(p, 0, tile[0]);
    Weight *weights = (Weight *)halo_shared;
    float *planes = (float *)(weights + p.fragments * all);
    float *carry = planes + p.emitted * SCATTER_COLUMNS * SCATTER_PITCH + threadIdx.x;
    const Weight *packed = (const Weight *)p.weights + (int64_t)at.g * p.fragments * all;
    for (int32_t i = threadIdx.x; i < p.fragments * all; i += SCATTER_THREADS) weights[i] = packed[i];

    const int32_t position = threadIdx.x / 32 * 32 + lane / 4 * 4, row = position >> p.width_log;
    const int32_t ih = at.h.in + row, iw = at.w.in + position - (row << p.width_log);
    ScatterLoader<T> loader;
    loader.valid = ih < p.h.axis[1].in ? min(p.h.axis[2].in - iw, 4) : 0;
    loader.x = p.h.x + at.n * p.h.x_stride[0] + ((int64_t)at.g * p.h.in_group + lane % 4 * 2) * p.h.x_stride[1] +
               ih * p.h.x_stride[3] + iw * p.h.x_stride[4];
    const bool busy = __any_sync(0xffffffffu, loader.valid > 0);

    const Axis<int32_t> &depth = p.h.axis[0];
    const int32_t end = tile[0] + 1 == p.tiles[0] ? (depth.out + depth.padding + depth.stride - 1) / depth.stride
                                                  : range.in + p.span[0];
    ScatterValues<T> next[C::Ahead];
#pragma unroll
    for (int u = 0; u < C::Ahead; u++) loader.load(p, range.in, u, next[u]);
    __syncthreads();
    for (int32_t d = range.in; d < end; d++) {
        ScatterSum sum = {};
        if (d < depth.in && busy)
#pragma unroll 1
            for (int32_t f = 0; f < p.fragments; f += C::Ahead) {
                const bool last = f + C::Ahead == p.fragments;
#pragma unroll
                for (int u = 0; u < C::Ahead; u++) {
                    const ScatterOperands<C> x(next[u], !p.rows_of_four && p.pairs_of_channels);
                    loader.load(p, last ? d + 1 : d, last ? u : f + C::Ahead + u, next[u]);
                    scatter_multiply<C>(x, weights + (f + u) * all + lane, sum);
                }
            }
        __syncthreads();        // the planes of the last round have been read
        scatter_hand_on(p, sum, carry, planes, d == range.in);
        __syncthreads();
        for (int32_t k = 0; k < depth.stride; k++) {
            const int32_t od = d * depth.stride - depth.padding + k;
            if (od < range.begin || od >= range.end) continue;
            if (p.taps_w <= 2) scatter_gather<C, 2>(p, at, planes, k, od);
            else scatter_gather<C, SCATTER_WIDTH_TAPS>(p, at, planes, k, od);
        }
    }
}

// ---- packing ----

template <class T> struct ScatterPacking {
    const T *w;
    void *weights;
    T *copy;
    int32_t fragments, in_group, out_group, kernel_d, taps_plane, lanes;
    int64_t elements;
};

// A lane's weights: input channels 8*f + 2*t and the next, column lane / 4 of fragment n.
template <class C> __global__ void __launch_bounds__(SCATTER_THREADS)
scatter_pack_kernel(const __grid_constant__ ScatterPacking<typename C::T> p)
{
    const int32_t threads = gridDim.x * SCATTER_THREADS, thread = blockIdx.x * SCATTER_THREADS + threadIdx.x;
    if (p.copy)
        for (int64_t i = thread; i < p.elements; i += threads) p.copy[i] = p.w[i];
    for (int32_t i = thread; i < p.lanes; i += threads) {
        const int32_t lane = i % 32, n = i / 32 % (SCATTER_KD * SCATTER_NC), f = i / (32 * SCATTER_KD * SCATTER_NC);
        const int32_t g = f / p.fragments, ic = (f - g * p.fragments) * 8 + lane % 4 * 2;
        const int32_t kd = n / SCATTER_NC, column = n % SCATTER_NC * 8 + lane / 4, tap = column / p.out_group;
        float v[2] = {0, 0};
        if (kd < p.kernel_d && tap < p.taps_plane)
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (ic + c < p.in_group)
                    v[c] = Number<typename C::T>::widen(
                        p.w[((((int64_t)g * p.in_group + ic + c) * p.out_group + column - tap * p.out_group) *
                             p.kernel_d + kd) * p.taps_plane + tap]);
        ((typename C::Weight *)p.weights)[i] = sm80_weight<C::Mode>(v[0], v[1]);
    }
}

// ---- on the host ----

// Tiles of `span` inputs along an axis, so that each output has all its inputs in one.
static inline bool scatter_axis(ScatterShape &s, int a, const convt3d__axis &axis, int32_t span)
{
    s.span[a] = span;
    s.step[a] = (int32_t)convt3d__min(span + 1 - convt3d__ceil_div(axis.kernel, axis.stride), axis.in);
    if (a == 2 && s.step[a] > 4) s.step[a] -= s.step[a] % 4;    // rows of x are read by fours
    if (span >= axis.in) s.step[a] = (int32_t)axis.in;
    if (s.step[a] < 1) return false;
    s.tiles[a] = span >= axis.in ? 1 : (int32_t)(1 + convt3d__ceil_div(axis.in - span, s.step[a]));
    return true;
}

static inline const char *scatter_plan(const convt3d__plan *plan, ScatterShape &best)
{
    memset(&best, 0, sizeof best);
    if (plan->cuda_arch < 80) return "needs sm_80";
    if (plan->desc.dtype == CONVT3D_F64) return "f64 is not for tf32";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (!fits_32_bits(plan)) return "an index needs more than 32 bits";
    int64_t columns = plan->out_group * plan->axis[1].kernel * plan->axis[2].kernel;
    for (int a = 0; a < 3; a++) {
        if (plan->axis[a].dilation != 1) return "dilation";
        if (plan->axis[a].padding < 0) return "negative padding";
    }
    if (plan->axis[0].kernel > SCATTER_KD) return "more than 4 taps of depth";
    if (plan->out_group > SCATTER_COLUMNS || columns > SCATTER_COLUMNS)
        return "more than 16 taps of height and width times output channels";
    if (convt3d__ceil_div(plan->axis[2].kernel, plan->axis[2].stride) > SCATTER_WIDTH_TAPS)
        return "more than 4 taps of a phase of the width";
    best.mode = sm80_mode(plan->desc);
    if (best.mode == SM80_SPLIT) best.mode = SM80_SHORT;
    if (plan->in_group > (best.mode == SM80_SHORT ? 64 : 128)) return "too many input channels";
    const int32_t ahead = scatter_ahead(best.mode);
    best.fragments = (int32_t)convt3d__ceil_div(plan->in_group, 8 * ahead) * ahead;
    best.emitted = (int32_t)convt3d__min(plan->axis[0].stride, SCATTER_KD);
    best.carried = SCATTER_KD - best.emitted;
    best.shared = (int32_t)(best.fragments * SCATTER_KD * SCATTER_NC * 32 * sm80_weight_size(best.mode) +
                            best.emitted * SCATTER_COLUMNS * SCATTER_PITCH * 4 +
                            best.carried * SCATTER_COLUMNS * SCATTER_POSITIONS * 4);
    if (best.shared > sm80_most_shared(plan)) return "weights and sums exceed shared memory";
    const ScatterShape blank = best;
    for (int32_t width = SCATTER_POSITIONS; width >= 8; width /= 2)
        for (int32_t pieces = 1; pieces <= plan->axis[0].in; pieces = pieces < 8 ? pieces + 1 : pieces * 2) {
            ScatterShape s = blank;
            const int64_t shared = convt3d__ceil_div(plan->axis[0].kernel, plan->axis[0].stride) - 1;
            int32_t span = (int32_t)(convt3d__ceil_div(plan->axis[0].in, pieces) + (pieces > 1 ? shared : 0));
            if (!scatter_axis(s, 0, plan->axis[0], span) || !scatter_axis(s, 2, plan->axis[2], width) ||
                !scatter_axis(s, 1, plan->axis[1], SCATTER_POSITIONS / width))
                continue;
            // Cycles of a plane: products, at the rate of dense_sm80.cuh, and handing on and gathering.
            double plane = 128.0 * s.fragments * (s.mode == SM80_SHORT ? 5 : s.mode == SM80_TF32 ? 3.5 : 2.5) + 1500;
            double blocks = (double)plan->desc.batch * (double)plan->desc.groups * s.tiles[0] * s.tiles[1] * s.tiles[2];
            if (blocks > INT32_MAX) continue;
            const int64_t together = s.shared > SM80_HALF_SHARED ? 1 : 2;
            double each = (double)(convt3d__ceil_div((int64_t)blocks, plan->multiprocessors * together) * together);
            if (blocks <= plan->multiprocessors) each = 1.5;
            s.cycles = (s.span[0] + 2) * plane * each;
            double bytes = (double)plan->x_count * (double)convt3d__element_size(plan->desc.dtype);
            bytes *= (double)s.span[1] / s.step[1];
            if (s.cycles < bytes / 1.8e3) s.cycles = bytes / 1.8e3;
            if (best.cycles == 0 || s.cycles < best.cycles) best = s;
        }
    return best.cycles > 0 ? "" : "no tile";
}

template <class C> int64_t scatter_weight_lanes(const convt3d__plan *plan, const ScatterShape &s)
{
    return plan->desc.groups * s.fragments * SCATTER_KD * SCATTER_NC * 32;
}

template <class C>
convt3d_status scatter_pack(const convt3d__plan *plan, const ScatterShape &s, const void *w, void *packed, bool copy,
                            void *stream, convt3d_error *error)
{
    ScatterPacking<typename C::T> p = {};
    p.w = (const typename C::T *)w;
    p.weights = packed;
    p.lanes = (int32_t)scatter_weight_lanes<C>(plan, s);
    if (copy) p.copy = (typename C::T *)((char *)packed + p.lanes * (int64_t)sizeof(typename C::Weight));
    p.fragments = s.fragments;
    p.in_group = (int32_t)plan->in_group;
    p.out_group = (int32_t)plan->out_group;
    p.kernel_d = (int32_t)plan->axis[0].kernel;
    p.taps_plane = (int32_t)(plan->axis[1].kernel * plan->axis[2].kernel);
    p.elements = plan->w_count;
    const int64_t grid = convt3d__min(convt3d__ceil_div(p.lanes, SCATTER_THREADS), plan->multiprocessors * 8);
    return convt3d__launch(error, scatter_pack_kernel<C>, dim3((unsigned)grid), dim3(SCATTER_THREADS), 0, stream, p);
}

template <class C>
convt3d_status scatter_run(const convt3d__plan *plan, const convt3d_io *io, const ScatterShape &s, convt3d_error *error)
{
    typedef typename C::T T;
    const convt3d_desc &d = plan->desc;
    ScatterProblem<T> p = {};
    if (!io->w_packed) {
        convt3d_status status = scatter_pack<C>(plan, s, io->w, io->workspace, false, io->stream, error);
        if (status != CONVT3D_OK) return status;
    }
    HaloShape shape = {};
    shape.fused = shape.channels = shape.chunk = shape.phases = shape.phase_step = 1;
    shape.channel_items = shape.channel_step = 1;
    p.h = halo_problem<T>(plan, io, shape, 1);
    convt3d_status aligned = sm80_aligned_weights(
        io, scatter_weight_lanes<C>(plan, s) * (int64_t)sizeof(typename C::Weight), &p.weights, error);
    if (aligned != CONVT3D_OK) return aligned;
    p.h.w = (const T *)(io->w_packed ? (const void *)((const char *)io->w_packed + scatter_weight_lanes<C>(plan, s) *
                                                                                    (int64_t)sizeof(typename C::Weight))
                                     : io->w);
    int64_t blocks = d.batch * d.groups;
    for (int a = 0; a < 3; a++) {
        p.step[a] = s.step[a];
        p.span[a] = s.span[a];
        p.tiles[a] = s.tiles[a];
        blocks *= s.tiles[a];
    }
    p.fragments = s.fragments;
    p.carried = s.carried;
    p.emitted = s.emitted;
    while (1 << p.width_log < s.span[2]) p.width_log++;
    p.taps_w = (int32_t)convt3d__ceil_div(plan->axis[2].kernel, plan->axis[2].stride);
    for (int a = 0; a < 2; a++) p.by_stride[a] = halo_divisor(plan->axis[1 + a].stride);
    p.rows_of_four = d.x_stride[4] == 1 && d.alignment >= 4 * (int64_t)sizeof(T) && plan->axis[2].in % 4 == 0 &&
                     s.step[2] % 4 == 0;
    p.pairs_of_channels = d.x_stride[1] == 1 && d.alignment >= 2 * (int64_t)sizeof(T) && plan->in_group % 2 == 0;
    for (int i = 0; i < 5; i++) {
        if (i != 4 && d.x_stride[i] % 4 != 0) p.rows_of_four = 0;
        if (i != 1 && d.x_stride[i] % 2 != 0) p.pairs_of_channels = 0;
    }
    return convt3d__launch(error, scatter_kernel<C>, dim3((unsigned)blocks), dim3(SCATTER_THREADS), (size_t)s.shared,
                           io->stream, p);
}

template <bool Lists, class Act> auto scatter_modes(const ScatterShape &s, Act act)
{
    switch (s.mode) {
    case SM80_SHORT: return act(ScatterConfig<SM80_SHORT, Lists>());
    case SM80_TF32: return act(ScatterConfig<SM80_TF32, Lists>());
    case SM80_HALF: return act(ScatterConfig<SM80_HALF, Lists>());
    default: return act(ScatterConfig<SM80_BFLOAT, Lists>());
    }
}

template <class Act> auto scatter_instance(const convt3d__plan *plan, const ScatterShape &s, Act act)
{
    return halo_lists(plan) ? scatter_modes<true>(s, act) : scatter_modes<false>(s, act);
}

static inline ScatterShape scatter_shape(const convt3d__plan *plan) { return kept_shape<ScatterShape>(plan); }

}

extern "C" int32_t convt3d__scatter_sm80_refuses(convt3d__plan *plan, char why[96])
{
    convt3d_cuda::ScatterShape s;
    if (convt3d__refuse(why, convt3d_cuda::scatter_plan(plan, s))) return 1;
    convt3d_cuda::keep_shape(plan, s);
    plan->pack_variant = (uint64_t)s.mode;
    return 0;
}

extern "C" double convt3d__scatter_sm80_cost(const convt3d__plan *plan)
{
    return convt3d_cuda::scatter_shape(plan).cycles / 1.25e9 + 7e-6;
}

extern "C" int64_t convt3d__scatter_sm80_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const ScatterShape s = scatter_shape(plan);
    return scatter_instance(plan, s, [&](auto config) {
        return scatter_weight_lanes<decltype(config)>(plan, s) * (int64_t)sizeof(typename decltype(config)::Weight);
    });
}

extern "C" int64_t convt3d__scatter_sm80_packed(const convt3d__plan *plan)
{
    return convt3d__scatter_sm80_workspace(plan) + convt3d__plain_w_packed(plan);
}

extern "C" convt3d_status convt3d__scatter_sm80_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                     void *stream, convt3d_error *error)
{
    using namespace convt3d_cuda;
    const ScatterShape s = scatter_shape(plan);
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return scatter_instance(plan, s, [&](auto config) {
        return scatter_pack<decltype(config)>(plan, s, w, packed, true, stream, error);
    });
}

extern "C" convt3d_status convt3d__scatter_sm80_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    const ScatterShape s = scatter_shape(plan);
    return scatter_instance(plan, s, [&](auto config) {
        typedef decltype(config) C;
        convt3d_status status = convt3d__load_kernel(error, plan, scatter_pack_kernel<C>, 0);
        if (status != CONVT3D_OK) return status;
        return convt3d__load_kernel(error, plan, scatter_kernel<C>, (size_t)s.shared);
    });
}

extern "C" convt3d_status convt3d__scatter_sm80_run(const convt3d__plan *plan, const convt3d_io *io,
                                                    convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    const ScatterShape s = scatter_shape(plan);
    return scatter_instance(plan, s, [&](auto config) { return scatter_run<decltype(config)>(plan, io, s, error); });
}

#endif
