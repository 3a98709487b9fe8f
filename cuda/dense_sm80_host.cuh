// sm80_dense on the host: the tile that takes the fewest cycles, packing and launches of dense_sm80.cuh, and the row of
// the table of kernels.
#pragma once

#if CONVT3D__PART(7) || CONVT3D__PART(13)

namespace convt3d_cuda {

static inline int sm80_fused(const Sm80Shape &s, int a) { return s.p >= 8 >> a ? 2 : 1; }

// Bytes of shared memory of a tile; fills in what depends on it.
static inline int64_t sm80_bytes(const convt3d__plan *plan, Sm80Shape &s, const int32_t halo[3], int64_t chunk)
{
    const int64_t element = s.mode == SM80_DOUBLE ? 8 : 4, banks = 128 / element, most = INT32_MAX / 64;
    int64_t plane = 1;
    for (int a = 0; a < 3; a++) {
        s.extent[a] = s.tile[a] + halo[a];
        plane *= s.extent[a];
        if (plane > most) return INT64_MAX;
    }
    s.pitch = s.extent[2];
    plane += (banks / 4 - plane % banks + banks) % banks;   // four channels a quarter of the banks apart
    s.plane = (int32_t)plane;
    s.chunk = (int32_t)chunk;
    s.chunks = (int32_t)convt3d__ceil_div(plan->in_group, chunk);
    s.staged = (int32_t)(convt3d__ceil_div(chunk, s.depth) * s.depth);
    if (plane > most / s.staged) return INT64_MAX;
    s.stage = (int32_t)(s.staged * plane);
    return s.stage * element * (s.chunks > 1 ? 2 : 1);
}

// Bytes of the weights of one block's items and of those read, but not used, beyond them; -1 where its items differ.
static inline int64_t sm80_block_weights(const convt3d__plan *plan, const Sm80Shape &s)
{
    int64_t item = convt3d__ceil_div(plan->in_group, s.depth) * s.pairs[0] * s.pairs[1] * s.pairs[2] * s.nt * 32 *
                   sm80_weight_size(s.mode);
    if (s.item_step < s.items && s.items != s.blocks) return -1;
    return item * (s.item_step == s.items ? s.blocks : s.item_step) + s.nt * 32 * sm80_weight_size(s.mode);
}

// Bytes of a warp's outputs on their way to y: 8 channels of 32 columns of 2, padded so that banks differ.
static inline int64_t sm80_store_bytes(const Sm80Shape &s, int64_t size)
{
    int64_t row = SM80_ROWS * (s.p >= 2 ? 2 : 1) * size;
    return 8 * (row + (s.p >= 2 || size > 4 ? 16 : size == 2 ? 8 : 16));
}

// What a block of this shape does, in cycles of a multiprocessor that does nothing else.
struct Sm80Work { double multiply, weights, stage, store, blocks; };

// product, output: cycles of a product of fragments (1.5 is the rate of tf32, 7 that of f64) and of an output beyond
// its bytes, of which 16 leave in a cycle. Weights come at 24 bytes a cycle, once for all warps that share them.
static inline Sm80Work sm80_work(const convt3d__plan *plan, const Sm80Shape &s, double product, double output)
{
    const double size = (double)convt3d__element_size(plan->desc.dtype);
    const double slots = (double)s.tile[0] * s.tile[1] * s.tile[2];
    const double set = SM80_WARPS / s.item_warps * SM80_ROWS, share = (double)s.item_step / s.items;
    const double steps = (double)convt3d__ceil_div(plan->in_group, s.depth) * s.pairs[0] * s.pairs[1] * s.pairs[2];
    const double groups = (double)s.groups[0] * s.groups[1] * s.groups[2];
    const double fragments = steps * s.blocks * s.nt * share;
    const double idle = (double)convt3d__ceil_div(s.item_step, s.item_warps) * s.item_warps / s.item_step;
    const double staged = (double)s.extent[0] * s.extent[1] * (s.extent[2] + 8) * (double)plan->in_group;
    const double stores = slots * s.p * groups * (double)plan->out_group * share;
    const double stored = (double)convt3d__element_size(plan->stored);
    Sm80Work work;
    work.multiply = s.rounds * set / 16 * fragments * product * idle;
    work.weights = s.weights > 0 ? 0 : s.rounds * fragments * 32 * (double)sm80_weight_size(s.mode) / 24;
    work.stage = staged * (size / 24 + 0.12) + s.weights / 24.0;
    work.store = stores * (stored / 16 + output) * (1 + 8.0 / s.tile[2]);
    work.blocks = (double)plan->desc.batch * (double)plan->desc.groups;
    work.blocks *= (double)convt3d__ceil_div(s.items, s.item_step);
    for (int a = 0; a < 3; a++) work.blocks *= (double)s.tiles[a];
    return work;
}

// Cycles of the whole card: a block's parts overlap in part with those of its neighbours.
static inline double sm80_total(const convt3d__plan *plan, const Sm80Shape &s, const Sm80Work &work, double overlap)
{
    const double memory = work.stage + work.store, most = work.multiply > memory ? work.multiply : memory;
    const double block = overlap * most + (1 - overlap) * (work.multiply + memory) + 1500;
    double each = work.blocks / plan->multiprocessors;
    each = each > 8 ? each + 0.6 : (double)convt3d__ceil_div((int64_t)work.blocks, plan->multiprocessors);
    const bool alone = each <= 1 || s.shared > SM80_HALF_SHARED;    // no other block to fill in while one waits
    return each * block * (!alone ? 1 : s.mode == SM80_DOUBLE ? 1.1 : 1.5);
}

// What tiles are compared by.
static inline double sm80_cycles(const convt3d__plan *plan, const Sm80Shape &s)
{
    const bool split = s.mode == SM80_SPLIT || s.mode == SM80_SHORT, wide = s.mode == SM80_DOUBLE;
    const double product = wide ? 8 : split ? 6 : 2.5;
    return sm80_total(plan, s, sm80_work(plan, s, s.weights == 0 && !wide ? 2 * product : product, 0.06), 0.7);
}

// What kernels are compared by: with the instructions about products, the way of weights that are not in shared memory,
// and stores by pieces of 8 channels in NDHWC; 1.25e9 a second is what an H200 leaves of its clock. Fitted to times of
// all workloads, types and layouts there: stores count 1 cycle for 25 bytes and 0.09 an output, staging hides.
static inline double sm80_seconds(const convt3d__plan *plan, const Sm80Shape &s)
{
    const bool split = s.mode == SM80_SPLIT || s.mode == SM80_SHORT, wide = s.mode == SM80_DOUBLE;
    const double size = (double)convt3d__element_size(plan->stored);
    Sm80Work work = sm80_work(plan, s, wide ? 7.4 : split ? 7.2 : 4.5, 0.06);
    work.multiply += 0.65 * work.weights;
    work.stage *= 0.12;
    work.store *= (size / 25 + 0.09) / (size / 16 + 0.06);
    if (split && sm80_most_shared(plan) < SM80_HALF_SHARED) work.multiply *= 4;     // their tf32 is no faster than FMA
    if (plan->desc.y_stride[1] == 1) work.store *= size < 4 ? 1.75 : 1.15;
    return sm80_total(plan, s, work, 0.35) / 1.25e9 + 7e-6;
}

// Keeps the better of two shapes.
static inline void sm80_consider(const convt3d__plan *plan, Sm80Shape &best, Sm80Shape &s, const int32_t halo[3],
                                 int64_t chunk, int64_t most)
{
    const int64_t x = sm80_bytes(plan, s, halo, chunk);
    const int64_t size = convt3d__element_size(plan->desc.dtype);
    const int64_t stores = SM80_WARPS * sm80_store_bytes(s, halo_lists(plan) ? convt3d__max(size, 4) : size);
    if (x == INT64_MAX || x + stores > most) return;
    const int64_t weights = s.chunks > 1 ? -1 : sm80_block_weights(plan, s);
    s.weights = weights >= 0 && x + stores + weights <= most ? (int32_t)weights : 0;
    s.shared = (int32_t)(x + stores + s.weights);
    s.cycles = sm80_cycles(plan, s);
    if (best.cycles == 0 || s.cycles < best.cycles) best = s;
}

// The tile, the channels staged and the share of items that cost least.
static inline bool sm80_search(const convt3d__plan *plan, Sm80Shape &best, const int32_t halo[3], int64_t most)
{
    const int32_t most_slots = 4096;
    best.cycles = 0;
    for (int32_t wide = 1; wide <= 64; wide++) {
        int32_t tw = (int32_t)convt3d__ceil_div(best.columns[2], wide), previous_h = 0;
        if (wide > 1) tw = (tw + 7) / 8 * 8;        // whole sectors
        if (wide > 1 && (tw >= best.columns[2] || convt3d__ceil_div(best.columns[2], tw) < wide)) break;
        if (tw > 512) continue;
        for (int32_t high = 1; high <= best.columns[1]; high++) {
            int32_t th = (int32_t)convt3d__ceil_div(best.columns[1], high), previous_d = 0;
            if (th == previous_h || th * tw > most_slots) continue;
            previous_h = th;
            for (int32_t deep = 1; deep <= best.columns[0]; deep++) {
                int32_t td = (int32_t)convt3d__ceil_div(best.columns[0], deep);
                if (td == previous_d || td * th * tw > most_slots) continue;
                previous_d = td;
                Sm80Shape s = best;
                const int32_t tile[3] = {td, th, tw}, slots = td * th * tw;
                for (int a = 0; a < 3; a++) {
                    s.tile[a] = tile[a];
                    s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], tile[a]);
                }
                for (int32_t warps = 1; warps <= convt3d__min(SM80_WARPS, s.items); warps *= 2) {
                    s.item_warps = warps;
                    s.rounds = (int32_t)convt3d__ceil_div(slots, SM80_WARPS / warps * SM80_ROWS);
                    for (int32_t step = s.items;; step = (step + 1) / 2) {
                        s.item_step = (int32_t)convt3d__max(step, warps);
                        sm80_consider(plan, best, s, halo, plan->in_group, most);
                        if (step <= warps) break;
                    }
                    const int64_t chunk = s.mode == SM80_DOUBLE ? 8 : 16;
                    s.item_step = warps;
                    if (s.rounds == 1 && chunk < plan->in_group) sm80_consider(plan, best, s, halo, chunk, most);
                }
            }
        }
    }
    return best.cycles > 0;
}

