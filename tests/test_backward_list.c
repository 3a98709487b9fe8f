/* Promise: gradients go back through what follows the convolution as in PyTorch: entry by entry and in any list, in
 * every type, layout and view. What the forward pass keeps for it is what the manual's rule says, on every kernel. Two
 * judges: the oracle with its derived bounds, from what the forward pass really wrote, and central differences of the
 * whole forward pass. Slopes at corners are PyTorch's; NaN spreads as the sums say; the bits depend on no thread count.
 * Arguments: cpu or cuda (default cpu, or CONVT3D_TEST_DEVICE), then a forward kernel, for what it keeps alone. */
#include "check_backward.h"
#include "lists.h"

static int32_t device;

static check_request request_of(const convt3d_desc *d, int exact, uint64_t seed)
{
    check_request r;
    memset(&r, 0, sizeof r);
    r.desc = *d;
    r.desc.device = device;
    r.desc.backward = CONVT3D_BACKWARD;
    r.exact = exact;
    r.seed = seed;
    return r;
}

/* A list after a problem; only the first entry's residual keeps the problem's stride. */
static int parse(const char *list, convt3d_desc *d)
{
    int64_t stride[5];
    char why[THEN_TEXT];
    memcpy(stride, d->ops[0].stride, sizeof stride);
    if (!then_parse(list, d->ops, why)) { tap_note("%s", why);  return 0; }
    if (convt3d_op_uses(d->ops[0].kind) & CONVT3D_USES_RESIDUAL) memcpy(d->ops[0].stride, stride, sizeof stride);
    return 1;
}

static int check(const check_request *r)
{
    check_result result;
    backward_case(r, &result);
    if (!result.pass) common_reproducer_of(r, " --pass backward", result.message);
    return result.pass;
}

/* ---- lists ---- */

/* dy sometimes is a slice with gaps, sometimes one value a channel. */
static void add_views(convt3d_desc *d, uint64_t seed)
{
    int64_t in[5], out[5];
    oracle_problem p;
    oracle_init(&p, d);
    memcpy(in, p.in, sizeof in);
    memcpy(out, p.out, sizeof out);
    if (seed % 4 == 1) { out[1] += 3;  oracle_dense_strides(d->layout, out, d->dy_stride); }
    if (seed % 8 == 2) { memset(d->dy_stride, 0, sizeof d->dy_stride);  d->dy_stride[1] = 1; }
    if (seed % 4 == 3) { in[4] += 2;  oracle_dense_strides(d->layout, in, d->dx_stride); }
}

static void test_lists(void)
{
    int l, i, dtype;
    for (l = 0; l < LISTS_COUNT; l++) {
        int pass = 1;
        for (i = l % 2; i < LISTS_SHAPES; i += 2)           /* neighbours in the table take turns */
            for (dtype = 0; dtype < 4; dtype++) {
                uint64_t seed = (uint64_t)((l + i + dtype) % 4) + 12 * (uint64_t)(l + dtype);   /* moderate data */
                convt3d_desc d = lists_shape(i);
                check_request r;
                pass &= parse(lists_table[l], &d);
                d.dtype = dtype;
                d.layout = (l + i + dtype) % 2;
                d.threads = (int32_t)(seed % 3);
                d.accumulate = (i + dtype) % 3 == 0 ? (int32_t)(oracle_hash(seed, 1) % 16) : 0;
                if (i != 6) add_views(&d, (uint64_t)(l + i * 3 + dtype));
                r = request_of(&d, (l + i) % 2, seed);
                pass &= check(&r);
            }
        tap_ok(pass, "%s", lists_table[l]);
    }
}

