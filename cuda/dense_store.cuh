// sm90_dense's results: how they leave the accumulators through a ring in shared memory and reach y, with a list or as
// sums of a fold's columns on the way.
#pragma once

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {

#if CONVT3D__SM90A

// ---- results: from accumulators to y ----
//
// A warpgroup finishes its results and puts them, 64 positions at a time, into a ring of chunks in shared memory; two
// other warps take them from there to y while it multiplies the next tile.

// Of a warpgroup's channels: the scale, as a factor where it is moderate, and its exponent; 1; the bias; the list's head.
template <class C, bool Light> struct DenseHeads {};
template <class C> struct DenseHeads<C, true> { float factor[C::NB], term[C::NB]; };
template <class C> struct DenseScales : DenseHeads<C, C::Light> {
    float whole[C::NB], one[C::NB], bias[C::NB];
    int exponent[C::NB];
};

template <class T> struct alignas(2 * sizeof(T)) DensePair { T at[2]; };

// The sample of the warpgroup's first position, or -1 where its positions are not all of one sample.
__device__ __forceinline__ int dense_sample(const DenseProblem &p, int position, int count)
{
    const int first = DensePlace::sample(p, position);
    return DensePlace::sample(p, position + count - 1) == first ? first : -1;
}

// What a block of channels is.
struct DenseChannels {
    int row, oc, left;          // in the pack; in y; how many there are
    template <class C> __device__ __forceinline__ static DenseChannels of(const DenseProblem &p, int block)
    {
        const int channels = C::Folds ? p.fold.channels : C::NB, channel = block % p.blocks_group * channels;
        return {block * channels, block / p.blocks_group * p.out_group + channel, p.out_group - channel};
    }
};

// What the results will need of memory, loaded before the products: of channel threadIdx.x % 128, and of the samples of
// this thread's positions. Those are two at most in a tile of rows, which lie in one plane and so differ by their strip
// alone; elsewhere they are one or, where `sample` is negative, to be looked up.
template <class C> struct DenseAhead {
    int w, x, sample;           // x: both usable exponents, 16 bits each
    float bias, factor, term;   // the last two of a light list
    __device__ __forceinline__ DenseAhead(const DenseProblem &p, [[maybe_unused]] const DenseFollows<typename C::T, C::Form> &f,
                                          int position, const DenseChannels &channels)
    {
        typedef typename C::T T;
        const int t = threadIdx.x % 128;
        uint32_t c = t;
        bool real = t < C::NB, first = true;
        if constexpr (C::Folds) {
            first = divide((uint32_t)t, p.fold.by_channels, &c) == 0;
            real = t < p.fold.taps * p.fold.channels;
        }
        const bool biased = real && first && (int)c < channels.left && p.bias;
        bias = biased ? Number<T>::widen(((const T *)p.bias)[channels.oc + (int)c]) : 0.f;
        if constexpr (C::Light) {       // without a head what changes no value, -0 among them
            const bool head = real && (int)c < channels.left && f.head.entries > 0;
            factor = head ? f.head.factor(channels.oc + (int)c) : 1.f;
            term = head ? f.head.term(channels.oc + (int)c) : -0.f;
        }
        w = C::Mode == DENSE_SPLIT && real ? p.w_exponent[channels.row + (int)c] : 0;
        x = sample = 0;
        if constexpr (C::Mode == DENSE_SPLIT) {
            const int first = position + t / 32 * 16 + t % 32 / 4;
            const bool rows = p.rows.height != 0;
            sample = rows ? DensePlace::sample(p, first) : dense_sample(p, position, C::R * 64);
            const int other = rows ? DensePlace::sample(p, first + 8) : sample;
            const int low = sample >= 0 && sample < p.batch ? usable_exponent(p.x_exponent[sample]) : 0;
            const int high = other >= 0 && other < p.batch ? usable_exponent(p.x_exponent[other]) : 0;
            x = (low & 0xffff) | high << 16;
        }
    }
    __device__ __forceinline__ int exponent(int i) const { return i == 0 ? (int)(int16_t)x : x >> 16; }
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
            if constexpr (C::Light) {
                scales->factor[t] = ahead.factor;
                scales->term[t] = ahead.term;
            }
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
                e[i / 2][i % 2] = -ahead.exponent(i % 2);
                if (ahead.sample < 0) {
                    int n = DensePlace::sample(p, first + i / 2 * 64 + i % 2 * 8);
                    e[i / 2][i % 2] = n < p.batch ? -usable_exponent(p.x_exponent[n]) : 0;
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
template <class C, LightForm Kind>
__device__ __forceinline__ void dense_finish(const float (&sum)[C::Q][C::R][C::NB / 2], int r,
                                             const DenseUnscale<C> &scale, const DenseScales<C> *scales,
                                             [[maybe_unused]] const DenseFollows<typename C::T, C::Form> &f, typename C::Value *chunk,
                                             bool by_channel)
{
    typedef typename C::Value T;
    typedef DensePair<T> Pair;
    const int lane = threadIdx.x % 32, position = threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int b = 0; b < C::NB / 8; b++) {
        const int channel = b * 8 + lane % 4 * 2;
        const float2 factor = *(const float2 *)(scale.channel + channel);
        const float2 bias = *(const float2 *)(scales->bias + channel);
        float whole[C::Q][4];
#pragma unroll
        for (int q = 0; q < C::Q; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float s = sum[q][r][b * 4 + i], add = i % 2 ? bias.y : bias.x;
                whole[q][i] = C::Mode != DENSE_SPLIT ? s + add : fmaf(s * scale.row[r][i / 2],
                                                                      i % 2 ? factor.y : factor.x, add);
            }
        if constexpr (C::Light) {
            const float2 times = *(const float2 *)(scales->factor + channel), plus = *(const float2 *)(scales->term + channel);
#pragma unroll
            for (int i = 0; i < 4 * C::Q; i++)
                whole[i / 4][i % 4] = fmaf(whole[i / 4][i % 4], i % 2 ? times.y : times.x, i % 2 ? plus.y : plus.x);
            f.light.template all<Kind>(whole);
        }
        T v[C::Q][4];
#pragma unroll
        for (int i = 0; i < 4 * C::Q; i++) v[i / 4][i % 4] = Number<T>::round(whole[i / 4][i % 4]);
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
__device__ __forceinline__ void dense_put(const DenseProblem &p, const DenseFollows<typename C::T, C::Form> &f, const DenseShared &s,
                                          unsigned char *shared, const DenseAhead<C> &ahead, int position, Ring &ring,
                                          float (&sum)[C::Q][C::R][C::NB / 2])
{
    const int group = threadIdx.x / 128;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    DenseScales<C> *scales = (DenseScales<C> *)(shared + (s.scales - origin)) + group;
    const DenseUnscale<C> scale(p, scales, position, ahead, sum);
    auto put = [&](auto kind) {
#pragma unroll
        for (int r = 0; r < C::R; r++) {
            const uint32_t at = DenseShared::ring(group, ring.index);
            barrier_wait(s.y_empty + at, ring.parity ^ 1);
            typename C::Value *chunk = (typename C::Value *)(shared + (s.chunk<C>(group, ring.index) - origin));
            dense_finish<C, decltype(kind)::form>(sum, r, scale, scales, f, chunk + (C::Folds ? DENSE_MOST_REACH : 0),
                                                  !C::Folds && p.y_stride[1] == 1);
            barrier_arrive(s.y_full + at);
            ring.next(C::Chunks);
        }
    };
    if constexpr (C::Light) f.light.dispatch(put);
    else put(LightKind<LIGHT_FLOOR>());
    warpgroup_sync(1 + group);      // the scales are free
}

// Where in y, in bytes from channel 0, a position's output lies; negative, as positions may be: nowhere. *pair: its
// neighbour, one further on w, is an output too.
__device__ __forceinline__ int64_t dense_where(const DenseProblem &p, const DensePhase &phase, int position, int size,
                                               bool *pair)
{
    const DensePlace at(p, max(position, 0));
    int od = phase.d + (int)at.d * p.stride[0], oh = phase.h + (int)at.h * p.stride[1];
    int ow = phase.w + (int)at.w * p.stride[2];
    bool inside = position >= 0 && (int)at.n < p.batch && od < p.out[0] && oh < p.out[1] && ow < p.out[2];
    *pair = inside && ow + 1 < p.out[2];
    return !inside ? -1 : (at.n * p.y_stride[0] + od * p.y_stride[2] + oh * p.y_stride[3] + ow * p.y_stride[4]) * size;
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
    static __device__ __forceinline__ Pair join(uint32_t a, One b) { return make_uint2(a, b); }
};
template <> struct DenseBits<2> {
    typedef uint32_t Pair;
    typedef uint16_t One;
    static __device__ __forceinline__ One low(Pair v) { return (One)v; }
    static __device__ __forceinline__ One high(Pair v) { return (One)(v >> 16); }
    static __device__ __forceinline__ Pair join(uint32_t a, One b) { return (uint32_t)b << 16 | a; }
};

// How a lane's two neighbours of a row leave: as a pair or, in rows that begin at an odd element, as a pair of the lane
// before's second with this one's first, so that stores stay aligned and fill their sectors; what is left, alone.
struct DensePairing {
    bool pair, first, second, shifted;
    __device__ __forceinline__ void find(const bool (&real)[2], char *const (&at)[2], int size)
    {
        const int lane = threadIdx.x % 32;
        const char *before = (const char *)__shfl_up_sync(0xffffffffu, (unsigned long long)at[1], 1);
        const bool real_before = __shfl_up_sync(0xffffffffu, (int)real[1], 1) != 0;
        shifted = (uintptr_t)at[0] % (2 * size) != 0;
        const bool takes = shifted && lane > 0 && real[0] && real_before && at[0] == before + size;
        const bool taken = __shfl_down_sync(0xffffffffu, (int)takes, 1) != 0 && lane < 31;
        pair = takes || (!shifted && real[0] && real[1] && at[1] == at[0] + size);
        first = real[0] && !pair;
        second = real[1] && !taken && !(pair && !shifted);
    }
};

// Where the positions of a chunk go, in the order of y's rows or, where channels lie side by side, as they come: bytes
// (with a list: elements) from channel 0, the cell and whether a neighbour on w follows; negative: nowhere.
struct DenseEntry {
    int64_t bits;
    __device__ __forceinline__ bool real() const { return bits >= 0; }
    __device__ __forceinline__ bool pair() const { return bits >= 0 && (bits & 1); }
    __device__ __forceinline__ int cell() const { return (int)bits >> 1 & 63; }
    __device__ __forceinline__ int64_t where() const { return bits >> 8; }
};

// A ring of tables: where results of coming chunks go, looked up by one warp for each warpgroup of consumers.
struct DenseTables {
    DenseEntry *first;
    uint32_t full, empty;
    Ring ring;
    __device__ __forceinline__ DenseTables(const DenseShared &s, unsigned char *shared, int group)
        : first((DenseEntry *)(shared + (s.tables - (uint32_t)__cvta_generic_to_shared(shared))) +
                group * DENSE_TABLES * 64),
          full(s.t_full + group * DENSE_TABLES * 8), empty(s.t_empty + group * DENSE_TABLES * 8) {}
    __device__ __forceinline__ DenseEntry *wait_full() const
    {
        barrier_wait(full + ring.index * 8, ring.parity);
        return first + ring.index * 64;
    }
    __device__ __forceinline__ DenseEntry *wait_empty() const
    {
        barrier_wait(empty + ring.index * 8, ring.parity ^ 1);
        return first + ring.index * 64;
    }
    __device__ __forceinline__ void done(uint32_t barrier)
    {
        barrier_arrive(barrier + ring.index * 8);
        ring.next(DENSE_TABLES);
    }
};

template <class C>
__device__ __forceinline__ void dense_table(const DenseProblem &p, const DenseShared &s, unsigned char *shared, int group)
{
    const int lane = threadIdx.x % 32;
    const bool by_channel = p.y_stride[1] == 1;
    DenseTables tables(s, shared, group);
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.chunk(p, group * C::R + r);
            DenseEntry *table = tables.wait_empty();
#pragma unroll 1
            for (int i = lane; i < 64; i += 32) {
                bool pair;
                const int cell = !by_channel ? dense_cell(p, i) : i < 64 - p.rows.unused ? i : -(1 << 30);
                const int size = C::Lists ? 1 : (int)sizeof(typename C::T);
                const int64_t where = dense_where(p, phase, position + cell, size, &pair);
                table[i].bits = where < 0 ? -1 : where << 8 | cell << 1 | (int)pair;
            }
            tables.done(tables.full);
        }
    }
}

// A chunk to y where positions are neighbours: a lane takes pairs of columns, and every second channel from `first` on,
// so that all of them have one alignment.
template <class C> struct DenseStoreRows {
    static constexpr int Size = (int)sizeof(typename C::T), Batch = C::Q == 2 ? 4 : C::NB == 24 ? 6 : 8;
    typedef DenseBits<Size> Bits;
    typedef typename Bits::Pair Pair;
    const typename C::T *chunk;
    int64_t step;               // bytes from a channel to the next of this warp
    int first, count, cell[C::Q];
    char *at[C::Q][2];
    bool real[C::Q][2];
    __device__ __forceinline__ DenseStoreRows(const DenseProblem &p, const DenseChannels &channels,
                                              const DenseEntry *table, const typename C::T *from, int half)
        : chunk(from), step(2 * p.y_stride[1] * Size), first(half), count(min(C::NB, channels.left))
    {
        const int lane = threadIdx.x % 32;
        char *y = (char *)p.y + (channels.oc + half) * p.y_stride[1] * Size;
        if constexpr (C::Q == 2) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const DenseEntry e = table[k * 32 + lane];
                real[k][0] = e.real();
                real[k][1] = e.pair();
                cell[k] = e.cell() * 2;
                at[k][0] = y + e.where();
                at[k][1] = at[k][0] + p.y_stride[4] * Size;
            }
        } else {
            struct alignas(16) Two { DenseEntry at[2]; } two = ((const Two *)table)[lane];
            cell[0] = 2 * lane;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                real[0][i] = two.at[i].real();
                at[0][i] = y + two.at[i].where();
            }
        }
    }
    template <int N> __device__ __forceinline__ void load(int c, Pair (&v)[N][C::Q]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                v[i][k] = *(const Pair *)(chunk + (c + 2 * i) * C::RowPitch + cell[k]);
    }
    // Whether every lane's pairs are aligned neighbours.
    __device__ __forceinline__ bool whole() const
    {
        bool all = step % (4 * Size) == 0;
#pragma unroll
        for (int k = 0; k < C::Q; k++)
            all = all && real[k][0] == real[k][1] &&
                  (!real[k][0] || (at[k][1] == at[k][0] + Size && (uintptr_t)at[k][0] % (2 * Size) == 0));
        return __all_sync(0xffffffffu, all);
    }
    __device__ __forceinline__ void pairs()
    {
#pragma unroll 1
        for (int c = first; c < count; c += 2 * Batch) {
            Pair v[Batch][C::Q];
            load(c, v);
#pragma unroll
            for (int i = 0; i < Batch; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    dense_store_if(real[k][0] && c + 2 * i < count, at[k][0], v[i][k]);
                    at[k][0] += step;
                }
        }
    }
    __device__ __forceinline__ void odd_pairs()
    {
        constexpr int Few = 2;
        DensePairing pairing[C::Q];
#pragma unroll
        for (int k = 0; k < C::Q; k++) pairing[k].find(real[k], at[k], Size);
#pragma unroll 1
        for (int c = first; c < count; c += 2 * Few) {
            Pair v[Few][C::Q];
            load(c, v);
#pragma unroll
            for (int i = 0; i < Few; i++)
#pragma unroll
                for (int k = 0; k < C::Q; k++) {
                    const bool more = c + 2 * i < count, shifted = pairing[k].shifted;
                    const uint32_t before = __shfl_up_sync(0xffffffffu, (uint32_t)Bits::high(v[i][k]), 1);
                    dense_store_if(more && pairing[k].pair, at[k][0] - (shifted ? Size : 0),
                                   shifted ? Bits::join(before, Bits::low(v[i][k])) : v[i][k]);
                    dense_store_if(more && pairing[k].first, at[k][0], Bits::low(v[i][k]));
                    dense_store_if(more && pairing[k].second, at[k][1], Bits::high(v[i][k]));
                    at[k][0] += step;
                    at[k][1] += step;
                }
        }
    }
};

