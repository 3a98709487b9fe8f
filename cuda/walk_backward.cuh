// cuda_walk: dx, dw and dbias of few channels a group and a stride of 2 along h, by multiply-adds from rows of dy.
//
// Idea      A thread has one column (w) of a plane of x and walks along h. At step j it reads rows 2j - padding and the
//           next of dy, for each kd, once: they are what taps kh = 2m and 2m + 1 of inputs j - m meet, whose x (for dw)
//           or sums (for dx, of NI input channels) it keeps in registers. dw's taps stay there, too: those of one
//           kd, an output channel and up to four input channels. Depth-wise with three taps a side, all 27 fit, and
//           one walk makes dx and dw. What a step reads sets off a step before. Rows of even lengths are read by
//           aligned pairs of columns where these lie in the middle of the windows (stride 2, padding (k-1)/2).
//           Blocks share out channels, kd and parts of the columns; parts are merged in order, in double. dbias is
//           summed by the blocks of dw whose windows tile dy. Lanes are neighbours along w: of dense rows they read
//           whole sectors.
//           What lies outside is skipped, not multiplied by zero.
// Requires  3, 4 or 7 taps along h and w; stride 2 along h; no dilation along these; dx is not added to;
//           for dw one input channel a group, or with 3 taps up to four, and windows that tile dy; at most 512 pairs
//           of channels a group; f32, f16, bf16.
// Measured  one H200, NCDHW, f32 (f16): depthwise_64_k3 0.60 (0.56) ms for all three gradients, mednext_64_k7 0.32
//           (0.30); dx alone of kb_l1_73 0.88, autoenc_4_32 0.60, gan_64_1_32 0.41; dw of autoenc_4_32 1.02.
// CONVT3D_CUDA_PART 18.
#pragma once

#include "merge.cuh"

CONVT3D__DECLARE_KERNEL(walk)

#if CONVT3D__PART(18)

