/* run.c - `convt3d run`: .npy files in, .npy file out. */
#include "commands.h"
#include "platform.h"
#include "tensors.h"

/* The shape of y, in the order of its layout. */
static void shape_y(const convt3d_desc *desc, const convt3d_info *info, npy_array *y)
{
    int a, channels = desc->layout == CONVT3D_NCDHW ? 1 : 4, space = desc->layout == CONVT3D_NCDHW ? 2 : 1;
    memset(y, 0, sizeof *y);
    y->dtype = desc->dtype;
    y->dimensions = 5;
    y->shape[0] = desc->batch;
    y->shape[channels] = desc->out_channels;
    for (a = 0; a < 3; a++) y->shape[space + a] = info->out_size[a];
    y->count = 1;
    for (a = 0; a < 5; a++) y->count *= y->shape[a];        /* the library has checked that this fits */
}

static int allocate_y(npy_array *y)
{
    uint64_t bytes = (uint64_t)y->count * (y->dtype == CONVT3D_F64 ? 8 : y->dtype == CONVT3D_F32 ? 4 : 2);
    if (bytes < SIZE_MAX / 2) y->data = malloc((size_t)bytes + 1);
    return y->data ? EXIT_PASS : fail("out of memory: %" PRIu64 " bytes for y", bytes);
}

static int compute(const tensors *t, npy_array *y, convt3d_info *info, double *seconds)
{
    convt3d_plan plan;
    convt3d_error error;
    convt3d_io io;
    double start;
    if (convt3d_plan_init(&plan, &t->desc, CONVT3D_FORWARD, &error) ||
        convt3d_plan_info(&plan, info, &error)) return fail("%s", error.text);
    shape_y(&t->desc, info, y);
    if (allocate_y(y)) return EXIT_USAGE;
    memset(&io, 0, sizeof io);
    io.x = t->x.data;
    io.w = t->w.data;
    io.bias = t->bias.data;
    io.y = y->data;
    start = platform_seconds();
    if (convt3d(&t->desc, &io, &error)) return fail("%s", error.text);
    *seconds = platform_seconds() - start;
    return EXIT_PASS;
}

int command_run(const options *opt)
{
    tensors t;
    npy_array y;
    convt3d_info info;
    char message[512];
    double seconds = 0;
    int status = tensors_load(opt, &t);
    memset(&y, 0, sizeof y);
    if (!status) status = compute(&t, &y, &info, &seconds);
    if (!status && npy_write(opt->out, &y, message, sizeof message)) status = fail("%s", message);
    if (!status) {
        printf("%s: %s %s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "], kernel %s, %.3g ms\n",
               opt->out, dtype_name(y.dtype), layout_name(t.desc.layout), y.shape[0], y.shape[1], y.shape[2],
               y.shape[3], y.shape[4], info.kernel, 1e3 * seconds);
    }
    npy_free(&y);
    tensors_free(&t);
    return status;
}
