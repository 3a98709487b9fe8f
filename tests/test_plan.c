/* Promise: a plan is plain bytes: copied with memcpy, shared by threads, never changed by a run. Its calls for size,
 * information and text are consistent. y may interleave with x in one buffer, as a channel concatenation does; a
 * shared element is refused. Pointers less aligned than promised are refused by run and served by the easy call. */
#include "check_backward.h"
#include "common.h"

#ifdef _OPENMP
#  include <omp.h>
#endif

static void test_copy(void)
{
    convt3d_desc d = common_desc(8, 8, 6, 3, 2, 1);
    common_data a, b;
    convt3d_plan plan, copy;
    int pass = common_make(&a, &d, 0, 1) & common_make(&b, &d, 0, 1);
    pass = pass && convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
    memcpy(&copy, &plan, sizeof copy);
    common_poison(&a);
    common_poison(&b);
    pass = pass && common_run_plan(&plan, &a.io, NULL) == CONVT3D_OK;
    tap_ok(pass && !memcmp(&plan, &copy, sizeof copy), "a run leaves the plan as it was");
    memset(&plan, 0, sizeof plan);
    tap_ok(pass && common_run_plan(&copy, &b.io, NULL) == CONVT3D_OK && common_same_outputs(&a, &b), "a copied plan runs");
    tap_ok(convt3d_run(&plan, &b.io, NULL) == CONVT3D_PLAN_INVALID, "a zeroed plan is none");
    common_free(&a);
    common_free(&b);
}

/* Several threads run one plan on data of their own. */
static void test_shared(void)
{
    enum { RUNS = 8 };
    convt3d_desc d = common_desc(6, 5, 7, 3, 2, 1);
    common_data all[RUNS], alone[RUNS];
    convt3d_plan plan;
    int i, pass = 1, ran[RUNS];
    d.threads = 2;
    for (i = 0; i < RUNS; i++)
        pass &= common_make(&all[i], &d, 0, (uint64_t)i) & common_make(&alone[i], &d, 0, (uint64_t)i);
    pass = pass && convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
    for (i = 0; i < RUNS && pass; i++) common_poison(&all[i]);
#ifdef _OPENMP
#pragma omp parallel for num_threads(4) schedule(static, 1)
#endif
    for (i = 0; i < RUNS; i++) ran[i] = pass && common_run_plan(&plan, &all[i].io, NULL) == CONVT3D_OK;
    for (i = 0; i < RUNS; i++)
        pass = pass && ran[i] && common_run(&alone[i]) && common_same_outputs(&all[i], &alone[i]);
    tap_ok(pass, "one plan runs in several threads at once");
    for (i = 0; i < RUNS; i++) { common_free(&all[i]); common_free(&alone[i]); }
}

static void test_information(void)
{
    convt3d_desc d = common_desc(8, 4, 5, 2, 2, 0);
    convt3d_plan plan, none;
    convt3d_info info;
    char text[2048], cut[24];
    size_t needed = 0, again = 0;
    memset(&none, 0, sizeof none);
    convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL);
    tap_ok(convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK && info.workspace_bytes == convt3d_workspace_size(&plan)
           && info.packed_bytes == convt3d_packed_size(&plan), "plan_info agrees with the size calls");
    tap_ok(info.out_size[0] == 10 && info.flops == 2.0 * 8 * 4 * 125 * 8, "plan_info's size and FLOPs");
    tap_ok(convt3d_workspace_size(&none) == -1 && convt3d_packed_size(&none) == -1
           && convt3d_workspace_size(NULL) == -1, "sizes of what is no plan are -1");
    tap_ok(convt3d_explain(&d, CONVT3D_FORWARD, text, sizeof text, &needed, NULL) == CONVT3D_OK
           && needed == strlen(text) && strstr(text, info.kernel), "explain names the kernel");
    memset(cut, CHECK_SENTINEL, sizeof cut);
    tap_ok(convt3d_explain(&d, CONVT3D_FORWARD, cut, 20, &again, NULL) == CONVT3D_OK && again == needed
           && strlen(cut) == 19 && !strncmp(cut, text, 19) && (unsigned char)cut[20] == CHECK_SENTINEL,
           "explain ends where its room does");
    tap_ok(convt3d_explain(&d, CONVT3D_FORWARD, NULL, 0, &again, NULL) == CONVT3D_OK && again == needed,
           "explain tells the length without a buffer");
    memcpy(d.force, "reference", sizeof "reference");
    convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL);
    tap_ok(convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK && !strcmp(info.kernel, "reference"),
           "force pins the kernel");
    tap_ok(info.exact_slabs == 1 && info.workspace_bytes == 0, "the reference has exact slabs and no workspace");
}

