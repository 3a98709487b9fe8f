// cuda_dgrad, cuda_wgrad: the backward pass by plain multiply-adds, for few channels a group; depth-wise above all.
//
// Idea      dx: a thread has NI input channels at TH neighbouring rows; it reads each dy that these need once for all
//           of its channels, with weights from shared memory. dw: a thread goes through positions of x with NH x NW
//           taps of one pair of channels in registers; blocks share out pairs, taps and parts of the positions, whose
//           sums are merged in order, in double. A block's threads are `lanes` neighbouring channels by 256/lanes
//           positions: one lane where voxels lie side by side (NCDHW), up to 32 where channels do. Neighbouring taps
//           and rows meet in the first-level cache. Nothing is padded: what lies outside is not multiplied.
// Requires  dx: the weights of NI channels in 96 KB; it is not added to. dw: at most 8 pairs of channels a group.
//           Both: 32-bit distances within a sample's channel.
// Measured  one H200, NCDHW, f32: depthwise_64_k3 dx 0.67 ms, dw and dbias 1.28; mednext_64_k7 0.41 and 0.77;
//           gan_64_1_32 dx 0.65; kb_l1_73 dx 1.18.
// CONVT3D_CUDA_PART 14.
#pragma once

#include "merge.cuh"

CONVT3D__DECLARE_KERNEL(direct_dx)
CONVT3D__DECLARE_KERNEL(direct_dw)

#if CONVT3D__PART(14)

