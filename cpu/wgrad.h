/* wgrad.h - the gradients of w and of the bias.
 *
 * Idea: dw[ic, oc, k] = sum over n, i of x[n, ic, i]*dy[n, oc, i*stride - padding + k*dilation] is, tap by tap, a
 * product of matrices whose long side are the positions. A tile of positions of x, and what the taps read of dy for it,
 * are packed once: one of the two transposed, [block of channels][position][VECTOR], the other as lines. A leaf keeps
 * some vectors of channels of the first by some channels of the second in registers while it goes over the box of the
 * tile's positions whose tap lies inside dy, so nothing is multiplied that is not in the sum. Where both have few
 * channels (depth-wise), vectors lie along W instead, dy's phases side by side, and rows end in zeros; those are
 * multiplied only where all of the tile is finite. Where dy has one channel a group and x has many, taps along W take
 * the place of the other channels: each position of x is loaded once for all of them.
 * Where taps do not overlap and positions are few, or dy has one channel and taps fill vectors, taps are channels of dy
 * (folded): dy's values are copied to [position][channel and tap], as w has them, and one product of matrices is dw. So
 * dw, which is large then, needs no transposing, short rows of positions become a long one, and x, many times dy where
 * that has one channel, is not transposed either. Zeros stand for what lies outside dy; a tile of x with a NaN or an
 * infinity goes row by row over the positions inside instead.
 * The tiles of all samples fall into `sums` parts, each with a partial sum of its own. Every thread takes parts, and
 * blocks of channels of them. Where dw is so large, or the positions are so few, that there is one part, a unit's sums
 * stay in a core's own cache and leave for dw when they are done.
 *
 * Requires: that what the taps of one tile read of dy fits 256 MiB.
 * Tiles (vectors x channels) of AVX2: 2x6, 4x3, 8x1, 1x8; the others that a remainder takes are smaller.
 * Measured as in dgrad.h: k3 s1 84 to 89 GFLOP/s, k3 s2 45 to 82, k2 s2 37 to 74, depth-wise 6 to 11. Folded, on
 * Zen 4 (117 in registers), before and now: 320 -> 320 channels, 4^3, k2 s2 67 and 83 with AVX2, 74 and 88 with
 * AVX-512; 64 -> 1, 32^3, k4 s2 63 and 67. Slower by 10 to 30% on k2 s2 with more positions than channels.
 *
 * NUMBERS
 *     The sum of a tile, in the accumulator's type, is added to the partial sum of its part; parts are added in double,
 *     in their order. Tiles and parts depend on the shape, the kernel and whether rows of dy lie in memory as rows.
 *     dbias: 64 values to a lane, in double from there on.
 */
#ifndef CONVT3D_CPU_WGRAD_H
#define CONVT3D_CPU_WGRAD_H

enum {
    CONVT3D__CPU_DW_PANEL = 20 << 10,       /* bytes of transposed positions that stay in the nearest cache */
    CONVT3D__CPU_DW_DOTS = 4096,            /* positions of a tile where vectors lie along W */
    CONVT3D__CPU_DW_PART = 8192,            /* positions that pay for a partial sum */
    CONVT3D__CPU_DW_SUMS = 64,              /* most partial sums, */
    CONVT3D__CPU_DW_BYTES = 64 << 20,       /* and most bytes of them */
    CONVT3D__CPU_DW_OWN = 1 << 20,          /* bytes of sums that stay in a core's own cache until they are stored */
    CONVT3D__CPU_DW_FOLD = 16,              /* channels of x that pay for copying dy's taps */
    CONVT3D__CPU_DW_AHEAD = 4,              /* channels whose rows are fetched ahead */
    CONVT3D__CPU_BIAS_PARTS = 64
};

typedef struct convt3d__cpu_wgrad {
    int64_t size[3], count[3];  /* positions of a tile, and tiles along each axis */
    int64_t tiles, sums;        /* of all samples; parts of them */
    int64_t vector, blocks;     /* channels of a block and blocks in a group, of the tensor that is transposed */
    int64_t others;             /* channels in a group of the other one */
    int64_t parts;              /* of a group's blocks, for the threads */
    int64_t taps;               /* of the sums: 1 where dy's are channels, [channel][tap] as in w */
    int64_t partial;            /* values of one partial sum: [group][block][tap][other channel][VECTOR]; where it is */
                                /* the only one, of the blocks of one unit alone: each thread has its own */
    int64_t bias_parts;
    int64_t v_bytes, b_bytes, row_bytes, threads;
    int32_t vectors, columns;   /* of a leaf's tile; vectors = 0: dots */
    int32_t x_vectors;          /* x is the one that is transposed */
    int32_t folded;             /* taps are channels of dy */
} convt3d__cpu_wgrad;
typedef char convt3d__cpu_wgrad_fits[sizeof(convt3d__cpu_wgrad) <= sizeof(((convt3d__plan *)0)->state) ? 1 : -1];

static convt3d__cpu_wgrad convt3d__cpu_wgrad_of(const convt3d__plan *p)
{
    convt3d__cpu_wgrad b;
    memcpy(&b, p->state, sizeof b);
    return b;
}

/* ---- what a plan decides ---- */

/* The tile for `channels` of the transposed tensor by `others`, and the share of the multipliers that it keeps busy. */
static double convt3d__cpu_dw_tile(const convt3d__cpu_leaves *leaves, int64_t lanes, int64_t channels, int64_t others,
                                   int32_t *vectors, int32_t *columns)
{
    static const int32_t widest[3] = {8, 4, 2};
    int64_t most[3];
    double best = 0, share;
    int32_t i, most_columns;
    most[0] = 1;  most[1] = 3;  most[2] = leaves->positions;
    *vectors = 1;
    *columns = (int32_t)convt3d__min(8, others);
    best = (double)channels / (double)convt3d__cpu_round_up(channels, lanes) * (double)*columns / 8;
    for (i = 0; i < 3; i++) {
        most_columns = (int32_t)convt3d__min(most[i], others);
        share = (double)channels / (double)convt3d__cpu_round_up(channels, widest[i] * lanes) *
                (double)convt3d__min(8, widest[i] * most_columns) / 8;
        if (share < best) continue;
        best = share;
        *vectors = widest[i];
        *columns = most_columns;
    }
    return best;
}

/* What part of the pairs of a position of x and a tap lies inside dy, if taps may be channels of dy: 0 where it does
 * not pay to copy dy's values for each of them. It does where taps do not overlap and positions are fewer than channels
 * of x: it saves transposing dw; and where dy has one channel, and x many: it saves transposing x. */
static double convt3d__cpu_dw_foldable(const convt3d__plan *p)
{
    double inside = 1, positions = (double)p->desc.batch, pairs;
    int64_t k, shift, first, end;
    int apart = 1, i;
    if (p->in_group < CONVT3D__CPU_DW_FOLD || p->taps == 1 || p->taps > 4096 || p->desc.dy_stride[4] != 1) return 0;
    for (i = 0; i < 3; i++) {
        const convt3d__axis *a = &p->axis[i];
        for (pairs = 0, k = 0; k < a->kernel; k++) {
            shift = k * a->dilation - a->padding;
            first = convt3d__max(0, convt3d__ceil_div(-shift, a->stride));
            end = convt3d__min(a->in, convt3d__floor_div(a->out - 1 - shift, a->stride) + 1);
            pairs += (double)convt3d__max(0, end - first);
        }
        if (a->in == 0) return 0;
        inside *= pairs / ((double)a->in * (double)a->kernel);
        positions *= (double)a->in;
        apart &= a->kernel <= a->stride;
    }
    return p->out_group == 1 || (apart && positions <= (double)p->in_group) ? inside : 0;
}

