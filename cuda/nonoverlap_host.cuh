// sm80_nonoverlap on the host: tiles and slices of w, chosen by an estimate of seconds, the launch of nonoverlap.cuh, and
// the row of the table of kernels.
#pragma once

#if CONVT3D__PART(3)

namespace convt3d_cuda {

struct NonoverlapTiling {
    int rows, positions, slices_of_group, stages;
    int64_t shared, tiles, blocks;
    double seconds;
};

static inline int64_t nonoverlap_positions(const convt3d__plan *plan)
{
    return plan->desc.batch * plan->axis[0].in * plan->axis[1].in * plan->axis[2].in;
}

static inline bool nonoverlap_channels_last(const convt3d__plan *plan)
{
    return plan->desc.y_stride[1] == 1 && plan->desc.out_channels > 1 && plan->desc.y_stride[4] != 1;
}

// Rows of the GEMM of one group, those that only pad included.
static inline int64_t nonoverlap_rows(const convt3d__plan *plan)
{
    if (nonoverlap_channels_last(plan)) return plan->out_group * plan->taps;
    int64_t lines = plan->out_group * plan->axis[0].kernel * plan->axis[1].kernel;
    return convt3d__ceil_div(lines, 8) * 8 * plan->axis[2].kernel;
}

// Shared memory that a block may have.
static inline int64_t nonoverlap_room(const convt3d__plan *plan)
{
    if (plan->cuda_arch >= 120) return 99 * 1024;
    if (plan->cuda_arch >= 90) return 227 * 1024;
    return plan->cuda_arch == 80 || plan->cuda_arch == 87 ? 163 * 1024 : 99 * 1024;
}

// Seconds by the slowest of: the busiest block's products (7e11 a second are seen on an H200), its conversions of x
// (7e9 elements of 32 bits), all bytes; and what comes before.
template <class Mode, class Tile> bool nonoverlap_tiling(const convt3d__plan *plan, NonoverlapTiling *best)
{
    NonoverlapTiling t = {};
    int64_t rows = nonoverlap_rows(plan), k = convt3d__ceil_div(plan->in_group, 16) * 16, room = nonoverlap_room(plan);
    int64_t element = convt3d__element_size(plan->desc.dtype), multiprocessors = convt3d__max(plan->multiprocessors, 1);
    for (t.stages = NONOVERLAP_MOST_STAGES; t.stages >= 2; t.stages--)
        if ((t.shared = NonoverlapShared<Mode, Tile>((int)plan->in_group, t.stages).total) <= room) break;
    if (t.stages < 2) return false;
    t.rows = Tile::Rows;
    t.positions = Tile::Positions;
    t.slices_of_group = (int)convt3d__ceil_div(rows, Tile::Rows);
    t.tiles = convt3d__ceil_div(nonoverlap_positions(plan), Tile::Positions);
    int64_t slices = t.slices_of_group * plan->desc.groups;
    int64_t sharing = convt3d__max(1, convt3d__min(t.tiles, multiprocessors / slices));
    t.blocks = convt3d__min(slices, multiprocessors) * sharing;
    double turns = slices > multiprocessors ? (double)convt3d__ceil_div(slices, multiprocessors) : 1;
    double tiles = turns * (double)convt3d__ceil_div(t.tiles, sharing);
    double products = tiles * Tile::Rows * Tile::Positions * (double)k * (Mode::Parts == 2 ? 3 : 1) / 0.7e12;
    double converted = tiles * Tile::Positions * (double)k / (element == 4 ? 7e9 : 12e9);
    double memory = (double)(plan->x_count + plan->w_count) * (double)element / 3.7e12;
    memory += (double)plan->y_count * (double)convt3d__element_size(plan->stored) / 3.7e12;
    t.seconds = products > converted ? products : converted;
    if (memory > t.seconds) t.seconds = memory;
    t.seconds += 4e-6 + 0.3 * converted +
                 turns * 2e-6 * (double)convt3d__ceil_div(Tile::Rows * k, 64 * 32 * Tile::Consumers);
    if (best->blocks == 0 || t.seconds < best->seconds) *best = t;
    return true;
}

}

