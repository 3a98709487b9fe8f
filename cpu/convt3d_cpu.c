/* convt3d_cpu.c - the fast CPU back end of convt3d.h: geometry, packing, blocking, threads. No instruction-set code.
 *
 * Compile it with the other sources (no -m flags; -fopenmp for threads) and define CONVT3D_CPU_FAST where the
 * implementation of convt3d.h is compiled. Rows of the table: avx512, avx2, neon, portable, as the target has them.
 *
 * IDEA
 *     Outputs of one phase of a row are a dense sum over taps of shifted inputs, so vectors run along W, and several
 *     output channels share each load of x. A unit of work is a block of phase positions (depth x height x width) of
 *     one sample and some groups, by a range of output channels:
 *       1. The inputs it reads are packed once, as f32 (f64 for f64): [depth][channel][height][pitch]. Rows lie end to
 *          end with enough zeros between them that a tap reaching beyond a row's end reads a zero. So several rows of
 *          outputs with the same taps along height form one line (a run) whose taps are plain shifts: no border is
 *          tested, no vector is cut at a row's end. Depth and height are trimmed exactly; only W meets zeros.
 *       2. For each output depth, phase along height and run, the leaf of the instruction set sums lines for a block
 *          of ROWS output channels, one line for each phase along W, starting from the bias.
 *       3. The W phases are woven together, rounded once to the output's type and stored row by row.
 *     Packed weights are [block of output channels][block of input channels][tap][input channel][ROWS].
 *     Strides, layouts and types matter only to steps 1 and 3, so NCDHW, NDHWC and views take the same road.
 *
 * NUMBERS
 *     Every output is one chain of multiply-adds in the accumulator's type, in the order input-channel block, kd, kh,
 *     kw, input channel, whatever the blocking: threads, batch and slabs do not change bits. Where a block's weights
 *     hold a NaN or an infinity (noted while packing) or W is mostly border, its rows are cut into stretches of
 *     columns with equal taps, so that no zero that is not in x is ever multiplied.
 */
#define CONVT3D_BACKEND
#ifndef CONVT3D_CPU_FAST
#  define CONVT3D_CPU_FAST
#endif
#include "../convt3d.h"

#ifdef _OPENMP
#  include <omp.h>
#endif

#if defined(__GNUC__)
#  define CONVT3D__CPU_INLINE static inline __attribute__((always_inline))
#else
#  define CONVT3D__CPU_INLINE static inline
#endif
/* Unrolls the loop that follows; its count is a constant of at most 8. */
#if defined(__clang__)
#  define CONVT3D__CPU_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#  define CONVT3D__CPU_UNROLL _Pragma("GCC unroll 8")
#else
#  define CONVT3D__CPU_UNROLL
#endif

#if defined(__GNUC__)
#  define CONVT3D__CPU_PREFETCH(address) __builtin_prefetch(address)
#else
#  define CONVT3D__CPU_PREFETCH(address) ((void)0)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --------------------------------------------------------------------------------------------------------------------
 * The contract of the leaves
 */
typedef struct convt3d__cpu_tap { int64_t x, w; } convt3d__cpu_tap;     /* shift of x; index of the tap in w */

/* One line: sum[r*sum_pitch + j] += sum over taps and channels of x[tap.x + channel*x_pitch + j] * w[(tap.w*channels +
 * channel)*ROWS + r] for j < length and all ROWS; it begins at start[r], or goes on from sum where start is NULL. Up to
 * CONVT3D__CPU_SLACK positions more may be read and written. */
typedef struct convt3d__cpu_line {
    const void *x, *w, *start;
    void *sum;
    const convt3d__cpu_tap *tap;
    int64_t taps, channels, x_pitch, sum_pitch, length;
} convt3d__cpu_line;

enum {
    CONVT3D__CPU_MOST_ROWS = 8,
    CONVT3D__CPU_SLACK = 256,
    CONVT3D__CPU_AHEAD = 8              /* input channels that prefetching runs ahead */
};

/* The leaves of one instruction set; [2]: for f32 and f64. */
typedef struct convt3d__cpu_leaves {
    void (*line[2][CONVT3D__CPU_MOST_ROWS + 1])(const convt3d__cpu_line *line);    /* by ROWS; NULL: no such tile */
    void (*weave[2])(void *to, const void *const *from, int64_t stride, int64_t n, int32_t stream);
                                                                           /* to[j] = from[j%stride][j/stride] */
    void (*widen[2])(float *to, const uint16_t *from, int64_t n);          /* f16, bf16 */
    void (*narrow[2])(uint16_t *to, const float *from, int64_t n);
    void (*transpose[2])(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t rows,
                         int64_t columns);                          /* to[c*to_pitch + r] = from[r*from_pitch + c] */
    void (*fence)(void);                                                   /* after the last streaming copy */
} convt3d__cpu_leaves;

#include "kernel_portable.h"
#if defined(__x86_64__) && defined(__GNUC__)
#  define CONVT3D__CPU_X86
#  include <cpuid.h>
#  include <immintrin.h>
#  include "kernel_avx2.h"
#  include "kernel_avx512.h"
#elif defined(__aarch64__) && defined(__GNUC__)
#  define CONVT3D__CPU_NEON
#  include <arm_neon.h>
#  include "kernel_neon.h"
#endif

/* --------------------------------------------------------------------------------------------------------------------
 * The processor
 */
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

