/* check_backward.h - one case of the backward pass: make the data, run the forward pass where a list needs it, run
 * convt3d_backward(), let the oracle judge every gradient. Used by tests/ and by `convt3d check --pass backward`.
 *
 * Promise: pass = 1 means that the gradients looked at are within the contract's bound (exact data: equal), that all
 * their elements were written and not one byte beside them, and that no input changed. Where there is no list, the data
 * are those of check.h and dy is another tensor of the kind; x and w have the seed's real kinds, and integers small
 * enough for all three sums. Gradients whose bit is in desc.accumulate are added to what the seed puts there.
 */
#ifndef CONVT3D_TESTS_CHECK_BACKWARD_H
#define CONVT3D_TESTS_CHECK_BACKWARD_H

#include "check.h"
#include "oracle_backward.h"

enum { BACKWARD_DX, BACKWARD_DW, BACKWARD_DBIAS, BACKWARD_D_RESIDUAL, BACKWARD_D_SCALE, BACKWARD_D_SHIFT,
       BACKWARD_TENSORS = 3 + 3 * CONVT3D_MAX_OPS, BACKWARD_DY = 3 };

/* A gradient. wanted[j] is what element list[j] must be; list NULL: element j. */
typedef struct backward_tensor {
    int kind, entry;                    /* entry of the list, or -1 */
    int32_t bit, dtype, bytes;
    int64_t size[5], stride[5], count, judged, *list;
    check_buffer buffer;
    oracle_gradient *wanted;
} backward_tensor;

typedef struct backward_run {
    check_request request;
    check_run forward;                  /* the problem, x, w, bias, y and the list's tensors */
    check_buffer dy, saved;
    int64_t dy_stride[5], limit[4];
    convt3d_io io;                      /* of the backward call, but for the gradients */
    oracle_backward oracle;
    oracle_list list;
    backward_tensor tensor[BACKWARD_TENSORS];
    int tensors;
    double *most;                       /* largest |x| and |g| of each sample, |w| of each input channel */
    uint64_t inputs;                    /* sum over the bytes of what may only be read */
} backward_run;

static inline void backward_free(backward_run *run)
{
    int i;
    for (i = 0; i < run->tensors; i++) {
        free(run->tensor[i].buffer.memory);
        free(run->tensor[i].wanted);
        free(run->tensor[i].list);
    }
    free(run->dy.memory);
    free(run->saved.memory);
    free(run->most);
    oracle_list_free(&run->list);
    check_free(&run->forward);
}

/* ---- data ---- */

/* Largest magnitudes of integer x, w, bias and dy such that all three sums stay below the limit. */
static inline void backward_limits(const oracle_problem *p, int32_t math, uint64_t seed, int64_t limit[4])
{
    const int64_t operand = p->dtype == CONVT3D_BF16 ? 256 : p->dtype == CONVT3D_F64 ? (int64_t)1 << 24 : 2048;
    const int wide = (p->dtype == CONVT3D_F32 && math == CONVT3D_ACCURATE) || p->dtype == CONVT3D_F64;
    const int f16 = p->dtype == CONVT3D_F16;
    const int64_t total = (int64_t)1 << (p->dtype == CONVT3D_F64 ? 52 : f16 && seed % 5 == 0 ? 15 : 23);
    int64_t dx = p->out[1] / p->groups, dw = p->in[0], dbias = p->out[0], k, share, root, large, top = operand;
    int kind = (int)(seed % 5), a;
    for (a = 0; a < 3; a++) {
        dx = oracle_mul(dx, p->kernel[a]);
        dw = oracle_mul(dw, p->in[2 + a]);
        dbias = oracle_mul(dbias, p->out[2 + a]);
    }
    k = dx > dw ? dx : dw;
    if (dbias > k) k = dbias;
    share = total / (k > 0 ? k : 1);
    root = (int64_t)sqrt((double)share);
    if (kind > 2 && wide) { top = (int64_t)1 << 20; kind -= 2; }
    large = share < top ? share : top;
    if (root > operand) root = operand;
    limit[CHECK_X] = limit[CHECK_W] = kind == 1 ? 1 : kind == 2 ? large : root;
    limit[BACKWARD_DY] = kind == 1 ? large : kind == 2 ? 1 : root;
    limit[CHECK_BIAS] = operand;
    for (a = 0; a < 4; a++) if (limit[a] < 1) limit[a] = 1;
}

