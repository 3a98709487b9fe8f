// sm90_dense's results: how they leave the accumulators through a ring in shared memory and reach y, with a list on the
// way where there is one.
#pragma once

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {

#if CONVT3D__SM90A

// ---- results: from accumulators to y ----
//
// A warpgroup finishes its results and puts them, 64 positions at a time, into a ring of chunks in shared memory; two
// other warps take them from there to y while it multiplies the next tile.

// Of a warpgroup's channels: the scale, as a factor where it is moderate, and its exponent; 1; the bias.
template <class C> struct DenseScales { float whole[C::NB], one[C::NB], bias[C::NB];  int exponent[C::NB]; };

template <class T> struct alignas(2 * sizeof(T)) DensePair { T at[2]; };

// The sample of the warpgroup's first position, or -1 where its positions are not all of one sample.
__device__ __forceinline__ int dense_sample(const DenseProblem &p, int position, int count)
{
    uint32_t rest, first = divide(divide((uint32_t)position, p.plane, &rest), p.d, &rest);
    return divide(divide((uint32_t)(position + count - 1), p.plane, &rest), p.d, &rest) == first ? (int)first : -1;
}

// What a block of channels is.
struct DenseChannels {
    int row, oc, left;          // in the pack; in y; how many there are
    template <class C> __device__ __forceinline__ static DenseChannels of(const DenseProblem &p, int block)
    {
        const int channel = block % p.blocks_group * C::NB;
        return {block * C::NB, block / p.blocks_group * p.out_group + channel, p.out_group - channel};
    }
};

// What the results will need of memory, loaded before the products: of channel threadIdx.x % 128, and of the sample of
// all positions, where there is but one (otherwise it is negative).
template <class C> struct DenseAhead {
    int w, x, sample;
    float bias;
    __device__ __forceinline__ DenseAhead(const DenseProblem &p, int position, const DenseChannels &channels)
    {
        typedef typename C::T T;
        const int t = threadIdx.x % 128;
        const bool real = t < C::NB && t < channels.left;
        bias = real && p.bias ? Number<T>::widen(((const T *)p.bias)[channels.oc + t]) : 0.f;
        w = C::Mode == DENSE_SPLIT && t < C::NB ? p.w_exponent[channels.row + t] : 0;
        sample = C::Mode == DENSE_SPLIT ? dense_sample(p, position, C::R * 64) : 0;
        x = C::Mode == DENSE_SPLIT && sample >= 0 && sample < p.batch ? p.x_exponent[sample] : 0;
    }
};

// A scale 2^e that needs no care: a product of two of them and a sum of products changes no bits.
__device__ __forceinline__ bool dense_moderate(int e) { return e >= -30 && e <= 30; }

// Undoes the scales of x and w: by a factor of the position and one of the channel where both are moderate. Elsewhere
// sum is multiplied here by two halves of the whole scale, so that nothing leaves f32's range on the way. Where either
// would do both give the same bits, so that a sample's results do not depend on its neighbours.
template <class C> struct DenseUnscale {
    float row[C::R][2];         // what is left to multiply by, of each of this thread's positions
    const float *channel;       // and of each channel
    // Fills the tables too, and is a barrier of the warpgroup.
    __device__ __forceinline__ DenseUnscale(const DenseProblem &p, DenseScales<C> *scales, int position,
                                            const DenseAhead<C> &ahead, float (&sum)[C::Q][C::R][C::NB / 2])
    {
        const int t = threadIdx.x % 128, lane = threadIdx.x % 32;
        bool moderate = true;
        int e[C::R][2];
        if (t < C::NB) {
            scales->bias[t] = ahead.bias;
            if (C::Mode == DENSE_SPLIT) {
                const int ew = -usable_exponent(ahead.w);
                moderate = dense_moderate(ew);
                scales->whole[t] = power_of_two(ew);
                scales->one[t] = 1.f;
                scales->exponent[t] = ew;
            }
        }
        if constexpr (C::Mode == DENSE_SPLIT) {
            const int first = position + t / 32 * 16 + lane / 4;
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) {
                e[i / 2][i % 2] = -usable_exponent(ahead.x);
                if (ahead.sample < 0) {
                    uint32_t rest, n = divide((uint32_t)(first + i / 2 * 64 + i % 2 * 8), p.plane, &rest);
                    n = divide(n, p.d, &rest);
                    e[i / 2][i % 2] = n < (uint32_t)p.batch ? -usable_exponent(p.x_exponent[n]) : 0;
                }
                moderate = moderate && dense_moderate(e[i / 2][i % 2]);
            }
        }
        moderate = warpgroup_and(1 + threadIdx.x / 128, moderate);
        channel = scales->whole;
        if constexpr (C::Mode == DENSE_SPLIT) {
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) row[i / 2][i % 2] = power_of_two(e[i / 2][i % 2]);
            if (moderate) return;
            channel = scales->one;
#pragma unroll
            for (int r = 0; r < C::R; r++)
#pragma unroll
                for (int c = 0; c < C::NB / 2; c++) {
                    const int i = scales->exponent[c / 4 * 8 + lane % 4 * 2 + c % 2] + e[r][c / 2 % 2];
                    const int whole = max(-250, min(250, i)), half = whole / 2;
#pragma unroll
                    for (int q = 0; q < C::Q; q++)
                        sum[q][r][c] = sum[q][r][c] * power_of_two(half) * power_of_two(whole - half);
                }
#pragma unroll
            for (int i = 0; i < 2 * C::R; i++) row[i / 2][i % 2] = 1.f;
        }
    }
};

