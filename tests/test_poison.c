/* Promise: convt3d_run() reads neither its outputs nor its workspace before it has written them: all are full of NaN,
 * and the workspace is no byte larger than convt3d_workspace_size() says. */
#include "check_backward.h"
#include "common.h"

static int runs_poisoned(const convt3d_desc *d, uint64_t seed)
{
    common_data easy, planned;
    check_buffer workspace;
    convt3d_plan plan;
    convt3d_error error;
    int pass = common_make(&easy, d, 0, seed) & common_make(&planned, d, 0, seed);
    memset(&workspace, 0, sizeof workspace);
    pass = pass && convt3d_plan_init(&plan, d, CONVT3D_FORWARD, &error) == CONVT3D_OK && common_run(&easy);
    pass = pass && check_buffer_make(&workspace, convt3d_workspace_size(&plan), 1, 0xFF);
    if (pass) {
        common_poison(&planned);
        planned.io.workspace = workspace.bytes ? workspace.data : NULL;
        planned.io.workspace_bytes = (int64_t)workspace.bytes;
        pass = convt3d_run(&plan, &planned.io, &error) == CONVT3D_OK && common_same_outputs(&easy, &planned);
        memset(workspace.data, 0xFF, workspace.bytes);
        pass = pass && check_buffer_changed(&workspace, 0xFF) == INT64_MAX;
    }
    free(workspace.memory);
    common_free(&easy);
    common_free(&planned);
    return pass;
}

/* The gradients, after lists of every kind of workspace too: as the easy call's, and within the bounds. */
static int backward_poisoned(const convt3d_desc *d, uint64_t seed)
{
    check_request r;
    check_result result;
    backward_run run;
    check_buffer workspace;
    convt3d_plan plan;
    convt3d_error error;
    convt3d_io io;
    int pass, k;
    memset(&r, 0, sizeof r);
    memset(&workspace, 0, sizeof workspace);
    memset(&result, 0, sizeof result);
    result.pass = 1;
    r.desc = *d;
    r.desc.backward = CONVT3D_BACKWARD;
    r.seed = seed;
    pass = backward_make(&run, &r, &error) == CONVT3D_OK && backward_expect(&run, CHECK_FULL_PRODUCTS);
    pass = pass && convt3d_plan_init(&plan, &r.desc, CONVT3D_BACKWARD, &error) == CONVT3D_OK;
    pass = pass && check_buffer_make(&workspace, convt3d_workspace_size(&plan), 1, 0xFF);
    if (pass) {
        io = run.io;
        for (k = 0; k < run.tensors; k++) *backward_pointer(&io, &run.tensor[k]) = run.tensor[k].buffer.data;
        io.workspace = workspace.bytes ? workspace.data : NULL;
        io.workspace_bytes = (int64_t)workspace.bytes;
        pass = convt3d_run(&plan, &io, &error) == CONVT3D_OK;
        memset(workspace.data, 0xFF, workspace.bytes);
        pass = pass && check_buffer_changed(&workspace, 0xFF) == INT64_MAX;
    }
    if (pass) backward_judge(&run, ~0u, &result);
    if (!pass || !result.pass) common_reproducer_of(&r, " --pass backward", pass ? result.message : error.text);
    free(workspace.memory);
    backward_free(&run);
    return pass && result.pass;
}

static int backward_all_poisoned(const convt3d_desc *d, uint64_t seed)
{
    convt3d_desc listed = *d;
    char why[THEN_TEXT];
    int pass = backward_poisoned(d, seed);
    if (d->batch == 0 || seed % 3) return pass;
    then_parse(seed % 2 ? "silu" : "add,group_norm:1,channel_affine", listed.ops, why);
    return pass & backward_poisoned(&listed, 12 * seed);
}

int main(void)
{
    int i, dtype, gradients = 1;
    for (i = 0; i < SHAPES_COUNT; i++) {
        int pass = 1;
        for (dtype = 0; dtype < 4; dtype++) {
            convt3d_desc d = shapes_table[i].desc;
            d.dtype = dtype;
            d.layout = (i + dtype) % 2;
            pass &= runs_poisoned(&d, (uint64_t)i);
        }
        tap_ok(pass, "%s", shapes_table[i].name);
    }
    for (i = 0; i < SHAPES_COUNT; i++) {
        convt3d_desc d = shapes_table[i].desc;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        gradients &= backward_all_poisoned(&d, (uint64_t)i);
    }
    tap_ok(gradients, "the gradients of all cases");
    return tap_done();
}
