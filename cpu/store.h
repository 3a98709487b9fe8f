/* store.h - sums that lie as lines, one for each W phase and channel, take their places in y as rows.
 *
 * Idea: the rows of one output depth and of all phases along height leave together, in the order of y, so that what is
 * written is contiguous: around the caches where y is larger than they are, in whole lines also where rows end inside
 * one. The W phases are woven in registers.
 */
#ifndef CONVT3D_CPU_STORE_H
#define CONVT3D_CPU_STORE_H

/* One run: output rows of one depth and one phase along height with equal taps; for each W phase a list of taps. */
typedef struct convt3d__cpu_stripe {
    int64_t oh, rows;                   /* oh, oh + stride, ...: rows of them */
    int64_t slot;                       /* of the first row among the rows of sums */
    convt3d__taps height;
    const convt3d__cpu_tap *tap[CONVT3D__CPU_MOST_PHASES];
    int64_t taps[CONVT3D__CPU_MOST_PHASES];
} convt3d__cpu_stripe;

/* Runs of one output depth that are summed and stored together. */
typedef struct convt3d__cpu_sheet {
    int64_t od, runs, whole;            /* whole: all rows of the unit, of all phases along height */
    int64_t channel;                    /* the first one that is stored together */
    convt3d__taps depth;
    convt3d__cpu_tap *list;             /* where the next list of taps goes */
    convt3d__cpu_stripe run[CONVT3D__CPU_MOST_RUNS];
} convt3d__cpu_sheet;

/* Where the sums of one W phase, channel and row begin. */
static char *convt3d__cpu_sums(const convt3d__cpu_unit *u, int64_t phase, int64_t channel, int64_t slot)
{
    int64_t line = phase * u->b->lines + channel;
    return u->sum + (line * u->b->sum_pitch + slot * u->sum_row) * convt3d__cpu_real_size(u->p);
}

/* Rows of one channel that take their places in y together: `rows` of them from output row oh on, in steps of `step`.
 * The sums of the first are in `slot`; `high` phases along height alternate. */
typedef struct convt3d__cpu_rows { int64_t oh, step, rows, slot, high; } convt3d__cpu_rows;

static int64_t convt3d__cpu_slot(const convt3d__cpu_unit *u, const convt3d__cpu_rows *r, int64_t row)
{
    return r->slot + row % r->high * u->b->size[1] + row / r->high;
}

/* Rows [row, row + rows) of one channel, n outputs each, their phases woven to `to`. */
static void convt3d__cpu_weave_rows(const convt3d__cpu_unit *u, const convt3d__cpu_rows *r, int64_t row, int64_t rows,
                                    int64_t channel, int64_t n, void *to, int64_t to_pitch, int64_t stream)
{
    const void *from[CONVT3D__CPU_MOST_PHASES];
    convt3d__cpu_weave w;
    int64_t i;
    w.stride = convt3d__cpu_phases(&u->p->axis[2]);
    for (i = 0; i < w.stride; i++) from[i] = convt3d__cpu_sums(u, i, channel, convt3d__cpu_slot(u, r, row));
    w.from = from;
    w.from_pitch = u->sum_row;
    w.from_high = u->b->size[1] * u->sum_row;
    w.high = rows == 1 ? 1 : r->high;
    w.to = to;
    w.to_pitch = to_pitch;
    w.length = n;
    w.rows = rows;
    w.stream = (int32_t)stream;
    u->leaves->weave[u->p->desc.dtype == CONVT3D_F64](&w);
}

/* Whether rows may be woven straight into y: of the accumulator's type, column by column. */
static int convt3d__cpu_straight(const convt3d__cpu_unit *u)
{
    return u->p->desc.y_stride[4] == 1 && convt3d__cpu_y_type(u->p) <= CONVT3D_F64;
}

/* One row of `channels` channels that lie side by side in y, from `at` on. */
static void convt3d__cpu_store_columns(const convt3d__cpu_unit *u, const convt3d__cpu_rows *r, int64_t row,
                                       convt3d__cpu_place at, int64_t channels, int64_t n)
{
    int64_t real = convt3d__cpu_real_size(u->p), phases = convt3d__cpu_phases(&u->p->axis[2]), c, j, k, m;
    int64_t pitch = convt3d__cpu_round_up(u->b->size[2] * phases + 16, 16);
    const char *rows = phases == 1 ? convt3d__cpu_sums(u, 0, 0, convt3d__cpu_slot(u, r, row)) : u->woven;
    for (c = 0; phases > 1 && c < channels; c++)
        convt3d__cpu_weave_rows(u, r, row, 1, c, n, u->woven + c * pitch * real, 0, 0);
    if (phases == 1) pitch = u->b->sum_pitch;
    for (j = 0; j < n; j += 64) {
        m = convt3d__min(64, n - j);
        u->leaves->transpose[u->p->desc.dtype == CONVT3D_F64](u->transposed, u->b->store, rows + j * real, pitch,
                                                              channels, m);
        for (k = 0; k < m; k++, at.ow++)
            convt3d__cpu_put(u, &at, 1, u->transposed + k * u->b->store * real, channels);
    }
}

