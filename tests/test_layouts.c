/* Promise: NDHWC, and views with strides of their own, give the very bits of NCDHW under the reference. */
#include "common.h"

static int same_bits(convt3d_desc one, convt3d_desc other, int exact, uint64_t seed)
{
    common_data a, b;
    int made, pass;
    memcpy(one.force, "reference", sizeof "reference");
    memcpy(other.force, "reference", sizeof "reference");
    made = common_make(&a, &one, exact, seed);
    made &= common_make(&b, &other, exact, seed);
    pass = made && common_run(&a) && common_run(&b) && common_same_outputs(&a, &b);
    common_free(&a);
    common_free(&b);
    return pass;
}

static int layouts_agree(const convt3d_desc *desc, uint64_t seed)
{
    int dtype, pass = 1;
    for (dtype = 0; dtype < 4; dtype++) {
        convt3d_desc first = *desc, last = *desc, view = *desc;
        first.dtype = last.dtype = view.dtype = dtype;
        memset(first.x_stride, 0, sizeof first.x_stride);
        memset(first.y_stride, 0, sizeof first.y_stride);
        last = first;
        last.layout = CONVT3D_NDHWC;
        pass &= same_bits(first, last, 0, seed);
        if (desc->x_stride[3] != 0 && desc->x_stride[4] == 0) continue;     /* a broadcast x is other data */
        if (desc->x_stride[2] != 0 && desc->x_stride[0] == 0) continue;
        pass &= same_bits(first, view, 0, seed);
    }
    return pass;
}

int main(void)
{
    int i;
    for (i = 0; i < SHAPES_COUNT; i++)
        tap_ok(layouts_agree(&shapes_table[i].desc, (uint64_t)i), "%s", shapes_table[i].name);
    for (i = 0; i < 200; i++) {
        convt3d_desc desc = shapes_random(4000 + (uint64_t)i);
        if (!layouts_agree(&desc, (uint64_t)i)) break;
    }
    tap_ok(i == 200, "random problems and views (first failing: %d)", i);
    return tap_done();
}
