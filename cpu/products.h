/* products.h - sums by products: one or two output channels a group, many input channels.
 *
 * Idea: with so few output channels every multiply-add would load x. So each input is first multiplied with every tap
 * and summed over the input channels, a product of matrices at full rate (lines whose output channels are the taps);
 * then the products of some input rows are added, kd by kd, kh by kh, kw by kw, to the rows of outputs that they reach.
 * Input depths go by in order, and an output depth leaves once nothing more can reach it. Every output meets its
 * products in the order id, ih, iw whatever the unit. Nothing outside the input or the output is touched.
 */
#ifndef CONVT3D_CPU_PRODUCTS_H
#define CONVT3D_CPU_PRODUCTS_H

/* x of some input rows, as [channel][row][column]. */
static void convt3d__cpu_products_x(const convt3d__cpu_unit *u, int64_t id, int64_t ih, int64_t rows)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.x_stride;
    int64_t real = convt3d__cpu_real_size(p), c, row, from;
    int together = stride[4] == 1 && stride[3] == u->pitch;       /* the rows of a channel lie end to end */
    for (row = 0; row < rows; row++) {
        char *to = u->x + row * u->pitch * real;
        from = u->n * stride[0] + u->group * p->in_group * stride[1] + id * stride[2] + (ih + row) * stride[3] +
               u->in_first[2] * stride[4];
        if (stride[1] == 1 && p->in_group > 1 && stride[4] != 1)
            convt3d__cpu_pack_columns(u, to, from, p->in_group, u->pitch);
        else for (c = 0; c < p->in_group; c++)
            convt3d__cpu_gather(u->leaves, p->desc.dtype, to + c * u->b->x_pitch * real,
                                convt3d__cpu_element(u->io->x, p->desc.dtype, from + c * stride[1]), stride[4],
                                u->pitch * (together ? rows : 1));
        if (together) return;
    }
}

/* Whether any product of a block, at input depth id, reaches an output depth of the unit. */
static int convt3d__cpu_products_wanted(const convt3d__cpu_unit *u, int64_t id, int64_t block)
{
    const convt3d__axis *d = &u->p->axis[0];
    int64_t plane = u->p->taps / d->kernel, channel = block * u->b->rows, od;
    int64_t end = convt3d__min(channel + u->b->rows, u->p->out_group * u->p->taps);
    for (; channel < end; channel = (channel / plane + 1) * plane) {
        od = id * d->stride - d->padding + channel / plane % d->kernel * d->dilation;
        if (od >= u->first[0] * d->stride && od < convt3d__min(u->end[0] * d->stride, d->out)) return 1;
    }
    return 0;
}

/* The products of some of the packed rows, from `row` on, that are added to something. */
static void convt3d__cpu_products_form(const convt3d__cpu_unit *u, int64_t id, int64_t row, int64_t rows)
{
    const convt3d__plan *p = u->p;
    const double zero[CONVT3D__CPU_MOST_ROWS] = {0};
    const convt3d__cpu_tap only = {0, 0};
    int64_t real = convt3d__cpu_real_size(p), block, first;
    convt3d__cpu_line line;
    memset(&line, 0, sizeof line);
    line.tap = &only;
    line.taps = 1;
    line.x_pitch = u->b->x_pitch;
    line.sum_pitch = u->b->product_pitch;
    line.length = rows * u->pitch;
    for (block = 0; block < u->b->blocks; block++) {
        if (!convt3d__cpu_products_wanted(u, id, block)) continue;
        const char *w = convt3d__cpu_block_weights(p, u->b, u->packed, u->group * u->b->blocks + block);
        line.sum = u->product + block * u->b->rows * u->b->product_pitch * real;
        for (first = 0; first < p->in_group; first += u->b->ic_block) {
            line.start = first == 0 ? zero : NULL;
            line.channels = convt3d__min(u->b->ic_block, p->in_group - first);
            line.x = u->x + (first * u->b->x_pitch + row * u->pitch) * real;
            line.w = w + first * u->b->rows * real;
            u->leaves->line[p->desc.dtype == CONVT3D_F64][u->b->rows](&line);
        }
    }
}

/* Where the products of an input row with one kw are added: n of them, from `from` on, to the sums at `to`. */
typedef struct convt3d__cpu_target { int64_t to, from, n; } convt3d__cpu_target;

/* One target for each kw, kept where the lists of taps would be: products do without them. */
static convt3d__cpu_target *convt3d__cpu_products_targets(const convt3d__cpu_unit *u)
{
    const convt3d__axis *a = &u->p->axis[2];
    convt3d__cpu_target *target = (convt3d__cpu_target *)(void *)u->tap;
    int64_t kw, phase, shift, first, last;
    for (kw = 0; kw < a->kernel; kw++) {
        phase = convt3d__floor_mod(kw * a->dilation - a->padding, a->stride);
        shift = convt3d__floor_div(kw * a->dilation - a->padding, a->stride);      /* from iw to the position */
        first = convt3d__max(u->in_first[2], u->first[2] - shift);
        last = phase < convt3d__cpu_phases(a) ?
               convt3d__min(u->in_end[2], u->first[2] + convt3d__cpu_columns_of(u, phase) - shift) : first;
        target[kw].to = phase * u->b->lines * u->b->sum_pitch + first + shift - u->first[2];
        target[kw].from = kw * u->b->product_pitch + first - u->in_first[2];
        target[kw].n = convt3d__max(0, last - first);
    }
    return target;
}

