/* list.h - the entries of the list that plan->fused counts, on finished values before they are rounded.
 *
 * Idea: values come as they were summed, the line of a phase or the channels of a voxel, still in the nearest cache;
 * an entry goes over all of them before the next one does, in the leaf's vectors for f32 and with the C library's
 * functions for f64. What follows, weaving and streaming into y, is the same with and without a list. In woven rows
 * what is affine or bounds a value is done while the sums are in registers, and the last other entry on the way to y.
 */
#ifndef CONVT3D_CPU_LIST_H
#define CONVT3D_CPU_LIST_H

/* The functions of one value, f32 or f64. */
static void convt3d__cpu_function(const convt3d__cpu_unit *u, int32_t kind, double a, double b, void *values, int64_t n)
{
    if (u->p->desc.dtype == CONVT3D_F64) convt3d__apply_function(kind, a, b, (double *)values, n);
    else u->leaves->list(kind, (float)a, (float)b, (float *)values, n);
}

/* values[i] *= other[i] or += other[i] */
static void convt3d__cpu_combine(const convt3d__cpu_unit *u, int multiply, void *values, const void *other, int64_t n)
{
    double *d = (double *)values;
    float *f = (float *)values;
    const double *e = (const double *)other;
    const float *g = (const float *)other;
    int64_t i;
    if (u->p->desc.dtype == CONVT3D_F64) {
        if (multiply) for (i = 0; i < n; i++) d[i] *= e[i];
        else for (i = 0; i < n; i++) d[i] += e[i];
    } else if (multiply) {
        for (i = 0; i < n; i++) f[i] *= g[i];
    } else {
        u->leaves->add[0](f, g, n, 1, 0, 0);
    }
}

/* A residual, up to 256 values at a time in the accumulator's type. step: in it, from one value to the next. */
static void convt3d__cpu_residual(const convt3d__cpu_unit *u, const convt3d_op *op, const void *residual, int64_t index,
                                  int64_t step, void *values, int64_t n)
{
    double wide[256 + CONVT3D__CPU_SLACK / 2];          /* leaves may read beyond */
    int64_t real = convt3d__cpu_real_size(u->p), i, part;
    for (i = 0; i < n; i += part) {
        part = convt3d__min(256, n - i);
        convt3d__cpu_gather(u->leaves, u->p->desc.dtype, wide,
                            convt3d__cpu_element(residual, u->p->desc.dtype, index + i * step), step, part);
        convt3d__cpu_combine(u, op->kind == CONVT3D_OP_MULTIPLY, (char *)values + i * real, wide, part);
    }
}

/* The scale or shift of n channels from oc on, as f64; `otherwise` where there is none. */
static void convt3d__cpu_channel_values(const convt3d__cpu_unit *u, const void *of, double otherwise, int64_t oc,
                                        double *to, int64_t n)
{
    int32_t wide = convt3d__wide(u->p->desc.dtype);
    int64_t i;
    for (i = 0; i < n; i++)
        to[i] = !of ? otherwise : wide == CONVT3D_F64 ? ((const double *)of)[oc + i] : (double)((const float *)of)[oc + i];
}

/* scale*v + shift of the channel, or of n channels from oc on: the same operations, so that bits do not depend on which
 * way to sum a size takes. */
static void convt3d__cpu_channel_affine(const convt3d__cpu_unit *u, const convt3d_op_io *t, int64_t oc, int axis,
                                        void *values, int64_t n)
{
    enum { MOST = 64 };
    double a[MOST], b[MOST], *d = (double *)values;
    float scale[MOST], shift[MOST];
    int64_t from, part, i;
    if (axis != 1) {
        convt3d__cpu_channel_values(u, t->scale, 1, oc, a, 1);
        convt3d__cpu_channel_values(u, t->shift, 0, oc, b, 1);
        convt3d__cpu_function(u, CONVT3D_OP_AFFINE, a[0], b[0], values, n);
        return;
    }
    for (from = 0; from < n; from += part) {
        part = convt3d__min(MOST, n - from);
        convt3d__cpu_channel_values(u, t->scale, 1, oc + from, a, part);
        convt3d__cpu_channel_values(u, t->shift, 0, oc + from, b, part);
        if (u->p->desc.dtype == CONVT3D_F64) {
            for (i = 0; i < part; i++) d[from + i] = a[i] * d[from + i] + b[i];
            continue;
        }
        for (i = 0; i < part; i++) { scale[i] = (float)a[i];  shift[i] = (float)b[i]; }
        u->leaves->affine((float *)values + from, scale, shift, part);
    }
}

