// sm90_dgrad: dx of dense convolutions of any stride, on the kernel of sm90_dense.
//
// Idea      Taken apart into its phases (phases.cuh), dy meets x at unit stride: dx is one forward problem whose taps
//           lie in several sets of planes, with the channels of x and y exchanged. Distances between sets are shifts
//           like any other, so the walk of sm90_dense over stages serves it as it is; only its planes, the order of
//           weights (exchanged by a pass of their own) and the exact sums after it are made here. The planes stay in
//           the workspace for sm90_wgrad, with the sums for dbias and what says that values are not finite.
// Launches  exchanged weights and scales of dy, scales of weights, operands, what the guess of split.cuh missed, main,
//           repair.
// Requires  as sm90_dense; stride <= 16, at most 400 taps; dx is not added to.
// Measured  one H200, NCDHW, products alone and all launches, ms in f32 and f16: gan_128_64_32 3.13 and 0.88, 3.85 and
//           1.42; unet3d_128_64 0.42 and 0.16, 0.64 and 0.33; gan_512_256_4 0.27 and 0.09, 0.37 and 0.17.
// Compiled with sm90_dense, CONVT3D_CUDA_PART 2, whose instances it shares.
#pragma once

CONVT3D__DECLARE_KERNEL(dgrad_sm90)

#if CONVT3D__PART(2)

namespace convt3d_cuda {

// ---- before: weights [out_channels][in_group][taps], scales, operands ----

struct DgradExchange {
    const void *from;
    void *to;
    uint32_t count;
    int blocks;
    Divisor taps, in_group, out_group;
};

template <class Element> __device__ __forceinline__ void dgrad_exchange_block(const DgradExchange &p, int block)
{
    enum { At_once = 8 };
    const uint32_t step = SPLIT_THREADS, lot = At_once * SPLIT_THREADS;
    for (uint32_t first = block * lot + threadIdx.x; first < p.count; first += p.blocks * lot) {
        Element v[At_once];
#pragma unroll
        for (int j = 0; j < At_once; j++) {
            const uint32_t i = first + j * step;
            uint32_t tap, ic, o, oc;
            if (i >= p.count) continue;
            const uint32_t pair = divide(i, p.taps, &tap);
            oc = divide(pair, p.in_group, &ic);
            const uint32_t g = divide(oc, p.out_group, &o);
            v[j] = ((const Element *)p.from)[((g * p.in_group.by + ic) * p.out_group.by + o) * p.taps.by + tap];
        }
#pragma unroll
        for (int j = 0; j < At_once; j++)
            if (first + j * step < p.count) ((Element *)p.to)[first + j * step] = v[j];
    }
}

template <class Element>
__global__ void __launch_bounds__(SPLIT_THREADS)
dgrad_scan_kernel(const __grid_constant__ DgradExchange w, const __grid_constant__ GuessProblem dy)
{
    const int block = (int)blockIdx.x - w.blocks;
    let_next_start();
    wait_for_previous();
    if (block < 0) dgrad_exchange_block<Element>(w, blockIdx.x);
    else if (dy.count > 0) guess_block(dy, block);
    else if (threadIdx.x == 0) dy.beyond[block] = 0;
}

template <int NB>
__global__ void __launch_bounds__(SPLIT_THREADS) dgrad_weights_kernel(const __grid_constant__ DensePackProblem w)
{
    let_next_start();
    wait_for_previous();
    dense_scan_row<NB>(w, blockIdx.x);
}

template <int Mode, int NB>
__global__ void __launch_bounds__(SPLIT_THREADS, 3)
dgrad_split_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ PhaseProblem dy)
{
    let_next_start();
    wait_for_previous();
    if ((int)blockIdx.x < w.pack_blocks) dense_pack_octet<Mode, NB>(w, blockIdx.x);
    else phase_block<DenseMode<Mode>::Kind>(dy, blockIdx.x - w.pack_blocks, false);
}