/* Bytes of the last-level cache as cpuid tells, over the levels of one leaf (4: Intel; 0x8000001d: AMD). */
static int64_t convt3d__cpu_cache_of_leaf(uint32_t leaf)
{
    uint32_t a, b, c, d, i;
    int64_t bytes = 0;
    for (i = 0; i < 8 && __get_cpuid_count(leaf, i, &a, &b, &c, &d) && (a & 31) != 0; i++)
        bytes = (int64_t)((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * ((int64_t)c + 1);
    return bytes;
}

static int64_t convt3d__cpu_last_cache(void)
{
    int64_t bytes = convt3d__max(convt3d__cpu_cache_of_leaf(4), convt3d__cpu_cache_of_leaf(0x8000001du));
    return bytes > 0 ? bytes : (int64_t)32 << 20;
}
#else
static int64_t convt3d__cpu_last_cache(void) { return (int64_t)32 << 20; }
#endif

static int32_t convt3d__cpu_most_threads(const convt3d__plan *p)
{
#ifdef _OPENMP
    return p->desc.threads > 0 ? p->desc.threads : omp_get_max_threads();
#else
    (void)p;
    return 1;
#endif
}

/* --------------------------------------------------------------------------------------------------------------------
 * The blocking: what a plan keeps in its state. Positions are phase positions: output o = position*stride + phase.
 */
typedef struct convt3d__cpu_blocking {
    int64_t rows;               /* ROWS: output channels of one tile */
    int64_t blocks;             /* of ROWS channels in a group */
    int64_t size[3], count[3];  /* positions in a unit and units along each axis */
    int64_t in[3];              /* most inputs that a unit reads along each axis */
    int64_t groups, group_units;    /* groups in a unit, units of groups */
    int64_t parts;              /* units that share the blocks of a group */
    int64_t pitch, gap;         /* elements from row to row of packed x; most zeros between rows */
    int64_t x_pitch, plane;     /* from channel to channel and from depth to depth of packed x */
    int64_t store;              /* channels that are stored together */
    int64_t sum_pitch;          /* of one line of sums */
    int64_t taps;               /* most taps of all W phases of one line */
    int64_t threads, stream;
    int64_t x_bytes, sum_bytes, weave_bytes, tap_bytes, thread_bytes;   /* workspace of one thread and its parts */
} convt3d__cpu_blocking;
typedef char convt3d__cpu_blocking_fits[sizeof(convt3d__cpu_blocking) <= sizeof(((convt3d__plan *)0)->state) ? 1 : -1];

enum {
    CONVT3D__CPU_X_BUDGET = 480 << 10,      /* bytes of packed x that are meant to stay in a core's own cache */
    CONVT3D__CPU_SUM_BUDGET = 32 << 10,     /* the same for the sums of one run */
    CONVT3D__CPU_W_BUDGET = 128 << 10,      /* the same for the weights that runs share */
    CONVT3D__CPU_MOST_COLUMNS = 512,        /* positions along W in a unit */
    CONVT3D__CPU_MOST_SIZE = 1024,          /* the same along depth and height */
    CONVT3D__CPU_MOST_PHASES = 64,          /* along W: each keeps a line */
    CONVT3D__CPU_IC_BLOCK = 256,            /* input channels of one pass over the taps */
    CONVT3D__CPU_PACK_HEADER = 64           /* alignment of the packed weights behind the flags of their blocks */
};

static convt3d__cpu_blocking convt3d__cpu_blocking_of(const convt3d__plan *p)
{
    convt3d__cpu_blocking b;
    memcpy(&b, p->state, sizeof b);
    return b;
}

static int64_t convt3d__cpu_real_size(const convt3d__plan *p) { return p->desc.dtype == CONVT3D_F64 ? 8 : 4; }
static int64_t convt3d__cpu_round_up(int64_t a, int64_t to) { return convt3d__ceil_div(a, to) * to; }
static int64_t convt3d__cpu_positions(const convt3d__axis *a) { return convt3d__ceil_div(a->out, a->stride); }
static int64_t convt3d__cpu_phases(const convt3d__axis *a) { return convt3d__min(a->stride, a->out); }

/* Most inputs that `size` consecutive positions read. */
static int64_t convt3d__cpu_inputs(const convt3d__axis *a, int64_t size)
{
    int64_t reach = convt3d__ceil_div((a->kernel - 1) * a->dilation, a->stride);
    return size >= a->in || reach >= a->in ? a->in : convt3d__min(a->in, size + reach);
}

/* Zeros that rows want between them: what the widest window takes in beyond either end. */
static int64_t convt3d__cpu_wanted_gap(const convt3d__axis *a)
{
    int64_t low = convt3d__ceil_div(a->padding - (a->kernel - 1) * a->dilation, a->stride);
    int64_t high = convt3d__floor_div(a->out - 1 + a->padding, a->stride) + 1;
    return convt3d__max(0, convt3d__max(-low, high - a->in));
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

/* Bytes of packed x of a unit, in floating point since a plan may be far too large. */
static double convt3d__cpu_x_bytes(const convt3d__plan *p, const convt3d__cpu_blocking *b, const int64_t size[3])
{
    int64_t in[3], i;
    for (i = 0; i < 3; i++) in[i] = convt3d__cpu_inputs(&p->axis[i], size[i]);
    return (double)in[0] * (double)in[1] * (double)(b->groups * p->in_group) * (double)convt3d__cpu_real_size(p) *
           (double)convt3d__max(in[2] + b->gap, size[2]);
}

static double convt3d__cpu_sum_bytes(const convt3d__plan *p, const convt3d__cpu_blocking *b, const int64_t size[3])
{
    return (double)convt3d__cpu_phases(&p->axis[2]) * (double)b->store * (double)convt3d__cpu_real_size(p) *
           (double)size[1] * (double)convt3d__max(convt3d__cpu_inputs(&p->axis[2], size[2]) + b->gap, size[2]);
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
    while (b->size[2] > 64 && convt3d__cpu_x_bytes(p, b, b->size) > (double)CONVT3D__CPU_X_BUDGET)
        b->size[2] = (b->size[2] + 1) / 2;
    for (;;) {
        int64_t deeper[3], higher[3], can_deepen, can_heighten;
        double halo_d = (double)convt3d__cpu_inputs(&p->axis[0], b->size[0]) / (double)convt3d__max(1, b->size[0]);
        double halo_h = (double)convt3d__cpu_inputs(&p->axis[1], b->size[1]) / (double)convt3d__max(1, b->size[1]);
        memcpy(deeper, b->size, sizeof deeper);
        memcpy(higher, b->size, sizeof higher);
        deeper[0]++;
        higher[1]++;
        can_deepen = deeper[0] <= most[0] && convt3d__cpu_x_bytes(p, b, deeper) <= (double)CONVT3D__CPU_X_BUDGET;
        can_heighten = higher[1] <= most[1] && convt3d__cpu_x_bytes(p, b, higher) <= (double)CONVT3D__CPU_X_BUDGET &&
                       convt3d__cpu_sum_bytes(p, b, higher) <= (double)CONVT3D__CPU_SUM_BUDGET;
        if (can_heighten && (b->size[1] < 4 || halo_h >= halo_d || !can_deepen)) b->size[1]++;
        else if (can_deepen) b->size[0]++;
        else return;
    }
}

/* Splits units until every thread has several, where there is anything to split. */
static void convt3d__cpu_choose_split(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    double weights = (double)p->in_group * (double)p->out_group * (double)p->taps;
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
        else if (b->size[0] > 1) b->size[0] = (b->size[0] + 1) / 2;
        else if (b->size[1] > 2) b->size[1] = (b->size[1] + 1) / 2;
        else if (b->parts * 2 <= b->blocks) b->parts *= 2;
        else break;
    }
    for (i = 0; i < 3; i++) {           /* units of even size */
        int64_t positions = convt3d__cpu_positions(&p->axis[i]);
        if (b->count[i] == 0) continue;
        b->size[i] = convt3d__ceil_div(positions, b->count[i]);
        b->count[i] = convt3d__ceil_div(positions, b->size[i]);
    }
    b->threads = convt3d__max(1, convt3d__min(b->threads, p->desc.batch * b->group_units * b->parts * b->count[0] *
                                                          b->count[1] * b->count[2]));
}

/* Taps along one axis that a phase may have. */
static int64_t convt3d__cpu_most_taps(const convt3d__axis *a)
{
    return convt3d__min(convt3d__ceil_div(a->kernel, a->tap_step), a->in);
}

/* The buffers of one thread; 0 if they are out of proportion. */
static int32_t convt3d__cpu_choose_buffers(const convt3d__plan *p, convt3d__cpu_blocking *b)
{
    int64_t real = convt3d__cpu_real_size(p), phases = convt3d__cpu_phases(&p->axis[2]), i;
    const double most = (double)((int64_t)1 << 28);
    double taps = (double)convt3d__cpu_most_taps(&p->axis[0]) * (double)convt3d__cpu_most_taps(&p->axis[1]) *
                  (double)p->axis[2].kernel;
    if (convt3d__cpu_x_bytes(p, b, b->size) > most || 4 * convt3d__cpu_sum_bytes(p, b, b->size) > most) return 0;
    if (taps > most / 64) return 0;
    for (i = 0; i < 3; i++) b->in[i] = convt3d__cpu_inputs(&p->axis[i], b->size[i]);
    b->pitch = convt3d__max(b->in[2] + b->gap, b->size[2]);
    b->x_pitch = convt3d__cpu_round_up(b->in[1] * b->pitch, 16);
    if (b->x_pitch % 32 == 0) b->x_pitch += 16;             /* spreads the channels over the sets of a cache */
    b->plane = b->x_pitch * b->groups * p->in_group;
    b->sum_pitch = convt3d__cpu_round_up(b->size[1] * b->pitch, 16) + CONVT3D__CPU_SLACK;
    b->taps = (int64_t)taps;
    b->x_bytes = convt3d__cpu_round_up((b->gap + b->in[0] * b->plane + CONVT3D__CPU_SLACK + b->gap) * real, 64);
    b->sum_bytes = convt3d__cpu_round_up(phases * (b->store + CONVT3D__CPU_MOST_ROWS) * b->sum_pitch * real, 64);
    b->weave_bytes = convt3d__cpu_round_up((b->store + 1) * convt3d__cpu_round_up(b->size[2] * phases + 16, 16) * real +
                                       64 * b->store * real, 64);
    b->tap_bytes = convt3d__cpu_round_up(2 * b->taps * (int64_t)sizeof(convt3d__cpu_tap), 64);
    b->thread_bytes = b->x_bytes + b->sum_bytes + b->weave_bytes + b->tap_bytes;
    return (double)b->thread_bytes * (double)b->threads < 4e18;
}

static void convt3d__cpu_reason(char why[96], const char *text)
{
    convt3d__text t;
    t.at = why;  t.room = 96;  t.length = 0;
    convt3d__put(&t, text);
}

static int32_t convt3d__cpu_refuses(convt3d__plan *p, const convt3d__cpu_leaves *leaves, char why[96])
{
    convt3d__cpu_blocking b;
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    int64_t few = convt3d__min(p->in_group, p->out_group);
    memset(&b, 0, sizeof b);
    if (p->axis[2].stride > CONVT3D__CPU_MOST_PHASES && p->axis[2].out > CONVT3D__CPU_MOST_PHASES) {
        convt3d__cpu_reason(why, "stride[2] is above 64: a line of sums is kept for each phase along W");
        return 1;
    }
    if (p->w_count > INT64_MAX / 256) {
        convt3d__cpu_reason(why, "the packed weights would exceed the address space");
        return 1;
    }
    b.rows = convt3d__cpu_choose_rows(leaves, p->out_group, is_f64);
    b.blocks = convt3d__ceil_div(p->out_group, b.rows);
    b.threads = convt3d__cpu_most_threads(p);
    b.groups = p->desc.layout == CONVT3D_NDHWC ? convt3d__min(p->desc.groups, convt3d__ceil_div(16, few)) : 1;
    b.group_units = convt3d__ceil_div(p->desc.groups, b.groups);
    b.parts = 1;
    b.store = p->desc.layout == CONVT3D_NDHWC ? convt3d__cpu_round_up(16, b.rows) : b.rows;
    b.gap = convt3d__min(convt3d__cpu_wanted_gap(&p->axis[2]), convt3d__max(8, p->axis[2].in / 4));
    b.stream = p->desc.dtype <= CONVT3D_F64 && p->desc.y_stride[4] == 1 &&
               p->y_count * convt3d__element_size(p->desc.dtype) > convt3d__cpu_last_cache();
    convt3d__cpu_choose_size(p, &b);
    convt3d__cpu_choose_split(p, &b);
    if (!convt3d__cpu_choose_buffers(p, &b)) {
        convt3d__cpu_reason(why, "the inputs that one row of outputs reads exceed 256 MiB");
        return 1;
    }
    p->pack_variant = (uint64_t)b.rows;
    memcpy(p->state, &b, sizeof b);
    return 0;
}

/* --------------------------------------------------------------------------------------------------------------------
 * Packed weights: a flag byte for each block (1: it holds a NaN or an infinity), then the blocks
 */
static int64_t convt3d__cpu_all_blocks(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return b->blocks * p->desc.groups;
}

static int64_t convt3d__cpu_packed(const convt3d__plan *p)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    int64_t blocks = convt3d__cpu_all_blocks(p, &b);
    return convt3d__cpu_round_up(blocks, CONVT3D__CPU_PACK_HEADER) +
           blocks * b.rows * p->in_group * p->taps * convt3d__cpu_real_size(p);
}

static int64_t convt3d__cpu_workspace(const convt3d__plan *p)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    return 64 + b.threads * b.thread_bytes + convt3d__cpu_round_up(convt3d__cpu_packed(p), 64);
}

