// Passes over the output, after any kernel, for the entries of the list that it does not apply itself. One with
// GROUP_NORM or BATCH_NORM first takes moments of what is stored, and a small kernel settles mean and deviation; the
// entries before the normalisation are applied in both readings, which costs less than storing what they give. A
// GROUP_NORM whose sets are small is one kernel, which finishes a set shortly after it has measured it.
//
// Idea      Moments (count, mean, sum of squared deviations) merged by Chan's formula in an order that the shape alone
//           fixes: inside a thread a batch of values at a time, each by two passes over registers around its first
//           value, then over the threads of a block, then over the blocks of a set. No sums of squares, no atomics.
//           A block's threads are `lanes` neighbouring channels by 256/lanes neighbouring voxels, or lots of 4 of them:
//           one lane where voxels lie side by side (NCDHW), up to 32 where channels do (NDHWC); so either layout is
//           read and written in whole sectors, and the first in accesses of 16 bytes.
// Requires  nothing. Views whose voxels have one stride throughout (all dense ones) need no division per element.
// Traffic   reads the stored tensor once, twice with a normalisation, and writes the output once. One kernel finds in
//           the L2 two fifths of what it reads again.
// Measured  one H200: group_norm of 322 MB (kb_l2_61) 0.267 ms; by three kernels 0.311 ms (measuring 0.103, finishing
//           0.203), which is 3.1 TB/s.
// CONVT3D_CUDA_PART 8; sums.cuh and list_backward.cuh go over tensors in the same way.
#pragma once

#if CONVT3D__PART(8) || CONVT3D__PART(10) || CONVT3D__PART(11)