static __global__ void __launch_bounds__(SPLIT_THREADS) dgrad_again_kernel(const __grid_constant__ PhaseProblem p)
{
    let_next_start();
    wait_for_previous();
    if (!planes_beyond(p.base)) return;
    for (int i = blockIdx.x; i < phase_blocks(p); i += gridDim.x) phase_block<SPLIT_F16>(p, i, true);
}

// ---- after: what NaN and infinity reach, in plain arithmetic ----

struct DgradRepair {
    const void *dy, *w;                     // w: as the user gave it
    void *dx;
    const int *exponent, *w_flags;          // exponent, subnormal: of each sample of dy, null where dy needs no repair
    const uint32_t *subnormal;
    int flags, flag, flag_rows, flag_step;  // as of DenseRepairProblem
    Axis<int32_t> axis[3];
    int batch, channels, in_group, out_group, blocks_group, row_block;
    int64_t y_stride[5], x_stride[5];
};

template <class T> __device__ float dgrad_exact(const DgradRepair &p, int n, int ic, int id, int ih, int iw)
{
    const int g = ic / p.in_group, i[3] = {id, ih, iw};
    const int taps = p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel;
    float sum = 0;
    for (int k = 0; k < taps; k++) {
        int kw = k % p.axis[2].kernel, kh = k / p.axis[2].kernel % p.axis[1].kernel;
        int at[3] = {k / p.axis[2].kernel / p.axis[1].kernel, kh, kw};
        int64_t o[3];
        bool inside = true;
        for (int a = 0; a < 3; a++) {
            o[a] = (int64_t)i[a] * p.axis[a].stride - p.axis[a].padding + (int64_t)at[a] * p.axis[a].dilation;
            inside = inside && o[a] >= 0 && o[a] < p.axis[a].out;
        }
        if (!inside) continue;
        const T *dy = (const T *)p.dy + n * p.y_stride[0] + (int64_t)g * p.out_group * p.y_stride[1] +
                      o[0] * p.y_stride[2] + o[1] * p.y_stride[3] + o[2] * p.y_stride[4];
        const T *w = (const T *)p.w + (int64_t)ic * p.out_group * taps + k;
        for (int oc = 0; oc < p.out_group; oc++)
            sum += Number<T>::widen(dy[oc * p.y_stride[1]]) * Number<T>::widen(w[(int64_t)oc * taps]);
    }
    return sum;
}

template <class T>
__global__ void __launch_bounds__(256) dgrad_repair_kernel(const __grid_constant__ DgradRepair p)
{
    auto bad = [&](int n) {
        return (p.exponent && p.exponent[n] == NOT_FINITE) || (p.subnormal && p.subnormal[n] != 0);
    };
    auto bad_row = [&](int row) {
        int i = row / p.flag_rows;
        bool any = p.w_flags[i] == p.flag;
        if (p.flag_step > 0) for (i += p.flag_step; i < p.flags && !any; i += p.flag_step) any = p.w_flags[i] == p.flag;
        return any;
    };
    int any = 0;
    wait_for_previous();
    for (int n = threadIdx.x; n < p.batch; n += 256) any |= bad(n);
#pragma unroll 4
    for (int i = threadIdx.x; i < p.flags; i += 256) any |= p.w_flags[i] == p.flag;
    if (!__syncthreads_or(any)) return;
    const int inputs = p.axis[0].in * p.axis[1].in * p.axis[2].in;
    for (int i = 0; i < p.batch * p.channels; i++) {
        int n = i / p.channels, ic = i % p.channels, g = ic / p.in_group, c = ic % p.in_group;
        int row = (g * p.blocks_group + c / p.row_block) * p.row_block + c % p.row_block;
        if (!bad(n) && !bad_row(row)) continue;
        for (int o = blockIdx.x * 256 + threadIdx.x; o < inputs; o += gridDim.x * 256) {
            int iw = o % p.axis[2].in, ih = o / p.axis[2].in % p.axis[1].in, id = o / p.axis[2].in / p.axis[1].in;
            ((T *)p.dx)[n * p.x_stride[0] + ic * p.x_stride[1] + id * p.x_stride[2] + ih * p.x_stride[3] +
                        iw * p.x_stride[4]] = Number<T>::round(dgrad_exact<T>(p, n, ic, id, ih, iw));
        }
    }
}

