/* common.h - what several test programs share: names of types and layouts, reproducer lines, small buffers. */
#ifndef CONVT3D_TESTS_COMMON_H
#define CONVT3D_TESTS_COMMON_H

#include "check.h"
#include "shapes.h"
#include "tap.h"
#include "../tools/shape.h"
#include "../tools/then.h"

static const char *const common_dtypes[4] = {"f32", "f64", "f16", "bf16"};
static const char *const common_layouts[2] = {"ncdhw", "ndhwc"};

static inline void common_strides(const char *name, const int64_t s[5])
{
    if (oracle_all_zero(s)) return;
    tap_note("with %s %lld,%lld,%lld,%lld,%lld", name, (long long)s[0], (long long)s[1], (long long)s[2],
             (long long)s[3], (long long)s[4]);
}

/* The command that repeats one check, of the backward pass where `pass` is " --pass backward". What has no words on the
 * command line, a view's strides and what is added to, follows as text. */
static inline void common_reproducer_of(const check_request *r, const char *pass, const char *message)
{
    char shape[SHAPE_TEXT], then[THEN_TEXT];
    shape_format(&r->desc, shape, sizeof shape);
    tap_note("%s", message);
    then_format(r->desc.ops, then, sizeof then);
    tap_note("convt3d check %s%s%s%s --device %s --dtype %s --layout %s%s%s%s --data %s --seed %llu --threads %d",
             shape, pass, then[0] ? " --then " : "", then,
             r->desc.device == CONVT3D_DEVICE_CUDA ? "cuda" : "cpu", common_dtypes[r->desc.dtype],
             common_layouts[r->desc.layout], r->desc.math == CONVT3D_TF32 ? " --math tf32" : "",
             r->desc.force[0] ? " --kernel " : "", r->desc.force, r->exact ? "exact" : "real",
             (unsigned long long)r->seed, r->desc.threads);
    common_strides("x_stride", r->desc.x_stride);
    common_strides("y_stride", r->desc.y_stride);
    common_strides("dy_stride", r->desc.dy_stride);
    common_strides("dx_stride", r->desc.dx_stride);
    if (r->desc.accumulate) tap_note("with accumulate %d", (int)r->desc.accumulate);
}

static inline void common_reproducer(const check_request *r, const char *message)
{
    common_reproducer_of(r, "", message);
}

/* CUDA if CONVT3D_TEST_DEVICE says so. */
static inline int32_t common_device(void)
{
    const char *device = getenv("CONVT3D_TEST_DEVICE");
    return device && !strcmp(device, "cuda") ? CONVT3D_DEVICE_CUDA : CONVT3D_DEVICE_CPU;
}

/* Runs a check, on the GPU if CONVT3D_TEST_DEVICE is cuda; a failure prints its reproducer. */
static inline int common_check(const check_request *request)
{
    check_request placed = *request;
    check_result result;
    if (common_device()) placed.desc.device = common_device();
    check_case(&placed, &result);
    if (!result.pass) common_reproducer(&placed, result.message);
    return result.pass;
}

/* A problem with its data in memory, for tests that call the library themselves. */
typedef struct common_data {
    convt3d_desc desc;
    oracle_problem problem;
    check_buffer x, w, bias, y;
    check_run run;              /* owns the list's tensors */
    convt3d_io io;
    int32_t size;
} common_data;

static inline void common_free(common_data *c)
{
    check_free(&c->run);
}

/* Poisons y again. */
static inline void common_poison(common_data *c)
{
    int64_t i, index[5] = {0, 0, 0, 0, 0};
    memset(c->y.data, CHECK_SENTINEL, c->y.bytes);
    for (i = 0; i < c->problem.y_count; i++, oracle_step(c->problem.out, index))
        check_set_poison(c->y.data, oracle_offset(index, c->problem.y_stride), c->desc.dtype, c->size);
}

/* Returns 0 when memory is short or a size does not fit. seed % 7 == 6: no bias (see check.h). */
static inline int common_make(common_data *c, const convt3d_desc *desc, int exact, uint64_t seed)
{
    check_request request;
    check_run *run = &c->run;
    memset(c, 0, sizeof *c);
    memset(&request, 0, sizeof request);
    c->desc = request.desc = *desc;
    request.exact = exact;
    request.seed = seed;
    run->size = c->size = oracle_format_of(desc->dtype).size;
    if (!oracle_init(&run->problem, desc)) return 0;
    if (!check_make_inputs(&request, run, &c->io) || !check_make_output(run, &c->io)) {
        check_free(run);
        return 0;
    }
    run->io = c->io;
    c->problem = run->problem;
    c->x = run->x; c->w = run->w; c->bias = run->bias; c->y = run->y;
    return 1;
}

static inline double common_get(const common_data *c, int64_t linear)
{
    int64_t index[5];
    oracle_unravel(c->problem.out, linear, index);
    return oracle_load(c->desc.dtype, c->y.data, oracle_offset(index, c->problem.y_stride));
}

/* Are the outputs of two problems of the same logical size the same bits, whatever their strides? */
static inline int common_same_outputs(const common_data *a, const common_data *b)
{
    int64_t i, index[5] = {0, 0, 0, 0, 0};
    for (i = 0; i < a->problem.y_count; i++, oracle_step(a->problem.out, index)) {
        const unsigned char *p = a->y.data + oracle_offset(index, a->problem.y_stride) * a->size;
        const unsigned char *q = b->y.data + oracle_offset(index, b->problem.y_stride) * b->size;
        if (memcmp(p, q, (size_t)a->size)) return 0;
    }
    return 1;
}

/* Runs convt3d() on fresh y; a bad status is a note. */
static inline int common_run(common_data *c)
{
    convt3d_error error;
    common_poison(c);
    if (convt3d(&c->desc, &c->io, &error) == CONVT3D_OK) return 1;
    tap_note("%s", error.text);
    return 0;
}

/* convt3d_run() with the workspace that the plan wants. */
static inline convt3d_status common_run_plan(const convt3d_plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_io given = *io;
    convt3d_status status;
    given.workspace_bytes = convt3d_workspace_size(plan);
    given.workspace = given.workspace_bytes > 0 ? malloc((size_t)given.workspace_bytes) : NULL;
    status = convt3d_run(plan, &given, error);
    free(given.workspace);
    return status;
}

static inline convt3d_desc common_desc(int64_t channels_in, int64_t channels_out, int64_t in, int64_t kernel,
                                       int64_t stride, int64_t padding)
{
    convt3d_desc d;
    int a;
    memset(&d, 0, sizeof d);
    d.batch = 1;
    d.in_channels = channels_in;
    d.out_channels = channels_out;
    for (a = 0; a < 3; a++) {
        d.in_size[a] = in;
        d.kernel[a] = kernel;
        d.stride[a] = stride;
        d.padding[a] = padding;
    }
    return d;
}

#endif
