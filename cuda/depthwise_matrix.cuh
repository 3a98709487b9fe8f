// Depth-wise problems with kernel 7x7x7 or 5x5x5 and stride 2 on all axes, 16-bit types: part of cuda_depthwise, on
// mma.sync.
//
// Idea      43 multiply-adds an output take longer than its two bytes. Along the width the 8 outputs of 4 columns meet
//           8 neighbouring elements of x: one mma.m16n8k8 makes them for 16 rows along the height, its B a band of one
//           row of weights, of whose products 44% are wanted. B of all 49 rows of weights is 49
//           registers of a lane, loaded once; A is two words of the staged tile of x, used for all phases of depth and
//           height that meet it. Four such tiles side by side, traded among four lanes, are 16-byte stores. A band's
//           zeros would make NaN of infinity: tiles with a value of x or a weight that is not finite are summed tap by
//           tap instead. Where channels lie side by side (NDHWC) a block's 8 warps have one channel each; x is taken
//           apart as it is staged, and outputs come together in shared memory before they are stored.
// Requires  f16 or bf16; stride 2, dilation 1, kernel 7 or 5 on all axes, any padding; one channel a group.
// Tile      4 warps; a warp does 16 x 16 columns of height and width, 4 tiles of 4 columns x 2 phases, for one plane of
//           columns after the other. A block has up to 8 planes x 32 x 32 columns of one channel. NDHWC: 8 warps, 2
//           planes x 16 x 16 columns of 8 channels.
// Measured  one H200, mednext_64_k7 in f16: 0.033 ms, 0.27 of the floor, NDHWC 0.056, 0.16; ReLU 5%, SiLU 18% longer.
//           By multiply-adds 0.051 and 0.088.
#pragma once

#include "halo.cuh"

#if CONVT3D__PART(5)

namespace convt3d_cuda {

// Low: x index of the first of 8 elements, from a tile's first column.
template <class T, int Taps_> struct BandConfig {
    typedef T Element;
    typedef float Accumulator;
    static constexpr int Taps = Taps_, Low = Taps_ == 7 ? -3 : -2, Offsets = (Taps_ + 1) / 2;
    static constexpr int Threads = 128, Rows = 16, Columns = 16, Tiles = 4;
};

// c += a * b, 16 x 8 x 8.
static __device__ __forceinline__ void band_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b, const __half *)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}
static __device__ __forceinline__ void band_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b,
                                                const __nv_bfloat16 *)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

// The sign bits of a word: set where the exponent of either of its numbers is all ones.
static __device__ __forceinline__ uint32_t not_finite_pair(uint32_t v, const __half *)
{
    return (v & 0x7c007c00u) + 0x04000400u;
}
static __device__ __forceinline__ uint32_t not_finite_pair(uint32_t v, const __nv_bfloat16 *)
{
    return (v & 0x7f807f80u) + 0x00800080u;
}

template <class K> using BandWeights = uint32_t[K::Taps * K::Taps];

// A lane's part of the bands: rows k of B are elements of x, its columns 2 * column + e outputs. Returns whether one of
// the weights is not finite.
template <class K>
__device__ __forceinline__ bool band_weights(const typename K::Element *w, BandWeights<K> &band)
{
    const int lane = threadIdx.x % 32, column = lane / 8, e = lane / 4 % 2, k = lane % 4 * 2;
    const int tap = e + 1 - 2 * (K::Low + k - column), next = tap - 2;
    const bool here = tap >= 0 && tap < K::Taps, there = next >= 0 && next < K::Taps;
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < K::Taps * K::Taps; i++) {
        uint16_t low = 0, high = 0;
        if (here) low = ((const uint16_t *)w)[i * K::Taps + tap];
        if (there) high = ((const uint16_t *)w)[i * K::Taps + next];
        band[i] = (uint32_t)high << 16 | low;
        found |= not_finite_pair(band[i], (const typename K::Element *)0);
    }
    return (found & 0x80008000u) != 0;
}