namespace convt3d_cuda {

enum { WALK_THREADS = 256, WALK_LENGTH = 16, WALK_SHARED = 96 * 1024 };
enum { WALK_FEW_BLOCKS = 132 * 2 };     // with less of them dx takes shorter segments of its columns

struct WalkProblem {
    const void *x, *w, *dy;
    void *dx;
    double *partial, *bias_part;            // [part][element of w]; [part][kd of a block][channel], or null
    int64_t x_stride[3], dx_stride[3], y_stride[3];     // samples, channels, planes; rows and along w: below
    int x_row, dx_row, y_row, x_w, dx_w, y_w;
    int in[3], x_rows, out[3], kernel_d, stride_d, dilation_d, padding[3], stride_w;
    int in_group, out_group, in_channels, out_channels, blocks_group, taps;
    int length, segments, depth_blocks;     // of a segment; of a column; kd shared out over blocks of dw, or 1
    int64_t columns, part, count;           // of all samples; of a part; elements of w
    Divisor by_w, by_d, by_segments;
};

// Where a thread walks: its column, and its inputs along h. Rows of dy from step `steps` on are another thread's.
struct WalkPlace {
    int n, d, w, first, end, steps;
    __device__ __forceinline__ WalkPlace(const WalkProblem &p, int64_t column, int window)
    {
        uint32_t column_w, column_d, segment;
        const uint32_t plane = divide((uint32_t)column, p.by_w, &column_w);
        n = (int)divide(divide(plane, p.by_d, &column_d), p.by_segments, &segment);
        w = (int)column_w;  d = (int)column_d;
        first = (int)segment * p.length;
        end = min(p.in[1], first + p.length);
        steps = end == p.in[1] ? end + window - 1 : end;
    }
};

// What a row of dy is read by: elements, or aligned pairs of which the first begins one element before the window.
template <class T, bool Pairs> struct WalkRaw { typedef T Type; };
template <> struct WalkRaw<float, true> { typedef float2 Type; };
template <> struct WalkRaw<__half, true> { typedef __half2 Type; };
template <> struct WalkRaw<__nv_bfloat16, true> { typedef __nv_bfloat162 Type; };

// One instance: NI input channels, K taps along h and w; Depth: kd of a thread, 0: all, one after the other;
// Pairs: of dy.
template <class T_, int NI_, int K_, int Depth_, bool Dx_, bool Dw_, bool Pairs_> struct WalkTile {
    typedef T_ T;
    typedef typename WalkRaw<T_, Pairs_>::Type Raw;
    static constexpr int NI = NI_, K = K_, Depth = Depth_, Window = (K_ + 1) / 2, Planes = Depth_ == 3 ? 3 : 1;
    static constexpr int Padding = (K_ - 1) / 2;                    // of pairs
    static constexpr int Raws = Pairs_ ? (K_ + 2) / 2 : K_;         // of a row
    static constexpr int Taps = (K_ * K_ * NI_ + 3) / 4 * 4;        // in shared memory, of one kd and output channel
    static constexpr int Blocks = Depth_ != 0 ? 2 : NI_ == 8 ? 3 : 4;               // of a multiprocessor
    static constexpr bool Dx = Dx_, Dw = Dw_, Pairs = Pairs_;
};

template <class C> struct WalkState {
    float x[C::Window][C::NI], dx[C::Window][C::NI];        // of inputs j, j - 1, ...
    typename C::T ahead[C::Dw ? C::NI : 1];                 // x of input j + 1
    float dw[C::Dw ? C::Planes : 1][C::K][C::K][C::NI], bias;
    float w[C::Dx && C::Depth == 3 ? 3 : 1][C::K][C::K];    // of Depth 3
    bool inside[C::K];                                      // columns of dy that there are
    bool finite;                                            // weights
};

// The two rows of a step in one plane of dy: as they lie in memory, on their way; and widened.
template <class C> struct WalkFetch { typename C::Raw v[2][C::Raws]; };
template <class C> struct WalkRows { float v[2][C::K]; };

__device__ __forceinline__ bool walk_inside(int i, int size) { return (unsigned)i < (unsigned)size; }

// plane: of dy at the window's first element; there: whether there is one.
template <class C>
__device__ __forceinline__ void walk_fetch(const WalkProblem &p, const WalkState<C> &s, const typename C::T *plane,
                                           bool there, int row, WalkFetch<C> &fetch)
{
    typedef typename C::Raw Raw;
#pragma unroll
    for (int a = 0; a < 2; a++) {
        const bool real = there && walk_inside(row + a, p.out[1]);
        const typename C::T *from = plane + (row + a) * p.y_row;
#pragma unroll
        for (int i = 0; i < C::Raws; i++) {
            fetch.v[a][i] = Raw();
            if constexpr (C::Pairs) {       // of both elements one is in the window at least
                if (real && s.inside[i == 0 ? 0 : 2 * i - 1]) fetch.v[a][i] = ((const Raw *)(from - 1))[i];
            } else if (real && s.inside[i]) fetch.v[a][i] = from[i * p.y_w];
        }
    }
}

template <class C>
__device__ __forceinline__ void walk_widen(const WalkFetch<C> &fetch, WalkRows<C> &rows)
{
#pragma unroll
    for (int a = 0; a < 2; a++)
#pragma unroll
        for (int k = 0; k < C::K; k++) {
            if constexpr (C::Pairs)
                rows.v[a][k] = Number<typename C::T>::widen(k % 2 ? fetch.v[a][(k + 1) / 2].x : fetch.v[a][k / 2].y);
            else rows.v[a][k] = Number<typename C::T>::widen(fetch.v[a][k]);
        }
}

// Tap i of shared memory, which comes in fours; i is known to the compiler, which reads each four once.
__device__ __forceinline__ float walk_tap(const float *w, int i)
{
    const float4 four = ((const float4 *)w)[i / 4];
    return i % 4 == 0 ? four.x : i % 4 == 1 ? four.y : i % 4 == 2 ? four.z : four.w;
}

// What two rows add. plane: of dw's registers; there: whether the rows' plane is; w: of the plane's taps, [kh][kw][NI];
// to_dw: the rows are the thread's. Checked: some of it is outside, or may not be multiplied by zero.
template <class C, bool Checked>
__device__ __forceinline__ void walk_add(const WalkProblem &p, WalkState<C> &s, const WalkRows<C> &rows, int j,
                                         int plane, bool there, const float *w, bool to_dw, bool to_bias)
{
#pragma unroll
    for (int a = 0; a < 2; a++) {
        if (Checked && !(there && walk_inside(2 * j - p.padding[1] + a, p.out[1]))) continue;
        if (C::Dw && to_bias && to_dw)
#pragma unroll
            for (int k = 0; k < C::K; k++) {
                const int counted = C::Pairs ? C::Padding : p.padding[2], end = counted + (C::Pairs ? 2 : p.stride_w);
                if (k >= counted && k < end) s.bias += rows.v[a][k];
            }
#pragma unroll
        for (int m = 0; m < C::Window; m++) {
            const int kh = 2 * m + a;
            if (kh >= C::K) continue;
            const bool live = !Checked || (C::Dw && to_dw && j - m >= 0 && j - m < p.in[1]);
#pragma unroll
            for (int k = 0; k < C::K; k++) {
                if (Checked && !s.inside[k]) continue;
#pragma unroll
                for (int c = 0; c < C::NI; c++) {
                    if constexpr (C::Dx && C::Depth == 3) s.dx[m][c] += rows.v[a][k] * s.w[plane][kh][k];
                    else if constexpr (C::Dx) s.dx[m][c] += rows.v[a][k] * walk_tap(w, (kh * C::K + k) * C::NI + c);
                    if constexpr (C::Dw) if (live) s.dw[plane][kh][k][c] += s.x[m][c] * rows.v[a][k];
                }
            }
        }
    }
}

// Sets off for the inputs that step j will add.
template <class C>
__device__ __forceinline__ void walk_ahead(const WalkProblem &p, WalkState<C> &s, const typename C::T *x, int j,
                                           int channels)
{
    if constexpr (C::Dw)
#pragma unroll
        for (int c = 0; c < C::NI; c++)
            s.ahead[c] = j >= 0 && j < p.x_rows && c < channels ? x[c * p.x_stride[1] + j * p.x_row]
                                                                : typename C::T(0.f);
}

// The inputs that step j adds, and those before it one further.
template <class C>
__device__ __forceinline__ void walk_shift(const WalkProblem &p, WalkState<C> &s, const typename C::T *x, int j,
                                           int channels)
{
#pragma unroll
    for (int m = C::Window - 1; m > 0; m--)
#pragma unroll
        for (int c = 0; c < C::NI; c++) {
            if (C::Dw) s.x[m][c] = s.x[m - 1][c];
            if (C::Dx) s.dx[m][c] = s.dx[m - 1][c];
        }
#pragma unroll
    for (int c = 0; c < C::NI; c++) {
        if constexpr (C::Dw) s.x[0][c] = Number<typename C::T>::widen(s.ahead[c]);
        if (C::Dx) s.dx[0][c] = 0;
    }
    walk_ahead<C>(p, s, x, j + 1, channels);
}

// Whether all that step j meets is inside and no infinity is multiplied by what stands for outside, zero.
template <class C>
__device__ __forceinline__ bool walk_is_plain(const WalkProblem &p, const WalkState<C> &s, int j, bool to_dw)
{
    if (C::Dx && !s.finite) return false;
    if (!C::Dw) return true;
    float zero = 0;
#pragma unroll
    for (int m = 0; m < C::Window; m++)
#pragma unroll
        for (int c = 0; c < C::NI; c++) zero += s.x[m][c] * 0.f;
    return to_dw && j >= C::Window - 1 && j < p.in[1] && zero == 0;
}

// One column from end to end. unit: block of input channels of a group; oc, kd: of dw. weights: [oc][tap][NI].
template <class C>
__device__ __forceinline__ void walk_column(const WalkProblem &p, WalkState<C> &s, int64_t column, int g, int block,
                                            int oc, int kd, const float *weights)
{
    typedef typename C::T T;
    const WalkPlace at(p, column, C::Window);
    const int ic = g * p.in_group + block * C::NI, channels = min((int)C::NI, p.in_group - block * C::NI);
    const T *x = (const T *)p.x + at.n * p.x_stride[0] + ic * p.x_stride[1] + at.d * p.x_stride[2] + at.w * p.x_w;
    T *dx = (T *)p.dx + at.n * p.dx_stride[0] + ic * p.dx_stride[1] + at.d * p.dx_stride[2] + at.w * p.dx_w;
    const int ow = at.w * p.stride_w - p.padding[2], od = at.d * p.stride_d - p.padding[0];
    const T *dy = (const T *)p.dy + at.n * p.y_stride[0] + (int64_t)(g * p.out_group + oc) * p.y_stride[1] +
                  ow * p.y_w;
#pragma unroll
    for (int k = 0; k < C::K; k++) s.inside[k] = ow + k >= 0 && ow + k < p.out[2];
    walk_ahead<C>(p, s, x, at.first - (C::Window - 1), channels);
#pragma unroll
    for (int m = C::Window - 1; m > 0; m--) walk_shift<C>(p, s, x, at.first - m, channels);
    const int end = C::Dx ? at.end + C::Window - 1 : at.steps, planes = C::Depth == 3 ? 3 : 1;
    const int all = C::Depth == 0 ? p.out_group * p.kernel_d : 1;
    const T *plane[planes];                 // of dy, and whether they are there, one step ahead as what is fetched
    bool there[planes];
    WalkFetch<C> fetch[planes];
    const auto go_to = [&](int o, int depth) {
#pragma unroll
        for (int k = 0; k < planes; k++) {
            const int d = od + (depth + k) * p.dilation_d;
            there[k] = walk_inside(d, p.out[0]);
            plane[k] = dy + o * p.y_stride[1] + d * p.y_stride[2];
        }
    };
    const auto fetch_planes = [&](int row) {
#pragma unroll
        for (int k = 0; k < planes; k++) walk_fetch<C>(p, s, plane[k], there[k], row, fetch[k]);
    };
    int o = 0, depth = C::Depth == 1 ? kd : 0;
    go_to(o, depth);
    fetch_planes(2 * at.first - p.padding[1]);
#pragma unroll 1
    for (int j = at.first; j < end; j++) {
        const int row = 2 * j - p.padding[1];
        const bool to_dw = j < at.steps;
        walk_shift<C>(p, s, x, j, channels);
        const bool plain = walk_is_plain<C>(p, s, j, to_dw);
#pragma unroll 1
        for (int i = 0; i < all; i++) {
            WalkRows<C> rows[planes];
            bool now[planes];
#pragma unroll
            for (int k = 0; k < planes; k++) {
                walk_widen<C>(fetch[k], rows[k]);
                now[k] = there[k];
            }
            if constexpr (C::Depth == 0) {
                depth = depth + 1 < p.kernel_d ? depth + 1 : 0;
                if (depth == 0) o = o + 1 < p.out_group ? o + 1 : 0;
                go_to(o, depth);
            }
            fetch_planes(i == all - 1 ? row + 2 : row);
#pragma unroll
            for (int k = 0; k < planes; k++) {
                const bool to_bias = C::Dw && depth + k >= p.padding[0] && depth + k < p.padding[0] + p.stride_d;
                const float *taps = weights + i * C::Taps;
                if (plain) walk_add<C, false>(p, s, rows[k], j, k, now[k], taps, to_dw, to_bias);
                else walk_add<C, true>(p, s, rows[k], j, k, now[k], taps, to_dw, to_bias);
            }
        }
        const int h = j - (C::Window - 1);
        if (C::Dx && h >= at.first && h < at.end)
#pragma unroll
            for (int c = 0; c < C::NI; c++)
                if (c < channels)
                    dx[c * p.dx_stride[1] + h * p.dx_row] = Number<T>::round(s.dx[C::Window - 1][c]);
    }
}

// The block's sums of dw to its part.
template <class C>
__device__ __forceinline__ void walk_store(const WalkProblem &p, WalkState<C> &s, int part, int g, int block, int oc,
                                           int kd)
{
    enum { Sums = C::Planes * C::K * C::K * C::NI + 1 };
    __shared__ float shared[WALK_THREADS / 32][Sums];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < Sums; i++) {
        float v = i == Sums - 1 ? s.bias : ((const float *)s.dw)[i < Sums - 1 ? i : 0];
#pragma unroll
        for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
        if (lane == 0) shared[warp][i] = v;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < Sums; i += WALK_THREADS) {
        double sum = 0;
        for (int k = 0; k < WALK_THREADS / 32; k++) sum += (double)shared[k][i];
        if (i == Sums - 1) {
            if (p.bias_part && block == 0)
                p.bias_part[((int64_t)part * p.depth_blocks + kd) * p.out_channels + g * p.out_group + oc] = sum;
            continue;
        }
        const int c = i % C::NI, tap = i / C::NI, ic = block * C::NI + c;
        if (ic < p.in_group)
            p.partial[part * p.count + ((int64_t)(g * p.in_group + ic) * p.out_group + oc) * p.taps +
                      kd * C::K * C::K + tap] = sum;
    }
}