/* Up to 8 entries, normalisations anywhere among them. */
static void test_random(void)
{
    int i, j, pass = 1, taken = 0;
    for (i = 0; i < 140; i++) {
        shapes_random_state r = {0, 0};
        convt3d_desc d = shapes_random((uint64_t)i * 37 + 11);
        check_request request;
        int count, multiplies = 0;
        r.seed = (uint64_t)i + 500;
        count = (int)shapes_draw(&r, 1, 8);
        if (shapes_out_size(&d, 0) * shapes_out_size(&d, 1) * shapes_out_size(&d, 2) == 0 || d.batch == 0) continue;
        for (j = 0; j < count; j++) {
            d.ops[j] = lists_random_entry(&r, &d);
            if (d.ops[j].kind == CONVT3D_OP_MULTIPLY && multiplies++) { d.ops[j].kind = CONVT3D_OP_TANH; }
        }
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        d.threads = i % 3;
        d.accumulate = i % 5 == 0 ? (int32_t)shapes_draw(&r, 0, 15) : 0;
        request = request_of(&d, 0, (uint64_t)(i % 2 + 12 * i));
        taken++;
        pass &= check(&request);
    }
    tap_ok(pass && taken > 80, "%d random lists of up to 8 entries", taken);
}

/* Channels so large that their sums are taken in several parts, over several samples. */
static void test_parts(void)
{
    int dtype, pass = 1;
    for (dtype = 0; dtype < 2; dtype++) {
        convt3d_desc d = common_desc(1, 2, 15, 2, 2, 0);
        check_request r;
        d.batch = 2;
        d.in_size[2] = 23;
        d.dtype = dtype;
        d.layout = dtype;
        pass &= parse("silu,group_norm:1,channel_affine,batch_norm", &d);
        r = request_of(&d, 0, 0);
        pass &= check(&r);
    }
    tap_ok(pass, "channels that are looked at in several parts");
}

/* Each gradient alone and in sets: the bits of all together, and nothing of the others is written. */
static void test_subsets(void)
{
    static const char *const lists[] = {
        "relu", "add,relu", "multiply,silu,group_norm:2", "channel_affine,batch_norm,add,tanh",
        "group_norm:4,multiply,group_norm:1,channel_affine", "affine:3,add"
    };
    int l, k, pass;
    uint32_t wanted;
    for (l = 0; l < (int)(sizeof lists / sizeof lists[0]); l++) {
        convt3d_desc d = lists_shape(1);
        check_request r;
        backward_run run;
        check_result result;
        convt3d_error error;
        pass = parse(lists[l], &d);
        r = request_of(&d, 0, 12 * (uint64_t)l);
        pass = backward_make(&run, &r, &error) == CONVT3D_OK && backward_expect(&run, CHECK_FULL_PRODUCTS) && pass;
        for (wanted = 1, k = 0; pass && k < 3 * run.tensors; k++) {
            wanted = k < run.tensors ? 1u << k : (uint32_t)oracle_hash((uint64_t)l, (uint64_t)k);
            wanted &= (1u << run.tensors) - 1;
            backward_check(&run, wanted, NULL, &result);
            if (!result.pass) { common_reproducer_of(&r, " --pass backward", result.message);  pass = 0; }
        }
        backward_free(&run);
        tap_ok(pass, "each gradient alone, and sets of them: %s", lists[l]);
    }
}

/* ---- what the forward pass keeps ---- */

static int32_t saves_of(const char *list, int32_t bits, int32_t pass)
{
    convt3d_desc d = lists_shape(1);
    convt3d_plan plan;
    convt3d_info info;
    if (!parse(list, &d)) return -1;
    d.device = device;
    d.backward = bits;
    if (convt3d_plan_init(&plan, &d, pass, NULL) != CONVT3D_OK) return -1;
    return convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK ? info.saves : -1;
}