static const char *convt3d__cpu_block_weights(const convt3d__plan *p, const convt3d__cpu_blocking *b,
                                              const void *packed, int64_t block)
{
    return (const char *)packed + convt3d__cpu_round_up(convt3d__cpu_all_blocks(p, b), CONVT3D__CPU_PACK_HEADER) +
           block * b->rows * p->in_group * p->taps * convt3d__cpu_real_size(p);
}

/* n values of any type and step, as f32, or as f64 for f64. */
static void convt3d__cpu_gather(const convt3d__cpu_leaves *leaves, int32_t dtype, void *to, const void *from,
                                int64_t step, int64_t n)
{
    int64_t i;
    if (step == 1) {
        if (dtype == CONVT3D_F16 || dtype == CONVT3D_BF16)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to, (const uint16_t *)from, n);
        else memcpy(to, from, (size_t)(n * (dtype == CONVT3D_F64 ? 8 : 4)));
    } else if (dtype == CONVT3D_F64) {
        for (i = 0; i < n; i++) ((double *)to)[i] = ((const double *)from)[i * step];
    } else if (dtype == CONVT3D_F32) {
        for (i = 0; i < n; i++) ((float *)to)[i] = ((const float *)from)[i * step];
    } else {
        for (i = 0; i < n; i++)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to + i, (const uint16_t *)from + i * step, 1);
    }
}

