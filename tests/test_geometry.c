/* Promise: output sizes are PyTorch's, output_padding is solved as PyTorch does for output_size, the ONNX helper
 * follows the formulas of ConvTranspose (opset 22), FLOPs are a count of real products, and convt3d_slab() names
 * exactly the inputs that can reach its outputs. */
#include "common.h"

/* One axis, everything else being 1. */
static convt3d_desc axis_problem(int a, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t extra,
                                 int64_t dilation)
{
    convt3d_desc d = common_desc(1, 1, 1, 1, 1, 0);
    d.in_size[a] = in; d.kernel[a] = kernel; d.stride[a] = stride; d.padding[a] = padding;
    d.output_padding[a] = extra; d.dilation[a] = dilation;
    return d;
}

/* Size by walking: the last position that a tap reaches, cropped and extended. */
static int64_t walked_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t extra, int64_t dilation)
{
    int64_t i, k, last = 0;
    for (i = 0; i < in; i++)
        for (k = 0; k < kernel; k++) if (i * stride + k * dilation > last) last = i * stride + k * dilation;
    return last + 1 - padding - padding + extra;
}

typedef struct axis_numbers { int64_t in, kernel, stride, padding, extra, dilation; } axis_numbers;

static axis_numbers axis_draw(uint64_t i)
{
    shapes_random_state r = {31, 0};
    axis_numbers n;
    r.counter = i * 16;
    n.in = shapes_draw(&r, 1, 6);
    n.kernel = shapes_draw(&r, 1, 5);
    n.stride = shapes_draw(&r, 1, 5);
    n.padding = shapes_draw(&r, -2, 6);
    n.dilation = shapes_draw(&r, 1, 5);
    n.extra = shapes_draw(&r, 0, (n.stride > n.dilation ? n.stride : n.dilation) - 1);
    return n;
}

static void test_output_size(void)
{
    uint64_t i;
    int64_t wrong = 0, solved = 0, refused = 0, out[3];
    for (i = 0; i < 20000; i++) {
        axis_numbers n = axis_draw(i);
        int a = (int)(i % 3);
        convt3d_desc d = axis_problem(a, n.in, n.kernel, n.stride, n.padding, n.extra, n.dilation);
        int64_t size = walked_size(n.in, n.kernel, n.stride, n.padding, n.extra, n.dilation);
        convt3d_status s = convt3d_output_size(&d, out, NULL);
        wrong += size < 1 ? s != CONVT3D_OUTPUT_EMPTY : s != CONVT3D_OK || out[a] != size || out[(a + 1) % 3] != 1;
        if (size < 1) continue;
        d.output_padding[a] = 0;
        solved += convt3d_solve_output_padding(&d, out, NULL) != CONVT3D_OK || d.output_padding[a] != n.extra;
        out[a] = size - n.extra + (n.stride > n.dilation ? n.stride : n.dilation);
        d.output_padding[a] = n.extra;
        refused += convt3d_solve_output_padding(&d, out, NULL) != CONVT3D_OUTPUT_SIZE_UNREACHABLE
                 || d.output_padding[a] != n.extra;
    }
    tap_ok(wrong == 0, "output sizes equal PyTorch's formula");
    tap_ok(solved == 0, "output_padding solved for a wanted size");
    tap_ok(refused == 0, "an unreachable size is refused and the desc left as it was");
}

/* ---- ONNX ---- */

typedef struct onnx_axis { int64_t low, size; } onnx_axis;

/* Formulas of the operator's page, opset 22, on one axis. */
static onnx_axis onnx_formula(const axis_numbers *n, int auto_pad, int has_shape, int64_t shape, int64_t begin,
                              int64_t end)
{
    int64_t full = n->stride * (n->in - 1) + n->extra + ((n->kernel - 1) * n->dilation + 1), total;
    onnx_axis r;
    r.low = begin;
    r.size = full - begin - end;
    if (!has_shape && (auto_pad == CONVT3D_ONNX_NOTSET || auto_pad == CONVT3D_ONNX_VALID)) return r;
    r.size = has_shape ? shape : n->in * n->stride;
    total = full - r.size;
    if (total < 0) total = 0;                       /* as onnxruntime: the far end is bias */
    r.low = auto_pad == CONVT3D_ONNX_SAME_UPPER ? total / 2 : total - total / 2;
    return r;
}