namespace convt3d_cuda {

enum { DIRECT_SHARED = 96 * 1024 };

// One axis as the backward pass sees it: input i, tap k meet output i*stride - padding + k*dilation.
struct DirectAxis { int in, out, kernel, stride, padding, dilation; };

struct DirectProblem {
    const void *x, *w, *dy;
    void *dx;
    double *partial;                        // dw: [part][element of w]
    DirectAxis axis[3];
    int64_t x_stride[5], y_stride[5], part; // x: of x or dx; positions of a part
    int64_t positions;                      // threads' work for one unit: samples x rows of a thread x w
    int in_group, out_group, taps, lanes, units, unit_tiles, blocks_group;
    int h_slices, w_slices;                 // dw: blocks of taps
    int64_t count;                          // of w
    Divisor by_d, by_h, by_w;               // of positions
};

// ---- dx ----

// What a thread computes: its unit (NI channels of a group) and the first of its TH rows.
struct DirectPlace {
    int unit, n, d, h, w;
    bool real;
    __device__ __forceinline__ DirectPlace(const DirectProblem &p, int rows)
    {
        const int64_t block = blockIdx.x / p.unit_tiles;
        const int lane = threadIdx.x % p.lanes;
        unit = (int)(blockIdx.x % p.unit_tiles) * p.lanes + lane;
        const int64_t position = block * (SPLIT_THREADS / p.lanes) + threadIdx.x / p.lanes;
        real = unit < p.units && position < p.positions;
        uint32_t rd, rh, rw;
        n = (int)divide(divide(divide((uint32_t)(real ? position : 0), p.by_w, &rw), p.by_h, &rh), p.by_d, &rd);
        d = (int)rd;  h = (int)rh * rows;  w = (int)rw;
    }
};

// The weights of the block's units: [oc][tap][lane][NI].
template <class T, int NI, class A>
__device__ __forceinline__ void direct_weights(const DirectProblem &p, A *shared)
{
    const int first = (int)(blockIdx.x % p.unit_tiles) * p.lanes, row = p.out_group * p.taps;
    for (int i = threadIdx.x; i < p.lanes * NI * row; i += SPLIT_THREADS) {
        int c = i / row % NI, lane = i / row / NI, unit = first + lane, ic = unit % p.blocks_group * NI + c;
        A v = 0;
        if (unit < p.units && ic < p.in_group)
            v = Number<T>::widen(
                ((const T *)p.w)[((int64_t)(unit / p.blocks_group) * p.in_group + ic) * row + i % row]);
        shared[((int64_t)(i % row) * p.lanes + lane) * NI + c] = v;
    }
    __syncthreads();
}

// Adds what one output channel of the group gives. dy: of its sample and channel.
template <class T, int NI, int TH, class A>
__device__ __forceinline__ void direct_add(const DirectProblem &p, const DirectPlace &at, const T *dy, const A *weights,
                                           A (&sum)[TH][NI])
{
    const DirectAxis &ad = p.axis[0], &ah = p.axis[1], &aw = p.axis[2];
    const int step = p.lanes * NI, first = at.w * aw.stride - aw.padding, along = (int)p.y_stride[4];
    for (int kd = 0; kd < ad.kernel; kd++) {
        const int od = at.d * ad.stride - ad.padding + kd * ad.dilation;
        if (od < 0 || od >= ad.out) continue;
        for (int kh = 0; kh < ah.kernel; kh++) {
            const T *row[TH];
            bool inside[TH];
#pragma unroll
            for (int t = 0; t < TH; t++) {
                int oh = (at.h + t) * ah.stride - ah.padding + kh * ah.dilation;
                inside[t] = oh >= 0 && oh < ah.out;
                row[t] = dy + (od * (int)p.y_stride[2] + oh * (int)p.y_stride[3]);
            }
            const A *w = weights + (kd * ah.kernel + kh) * aw.kernel * step;
#pragma unroll 4
            for (int kw = 0; kw < aw.kernel; kw++) {
                const int ow = first + kw * aw.dilation;
                if (ow < 0 || ow >= aw.out) continue;
#pragma unroll
                for (int t = 0; t < TH; t++) {
                    if (!inside[t]) continue;
                    const A v = Number<T>::widen(row[t][ow * along]);
#pragma unroll
                    for (int c = 0; c < NI; c++) sum[t][c] += v * w[kw * step + c];
                }
            }
        }
    }
}

template <class T, int NI, int TH>
__global__ void __launch_bounds__(SPLIT_THREADS) direct_dx_kernel(const __grid_constant__ DirectProblem p)
{
    typedef typename Number<T>::Accumulator A;
    extern __shared__ __align__(16) unsigned char direct_shared[];
    A *weights = (A *)direct_shared;
    direct_weights<T, NI>(p, weights);
    const DirectPlace at(p, TH);
    if (!at.real) return;
    const int g = at.unit / p.blocks_group, ic = at.unit % p.blocks_group * NI;
    A sum[TH][NI] = {};
    const T *dy = (const T *)p.dy + at.n * p.y_stride[0] + (int64_t)g * p.out_group * p.y_stride[1];
    for (int oc = 0; oc < p.out_group; oc++)
        direct_add<T, NI, TH>(p, at, dy + oc * p.y_stride[1],
                              weights + (oc * p.taps * p.lanes + threadIdx.x % p.lanes) * NI, sum);
    T *dx = (T *)p.dx + at.n * p.x_stride[0] + ((int64_t)g * p.in_group + ic) * p.x_stride[1] + at.d * p.x_stride[2] +
            at.h * p.x_stride[3] + at.w * p.x_stride[4];
#pragma unroll
    for (int t = 0; t < TH; t++)
#pragma unroll
        for (int c = 0; c < NI; c++)
            if (at.h + t < p.axis[1].in && ic + c < p.in_group)
                dx[t * p.x_stride[3] + c * p.x_stride[1]] = Number<T>::round(sum[t][c]);
}

// ---- dw ----

// The sum over a block's threads of one lane, in lane's first thread.
template <class A> __device__ __forceinline__ A direct_reduce(A value, int lanes)
{
    __shared__ A shared[SPLIT_THREADS];
    if (lanes == 1) {
#pragma unroll
        for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
    }
    shared[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < 32)
#pragma unroll
        for (int i = 1; i < SPLIT_THREADS / 32; i++) value += shared[threadIdx.x + 32 * i];
    __syncthreads();
    return value;
}

template <class T, int NH, int NW>
__global__ void __launch_bounds__(SPLIT_THREADS) direct_dw_kernel(const __grid_constant__ DirectProblem p)
{
    typedef typename Number<T>::Accumulator A;
    const DirectAxis &ad = p.axis[0], &ah = p.axis[1], &aw = p.axis[2];
    int64_t block = blockIdx.x;
    const int unit = (int)(block % p.unit_tiles) * p.lanes + threadIdx.x % p.lanes;
    block /= p.unit_tiles;
    const int kw = (int)(block % p.w_slices) * NW, kh = (int)(block / p.w_slices % p.h_slices) * NH;
    block /= p.w_slices * p.h_slices;
    const int kd = (int)(block % ad.kernel), part = (int)(block / ad.kernel);
    const int ic = unit / p.out_group, oc = unit % p.out_group;
    const T *x = (const T *)p.x + ic * p.x_stride[1];
    const T *dy = (const T *)p.dy + ((int64_t)(ic / p.in_group) * p.out_group + oc) * p.y_stride[1];
    const int64_t end = min(p.positions, (part + 1) * p.part);
    A sum[NH][NW] = {};
    for (int64_t i = part * p.part + threadIdx.x / p.lanes; unit < p.units && i < end; i += SPLIT_THREADS / p.lanes) {
        uint32_t d, h, w, n = divide(divide(divide((uint32_t)i, p.by_w, &w), p.by_h, &h), p.by_d, &d);
        const int od = (int)d * ad.stride - ad.padding + kd * ad.dilation;
        const int oh = (int)h * ah.stride - ah.padding + kh * ah.dilation;
        const int ow = (int)w * aw.stride - aw.padding + kw * aw.dilation;
        if (od < 0 || od >= ad.out) continue;
        const A v = Number<T>::widen(x[n * p.x_stride[0] + ((int)d * (int)p.x_stride[2] + (int)h * (int)p.x_stride[3] +
                                                            (int)w * (int)p.x_stride[4])]);
        const T *from = dy + n * p.y_stride[0] + od * (int)p.y_stride[2];
#pragma unroll
        for (int b = 0; b < NH; b++) {
            const int row = oh + b * ah.dilation;
            if (row < 0 || row >= ah.out || kh + b >= ah.kernel) continue;
#pragma unroll
            for (int c = 0; c < NW; c++) {
                const int column = ow + c * aw.dilation;
                if (column < 0 || column >= aw.out || kw + c >= aw.kernel) continue;
                sum[b][c] += v * Number<T>::widen(from[row * (int)p.y_stride[3] + column * (int)p.y_stride[4]]);
            }
        }
    }
#pragma unroll
    for (int b = 0; b < NH; b++)
#pragma unroll
        for (int c = 0; c < NW; c++) {
            const A total = direct_reduce(sum[b][c], p.lanes);
            if ((int)threadIdx.x < p.lanes && unit < p.units && kh + b < ah.kernel && kw + c < aw.kernel)
                p.partial[part * p.count + (int64_t)unit * p.taps + (kd * ah.kernel + kh + b) * aw.kernel + kw + c] =
                    (double)total;
        }
}

template <class T> __global__ void __launch_bounds__(MERGE_THREADS) direct_merge_kernel(const PartsMerge p)
{
    merge_parts(p, [&](int64_t i, int64_t channel, bool bias, double sum) {
        if (bias) wgrad_put((T *)p.dbias + channel, sum, p.accumulate & CONVT3D_BACKWARD_BIAS);
        else wgrad_put((T *)p.dw + i, sum, p.accumulate & CONVT3D_BACKWARD_W);
    });
}

// ---- the host's side ----

template <class Act> auto direct_type(const convt3d__plan *plan, Act act)
{
    switch (plan->desc.dtype) {
    case CONVT3D_F32: return act(float());
    case CONVT3D_F64: return act(double());
    case CONVT3D_F16: return act(__half());
    default:          return act(__nv_bfloat16());
    }
}

static bool direct_channels_last(const int64_t *stride) { return stride[1] < stride[4]; }

// Distances within one channel of a sample, in 32 bits.
static bool direct_near(const int64_t *size, const int64_t *stride)
{
    double most = 0;
    for (int a = 0; a < 3; a++) most += (double)size[a] * (double)stride[2 + a];
    return most < 1e9;
}

static DirectProblem direct_problem(const convt3d__plan *plan, const int64_t *x_stride, int rows)
{
    const convt3d_desc &d = plan->desc;
    DirectProblem p = {};
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        p.axis[a] = {(int)axis.in, (int)axis.out, (int)axis.kernel, (int)axis.stride, (int)axis.padding,
                     (int)axis.dilation};
    }
    for (int i = 0; i < 5; i++) { p.x_stride[i] = x_stride[i];  p.y_stride[i] = d.dy_stride[i]; }
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;  p.taps = (int)plan->taps;
    p.lanes = direct_channels_last(d.dy_stride) ? 32 : 1;
    p.count = plan->w_count;
    const int64_t h = convt3d__ceil_div(d.in_size[1], rows);
    p.by_d = divisor_of(d.in_size[0]);  p.by_h = divisor_of(h);  p.by_w = divisor_of(d.in_size[2]);
    p.positions = d.batch * d.in_size[0] * h * d.in_size[2];
    return p;
}