// Stages a channel's tile as words of two elements. Returns whether one of those that this thread staged is not finite.
template <class K>
__device__ __forceinline__ bool band_stage(const HaloProblem<typename K::Element> &p, const HaloBlock &b, uint32_t *to)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    constexpr int together = 8;             // loads in flight
    const int32_t words = s.extent[2] / 2, step = K::Threads / words, rows = s.extent[0] * s.extent[1];
    uint32_t column = threadIdx.x, h = p.by_width.split(column), found = 0;
    const int32_t id = b.q[0] + s.low[0], ih = b.q[1] + s.low[1], iw = b.q[2] + K::Low + 2 * (int32_t)column;
    if ((int32_t)h >= step) return false;
    const uint16_t *from = (const uint16_t *)(p.x + b.n * p.x_stride[0] + b.g * p.x_stride[1] + id * p.x_stride[2] +
                                              ih * p.x_stride[3] + iw * p.x_stride[4]);
    const bool first = (uint32_t)iw < (uint32_t)p.axis[2].in, second = (uint32_t)(iw + 1) < (uint32_t)p.axis[2].in;
    const int32_t step_d = (int32_t)p.x_stride[2], step_h = (int32_t)p.x_stride[3];
    int32_t d = 0, offset = h * step_h;
    to += column + h * words;
    for (int32_t row = h; row < rows; row += together * step) {
        uint32_t v[together];
#pragma unroll
        for (int i = 0; i < together; i++, h += step, offset += step * step_h) {
            while ((int32_t)h >= s.extent[1]) { h -= s.extent[1];  d++;  offset += step_d - s.extent[1] * step_h; }
            const bool here = row + i * step < rows && (uint32_t)(id + d) < (uint32_t)p.axis[0].in &&
                              (uint32_t)(ih + (int32_t)h) < (uint32_t)p.axis[1].in;
            const uint16_t *at = from + offset;
            v[i] = 0;
            if (p.x_vectors) { if (here && first) v[i] = *(const uint32_t *)at;  continue; }
            if (here && first) v[i] = at[0];
            if (here && second) v[i] |= (uint32_t)at[p.x_stride[4]] << 16;
        }
#pragma unroll
        for (int i = 0; i < together; i++, to += step * words) {
            found |= not_finite_pair(v[i], (const T *)0);
            if (row + i * step < rows) *to = v[i];
        }
    }
    return (found & 0x80008000u) != 0;
}

// Where a lane's outputs are: those of its first row and column, phase 0 of the height. Others: 8 rows of columns, one
// phase, and tiles of 4 columns further.
struct BandTarget {
    int32_t channel, od, oh, ow;
    int64_t n;
};

// [phase of the height and half of the 16 rows][tile and phase of the width]
template <class K> using BandSums = float[4][2 * K::Tiles];

// All products of phase ed of the depth. x: the lane's word of the tile at its rows and columns.
template <class K, int Ed>
__device__ __forceinline__ void band_multiply(const uint32_t *x, int32_t plane, int32_t pitch,
                                              const BandWeights<K> &band, BandSums<K> &sum)
{
    float c[2][K::Tiles][4] = {};
    constexpr int offsets = K::Offsets;     // of x from a column: 1, 0, ... as taps rise
#pragma unroll
    for (int d = 0; d < offsets; d++) {
        const int kd = Ed - 1 + 2 * d;
        if (kd < 0 || kd >= K::Taps) continue;
#pragma unroll
        for (int h = 0; h < offsets; h++)
#pragma unroll
            for (int tile = 0; tile < K::Tiles; tile++) {
                const uint32_t *at = x + (offsets - 1 - d) * plane + (offsets - 1 - h) * pitch + 2 * tile;
                const uint32_t a[2] = {at[0], at[8 * pitch]};
#pragma unroll
                for (int eh = 0; eh < 2; eh++) {
                    const int kh = eh - 1 + 2 * h;
                    if (kh >= 0 && kh < K::Taps)
                        band_add(c[eh][tile], a, band[kd * K::Taps + kh], (const typename K::Element *)0);
                }
            }
    }
#pragma unroll
    for (int i = 0; i < 8 * K::Tiles; i++)
        sum[i / (4 * K::Tiles) * 2 + i / 2 % 2][i / 4 % K::Tiles * 2 + i % 2] =
            c[i / (4 * K::Tiles)][i / 4 % K::Tiles][i % 4];
}

