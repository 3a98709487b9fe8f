/* Promise: every kernel, pinned by force, is right on the whole table of cases or refuses, and accepts at least the
 * classes it was written for. Arguments: cpu or cuda (default cpu), then the name of one kernel (default all). */
#include "common.h"

/* The least number of (case, type, layout) that a kernel must accept, so that refusing more is seen. */
static const struct { const char *kernel; int least; } must_accept[] = {
    {"reference", SHAPES_COUNT * 8},
    {"avx512", 800}, {"avx2", 800}, {"neon", 800}, {"portable", 800},
    {"cuda_generic", SHAPES_COUNT * 8},
    {"cuda_direct", SHAPES_COUNT * 8},
    {"cuda_depthwise", 416},
    {"sm90_dense", 410},
    {"sm80_dense", 744},
    {"sm80_scatter", 144},
    {"sm80_nonoverlap", 208},
    {"sm90_nonoverlap", 42},
};

typedef struct tally { int accepted, refused, failed, absent; } tally;

static void run_case(const shapes_case *c, int32_t device, const char *kernel, int variant, tally *t)
{
    check_request request;
    convt3d_plan plan;
    convt3d_error error;
    memset(&request, 0, sizeof request);
    request.desc = c->desc;
    request.desc.device = device;
    request.desc.dtype = variant % 4;
    request.desc.layout = variant / 4 % 2;
    request.desc.math = variant / 8 % 2;
    strcpy(request.desc.force, kernel);
    if (convt3d_plan_init(&plan, &request.desc, CONVT3D_FORWARD, &error) == CONVT3D_REFUSED) {
        t->refused++;
        t->absent += strstr(error.text, "this processor") != NULL;
        return;
    }
    for (request.exact = 0; request.exact < 2; request.exact++) {
        request.seed = (uint64_t)(c - shapes_table) * 16 + (uint64_t)variant;
        t->failed += !common_check(&request);
    }
    t->accepted++;
}

static void test_kernel(int32_t device, const char *kernel)
{
    tally all = {0, 0, 0, 0}, tf32 = {0, 0, 0, 0};
    int i, variant, least = 1;
    for (i = 0; i < SHAPES_COUNT; i++) {
        for (variant = 0; variant < 8; variant++) run_case(&shapes_table[i], device, kernel, variant, &all);
        for (variant = 8; variant < 16; variant += 4) run_case(&shapes_table[i], device, kernel, variant, &tf32);
    }
    if (all.absent > 0 && all.accepted == 0) { tap_skip(kernel, "this processor lacks it"); return; }
    for (i = 0; i < (int)(sizeof must_accept / sizeof must_accept[0]); i++)
        if (!strcmp(kernel, must_accept[i].kernel)) least = must_accept[i].least;
    tap_ok(all.failed + tf32.failed == 0, "%s: right on %d cases, with TF32 allowed on %d", kernel, all.accepted,
           tf32.accepted);
    tap_ok(all.accepted >= least, "%s: accepts %d of %d, at least %d", kernel, all.accepted, all.accepted + all.refused,
           least);
}

int main(int argc, char **argv)
{
    int32_t device = argc > 1 && !strcmp(argv[1], "cuda") ? CONVT3D_DEVICE_CUDA : CONVT3D_DEVICE_CPU, count, i;
    const char *kernel;
    convt3d_error error;
    if (device == CONVT3D_DEVICE_CUDA && convt3d_device_count(&count, &error) != CONVT3D_OK) {
        tap_skip("CUDA kernels", "no GPU");
        return tap_done();
    }
    for (i = 0; (kernel = convt3d_kernel_name(device, CONVT3D_FORWARD, i)) != NULL; i++)
        if (argc < 3 || !strcmp(argv[2], kernel)) test_kernel(device, kernel);
    return tap_done();
}
