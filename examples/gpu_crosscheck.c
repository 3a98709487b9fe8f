/* gpu_crosscheck.c - one problem on the CPU and on the GPU by changing one field, compared element by element.
 *
 *     gpu_crosscheck          prints the worst element, its coordinates, the difference and the bound it must keep
 *
 * The pointers are ordinary host memory both times: convt3d() brings what the GPU needs over and y back.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "convt3d.h"

static float *random_tensor(int64_t count)
{
    float *t = (float *)malloc((size_t)count * sizeof *t);
    for (int64_t i = 0; t && i < count; i++) t[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return t;
}

/* Runs desc on a device into y; 0 after printing why not. */
static int run_on(convt3d_desc desc, int32_t device, const float *x, const float *w, const float *bias, float *y)
{
    convt3d_error error;
    convt3d_io io;
    memset(&io, 0, sizeof io);
    io.x = x;
    io.w = w;
    io.bias = bias;
    io.y = y;
    desc.device = device;                   /* the one field */
    if (convt3d(&desc, &io, &error) == CONVT3D_OK) return 1;
    fprintf(stderr, "%s\n", error.text);
    return 0;
}

/* Both results keep the contract's bound for |x|, |w| <= 1/2, K products and a bias: twice that apart at most. */
static double bound_of(const convt3d_desc *d)
{
    double products = (double)(d->in_channels * d->kernel[0] * d->kernel[1] * d->kernel[2]), sum = products / 4 + 0.5;
    return 2 * ((products + 4) * 2 * ldexp(1, -24) * sum + ldexp(1, -24) * sum);
}

static int compare(const int64_t size[5], const float *cpu, const float *gpu, double bound)
{
    int64_t count = size[0] * size[1] * size[2] * size[3] * size[4], i, worst = 0, at[5], rest;
    for (i = 0; i < count; i++) {
        if (!(fabs((double)cpu[i] - (double)gpu[i]) <= fabs((double)cpu[worst] - (double)gpu[worst]))) worst = i;
    }
    for (i = 4, rest = worst; i >= 0; rest /= size[i--]) at[i] = rest % size[i];
    printf("worst of %lld: y[%lld, %lld, %lld, %lld, %lld] = %.8g on the CPU, %.8g on the GPU, %.2g apart, bound %.2g\n",
           (long long)count, (long long)at[0], (long long)at[1], (long long)at[2], (long long)at[3], (long long)at[4],
           (double)cpu[worst], (double)gpu[worst], fabs((double)cpu[worst] - (double)gpu[worst]), bound);
    return fabs((double)cpu[worst] - (double)gpu[worst]) <= bound;
}

int main(void)
{
    convt3d_desc desc;
    convt3d_error error;
    int64_t size[5], count;
    float *x, *w, *bias, *cpu, *gpu;
    int good = 0;
    memset(&desc, 0, sizeof desc);
    desc.batch = 2;
    desc.in_channels = 32;
    desc.out_channels = 16;
    for (int a = 0; a < 3; a++) {
        desc.in_size[a] = 12 + 4 * a;
        desc.kernel[a] = 3;
        desc.stride[a] = 2;
        desc.padding[a] = desc.output_padding[a] = 1;
    }
    if (convt3d_output_size(&desc, size + 2, &error) != CONVT3D_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 2;
    }
    size[0] = desc.batch;
    size[1] = desc.out_channels;
    count = size[0] * size[1] * size[2] * size[3] * size[4];
    x = random_tensor(desc.batch * desc.in_channels * desc.in_size[0] * desc.in_size[1] * desc.in_size[2]);
    w = random_tensor(desc.in_channels * desc.out_channels * 27);
    bias = random_tensor(desc.out_channels);
    cpu = random_tensor(count);
    gpu = random_tensor(count);
    if (x && w && bias && cpu && gpu && run_on(desc, CONVT3D_DEVICE_CPU, x, w, bias, cpu) &&
        run_on(desc, CONVT3D_DEVICE_CUDA, x, w, bias, gpu))
        good = compare(size, cpu, gpu, bound_of(&desc));
    free(x);
    free(w);
    free(bias);
    free(cpu);
    free(gpu);
    return good ? 0 : 1;
}
