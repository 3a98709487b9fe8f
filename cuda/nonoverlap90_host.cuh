// sm90_nonoverlap on the host: how a problem becomes a tile, slices of w and launches of nonoverlap_sm90.cuh, by an
// estimate of seconds, and the row of the table of kernels.
#pragma once

#if CONVT3D__PART(4)

namespace convt3d_cuda {

struct Nonoverlap90Choice {
    int tile, rows, lines, groups, pieces, slices, blocks_of_slice, stages, shared, chunks;
    double seconds;
};

static inline int64_t nonoverlap90_positions(const convt3d__plan *plan)
{
    return plan->desc.batch * plan->axis[0].in * plan->axis[1].in * plan->axis[2].in;
}

static inline bool nonoverlap90_channels_last(const convt3d__plan *plan)
{
    return plan->desc.x_stride[1] == 1 && plan->desc.y_stride[1] == 1 && plan->desc.x_stride[4] != 1;
}

// Seconds by the slowest of: products at the rate of wgmma for N columns, a warpgroup's own chain of work, bytes of
// device memory and of L2, which serves every slice; and what comes before.
template <class Mode, class Tile> void nonoverlap90_estimate(const convt3d__plan *plan, Nonoverlap90Choice *c)
{
    const int n = Tile::N;
    double tiles = (double)convt3d__ceil_div(nonoverlap90_positions(plan), Tile::Positions), pieces = c->rows / n;
    double element = (double)convt3d__element_size(plan->desc.dtype), multiprocessors = plan->multiprocessors;
    double channels = (double)c->chunks * Tile::Channels, products = Mode::Parts == 2 ? 3 : 1;
    double turns = (double)convt3d__ceil_div((int64_t)c->slices * c->blocks_of_slice, plan->multiprocessors);
    int64_t left = (int64_t)tiles % c->groups;
    double mine = (double)((int64_t)tiles / c->groups);
    if (left > 0) mine += 1 / (double)convt3d__max(1, convt3d__min(c->pieces, c->groups / left));
    double idle = mine * c->groups / tiles;         // over 1: warpgroups without work at the end
    mine *= turns;
    double cycles = n >= 128 ? n / 2 : 16 + n / 2;                 // of a wgmma, 16 deep
    double unit = pieces * channels / 16 * products * cycles;
    double rest = c->chunks * (200.0 + Tile::Channels * Tile::Positions * (Mode::Scaled ? 8 : 1) / 128.0) +
                  pieces * (c->chunks * (Mode::Parts == 2 ? 300 : 150) + n * 4 + 100);
    if (Tile::Long && c->stages < 2) rest *= 3;     // nothing is loaded ahead
    double busy = unit * Tile::Groups > unit + rest ? unit * Tile::Groups : unit + rest;
    double computed = mine * busy / 1.6e9, memory, cache;
    memory = ((double)plan->x_count + (double)plan->w_count) * element;
    memory = (memory + (double)plan->y_count * (double)convt3d__element_size(plan->stored)) / 3.7e12;
    cache = (double)plan->x_count * (c->slices - 1) * element / 6e12;
    if (Tile::Streams) cache += tiles / Tile::Groups * c->slices * c->rows * channels * 2 / 6e12;
    if (idle > 1.25) idle = 1.25;       // then it is not the bytes that take the time
    memory = (memory + cache) * (1 + idle) / 2;
    if (element == 2 && nonoverlap90_channels_last(plan)) memory *= 1.2;       // stores of 8 bytes: seen
    c->seconds = computed > memory ? computed : memory;
    if (Tile::Long && plan->desc.in_channels <= 64) c->seconds *= 1.1;      // rows in registers are multiplied again
    c->seconds += 5e-6 + turns * (1e-6 + c->rows * channels * 2 * Mode::Parts / 60e9);
}

// Tries every number of slices with the tile, and keeps the cheapest.
template <class Mode, class Tile, int Lists>
void nonoverlap90_try(const convt3d__plan *plan, int tile, Nonoverlap90Choice *best)
{
    const int64_t room = 227 * 1024, in = plan->desc.in_channels, rows = plan->desc.out_channels * plan->taps;
    Nonoverlap90Choice c = {};
    if (!Tile::Long && (in > Tile::Channels || (Tile::Channels > 64 && in <= 64))) return;
    int64_t tiles = convt3d__ceil_div(nonoverlap90_positions(plan), Tile::Positions);
    int64_t width = Tile::Long ? Tile::N * Tile::Pieces : Tile::N, pieces = convt3d__ceil_div(rows, width);
    int64_t most = Tile::Long ? pieces : convt3d__min(pieces, 64);
    c.tile = tile;
    c.chunks = (int)convt3d__ceil_div(in, Tile::Channels);
    for (int64_t slices = Tile::Long ? pieces : 1; slices <= most; slices++) {
        int64_t of_slice = convt3d__ceil_div(pieces, slices) * width;
        const int64_t part = of_slice * c.chunks * Tile::Channels * 2;
        if (part * (Tile::Streams ? 1 : Mode::Parts) > room || (Tile::Streams && part * Mode::Parts <= room)) continue;
        c.rows = (int)of_slice;
        c.slices = (int)convt3d__ceil_div(rows, of_slice);
        c.lines = nonoverlap90_channels_last(plan) ? c.rows : c.rows / (int)plan->axis[2].kernel;
        for (c.stages = Tile::Long ? 3 : 1; c.stages >= 1; c.stages--) {
            c.shared = Nonoverlap90Shared<Mode, Tile, Lists>(c.rows, c.chunks, c.stages, c.lines).total;
            if (c.shared <= room) break;
        }
        if (c.stages < 1) continue;
        c.blocks_of_slice = (int)convt3d__min(convt3d__ceil_div(tiles, Tile::Groups),
                                              convt3d__max(1, plan->multiprocessors / c.slices));
        c.groups = c.blocks_of_slice * Tile::Groups;
        c.pieces = Tile::Long ? 1 : c.rows / Tile::N;       // that warpgroups may share
        nonoverlap90_estimate<Mode, Tile>(plan, &c);
        if (best->rows == 0 || c.seconds < best->seconds) *best = c;
    }
}

template <class Mode, class Tile_, bool ChannelsLast, int Lists> struct Nonoverlap90Kernel {
    typedef Tile_ Tile;
    typedef typename Mode::T T;
    static auto *function() { return nonoverlap90_kernel<Mode, Tile, ChannelsLast, Lists>; }
    static auto *pack_function() { return nonoverlap90_pack_kernel<Mode, Tile, ChannelsLast>; }
    static int64_t slices(const Nonoverlap90Problem &p)         // bytes of them
    {
        return p.slices * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    }
    static bool keeps_w() { return Mode::Scaled; }
    static void attempt(const convt3d__plan *plan, int tile, Nonoverlap90Choice *best)
    {
        nonoverlap90_try<Mode, Tile, Lists>(plan, tile, best);
    }
};

// The tiles there are. What has one part has room for 160 columns; two parts then want a stream.
template <class Mode, bool Last, int Lists, class Act> auto nonoverlap90_tile(int tile, Act act)
{
    enum { One = Mode::Parts == 1, Scaled = Mode::Scaled, More = Scaled || Last ? 3 : 4, Broad = One && !Last,
           Streams = !One && !Last, Wide = One || Streams };
    switch (tile) {
    case 0:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 64, Last ? 4 : 3, 0>, Last, Lists>());
    case 1:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, 64, More, 0>, Last, Lists>());
    case 2:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Broad ? 128 : 64, Broad && Scaled ? 2 : More,
                                                                  Broad ? 1 : 2>, Last, Lists>());
    case 3:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 80, 3, 1>, Last, Lists>());
    case 4:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Wide ? 160 : 80, Wide ? 2 : 3, 1, Streams>, Last,
                                           Lists>());
    case 5:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, One ? 64 : 128, One ? More : 2, 0>, Last,
                                           Lists>());
    default: return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 32, 4, 1>, Last, Lists>());
    }
}

