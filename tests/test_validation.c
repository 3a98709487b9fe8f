/* Promise: every rule has its own status, found at plan time, whose error names field, axis, value and limit; and no
 * number in any field makes planning crash, hang or overflow. A status without a test here fails the program.
 * This file has its own private copy of the library, whose allocations can be made to fail; it is linked with
 * cpu/convt3d_cpu.c. */
#include <stdlib.h>
static int no_memory;
#define CONVT3D_MALLOC(context, bytes) ((void)(context), no_memory ? NULL : malloc(bytes))
#define CONVT3D_FREE(context, pointer) ((void)(context), free(pointer))
#define CONVT3D_STATIC
#define CONVT3D_IMPLEMENTATION
#ifndef CONVT3D_CPU_FAST
#  define CONVT3D_CPU_FAST
#endif
#include "../convt3d.h"
#include "check_backward.h"
#include "common.h"
#include <limits.h>
#include <time.h>

static int provoked[CONVT3D_STATUS_COUNT];

typedef struct exemption { convt3d_status status; const char *reason; } exemption;
static const exemption exemptions[] = {
    {CONVT3D_NO_KERNEL, "the last kernel of each device accepts everything"},
#ifdef CONVT3D_CUDA
    {CONVT3D_CUDA_ABSENT, "this build has CUDA"},
#endif
};

static convt3d_desc base(void)
{
    convt3d_desc d = common_desc(4, 6, 5, 3, 2, 1);
    d.groups = 2;
    return d;
}

/* text NULL: not looked at */
static void expect(convt3d_status got_status, const convt3d_error *e, convt3d_status status, const char *field,
                   int32_t axis, int64_t got, int64_t limit, const char *text)
{
    int pass = got_status == status && e->status == status && e->field && !strcmp(e->field, field) && e->axis == axis
            && e->got == got && e->limit == limit && memchr(e->text, 0, sizeof e->text)
            && (!text || !strcmp(e->text, text));
    provoked[status] = 1;
    if (!tap_ok(pass, "%s: %s", convt3d_status_string(status), e->text))
        tap_note("got status %s, field %s, axis %d, got %lld, limit %lld", convt3d_status_string(got_status),
                 e->field ? e->field : "(null)", e->axis, (long long)e->got, (long long)e->limit);
}

static void plan_fails(const convt3d_desc *d, convt3d_status status, const char *field, int32_t axis, int64_t got,
                       int64_t limit, const char *text)
{
    convt3d_plan plan;
    convt3d_error e;
    convt3d_status s;
    memset(&e, 0x55, sizeof e);
    e.field = NULL;
    s = convt3d_plan_init(&plan, d, CONVT3D_FORWARD, &e);
    expect(s, &e, status, field, axis, got, limit, text);
    if (convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) != status) tap_ok(0, "the same status without an error");
    if (convt3d_workspace_size(&plan) != -1) tap_ok(0, "a failed plan is no plan");
}

