/* Promise: dx, dw and dbias are the gradients of the forward operator: exact on integers, within the derived bound on
 * real data, for every kernel of both passes by force on the whole table of cases, in any type, layout and view,
 * overwritten or added to, alone or together. <dy, f(x)> = <x, dx> = <w, dw>. The bits depend on no thread count, no
 * second run and, for dx, no other sample; NaN and infinity reach the sums that contain them and no other.
 * Arguments: cpu or cuda (default cpu, or CONVT3D_TEST_DEVICE), then the name of one kernel (default all). */
#include "check_backward.h"
#include "common.h"

enum { X = CONVT3D_BACKWARD_X, W = CONVT3D_BACKWARD_W, BIAS = CONVT3D_BACKWARD_BIAS, MOST_KERNELS = 32,
       DX = 1 << BACKWARD_DX, DW = 1 << BACKWARD_DW, DBIAS = 1 << BACKWARD_DBIAS };

static int32_t device;

/* The least number of (case, type, layout) that a kernel must accept, so that refusing more is seen. */
static const struct { const char *kernel; int32_t pass; int least; } must_accept[] = {
    {"reference", X, SHAPES_COUNT * 8}, {"reference", W, SHAPES_COUNT * 8}, {"flipped", X, 152},
    {"avx512", X, 800}, {"avx2", X, 800}, {"neon", X, 800}, {"portable", X, 800},
    {"avx512", W, 800}, {"avx2", W, 800}, {"neon", W, 800}, {"portable", W, 800},
    {"cuda_generic", X, SHAPES_COUNT * 8}, {"cuda_generic", W, SHAPES_COUNT * 8},
    {"cuda_flipped", X, 152}, {"sm90_dgrad", X, 608}, {"sm90_wgrad", W, 736}, {"cuda_dgrad", X, 778},
    {"cuda_wgrad", W, 480}, {"sm90_nonoverlap", X, 58}, {"sm90_nonoverlap", W, 72},
    {"cuda_walk", X, 157}, {"cuda_walk", W, 32},
};

typedef struct tally {
    const char *name;
    int32_t pass;
    int accepted, refused, failed, absent;
    double random, positive;            /* RMS of f32 */
} tally;

static tally kernels[MOST_KERNELS];
static int kernel_count;

/* All kernels of both passes, or the named one. */
static void find_kernels(const char *only)
{
    const char *name;
    int32_t pass, i;
    for (pass = X; pass <= W; pass++)
        for (i = 0; (name = convt3d_kernel_name(device, pass, i)) != NULL && kernel_count < MOST_KERNELS; i++) {
            if (only && strcmp(only, name)) continue;
            kernels[kernel_count].name = name;
            kernels[kernel_count++].pass = pass;
        }
}

static void reproduce(const check_request *request, const char *kernel, const char *message)
{
    check_request r = *request;
    if (kernel) snprintf(r.desc.force, sizeof r.desc.force, "%s", kernel);
    common_reproducer_of(&r, " --pass backward", message);
}

/* ---- requests ---- */

static void sizes_of(const convt3d_desc *d, int64_t in[5], int64_t out[5])
{
    oracle_problem p;
    oracle_init(&p, d);
    memcpy(in, p.in, sizeof p.in);
    memcpy(out, p.out, sizeof p.out);
}

/* Strides of dy and dx: what a case says of y and x, else dense, views with gaps in any order, or an expanded dy. */
static void add_views(convt3d_desc *d, uint64_t seed)
{
    shapes_random_state r = {0, 0};
    int64_t in[5], out[5];
    int a, spread = 1;
    r.seed = seed ^ 0xBAC4;
    sizes_of(d, in, out);
    memcpy(d->dy_stride, d->y_stride, sizeof d->dy_stride);
    for (a = 0; a < 5; a++) spread &= d->x_stride[a] > 0;
    if (spread) memcpy(d->dx_stride, d->x_stride, sizeof d->dx_stride);
    else if (shapes_chance(&r, 3)) shapes_random_view(&r, in, d->dx_stride);
    if (oracle_all_zero(d->dy_stride) && shapes_chance(&r, 3)) {
        if (shapes_chance(&r, 2)) oracle_dense_strides(d->layout, out, d->dy_stride);
        else shapes_random_view(&r, out, d->dy_stride);
        if (shapes_chance(&r, 2)) d->dy_stride[shapes_draw(&r, 0, 4)] = d->dy_stride[shapes_draw(&r, 0, 4)] = 0;
        if (oracle_all_zero(d->dy_stride)) d->dy_stride[0] = 1;
    }
}

