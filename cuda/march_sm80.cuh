// sm80_march: one output channel a group, stride 2, at most 4 taps an axis: the last layer of generators.
//
// Idea      Every tap's product with every input once, a GEMM of 64 taps x positions x channels on mma.sync, and most
//           of the sum over taps before anything leaves registers. Rows of A are the taps (kh, kw) of a kd; columns of
//           B are positions of one row of x, which go from global memory to their lane's own place in shared memory
//           (cp.async, two planes ahead) and from there to registers. A warp marches along the depth: products with
//           kd = 2, 3 of a plane are what those with kd = 0, 1 of the next plane are added to. A lane has 8 neighbours
//           of a row with taps kw and kw + 2, which is the sum along the width but for one value of the next lane. The
//           rest, two rows of x an output, is added from shared memory as y is stored.
// Pairs     On every axis outputs 2*m - padding, and the next, get taps 0, 1 of input m and taps 2, 3 of input m - 1.
// f32       halves high + low * 2^-11 scaled by the largest magnitude of a warp's row (split.cuh has the idea); sums of
//           64 channels leave the matrix unit for f32 registers. tf32, f16, bf16: one product.
// NaN, inf  Outputs that are not finite are computed again by multiply-adds from global memory.
// Requires  sm_80; f32, f16, bf16; one output channel and at most 64 input channels a group; stride 2, at most 4 taps,
//           dilation 1, padding not negative on each axis; x and y not empty; 32-bit indices.
// Tile      a warp has 32 positions of a row of x, a block up to 9 rows, of which it shares one with the next.
// Measured  one H200, NCDHW (NDHWC), weights packed in the call: gan_64_1_32 (64 -> 1, k4 s2) f32 0.234 ms (0.193),
//           tf32 0.232 (0.184), f16 0.090 (0.089). Bound by latency, two warps a scheduler: copies of all channels at
//           once hold up loads of weights behind them (f32 0.243). Did not help: planes of x asked for as a whole
//           ahead of their copies (f32 0.251); 8 rows; half
//           the positions in twice the warps (f32 0.35, copies of x are short); clusters instead of the shared row (f32
//           0.41: they take a second wave).
#pragma once

#include "dense_sm80.cuh"

