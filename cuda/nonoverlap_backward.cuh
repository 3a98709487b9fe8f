// sm90_nonoverlap (backward): dx, dw and dbias where kernel == stride, on Hopper's wgmma, from one reading of dy.
//
// Idea      Every dy meets one position of x and one tap: with a column for each (oc, tap), dy is a matrix
//           [position][column], dx = dy W^T and dw = x^T dy. A block goes through tiles of 64 positions; its rows of dy
//           (an oc, kd and kh) are copied as they lie in memory, 64 columns a stage. Warpgroups read each stage from
//           shared memory straight into the fragments of wgmma's A operand, where the W phases come apart by
//           themselves: one as [position][column] for dx, with its slice of W in shared memory for good, the other as
//           [column][position] for dw, with x, which it makes into an operand for each tile. Four warps copy, long runs
//           by one instruction each.
// f32       three f16 products of scaled halves (split.cuh), each row of each stage with a scale of its own, so no pass
//           looks for one; added to f32 registers after 64 products, rescaled where a larger scale comes. CONVT3D_TF32:
//           one tf32 product. f16, bf16: one product. dbias: plain sums of what is read.
// Pieces    a block has one piece of the tiles, 64 input channels and up to 256 columns. dw's pieces, and dx's sums
//           where there are more columns, are merged in order by patch_merge_kernel; the shape alone decides them.
// NaN, inf  and what tf32 rounds badly (subnormals): rows of dx are computed again from dy and w, dw as a whole.
// Launches  operands of w, products, merging (not for dx alone where there are up to 256 columns).
// Requires  sm_90; f32, f16, bf16; kernel == stride, 2 or 4 along w; no padding, dilation or output_padding; x, dx with
//           dense voxels and dy with dense rows, else slow copies, element by element, as where these are not in whole
//           cells of 16 bytes; dx is not added to.
// Measured  one H200, NCDHW, all three gradients: nnunet_64_32_64 0.53 ms in f32, 0.38 in tf32, 0.24 in f16, 0.36 to
//           0.51 of a floor that counts dy once; apart, from dy's phases, they took 1.10, 1.09 and 0.60. Copies alone
//           take 0.25: what is read and what is multiplied hardly overlap.
// CONVT3D_CUDA_PART 17.
#pragma once

extern "C" {
CONVT3D__HIDDEN int32_t convt3d__patch_dx_refuses(convt3d__plan *plan, char why[96]);
CONVT3D__HIDDEN int32_t convt3d__patch_dw_refuses(convt3d__plan *plan, char why[96]);
CONVT3D__HIDDEN double convt3d__patch_cost(const convt3d__plan *plan);
CONVT3D__HIDDEN int64_t convt3d__patch_workspace(const convt3d__plan *plan);
CONVT3D__HIDDEN convt3d_status convt3d__patch_run(const convt3d__plan *plan, const convt3d_io *io,
                                                  convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__patch_ready(const convt3d__plan *plan, convt3d_error *error);
}

#if CONVT3D__PART(17)

namespace convt3d_cuda {

enum { PATCH_SPLIT = 0, PATCH_TF32 = 1, PATCH_F16 = 2, PATCH_BF16 = 3 };
enum { PATCH_THREADS = 384, PATCH_STAGES = 4, PATCH_MOST_RING = 12, PATCH_SHARED = 226 * 1024, PATCH_HEAD = 2048,
       PATCH_RUN = 64, PATCH_ZERO_ROW = 1000, PATCH_NO_SCALE = 1 << 20 };

template <int Mode> struct PatchMode;
template <> struct PatchMode<PATCH_SPLIT> { typedef float T; typedef __half Operand; };
template <> struct PatchMode<PATCH_TF32> { typedef float T; typedef Tf32 Operand; };
template <> struct PatchMode<PATCH_F16> { typedef __half T, Operand; };
template <> struct PatchMode<PATCH_BF16> { typedef __nv_bfloat16 T, Operand; };

// One instance. Operands in shared memory: [cell of K][row][16 bytes], a split's low halves as 64 more rows.
template <int Mode_, int SW_> struct PatchTile {
    typedef typename PatchMode<Mode_>::T T;
    typedef typename PatchMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, SW = SW_, Size = sizeof(T);
    static constexpr bool Split = Mode_ == PATCH_SPLIT, Wide = Size == 4;
    static constexpr int Rows = 64 / SW_, Pitch = 64 * SW_ * Size + 32, Stage = Rows * Pitch;   // of dy
    static constexpr int XPitch = 64 * Size + 16, XStage = 64 * XPitch;
    static constexpr int Cell = Mode_ == PATCH_TF32 ? 4 : 8, OperandRows = Split ? 128 : 64;
    static constexpr int OperandBytes = 64 / Cell * OperandRows * 16;
    static constexpr int Registers = Wide ? 8 : 4;      // of a step of 16 of K, as they are read
    static constexpr bool Paired = !(Wide && SW_ == 4); // rows r and r + 8 of dx are neighbouring positions
    static constexpr int State = PATCH_STAGES * 128 * 16;
    static constexpr int Fixed = PATCH_HEAD + State + (PATCH_STAGES + 1) * OperandBytes + 2 * XStage;
    static constexpr int Ring = (PATCH_SHARED - Fixed) / Stage < PATCH_MOST_RING ? (PATCH_SHARED - Fixed) / Stage
                                                                                 : PATCH_MOST_RING;
    static constexpr int Shared = Fixed + Ring * Stage;
};

struct PatchProblem {
    const void *x, *w, *dy;
    void *dx;                               // null: not wanted, as dw_part
    float *dx_part;                         // [slice][n][ic][position], or null
    float *dw_part, *bias_part;             // [block][ic][column of the slice]; [piece][g][slice][column]
    int *unfit;                             // [block][warp of dw]
    const uint4 *weights;                   // operands, [unit][stage]
    const int *w_exponent;                  // [g][channel, of blocks of 64]
    int64_t x_stride[5], dx_stride[5], y_stride[5];
    int plain;                              // tensors are copied element by element
    int batch, in_group, out_group, in_channels, positions;     // of a sample
    int kernel_d;
    int rows, stages, slices, blocks_group, units, groups;      // rows of dy of a group; stages of a slice
    int sample_tiles, tiles, piece;
    Divisor by_h, by_w, by_kh, by_taps, by_sample;
};

__device__ __forceinline__ int patch_swap(int i) { return (i & 1) << 1 | (i >> 1 & 1) | (i & 4); }

// The nearest tf32 of a number that is neither subnormal nor above the largest one.
__device__ __forceinline__ uint32_t patch_tf32(uint32_t bits) { return (bits + 0x1000u) & 0xffffe000u; }

// The column of W that is element i of an operand's 16 of K, as patch_read_positions puts them into fragments.
template <class C> __device__ __forceinline__ int patch_column(int i)
{
    i = C::Cell == 8 ? i : i / 8 * 8 + i % 4 * 2 + i / 4 % 2;
    return C::SW == 2 ? i : i % 8 / 2 * 4 + i / 8 * 2 + i % 2;
}

// A row of a slice: where its elements lie, from those of its position.
__device__ __forceinline__ int64_t patch_row_offset(const PatchProblem &p, int row)
{
    uint32_t tap, kh, oc = divide((uint32_t)row, p.by_taps, &tap), kd = divide(tap, p.by_kh, &kh);
    return oc * p.y_stride[1] + kd * p.y_stride[2] + kh * p.y_stride[3];
}

// Where position `at` of a sample meets dy.
template <int SW> __device__ __forceinline__ int64_t patch_y_offset(const PatchProblem &p, int at)
{
    uint32_t w, h, d = divide(divide((uint32_t)at, p.by_w, &w), p.by_h, &h);
    return (int64_t)(d * p.kernel_d) * p.y_stride[2] + (int64_t)(h * p.by_kh.by) * p.y_stride[3] +
           (int64_t)(w * SW) * p.y_stride[4];
}

// Positions from `at` to the end of its row.
__device__ __forceinline__ int patch_run_at(const PatchProblem &p, int at)
{
    uint32_t w;
    divide((uint32_t)at, p.by_w, &w);
    return (int)(p.by_w.by - w);
}

// Where position `at` of a sample lies in x or dx.
__device__ __forceinline__ int64_t patch_x_offset(const PatchProblem &p, const int64_t *stride, int at)
{
    if (!p.plain) return at;
    uint32_t w, h, d = divide(divide((uint32_t)at, p.by_w, &w), p.by_h, &h);
    return d * stride[2] + h * stride[3] + w * stride[4];
}

#if CONVT3D__SM90A

// D[64][N] (+)= A[64][a cell or two] B[N][same]^T, A in registers.
template <class Operand, int N> struct WgmmaFrom;
#define CONVT3D__WGMMA_FROM(Operand, N, Shape, Types, Transpose, A0, A1, A2, A3, B, Clear)                             \
    template <> struct WgmmaFrom<Operand, N> {                                                                         \
        static __device__ __forceinline__ void multiply(float *d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,  \
                                                        uint64_t b, int accumulate)                                    \
        {                                                                                                              \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #Clear ", 0;\n"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N Shape ".f32." Types " {" CONVT3D__LIST_##N             \
                         "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1" Transpose ";}"                \
                         : CONVT3D__OUTPUTS_##N                                                                        \
                         : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate));                               \
        }                                                                                                              \
    };