static void convt3d__cpu_dw_sides(const convt3d__plan *p, const convt3d__cpu_leaves *leaves, convt3d__cpu_wgrad *b)
{
    int64_t lanes = leaves->lanes[p->desc.dtype == CONVT3D_F64], rows = p->out_group * p->taps;
    int32_t vectors, columns;
    double inside = convt3d__cpu_dw_foldable(p);
    int64_t others = p->out_group == 1 && p->in_group > 1 ? p->axis[2].kernel : p->out_group;      /* taps, joined */
    double x_share = convt3d__cpu_dw_tile(leaves, lanes, p->in_group, others, &b->vectors, &b->columns);
    double dy_share = convt3d__cpu_dw_tile(leaves, lanes, p->out_group, p->in_group, &vectors, &columns);
    b->x_vectors = x_share >= 0.9 * dy_share;
    if (!b->x_vectors) { b->vectors = vectors;  b->columns = columns; }
    if (x_share < 0.3 && dy_share < 0.3) {
        b->x_vectors = 1;
        b->vectors = b->columns = 0;
    }
    if (inside > 0 && inside * convt3d__cpu_dw_tile(leaves, lanes, rows, p->in_group, &vectors, &columns) >=
                          0.9 * (x_share > dy_share ? x_share : dy_share)) {
        b->folded = 1;
        b->x_vectors = 0;
        b->vectors = vectors;
        b->columns = columns;
    }
    b->taps = b->folded ? 1 : p->taps;
    b->vector = b->vectors > 0 ? b->vectors * lanes : 1;
    b->blocks = convt3d__ceil_div(b->x_vectors ? p->in_group : b->folded ? rows : p->out_group, b->vector);
    b->others = b->x_vectors ? p->out_group : p->in_group;
}

/* What a tile reads of dy along one axis. */
static int64_t convt3d__cpu_dw_reach(const convt3d__axis *a, int64_t size)
{
    return convt3d__min(a->out, (size - 1) * a->stride + (a->kernel - 1) * a->dilation + 1);
}

/* From row to row of the lines of one tensor: positions, or those of a phase and zeros behind them for each phase. */
static int64_t convt3d__cpu_dw_pitch(const convt3d__cpu_wgrad *b, int64_t n, int64_t phases)
{
    return b->vectors > 0 ? n : phases * (convt3d__ceil_div(n, phases) + 1 + 16);
}

/* Bytes of a packed tensor with all its channels, or one block of taps that are channels, in floating point since a
 * plan may be far too large. */
static double convt3d__cpu_dw_bytes(const convt3d__plan *p, const convt3d__cpu_wgrad *b, int of_x)
{
    int64_t n[3], channels = of_x ? p->in_group : p->out_group;
    int i;
    for (i = 0; i < 3; i++) n[i] = of_x || b->folded ? b->size[i] : convt3d__cpu_dw_reach(&p->axis[i], b->size[i]);
    if (of_x == b->x_vectors) channels = (b->folded ? 1 : b->blocks) * b->vector;
    n[2] = convt3d__cpu_dw_pitch(b, n[2], of_x ? 1 : p->axis[2].stride);
    return ((double)n[0] * (double)n[1] * (double)n[2] + 32) * (double)channels * (double)convt3d__cpu_real_size(p);
}

static void convt3d__cpu_dw_sizes(const convt3d__plan *p, convt3d__cpu_wgrad *b)
{
    int64_t most = CONVT3D__CPU_DW_DOTS, i, positions = 1;
    double bytes = (double)b->partial * (double)convt3d__cpu_real_size(p), all = (double)p->desc.batch;
    if (b->vectors > 0) most = convt3d__max(64, CONVT3D__CPU_DW_PANEL / (b->vector * convt3d__cpu_real_size(p)));
    b->tiles = p->desc.batch;
    for (i = 2; i >= 0; i--) {
        int64_t in = p->axis[i].in;
        b->size[i] = convt3d__max(1, convt3d__min(in, most / positions));
        b->count[i] = convt3d__ceil_div(in, b->size[i]);
        if (b->count[i] > 0) b->size[i] = convt3d__ceil_div(in, b->count[i]);
        b->count[i] = convt3d__ceil_div(in, b->size[i]);
        positions *= b->size[i];
        b->tiles *= b->count[i];
        all *= (double)in;
    }
    b->sums = CONVT3D__CPU_DW_SUMS;
    if (all < (double)CONVT3D__CPU_DW_SUMS * (double)CONVT3D__CPU_DW_PART)
        b->sums = (int64_t)(all / (double)CONVT3D__CPU_DW_PART);
    b->sums = convt3d__max(1, convt3d__min(b->sums, b->tiles));
    if ((double)b->sums * bytes > (double)CONVT3D__CPU_DW_BYTES)
        b->sums = convt3d__max(1, (int64_t)((double)CONVT3D__CPU_DW_BYTES / bytes));
}

static int32_t convt3d__cpu_dw_refuses(convt3d__plan *p, const convt3d__cpu_leaves *leaves, char why[96])
{
    convt3d__cpu_wgrad b;
    double most = (double)((int64_t)1 << 28);
    int64_t each;
    memset(&b, 0, sizeof b);
    convt3d__cpu_dw_sides(p, leaves, &b);
    if ((double)p->w_count * 128 > 4e18) {
        convt3d__cpu_reason(why, "the sums of dw would exceed the address space");
        return 1;
    }
    b.partial = p->desc.groups * b.blocks * b.taps * b.others * b.vector;
    convt3d__cpu_dw_sizes(p, &b);
    b.row_bytes = b.folded ? convt3d__cpu_round_up(convt3d__cpu_dw_reach(&p->axis[2], b.size[2]) * 4, 64) : 0;
    if (convt3d__cpu_dw_bytes(p, &b, 0) > most || convt3d__cpu_dw_bytes(p, &b, 1) > most ||
        (double)b.row_bytes > most) {
        convt3d__cpu_reason(why, "what the taps of one tile of inputs read of dy exceeds 256 MiB");
        return 1;
    }
    b.v_bytes = convt3d__cpu_round_up((int64_t)convt3d__cpu_dw_bytes(p, &b, b.x_vectors), 64);
    b.b_bytes = convt3d__cpu_round_up((int64_t)convt3d__cpu_dw_bytes(p, &b, !b.x_vectors), 64);
    b.threads = convt3d__cpu_most_threads(p);
    b.parts = convt3d__min(b.blocks, convt3d__ceil_div(4 * b.threads, b.sums * p->desc.groups));
    if (b.threads == 1) b.parts = 1;
    if (b.sums == 1) {
        each = b.taps * b.others * b.vector;
        b.parts = convt3d__max(b.parts, convt3d__min(b.blocks, b.blocks * each * 4 / CONVT3D__CPU_DW_OWN));
        if (b.folded && b.tiles == 1) b.parts = b.blocks;       /* x stays packed from part to part */
        b.partial = convt3d__ceil_div(b.blocks, b.parts) * each;
    }
    b.threads = convt3d__min(b.threads, convt3d__max(b.parts * b.sums * p->desc.groups, CONVT3D__CPU_BIAS_PARTS));
    b.bias_parts = convt3d__max(1, convt3d__min(CONVT3D__CPU_BIAS_PARTS, p->desc.batch * p->axis[0].out));
    if ((double)b.threads * (double)(b.v_bytes + b.b_bytes + b.row_bytes + b.partial * 8) +
        (double)b.bias_parts * (double)p->desc.out_channels * 8 > 4e18) {
        convt3d__cpu_reason(why, "the packed tiles of all threads would exceed the address space");
        return 1;
    }
    memcpy(p->state, &b, sizeof b);
    return 0;
}

