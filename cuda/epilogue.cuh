// What happens to an accumulator between the last product and the one rounding: the bias, then the entries of the list
// that the kernel applies (convt3d.h, WHAT FOLLOWS THE CONVOLUTION). Every kernel ends here, and so do the passes
// (pass.cuh).
//
// Idea      Which entry it is, is decided once for all values that a thread holds. apply_in_registers() has the cheap
//           entries inlined for all values, and the others for some values at a time in a loop that moves those which
//           come next to the front: code stays short, and no value goes through memory. apply_common_first() takes
//           what most lists consist of, an affine head and one of four functions, before that loop. apply_list() has
//           them all inlined (passes); list_in_memory() is for values that lie in memory or come one by one. A kernel
//           says where its values are by functions: the channel of value i, its offset given strides, how it loads a
//           residual.
// f32       exp and 1/v are the unit's approximations, off by two units of the last place, and exp by a rounding of its
//           argument besides. docs/numerics.md, section 7, allows for both.
#pragma once

namespace convt3d_cuda {

template <class A> struct Entry {
    int32_t kind;
    int32_t like_y;                 // the residual has the strides of what the kernel stores
    int32_t aligned;                // it begins at a multiple of 16 bytes, and
    int32_t rows, channels;         // its rows (channels) lie side by side, from such multiples
    A a, b;
    const void *residual;           // of the output's type
    const A *scale, *shift;         // [out_channels] or null
    int64_t stride[5];              // of the residual
};

// Where the list begins with an affine entry, that is its head, which kernels may apply together with the bias: what it
// reads is then loaded with that, and waited for once. A sum becomes (sum + bias)*factor + term.
template <class A> struct Head {
    int32_t entries;                // 1: there is one
    A a, b;
    const A *scale, *shift;
    __device__ __forceinline__ A factor(int64_t channel) const { return scale ? scale[channel] : a; }
    __device__ __forceinline__ A term(int64_t channel) const { return shift ? shift[channel] : b; }
};

// The entry after the head (the first, where there is none) if it is one that most lists consist of: kernels find it
// where it does not depend on a counter. CLAMP stands for RELU6, too, LEAKY_RELU for slopes in (0, 1] alone.
template <class A> struct Common {
    int32_t kind;                   // RELU, CLAMP, LEAKY_RELU or SILU; -1: none of them
    int32_t next;                   // the entry that follows head and this one
    A a, b;
};

template <class T> struct List {
    typedef typename Number<T>::Accumulator Accumulator;
    int32_t count;
    int32_t residual;               // the first entry with one, or count
    Head<Accumulator> head;
    Common<Accumulator> common;
    Entry<Accumulator> entry[CONVT3D_MAX_OPS];
};

// Instances of a kernel: without a list, with one that is an affine head and a common entry at most, with any. The
// second has no loop over entries, no residual and no call, so that it costs little more than the first.
enum ListForm { NO_LIST, LIGHT_LIST, WHOLE_LIST };

// What follows the head of a light list, in code of its own for each form. NaN stays NaN.
enum LightForm { LIGHT_FLOOR, LIGHT_BENT, LIGHT_SILU };       // max(v, low); the larger of v and leak*v, within limits
template <LightForm Form> struct LightKind { static constexpr LightForm form = Form; };

template <class A> struct Light {
    LightForm form;
    A low, leak, high;
    template <LightForm Form, int M, int N> __device__ __forceinline__ void all(A (&v)[M][N]) const;
    // act(LightKind<form>)
    template <class Act> __device__ __forceinline__ void dispatch(Act act) const
    {
        if (form == LIGHT_FLOOR) act(LightKind<LIGHT_FLOOR>());
        else if (form == LIGHT_BENT) act(LightKind<LIGHT_BENT>());
        else act(LightKind<LIGHT_SILU>());
    }
};

template <class T> ListForm form_of(const List<T> &list)
{
    return list.count == 0 ? NO_LIST : list.common.next >= list.count ? LIGHT_LIST : WHOLE_LIST;
}

template <class T> struct Epilogue {
    typedef typename Number<T>::Accumulator Accumulator;
    const T *bias;                  // [out_channels] or null
    __device__ __forceinline__ Accumulator widen(Accumulator sum, int64_t oc) const
    {
        return bias ? sum + Number<T>::widen(bias[oc]) : sum;
    }
    __device__ __forceinline__ T finish(Accumulator sum, int64_t oc) const { return Number<T>::round(widen(sum, oc)); }
};

// Whether all strides but the inner one, which is 1, are multiples of 16 bytes, and the data begins at one.
static inline bool lies_in_vectors(const void *data, const int64_t stride[5], int inner, int64_t element)
{
    for (int i = 0; i < 5; i++)
        if (i == inner ? stride[i] != 1 : stride[i] * element % 16 != 0) return false;
    return (uintptr_t)data % 16 == 0;
}

// at: the entry's place among `count`, which it may be beyond.
template <class A> Common<A> common_of(const Entry<A> &e, int32_t at, int32_t count)
{
    const Common<A> none = {-1, at, 0, 0};
    if (at >= count) return none;
    switch (e.kind) {
    case CONVT3D_OP_RELU6:      return {CONVT3D_OP_CLAMP, at + 1, 0, 6};
    case CONVT3D_OP_LEAKY_RELU: return e.a > 0 && e.a <= 1 ? Common<A>{e.kind, at + 1, e.a, 0} : none;
    case CONVT3D_OP_CLAMP: case CONVT3D_OP_RELU: case CONVT3D_OP_SILU: return {e.kind, at + 1, e.a, e.b};
    default: return none;
    }
}

template <class A> Light<A> light_of(const Common<A> &e)
{
    const A infinity = (A)INFINITY;
    switch (e.kind) {
    case CONVT3D_OP_RELU:       return {LIGHT_FLOOR, 0, 1, infinity};
    case CONVT3D_OP_CLAMP:      return {LIGHT_BENT, e.a, 1, e.b};
    case CONVT3D_OP_LEAKY_RELU: return {LIGHT_BENT, -infinity, e.a, infinity};
    case CONVT3D_OP_SILU:       return {LIGHT_SILU, -infinity, 1, infinity};
    default:                    return {LIGHT_FLOOR, -infinity, 1, infinity};
    }
}

// Entries [first, end) of the plan's list.
template <class T> List<T> list_of(const convt3d__plan *plan, const convt3d_io *io, int32_t first, int32_t end)
{
    typedef typename Number<T>::Accumulator A;
    List<T> list = {};
    list.residual = end - first;
    list.head.a = 1;
    for (; first < end; first++) {
        const convt3d_op &op = plan->desc.ops[first];
        const convt3d_op_io &tensors = io->ops[first];
        Entry<A> &entry = list.entry[list.count++];
        entry.kind = op.kind;
        entry.like_y = memcmp(op.stride, plan->desc.y_stride, sizeof op.stride) == 0;
        entry.aligned = (uintptr_t)tensors.residual % 16 == 0;
        entry.rows = lies_in_vectors(tensors.residual, op.stride, 4, sizeof(T));
        entry.channels = lies_in_vectors(tensors.residual, op.stride, 1, sizeof(T));
        entry.a = (A)op.a;
        entry.b = (A)op.b;
        entry.residual = tensors.residual;
        entry.scale = (const A *)tensors.scale;
        entry.shift = (const A *)tensors.shift;
        for (int s = 0; s < 5; s++) entry.stride[s] = op.stride[s];
        if (entry.residual && list.residual >= list.count) list.residual = list.count - 1;
    }
    const Entry<A> &begin = list.entry[0];
    if (list.count > 0 && begin.kind == CONVT3D_OP_AFFINE) list.head = {1, begin.a, begin.b, NULL, NULL};
    if (list.count > 0 && begin.kind == CONVT3D_OP_CHANNEL_AFFINE) list.head = {1, 1, 0, begin.scale, begin.shift};
    list.common = common_of(list.entry[list.head.entries], list.head.entries, list.count);
    return list;
}

// ---- Functions ----

// exp(v) of f32 is 0 below the normal numbers: all uses add something to it, or multiply it by less than 2^8.
static __device__ __forceinline__ float exponential(float v)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v * 1.4426950408889634f));
    return r;
}
static __device__ __forceinline__ double exponential(double v) { return exp(v); }