// A block's channels. dx: weights of its unit to shared memory; dw, and both: one pair of a unit and an output channel.
template <class C> __global__ void __launch_bounds__(WALK_THREADS, C::Blocks)
walk_kernel(const __grid_constant__ WalkProblem p)
{
    typedef typename C::T T;
    extern __shared__ __align__(16) float walk_shared[];
    WalkState<C> s = {};
    int64_t b = blockIdx.x;
    const int kd = C::Dw ? (int)(b % p.depth_blocks) : 0;
    if (C::Dw) b /= p.depth_blocks;
    const int block = (int)(b % p.blocks_group);
    b /= p.blocks_group;
    const int channels = C::Dw ? p.out_channels : p.out_channels / p.out_group, channel = (int)(b % channels);
    const int64_t part = b / channels;
    const int g = C::Dw ? channel / p.out_group : channel, oc = C::Dw ? channel % p.out_group : 0;
    const T *w = (const T *)p.w + ((int64_t)g * p.in_group + block * C::NI) * p.out_group * p.taps;
    if constexpr (C::Dx && C::Depth == 3) {
#pragma unroll
        for (int i = 0; i < 27; i++) {
            const float v = Number<T>::widen(w[i]);
            ((float *)s.w)[i] = v;
            s.finite = (i == 0 || s.finite) && v * 0.f == 0;
        }
    } else if constexpr (C::Dx) {
        const int row = p.out_group * p.taps, real = min((int)C::NI, p.in_group - block * C::NI);
        bool finite = true;
        for (int i = threadIdx.x; i < row * C::NI; i += WALK_THREADS) {
            const float v = i % C::NI < real ? Number<T>::widen(w[(int64_t)(i % C::NI) * row + i / C::NI]) : 0.f;
            const int plane = C::K * C::K * C::NI;
            walk_shared[i / plane * C::Taps + i % plane] = v;
            finite = finite && v * 0.f == 0;
        }
        s.finite = __syncthreads_and(finite);
    }
    const int64_t end = min(p.columns, (part + 1) * p.part);
    for (int64_t column = part * p.part + threadIdx.x; column < end; column += WALK_THREADS)
        walk_column<C>(p, s, column, g, block, oc, kd, walk_shared);
    if constexpr (C::Dw) walk_store<C>(p, s, (int)part, g, block, oc, kd);
}

