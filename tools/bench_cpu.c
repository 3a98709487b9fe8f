/* bench_cpu.c - timing on the CPU. Plans once, then times convt3d_run() alone: no allocation is in the time, packing of
 * the weights is. The time with weights packed beforehand, and that of a peer, stand beside it. */
#include "bench.h"
#include "ceilings.h"
#include "platform.h"

#include <math.h>

enum { COPY_BYTES = 256 << 20, COPY_BYTES_LEAST = 16 << 20, RANDOM_BLOCK = 65521, MOST_REPEATS = 1000 };

static const double seconds_per_row = 0.3;

/* ---- ceilings ---- */

/* 16-bit types are converted and computed in f32 on a CPU: they share its ceiling. */
static int measure_ceilings(const options *opt, bench_ceilings *ceilings, char *machine)
{
    const int threads = platform_threads(opt->threads);
    const char *names[2] = {"", ""};
    fma_leaf leaves[6];
    double *best = ceilings->fma_gflops, gemm[2] = {0, 0};
    size_t bytes;
    int i, count = fma_leaves(leaves), type;
    for (i = 0; i < count; i++) {
        double rate = measure_fma(&leaves[i], threads);
        if (rate <= best[leaves[i].is_f64]) continue;
        best[leaves[i].is_f64] = rate;
        names[leaves[i].is_f64] = leaves[i].name;
    }
    for (bytes = COPY_BYTES; bytes >= COPY_BYTES_LEAST; bytes /= 2) {
        ceilings->copy_gbps = measure_copy(bytes, threads);
        if (ceilings->copy_gbps > 0) break;
    }
    measure_gemm(threads, gemm);
    for (type = 0; type < 4; type++)
        ceilings->gflops[type][0] = ceilings->gflops[type][1] =
            gemm[type == CONVT3D_F64] > 0 ? gemm[type == CONVT3D_F64] : best[type == CONVT3D_F64];
    snprintf(ceilings->method, sizeof ceilings->method,
             "best of %d, %d threads; copy of %d MiB; %s; fma in registers %s %.1f, %s %.1f", CEILING_REPEATS, threads,
             (int)(bytes >> 20), gemm[0] > 0 ? "OpenBLAS gemm" : "no OpenBLAS: fma", names[0], best[0], names[1],
             best[1]);
    platform_machine(machine, 128);
    return ceilings->copy_gbps > 0 ? EXIT_PASS : fail("out of memory for the copy ceiling");
}

/* ---- tensors ---- */

typedef struct bench_buffer {
    void *memory;
    char *data;                         /* 64-byte aligned */
    size_t bytes;
} bench_buffer;

static int buffer_make(bench_buffer *buffer, double elements, size_t element)
{
    memset(buffer, 0, sizeof *buffer);
    if (elements * (double)element > (double)(SIZE_MAX / 4)) return 0;
    buffer->bytes = (size_t)elements * element;
    buffer->memory = malloc(buffer->bytes + 64);
    if (!buffer->memory) return 0;
    buffer->data = (char *)buffer->memory + (64 - (uintptr_t)buffer->memory % 64) % 64;
    return 1;
}

static uint64_t random_bits(uint64_t *state)                        /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

static void store(char *at, int dtype, double value)
{
    float single = (float)value;
    uint16_t half;
    if (dtype == CONVT3D_F64) {
        memcpy(at, &value, 8);
    } else if (dtype == CONVT3D_F32) {
        memcpy(at, &single, 4);
    } else {
        half = dtype == CONVT3D_F16 ? convt3d_f16_from_double(value) : convt3d_bf16_from_double(value);
        memcpy(at, &half, 2);
    }
}

/* Uniform in [-1, 1): a block of a prime number of values, repeated. */
static void fill_random(bench_buffer *buffer, int dtype, size_t element, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    size_t block = RANDOM_BLOCK * element, at;
    if (block > buffer->bytes) block = buffer->bytes;
    for (at = 0; at < block; at += element) {
        store(buffer->data + at, dtype, (double)(random_bits(&state) >> 11) * 0x1p-52 - 1);
    }
    for (; at < buffer->bytes; at += block) {
        memcpy(buffer->data + at, buffer->data, block < buffer->bytes - at ? block : buffer->bytes - at);
    }
}