/* One rule of the desc: change it, and see it named. */
#define RULE(change, id, field, axis, got, limit, text) \
    do { convt3d_desc d = base(); change; plan_fails(&d, CONVT3D_##id, field, axis, got, limit, text); } while (0)

static void test_options(void)
{
    RULE(d.reserved[2] = 5, RESERVED_NOT_ZERO, "reserved", 2, 5, 0, "reserved[2] = 5 must be zero");
    RULE(d.reserved[14] = -1, RESERVED_NOT_ZERO, "reserved", 14, -1, 0, NULL);
    RULE(d.dtype = 4, DTYPE_UNKNOWN, "dtype", -1, 4, 3, "dtype = 4 is none of f32 (0), f64 (1), f16 (2), bf16 (3)");
    RULE(d.dtype = -1, DTYPE_UNKNOWN, "dtype", -1, -1, 3, NULL);
    RULE(d.layout = 2, LAYOUT_UNKNOWN, "layout", -1, 2, 1, "layout = 2 is none of NCDHW (0), NDHWC (1)");
    RULE(d.device = 7, DEVICE_UNKNOWN, "device", -1, 7, 1, NULL);
    RULE(d.math = -3, MATH_UNKNOWN, "math", -1, -3, 1, NULL);
    RULE(d.fixed_out_size = 2, FLAG_INVALID, "fixed_out_size", -1, 2, 1, "fixed_out_size = 2 must be 0 or 1");
    RULE(d.accumulate = 16, GRADIENT_BITS, "accumulate", -1, 16, 15,
         "accumulate = 16 must be a sum of CONVT3D_BACKWARD_... (0 ... 15)");
    RULE(d.backward = -1, GRADIENT_BITS, "backward", -1, -1, 15, NULL);
    RULE(d.threads = -1, THREADS_NEGATIVE, "threads", -1, -1, 0, NULL);
    RULE(d.workspace_limit = -8, WORKSPACE_LIMIT_NEGATIVE, "workspace_limit", -1, -8, 0, NULL);
    RULE(d.alignment = 24, ALIGNMENT_INVALID, "alignment", -1, 24, 4, NULL);
    RULE(d.alignment = 2, ALIGNMENT_INVALID, "alignment", -1, 2, 4,
         "alignment = 2 must be a power of two and at least the element size 4 (0 means 16)");
    RULE(d.alignment = INT64_MIN, ALIGNMENT_INVALID, "alignment", -1, INT64_MIN, 4, NULL);
    RULE(d.cuda_arch = -90, CUDA_ARCH_NEGATIVE, "cuda_arch", -1, -90, 0, NULL);
    RULE(memset(d.force, 'x', sizeof d.force), FORCE_NOT_TERMINATED, "force", -1, 0, 32, NULL);
    RULE(memcpy(d.force, "warp", 5), KERNEL_UNKNOWN, "force", -1, 0, 0,
         "force = \"warp\" names no kernel of this build, device and pass");
#ifndef CONVT3D_CUDA
    RULE(d.device = CONVT3D_DEVICE_CUDA, CUDA_ABSENT, "device", -1, 1, 0,
         "device = CUDA, but this build has no CUDA back end (CONVT3D_CUDA was not defined)");
#endif
}

static void test_sizes(void)
{
    RULE(d.batch = -1, BATCH_NEGATIVE, "batch", -1, -1, 0, "batch = -1 must not be negative");
    RULE(d.in_channels = 0, IN_CHANNELS_NOT_POSITIVE, "in_channels", -1, 0, 1, "in_channels = 0 must be at least 1");
    RULE(d.out_channels = -4, OUT_CHANNELS_NOT_POSITIVE, "out_channels", -1, -4, 1, NULL);
    RULE(d.groups = -1, GROUPS_NEGATIVE, "groups", -1, -1, 0, NULL);
    RULE(d.groups = 3, GROUPS_DIVIDE_IN, "groups", -1, 3, 4, "groups = 3 must divide in_channels = 4");
    RULE(d.groups = 4, GROUPS_DIVIDE_OUT, "groups", -1, 4, 6, "groups = 4 must divide out_channels = 6");
    RULE(d.in_size[2] = 0, IN_SIZE_TOO_SMALL, "in_size", 2, 0, 1, "in_size[2] = 0 must be at least 1");
    RULE((d.fixed_out_size = 1, d.in_size[0] = -1), IN_SIZE_TOO_SMALL, "in_size", 0, -1, 0, NULL);
    RULE(d.kernel[1] = 0, KERNEL_NOT_POSITIVE, "kernel", 1, 0, 1, NULL);
    RULE(d.stride[0] = -2, STRIDE_NEGATIVE, "stride", 0, -2, 0, "stride[0] = -2 must not be negative (0 means 1)");
    RULE(d.dilation[2] = -1, DILATION_NEGATIVE, "dilation", 2, -1, 0, NULL);
    RULE(d.output_padding[1] = -1, OUTPUT_PADDING_NEGATIVE, "output_padding", 1, -1, 0, NULL);
    RULE(d.output_padding[1] = 3, OUTPUT_PADDING_TOO_LARGE, "output_padding", 1, 3, 2,
         "output_padding[1] = 3 must be smaller than max(stride[1], dilation[1]) = 2");
    RULE((d.dilation[2] = 5, d.output_padding[2] = 5), OUTPUT_PADDING_TOO_LARGE, "output_padding", 2, 5, 5, NULL);
    RULE((d.fixed_out_size = 1, d.output_padding[1] = 1), OUTPUT_PADDING_AND_OUT_SIZE, "output_padding", 1, 1, 0, NULL);
    RULE((d.fixed_out_size = 1, d.out_size[2] = -3), OUT_SIZE_NEGATIVE, "out_size", 2, -3, 0, NULL);
    RULE(d.out_size[0] = 9, OUT_SIZE_NOT_FIXED, "out_size", 0, 9, 0, NULL);
    RULE(d.padding[1] = 6, OUTPUT_EMPTY, "padding", 1, -1, 6,
         "the output size on axis 1 is -1: padding[1] = 6 crops everything");
}

static void test_large(void)
{
    const int64_t big = (int64_t)1 << 31, most = (int64_t)PTRDIFF_MAX;
    int a;
    RULE(d.stride[1] = INT64_MAX, GEOMETRY_OVERFLOW, "stride", 1, INT64_MAX, 0, NULL);
    RULE(d.dilation[2] = INT64_MAX, GEOMETRY_OVERFLOW, "dilation", 2, INT64_MAX, 0, NULL);
    RULE(d.padding[0] = INT64_MIN, GEOMETRY_OVERFLOW, "padding", 0, INT64_MIN, 0, NULL);
    RULE((d.fixed_out_size = 1, d.out_size[0] = INT64_MAX), GEOMETRY_OVERFLOW, "out_size", 0, INT64_MAX, 0, NULL);
    RULE(for (a = 0; a < 3; a++) { d.fixed_out_size = 1; d.out_size[a] = 1; d.in_size[a] = big; }, X_TOO_LARGE, "x",
         -1, 0, most, NULL);
    RULE(d.kernel[0] = d.kernel[1] = d.kernel[2] = big, W_TOO_LARGE, "w", -1, 0, most, NULL);
    RULE(for (a = 0; a < 3; a++) { d.fixed_out_size = 1; d.out_size[a] = big; }, Y_TOO_LARGE, "y", -1, 0, most, NULL);
    RULE((d.x_stride[0] = INT64_MAX, d.batch = 3), X_TOO_LARGE, "x", -1, 0, most, NULL);
    RULE((d.dy_stride[0] = INT64_MAX, d.batch = 3), DY_TOO_LARGE, "dy", -1, 0, most, NULL);
    RULE((d.dx_stride[0] = INT64_MAX / 2, d.batch = 3), DX_TOO_LARGE, "dx", -1, 0, most, NULL);
}

static void test_strides(void)
{
    const int64_t y[5] = {6 * 729, 729, 81, 9, 1};      /* dense, output 9x9x9 */
    const int64_t dx[5] = {4 * 125, 125, 25, 5, 1};
    RULE(d.dy_stride[2] = -1, DY_STRIDE_NEGATIVE, "dy_stride", 2, -1, 0, "dy_stride[2] = -1 must not be negative");
    RULE(d.dx_stride[1] = -5, DX_STRIDE_NEGATIVE, "dx_stride", 1, -5, 0, "dx_stride[1] = -5 must not be negative");
    RULE((memcpy(d.dx_stride, dx, sizeof dx), d.dx_stride[2] = 24), DX_STRIDE_OVERLAP, "dx_stride", 2, 24, 25,
         "dx_stride[2] = 24 must be at least 25, or elements of dx overlap");
    RULE((memcpy(d.dx_stride, dx, sizeof dx), d.dx_stride[4] = 0), DX_STRIDE_OVERLAP, "dx_stride", 4, 0, 1, NULL);
    RULE(d.x_stride[3] = -1, X_STRIDE_NEGATIVE, "x_stride", 3, -1, 0, "x_stride[3] = -1 must not be negative");
    RULE(d.y_stride[4] = -7, Y_STRIDE_NEGATIVE, "y_stride", 4, -7, 0, NULL);
    RULE((memcpy(d.y_stride, y, sizeof y), d.y_stride[3] = 8), Y_STRIDE_OVERLAP, "y_stride", 3, 8, 9,
         "y_stride[3] = 8 must be at least 9, or elements of y overlap");
    RULE((memcpy(d.y_stride, y, sizeof y), d.y_stride[4] = 0), Y_STRIDE_OVERLAP, "y_stride", 4, 0, 1, NULL);
    RULE((memcpy(d.y_stride, y, sizeof y), d.y_stride[1] = 1), Y_STRIDE_OVERLAP, "y_stride", 4, 1, 6, NULL);
}

/* ---- rules of the calls ---- */

/* What follows the convolution. */
#define OP(i, name, first, second, count) \
    (d.ops[i].kind = CONVT3D_OP_##name, d.ops[i].a = first, d.ops[i].b = second, d.ops[i].groups = count)

static void test_list(void)
{
    RULE(d.ops[0].kind = -1, OP_UNKNOWN, "ops", 0, -1, CONVT3D_OP_COUNT - 1,
         "ops[0].kind = -1 is no entry of CONVT3D_OPS (0 ... 20)");
    RULE((OP(0, RELU, 0, 0, 0), d.ops[1].kind = CONVT3D_OP_COUNT), OP_UNKNOWN, "ops", 1, CONVT3D_OP_COUNT,
         CONVT3D_OP_COUNT - 1, NULL);
    RULE(OP(1, RELU, 0, 0, 0), OP_AFTER_END, "ops", 1, CONVT3D_OP_RELU, 0,
         "ops[1] follows the end of the list and must be zero");
    RULE((OP(0, RELU, 0, 0, 0), d.ops[2].b = 1), OP_AFTER_END, "ops", 2, 0, 0, NULL);
    RULE(OP(0, RELU, 1, 0, 0), OP_PARAMETER_UNUSED, "a", 0, 0, 0, "ops[0].a must be zero: relu does not use it");
    RULE(OP(0, ELU, 1, 2, 0), OP_PARAMETER_UNUSED, "b", 0, 0, 0, NULL);
    RULE(OP(0, BATCH_NORM, 1, 0, 3), OP_PARAMETER_UNUSED, "groups", 0, 3, 0, NULL);
    RULE((OP(0, CHANNEL_AFFINE, 0, 0, 0), d.ops[0].stride[4] = 1), OP_PARAMETER_UNUSED, "stride", 0, 1, 0, NULL);
    RULE((OP(0, ADD, 0, 0, 0), d.ops[0].stride[1] = -2), OP_STRIDE_NEGATIVE, "stride", 0, -2, 0,
         "ops[0].stride = -2 must not be negative");
    RULE((OP(0, ADD, 0, 0, 0), d.ops[0].stride[1] = INT64_MAX / 4), OP_RESIDUAL_TOO_LARGE, "ops", 0, 0,
         (int64_t)PTRDIFF_MAX, NULL);
    RULE(OP(0, AFFINE, NAN, 0, 0), OP_PARAMETER, "a", 0, 0, 0, "ops[0].a must be a number, not NaN");
    RULE(OP(0, CLAMP, 0, NAN, 0), OP_PARAMETER, "b", 0, 0, 0, NULL);
    RULE(OP(0, SOFTPLUS, 0, 20, 0), OP_PARAMETER, "a", 0, 0, 0, "ops[0].a must be positive: it is softplus's beta");
    RULE(OP(0, GROUP_NORM, -1e-5, 0, 1), OP_PARAMETER, "a", 0, 0, 0, NULL);
    RULE(OP(0, GROUP_NORM, 1e-5, 0, 0), OP_GROUPS, "groups", 0, 0, 6, NULL);
    RULE(OP(0, GROUP_NORM, 1e-5, 0, 4), OP_GROUPS, "groups", 0, 4, 6,
         "ops[0].groups = 4 must be at least 1 and divide out_channels = 6");
    RULE((d = common_desc(4, 6, 1, 1, 1, 0), OP(0, BATCH_NORM, 1e-5, 0.1, 0)), OP_ONE_VALUE, "ops", 0, 0, 0,
         "ops[0]: a batch normalisation of one value a channel has no variance");
}

static void run_fails(const convt3d_desc *d, const convt3d_io *io, convt3d_status status, const char *field,
                      int64_t got, int64_t limit)
{
    convt3d_plan plan;
    convt3d_error e;
    if (convt3d_plan_init(&plan, d, CONVT3D_FORWARD, &e) != CONVT3D_OK) { tap_ok(0, "%s", e.text); return; }
    expect(common_run_plan(&plan, io, &e), &e, status, field, -1, got, limit, NULL);
}

/* The same for an entry of the list. */
static void entry_fails(const convt3d_desc *d, const convt3d_io *io, convt3d_status status, const char *field,
                        int32_t entry, int64_t limit, const char *text)
{
    convt3d_plan plan;
    convt3d_error e;
    if (convt3d_plan_init(&plan, d, CONVT3D_FORWARD, &e) != CONVT3D_OK) { tap_ok(0, "%s", e.text); return; }
    expect(common_run_plan(&plan, io, &e), &e, status, field, entry, 0, limit, text);
}

/* Rules that take a kernel other than the reference, which wants no memory and refuses nothing. */
static void test_portable(void)
{
    convt3d_desc d = base();
    convt3d_plan plan;
    convt3d_error e;
    common_data c;
    convt3d_io io;
    memcpy(d.force, "portable", sizeof "portable");
    if (convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, &e) != CONVT3D_OK || !common_make(&c, &d, 1, 1)) return;
    io = c.io;
    io.workspace_bytes = convt3d_workspace_size(&plan) - 1;
    io.workspace = malloc((size_t)io.workspace_bytes + 1);
    expect(convt3d_run(&plan, &io, &e), &e, CONVT3D_WORKSPACE_TOO_SMALL, "workspace_bytes", -1, io.workspace_bytes,
           io.workspace_bytes + 1, NULL);
    free(io.workspace);
    no_memory = 1;
    expect(convt3d(&d, &c.io, &e), &e, CONVT3D_OUT_OF_MEMORY, "workspace", -1, 0, convt3d_workspace_size(&plan), NULL);
    no_memory = 0;
    common_free(&c);
    d.workspace_limit = 1;
    expect(convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, &e), &e, CONVT3D_REFUSED, "force", -1, 0, 0, NULL);
}

static void test_pointers(void)
{
    convt3d_desc d = base();
    common_data c;
    convt3d_io io;
    if (!common_make(&c, &d, 1, 1)) { tap_ok(0, "out of memory"); return; }
    io = c.io; io.x = NULL; run_fails(&d, &io, CONVT3D_NULL_ARGUMENT, "x", 0, 0);
    io = c.io; io.w = NULL; run_fails(&d, &io, CONVT3D_NULL_ARGUMENT, "w", 0, 0);
    io = c.io; io.y = NULL; run_fails(&d, &io, CONVT3D_NULL_ARGUMENT, "y", 0, 0);
    io = c.io; io.w_packed = c.io.w; run_fails(&d, &io, CONVT3D_W_AND_PACKED, "w_packed", 0, 0);
    io = c.io; io.x = c.x.data + 2; run_fails(&d, &io, CONVT3D_MISALIGNED, "x", 0, 16);
    io = c.io; io.w = c.w.data + 4; run_fails(&d, &io, CONVT3D_MISALIGNED, "w", 0, 16);
    io = c.io; io.y = c.y.data + 8; run_fails(&d, &io, CONVT3D_MISALIGNED, "y", 0, 16);
    io = c.io; io.bias = c.bias.data + 1; run_fails(&d, &io, CONVT3D_MISALIGNED, "bias", 0, 4);
    io = c.io; io.x = c.y.data + 64; run_fails(&d, &io, CONVT3D_ALIASED, "x", 0, 0);
    io = c.io; io.w = c.y.data; run_fails(&d, &io, CONVT3D_ALIASED, "w", 0, 0);
    io = c.io; io.bias = c.y.data + c.y.bytes - 4; run_fails(&d, &io, CONVT3D_ALIASED, "bias", 0, 0);
    common_free(&c);
}

/* The tensors of the list, and y beside them. */
static void test_list_pointers(void)
{
    static float x[512], w[512], y[8192], other[8192];
    convt3d_desc d = base();
    convt3d_io io, good;
    memset(&good, 0, sizeof good);
    good.x = x; good.w = w; good.y = y;
    OP(0, ADD, 0, 0, 0);
    OP(1, MULTIPLY, 0, 0, 0);
    OP(2, GROUP_NORM, 1e-5, 0, 3);
    OP(3, CHANNEL_AFFINE, 0, 0, 0);
    good.ops[0].residual = good.ops[1].residual = other;
    io = good; io.ops[1].residual = NULL;
    entry_fails(&d, &io, CONVT3D_OP_TENSOR_MISSING, "residual", 1, 0, "io.ops[1].residual must not be NULL");
    io = good; io.ops[2].running_var = other;
    entry_fails(&d, &io, CONVT3D_OP_TENSOR_UNUSED, "running_var", 2, 0,
                "io.ops[2].running_var must be NULL: group_norm does not use it");
    io = good; io.ops[5].scale = other;
    entry_fails(&d, &io, CONVT3D_OP_TENSOR_UNUSED, "scale", 5, 0, NULL);
    io = good; io.ops[2].mean = (char *)other + 2;
    entry_fails(&d, &io, CONVT3D_OP_MISALIGNED, "mean", 2, 4, NULL);
    io = good; io.ops[0].residual = io.ops[1].residual = y;
    entry_fails(&d, &io, CONVT3D_OP_ALIASED, "residual", 1, 0,
                "y overlaps io.ops[1].residual (only one residual may be y, with y's strides)");
    io = good; io.ops[0].residual = y + 1;
    entry_fails(&d, &io, CONVT3D_OP_ALIASED, "residual", 0, 0, NULL);
    io = good; io.ops[3].shift = y + 5;
    entry_fails(&d, &io, CONVT3D_OP_ALIASED, "shift", 3, 0, NULL);
    io = good; io.ops[2].rstd = y + 5;
    entry_fails(&d, &io, CONVT3D_OP_ALIASED, "rstd", 2, 0, NULL);
}

/* ---- the backward pass ---- */

static void backward_fails(const convt3d_desc *d, int32_t pass, const convt3d_io *io, convt3d_status status,
                           const char *field, int32_t axis, int64_t got, int64_t limit, const char *text)
{
    convt3d_plan plan;
    convt3d_error e;
    if (convt3d_plan_init(&plan, d, pass, &e) != CONVT3D_OK) { tap_ok(0, "%s", e.text); return; }
    expect(common_run_plan(&plan, io, &e), &e, status, field, axis, got, limit, text);
}

/* Tensors of one desc, none of which meets another. */
static void test_backward_pointers(void)
{
    static float x[512], w[512], dy[8192], dx[512], dw[512], dbias[8];
    const int32_t all = CONVT3D_BACKWARD;
    convt3d_desc d = base();
    convt3d_io io, good;
    memset(&good, 0, sizeof good);
    good.x = x; good.w = w; good.dy = dy; good.dx = dx; good.dw = dw; good.dbias = dbias;
    io = good; io.dy = NULL; backward_fails(&d, all, &io, CONVT3D_NULL_ARGUMENT, "dy", -1, 0, 0, NULL);
    io = good; io.x = NULL; backward_fails(&d, all, &io, CONVT3D_NULL_ARGUMENT, "x", -1, 0, 0, NULL);
    io = good; io.w = NULL; backward_fails(&d, all, &io, CONVT3D_NULL_ARGUMENT, "w", -1, 0, 0, NULL);
    io = good; io.w_packed = dx; backward_fails(&d, all, &io, CONVT3D_W_AND_PACKED, "w_packed", -1, 0, 0, NULL);
    io = good; io.dy = dy + 1; backward_fails(&d, all, &io, CONVT3D_MISALIGNED, "dy", -1, 0, 16, NULL);
    io = good; io.dx = dx + 2; backward_fails(&d, all, &io, CONVT3D_MISALIGNED, "dx", -1, 0, 16, NULL);
    io = good; io.dw = dw + 3; backward_fails(&d, all, &io, CONVT3D_MISALIGNED, "dw", -1, 0, 16, NULL);
    io = good; io.dbias = (char *)dbias + 2; backward_fails(&d, all, &io, CONVT3D_MISALIGNED, "dbias", -1, 0, 4, NULL);
    io = good; io.dx = dy; backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "dx", -1, 0, 0, "dx overlaps dy");
    io = good; io.dw = x; backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "dw", -1, 0, 0, "dw overlaps x");
    io = good; io.dw = dx; backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "dw", -1, 0, 0, "dw overlaps dx");
    io = good; io.dbias = dy + 8; backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "dbias", -1, 0, 0, NULL);
    backward_fails(&d, CONVT3D_BACKWARD_X, &good, CONVT3D_GRADIENT_NOT_PLANNED, "dw", -1, 1, 0,
                   "dw is given, but the plan's pass (1) does not compute it");
    backward_fails(&d, CONVT3D_BACKWARD_W, &good, CONVT3D_GRADIENT_NOT_PLANNED, "dx", -1, 2, 0, NULL);
    backward_fails(&d, 3, &good, CONVT3D_GRADIENT_NOT_PLANNED, "dbias", -1, 3, 0, NULL);
    OP(0, ADD, 0, 0, 0);
    io = good; io.dbias = NULL; io.ops[0].d_residual = w;
    backward_fails(&d, 3, &io, CONVT3D_GRADIENT_NOT_PLANNED, "d_residual", 0, 3, 0, NULL);
}