// The one place where accumulators become results: 64 positions of the warpgroup, as values of the ring in `chunk`.
// Element 4*b + i of sum belongs to channel 8*b + lane%4*2 + i%2 and position warp*16 + lane/4 + i/2*8.
template <class C>
__device__ __forceinline__ void dense_finish(const float (&sum)[C::Q][C::R][C::NB / 2], int r,
                                             const DenseUnscale<C> &scale, const DenseScales<C> *scales,
                                             typename C::Value *chunk, bool by_channel)
{
    typedef typename C::Value T;
    typedef DensePair<T> Pair;
    const int lane = threadIdx.x % 32, position = threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int b = 0; b < C::NB / 8; b++) {
        const int channel = b * 8 + lane % 4 * 2;
        const float2 factor = *(const float2 *)(scale.channel + channel);
        const float2 bias = *(const float2 *)(scales->bias + channel);
        T v[C::Q][4];
#pragma unroll
        for (int q = 0; q < C::Q; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float s = sum[q][r][b * 4 + i], add = i % 2 ? bias.y : bias.x;
                v[q][i] = Number<T>::round(C::Mode != DENSE_SPLIT ? s + add : fmaf(s * scale.row[r][i / 2],
                                                                                   i % 2 ? factor.y : factor.x, add));
            }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (by_channel) {
                if (i % 2) continue;
#pragma unroll
                for (int q = 0; q < C::Q; q++)
                    *(Pair *)(chunk + ((position + i / 2 * 8) * C::Q + q) * C::CellPitch + channel) =
                        Pair{{v[q][i], v[q][i + 1]}};
            } else {
                T *to = chunk + (channel + i % 2) * C::RowPitch + (position + i / 2 * 8) * C::Q;
                if constexpr (C::Q == 2) *(Pair *)to = Pair{{v[0][i], v[1][i]}};
                else *to = v[0][i];
            }
        }
    }
}

template <class C>
__device__ __forceinline__ void dense_put(const DenseProblem &p, const DenseShared &s, unsigned char *shared,
                                          const DenseAhead<C> &ahead, int position, Ring &ring,
                                          float (&sum)[C::Q][C::R][C::NB / 2])
{
    const int group = threadIdx.x / 128;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    DenseScales<C> *scales = (DenseScales<C> *)(shared + (s.scales - origin)) + group;
    const DenseUnscale<C> scale(p, scales, position, ahead, sum);
#pragma unroll
    for (int r = 0; r < C::R; r++) {
        const uint32_t at = DenseShared::ring(group, ring.index);
        barrier_wait(s.y_empty + at, ring.parity ^ 1);
        dense_finish<C>(sum, r, scale, scales, (typename C::Value *)(shared + (s.chunk<C>(group, ring.index) - origin)),
                        p.y_stride[1] == 1);
        barrier_arrive(s.y_full + at);
        ring.next(C::Chunks);
    }
    warpgroup_sync(1 + group);      // the scales are free
}

