// The list taken back from dy to g, the gradient of the convolution's output, and to the gradients of its tensors: what
// convt3d__list_backward() in convt3d.h does on the CPU, in the same passes and parts of the workspace.
//
// Idea      Nothing is kept but what the forward pass saved. For each normalisation, from the last to the first, a pass
//           takes the sums of d and of d times the normalised value that the gradient through it needs, and a small
//           kernel makes the means of its sets of them; the pass after them writes g and the residuals' gradients, and
//           sums what scale and shift of the entries between want. Each pass computes the list's values again from
//           what was saved, and goes back from dy. Values are in the accumulator's type, sums over a thread's round of
//           values too, beyond that in double; columns_kernel (sums.cuh) adds the parts.
// Requires  nothing. Threads are dealt as in pass.cuh: either layout is read and written in whole sectors.
// Traffic   a pass reads what was saved and dy; the last one writes g.
// CONVT3D_CUDA_PART 11.
#pragma once

#if CONVT3D__PART(11)

namespace convt3d_cuda {

enum { BACK_VALUES = 8, BACK_SETTLE = 128 };       // values of a thread and round

// What an entry has beside what the forward pass gives it.
template <class T> struct BackEntry {
    typedef typename Number<T>::Accumulator A;
    const A *mean, *rstd;           // of its sets, if it normalises
    int64_t groups;                 // 0: its sets are channels
    double *sums, *means;           // [batch*parts][channels][2], [sets][2]; null: it has none
    T *d_residual;                  // or null
};

template <class T> struct Back {
    Pass shape;
    List<T> list;
    BackEntry<T> entry[CONVT3D_MAX_OPS];
    const T *dy, *values;           // values: what was saved, or y
    T *g;                           // or null
    int64_t dy_stride[5], values_stride[5], g_stride[5];        // g and d_residual: dense
    int32_t saves, curved, norm;    // norm: where this pass ends and whose sums it takes, -1 for all of the list
    int32_t sums_between;           // the sums of CHANNEL_AFFINE are wanted
    int32_t accumulate;             // d_residual
};

// Mean and rstd that the forward pass found.
template <class A> struct Found { A mean, rstd; int64_t set; };

template <class T>
__device__ __forceinline__ Found<typename Number<T>::Accumulator> found_of(const Back<T> &p, int32_t index, int64_t n,
                                                                           int64_t c)
{
    const BackEntry<T> &e = p.entry[index];
    int64_t set = e.groups ? n * e.groups + c / (p.shape.channels / e.groups) : c;
    return {e.mean[set], e.rstd[set], set};
}

// The slope of an entry that looks at one value alone, times d; from_output: v is what it gave. As
// convt3d__back_function(), in PyTorch's definitions.
template <class A> __device__ __forceinline__ A gelu_tanh_slope(A v)
{
    A near = v > A(64) ? A(64) : v < A(-64) ? A(-64) : v;       // beyond, tanh is 1 and squares may overflow
    A t = tanh(A(0.7978845608028654) * (near + A(0.044715) * near * near * near));
    return A(0.5) * (A(1) + t) + A(0.5) * v * (A(1) - t) * (A(1) + t) * A(0.7978845608028654) *
                                 (A(1) + A(0.134145) * near * near);
}

template <class A> __device__ __forceinline__ A back_function(int32_t kind, A a, A b, bool from_output, A v, A d)
{
    A s;
    switch (kind) {
    case CONVT3D_OP_AFFINE:      return d * a;
    case CONVT3D_OP_CLAMP:       return v >= a && v <= b ? d : A(0);
    case CONVT3D_OP_RELU:        return v <= 0 ? A(0) : d;
    case CONVT3D_OP_RELU6:       return v <= 0 || v >= 6 ? A(0) : d;
    case CONVT3D_OP_LEAKY_RELU:  return v > 0 ? d : a * d;
    case CONVT3D_OP_SILU:        return d * (A(1) / (A(1) + exp(-v)) * (A(1) + v / (A(1) + exp(v))));
    case CONVT3D_OP_SIGMOID:     s = from_output ? v : A(1) / (A(1) + exp(-v));  return d * (s * (A(1) - s));
    case CONVT3D_OP_TANH:        s = from_output ? v : tanh(v);  return d * ((A(1) - s) * (A(1) + s));
    case CONVT3D_OP_GELU:        // the normal distribution and v times its density
        return d * (A(0.5) * erfc(A(-0.7071067811865476) * v) + v * A(0.3989422804014327) * exp(A(-0.5) * v * v));
    case CONVT3D_OP_GELU_TANH:   return d * gelu_tanh_slope(v);
    case CONVT3D_OP_HARDSWISH:   return v <= A(-3) ? A(0) : v < A(3) ? d * (v / A(3) + A(0.5)) : d;
    case CONVT3D_OP_HARDSIGMOID: return v > A(-3) && v < A(3) ? d / A(6) : A(0);
    case CONVT3D_OP_ELU:         return v > 0 ? d : d * (from_output ? v + a : a * exp(v));
    case CONVT3D_OP_SOFTPLUS:    return a * v > b ? d : d / (A(1) + exp(-a * v));
    default:                     // MISH
        s = tanh(softplus(v));
        return d * (s + v * (A(1) - s) * (A(1) + s) / (A(1) + exp(-v)));
    }
}

// On arrays, as functions that are called: the kernels' instances do not hold them many times over.
template <class A> __noinline__ __device__ void map_in_memory(int32_t kind, A a, A b, const A *v, A *to)
{
    for (int i = 0; i < BACK_VALUES; i++) to[i] = function_of(kind, a, b, v[i]);
}

template <class A>
__noinline__ __device__ void map_back_in_memory(int32_t kind, A a, A b, bool from_output, const A *v, A *d)
{
    for (int i = 0; i < BACK_VALUES; i++) d[i] = back_function(kind, a, b, from_output, v[i], d[i]);
}

// One thread's round: BACK_VALUES values in lots from voxel q on.
template <class T, bool Linear, int Lot> struct BackRound {
    typedef typename Number<T>::Accumulator A;
    typedef typename PassCursor<Linear>::I I;
    enum { N = BACK_VALUES };
    const Back<T> &p;
    const PassThread<I> &t;
    I q;
    int count;                          // of the values that exist; they come first
    A v[CONVT3D_MAX_OPS][N], d[N];      // what entry i was given, or what the last one gave

    __device__ BackRound(const Back<T> &back, const PassThread<I> &thread) : p(back), t(thread), q(0), count(0) {}

    __device__ void load(const T *from, const int64_t (&stride)[5], A (&to)[N]) const
    {
        load_wide<A, T, N, Lot>(to, from, PassCursor<Linear>(p.shape, t, stride), q, (I)t.step, t.end);
    }
    // A residual may be spaced in any way, y itself among them.
    __device__ void load_residual(const Entry<A> &e, A (&to)[N]) const
    {
        PassCursor<Linear> at(p.shape, t, e.stride);
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = i < count ? Number<T>::widen(((const T *)e.residual)[at(q + i / Lot * t.step + i % Lot)]) : A(0);
    }
    __device__ void store(T *to, const int64_t (&stride)[5], const A (&from)[N]) const
    {
        T out[N];
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = Number<T>::round(from[i]);
        store_lots<T, N, Lot>(out, to, PassCursor<Linear>(p.shape, t, stride), q, (I)t.step, t.end);
    }

    __device__ void forward(int32_t i)          // v[i + 1] from v[i]
    {
        const Entry<A> &e = p.list.entry[i];
        if (e.kind == CONVT3D_OP_ADD || e.kind == CONVT3D_OP_MULTIPLY) {
            A r[N];
            load_residual(e, r);
            for (int j = 0; j < N; j++) v[i + 1][j] = e.kind == CONVT3D_OP_ADD ? v[i][j] + r[j] : v[i][j] * r[j];
        } else if (e.kind == CONVT3D_OP_CHANNEL_AFFINE || p.entry[i].mean) {
            A mean = 0, scale = e.scale ? e.scale[t.c] : A(1), shift = e.shift ? e.shift[t.c] : A(0);
            if (p.entry[i].mean) {
                Found<A> found = found_of(p, i, t.n, t.c);
                mean = found.mean;
                scale *= found.rstd;
            }
            for (int j = 0; j < N; j++) v[i + 1][j] = (v[i][j] - mean) * scale + shift;
        } else map_in_memory(e.kind, e.a, e.b, v[i], v[i + 1]);
    }

    __device__ void measure(int32_t i, double (&sum)[2]) const
    {
        A mean = 0, rstd = 1, products = 0, all = 0;
        if (p.entry[i].mean) {
            Found<A> found = found_of(p, i, t.n, t.c);
            mean = found.mean;
            rstd = found.rstd;
        }
        for (int j = 0; j < N; j++)
            if (j < count) {
                products += d[j] * ((v[i][j] - mean) * rstd);
                all += d[j];
            }
        sum[0] += (double)products;
        sum[1] += (double)all;
    }

    __device__ void back_norm(int32_t i)
    {
        Found<A> found = found_of(p, i, t.n, t.c);
        const double *means = p.entry[i].means + 2 * found.set;
        A scale = p.list.entry[i].scale ? p.list.entry[i].scale[t.c] : A(1), m0 = (A)means[0], m1 = (A)means[1];
        for (int j = 0; j < N; j++)
            d[j] = found.rstd * (d[j] * scale - m1 - (v[i][j] - found.mean) * found.rstd * m0);
    }

    __device__ void back_residual(int32_t i)
    {
        const Entry<A> &e = p.list.entry[i];
        T *to = p.norm < 0 ? p.entry[i].d_residual : NULL;
        A other[N], old[N];
        if (to) {
            for (int j = 0; j < N; j++) other[j] = e.kind == CONVT3D_OP_MULTIPLY ? d[j] * v[i][j] : d[j];
            if (p.accumulate) {
                load(to, p.g_stride, old);
                for (int j = 0; j < N; j++) other[j] += old[j];
            }
            store(to, p.g_stride, other);
        }
        if (e.kind != CONVT3D_OP_MULTIPLY) return;
        load_residual(e, other);
        for (int j = 0; j < N; j++) d[j] *= other[j];
    }

    __device__ void back(int32_t i, double (&sums)[CONVT3D_MAX_OPS][2])
    {
        const Entry<A> &e = p.list.entry[i];
        if (p.entry[i].mean) back_norm(i);
        else if (e.kind == CONVT3D_OP_CHANNEL_AFFINE) {
            A scale = e.scale ? e.scale[t.c] : A(1);
            if (p.norm < 0 && p.sums_between) measure(i, sums[i]);
            for (int j = 0; j < N; j++) d[j] *= scale;
        } else if (e.kind == CONVT3D_OP_ADD || e.kind == CONVT3D_OP_MULTIPLY) back_residual(i);
        else map_back_in_memory(e.kind, e.a, e.b, p.saves == CONVT3D_SAVES_OUTPUT, v[i], d);
    }

    __device__ void run(I voxel, double (&sums)[CONVT3D_MAX_OPS][2])
    {
        q = voxel;
        count = (int)min((I)N, (t.end - q + t.step - 1) / t.step * Lot);
        if (p.saves == CONVT3D_SAVES_OUTPUT) load(p.values, p.values_stride, v[p.curved]);
        if (p.saves == CONVT3D_SAVES_CONVOLUTION) {
            load(p.values, p.values_stride, v[0]);
            for (int32_t i = 0; i < p.curved; i++) forward(i);
        }
        load(p.dy, p.dy_stride, d);
        for (int32_t i = p.list.count - 1; i > p.norm; i--) back(i, sums);
        if (p.norm >= 0) measure(p.norm, sums[p.norm]);
        else if (p.g) store(p.g, p.g_stride, d);
    }
};

template <class T, bool Linear, int Lot>
__global__ void __launch_bounds__(PASS_THREADS) back_kernel(const __grid_constant__ Back<T> p, int64_t blocks)
{
    typedef typename PassCursor<Linear>::I I;
    __shared__ double shared[PASS_THREADS];
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        PassThread<I> t = pass_thread<I, Lot>(p.shape, block);
        BackRound<T, Linear, Lot> round(p, t);
        double sums[CONVT3D_MAX_OPS][2] = {};
        for (I q = t.begin; t.inside && q < t.end; q += BACK_VALUES / Lot * t.step) round.run(q, sums);
        for (int32_t i = 0; i < p.list.count; i++) {
            bool between = p.norm < 0 && p.sums_between && p.list.entry[i].kind == CONVT3D_OP_CHANNEL_AFFINE;
            if (i != p.norm && !between) continue;
            double products = sum_of_slots(sums[i][0], shared, p.shape.lanes);
            double all = sum_of_slots(sums[i][1], shared, p.shape.lanes);
            double *to = p.entry[i].sums + 2 * (t.unit * p.shape.channels + t.c);
            if (t.slot == 0 && t.inside) { to[0] = products;  to[1] = all; }
        }
    }
}

