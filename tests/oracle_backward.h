/* oracle_backward.h - what each gradient must be, and how far from it a kernel may land (docs/numerics.md, item 8).
 *
 * The forward operator is y[n, oc, i*stride - padding + k*dilation] += x[n, ic, i] * w[ic, oc, k]. Every such product
 * is looked at once for each of its two factors: it adds g*w to dx and g*x to dw, g being the gradient at its target.
 * Nothing is gathered by phases, nothing is shared with the library; sums are compensated as in oracle.h.
 *
 * The list is taken back from dy entry by entry, each value with how far a kernel's may lie from it: oracle_back().
 * It starts from what the forward pass really wrote (saved, mean, rstd, y), so that only the backward pass is judged.
 */
#ifndef CONVT3D_TESTS_ORACLE_BACKWARD_H
#define CONVT3D_TESTS_ORACLE_BACKWARD_H

#include "oracle.h"
#include "oracle_ops.h"

/* ---- dx, dw and dbias ---- */

typedef struct oracle_backward {
    const oracle_problem *p;            /* with x and decoded w */
    const void *dy;
    int64_t dy_stride[5];
    const oracle_point *g;              /* [n, oc, d, h, w]; NULL: it is dy itself */
} oracle_backward;

/* A sum of products, and what the errors of their factors make of it. */
typedef struct oracle_gradient {
    oracle_value v;
    double slack;
} oracle_gradient;

static inline oracle_point oracle_g(const oracle_backward *b, const int64_t o[5])
{
    oracle_point g = {0, 0};
    if (b->g) return b->g[oracle_ravel(b->p->out, o)];
    g.value = oracle_load(b->p->dtype, b->dy, oracle_offset(o, b->dy_stride));
    return g;
}

static inline void oracle_gradient_add(oracle_gradient *e, double factor, oracle_point g)
{
    oracle_accumulate(&e->v, factor, g.value);
    if (g.bound > 0) e->slack += isinf(g.bound) ? INFINITY : fabs(factor) * g.bound;
}

/* old: what the gradient is added to, 0 where it is not. */
static inline oracle_gradient oracle_gradient_of(double old)
{
    oracle_gradient e;
    memset(&e, 0, sizeof e);
    e.v.high = old;
    if (isfinite(old)) e.v.sum = fabs(old);
    else e.v.special = 1;
    return e;
}

/* Where tap k takes input i on axis a; -1 where that is outside the output. */
static inline int64_t oracle_target(const oracle_problem *p, int a, int64_t i, int64_t k)
{
    int64_t o = i * p->stride[a] - p->padding[a] + k * p->dilation[a];
    return o < 0 || o >= p->out[2 + a] ? -1 : o;
}

/* dx[n, ic, i]: over the output channels of the group and the taps. */
static inline void oracle_dx(const oracle_backward *b, const int64_t i[5], oracle_gradient *e)
{
    const oracle_problem *p = b->p;
    const int64_t in_group = p->in[1] / p->groups, out_group = p->out[1] / p->groups, *size = p->kernel;
    int64_t o[5], k[3], c;
    o[0] = i[0];
    for (k[0] = 0; k[0] < size[0]; k[0]++) {
        if ((o[2] = oracle_target(p, 0, i[2], k[0])) < 0) continue;
        for (k[1] = 0; k[1] < size[1]; k[1]++) {
            if ((o[3] = oracle_target(p, 1, i[3], k[1])) < 0) continue;
            for (k[2] = 0; k[2] < size[2]; k[2]++) {
                if ((o[4] = oracle_target(p, 2, i[4], k[2])) < 0) continue;
                for (c = 0; c < out_group; c++) {
                    o[1] = i[1] / in_group * out_group + c;
                    oracle_gradient_add(e, p->w[(((i[1] * out_group + c) * size[0] + k[0]) * size[1] + k[1]) * size[2]
                                                + k[2]], oracle_g(b, o));
                }
            }
        }
    }
}

