// Operands for matrix units: f32 as scaled f16 pairs, and x as planes of 16-byte cells.
//
// Split     v * 2^e = high + low * 2^-12, both f16, where e puts the largest |v| of the sample (of the output channel,
//           for weights) into [2^14, 2^15). The low half has a range of its own, so that what is lost is at most 2^-23
//           of a value or 2^-51 of the largest, whichever is more. Powers of two change no bits. The three products
//           high*high, high*low and low*high go to two sums, the second counting 2^-12; low*low is below 2^-22.
// Planes    [group][chunk][part][2 cells][position] of 16 bytes: a cell is 8 (f16, bf16) or 4 (tf32) channels.
//           Positions run over n, d, h, w of the input with zeros after each row, plane and sample, so that whatever a
//           tap reads beside the input is zero: one such gap serves the end of one row and the beginning of the next.
// Strips    Or the run of all depth planes is cut into strips of equal length that lie side by side: position = (place
//           in the strip)*strips + strip, with the planes around a strip repeated before and after it. So rows that
//           are short become long.
// Guess     The largest |x| of a small sample is looked up. Of a large one it is guessed from every 33rd run of 32
//           elements, and two binades are kept free above it: the splitting pass looks at all elements, and a sample
//           with a larger one is split once more.
// Flags     The exponent of a sample, or of a channel of weights, that holds NaN or infinity is NOT_FINITE: matrix
//           units would spread it over zero-filled neighbours, so its outputs are computed again without them. So are,
//           for tf32, those of a sample or channel that holds subnormals: they have fewer digits than tf32 keeps.
#pragma once

