/* lines.h - sums by lines and stacks: vectors along W.
 *
 * Idea: x is packed as [depth][channel][height][pitch]. Rows lie end to end with enough zeros between them that a tap
 * reaching beyond a row's end reads a zero, so several rows of outputs with the same taps along height form one line (a
 * run) whose taps are plain shifts: no border is tested, no vector is cut at a row's end. Depth and height are trimmed
 * exactly. Where a group has one output channel, a stack of rows shares each row of x that it loads instead; rows of
 * zeros above and below then give all rows the same taps. Where a block's weights hold a NaN or an infinity, or W is
 * mostly border, rows are cut into stretches of columns with equal taps: no zero that is not in x is multiplied.
 * With a stride of 2 along W and leaves for it, rows are woven: one W phase of a tile waits in the nearest cache while
 * the other is summed, then both are zipped and stored to y, so that a few lines of the cache leave after each tile and
 * are on their way during the arithmetic of the next one, as those of a whole sheet cannot be. Rows that begin inside a
 * line of the cache hand what is over from tile to tile in a register. Sums and their order are those of lines.
 * Measured, one thread, parts of sgemm, woven after the sheet and by tiles. Zen 4: autoenc_4_32 0.55 and 0.72,
 * casmvs_16_8 0.79 and 0.90, psmnet_64_32 0.94 and 1.02, nnunet_64_32_64 0.86 and 0.94, kb_l1_73 (rows of 255) 0.70 and
 * 0.75. A Xeon with 2 MB: autoenc 0.36 and 0.58, psmnet 0.86 and 0.93, swinunetr_48_48 0.74 and 0.85, kb_l1_73 0.50 and
 * 0.53. Four channels with both phases in registers are as fast there with three vectors and much slower with two.
 */
#ifndef CONVT3D_CPU_LINES_H
#define CONVT3D_CPU_LINES_H

/* One pass of a line, over a block of input channels from `first` on. group: within the unit. */
static void convt3d__cpu_sum_line(const convt3d__cpu_unit *u, convt3d__cpu_line *line, const char *w, int64_t group,
                                  int64_t first)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p);
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    if (line->taps == 0 && first > 0) return;
    line->channels = convt3d__min(u->b->ic_block, p->in_group - first);
    line->x = u->x + (group * p->in_group + first) * u->b->x_pitch * real;
    line->w = w + first * p->taps * u->b->rows * real;
    line->w_step = p->axis[1].tap_step * p->axis[2].kernel * line->channels;
    if (u->b->stack) u->leaves->stack[is_f64](line);
    else u->leaves->line[is_f64][u->b->rows](line);
}

/* The same by single rows and stretches of columns with equal taps: nothing is multiplied that is not in x. */
static void convt3d__cpu_sum_stretches(const convt3d__cpu_unit *u, const convt3d__taps *depth,
                                       const convt3d__cpu_stripe *run, int64_t phase, convt3d__cpu_line *line,
                                       const char *w, int64_t group, int64_t first)
{
    const convt3d__axis *a = &u->p->axis[2];
    char *sum = (char *)line->sum;
    int64_t columns = line->length, row, j, n;
    convt3d__taps width, height;
    for (row = 0; row < run->rows; row++) {
        height = convt3d__cpu_taps_of(&u->p->axis[1], run->oh + row * u->p->axis[1].stride, 1);
        line->height = height.count;
        for (j = 0; j < columns; j += n) {
            n = convt3d__cpu_equal_taps(a, (u->first[2] + j) * a->stride + phase, columns - j, &width);
            line->tap = u->tap + u->b->runs * u->b->taps;       /* behind the runs' own lists */
            line->taps = convt3d__cpu_list_taps(u, depth, &height, &width, u->tap + u->b->runs * u->b->taps);
            line->length = n;
            line->rows = 1;
            line->sum = sum + (row * u->sum_row + j) * convt3d__cpu_real_size(u->p);
            convt3d__cpu_sum_line(u, line, w, group, first);
        }
    }
}

/* One pass over the sums of a run for one block of channels: over a block of input channels from `first` on. */
static void convt3d__cpu_sum_run(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, int64_t i, int64_t block,
                                 convt3d__cpu_line *line, int64_t channel, int64_t first)
{
    const convt3d__cpu_stripe *run = &sheet->run[i];
    int64_t group = block / u->b->blocks, phase, columns, all = u->group * u->b->blocks + block;
    const char *w = convt3d__cpu_block_weights(u->p, u->b, u->packed, all);
    for (phase = 0; phase < convt3d__cpu_phases(&u->p->axis[2]); phase++) {
        columns = convt3d__cpu_columns_of(u, phase);
        if (columns <= 0) continue;
        line->sum = convt3d__cpu_sums(u, phase, channel, run->slot);
        if (u->narrow || ((const unsigned char *)u->packed)[all]) {
            line->length = columns;
            convt3d__cpu_sum_stretches(u, &sheet->depth, run, phase, line, w, group, first);
        } else {
            line->rows = run->rows;
            line->height = run->height.count;
            line->length = u->b->stack ? columns : (run->rows - 1) * u->pitch + columns;
            line->tap = run->tap[phase];
            line->taps = run->taps[phase];
            convt3d__cpu_sum_line(u, line, w, group, first);
        }
    }
}