typedef struct bench_tensors {
    bench_buffer x, w, bias, y, workspace;
    bench_buffer dy, dx, dw, dbias, saved;                  /* of a backward pass */
    bench_buffer list[BENCH_LIST_TENSORS];                  /* what ops points to */
    int list_count;
    convt3d_op_io ops[CONVT3D_MAX_OPS];
} bench_tensors;

static void tensors_release(bench_tensors *t)
{
    int i;
    for (i = 0; i < t->list_count; i++) free(t->list[i].memory);
    free(t->x.memory);
    free(t->w.memory);
    free(t->bias.memory);
    free(t->y.memory);
    free(t->workspace.memory);
    free(t->dy.memory);
    free(t->dx.memory);
    free(t->dw.memory);
    free(t->dbias.memory);
    free(t->saved.memory);
}

static double volume(const int64_t size[3]) { return (double)size[0] * (double)size[1] * (double)size[2]; }

static void *make_list_tensor(void *context, double elements, int dtype)
{
    bench_tensors *t = (bench_tensors *)context;
    const size_t element = dtype == CONVT3D_F64 ? 8 : dtype == CONVT3D_F32 ? 4 : 2;
    bench_buffer *buffer = &t->list[t->list_count];
    if (!buffer_make(buffer, elements, element)) return NULL;
    fill_random(buffer, dtype, element, (uint64_t)++t->list_count);
    return buffer->data;
}

/* dy random; the gradients NaN. */
static int tensors_make_backward(bench_tensors *t, const convt3d_desc *desc, const convt3d_info *info, uint64_t seed)
{
    const size_t element = desc->dtype == CONVT3D_F64 ? 8 : desc->dtype == CONVT3D_F32 ? 4 : 2;
    if (!buffer_make(&t->dy, (double)(t->y.bytes / element), element) ||
        !buffer_make(&t->dx, (double)(t->x.bytes / element), element) ||
        !buffer_make(&t->dw, (double)(t->w.bytes / element), element) ||
        !buffer_make(&t->dbias, (double)(t->bias.bytes / element), element)) return 0;
    if (info->saves == CONVT3D_SAVES_CONVOLUTION && !buffer_make(&t->saved, (double)t->y.bytes, 1)) return 0;
    fill_random(&t->dy, desc->dtype, element, seed + 4);
    memset(t->dx.data, 0xFF, t->dx.bytes);
    memset(t->dw.data, 0xFF, t->dw.bytes);
    memset(t->dbias.data, 0xFF, t->dbias.bytes);
    return bench_list_backward(desc, info, t->ops, make_list_tensor, t);
}

/* y and the workspace start as NaN: whatever is read before it is written shows. */
static int tensors_make(bench_tensors *t, const convt3d_desc *desc, const convt3d_info *info, uint64_t seed)
{
    const size_t element = desc->dtype == CONVT3D_F64 ? 8 : desc->dtype == CONVT3D_F32 ? 4 : 2;
    const double batch = (double)desc->batch, in = (double)desc->in_channels, out = (double)desc->out_channels;
    const double groups = desc->groups ? (double)desc->groups : 1;
    memset(t, 0, sizeof *t);
    if (!buffer_make(&t->x, batch * in * volume(desc->in_size), element) ||
        !buffer_make(&t->w, in * out / groups * volume(desc->kernel), element) ||
        !buffer_make(&t->bias, out, element) || !buffer_make(&t->y, bench_outputs(desc, info), element) ||
        !buffer_make(&t->workspace, (double)info->workspace_bytes, 1)) return 0;
    fill_random(&t->x, desc->dtype, element, seed + 1);
    fill_random(&t->w, desc->dtype, element, seed + 2);
    fill_random(&t->bias, desc->dtype, element, seed + 3);
    memset(t->y.data, 0xFF, t->y.bytes);
    memset(t->workspace.data, 0xFF, t->workspace.bytes);
    return bench_list(desc, info, t->ops, make_list_tensor, t);
}

/* Whether an output still is the NaN it was made as. */
static int has_poison(const bench_buffer *y, size_t element)
{
    size_t at;
    for (at = 0; at < y->bytes; at += element) {
        static const unsigned char poison[8] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
        if (memcmp(y->data + at, poison, element) == 0) return 1;
    }
    return 0;
}