// The row of columns and phase of row `r` of the sums, from t.oh.
static __device__ __forceinline__ int32_t band_row(int r) { return r / 2 + r % 2 * 16; }

// Whether an output exists.
template <class T>
__device__ __forceinline__ bool band_inside(const HaloProblem<T> &p, int32_t od, int32_t oh, int32_t ow)
{
    return (uint32_t)od < (uint32_t)p.axis[0].out && (uint32_t)oh < (uint32_t)p.axis[1].out &&
           (uint32_t)ow < (uint32_t)p.axis[2].out;
}

// The list on all of them.
template <class K>
__device__ __forceinline__ void band_apply(const HaloProblem<typename K::Element> &p, const BandTarget &t,
                                           BandSums<K> &sum)
{
    typedef typename K::Element T;
    apply_common_first(p.list, 0, sum, [=](int) { return (int64_t)t.channel; },
                       [&](const Entry<float> &e, int r, float (&v)[2 * K::Tiles]) {
        const int32_t oh = t.oh + band_row(r);
        const T *from = (const T *)e.residual + offset_of({t.n, t.channel, t.od, oh, t.ow, 1, 1}, e.stride);
#pragma unroll
        for (int i = 0; i < 2 * K::Tiles; i++) {
            const int32_t w = i / 2 * 8 + i % 2;
            v[i] = band_inside(p, t.od, oh, t.ow + w) ? Number<T>::widen(from[w * e.stride[4]]) : 0;
        }
    });
}

// Trades words among the four lanes of a row of outputs: word i of lane t becomes word t of lane i.
static __device__ __forceinline__ void band_trade(uint32_t (&v)[4])
{
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const bool upper = (lane & bit) != 0;
            const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[i + bit], bit);
            if (upper) v[i] = got;
            else v[i + bit] = got;
        }
}

// All of them to y, as elements of Out. All lanes of a warp come here.
template <class Out, class K>
__device__ __forceinline__ void band_store(const HaloProblem<typename K::Element> &p, const BandTarget &t,
                                           const BandSums<K> &sum)
{
    Out *y = (Out *)p.y + t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] +
             t.oh * p.y_stride[3] + t.ow * p.y_stride[4];
    const int32_t lane = threadIdx.x % 4, first = t.ow - 2 * lane;     // of the 32 outputs of four lanes
    const bool whole = sizeof(Out) == 2 && p.row_vectors == 2 && first % 8 == 0 && first + 32 <= p.axis[2].out;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int32_t oh = t.oh + band_row(r);
        Out *row = y + band_row(r) * p.y_stride[3];
        if constexpr (sizeof(Out) == 2)
            if (whole) {
                uint32_t word[4];
#pragma unroll
                for (int i = 0; i < 4; i++) word[i] = round_pair(sum[r][2 * i], sum[r][2 * i + 1], (const Out *)0);
                band_trade(word);
                if (band_inside(p, t.od, oh, first)) store_words(row + 6 * lane, word);
                continue;
            }
#pragma unroll
        for (int i = 0; i < 2 * K::Tiles; i++) {
            const int32_t w = i / 2 * 8 + i % 2;
            if (band_inside(p, t.od, oh, t.ow + w)) row[w * p.y_stride[4]] = Number<Out>::round(sum[r][i]);
        }
    }
}

