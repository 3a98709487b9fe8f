/* Promise: the CUDA back end means what the reference means, on any memory, stream and graph, and says clearly when it
 * cannot. Without a GPU the statuses are tested and the rest is skipped. */
#include "check_backward.h"
#include "common.h"
#include <cuda_runtime_api.h>

static int good(cudaError_t cause, const char *what)
{
    if (cause == cudaSuccess) return 1;
    tap_note("%s: %s", what, cudaGetErrorString(cause));
    return 0;
}

/* The problem most tests here use: every parameter differs from its default. */
static convt3d_desc small_desc(int32_t device)
{
    convt3d_desc d = common_desc(6, 9, 7, 3, 2, 1);
    d.batch = 3;
    d.groups = 3;
    d.in_size[2] = 11;
    d.kernel[0] = 4;
    d.dilation[1] = 2;
    d.output_padding[2] = 1;
    d.device = device;
    return d;
}

/* The same, followed by a list. */
static convt3d_desc listed_desc(const char *list)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    char why[THEN_TEXT];
    if (!then_parse(list, d.ops, why)) tap_ok(0, "%s", why);
    return d;
}

/* Where io has the tensor that check.h calls k. */
static void **op_slot(convt3d_op_io *t, int k)
{
    switch (k) {
    case CHECK_RESIDUAL: return (void **)&t->residual;
    case CHECK_SCALE: return (void **)&t->scale;
    case CHECK_SHIFT: return (void **)&t->shift;
    case CHECK_MEAN: return &t->mean;
    case CHECK_RSTD: return &t->rstd;
    case CHECK_RUNNING_MEAN: return &t->running_mean;
    default: return &t->running_var;
    }
}

/* ---- without a device ------------------------------------------------------------------------------------------ */

static void test_absence(void)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    common_data c;
    convt3d_error error;
    int32_t count = 7;
    convt3d_status status = convt3d_device_count(&count, &error);
    tap_ok(status == CONVT3D_CUDA_NO_DRIVER || status == CONVT3D_CUDA_NO_DEVICE ||
           status == CONVT3D_CUDA_DRIVER_TOO_OLD, "without a GPU convt3d_device_count says why: %s", error.text);
    tap_ok(count == 0 && error.status == status, "and counts none");
    if (!common_make(&c, &d, 0, 1)) { tap_ok(0, "memory"); return; }
    tap_ok(convt3d(&d, &c.io, &error) == status && check_is_poison(c.y.data, 0, d.dtype, c.size),
           "convt3d() gives the same status and leaves y: %s", error.text);
    common_free(&c);
}

static void test_planning_for_an_architecture(void)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    convt3d_plan plan;
    convt3d_info info;
    convt3d_error error;
    common_data c;
    char text[2048];
    d.cuda_arch = 80;
    tap_ok(convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, &error) == CONVT3D_OK &&
           convt3d_plan_info(&plan, &info, &error) == CONVT3D_OK, "cuda_arch = 80 is planned without a device");
    tap_ok(convt3d_explain(&d, CONVT3D_FORWARD, text, sizeof text, NULL, &error) == CONVT3D_OK &&
           strstr(text, "sm_80"), "and explained");
    d.device = CONVT3D_DEVICE_CPU;
    d.cuda_arch = 0;
    if (!common_make(&c, &d, 0, 1)) { tap_ok(0, "memory"); return; }
    tap_ok(convt3d_run(&plan, &c.io, &error) == CONVT3D_CUDA_PLANNED_FOR_ARCH && error.got == 80, "%s", error.text);
    common_free(&c);
}

/* Run by a build that holds no code for this card (argument: image). */
static void test_missing_image(void)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    common_data c;
    convt3d_error error;
    if (!common_make(&c, &d, 0, 1)) { tap_ok(0, "memory"); return; }
    tap_ok(convt3d(&d, &c.io, &error) == CONVT3D_CUDA_NO_IMAGE && check_is_poison(c.y.data, 0, d.dtype, c.size),
           "%s", error.text);
    tap_ok(cudaPeekAtLastError() == cudaSuccess, "and no CUDA error stays behind");
    common_free(&c);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

enum { HOST, PINNED, MANAGED, DEVICE, MEMORIES };

/* A copy of host data in one kind of memory. */
static void *place(int memory, const void *data, size_t bytes)
{
    void *p = NULL;
    cudaError_t cause = cudaSuccess;
    if (memory == HOST) p = malloc(bytes);
    if (memory == PINNED) cause = cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
    if (memory == MANAGED) cause = cudaMallocManaged(&p, bytes, cudaMemAttachGlobal);
    if (memory == DEVICE) cause = cudaMalloc(&p, bytes);
    if (good(cause, "allocation")) good(cudaMemcpy(p, data, bytes, cudaMemcpyDefault), "copy");
    return p;
}

static void displace(int memory, void *p)
{
    if (memory == HOST) free(p);
    else if (memory == PINNED) cudaFreeHost(p);
    else cudaFree(p);
}

