/* bench_cuda.c - timing on an NVIDIA GPU. convt3d_run() is captured in a graph over several sets of x and y, backward of
 * x, dy and dx, that together exceed twice the L2 cache; CUDA events around its replays, the median of at least 11.
 * Packing of the weights is inside the timed call; the time with weights packed beforehand stands beside it. */
#include "bench.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

enum { MOST_SETS = 192, IN_GRAPH = 16, REPEATS = 11, BLOCK = 65521, GEMM_SIZE = 8192 };

static const size_t copy_bytes = (size_t)2 << 30;

static int failed(cudaError_t cause, const char *what)
{
    return cause == cudaSuccess ? EXIT_PASS : fail("%.200s: %s", what, cudaGetErrorString(cause));
}

/* ---- random data ---- */

static const size_t element_bytes[4] = {4, 8, 2, 2};

static void host_block(char *block, int dtype)
{
    uint64_t state = 0x9E3779B97F4A7C15u;
    int i;
    for (i = 0; i < BLOCK; i++) {
        double value;
        float single;
        uint16_t half;
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (double)(state >> 11) * 0x1p-52 - 1;
        single = (float)value;
        half = dtype == CONVT3D_F16 ? convt3d_f16_from_double(value) : convt3d_bf16_from_double(value);
        if (dtype == CONVT3D_F64) memcpy(block + 8 * (size_t)i, &value, 8);
        else if (dtype == CONVT3D_F32) memcpy(block + 4 * (size_t)i, &single, 4);
        else memcpy(block + 2 * (size_t)i, &half, 2);
    }
}

/* Device memory of uniform values in [-1, 1): a block of a prime number of them, doubled until it fills. */
static cudaError_t random_tensor(void **memory, double elements, int dtype)
{
    static char block[BLOCK * 8];
    size_t bytes = (size_t)elements * element_bytes[dtype], have = BLOCK * element_bytes[dtype];
    cudaError_t cause = cudaMalloc(memory, bytes ? bytes : 1);
    if (cause != cudaSuccess) return cause;
    host_block(block, dtype);
    if (have > bytes) have = bytes;
    cause = cudaMemcpy(*memory, block, have, cudaMemcpyHostToDevice);
    for (; cause == cudaSuccess && have < bytes; have += have) {
        size_t more = have < bytes - have ? have : bytes - have;
        cause = cudaMemcpy((char *)*memory + have, *memory, more, cudaMemcpyDeviceToDevice);
    }
    return cause;
}

/* ---- ceilings ---- */

typedef struct timer { cudaEvent_t begin, end; } timer;

static double stop_ms(const timer *t)
{
    float ms = 0;
    cudaEventRecord(t->end, 0);
    cudaEventSynchronize(t->end);
    cudaEventElapsedTime(&ms, t->begin, t->end);
    return (double)ms;
}

static double copy_gbps(const timer *t)
{
    void *from = NULL, *to = NULL;
    double ms[REPEATS] = {0};
    int i;
    if (random_tensor(&from, (double)copy_bytes / 4, CONVT3D_F32) == cudaSuccess &&
        cudaMalloc(&to, copy_bytes) == cudaSuccess) {
        for (i = -2; i < REPEATS; i++) {
            cudaEventRecord(t->begin, 0);
            cudaMemcpyAsync(to, from, copy_bytes, cudaMemcpyDeviceToDevice, 0);
            ms[i < 0 ? 0 : i] = stop_ms(t);
        }
    }
    cudaFree(from);
    cudaFree(to);
    return ms[0] > 0 ? 2e-6 * (double)copy_bytes / bench_median(ms, REPEATS) : 0;
}

/* cuBLAS, loaded only here: linked, its half a gigabyte would slow every start of the command line. */
typedef struct blas_calls {
    cublasHandle_t handle;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                           const void *, cudaDataType, int, const void *, cudaDataType, int, const void *, void *,
                           cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
} blas_calls;