namespace convt3d_cuda {

enum { PASS_THREADS = 256, PASS_SETTLE = 128, PASS_MEASURED = 16, PASS_FINISHED = 8 };     // values a thread and round

struct Moments { double count, mean, m2; };

static __device__ __forceinline__ Moments merge(const Moments &a, const Moments &b)
{
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    double count = a.count + b.count, delta = b.mean - a.mean, share = a.count == b.count ? 0.5 : b.count / count;
    return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

// A pass of outputs of type T. `before` precedes the normalisation, `after` follows it.
template <class T> struct PassLists { List<T> before, after; };

struct Pass {
    const void *from;
    void *to;
    Moments *moments;                       // [batch][parts][channels]
    double *set;                            // [sets][2]: mean, rstd
    const void *scale, *shift;              // of the accumulator's type, or null
    void *mean, *rstd, *running_mean, *running_var;
    double eps, momentum;
    int64_t batch, channels, groups;        // groups 0: of a batch normalisation
    int64_t parts, part_voxels, voxels, height, width;
    int64_t from_stride[5], to_stride[5];
    int32_t lanes;                          // power of two, at most 32
    int32_t normalises, multiprocessors;
    int64_t channel_tiles;
};

// The channel and the voxels that a thread looks at: lots of Lot neighbours from begin, begin + step, ..., below end.
template <class I> struct PassThread {
    int64_t n, c, unit;
    I begin, end;
    int32_t step, slot;
    bool inside;
};

template <class I, int Lot> __device__ __forceinline__ PassThread<I> pass_thread(const Pass &p, int64_t block)
{
    PassThread<I> t;
    int64_t tile = block % p.channel_tiles, part;
    t.unit = block / p.channel_tiles;
    t.n = t.unit / p.parts;
    part = t.unit - t.n * p.parts;
    t.slot = threadIdx.x / p.lanes;
    t.step = PASS_THREADS / p.lanes * Lot;
    t.c = tile * p.lanes + threadIdx.x % p.lanes;
    t.inside = t.c < p.channels;
    t.end = (I)min(p.voxels, (part + 1) * p.part_voxels);
    t.begin = (I)(part * p.part_voxels) + t.slot * Lot;
    return t;
}

// Elements of one tensor for the voxels of one thread. Linear: the voxels of a channel have one stride, and 32 bits
// hold what they span.
template <bool Linear> struct PassCursor;

template <> struct PassCursor<true> {
    typedef int32_t I;
    int64_t base;
    int32_t unit;
    __device__ PassCursor(const Pass &, const PassThread<I> &t, const int64_t (&s)[5])
        : base(t.n * s[0] + t.c * s[1]), unit((int32_t)s[4]) {}
    __device__ int64_t operator()(I q) const { return base + q * unit; }
};

template <> struct PassCursor<false> {
    typedef int64_t I;
    int64_t base, d, h, w, height, width;
    __device__ PassCursor(const Pass &p, const PassThread<I> &t, const int64_t (&s)[5])
        : base(t.n * s[0] + t.c * s[1]), d(s[2]), h(s[3]), w(s[4]), height(p.height), width(p.width) {}
    __device__ int64_t operator()(I q) const
    {
        return base + q / (height * width) * d + q / width % height * h + q % width * w;
    }
};

// Voxels q, q + 1, ... of a lot, for N values in lots: value i is voxel q + i / Lot * step + i % Lot.
template <class V, int N, int Lot, class I, class Cursor>
__device__ __forceinline__ void load_lots(V (&v)[N], const void *from, const Cursor &at, I q, I step, I end)
{
    struct alignas(Lot * sizeof(V) > 16 ? 16 : Lot * sizeof(V)) Pack { V v[Lot]; };
#pragma unroll
    for (int i = 0; i < N / Lot; i++) {
        Pack pack = {};
        if (q + i * step < end) pack = *(const Pack *)((const V *)from + at(q + i * step));
#pragma unroll
        for (int j = 0; j < Lot; j++) v[i * Lot + j] = pack.v[j];
    }
}

template <class V, int N, int Lot, class I, class Cursor>
__device__ __forceinline__ void store_lots(const V (&v)[N], void *to, const Cursor &at, I q, I step, I end)
{
    struct alignas(Lot * sizeof(V) > 16 ? 16 : Lot * sizeof(V)) Pack { V v[Lot]; };
#pragma unroll
    for (int i = 0; i < N / Lot; i++) {
        Pack pack;
#pragma unroll
        for (int j = 0; j < Lot; j++) pack.v[j] = v[i * Lot + j];
        if (q + i * step < end) *(Pack *)((V *)to + at(q + i * step)) = pack;
    }
}

// A list on values that load_lots() brought.
template <bool Linear, int Lot, class T, int N, class I>
__device__ __forceinline__ void apply_in_pass(const List<T> &list, typename Number<T>::Accumulator (&v)[N],
                                              const Pass &p, const PassThread<I> &t, I q)
{
    apply_list(list, v, [&](int) { return t.c; }, [&](int i, const int64_t (&s)[5]) {
        I voxel = q + i / Lot * t.step;
        return PassCursor<Linear>(p, t, s)((voxel < t.end ? voxel : q) + i % Lot);
    });
}

// The first `count` of N values, around the first of them: what is left after that subtraction has few digits to lose.
template <class A, int N> __device__ __forceinline__ Moments moments_of(const A (&v)[N], int count)
{
    A d[N], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        d[i] = i < count ? v[i] - v[0] : A(0);
        sum += d[i];
    }
    A mean = sum / (A)count;
#pragma unroll
    for (int i = 0; i < N; i++) if (i < count) squares += (d[i] - mean) * (d[i] - mean);
    return {(double)count, (double)v[0] + (double)mean, (double)squares};
}

// N values of the accumulator's type from lots of In.
template <class A, class In, int N, int Lot, class I, class Cursor>
__device__ __forceinline__ void load_wide(A (&v)[N], const void *from, const Cursor &at, I q, I step, I end)
{
    In raw[N];
    load_lots<In, N, Lot>(raw, from, at, q, step, end);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = Number<In>::widen(raw[i]);
}

// Merges what the threads of a block found, those `least` apart; shared[i] is right for i < least.
static __device__ __forceinline__ void merge_block(Moments (&shared)[PASS_THREADS], const Moments &mine, int most,
                                                   int least)
{
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (int half = most / 2; half >= least; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] = merge(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
}

// The moments of a block's voxels, in shared[] by channel. In: the type read.
template <class T, class In, bool Linear, int Lot, int N>
__device__ __forceinline__ PassThread<typename PassCursor<Linear>::I>
measure_block(const Pass &p, const List<T> &before, int64_t block, Moments (&shared)[PASS_THREADS])
{
    typedef typename Number<T>::Accumulator A;
    typedef typename PassCursor<Linear>::I I;
    PassThread<I> t = pass_thread<I, Lot>(p, block);
    PassCursor<Linear> at(p, t, p.from_stride);
    Moments all = {0, 0, 0};
    for (I q = t.begin; t.inside && q < t.end; q += N / Lot * t.step) {
        A v[N];
        load_wide<A, In, N, Lot>(v, p.from, at, q, (I)t.step, t.end);
        if (before.count > 0) apply_in_pass<Linear, Lot>(before, v, p, t, q);
        if (q + (N / Lot - 1) * t.step < t.end) all = merge(all, moments_of(v, N));
        else all = merge(all, moments_of(v, (int)((t.end - q + t.step - 1) / t.step) * Lot));
    }
    merge_block(shared, all, PASS_THREADS, p.lanes);
    return t;
}

// Lot: 4 where from and to are Linear with neighbouring voxels, in whole lots that are aligned, else 1.
template <class T, class In, bool Linear, int Lot>
__global__ void __launch_bounds__(PASS_THREADS) measure_kernel(const __grid_constant__ Pass p,
                                                               const __grid_constant__ List<T> before, int64_t blocks)
{
    __shared__ Moments shared[PASS_THREADS];
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        // The last first: the L2 still has it.
        auto t = measure_block<T, In, Linear, Lot, PASS_MEASURED>(p, before, blocks - 1 - block, shared);
        if (t.slot == 0 && t.inside) p.moments[t.unit * p.channels + t.c] = shared[threadIdx.x];
        __syncthreads();
    }
}

template <class A> __device__ __forceinline__ void run_on(void *running, int64_t set, double momentum, double found)
{
    A *r = (A *)running;
    if (r) r[set] = (A)((1 - momentum) * (double)r[set] + momentum * found);
}

// One block for one set: its channels and parts in the order n, part, channel, dealt to the threads in turn.
template <class A> __global__ void __launch_bounds__(PASS_SETTLE) settle_kernel(const __grid_constant__ Pass p)
{
    __shared__ Moments shared[PASS_SETTLE];
    int64_t sets = p.groups ? p.batch * p.groups : p.channels, each = p.groups ? p.channels / p.groups : 1;
    for (int64_t set = blockIdx.x; set < sets; set += gridDim.x) {
        int64_t n0 = p.groups ? set / p.groups : 0, samples = p.groups ? 1 : p.batch;
        int64_t first = p.groups ? set % p.groups * each : set, items = samples * p.parts * each;
        Moments all = {0, 0, 0};
        for (int64_t i = threadIdx.x; i < items; i += PASS_SETTLE)
            all = merge(all, p.moments[(n0 * p.parts + i / each) * p.channels + first + i % each]);
        shared[threadIdx.x] = all;
        __syncthreads();
        for (int half = PASS_SETTLE / 2; half > 0; half /= 2) {
            if ((int)threadIdx.x < half) shared[threadIdx.x] = merge(shared[threadIdx.x], shared[threadIdx.x + half]);
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            all = shared[0];
            double rstd = 1 / sqrt(all.m2 / all.count + p.eps);
            p.set[2 * set] = all.mean;
            p.set[2 * set + 1] = rstd;
            if (p.mean) ((A *)p.mean)[set] = (A)all.mean;
            if (p.rstd) ((A *)p.rstd)[set] = (A)rstd;
            run_on<A>(p.running_mean, set, p.momentum, all.mean);
            run_on<A>(p.running_var, set, p.momentum, all.m2 / (all.count - 1));
        }
        __syncthreads();
    }
}

// (v - mean)*scale + shift of one channel; the mean in two parts, so that its rounding costs nothing.
template <class A> struct Normal {
    A mean, rest, scale, shift;
    __device__ Normal(const Pass &p, int64_t c, double found, double rstd)
    {
        mean = (A)found;
        rest = (A)(found - (double)mean);
        scale = (A)(rstd * (p.scale ? (double)((const A *)p.scale)[c] : 1));
        shift = p.shift ? ((const A *)p.shift)[c] : A(0);
    }
    __device__ A operator()(A v) const { return ((v - mean) - rest) * scale + shift; }
};

// A block's outputs. Out: the type written.
template <class T, class In, class Out, bool Linear, int Lot, int N>
__device__ __forceinline__ void finish_block(const Pass &p, const PassLists<T> &lists,
                                             const PassThread<typename PassCursor<Linear>::I> &t,
                                             const Normal<typename Number<T>::Accumulator> &normal)
{
    typedef typename Number<T>::Accumulator A;
    typedef typename PassCursor<Linear>::I I;
    PassCursor<Linear> from(p, t, p.from_stride), to(p, t, p.to_stride);
    for (I q = t.begin; q < t.end; q += N / Lot * t.step) {
        A v[N];
        Out out[N];
        load_wide<A, In, N, Lot>(v, p.from, from, q, (I)t.step, t.end);
        if (lists.before.count > 0) apply_in_pass<Linear, Lot>(lists.before, v, p, t, q);
        if (p.normalises)
#pragma unroll
            for (int i = 0; i < N; i++) v[i] = normal(v[i]);
        if (lists.after.count > 0) apply_in_pass<Linear, Lot>(lists.after, v, p, t, q);
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = Number<Out>::round(v[i]);
        store_lots<Out, N, Lot>(out, p.to, to, q, (I)t.step, t.end);
    }
}

template <class T, class In, class Out, bool Linear, int Lot>
__global__ void __launch_bounds__(PASS_THREADS) finish_kernel(const __grid_constant__ Pass p,
                                                              const __grid_constant__ PassLists<T> lists,
                                                              int64_t blocks)
{
    typedef typename Number<T>::Accumulator A;
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        auto t = pass_thread<typename PassCursor<Linear>::I, Lot>(p, block);
        if (!t.inside) continue;
        int64_t set = p.groups ? t.n * p.groups + t.c / (p.channels / p.groups) : t.c;
        Normal<A> normal(p, t.c, p.normalises ? p.set[2 * set] : 0, p.normalises ? p.set[2 * set + 1] : 1);
        finish_block<T, In, Out, Linear, Lot, PASS_FINISHED>(p, lists, t, normal);
    }
}