/* Runs c's problem with x, w, bias and y each in its kind of memory; y comes back into c. */
static convt3d_status run_placed(common_data *c, const int memory[4], convt3d_error *error)
{
    size_t bytes = (size_t)c->desc.out_channels * (size_t)c->size;
    convt3d_io io = c->io;
    void *x = place(memory[0], c->x.data, c->x.bytes), *w = place(memory[1], c->w.data, c->w.bytes);
    void *bias = c->io.bias ? place(memory[2], c->bias.data, bytes) : NULL, *y;
    convt3d_status status;
    common_poison(c);
    y = place(memory[3], c->y.data, c->y.bytes);
    io.x = x;
    io.w = w;
    io.bias = bias;
    io.y = y;
    status = convt3d(&c->desc, &io, error);
    good(cudaMemcpy(c->y.data, y, c->y.bytes, cudaMemcpyDefault), "copy back");
    displace(memory[0], x);
    displace(memory[1], w);
    if (bias) displace(memory[2], bias);
    displace(memory[3], y);
    return status;
}

static void test_memory_mixes(void)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    common_data first, c;
    convt3d_error error;
    int mix, same = 1;
    if (!common_make(&first, &d, 0, 3) || !common_make(&c, &d, 0, 3)) { tap_ok(0, "memory"); return; }
    common_run(&first);
    for (mix = 0; mix < MEMORIES * MEMORIES * MEMORIES * MEMORIES; mix++) {
        int memory[4] = {mix % 4, mix / 4 % 4, mix / 16 % 4, mix / 64};
        same &= run_placed(&c, memory, &error) == CONVT3D_OK && common_same_outputs(&first, &c);
    }
    tap_ok(same, "x, w, bias and y in every mix of host, pinned, managed and device memory: the same bits");
    common_free(&first);
    common_free(&c);
}

/* The tensors of a list in every kind of memory: the same y, mean, rstd and running statistics. */
static void test_list_memory(void)
{
    convt3d_desc d = listed_desc("add,channel_affine,group_norm:3,silu,multiply,batch_norm");
    common_data host, c;
    convt3d_error error;
    int mix, i, k, same = 1;
    if (!common_make(&host, &d, 0, 12)) { tap_ok(0, "memory"); return; }
    same &= common_run(&host);
    for (mix = 0; mix < MEMORIES * MEMORIES; mix++) {
        void *there[CONVT3D_MAX_OPS][CHECK_TENSORS] = {{NULL}};
        if (!common_make(&c, &d, 0, 12)) { tap_ok(0, "memory"); return; }
        for (i = 0; i < CONVT3D_MAX_OPS; i++)
            for (k = CHECK_RESIDUAL; k < CHECK_TENSORS; k++) {
                int memory = k == CHECK_RESIDUAL ? mix % MEMORIES : (mix / MEMORIES + k) % MEMORIES;
                if (!c.run.ops[i][k].data) continue;
                *op_slot(&c.io.ops[i], k) = there[i][k] = place(memory, c.run.ops[i][k].data, c.run.ops[i][k].bytes);
            }
        common_poison(&c);
        same &= convt3d(&d, &c.io, &error) == CONVT3D_OK && common_same_outputs(&host, &c);
        for (i = 0; i < CONVT3D_MAX_OPS; i++)
            for (k = CHECK_RESIDUAL; k < CHECK_TENSORS; k++) {
                int memory = k == CHECK_RESIDUAL ? mix % MEMORIES : (mix / MEMORIES + k) % MEMORIES;
                if (!there[i][k]) continue;
                good(cudaMemcpy(c.run.ops[i][k].data, there[i][k], c.run.ops[i][k].bytes, cudaMemcpyDefault), "back");
                same &= memcmp(c.run.ops[i][k].data, host.run.ops[i][k].data, c.run.ops[i][k].bytes) == 0;
                displace(memory, there[i][k]);
            }
        common_free(&c);
    }
    tap_ok(same, "the list's tensors in every kind of memory: the same bits in y and in what it writes");
    common_free(&host);
}

/* Views with gaps, on the host: staged without touching what lies between (check_case looks). */
static void test_staged_views(void)
{
    int i, pass = 1, views = 0;
    for (i = 0; i < SHAPES_COUNT; i++) {
        check_request request;
        if (oracle_all_zero(shapes_table[i].desc.x_stride) && oracle_all_zero(shapes_table[i].desc.y_stride)) continue;
        memset(&request, 0, sizeof request);
        request.desc = shapes_table[i].desc;
        request.desc.device = CONVT3D_DEVICE_CUDA;
        request.seed = (uint64_t)i;
        pass &= common_check(&request);
        views++;
    }
    tap_ok(pass && views > 0, "%d strided views in host memory", views);
}

/* Takes device memory until about `leave` bytes are free. */
static int hog(void *taken[64], size_t leave)
{
    int n = 0;
    size_t available, total, step;
    while (n < 64 && cudaMemGetInfo(&available, &total) == cudaSuccess && available > leave + ((size_t)2 << 20)) {
        step = available - leave;
        while (cudaMalloc(&taken[n], step) != cudaSuccess && step > ((size_t)2 << 20)) step -= step / 8;
        if (step <= ((size_t)2 << 20)) break;
        n++;
    }
    cudaGetLastError();
    return n;
}