namespace convt3d_cuda {

enum { NOT_FINITE = 1 << 30, TOP_EXPONENT = 14 };

// Unsigned division by a constant of this launch, for 0 <= n < 2^31.
struct Divisor {
    uint32_t by, multiplier, shift;
};

static inline Divisor divisor_of(int64_t by)
{
    Divisor d = {(uint32_t)by, 0, 0};
    uint32_t log = 0;
    if (by == 1) return d;
    while (((int64_t)1 << log) < by) log++;
    d.multiplier = (uint32_t)((((uint64_t)1 << (31 + log)) + (uint64_t)by - 1) / (uint64_t)by);
    d.shift = log - 1;
    return d;
}

__device__ __forceinline__ uint32_t divide(uint32_t n, const Divisor &d, uint32_t *rest)
{
    uint32_t quotient = d.by == 1 ? n : __umulhi(n, d.multiplier) >> d.shift;
    *rest = n - quotient * d.by;
    return quotient;
}

// The exponent that scales values whose largest magnitude has these bits.
__device__ __forceinline__ int scale_exponent(uint32_t largest)
{
    if (largest >= 0x7f800000u) return NOT_FINITE;
    if (largest == 0) return 0;
    if (largest < 0x00800000u) return TOP_EXPONENT + 149 - (31 - __clz((int)largest));
    return TOP_EXPONENT + 127 - (int)(largest >> 23);
}

__device__ __forceinline__ int usable_exponent(int e) { return e == NOT_FINITE ? 0 : e; }

// 2^e for -126 <= e <= 127.
__device__ __forceinline__ float power_of_two(int e) { return __int_as_float((e + 127) << 23); }

// v * 2^e for any e that scale_exponent gives; exact, but for what falls below f32's range.
struct Scale {
    float first, second;
    __device__ __forceinline__ explicit Scale(int e)
    {
        e = usable_exponent(e);
        first = power_of_two(e / 2);
        second = power_of_two(e - e / 2);
    }
    __device__ __forceinline__ float operator()(float v) const { return v * first * second; }
};

// v * 2^e, rounded once, for |e| up to 400.
__device__ __forceinline__ float scale_result(float v, int e)
{
    if (e >= -100 && e <= 100) return v * power_of_two(e);
    return (float)((double)v * __longlong_as_double((long long)(e + 1023) << 52));
}

// Two scaled values as f16 pairs.
__device__ __forceinline__ void split_pair(float a, float b, uint32_t *high, uint32_t *low)
{
    __half2 h = __floats2half2_rn(a, b);
    float2 back = __half22float2(h);
    __half2 l = __floats2half2_rn((a - back.x) * 4096.f, (b - back.y) * 4096.f);
    *high = *(const uint32_t *)&h;
    *low = *(const uint32_t *)&l;
}

// The nearest number with 10 bits of fraction; the largest of them where that would be infinite.
__device__ __forceinline__ uint32_t round_to_tf32(float v)
{
    uint32_t bits = __float_as_uint(v), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return bits | 0x00400000u;
    if (magnitude == 0x7f800000u) return bits;
    magnitude = (magnitude + 0xfffu + ((magnitude >> 13) & 1)) & ~0x1fffu;
    return (bits & 0x80000000u) | (magnitude >= 0x7f800000u ? 0x7f7fe000u : magnitude);
}

// ---- guessing the largest magnitude of each sample ----

enum { SPLIT_THREADS = 256, GUESS_MOST_BLOCKS = 128, GUESS_RUN = 32, GUESS_STRIDE = 33, GUESS_SLACK = 2 };

__device__ __forceinline__ uint32_t magnitude_bits(float v) { return __float_as_uint(v) & 0x7fffffffu; }

// Rounding to tf32 would leave these fewer than 11 digits.
__device__ __forceinline__ bool is_subnormal(float v) { return magnitude_bits(v) - 1 < 0x007fffffu; }

// Of the values of a block of SPLIT_THREADS; right in the first warp.
__device__ __forceinline__ uint32_t block_largest(uint32_t value)
{
    __shared__ uint32_t shared[SPLIT_THREADS / 32];
    value = __reduce_max_sync(0xffffffffu, value);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x < SPLIT_THREADS / 32 ? shared[threadIdx.x] : 0;
    return __reduce_max_sync(0xffffffffu, value);
}

struct GuessProblem {
    const float *x;
    uint32_t *guess, *beyond;   // [sample][block]: partial results; [sample]: zeroed here, see planes_block
    int blocks;                 // of a sample
    int64_t n_stride, runs;     // of a sample: runs of GUESS_RUN elements, one of `skip` that there are
    int64_t rows, row, h, d;    // row > 0: not dense; rows of `row` elements, h and d of them to a plane and a channel
    int64_t count, skip, stride[4];     // elements; c, d, h, w
};

__device__ __forceinline__ void guess_block(const GuessProblem &p, int block)
{
    const int n = block / p.blocks, part = block - n * p.blocks;
    const float *x = p.x + n * p.n_stride;
    const int64_t thread = (int64_t)part * SPLIT_THREADS + threadIdx.x, threads = (int64_t)p.blocks * SPLIT_THREADS;
    uint32_t most = 0;
    if (p.row > 0) {
        for (int64_t r = thread / 32; r < p.rows; r += threads / 32) {
            int64_t h = r % p.h, d = r / p.h % p.d, c = r / p.h / p.d;
            const float *row = x + c * p.stride[0] + d * p.stride[1] + h * p.stride[2];
            for (int64_t w = threadIdx.x % 32; w < p.row; w += 32)
                most = max(most, magnitude_bits(row[w * p.stride[3]]));
        }
    } else {
#pragma unroll 8
        for (int64_t run = thread / 32; run < p.runs; run += threads / 32) {
            int64_t i = run * p.skip * GUESS_RUN + threadIdx.x % 32;
            most = max(most, i < p.count ? magnitude_bits(__ldg(x + i)) : 0u);
        }
    }
    most = block_largest(most);
    if (threadIdx.x != 0) return;
    p.guess[block] = most;
    if (part == 0) p.beyond[n] = 0;
}

// ---- planes ----

enum { SPLIT_F16 = 0, COPY_16 = 1, ROUND_TF32 = 2 };    // f32 as pairs; f16 and bf16 as they are; f32 as tf32

struct PlanesProblem {
    const void *x;
    uint4 *planes;
    const uint32_t *guess;                  // SPLIT_F16: from guess_block, `blocks` a sample
    uint32_t *beyond;                       // of each sample: the largest magnitude that its scale has no room for
                                            // (SPLIT_F16), whether it has subnormals (ROUND_TF32)
    int *exponent;                          // SPLIT_F16: of each sample, out
    int blocks, batch, in[3];
    int exact;                              // the guesses are the largest magnitudes
    int in_group, cells, cells_group;       // channels of a group; cells of all groups, of one
    int pitch, lead;                        // positions of a plane, and those before the first of sample 0
    int by_channel;                         // neighbouring threads read neighbouring channels
    int vectors;                            // a cell's channels are side by side and aligned
    int pairs;                              // a thread takes two neighbours of a row; rows and w are even, strips a
                                            // power of 2, lead and pitch multiples of twice as many
    int width, height;                      // blocks along positions, along cells
    Divisor d, h, w;                        // pitches of an axis, in steps of the next
    Divisor strips;                         // 0 or 1: there are none; depth planes of one, and those repeated before it
    int strip, before;
    int64_t stride[5];
};

template <int Kind> struct CellKind;
template <> struct CellKind<SPLIT_F16> { typedef float Element; enum { Channels = 8, Parts = 2 }; };
template <> struct CellKind<COPY_16> { typedef uint16_t Element; enum { Channels = 8, Parts = 1 }; };
template <> struct CellKind<ROUND_TF32> { typedef float Element; enum { Channels = 4, Parts = 1 }; };

// The scale of a sample, for a warp.
__device__ __forceinline__ int guessed_exponent(const PlanesProblem &p, int sample)
{
    uint32_t most = 0;
    for (int i = threadIdx.x % 32; i < p.blocks; i += 32) most = max(most, p.guess[(int64_t)sample * p.blocks + i]);
    most = __reduce_max_sync(0xffffffffu, most);
    return p.exact ? scale_exponent(most)
         : most == 0 || most >= 0x7f800000u ? NOT_FINITE : scale_exponent(most) - GUESS_SLACK;
}

// Scales of the samples from `first` on that this block's positions lie in.
__device__ __forceinline__ void load_guesses(const PlanesProblem &p, int first, int count, int *exponent)
{
    for (int s = threadIdx.x / 32; s < count; s += SPLIT_THREADS / 32) {
        const int e = guessed_exponent(p, first + s);
        if (threadIdx.x % 32 == 0) exponent[s] = e;
    }
    __syncthreads();
}

// Samples that positions from `begin` on lie in, of each strip: its first and the most that there can be.
struct PlanesSamples {
    int plane, count;
    __device__ __forceinline__ PlanesSamples(const PlanesProblem &p, int begin, int positions)
    {
        const int cells = (int)(p.h.by * p.w.by * p.strips.by);
        plane = max(begin, 0) / cells;
        count = (int)((max(begin + positions - 1, 0) / cells - plane) / p.d.by) + 2;
    }
    __device__ __forceinline__ int first(const PlanesProblem &p, int strip) const
    {
        return max(strip * p.strip + plane - p.before, 0) / (int)p.d.by;
    }
    __device__ __forceinline__ void load(const PlanesProblem &p, int *exponent) const
    {
        for (int i = threadIdx.x / 32; i < count * (int)p.strips.by; i += SPLIT_THREADS / 32) {
            const int n = first(p, i / count) + i % count;
            if (n >= p.batch) continue;
            const int e = guessed_exponent(p, n);
            if (threadIdx.x % 32 == 0) exponent[i] = e;
        }
        __syncthreads();
    }
};

template <class Element, int Channels>
__device__ __forceinline__ void load_cell(const Element *x, int64_t stride, int channels, bool vectors,
                                          Element (&v)[Channels])
{
    if (vectors) {
#pragma unroll
        for (int i = 0; i < (int)(sizeof v / 16); i++) ((uint4 *)v)[i] = ((const uint4 *)x)[i];
        return;
    }
#pragma unroll
    for (int c = 0; c < Channels; c++) v[c] = c < channels ? x[c * stride] : Element(0);
}

// Scaled and split; reports what is beyond the scale's room: anything that is not zero where the guess was nothing.
__device__ __forceinline__ void split_cell(const float (&v)[8], int exponent, uint32_t *beyond, uint32_t (&high)[4],
                                           uint32_t (&low)[4])
{
    const Scale scale(exponent);
    float scaled[8];
    uint32_t most = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        scaled[c] = scale(v[c]);
        most = max(most, magnitude_bits(scaled[c]));
    }
    if (most >= (exponent == NOT_FINITE ? 1u : 0x47000000u) && beyond) {     // 2^15
        uint32_t largest = 0;
#pragma unroll
        for (int c = 0; c < 8; c++) largest = max(largest, magnitude_bits(v[c]));
        atomicMax(beyond, largest);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) split_pair(scaled[2 * i], scaled[2 * i + 1], &high[i], &low[i]);
}