// A value of x or a weight is not finite: every output of a lane from global memory.
template <class K>
__device__ __noinline__ void band_exact(const HaloProblem<typename K::Element> &p, BandTarget t)
{
    for (int32_t i = 0; i < 8 * K::Tiles; i++) {
        const int32_t r = i / (2 * K::Tiles), oh = t.oh + band_row(r), ow = t.ow + i / 2 % K::Tiles * 8 + i % 2;
        if (!band_inside(p, t.od, oh, ow)) continue;
        halo_finish(p, t.n * p.y_stride[0] + t.channel * p.y_stride[1] + t.od * p.y_stride[2] + oh * p.y_stride[3] +
                           ow * p.y_stride[4],
                    halo_exact_sum(p, p.w, {1, 1, K::Taps}, t.n, t.channel, 0, t.od, oh, ow),
                    {t.n, t.channel, t.od, oh, ow, 1, 1});
    }
}

// Bias and list.
template <class K, ListForm Form>
__device__ __forceinline__ void band_finish(const HaloProblem<typename K::Element> &p, const BandTarget &t, float bias,
                                            BandSums<K> &sum)
{
    float (&all)[8 * K::Tiles] = reinterpret_cast<float (&)[8 * K::Tiles]>(sum);
#pragma unroll
    for (int i = 0; i < 8 * K::Tiles; i++) all[i] += bias;
    if constexpr (Form == LIGHT_LIST) halo_light(p.list, t.channel, all);
    else if (Form == WHOLE_LIST && p.list.count > 0) band_apply<K>(p, t, sum);
}

template <class K, ListForm Form>
__global__ void __launch_bounds__(K::Threads, 3)
band_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    const HaloBlock b = halo_block(p, blockIdx.x);
    const uint32_t *staged = (const uint32_t *)halo_shared;
    const int32_t words = s.extent[2] / 2, plane = s.extent[1] * words, lane = threadIdx.x % 32;
    BandWeights<K> band;
    bool exact = band_stage<K>(p, b, (uint32_t *)halo_shared);
    exact = band_weights<K>(p.w + (int64_t)b.g * p.taps, band) || exact;
    exact = __syncthreads_or(exact);
    const float bias = halo_bias(p, b.g);
    const uint32_t items = s.tile[0] * (s.tile[1] / K::Rows) * (s.tile[2] / K::Columns);
#pragma unroll 1
    for (uint32_t item = threadIdx.x / 32; item < items; item += K::Threads / 32) {
        const HaloColumn q = halo_column(p, item);
        const int32_t h = q.h * K::Rows, w = q.w * K::Columns;
        BandTarget t = {b.g, 2 * (b.q[0] - s.first[0] + q.d) - s.rotation[0],
                        2 * (b.q[1] - s.first[1] + h + lane / 4) - s.rotation[1],
                        2 * (b.q[2] - s.first[2] + w + lane % 4) - s.rotation[2], b.n};
        if (t.od >= p.axis[0].out) continue;
        const uint32_t *x = staged + q.d * plane + (h + lane / 4) * words + w / 2 + lane % 4;
#pragma unroll 1
        for (int ed = 0; ed < 2; ed++, t.od++) {
            if ((uint32_t)t.od >= (uint32_t)p.axis[0].out) continue;
            if (exact) { band_exact<K>(p, t);  continue; }
            BandSums<K> sum;
            if (ed == 0) band_multiply<K, 0>(x, plane, words, band, sum);
            else band_multiply<K, 1>(x, plane, words, band, sum);
            band_finish<K, Form>(p, t, bias, sum);
            if (Form == WHOLE_LIST && p.wide) band_store<float, K>(p, t, sum);
            else band_store<T, K>(p, t, sum);
        }
    }
}

// ---- channels side by side ----

enum { BAND_CHANNELS = 8, BAND_POSITIONS = 33 };        // of a block; of a row of traded outputs, one of them unused

