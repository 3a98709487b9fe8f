// What sm80_narrow and sm90_narrow share: x as cells in shared memory, weights, and the host's side but for tiles.
//
// Cells     x is staged once as planes of cells of 16 bytes: 8 channels of a position as halves; of f32 two cells, high
//           and low halves; of tf32 two of 4 channels. A tile has one scale, of its largest magnitude.
// Tables    a kernel describes itself to NarrowTable by a struct of its tiling (Shape), plan() and instances.
#pragma once

#include "sm80.cuh"

#if CONVT3D__PART(15) || CONVT3D__PART(19)

#include "mma.cuh"

namespace convt3d_cuda {

// ---- on the device: x as cells ----

// 8 channels of a position, from channel `first` of the group on.
template <class T>
__device__ __forceinline__ void narrow_load(const HaloProblem<T> &h, const T *x, bool inside, int32_t count, T (&v)[8])
{
    if (h.x_vectors) {
        constexpr int vector = 16 / (int)sizeof(T);
        struct alignas(16) Pack { T v[vector]; };
#pragma unroll
        for (int i = 0; i < 8 / vector; i++) {
            Pack pack = {};
            if (inside && i * vector < count) pack = *(const Pack *)(x + i * vector);
#pragma unroll
            for (int j = 0; j < vector; j++) v[i * vector + j] = pack.v[j];
        }
    } else {
#pragma unroll
        for (int c = 0; c < 8; c++) {
            v[c] = T(0);
            if (inside && c < count) v[c] = x[c * h.x_stride[1]];
        }
    }
}

template <class C> __device__ __forceinline__ void narrow_put(const typename C::T (&v)[8], uint4 *cell, int32_t cells)
{
    if constexpr (C::Halves) *cell = *(const uint4 *)v;
    else if constexpr (C::Split) {
        cell[0] = *(const uint4 *)v;
        cell[cells] = *(const uint4 *)(v + 4);
    } else {
        uint32_t r[8];
#pragma unroll
        for (int c = 0; c < 8; c++)
            asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[c]) : "f"(v[c] * (1 << Sm80Mode<C::Mode>::Scale)));
        cell[0] = make_uint4(r[0], r[1], r[2], r[3]);
        cell[cells] = make_uint4(r[4], r[5], r[6], r[7]);
    }
}

// The same where rows of x are read by fours: of 8 channels, which are four cells.
template <class C, class Problem>
__device__ __forceinline__ float narrow_stage_rows(const Problem &p, const HaloBlock &b, const typename C::T *x,
                                                   uint4 *cell)
{
    typedef typename C::T T;
    struct alignas(4 * sizeof(T)) Four { T v[4]; };
    const HaloProblem<T> &h = p.h;
    const HaloShape &s = h.s;
    const uint32_t fours = s.extent[0] * s.extent[1] * s.extent[2] / 4;
    float most = 0;
#pragma unroll 1
    for (uint32_t i = C::thread(); i < fours; i += C::Threads) {
        const HaloElement e = halo_element(h, b, 4 * i);
#pragma unroll 1
        for (int32_t c = 0; c < p.cell_planes; c++) {
            const T *from = x + e.from + c * 8 * h.x_stride[1];
            const int32_t left = e.inside ? h.in_group - c * 8 : 0;
            Four four[8];
#pragma unroll
            for (int k = 0; k < 8; k++, from += h.x_stride[1]) {
                four[k] = Four();
                if (k < left) four[k] = *(const Four *)from;
            }
#pragma unroll
            for (int n = 0; n < 4; n++) {
                alignas(16) T v[8];
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    v[k] = four[k].v[n];
                    if constexpr (C::Split) most = fmaxf(most, fabsf(v[k]));
                }
                narrow_put<C>(v, cell + c * C::Parts * p.cells + e.to + n, p.cells);
            }
        }
    }
    return most;
}

