// cuda_generic, backward: the kernels of dx and of dw and dbias that accept everything the reference accepts.
//
// Idea      dx gathers: it is an ordinary convolution of g, the gradient of the convolution's output. A thread computes
//           4 inputs for 8 channels. Its block brings the weights of 8 output channels and up to 16 taps into shared
//           memory; for each tap a thread finds out once which of its positions it serves, then takes its 4 x 8
//           multiply-adds over the output channels. A tap that lands outside the output is not computed, so that NaN
//           and infinity reach what they reach in the reference.
//           dw: a warp takes one tap, 8 x 8 channels (4 x 4, or 1 x 1 and 4 taps, where groups are small) and one part
//           of the inputs; its lanes are neighbouring positions, and each adds its products to a tile in registers. In
//           the end the lanes' tiles are added by exchanges, and stored as a partial sum. columns_kernel (sums.cuh)
//           adds the parts, whose number the shape alone decides; dbias is summed by channel_sums.
//           Where channels lie side by side (NDHWC) both read them as vectors.
// Requires  nothing. Indices are 32 bits where the problem fits, 64 otherwise.
// Tile      dx 1024 inputs x 8 channels a block (1 where a group has one); dw 8 x 8 channels x 1 tap a warp.
// Measured  one H200, f32, NCDHW: 48->48 of 64^3 x 8, k3 s1: dx 14.4 ms, dw 23 ms, dbias 0.11 ms; 64->32 of 64^3 x 2,
//           k2 s2: 1.43, 1.76 and 0.14 ms; depth-wise, 64 of 32x64x64 x 4, k3 s2: 1.96, 2.6 and 0.26 ms.
// CONVT3D_CUDA_PART 10.
#pragma once

CONVT3D__DECLARE_KERNEL(generic_dx)
CONVT3D__DECLARE_KERNEL(generic_dw)

extern "C" CONVT3D__HIDDEN convt3d_status convt3d__cuda_flip_ready(const convt3d__plan *plan, convt3d_error *error);

#if CONVT3D__PART(10)

namespace convt3d_cuda {

enum { BACK_THREADS = 256, BACK_WARPS = BACK_THREADS / 32, DX_POSITIONS = 4, DX_DEPTH = 8, DX_TAPS = 16 };

// Division of the indices below by what is fixed at launch.
template <class I> struct Divide;
template <> struct Divide<int32_t> {
    FixedDivisor by;
    Divide() = default;
    explicit Divide(int64_t d) : by(fixed_divisor(d)) {}
    __device__ __forceinline__ int32_t operator()(int32_t n) const { return by.quotient(n); }
};
template <> struct Divide<int64_t> {
    int64_t by;
    Divide() = default;
    explicit Divide(int64_t d) : by(convt3d__max(d, 1)) {}
    __device__ __forceinline__ int64_t operator()(int64_t n) const { return n / by; }
};

// The positions of x's shape, counted through (n, d, h, w), and the outputs that they reach: o = i*stride - padding.
template <class I> struct InputBox {
    I positions, in[3], out[3], stride[3], padding[3], dilation[3], kernel[3];
    Divide<I> by[3];
};

template <class I> struct InputPoint { I n, i[3], o[3]; };

template <class I> __device__ __forceinline__ InputPoint<I> point_of(const InputBox<I> &b, I q)
{
    InputPoint<I> p;
    I rest;
#pragma unroll
    for (int a = 2; a >= 0; a--) {
        rest = b.by[a](q);
        p.i[a] = q - rest * b.in[a];
        p.o[a] = p.i[a] * b.stride[a] - b.padding[a];
        q = rest;
    }
    p.n = q;
    return p;
}

static __device__ __forceinline__ bool below(int32_t v, int32_t size) { return (uint32_t)v < (uint32_t)size; }
static __device__ __forceinline__ bool below(int64_t v, int64_t size) { return (uint64_t)v < (uint64_t)size; }

static int64_t input_positions(const convt3d__plan *plan)
{
    return plan->desc.batch * plan->axis[0].in * plan->axis[1].in * plan->axis[2].in;
}

// From the first to the last element of a tensor of x's or y's shape.
static int64_t spans(const convt3d__plan *plan, const int64_t stride[5], bool is_x)
{
    int64_t channels = is_x ? plan->desc.in_channels : plan->desc.out_channels;
    int64_t span = convt3d__max(plan->desc.batch - 1, 0) * stride[0] + (channels - 1) * stride[1];
    for (int a = 0; a < 3; a++)
        span += convt3d__max((is_x ? plan->axis[a].in : plan->axis[a].out) - 1, 0) * stride[2 + a];
    return span;
}

// Whether all that InputBox counts, a tile more, and distances within x and g fit int32_t.
static bool inputs_fit_32_bits(const convt3d__plan *plan)
{
    const int64_t most = INT32_MAX / 4;
    if (spans(plan, plan->desc.x_stride, true) > INT32_MAX || spans(plan, plan->desc.dy_stride, false) > INT32_MAX)
        return false;
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &x = plan->axis[a];
        if (x.stride > most || x.dilation > most || x.out > most || x.kernel > most || x.in > most) return false;
        if (x.padding > most || -x.padding > most) return false;
        if (x.in * x.stride > most || x.kernel * x.dilation > most) return false;
    }
    return input_positions(plan) <= most;
}