// A cell's operands of one position. exponent, beyond: as split_cell.
template <int Kind>
__device__ __forceinline__ void cell_operands(const typename CellKind<Kind>::Element (&v)[CellKind<Kind>::Channels],
                                              int exponent, uint32_t *beyond, uint32_t (&high)[4], uint32_t (&low)[4])
{
    if constexpr (Kind == SPLIT_F16) split_cell(v, exponent, beyond, high, low);
    if constexpr (Kind == ROUND_TF32)
        if (beyond && (is_subnormal(v[0]) || is_subnormal(v[1]) || is_subnormal(v[2]) || is_subnormal(v[3])))
            *beyond = 1;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (Kind == ROUND_TF32) high[i] = round_to_tf32(v[i]);
        if constexpr (Kind == COPY_16) high[i] = (uint32_t)v[2 * i + 1] << 16 | v[2 * i];
    }
}

// Two threads' four consecutive cells, two of each: they trade one, so that each store fills whole sectors.
__device__ __forceinline__ void store_pairs(uint4 *out, const uint32_t (&cell)[2][4], bool odd, bool real)
{
    alignas(16) uint32_t first[4], second[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? cell[0][i] : cell[1][i], 1);
        first[i] = odd ? other : cell[0][i];
        second[i] = odd ? cell[1][i] : other;
    }
    if (!real) return;
    out[0] = *(const uint4 *)first;
    out[2] = *(const uint4 *)second;
}

