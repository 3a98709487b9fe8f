/* panels.h - sums by panels: vectors along output channels.
 *
 * Idea: a tile is some positions by one or two vectors of channels: it loads aligned weights and broadcasts values of
 * x, so positions come in any order and x is read at no odd address. x is packed as [depth][height][width][channel],
 * or read where it is. Positions with equal taps are listed together, so nothing outside the input is multiplied. Sums
 * are put position by position where channels lie side by side in y, and channel by channel where rows are short;
 * elsewhere they are transposed into lines.
 */
#ifndef CONVT3D_CPU_PANELS_H
#define CONVT3D_CPU_PANELS_H

/* x packed as [depth][height][width][channel], or where it is. */
static void convt3d__cpu_panel_x(convt3d__cpu_unit *u)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.x_stride;
    int64_t real = convt3d__cpu_real_size(p), id, ih, n, rows;
    int64_t first = u->n * stride[0] + u->group * p->in_group * stride[1];
    u->column = p->in_group;
    u->pitch = u->b->pitch;
    if (u->b->in_place) {
        u->x = (char *)(uintptr_t)convt3d__cpu_element(u->io->x, p->desc.dtype, first);
        memset(u->in_first, 0, sizeof u->in_first);
        u->plane = stride[2];
        u->pitch = stride[3];
        u->column = stride[4];
        return;
    }
    n = u->in_end[2] - u->in_first[2];
    rows = n * stride[4] == stride[3] && n * u->column == u->pitch ? u->in_end[1] - u->in_first[1] : 1;  /* end to end */
    for (id = u->in_first[0]; id < u->in_end[0]; id++)
        for (ih = u->in_first[1]; ih < u->in_end[1] && n > 0; ih += rows) {
            char *to = u->x + ((id - u->in_first[0]) * u->plane + (ih - u->in_first[1]) * u->pitch) * real;
            int64_t from = first + id * stride[2] + ih * stride[3] + u->in_first[2] * stride[4];
            convt3d__cpu_gather_columns(u->leaves, p->desc.dtype, to, p->in_group,
                                        convt3d__cpu_element(u->io->x, p->desc.dtype, from), stride[1], stride[4],
                                        p->in_group, rows * n);
        }
}

/* The sums of the listed positions, which have equal taps, for one block of channels. */
static void convt3d__cpu_sum_panel(const convt3d__cpu_unit *u, int64_t block, int64_t taps, int64_t positions)
{
    const convt3d__plan *p = u->p;
    int64_t oc = (u->group + block / u->b->blocks) * p->out_group + block % u->b->blocks * u->b->rows, first;
    int64_t channels = convt3d__min(u->b->rows, p->out_group - block % u->b->blocks * u->b->rows);
    int64_t real = convt3d__cpu_real_size(p);
    const char *w = convt3d__cpu_block_weights(p, u->b, u->packed, u->group * u->b->blocks + block);
    double start[CONVT3D__CPU_MOST_PANEL];
    convt3d__cpu_panel panel;
    convt3d__cpu_start(u, oc, channels, start);
    panel.start = start;
    panel.sum = u->product;
    panel.tap = u->tap;
    panel.taps = taps;
    panel.at = u->at;
    panel.positions = positions;
    for (first = 0; first < p->in_group; first += u->b->ic_block) {
        panel.channels = convt3d__min(u->b->ic_block, p->in_group - first);
        panel.x = u->x + first * real;
        panel.w = w + first * p->taps * u->b->rows * real;
        u->leaves->panel[p->desc.dtype == CONVT3D_F64][u->b->panel - 1](&panel);
        panel.start = NULL;
        if (taps == 0) break;
    }
}

/* Lines of sums by panels: pieces of rows with equal taps, as many as a list holds, transposed into their lines. */
static void convt3d__cpu_panel_stretch(const convt3d__cpu_unit *u, const convt3d__cpu_stripe *run, int64_t block,
                                       int64_t channel, int64_t phase, int64_t j, int64_t n, int64_t taps)
{
    int64_t real = convt3d__cpu_real_size(u->p), most = convt3d__max(1, CONVT3D__CPU_LIST / n);
    int64_t row, rows, part, columns, r, c;
    for (row = 0; row < run->rows; row += rows) {
        rows = convt3d__min(most, run->rows - row);
        for (part = 0; part < n; part += columns) {
            columns = convt3d__min(n - part, CONVT3D__CPU_LIST);
            for (r = 0; r < rows; r++)
                for (c = 0; c < columns; c++)
                    u->at[r * columns + c] = (row + r) * u->pitch * convt3d__cpu_step(&u->p->axis[1]) +
                                             (part + c) * u->column * convt3d__cpu_step(&u->p->axis[2]);
            convt3d__cpu_sum_panel(u, block, taps, rows * columns);
            for (r = 0; r < rows; r++)
                u->leaves->transpose[u->p->desc.dtype == CONVT3D_F64](
                    convt3d__cpu_sums(u, phase, channel, run->slot + row + r) + (j + part) * real, u->b->sum_pitch,
                    u->product + r * columns * u->b->rows * real, u->b->rows, columns, u->b->rows);
        }
    }
}