template <class I> InputBox<I> input_box(const convt3d__plan *plan)
{
    InputBox<I> b = {};
    b.positions = (I)input_positions(plan);
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &x = plan->axis[a];
        b.in[a] = (I)x.in;  b.out[a] = (I)x.out;  b.stride[a] = (I)x.stride;  b.padding[a] = (I)x.padding;
        b.dilation[a] = (I)x.dilation;  b.kernel[a] = (I)x.kernel;
        b.by[a] = Divide<I>(x.in);
    }
    return b;
}

// N neighbouring channels of which the first `count` exist; others repeat the last. vectors: they lie side by side and
// aligned, and all exist.
template <class T, int N, class I>
__device__ __forceinline__ void load_channels(const T *from, I step, int count, bool vectors,
                                              typename Number<T>::Accumulator (&to)[N])
{
    constexpr int lot = N * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : N;
    struct alignas(lot * sizeof(T)) Lot { T v[lot]; };
    if (vectors) {
        Lot lots[N / lot];
#pragma unroll
        for (int i = 0; i < N / lot; i++) lots[i] = *(const Lot *)(from + i * lot);
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = Number<T>::widen(lots[i / lot].v[i % lot]);
    } else if (count >= N) {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = Number<T>::widen(from[i * step]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = Number<T>::widen(from[(I)min(i, count - 1) * step]);
    }
}

// Whether load_channels() may take vectors of N channels, or as many as 16 bytes hold, of a tensor.
template <class T> bool channels_are_vectors(const void *data, const int64_t stride[5], int64_t count, int n)
{
    const int64_t lot = convt3d__min(n, 16 / (int64_t)sizeof(T));
    return stride[1] == 1 && count % n == 0 && (uintptr_t)data % (lot * sizeof(T)) == 0 && stride[0] % lot == 0 &&
           stride[2] % lot == 0 && stride[3] % lot == 0 && stride[4] % lot == 0;
}

/* ---- dx -------------------------------------------------------------------------------------------------------- */

template <class T, class I> struct DxProblem {
    const T *g, *w;
    T *dx;
    InputBox<I> box;
    int64_t tiles, channel_blocks, groups, in_group, out_group, taps;
    int64_t g_stride[5], dx_stride[5];
    int64_t step[3];                // elements of g from one tap to the next
    int32_t accumulate, vectors;    // vectors: see channels_are_vectors(), of g
};

// The weights of a chunk: [tap][oc][channel], a row of channels being one or two wide loads. The padding keeps taps, as
// neighbouring threads bring them, in different banks.
template <class A, int Channels> struct DxWeights {
    struct alignas(Channels % 4 == 0 ? 16 : sizeof(A)) Row { A v[Channels]; };
    struct Tap { Row oc[DX_DEPTH], padding; } tap[DX_TAPS];
};

// Where a thread's positions are: base, the offset in g of (n, first channel, o); o may lie outside, tap by tap.
template <class I> struct DxPoints {
    int64_t base[DX_POSITIONS];
    I o[DX_POSITIONS][3];
    uint32_t live;                  // bit u: there is such a position
};

template <class T, class I>
__device__ __forceinline__ DxPoints<I> dx_points(const DxProblem<T, I> &p, int64_t first, int64_t group)
{
    DxPoints<I> points;
    points.live = 0;
#pragma unroll
    for (int u = 0; u < DX_POSITIONS; u++) {
        int64_t q = first + u * BACK_THREADS + threadIdx.x;
        InputPoint<I> at = point_of(p.box, (I)(q < p.box.positions ? q : 0));
        if (q < p.box.positions) points.live |= 1u << u;
        points.base[u] = at.n * p.g_stride[0] + group * p.out_group * p.g_stride[1] + at.o[0] * p.g_stride[2] +
                         at.o[1] * p.g_stride[3] + at.o[2] * p.g_stride[4];
#pragma unroll
        for (int a = 0; a < 3; a++) points.o[u][a] = at.o[a];
    }
    return points;
}

template <class T, class I, int Channels>
__device__ __forceinline__ void dx_weights(const DxProblem<T, I> &p, int64_t group, int64_t ic, int64_t oc,
                                           int64_t tap, int depth, int taps,
                                           DxWeights<typename Number<T>::Accumulator, Channels> &shared)
{
    for (int e = threadIdx.x; e < Channels * depth * taps; e += BACK_THREADS) {
        int t = e % taps, d = e / taps % depth, c = e / (taps * depth);
        int64_t from = group * p.in_group + min(ic + c, p.in_group - 1);
        shared.tap[t].oc[d].v[c] = Number<T>::widen(p.w[(from * p.out_group + oc + d) * p.taps + tap + t]);
    }
}

template <bool All, class T, class A, int Channels>
__device__ __forceinline__ void dx_products(const T (&v)[DX_POSITIONS], uint32_t mask,
                                            const typename DxWeights<A, Channels>::Row &from,
                                            A (&sum)[DX_POSITIONS][Channels])
{
    typename DxWeights<A, Channels>::Row row = from;
#pragma unroll
    for (int u = 0; u < DX_POSITIONS; u++)
        if (All || (mask >> u & 1))
#pragma unroll
            for (int c = 0; c < Channels; c++) sum[u][c] += Number<T>::widen(v[u]) * row.v[c];
}

// sum[u][c] += g*w over `depth` output channels, for one tap and the positions whose bit in `mask` is set.
template <bool All, class T, class A, int Channels>
__device__ __forceinline__ void dx_tap(const T *const (&from)[DX_POSITIONS], int64_t oc_step, int depth, uint32_t mask,
                                       const typename DxWeights<A, Channels>::Tap &w,
                                       A (&sum)[DX_POSITIONS][Channels])
{
#pragma unroll 2
    for (int d = 0; d < depth; d++) {
        T v[DX_POSITIONS];
#pragma unroll
        for (int u = 0; u < DX_POSITIONS; u++) if (All || (mask >> u & 1)) v[u] = from[u][d * oc_step];
        dx_products<All, T, A, Channels>(v, mask, w.oc[d], sum);
    }
}

// The same where output channels lie side by side and `depth` of them are whole vectors.
template <bool All, class T, class A, int Channels>
__device__ __forceinline__ void dx_tap_vectors(const T *const (&from)[DX_POSITIONS], int depth, uint32_t mask,
                                               const typename DxWeights<A, Channels>::Tap &w,
                                               A (&sum)[DX_POSITIONS][Channels])
{
    struct alignas(16) Lot { T v[16 / sizeof(T)]; };
    for (int d = 0; d < depth; d += 16 / (int)sizeof(T)) {
        Lot lot[DX_POSITIONS];
#pragma unroll
        for (int u = 0; u < DX_POSITIONS; u++) if (All || (mask >> u & 1)) lot[u] = *(const Lot *)(from[u] + d);
#pragma unroll
        for (int i = 0; i < 16 / (int)sizeof(T); i++) {
            T v[DX_POSITIONS];
#pragma unroll
            for (int u = 0; u < DX_POSITIONS; u++) v[u] = lot[u].v[i];
            dx_products<All, T, A, Channels>(v, mask, w.oc[d + i], sum);
        }
    }
}

// All taps of a chunk, from `tap` on.
template <class T, class I, int Channels>
__device__ __forceinline__ void dx_chunk(const DxProblem<T, I> &p, const DxPoints<I> &points, int64_t oc, int64_t tap,
                                         int depth, int taps,
                                         const DxWeights<typename Number<T>::Accumulator, Channels> &shared,
                                         typename Number<T>::Accumulator (&sum)[DX_POSITIONS][Channels])
{
    I kw = (I)(tap % p.box.kernel[2]), kh = (I)(tap / p.box.kernel[2] % p.box.kernel[1]);
    I kd = (I)(tap / ((int64_t)p.box.kernel[2] * p.box.kernel[1]));
    for (int t = 0; t < taps; t++) {
        const T *from[DX_POSITIONS];
        int64_t offset = oc * p.g_stride[1] + kd * p.step[0] + kh * p.step[1] + kw * p.step[2];
        I d = kd * p.box.dilation[0], h = kh * p.box.dilation[1], w = kw * p.box.dilation[2];
        uint32_t mask = 0;
#pragma unroll
        for (int u = 0; u < DX_POSITIONS; u++) {
            const I *o = points.o[u];
            bool inside = below((I)(o[0] + d), p.box.out[0]) && below((I)(o[1] + h), p.box.out[1]) &&
                          below((I)(o[2] + w), p.box.out[2]);
            mask |= (uint32_t)inside << u;
            from[u] = p.g + points.base[u] + offset;
        }
        mask &= points.live;
        bool all = mask == (1u << DX_POSITIONS) - 1;
        if (Channels > 1 && p.vectors) {
            if (all) dx_tap_vectors<true>(from, depth, mask, shared.tap[t], sum);
            else if (mask) dx_tap_vectors<false>(from, depth, mask, shared.tap[t], sum);
        } else if (all) dx_tap<true>(from, p.g_stride[1], depth, mask, shared.tap[t], sum);
        else if (mask) dx_tap<false>(from, p.g_stride[1], depth, mask, shared.tap[t], sum);
        if (++kw == p.box.kernel[2]) {
            kw = 0;
            if (++kh == p.box.kernel[1]) { kh = 0;  kd++; }
        }
    }
}

template <class T, class I, int Channels>
__device__ __forceinline__ void dx_store(const DxProblem<T, I> &p, int64_t first, int64_t channel, int channels,
                                         const typename Number<T>::Accumulator (&sum)[DX_POSITIONS][Channels])
{
#pragma unroll
    for (int u = 0; u < DX_POSITIONS; u++) {
        int64_t q = first + u * BACK_THREADS + threadIdx.x, offset = -1;
        T value[Channels];
        if (q < p.box.positions) {
            InputPoint<I> at = point_of(p.box, (I)q);
            offset = at.n * p.dx_stride[0] + channel * p.dx_stride[1] + at.i[0] * p.dx_stride[2] +
                     at.i[1] * p.dx_stride[3] + at.i[2] * p.dx_stride[4];
        }
#pragma unroll
        for (int c = 0; c < Channels; c++) {
            typename Number<T>::Accumulator v = sum[u][c];
            if (p.accumulate && offset >= 0 && c < channels)
                v = Number<T>::widen(p.dx[offset + c * p.dx_stride[1]]) + v;
            value[c] = Number<T>::round(v);
        }
        store_block<T, BACK_THREADS>(p.dx, offset, p.dx_stride[1], channels, value);
    }
}

template <class T, class I, int Channels>
__global__ void __launch_bounds__(BACK_THREADS, 2) dx_kernel(const __grid_constant__ DxProblem<T, I> p)
{
    typedef typename Number<T>::Accumulator A;
    __shared__ DxWeights<A, Channels> shared;
    for (int64_t tile = blockIdx.x; tile < p.tiles * p.channel_blocks * p.groups; tile += gridDim.x) {
        int64_t block = tile / p.tiles, group = block / p.channel_blocks, ic = block % p.channel_blocks * Channels;
        int64_t first = (tile - block * p.tiles) * (DX_POSITIONS * BACK_THREADS);
        DxPoints<I> points = dx_points(p, first, group);
        A sum[DX_POSITIONS][Channels] = {};
        for (int64_t oc = 0; oc < p.out_group; oc += DX_DEPTH)
            for (int64_t tap = 0; tap < p.taps; tap += DX_TAPS) {
                int depth = (int)min(p.out_group - oc, (int64_t)DX_DEPTH);
                int taps = (int)min(p.taps - tap, (int64_t)DX_TAPS);
                __syncthreads();
                dx_weights<T, I, Channels>(p, group, ic, oc, tap, depth, taps, shared);
                __syncthreads();
                dx_chunk<T, I, Channels>(p, points, oc, tap, depth, taps, shared, sum);
            }
        dx_store<T, I, Channels>(p, first, group * p.in_group + ic, (int)min(p.in_group - ic, (int64_t)Channels), sum);
    }
}

template <class T, class I, int Channels> struct DxKernel {
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        return convt3d__load_kernel(error, plan, dx_kernel<T, I, Channels>, 0);
    }
    static convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        DxProblem<T, I> p = {};
        p.g = (const T *)io->dy;
        p.w = (const T *)(io->w_packed ? io->w_packed : io->w);
        p.dx = (T *)io->dx;
        p.box = input_box<I>(plan);
        p.tiles = convt3d__ceil_div(input_positions(plan), DX_POSITIONS * BACK_THREADS);
        p.channel_blocks = convt3d__ceil_div(plan->in_group, Channels);
        p.groups = plan->desc.groups;  p.in_group = plan->in_group;  p.out_group = plan->out_group;
        p.taps = plan->taps;
        for (int i = 0; i < 5; i++) {
            p.g_stride[i] = plan->desc.dy_stride[i];
            p.dx_stride[i] = plan->desc.dx_stride[i];
        }
        for (int a = 0; a < 3; a++) p.step[a] = plan->axis[a].dilation * plan->desc.dy_stride[2 + a];
        p.accumulate = (plan->desc.accumulate & CONVT3D_BACKWARD_X) != 0;
        p.vectors = channels_are_vectors<T>(io->dy, p.g_stride, p.out_group, DX_DEPTH);
        return convt3d__launch(error, dx_kernel<T, I, Channels>,
                               dim3((unsigned)convt3d__min(p.tiles * p.channel_blocks * p.groups, INT32_MAX)),
                               dim3(BACK_THREADS), 0, io->stream, p);
    }
};

