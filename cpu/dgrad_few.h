/* dgrad_few.h - the gradient of x where a sample has few positions: a product of matrices that reads w as it is.
 *
 * Idea: with fewer positions than channels, packing w (dgrad.h by way of panels.h) takes a third of the time, and more
 * where caches are slow. Where every tap of every position lies inside dy, dx[ic, i] = sum over r = (oc, tap) of
 * w[ic, r]*dy[r, i], and the leaves of wgrad.h take it: vectors along positions, a few channels of x as columns, r in
 * their innermost loop, so that w's rows are read side by side. dy's values are copied to [r][position] some rows at a
 * time, which stay near while all of w's columns go by; w is read once.
 * Requires: no tap outside dy, taps that do not overlap, no more positions in a sample than channels in a group of x;
 * positions fill three quarters of the vectors.
 * Measured on Zen 4 (117 GFLOP/s in registers), GFLOP/s before and now: 320 -> 320 channels, 4^3, k2 s2 70 and 85, with
 * AVX2 and with AVX-512.
 *
 * NUMBERS
 *     Rows r in their order, `chunk` of them to a sum that begins with zero and is added to those before. chunk depends
 *     on a sample's shape and the kernel alone.
 */
#ifndef CONVT3D_CPU_DGRAD_FEW_H
#define CONVT3D_CPU_DGRAD_FEW_H

enum { CONVT3D__CPU_FEW_ROWS = 64 };    /* least rows of a sum */

typedef struct convt3d__cpu_few {
    int64_t mark;               /* -1, where the other way has its ROWS: that tells them apart */
    int64_t positions, rows;    /* of a sample; of dy as a matrix */
    int64_t vector, blocks;     /* positions of a block and blocks */
    int64_t chunk, parts, threads;
    int64_t dy_bytes, w_bytes, line_bytes, sum_bytes, thread_bytes;     /* workspace of one thread: parts, all of it */
    int32_t vectors, columns;
} convt3d__cpu_few;
typedef char convt3d__cpu_few_fits[sizeof(convt3d__cpu_few) <= sizeof(((convt3d__plan *)0)->state) ? 1 : -1];

static int convt3d__cpu_few_of(const convt3d__plan *p, convt3d__cpu_few *b)
{
    memcpy(b, p->state, sizeof *b);
    return b->mark == -1;
}

/* ---- what a plan decides ---- */

static int convt3d__cpu_few_fits_shape(const convt3d__plan *p)
{
    double positions = 1;
    int a;
    for (a = 0; a < 3; a++) {
        const convt3d__axis *axis = &p->axis[a];
        int64_t last = (axis->in - 1) * axis->stride - axis->padding + (axis->kernel - 1) * axis->dilation;
        if (axis->kernel > axis->stride || axis->padding > 0 || last >= axis->out) return 0;
        positions *= (double)axis->in;
    }
    return positions > 0 && positions <= (double)p->in_group && p->in_group <= 1 << 20 && p->desc.dy_stride[4] == 1 &&
           (double)p->out_group * (double)p->taps >= (double)CONVT3D__CPU_FEW_ROWS;
}

/* Whether it is summed this way; then the plan's state says how. */
static int convt3d__cpu_few_choose(convt3d__plan *p, const convt3d__cpu_leaves *leaves)
{
    int64_t real = convt3d__cpu_real_size(p), lanes = leaves->lanes[p->desc.dtype == CONVT3D_F64], groups;
    convt3d__cpu_few b;
    if (!convt3d__cpu_few_fits_shape(p)) return 0;
    memset(&b, 0, sizeof b);
    b.mark = -1;
    b.positions = p->axis[0].in * p->axis[1].in * p->axis[2].in;
    b.rows = p->out_group * p->taps;
    if (convt3d__cpu_dw_tile(leaves, lanes, b.positions, p->in_group, &b.vectors, &b.columns) < 0.75) return 0;
    b.vector = b.vectors * lanes;
    b.blocks = convt3d__ceil_div(b.positions, b.vector);
    b.chunk = convt3d__max(CONVT3D__CPU_FEW_ROWS, CONVT3D__CPU_DW_PANEL / (b.blocks * b.vector * real));
    b.threads = convt3d__cpu_most_threads(p);
    groups = convt3d__max(1, p->desc.batch * p->desc.groups);
    b.parts = convt3d__max(1, convt3d__min(p->in_group / b.columns, convt3d__ceil_div(b.threads, groups)));
    b.threads = convt3d__max(1, convt3d__min(b.threads, p->desc.batch * p->desc.groups * b.parts));
    b.dy_bytes = convt3d__cpu_round_up(b.blocks * b.chunk * b.vector * real, 64);
    b.w_bytes = p->desc.dtype > CONVT3D_F64 ? convt3d__cpu_round_up(b.columns * b.chunk * real, 64) : 0;
    b.line_bytes = convt3d__cpu_round_up(b.blocks * b.vector * real, 64) +
                   convt3d__cpu_round_up(convt3d__max(p->axis[2].out, p->axis[2].in) * real, 64);
    b.sum_bytes = convt3d__cpu_round_up(p->in_group * b.blocks * b.vector * real, 64);
    b.thread_bytes = b.dy_bytes + b.w_bytes + b.line_bytes + b.sum_bytes;
    if ((double)b.thread_bytes * (double)b.threads > 4e18 || (double)p->axis[2].out > 1e7) return 0;
    memcpy(p->state, &b, sizeof b);
    p->pack_variant = UINT64_C(1) << 63;
    return 1;
}

