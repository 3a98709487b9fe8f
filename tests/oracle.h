/* oracle.h - the judge: what each output must be, and how far from it a kernel may land (docs/numerics.md).
 *
 * It shares nothing with convt3d.h but the declarations: own geometry, own 16-bit formats, SCATTER form (each input
 * is thrown at the outputs it reaches, where the library gathers), double with compensated sums and products.
 * oracle_full() computes every output, oracle_sampled() the listed ones. Compile without -ffast-math.
 */
#ifndef CONVT3D_TESTS_ORACLE_H
#define CONVT3D_TESTS_ORACLE_H

#include "../convt3d.h"
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers: a value is a function of (seed, index), so that order does not matter ---- */

static inline uint64_t oracle_hash(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xD1342543DE82EF95u + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline double oracle_uniform(uint64_t seed, uint64_t index)      /* [0, 1) */
{
    return (double)(oracle_hash(seed, index) >> 11) * (1.0 / 9007199254740992.0);
}

/* ---- number formats, straight from their definitions ---- */

typedef struct oracle_format {
    int32_t size;               /* bytes */
    int32_t digits;             /* significand bits with the implicit one */
    int32_t min_exponent;       /* exponent of the smallest subnormal */
    double overflow;            /* magnitudes from here on round to infinity */
    double range;               /* largest finite value of the least accumulator: f32, or f64 for f64 */
    double u, eta;              /* of that accumulator */
} oracle_format;

static inline oracle_format oracle_format_of(int32_t dtype)
{
    oracle_format f = {4, 24, -149, 0, FLT_MAX, 0, 0};
    f.overflow = ldexp(1.0, 128) - ldexp(1.0, 103);
    f.u = ldexp(1.0, -24);
    f.eta = ldexp(1.0, -149);
    if (dtype == CONVT3D_F16)  { f.size = 2; f.digits = 11; f.min_exponent = -24;  f.overflow = 65520.0; }
    if (dtype == CONVT3D_BF16) { f.size = 2; f.digits = 8;  f.min_exponent = -133;
                                 f.overflow = ldexp(1.0, 128) - ldexp(1.0, 119); }
    if (dtype == CONVT3D_F64)  { f.size = 8; f.digits = 53; f.min_exponent = -1074; f.overflow = INFINITY;
                                 f.range = DBL_MAX; f.u = ldexp(1.0, -53); f.eta = ldexp(1.0, -1074); }
    return f;
}

/* 2^e as a double, from its bits: ldexp() would be most of the time of a large check. */
static inline double oracle_power(int e)
{
    uint64_t bits = (uint64_t)(e + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* The value of the type nearest to v, ties to even. */
static inline double oracle_round(int32_t dtype, double v)
{
    oracle_format f = oracle_format_of(dtype);
    int exponent = 0;
    if (dtype == CONVT3D_F64 || v == 0 || isnan(v) || isinf(v)) return v;
    if (fabs(v) >= f.overflow) return v < 0 ? -INFINITY : INFINITY;
    frexp(v, &exponent);                                            /* |v| in [2^(exponent-1), 2^exponent) */
    exponent -= f.digits;
    if (exponent < f.min_exponent) exponent = f.min_exponent;
    return nearbyint(v * oracle_power(-exponent)) * oracle_power(exponent);
}

static inline double oracle_from_bits16(int32_t dtype, uint16_t bits)
{
    int fraction_bits = dtype == CONVT3D_F16 ? 10 : 7, least = dtype == CONVT3D_F16 ? -24 : -133;
    int top = dtype == CONVT3D_F16 ? 31 : 255;
    int exponent = (bits & 0x7FFF) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
    double v;
    if (exponent == top) v = fraction ? NAN : INFINITY;
    else if (exponent == 0) v = fraction * oracle_power(least);
    else v = (fraction + (1 << fraction_bits)) * oracle_power(least + exponent - 1);
    return bits & 0x8000 ? -v : v;
}

static inline uint16_t oracle_to_bits16(int32_t dtype, double value)
{
    int fraction_bits = dtype == CONVT3D_F16 ? 10 : 7, least = dtype == CONVT3D_F16 ? -24 : -133;
    int top = dtype == CONVT3D_F16 ? 31 : 255, sign = signbit(value) ? 0x8000 : 0, exponent = 0;
    double v = fabs(oracle_round(dtype, value));
    if (isnan(v)) return (uint16_t)(sign | top << fraction_bits | 1 << (fraction_bits - 1));
    if (isinf(v)) return (uint16_t)(sign | top << fraction_bits);
    frexp(v, &exponent);
    exponent = v == 0 ? 0 : exponent - 1 - fraction_bits - least + 1;
    if (exponent < 1) return (uint16_t)(sign | (int)(v * oracle_power(-least)));
    return (uint16_t)(sign + (exponent - 1) * (1 << fraction_bits) + (int)(v * oracle_power(-(least + exponent - 1))));
}

static inline double oracle_load(int32_t dtype, const void *data, int64_t index)
{
    if (dtype == CONVT3D_F32) return ((const float *)data)[index];
    if (dtype == CONVT3D_F64) return ((const double *)data)[index];
    return oracle_from_bits16(dtype, ((const uint16_t *)data)[index]);
}

static inline void oracle_store(int32_t dtype, void *data, int64_t index, double value)
{
    if (dtype == CONVT3D_F32) ((float *)data)[index] = (float)oracle_round(dtype, value);
    else if (dtype == CONVT3D_F64) ((double *)data)[index] = value;
    else ((uint16_t *)data)[index] = oracle_to_bits16(dtype, value);
}

/* ---- the problem ---- */

typedef struct oracle_problem {
    int64_t in[5], out[5];                  /* n, c, d, h, w */
    int64_t x_stride[5], y_stride[5];       /* the same order, elements */
    int64_t kernel[3], stride[3], padding[3], dilation[3], groups;
    int64_t x_span, w_count, y_span, y_count;   /* elements from the first to past the last; elements */
    int32_t dtype, layout;
    const void *x, *bias;                   /* bias may be NULL */
    double *w;                              /* decoded by oracle_decode_w() */
} oracle_problem;

/* a * b of non-negative numbers, or -1 when it (or an operand already) does not fit. */
static inline int64_t oracle_mul(int64_t a, int64_t b)
{
    if (a < 0 || b < 0) return -1;
    return b > 0 && a > INT64_MAX / b ? -1 : a * b;
}

static inline int64_t oracle_add(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a > INT64_MAX - b ? -1 : a + b;
}

static inline void oracle_dense_strides(int32_t layout, const int64_t size[5], int64_t stride[5])
{
    static const int order[2][5] = {{4, 3, 2, 1, 0}, {1, 4, 3, 2, 0}};      /* fastest axis first */
    int64_t step = 1;
    int a;
    for (a = 0; a < 5; a++) {
        stride[order[layout][a]] = step;
        step = oracle_mul(step, size[order[layout][a]]);
        if (step < 0) return;
    }
}

static inline int64_t oracle_span(const int64_t size[5], const int64_t stride[5])
{
    int64_t span = 1;
    int a;
    for (a = 0; a < 5; a++) if (size[a] == 0) return 0;
    for (a = 0; a < 5; a++) span = oracle_add(span, oracle_mul(size[a] - 1, stride[a]));
    return span;
}

static inline int64_t oracle_count(const int64_t size[5])
{
    int64_t count = 1;
    int a;
    for (a = 0; a < 5; a++) if (size[a] == 0) return 0;
    for (a = 0; a < 5; a++) count = oracle_mul(count, size[a]);
    return count;
}

static inline int oracle_all_zero(const int64_t stride[5])
{
    return !(stride[0] | stride[1] | stride[2] | stride[3] | stride[4]);
}

/* Geometry of a desc that the library accepted. Returns 0 when a size does not fit 64 bits. */
static inline int oracle_init(oracle_problem *p, const convt3d_desc *desc)
{
    int a;
    memset(p, 0, sizeof *p);
    p->dtype = desc->dtype;
    p->layout = desc->layout;
    p->groups = desc->groups ? desc->groups : 1;
    p->in[0] = p->out[0] = desc->batch;
    p->in[1] = desc->in_channels;
    p->out[1] = desc->out_channels;
    p->w_count = oracle_mul(desc->in_channels, desc->out_channels / p->groups);
    for (a = 0; a < 3; a++) {
        p->kernel[a] = desc->kernel[a];
        p->stride[a] = desc->stride[a] ? desc->stride[a] : 1;
        p->dilation[a] = desc->dilation[a] ? desc->dilation[a] : 1;
        p->padding[a] = desc->padding[a];
        p->in[2 + a] = desc->in_size[a];
        p->out[2 + a] = desc->fixed_out_size ? desc->out_size[a]
                      : (desc->in_size[a] - 1) * p->stride[a] - 2 * p->padding[a]
                        + p->dilation[a] * (p->kernel[a] - 1) + desc->output_padding[a] + 1;
        p->w_count = oracle_mul(p->w_count, p->kernel[a]);
    }
    if (oracle_all_zero(desc->x_stride)) oracle_dense_strides(desc->layout, p->in, p->x_stride);
    else memcpy(p->x_stride, desc->x_stride, sizeof p->x_stride);
    if (oracle_all_zero(desc->y_stride)) oracle_dense_strides(desc->layout, p->out, p->y_stride);
    else memcpy(p->y_stride, desc->y_stride, sizeof p->y_stride);
    p->x_span = oracle_span(p->in, p->x_stride);
    p->y_span = oracle_span(p->out, p->y_stride);
    p->y_count = oracle_count(p->out);
    return p->x_span >= 0 && p->y_span >= 0 && p->y_count >= 0 && p->w_count >= 0;
}

static inline int64_t oracle_offset(const int64_t index[5], const int64_t stride[5])
{
    return index[0] * stride[0] + index[1] * stride[1] + index[2] * stride[2] + index[3] * stride[3]
         + index[4] * stride[4];
}

/* Outputs are numbered in the order n, c, d, h, w whatever the layout is. */
static inline void oracle_unravel(const int64_t size[5], int64_t linear, int64_t index[5])
{
    int a;
    for (a = 4; a >= 0; a--) { index[a] = linear % size[a]; linear /= size[a]; }
}

/* The next index in that order. */
static inline void oracle_step(const int64_t size[5], int64_t index[5])
{
    int a;
    for (a = 4; a >= 0; a--) {
        if (++index[a] < size[a]) return;
        index[a] = 0;
    }
}

/* Runs body over [0, count) in blocks, on all cores: a body touches nothing but its own elements. */
enum { ORACLE_BLOCK = 1 << 14 };

static inline void oracle_parallel(int64_t count, void (*body)(void *context, int64_t begin, int64_t end), void *context)
{
    int64_t blocks = (count + ORACLE_BLOCK - 1) / ORACLE_BLOCK, b;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) if (blocks > 8)
#endif
    for (b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * ORACLE_BLOCK;
        body(context, b * ORACLE_BLOCK, end < count ? end : count);
    }
}

/* Decodes the weights once. Returns 0 when memory is short; free p->w afterwards. */
static inline int oracle_decode_w(oracle_problem *p, const void *w)
{
    int64_t i;
    if ((uint64_t)p->w_count > SIZE_MAX / sizeof(double)) return 0;
    p->w = (double *)malloc((size_t)p->w_count * sizeof(double));
    if (!p->w) return 0;
    for (i = 0; i < p->w_count; i++) p->w[i] = oracle_load(p->dtype, w, i);
    return 1;
}

/* The most products that can enter one output: of the taps that share a phase, those an input exists for. */
static inline int64_t oracle_most_products(const oracle_problem *p)
{
    int64_t most = p->in[1] / p->groups;
    int a;
    for (a = 0; a < 3; a++) {
        int64_t g = p->stride[a], r = p->dilation[a], step, taps;
        while (r) { int64_t t = g % r; g = r; r = t; }
        step = p->stride[a] / g;
        taps = (p->kernel[a] - 1) / step + 1;
        most = oracle_mul(most, taps < p->in[2 + a] ? taps : p->in[2 + a]);
    }
    return most < 0 ? INT64_MAX : most;
}

/* ---- values ---- */

typedef struct oracle_value {
    double high, low;           /* y64 = high + low while finite, else high */
    double sum;                 /* S: sum of |x||w| + |bias| over finite operands */
    int64_t products;           /* K */
    int special;                /* a NaN or an infinity is among the operands */
} oracle_value;

static inline void oracle_start(const oracle_problem *p, oracle_value *v, int64_t oc)
{
    double bias = p->bias ? oracle_load(p->dtype, p->bias, oc) : 0.0;
    memset(v, 0, sizeof *v);
    v->high = bias;
    if (isfinite(bias)) v->sum = fabs(bias); else v->special = 1;
}

/* high + low += x * w by TwoProduct and TwoSum; volatile keeps compilers from contracting them. */
static inline void oracle_accumulate(oracle_value *v, double x, double w)
{
    volatile double product = x * w;
    double high = v->high + product, part = high - v->high;
    v->low += ((v->high - (high - part)) + (product - part)) + fma(x, w, -product);
    v->high = high;
    v->products++;
    if (isfinite(x) && isfinite(w)) v->sum += fabs(product); else v->special = 1;
}

static inline void oracle_scatter_input(const oracle_problem *p, oracle_value *values, const int64_t i[5])
{
    const int64_t in_group = p->in[1] / p->groups, out_group = p->out[1] / p->groups, *size = p->out + 2;
    const int64_t first_oc = i[1] / in_group * out_group, taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    const double x = oracle_load(p->dtype, p->x, oracle_offset(i, p->x_stride));
    int64_t k[3], o[3], c;
    for (k[0] = 0; k[0] < p->kernel[0]; k[0]++) {
        o[0] = i[2] * p->stride[0] - p->padding[0] + k[0] * p->dilation[0];
        if (o[0] < 0 || o[0] >= size[0]) continue;
        for (k[1] = 0; k[1] < p->kernel[1]; k[1]++) {
            o[1] = i[3] * p->stride[1] - p->padding[1] + k[1] * p->dilation[1];
            if (o[1] < 0 || o[1] >= size[1]) continue;
            for (k[2] = 0; k[2] < p->kernel[2]; k[2]++) {
                const double *w = p->w + i[1] * out_group * taps + (k[0] * p->kernel[1] + k[1]) * p->kernel[2] + k[2];
                o[2] = i[4] * p->stride[2] - p->padding[2] + k[2] * p->dilation[2];
                if (o[2] < 0 || o[2] >= size[2]) continue;
                for (c = 0; c < out_group; c++) {
                    int64_t row = (i[0] * p->out[1] + first_oc + c) * size[0] + o[0];
                    oracle_accumulate(values + (row * size[1] + o[1]) * size[2] + o[2], x, w[c * taps]);
                }
            }
        }
    }
}

/* Every output; values has p->y_count elements. */
static inline void oracle_full(const oracle_problem *p, oracle_value *values)
{
    int64_t i[5], o[5] = {0, 0, 0, 0, 0}, j;
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, o)) oracle_start(p, values + j, o[1]);
    if (p->y_count == 0) return;
    for (i[0] = 0; i[0] < p->in[0]; i[0]++)
        for (i[1] = 0; i[1] < p->in[1]; i[1]++)
            for (i[2] = 0; i[2] < p->in[2]; i[2]++)
                for (i[3] = 0; i[3] < p->in[3]; i[3]++)
                    for (i[4] = 0; i[4] < p->in[4]; i[4]++) oracle_scatter_input(p, values, i);
}