/* ---- aliasing ---- */

/* x and y are channel slices of one buffer of 10 channels, x the first 4 from x_at on, y 4 from y_at on. */
static convt3d_status run_slices(int32_t layout, int64_t x_at, int64_t y_at)
{
    enum { CHANNELS = 10, VOXELS = 27, SAMPLES = 2 };
    static float buffer[SAMPLES * CHANNELS * VOXELS], w[4 * 4 * 27];
    convt3d_desc d = common_desc(4, 4, 3, 3, 1, 1);
    convt3d_io io;
    convt3d_error error;
    const int64_t first[5] = {CHANNELS * VOXELS, VOXELS, 9, 3, 1};
    const int64_t last[5] = {CHANNELS * VOXELS, 1, 9 * CHANNELS, 3 * CHANNELS, CHANNELS};
    const int64_t step = layout == CONVT3D_NCDHW ? VOXELS : 1;
    d.batch = SAMPLES;
    memcpy(d.x_stride, layout == CONVT3D_NCDHW ? first : last, sizeof d.x_stride);
    memcpy(d.y_stride, d.x_stride, sizeof d.y_stride);
    d.layout = layout;
    memset(&io, 0, sizeof io);
    io.x = buffer + x_at * step;
    io.y = buffer + y_at * step;
    io.w = w;
    return convt3d(&d, &io, &error);
}

static void test_aliasing(void)
{
    int layout;
    for (layout = 0; layout < 2; layout++) {
        const char *name = common_layouts[layout];
        tap_ok(run_slices(layout, 0, 4) == CONVT3D_OK, "%s: y right behind x's channels is accepted", name);
        tap_ok(run_slices(layout, 0, 6) == CONVT3D_OK, "%s: y further behind is accepted", name);
        tap_ok(run_slices(layout, 4, 0) == CONVT3D_OK, "%s: y before x is accepted", name);
        tap_ok(run_slices(layout, 0, 3) == CONVT3D_ALIASED, "%s: one shared channel is refused", name);
        tap_ok(run_slices(layout, 3, 0) == CONVT3D_ALIASED, "%s: one shared channel from below is refused", name);
        tap_ok(run_slices(layout, 2, 2) == CONVT3D_ALIASED, "%s: y on x is refused", name);
    }
}

/* Results in a shared buffer are those of separate buffers, and x's channels stay. */
static void test_concat(void)
{
    convt3d_desc d = common_desc(3, 2, 4, 3, 1, 1);
    common_data c;
    float buffer[5 * 64];
    convt3d_io io;
    int pass;
    d.layout = CONVT3D_NDHWC;
    if (!common_make(&c, &d, 1, 2)) { tap_ok(0, "out of memory"); return; }
    pass = common_run(&c);
    {
        const int64_t stride[5] = {5 * 64, 1, 5 * 16, 5 * 4, 5};
        const float *x = (const float *)c.io.x, *y = (const float *)c.io.y;
        int i, ch;
        memcpy(d.x_stride, stride, sizeof stride);
        memcpy(d.y_stride, stride, sizeof stride);
        for (i = 0; i < 64; i++) for (ch = 0; ch < 3; ch++) buffer[i * 5 + ch] = x[i * 3 + ch];
        io = c.io;
        io.x = buffer;
        io.y = buffer + 3;
        pass = pass && convt3d(&d, &io, NULL) == CONVT3D_OK;
        for (i = 0; i < 64 && pass; i++) {
            for (ch = 0; ch < 3; ch++) pass = pass && buffer[i * 5 + ch] == x[i * 3 + ch];
            for (ch = 0; ch < 2; ch++) pass = pass && buffer[i * 5 + 3 + ch] == y[i * 2 + ch];
        }
    }
    tap_ok(pass, "output into the channels beside its own input");
    common_free(&c);
}

