/* Promise: every kernel, pinned by force, is right on the whole table of cases or refuses, and accepts at least the
 * classes it was written for; and items 3 to 5 of the numeric contract hold of it: default f32 is f32, the same bits
 * again and for a sample alone, NaN and infinity as in the reference.
 * Arguments: cpu or cuda (default cpu), then the name of one kernel (default all), or list for their names. */
#include "contract.h"

/* The least number of (case, type, layout) that a kernel must accept, so that refusing more is seen. */
static const struct { const char *kernel; int least; } must_accept[] = {
    {"reference", SHAPES_COUNT * 8},
    {"avx512", 800}, {"avx2", 800}, {"neon", 800}, {"portable", 800},
    {"cuda_generic", SHAPES_COUNT * 8},
    {"cuda_direct", SHAPES_COUNT * 8},
    {"cuda_depthwise", 440},
    {"sm90_dense", 410},
    {"sm80_dense", 744},
    {"sm80_scatter", 144},
    {"sm80_narrow", 306},
    {"sm90_narrow", 184},
    {"sm80_march", 30},
    {"sm80_nonoverlap", 240},
    {"sm90_nonoverlap", 63},
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

static int takes(const convt3d_desc *d)
{
    convt3d_plan plan;
    return convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
}

/* Layers whose K is long for their class, of each that a kernel may be for; -1: the kernel takes none of them. */
static double worst_rms(int32_t device, const char *kernel, uint64_t seed, int *pass)
{
    static const int64_t layers[][7] = {    /* in, out, size, kernel, stride, padding, groups */
        {64, 48, 6, 3, 1, 1, 1}, {64, 20, 6, 3, 1, 1, 1}, {216, 64, 4, 4, 2, 1, 1}, {512, 32, 4, 2, 2, 0, 1},
        {216, 1, 5, 4, 2, 1, 1}, {256, 256, 6, 3, 1, 1, 4}, {216, 8, 5, 4, 2, 1, 1}, {16, 16, 8, 7, 2, 3, 16},
        {64, 1, 8, 4, 2, 1, 1}, {16, 8, 8, 5, 2, 2, 1}, {32, 32, 8, 3, 2, 1, 4}, {4, 32, 8, 3, 2, 1, 1},
    };
    double worst = -1;
    size_t i;
    for (i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        const int64_t *l = layers[i];
        check_request request;
        check_result result;
        memset(&request, 0, sizeof request);
        request.desc = common_desc(l[0], l[1], l[2], l[3], l[4], l[5]);
        request.desc.groups = l[6];
        request.desc.device = device;
        request.seed = seed;
        contract_use(&request.desc, kernel);
        if (!takes(&request.desc)) continue;
        check_case(&request, &result);
        if (!result.pass) common_reproducer(&request, result.message);
        *pass &= result.pass;
        worst = result.rms > worst ? result.rms : worst;
    }
    return worst;
}

static void test_rms(int32_t device, const char *kernel)
{
    int pass = 1;
    double random = worst_rms(device, kernel, 0, &pass), positive = worst_rms(device, kernel, 1, &pass);
    worst_rms(device, kernel, 3, &pass);
    if (random < 0) return;
    tap_ok(pass && random <= 1 && positive <= 16, "%s: f32 is f32, RMS %.3g of sign-random, %.3g of all-positive data",
           kernel, random, positive);
}

/* The types and layouts take turns, so that neighbouring cases of one class have all of them. */
static void test_contract(int32_t device, const char *kernel)
{
    static const double special[3] = {NAN, INFINITY, -INFINITY};
    int i, taken = 0, bits = 0, specials = 0;
    for (i = 0; i < 2 * SHAPES_COUNT; i++) {
        convt3d_desc d = shapes_table[i % SHAPES_COUNT].desc;
        d.device = device;
        d.dtype = (i + i / SHAPES_COUNT * 2) % 4;
        d.layout = (i / 4 + i / SHAPES_COUNT) % 2;
        contract_use(&d, kernel);
        if (!takes(&d)) continue;
        taken++;
        if (!contract_special_as_reference(&d, special[i % 3], i / 3 % 2, (uint64_t)i * 5)) {
            tap_note("%s: %s, %s, %s, %g in %s", kernel, shapes_table[i % SHAPES_COUNT].name, common_dtypes[d.dtype],
                     common_layouts[d.layout], special[i % 3], i / 3 % 2 ? "w" : "x");
            specials++;
        }
        if (!oracle_all_zero(d.x_stride) || !oracle_all_zero(d.y_stride)) continue;
        d.batch = 3;
        if (!takes(&d) || contract_sample_alone(&d, (uint64_t)i)) continue;
        tap_note("%s: %s, %s, %s: bits differ", kernel, shapes_table[i % SHAPES_COUNT].name, common_dtypes[d.dtype],
                 common_layouts[d.layout]);
        bits++;
    }
    if (taken == 0) return;
    tap_ok(specials == 0, "%s: NaN and infinity spread as in the reference, %d problems", kernel, taken);
    tap_ok(bits == 0, "%s: the same bits again, and for a sample alone", kernel);
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
    if (argc > 2 && !strcmp(argv[2], "list")) {
        for (i = 0; (kernel = convt3d_kernel_name(device, CONVT3D_FORWARD, i)) != NULL; i++) puts(kernel);
        return 0;
    }
    for (i = 0; (kernel = convt3d_kernel_name(device, CONVT3D_FORWARD, i)) != NULL; i++)
        if (argc < 3 || !strcmp(argv[2], kernel)) {
            test_kernel(device, kernel);
            test_rms(device, kernel);
            test_contract(device, kernel);
        }
    return tap_done();
}
