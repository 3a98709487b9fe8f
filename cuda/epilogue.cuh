// What happens to an accumulator between the last product and the one rounding: the bias, then the entries of the list
// that the kernel applies (convt3d.h, WHAT FOLLOWS THE CONVOLUTION). Every kernel ends here, and so do the passes
// (pass.cuh).
//
// Idea      Most lists are one affine step, one residual and one piecewise linear function. Those are recognised when
//           the call is made (Simple) and cost a handful of instructions a value, inlined. All others go through
//           apply_list(): a thread hands over an array of values and two functions that say where value i is, channel(i)
//           and offset(i, stride); which entry it is, is decided once for the array. list_in_memory() is the same as a
//           function that is called, so that a kernel of many instances does not hold it many times over, and keeps its
//           registers (one that uses wgmma must not call: ptxas would serialise that).
#pragma once

namespace convt3d_cuda {

template <class A> struct Entry {
    int32_t kind;
    A a, b;
    const void *residual;           // of the output's type
    const A *scale, *shift;         // [out_channels] or null
    int64_t stride[5];              // of the residual
};

// v*scale[c] + shift[c], then *a + b, then + residual, then below zero *slope, then between low and high. The residual
// has y's strides.
template <class A> struct Simple {
    int32_t whole;                  // 1: this is all of the list
    int32_t affine, leaks, bounded; // whether there is such a step: scale and shift; slope; high
    int32_t vectors;                // the residual's rows may be read as y's are written
    A a, b, slope, low, high;
    const A *scale, *shift;
    const void *residual;
};

template <class T> struct List {
    typedef typename Number<T>::Accumulator Accumulator;
    int32_t count;
    Simple<Accumulator> simple;
    Entry<Accumulator> entry[CONVT3D_MAX_OPS];
};

template <class T> struct Epilogue {
    typedef typename Number<T>::Accumulator Accumulator;
    const T *bias;                  // [out_channels] or null
    __device__ __forceinline__ Accumulator widen(Accumulator sum, int64_t oc) const
    {
        return bias ? sum + Number<T>::widen(bias[oc]) : sum;
    }
    __device__ __forceinline__ T finish(Accumulator sum, int64_t oc) const { return Number<T>::round(widen(sum, oc)); }
};

template <class A> Simple<A> simple_of(const Entry<A> *entry, int32_t count, const int64_t (&y_stride)[5])
{
    const A infinity = (A)HUGE_VAL;
    Simple<A> s = {0, 0, 0, 0, 0, 1, 0, 1, -infinity, infinity, NULL, NULL, NULL};
    int32_t i = 0;
    if (i < count && entry[i].kind == CONVT3D_OP_CHANNEL_AFFINE) {
        s.affine = 1;  s.scale = entry[i].scale;  s.shift = entry[i++].shift;
    }
    if (i < count && entry[i].kind == CONVT3D_OP_AFFINE) { s.affine = 1;  s.a = entry[i].a;  s.b = entry[i++].b; }
    if (i < count && entry[i].kind == CONVT3D_OP_ADD && memcmp(entry[i].stride, y_stride, sizeof y_stride) == 0)
        s.residual = entry[i++].residual;
    s.vectors = (uintptr_t)s.residual % 16 == 0;
    if (i < count) {
        const Entry<A> &e = entry[i++];
        if (e.kind == CONVT3D_OP_LEAKY_RELU) { s.leaks = 1;  s.slope = e.a; }
        else if (e.kind == CONVT3D_OP_RELU) s.low = 0;
        else if (e.kind == CONVT3D_OP_RELU6) { s.bounded = 1;  s.low = 0;  s.high = 6; }
        else if (e.kind == CONVT3D_OP_CLAMP) { s.bounded = 1;  s.low = e.a;  s.high = e.b; }
        else return s;
    }
    s.whole = i == count;
    return s;
}

// Entries [first, end) of the plan's list.
template <class T> List<T> list_of(const convt3d__plan *plan, const convt3d_io *io, int32_t first, int32_t end)
{
    typedef typename Number<T>::Accumulator A;
    List<T> list = {};
    for (; first < end; first++) {
        const convt3d_op &op = plan->desc.ops[first];
        const convt3d_op_io &tensors = io->ops[first];
        Entry<A> &entry = list.entry[list.count++];
        entry.kind = op.kind;
        entry.a = (A)op.a;
        entry.b = (A)op.b;
        entry.residual = tensors.residual;
        entry.scale = (const A *)tensors.scale;
        entry.shift = (const A *)tensors.shift;
        for (int s = 0; s < 5; s++) entry.stride[s] = op.stride[s];
    }
    list.simple = simple_of(list.entry, list.count, plan->desc.y_stride);
    return list;
}

// The simple list on N values, in three steps, between which a kernel may read the residual in its own way.
template <class A, int N, class Channel>
__device__ __forceinline__ void simple_affine(const Simple<A> &s, A (&v)[N], Channel channel)
{
    if (!s.affine) return;
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = (v[i] * (s.scale ? s.scale[channel(i)] : A(1)) + (s.shift ? s.shift[channel(i)] : A(0))) * s.a + s.b;
}

// y_offset(i): of value i in y, and so in the residual.
template <class T, int N, class Offset>
__device__ __forceinline__ void simple_residual(const List<T> &list, typename Number<T>::Accumulator (&v)[N],
                                                Offset y_offset)
{
    T r[N];
#pragma unroll
    for (int i = 0; i < N; i++) r[i] = ((const T *)list.simple.residual)[y_offset(i)];
#pragma unroll
    for (int i = 0; i < N; i++) v[i] += Number<T>::widen(r[i]);
}

// Rows of Width neighbours, the first at offset y, each a vector as wide as it is, 16 bytes at most.
template <int Width, class T, int N>
__device__ __forceinline__ void simple_residual_vectors(const List<T> &list, typename Number<T>::Accumulator (&v)[N],
                                                        int64_t y, int64_t channel_step, int32_t channels)
{
    constexpr int lot = Width * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : Width;
    struct alignas(lot * sizeof(T)) Lot { T v[lot]; };
    Lot r[N / lot];
#pragma unroll
    for (int i = 0; i < N / lot; i++)
        r[i] = *(const Lot *)((const T *)list.simple.residual + y + min(i * lot / Width, channels - 1) * channel_step +
                              i * lot % Width);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] += Number<T>::widen(r[i / lot].v[i % lot]);
}

