/* Promise: what follows the convolution is PyTorch's, entry by entry and in any list, in every type and layout, on
 * every kernel that the machine has; the bits depend on no thread count; views cost nothing and nothing else is touched.
 * With the name of a kernel as argument, that kernel alone; CONVT3D_TEST_DEVICE=cuda: on the GPU. */
#include "lists.h"

enum { FUSED_RANDOM = 150 };

static const char *kernel_name = "";

static int check(const convt3d_desc *desc, int exact, uint64_t seed)
{
    check_request request;
    memset(&request, 0, sizeof request);
    request.desc = *desc;
    snprintf(request.desc.force, sizeof request.desc.force, "%s", kernel_name);
    request.exact = exact;
    request.seed = seed;
    return common_check(&request);
}

static int kernel_takes(const convt3d_desc *desc)
{
    convt3d_plan plan;
    convt3d_desc d = *desc;
    snprintf(d.force, sizeof d.force, "%s", kernel_name);
    d.device = common_device();
    return convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
}

/* The list after shape i; only residual entries keep the shape's residual stride, and it is the first entry's. */
static int check_list(const char *list, int i, int32_t dtype, int32_t layout, uint64_t seed, int *taken)
{
    convt3d_desc d = lists_shape(i);
    int64_t stride[5];
    char why[THEN_TEXT];
    memcpy(stride, d.ops[0].stride, sizeof stride);
    if (!then_parse(list, d.ops, why)) { tap_note("%s", why);  return 0; }
    if (convt3d_op_uses(d.ops[0].kind) & CONVT3D_USES_RESIDUAL) memcpy(d.ops[0].stride, stride, sizeof stride);
    d.dtype = dtype;
    d.layout = layout;
    d.threads = (int32_t)(seed % 3);
    if (!kernel_takes(&d)) return 1;
    ++*taken;
    return check(&d, (int)(seed % 2), seed);
}

static void test_lists(void)
{
    int l, i, dtype, layout;
    for (l = 0; l < LISTS_COUNT; l++) {
        int pass = 1, taken = 0;
        for (i = 0; i < LISTS_SHAPES; i++)
            for (dtype = 0; dtype < 4; dtype++)
                for (layout = 0; layout < 2; layout++) {
                    uint64_t kind = (uint64_t)((l + i + dtype * 2 + layout) % 4);   /* check.h's moderate data */
                    pass &= check_list(lists_table[l], i, dtype, layout, kind + 12 * (uint64_t)l, &taken);
                }
        if (taken > 0) tap_ok(pass, "%s%s%s: %d problems", kernel_name, *kernel_name ? ": " : "", lists_table[l], taken);
    }
}

/* Random problems with random lists. Products of many residuals leave f16's range, so at most one multiplies. */
static void test_random(void)
{
    int i, j, pass = 1, taken = 0;
    for (i = 0; i < FUSED_RANDOM; i++) {
        shapes_random_state r = {0, 0};
        convt3d_desc d = shapes_random((uint64_t)i * 31 + 5);
        int count;
        r.seed = (uint64_t)i + 99;
        count = (int)shapes_draw(&r, 1, 4);
        if (shapes_out_size(&d, 0) * shapes_out_size(&d, 1) * shapes_out_size(&d, 2) == 0 || d.batch == 0) continue;
        for (j = 0; j < count; j++) d.ops[j] = lists_random_entry(&r, &d);
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        d.threads = i % 3;
        if (!kernel_takes(&d)) continue;
        taken++;
        pass &= check(&d, 0, (uint64_t)(i % 2 + 12 * i));
    }
    if (taken > 0) tap_ok(pass, "%s%s%d random lists", kernel_name, *kernel_name ? ": " : "", taken);
}

/* y larger than what the CPU keeps in its caches is stored around them, with the list on the way; rows of odd length. */
static void test_large(void)
{
    static const struct { const char *list; int64_t channels, in[3], kernel, padding; } large[2] = {
        {"relu6,channel_affine,silu", 5, {18, 54, 55}, 2, 0}, {"clamp:-1:1,gelu,mish", 7, {23, 43, 41}, 3, 1}};
    int i, pass = 1, taken = 0;
    for (i = 0; i < 2; i++) {
        convt3d_desc d = common_desc(2, large[i].channels, 1, large[i].kernel, 2, large[i].padding);
        char why[THEN_TEXT];
        memcpy(d.in_size, large[i].in, sizeof d.in_size);
        if (!then_parse(large[i].list, d.ops, why)) { tap_note("%s", why);  pass = 0; }
        if (!kernel_takes(&d)) continue;
        taken++;
        pass &= check(&d, 0, (uint64_t)i);
    }
    if (taken > 0) tap_ok(pass, "%s: y beyond the caches: %d problems", kernel_name, taken);
}

static void test_kernel(void)
{
    test_lists();
    test_random();
    if (*kernel_name && strcmp(kernel_name, "reference") && common_device() == CONVT3D_DEVICE_CPU) test_large();
}