static int64_t convt3d__cpu_dw_workspace(const convt3d__plan *p)
{
    convt3d__cpu_wgrad b = convt3d__cpu_wgrad_of(p);
    return 64 + b.threads * (b.v_bytes + b.b_bytes + b.row_bytes) + b.bias_parts * p->desc.out_channels * 8 +
           (b.sums == 1 ? b.threads : b.sums) * b.partial * convt3d__cpu_real_size(p);
}

static int64_t convt3d__cpu_dw_packed(const convt3d__plan *p) { (void)p;  return 0; }     /* no weights are read */

/* ---- a tile ---- */

/* A tensor, its channels of a group from `channel` on, and the box of it that is packed. */
typedef struct convt3d__cpu_side {
    const void *base;
    const int64_t *stride;
    char *to;
    int64_t channel, channels;
    int64_t first[3], end[3];
    int64_t phases;                     /* of W that lie side by side */
    int64_t step[3], plane;             /* packed: from position to position along each axis, from channel to channel */
    int64_t part;                       /* from phase to phase */
} convt3d__cpu_side;

typedef struct convt3d__cpu_dw {
    const convt3d__plan *p;
    const convt3d__cpu_wgrad *b;
    const convt3d__cpu_leaves *leaves;
    const convt3d_io *io;
    char *memory;                       /* this thread's */
    double *bias;                       /* [part][channel] */
    char *sums;
    int64_t group, block, block_end;
    convt3d__cpu_side x, dy;
    char *row;                          /* of dy, widened */
    int64_t packed;                     /* the tile whose x is packed */
    int32_t finite, zeros;
    int32_t stored;                     /* the unit's sums are in dw */
} convt3d__cpu_dw;

/* How many rows of n positions, and how many planes of them, lie end to end and are packed as one. */
static void convt3d__cpu_side_runs(const convt3d__cpu_side *s, int64_t n, int64_t *rows, int64_t *planes)
{
    *rows = *planes = 1;
    if (s->stride[4] != 1 || s->stride[3] != n) return;
    *rows = s->end[1] - s->first[1];
    if (s->stride[2] == *rows * n) *planes = s->end[0] - s->first[0];
}

/* As vectors: [block][position][VECTOR]. */
static void convt3d__cpu_pack_vectors(const convt3d__cpu_dw *u, convt3d__cpu_side *s)
{
    int64_t real = convt3d__cpu_real_size(u->p), vector = u->b->vector, d, h, c, n = s->end[2] - s->first[2];
    int64_t rows, planes, from = s->channel * s->stride[1] + s->first[2] * s->stride[4];
    int32_t type = u->p->desc.dtype;
    convt3d__cpu_side_runs(s, n, &rows, &planes);
    s->step[2] = vector;
    s->step[1] = n * vector;
    s->step[0] = (s->end[1] - s->first[1]) * s->step[1];
    s->plane = (s->end[0] - s->first[0]) * s->step[0];
    for (c = 0; c < s->channels; c += vector) {
        char *to = s->to + c / vector * s->plane * real;
        int64_t channels = convt3d__min(vector, s->channels - c);
        if (channels < vector) memset(to, 0, (size_t)(s->plane * real));
        for (d = s->first[0]; d < s->end[0]; d += planes)
            for (h = s->first[1]; h < s->end[1]; h += rows, to += planes * rows * s->step[1] * real)
                convt3d__cpu_gather_columns(u->leaves, type, to, vector,
                                            convt3d__cpu_element(s->base, type, from + c * s->stride[1] +
                                                                 d * s->stride[2] + h * s->stride[3]),
                                            s->stride[1], s->stride[4], channels, planes * rows * n);
    }
}

/* One row of all channels. */
static void convt3d__cpu_pack_lines_row(const convt3d__cpu_dw *u, const convt3d__cpu_side *s, char *to, int64_t from,
                                        int64_t n, int64_t pitch)
{
    int64_t real = convt3d__cpu_real_size(u->p), c, step = s->stride[4] * s->phases;
    int32_t type = u->p->desc.dtype;
    if (n > 0 && s->stride[1] == 1 && s->channels > 1 && s->stride[4] != 1)
        convt3d__cpu_gather_lines(u->leaves, type, to, s->plane, convt3d__cpu_element(s->base, type, from), step,
                                  s->channels, n);
    else for (c = 0; n > 0 && c < s->channels; c++) {
        if (step <= 4 && c + CONVT3D__CPU_DW_AHEAD < s->channels)       /* rows of another page */
            convt3d__cpu_prefetch(convt3d__cpu_element(s->base, type,
                                                       from + (c + CONVT3D__CPU_DW_AHEAD) * s->stride[1]),
                                  n * step * convt3d__element_size(type));
        convt3d__cpu_gather(u->leaves, type, to + c * s->plane * real,
                            convt3d__cpu_element(s->base, type, from + c * s->stride[1]), step, n);
    }
    for (c = 0; n < pitch && c < s->channels; c++)
        memset(to + (c * s->plane + n) * real, 0, (size_t)((pitch - n) * real));
}

/* As lines: [channel][depth][height][phase][column]. */
static void convt3d__cpu_pack_lines(const convt3d__cpu_dw *u, convt3d__cpu_side *s)
{
    int64_t real = convt3d__cpu_real_size(u->p), d, h, w, n, first = s->first[2] / s->phases * s->phases;
    int64_t rows = 1, planes = 1;
    char *to = s->to;
    if (u->b->vectors > 0) convt3d__cpu_side_runs(s, s->end[2] - s->first[2], &rows, &planes);
    s->step[1] = convt3d__cpu_dw_pitch(u->b, s->end[2] - s->first[2], s->phases);
    s->part = s->step[1] / s->phases;
    s->step[2] = 1;
    s->step[0] = (s->end[1] - s->first[1]) * s->step[1];
    s->plane = convt3d__cpu_round_up((s->end[0] - s->first[0]) * s->step[0], 16);
    if (s->plane % 32 == 0) s->plane += 16;             /* spreads the channels over the sets of a cache */
    for (n = 0; u->b->vectors == 0 && n < s->channels; n++)         /* what convt3d__cpu_is_finite() would find there */
        memset(s->to + ((n + 1) * s->plane - 32) * real, 0, 32 * (size_t)real);
    for (d = s->first[0]; d < s->end[0]; d += planes)
        for (h = s->first[1]; h < s->end[1]; h += rows)
            for (w = 0; w < s->phases; w++, to += planes * rows * s->part * real) {
                n = convt3d__max(0, convt3d__ceil_div(s->end[2] - first - w, s->phases));
                convt3d__cpu_pack_lines_row(u, s, to, s->channel * s->stride[1] + d * s->stride[2] + h * s->stride[3] +
                                            (first + w) * s->stride[4], planes * rows * n, planes * rows * s->part);
            }
}

