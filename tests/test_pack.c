/* Promise: weights packed once give the bits of the unpacked call, for any batch and input size of the same plan
 * family; the tag refuses the pack of another kernel, geometry or type. */
#include "check_backward.h"
#include "common.h"

typedef struct packed_weights {
    void *data;
    uint64_t tag;
} packed_weights;

static packed_weights pack(const convt3d_plan *plan, const void *w)
{
    packed_weights p = {NULL, 0};
    int64_t bytes = convt3d_packed_size(plan);
    p.data = bytes < 0 ? NULL : malloc((size_t)bytes + 1);
    if (!p.data) return p;
    ((unsigned char *)p.data)[bytes] = CHECK_SENTINEL;
    if (convt3d_pack_weights(plan, w, p.data, &p.tag, NULL, NULL) != CONVT3D_OK
        || ((unsigned char *)p.data)[bytes] != CHECK_SENTINEL) {
        free(p.data);
        p.data = NULL;
    }
    return p;
}

static int run_packed(common_data *c, const convt3d_plan *plan, const packed_weights *p)
{
    convt3d_io io = c->io;
    convt3d_status status;
    io.w = NULL;
    io.w_packed = p->data;
    io.pack_tag = p->tag;
    io.workspace_bytes = convt3d_workspace_size(plan);
    io.workspace = malloc((size_t)io.workspace_bytes + 64);
    common_poison(c);
    status = convt3d_run(plan, &io, NULL);
    free(io.workspace);
    return status == CONVT3D_OK;
}

static int packed_equals_plain(const convt3d_desc *d, uint64_t seed)
{
    common_data plain, packed;
    convt3d_plan plan;
    packed_weights p = {NULL, 0};
    int pass = common_make(&plain, d, 0, seed) & common_make(&packed, d, 0, seed);
    pass = pass && common_run(&plain) && convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) == CONVT3D_OK;
    if (pass) p = pack(&plan, plain.io.w);
    pass = pass && p.data && run_packed(&packed, &plan, &p) && common_same_outputs(&plain, &packed);
    if (pass) {
        packed.io.w = NULL;             /* the easy call takes a pack too */
        packed.io.w_packed = p.data;
        packed.io.pack_tag = p.tag;
        pass = common_run(&packed) && common_same_outputs(&plain, &packed);
    }
    free(p.data);
    common_free(&plain);
    common_free(&packed);
    return pass;
}

/* dx from packed weights has the bits of dx from w, by convt3d_run() and by the easy call. */
static int backward_packed(const convt3d_desc *d, const char *kernel, uint64_t seed)
{
    check_request r;
    backward_run plain, packed;
    convt3d_plan plan;
    convt3d_error error;
    convt3d_io io;
    packed_weights p = {NULL, 0};
    int pass = 1, easy;
    memset(&r, 0, sizeof r);
    r.desc = *d;
    r.seed = seed;
    snprintf(r.desc.force, sizeof r.desc.force, "%s", kernel);
    if (convt3d_plan_init(&plan, &r.desc, CONVT3D_BACKWARD_X, &error) == CONVT3D_REFUSED) return 1;
    pass = backward_make(&plain, &r, &error) == CONVT3D_OK && backward_call(&plain, 1, NULL, &error) == CONVT3D_OK;
    pass = backward_make(&packed, &r, &error) == CONVT3D_OK && pass;
    if (pass) p = pack(&plan, packed.io.w);
    for (easy = 0; easy < 2 && pass && p.data; easy++) {
        backward_pose(&packed);
        io = packed.io;
        io.w = NULL;
        io.w_packed = p.data;
        io.pack_tag = p.tag;
        io.dx = packed.tensor[BACKWARD_DX].buffer.data;
        pass = (easy ? convt3d_backward(&r.desc, &io, &error) : common_run_plan(&plan, &io, &error)) == CONVT3D_OK &&
               !memcmp(io.dx, plain.tensor[BACKWARD_DX].buffer.data, plain.tensor[BACKWARD_DX].buffer.bytes);
    }
    pass = pass && p.data;
    free(p.data);
    backward_free(&plain);
    backward_free(&packed);
    return pass;
}