/* The manual's rule, list by list. without: when the gradients of the list's own tensors are not wanted. */
static void test_saves(void)
{
    static const struct { const char *list; int32_t with, without; } table[] = {
        {"", 0, 0}, {"affine:2:1", 0, 0}, {"add", 0, 0}, {"add,affine:2", 0, 0}, {"channel_affine", 2, 0},
        {"multiply", 2, 0}, {"relu", 1, 1}, {"relu6", 1, 1}, {"sigmoid", 1, 1}, {"tanh", 1, 1},
        {"leaky_relu:0", 1, 1}, {"leaky_relu:-1", 2, 2},
        {"elu:1", 1, 1}, {"elu:-1", 2, 2}, {"silu", 2, 2}, {"gelu", 2, 2}, {"gelu_tanh", 2, 2}, {"mish", 2, 2},
        {"hardswish", 2, 2}, {"hardsigmoid", 2, 2}, {"softplus", 2, 2}, {"clamp:0:1", 2, 2}, {"group_norm:2", 2, 2},
        {"batch_norm", 2, 2}, {"add,relu", 1, 1}, {"channel_affine,relu", 2, 1}, {"multiply,relu", 2, 1},
        {"relu,add", 2, 2}, {"relu,relu", 2, 2}, {"affine:2,add,tanh", 1, 1}, {"group_norm:2,relu", 2, 2},
    };
    int i, pass = 1, dx = CONVT3D_BACKWARD - CONVT3D_BACKWARD_OPS;
    for (i = 0; i < (int)(sizeof table / sizeof table[0]); i++) {
        int same = saves_of(table[i].list, CONVT3D_BACKWARD, CONVT3D_FORWARD) == table[i].with &&
                   saves_of(table[i].list, dx, CONVT3D_FORWARD) == table[i].without &&
                   saves_of(table[i].list, 0, CONVT3D_FORWARD) == 0 &&
                   saves_of(table[i].list, 0, CONVT3D_BACKWARD) == table[i].with &&
                   saves_of(table[i].list, 0, dx) == table[i].without &&
                   saves_of(table[i].list, CONVT3D_BACKWARD, CONVT3D_BACKWARD_X) == table[i].with;
        if (!same) tap_note("\"%s\"", table[i].list);
        pass &= same;
    }
    tap_ok(pass, "info.saves is what the manual says");
}

/* A forward pass that keeps: saved is the convolution within its bound, y and the statistics are what the list makes of
 * the rounded saved, whose exact values the oracle starts from. */
static int check_keeping(const char *kernel, const char *list, int i, int32_t dtype, int32_t layout, uint64_t seed,
                         int *taken)
{
    convt3d_desc d = lists_shape(i);
    check_request r;
    check_result result;
    backward_run run;
    convt3d_plan plan;
    convt3d_error error;
    int pass = parse(list, &d);
    memset(&result, 0, sizeof result);
    result.pass = 1;
    d.dtype = dtype;
    d.layout = layout;
    r = request_of(&d, 0, seed);
    snprintf(r.desc.force, sizeof r.desc.force, "%s", kernel);
    if (convt3d_plan_init(&plan, &r.desc, CONVT3D_FORWARD, NULL) != CONVT3D_OK) return pass;
    ++*taken;
    pass = backward_make(&run, &r, &error) == CONVT3D_OK && pass;
    run.io.y = run.forward.y.data;
    run.io.bias = run.forward.bias.data;
    if (pass && run.saved.bytes) memset(run.saved.data, 0xFF, run.saved.bytes);
    oracle_parallel(run.forward.problem.y_count, check_poison_y, &(check_elements){&r, &run.forward, {0, 0, 0}, 0, 0});
    free(run.forward.problem.w);                            /* check_make_values() decodes it */
    run.forward.problem.w = NULL;
    pass = pass && convt3d(&r.desc, &run.io, &error) == CONVT3D_OK && check_make_values(&r, &run.forward, run.io.w);
    if (pass) {
        oracle_problem *p = &run.forward.problem;
        double *most = device == CONVT3D_DEVICE_CUDA ? check_largest(p) : NULL;
        double *ranges = check_ranges(&r, &run.forward, most);
        int64_t dense[5], at[5] = {0, 0, 0, 0, 0}, j, wrong = 0;
        oracle_dense_strides(p->layout, p->out, dense);
        for (j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
            double kept = oracle_load(dtype, run.saved.data, oracle_offset(at, dense));
            wrong += !oracle_judge(&run.forward.values[j], kept, dtype, 0, 0, ranges ? ranges[j] : 0).pass;
            run.forward.values[j].high = kept;              /* the list's oracle starts here, exactly */
            run.forward.values[j].low = run.forward.values[j].sum = 0;
            run.forward.values[j].products = 0;
        }
        run.forward.io = run.io;
        if (wrong) tap_note("%lld of saved are wrong", (long long)wrong);
        r.desc.device = CONVT3D_DEVICE_CPU;                 /* ranges are the convolution's, which is behind us */
        check_judge(&r, &run.forward, &result);
        r.desc.device = device;
        if (wrong || !result.pass) common_reproducer_of(&r, "", result.message);
        pass = !wrong && result.pass;
        free(most);
        free(ranges);
    } else tap_note("%s", error.text);
    backward_free(&run);
    return pass;
}