CONVT3D__WGMMA_FROM(__half, 64, "k16", "f16.f16", ", 0", 32, 33, 34, 35, 36, 37)
CONVT3D__WGMMA_FROM(__nv_bfloat16, 64, "k16", "bf16.bf16", ", 0", 32, 33, 34, 35, 36, 37)
CONVT3D__WGMMA_FROM(Tf32, 64, "k8", "tf32.tf32", "", 32, 33, 34, 35, 36, 37)

// A stage as read: [step of 16 of K][registers], in the order of the fragment: rows r, r + 8 at the first eight of K,
// then at the others; two elements each.
template <class C> struct PatchFragment { uint32_t v[4][C::Registers]; };

template <class V> __device__ __forceinline__ V patch_read(uint32_t address);
template <> __device__ __forceinline__ uint32_t patch_read<uint32_t>(uint32_t address)
{
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address));
    return v;
}
template <> __device__ __forceinline__ uint2 patch_read<uint2>(uint32_t address)
{
    uint2 v;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
    return v;
}
template <> __device__ __forceinline__ uint4 patch_read<uint4>(uint32_t address)
{
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
    return v;
}

template <class C> __device__ __forceinline__ void patch_set(PatchFragment<C> &f, int s, int q, uint32_t a, uint32_t b)
{
    f.v[s][2 * q] = a;
    f.v[s][2 * q + 1] = b;
}

// Rows are positions, K the columns. A warp has 16 positions; r = lane / 4, c = lane % 4.
template <class C>
__device__ __forceinline__ void patch_read_positions(PatchFragment<C> &f, uint32_t stage, int warp, int r, int c)
{
    const uint32_t at = stage + c * C::Pitch + (16 * warp + (C::Paired ? 2 * r : r)) * (C::SW * C::Size);
#pragma unroll
    for (int s = 0; s < 4; s++) {
        const uint32_t row = at + s * (C::SW == 2 ? 8 : 4) * C::Pitch;
        if constexpr (C::Wide && C::SW == 2) {
            uint4 a = patch_read<uint4>(row), b = patch_read<uint4>(row + 4 * C::Pitch);
            patch_set<C>(f, s, 0, a.x, a.y);  patch_set<C>(f, s, 1, a.z, a.w);
            patch_set<C>(f, s, 2, b.x, b.y);  patch_set<C>(f, s, 3, b.z, b.w);
        } else if constexpr (C::Wide) {
            uint4 a = patch_read<uint4>(row), b = patch_read<uint4>(row + 8 * 16);
            patch_set<C>(f, s, 0, a.x, a.y);  patch_set<C>(f, s, 1, b.x, b.y);
            patch_set<C>(f, s, 2, a.z, a.w);  patch_set<C>(f, s, 3, b.z, b.w);
        } else if constexpr (C::SW == 2) {
            uint2 a = patch_read<uint2>(row), b = patch_read<uint2>(row + 4 * C::Pitch);
            f.v[s][0] = a.x;  f.v[s][1] = a.y;  f.v[s][2] = b.x;  f.v[s][3] = b.y;
        } else {
            uint4 a = patch_read<uint4>(row);
            f.v[s][0] = a.x;  f.v[s][1] = a.z;  f.v[s][2] = a.y;  f.v[s][3] = a.w;
        }
    }
}

// A thread's row of dy, and its first column, in a stage as dw has it; the second is the next one.
template <class C> __device__ __forceinline__ int patch_row_of(int warp, int r)
{
    return C::SW == 2 ? 8 * warp + patch_swap(r) : 4 * warp + patch_swap(r >> 1);
}
template <class C> __device__ __forceinline__ int patch_column_of(int warp, int r)
{
    return patch_row_of<C>(warp, r) * C::SW + (C::SW == 2 ? 0 : 2 * (r & 1));
}

// Rows are columns, K the positions. Neighbouring r read rows of dy two apart: no two meet in a bank.
template <class C>
__device__ __forceinline__ void patch_read_columns(PatchFragment<C> &f, uint32_t stage, int warp, int r, int c)
{
    const uint32_t row = stage + patch_row_of<C>(warp, r) * C::Pitch;
#pragma unroll
    for (int s = 0; s < 4; s++) {
        if constexpr (C::Wide && C::SW == 2) {
            const uint32_t at = row + (16 * s + 2 * c) * 8;
            uint4 a = patch_read<uint4>(at), b = patch_read<uint4>(at + 8 * 8);
            patch_set<C>(f, s, 0, a.x, a.z);  patch_set<C>(f, s, 1, a.y, a.w);
            patch_set<C>(f, s, 2, b.x, b.z);  patch_set<C>(f, s, 3, b.y, b.w);
        } else if constexpr (C::Wide) {
            const uint32_t at = row + (16 * s + c) * 16 + (r & 1) * 8;
            uint2 a = patch_read<uint2>(at), b = patch_read<uint2>(at + 4 * 16);
            uint2 d = patch_read<uint2>(at + 8 * 16), e = patch_read<uint2>(at + 12 * 16);
            patch_set<C>(f, s, 0, a.x, b.x);  patch_set<C>(f, s, 1, a.y, b.y);
            patch_set<C>(f, s, 2, d.x, e.x);  patch_set<C>(f, s, 3, d.y, e.y);
        } else if constexpr (C::SW == 2) {
            const uint32_t at = row + (16 * s + 2 * c) * 4;
            uint2 a = patch_read<uint2>(at), b = patch_read<uint2>(at + 8 * 4);
            f.v[s][0] = __byte_perm(a.x, a.y, 0x5410);  f.v[s][1] = __byte_perm(a.x, a.y, 0x7632);
            f.v[s][2] = __byte_perm(b.x, b.y, 0x5410);  f.v[s][3] = __byte_perm(b.x, b.y, 0x7632);
        } else {
            const uint32_t at = row + (16 * s + c) * 8 + (r & 1) * 4;
            uint32_t a = patch_read<uint32_t>(at), b = patch_read<uint32_t>(at + 4 * 8);
            uint32_t d = patch_read<uint32_t>(at + 8 * 8), e = patch_read<uint32_t>(at + 12 * 8);
            f.v[s][0] = __byte_perm(a, b, 0x5410);  f.v[s][1] = __byte_perm(a, b, 0x7632);
            f.v[s][2] = __byte_perm(d, e, 0x5410);  f.v[s][3] = __byte_perm(d, e, 0x7632);
        }
    }
}

// ---- what a row's values need, and their products ----

struct PatchScale { int exponent[2]; bool unfit[2]; };      // of rows r, r + 8

// The exponent that scales values of this largest magnitude, as far as one factor does.
__device__ __forceinline__ int patch_exponent(uint32_t largest)
{
    return largest >= 0x7f800000u ? 0 : largest == 0 ? (int)PATCH_ZERO_ROW : min(scale_exponent(largest), 127);
}

// Of a row, from the values of its four lanes.
template <class C> __device__ __forceinline__ PatchScale patch_scale(const PatchFragment<C> &f)
{
    PatchScale scale = {{0, 0}, {false, false}};
    if constexpr (C::Wide) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = 0;
            uint32_t least = 0xffffffffu;
#pragma unroll
            for (int s = 0; s < 4; s++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float v = __uint_as_float(f.v[s][i / 2 * 4 + 2 * h + i % 2]);
                    most = max_nan(most, fabsf(v));
                    if (C::Mode == PATCH_TF32) least = min(least, magnitude_bits(v) - 1);
                }
            uint32_t bits = __float_as_uint(most);
            bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
            bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
            if (C::Split) {
                scale.unfit[h] = bits >= 0x7f800000u;
                scale.exponent[h] = patch_exponent(bits);
            } else {
                least = min(least, __shfl_xor_sync(0xffffffffu, least, 1));
                least = min(least, __shfl_xor_sync(0xffffffffu, least, 2));
                scale.unfit[h] = bits >= 0x7f7ff000u || least < 0x007fffffu;
            }
        }
    }
    return scale;
}

// Operands of wgmma, from what was read: [step][register]; a split's low halves beside them.
template <class C> struct PatchOperand { uint32_t high[4][C::Cell == 4 ? 8 : 4], low[C::Split ? 4 : 1][4]; };

template <class C>
__device__ __forceinline__ void patch_operand(PatchOperand<C> &o, const PatchFragment<C> &f, const PatchScale &scale)
{
    float by[2];
    if constexpr (C::Split)
#pragma unroll
        for (int h = 0; h < 2; h++) by[h] = power_of_two(min(scale.exponent[h], 127));
#pragma unroll
    for (int s = 0; s < 4; s++) {
        if constexpr (C::Split) {
#pragma unroll
            for (int q = 0; q < 4; q++)
                split_pair(__uint_as_float(f.v[s][2 * q]) * by[q % 2], __uint_as_float(f.v[s][2 * q + 1]) * by[q % 2],
                           &o.high[s][q], &o.low[s][q]);
        } else {
#pragma unroll
            for (int i = 0; i < C::Registers; i++)
                o.high[s][i] = C::Wide ? patch_tf32(f.v[s][i]) : f.v[s][i];
        }
    }
}