#include "nonoverlap_f64.cuh"

namespace convt3d_cuda {

// The tiles there are: many rows; fewer, for many channels; few rows, so that a small problem fills the card.
typedef NonoverlapTile<2, 4, 8, 1> NonoverlapTall;
typedef NonoverlapTile<2, 4, 4, 2> NonoverlapSquare;
typedef NonoverlapTile<2, 4, 3, 2> NonoverlapDeep;
typedef NonoverlapTile<1, 1, 2, 4> NonoverlapSmall;

template <class Mode, class Tile, bool ChannelsLast, bool Lists> struct NonoverlapKernel {
    typedef typename Mode::T T;
    static auto *function() { return nonoverlap_kernel<Mode, Tile, ChannelsLast, Lists>; }
    static int threads() { return Tile::Threads; }
    static bool tiling(const convt3d__plan *plan, NonoverlapTiling *best)
    {
        return nonoverlap_tiling<Mode, Tile>(plan, best);
    }
};

static inline bool nonoverlap_lists(const convt3d__plan *plan)
{
    return plan->fused > 0 || plan->stored != plan->desc.dtype;
}

// Instances that apply a list: the two of these tiles that between them serve all, for the compiler's sake.
template <class Mode, bool ChannelsLast, class Act>
auto nonoverlap_tile(const convt3d__plan *plan, int tile, Act act)
{
    if (nonoverlap_lists(plan)) {
        if (tile == 2) return act(NonoverlapKernel<Mode, NonoverlapDeep, ChannelsLast, true>());
        return act(NonoverlapKernel<Mode, NonoverlapSmall, ChannelsLast, true>());
    }
    switch (tile) {
    case 0:  return act(NonoverlapKernel<Mode, NonoverlapTall, ChannelsLast, false>());
    case 1:  return act(NonoverlapKernel<Mode, NonoverlapSquare, ChannelsLast, false>());
    case 2:  return act(NonoverlapKernel<Mode, NonoverlapDeep, ChannelsLast, false>());
    default: return act(NonoverlapKernel<Mode, NonoverlapSmall, ChannelsLast, false>());
    }
}

template <int RowWarps, bool ChannelsLast, bool Lists> struct NonoverlapF64Kernel {
    typedef double T;
    typedef NonoverlapF64Shared<RowWarps> Shared;
    static auto *function() { return nonoverlap_f64_kernel<RowWarps, ChannelsLast, Lists>; }
    static int threads() { return 64 * RowWarps; }
    // Seconds at 190e9 products a second of a multiprocessor, or by the bytes.
    static bool tiling(const convt3d__plan *plan, NonoverlapTiling *best)
    {
        NonoverlapTiling t = {};
        int64_t blocks_at_once = NONOVERLAP_F64_BLOCKS, room = nonoverlap_room(plan) / blocks_at_once - 1024;
        int64_t multiprocessors = convt3d__max(plan->multiprocessors, 1);
        for (t.stages = 4; t.stages >= 2; t.stages--)
            if ((t.shared = Shared((int)convt3d__min(plan->in_group, 1024), t.stages).total) <= room) break;
        if (t.stages < 2) {
            t.stages = 2;
            if (t.shared > nonoverlap_room(plan)) return false;
        }
        t.rows = Shared::Rows;
        t.slices_of_group = (int)convt3d__ceil_div(nonoverlap_rows(plan), Shared::Rows);
        t.tiles = convt3d__ceil_div(nonoverlap_positions(plan), NONOVERLAP_F64_POSITIONS);
        int64_t slices = t.slices_of_group * plan->desc.groups;
        int64_t lanes = convt3d__max(1, convt3d__min(t.tiles, multiprocessors * blocks_at_once / slices));
        t.blocks = slices * lanes;
        double turns = (double)convt3d__ceil_div(t.blocks, multiprocessors * blocks_at_once);
        double chunks = (double)convt3d__ceil_div(plan->in_group, NONOVERLAP_F64_DEPTH);
        double steps = turns * (double)convt3d__ceil_div(t.tiles, lanes) * chunks;      // of a block
        double together = t.blocks < multiprocessors * blocks_at_once
                              ? (double)convt3d__ceil_div(t.blocks, multiprocessors) : (double)blocks_at_once;
        double step = Shared::Rows * NONOVERLAP_F64_POSITIONS * NONOVERLAP_F64_DEPTH / 190e9 * together;
        double moved = (double)(plan->x_count + plan->w_count + plan->y_count) * 8 / 3.5e12;
        t.seconds = steps * (step > 0.5e-6 ? step : 0.5e-6);
        t.seconds = (t.seconds > moved ? t.seconds : moved) + 5e-6;
        if (best->blocks == 0 || t.seconds < best->seconds) *best = t;
        return t.blocks <= INT32_MAX;
    }
};

// Rows of w of a block, in warps of 32: as many as waste least.
template <bool ChannelsLast, bool Lists, class Act> auto nonoverlap_f64_tile(int tile, Act act)
{
    if (tile == 0) return act(NonoverlapF64Kernel<4, ChannelsLast, Lists>());
    return act(NonoverlapF64Kernel<3, ChannelsLast, Lists>());
}

template <bool ChannelsLast, class Act> auto nonoverlap_mode(const convt3d__plan *plan, int tile, Act act)
{
    if (plan->desc.dtype == CONVT3D_F64)
        return nonoverlap_lists(plan) ? nonoverlap_f64_tile<ChannelsLast, true>(tile, act)
                                      : nonoverlap_f64_tile<ChannelsLast, false>(tile, act);
    if (plan->desc.dtype == CONVT3D_F16) return nonoverlap_tile<NonoverlapF16, ChannelsLast>(plan, tile, act);
    if (plan->desc.dtype == CONVT3D_BF16) return nonoverlap_tile<NonoverlapBf16, ChannelsLast>(plan, tile, act);
    bool brief = plan->in_group <= NONOVERLAP_CHUNK;
    if (plan->desc.math == CONVT3D_TF32)
        return brief ? nonoverlap_tile<NonoverlapTf32Short, ChannelsLast>(plan, tile, act)
                     : nonoverlap_tile<NonoverlapTf32, ChannelsLast>(plan, tile, act);
    return brief ? nonoverlap_tile<NonoverlapF32Short, ChannelsLast>(plan, tile, act)
                 : nonoverlap_tile<NonoverlapF32, ChannelsLast>(plan, tile, act);
}

// Calls act(kernel) for the kernel of the plan with the given tile: the one place where the instances are listed.
template <class Act> auto nonoverlap_instance(const convt3d__plan *plan, int tile, Act act)
{
    return nonoverlap_channels_last(plan) ? nonoverlap_mode<true>(plan, tile, act)
                                          : nonoverlap_mode<false>(plan, tile, act);
}

enum { NONOVERLAP_TILES = 4 };

// In plan->state.
enum { NONOVERLAP_TILE, NONOVERLAP_BLOCKS, NONOVERLAP_STAGES, NONOVERLAP_SHARED, NONOVERLAP_SLICES_OF_GROUP,
       NONOVERLAP_TILE_COUNT, NONOVERLAP_PICOSECONDS };

static NonoverlapProblem nonoverlap_problem(const convt3d__plan *plan, const convt3d_io *io)
{
    NonoverlapProblem p = {};
    const convt3d_desc &d = plan->desc;
    int64_t element = convt3d__element_size(d.dtype), wide = 16 / element, in = 1;
    bool channels_last = nonoverlap_channels_last(plan);
    p.x = io->x;  p.w = io->w_packed ? io->w_packed : io->w;  p.bias = io->bias;  p.y = io->y;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        p.in[a] = (int32_t)axis.in;  p.out[a] = (int32_t)axis.out;  p.kernel[a] = (int32_t)axis.kernel;
        p.stride[a] = (int32_t)axis.stride;  p.padding[a] = (int32_t)axis.padding;
        int64_t last = (axis.in - 1) * axis.stride - axis.padding + axis.kernel - 1;
        if (axis.padding > 0 || last >= axis.out) p.cropped = 1;
        if (axis.padding < 0 || last < axis.out - 1 || axis.kernel < axis.stride) p.fill = 1;
        p.by_in[a] = fixed_divisor(axis.in);
        in *= axis.in;
    }
    p.by_plane = fixed_divisor(in);
    if (d.x_stride[3] == d.x_stride[4] * p.in[2] && d.x_stride[2] == d.x_stride[3] * p.in[1])
        p.x_positions = d.x_stride[4];
    p.batch = (int32_t)d.batch;
    p.positions = (int32_t)(in * d.batch);
    p.tiles = (int32_t)plan->state[NONOVERLAP_TILE_COUNT];
    p.in_group = (int32_t)plan->in_group;  p.out_group = (int32_t)plan->out_group;  p.groups = (int32_t)d.groups;
    p.taps = (int32_t)plan->taps;
    p.columns = p.out_group * p.taps;
    p.slices_of_group = (int32_t)plan->state[NONOVERLAP_SLICES_OF_GROUP];
    p.slices = p.slices_of_group * p.groups;
    p.blocks_of_slice = (int32_t)convt3d__max(1, plan->state[NONOVERLAP_BLOCKS] / p.slices);
    p.stages = (int32_t)plan->state[NONOVERLAP_STAGES];
    p.chunks = (int32_t)convt3d__ceil_div(plan->in_group, NONOVERLAP_CHUNK);
    p.wide = plan->stored != d.dtype;
    bool wide_pieces = (uintptr_t)io->x % 16 == 0, four_positions = (uintptr_t)io->x % (uintptr_t)(4 * element) == 0;
    for (int i = 0; i < 5; i++) {
        if (i != 1 && d.x_stride[i] % wide != 0) wide_pieces = false;
        if (i < 2 && d.x_stride[i] % 4 != 0) four_positions = false;
    }
    if (d.x_stride[1] == 1 && p.in_group % wide == 0 && wide_pieces) p.loads = NONOVERLAP_CHANNELS;
    else if (p.x_positions == 1 && in % 4 == 0 && four_positions) p.loads = NONOVERLAP_POSITIONS;
    bool rows4 = d.y_stride[0] % 4 == 0 && d.y_stride[2] % 4 == 0 && d.y_stride[3] % 4 == 0 &&
                 (uintptr_t)io->y % (uintptr_t)(4 * element) == 0 && !p.cropped;
    if (channels_last) p.quads = rows4 && d.y_stride[4] % 4 == 0 && p.out_group % 4 == 0 ? 8 : 0;
    else if (rows4 && d.y_stride[1] % 4 == 0 && d.y_stride[4] == 1 && p.stride[2] == p.kernel[2] &&
             (p.kernel[2] == 1 || p.kernel[2] == 2 || p.kernel[2] == 4) && p.padding[2] % 4 == 0)
        p.quads = p.kernel[2];
    // Four taps are two row tiles of a warp: the smallest has one.
    if (!channels_last && p.quads == 4 && d.dtype != CONVT3D_F64 && plan->state[NONOVERLAP_TILE] == 3) p.quads = 0;
    float most = 2.0f / (float)(plan->in_group + 4);        // both operands together lose a quarter of the bound
    p.keep = d.math == CONVT3D_TF32 ? 1.0f / 16384 : most;
    return p;
}