/* 1 GiB of y and 128 MiB of x through less than 100 MiB of device memory, batch and depth cut. */
static void test_slabs_where_memory_is_short(void)
{
    convt3d_desc d = common_desc(4, 4, 160, 2, 2, 0);
    common_data whole, pieces;
    convt3d_error error;
    void *taken[64];
    int n, ok;
    d.batch = 2;
    d.device = CONVT3D_DEVICE_CUDA;
    strcpy(d.force, "cuda_generic");
    if (!common_make(&whole, &d, 0, 3) || !common_make(&pieces, &d, 0, 3)) { tap_ok(0, "memory"); return; }
    ok = common_run(&whole);
    n = hog(taken, (size_t)96 << 20);
    ok &= common_run(&pieces);
    tap_ok(ok && n > 0 && common_same_outputs(&whole, &pieces),
           "a problem larger than the free memory is computed in slabs, bit for bit");
    common_free(&whole);
    common_free(&pieces);
    d = common_desc(4096, 4096, 1, 2, 2, 0);      /* its weights alone are 512 MiB */
    d.device = CONVT3D_DEVICE_CUDA;
    if (common_make(&whole, &d, 0, 2)) {
        common_poison(&whole);
        tap_ok(convt3d(&d, &whole.io, &error) == CONVT3D_CUDA_OUT_OF_MEMORY &&
               check_is_poison(whole.y.data, 0, d.dtype, whole.size), "weights that do not fit: %s", error.text);
        common_free(&whole);
    } else tap_ok(0, "memory");
    tap_ok(cudaPeekAtLastError() == cudaSuccess, "and no CUDA error stays behind");
    while (n > 0) cudaFree(taken[--n]);
}

/* Lists through little memory: cut along the batch where samples are normalised, along depth as well where not, and not
 * at all where the batch is. */
static void test_lists_where_memory_is_short(void)
{
    static const char *const lists[3] = {"silu,group_norm:2,add", "add,relu", "batch_norm"};
    int l;
    for (l = 0; l < 3; l++) {
        convt3d_desc d = common_desc(2, 4, 48, 2, 2, 0);
        common_data whole, pieces;
        convt3d_error error;
        char why[THEN_TEXT];
        void *taken[64];
        int n, ok = then_parse(lists[l], d.ops, why);
        d.batch = l == 1 ? 1 : 8;
        if (l == 1) d.in_size[0] = 200;
        d.device = CONVT3D_DEVICE_CUDA;
        strcpy(d.force, "cuda_generic");
        if (!common_make(&whole, &d, 0, 12) || !common_make(&pieces, &d, 0, 12)) { tap_ok(0, "memory"); return; }
        ok &= common_run(&whole);
        n = hog(taken, (size_t)64 << 20);
        if (l < 2) {
            ok &= common_run(&pieces) && common_same_outputs(&whole, &pieces);
            if (l == 0)
                ok &= memcmp(whole.run.ops[1][CHECK_MEAN].data, pieces.run.ops[1][CHECK_MEAN].data, 8 * 2 * 4) == 0;
            tap_ok(ok && n > 0, "%s in pieces, bit for bit", lists[l]);
        } else {
            common_poison(&pieces);
            tap_ok(ok && convt3d(&d, &pieces.io, &error) == CONVT3D_CUDA_OUT_OF_MEMORY &&
                   check_is_poison(pieces.y.data, 0, d.dtype, pieces.size), "%s cannot be cut: %s", lists[l],
                   error.text);
        }
        while (n > 0) cudaFree(taken[--n]);
        common_free(&whole);
        common_free(&pieces);
    }
}

/* y of more than 2^31 elements; x is one plane, broadcast along the depth by a stride of 0. */
static void test_beyond_32_bits(void)
{
    convt3d_desc d = common_desc(1, 1, 1300, 1, 1, 0);
    size_t plane = 1300 * 1300, i, depth, bytes = 1300 * plane * 2;
    uint16_t *host = (uint16_t *)malloc(plane * 2), *back = (uint16_t *)malloc(plane * 2), one = 0x3C00;
    void *x = NULL, *w = NULL, *y = NULL;
    convt3d_io io;
    convt3d_error error;
    int same = 1;
    memset(&io, 0, sizeof io);
    d.device = CONVT3D_DEVICE_CUDA;
    d.dtype = CONVT3D_F16;
    d.x_stride[0] = d.x_stride[1] = 1;
    d.x_stride[3] = 1300;
    d.x_stride[4] = 1;
    for (i = 0; i < plane; i++) host[i] = (uint16_t)(i % 0x7C00);
    if (!good(cudaMalloc(&x, plane * 2), "x") || !good(cudaMalloc(&w, 2), "w") || !good(cudaMalloc(&y, bytes), "y") ||
        !good(cudaMemset(y, 0xFF, bytes), "poison") || !good(cudaMemcpy(x, host, plane * 2, cudaMemcpyDefault), "x") ||
        !good(cudaMemcpy(w, &one, 2, cudaMemcpyDefault), "w")) { tap_ok(0, "device memory"); return; }
    io.x = x;
    io.w = w;
    io.y = y;
    same = convt3d(&d, &io, &error) == CONVT3D_OK;
    if (!same) tap_note("%s", error.text);
    for (depth = 0; same && depth < 1300; depth += 433) {
        good(cudaMemcpy(back, (char *)y + depth * plane * 2, plane * 2, cudaMemcpyDefault), "back");
        same = memcmp(back, host, plane * 2) == 0;
    }
    tap_ok(same, "an output of 2,197,000,000 elements");
    cudaFree(x);
    cudaFree(w);
    cudaFree(y);
    free(host);
    free(back);
}