// Channels and rows of a thread of dx.
static int direct_dx_channels(const convt3d__plan *plan)
{
    return plan->in_group >= 8 ? 8 : plan->in_group > 1 ? 4 : 1;
}
static int direct_dx_rows(const convt3d__plan *plan) { return plan->in_group > 1 ? 2 : 4; }

static int64_t direct_dx_shared(const convt3d__plan *plan, int lanes)
{
    return plan->out_group * plan->taps * lanes * direct_dx_channels(plan) * (plan->desc.dtype == CONVT3D_F64 ? 8 : 4);
}

static DirectProblem direct_dx_problem(const convt3d__plan *plan)
{
    const int ni = direct_dx_channels(plan);
    DirectProblem p = direct_problem(plan, plan->desc.dx_stride, direct_dx_rows(plan));
    while (p.lanes > 1 && direct_dx_shared(plan, p.lanes) > DIRECT_SHARED) p.lanes /= 2;
    p.blocks_group = (p.in_group + ni - 1) / ni;
    p.units = (int)plan->desc.groups * p.blocks_group;
    p.unit_tiles = (p.units + p.lanes - 1) / p.lanes;
    return p;
}

// act(kernel) for the plan.
template <class Act> auto direct_dx_instance(const convt3d__plan *plan, Act act)
{
    return direct_type(plan, [&](auto type) {
        typedef decltype(type) T;
        if (direct_dx_channels(plan) == 8) return act(direct_dx_kernel<T, 8, 2>);
        if (direct_dx_channels(plan) == 4) return act(direct_dx_kernel<T, 4, 2>);
        return act(direct_dx_kernel<T, 1, 4>);
    });
}