/* dw[ic, c, k], w = {ic, c, kd, kh, kw}: over the samples and the inputs. */
static inline void oracle_dw(const oracle_backward *b, const int64_t w[5], oracle_gradient *e)
{
    const oracle_problem *p = b->p;
    const int64_t in_group = p->in[1] / p->groups, out_group = p->out[1] / p->groups;
    int64_t o[5], i[5];
    if (p->y_count == 0 || oracle_count(p->in) == 0) return;
    i[1] = w[0];
    o[1] = w[0] / in_group * out_group + w[1];
    for (i[0] = o[0] = 0; i[0] < p->in[0]; o[0] = ++i[0])
        for (i[2] = 0; i[2] < p->in[2]; i[2]++) {
            if ((o[2] = oracle_target(p, 0, i[2], w[2])) < 0) continue;
            for (i[3] = 0; i[3] < p->in[3]; i[3]++) {
                if ((o[3] = oracle_target(p, 1, i[3], w[3])) < 0) continue;
                for (i[4] = 0; i[4] < p->in[4]; i[4]++) {
                    if ((o[4] = oracle_target(p, 2, i[4], w[4])) < 0) continue;
                    oracle_gradient_add(e, oracle_load(p->dtype, p->x, oracle_offset(i, p->x_stride)), oracle_g(b, o));
                }
            }
        }
}

/* dbias[oc], at = {0, oc, 0, 0, 0}: over all outputs of the channel. */
static inline void oracle_dbias(const oracle_backward *b, const int64_t at[5], oracle_gradient *e)
{
    const int64_t *size = b->p->out;
    int64_t o[5];
    if (b->p->y_count == 0) return;
    o[1] = at[1];
    for (o[0] = 0; o[0] < size[0]; o[0]++)
        for (o[2] = 0; o[2] < size[2]; o[2]++)
            for (o[3] = 0; o[3] < size[3]; o[3]++)
                for (o[4] = 0; o[4] < size[4]; o[4]++) oracle_gradient_add(e, 1, oracle_g(b, o));
}

/* ---- the slopes of the list's entries ---- */

/* A point where the slope jumps: within `reach` of it a kernel may take either side. */
static inline double oracle_jump(const oracle_point *v, double corner, double reach, double jump)
{
    reach += v->bound;
    return reach > 0 && fabs(v->value - corner) <= reach ? jump : 0;
}

/* How far a number of the list lies from what an accumulator's type holds of it. */
static inline double oracle_unheld(double a, double u)
{
    return u > 1e-10 && isfinite(a) ? fabs(a - oracle_round(CONVT3D_F32, a)) : 0;
}

/* A slope, what it may be off by, and whether it selects (0 or 1 times anything is exact, also times infinity). */
typedef struct oracle_slope { double value, error; int selects; } oracle_slope;

/* PyTorch's slope of an entry from what it gave. */
static inline oracle_slope oracle_slope_of_output(const convt3d_op *op, double y, double u)
{
    oracle_slope s = {1, 0, 0};
    switch (op->kind) {
    case CONVT3D_OP_RELU:       s.value = !(y <= 0); s.selects = 1; break;
    case CONVT3D_OP_RELU6:      s.value = !(y <= 0 || y >= 6); s.selects = 1; break;
    case CONVT3D_OP_SIGMOID:    s.value = y * (1 - y); s.error = 4 * u * fabs(s.value); break;
    case CONVT3D_OP_TANH:       s.value = 1 - y * y; s.error = 4 * u; break;
    case CONVT3D_OP_LEAKY_RELU: s.value = y > 0 ? 1 : op->a; s.error = y > 0 ? 0 : 2 * u * fabs(op->a); break;
    case CONVT3D_OP_ELU:
        s.value = y > 0 ? 1 : y + op->a;
        s.error = y > 0 ? 0 : 4 * u * (fabs(y) + op->a);
        break;
    default:                    s.value = NAN; break;
    }
    return s;
}