/* ---- sampled outputs ---- */

static inline int oracle_compare_int64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static inline int64_t oracle_below(uint64_t seed, uint64_t *counter, int64_t limit)
{
    return (int64_t)(oracle_hash(seed, (*counter)++) % (uint64_t)limit);
}

static inline int64_t oracle_ravel(const int64_t size[5], const int64_t o[5])
{
    return (((o[0] * size[1] + o[1]) * size[2] + o[2]) * size[3] + o[3]) * size[4] + o[4];
}

enum { ORACLE_RANDOM_SAMPLES = 6144, ORACLE_PHASE_SAMPLES = 2048, ORACLE_FACE_SAMPLES = 64,
       ORACLE_MOST_SAMPLES = ORACLE_RANDOM_SAMPLES + ORACLE_PHASE_SAMPLES + 6 * ORACLE_FACE_SAMPLES + 32 };

/* One output: random, then pushed to a corner, a face or a phase. kind counts through all of them. */
static inline int64_t oracle_pick(const oracle_problem *p, uint64_t seed, uint64_t *counter, int64_t kind)
{
    int64_t o[5];
    int a;
    for (a = 0; a < 5; a++) o[a] = oracle_below(seed, counter, p->out[a]);
    if (kind < 32) {                                                        /* the corners, all five axes */
        for (a = 0; a < 5; a++) o[a] = kind >> a & 1 ? p->out[a] - 1 : 0;
    } else if ((kind -= 32) < 6 * ORACLE_FACE_SAMPLES) {
        a = 2 + (int)(kind % 3);
        o[a] = kind / 3 % 2 ? p->out[a] - 1 : 0;
    } else if ((kind -= 6 * ORACLE_FACE_SAMPLES) < ORACLE_PHASE_SAMPLES) {  /* phase number kind, wrapping */
        for (a = 0; a < 3; a++) {
            int64_t s = p->stride[a] < p->out[2 + a] ? p->stride[a] : p->out[2 + a];
            o[2 + a] = o[2 + a] / s * s + kind % s;
            if (o[2 + a] >= p->out[2 + a]) o[2 + a] -= s;
            kind /= s;
        }
    }
    return oracle_ravel(p->out, o);
}

