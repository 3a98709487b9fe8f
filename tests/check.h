/* check.h - one case: make the data, run convt3d(), let the oracle judge. Used by tests/ and by `convt3d check`.
 *
 * Promise: pass = 1 means that the outputs looked at are within DESIGN's bound (exact data: equal), that every
 * output was written, and that not one byte of y's buffer outside them changed. All outputs are judged while the
 * case has at most CHECK_FULL_PRODUCTS products, otherwise at least 4,096 seeded ones (oracle_sample()).
 *
 * Data, made from the seed:
 *     real    seed % 6: 0 sign-random normal, 1 all-positive, 2 wide dynamic range, 3 every operand
 *             1 + 2^-11 - 2^-23 (rounded to the type), 4 x near the type's largest and w near its smallest numbers,
 *             5 x subnormal and w around 1
 *     exact   seed % 5: 0 balanced integers, 1 large x and w in {-1, 0, 1}, 2 the reverse; for f32 (not TF32) and f64 also
 *             3 x up to 2^20 and w in {-1, 0, 1}, 4 the reverse (16-bit types: as 0)
 *     seed % 7 == 6 leaves the bias out.
 *     lists   residuals are normal numbers, scale lies in +-[0.5, 1.5), shift is normal; odd entries of seed % 3 == 2
 *             have none. Everything that a normalisation writes is given, and judged.
 */
#ifndef CONVT3D_TESTS_CHECK_H
#define CONVT3D_TESTS_CHECK_H

#include "../convt3d.h"
#include "oracle.h"
#include "oracle_ops.h"
#include <stdio.h>

typedef struct check_request {
    convt3d_desc desc;          /* device, dtype, layout, force, threads... as the user wants it run */
    int exact;                  /* 1: integer data, must be equal; 0: real data, derived bound */
    uint64_t seed;
    const void *x, *w, *bias;   /* NULL: made from the seed (then bias is too); else the caller's in desc's layout */
} check_request;

typedef struct check_result {
    int pass;                   /* 1 pass, 0 fail */
    convt3d_status status;      /* of the convt3d call; not OK -> pass = 0 and message tells */
    char kernel[32];            /* kernel that ran */
    int64_t checked, total;     /* outputs compared, outputs there are */
    int64_t worst[5];           /* n, oc, od, oh, ow of the element with the largest error/bound */
    double got, want, error, bound;
    double rms;                 /* RMS of (y - y64)/(2^-24 S) over the checked (2^-53 for f64) */
    const char *gradient;       /* backward pass: which one `worst` is in; else NULL */
    char message[256];
} check_result;

#define CHECK_FULL_PRODUCTS 50e6
#define CHECK_FULL_OUTPUTS 8000000      /* values take 40 bytes each */
#define CHECK_GUARD 256                 /* bytes before and after each made buffer */
#define CHECK_SENTINEL 0xA5             /* what bytes that are no outputs hold */

/* ---- buffers: 64-byte aligned contents between guards ---- */

typedef struct check_buffer {
    unsigned char *memory, *data;
    size_t bytes;
} check_buffer;

static inline int check_buffer_make(check_buffer *b, int64_t count, int32_t size, int fill)
{
    uint64_t bytes = (uint64_t)count * (uint64_t)size;
    memset(b, 0, sizeof *b);
    if (count < 0 || (uint64_t)count > (SIZE_MAX - 4 * CHECK_GUARD) / (uint64_t)size) return 0;
    b->memory = (unsigned char *)malloc((size_t)bytes + 2 * CHECK_GUARD + 64);
    if (!b->memory) return 0;
    memset(b->memory, fill, (size_t)bytes + 2 * CHECK_GUARD + 64);
    b->data = b->memory + CHECK_GUARD;
    b->data += (64 - (uintptr_t)b->data % 64) % 64;
    b->bytes = (size_t)bytes;
    return 1;
}