// ---- Measured and finished by one kernel ----

// Block number i of all, set by set: n, group, part, channel; p.lanes is 1.
static __device__ __forceinline__ int64_t block_by_set(const Pass &p, int64_t i)
{
    int64_t each = p.channels / p.groups, of_set = p.parts * each, set = i / of_set, rest = i - set * of_set;
    int64_t n = set / p.groups, part = rest / each;
    return (n * p.parts + part) * p.channels + (set - n * p.groups) * each + rest - part * each;
}

// Moments that another block left, once it has; bytes of ones stand where none are yet.
static __device__ __forceinline__ Moments await_moments(const Moments *at)
{
    Moments m;
    unsigned long long count;
    do asm volatile("ld.acquire.gpu.global.b64 %0, [%1];" : "=l"(count) : "l"(&at->count) : "memory");
    while (count == ~0ull);
    m.count = __longlong_as_double((long long)count);
    m.mean = __ldcg(&at->mean);
    m.m2 = __ldcg(&at->m2);
    return m;
}

static __device__ __forceinline__ void leave_moments(Moments *at, const Moments &m)
{
    __stcg(&at->mean, m.mean);
    __stcg(&at->m2, m.m2);
    asm volatile("st.release.gpu.global.b64 [%0], %1;"
                 :: "l"(&at->count), "l"(__double_as_longlong(m.count)) : "memory");
}