/* Kernels of one name in both passes: where what they make of w differs, so do the tags. */
static int tags_apart(const convt3d_desc *from, const char *kernel)
{
    convt3d_desc d = *from;
    convt3d_plan plan[2];
    packed_weights p[2] = {{NULL, 0}, {NULL, 0}};
    float w[4096];
    int i, pass = 1;
    int64_t bytes[2];
    for (i = 0; i < 4096; i++) w[i] = (float)i;
    snprintf(d.force, sizeof d.force, "%s", kernel);
    for (i = 0; i < 2; i++) {
        if (convt3d_plan_init(&plan[i], &d, i, NULL) != CONVT3D_OK) break;
        bytes[i] = convt3d_packed_size(&plan[i]);
        p[i] = pack(&plan[i], w);
    }
    if (p[0].data && p[1].data)
        pass = p[0].tag != p[1].tag || (bytes[0] == bytes[1] && !memcmp(p[0].data, p[1].data, (size_t)bytes[0]));
    free(p[0].data);
    free(p[1].data);
    return pass;
}

static void test_backward(void)
{
    const char *kernel;
    int k, i;
    for (k = 0; (kernel = convt3d_kernel_name(CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_X, k)) != NULL; k++) {
        int same = 1, apart = 1;
        for (i = 0; i < SHAPES_COUNT; i++) {
            convt3d_desc d = shapes_table[i].desc;
            d.dtype = i % 4;
            d.layout = i / 4 % 2;
            same &= backward_packed(&d, kernel, (uint64_t)i);
        }
        for (i = 0; i < 4; i++) {
            convt3d_desc d = common_desc(8, 8, 5, 2 + i % 2, 1 + i / 2, 1);
            apart &= tags_apart(&d, kernel);
        }
        tap_ok(same, "%s (dx): packed weights give the same bits", kernel);
        tap_ok(apart, "%s (dx): its tag is not that of another layout of the forward pass", kernel);
    }
}

static uint64_t tag_of(const convt3d_desc *d)
{
    convt3d_plan plan;
    packed_weights p;
    uint64_t tag = 0;
    void *w = calloc(4096, 8);
    if (w && convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) == CONVT3D_OK) {
        p = pack(&plan, w);
        tag = p.tag;
        free(p.data);
    }
    free(w);
    return tag;
}

static convt3d_desc changed(int what)
{
    convt3d_desc d = common_desc(4, 4, 5, 3, 2, 1);
    if (what == 1) d.kernel[1] = 2;
    if (what == 2) d.stride[2] = 1;
    if (what == 3) d.dilation[0] = 2;
    if (what == 4) d.groups = 2;
    if (what == 5) d.in_channels = 8;
    if (what == 6) d.out_channels = 8;
    if (what == 7) d.dtype = CONVT3D_F64;
    if (what == 8) d.batch = 3;
    if (what == 9) d.in_size[1] = 9;
    return d;
}

static void test_tags(void)
{
    static const char *const names[10] = {"nothing", "kernel", "stride", "dilation", "groups", "in_channels",
                                          "out_channels", "dtype", "batch", "in_size"};
    convt3d_desc d = changed(0);
    uint64_t tag = tag_of(&d);
    int what;
    tap_ok(tag != 0, "a tag is not 0");
    for (what = 0; what < 10; what++) {
        d = changed(what);
        if (what == 0 || what >= 8) tap_ok(tag_of(&d) == tag, "the tag stays when %s changes", names[what]);
        else tap_ok(tag_of(&d) != tag && tag_of(&d) != 0, "the tag changes with %s", names[what]);
    }
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
            pass &= packed_equals_plain(&d, (uint64_t)i);
        }
        tap_ok(pass, "%s", shapes_table[i].name);
    }
    test_tags();
    test_backward();
    return tap_done();
}