// The block's tile of x as cells; f32 as it came. Returns the largest magnitude that this thread met, NaN left out.
template <class C, class Problem>
__device__ __forceinline__ float narrow_stage(const Problem &p, const HaloBlock &b, uint4 *cell)
{
    typedef typename C::T T;
    constexpr int together = 2;
    const HaloProblem<T> &h = p.h;
    const HaloShape &s = h.s;
    const uint32_t elements = s.extent[0] * s.extent[1] * s.extent[2];
    const T *x = h.x + b.n * h.x_stride[0] + (int64_t)b.g * h.in_group * h.x_stride[1] +
                 (b.q[0] + s.low[0]) * h.x_stride[2] + (b.q[1] + s.low[1]) * h.x_stride[3] +
                 (b.q[2] + s.low[2]) * h.x_stride[4];
    float most = 0;
    for (int32_t i = elements + C::thread(); i < p.cells; i += C::Threads)         // what the last blocks read beyond
        for (int32_t c = 0; c < p.cell_planes * C::Parts; c++) cell[c * p.cells + i] = make_uint4(0, 0, 0, 0);
    if (p.x_rows) return narrow_stage_rows<C>(p, b, x, cell);
    for (uint32_t first = C::thread(); first < elements; first += together * C::Threads) {
        HaloElement e[together];
#pragma unroll
        for (int j = 0; j < together; j++) e[j] = halo_element(h, b, first + j * C::Threads);
        for (int32_t c = 0; c < p.cell_planes; c++) {
            alignas(16) T v[together][8];
#pragma unroll
            for (int j = 0; j < together; j++)
                narrow_load(h, x + e[j].from + c * 8 * h.x_stride[1],
                            e[j].inside && first + j * C::Threads < elements, h.in_group - c * 8, v[j]);
#pragma unroll
            for (int j = 0; j < together; j++) {
                if (first + j * C::Threads >= elements) break;
                narrow_put<C>(v[j], cell + c * C::Parts * p.cells + e[j].to, p.cells);
                if constexpr (C::Split)
#pragma unroll
                    for (int k = 0; k < 8; k++) most = fmaxf(most, fabsf(v[j][k]));
            }
        }
    }
    return most;
}

// What was staged, as halves.
template <class C, class Problem>
__device__ __forceinline__ void narrow_halves(const Problem &p, float factor, uint4 *cell)
{
    const uint32_t elements = p.h.s.extent[0] * p.h.s.extent[1] * p.h.s.extent[2];
    for (uint32_t at = C::thread(); at < elements; at += C::Threads)
        for (int32_t c = 0; c < p.cell_planes; c++) {
            uint4 *a = cell + c * 2 * p.cells + at, *b = a + p.cells, high, low;
            const float4 v = *(const float4 *)a, u = *(const float4 *)b;
            split_apart(v.x, v.y, factor, high.x, low.x);
            split_apart(v.z, v.w, factor, high.y, low.y);
            split_apart(u.x, u.y, factor, high.z, low.z);
            split_apart(u.z, u.w, factor, high.w, low.w);
            *a = high;
            *b = low;
        }
}

// Elements before y in its 16 bytes. A run of y has so many before it in shared memory, too.
template <class T> __device__ __forceinline__ int32_t narrow_before(const T *y)
{
    return (int32_t)((uintptr_t)y / sizeof(T) % (16 / sizeof(T)));
}

// Tile `index` of all samples, for group g.
template <class T>
__device__ __forceinline__ HaloBlock narrow_tile(const HaloProblem<T> &h, uint32_t index, int32_t g)
{
    HaloBlock b;
    uint32_t next = index;
    b.g = g;
    for (int a = 2; a >= 0; a--) {
        index = next;
        next = h.by_tiles[a].split(index);
        b.q[a] = h.s.first[a] + (int32_t)index * h.s.tile[a];
    }
    b.n = next;
    b.phase = b.channel_block = 0;
    return b;
}

// Four neighbours of a residual from `from` on, of which `width` exist.
template <class T>
__device__ __forceinline__ void narrow_residual(const Entry<float> &e, int64_t from, int32_t width, float (&r)[4])
{
    if (e.rows && width >= 4) { residual_vectors<T, 4>(e.residual, from, r);  return; }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        r[i] = 0;
        if (i < width) r[i] = Number<T>::widen(((const T *)e.residual)[from + i * e.stride[4]]);
    }
}

// ---- packing ----