/* The reverse, rounding once. */
static void convt3d__cpu_scatter(const convt3d__cpu_leaves *leaves, int32_t dtype, void *to, int64_t step,
                                 const void *from, int64_t n)
{
    int64_t i;
    if (step == 1) {
        if (dtype == CONVT3D_F16 || dtype == CONVT3D_BF16)
            leaves->narrow[dtype == CONVT3D_BF16]((uint16_t *)to, (const float *)from, n);
        else memcpy(to, from, (size_t)(n * (dtype == CONVT3D_F64 ? 8 : 4)));
    } else if (dtype == CONVT3D_F64) {
        for (i = 0; i < n; i++) ((double *)to)[i * step] = ((const double *)from)[i];
    } else if (dtype == CONVT3D_F32) {
        for (i = 0; i < n; i++) ((float *)to)[i * step] = ((const float *)from)[i];
    } else {
        for (i = 0; i < n; i++)
            leaves->narrow[dtype == CONVT3D_BF16]((uint16_t *)to + i * step, (const float *)from + i, 1);
    }
}

static const void *convt3d__cpu_element(const void *base, int32_t dtype, int64_t index)
{
    return (const char *)base + index * convt3d__element_size(dtype);
}

static int convt3d__cpu_all_finite(const void *values, int32_t is_f64, int64_t n)
{
    uint64_t wide;
    uint32_t word;
    int64_t i;
    for (i = 0; i < n; i++) {
        if (is_f64) {
            memcpy(&wide, (const double *)values + i, sizeof wide);
            if ((wide >> 52 & 0x7ff) == 0x7ff) return 0;
        } else {
            memcpy(&word, (const float *)values + i, sizeof word);
            if ((word >> 23 & 0xff) == 0xff) return 0;
        }
    }
    return 1;
}

/* The taps of ROWS output channels and one input channel, from [row][tap] in w to [tap][input channel][row]. */
static void convt3d__cpu_pack_channel(const convt3d__cpu_leaves *leaves, const convt3d__plan *p, int64_t all_rows,
                                      const void *w, int64_t rows, char *to, int64_t step)
{
    int64_t real = convt3d__cpu_real_size(p), tap, r, i, n;
    int32_t type = p->desc.dtype;
    double chunk[CONVT3D__CPU_MOST_ROWS][64];
    for (tap = 0; tap < p->taps; tap += 64) {
        n = convt3d__min(64, p->taps - tap);
        for (r = 0; r < all_rows; r++) {
            const void *from = convt3d__cpu_element(w, type, r * p->taps + tap);
            if (r < rows) convt3d__cpu_gather(leaves, type, chunk[r], from, 1, n);
            else memset(chunk[r], 0, sizeof chunk[r]);
        }
        for (i = 0; i < n; i++)
            for (r = 0; r < all_rows; r++)
                memcpy(to + ((tap + i) * step + r) * real, (const char *)chunk[r] + i * real, (size_t)real);
    }
}

static void convt3d__cpu_pack_block(const convt3d__cpu_leaves *leaves, const convt3d__plan *p,
                                    const convt3d__cpu_blocking *b, const void *w, void *packed, int64_t block)
{
    int64_t real = convt3d__cpu_real_size(p), g = block / b->blocks, oc = block % b->blocks * b->rows, ic, first, n;
    int64_t rows = convt3d__min(b->rows, p->out_group - oc);
    char *to = (char *)packed + (convt3d__cpu_block_weights(p, b, packed, block) - (const char *)packed);
    for (first = 0; first < p->in_group; first += CONVT3D__CPU_IC_BLOCK) {
        n = convt3d__min(CONVT3D__CPU_IC_BLOCK, p->in_group - first);
        for (ic = 0; ic < n; ic++) {
            int64_t from = ((g * p->in_group + first + ic) * p->out_group + oc) * p->taps;
            char *part = to + (first * p->taps + ic) * b->rows * real;
            convt3d__cpu_pack_channel(leaves, p, b->rows, convt3d__cpu_element(w, p->desc.dtype, from), rows, part,
                                      n * b->rows);
        }
    }
    ((unsigned char *)packed)[block] =
        (unsigned char)!convt3d__cpu_all_finite(to, p->desc.dtype == CONVT3D_F64, b->rows * p->in_group * p->taps);
}

static convt3d_status convt3d__cpu_pack(const convt3d__plan *p, const convt3d__cpu_leaves *leaves, const void *w,
                                        void *packed, convt3d_error *error)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    int64_t blocks = convt3d__cpu_all_blocks(p, &b), i;
    int threads = (int)convt3d__min(b.threads, blocks);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (i = 0; i < blocks; i++) convt3d__cpu_pack_block(leaves, p, &b, w, packed, i);
    return convt3d__ok(error);
}

/* --------------------------------------------------------------------------------------------------------------------
 * One unit of work
 */
typedef struct convt3d__cpu_unit {
    const convt3d__plan *p;
    const convt3d__cpu_blocking *b;
    const convt3d__cpu_leaves *leaves;
    const convt3d_io *io;
    const void *packed;                 /* weights */
    char *x, *sum, *woven, *transposed; /* this thread's buffers; x: element 0 of the first row, behind the gap */
    convt3d__cpu_tap *tap;
    int64_t n, group, groups;           /* sample; first group and number of them */
    int64_t block, block_end;           /* of the unit's groups, all in one row: group*blocks + block */
    int64_t first[3], end[3];           /* positions */
    int64_t in_first[3], in_end[3];     /* inputs packed */
    int64_t pitch;                      /* of the rows of packed x */
    int32_t narrow;                     /* W is mostly border: rows are cut into stretches of equal taps */
} convt3d__cpu_unit;