// Where in y, in bytes from channel 0, a position's output lies; negative: nowhere. *pair: its neighbour, one further
// on w, is an output too.
__device__ __forceinline__ int64_t dense_where(const DenseProblem &p, const DensePhase &phase, int position, int size,
                                               bool *pair)
{
    uint32_t d, h, w, n = divide(divide(divide((uint32_t)position, p.w, &w), p.h, &h), p.d, &d);
    int od = phase.d + (int)d * p.stride[0], oh = phase.h + (int)h * p.stride[1], ow = phase.w + (int)w * p.stride[2];
    bool inside = (int)n < p.batch && od < p.out[0] && oh < p.out[1] && ow < p.out[2];
    *pair = inside && ow + 1 < p.out[2];
    return !inside ? -1 : (n * p.y_stride[0] + od * p.y_stride[2] + oh * p.y_stride[3] + ow * p.y_stride[4]) * size;
}

// A store under a predicate, not a branch: what takes results to y must not wait for branches to meet again.
__device__ __forceinline__ void dense_store_if(bool real, char *to, float v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.f32 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "f"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint16_t v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.u16 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "h"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint32_t v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.u32 [%1], %2;}" ::
                 "r"((int)real), "l"(to), "r"(v) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint2 v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v2.u32 [%1], {%2, %3};}" ::
                 "r"((int)real), "l"(to), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void dense_store_if(bool real, char *to, uint4 v)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v4.u32 [%1], {%2, %3, %4, %5};}" ::
                 "r"((int)real), "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Two values of y's type, and one, as bits.
template <int Size> struct DenseBits;
template <> struct DenseBits<4> {
    typedef uint2 Pair;
    typedef uint32_t One;
    static __device__ __forceinline__ One low(Pair v) { return v.x; }
    static __device__ __forceinline__ One high(Pair v) { return v.y; }
};
template <> struct DenseBits<2> {
    typedef uint32_t Pair;
    typedef uint16_t One;
    static __device__ __forceinline__ One low(Pair v) { return (One)v; }
    static __device__ __forceinline__ One high(Pair v) { return (One)(v >> 16); }
};

// A chunk to y where positions are neighbours: a lane takes pairs of columns, and every second channel from `first` on.
template <class C>
__device__ __forceinline__ void dense_store_rows(const DenseProblem &p, const DensePhase &phase, int position,
                                                 const DenseChannels &channels, const typename C::T *chunk, int first,
                                                 uint32_t full, uint32_t parity)
{
    constexpr int Batch = 4, Size = (int)sizeof(typename C::T);
    typedef DenseBits<Size> Bits;
    const int lane = threadIdx.x % 32, count = min(C::NB, channels.left);
    const int64_t channel_bytes = p.y_stride[1] * Size;
    char *y = (char *)p.y + (channels.oc + first) * channel_bytes, *at[C::Q][2];
    bool real[C::Q][2], whole = channel_bytes % (2 * Size) == 0;
#pragma unroll
    for (int k = 0; k < C::Q; k++) {
        bool pair;
        int64_t where = dense_where(p, phase, position + (C::Q == 2 ? k * 32 + lane : 2 * lane), Size, &pair);
        int64_t next = C::Q == 2 ? where + p.y_stride[4] * Size
                                 : dense_where(p, phase, position + 2 * lane + 1, Size, &real[k][1]);
        real[k][0] = where >= 0;
        real[k][1] = C::Q == 2 ? pair : next >= 0;
        at[k][0] = y + where;
        at[k][1] = y + next;
        whole = whole && real[k][0] == real[k][1] &&
                (!real[k][0] || (next == where + Size && (uintptr_t)at[k][0] % (2 * Size) == 0));
    }
    whole = __all_sync(0xffffffffu, whole);
    barrier_wait(full, parity);
    chunk += 2 * lane;
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        typename Bits::Pair v[Batch][C::Q];
#pragma unroll
        for (int i = 0; i < Batch; i++)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                v[i][k] = *(const typename Bits::Pair *)(chunk + (c + 2 * i) * C::RowPitch + k * 64);
        if (whole) {
#pragma unroll
            for (int i = 0; i < Batch; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    dense_store_if(real[k][0] && c + 2 * i < count, at[k][0], v[i][k]);
                    at[k][0] += 2 * channel_bytes;
                }
        } else {
#pragma unroll
            for (int i = 0; i < Batch; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    dense_store_if(real[k][0] && c + 2 * i < count, at[k][0], Bits::low(v[i][k]));
                    dense_store_if(real[k][1] && c + 2 * i < count, at[k][1], Bits::high(v[i][k]));
                    at[k][0] += 2 * channel_bytes;
                    at[k][1] += 2 * channel_bytes;
                }
        }
    }
}