// Those of the instances that apply any list: fewer, for the compiler's sake. In NCDHW nothing of them lies on the
// stack, which is slow where stores fill the way to memory.
template <class Mode, bool Last, class Act> auto nonoverlap90_list_tile(int tile, Act act)
{
    enum { Three = Mode::Parts == 1 || Last };
    switch (tile) {
    case 0:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 64, Last ? 4 : 3, 0>, Last, WHOLE_LIST>());
    case 1:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, 64, Three ? 3 : 2, 0>, Last, WHOLE_LIST>());
    case 2:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Last ? 64 : 128, Last ? 3 : 2, Last ? 2 : 1>,
                                           Last, WHOLE_LIST>());
    default: return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 32, 4, 1>, Last, WHOLE_LIST>());
    }
}

// What of a list the plan wants applied. f32 stores for 16-bit elements, and light lists in NDHWC, are left to the
// instances of all lists.
static inline int nonoverlap90_lists(const convt3d__plan *plan)
{
    const convt3d_io none = {};
    if (plan->stored != plan->desc.dtype) return WHOLE_LIST;
    const ListForm form = form_of(list_of<float>(plan, &none, 0, plan->fused));
    return form == LIGHT_LIST && nonoverlap90_channels_last(plan) ? WHOLE_LIST : form;
}