// How many fragments of channels a warp takes: as many as waste least.
static inline int32_t sm80_fragments(int32_t mode, int32_t p, int64_t out_group)
{
    static const int32_t counts[5] = {1, 2, 3, 4, 8};
    const int64_t tiles = convt3d__ceil_div(out_group, 8);
    int32_t best = 1;
    for (int32_t nt : counts) {
        if (nt * p > (mode == SM80_DOUBLE ? 4 : 8) || (p > 1 && nt == 3)) continue;
        if (p == 1 && nt == 2) continue;
        if (p == 2 && nt == 2 && mode != SM80_DOUBLE) continue;
        int64_t waste = convt3d__ceil_div(tiles, nt) * nt, least = convt3d__ceil_div(tiles, best) * best;
        if (waste <= least + least / 8) best = nt;
    }
    return best;
}

static inline const char *sm80_plan(const convt3d__plan *plan, Sm80Shape &s, Sm80Walk (&walk)[3])
{
    memset(&s, 0, sizeof s);
    if (plan->cuda_arch < 80) return "needs sm_80";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (!fits_32_bits(plan)) return "an index needs more than 32 bits";
    if (plan->taps > INT32_MAX / 64 || plan->desc.in_channels > 65536 || plan->desc.out_channels > 65536)
        return "too many taps or channels";
    s.mode = sm80_mode(plan->desc);
    s.depth = plan->in_group <= 4 ? 4 : 8;
    int64_t fragments = convt3d__ceil_div(plan->in_group, s.depth);
    for (int a = 0; a < 3; a++) fragments *= convt3d__ceil_div(plan->axis[a].kernel, plan->axis[a].tap_step);
    if (s.mode == SM80_SPLIT && fragments <= SM80_MOST_SHORT) s.mode = SM80_SHORT;
    s.p = 1;
    for (int a = 2; a >= 0 && plan->axis[a].stride == 2 && s.p < (s.mode == SM80_DOUBLE ? 4 : 8); a--) s.p *= 2;
    s.nt = sm80_fragments(s.mode, s.p, plan->out_group);
    s.paired = s.depth == 4;
    s.blocks = (int32_t)convt3d__ceil_div(plan->out_group, 8 * s.nt);
    s.items = s.blocks;
    int32_t halo[3];
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.stride > SM80_MOST_GROUPS) return "stride beyond 8";
        if (axis.kernel > 64) return "more than 64 taps on an axis";
        if (!sm80_walk(axis, sm80_fused(s, a), a == 2 && s.paired, walk[a])) return "more than 32 shifts on an axis";
        s.first[a] = (int32_t)convt3d__floor_div(axis.padding, axis.stride);
        s.columns[a] = (int32_t)convt3d__ceil_div(axis.out, axis.stride);
        s.groups[a] = (int32_t)axis.stride / sm80_fused(s, a);
        s.pairs[a] = walk[a].pairs;
        s.low[a] = walk[a].low;
        halo[a] = walk[a].high - walk[a].low;
        s.items *= s.groups[a];
        if (halo[a] > 4096) return "a tile with its halo exceeds shared memory";
    }
    const int64_t most = sm80_most_shared(plan), half = convt3d__min(SM80_HALF_SHARED, most);
    if (!sm80_search(plan, s, halo, s.mode == SM80_DOUBLE ? most : half) && !sm80_search(plan, s, halo, most))
        return "a tile with its halo exceeds shared memory";
    double blocks = (double)plan->desc.batch * (double)plan->desc.groups * s.items;
    for (int a = 0; a < 3; a++) blocks *= s.tiles[a];
    if (blocks > INT32_MAX) return "too many tiles for one grid";
    HaloShape spans = {};
    memcpy(spans.tile, s.tile, sizeof s.tile);
    memcpy(spans.extent, s.extent, sizeof s.extent);
    for (int a = 0; a < 3; a++) spans.tile[a] *= 8;     // bytes of y
    return halo_spans_32_bits(plan, spans) ? "" : "a tile spans more than 2^31 bytes of y or elements of x";
}