/* Every tensor off the default alignment by one element: run refuses, the easy call and a plan that says so work. */
static void test_alignment(void)
{
    int dtype;
    for (dtype = 0; dtype < 4; dtype++) {
        convt3d_desc d = common_desc(4, 4, 5, 3, 2, 1);
        common_data c, off;
        check_buffer x, w, y;
        convt3d_plan plan;
        convt3d_io io;
        int pass;
        d.dtype = dtype;
        if (!(common_make(&c, &d, 0, 3) & common_make(&off, &d, 0, 3))) { tap_ok(0, "out of memory"); return; }
        pass = common_run(&c) && check_buffer_make(&x, c.problem.x_span + 1, c.size, 0)
            && check_buffer_make(&w, c.problem.w_count + 1, c.size, 0)
            && check_buffer_make(&y, c.problem.y_span + 1, c.size, 0);
        if (!pass) { tap_ok(0, "out of memory"); return; }
        memcpy(x.data + c.size, c.x.data, c.x.bytes);
        memcpy(w.data + c.size, c.w.data, c.w.bytes);
        io = c.io;
        io.x = x.data + c.size; io.w = w.data + c.size; io.y = y.data + c.size;
        pass = convt3d(&d, &io, NULL) == CONVT3D_OK && !memcmp(io.y, c.y.data, c.y.bytes);
        tap_ok(pass, "the easy call takes any alignment, %s", common_dtypes[dtype]);
        d.alignment = 64;
        convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL);
        tap_ok(convt3d_run(&plan, &io, NULL) == CONVT3D_MISALIGNED, "run refuses it, %s", common_dtypes[dtype]);
        d.alignment = c.size;
        convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL);
        memset(y.data, 0, y.bytes);
        if (convt3d_workspace_size(&plan) == 0)
            tap_ok(convt3d_run(&plan, &io, NULL) == CONVT3D_OK && !memcmp(io.y, c.y.data, c.y.bytes),
                   "a plan for element alignment runs, %s", common_dtypes[dtype]);
        free(x.memory); free(w.memory); free(y.memory);
        common_free(&c);
        common_free(&off);
    }
}

/* What is empty may be NULL. */
static void test_empty(void)
{
    convt3d_desc d = common_desc(2, 2, 0, 3, 2, 1);
    common_data c;
    convt3d_io io;
    memset(&io, 0, sizeof io);
    d.fixed_out_size = 1;
    d.out_size[0] = d.out_size[1] = d.out_size[2] = 3;
    if (!common_make(&c, &d, 1, 1)) { tap_ok(0, "out of memory"); return; }
    c.io.x = NULL;
    tap_ok(common_run(&c), "x may be NULL when in_size is 0");
    common_free(&c);
    d.out_size[1] = 0;
    tap_ok(convt3d(&d, &io, NULL) == CONVT3D_OK, "every pointer may be NULL when y is empty");
    d = common_desc(2, 2, 4, 3, 2, 1);
    d.batch = 0;
    tap_ok(convt3d(&d, &io, NULL) == CONVT3D_OK, "every pointer may be NULL when the batch is 0");
}

/* ---- the backward pass ---- */

/* The threads that OpenMP offers; 0: as many as there were. */
static void set_threads(int count)
{
#ifdef _OPENMP
    static int most;
    if (most == 0) most = omp_get_max_threads();
    omp_set_num_threads(count > 0 ? count : most);
#else
    (void)count;
#endif
}