/* Where packed lines or vectors have a position. */
static int64_t convt3d__cpu_side_at(const convt3d__cpu_side *s, const int64_t at[3])
{
    int64_t first = s->phases > 1 ? at[2] % s->phases * s->part + at[2] / s->phases - s->first[2] / s->phases :
                                    (at[2] - s->first[2]) * s->step[2];
    return (at[0] - s->first[0]) * s->step[0] + (at[1] - s->first[1]) * s->step[1] + first;
}

/* The box of x of tile i of its sample, and that of dy which its taps read; 0 where that is empty. */
static int convt3d__cpu_dw_boxes(convt3d__cpu_dw *u, int64_t i)
{
    int some = 1, a;
    for (a = 2; a >= 0; a--) {
        const convt3d__axis *axis = &u->p->axis[a];
        u->x.first[a] = i % u->b->count[a] * u->b->size[a];
        u->x.end[a] = convt3d__min(axis->in, u->x.first[a] + u->b->size[a]);
        i /= u->b->count[a];
        u->dy.first[a] = convt3d__max(0, u->x.first[a] * axis->stride - axis->padding);
        u->dy.end[a] = convt3d__min(axis->out, (u->x.end[a] - 1) * axis->stride - axis->padding +
                                               (axis->kernel - 1) * axis->dilation + 1);
        if (u->dy.first[a] >= u->dy.end[a]) some = 0;
    }
    return some;
}

static int convt3d__cpu_is_finite(const convt3d__cpu_dw *u, const convt3d__cpu_side *s)
{
    double total = u->leaves->total[u->p->desc.dtype == CONVT3D_F64](s->to, s->channels * s->plane);
    return total - total == 0;
}

static void convt3d__cpu_pack_tile(convt3d__cpu_dw *u)
{
    convt3d__cpu_side *v = u->b->x_vectors ? &u->x : &u->dy, *b = u->b->x_vectors ? &u->dy : &u->x;
    v->to = u->memory;
    b->to = u->memory + u->b->v_bytes;
    u->x.phases = u->dy.phases = 1;
    if (u->b->vectors > 0) {
        convt3d__cpu_pack_vectors(u, v);
        convt3d__cpu_pack_lines(u, b);
        return;
    }
    u->dy.phases = u->p->axis[2].stride;
    convt3d__cpu_pack_lines(u, v);
    convt3d__cpu_pack_lines(u, b);
    u->finite = convt3d__cpu_is_finite(u, v) && convt3d__cpu_is_finite(u, b);
}

/* The positions of the tile, along one axis, whose tap k lies inside dy; 0 if none. x, dy: the first of them. */
static int convt3d__cpu_dw_range(const convt3d__cpu_dw *u, int a, int64_t k, convt3d__cpu_outer *o, int64_t x[3],
                                 int64_t dy[3])
{
    const convt3d__axis *axis = &u->p->axis[a];
    int64_t shift = k * axis->dilation - axis->padding;
    int64_t first = convt3d__max(u->x.first[a], convt3d__ceil_div(-shift, axis->stride));
    int64_t end = convt3d__min(u->x.end[a], convt3d__floor_div(axis->out - 1 - shift, axis->stride) + 1);
    x[a] = first;
    dy[a] = first * axis->stride + shift;
    o->size[a] = end - first;
    return first < end;
}

/* Whether dy has one channel, so that the columns of a tile are taps along W instead. */
static int convt3d__cpu_dw_joins(const convt3d__cpu_dw *u)
{
    return u->b->x_vectors && u->b->vectors > 0 && u->b->others == 1;
}

/* How the leaf goes over the packed tensors. */
static void convt3d__cpu_dw_steps(const convt3d__cpu_dw *u, convt3d__cpu_outer *o)
{
    int a;
    for (a = 0; a < 3; a++) {
        int64_t step = u->dy.step[a] * (a == 2 && u->dy.phases > 1 ? 1 : u->p->axis[a].stride);
        o->v_step[a] = u->b->x_vectors ? u->x.step[a] : step;
        o->b_step[a] = u->b->x_vectors ? step : u->x.step[a];
    }
    o->column = u->b->x_vectors ? u->dy.plane : u->x.plane;
    if (convt3d__cpu_dw_joins(u)) o->column = u->p->axis[2].dilation;
    o->vectors = u->b->vectors;
}

/* One block of vectors by all other channels, which begin at `from`; or by `taps` of the only one. */
static void convt3d__cpu_dw_columns(const convt3d__cpu_dw *u, const char *from, int64_t taps, convt3d__cpu_outer *o,
                                    char *sums)
{
    const convt3d__cpu_wgrad *b = u->b;
    int64_t real = convt3d__cpu_real_size(u->p), n = convt3d__ceil_div(b->others, convt3d__max(1, b->columns));
    int64_t column, end, i;
    for (i = column = 0; i < n; i++, column = end) {
        end = (i + 1) * b->others / n;
        o->columns = b->vectors > 0 ? (int32_t)((end - column) * taps) : u->finite;
        o->b = from + column * o->column * real;
        o->sum = sums + column * b->vector * real;
        u->leaves->outer[u->p->desc.dtype == CONVT3D_F64](o);
    }
}

/* One tap of the tile, whose first positions are x[] and dy[]: all blocks of the unit by all other channels; or `taps`
 * of them where they join. */
static void convt3d__cpu_dw_tap(const convt3d__cpu_dw *u, int64_t tap, int64_t taps, const int64_t x[3],
                                const int64_t dy[3], convt3d__cpu_outer *o, char *sums)
{
    const convt3d__cpu_wgrad *b = u->b;
    int64_t real = convt3d__cpu_real_size(u->p), block, plane = b->x_vectors ? u->x.plane : u->dy.plane;
    const char *px = u->x.to + convt3d__cpu_side_at(&u->x, x) * real;
    const char *py = u->dy.to + convt3d__cpu_side_at(&u->dy, dy) * real;
    for (block = u->block; block < u->block_end; block++) {
        o->v = (b->x_vectors ? px : py) + (block - u->block) * plane * real;
        convt3d__cpu_dw_columns(u, b->x_vectors ? py : px, taps, o,
                                sums + ((block - u->block) * u->p->taps + tap) * b->others * b->vector * real);
    }
}

/* Positions [first, end) along W for taps [kw, kw + taps); `tap` is the first of its row. */
static void convt3d__cpu_dw_stretch(const convt3d__cpu_dw *u, int64_t tap, int64_t kw, int64_t taps, int64_t first,
                                    int64_t end, int64_t x[3], int64_t dy[3], convt3d__cpu_outer *o, char *sums)
{
    const convt3d__axis *a = &u->p->axis[2];
    x[2] = first;
    dy[2] = first * a->stride + kw * a->dilation - a->padding;
    o->size[2] = end - first;
    if (first < end) convt3d__cpu_dw_tap(u, tap + kw, taps, x, dy, o, sums);
}