// The same where there is no table: of a stride of 1, whose positions are their columns.
template <class C>
__device__ __forceinline__ void dense_store_rows(const DenseProblem &p, const DensePhase &phase, int position,
                                                 const DenseChannels &channels, const typename C::T *chunk, int first,
                                                 uint32_t full, uint32_t parity)
{
    constexpr int Batch = 4, Size = (int)sizeof(typename C::T);
    typedef DenseBits<Size> Bits;
    const int lane = threadIdx.x % 32, count = min(C::NB, channels.left);
    const int64_t channel_bytes = p.y_stride[1] * Size;
    char *y = (char *)p.y + (channels.oc + first) * channel_bytes, *at[2];
    bool real[2], pair, whole = channel_bytes % (2 * Size) == 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int64_t where = dense_where(p, phase, position + dense_cell(p, 2 * lane + i), Size, &pair);
        real[i] = where >= 0;
        at[i] = y + where;
    }
    whole = whole && real[0] == real[1] &&
            (!real[0] || (at[1] == at[0] + Size && (uintptr_t)at[0] % (2 * Size) == 0));
    whole = __all_sync(0xffffffffu, whole);
    barrier_wait(full, parity);
    chunk += 2 * lane;
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        typename Bits::Pair v[Batch];
#pragma unroll
        for (int i = 0; i < Batch; i++) v[i] = *(const typename Bits::Pair *)(chunk + (c + 2 * i) * C::RowPitch);
        if (whole) {
#pragma unroll
            for (int i = 0; i < Batch; i++) {
                dense_store_if(real[0] && c + 2 * i < count, at[0], v[i]);
                at[0] += 2 * channel_bytes;
            }
        } else {
#pragma unroll
            for (int i = 0; i < Batch; i++) {
                dense_store_if(real[0] && c + 2 * i < count, at[0], Bits::low(v[i]));
                dense_store_if(real[1] && c + 2 * i < count, at[1], Bits::high(v[i]));
                at[0] += 2 * channel_bytes;
                at[1] += 2 * channel_bytes;
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
__device__ __forceinline__ void dense_store(const DenseProblem &p, const DenseShared &s, unsigned char *shared)
{
    typedef typename C::T T;
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2, lane = threadIdx.x % 32;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    DenseTables tables(s, shared, group);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DenseChannels channels = DenseChannels::of<C>(p, work.block);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const T *chunk = (const T *)(shared + (s.chunk<C>(group, ring.index) - origin));
            [[maybe_unused]] const int position = work.chunk(p, group * C::R + r);
            const DenseEntry *entries = nullptr;
            if constexpr (C::Tables) entries = tables.wait_full();
            if (p.y_stride[1] == 1) {
                DenseEntry e = {-1};
                if constexpr (C::Tables) e = entries[half * 32 + lane];
                else {
                    bool pair;
                    const int i = half * 32 + lane;
                    const int64_t to = dense_where(p, p.table.phase[work.phase],
                                                   i < 64 - p.rows.unused ? position + i : -1, (int)sizeof(T), &pair);
                    e.bits = to < 0 ? -1 : to << 8;
                }
                const uint32_t pairs = __ballot_sync(0xffffffffu, e.pair());
                const int64_t at = e.real() ? e.where() : -1;
                barrier_wait(s.y_full + barrier, ring.parity);
                if (p.y_vectors) dense_store_cells<C, uint4>(p, channels, chunk, half, at, pairs);
                else dense_store_cells<C, typename DenseBits<sizeof(T)>::One>(p, channels, chunk, half, at, pairs);
            } else if constexpr (C::Tables) {
                barrier_wait(s.y_full + barrier, ring.parity);
                DenseStoreRows<C> rows(p, channels, entries, chunk, half);
                if (rows.whole()) rows.pairs();
                else rows.odd_pairs();
            } else {
                dense_store_rows<C>(p, p.table.phase[work.phase], position, channels, chunk, half, s.y_full + barrier,
                                    ring.parity);
            }
            if constexpr (C::Tables) tables.done(tables.empty);
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}

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

// ---- results of folds: every tap along w has columns of its own, which are summed on the way to y ----
//
// Output m of a warpgroup is the sum over taps of position m + (taps - 1 - tap)*step in the tap's columns, so that the
// last `reach` positions of a chunk are wanted with the next one: they are carried in front of it.

// Of both warps: which channels and positions are theirs.
template <class C> struct DenseFolded {
    const DenseProblem &p;
    DenseChannels channels;
    int c0, half;               // this warp's channels: c0 and as many on
    // Sums of N channels from c on, for outputs j[] of a chunk's 64, the first of which is wanted `reach` before it.
    template <int N, int J> __device__ __forceinline__ void sum(const float *chunk, int c, const int (&j)[J],
                                                                float (&v)[N][J]) const
    {
        const float *from = chunk + c * C::RowPitch + DENSE_MOST_REACH;
        const int step = p.fold.channels * C::RowPitch - p.fold.step;
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int k = 0; k < J; k++) v[i][k] = 0;
#pragma unroll 1
        for (int tap = 0; tap < p.fold.taps; tap++, from += step)
#pragma unroll
            for (int i = 0; i < N; i++)
#pragma unroll
                for (int k = 0; k < J; k++) v[i][k] += from[i * C::RowPitch + j[k]];
    }
    // The last positions of one chunk to where they belong before the next.
    __device__ __forceinline__ void carry(const float *chunk, float *next) const
    {
        const int lane = threadIdx.x % 32;
        __syncwarp();
        for (uint32_t i = lane; i < p.fold.taps * p.fold.by_half.by; i += 32) {
            uint32_t c, tap = divide(i, p.fold.by_half, &c);
            const int row = ((int)tap * p.fold.channels + c0 + (int)c) * C::RowPitch;
            for (int j = DENSE_MOST_REACH - p.fold.reach; j < DENSE_MOST_REACH; j++) next[row + j] = chunk[row + 64 + j];
        }
        __syncwarp();
    }
};

// Rows of y: a lane has outputs `lane` and 32 + `lane` of each channel; 16-bit ones are traded for pairs.
template <class C>
__device__ __forceinline__ void dense_fold_rows(const DenseFolded<C> &f, const DensePhase &phase, int position, int left,
                                                const float *chunk)
{
    typedef typename C::T T;
    typedef DenseBits<(int)sizeof(T)> Bits;
    constexpr int Size = (int)sizeof(T);
    const DenseProblem &p = f.p;
    const int lane = threadIdx.x % 32, count = min(f.half, f.channels.left - f.c0);
    const bool odd = Size == 2 && lane % 2 != 0;
    const int j[2] = {Size == 4 ? lane : odd ? 31 + lane : lane, Size == 4 ? 32 + lane : odd ? 32 + lane : 1 + lane};
    const int64_t channel_bytes = p.y_stride[1] * Size;
    char *y = (char *)p.y + (f.channels.oc + f.c0) * channel_bytes, *at[2];
    bool real[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool pair;
        const int64_t where = dense_where(p, phase, j[i] >= left ? position + j[i] : -1, Size, &pair);
        real[i] = where >= 0;
        at[i] = y + where;
    }
    const bool pair = Size == 2 && real[0] && real[1] && at[1] == at[0] + 2 && (uintptr_t)at[0] % 4 == 0 &&
                      channel_bytes % 4 == 0;
    const bool whole = Size == 2 && __all_sync(0xffffffffu, pair || !(real[0] || real[1]));
    const int columns[2] = {lane, 32 + lane};
#pragma unroll 1
    for (int c = 0; c < count; c += 4) {
        float v[4][2];
        f.sum(chunk, f.c0 + c, columns, v);
#pragma unroll
        for (int i = 0; i < 4; i++, at[0] += channel_bytes, at[1] += channel_bytes) {
            const bool more = c + i < count;
            if constexpr (Size == 4) {
                dense_store_if(real[0] && more, at[0], v[i][0]);
                dense_store_if(real[1] && more, at[1], v[i][1]);
            } else {
                const T mine = Number<T>::round(odd ? v[i][1] : v[i][0]);
                const T give = Number<T>::round(odd ? v[i][0] : v[i][1]);
                const uint32_t got = __shfl_xor_sync(0xffffffffu, (uint32_t) * (const uint16_t *)&give, 1);
                const uint32_t own = *(const uint16_t *)&mine, both = odd ? own << 16 | got : got << 16 | own;
                if (whole) dense_store_if(pair && more, at[0], both);
                else {
                    dense_store_if(real[0] && more, at[0], Bits::low(both));
                    dense_store_if(real[1] && more, at[1], Bits::high(both));
                }
            }
        }
    }
}

// Channels side by side: a lane takes four of one output.
template <class C>
__device__ __forceinline__ void dense_fold_cells(const DenseFolded<C> &f, const DensePhase &phase, int position, int left,
                                                 const float *chunk)
{
    typedef typename C::T T;
    const DenseProblem &p = f.p;
    const int lane = threadIdx.x % 32;
    int64_t at[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool pair;
        const int j = lane + 32 * i;
        at[i] = dense_where(p, phase, j >= left ? position + j : -1, 1, &pair);
    }
    T *y = (T *)p.y + f.channels.oc;
#pragma unroll 1
    for (uint32_t first = 0; first < 64 * p.fold.by_eighth.by; first += 32) {
        uint32_t quad, j = divide(first + lane, p.fold.by_eighth, &quad);
        const int c = f.c0 + (int)quad * 4;
        const int64_t low = __shfl_sync(0xffffffffu, at[0], j % 32), high = __shfl_sync(0xffffffffu, at[1], j % 32);
        const int64_t where = j < 32 ? low : high;
        const int column[1] = {(int)j};
        float sums[4][1], v[4];
        f.sum(chunk, c, column, sums);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = sums[i][0];
        const bool real = where >= 0;
        if (p.y_vectors) dense_store_as<T, 4>(real && c < f.channels.left, y + where + c, v);
        else
#pragma unroll
            for (int i = 0; i < 4; i++)
                dense_store_as<T, 1>(real && c + i < f.channels.left, y + where + c + i, v + i);
    }
}

template <class C>
__device__ __forceinline__ void dense_store_folded(const DenseProblem &p, const DenseShared &s, unsigned char *shared)
{
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = (int)p.fold.by_half.by;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DensePhase &phase = p.table.phase[work.phase];
        const DenseFolded<C> f = {p, DenseChannels::of<C>(p, work.block), warp % 2 * half, half};
        const int position = work.position + group * (C::R * 64 - p.fold.reach) - p.fold.reach;
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const float *chunk = (const float *)(shared + (s.chunk<C>(group, ring.index) - origin));
            const int left = r == 0 ? p.fold.reach : 0;
            barrier_wait(s.y_full + barrier, ring.parity);
            if (p.y_stride[1] == 1) dense_fold_cells<C>(f, phase, position + r * 64, left, chunk);
            else dense_fold_rows<C>(f, phase, position + r * 64, left, chunk);
            ring.next(C::Chunks);
            if (r + 1 < C::R) f.carry(chunk, (float *)(shared + (s.chunk<C>(group, ring.index) - origin)));
            barrier_arrive(s.y_empty + barrier);
        }
    }
}