// A weight of one channel block: channel `oc` of it.
template <class Packing>
__device__ __forceinline__ float narrow_weight(const Packing &p, int32_t g, int32_t oc, int32_t ic, int32_t tap,
                                               int32_t kw)
{
    if (oc >= p.out_group || ic >= p.in_group || kw < 0) return 0;
    return Number<typename Packing::Element>::widen(
        p.w[(((int64_t)g * p.in_group + ic) * p.out_group + oc) * p.taps + tap * p.kernel_w + kw]);
}

// The largest magnitude of weights of output channel oc. All lanes of a warp.
template <class Packing> __device__ __forceinline__ float narrow_largest(const Packing &p, int32_t g, int32_t oc)
{
    typedef typename Packing::Element T;
    float most = 0;
    const T *w = p.w + ((int64_t)g * p.in_group * p.out_group + oc) * p.taps;
    const int32_t all = oc < p.out_group ? p.in_group * p.taps : 0;
#pragma unroll 8
    for (int32_t i = threadIdx.x % 32; i < all; i += 32) {
        const int32_t ic = i / p.taps;
        most = fmaxf(most, fabsf(Number<T>::widen(w[(int64_t)ic * p.out_group * p.taps + i - ic * p.taps])));
    }
    return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(most)));
}

// What both packing kernels begin with: a copy of w where it is wanted, and the factors of a block's 8 output channels,
// from oc on. A block has 256 threads.
template <class C, class Packing>
__device__ __forceinline__ void narrow_pack_begins(const Packing &p, int32_t g, int32_t oc, int32_t block, int32_t part,
                                                   float (&factor)[8])
{
    const int32_t thread = threadIdx.x;
    if (p.copy)
        for (int64_t i = (int64_t)blockIdx.x * 256 + thread; i < p.elements; i += (int64_t)gridDim.x * 256)
            p.copy[i] = p.w[i];
    if constexpr (C::Split) {
        const TileScale scale(narrow_largest(p, g, oc + thread / 32));
        if (thread % 32 == 0) {
            factor[thread / 32] = scale.factor;
            if (part == 0) p.inverse[block * 8 + thread / 32] = scale.inverse;
        }
        __syncthreads();
    }
}

// ---- on the host ----

static inline int32_t narrow_mode(const convt3d_desc &d)
{
    switch (d.dtype) {
    case CONVT3D_F16: return SM80_HALF;
    case CONVT3D_BF16: return SM80_BFLOAT;
    default: return d.math == CONVT3D_TF32 ? SM80_TF32 : SM80_SPLIT;
    }
}

static inline bool narrow_halved(int32_t mode) { return mode == SM80_HALF || mode == SM80_BFLOAT; }
static inline int32_t narrow_parts(int32_t mode) { return narrow_halved(mode) ? 1 : 2; }

// act(the mode as a constant)
template <int Mode_> struct NarrowMode { static constexpr int Mode = Mode_; };
template <class Act> auto narrow_with_mode(int32_t mode, Act act)
{
    switch (mode) {
    case SM80_SPLIT: return act(NarrowMode<SM80_SPLIT>());
    case SM80_TF32:  return act(NarrowMode<SM80_TF32>());
    case SM80_HALF:  return act(NarrowMode<SM80_HALF>());
    default:         return act(NarrowMode<SM80_BFLOAT>());
    }
}

// Whether four outputs of a row of y are one store.
static inline bool narrow_vectors(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    for (int i = 0; i < 4; i++) if (d.y_stride[i] % 4 != 0) return false;
    return d.y_stride[4] == 1 && d.alignment >= 4 * convt3d__element_size(plan->stored);
}

// Whether four positions of a row of x are one load.
static inline bool narrow_reads_rows(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    for (int i = 0; i < 4; i++) if (d.x_stride[i] % 4 != 0) return false;
    return d.x_stride[4] == 1 && plan->axis[2].in % 4 == 0 && d.alignment >= 4 * convt3d__element_size(d.dtype);
}

