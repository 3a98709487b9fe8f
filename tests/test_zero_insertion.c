/* Promise: the library computes what textbooks call transposed convolution. A third formulation, independent of
 * the reference (phases) and of the oracle (scatter): insert stride - 1 zeros between the voxels of x, pad by
 * dilation*(kernel-1) - padding, and correlate with the flipped kernel as an ordinary convolution. */
#include "common.h"

typedef struct volume {
    int64_t size[3];
    double *data;
} volume;

/* The zero-inserted, padded input of one channel: as long on each axis as an ordinary correlation wants. */
static void insert_zeros(const oracle_problem *p, int64_t n, int64_t ic, const volume *v)
{
    int64_t i[5], at[3], count = v->size[0] * v->size[1] * v->size[2], j;
    int a;
    for (j = 0; j < count; j++) v->data[j] = 0;
    i[0] = n;
    i[1] = ic;
    for (i[2] = 0; i[2] < p->in[2]; i[2]++)
        for (i[3] = 0; i[3] < p->in[3]; i[3]++)
            for (i[4] = 0; i[4] < p->in[4]; i[4]++) {
                int inside = 1;
                for (a = 0; a < 3; a++) {
                    at[a] = i[2 + a] * p->stride[a] + p->dilation[a] * (p->kernel[a] - 1) - p->padding[a];
                    inside = inside && at[a] >= 0 && at[a] < v->size[a];
                }
                if (inside) v->data[(at[0] * v->size[1] + at[1]) * v->size[2] + at[2]] =
                    oracle_load(p->dtype, p->x, oracle_offset(i, p->x_stride));
            }
}

static double correlate(const oracle_problem *p, const volume *v, const double *w, const int64_t o[5])
{
    const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    int64_t k[3];
    double sum = 0;
    for (k[0] = 0; k[0] < p->kernel[0]; k[0]++)
        for (k[1] = 0; k[1] < p->kernel[1]; k[1]++)
            for (k[2] = 0; k[2] < p->kernel[2]; k[2]++) {
                int64_t row = (o[2] + k[0] * p->dilation[0]) * v->size[1] + o[3] + k[1] * p->dilation[1];
                int64_t tap = (k[0] * p->kernel[1] + k[1]) * p->kernel[2] + k[2];
                sum += v->data[row * v->size[2] + o[4] + k[2] * p->dilation[2]] * w[taps - 1 - tap];
            }
    return sum;
}

/* sums[linear output] += the contribution of one input channel */
static void add_channel(const oracle_problem *p, const volume *v, int64_t n, int64_t ic, double *sums)
{
    const int64_t out_group = p->out[1] / p->groups, group = ic / (p->in[1] / p->groups);
    const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    int64_t o[5], c;
    insert_zeros(p, n, ic, v);
    o[0] = n;
    for (c = 0; c < out_group; c++)
        for (o[1] = group * out_group + c, o[2] = 0; o[2] < p->out[2]; o[2]++)
            for (o[3] = 0; o[3] < p->out[3]; o[3]++)
                for (o[4] = 0; o[4] < p->out[4]; o[4]++)
                    sums[oracle_ravel(p->out, o)] += correlate(p, v, p->w + (ic * out_group + c) * taps, o);
}

static int agrees(const convt3d_desc *desc, uint64_t seed)
{
    common_data c;
    volume v = {{0, 0, 0}, NULL};
    double *sums = NULL;
    int64_t j, n, ic, index[5], differ = 0;
    int a, ok = common_make(&c, desc, 1, seed) && oracle_decode_w(&c.problem, c.io.w) && common_run(&c);
    for (a = 0; a < 3 && ok; a++) v.size[a] = c.problem.out[2 + a] + c.problem.dilation[a] * (c.problem.kernel[a] - 1);
    if (ok) {
        v.data = (double *)malloc((size_t)(v.size[0] * v.size[1] * v.size[2] + 1) * sizeof *v.data);
        sums = (double *)calloc((size_t)c.problem.y_count + 1, sizeof *sums);
    }
    ok = ok && v.data && sums;
    for (n = 0; ok && n < c.problem.in[0]; n++)
        for (ic = 0; ic < c.problem.in[1]; ic++) add_channel(&c.problem, &v, n, ic, sums);
    for (j = 0; ok && j < c.problem.y_count; j++) {
        oracle_unravel(c.problem.out, j, index);
        if (c.io.bias) sums[j] += oracle_load(desc->dtype, c.io.bias, index[1]);
        differ += common_get(&c, j) != oracle_round(desc->dtype, sums[j]);
    }
    free(v.data);
    free(sums);
    free(c.problem.w);
    common_free(&c);
    return ok && differ == 0;
}

int main(void)
{
    int i;
    for (i = 0; i < SHAPES_COUNT; i++) {
        convt3d_desc desc = shapes_table[i].desc;
        desc.dtype = i % 4;
        tap_ok(agrees(&desc, (uint64_t)(5 * i)), "%s %s", shapes_table[i].name, common_dtypes[i % 4]);
    }
    for (i = 0; i < 300; i++) {
        convt3d_desc desc = shapes_random(9000 + (uint64_t)i);
        desc.dtype = i % 4;
        desc.layout = i / 4 % 2;
        if (!agrees(&desc, (uint64_t)i)) break;
    }
    tap_ok(i == 300, "random problems (first failing: %d)", i);
    return tap_done();
}