// Blocks of the tensor are measured in turn, and finished `lag` blocks later, from the L2. Turns: `lag` measured, then
// one of each, then the rest finished. Whoever is free takes the next turn, so what a block waits for was taken before
// its own turn, by one that runs: nothing waits in a circle. The last blocks come first: the kernel before left them
// in the L2.
template <class T, class In, class Out, int Lot>
__global__ void __launch_bounds__(PASS_THREADS, 4) normalise_kernel(const __grid_constant__ Pass p,
                                                                    const __grid_constant__ PassLists<T> lists,
                                                                    int64_t blocks, int64_t lag)
{
    typedef typename Number<T>::Accumulator A;
    __shared__ Moments shared[PASS_THREADS];
    __shared__ uint32_t taken;
    const int64_t each = p.channels / p.groups, of_set = p.parts * each;
    int most = 1;
    while (most < of_set) most *= 2;
    uint32_t next = 0;      // of the first thread: the turn after this, asked for while this one is worked on
    if (threadIdx.x == 0) next = atomicAdd((uint32_t *)p.set, 1u) + 1;      // it begins as ones
    for (;;) {
        if (threadIdx.x == 0) {
            taken = next;
            next = atomicAdd((uint32_t *)p.set, 1u) + 1;
        }
        __syncthreads();
        const int64_t turn = taken, odd = turn - lag;
        if (turn >= 2 * blocks) return;
        const bool measures = turn < lag || (turn < 2 * blocks - lag && odd % 2 == 0);
        const int64_t i = turn < lag ? turn : turn >= 2 * blocks - lag ? turn - blocks : odd / 2 + (measures ? lag : 0);
        const int64_t block = block_by_set(p, blocks - 1 - i);
        if (measures) {
            auto t = measure_block<T, In, true, Lot, PASS_MEASURED>(p, lists.before, block, shared);
            if (threadIdx.x == 0) leave_moments(p.moments + t.unit * p.channels + t.c, shared[0]);
        } else {
            auto t = pass_thread<typename PassCursor<true>::I, Lot>(p, block);
            const int64_t group = t.c / each, item = threadIdx.x;
            Moments all = {0, 0, 0};
            if (item < of_set)
                all = await_moments(p.moments + (t.n * p.parts + item / each) * p.channels + group * each +
                                    item % each);
            merge_block(shared, all, most, 1);
            all = shared[0];
            const double rstd = 1 / sqrt(all.m2 / all.count + p.eps);
            if (threadIdx.x == 0 && t.c % each == 0 && t.unit % p.parts == 0) {
                if (p.mean) ((A *)p.mean)[t.n * p.groups + group] = (A)all.mean;
                if (p.rstd) ((A *)p.rstd)[t.n * p.groups + group] = (A)rstd;
            }
            finish_block<T, In, Out, true, Lot, 2 * PASS_FINISHED>(p, lists, t, Normal<A>(p, t.c, all.mean, rstd));
        }
        __syncthreads();
    }
}