/* variant: type, layout, and TF32 from 8 on. */
static check_request request_of(const convt3d_desc *d, int variant, int exact, uint64_t seed)
{
    check_request r;
    memset(&r, 0, sizeof r);
    r.desc = *d;
    r.desc.device = device;
    r.desc.dtype = variant % 4;
    r.desc.layout = variant / 4 % 2;
    r.desc.math = variant / 8 % 2;
    r.desc.threads = (int32_t)(seed % 4);
    r.desc.accumulate = seed % 3 == 0 ? (int32_t)(oracle_hash(seed, 5) % 8) : 0;
    add_views(&r.desc, seed);
    r.exact = exact;
    r.seed = seed;
    return r;
}

/* kernel == stride on all axes, some of whole cells of 16 bytes: several tiles, slices and blocks of channels. */
static convt3d_desc kernel_is_stride(int i)
{
    static const int64_t sizes[8][3] = {{2, 3, 8}, {4, 4, 16}, {1, 2, 24}, {3, 8, 12}, {2, 2, 64}, {4, 5, 6},
                                        {1, 5, 40}, {6, 12, 16}};
    static const int64_t kernels_of[5][3] = {{2, 2, 2}, {1, 2, 2}, {2, 4, 4}, {3, 1, 2}, {2, 2, 4}};
    static const int64_t channels[7][3] = {{8, 4, 1}, {64, 32, 1}, {5, 9, 1}, {24, 12, 2}, {70, 20, 1}, {16, 70, 1},
                                           {130, 6, 1}};
    convt3d_desc d;
    memset(&d, 0, sizeof d);
    d.batch = 1 + i % 2;
    d.in_channels = channels[i % 7][0];
    d.out_channels = channels[i % 7][1];
    d.groups = channels[i % 7][2];
    memcpy(d.in_size, sizes[(i / 2 + i) % 8], sizeof d.in_size);
    memcpy(d.kernel, kernels_of[i / 3 % 5], sizeof d.kernel);
    memcpy(d.stride, d.kernel, sizeof d.stride);
    return d;
}

/* ---- every kernel, by force ---- */

static void run_kernel(backward_run *run, tally *t)
{
    convt3d_desc d = run->request.desc;
    const int fifth = (int)(run->request.seed % 5);
    convt3d_plan plan;
    convt3d_error error;
    check_result result;
    snprintf(d.force, sizeof d.force, "%s", t->name);
    if (convt3d_plan_init(&plan, &d, t->pass, &error) == CONVT3D_REFUSED) {
        t->refused++;
        t->absent += strstr(error.text, "this processor") != NULL;
        return;
    }
    t->accepted++;
    /* One in five wants dbias alone, for which there is no x on a device, and one dw alone. */
    backward_check(run, t->pass == X ? DX : fifth == 3 ? DBIAS : fifth == 4 ? DW : DW | DBIAS, t->name, &result);
    if (!result.pass && t->failed++ < 10) reproduce(&run->request, t->name, result.message);
    if (!result.pass || run->request.exact) return;
    if (run->request.seed == 0) t->random = result.rms;
    if (run->request.seed == 1) t->positive = result.rms;
}

/* One problem, its oracle made once. TF32 is for kernels of a device that has it: as accurate where it has not. */
static void run_kernels(const check_request *request, double budget)
{
    backward_run run;
    convt3d_error error;
    int k;
    if (backward_make(&run, request, &error) != CONVT3D_OK || !backward_expect(&run, budget)) {
        for (k = 0; k < kernel_count; k++) kernels[k].failed++;
        reproduce(request, NULL, error.text);
    } else {
        for (k = 0; k < kernel_count; k++) run_kernel(&run, &kernels[k]);
    }
    backward_free(&run);
}