/* What the list of a backward pass wants, and what it must not be given. */
static void test_backward_list(void)
{
    static float x[512], w[512], y[8192], dy[8192], saved[8192], other[8192], dx[512], small[32];
    const int32_t all = CONVT3D_BACKWARD;
    convt3d_desc d = base();
    convt3d_io io, good;
    memset(&good, 0, sizeof good);
    good.x = x; good.w = w; good.y = y; good.saved = saved;
    d.backward = all;
    OP(0, ADD, 0, 0, 0);
    OP(1, GROUP_NORM, 1e-5, 0, 3);
    OP(2, MULTIPLY, 0, 0, 0);
    good.ops[0].residual = good.ops[2].residual = other;
    good.ops[1].mean = small; good.ops[1].rstd = small + 16;
    io = good; io.saved = NULL; entry_fails(&d, &io, CONVT3D_NULL_ARGUMENT, "saved", -1, 0, "saved must not be NULL");
    io = good; io.saved = (char *)saved + 4; entry_fails(&d, &io, CONVT3D_MISALIGNED, "saved", -1, 16, NULL);
    io = good; io.saved = y; entry_fails(&d, &io, CONVT3D_OUTPUT_ALIASED, "saved", -1, 0, "saved overlaps y");
    io = good; io.saved = other; entry_fails(&d, &io, CONVT3D_OUTPUT_ALIASED, "saved", 0, 0, "saved overlaps residual");
    io = good; io.ops[1].mean = saved; entry_fails(&d, &io, CONVT3D_OUTPUT_ALIASED, "saved", 1, 0, "saved overlaps mean");
    io = good; io.ops[1].mean = NULL;
    entry_fails(&d, &io, CONVT3D_OP_TENSOR_MISSING, "mean", 1, 0, "io.ops[1].mean must not be NULL");
    io = good; io.ops[1].rstd = NULL; entry_fails(&d, &io, CONVT3D_OP_TENSOR_MISSING, "rstd", 1, 0, NULL);
    d.backward = 0;
    entry_fails(&d, &good, CONVT3D_SAVED_UNUSED, "saved", -1, 0,
                "saved must be NULL: this forward pass does not write it (see convt3d_info.saves)");
    good.y = NULL; good.dy = dy; good.dx = dx;
    io = good; io.saved = NULL; backward_fails(&d, all, &io, CONVT3D_NULL_ARGUMENT, "saved", -1, 0, 0, NULL);
    io = good; io.ops[1].mean = NULL; backward_fails(&d, all, &io, CONVT3D_OP_TENSOR_MISSING, "mean", 1, 0, 0, NULL);
    io = good; io.ops[1].rstd = NULL; backward_fails(&d, all, &io, CONVT3D_OP_TENSOR_MISSING, "rstd", 1, 0, 0, NULL);
    io = good; io.ops[0].residual = NULL;
    backward_fails(&d, all, &io, CONVT3D_OP_TENSOR_MISSING, "residual", 0, 0, 0, NULL);
    io = good; io.ops[2].residual = NULL;
    backward_fails(&d, all, &io, CONVT3D_OP_TENSOR_MISSING, "residual", 2, 0, 0, NULL);
    io = good; io.ops[1].d_residual = other;
    backward_fails(&d, all, &io, CONVT3D_OP_TENSOR_UNUSED, "d_residual", 1, 0, 0, NULL);
    io = good; io.ops[1].d_scale = (char *)small + 1;
    backward_fails(&d, all, &io, CONVT3D_OP_MISALIGNED, "d_scale", 1, 0, 4, NULL);
    io = good; io.ops[0].d_residual = other;
    backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "d_residual", -1, 0, 0, "d_residual overlaps residual");
    io = good; io.ops[1].d_shift = small + 16;
    backward_fails(&d, all, &io, CONVT3D_OUTPUT_ALIASED, "d_shift", -1, 0, 0, "d_shift overlaps rstd");
    d = base();
    OP(0, RELU, 0, 0, 0);
    memset(&io, 0, sizeof io); io.w = w; io.dy = dy; io.dx = dx;
    backward_fails(&d, CONVT3D_BACKWARD_X, &io, CONVT3D_NULL_ARGUMENT, "y", -1, 0, 0, NULL);
}

