/* Promise: the numeric contract of docs/numerics.md, item by item, against the oracle. */
#include "contract.h"

static convt3d_desc with_type(convt3d_desc d, int32_t dtype)
{
    d.dtype = dtype;
    return d;
}

/* ---- 1: exact data ---- */

/* x and w all at their limits, signs and zeros random, K so small that S stays below 2^24. */
static int exact_at_limits(int32_t dtype, double x_limit, double w_limit, int64_t products, uint64_t seed)
{
    convt3d_desc d = with_type(common_desc(products, 9, 7, 1, 2, 0), dtype);
    check_request request;
    common_data c;
    int64_t i;
    int pass;
    if (!common_make(&c, &d, 1, seed)) return 0;
    for (i = 0; i < c.problem.x_span; i++)
        oracle_store(dtype, c.x.data, i, x_limit > 1 ? (oracle_hash(seed, (uint64_t)i) & 1 ? x_limit : 1 - x_limit)
                                                     : (double)(oracle_hash(seed, (uint64_t)i) % 3) - 1);
    for (i = 0; i < c.problem.w_count; i++)
        oracle_store(dtype, c.w.data, i, w_limit > 1 ? (oracle_hash(seed + 1, (uint64_t)i) & 1 ? w_limit : 1 - w_limit)
                                                     : (double)(oracle_hash(seed + 1, (uint64_t)i) % 3) - 1);
    memset(&request, 0, sizeof request);
    request.desc = d;
    request.exact = 1;
    request.x = c.io.x; request.w = c.io.w; request.bias = c.io.bias;
    pass = common_check(&request);
    common_free(&c);
    return pass;
}

static void test_exact(void)
{
    static const double limit[4] = {2048, 2048, 2048, 256};
    const double wide = 1048576;
    uint64_t seed;
    int dtype, pass;
    for (dtype = 0; dtype < 4; dtype++) {
        for (pass = 1, seed = 0; seed < 6; seed++)
            pass &= exact_at_limits(dtype, limit[dtype], limit[dtype], dtype == CONVT3D_BF16 ? 200 : 3, seed);
        tap_ok(pass, "1a: integers at the operands' limits are exact, %s", common_dtypes[dtype]);
    }
    for (dtype = 0; dtype < 2; dtype++) {
        for (pass = 1, seed = 0; seed < 6; seed++)
            pass &= exact_at_limits(dtype, wide, 1, 15, seed) & exact_at_limits(dtype, 1, wide, 15, seed);
        tap_ok(pass, "1b: one operand up to 2^20, the other in {-1, 0, 1}, are exact, %s", common_dtypes[dtype]);
    }
}

/* ---- 2: the bound ---- */

static void test_bound(void)
{
    static const char *const names[6] = {"sign-random", "all-positive", "wide range", "worst-case operands",
                                         "near the type's limits", "subnormal"};
    uint64_t kind;
    int dtype, layer;
    for (kind = 0; kind < 6; kind++)
        for (dtype = 0; dtype < 4; dtype++) {
            const convt3d_desc layers[4] = {common_desc(16, 9, 6, 3, 2, 1), common_desc(8, 8, 5, 2, 2, 0),
                                            common_desc(24, 3, 5, 3, 1, 1), common_desc(3, 17, 4, 4, 2, 1)};
            int pass = 1;
            for (layer = 0; layer < 4; layer++) {
                check_request request;
                memset(&request, 0, sizeof request);
                request.desc = with_type(layers[layer], dtype);
                request.seed = kind + 6 * (uint64_t)layer;
                pass &= common_check(&request);
                request.desc.math = CONVT3D_TF32;
                pass &= common_check(&request);
            }
            tap_ok(pass, "2: within the bound on %s data, %s, accurate and TF32", names[kind], common_dtypes[dtype]);
        }
}

/* y is the bias, bit for bit but for the sign of zero, wherever K = 0. */
static int bias_alone(int32_t dtype)
{
    static const double special[8] = {0, -1.5, 1e-45, 65504, NAN, INFINITY, -INFINITY, 5e-324};
    convt3d_desc d = with_type(common_desc(2, 8, 2, 1, 5, 0), dtype);
    common_data c;
    int64_t j, o[5], wrong = 0, empty = 0;
    int a;
    if (!common_make(&c, &d, 0, 3)) return 0;
    for (j = 0; j < 8; j++) oracle_store(dtype, c.bias.data, j, special[j]);
    if (!common_run(&c)) wrong = 1;
    for (j = 0; j < c.problem.y_count; j++) {
        int reached = 1;
        oracle_unravel(c.problem.out, j, o);
        for (a = 2; a < 5; a++) reached = reached && o[a] % 5 == 0;
        if (reached) continue;
        empty++;
        wrong += !oracle_same(common_get(&c, j), oracle_load(dtype, c.bias.data, o[1]));
    }
    common_free(&c);
    return wrong == 0 && empty > 0;
}