static void report(const char *what, int counted)
{
    int k, i;
    for (k = 0; k < kernel_count; k++) {
        tally *t = &kernels[k];
        const char *pass = t->pass == X ? "dx" : "dw, dbias";
        int least = 1;
        if (t->absent > 0 && t->accepted == 0) { tap_skip(t->name, "this processor lacks it"); continue; }
        tap_ok(t->failed == 0, "%s (%s): right on %d %s", t->name, pass, t->accepted, what);
        for (i = 0; i < (int)(sizeof must_accept / sizeof must_accept[0]); i++)
            if (!strcmp(t->name, must_accept[i].kernel) && t->pass == must_accept[i].pass) least = must_accept[i].least;
        if (counted) tap_ok(t->accepted >= 2 * least, "%s (%s): accepts %d of %d, at least %d", t->name, pass,
                            t->accepted / 2, (t->accepted + t->refused) / 2, least);
        t->accepted = t->refused = t->failed = t->absent = 0;
    }
}

static void test_table(void)
{
    int i, variant, exact;
    for (i = 0; i < SHAPES_COUNT; i++)
        for (variant = 0; variant < (device == CONVT3D_DEVICE_CUDA ? 16 : 8); variant += variant < 8 ? 1 : 4)
            for (exact = 0; exact < 2; exact++) {
                uint64_t seed = (uint64_t)i * 16 + (uint64_t)variant;
                check_request r = request_of(&shapes_table[i].desc, variant, exact, seed);
                run_kernels(&r, CHECK_FULL_PRODUCTS);
            }
    report("runs of the table", 1);
}

static void test_random(void)
{
    int i;
    for (i = 0; i < 240; i++) {
        convt3d_desc d = shapes_random(7000 + (uint64_t)i);
        check_request r = request_of(&d, i % 8, i / 8 % 2, 5000 + (uint64_t)i);
        run_kernels(&r, CHECK_FULL_PRODUCTS);
    }
    report("random problems", 0);
    for (i = 0; i < 140; i++) {
        const convt3d_desc d = kernel_is_stride(i);
        check_request r = request_of(&d, i % 5 == 4 && device == CONVT3D_DEVICE_CUDA ? 8 : i % 5 % 4, i / 5 % 2,
                                     6000 + (uint64_t)i);
        run_kernels(&r, 20e6);
    }
    report("problems where kernel == stride", 0);
}

/* Longer sums, in all kinds of data: K = 1728 for dx, 4096 for dw, whose blocks are then full and more than one. */
static void test_long_sums(void)
{
    static const int64_t sizes[2][5] = {{8, 64, 12, 3, 1}, {40, 24, 16, 2, 2}};
    int i, dtype;
    uint64_t kind;
    for (i = 0; i < 2; i++)
        for (kind = 0; kind < 6; kind++)
            for (dtype = 0; dtype < 4; dtype++) {
                convt3d_desc d = common_desc(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4],
                                             sizes[i][3] / 2 * (sizes[i][4] == 1));
                check_request r = request_of(&d, dtype, 0, kind);
                int k;
                r.desc.layout = (int32_t)(kind + (uint64_t)dtype) % 2;
                r.desc.accumulate = 0;
                run_kernels(&r, 1e6);
                for (k = 0; k < kernel_count && i == 0 && dtype == 0 && kind < 2; k++)
                    if (kernels[k].accepted && !kernels[k].failed)
                        tap_ok(kind == 0 ? kernels[k].random <= 1 : kernels[k].positive <= 16,
                               "%s (%s): f32 is f32: RMS %.3g of %s data", kernels[k].name,
                               kernels[k].pass == X ? "dx, K = 1728" : "dw, K = 1728",
                               kind == 0 ? kernels[k].random : kernels[k].positive,
                               kind == 0 ? "sign-random" : "all-positive");
            }
    report("long sums", 0);
}

/* ---- the call ---- */

/* Each gradient alone and all subsets: the same numbers, and nothing of the others is written. */
static void test_subsets(void)
{
    int i, pass = 1;
    uint32_t wanted;
    for (i = 0; i < 48; i++) {
        convt3d_desc d = i % 2 ? shapes_random(300 + (uint64_t)i) : shapes_table[i * 2 % SHAPES_COUNT].desc;
        check_request r = request_of(&d, i / 2 % 8, 1, (uint64_t)i);
        backward_run run;
        convt3d_error error;
        check_result result;
        int made = backward_make(&run, &r, &error) == CONVT3D_OK && backward_expect(&run, CHECK_FULL_PRODUCTS);
        pass &= made;
        for (wanted = 0; made && wanted < 8; wanted++) {
            backward_check(&run, wanted, NULL, &result);
            if (!result.pass) { reproduce(&r, NULL, result.message); pass = 0; }
        }
        backward_free(&run);
    }
    tap_ok(pass, "each gradient alone, and every set of them");
}