// One block for one set of entry p.norm: the means of d*scale*normalised v and of d*scale. As settle_kernel.
template <class T> __global__ void __launch_bounds__(BACK_SETTLE) back_settle_kernel(const __grid_constant__ Back<T> p)
{
    __shared__ double shared[2][BACK_SETTLE];
    const BackEntry<T> &e = p.entry[p.norm];
    const typename Number<T>::Accumulator *scale = p.list.entry[p.norm].scale;
    const Pass &s = p.shape;
    int64_t sets = e.groups ? s.batch * e.groups : s.channels, each = e.groups ? s.channels / e.groups : 1;
    for (int64_t set = blockIdx.x; set < sets; set += gridDim.x) {
        int64_t n0 = e.groups ? set / e.groups : 0, samples = e.groups ? 1 : s.batch;
        int64_t first = e.groups ? set % e.groups * each : set, items = samples * s.parts * each;
        double sum[2] = {0, 0};
        for (int64_t i = threadIdx.x; i < items; i += BACK_SETTLE) {
            int64_t c = first + i % each;
            const double *part = e.sums + 2 * ((n0 * s.parts + i / each) * s.channels + c);
            double by = scale ? (double)scale[c] : 1;
            sum[0] += by * part[0];
            sum[1] += by * part[1];
        }
        for (int k = 0; k < 2; k++) shared[k][threadIdx.x] = sum[k];
        __syncthreads();
        for (int half = BACK_SETTLE / 2; half > 0; half /= 2) {
            if ((int)threadIdx.x < half)
                for (int k = 0; k < 2; k++) shared[k][threadIdx.x] += shared[k][threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x < 2)
            e.means[2 * set + threadIdx.x] =
                shared[threadIdx.x][0] / ((double)samples * (double)each * (double)s.voxels);
        __syncthreads();
    }
}

template <class T> Back<T> back_of(const convt3d__plan *plan, const convt3d_io *io, void *g)
{
    typedef typename Number<T>::Accumulator A;
    Back<T> p = {};
    int64_t units = plan->desc.batch * convt3d__moment_parts(plan), channels = plan->desc.out_channels;
    double *sums = (double *)convt3d__workspace_part(plan, io->workspace, 0);
    double *means = sums + 2 * convt3d__scale_slot(plan, plan->op_count) * units * channels;
    p.shape = pass_shape(plan, plan->stored_stride);
    p.list = list_of<T>(plan, io, 0, plan->op_count);
    p.dy = (const T *)io->dy;
    p.values = (const T *)(plan->saves == CONVT3D_SAVES_OUTPUT ? io->y : io->saved);
    p.g = (T *)g;
    for (int s = 0; s < 5; s++) {
        p.dy_stride[s] = plan->desc.dy_stride[s];
        p.values_stride[s] = plan->saves == CONVT3D_SAVES_OUTPUT ? plan->desc.y_stride[s] : plan->stored_stride[s];
        p.g_stride[s] = plan->stored_stride[s];
    }
    p.saves = plan->saves;  p.curved = plan->curved;
    p.sums_between = (plan->pass & CONVT3D_BACKWARD_OPS) != 0;
    p.accumulate = (plan->desc.accumulate & CONVT3D_BACKWARD_OPS) != 0;
    for (int32_t i = 0; i < plan->op_count; i++) {
        int64_t slot = convt3d__scale_slot(plan, i);
        p.entry[i].mean = (const A *)io->ops[i].mean;
        p.entry[i].rstd = (const A *)io->ops[i].rstd;
        p.entry[i].groups = plan->desc.ops[i].groups;
        p.entry[i].sums = sums + 2 * slot * units * channels;
        p.entry[i].means = means + 2 * slot * plan->desc.batch * channels;
        p.entry[i].d_residual = (T *)io->ops[i].d_residual;
    }
    return p;
}

template <class T, bool Linear, int Lot> struct BackKernels {
    typedef T Element;
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        typedef typename Number<T>::Accumulator A;
        convt3d_status status = convt3d__load_kernel(error, plan, back_kernel<T, Linear, Lot>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, back_settle_kernel<T>, 0);
        return status == CONVT3D_OK ? convt3d__load_kernel(error, plan, columns_kernel<double, A>, 0) : status;
    }
    static convt3d_status pass(const Back<T> &p, void *stream, convt3d_error *error)
    {
        int64_t blocks = p.shape.batch * p.shape.parts * p.shape.channel_tiles;
        return convt3d__launch(error, back_kernel<T, Linear, Lot>, dim3((unsigned)convt3d__min(blocks, INT32_MAX)),
                               dim3(PASS_THREADS), 0, stream, p, blocks);
    }
};

