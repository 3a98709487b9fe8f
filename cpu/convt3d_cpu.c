/* convt3d_cpu.c - the fast CPU back end of convt3d.h: geometry, packing, blocking, threads. No instruction-set code.
 *
 * Compile it with the other sources (no -m flags; -fopenmp for threads) and define CONVT3D_CPU_FAST where the
 * implementation of convt3d.h is compiled. Rows of the table: avx512, avx2, neon, portable, as the target has them,
 * each for the forward pass and for both parts of the backward pass: dx is a forward problem of another kind (dgrad.h),
 * or, of few positions, a product of matrices (dgrad_few.h); dw and dbias have a driver of their own (wgrad.h).
 *
 * IDEA
 *     Outputs of one phase (the same (o + padding) mod stride on every axis) are a dense sum over taps of shifted
 *     inputs. A unit of work is a box of phase positions of one sample and some groups, by a range of output channels.
 *     Its inputs are packed once, as f32 (f64 for f64), so strides, layouts and types matter only there and where
 *     finished values leave (convt3d__cpu_put in unit.h, the one place). In between, blocking.h chooses among four ways
 *     to sum:
 *       lines      vectors along W by some output channels, several rows end to end     lines.h, the general way
 *       stacks     vectors along W by some rows, for one output channel a group         lines.h: depth-wise
 *       panels     vectors along output channels by positions in any order              panels.h: NDHWC, short rows,
 *                                                                                       long sums
 *       products   all taps of an input first, then added to the outputs they reach     products.h: few output channels
 *     Lines of sums are woven (the W phases take their places) and stored by store.h, or by the leaf that sums them
 *     where W has a stride of 2 (lines.h). Packed weights (weights.h) are
 *     [block of output channels][block of input channels][tap][input channel][ROWS]. The leaves, kernel_*.h, share
 *     kernel_body.h.
 *
 * NUMBERS
 *     Every output is one chain of sums in the accumulator's type that begins with the bias. Its order depends on
 *     channels, kernel, stride and dilation alone: input-channel block, kd, kh, kw, input channel for lines and panels;
 *     input-channel block, kd, kw, input channel, kh for stacks; for products sums over the input channels, added in
 *     the order id, ih, iw. So threads, batch, sizes and slabs do not change bits. Zeros that are not in x are
 *     multiplied only with finite weights.
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
#if defined(__GNUC__)
#  define CONVT3D__CPU_APART static __attribute__((noinline))
#else
#  define CONVT3D__CPU_APART static
#endif
/* Unrolls the loop that follows; its count is a constant of at most 16. */
#if defined(__clang__)
#  define CONVT3D__CPU_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#  define CONVT3D__CPU_UNROLL _Pragma("GCC unroll 16")
#else
#  define CONVT3D__CPU_UNROLL
#endif

#if defined(__GNUC__)
#  define CONVT3D__CPU_PREFETCH(address) __builtin_prefetch(address)
#  define CONVT3D__CPU_PREFETCH_WRITE(address) __builtin_prefetch(address, 1)
#else
#  define CONVT3D__CPU_PREFETCH_WRITE(address) ((void)0)
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
    int64_t rows, row_pitch, sum_row, height, w_step;   /* stack alone */
} convt3d__cpu_line;

enum {
    CONVT3D__CPU_MOST_ROWS = 8,         /* of a line */
    CONVT3D__CPU_MOST_PANEL = 32,       /* ROWS of a panel */
    CONVT3D__CPU_SLACK = 256,
    CONVT3D__CPU_AHEAD = 8,             /* input channels that prefetching runs ahead, */
    CONVT3D__CPU_PANEL_AHEAD = 48,      /* and of a panel's weights; */
    CONVT3D__CPU_ROWS_AHEAD = 1024      /* bytes of x that it runs ahead of packing */
};

/* Sums of positions by one or two vectors of output channels (ROWS of them): sum[j*ROWS + r] += sum over taps and
 * channels of x[at[j] + tap.x + channel] * w[(tap.w*channels + channel)*ROWS + r] for j < positions; it begins at
 * start[r], or goes on from sum where start is NULL. */
typedef struct convt3d__cpu_panel {
    const void *x, *w, *start;
    void *sum;
    const convt3d__cpu_tap *tap;
    const int64_t *at;
    int64_t taps, channels, positions;
} convt3d__cpu_panel;

