/* unit.h - what all ways to sum share: a unit of work, its packed inputs, its taps, and where finished values leave.
 */
#ifndef CONVT3D_CPU_UNIT_H
#define CONVT3D_CPU_UNIT_H

/* An output: channel, depth, row and column. */
typedef struct convt3d__cpu_place { int64_t oc, od, oh, ow; } convt3d__cpu_place;

typedef struct convt3d__cpu_unit {
    const convt3d__plan *p;
    const convt3d__cpu_blocking *b;
    const convt3d__cpu_leaves *leaves;
    const convt3d_io *io;
    const void *packed;                 /* weights */
    char *x;                            /* this thread's buffers; x: element 0 of the first row, behind the gap */
    char *sum, *woven, *transposed, *product;
    convt3d__cpu_tap *tap;
    int64_t *at;                        /* where a panel's positions have their inputs, and, for those that scatter, */
    convt3d__cpu_place *place;          /* their outputs */
    int64_t n, group, groups;           /* sample; first group and number of them */
    int64_t block, block_end;           /* of the unit's groups, all in one row: group*blocks + block */
    int64_t first[3], end[3];           /* positions */
    int64_t in_first[3], in_end[3];     /* inputs packed */
    int64_t plane, pitch, column;       /* of packed x: from depth to depth, row to row, column to column, */
    int64_t split[3], part[3];          /* along each axis: phases that lie side by side, from one to the next */
    int64_t sum_row;                    /* from row to row of sums */
    int32_t narrow;                     /* W is mostly border: rows are cut into stretches of equal taps */
} convt3d__cpu_unit;

/* The inputs that the unit's positions read along each axis, and whether rows have room for W's zeros. */
static void convt3d__cpu_unit_inputs(convt3d__cpu_unit *u)
{
    int64_t low = 0, high = 0, zeros, extent;
    int i;
    for (i = 0; i < 3; i++) {
        u->split[i] = convt3d__cpu_split(u->p, u->b, i) ? u->p->axis[i].gcd : 1;
        convt3d__cpu_window(&u->p->axis[i], u->split[i] > 1, u->first[i], u->end[i], &low, &high);
        extent = convt3d__cpu_extent(u->p, u->b, i);
        u->in_first[i] = convt3d__min(convt3d__max(low, 0), extent);
        u->in_end[i] = convt3d__max(u->in_first[i], convt3d__min(high, extent));
        if (i == 1 && u->b->tall) { u->in_first[i] = low;  u->in_end[i] = convt3d__max(low, high); }
    }
    zeros = convt3d__max(u->in_first[2] - low, high - u->in_end[2]);
    u->narrow = zeros > u->b->gap || u->in_first[2] == u->in_end[2];
    u->pitch = convt3d__max(u->in_end[2] - u->in_first[2] + (u->narrow ? 0 : zeros), u->end[2] - u->first[2]);
    u->plane = u->b->plane;
    u->column = 1;
    u->part[2] = (u->in_end[1] - u->in_first[1]) * u->pitch;
    u->part[1] = u->split[2] * u->part[2];
    u->sum_row = convt3d__cpu_sum_row(u->b, u->end[2] - u->first[2], u->pitch);
}

/* Where packed x has input i of an axis, relative to the first one packed; `step` from one to the next. */
static int64_t convt3d__cpu_x_at(const convt3d__cpu_unit *u, int axis, int64_t i, int64_t step)
{
    if (u->split[axis] == 1) return (i - u->in_first[axis]) * step;
    return convt3d__floor_mod(i, u->split[axis]) * u->part[axis] +
           (convt3d__floor_div(i, u->split[axis]) - u->in_first[axis]) * step;
}

/* n columns of one row of one channel, zeros behind them. What is `ahead` elements further is fetched: processors do
 * not follow rows from page to page. */
static void convt3d__cpu_pack_row(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t n, int64_t ahead)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), step = p->desc.x_stride[4] * u->split[2];
    if (n > 0 && step <= 4)
        convt3d__cpu_prefetch(convt3d__cpu_element(u->io->x, p->desc.dtype, from + ahead),
                              n * step * convt3d__element_size(p->desc.dtype));
    if (n > 0)
        convt3d__cpu_gather(u->leaves, p->desc.dtype, to, convt3d__cpu_element(u->io->x, p->desc.dtype, from), step, n);
    memset(to + n * real, 0, (size_t)((u->pitch - n) * real));
}

/* The same of all channels where they lie side by side, as one row. */
static void convt3d__cpu_pack_columns(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t channels, int64_t n)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), pitch = u->b->x_pitch, c;
    convt3d__cpu_gather_lines(u->leaves, p->desc.dtype, to, pitch, convt3d__cpu_element(u->io->x, p->desc.dtype, from),
                              p->desc.x_stride[4] * u->split[2], channels, n);
    for (c = 0; c < channels; c++) memset(to + (c * pitch + n) * real, 0, (size_t)((u->pitch - n) * real));
}