// A thread's taps of dw: side x side, or 1 x 8.
static int direct_dw_side(const convt3d__plan *plan)
{
    const int64_t h = plan->axis[1].kernel, w = plan->axis[2].kernel;
    return w <= 3 ? 3 : h > 4 && h <= 7 && w > 4 && w <= 7 ? 7 : 1;
}

// act(kernel) for the plan and T.
template <class T, class Act> auto direct_dw_instance(const convt3d__plan *plan, Act act)
{
    const int side = direct_dw_side(plan);
    if (side == 7) return act(direct_dw_kernel<T, 7, 7>);
    return side == 3 ? act(direct_dw_kernel<T, 3, 3>) : act(direct_dw_kernel<T, 1, 8>);
}

static DirectProblem direct_dw_problem(const convt3d__plan *plan)
{
    const int side = direct_dw_side(plan);
    DirectProblem p = direct_problem(plan, plan->desc.x_stride, 1);
    p.units = (int)(plan->desc.in_channels * plan->out_group);
    p.unit_tiles = (p.units + p.lanes - 1) / p.lanes;
    p.h_slices = side > 1 ? (p.axis[1].kernel + side - 1) / side : p.axis[1].kernel;
    p.w_slices = side > 1 ? 1 : (p.axis[2].kernel + 7) / 8;
    p.part = convt3d__max(p.lanes == 1 ? 16384 : 2048, convt3d__ceil_div(p.positions, 512));
    return p;
}