extern "C" {
CONVT3D__HIDDEN int32_t convt3d__march_sm80_refuses(convt3d__plan *plan, char why[96]);
CONVT3D__HIDDEN double convt3d__march_sm80_cost(const convt3d__plan *plan);
CONVT3D__HIDDEN int64_t convt3d__march_sm80_workspace(const convt3d__plan *plan);
CONVT3D__HIDDEN int64_t convt3d__march_sm80_packed(const convt3d__plan *plan);
CONVT3D__HIDDEN convt3d_status convt3d__march_sm80_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                        void *stream, convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__march_sm80_run(const convt3d__plan *plan, const convt3d_io *io,
                                                       convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__march_sm80_ready(const convt3d__plan *plan, convt3d_error *error);
}

#if CONVT3D__PART(16)

#include "mma.cuh"

namespace convt3d_cuda {

enum { MARCH_ROWS = 9, MARCH_WIDTH = 32, MARCH_NB = 4, MARCH_K16 = 4, MARCH_TAPS = 4 };
enum { MARCH_PITCH = 76, MARCH_SHARED_STEP = 28 };      // of a row of sums; from one tile of the width to the next

template <int Mode_, bool Inner_, bool Lists_> struct March80Config {
    static constexpr int Mode = Mode_;
    static constexpr bool Inner = Inner_, Lists = Lists_;       // Inner: channels of x lie side by side
    typedef typename Sm80Mode<Mode>::T T;
    static constexpr bool Split = Mode == SM80_SPLIT, Tf32 = Mode == SM80_TF32, Halves = !Split && !Tf32;
    static constexpr int Lots = Split ? 2 : 1;                  // of 16 bytes a lane's weights of a fragment
    static constexpr bool Spread = Halves || !Inner;            // copies of x go out between products: measured
    static constexpr int Steps = Tf32 ? 2 * MARCH_K16 : MARCH_K16;
    static constexpr int WeightBytes = 4 * Steps * Lots * 512;
    static constexpr int StageBytes = 16 * 32 * 4 * (int)sizeof(T);     // of a warp
};

// The tiling of a plan, kept in plan->state. pairs: of outputs of an axis.
struct MarchShape {
    int32_t mode, inner, rows, stages, pieces, tiles[2], pairs[3], shared;
    double cycles;
};

template <class T> struct MarchProblem {
    HaloProblem<T> h;
    const void *weights;
    const float *inverse;               // of a group's scale of weights
    int32_t rows, stages, pieces, tiles[2], pairs[3], x_vectors, y_vectors;
};

// ---- x ----

// Four elements, of which `bytes` exist, to this lane's own place in shared memory.
template <class T> __device__ __forceinline__ void march_copy(uint32_t to, const T *from, uint32_t bytes)
{
    if constexpr (sizeof(T) == 4)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// This lane's x: channels 16*s + 4*t ... + 3 of positions 4*g ... + 3 of a row; of Inner a vector is of channels.
template <class C> struct March80Row {
    typedef typename C::T T;
    const T *x;                         // of the first channel and position, in plane 0
    int32_t positions, channels;        // of its four positions; of the group from its first channel on
    // Its part of step s, of MARCH_K16.
    __device__ __forceinline__ void load(const MarchProblem<T> &p, int32_t d, T *to, int s) const
    {
        if (positions <= 0 || d >= p.h.axis[0].in || s * 16 >= p.h.in_group) return;
        const T *from = x + d * p.h.x_stride[2];
        if (!p.x_vectors) {
            if (s == 0) load_each(p, from, to);
            return;
        }
        const uint32_t at = shared_address(to);
        const int64_t step = C::Inner ? p.h.x_stride[4] : p.h.x_stride[1];
        const uint32_t bytes = (C::Inner ? 4 : positions) * (uint32_t)sizeof(T);
        const int32_t left = channels - s * 16;
        from += s * 16 * p.h.x_stride[1];
        if (left >= 4 && (!C::Inner || positions >= 4)) {
#pragma unroll
            for (int i = 0; i < 4; i++) march_copy(at + (s * 4 + i) * 128 * (int)sizeof(T), from + i * step, bytes);
            return;
        }
#pragma unroll 1
        for (int i = 0; i < 4; i++) {
            const int32_t count = C::Inner ? (i < positions ? min(max(left, 0), 4) : 0) : i < left ? positions : 0;
            march_copy(at + (s * 4 + i) * 128 * (int)sizeof(T), count > 0 ? from + i * step : x,
                       count * (uint32_t)sizeof(T));
        }
    }
    __device__ __noinline__ void load_each(const MarchProblem<T> &p, const T *from, T *to) const
    {
        for (int i = 0; i < MARCH_K16 * 4; i++)
            for (int j = 0; j < 4; j++) {
                const int32_t channel = i / 4 * 16 + (C::Inner ? j : i % 4), position = C::Inner ? i % 4 : j;
                to[i * 128 + j] = channel < channels && position < positions
                                      ? from[channel * p.h.x_stride[1] + position * p.h.x_stride[4]] : T(0);
            }
    }
};

// Operands of all products with a row: of step s and block nb of positions.
template <class C> struct MarchOperand {
    uint32_t high[MARCH_K16][MARCH_NB][C::Tf32 ? 4 : 2], low[C::Split ? MARCH_K16 : 1][C::Split ? MARCH_NB : 1][2];
    float inverse;                      // of the scale of the row

    // Value of channel 4*t + c at position 4*g + n of step s.
    template <class Word> static __device__ __forceinline__ Word pick(const Word (&v)[4][4], int c, int n)
    {
        return C::Inner ? v[n][c] : v[c][n];
    }

    __device__ __forceinline__ void from(const typename C::T *x, int32_t in_group)
    {
        inverse = 1;
        if constexpr (C::Halves) from_halves((const uint2 *)x, in_group);
        else {
            float v[MARCH_K16][4][4];
            float most = 0;
#pragma unroll
            for (int i = 0; i < MARCH_K16 * 4; i++) {
                float4 four = make_float4(0, 0, 0, 0);
                if (i / 4 * 16 < in_group) four = *(const float4 *)(x + i * 32 * 4);
                v[i / 4][i % 4][0] = four.x;
                v[i / 4][i % 4][1] = four.y;
                v[i / 4][i % 4][2] = four.z;
                v[i / 4][i % 4][3] = four.w;
                most = fmaxf(fmaxf(fmaxf(most, fabsf(four.x)), fmaxf(fabsf(four.y), fabsf(four.z))), fabsf(four.w));
            }
            [[maybe_unused]] TileScale scale(1);
            if constexpr (C::Split) {
                scale = TileScale(__uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(most))));
                inverse = scale.inverse;
            }
#pragma unroll
            for (int i = 0; i < MARCH_K16 * MARCH_NB; i++) {
                const int s = i / MARCH_NB, n = i % MARCH_NB;
                if constexpr (C::Split)
#pragma unroll
                    for (int k = 0; k < 2; k++)
                        split_apart(pick(v[s], 2 * k, n), pick(v[s], 2 * k + 1, n), scale.factor, high[s][n][k],
                                    low[s][n][k]);
                else
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        asm("cvt.rna.tf32.f32 %0, %1;"
                            : "=r"(high[s][n][c]) : "f"(pick(v[s], c, n) * (1 << Sm80Mode<C::Mode>::Scale)));
            }
        }
    }

    __device__ __forceinline__ void from_halves(const uint2 *x, int32_t in_group)
    {
#pragma unroll
        for (int s = 0; s < MARCH_K16; s++) {
            uint2 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[i] = make_uint2(0, 0);
                if (s * 16 < in_group) v[i] = x[(s * 4 + i) * 32];
            }
#pragma unroll
            for (int n = 0; n < MARCH_NB; n++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    if constexpr (C::Inner) high[s][n][k] = k ? v[n].y : v[n].x;
                    else {
                        const uint32_t a = n < 2 ? v[2 * k].x : v[2 * k].y, b = n < 2 ? v[2 * k + 1].x : v[2 * k + 1].y;
                        high[s][n][k] = __byte_perm(a, b, n % 2 ? 0x7632 : 0x5410);
                    }
                }
        }
    }
};