/* Sorted numbers of the outputs to look at: all when they are few. NULL when memory is short. */
static inline int64_t *oracle_sample(const oracle_problem *p, uint64_t seed, int64_t *count)
{
    int64_t all = p->y_count <= ORACLE_MOST_SAMPLES, n = all ? p->y_count : (int64_t)ORACLE_MOST_SAMPLES, i, kept = 0;
    int64_t *list = (int64_t *)malloc((size_t)(n + 1) * sizeof *list);
    uint64_t counter = 0;
    if (!list) return NULL;
    for (i = 0; i < n; i++) list[i] = all ? i : oracle_pick(p, seed ^ 0x5A3D1E, &counter, i);
    qsort(list, (size_t)n, sizeof *list, oracle_compare_int64);
    for (i = 0; i < n; i++) if (i == 0 || list[i] != list[kept - 1]) list[kept++] = list[i];
    *count = kept;
    return list;
}

/* For one axis: the (input, tap) pairs that land on each sampled coordinate, found by scattering all of them. */
typedef struct oracle_axis {
    int32_t *slot;              /* [out] number of a sampled coordinate, or -1 */
    int64_t *begin;             /* [slots + 1] */
    int64_t *input, *tap;
} oracle_axis;

static inline void oracle_axis_free(oracle_axis *axis)
{
    free(axis->slot); free(axis->begin); free(axis->input); free(axis->tap);
}