static void convt3d__cpu_panel_sheet(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, int64_t block,
                                     int64_t channel)
{
    const convt3d__axis *a = &u->p->axis[2];
    int64_t i, phase, columns, j, n, taps;
    convt3d__taps width;
    for (i = 0; i < sheet->runs; i++)
        for (phase = 0; phase < convt3d__cpu_phases(a); phase++) {
            columns = convt3d__cpu_columns_of(u, phase);
            for (j = 0; j < columns; j += n) {
                n = convt3d__cpu_equal_taps(a, (u->first[2] + j) * a->stride + phase, columns - j, &width);
                taps = convt3d__cpu_list_taps(u, &sheet->depth, &sheet->run[i].height, &width, u->tap);
                convt3d__cpu_panel_stretch(u, &sheet->run[i], block, channel, phase, j, n, taps);
            }
        }
}

/* n values become elements of y, `at` from `to` on. */
static void convt3d__cpu_spread(const convt3d__cpu_unit *u, char *to, const int64_t *at, const void *values, int64_t n)
{
    int32_t type = convt3d__cpu_y_type(u->p);
    uint16_t narrow[CONVT3D__CPU_LIST];
    int64_t j;
    if (type == CONVT3D_F64) {
        for (j = 0; j < n; j++) ((double *)(void *)to)[at[j]] = ((const double *)values)[j];
    } else if (type == CONVT3D_F32) {
        for (j = 0; j < n; j++) ((float *)(void *)to)[at[j]] = ((const float *)values)[j];
    } else {
        u->leaves->narrow[type == CONVT3D_BF16](narrow, (const float *)values, n);
        for (j = 0; j < n; j++) ((uint16_t *)(void *)to)[at[j]] = narrow[j];
    }
}

/* The sums of the listed positions put channel by channel: one channel's outputs lie near each other in y, one
 * position's do not. */
static void convt3d__cpu_put_channels(const convt3d__cpu_unit *u, int64_t oc, int64_t channels, int64_t positions)
{
    const int64_t *stride = u->p->desc.y_stride;
    int64_t real = convt3d__cpu_real_size(u->p), size = convt3d__element_size(convt3d__cpu_y_type(u->p)), j, c;
    int64_t at[CONVT3D__CPU_LIST];
    char *lines = u->product + CONVT3D__CPU_LIST * u->b->rows * real;
    char *to = (char *)u->io->y + (u->n * stride[0] + oc * stride[1]) * size;
    for (j = 0; j < positions; j++)
        at[j] = u->place[j].od * stride[2] + u->place[j].oh * stride[3] + u->place[j].ow * stride[4];
    u->leaves->transpose[u->p->desc.dtype == CONVT3D_F64](lines, CONVT3D__CPU_LIST, u->product, u->b->rows, positions,
                                                          channels);
    for (c = 0; c < channels; c++, to += stride[1] * size)
        convt3d__cpu_spread(u, to, at, lines + c * CONVT3D__CPU_LIST * real, positions);
}

/* The sums of the listed positions, put in their places. */
static void convt3d__cpu_finish_panel(const convt3d__cpu_unit *u, int64_t block, int64_t taps, int64_t positions)
{
    int64_t oc = block % u->b->blocks * u->b->rows, channels = convt3d__min(u->b->rows, u->p->out_group - oc), j;
    int side_by_side = u->p->desc.y_stride[1] == 1;
    if (positions == 0) return;
    convt3d__cpu_sum_panel(u, block, taps, positions);
    for (j = 0; (side_by_side || u->p->fused > 0) && j < positions; j++) {
        char *values = u->product + j * u->b->rows * convt3d__cpu_real_size(u->p);
        u->place[j].oc = (u->group + block / u->b->blocks) * u->p->out_group + oc;
        if (u->p->fused > 0) convt3d__cpu_apply(u, &u->place[j], 1, 1, values, channels);
        if (side_by_side) convt3d__cpu_put(u, &u->place[j], 1, values, channels);
    }
    if (side_by_side) return;
    convt3d__cpu_put_channels(u, (u->group + block / u->b->blocks) * u->p->out_group + oc, channels, positions);
}