// ---- results with a list: applied on the way to y ----
//
// The warps that store apply it, while the matrix unit multiplies the next tile. A residual may be y, so what
// dense_repair_kernel computes again is not stored here if there is one.

// Where the list is applied: of which tile, in which phase.
template <class C> struct DenseListed {
    const DenseProblem &p;
    const DenseFollows<typename C::T, WHOLE_LIST> &f;
    const DensePhase &phase;
    DenseChannels channels;
    uint32_t bad;               // octets of channels that are left to be repaired
    bool repairs;               // there may be such, or such samples
    __device__ __forceinline__ DenseListed(const DenseProblem &problem,
                                           const DenseFollows<typename C::T, WHOLE_LIST> &follows, const DensePhase &of,
                                           int block, bool some)
        : p(problem), f(follows), phase(of), channels(DenseChannels::of<C>(problem, block)), bad(0), repairs(some)
    {
        if (!repairs) return;
        const int lane = threadIdx.x % 32;
        bad = __ballot_sync(0xffffffffu, lane < C::NB / 8 && dense_bad_octet(f.flags, channels.row / 8 + lane));
    }
    // Where cell `cell` of the chunk at `position` goes, in elements from channel 0; negative: it is not stored.
    __device__ __forceinline__ int64_t at(const DenseEntry &e, int position) const
    {
        if (repairs && e.real() && dense_bad_sample(f.flags, DensePlace::sample(p, position + e.cell()))) return -1;
        return e.real() ? e.where() : -1;
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
        const DensePlace i(p, position);
        return i.n * stride[0] + (phase.d + (int64_t)i.d * p.stride[0]) * stride[2] +
               (phase.h + (int64_t)i.h * p.stride[1]) * stride[3] + (phase.w + (int64_t)i.w * p.stride[2]) * stride[4];
    }
    __device__ __forceinline__ bool stores(int channel) const { return !(bad >> channel / 8 & 1); }
};