// 1/v for v >= 1.
static __device__ __forceinline__ float reciprocal(float v)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
static __device__ __forceinline__ double reciprocal(double v) { return 1 / v; }

// exp(v) - 1 for v <= 0: its series where the difference would cancel.
static __device__ __forceinline__ float exponential_less_1(float v)
{
    float series = fmaf(v, 1 / 5040.0f, 1 / 720.0f);
    series = fmaf(series, v, 1 / 120.0f);
    series = fmaf(series, v, 1 / 24.0f);
    series = fmaf(series, v, 1 / 6.0f);
    series = fmaf(series, v, 0.5f);
    series = fmaf(series, v, 1.0f) * v;
    return v > -0.4f ? series : exponential(v) - 1;
}
static __device__ __forceinline__ double exponential_less_1(double v) { return expm1(v); }

// The normal distribution, erfc(-v/sqrt(2))/2. f32: half of Numerical Recipes' erfcc(), relative error 1.2e-7, with its
// coefficients times log2(e), so that the tail below zero keeps its digits.
static __device__ __forceinline__ float normal_below(float v)
{
    float t = reciprocal(fmaf(fabsf(v), 0.35355339059327f, 1.0f)), w = v * 0.84932180028802f, tail;
    float e = fmaf(t, 0.246517298f, -1.186114945f);
    e = fmaf(e, t, 2.147474464f);
    e = fmaf(e, t, -1.637753152f);
    e = fmaf(e, t, 0.402321582f);
    e = fmaf(e, t, -0.268756860f);
    e = fmaf(e, t, 0.139630057f);
    e = fmaf(e, t, 0.539700616f);
    e = fmaf(e, t, 1.442729204f);
    e = fmaf(e, t, -2.825748218f);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(fmaf(-w, w, e)));
    tail *= t;
    return v < 0 ? tail : 1 - tail;
}
static __device__ __forceinline__ double normal_below(double v) { return 0.5 * erfc(-0.7071067811865476 * v); }