/* ---- timing ---- */

double bench_median(double *values, int64_t count)
{
    int64_t i, j;
    for (i = 1; i < count; i++) {
        double value = values[i];
        for (j = i; j > 0 && values[j - 1] > value; j--) values[j] = values[j - 1];
        values[j] = value;
    }
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

double bench_time_calls(const options *opt, int (*call)(const void *context), const void *context, int64_t *repeats)
{
    static double times[MOST_REPEATS];
    const int64_t least = opt->repeats < MOST_REPEATS ? opt->repeats : MOST_REPEATS;
    double begin = 0, start;
    int64_t count = -1;
    for (; count < least || (count < MOST_REPEATS && platform_seconds() - begin < seconds_per_row); count++) {
        start = platform_seconds();
        if (count == 0) begin = start;
        if (call(context)) return -1;
        if (count >= 0) times[count] = platform_seconds() - start;
    }
    *repeats = count;
    return 1e3 * bench_median(times, count);
}

typedef struct cpu_call {
    const convt3d_plan *plan;
    convt3d_io io;
    convt3d_error *error;
} cpu_call;

static int run_call(const void *context)
{
    const cpu_call *call = (const cpu_call *)context;
    return convt3d_run(call->plan, &call->io, call->error) != CONVT3D_OK;
}

/* The forward pass, which leaves what the list's gradients need; then the backward pass is timed. */
static int run_and_time_backward(const options *opt, const convt3d_desc *desc, const convt3d_plan *plan,
                                 const char *label, bench_tensors *t, bench_time *result)
{
    const size_t element = desc->dtype == CONVT3D_F64 ? 8 : desc->dtype == CONVT3D_F32 ? 4 : 2;
    convt3d_desc forward = *desc;
    convt3d_error error;
    cpu_call call;
    int i;
    memset(&call, 0, sizeof call);
    call.plan = plan;
    call.error = &error;
    memcpy(call.io.ops, t->ops, sizeof t->ops);     /* gradients' pointers too: the forward pass leaves them alone */
    call.io.x = t->x.data;
    call.io.w = t->w.data;
    call.io.saved = t->saved.data;
    call.io.y = t->y.data;
    forward.force[0] = 0;
    if (desc->ops[0].kind != CONVT3D_OP_END && convt3d(&forward, &call.io, &error))
        return fail("%.200s: %s", label, error.text);
    call.io.workspace = t->workspace.data;
    call.io.workspace_bytes = (int64_t)t->workspace.bytes;
    for (i = 0; i < CONVT3D_MAX_OPS && !(opt->pass & CONVT3D_BACKWARD_OPS); i++)
        call.io.ops[i].d_residual = call.io.ops[i].d_scale = call.io.ops[i].d_shift = NULL;
    call.io.dy = t->dy.data;
    if (opt->pass & CONVT3D_BACKWARD_X) call.io.dx = t->dx.data;
    if (opt->pass & CONVT3D_BACKWARD_W) call.io.dw = t->dw.data;
    if (opt->pass & CONVT3D_BACKWARD_BIAS) call.io.dbias = t->dbias.data;
    result->ms = bench_time_calls(opt, run_call, &call, &result->repeats);
    if (result->ms < 0) return fail("%.200s: %s", label, error.text);
    if ((call.io.dx && has_poison(&t->dx, element)) || (call.io.dw && has_poison(&t->dw, element)) ||
        (call.io.dbias && has_poison(&t->dbias, element))) return fail("%.200s: a gradient was never written", label);
    return EXIT_PASS;
}

/* The same with the weights packed beforehand, where the kernel has a layout of its own for them. */
static int time_packed(const options *opt, const convt3d_info *info, cpu_call *call, bench_time *result)
{
    void *packed = malloc((size_t)info->packed_bytes + 64), *aligned;
    int64_t repeats;
    int failed = !packed;
    if (packed) {
        aligned = (char *)packed + (64 - (uintptr_t)packed % 64) % 64;
        failed = convt3d_pack_weights(call->plan, call->io.w, aligned, &call->io.pack_tag, NULL, call->error) != 0;
        call->io.w = NULL;
        call->io.w_packed = aligned;
        if (!failed) result->packed_ms = bench_time_calls(opt, run_call, call, &repeats);
    }
    free(packed);
    return failed || result->packed_ms < 0;
}

#ifdef TOOLS_ONEDNN
static double load(const void *from, int dtype, size_t i)
{
    float single;
    uint16_t half;
    if (dtype == CONVT3D_F32) {
        memcpy(&single, (const char *)from + 4 * i, 4);
        return (double)single;
    }
    memcpy(&half, (const char *)from + 2 * i, 2);
    return dtype == CONVT3D_F16 ? convt3d_double_from_f16(half) : convt3d_double_from_bf16(half);
}

double bench_distance(int dtype, const bench_pointers *pointers)
{
    double difference = 0, size = 0;
    size_t i;
    for (i = 0; i < pointers->outputs; i++) {
        double ours = load(pointers->ours, dtype, i), theirs = load(pointers->y, dtype, i);
        difference += (ours - theirs) * (ours - theirs);
        size += ours * ours;
    }
    return difference > 0 ? sqrt(difference / size) : isnan(difference) ? INFINITY : 0;
}

static int time_peer(const options *opt, const convt3d_desc *desc, const convt3d_info *info, const char *label,
                     const bench_tensors *t, bench_time *result)
{
    const size_t element = desc->dtype == CONVT3D_F64 ? 8 : desc->dtype == CONVT3D_F32 ? 4 : 2;
    bench_pointers pointers = {t->x.data, t->w.data, t->bias.data, NULL, t->y.data, 0};
    bench_buffer y;
    int status;
    if (desc->y_stride[0] > 0) return EXIT_PASS;        /* its y is dense */
    pointers.outputs = t->y.bytes / element;
    if (!buffer_make(&y, (double)pointers.outputs, element)) return fail("%.200s: out of memory", label);
    pointers.y = y.data;
    status = bench_onednn(opt, desc, info, &pointers, result);
    free(y.memory);
    return status;
}
#endif

static int run_and_time(const options *opt, const convt3d_desc *desc, const convt3d_plan *plan, const char *label,
                        const convt3d_info *info, const bench_tensors *t, bench_time *result)
{
    convt3d_error error;
    cpu_call call;
    memset(&call, 0, sizeof call);
    call.plan = plan;
    call.error = &error;
    call.io.x = t->x.data;
    call.io.w = t->w.data;
    call.io.bias = t->bias.data;
    call.io.y = t->y.data;
    call.io.workspace = t->workspace.data;
    call.io.workspace_bytes = (int64_t)t->workspace.bytes;
    memcpy(call.io.ops, t->ops, sizeof t->ops);
    result->ms = bench_time_calls(opt, run_call, &call, &result->repeats);
    if (result->ms < 0) return fail("%.200s: %s", label, error.text);
    if (desc->y_stride[0] == 0 &&                       /* the gaps of a view are never written */
        has_poison(&t->y, desc->dtype == CONVT3D_F64 ? 8 : desc->dtype == CONVT3D_F32 ? 4 : 2)) {
        return fail("%.200s: an output was never written", label);
    }
    if (time_packed(opt, info, &call, result)) return fail("%.200s: packing: %s", label, error.text);
#ifdef TOOLS_ONEDNN
    if (opt->peer.count) return time_peer(opt, desc, info, label, t, result);
#endif
    return EXIT_PASS;
}

static int time_row(const options *opt, const convt3d_desc *desc, const char *label, convt3d_info *info,
                    bench_time *result)
{
    convt3d_plan plan;
    convt3d_error error;
    bench_tensors t;
    int status;
    if (convt3d_plan_init(&plan, desc, opt->pass, &error) || convt3d_plan_info(&plan, info, &error)) {
        return fail("%.200s: %s", label, error.text);
    }
    status = tensors_make(&t, desc, info, opt->seed);
    if (status && opt->pass != CONVT3D_FORWARD) status = tensors_make_backward(&t, desc, info, opt->seed);
    if (!status) status = fail("%.200s: out of memory", label);
    else if (opt->pass == CONVT3D_FORWARD) status = run_and_time(opt, desc, &plan, label, info, &t, result);
    else status = run_and_time_backward(opt, desc, &plan, label, &t, result);
    tensors_release(&t);
    return status;
}

const bench_device bench_cpu = {CONVT3D_DEVICE_CPU, 0, measure_ceilings, time_row};