/* Taps [kw, end) joined where all of them lie inside dy, and one by one on both sides of that. */
static void convt3d__cpu_dw_joined(const convt3d__cpu_dw *u, int64_t tap, int64_t kw, int64_t end, int64_t x[3],
                                   int64_t dy[3], convt3d__cpu_outer *o, char *sums)
{
    int64_t first, last, from, to, taps = end - kw;
    convt3d__cpu_dw_range(u, 2, end - 1, o, x, dy);
    last = x[2] + o->size[2];
    convt3d__cpu_dw_range(u, 2, kw, o, x, dy);
    first = x[2];
    last = convt3d__max(first, last);
    convt3d__cpu_dw_stretch(u, tap, kw, taps, first, last, x, dy, o, sums);
    for (; kw < end; kw++) {
        convt3d__cpu_dw_range(u, 2, kw, o, x, dy);
        from = x[2];
        to = from + o->size[2];
        convt3d__cpu_dw_stretch(u, tap, kw, 1, from, convt3d__min(to, first), x, dy, o, sums);
        convt3d__cpu_dw_stretch(u, tap, kw, 1, convt3d__max(from, last), to, x, dy, o, sums);
    }
}

/* All taps of one row of them. */
static void convt3d__cpu_dw_row_taps(const convt3d__cpu_dw *u, int64_t tap, int64_t x[3], int64_t dy[3],
                                     convt3d__cpu_outer *o, char *sums)
{
    int64_t kernel = u->p->axis[2].kernel, kw, i, n;
    if (convt3d__cpu_dw_joins(u)) {
        n = convt3d__ceil_div(kernel, u->b->columns);
        for (i = 0; i < n; i++)
            convt3d__cpu_dw_joined(u, tap, i * kernel / n, (i + 1) * kernel / n, x, dy, o, sums);
        return;
    }
    for (kw = 0; kw < kernel; kw++)
        if (convt3d__cpu_dw_range(u, 2, kw, o, x, dy)) convt3d__cpu_dw_tap(u, tap + kw, 1, x, dy, o, sums);
}

static void convt3d__cpu_dw_tile_taps(const convt3d__cpu_dw *u, char *sums)
{
    const convt3d__axis *a = u->p->axis;
    convt3d__cpu_outer o;
    int64_t kd, kh, x[3], dy[3];
    convt3d__cpu_dw_steps(u, &o);
    for (kd = 0; kd < a[0].kernel; kd++) {
        if (!convt3d__cpu_dw_range(u, 0, kd, &o, x, dy)) continue;
        for (kh = 0; kh < a[1].kernel; kh++) {
            if (!convt3d__cpu_dw_range(u, 1, kh, &o, x, dy)) continue;
            convt3d__cpu_dw_row_taps(u, (kd * a[1].kernel + kh) * a[2].kernel, x, dy, &o, sums);
        }
    }
}

/* Whether sums are elements of dw as they are. */
static int convt3d__cpu_dw_is_plain(const convt3d__cpu_dw *u)
{
    return u->p->desc.dtype <= CONVT3D_F64 && !(u->p->desc.accumulate & CONVT3D_BACKWARD_W);
}

/* ---- taps as channels of dy ---- */

/* A box of values of so many bytes each, a multiple of 4. */
CONVT3D__CPU_INLINE void convt3d__cpu_copy_values(char *to, const char *from, const size_t bytes, const int64_t size[3],
                                                  const int64_t to_step[3], const int64_t from_step[3])
{
    int64_t d, h, w;
    for (d = 0; d < size[0]; d++)
        for (h = 0; h < size[1]; h++) {
            char *t = to + d * to_step[0] + h * to_step[1];
            const char *f = from + d * from_step[0] + h * from_step[1];
            for (w = 0; w < size[2]; w++, t += to_step[2], f += from_step[2]) memcpy(t, f, bytes);
        }
}

static void convt3d__cpu_copy_box(char *to, const char *from, int64_t bytes, const int64_t size[3],
                                  const int64_t to_step[3], const int64_t from_step[3])
{
    for (; bytes >= 16; bytes -= 16, to += 16, from += 16)
        convt3d__cpu_copy_values(to, from, 16, size, to_step, from_step);
    if (bytes & 8) convt3d__cpu_copy_values(to, from, 8, size, to_step, from_step);
    if (bytes & 4) convt3d__cpu_copy_values(to + (bytes & 8), from + (bytes & 8), 4, size, to_step, from_step);
}

/* `taps` side by side, from the one that is at dy[] for position x[] on, for a box of positions. */
static void convt3d__cpu_fold_box(const convt3d__cpu_dw *u, char *to, int64_t channel, int64_t taps, const int64_t x[3],
                                  const int64_t dy[3], const int64_t size[3])
{
    const int64_t *stride = u->dy.stride;
    int64_t real = convt3d__cpu_real_size(u->p), n[3], from_step[3], to_step[3], d, h, at = channel * stride[1];
    int32_t type = u->p->desc.dtype;
    int a;
    for (a = 0; a < 3; a++) {
        from_step[a] = u->p->axis[a].stride * stride[2 + a] * real;
        to_step[a] = u->dy.step[a] * real;
        to += (x[a] - u->x.first[a]) * to_step[a];
        at += dy[a] * stride[2 + a];
    }
    if (type <= CONVT3D_F64) {
        convt3d__cpu_copy_box(to, (const char *)convt3d__cpu_element(u->dy.base, type, at), taps * real, size, to_step,
                              from_step);
        return;
    }
    n[0] = n[1] = 1;
    n[2] = size[2];
    for (d = 0; d < size[0]; d++)
        for (h = 0; h < size[1]; h++) {
            convt3d__cpu_gather(u->leaves, type, u->row,
                                convt3d__cpu_element(u->dy.base, type, at + d * u->p->axis[0].stride * stride[2] +
                                                                       h * u->p->axis[1].stride * stride[3]),
                                1, (n[2] - 1) * u->p->axis[2].stride + taps);
            convt3d__cpu_copy_box(to + d * to_step[0] + h * to_step[1], u->row, taps * real, n, to_step, from_step);
        }
}

/* Taps k[2] to k[2] + taps along W of one channel, to where the first of them has its place: those of positions with
 * all of them inside dy together, on both sides of that one by one, as all are that do not lie side by side. */
static void convt3d__cpu_fold_taps(const convt3d__cpu_dw *u, char *to, int64_t channel, const int64_t k[3],
                                   int64_t taps)
{
    const convt3d__axis *a = &u->p->axis[2];
    int64_t real = convt3d__cpu_real_size(u->p), x[3], dy[3], first, last, from, end, kw;
    convt3d__cpu_outer o;
    if (!convt3d__cpu_dw_range(u, 0, k[0], &o, x, dy) || !convt3d__cpu_dw_range(u, 1, k[1], &o, x, dy)) return;
    convt3d__cpu_dw_range(u, 2, k[2] + taps - 1, &o, x, dy);
    last = x[2] + o.size[2];
    convt3d__cpu_dw_range(u, 2, k[2], &o, x, dy);
    first = x[2];
    last = a->dilation > 1 ? first : convt3d__max(first, last);
    o.size[2] = last - first;
    if (first < last) convt3d__cpu_fold_box(u, to, channel, taps, x, dy, o.size);
    for (kw = k[2]; kw < k[2] + taps; kw++, to += real) {
        convt3d__cpu_dw_range(u, 2, kw, &o, x, dy);
        from = x[2];
        end = from + o.size[2];
        o.size[2] = convt3d__min(end, first) - from;
        if (o.size[2] > 0) convt3d__cpu_fold_box(u, to, channel, 1, x, dy, o.size);
        x[2] = convt3d__max(from, last);
        dy[2] += (x[2] - from) * a->stride;
        o.size[2] = end - x[2];
        if (o.size[2] > 0) convt3d__cpu_fold_box(u, to, channel, 1, x, dy, o.size);
    }
}

