// cuda_generic: the kernel that accepts everything the reference accepts, in the reference's order of summation.
//
// Idea      One thread computes one output position for up to 8 channels of one group. It finds the taps of its phase
//           on each axis once, then walks ic, kd, kh, kw: a load of x, 8 weights that its warp shares, 8 multiply-adds.
//           Nothing is zero-filled and no tap is tested, so NaN and infinity reach what they reach in the reference,
//           and a position's sum is the same in any slab, batch or grid.
// Requires  nothing. Bases are 64 bits; indices are 32 bits where the problem fits (geometry.cuh), 64 otherwise.
// Tile      256 positions, consecutive in (n, od, oh, ow), x 8 channels (1 where a group has one channel).
#pragma once

CONVT3D__DECLARE_KERNEL(generic)

#if CONVT3D__PART(1)

namespace convt3d_cuda {

enum { GENERIC_THREADS = 256 };

template <class T, class I> struct GenericProblem {
    const T *x, *w;
    void *y;
    Epilogue<T> epilogue;
    List<T> list;
    Axis<I> axis[3];
    I positions;                                // batch * od * oh * ow
    int64_t position_tiles, channel_blocks, groups, in_group, out_group, taps;
    int64_t x_stride[5], y_stride[5];           // elements
    int64_t x_step[3], w_step[3];               // elements from one tap of a phase to the next
};

// What one thread computes: one output position, `channels` channels from oc of group g.
template <class I> struct GenericOutput {
    I n, od, oh, ow;
    int64_t g, oc;
    int channels;
    bool inside;
};

template <class T, class I, int Channels>
__device__ __forceinline__ GenericOutput<I> generic_output(const GenericProblem<T, I> &p, int64_t tile)
{
    GenericOutput<I> o;
    int64_t block = tile / p.position_tiles;                    // uniform over the block of threads
    I position = (I)((tile - block * p.position_tiles) * GENERIC_THREADS) + (I)threadIdx.x;
    o.inside = position < p.positions;
    o.ow = position % p.axis[2].out;  position /= p.axis[2].out;
    o.oh = position % p.axis[1].out;  position /= p.axis[1].out;
    o.od = position % p.axis[0].out;
    o.n = position / p.axis[0].out;
    o.g = block / p.channel_blocks;
    o.oc = block % p.channel_blocks * Channels;
    o.channels = (int)(p.out_group - o.oc < Channels ? p.out_group - o.oc : Channels);
    return o;
}

// sum[u] += x*w over ic, kd, kh, kw, in this order.
template <class T, class I, int Channels>
__device__ __forceinline__ void generic_sum(const GenericProblem<T, I> &p, const GenericOutput<I> &o,
                                            typename Number<T>::Accumulator (&sum)[Channels])
{
    Taps<I> d = taps_of(p.axis[0], o.od), h = taps_of(p.axis[1], o.oh), w = taps_of(p.axis[2], o.ow);
    const T *x_ic = p.x + o.n * p.x_stride[0] + o.g * p.in_group * p.x_stride[1] + d.i * p.x_stride[2] +
                    h.i * p.x_stride[3] + w.i * p.x_stride[4];
    const T *w_ic = p.w + (o.g * p.in_group * p.out_group + o.oc) * p.taps +
                    ((int64_t)d.k * p.axis[1].kernel + h.k) * p.axis[2].kernel + w.k;
    if (d.count == 0 || h.count == 0 || w.count == 0) return;
    for (int64_t ic = 0; ic < p.in_group; ic++, x_ic += p.x_stride[1], w_ic += p.out_group * p.taps) {
        const T *x_d = x_ic, *w_d = w_ic;
        for (I a = 0; a < d.count; a++, x_d -= p.x_step[0], w_d += p.w_step[0]) {
            const T *x_h = x_d, *w_h = w_d;
            for (I b = 0; b < h.count; b++, x_h -= p.x_step[1], w_h += p.w_step[1]) {
                const T *x_w = x_h, *w_w = w_h;
                for (I c = 0; c < w.count; c++, x_w -= p.x_step[2], w_w += p.w_step[2]) {
                    typename Number<T>::Accumulator v = Number<T>::widen(*x_w);
#pragma unroll
                    for (int u = 0; u < Channels; u++)
                        if (u < o.channels) sum[u] += v * Number<T>::widen(w_w[u * p.taps]);
                }
            }
        }
    }
}

// Stored is T or, where a normalisation reads it, the accumulator.
template <class T, class Stored, class I, int Channels>
__global__ void __launch_bounds__(GENERIC_THREADS) generic_kernel(const __grid_constant__ GenericProblem<T, I> p)
{
    int64_t tiles = p.position_tiles * p.channel_blocks * p.groups;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        GenericOutput<I> o = generic_output<T, I, Channels>(p, tile);
        typename Number<T>::Accumulator sum[Channels] = {};
        Stored value[Channels];
        int64_t oc = o.g * p.out_group + o.oc;
        if (o.inside) {
            generic_sum(p, o, sum);
#pragma unroll
            for (int u = 0; u < Channels; u++) if (u < o.channels) sum[u] = p.epilogue.widen(sum[u], oc + u);
            if (p.list.count > 0)
                list_in_memory(p.list, sum, Channels, 1,
                               {(int64_t)o.n, oc, (int64_t)o.od, (int64_t)o.oh, (int64_t)o.ow, o.channels, 1});
        }
#pragma unroll
        for (int u = 0; u < Channels; u++) value[u] = Number<Stored>::round(sum[u]);
        int64_t offset = o.n * p.y_stride[0] + oc * p.y_stride[1] + o.od * p.y_stride[2] + o.oh * p.y_stride[3] +
                         o.ow * p.y_stride[4];
        store_block<Stored, GENERIC_THREADS>((Stored *)p.y, o.inside ? offset : -1, p.y_stride[1], o.channels, value);
    }
}