// ---- products ----

struct MarchSum { float v[MARCH_NB][4]; };

// The products of a row with the taps of fragments w: 16 taps x 32 positions.
template <class C>
__device__ __forceinline__ void march_multiply(const MarchOperand<C> &x, const uint4 *w, MarchSum &sum)
{
    [[maybe_unused]] MarchSum cross = {};
    sum = {};
    asm volatile("" ::: "memory");      // not earlier: registers are few
#pragma unroll
    for (int s = 0; s < C::Steps; s++) {
        uint4 a[C::Lots];
#pragma unroll
        for (int i = 0; i < C::Lots; i++) a[i] = w[(s * C::Lots + i) * 32];
#pragma unroll
        for (int n = 0; n < MARCH_NB; n++) {
            if constexpr (C::Tf32) {
                const uint32_t all[4] = {a[0].x, a[0].y, a[0].z, a[0].w};
                sm80_tf32(sum.v[n], all, x.high[s / 2][n][s % 2 * 2], x.high[s / 2][n][s % 2 * 2 + 1]);
            } else if constexpr (C::Mode == SM80_BFLOAT)
                MmaBfloat::add(sum.v[n], a[0].x, a[0].y, a[0].z, a[0].w, x.high[s][n][0], x.high[s][n][1]);
            else MmaHalf::add(sum.v[n], a[0].x, a[0].y, a[0].z, a[0].w, x.high[s][n][0], x.high[s][n][1]);
        }
        if constexpr (C::Split)
#pragma unroll
            for (int n = 0; n < MARCH_NB; n++) {
                MmaHalf::add(cross.v[n], a[0].x, a[0].y, a[0].z, a[0].w, x.low[s][n][0], x.low[s][n][1]);
                MmaHalf::add(cross.v[n], a[1].x, a[1].y, a[1].z, a[1].w, x.high[s][n][0], x.high[s][n][1]);
            }
    }
    if constexpr (C::Split)
#pragma unroll
        for (int i = 0; i < MARCH_NB * 4; i++)
            sum.v[i / 4][i % 4] = fmaf(cross.v[i / 4][i % 4], 1.f / 2048, sum.v[i / 4][i % 4]);
}

// Complete sums of depth: adds the taps of the width and hands on a row for each kh: 2 outputs a position.
static __device__ __forceinline__ void march_hand_on(const MarchSum &sum, float *row, int32_t shift)
{
    const int32_t lane = threadIdx.x % 32, t = lane % 4;
    float *to = row + lane / 8 * MARCH_PITCH + shift + t * 16 + lane / 4 % 2;
    float before = __shfl_up_sync(0xffffffffu, sum.v[3][3], 1);
    if (t == 0) before = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        to[2 * i] = sum.v[i % 4][i / 4] + before;
        before = sum.v[i % 4][2 + i / 4];
    }
    if (t == 3) to[16] = before;
}

// ---- outputs ----

// Where a block's outputs are: its first row of x and position of the width; its outputs of the width.
struct MarchPlace { int64_t n; int32_t g, row, position, begin, end; };

// Four outputs of a row from their sums: undoes scales, adds the bias, applies the list, stores those that exist.
template <class C>
__device__ __forceinline__ void march_finish(const MarchProblem<typename C::T> &p, const MarchPlace &at,
                                             const float (&sum)[4], float scale, float bias, int32_t od, int32_t oh,
                                             int32_t ow)
{
    typedef typename C::T T;
    const HaloProblem<T> &h = p.h;
    float v[1][4];
    bool finite = true;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[0][i] = fmaf(sum[i], scale, bias);
        finite = finite && !not_finite(v[0][i]);
    }
    if (!finite)
