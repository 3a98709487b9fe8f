/* Promise: memory comes from CONVT3D_MALLOC with io.alloc_context only; when the N-th allocation fails, for any N,
 * the call says OUT_OF_MEMORY and has written nothing; nothing leaks; the reference and convt3d_run() allocate
 * nothing at all. This file has its own private copy of the library; it is linked with cpu/convt3d_cpu.c, whose kernels
 * want workspace. */
#include <stddef.h>
#include <stdlib.h>

typedef struct allocations {
    long made, alive, fail_at;          /* fail_at: number of the allocation that fails; 0: none */
} allocations;

static void *count_malloc(void *context, size_t bytes)
{
    allocations *c = (allocations *)context;
    void *p = c && ++c->made != c->fail_at ? malloc(bytes) : NULL;
    if (p) c->alive++;
    return p;
}

static void count_free(void *context, void *p)
{
    if (p) ((allocations *)context)->alive--;
    free(p);
}

#define CONVT3D_MALLOC(context, bytes) count_malloc(context, bytes)
#define CONVT3D_FREE(context, pointer) count_free(context, pointer)
#define CONVT3D_STATIC
#define CONVT3D_IMPLEMENTATION
#ifndef CONVT3D_CPU_FAST
#  define CONVT3D_CPU_FAST
#endif
#include "../convt3d.h"
#include "check_backward.h"
#include "common.h"

static int untouched(const common_data *c)
{
    int64_t i, index[5] = {0, 0, 0, 0, 0};
    for (i = 0; i < c->problem.y_count; i++, oracle_step(c->problem.out, index))
        if (!check_is_poison(c->y.data, oracle_offset(index, c->problem.y_stride), c->desc.dtype, c->size)) return 0;
    return 1;
}

/* Fails allocation 1, 2, ... until the call needs no more of them. Returns how many it makes, or -1. */
static long survives_failures(const convt3d_desc *d)
{
    allocations c = {0, 0, 0};
    common_data data;
    convt3d_error error;
    convt3d_status status = CONVT3D_OUT_OF_MEMORY;
    long n, made = -1;
    if (!common_make(&data, d, 1, 1)) return -1;
    data.io.alloc_context = &c;
    for (n = 1; n < 1000 && status == CONVT3D_OUT_OF_MEMORY; n++) {
        c.made = 0;
        c.fail_at = n;
        common_poison(&data);
        status = convt3d(d, &data.io, &error);
        if (c.alive != 0) break;
        if (status == CONVT3D_OUT_OF_MEMORY && (!untouched(&data) || !error.text[0])) break;
        made = n - 1;
    }
    common_free(&data);
    return status == CONVT3D_OK && c.alive == 0 ? made : -1;
}

static int run_allocates_nothing(const convt3d_desc *d)
{
    allocations c = {0, 0, 0};
    common_data data;
    convt3d_plan plan;
    void *workspace = NULL;
    int pass = common_make(&data, d, 1, 1) && convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
    if (pass) {
        data.io.alloc_context = &c;
        data.io.workspace_bytes = convt3d_workspace_size(&plan);
        data.io.workspace = workspace = malloc((size_t)data.io.workspace_bytes + 64);
        pass = convt3d_run(&plan, &data.io, NULL) == CONVT3D_OK && c.made == 0;
    }
    free(workspace);
    common_free(&data);
    return pass;
}

/* The gradients of a problem, with a list: what it kept does not matter here. */
static void make_backward(backward_run *run, const convt3d_desc *d, allocations *c)
{
    check_request r;
    convt3d_error error;
    memset(&r, 0, sizeof r);
    r.desc = *d;
    r.desc.backward = CONVT3D_BACKWARD;
    backward_make(run, &r, &error);
    run->io.alloc_context = c;
}