static void test_onnx_random(void)
{
    static const char *const names[4] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    uint64_t i;
    int auto_pad, has_shape;
    for (auto_pad = 0; auto_pad < 4; auto_pad++)
        for (has_shape = 0; has_shape < 2; has_shape++) {
            int64_t wrong = 0;
            for (i = 0; i < 5000; i++) {
                axis_numbers n = axis_draw(i);
                int a = (int)(i % 3);
                convt3d_desc d = axis_problem(a, n.in, n.kernel, n.stride, 0, n.extra, n.dilation);
                convt3d_onnx onnx;
                onnx_axis want;
                convt3d_status s;
                memset(&onnx, 0, sizeof onnx);
                onnx.auto_pad = auto_pad;
                onnx.has_output_shape = has_shape;
                onnx.output_shape[0] = onnx.output_shape[1] = onnx.output_shape[2] = 1;
                onnx.output_shape[a] = 1 + (int64_t)(oracle_hash(5, i) % 30);
                if (auto_pad == CONVT3D_ONNX_NOTSET) { onnx.pads[a] = n.padding; onnx.pads[3 + a] = n.padding / 2; }
                want = onnx_formula(&n, auto_pad, has_shape, onnx.output_shape[a], onnx.pads[a], onnx.pads[3 + a]);
                s = convt3d_from_onnx(&d, &onnx, NULL);
                if (want.size < 1) { wrong += s != CONVT3D_OUTPUT_EMPTY; continue; }
                wrong += s != CONVT3D_OK || d.padding[a] != want.low || d.out_size[a] != want.size
                       || d.fixed_out_size != 1 || d.output_padding[a] != 0 || d.out_size[(a + 1) % 3] != 1;
            }
            tap_ok(wrong == 0, "ONNX auto_pad %s%s", names[auto_pad], has_shape ? " with output_shape" : "");
        }
}

/* Odd splits, written out by hand: kernel 4, stride 1, so a total padding of 3. */
static void test_onnx_odd(void)
{
    convt3d_desc upper = axis_problem(2, 5, 4, 1, 0, 0, 1), lower = upper;
    convt3d_onnx onnx;
    memset(&onnx, 0, sizeof onnx);
    onnx.auto_pad = CONVT3D_ONNX_SAME_UPPER;
    convt3d_from_onnx(&upper, &onnx, NULL);
    onnx.auto_pad = CONVT3D_ONNX_SAME_LOWER;
    convt3d_from_onnx(&lower, &onnx, NULL);
    tap_ok(upper.out_size[2] == 5 && upper.padding[2] == 1, "SAME_UPPER puts the odd one at the end");
    tap_ok(lower.out_size[2] == 5 && lower.padding[2] == 2, "SAME_LOWER puts the odd one at the beginning");
}

/* ---- FLOPs and slabs ---- */

static double axis_pairs(const oracle_problem *p, int a)
{
    double pairs = 0;
    int64_t i, k, o;
    for (i = 0; i < p->in[2 + a]; i++)
        for (k = 0; k < p->kernel[a]; k++) {
            o = i * p->stride[a] - p->padding[a] + k * p->dilation[a];
            pairs += o >= 0 && o < p->out[2 + a];
        }
    return pairs;
}

static int flops_counted(const convt3d_desc *d)
{
    oracle_problem p;
    convt3d_plan plan;
    convt3d_info info;
    double flops;
    int a;
    if (!oracle_init(&p, d) || convt3d_plan_init(&plan, d, CONVT3D_FORWARD, NULL) != CONVT3D_OK) return 0;
    flops = 2.0 * (double)d->batch * (double)d->in_channels * (double)(d->out_channels / p.groups);
    for (a = 0; a < 3; a++) flops *= axis_pairs(&p, a);
    return convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK && info.flops == flops;
}

/* The inputs of a slab are exactly those between the first and the last that can reach it. */
static int slab_range(const convt3d_desc *d, int a, int64_t begin, int64_t end)
{
    oracle_problem p;
    convt3d_desc sub;
    int64_t from, to, i, first = -1, last = -1, reach;
    if (!oracle_init(&p, d) || convt3d_slab(d, a, begin, end, &sub, &from, &to, NULL) != CONVT3D_OK) return 0;
    for (i = 0; i < p.in[2 + a] && begin < end; i++) {
        int64_t low = i * p.stride[a] - p.padding[a];
        reach = low + (p.kernel[a] - 1) * p.dilation[a];
        if (low >= end || reach < begin) continue;
        if (first < 0) first = i;
        last = i;
    }
    if (sub.out_size[a] != end - begin || sub.in_size[a] != to - from || !sub.fixed_out_size) return 0;
    return first < 0 ? from == to : from == first && to == last + 1;
}

static void test_counts(void)
{
    int i, a, flops = 1, slabs = 1;
    for (i = 0; i < SHAPES_COUNT + 2000; i++) {
        convt3d_desc d = i < SHAPES_COUNT ? shapes_table[i].desc : shapes_random((uint64_t)i);
        int64_t out[3];
        flops &= flops_counted(&d);
        if (convt3d_output_size(&d, out, NULL) != CONVT3D_OK) { slabs = 0; continue; }
        for (a = 0; a < 3; a++) {
            int64_t begin = (int64_t)(oracle_hash(8, (uint64_t)i) % (uint64_t)(out[a] + 1));
            int64_t end = begin + (int64_t)(oracle_hash(9, (uint64_t)i) % (uint64_t)(out[a] - begin + 1));
            slabs &= slab_range(&d, a, begin, end) & slab_range(&d, a, 0, out[a]) & slab_range(&d, a, begin, begin);
        }
    }
    tap_ok(flops, "plan_info's flops equal a count of the products");
    tap_ok(slabs, "slabs name exactly the inputs that reach them");
}

int main(void)
{
    test_output_size();
    test_onnx_random();
    test_onnx_odd();
    test_counts();
    return tap_done();
}