/* Sums over a box of positions: sum[c*n + r] += sum of v[r]*b[c*column] for c < columns and r < n = vectors*LANES, v
 * and b moving by v_step and b_step from plane to plane, row to row and position to position. With vectors = 0 it is
 * one sum, of steps 1 along W; unless columns = 0, rows may then be read up to a vector beyond their end. */
typedef struct convt3d__cpu_outer {
    const void *v, *b;
    void *sum;
    int64_t size[3], v_step[3], b_step[3], column;
    int32_t vectors, columns;
} convt3d__cpu_outer;

/* The phases of rows of outputs take their places: to[row*to_pitch + j] = from[j % stride][row % high*from_high + row
 * / high*from_pitch + j / stride] for j < length. With stream set it goes around the caches, where to is larger than
 * they are. Up to CONVT3D__CPU_SLACK values more of from may be read. */
typedef struct convt3d__cpu_weave {
    void *to;
    const void *const *from;
    int64_t to_pitch, from_pitch, from_high, high, stride, length, rows;
    int32_t stream;
} convt3d__cpu_weave;

/* An entry of a list, for each of ROWS channels. */
typedef struct convt3d__cpu_entry {
    int32_t kind;
    float a[CONVT3D__CPU_MOST_ROWS], b[CONVT3D__CPU_MOST_ROWS];
} convt3d__cpu_entry;

/* One row of outputs whose W phases, two of them, take their places as they are summed: to[r*to_channel + 2*j + i] =
 * start[r] + the line of phase i at j, for less than `length` outputs of each of `valid` <= ROWS channels, after the
 * entries of a list (f32 alone). ROWS is 4 or 8. Nothing else is written; x is read as by a line. With stream set it
 * goes around the caches. */
typedef struct convt3d__cpu_woven {
    const void *x, *w, *start;
    void *to;
    const convt3d__cpu_tap *tap[2];
    int64_t taps[2], channels, x_pitch, to_channel, length, rows, valid;
    int32_t stream, entries;
    const convt3d__cpu_entry *affine, *bounds, *entry;      /* what is not NULL of the first two comes before the rest:
                                                               a*v + b, then v from a to b (infinity: only from a) */
} convt3d__cpu_woven;