template <class T> convt3d_status back_settle(const Back<T> &p, void *stream, convt3d_error *error)
{
    int64_t groups = p.entry[p.norm].groups, sets = groups ? p.shape.batch * groups : p.shape.channels;
    return convt3d__launch(error, back_settle_kernel<T>, dim3((unsigned)convt3d__min(sets, INT32_MAX)),
                           dim3(BACK_SETTLE), 0, stream, p);
}

// d_scale or d_shift of an entry: the sum over the units of its `which`-th sums.
template <class T>
convt3d_status back_vector(const Back<T> &p, int32_t i, int which, void *to, void *stream, convt3d_error *error)
{
    typedef typename Number<T>::Accumulator A;
    int64_t units = p.shape.voxels > 0 ? p.shape.batch * p.shape.parts : 0;
    Columns<double, A> all = {p.entry[i].sums + which, units, 2 * p.shape.channels, p.shape.channels, 2, (A *)to,
                              p.accumulate};
    return to ? run_columns(all, stream, error) : CONVT3D_OK;
}

template <class Kernels, class T = typename Kernels::Element>
convt3d_status back_run(const convt3d__plan *plan, const convt3d_io *io, Back<T> &p, convt3d_error *error)
{
    convt3d_status status = CONVT3D_OK;
    for (p.norm = plan->op_count - 1; p.norm >= -1 && status == CONVT3D_OK && plan->y_count > 0; p.norm--) {
        if (p.norm >= 0 && !(convt3d__op_uses(plan->desc.ops[p.norm].kind) & CONVT3D_USES_STATISTICS)) continue;
        status = Kernels::pass(p, io->stream, error);
        if (p.norm >= 0 && status == CONVT3D_OK) status = back_settle(p, io->stream, error);
    }
    for (int32_t i = 0; i < plan->op_count; i++) {
        if (status == CONVT3D_OK) status = back_vector(p, i, 0, io->ops[i].d_scale, io->stream, error);
        if (status == CONVT3D_OK) status = back_vector(p, i, 1, io->ops[i].d_shift, io->stream, error);
    }
    return status;
}