static int blas_open(blas_calls *blas)
{
    char name[32];
    void *library;
    snprintf(name, sizeof name, "libcublas.so.%d", CUBLAS_VER_MAJOR);
    library = dlopen(name, RTLD_NOW);
    if (!library) return fail("the GEMM ceiling wants %s: %.200s", name, dlerror());
    *(void **)&blas->create = dlsym(library, "cublasCreate_v2");
    *(void **)&blas->destroy = dlsym(library, "cublasDestroy_v2");
    *(void **)&blas->gemm = dlsym(library, "cublasGemmEx");
    if (!blas->create || !blas->destroy || !blas->gemm) return fail("%s lacks a function", name);
    return blas->create(&blas->handle) == CUBLAS_STATUS_SUCCESS ? EXIT_PASS : fail("cuBLAS does not start");
}

/* cuBLAS on square matrices of random data, f32 accumulators for the 16-bit types; 0 when it cannot. */
static double gemm_gflops(const blas_calls *blas, const timer *t, int dtype, int math)
{
    static const cudaDataType_t types[4] = {CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF};
    const cublasComputeType_t compute = dtype == CONVT3D_F64 ? CUBLAS_COMPUTE_64F :
        dtype == CONVT3D_F32 && math == CONVT3D_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const float one = 1, zero = 0;
    const double one64 = 1, zero64 = 0;
    const void *alpha = dtype == CONVT3D_F64 ? (const void *)&one64 : &one;
    const void *beta = dtype == CONVT3D_F64 ? (const void *)&zero64 : &zero;
    const double elements = (double)GEMM_SIZE * GEMM_SIZE;
    void *a = NULL, *b = NULL, *c = NULL;
    double ms[REPEATS] = {0};
    int i, good = random_tensor(&a, elements, dtype) == cudaSuccess &&
                  random_tensor(&b, elements, dtype) == cudaSuccess &&
                  random_tensor(&c, elements, dtype) == cudaSuccess;
    for (i = -2; good && i < REPEATS; i++) {
        cudaEventRecord(t->begin, 0);
        good = blas->gemm(blas->handle, CUBLAS_OP_N, CUBLAS_OP_N, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, alpha, a, types[dtype],
                            GEMM_SIZE, b, types[dtype], GEMM_SIZE, beta, c, types[dtype], GEMM_SIZE, compute,
                            CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
        ms[i < 0 ? 0 : i] = stop_ms(t);
    }
    cudaFree(a);
    cudaFree(b);
    cudaFree(c);
    return good ? 2e-6 * elements * GEMM_SIZE / bench_median(ms, REPEATS) : 0;
}

/* f32 accuracy costs three products of the 16-bit units: its rate is a third of theirs. */
static int measure_ceilings(const options *opt, bench_ceilings *ceilings, char *machine)
{
    struct cudaDeviceProp card;
    blas_calls blas;
    timer t;
    int device, driver, dtype;
    (void)opt;
    if (failed(cudaGetDevice(&device), "device") || failed(cudaGetDeviceProperties(&card, device), "device") ||
        failed(cudaEventCreate(&t.begin), "event") || failed(cudaEventCreate(&t.end), "event") ||
        failed(cudaDriverGetVersion(&driver), "driver")) return EXIT_USAGE;
    if (blas_open(&blas)) return EXIT_USAGE;
    snprintf(machine, 128, "%.60s, %d multiprocessors, CUDA driver %d.%d", card.name, card.multiProcessorCount,
             driver / 1000, driver % 1000 / 10);
    ceilings->copy_gbps = copy_gbps(&t);
    for (dtype = 1; dtype < 4; dtype++)
        ceilings->gflops[dtype][0] = ceilings->gflops[dtype][1] = gemm_gflops(&blas, &t, dtype, CONVT3D_ACCURATE);
    ceilings->gflops[CONVT3D_F32][CONVT3D_ACCURATE] = ceilings->gflops[CONVT3D_F16][0] / 3;
    ceilings->gflops[CONVT3D_F32][CONVT3D_TF32] = gemm_gflops(&blas, &t, CONVT3D_F32, CONVT3D_TF32);
    snprintf(ceilings->method, sizeof ceilings->method,
             "median of %d; copy of 2 GiB; cuBLAS GEMM of %d^3, f32 = a third of f16's", REPEATS, GEMM_SIZE);
    blas.destroy(blas.handle);
    cudaEventDestroy(t.begin);
    cudaEventDestroy(t.end);
    return ceilings->copy_gbps > 0 ? EXIT_PASS : fail("out of device memory for the copy ceiling");
}

/* ---- tensors ---- */

typedef struct gpu_tensors {
    void *x[MOST_SETS], *y[MOST_SETS], *dx[MOST_SETS];      /* y: backward, dy */
    void *w, *bias, *workspace, *packed, *dw, *dbias, *saved;
    uint64_t pack_tag;
    int sets;
    void *list[BENCH_LIST_TENSORS];     /* what ops points to */
    int list_count;
    convt3d_op_io ops[CONVT3D_MAX_OPS];
} gpu_tensors;

static void *make_list_tensor(void *context, double elements, int dtype)
{
    gpu_tensors *t = (gpu_tensors *)context;
    if (random_tensor(&t->list[t->list_count], elements, dtype) != cudaSuccess) return NULL;
    return t->list[t->list_count++];
}

static void tensors_release(gpu_tensors *t)
{
    int i;
    for (i = 0; i < t->sets; i++) {
        cudaFree(t->x[i]);
        cudaFree(t->y[i]);
        cudaFree(t->dx[i]);
    }
    for (i = 0; i < t->list_count; i++) cudaFree(t->list[i]);
    cudaFree(t->w);
    cudaFree(t->bias);
    cudaFree(t->workspace);
    cudaFree(t->packed);
    cudaFree(t->dw);
    cudaFree(t->dbias);
    cudaFree(t->saved);
}

static double volume(const int64_t size[3]) { return (double)size[0] * (double)size[1] * (double)size[2]; }

/* Enough sets of x and y to exceed twice the L2; at least two. */
static int sets_wanted(double bytes)
{
    int device, l2 = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device) != cudaSuccess) l2 = 64 << 20;
    if (bytes * MOST_SETS < 2.0 * l2) return MOST_SETS;
    return bytes >= 2.0 * l2 ? 2 : (int)(2.0 * l2 / bytes) + 2 < MOST_SETS ? (int)(2.0 * l2 / bytes) + 2 : MOST_SETS;
}