/* Smooth entries: f'(v); *curve is the largest |f''|. */
static inline double oracle_smooth_slope(const convt3d_op *op, double v, double *curve)
{
    const double pi = 3.14159265358979323846, c = sqrt(2 / pi);
    double s = 1 / (1 + exp(-v)), t;
    if (isinf(v) && op->kind != CONVT3D_OP_SIGMOID && op->kind != CONVT3D_OP_TANH) v = NAN;     /* it times zero */
    switch (op->kind) {
    case CONVT3D_OP_SILU:      *curve = 0.5; return s + v * s / (1 + exp(v));
    case CONVT3D_OP_SIGMOID:   *curve = 0.1; return s / (1 + exp(v));
    case CONVT3D_OP_TANH:      *curve = 0.77; t = cosh(v); return isinf(t) ? 0 : 1 / (t * t);
    case CONVT3D_OP_GELU:      *curve = 0.8; return 0.5 * erfc(-v * sqrt(0.5)) + v * exp(-v * v / 2) / sqrt(2 * pi);
    case CONVT3D_OP_GELU_TANH: *curve = 0.8; t = cosh(c * (v + 0.044715 * v * v * v));
                               return 0.5 * (1 + tanh(c * (v + 0.044715 * v * v * v))) +
                                      (isinf(t) ? 0 : 0.5 * v * c * (1 + 3 * 0.044715 * v * v) / (t * t));
    case CONVT3D_OP_MISH:      *curve = 0.7; t = v > 700 ? v : log1p(exp(v));
                               return tanh(t) + (t > 300 ? 0 : v * s / (cosh(t) * cosh(t)));
    default:                   *curve = 0; return NAN;
    }
}

/* Entries with corners, as PyTorch decides them; softplus and elu are smooth beside theirs. */
static inline oracle_slope oracle_corner_slope(const convt3d_op *op, const oracle_point *at, double u)
{
    const double a = op->a, b = op->b, v = at->value;
    oracle_slope s = {1, 0, 1};
    switch (op->kind) {
    case CONVT3D_OP_CLAMP:
        s.value = v >= a && v <= b;
        s.error = fmin(1, oracle_jump(at, a, oracle_unheld(a, u), 1) + oracle_jump(at, b, oracle_unheld(b, u), 1));
        break;
    case CONVT3D_OP_RELU:  s.value = !(v <= 0); s.error = oracle_jump(at, 0, 0, 1); break;
    case CONVT3D_OP_RELU6:
        s.value = !(v <= 0 || v >= 6);
        s.error = oracle_jump(at, 0, 0, 1) + oracle_jump(at, 6, 0, 1);
        break;
    case CONVT3D_OP_LEAKY_RELU:
        s.selects = v > 0;
        s.value = v > 0 ? 1 : a;
        s.error = oracle_jump(at, 0, 0, fabs(1 - a)) + (v > 0 ? 0 : 2 * u * fabs(a));
        break;
    case CONVT3D_OP_HARDSIGMOID:
        s.selects = !(v > -3 && v < 3);
        s.value = s.selects ? 0 : 1.0 / 6;
        s.error = oracle_jump(at, -3, 0, 1.0 / 6) + oracle_jump(at, 3, 0, 1.0 / 6) + (s.selects ? 0 : u);
        break;
    case CONVT3D_OP_HARDSWISH:
        s.selects = v <= -3 || v >= 3;
        s.value = v <= -3 ? 0 : v < 3 ? v / 3 + 0.5 : 1;
        s.error = oracle_jump(at, -3, 0, 0.5) + oracle_jump(at, 3, 0, 0.5) +
                  (s.selects ? 0 : at->bound / 3 + 4 * u * (fabs(v) / 3 + 0.5));
        break;
    case CONVT3D_OP_ELU:
        s.selects = v > 0;
        s.value = v > 0 ? 1 : a * exp(v);
        s.error = oracle_jump(at, 0, 0, fabs(1 - a)) +
                  (v > 0 ? 0 : fabs(a) * at->bound + 8 * u * (fabs(s.value) + fabs(a) * fmin(fabs(v), 1)));
        break;
    case CONVT3D_OP_SOFTPLUS:
        s.selects = a * v > b;
        s.value = s.selects ? 1 : 1 / (1 + exp(-a * v));
        s.error = oracle_jump(at, b / a, 8 * u * fabs(b / a), exp(-b) / (1 + exp(-b))) +
                  (s.selects ? 0 : a / 4 * at->bound + 8 * u * (s.value + a / 4 * fabs(v)));
        break;
    default: s.value = NAN;
    }
    return s;
}

