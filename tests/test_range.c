/* Promise: default f32 keeps the bound of the numeric contract where the range of a split is strained: values near the
 * largest number, subnormals, and magnitudes mixed within a window, between channels and between samples. Every kernel
 * of the device by force, the layouts in turn, on shapes from 1 to 64 channels. No sum exceeds f32's range: an infinity
 * or NaN in y is wrong. Argument: the name of one kernel (default all). */
#include "common.h"
#include <float.h>

/* ---- data: what an element of x, w or bias is ---- */

/* Of x: the sample and the input channel; of w: the input channel and the output channel; of the bias: the channel. */
typedef struct place {
    int tensor;                         /* CHECK_X, CHECK_W, CHECK_BIAS */
    int64_t sample, in, out;
    uint64_t i;                         /* within the tensor */
    uint64_t seed;
} place;

static uint64_t salt(const place *p, uint64_t factor) { return p->seed * factor + (uint64_t)p->tensor; }
static int among(const place *p, int n) { return (int)(oracle_hash(salt(p, 11), p->i) % (uint64_t)n); }
static double sign(const place *p) { return oracle_hash(salt(p, 7), p->i) & 1 ? 1 : -1; }

/* +-[0.5, 1) * 2^exponent, the exponent by tensor. */
static double about(const place *p, int x, int w, int bias)
{
    int exponent = p->tensor == CHECK_X ? x : p->tensor == CHECK_W ? w : bias;
    return sign(p) * ldexp(0.5 + 0.5 * oracle_uniform(salt(p, 3), p->i), exponent);
}

/* K is at most 64*27 < 2^11: with the other operand at 2^-13 the sums stay below the largest number. */
static double x_near_largest(const place *p) { return about(p, 128, -13, 100); }
static double w_near_largest(const place *p) { return about(p, -13, 128, 100); }
static double largest(const place *p) { return sign(p) * (double)FLT_MAX; }
static double x_largest(const place *p) { return p->tensor == CHECK_X ? largest(p) : about(p, 0, -13, 0); }
static double w_largest(const place *p) { return p->tensor == CHECK_W ? largest(p) : about(p, -13, 0, 0); }
static double both_large(const place *p) { return about(p, 57, 57, 120); }
static double x_subnormal(const place *p) { return about(p, -126 - among(p, 20), 0, -130); }
static double w_subnormal(const place *p) { return about(p, 0, -126 - among(p, 20), -130); }
static double x_subnormal_w_large(const place *p) { return about(p, -140, 127, -20); }
static double products_underflow(const place *p) { return about(p, -75 + among(p, 4), -75 + among(p, 4), -120); }
static double mixed_in_x(const place *p) { return about(p, 12 * (among(p, 11) - 5), 0, 0); }
static double mixed_in_w(const place *p) { return about(p, 0, 12 * (among(p, 11) - 5), 0); }
static double mixed_in_both(const place *p) { return about(p, 5 * (among(p, 11) - 5), 5 * (among(p, 11) - 5), 0); }

/* The largest number in one element of 97, subnormals beside it. */
static double spikes(const place *p)
{
    return p->tensor == CHECK_X && among(p, 97) == 0 ? largest(p) : about(p, -130, -13, 0);
}
/* Each input channel in a range of its own, and w in the opposite one: all products are of one size. */
static double channels_balanced(const place *p)
{
    int far = (int)(p->in % 9) * 20 - 80;
    return about(p, far, -far, 0);
}
/* Neither samples nor output channels may lose anything to their neighbours. */
static double samples_apart(const place *p) { return about(p, p->sample ? -100 : 100, 0, -90); }
static double outputs_apart(const place *p) { return about(p, 0, p->out % 2 ? -100 : 100, p->out % 2 ? -100 : 100); }
/* All zero but one sample, but for one element; some output channels have no weight at all. */
static double nearly_nothing(const place *p)
{
    if (p->tensor == CHECK_X) return p->sample && p->i % 41 == 0 ? about(p, -147 + among(p, 3), 0, 0) : 0;
    return p->tensor == CHECK_W && p->out % 3 == 0 ? 0 : about(p, 0, 0, 0);
}

static const struct { const char *name; double (*value)(const place *p); } kinds[] = {
    {"x near the largest number", x_near_largest}, {"w near the largest number", w_near_largest},
    {"x the largest number", x_largest}, {"w the largest number", w_largest}, {"both 2^57", both_large},
    {"x subnormal", x_subnormal}, {"w subnormal", w_subnormal},
    {"x subnormal, w near the largest number", x_subnormal_w_large}, {"products underflow", products_underflow},
    {"magnitudes mixed in x", mixed_in_x}, {"magnitudes mixed in w", mixed_in_w},
    {"magnitudes mixed in both", mixed_in_both},
    {"spikes of the largest number among subnormals", spikes},
    {"input channels 2^160 apart, products not", channels_balanced}, {"samples 2^200 apart", samples_apart},
    {"output channels 2^200 apart", outputs_apart}, {"nearly all zero", nearly_nothing},
};
enum { KINDS = (int)(sizeof kinds / sizeof kinds[0]) };

/* ---- problems ---- */

typedef struct problem { int64_t in, out, size, kernel, stride, padding, output_padding, dilation, groups; } problem;