/* The tensors of one set; y is dy and random where the pass is not forward. */
static cudaError_t make_set(gpu_tensors *t, const convt3d_desc *desc, int32_t pass, double x, double y)
{
    const size_t element = element_bytes[desc->dtype];
    cudaError_t cause = random_tensor(&t->x[t->sets], x, desc->dtype);
    if (cause == cudaSuccess && pass != CONVT3D_FORWARD) {
        cause = random_tensor(&t->y[t->sets], y, desc->dtype);
        if (cause == cudaSuccess) cause = cudaMalloc(&t->dx[t->sets], (size_t)x * element + 1);
        return cause;
    }
    if (cause == cudaSuccess) cause = cudaMalloc(&t->y[t->sets], (size_t)y * element + 1);
    if (cause == cudaSuccess) cause = cudaMemset(t->y[t->sets], 0xFF, (size_t)y * element);
    return cause;
}

/* What all sets share. */
static cudaError_t make_shared(gpu_tensors *t, const convt3d_desc *desc, int32_t pass, const convt3d_info *info,
                               double w, double y)
{
    const size_t element = element_bytes[desc->dtype];
    cudaError_t cause = random_tensor(&t->w, w, desc->dtype);
    if (cause == cudaSuccess) cause = random_tensor(&t->bias, (double)desc->out_channels, desc->dtype);
    if (cause == cudaSuccess && info->workspace_bytes > 0)
        cause = cudaMalloc(&t->workspace, (size_t)info->workspace_bytes);
    if (cause == cudaSuccess) cause = cudaMalloc(&t->packed, (size_t)info->packed_bytes + 1);
    if (cause == cudaSuccess && info->saves != CONVT3D_SAVES_NOTHING) cause = random_tensor(&t->saved, y, desc->dtype);
    if (cause == cudaSuccess && pass != CONVT3D_FORWARD) cause = cudaMalloc(&t->dw, (size_t)w * element);
    if (cause == cudaSuccess && pass != CONVT3D_FORWARD)
        cause = cudaMalloc(&t->dbias, (size_t)desc->out_channels * element);
    if (cause == cudaSuccess && !bench_list(desc, info, t->ops, make_list_tensor, t)) cause = cudaErrorMemoryAllocation;
    if (cause == cudaSuccess && pass != CONVT3D_FORWARD && !bench_list_backward(desc, info, t->ops, make_list_tensor, t))
        cause = cudaErrorMemoryAllocation;
    return cause;
}