// accumulator = A B^T over a stage's 64 of K. b: of its operand. A split has two accumulators of 32, the second of the
// products that count 2^-12, or, where registers are few, one: those first.
template <class C, int Count>
__device__ __forceinline__ void patch_multiply(float (&to)[Count], const PatchOperand<C> &a, uint64_t b)
{
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; s++) {
        if constexpr (C::Split && Count == 32) {
            const uint64_t at = wgmma_advance(b, s * 2 * C::OperandRows);
            WgmmaFrom<__half, 64>::multiply(to, a.high[s][0], a.high[s][1], a.high[s][2], a.high[s][3],
                                            wgmma_advance(at, 64), s > 0);
            WgmmaFrom<__half, 64>::multiply(to, a.low[s][0], a.low[s][1], a.low[s][2], a.low[s][3], at, 1);
        } else if constexpr (C::Split) {
            const uint64_t at = wgmma_advance(b, s * 2 * C::OperandRows);
            WgmmaFrom<__half, 64>::multiply(to, a.high[s][0], a.high[s][1], a.high[s][2], a.high[s][3], at, s > 0);
            WgmmaFrom<__half, 64>::multiply(to + 32, a.high[s][0], a.high[s][1], a.high[s][2], a.high[s][3],
                                            wgmma_advance(at, 64), s > 0);
            WgmmaFrom<__half, 64>::multiply(to + 32, a.low[s][0], a.low[s][1], a.low[s][2], a.low[s][3], at, 1);
        } else if constexpr (C::Cell == 4) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t *v = &a.high[s][4 * half];       // rows r and r + 8 at k, then at k + 4
                WgmmaFrom<Tf32, 64>::multiply(to, v[0], v[2], v[1], v[3],
                                              wgmma_advance(b, (s * 4 + half * 2) * C::OperandRows), s + half > 0);
            }
        } else
            WgmmaFrom<typename C::Operand, 64>::multiply(to, a.high[s][0], a.high[s][1], a.high[s][2], a.high[s][3],
                                                         wgmma_advance(b, s * 2 * C::OperandRows), s > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(to);
    if constexpr (C::Split && Count == 32) {
#pragma unroll
        for (int i = 0; i < 32; i++) to[i] *= 1.f / 4096;
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++)
            WgmmaFrom<__half, 64>::multiply(to, a.high[s][0], a.high[s][1], a.high[s][2], a.high[s][3],
                                            wgmma_advance(b, s * 2 * C::OperandRows), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(to);
    }
}

// Adds a stage's products to sums whose rows count 2^-least; of the products, 2^-now.
template <class C, int Count>
__device__ __forceinline__ void patch_add(float (&sum)[32], const float (&from)[Count], int (&least)[2],
                                          const int (&now)[2])
{
    if constexpr (C::Split) {
        float by[2], old[2];
        bool changed = false;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int next = min(least[h], now[h]);
            changed = changed || next != least[h];
            by[h] = power_of_two(max(-126, next - now[h]));
            old[h] = power_of_two(max(-126, next - least[h]));
            least[h] = next;
        }
        if (__any_sync(0xffffffffu, changed))
#pragma unroll
            for (int i = 0; i < 32; i++) sum[i] *= old[i / 2 % 2];
#pragma unroll
        for (int i = 0; i < 32; i++)
            sum[i] = fmaf(Count == 32 ? from[i] : fmaf(from[(32 + i) % Count], 1.f / 4096, from[i]), by[i / 2 % 2],
                          sum[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 32; i++) sum[i] += from[i];
    }
}

// ---- the parts of a block ----

struct PatchHead {
    uint64_t full[PATCH_MOST_RING], empty[PATCH_MOST_RING], x_full[2], x_empty[2], w_full;
    uint32_t largest[2][4], least[2][4];        // of x, of the warps of dw
    int exponent[64];                           // of the channels of W
    float factor[64];                           // 2^-exponent
    int any_unfit, any_far;                     // of them; far: beyond 60
    int64_t row[PATCH_STAGES * 32];             // of dy: elements from those of the tile
};
static_assert(sizeof(PatchHead) <= PATCH_HEAD, "the head of a block's shared memory");

struct PatchBlock {
    int unit, piece, slice, block, g, channels, rows, first, end;   // channels, rows that there are; tiles
    __device__ __forceinline__ PatchBlock(const PatchProblem &p, int rows_of_stage)
    {
        piece = blockIdx.x / p.units;
        unit = blockIdx.x - piece * p.units;
        slice = unit % p.slices;
        block = unit / p.slices % p.blocks_group;
        g = unit / p.slices / p.blocks_group;
        channels = min(64, p.in_group - block * 64);
        rows = min(p.stages * rows_of_stage, p.rows - slice * p.stages * rows_of_stage);
        first = piece * p.piece;
        end = min(p.tiles, first + p.piece);
    }
};

struct PatchPlace { int n, first, positions; };     // of a tile

__device__ __forceinline__ PatchPlace patch_place(const PatchProblem &p, int tile)
{
    uint32_t rest;
    PatchPlace at;
    at.n = (int)divide((uint32_t)tile, p.by_sample, &rest);
    at.first = (int)rest * 64;
    at.positions = min(64, p.positions - at.first);
    return at;
}

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void patch_fetch(uint32_t to, const void *from, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}

// The thread's copies, once they are there, count as its arrival.
__device__ __forceinline__ void patch_fetched(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

template <class T> __device__ __forceinline__ void patch_set_shared(uint32_t to, T v)
{
    if constexpr (sizeof(T) == 4) asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(__float_as_uint(v)) : "memory");
    else asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(*(const uint16_t *)&v) : "memory");
}

// x of a tile, by 128 threads; what is not there is zero.
template <class C>
__device__ __forceinline__ void patch_copy_x(const PatchProblem &p, const PatchBlock &b, const PatchPlace &at,
                                             uint32_t to, uint32_t barrier)
{
    typedef typename C::T T;
    enum { Cells = 64 * C::Size / 16, Lot = 16 / C::Size };
    const T *x = (const T *)p.x + at.n * p.x_stride[0] + (int64_t)(b.g * p.in_group + b.block * 64) * p.x_stride[1];
    const int thread = threadIdx.x % 128;
    if (p.plain) {
        for (int i = thread; i < 64 * 64; i += 128) {
            const int ic = i / 64, position = i % 64;
            const bool real = ic < b.channels && position < at.positions;
            const int64_t offset = ic * p.x_stride[1] + patch_x_offset(p, p.x_stride, at.first + position);
            patch_set_shared(to + ic * C::XPitch + position * C::Size, real ? x[offset] : T(0.f));
        }
        return barrier_arrive(barrier);
    }
    if (at.positions == 64 && b.channels == 64) {
        const int worker = threadIdx.x % 32 * 4 + thread / 32;
        if (worker == 0) barrier_expect(barrier, 64 * 64 * C::Size);
        __syncwarp();
        if (worker < 64)
            bulk_load(to + worker * C::XPitch, x + worker * p.x_stride[1] + at.first, 64 * C::Size, barrier);
        if (worker != 0) barrier_arrive(barrier);
        return;
    }
    const int cell = thread % Cells;
    const bool inside = cell * Lot < at.positions;
    const T *from = x + at.first + cell * Lot;
#pragma unroll 4
    for (int ic = thread / Cells; ic < 64; ic += 128 / Cells) {
        const bool real = inside && ic < b.channels;
        patch_fetch(to + ic * C::XPitch + cell * 16, real ? from + ic * p.x_stride[1] : p.x, real);
    }
    patch_fetched(barrier);
}

// A stage's rows of dy. from: of the thread's cell of a row (but for the row), or null where it is not there.
template <class C>
__device__ __forceinline__ void patch_copy_rows(const PatchProblem &p, const PatchPlace &at, const typename C::T *from,
                                                const int64_t *row_offset, int rows, uint32_t to, uint32_t barrier)
{
    typedef typename C::T T;
    enum { Cells = 64 * C::SW * C::Size / 16 };
    const int thread = threadIdx.x % 128;
    if (p.plain) {
        for (int i = thread; i < C::Rows * 64 * C::SW; i += 128) {
            const int row = i / (64 * C::SW), position = i / C::SW % 64, k = i % C::SW;
            const bool real = row < rows && position < at.positions;
            patch_set_shared(to + row * C::Pitch + (position * C::SW + k) * C::Size,
                             real ? from[patch_y_offset<C::SW>(p, at.first + position) + k * p.y_stride[4] +
                                         row_offset[row]] : T(0.f));
        }
        return barrier_arrive(barrier);
    }
#pragma unroll
    for (int row = 0; row < C::Rows; row += 128 / Cells) {
        const int own = row + thread / Cells;
        const bool real = from && own < rows;
        patch_fetch(to + own * C::Pitch + thread % Cells * 16, real ? from + row_offset[own] : p.dy, real);
    }
    patch_fetched(barrier);
}