/* The first byte of the whole allocation that is not the fill, as an offset from data; INT64_MAX when there is none. */
static inline int64_t check_buffer_changed(const check_buffer *b, int fill)
{
    unsigned char page[4096];
    size_t i, all = b->bytes + 2 * CHECK_GUARD + 64;
    memset(page, fill, sizeof page);
    for (i = 0; i + sizeof page <= all && !memcmp(b->memory + i, page, sizeof page); i += sizeof page) {}
    for (; i < all; i++) if (b->memory[i] != fill) return (int64_t)i - (b->data - b->memory);
    return INT64_MAX;
}

/* A NaN that no arithmetic makes: what outputs hold before the call. */
static inline uint64_t check_poison(int32_t dtype)
{
    if (dtype == CONVT3D_F64) return 0x7FF4DEAD5EED1234u;
    return dtype == CONVT3D_F32 ? 0x7FADBEEFu : dtype == CONVT3D_F16 ? 0x7D5Bu : 0x7FADu;
}

static inline int check_is_poison(const unsigned char *data, int64_t index, int32_t dtype, int32_t size)
{
    uint64_t wide = 0, poison = check_poison(dtype);
    uint32_t word = 0;
    uint16_t half = 0;
    if (size == 8) { memcpy(&wide, data + index * 8, 8); return wide == poison; }
    if (size == 4) { memcpy(&word, data + index * 4, 4); return word == poison; }
    memcpy(&half, data + index * 2, 2);
    return half == poison;
}

static inline void check_set_poison(unsigned char *data, int64_t index, int32_t dtype, int32_t size)
{
    uint64_t wide = check_poison(dtype);
    uint32_t word = (uint32_t)wide;
    uint16_t half = (uint16_t)wide;
    memcpy(data + index * size, size == 8 ? (void *)&wide : size == 4 ? (void *)&word : (void *)&half, (size_t)size);
}

/* ---- data ---- */

enum { CHECK_X = 0, CHECK_W = 1, CHECK_BIAS = 2, CHECK_RESIDUAL = 3, CHECK_SCALE = 4, CHECK_SHIFT = 5, CHECK_MEAN = 6,
       CHECK_RSTD = 7, CHECK_RUNNING_MEAN = 8, CHECK_RUNNING_VAR = 9, CHECK_TENSORS = 10 };

/* Nearly normal: the sum of four 16-bit digits of a hash, whose standard deviation is 2^16/sqrt(3), and its fraction,
 * so that all digits of a double are in use. */
static inline double check_normal(uint64_t seed, uint64_t i)
{
    uint64_t r = oracle_hash(seed, i);
    double digits = (double)((r & 0xFFFF) + (r >> 16 & 0xFFFF) + (r >> 32 & 0xFFFF) + (r >> 48));
    return (digits - 131070.5 + (double)(r >> 11) * (1.0 / 9007199254740992.0)) * (1.7320508075688772 / 65536);
}

static inline double check_real_value(int32_t dtype, uint64_t seed, int tensor, uint64_t i)
{
    uint64_t s = seed * 3 + (uint64_t)tensor;
    double sign = oracle_hash(s ^ 0x51, i) & 1 ? 1.0 : -1.0, unit = 0.5 + oracle_uniform(s, i);
    int spread = dtype == CONVT3D_F16 ? 4 : 20, top = dtype == CONVT3D_F16 ? 12 : dtype == CONVT3D_F64 ? 1000 : 120;
    int low = dtype == CONVT3D_F16 ? -19 : dtype == CONVT3D_F64 ? -1040 : -131;
    switch (seed % 6) {
    case 0: return check_normal(s, i);
    case 1: return oracle_uniform(s, i);
    case 2: return sign * ldexp(unit, (int)(oracle_hash(s ^ 0x77, i) % (uint64_t)(2 * spread + 1)) - spread);
    case 3: return 1 + ldexp(1, -11) - ldexp(1, -23);
    case 4: return sign * ldexp(unit, tensor == CHECK_X ? top : tensor == CHECK_W ? -top : 0);
    default: return sign * ldexp(unit, tensor == CHECK_W ? 0 : low);
    }
}