static inline oracle_slope oracle_slope_of(const convt3d_op *op, const oracle_point *at, double u)
{
    oracle_slope s = {0, 0, 0};
    double curve;
    if (op->kind == CONVT3D_OP_AFFINE) { s.value = op->a; s.error = 2 * u * fabs(op->a); return s; }
    s.value = oracle_smooth_slope(op, at->value, &curve);
    if (curve == 0) return oracle_corner_slope(op, at, u);
    s.error = curve * at->bound + 8 * u * (fabs(s.value) + curve * (isfinite(at->value) ? fabs(at->value) : 0));
    return s;
}

/* d, the gradient of what an entry gives, times its slope. */
static inline void oracle_back_through(oracle_slope s, double u, oracle_point *d)
{
    const double tiny = 4 * (u > 1e-10 ? ldexp(1, -149) : ldexp(1, -1074));
    double was = d->value;
    d->value = s.selects && s.value == 0 ? 0 : s.selects ? was : was * s.value;
    if (s.selects && s.error == 0 && d->bound == 0) return;             /* chosen, not computed */
    d->bound = d->bound * (fabs(s.value) + s.error) + fabs(was) * s.error + 2 * u * fabs(d->value) + tiny;
    if (isnan(d->bound)) d->bound = isnan(d->value) ? 0 : INFINITY;
}

/* ---- the list ---- */

/* What the rule of the manual says that the forward pass keeps for gradients `bits`: CONVT3D_SAVES_... */
static inline int32_t oracle_saves(const convt3d_op ops[CONVT3D_MAX_OPS], int32_t bits)
{
    int i, bent = 0, last = -1, count = 0;
    while (count < CONVT3D_MAX_OPS && ops[count].kind != CONVT3D_OP_END) count++;
    for (i = 0; i < count && bits; i++) {
        int32_t kind = ops[i].kind;
        int straight = kind == CONVT3D_OP_AFFINE || kind == CONVT3D_OP_ADD;
        if (kind == CONVT3D_OP_CHANNEL_AFFINE || kind == CONVT3D_OP_MULTIPLY)   /* d_scale, d_residual want v */
            straight = !(bits & CONVT3D_BACKWARD_OPS);
        if (!straight) { bent++; last = i; }
    }
    if (bent == 0) return CONVT3D_SAVES_NOTHING;
    if (bent > 1 || last != count - 1) return CONVT3D_SAVES_CONVOLUTION;
    switch (ops[last].kind) {
    case CONVT3D_OP_RELU: case CONVT3D_OP_RELU6: case CONVT3D_OP_SIGMOID: case CONVT3D_OP_TANH:
        return CONVT3D_SAVES_OUTPUT;
    case CONVT3D_OP_LEAKY_RELU: return ops[last].a >= 0 ? CONVT3D_SAVES_OUTPUT : CONVT3D_SAVES_CONVOLUTION;
    case CONVT3D_OP_ELU: return ops[last].a > 0 ? CONVT3D_SAVES_OUTPUT : CONVT3D_SAVES_CONVOLUTION;
    default: return CONVT3D_SAVES_CONVOLUTION;
    }
}