/* ---- plans, streams, graphs ------------------------------------------------------------------------------------ */

/* A problem whose tensors live on the device, with its plan. */
typedef struct on_device {
    common_data c;
    convt3d_plan plan;
    convt3d_io io;
    void *x, *w, *bias, *y, *workspace, *ops[CONVT3D_MAX_OPS][CHECK_TENSORS];
} on_device;

static int device_make(on_device *o, const convt3d_desc *desc, uint64_t seed)
{
    convt3d_error error;
    int i, k;
    memset(o, 0, sizeof *o);
    if (!common_make(&o->c, desc, 0, seed)) return 0;
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = CHECK_RESIDUAL; k < CHECK_TENSORS; k++)
            if (o->c.run.ops[i][k].data)
                *op_slot(&o->io.ops[i], k) = o->ops[i][k] =
                    place(DEVICE, o->c.run.ops[i][k].data, o->c.run.ops[i][k].bytes);
    o->x = place(DEVICE, o->c.x.data, o->c.x.bytes);
    o->w = place(DEVICE, o->c.w.data, o->c.w.bytes);
    if (o->c.io.bias) o->bias = place(DEVICE, o->c.bias.data, o->c.bias.bytes);
    o->y = place(DEVICE, o->c.y.data, o->c.y.bytes);
    if (convt3d_plan_init(&o->plan, desc, CONVT3D_FORWARD, &error) != CONVT3D_OK) {
        tap_note("%s", error.text);
        return 0;
    }
    o->io.x = o->x;
    o->io.w = o->w;
    o->io.bias = o->bias;
    o->io.y = o->y;
    o->io.workspace_bytes = convt3d_workspace_size(&o->plan);
    if (o->io.workspace_bytes > 0) {
        good(cudaMalloc(&o->workspace, (size_t)o->io.workspace_bytes), "workspace");
        good(cudaMemset(o->workspace, 0xFF, (size_t)o->io.workspace_bytes), "poisoned workspace");
    }
    o->io.workspace = o->workspace;
    return 1;
}

static void device_free(on_device *o)
{
    int i, k;
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = CHECK_RESIDUAL; k < CHECK_TENSORS; k++) cudaFree(o->ops[i][k]);
    cudaFree(o->x);
    cudaFree(o->w);
    cudaFree(o->bias);
    cudaFree(o->y);
    cudaFree(o->workspace);
    common_free(&o->c);
}

static void device_poison(on_device *o)
{
    common_poison(&o->c);
    good(cudaMemcpy(o->y, o->c.y.data, o->c.y.bytes, cudaMemcpyDefault), "poison");
}

static void device_fetch(on_device *o) { good(cudaMemcpy(o->c.y.data, o->y, o->c.y.bytes, cudaMemcpyDefault), "fetch"); }

static void test_repeats(const char *list)
{
    convt3d_desc d = listed_desc(list);
    on_device a, b;
    convt3d_error error;
    int i, same = 1;
    if (!device_make(&a, &d, 3) || !device_make(&b, &d, 3)) { tap_ok(0, "memory"); return; }
    same &= convt3d_run(&a.plan, &a.io, &error) == CONVT3D_OK;
    device_fetch(&a);
    for (i = 0; i < 20; i++) {
        device_poison(&b);
        same &= convt3d_run(&b.plan, &b.io, &error) == CONVT3D_OK;
        device_fetch(&b);
        same &= common_same_outputs(&a.c, &b.c);
    }
    tap_ok(same, "the same bits on 20 repeats%s%s", *list ? ": " : "", list);
    device_free(&a);
    device_free(&b);
}

static void test_streams(const char *list)
{
    enum { STREAMS = 8 };
    convt3d_desc d = listed_desc(list);
    on_device o[STREAMS], alone;
    cudaStream_t stream[STREAMS];
    convt3d_error error;
    int i, round, pass = 1;
    for (i = 0; i < STREAMS; i++) {
        pass &= device_make(&o[i], &d, (uint64_t)(7 + i)) &&
                good(cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking), "stream");
        o[i].io.stream = stream[i];
        device_poison(&o[i]);
    }
    good(cudaDeviceSynchronize(), "poison");
    for (round = 0; pass && round < 10; round++)
        for (i = 0; i < STREAMS; i++) pass &= convt3d_run(&o[i].plan, &o[i].io, &error) == CONVT3D_OK;
    pass &= good(cudaDeviceSynchronize(), "streams");
    for (i = 0; pass && i < STREAMS; i++) {
        device_fetch(&o[i]);
        pass &= device_make(&alone, &d, (uint64_t)(7 + i)) &&
                convt3d_run(&alone.plan, &alone.io, &error) == CONVT3D_OK;
        device_fetch(&alone);
        pass &= common_same_outputs(&o[i].c, &alone.c);
        device_free(&alone);
    }
    tap_ok(pass, "%d streams at once give what each gives alone%s%s", STREAMS, *list ? ": " : "", list);
    for (i = 0; i < STREAMS; i++) {
        device_free(&o[i]);
        cudaStreamDestroy(stream[i]);
    }
}