/* What a list that is blind makes of f32 values of `channels` channels from oc on. */
static void convt3d__cpu_entries(const convt3d__cpu_unit *u, int64_t oc, int64_t channels,
                                 convt3d__cpu_entry entry[CONVT3D_MAX_OPS])
{
    int32_t i;
    int64_t r;
    for (i = 0; i < u->p->fused; i++) {
        const convt3d_op *op = &u->p->desc.ops[i];
        const float *scale = (const float *)u->io->ops[i].scale, *shift = (const float *)u->io->ops[i].shift;
        int by_channel = op->kind == CONVT3D_OP_CHANNEL_AFFINE;
        entry[i].kind = by_channel ? CONVT3D_OP_AFFINE : op->kind;
        for (r = 0; r < CONVT3D__CPU_MOST_ROWS; r++) {
            entry[i].a[r] = !by_channel ? (float)op->a : scale && r < channels ? scale[oc + r] : 1;
            entry[i].b[r] = !by_channel ? (float)op->b : shift && r < channels ? shift[oc + r] : 0;
        }
    }
}

/* v from a to b as a clamp or a ReLU has it: 1, or 0 where an entry is neither. */
static int convt3d__cpu_bounds(const convt3d__cpu_entry *of, convt3d__cpu_entry *bounds)
{
    *bounds = *of;
    if (of->kind == CONVT3D_OP_CLAMP) return 1;
    if (of->kind != CONVT3D_OP_RELU && of->kind != CONVT3D_OP_RELU6) return 0;
    bounds->a[0] = 0;
    bounds->b[0] = of->kind == CONVT3D_OP_RELU ? INFINITY : 6;
    return 1;
}

/* The list of a woven row: affine entries, clamps, ReLUs and one after the other are looked for at its beginning, as
 * they cost little while sums are in registers. */
static void convt3d__cpu_woven_list(const convt3d__cpu_unit *u, int64_t oc, convt3d__cpu_woven *w,
                                    convt3d__cpu_entry entry[CONVT3D_MAX_OPS + 1])
{
    int32_t n = u->p->fused, first = 0;
    convt3d__cpu_entries(u, oc, w->valid, entry);
    w->affine = w->bounds = NULL;
    if (n > 0 && entry[0].kind == CONVT3D_OP_AFFINE) w->affine = &entry[first++];
    if (n > first && convt3d__cpu_bounds(&entry[first], &entry[CONVT3D_MAX_OPS])) {
        w->bounds = &entry[CONVT3D_MAX_OPS];
        first++;
    }
    w->entry = entry + first;
    w->entries = n - first;
}

/* The whole of it on n values from `at` on along an axis (1: channels, 4: a row), `step` outputs apart. */
static void convt3d__cpu_apply(const convt3d__cpu_unit *u, const convt3d__cpu_place *at, int axis, int64_t step,
                               void *values, int64_t n)
{
    int32_t i;
    for (i = 0; i < u->p->fused; i++) {
        const convt3d_op *op = &u->p->desc.ops[i];
        const int64_t *s = op->stride;
        if (op->kind == CONVT3D_OP_ADD || op->kind == CONVT3D_OP_MULTIPLY)
            convt3d__cpu_residual(u, op, u->io->ops[i].residual, u->n * s[0] + at->oc * s[1] + at->od * s[2] +
                                  at->oh * s[3] + at->ow * s[4], step * s[axis], values, n);
        else if (op->kind == CONVT3D_OP_CHANNEL_AFFINE)
            convt3d__cpu_channel_affine(u, &u->io->ops[i], at->oc, axis, values, n);
        else convt3d__cpu_function(u, op->kind, op->a, op->b, values, n);
    }
}
#endif