// ---- the host's side ----

struct DgradShape {
    PhaseShape phases;
    DenseShape dense;                       // of the forward problem that it comes to
    PhaseRoom room;                         // of its planes
};

// The stages of all taps, by phase and shift, with s->dense.chunks chunks each.
static const char *dgrad_walk(DgradShape *s, int64_t span)
{
    DenseShape *d = &s->dense;
    const PhaseShape &p = s->phases;
    const int64_t set = s->room.pitch * (d->mode == DENSE_SPLIT ? 2 : 1) * s->room.cells;   // from phase to phase
    int64_t shift[DENSE_MOST_STEPS];
    if (p.taps * d->chunks > DENSE_MOST_STEPS) return "more than 640 taps";
    d->table.phases = 1;
    d->table.stages = d->segment = 0;
    d->taps_used = p.taps;
    for (int i = 0; i < p.taps; i++) {
        const int64_t at = p.phase[i] * set + p.shift[i];
        int j = i;
        for (; j > 0 && shift[j - 1] > at; j--) { shift[j] = shift[j - 1];  d->tap[j] = d->tap[j - 1]; }
        shift[j] = at;
        d->tap[j] = (uint16_t)i;
    }
    const int first[2] = {0, 0}, end[2] = {p.taps, 0};
    if (shift[p.taps - 1] > INT32_MAX - 65536 || !dense_cut(d, shift, first, end, span)) return "taps too far apart";
    d->table.phase[0] = {0, (uint8_t)d->table.stages, 0, 0, 0};
    d->table.steps = p.taps * d->chunks;
    for (int i = 0; i < d->table.stages; i++) {
        DenseStage *stage = &d->table.stage[i];
        for (int t = stage->first[0]; t < stage->first[0] + stage->count[0]; t++)
            for (int c = 0; c < d->chunks; c++)
                d->table.offset[t * d->chunks + c] =
                    (uint16_t)(shift[t] - d->table.base[i] + c * (d->cells / d->chunks) * d->segment);
        stage->first[0] = (uint16_t)(stage->first[0] * d->chunks);
        stage->count[0] = (uint16_t)(stage->count[0] * d->chunks);
    }
    return "";
}

// As dense_stages; but where fewer chunks a stage make segments that serve so many more taps that a tenth less of dy is
// brought, those.
static const char *dgrad_stages(DgradShape *s, int fixed)
{
    DenseShape *d = &s->dense;
    const bool split = d->mode == DENSE_SPLIT, few = s->phases.taps <= 2 * s->phases.phases;
    const int parts = split ? 2 : 1, all = d->cells_group / 2, room = DENSE_SHARED - fixed;
    const char *why = "taps too far apart";
    DenseShape best;
    int64_t least = 0;
    for (int chunks = split && !few ? 1 : 4; chunks > 0; chunks--) {
        if (all % chunks != 0) continue;
        d->chunks = chunks;
        d->cells = chunks * 2 * parts;
        int64_t most = room / (split && chunks > 1 ? 2 : 3) / (d->cells * 16), positions = 0;
        if (most <= d->tile) continue;
        const char *text = dgrad_walk(s, most - d->tile);
        if (*text) {
            if (least == 0) why = text;
            continue;
        }
        for (int i = 0; i < d->table.stages; i++) positions += d->table.stage[i].length;
        if (least > 0 && positions * 10 > least * 9) continue;
        d->x_stages = (int)convt3d__min(room / (d->segment * d->cells * 16), DENSE_MOST_X);
        d->shared = fixed + d->x_stages * d->segment * d->cells * 16;
        least = positions;
        best = *d;
    }
    if (least == 0) return why;
    *d = best;
    return "";
}

