// What the kernels on mma.sync share, those of dense_sm80.cuh, scatter_sm80.cuh, narrow.cuh and march_sm80.cuh: modes
// of multiplying, fragments, exact outputs; on the host, the walk over an axis, where weights lie, and launches.
#pragma once

#include "halo.cuh"

#if CONVT3D__PART(7) || CONVT3D__PART(9) || CONVT3D__PART(13) || CONVT3D__PART(15) || CONVT3D__PART(16) || \
    CONVT3D__PART(19)

namespace convt3d_cuda {

enum { SM80_SPLIT = 0, SM80_TF32 = 1, SM80_HALF = 2, SM80_BFLOAT = 3, SM80_DOUBLE = 4, SM80_SHORT = 5 };
enum { SM80_MOST_ENTRIES = 32, SM80_MOST_GROUPS = 8, SM80_MOST_SHORT = 8, SM80_HALF_SHARED = 112 * 1024 };

// How a mode multiplies. SM80_SHORT is a split of so few fragments an output that their sum may stay in the matrix
// unit. Weight: a lane's registers of one fragment of B. Scale: of both operands, as a power of two.
template <int Mode> struct Sm80Mode;
template <> struct Sm80Mode<SM80_SPLIT> { typedef float T, A; typedef uint4 Weight; enum { Scale = 24 }; };
template <> struct Sm80Mode<SM80_SHORT> { typedef float T, A; typedef uint4 Weight; enum { Scale = 24 }; };
template <> struct Sm80Mode<SM80_TF32> { typedef float T, A; typedef uint2 Weight; enum { Scale = 24 }; };
template <> struct Sm80Mode<SM80_HALF> { typedef __half T; typedef float A; typedef uint2 Weight; enum { Scale = 0 }; };
template <> struct Sm80Mode<SM80_BFLOAT>
{
    typedef __nv_bfloat16 T;
    typedef float A;
    typedef uint2 Weight;
    enum { Scale = 24 };
};
template <> struct Sm80Mode<SM80_DOUBLE> { typedef double T, A; typedef double2 Weight; enum { Scale = 0 }; };

// One input shift of an axis: its place in the tile, in elements, and the phases that have a tap there. second: what
// the upper half of a fragment's depth reads beyond the lower.
struct alignas(16) Sm80Entry { int32_t offset, second, mask, unused; };

// The phases of an axis that a warp does together: their entries; pairs of entry and phase before them and in them.
struct Sm80Group { int16_t begin, end, base, pairs; };

struct Sm80Axis {
    Sm80Entry entry[SM80_MOST_ENTRIES];
    Sm80Group group[SM80_MOST_GROUPS];
};

// One pair of entry and phase of an axis: its taps (-1: none), and where its weights are in the walk.
struct Sm80Pair { int16_t k[2], base, pairs, before, count, rank; };

// ---- on the device ----

static __device__ __forceinline__ void sm80_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void sm80_double(double (&c)[4], const double (&a)[4], double b0, double b1)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b0), "d"(b1));
#else
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+d"(c[i % 2 * 2]), "+d"(c[i % 2 * 2 + 1]) : "d"(a[i]), "d"(i < 2 ? b0 : b1));
#endif
}

// A fragment of x: columns g, g + 8 x channels t, t + 4 for lane 4*g + t.
template <int Mode> struct Sm80Operand {
    uint32_t high[4], low[4];
    __device__ __forceinline__ void set(int i, float v)
    {
        if constexpr (Sm80Mode<Mode>::Scale != 0) v *= (float)(1 << Sm80Mode<Mode>::Scale);
        high[i] = __float_as_uint(v);
        if constexpr (Mode == SM80_TF32) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high[i]) : "f"(v));
        if constexpr (Mode == SM80_SPLIT || Mode == SM80_SHORT) {
            high[i] = (high[i] + 0x1000u) & 0xffffe000u;
            low[i] = __float_as_uint(v - __uint_as_float(high[i]));
        }
    }
    // c += product `part` of this with w; a split has three, the smallest first.
    __device__ __forceinline__ void add(float (&c)[4], const typename Sm80Mode<Mode>::Weight &w, int part) const
    {
        if constexpr (Mode == SM80_SPLIT || Mode == SM80_SHORT) {
            if (part == 0) sm80_tf32(c, low, w.x, w.y);
            if (part == 1) sm80_tf32(c, high, w.z, w.w);
            if (part == 2) sm80_tf32(c, high, w.x, w.y);
        } else sm80_tf32(c, high, w.x, w.y);
    }
};

template <> struct Sm80Operand<SM80_DOUBLE> {
    double value[4];
    __device__ __forceinline__ void set(int i, double v) { value[i] = v; }
    __device__ __forceinline__ void add(double (&c)[4], const double2 &w, int) const
    {
        sm80_double(c, value, w.x, w.y);
    }
};