// Whether this build has the code for the card: a kernel compiled for less than sm_80 is empty.
template <class Function> bool nonoverlap_compiled(const convt3d__plan *plan, Function *function)
{
    cudaFuncAttributes attributes;
    if (plan->cuda_device < 0) return true;
    if (cudaFuncGetAttributes(&attributes, (const void *)function) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return attributes.ptxVersion >= 80;
}

}

extern "C" int32_t convt3d__nonoverlap_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    NonoverlapTiling best = {};
    int chosen = -1;
    if (plan->cuda_arch < 80) return convt3d__refuse(why, "needs sm_80 or later");
    for (int a = 0; a < 3; a++) {
        if (plan->axis[a].dilation != 1 && plan->axis[a].kernel > 1)
            return convt3d__refuse(why, "needs dilation 1");
        if (plan->axis[a].kernel > plan->axis[a].stride) return convt3d__refuse(why, "needs kernel <= stride");
    }
    if (!fits_32_bits(plan) || nonoverlap_positions(plan) > INT32_MAX / 2 ||
        plan->out_group * plan->taps > INT32_MAX / 64 || plan->in_group > 65536 || plan->desc.groups > 65536)
        return convt3d__refuse(why, "needs indices of 32 bits");
    for (int tile = nonoverlap_lists(plan) && plan->desc.dtype != CONVT3D_F64 ? 2 : 0; tile < NONOVERLAP_TILES; tile++)
        nonoverlap_instance(plan, tile, [&](auto kernel) {
            NonoverlapTiling trial = best;
            if (!kernel.tiling(plan, &trial) || (chosen >= 0 && trial.seconds >= best.seconds)) return 0;
            best = trial;
            chosen = tile;
            return 0;
        });
    if (chosen < 0) return convt3d__refuse(why, "too many in_channels for a slice of w in shared memory");
    if (!nonoverlap_instance(plan, chosen, [&](auto kernel) { return nonoverlap_compiled(plan, kernel.function()); }))
        return convt3d__refuse(why, "this build has no code of sm_80 or later for this card");
    plan->state[NONOVERLAP_TILE] = chosen;
    plan->state[NONOVERLAP_BLOCKS] = convt3d__max(best.blocks, 1);
    plan->state[NONOVERLAP_STAGES] = best.stages;
    plan->state[NONOVERLAP_SHARED] = best.shared;
    plan->state[NONOVERLAP_SLICES_OF_GROUP] = best.slices_of_group;
    plan->state[NONOVERLAP_TILE_COUNT] = best.tiles;
    plan->state[NONOVERLAP_PICOSECONDS] = (int64_t)(best.seconds * 1e12);
    return 0;
}

extern "C" double convt3d__nonoverlap_cost(const convt3d__plan *plan)
{
    return (double)plan->state[convt3d_cuda::NONOVERLAP_PICOSECONDS] * 1e-12;
}

extern "C" int64_t convt3d__nonoverlap_workspace(const convt3d__plan *) { return 0; }

extern "C" convt3d_status convt3d__nonoverlap_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    return nonoverlap_instance(plan, (int)plan->state[NONOVERLAP_TILE], [=](auto kernel) {
        return convt3d__load_kernel(error, plan, kernel.function(), (size_t)plan->state[NONOVERLAP_SHARED]);
    });
}

extern "C" convt3d_status convt3d__nonoverlap_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    NonoverlapProblem p = nonoverlap_problem(plan, io);
    return nonoverlap_instance(plan, (int)plan->state[NONOVERLAP_TILE], [&](auto kernel) {
        return convt3d__launch(error, kernel.function(), dim3((unsigned)plan->state[NONOVERLAP_BLOCKS]),
                               dim3((unsigned)kernel.threads()), (size_t)plan->state[NONOVERLAP_SHARED], io->stream, p,
                               list_of<typename decltype(kernel)::T>(plan, io, 0, plan->fused));
    });
}

#endif