// log(1 + exp(v)) for any v.
template <class A> __device__ __forceinline__ A softplus(A v)
{
    return (v > 0 ? v : A(0)) + log1p(exponential(-fabs(v)));
}

// v*tanh(log(1 + exp(v))), the tanh as n/(n + 2) with n = exp(v)*(exp(v) + 2).
template <class A> __device__ __forceinline__ A mish(A v)
{
    A e = exponential(v < A(20) ? v : A(20)), n = e * (e + 2);
    return v * (n * reciprocal(n + 2));
}

template <class A> __device__ __forceinline__ A hardsigmoid(A v)
{
    return min_nan(max_nan(v + A(3), A(0)), A(6)) * A(1.0 / 6);
}

// One entry that looks at one value alone. Comparisons are such that NaN stays NaN.
template <class A> __device__ __forceinline__ A function_of(int32_t kind, A a, A b, A v)
{
    switch (kind) {
    case CONVT3D_OP_AFFINE:      return a * v + b;
    case CONVT3D_OP_CLAMP:       return min_nan(max_nan(v, a), b);
    case CONVT3D_OP_RELU:        return max_nan(v, A(0));
    case CONVT3D_OP_RELU6:       return min_nan(max_nan(v, A(0)), A(6));
    case CONVT3D_OP_LEAKY_RELU:  return v > 0 ? v : a * v;
    case CONVT3D_OP_SILU:        return v * reciprocal(A(1) + exponential(-v));
    case CONVT3D_OP_SIGMOID:     return reciprocal(A(1) + exponential(-v));
    case CONVT3D_OP_TANH:        return tanh(v);
    case CONVT3D_OP_GELU:        return v * normal_below(v);
    case CONVT3D_OP_GELU_TANH:   // v*(1 + tanh(u))/2 = v/(1 + exp(-2u)), u = sqrt(2/pi)*(v + 0.044715*v^3)
        return v * reciprocal(A(1) + exponential(v * (A(-0.07135481627260025) * v * v + A(-1.5957691216057308))));
    case CONVT3D_OP_HARDSWISH:   return v * hardsigmoid(v);
    case CONVT3D_OP_HARDSIGMOID: return hardsigmoid(v);
    case CONVT3D_OP_ELU:         return v > 0 ? v : a * exponential_less_1(v);
    case CONVT3D_OP_SOFTPLUS:    return a * v > b ? v : softplus(a * v) / a;
    default:                     return mish(v);
    }
}