/* Largest magnitudes of integer x, w and bias such that S stays below the limit. */
static inline void check_exact_limits(const oracle_problem *p, int32_t math, uint64_t seed, int64_t limit[3])
{
    const int64_t operand = p->dtype == CONVT3D_BF16 ? 256 : p->dtype == CONVT3D_F64 ? (int64_t)1 << 24 : 2048;
    const int f16 = p->dtype == CONVT3D_F16;
    const int wide = (p->dtype == CONVT3D_F32 && math == CONVT3D_ACCURATE) || p->dtype == CONVT3D_F64;
    const int64_t total = (int64_t)1 << (p->dtype == CONVT3D_F64 ? 52 : f16 && seed % 5 == 0 ? 15 : 23);
    int64_t k = oracle_most_products(p), share = total / (k > 0 ? k : 1), root = (int64_t)sqrt((double)share);
    int64_t top = operand, large;
    int kind = (int)(seed % 5);
    if (kind > 2 && wide) { top = (int64_t)1 << 20; kind -= 2; }
    large = share < top ? share : top;
    limit[CHECK_X] = kind == 1 ? large : kind == 2 ? 1 : root < operand ? root : operand;
    limit[CHECK_W] = kind == 2 ? large : kind == 1 ? 1 : root < operand ? root : operand;
    limit[CHECK_BIAS] = operand;
    if (limit[CHECK_X] < 1) limit[CHECK_X] = 1;             /* such a large K is judged by the bound where S is */
    if (limit[CHECK_W] < 1) limit[CHECK_W] = 1;             /* too large: see oracle_judge() */
}

static inline double check_exact_value(const int64_t limit[3], uint64_t seed, int tensor, uint64_t i)
{
    uint64_t s = seed * 3 + (uint64_t)tensor, r = oracle_hash(s, i);
    return (double)((int64_t)((r >> 1) % (uint64_t)(2 * limit[tensor] + 1)) - limit[tensor]);
}

/* Integers beyond the type's digits would be rounded, which changes no promise but S; f16 holds 2^11, bf16 2^8. */
static inline double check_value(const oracle_problem *p, const check_request *r, const int64_t limit[3], int tensor,
                                 int64_t i)
{
    return r->exact ? check_exact_value(limit, r->seed, tensor, (uint64_t)i)
                    : check_real_value(p->dtype, r->seed, tensor, (uint64_t)i);
}

/* ---- one run ---- */

typedef struct check_run {
    oracle_problem problem;
    check_buffer x, w, bias, y;
    check_buffer ops[CONVT3D_MAX_OPS][CHECK_TENSORS];
    convt3d_io io;              /* what the call was given */
    int32_t op_count, normalises;
    int64_t *list;              /* NULL: all outputs are judged */
    oracle_value *values;
    int64_t count;              /* outputs judged */
    int32_t size;
} check_run;

static inline void check_free(check_run *run)
{
    int i, k;
    free(run->x.memory); free(run->w.memory); free(run->bias.memory); free(run->y.memory);
    free(run->problem.w); free(run->list); free(run->values);
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = 0; k < CHECK_TENSORS; k++) free(run->ops[i][k].memory);
}

static inline int check_fail(check_result *result, const char *message)
{
    result->pass = 0;
    snprintf(result->message, sizeof result->message, "%s", message);
    return 0;
}

/* What the blocks of a tensor's elements need to be filled, poisoned or looked through. */
typedef struct check_elements {
    const check_request *request;
    check_run *run;
    int64_t limit[3];
    int64_t unwritten, first;   /* outputs that still are poison, and the first of them */
} check_elements;

static inline void check_fill_x(void *context, int64_t begin, int64_t end)
{
    const check_elements *e = (const check_elements *)context;
    const oracle_problem *p = &e->run->problem;
    int64_t index[5], i;
    oracle_unravel(p->in, begin, index);
    for (i = begin; i < end; i++, oracle_step(p->in, index))
        oracle_store(p->dtype, e->run->x.data, oracle_offset(index, p->x_stride),
                     check_value(p, e->request, e->limit, CHECK_X, i));
}