/* The inputs that the unit's positions read along each axis, and whether rows have room for W's zeros. */
static void convt3d__cpu_unit_inputs(convt3d__cpu_unit *u)
{
    int64_t i, low = 0, high = 0, zeros;
    for (i = 0; i < 3; i++) {
        const convt3d__axis *a = &u->p->axis[i];
        int64_t o = u->first[i] * a->stride, last = convt3d__min(u->end[i] * a->stride, a->out) - 1;
        low = convt3d__ceil_div(o + a->padding - (a->kernel - 1) * a->dilation, a->stride);
        high = convt3d__floor_div(last + a->padding, a->stride) + 1;
        u->in_first[i] = convt3d__min(convt3d__max(low, 0), a->in);
        u->in_end[i] = convt3d__max(u->in_first[i], convt3d__min(high, a->in));
    }
    zeros = convt3d__max(u->in_first[2] - low, high - u->in_end[2]);
    u->narrow = zeros > u->b->gap || u->in_first[2] == u->in_end[2];
    u->pitch = convt3d__max(u->in_end[2] - u->in_first[2] + (u->narrow ? 0 : zeros), u->end[2] - u->first[2]);
}

/* One row of one channel, zeros behind it. */
static void convt3d__cpu_pack_row(const convt3d__cpu_unit *u, char *to, int64_t from)
{
    int64_t real = convt3d__cpu_real_size(u->p), n = u->in_end[2] - u->in_first[2];
    convt3d__cpu_gather(u->leaves, u->p->desc.dtype, to, convt3d__cpu_element(u->io->x, u->p->desc.dtype, from),
                    u->p->desc.x_stride[4], n);
    memset(to + n * real, 0, (size_t)((u->pitch - n) * real));
}

/* One row of all channels where channels lie side by side: 16 columns of 64 channels at a time, transposed. */
static void convt3d__cpu_pack_columns(const convt3d__cpu_unit *u, char *to, int64_t from, int64_t channels)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), n = u->in_end[2] - u->in_first[2], pitch = u->b->x_pitch, j, k, c;
    int32_t type = p->desc.dtype;
    double wide[16 * 64];
    for (c = 0; c < channels; c += 64)
        for (j = 0; j < n; j += 16) {
            int64_t columns = convt3d__min(16, n - j), width = convt3d__min(64, channels - c);
            for (k = 0; k < columns; k++) {
                const void *at = convt3d__cpu_element(u->io->x, type, from + c + (j + k) * p->desc.x_stride[4]);
                convt3d__cpu_gather(u->leaves, type, (char *)wide + k * 64 * real, at, 1, width);
            }
            u->leaves->transpose[type == CONVT3D_F64](to + (c * pitch + j) * real, pitch, wide, 64, columns, width);
        }
    for (c = 0; c < channels; c++) memset(to + (c * pitch + n) * real, 0, (size_t)((u->pitch - n) * real));
}

static void convt3d__cpu_pack_x(const convt3d__cpu_unit *u)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.x_stride;
    int64_t real = convt3d__cpu_real_size(p), channels = u->groups * p->in_group, id, ih, c;
    int64_t rows = u->in_end[1] - u->in_first[1];
    if (u->in_first[2] == u->in_end[2]) return;
    for (c = 1; c <= u->b->gap; c++) memset(u->x - c * real, 0, (size_t)real);
    for (id = u->in_first[0]; id < u->in_end[0]; id++) {
        char *plane = u->x + (id - u->in_first[0]) * u->b->plane * real;
        int64_t from = u->n * stride[0] + u->group * p->in_group * stride[1] + id * stride[2] +
                       u->in_first[2] * stride[4];
        for (ih = u->in_first[1]; ih < u->in_end[1]; ih++) {
            char *row = plane + (ih - u->in_first[1]) * u->pitch * real;
            if (stride[1] == 1 && channels > 1 && stride[4] != 1)
                convt3d__cpu_pack_columns(u, row, from + ih * stride[3], channels);
            else for (c = 0; c < channels; c++)
                convt3d__cpu_pack_row(u, row + c * u->b->x_pitch * real, from + ih * stride[3] + c * stride[1]);
        }
        for (c = 0; c < channels; c++)
            memset(plane + (c * u->b->x_pitch + rows * u->pitch) * real, 0,
                   (size_t)((u->b->x_pitch - rows * u->pitch) * real));
    }
}

/* How many of n positions, from that of output o on, have the same taps: until the first tap's input or one more tap
 * crosses an end of the input. */
static int64_t convt3d__cpu_equal_taps(const convt3d__axis *a, int64_t o, int64_t n, convt3d__taps *taps)
{
    int64_t i;
    *taps = convt3d__taps_of(a, o, 1);
    if (taps->count > 0) {
        n = convt3d__min(n, a->in - taps->i);
        if (taps->k + taps->count * a->tap_step < a->kernel) n = convt3d__min(n, taps->count * a->in_step - taps->i);
        return n;
    }
    for (i = 1; i < n && convt3d__taps_of(a, o + i * a->stride, 1).count == 0; i++) { }
    return i;
}

/* The list of taps of a line, from those along each axis; shifts are relative to the packed x of a group. */
static int64_t convt3d__cpu_list_taps(const convt3d__cpu_unit *u, const convt3d__taps *d, const convt3d__taps *h,
                                  const convt3d__taps *w, convt3d__cpu_tap *list)
{
    const convt3d__axis *a = u->p->axis;
    int64_t i, j, k, n = 0;
    for (i = 0; i < d->count; i++)
        for (j = 0; j < h->count; j++) {
            int64_t id = d->i - i * a[0].in_step - u->in_first[0], ih = h->i - j * a[1].in_step - u->in_first[1];
            int64_t tap = ((d->k + i * a[0].tap_step) * a[1].kernel + h->k + j * a[1].tap_step) * a[2].kernel;
            for (k = 0; k < w->count; k++, n++) {
                list[n].x = id * u->b->plane + ih * u->pitch + w->i - k * a[2].in_step - u->in_first[2];
                list[n].w = tap + w->k + k * a[2].tap_step;
            }
        }
    return n;
}

/* One run: output rows of one depth and one phase along height with equal taps; for each W phase a list of taps. */
typedef struct convt3d__cpu_stripe {
    int64_t od, oh, rows;               /* oh, oh + stride, ...: rows of them */
    convt3d__taps depth, height;
    const convt3d__cpu_tap *tap[CONVT3D__CPU_MOST_PHASES];
    int64_t taps[CONVT3D__CPU_MOST_PHASES];
    int64_t channel;                    /* the first one that is stored together */
} convt3d__cpu_stripe;