// Linear: all tensors of the list are, and 32 bits hold them.
static bool back_is_linear(const convt3d__plan *plan, const Pass &shape)
{
    bool linear = is_linear(shape, plan->desc.dy_stride) && is_linear(shape, plan->stored_stride);
    if (plan->saves == CONVT3D_SAVES_OUTPUT) linear = linear && is_linear(shape, plan->desc.y_stride);
    for (int32_t i = 0; i < plan->op_count; i++)
        if (convt3d__op_uses(plan->desc.ops[i].kind) & CONVT3D_USES_RESIDUAL)
            linear = linear && is_linear(shape, plan->desc.ops[i].stride);
    return linear;
}

// Lots: what is read or written in them is aligned for that.
template <class T> bool back_is_lots(const Back<T> &p)
{
    bool lots = is_lots(p.shape, p.dy, p.dy_stride, sizeof(T)) && is_lots(p.shape, p.g, p.g_stride, sizeof(T)) &&
                is_lots(p.shape, p.values, p.values_stride, sizeof(T));
    for (int32_t i = 0; i < p.list.count; i++)
        lots = lots && is_lots(p.shape, p.entry[i].d_residual, p.g_stride, sizeof(T));
    return lots;
}

template <class T>
convt3d_status back_typed(const convt3d__plan *plan, const convt3d_io *io, void *g, convt3d_error *error)
{
    Back<T> p = back_of<T>(plan, io, g);
    if (!back_is_linear(plan, p.shape)) return back_run<BackKernels<T, false, 1>>(plan, io, p, error);
    return back_is_lots(p) ? back_run<BackKernels<T, true, 4>>(plan, io, p, error) :
                             back_run<BackKernels<T, true, 1>>(plan, io, p, error);
}