static void test_backward_information(void)
{
    static const int32_t passes[4] = {CONVT3D_BACKWARD_X, CONVT3D_BACKWARD_W, CONVT3D_BACKWARD_X | CONVT3D_BACKWARD_W,
                                      CONVT3D_BACKWARD_BIAS};
    const double products = 8.0 * 4 * 125 * 8, x = 8 * 125, w = 8 * 4 * 8, y = 4 * 1000;
    const double flops[4] = {2 * products, 2 * products, 4 * products, 0};
    const double elements[4] = {x + w + y, x + w + y, 2 * x + 2 * w + y, y + 4};
    int i;
    for (i = 0; i < 4; i++) {
        convt3d_desc d = common_desc(8, 4, 5, 2, 2, 0);
        convt3d_plan plan;
        convt3d_info info;
        char text[4096];
        int pass = convt3d_plan_init(&plan, &d, passes[i], NULL) == CONVT3D_OK;
        pass = pass && convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK;
        pass = pass && convt3d_explain(&d, passes[i], text, sizeof text, NULL, NULL) == CONVT3D_OK;
        tap_ok(pass && info.flops == flops[i] && info.bytes == 4 * elements[i] && info.out_size[2] == 10 &&
               info.workspace_bytes == convt3d_workspace_size(&plan), "plan_info of pass %d: FLOPs, bytes, sizes",
               passes[i]);
        tap_ok(pass && strstr(text, info.kernel) && strstr(text, info.weight_kernel) &&
               (info.weight_kernel[0] != 0) == (i == 2), "explain of pass %d names its kernels", passes[i]);
    }
}

/* A run in exactly the workspace of the plan, on more threads than there were when it was made. */
static int stays_inside(const backward_run *made, const convt3d_plan *plan)
{
    const int64_t bytes = convt3d_workspace_size(plan), guard = 1 << 20;
    char *workspace = (char *)malloc((size_t)(bytes + guard));
    convt3d_io io = made->io;
    int64_t i;
    int k, pass = workspace != NULL;
    for (k = 0; k < 3; k++) *backward_pointer(&io, &made->tensor[k]) = made->tensor[k].buffer.data;
    if (pass) memset(workspace, 0x5A, (size_t)(bytes + guard));
    io.workspace = workspace;
    io.workspace_bytes = bytes;
    set_threads(16);
    pass = pass && convt3d_run(plan, &io, NULL) == CONVT3D_OK;
    set_threads(1);
    for (i = 0; i < guard && pass; i++) pass = workspace[bytes + i] == 0x5A;
    free(workspace);
    return pass;
}

/* Every kernel of dx keeps to the workspace that its plan asked for, also where a list and a limit share it. */
static void test_backward_workspace(void)
{
    const char *name;
    int index;
    for (index = 0; (name = convt3d_kernel_name(CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_X, index)) != NULL; index++) {
        check_request r;
        backward_run made;
        convt3d_plan plan;
        convt3d_error error;
        int pass;
        memset(&r, 0, sizeof r);
        r.desc = common_desc(32, 32, 12, 3, 1, 1);
        r.desc.ops[0].kind = CONVT3D_OP_AFFINE;
        r.desc.ops[0].a = 2;
        pass = backward_make(&made, &r, &error) == CONVT3D_OK;
        strcpy(r.desc.force, name);
        set_threads(1);
        if (convt3d_plan_init(&plan, &r.desc, CONVT3D_BACKWARD, NULL) == CONVT3D_OK) {
            tap_ok(pass && stays_inside(&made, &plan), "%s stays inside its workspace", name);
            r.desc.workspace_limit = convt3d_workspace_size(&plan) - 1;
        }
        if (convt3d_plan_init(&plan, &r.desc, CONVT3D_BACKWARD, NULL) == CONVT3D_OK)
            tap_ok(pass && stays_inside(&made, &plan), "%s stays inside a limited workspace", name);
        backward_free(&made);
    }
    set_threads(0);
}