static inline double backward_value(const backward_run *run, int tensor, int64_t i)
{
    const check_request *r = &run->request;
    return r->exact ? check_exact_value(run->limit, r->seed, tensor, (uint64_t)i)
                    : check_real_value(run->forward.problem.dtype, r->seed, tensor, (uint64_t)i);
}

typedef struct backward_filling {
    const backward_run *run;
    unsigned char *data;
    const int64_t *size, *stride;
    int tensor;
} backward_filling;

static inline void backward_fill(void *context, int64_t begin, int64_t end)
{
    const backward_filling *f = (const backward_filling *)context;
    int64_t at[5], i;
    oracle_unravel(f->size, begin, at);
    for (i = begin; i < end; i++, oracle_step(f->size, at))
        oracle_store(f->run->forward.problem.dtype, f->data, oracle_offset(at, f->stride),
                     backward_value(f->run, f->tensor, i));
}

/* A tensor of these values; what lies between its elements is NaN, and elements that share a place get the last. */
static inline void *backward_make_input(backward_run *run, check_buffer *b, int tensor, const int64_t size[5],
                                        const int64_t stride[5])
{
    backward_filling f = {run, NULL, size, stride, tensor};
    int64_t count = oracle_count(size);
    int a, shared = 0;
    if (!check_buffer_make(b, oracle_span(size, stride), run->forward.size, 0xFF)) return NULL;
    f.data = b->data;
    for (a = 0; a < 5; a++) shared |= stride[a] == 0 && size[a] > 1;
    if (!shared) oracle_parallel(count, backward_fill, &f);
    else if (count > 0) backward_fill(&f, 0, count);        /* in order: the last one stays */
    return b->data;
}

static inline int backward_make_inputs(backward_run *run, convt3d_io *io)
{
    oracle_problem *p = &run->forward.problem;
    const convt3d_desc *d = &run->request.desc;
    int64_t w[5] = {0, 0, 0, 0, 0}, dense[5], bias[5] = {1, 0, 1, 1, 1}, one[5] = {0, 1, 0, 0, 0};
    w[0] = p->in[1];
    w[1] = p->out[1] / p->groups;
    memcpy(w + 2, p->kernel, sizeof p->kernel);
    oracle_dense_strides(CONVT3D_NCDHW, w, dense);
    bias[1] = p->out[1];
    backward_limits(p, d->math, run->request.seed, run->limit);
    memcpy(run->dy_stride, d->dy_stride, sizeof run->dy_stride);
    if (oracle_all_zero(d->dy_stride)) oracle_dense_strides(p->layout, p->out, run->dy_stride);
    p->x = io->x = backward_make_input(run, &run->forward.x, CHECK_X, p->in, p->x_stride);
    io->w = backward_make_input(run, &run->forward.w, CHECK_W, w, dense);
    p->bias = io->bias = backward_make_input(run, &run->forward.bias, CHECK_BIAS, bias, one);
    io->dy = backward_make_input(run, &run->dy, BACKWARD_DY, p->out, run->dy_stride);
    return io->x && io->w && io->bias && io->dy && check_make_ops(&run->request, &run->forward, io) &&
           check_make_output(&run->forward, io) && oracle_decode_w(p, io->w);
}

/* Every normalisation keeps its mean and rstd for the backward pass; running statistics are of no concern here. */
static inline int backward_make_statistics(backward_run *run, convt3d_io *io)
{
    int i, made = 1;
    for (i = 0; i < run->forward.op_count; i++) {
        const convt3d_op *op = &run->request.desc.ops[i];
        int64_t sets = op->groups ? run->forward.problem.out[0] * op->groups : run->forward.problem.out[1];
        io->ops[i].running_mean = io->ops[i].running_var = NULL;
        if (!(convt3d_op_uses(op->kind) & CONVT3D_USES_STATISTICS) || io->ops[i].mean) continue;
        made &= (io->ops[i].mean = check_make_vector(&run->request, &run->forward, i, CHECK_MEAN, sets)) != NULL;
        made &= (io->ops[i].rstd = check_make_vector(&run->request, &run->forward, i, CHECK_RSTD, sets)) != NULL;
    }
    return made;
}