// Stages 8 channels of a tile, one channel after the other. Returns whether a value that this thread staged is not
// finite.
template <class K>
__device__ __forceinline__ bool band_stage_channels(const HaloProblem<typename K::Element> &p, const HaloBlock &b,
                                                    int32_t channel, int32_t channel_step, uint16_t *to)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    constexpr int together = 3, threads = 32 * BAND_CHANNELS;
    const int32_t positions = s.extent[0] * s.extent[1] * s.extent[2];
    const int32_t channels = min((int32_t)BAND_CHANNELS, p.groups - channel);
    const uint16_t *x = (const uint16_t *)(p.x + b.n * p.x_stride[0] + channel +
                                           (b.q[0] + s.low[0]) * p.x_stride[2] + (b.q[1] + s.low[1]) * p.x_stride[3] +
                                           (b.q[2] + K::Low) * p.x_stride[4]);
    const int32_t step_d = (int32_t)p.x_stride[2], step_h = (int32_t)p.x_stride[3], step_w = (int32_t)p.x_stride[4];
    uint32_t found = 0;
    for (int32_t first = threadIdx.x; first < positions; first += together * threads) {
        uint4 v[together];
#pragma unroll
        for (int i = 0; i < together; i++) {
            uint32_t w = first + i * threads, h = p.by_width.split(w), d = p.by_height.split(h);
            const int32_t id = b.q[0] + s.low[0] + (int32_t)d, ih = b.q[1] + s.low[1] + (int32_t)h;
            const int32_t iw = b.q[2] + K::Low + (int32_t)w;
            const bool here = first + i * threads < positions && (uint32_t)id < (uint32_t)p.axis[0].in &&
                              (uint32_t)ih < (uint32_t)p.axis[1].in && (uint32_t)iw < (uint32_t)p.axis[2].in;
            const uint16_t *from = x + ((int32_t)d * step_d + (int32_t)h * step_h + (int32_t)w * step_w);
            v[i] = make_uint4(0, 0, 0, 0);
            if (here && p.x_vectors) v[i] = *(const uint4 *)from;
            if (here && !p.x_vectors)
#pragma unroll
                for (int c = 0; c < BAND_CHANNELS; c++)
                    if (c < channels) ((uint32_t *)&v[i])[c / 2] |= (uint32_t)from[c] << c % 2 * 16;
        }
#pragma unroll
        for (int i = 0; i < together; i++)
#pragma unroll
            for (int c = 0; c < BAND_CHANNELS; c++) {
                const uint32_t word = ((const uint32_t *)&v[i])[c / 2];
                if (c % 2 == 0) found |= not_finite_pair(word, (const T *)0);
                if (first + i * threads < positions)
                    to[c * channel_step + first + i * threads] = (uint16_t)(word >> c % 2 * 16);
            }
    }
    return (found & 0x80008000u) != 0;
}

// A channel's outputs to where the block's channels come together: [phase of the height][row][position][channel].
template <class K>
__device__ __forceinline__ void band_gather(const BandSums<K> &sum, uint16_t *to)
{
    typedef typename K::Element T;
    const int32_t lane = threadIdx.x % 32;
    to += (lane / 4 * BAND_POSITIONS + lane % 4 * 2) * BAND_CHANNELS;
#pragma unroll
    for (int i = 0; i < 8 * K::Tiles; i++) {
        const int r = i / (2 * K::Tiles), w = i / 2 % K::Tiles * 8 + i % 2;
        const T v = Number<T>::round(sum[r][i % (2 * K::Tiles)]);
        to[((r / 2 * K::Rows + r % 2 * 8) * BAND_POSITIONS + w) * BAND_CHANNELS] = *(const uint16_t *)&v;
    }
}