typedef struct oracle_list {
    const oracle_problem *p;
    const convt3d_op *ops;
    const convt3d_op_io *tensors;       /* mean and rstd as the forward pass left them */
    int32_t count, saves;
    const void *saved, *y, *dy;         /* saved is dense in the layout */
    int64_t dy_stride[5];
    /* found by oracle_back(), [n, oc, d, h, w]: */
    oracle_point *v[CONVT3D_MAX_OPS];   /* what an entry is given; where saves is OUTPUT, what the last one gave */
    oracle_point *d[CONVT3D_MAX_OPS];   /* gradient of what an entry gives */
    oracle_point *g;                    /* gradient of the convolution's output, rounded */
} oracle_list;

static inline void oracle_list_free(oracle_list *l)
{
    int i;
    for (i = 0; i < CONVT3D_MAX_OPS; i++) { free(l->v[i]); free(l->d[i]); }
    free(l->g);
}

static inline int oracle_list_make(oracle_list *l)
{
    size_t bytes = (size_t)(l->p->y_count + 1) * sizeof(oracle_point);
    int i, made = (l->g = (oracle_point *)malloc(bytes)) != NULL;
    for (i = 0; i < l->count; i++)
        made &= (l->v[i] = (oracle_point *)calloc(bytes, 1)) && (l->d[i] = (oracle_point *)malloc(bytes));
    return made;
}

/* Normalised value of entry i at output j, before scale and shift. */
static inline oracle_point oracle_z(const oracle_list *l, int i, int64_t j, const int64_t at[5], double *rstd)
{
    const convt3d_op_io *t = &l->tensors[i];
    const int64_t set = oracle_set_of(l->p, &l->ops[i], at);
    const double u = oracle_format_of(l->p->dtype).u;
    oracle_point z = l->v[i][j];
    *rstd = oracle_small(t->rstd, l->p->dtype, set, NAN);
    z.value = (z.value - oracle_small(t->mean, l->p->dtype, set, NAN)) * *rstd;
    z.bound = z.bound * *rstd + 4 * u * fabs(z.value);
    return z;
}

static inline void oracle_list_values(oracle_list *l)
{
    const oracle_problem *p = l->p;
    const double u = oracle_format_of(p->dtype).u;
    int64_t dense[5], at[5] = {0, 0, 0, 0, 0}, j;
    double rstd;
    int i;
    oracle_dense_strides(p->layout, p->out, dense);
    for (j = 0; j < p->y_count && l->saves == CONVT3D_SAVES_OUTPUT; j++, oracle_step(p->out, at))
        l->v[l->count - 1][j].value = oracle_load(p->dtype, l->y, oracle_offset(at, p->y_stride));
    if (l->saves != CONVT3D_SAVES_CONVOLUTION) return;
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, at))
        l->v[0][j].value = oracle_load(p->dtype, l->saved, oracle_offset(at, dense));
    for (i = 0; i + 1 < l->count; i++) {
        const convt3d_op_io *t = &l->tensors[i];
        memcpy(l->v[i + 1], l->v[i], (size_t)p->y_count * sizeof(oracle_point));
        if (!(convt3d_op_uses(l->ops[i].kind) & CONVT3D_USES_STATISTICS)) {
            oracle_apply_all(p, &l->ops[i], t, NULL, p->y_count, l->v[i + 1]);
            continue;
        }
        for (memset(at, 0, sizeof at), j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
            oracle_point z = oracle_z(l, i, j, at, &rstd), *to = &l->v[i + 1][j];
            double scale = oracle_small(t->scale, p->dtype, at[1], 1);
            double shift = oracle_small(t->shift, p->dtype, at[1], 0);
            to->value = z.value * scale + shift;
            to->bound = fabs(scale) * z.bound + 4 * u * (fabs(z.value * scale) + fabs(shift));
        }
    }
}