struct DirectLayout { int64_t parts, bias_part, bias_parts, bias, bytes; };

static DirectLayout direct_dw_layout(const convt3d__plan *plan)
{
    const DirectProblem p = direct_dw_problem(plan);
    const int64_t positions = plan->desc.batch * plan->axis[0].out * plan->axis[1].out * plan->axis[2].out;
    DirectLayout l;
    l.parts = convt3d__ceil_div(p.positions, p.part);
    l.bias_part = convt3d__max(p.lanes == 1 ? 16384 : 4096, convt3d__ceil_div(positions, 1024));
    l.bias_parts = convt3d__ceil_div(positions, l.bias_part);
    l.bias = wgrad_round(l.parts * plan->w_count * 8);
    l.bytes = l.bias + l.bias_parts * plan->desc.out_channels * 8;
    return l;
}

static const char *direct_refusal(const convt3d__plan *plan, const int64_t *x_stride)
{
    const int64_t out[3] = {plan->axis[0].out, plan->axis[1].out, plan->axis[2].out};
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    if (!fits_32_bits(plan) || !direct_near(plan->desc.in_size, x_stride) || !direct_near(out, plan->desc.dy_stride))
        return "indices beyond 32 bits";
    if (plan->x_count > (int64_t)1 << 36 || plan->w_count > 1 << 24) return "too many elements";
    if (plan->desc.batch * plan->desc.in_size[0] * plan->desc.in_size[1] * plan->desc.in_size[2] > INT32_MAX)
        return "too many positions";
    return "";
}

}

extern "C" int32_t convt3d__direct_dx_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    const char *text = direct_refusal(plan, plan->desc.dx_stride);
    if (*text) return convt3d__refuse(why, text);
    if (plan->desc.accumulate & CONVT3D_BACKWARD_X) return convt3d__refuse(why, "does not add to dx");
    if (direct_dx_shared(plan, 1) > DIRECT_SHARED)
        return convt3d__refuse(why, "the weights of a group are beyond shared memory");
    return 0;
}

// Seconds: bytes at 2.5e12; elements of dy loaded at 2.5e12, multiply-adds at 1.5e13 (f64: half) a second; 8 us.
extern "C" double convt3d__direct_dx_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const double products = (double)plan->x_count * (double)plan->out_group * (double)plan->taps;
    const double slow = plan->desc.dtype == CONVT3D_F64 ? 2 : 1, loads = products / direct_dx_channels(plan);
    return (double)(plan->x_count + plan->y_count) * (double)convt3d__element_size(plan->desc.dtype) / 2.5e12 +
           slow * (loads / 2.5e12 + products / 1.5e13) + 8e-6;
}

extern "C" int64_t convt3d__direct_dx_workspace(const convt3d__plan *) { return 0; }

extern "C" convt3d_status convt3d__direct_dx_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    return direct_dx_instance(plan, [&](auto kernel) {
        return convt3d__load_kernel(error, plan, kernel, DIRECT_SHARED);
    });
}