static inline void check_fill_w(void *context, int64_t begin, int64_t end)
{
    const check_elements *e = (const check_elements *)context;
    const oracle_problem *p = &e->run->problem;
    int64_t i;
    for (i = begin; i < end; i++)
        oracle_store(p->dtype, e->run->w.data, i, check_value(p, e->request, e->limit, CHECK_W, i));
}

static inline void check_poison_y(void *context, int64_t begin, int64_t end)
{
    const check_elements *e = (const check_elements *)context;
    const oracle_problem *p = &e->run->problem;
    int64_t index[5], i;
    oracle_unravel(p->out, begin, index);
    for (i = begin; i < end; i++, oracle_step(p->out, index))
        check_set_poison(e->run->y.data, oracle_offset(index, p->y_stride), p->dtype, e->run->size);
}

/* Counts the outputs that still are poison and puts the sentinel on all. */
static inline void check_clear_y(void *context, int64_t begin, int64_t end)
{
    check_elements *e = (check_elements *)context;
    const oracle_problem *p = &e->run->problem;
    int64_t index[5], i, unwritten = 0, first = INT64_MAX;
    oracle_unravel(p->out, begin, index);
    for (i = begin; i < end; i++, oracle_step(p->out, index)) {
        int64_t offset = oracle_offset(index, p->y_stride);
        if (check_is_poison(e->run->y.data, offset, p->dtype, e->run->size) && unwritten++ == 0) first = i;
        memset(e->run->y.data + offset * e->run->size, CHECK_SENTINEL, (size_t)e->run->size);
    }
    if (unwritten == 0) return;
#ifdef _OPENMP
#pragma omp critical(check_unwritten)
#endif
    {
        e->unwritten += unwritten;
        if (first < e->first) e->first = first;
    }
}

/* ---- the tensors of the list ---- */

static inline double check_op_value(uint64_t seed, int entry, int tensor, uint64_t i)
{
    uint64_t s = (seed * 8 + (uint64_t)entry) * CHECK_TENSORS + (uint64_t)tensor;
    double sign = oracle_hash(s ^ 0x51, i) & 1 ? 1.0 : -1.0;
    if (tensor == CHECK_SCALE) return sign * (0.5 + oracle_uniform(s, i));
    if (tensor == CHECK_RUNNING_VAR) return 0.5 + oracle_uniform(s, i);
    return check_normal(s, i);
}

/* A tensor of `count` values in their type; the seed fills it. */
static inline void *check_make_vector(const check_request *request, check_run *run, int entry, int tensor,
                                      int64_t count)
{
    int32_t dtype = request->desc.dtype == CONVT3D_F64 ? CONVT3D_F64 : CONVT3D_F32;
    check_buffer *b = &run->ops[entry][tensor];
    int64_t i;
    if (!check_buffer_make(b, count, oracle_format_of(dtype).size, 0xFF)) return NULL;
    for (i = 0; i < count; i++)
        oracle_store(dtype, b->data, i, check_op_value(request->seed, entry, tensor, (uint64_t)i));
    return b->data;
}

static inline void *check_make_residual(const check_request *request, check_run *run, int entry)
{
    const oracle_problem *p = &run->problem;
    check_buffer *b = &run->ops[entry][CHECK_RESIDUAL];
    int64_t stride[5], at[5] = {0, 0, 0, 0, 0}, i;
    memcpy(stride, request->desc.ops[entry].stride, sizeof stride);
    if (oracle_all_zero(stride)) oracle_dense_strides(p->layout, p->out, stride);
    if (!check_buffer_make(b, oracle_span(p->out, stride), run->size, 0xFF)) return NULL;
    for (i = 0; i < p->y_count; i++, oracle_step(p->out, at))
        oracle_store(p->dtype, b->data, oracle_offset(at, stride),
                     check_op_value(request->seed, entry, CHECK_RESIDUAL, (uint64_t)i));
    return b->data;
}