/* Walks all pairs; with fill set records them, otherwise counts them into begin[slot + 1]. */
static inline void oracle_axis_walk(const oracle_problem *p, int a, oracle_axis *axis, int64_t *cursor)
{
    int64_t i, k;
    for (i = 0; i < p->in[2 + a]; i++)
        for (k = 0; k < p->kernel[a]; k++) {
            int64_t o = i * p->stride[a] - p->padding[a] + k * p->dilation[a];
            if (o < 0 || o >= p->out[2 + a] || axis->slot[o] < 0) continue;
            if (!cursor) { axis->begin[axis->slot[o] + 1]++; continue; }
            axis->input[cursor[axis->slot[o]]] = i;
            axis->tap[cursor[axis->slot[o]]++] = k;
        }
}

static inline int oracle_axis_init(const oracle_problem *p, int a, const int64_t *list, int64_t count,
                                   oracle_axis *axis)
{
    int64_t j, slots = 0, *cursor, o[5];
    memset(axis, 0, sizeof *axis);
    if ((uint64_t)p->out[2 + a] > SIZE_MAX / 8) return 0;
    axis->slot = (int32_t *)malloc((size_t)p->out[2 + a] * sizeof *axis->slot + 1);
    axis->begin = (int64_t *)calloc((size_t)count + 1, sizeof *axis->begin);
    if (!axis->slot || !axis->begin) return 0;
    memset(axis->slot, 0xFF, (size_t)p->out[2 + a] * sizeof *axis->slot);
    for (j = 0; j < count; j++) {
        oracle_unravel(p->out, list[j], o);
        if (axis->slot[o[2 + a]] < 0) axis->slot[o[2 + a]] = (int32_t)slots++;
    }
    oracle_axis_walk(p, a, axis, NULL);
    for (j = 0; j < slots; j++) axis->begin[j + 1] += axis->begin[j];
    axis->input = (int64_t *)malloc((size_t)(axis->begin[slots] + 1) * sizeof(int64_t));
    axis->tap = (int64_t *)malloc((size_t)(axis->begin[slots] + 1) * sizeof(int64_t));
    cursor = (int64_t *)malloc((size_t)(slots + 1) * sizeof(int64_t));
    if (axis->input && axis->tap && cursor) {
        memcpy(cursor, axis->begin, (size_t)(slots + 1) * sizeof(int64_t));
        oracle_axis_walk(p, a, axis, cursor);
        free(cursor);
        return 1;
    }
    free(cursor);
    return 0;
}