/* Sums over a set of a normalisation: of h = d*scale and of h*z, with how far a kernel's may lie from them. */
typedef struct oracle_back_sums {
    long double h, hz, h_size, hz_size;
    double h_bound, hz_bound, count;
} oracle_back_sums;

/* Sums are taken in double; those of f64 data in any order. */
static inline double oracle_sum_error(double count, double u) { return u > 1e-10 ? 8 * u : (count + 4) * 2 * u; }

static inline oracle_point oracle_scaled(oracle_point d, double scale, double u)
{
    d.value *= scale;
    d.bound = d.bound * fabs(scale) + 2 * u * fabs(d.value);
    return d;
}

/* Through normalisation i: d becomes rstd*(h - mean of h - z * mean of h*z). */
static inline int oracle_back_norm(const oracle_list *l, int i, oracle_point *d)
{
    const oracle_problem *p = l->p;
    const convt3d_op *op = &l->ops[i];
    const double u = oracle_format_of(p->dtype).u;
    const int64_t sets = op->kind == CONVT3D_OP_BATCH_NORM ? p->out[1] : p->out[0] * op->groups;
    oracle_back_sums *sums = (oracle_back_sums *)calloc((size_t)sets + 1, sizeof *sums);
    int64_t at[5] = {0, 0, 0, 0, 0}, j;
    double rstd;
    if (!sums) return 0;
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
        oracle_back_sums *s = &sums[oracle_set_of(p, op, at)];
        oracle_point h = oracle_scaled(d[j], oracle_small(l->tensors[i].scale, p->dtype, at[1], 1), u);
        oracle_point z = oracle_z(l, i, j, at, &rstd);
        s->h += h.value;
        s->hz += (long double)h.value * z.value;
        s->h_size += fabs(h.value);
        s->hz_size += fabs(h.value * z.value);
        s->h_bound += h.bound;
        s->hz_bound += h.bound * (fabs(z.value) + z.bound) + fabs(h.value) * z.bound;
        s->count++;
    }
    for (memset(at, 0, sizeof at), j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
        const oracle_back_sums *s = &sums[oracle_set_of(p, op, at)];
        oracle_point h = oracle_scaled(d[j], oracle_small(l->tensors[i].scale, p->dtype, at[1], 1), u);
        oracle_point z = oracle_z(l, i, j, at, &rstd);
        double each = oracle_sum_error(s->count, u);
        double mean = (double)(s->h / s->count), slope = (double)(s->hz / s->count);
        double mean_bound = (s->h_bound + each * (double)s->h_size) / s->count;
        double slope_bound = (s->hz_bound + each * (double)s->hz_size) / s->count;
        d[j].value = rstd * (h.value - mean - z.value * slope);
        d[j].bound = rstd * (h.bound + mean_bound + (fabs(z.value) + z.bound) * slope_bound + z.bound * fabs(slope) +
                             8 * u * (fabs(h.value) + fabs(mean) + fabs(z.value * slope)));
        if (isnan(d[j].bound)) d[j].bound = isnan(d[j].value) ? 0 : INFINITY;
    }
    free(sums);
    return 1;
}

/* d, of what entry i gives, becomes that of what it is given. */
static inline int oracle_back_entry(const oracle_list *l, int i, oracle_point *d)
{
    const oracle_problem *p = l->p;
    const convt3d_op *op = &l->ops[i];
    const double u = oracle_format_of(p->dtype).u;
    int64_t stride[5], at[5] = {0, 0, 0, 0, 0}, j;
    if (convt3d_op_uses(op->kind) & CONVT3D_USES_STATISTICS) return oracle_back_norm(l, i, d);
    memcpy(stride, op->stride, sizeof stride);
    if (oracle_all_zero(stride)) oracle_dense_strides(p->layout, p->out, stride);
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
        oracle_slope s = {1, 0, 1};                                         /* ADD */
        if (op->kind == CONVT3D_OP_MULTIPLY) {
            s.value = oracle_load(p->dtype, l->tensors[i].residual, oracle_offset(at, stride));
            s.selects = 0;
        } else if (op->kind == CONVT3D_OP_CHANNEL_AFFINE) {
            s.value = oracle_small(l->tensors[i].scale, p->dtype, at[1], 1);
            s.selects = 0;
        } else if (op->kind != CONVT3D_OP_ADD) {
            s = l->saves == CONVT3D_SAVES_OUTPUT && i == l->count - 1 ? oracle_slope_of_output(op, l->v[i][j].value, u)
                                                                      : oracle_slope_of(op, &l->v[i][j], u);
        }
        oracle_back_through(s, u, &d[j]);
    }
    return 1;
}