/* The forward pass of a list, which leaves y, saved and the statistics. */
static inline convt3d_status backward_run_forward(backward_run *run, convt3d_io *io, convt3d_error *error)
{
    convt3d_desc d = run->request.desc;
    convt3d_plan plan;
    convt3d_info info;
    convt3d_status status;
    d.force[0] = 0;                     /* it names a kernel of the backward pass */
    run->list.saves = oracle_saves(d.ops, d.backward);
    if ((status = convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, error)) != CONVT3D_OK) return status;
    if ((status = convt3d_plan_info(&plan, &info, error)) != CONVT3D_OK) return status;
    if (info.saves != run->list.saves) {
        snprintf(error->text, sizeof error->text, "info.saves is %d, the manual's rule says %d", info.saves,
                 run->list.saves);
        return CONVT3D_STATUS_COUNT;
    }
    if (info.saves == CONVT3D_SAVES_CONVOLUTION) {
        if (!check_buffer_make(&run->saved, run->forward.problem.y_count, run->forward.size, 0xFF))
            return CONVT3D_OUT_OF_MEMORY;
        io->saved = run->saved.data;
    }
    return convt3d(&d, io, error);
}

/* ---- the gradients ---- */

static inline void backward_add_tensor(backward_run *run, int kind, int entry)
{
    static const int32_t bits[6] = {CONVT3D_BACKWARD_X, CONVT3D_BACKWARD_W, CONVT3D_BACKWARD_BIAS,
                                    CONVT3D_BACKWARD_OPS, CONVT3D_BACKWARD_OPS, CONVT3D_BACKWARD_OPS};
    const oracle_problem *p = &run->forward.problem;
    const int64_t *dx_stride = run->request.desc.dx_stride;
    backward_tensor *t = &run->tensor[run->tensors++];
    int a, layout = kind == BACKWARD_DX || kind == BACKWARD_D_RESIDUAL ? p->layout : CONVT3D_NCDHW;
    t->kind = kind;
    t->entry = entry;
    t->bit = bits[kind];
    t->dtype = kind >= BACKWARD_D_SCALE && p->dtype != CONVT3D_F64 ? CONVT3D_F32 : p->dtype;
    t->bytes = oracle_format_of(t->dtype).size;
    for (a = 0; a < 5; a++) t->size[a] = kind == BACKWARD_DX ? p->in[a] : kind == BACKWARD_D_RESIDUAL ? p->out[a] : 1;
    if (kind == BACKWARD_DW) {
        t->size[0] = p->in[1];
        t->size[1] = p->out[1] / p->groups;
        memcpy(t->size + 2, p->kernel, sizeof p->kernel);
    } else if (kind != BACKWARD_DX && kind != BACKWARD_D_RESIDUAL) {
        t->size[1] = p->out[1];
    }
    oracle_dense_strides(layout, t->size, t->stride);
    if (kind == BACKWARD_DX && !oracle_all_zero(dx_stride)) memcpy(t->stride, dx_stride, sizeof t->stride);
    t->count = oracle_count(t->size);
}

static inline void backward_add_tensors(backward_run *run)
{
    int i;
    for (i = BACKWARD_DX; i <= BACKWARD_DBIAS; i++) backward_add_tensor(run, i, -1);
    for (i = 0; i < run->forward.op_count; i++) {
        int32_t uses = convt3d_op_uses(run->request.desc.ops[i].kind);
        if (uses & CONVT3D_USES_RESIDUAL) backward_add_tensor(run, BACKWARD_D_RESIDUAL, i);
        if (uses & CONVT3D_USES_SCALE) backward_add_tensor(run, BACKWARD_D_SCALE, i);
        if (uses & CONVT3D_USES_SCALE) backward_add_tensor(run, BACKWARD_D_SHIFT, i);
    }
}