// What a position of the planes holds.
struct PlanesPlace {
    int n, plane, strip;
    uint32_t d, h, w;
    bool inside;                // but for w
    // flat: from the first repeated plane.
    __device__ __forceinline__ PlanesPlace(const PlanesProblem &p, int flat)
        : n(0), plane(-1), strip(0), d(0), h(0), w(0)
    {
        uint32_t rest = (uint32_t)flat, at = 0;
        if (flat >= 0) {
            if (p.strips.by > 1) rest = divide(rest, p.strips, &at);
            strip = (int)at;
            plane = (int)(at * p.strip + divide(divide(rest, p.w, &w), p.h, &h)) - (p.strips.by > 1 ? p.before : 0);
            n = (int)divide((uint32_t)max(plane, 0), p.d, &d);
        }
        inside = plane >= 0 && n < p.batch && (int)d < p.in[0] && (int)h < p.in[1];
    }
    __device__ __forceinline__ bool first() const { return d == 0 && h == 0 && w == 0; }
};

// Positions before the first of the tensor's, where there are strips.
__device__ __forceinline__ int planes_repeated(const PlanesProblem &p)
{
    return p.strips.by > 1 ? p.before * (int)(p.h.by * p.w.by * p.strips.by) : 0;
}

// The scale of a position's sample, for all threads of a block whose positions begin at `begin`.
__device__ __forceinline__ int planes_exponent(const PlanesProblem &p, const PlanesPlace &at, bool inside, int begin,
                                               int positions, int *exponents)
{
    if (p.strips.by > 1) {
        const PlanesSamples samples(p, begin, positions);
        samples.load(p, exponents);
        return inside ? exponents[at.strip * samples.count + at.n - samples.first(p, at.strip)] : 0;
    }
    const int sample = (int)(p.d.by * p.h.by * p.w.by), first = max(begin, 0) / sample;
    load_guesses(p, first, min((begin + positions - 1) / sample, p.batch - 1) - first + 1, exponents);
    return inside ? exponents[at.n - first] : 0;
}