// What both ask of a plan first, and what of a tiling follows from the plan alone. strides: why they are refused, or
// empty.
template <class Shape>
const char *narrow_begin(const convt3d__plan *plan, const char *strides, Shape &s, Sm80Walk (&walk)[3])
{
    if (plan->desc.dtype == CONVT3D_F64) return "f64 is not for halves";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (!fits_32_bits(plan)) return "an index needs more than 32 bits";
    if (*strides) return strides;
    if (plan->in_group > 16) return "more than 16 input channels a group";
    if (plan->desc.out_channels > 65536 || plan->desc.in_channels > 65536) return "too many channels";
    s.mode = narrow_mode(plan->desc);
    s.cell_planes = (int32_t)convt3d__ceil_div(plan->in_group, 8);
    s.channel_blocks = (int32_t)convt3d__ceil_div(plan->out_group, 8);
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel > 64 || axis.dilation > 64) return "more than 64 taps or a dilation beyond 64 on an axis";
        if (!sm80_walk(axis, (int32_t)axis.stride, false, walk[a])) return "more than 32 shifts on an axis";
        s.first[a] = (int32_t)convt3d__floor_div(axis.padding, axis.stride);
        s.columns[a] = (int32_t)convt3d__ceil_div(axis.out, axis.stride);
        s.low[a] = walk[a].low;
    }
    s.x_rows = narrow_reads_rows(plan);
    if (s.x_rows) s.low[2] -= (int32_t)convt3d__floor_mod(s.first[2] + s.low[2], 4);
    s.traded = plan->desc.y_stride[4] == 1 && !narrow_vectors(plan) && plan->stored == plan->desc.dtype;
    return "";
}

static inline void narrow_walk(const convt3d__plan *plan, Sm80Walk (&walk)[3])
{
    for (int a = 0; a < 3; a++) sm80_walk(plan->axis[a], (int32_t)plan->axis[a].stride, false, walk[a]);
}

// Tiles of all groups.
template <class Shape> double narrow_tiles(const convt3d__plan *plan, const Shape &s)
{
    double tiles = (double)plan->desc.batch * (double)plan->desc.groups;
    for (int a = 0; a < 3; a++) tiles *= s.tiles[a];
    return tiles;
}

// What both ask last, of a tiling. beyond: positions of an axis that y may be counted for past a tile's end.
template <class Shape> const char *narrow_end(const convt3d__plan *plan, const Shape &s, int32_t beyond)
{
    HaloShape spans = {};
    if (narrow_tiles(plan, s) > INT32_MAX) return "too many tiles for one grid";
    memcpy(spans.tile, s.tile, sizeof s.tile);
    memcpy(spans.extent, s.extent, sizeof s.extent);
    for (int a = 0; a < 3; a++) spans.tile[a] = (spans.tile[a] + beyond) * 8;   // bytes of y
    return halo_spans_32_bits(plan, spans) ? "" : "a tile spans more than 2^31 bytes of y or elements of x";
}

// The tap that phase e of an axis has at one of its shifts; -1: none.
static inline int16_t narrow_tap(const Sm80Walk &walk, int32_t entry, int e)
{
    int32_t pair = 0;
    for (int32_t i = 0; i < entry; i++)
        for (int bit = 0; bit < 2; bit++) pair += walk.axis.entry[i].mask >> bit & 1;
    if (!(walk.axis.entry[entry].mask >> e & 1)) return -1;
    return walk.pair[pair + (e == 1 && (walk.axis.entry[entry].mask & 1))].k[0];
}

// The pack is the weights as the kernel wants them, narrow_weights_bytes(s) a group; the inverse scales of 8 channels a
// block; and, where it outlives w, w as it came.
template <class Shape> int64_t narrow_scales_at(const convt3d__plan *plan, const Shape &s)
{
    return plan->desc.groups * narrow_weights_bytes(s);
}

template <class Shape> int64_t narrow_packed(const convt3d__plan *plan, const Shape &s)
{
    return narrow_scales_at(plan, s) + plan->desc.groups * s.channel_blocks * 32;
}

// What both tell their packing kernels.
template <class Shape, class Packing>
void narrow_packing(const convt3d__plan *plan, const Shape &s, const void *w, void *packed, bool copy, Packing &p)
{
    typedef typename Packing::Element T;
    p.w = (const T *)w;
    p.weights = packed;
    p.inverse = (float *)((char *)packed + narrow_scales_at(plan, s));
    if (copy) p.copy = (T *)((char *)packed + narrow_packed(plan, s));
    p.channel_blocks = s.channel_blocks;
    p.in_group = (int32_t)plan->in_group;
    p.out_group = (int32_t)plan->out_group;
    p.taps = (int32_t)plan->taps;
    p.kernel_w = (int32_t)plan->axis[2].kernel;
    p.elements = plan->w_count;
}

