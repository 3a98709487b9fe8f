/* tensors.c - reads the operands and derives the problem: type and sizes come from the files. */
#include "tensors.h"

static int load(const char *path, npy_array *array, int dimensions)
{
    char message[512];
    if (npy_read(path, array, message, sizeof message)) return fail("%s", message);
    if (array->dimensions == dimensions) return EXIT_PASS;
    return fail("%s: %d dimensions where %d are wanted", path, array->dimensions, dimensions);
}

/* w against x, bias against w: what the library cannot see, since it is told sizes and not arrays. */
static int compare(const options *opt, const tensors *t)
{
    if (t->w.dtype != t->x.dtype) {
        return fail("%s is %s, %s is %s", opt->w, dtype_name(t->w.dtype), opt->x, dtype_name(t->x.dtype));
    }
    if (t->w.shape[0] != t->desc.in_channels) {
        return fail("%s has %" PRId64 " input channels, %s has %" PRId64 " in layout %s", opt->w, t->w.shape[0], opt->x,
                    t->desc.in_channels, layout_name(t->desc.layout));
    }
    if (!opt->bias) return EXIT_PASS;
    if (t->bias.dtype != t->x.dtype) {
        return fail("%s is %s, %s is %s", opt->bias, dtype_name(t->bias.dtype), opt->x, dtype_name(t->x.dtype));
    }
    if (t->bias.shape[0] != t->desc.out_channels) {
        return fail("%s has %" PRId64 " values, but there are %" PRId64 " output channels", opt->bias, t->bias.shape[0],
                    t->desc.out_channels);
    }
    return EXIT_PASS;
}

static int describe(const options *opt, tensors *t)
{
    convt3d_desc *desc = &t->desc;
    int a, channels = desc->layout == CONVT3D_NCDHW ? 1 : 4, space = desc->layout == CONVT3D_NCDHW ? 2 : 1;
    desc->dtype = t->x.dtype;
    desc->batch = t->x.shape[0];
    desc->in_channels = t->x.shape[channels];
    desc->groups = opt->groups;
    desc->fixed_out_size = opt->has_out_size;
    for (a = 0; a < 3; a++) {
        desc->in_size[a] = t->x.shape[space + a];
        desc->kernel[a] = t->w.shape[2 + a];
        desc->stride[a] = opt->stride[a];
        desc->padding[a] = opt->padding[a];
        desc->output_padding[a] = opt->output_padding[a];
        desc->dilation[a] = opt->dilation[a];
        desc->out_size[a] = opt->out_size[a];
    }
    if (t->w.shape[1] > 0 && opt->groups > INT64_MAX / t->w.shape[1]) {
        return fail("--groups %" PRId64 " takes the output channels beyond 64 bits", opt->groups);
    }
    desc->out_channels = t->w.shape[1] * opt->groups;
    return EXIT_PASS;
}

int tensors_load(const options *opt, tensors *t)
{
    int status;
    memset(t, 0, sizeof *t);
    options_desc(opt, &t->desc);
    status = load(opt->x, &t->x, 5);
    if (!status) status = load(opt->w, &t->w, 5);
    if (!status && opt->bias) status = load(opt->bias, &t->bias, 1);
    if (!status) status = describe(opt, t);
    return status ? status : compare(opt, t);
}

void tensors_free(tensors *t)
{
    npy_free(&t->x);
    npy_free(&t->w);
    npy_free(&t->bias);
}