#pragma unroll 1
        for (int i = 0; i < 4; i++) {
            if (not_finite(v[0][0]) && ow + i >= at.begin && ow + i < at.end)
                v[0][0] = sm80_exact(h, at.n, at.g, 0, od, oh, ow + i);
            turn<1>(v[0]);
        }
    const int64_t channel = at.g;
    if constexpr (C::Lists)
        apply_in_registers(h.list, 0, v, [&](int) { return channel; }, [&](const Entry<float> &e, int, float (&r)[4]) {
            const int64_t from = offset_of({at.n, channel, od, oh, ow, 1, 1}, e.stride);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                r[i] = 0;
                if (ow + i >= at.begin && ow + i < at.end)
                    r[i] = Number<T>::widen(((const T *)e.residual)[from + i * e.stride[4]]);
            }
        });
    const int64_t to = offset_of({at.n, channel, od, oh, ow, 1, 1}, h.y_stride);
    const bool whole = p.y_vectors && ow >= at.begin && ow + 4 <= at.end;
    if (C::Lists && sizeof(T) == 2 && h.wide) {
        float *y = (float *)h.y + to;
        if (whole) { store_vector(y, v[0]);  return; }
#pragma unroll
        for (int i = 0; i < 4; i++) if (ow + i >= at.begin && ow + i < at.end) y[i * h.y_stride[4]] = v[0][i];
        return;
    }
    T out[4], *y = h.y + to;
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = Number<T>::round(v[0][i]);
    if (whole) { store_vector(y, out);  return; }
#pragma unroll
    for (int i = 0; i < 4; i++) if (ow + i >= at.begin && ow + i < at.end) y[i * h.y_stride[4]] = out[i];
}

// The outputs of two planes of y, pair m of the depth: sums of two rows of x, from what warps have handed on.
template <class C>
__device__ __forceinline__ void march_gather(const MarchProblem<typename C::T> &p, const MarchPlace &at,
                                             const float *sums, int32_t m, int32_t first_pair, int32_t end_pair,
                                             float scale, float bias)
{
    const Axis<int32_t> (&axis)[3] = p.h.axis;
    const int32_t origin = 2 * at.position - axis[2].padding, shift = origin & 3;       // of sums of the width
    const int32_t first = (at.begin - origin + shift) / 4, last = (at.end - 1 - origin + shift) / 4;
    for (int32_t i = threadIdx.x / 16; i < 4 * (end_pair - first_pair); i += blockDim.x / 16) {
        const int32_t ed = i & 1, eh = i >> 1 & 1, pair = first_pair + (i >> 2), row = pair - at.row;
        const int32_t od = 2 * m + ed - axis[0].padding, oh = 2 * pair + eh - axis[1].padding;
        if ((uint32_t)od >= (uint32_t)axis[0].out || (uint32_t)oh >= (uint32_t)axis[1].out) continue;
        const float *plane = sums + ed * p.rows * 4 * MARCH_PITCH;
        const float *here = plane + (row * 4 + eh) * MARCH_PITCH, *above = plane + (row * 4 - 2 + eh) * MARCH_PITCH;
        const bool is_here = row < p.rows, is_above = row > 0 && row <= p.rows;
        for (int32_t q = first + (int32_t)threadIdx.x % 16; q <= last; q += 16) {
            float4 a = make_float4(0, 0, 0, 0), b = a;
            if (is_here && q < MARCH_PITCH / 4) a = *(const float4 *)(here + 4 * q);
            if (is_above && q < MARCH_PITCH / 4) b = *(const float4 *)(above + 4 * q);
            const float sum[4] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
            march_finish<C>(p, at, sum, scale, bias, od, oh, 4 * q + origin - shift);
        }
    }
}

// ---- the kernel ----

