/* bench_onednn.c - oneDNN's deconvolution on the same problem, for `convt3d bench --peer onednn`. Through its C API,
 * v2 or v3; the library is loaded only when it is asked for.
 *
 * x and y lie plain, in the layout of the problem, as a caller has them. Twice, and the better counts: oneDNN is told
 * to work on that ("plain"), or may choose its own layouts, and then its reorders of x and y are in the time
 * ("blocked"). The weights are reordered beforehand in both.
 */
#include "bench.h"
#include "platform.h"

#include <dlfcn.h>
#include <dnnl.h>
#ifdef _OPENMP
#  include <omp.h>
#endif

#define CALLS_BOTH(X) \
    X(engine_create) X(engine_destroy) X(stream_create) X(stream_wait) X(stream_destroy) X(version) \
    X(primitive_desc_query_md) X(primitive_desc_destroy) X(primitive_create) X(primitive_execute) X(primitive_destroy) \
    X(memory_create) X(memory_destroy) X(memory_desc_equal) X(reorder_primitive_desc_create)
#if DNNL_VERSION_MAJOR >= 3
#  define CALLS(X) CALLS_BOTH(X) X(memory_desc_create_with_tag) X(memory_desc_destroy) \
    X(deconvolution_forward_primitive_desc_create)
typedef const_dnnl_memory_desc_t md_ref;
typedef dnnl_memory_desc_t md_own;                  /* a handle, destroyed by md_free() */
#  define REF(own) (own)
#  define SONAME "libdnnl.so.3"
#else
#  define CALLS(X) CALLS_BOTH(X) X(memory_desc_init_by_tag) X(primitive_desc_create) \
    X(dilated_deconvolution_forward_desc_init)
typedef const dnnl_memory_desc_t *md_ref;
typedef dnnl_memory_desc_t md_own;                  /* a plain value */
#  define REF(own) (&(own))
#  define SONAME "libdnnl.so.2"
#endif

static struct calls {
    void *library;
#define DECLARE(name) __typeof__(dnnl_##name) *name;
    CALLS(DECLARE)
#undef DECLARE
} dnnl;