static int64_t convt3d__cpu_few_workspace(const convt3d__cpu_few *b) { return 64 + b->threads * b->thread_bytes; }

/* The pack is w. */
static int64_t convt3d__cpu_few_packed(const convt3d__plan *p)
{
    return p->w_count * convt3d__element_size(p->desc.dtype);
}

/* ---- units ---- */

typedef struct convt3d__cpu_few_unit {
    convt3d__cpu_dw u;                  /* its dy, as wgrad.h copies it */
    const convt3d__cpu_few *b;
    const void *w;
    char *dy, *widened, *line, *sums;
    int64_t n, group, first, end;       /* sample, group, channels of x in it */
} convt3d__cpu_few_unit;

/* Rows [first, first + n) of dy as [block][row][VECTOR]. */
static void convt3d__cpu_few_pack(convt3d__cpu_few_unit *f, int64_t first, int64_t n)
{
    const convt3d__plan *p = f->u.p;
    int64_t real = convt3d__cpu_real_size(p), vector = f->b->vector, r, i, k[3], dy[3], size[3];
    const int64_t x[3] = {0, 0, 0};
    int a;
    for (r = 0; r < n; r++) {
        char *to = f->b->blocks == 1 ? f->dy + r * vector * real : f->line;
        convt3d__cpu_fold_tap_of(p, first + r, k);
        for (a = 0; a < 3; a++) {
            dy[a] = k[a] * p->axis[a].dilation - p->axis[a].padding;
            size[a] = p->axis[a].in;
        }
        convt3d__cpu_fold_box(&f->u, to, f->group * p->out_group + (first + r) / p->taps, 1, x, dy, size);
        for (i = 0; to == f->line && i < f->b->positions; i += vector)
            memcpy(f->dy + (i / vector * f->b->chunk + r) * vector * real, to + i * real,
                   (size_t)(convt3d__min(vector, f->b->positions - i) * real));
    }
}

/* Channels [c, end) of x by n rows from `first` on; the channels behind them are fetched meanwhile. */
static void convt3d__cpu_few_columns(convt3d__cpu_few_unit *f, int64_t c, int64_t end, int64_t first, int64_t n)
{
    const convt3d__plan *p = f->u.p;
    const convt3d__cpu_few *b = f->b;
    int64_t real = convt3d__cpu_real_size(p), size = convt3d__element_size(p->desc.dtype), i;
    const char *w = (const char *)f->w + ((f->group * p->in_group + c) * b->rows + first) * size;
    convt3d__cpu_outer o;
    memset(&o, 0, sizeof o);
    for (i = end; i < convt3d__min(2 * end - c, f->end); i++)
        convt3d__cpu_prefetch(w + (i - c) * b->rows * size, n * size);
    o.b = w;
    o.column = b->rows;
    if (p->desc.dtype > CONVT3D_F64) {
        for (i = c; i < end; i++)
            convt3d__cpu_gather(f->u.leaves, p->desc.dtype, f->widened + (i - c) * b->chunk * real,
                                w + (i - c) * b->rows * size, 1, n);
        o.b = f->widened;
        o.column = b->chunk;
    }
    o.size[0] = o.size[1] = 1;
    o.size[2] = n;
    o.v_step[2] = b->vector;
    o.b_step[2] = 1;
    o.vectors = b->vectors;
    o.columns = (int32_t)(end - c);
    for (i = 0; i < b->blocks; i++) {
        o.v = f->dy + i * b->chunk * b->vector * real;
        o.sum = f->sums + ((c - f->first) * b->blocks + i * (end - c)) * b->vector * real;
        f->u.leaves->outer[p->desc.dtype == CONVT3D_F64](&o);
    }
}

/* n values of a row of dx, from element `at` on. */
static void convt3d__cpu_few_put(const convt3d__cpu_few_unit *f, int64_t at, char *values, int64_t n)
{
    const convt3d__plan *p = f->u.p;
    int32_t type = p->desc.dtype;
    int64_t step = p->desc.dx_stride[4], i;
    char *old = f->u.row;
    void *to = (char *)f->u.io->dx + at * convt3d__element_size(type);
    if (p->desc.accumulate & CONVT3D_BACKWARD_X) {
        convt3d__cpu_gather(f->u.leaves, type, old, to, step, n);
        if (type == CONVT3D_F64) for (i = 0; i < n; i++) ((double *)(void *)values)[i] += ((double *)(void *)old)[i];
        else for (i = 0; i < n; i++) ((float *)(void *)values)[i] += ((float *)(void *)old)[i];
    }
    convt3d__cpu_scatter(f->u.leaves, type, to, step, values, n);
}

