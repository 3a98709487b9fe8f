/* oracle_ops.h - what the list after the convolution must make of each output, and how far from it a kernel may land.
 *
 * Every entry is PyTorch's definition in double on the exact value. A kernel's value v~ lies within `bound` of v; an
 * entry f with Lipschitz constant L makes of it |f(v~) - f(v)| <= L*bound, and its own evaluation adds at most
 * 8u*(|f(v)| + L*|v|): an argument perturbed by a few roundings, a result by a few units of its last place.
 * A normalisation of values within d of theirs moves the mean by at most d and, the deviation being 1-Lipschitz in the
 * mean square, sqrt(variance + eps) by at most d; see oracle_norm_set().
 */
#ifndef CONVT3D_TESTS_ORACLE_OPS_H
#define CONVT3D_TESTS_ORACLE_OPS_H

#include "oracle.h"

typedef struct oracle_point { double value, bound; } oracle_point;

static inline double oracle_clip(double v, double low, double high)
{
    if (isnan(v)) return v;
    return fmin(fmax(v, low), high);
}

/* f(v) of an entry that looks at nothing else; *slope is its Lipschitz constant. */
static inline double oracle_function(int32_t kind, double a, double b, double v, double *slope)
{
    const double root_half = sqrt(0.5), pi = 3.14159265358979323846;
    *slope = 1;
    switch (kind) {
    case CONVT3D_OP_AFFINE:      *slope = fabs(a); return a * v + b;
    case CONVT3D_OP_CLAMP:       return oracle_clip(v, a, b);
    case CONVT3D_OP_RELU:        return isnan(v) ? v : fmax(v, 0);
    case CONVT3D_OP_RELU6:       return oracle_clip(v, 0, 6);
    case CONVT3D_OP_LEAKY_RELU:  *slope = fmax(1, fabs(a)); return v > 0 ? v : a * v;
    case CONVT3D_OP_SILU:        *slope = 1.1; return v / (1 + exp(-v));
    case CONVT3D_OP_SIGMOID:     *slope = 0.25; return 1 / (1 + exp(-v));
    case CONVT3D_OP_TANH:        return tanh(v);
    case CONVT3D_OP_GELU:        *slope = 1.13; return v * 0.5 * (1 + erf(v * root_half));
    case CONVT3D_OP_GELU_TANH:   *slope = 1.13; return 0.5 * v * (1 + tanh(sqrt(2 / pi) * (v + 0.044715 * v * v * v)));
    case CONVT3D_OP_HARDSWISH:   *slope = 1.5; return v * oracle_clip(v + 3, 0, 6) / 6;
    case CONVT3D_OP_HARDSIGMOID: *slope = 1.0 / 6; return oracle_clip(v + 3, 0, 6) / 6;
    case CONVT3D_OP_ELU:         *slope = fmax(1, fabs(a)); return v > 0 ? v : a * expm1(v);
    case CONVT3D_OP_SOFTPLUS:    return a * v > b ? v : a * v > 700 ? v : log1p(exp(a * v)) / a;
    case CONVT3D_OP_MISH:        *slope = 1.09; return v * tanh(v > 700 ? v : log1p(exp(v)));
    default:                     return NAN;
    }
}

/* One entry on one point. r: the residual; scale, shift: of the channel. */
static inline void oracle_apply(const convt3d_op *op, double r, double scale, double shift, double u,
                                oracle_point *point)
{
    double v = point->value, slope = 1, own, f;
    switch (op->kind) {
    case CONVT3D_OP_ADD:            f = v + r; own = 2 * u * (fabs(v) + fabs(r)); break;
    case CONVT3D_OP_MULTIPLY:       f = v * r; slope = fabs(r); own = 2 * u * fabs(f); break;
    case CONVT3D_OP_CHANNEL_AFFINE: f = v * scale + shift; slope = fabs(scale);
                                    own = 4 * u * (fabs(v * scale) + fabs(shift)); break;
    default:
        f = oracle_function(op->kind, op->a, op->b, v, &slope);
        own = 8 * u * (fabs(f) + (isfinite(v) ? slope * fabs(v) : 0));
        if (op->kind == CONVT3D_OP_AFFINE) own = 4 * u * (fabs(op->a * v) + fabs(op->b));
        /* softplus jumps by log(1 + exp(-b))/a where the threshold is crossed */
        if (op->kind == CONVT3D_OP_SOFTPLUS && fabs(op->a * v - op->b) <= op->a * point->bound + 8 * u * fabs(op->b))
            own += log1p(exp(-op->b)) / op->a;
        if (op->kind == CONVT3D_OP_CLAMP || op->kind == CONVT3D_OP_RELU6) own = 2 * u * fabs(f);
    }
    own += 16 * (u > 1e-10 ? ldexp(1, -149) : ldexp(1, -1074));
    point->value = f;
    if (!isfinite(f)) point->bound = isinf(point->bound) ? INFINITY : 0;
    else point->bound = isfinite(point->bound) && isfinite(v) ? slope * point->bound + own
                      : isfinite(point->bound) ? own : INFINITY;
}

typedef struct oracle_norm { double mean, mean_bound, rstd, rstd_bound, variance, count; } oracle_norm;

