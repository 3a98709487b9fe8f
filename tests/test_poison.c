/* Promise: convt3d_run() reads neither y nor its workspace before it has written them: both are full of NaN, and the
 * workspace is no byte larger than convt3d_workspace_size() says. */
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

int main(void)
{
    int i, dtype;
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
    return tap_done();
}