/* Where the sums of one phase and channel begin. */
static char *convt3d__cpu_sums(const convt3d__cpu_unit *u, int64_t phase, int64_t channel)
{
    int64_t line = phase * (u->b->store + CONVT3D__CPU_MOST_ROWS) + channel;
    return u->sum + line * u->b->sum_pitch * convt3d__cpu_real_size(u->p);
}

/* All passes of one line, each over a block of input channels. group: within the unit. */
static void convt3d__cpu_sum_line(const convt3d__cpu_unit *u, convt3d__cpu_line *line, const char *w, int64_t group)
{
    const convt3d__plan *p = u->p;
    int64_t real = convt3d__cpu_real_size(p), first;
    for (first = 0; first < p->in_group; first += CONVT3D__CPU_IC_BLOCK) {
        line->channels = convt3d__min(CONVT3D__CPU_IC_BLOCK, p->in_group - first);
        line->x = u->x + (group * p->in_group + first) * u->b->x_pitch * real;
        line->w = w + first * p->taps * u->b->rows * real;
        u->leaves->line[p->desc.dtype == CONVT3D_F64][u->b->rows](line);
        line->start = NULL;
        if (line->taps == 0) return;
    }
}

/* The same by single rows and stretches of columns with equal taps: nothing is multiplied that is not in x. */
static void convt3d__cpu_sum_stretches(const convt3d__cpu_unit *u, const convt3d__cpu_stripe *run, int64_t phase,
                                       convt3d__cpu_line *line, const char *w, int64_t group)
{
    const convt3d__axis *a = &u->p->axis[2];
    const void *start = line->start;
    char *sum = (char *)line->sum;
    int64_t columns = line->length, row, j, n;
    convt3d__taps width, height = run->height;
    for (row = 0; row < run->rows; row++, height.i++)
        for (j = 0; j < columns; j += n) {
            n = convt3d__cpu_equal_taps(a, (u->first[2] + j) * a->stride + phase, columns - j, &width);
            line->tap = u->tap + u->b->taps;        /* the first half has the run's own lists */
            line->taps = convt3d__cpu_list_taps(u, &run->depth, &height, &width, u->tap + u->b->taps);
            line->length = n;
            line->start = start;
            line->sum = sum + (row * u->pitch + j) * convt3d__cpu_real_size(u->p);
            convt3d__cpu_sum_line(u, line, w, group);
        }
}

/* What each of ROWS channels starts from. */
static void convt3d__cpu_start(const convt3d__cpu_unit *u, int64_t oc, int64_t channels,
                               double start[CONVT3D__CPU_MOST_ROWS])
{
    memset(start, 0, CONVT3D__CPU_MOST_ROWS * sizeof *start);
    if (u->io->bias)
        convt3d__cpu_gather(u->leaves, u->p->desc.dtype, start,
                            convt3d__cpu_element(u->io->bias, u->p->desc.dtype, oc), 1, channels);
}

static int64_t convt3d__cpu_columns_of(const convt3d__cpu_unit *u, int64_t phase)
{
    const convt3d__axis *a = &u->p->axis[2];
    return convt3d__min(u->end[2], convt3d__ceil_div(a->out - phase, a->stride)) - u->first[2];
}

/* The sums of one block of channels for a run, put at `channel` of those that are stored together. */
static void convt3d__cpu_sum_block(const convt3d__cpu_unit *u, const convt3d__cpu_stripe *run, int64_t block,
                                   int64_t channel)
{
    const convt3d__plan *p = u->p;
    int64_t group = block / u->b->blocks, oc = block % u->b->blocks * u->b->rows, phase, columns;
    int64_t all = (u->group + group) * u->b->blocks + block % u->b->blocks;
    const char *w = convt3d__cpu_block_weights(p, u->b, u->packed, all);
    double start[CONVT3D__CPU_MOST_ROWS];
    convt3d__cpu_line line;
    memset(&line, 0, sizeof line);
    convt3d__cpu_start(u, (u->group + group) * p->out_group + oc, convt3d__min(u->b->rows, p->out_group - oc), start);
    line.x_pitch = u->b->x_pitch;
    line.sum_pitch = u->b->sum_pitch;
    for (phase = 0; phase < convt3d__cpu_phases(&p->axis[2]); phase++) {
        columns = convt3d__cpu_columns_of(u, phase);
        if (columns <= 0) continue;
        line.start = start;
        line.sum = convt3d__cpu_sums(u, phase, channel);
        if (u->narrow || ((const unsigned char *)u->packed)[all]) {
            line.length = columns;
            convt3d__cpu_sum_stretches(u, run, phase, &line, w, group);
        } else {
            line.length = (run->rows - 1) * u->pitch + columns;
            line.tap = run->tap[phase];
            line.taps = run->taps[phase];
            convt3d__cpu_sum_line(u, &line, w, group);
        }
    }
}

/* Where the W phases of one channel have their sums of a row. */
static void convt3d__cpu_phases_of_row(const convt3d__cpu_unit *u, int64_t channel, int64_t row, const void **from)
{
    int64_t phases = convt3d__cpu_phases(&u->p->axis[2]), real = convt3d__cpu_real_size(u->p), i;
    for (i = 0; i < phases; i++) from[i] = convt3d__cpu_sums(u, i, channel) + row * u->pitch * real;
}

/* One row of `channels` channels that lie side by side in y. */
static void convt3d__cpu_store_columns(const convt3d__cpu_unit *u, char *y, int64_t row, int64_t channels, int64_t n)
{
    const convt3d__plan *p = u->p;
    const void *from[CONVT3D__CPU_MOST_PHASES];
    int64_t real = convt3d__cpu_real_size(p), step = p->desc.y_stride[4] * convt3d__element_size(p->desc.dtype);
    int64_t phases = convt3d__cpu_phases(&p->axis[2]), c, j, k, m;
    int64_t pitch = convt3d__cpu_round_up(u->b->size[2] * phases + 16, 16);
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    const char *rows = phases == 1 ? convt3d__cpu_sums(u, 0, 0) + row * u->pitch * real : u->woven;
    for (c = 0; phases > 1 && c < channels; c++) {
        convt3d__cpu_phases_of_row(u, c, row, from);
        u->leaves->weave[is_f64](u->woven + c * pitch * real, from, phases, n, 0);
    }
    if (phases == 1) pitch = u->b->sum_pitch;
    for (j = 0; j < n; j += 64) {
        m = convt3d__min(64, n - j);
        u->leaves->transpose[is_f64](u->transposed, u->b->store, rows + j * real, pitch, channels, m);
        for (k = 0; k < m; k++)
            convt3d__cpu_scatter(u->leaves, p->desc.dtype, y + (j + k) * step, 1,
                                 u->transposed + k * u->b->store * real, channels);
    }
}