/* Where an io keeps the gradient. */
static inline void **backward_pointer(convt3d_io *io, const backward_tensor *t)
{
    switch (t->kind) {
    case BACKWARD_DX:    return &io->dx;
    case BACKWARD_DW:    return &io->dw;
    case BACKWARD_DBIAS: return &io->dbias;
    case BACKWARD_D_RESIDUAL: return &io->ops[t->entry].d_residual;
    case BACKWARD_D_SCALE:    return &io->ops[t->entry].d_scale;
    default:                  return &io->ops[t->entry].d_shift;
    }
}

/* What element i holds before a call that adds to it. */
static inline double backward_old(const backward_run *run, const backward_tensor *t, int64_t i)
{
    uint64_t salt = run->request.seed * 97 + (uint64_t)(t->kind * 8 + t->entry);
    if (!(run->request.desc.accumulate & t->bit)) return 0;
    if (run->request.exact) return (double)(oracle_hash(salt, (uint64_t)i) % 501) - 250;
    return oracle_round(t->dtype, check_normal(salt, (uint64_t)i));
}

/* Poison, or what is to be added to, in the elements; the sentinel beside them. */
static inline void backward_pose(backward_run *run)
{
    int k;
    for (k = 0; k < run->tensors; k++) {
        backward_tensor *t = &run->tensor[k];
        int64_t at[5] = {0, 0, 0, 0, 0}, i;
        if (t->buffer.bytes) memset(t->buffer.data, CHECK_SENTINEL, t->buffer.bytes);
        for (i = 0; i < t->count; i++, oracle_step(t->size, at)) {
            int64_t offset = oracle_offset(at, t->stride);
            if (run->request.desc.accumulate & t->bit)
                oracle_store(t->dtype, t->buffer.data, offset, backward_old(run, t, i));
            else check_set_poison(t->buffer.data, offset, t->dtype, t->bytes);
        }
    }
}

static inline uint64_t backward_sum_bytes(const check_buffer *b, uint64_t sum)
{
    size_t i;
    uint64_t word;
    for (i = 0; i + 8 <= b->bytes; i += 8) {
        memcpy(&word, b->data + i, 8);
        sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
        sum ^= sum >> 29;
    }
    for (; i < b->bytes; i++) sum = (sum ^ b->data[i]) * 0x100000001B3u;
    return sum;
}

static inline uint64_t backward_inputs(const backward_run *run)
{
    uint64_t sum = backward_sum_bytes(&run->forward.x, 1);
    int i, k;
    sum = backward_sum_bytes(&run->forward.w, sum);
    sum = backward_sum_bytes(&run->dy, sum);
    sum = backward_sum_bytes(&run->saved, sum);
    if (run->forward.op_count) sum = backward_sum_bytes(&run->forward.y, sum);
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = 0; k < CHECK_TENSORS; k++) sum = backward_sum_bytes(&run->forward.ops[i][k], sum);
    return sum;
}

/* Data, the forward pass and poisoned gradients; after any answer the run is to be freed. A desc with a list must have
 * desc.backward set. */
static inline convt3d_status backward_make(backward_run *run, const check_request *request, convt3d_error *error)
{
    convt3d_status status = CONVT3D_OK;
    int i, made;
    memset(run, 0, sizeof *run);
    memset(error, 0, sizeof *error);
    run->request = *request;
    run->forward.size = oracle_format_of(request->desc.dtype).size;
    snprintf(error->text, sizeof error->text, "out of memory for the data of this case");
    if (!oracle_init(&run->forward.problem, &request->desc)) return CONVT3D_OUT_OF_MEMORY;
    made = backward_make_inputs(run, &run->io) && backward_make_statistics(run, &run->io);
    backward_add_tensors(run);
    for (i = 0; made && i < run->tensors; i++) {
        backward_tensor *t = &run->tensor[i];
        made = check_buffer_make(&t->buffer, oracle_span(t->size, t->stride), t->bytes, CHECK_SENTINEL);
    }
    if (!made) return CONVT3D_OUT_OF_MEMORY;
    if (run->forward.op_count) status = backward_run_forward(run, &run->io, error);
    run->inputs = backward_inputs(run);
    run->forward.io = run->io;
    if (run->list.saves != CONVT3D_SAVES_OUTPUT) run->io.y = NULL;
    run->io.bias = NULL;
    backward_pose(run);
    return status;
}