static void test_keeping(const char *only)
{
    static const char *const lists[] = {"silu", "relu,group_norm:4", "group_norm:2,add,relu", "add,relu,multiply,mish",
                                        "batch_norm,relu,group_norm:1,tanh", "channel_affine,hardswish"};
    const char *kernel;
    int k, l, i, dtype, pass, taken;
    for (k = 0; (kernel = convt3d_kernel_name(device, CONVT3D_FORWARD, k)) != NULL; k++) {
        if (only && strcmp(only, kernel)) continue;
        for (l = 0, pass = 1, taken = 0; l < (int)(sizeof lists / sizeof lists[0]); l++)
            for (i = 0; i < LISTS_SHAPES; i++)
                for (dtype = 0; dtype < 4; dtype++)
                    pass &= check_keeping(kernel, lists[l], i, dtype, (l + i) % 2, (uint64_t)(12 * l + i % 2), &taken);
        if (taken) tap_ok(pass, "%s keeps the convolution and goes on from what it kept: %d problems", kernel, taken);
    }
}

/* ---- corners ---- */

/* dx of dy = 1, w = 1 and one value of x a voxel: the slope of the list's first entry there. */
static int slopes(const char *list, const double *at, const double *slope, int count, int32_t dtype)
{
    convt3d_desc d = common_desc(1, 1, 1, 1, 1, 0);
    check_request r;
    backward_run run;
    convt3d_error error;
    int pass = parse(list, &d), j;
    d.in_size[2] = count;
    d.dtype = dtype;
    r = request_of(&d, 0, 0);
    pass = backward_make(&run, &r, &error) == CONVT3D_OK && pass;
    if (pass) {
        run.io.y = run.forward.y.data;
        run.io.bias = NULL;
        oracle_store(dtype, run.forward.w.data, 0, 1);
        for (j = 0; j < count; j++) oracle_store(dtype, run.forward.x.data, j, at[j]);
        for (j = 0; j < count; j++) oracle_store(dtype, run.dy.data, j, 1);
        pass = convt3d(&r.desc, &run.io, &error) == CONVT3D_OK && backward_call(&run, 1, NULL, &error) == CONVT3D_OK;
    }
    for (j = 0; j < count && pass; j++) {
        double got = oracle_load(dtype, run.tensor[0].buffer.data, j), want = oracle_round(dtype, slope[j]);
        if (oracle_same(got, want) || fabs(got - want) <= 8 * oracle_format_of(CONVT3D_F32).u * fabs(want)) continue;
        tap_note("%s, %s: slope at %g is %.9g, PyTorch's %.9g", list, common_dtypes[dtype], at[j], got, want);
        pass = 0;
    }
    backward_free(&run);
    return pass;
}