/* What entry i uses, all of it but for what seed % 3 == 2 leaves out. Returns 0 when memory is short. */
static inline int check_make_op(const check_request *request, check_run *run, int i, convt3d_op_io *t)
{
    const convt3d_op *op = &request->desc.ops[i];
    int32_t uses = convt3d_op_uses(op->kind);
    int64_t channels = run->problem.out[1], sets = op->groups ? run->problem.out[0] * op->groups : channels;
    int spare = request->seed % 3 == 2 && i % 2 == 1, ok = 1;
    if (uses & CONVT3D_USES_RESIDUAL) ok &= (t->residual = check_make_residual(request, run, i)) != NULL;
    if ((uses & CONVT3D_USES_SCALE) && !spare) {
        ok &= (t->scale = check_make_vector(request, run, i, CHECK_SCALE, channels)) != NULL;
        ok &= (t->shift = check_make_vector(request, run, i, CHECK_SHIFT, channels)) != NULL;
    }
    if ((uses & CONVT3D_USES_STATISTICS) && !spare) {
        ok &= (t->mean = check_make_vector(request, run, i, CHECK_MEAN, sets)) != NULL;
        ok &= (t->rstd = check_make_vector(request, run, i, CHECK_RSTD, sets)) != NULL;
    }
    if ((uses & CONVT3D_USES_RUNNING) && !spare) {
        ok &= (t->running_mean = check_make_vector(request, run, i, CHECK_RUNNING_MEAN, channels)) != NULL;
        ok &= (t->running_var = check_make_vector(request, run, i, CHECK_RUNNING_VAR, channels)) != NULL;
    }
    return ok;
}

static inline int check_make_ops(const check_request *request, check_run *run, convt3d_io *io)
{
    int i;
    for (i = 0; i < CONVT3D_MAX_OPS && request->desc.ops[i].kind != CONVT3D_OP_END; i++) {
        if (!check_make_op(request, run, i, &io->ops[i])) return 0;
        if (convt3d_op_uses(request->desc.ops[i].kind) & CONVT3D_USES_STATISTICS) run->normalises = 1;
    }
    run->op_count = i;
    return 1;
}

/* One written statistic beside what it must be. */
static inline int check_statistic(int32_t dtype, const void *got, int64_t i, double want, double bound)
{
    double y = oracle_small(got, dtype, i, NAN);
    if (!got || isinf(bound)) return 1;
    if (!isfinite(want)) return oracle_same(y, want) || (isnan(y) && isinf(want));
    return fabs(y - want) <= bound + 4 * oracle_format_of(dtype).u * fabs(want) + ldexp(1, -149);
}

/* Mean, rstd and the running statistics that a normalisation left. */
static inline int check_statistics(const check_request *request, const check_run *run, int entry,
                                   const oracle_norm *found, int64_t sets)
{
    const convt3d_op_io *t = &run->io.ops[entry];
    const convt3d_op *op = &request->desc.ops[entry];
    int64_t i;
    int ok = 1;
    for (i = 0; i < sets; i++) {
        const oracle_norm *n = &found[i];
        double m = op->b, d = n->mean_bound, deviation = sqrt(n->variance), wide = n->count / (n->count - 1);
        double mean = (1 - m) * check_op_value(request->seed, entry, CHECK_RUNNING_MEAN, (uint64_t)i) + m * n->mean;
        double var = (1 - m) * check_op_value(request->seed, entry, CHECK_RUNNING_VAR, (uint64_t)i) +
                     m * n->variance * wide;
        ok &= check_statistic(request->desc.dtype, t->mean, i, n->mean, d);
        ok &= check_statistic(request->desc.dtype, t->rstd, i, n->rstd, n->rstd_bound);
        ok &= check_statistic(request->desc.dtype, t->running_mean, i, mean, d + 4e-7);
        ok &= check_statistic(request->desc.dtype, t->running_var, i, var, m * wide * d * (2 * deviation + d) + 4e-7);
    }
    return ok;
}