/* ---- the oracle ---- */

static inline void backward_wanted(const backward_run *run, const backward_tensor *t, int64_t i, oracle_gradient *e)
{
    int64_t at[5];
    oracle_unravel(t->size, i, at);
    *e = oracle_gradient_of(backward_old(run, t, i));
    switch (t->kind) {
    case BACKWARD_DX:         oracle_dx(&run->oracle, at, e); break;
    case BACKWARD_DW:         oracle_dw(&run->oracle, at, e); break;
    case BACKWARD_DBIAS:      oracle_dbias(&run->oracle, at, e); break;
    case BACKWARD_D_RESIDUAL: oracle_d_residual(&run->list, t->entry, i, e); break;
    default: oracle_d_vector(&run->list, t->entry, at[1], t->kind == BACKWARD_D_SHIFT, e);
    }
}

/* Products that enter one element. */
static inline double backward_products(const backward_run *run, const backward_tensor *t)
{
    const oracle_problem *p = &run->forward.problem;
    double taps = (double)p->kernel[0] * (double)p->kernel[1] * (double)p->kernel[2];
    double in = (double)p->in[0] * (double)p->in[2] * (double)p->in[3] * (double)p->in[4];
    if (t->kind == BACKWARD_DX) return taps * (double)(p->out[1] / p->groups);
    return t->kind == BACKWARD_DW ? in : t->kind == BACKWARD_D_RESIDUAL ? 1 : (double)p->y_count / (double)p->out[1];
}

/* Which elements are judged: all, or as many seeded ones as the budget of products allows. */
static inline int backward_choose(const backward_run *run, backward_tensor *t, double budget)
{
    double each = backward_products(run, t), most = budget / (each > 1 ? each : 1);
    uint64_t counter = 0;
    int64_t j;
    t->judged = t->count;
    if ((double)t->count > (most > 32 ? most : 32) || t->count > CHECK_FULL_OUTPUTS) {
        t->judged = (int64_t)(most > 4096 ? 4096 : most > 32 ? most : 32);
        t->list = (int64_t *)malloc((size_t)t->judged * sizeof *t->list);
        if (!t->list) return 0;
        for (j = 0; j < t->judged; j++)
            t->list[j] = j == 0 ? 0 : j == 1 ? t->count - 1 : oracle_below(run->request.seed, &counter, t->count);
    }
    t->wanted = (oracle_gradient *)malloc((size_t)(t->judged + 1) * sizeof *t->wanted);
    return t->wanted != NULL;
}

/* Largest finite magnitudes, for what a scaled split may lose on a device with matrix units. */
static inline int backward_largest(backward_run *run)
{
    const oracle_problem *p = &run->forward.problem;
    int64_t at[5] = {0, 0, 0, 0, 0}, i, count = oracle_count(p->in);
    double *most = run->most = (double *)calloc((size_t)(2 * p->in[0] + p->in[1] + 1), sizeof *most), v;
    if (!most) return 0;
    for (i = 0; i < count; i++, oracle_step(p->in, at)) {
        v = fabs(oracle_load(p->dtype, p->x, oracle_offset(at, p->x_stride)));
        if (isfinite(v) && v > most[at[0]]) most[at[0]] = v;
    }
    for (memset(at, 0, sizeof at), i = 0; i < p->y_count; i++, oracle_step(p->out, at)) {
        v = fabs(oracle_g(&run->oracle, at).value);
        if (isfinite(v) && v > most[p->in[0] + at[0]]) most[p->in[0] + at[0]] = v;
    }
    for (i = 0; i < p->w_count; i++) {
        int64_t ic = i / (p->w_count / p->in[1]);
        v = fabs(p->w[i]);
        if (isfinite(v) && v > most[2 * p->in[0] + ic]) most[2 * p->in[0] + ic] = v;
    }
    return 1;
}