static double one_product(int32_t dtype, double x, double w)
{
    convt3d_desc d = with_type(common_desc(1, 1, 1, 1, 1, 0), dtype);
    unsigned char px[16] = {0}, pw[16] = {0}, py[16] = {0};
    convt3d_io io;
    double *aligned = (double *)malloc(3 * 16), y;
    if (!aligned) return 0;
    memset(&io, 0, sizeof io);
    oracle_store(dtype, px, 0, x);
    oracle_store(dtype, pw, 0, w);
    memcpy(aligned, px, 16);
    memcpy(aligned + 2, pw, 16);
    memcpy(aligned + 4, py, 16);
    io.x = aligned; io.w = aligned + 2; io.y = aligned + 4;
    y = convt3d(&d, &io, NULL) == CONVT3D_OK ? oracle_load(dtype, aligned + 4, 0) : 0;
    free(aligned);
    return y;
}

static void test_ends_of_range(void)
{
    int dtype;
    for (dtype = 0; dtype < 4; dtype++) {
        oracle_format f = oracle_format_of(dtype);
        double least = ldexp(1.0, f.min_exponent);
        tap_ok(bias_alone(dtype), "2: K = 0 gives exactly the bias, %s", common_dtypes[dtype]);
        tap_ok(one_product(dtype, least, 1) == least && one_product(dtype, -3 * least, 1) == -3 * least
               && one_product(dtype, least, 5) == 5 * least, "6: subnormals are kept, %s", common_dtypes[dtype]);
    }
    tap_ok(one_product(CONVT3D_F16, 60000, 2) == INFINITY
           && one_product(CONVT3D_F16, -60000, 2) == -INFINITY
           && one_product(CONVT3D_F16, 32752, 2) == 65504, "2: overflow of f16 gives infinity, 65504 does not");
}

/* ---- 3: default f32 is f32 ---- */

static double rms_of(uint64_t seed, int64_t in_channels, int64_t kernel, int32_t *pass)
{
    check_request request;
    check_result result;
    memset(&request, 0, sizeof request);
    request.desc = common_desc(in_channels, 8, 6, kernel, 1, 1);
    request.seed = seed;
    check_case(&request, &result);
    *pass = result.pass;
    if (!result.pass) common_reproducer(&request, result.message);
    return result.rms;
}

static void test_rms(void)
{
    static const int64_t channels[3] = {1, 12, 64};
    int i, pass;
    for (i = 0; i < 3; i++) {
        double random = rms_of(0, channels[i], 3, &pass), positive;
        tap_ok(pass && random > 0 && random <= 1, "3: RMS %.3g of sign-random data, K = %d", random,
               (int)channels[i] * 27);
        positive = rms_of(1, channels[i], 3, &pass);
        tap_ok(pass && positive > 0 && positive <= 16, "3: RMS %.3g of all-positive data, K = %d", positive,
               (int)channels[i] * 27);
        rms_of(3, channels[i], 3, &pass);
        tap_ok(pass, "3: worst-case operands, K = %d", (int)channels[i] * 27);
    }
}

/* The bound of item 2 must be able to fail a TF32 result, at least on worst-case operands. */
static void test_bound_rejects_tf32(void)
{
    const int64_t products = 27;
    const double x = 1 + ldexp(1, -11) - ldexp(1, -23), rounded = 1;     /* x to 11 bits */
    oracle_value v;
    int64_t i;
    memset(&v, 0, sizeof v);
    for (i = 0; i < products; i++) oracle_accumulate(&v, x, x);
    tap_ok(!oracle_judge(&v, (double)products * rounded * rounded, CONVT3D_F32, CONVT3D_ACCURATE, 0, 0).pass,
           "3: the judge rejects TF32 on worst-case operands");
    tap_ok(oracle_judge(&v, (double)(float)v.high, CONVT3D_F32, CONVT3D_ACCURATE, 0, 0).pass, "3: and accepts f32");
}

/* ---- 4: the same bits ---- */

static int same_for_threads(const convt3d_desc *d, uint64_t seed)
{
    static const int32_t threads[6] = {1, 2, 7, 1, 7, 0};
    common_data a, b;
    int i, pass = common_make(&a, d, 0, seed) & common_make(&b, d, 0, seed);
    a.desc.threads = 1;
    pass = pass && common_run(&a);
    for (i = 0; i < 6 && pass; i++) {
        b.desc.threads = threads[i];
        pass = common_run(&b) && common_same_outputs(&a, &b);
    }
    common_free(&a);
    common_free(&b);
    return pass;
}

static void test_same_bits(void)
{
    int i, threads = 1, batch = 1;
    for (i = 0; i < 60; i++) {
        convt3d_desc d = shapes_random(600 + (uint64_t)i);
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        memset(d.x_stride, 0, sizeof d.x_stride);
        memset(d.y_stride, 0, sizeof d.y_stride);
        threads &= same_for_threads(&d, (uint64_t)i);
        d.batch = 3;
        batch &= contract_sample_alone(&d, (uint64_t)i);
    }
    tap_ok(threads, "4: the same bits for 1, 2, 7 and all threads, and again");
    tap_ok(batch, "4: a sample's bits do not depend on its batch");
}