template <class T, class Act> convt3d_status dx_instance(const convt3d__plan *plan, Act act)
{
    if (!inputs_fit_32_bits(plan)) return act(DxKernel<T, int64_t, 8>());
    return plan->in_group == 1 ? act(DxKernel<T, int32_t, 1>()) : act(DxKernel<T, int32_t, 8>());
}

template <class Act> convt3d_status dx_dispatch(const convt3d__plan *plan, Act act)
{
    return with_element(plan, [=](auto element) { return dx_instance<decltype(element)>(plan, act); });
}

/* ---- dw -------------------------------------------------------------------------------------------------------- */

enum { DW_WARPS = 32768, DW_LEAST = 2048, DW_MOST_PARTS = 2048 };   // wanted warps; positions and number of parts

// How dw is cut: blocks of channels, taps of a row of the kernel, parts of the positions. By the shape alone.
struct DwCut {
    int32_t in, out, row;           // channels and taps of a tile
    int64_t in_blocks, out_blocks, rows, tasks, parts, part_positions;
};

static DwCut dw_cut(const convt3d__plan *plan)
{
    DwCut c = {8, 8, 1, 0, 0, 0, 0, 0, 0};
    int64_t positions = input_positions(plan), wanted;
    if (inputs_fit_32_bits(plan)) {
        if (plan->in_group <= 4 || plan->out_group <= 4) c.in = c.out = 4;
        if (plan->in_group == 1 && plan->out_group == 1) { c.in = c.out = 1;  c.row = 4; }
    }
    c.in_blocks = convt3d__ceil_div(plan->in_group, c.in);
    c.out_blocks = convt3d__ceil_div(plan->out_group, c.out);
    c.rows = convt3d__ceil_div(plan->axis[2].kernel, c.row);
    c.tasks = plan->desc.groups * c.in_blocks * c.out_blocks * plan->axis[0].kernel * plan->axis[1].kernel * c.rows;
    wanted = convt3d__min(convt3d__ceil_div(DW_WARPS, c.tasks), convt3d__ceil_div(positions, DW_LEAST));
    c.parts = convt3d__max(1, convt3d__min(wanted, DW_MOST_PARTS));
    c.part_positions = convt3d__ceil_div(convt3d__ceil_div(positions, c.parts), 32) * 32;
    return c;
}