static void test_graph(const char *list)
{
    convt3d_desc d = listed_desc(list);
    on_device o, other;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    convt3d_error error;
    convt3d_status status, easy;
    int pass, i, k;
    if (!device_make(&o, &d, 3) || !device_make(&other, &d, 10)) { tap_ok(0, "memory"); return; }
    good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    o.io.stream = stream;
    good(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    status = convt3d_run(&o.plan, &o.io, &error);
    easy = convt3d(&d, &o.io, &error);
    pass = good(cudaStreamEndCapture(stream, &graph), "end of capture");
    tap_ok(pass && status == CONVT3D_OK, "convt3d_run is captured in a graph%s%s", *list ? ": " : "", list);
    tap_ok(easy == CONVT3D_CUDA_CAPTURING, "convt3d() refuses a capture and leaves it whole: %s", error.text);
    if (!pass) return;
    good(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    device_poison(&o);
    good(cudaMemcpy(o.x, other.c.x.data, o.c.x.bytes, cudaMemcpyDefault), "new x");
    good(cudaMemcpy(o.w, other.c.w.data, o.c.w.bytes, cudaMemcpyDefault), "new w");
    if (o.bias && other.bias) good(cudaMemcpy(o.bias, other.bias, o.c.bias.bytes, cudaMemcpyDefault), "new bias");
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = CHECK_RESIDUAL; k < CHECK_TENSORS; k++)
            if (o.ops[i][k])
                good(cudaMemcpy(o.ops[i][k], other.ops[i][k], o.c.run.ops[i][k].bytes, cudaMemcpyDefault), "list");
    good(cudaDeviceSynchronize(), "inputs");
    good(cudaGraphLaunch(exec, stream), "replay");
    good(cudaStreamSynchronize(stream), "replay");
    device_fetch(&o);
    pass = convt3d_run(&other.plan, &other.io, &error) == CONVT3D_OK;
    device_fetch(&other);
    tap_ok(pass && !!o.bias == !!other.bias && common_same_outputs(&o.c, &other.c), "and replayed on new data");
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    device_free(&o);
    device_free(&other);
}

static void test_two_devices(int32_t devices)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    on_device first, second;
    convt3d_error error;
    int pass;
    if (devices < 2) { tap_skip("two devices", "one GPU"); tap_skip("x of another device", "one GPU"); return; }
    pass = device_make(&first, &d, 3) && convt3d_run(&first.plan, &first.io, &error) == CONVT3D_OK;
    device_fetch(&first);
    good(cudaSetDevice(1), "device 1");
    tap_ok(convt3d_run(&first.plan, &first.io, &error) == CONVT3D_CUDA_WRONG_DEVICE && error.got == 1 &&
           error.limit == 0, "%s", error.text);
    pass &= device_make(&second, &d, 3) && convt3d_run(&second.plan, &second.io, &error) == CONVT3D_OK;
    device_fetch(&second);
    tap_ok(pass && common_same_outputs(&first.c, &second.c), "two devices give the same bits");
    device_poison(&second);
    second.io.x = first.x;
    pass = convt3d(&d, &second.io, &error) == CONVT3D_OK;
    device_fetch(&second);
    tap_ok(pass && common_same_outputs(&first.c, &second.c), "x of another device is staged over");
    device_free(&second);
    good(cudaSetDevice(0), "device 0");
    device_free(&first);
}

/* ---- errors and special values --------------------------------------------------------------------------------- */

static void test_error_state(void)
{
    convt3d_desc d = small_desc(CONVT3D_DEVICE_CUDA);
    on_device o;
    convt3d_error error;
    void *p;
    if (!device_make(&o, &d, 3)) { tap_ok(0, "memory"); return; }
    (void)cudaMalloc(&p, (size_t)1 << 60);
    tap_ok(convt3d_run(&o.plan, &o.io, &error) == CONVT3D_OK && cudaPeekAtLastError() == cudaErrorMemoryAllocation,
           "a successful run leaves an earlier CUDA error");
    tap_ok(convt3d(&d, &o.io, &error) == CONVT3D_OK && cudaPeekAtLastError() == cudaErrorMemoryAllocation,
           "and so does a successful easy call");
    cudaGetLastError();
    o.io.y = (char *)o.y + 1;
    tap_ok(convt3d_run(&o.plan, &o.io, &error) == CONVT3D_MISALIGNED, "%s", error.text);
    device_free(&o);
}