// ---- packing, running ----

template <class C> int64_t sm80_weight_lanes(const convt3d__plan *plan, const Sm80Shape &s)
{
    return plan->desc.groups * s.blocks * convt3d__ceil_div(plan->in_group, s.depth) * s.pairs[0] * s.pairs[1] *
           s.pairs[2] * C::NT * 32;
}

template <class C> int64_t sm80_weight_bytes(const convt3d__plan *plan, const Sm80Shape &s)
{
    return (sm80_weight_lanes<C>(plan, s) + C::NT * 32) * (int64_t)sizeof(typename C::Weight);
}

// copy: whether the pack is to hold w as it came, too.
template <class C>
convt3d_status sm80_pack(const convt3d__plan *plan, const Sm80Shape &s, const Sm80Walk (&walk)[3], const void *w,
                         void *packed, bool copy, void *stream, convt3d_error *error)
{
    Sm80Packing<typename C::T> p = {};
    p.w = (const typename C::T *)w;
    p.weights = packed;
    if (copy) p.copy = (typename C::T *)((char *)packed + sm80_weight_bytes<C>(plan, s));
    for (int a = 0; a < 3; a++) {
        memcpy(p.pair[a], walk[a].pair, sizeof p.pair[a]);
        p.pairs[a] = walk[a].pairs;
        p.kernel[a] = (int32_t)plan->axis[a].kernel;
    }
    p.blocks = s.blocks;
    p.fragments = (int32_t)convt3d__ceil_div(plan->in_group, s.depth);
    p.depth = s.depth;
    p.paired = s.paired;
    p.in_group = (int32_t)plan->in_group;
    p.out_group = (int32_t)plan->out_group;
    p.taps = (int32_t)plan->taps;
    p.lanes = sm80_weight_lanes<C>(plan, s);
    p.elements = plan->w_count;
    const int64_t most = p.lanes > p.elements ? p.lanes : p.elements;
    const int64_t grid = convt3d__min(convt3d__ceil_div(most, SM80_THREADS), plan->multiprocessors * 8);
    return convt3d__launch(error, sm80_pack_kernel<C>, dim3((unsigned)convt3d__max(grid, 1)), dim3(SM80_THREADS), 0,
                           stream, p);
}