template <class T, class I> struct DwProblem {
    typedef typename Number<T>::Accumulator A;
    const T *x, *g;
    A *sums;                        // [parts][elements of w]
    InputBox<I> box;
    DwCut cut;
    int64_t in_group, out_group, taps, count;
    I x_step[5], g_step[5];         // strides; distances within a tensor fit I
    int32_t x_vectors, g_vectors;   // see load_channels()
};

// What one warp computes: ics and ocs channels from ic and oc on, one part of the positions.
template <class I> struct DwTask {
    int64_t part, group, ic, oc;
    int32_t ics, ocs;
    I kd, kh, kw, d, h, w;          // d, h, w: how far taps kd, kh, kw move the output
};

template <class T, class I> __device__ __forceinline__ DwTask<I> dw_task(const DwProblem<T, I> &p, int64_t index)
{
    DwTask<I> t;
    t.part = index / p.cut.tasks;  index -= t.part * p.cut.tasks;
    t.kw = (I)(index % p.cut.rows * p.cut.row);  index /= p.cut.rows;
    t.kh = (I)(index % p.box.kernel[1]);  index /= p.box.kernel[1];
    t.kd = (I)(index % p.box.kernel[0]);  index /= p.box.kernel[0];
    t.oc = index % p.cut.out_blocks * p.cut.out;  index /= p.cut.out_blocks;
    t.ic = index % p.cut.in_blocks * p.cut.in;
    t.group = index / p.cut.in_blocks;
    t.ics = (int)min(p.in_group - t.ic, (int64_t)p.cut.in);
    t.ocs = (int)min(p.out_group - t.oc, (int64_t)p.cut.out);
    t.d = t.kd * p.box.dilation[0];
    t.h = t.kh * p.box.dilation[1];
    t.w = t.kw * p.box.dilation[2];
    return t;
}