static void test_corners(void)
{
    static const struct { const char *list; int count; double at[6], slope[6]; } table[] = {
        {"relu", 5, {0, -0.0, 0.5, -0.5, NAN}, {0, 0, 1, 0, 1}},
        {"relu6", 6, {0, 6, 5.5, -1, 7, NAN}, {0, 0, 1, 0, 0, 1}},
        {"clamp:-1:2", 6, {-1, 2, -1.5, 2.5, 0.5, NAN}, {1, 1, 0, 0, 1, 0}},
        {"clamp:1:-1", 3, {0, 1, -1}, {0, 0, 0}},
        {"leaky_relu:0.25", 3, {0, 1, -1}, {0.25, 1, 0.25}},
        {"leaky_relu:-2", 3, {0, 1, -1}, {-2, 1, -2}},
        {"elu:0.5", 3, {0, 1, -0.5}, {0.5, 1, 0.5 * 0.6065306597126334}},
        {"hardswish", 6, {-3, 3, -4, 4, 0, 1.5}, {0, 1, 0, 1, 0.5, 1}},
        {"hardsigmoid", 5, {-3, 3, -4, 4, 0}, {0, 0, 0, 0, 1.0 / 6}},
        {"softplus:2:1", 3, {0.5, 0.75, 0}, {0.7310585786300049, 1, 0.5}},
        {"sigmoid", 3, {0, INFINITY, -INFINITY}, {0.25, 0, 0}},
        {"tanh", 3, {0, INFINITY, -INFINITY}, {1, 0, 0}},
        {"silu", 2, {0, -30}, {0.5, -29 * 9.3576229688392989e-14}},
    };
    char followed[64];
    int i, dtype, pass;
    for (i = 0; i < (int)(sizeof table / sizeof table[0]); i++) {
        snprintf(followed, sizeof followed, "%s,affine:1", table[i].list);
        for (dtype = 0, pass = 1; dtype < 4; dtype++) {
            int from_output = saves_of(table[i].list, CONVT3D_BACKWARD, CONVT3D_FORWARD) == CONVT3D_SAVES_OUTPUT;
            if (!(from_output && i >= 10 && dtype > 1) && !(i == 6 && dtype > 1))   /* the slope of a rounded y */
                pass &= slopes(table[i].list, table[i].at, table[i].slope, table[i].count, dtype);
            pass &= slopes(followed, table[i].at, table[i].slope, table[i].count, dtype);
        }
        tap_ok(pass, "slopes of %s at its corners", table[i].list);
    }
}

/* ---- central differences ---- */

/* A tensor that the forward pass reads, the gradient of it, and a direction to move it in. */
typedef struct direction { double *data; const double *gradient; double *was, *step; int64_t count; } direction;

/* <dy, y> of the whole forward pass, and sum |dy|(|y| + 1). */
static double loss(const backward_run *run, const convt3d_desc *d, double *size)
{
    const oracle_problem *p = &run->forward.problem;
    convt3d_io io = run->forward.io;
    int64_t at[5] = {0, 0, 0, 0, 0}, j;
    long double sum = 0;
    io.saved = NULL;
    *size = 0;
    if (convt3d(d, &io, NULL) != CONVT3D_OK) return NAN;
    for (j = 0; j < p->y_count; j++, oracle_step(p->out, at)) {
        double y = oracle_load(p->dtype, io.y, oracle_offset(at, p->y_stride));
        double dy = oracle_load(p->dtype, run->dy.data, oracle_offset(at, run->dy_stride));
        sum += (long double)dy * y;
        *size += fabs(dy) * (fabs(y) + 1);
    }
    return (double)sum;
}

static double difference(const backward_run *run, const convt3d_desc *d, const direction *to, double h, double *size)
{
    double value[2];
    int64_t j;
    int side;
    for (side = 0; side < 2; side++) {
        for (j = 0; j < to->count; j++) to->data[j] = to->was[j] + (side ? -h : h) * to->step[j];
        value[side] = loss(run, d, size);
    }
    memcpy(to->data, to->was, (size_t)to->count * sizeof(double));
    return (value[0] - value[1]) / (2 * h);
}

/* (L(v + h*e) - L(v - h*e))/2h against <gradient, e>. It is off by what L is rounded by, some hundred u of the sum's
 * parts, over h; and by a multiple of h^2, which the difference to step 2h shows. */
static int follows(const backward_run *run, const convt3d_desc *d, direction *to, uint64_t seed, const char *name)
{
    const double h = ldexp(1, -20);
    double got = 0, first, second, size, allowed;
    int64_t j;
    int pass;
    to->was = (double *)malloc((size_t)(2 * to->count + 1) * sizeof(double));
    if (!to->was) return 0;
    to->step = to->was + to->count;
    memcpy(to->was, to->data, (size_t)to->count * sizeof(double));
    for (j = 0; j < to->count; j++) to->step[j] = 2 * oracle_uniform(seed, (uint64_t)j) - 1;
    for (j = 0; j < to->count; j++) got += to->step[j] * to->gradient[j];
    first = difference(run, d, to, h, &size);
    second = difference(run, d, to, 2 * h, &size);
    allowed = 256 * DBL_EPSILON * size / h + fabs(first - second);
    pass = fabs(first - got) <= allowed;
    if (!pass) tap_note("%s: <gradient, e> = %.12g, central difference %.12g, allowed %.3g", name, got, first, allowed);
    free(to->was);
    return pass;
}