template <class T>
void sm80_halo(const convt3d__plan *plan, const convt3d_io *io, const Sm80Shape &s, HaloProblem<T> &p)
{
    HaloShape shape = sm80_tiling(s);
    shape.pitch = s.pitch;
    shape.plane = s.plane;
    shape.chunk = s.chunk;
    shape.chunks = s.chunks;
    shape.stage = s.stage;
    p = halo_problem<T>(plan, io, shape, 1);
}

template <class C>
convt3d_status sm80_run(const convt3d__plan *plan, const convt3d_io *io, const Sm80Shape &s, const Sm80Walk (&walk)[3],
                        convt3d_error *error)
{
    typedef typename C::T T;
    Sm80Problem<T> p = {};
    const convt3d_desc &d = plan->desc;
    const int32_t size = sizeof(typename C::A);
    if (!io->w_packed) {
        convt3d_status status = sm80_pack<C>(plan, s, walk, io->w, io->workspace, false, io->stream, error);
        if (status != CONVT3D_OK) return status;
    }
    sm80_halo<T>(plan, io, s, p.h);
    convt3d_status aligned = sm80_aligned_weights(io, sm80_weight_bytes<C>(plan, s), &p.weights, error);
    if (aligned != CONVT3D_OK) return aligned;
    p.h.w = (const T *)(io->w_packed ? (const void *)((const char *)io->w_packed + sm80_weight_bytes<C>(plan, s))
                                     : io->w);
    const int32_t step[3] = {s.extent[1] * s.pitch, s.pitch, 1};
    static const int32_t spread[3][2] = {{0x0f, 0xf0}, {0x33, 0xcc}, {0x55, 0xaa}};    // masks of an axis to all phases
    for (int a = 0; a < 3; a++) {
        p.axis[a] = walk[a].axis;
        p.groups[a] = s.groups[a];
        p.pairs[a] = s.pairs[a];
        for (Sm80Entry &entry : p.axis[a].entry) {
            int32_t mask = entry.mask, wide = 0;
            for (int e = 0; e < 2; e++) if (mask >> e & 1) wide |= spread[a][e];
            entry.mask = sm80_fused(s, a) == 2 ? wide : 0xff;
            entry.second = s.paired ? entry.second * size : 4 * s.plane * size;
            entry.offset = (entry.offset - s.low[a]) * step[a] * size;
        }
    }
    p.blocks = s.blocks;
    p.items = s.items;
    p.item_step = s.item_step;
    p.item_ranges = (int32_t)convt3d__ceil_div(s.items, s.item_step);
    p.item_warps = s.item_warps;
    p.rounds = s.rounds;
    p.depth = s.depth;
    p.fragments = (int32_t)convt3d__ceil_div(plan->in_group, s.depth);
    p.weights_at = s.weights ? s.stage * size : 0;
    p.store_at = s.stage * size * (s.chunks > 1 ? 2 : 1) + s.weights;
    p.row_neighbours = d.y_stride[4] == 1;
    p.row_vectors = d.y_stride[4] == 1 && d.alignment >= 2 * (int32_t)sizeof(T);
    p.channel_vectors = d.y_stride[1] == 1 && d.alignment >= 2 * (int32_t)sizeof(T) && plan->out_group % 2 == 0;
    for (int i = 0; i < 5; i++) {
        if (i != 4 && d.y_stride[i] % 2 != 0) p.row_vectors = 0;
        if (i != 1 && d.y_stride[i] % 2 != 0) p.channel_vectors = 0;
    }
    const int64_t stored = convt3d__element_size(plan->stored);
    p.channel_lots = d.y_stride[1] == 1 && (uintptr_t)io->y % 16 == 0 && plan->out_group * stored % 16 == 0;
    for (int i = 0; i < 5; i++) if (i != 1 && d.y_stride[i] * stored % 16 != 0) p.channel_lots = 0;
    int64_t blocks = d.batch * d.groups * p.item_ranges;
    for (int a = 0; a < 3; a++) blocks *= s.tiles[a];
    return convt3d__launch(error, sm80_kernel<C>, dim3((unsigned)blocks), dim3(SM80_THREADS), (size_t)s.shared,
                           io->stream, p);
}