// Adds the 32 lanes' arrays of N values by exchanges: each round a lane keeps one half of its values, or all where one
// is left. Then lane l holds the sums of values l*N/32, ... (N/32 of them, or one that it shares with its neighbours).
template <class A, int N> __device__ __forceinline__ void add_lanes(A (&v)[N])
{
    const int lane = threadIdx.x % 32;
    int n = N;
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
        if (n == 1) { v[0] += __shfl_xor_sync(0xffffffffu, v[0], half);  continue; }
        n /= 2;
        bool up = lane & half;
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            if (i < n) {
                A sent = up ? v[i] : v[i + n], kept = up ? v[i + n] : v[i];
                v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, half);
            }
    }
}

// The products of one position: lane's x and g of all channels of the tile.
template <class T, class I, int In, int Out, int Row>
__device__ __forceinline__ void dw_position(const DwProblem<T, I> &p, const DwTask<I> &t, const T *x, const T *g,
                                            const InputPoint<I> &at,
                                            typename Number<T>::Accumulator (&sum)[In * Out * Row])
{
    typedef typename Number<T>::Accumulator A;
    A xs[In], gs[Out];
    load_channels<T, In>(x, p.x_step[1], t.ics, p.x_vectors, xs);
#pragma unroll
    for (int r = 0; r < Row; r++) {
        I o = at.o[2] + t.w + r * p.box.dilation[2];
        if (t.kw + r >= p.box.kernel[2] || !below(o, p.box.out[2])) continue;
        load_channels<T, Out>(g + o * p.g_step[4], p.g_step[1], t.ocs, p.g_vectors, gs);
#pragma unroll
        for (int a = 0; a < In; a++)
#pragma unroll
            for (int b = 0; b < Out; b++) sum[(a * Out + b) * Row + r] += xs[a] * gs[b];
    }
}