/* The rows of one channel. */
static void convt3d__cpu_store_rows(const convt3d__cpu_unit *u, const convt3d__cpu_rows *r, int64_t channel,
                                    convt3d__cpu_place at, int64_t n)
{
    const int64_t *stride = u->p->desc.y_stride;
    const void *woven = u->woven;
    int64_t row;
    if (convt3d__cpu_straight(u)) {
        int64_t index = u->n * stride[0] + at.oc * stride[1] + at.od * stride[2] + at.oh * stride[3] + at.ow;
        convt3d__cpu_weave_rows(u, r, 0, r->rows, channel, n,
                                (char *)u->io->y + index * convt3d__element_size(convt3d__cpu_y_type(u->p)),
                                r->step * stride[3], u->b->stream);
        return;
    }
    for (row = 0; row < r->rows; row++, at.oh += r->step) {
        if (convt3d__cpu_phases(&u->p->axis[2]) == 1)
            woven = convt3d__cpu_sums(u, 0, channel, convt3d__cpu_slot(u, r, row));
        else convt3d__cpu_weave_rows(u, r, row, 1, channel, n, u->woven, 0, 0);
        convt3d__cpu_put(u, &at, 4, woven, n);
    }
}

/* The list on finished rows of one channel and phase, while they are sums. Where no entry looks at the place, all rows
 * are one line, with what lies between them. */
static void convt3d__cpu_apply_rows(const convt3d__cpu_unit *u, const convt3d__cpu_rows *r, convt3d__cpu_place at,
                                    int64_t channel, int64_t phase)
{
    int64_t columns = convt3d__cpu_columns_of(u, phase), step = u->p->axis[2].stride, row;
    int64_t slots = r->high > 1 ? r->high * u->b->size[1] : r->rows;
    if (columns <= 0) return;
    at.oc += channel;
    at.ow += phase;
    if (convt3d__cpu_list_is_blind(u->p)) {
        convt3d__cpu_apply(u, &at, 4, step, convt3d__cpu_sums(u, phase, channel, r->slot),
                           (slots - 1) * u->sum_row + columns);
        return;
    }
    for (row = 0; row < r->rows; row++, at.oh += r->step)
        convt3d__cpu_apply(u, &at, 4, step, convt3d__cpu_sums(u, phase, channel, convt3d__cpu_slot(u, r, row)),
                           columns);
}

/* Finished rows of `channels` channels. */
static void convt3d__cpu_store(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, const convt3d__cpu_rows *r,
                               int64_t channels)
{
    const convt3d__axis *a = &u->p->axis[2];
    const int64_t *stride = u->p->desc.y_stride;
    int64_t row, n = convt3d__min(u->end[2] * a->stride, a->out) - u->first[2] * a->stride;
    convt3d__cpu_place at;
    at.oc = sheet->channel;
    at.od = sheet->od;
    at.oh = r->oh;
    at.ow = u->first[2] * a->stride;
    for (row = 0; u->p->fused > 0 && row < channels * convt3d__cpu_phases(a); row++)
        convt3d__cpu_apply_rows(u, r, at, row % channels, row / channels);
    if (stride[1] == 1 && channels > 1 && stride[4] != 1) {
        for (row = 0; row < r->rows; row++, at.oh += r->step) convt3d__cpu_store_columns(u, r, row, at, channels, n);
        return;
    }
    for (row = 0; row < channels; row++, at.oc++) convt3d__cpu_store_rows(u, r, row, at, n);
}

/* The rows of a sheet: all at once in the order of y, or run by run. */
static void convt3d__cpu_store_sheet(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, int64_t channels)
{
    const convt3d__axis *a = &u->p->axis[1];
    convt3d__cpu_rows r;
    int64_t i;
    if (sheet->whole) {
        r.oh = u->first[1] * a->stride;
        r.step = 1;
        r.rows = convt3d__min(u->end[1] * a->stride, a->out) - r.oh;
        r.slot = 0;
        r.high = convt3d__cpu_phases(a);
        convt3d__cpu_store(u, sheet, &r, channels);
        return;
    }
    for (i = 0; i < sheet->runs; i++) {
        r.oh = sheet->run[i].oh;
        r.step = a->stride;
        r.rows = sheet->run[i].rows;
        r.slot = sheet->run[i].slot;
        r.high = 1;
        convt3d__cpu_store(u, sheet, &r, channels);
    }
}
#endif