template <class A, int N> __device__ __forceinline__ void simple_bends(const Simple<A> &s, A (&v)[N])
{
    if (s.leaks)
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = v[i] > 0 ? v[i] : v[i] * s.slope;
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = max_nan(v[i], s.low);
    if (s.bounded)
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = min_nan(v[i], s.high);
}

// log(1 + exp(v)) for any v.
template <class A> __device__ __forceinline__ A softplus(A v) { return (v > 0 ? v : A(0)) + log1p(exp(-fabs(v))); }

template <class A> __device__ __forceinline__ A hardsigmoid(A v)
{
    A t = v + A(3) < 0 ? A(0) : v + A(3);
    return (t > A(6) ? A(6) : t) / A(6);
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
    case CONVT3D_OP_SILU:        return v / (A(1) + exp(-v));
    case CONVT3D_OP_SIGMOID:     return A(1) / (A(1) + exp(-v));
    case CONVT3D_OP_TANH:        return tanh(v);
    case CONVT3D_OP_GELU:        return A(0.5) * v * erfc(A(-0.7071067811865476) * v);
    case CONVT3D_OP_GELU_TANH:   // v*(1 + tanh(u))/2 = v/(1 + exp(-2u)), u = sqrt(2/pi)*(v + 0.044715*v^3)
        return v / (A(1) + exp(A(-1.5957691216057308) * (v + A(0.044715) * v * v * v)));
    case CONVT3D_OP_HARDSWISH:   return v * hardsigmoid(v);
    case CONVT3D_OP_HARDSIGMOID: return hardsigmoid(v);
    case CONVT3D_OP_ELU:         return v > 0 ? v : a * expm1(v);
    case CONVT3D_OP_SOFTPLUS:    return a * v > b ? v : softplus(a * v) / a;
    default:                     return v * tanh(softplus(v));      // MISH
    }
}

template <int32_t Kind, class A, int N> __device__ __forceinline__ void map_function(const Entry<A> &e, A (&v)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = function_of(Kind, e.a, e.b, v[i]);
}

// The entries that need more than the value.
template <class T, class A, int N, class Channel, class Offset>
__device__ __forceinline__ void map_tensor(const Entry<A> &e, A (&v)[N], Channel channel, Offset offset)
{
    if (e.kind == CONVT3D_OP_CHANNEL_AFFINE) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = v[i] * (e.scale ? e.scale[channel(i)] : A(1)) + (e.shift ? e.shift[channel(i)] : A(0));
        return;
    }
    A r[N];
