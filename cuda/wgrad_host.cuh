// sm90_wgrad on the host: rows, columns and pieces of a sum, chosen by an estimate of cycles, the workspace, the
// launches of wgrad_sm90.cuh, and the row of the table of kernels. direct_backward.cuh has dbias summed as this does.
#pragma once

#if CONVT3D__PART(14)

namespace convt3d_cuda {

struct WgradShape {
    PhaseShape phases;
    int mode, nb, t, tall, k, parts;        // the instance; positions of a stage
    int x_cells_group, y_cells_group, x_cells, y_cells, x_super, y_super, supers, m_blocks;
    int super, stack, entries, tile_entries, units;     // super: groups of one
    // Taps along the outer axes are rows, those along the inner ones columns, by classes: as of WgradProblem.
    int outer, inner, rows, classes, column_step;
    uint16_t row_phase[PHASE_MOST_TAPS], first_entry[WGRAD_MOST_CLASSES + 1], columns[WGRAD_MOST_CLASSES];
    uint16_t first_column[WGRAD_MOST_CLASSES], span[WGRAD_MOST_CLASSES], column[WGRAD_MOST_INNER];
    int32_t row_shift[PHASE_MOST_TAPS];
    uint8_t tap_class[WGRAD_MOST_INNER], tap_column[WGRAD_MOST_INNER], tap_behind[WGRAD_MOST_INNER];
    int pitch, segments, stages, chunks, sample_chunks, piece, pieces;  // chunks: of all samples
    int64_t x_sample, x_pitch, x_lead;
    PhaseRoom room;                         // of dy's planes
    int tile() const { return tall ? t : 2 * t; }
    int m_cells() const { return tall ? 16 : 8; }
};

static int wgrad_mode(const convt3d_desc &d)
{
    return d.dtype == CONVT3D_F16 ? WGRAD_F16 : d.dtype == CONVT3D_BF16 ? WGRAD_BF16
                                  : d.math == CONVT3D_TF32 ? WGRAD_TF32 : WGRAD_SPLIT;
}

// The instances: columns, entries of a warpgroup, whether tall. From the tenth on: only where one product of 16-bit
// operands does, for registers.
struct WgradInstance { int nb, t, tall; };
static const WgradInstance wgrad_instances[] = {{64, 4, 0}, {64, 3, 0}, {64, 2, 0}, {48, 3, 0}, {32, 4, 0}, {16, 8, 0},
                                                {64, 4, 1}, {64, 3, 1}, {64, 2, 1},
                                                {64, 6, 0}, {64, 6, 1}, {128, 3, 0}, {128, 2, 0}, {128, 3, 1},
                                                {128, 2, 1}};
enum { WGRAD_INSTANCES = 15, WGRAD_OF_SPLIT = 9 };

template <int Mode, class Act> auto wgrad_with_block(const WgradShape &s, Act act)
{
    if constexpr (Mode == WGRAD_F16 || Mode == WGRAD_BF16) {
        if (s.nb == 128 && s.tall && s.t == 3) return act(WgradTile<Mode, 128, 3, true>());
        if (s.nb == 128 && s.tall) return act(WgradTile<Mode, 128, 2, true>());
        if (s.nb == 128 && s.t == 3) return act(WgradTile<Mode, 128, 3, false>());
        if (s.nb == 128) return act(WgradTile<Mode, 128, 2, false>());
        if (s.t == 6 && s.tall) return act(WgradTile<Mode, 64, 6, true>());
        if (s.t == 6) return act(WgradTile<Mode, 64, 6, false>());
    }
    if (s.tall && s.t == 4) return act(WgradTile<Mode, 64, 4, true>());
    if (s.tall && s.t == 3) return act(WgradTile<Mode, 64, 3, true>());
    if (s.tall) return act(WgradTile<Mode, 64, 2, true>());
    if (s.nb == 64 && s.t == 4) return act(WgradTile<Mode, 64, 4, false>());
    if (s.nb == 64 && s.t == 3) return act(WgradTile<Mode, 64, 3, false>());
    if (s.nb == 64) return act(WgradTile<Mode, 64, 2, false>());
    if (s.nb == 48) return act(WgradTile<Mode, 48, 3, false>());
    if (s.nb == 32) return act(WgradTile<Mode, 32, 4, false>());
    return act(WgradTile<Mode, 16, 8, false>());
}
template <class Act> auto wgrad_instance(const WgradShape &s, Act act)
{
#ifndef CONVT3D__WGRAD_SPLIT_ALONE
    if (s.mode == WGRAD_F16) return wgrad_with_block<WGRAD_F16>(s, act);
    if (s.mode == WGRAD_BF16) return wgrad_with_block<WGRAD_BF16>(s, act);
    if (s.mode == WGRAD_TF32) return wgrad_with_block<WGRAD_TF32>(s, act);
#endif
    return wgrad_with_block<WGRAD_SPLIT>(s, act);
}

// A tap along the axes from `first` to `end`, the last counting fastest: its phase along these, and shift.
struct WgradTap { int phase, k[3]; int64_t shift; };

static WgradTap wgrad_tap(const convt3d__plan *plan, const PhaseShape &p, int first, int end, int index)
{
    const int64_t scale[3] = {p.plane, p.pitch[2], 1};
    WgradTap t = {0, {0, 0, 0}, 0};
    for (int a = end - 1, rest = index; a >= first; a--) {
        t.k[a] = rest % (int)plan->axis[a].kernel;
        rest /= (int)plan->axis[a].kernel;
    }
    for (int a = first; a < end; a++) {
        t.phase = t.phase * p.count[a] + p.at[a][t.k[a]];
        t.shift += p.q[a][t.k[a]] * scale[a];
    }
    return t;
}

// Rows and columns, the axes from `outer` on being the inner ones; `stack` taps along w to a column. False: too many.
static bool wgrad_classes(const convt3d__plan *plan, WgradShape *s, int outer, int stack)
{
    const PhaseShape &p = s->phases;
    const int step = (int)plan->axis[2].in_step;
    int across[PHASE_MOST_STRIDE] = {}, rows[WGRAD_MOST_CLASSES] = {};      // taps along w of its phases; of the rest
    int order[WGRAD_MOST_INNER];                                            // of a tap along w among those of its phase
    s->outer = outer;  s->stack = stack;  s->column_step = step;
    s->rows = s->inner = s->classes = 1;
    for (int a = 0; a < 3; a++) {
        if (a < outer) s->rows *= (int)plan->axis[a].kernel;
        else {
            s->inner *= (int)plan->axis[a].kernel;
            s->classes *= p.count[a];
        }
    }
    if (s->inner > WGRAD_MOST_INNER || s->classes > WGRAD_MOST_CLASSES) return false;
    for (int r = 0; r < s->rows; r++) {
        const WgradTap t = wgrad_tap(plan, p, 0, outer, r);
        s->row_phase[r] = (uint16_t)t.phase;
        s->row_shift[r] = (int32_t)t.shift;
    }
    for (int k = 0; k < (int)plan->axis[2].kernel; k++) order[k] = across[p.at[2][k]]++;
    for (int i = 0; i < s->inner; i++) {
        const WgradTap t = wgrad_tap(plan, p, outer, 3, i);
        rows[t.phase] += order[t.k[2]] == 0;
    }
    for (int c = 0, first = 0; c < s->classes; c++) {
        s->first_column[c] = (uint16_t)first;
        s->columns[c] = (uint16_t)(rows[c] * ((across[c % p.count[2]] + stack - 1) / stack));
        s->span[c] = 0;
        first += s->columns[c];
        rows[c] = 0;
    }
    for (int i = 0; i < s->inner; i++) {
        const WgradTap t = wgrad_tap(plan, p, outer, 3, i);
        const int index = order[t.k[2]], of_class = t.phase, w = p.at[2][t.k[2]];
        const int64_t at = t.shift - index % stack * step;
        if (index == 0) rows[of_class]++;
        if (at > WGRAD_MOST_PITCH) return false;
        s->tap_class[i] = (uint8_t)of_class;
        s->tap_column[i] = (uint8_t)((rows[of_class] - 1) * ((across[w] + stack - 1) / stack) + index / stack);
        s->tap_behind[i] = (uint8_t)(index % stack);
        s->column[s->first_column[of_class] + s->tap_column[i]] = (uint16_t)at;
        s->span[of_class] = (uint16_t)convt3d__max(s->span[of_class], at);
    }
    return true;
}

// What a super-group of `super` groups comes to, for the instance and classes of s. False: too much.
static bool wgrad_entries(WgradShape *s, int64_t groups, int super)
{
    int64_t entries = 0, blocks;
    int span = 0;
    s->super = super;
    s->supers = (int)convt3d__ceil_div(groups, super);
    s->x_super = super * s->x_cells_group;  s->y_super = super * s->y_cells_group;
    s->m_blocks = (s->x_super * s->stack + s->m_cells() - 1) / s->m_cells();
    blocks = convt3d__ceil_div((int64_t)s->rows * s->y_super, s->nb / 8);
    for (int c = 0; c < s->classes; c++) {
        s->first_entry[c] = (uint16_t)entries;
        entries += blocks * s->columns[c];
        span = (int)convt3d__max(span, s->span[c]);
        if (entries > 65535) return false;
    }
    s->first_entry[s->classes] = (uint16_t)entries;
    s->entries = (int)entries;
    s->tile_entries = (int)convt3d__ceil_div(entries, s->tile());
    s->pitch = s->k + span;
    if ((int64_t)s->tile_entries * s->supers * s->m_blocks > 1 << 20) return false;
    s->units = s->supers * s->m_blocks * s->tile_entries;
    return s->pitch <= WGRAD_MOST_PITCH;
}

// Segments of the tile that has most of them, as wgrad_table counts them. cells: of dy that a tile's stage brings, in
// the mean, of one part.
static int wgrad_segments(const WgradShape &s, double *cells)
{
    int most = 0;
    int64_t positions = 0;
    for (int tile = 0, c = 0; tile < s.tile_entries; tile++) {
        int count = 0, last = -1;
        for (int i = 0; i < s.tile(); i++) {
            const int e = (int)convt3d__min(tile * s.tile() + i, s.entries - 1);
            while (e >= s.first_entry[c + 1]) c++;
            const int begin = e - (e - s.first_entry[c]) % s.columns[c];
            if (begin != last) {
                count++;
                positions += s.k + s.span[c];
            }
            last = begin;
        }
        most = (int)convt3d__max(most, count);
    }
    *cells = (double)positions * (s.nb / 8) / s.tile_entries;
    return most;
}

// Cycles of a stage: the matrix unit's, those of its reading shared memory, where `cells` arrive besides, or those of
// fetching these from the second-level cache.
static double wgrad_cycles(const WgradShape &s, double cells)
{
    auto one = [](double n) { return n / 2 > 16 + n / 4 ? n / 2 : 16 + n / 4; };
    const double steps = 2 * s.t * s.k / 16, bytes = 16 * (s.mode == WGRAD_SPLIT ? cells : cells / s.parts);
    double cycles = steps * (s.mode == WGRAD_SPLIT ? one(2 * s.nb) + one(s.nb) : one(s.nb));
    const double shared = steps * (16 + s.nb / 4) + bytes / 128;
    if (s.mode != WGRAD_SPLIT && cycles < shared) cycles = shared;
    const double fetch = bytes / (s.phases.phases == 1 ? 38 : 25);     // of one plane, tiles share most
    return cycles + 100 > fetch ? cycles + 100 : fetch;
}

// Pieces of the sum over positions, by the shape alone: what a card of 132 multiprocessors takes least time for.
static double wgrad_cut(WgradShape *s, double cycles)
{
    const double merge = (double)s->units * 2 * s->t * 64 * s->nb * 4 * 2 / 3e12 * 1.6e9;   // cycles of one piece
    double least = 0;
    int64_t best = 1;
    for (int64_t pieces = 1; pieces <= 264 && pieces <= s->chunks; pieces++) {
        double rounds = (double)convt3d__ceil_div(s->units * pieces, 132);
        double time = rounds * ((double)convt3d__ceil_div(s->chunks, pieces) * cycles + 4000) + (double)pieces * merge;
        if (least != 0 && time > least * 0.99) continue;
        least = time;
        best = pieces;
    }
    s->piece = (int)convt3d__ceil_div(s->chunks, best);
    s->pieces = (int)convt3d__ceil_div(s->chunks, s->piece);
    return least;
}

// The stages of all positions: sample by sample, or, where samples have no scales, over all of them where that is less.
// False: too many.
static bool wgrad_positions(const convt3d__plan *plan, WgradShape *s)
{
    const convt3d_desc &d = plan->desc;
    const PhaseShape &p = s->phases;
    const int64_t limit = (int64_t)1 << 30;
    const int64_t last = ((d.in_size[0] - 1) * p.pitch[1] + d.in_size[1] - 1) * p.pitch[2] + d.in_size[2];
    s->x_lead = (s->stack - 1) * s->column_step;
    int64_t chunks = convt3d__ceil_div(last + s->x_lead, s->k);
    s->x_sample = chunks * s->k;
    if (convt3d__max(s->x_sample, p.sample) > limit / d.batch || p.reach > limit || s->x_lead > PHASE_SLACK / 2)
        return false;
    const int64_t all = convt3d__ceil_div((d.batch - 1) * p.sample + last + s->x_lead, s->k);
    s->sample_chunks = (int)chunks;
    chunks *= d.batch;
    if (s->parts == 1 && all < chunks) {
        s->sample_chunks = (int)all;
        s->x_sample = p.sample;
        chunks = all;
    }
    s->chunks = (int)chunks;
    s->x_pitch = s->x_lead + convt3d__max(d.batch * s->x_sample, chunks * s->k);
    return convt3d__max(s->x_pitch, s->room.pitch) / 128 * p.phases <= INT32_MAX / 4 / (s->x_cells + s->y_cells);
}

// What the best choice so far must be beaten by.
struct WgradChoice {
    WgradShape best;
    double least = 0;
    // s has its instance and classes; `super` groups together.
    void look(const convt3d__plan *plan, WgradShape *s, int super)
    {
        double cells;
        if (!wgrad_entries(s, plan->desc.groups, super) || !wgrad_positions(plan, s)) return;
        // Before looking closely: what the products alone would take.
        if (least != 0 && (double)s->units * s->chunks * wgrad_cycles(*s, 0) / 132 > least) return;
        s->segments = wgrad_segments(*s, &cells);
        const int64_t stage = (int64_t)s->parts * (s->m_cells() * s->k + s->segments * (s->nb / 8) * s->pitch);
        s->stages = (int)convt3d__min((WGRAD_SHARED - WGRAD_HEAD) / (stage * 16), WGRAD_MOST_STAGES);
        if (s->stages < 2) return;
        const double time = wgrad_cut(s, wgrad_cycles(*s, s->parts * (s->m_cells() * s->k + cells)));
        if (least != 0 && time > least * 0.999) return;
        least = time;
        best = *s;
    }
};

// The instance, axes within segments, groups together and copies of x that take the least time; its cycles, or 0 where
// none has room for two stages.
static double wgrad_choose(const convt3d__plan *plan, WgradShape *s)
{
    const bool split = s->parts == 2;
    const int cells = s->x_cells_group;
    WgradChoice choice;
    int across[PHASE_MOST_STRIDE] = {}, columns = 1;
    for (int k = 0; k < (int)plan->axis[2].kernel; k++)
        columns = (int)convt3d__max(columns, ++across[s->phases.at[2][k]]);
    for (int outer = 2; outer >= 0; outer--)
        for (int stack = 1; stack <= columns && (stack == 1 || stack * cells <= 8); stack++) {
            if (!wgrad_classes(plan, s, outer, stack)) continue;
            for (int i = 0; i < (split ? WGRAD_OF_SPLIT : WGRAD_INSTANCES); i++) {
                s->nb = wgrad_instances[i].nb;  s->t = wgrad_instances[i].t;  s->tall = wgrad_instances[i].tall;
                s->k = wgrad_k(s->mode, s->nb, s->t, s->tall);
                if (s->tall && (stack > 1 || cells <= 8)) continue;
                for (int super = 1; super <= plan->desc.groups && (super == 1 || super * stack * cells <= 8); super++)
                    choice.look(plan, s, super);
            }
        }
    if (choice.least > 0) *s = choice.best;
    return choice.least;
}

// Everything the launches need, from the plan alone. Empty text, or why not. cycles: of the products.
static const char *wgrad_shape(const convt3d__plan *plan, WgradShape *s, double *cycles)
{
    const convt3d_desc &d = plan->desc;
    const char *why = phase_shape(plan, &s->phases);
    if (*why) return why;
    s->mode = wgrad_mode(d);
    s->parts = s->mode == WGRAD_SPLIT || s->mode == WGRAD_TF32 ? 2 : 1;
    if (plan->in_group > 65536 || plan->out_group > 65536 || d.groups > 65536 || plan->w_count > INT32_MAX)
        return "too many channels";
    s->x_cells_group = (int)convt3d__ceil_div(plan->in_group, 8);
    s->y_cells_group = (int)convt3d__ceil_div(plan->out_group, 8);
    if (d.groups * s->x_cells_group > 65536 || d.groups * s->y_cells_group > 65536) return "too many channels";
    s->x_cells = (int)d.groups * s->x_cells_group;
    s->y_cells = (int)d.groups * s->y_cells_group;
    s->room = phase_room(plan, s->phases, s->y_cells_group, s->parts);
    if (plan->axis[2].kernel > WGRAD_MOST_INNER) return "more than 128 taps along w";
    *cycles = wgrad_choose(plan, s);
    return *cycles > 0 ? "" : "too many positions, or taps too far apart for shared memory";
}

struct WgradLayout {
    int64_t x, x_exponent, x_beyond, x_guess, bias, x_rough, y_rough, partial;
    int64_t bias_part, bias_parts, bytes;
};

static int64_t wgrad_round(int64_t bytes) { return phase_round(bytes); }

static bool wgrad_channels_last(const convt3d_desc &d) { return d.dy_stride[1] < d.dy_stride[4]; }

static WgradLayout wgrad_layout(const convt3d__plan *plan, const WgradShape &s)
{
    const convt3d_desc &d = plan->desc;
    const int64_t positions = d.batch * plan->axis[0].out * plan->axis[1].out * plan->axis[2].out;
    const convt3d_io none = {};
    WgradLayout l;
    l.x = s.room.bytes;
    l.x_exponent = wgrad_round(l.x + s.x_pitch * s.x_cells * s.parts * 16);
    l.x_beyond = wgrad_round(l.x_exponent + d.batch * 4);
    l.x_guess = wgrad_round(l.x_beyond + d.batch * 4);
    l.bias = wgrad_round(l.x_guess + d.batch * 4 * phase_guess_blocks(phase_tensor_x(plan, &none)));
    l.bias_part = wgrad_channels_last(d) ? 4096 : positions / 65536 * d.out_channels >= 2112 ? 65536 : 16384;
    l.bias_part = convt3d__max(l.bias_part, convt3d__ceil_div(positions, 1024));
    l.bias_parts = convt3d__ceil_div(positions, l.bias_part);
    l.x_rough = wgrad_round(l.bias + l.bias_parts * d.out_channels * 8);
    l.y_rough = l.x_rough + convt3d__ceil_div(s.x_pitch, ROUGH_POSITIONS) * 4;
    l.partial = wgrad_round(l.y_rough + convt3d__ceil_div(s.room.pitch, ROUGH_POSITIONS) * 4);
    l.bytes = l.partial + (int64_t)s.pieces * s.units * 2 * s.t * 64 * s.nb * 4;
    return l;
}

static WgradBias wgrad_bias(const convt3d__plan *plan, const convt3d_io *io, const WgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    WgradBias p = {};
    p.dy = io->dy;
    p.sums = (double *)((char *)io->workspace + l.bias);
    p.height = (int)plan->axis[1].out;  p.width = (int)plan->axis[2].out;
    p.voxels = (int)(plan->axis[0].out * p.height * p.width);
    p.positions = d.batch * p.voxels;
    p.part = l.bias_part;
    p.channels = (int)d.out_channels;
    p.lanes = wgrad_channels_last(d) ? 32 : 1;
    p.tiles = (p.channels + p.lanes - 1) / p.lanes;
    p.linear = d.dy_stride[3] == p.width * d.dy_stride[4] && d.dy_stride[2] == p.height * d.dy_stride[3];
    for (int i = 0; i < 5; i++) p.stride[i] = d.dy_stride[i];
    return p;
}

// Whether sm90_dgrad has just made dx, and left dy's planes in the workspace.
static bool wgrad_is_left(const convt3d__plan *plan)
{
    return (plan->pass & CONVT3D_BACKWARD_X) != 0 && phase_is_common(plan);
}

// As sm90_dgrad has them.
static int wgrad_pair(const WgradShape &s) { return s.y_cells_group % 2 == 0 ? 2 : 1; }

// Positions of a thread that makes planes: two where rows come as they are or, left by sm90_dgrad, only x is made.
static int wgrad_each(const convt3d__plan *plan) { return plan->axis[2].stride == 1 || wgrad_is_left(plan) ? 2 : 1; }

static WgradProblem wgrad_problem(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s,
                                  const WgradLayout &l)
{
    const char *workspace = (const char *)io->workspace;
    const bool split = s.parts == 2;
    WgradProblem p = {};
    p.x = (const uint4 *)(workspace + l.x);
    p.dy = (const uint4 *)workspace;
    p.x_exponent = split ? (const int *)(workspace + l.x_exponent) : nullptr;
    p.y_exponent = split ? (const int *)(workspace + s.room.exponent) : nullptr;
    p.x_rough = (const int *)(workspace + l.x_rough);
    p.y_rough = (const int *)(workspace + l.y_rough);
    p.reach = (int)s.phases.reach + s.pitch;
    p.partial = (float *)((char *)io->workspace + l.partial);
    p.batch = (int)plan->desc.batch;
    p.x_pitch = (int)s.x_pitch;  p.y_pitch = (int)s.room.pitch;
    p.x_sample = (int)s.x_sample;  p.y_sample = (int)s.phases.sample;
    p.y_pair = wgrad_pair(s);
    p.chunks = s.chunks;  p.piece = s.piece;
    p.units = s.units;  p.m_blocks = s.m_blocks;  p.tile_entries = s.tile_entries;
    p.entries = s.entries;  p.rows = s.rows;
    p.x_cells = s.x_cells;  p.y_cells = s.y_cells;  p.x_super = s.x_super;  p.y_super = s.y_super;
    p.x_lead = (int)s.x_lead;  p.stack = s.stack;  p.step = s.column_step;
    p.pitch = s.pitch;  p.segments = s.segments;  p.stages = s.stages;
    p.sample_chunks = divisor_of(s.sample_chunks);
    p.classes = s.classes;
    memcpy(p.first_entry, s.first_entry, sizeof p.first_entry);
    memcpy(p.columns, s.columns, sizeof p.columns);
    memcpy(p.first_column, s.first_column, sizeof p.first_column);
    memcpy(p.span, s.span, sizeof p.span);
    memcpy(p.column, s.column, sizeof p.column);
    memcpy(p.row_phase, s.row_phase, sizeof p.row_phase);
    memcpy(p.row_shift, s.row_shift, sizeof p.row_shift);
    return p;
}

static WgradMerge wgrad_merge(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s,
                              const WgradLayout &l)
{
    const convt3d_desc &d = plan->desc;
    const char *workspace = (const char *)io->workspace;
    const bool split = s.parts == 2;
    WgradMerge p = {};
    p.partial = (const float *)(workspace + l.partial);
    p.bias_sums = (const double *)(workspace + l.bias);
    p.dw = io->dw;  p.dbias = io->dbias;
    p.x_exponent = split ? (const int *)(workspace + l.x_exponent) : nullptr;
    p.y_exponent = split ? (const int *)(workspace + s.room.exponent) : nullptr;
    p.x_flag = (const uint32_t *)(workspace + l.x_beyond);
    p.y_flag = (const uint32_t *)(workspace + s.room.beyond);
    p.x = io->x;  p.dy = io->dy;
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.dy_stride[i]; }
    p.count = plan->w_count;
    p.batch = (int)d.batch;  p.pieces = s.pieces;  p.units = s.units;  p.tile = s.tile();  p.nb = s.nb;
    p.accumulate = d.accumulate;
    p.bias_parts = (int)l.bias_parts;  p.channels = (int)d.out_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.taps = (int)plan->taps;  p.stack = s.stack;
    p.x_cells_group = s.x_cells_group;  p.y_cells_group = s.y_cells_group;
    p.x_super = s.x_super;  p.y_super = s.y_super;  p.y_cells = s.y_cells;
    p.m_blocks = s.m_blocks;  p.m_cells = s.m_cells();  p.tile_entries = s.tile_entries;
    p.sum_rows = s.phases.count[0] * s.phases.count[1];
    p.sum_width = phase_width(s.room.pitch, s.phases.sample, s.phases.pitch[2], wgrad_each(plan));
    p.in_channels = (int)d.in_channels;
    p.cells = (int)convt3d__max(1, convt3d__min(p.y_cells_group, MERGE_MOST / 8 / p.taps));
    while (p.cells > 1 && d.in_channels * convt3d__ceil_div(p.y_cells_group, p.cells) < 528)
        p.cells = (p.cells + 1) / 2;
    p.across = (int)convt3d__ceil_div(p.y_cells_group, p.cells);
    p.slices = 1;
    if (d.in_channels * p.across * p.cells * 2 * p.taps < 132 * 2048)
        p.slices = (int)convt3d__max(1, convt3d__min(convt3d__min(8, p.pieces / 4), MERGE_MOST / 8 / p.taps / p.cells));
    p.inner = s.inner;
    for (int k = 0; k < s.inner; k++) {
        p.first_entry[k] = (uint16_t)(s.first_entry[s.tap_class[k]] + s.tap_column[k]);
        p.columns[k] = (uint8_t)s.columns[s.tap_class[k]];
        p.behind[k] = s.tap_behind[k];
    }
    return p;
}

