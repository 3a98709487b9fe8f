// sm90_dense on the host: how a problem becomes tiles, stages, packs and launches of dense_sm90.cuh, and the rows of the
// back-end table. sm90_dgrad makes its launches from the same parts.
#pragma once

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {


// How tiles are laid over rows: strips (of PlanesProblem), depth planes of one, positions of a row in one, rows of a
// plane; where strips are whole samples, planes of a sample. rows 0: tiles run on over zeros.
struct DenseStrips { int count, length, across, rows, depth; };

struct DenseShape {
    int mode, nb, r, q;                     // the instance
    ListForm form;
    int chunks, cells_group, cells;         // chunks and cells of a stage; cells of a group of channels
    int blocks_group, blocks, position_tiles, tile;     // tile: positions from its first to its last
    int taps_used, segment, x_stages, more_slots, shared, lead;
    int64_t pitch[3], plane, sample, packed_rows, end;      // end: of the last tile
    DenseStrips strips;
    int columns;                            // of the weights' operand: nb or, of a fold, its instance's
    DenseFold fold;
    uint16_t tap[DENSE_MOST_STEPS];         // linear index of the tap of each step of one chunk
    uint64_t empty;                         // rows of these phases (FillProblem) have no tap and are not in the table
    DenseTable table;
};

static int dense_mode(const convt3d_desc &d)
{
    if (d.dtype == CONVT3D_F16) return DENSE_F16;
    if (d.dtype == CONVT3D_BF16) return DENSE_BF16;
    return d.math == CONVT3D_TF32 ? DENSE_TF32 : DENSE_SPLIT;
}

// Positions of a warpgroup and steps of a slot for each instance: what registers and shared memory hold.
static constexpr int dense_r(int mode, int nb, int q)
{
    if (mode == DENSE_SPLIT) return q == 1 ? (nb <= 32 ? 4 : nb <= 48 ? 3 : 2) : 2;
    return nb == 128 ? 2 : q == 1 ? 4 : nb <= 32 ? 3 : 2;
}
static constexpr int dense_u(int mode, int nb, int q)
{
    return mode == DENSE_SPLIT ? (q == 1 || nb == 48 ? 3 : 4) : nb == 128 ? 4 : q == 1 ? 9 : 8;
}

// Cycles of one step on 64 positions: the matrix unit's, or those of reading both operands, copies going on beside.
static double dense_step_cycles(int mode, int nb)
{
    auto one = [](double n) { return n / 2 > 16 + n / 4 ? n / 2 : 16 + n / 4; };
    return mode == DENSE_SPLIT ? one(2 * nb) + one(nb) : one(nb);
}

static int dense_channel_block(int mode, int q, int64_t out_group)
{
    static const int sizes[] = {16, 24, 32, 48, 64, 128};
    int best = 0;
    double least = 0;
    for (int nb : sizes) {                      // larger only for a twentieth: more tiles fill the card better
        if (nb == 128 && (mode == DENSE_SPLIT || q == 2)) continue;     // what registers hold: results and,
        if (nb == 64 && mode == DENSE_SPLIT && q == 2) continue;        // for a split, two accumulators
        double cycles = (double)convt3d__ceil_div(out_group, nb) * dense_step_cycles(mode, nb);
        if (best == 0 || cycles < least * 0.95) { best = nb;  least = cycles; }
    }
    return best;
}

// Taps of the phase of output o on an axis that meet the input at all, and how many outputs the phase has.
struct DenseAxisPhase { convt3d__taps taps; int64_t outputs; };

static DenseAxisPhase dense_axis_phase(const convt3d__axis &axis, int64_t o)
{
    int64_t outputs = convt3d__ceil_div(axis.out - o, axis.stride);
    return {convt3d__taps_of(&axis, o, outputs), outputs};
}

static int64_t dense_phases(const convt3d__axis &axis) { return convt3d__min(axis.stride, axis.out); }

// The pitch of an axis: its input or outputs, and zeros for what any tap reads on either side.
static int64_t dense_pitch(const convt3d__axis &axis)
{
    int64_t zeros = 0, most = 0;
    for (int64_t o = 0; o < dense_phases(axis); o++) {
        DenseAxisPhase p = dense_axis_phase(axis, o);
        most = convt3d__max(most, p.outputs);
        if (p.taps.count == 0) continue;
        zeros = convt3d__max(zeros, (p.taps.count - 1) * axis.in_step - p.taps.i);
        zeros = convt3d__max(zeros, p.outputs - 1 + p.taps.i - (axis.in - 1));
    }
    return convt3d__max(axis.in + zeros, most);
}

// Appends the steps of one w phase in the order of their shifts; false if there are too many.
static bool dense_append(const convt3d__plan *plan, DenseShape *s, const DenseAxisPhase &d, const DenseAxisPhase &h,
                         const DenseAxisPhase &w, int64_t *shift)
{
    const convt3d__axis *axis = plan->axis;
    const int64_t folded = s->fold.taps > 0 ? w.taps.count - 1 : 0;     // of a fold, only the last tap along w is a step
    if (d.taps.count * h.taps.count * (w.taps.count - folded) > DENSE_MOST_STEPS - s->taps_used) return false;
    for (int64_t a = d.taps.count - 1; a >= 0; a--)
        for (int64_t b = h.taps.count - 1; b >= 0; b--)
            for (int64_t c = w.taps.count - 1; c >= folded; c--) {
                int64_t kd = d.taps.k + a * axis[0].tap_step, kh = h.taps.k + b * axis[1].tap_step;
                int64_t kw = w.taps.k + (c - folded) * axis[2].tap_step;
                shift[s->taps_used] = (((d.taps.i - a * axis[0].in_step) * s->pitch[1] + h.taps.i -
                                        b * axis[1].in_step) * s->pitch[2] + w.taps.i - c * axis[2].in_step) *
                                      s->strips.count;
                s->tap[s->taps_used++] = (uint16_t)((kd * axis[1].kernel + kh) * axis[2].kernel + kw);
            }
    return true;
}

// Cuts the steps [first[q], end[q]) of a phase into stages that span at most `span` shifts.
static bool dense_cut(DenseShape *s, const int64_t *shift, const int *first, const int *end, int64_t span)
{
    int at[2] = {first[0], first[1]};
    while (at[0] < end[0] || at[1] < end[1]) {
        if (s->table.stages == DENSE_MOST_STAGES) return false;
        DenseStage *stage = &s->table.stage[s->table.stages++];
        int64_t base = INT64_MAX, last = INT64_MIN;
        for (int q = 0; q < 2; q++) if (at[q] < end[q]) base = convt3d__min(base, shift[at[q]]);
        for (int q = 0; q < 2; q++) {
            stage->first[q] = (uint16_t)at[q];
            for (; at[q] < end[q] && shift[at[q]] - base <= span; at[q]++) last = convt3d__max(last, shift[at[q]]);
            stage->count[q] = (uint16_t)(at[q] - stage->first[q]);
        }
        s->table.base[s->table.stages - 1] = (int32_t)base;
        stage->length = (uint16_t)(s->tile + last - base);
        s->segment = (int)convt3d__max(s->segment, stage->length);
    }
    return true;
}

static void dense_heaviest_first(DenseTable *t)
{
    int steps[DENSE_MOST_PHASES] = {};
    for (int i = 0; i < t->phases; i++)
        for (int j = t->phase[i].begin; j < t->phase[i].end; j++)
            steps[i] += t->stage[j].count[0] + t->stage[j].count[1];
    for (int i = 1; i < t->phases; i++)
        for (int j = i; j > 0 && steps[j] > steps[j - 1]; j--) {
            DensePhase phase = t->phase[j];
            int count = steps[j];
            t->phase[j] = t->phase[j - 1];  t->phase[j - 1] = phase;
            steps[j] = steps[j - 1];  steps[j - 1] = count;
        }
}

// Phases of depth and height without a tap, as in FillProblem; none where no phase has any, or FillProblem does not hold
// them.
static uint64_t dense_empty_rows(const convt3d__plan *plan)
{
    const int64_t pd = dense_phases(plan->axis[0]), ph = dense_phases(plan->axis[1]);
    uint64_t empty = 0;
    int64_t left = pd * ph;
    // Rows that begin within sectors go slowly one by one: there, only planes.
    const bool rows = plan->desc.y_stride[1] == 1 ||
                      plan->desc.y_stride[3] * convt3d__element_size(plan->desc.dtype) % 32 == 0;
    if (plan->desc.out_channels > INT32_MAX / convt3d__max(plan->desc.batch * plan->axis[0].out, plan->axis[2].out))
        return 0;
    for (int64_t i = 0; i < pd * ph; i++) {
        if (dense_axis_phase(plan->axis[0], i / ph).taps.count > 0 &&
            (!rows || dense_axis_phase(plan->axis[1], i % ph).taps.count > 0)) continue;
        empty |= (uint64_t)1 << i;
        left--;
    }
    return left > 0 ? empty : 0;
}

// Phases, their stages and, for s->chunks chunks a stage, the offsets of steps. Empty text: done.
static const char *dense_walk(const convt3d__plan *plan, DenseShape *s, int64_t span)
{
    const convt3d__axis *axis = plan->axis;
    int64_t shift[DENSE_MOST_STEPS], pd = dense_phases(axis[0]), ph = dense_phases(axis[1]);
    int64_t pw = s->q == 2 ? 1 : dense_phases(axis[2]);
    s->table.phases = s->table.stages = s->table.steps = s->taps_used = s->segment = 0;
    if (pd > DENSE_MOST_PHASES || ph > DENSE_MOST_PHASES || pw > DENSE_MOST_PHASES || pd * ph * pw > DENSE_MOST_PHASES)
        return "more than 64 phases";
    s->empty = s->form != NO_LIST ? 0 : dense_empty_rows(plan);
    for (int64_t i = 0; i < pd * ph * pw; i++) {
        int64_t od = i / pw / ph, oh = i / pw % ph, ow = i % pw;
        if (s->empty >> (od * ph + oh) & 1) continue;
        DensePhase *phase = &s->table.phase[s->table.phases++];
        int first[2] = {0, 0}, end[2] = {0, 0};
        for (int q = 0; q < s->q; q++) {
            first[q] = s->taps_used;
            if (!dense_append(plan, s, dense_axis_phase(axis[0], od), dense_axis_phase(axis[1], oh),
                              dense_axis_phase(axis[2], ow + q), shift)) return "more than 640 taps";
            end[q] = s->taps_used;
        }
        phase->begin = (uint8_t)s->table.stages;
        phase->d = (uint8_t)od;  phase->h = (uint8_t)oh;  phase->w = (uint8_t)ow;
        if (!dense_cut(s, shift, first, end, span)) return "taps too far apart";
        phase->end = (uint8_t)s->table.stages;
    }
    dense_heaviest_first(&s->table);
    s->table.steps = s->taps_used * s->chunks;
    if (s->table.steps > DENSE_MOST_STEPS) return "more than 640 taps";
    for (int i = 0; i < s->table.stages; i++) {
        DenseStage *stage = &s->table.stage[i];
        for (int q = 0; q < 2; q++) {
            for (int t = stage->first[q]; t < stage->first[q] + stage->count[q]; t++)
                for (int c = 0; c < s->chunks; c++)
                    s->table.offset[t * s->chunks + c] =
                        (uint16_t)(shift[t] - s->table.base[i] + c * (s->cells / s->chunks) * s->segment);
            stage->first[q] = (uint16_t)(stage->first[q] * s->chunks);
            stage->count[q] = (uint16_t)(stage->count[q] * s->chunks);
        }
    }
    return "";
}

// What an instance takes of shared memory beside x, with the fewest slots of weights; bytes of a slot.
struct DenseFixed { int bytes, slot, slots; };

// As dense_walk, with the most chunks a stage (the longer a stage, the less it costs to start one) that leave room for
// three segments; for a split, whose w phases have few taps each, two are enough. What is left over goes to slots of
// weights, but for a split, which knows their number when it is compiled.
static const char *dense_stages(const convt3d__plan *plan, DenseShape *s, const DenseFixed &fixed)
{
    const bool split = s->mode == DENSE_SPLIT;
    const int parts = split ? 2 : 1, all = s->cells_group / 2, room = DENSE_SHARED - fixed.bytes;
    const char *why = "taps too far apart";
    for (int chunks = split && s->q == 1 ? 1 : 4; chunks > 0; chunks--) {
        if (all % chunks != 0 || (split && s->nb == 48 && chunks == 4)) continue;    // 3 steps a slot
        s->chunks = chunks;
        s->cells = chunks * 2 * parts;
        int64_t most = room / (split && chunks > 1 ? 2 : 3) / (s->cells * 16);
        if (most <= s->tile + s->pitch[2] * s->strips.count && chunks > 1) continue;
        if (most <= s->tile) continue;
        why = dense_walk(plan, s, most - s->tile);
        if (*why) continue;
        if (s->segment == 0) s->segment = s->tile;      // no taps at all: the bias alone
        const int bytes = s->segment * s->cells * 16;
        s->x_stages = (int)convt3d__min(room / bytes, DENSE_MOST_X);
        s->more_slots = split ? 0 : (int)convt3d__min(DENSE_MOST_SLOTS - fixed.slots,
                                                      (room - s->x_stages * bytes) / fixed.slot);
        s->shared = fixed.bytes + s->more_slots * fixed.slot + s->x_stages * bytes;
        return "";
    }
    return why;
}

// The columns that a fold's instance has, and positions of a warpgroup.
static constexpr int dense_fold_columns = 112, dense_fold_r = 3;

// act(DenseTile instance) for the shape's mode, block of channels and phases.
template <int Mode, int NB, int Q, ListForm Form> struct DenseInstance {
    typedef DenseTile<Mode, NB, dense_r(Mode, NB, Q), Q, dense_u(Mode, NB, Q), Form> Tile;
};
template <int Mode, int NB, ListForm Form, class Act> auto dense_with_phases(int q, Act act)
{
    if constexpr (NB < (Mode == DENSE_SPLIT ? 64 : 128))
        if (q == 2) return act(typename DenseInstance<Mode, NB, 2, Form>::Tile());
    return act(typename DenseInstance<Mode, NB, 1, Form>::Tile());
}
template <int Mode, ListForm Form, class Act> auto dense_with_block(const DenseShape &s, Act act)
{
    if constexpr (Mode != DENSE_SPLIT)
        if (s.nb == 128) return dense_with_phases<Mode, 128, Form>(s.q, act);
    if (s.nb == 64) return dense_with_phases<Mode, 64, Form>(s.q, act);
    if (s.nb == 48) return dense_with_phases<Mode, 48, Form>(s.q, act);
    if (s.nb == 32) return dense_with_phases<Mode, 32, Form>(s.q, act);
    if (s.nb == 24) return dense_with_phases<Mode, 24, Form>(s.q, act);
    return dense_with_phases<Mode, 16, Form>(s.q, act);
}
template <int Mode, class Act> auto dense_with_fold(Act act)
{
    return act(DenseTile<Mode, dense_fold_columns, dense_fold_r, 1, 5, NO_LIST, true>());
}
template <ListForm Form, class Act> auto dense_instance(const DenseShape &s, Act act)
{
#ifndef DENSE_SPLIT_ONLY
    if (s.mode == DENSE_F16) return dense_with_block<DENSE_F16, Form>(s, act);
    if (s.mode == DENSE_BF16) return dense_with_block<DENSE_BF16, Form>(s, act);
    if (s.mode == DENSE_TF32) return dense_with_block<DENSE_TF32, Form>(s, act);
#endif
    return dense_with_block<DENSE_SPLIT, Form>(s, act);
}

// The same, and those of folds.
template <ListForm Form, class Act> auto dense_tile(const DenseShape &s, Act act)
{
#ifndef DENSE_SPLIT_ONLY
    if constexpr (Form == NO_LIST)
        if (s.fold.taps > 0) {
            if (s.mode == DENSE_F16) return dense_with_fold<DENSE_F16>(act);
            if (s.mode == DENSE_BF16) return dense_with_fold<DENSE_BF16>(act);
            return dense_with_fold<DENSE_TF32>(act);
        }
#endif
    return dense_instance<Form>(s, act);
}

// Which instance the plan wants: what is stored wide is so by the one that applies any list.
static inline ListForm dense_form(const convt3d__plan *plan)
{
    const convt3d_io none = {};
    if (plan->pass != CONVT3D_FORWARD) return NO_LIST;
    return plan->stored != plan->desc.dtype ? WHOLE_LIST : form_of(list_of<float>(plan, &none, 0, plan->fused));
}

// Taps along w as columns where so few output channels leave the matrix unit waiting for positions that this, and summing
// them afterwards, takes less time. Of stride 1 along w, without a list; three products
// leave too few registers.
static void dense_fold(const convt3d__plan *plan, DenseShape *s)
{
    s->fold = {};
    s->columns = s->nb;
    if (plan->axis[2].stride != 1 || s->form != NO_LIST || s->mode == DENSE_SPLIT) return;
    const convt3d__taps d = dense_axis_phase(plan->axis[0], 0).taps, h = dense_axis_phase(plan->axis[1], 0).taps;
    const convt3d__taps w = dense_axis_phase(plan->axis[2], 0).taps;
    const int64_t reach = (w.count - 1) * plan->axis[2].in_step;
    if (w.count < 2 || reach > DENSE_MOST_REACH || d.count * h.count == 0) return;
    const double steps = (double)(d.count * h.count) * (double)(s->cells_group / 2);     // of 64 positions
    const double plain = steps * (double)w.count * (double)convt3d__ceil_div(plan->out_group, s->nb) *
                         dense_step_cycles(s->mode, s->nb);
    const int nb = (int)convt3d__min(dense_fold_columns / w.count / 8, convt3d__ceil_div(plan->out_group, 8)) * 8;
    if (nb == 0) return;
    const double cycles = (double)convt3d__ceil_div(plan->out_group, nb) *
                          (steps * dense_step_cycles(s->mode, dense_fold_columns) + 6 * dense_fold_columns);
    if (cycles >= 0.85 * plain) return;
    s->columns = dense_fold_columns;
    s->nb = nb;
    s->r = dense_fold_r;
    s->fold.taps = (uint8_t)w.count;
    s->fold.channels = (uint8_t)nb;
    s->fold.step = (uint8_t)plan->axis[2].in_step;
    s->fold.reach = (uint8_t)reach;
    s->fold.by_channels = divisor_of(nb);
    s->fold.by_half = divisor_of(nb / 2);
    s->fold.by_eighth = divisor_of(nb / 8);
}

// Tiles over whole rows, where these or as many strips of them as fit are a chunk of 64 positions, or almost, and that
// makes fewer tiles than to run on over zeros. By the sample alone, so that its bits do not depend on how many there are.
static void dense_rows(const convt3d__plan *plan, DenseShape *s)
{
    const int64_t batch = plan->desc.batch;
    int64_t most[3];                            // outputs of a phase
    for (int a = 0; a < 3; a++) most[a] = convt3d__ceil_div(plan->axis[a].out, plan->axis[a].stride);
    const int64_t flat = s->r * 128 - 2 * s->fold.reach;
    const int64_t strips = s->q == 2 ? convt3d__min(16, 64 / convt3d__max(1, most[2])) : most[2] <= 64;
    const int64_t groups = convt3d__ceil_div(most[1], s->r * 2), row = s->pitch[2] * strips;
    s->strips = {1, 0, 64, 0, 0};
    s->tile = (int)flat + s->fold.reach;
    s->position_tiles = (int)convt3d__ceil_div((batch - 1) * s->sample + (most[0] - 1) * s->plane +
                                               (most[1] - 1) * s->pitch[2] + most[2], flat);
    s->end = (s->position_tiles - 1) * flat + s->tile;
    if (s->fold.taps > 0 || strips == 0 || row < most[2] * strips || most[1] * most[2] < 4 ||
        100 * groups * most[0] * flat > 95 * s->sample * strips) return;
    const int64_t planes = (batch - 1) * s->pitch[0] + most[0];
    // Even, for planes_pairs_block; but where rows are short one more position is much to load for every tile, and x small.
    if (s->pitch[2] >= 16 || s->form != NO_LIST) s->pitch[2] += s->pitch[2] % 2;
    s->plane = s->pitch[1] * s->pitch[2];
    s->sample = s->pitch[0] * s->plane;
    const bool whole = batch >= strips;         // strips are of whole samples, and planes of zeros have no tiles
    s->strips.count = (int)strips;
    s->strips.length = (int)(whole ? convt3d__ceil_div(batch, strips) * s->pitch[0] : convt3d__ceil_div(planes, strips));
    s->strips.across = (int)most[2];
    s->strips.rows = (int)most[1];
    s->strips.depth = whole ? (int)most[0] : 0;
    s->tile = (int)(s->pitch[2] * strips * (s->r * 2 - 1) + 64);
    s->position_tiles = (int)((whole ? s->strips.length / s->pitch[0] * most[0] : s->strips.length) * groups);
    s->end = s->strips.length * s->plane * strips + s->tile;
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *dense_shape(const convt3d__plan *plan, DenseShape *s)
{
    const convt3d_desc &d = plan->desc;
    s->mode = dense_mode(d);
    s->form = dense_form(plan);
    s->q = dense_phases(plan->axis[2]) == 2 ? 2 : 1;
    s->nb = dense_channel_block(s->mode, s->q, plan->out_group);
    s->r = dense_r(s->mode, s->nb, s->q);
    for (int a = 0; a < 3; a++) s->pitch[a] = dense_pitch(plan->axis[a]);
    const int64_t most = (int64_t)1 << 30;
    s->plane = s->pitch[1] * s->pitch[2];
    if (s->pitch[0] > most || s->plane > most || s->pitch[0] * s->plane > most) return "too many positions";
    s->sample = s->pitch[0] * s->plane;
    if (d.batch > 65535 || s->sample > most / d.batch) return "too many positions";
    const int cell = s->mode == DENSE_TF32 ? 4 : 8;
    s->cells_group = (int)convt3d__ceil_div(plan->in_group, 2 * cell) * 2;
    dense_fold(plan, s);
    dense_rows(plan, s);
    if (s->end > most) return "too many positions";
    s->blocks_group = (int)convt3d__ceil_div(plan->out_group, s->nb);
    s->blocks = (int)d.groups * s->blocks_group;
    if (d.groups * s->cells_group > 65535 || plan->taps > 65535) return "too many channels or taps";
    if (s->end / 64 > INT32_MAX / (d.groups * s->cells_group)) return "too many positions";
    auto fixed_of = [](auto tile) {
        typedef decltype(tile) C;
        return DenseFixed{C::FixedBytes, C::SlotBytes, C::LeastSlots};
    };
    const DenseFixed fixed = s->form == NO_LIST      ? dense_tile<NO_LIST>(*s, fixed_of)
                             : s->form == LIGHT_LIST ? dense_tile<LIGHT_LIST>(*s, fixed_of)
                                                     : dense_tile<WHOLE_LIST>(*s, fixed_of);
    const char *why = dense_stages(plan, s, fixed);
    if (*why) return why;
    if ((int64_t)s->position_tiles * s->blocks * s->table.phases > INT32_MAX) return "too many tiles";
    s->lead = 0;
    for (int i = 0; i < s->table.stages; i++) s->lead = (int)convt3d__max(s->lead, -(int64_t)s->table.base[i]);
    s->lead = (s->lead + 2 * s->strips.count - 1) / (2 * s->strips.count) * (2 * s->strips.count);
    s->packed_rows = (int64_t)s->blocks * s->cells_group * s->taps_used * (s->mode == DENSE_SPLIT ? 2 : 1) *
                     s->columns;
    return "";
}

static int64_t dense_plane_pitch(const DenseShape &s)
{
    int64_t reach = 0;
    for (int i = 0; i < s.table.stages; i++)
        reach = convt3d__max(reach, (int64_t)s.table.base[i] + s.table.stage[i].length - s.tile);
    return (s.lead + s.end + reach + 31) / 32 * 32;         // for planes_pairs_block, as are even rows and lead
}

static int64_t dense_round(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Is a sample of x one run of elements?
static bool dense_contiguous(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    static const int orders[2][4] = {{4, 3, 2, 1}, {1, 4, 3, 2}};
    for (const int *order : orders) {
        int64_t step = 1;
        bool dense = true;
        for (int i = 0; i < 4; i++) {
            int a = order[i];
            dense = dense && d.x_stride[a] == step;
            step *= a == 1 ? d.in_channels : d.in_size[a - 2];
        }
        if (dense) return true;
    }
    return false;
}

// The pack: flags, rows, w. The workspace: planes; of samples the exponents, the largest magnitudes and the
// guesses; a pack.
struct DenseLayout {
    int64_t flags, rows, copy, packed, x_exponent, beyond, guess, pack, workspace;
    int guess_blocks, exact;
};

static DenseLayout dense_layout(const convt3d__plan *plan, const DenseShape &s)
{
    DenseLayout l;
    const convt3d_desc &d = plan->desc;
    l.flags = (int64_t)s.blocks * s.nb * (s.mode == DENSE_SPLIT ? 8 : s.cells_group) / 8;
    l.rows = dense_round(l.flags * 4);
    l.copy = dense_round(l.rows + s.packed_rows * 16);
    l.packed = dense_round(l.copy + plan->w_count * convt3d__element_size(d.dtype));
    // By the sample alone: its bits must not depend on how many there are.
    const int64_t sample = plan->x_count / d.batch;
    l.exact = s.mode == DENSE_SPLIT && (sample < DENSE_EXACT || !dense_contiguous(plan));
    l.guess_blocks = s.mode != DENSE_SPLIT ? 1 : (int)convt3d__max(1, convt3d__min(GUESS_MOST_BLOCKS, sample / 4096));
    l.x_exponent = dense_round(dense_plane_pitch(s) * d.groups * s.cells_group * (s.mode == DENSE_SPLIT ? 32 : 16));
    l.beyond = dense_round(l.x_exponent + d.batch * 4);
    l.guess = dense_round(l.beyond + d.batch * 4);
    l.pack = dense_round(l.guess + d.batch * l.guess_blocks * 4);
    l.workspace = l.pack + l.packed;
    return l;
}

static GuessProblem dense_guess(const convt3d__plan *plan, const convt3d_io *io, const DenseLayout &l)
{
    const convt3d_desc &d = plan->desc;
    GuessProblem p = {};
    p.x = (const float *)io->x;
    p.guess = (uint32_t *)((char *)io->workspace + l.guess);
    p.beyond = (uint32_t *)((char *)io->workspace + l.beyond);
    p.blocks = l.guess_blocks;
    p.n_stride = d.x_stride[0];
    if (dense_mode(d) == DENSE_TF32) return p;      // nothing to guess: beyond is to be zeroed
    p.count = plan->x_count / d.batch;
    if (dense_contiguous(plan)) {
        p.skip = l.exact ? 1 : GUESS_STRIDE;
        p.runs = convt3d__ceil_div(p.count, GUESS_RUN * p.skip);
        return p;
    }
    p.rows = d.in_channels * d.in_size[0] * d.in_size[1];
    p.row = d.in_size[2];  p.h = d.in_size[1];  p.d = d.in_size[0];
    for (int i = 0; i < 4; i++) p.stride[i] = d.x_stride[1 + i];
    return p;
}

static bool dense_aligned(const convt3d__plan *plan, const void *x, int64_t bytes)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size = convt3d__element_size(d.dtype);
    bool aligned = (uintptr_t)x % 16 == 0 && d.x_stride[1] == 1 && plan->in_group * size % bytes == 0;
    for (int a = 0; a < 5; a++) aligned = aligned && (a == 1 || d.x_stride[a] * size % 16 == 0);
    return aligned;
}

static bool dense_pairs(const convt3d__plan *plan, const DenseShape &s, const void *x)
{
    const convt3d_desc &d = plan->desc;
    const int strips = s.strips.count;
    bool even = (strips & (strips - 1)) == 0 && d.x_stride[4] == 1 && d.in_size[2] % 2 == 0 && s.pitch[2] % 2 == 0;
    for (int a = 0; a < 4; a++) even = even && d.x_stride[a] % 2 == 0;
    return even && (uintptr_t)x % (uintptr_t)(2 * convt3d__element_size(d.dtype)) == 0;
}

template <int Kind>
PlanesProblem dense_planes(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, const DenseLayout &l)
{
    const convt3d_desc &d = plan->desc;
    char *workspace = (char *)io->workspace;
    PlanesProblem p = {};
    p.x = io->x;
    p.planes = (uint4 *)workspace;
    p.guess = (const uint32_t *)(workspace + l.guess);
    p.beyond = (uint32_t *)(workspace + l.beyond);
    p.exponent = (int *)(workspace + l.x_exponent);
    p.blocks = l.guess_blocks;  p.exact = l.exact;  p.batch = (int)d.batch;
    for (int a = 0; a < 3; a++) p.in[a] = (int)d.in_size[a];
    p.in_group = (int)plan->in_group;
    p.cells_group = s.cells_group;  p.cells = (int)d.groups * s.cells_group;
    p.pitch = (int)dense_plane_pitch(s);  p.lead = s.lead;
    p.by_channel = d.x_stride[1] == 1 && d.x_stride[4] != 1;
    p.vectors = dense_aligned(plan, io->x, CellKind<Kind>::Channels * convt3d__element_size(d.dtype));
    p.pairs = !p.by_channel && dense_pairs(plan, s, io->x);
    p.width = (int)convt3d__ceil_div(p.pitch, p.by_channel ? SPLIT_THREADS / 4 : SPLIT_THREADS << p.pairs);
    p.height = p.by_channel ? (p.cells + 3) / 4 : p.cells;
    p.d = divisor_of(s.pitch[0]);  p.h = divisor_of(s.pitch[1]);  p.w = divisor_of(s.pitch[2]);
    p.strips = divisor_of(s.strips.count);
    p.strip = s.strips.length;
    p.before = (int)convt3d__ceil_div(s.lead, s.plane * s.strips.count);
    for (int a = 0; a < 5; a++) p.stride[a] = d.x_stride[a];
    return p;
}

// w null: it came packed, and nothing of it is to be done. keep: the pack outlives w.
static DensePackProblem dense_packing(const convt3d__plan *plan, const DenseShape &s, const DenseLayout &l,
                                      const void *w, void *packed, bool keep)
{
    DensePackProblem p = {};
    if (!w) return p;
    p.w = w;
    p.flags = (int *)packed;
    p.rows = (uint4 *)((char *)packed + l.rows);
    p.copy = keep ? (char *)packed + l.copy : nullptr;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.taps = (int)plan->taps;  p.taps_used = s.taps_used;
    p.cells_group = s.cells_group;  p.chunks = s.chunks;
    p.vectors = plan->taps % 4 == 0 && (uintptr_t)w % 16 == 0;
    p.fold = s.fold.taps;  p.fold_step = (int)plan->axis[2].tap_step;  p.channels = s.nb;
    p.scan_blocks = s.mode == DENSE_SPLIT ? s.blocks * s.nb : 0;
    p.octets = s.blocks * s.nb / 8;
    p.pack_blocks = p.octets * s.cells_group;
    memcpy(p.tap, s.tap, sizeof p.tap);
    return p;
}

// A row of launches: each may start, but for what it waits for, while the one before it ends.
struct DenseLaunches {
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

// Whether the channels of a position are 16-byte units, wherever a block of them begins.
static bool dense_y_vectors(const convt3d__plan *plan, const void *y)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size = convt3d__element_size(plan->stored);
    bool aligned = (uintptr_t)y % 16 == 0 && d.y_stride[1] == 1 && plan->out_group * size % 16 == 0;
    for (int a = 0; a < 5; a++) aligned = aligned && (a == 1 || d.y_stride[a] * size % 16 == 0);
    return aligned;
}

// What has no tiles.
static FillProblem dense_fill(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s)
{
    const convt3d_desc &d = plan->desc;
    const bool by_channel = d.y_stride[1] == 1;
    FillProblem p = {};
    if (s.empty == 0) return p;
    p.vectors = dense_y_vectors(plan, io->y) && (uintptr_t)io->bias % 16 == 0;
    p.bias = io->bias;
    p.y = io->y;
    for (int i = 0; i < 5; i++) p.y_stride[i] = d.y_stride[i];
    const int64_t depth = plan->axis[0].out, columns = by_channel ? plan->axis[1].out : d.out_channels;
    p.height = (int)plan->axis[1].out;  p.width = (int)plan->axis[2].out;
    p.items = (uint32_t)(d.batch * columns * depth);
    p.blocks = (int)convt3d__min(convt3d__ceil_div(p.items, SPLIT_THREADS / 32), (int64_t)plan->multiprocessors * 16);
    p.depth = divisor_of(depth);  p.columns = divisor_of(columns);
    p.units = divisor_of(p.vectors ? d.out_channels * convt3d__element_size(d.dtype) / 16 : d.out_channels);
    for (int a = 0; a < 2; a++) p.phases[a] = divisor_of(dense_phases(plan->axis[a]));
    p.rows = s.empty;
    const int height = (int)p.phases[1].by;
    const uint64_t all = UINT64_MAX >> (64 - height);
    for (int i = 0; i < (int)p.phases[0].by; i++)
        if ((s.empty >> (i * height) & all) == all && d.y_stride[4] == 1 && d.y_stride[3] == p.width)
            p.planes |= (uint64_t)1 << i;
    return p;
}

// The launches before the main one: scales of w and x, then both as operands; either may have nothing to do.
template <class C>
convt3d_status dense_prepare(DenseLaunches &launch, const DensePackProblem &w, const GuessProblem &guess,
                             const PlanesProblem &planes, const FillProblem &fill, int64_t guess_blocks)
{
    const int64_t planes_blocks = (int64_t)planes.width * planes.height;
    convt3d_status status = CONVT3D_OK;
    if (w.scan_blocks + guess_blocks > 0)
        status = launch(dense_scan_kernel<C::NB>, w.scan_blocks + guess_blocks, SPLIT_THREADS, 0, w, guess);
    if (status == CONVT3D_OK && w.pack_blocks + planes_blocks > 0)
        status = launch(dense_split_kernel<C::Mode, C::NB>, w.pack_blocks + planes_blocks + fill.blocks, SPLIT_THREADS,
                        0, w, planes, fill);
    if (status == CONVT3D_OK && C::Mode == DENSE_SPLIT && planes_blocks > 0 && !planes.exact)
        status = launch(dense_again_kernel, 132, SPLIT_THREADS, 0, planes);
    return status;
}

static DenseFlags dense_flags(const convt3d_io *io, const DenseShape &s, const DenseLayout &l, const void *packed)
{
    DenseFlags f = {};
    f.x_exponent = s.mode == DENSE_SPLIT ? (const int *)((const char *)io->workspace + l.x_exponent) : nullptr;
    f.subnormal = s.mode == DENSE_TF32 ? (const uint32_t *)((const char *)io->workspace + l.beyond) : nullptr;
    f.w = (const int *)packed;
    f.count = (int)l.flags;
    f.flag = s.mode == DENSE_SPLIT ? NOT_FINITE : 1;
    f.rows = s.mode == DENSE_SPLIT ? 1 : 8;
    f.step = s.mode == DENSE_SPLIT ? 0 : s.blocks * s.nb / 8;
    return f;
}

template <class T, ListForm Form>
DenseFollows<T, Form> dense_follows([[maybe_unused]] const convt3d__plan *plan, [[maybe_unused]] const convt3d_io *io,
                                    [[maybe_unused]] const DenseFlags &flags)
{
    if constexpr (Form == NO_LIST) return {};
    else {
        const List<T> list = list_of<T>(plan, io, 0, plan->fused);
        if constexpr (Form == LIGHT_LIST) return {list.head, light_of(list.common)};
        else return {list, flags, plan->stored != plan->desc.dtype};
    }
}

static DenseRows dense_row_tiles(const DenseShape &s)
{
    DenseRows r = {};
    r.tile_more = -2 * s.fold.reach;
    if (s.strips.rows == 0) return r;
    const int64_t row = s.pitch[2] * s.strips.count, chunks = s.r * 2;
    r.groups = divisor_of(convt3d__ceil_div(s.strips.rows, chunks));
    if (s.strips.depth > 0) r.depth = divisor_of(s.strips.depth);
    r.across = divisor_of(s.strips.across);
    r.strips = divisor_of(s.strips.count);
    r.strip = s.strips.length;
    r.tile_more = (int)(row * chunks - chunks * 64);
    r.chunk_more = (int)(row - 64);
    r.height = s.strips.rows;
    r.unused = 64 - s.strips.across * s.strips.count;
    return r;
}

template <class C>
convt3d_status dense_main(DenseLaunches &launch, const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s,
                          const DenseLayout &l, const void *packed)
{
    const convt3d_desc &d = plan->desc;
    const char *workspace = (const char *)io->workspace;
    DenseProblem p = {};
    p.planes = (const uint4 *)workspace;
    p.weights = (const uint4 *)((const char *)packed + l.rows);
    p.x_exponent = (const int *)(workspace + l.x_exponent);
    p.w_exponent = (const int *)packed;
    p.bias = io->bias;
    p.y = io->y;
    p.batch = (int)d.batch;  p.in_d = (int)d.in_size[0];
    for (int i = 0; i < 5; i++) p.y_stride[i] = d.y_stride[i];
    for (int a = 0; a < 3; a++) { p.out[a] = (int)plan->axis[a].out;  p.stride[a] = (int)d.stride[a]; }
    p.out_group = (int)plan->out_group;  p.blocks_group = s.blocks_group;  p.blocks = s.blocks;
    p.units = s.position_tiles * s.blocks;  p.tiles = p.units * s.table.phases;
    p.pitch = (int)dense_plane_pitch(s);  p.lead = s.lead;
    p.plane_blocks = s.cells_group / 2 / s.chunks;  p.cells = s.cells;
    p.segment = s.segment;  p.x_stages = s.x_stages;  p.more_slots = s.more_slots;
    p.y_vectors = dense_y_vectors(plan, io->y);
    p.d = divisor_of(s.pitch[0]);  p.h = divisor_of(s.pitch[1]);  p.w = divisor_of(s.pitch[2]);
    p.plane = divisor_of(s.plane * s.strips.count);
    p.rows = dense_row_tiles(s);
    p.fold = s.fold;
    p.table = s.table;
    const int64_t grid = convt3d__min(p.tiles, plan->multiprocessors);
    p.full = (int)(p.units / grid * grid);
    p.grid = divisor_of(grid);  p.rest = divisor_of(convt3d__max(1, p.units - p.full));
    p.phases = divisor_of(s.table.phases);  p.block = divisor_of(s.blocks);
    // Where stages are short, looking costs more than it saves unless there is much to skip.
    const int64_t zeros = s.pitch[0] - d.in_size[0];
    p.filled = (int)(((d.in_size[1] - 1) * s.pitch[2] + d.in_size[2]) * s.strips.count);
    p.skips = zeros * s.plane * s.strips.count >= s.tile && (C::Q == 1 || 10 * zeros >= s.pitch[0]) &&
              s.strips.length % s.pitch[0] == 0;
    return launch(dense_kernel<C>, grid, DENSE_THREADS, s.shared, p,
                  dense_follows<typename C::T, C::Form>(plan, io, dense_flags(io, s, l, packed)));
}

template <class C>
convt3d_status dense_repair(DenseLaunches &launch, const convt3d__plan *plan, const convt3d_io *io,
                            const DenseShape &s, const DenseLayout &l, const void *packed)
{
    const convt3d_desc &d = plan->desc;
    DenseRepairProblem p = {};
    p.x = io->x;
    p.w = io->w_packed ? (const char *)packed + l.copy : io->w;
    p.bias = io->bias;
    p.y = io->y;
    p.flags = dense_flags(io, s, l, packed);
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    p.batch = (int)d.batch;  p.channels = (int)d.out_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;
    p.blocks_group = s.blocks_group;  p.row_block = s.nb;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    return launch(dense_repair_kernel<typename C::T, C::RepairForm>, plan->multiprocessors, 256, 0, p,
                  dense_follows<typename C::T, C::RepairForm>(plan, io, p.flags));
}

template <class C>
convt3d_status dense_run(const convt3d__plan *plan, const convt3d_io *io, const DenseShape &s, convt3d_error *error)
{
    const DenseLayout l = dense_layout(plan, s);
    void *packed = io->w_packed ? (void *)io->w_packed : (char *)io->workspace + l.pack;
    constexpr bool looks = C::Mode == DENSE_SPLIT || C::Mode == DENSE_TF32;
    const GuessProblem guess = looks ? dense_guess(plan, io, l) : GuessProblem();
    const PlanesProblem planes = dense_planes<C::Kind>(plan, io, s, l);
    DenseLaunches launch = {io->stream, error, 0};
    const DensePackProblem pack = dense_packing(plan, s, l, io->w_packed ? nullptr : io->w, packed, false);
    convt3d_status status = dense_prepare<C>(launch, pack, guess, planes, dense_fill(plan, io, s),
                                             looks ? plan->desc.batch * l.guess_blocks : 0);
    if (status == CONVT3D_OK) status = dense_main<C>(launch, plan, io, s, l, packed);
    if (status == CONVT3D_OK) status = dense_repair<C>(launch, plan, io, s, l, packed);
    return status;
}

template <class C> convt3d_status dense_ready(const convt3d__plan *plan, convt3d_error *error)
{
    convt3d_status status = convt3d__load_kernel(error, plan, dense_kernel<C>, DENSE_SHARED);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_scan_kernel<C::NB>, 0);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_split_kernel<C::Mode, C::NB>, 0);
    if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, dense_again_kernel, 0);
    if (status == CONVT3D_OK)
        status = convt3d__load_kernel(error, plan, dense_repair_kernel<typename C::T, C::RepairForm>, 0);
    return status;
}

}