// One lane's weights of a fragment of B: channels t, t + 4 of x (or two taps) x channel g of y.
template <int Mode>
__device__ __forceinline__ typename Sm80Mode<Mode>::Weight sm80_weight(typename Sm80Mode<Mode>::A first,
                                                                       typename Sm80Mode<Mode>::A second)
{
    if constexpr (Mode == SM80_DOUBLE) return make_double2(first, second);
    else {
        Sm80Operand<Mode> w;
        w.set(0, first);
        w.set(1, second);
        if constexpr (Mode == SM80_SPLIT || Mode == SM80_SHORT) {
#pragma unroll
            for (int i = 0; i < 2; i++)
                asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(w.low[i]) : "f"(__uint_as_float(w.low[i])));
            return make_uint4(w.high[0], w.high[1], w.low[0], w.low[1]);
        } else return make_uint2(w.high[0], w.high[1]);
    }
}

// One output tap by tap, from weights as they came: what is right whatever the operands are.
template <class T>
__device__ __noinline__ typename Number<T>::Accumulator
sm80_exact(const HaloProblem<T> &p, int64_t n, int32_t g, int32_t oc, int32_t od, int32_t oh, int32_t ow)
{
    typename Number<T>::Accumulator sum = 0;
    Taps<int32_t> d = taps_of(p.axis[0], od), h = taps_of(p.axis[1], oh), l = taps_of(p.axis[2], ow);
    for (int32_t ic = 0; ic < p.in_group; ic++)
        for (int32_t a = 0; a < d.count; a++)
            for (int32_t b = 0; b < h.count; b++)
                for (int32_t c = 0; c < l.count; c++) {
                    int64_t id = d.i - a * p.axis[0].in_step, kd = d.k + a * p.axis[0].tap_step;
                    int64_t ih = h.i - b * p.axis[1].in_step, kh = h.k + b * p.axis[1].tap_step;
                    int64_t iw = l.i - c * p.axis[2].in_step, kw = l.k + c * p.axis[2].tap_step;
                    int64_t channel = (int64_t)g * p.in_group + ic;
                    int64_t tap = (kd * p.axis[1].kernel + kh) * p.axis[2].kernel + kw;
                    sum += Number<T>::widen(p.x[n * p.x_stride[0] + channel * p.x_stride[1] + id * p.x_stride[2] +
                                                ih * p.x_stride[3] + iw * p.x_stride[4]]) *
                           Number<T>::widen(p.w[(channel * p.out_group + oc) * p.taps + tap]);
                }
    return p.epilogue.widen(sum, (int64_t)g * p.out_group + oc);
}

// ---- on the host ----

static inline int32_t sm80_mode(const convt3d_desc &d)
{
    switch (d.dtype) {
    case CONVT3D_F64: return SM80_DOUBLE;
    case CONVT3D_F16: return SM80_HALF;
    case CONVT3D_BF16: return SM80_BFLOAT;
    default: return d.math == CONVT3D_TF32 ? SM80_TF32 : SM80_SPLIT;
    }
}

// What an axis is walked by. The entries' offsets are shifts of x here, not yet places in a tile.
struct Sm80Walk {
    Sm80Axis axis;
    Sm80Pair pair[64];
    int32_t low, high, entries, pairs;
};

