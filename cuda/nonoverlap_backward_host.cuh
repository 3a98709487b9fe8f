// sm90_nonoverlap (backward) after and around its products: the kernel that merges what the blocks of
// nonoverlap_backward.cuh leave, the launches on the host, and the rows of the table of kernels.
#pragma once

#if CONVT3D__PART(17)

namespace convt3d_cuda {

// ---- after: pieces and slices to dw, dbias and dx ----

struct PatchMerge {
    PatchProblem at;
    void *dw, *dbias;                       // or null
    int accumulate, pieces, split;          // split: threads to an element of dw
    int dw_blocks, bias_blocks;
    int64_t elements;                       // of all units' sums
};

// Whether any block met what its products must not see.
template <class C> __device__ __forceinline__ bool patch_unfit(const PatchMerge &p)
{
    int any = 0;
    if constexpr (C::Split)
        for (int i = threadIdx.x; i < p.at.units * p.pieces; i += 256) any |= p.at.unfit[i];
    return C::Split && __syncthreads_or(any) != 0;
}

// An element of dw from x and dy themselves, by a block.
template <class C> __device__ double patch_exact_dw(const PatchProblem &p, int ic, int row, int k)
{
    typedef typename C::T T;
    __shared__ double sums[256];
    const int g = ic / p.in_group;
    const T *x = (const T *)p.x + ic * p.x_stride[1];
    const T *dy = (const T *)p.dy + (int64_t)g * p.out_group * p.y_stride[1] + patch_row_offset(p, row) +
                  k * p.y_stride[4];
    double sum = 0;
    for (int n = 0; n < p.batch; n++)
        for (int i = threadIdx.x; i < p.positions; i += 256)
            sum += (double)Number<T>::widen(x[n * p.x_stride[0] + patch_x_offset(p, p.x_stride, i)]) *
                   (double)Number<T>::widen(dy[n * p.y_stride[0] + patch_y_offset<C::SW>(p, i)]);
    __syncthreads();
    sums[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

template <class T> __device__ __forceinline__ void patch_round(T *to, double v, bool accumulate)
{
    if (accumulate) v += (double)Number<T>::widen(*to);
    *to = Number<T>::round((float)v);
}

template <class C> __device__ __forceinline__ void patch_merge_dw(const PatchMerge &p)
{
    typedef typename C::T T;
    __shared__ double sums[256];
    const PatchProblem &q = p.at;
    const int columns = q.stages * 64, width = 256 / p.split, lane = threadIdx.x % width, part = threadIdx.x / width;
    const bool unfit = patch_unfit<C>(p), add = p.accumulate & CONVT3D_BACKWARD_W;
    if (unfit) {
        const int all = q.rows * C::SW;
        for (int64_t i = blockIdx.x; i < (int64_t)q.in_channels * all; i += p.dw_blocks) {
            const int ic = (int)(i / all), column = (int)(i % all);
            const double v = patch_exact_dw<C>(q, ic, column / C::SW, column % C::SW);
            if (threadIdx.x == 0) patch_round((T *)p.dw + i, v, add);
        }
        return;
    }
    for (int64_t first = (int64_t)blockIdx.x * width; first < p.elements; first += (int64_t)p.dw_blocks * width) {
        const int64_t i = first + lane;
        double sum = 0;
        if (i < p.elements)
#pragma unroll 8
            for (int piece = part; piece < p.pieces; piece += p.split) sum += (double)q.dw_part[piece * p.elements + i];
        if (p.split > 1) {
            __syncthreads();
            sums[threadIdx.x] = sum;
            __syncthreads();
            for (int s = 1; s < p.split && part == 0; s++) sum += sums[s * width + lane];
        }
        const int column = (int)(i % columns), c = (int)(i / columns % 64), unit = (int)(i / columns / 64);
        const int slice = unit % q.slices, block = unit / q.slices % q.blocks_group;
        const int g = unit / q.slices / q.blocks_group;
        const int ic = block * 64 + c, all = q.rows * C::SW, at = slice * columns + column;
        if (part == 0 && i < p.elements && ic < q.in_group && at < all)
            patch_round((T *)p.dw + ((int64_t)g * q.in_group + ic) * all + at, sum, add);
    }
}

// A warp for each output channel: all sums of its rows.
template <class C> __device__ __forceinline__ void patch_merge_bias(const PatchMerge &p, int block)
{
    typedef typename C::T T;
    const PatchProblem &q = p.at;
    const int oc = block * 8 + threadIdx.x / 32, taps = (int)q.by_taps.by, channels = q.groups * q.out_group;
    if (oc >= channels) return;
    const int g = oc / q.out_group, first = (oc - g * q.out_group) * taps, rows = q.slices * q.stages * C::Rows;
    double sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < p.pieces * PATCH_MAKERS * taps; i += 32) {
        const int part = i / taps, row = first + i - part * taps;
        sum += (double)q.bias_part[((int64_t)part * q.groups + g) * rows + row];
    }
    for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    if (threadIdx.x % 32 == 0) patch_round((T *)p.dbias + oc, sum, p.accumulate & CONVT3D_BACKWARD_BIAS);
}

// dx, from its slices: four positions a thread, one where it is not in whole cells.
template <class C> __device__ __forceinline__ void patch_merge_dx(const PatchMerge &p, int block)
{
    typedef typename C::T T;
    const PatchProblem &q = p.at;
    const int64_t i = (int64_t)block * 256 + threadIdx.x, run = q.plain ? q.positions : q.positions / 4;
    const int64_t all = (int64_t)q.batch * q.in_channels * run, row = i / run, n = row / q.in_channels;
    if (i >= all) return;
    T *to = (T *)q.dx + n * q.dx_stride[0] + (row - n * q.in_channels) * q.dx_stride[1];
    if (q.plain) {
        float sum = 0;
        for (int s = 0; s < q.slices; s++) sum += q.dx_part[s * all + i];
        to[patch_x_offset(q, q.dx_stride, (int)(i - row * run))] = Number<T>::round(sum);
        return;
    }
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int s = 0; s < q.slices; s++) {
        const float4 v = ((const float4 *)q.dx_part)[s * all + i];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    const float four[4] = {sum.x, sum.y, sum.z, sum.w};
    patch_put_four(to + (i - row * run) * 4, four);
}

template <class C> __global__ void __launch_bounds__(256) patch_merge_kernel(const __grid_constant__ PatchMerge p)
{
    const int block = blockIdx.x;
    let_next_start();
    wait_for_previous();
    if (block < p.dw_blocks) patch_merge_dw<C>(p);
    else if (block < p.dw_blocks + p.bias_blocks) patch_merge_bias<C>(p, block - p.dw_blocks);
    else patch_merge_dx<C>(p, block - p.dw_blocks - p.bias_blocks);
}

// ---- the host's side ----

struct PatchShape {
    int mode, sw;
    int64_t positions, rows, stages, slices, blocks_group, units, sample_tiles, tiles, piece, pieces;
};

template <int Mode, class Act> auto patch_with_stride(const PatchShape &s, Act act)
{
    if (s.sw == 2) return act(PatchTile<Mode, 2>());
    return act(PatchTile<Mode, 4>());
}
template <class Act> auto patch_instance(const PatchShape &s, Act act)
{
#ifndef CONVT3D__PATCH_SPLIT_ALONE
    if (s.mode == PATCH_F16) return patch_with_stride<PATCH_F16>(s, act);
    if (s.mode == PATCH_BF16) return patch_with_stride<PATCH_BF16>(s, act);
#endif
    return patch_with_stride<PATCH_SPLIT>(s, act);
}

// Are a tensor of x's shape's voxels dense, in cells of 16 bytes?
static bool patch_dense(const convt3d_desc &d, const void *data, const int64_t *stride)
{
    const int64_t size = convt3d__element_size(d.dtype);
    return stride[4] == 1 && stride[3] == d.in_size[2] && stride[2] == d.in_size[1] * d.in_size[2] &&
           stride[1] * size % 16 == 0 && stride[0] * size % 16 == 0 && (uintptr_t)data % 16 == 0;
}

// Whether tensors must be copied element by element.
static bool patch_plain(const convt3d_desc &d, const convt3d_io *io, bool dx, bool dw)
{
    const int64_t size = convt3d__element_size(d.dtype), voxels = d.in_size[0] * d.in_size[1] * d.in_size[2];
    bool cells = voxels * size % 16 == 0 && d.in_size[2] * d.stride[2] * size % 16 == 0 && d.dy_stride[4] == 1 &&
                 (uintptr_t)io->dy % 16 == 0;
    for (int a = 0; a < 4; a++) cells = cells && d.dy_stride[a] * size % 16 == 0;
    return !(cells && (!dx || patch_dense(d, io->dx, d.dx_stride)) && (!dw || patch_dense(d, io->x, d.x_stride)));
}

// Everything the launches need, from the plan alone. Empty text, or why not.
static const char *patch_shape(const convt3d__plan *plan, PatchShape *s)
{
    const convt3d_desc &d = plan->desc;
    if (d.dtype == CONVT3D_F64) return "f64 has no wgmma";
    if (plan->x_count == 0 || plan->y_count == 0) return "x or y is empty";
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel != axis.stride || axis.padding != 0 || (axis.kernel > 1 && axis.dilation != 1) ||
            axis.out != axis.in * axis.stride) return "wants kernel == stride and no padding";
    }
    s->sw = (int)plan->axis[2].stride;
    if (s->sw != 2 && s->sw != 4) return "wants a stride of 2 or 4 along w";
    if (!fits_32_bits(plan)) return "indices beyond 32 bits";
    s->mode = d.dtype == CONVT3D_F16 ? PATCH_F16 : d.dtype == CONVT3D_BF16 ? PATCH_BF16 : PATCH_SPLIT;
    s->positions = d.in_size[0] * d.in_size[1] * d.in_size[2];
    s->rows = plan->out_group * plan->axis[0].kernel * plan->axis[1].kernel;
    if (s->rows > 1 << 20 || plan->in_group > 1 << 20 || d.groups > 1 << 16 || plan->w_count > 1 << 28)
        return "too many channels";
    const int64_t all = convt3d__ceil_div(s->rows, 64 / s->sw);
    s->slices = convt3d__ceil_div(all, PATCH_STAGES);
    s->stages = convt3d__ceil_div(all, s->slices);
    s->slices = convt3d__ceil_div(all, s->stages);
    s->blocks_group = convt3d__ceil_div(plan->in_group, 64);
    s->units = d.groups * s->blocks_group * s->slices;
    s->sample_tiles = convt3d__ceil_div(s->positions, 64);
    s->tiles = d.batch * s->sample_tiles;
    s->pieces = convt3d__max(1, convt3d__min(s->tiles, 132 / s->units));
    s->piece = convt3d__ceil_div(s->tiles, s->pieces);
    s->pieces = convt3d__ceil_div(s->tiles, s->piece);
    if (s->tiles > 1 << 30 || s->units > 1 << 20) return "too many tiles";
    return "";
}