/* NaN and infinity in x and w: the same places as in the reference. */
static void test_special_values(void)
{
    int i, pass = 1;
    for (i = 0; i < 24; i++) {
        convt3d_desc d = i < 4 ? small_desc(CONVT3D_DEVICE_CPU) : shapes_random((uint64_t)i);
        common_data cpu, gpu;
        int64_t j, wrong = 0;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        if (!common_make(&cpu, &d, 0, (uint64_t)i * 6)) { pass = 0; continue; }
        if (cpu.problem.x_span > 0) {
            oracle_store(d.dtype, cpu.x.data, 0, INFINITY);
            oracle_store(d.dtype, cpu.x.data, cpu.problem.x_span - 1, NAN);
        }
        oracle_store(d.dtype, cpu.w.data, 0, 0);
        oracle_store(d.dtype, cpu.w.data, cpu.problem.w_count - 1, -INFINITY);
        gpu = cpu;
        gpu.desc.device = CONVT3D_DEVICE_CUDA;
        if (!check_buffer_make(&gpu.y, gpu.problem.y_span, gpu.size, CHECK_SENTINEL)) { pass = 0; continue; }
        gpu.io.y = gpu.y.data;
        pass &= common_run(&cpu) && common_run(&gpu);
        for (j = 0; j < cpu.problem.y_count; j++) {
            double a = common_get(&cpu, j), b = common_get(&gpu, j);
            wrong += isnan(a) != isnan(b) || isinf(a) != isinf(b) || (isinf(a) && a != b);
        }
        if (wrong) tap_note("problem %d: %lld outputs differ in kind", i, (long long)wrong);
        pass &= wrong == 0;
        free(gpu.y.memory);
        common_free(&cpu);
    }
    tap_ok(pass, "NaN and infinity reach what they reach in the reference");
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* A list that saves the convolution, has every kind of tensor, and normalises over samples and over the batch. */
static const char *const every_tensor = "add,channel_affine,group_norm:3,silu,multiply,batch_norm";

static convt3d_desc backward_desc(const char *list)
{
    convt3d_desc d = listed_desc(list);
    d.backward = CONVT3D_BACKWARD;
    return d;
}

/* All tensors of a backward call but the workspace, where its io has them. */
typedef struct placed { void **slot; const check_buffer *buffer; int memory, gradient; } placed;

enum { PLACED_MOST = 8 + CONVT3D_MAX_OPS * CHECK_TENSORS + BACKWARD_TENSORS };

static int tensors_of(backward_run *run, convt3d_io *io, placed list[PLACED_MOST])
{
    const placed inputs[5] = {{(void **)&io->x, &run->forward.x, 0, 0}, {(void **)&io->w, &run->forward.w, 0, 0},
                              {(void **)&io->dy, &run->dy, 0, 0}, {&io->y, &run->forward.y, 0, 0},
                              {&io->saved, &run->saved, 0, 0}};
    int i, k, n = 0;
    for (i = 0; i < 5; i++) if (*inputs[i].slot) list[n++] = inputs[i];
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        for (k = CHECK_RESIDUAL; k < CHECK_RUNNING_MEAN; k++)
            if (*op_slot(&io->ops[i], k)) {
                placed one = {op_slot(&io->ops[i], k), &run->forward.ops[i][k], 0, 0};
                list[n++] = one;
            }
    for (k = 0; k < run->tensors; k++) {
        placed one = {backward_pointer(io, &run->tensor[k]), &run->tensor[k].buffer, 0, 1};
        list[n++] = one;
    }
    return n;
}

/* Moves every tensor to its kind of memory. */
static void place_all(placed *list, int n)
{
    int i;
    for (i = 0; i < n; i++) *list[i].slot = place(list[i].memory, list[i].buffer->data, list[i].buffer->bytes);
}

/* Fetches the gradients and frees what place_all() made. */
static void fetch_all(placed *list, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        if (list[i].gradient)
            good(cudaMemcpy(list[i].buffer->data, *list[i].slot, list[i].buffer->bytes, cudaMemcpyDefault), "fetch");
        displace(list[i].memory, *list[i].slot);
    }
}

static int same_gradients(const backward_run *a, const backward_run *b)
{
    int k;
    for (k = 0; k < a->tensors; k++)
        if (memcmp(a->tensor[k].buffer.data, b->tensor[k].buffer.data, a->tensor[k].buffer.bytes) != 0) return 0;
    return 1;
}

static int backward_of(backward_run *run, const convt3d_desc *d, uint64_t seed)
{
    check_request request;
    convt3d_error error;
    memset(&request, 0, sizeof request);
    request.desc = *d;
    request.seed = seed;
    if (backward_make(run, &request, &error) == CONVT3D_OK) return 1;
    tap_note("%s", error.text);
    return 0;
}

static void test_backward_memory(void)
{
    const char *const lists[3] = {"", "relu", every_tensor};
    int mix, i, same = 1;
    for (mix = 0; mix < 90; mix++) {
        convt3d_desc d = backward_desc(lists[mix % 3]);
        backward_run host, run;
        convt3d_io io;
        convt3d_error error;
        placed list[PLACED_MOST];
        int n;
        d.dtype = mix / 3 % 4;
        d.layout = mix / 12 % 2;
        d.accumulate = mix / 24 % 2 ? CONVT3D_BACKWARD : 0;
        if (!backward_of(&host, &d, 12) || !backward_of(&run, &d, 12)) { tap_ok(0, "memory"); return; }
        same &= backward_call(&host, ~0u, NULL, &error) == CONVT3D_OK;
        io = run.io;
        n = tensors_of(&run, &io, list);
        for (i = 0; i < n; i++) list[i].memory = (int)(oracle_hash((uint64_t)mix, (uint64_t)i) % MEMORIES);
        place_all(list, n);
        same &= convt3d_backward(&d, &io, &error) == CONVT3D_OK;
        fetch_all(list, n);
        if (!same_gradients(&host, &run)) { same = 0; tap_note("mix %d: other bits", mix); }
        backward_free(&host);
        backward_free(&run);
    }
    tap_ok(same, "backward: tensors and gradients in mixes of host, pinned, managed and device memory: the same bits");
}