/* Mean and variance of the points that belong to a set, with how far a kernel's may lie from them. */
static inline oracle_norm oracle_norm_set(const oracle_point *points, const int64_t *members, int64_t count, double eps,
                                          double u)
{
    oracle_norm n = {0, 0, 0, 0, 0, 0};
    long double sum = 0, squares = 0;
    double d = 0, s, off, least;
    int64_t i;
    n.count = (double)count;
    for (i = 0; i < count; i++) sum += points[members[i]].value;
    n.mean = (double)(sum / count);
    for (i = 0; i < count; i++) {
        const oracle_point *p = &points[members[i]];
        squares += ((long double)p->value - sum / count) * ((long double)p->value - sum / count);
        d = fmax(d, p->bound + 2 * u * fabs(p->value));     /* stored once in between */
    }
    n.variance = (double)(squares / count);
    s = sqrt(n.variance + eps);
    off = d + 8 * u * s;
    least = fmax(s - off, sqrt(eps));
    n.rstd = 1 / s;
    n.mean_bound = d + 4 * u * fabs(n.mean);
    n.rstd_bound = least > 0 ? off / (s * least) : INFINITY;
    return n;
}

static inline void oracle_normalise(oracle_point *point, const oracle_norm *n, double scale, double shift, double u)
{
    double far = fabs(point->value - n->mean), z = (point->value - n->mean) * n->rstd;
    double most = n->rstd + n->rstd_bound;
    double bound = (point->bound + 2 * u * fabs(point->value) + n->mean_bound) * most + far * n->rstd_bound;
    bound = fabs(scale) * (bound + 8 * u * fabs(z)) + 8 * u * (fabs(z * scale) + fabs(shift));
    point->value = z * scale + shift;
    point->bound = isnan(bound) && !isnan(point->value) ? INFINITY : isnan(bound) ? 0 : bound;
}

static inline double oracle_small(const void *vector, int32_t dtype, int64_t i, double otherwise)
{
    return vector ? oracle_load(dtype == CONVT3D_F64 ? CONVT3D_F64 : CONVT3D_F32, vector, i) : otherwise;
}

/* The set that an output belongs to. */
static inline int64_t oracle_set_of(const oracle_problem *p, const convt3d_op *op, const int64_t at[5])
{
    return op->kind == CONVT3D_OP_BATCH_NORM ? at[1] : at[0] * op->groups + at[1] / (p->out[1] / op->groups);
}

/* A normalisation of all outputs (points has p->y_count). found: [sets], for the caller to compare. */
static inline int oracle_normalise_all(const oracle_problem *p, const convt3d_op *op, const convt3d_op_io *t,
                                       oracle_point *points, oracle_norm *found)
{
    double u = oracle_format_of(p->dtype).u;
    int64_t sets = op->kind == CONVT3D_OP_BATCH_NORM ? p->out[1] : p->out[0] * op->groups, each = p->y_count / sets, i;
    int64_t *members = (int64_t *)malloc((size_t)p->y_count * sizeof *members);
    int64_t *filled = (int64_t *)calloc((size_t)sets, sizeof *filled), at[5] = {0, 0, 0, 0, 0};
    if (members && filled) {
        for (i = 0; i < p->y_count; i++, oracle_step(p->out, at)) {
            int64_t set = oracle_set_of(p, op, at);
            members[set * each + filled[set]++] = i;
        }
        for (i = 0; i < sets; i++) found[i] = oracle_norm_set(points, members + i * each, each, op->a, u);
        memset(at, 0, sizeof at);
        for (i = 0; i < p->y_count; i++, oracle_step(p->out, at))
            oracle_normalise(&points[i], &found[oracle_set_of(p, op, at)], oracle_small(t->scale, p->dtype, at[1], 1),
                             oracle_small(t->shift, p->dtype, at[1], 0), u);
    }
    i = members && filled;
    free(members);
    free(filled);
    return (int)i;
}

/* Entry e on every point; list: the outputs' numbers, NULL for all. */
static inline void oracle_apply_all(const oracle_problem *p, const convt3d_op *op, const convt3d_op_io *t,
                                    const int64_t *list, int64_t count, oracle_point *points)
{
    double u = oracle_format_of(p->dtype).u;
    int64_t stride[5], at[5], i;
    memcpy(stride, op->stride, sizeof stride);
    if (oracle_all_zero(stride)) oracle_dense_strides(p->layout, p->out, stride);
    for (i = 0; i < count; i++) {
        oracle_unravel(p->out, list ? list[i] : i, at);
        oracle_apply(op, t->residual ? oracle_load(p->dtype, t->residual, oracle_offset(at, stride)) : 0,
                     oracle_small(t->scale, p->dtype, at[1], 1), oracle_small(t->shift, p->dtype, at[1], 0), u,
                     &points[i]);
    }
}

/* The convolution's value and bound, before any rounding to the output type. */
static inline oracle_point oracle_start_point(const oracle_value *v, int32_t dtype, int32_t math, int exact,
                                              double range)
{
    oracle_format f = oracle_format_of(dtype);
    oracle_point point;
    point.value = isfinite(v->high) ? v->high + v->low : v->high;
    point.bound = oracle_inner_bound(v, dtype, math) + range;
    if (v->special || v->products == 0 || (exact && v->sum < 1 / f.u)) point.bound = 0;
    if (v->sum >= f.range) point.bound = INFINITY;                          /* nothing is promised */
    return point;
}

static inline oracle_verdict oracle_judge_point(const oracle_point *point, double y, int32_t dtype)
{
    oracle_format f = oracle_format_of(dtype);
    oracle_verdict verdict = {1, 0, 0, 0};
    verdict.want = oracle_round(dtype, point->value);
    if (isinf(point->bound)) return verdict;
    if (!isfinite(point->value)) {
        verdict.pass = oracle_same(y, verdict.want);
        verdict.error = verdict.pass ? 0 : INFINITY;
        return verdict;
    }
    verdict.bound = point->bound + oracle_output_bound(point->value, dtype);
    verdict.error = isfinite(y) ? fabs(y - point->value) : INFINITY;
    if (isinf(y) && (y > 0) == (point->value > 0) && fabs(point->value) + point->bound >= f.overflow) verdict.error = 0;
    verdict.pass = verdict.error <= verdict.bound;
    return verdict;
}

#endif