/* A plan of the pass is plain bytes, and a run leaves it and the inputs as they are. */
static void test_backward_copy(void)
{
    convt3d_desc d = common_desc(8, 8, 6, 3, 2, 1);
    check_request r;
    backward_run a, b;
    convt3d_plan plan, copy;
    convt3d_error error;
    convt3d_io io;
    int pass, k;
    memset(&r, 0, sizeof r);
    r.desc = d;
    pass = backward_make(&a, &r, &error) == CONVT3D_OK;
    pass = backward_make(&b, &r, &error) == CONVT3D_OK && pass;
    pass = pass && convt3d_plan_init(&plan, &d, CONVT3D_BACKWARD, NULL) == CONVT3D_OK;
    memcpy(&copy, &plan, sizeof copy);
    memset(&plan, 0, sizeof plan);
    io = b.io;
    for (k = 0; k < 3; k++) *backward_pointer(&io, &b.tensor[k]) = b.tensor[k].buffer.data;
    plan = copy;
    pass = pass && backward_call(&a, ~0u, NULL, &error) == CONVT3D_OK;
    pass = pass && common_run_plan(&copy, &io, NULL) == CONVT3D_OK;
    for (k = 0; k < 3 && pass; k++)
        pass = !memcmp(a.tensor[k].buffer.data, b.tensor[k].buffer.data, a.tensor[k].buffer.bytes);
    tap_ok(pass && !memcmp(&plan, &copy, sizeof copy), "a copied plan of the backward pass runs, and stays as it was");
    backward_free(&a);
    backward_free(&b);
}

/* Every tensor off the default alignment by one element, in the easy call. */
static void test_backward_alignment(void)
{
    int dtype, k, pass;
    for (dtype = 0; dtype < 4; dtype++) {
        check_request r;
        backward_run run;
        check_buffer off[6];
        check_buffer *from[6];
        convt3d_error error;
        convt3d_io io;
        memset(&r, 0, sizeof r);
        memset(off, 0, sizeof off);
        r.desc = common_desc(4, 4, 5, 3, 2, 1);
        r.desc.dtype = dtype;
        r.exact = 1;                    /* another kernel may serve it: its bits are the same on integers */
        pass = backward_make(&run, &r, &error) == CONVT3D_OK && backward_call(&run, ~0u, NULL, &error) == CONVT3D_OK;
        from[0] = &run.forward.x; from[1] = &run.forward.w; from[2] = &run.dy;
        for (k = 0; k < 3; k++) from[3 + k] = &run.tensor[k].buffer;
        for (k = 0; k < 6 && pass; k++) {
            pass = check_buffer_make(&off[k], (int64_t)from[k]->bytes + run.forward.size, 1, 0);
            if (pass) memcpy(off[k].data + run.forward.size, from[k]->data, k < 3 ? from[k]->bytes : 0);
        }
        if (pass) {
            memset(&io, 0, sizeof io);
            io.x = off[0].data + run.forward.size; io.w = off[1].data + run.forward.size;
            io.dy = off[2].data + run.forward.size; io.dx = off[3].data + run.forward.size;
            io.dw = off[4].data + run.forward.size; io.dbias = off[5].data + run.forward.size;
            pass = convt3d_backward(&r.desc, &io, &error) == CONVT3D_OK;
            for (k = 3; k < 6; k++)
                pass = pass && !memcmp(off[k].data + run.forward.size, from[k]->data, from[k]->bytes);
        }
        tap_ok(pass, "the easy call of the backward pass takes any alignment, %s", common_dtypes[dtype]);
        for (k = 0; k < 6; k++) free(off[k].memory);
        backward_free(&run);
    }
}

int main(void)
{
    test_backward_information();
    test_backward_workspace();
    test_backward_copy();
    test_backward_alignment();
    test_copy();
    test_shared();
    test_information();
    test_aliasing();
    test_concat();
    test_alignment();
    test_empty();
    return tap_done();
}