static int load(void)
{
    if (dnnl.library) return EXIT_PASS;
    dnnl.library = dlopen(SONAME, RTLD_NOW);
    if (!dnnl.library) return fail("--peer onednn wants %s: %.200s", SONAME, dlerror());
#define FIND(name) \
    *(void **)&dnnl.name = dlsym(dnnl.library, "dnnl_" #name); \
    if (!dnnl.name) return fail("%s has no dnnl_" #name, SONAME);
    CALLS(FIND)
#undef FIND
    return EXIT_PASS;
}

/* ---- memory descriptions ---- */

static const dnnl_data_type_t types[4] = {dnnl_f32, dnnl_data_type_undef, dnnl_f16, dnnl_bf16};    /* no f64 there */

static int md_make(md_own *md, int ndims, const dnnl_dims_t dims, int dtype, dnnl_format_tag_t tag)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl.memory_desc_create_with_tag(md, ndims, dims, types[dtype], tag);
#else
    return dnnl.memory_desc_init_by_tag(md, ndims, dims, types[dtype], tag);
#endif
}

static void md_free(md_own *md)
{
#if DNNL_VERSION_MAJOR >= 3
    if (*md) dnnl.memory_desc_destroy(*md);
#else
    (void)md;
#endif
}

/* The four tensors: as the caller has them, and free for oneDNN to choose. */
typedef struct tensors { md_own x, w, bias, y, any_x, any_w, any_y; } tensors;

static void tensors_free(tensors *t)
{
    md_own *all[7] = {&t->x, &t->w, &t->bias, &t->y, &t->any_x, &t->any_w, &t->any_y};
    int i;
    for (i = 0; i < 7; i++) md_free(all[i]);
}

/* PyTorch's weights are [in][out][D][H][W] of each group; oneDNN speaks of them as out, in. */
static int tensors_describe(tensors *t, const convt3d_desc *d, const convt3d_info *info)
{
    const int64_t groups = d->groups ? d->groups : 1, in = d->in_channels, out = d->out_channels;
    const dnnl_dims_t x = {d->batch, in, d->in_size[0], d->in_size[1], d->in_size[2]};
    const dnnl_dims_t y = {d->batch, out, info->out_size[0], info->out_size[1], info->out_size[2]};
    const dnnl_dims_t w = {out, in, d->kernel[0], d->kernel[1], d->kernel[2]};
    const dnnl_dims_t grouped = {groups, out / groups, in / groups, d->kernel[0], d->kernel[1], d->kernel[2]};
    const dnnl_dims_t bias = {out};
    const dnnl_format_tag_t plain = d->layout == CONVT3D_NCDHW ? dnnl_ncdhw : dnnl_ndhwc;
    const int64_t *weights = groups > 1 ? grouped : w;
    const int ndims = groups > 1 ? 6 : 5;
    memset(t, 0, sizeof *t);
    return md_make(&t->x, 5, x, d->dtype, plain) || md_make(&t->any_x, 5, x, d->dtype, dnnl_format_tag_any) ||
           md_make(&t->y, 5, y, d->dtype, plain) || md_make(&t->any_y, 5, y, d->dtype, dnnl_format_tag_any) ||
           md_make(&t->w, ndims, weights, d->dtype, groups > 1 ? dnnl_giodhw : dnnl_iodhw) ||
           md_make(&t->any_w, ndims, weights, d->dtype, dnnl_format_tag_any) ||
           md_make(&t->bias, 1, bias, d->dtype, dnnl_a);
}

static int deconvolution(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const convt3d_desc *d,
                         const convt3d_info *info, const tensors *t, md_ref x, md_ref y)
{
    dnnl_dims_t stride, dilation, low, high;
    int a;
    for (a = 0; a < 3; a++) {
        const int64_t s = d->stride[a] ? d->stride[a] : 1, r = d->dilation[a] ? d->dilation[a] : 1;
        stride[a] = s;
        dilation[a] = r - 1;
        low[a] = d->padding[a];
        high[a] = (d->in_size[a] - 1) * s + r * (d->kernel[a] - 1) + 1 - d->padding[a] - info->out_size[a];
    }
#if DNNL_VERSION_MAJOR >= 3
    return dnnl.deconvolution_forward_primitive_desc_create(pd, engine, dnnl_forward_inference,
        dnnl_deconvolution_direct, x, REF(t->any_w), REF(t->bias), y, stride, dilation, low, high, NULL);
#else
    dnnl_deconvolution_desc_t desc;
    return dnnl.dilated_deconvolution_forward_desc_init(&desc, dnnl_forward_inference, dnnl_deconvolution_direct, x,
               REF(t->any_w), REF(t->bias), y, stride, dilation, low, high) ||
           dnnl.primitive_desc_create(pd, &desc, NULL, engine, NULL);
#endif
}

/* ---- one way of running ---- */

enum { IN_X, IN_W, IN_BIAS, OUT_Y, PACKED_W, OWN_X, OWN_Y, MEMORIES };

typedef struct peer_run {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t main, reorder_x, reorder_y;    /* reorders: NULL where the layouts agree */
    dnnl_memory_t memory[MEMORIES];
} peer_run;

static void run_free(peer_run *run)
{
    int i;
    if (run->main) dnnl.primitive_destroy(run->main);
    if (run->reorder_x) dnnl.primitive_destroy(run->reorder_x);
    if (run->reorder_y) dnnl.primitive_destroy(run->reorder_y);
    for (i = 0; i < MEMORIES; i++)
        if (run->memory[i]) dnnl.memory_destroy(run->memory[i]);
    if (run->stream) dnnl.stream_destroy(run->stream);
    if (run->engine) dnnl.engine_destroy(run->engine);
}

static int make_reorder(const peer_run *run, dnnl_primitive_t *reorder, md_ref from, md_ref to)
{
    dnnl_primitive_desc_t pd = NULL;
    int status = dnnl.reorder_primitive_desc_create(&pd, from, run->engine, to, run->engine, NULL);
    if (!status) status = dnnl.primitive_create(reorder, pd);
    if (pd) dnnl.primitive_desc_destroy(pd);
    return status;
}

static int execute(const peer_run *run, dnnl_primitive_t primitive, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_exec_arg_t arguments[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return dnnl.primitive_execute(primitive, run->stream, 2, arguments);
}

/* What is timed. */
static int run_once(const peer_run *run)
{
    const dnnl_exec_arg_t arguments[4] = {
        {DNNL_ARG_SRC, run->memory[run->reorder_x ? OWN_X : IN_X]}, {DNNL_ARG_WEIGHTS, run->memory[PACKED_W]},
        {DNNL_ARG_BIAS, run->memory[IN_BIAS]}, {DNNL_ARG_DST, run->memory[run->reorder_y ? OWN_Y : OUT_Y]}};
    return (run->reorder_x && execute(run, run->reorder_x, run->memory[IN_X], run->memory[OWN_X])) ||
           dnnl.primitive_execute(run->main, run->stream, 4, arguments) ||
           (run->reorder_y && execute(run, run->reorder_y, run->memory[OWN_Y], run->memory[OUT_Y])) ||
           dnnl.stream_wait(run->stream);
}

/* Memories, the weights in the layout wanted, and the reorders of x and y where theirs differ from the caller's. */
static int run_prepare(peer_run *run, const tensors *t, const_dnnl_primitive_desc_t pd, const bench_pointers *p)
{
    const md_ref x = dnnl.primitive_desc_query_md(pd, dnnl_query_src_md, 0);
    const md_ref y = dnnl.primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
    const md_ref w = dnnl.primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    const md_ref md[MEMORIES] = {REF(t->x), REF(t->w), REF(t->bias), REF(t->y), w, x, y};
    void *const at[MEMORIES] = {p->x, p->w, p->bias, p->y, DNNL_MEMORY_ALLOCATE, DNNL_MEMORY_ALLOCATE,
                                DNNL_MEMORY_ALLOCATE};
    dnnl_primitive_t pack = NULL;
    int i, status = 0;
    const int own_x = !dnnl.memory_desc_equal(x, REF(t->x)), own_y = !dnnl.memory_desc_equal(y, REF(t->y));
    for (i = 0; !status && i < MEMORIES; i++) {
        if ((i == OWN_X && !own_x) || (i == OWN_Y && !own_y)) continue;
        status = dnnl.memory_create(&run->memory[i], md[i], run->engine, at[i]);
    }
    if (!status) status = make_reorder(run, &pack, REF(t->w), w);
    if (!status) status = execute(run, pack, run->memory[IN_W], run->memory[PACKED_W]) || dnnl.stream_wait(run->stream);
    if (!status && own_x) status = make_reorder(run, &run->reorder_x, REF(t->x), x);
    if (!status && own_y) status = make_reorder(run, &run->reorder_y, y, REF(t->y));
    if (pack) dnnl.primitive_destroy(pack);
    return status ? status : (int)dnnl.primitive_create(&run->main, pd);
}

static int peer_call(const void *context) { return run_once((const peer_run *)context); }

const char *bench_onednn_version(void)
{
    static char text[32];
    const dnnl_version_t *version;
    if (load()) return NULL;
    version = dnnl.version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return text;
}

/* The median in ms, or a negative number where oneDNN does not do it, or does it wrong. */
static double time_way(const options *opt, const convt3d_desc *d, const convt3d_info *info, const bench_pointers *p,
                       int blocked, int64_t *repeats)
{
    tensors t;
    peer_run run;
    dnnl_primitive_desc_t pd = NULL;
    double ms = -1, distance;
    memset(&run, 0, sizeof run);
    if (tensors_describe(&t, d, info) == 0 && dnnl.engine_create(&run.engine, dnnl_cpu, 0) == 0 &&
        dnnl.stream_create(&run.stream, run.engine, dnnl_stream_default_flags) == 0 &&
        deconvolution(&pd, run.engine, d, info, &t, blocked ? REF(t.any_x) : REF(t.x),
                      blocked ? REF(t.any_y) : REF(t.y)) == 0 &&
        run_prepare(&run, &t, pd, p) == 0 && (!blocked || run.reorder_x || run.reorder_y)) {
        ms = bench_time_calls(opt, peer_call, &run, repeats);
        distance = ms < 0 ? 0 : bench_distance(d->dtype, p);
        if (distance >= 0.001) {
            fprintf(stderr, "%s, %s: its result is off by %.2g of its size and does not count\n",
                    bench_onednn_version(), blocked ? "blocked" : "plain", distance);
            ms = -1;
        }
    }
    if (pd) dnnl.primitive_desc_destroy(pd);
    run_free(&run);
    tensors_free(&t);
    return ms;
}

int bench_onednn(const options *opt, const convt3d_desc *desc, const convt3d_info *info, const bench_pointers *pointers,
                 bench_time *result)
{
    double plain, blocked;
    int64_t repeats[2] = {0, 0};
    if (types[desc->dtype] == dnnl_data_type_undef) return EXIT_PASS;
#ifdef _OPENMP
    omp_set_num_threads(platform_threads(opt->threads));
#endif
    plain = time_way(opt, desc, info, pointers, 0, &repeats[0]);
    blocked = time_way(opt, desc, info, pointers, 1, &repeats[1]);
    if (plain < 0 && blocked < 0) return EXIT_PASS;
    result->peer_how = blocked < 0 || (plain >= 0 && plain <= blocked) ? "plain" : "blocked";
    result->peer_ms = result->peer_how[0] == 'p' ? plain : blocked;
    result->peer_repeats = repeats[result->peer_how[0] != 'p'];
    return EXIT_PASS;
}