enum { NONOVERLAP90_TILES = 7 };

static inline bool nonoverlap90_has_tile(const convt3d__plan *plan, int tile)
{
    return nonoverlap90_lists(plan) != WHOLE_LIST || tile < 3 || tile == NONOVERLAP90_TILES - 1;
}

template <class Mode, bool ChannelsLast, class Act>
auto nonoverlap90_list(const convt3d__plan *plan, int tile, Act act)
{
    const int lists = nonoverlap90_lists(plan);
    if (lists == NO_LIST) return nonoverlap90_tile<Mode, ChannelsLast, NO_LIST>(tile, act);
    if constexpr (!ChannelsLast)
        if (lists == LIGHT_LIST) return nonoverlap90_tile<Mode, ChannelsLast, LIGHT_LIST>(tile, act);
    return nonoverlap90_list_tile<Mode, ChannelsLast>(tile, act);
}

// Calls act(kernel) for the kernel of the plan with the given tile: the one place where the instances are listed.
template <bool ChannelsLast, class Act> auto nonoverlap90_mode(const convt3d__plan *plan, int tile, Act act)
{
    if (plan->desc.dtype == CONVT3D_F16) return nonoverlap90_list<Nonoverlap90F16, ChannelsLast>(plan, tile, act);
    if (plan->desc.dtype == CONVT3D_BF16) return nonoverlap90_list<Nonoverlap90Bf16, ChannelsLast>(plan, tile, act);
    if (plan->desc.math == CONVT3D_TF32) return nonoverlap90_list<Nonoverlap90Tf32, ChannelsLast>(plan, tile, act);
    return nonoverlap90_list<Nonoverlap90F32, ChannelsLast>(plan, tile, act);
}

template <class Act> auto nonoverlap90_instance(const convt3d__plan *plan, int tile, Act act)
{
    return nonoverlap90_channels_last(plan) ? nonoverlap90_mode<true>(plan, tile, act)
                                            : nonoverlap90_mode<false>(plan, tile, act);
}

// In plan->state.
enum { NONOVERLAP90_TILE, NONOVERLAP90_ROWS, NONOVERLAP90_SLICES, NONOVERLAP90_BLOCKS_OF_SLICE, NONOVERLAP90_STAGES,
       NONOVERLAP90_SHARED, NONOVERLAP90_CHUNKS, NONOVERLAP90_LINES, NONOVERLAP90_GROUPS,
       NONOVERLAP90_PIECES, NONOVERLAP90_PICOSECONDS };

// Whether strides 0 ... last are multiples of `of`, that of the channels aside.
static bool nonoverlap90_multiples(const int64_t *stride, int last, int64_t of)
{
    for (int i = 0; i <= last; i++)
        if (i != 1 && stride[i] % of != 0) return false;
    return true;
}

// Neighbours in y of (kw, oc), channels last: those of all taps along W where y is dense there.
static int64_t nonoverlap90_run_length(const convt3d__plan *plan)
{
    int64_t channels = plan->desc.out_channels;
    return plan->desc.y_stride[4] == channels ? channels * plan->axis[2].kernel : channels;
}

// Whether whole pieces of x and of y can be moved at once, if the pointers allow it.
static bool nonoverlap90_aligned(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    int64_t kernel = plan->axis[2].kernel, wide = 16 / convt3d__element_size(d.dtype);
    int64_t together = kernel == 4 ? wide : kernel * 2;
    if (nonoverlap90_channels_last(plan))
        return d.in_channels % wide == 0 && nonoverlap90_multiples(d.x_stride, 4, wide) &&
               nonoverlap90_multiples(d.y_stride, 3, 4) && d.y_stride[4] * kernel % 4 == 0;
    bool line = d.x_stride[3] == plan->axis[2].in && d.x_stride[2] == plan->axis[1].in * d.x_stride[3];
    int64_t in_a_row = line ? plan->axis[0].in * d.x_stride[2] : plan->axis[2].in;      // positions
    return d.x_stride[4] == 1 && plan->axis[2].in % 2 == 0 && in_a_row % wide == 0 && d.x_stride[0] % wide == 0 &&
           d.x_stride[1] % wide == 0 && (line || nonoverlap90_multiples(d.x_stride, 3, wide)) &&
           nonoverlap90_multiples(d.y_stride, 3, together) && d.y_stride[1] % together == 0;
}