template <class A>
template <LightForm Form, int M, int N> __device__ __forceinline__ void Light<A>::all(A (&v)[M][N]) const
{
#pragma unroll
    for (int i = 0; i < M * N; i++) {
        A &x = v[i / N][i % N];
        if (Form == LIGHT_SILU) x = function_of(CONVT3D_OP_SILU, A(0), A(0), x);
        else if (Form == LIGHT_BENT) x = min_nan(max_nan(max_nan(x, leak * x), low), high);
        else x = max_nan(x, low);
    }
}

// ---- A list on the values of a thread ----

template <int32_t Kind, class A, int N> __device__ __forceinline__ void map_function(A a, A b, A (&v)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = function_of(Kind, a, b, v[i]);
}

// The functions that are not inlined everywhere. Exp and what else the unit approximates: all other kinds.
template <class A, int N>
__device__ __forceinline__ void map_costly(int32_t kind, A a, A b, A (&v)[N])
{
    switch (kind) {
    case CONVT3D_OP_SILU:        map_function<CONVT3D_OP_SILU>(a, b, v);  break;
    case CONVT3D_OP_SIGMOID:     map_function<CONVT3D_OP_SIGMOID>(a, b, v);  break;
    case CONVT3D_OP_TANH:        map_function<CONVT3D_OP_TANH>(a, b, v);  break;
    case CONVT3D_OP_GELU:        map_function<CONVT3D_OP_GELU>(a, b, v);  break;
    case CONVT3D_OP_GELU_TANH:   map_function<CONVT3D_OP_GELU_TANH>(a, b, v);  break;
    case CONVT3D_OP_HARDSWISH:   map_function<CONVT3D_OP_HARDSWISH>(a, b, v);  break;
    case CONVT3D_OP_HARDSIGMOID: map_function<CONVT3D_OP_HARDSIGMOID>(a, b, v);  break;
    case CONVT3D_OP_ELU:         map_function<CONVT3D_OP_ELU>(a, b, v);  break;
    case CONVT3D_OP_SOFTPLUS:    map_function<CONVT3D_OP_SOFTPLUS>(a, b, v);  break;
    default:                     map_function<CONVT3D_OP_MISH>(a, b, v);  break;
    }
}

// Those that are; false if it is none of them.
template <class A, int N>
__device__ __forceinline__ bool map_cheap(int32_t kind, A a, A b, A (&v)[N])
{
    if (kind == CONVT3D_OP_LEAKY_RELU && a <= 1 && a != 0) {        // the larger of v and a*v, unless 0 meets infinity
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = max_nan(v[i], a * v[i]);
        return true;
    }
    switch (kind) {
    case CONVT3D_OP_AFFINE:      map_function<CONVT3D_OP_AFFINE>(a, b, v);  return true;
    case CONVT3D_OP_CLAMP:       map_function<CONVT3D_OP_CLAMP>(a, b, v);  return true;
    case CONVT3D_OP_RELU:        map_function<CONVT3D_OP_RELU>(a, b, v);  return true;
    case CONVT3D_OP_RELU6:       map_function<CONVT3D_OP_RELU6>(a, b, v);  return true;
    case CONVT3D_OP_LEAKY_RELU:  map_function<CONVT3D_OP_LEAKY_RELU>(a, b, v);  return true;
    default:                     return false;
    }
}

template <class A, int N, class Channel>
__device__ __forceinline__ void map_channels(const Entry<A> &e, A (&v)[N], Channel channel)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = v[i] * (e.scale ? e.scale[channel(i)] : A(1)) + (e.shift ? e.shift[channel(i)] : A(0));
}

static __device__ __forceinline__ bool is_residual(int32_t kind)
{
    return kind == CONVT3D_OP_ADD || kind == CONVT3D_OP_MULTIPLY;
}