/* What the gradients must be, with about `budget` products looked at for each. Returns 0 when memory is short. */
static inline int backward_expect(backward_run *run, double budget)
{
    int k;
    run->list.p = run->oracle.p = &run->forward.problem;
    run->list.ops = run->request.desc.ops;
    run->list.tensors = run->io.ops;
    run->list.count = run->forward.op_count;
    run->list.saved = run->io.saved;
    run->list.y = run->forward.y.data;
    run->list.dy = run->oracle.dy = run->dy.data;
    memcpy(run->list.dy_stride, run->dy_stride, sizeof run->dy_stride);
    memcpy(run->oracle.dy_stride, run->dy_stride, sizeof run->dy_stride);
    if (run->list.count && !oracle_back(&run->list)) return 0;
    run->oracle.g = run->list.count ? run->list.g : NULL;
    if (run->request.desc.device == CONVT3D_DEVICE_CUDA && !backward_largest(run)) return 0;
    for (k = 0; k < run->tensors; k++) {
        backward_tensor *t = &run->tensor[k];
        int64_t j;
        if (!backward_choose(run, t, budget)) return 0;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 16) if (backward_products(run, t) * (double)t->judged > 1e5)
#endif
        for (j = 0; j < t->judged; j++) backward_wanted(run, t, t->list ? t->list[j] : j, &t->wanted[j]);
    }
    return 1;
}

/* ---- one call ---- */

/* wanted: bit k asks for tensor k of the run. force NULL: as the request says. */
static inline convt3d_status backward_call(backward_run *run, uint32_t wanted, const char *force, convt3d_error *error)
{
    convt3d_desc d = run->request.desc;
    convt3d_io io = run->io;
    int k;
    if (force) snprintf(d.force, sizeof d.force, "%s", force);
    for (k = 0; k < run->tensors; k++)
        if (wanted >> k & 1) *backward_pointer(&io, &run->tensor[k]) = run->tensor[k].buffer.data;
    return convt3d_backward(&d, &io, error);
}

/* What default f32 may lose by the scale of a split, as check_range() of the forward pass. */
static inline double backward_range(const backward_run *run, const backward_tensor *t, const int64_t at[5],
                                    int64_t products)
{
    const oracle_problem *p = &run->forward.problem;
    double most = 0;
    int64_t n;
    if (!run->most || p->dtype != CONVT3D_F32 || run->request.desc.math != CONVT3D_ACCURATE) return 0;
    if (t->kind == BACKWARD_DX) most = run->most[p->in[0] + at[0]] * run->most[2 * p->in[0] + at[1]];
    for (n = 0; n < p->in[0] && t->kind == BACKWARD_DW; n++) most = fmax(most, run->most[n] * run->most[p->in[0] + n]);
    return ldexp((double)products * most, -48);
}

static const char *const backward_names[6] = {"dx", "dw", "dbias", "d_residual", "d_scale", "d_shift"};

static inline void backward_complain(check_result *result, const backward_tensor *t, const char *what, int64_t count)
{
    const int64_t *at = result->worst;
    char name[48];
    result->pass = 0;
    if (t->entry < 0) snprintf(name, sizeof name, "%s", backward_names[t->kind]);
    else snprintf(name, sizeof name, "%s of entry %d", backward_names[t->kind], t->entry);
    snprintf(result->message, sizeof result->message,
             "%s: %lld %s; worst [%lld,%lld,%lld,%lld,%lld] = %.9g, want %.9g, error %.3g, bound %.3g", name,
             (long long)count, what, (long long)at[0], (long long)at[1], (long long)at[2], (long long)at[3],
             (long long)at[4], result->got, result->want, result->error, result->bound);
}