static bool is_linear(const Pass &p, const int64_t s[5])
{
    return (p.height == 1 || s[3] == p.width * s[4]) &&
           (p.voxels == p.height * p.width || s[2] == p.height * p.width * s[4]) &&
           (p.voxels + (PASS_MEASURED + 1) * PASS_THREADS) < INT32_MAX / convt3d__max(s[4], 1);
}

// Whether 4 neighbouring voxels of every channel are one aligned access.
static bool is_lots(const Pass &p, const void *data, const int64_t s[5], size_t element)
{
    return s[4] == 1 && (uintptr_t)data % (element == 8 ? 16 : 4 * element) == 0 && s[0] % 4 == 0 && s[1] % 4 == 0 &&
           p.voxels % 4 == 0;
}

// How the output is dealt to blocks and threads, for a tensor of these strides.
static Pass pass_shape(const convt3d__plan *plan, const int64_t stride[5])
{
    Pass p = {};
    p.batch = plan->desc.batch;  p.channels = plan->desc.out_channels;
    p.parts = convt3d__moment_parts(plan);
    p.height = plan->axis[1].out;  p.width = plan->axis[2].out;  p.voxels = plan->axis[0].out * p.height * p.width;
    p.part_voxels = convt3d__ceil_div(convt3d__ceil_div(p.voxels, p.parts), 64) * 64;
    p.lanes = 1;
    if (stride[1] < stride[4]) while (p.lanes < 32 && p.lanes < p.channels) p.lanes *= 2;
    p.channel_tiles = convt3d__ceil_div(p.channels, p.lanes);
    p.multiprocessors = (int32_t)convt3d__max(plan->multiprocessors, 1);
    return p;
}

}