template <class T, class I>
GenericProblem<T, I> generic_problem(const convt3d__plan *plan, const convt3d_io *io, int channels)
{
    GenericProblem<T, I> p = {};
    const convt3d_desc &d = plan->desc;
    int64_t tap = 1;
    p.x = (const T *)io->x;
    p.w = (const T *)(io->w_packed ? io->w_packed : io->w);
    p.y = io->y;
    p.epilogue.bias = (const T *)io->bias;
    p.list = list_of<T>(plan, io, 0, plan->fused);
    p.groups = d.groups;  p.in_group = plan->in_group;  p.out_group = plan->out_group;  p.taps = plan->taps;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    for (int a = 2; a >= 0; a--) {
        p.axis[a] = axis_of<I>(plan->axis[a]);
        p.x_step[a] = plan->axis[a].in_step * d.x_stride[2 + a];
        p.w_step[a] = plan->axis[a].tap_step * tap;
        tap *= plan->axis[a].kernel;
    }
    int64_t positions = d.batch * plan->axis[0].out * plan->axis[1].out * plan->axis[2].out;
    p.positions = (I)positions;
    p.position_tiles = convt3d__ceil_div(positions, GENERIC_THREADS);
    p.channel_blocks = convt3d__ceil_div(plan->out_group, channels);
    return p;
}

template <class T, class Stored, class I, int Channels> struct GenericKernel {
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        return convt3d__load_kernel(error, plan, generic_kernel<T, Stored, I, Channels>, 0);
    }
    static convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
    {
        GenericProblem<T, I> p = generic_problem<T, I>(plan, io, Channels);
        int64_t tiles = p.position_tiles * p.channel_blocks * p.groups;
        return convt3d__launch(error, generic_kernel<T, Stored, I, Channels>,
                               dim3((unsigned)convt3d__min(tiles, INT32_MAX)), dim3(GENERIC_THREADS), 0, io->stream, p);
    }
};

// act(the instance for the plan): the one place where the instances are listed.
template <class T, class Stored, class Act> convt3d_status generic_instance(const convt3d__plan *plan, Act act)
{
    bool narrow = fits_32_bits(plan);
    if (plan->out_group == 1)
        return narrow ? act(GenericKernel<T, Stored, int32_t, 1>()) : act(GenericKernel<T, Stored, int64_t, 1>());
    return narrow ? act(GenericKernel<T, Stored, int32_t, 8>()) : act(GenericKernel<T, Stored, int64_t, 8>());
}

template <class T, class Act> convt3d_status generic_stored(const convt3d__plan *plan, Act act)
{
    if (plan->stored == plan->desc.dtype) return generic_instance<T, T>(plan, act);
    return generic_instance<T, typename Number<T>::Accumulator>(plan, act);
}

template <class Act> convt3d_status generic_dispatch(const convt3d__plan *plan, Act act)
{
    switch (plan->desc.dtype) {
    case CONVT3D_F32: return generic_instance<float, float>(plan, act);
    case CONVT3D_F64: return generic_instance<double, double>(plan, act);
    case CONVT3D_F16: return generic_stored<__half>(plan, act);
    default:          return generic_stored<__nv_bfloat16>(plan, act);
    }
}

}

extern "C" int32_t convt3d__generic_refuses(convt3d__plan *, char why[96]) { return convt3d__refuse(why, ""); }

// Seconds at the rate seen on an H200: about 4e12 products a second and, where those are few, 1.5e12 bytes.
extern "C" double convt3d__generic_cost(const convt3d__plan *plan)
{
    double products = (double)plan->y_count * (double)plan->in_group;
    for (int a = 0; a < 3; a++)
        products *= (double)convt3d__ceil_div(plan->axis[a].kernel, plan->axis[a].stride);
    return products / 4e12 + (double)(plan->x_count + plan->y_count) * 8 / 1.5e12;
}

extern "C" int64_t convt3d__generic_workspace(const convt3d__plan *) { return 0; }

extern "C" convt3d_status convt3d__generic_ready(const convt3d__plan *plan, convt3d_error *error)
{
    return convt3d_cuda::generic_dispatch(plan, [=](auto kernel) { return kernel.ready(plan, error); });
}

extern "C" convt3d_status convt3d__generic_run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::generic_dispatch(plan, [=](auto kernel) { return kernel.run(plan, io, error); });
}

#endif