static void test_device(int32_t device)
{
    const char *name;
    int i;
    test_kernel();
    for (i = 0; (name = convt3d_kernel_name(device, CONVT3D_FORWARD, i)) != NULL; i++) {
        kernel_name = name;
        test_kernel();
    }
    kernel_name = "";
}

/* Mean 1e4 and variance 1: the deviation of the normalised values from the exact ones stays at what storing costs. */
static void test_mean(void)
{
    int32_t dtype;
    for (dtype = 0; dtype < 2; dtype++) {
        convt3d_desc d = common_desc(1, 4, 16, 1, 1, 0);
        common_data c;
        int64_t i, j, each;
        double worst = 0, allowed = dtype == CONVT3D_F64 ? 1e-11 : 2e-3;     /* an ulp of 1e4 is 1e-3 in f32 */
        d.dtype = dtype;
        d.device = common_device();
        d.ops[0].kind = CONVT3D_OP_GROUP_NORM;
        d.ops[0].groups = 2;
        if (!common_make(&c, &d, 0, 12)) { tap_ok(0, "memory");  return; }
        for (i = 0; i < 4; i++) oracle_store(dtype, c.w.data, i, 1);
        for (i = 0; i < 4; i++) oracle_store(dtype, c.bias.data, i, 0);
        for (i = 0; i < 4096; i++)
            oracle_store(dtype, c.x.data, i, 1e4 + (dtype == CONVT3D_F64 ? check_normal(7, (uint64_t)i)
                                                     : rint(1024 * check_normal(7, (uint64_t)i)) / 1024));
        memset(&c.io.ops[0], 0, sizeof c.io.ops[0]);
        if (common_run(&c)) {
            double mean = 1e4, square = 0;          /* summed about 1e4, where differences are exact */
            each = c.problem.y_count / 2;
            for (j = 0; j < 4096; j++) mean += (oracle_load(dtype, c.x.data, j) - 1e4) / 4096;
            for (j = 0; j < 4096; j++) square += pow(oracle_load(dtype, c.x.data, j) - mean, 2) / 4096;
            for (i = 0; i < 2 * each; i++) {
                double want = (oracle_load(dtype, c.x.data, i % 4096) - mean) / sqrt(square);
                worst = fmax(worst, fabs(common_get(&c, i) - want));
            }
        } else {
            worst = INFINITY;
        }
        tap_ok(worst < allowed, "%s: mean 1e4, variance 1: off by %.2g at most", common_dtypes[dtype], worst);
        common_free(&c);
    }
}

/* y may be the residual, before a normalisation and after one. */
static void test_in_place(void)
{
    static const char *const lists[3] = {"add,relu", "relu,group_norm:2,add", "multiply,batch_norm,silu"};
    int l, dtype;
    for (l = 0; l < 3; l++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++) {
            convt3d_desc d = lists_shape(1);
            common_data apart, together;
            char why[THEN_TEXT];
            int i, entry;
            d.dtype = dtype;
            d.device = common_device();
            pass &= then_parse(lists[l], d.ops, why);
            pass &= common_make(&apart, &d, 0, 12) && common_make(&together, &d, 0, 12);
            for (entry = 0; !(convt3d_op_uses(d.ops[entry].kind) & CONVT3D_USES_RESIDUAL); entry++) {}
            pass &= common_run(&apart);
            memcpy(together.y.data, together.io.ops[entry].residual,
                   (size_t)(together.problem.y_count * together.size));
            together.io.ops[entry].residual = together.io.y;
            for (i = 0; i < CONVT3D_MAX_OPS; i++)
                together.io.ops[i].running_mean = together.io.ops[i].running_var = NULL;
            pass &= convt3d(&d, &together.io, NULL) == CONVT3D_OK;
            pass &= common_same_outputs(&apart, &together);
            common_free(&apart);
            common_free(&together);
        }
        tap_ok(pass, "y is the residual: %s", lists[l]);
    }
}

static void test_threads(void)
{
    convt3d_desc d = lists_shape(1);
    common_data one, many;
    char why[THEN_TEXT];
    int pass = then_parse("silu,group_norm:2,add,batch_norm", d.ops, why), t;
    d.device = common_device();
    d.in_size[0] = 23;
    d.in_size[1] = 31;
    d.threads = 1;
    pass &= common_make(&one, &d, 0, 8) && common_run(&one);
    for (t = 2; t < 9; t++) {
        d.threads = t;
        pass &= common_make(&many, &d, 0, 8) && common_run(&many) && common_same_outputs(&one, &many);
        common_free(&many);
    }
    common_free(&one);
    tap_ok(pass, "the same bits for any number of threads");
}