// A chunk to y where channels lie side by side: lanes take neighbouring units of V, of columns of half the chunk.
template <class C, class V>
__device__ __forceinline__ void dense_store_cells(const DenseProblem &p, const DenseChannels &channels,
                                                  const typename C::T *chunk, int half, int64_t at, uint32_t pairs)
{
    constexpr int Size = (int)sizeof(typename C::T), Units = C::NB * Size / (int)sizeof(V);
    constexpr int Batch = C::Q * Units % 4 == 0 ? 4 : C::Q * Units % 3 == 0 ? 3 : 2;
    const int lane = threadIdx.x % 32, count = min(C::NB, channels.left) * Size / (int)sizeof(V);
    char *y = (char *)p.y + channels.oc * (int64_t)Size;
    static_assert(C::Q * Units % Batch == 0, "");
#pragma unroll 1
    for (int first = lane; first < 32 * C::Q * Units; first += 32 * Batch) {
        V v[Batch];
        char *to[Batch];
        bool real[Batch];
#pragma unroll
        for (int i = 0; i < Batch; i++) {
            const int column = (first + i * 32) / Units, unit = (first + i * 32) % Units;
            const int64_t where = __shfl_sync(0xffffffffu, at, column / C::Q);
            const bool second = C::Q == 2 && column % 2 != 0;
            real[i] = where >= 0 && unit < count && (!second || (pairs >> column / 2 & 1));
            to[i] = y + where + (second ? p.y_stride[4] * (int64_t)Size : 0) + unit * (int)sizeof(V);
            v[i] = ((const V *)(chunk + (half * 32 * C::Q + column) * C::CellPitch))[unit];
        }
#pragma unroll
        for (int i = 0; i < Batch; i++) dense_store_if(real[i], to[i], v[i]);
    }
}

template <class C>
__device__ __forceinline__ void dense_store(const DenseProblem &p, const DenseShared &s, const unsigned char *shared)
{
    typedef typename C::T T;
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2, lane = threadIdx.x % 32;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        const DenseChannels channels = DenseChannels::of<C>(p, work.block);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.position + (group * C::R + r) * 64;
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const T *chunk = (const T *)(shared + (s.chunk<C>(group, ring.index) - origin));
            if (p.y_stride[1] == 1) {
                bool pair;
                int64_t at = dense_where(p, phase, position + half * 32 + lane, (int)sizeof(T), &pair);
                uint32_t pairs = __ballot_sync(0xffffffffu, pair);
                barrier_wait(s.y_full + barrier, ring.parity);
                if (p.y_vectors) dense_store_cells<C, uint4>(p, channels, chunk, half, at, pairs);
                else dense_store_cells<C, typename DenseBits<sizeof(T)>::One>(p, channels, chunk, half, at, pairs);
            } else {
                dense_store_rows<C>(p, phase, position, channels, chunk, half, s.y_full + barrier, ring.parity);
            }
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}