// The two tensors' planes, told where to report to.
template <int Kind>
void wgrad_tensors(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s, const WgradLayout &l,
                   const int64_t *out, PhaseProblem *x, PhaseProblem *dy)
{
    char *workspace = (char *)io->workspace;
    const int groups = (int)plan->desc.groups;
    *x = phase_problem<Kind>(phase_tensor_x(plan, io), s.phases, false, plan->desc.stride,
                             {s.x_sample, s.x_pitch, groups, (int)plan->in_group, s.x_cells_group, 1, (int)s.x_lead,
                              wgrad_each(plan)});
    *dy = phase_problem<Kind>(phase_tensor_dy(plan, io, out), s.phases, true, plan->desc.stride,
                              {s.phases.sample, s.room.pitch, groups, (int)plan->out_group, s.y_cells_group,
                               wgrad_pair(s), 0, wgrad_each(plan)});
    x->base.planes = (uint4 *)(workspace + l.x);
    dy->base.planes = (uint4 *)workspace;
    x->base.exponent = (int *)(workspace + l.x_exponent);
    dy->base.exponent = (int *)(workspace + s.room.exponent);
    x->base.beyond = (uint32_t *)(workspace + l.x_beyond);
    dy->base.beyond = (uint32_t *)(workspace + s.room.beyond);
    x->base.guess = (const uint32_t *)(workspace + l.x_guess);
    dy->base.guess = (const uint32_t *)(workspace + s.room.guess);
}