/* Every set of bits that accumulate. */
static void test_accumulate(void)
{
    int i, bits, pass = 1;
    for (i = 0; i < 12; i++)
        for (bits = 0; bits < 16; bits++) {
            convt3d_desc d = shapes_table[(i * 9 + 1) % SHAPES_COUNT].desc;
            check_request r = request_of(&d, i % 8, i / 2 % 2, (uint64_t)(i * 16 + bits));
            check_result result;
            r.desc.accumulate = bits;
            backward_case(&r, &result);
            if (!result.pass) { reproduce(&r, NULL, result.message); pass = 0; }
        }
    tap_ok(pass, "gradients are added to or overwritten as their bits say, with one rounding");
}

/* ---- adjoint identities ---- */

/* Modulo 2^64, in which identities of integers hold as well. */
static int64_t dot(int32_t dtype, const int64_t size[5], const void *a, const int64_t a_stride[5], const void *b,
                   const int64_t b_stride[5])
{
    int64_t at[5] = {0, 0, 0, 0, 0}, i, count = oracle_count(size);
    uint64_t sum = 0;
    for (i = 0; i < count; i++, oracle_step(size, at))
        sum += (uint64_t)(int64_t)oracle_load(dtype, a, oracle_offset(at, a_stride)) *
               (uint64_t)(int64_t)oracle_load(dtype, b, oracle_offset(at, b_stride));
    return (int64_t)sum;
}

/* Integers: every product and sum is exact, so the identities hold exactly. x that is expanded reads dx as often. */
static int adjoint(const convt3d_desc *from, int32_t layout, uint64_t seed)
{
    check_request r = request_of(from, layout * 4 + 1, 1, seed);
    backward_run run;
    convt3d_error error;
    convt3d_io io;
    int64_t y, x, w;
    int pass;
    r.desc.accumulate = 0;
    pass = backward_make(&run, &r, &error) == CONVT3D_OK;
    io = run.io;
    io.y = run.forward.y.data;
    io.dy = NULL;
    pass = pass && convt3d(&r.desc, &io, &error) == CONVT3D_OK;
    pass = pass && backward_call(&run, DX | DW, NULL, &error) == CONVT3D_OK;
    if (pass) {
        const oracle_problem *p = &run.forward.problem;
        const backward_tensor *dx = &run.tensor[BACKWARD_DX], *dw = &run.tensor[BACKWARD_DW];
        y = dot(p->dtype, p->out, run.dy.data, run.dy_stride, run.forward.y.data, p->y_stride);
        x = dot(p->dtype, p->in, p->x, p->x_stride, dx->buffer.data, dx->stride);
        w = dot(p->dtype, dw->size, run.io.w, dw->stride, dw->buffer.data, dw->stride);
        if (x != y || w != y)
            tap_note("<dy, f(x)> = %lld, <x, dx> = %lld, <w, dw> = %lld", (long long)y, (long long)x, (long long)w);
        pass = x == y && w == y;
        if (!pass) reproduce(&r, NULL, "the adjoint identity is broken");
    } else tap_note("%s", error.text);
    backward_free(&run);
    return pass;
}

static void test_adjoint(void)
{
    int i, pass = 1;
    for (i = 0; i < SHAPES_COUNT; i++) pass &= adjoint(&shapes_table[i].desc, i % 2, (uint64_t)i);
    tap_ok(pass, "<dy, f(x)> = <x, dx> = <w, dw> on the table of cases");
    for (pass = 1, i = 0; i < 200; i++) {
        convt3d_desc d = shapes_random(9000 + (uint64_t)i);
        pass &= adjoint(&d, i % 2, (uint64_t)i);
    }
    tap_ok(pass, "<dy, f(x)> = <x, dx> = <w, dw> on random problems");
}

/* ---- the same bits ---- */

static int same_tensors(const backward_run *a, const backward_run *b, int first, int last)
{
    int k;
    for (k = first; k <= last; k++)
        if (memcmp(a->tensor[k].buffer.data, b->tensor[k].buffer.data, a->tensor[k].buffer.bytes)) return 0;
    return 1;
}