// The same of a whole stage in runs of a row, each of which one instruction copies.
template <class C>
__device__ __forceinline__ void patch_copy_runs(const PatchProblem &p, const PatchPlace &at,
                                                const typename C::T *sample, const int64_t *row_offset, uint32_t to,
                                                uint32_t barrier)
{
    const int worker = threadIdx.x % 32 * 4 + threadIdx.x % 128 / 32;       // shared out over warps first
    const int row = worker % C::Rows, turn = worker / C::Rows;
    if (worker == 0) barrier_expect(barrier, C::Rows * 64 * C::SW * C::Size);
    __syncwarp();
    for (int i = 0, begin = 0, run; begin < 64; i++, begin += run) {
        run = min(64 - begin, patch_run_at(p, at.first + begin));
        if (i % (128 / C::Rows) == turn)
            bulk_load(to + row * C::Pitch + begin * C::SW * C::Size,
                      sample + patch_y_offset<C::SW>(p, at.first + begin) + row_offset[row],
                      (uint32_t)(run * C::SW * C::Size), barrier);
    }
    if (worker != 0) barrier_arrive(barrier);
}

// Four warps: x of each tile, then its stages of dy.
template <class C>
__device__ __forceinline__ void patch_copy(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t x_raw,
                                           uint32_t ring, bool with_x)
{
    typedef typename C::T T;
    enum { Cells = 64 * C::SW * C::Size / 16 };
    const uint32_t full = (uint32_t)__cvta_generic_to_shared(head->full), empty = full + PATCH_MOST_RING * 8;
    const uint32_t x_full = empty + PATCH_MOST_RING * 8, x_empty = x_full + 16;
    const T *dy = (const T *)p.dy + (int64_t)b.g * p.out_group * p.y_stride[1];
    const int element = threadIdx.x % 128 % Cells * (16 / C::Size);     // of a row
    int slot = 0;
    uint32_t parity = 1;
    for (int tile = b.first; tile < b.end; tile++) {
        const PatchPlace at = patch_place(p, tile);
        const T *from = dy + at.n * p.y_stride[0];
        if (!p.plain)
            from = element < at.positions * C::SW
                       ? from + patch_y_offset<C::SW>(p, at.first + element / C::SW) + element % C::SW : nullptr;
        if (with_x) {
            const int turn = tile - b.first, s = turn % 2;
            barrier_wait(x_empty + s * 8, (turn / 2 + 1) % 2);
            patch_copy_x<C>(p, b, at, x_raw + s * C::XStage, x_full + s * 8);
        }
        const bool runs = !p.plain && at.positions == 64 && (int)p.by_w.by >= PATCH_RUN;
        for (int stage = 0; stage * C::Rows < b.rows; stage++) {
            const int rows = b.rows - stage * C::Rows;
            const int64_t *row = head->row + stage * C::Rows;
            barrier_wait(empty + slot * 8, parity);
            if (runs && rows >= C::Rows)
                patch_copy_runs<C>(p, at, dy + at.n * p.y_stride[0], row, ring + slot * C::Stage, full + slot * 8);
            else
                patch_copy_rows<C>(p, at, from, row, rows, ring + slot * C::Stage, full + slot * 8);
            if (++slot == C::Ring) { slot = 0;  parity ^= 1; }
        }
    }
}

// One element of dx, of the slice's columns, in plain arithmetic.
template <class C>
__device__ __forceinline__ float patch_exact(const PatchProblem &p, const PatchBlock &b, const PatchHead *head, int n,
                                             int ic, int position)
{
    typedef typename C::T T;
    const T *dy = (const T *)p.dy + n * p.y_stride[0] + (int64_t)b.g * p.out_group * p.y_stride[1] +
                  patch_y_offset<C::SW>(p, position);
    const T *w = (const T *)p.w + ((int64_t)(b.g * p.in_group + ic) * p.rows + b.slice * p.stages * C::Rows) * C::SW;
    float sum = 0;
#pragma unroll 1
    for (int row = 0; row < b.rows; row++)
#pragma unroll 1
        for (int k = 0; k < C::SW; k++)
            sum = fmaf(Number<T>::widen(dy[head->row[row] + k * p.y_stride[4]]),
                       Number<T>::widen(w[row * C::SW + k]), sum);
    return sum;
}

// One result of dx, or of its share.
template <class C>
__device__ __forceinline__ void patch_put(const PatchProblem &p, const PatchBlock &b, int n, int ic, int position,
                                          float v)
{
    typedef typename C::T T;
    const int c = b.g * p.in_group + ic;
    if (p.dx_part)
        p.dx_part[(((int64_t)b.slice * p.batch + n) * p.in_channels + c) * p.positions + position] = v;
    else
        ((T *)p.dx)[n * p.dx_stride[0] + c * p.dx_stride[1] + patch_x_offset(p, p.dx_stride, position)] =
            Number<T>::round(v);
}

// Two neighbouring positions.
template <class C>
__device__ __forceinline__ void patch_put_pair(const PatchProblem &p, const PatchBlock &b, int n, int ic, int position,
                                               float v, float next)
{
    typedef typename C::T T;
    struct alignas(2 * sizeof(T)) Pair { T at[2]; };
    const int c = b.g * p.in_group + ic;
    if (p.dx_part)
        *(float2 *)(p.dx_part + (((int64_t)b.slice * p.batch + n) * p.in_channels + c) * p.positions + position) =
            make_float2(v, next);
    else
        *(Pair *)((T *)p.dx + n * p.dx_stride[0] + c * p.dx_stride[1] + position) =
            Pair{{Number<T>::round(v), Number<T>::round(next)}};
}

// What a thread stored from rows or channels that matrix units must not see, once more. first: its first position.
template <class C>
__device__ __forceinline__ void patch_repair(const PatchProblem &p, const PatchBlock &b, const PatchHead *head,
                                             const PatchPlace &at, const bool (&unfit)[2], int first, int c)
{
#pragma unroll 1
    for (int i = 0; i < 32; i++) {
        const int ic = i / 4 * 8 + 2 * c + i % 2, h = i / 2 % 2, position = first + h * (C::Paired ? 1 : 8);
        if ((h ? unfit[1] : unfit[0]) || head->exponent[ic] == NOT_FINITE)
            if (ic < b.channels && position < at.positions)
                patch_put<C>(p, b, at.n, b.block * 64 + ic, at.first + position,
                             patch_exact<C>(p, b, head, at.n, b.block * 64 + ic, at.first + position));
    }
}

template <class C>
__device__ __forceinline__ void patch_store_dx(const PatchProblem &p, const PatchBlock &b, const PatchHead *head,
                                               const PatchPlace &at, const float (&sum)[32], const int (&least)[2],
                                               const bool (&unfit)[2], int warp, int r, int c)
{
    const int first = 16 * warp + (C::Paired ? 2 * r : r), step = C::Paired ? 1 : 8;
    // A row of zeros has no scale. Exponents that do not add up to too much are two factors.
    const int scale[2] = {least[0] < PATCH_ZERO_ROW / 2 ? least[0] : 0, least[1] < PATCH_ZERO_ROW / 2 ? least[1] : 0};
    const bool easy = C::Split && __all_sync(0xffffffffu, !head->any_far && max(abs(scale[0]), abs(scale[1])) <= 60);
    const float by[2] = {easy ? power_of_two(-scale[0]) : 1, easy ? power_of_two(-scale[1]) : 1};
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int ic = i / 2 * 8 + 2 * c + i % 2;
        float v[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            v[h] = sum[i / 2 * 4 + 2 * h + i % 2];
            if (C::Split) v[h] = easy ? v[h] * by[h] * head->factor[ic]
                                      : scale_result(v[h], -(scale[h] + usable_exponent(head->exponent[ic])));
        }
        if (ic >= b.channels) continue;
        if (C::Paired && !p.plain) {
            if (first < at.positions) patch_put_pair<C>(p, b, at.n, b.block * 64 + ic, at.first + first, v[0], v[1]);
        } else {
            if (first < at.positions) patch_put<C>(p, b, at.n, b.block * 64 + ic, at.first + first, v[0]);
            if (first + step < at.positions)
                patch_put<C>(p, b, at.n, b.block * 64 + ic, at.first + first + step, v[1]);
        }
    }
    if constexpr (C::Wide)
        if (unfit[0] || unfit[1] || head->any_unfit) patch_repair<C>(p, b, head, at, unfit, first, c);
}

// The warpgroup of dx.
template <class C>
__device__ __forceinline__ void patch_dx(const PatchProblem &p, const PatchBlock &b, PatchHead *head, uint32_t weights,
                                         uint32_t ring)
{
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x % 128 / 32, 0);
    const int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4;
    const uint32_t full = (uint32_t)__cvta_generic_to_shared(head->full), empty = full + PATCH_MOST_RING * 8;
    const uint64_t operand = wgmma_descriptor(weights, C::OperandRows);
    int slot = 0;
    uint32_t parity = 0;
    barrier_wait((uint32_t)__cvta_generic_to_shared(&head->w_full), 0);
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const PatchPlace at = patch_place(p, tile);
        float sum[32] = {};
        int least[2] = {PATCH_NO_SCALE, PATCH_NO_SCALE};
        bool unfit[2] = {false, false};
#pragma unroll 1
        for (int stage = 0; stage * C::Rows < b.rows; stage++) {
            PatchFragment<C> f;
            PatchOperand<C> o;
            float accumulator[C::Split ? 64 : 32];
            barrier_wait(full + slot * 8, parity);
            patch_read_positions<C>(f, ring + slot * C::Stage, warp, r, c);
            const PatchScale scale = patch_scale<C>(f);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + slot * 8);
            patch_operand<C>(o, f, scale);
            patch_multiply<C>(accumulator, o, wgmma_advance(operand, stage * (C::OperandBytes / 16)));
            patch_add<C>(sum, accumulator, least, scale.exponent);
            unfit[0] = unfit[0] || scale.unfit[0];
            unfit[1] = unfit[1] || scale.unfit[1];
            if (++slot == C::Ring) { slot = 0;  parity ^= 1; }
        }
        patch_store_dx<C>(p, b, head, at, sum, least, unfit, warp, r, c);
    }
}