#if CONVT3D__PART(8)

namespace convt3d_cuda {

static Pass pass_of(const convt3d__plan *plan, const convt3d_io *io, int32_t index)
{
    Pass p = pass_shape(plan, plan->stored_stride);
    const int32_t norm = convt3d__next_norm(plan, index);
    p.normalises = norm < plan->op_count;
    const convt3d_op &op = plan->desc.ops[p.normalises ? norm : index];
    const convt3d_op_io &tensors = io->ops[p.normalises ? norm : index];
    const int32_t end = convt3d__pass_end(plan, index);
    const bool last = end == plan->op_count;
    p.from = convt3d__stored_at(plan, io, index);
    p.to = last ? io->y : convt3d__stored_at(plan, io, end);
    for (int i = 0; i < 5; i++) {
        p.from_stride[i] = plan->stored_stride[i];
        p.to_stride[i] = last ? plan->desc.y_stride[i] : plan->stored_stride[i];
    }
    p.scale = tensors.scale;  p.shift = tensors.shift;  p.mean = tensors.mean;  p.rstd = tensors.rstd;
    p.running_mean = tensors.running_mean;  p.running_var = tensors.running_var;
    p.eps = op.a;  p.momentum = op.b;  p.groups = op.groups;
    p.moments = (Moments *)convt3d__workspace_part(plan, io->workspace, 0);
    p.set = (double *)(p.moments + p.batch * p.parts * p.channels);
    return p;
}

template <class T, class In, class Out, bool Linear, int Lot> struct PassKernels {
    typedef typename Number<T>::Accumulator A;
    static convt3d_status ready(const convt3d__plan *plan, convt3d_error *error)
    {
        convt3d_status status = convt3d__load_kernel(error, plan, measure_kernel<T, In, Linear, Lot>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, settle_kernel<A>, 0);
        if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, finish_kernel<T, In, Out, Linear, Lot>, 0);
        if constexpr (Lot > 1) {
            if (status == CONVT3D_OK) status = convt3d__load_kernel(error, plan, normalise_kernel<T, In, Out, Lot>, 0);
            // The pointers to come may be less aligned.
            if (status == CONVT3D_OK) status = PassKernels<T, In, Out, Linear, 1>::ready(plan, error);
        }
        return status;
    }
    // Whether one kernel serves: a set of few blocks, whose threads have one channel.
    static bool at_once(const Pass &p)
    {
        return p.normalises && p.groups > 0 && p.lanes == 1 && p.parts * (p.channels / p.groups) <= PASS_THREADS &&
               p.batch * p.parts * p.channels < INT32_MAX / 2;
    }
    static convt3d_status run_at_once(const Pass &p, const PassLists<T> &lists, void *stream, convt3d_error *error)
    {
        const int64_t blocks = p.batch * p.parts * p.channels, together = 4 * (int64_t)p.multiprocessors;
        const int64_t lag = convt3d__min(blocks, convt3d__max(together / 2 + p.parts * (p.channels / p.groups), 64));
        const size_t bytes = (size_t)blocks * sizeof(Moments) + 16;     // and the turn, which follows
        cudaError_t cause = cudaMemsetAsync(p.moments, 0xff, bytes, (cudaStream_t)stream);
        if (cause != cudaSuccess) return convt3d__cuda_fail(error, cause, 0);
        return convt3d__launch(error, normalise_kernel<T, In, Out, Lot>,
                               dim3((unsigned)convt3d__min(together, 2 * blocks)), dim3(PASS_THREADS), 0, stream, p,
                               lists, blocks, lag);
    }
    static convt3d_status run(const Pass &p, const PassLists<T> &lists, void *stream, convt3d_error *error)
    {
        if constexpr (Lot > 1)
            if (at_once(p)) return run_at_once(p, lists, stream, error);
        int64_t blocks = p.batch * p.parts * p.channel_tiles, sets = p.groups ? p.batch * p.groups : p.channels;
        dim3 grid((unsigned)convt3d__min(blocks, INT32_MAX)), settle((unsigned)convt3d__min(sets, INT32_MAX));
        convt3d_status status = CONVT3D_OK;
        if (p.normalises)
            status = convt3d__launch(error, measure_kernel<T, In, Linear, Lot>, grid, dim3(PASS_THREADS), 0, stream, p,
                                     lists.before, blocks);
        if (p.normalises && status == CONVT3D_OK)
            status = convt3d__launch(error, settle_kernel<A>, settle, dim3(PASS_SETTLE), 0, stream, p);
        if (status != CONVT3D_OK) return status;
        return convt3d__launch(error, finish_kernel<T, In, Out, Linear, Lot>, grid, dim3(PASS_THREADS), 0, stream, p,
                               lists, blocks);
    }
};