// Tiles of r*128 positions that are not all zeros between samples, and all tiles.
static int64_t dgrad_position_tiles(const convt3d__plan *plan, const PhaseShape &p, int r)
{
    const convt3d_desc &d = plan->desc;
    return convt3d__ceil_div((d.batch - 1) * p.sample + (d.in_size[0] - 1) * p.plane + (d.in_size[1] - 1) * p.pitch[2] +
                             d.in_size[2], r * 128);
}
static int64_t dgrad_tiles(const convt3d__plan *plan, const DgradShape &s, int nb, int r)
{
    return dgrad_position_tiles(plan, s.phases, r) * convt3d__ceil_div(plan->in_group, nb) * plan->desc.groups;
}

// sm90_dense's instances, and tiles half as long of one of them.
static bool dgrad_is_short(const DenseShape &s)
{
    return s.mode != DENSE_SPLIT && s.nb == 64 && s.r < dense_r(s.mode, s.nb, 1);
}
template <class Act> auto dgrad_instance(const DenseShape &s, Act act)
{
#ifndef DENSE_SPLIT_ONLY
    if (dgrad_is_short(s)) {
        if (s.mode == DENSE_F16) return act(DenseTile<DENSE_F16, 64, 2, 1, 9, NO_LIST>());
        if (s.mode == DENSE_BF16) return act(DenseTile<DENSE_BF16, 64, 2, 1, 9, NO_LIST>());
        return act(DenseTile<DENSE_TF32, 64, 2, 1, 9, NO_LIST>());
    }
#endif
    return dense_instance<NO_LIST>(s, act);
}

// The block of channels and length of a tile: those of sm90_dense, or smaller ones where there are fewer tiles than
// multiprocessors.
static void dgrad_block(const convt3d__plan *plan, DgradShape *s)
{
    DenseShape *e = &s->dense;
    auto time = [&](int nb, int r) {
        return (double)convt3d__ceil_div(dgrad_tiles(plan, *s, nb, r), 132) * r * dense_step_cycles(e->mode, nb);
    };
    e->nb = dense_channel_block(e->mode, 1, plan->in_group);
    e->r = dense_r(e->mode, e->nb, 1);
    if (dgrad_tiles(plan, *s, e->nb, e->r) < 132) {
        for (int nb : {64, 48, 32, 24, 16})
            if (nb < e->nb && time(nb, dense_r(e->mode, nb, 1)) < time(e->nb, e->r)) {
                e->nb = nb;
                e->r = dense_r(e->mode, nb, 1);
            }
        if (e->mode != DENSE_SPLIT && time(64, 2) < time(e->nb, e->r)) {
            e->nb = 64;
            e->r = 2;
        }
    }
    e->tile = e->r * 128;
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *dgrad_shape(const convt3d__plan *plan, DgradShape *s)
{
    const convt3d_desc &d = plan->desc;
    const int64_t limit = (int64_t)1 << 30;
    DenseShape *e = &s->dense;
    const char *why = phase_shape(plan, &s->phases);
    if (*why) return why;
    e->mode = dense_mode(d);
    e->q = 1;
    dgrad_block(plan, s);
    for (int a = 0; a < 3; a++) e->pitch[a] = s->phases.pitch[a];
    e->plane = s->phases.plane;
    e->sample = s->phases.sample;
    if (d.batch > 65535 || e->sample > limit / d.batch || s->phases.reach > limit) return "too many positions";
    if (plan->w_count > limit) return "too many weights";
    e->position_tiles = (int)dgrad_position_tiles(plan, s->phases, e->r);
    const int cell = e->mode == DENSE_TF32 ? 4 : 8;
    e->cells_group = (int)convt3d__ceil_div(plan->out_group, 2 * cell) * 2;
    e->blocks_group = (int)convt3d__ceil_div(plan->in_group, e->nb);
    e->blocks = (int)d.groups * e->blocks_group;
    if (d.groups * e->cells_group > 65535) return "too many channels or taps";
    s->room = phase_room(plan, s->phases, e->cells_group, e->mode == DENSE_SPLIT ? 2 : 1);
    if (s->room.pitch > limit || s->room.pitch / 256 > INT32_MAX / 2 / (d.groups * e->cells_group * s->phases.phases))
        return "too many positions";
    const int fixed = dgrad_instance(*e, [](auto tile) { return (int)decltype(tile)::FixedBytes; });
    why = dgrad_stages(s, fixed);
    if (*why) return why;
    if ((int64_t)e->position_tiles * e->blocks > INT32_MAX) return "too many tiles";
    e->lead = 0;
    e->packed_rows = (int64_t)e->blocks * e->cells_group * e->taps_used * (e->mode == DENSE_SPLIT ? 2 : 1) * e->nb;
    return "";
}

// The workspace: planes and what goes with them; exchanged weights; their pack.
struct DgradLayout { int64_t flags, rows, exchanged, pack, bytes; };

static DgradLayout dgrad_layout(const convt3d__plan *plan, const DgradShape &s)
{
    const convt3d_desc &d = plan->desc;
    const DenseShape &e = s.dense;
    DgradLayout l;
    l.flags = (int64_t)e.blocks * e.nb * (e.mode == DENSE_SPLIT ? 8 : e.cells_group) / 8;
    l.rows = dense_round(l.flags * 4);
    l.exchanged = s.room.bytes;
    l.pack = dense_round(l.exchanged + plan->w_count * convt3d__element_size(d.dtype));
    l.bytes = l.pack + l.rows + e.packed_rows * 16;
    return l;
}

static DensePackProblem dgrad_packing(const convt3d__plan *plan, const DgradShape &s, const DgradLayout &l,
                                      char *workspace)
{
    const DenseShape &e = s.dense;
    DensePackProblem p = {};
    p.w = workspace + l.exchanged;
    p.flags = (int *)(workspace + l.pack);
    p.rows = (uint4 *)(workspace + l.pack + l.rows);
    p.in_group = (int)plan->out_group;  p.out_group = (int)plan->in_group;
    p.blocks_group = e.blocks_group;  p.taps = (int)plan->taps;  p.taps_used = e.taps_used;
    p.cells_group = e.cells_group;  p.chunks = e.chunks;
    p.vectors = plan->taps % 4 == 0;
    p.scan_blocks = e.mode == DENSE_SPLIT ? e.blocks * e.nb : 0;
    p.octets = e.blocks * e.nb / 8;
    p.pack_blocks = p.octets * e.cells_group;
    memcpy(p.tap, e.tap, sizeof p.tap);
    return p;
}

static bool dgrad_vectors(const convt3d__plan *plan, const void *dx)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size = convt3d__element_size(d.dtype);
    bool aligned = (uintptr_t)dx % 16 == 0 && d.dx_stride[1] == 1 && plan->in_group * size % 16 == 0;
    for (int a = 0; a < 5; a++) aligned = aligned && (a == 1 || d.dx_stride[a] * size % 16 == 0);
    return aligned;
}