/* A box of phase positions from output o[] on whose taps are equal: one list after another. */
static void convt3d__cpu_panel_box(const convt3d__cpu_unit *u, int64_t block, const int64_t o[3], const int64_t size[3],
                                   int64_t taps)
{
    const convt3d__axis *a = u->p->axis;
    int64_t plane = u->plane * convt3d__cpu_step(&a[0]), pitch = u->pitch * convt3d__cpu_step(&a[1]);
    int64_t column = u->column * convt3d__cpu_step(&a[2]), d, h, w, n = 0;
    for (d = 0; d < size[0]; d++)
        for (h = 0; h < size[1]; h++)
            for (w = 0; w < size[2]; w++) {
                u->at[n] = d * plane + h * pitch + w * column;
                u->place[n].od = o[0] + d * a[0].stride;
                u->place[n].oh = o[1] + h * a[1].stride;
                u->place[n].ow = o[2] + w * a[2].stride;
                if (++n < CONVT3D__CPU_LIST) continue;
                convt3d__cpu_finish_panel(u, block, taps, n);
                n = 0;
            }
    convt3d__cpu_finish_panel(u, block, taps, n);
}

/* All positions of one phase on each axis, cut into boxes of equal taps: those with `most` taps, or the others. */
static void convt3d__cpu_panel_boxes(const convt3d__cpu_unit *u, int64_t block, const int64_t phase[3], int64_t most,
                                     int inner)
{
    const convt3d__axis *a = u->p->axis;
    int64_t end[3], at[3], o[3], size[3], taps, i;
    convt3d__taps along[3];
    for (i = 0; i < 3; i++) end[i] = convt3d__min(u->end[i], convt3d__ceil_div(a[i].out - phase[i], a[i].stride));
    for (at[0] = u->first[0]; at[0] < end[0]; at[0] += size[0]) {
        o[0] = at[0] * a[0].stride + phase[0];
        size[0] = convt3d__cpu_equal_taps(&a[0], o[0], end[0] - at[0], &along[0]);
        for (at[1] = u->first[1]; at[1] < end[1]; at[1] += size[1]) {
            o[1] = at[1] * a[1].stride + phase[1];
            size[1] = convt3d__cpu_equal_taps(&a[1], o[1], end[1] - at[1], &along[1]);
            for (at[2] = u->first[2]; at[2] < end[2]; at[2] += size[2]) {
                o[2] = at[2] * a[2].stride + phase[2];
                size[2] = convt3d__cpu_equal_taps(&a[2], o[2], end[2] - at[2], &along[2]);
                if ((along[0].count * along[1].count * along[2].count == most) != inner) continue;
                taps = convt3d__cpu_list_taps(u, &along[0], &along[1], &along[2], u->tap);
                convt3d__cpu_panel_box(u, block, o, size, taps);
            }
        }
    }
}

/* Inner boxes first: they are large, so the weights come from afar during most arithmetic. */
static void convt3d__cpu_panel_phase(const convt3d__cpu_unit *u, int64_t block, const int64_t phase[3])
{
    int64_t most = 1, i;
    for (i = 0; i < 3; i++) most *= convt3d__cpu_whole_taps(&u->p->axis[i], phase[i]).count;
    convt3d__cpu_panel_boxes(u, block, phase, most, 1);
    convt3d__cpu_panel_boxes(u, block, phase, most, 0);
}

static void convt3d__cpu_unit_panels(convt3d__cpu_unit *u)
{
    const convt3d__axis *a = u->p->axis;
    int64_t phase[3], block;
    for (block = u->block; block < u->block_end; block++)
        for (phase[0] = 0; phase[0] < convt3d__cpu_phases(&a[0]); phase[0]++)
            for (phase[1] = 0; phase[1] < convt3d__cpu_phases(&a[1]); phase[1]++)
                for (phase[2] = 0; phase[2] < convt3d__cpu_phases(&a[2]); phase[2]++)
                    convt3d__cpu_panel_phase(u, block, phase);
}
#endif