// ---- results with a list: applied on the way to y ----
//
// The warps that store apply it, while the matrix unit multiplies the next tile. A residual may be y, so what
// dense_repair_kernel computes again is not stored here if there is one.

template <int Bytes> struct DenseWord;
template <> struct DenseWord<2> { typedef uint16_t Bits; };
template <> struct DenseWord<4> { typedef uint32_t Bits; };
template <> struct DenseWord<8> { typedef uint2 Bits; };
template <> struct DenseWord<16> { typedef uint4 Bits; };

// N neighbours, as elements of Out in one store.
template <class Out, int N> __device__ __forceinline__ void dense_store_as(bool real, Out *to, const float *v)
{
    union { Out at[N];  typename DenseWord<N * (int)sizeof(Out)>::Bits bits; } lot = {};
#pragma unroll
    for (int i = 0; i < N; i++) lot.at[i] = Number<Out>::round(v[i]);
    dense_store_if(real, (char *)to, lot.bits);
}

// Where the list is applied: of which tile, in which phase.
template <class C> struct DenseListed {
    const DenseProblem &p;
    const DenseFollows<typename C::T, true> &f;
    const DensePhase &phase;
    DenseChannels channels;
    uint32_t bad;               // octets of channels that are left to be repaired
    bool repairs;               // there may be such, or such samples
    __device__ __forceinline__ DenseListed(const DenseProblem &problem,
                                           const DenseFollows<typename C::T, true> &follows, const DensePhase &of,
                                           int block, bool some)
        : p(problem), f(follows), phase(of), channels(DenseChannels::of<C>(problem, block)), bad(0), repairs(some)
    {
        if (!repairs) return;
        const int lane = threadIdx.x % 32;
        bad = __ballot_sync(0xffffffffu, lane < C::NB / 8 && dense_bad_octet(f.flags, channels.row / 8 + lane));
    }
    // A position's output in elements from channel 0, negative: none is stored. *pair as of dense_where().
    __device__ __forceinline__ int64_t at(int position, bool *pair) const
    {
        int64_t where = dense_where(p, phase, position, 1, pair);
        if (repairs && where >= 0) {
            uint32_t rest, n = divide(divide((uint32_t)position, p.plane, &rest), p.d, &rest);
            if (dense_bad_sample(f.flags, (int)n)) { where = -1;  *pair = false; }
        }
        return where;
    }
    // N neighbours to elements `to` and on of y.
    template <int N> __device__ __forceinline__ void store(bool real, int64_t to, const float *v) const
    {
        typedef typename C::T T;
        if (sizeof(T) == 4 || f.wide) dense_store_as<float, N>(real, (float *)p.y + to, v);
        else dense_store_as<T, N>(real, (T *)p.y + to, v);
    }
    // The same output in a tensor of any strides, for a position that has one.
    __device__ __forceinline__ int64_t at(int position, const int64_t (&stride)[5]) const
    {
        uint32_t d, h, w, n = divide(divide(divide((uint32_t)position, p.w, &w), p.h, &h), p.d, &d);
        return n * stride[0] + (phase.d + (int64_t)d * p.stride[0]) * stride[2] +
               (phase.h + (int64_t)h * p.stride[1]) * stride[3] + (phase.w + (int64_t)w * p.stride[2]) * stride[4];
    }
    __device__ __forceinline__ bool stores(int channel) const { return !(bad >> channel / 8 & 1); }
};