static inline void oracle_one(const oracle_problem *p, const oracle_axis axis[3], int64_t linear, oracle_value *v)
{
    const int64_t in_group = p->in[1] / p->groups, out_group = p->out[1] / p->groups;
    int64_t o[5], i[5], slot[3], at[3], ic;
    int a;
    oracle_unravel(p->out, linear, o);
    oracle_start(p, v, o[1]);
    for (a = 0; a < 3; a++) slot[a] = axis[a].slot[o[2 + a]];
    i[0] = o[0];
    for (ic = 0; ic < in_group; ic++) {
        i[1] = o[1] / out_group * in_group + ic;
        for (at[0] = axis[0].begin[slot[0]]; at[0] < axis[0].begin[slot[0] + 1]; at[0]++)
            for (at[1] = axis[1].begin[slot[1]]; at[1] < axis[1].begin[slot[1] + 1]; at[1]++)
                for (at[2] = axis[2].begin[slot[2]]; at[2] < axis[2].begin[slot[2] + 1]; at[2]++) {
                    int64_t tap = i[1] * out_group + o[1] % out_group;
                    for (a = 0; a < 3; a++) {
                        i[2 + a] = axis[a].input[at[a]];
                        tap = tap * p->kernel[a] + axis[a].tap[at[a]];
                    }
                    oracle_accumulate(v, oracle_load(p->dtype, p->x, oracle_offset(i, p->x_stride)), p->w[tap]);
                }
    }
}