/* What the list makes of the judged outputs; NULL where memory is short. */
static inline oracle_point *check_points(const check_request *request, const check_run *run, const double *range,
                                         check_result *result)
{
    const oracle_problem *p = &run->problem;
    oracle_point *points = (oracle_point *)malloc((size_t)(run->count + 1) * sizeof *points);
    oracle_norm *found = (oracle_norm *)calloc((size_t)(p->out[0] * p->out[1] + p->out[1] + 1), sizeof *found);
    int64_t j;
    int i, ok = points && found;
    for (j = 0; ok && j < run->count; j++)
        points[j] = oracle_start_point(&run->values[j], p->dtype, request->desc.math, request->exact,
                                       range ? range[j] : 0);
    for (i = 0; ok && i < run->op_count; i++) {
        const convt3d_op *op = &request->desc.ops[i];
        const convt3d_op_io *t = &run->io.ops[i];
        if (!(convt3d_op_uses(op->kind) & CONVT3D_USES_STATISTICS)) {
            oracle_apply_all(p, op, t, run->list, run->count, points);
            continue;
        }
        ok = oracle_normalise_all(p, op, t, points, found);
        if (ok && !check_statistics(request, run, i, found, op->groups ? p->out[0] * op->groups : p->out[1]))
            check_fail(result, "a statistic that the normalisation wrote is wrong");
    }
    free(found);
    if (ok) return points;
    free(points);
    return NULL;
}

/* x, w and bias: the caller's or made. What lies between the elements of a strided x is NaN. */
static inline int check_make_inputs(const check_request *request, check_run *run, convt3d_io *io)
{
    oracle_problem *p = &run->problem;
    check_elements e = {request, run, {0, 0, 0}, 0, 0};
    int64_t i;
    int made = !request->x || !request->w;
    check_exact_limits(p, request->desc.math, request->seed, e.limit);
    io->x = request->x; io->w = request->w; io->bias = request->bias;
    if (!io->x) {
        if (!check_buffer_make(&run->x, p->x_span, run->size, 0xFF)) return 0;
        oracle_parallel(oracle_count(p->in), check_fill_x, &e);
        io->x = run->x.data;
    }
    if (!io->w) {
        if (!check_buffer_make(&run->w, p->w_count, run->size, 0xFF)) return 0;
        oracle_parallel(p->w_count, check_fill_w, &e);
        io->w = run->w.data;
    }
    if (made && !io->bias && request->seed % 7 != 6) {
        if (!check_buffer_make(&run->bias, p->out[1], run->size, 0xFF)) return 0;
        for (i = 0; i < p->out[1]; i++)
            oracle_store(p->dtype, run->bias.data, i, check_value(p, request, e.limit, CHECK_BIAS, i));
        io->bias = run->bias.data;
    }
    p->x = io->x;
    p->bias = io->bias;
    return check_make_ops(request, run, io);
}

static inline int check_make_output(check_run *run, convt3d_io *io)
{
    check_elements e = {NULL, run, {0, 0, 0}, 0, 0};
    if (!check_buffer_make(&run->y, run->problem.y_span, run->size, CHECK_SENTINEL)) return 0;
    oracle_parallel(run->problem.y_count, check_poison_y, &e);
    io->y = run->y.data;
    return 1;
}

static inline double check_products(const oracle_problem *p)
{
    double products = (double)p->in[0] * (double)p->in[1] * (double)(p->out[1] / p->groups);
    int a;
    for (a = 0; a < 3; a++) products *= (double)p->in[2 + a] * (double)p->kernel[a];
    return products;
}

static inline int check_make_values(const check_request *request, check_run *run, const void *w)
{
    oracle_problem *p = &run->problem;
    int full = run->normalises || (check_products(p) <= CHECK_FULL_PRODUCTS && p->y_count <= CHECK_FULL_OUTPUTS);
    if (!oracle_decode_w(p, w)) return 0;
    run->count = p->y_count;
    if (!full && !(run->list = oracle_sample(p, request->seed, &run->count))) return 0;
    run->values = (oracle_value *)malloc((size_t)(run->count + 1) * sizeof *run->values);
    if (!run->values) return 0;
    if (!full) return oracle_sampled(p, run->list, run->count, run->values);
    oracle_full(p, run->values);
    return 1;
}