static DenseProblem dgrad_problem(const convt3d__plan *plan, const convt3d_io *io, const DgradShape &s,
                                  const DgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    const DenseShape &e = s.dense;
    const char *workspace = (const char *)io->workspace;
    DenseProblem p = {};
    p.planes = (const uint4 *)workspace;
    p.weights = (const uint4 *)(workspace + l.pack + l.rows);
    p.x_exponent = (const int *)(workspace + s.room.exponent);
    p.w_exponent = (const int *)(workspace + l.pack);
    p.y = io->dx;
    p.batch = (int)d.batch;  p.in_d = (int)d.in_size[0];
    for (int i = 0; i < 5; i++) p.y_stride[i] = d.dx_stride[i];
    for (int a = 0; a < 3; a++) { p.out[a] = (int)d.in_size[a];  p.stride[a] = 1; }
    p.out_group = (int)plan->in_group;  p.blocks_group = e.blocks_group;  p.blocks = e.blocks;
    p.units = p.tiles = e.position_tiles * e.blocks;
    p.pitch = (int)s.room.pitch;
    p.plane_blocks = e.cells_group / 2 / e.chunks;  p.cells = e.cells;
    p.segment = e.segment;  p.x_stages = e.x_stages;
    p.y_vectors = dgrad_vectors(plan, io->dx);
    p.d = divisor_of(e.pitch[0]);  p.h = divisor_of(e.pitch[1]);  p.w = divisor_of(e.pitch[2]);
    p.plane = divisor_of(e.plane);
    p.table = e.table;
    const int64_t grid = convt3d__min(p.tiles, plan->multiprocessors);
    p.full = (int)(p.units / grid * grid);
    p.grid = divisor_of(grid);  p.rest = divisor_of(convt3d__max(1, p.units - p.full));
    p.phases = divisor_of(1);  p.block = divisor_of(e.blocks);
    return p;
}

