/* dgrad.h - the gradient of x, as a problem of the forward driver.
 *
 * Idea: dx[ic, i] = sum over oc, k of dy[oc, i*stride - padding + k*dilation]*w[ic, oc, k] is a sum over taps of
 * shifted inputs, as forward is, once x and dy, in and out channels have changed places. Its outputs have one phase,
 * its inputs have `stride` of them, of which a tap reads one. Lines pack the phases of rows and columns side by side,
 * so that a tap is a plain shift again; panels, whose positions come in any order, read dy as it is. Leaves, blocking
 * and types are those of forward. Accumulating is adding a residual, dx itself.
 * Such an axis is known by its in_step, -dilation: tap k + t reads input i + t*dilation. Its stride is 1, and its gcd
 * says how many inputs lie between those of two outputs.
 * Requires: what the forward driver does, and where lines are summed a stride of at most 64 along height and width.
 * Measured with AVX2 on one core of an EPYC (Zen 3, 103 GFLOP/s of f32 multiply-adds in registers; the machine shared,
 * processor time), GFLOP/s of useful work: k3 s1 86 to 94, k3 s2 29 to 78, k2 s2 40 to 74, few channels 7 to 55.
 */
#ifndef CONVT3D_CPU_DGRAD_H
#define CONVT3D_CPU_DGRAD_H

static int convt3d__cpu_is_dx(const convt3d__plan *p) { return p->axis[0].in_step < 0; }

/* Inputs from those of one position to those of the next. */
static int64_t convt3d__cpu_step(const convt3d__axis *a) { return a->in_step < 0 ? a->gcd : 1; }

/* convt3d__taps_of() for both kinds of axes. */
static convt3d__taps convt3d__cpu_taps_of(const convt3d__axis *a, int64_t o, int64_t columns)
{
    convt3d__taps taps = {0, 0, 0};
    int64_t first, last, input = o * a->gcd - a->padding;
    if (a->in_step > 0) return convt3d__taps_of(a, o, columns);
    first = convt3d__max(0, convt3d__ceil_div(-(input + (columns - 1) * a->gcd), a->dilation));
    last = convt3d__min(a->kernel - 1, convt3d__floor_div(a->in - 1 - input, a->dilation));
    if (first > last) return taps;
    taps.k = first;
    taps.i = input + first * a->dilation;
    taps.count = last - first + 1;
    return taps;
}

/* The inputs that positions [first, end) read, inside the input or not: [*low, *high), counted within a phase of the
 * input where its phases are `split`. */
static void convt3d__cpu_window(const convt3d__axis *a, int split, int64_t first, int64_t end, int64_t *low,
                                int64_t *high)
{
    int64_t s = convt3d__cpu_step(a), reach = (a->kernel - 1) * a->dilation - a->padding;
    if (a->in_step > 0) {
        *low = convt3d__ceil_div(first * a->stride - reach, a->stride);
        *high = convt3d__floor_div(convt3d__min(end * a->stride, a->out) - 1 + a->padding, a->stride) + 1;
    } else if (split) {
        *low = first + convt3d__floor_div(-a->padding, s);
        *high = end + convt3d__floor_div(reach, s);
    } else {
        *low = first * s - a->padding;
        *high = (end - 1) * s + reach + 1;
    }
}

/* The plan that forward's driver runs. */
static convt3d__plan convt3d__cpu_dx_plan(const convt3d__plan *p)
{
    convt3d__plan q = *p;
    int i;
    q.desc.in_channels = p->desc.out_channels;
    q.desc.out_channels = p->desc.in_channels;
    q.in_group = p->out_group;
    q.out_group = p->in_group;
    q.x_count = p->y_count;
    q.y_count = p->x_count;
    q.stored = p->desc.dtype;
    memcpy(q.desc.x_stride, p->desc.dy_stride, sizeof q.desc.x_stride);
    memcpy(q.desc.y_stride, p->desc.dx_stride, sizeof q.desc.y_stride);
    for (i = 0; i < 3; i++) {
        convt3d__axis *a = &q.axis[i];
        a->in = p->axis[i].out;
        a->out = p->axis[i].in;
        a->gcd = a->stride;
        a->stride = a->tap_step = 1;
        a->in_step = -a->dilation;
    }
    memset(q.desc.ops, 0, sizeof q.desc.ops);
    q.op_count = q.fused = (p->desc.accumulate & CONVT3D_BACKWARD_X) != 0;
    if (q.fused) {
        q.desc.ops[0].kind = CONVT3D_OP_ADD;
        memcpy(q.desc.ops[0].stride, p->desc.dx_stride, sizeof q.desc.ops[0].stride);
    }
    return q;
}

static convt3d_io convt3d__cpu_dx_io(const convt3d_io *io)
{
    convt3d_io dx = *io;
    dx.x = io->dy;
    dx.y = io->dx;
    dx.bias = NULL;
    dx.ops[0].residual = io->dx;
    return dx;
}
#endif