/* Against the oracle: what the tests of the CPU do, on this device. */
static void test_backward_lists(void)
{
    static const char *const lists[] = {"relu", "leaky_relu:0.1,add", "group_norm:3", "batch_norm,relu",
        "gelu,multiply,add", "channel_affine,tanh", "silu,group_norm:1,mish,batch_norm",
        "add,hardswish,multiply,softplus:1:20",
        "add,channel_affine,group_norm:3,silu,multiply,batch_norm", "affine:2:1,add", "relu,group_norm:9", "sigmoid"};
    int i, pass = 1;
    for (i = 0; i < 12 * 16; i++) {
        convt3d_desc d = backward_desc(lists[i % 12]);
        check_request request;
        check_result result;
        memset(&request, 0, sizeof request);
        request.desc = d;
        request.desc.dtype = i / 12 % 4;
        request.desc.layout = i / 48 % 2;
        request.desc.accumulate = i / 96 ? CONVT3D_BACKWARD : 0;
        request.seed = (uint64_t)i;
        backward_case(&request, &result);
        if (!result.pass) tap_note("%s, dtype %d, layout %d: %s", lists[i % 12], (int)request.desc.dtype,
                                   (int)request.desc.layout, result.message);
        pass &= result.pass;
    }
    tap_ok(pass, "lists are taken back within their bounds");
}

