/* contract.h - items of the numeric contract that hold for every kernel, each as one check of one problem. */
#ifndef CONVT3D_TESTS_CONTRACT_H
#define CONVT3D_TESTS_CONTRACT_H

#include "common.h"

static inline void contract_use(convt3d_desc *d, const char *kernel)
{
    memset(d->force, 0, sizeof d->force);
    memcpy(d->force, kernel, strlen(kernel));
}

/* Item 4: each sample computed alone has the bits that it has inside its batch, and so has the batch computed again.
 * Dense x and y of layout. */
static inline int contract_sample_alone(const convt3d_desc *d, uint64_t seed)
{
    common_data whole, one, again;
    convt3d_desc single = *d;
    int64_t n, x_bytes, y_bytes;
    int pass;
    single.batch = 1;
    pass = common_make(&whole, d, 0, seed) & common_make(&again, d, 0, seed) & common_make(&one, &single, 0, seed);
    pass = pass && common_run(&whole) && common_run(&again) && common_same_outputs(&whole, &again);
    x_bytes = (int64_t)one.x.bytes;
    y_bytes = (int64_t)one.y.bytes;
    for (n = 0; n < d->batch && pass; n++) {
        memcpy(one.x.data, whole.x.data + n * x_bytes, (size_t)x_bytes);
        memcpy(one.w.data, whole.w.data, whole.w.bytes);
        pass = common_run(&one) && !memcmp(one.y.data, whole.y.data + n * y_bytes, (size_t)y_bytes);
    }
    common_free(&whole);
    common_free(&again);
    common_free(&one);
    return pass;
}

/* Item 5: with one NaN or infinity in x or w, the kernel's outputs are those of the reference, NaN for NaN, on integer
 * data. d.device and d.force are the kernel's. */
static inline int contract_special_as_reference(const convt3d_desc *d, double special, int in_w, uint64_t seed)
{
    common_data a, b;
    int64_t j, at;
    int pass = common_make(&a, d, 1, seed) & common_make(&b, d, 1, seed);
    if (pass && a.problem.y_count > 0 && oracle_count(a.problem.in) > 0) {
        at = (int64_t)(oracle_hash(seed, 77) % (uint64_t)(in_w ? a.problem.w_count : a.problem.x_span));
        oracle_store(d->dtype, in_w ? a.w.data : a.x.data, at, special);
        oracle_store(d->dtype, in_w ? b.w.data : b.x.data, at, special);
        contract_use(&a.desc, "reference");
        a.desc.device = CONVT3D_DEVICE_CPU;
        pass = common_run(&a) && common_run(&b);
        for (j = 0; pass && j < a.problem.y_count; j++) pass = oracle_same(common_get(&a, j), common_get(&b, j));
    }
    common_free(&a);
    common_free(&b);
    return pass;
}

#endif