struct PatchLayout { int64_t bias, unfit, dx, bytes; };     // dw's sums are first

static PatchLayout patch_layout(const convt3d__plan *plan, const PatchShape &s)
{
    auto round = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    PatchLayout l;
    l.bias = s.pieces * s.units * s.stages * 64 * 64 * 4;
    l.unfit = round(l.bias + s.pieces * PATCH_MAKERS * plan->desc.groups * s.slices * s.stages * (64 / s.sw) * 4);
    l.dx = round(l.unfit + s.pieces * s.units * 4);
    l.bytes = l.dx + (s.slices > 1 ? s.slices * plan->x_count * 4 : 0);
    return l;
}

static PatchProblem patch_problem(const convt3d__plan *plan, const convt3d_io *io, const PatchShape &s,
                                  const PatchLayout &l, bool dx, bool dw)
{
    const convt3d_desc &d = plan->desc;
    char *workspace = (char *)io->workspace;
    PatchProblem p = {};
    p.x = io->dw ? io->x : nullptr;  p.dy = io->dy;     // for dbias alone there may be none
    p.w = io->w_packed ? io->w_packed : io->w;
    p.dx = dx ? io->dx : nullptr;
    p.dx_part = dx && s.slices > 1 ? (float *)(workspace + l.dx) : nullptr;
    p.dw_part = dw ? (float *)workspace : nullptr;
    p.bias_part = dw && io->dbias ? (float *)(workspace + l.bias) : nullptr;
    p.unfit = (int *)(workspace + l.unfit);
    for (int i = 0; i < 5; i++) {
        p.x_stride[i] = d.x_stride[i];  p.dx_stride[i] = d.dx_stride[i];  p.y_stride[i] = d.dy_stride[i];
    }
    p.plain = patch_plain(d, io, dx, dw);
    p.batch = (int)d.batch;  p.in_channels = (int)d.in_channels;
    p.in_group = (int)plan->in_group;  p.out_group = (int)plan->out_group;  p.groups = (int)d.groups;
    p.positions = (int)s.positions;  p.kernel_d = (int)plan->axis[0].kernel;
    p.rows = (int)s.rows;  p.stages = (int)s.stages;  p.slices = (int)s.slices;
    p.blocks_group = (int)s.blocks_group;  p.units = (int)s.units;
    p.sample_tiles = (int)s.sample_tiles;  p.tiles = (int)s.tiles;  p.piece = (int)s.piece;
    p.by_h = divisor_of(d.in_size[1]);  p.by_w = divisor_of(d.in_size[2]);
    p.by_kh = divisor_of(plan->axis[1].kernel);
    p.by_taps = divisor_of(plan->axis[0].kernel * plan->axis[1].kernel);
    p.by_sample = divisor_of(s.sample_tiles);
    return p;
}