// x of a tile as an operand: [cell of positions][channel], positions in the order of patch_read_columns. Its exponent;
// *unfit where it holds what must not enter.
template <class C>
__device__ __forceinline__ int patch_make_x(PatchHead *head, int turn, uint32_t raw, unsigned char *operand,
                                            bool *unfit)
{
    enum { Words = 2 * C::Size };           // of eight positions
    const int thread = threadIdx.x - 128, ic = thread % 64, octet = thread / 64;
    uint32_t v[4][Words];                   // octets octet, octet + 2, ...
    float most = 0;
    uint32_t least = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int k = 0; k < Words / 4; k++) {
            const uint4 cell = patch_read<uint4>(raw + ic * C::XPitch + (2 * i + octet) * 8 * C::Size + k * 16);
            v[i][4 * k] = cell.x;  v[i][4 * k + 1] = cell.y;  v[i][4 * k + 2] = cell.z;  v[i][4 * k + 3] = cell.w;
        }
        if (C::Wide)
#pragma unroll
            for (int k = 0; k < Words; k++) {
                most = max_nan(most, fabsf(__uint_as_float(v[i][k])));
                if (C::Mode == PATCH_TF32) least = min(least, magnitude_bits(__uint_as_float(v[i][k])) - 1);
            }
    }
    uint32_t bits = __float_as_uint(most);
    int exponent = 0;
    if (C::Wide) {
        bits = __reduce_max_sync(0xffffffffu, bits);
        if (C::Mode == PATCH_TF32) least = __reduce_min_sync(0xffffffffu, least);
        if (thread % 32 == 0) {
            head->largest[turn % 2][thread / 32] = bits;
            head->least[turn % 2][thread / 32] = least;
        }
    }
    warpgroup_sync(1);                        // the operand's last products are done, too
    if (C::Wide) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bits = max(bits, head->largest[turn % 2][i]);
            least = min(least, head->least[turn % 2][i]);
        }
        *unfit = C::Split ? bits >= 0x7f800000u : bits >= 0x7f7ff000u || least < 0x007fffffu;
        if (C::Split) exponent = patch_exponent(bits);
    }
    const float by = C::Split ? power_of_two(min(exponent, 127)) : 1.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int cell0 = (2 * i + octet) * (8 / C::Cell);
        uint4 *to = (uint4 *)operand + cell0 * C::OperandRows + ic;
        if constexpr (C::Split && C::SW == 2) {
            alignas(16) uint32_t high[4], low[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                split_pair(__uint_as_float(v[i][2 * k]) * by, __uint_as_float(v[i][2 * k + 1]) * by, &high[k], &low[k]);
            to[0] = *(const uint4 *)high;
            to[64] = *(const uint4 *)low;
        } else if constexpr (C::Mode == PATCH_TF32 && C::SW == 2) {
            to[0] = make_uint4(patch_tf32(v[i][0]), patch_tf32(v[i][2]), patch_tf32(v[i][4]), patch_tf32(v[i][6]));
            to[64] = make_uint4(patch_tf32(v[i][1]), patch_tf32(v[i][3]), patch_tf32(v[i][5]), patch_tf32(v[i][7]));
        } else if constexpr (C::SW == 2) {
            to[0] = make_uint4(v[i][0], v[i][1], v[i][2], v[i][3]);
        } else if constexpr (C::Split) {    // positions k, k + 4 of an octet are elements 2k, 2k + 1 of a cell
            alignas(16) uint32_t high[4], low[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                split_pair(__uint_as_float(v[i][k]) * by, __uint_as_float(v[i][k + 4]) * by, &high[k], &low[k]);
            to[0] = *(const uint4 *)high;
            to[64] = *(const uint4 *)low;
        } else if constexpr (C::Mode == PATCH_TF32) {
            to[0] = make_uint4(patch_tf32(v[i][0]), patch_tf32(v[i][1]), patch_tf32(v[i][2]), patch_tf32(v[i][3]));
            to[64] = make_uint4(patch_tf32(v[i][4]), patch_tf32(v[i][5]), patch_tf32(v[i][6]), patch_tf32(v[i][7]));
        } else {
            to[0] = make_uint4(__byte_perm(v[i][0], v[i][2], 0x5410), __byte_perm(v[i][0], v[i][2], 0x7632),
                               __byte_perm(v[i][1], v[i][3], 0x5410), __byte_perm(v[i][1], v[i][3], 0x7632));
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    warpgroup_sync(1);
    return exponent;
}

// What a thread keeps in shared memory between tiles, for each stage: sums for dbias and scales of its two rows.
struct PatchState { float2 bias[PATCH_STAGES][128]; int2 least[PATCH_STAGES][128]; };

template <class C> __device__ __forceinline__ void patch_sum_bias(const PatchFragment<C> &f, float2 *to)
{
    float sum[2] = {0, 0};
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int i = 0; i < C::Registers; i++) {
            const int h = i * 4 / C::Registers % 2;
            if constexpr (C::Wide) sum[h] += __uint_as_float(f.v[s][i]);
            else if constexpr (C::Mode == PATCH_F16) {
                const float2 v = __half22float2(*(const __half2 *)&f.v[s][i]);
                sum[h] += v.x + v.y;
            } else sum[h] += __uint_as_float(f.v[s][i] << 16) + __uint_as_float(f.v[s][i] & 0xffff0000u);
        }
    float2 old = *to;
    *to = make_float2(old.x + sum[0], old.y + sum[1]);
}

// The sums of a piece to the workspace.
template <class C>
__device__ __forceinline__ void patch_store_dw(const PatchProblem &p, const PatchBlock &b, const PatchState *state,
                                               int stage, const float (&sum)[32], int warp, int r, int c)
{
    const int thread = threadIdx.x % 128, columns = p.stages * 64, column = stage * 64 + patch_column_of<C>(warp, r);
    const int2 least = state->least[stage][thread];
    float *to = p.dw_part + (int64_t)blockIdx.x * 64 * columns + column;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int ic = i / 2 * 8 + 2 * c + i % 2;
        float v0 = sum[i / 2 * 4 + i % 2], v1 = sum[i / 2 * 4 + 2 + i % 2];
        if (C::Split) { v0 = scale_result(v0, -min(least.x, 400));  v1 = scale_result(v1, -min(least.y, 400)); }
        *(float2 *)(to + ic * columns) = make_float2(v0, v1);
    }
    if (!p.bias_part || b.block != 0) return;
    float2 bias = state->bias[stage][thread];
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
        bias.x += __shfl_xor_sync(0xffffffffu, bias.x, bit);
        bias.y += __shfl_xor_sync(0xffffffffu, bias.y, bit);
    }
    if (c == 0)
        *(float2 *)(p.bias_part + (((int64_t)b.piece * p.groups + b.g) * p.slices + b.slice) * columns + column) = bias;
}

// The warpgroup of dw and dbias.
template <class C>
__device__ __forceinline__ void patch_dw(const PatchProblem &p, const PatchBlock &b, PatchHead *head, PatchState *state,
                                         unsigned char *operand, uint32_t x_raw, uint32_t ring)
{
    const int thread = threadIdx.x % 128;
    const int warp = __shfl_sync(0xffffffffu, thread / 32, 0), lane = thread % 32, r = lane / 4, c = lane % 4;
    const uint32_t full = (uint32_t)__cvta_generic_to_shared(head->full), empty = full + PATCH_MOST_RING * 8;
    const uint32_t x_full = empty + PATCH_MOST_RING * 8, x_empty = x_full + 16;
    const uint64_t x = wgmma_descriptor((uint32_t)__cvta_generic_to_shared(operand), C::OperandRows);
    const int stages = (b.rows + C::Rows - 1) / C::Rows;
    float sum[PATCH_STAGES][32] = {};
    int slot = 0;
    uint32_t parity = 0;
    bool unfit = false;
#pragma unroll
    for (int stage = 0; stage < PATCH_STAGES; stage++) {
        state->bias[stage][thread] = make_float2(0, 0);
        state->least[stage][thread] = make_int2(PATCH_NO_SCALE, PATCH_NO_SCALE);
    }
#pragma unroll 1
    for (int tile = b.first; tile < b.end; tile++) {
        const int turn = tile - b.first;
        bool bad = false;
        barrier_wait(x_full + turn % 2 * 8, turn / 2 % 2);
        const int exponent = patch_make_x<C>(head, turn, x_raw + turn % 2 * C::XStage, operand, &bad);
        if (lane == 0) barrier_arrive(x_empty + turn % 2 * 8);
        unfit = unfit || bad;
#pragma unroll
        for (int stage = 0; stage < PATCH_STAGES; stage++) {
            if (stage >= stages) break;
            PatchFragment<C> f;
            PatchOperand<C> o;
            float accumulator[32];
            barrier_wait(full + slot * 8, parity);
            patch_read_columns<C>(f, ring + slot * C::Stage, warp, r, c);
            const PatchScale scale = patch_scale<C>(f);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + slot * 8);
            unfit = unfit || scale.unfit[0] || scale.unfit[1];
            if (p.bias_part) patch_sum_bias<C>(f, &state->bias[stage][thread]);
            patch_operand<C>(o, f, scale);
            patch_multiply<C>(accumulator, o, x);
            int2 *kept = &state->least[stage][thread];
            int least[2] = {kept->x, kept->y};
            const int now[2] = {scale.exponent[0] + exponent, scale.exponent[1] + exponent};
            patch_add<C>(sum[stage], accumulator, least, now);
            if (C::Split) *kept = make_int2(least[0], least[1]);
            if (++slot == C::Ring) { slot = 0;  parity ^= 1; }
        }
    }