static int same_for_threads(const check_request *request, const char *kernel, int32_t pass)
{
    static const int32_t threads[6] = {1, 1, 2, 3, 7, 0};
    const uint32_t wanted = pass == X ? DX : DW | DBIAS;
    backward_run one, other;
    convt3d_error error;
    int i, same = backward_make(&one, request, &error) == CONVT3D_OK;
    same = (backward_make(&other, request, &error) == CONVT3D_OK) && same;
    for (i = 0; i < 6 && same; i++) {
        backward_run *run = i ? &other : &one;
        backward_pose(run);
        run->request.desc.threads = threads[i];
        same = backward_call(run, wanted, kernel, &error) == CONVT3D_OK && (!i || same_tensors(&one, &other, 0, 2));
    }
    backward_free(&one);
    backward_free(&other);
    return same;
}

/* dx of each sample computed alone has the bits that it has inside its batch. */
static int sample_alone(const check_request *request, const char *kernel)
{
    check_request single = *request;
    backward_run whole, one;
    convt3d_error error;
    int64_t n;
    size_t dy, dx;
    int same;
    single.desc.batch = 1;
    same = backward_make(&whole, request, &error) == CONVT3D_OK;
    same = backward_make(&one, &single, &error) == CONVT3D_OK && same;
    same = same && backward_call(&whole, DX, kernel, &error) == CONVT3D_OK;
    dy = one.dy.bytes;
    dx = one.tensor[BACKWARD_DX].buffer.bytes;
    if (same) memcpy(one.forward.w.data, whole.forward.w.data, whole.forward.w.bytes);
    for (n = 0; n < request->desc.batch && same; n++) {
        memcpy(one.dy.data, whole.dy.data + (size_t)n * dy, dy);
        same = backward_call(&one, DX, kernel, &error) == CONVT3D_OK &&
               !memcmp(one.tensor[BACKWARD_DX].buffer.data, whole.tensor[BACKWARD_DX].buffer.data + (size_t)n * dx, dx);
    }
    backward_free(&whole);
    backward_free(&one);
    return same;
}

static int takes(const check_request *r, const tally *t)
{
    convt3d_desc d = r->desc;
    convt3d_plan plan;
    snprintf(d.force, sizeof d.force, "%s", t->name);
    return convt3d_plan_init(&plan, &d, t->pass, NULL) == CONVT3D_OK;
}

static void test_same_bits(void)
{
    int i, k;
    for (k = 0; k < kernel_count; k++) {
        int threads = 1, batch = 1, tried = 0;
        for (i = 0; i < 30; i++) {
            convt3d_desc d = i < 6 ? common_desc(12, 20, 13, 3, 1 + i % 2, 1)
                           : i < 24 ? shapes_random(600 + (uint64_t)i) : kernel_is_stride(3 * i);
            check_request r;
            if (i < 6) d.batch = 2;
            r = request_of(&d, i < 24 ? i % 8 : i % 4, 0, (uint64_t)i);
            if (!takes(&r, &kernels[k])) continue;
            tried++;
            threads &= same_for_threads(&r, kernels[k].name, kernels[k].pass);
            if (kernels[k].pass != X) continue;
            memset(r.desc.x_stride, 0, sizeof r.desc.x_stride);
            memset(r.desc.y_stride, 0, sizeof r.desc.y_stride);
            memset(r.desc.dy_stride, 0, sizeof r.desc.dy_stride);
            memset(r.desc.dx_stride, 0, sizeof r.desc.dx_stride);
            r.desc.accumulate = 0;
            r.desc.batch = 3;
            if (takes(&r, &kernels[k])) batch &= sample_alone(&r, kernels[k].name);
        }
        if (tried == 0) continue;
        tap_ok(threads, "%s (%s): the same bits for 1, 2, 3, 7 and all threads, and again", kernels[k].name,
               kernels[k].pass == X ? "dx" : "dw, dbias");
        if (kernels[k].pass == X) tap_ok(batch, "%s (dx): a sample's bits do not depend on its batch", kernels[k].name);
    }
}

/* ---- NaN and infinity ---- */