template <class C>
__global__ void __launch_bounds__(MARCH_ROWS * 32, 1)
march_kernel(const __grid_constant__ MarchProblem<typename C::T> p)
{
    typedef typename C::T T;
    const int32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const Axis<int32_t> (&axis)[3] = p.h.axis;
    int32_t index = blockIdx.x;
    MarchPlace at;
    const int32_t tile_w = index % p.tiles[1];
    index /= p.tiles[1];
    const int32_t tile_h = index % p.tiles[0];
    index /= p.tiles[0];
    const int32_t piece = index % p.pieces;
    index /= p.pieces;
    at.g = index % p.h.groups;
    at.n = index / p.h.groups;
    at.row = tile_h * (p.rows - 1);
    at.position = tile_w * MARCH_SHARED_STEP;
    at.begin = tile_w == 0 ? 0 : max(2 * (at.position + 1) - axis[2].padding, 0);
    at.end = tile_w + 1 == p.tiles[1] ? axis[2].out
                                      : min(2 * (at.position + MARCH_SHARED_STEP + 1) - axis[2].padding, axis[2].out);
    const int32_t first_pair = at.row + (tile_h > 0);
    const int32_t end_pair = tile_h + 1 == p.tiles[0] ? p.pairs[1] : at.row + p.rows;
    const int32_t each = (p.pairs[0] + p.pieces - 1) / p.pieces, begin = piece * each;
    const int32_t end = min(begin + each, p.pairs[0]);

    uint4 *weights = (uint4 *)halo_shared;
    T *stage = (T *)(halo_shared + C::WeightBytes) + (warp * C::StageBytes / (int)sizeof(T) + lane * 4);
    const int32_t stage_step = p.rows * C::StageBytes / (int)sizeof(T);
    float *sums = (float *)(halo_shared + C::WeightBytes + p.stages * p.rows * C::StageBytes);
    const int32_t all_sums = 2 * p.rows * 4 * MARCH_PITCH;
    for (int32_t i = threadIdx.x; i < 2 * all_sums; i += blockDim.x) sums[i] = 0;

    const int32_t row = at.row + warp, shift = (2 * at.position - axis[2].padding) & 3;
    March80Row<C> x;
    x.positions = row < axis[1].in ? min(axis[2].in - at.position - lane / 4 * 4, 4) : 0;
    x.channels = p.h.in_group - lane % 4 * 4;
    x.x = p.h.x + at.n * p.h.x_stride[0] + ((int64_t)at.g * p.h.in_group + lane % 4 * 4) * p.h.x_stride[1] +
          min(row, axis[1].in - 1) * p.h.x_stride[3] + (at.position + lane / 4 * 4) * p.h.x_stride[4];
    constexpr int scale = C::Tf32 ? Sm80Mode<C::Mode>::Scale : 0;
    const int32_t plane = max(begin - 1, 0);
    if (x.positions <= 0)               // zeros for ever
        for (int32_t i = 0; i < p.stages * 16; i++)
            for (int32_t j = 0; j < 4; j++) stage[i / 16 * stage_step + i % 16 * 32 * 4 + j] = T(0);
    for (int32_t i = 0; i < p.stages; i++) {
#pragma unroll
        for (int s = 0; s < MARCH_K16; s++) x.load(p, plane + i, stage + i * stage_step, s);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    await_launch_before();
    const uint4 *packed = (const uint4 *)p.weights + at.g * (C::WeightBytes / 16);
    for (int32_t i = threadIdx.x; i < C::WeightBytes / 16; i += blockDim.x) weights[i] = packed[i];
    const float undo = C::Split ? p.inverse[at.g] : 1.f / (1 << scale) / (1 << scale), bias = halo_bias(p.h, at.g);
    __syncthreads();
    MarchSum pending[2] = {};
    int32_t slot = 0;
    for (int32_t m = plane; m < end; m++) {
        const bool busy = m < axis[0].in && row < axis[1].in;
        float *to = sums + (m & 1) * all_sums + warp * 4 * MARCH_PITCH;
        MarchOperand<C> operand;
        if (p.stages > 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
        else asm volatile("cp.async.wait_group 0;" ::: "memory");
        if (busy) operand.from(stage + slot * stage_step, p.h.in_group);
        T *next = stage + slot * stage_step;
        if (!C::Spread)
#pragma unroll
            for (int s = 0; s < MARCH_K16; s++) x.load(p, m + p.stages, next, s);
        slot = slot + 1 == p.stages ? 0 : slot + 1;
#pragma unroll
        for (int ed = 0; ed < 2; ed++) {
            MarchSum sum = pending[ed];
            if (C::Spread) x.load(p, m + p.stages, next, 2 * ed);
            if (busy) {
                march_multiply<C>(operand, weights + ed * C::Steps * C::Lots * 32 + lane, sum);
#pragma unroll
                for (int i = 0; i < MARCH_NB * 4; i++)
                    sum.v[i / 4][i % 4] = fmaf(sum.v[i / 4][i % 4], operand.inverse, pending[ed].v[i / 4][i % 4]);
            }
            if (m >= begin) march_hand_on(sum, to + ed * p.rows * 4 * MARCH_PITCH, shift);
            pending[ed] = {};
            if (C::Spread) x.load(p, m + p.stages, next, 2 * ed + 1);
            if (busy) {
                march_multiply<C>(operand, weights + (2 + ed) * C::Steps * C::Lots * 32 + lane, pending[ed]);
#pragma unroll
                for (int i = 0; i < MARCH_NB * 4; i++) pending[ed].v[i / 4][i % 4] *= operand.inverse;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        __syncthreads();
        if (m >= begin) march_gather<C>(p, at, sums + (m & 1) * all_sums, m, first_pair, end_pair, undo, bias);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// ---- packing ----

template <class T> struct MarchPacking {
    const T *w;
    void *weights;
    float *inverse;
    T *copy;                            // of w as it came, where the pack outlives it
    int32_t in_group, kernel[3], taps;
    int64_t elements;
};

template <class T>
__device__ __forceinline__ float march_weight(const MarchPacking<T> &p, int64_t g, int32_t ic, int32_t kd, int32_t kh,
                                              int32_t kw)
{
    if (ic >= p.in_group || kd >= p.kernel[0] || kh >= p.kernel[1] || kw >= p.kernel[2]) return 0;
    return Number<T>::widen(p.w[(g * p.in_group + ic) * p.taps + (kd * p.kernel[1] + kh) * p.kernel[2] + kw]);
}

// A block a group. Fragment b of 4: taps kd = b, rows (kh, kw % 2) and kw + 2; a lane's channels as March80Row has them.
template <class C> __global__ void __launch_bounds__(256)
march_pack_kernel(const __grid_constant__ MarchPacking<typename C::T> p)
{
    typedef typename C::T T;
    __shared__ float met[8];
    const int64_t g = blockIdx.x;
    start_next_launch();
    if (p.copy)
        for (int64_t i = g * 256 + threadIdx.x; i < p.elements; i += (int64_t)gridDim.x * 256) p.copy[i] = p.w[i];
    TileScale scale(1);
    if constexpr (C::Split) {
        float most = 0;
        for (int32_t i = threadIdx.x; i < p.in_group * p.taps; i += 256)
            most = fmaxf(most, fabsf(Number<T>::widen(p.w[g * p.in_group * p.taps + i])));
        most = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(most)));
        if (threadIdx.x % 32 == 0) met[threadIdx.x / 32] = most;
        __syncthreads();
        for (int i = 0; i < 8; i++) most = fmaxf(most, met[i]);
        scale = TileScale(most);
        if (threadIdx.x == 0) p.inverse[g] = scale.inverse;
    }
    for (int32_t i = threadIdx.x; i < 4 * C::Steps * 32; i += 256) {
        const int32_t lane = i % 32, s = i / 32 % C::Steps, b = i / 32 / C::Steps, t = lane % 4;
        uint32_t r[4], low[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {       // register j: taps kw + j % 2 * 2, half j / 2 of the depth
            const int32_t kh = lane / 8, kw = lane / 4 % 2 + j % 2 * 2;
            if constexpr (C::Tf32) {
                const float v = march_weight(p, g, s / 2 * 16 + 4 * t + s % 2 * 2 + j / 2, b, kh, kw);
                asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[j]) : "f"(v * (1 << Sm80Mode<C::Mode>::Scale)));
            } else {
                const int32_t ic = s * 16 + 4 * t + j / 2 * 2;
                const float v = march_weight(p, g, ic, b, kh, kw), u = march_weight(p, g, ic + 1, b, kh, kw);
                if constexpr (C::Split) split_apart(v, u, scale.factor, r[j], low[j]);
                else {
                    const T pair[2] = {Number<T>::round(v), Number<T>::round(u)};
                    r[j] = *(const uint32_t *)pair;
                }
            }
        }
        uint4 *to = (uint4 *)p.weights + ((g * 4 + b) * C::Steps + s) * C::Lots * 32 + lane;
        to[0] = make_uint4(r[0], r[1], r[2], r[3]);
        if constexpr (C::Split) to[32] = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

// ---- on the host ----

static inline int32_t march_mode(const convt3d_desc &d)
{
    switch (d.dtype) {
    case CONVT3D_F16: return SM80_HALF;
    case CONVT3D_BF16: return SM80_BFLOAT;
    default: return d.math == CONVT3D_TF32 ? SM80_TF32 : SM80_SPLIT;
    }
}

// Bytes of shared memory of a block of `rows` warps.
static inline int64_t march_shared(const MarchShape &s)
{
    const int64_t element = s.mode == SM80_SPLIT || s.mode == SM80_TF32 ? 4 : 2;
    return (element == 4 ? 16384 : 8192) + (int64_t)s.stages * s.rows * 2048 * element +
           4 * s.rows * 4 * MARCH_PITCH * 4;
}

static inline int32_t march_tiles(int64_t in, int32_t span, int32_t step)
{
    return in <= span ? 1 : (int32_t)(1 + convt3d__ceil_div(in - span, step));
}

static inline const char *march_plan(const convt3d__plan *plan, MarchShape &best)
{
    memset(&best, 0, sizeof best);
    if (plan->cuda_arch < 80) return "needs sm_80";
    if (plan->desc.dtype == CONVT3D_F64) return "f64 is not for halves";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (!fits_32_bits(plan)) return "an index needs more than 32 bits";
    if (plan->out_group > 1) return "more than one output channel a group";
    if (plan->in_group > 16 * MARCH_K16) return "more than 64 input channels a group";
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.stride != 2 || axis.dilation != 1) return "a stride that is not 2, or dilation";
        if (axis.kernel > MARCH_TAPS || axis.padding < 0) return "more than 4 taps of an axis, or negative padding";
        best.pairs[a] = (int32_t)convt3d__ceil_div(axis.out + axis.padding, 2);
    }
    best.mode = march_mode(plan->desc);
    best.inner = plan->desc.x_stride[1] == 1 && plan->desc.x_stride[4] != 1;
    best.tiles[1] = march_tiles(plan->axis[2].in, MARCH_WIDTH, MARCH_SHARED_STEP);
    const int64_t most = plan->cuda_arch >= 90 && plan->cuda_arch < 120 ? 226 * 1024 : sm80_most_shared(plan);
    const double work = best.mode == SM80_SPLIT ? 400 : best.mode == SM80_TF32 ? 300 : 200;     // cycles of a row
    for (int32_t rows = 1; rows <= MARCH_ROWS; rows++) {
        MarchShape s = best;
        s.rows = rows;
        if (rows == 1 ? plan->axis[1].in > 1 : plan->axis[1].in < rows) continue;
        s.tiles[0] = march_tiles(plan->axis[1].in, rows, rows - 1);
        for (s.stages = 2; s.stages > 1 && march_shared(s) > most;) s.stages--;
        if (march_shared(s) > most) continue;
        s.shared = (int32_t)march_shared(s);
        for (s.pieces = 1; s.pieces <= s.pairs[0]; s.pieces++) {
            const double blocks =
                (double)plan->desc.batch * (double)plan->desc.groups * s.pieces * s.tiles[0] * s.tiles[1];
            if (blocks > INT32_MAX) break;
            const double each = (double)convt3d__ceil_div((int64_t)blocks, plan->multiprocessors);
            s.cycles = each * (double)(convt3d__ceil_div(s.pairs[0], s.pieces) + 2) * (work * rows + 300);
            if (best.cycles == 0 || s.cycles < best.cycles) {
                const double cycles = s.cycles;
                best = s;
                best.cycles = cycles;
            }
            if (blocks > 8.0 * plan->multiprocessors) break;
        }
    }
    return best.cycles > 0 ? "" : "no tile";
}

static inline MarchShape march_shape(const convt3d__plan *plan)
{
    MarchShape s;
    memcpy(&s, plan->state, sizeof s);
    return s;
}

template <class C> int64_t march_packed(const convt3d__plan *plan)
{
    return plan->desc.groups * C::WeightBytes + convt3d__ceil_div(plan->desc.groups, 4) * 16;
}

template <class C>
convt3d_status march_pack(const convt3d__plan *plan, const void *w, void *packed, bool copy, void *stream,
                          convt3d_error *error)
{
    typedef typename C::T T;
    MarchPacking<T> p = {};
    p.w = (const T *)w;
    p.weights = packed;
    p.inverse = (float *)((char *)packed + plan->desc.groups * C::WeightBytes);
    if (copy) p.copy = (T *)((char *)packed + march_packed<C>(plan));
    p.in_group = (int32_t)plan->in_group;
    for (int a = 0; a < 3; a++) p.kernel[a] = (int32_t)plan->axis[a].kernel;
    p.taps = (int32_t)plan->taps;
    p.elements = plan->w_count;
    return convt3d__launch(error, march_pack_kernel<C>, dim3((unsigned)plan->desc.groups), dim3(256), 0, stream, p);
}

template <class C>
convt3d_status march_run(const convt3d__plan *plan, const convt3d_io *io, const MarchShape &s, convt3d_error *error)
{
    typedef typename C::T T;
    const convt3d_desc &d = plan->desc;
    MarchProblem<T> p = {};
    if (!io->w_packed) {
        convt3d_status status = march_pack<C>(plan, io->w, io->workspace, false, io->stream, error);
        if (status != CONVT3D_OK) return status;
    }
    HaloShape shape = {};
    shape.fused = shape.channels = shape.chunk = shape.phases = shape.phase_step = 1;
    shape.channel_items = shape.channel_step = 1;
    p.h = halo_problem<T>(plan, io, shape, 1);
    convt3d_status aligned = sm80_aligned_weights(io, march_packed<C>(plan), &p.weights, error);
    if (aligned != CONVT3D_OK) return aligned;
    p.inverse = (const float *)((const char *)p.weights + d.groups * C::WeightBytes);
    p.h.w = (const T *)(io->w_packed ? (const void *)((const char *)io->w_packed + march_packed<C>(plan)) : io->w);
    p.rows = s.rows;
    p.stages = s.stages;
    p.pieces = s.pieces;
    memcpy(p.tiles, s.tiles, sizeof p.tiles);
    memcpy(p.pairs, s.pairs, sizeof p.pairs);
    const int inner = s.inner ? 1 : 4;
    const int64_t stored = convt3d__element_size(plan->stored);
    p.x_vectors = d.x_stride[inner] == 1 && d.alignment >= 4 * (int64_t)sizeof(T) &&
                  (!s.inner || plan->in_group % 4 == 0);
    p.y_vectors = d.y_stride[4] == 1 && (uintptr_t)io->y % (4 * stored) == 0;
    for (int i = 0; i < 5; i++) {
        if (i != inner && d.x_stride[i] % 4 != 0) p.x_vectors = 0;
        if (i != 4 && d.y_stride[i] % 4 != 0) p.y_vectors = 0;
    }
    const int64_t blocks = d.batch * d.groups * s.pieces * s.tiles[0] * s.tiles[1];
    return sm80_launch_after(plan, !io->w_packed, error, march_kernel<C>, dim3((unsigned)blocks),
                             dim3((unsigned)s.rows * 32), (size_t)s.shared, io->stream, p);
}

template <bool Inner, bool Lists, class Act> auto march_modes(const MarchShape &s, Act act)
{
    switch (s.mode) {
    case SM80_SPLIT: return act(March80Config<SM80_SPLIT, Inner, Lists>());
    case SM80_TF32: return act(March80Config<SM80_TF32, Inner, Lists>());
    case SM80_HALF: return act(March80Config<SM80_HALF, Inner, Lists>());
    default: return act(March80Config<SM80_BFLOAT, Inner, Lists>());
    }
}

template <class Act> auto march_instance(const convt3d__plan *plan, const MarchShape &s, Act act)
{
    if (s.inner) return halo_lists(plan) ? march_modes<true, true>(s, act) : march_modes<true, false>(s, act);
    return halo_lists(plan) ? march_modes<false, true>(s, act) : march_modes<false, false>(s, act);
}

}

extern "C" int32_t convt3d__march_sm80_refuses(convt3d__plan *plan, char why[96])
{
    convt3d_cuda::MarchShape s;
    convt3d__text text = {why, 96, 0};
    const char *refusal = convt3d_cuda::march_plan(plan, s);
    convt3d__put(&text, refusal);
    if (*refusal) return 1;
    memcpy(plan->state, &s, sizeof s);
    plan->pack_variant = (uint64_t)s.mode;
    return 0;
}

extern "C" double convt3d__march_sm80_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const MarchShape s = march_shape(plan);
    const double bytes = (double)(plan->y_count + plan->x_count) * (double)convt3d__element_size(plan->desc.dtype);
    // Fitted to times of an H200: f32 planes of x are read slower than channels side by side.
    double rate = s.mode == SM80_TF32 ? 0.58e9 : 0.76e9;
    if (!s.inner && (s.mode == SM80_TF32 || s.mode == SM80_SPLIT)) rate /= 1.35;
    const double compute = s.cycles / rate, memory = bytes / 3.2e12;
    return (compute > memory ? compute : memory) + 8e-6;
}

extern "C" int64_t convt3d__march_sm80_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    return march_instance(plan, march_shape(plan), [&](auto config) { return march_packed<decltype(config)>(plan); });
}

extern "C" int64_t convt3d__march_sm80_packed(const convt3d__plan *plan)
{
    return convt3d__march_sm80_workspace(plan) + plan->w_count * convt3d__element_size(plan->desc.dtype);
}

extern "C" convt3d_status convt3d__march_sm80_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                   convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return march_instance(plan, march_shape(plan), [&](auto config) {
        return march_pack<decltype(config)>(plan, w, packed, true, stream, error);
    });
}

extern "C" convt3d_status convt3d__march_sm80_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    const MarchShape s = march_shape(plan);
    return march_instance(plan, s, [&](auto config) {
        typedef decltype(config) C;
        convt3d_status status = convt3d__load_kernel(error, plan, march_pack_kernel<C>, 0);
        if (status != CONVT3D_OK) return status;
        return convt3d__load_kernel(error, plan, march_kernel<C>, (size_t)s.shared);
    });
}

extern "C" convt3d_status convt3d__march_sm80_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    const MarchShape s = march_shape(plan);
    return march_instance(plan, s, [&](auto config) { return march_run<decltype(config)>(plan, io, s, error); });
}

#endif