/* The leaves of one instruction set; [2]: for f32 and f64. */
typedef struct convt3d__cpu_leaves {
    void (*line[2][CONVT3D__CPU_MOST_ROWS + 1])(const convt3d__cpu_line *line);    /* by ROWS; NULL: no such tile */
    /* One channel (ROWS = 1), `rows` rows of a line at once: row i of x begins at x + i*row_pitch, of sums at sum +
     * i*sum_row. Each tap stands for `height` of them: number j reads row i - j with the weight tap.w*channels +
     * channel + j*w_step. Up to a vector of the row behind may be read and written. */
    void (*stack[2])(const convt3d__cpu_line *line);
    void (*panel[2][2])(const convt3d__cpu_panel *panel);                 /* by type, then by vectors */
    int32_t lanes[2];                                                      /* of a vector */
    void (*outer[2])(const convt3d__cpu_outer *outer);                     /* 1 or 2 vectors by up to `positions`
                                                                              columns, 4 by 3, 8 by 1, 0 by 0 or 1 */
    int32_t positions;
    double (*total[2])(const void *values, int64_t n);
    void (*add[2])(void *to, const void *from, int64_t n, int64_t rows, int64_t to_row, int64_t from_row);
    void (*evens[2])(void *to, const void *from, int64_t n);               /* to[j] = from[2*j], nothing beyond */
    void (*weave[2])(const convt3d__cpu_weave *weave);
    void (*woven[2])(const convt3d__cpu_woven *row);                       /* NULL: too few registers */
    void (*widen[2])(float *to, const uint16_t *from, int64_t n);          /* f16, bf16 */
    void (*narrow[2])(uint16_t *to, const float *from, int64_t n);
    void (*transpose[2])(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t rows,
                         int64_t columns);                          /* to[c*to_pitch + r] = from[r*from_pitch + c] */
    void (*fence)(void);                                                   /* after the last streaming copy */
    void (*list)(int32_t kind, float a, float b, float *values, int64_t n);    /* an entry that looks at one value */
    void (*affine)(float *values, const float *scale, const float *shift, int64_t n);      /* each value with its own */
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

#include "dgrad.h"
#include "blocking.h"
#include "weights.h"
#include "unit.h"
#include "list.h"
#include "store.h"
#include "panels.h"
#include "lines.h"
#include "products.h"
#include "wgrad.h"
#include "dgrad_few.h"

/* --------------------------------------------------------------------------------------------------------------------
 * Units
 */
/* Blocks in batches whose weights stay in a cache while the unit's runs go by. */
static void convt3d__cpu_do_unit(convt3d__cpu_unit *u)
{
    double weights = convt3d__cpu_block_bytes(u->p, u->b);
    int64_t batch = 1, block, end;
    while (batch < u->b->store / u->b->rows || (double)(batch + 1) * weights <= (double)CONVT3D__CPU_W_BUDGET) {
        if (++batch >= u->block_end - u->block) break;
    }
    convt3d__cpu_unit_inputs(u);
    if (u->b->products) { convt3d__cpu_unit_products(u);  return; }
    if (u->b->panel) convt3d__cpu_panel_x(u);
    else convt3d__cpu_pack_x(u);
    if (u->b->scatter) { convt3d__cpu_unit_panels(u);  return; }
    for (block = u->block; block < u->block_end; block = end) {
        end = convt3d__min(block + batch, u->block_end);
        convt3d__cpu_unit_blocks(u, block, end);
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
    u->at = (int64_t *)(void *)(u->woven + call->b.weave_bytes + call->b.tap_bytes);
    u->place = (convt3d__cpu_place *)(void *)(u->at + CONVT3D__CPU_LIST);
    u->product = (char *)u->at + call->b.list_bytes;
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
    threads = (int)convt3d__max(1, convt3d__min(call.b.threads, call.units));
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

/* Where dx has one or two channels a group, forward's stacks and products, on flipped weights, are better. */
static double convt3d__cpu_dx_cost(const convt3d__plan *p, double rate)
{
    return (double)p->x_count * (double)p->out_group / rate * (p->in_group > 2 ? 1 : 2);
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

/* The gradient of x: forward's driver on the plan of dgrad.h, or dgrad_few.h. */
enum { CONVT3D__CPU_DX_STREAM = 4 << 20 };      /* bytes of dx that go around the caches, which x and dy want */

static int32_t convt3d__cpu_dx_refuses(convt3d__plan *p, const convt3d__cpu_leaves *leaves, char why[96])
{
    convt3d__plan q = convt3d__cpu_dx_plan(p);
    convt3d__cpu_blocking b;
    int32_t refused;
    if (convt3d__cpu_few_choose(p, leaves)) return 0;
    refused = convt3d__cpu_refuses(&q, leaves, why);
    b = convt3d__cpu_blocking_of(&q);
    b.stream |= !b.scatter && q.stored <= CONVT3D_F64 && q.desc.y_stride[4] == 1 &&
                q.y_count * convt3d__element_size(q.stored) > CONVT3D__CPU_DX_STREAM;
    memcpy(p->state, &b, sizeof b);
    p->pack_variant = q.pack_variant;
    return refused;
}

static int64_t convt3d__cpu_dx_workspace(const convt3d__plan *p)
{
    convt3d__plan q = convt3d__cpu_dx_plan(p);
    convt3d__cpu_few few;
    return convt3d__cpu_few_of(p, &few) ? convt3d__cpu_few_workspace(&few) : convt3d__cpu_workspace(&q);
}

static int64_t convt3d__cpu_dx_packed(const convt3d__plan *p)
{
    convt3d__plan q = convt3d__cpu_dx_plan(p);
    convt3d__cpu_few few;
    return convt3d__cpu_few_of(p, &few) ? convt3d__cpu_few_packed(p) : convt3d__cpu_packed(&q);
}

static convt3d_status convt3d__cpu_dx_pack(const convt3d__plan *p, const convt3d__cpu_leaves *leaves, const void *w,
                                           void *packed, convt3d_error *error)
{
    convt3d__plan q = convt3d__cpu_dx_plan(p);
    convt3d__cpu_few few;
    if (!convt3d__cpu_few_of(p, &few)) return convt3d__cpu_pack(&q, leaves, w, packed, error);
    memcpy(packed, w, (size_t)convt3d__cpu_few_packed(p));
    return convt3d__ok(error);
}

static convt3d_status convt3d__cpu_dx_run(const convt3d__plan *p, const convt3d__cpu_leaves *leaves,
                                          const convt3d_io *io, convt3d_error *error)
{
    convt3d__plan q = convt3d__cpu_dx_plan(p);
    convt3d_io dx = convt3d__cpu_dx_io(io);
    convt3d__cpu_few few;
    if (convt3d__cpu_few_of(p, &few)) return convt3d__cpu_few_run(p, &few, leaves, io, error);
    return convt3d__cpu_run(&q, leaves, &dx, error);
}

#define CONVT3D__CPU_BACKWARD_ROW(NAME, LEAVES, MISSING, RATE) \
    static double convt3d__##NAME##_dx_cost(const convt3d__plan *p) { return convt3d__cpu_dx_cost(p, RATE); } \
    static int32_t convt3d__##NAME##_dx_refuses(convt3d__plan *p, char why[96]) \
    { \
        if (MISSING) { convt3d__cpu_reason(why, "this processor has no " #NAME);  return 1; } \
        return convt3d__cpu_dx_refuses(p, &LEAVES, why); \
    } \
    static convt3d_status convt3d__##NAME##_dx_pack(const convt3d__plan *p, const void *w, void *packed, void *stream, \
                                                    convt3d_error *error) \
    { \
        (void)stream; \
        return convt3d__cpu_dx_pack(p, &LEAVES, w, packed, error); \
    } \
    static convt3d_status convt3d__##NAME##_dx_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error) \
    { \
        return convt3d__cpu_dx_run(p, &LEAVES, io, error); \
    } \
    static int32_t convt3d__##NAME##_dw_refuses(convt3d__plan *p, char why[96]) \
    { \
        if (MISSING) { convt3d__cpu_reason(why, "this processor has no " #NAME);  return 1; } \
        return convt3d__cpu_dw_refuses(p, &LEAVES, why); \
    } \
    static convt3d_status convt3d__##NAME##_dw_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error) \
    { \
        return convt3d__cpu_dw_run(p, &LEAVES, io, error); \
    }

#define CONVT3D__CPU_ENTRY(NAME) \
    {#NAME, CONVT3D_DEVICE_CPU, CONVT3D_FORWARD, 1, convt3d__##NAME##_refuses, convt3d__##NAME##_cost, \
     convt3d__cpu_workspace, convt3d__cpu_packed, convt3d__##NAME##_pack, convt3d__##NAME##_run, NULL, \
     CONVT3D__FUSES_LIST | CONVT3D__FUSES_WIDE}, \
    {#NAME, CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_X, 0, convt3d__##NAME##_dx_refuses, convt3d__##NAME##_dx_cost, \
     convt3d__cpu_dx_workspace, convt3d__cpu_dx_packed, convt3d__##NAME##_dx_pack, convt3d__##NAME##_dx_run, NULL, 0}, \
    {#NAME, CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_W, 0, convt3d__##NAME##_dw_refuses, convt3d__##NAME##_cost, \
     convt3d__cpu_dw_workspace, convt3d__cpu_dw_packed, NULL, convt3d__##NAME##_dw_run, NULL, 0}

#ifdef CONVT3D__CPU_X86
CONVT3D__CPU_ROW(avx512, convt3d__avx512_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX512), 40e9)
CONVT3D__CPU_BACKWARD_ROW(avx512, convt3d__avx512_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX512), 40e9)
CONVT3D__CPU_ROW(avx2, convt3d__avx2_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX2), 20e9)
CONVT3D__CPU_BACKWARD_ROW(avx2, convt3d__avx2_leaves, !(convt3d__cpu_processor() & CONVT3D__CPU_HAS_AVX2), 20e9)
#endif
#ifdef CONVT3D__CPU_NEON
CONVT3D__CPU_ROW(neon, convt3d__neon_leaves, 0, 10e9)
CONVT3D__CPU_BACKWARD_ROW(neon, convt3d__neon_leaves, 0, 10e9)
#endif
CONVT3D__CPU_ROW(portable, convt3d__portable_leaves, 0, 5e9)
CONVT3D__CPU_BACKWARD_ROW(portable, convt3d__portable_leaves, 0, 5e9)

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