// What both tell their kernels. The weights are packed, or lie in io->w_packed.
template <class T, class Shape, class Problem>
convt3d_status narrow_problem(const convt3d__plan *plan, const convt3d_io *io, const Shape &s, Problem &p,
                              convt3d_error *error)
{
    HaloShape shape = sm80_tiling(s);
    shape.pitch = s.extent[2];
    shape.chunk = (int32_t)plan->in_group;
    p.h = halo_problem<T>(plan, io, shape, 1);
    convt3d_status aligned = sm80_aligned_weights(io, narrow_packed(plan, s), &p.weights, error);
    if (aligned != CONVT3D_OK) return aligned;
    p.inverse = (const float *)((const char *)p.weights + narrow_scales_at(plan, s));
    p.h.w = (const T *)(io->w_packed ? (const void *)((const char *)io->w_packed + narrow_packed(plan, s)) : io->w);
    p.steps = s.steps;
    p.channel_blocks = s.channel_blocks;
    p.cells = s.cells;
    p.cell_planes = s.cell_planes;
    p.x_rows = s.x_rows;
    p.vectors = narrow_vectors(plan);
    p.traded = s.traded;
    p.weights_bytes = (int32_t)narrow_weights_bytes(s);
    return CONVT3D_OK;
}

// What both are to the table of kernels. Of a Kernel: its Shape; plan(), the tiling or why there is none; instance(),
// which calls act(config); and of a config what packs, what runs, and the two kernels of these.
template <class Kernel> struct NarrowTable {
    typedef typename Kernel::Shape Shape;
    template <class Act> static convt3d_status on_device(const convt3d__plan *plan, convt3d_error *error, Act act)
    {
        Sm80Walk walk[3];
        convt3d_status status = convt3d__check_device(plan, error);
        if (status != CONVT3D_OK) return status;
        narrow_walk(plan, walk);
        const Shape s = kept_shape<Shape>(plan);
        return Kernel::instance(plan, s, [&](auto config) { return act(config, s, walk); });
    }
    static int32_t refuses(convt3d__plan *plan, char why[96])
    {
        Shape s;
        Sm80Walk walk[3];
        if (convt3d__refuse(why, Kernel::plan(plan, s, walk))) return 1;
        keep_shape(plan, s);
        plan->pack_variant = sm80_variant(plan, s.mode);
        return 0;
    }
    static int64_t workspace(const convt3d__plan *plan) { return narrow_packed(plan, kept_shape<Shape>(plan)); }
    static int64_t packed(const convt3d__plan *plan) { return workspace(plan) + convt3d__plain_w_packed(plan); }
    static convt3d_status pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                               convt3d_error *error)
    {
        return on_device(plan, error, [&](auto config, const Shape &s, const Sm80Walk (&walk)[3]) {
            return Kernel::template pack<decltype(config)>(plan, s, walk, w, packed, true, stream, error);
        });
    }
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        const Shape s = kept_shape<Shape>(plan);
        return Kernel::instance(plan, s, [&](auto config) {
            typedef decltype(config) C;
            convt3d_status status = convt3d__load_kernel(error, plan, Kernel::template packing<C>(), 0);
            if (status != CONVT3D_OK) return status;
            return convt3d__load_kernel(error, plan, Kernel::template running<C>(), (size_t)s.shared);
        });
    }
    // Packs the weights first where they are not packed.
    static convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        return on_device(plan, error, [&](auto config, const Shape &s, const Sm80Walk (&walk)[3]) {
            typedef decltype(config) C;
            if (!io->w_packed) {
                convt3d_status packed =
                    Kernel::template pack<C>(plan, s, walk, io->w, io->workspace, false, io->stream, error);
                if (packed != CONVT3D_OK) return packed;
            }
            return Kernel::template run<C>(plan, io, s, walk, error);
        });
    }
};

}

#endif