template <class T> convt3d_status back_typed_ready(const convt3d__plan *plan, convt3d_error *error)
{
    convt3d_status status;
    if (!back_is_linear(plan, pass_shape(plan, plan->stored_stride)))
        return BackKernels<T, false, 1>::ready(plan, error);
    status = BackKernels<T, true, 4>::ready(plan, error);       // which of them, the pointers to come decide
    return status == CONVT3D_OK ? BackKernels<T, true, 1>::ready(plan, error) : status;
}

}

extern "C" convt3d_status convt3d__cuda_list_backward(const convt3d__plan *plan, const convt3d_io *io, void *g,
                                                      convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    return convt3d_cuda::with_element(plan, [=](auto element) {
        return convt3d_cuda::back_typed<decltype(element)>(plan, io, g, error);
    });
}

// What a backward pass wants beside its kernels: the list's, and the exchange of weights for dx.
extern "C" convt3d_status convt3d__cuda_backward_ready(const convt3d__plan *plan, convt3d_error *error)
{
    convt3d_status status = plan->pass & CONVT3D_BACKWARD_X ? convt3d__cuda_flip_ready(plan, error) : CONVT3D_OK;
    if (status != CONVT3D_OK || plan->op_count == 0) return status;
    return convt3d_cuda::with_element(plan, [=](auto element) {
        return convt3d_cuda::back_typed_ready<decltype(element)>(plan, error);
    });
}

#endif