/* Channel c of x, whose sums are column `column` of a tile of so many columns. */
static void convt3d__cpu_few_store(convt3d__cpu_few_unit *f, int64_t c, const char *tile, int64_t column,
                                   int64_t columns)
{
    const convt3d__plan *p = f->u.p;
    const int64_t *stride = p->desc.dx_stride;
    int64_t bytes = f->b->vector * convt3d__cpu_real_size(p), i, d, h, width = p->axis[2].in;
    int64_t at = f->n * stride[0] + (f->group * p->in_group + c) * stride[1];
    char *values = f->line;
    for (i = 0; i < f->b->blocks; i++)
        memcpy(f->line + i * bytes, tile + (i * columns + column) * bytes, (size_t)bytes);
    for (d = 0; d < p->axis[0].in; d++)
        for (h = 0; h < p->axis[1].in; h++, values += width * convt3d__cpu_real_size(p))
            convt3d__cpu_few_put(f, at + d * stride[2] + h * stride[3], values, width);
}

/* Unit i: parts of the channels run fastest, then groups, then samples. */
static void convt3d__cpu_few_do(convt3d__cpu_few_unit *f, int64_t i)
{
    const convt3d__plan *p = f->u.p;
    const convt3d__cpu_few *b = f->b;
    int64_t real = convt3d__cpu_real_size(p), part = i % b->parts, row, n, c, end, t, tiles;
    f->group = i / b->parts % p->desc.groups;
    f->n = i / b->parts / p->desc.groups;
    f->first = part * p->in_group / b->parts;
    f->end = (part + 1) * p->in_group / b->parts;
    f->u.dy.base = convt3d__cpu_element(f->u.io->dy, p->desc.dtype, f->n * p->desc.dy_stride[0]);
    memset(f->sums, 0, (size_t)((f->end - f->first) * b->blocks * b->vector * real));
    memset(f->dy, 0, (size_t)b->dy_bytes);              /* behind the last position */
    tiles = convt3d__ceil_div(f->end - f->first, b->columns);
    for (row = 0; row < b->rows; row += n) {
        n = convt3d__min(b->chunk, b->rows - row);
        convt3d__cpu_few_pack(f, row, n);
        for (t = 0, c = f->first; t < tiles; t++, c = end) {
            end = f->first + (t + 1) * (f->end - f->first) / tiles;
            convt3d__cpu_few_columns(f, c, end, row, n);
        }
    }
    for (t = 0, c = f->first; t < tiles; t++, c = end) {
        end = f->first + (t + 1) * (f->end - f->first) / tiles;
        for (i = c; i < end; i++)
            convt3d__cpu_few_store(f, i, f->sums + (c - f->first) * b->blocks * b->vector * real, i - c, end - c);
    }
}

/* One thread's share; every thread of the team calls it, or one alone. */
static void convt3d__cpu_few_share(const convt3d__cpu_few_unit *call, char *memory, int64_t units)
{
    convt3d__cpu_few_unit f = *call;
    const convt3d__plan *p = f.u.p;
    int64_t i;
    f.dy = memory;
    f.widened = f.dy + f.b->dy_bytes;
    f.line = f.widened + f.b->w_bytes;
    f.sums = f.line + f.b->line_bytes;
    f.u.row = f.line + convt3d__cpu_round_up(f.b->blocks * f.b->vector * convt3d__cpu_real_size(p), 64);
    f.u.dy.stride = p->desc.dy_stride;
    f.u.dy.step[2] = 1;
    f.u.dy.step[1] = p->axis[2].in;
    f.u.dy.step[0] = p->axis[1].in * p->axis[2].in;
#ifdef _OPENMP
#pragma omp for schedule(dynamic)
#endif
    for (i = 0; i < units; i++) convt3d__cpu_few_do(&f, i);
}

static convt3d_status convt3d__cpu_few_run(const convt3d__plan *p, const convt3d__cpu_few *b,
                                           const convt3d__cpu_leaves *leaves, const convt3d_io *io,
                                           convt3d_error *error)
{
    convt3d__cpu_few_unit call;
    char *memory = (char *)io->workspace + (64 - (uintptr_t)io->workspace % 64) % 64;
    int threads = (int)b->threads;
    int64_t units = p->desc.batch * p->desc.groups * b->parts;
    memset(&call, 0, sizeof call);
    call.u.p = p;
    call.u.leaves = leaves;
    call.u.io = io;
    call.b = b;
    call.w = io->w_packed ? io->w_packed : io->w;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    convt3d__cpu_few_share(&call, memory + omp_get_thread_num() * b->thread_bytes, units);
#else
    convt3d__cpu_few_share(&call, memory, units);
#endif
    return convt3d__ok(error);
}
#endif