template <class T> __global__ void __launch_bounds__(MERGE_THREADS) walk_merge_kernel(const PartsMerge p)
{
    merge_parts(p, [&](int64_t i, int64_t channel, bool bias, double sum) {
        T *to = bias ? (T *)p.dbias + channel : (T *)p.dw + i;
        if (p.accumulate & (bias ? CONVT3D_BACKWARD_BIAS : CONVT3D_BACKWARD_W)) sum += (double)Number<T>::widen(*to);
        *to = Number<T>::round((float)sum);
    });
}

// ---- the host's side ----

static int walk_kernel_side(const convt3d__plan *plan) { return (int)plan->axis[1].kernel; }

// Whether one walk makes dx and dw: depth-wise, three taps a side.
static bool walk_is_joint(const convt3d__plan *plan)
{
    return plan->in_group == 1 && plan->out_group == 1 && walk_kernel_side(plan) == 3 && plan->axis[0].kernel == 3;
}

static int walk_dx_channels(const convt3d__plan *plan)
{
    const int side = walk_kernel_side(plan);
    return side == 4 ? 8 : plan->in_group == 1 ? 1 : plan->in_group <= 4 ? 4 : 8;
}

static int walk_dw_channels(const convt3d__plan *plan) { return plan->in_group == 1 ? 1 : 4; }