static DgradRepair dgrad_repair(const convt3d__plan *plan, const convt3d_io *io, const DgradShape &s,
                                const DgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    const DenseShape &e = s.dense;
    const char *workspace = (const char *)io->workspace;
    DgradRepair p = {};
    p.dy = io->dy;  p.w = io->w_packed ? io->w_packed : io->w;  p.dx = io->dx;
    p.exponent = e.mode == DENSE_SPLIT ? (const int *)(workspace + s.room.exponent) : nullptr;
    p.subnormal = e.mode == DENSE_TF32 ? (const uint32_t *)(workspace + s.room.beyond) : nullptr;
    p.w_flags = (const int *)(workspace + l.pack);
    p.flags = (int)l.flags;
    p.flag = e.mode == DENSE_SPLIT ? NOT_FINITE : 1;
    p.flag_rows = e.mode == DENSE_SPLIT ? 1 : 8;
    p.flag_step = e.mode == DENSE_SPLIT ? 0 : e.blocks * e.nb / 8;
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    p.batch = (int)d.batch;  p.channels = (int)d.in_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = e.blocks_group;  p.row_block = e.nb;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.dx_stride[i];  p.y_stride[i] = d.dy_stride[i]; }
    return p;
}

template <class C>
convt3d_status dgrad_run(const convt3d__plan *plan, const convt3d_io *io, const DgradShape &s, convt3d_error *error)
{
    typedef typename CellKind<C::Kind>::Element Element;
    const int64_t out[3] = {plan->axis[0].out, plan->axis[1].out, plan->axis[2].out};
    const DgradLayout l = dgrad_layout(plan, s);
    const DenseShape &e = s.dense;
    char *workspace = (char *)io->workspace;
    const PhaseTensor tensor = phase_tensor_dy(plan, io, out);
    PhaseProblem dy = phase_problem<C::Kind>(tensor, s.phases, true, plan->desc.stride,
                                             {e.sample, s.room.pitch, (int)plan->desc.groups, (int)plan->out_group,
                                              e.cells_group, 2, 0, 2});
    dy.base.planes = (uint4 *)workspace;
    dy.base.exponent = (int *)(workspace + s.room.exponent);
    dy.base.beyond = (uint32_t *)(workspace + s.room.beyond);
    dy.base.guess = (const uint32_t *)(workspace + s.room.guess);
    if (!io->dw) dy.limit = 0;
    else if (io->dbias && phase_covers(plan, s.phases) && phase_is_common(plan))    // for sm90_wgrad, which may follow
        dy.sums = (float *)(workspace + s.room.sums);
    const GuessProblem guess = phase_guess(tensor, C::Mode == DENSE_SPLIT, (uint32_t *)(workspace + s.room.guess),
                                           dy.base.beyond);
    const DensePackProblem w = dgrad_packing(plan, s, l, workspace);
    const DgradExchange exchange = {io->w_packed ? io->w_packed : io->w, workspace + l.exchanged,
                                    (uint32_t)plan->w_count,
                                    (int)convt3d__min(convt3d__ceil_div(plan->w_count, 8 * SPLIT_THREADS), 2112),
                                    divisor_of(plan->taps), divisor_of(plan->in_group), divisor_of(plan->out_group)};
    Launches launch = {io->stream, error, 0};
    convt3d_status status = launch(dgrad_scan_kernel<Element>, exchange.blocks + plan->desc.batch * guess.blocks,
                                   SPLIT_THREADS, 0, exchange, guess);
    if (status == CONVT3D_OK && w.scan_blocks > 0)
        status = launch(dgrad_weights_kernel<C::NB>, w.scan_blocks, SPLIT_THREADS, 0, w);
    if (status == CONVT3D_OK)
        status = launch(dgrad_split_kernel<C::Mode, C::NB>, w.pack_blocks + phase_blocks(dy),
                        SPLIT_THREADS, 0, w, dy);
    if (status == CONVT3D_OK && C::Mode == DENSE_SPLIT && !dy.base.exact)
        status = launch(dgrad_again_kernel, 132, SPLIT_THREADS, 0, dy);
    if (status == CONVT3D_OK)
        status = launch(dense_kernel<C>, convt3d__min(e.position_tiles * e.blocks, plan->multiprocessors),
                        DENSE_THREADS, e.shared, dgrad_problem(plan, io, s, l),
                        DenseFollows<typename C::T, NO_LIST>());
    if (status == CONVT3D_OK)
        status = launch(dgrad_repair_kernel<typename C::T>, plan->multiprocessors, 256, 0,
                        dgrad_repair(plan, io, s, l));
    return status;
}

}