/* The sums of one block of channels for all runs of a sheet, put at `channel` of those that are stored together. A line
 * may spill over into the row behind its run, so a run is finished before the next one begins; stacks do not, and go
 * from run to run with the few input channels that stay in the nearest cache. */
static void convt3d__cpu_sum_block(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, int64_t block,
                                   int64_t channel)
{
    const convt3d__plan *p = u->p;
    int64_t group = block / u->b->blocks, oc = block % u->b->blocks * u->b->rows, first, i;
    double start[CONVT3D__CPU_MOST_PANEL];
    convt3d__cpu_line line;
    if (u->b->panel) { convt3d__cpu_panel_sheet(u, sheet, block, channel);  return; }
    memset(&line, 0, sizeof line);
    convt3d__cpu_start(u, (u->group + group) * p->out_group + oc, convt3d__min(u->b->rows, p->out_group - oc), start);
    line.x_pitch = u->b->x_pitch;
    line.sum_pitch = u->b->sum_pitch;
    line.row_pitch = u->pitch;
    line.sum_row = u->sum_row;
    if (u->b->stack) {
        for (first = 0; first < p->in_group; first += u->b->ic_block) {
            line.start = first == 0 ? start : NULL;
            for (i = 0; i < sheet->runs; i++) convt3d__cpu_sum_run(u, sheet, i, block, &line, channel, first);
        }
        return;
    }
    for (i = 0; i < sheet->runs; i++)
        for (first = 0; first < p->in_group; first += u->b->ic_block) {
            line.start = first == 0 ? start : NULL;
            convt3d__cpu_sum_run(u, sheet, i, block, &line, channel, first);
        }
}

/* Whether a block's rows go to y as they are summed. */
static int convt3d__cpu_is_woven(const convt3d__cpu_unit *u, int64_t block)
{
    return u->b->woven && !u->narrow && !((const unsigned char *)u->packed)[u->group * u->b->blocks + block];
}

/* The rows of a sheet for one block of channels, in the order of y. */
static void convt3d__cpu_woven_block(const convt3d__cpu_unit *u, const convt3d__cpu_sheet *sheet, int64_t block)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.y_stride;
    int64_t real = convt3d__cpu_real_size(p), group = block / u->b->blocks, oc = block % u->b->blocks * u->b->rows;
    int64_t slot, i, row, channel = (u->group + group) * p->out_group + oc;
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    double start[CONVT3D__CPU_MOST_PANEL];
    convt3d__cpu_entry entry[CONVT3D_MAX_OPS + 1];
    convt3d__cpu_woven w;
    w.valid = convt3d__min(u->b->rows, p->out_group - oc);
    convt3d__cpu_start(u, channel, w.valid, start);
    w.start = start;
    w.w = convt3d__cpu_block_weights(p, u->b, u->packed, u->group * u->b->blocks + block);
    w.rows = u->b->rows;
    w.channels = p->in_group;
    w.x_pitch = u->b->x_pitch;
    w.to_channel = stride[1];
    w.length = convt3d__min(u->end[2] * 2, p->axis[2].out) - u->first[2] * 2;
    w.stream = u->b->stream;
    convt3d__cpu_woven_list(u, channel, &w, entry);
    for (slot = 0; slot < u->b->size[1]; slot++)
        for (i = 0; i < sheet->runs; i++) {
            const convt3d__cpu_stripe *run = &sheet->run[i];
            row = slot - run->slot % u->b->size[1];
            if (row < 0 || row >= run->rows) continue;
            w.x = u->x + (group * p->in_group * u->b->x_pitch + row * u->pitch) * real;
            w.to = (char *)u->io->y + (u->n * stride[0] + channel * stride[1] + sheet->od * stride[2] +
                                       (run->oh + row * p->axis[1].stride) * stride[3] + u->first[2] * 2) * real;
            w.tap[0] = run->tap[0];
            w.tap[1] = run->tap[1];
            w.taps[0] = run->taps[0];
            w.taps[1] = run->taps[1];
            u->leaves->woven[is_f64](&w);
        }
}