static Nonoverlap90Problem nonoverlap90_problem(const convt3d__plan *plan)
{
    Nonoverlap90Problem p = {};
    const convt3d_desc &d = plan->desc;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    for (int a = 0; a < 3; a++) {
        p.in[a] = (int32_t)plan->axis[a].in;
        p.kernel[a] = (int32_t)plan->axis[a].kernel;
        p.by_in[a] = fixed_divisor(plan->axis[a].in);
    }
    p.positions = (int32_t)nonoverlap90_positions(plan);
    p.tiles = (int32_t)convt3d__ceil_div(p.positions, 64);
    p.in_channels = (int32_t)d.in_channels;  p.out_channels = (int32_t)d.out_channels;
    p.taps = (int32_t)plan->taps;
    p.columns = p.out_channels * p.taps;
    p.rows = (int32_t)plan->state[NONOVERLAP90_ROWS];
    p.slices = (int32_t)plan->state[NONOVERLAP90_SLICES];
    p.blocks_of_slice = (int32_t)plan->state[NONOVERLAP90_BLOCKS_OF_SLICE];
    p.chunks = (int32_t)plan->state[NONOVERLAP90_CHUNKS];
    p.stages = (int32_t)plan->state[NONOVERLAP90_STAGES];
    p.lines = (int32_t)plan->state[NONOVERLAP90_LINES];
    int32_t groups = (int32_t)plan->state[NONOVERLAP90_GROUPS], pieces = (int32_t)plan->state[NONOVERLAP90_PIECES];
    p.rounds = p.tiles / groups;
    p.left = p.tiles % groups;
    p.shares = (int32_t)convt3d__max(1, p.left > 0 ? convt3d__min(pieces, groups / p.left) : 1);
    if (p.left == 0) p.left = 1, p.shares = 0;
    p.keep = 1.0f / 16384;
    const convt3d_io none = {};
    const Common<float> common = list_of<float>(plan, &none, 0, plan->fused).common;
    p.function = common.kind;
    p.slope = common.a;
    p.least = common.kind == CONVT3D_OP_CLAMP ? common.a : common.kind == CONVT3D_OP_RELU ? 0 : -INFINITY;
    p.most = common.kind == CONVT3D_OP_CLAMP ? common.b : INFINITY;
    return p;
}

}

extern "C" int32_t convt3d__nonoverlap90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    Nonoverlap90Choice best = {};
    const convt3d_desc &d = plan->desc;
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs an sm_90 card and sm_90a code");
    if (d.dtype == CONVT3D_F64) return convt3d__refuse(why, "not for f64");
    if (d.groups != 1) return convt3d__refuse(why, "needs one group");
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel != axis.stride || (axis.dilation != 1 && axis.kernel > 1))
            return convt3d__refuse(why, "needs kernel == stride, dilation 1");
        if (axis.padding != 0 || axis.out != axis.in * axis.stride)
            return convt3d__refuse(why, "needs padding 0 and the whole output");
    }
    if (!fits_32_bits(plan) || nonoverlap90_positions(plan) > INT32_MAX / 2 ||
        d.out_channels * plan->taps > INT32_MAX / 64 || d.in_channels > 65536)
        return convt3d__refuse(why, "needs indices of 32 bits");
    if (nonoverlap90_positions(plan) == 0) return convt3d__refuse(why, "nothing to compute");
    int64_t kernel = plan->axis[2].kernel, reach = (d.out_channels - 1) * d.y_stride[1];
    for (int a = 0; a < 3; a++) reach += (plan->axis[a].kernel - 1) * d.y_stride[2 + a];
    if (reach > INT32_MAX) return convt3d__refuse(why, "needs offsets of 32 bits inside a sample");
    if (nonoverlap90_channels_last(plan) != (d.layout == CONVT3D_NDHWC))
        return convt3d__refuse(why, "needs x and y to lie as their layout says");
    if (nonoverlap90_channels_last(plan)) {
        if (nonoverlap90_run_length(plan) % 4 != 0 ||
            (d.y_stride[4] % 4 != 0 && kernel > 1 && d.y_stride[4] != d.out_channels))
            return convt3d__refuse(why, "needs channels of y in fours");
    } else if (d.y_stride[4] != 1 || (kernel != 1 && kernel != 2 && kernel != 4))
        return convt3d__refuse(why, "needs W or channels innermost in y, kernel 1, 2 or 4 along W");
    for (int tile = 0; tile < NONOVERLAP90_TILES; tile++)
        if (nonoverlap90_has_tile(plan, tile))
            nonoverlap90_instance(plan, tile, [&](auto kernel) { kernel.attempt(plan, tile, &best); });
    if (best.rows == 0) return convt3d__refuse(why, "too many in_channels for rows of w in shared memory");
    plan->state[NONOVERLAP90_TILE] = best.tile;
    plan->state[NONOVERLAP90_ROWS] = best.rows;
    plan->state[NONOVERLAP90_SLICES] = best.slices;
    plan->state[NONOVERLAP90_BLOCKS_OF_SLICE] = best.blocks_of_slice;
    plan->state[NONOVERLAP90_STAGES] = best.stages;
    plan->state[NONOVERLAP90_SHARED] = best.shared;
    plan->state[NONOVERLAP90_CHUNKS] = best.chunks;
    plan->state[NONOVERLAP90_LINES] = best.lines;
    plan->state[NONOVERLAP90_GROUPS] = best.groups;
    plan->state[NONOVERLAP90_PIECES] = best.pieces;
    plan->pack_variant = (uint64_t)best.tile << 32 | (uint64_t)(best.rows * 2 + nonoverlap90_channels_last(plan));
    plan->state[NONOVERLAP90_PICOSECONDS] = (int64_t)(best.seconds * (nonoverlap90_aligned(plan) ? 1e12 : 4e12));
    return 0;
}