template <class C>
convt3d_status wgrad_run(const convt3d__plan *plan, const convt3d_io *io, const WgradShape &s, convt3d_error *error)
{
    typedef typename C::Element T;
    const int64_t out[3] = {plan->axis[0].out, plan->axis[1].out, plan->axis[2].out};
    const WgradLayout l = wgrad_layout(plan, s);
    char *workspace = (char *)io->workspace;
    const bool split = C::Split, dw = io->dw != nullptr, left = wgrad_is_left(plan);    // dy's planes are there
    const dim3 threads(SPLIT_THREADS);
    const int each = wgrad_each(plan);
    PhaseProblem x, dy;
    wgrad_tensors<C::Kind>(plan, io, s, l, out, &x, &dy);
    const GuessProblem guess_x = phase_guess(phase_tensor_x(plan, io), split, (uint32_t *)(workspace + l.x_guess),
                                             x.base.beyond);
    const GuessProblem guess_dy = phase_guess(phase_tensor_dy(plan, io, out), split,
                                              (uint32_t *)(workspace + s.room.guess), dy.base.beyond);
    const WgradBias bias = wgrad_bias(plan, io, l);
    const int x_scan = dw ? (int)plan->desc.batch * guess_x.blocks : 0;
    const int y_scan = dw && !left ? (int)plan->desc.batch * guess_dy.blocks : 0;
    const bool with_planes = dw && io->dbias && phase_covers(plan, s.phases);   // dbias is summed with dy's planes
    if (with_planes) dy.sums = (float *)(workspace + s.room.sums);
    if (C::Tf32) {
        x.rough = (int *)(workspace + l.x_rough);
        dy.rough = (int *)(workspace + l.y_rough);
    }
    const int64_t scan = x_scan + y_scan + (io->dbias && !with_planes ? l.bias_parts * bias.tiles : 0);
    convt3d_status status = CONVT3D_OK;
    if (scan > 0)
        status = convt3d__launch(error, wgrad_scan_kernel<T>, dim3((unsigned)scan), threads, 0, io->stream, guess_x,
                                 guess_dy, x_scan, y_scan, bias, x.rough,
                                 C::Tf32 && dw ? (int)(l.partial - l.x_rough) / 4 : 0);
    if (dw && status == CONVT3D_OK)
        status = convt3d__launch(error, each == 2 ? wgrad_planes_kernel<C::Kind, 2> : wgrad_planes_kernel<C::Kind, 1>,
                                 dim3((unsigned)(phase_blocks(x) + (left ? 0 : phase_blocks(dy)))), threads, 0,
                                 io->stream, x, dy, phase_blocks(x));
    if (dw && status == CONVT3D_OK && split && !(x.base.exact && (left || dy.base.exact)))
        status = convt3d__launch(error, each == 2 ? wgrad_again_kernel<2> : wgrad_again_kernel<1>, dim3(132), threads,
                                 0, io->stream, x, dy, left);
    if (dw && status == CONVT3D_OK) {
        const int64_t stage = C::XCells + (int64_t)s.segments * C::Parts * C::Cells * s.pitch;
        status = convt3d__launch(error, wgrad_kernel<C>, dim3((unsigned)(s.units * s.pieces)), dim3(WGRAD_THREADS),
                                 (size_t)(WGRAD_HEAD + s.stages * stage * 16), io->stream,
                                 wgrad_problem(plan, io, s, l));
    }
    if ((dw || io->dbias) && status == CONVT3D_OK) {
        WgradMerge merge = wgrad_merge(plan, io, s, l);
        merge.plane_sums = dy.sums;
        const int64_t tiles = dw ? convt3d__min(plan->desc.in_channels * merge.across, 132 * 8) : 0;
        status = convt3d__launch(error, wgrad_merge_kernel<T>,
                                 dim3((unsigned)(tiles + (io->dbias ? plan->desc.out_channels : 0))), threads, 0,
                                 io->stream, merge);
    }
    return status;
}

}

