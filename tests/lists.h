/* lists.h - what follows the convolution, for the tests of both passes: small problems of every class, the table of
 * lists, and a seeded generator of entries. */
#ifndef CONVT3D_TESTS_LISTS_H
#define CONVT3D_TESTS_LISTS_H

#include "common.h"

enum { LISTS_SHAPES = 7 };

/* Small problems of every class: stride 1, phases, kernel == stride, empty phases, groups, depth-wise, a view. */
static inline convt3d_desc lists_shape(int i)
{
    convt3d_desc d = common_desc(8, 12, 5, 3, 1, 1);
    if (i == 1) { d = common_desc(4, 8, 5, 3, 2, 1);  d.batch = 2;  d.output_padding[2] = 1; }
    if (i == 2) { d = common_desc(16, 16, 4, 2, 2, 0);  d.in_size[2] = 9; }
    if (i == 3) { d = common_desc(3, 4, 4, 2, 4, -1);  d.dilation[0] = 2; }
    if (i == 4) { d = common_desc(8, 8, 4, 3, 2, 1);  d.groups = 4;  d.batch = 3; }
    if (i == 5) { d = common_desc(4, 4, 6, 3, 2, 1);  d.groups = 4;  d.in_size[2] = 40; }
    if (i == 6) {                                       /* y is a slice of 20 channels, the residual one of 12 */
        static const int64_t y[5] = {20 * 640, 640, 80, 10, 1}, r[5] = {12 * 512, 512, 64, 8, 1};
        d = common_desc(4, 8, 4, 2, 2, 0);
        d.batch = 2;
        memcpy(d.y_stride, y, sizeof y);
        memcpy(d.ops[0].stride, r, sizeof r);           /* where the list begins with a residual */
    }
    return d;
}

static const char *const lists_table[] = {
    "affine:0.5:-2", "channel_affine", "add", "multiply", "clamp:-0.25:0.5", "relu", "relu6", "leaky_relu:0.01",
    "leaky_relu:-2", "silu", "sigmoid", "tanh", "gelu", "gelu_tanh", "hardswish", "hardsigmoid", "elu:0.75",
    "softplus:1:20", "softplus:2:0.5", "mish", "group_norm:1", "group_norm:4", "batch_norm", "group_norm:2:0.5",
    "relu,group_norm:4", "group_norm:4,relu", "channel_affine,relu", "channel_affine,add,relu",
    "add,group_norm:2,multiply,silu", "group_norm:1,group_norm:4,add",
    "batch_norm,add,relu,group_norm:2,gelu,sigmoid", "clamp:1:-1",
    "relu,affine:2,add,leaky_relu:0.1,multiply,tanh,elu,mish"
};

enum { LISTS_COUNT = (int)(sizeof lists_table / sizeof lists_table[0]) };

static inline convt3d_op lists_random_entry(shapes_random_state *r, const convt3d_desc *d)
{
    convt3d_op op;
    memset(&op, 0, sizeof op);
    op.kind = (int32_t)shapes_draw(r, 1, CONVT3D_OP_COUNT - 1);
    if (convt3d_op_uses(op.kind) & CONVT3D_USES_A) op.a = (double)shapes_draw(r, 1, 8) / 4;
    if (convt3d_op_uses(op.kind) & CONVT3D_USES_B) op.b = (double)shapes_draw(r, 1, 8) / 8;
    if (op.kind == CONVT3D_OP_CLAMP) op.a = -op.a;
    if (op.kind == CONVT3D_OP_GROUP_NORM)
        do op.groups = (int32_t)shapes_draw(r, 1, d->out_channels); while (d->out_channels % op.groups);
    if (op.kind == CONVT3D_OP_BATCH_NORM && d->batch * shapes_out_size(d, 0) * shapes_out_size(d, 1) *
        shapes_out_size(d, 2) == 1) op.kind = CONVT3D_OP_SILU, op.a = op.b = 0;
    return op;
}

#endif