// Whether dy is read by pairs: rows of even lengths, side by side, and windows about two columns each.
static bool walk_has_pairs(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    bool even = true;
    for (int i = 0; i < 4; i++) even = even && d.dy_stride[i] % 2 == 0;
    return even && d.dy_stride[4] == 1 && plan->axis[2].out % 2 == 0 && plan->axis[2].stride == 2 &&
           plan->axis[2].padding == (plan->axis[2].kernel - 1) / 2 && d.alignment >= 2 * convt3d__element_size(d.dtype);
}

// act(tile) for what is wanted of the plan.
template <class T, bool Dx, bool Dw, bool Pairs, class Act> auto walk_type_instance(const convt3d__plan *plan, Act act)
{
    const int k = walk_kernel_side(plan), ni = Dx ? walk_dx_channels(plan) : walk_dw_channels(plan);
    if (walk_is_joint(plan)) return act(WalkTile<T, 1, 3, 3, Dx, Dw, Pairs>());
    if constexpr (Dx) {                 // not joint: one of them
        if (k == 7) return act(WalkTile<T, 1, 7, 0, true, false, Pairs>());
        if (k == 4) return act(WalkTile<T, 8, 4, 0, true, false, Pairs>());
        if (ni == 1) return act(WalkTile<T, 1, 3, 0, true, false, Pairs>());
        if (ni == 4) return act(WalkTile<T, 4, 3, 0, true, false, Pairs>());
        return act(WalkTile<T, 8, 3, 0, true, false, Pairs>());
    } else {
        if (k == 7) return act(WalkTile<T, 1, 7, 1, false, true, Pairs>());
        if (k == 4) return act(WalkTile<T, 1, 4, 1, false, true, Pairs>());
        if (ni == 4) return act(WalkTile<T, 4, 3, 1, false, true, Pairs>());
        return act(WalkTile<T, 1, 3, 1, false, true, Pairs>());
    }
}
template <class T, bool Dx, bool Dw, class Act> auto walk_pairs_instance(const convt3d__plan *plan, Act act)
{
    if (walk_has_pairs(plan)) return walk_type_instance<T, Dx, Dw, true>(plan, act);
    return walk_type_instance<T, Dx, Dw, false>(plan, act);
}
template <bool Dx, bool Dw, class Act> auto walk_instance(const convt3d__plan *plan, Act act)
{
    if (plan->desc.dtype == CONVT3D_F16) return walk_pairs_instance<__half, Dx, Dw>(plan, act);
    if (plan->desc.dtype == CONVT3D_BF16) return walk_pairs_instance<__nv_bfloat16, Dx, Dw>(plan, act);
    return walk_pairs_instance<float, Dx, Dw>(plan, act);
}