/* The outputs numbered in list. Returns 0 when memory is short. */
static inline int oracle_sampled(const oracle_problem *p, const int64_t *list, int64_t count, oracle_value *values)
{
    oracle_axis axis[3];
    int64_t j;
    int a, ok = 1;
    memset(axis, 0, sizeof axis);
    for (a = 0; a < 3 && ok; a++) ok = oracle_axis_init(p, a, list, count, &axis[a]);
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 16) if (count > 256)
#endif
    for (j = 0; j < (ok ? count : 0); j++) oracle_one(p, axis, list[j], values + j);
    for (a = 0; a < 3; a++) oracle_axis_free(&axis[a]);
    return ok;
}

/* ---- judgement ---- */

typedef struct oracle_verdict {
    int pass;
    double want, error, bound;  /* error and bound are 0 and 0 where the answer must be, and is, exact */
} oracle_verdict;

/* The rounding allowed before the result is stored (DESIGN section 3, item 2, without its last term). */
static inline double oracle_inner_bound(const oracle_value *v, int32_t dtype, int32_t math)
{
    oracle_format f = oracle_format_of(dtype);
    double k = (double)v->products, bound = (k + 4) * 2 * f.u * v->sum + (k + 1) * f.eta;
    if (math == CONVT3D_TF32 && dtype == CONVT3D_F32) bound += ldexp(v->sum, -10);
    return bound;
}

static inline double oracle_output_bound(double y64, int32_t dtype)
{
    oracle_format f = oracle_format_of(dtype);
    return fmax(ldexp(fabs(y64), -f.digits), ldexp(0.5, f.min_exponent));
}

static inline int oracle_same(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/* exact: integer data, must be equal while S is small. range: the term of DESIGN item 2 for scaled splits; 0 = none. */
static inline oracle_verdict oracle_judge(const oracle_value *v, double y, int32_t dtype, int32_t math, int exact,
                                          double range)
{
    oracle_format f = oracle_format_of(dtype);
    oracle_verdict verdict = {1, 0, 0, 0};
    double y64 = isfinite(v->high) ? v->high + v->low : v->high, inner;
    verdict.want = oracle_round(dtype, y64);
    if (v->sum >= f.range) return verdict;                                  /* nothing is promised */
    if (v->special || v->products == 0 || (exact && v->sum < 1 / f.u)) {
        verdict.pass = oracle_same(y, verdict.want);
        verdict.error = verdict.pass ? 0 : isfinite(y) && isfinite(y64) ? fabs(y - y64) : INFINITY;
        return verdict;
    }
    inner = oracle_inner_bound(v, dtype, math) + range;
    verdict.bound = inner + oracle_output_bound(y64, dtype);
    verdict.error = isfinite(y) && isfinite(v->high) ? fabs((y - v->high) - v->low) : INFINITY;
    if (isinf(y) && (y > 0) == (y64 > 0) && fabs(y64) + inner >= f.overflow) verdict.error = 0;
    if (isfinite(y) && fabs(y64) - inner >= f.overflow) verdict.error = INFINITY;
    verdict.pass = verdict.error <= verdict.bound;
    return verdict;
}

#endif