static int backward_untouched(backward_run *run)
{
    check_result result;
    int k;
    memset(&result, 0, sizeof result);
    result.pass = 1;
    for (k = 0; k < run->tensors; k++) backward_writes(run, &run->tensor[k], 0, &result);
    backward_pose(run);
    return result.pass;
}

/* The same of convt3d_backward(). */
static long backward_survives_failures(const convt3d_desc *d)
{
    allocations c = {0, 0, 0};
    backward_run run;
    convt3d_error error;
    convt3d_status status = CONVT3D_OUT_OF_MEMORY;
    long n, made = -1;
    make_backward(&run, d, &c);
    for (n = 1; n < 1000 && status == CONVT3D_OUT_OF_MEMORY; n++) {
        c.made = 0;
        c.fail_at = n;
        status = backward_call(&run, ~0u, NULL, &error);
        if (c.alive != 0) break;
        if (status == CONVT3D_OUT_OF_MEMORY && (!backward_untouched(&run) || !error.text[0])) break;
        made = n - 1;
    }
    backward_free(&run);
    return status == CONVT3D_OK && c.alive == 0 ? made : -1;
}

static int backward_allocates_nothing(const convt3d_desc *d)
{
    allocations c = {0, 0, 0};
    backward_run run;
    convt3d_plan plan;
    convt3d_io io;
    int pass, k;
    make_backward(&run, d, &c);
    pass = convt3d_plan_init(&plan, &run.request.desc, CONVT3D_BACKWARD, NULL) == CONVT3D_OK;
    io = run.io;
    for (k = 0; k < run.tensors; k++) *backward_pointer(&io, &run.tensor[k]) = run.tensor[k].buffer.data;
    if (pass) {
        io.workspace_bytes = convt3d_workspace_size(&plan);
        io.workspace = malloc((size_t)io.workspace_bytes + 64);
        pass = convt3d_run(&plan, &io, NULL) == CONVT3D_OK && c.made == 0;
        free(io.workspace);
    }
    backward_free(&run);
    return pass;
}

static void test_backward(void)
{
    int i, pass = 1, nothing = 1, reference = 1;
    long failed = 0;
    for (i = 0; i < SHAPES_COUNT; i++) {
        convt3d_desc d = shapes_table[i].desc;
        long made;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        memcpy(d.force, "reference", sizeof "reference");
        reference &= backward_survives_failures(&d) == 0;
        d.force[0] = 0;
        if (i % 2) d.ops[0].kind = CONVT3D_OP_SILU;
        if (i % 4 == 3) d.ops[1].kind = CONVT3D_OP_GROUP_NORM, d.ops[1].groups = 1;
        made = backward_survives_failures(&d);
        pass &= made >= 0;
        failed += made > 0 ? made : 0;
        nothing &= backward_allocates_nothing(&d);
    }
    tap_ok(pass && failed > 20, "backward: a failing allocation writes no gradient and leaks nothing: %ld of them",
           failed);
    tap_ok(nothing, "backward: convt3d_run allocates nothing");
    tap_ok(reference, "backward: the reference needs no memory where no list follows");
}

int main(void)
{
    int i, dtype, pass = 1, nothing = 1, reference = 1;
    long failed = 0;
    for (i = 0; i < SHAPES_COUNT; i++)
        for (dtype = 0; dtype < 4; dtype++) {
            convt3d_desc d = shapes_table[i].desc;
            long made;
            d.dtype = dtype;
            made = survives_failures(&d);
            pass &= made >= 0;
            failed += made > 0 ? made : 0;
            nothing &= run_allocates_nothing(&d);
            memcpy(d.force, "reference", sizeof "reference");
            reference &= survives_failures(&d) == 0;
        }
    tap_ok(pass && failed > 100, "a failing allocation gives OUT_OF_MEMORY, writes nothing and leaks nothing: %ld of them",
           failed);
    tap_ok(nothing, "convt3d_run allocates nothing");
    tap_ok(reference, "the reference needs no memory");
    test_backward();
    return tap_done();
}