/* The products of some input rows with all kw of one (kd, kh), added to as many rows of outputs. */
static void convt3d__cpu_products_add(const convt3d__cpu_unit *u, const convt3d__cpu_target *target,
                                      const char *product, char *sum, int64_t rows)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), kw, oc;
    for (oc = 0; oc < p->out_group; oc++) {
        for (kw = 0; kw < p->axis[2].kernel; kw++)
            u->leaves->add[p->desc.dtype == CONVT3D_F64](sum + target[kw].to * real, product + target[kw].from * real,
                                                         target[kw].n, rows, u->sum_row, u->pitch);
        sum += u->b->sum_pitch * real;
        product += p->taps * u->b->product_pitch * real;
    }
}

/* The products of some input rows of one depth, added. Rows for an output row come in their order because the last kh
 * goes first. */
static void convt3d__cpu_products_spread(const convt3d__cpu_unit *u, const convt3d__cpu_target *target, int64_t id,
                                         int64_t ih, int64_t rows)
{
    const convt3d__axis *d = &u->p->axis[0], *h = &u->p->axis[1];
    int64_t real = convt3d__cpu_real_size(u->p), od_first = u->first[0] * d->stride, row, end, kd, kh, od, oh, slot;
    int64_t od_end = convt3d__min(u->end[0] * d->stride, d->out), oh_first = u->first[1] * h->stride;
    int64_t oh_end = convt3d__min(u->end[1] * h->stride, h->out);
    for (kd = 0; kd < d->kernel; kd++) {
        od = id * d->stride - d->padding + kd * d->dilation;
        if (od < od_first || od >= od_end) continue;
        for (kh = h->kernel - 1; kh >= 0; kh--) {
            int64_t tap = (kd * h->kernel + kh) * u->p->axis[2].kernel;
            oh = ih * h->stride - h->padding + kh * h->dilation;
            row = convt3d__max(0, convt3d__ceil_div(oh_first - oh, h->stride));
            end = convt3d__min(rows, convt3d__ceil_div(oh_end - oh, h->stride));
            if (row >= end) continue;
            oh += row * h->stride;
            slot = oh % h->stride * u->b->size[1] + oh / h->stride - u->first[1];
            convt3d__cpu_products_add(u, target, u->product + (tap * u->b->product_pitch + row * u->pitch) * real,
                                      u->sum + (od - od_first) * u->b->depth_bytes + slot * u->sum_row * real,
                                      end - row);
        }
    }
}

static void convt3d__cpu_products_start(const convt3d__cpu_unit *u, int64_t depths)
{
    const convt3d__plan *p = u->p;
    double start[CONVT3D__CPU_MOST_PANEL];
    int64_t i, line, n = u->b->sum_pitch, oc;
    convt3d__cpu_start(u, u->group * p->out_group, p->out_group, start);
    for (i = 0; i < depths; i++)
        for (line = 0; line < convt3d__cpu_phases(&p->axis[2]) * u->b->lines; line++) {
            char *sum = u->sum + i * u->b->depth_bytes + line * n * convt3d__cpu_real_size(p);
            int64_t j;
            oc = line % u->b->lines;
            if (p->desc.dtype == CONVT3D_F64) for (j = 0; j < n; j++) ((double *)(void *)sum)[j] = start[oc];
            else for (j = 0; j < n; j++) ((float *)(void *)sum)[j] = ((const float *)(const void *)start)[oc];
        }
}

/* Input depth by input depth; an output depth leaves for y once nothing more can reach it. */
static void convt3d__cpu_unit_products(convt3d__cpu_unit *u)
{
    const convt3d__axis *d = &u->p->axis[0];
    int64_t first = u->first[0] * d->stride, end = convt3d__min(u->end[0] * d->stride, d->out);
    int64_t od = first, id, ih, row, rows, packed;
    char *sum = u->sum;
    const convt3d__cpu_target *target;
    convt3d__cpu_sheet sheet;
    sheet.whole = 1;
    sheet.runs = 0;
    sheet.channel = u->group * u->p->out_group;
    u->pitch = u->in_end[2] - u->in_first[2];
    convt3d__cpu_products_start(u, end - first);
    target = convt3d__cpu_products_targets(u);
    for (id = u->in_first[0]; id <= u->in_end[0]; id++) {
        for (ih = u->in_first[1]; id < u->in_end[0] && ih < u->in_end[1] && u->pitch > 0; ih += packed) {
            packed = convt3d__min(u->b->x_chunk, u->in_end[1] - ih);
            convt3d__cpu_products_x(u, id, ih, packed);
            for (row = 0; row < packed; row += rows) {
                rows = convt3d__min(u->b->chunk, packed - row);
                convt3d__cpu_products_form(u, id, row, rows);
                convt3d__cpu_products_spread(u, target, id, ih + row, rows);
            }
        }
        for (; od < end && (id == u->in_end[0] || convt3d__floor_div(od + d->padding, d->stride) <= id); od++) {
            sheet.od = od;
            u->sum = sum + (od - first) * u->b->depth_bytes;
            convt3d__cpu_store_sheet(u, &sheet, u->p->out_group);
            u->sum = sum;
        }
    }
}
#endif