// As DenseStoreRows: a lane takes pairs of columns, and every second channel from `first` on.
template <class C>
__device__ __forceinline__ void dense_list_rows(const DenseListed<C> &l, int position, const float *chunk,
                                                const DenseEntry *entries, int first)
{
    typedef typename C::T T;
    constexpr int N = C::Listed, Groups = N == 8 && C::Q == 1 && C::NB == 24 ? 1 : 2, All = Groups * N, Batch = All / (2 * C::Q);
    const DenseProblem &p = l.p;
    const List<T> &list = l.f.list;
    const int lane = threadIdx.x % 32, count = min(C::NB, l.channels.left);
    const int64_t step = p.y_stride[1];
    int64_t at[C::Q][2];
    int cell[C::Q];
    bool whole = step % 2 == 0 && (uintptr_t)p.y % (l.f.wide ? 8 : 2 * sizeof(T)) == 0;
#pragma unroll
    for (int k = 0; k < C::Q; k++) {
        const DenseEntry e = entries[C::Q == 2 ? k * 32 + lane : 2 * lane];
        at[k][0] = l.at(e, position);
        if (C::Q == 2) at[k][1] = e.pair() && at[k][0] >= 0 ? at[k][0] + p.y_stride[4] : -1;
        else at[k][1] = l.at(entries[2 * lane + 1], position);
        cell[k] = C::Q == 2 ? (e.real() ? e.cell() : 0) : 2 * lane;
        whole = whole && (at[k][0] >= 0 ? at[k][0] % 2 == 0 && at[k][1] == at[k][0] + 1 : at[k][1] < 0);
    }
    whole = __all_sync(0xffffffffu, whole);
    if (list.residual < list.count && list.entry[list.residual].like_y)
        for (int c = first; c < count; c += 2)
#pragma unroll
            for (int k = 0; k < C::Q; k++)
                if (at[k][0] >= 0)
                    ask_early((const T *)list.entry[list.residual].residual + at[k][0] + (l.channels.oc + c) * step);
#pragma unroll 1
    for (int c = first; c < count; c += 2 * Batch) {
        float v[Groups][N];                     // of channel c + 2*i, columns k and j: (i*Q + k)*2 + j
        float (&all)[All] = reinterpret_cast<float (&)[All]>(v);
        auto channel = [&](int i) { return min(c + i / (2 * C::Q) * 2, count - 1); };
        auto more = [&](int i) { return c + i / (2 * C::Q) * 2 < count; };
#pragma unroll
        for (int i = 0; i < All; i += 2) {
            const float *from = chunk + (c + i / (2 * C::Q) * 2) * C::RowPitch;
            const float2 pair = *(const float2 *)(from + cell[i / 2 % C::Q] * C::Q);
            all[i] = pair.x;
            all[i + 1] = pair.y;
        }
        apply_in_registers(list, 0, v, [&](int i) { return l.channels.oc + channel(i); },
                           [&](const Entry<float> &e, int g, float (&r)[N]) {
            const T *from = (const T *)e.residual;
            const bool pairs = whole && e.like_y && e.aligned;
#pragma unroll
            for (int i = 0; i < N; i += 2) {
                DensePair<T> pair = {{Number<T>::round(0), Number<T>::round(0)}};
                const int64_t oc = l.channels.oc + channel(g * N + i), *to = at[i / 2 % C::Q];
                const bool some = more(g * N + i);
                if (e.like_y) {
                    const T *row = from + oc * step;
                    if (pairs) { if (some && to[0] >= 0) pair = *(const DensePair<T> *)(row + to[0]); }
                    else {
                        if (some && to[0] >= 0) pair.at[0] = row[to[0]];
                        if (some && to[1] >= 0) pair.at[1] = row[to[1]];
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int q = position + cell[i / 2 % C::Q] + (C::Q == 2 ? 0 : j);
                        const int64_t second = C::Q == 2 && j == 1 ? e.stride[4] : 0;
                        if (some && to[j] >= 0) pair.at[j] = from[l.at(q, e.stride) + oc * e.stride[1] + second];
                    }
                }
                r[i] = Number<T>::widen(pair.at[0]);
                r[i + 1] = Number<T>::widen(pair.at[1]);
            }
        });
#pragma unroll
        for (int i = 0; i < All; i += 2) {
            const bool stores = l.stores(channel(i)) && more(i);
            const int64_t oc = (l.channels.oc + channel(i)) * step, *to = at[i / 2 % C::Q];
            if (whole) l.template store<2>(stores && to[0] >= 0, oc + to[0], all + i);
            else {
                l.template store<1>(stores && to[0] >= 0, oc + to[0], all + i);
                l.template store<1>(stores && to[1] >= 0, oc + to[1], all + i + 1);
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
__device__ __forceinline__ void dense_list_chunk(const DenseListed<C> &l, int position, const float *chunk,
                                                 const DenseEntry *entries, int half)
{
    if (l.p.y_stride[1] != 1) { dense_list_rows<C>(l, position, chunk, entries, half);  return; }
    const DenseEntry e = entries[half * 32 + threadIdx.x % 32];
    const int64_t at = l.at(e, position);
    const uint32_t pairs = __ballot_sync(0xffffffffu, e.pair() && at >= 0);
    chunk += half * 32 * C::Q * C::CellPitch;
    position += half * 32;
    if (l.p.y_vectors) dense_list_cells<C, 4>(l, position, chunk, at, pairs);
    else dense_list_cells<C, 1>(l, position, chunk, at, pairs);
}

template <class C>
__device__ __forceinline__ void dense_store_listed(const DenseProblem &p, const DenseFollows<typename C::T, WHOLE_LIST> &f,
                                                   const DenseShared &s, unsigned char *shared, bool repairs)
{
    const int warp = threadIdx.x / 32 % 4, group = warp / 2, half = warp % 2;
    const uint32_t origin = (uint32_t)__cvta_generic_to_shared(shared);
    DenseTables tables(s, shared, group);
    Ring ring;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        DenseWork work(p, tile, C::Positions);
        const DenseListed<C> l(p, f, p.table.phase[work.phase], work.block, repairs);
#pragma unroll 1
        for (int r = 0; r < C::R; r++) {
            const int position = work.chunk(p, group * C::R + r);
            const uint32_t barrier = DenseShared::ring(group, ring.index);
            const float *chunk = (const float *)(shared + (s.chunk<C>(group, ring.index) - origin));
            const DenseEntry *entries = tables.wait_full();
            barrier_wait(s.y_full + barrier, ring.parity);
            dense_list_chunk<C>(l, position, chunk, entries, half);
            tables.done(tables.empty);
            barrier_arrive(s.y_empty + barrier);
            ring.next(C::Chunks);
        }
    }
}
#endif

}

#endif