template <class T, class In, class Out, class Act> convt3d_status pass_lots(const Pass &p, bool linear, Act act)
{
    if (linear && is_lots(p, p.from, p.from_stride, sizeof(In)) && is_lots(p, p.to, p.to_stride, sizeof(Out)))
        return act(PassKernels<T, In, Out, true, 4>(), T());
    return linear ? act(PassKernels<T, In, Out, true, 1>(), T()) : act(PassKernels<T, In, Out, false, 1>(), T());
}

// act(the instance for this pass, a value of the output's type)
template <class T, class Act>
convt3d_status pass_instance(const Pass &p, const convt3d__plan *plan, int32_t index, Act act)
{
    typedef typename Number<T>::Accumulator A;
    int32_t end = convt3d__pass_end(plan, index);
    bool linear = is_linear(p, p.from_stride) && is_linear(p, p.to_stride);
    for (int32_t i = index; i < end; i++)
        if (convt3d__op_uses(plan->desc.ops[i].kind) & CONVT3D_USES_RESIDUAL)
            linear = linear && is_linear(p, plan->desc.ops[i].stride);
    if (convt3d__stored_dtype(plan, index) == plan->desc.dtype)
        return end == plan->op_count ? pass_lots<T, T, T>(p, linear, act) : pass_lots<T, T, A>(p, linear, act);
    return end == plan->op_count ? pass_lots<T, A, T>(p, linear, act) : pass_lots<T, A, A>(p, linear, act);
}

template <class Act> convt3d_status pass_dispatch(const Pass &p, const convt3d__plan *plan, int32_t index, Act act)
{
    switch (plan->desc.dtype) {
    case CONVT3D_F32: return pass_instance<float>(p, plan, index, act);
    case CONVT3D_F64: return pass_instance<double>(p, plan, index, act);
    case CONVT3D_F16: return pass_instance<__half>(p, plan, index, act);
    default:          return pass_instance<__nv_bfloat16>(p, plan, index, act);
    }
}

}

extern "C" convt3d_status convt3d__cuda_pass(const convt3d__plan *plan, const convt3d_io *io, int32_t index,
                                             convt3d_error *error)
{
    using namespace convt3d_cuda;
    Pass p = pass_of(plan, io, index);
    return pass_dispatch(p, plan, index, [&](auto kernels, auto type) {
        typedef decltype(type) T;
        int32_t norm = convt3d__next_norm(plan, index), end = convt3d__pass_end(plan, index);
        PassLists<T> lists = {list_of<T>(plan, io, index, norm),
                              list_of<T>(plan, io, (int32_t)convt3d__min(norm + 1, end), end)};
        return kernels.run(p, lists, io->stream, error);
    });
}

extern "C" CONVT3D__HIDDEN convt3d_status convt3d__cuda_backward_ready(const convt3d__plan *plan, convt3d_error *error);

extern "C" convt3d_status convt3d__cuda_pass_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_io none = {};
    convt3d_status status = CONVT3D_OK;
    if (plan->pass != CONVT3D_FORWARD) return convt3d__cuda_backward_ready(plan, error);
    for (int32_t i = plan->fused; i < plan->op_count && status == CONVT3D_OK; i = convt3d__pass_end(plan, i)) {
        Pass p = pass_of(plan, &none, i);
        status = pass_dispatch(p, plan, i, [&](auto kernels, auto) { return kernels.ready(plan, error); });
    }
    return status;
}

#endif
#endif