/* A plan of all gradients, on the device: repeats, and a graph. */
static void test_backward_graph(const char *list)
{
    convt3d_desc d = backward_desc(list);
    backward_run first, run;
    convt3d_io io;
    convt3d_plan plan;
    convt3d_error error;
    convt3d_status status, easy;
    placed tensors[PLACED_MOST];
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    int i, k, n, pass;
    if (!backward_of(&first, &d, 12) || !backward_of(&run, &d, 12)) { tap_ok(0, "memory"); return; }
    pass = backward_call(&first, ~0u, NULL, &error) == CONVT3D_OK;
    io = run.io;
    n = tensors_of(&run, &io, tensors);
    for (i = 0; i < n; i++) tensors[i].memory = DEVICE;
    place_all(tensors, n);
    pass &= convt3d_plan_init(&plan, &d, CONVT3D_BACKWARD, &error) == CONVT3D_OK;
    io.workspace_bytes = convt3d_workspace_size(&plan);
    good(cudaMalloc(&io.workspace, (size_t)io.workspace_bytes + 256), "workspace");
    good(cudaMemset(io.workspace, 0xFF, (size_t)io.workspace_bytes + 256), "poisoned workspace");
    good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    io.stream = stream;
    good(cudaDeviceSynchronize(), "tensors");
    good(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    status = convt3d_run(&plan, &io, &error);
    easy = convt3d_backward(&d, &io, &error);
    pass &= good(cudaStreamEndCapture(stream, &graph), "end of capture");
    tap_ok(pass && status == CONVT3D_OK && easy == CONVT3D_CUDA_CAPTURING,
           "a backward pass is captured%s%s, convt3d_backward() refuses to be", *list ? ": " : "", list);
    if (!pass || !good(cudaGraphInstantiate(&exec, graph, 0), "instantiate")) return;
    for (i = 0; i < 20; i++) {
        for (k = 0; k < run.tensors; k++)
            good(cudaMemset(*backward_pointer(&io, &run.tensor[k]), 0xFF, run.tensor[k].buffer.bytes), "poison");
        good(cudaDeviceSynchronize(), "poison");
        good(cudaGraphLaunch(exec, stream), "replay");
        good(cudaStreamSynchronize(stream), "replay");
        for (k = 0; k < run.tensors; k++)
            good(cudaMemcpy(run.tensor[k].buffer.data, *backward_pointer(&io, &run.tensor[k]),
                            run.tensor[k].buffer.bytes, cudaMemcpyDefault), "fetch");
        pass &= same_gradients(&first, &run);
    }
    tap_ok(pass, "and 20 replays give the bits of the easy call");
    fetch_all(tensors, n);
    cudaFree(io.workspace);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    backward_free(&first);
    backward_free(&run);
}

/* A forward pass that keeps the convolution's output is cut along the batch. */
static void test_keeping_where_memory_is_short(void)
{
    convt3d_desc d = common_desc(2, 4, 40, 2, 2, 0);
    common_data whole, pieces;
    char why[THEN_TEXT];
    void *taken[64];
    int n, ok = then_parse("silu,group_norm:2", d.ops, why);
    d.batch = 24;
    d.device = CONVT3D_DEVICE_CUDA;
    d.backward = CONVT3D_BACKWARD;
    strcpy(d.force, "cuda_generic");
    if (!common_make(&whole, &d, 0, 12) || !common_make(&pieces, &d, 0, 12)) { tap_ok(0, "memory"); return; }
    whole.io.saved = malloc(whole.y.bytes);
    pieces.io.saved = malloc(pieces.y.bytes);
    ok &= whole.io.saved && pieces.io.saved && common_run(&whole);
    n = hog(taken, (size_t)48 << 20);
    ok &= common_run(&pieces);
    while (n > 0) cudaFree(taken[--n]);
    tap_ok(ok && common_same_outputs(&whole, &pieces) && memcmp(whole.io.saved, pieces.io.saved, whole.y.bytes) == 0 &&
           memcmp(whole.run.ops[1][CHECK_MEAN].data, pieces.run.ops[1][CHECK_MEAN].data, 24 * 2 * 4) == 0,
           "what the backward pass wants is kept in pieces, bit for bit");
    free(whole.io.saved);
    free(pieces.io.saved);
    common_free(&whole);
    common_free(&pieces);
}

/* dy is one element on the host, expanded to 256 GB: more than a card has. */
static void test_backward_where_memory_is_short(void)
{
    convt3d_desc d = common_desc(1, 1, 1, 1, 1, 0);
    float x = 1, w = 1, dy = 1, found[3] = {7, 7, 7};
    convt3d_io io;
    convt3d_error error;
    int a, ok;
    memset(&io, 0, sizeof io);
    d.device = CONVT3D_DEVICE_CUDA;
    d.fixed_out_size = 1;
    for (a = 0; a < 3; a++) d.out_size[a] = 4000;
    d.dy_stride[0] = 1;
    strcpy(d.force, "cuda_generic");
    io.x = &x;  io.w = &w;  io.dy = &dy;
    io.dx = &found[0];  io.dw = &found[1];  io.dbias = &found[2];
    ok = convt3d_backward(&d, &io, &error) == CONVT3D_CUDA_OUT_OF_MEMORY && found[0] == 7 && found[1] == 7 &&
         found[2] == 7;
    tap_ok(ok && cudaPeekAtLastError() == cudaSuccess, "a backward pass that does not fit: %s", error.text);
}

/* 2,197,000,000 positions of x, dy and dx; x and dy are one plane each, broadcast along the depth by a stride of 0. */
static void test_backward_beyond_32_bits(void)
{
    convt3d_desc d = common_desc(1, 1, 1300, 1, 1, 0);
    size_t plane = 1300 * 1300, i, depth;
    double *x = (double *)malloc(plane * 8), *dy = (double *)malloc(plane * 8), *back = (double *)malloc(plane * 8);
    double w = 2, dw = 0, dbias = 0, found[2] = {0, 0};
    convt3d_io io;
    convt3d_error error;
    void *there[2];
    int same;
    memset(&io, 0, sizeof io);
    d.device = CONVT3D_DEVICE_CUDA;
    d.dtype = CONVT3D_F64;
    strcpy(d.force, "cuda_generic");
    d.x_stride[0] = d.x_stride[1] = d.x_stride[4] = d.dy_stride[0] = d.dy_stride[1] = d.dy_stride[4] = 1;
    d.x_stride[3] = d.dy_stride[3] = 1300;
    for (i = 0; i < plane; i++) {
        x[i] = (double)(i % 3) - 1;
        dy[i] = (double)(i % 5) - 2 + (double)(i % 7 == 0);
        dw += 1300 * x[i] * dy[i];
        dbias += 1300 * dy[i];
    }
    there[0] = place(DEVICE, x, plane * 8);
    there[1] = place(DEVICE, dy, plane * 8);
    io.x = there[0];  io.dy = there[1];  io.w = &w;  io.dw = &found[0];  io.dbias = &found[1];
    same = good(cudaMalloc(&io.dx, 1300 * plane * 8), "dx") &&
           good(cudaMemset(io.dx, 0xFF, 1300 * plane * 8), "poison") &&
           convt3d_backward(&d, &io, &error) == CONVT3D_OK && found[0] == dw && found[1] == dbias;
    for (depth = 0; same && depth < 1300; depth += 433) {
        good(cudaMemcpy(back, (char *)io.dx + depth * plane * 8, plane * 8, cudaMemcpyDefault), "back");
        for (i = 0; i < plane; i++) same &= back[i] == 2 * dy[i];
    }
    tap_ok(same, "gradients of 2,197,000,000 positions");
    cudaFree(there[0]);
    cudaFree(there[1]);
    cudaFree(io.dx);
    free(x);
    free(dy);
    free(back);
}

int main(int argc, char **argv)
{
    int32_t devices = 0;
    convt3d_error error;
    if (argc > 1 && !strcmp(argv[1], "image")) {
        test_missing_image();
        return tap_done();
    }
    test_planning_for_an_architecture();
    if (convt3d_device_count(&devices, &error) != CONVT3D_OK) {
        test_absence();
        tap_skip("memory, slabs, streams, graphs, devices, special values", "no GPU");
        return tap_done();
    }
    tap_note("%d device(s)", devices);
    test_memory_mixes();
    test_staged_views();
    test_list_memory();
    test_slabs_where_memory_is_short();
    test_lists_where_memory_is_short();
    test_beyond_32_bits();
    test_repeats("");
    test_repeats("add,gelu,group_norm:3,multiply");
    test_streams("");
    test_streams("silu,group_norm:9,add");
    test_graph("");
    test_graph("channel_affine,group_norm:3,mish");
    test_two_devices(devices);
    test_error_state();
    test_special_values();
    test_backward_memory();
    test_backward_lists();
    test_backward_graph("");
    test_backward_graph("relu");
    test_backward_graph(every_tensor);
    test_keeping_where_memory_is_short();
    test_backward_where_memory_is_short();
    test_backward_beyond_32_bits();
    return tap_done();
}