#endif
#if CONVT3D__PART(2)

namespace convt3d_cuda {

// What packs must agree on: the block of channels, the chunks of a stage and the order of taps.
static uint64_t dense_variant(const DenseShape &s)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ (uint64_t)((s.columns * 1024 + s.nb) * 16 + s.chunks);
    for (int i = 0; i < s.taps_used; i++) hash = (hash ^ s.tap[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int32_t dense_refusal(char why[96], const char *text)
{
    convt3d__text out = {why, 96, 0};
    convt3d__put(&out, text);
    return 1;
}

}

extern "C" int32_t convt3d__dense_sm90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    DenseShape s;
    if (plan->desc.dtype == CONVT3D_F64) return dense_refusal(why, "f64 has no wgmma");
    if (plan->x_count == 0 || plan->y_count == 0) return dense_refusal(why, "x or y is empty");
    if (dense_mode(plan->desc) == DENSE_SPLIT && plan->in_group < 4)
        return dense_refusal(why, "fewer than 4 input channels a group");
    if (!fits_32_bits(plan)) return dense_refusal(why, "indices beyond 32 bits");
    if (!convt3d__has_sm90a(plan)) return dense_refusal(why, "needs sm_90 and a build with sm_90a code");
    const char *text = dense_shape(plan, &s);
    if (*text) return dense_refusal(why, text);
    plan->pack_variant = dense_variant(s);
    return 0;
}

// Seconds: bytes of the passes before at 3.5e12; the matrix unit's cycles, of which it spends nine in ten, and for each
// tile 2000 and one for 14 bytes of results, at 1.65e9 (what was measured of an H200's clock); 10 us of launches.
// Weights count once more for what their packing scatters, rows without taps as bytes.
extern "C" double convt3d__dense_sm90_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    DenseShape s;
    if (*dense_shape(plan, &s)) return 1e30;
    const DenseLayout l = dense_layout(plan, s);
    const double size = (double)convt3d__element_size(plan->desc.dtype), blocks = (double)plan->multiprocessors;
    const double stored = (double)convt3d__element_size(plan->stored);
    double bytes = (double)plan->x_count * size + (double)l.x_exponent + 3.0 * (double)l.packed, rows = 0;
    for (uint64_t left = s.empty; left > 0; left &= left - 1) rows++;
    bytes += rows * (double)plan->y_count * size / (double)(dense_phases(plan->axis[0]) * dense_phases(plan->axis[1]));
    const double tiles = (double)s.position_tiles * s.blocks * s.table.phases;
    const double rounds = tiles < blocks ? 1 : tiles / blocks;      // what is left over is dealt out by phases
    const double steps = rounds / s.table.phases * (s.r * 2) * s.taps_used * (s.cells_group / 2);
    const double results = (double)s.r * 128 * s.q * s.nb * stored;
    const double cycles = steps * dense_step_cycles(s.mode, s.columns) / 0.9 + rounds * (2000 + results / 14);
    return bytes / 3.5e12 + cycles / 1.65e9 + 1e-5;
}