#pragma unroll
    for (int stage = 0; stage < PATCH_STAGES; stage++)
        if (stage < p.stages) patch_store_dw<C>(p, b, state, stage, sum[stage], warp, r, c);
    unfit = __any_sync(0xffffffffu, unfit);
    if (lane == 0) p.unfit[blockIdx.x * 4 + warp] = unfit;
}

// Barriers, rows of dy, exponents of the channels; the first thread then fetches the slice of W.
template <class C>
__device__ __forceinline__ void patch_begin(const PatchProblem &p, const PatchBlock &b, PatchHead *head,
                                            uint32_t weights)
{
    const uint32_t barriers = (uint32_t)__cvta_generic_to_shared(head->full);
    if (threadIdx.x == 0) {
        for (int i = 0; i < PATCH_MOST_RING; i++) {
            barrier_init(barriers + i * 8, 128);
            barrier_init(barriers + (PATCH_MOST_RING + i) * 8, (p.dx ? 4 : 0) + (p.dw_part ? 4 : 0));
        }
        for (int i = 0; i < 2; i++) {
            barrier_init(barriers + (2 * PATCH_MOST_RING + i) * 8, 128);
            barrier_init(barriers + (2 * PATCH_MOST_RING + 2 + i) * 8, 4);
        }
        barrier_init(barriers + (2 * PATCH_MOST_RING + 4) * 8, 1);
        barrier_init_done();
        head->any_unfit = head->any_far = 0;
    }
    for (int row = threadIdx.x; row < b.rows; row += PATCH_THREADS)
        head->row[row] = patch_row_offset(p, b.slice * p.stages * C::Rows + row);
    wait_for_previous();
    __syncthreads();
    if (!p.dx) return;
    if (threadIdx.x < 64) {
        const int exponent = p.w_exponent[(b.g * p.blocks_group + b.block) * 64 + threadIdx.x];
        head->exponent[threadIdx.x] = exponent;
        head->factor[threadIdx.x] = power_of_two(-max(-60, min(60, exponent)));
        if (exponent == NOT_FINITE) head->any_unfit = 1;
        if (abs(exponent) > 60) head->any_far = 1;
    }
    if (threadIdx.x == 0) {
        const uint32_t full = barriers + (2 * PATCH_MOST_RING + 4) * 8;
        barrier_expect(full, (uint32_t)(p.stages * C::OperandBytes));
        for (int i = 0; i < p.stages; i++)
            bulk_load(weights + i * C::OperandBytes,
                      p.weights + ((int64_t)b.unit * p.stages + i) * (C::OperandBytes / 16), C::OperandBytes, full);
    }
}
#endif

template <class C>
__global__ void __launch_bounds__(PATCH_THREADS, 1) patch_kernel(const __grid_constant__ PatchProblem p)
{
#if CONVT3D__SM90A
    extern __shared__ __align__(128) unsigned char patch_shared[];
    PatchHead *head = (PatchHead *)patch_shared;
    PatchState *state = (PatchState *)(patch_shared + PATCH_HEAD);
    unsigned char *x_operand = patch_shared + PATCH_HEAD + C::State;
    const uint32_t weights = (uint32_t)__cvta_generic_to_shared(x_operand) + C::OperandBytes;
    const uint32_t x_raw = weights + PATCH_STAGES * C::OperandBytes, ring = x_raw + 2 * C::XStage;
    const PatchBlock b(p, C::Rows);
    let_next_start();
    patch_begin<C>(p, b, head, weights);
    __syncthreads();
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (group == 2) {
        give_registers<40>();
        patch_copy<C>(p, b, head, x_raw, ring, p.dw_part != nullptr);
    } else if (group == 0) {
        take_registers<232>();
        if (p.dx) patch_dx<C>(p, b, head, weights, ring);
    } else {
        take_registers<232>();
        if (p.dw_part) patch_dw<C>(p, b, head, state, x_operand, x_raw, ring);
    }
#endif
}

// ---- before: W as an operand ----

struct PatchPack {
    const void *w;
    uint4 *operands;
    int *exponent;
    int in_group, blocks_group, columns, stages, slices;    // columns of a group; stages of a slice
    int octets, shares;                     // of all groups; blocks to an octet
};

// The largest magnitude of a channel's weights, or whether tf32 does not do for them.
template <class C> __device__ __forceinline__ int patch_channel(const PatchPack &p, const typename C::T *w)
{
    uint32_t most = 0;
    bool unfit = false;
    for (int i = threadIdx.x % 32; i < p.columns; i += 32) {
        const float v = Number<typename C::T>::widen(w[i]);
        most = max(most, magnitude_bits(v));
        unfit = unfit || is_subnormal(v) || magnitude_bits(v) >= 0x7f7ff000u;
    }
    if (C::Split) return scale_exponent(__reduce_max_sync(0xffffffffu, most));
    return C::Mode == PATCH_TF32 && __any_sync(0xffffffffu, unfit) ? (int)NOT_FINITE : 0;
}

// A block makes its share of eight channels' rows of all stages.
template <class C> __global__ void __launch_bounds__(256) patch_pack_kernel(const __grid_constant__ PatchPack p)
{
    typedef typename C::T T;
    __shared__ int exponents[8];
    const int at = blockIdx.x % p.octets, octet = at % (p.blocks_group * 8), g = at / (p.blocks_group * 8);
    const T *w = (const T *)p.w + ((int64_t)g * p.in_group + octet * 8) * p.columns;
    const int real = min(8, p.in_group - octet * 8), own = threadIdx.x / 32;
    let_next_start();
    wait_for_previous();
    const int exponent = own < real ? patch_channel<C>(p, w + (int64_t)own * p.columns) : 0;
    if (threadIdx.x % 32 == 0) {
        exponents[own] = exponent;
        p.exponent[at * 8 + own] = exponent;        // all shares write the same
    }
    __syncthreads();
    const int row = threadIdx.x % 8, stage_cells = 64 / C::Cell, all = p.slices * p.stages * stage_cells;
    const Scale scale(exponents[row]);
    for (int cell = blockIdx.x / p.octets * 32 + threadIdx.x / 8; cell < all; cell += 32 * p.shares) {
        float v[8] = {};
#pragma unroll
        for (int i = 0; i < C::Cell; i++) {
            const int k = cell * C::Cell + i, column = k / 16 * 16 + patch_column<C>(k % 16);
            if (row < real && column < p.columns) v[i] = Number<T>::widen(w[(int64_t)row * p.columns + column]);
        }
        alignas(16) uint32_t high[4], low[4] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (C::Split) split_pair(scale(v[2 * i]), scale(v[2 * i + 1]), &high[i], &low[i]);
            else if constexpr (C::Mode == PATCH_TF32) high[i] = patch_tf32(__float_as_uint(v[i]));
            else {
                const T a = Number<T>::round(v[2 * i]), b = Number<T>::round(v[2 * i + 1]);
                high[i] = (uint32_t)*(const uint16_t *)&b << 16 | *(const uint16_t *)&a;
            }
        }
        const int stage = cell / stage_cells;       // of all slices
        const int64_t unit = ((int64_t)g * p.blocks_group + octet / 8) * p.slices + stage / p.stages;
        const int64_t stage_at = unit * p.stages + stage % p.stages;
        uint4 *to = p.operands + (stage_at * stage_cells + cell % stage_cells) * C::OperandRows + octet % 8 * 8 + row;
        to[0] = *(const uint4 *)high;
        if (C::Split) to[64] = *(const uint4 *)low;
    }
}

// ---- after: pieces and slices to dw, dbias and dx ----

struct PatchMerge {
    PatchProblem at;
    void *dw, *dbias;                       // or null
    int accumulate, pieces, split;          // split: threads to an element of dw
    int dw_blocks, bias_blocks;
    int64_t elements;                       // of all units' sums
};

// Whether any block met what its products must not see.
template <class C> __device__ __forceinline__ bool patch_unfit(const PatchMerge &p)
{
    int any = 0;
    if constexpr (C::Wide)
        for (int i = threadIdx.x; i < p.at.units * p.pieces * 4; i += 256) any |= p.at.unfit[i];
    return C::Wide && __syncthreads_or(any) != 0;
}