template <class T, class I, int In, int Out, int Row>
__global__ void __launch_bounds__(BACK_THREADS, sizeof(T) * In == 64 ? 1 : 2)
dw_kernel(const __grid_constant__ DwProblem<T, I> p)
{
    typedef typename Number<T>::Accumulator A;
    const int lane = threadIdx.x % 32;
    for (int64_t index = (int64_t)blockIdx.x * BACK_WARPS + threadIdx.x / 32; index < p.cut.tasks * p.cut.parts;
         index += (int64_t)gridDim.x * BACK_WARPS) {
        DwTask<I> t = dw_task(p, index);
        A sum[In * Out * Row] = {};
        const T *x = p.x + (t.group * p.in_group + t.ic) * p.x_step[1];
        const T *g = p.g + (t.group * p.out_group + t.oc) * p.g_step[1];
        int64_t end = min((t.part + 1) * p.cut.part_positions, (int64_t)p.box.positions);
        for (int64_t q = t.part * p.cut.part_positions + lane; q < end; q += 32) {
            InputPoint<I> at = point_of(p.box, (I)q);
            I od = at.o[0] + t.d, oh = at.o[1] + t.h;
            if (!below(od, p.box.out[0]) || !below(oh, p.box.out[1])) continue;
            dw_position<T, I, In, Out, Row>(
                p, t, x + (at.n * p.x_step[0] + at.i[0] * p.x_step[2] + at.i[1] * p.x_step[3] + at.i[2] * p.x_step[4]),
                g + (at.n * p.g_step[0] + od * p.g_step[2] + oh * p.g_step[3]), at, sum);
        }
        __syncwarp();
        add_lanes(sum);
        constexpr int each = In * Out * Row >= 32 ? In * Out * Row / 32 : 1, alike = 32 / (In * Out * Row / each);
        if (lane % alike != 0) continue;
#pragma unroll
        for (int i = 0; i < each; i++) {
            int value = lane / alike * each + i;
            int64_t ic = t.ic + value / (Out * Row), oc = t.oc + value / Row % Out, kw = t.kw + value % Row;
            if (ic < p.in_group && oc < p.out_group && kw < p.box.kernel[2])
                p.sums[t.part * p.count + ((t.group * p.in_group + ic) * p.out_group + oc) * p.taps +
                       (t.kd * p.box.kernel[1] + t.kh) * p.box.kernel[2] + kw] = sum[i];
        }
    }
}