extern "C" int32_t convt3d__wgrad_sm90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    if (plan->desc.dtype == CONVT3D_F64) return convt3d__refuse(why, "f64 has no wgmma");
    if (plan->x_count == 0 || plan->y_count == 0) return convt3d__refuse(why, "x or y is empty");
    if (!fits_32_bits(plan)) return convt3d__refuse(why, "indices beyond 32 bits");
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs sm_90 and a build with sm_90a code");
    if (plan->desc.batch > 65535) return convt3d__refuse(why, "too many samples");
    const char *text = wgrad_shape(plan, &s, &cycles);
    return convt3d__refuse(why, text);
}

// Seconds: planes written and read at 2.5e12 bytes, the products' cycles (wgrad_cut) at 1.6e9, 15 us of launches.
extern "C" double convt3d__wgrad_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    if (*wgrad_shape(plan, &s, &cycles)) return 1e30;
    const WgradLayout l = wgrad_layout(plan, s);
    const double size = (double)convt3d__element_size(plan->desc.dtype);
    const double bytes = (double)s.room.exponent + (double)(l.x_exponent - l.x) +
                         (double)(plan->x_count + 2 * plan->y_count) * size;
    return bytes / 2.5e12 + cycles / 1.6e9 + 15e-6;
}

extern "C" int64_t convt3d__wgrad_sm90_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    return *wgrad_shape(plan, &s, &cycles) ? 0 : wgrad_layout(plan, s).bytes;
}

extern "C" convt3d_status convt3d__wgrad_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    wgrad_shape(plan, &s, &cycles);
    return wgrad_instance(s, [&](auto tile) {
        typedef decltype(tile) C;
        typedef typename C::Element T;
        convt3d_status status = convt3d__load_kernel(error, plan, wgrad_kernel<C>, WGRAD_SHARED);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_scan_kernel<T>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_planes_kernel<C::Kind, 1>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_planes_kernel<C::Kind, 2>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_again_kernel<1>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_again_kernel<2>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_merge_kernel<T>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__wgrad_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    WgradShape s;
    double cycles;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    wgrad_shape(plan, &s, &cycles);
    return wgrad_instance(s, [&](auto tile) { return wgrad_run<decltype(tile)>(plan, io, s, error); });
}

#endif