extern "C" int64_t convt3d__dense_sm90_workspace(const convt3d__plan *plan)
{
    convt3d_cuda::DenseShape s;
    return *convt3d_cuda::dense_shape(plan, &s) ? 0 : convt3d_cuda::dense_layout(plan, s).workspace;
}

extern "C" int64_t convt3d__dense_sm90_packed(const convt3d__plan *plan)
{
    convt3d_cuda::DenseShape s;
    return *convt3d_cuda::dense_shape(plan, &s) ? 0 : convt3d_cuda::dense_layout(plan, s).packed;
}

extern "C" convt3d_status convt3d__dense_sm90_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                   convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dense_shape(plan, &s);
    return dense_tile<NO_LIST>(s, [&](auto tile) {      // packs of both are made alike
        DenseLaunches launch = {stream, error, 0};
        return dense_prepare<decltype(tile)>(launch, dense_packing(plan, s, dense_layout(plan, s), w, packed, true),
                                             GuessProblem(), PlanesProblem(), FillProblem(), 0);
    });
}

extern "C" convt3d_status convt3d__dense_sm90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    if (s.form == WHOLE_LIST) return convt3d__dense_sm90_list_ready(plan, error);
    auto ready = [&](auto tile) { return dense_ready<decltype(tile)>(plan, error); };
    return s.form == LIGHT_LIST ? dense_tile<LIGHT_LIST>(s, ready) : dense_tile<NO_LIST>(s, ready);
}

extern "C" convt3d_status convt3d__dense_sm90_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    dense_shape(plan, &s);
    if (s.form == WHOLE_LIST) return convt3d__dense_sm90_list_run(plan, io, error);
    auto run = [&](auto tile) { return dense_run<decltype(tile)>(plan, io, s, error); };
    return s.form == LIGHT_LIST ? dense_tile<LIGHT_LIST>(s, run) : dense_tile<NO_LIST>(s, run);
}

#endif
#if CONVT3D__PART(12)

extern "C" convt3d_status convt3d__dense_sm90_list_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    return dense_tile<WHOLE_LIST>(s, [&](auto tile) { return dense_ready<decltype(tile)>(plan, error); });
}

extern "C" convt3d_status convt3d__dense_sm90_list_run(const convt3d__plan *plan, const convt3d_io *io,
                                                       convt3d_error *error)
{
    using namespace convt3d_cuda;
    DenseShape s;
    dense_shape(plan, &s);
    return dense_tile<WHOLE_LIST>(s, [&](auto tile) { return dense_run<decltype(tile)>(plan, io, s, error); });
}

#endif