static const char *walk_refuses(const convt3d__plan *plan, const int64_t *x_stride)
{
    const convt3d_desc &d = plan->desc;
    const convt3d__axis *a = plan->axis;
    if (d.dtype == CONVT3D_F64) return "f64";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (a[1].kernel != a[2].kernel || (a[1].kernel != 3 && a[1].kernel != 4 && a[1].kernel != 7))
        return "wants 3, 4 or 7 taps along h and w";
    if (a[1].kernel == 7 && plan->in_group > 1) return "7 taps are for depth-wise problems";
    if (a[1].stride != 2 || a[1].dilation != 1 || a[2].dilation != 1) return "wants stride 2 along h and no dilation";
    if (!fits_32_bits(plan) || a[1].out > 2048 || a[2].out > 2048 || a[0].kernel > 32) return "too large";
    for (int i = 3; i < 5; i++)
        if (x_stride[i] > INT32_MAX / 4096 || d.dy_stride[i] > INT32_MAX / 4096) return "rows too far apart";
    if (plan->in_group * plan->out_group > 512) return "more than 512 pairs of channels a group";
    if (d.batch * a[0].in * a[2].in * a[1].in > INT32_MAX / 2 || plan->w_count > 1 << 24) return "too many positions";
    if (plan->out_group * plan->taps * 8 * 4 > WALK_SHARED) return "the weights of a group are beyond shared memory";
    return "";
}

// Do windows of one stride, from the padding on, tile dy? Then they serve dbias.
static bool walk_tiles(const convt3d__plan *plan)
{
    const convt3d__axis *a = plan->axis;
    const int64_t window = (a[1].kernel + 1) / 2;
    for (int i = 0; i < 3; i += 2)
        if (a[i].padding < 0 || a[i].padding + a[i].stride > a[i].kernel || a[i].out > a[i].in * a[i].stride ||
            a[i].dilation != 1) return false;
    return a[1].padding >= 0 && a[1].out <= 2 * (a[1].in + window - 1) - a[1].padding;
}

struct WalkShape { int64_t length, columns, part, parts, depth_blocks, blocks_group, units, bias, bytes; };