template <class C> convt3d_status sm80_ready(const convt3d__plan *plan, const Sm80Shape &s, convt3d_error *error)
{
    convt3d_status status = convt3d__load_kernel(error, plan, sm80_pack_kernel<C>, 0);
    if (status != CONVT3D_OK) return status;
    return convt3d__load_kernel(error, plan, sm80_kernel<C>, (size_t)s.shared);
}

// Calls act with the plan's instance: the one place where they are listed.
template <int Mode, bool Lists, class Act> auto sm80_tile(const Sm80Shape &s, Act act)
{
    if constexpr (Mode != SM80_DOUBLE) {
        if (s.p == 8) return act(Sm80Config<Mode, 8, 1, Lists>());
        if (s.p == 4 && s.nt == 2) return act(Sm80Config<Mode, 4, 2, Lists>());
        if (s.p == 2 && s.nt == 4) return act(Sm80Config<Mode, 2, 4, Lists>());
        if (s.p == 1 && s.nt == 8) return act(Sm80Config<Mode, 1, 8, Lists>());
    } else {
        if (s.p == 2 && s.nt == 2) return act(Sm80Config<Mode, 2, 2, Lists>());
    }
    if (s.p == 4) return act(Sm80Config<Mode, 4, 1, Lists>());
    if (s.p == 2) return act(Sm80Config<Mode, 2, 1, Lists>());
    if (s.nt == 3) return act(Sm80Config<Mode, 1, 3, Lists>());
    if (s.nt == 4) return act(Sm80Config<Mode, 1, 4, Lists>());
    return act(Sm80Config<Mode, 1, 1, Lists>());
}