/* Does a product of the two elements that `at` and `to` name enter the gradient? at: in dy, w or x (of: its tensor). */
static int axis_meets(const oracle_problem *p, int a, int64_t i, int64_t k, int64_t o)
{
    int64_t from = i < 0 ? 0 : i, until = i < 0 ? p->in[2 + a] - 1 : i, first = k < 0 ? 0 : k;
    int64_t last = k < 0 ? p->kernel[a] - 1 : k, tap, target;
    for (; from <= until; from++)
        for (tap = first; tap <= last; tap++) {
            target = from * p->stride[a] - p->padding[a] + tap * p->dilation[a];
            if (target >= 0 && target < p->out[2 + a] && (o < 0 || target == o)) return 1;
        }
    return 0;
}

/* x[n, ic, i], w[ic, c, k] and dy[n, oc, o] meet in a product; a NULL one is any. */
static int meet(const oracle_problem *p, const int64_t *x, const int64_t *w, const int64_t *dy)
{
    const int64_t in_group = p->in[1] / p->groups, out_group = p->out[1] / p->groups;
    int a;
    if (x && dy && (x[0] != dy[0] || x[1] / in_group != dy[1] / out_group)) return 0;
    if (x && w && x[1] != w[0]) return 0;
    if (w && dy && w[0] / in_group * out_group + w[1] != dy[1]) return 0;
    for (a = 0; a < 3; a++)
        if (!axis_meets(p, a, x ? x[2 + a] : -1, w ? w[2 + a] : -1, dy ? dy[2 + a] : -1)) return 0;
    return 1;
}

/* Puts one special value into dy, w or x and looks where it arrives. other_zero: the other factor is 0 everywhere. */
static int taints(const check_request *request, const tally *t, int of, double special, int other_zero)
{
    const uint32_t wanted = t->pass == X ? DX : DW | DBIAS;
    backward_run clean, run;
    convt3d_error error;
    const oracle_problem *p = &run.forward.problem;
    int64_t place[5], at[5], j, wrong = 0;
    int k, pass = backward_make(&clean, request, &error) == CONVT3D_OK;
    pass = backward_make(&run, request, &error) == CONVT3D_OK && pass;
    if (pass) {
        const int64_t *size = of == CHECK_X ? p->in : of == BACKWARD_DY ? p->out : run.tensor[BACKWARD_DW].size;
        const int64_t *stride = of == CHECK_X ? p->x_stride : of == BACKWARD_DY ? run.dy_stride
                              : run.tensor[BACKWARD_DW].stride;
        check_buffer *b = of == CHECK_X ? &run.forward.x : of == BACKWARD_DY ? &run.dy : &run.forward.w;
        check_buffer *zero[2] = {t->pass == X ? &run.forward.w : &run.forward.x,
                                 t->pass == X ? &clean.forward.w : &clean.forward.x};
        oracle_unravel(size, (int64_t)(oracle_hash(request->seed, 99) % (uint64_t)oracle_count(size)), place);
        oracle_store(p->dtype, b->data, oracle_offset(place, stride), special);
        for (k = 0; k < 2 && other_zero; k++) memset(zero[k]->data, 0, zero[k]->bytes);
        pass = backward_call(&clean, wanted, t->name, &error) == CONVT3D_OK &&
               backward_call(&run, wanted, t->name, &error) == CONVT3D_OK;
    }
    for (k = 0; k < 3 && pass; k++) {
        const backward_tensor *g = &run.tensor[k];
        for (memset(at, 0, sizeof at), j = 0; (wanted >> k & 1) && j < g->count; j++, oracle_step(g->size, at)) {
            double got = oracle_load(g->dtype, g->buffer.data, oracle_offset(at, g->stride));
            double before = oracle_load(g->dtype, clean.tensor[k].buffer.data, oracle_offset(at, g->stride));
            int reached = k == BACKWARD_DBIAS ? of == BACKWARD_DY && place[1] == at[1]
                        : meet(p, k == BACKWARD_DX ? at : of == CHECK_X ? place : NULL,
                               k == BACKWARD_DW ? at : of == CHECK_W ? place : NULL, of == BACKWARD_DY ? place : NULL);
            if (reached) wrong += isnan(special) || (other_zero && k != BACKWARD_DBIAS) ? !isnan(got) : isfinite(got);
            else wrong += got != before;
        }
    }
    backward_free(&clean);
    backward_free(&run);
    return pass && wrong == 0;
}

