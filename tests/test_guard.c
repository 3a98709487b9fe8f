/* Promise: nothing outside x, w, bias and y is read or written. Each of them in turn starts, and then ends, at a
 * page that may not be touched: a stray access ends the program. */
#include "guard.h"
#include "common.h"

static int copy_to_guard(guard_memory *g, const check_buffer *from, int at_end)
{
    *g = guard_make(from->bytes, at_end);
    if (g->data && from->bytes) memcpy(g->data, from->data, from->bytes);
    return g->data != NULL;
}

static int run_guarded(const convt3d_desc *desc, int at_end)
{
    common_data c;
    guard_memory x, w, bias, y;
    convt3d_io io;
    convt3d_error error;
    int pass = 0;
    if (!common_make(&c, desc, 1, 5)) return 0;
    common_run(&c);
    if (copy_to_guard(&x, &c.x, at_end) & copy_to_guard(&w, &c.w, at_end) & copy_to_guard(&bias, &c.bias, at_end)
        & copy_to_guard(&y, &c.y, at_end)) {
        if (c.y.bytes) memset(y.data, CHECK_SENTINEL, c.y.bytes);
        memset(&io, 0, sizeof io);
        io.x = x.data; io.w = w.data; io.bias = bias.data; io.y = y.data;
        pass = convt3d(desc, &io, &error) == CONVT3D_OK && (!c.y.bytes || !memcmp(y.data, c.y.data, c.y.bytes));
    }
    guard_free(&x); guard_free(&w); guard_free(&bias); guard_free(&y);
    common_free(&c);
    return pass;
}

int main(void)
{
    int i, dtype, at_end;
    if (!GUARD_PAGES) {
        tap_skip("guard pages", "needs mmap");
        return tap_done();
    }
    for (i = 0; i < SHAPES_COUNT; i++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++)
            for (at_end = 0; at_end < 2; at_end++) {
                convt3d_desc desc = shapes_table[i].desc;
                desc.dtype = dtype;
                desc.layout = (i + dtype + at_end) % 2;
                desc.threads = 1 + at_end;
                pass &= run_guarded(&desc, at_end);
            }
        tap_ok(pass, "%s", shapes_table[i].name);
    }
    return tap_done();
}