static const problem problems[] = {
    {1, 1, 6, 3, 1, 0, 0, 1, 1},   {3, 16, 5, 3, 2, 1, 1, 1, 1},  {16, 16, 5, 3, 1, 1, 0, 1, 1},
    {64, 64, 3, 3, 1, 1, 0, 1, 1}, {64, 32, 4, 2, 2, 0, 0, 1, 1}, {32, 24, 5, 3, 2, 1, 1, 1, 1},
    {48, 40, 4, 4, 2, 1, 0, 1, 1}, {32, 16, 4, 3, 2, 1, 0, 2, 1}, {64, 1, 4, 4, 2, 1, 0, 1, 1},
    {32, 32, 4, 3, 2, 1, 0, 1, 4}, {32, 32, 5, 3, 2, 1, 1, 1, 32},
};
enum { PROBLEMS = (int)(sizeof problems / sizeof problems[0]) };

static convt3d_desc desc_of(const problem *p, const char *kernel, int32_t device, int32_t layout)
{
    convt3d_desc d = common_desc(p->in, p->out, p->size, p->kernel, p->stride, p->padding);
    int a;
    d.batch = 2;
    d.groups = p->groups;
    d.device = device;
    d.layout = layout;
    for (a = 0; a < 3; a++) {
        d.output_padding[a] = p->output_padding;
        d.dilation[a] = p->dilation;
    }
    snprintf(d.force, sizeof d.force, "%s", kernel);
    return d;
}

static void fill(common_data *c, double (*value)(const place *p), uint64_t seed)
{
    const oracle_problem *p = &c->problem;
    const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2], out_group = p->out[1] / p->groups;
    int64_t i, index[5] = {0, 0, 0, 0, 0};
    place at = {CHECK_X, 0, 0, 0, 0, 0};
    at.seed = seed;
    for (i = 0; i < c->problem.x_span; i++, oracle_step(p->in, index)) {
        at.i = (uint64_t)i;
        at.sample = index[0];
        at.in = index[1];
        oracle_store(CONVT3D_F32, c->x.data, oracle_offset(index, p->x_stride), value(&at));
    }
    for (at.tensor = CHECK_W, i = 0; i < p->w_count; i++) {
        at.i = (uint64_t)i;
        at.in = i / taps / out_group;
        at.out = at.in / (p->in[1] / p->groups) * out_group + i / taps % out_group;
        oracle_store(CONVT3D_F32, c->w.data, i, value(&at));
    }
    for (at.tensor = CHECK_BIAS, i = 0; i < p->out[1]; i++) {
        at.i = (uint64_t)i;
        at.out = i;
        oracle_store(CONVT3D_F32, c->bias.data, i, value(&at));
    }
}

/* -1: refused; 0: wrong; 1: right */
static int check(const problem *p, const char *kernel, int32_t device, int32_t layout, int kind)
{
    convt3d_desc d = desc_of(p, kernel, device, layout);
    convt3d_plan plan;
    convt3d_error error;
    check_request request;
    common_data c;
    int pass;
    if (convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, &error) == CONVT3D_REFUSED) return -1;
    if (!common_make(&c, &d, 0, 0)) return 0;
    fill(&c, kinds[kind].value, (uint64_t)(p - problems) * KINDS + (uint64_t)kind);
    memset(&request, 0, sizeof request);
    request.desc = d;
    request.x = c.io.x;
    request.w = c.io.w;
    request.bias = c.io.bias;
    pass = common_check(&request);
    if (!pass) tap_note("%s, %s: the data is this test's own", kernel, kinds[kind].name);
    common_free(&c);
    return pass;
}

/* By kind of data, over all problems that the kernel takes; a layout that it refuses is not made up for. */
static void test_kernel(int32_t device, const char *kernel)
{
    int kind, i, layout, taken = 0;
    for (kind = 0; kind < KINDS; kind++) {
        int wrong = 0;
        for (taken = 0, i = 0; i < PROBLEMS; i++)
            for (layout = 0; layout < 2; layout++) {
                int result;
                if ((i + kind) % 2 != layout && i != 0) continue;
                result = check(&problems[i], kernel, device, layout, kind);
                wrong += result == 0;
                taken += result >= 0;
            }
        if (taken == 0) break;
        tap_ok(wrong == 0, "%s: %s, %d problems", kernel, kinds[kind].name, taken);
    }
    if (taken == 0) tap_skip(kernel, "takes none of these problems on this machine");
}

int main(int argc, char **argv)
{
    const char *wanted = getenv("CONVT3D_TEST_DEVICE"), *kernel;
    const int32_t device = wanted && !strcmp(wanted, "cuda") ? CONVT3D_DEVICE_CUDA : CONVT3D_DEVICE_CPU;
    int32_t i, count;
    if (device == CONVT3D_DEVICE_CUDA && convt3d_device_count(&count, NULL) != CONVT3D_OK) {
        tap_skip("CUDA kernels", "no GPU");
        return tap_done();
    }
    for (i = 0; (kernel = convt3d_kernel_name(device, CONVT3D_FORWARD, i)) != NULL; i++)
        if (argc < 2 || !strcmp(argv[1], kernel)) test_kernel(device, kernel);
    return tap_done();
}