/* Fills v, d and g. Returns 0 when memory is short; call oracle_list_free() in any case. */
static inline int oracle_back(oracle_list *l)
{
    const oracle_problem *p = l->p;
    int64_t at[5] = {0, 0, 0, 0, 0}, j;
    int i;
    if (!oracle_list_make(l)) return 0;
    oracle_list_values(l);
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
        l->g[j].value = oracle_load(p->dtype, l->dy, oracle_offset(at, l->dy_stride));
        l->g[j].bound = 0;
    }
    for (i = l->count - 1; i >= 0; i--) {
        memcpy(l->d[i], l->g, (size_t)p->y_count * sizeof(oracle_point));
        if (!oracle_back_entry(l, i, l->g)) return 0;
    }
    for (j = 0; j < p->y_count; j++) {                                      /* rounded once */
        oracle_point *g = &l->g[j];
        if (g->bound == 0) g->value = oracle_round(p->dtype, g->value);
        else if (fabs(g->value) + g->bound >= oracle_format_of(p->dtype).overflow) g->bound = INFINITY;
        else g->bound += oracle_output_bound(g->value, p->dtype);
    }
    return 1;
}

/* The gradient of entry i's residual at output `at`, number j, before it is rounded: d, or d times the value. */
static inline void oracle_d_residual(const oracle_list *l, int i, int64_t j, oracle_gradient *e)
{
    const oracle_point v = {1, 0}, *other = l->ops[i].kind == CONVT3D_OP_MULTIPLY ? &l->v[i][j] : &v;
    oracle_gradient_add(e, other->value, l->d[i][j]);
    e->slack += other->bound * (fabs(l->d[i][j].value) + l->d[i][j].bound);
}

/* Those of entry i's scale[oc] (of_shift 0) and shift[oc] (1). */
static inline void oracle_d_vector(const oracle_list *l, int i, int64_t oc, int of_shift, oracle_gradient *e)
{
    int64_t at[5] = {0, 0, 0, 0, 0}, j;
    double rstd;
    for (j = 0; j < l->p->y_count; j++, oracle_step(l->p->out, at)) {
        oracle_point v = {1, 0};
        if (at[1] != oc) continue;
        if (!of_shift) v = l->ops[i].kind == CONVT3D_OP_CHANNEL_AFFINE ? l->v[i][j] : oracle_z(l, i, j, at, &rstd);
        oracle_gradient_add(e, v.value, l->d[i][j]);
        e->slack += v.bound * (fabs(l->d[i][j].value) + l->d[i][j].bound);
    }
}

/* ---- judgement ---- */

/* dtype: of the gradient. exact, range: as in oracle_judge(). */
static inline oracle_verdict oracle_judge_gradient(const oracle_gradient *e, double got, int32_t dtype, int32_t math,
                                                   int exact, double range)
{
    double k = (double)e->v.products, u = oracle_format_of(dtype).u;
    double slack = e->slack > 0 ? e->slack * (1 + (k + 4) * 2 * u) : 0;     /* S is that of the factors as they are */
    return oracle_judge(&e->v, got, dtype, math, exact && slack == 0, range + slack);
}

#endif