// What was gathered, to y. od, oh, ow: of the first output.
template <class K>
__device__ __forceinline__ void band_spread(const HaloProblem<typename K::Element> &p, const BandTarget &t,
                                            const uint16_t *from)
{
    for (int32_t i = threadIdx.x; i < 2 * K::Rows * 2 * K::Columns; i += 32 * BAND_CHANNELS) {
        const int32_t w = i % (2 * K::Columns), row = i / (2 * K::Columns);
        const int32_t oh = t.oh + row % K::Rows * 2 + row / K::Rows;
        if (!band_inside(p, t.od, oh, t.ow + w)) continue;
        __stcs((uint4 *)(p.y + t.n * p.y_stride[0] + t.channel + t.od * p.y_stride[2] + oh * p.y_stride[3] +
                         (t.ow + w) * p.y_stride[4]),
               *(const uint4 *)(from + (row * BAND_POSITIONS + w) * BAND_CHANNELS));
    }
}

template <class K, ListForm Form>
__global__ void __launch_bounds__(32 * BAND_CHANNELS, 2)
band_channels_kernel(const __grid_constant__ HaloProblem<typename K::Element> p)
{
    typedef typename K::Element T;
    const HaloShape &s = p.s;
    uint32_t range = blockIdx.x, next = p.by_ranges[1].split(range);
    const int32_t first = (int32_t)range * BAND_CHANNELS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    HaloBlock b;
    for (int a = 2; a >= 0; a--) {
        uint32_t index = next;
        next = p.by_tiles[a].split(index);
        b.q[a] = s.first[a] + (int32_t)index * s.tile[a];
    }
    b.n = next;
    const int32_t words = s.extent[2] / 2, plane = s.extent[1] * words, channel_step = s.extent[0] * plane;
    uint16_t *traded = (uint16_t *)halo_shared + BAND_CHANNELS * 2 * channel_step;
    const bool mine = first + warp < p.groups;
    const int32_t channel = mine ? first + warp : first;
    BandWeights<K> band;
    bool exact = band_stage_channels<K>(p, b, first, 2 * channel_step, (uint16_t *)halo_shared);
    exact = band_weights<K>(p.w + (int64_t)channel * p.taps, band) || exact;
    exact = __syncthreads_or(exact);
    const float bias = halo_bias(p, channel);
    const uint32_t *x = (const uint32_t *)halo_shared + warp * channel_step + lane / 4 * words + lane % 4;
    const BandTarget origin = {first, 2 * (b.q[0] - s.first[0]) - s.rotation[0],
                               2 * (b.q[1] - s.first[1]) - s.rotation[1],
                               2 * (b.q[2] - s.first[2]) - s.rotation[2], b.n};
#pragma unroll 1
    for (int32_t d = 0; d < 2 * s.tile[0]; d++) {
        BandTarget whole = origin, t = origin;
        whole.od += d;
        t = {channel, whole.od, origin.oh + 2 * (lane / 4), origin.ow + 2 * (lane % 4), b.n};
        if ((uint32_t)t.od >= (uint32_t)p.axis[0].out) continue;
        if (exact) {
            if (mine) band_exact<K>(p, t);
            continue;
        }
        BandSums<K> sum;
        if (d % 2 == 0) band_multiply<K, 0>(x + d / 2 * plane, plane, words, band, sum);
        else band_multiply<K, 1>(x + d / 2 * plane, plane, words, band, sum);
        band_finish<K, Form>(p, t, bias, sum);
        if (!p.channel_vectors) {
            if (!mine) continue;
            if (Form == WHOLE_LIST && p.wide) band_store<float, K>(p, t, sum);
            else band_store<T, K>(p, t, sum);
            continue;
        }
        band_gather<K>(sum, traded + warp);
        __syncthreads();
        band_spread<K>(p, whole, traded);
        __syncthreads();
    }
}

// ---- on the host ----

// Whether the problem is of this class.
static inline bool band_takes(const convt3d__plan *plan)
{
    if (plan->in_group != 1 || plan->out_group != 1) return false;
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.stride != 2 || axis.dilation != 1 || axis.kernel != plan->axis[0].kernel) return false;
    }
    return plan->axis[0].kernel == 7 || plan->axis[0].kernel == 5;
}