template <bool Lists, class Act> auto sm80_instance(const Sm80Shape &s, Act act)
{
    switch (s.mode) {
    case SM80_SPLIT: return sm80_tile<SM80_SPLIT, Lists>(s, act);
    case SM80_SHORT: return sm80_tile<SM80_SHORT, Lists>(s, act);
    case SM80_TF32: return sm80_tile<SM80_TF32, Lists>(s, act);
    case SM80_HALF: return sm80_tile<SM80_HALF, Lists>(s, act);
    case SM80_BFLOAT: return sm80_tile<SM80_BFLOAT, Lists>(s, act);
    default: return sm80_tile<SM80_DOUBLE, Lists>(s, act);
    }
}

// The shape that refuses() kept, and the walk that goes with it.
static inline Sm80Shape sm80_shape(const convt3d__plan *plan) { return kept_shape<Sm80Shape>(plan); }

static inline Sm80Shape sm80_shape(const convt3d__plan *plan, Sm80Walk (&walk)[3])
{
    Sm80Shape s = sm80_shape(plan);
    for (int a = 0; a < 3; a++) sm80_walk(plan->axis[a], sm80_fused(s, a), a == 2 && s.paired, walk[a]);
    return s;
}

}

#endif
#if CONVT3D__PART(7)

extern "C" int32_t convt3d__dense_sm80_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    Sm80Shape s;
    Sm80Walk walk[3];
    if (convt3d__refuse(why, sm80_plan(plan, s, walk))) return 1;
    keep_shape(plan, s);
    plan->pack_variant = sm80_variant(plan, s.mode * 64 + s.nt * 8 + s.paired);
    return 0;
}

extern "C" double convt3d__dense_sm80_cost(const convt3d__plan *plan)
{
    return convt3d_cuda::sm80_seconds(plan, convt3d_cuda::sm80_shape(plan));
}

extern "C" int64_t convt3d__dense_sm80_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const Sm80Shape s = sm80_shape(plan);
    return sm80_instance<false>(s, [&](auto config) { return sm80_weight_bytes<decltype(config)>(plan, s); });
}

extern "C" int64_t convt3d__dense_sm80_packed(const convt3d__plan *plan)
{
    return convt3d__dense_sm80_workspace(plan) + convt3d__plain_w_packed(plan);
}

extern "C" convt3d_status convt3d__dense_sm80_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                   convt3d_error *error)
{
    using namespace convt3d_cuda;
    Sm80Walk walk[3];
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    const Sm80Shape s = sm80_shape(plan, walk);
    return sm80_instance<false>(s, [&](auto config) {
        return sm80_pack<decltype(config)>(plan, s, walk, w, packed, true, stream, error);
    });
}

extern "C" convt3d_status convt3d__dense_sm80_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    if (halo_lists(plan)) return convt3d__dense_sm80_list_ready(plan, error);
    const Sm80Shape s = sm80_shape(plan);
    return sm80_instance<false>(s, [&](auto config) { return sm80_ready<decltype(config)>(plan, s, error); });
}

extern "C" convt3d_status convt3d__dense_sm80_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    Sm80Walk walk[3];
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    if (halo_lists(plan)) return convt3d__dense_sm80_list_run(plan, io, error);
    const Sm80Shape s = sm80_shape(plan, walk);
    return sm80_instance<false>(s, [&](auto config) { return sm80_run<decltype(config)>(plan, io, s, walk, error); });
}

#endif
#if CONVT3D__PART(13)

extern "C" convt3d_status convt3d__dense_sm80_list_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    const Sm80Shape s = sm80_shape(plan);
    return sm80_instance<true>(s, [&](auto config) { return sm80_ready<decltype(config)>(plan, s, error); });
}

extern "C" convt3d_status convt3d__dense_sm80_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                       convt3d_error *error)
{
    using namespace convt3d_cuda;
    Sm80Walk walk[3];
    const Sm80Shape s = sm80_shape(plan, walk);
    return sm80_instance<true>(s, [&](auto config) { return sm80_run<decltype(config)>(plan, io, s, walk, error); });
}

#endif
