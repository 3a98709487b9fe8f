/* Promise: nothing outside x, w, bias and y, or dy and the gradients, is read or written. Each of them starts, and then
 * ends, at a page that may not be touched: a stray access ends the program. */
#include "guard.h"
#include "check_backward.h"
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

/* The same of x, w, dy and the gradients, compared with a call on ordinary memory. */
static int backward_guarded(const convt3d_desc *desc, int at_end)
{
    backward_run run;
    check_request r;
    guard_memory g[6];
    check_buffer *from[6];
    convt3d_io io;
    convt3d_error error;
    int pass, k;
    memset(&r, 0, sizeof r);
    memset(g, 0, sizeof g);
    r.desc = *desc;
    r.exact = 1;
    r.seed = 5;
    pass = backward_make(&run, &r, &error) == CONVT3D_OK && backward_call(&run, ~0u, NULL, &error) == CONVT3D_OK;
    from[0] = &run.forward.x; from[1] = &run.forward.w; from[2] = &run.dy;
    for (k = 0; k < 3; k++) from[3 + k] = &run.tensor[k].buffer;
    for (k = 0; k < 6 && pass; k++) pass = copy_to_guard(&g[k], from[k], at_end);
    if (pass) {
        for (k = 3; k < 6; k++) if (from[k]->bytes) memset(g[k].data, CHECK_SENTINEL, from[k]->bytes);
        memset(&io, 0, sizeof io);
        io.x = g[0].data; io.w = g[1].data; io.dy = g[2].data;
        io.dx = g[3].data; io.dw = g[4].data; io.dbias = g[5].data;
        pass = convt3d_backward(desc, &io, &error) == CONVT3D_OK;
        for (k = 3; k < 6 && pass; k++) pass = !from[k]->bytes || !memcmp(g[k].data, from[k]->data, from[k]->bytes);
    }
    for (k = 0; k < 6; k++) if (g[k].map || g[k].data) guard_free(&g[k]);
    backward_free(&run);
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
                if ((i + dtype) % 2 == at_end) pass &= backward_guarded(&desc, at_end);
            }
        tap_ok(pass, "%s", shapes_table[i].name);
    }
    return tap_done();
}