/* ---- 5: NaN and infinity ---- */

/* Is there a tap that takes input i to output o? tap >= 0: through that tap only. */
static int axis_reaches(const oracle_problem *p, int a, int64_t i, int64_t o, int64_t tap)
{
    int64_t k;
    for (k = 0; k < p->kernel[a]; k++)
        if ((tap < 0 || tap == k) && i * p->stride[a] - p->padding[a] + k * p->dilation[a] == o) return 1;
    return 0;
}

static int input_reaches(const oracle_problem *p, const int64_t i[5], const int64_t o[5])
{
    int a;
    if (i[0] != o[0] || i[1] / (p->in[1] / p->groups) != o[1] / (p->out[1] / p->groups)) return 0;
    for (a = 0; a < 3; a++) if (!axis_reaches(p, a, i[2 + a], o[2 + a], -1)) return 0;
    return 1;
}

static int weight_reaches(const oracle_problem *p, const int64_t w[5], const int64_t o[5])
{
    const int64_t out_group = p->out[1] / p->groups;
    int64_t i;
    int a;
    if (w[0] / (p->in[1] / p->groups) * out_group + w[1] != o[1]) return 0;
    for (a = 0; a < 3; a++) {
        for (i = 0; i < p->in[2 + a]; i++) if (axis_reaches(p, a, i, o[2 + a], w[2 + a])) break;
        if (i == p->in[2 + a]) return 0;
    }
    return 1;
}

/* Puts one special value into x (in_w 0) or w (in_w 1): NaN or infinity exactly in its window, other bits as before. */
static int taints_window(const convt3d_desc *d, double special, int in_w, int zero_other, uint64_t seed)
{
    common_data clean, c;
    int64_t at[5], o[5], j, wrong = 0, sizes[5];
    int pass = common_make(&clean, d, 1, seed) & common_make(&c, d, 1, seed);
    const oracle_problem *p = &c.problem;
    if (pass && zero_other) {
        memset(clean.w.data, 0, clean.w.bytes);
        memset(c.w.data, 0, c.w.bytes);
    }
    pass = pass && p->y_count > 0 && oracle_count(p->in) > 0 && common_run(&clean);
    if (pass) {
        memcpy(sizes, p->in, sizeof sizes);
        if (in_w) {
            sizes[0] = p->in[1]; sizes[1] = p->out[1] / p->groups;
            memcpy(sizes + 2, p->kernel, sizeof p->kernel);
        }
        oracle_unravel(sizes, (int64_t)(oracle_hash(seed, 99) % (uint64_t)oracle_count(sizes)), at);
        if (in_w) oracle_store(d->dtype, c.w.data, oracle_ravel(sizes, at), special);
        else oracle_store(d->dtype, c.x.data, oracle_offset(at, p->x_stride), special);
        pass = common_run(&c);
    }
    for (j = 0; pass && j < p->y_count; j++) {
        double y = common_get(&c, j), before = common_get(&clean, j);
        oracle_unravel(p->out, j, o);
        if (in_w ? weight_reaches(p, at, o) : input_reaches(p, at, o))
            wrong += isnan(special) || zero_other ? !isnan(y) : isfinite(y);
        else wrong += !(y == before);
    }
    common_free(&clean);
    common_free(&c);
    return pass && wrong == 0;
}

static void test_special(void)
{
    int i, tried = 0, nan_x = 1, nan_w = 1, inf_x = 1, inf_w = 1, zero_inf = 1;
    for (i = 0; i < 250; i++) {
        convt3d_desc d = shapes_random(800 + (uint64_t)i);
        uint64_t seed = (uint64_t)i * 5;
        int64_t in = d.batch * d.in_size[0] * d.in_size[1] * d.in_size[2];
        int64_t out = shapes_out_size(&d, 0) * shapes_out_size(&d, 1) * shapes_out_size(&d, 2);
        if (in == 0 || out == 0 || !oracle_all_zero(d.x_stride)) continue;
        tried++;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        nan_x &= taints_window(&d, NAN, 0, 0, seed);
        nan_w &= taints_window(&d, NAN, 1, 0, seed);
        inf_x &= taints_window(&d, INFINITY, 0, 0, seed);
        inf_w &= taints_window(&d, -INFINITY, 1, 0, seed);
        zero_inf &= taints_window(&d, INFINITY, 0, 1, seed);
    }
    tap_ok(nan_x && tried > 100, "5: a NaN in x reaches exactly its window");
    tap_ok(nan_w, "5: a NaN in w reaches exactly the outputs that use the tap");
    tap_ok(inf_x, "5: an infinity in x reaches exactly its window");
    tap_ok(inf_w, "5: an infinity in w reaches exactly the outputs that use the tap");
    tap_ok(zero_inf, "5: zero weight times infinity is NaN");
}

int main(void)
{
    test_exact();
    test_bound();
    test_ends_of_range();
    test_rms();
    test_bound_rejects_tf32();
    test_same_bits();
    test_special();
    return tap_done();
}