/* All tensors dense and f64: a gradient's buffer and its tensor's have the same order. */
static int differentiates(const char *list, int shape, uint64_t seed)
{
    convt3d_desc d = shape == 0 ? common_desc(3, 4, 3, 3, 2, 1) : lists_shape(shape), plain;
    check_request r;
    backward_run run;
    convt3d_error error;
    int pass, k;
    memset(d.y_stride, 0, sizeof d.y_stride);
    memset(d.ops, 0, sizeof d.ops);
    d.dtype = CONVT3D_F64;
    if (shape == 0) d.batch = 2;
    pass = parse(list, &d);
    r = request_of(&d, 0, seed);
    plain = r.desc;
    plain.backward = 0;                 /* the differences are of a forward pass that keeps nothing */
    pass = backward_make(&run, &r, &error) == CONVT3D_OK && pass;
    if (!pass) tap_note("%s", error.text);
    pass = pass && backward_call(&run, ~0u, NULL, &error) == CONVT3D_OK;
    for (k = 0; k < run.tensors && pass; k++) {
        const backward_tensor *t = &run.tensor[k];
        direction to = {NULL, (const double *)t->buffer.data, NULL, NULL, t->count};
        check_buffer *of = t->kind == BACKWARD_DX ? &run.forward.x : t->kind == BACKWARD_DW ? &run.forward.w
                         : t->kind == BACKWARD_DBIAS ? &run.forward.bias
                         : &run.forward.ops[t->entry][t->kind - BACKWARD_D_RESIDUAL + CHECK_RESIDUAL];
        to.data = (double *)of->data;
        if (!to.data) continue;         /* a scale or shift that is left out */
        pass &= follows(&run, &plain, &to, seed + (uint64_t)k, backward_names[t->kind]);
    }
    if (!pass) common_reproducer_of(&r, " --pass backward", list);
    backward_free(&run);
    return pass;
}

static void test_differences(void)
{
    static const char *const more[] = {
        "", "multiply,group_norm:2:0.01,silu,batch_norm,add,gelu,channel_affine,softplus:1:20",
        "batch_norm:0.1,batch_norm:0.1,multiply,group_norm:4:1", "add,mish,group_norm:1,hardswish,affine:-3:1,elu",
        "group_norm:4,group_norm:2,group_norm:1,batch_norm,tanh",
        "sigmoid,channel_affine,leaky_relu,multiply,clamp:-1:1,gelu_tanh"
    };
    int i, pass;
    for (i = 0, pass = 1; i < LISTS_COUNT; i++) pass &= differentiates(lists_table[i], 0, 12 * (uint64_t)i);
    tap_ok(pass, "central differences: the table of lists");
    for (i = 0, pass = 1; i < (int)(sizeof more / sizeof more[0]); i++)
        pass &= differentiates(more[i], 0, 12) & differentiates(more[i], 4, 0) & differentiates(more[i], 3, 24);
    tap_ok(pass, "central differences: longer lists, groups, empty phases");
}

/* ---- the same bits, NaN ---- */

static void test_threads(void)
{
    static const int32_t threads[5] = {1, 1, 2, 3, 7};
    convt3d_desc d = lists_shape(1);
    check_request r;
    backward_run one, many;
    convt3d_error error;
    int pass = parse("silu,group_norm:2,add,channel_affine,batch_norm", &d), t, k;
    d.in_size[0] = 23;
    d.in_size[1] = 31;
    d.in_size[2] = 9;                   /* each channel is looked at in more than one part */
    r = request_of(&d, 0, 0);
    pass = backward_make(&one, &r, &error) == CONVT3D_OK && pass;
    pass = backward_make(&many, &r, &error) == CONVT3D_OK && pass;
    for (t = 0; t < 5 && pass; t++) {
        backward_run *run = t ? &many : &one;
        run->request.desc.threads = threads[t];
        backward_pose(run);
        pass = backward_call(run, ~0u, NULL, &error) == CONVT3D_OK;
        for (k = 0; k < run->tensors && t && pass; k++)
            pass = !memcmp(one.tensor[k].buffer.data, run->tensor[k].buffer.data, one.tensor[k].buffer.bytes);
    }
    backward_free(&one);
    backward_free(&many);
    tap_ok(pass, "the same bits for 1, 2, 3 and 7 threads, and again");
}