// As dense_store_rows: a lane takes pairs of columns, and every second channel from `first` on.
template <class C>
__device__ __forceinline__ void dense_list_rows(const DenseListed<C> &l, int position, const float *chunk, int first,
                                                uint32_t full, uint32_t parity)
{
    typedef typename C::T T;
    constexpr int N = C::Listed, Batch = N / (2 * C::Q);
    const DenseProblem &p = l.p;
    const List<T> &list = l.f.list;
    const int lane = threadIdx.x % 32, count = min(C::NB, l.channels.left);
    const int64_t step = p.y_stride[1];
    int64_t at[C::Q][2];
    bool whole = step % 2 == 0 && (uintptr_t)p.y % (l.f.wide ? 8 : 2 * sizeof(T)) == 0;
#pragma unroll
    for (int k = 0; k < C::Q; k++) {
        bool pair, other;
        at[k][0] = l.at(position + (C::Q == 2 ? k * 32 + lane : 2 * lane), &pair);
        if (C::Q == 2) at[k][1] = pair ? at[k][0] + p.y_stride[4] : -1;
        else at[k][1] = l.at(position + 2 * lane + 1, &other);
        whole = whole && (at[k][0] >= 0 ? at[k][0] % 2 == 0 && at[k][1] == at[k][0] + 1 : at[k][1] < 0);
    }
    whole = __all_sync(0xffffffffu, whole);
    if (list.residual < list.count && list.entry[list.residual].like_y)
        for (int c = first; c < count; c += 2)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                if (at[k][0] >= 0)
                    ask_early((const T *)list.entry[list.residual].residual + at[k][0] + (l.channels.oc + c) * step);
    barrier_wait(full, parity);
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        float v[1][N];                          // of channel c + 2*i, columns k and j: (i*Q + k)*2 + j
        auto channel = [&](int i) { return min(c + i / (2 * C::Q) * 2, count - 1); };
        auto real = [&](int i) { return at[i / 2 % C::Q][i % 2] >= 0 && c + i / (2 * C::Q) * 2 < count; };
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const float *from = chunk + (c + i / (2 * C::Q) * 2) * C::RowPitch;
            const float2 pair = *(const float2 *)(from + i / 2 % C::Q * 64 + 2 * lane);
            v[0][i] = pair.x;
            v[0][i + 1] = pair.y;
        }
        apply_in_registers(list, 0, v, [&](int i) { return l.channels.oc + channel(i); },
                           [&](const Entry<float> &e, int, float (&r)[N]) {
            const T *from = (const T *)e.residual;
            const bool pairs = whole && e.like_y && e.aligned;
#pragma unroll
            for (int i = 0; i < N; i += 2) {
                DensePair<T> pair = {{Number<T>::round(0), Number<T>::round(0)}};
                const int64_t oc = l.channels.oc + channel(i);
                if (e.like_y) {
                    const T *row = from + oc * step;
                    if (pairs) { if (real(i)) pair = *(const DensePair<T> *)(row + at[i / 2 % C::Q][0]); }
                    else {
                        if (real(i)) pair.at[0] = row[at[i / 2 % C::Q][0]];
                        if (real(i + 1)) pair.at[1] = row[at[i / 2 % C::Q][1]];
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int q = position + (C::Q == 2 ? i / 2 % C::Q * 32 + lane : 2 * lane + j);
                        const int64_t second = C::Q == 2 && j == 1 ? e.stride[4] : 0;
                        if (real(i + j)) pair.at[j] = from[l.at(q, e.stride) + oc * e.stride[1] + second];
                    }
                }
                r[i] = Number<T>::widen(pair.at[0]);
                r[i + 1] = Number<T>::widen(pair.at[1]);
            }
        });
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const bool stores = l.stores(channel(i));
            const int64_t oc = (l.channels.oc + channel(i)) * step;
            if (whole) l.template store<2>(real(i) && stores, oc + at[i / 2 % C::Q][0], v[0] + i);
            else {
                l.template store<1>(real(i) && stores, oc + at[i / 2 % C::Q][0], v[0] + i);
                l.template store<1>(real(i + 1) && stores, oc + at[i / 2 % C::Q][1], v[0] + i + 1);
            }
        }
    }
}

