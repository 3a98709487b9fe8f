// sm80_dense: implicit GEMM on mma.sync from planar tiles of x: f64, few channels and groups, cards without wgmma.
//
// Idea      A block stages x with its halo in shared memory as planes (channel, d, h, w) of f32 or f64 (halo.cuh). Rows
//           of a fragment of A are columns q, its depth 8 input channels: one load a register, at any shift, without
//           conflicts or alignment. All outputs of a column in a stride of 2 are phases of one warp's accumulators, so
//           that an input shift is loaded once for all phases that have a tap there, and both outputs of the width
//           leave in one store. With 4 input channels or fewer the depth is two shifts of the width times 4 channels.
// Weights   are packed in the order in which they are met, a fragment of B after the other; they lie in shared memory
//           where they fit beside x, else they come through L1.
// f32       three tf32 products: operands times 2^24 as high + low, each rounded to 11 bits. Where an output has more
//           than 8 fragments of A, full or not, each sum of one leaves the matrix unit, which truncates, for an f32
//           register.
// Others    tf32, f16, bf16: one tf32 product, exact for 16-bit operands. f64: the f64 matrix unit.
// NaN, inf  in an operand, or made by the scale, reach their own rows and columns of a product only. An output that is
//           not finite is computed again by multiply-adds from global memory. Zeros in place of taps and halo can thus
//           make a sum NaN, but not an output.
// List      instances of their own, which trade f32 (f64) always: a lane takes 8 channels of an output, and sums move
//           to the front in turn, so that the list's code stands once. kb_l1_72 with ReLU (SiLU) takes 25% (30%) longer
//           in f32, 39% (47%) in f16.
// Store     A warp's outputs of 8 channels pass through shared memory to leave as rows; straight to y where rows are
//           not contiguous (NDHWC: two channels a store).
// Requires  sm_80; x and y not empty; 32-bit indices; at most 32 shifts and 64 taps an axis, strides to 8; a tile with
//           its halo within shared memory.
// Tile      256 threads; a warp has 32 columns x up to 8 (f64: 4) fragments, which are phases fused (2 of the width, 4
//           of height and width, 8 of all axes) times blocks of 8 channels. The tile of columns by sm80_search().
// Measured  one H200, NCDHW, weights packed in the call: kb_l1_72 (groups of 8, k 3x5x7 s2) f32 0.183 ms, tf32 0.136,
//           f16 0.147; casmvs_16_8 f32 0.044, tf32 0.033, f16 0.034; kb_l1_73 f32 0.66, f16 0.61; f64: kb_l1_61 6.7 ms
//           (39 TFLOP/s, 0.68 of the floor), psmnet_64_32 0.24, unet3d_128_64 2.63, gan_128_64_32 22.6. The
//           instructions of loads, splits and stores bound the small ones.
#pragma once

#include "halo.cuh"

CONVT3D__DECLARE_KERNEL(dense_sm80)
CONVT3D__DECLARE_PACK(dense_sm80)

// The instances that apply lists, CONVT3D_CUDA_PART 13.
extern "C" {
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm80_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                            convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__dense_sm80_list_ready(const convt3d__plan *plan, convt3d_error *error);
}

// scatter_sm80.cuh, narrow_sm80.cuh, narrow_sm90.cuh and march_sm80.cuh share modes, operands, exact outputs.
#if CONVT3D__PART(7) || CONVT3D__PART(9) || CONVT3D__PART(13) || CONVT3D__PART(15) || CONVT3D__PART(16) || \
    CONVT3D__PART(19)