/* A group normalisation looks at its sample alone. */
static void test_alone(void)
{
    convt3d_desc d = lists_shape(1);
    check_request r;
    backward_run whole, one;
    convt3d_error error;
    int pass = parse("silu,group_norm:2,relu", &d);
    int64_t n;
    r = request_of(&d, 0, 0);
    pass = backward_make(&whole, &r, &error) == CONVT3D_OK && pass;
    pass = pass && backward_call(&whole, 1, NULL, &error) == CONVT3D_OK;
    for (n = 0; n < 2 && pass; n++) {
        size_t dx;
        r.desc.batch = 1;
        pass = backward_make(&one, &r, &error) == CONVT3D_OK;
        dx = one.tensor[0].buffer.bytes;
        if (pass) {
            memcpy(one.forward.x.data, whole.forward.x.data + (size_t)n * one.forward.x.bytes, one.forward.x.bytes);
            memcpy(one.dy.data, whole.dy.data + (size_t)n * one.dy.bytes, one.dy.bytes);
            one.io.y = one.forward.y.data;
            one.io.bias = one.forward.bias.data;
            pass = convt3d(&r.desc, &one.io, &error) == CONVT3D_OK &&
                   backward_call(&one, 1, NULL, &error) == CONVT3D_OK &&
                   !memcmp(one.tensor[0].buffer.data, whole.tensor[0].buffer.data + (size_t)n * dx, dx);
        }
        backward_free(&one);
    }
    backward_free(&whole);
    tap_ok(pass, "dx through a group normalisation depends on no other sample");
}

/* NaN and infinity in dy reach what the oracle says: the sums over their output, or over its set. */
static void test_special(void)
{
    static const char *const lists[] = {
        "relu", "silu", "add,relu,affine:2", "group_norm:4", "relu,batch_norm,multiply", "tanh"
    };
    static const double special[2] = {NAN, INFINITY};
    int l, s, dtype;
    for (l = 0; l < (int)(sizeof lists / sizeof lists[0]); l++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++)
            for (s = 0; s < 2; s++) {
                convt3d_desc d = lists_shape(dtype % 2 ? 4 : 1);
                check_request r;
                check_result result;
                backward_run run;
                convt3d_error error;
                pass &= parse(lists[l], &d);
                d.dtype = dtype;
                r = request_of(&d, 0, 12 * (uint64_t)l);
                pass &= backward_make(&run, &r, &error) == CONVT3D_OK;
                if (pass) {
                    oracle_store(dtype, run.dy.data, run.forward.problem.y_count / 2 + l, special[s]);
                    run.inputs = backward_inputs(&run);
                    pass = backward_expect(&run, CHECK_FULL_PRODUCTS);
                    backward_check(&run, ~0u, NULL, &result);
                    if (!result.pass) { common_reproducer_of(&r, " --pass backward", result.message);  pass = 0; }
                }
                backward_free(&run);
            }
        tap_ok(pass, "NaN and infinity in dy: %s", lists[l]);
    }
}

int main(int argc, char **argv)
{
    int32_t count;
    device = argc > 1 ? !strcmp(argv[1], "cuda") : common_device();
    if (device == CONVT3D_DEVICE_CUDA && convt3d_device_count(&count, NULL) != CONVT3D_OK) {
        tap_skip("CUDA", "no GPU");
        return tap_done();
    }
    test_keeping(argc > 2 ? argv[2] : NULL);
    if (argc > 2) return tap_done();
    test_saves();
    test_lists();
    test_random();
    test_parts();
    test_subsets();
    test_corners();
    test_differences();
    test_threads();
    test_alone();
    test_special();
    return tap_done();
}