/* Columns of a phase that are packed, those from `iw` on. */
static int64_t convt3d__cpu_pack_count(const convt3d__cpu_unit *u, int64_t iw)
{
    int64_t n = convt3d__ceil_div(u->p->axis[2].in - iw, u->split[2]);
    return convt3d__max(0, convt3d__min(n, u->in_end[2] - u->in_first[2]));
}

/* From a row of a channel to the one that is packed CONVT3D__CPU_ROWS_AHEAD bytes later, of it or of another channel;
 * 0 where x has none: strides may be so long that nothing outside of x has an address. */
static int64_t convt3d__cpu_rows_ahead(const convt3d__cpu_unit *u, int64_t channel, int64_t row, int64_t ih, int64_t n)
{
    const convt3d__plan *p = u->p;
    int64_t rows = u->in_end[1] - u->in_first[1];
    int64_t next = row + CONVT3D__CPU_ROWS_AHEAD / convt3d__max(1, n * convt3d__cpu_real_size(p)) + 1;
    int64_t down = (next % rows - row) * u->split[1];
    if (channel + next / rows >= p->desc.in_channels || ih + down < 0 || ih + down >= p->axis[1].in) return 0;
    return next / rows * p->desc.x_stride[1] + down * p->desc.x_stride[3];
}

/* Rows of one channel, from row ih of the input on and `split` apart; `from` is the first element of its depth. */
static void convt3d__cpu_pack_rows(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t channel, int64_t ih,
                                   int64_t n)
{
    const convt3d__plan *p = u->p;
    int64_t rows = u->in_end[1] - u->in_first[1], row, real = convt3d__cpu_real_size(p);
    for (row = 0; row < rows; row++, ih += u->split[1], to += u->pitch * real) {
        if (ih < 0 || ih >= p->axis[1].in) convt3d__cpu_pack_row(u, to, from, 0, 0);
        else convt3d__cpu_pack_row(u, to, from + ih * p->desc.x_stride[3], n,
                                   convt3d__cpu_rows_ahead(u, channel, row, ih, n));
    }
}

/* The same of all channels, from `channel` on, where they lie side by side. */
static void convt3d__cpu_pack_side_by_side(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t channel,
                                           int64_t ih, int64_t n)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), channels = u->groups * p->in_group, row, c;
    (void)channel;
    for (row = u->in_first[1]; row < u->in_end[1]; row++, ih += u->split[1], to += u->pitch * real) {
        if (n > 0 && ih >= 0 && ih < p->axis[1].in)
            convt3d__cpu_pack_columns(u, to, from + ih * p->desc.x_stride[3], channels, n);
        else for (c = 0; c < channels; c++)
            memset(to + c * u->b->x_pitch * real, 0, (size_t)(u->pitch * real));
    }
}

/* One depth of one channel or of all: each phase of its rows and columns. */
static void convt3d__cpu_pack_phases(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t channel,
                                     int side_by_side)
{
    int64_t ph, pw, ih, iw, real = convt3d__cpu_real_size(u->p);
    for (ph = 0; ph < u->split[1]; ph++)
        for (pw = 0; pw < u->split[2]; pw++) {
            char *part = to + (ph * u->part[1] + pw * u->part[2]) * real;
            ih = u->in_first[1] * u->split[1] + ph;
            iw = u->in_first[2] * u->split[2] + pw;
            (side_by_side ? convt3d__cpu_pack_side_by_side : convt3d__cpu_pack_rows)(
                u, part, from + iw * u->p->desc.x_stride[4], channel, ih, convt3d__cpu_pack_count(u, iw));
        }
}

/* Channel by channel where they do not lie side by side, since rows of one channel lie near each other. */
static void convt3d__cpu_pack_x(const convt3d__cpu_unit *u)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.x_stride;
    int64_t real = convt3d__cpu_real_size(p), channels = u->groups * p->in_group, first = u->group * p->in_group, id, c;
    int64_t used = u->split[1] * u->part[1];
    int side_by_side = stride[1] == 1 && channels > 1 && stride[4] != 1;
    if (u->in_first[2] == u->in_end[2]) return;
    for (c = 1; c <= u->b->gap; c++) memset(u->x - c * real, 0, (size_t)real);
    for (id = u->in_first[0]; id < u->in_end[0]; id++) {
        char *plane = u->x + (id - u->in_first[0]) * u->b->plane * real;
        int64_t from = u->n * stride[0] + first * stride[1] + id * stride[2];
        if (side_by_side) convt3d__cpu_pack_phases(u, plane, from, first, 1);
        else for (c = 0; c < channels; c++)
            convt3d__cpu_pack_phases(u, plane + c * u->b->x_pitch * real, from + c * stride[1], first + c, 0);
        for (c = 0; c < channels; c++)
            memset(plane + (c * u->b->x_pitch + used) * real, 0, (size_t)((u->b->x_pitch - used) * real));
    }
}

