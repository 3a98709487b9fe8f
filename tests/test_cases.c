/* Promise: every case of the table, in every type and layout, on exact and on real data, is what the oracle says. */
#include "common.h"

static int run_case(const shapes_case *c, int32_t dtype, int32_t layout, uint64_t seed)
{
    static const int32_t threads[3] = {1, 2, 7};
    check_request request;
    int exact, pass = 1;
    memset(&request, 0, sizeof request);
    request.desc = c->desc;
    request.desc.dtype = dtype;
    request.desc.layout = layout;
    for (exact = 0; exact < 2; exact++) {
        request.exact = exact;
        request.seed = seed;
        request.desc.threads = threads[(seed + (uint64_t)exact) % 3];
        pass &= common_check(&request);
    }
    return pass;
}

int main(void)
{
    int i, dtype, layout;
    for (i = 0; i < SHAPES_COUNT; i++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++)
            for (layout = 0; layout < 2; layout++)
                pass &= run_case(&shapes_table[i], dtype, layout, (uint64_t)(i * 8 + dtype * 2 + layout));
        tap_ok(pass, "%s", shapes_table[i].name);
    }
    return tap_done();
}