/* Judges one gradient; keeps the worst by error/bound and the RMS over all that have been judged with this result. */
static inline void backward_judge_tensor(backward_run *run, backward_tensor *t, check_result *result)
{
    const double u = oracle_format_of(t->dtype).u;
    double worst = -1, squares = 0;
    int64_t j, at[5], failed = 0, scored = 0;
    check_result own = *result;
    for (j = 0; j < t->judged; j++) {
        const oracle_gradient *e = &t->wanted[j];
        oracle_verdict verdict;
        double got, ratio;
        oracle_unravel(t->size, t->list ? t->list[j] : j, at);
        got = oracle_load(t->dtype, t->buffer.data, oracle_offset(at, t->stride));
        verdict = oracle_judge_gradient(e, got, t->dtype, run->request.desc.math, run->request.exact,
                                        backward_range(run, t, at, e->v.products));
        failed += !verdict.pass;
        ratio = !verdict.pass ? INFINITY : verdict.error > 0 ? verdict.error / verdict.bound : 0;
        if (ratio > worst) {
            worst = ratio;
            memcpy(own.worst, at, sizeof at);
            own.got = got; own.want = verdict.want; own.error = verdict.error; own.bound = verdict.bound;
        }
        if (e->v.products > 0 && !e->v.special && e->slack == 0 && e->v.sum > 0 && isfinite(e->v.sum) &&
            isfinite(got)) {
            double off = ((got - e->v.high) - e->v.low) / (u * e->v.sum);
            squares += off * off;
            scored++;
        }
    }
    own.gradient = backward_names[t->kind];
    own.checked = result->checked + t->judged;
    own.total = result->total + t->count;
    own.rms = scored ? fmax(result->rms, sqrt(squares / (double)scored)) : result->rms;
    *result = own;
    if (failed) backward_complain(result, t, "wrong", failed);
}

/* Every element must have been written (asked 1) or none (0), and nothing beside them. Overwrites the buffer. */
static inline void backward_writes(backward_run *run, backward_tensor *t, int asked, check_result *result)
{
    int64_t at[5] = {0, 0, 0, 0, 0}, i, wrong = 0;
    int adds = (run->request.desc.accumulate & t->bit) != 0;
    for (i = 0; i < t->count; i++, oracle_step(t->size, at)) {
        int64_t offset = oracle_offset(at, t->stride);
        int as_before = adds ? oracle_load(t->dtype, t->buffer.data, offset) == backward_old(run, t, i)
                             : check_is_poison(t->buffer.data, offset, t->dtype, t->bytes);
        if ((asked ? as_before && !adds : !as_before) && wrong++ == 0) memcpy(result->worst, at, sizeof at);
        memset(t->buffer.data + offset * t->bytes, CHECK_SENTINEL, (size_t)t->bytes);
    }
    if (wrong) backward_complain(result, t, asked ? "never written" : "written unasked", wrong);
    else if (check_buffer_changed(&t->buffer, CHECK_SENTINEL) != INT64_MAX)
        backward_complain(result, t, "bytes beside its elements written", 1);
}

/* After a call for `wanted`: judges, and looks at what may not have changed. The buffers are posed anew. */
static inline void backward_judge(backward_run *run, uint32_t wanted, check_result *result)
{
    int k;
    for (k = 0; k < run->tensors && result->pass; k++) {
        if (wanted >> k & 1) backward_judge_tensor(run, &run->tensor[k], result);
        if (result->pass) backward_writes(run, &run->tensor[k], (int)(wanted >> k & 1), result);
    }
    if (result->pass && backward_inputs(run) != run->inputs) check_fail(result, "an input was written");
    backward_pose(run);
}

/* One call with a kernel by force, judged. */
static inline void backward_check(backward_run *run, uint32_t wanted, const char *force, check_result *result)
{
    convt3d_error error;
    memset(result, 0, sizeof *result);
    result->pass = 1;
    error.text[0] = 0;
    result->status = backward_call(run, wanted, force, &error);
    if (result->status != CONVT3D_OK) {
        check_fail(result, error.text);
        backward_pose(run);
        return;
    }
    backward_judge(run, wanted, result);
}

/* Every gradient of one problem. */
static inline void backward_case(const check_request *request, check_result *result)
{
    backward_run run;
    convt3d_error error;
    memset(result, 0, sizeof *result);
    result->status = backward_make(&run, request, &error);
    if (result->status != CONVT3D_OK) check_fail(result, error.text);
    else if (backward_expect(&run, CHECK_FULL_PRODUCTS)) backward_check(&run, ~0u, NULL, result);
    else check_fail(result, "out of memory for the oracle of this case");
    backward_free(&run);
}

#endif