/* The tap of row r of the group's matrix [channel][tap]. */
static void convt3d__cpu_fold_tap_of(const convt3d__plan *p, int64_t r, int64_t k[3])
{
    int a;
    for (a = 2; a >= 0; a--) {
        k[a] = r % p->axis[a].kernel;
        r /= p->axis[a].kernel;
    }
}

/* One block of that matrix as vectors, [position][VECTOR]; zeros where a tap lies outside dy. */
static void convt3d__cpu_pack_folded(convt3d__cpu_dw *u, int64_t block)
{
    convt3d__cpu_side *s = &u->dy;
    int64_t real = convt3d__cpu_real_size(u->p), vector = u->b->vector, first = block * vector, r, n, k[3];
    int64_t end = convt3d__min(first + vector, u->p->out_group * u->p->taps), kernel = u->p->axis[2].kernel;
    s->step[2] = vector;
    s->step[1] = (u->x.end[2] - u->x.first[2]) * vector;
    s->step[0] = (u->x.end[1] - u->x.first[1]) * s->step[1];
    s->plane = (u->x.end[0] - u->x.first[0]) * s->step[0];
    if (u->zeros || end < first + vector) memset(s->to, 0, (size_t)(s->plane * real));
    for (r = first; r < end; r += n) {
        convt3d__cpu_fold_tap_of(u->p, r, k);
        n = convt3d__min(end - r, kernel - k[2]);
        convt3d__cpu_fold_taps(u, s->to + (r - first) * real, s->channel + r / u->p->taps, k, n);
    }
}

/* Lines of x; whether any tap of the tile lies outside dy, and if so, whether zeros may stand for it. */
static void convt3d__cpu_pack_folded_x(convt3d__cpu_dw *u, int64_t tile)
{
    int a;
    u->dy.to = u->memory;
    u->x.to = u->memory + u->b->v_bytes;
    u->row = u->x.to + u->b->b_bytes;
    u->x.phases = 1;
    if (u->packed == tile) return;
    u->packed = tile;
    convt3d__cpu_pack_lines(u, &u->x);
    u->zeros = 0;
    for (a = 0; a < 3; a++) {
        const convt3d__axis *axis = &u->p->axis[a];
        u->zeros |= u->x.first[a] * axis->stride < axis->padding ||
                    (u->x.end[a] - 1) * axis->stride - axis->padding + (axis->kernel - 1) * axis->dilation >= axis->out;
    }
    u->finite = !u->zeros || convt3d__cpu_is_finite(u, &u->x);
}

/* Row r of the matrix over the box of positions whose tap lies inside dy, for all channels of x; the leaf takes the
 * rest of the block along. */
static void convt3d__cpu_dw_folded_row(const convt3d__cpu_dw *u, int64_t block, int64_t r, char *sums)
{
    int64_t real = convt3d__cpu_real_size(u->p), vector = u->b->vector, c, k[3], x[3], dy[3], at = 0;
    double all[64];
    convt3d__cpu_outer o;
    int a, inside = 1;
    convt3d__cpu_fold_tap_of(u->p, block * vector + r, k);
    for (a = 0; a < 3; a++) {
        inside &= convt3d__cpu_dw_range(u, a, k[a], &o, x, dy);
        o.v_step[a] = u->dy.step[a];
        o.b_step[a] = u->x.step[a];
        at += (x[a] - u->x.first[a]) * u->x.step[a];
    }
    if (!inside) return;
    o.vectors = u->b->vectors;
    o.columns = 1;
    o.column = 0;
    o.sum = all;
    for (c = 0; c < u->b->others; c++) {
        o.v = u->dy.to + at * vector * real;
        o.b = u->x.to + (c * u->x.plane + at) * real;
        memset(all, 0, (size_t)(vector * real));
        u->leaves->outer[u->p->desc.dtype == CONVT3D_F64](&o);
        if (real == 8) ((double *)(void *)sums)[c * vector + r] += all[r];
        else ((float *)(void *)sums)[c * vector + r] += ((const float *)(const void *)all)[r];
    }
}

/* What is written soon. */
static void convt3d__cpu_prefetch_write(const char *to, int64_t bytes)
{
    int64_t i;
    for (i = 0; i < bytes; i += 64) CONVT3D__CPU_PREFETCH_WRITE(to + i);
}

/* One block of the only tile there is: its sums go to dw, whose lines come near meanwhile. */
static void convt3d__cpu_dw_folded_direct(const convt3d__cpu_dw *u, int64_t block, convt3d__cpu_outer *o, char *sums)
{
    const convt3d__cpu_wgrad *b = u->b;
    int64_t real = convt3d__cpu_real_size(u->p), rows = u->p->out_group * u->p->taps, first = block * b->vector;
    int64_t bytes = convt3d__min(b->vector, rows - first) * real, n = convt3d__ceil_div(b->others, b->columns);
    int64_t i, j, c, end;
    char *to = (char *)u->io->dw + (u->group * u->p->in_group * rows + first) * real;
    for (i = c = 0; i < n; i++, c = end) {
        end = (i + 1) * b->others / n;
        for (j = c; j < end; j++) convt3d__cpu_prefetch_write(to + j * rows * real, bytes);
        o->columns = (int32_t)(end - c);
        o->b = u->x.to + c * u->x.plane * real;
        o->sum = sums + c * b->vector * real;
        u->leaves->outer[u->p->desc.dtype == CONVT3D_F64](o);
        for (j = c; j < end; j++) memcpy(to + j * rows * real, sums + j * b->vector * real, (size_t)bytes);
    }
}

/* One block of the matrix; rows and planes of positions lie end to end on both sides. Where x has a NaN or an infinity,
 * it is multiplied by no zero that dy does not have. */
static void convt3d__cpu_dw_folded_block(const convt3d__cpu_dw *u, int64_t block, char *sums)
{
    convt3d__cpu_outer o;
    int64_t r, rows = convt3d__min(u->b->vector, u->p->out_group * u->p->taps - block * u->b->vector);
    memset(&o, 0, sizeof o);
    o.vectors = u->b->vectors;
    o.column = u->x.plane;
    o.v = u->dy.to;
    o.size[0] = o.size[1] = 1;
    o.size[2] = u->dy.plane / u->b->vector;
    o.v_step[2] = u->b->vector;
    o.b_step[2] = 1;
    if (u->stored) convt3d__cpu_dw_folded_direct(u, block, &o, sums);
    else if (u->finite) convt3d__cpu_dw_columns(u, u->x.to, 1, &o, sums);
    else for (r = 0; r < rows; r++) convt3d__cpu_dw_folded_row(u, block, r, sums);
}