extern "C" double convt3d__nonoverlap90_cost(const convt3d__plan *plan)
{
    return (double)plan->state[convt3d_cuda::NONOVERLAP90_PICOSECONDS] * 1e-12;
}

extern "C" int64_t convt3d__nonoverlap90_packed(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        return kernel.slices(p) + (kernel.keeps_w() ? plan->w_count * 4 : 0);
    });
}

extern "C" int64_t convt3d__nonoverlap90_workspace(const convt3d__plan *plan)
{
    return convt3d__nonoverlap90_packed(plan);
}

extern "C" convt3d_status convt3d__nonoverlap90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [=](auto kernel) {
        convt3d_status status = convt3d__load_kernel(error, plan, kernel.pack_function(), 0);
        if (status != CONVT3D_OK) return status;
        return convt3d__load_kernel(error, plan, kernel.function(), (size_t)plan->state[NONOVERLAP90_SHARED]);
    });
}

// Packs w; `keep` says that the pack must do without it.
static convt3d_status nonoverlap90_launch_pack(const convt3d__plan *plan, const void *w, void *packed, bool keep,
                                               void *stream, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    p.w = w;
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        unsigned char *to = (unsigned char *)packed, *copy = keep && kernel.keeps_w() ? to + kernel.slices(p) : NULL;
        unsigned blocks = (unsigned)(p.slices * (p.rows / NONOVERLAP90_PACK_ROWS));
        return convt3d__launch(error, kernel.pack_function(), dim3(blocks), dim3(NONOVERLAP90_PACK_THREADS), 0, stream,
                               p, to, (void *)copy);
    });
}

extern "C" convt3d_status convt3d__nonoverlap90_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                     void *stream, convt3d_error *error)
{
    return nonoverlap90_launch_pack(plan, w, packed, true, stream, error);
}

// With w to be packed, the main kernel is launched while that goes on, and waits for it itself.
extern "C" convt3d_status convt3d__nonoverlap90_run(const convt3d__plan *plan, const convt3d_io *io,
                                                    convt3d_error *error)
{
    using namespace convt3d_cuda;
    const void *packed = io->w_packed ? io->w_packed : io->workspace;
    convt3d_status status;
    if (io->w_packed) status = convt3d__check_device(plan, error);
    else status = nonoverlap90_launch_pack(plan, io->w, io->workspace, false, io->stream, error);
    if (status != CONVT3D_OK) return status;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    p.x = io->x;  p.w = io->w;  p.bias = io->bias;  p.y = io->y;
    p.packed = (const unsigned char *)packed;
    p.aligned = nonoverlap90_aligned(plan) && (uintptr_t)io->x % 16 == 0 && (uintptr_t)io->y % 16 == 0;
    p.wide = plan->stored != plan->desc.dtype;
    p.pairs = p.aligned && !nonoverlap90_channels_last(plan) && !(p.kernel[2] == 4 && plan->desc.dtype == CONVT3D_F32);
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        if (io->w_packed) p.w = p.packed + kernel.slices(p);
        return convt3d__launch_early(error, !io->w_packed, kernel.function(),
                                     dim3((unsigned)(p.slices * p.blocks_of_slice)),
                                     dim3((unsigned)decltype(kernel)::Tile::Threads),
                                     (size_t)plan->state[NONOVERLAP90_SHARED], io->stream, p,
                                     list_of<typename decltype(kernel)::T>(plan, io, 0, plan->fused));
    });
}

#endif