template <class A, int N> __device__ __forceinline__ void map_residual(int32_t kind, A (&v)[N], const A (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = kind == CONVT3D_OP_ADD ? v[i] + r[i] : v[i] * r[i];
}

// The whole list on N values. channel(i) and offset(i, stride) must be legal for every i < N, also where value i is not
// stored in the end.
template <class T, int N, class Channel, class Offset>
__device__ __forceinline__ void apply_list(const List<T> &list, typename Number<T>::Accumulator (&v)[N],
                                           Channel channel, Offset offset)
{
    typedef typename Number<T>::Accumulator A;
    for (int k = 0; k < list.count; k++) {
        const Entry<A> &e = list.entry[k];
        if (map_cheap(e.kind, e.a, e.b, v)) continue;
        if (e.kind == CONVT3D_OP_CHANNEL_AFFINE) map_channels(e, v, channel);
        else if (is_residual(e.kind)) {
            A r[N];
#pragma unroll
            for (int i = 0; i < N; i++) r[i] = Number<T>::widen(((const T *)e.residual)[offset(i, e.stride)]);
            map_residual(e.kind, v, r);
        } else map_costly(e.kind, e.a, e.b, v);
    }
}

// f64, whose functions are long, calls one function for them.
template <class A> struct Lot { A v[4]; };

template <class A> __noinline__ __device__ Lot<A> costly_lot(int32_t kind, A a, A b, Lot<A> lot)
{
    map_costly(kind, a, b, lot.v);
    return lot;
}

// Moves the first Size values to the end.
template <int Size, class A, int N> __device__ __forceinline__ void turn(A (&v)[N])
{
    A first[Size];
#pragma unroll
    for (int i = 0; i < Size; i++) first[i] = v[i];
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = i < N - Size ? v[i + Size] : first[i - (N - Size)];
}

template <int Most, class A, int N>
__device__ __forceinline__ void map_costly_by_lots(int32_t kind, A a, A b, A (&v)[N])
{
    constexpr int size = sizeof(A) == 8 ? 4 : N % Most == 0 ? Most : N % 8 == 0 ? 8 : N;
    static_assert(N % size == 0, "whole lots");
#pragma unroll 1
    for (int lot = 0; lot < N / size; lot++) {
        A (&first)[size] = reinterpret_cast<A (&)[size]>(v);
        if constexpr (sizeof(A) == 8) {
            Lot<A> done = costly_lot(kind, a, b, {first[0], first[1], first[2], first[3]});
#pragma unroll
            for (int i = 0; i < size; i++) first[i] = done.v[i];
        } else map_costly(kind, a, b, first);
        turn<size>(v);
    }
}

// The usual functions of networks are inlined for all values, where those are f32 and not too many.
template <int Most, class A, int N> __device__ __forceinline__ void map_usual(int32_t kind, A a, A b, A (&v)[N])
{
    constexpr bool inlined = sizeof(A) == 4 && N < 64;
    if (inlined && kind == CONVT3D_OP_SILU) map_function<CONVT3D_OP_SILU>(a, b, v);
    else if (inlined && kind == CONVT3D_OP_GELU) map_function<CONVT3D_OP_GELU>(a, b, v);
    else if (inlined && kind == CONVT3D_OP_GELU_TANH) map_function<CONVT3D_OP_GELU_TANH>(a, b, v);
    else map_costly_by_lots<Most>(kind, a, b, v);
}

// The list's common entry.
template <class A, int N> __device__ __forceinline__ void map_common(const Common<A> &e, A (&v)[N])
{
    if (e.kind == CONVT3D_OP_RELU) map_function<CONVT3D_OP_RELU>(e.a, e.b, v);
    else if (e.kind == CONVT3D_OP_CLAMP) map_function<CONVT3D_OP_CLAMP>(e.a, e.b, v);
    else if (e.kind == CONVT3D_OP_LEAKY_RELU) {             // the larger of v and a*v
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = max_nan(v[i], e.a * v[i]);
    } else if (sizeof(A) == 4) map_function<CONVT3D_OP_SILU>(e.a, e.b, v);
    else map_costly_by_lots<8>(CONVT3D_OP_SILU, e.a, e.b, v);
}

// A light list whose head was applied already.
template <class T, int N>
__device__ __forceinline__ void apply_light(const List<T> &list, typename Number<T>::Accumulator (&v)[N])
{
    if (list.common.kind >= 0) map_common(list.common, v);
}

// The list from entry `first` on, on Groups x N values in registers, costly functions for Most of them at a time.
// channel(i): of value i of all, legal also where there is no output; residual(e, g, r) loads group g of a residual.
template <class T, int Groups, int N, int Most = 16, class Channel, class Residual>
__device__ __forceinline__ void apply_in_registers(const List<T> &list, int first,
                                                   typename Number<T>::Accumulator (&v)[Groups][N], Channel channel,
                                                   Residual residual)
{
    typedef typename Number<T>::Accumulator A;
    enum { All = Groups * N };
    A (&all)[All] = reinterpret_cast<A (&)[All]>(v);
#pragma unroll 1
    for (int k = first; k < list.count; k++) {
        const Entry<A> &e = list.entry[k];
        if (map_cheap(e.kind, e.a, e.b, all)) continue;
        if (e.kind == CONVT3D_OP_CHANNEL_AFFINE) map_channels(e, all, channel);
        else if (is_residual(e.kind)) {
#pragma unroll 1
            for (int g = 0; g < Groups; g++) {
                A r[N];
                residual(e, g, r);
                map_residual(e.kind, v[0], r);
                turn<N>(all);
            }
        } else map_usual<Most>(e.kind, e.a, e.b, all);
    }
}

// The same for kernels that wait for memory: the head, unless `first` says that it was applied, and the common entry
// come before the loop, and that is short code.
template <class T, int Groups, int N, class Channel, class Residual>
__device__ __forceinline__ void apply_common_first(const List<T> &list, int first,
                                                   typename Number<T>::Accumulator (&v)[Groups][N], Channel channel,
                                                   Residual residual)
{
    typedef typename Number<T>::Accumulator A;
    enum { All = Groups * N };
    A (&all)[All] = reinterpret_cast<A (&)[All]>(v);
    if (first == 0 && list.head.entries > 0)
#pragma unroll
        for (int i = 0; i < All; i++) all[i] = fma(all[i], list.head.factor(channel(i)), list.head.term(channel(i)));
    if (list.common.kind >= 0) map_common(list.common, all);
    apply_in_registers<T, Groups, N, 8>(list, list.common.next, v, channel, residual);
}

// Has an element brought to the L2, where it is wanted later.
static __device__ __forceinline__ void ask_early(const void *at)
{
    asm volatile("prefetch.global.L2 [%0];" :: "l"(at));
}

// N neighbours of a residual that lie in vectors.
template <class T, int N>
__device__ __forceinline__ void residual_vectors(const void *residual, int64_t offset,
                                                 typename Number<T>::Accumulator (&r)[N])
{
    constexpr int lot = N * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : N;
    struct alignas(lot * sizeof(T)) Pack { T v[lot]; };
    const T *from = (const T *)residual + offset;
#pragma unroll
    for (int i = 0; i < N / lot; i++) {
        Pack pack = ((const Pack *)from)[i];
#pragma unroll
        for (int j = 0; j < lot; j++) r[i * lot + j] = Number<T>::widen(pack.v[j]);
    }
}

// Where an array of values lies: v[c * width + r] is of channel oc + c at (od, oh, ow + r); of its channels and outputs
// along the width the first `channels` and `outputs` exist.
struct Where {
    int64_t n, oc, od, oh, ow;
    int32_t channels, outputs;
};

static __device__ __forceinline__ int64_t offset_of(const Where &p, const int64_t (&s)[5])
{
    return p.n * s[0] + p.oc * s[1] + p.od * s[2] + p.oh * s[3] + p.ow * s[4];
}

// The list on `count` values in memory, rows of `width` as in Where.
template <class T>
__noinline__ __device__ void list_in_memory(const List<T> &list, typename Number<T>::Accumulator *v, int32_t count,
                                            int32_t width, Where p)
{
    enum { N = 4 };
    for (int32_t first = 0; first < count; first += N) {
        typename Number<T>::Accumulator quad[N];
        auto c = [&](int i) { return min((first + i) / width, p.channels - 1); };
        auto r = [&](int i) { return min((first + i) % width, p.outputs - 1); };
#pragma unroll
        for (int i = 0; i < N; i++) quad[i] = first + i < count ? v[first + i] : 0;
        apply_list(list, quad, [&](int i) { return p.oc + c(i); }, [&](int i, const int64_t (&s)[5]) {
            return offset_of(p, s) + c(i) * s[1] + r(i) * s[4];
        });
#pragma unroll
        for (int i = 0; i < N; i++) if (first + i < count) v[first + i] = quad[i];
    }
}

}