/* One row of one channel: woven straight into y where that is possible. */
static void convt3d__cpu_store_row(const convt3d__cpu_unit *u, char *y, int64_t row, int64_t channel, int64_t n)
{
    const convt3d__plan *p = u->p;
    const void *from[CONVT3D__CPU_MOST_PHASES], *woven = u->woven;
    int64_t phases = convt3d__cpu_phases(&p->axis[2]);
    int32_t is_f64 = p->desc.dtype == CONVT3D_F64;
    convt3d__cpu_phases_of_row(u, channel, row, from);
    if (p->desc.y_stride[4] == 1 && p->desc.dtype <= CONVT3D_F64) {
        u->leaves->weave[is_f64](y, from, phases, n, (int32_t)u->b->stream);
        return;
    }
    if (phases == 1) woven = from[0];
    else u->leaves->weave[is_f64](u->woven, from, phases, n, 0);
    convt3d__cpu_scatter(u->leaves, p->desc.dtype, y, p->desc.y_stride[4], woven, n);
}

static void convt3d__cpu_store_run(const convt3d__cpu_unit *u, const convt3d__cpu_stripe *run, int64_t channels)
{
    const convt3d__plan *p = u->p;
    const int64_t *stride = p->desc.y_stride;
    int64_t element = convt3d__element_size(p->desc.dtype), ow = u->first[2] * p->axis[2].stride, row, c;
    int64_t n = convt3d__min(u->end[2] * p->axis[2].stride, p->axis[2].out) - ow;
    char *y = (char *)u->io->y + (u->n * stride[0] + run->channel * stride[1] + run->od * stride[2] +
                                  run->oh * stride[3] + ow * stride[4]) * element;
    for (row = 0; row < run->rows; row++, y += p->axis[1].stride * stride[3] * element) {
        if (stride[1] == 1 && channels > 1 && stride[4] != 1) convt3d__cpu_store_columns(u, y, row, channels, n);
        else for (c = 0; c < channels; c++) convt3d__cpu_store_row(u, y + c * stride[1] * element, row, c, n);
    }
}

/* Blocks [block, end) of one run, stored together as many as fit. */
static void convt3d__cpu_run_blocks(const convt3d__cpu_unit *u, convt3d__cpu_stripe *run, int64_t block, int64_t end)
{
    int64_t channel = 0, oc, n;
    for (; block < end; block++) {
        oc = block % u->b->blocks * u->b->rows;
        n = convt3d__min(u->b->rows, u->p->out_group - oc);
        if (channel == 0) run->channel = (u->group + block / u->b->blocks) * u->p->out_group + oc;
        convt3d__cpu_sum_block(u, run, block, channel);
        channel += n;
        if (block + 1 < end && channel + u->b->rows <= u->b->store) continue;
        convt3d__cpu_store_run(u, run, channel);
        channel = 0;
    }
}

/* The lists of taps of a run, one for each W phase. The zeros of packed x stand for what lies outside. */
static void convt3d__cpu_list_run(const convt3d__cpu_unit *u, convt3d__cpu_stripe *run)
{
    const convt3d__axis *a = &u->p->axis[2];
    convt3d__cpu_tap *list = u->tap;
    int64_t phase, columns;
    if (u->narrow) return;
    for (phase = 0; phase < convt3d__cpu_phases(a); phase++) {
        convt3d__taps width;
        columns = convt3d__cpu_columns_of(u, phase);
        run->tap[phase] = list;
        run->taps[phase] = 0;
        if (columns <= 0) continue;
        width = convt3d__taps_of(a, u->first[2] * a->stride + phase, columns);
        run->taps[phase] = convt3d__cpu_list_taps(u, &run->depth, &run->height, &width, list);
        list += run->taps[phase];
    }
}

/* The rows of one output depth and one phase along height. */
static void convt3d__cpu_unit_rows(const convt3d__cpu_unit *u, int64_t od, int64_t phase, int64_t block,
                                   int64_t block_end)
{
    const convt3d__axis *a = &u->p->axis[1];
    int64_t position, end = convt3d__min(u->end[1], convt3d__ceil_div(a->out - phase, a->stride));
    convt3d__cpu_stripe run;
    run.od = od;
    run.depth = convt3d__taps_of(&u->p->axis[0], od, 1);
    for (position = u->first[1]; position < end; position += run.rows) {
        run.oh = position * a->stride + phase;
        run.rows = convt3d__cpu_equal_taps(a, run.oh, end - position, &run.height);
        convt3d__cpu_list_run(u, &run);
        convt3d__cpu_run_blocks(u, &run, block, block_end);
    }
}

/* Blocks [block, end) over the whole unit: row by row as y lies in memory, or, where the weights would not stay in a
 * cache, phase by phase, since each phase has taps of its own. */
static void convt3d__cpu_unit_blocks(const convt3d__cpu_unit *u, int64_t block, int64_t end, int by_phase)
{
    const convt3d__axis *d = &u->p->axis[0];
    int64_t first = u->first[0] * d->stride, last = convt3d__min(u->end[0] * d->stride, d->out), od, pd, ph;
    int64_t phases = convt3d__cpu_phases(&u->p->axis[1]);
    if (by_phase) {
        for (pd = 0; pd < convt3d__cpu_phases(d); pd++)
            for (ph = 0; ph < phases; ph++)
                for (od = first + pd; od < last; od += d->stride) convt3d__cpu_unit_rows(u, od, ph, block, end);
        return;
    }
    for (od = first; od < last; od++)
        for (ph = 0; ph < phases; ph++) convt3d__cpu_unit_rows(u, od, ph, block, end);
}

/* Blocks in batches whose weights stay in a cache while the unit's runs go by. */
static void convt3d__cpu_do_unit(convt3d__cpu_unit *u)
{
    const convt3d__plan *p = u->p;
    double weights = (double)u->b->rows * (double)p->in_group * (double)p->taps * (double)convt3d__cpu_real_size(p);
    int64_t batch = 1, block, end;
    while (batch < u->b->store / u->b->rows || (double)(batch + 1) * weights <= (double)CONVT3D__CPU_W_BUDGET) {
        if (++batch >= u->block_end - u->block) break;
    }
    convt3d__cpu_unit_inputs(u);
    convt3d__cpu_pack_x(u);
    for (block = u->block; block < u->block_end; block = end) {
        end = convt3d__min(block + batch, u->block_end);
        convt3d__cpu_unit_blocks(u, block, end, (double)batch * weights > (double)CONVT3D__CPU_W_BUDGET);
    }
}