template <class C>
convt3d_status patch_run(const convt3d__plan *plan, const convt3d_io *io, const PatchShape &s, convt3d_error *error)
{
    const PatchLayout l = patch_layout(plan, s);
    const bool dx = (plan->pass & CONVT3D_BACKWARD_X) && io->dx;
    const bool dw = (plan->pass & ~CONVT3D_BACKWARD_X) && (io->dw || io->dbias);
    const PatchProblem p = patch_problem(plan, io, s, l, dx, dw);
    Launches launch = {io->stream, error, 0};
    const convt3d_status status = launch(patch_kernel<C>, s.units * s.pieces, PATCH_THREADS, C::Shared, p);
    if (status != CONVT3D_OK || !(dw || p.dx_part)) return status;
    PatchMerge merge = {};
    merge.at = p;
    merge.dw = io->dw;  merge.dbias = io->dbias;
    merge.accumulate = plan->desc.accumulate;
    merge.pieces = (int)s.pieces;
    merge.split = s.pieces >= 16 ? 8 : 1;
    merge.elements = s.units * s.stages * 64 * 64;
    const int64_t dw_blocks = convt3d__min(convt3d__ceil_div(merge.elements * merge.split, 256), 132 * 8);
    merge.dw_blocks = dw && io->dw ? (int)dw_blocks : 0;
    merge.bias_blocks = dw && io->dbias ? (int)convt3d__ceil_div(plan->desc.out_channels, 8) : 0;
    const int64_t dx_blocks = p.dx_part ? convt3d__ceil_div(p.plain ? plan->x_count : plan->x_count / 4, 256) : 0;
    return launch(patch_merge_kernel<C>, merge.dw_blocks + merge.bias_blocks + dx_blocks, 256, 0, merge);
}

}