/* Blocks [block, end) of a sheet, stored together as many as fit. The sheet is empty then. */
static void convt3d__cpu_sheet_blocks(const convt3d__cpu_unit *u, convt3d__cpu_sheet *sheet, int64_t block, int64_t end)
{
    int64_t channel = 0, oc, n;
    for (; block < end; block++) {
        oc = block % u->b->blocks * u->b->rows;
        n = convt3d__min(u->b->rows, u->p->out_group - oc);
        if (convt3d__cpu_is_woven(u, block)) { convt3d__cpu_woven_block(u, sheet, block);  continue; }
        if (channel == 0) sheet->channel = (u->group + block / u->b->blocks) * u->p->out_group + oc;
        convt3d__cpu_sum_block(u, sheet, block, channel);
        channel += n;
        if (block + 1 < end && channel + u->b->rows <= u->b->store) continue;
        convt3d__cpu_store_sheet(u, sheet, channel);
        channel = 0;
    }
    sheet->runs = 0;
    sheet->list = u->tap;
}

/* The lists of taps of a run, one for each W phase. The zeros of packed x stand for what lies outside. */
static void convt3d__cpu_list_run(const convt3d__cpu_unit *u, convt3d__cpu_sheet *sheet, convt3d__cpu_stripe *run)
{
    const convt3d__axis *a = &u->p->axis[2];
    int64_t phase, columns;
    if (u->narrow || u->b->panel) return;
    for (phase = 0; phase < convt3d__cpu_phases(a); phase++) {
        convt3d__taps width;
        columns = convt3d__cpu_columns_of(u, phase);
        run->tap[phase] = sheet->list;
        run->taps[phase] = 0;
        if (columns <= 0) continue;
        width = convt3d__cpu_taps_of(a, u->first[2] * a->stride + phase, columns);
        run->taps[phase] = convt3d__cpu_list_taps(u, &sheet->depth, &run->height, &width, sheet->list);
        sheet->list += run->taps[phase];
    }
}

/* The rows of one output depth and `phases` phases along height from `phase` on, for blocks [block, end). */
static void convt3d__cpu_unit_rows(const convt3d__cpu_unit *u, int64_t od, int64_t phase, int64_t phases, int64_t block,
                                   int64_t end)
{
    const convt3d__axis *a = &u->p->axis[1];
    int64_t position, last, i;
    convt3d__cpu_sheet sheet;
    sheet.od = od;
    sheet.runs = 0;
    sheet.list = u->tap;
    sheet.whole = phases == convt3d__cpu_phases(a);
    sheet.depth = convt3d__cpu_taps_of(&u->p->axis[0], od, 1);
    for (i = 0; i < phases; i++) {
        last = convt3d__min(u->end[1], convt3d__ceil_div(a->out - phase - i, a->stride));
        for (position = u->first[1]; position < last; position += sheet.run[sheet.runs++].rows) {
            convt3d__cpu_stripe *run;
            if (sheet.runs == u->b->runs) {
                sheet.whole = 0;
                convt3d__cpu_sheet_blocks(u, &sheet, block, end);
            }
            run = &sheet.run[sheet.runs];
            run->oh = position * a->stride + phase + i;
            run->slot = i * u->b->size[1] + position - u->first[1];
            if (u->b->tall) {
                run->rows = last - position;
                run->height = convt3d__cpu_whole_taps(a, run->oh);
            } else run->rows = convt3d__cpu_equal_taps(a, run->oh, last - position, &run->height);
            convt3d__cpu_list_run(u, &sheet, run);
        }
    }
    if (sheet.runs > 0) convt3d__cpu_sheet_blocks(u, &sheet, block, end);
}

/* Blocks [block, end) over the whole unit: row by row as y lies in memory, or phase by phase, since each phase has taps
 * of its own. */
static void convt3d__cpu_unit_blocks(const convt3d__cpu_unit *u, int64_t block, int64_t end)
{
    const convt3d__axis *d = &u->p->axis[0];
    int64_t first = u->first[0] * d->stride, last = convt3d__min(u->end[0] * d->stride, d->out), od, pd, ph;
    int64_t phases = convt3d__cpu_phases(&u->p->axis[1]), high = u->b->high;
    if (u->b->by_phase) {
        for (pd = 0; pd < convt3d__cpu_phases(d); pd++)
            for (ph = 0; ph < phases; ph++)
                for (od = first + pd; od < last; od += d->stride) convt3d__cpu_unit_rows(u, od, ph, 1, block, end);
        return;
    }
    for (od = first; od < last; od++)
        for (ph = 0; ph < phases; ph += high) convt3d__cpu_unit_rows(u, od, ph, high, block, end);
}
#endif