static void convt3d__cpu_dw_folded(convt3d__cpu_dw *u, int64_t tile, char *sums)
{
    int64_t block, bytes = u->b->others * u->b->vector * convt3d__cpu_real_size(u->p);
    convt3d__cpu_pack_folded_x(u, tile);
    u->stored = u->b->tiles == 1 && u->finite && convt3d__cpu_dw_is_plain(u);
    for (block = u->block; block < u->block_end; block++, sums += bytes) {
        convt3d__cpu_pack_folded(u, block);
        convt3d__cpu_dw_folded_block(u, block, sums);
    }
}

/* ---- results ---- */

/* n values from double, n at most 64, to elements [index, index + n) of a gradient. */
static void convt3d__cpu_put_gradient(const convt3d__cpu_dw *u, int32_t bit, void *gradient, int64_t index,
                                      const double *values, int64_t n)
{
    int32_t type = u->p->desc.dtype;
    char *to = (char *)gradient + index * convt3d__element_size(type);
    double old[64], wide[64];
    int64_t i;
    memset(old, 0, sizeof old);
    if (u->p->desc.accumulate & bit) convt3d__cpu_gather(u->leaves, type, old, to, 1, n);
    if (type == CONVT3D_F64) for (i = 0; i < n; i++) wide[i] = old[i] + values[i];
    else for (i = 0; i < n; i++) ((float *)wide)[i] = (float)((double)((float *)old)[i] + values[i]);
    convt3d__cpu_scatter(u->leaves, type, to, 1, wide, n);
}

/* n elements of dw side by side, as all partial sums have them. */
static void convt3d__cpu_dw_merge_row(const convt3d__cpu_dw *u, int64_t at, int64_t n, const char *sums)
{
    int64_t real = convt3d__cpu_real_size(u->p), i, m, s, j;
    double sum[64];
    if (u->b->sums == 1 && convt3d__cpu_dw_is_plain(u)) {
        memcpy((char *)u->io->dw + at * real, sums, (size_t)(n * real));
        return;
    }
    for (i = 0; i < n; i += 64) {
        m = convt3d__min(64, n - i);
        memset(sum, 0, sizeof sum);
        for (s = 0; s < u->b->sums; s++) {
            const char *from = sums + (s * u->b->partial + i) * real;
            if (real == 8) for (j = 0; j < m; j++) sum[j] += ((const double *)(const void *)from)[j];
            else for (j = 0; j < m; j++) sum[j] += (double)((const float *)(const void *)from)[j];
        }
        convt3d__cpu_put_gradient(u, CONVT3D_BACKWARD_W, u->io->dw, at + i, sum, m);
    }
}

/* The taps of one block of vectors by one other channel, of all partial sums; the block's begin at `sums`. */
static void convt3d__cpu_dw_merge(const convt3d__cpu_dw *u, int64_t block, int64_t other, const char *sums)
{
    const convt3d__cpu_wgrad *b = u->b;
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), g = block / b->blocks, channel = block % b->blocks * b->vector, first, n;
    int64_t rows = convt3d__min(b->vector, (b->x_vectors ? p->in_group : p->out_group) - channel), k, r, r0, s, m;
    int64_t ic = b->x_vectors ? channel : other, oc = b->x_vectors ? other : channel, step = b->others * b->vector;
    int64_t at = ((g * p->in_group + ic) * p->out_group + oc) * p->taps;
    int64_t row = (b->x_vectors ? p->out_group : 1) * p->taps;
    double sum[8][16];
    sums += other * b->vector * real;
    if (b->folded) {
        k = p->out_group * p->taps;
        at = (g * p->in_group + other) * k + channel;
        convt3d__cpu_dw_merge_row(u, at, convt3d__min(b->vector, k - channel), sums);
        return;
    }
    if (b->sums == 1 && convt3d__cpu_dw_is_plain(u)) {
        u->leaves->transpose[p->desc.dtype == CONVT3D_F64]((char *)u->io->dw + at * real, row, sums, step, p->taps,
                                                           rows);
        return;
    }
    for (first = 0; first < p->taps; first += 16)
        for (r0 = 0, n = convt3d__min(16, p->taps - first); r0 < rows; r0 += 8) {
            m = convt3d__min(8, rows - r0);
            memset(sum, 0, sizeof sum);
            for (s = 0; s < b->sums; s++)
                for (k = 0; k < n; k++) {
                    const char *from = sums + (s * b->partial + (first + k) * step + r0) * real;
                    if (p->desc.dtype == CONVT3D_F64)
                        for (r = 0; r < m; r++) sum[r][k] += ((const double *)(const void *)from)[r];
                    else for (r = 0; r < m; r++) sum[r][k] += (double)((const float *)(const void *)from)[r];
                }
            for (r = 0; r < m; r++)
                convt3d__cpu_put_gradient(u, CONVT3D_BACKWARD_W, u->io->dw, at + (r0 + r) * row + first, sum[r], n);
        }
}

/* ---- units ---- */

/* The channels of the unit. */
static void convt3d__cpu_dw_channels(convt3d__cpu_dw *u)
{
    convt3d__cpu_side *v = u->b->x_vectors ? &u->x : &u->dy;
    int64_t first = u->block * u->b->vector;
    u->x.stride = u->p->desc.x_stride;
    u->dy.stride = u->p->desc.dy_stride;
    u->x.channel = u->group * u->p->in_group;
    u->dy.channel = u->group * u->p->out_group;
    u->x.channels = u->p->in_group;
    u->dy.channels = u->p->out_group;
    if (u->b->folded) return;
    v->channel += first;
    v->channels = convt3d__min(v->channels, u->block_end * u->b->vector) - first;
}

/* Unit i: parts of the blocks run fastest, then groups, then partial sums. */
static void convt3d__cpu_dw_unit(convt3d__cpu_dw *u, int64_t i)
{
    const convt3d__cpu_wgrad *b = u->b;
    int64_t part = i % b->parts, sum = i / b->parts / u->p->desc.groups, tile, each, n;
    int64_t real = convt3d__cpu_real_size(u->p), block = b->taps * b->others * b->vector * real;
    char *sums = u->sums + sum * b->partial * real;
    u->group = i / b->parts % u->p->desc.groups;
    u->block = part * b->blocks / b->parts;
    u->block_end = (part + 1) * b->blocks / b->parts;
    if (b->sums > 1) sums += (u->group * b->blocks + u->block) * block;
    memset(sums, 0, (size_t)((u->block_end - u->block) * block));
    u->stored = 0;
    convt3d__cpu_dw_channels(u);
    each = b->count[0] * b->count[1] * b->count[2];
    for (tile = sum * b->tiles / b->sums; tile < (sum + 1) * b->tiles / b->sums; tile++) {
        n = tile / each;
        u->x.base = convt3d__cpu_element(u->io->x, u->p->desc.dtype, n * u->p->desc.x_stride[0]);
        u->dy.base = convt3d__cpu_element(u->io->dy, u->p->desc.dtype, n * u->p->desc.dy_stride[0]);
        if (!convt3d__cpu_dw_boxes(u, tile % each)) continue;
        if (b->folded) { convt3d__cpu_dw_folded(u, tile * u->p->desc.groups + u->group, sums);  continue; }
        convt3d__cpu_pack_tile(u);
        convt3d__cpu_dw_tile_taps(u, sums);
    }
    for (i = 0; b->sums == 1 && !u->stored && i < (u->block_end - u->block) * b->others; i++)
        convt3d__cpu_dw_merge(u, u->group * b->blocks + u->block + i / b->others, i % b->others,
                              sums + i / b->others * block);
}