/* Unit i of them all: parts of the channels run fastest, then W, height, depth, groups, samples. */
static void convt3d__cpu_unit_at(convt3d__cpu_unit *u, int64_t i)
{
    const convt3d__cpu_blocking *b = u->b;
    int64_t part = i % b->parts, a;
    i /= b->parts;
    for (a = 2; a >= 0; a--) {
        u->first[a] = i % b->count[a] * b->size[a];
        u->end[a] = convt3d__min(u->first[a] + b->size[a], convt3d__cpu_positions(&u->p->axis[a]));
        i /= b->count[a];
    }
    u->group = i % b->group_units * b->groups;
    u->groups = convt3d__min(b->groups, u->p->desc.groups - u->group);
    u->n = i / b->group_units;
    u->block = part * (u->groups * b->blocks) / b->parts;
    u->block_end = (part + 1) * (u->groups * b->blocks) / b->parts;
}

/* --------------------------------------------------------------------------------------------------------------------
 * Running a plan
 */
typedef struct convt3d__cpu_call {
    const convt3d__plan *p;
    const convt3d__cpu_leaves *leaves;
    const convt3d_io *io;
    convt3d__cpu_blocking b;
    char *workspace, *packed;           /* packed: where weights go that come unpacked */
    int64_t units;
} convt3d__cpu_call;

static void convt3d__cpu_start_unit(const convt3d__cpu_call *call, int64_t thread, convt3d__cpu_unit *u)
{
    char *memory = call->workspace + thread * call->b.thread_bytes;
    memset(u, 0, sizeof *u);
    u->p = call->p;
    u->b = &call->b;
    u->leaves = call->leaves;
    u->io = call->io;
    u->packed = call->io->w_packed ? call->io->w_packed : call->packed;
    u->x = memory + call->b.gap * convt3d__cpu_real_size(call->p);
    u->sum = memory + call->b.x_bytes;
    u->woven = u->sum + call->b.sum_bytes;
    u->transposed = u->woven + call->b.weave_bytes - 64 * call->b.store * convt3d__cpu_real_size(call->p);
    u->tap = (convt3d__cpu_tap *)(void *)(u->woven + call->b.weave_bytes);
}

/* One thread's share; every thread of the team calls it, or one alone. */
static void convt3d__cpu_share(const convt3d__cpu_call *call, int64_t thread)
{
    convt3d__cpu_unit u;
    int64_t i, blocks = call->io->w_packed ? 0 : convt3d__cpu_all_blocks(call->p, &call->b);
    convt3d__cpu_start_unit(call, thread, &u);
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
    for (i = 0; i < blocks; i++) convt3d__cpu_pack_block(call->leaves, call->p, &call->b, call->io->w, call->packed, i);
#ifdef _OPENMP
#pragma omp for schedule(dynamic)
#endif
    for (i = 0; i < call->units; i++) {
        convt3d__cpu_unit_at(&u, i);
        convt3d__cpu_do_unit(&u);
    }
    if (call->b.stream) call->leaves->fence();
}

static convt3d_status convt3d__cpu_run(const convt3d__plan *p, const convt3d__cpu_leaves *leaves, const convt3d_io *io,
                                       convt3d_error *error)
{
    convt3d__cpu_call call;
    int threads, a;
    call.p = p;
    call.leaves = leaves;
    call.io = io;
    call.b = convt3d__cpu_blocking_of(p);
    call.workspace = (char *)io->workspace + (64 - (uintptr_t)io->workspace % 64) % 64;
    call.packed = call.workspace + call.b.threads * call.b.thread_bytes;
    call.units = p->desc.batch * call.b.group_units * call.b.parts;
    for (a = 0; a < 3; a++) call.units *= call.b.count[a];
    threads = (int)convt3d__min(call.b.threads, call.units);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    convt3d__cpu_share(&call, omp_get_thread_num());
#else
    convt3d__cpu_share(&call, 0);
#endif
    return convt3d__ok(error);
}

/* --------------------------------------------------------------------------------------------------------------------
 * The table
 */
/* Seconds, from multiply-adds at a rate of the instruction set; only the order of kernels matters. */
static double convt3d__cpu_cost(const convt3d__plan *p, double rate)
{
    return (double)p->y_count * (double)p->in_group / rate;
}

#define CONVT3D__CPU_ROW(NAME, LEAVES, MISSING, RATE) \
    static int32_t convt3d__##NAME##_refuses(convt3d__plan *p, char why[96]) \
    { \
        if (MISSING) { convt3d__cpu_reason(why, "this processor has no " #NAME);  return 1; } \
        return convt3d__cpu_refuses(p, &LEAVES, why); \
    } \
    static double convt3d__##NAME##_cost(const convt3d__plan *p) { return convt3d__cpu_cost(p, RATE); } \
    static convt3d_status convt3d__##NAME##_pack(const convt3d__plan *p, const void *w, void *packed, void *stream, \
                                                 convt3d_error *error) \
    { \
        (void)stream; \
        return convt3d__cpu_pack(p, &LEAVES, w, packed, error); \
    } \
    static convt3d_status convt3d__##NAME##_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error) \
    { \
        return convt3d__cpu_run(p, &LEAVES, io, error); \
    }

#define CONVT3D__CPU_ENTRY(NAME) \
    {#NAME, CONVT3D_DEVICE_CPU, CONVT3D_FORWARD, 1, convt3d__##NAME##_refuses, convt3d__##NAME##_cost, \
     convt3d__cpu_workspace, convt3d__cpu_packed, convt3d__##NAME##_pack, convt3d__##NAME##_run, NULL}

#ifdef CONVT3D__CPU_X86
CONVT3D__CPU_ROW(avx512, convt3d__avx512_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX512), 40e9)
CONVT3D__CPU_ROW(avx2, convt3d__avx2_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX2), 20e9)
#endif
#ifdef CONVT3D__CPU_NEON
CONVT3D__CPU_ROW(neon, convt3d__neon_leaves, 0, 10e9)
#endif
CONVT3D__CPU_ROW(portable, convt3d__portable_leaves, 0, 5e9)

const convt3d__backend convt3d__cpu_backends[] = {
#ifdef CONVT3D__CPU_X86
    CONVT3D__CPU_ENTRY(avx512),
    CONVT3D__CPU_ENTRY(avx2),
#endif
#ifdef CONVT3D__CPU_NEON
    CONVT3D__CPU_ENTRY(neon),
#endif
    CONVT3D__CPU_ENTRY(portable)
};
const int32_t convt3d__cpu_backend_count = (int32_t)(sizeof convt3d__cpu_backends / sizeof convt3d__cpu_backends[0]);

#ifdef __cplusplus
}
#endif