#pragma unroll
    for (int i = 0; i < N; i++) r[i] = Number<T>::widen(((const T *)e.residual)[offset(i, e.stride)]);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = e.kind == CONVT3D_OP_ADD ? v[i] + r[i] : v[i] * r[i];
}

// The whole list on N values. channel(i) and offset(i, stride) must be legal for every i < N, also where value i is not
// stored in the end.
template <class T, int N, class Channel, class Offset>
__device__ __forceinline__ void apply_list(const List<T> &list, typename Number<T>::Accumulator (&v)[N],
                                           Channel channel, Offset offset)
{
    for (int k = 0; k < list.count; k++) {
        const Entry<typename Number<T>::Accumulator> &e = list.entry[k];
        switch (e.kind) {
        case CONVT3D_OP_AFFINE:      map_function<CONVT3D_OP_AFFINE>(e, v);  break;
        case CONVT3D_OP_CLAMP:       map_function<CONVT3D_OP_CLAMP>(e, v);  break;
        case CONVT3D_OP_RELU:        map_function<CONVT3D_OP_RELU>(e, v);  break;
        case CONVT3D_OP_RELU6:       map_function<CONVT3D_OP_RELU6>(e, v);  break;
        case CONVT3D_OP_LEAKY_RELU:  map_function<CONVT3D_OP_LEAKY_RELU>(e, v);  break;
        case CONVT3D_OP_SILU:        map_function<CONVT3D_OP_SILU>(e, v);  break;
        case CONVT3D_OP_SIGMOID:     map_function<CONVT3D_OP_SIGMOID>(e, v);  break;
        case CONVT3D_OP_TANH:        map_function<CONVT3D_OP_TANH>(e, v);  break;
        case CONVT3D_OP_GELU:        map_function<CONVT3D_OP_GELU>(e, v);  break;
        case CONVT3D_OP_GELU_TANH:   map_function<CONVT3D_OP_GELU_TANH>(e, v);  break;
        case CONVT3D_OP_HARDSWISH:   map_function<CONVT3D_OP_HARDSWISH>(e, v);  break;
        case CONVT3D_OP_HARDSIGMOID: map_function<CONVT3D_OP_HARDSIGMOID>(e, v);  break;
        case CONVT3D_OP_ELU:         map_function<CONVT3D_OP_ELU>(e, v);  break;
        case CONVT3D_OP_SOFTPLUS:    map_function<CONVT3D_OP_SOFTPLUS>(e, v);  break;
        case CONVT3D_OP_MISH:        map_function<CONVT3D_OP_MISH>(e, v);  break;
        default:                     map_tensor<T>(e, v, channel, offset);  break;
        }
    }
}

// Where an array of values lies: v[c * width + r] is of channel oc + c at (od, oh, ow + r); of its channels and outputs
// along the width the first `channels` and `outputs` exist.
struct Where {
    int64_t n, oc, od, oh, ow;
    int32_t channels, outputs;
};

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
            return p.n * s[0] + (p.oc + c(i)) * s[1] + p.od * s[2] + p.oh * s[3] + (p.ow + r(i)) * s[4];
        });
#pragma unroll
        for (int i = 0; i < N; i++) if (first + i < count) v[first + i] = quad[i];
    }
}

// The list on N values in registers; y: the offset of v[0] in y, and the steps to the next channel and output; vectors:
// rows are whole, and aligned in y.
template <int Width, class T, int N>
__device__ __forceinline__ void apply_at(const List<T> &list, typename Number<T>::Accumulator (&v)[N], const Where &p,
                                         int64_t y, int64_t channel_step, int64_t output_step, bool vectors)
{
    if (list.simple.whole) {
        auto c = [&](int i) { return min(i / Width, p.channels - 1); };
        simple_affine(list.simple, v, [&](int i) { return p.oc + c(i); });
        if (list.simple.residual && list.simple.vectors && vectors)
            simple_residual_vectors<Width>(list, v, y, channel_step, p.channels);
        else if (list.simple.residual)
            simple_residual(list, v, [&](int i) {
                return y + c(i) * channel_step + min(i % Width, p.outputs - 1) * output_step;
            });
        simple_bends(list.simple, v);
        return;
    }
    typename Number<T>::Accumulator memory[N];
#pragma unroll
    for (int i = 0; i < N; i++) memory[i] = v[i];
    list_in_memory(list, memory, N, Width, p);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = memory[i];
}

}