template <class T> T *dw_align(void *workspace)
{
    return (T *)(((uintptr_t)workspace + 255) / 256 * 256);
}

template <class T, class I, int In, int Out, int Row> struct DwKernel {
    typedef typename Number<T>::Accumulator A;
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        convt3d_status status = convt3d__load_kernel(error, plan, dw_kernel<T, I, In, Out, Row>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, columns_kernel<A, T>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, columns_kernel<double, T>, 0);
        return status == CONVT3D_OK ? channel_sums_ready<T>(plan, error) : status;
    }
    static convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        convt3d_status status = CONVT3D_OK;
        if (io->dw) status = run_dw(plan, io, error);
        return status == CONVT3D_OK && io->dbias ? run_dbias(plan, io, error) : status;
    }
    static convt3d_status run_dw(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        DwProblem<T, I> p = {};
        p.x = (const T *)io->x;
        p.g = (const T *)io->dy;
        p.sums = dw_align<A>(io->workspace);
        p.box = input_box<I>(plan);
        p.cut = dw_cut(plan);
        p.in_group = plan->in_group;  p.out_group = plan->out_group;  p.taps = plan->taps;  p.count = plan->w_count;
        for (int i = 0; i < 5; i++) {
            p.x_step[i] = (I)plan->desc.x_stride[i];
            p.g_step[i] = (I)plan->desc.dy_stride[i];
        }
        p.x_vectors = channels_are_vectors<T>(io->x, plan->desc.x_stride, p.in_group, In);
        p.g_vectors = channels_are_vectors<T>(io->dy, plan->desc.dy_stride, p.out_group, Out);
        int64_t blocks = convt3d__ceil_div(p.cut.tasks * p.cut.parts, BACK_WARPS);
        convt3d_status status = convt3d__launch(error, dw_kernel<T, I, In, Out, Row>,
                                                dim3((unsigned)convt3d__min(blocks, INT32_MAX)), dim3(BACK_THREADS), 0,
                                                io->stream, p);
        if (status != CONVT3D_OK) return status;
        Columns<A, T> all = {p.sums, p.cut.parts, p.count, p.count, 1, (T *)io->dw,
                             (plan->desc.accumulate & CONVT3D_BACKWARD_W) != 0};
        return run_columns(all, io->stream, error);
    }
    static convt3d_status run_dbias(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        int64_t channels = plan->desc.out_channels;
        int64_t units = plan->y_count > 0 ? plan->desc.batch * convt3d__moment_parts(plan) : 0;
        double *sums = dw_align<double>(io->workspace);     // dw is done with its part
        convt3d_status status = channel_sums<T>(plan, io->dy, plan->desc.dy_stride, sums, io->stream, error);
        if (status != CONVT3D_OK) return status;
        Columns<double, T> all = {sums, units, channels, channels, 1, (T *)io->dbias,
                                  (plan->desc.accumulate & CONVT3D_BACKWARD_BIAS) != 0};
        return run_columns(all, io->stream, error);
    }
};

template <class T, class Act> convt3d_status dw_instance(const convt3d__plan *plan, Act act)
{
    if (!inputs_fit_32_bits(plan)) return act(DwKernel<T, int64_t, 8, 8, 1>());
    switch (dw_cut(plan).in) {
    case 1:  return act(DwKernel<T, int32_t, 1, 1, 4>());
    case 4:  return act(DwKernel<T, int32_t, 4, 4, 1>());
    default: return act(DwKernel<T, int32_t, 8, 8, 1>());
    }
}

template <class Act> convt3d_status dw_dispatch(const convt3d__plan *plan, Act act)
{
    return with_element(plan, [=](auto element) { return dw_instance<decltype(element)>(plan, act); });
}

/* ---- weights with channels exchanged and taps reversed ---------------------------------------------------------- */