// As planes_block below, for two positions a thread: half the instructions, and whole sectors of both tensors.
template <int Kind> __device__ __forceinline__ void planes_pairs_block(const PlanesProblem &p, int block)
{
    typedef CellKind<Kind> Cell;
    typedef typename Cell::Element Element;
    struct alignas(2 * sizeof(Element)) Pair { Element at[2]; };
    __shared__ int exponents[2 * SPLIT_THREADS + 1];
    const int cell = block / p.width, row = (block - cell * p.width) * 2 * SPLIT_THREADS;
    const int strips = max(1, (int)p.strips.by), strip = (int)threadIdx.x & (strips - 1);
    const int column = row + 2 * ((int)threadIdx.x - strip) + strip, begin = row - p.lead + planes_repeated(p);
    const PlanesPlace at(p, column - row + begin);
    const bool real = column < p.pitch, inside = real && at.inside && (int)at.w < p.in[2];  // of both
    const int g = cell / p.cells_group, channel = (cell - g * p.cells_group) * Cell::Channels;
    const int channels = inside ? min(p.in_group - channel, (int)Cell::Channels) : 0;
    const Element *x = (const Element *)p.x + at.n * p.stride[0] + (g * p.in_group + channel) * p.stride[1] +
                       at.d * p.stride[2] + at.h * p.stride[3] + at.w;
    Pair v[Cell::Channels] = {};
#pragma unroll
    for (int c = 0; c < Cell::Channels; c++) if (c < channels) v[c] = *(const Pair *)(x + c * p.stride[1]);
    const int exponent =
        Kind == SPLIT_F16 ? planes_exponent(p, at, inside, begin, 2 * SPLIT_THREADS, exponents) : 0;
    alignas(16) uint32_t high[2][4], low[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        Element one[Cell::Channels];
#pragma unroll
        for (int c = 0; c < Cell::Channels; c++) one[c] = v[c].at[i];
        cell_operands<Kind>(one, exponent, inside && !p.exact ? p.beyond + at.n : nullptr, high[i], low[i]);
    }
    uint4 *out = p.planes + ((int64_t)(cell / 2 * 2 * Cell::Parts + cell % 2) * p.pitch + column);
    if (strips == 1) {
        const bool odd = threadIdx.x % 2 != 0;
        store_pairs(out - odd, high, odd, real);
        if (Kind == SPLIT_F16) store_pairs(out - odd + 2 * (int64_t)p.pitch, low, odd, real);
    } else if (real) {
#pragma unroll
        for (int i = 0; i < 2; i++, out += strips) {
            *out = *(const uint4 *)high[i];
            if (Kind == SPLIT_F16) out[2 * (int64_t)p.pitch] = *(const uint4 *)low[i];
        }
    }
    if (Kind == SPLIT_F16 && cell == 0 && inside && at.first())
        p.exponent[at.n] = p.exact ? exponent : usable_exponent(exponent);
}

// One block's share of the planes, `width` blocks to a cell. again: only samples whose first scale was too large, with
// the right one.
template <int Kind>
__device__ __forceinline__ void planes_block(const PlanesProblem &p, int width, int block, bool again)
{
    typedef CellKind<Kind> Cell;
    typedef typename Cell::Element Element;
    __shared__ int exponents[2 * SPLIT_THREADS + 1];
    const int positions = p.by_channel ? SPLIT_THREADS / 4 : SPLIT_THREADS;
    const int row = block / width, first = (block - row * width) * positions;
    const int begin = first - p.lead + planes_repeated(p);
    const int cell = p.by_channel ? row * 4 + threadIdx.x % 32 / 8 : row;
    const int column = (int)(p.by_channel ? threadIdx.x / 32 * 8 + threadIdx.x % 8 : threadIdx.x);
    const PlanesPlace at(p, begin + column);
    const bool real = cell < p.cells && first + column < p.pitch, inside = real && at.inside && (int)at.w < p.in[2];
    const uint32_t largest = again && inside ? p.beyond[at.n] : 0;
    const int g = cell / p.cells_group, channel = (cell - g * p.cells_group) * Cell::Channels;
    const int channels = inside && !(again && largest == 0) ? min(p.in_group - channel, (int)Cell::Channels) : 0;
    alignas(16) Element v[Cell::Channels] = {};
    if (channels > 0)
        load_cell((const Element *)p.x + at.n * p.stride[0] + (g * p.in_group + channel) * p.stride[1] +
                  at.d * p.stride[2] + at.h * p.stride[3] + at.w * p.stride[4], p.stride[1], channels, p.vectors, v);
    int exponent = 0;
    if (Kind == SPLIT_F16)
        exponent = again ? scale_exponent(largest) : planes_exponent(p, at, inside, begin, positions, exponents);
    if (!real || (again && largest == 0)) return;
    // The parts of two cells, a chunk of K, lie together.
    uint4 *out = p.planes + ((int64_t)(cell / 2 * 2 * Cell::Parts + cell % 2) * p.pitch + first + column);
    alignas(16) uint32_t high[4], low[4];
    cell_operands<Kind>(v, exponent, again || !inside || p.exact ? nullptr : p.beyond + at.n, high, low);
    *out = *(const uint4 *)high;
    if (Kind != SPLIT_F16) return;
    out[2 * (int64_t)p.pitch] = *(const uint4 *)low;
    if (cell == 0 && inside && at.first())
        p.exponent[at.n] = again || p.exact ? exponent : usable_exponent(exponent);
}

// Whether any sample needs splitting again.
__device__ __forceinline__ bool planes_beyond(const PlanesProblem &p)
{
    int any = 0;
    for (int n = threadIdx.x; n < p.batch; n += SPLIT_THREADS) any |= p.beyond[n] != 0;
    return __syncthreads_or(any);
}

}
