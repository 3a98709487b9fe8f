/* Promise: the judge can be trusted. Its sampled mode agrees with its full mode; samples hold every corner, faces and
 * every phase; its sums are better than double; it fails what is wrong by one unit. */
#include "common.h"

static int same_values(const oracle_value *a, const oracle_value *b)
{
    return a->high + a->low == b->high + b->low && a->products == b->products && a->special == b->special
        && fabs(a->sum - b->sum) <= 1e-12 * a->sum;
}

static int modes_agree(const convt3d_desc *d, uint64_t seed)
{
    common_data c;
    oracle_value *full = NULL, *sampled = NULL;
    int64_t *list = NULL, count = 0, j;
    int pass = common_make(&c, d, 1, seed) && oracle_decode_w(&c.problem, c.io.w);
    if (pass) {
        list = oracle_sample(&c.problem, seed, &count);
        full = (oracle_value *)malloc((size_t)(c.problem.y_count + 1) * sizeof *full);
        sampled = (oracle_value *)malloc((size_t)(count + 1) * sizeof *sampled);
    }
    pass = pass && list && full && sampled && oracle_sampled(&c.problem, list, count, sampled);
    if (pass) oracle_full(&c.problem, full);
    for (j = 0; pass && j < count; j++) pass = same_values(&full[list[j]], &sampled[j]);
    pass = pass && (count == c.problem.y_count || count >= 4096);
    free(list); free(full); free(sampled);
    free(c.problem.w);
    common_free(&c);
    return pass;
}

static void test_modes(void)
{
    int i, pass = 1;
    for (i = 0; i < SHAPES_COUNT; i++) pass &= modes_agree(&shapes_table[i].desc, (uint64_t)i);
    tap_ok(pass, "sampled and full mode agree on the table");
    for (pass = 1, i = 0; i < 200; i++) {
        convt3d_desc d = shapes_random(70 + (uint64_t)i);
        d.dtype = i % 4;
        pass &= modes_agree(&d, (uint64_t)i);
    }
    tap_ok(pass, "sampled and full mode agree on random problems");
}

static int contains(const int64_t *list, int64_t count, int64_t value)
{
    return bsearch(&value, list, (size_t)count, sizeof *list, oracle_compare_int64) != NULL;
}

static void test_samples(void)
{
    convt3d_desc d = common_desc(3, 5, 30, 4, 3, 1);
    oracle_problem p;
    int64_t *list, count = 0, j, o[5], corner, corners = 0, faces[6] = {0, 0, 0, 0, 0, 0};
    int phases[27] = {0}, a, missing = 0;
    d.batch = 2;
    oracle_init(&p, &d);
    list = oracle_sample(&p, 9, &count);
    if (!list) { tap_ok(0, "out of memory"); return; }
    tap_ok(count >= 4096 && count < p.y_count, "%d of %d outputs are looked at", (int)count, (int)p.y_count);
    for (corner = 0; corner < 32; corner++) {
        for (a = 0; a < 5; a++) o[a] = corner >> a & 1 ? p.out[a] - 1 : 0;
        corners += contains(list, count, oracle_ravel(p.out, o));
    }
    tap_ok(corners == 32, "all corners, of first and last sample and channel, are among them");
    for (j = 0; j < count; j++) {
        oracle_unravel(p.out, list[j], o);
        for (a = 0; a < 3; a++) { faces[a] += o[2 + a] == 0; faces[3 + a] += o[2 + a] == p.out[2 + a] - 1; }
        phases[(o[2] % 3 * 3 + o[3] % 3) * 3 + o[4] % 3]++;
    }
    for (a = 0; a < 27; a++) missing += phases[a] < 20;
    for (a = 0; a < 6; a++) missing += faces[a] < ORACLE_FACE_SAMPLES / 2;
    tap_ok(missing == 0, "all faces and all phases are among them");
    free(list);
}

/* A large case through the sampled mode of check_case. */
static void test_large_case(void)
{
    check_request request;
    check_result result;
    memset(&request, 0, sizeof request);
    request.desc = common_desc(16, 16, 24, 3, 2, 1);
    request.desc.output_padding[1] = 1;
    request.exact = 1;
    check_case(&request, &result);
    tap_ok(result.pass && result.checked >= 4096 && result.checked < result.total, "a large case is sampled: %s",
           result.message);
    tap_ok(result.total == 16 * 47 * 48 * 47, "and knows how many outputs there are");
}

static void test_precision(void)
{
    oracle_value v;
    memset(&v, 0, sizeof v);
    oracle_accumulate(&v, 1e16, 1);
    oracle_accumulate(&v, 1, 1);
    oracle_accumulate(&v, -1e16, 1);
    tap_ok(v.high + v.low == 1, "a cancelling sum keeps its small part");
    memset(&v, 0, sizeof v);
    oracle_accumulate(&v, 1 + ldexp(1, -52), 1 + ldexp(1, -52));
    oracle_accumulate(&v, -1, 1 + ldexp(1, -51));
    tap_ok(v.high + v.low == ldexp(1, -104), "a product keeps all its bits");
}

/* One unit in the last place of one operand's product is seen. */
static void test_judge(void)
{
    oracle_value v;
    memset(&v, 0, sizeof v);
    oracle_accumulate(&v, 3, 5);
    tap_ok(oracle_judge(&v, 15, CONVT3D_F32, 0, 1, 0).pass, "exact data: the value passes");
    tap_ok(!oracle_judge(&v, (double)nextafterf(15, 16), CONVT3D_F32, 0, 1, 0).pass, "exact data: its neighbour fails");
    tap_ok(oracle_judge(&v, (double)nextafterf(15, 16), CONVT3D_F32, 0, 0, 0).pass, "real data: its neighbour passes");
    tap_ok(!oracle_judge(&v, 15 * (1 + ldexp(1, -20)), CONVT3D_F32, 0, 0, 0).pass, "real data: 2^-20 off fails");
    tap_ok(!oracle_judge(&v, NAN, CONVT3D_F32, 0, 0, 0).pass && !oracle_judge(&v, INFINITY, CONVT3D_F32, 0, 0, 0).pass,
           "NaN and infinity fail where the value is finite");
    oracle_accumulate(&v, 300, 300);
    tap_ok(oracle_judge(&v, INFINITY, CONVT3D_F16, 0, 0, 0).pass && !oracle_judge(&v, 65504, CONVT3D_F16, 0, 0, 0).pass
           && !oracle_judge(&v, -INFINITY, CONVT3D_F16, 0, 0, 0).pass, "overflow must be infinity of the right sign");
    oracle_accumulate(&v, INFINITY, 1);
    tap_ok(oracle_judge(&v, INFINITY, CONVT3D_F32, 0, 0, 0).pass && !oracle_judge(&v, NAN, CONVT3D_F32, 0, 0, 0).pass,
           "an infinite operand must be seen");
    oracle_accumulate(&v, INFINITY, 0);
    tap_ok(oracle_judge(&v, NAN, CONVT3D_F32, 0, 0, 0).pass && !oracle_judge(&v, INFINITY, CONVT3D_F32, 0, 0, 0).pass,
           "so must a NaN");
}

int main(void)
{
    test_modes();
    test_samples();
    test_large_case();
    test_precision();
    test_judge();
    return tap_done();
}