// flipped[g][oc][ic][-k] = w[g][ic][oc][k]; neighbouring threads write neighbours.
template <class T>
__global__ void __launch_bounds__(BACK_THREADS) flip_kernel(const T *w, T *flipped, int64_t count, int64_t in_group,
                                                            int64_t out_group, int64_t taps)
{
    const int64_t step = (int64_t)gridDim.x * BACK_THREADS;
    for (int64_t e = (int64_t)blockIdx.x * BACK_THREADS + threadIdx.x; e < count; e += step) {
        int64_t k = e % taps, ic = e / taps % in_group, oc = e / (taps * in_group) % out_group;
        int64_t group = e / (taps * in_group * out_group);
        flipped[e] = w[((group * in_group + ic) * out_group + oc) * taps + taps - 1 - k];
    }
}

}

// Seconds at the rates seen on an H200, less for few channels a group, and the time that a thread's own products take.
// One channel a group is the worst where channels lie side by side: dx reads a sector of g for each element.
static double convt3d__generic_back_cost(const convt3d__plan *plan, double rate)
{
    double each = (double)plan->out_group * (double)plan->taps, products = (double)plan->x_count * each;
    double bytes = (double)convt3d__element_size(plan->desc.dtype) * (double)(plan->x_count + plan->y_count);
    double share = plan->in_group < 8 ? (double)plan->in_group / 8 : 1;
    return products / (rate * share) + bytes / 0.8e12 + each * 8e-8 + 3e-5;
}

extern "C" int32_t convt3d__generic_dx_refuses(convt3d__plan *, char why[96]) { return convt3d__refuse(why, ""); }

extern "C" double convt3d__generic_dx_cost(const convt3d__plan *plan)
{
    const bool scattered = plan->in_group == 1 && plan->desc.groups > 1 && plan->desc.dy_stride[1] == 1;
    return convt3d__generic_back_cost(plan, scattered ? 5e10 : 8e12);
}

extern "C" int64_t convt3d__generic_dx_workspace(const convt3d__plan *) { return 0; }

extern "C" convt3d_status convt3d__generic_dx_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK || plan->x_count == 0) return status;
    return convt3d_cuda::dx_dispatch(plan, [=](auto kernel) { return kernel.run(plan, io, error); });
}

extern "C" convt3d_status convt3d__generic_dx_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::dx_dispatch(plan, [=](auto kernel) { return kernel.ready(plan, error); });
}

extern "C" int32_t convt3d__generic_dw_refuses(convt3d__plan *, char why[96]) { return convt3d__refuse(why, ""); }

extern "C" double convt3d__generic_dw_cost(const convt3d__plan *plan) { return convt3d__generic_back_cost(plan, 5e12); }

// The parts' sums, or those of dbias, which follow when dw is done.
extern "C" int64_t convt3d__generic_dw_workspace(const convt3d__plan *plan)
{
    int64_t wide = convt3d__element_size(convt3d__wide(plan->desc.dtype));
    int64_t dw = convt3d_cuda::dw_cut(plan).parts * convt3d__min(plan->w_count, INT64_MAX / 65536) * wide;
    int64_t units = plan->y_count > 0 ? plan->desc.batch * convt3d__moment_parts(plan) : 0;
    return convt3d__max(dw, units * plan->desc.out_channels * 8) + 256;
}

extern "C" convt3d_status convt3d__generic_dw_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::dw_dispatch(plan, [=](auto kernel) { return kernel.run(plan, io, error); });
}

extern "C" convt3d_status convt3d__generic_dw_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::dw_dispatch(plan, [=](auto kernel) { return kernel.ready(plan, error); });
}

extern "C" convt3d_status convt3d__cuda_flip(const convt3d__plan *plan, const void *w, void *flipped, void *stream,
                                             convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::with_element(plan, [=](auto element) {
        typedef decltype(element) T;
        int64_t blocks = convt3d__ceil_div(plan->w_count, convt3d_cuda::BACK_THREADS);
        return convt3d__launch(error, convt3d_cuda::flip_kernel<T>, dim3((unsigned)convt3d__min(blocks, INT32_MAX)),
                               dim3(convt3d_cuda::BACK_THREADS), 0, stream, (const T *)w, (T *)flipped, plan->w_count,
                               plan->in_group, plan->out_group, plan->taps);
    });
}

extern "C" convt3d_status convt3d__cuda_flip_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::with_element(plan, [=](auto element) {
        return convt3d__load_kernel(error, plan, convt3d_cuda::flip_kernel<decltype(element)>, 0);
    });
}

#endif