extern "C" int32_t convt3d__dgrad_sm90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    DgradShape s;
    if (plan->desc.dtype == CONVT3D_F64) return convt3d__refuse(why, "f64 has no wgmma");
    if (plan->x_count == 0 || plan->y_count == 0) return convt3d__refuse(why, "x or y is empty");
    if (plan->desc.accumulate & CONVT3D_BACKWARD_X) return convt3d__refuse(why, "does not add to dx");
    if (!fits_32_bits(plan)) return convt3d__refuse(why, "indices beyond 32 bits");
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs sm_90 and a build with sm_90a code");
    const char *text = dgrad_shape(plan, &s);
    return convt3d__refuse(why, text);
}

// Seconds, as of sm90_dense: bytes, among them planes written and read, at 2.8e12; cycles of the matrix unit and of
// tiles; 12 us of launches.
extern "C" double convt3d__dgrad_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    DgradShape s;
    if (*dgrad_shape(plan, &s)) return 1e30;
    const DgradLayout l = dgrad_layout(plan, s);
    const DenseShape &e = s.dense;
    const double size = (double)convt3d__element_size(plan->desc.dtype), blocks = (double)plan->multiprocessors;
    const double bytes = (double)(plan->x_count + plan->y_count) * size + 2.0 * (double)s.room.exponent +
                         4.0 * (double)(l.bytes - l.pack);
    const double tiles = (double)e.position_tiles * e.blocks, rounds = tiles < blocks ? 1 : tiles / blocks;
    const double steps = rounds * (e.r * 2) * e.taps_used * (e.cells_group / 2);
    const double results = (double)e.tile * e.nb * size;
    return bytes / 2.8e12 + (steps * dense_step_cycles(e.mode, e.nb) / 0.9 + rounds * (2000 + results / 14)) / 1.65e9 +
           1.2e-5;
}

extern "C" int64_t convt3d__dgrad_sm90_workspace(const convt3d__plan *plan)
{
    convt3d_cuda::DgradShape s;
    return *convt3d_cuda::dgrad_shape(plan, &s) ? 0 : convt3d_cuda::dgrad_layout(plan, s).bytes;
}

extern "C" convt3d_status convt3d__dgrad_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DgradShape s;
    dgrad_shape(plan, &s);
    return dgrad_instance(s.dense, [&](auto tile) {
        typedef decltype(tile) C;
        typedef typename CellKind<C::Kind>::Element Element;
        convt3d_status status = convt3d__load_kernel(error, plan, dense_kernel<C>, DENSE_SHARED);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dgrad_scan_kernel<Element>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dgrad_weights_kernel<C::NB>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dgrad_split_kernel<C::Mode, C::NB>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dgrad_again_kernel, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dgrad_repair_kernel<typename C::T>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__dgrad_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DgradShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dgrad_shape(plan, &s);
    return dgrad_instance(s.dense, [&](auto tile) { return dgrad_run<decltype(tile)>(plan, io, s, error); });
}

#endif