namespace convt3d_cuda {

enum { SM80_SPLIT = 0, SM80_TF32 = 1, SM80_HALF = 2, SM80_BFLOAT = 3, SM80_DOUBLE = 4, SM80_SHORT = 5 };
enum { SM80_THREADS = 256, SM80_WARPS = 8, SM80_M = 2, SM80_ROWS = 16 * SM80_M };
enum { SM80_MOST_ENTRIES = 32, SM80_MOST_GROUPS = 8, SM80_MOST_SHORT = 8, SM80_HALF_SHARED = 112 * 1024 };

// How a mode multiplies. SM80_SHORT is a split of so few fragments an output that their sum may stay in the matrix unit.
// Weight: a lane's registers of one fragment of B. Scale: of both operands, as a power of two.
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

template <bool Lists, class T> struct Sm80Traded { typedef T Value; };
template <class T> struct Sm80Traded<true, T> { typedef typename Number<T>::Accumulator Value; };

// One instance: fused phases P (of the width; of height and width; of all axes), fragments of channels NT. Lists: it
// applies the list, and may store wide.
template <int Mode_, int P_, int NT_, bool Lists_> struct Sm80Config {
    static constexpr int Mode = Mode_, P = P_, NT = NT_, M = SM80_M;
    static constexpr bool Lists = Lists_;
    typedef typename Sm80Mode<Mode>::T T;
    typedef typename Sm80Mode<Mode>::A A;
    typedef typename Sm80Traded<Lists, T>::Value Value;             // an output on its way to y
    typedef typename Sm80Mode<Mode>::Weight Weight;
    static constexpr int FusedW = P >= 2 ? 2 : 1, FusedH = P >= 4 ? 2 : 1, FusedD = P >= 8 ? 2 : 1;
    static constexpr bool Split = Mode == SM80_SPLIT || Mode == SM80_SHORT;
    static constexpr int Blocks = 2;
};

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

// The tiling of a plan, kept in plan->state.
struct Sm80Shape {
    int32_t mode, p, nt;
    int32_t first[3], columns[3], tile[3], tiles[3], low[3], extent[3], groups[3];
    int32_t pitch, plane, depth, paired;        // depth: input channels of a fragment, 8, or 4 where shifts are paired
    int32_t chunk, chunks, staged;              // input channels at a time, how often, with those that are zeros
    int32_t blocks, items, item_step, item_warps, rounds;
    int32_t pairs[3], shared, stage, weights;   // bytes; elements of x; bytes of weights in shared memory, or 0
    double cycles;
};

template <class T> struct Sm80Problem {
    HaloProblem<T> h;                           // h.w: weights as they came
    const void *weights;
    Sm80Axis axis[3];
    int32_t groups[3], pairs[3];
    int32_t blocks, items, item_step, item_ranges, item_warps, rounds, depth, fragments, staged;
    int32_t weights_at, store_at;                   // in shared memory, bytes: weights (0: in global memory), outputs
    int32_t row_vectors, channel_vectors, row_neighbours;   // y takes vectors of two outputs of a row, of two channels
    int32_t channel_lots;                           // and of 8 channels, in stores of 16 bytes
};
static_assert(sizeof(Sm80Problem<float>) <= 4096, "a kernel's parameters");

// ---- on the host: phases, tiles ----

static inline int32_t sm80_mode(const convt3d_desc &d)
{
    switch (d.dtype) {
    case CONVT3D_F64: return SM80_DOUBLE;
    case CONVT3D_F16: return SM80_HALF;
    case CONVT3D_BF16: return SM80_BFLOAT;
    default: return d.math == CONVT3D_TF32 ? SM80_TF32 : SM80_SPLIT;
    }
}

static inline int sm80_fused(const Sm80Shape &s, int a) { return s.p >= 8 >> a ? 2 : 1; }

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

// Bytes of a lane's registers of one fragment of weights.
static inline int64_t sm80_weight_size(int32_t mode)
{
    return mode == SM80_SPLIT || mode == SM80_SHORT || mode == SM80_DOUBLE ? 16 : 8;
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

// Bytes of shared memory of a block: less on the cards without double precision units, sm_86, 89, 120.
static inline int64_t sm80_most_shared(const convt3d__plan *plan)
{
    int32_t arch = plan->cuda_arch;
    return arch == 86 || arch == 88 || arch == 89 || arch >= 120 ? 96 * 1024 : 160 * 1024;
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

// ---- on the device: fragments ----

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

template <class C> struct Sm80Sum { typename C::A v[C::P][C::NT][C::M][4]; };

// The products of the loaded columns with the weights of phases q ... q + Count - 1. A split's are summed by themselves
// first, since the matrix unit truncates.
template <class C, int Count>
__device__ __forceinline__ void sm80_add(Sm80Sum<C> &sum, int q, const Sm80Operand<C::Mode> (&operand)[C::M],
                                         const typename C::Weight (&weight)[Count][C::NT])
{
    constexpr int together = C::NT * Count * C::M <= 8 ? C::NT : 8 / (Count * C::M);
#pragma unroll
    for (int first = 0; first < C::NT; first += together) {
        typename C::A part[Count][together][C::M][4] = {};
#pragma unroll
        for (int product = 0; product < (C::Split ? 3 : 1); product++)
#pragma unroll
            for (int i = 0; i < Count * together * C::M; i++) {
                const int e = i / (together * C::M), n = i / C::M % together, m = i % C::M;
                if (n >= C::NT - first) continue;
                if constexpr (C::Mode == SM80_SPLIT) operand[m].add(part[e][n][m], weight[e][first + n], product);
                else operand[m].add(sum.v[q + e][first + n][m], weight[e][first + n], product);
            }
        if constexpr (C::Mode == SM80_SPLIT)
#pragma unroll
            for (int i = 0; i < Count * together * C::M * 4; i++) {
                const int e = i / (together * C::M * 4), n = i / (C::M * 4) % together, m = i / 4 % C::M;
                if (n < C::NT - first) sum.v[q + e][first + n][m][i % 4] += part[e][n][m][i % 4];
            }
    }
}

// The products of phases First ... First + Count - 1 of the width, for each phase of depth and height that has the tap.
// Each is a loop of at most one pass: of an if ptxas makes predicates, and issues what is not done.
template <class C, int First, int Count>
__device__ __forceinline__ void sm80_phases(Sm80Sum<C> &sum, int32_t phases,
                                            const Sm80Operand<C::Mode> (&operand)[C::M], const typename C::Weight *&w)
{
#pragma unroll
    for (int q = 0; q < C::P; q += C::FusedW) {
        int32_t times = phases >> q & 1;
        if (C::P > C::FusedW) asm volatile("" : "+r"(times));
#pragma unroll 1
        while (C::P == C::FusedW || times > 0) {
            typename C::Weight weight[Count][C::NT];
#pragma unroll
            for (int i = 0; i < Count * C::NT; i++) weight[i / C::NT][i % C::NT] = w[i * 32];
            w += Count * C::NT * 32;
            sm80_add<C, Count>(sum, q + First, operand, weight);
            if (C::P == C::FusedW) break;
            times--;
            asm volatile("" : "+r"(times));
        }
    }
}

// The products of the columns at `row` (bytes in shared memory, of columns g and g + 8, channel t) with one item's
// weights, over the channels that are staged, d, h, w shifts and phases: the order of the packed weights.
template <class C>
__device__ __forceinline__ void sm80_multiply(const Sm80Problem<typename C::T> &p, const Sm80Group (&group)[3],
                                              int32_t fragments, const typename C::Weight *w,
                                              const int32_t (&row)[C::M][2], Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    const int32_t lane_step = p.h.s.plane * p.depth * (int32_t)sizeof(A);
    constexpr bool ahead = C::P == 1 && C::NT <= 4;     // weights are loaded a step ahead
    typename C::Weight next[1][C::NT];
    if (ahead)
#pragma unroll
        for (int n = 0; n < C::NT; n++) next[0][n] = w[n * 32];
    int32_t x = 0;
#pragma unroll 1
    for (int32_t f = 0; f < fragments; f++, x += lane_step)
#pragma unroll 1
        for (int32_t d = group[0].begin; d < group[0].end; d++)
#pragma unroll 1
            for (int32_t h = group[1].begin; h < group[1].end; h++) {
                const int32_t x_row = x + p.axis[0].entry[d].offset + p.axis[1].entry[h].offset;
                const int32_t phases = p.axis[0].entry[d].mask & p.axis[1].entry[h].mask;
#pragma unroll 1
                for (int32_t l = group[2].begin; l < group[2].end; l++) {
                    const Sm80Entry entry = p.axis[2].entry[l];
                    const int32_t at = x_row + entry.offset;
                    Sm80Operand<C::Mode> operand[C::M];
#pragma unroll
                    for (int m = 0; m < C::M; m++)
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            operand[m].set(i, *(const A *)(halo_shared + row[m][i % 2] + at + (i / 2) * entry.second));
                    if constexpr (ahead) {
                        typename C::Weight weight[1][C::NT];
                        w += C::NT * 32;
#pragma unroll
                        for (int n = 0; n < C::NT; n++) {
                            weight[0][n] = next[0][n];
                            next[0][n] = w[n * 32];
                        }
                        sm80_add<C, 1>(sum, 0, operand, weight);
                    } else {
                        const int32_t width = entry.mask & 3;
                        if constexpr (C::P == 1) sm80_phases<C, 0, 1>(sum, phases, operand, w);
                        else if (width == 3) sm80_phases<C, 0, 2>(sum, phases, operand, w);
                        else if (width == 1) sm80_phases<C, 0, 1>(sum, phases, operand, w);
                        else sm80_phases<C, 1, 1>(sum, phases, operand, w);
                    }
                }
            }
}

// ---- results ----

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

// What a warp's outputs have in common: the first of the block's tile and the item's phase, its first channel.
struct Sm80Item {
    int32_t o[3], oc, g;
    int64_t n, offset;
};

// Where a column lies: its first outputs, and its place in y from the item's.
struct Sm80Place { int32_t od, oh, ow, offset; bool inside; };

template <class C>
__device__ __forceinline__ Sm80Place sm80_place(const Sm80Problem<typename C::T> &p, const Sm80Item &item, int32_t slot)
{
    const HaloProblem<typename C::T> &h = p.h;
    HaloColumn q = halo_column(h, slot);
    int32_t d = q.d * h.axis[0].stride, l = q.h * h.axis[1].stride, w = q.w * h.axis[2].stride;
    Sm80Place t = {item.o[0] + d, item.o[1] + l, item.o[2] + w, 0, false};
    t.offset = d * (int32_t)h.y_stride[2] + l * (int32_t)h.y_stride[3] + w * (int32_t)h.y_stride[4];
    t.inside = q.d < h.s.tile[0] && t.od < h.axis[0].out && t.oh < h.axis[1].out && t.ow < h.axis[2].out;
    return t;
}

// A warp's outputs that are not finite again, exactly. Its stores must have been seen by all its lanes.
template <class C>
__device__ __noinline__ void sm80_store_exact(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                              int32_t first_slot)
{
    const HaloProblem<typename C::T> &h = p.h;
    const Sm80Place t = sm80_place<C>(p, item, first_slot + threadIdx.x % 32);
    __threadfence_block();
    __syncwarp();
    if (!t.inside) return;
    for (int32_t q = 0; q < C::P; q++) {
        int32_t ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH, ew = q % C::FusedW;
        if (t.od + ed >= h.axis[0].out || t.oh + eh >= h.axis[1].out || t.ow + ew >= h.axis[2].out) continue;
        for (int32_t channel = 0; channel < min(8 * C::NT, h.out_group - item.oc); channel++) {
            typename C::T *y = h.y + item.offset + t.offset + ed * h.y_stride[2] + eh * h.y_stride[3] +
                               ew * h.y_stride[4] + channel * h.y_stride[1];
            typename C::T v = *(const volatile typename C::T *)y;
            if (not_finite(Number<typename C::T>::widen(v)))
                *y = Number<typename C::T>::round(
                    sm80_exact(h, item.n, item.g, item.oc + channel, t.od + ed, t.oh + eh, t.ow + ew));
        }
    }
}

// What becomes of a thread's sums of channels oc, oc + 1 (bias[0], bias[1]) at (n, od, oh, ow) and (.., ow + 1): undoes
// the operands' scales, adds the bias, rounds. Whatever else is done to finished outputs belongs here.
template <class C>
__device__ __forceinline__ void sm80_finish(const Sm80Problem<typename C::T> &p, const typename C::A (&bias)[2],
                                            const typename C::A (&sum)[C::FusedW][2],
                                            typename C::T (&out)[C::FusedW][2])
{
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    (void)p;
#pragma unroll
    for (int e = 0; e < C::FusedW; e++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            if constexpr (scale != 0)
                out[e][j] = Number<typename C::T>::round(fmaf(sum[e][j], 1.f / (1 << scale) / (1 << scale), bias[j]));
            else out[e][j] = Number<typename C::T>::round(sum[e][j] + bias[j]);
}

template <class T> __device__ __forceinline__ void sm80_store_pair(T *to, T a, T b)
{
    T v[2] = {a, b};
    store_vector(to, v);
}

// 2 x 2 finished outputs straight to y: of neighbours along the width, of two channels.
template <class C>
__device__ __forceinline__ void sm80_write(const Sm80Problem<typename C::T> &p, typename C::T *y, int32_t width,
                                           int32_t channels, const typename C::T (&v)[C::FusedW][2])
{
#pragma unroll
    for (int e = 0; e < C::FusedW; e++, y += p.h.y_stride[4]) {
        if (e >= width) break;
        if (p.channel_vectors && channels >= 2) sm80_store_pair(y, v[e][0], v[e][1]);
        else {
            if (channels > 0) y[0] = v[e][0];
            if (channels > 1) y[p.h.y_stride[1]] = v[e][1];
        }
    }
}

// A warp's outputs of 8 channels of one row of phases, traded through shared memory: rows of them are stored.
template <class C> struct Sm80Trade {
    typedef typename C::Value T;
    static constexpr int Padding = (C::FusedW == 2 || sizeof(T) > 4 ? 16 : sizeof(T) == 2 ? 8 : 16) / sizeof(T);
    T v[8][SM80_ROWS * C::FusedW + Padding];
};

// One lane's two places: of outputs lane and 32 + lane of a row or, where both outputs of a column are stored as one,
// of column lane.
struct Sm80Lane { int32_t od, oh, offset; int32_t width; };

template <class C>
__device__ __forceinline__ Sm80Lane sm80_lane(const Sm80Problem<typename C::T> &p, const Sm80Item &item, int32_t slot,
                                              int32_t e)
{
    const Sm80Place t = sm80_place<C>(p, item, slot);
    Sm80Lane to = {t.od, t.oh, t.offset + e, t.inside ? p.h.axis[2].out - t.ow - e : 0};
    return to;
}

// One lane's outputs of `channels` channels, of all 8 where Full. at: the first channel's place, bytes from y.
template <class C, bool Full, int Vector>
__device__ __forceinline__ void sm80_store_lane(const typename C::T *from, char *y, uint32_t at, int64_t channel_bytes,
                                                bool real, int32_t channels)
{
    typedef typename C::T T;
    struct alignas(Vector * sizeof(T)) Pack { T v[Vector]; };
    constexpr int row = sizeof(Sm80Trade<C>) / 8 / sizeof(T);
    Pack pack[8];
#pragma unroll
    for (int c = 0; c < 8; c++) pack[c] = *(const Pack *)(from + c * row);
#pragma unroll
    for (int c = 0; c < 8; c++, y += channel_bytes) {
        if (!Full && c >= channels) break;
        if (real) store_vector((T *)(y + at), pack[c].v);
    }
}

template <class C>
__device__ __forceinline__ void sm80_store_rows(const Sm80Problem<typename C::T> &p, const Sm80Trade<C> &trade,
                                                typename C::T *y, const Sm80Lane (&to)[C::FusedW], int ed, int eh,
                                                int32_t channels)
{
    typedef typename C::T T;
    const int lane = threadIdx.x % 32;
    const int32_t out_d = p.h.axis[0].out - ed, out_h = p.h.axis[1].out - eh;
    const int64_t channel_bytes = p.h.y_stride[1] * (int64_t)sizeof(T);
    const bool pairs = C::FusedW == 2 && p.row_vectors;
#pragma unroll
    for (int i = 0; i < C::FusedW; i++) {
        const T *from = &trade.v[0][pairs ? lane * 2 + i : lane + 32 * i];
        const uint32_t at = (uint32_t)(to[i].offset * (int32_t)sizeof(T));
        const bool real = to[i].od < out_d && to[i].oh < out_h && to[i].width > 0;
        if (C::FusedW == 2 && pairs) {
            if (i > 0) break;
            const bool both = real && to[i].width >= 2;
            if (channels >= 8) sm80_store_lane<C, true, C::FusedW>(from, (char *)y, at, channel_bytes, both, 8);
            else sm80_store_lane<C, false, C::FusedW>(from, (char *)y, at, channel_bytes, both, channels);
            if (real && !both) sm80_store_lane<C, false, 1>(from, (char *)y, at, channel_bytes, true, channels);
        } else if (channels >= 8) sm80_store_lane<C, true, 1>(from, (char *)y, at, channel_bytes, real, 8);
        else sm80_store_lane<C, false, 1>(from, (char *)y, at, channel_bytes, real, channels);
    }
}

template <class C>
__device__ __forceinline__ void sm80_store(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                           int32_t first_slot, const Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    typedef typename C::T T;
    const HaloProblem<T> &h = p.h;
    const int32_t lane = threadIdx.x % 32, lane_channel = lane % 4 * 2, left = h.out_group - item.oc;
    Sm80Trade<C> &trade = ((Sm80Trade<C> *)(halo_shared + p.store_at))[threadIdx.x / 32];
    T *y = h.y + item.offset;
    bool finite = true;
    Sm80Lane to[C::FusedW] = {};
    if (p.row_neighbours)
#pragma unroll
        for (int i = 0; i < C::FusedW; i++)
            to[i] = C::FusedW == 1 || p.row_vectors ? sm80_lane<C>(p, item, first_slot + lane, 0)
                                                    : sm80_lane<C>(p, item, first_slot + (lane + 32 * i) / 2, lane % 2);
#pragma unroll
    for (int n = 0; n < C::NT; n++, y += 8 * h.y_stride[1]) {
        const int32_t channels = left - n * 8;
        if (C::NT > 1 && channels <= 0) break;
        A bias[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            bias[j] = lane_channel + j < channels
                          ? halo_bias(h, (int64_t)item.g * h.out_group + item.oc + lane_channel + n * 8 + j) : A(0);
#pragma unroll
        for (int q = 0; q < C::P; q += C::FusedW) {
            const int ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH;
            T *row = y + ed * h.y_stride[2] + eh * h.y_stride[3];
#pragma unroll
            for (int i = 0; i < 2 * C::M; i++) {
                A part[C::FusedW][2];
                T out[C::FusedW][2];
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                    for (int j = 0; j < 2; j++) part[e][j] = sum.v[q + e][n][i / 2][i % 2 * 2 + j];
                sm80_finish<C>(p, bias, part, out);
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                    for (int j = 0; j < 2; j++) finite = finite && !not_finite(Number<T>::widen(out[e][j]));
                const int32_t slot = lane / 4 + i * 8;
                if (p.row_neighbours) {
#pragma unroll
                    for (int j = 0; j < 2; j++)
#pragma unroll
                        for (int e = 0; e < C::FusedW; e++) trade.v[lane_channel + j][slot * C::FusedW + e] = out[e][j];
                } else {
                    const Sm80Place t = sm80_place<C>(p, item, first_slot + slot);
                    if (t.inside && t.od + ed < h.axis[0].out && t.oh + eh < h.axis[1].out)
                        sm80_write<C>(p, row + lane_channel * h.y_stride[1] + t.offset, h.axis[2].out - t.ow,
                                      channels - lane_channel, out);
                }
            }
            if (p.row_neighbours) {
                __syncwarp();
                sm80_store_rows<C>(p, trade, row, to, ed, eh, channels);
                __syncwarp();
            }
        }
    }
    if (__any_sync(0xffffffffu, !finite)) sm80_store_exact<C>(p, item, first_slot);
}

// ---- outputs with a list ----

// 8 channels of an output, of which the first `channels` exist, as elements of Out.
template <class Out, class A>
__device__ __forceinline__ void sm80_store_channels(Out *y, int64_t stride, bool lots, int32_t channels,
                                                    const A (&v)[8])
{
    Out out[8];
#pragma unroll
    for (int c = 0; c < 8; c++) out[c] = Number<Out>::round(v[c]);
    if (lots && channels >= 8) { store_vector(y, out);  return; }
#pragma unroll
    for (int c = 0; c < 8; c++) if (c < channels) y[c * stride] = out[c];
}

// 8 channels, from oc on, of one output of the row: what the warp has traded, summed exactly where it is not finite,
// and the list. A residual may be y: nothing is stored before.
template <class C>
__device__ __forceinline__ void sm80_list_channels(const Sm80Problem<typename C::T> &p, const Sm80Trade<C> &trade,
                                                   const Sm80Item &item, int32_t first_slot, int32_t at, int32_t oc,
                                                   int32_t ed, int32_t eh)
{
    typedef typename C::T T;
    typedef typename C::A A;
    const HaloProblem<T> &h = p.h;
    const Sm80Place t = sm80_place<C>(p, item, first_slot + at / C::FusedW);
    const int32_t od = t.od + ed, oh = t.oh + eh, ow = t.ow + at % C::FusedW, channels = h.out_group - oc;
    if (!t.inside || od >= h.axis[0].out || oh >= h.axis[1].out || ow >= h.axis[2].out) return;
    A v[1][8];
    bool finite = true;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        v[0][c] = trade.v[c][at];
        finite = finite && (c >= channels || !not_finite(v[0][c]));
    }
    if (!finite)
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (c < channels && not_finite(v[0][c])) v[0][c] = sm80_exact(h, item.n, item.g, oc + c, od, oh, ow);
    const Where place = {item.n, (int64_t)item.g * h.out_group + oc, od, oh, ow, 1, 1};
    apply_in_registers(h.list, 0, v, [&](int c) { return place.oc + min(c, channels - 1); },
                       [&](const Entry<A> &e, int, A (&r)[8]) {
        const int64_t from = offset_of(place, e.stride);
        if (e.channels && channels >= 8 && place.oc % 8 == 0) residual_vectors<T>(e.residual, from, r);
        else
#pragma unroll
            for (int c = 0; c < 8; c++) {
                T element = Number<T>::round(0);
                if (c < channels) element = ((const T *)e.residual)[from + c * e.stride[1]];
                r[c] = Number<T>::widen(element);
            }
    });
    const int64_t to = offset_of(place, h.y_stride);
    if (sizeof(T) == 2 && h.wide) sm80_store_channels((A *)h.y + to, h.y_stride[1], p.channel_lots, channels, v[0]);
    else sm80_store_channels((T *)h.y + to, h.y_stride[1], p.channel_lots, channels, v[0]);
}

// As sm80_store(), a row of phases and 8 channels at a time, those which come next moving to the front of the sums: the
// list's code stands once.
template <class C>
__device__ __forceinline__ void sm80_store_list(const Sm80Problem<typename C::T> &p, const Sm80Item &item,
                                                int32_t first_slot, Sm80Sum<C> &sum)
{
    typedef typename C::A A;
    constexpr int scale = Sm80Mode<C::Mode>::Scale;
    const HaloProblem<typename C::T> &h = p.h;
    const int32_t lane = threadIdx.x % 32, lane_channel = lane % 4 * 2;
    Sm80Trade<C> &trade = ((Sm80Trade<C> *)(halo_shared + p.store_at))[threadIdx.x / 32];
#pragma unroll 1
    for (int q = 0; q < C::P; q += C::FusedW) {
        const int ed = q / (C::FusedH * C::FusedW), eh = q / C::FusedW % C::FusedH;
#pragma unroll 1
        for (int n = 0; n < C::NT; n++) {
            const int32_t oc = item.oc + n * 8, channels = h.out_group - oc;
            if (channels > 0) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const A bias = lane_channel + j < channels
                                       ? halo_bias(h, (int64_t)item.g * h.out_group + oc + lane_channel + j) : A(0);
#pragma unroll
                    for (int e = 0; e < C::FusedW; e++)
#pragma unroll
                        for (int i = 0; i < 2 * C::M; i++) {
                            A v = sum.v[e][0][i / 2][i % 2 * 2 + j];
                            if constexpr (scale != 0) v = fmaf(v, 1.f / (1 << scale) / (1 << scale), bias);
                            else v += bias;
                            trade.v[lane_channel + j][(lane / 4 + i * 8) * C::FusedW + e] = v;
                        }
                }
                __syncwarp();
#pragma unroll 1
                for (int i = 0; i < C::FusedW; i++)
                    sm80_list_channels<C>(p, trade, item, first_slot, lane + 32 * i, oc, ed, eh);
                __syncwarp();
            }
            if constexpr (C::NT > 1)
#pragma unroll
                for (int e = 0; e < C::FusedW; e++)
                    turn<C::M * 4>(reinterpret_cast<A (&)[C::NT * C::M * 4]>(sum.v[e]));
        }
        if constexpr (C::P > C::FusedW)
            turn<C::FusedW * C::NT * C::M * 4>(reinterpret_cast<A (&)[C::P * C::NT * C::M * 4]>(sum.v));
    }
}

// ---- the kernel ----

// Which block of channels and which phases an item is.
struct Sm80Part { int32_t block, g[3]; };

template <class T> __device__ __forceinline__ Sm80Part sm80_part(const Sm80Problem<T> &p, int32_t item)
{
    Sm80Part part;
#pragma unroll
    for (int a = 2; a >= 0; a--) {
        part.g[a] = item % p.groups[a];
        item /= p.groups[a];
    }
    part.block = item;
    return part;
}

// Fragments of weights (of NT) of the group before those of an item.
template <class T> __device__ __forceinline__ int32_t sm80_weights_before(const Sm80Problem<T> &p, const Sm80Part &part)
{
    const Sm80Group &d = p.axis[0].group[part.g[0]], &h = p.axis[1].group[part.g[1]], &w = p.axis[2].group[part.g[2]];
    return p.fragments * (part.block * p.pairs[0] * p.pairs[1] * p.pairs[2] + d.base * p.pairs[1] * p.pairs[2] +
                          d.pairs * (h.base * p.pairs[2] + h.pairs * w.base));
}

template <class C>
__device__ __forceinline__ void sm80_stage_weights(const Sm80Problem<typename C::T> &p, int32_t g, int32_t before,
                                                   int32_t count)
{
    typedef typename C::Weight Weight;
    const Weight *from = (const Weight *)p.weights + 32 * C::NT *
        ((int64_t)g * p.blocks * p.pairs[0] * p.pairs[1] * p.pairs[2] * p.fragments + before);
    unsigned char *to = halo_shared + p.weights_at;
    const int32_t bytes = count * 32 * C::NT * (int32_t)sizeof(Weight);
    for (int32_t i = threadIdx.x * 16; i < bytes; i += SM80_THREADS * 16)
        stage_vector((float *)(to + i), (const float *)((const char *)from + i));
}

// Zeros in the channels that fill up a fragment's depth.
template <class C> __device__ __forceinline__ void sm80_fill(const Sm80Problem<typename C::T> &p, int32_t count,
                                                             typename C::A *to)
{
    int32_t padded = (count + p.depth - 1) / p.depth * p.depth;
    for (int32_t i = count * p.h.s.plane + threadIdx.x; i < padded * p.h.s.plane; i += SM80_THREADS) to[i] = 0;
}

template <class C>
__device__ __forceinline__ void sm80_stage(const Sm80Problem<typename C::T> &p, const HaloBlock &b, int32_t chunk)
{
    typename C::A *to = (typename C::A *)halo_shared + (chunk & 1) * p.h.s.stage;
    int32_t ic = chunk * p.h.s.chunk, count = min(p.h.s.chunk, p.h.in_group - ic);
    halo_stage_x<typename C::T, typename C::A, SM80_THREADS>(p.h, b, ic, count, to);
    sm80_fill<C>(p, count, to);
}

template <class C>
__global__ void __launch_bounds__(SM80_THREADS, C::Blocks)
sm80_kernel(const __grid_constant__ Sm80Problem<typename C::T> p)
{
    typedef typename C::T T;
    constexpr int size = sizeof(typename C::A);
    const HaloShape &s = p.h.s;
    const int32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int32_t item_warp = warp % p.item_warps, position_warp = warp / p.item_warps;
    HaloBlock b;
    uint32_t index = blockIdx.x, next = index / p.item_ranges;
    const int32_t first_item = (int32_t)(index - next * p.item_ranges) * p.item_step;
    index = next;
    next = p.h.by_groups.split(index);
    b.g = (int32_t)index;
    for (int a = 2; a >= 0; a--) {
        index = next;
        next = p.h.by_tiles[a].split(index);
        b.q[a] = s.first[a] + (int32_t)index * s.tile[a];
    }
    b.n = next;
    b.phase = b.channel_block = 0;
    const int32_t weights_before = sm80_weights_before(p, sm80_part(p, first_item));
    if (p.weights_at) {
        const int32_t last = min(first_item + p.item_step, p.items);
        const int32_t end = last < p.items ? sm80_weights_before(p, sm80_part(p, last))
                                           : p.blocks * p.fragments * p.pairs[0] * p.pairs[1] * p.pairs[2];
        sm80_stage_weights<C>(p, b.g, weights_before, end - weights_before);
    }
    sm80_stage<C>(p, b, 0);
    for (int32_t local = item_warp; local - item_warp < p.item_step; local += p.item_warps) {
        const bool active = local < p.item_step && first_item + local < p.items;
        const Sm80Part part = sm80_part(p, active ? first_item + local : 0);
        const Sm80Group group[3] = {p.axis[0].group[part.g[0]], p.axis[1].group[part.g[1]],
                                    p.axis[2].group[part.g[2]]};
        const int32_t pairs = group[0].pairs * group[1].pairs * group[2].pairs;
        const int32_t before = sm80_weights_before(p, part);
        const typename C::Weight *weights = lane +
            (p.weights_at ? (const typename C::Weight *)(halo_shared + p.weights_at) +
                            32 * C::NT * (before - weights_before)
                          : (const typename C::Weight *)p.weights + 32 * C::NT *
                            ((int64_t)b.g * p.blocks * p.pairs[0] * p.pairs[1] * p.pairs[2] * p.fragments + before));
        Sm80Item item;
        item.o[0] = p.h.axis[0].stride * (b.q[0] - s.first[0]) + part.g[0] * C::FusedD;
        item.o[1] = p.h.axis[1].stride * (b.q[1] - s.first[1]) + part.g[1] * C::FusedH;
        item.o[2] = p.h.axis[2].stride * (b.q[2] - s.first[2]) + part.g[2] * C::FusedW;
        item.oc = part.block * C::NT * 8;
        item.g = b.g;
        item.n = b.n;
        item.offset = b.n * p.h.y_stride[0] + ((int64_t)b.g * p.h.out_group + item.oc) * p.h.y_stride[1] +
                      item.o[0] * p.h.y_stride[2] + item.o[1] * p.h.y_stride[3] + item.o[2] * p.h.y_stride[4];
        for (int32_t round = 0; round < p.rounds; round++) {
            const int32_t first_slot = (round * (SM80_WARPS / p.item_warps) + position_warp) * SM80_ROWS;
            const typename C::Weight *w = weights;
            int32_t row[C::M][2];
#pragma unroll
            for (int i = 0; i < 2 * C::M; i++) {
                HaloColumn q = halo_column(p.h, first_slot + lane / 4 + i * 8);
                int32_t at = q.d < s.tile[0] ? (q.d * s.extent[1] + q.h) * s.pitch + q.w : 0;
                row[i / 2][i % 2] = (at + lane % 4 * s.plane) * size;
            }
            Sm80Sum<C> sum = {};
            for (int32_t chunk = 0; chunk < s.chunks; chunk++) {
                if (round == 0 && local == item_warp) {     // streaming has one round of items
                    stage_wait();
                    __syncthreads();
                    if (chunk + 1 < s.chunks) sm80_stage<C>(p, b, chunk + 1);
                }
                const int32_t count = (min(s.chunk, p.h.in_group - chunk * s.chunk) + p.depth - 1) / p.depth;
                if (active && pairs > 0) {
                    sm80_multiply<C>(p, group, count, w, row, sum);
                    w += (int64_t)count * pairs * C::NT * 32;
                }
#pragma unroll
                for (int i = 0; i < 2 * C::M; i++)
                    row[i / 2][i % 2] += (s.chunks > 1 ? (chunk & 1 ? -1 : 1) * s.stage * size : 0);
            }
            if constexpr (C::Lists) { if (active) sm80_store_list<C>(p, item, first_slot, sum); }
            else if (active) sm80_store<C>(p, item, first_slot, sum);
        }
    }
}

// ---- packing ----

template <class T> struct Sm80Packing {
    const T *w;
    void *weights;
    T *copy;                            // of w as it came, where the pack outlives it
    Sm80Pair pair[3][64];
    int32_t pairs[3], kernel[3], groups_blocks, blocks, fragments, depth, paired, in_group, out_group, taps;
    int64_t lanes, elements;
};
static_assert(sizeof(Sm80Packing<float>) <= 4096, "a kernel's parameters");

template <class C> __global__ void __launch_bounds__(SM80_THREADS)
sm80_pack_kernel(const __grid_constant__ Sm80Packing<typename C::T> p)
{
    typedef typename C::A A;
    const int64_t threads = (int64_t)gridDim.x * SM80_THREADS, all = (int64_t)p.pairs[0] * p.pairs[1] * p.pairs[2];
    if (p.copy)
        for (int64_t i = (int64_t)blockIdx.x * SM80_THREADS + threadIdx.x; i < p.elements; i += threads)
            p.copy[i] = p.w[i];
    for (int64_t i = (int64_t)blockIdx.x * SM80_THREADS + threadIdx.x; i < p.lanes; i += threads) {
        const int32_t lane = (int32_t)(i % 32);
        int64_t rest = i / 32;
        const int32_t l = (int32_t)(rest % p.pairs[2]);
        rest /= p.pairs[2];
        const int32_t h = (int32_t)(rest % p.pairs[1]);
        rest /= p.pairs[1];
        const int32_t d = (int32_t)(rest % p.pairs[0]);
        rest /= p.pairs[0];
        const int32_t n = (int32_t)(rest % C::NT);
        rest /= C::NT;
        const int32_t f = (int32_t)(rest % p.fragments), block = (int32_t)(rest / p.fragments);
        const Sm80Pair &pd = p.pair[0][d], &ph = p.pair[1][h], &pl = p.pair[2][l];
        const int64_t before = (int64_t)pd.base * p.pairs[1] * p.pairs[2] +
                               pd.pairs * (ph.base * p.pairs[2] + ph.pairs * pl.base);
        const int32_t pairs = pd.pairs * ph.pairs * pl.pairs;
        const int32_t rank = pd.before * ph.pairs * pl.pairs +
                             pd.count * (ph.before * pl.pairs + ph.count * pl.before) +
                             (pd.rank * ph.count + ph.rank) * pl.count + pl.rank;
        const int64_t at = ((block * all + before) * p.fragments + (int64_t)f * pairs + rank) * C::NT + n;
        const int32_t g = block / p.blocks, oc = (block - g * p.blocks) * C::NT * 8 + n * 8 + lane / 4;
        A v[2] = {0, 0};
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int32_t ic = f * p.depth + lane % 4 + (p.paired ? 0 : part * 4), kw = pl.k[p.paired ? part : 0];
            if (ic >= p.in_group || oc >= p.out_group || kw < 0) continue;
            const int64_t tap = ((int64_t)pd.k[0] * p.kernel[1] + ph.k[0]) * p.kernel[2] + kw;
            v[part] = Number<typename C::T>::widen(
                p.w[(((int64_t)g * p.in_group + ic) * p.out_group + oc) * p.taps + tap]);
        }
        ((typename C::Weight *)p.weights)[at * 32 + lane] = sm80_weight<C::Mode>(v[0], v[1]);
    }
}

// Fragments of weights; some more are read, and not used, at the end of a walk.
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

// ---- running ----

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