static cudaError_t tensors_make(gpu_tensors *t, const convt3d_desc *desc, int32_t pass, const convt3d_info *info)
{
    const double x = (double)desc->batch * (double)desc->in_channels * volume(desc->in_size);
    const double y = bench_outputs(desc, info);
    const double w = (double)desc->in_channels * (double)desc->out_channels / (double)(desc->groups ? desc->groups : 1);
    const int sets = sets_wanted((x + y) * (double)element_bytes[desc->dtype]);
    cudaError_t cause = make_shared(t, desc, pass, info, w * volume(desc->kernel), y);
    for (; cause == cudaSuccess && t->sets < sets; t->sets++) cause = make_set(t, desc, pass, x, y);
    return cause;
}

/* ---- timing ---- */

typedef struct gpu_run {
    const convt3d_plan *plan;
    int32_t pass;
    convt3d_io io;
    const gpu_tensors *tensors;
    cudaStream_t stream;
    timer t;
} gpu_run;

static int run_sets(gpu_run *run, int count, convt3d_error *error)
{
    int i;
    for (i = 0; i < count; i++) {
        const int set = i % run->tensors->sets;
        run->io.x = run->tensors->x[set];
        if (run->pass == CONVT3D_FORWARD) run->io.y = run->tensors->y[set];
        else run->io.dy = run->tensors->y[set];
        if (run->pass & CONVT3D_BACKWARD_X) run->io.dx = run->tensors->dx[set];
        if (convt3d_run(run->plan, &run->io, error)) return -1;
    }
    return 0;
}

/* One launch of the graph (exec) or one plain run, in ms. */
static double launch(gpu_run *run, cudaGraphExec_t exec, convt3d_error *error)
{
    float ms = 0;
    cudaEventRecord(run->t.begin, run->stream);
    if (exec) cudaGraphLaunch(exec, run->stream);
    else if (run_sets(run, 1, error)) return -1;
    cudaEventRecord(run->t.end, run->stream);
    cudaEventSynchronize(run->t.end);
    cudaEventElapsedTime(&ms, run->t.begin, run->t.end);
    return (double)ms;
}

/* Median ms of one call, or negative after an error. */
static double time_graph(gpu_run *run, int64_t least, int64_t *repeats, convt3d_error *error)
{
    double ms[101], once;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    int in_graph, count = least < REPEATS ? REPEATS : least > 101 ? 101 : (int)least, i;
    if (launch(run, NULL, error) < 0 || (once = launch(run, NULL, error)) < 0) return -1;
    in_graph = once > 20 ? 1 : once > 2 ? 4 : run->tensors->sets > IN_GRAPH ? run->tensors->sets : IN_GRAPH;
    cudaStreamBeginCapture(run->stream, cudaStreamCaptureModeThreadLocal);
    i = run_sets(run, in_graph, error);
    if (cudaStreamEndCapture(run->stream, &graph) != cudaSuccess || i) return -1;
    if (cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) return -1;
    for (i = -1; i < count; i++) ms[i < 0 ? 0 : i] = launch(run, exec, error) / in_graph;
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    *repeats = count;
    return bench_median(ms, count);
}