/* How many of n positions, from that of output o on, have the same taps: until the first tap's input or one more tap
 * crosses an end of the input. */
static int64_t convt3d__cpu_equal_taps(const convt3d__axis *a, int64_t o, int64_t n, convt3d__taps *taps)
{
    int64_t i;
    *taps = convt3d__cpu_taps_of(a, o, 1);
    if (taps->count > 0 && a->in_step < 0) {            /* until the last tap leaves or one enters */
        int64_t last = taps->k + taps->count - 1;
        n = convt3d__min(n, convt3d__floor_div(a->in - 1 + a->padding - last * a->dilation, a->gcd) - o + 1);
        if (taps->k > 0)
            n = convt3d__min(n, convt3d__ceil_div(a->padding - (taps->k - 1) * a->dilation, a->gcd) - o);
        return n;
    }
    if (taps->count > 0) {
        n = convt3d__min(n, a->in - taps->i);
        if (taps->k + taps->count * a->tap_step < a->kernel) n = convt3d__min(n, taps->count * a->in_step - taps->i);
        return n;
    }
    for (i = 1; i < n && convt3d__cpu_taps_of(a, o + i * a->stride, 1).count == 0; i++) { }
    return i;
}

/* All taps of the phase of output o, inside the input or not. */
static convt3d__taps convt3d__cpu_whole_taps(const convt3d__axis *a, int64_t o)
{
    convt3d__taps taps = {0, 0, 0};
    int64_t k = convt3d__first_tap(a, o);
    if (k < 0) return taps;
    taps.k = k;
    taps.i = (o + a->padding - k * a->dilation) / a->stride;       /* exact */
    taps.count = (a->kernel - 1 - k) / a->tap_step + 1;
    return taps;
}

/* The list of taps of a line, from those along each axis; shifts are relative to the packed x of a group. A stack takes
 * the taps along height by itself. */
static int64_t convt3d__cpu_list_taps(const convt3d__cpu_unit *u, const convt3d__taps *d, const convt3d__taps *h,
                                  const convt3d__taps *w, convt3d__cpu_tap *list)
{
    const convt3d__axis *a = u->p->axis;
    int64_t i, j, k, n = 0, high = u->b->stack ? convt3d__min(h->count, 1) : h->count;
    for (i = 0; i < d->count; i++)
        for (j = 0; j < high; j++) {
            int64_t at = convt3d__cpu_x_at(u, 0, d->i - i * a[0].in_step, u->plane) +
                         convt3d__cpu_x_at(u, 1, h->i - j * a[1].in_step, u->pitch);
            int64_t tap = ((d->k + i * a[0].tap_step) * a[1].kernel + h->k + j * a[1].tap_step) * a[2].kernel;
            for (k = 0; k < w->count; k++, n++) {
                list[n].x = at + convt3d__cpu_x_at(u, 2, w->i - k * a[2].in_step, u->column);
                list[n].w = tap + w->k + k * a[2].tap_step;
            }
        }
    return n;
}

/* What each of ROWS channels starts from. */
static void convt3d__cpu_start(const convt3d__cpu_unit *u, int64_t oc, int64_t channels,
                               double start[CONVT3D__CPU_MOST_PANEL])
{
    memset(start, 0, CONVT3D__CPU_MOST_PANEL * sizeof *start);
    if (u->io->bias)
        convt3d__cpu_gather(u->leaves, u->p->desc.dtype, start,
                            convt3d__cpu_element(u->io->bias, u->p->desc.dtype, oc), 1, channels);
}

static int64_t convt3d__cpu_columns_of(const convt3d__cpu_unit *u, int64_t phase)
{
    const convt3d__axis *a = &u->p->axis[2];
    return convt3d__min(u->end[2], convt3d__ceil_div(a->out - phase, a->stride)) - u->first[2];
}

/* Finished values, bias and list included, become elements of y: n of them from `at` on, along the axis of that number
 * (1: channels; 4: a row). Only rows that need no rounding (convt3d__cpu_straight) do not come by. */
static void convt3d__cpu_put(const convt3d__cpu_unit *u, const convt3d__cpu_place *at, int axis, const void *values,
                             int64_t n)
{
    const int64_t *stride = u->p->desc.y_stride;
    int32_t type = convt3d__cpu_y_type(u->p);
    int64_t index = u->n * stride[0] + at->oc * stride[1] + at->od * stride[2] + at->oh * stride[3] +
                    at->ow * stride[4];
    convt3d__cpu_scatter(u->leaves, type, (char *)u->io->y + index * convt3d__element_size(type), stride[axis],
                         values, n);
}
#endif