/* Slabs of `thick` outputs along an axis into `part`, whose y is poison, with slabs of the first entry's residual. */
static int run_slabs(const convt3d_desc *d, common_data *part, int axis, int64_t thick)
{
    int64_t begin, from, to, out = part->problem.out[2 + axis];
    int pass = 1;
    for (begin = 0; pass && begin < out; begin += thick) {
        convt3d_desc sub;
        convt3d_io io = part->io;
        to = begin + thick < out ? begin + thick : out;
        pass &= convt3d_slab(d, axis, begin, to, &sub, &from, &to, NULL) == CONVT3D_OK;
        io.x = (const char *)io.x + from * sub.x_stride[2 + axis] * part->size;
        io.y = (char *)io.y + begin * sub.y_stride[2 + axis] * part->size;
        if (io.ops[0].residual)
            io.ops[0].residual = (const char *)io.ops[0].residual + begin * sub.ops[0].stride[2 + axis] * part->size;
        pass &= convt3d(&sub, &io, NULL) == CONVT3D_OK;
    }
    return pass;
}

static int slabs_are_whole(const convt3d_desc *d, int axis, int64_t thick, uint64_t seed)
{
    common_data whole, part;
    int pass = common_make(&whole, d, 0, seed) & common_make(&part, d, 0, seed);
    pass = pass && common_run(&whole);
    if (pass) common_poison(&part);
    pass = pass && run_slabs(d, &part, axis, thick) && common_same_outputs(&whole, &part);
    common_free(&whole);
    common_free(&part);
    return pass;
}

static int has_exact_slabs(const convt3d_desc *d)
{
    convt3d_plan plan;
    convt3d_info info;
    return convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) == CONVT3D_OK &&
           convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK && info.exact_slabs;
}

/* A slab of y with the slab of the residual is that part of the whole under kernels that say so, also where a narrow
 * slab is summed in another way than the whole. */
static void test_slab(void)
{
    static const char *const lists[3] = {"add,silu", "channel_affine,gelu", "relu6,channel_affine"};
    convt3d_desc d = common_desc(16, 32, 1, 3, 2, 1);
    char why[THEN_TEXT];
    const char *name;
    int64_t i;
    int axis, k, l, dtype;
    d.in_size[0] = 4;  d.in_size[1] = 5;  d.in_size[2] = 37;
    d.device = common_device();
    for (k = 0; (name = convt3d_kernel_name(d.device, CONVT3D_FORWARD, k)) != NULL; k++) {
        int pass = 1, taken = 0;
        snprintf(d.force, sizeof d.force, "%s", name);
        for (l = 0; l < 3; l++)
            for (dtype = 0; dtype < 4; dtype++)
                for (axis = 0; axis < 3; axis++) {
                    memset(d.ops, 0, sizeof d.ops);
                    pass &= then_parse(lists[l], d.ops, why);
                    d.dtype = dtype;
                    if (!has_exact_slabs(&d)) continue;
                    taken++;
                    for (i = 0; i < 3; i++) pass &= slabs_are_whole(&d, axis, 5, (uint64_t)(12 * l + i));
                }
        if (taken > 0) tap_ok(pass, "%s: slabs with a list are the whole, bit for bit", name);
    }
}

/* NaN and infinity, against PyTorch's own answers. */
static void test_special(void)
{
    static const struct { const char *list; double nan, plus, minus; } table[] = {
        {"relu", NAN, INFINITY, 0}, {"relu6", NAN, 6, 0}, {"clamp:-1:1", NAN, 1, -1},
        {"leaky_relu:0.01", NAN, INFINITY, -INFINITY}, {"silu", NAN, INFINITY, NAN}, {"sigmoid", NAN, 1, 0},
        {"tanh", NAN, 1, -1}, {"gelu", NAN, INFINITY, NAN},
        {"gelu_tanh", NAN, INFINITY, NAN}, {"hardswish", NAN, INFINITY, NAN}, {"hardsigmoid", NAN, 1, 0},
        {"elu", NAN, INFINITY, -1}, {"softplus", NAN, INFINITY, 0}, {"mish", NAN, INFINITY, NAN},
    };
    static const double inputs[3] = {NAN, INFINITY, -INFINITY};
    int i, k, dtype;
    for (i = 0; i < (int)(sizeof table / sizeof table[0]); i++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++) {
            convt3d_desc d = common_desc(1, 1, 3, 1, 1, 0);
            common_data c;
            char why[THEN_TEXT];
            d.dtype = dtype;
            d.device = common_device();
            pass &= then_parse(table[i].list, d.ops, why) && common_make(&c, &d, 0, 12);
            oracle_store(dtype, c.w.data, 0, 1);
            for (k = 0; k < 3; k++) oracle_store(dtype, c.x.data, k, inputs[k]);
            pass &= common_run(&c);
            pass &= oracle_same(common_get(&c, 0), table[i].nan) && oracle_same(common_get(&c, 1), table[i].plus) &&
                    oracle_same(common_get(&c, 2), table[i].minus);
            common_free(&c);
        }
        tap_ok(pass, "%s of NaN, infinity and minus infinity", table[i].list);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        kernel_name = argv[1];
        test_kernel();
        return tap_done();
    }
    test_device(common_device());
    test_mean();
    test_in_place();
    test_threads();
    test_slab();
    test_special();
    return tap_done();
}