/* The largest finite |x| of each sample and |w| of each output channel, in one allocation; NULL where memory is short. */
static inline double *check_largest(const oracle_problem *p)
{
    const int64_t out_group = p->out[1] / p->groups, taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    const int64_t in_group = p->in[1] / p->groups;
    double *most = (double *)calloc((size_t)(p->in[0] + p->out[1] + 1), sizeof *most), v;
    int64_t i, count = oracle_count(p->in), index[5] = {0, 0, 0, 0, 0};
    if (!most) return NULL;
    for (i = 0; i < count; i++, oracle_step(p->in, index)) {
        v = fabs(oracle_load(p->dtype, p->x, oracle_offset(index, p->x_stride)));
        if (isfinite(v) && v > most[index[0]]) most[index[0]] = v;
    }
    for (i = 0; i < p->w_count; i++) {
        int64_t oc = i / taps / out_group / in_group * out_group + i / taps % out_group;
        v = fabs(p->w[i]);
        if (isfinite(v) && v > most[p->in[0] + oc]) most[p->in[0] + oc] = v;
    }
    return most;
}

/* What default f32 may lose by the scale of a split on a device with matrix units: contract, item 2. */
static inline double check_range(const check_request *request, const check_run *run, const double *most,
                                 const oracle_value *v, const int64_t index[5])
{
    if (request->desc.device != CONVT3D_DEVICE_CUDA || request->desc.dtype != CONVT3D_F32 ||
        request->desc.math != CONVT3D_ACCURATE || !most) return 0;
    return ldexp((double)v->products, -48) * most[index[0]] * most[run->problem.in[0] + index[1]];
}

/* check_range() of every judged output; NULL where all are 0. */
static inline double *check_ranges(const check_request *request, const check_run *run, const double *most)
{
    double *ranges = most ? (double *)malloc((size_t)(run->count + 1) * sizeof *ranges) : NULL;
    int64_t j, index[5];
    for (j = 0; ranges && j < run->count; j++) {
        oracle_unravel(run->problem.out, run->list ? run->list[j] : j, index);
        ranges[j] = check_range(request, run, most, &run->values[j], index);
    }
    return ranges;
}

/* Judges the outputs; keeps the worst by error/bound and the RMS. */
static inline void check_judge(const check_request *request, const check_run *run, check_result *result)
{
    const oracle_problem *p = &run->problem;
    double *most = request->desc.device == CONVT3D_DEVICE_CUDA ? check_largest(p) : NULL;
    const double u = oracle_format_of(p->dtype).u;
    double worst = -1, squares = 0, *ranges = check_ranges(request, run, most);
    oracle_point *points = run->op_count ? check_points(request, run, ranges, result) : NULL;
    int64_t j, index[5], scored = 0, failed = 0;
    if (run->op_count && !points) check_fail(result, "out of memory for the oracle of this case");
    for (j = 0; j < (run->op_count && !points ? 0 : run->count); j++) {
        const oracle_value *v = run->values + j;
        oracle_verdict verdict;
        double y, ratio;
        oracle_unravel(p->out, run->list ? run->list[j] : j, index);
        y = oracle_load(p->dtype, run->y.data, oracle_offset(index, p->y_stride));
        verdict = points ? oracle_judge_point(&points[j], y, p->dtype)
                         : oracle_judge(v, y, p->dtype, request->desc.math, request->exact, ranges ? ranges[j] : 0);
        failed += !verdict.pass;
        ratio = verdict.pass ? verdict.error > 0 ? verdict.error / verdict.bound : 0
                             : verdict.error > 0 && verdict.bound > 0 ? verdict.error / verdict.bound : INFINITY;
        if (!verdict.pass && ratio <= 1) ratio = INFINITY;
        if (ratio > worst) {
            worst = ratio;
            memcpy(result->worst, index, sizeof index);
            result->got = y;
            result->want = verdict.want;
            result->error = verdict.error;
            result->bound = verdict.bound;
        }
        if (!points && v->products > 0 && !v->special && v->sum > 0 && isfinite(v->sum) && isfinite(y)) {
            double e = ((y - v->high) - v->low) / (u * v->sum);
            squares += e * e;
            scored++;
        }
    }
    free(most);
    free(ranges);
    free(points);
    result->checked = run->count;
    result->rms = scored ? sqrt(squares / (double)scored) : 0;
    if (!failed) return;
    result->pass = 0;
    snprintf(result->message, sizeof result->message,
             "%lld of %lld outputs wrong; worst y[%lld,%lld,%lld,%lld,%lld] = %.9g, want %.9g, error %.3g, bound %.3g",
             (long long)failed, (long long)run->count, (long long)result->worst[0], (long long)result->worst[1],
             (long long)result->worst[2], (long long)result->worst[3], (long long)result->worst[4], result->got,
             result->want, result->error, result->bound);
}