static void test_special(void)
{
    int i, k;
    for (k = 0; k < kernel_count; k++) {
        const int other = kernels[k].pass == X ? CHECK_W : CHECK_X;
        const char *of = kernels[k].pass == X ? "dx" : "dw";
        int tried = 0, nan = 1, infinite = 1, zero = 1;
        for (i = 0; i < 72; i++) {
            convt3d_desc d = i < 60 ? shapes_random(800 + (uint64_t)i) : kernel_is_stride(i);
            check_request r = request_of(&d, i < 60 ? i % 8 : i % 4 == 1 ? 8 : i % 4, 1, (uint64_t)i * 5);
            int64_t in[5], out[5];
            sizes_of(&d, in, out);
            memset(r.desc.dy_stride, 0, sizeof r.desc.dy_stride);       /* expanded elements would be many places */
            memset(r.desc.x_stride, 0, sizeof r.desc.x_stride);
            r.desc.accumulate = 0;
            if (oracle_count(in) == 0 || oracle_count(out) == 0 || !takes(&r, &kernels[k])) continue;
            tried++;
            nan &= taints(&r, &kernels[k], BACKWARD_DY, NAN, 0) & taints(&r, &kernels[k], other, NAN, 0);
            infinite &= taints(&r, &kernels[k], BACKWARD_DY, INFINITY, 0);
            infinite &= taints(&r, &kernels[k], other, -INFINITY, 0);
            zero &= taints(&r, &kernels[k], BACKWARD_DY, INFINITY, 1);
        }
        if (tried == 0) continue;
        tap_ok(nan, "%s (%s): a NaN reaches exactly the sums that contain it", kernels[k].name, of);
        tap_ok(infinite, "%s (%s): so does an infinity", kernels[k].name, of);
        tap_ok(zero, "%s (%s): zero times infinity is NaN", kernels[k].name, of);
    }
}

/* ---- what is empty ---- */

/* Sums of nothing are zero, or what was there; pointers of what is empty may be NULL. */
static void test_empty(void)
{
    float dx[64], dw[64], dbias[4];
    int32_t bits;
    int what, i;
    for (what = 0; what < 3; what++)
        for (bits = 0; bits <= CONVT3D_BACKWARD; bits += CONVT3D_BACKWARD) {
            convt3d_desc d = common_desc(2, 2, 2, 2, 2, 0);
            convt3d_io io;
            int pass = 1;
            memset(&io, 0, sizeof io);
            d.device = device;
            d.accumulate = bits;
            if (what == 0) d.batch = 0;
            if (what > 0) d.fixed_out_size = 1;
            if (what == 2) d.in_size[0] = 0;
            if (what == 2) d.out_size[0] = d.out_size[1] = d.out_size[2] = 2;
            for (i = 0; i < 64; i++) dx[i] = dw[i] = dbias[i % 4] = 7;
            io.dw = dw;
            io.dbias = dbias;
            io.w = what == 1 ? dw + 32 : NULL;
            if (what == 1) { io.dx = dx;  io.x = dx + 32; }
            if (what == 2) io.dy = dx;
            pass &= convt3d_backward(&d, &io, NULL) == CONVT3D_OK;
            for (i = 0; i < 32; i++) pass &= dw[i] == (bits ? 7.0f : 0.0f);
            for (i = 0; i < 2; i++) pass &= dbias[i] == (bits ? 7.0f : 0.0f) + (what == 2 ? 7.0f * 8 : 0.0f);
            for (i = 0; i < 16; i++) pass &= dx[i] == (what == 1 && !bits ? 0.0f : 7.0f);
            for (i = 32; i < 64; i++) pass &= dw[i] == 7.0f;
            tap_ok(pass, "%s: sums of nothing are %s", what == 0 ? "batch 0" : what == 1 ? "out_size 0" : "in_size 0",
                   bits ? "added" : "zero");
        }
}

int main(int argc, char **argv)
{
    int32_t count;
    device = argc > 1 ? !strcmp(argv[1], "cuda") : common_device();
    if (device == CONVT3D_DEVICE_CUDA && convt3d_device_count(&count, NULL) != CONVT3D_OK) {
        tap_skip("CUDA kernels", "no GPU");
        return tap_done();
    }
    find_kernels(argc > 2 ? argv[2] : NULL);
    test_table();
    test_random();
    test_long_sums();
    test_same_bits();
    test_special();
    if (argc > 2) return tap_done();
    test_subsets();
    test_accumulate();
    test_adjoint();
    test_empty();
    return tap_done();
}