// An element of dw from x and dy themselves, by a block.
template <class C> __device__ double patch_exact_dw(const PatchProblem &p, int ic, int row, int k)
{
    typedef typename C::T T;
    __shared__ double sums[256];
    const int g = ic / p.in_group;
    const T *x = (const T *)p.x + ic * p.x_stride[1];
    const T *dy = (const T *)p.dy + (int64_t)g * p.out_group * p.y_stride[1] + patch_row_offset(p, row) +
                  k * p.y_stride[4];
    double sum = 0;
    for (int n = 0; n < p.batch; n++)
        for (int i = threadIdx.x; i < p.positions; i += 256)
            sum += (double)Number<T>::widen(x[n * p.x_stride[0] + patch_x_offset(p, p.x_stride, i)]) *
                   (double)Number<T>::widen(dy[n * p.y_stride[0] + patch_y_offset<C::SW>(p, i)]);
    __syncthreads();
    sums[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

template <class T> __device__ __forceinline__ void patch_round(T *to, double v, bool accumulate)
{
    if (accumulate) v += (double)Number<T>::widen(*to);
    *to = Number<T>::round((float)v);
}

template <class C> __device__ __forceinline__ void patch_merge_dw(const PatchMerge &p)
{
    typedef typename C::T T;
    __shared__ double sums[256];
    const PatchProblem &q = p.at;
    const int columns = q.stages * 64, width = 256 / p.split, lane = threadIdx.x % width, part = threadIdx.x / width;
    const bool unfit = patch_unfit<C>(p), add = p.accumulate & CONVT3D_BACKWARD_W;
    if (unfit) {
        const int all = q.rows * C::SW;
        for (int64_t i = blockIdx.x; i < (int64_t)q.in_channels * all; i += p.dw_blocks) {
            const int ic = (int)(i / all), column = (int)(i % all);
            const double v = patch_exact_dw<C>(q, ic, column / C::SW, column % C::SW);
            if (threadIdx.x == 0) patch_round((T *)p.dw + i, v, add);
        }
        return;
    }
    for (int64_t first = (int64_t)blockIdx.x * width; first < p.elements; first += (int64_t)p.dw_blocks * width) {
        const int64_t i = first + lane;
        double sum = 0;
        if (i < p.elements)
#pragma unroll 8
            for (int piece = part; piece < p.pieces; piece += p.split) sum += (double)q.dw_part[piece * p.elements + i];
        if (p.split > 1) {
            __syncthreads();
            sums[threadIdx.x] = sum;
            __syncthreads();
            for (int s = 1; s < p.split && part == 0; s++) sum += sums[s * width + lane];
        }
        const int column = (int)(i % columns), c = (int)(i / columns % 64), unit = (int)(i / columns / 64);
        const int slice = unit % q.slices, block = unit / q.slices % q.blocks_group;
        const int g = unit / q.slices / q.blocks_group;
        const int ic = block * 64 + c, all = q.rows * C::SW, at = slice * columns + column;
        if (part == 0 && i < p.elements && ic < q.in_group && at < all)
            patch_round((T *)p.dw + ((int64_t)g * q.in_group + ic) * all + at, sum, add);
    }
}

// A warp for each output channel: all pieces' sums of its columns.
template <class C> __device__ __forceinline__ void patch_merge_bias(const PatchMerge &p, int block)
{
    typedef typename C::T T;
    const PatchProblem &q = p.at;
    const int oc = block * 8 + threadIdx.x / 32, taps = (int)q.by_taps.by * C::SW, channels = q.groups * q.out_group;
    if (oc >= channels) return;
    const int g = oc / q.out_group, first = (oc - g * q.out_group) * taps, columns = q.slices * q.stages * 64;
    double sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < p.pieces * taps; i += 32) {
        const int piece = i / taps, column = first + i - piece * taps;
        sum += (double)q.bias_part[((int64_t)piece * q.groups + g) * columns + column];
    }
    for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    if (threadIdx.x % 32 == 0) patch_round((T *)p.dbias + oc, sum, p.accumulate & CONVT3D_BACKWARD_BIAS);
}

// dx, from its slices: four positions a thread, one where it is not in whole cells.
template <class C> __device__ __forceinline__ void patch_merge_dx(const PatchMerge &p, int block)
{
    typedef typename C::T T;
    struct alignas(4 * sizeof(T)) Four { T at[4]; };
    const PatchProblem &q = p.at;
    const int64_t i = (int64_t)block * 256 + threadIdx.x, run = q.plain ? q.positions : q.positions / 4;
    const int64_t all = (int64_t)q.batch * q.in_channels * run, row = i / run, n = row / q.in_channels;
    if (i >= all) return;
    T *to = (T *)q.dx + n * q.dx_stride[0] + (row - n * q.in_channels) * q.dx_stride[1];
    if (q.plain) {
        float sum = 0;
        for (int s = 0; s < q.slices; s++) sum += q.dx_part[s * all + i];
        to[patch_x_offset(q, q.dx_stride, (int)(i - row * run))] = Number<T>::round(sum);
        return;
    }
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int s = 0; s < q.slices; s++) {
        const float4 v = ((const float4 *)q.dx_part)[s * all + i];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    *(Four *)(to + (i - row * run) * 4) =
        Four{{Number<T>::round(sum.x), Number<T>::round(sum.y), Number<T>::round(sum.z), Number<T>::round(sum.w)}};
}

template <class C> __global__ void __launch_bounds__(256) patch_merge_kernel(const __grid_constant__ PatchMerge p)
{
    const int block = blockIdx.x;
    let_next_start();
    wait_for_previous();
    if (block < p.dw_blocks) patch_merge_dw<C>(p);
    else if (block < p.dw_blocks + p.bias_blocks) patch_merge_bias<C>(p, block - p.dw_blocks);
    else patch_merge_dx<C>(p, block - p.dw_blocks - p.bias_blocks);
}

// ---- the host's side ----

struct PatchShape {
    int mode, sw;
    int64_t positions, rows, stages, slices, blocks_group, units, sample_tiles, tiles, piece, pieces;
};

template <int Mode, class Act> auto patch_with_stride(const PatchShape &s, Act act)
{
    if (s.sw == 2) return act(PatchTile<Mode, 2>());
    return act(PatchTile<Mode, 4>());
}
template <class Act> auto patch_instance(const PatchShape &s, Act act)
{
#ifndef CONVT3D__PATCH_SPLIT_ALONE
    if (s.mode == PATCH_TF32) return patch_with_stride<PATCH_TF32>(s, act);
    if (s.mode == PATCH_F16) return patch_with_stride<PATCH_F16>(s, act);
    if (s.mode == PATCH_BF16) return patch_with_stride<PATCH_BF16>(s, act);
#endif
    return patch_with_stride<PATCH_SPLIT>(s, act);
}

// Are a tensor of x's shape's voxels dense, in cells of 16 bytes?
static bool patch_dense(const convt3d_desc &d, const void *data, const int64_t *stride)
{
    const int64_t size = convt3d__element_size(d.dtype);
    return stride[4] == 1 && stride[3] == d.in_size[2] && stride[2] == d.in_size[1] * d.in_size[2] &&
           stride[1] * size % 16 == 0 && stride[0] * size % 16 == 0 && (uintptr_t)data % 16 == 0;
}

// Whether tensors must be copied element by element.
static bool patch_plain(const convt3d_desc &d, const convt3d_io *io, bool dx, bool dw)
{
    const int64_t size = convt3d__element_size(d.dtype), voxels = d.in_size[0] * d.in_size[1] * d.in_size[2];
    bool cells = voxels * size % 16 == 0 && d.in_size[2] * d.stride[2] * size % 16 == 0 && d.dy_stride[4] == 1 &&
                 (uintptr_t)io->dy % 16 == 0;
    for (int a = 0; a < 4; a++) cells = cells && d.dy_stride[a] * size % 16 == 0;
    return !(cells && (!dx || patch_dense(d, io->dx, d.dx_stride)) && (!dw || patch_dense(d, io->x, d.x_stride)));
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *patch_shape(const convt3d__plan *plan, PatchShape *s)
{
    const convt3d_desc &d = plan->desc;
    if (d.dtype == CONVT3D_F64) return "f64 has no wgmma";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel != axis.stride || axis.padding != 0 || (axis.kernel > 1 && axis.dilation != 1) ||
            axis.out != axis.in * axis.stride) return "wants kernel == stride and no padding";
    }
    s->sw = (int)plan->axis[2].stride;
    if (s->sw != 2 && s->sw != 4) return "wants a stride of 2 or 4 along w";
    if (!fits_32_bits(plan)) return "indices beyond 32 bits";
    s->mode = d.dtype == CONVT3D_F16 ? PATCH_F16 : d.dtype == CONVT3D_BF16 ? PATCH_BF16
                                                 : d.math == CONVT3D_TF32 ? PATCH_TF32 : PATCH_SPLIT;
    s->positions = d.in_size[0] * d.in_size[1] * d.in_size[2];
    s->rows = plan->out_group * plan->axis[0].kernel * plan->axis[1].kernel;
    if (s->rows > 1 << 20 || plan->in_group > 1 << 20 || d.groups > 1 << 16 || plan->w_count > 1 << 28)
        return "too many channels";
    const int64_t all = convt3d__ceil_div(s->rows, 64 / s->sw);
    s->slices = convt3d__ceil_div(all, PATCH_STAGES);
    s->stages = convt3d__ceil_div(all, s->slices);
    s->slices = convt3d__ceil_div(all, s->stages);
    s->blocks_group = convt3d__ceil_div(plan->in_group, 64);
    s->units = d.groups * s->blocks_group * s->slices;
    s->sample_tiles = convt3d__ceil_div(s->positions, 64);
    s->tiles = d.batch * s->sample_tiles;
    s->pieces = convt3d__max(1, convt3d__min(s->tiles, 132 / s->units));
    s->piece = convt3d__ceil_div(s->tiles, s->pieces);
    s->pieces = convt3d__ceil_div(s->tiles, s->piece);
    if (s->tiles > 1 << 30 || s->units > 1 << 20) return "too many tiles";
    return "";
}