/* Every output must have been written, and nothing else. Overwrites y. */
static inline void check_writes(check_run *run, check_result *result)
{
    const oracle_problem *p = &run->problem;
    check_elements e = {NULL, run, {0, 0, 0}, 0, INT64_MAX};
    int64_t changed;
    oracle_parallel(p->y_count, check_clear_y, &e);
    changed = check_buffer_changed(&run->y, CHECK_SENTINEL);
    if (e.unwritten) {
        oracle_unravel(p->out, e.first, result->worst);
        result->pass = 0;
        snprintf(result->message, sizeof result->message,
                 "%lld of %lld outputs never written, first [%lld,%lld,%lld,%lld,%lld]",
                 (long long)e.unwritten, (long long)p->y_count, (long long)result->worst[0],
                 (long long)result->worst[1], (long long)result->worst[2], (long long)result->worst[3],
                 (long long)result->worst[4]);
    } else if (changed != INT64_MAX) {
        result->pass = 0;
        snprintf(result->message, sizeof result->message, "byte %lld of y's buffer, which is no output, was written",
                 (long long)changed);
    }
}

static inline int check_plan(const check_request *request, check_run *run, check_result *result)
{
    convt3d_plan plan;
    convt3d_info info;
    convt3d_error error;
    int64_t out[3];
    int a;
    memset(&error, 0, sizeof error);
    result->status = convt3d_plan_init(&plan, &request->desc, CONVT3D_FORWARD, &error);
    if (result->status == CONVT3D_OK) result->status = convt3d_plan_info(&plan, &info, &error);
    if (result->status == CONVT3D_OK) result->status = convt3d_output_size(&request->desc, out, &error);
    if (result->status != CONVT3D_OK) return check_fail(result, error.text);
    memcpy(result->kernel, info.kernel, sizeof result->kernel);
    if (!oracle_init(&run->problem, &request->desc)) return check_fail(result, "sizes do not fit 64 bits");
    for (a = 0; a < 3; a++)
        if (out[a] != run->problem.out[2 + a] || info.out_size[a] != out[a])
            return check_fail(result, "convt3d_output_size disagrees with the formula");
    run->size = oracle_format_of(request->desc.dtype).size;
    result->total = run->problem.y_count;
    return 1;
}

static inline void check_case(const check_request *request, check_result *result)
{
    check_run run;
    convt3d_io io;
    convt3d_error error;
    memset(&run, 0, sizeof run);
    memset(&io, 0, sizeof io);
    memset(&error, 0, sizeof error);
    memset(result, 0, sizeof *result);
    result->pass = 1;
    if (!check_plan(request, &run, result)) return;
    if (!check_make_inputs(request, &run, &io) || !check_make_output(&run, &io)) {
        check_fail(result, "out of memory for the data of this case");
        check_free(&run);
        return;
    }
    run.io = io;
    if ((result->status = convt3d(&request->desc, &io, &error)) != CONVT3D_OK) {
        check_fail(result, error.text);
    } else if (!check_make_values(request, &run, io.w)) {
        check_fail(result, "out of memory for the oracle of this case");
    } else {
        check_judge(request, &run, result);
        check_writes(&run, result);
    }
    check_free(&run);
}

#endif