// As dense_store_cells: lanes take lots of neighbouring channels, of columns of half the chunk from `position` on.
template <class C, int Lot>
__device__ __forceinline__ void dense_list_cells(const DenseListed<C> &l, int position, const float *chunk, int64_t at,
                                                 uint32_t pairs)
{
    typedef typename C::T T;
    constexpr int N = C::Listed, Batch = N / Lot, Units = C::NB / Lot;
    static_assert(C::Q * Units % Batch == 0, "");
    struct alignas(Lot * 4) Values { float at[Lot]; };
    const DenseProblem &p = l.p;
    const int lane = threadIdx.x % 32, count = min(C::NB, l.channels.left);
#pragma unroll 1
    for (int first = lane; first < 32 * C::Q * Units; first += 32 * Batch) {
        float v[1][N];
        int64_t to[Batch];                      // negative: not stored
#pragma unroll
        for (int b = 0; b < Batch; b++) {
            const int column = (first + b * 32) / Units, c = (first + b * 32) % Units * Lot;
            const int64_t where = __shfl_sync(0xffffffffu, at, column / C::Q);
            const bool second = C::Q == 2 && column % 2 != 0, real = !second || (pairs >> column / 2 & 1);
            to[b] = where >= 0 && c < count && real && l.stores(c) ? where + (second ? p.y_stride[4] : 0) + c : -1;
            Values values = *(const Values *)(chunk + column * C::CellPitch + c);
#pragma unroll
            for (int j = 0; j < Lot; j++) v[0][b * Lot + j] = values.at[j];
        }
        auto channel = [&](int i) {
            return l.channels.oc + min((first + i / Lot * 32) % Units * Lot + i % Lot, count - 1);
        };
        apply_in_registers(l.f.list, 0, v, channel, [&](const Entry<float> &e, int, float (&r)[N]) {
#pragma unroll
            for (int b = 0; b < Batch; b++) {
                float (&lot)[Lot] = reinterpret_cast<float (&)[Lot]>(r[b * Lot]);
#pragma unroll
                for (int j = 0; j < Lot; j++) lot[j] = 0;
                if (to[b] < 0) continue;
                const int column = (first + b * 32) / Units;
                const int64_t second = C::Q == 2 && column % 2 != 0 ? e.stride[4] : 0;
                const int64_t from = e.like_y ? l.channels.oc + to[b]
                                              : l.at(position + column / C::Q, e.stride) + second +
                                                    channel(b * Lot) * e.stride[1];
                if (Lot > 1 && e.channels) residual_vectors<T>(e.residual, from, lot);
                else
#pragma unroll
                    for (int j = 0; j < Lot; j++)
                        lot[j] = Number<T>::widen(((const T *)e.residual)[from + j * e.stride[1]]);
            }
        });
#pragma unroll
        for (int b = 0; b < Batch; b++)
            l.template store<Lot>(to[b] >= 0, l.channels.oc + to[b], v[0] + b * Lot);
    }
}

template <class C>
__device__ __forceinline__ void dense_list_chunk(const DenseListed<C> &l, int position, const float *chunk, int half,
                                                 uint32_t full, uint32_t parity)
{
    if (l.p.y_stride[1] != 1) { dense_list_rows<C>(l, position, chunk, half, full, parity);  return; }
    bool pair;
    const int lane = threadIdx.x % 32;
    const int64_t at = l.at(position + half * 32 + lane, &pair);
    const uint32_t pairs = __ballot_sync(0xffffffffu, pair);
    chunk += half * 32 * C::Q * C::CellPitch;
    position += half * 32;
    barrier_wait(full, parity);
    if (l.p.y_vectors) dense_list_cells<C, 4>(l, position, chunk, at, pairs);
    else dense_list_cells<C, 1>(l, position, chunk, at, pairs);
}

template <class C>
__device__ __forceinline__ void dense_store_listed(const DenseProblem &p, const DenseFollows<typename C::T, true> &f,
                                                   const DenseShared &s, const unsigned char *shared, bool repairs)
{
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DenseListed<C> l(p, f, p.table.phase[work.phase], work.block, repairs);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.position + (group * C::R + r) * 64;
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const float *chunk = (const float *)(shared + (s.chunk<C>(group, ring.index) - origin));
            dense_list_chunk<C>(l, position, chunk, half, s.y_full + barrier, ring.parity);
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}
#endif

}

#endif