struct PatchLayout { int64_t exponent, dw, bias, unfit, dx, bytes, operand; };

static PatchLayout patch_layout(const convt3d__plan *plan, const PatchShape &s)
{
    auto round = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    PatchLayout l;
    l.operand = patch_instance(s, [](auto tile) { return (int64_t)decltype(tile)::OperandBytes; });
    l.exponent = round(s.units * s.stages * l.operand);
    l.dw = round(l.exponent + plan->desc.groups * s.blocks_group * 64 * 4);
    l.bias = round(l.dw + s.pieces * s.units * s.stages * 64 * 64 * 4);
    l.unfit = round(l.bias + s.pieces * plan->desc.groups * s.slices * s.stages * 64 * 4);
    l.dx = round(l.unfit + s.pieces * s.units * 16);
    l.bytes = l.dx + (s.slices > 1 ? s.slices * plan->x_count * 4 : 0);
    return l;
}

static PatchProblem patch_problem(const convt3d__plan *plan, const convt3d_io *io, const PatchShape &s,
                                  const PatchLayout &l, bool dx, bool dw)
{
    const convt3d_desc &d = plan->desc;
    char *workspace = (char *)io->workspace;
    PatchProblem p = {};
    p.x = io->x;  p.dy = io->dy;
    p.w = io->w_packed ? io->w_packed : io->w;
    p.weights = (const uint4 *)workspace;
    p.w_exponent = (const int *)(workspace + l.exponent);
    p.dx = dx ? io->dx : nullptr;
    p.dx_part = dx && s.slices > 1 ? (float *)(workspace + l.dx) : nullptr;
    p.dw_part = dw ? (float *)(workspace + l.dw) : nullptr;
    p.bias_part = dw && io->dbias ? (float *)(workspace + l.bias) : nullptr;
    p.unfit = (int *)(workspace + l.unfit);
    for (int i = 0; i < 5; i++) {
        p.x_stride[i] = d.x_stride[i];  p.dx_stride[i] = d.dx_stride[i];  p.y_stride[i] = d.dy_stride[i];
    }
    p.plain = patch_plain(d, io, dx, dw);
    p.batch = (int)d.batch;  p.in_channels = (int)d.in_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;  p.groups = (int)d.groups;
    p.positions = (int)s.positions;  p.kernel_d = (int)plan->axis[0].kernel;
    p.rows = (int)s.rows;  p.stages = (int)s.stages;  p.slices = (int)s.slices;
    p.blocks_group = (int)s.blocks_group;  p.units = (int)s.units;
    p.sample_tiles = (int)s.sample_tiles;  p.tiles = (int)s.tiles;  p.piece = (int)s.piece;
    p.by_h = divisor_of(d.in_size[1]);  p.by_w = divisor_of(d.in_size[2]);
    p.by_kh = divisor_of(plan->axis[1].kernel);
    p.by_taps = divisor_of(plan->axis[0].kernel * plan->axis[1].kernel);
    p.by_sample = divisor_of(s.sample_tiles);
    return p;
}

// A row of launches: each may start, but for what it waits for, while the one before it ends.
struct PatchLaunches {
    void *stream;
    convt3d_error *error;
    int count;
    template <class... Formal, class... Actual>
    convt3d_status operator()(void (*kernel)(Formal...), int64_t blocks, int threads, int shared, Actual... actual)
    {
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute early = {};
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
        config.gridDim = dim3((unsigned)blocks);
        config.blockDim = dim3((unsigned)threads);
        config.dynamicSmemBytes = (size_t)shared;
        config.stream = (cudaStream_t)stream;
        config.attrs = &early;
        config.numAttrs = count++ > 0;
        cudaError_t cause = cudaLaunchKernelEx(&config, kernel, Formal(actual)...);
        return cause == cudaSuccess ? convt3d__ok(error) : convt3d__cuda_fail(error, cause, 0);
    }
};

template <class C>
convt3d_status patch_run(const convt3d__plan *plan, const convt3d_io *io, const PatchShape &s, convt3d_error *error)
{
    const PatchLayout l = patch_layout(plan, s);
    const bool dx = (plan->pass & CONVT3D_BACKWARD_X) && io->dx;
    const bool dw = (plan->pass & ~CONVT3D_BACKWARD_X) && (io->dw || io->dbias);
    const PatchProblem p = patch_problem(plan, io, s, l, dx, dw);
    PatchLaunches launch = {io->stream, error, 0};
    convt3d_status status = CONVT3D_OK;
    if (dx) {
        const int64_t octets = plan->desc.groups * s.blocks_group * 8, cells = s.slices * s.stages * (64 / C::Cell);
        const int64_t shares = convt3d__max(1, convt3d__min(264 / octets, cells / 32));
        const PatchPack pack = {p.w, (uint4 *)io->workspace, (int *)p.w_exponent, p.in_group, p.blocks_group,
                                p.rows * C::SW, p.stages, p.slices, (int)octets, (int)shares};
        status = launch(patch_pack_kernel<C>, octets * shares, 256, 0, pack);
    }
    if (status == CONVT3D_OK)
        status = launch(patch_kernel<C>, s.units * s.pieces, PATCH_THREADS, C::Shared, p);
    if (status != CONVT3D_OK || !(dw || p.dx_part)) return status;
    PatchMerge merge = {};
    merge.at = p;
    merge.dw = io->dw;  merge.dbias = io->dbias;
    merge.accumulate = plan->desc.accumulate;
    merge.pieces = (int)s.pieces;
    merge.split = s.pieces >= 16 ? 8 : 1;
    merge.elements = s.units * s.stages * 64 * 64;
    const int64_t dw_blocks = convt3d__min(convt3d__ceil_div(merge.elements * merge.split, 256), 132 * 8);
    merge.dw_blocks = dw && io->dw ? (int)dw_blocks : 0;
    merge.bias_blocks = dw && io->dbias ? (int)convt3d__ceil_div(plan->desc.out_channels, 8) : 0;
    const int64_t dx_blocks = p.dx_part ? convt3d__ceil_div(p.plain ? plan->x_count : plan->x_count / 4, 256) : 0;
    return launch(patch_merge_kernel<C>, merge.dw_blocks + merge.bias_blocks + dx_blocks, 256, 0, merge);
}

static int32_t patch_refusal(char why[96], const char *text)
{
    convt3d__text out = {why, 96, 0};
    convt3d__put(&out, text);
    return *text != 0;
}

static const char *patch_refuses(const convt3d__plan *plan)
{
    PatchShape s;
    return convt3d__has_sm90a(plan) ? patch_shape(plan, &s) : "needs sm_90 and a build with sm_90a code";
}

}

extern "C" int32_t convt3d__patch_dx_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    if (plan->desc.accumulate & CONVT3D_BACKWARD_X) return patch_refusal(why, "does not add to dx");
    return patch_refusal(why, patch_refuses(plan));
}

extern "C" int32_t convt3d__patch_dw_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    return patch_refusal(why, patch_refuses(plan));
}

// Seconds: bytes at 3.3e12; stages of 900 cycles at 1.6e9 a block; 10 us of launches. Copies element by element take
// far longer.
extern "C" double convt3d__patch_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    PatchShape s;
    const convt3d_io none = {};
    if (*patch_shape(plan, &s)) return 1e30;
    const PatchLayout l = patch_layout(plan, s);
    const bool dx = plan->pass & CONVT3D_BACKWARD_X;
    const double bytes = (double)(plan->x_count + plan->y_count) * (double)convt3d__element_size(plan->desc.dtype) +
                         2.0 * (double)l.bytes;
    const double rounds = (double)convt3d__ceil_div(s.units * s.pieces, 132);
    const double cycles = rounds * (double)(s.piece * s.stages) * 900;
    const double seconds = bytes / 3.3e12 > cycles / 1.6e9 ? bytes / 3.3e12 : cycles / 1.6e9;
    return seconds * (patch_plain(plan->desc, &none, dx, !dx) ? 20 : 1) + 1e-5;
}

extern "C" int64_t convt3d__patch_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    PatchShape s;
    return *patch_shape(plan, &s) ? 0 : patch_layout(plan, s).bytes;
}

extern "C" convt3d_status convt3d__patch_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    PatchShape s = {};
    patch_shape(plan, &s);
    return patch_instance(s, [&](auto tile) {
        typedef decltype(tile) C;
        convt3d_status status = convt3d__load_kernel(error, plan, patch_kernel<C>, C::Shared);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, patch_pack_kernel<C>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, patch_merge_kernel<C>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__patch_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    PatchShape s = {};
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    patch_shape(plan, &s);
    return patch_instance(s, [&](auto tile) { return patch_run<decltype(tile)>(plan, io, s, error); });
}

#endif