/* ---- dbias ---- */

/* The sum of n values of one channel; `plain`: they lie side by side in the accumulator's type. */
static double convt3d__cpu_bias_row(const convt3d__cpu_dw *u, int64_t from, int64_t step, int64_t n)
{
    int32_t type = u->p->desc.dtype, is_f64 = type == CONVT3D_F64;
    double wide[512], sum = 0;
    int64_t i, m;
    if (step == 1 && type <= CONVT3D_F64)
        return u->leaves->total[is_f64](convt3d__cpu_element(u->io->dy, type, from), n);
    for (i = 0; i < n; i += 512) {
        m = convt3d__min(512, n - i);
        convt3d__cpu_gather(u->leaves, type, wide, convt3d__cpu_element(u->io->dy, type, from + i * step), step, m);
        sum += u->leaves->total[is_f64](wide, m);
    }
    return sum;
}

/* One plane of channels that lie side by side, 128 at a time: 64 positions to a sum in the accumulator's type. */
static void convt3d__cpu_bias_plane(const convt3d__cpu_dw *u, int64_t from, double *bias)
{
    const convt3d__plan *p = u->p;
    int64_t all = p->axis[1].out * p->axis[2].out, c, i, j, n, end;
    int32_t type = p->desc.dtype, is_f64 = type == CONVT3D_F64;
    double sum[128], wide[128];
    for (c = 0; c < p->desc.out_channels; c += 128)
        for (i = 0, n = convt3d__min(128, p->desc.out_channels - c); i < all; i = end) {
            end = convt3d__min(all, i + 64);
            memset(sum, 0, sizeof sum);
            for (j = i; j < end; j++) {
                int64_t index = j / p->axis[2].out * p->desc.dy_stride[3] + j % p->axis[2].out * p->desc.dy_stride[4];
                const void *at = convt3d__cpu_element(u->io->dy, type, from + c + index);
                if (type > CONVT3D_F64) { convt3d__cpu_gather(u->leaves, type, wide, at, 1, n);  at = wide; }
                u->leaves->add[is_f64](sum, at, n, 1, 0, 0);
            }
            for (j = 0; j < n; j++)
                bias[c + j] += is_f64 ? sum[j] : (double)((const float *)(const void *)sum)[j];
        }
}

/* Part i of the planes of all samples, all channels. */
static void convt3d__cpu_bias_part(const convt3d__cpu_dw *u, int64_t i)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.dy_stride;
    int64_t depth = p->axis[0].out, planes = p->desc.batch * depth, h, w = p->axis[2].out, c, plane, from;
    int64_t at = i * planes / u->b->bias_parts, end = (i + 1) * planes / u->b->bias_parts, rows = p->axis[1].out;
    double *bias = u->bias + i * p->desc.out_channels;
    if (stride[4] == 1 && stride[3] == w) { w *= rows;  rows = w > 0 ? 1 : 0; }
    memset(bias, 0, (size_t)p->desc.out_channels * sizeof *bias);
    if (stride[1] == 1 && stride[4] != 1 && p->desc.out_channels > 1) {
        for (plane = at; plane < end; plane++)
            convt3d__cpu_bias_plane(u, plane / depth * stride[0] + plane % depth * stride[2], bias);
        return;
    }
    for (c = 0; c < p->desc.out_channels; c++)
        for (plane = at; plane < end; plane++)
            for (h = 0; h < rows; h++) {
                from = plane / depth * stride[0] + c * stride[1] + plane % depth * stride[2] + h * stride[3];
                bias[c] += convt3d__cpu_bias_row(u, from, stride[4], w);
            }
}

static void convt3d__cpu_bias_merge(const convt3d__cpu_dw *u, int64_t oc)
{
    double sum = 0;
    int64_t i;
    for (i = 0; i < u->b->bias_parts; i++) sum += u->bias[i * u->p->desc.out_channels + oc];
    convt3d__cpu_put_gradient(u, CONVT3D_BACKWARD_BIAS, u->io->dbias, oc, &sum, 1);
}

/* ---- running a plan ---- */

/* One thread's share; every thread of the team calls it, or one alone. */
static void convt3d__cpu_dw_share(const convt3d__cpu_dw *call, int64_t thread)
{
    const convt3d__cpu_wgrad *b = call->b;
    const convt3d__plan *p = call->p;
    convt3d__cpu_dw u = *call;
    int64_t units = call->io->dw ? b->sums * p->desc.groups * b->parts : 0, i;
    int64_t merges = call->io->dw && b->sums > 1 ? p->desc.groups * b->blocks * b->others : 0;
    int64_t parts = call->io->dbias ? b->bias_parts : 0, channels = call->io->dbias ? p->desc.out_channels : 0;
    int64_t block = b->taps * b->others * b->vector * convt3d__cpu_real_size(p);       /* bytes of its sums */
    u.memory = call->memory + thread * (b->v_bytes + b->b_bytes + b->row_bytes);
    if (b->sums == 1) u.sums += thread * b->partial * convt3d__cpu_real_size(p);
#ifdef _OPENMP
#pragma omp for schedule(dynamic) nowait
#endif
    for (i = 0; i < units; i++) convt3d__cpu_dw_unit(&u, i);
#ifdef _OPENMP
#pragma omp for schedule(dynamic)
#endif
    for (i = 0; i < parts; i++) convt3d__cpu_bias_part(&u, i);
#ifdef _OPENMP
#pragma omp for schedule(static) nowait
#endif
    for (i = 0; i < merges; i++)
        convt3d__cpu_dw_merge(&u, i / b->others, i % b->others, u.sums + i / b->others * block);
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
    for (i = 0; i < channels; i++) convt3d__cpu_bias_merge(&u, i);
}

static convt3d_status convt3d__cpu_dw_run(const convt3d__plan *p, const convt3d__cpu_leaves *leaves,
                                          const convt3d_io *io, convt3d_error *error)
{
    convt3d__cpu_wgrad b = convt3d__cpu_wgrad_of(p);
    convt3d__cpu_dw call;
    int threads = (int)b.threads;
    memset(&call, 0, sizeof call);
    call.p = p;
    call.b = &b;
    call.leaves = leaves;
    call.io = io;
    call.memory = (char *)io->workspace + (64 - (uintptr_t)io->workspace % 64) % 64;
    call.packed = -1;
    call.bias = (double *)(void *)(call.memory + b.threads * (b.v_bytes + b.b_bytes + b.row_bytes));
    call.sums = (char *)(call.bias + b.bias_parts * p->desc.out_channels);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    convt3d__cpu_dw_share(&call, omp_get_thread_num());
#else
    convt3d__cpu_dw_share(&call, 0);
#endif
    return convt3d__ok(error);
}
#endif