static void test_nothing_to_pack(void)
{
    convt3d_desc d = base();
    convt3d_plan plan;
    convt3d_error e;
    static float w[512], packed[512];
    uint64_t tag;
    if (convt3d_plan_init(&plan, &d, CONVT3D_BACKWARD_W, &e) != CONVT3D_OK) { tap_ok(0, "%s", e.text); return; }
    expect(convt3d_pack_weights(&plan, w, packed, &tag, NULL, &e), &e, CONVT3D_PACK_UNUSED, "plan", -1, 2, 0,
           "the plan's pass (2) reads no weights: there is nothing to pack");
}

static void test_nulls(void)
{
    convt3d_desc d = base();
    convt3d_plan plan, none;
    convt3d_info info;
    convt3d_error e;
    convt3d_io io;
    uint64_t tag;
    float w[8] = {0};
    memset(&none, 0, sizeof none);
    memset(&io, 0, sizeof io);
    convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL);
    expect(convt3d_plan_init(NULL, &d, 0, &e), &e, CONVT3D_NULL_ARGUMENT, "plan", -1, 0, 0, "plan must not be NULL");
    expect(convt3d_plan_init(&none, NULL, 0, &e), &e, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, NULL);
    expect(convt3d_plan_init(&none, &d, 16, &e), &e, CONVT3D_PASS_UNKNOWN, "pass", -1, 16, 15,
           "pass = 16 is neither CONVT3D_FORWARD (0) nor a sum of CONVT3D_BACKWARD_... (1 ... 15)");
    expect(convt3d_plan_init(&none, &d, -1, &e), &e, CONVT3D_PASS_UNKNOWN, "pass", -1, -1, 15, NULL);
    expect(convt3d_backward(NULL, &io, &e), &e, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, NULL);
    expect(convt3d_backward(&d, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, NULL);
    expect(convt3d(NULL, &io, &e), &e, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, NULL);
    expect(convt3d(&d, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, NULL);
    expect(convt3d_run(&plan, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, NULL);
    expect(convt3d_run(&none, &io, &e), &e, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, NULL);
    expect(convt3d_run(NULL, &io, &e), &e, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, NULL);
    expect(convt3d_plan_info(&none, &info, &e), &e, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, NULL);
    expect(convt3d_plan_info(&plan, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "info", -1, 0, 0, NULL);
    expect(convt3d_pack_weights(&none, w, w, &tag, NULL, &e), &e, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, NULL);
    expect(convt3d_pack_weights(&plan, w, w, NULL, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "tag", -1, 0, 0, NULL);
    expect(convt3d_pack_weights(&plan, NULL, w, &tag, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "w", -1, 0, 0, NULL);
    expect(convt3d_explain(&d, 0, NULL, 10, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "text", -1, 0, 0, NULL);
    expect(convt3d_output_size(&d, NULL, &e), &e, CONVT3D_NULL_ARGUMENT, "out_size", -1, 0, 0, NULL);
}

static void test_packed(void)
{
    convt3d_desc d = base();
    convt3d_plan plan;
    convt3d_error e;
    convt3d_status s;
    common_data c;
    uint64_t tag = 0;
    void *packed;
    int64_t bytes;
    if (!common_make(&c, &d, 1, 1) || convt3d_plan_init(&plan, &d, 0, &e) != CONVT3D_OK) { tap_ok(0, "setup"); return; }
    bytes = convt3d_packed_size(&plan);
    packed = malloc((size_t)bytes + 64);
    if (packed && convt3d_pack_weights(&plan, c.io.w, packed, &tag, NULL, &e) == CONVT3D_OK) {
        convt3d_io io = c.io;
        io.w = NULL; io.w_packed = packed; io.pack_tag = tag ^ 2;
        s = common_run_plan(&plan, &io, &e);
        expect(s, &e, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)(tag ^ 2), (int64_t)tag, NULL);
    } else {
        tap_ok(0, "packing");
    }
    free(packed);
    common_free(&c);
}

static void test_geometry_calls(void)
{
    convt3d_desc d = base(), sub;
    convt3d_onnx onnx;
    convt3d_error e;
    int64_t from, to, wanted[3] = {9, 9, 14}, zero[3] = {9, 0, 9}, j;
    expect(convt3d_slab(&d, 3, 0, 1, &sub, &from, &to, &e), &e, CONVT3D_SLAB_AXIS, "axis", -1, 3, 2, NULL);
    expect(convt3d_slab(&d, -1, 0, 1, &sub, &from, &to, &e), &e, CONVT3D_SLAB_AXIS, "axis", -1, -1, 2, NULL);
    expect(convt3d_slab(&d, 1, 0, 10, &sub, &from, &to, &e), &e, CONVT3D_SLAB_RANGE, "end", 1, 10, 9, NULL);
    expect(convt3d_slab(&d, 1, 5, 4, &sub, &from, &to, &e), &e, CONVT3D_SLAB_RANGE, "begin", 1, 5, 4, NULL);
    expect(convt3d_slab(&d, 2, -1, 4, &sub, &from, &to, &e), &e, CONVT3D_SLAB_RANGE, "begin", 2, -1, 4, NULL);
    expect(convt3d_slab(&d, 0, 0, 1, NULL, &from, &to, &e), &e, CONVT3D_NULL_ARGUMENT, "sub", -1, 0, 0, NULL);
    expect(convt3d_solve_output_padding(&d, wanted, &e), &e, CONVT3D_OUTPUT_SIZE_UNREACHABLE, "wanted", 2, 14, 5,
           "output size 14 on axis 2 needs output_padding[2] = 5, outside 0 ... max(stride[2], dilation[2]) - 1");
    j = convt3d_solve_output_padding(&d, zero, &e);
    tap_ok(j == CONVT3D_OUTPUT_SIZE_UNREACHABLE && e.axis == 1 && e.got == 0, "a wanted size of 0 is unreachable");
    memset(&onnx, 0, sizeof onnx);
    onnx.auto_pad = 4;
    expect(convt3d_from_onnx(&d, &onnx, &e), &e, CONVT3D_ONNX_AUTO_PAD_UNKNOWN, "auto_pad", -1, 4, 3, NULL);
    onnx.auto_pad = CONVT3D_ONNX_SAME_LOWER;
    onnx.pads[4] = 1;
    expect(convt3d_from_onnx(&d, &onnx, &e), &e, CONVT3D_ONNX_PADS_WITH_AUTO_PAD, "pads", 4, 1, 0, NULL);
    onnx.pads[4] = 0;
    onnx.has_output_shape = 1;
    onnx.output_shape[0] = 4;
    expect(convt3d_from_onnx(&d, &onnx, &e), &e, CONVT3D_ONNX_OUTPUT_SHAPE, "output_shape", 1, 0, 1, NULL);
    onnx.has_output_shape = 2;
    expect(convt3d_from_onnx(&d, &onnx, &e), &e, CONVT3D_FLAG_INVALID, "has_output_shape", -1, 2, 1, NULL);
}

static void test_slab_of_list(void)
{
    convt3d_desc d = base(), sub;
    convt3d_error e;
    int64_t from, to;
    OP(0, RELU, 0, 0, 0);
    OP(1, GROUP_NORM, 1e-5, 0, 2);
    expect(convt3d_slab(&d, 0, 0, 2, &sub, &from, &to, &e), &e, CONVT3D_SLAB_NORM, "ops", 1, 0, 0,
           "ops[1] normalises over the output, of which a slab is a part");
}

static void test_ok(void)
{
    convt3d_desc d = base();
    convt3d_plan plan;
    convt3d_error e;
    convt3d_status s = convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, &e);
    expect(s, &e, CONVT3D_OK, "", -1, 0, 0, "ok");
    tap_ok(!strcmp(convt3d_status_string(CONVT3D_OK), "OK")
           && !strcmp(convt3d_status_string(CONVT3D_OUTPUT_PADDING_TOO_LARGE), "OUTPUT_PADDING_TOO_LARGE")
           && convt3d_status_string((convt3d_status)CONVT3D_STATUS_COUNT) != NULL
           && convt3d_status_string((convt3d_status)-1) != NULL, "status strings, for numbers out of range too");
    tap_ok(!strcmp(convt3d_version(), CONVT3D_VERSION), "version %s", convt3d_version());
}

static void test_all_provoked(void)
{
    size_t i;
    int s;
    for (i = 0; i < sizeof exemptions / sizeof exemptions[0]; i++)
        if (!provoked[exemptions[i].status]) {
            tap_note("%s is exempt: %s", convt3d_status_string(exemptions[i].status), exemptions[i].reason);
            provoked[exemptions[i].status] = 1;
        }
    for (s = 0; s < CONVT3D_STATUS_COUNT; s++)
        if (!provoked[s] && strncmp(convt3d_status_string((convt3d_status)s), "CUDA_", 5) == 0) {
            tap_note("%s is exempt: it takes a CUDA back end", convt3d_status_string((convt3d_status)s));
            provoked[s] = 1;
        }
    for (s = 0; s < CONVT3D_STATUS_COUNT; s++)
        if (!provoked[s]) tap_ok(0, "status %s has no test", convt3d_status_string((convt3d_status)s));
    tap_ok(1, "looked at all %d statuses", CONVT3D_STATUS_COUNT);
}

/* ---- extreme numbers ---- */

enum { WIDE_FIELDS = 47, NARROW_FIELDS = 9, FIELDS = WIDE_FIELDS + NARROW_FIELDS, VALUES = 7 };

/* Field number f of d takes extreme number v. */
static void set_field(convt3d_desc *d, int f, int v)
{
    static const int64_t wide[VALUES] = {0, 1, 2147483647, 2147483648, INT64_MAX, INT64_MIN, -1};
    static const int32_t narrow[VALUES] = {0, 1, 2, INT32_MAX, INT32_MAX - 1, INT32_MIN, -1};
    int64_t *const single[4] = {&d->batch, &d->in_channels, &d->out_channels, &d->groups};
    int64_t *const triple[7] = {d->in_size, d->kernel, d->stride, d->padding, d->output_padding, d->dilation,
                                d->out_size};
    int32_t *const small[NARROW_FIELDS] = {&d->fixed_out_size, &d->dtype, &d->layout, &d->device, &d->math, &d->threads,
                                           &d->cuda_arch, &d->accumulate, &d->backward};
    if (f < 4) *single[f] = wide[v];
    else if (f < 25) triple[(f - 4) / 3][(f - 4) % 3] = wide[v];
    else if (f < 30) d->x_stride[f - 25] = wide[v];
    else if (f < 35) d->y_stride[f - 30] = wide[v];
    else if (f < 40) d->dy_stride[f - 35] = wide[v];
    else if (f < 45) d->dx_stride[f - 40] = wide[v];
    else if (f == 45) d->workspace_limit = wide[v];
    else if (f == 46) d->alignment = wide[v];
    else *small[f - WIDE_FIELDS] = narrow[v];
}

/* Strides of the backward pass alone: a part of their pairs, for time. */
static int is_backward_stride(int f) { return f >= 35 && f < 45; }

static int small_enough(const convt3d_desc *d, const convt3d_info *info)
{
    oracle_problem p;
    double pairs = 0;
    int a;
    for (a = 0; a < 3; a++) pairs += (double)d->in_size[a] * (double)d->kernel[a];
    if (!oracle_init(&p, d)) return 0;
    if (oracle_span(p.out, d->dy_stride) > 20000 || oracle_span(p.in, d->dx_stride) > 20000) return 0;
    return p.x_span < 20000 && p.y_span < 20000 && p.w_count < 20000 && info->flops < 1e5 && pairs < 1e5 &&
           check_products(&p) < 1e5;
}

/* The same of all gradients. */
static int survives_backward(const convt3d_desc *d, int run)
{
    convt3d_plan plan;
    convt3d_info info;
    convt3d_error e;
    check_request request;
    check_result result;
    char text[2048];
    convt3d_status s = convt3d_plan_init(&plan, d, CONVT3D_BACKWARD, &e);
    if (s != CONVT3D_OK) return e.status == s && e.text[0];
    if (convt3d_plan_info(&plan, &info, &e) || !(info.flops >= 0) || !(info.bytes >= 0)) return 0;
    if (convt3d_explain(d, CONVT3D_BACKWARD, text, sizeof text, NULL, &e) || !strstr(text, info.kernel)) return 0;
    if (!run) return 1;
    memset(&request, 0, sizeof request);
    request.desc = *d;
    request.desc.threads = 1;
    request.exact = 1;
    backward_case(&request, &result);
    if (!result.pass) common_reproducer_of(&request, " --pass backward", result.message);
    return result.pass;
}

/* 1: a clear status, or a plan that all calls can talk about; where it is small, its results are right as well. */
static int survives(const convt3d_desc *d, int run)
{
    convt3d_plan plan;
    convt3d_info info;
    convt3d_error e;
    convt3d_desc sub;
    char text[2048];
    int64_t out[3], from, to;
    clock_t start = clock();
    int a;
    convt3d_status s = convt3d_plan_init(&plan, d, CONVT3D_FORWARD, &e);
    if (s != CONVT3D_OK) return e.status == s && e.text[0] && clock() - start < CLOCKS_PER_SEC / 4;
    if (convt3d_plan_info(&plan, &info, &e) || !(info.flops >= 0) || !(info.bytes >= 0)) return 0;
    if (convt3d_output_size(d, out, &e) || memcmp(out, info.out_size, sizeof out)) return 0;
    if (convt3d_explain(d, CONVT3D_FORWARD, text, sizeof text, NULL, &e) || !strstr(text, info.kernel)) return 0;
    for (a = 0; a < 3; a++)
        if (convt3d_slab(d, a, out[a] / 3, out[a], &sub, &from, &to, &e) || from < 0 || to < from) return 0;
    if (clock() - start > CLOCKS_PER_SEC / 4) return 0;
    if (run && !survives_backward(d, d->device == CONVT3D_DEVICE_CPU && small_enough(d, &info))) return 0;
    if (run && d->device == CONVT3D_DEVICE_CPU && small_enough(d, &info)) {
        check_request request;
        memset(&request, 0, sizeof request);
        request.desc = *d;
        request.desc.threads = 1;
        request.exact = 1;
        return common_check(&request);
    }
    return 1;
}

static void test_extremes(const char *name, const convt3d_desc *from)
{
    int f, g, v, u, bad = 0;
    for (f = 0; f < FIELDS; f++)
        for (v = 0; v < VALUES; v++) {
            convt3d_desc one = *from;
            set_field(&one, f, v);
            if (!survives(&one, 1) && bad++ < 5) tap_note("field %d value %d", f, v);
            for (g = f + 1; g < FIELDS; g++)
                for (u = 0; u < VALUES; u++) {
                    if ((is_backward_stride(f) || is_backward_stride(g)) && (f + g + u + v) % 4) continue;
                    convt3d_desc two = one;
                    set_field(&two, g, u);
                    if (!survives(&two, (f + g + u + v) % 8 == 0) && bad++ < 5)
                        tap_note("field %d value %d, field %d value %d", f, v, g, u);
                }
        }
    tap_ok(bad == 0, "extreme numbers in each field and each pair of fields: %s", name);
}

int main(void)
{
    convt3d_desc d = common_desc(2, 2, 3, 2, 2, 0), fixed;
    test_ok();
    test_options();
    test_sizes();
    test_large();
    test_strides();
    test_list();
    test_pointers();
    test_list_pointers();
    test_slab_of_list();
    test_backward_pointers();
    test_backward_list();
    test_nothing_to_pack();
    test_portable();
    test_nulls();
    test_packed();
    test_geometry_calls();
    test_all_provoked();
    fixed = d;
    fixed.fixed_out_size = 1;
    fixed.out_size[0] = fixed.out_size[1] = fixed.out_size[2] = 4;
    test_extremes("usual output size", &d);
    test_extremes("fixed output size", &fixed);
    return tap_done();
}