static int time_both(const options *opt, gpu_run *run, gpu_tensors *t, const char *label, bench_time *result)
{
    convt3d_error error;
    int64_t repeats;
    memset(&error, 0, sizeof error);
    result->ms = time_graph(run, opt->repeats, &result->repeats, &error);
    if (result->ms < 0) return fail("%.200s: %s", label, error.text);
    if (run->pass != CONVT3D_FORWARD && !(run->pass & CONVT3D_BACKWARD_X)) return EXIT_PASS;    /* reads no weights */
    if (convt3d_pack_weights(run->plan, t->w, t->packed, &t->pack_tag, run->stream, &error))
        return fail("%.200s: %s", label, error.text);
    run->io.w = NULL;
    run->io.w_packed = t->packed;
    run->io.pack_tag = t->pack_tag;
    result->packed_ms = time_graph(run, opt->repeats, &repeats, &error);
    if (result->packed_ms < 0) return fail("%.200s: %s", label, error.text);
    return failed(cudaDeviceSynchronize(), label);
}

static int time_row(const options *opt, const convt3d_desc *desc, const char *label, convt3d_info *info,
                    bench_time *result)
{
    convt3d_desc aligned = *desc;
    convt3d_plan plan;
    convt3d_error error;
    gpu_tensors t;
    gpu_run run;
    int status, i;
    memset(&t, 0, sizeof t);
    memset(&run, 0, sizeof run);
    aligned.alignment = 256;                    /* cudaMalloc's */
    run.pass = opt->pass;
    if (convt3d_plan_init(&plan, &aligned, opt->pass, &error) || convt3d_plan_info(&plan, info, &error))
        return fail("%.200s: %s", label, error.text);
    run.plan = &plan;
    run.tensors = &t;
    status = failed(tensors_make(&t, desc, opt->pass, info), label);
    if (!status) status = failed(cudaStreamCreateWithFlags(&run.stream, cudaStreamNonBlocking), label);
    if (!status) status = failed(cudaEventCreate(&run.t.begin), label) || failed(cudaEventCreate(&run.t.end), label);
    run.io.w = t.w;
    run.io.bias = t.bias;
    if (opt->pass & CONVT3D_BACKWARD_W) run.io.dw = t.dw;
    if (opt->pass & CONVT3D_BACKWARD_BIAS) run.io.dbias = t.dbias;
    run.io.saved = run.io.y = t.saved;      /* backward reads one of them */
    run.io.workspace = t.workspace;
    run.io.workspace_bytes = info->workspace_bytes;
    run.io.stream = run.stream;
    memcpy(run.io.ops, t.ops, sizeof t.ops);
    for (i = 0; i < CONVT3D_MAX_OPS && !(opt->pass & CONVT3D_BACKWARD_OPS); i++)
        run.io.ops[i].d_residual = run.io.ops[i].d_scale = run.io.ops[i].d_shift = NULL;
    if (!status) status = time_both(opt, &run, &t, label, result);
    if (run.stream) cudaStreamDestroy(run.stream);
    if (run.t.begin) cudaEventDestroy(run.t.begin);
    if (run.t.end) cudaEventDestroy(run.t.end);
    tensors_release(&t);
    return status;
}

/* 0.004 ms: one launch, as docs/performance.md measures it. */
const bench_device bench_cuda = {CONVT3D_DEVICE_CUDA, 0.004, measure_ceilings, time_row};
