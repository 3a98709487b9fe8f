/* blocking.h - the processor, and what a plan decides: which way a problem is summed, tiles, units, buffers.
 *
 * Idea: a unit is a box of phase positions (output o = position*stride + phase) of one sample and some groups. It
 * grows while the inputs it reads and the sums of its rows stay in a core's own caches. Of the four ways to sum
 * (convt3d_cpu.c tells what they are): panels where channels lie side by side in y, rows are short or sums are long;
 * products where a group has one or two output channels and many input channels; stacks for one output channel
 * otherwise; else lines.
 */
#ifndef CONVT3D_CPU_BLOCKING_H
#define CONVT3D_CPU_BLOCKING_H

#ifdef CONVT3D__CPU_X86
enum { CONVT3D__CPU_HAS_AVX2 = 1, CONVT3D__CPU_HAS_AVX512 = 2 };

/* What the operating system saves on a context switch: XCR0. */
static uint64_t convt3d__cpu_saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int32_t convt3d__cpu_processor(void)
{
    uint32_t a, b, c, d, ecx1;
    uint64_t saved;
    int32_t has = 0;
    if (!__get_cpuid(1, &a, &b, &ecx1, &d) || !(ecx1 >> 27 & 1)) return 0;     /* OSXSAVE */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    saved = convt3d__cpu_saved_state();
    if ((saved & 6) == 6 && (b >> 5 & 1) && (ecx1 >> 12 & 1) && (ecx1 >> 29 & 1)) has |= CONVT3D__CPU_HAS_AVX2;
    if (has && (saved & 0xe6) == 0xe6 && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 31 & 1))     /* F, DQ, VL */
        has |= CONVT3D__CPU_HAS_AVX512;
    return has;
}