static WalkShape walk_shape(const convt3d__plan *plan, bool dx, bool dw)
{
    WalkShape s;
    const convt3d_desc &d = plan->desc;
    const int ni = walk_is_joint(plan) ? 1 : dx ? walk_dx_channels(plan) : walk_dw_channels(plan);
    s.depth_blocks = walk_is_joint(plan) ? 1 : plan->axis[0].kernel;
    s.blocks_group = convt3d__ceil_div(plan->in_group, ni);
    s.units = s.blocks_group * (dw ? d.out_channels * s.depth_blocks : d.groups);
    s.length = WALK_LENGTH;
    const auto columns = [&] {
        return d.batch * plan->axis[0].in * convt3d__ceil_div(plan->axis[1].in, s.length) * plan->axis[2].in;
    };
    while (dx && !dw && s.length > 4 && s.units * columns() <= WALK_FEW_BLOCKS * WALK_THREADS) s.length /= 2;
    s.columns = columns();
    const int64_t wanted = convt3d__max(1, convt3d__min(132 * 16 / s.units, s.columns / WALK_THREADS));
    s.part = WALK_THREADS;
    if (dw) s.part = convt3d__ceil_div(convt3d__ceil_div(s.columns, wanted), WALK_THREADS) * WALK_THREADS;
    s.parts = convt3d__ceil_div(s.columns, s.part);
    s.bias = (s.parts * plan->w_count * 8 + 255) / 256 * 256;
    s.bytes = s.bias + s.parts * s.depth_blocks * d.out_channels * 8;
    return s;
}

static WalkProblem walk_problem(const convt3d__plan *plan, const convt3d_io *io, const WalkShape &s, bool dx, bool dw)
{
    const convt3d_desc &d = plan->desc;
    WalkProblem p = {};
    p.x = io->x;  p.dy = io->dy;  p.dx = dx ? io->dx : nullptr;
    p.x_rows = dw && io->dw ? (int)plan->axis[1].in : 0;        // for dbias alone there may be no x
    p.w = io->w_packed ? io->w_packed : io->w;
    p.partial = (double *)io->workspace;
    p.bias_part = dw && io->dbias ? (double *)((char *)io->workspace + s.bias) : nullptr;
    for (int i = 0; i < 3; i++) {
        p.x_stride[i] = d.x_stride[i];  p.dx_stride[i] = d.dx_stride[i];  p.y_stride[i] = d.dy_stride[i];
        p.in[i] = (int)plan->axis[i].in;  p.out[i] = (int)plan->axis[i].out;
        p.padding[i] = (int)plan->axis[i].padding;
    }
    p.x_row = (int)d.x_stride[3];  p.dx_row = (int)d.dx_stride[3];  p.y_row = (int)d.dy_stride[3];
    p.x_w = (int)d.x_stride[4];  p.dx_w = (int)d.dx_stride[4];  p.y_w = (int)d.dy_stride[4];
    p.kernel_d = (int)plan->axis[0].kernel;  p.stride_d = (int)plan->axis[0].stride;
    p.dilation_d = (int)plan->axis[0].dilation;  p.stride_w = (int)plan->axis[2].stride;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.in_channels = (int)d.in_channels;  p.out_channels = (int)d.out_channels;
    p.blocks_group = (int)s.blocks_group;  p.taps = (int)plan->taps;
    p.length = (int)s.length;
    p.segments = (int)convt3d__ceil_div(plan->axis[1].in, s.length);
    p.depth_blocks = (int)s.depth_blocks;
    p.columns = s.columns;  p.part = s.part;  p.count = plan->w_count;
    p.by_w = divisor_of(plan->axis[2].in);  p.by_d = divisor_of(plan->axis[0].in);
    p.by_segments = divisor_of(p.segments);
    return p;
}

template <bool Dx, bool Dw>
convt3d_status walk_launch(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    const WalkShape s = walk_shape(plan, Dx, Dw);
    const WalkProblem p = walk_problem(plan, io, s, Dx, Dw);
    convt3d_status status = walk_instance<Dx, Dw>(plan, [&](auto tile) {
        typedef decltype(tile) C;
        const size_t shared =
            C::Dx && C::Depth != 3 ? (size_t)(plan->out_group * plan->axis[0].kernel * C::Taps * 4) : 0;
        return convt3d__launch(error, walk_kernel<C>, dim3((unsigned)(s.units * s.parts)), dim3(WALK_THREADS), shared,
                               io->stream, p);
    });
    if (status != CONVT3D_OK || !Dw) return status;
    const PartsMerge merge = {p.partial, p.bias_part, io->dw, io->dbias, plan->w_count, (int)s.parts,
                             (int)(s.parts * s.depth_blocks), (int)plan->desc.out_channels, plan->desc.accumulate};
    return walk_instance<Dx, Dw>(plan, [&](auto tile) {
        return convt3d__launch(error, walk_merge_kernel<typename decltype(tile)::T>, dim3(MERGE_BLOCKS),
                               dim3(MERGE_THREADS), 0, io->stream, merge);
    });
}