// The phases e of one group; false if they have too many shifts.
static inline bool sm80_walk_group(const convt3d__axis &axis, int32_t first, int32_t count, bool paired, Sm80Walk &walk,
                                   Sm80Group &group)
{
    HaloPhase phase[2];
    const int64_t rotation = convt3d__floor_mod(axis.padding, axis.stride);
    int64_t next = INT32_MAX, step = axis.in_step;
    for (int32_t e = 0; e < count; e++) {
        int64_t r = first + e + rotation, carry = r >= axis.stride;
        phase[e] = halo_phase(axis, r - carry * axis.stride);
        phase[e].offset += (int32_t)carry;
    }
    group.begin = (int16_t)walk.entries;
    group.base = (int16_t)walk.pairs;
    for (;;) {          // shifts in descending order
        int64_t at[2] = {INT32_MIN, INT32_MIN};
        for (int part = 0; part < (paired ? 2 : 1); part++) {
            int64_t before = part ? at[0] : next;
            for (int32_t e = 0; e < count; e++)
                for (int32_t t = 0; t < phase[e].count; t++)
                    if (phase[e].offset - t * step < before)
                        at[part] = convt3d__max(at[part], phase[e].offset - t * step);
            if (at[part] == INT32_MIN) break;
        }
        if (at[0] == INT32_MIN) break;
        if (walk.entries == SM80_MOST_ENTRIES) return false;
        bool two = at[1] != INT32_MIN;
        Sm80Entry &entry = walk.axis.entry[walk.entries];
        entry = {(int32_t)at[0], two ? (int32_t)(at[1] - at[0]) : 0, 0, 0};
        int16_t before = (int16_t)(walk.pairs - group.base), rank = 0;
        for (int32_t e = 0; e < count; e++) {
            Sm80Pair pair = {{-1, -1}, group.base, 0, before, 0, rank};
            for (int part = 0; part < 2; part++)
                for (int32_t t = 0; t < phase[e].count; t++)
                    if (phase[e].offset - t * step == at[part])
                        pair.k[part] = (int16_t)(phase[e].k + t * axis.tap_step);
            if (pair.k[0] < 0 && pair.k[1] < 0) continue;
            if (walk.pairs == 64) return false;
            walk.pair[walk.pairs++] = pair;
            entry.mask |= 1 << e;
            rank++;
        }
        for (int32_t i = walk.pairs - rank; i < walk.pairs; i++) walk.pair[i].count = rank;
        walk.low = (int32_t)convt3d__min(walk.low, two ? at[1] : at[0]);
        walk.high = (int32_t)convt3d__max(walk.high, at[0]);
        walk.entries++;
        next = two ? at[1] : at[0];
    }
    group.end = (int16_t)walk.entries;
    group.pairs = (int16_t)(walk.pairs - group.base);
    for (int32_t i = group.base; i < walk.pairs; i++) walk.pair[i].pairs = group.pairs;
    return true;
}

static inline bool sm80_walk(const convt3d__axis &axis, int32_t fused, bool paired, Sm80Walk &walk)
{
    memset(&walk, 0, sizeof walk);
    for (int32_t g = 0; g < axis.stride / fused; g++)
        if (!sm80_walk_group(axis, g * fused, fused, paired, walk, walk.axis.group[g])) return false;
    return true;
}

// Bytes of a lane's registers of one fragment of weights.
static inline int64_t sm80_weight_size(int32_t mode)
{
    return mode == SM80_SPLIT || mode == SM80_SHORT || mode == SM80_DOUBLE ? 16 : 8;
}

// Bytes of shared memory of a block: less on the cards without double precision units, sm_86, 89, 120.
static inline int64_t sm80_most_shared(const convt3d__plan *plan)
{
    int32_t arch = plan->cuda_arch;
    return arch == 86 || arch == 88 || arch == 89 || arch >= 120 ? 96 * 1024 : 160 * 1024;
}

// The packed weights, aligned to 16 bytes: a pack that is not goes to the workspace, which has room for it.
static inline convt3d_status sm80_aligned_weights(const convt3d_io *io, int64_t bytes, const void **weights,
                                                  convt3d_error *error)
{
    *weights = io->w_packed ? io->w_packed : io->workspace;
    if ((uintptr_t)*weights % 16 == 0) return CONVT3D_OK;
    cudaError_t cause = cudaMemcpyAsync(io->workspace, *weights, (size_t)bytes, cudaMemcpyDefault,
                                        (cudaStream_t)io->stream);
    *weights = io->workspace;
    return cause == cudaSuccess ? CONVT3D_OK : convt3d__cuda_fail(error, cause, 0);
}

// Launches a kernel that awaits what was launched before it: after packing it may start early.
template <class... Formal, class... Actual>
convt3d_status sm80_launch_after(const convt3d__plan *plan, bool packing, convt3d_error *error,
                                 void (*kernel)(Formal...), dim3 grid, dim3 block, size_t shared, void *stream,
                                 const Actual &...actual)
{
    return convt3d__launch_early(error, packing && plan->cuda_arch >= 90, kernel, grid, block, shared, stream,
                                 actual...);
}

// What halo_problem() wants to know of a tiling.
template <class Shape> HaloShape sm80_tiling(const Shape &s)
{
    HaloShape shape = {};
    for (int a = 0; a < 3; a++) {
        shape.first[a] = s.first[a];
        shape.columns[a] = s.columns[a];
        shape.tile[a] = s.tile[a];
        shape.tiles[a] = s.tiles[a];
        shape.low[a] = s.low[a];
        shape.extent[a] = s.extent[a];
    }
    shape.fused = shape.channels = shape.phases = shape.phase_step = shape.channel_items = shape.channel_step = 1;
    return shape;
}

// What packs must agree on: fragments, which `own` tells apart, and the order of the walk.
static inline uint64_t sm80_variant(const convt3d__plan *plan, int32_t own)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ (uint64_t)own;
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        for (int64_t part : {axis.stride, axis.dilation, convt3d__floor_mod(axis.padding, axis.stride)})
            hash = (hash ^ (uint64_t)part) * UINT64_C(0x100000001b3);
    }
    return hash;
}

}

#endif