// The shape's use here: padding that is even is odd padding and a first output of -1, rotation then being 1.
template <class K, bool Channels> bool band_plan(const convt3d__plan *plan, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    s.chunk = 1;
    s.fused = 2;
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    if (plan->y_count == 0) return true;
    const int64_t ranges = Channels ? convt3d__ceil_div(plan->desc.groups, BAND_CHANNELS) : plan->desc.groups;
    double blocks = (double)plan->desc.batch * (double)ranges;
    const int32_t multiple[3] = {1, K::Rows, K::Columns}, edge = Channels ? 16 : 32;
    const int32_t most[3] = {Channels ? 2 : 8, edge, edge};
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        s.rotation[a] = !(axis.padding & 1);
        s.first[a] = (int32_t)convt3d__floor_div(axis.padding - 1, 2);
        s.columns[a] = (int32_t)convt3d__ceil_div(axis.out + s.rotation[a], 2);
        s.tile[a] = halo_even(s.columns[a], most[a], multiple[a]);
        s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        s.low[a] = 2 - K::Offsets;
        s.extent[a] = s.tile[a] + K::Offsets - 1;
        blocks *= s.tiles[a];
    }
    s.extent[2] = s.tile[2] + 8;
    s.phases = s.phase_step = (int32_t)plan->desc.batch;
    s.channel_step = s.channels = s.lane_blocks = s.item_warps = 1;
    s.channel_items = Channels ? (int32_t)ranges : 1;
    s.shared = s.extent[0] * s.extent[1] * s.extent[2] * 2;
    if (Channels) s.shared = (s.shared + 2 * K::Rows * BAND_POSITIONS * 2) * BAND_CHANNELS;
    if (!halo_spans_32_bits(plan, s)) convt3d__put(&text, "a tile spans more than 2^31 elements of x or y");
    else if (blocks > INT32_MAX / 2) convt3d__put(&text, "too many tiles for one grid");
    else return true;
    return false;
}

template <class K, bool Channels> struct BandKernel : HaloPlain<BandKernel<K, Channels>> {
    typedef typename K::Element T;
    template <ListForm Form> static auto *instance()
    {
        if constexpr (Channels) return band_channels_kernel<K, Form>;
        else return band_kernel<K, Form>;
    }
    static auto *function(const convt3d__plan *plan)
    {
        return halo_with_form(plan, [](auto form) { return instance<decltype(form)::Form>(); });
    }
    static bool plan(const convt3d__plan *plan, HaloShape &s, char why[96])
    {
        return band_plan<K, Channels>(plan, s, why);
    }
    convt3d_status run(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error) const
    {
        const convt3d_desc &d = plan->desc;
        const HaloShape s = halo_shape(plan);
        HaloProblem<T> p = halo_problem<T>(plan, io, s, K::Columns);
        int64_t blocks = d.batch * (Channels ? s.channel_items : d.groups);
        for (int a = 0; a < 3; a++) blocks *= s.tiles[a];
        p.by_width = halo_divisor(Channels ? s.extent[2] : s.extent[2] / 2);
        p.by_rows = halo_divisor(s.tile[1] / K::Rows);
        p.x_vectors = d.x_stride[4] == 1 && d.alignment >= 4 && (s.first[2] + K::Low) % 2 == 0 && d.in_size[2] % 2 == 0;
        for (int i = 0; i < 4; i++) if (d.x_stride[i] % 2 != 0) p.x_vectors = 0;
        if (Channels) {
            p.x_vectors = p.channel_vectors = d.groups % BAND_CHANNELS == 0 && d.alignment >= 16;
            for (int i = 0; i < 5; i++) {
                if (i != 1 && d.x_stride[i] % 8 != 0) p.x_vectors = 0;
                if ((i != 1 && d.y_stride[i] % 8 != 0) || p.wide) p.channel_vectors = 0;
            }
        }
        return convt3d__launch(error, function(plan), dim3((unsigned)blocks),
                               dim3(Channels ? 32 * BAND_CHANNELS : K::Threads), (size_t)s.shared, io->stream, p);
    }
};

}

#endif