template <bool Dx, bool Dw> convt3d_status walk_load(const convt3d__plan *plan, convt3d_error *error)
{
    return walk_instance<Dx, Dw>(plan, [&](auto tile) {
        typedef decltype(tile) C;
        convt3d_status status = convt3d__load_kernel(error, plan, walk_kernel<C>, C::Dx ? (size_t)WALK_SHARED : 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, walk_merge_kernel<typename C::T>, 0);
        return status;
    });
}

// Seconds: bytes at 2.3e12, or the cycles of reads (two a warp and value), multiply-adds (a quarter) and weights, which
// few blocks take longer for.
static double walk_seconds(const convt3d__plan *plan, int ni, double units, double blocks, double weights)
{
    const double k = (double)walk_kernel_side(plan), size = (double)convt3d__element_size(plan->desc.dtype);
    const double positions = (double)plan->x_count / (double)plan->desc.in_channels;
    const double warps = positions / 32 * units * (double)plan->axis[0].kernel;
    const double idle = blocks < 264 ? 264 / blocks : 1, scattered = plan->desc.dy_stride[4] == 1 ? 1 : 8;
    const double cycles = warps * (4 * k * scattered + ni + k * k * (0.3 * ni + weights)) * idle / 132;
    const double bytes = (double)(plan->x_count + plan->y_count) * size * scattered;
    return (bytes / 2.3e12 > cycles / 1.6e9 ? bytes / 2.3e12 : cycles / 1.6e9) + 8e-6;
}

}

// Of the row for dx or of that for dw, as plan->pass says; so is its cost.
extern "C" int32_t convt3d__walk_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    if (plan->pass & CONVT3D_BACKWARD_X) {
        if (plan->desc.accumulate & CONVT3D_BACKWARD_X) return convt3d__refuse(why, "does not add to dx");
        return convt3d__refuse(why, walk_refuses(plan, plan->desc.dx_stride));
    }
    if (plan->in_group > 4 || (plan->in_group > 1 && walk_kernel_side(plan) != 3))
        return convt3d__refuse(why, "more than one input channel a group, or with three taps four");
    if (!walk_tiles(plan)) return convt3d__refuse(why, "windows do not tile dy, as dbias wants");
    return convt3d__refuse(why, walk_refuses(plan, plan->desc.x_stride));
}

extern "C" double convt3d__walk_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const bool dx = plan->pass & CONVT3D_BACKWARD_X;
    const WalkShape s = walk_shape(plan, dx, !dx);
    const double blocks = (double)(s.units * s.parts);
    if (dx) {
        const int ni = walk_is_joint(plan) ? 1 : walk_dx_channels(plan);
        return walk_seconds(plan, ni, (double)s.units * (double)plan->out_group, blocks,
                            walk_is_joint(plan) ? 0 : ni > 4 ? 2 : 1);
    }
    const int ni = walk_dw_channels(plan);
    return walk_seconds(plan, ni, (double)s.units / (double)s.depth_blocks, blocks, ni > 1 ? 5 : 0);
}

extern "C" int64_t convt3d__walk_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const int64_t bytes = walk_shape(plan, false, true).bytes;
    return walk_is_joint(plan) ? convt3d__max(bytes, walk_shape(plan, true, true).bytes) : bytes;
}

extern "C" convt3d_status convt3d__walk_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = walk_is_joint(plan) ? walk_load<true, true>(plan, error) : CONVT3D_OK;
    if (status != CONVT3D_OK) return status;
    return plan->pass & CONVT3D_BACKWARD_X ? walk_load<true, false>(plan, error) : walk_load<false, true>(plan, error);
}

// Both gradients are wanted of one call where both rows are this one's.
extern "C" convt3d_status convt3d__walk_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    const bool dx = (plan->pass & CONVT3D_BACKWARD_X) && io->dx;
    const bool dw = (plan->pass & ~CONVT3D_BACKWARD_X) && (io->dw || io->dbias);
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    if (dx && dw && walk_is_joint(plan)) return walk_launch<true, true>(plan, io, error);
    if (dx) status = walk_launch<true, false>(plan, io, error);
    if (dw && status == CONVT3D_OK) status = walk_launch<false, true>(plan, io, error);
    return status;
}

#endif