// Of the row for dx or of that for dw, as plan->pass says.
extern "C" int32_t convt3d__patch_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    PatchShape s;
    if (plan->pass & plan->desc.accumulate & CONVT3D_BACKWARD_X) return convt3d__refuse(why, "does not add to dx");
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs sm_90 and a build with sm_90a code");
    return convt3d__refuse(why, patch_shape(plan, &s));
}

// Seconds: bytes at 3.3e12; stages of 900 cycles at 1.6e9 a block; 10 us of launches. Copies element by element take
// far longer.
extern "C" double convt3d__patch_cost(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    PatchShape s;
    const convt3d_io none = {};
    if (*patch_shape(plan, &s)) return 1e30;
    const PatchLayout l = patch_layout(plan, s);
    const bool dx = plan->pass & CONVT3D_BACKWARD_X;
    const double bytes = (double)(plan->x_count + plan->y_count) * (double)convt3d__element_size(plan->desc.dtype) +
                         2.0 * (double)l.bytes;
    const double rounds = (double)convt3d__ceil_div(s.units * s.pieces, 132);
    const double cycles = rounds * (double)(s.piece * s.stages) * 900;
    const double seconds = bytes / 3.3e12 > cycles / 1.6e9 ? bytes / 3.3e12 : cycles / 1.6e9;
    return seconds * (patch_plain(plan->desc, &none, dx, !dx) ? 20 : 1) + 1e-5;
}

extern "C" int64_t convt3d__patch_workspace(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    PatchShape s;
    return *patch_shape(plan, &s) ? 0 : patch_layout(plan, s).bytes;
}

extern "C" convt3d_status convt3d__patch_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    PatchShape s = {};
    patch_shape(plan, &s);
    return patch_instance(s, [&](auto tile) {
        typedef decltype(tile) C;
        convt3d_status status = convt3d__load_kernel(error, plan, patch_kernel<C>, C::Shared);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, patch_merge_kernel<C>, 0);
        return status;
    });
}

extern "C" convt3d_status convt3d__patch_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    using namespace convt3d_cuda;
    PatchShape s = {};
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    patch_shape(plan, &s);
    return patch_instance(s, [&](auto tile) { return patch_run<decltype(tile)>(plan, io, s, error); });
}

#endif