extern "C" convt3d_status convt3d__direct_dx_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    DirectProblem p = direct_dx_problem(plan);
    p.dy = io->dy;  p.dx = io->dx;
    p.w = io->w_packed ? io->w_packed : io->w;
    const int64_t blocks = convt3d__ceil_div(p.positions, SPLIT_THREADS / p.lanes) * p.unit_tiles;
    return direct_dx_instance(plan, [&](auto kernel) {
        return convt3d__launch(error, kernel, dim3((unsigned)blocks), dim3(SPLIT_THREADS),
                               (size_t)direct_dx_shared(plan, p.lanes), io->stream, p);
    });
}

extern "C" int32_t convt3d__direct_dw_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    const char *text = direct_refusal(plan, plan->desc.x_stride);
    if (*text) return convt3d__refuse(why, text);
    if (plan->in_group * plan->out_group > 8) return convt3d__refuse(why, "more than 8 pairs of channels a group");
    return 0;
}

// Seconds: as of dx; x is read again by every slice of taps.
extern "C" double convt3d__direct_dw_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    const DirectProblem p = direct_dw_problem(plan);
    const double products = (double)plan->x_count * (double)plan->out_group * (double)plan->taps;
    const double slices = (double)p.axis[0].kernel * p.h_slices * p.w_slices * (double)plan->out_group;
    const double slow = plan->desc.dtype == CONVT3D_F64 ? 2 : 1;
    return (double)(plan->x_count + 2 * plan->y_count) * (double)convt3d__element_size(plan->desc.dtype) / 2.5e12 +
           slow * (products + 4 * slices * (double)plan->x_count) / 2.5e12 + 15e-6;
}

extern "C" int64_t convt3d__direct_dw_workspace(const convt3d__plan *plan)
{
    return convt3d_cuda::direct_dw_layout(plan).bytes;
}

extern "C" convt3d_status convt3d__direct_dw_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    return direct_type(plan, [&](auto type) {
        typedef decltype(type) T;
        convt3d_status status = direct_dw_instance<T>(plan, [&](auto kernel) {
            return convt3d__load_kernel(error, plan, kernel, 0);
        });
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, wgrad_scan_kernel<T>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, direct_merge_kernel<T>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__direct_dw_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    const DirectLayout l = direct_dw_layout(plan);
    const dim3 threads(SPLIT_THREADS);
    DirectProblem p = direct_dw_problem(plan);
    p.x = io->x;  p.dy = io->dy;
    p.partial = (double *)io->workspace;
    WgradLayout bias_layout = {};
    bias_layout.bias = l.bias;  bias_layout.bias_part = l.bias_part;
    const WgradBias bias = wgrad_bias(plan, io, bias_layout);
    const int64_t blocks = l.parts * p.axis[0].kernel * p.h_slices * p.w_slices * p.unit_tiles;
    const PartsMerge merge = {p.partial, bias.sums, io->dw, io->dbias, plan->w_count, (int)l.parts, (int)l.bias_parts,
                               (int)plan->desc.out_channels, plan->desc.accumulate};
    return direct_type(plan, [&](auto type) {
        typedef decltype(type) T;
        convt3d_status done = CONVT3D_OK;
        if (io->dbias)
            done = convt3d__launch(error, wgrad_scan_kernel<T>, dim3((unsigned)(l.bias_parts * bias.tiles)), threads, 0,
                                   io->stream, GuessProblem(), GuessProblem(), 0, 0, bias, nullptr, 0);
        if (io->dw && done == CONVT3D_OK)
            done = direct_dw_instance<T>(plan, [&](auto kernel) {
                return convt3d__launch(error, kernel, dim3((unsigned)blocks), threads, 0, io->stream, p);
            });
        if (done == CONVT3D_OK)
            done = convt3d__launch(error, direct_merge_kernel<T>, dim3(MERGE_BLOCKS), dim3(MERGE_THREADS), 0,
                                   io->stream, merge);
        return done;
    });
}

#endif