/* Bytes of the caches of each level as cpuid tells, from one leaf of it (4: Intel; 0x8000001d: AMD). */
static void convt3d__cpu_ask_caches(uint32_t leaf, int64_t bytes[8])
{
    uint32_t a, b, c, d, i;
    for (i = 0; i < 8 && __get_cpuid_count(leaf, i, &a, &b, &c, &d) && (a & 31) != 0; i++)
        bytes[a >> 5 & 7] = (int64_t)((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * ((int64_t)c + 1);
}
#else
static void convt3d__cpu_ask_caches(uint32_t leaf, int64_t bytes[8]) { (void)leaf;  (void)bytes; }
#endif

/* Bytes of a core's own cache, and of the last one. */
static void convt3d__cpu_caches(int64_t *own, int64_t *last)
{
    int64_t bytes[8] = {0};
    int i;
    convt3d__cpu_ask_caches(4, bytes);
    if (bytes[1] == 0) convt3d__cpu_ask_caches(0x8000001du, bytes);
    *own = bytes[2] > 0 ? bytes[2] : (int64_t)1 << 20;
    *last = (int64_t)32 << 20;
    for (i = 1; i < 8; i++)
        if (bytes[i] > 0) *last = bytes[i];
}

static int32_t convt3d__cpu_most_threads(const convt3d__plan *p)
{
#ifdef _OPENMP
    return p->desc.threads > 0 ? p->desc.threads : omp_get_max_threads();
#else
    (void)p;
    return 1;
#endif
}

/* ---- the blocking: what a plan keeps in its state ---- */
typedef struct convt3d__cpu_blocking {
    int64_t rows;               /* ROWS: output channels of one tile */
    int64_t blocks;             /* of ROWS channels in a group */
    int64_t size[3], count[3];  /* positions in a unit and units along each axis */
    int64_t groups, group_units;    /* groups in a unit, units of groups */
    int64_t parts;              /* units that share the blocks of a group */
    int64_t pitch, gap;         /* elements from row to row of packed x; most zeros between rows */
    int64_t x_pitch, plane;     /* from channel to channel and from depth to depth of packed x */
    int64_t x_budget;           /* bytes of packed x */
    int32_t ic_block;           /* input channels of one pass over the taps */
    int32_t stack;              /* one output channel a group: rows are summed together */
    int32_t products;           /* every tap is a channel of its own, summed over the input channels first */
    int32_t chunk, x_chunk;     /* input rows whose products are kept at once, and those packed at once */
    int64_t product_pitch;      /* from product to product */
    int32_t lines;              /* of sums for each W phase */
    int64_t depth_bytes;        /* sums of one output depth */
    int32_t panel;              /* vectors of a panel, 0: lines */
    int32_t scatter;            /* a panel's sums go to y position by position, not by way of lines */
    int32_t in_place;           /* a panel reads x where it is */
    int32_t tall;               /* rows of zeros stand above and below packed x, so that all rows have equal taps */
    int64_t store;              /* channels that are stored together */
    int64_t sum_pitch;          /* of one line of sums */
    int64_t taps;               /* most taps of all W phases of one line */
    int32_t woven;              /* lines whose two W phases go to y as they are summed */
    int32_t by_phase;           /* phases one after the other, since the weights of all would not stay in a cache */
    int32_t high;               /* phases along height that are stored together */
    int32_t runs;               /* that keep their lists of taps at once */
    int64_t threads;
    int32_t stream;
    int64_t x_bytes, sum_bytes, weave_bytes, tap_bytes, list_bytes, product_bytes;      /* workspace of one thread: */
    int64_t thread_bytes;                                                               /* its parts and all of it */
} convt3d__cpu_blocking;
typedef char convt3d__cpu_blocking_fits[sizeof(convt3d__cpu_blocking) <= sizeof(((convt3d__plan *)0)->state) ? 1 : -1];

enum {
    CONVT3D__CPU_X_LEAST = 480 << 10,       /* least and most bytes of packed x, which is meant to stay in half a */
    CONVT3D__CPU_X_MOST = 960 << 10,        /* core's own cache: where that has 2 MB, k3 s1 gains 2 to 5% */
    CONVT3D__CPU_SUM_BUDGET = 96 << 10,     /* the same for the sums of one run */
    CONVT3D__CPU_W_BUDGET = 128 << 10,      /* the same for the weights that runs share */
    CONVT3D__CPU_MOST_COLUMNS = 512,        /* positions along W in a unit */
    CONVT3D__CPU_MOST_SIZE = 1024,          /* the same along depth and height */
    CONVT3D__CPU_MOST_PHASES = 64,          /* along W: each keeps a line */
    CONVT3D__CPU_MOST_HIGH = 4,             /* phases along height that are stored together */
    CONVT3D__CPU_MOST_RUNS = 8,             /* runs of one output depth that are stored together */
    CONVT3D__CPU_STREAM = 8 << 20,          /* bytes of y that go around the caches, however large the last one is: a
                                               Xeon writes into its 300 MB at a third of the rate */
    CONVT3D__CPU_CHUNK_BUDGET = 256 << 10,  /* bytes of x that are packed at once for products: rows of a channel lie
                                               in a page of their own, and short pieces of pages come slowly */
    CONVT3D__CPU_IC_BLOCK = 256,            /* input channels of one pass over the taps */
    CONVT3D__CPU_IC_STACK = 8,              /* the same for stacks, whose few sums make x the larger part of the work */
    CONVT3D__CPU_LIST = 192,                /* positions that a panel takes at once */
    CONVT3D__CPU_PLANES_BUDGET = 16 << 20,  /* bytes of sums of all output depths of a unit by products */
    CONVT3D__CPU_LONG_SUM = 300,            /* products of a sum that pay for transposing */
    CONVT3D__CPU_NARROW = 12,               /* most columns of a phase that NCDHW leaves to panels */
    CONVT3D__CPU_PACK_HEADER = 64           /* alignment of the packed weights behind the flags of their blocks */
};

static convt3d__cpu_blocking convt3d__cpu_blocking_of(const convt3d__plan *p)
{
    convt3d__cpu_blocking b;
    memcpy(&b, p->state, sizeof b);
    return b;
}

/* What a group's packed weights count as output channels and as taps. */
static int64_t convt3d__cpu_w_channels(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return p->out_group * (b->products ? p->taps : 1);
}

static int64_t convt3d__cpu_w_taps(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return b->products ? 1 : p->taps;
}

/* The type of y's elements. */
static int32_t convt3d__cpu_y_type(const convt3d__plan *p) { return p->stored; }

static int64_t convt3d__cpu_real_size(const convt3d__plan *p) { return p->desc.dtype == CONVT3D_F64 ? 8 : 4; }
static int64_t convt3d__cpu_round_up(int64_t a, int64_t to) { return convt3d__ceil_div(a, to) * to; }
static int64_t convt3d__cpu_positions(const convt3d__axis *a) { return convt3d__ceil_div(a->out, a->stride); }
static int64_t convt3d__cpu_phases(const convt3d__axis *a) { return convt3d__min(a->stride, a->out); }

/* Whether the phases of the input lie side by side in packed x along axis i, and into how many parts it so falls. */
static int convt3d__cpu_split(const convt3d__plan *p, const convt3d__cpu_blocking *b, int i)
{
    return i > 0 && !b->panel && convt3d__cpu_step(&p->axis[i]) > 1;
}

static int64_t convt3d__cpu_splits(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return (convt3d__cpu_split(p, b, 1) ? p->axis[1].gcd : 1) * (convt3d__cpu_split(p, b, 2) ? p->axis[2].gcd : 1);
}

/* Inputs along axis i, of one phase where they are split. */
static int64_t convt3d__cpu_extent(const convt3d__plan *p, const convt3d__cpu_blocking *b, int i)
{
    return convt3d__cpu_split(p, b, i) ? convt3d__ceil_div(p->axis[i].in, p->axis[i].gcd) : p->axis[i].in;
}

/* Most of them that `size` consecutive positions read. */
static int64_t convt3d__cpu_inputs(const convt3d__plan *p, const convt3d__cpu_blocking *b, int i, int64_t size)
{
    int64_t low, high, extent = convt3d__cpu_extent(p, b, i);
    const convt3d__axis *a = &p->axis[i];
    if (size >= extent) return extent;
    if (a->in_step > 0) {                   /* from the last tap of the first output to the first of the last one */
        low = convt3d__ceil_div(a->padding - (a->kernel - 1) * a->dilation, a->stride);
        high = convt3d__floor_div(size * a->stride - 1 + a->padding, a->stride) + 1;
    } else convt3d__cpu_window(a, convt3d__cpu_split(p, b, i), 0, size, &low, &high);
    return convt3d__max(0, convt3d__min(extent, high - low));
}

/* Zeros that rows want between them: what the widest window takes in beyond either end. */
static int64_t convt3d__cpu_wanted_gap(const convt3d__plan *p, const convt3d__cpu_blocking *b, int i)
{
    int64_t low, high;
    convt3d__cpu_window(&p->axis[i], convt3d__cpu_split(p, b, i), 0, convt3d__cpu_positions(&p->axis[i]), &low, &high);
    return convt3d__max(0, convt3d__max(-low, high - convt3d__cpu_extent(p, b, i)));
}

/* Fewest padded channels, then the widest tile. */
static int64_t convt3d__cpu_choose_rows(const convt3d__cpu_leaves *leaves, int64_t channels, int32_t is_f64)
{
    static const int32_t order[CONVT3D__CPU_MOST_ROWS] = {8, 6, 4, 5, 3, 2, 1, 7};
    int64_t best = 1, least = INT64_MAX, i;
    for (i = 0; i < CONVT3D__CPU_MOST_ROWS; i++) {
        int64_t rows = order[i], padded = convt3d__ceil_div(channels, rows);
        if (!leaves->line[is_f64][rows]) continue;
        if (rows < 4 && channels > rows) continue;          /* narrow tiles only for few channels */
        if (padded > INT64_MAX / 16 / rows || padded * rows >= least) continue;
        least = padded * rows;
        best = rows;
    }
    return best;
}

/* Most rows that a unit of so many positions along height packs. */
static int64_t convt3d__cpu_packed_rows(const convt3d__plan *p, const convt3d__cpu_blocking *b, int64_t size)
{
    const convt3d__axis *a = &p->axis[1];
    return b->tall ? size + convt3d__ceil_div((a->kernel - 1) * a->dilation, a->stride) :
                     convt3d__cpu_inputs(p, b, 1, size);
}

/* Bytes of packed x of a unit, in floating point since a plan may be far too large. */
static double convt3d__cpu_x_bytes(const convt3d__plan *p, const convt3d__cpu_blocking *b, const int64_t size[3])
{
    int64_t in[3];
    int i;
    for (i = 0; i < 3; i++) in[i] = convt3d__cpu_inputs(p, b, i, size[i]);
    in[1] = convt3d__cpu_packed_rows(p, b, size[1]);
    return (double)in[0] * (double)in[1] * (double)(b->groups * p->in_group) * (double)convt3d__cpu_real_size(p) *
           (double)convt3d__cpu_splits(p, b) * (double)convt3d__max(in[2] + b->gap, size[2]);
}

/* From row to row of sums. */
static int64_t convt3d__cpu_sum_row(const convt3d__cpu_blocking *b, int64_t columns, int64_t pitch)
{
    return b->stack || b->products || b->panel ? convt3d__cpu_round_up(columns, 16) : pitch;
}

static double convt3d__cpu_sum_bytes(const convt3d__plan *p, const convt3d__cpu_blocking *b, const int64_t size[3])
{
    int64_t pitch = convt3d__max(convt3d__cpu_inputs(p, b, 2, size[2]) + b->gap, size[2]);
    return (double)convt3d__cpu_phases(&p->axis[2]) * (double)b->store * (double)convt3d__cpu_real_size(p) *
           (double)(b->high * size[1]) * (double)convt3d__cpu_sum_row(b, size[2], pitch);
}

/* Panels want channels that lie side by side in y, rows too short to fill a line's vectors, or sums so long that it
 * pays to transpose x and the sums for a tile that loads no x at odd addresses. */
static void convt3d__cpu_choose_panel(const convt3d__plan *p, const convt3d__cpu_leaves *leaves,
                                      convt3d__cpu_blocking *b)
{
    int64_t lanes = leaves->lanes[p->desc.dtype == CONVT3D_F64], padded;
    int narrow = convt3d__cpu_positions(&p->axis[2]) <= CONVT3D__CPU_NARROW;
    double products = (double)p->in_group * (double)p->taps, phases = 1;
    int i;
    if (p->out_group < lanes || p->out_group > INT64_MAX / 64) return;
    for (i = 0; i < 3; i++) phases *= (double)p->axis[i].tap_step;
    padded = convt3d__cpu_round_up(p->out_group, 2 * lanes);
    if (p->desc.y_stride[1] == 1 && p->desc.y_stride[4] != 1) {
        /* Two vectors keep the multipliers busier: unless a third of them would be padding. */
        b->panel = 3 * convt3d__cpu_round_up(p->out_group, lanes) <= 2 * padded ? 1 : 2;
        b->scatter = 1;
    } else if (narrow && p->in_group >= 16 && p->out_group >= 2 * lanes) {
        b->panel = 2;
        b->scatter = 1;
    } else if (9 * padded <= 10 * p->out_group && products / phases >= (double)CONVT3D__CPU_LONG_SUM &&
               convt3d__cpu_phases(&p->axis[2]) <= CONVT3D__CPU_MOST_HIGH) {
        b->panel = 2;
    }
}

/* Units of even size, and no more threads than units. */
static void convt3d__cpu_count_units(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    int64_t i, units = p->desc.batch * b->group_units * b->parts;
    for (i = 0; i < 3; i++) {
        int64_t positions = convt3d__cpu_positions(&p->axis[i]);
        b->count[i] = b->size[i] ? convt3d__ceil_div(positions, b->size[i]) : 0;
        if (b->count[i] > 0) {
            b->size[i] = convt3d__ceil_div(positions, b->count[i]);
            b->count[i] = convt3d__ceil_div(positions, b->size[i]);
        }
        units *= b->count[i];
    }
    b->threads = convt3d__max(1, convt3d__min(b->threads, units));
}

/* Whether all products of an input with the taps, summed over many input channels, are better formed first, as a
 * product of matrices, and then added to the few output channels they belong to. The order of sums is another then, so
 * this may not depend on sizes: a slab must equal the whole. */
static int32_t convt3d__cpu_choose_products(const convt3d__plan *p)
{
    const convt3d__axis *a = p->axis;
    if (p->out_group > 2 || p->in_group < 16 || p->in_group > 4096 || convt3d__cpu_is_dx(p)) return 0;
    if (p->taps < 4 || p->taps * p->out_group > 512) return 0;
    if (a[0].stride > 8 || a[1].stride > CONVT3D__CPU_MOST_HIGH || a[2].stride > 8) return 0;
    return (a[2].kernel - 1) * a[2].dilation / a[2].stride <= 64;
}

/* Whole planes where they fit, so that few products are formed twice; along depth as many units as keep the threads
 * busy: one each where there are fewer samples. */
static void convt3d__cpu_choose_products_size(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    int64_t i, rows, width, least = INT64_MAX, samples = convt3d__max(1, p->desc.batch * p->desc.groups);
    const int64_t tile = p->desc.dtype == CONVT3D_F64 ? 12 : 24;
    for (i = 0; i < 3; i++) b->size[i] = convt3d__cpu_positions(&p->axis[i]);
    if (b->threads > 1 && samples < 2 * b->threads) {
        i = samples < b->threads ? b->threads : 2 * b->threads;
        b->size[0] = convt3d__min(b->size[0], convt3d__max(4, convt3d__ceil_div(b->size[0] * samples, i)));
    }
    b->size[2] = convt3d__min(b->size[2], CONVT3D__CPU_MOST_COLUMNS / 2);
    for (i = 0; i < 2; i++)
        while (b->size[i] > 1 && convt3d__cpu_sum_bytes(p, b, b->size) * (double)(b->size[0] * p->axis[0].stride) >
                                 (double)CONVT3D__CPU_PLANES_BUDGET)
            b->size[i] = (b->size[i] + 1) / 2;
    convt3d__cpu_count_units(p, b);
    width = convt3d__max(1, convt3d__cpu_inputs(p, b, 2, b->size[2]));
    for (rows = convt3d__max(1, 256 / width); rows >= convt3d__max(1, 96 / width); rows--) {
        int64_t waste = convt3d__cpu_round_up(rows * width, tile) * 1000 / (rows * width);
        if (waste >= least) continue;
        least = waste;
        b->chunk = (int32_t)rows;
    }
    rows = CONVT3D__CPU_CHUNK_BUDGET / (width * p->in_group * convt3d__cpu_real_size(p) * b->chunk);
    b->x_chunk = (int32_t)(b->chunk * convt3d__max(1, convt3d__min(rows, convt3d__ceil_div(p->axis[1].in, b->chunk))));
}

/* Grows the unit along depth or height, whichever saves more repeated packing, while its parts stay in their caches. */
static void convt3d__cpu_choose_size(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    int64_t most[3], i;
    for (i = 0; i < 3; i++) {
        most[i] = convt3d__min(convt3d__cpu_positions(&p->axis[i]), CONVT3D__CPU_MOST_SIZE);
        b->size[i] = convt3d__min(most[i], 1);
    }
    i = convt3d__cpu_positions(&p->axis[2]);
    b->size[2] = convt3d__ceil_div(i, convt3d__max(1, convt3d__ceil_div(i, CONVT3D__CPU_MOST_COLUMNS)));
    while (b->size[2] > 64 && convt3d__cpu_x_bytes(p, b, b->size) > (double)b->x_budget)
        b->size[2] = (b->size[2] + 1) / 2;
    for (;;) {
        int64_t deeper[3], higher[3], can_deepen, can_heighten;
        double halo_d = (double)convt3d__cpu_inputs(p, b, 0, b->size[0]) / (double)convt3d__max(1, b->size[0]);
        double halo_h = (double)convt3d__cpu_inputs(p, b, 1, b->size[1]) / (double)convt3d__max(1, b->size[1]);
        memcpy(deeper, b->size, sizeof deeper);
        memcpy(higher, b->size, sizeof higher);
        deeper[0]++;
        higher[1]++;
        can_deepen = deeper[0] <= most[0] && convt3d__cpu_x_bytes(p, b, deeper) <= (double)b->x_budget;
        can_heighten = higher[1] <= most[1] && convt3d__cpu_x_bytes(p, b, higher) <= (double)b->x_budget &&
                       convt3d__cpu_sum_bytes(p, b, higher) <= (double)CONVT3D__CPU_SUM_BUDGET;
        if (can_heighten && (b->size[1] < 4 || halo_h >= halo_d || !can_deepen)) b->size[1]++;
        else if (can_deepen) b->size[0]++;
        else return;
    }
}

/* Splits units until every thread has several, where there is anything to split. Weights that no cache of a core holds
 * are read once by each unit of a part: then the parts alone are split, and fewer units are enough. */
static void convt3d__cpu_choose_split(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    double weights = (double)p->in_group * (double)p->out_group * (double)p->taps;
    int32_t heavy = weights * (double)convt3d__cpu_real_size(p) >
                    (double)b->x_budget + 2 * convt3d__cpu_x_bytes(p, b, b->size);
    int64_t i;
    for (;;) {
        double units = (double)p->desc.batch * (double)b->group_units * (double)b->parts, x;
        for (i = 0; i < 3; i++) {
            b->count[i] = b->size[i] ? convt3d__ceil_div(convt3d__cpu_positions(&p->axis[i]), b->size[i]) : 0;
            units *= (double)b->count[i];
        }
        x = convt3d__cpu_x_bytes(p, b, b->size);
        if (b->threads == 1 || units >= 12.0 * (double)b->threads || units == 0) break;
        if (weights * 4 > x && b->parts * 4 <= b->blocks) b->parts *= 2;
        else if (heavy && b->parts * 2 <= b->blocks) b->parts *= 2;
        else if (heavy && units >= 4.0 * (double)b->threads) break;
        else if (b->size[0] > 1) b->size[0] = (b->size[0] + 1) / 2;
        else if (b->size[1] > 2) b->size[1] = (b->size[1] + 1) / 2;
        else if (b->parts * 2 <= b->blocks) b->parts *= 2;
        else break;
    }
    convt3d__cpu_count_units(p, b);
}

/* Taps along one axis that a phase may have and that meet the input. */
static int64_t convt3d__cpu_most_taps(const convt3d__axis *a)
{
    return convt3d__min(convt3d__ceil_div(a->kernel, a->tap_step), a->in);
}

static double convt3d__cpu_block_bytes(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return (double)b->rows * (double)p->in_group * (double)p->taps * (double)convt3d__cpu_real_size(p);
}

/* The buffers of one thread; 0 if they are out of proportion. */
static int32_t convt3d__cpu_choose_buffers(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    int64_t real = convt3d__cpu_real_size(p), phases = convt3d__cpu_phases(&p->axis[2]), in[3];
    int i;
    const double most = (double)((int64_t)1 << 28);
    double taps = (double)convt3d__cpu_most_taps(&p->axis[0]) * (double)convt3d__cpu_most_taps(&p->axis[1]) *
                  (double)p->axis[2].kernel;
    if (convt3d__cpu_x_bytes(p, b, b->size) > most || 4 * convt3d__cpu_sum_bytes(p, b, b->size) > most) return 0;
    if (taps > most / 64) return 0;
    for (i = 0; i < 3; i++) in[i] = convt3d__cpu_inputs(p, b, i, b->size[i]);
    in[1] = convt3d__cpu_packed_rows(p, b, b->size[1]);
    b->pitch = convt3d__max(in[2] + b->gap, b->size[2]);
    b->x_pitch = convt3d__cpu_round_up(convt3d__cpu_splits(p, b) * in[1] * b->pitch, 16);
    if (b->x_pitch % 32 == 0) b->x_pitch += 16;             /* spreads the channels over the sets of a cache */
    b->plane = b->x_pitch * b->groups * p->in_group;
    b->sum_pitch = convt3d__cpu_round_up(b->high * b->size[1] * convt3d__cpu_sum_row(b, b->size[2], b->pitch), 16) +
                   CONVT3D__CPU_SLACK;
    b->taps = (int64_t)taps;
    b->x_bytes = convt3d__cpu_round_up((b->gap + in[0] * b->plane + CONVT3D__CPU_SLACK + b->gap) * real, 64);
    b->lines = (int32_t)b->store + (b->products ? 0 : CONVT3D__CPU_MOST_ROWS);
    b->depth_bytes = convt3d__cpu_round_up(phases * b->lines * b->sum_pitch * real, 64);
    b->sum_bytes = b->depth_bytes * (b->products ? b->size[0] * p->axis[0].stride : 1);
    b->weave_bytes = convt3d__cpu_round_up((b->store + 1) * convt3d__cpu_round_up(b->size[2] * phases + 16, 16) * real +
                                       64 * b->store * real, 64);
    b->runs = b->taps <= 1024 ? CONVT3D__CPU_MOST_RUNS : 1;
    b->tap_bytes = convt3d__cpu_round_up((b->runs + 1) * b->taps * (int64_t)sizeof(convt3d__cpu_tap), 64);
    b->list_bytes = CONVT3D__CPU_LIST * 5 * (int64_t)sizeof(int64_t);      /* at and place */
    if (b->panel) {
        b->pitch = in[2] * p->in_group;
        b->x_pitch = 1;
        b->plane = in[1] * b->pitch;
        b->x_bytes = b->in_place ? 0 : convt3d__cpu_round_up(in[0] * b->plane * real, 64);
        b->product_bytes = 2 * CONVT3D__CPU_LIST * b->rows * real;         /* and their transpose */
        if (b->scatter) b->sum_bytes = 0;
    }
    if (b->products) {
        b->product_pitch = convt3d__cpu_round_up(b->chunk * p->axis[2].in, 16) + 16;
        b->x_pitch = convt3d__cpu_round_up(b->x_chunk * p->axis[2].in, 16) + 16;
        b->x_bytes = convt3d__cpu_round_up((b->x_pitch * p->in_group + CONVT3D__CPU_SLACK) * real, 64);
        b->product_bytes = (b->blocks * b->rows * b->product_pitch + CONVT3D__CPU_SLACK) * real;
        b->product_bytes = convt3d__cpu_round_up(b->product_bytes, 64);
    }
    b->thread_bytes = b->x_bytes + b->sum_bytes + b->weave_bytes + b->tap_bytes + b->list_bytes + b->product_bytes;
    return (double)b->thread_bytes * (double)b->threads < 4e18;
}

static void convt3d__cpu_reason(char why[96], const char *text)
{
    convt3d__text t;
    t.at = why;  t.room = 96;  t.length = 0;
    convt3d__put(&t, text);
}

/* Whether no entry of the list looks at more than the value and its channel, in types whose functions have no branch
 * either. */
static int convt3d__cpu_list_is_blind(const convt3d__plan *p)
{
    int32_t i;
    for (i = 0; i < p->fused; i++)
        if (convt3d__op_uses(p->desc.ops[i].kind) & CONVT3D_USES_RESIDUAL) return 0;
    return p->desc.dtype != CONVT3D_F64;
}

/* Whether both phases of a stride of 2 along W are summed together and stored from registers. A row of one vector would
 * load x for four channels only. */
static int32_t convt3d__cpu_choose_woven(const convt3d__plan *p, const convt3d__cpu_leaves *leaves,
                                         const convt3d__cpu_blocking *b)
{
    if (!leaves->woven[p->desc.dtype == CONVT3D_F64] || b->panel || b->products || b->stack) return 0;
    if (p->axis[2].stride != 2 || b->rows % 4 != 0 || b->store != b->rows || p->in_group > b->ic_block) return 0;
    if (convt3d__cpu_positions(&p->axis[2]) <= leaves->lanes[p->desc.dtype == CONVT3D_F64]) return 0;
    if (p->fused > 0 && !convt3d__cpu_list_is_blind(p)) return 0;
    return convt3d__cpu_y_type(p) <= CONVT3D_F64 && p->desc.y_stride[4] == 1;
}

static int32_t convt3d__cpu_refuses(convt3d__plan *p, const convt3d__cpu_leaves *leaves, char why[96])
{
    convt3d__cpu_blocking b;
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    int64_t few = convt3d__min(p->in_group, p->out_group), last;
    memset(&b, 0, sizeof b);
    convt3d__cpu_caches(&b.x_budget, &last);
    b.x_budget = convt3d__max(CONVT3D__CPU_X_LEAST, convt3d__min(b.x_budget / 32 * 15, CONVT3D__CPU_X_MOST));
    if (p->axis[2].stride > CONVT3D__CPU_MOST_PHASES && p->axis[2].out > CONVT3D__CPU_MOST_PHASES) {
        convt3d__cpu_reason(why, "stride[2] is above 64: a line of sums is kept for each phase along W");
        return 1;
    }
    if (p->w_count > INT64_MAX / 256) {
        convt3d__cpu_reason(why, "the packed weights would exceed the address space");
        return 1;
    }
    convt3d__cpu_choose_panel(p, leaves, &b);
    if (convt3d__cpu_is_dx(p) && !b.panel &&
        convt3d__max(p->axis[1].gcd, p->axis[2].gcd) > CONVT3D__CPU_MOST_PHASES) {
        convt3d__cpu_reason(why, "stride[1] or stride[2] is above 64: dy falls into so many phases");
        return 1;
    }
    b.products = !b.panel && convt3d__cpu_choose_products(p);
    b.rows = b.panel ? b.panel * leaves->lanes[is_f64] :
             convt3d__cpu_choose_rows(leaves, convt3d__cpu_w_channels(p, &b), is_f64);
    b.in_place = b.panel && p->desc.dtype <= CONVT3D_F64 && p->desc.x_stride[1] == 1;
    b.blocks = convt3d__ceil_div(convt3d__cpu_w_channels(p, &b), b.rows);
    b.threads = convt3d__cpu_most_threads(p);
    b.groups = 1;
    if (p->desc.layout == CONVT3D_NDHWC && !b.panel && !b.products)
        b.groups = convt3d__min(p->desc.groups, convt3d__ceil_div(16, few));
    b.group_units = convt3d__ceil_div(p->desc.groups, b.groups);
    b.parts = 1;
    b.stack = !b.panel && !b.products && p->out_group == 1 && p->axis[1].in_step == 1;
    b.tall = b.stack && convt3d__cpu_wanted_gap(p, &b, 1) <= convt3d__max(1, p->axis[1].in / 8);
    b.ic_block = b.stack ? CONVT3D__CPU_IC_STACK : CONVT3D__CPU_IC_BLOCK;
    b.store = p->desc.layout == CONVT3D_NDHWC && !b.panel ? convt3d__cpu_round_up(16, b.rows) : b.rows;
    b.gap = b.panel ? 0 : convt3d__min(convt3d__cpu_wanted_gap(p, &b, 2), convt3d__max(8, p->axis[2].in / 4));
    b.by_phase = (double)(b.store / b.rows) * convt3d__cpu_block_bytes(p, &b) > (double)CONVT3D__CPU_W_BUDGET;
    b.stream = convt3d__cpu_y_type(p) <= CONVT3D_F64 && p->desc.y_stride[4] == 1 && !b.scatter &&
               p->y_count * convt3d__element_size(convt3d__cpu_y_type(p)) >
               convt3d__min(last / (b.by_phase ? 1 : 2), CONVT3D__CPU_STREAM);
    b.woven = convt3d__cpu_choose_woven(p, leaves, &b);
    b.high = !b.by_phase && convt3d__cpu_phases(&p->axis[1]) <= CONVT3D__CPU_MOST_HIGH ?
             (int32_t)convt3d__cpu_phases(&p->axis[1]) : 1;
    if (b.products) {
        b.store = p->out_group;
        b.high = (int32_t)convt3d__cpu_phases(&p->axis[1]);
        convt3d__cpu_choose_products_size(p, &b);
    } else {
        convt3d__cpu_choose_size(p, &b);
        convt3d__cpu_choose_split(p, &b);
    }
    if (!convt3d__cpu_choose_buffers(p, &b)) {
        convt3d__cpu_reason(why, "the inputs that one row of outputs reads exceed 256 MiB");
        return 1;
    }
    p->pack_variant = (uint64_t)((int64_t)b.products << 32 | b.rows << 16 | b.ic_block);
    memcpy(p->state, &b, sizeof b);
    return 0;
}
#endif
