// sm90_nonoverlap: kernel == stride and nothing padded or cropped, on wgmma: the decoder of a U-Net, patch recovery.
//
// Idea      One GEMM: positions of x by rows of w, (oc, tap), and every element of the product is an output. Positions
//           are operand A and lie in registers: a warp copies what its 16 positions want by cp.async into its own place
//           in shared memory, a tile or some chunks ahead, and brings it to halves itself. So warps trade nothing,
//           and after the weights (operand B: packed once, by a kernel of their own while the main one starts, then
//           loaded by each block and kept) no barrier is met: loads, products and stores of 8 to 16 warps overlap.
//           Stores fill the way from a multiprocessor to memory, and every load from shared memory queues behind them:
//           so a piece's table is read before its stores begin, where there are registers for it, and nothing lies on
//           the stack. In NCDHW, where chunks follow one another and there is one part, the next is read while
//           products run.
// Rows      of w are ordered so that a thread holds neighbours of y: two positions x two taps along W, four taps, or
//           four channels (channels last): 16-byte stores, 128 bytes of a row by a warp.
// f32       v = high + low / 2^11, two halves, after a power-of-two scale per position and per line of w. The cross
//           terms are summed first, their sum is taken down by 2^11, then high * high is added: low halves have a range
//           of their own and need no accumulator of their own. Long sums are promoted to f32 every 64 channels. Only
//           infinity, NaN and magnitudes beyond 2^+-60 are computed again, by f32 FMA: the position's outputs alone.
// TF32      one product of scaled halves, whose 11 bits are TF32's; magnitudes too far apart are computed again.
// f16, bf16 one product, f32 accumulator.
// Requires  sm_90a code; f32, f16 or bf16; one group; kernel == stride, padding 0 and the whole output on each axis;
//           NCDHW with W innermost in y and a kernel of 1, 2 or 4 along W, or NDHWC with channels innermost in x and y
//           and out_channels (times the kernel along W where y is dense) a multiple of 4; 32-bit indices, and offsets
//           inside a sample. What is not aligned (16 bytes; an even width; runs of 16 bytes of positions) is moved one
//           element at a time, and costs four times as much.
// Tiles     64 positions a warpgroup x N rows of w. Short, all channels in registers and any number of N rows: 64
//           channels N 64, 128 channels N 64 or (two parts) 128. Long, 64 channels at a time and as many rows as
//           accumulators: N 32, 80, 2 x 64 (one part, NCDHW: 128), 160. Two parts of 160 rows that do not fit together
//           are streamed (NCDHW): a block keeps the high halves, the low ones pass through two slots. The cheapest by
//           nonoverlap90_estimate(). Tiles left over when every warpgroup has had as many are shared by rows.
// Measured  one H200, NCDHW, w packed inside the call, us in f32, TF32, f16: nnunet_64_32_64 195, 195, 99;
//           nnunet_128_64_32 63, 54, 32; nnunet_256_128_16 43, 33, 18; nnunet_320_320_4 13.2, 12.6, 8.6; pangu_384_5
//           425, 264, 158.
// List      a light one (NCDHW: an affine head, then ReLU, a clamp, LeakyReLU or SiLU) is applied to a sum as its bias
//           is, on the way to y: nnunet_64_32_64 with ReLU 197 us in f32 and 100 in f16, with SiLU 197 and 121.
//           Instances of their own for all others apply it to the sums of a piece, in registers: GELU 279, add 392.
// Did not help: eight 16-bit channels a thread (its tables then meet bank conflicts); more accumulators, fewer warps;
//           w packed by each block for itself (5 us at best, 11 at 256 x 128 in f32); a pack kernel that starts before
//           the kernel ahead of it ends; two or three chunks asked for ahead where all channels are one; in f32 the
//           next chunk brought to halves while products run, by two warpgroups (pangu 503 us); a piece's table read
//           early for a list.
#pragma once

CONVT3D__DECLARE_KERNEL(nonoverlap90)
CONVT3D__DECLARE_PACK(nonoverlap90)

#if CONVT3D__PART(4)

#include "mma.cuh"
#include "divisor.cuh"

namespace convt3d_cuda {

// ---- What a kernel is ----

// What the elements become: Parts halves each, scaled or as they are.
struct Nonoverlap90F32 { typedef float T;  typedef __half Operand;  enum { Parts = 2, Scaled = 1, Narrow = 0 }; };
struct Nonoverlap90Tf32 { typedef float T;  typedef __half Operand;  enum { Parts = 1, Scaled = 1, Narrow = 1 }; };
struct Nonoverlap90F16 { typedef __half T;  typedef __half Operand;  enum { Parts = 1, Scaled = 0, Narrow = 0 }; };
struct Nonoverlap90Bf16 {
    typedef __nv_bfloat16 T;
    typedef __nv_bfloat16 Operand;
    enum { Parts = 1, Scaled = 0, Narrow = 0 };
};

// Short (Pieces 0): all channels are one chunk, and a block keeps any number of pieces of N rows. Long: chunks, and as
// many pieces as accumulators are kept for. Streams: of w in two parts a block keeps the high halves; the low ones
// follow through two slots of a chunk each, for all its warpgroups together.
template <int Channels_, int N_, int Groups_, int Pieces_, int Streams_ = 0> struct Nonoverlap90Tile {
    enum { Channels = Channels_, N = N_, Groups = Groups_, Pieces = Pieces_, Long = Pieces > 0, Positions = 64,
           Threads = 128 * Groups, Streams = Streams_ };
};

struct Nonoverlap90Problem {
    const void *x, *w, *bias;
    const unsigned char *packed;            // w as nonoverlap90_pack_kernel leaves it
    void *y;
    int64_t x_stride[5], y_stride[5];       // elements
    int32_t in[3], kernel[3];
    int32_t positions, tiles;
    int32_t rounds, left, shares;   // tiles of every warpgroup; tiles after that, and warpgroups that share one of them
    FixedDivisor by_in[3];
    int32_t in_channels, out_channels, taps, columns;       // columns of w: out_channels * taps
    int32_t rows, lines, slices, blocks_of_slice;           // rows of w that a block keeps, in lines
    int32_t chunks, stages;
    int32_t wide;                   // 1: y has f32 for 16-bit elements
    int32_t aligned;                // 0: elements of x and y are moved one by one
    int32_t pairs;                  // 1: a thread's two positions are neighbours, 0: they are 8 apart
    float keep;                     // TF32: the least scaled magnitude that a half holds well enough
    int32_t function;               // of a light list, after its head: SiLU, LeakyReLU, else what the bounds say
    float slope, least, most;
};

// ---- Rows of w: which column of w, which part of y. n is the row as the GEMM has it, in the block's slice ----

struct Nonoverlap90Row {
    int line;                       // what shares an entry of the tables
    int oc, kd, kh, kw, column;     // column -1: no such row
};

// A thread holds columns 2q, 2q + 1 of each eight of the product. W innermost: those are two taps along W of a line
// (oc, kd, kh), or with four taps the next eight's go with them. Channels last: four neighbours of (kd, kh, kw, oc).
template <bool ChannelsLast>
__device__ __forceinline__ Nonoverlap90Row nonoverlap90_row(const Nonoverlap90Problem &p, int slice, int n)
{
    Nonoverlap90Row r;
    int four = n / 16 * 4 + n % 8 / 2, of_four = n / 8 % 2 * 2 + n % 2;
    if (ChannelsLast) {
        r.line = four * 4 + of_four;
        int row = slice * p.rows + r.line, tap = row / p.out_channels;
        r.oc = row - tap * p.out_channels;
        r.kw = tap % p.kernel[2];
        r.kh = tap / p.kernel[2] % p.kernel[1];
        r.kd = tap / (p.kernel[2] * p.kernel[1]);
        r.column = tap < p.taps ? r.oc * p.taps + tap : -1;
    } else {
        r.line = p.kernel[2] == 4 ? four : p.kernel[2] == 2 ? n / 2 : n;
        r.kw = p.kernel[2] == 4 ? of_four : p.kernel[2] == 2 ? n % 2 : 0;
        int line = slice * (p.rows / p.kernel[2]) + r.line;
        r.kh = line % p.kernel[1];
        r.kd = line / p.kernel[1] % p.kernel[0];
        r.oc = line / (p.kernel[1] * p.kernel[0]);
        r.column = r.oc < p.out_channels ? line * p.kernel[2] + r.kw : -1;
    }
    return r;
}

template <bool ChannelsLast>
__device__ __forceinline__ int64_t nonoverlap90_offset(const Nonoverlap90Problem &p, const Nonoverlap90Row &r)
{
    return r.oc * p.y_stride[1] + r.kd * p.y_stride[2] + r.kh * p.y_stride[3] + r.kw * p.y_stride[4];
}

// ---- Positions ----

// Tile number i of warpgroup `group` of those that have the slice: all have as many, then what is left is shared by
// pieces.
static __device__ __forceinline__ int nonoverlap90_tile_of(const Nonoverlap90Problem &p, int group, int groups, int i)
{
    if (i < p.rounds) return group + i * groups;
    return i == p.rounds && group < p.left * p.shares ? p.rounds * groups + group % p.left : p.tiles;
}

// The output of tap 0, channel 0 of a position.
static __device__ __forceinline__ Where nonoverlap90_output(const Nonoverlap90Problem &p, int position)
{
    int row = p.by_in[2].quotient(position), plane = p.by_in[1].quotient(row), n = p.by_in[0].quotient(plane);
    int w = position - row * p.in[2], h = row - plane * p.in[1], d = plane - n * p.in[0];
    return {n, 0, d * p.kernel[0], h * p.kernel[1], w * p.kernel[2], 1, 1};
}

struct Nonoverlap90Offsets { int64_t x, y; };     // of a position, in elements; x -1: no such position

static __device__ __forceinline__ Nonoverlap90Offsets nonoverlap90_position(const Nonoverlap90Problem &p, int position)
{
    int row = p.by_in[2].quotient(position), plane = p.by_in[1].quotient(row), n = p.by_in[0].quotient(plane);
    int w = position - row * p.in[2], h = row - plane * p.in[1], d = plane - n * p.in[0];
    if (position >= p.positions) return {-1, -1};
    return {n * p.x_stride[0] + d * p.x_stride[2] + h * p.x_stride[3] + w * p.x_stride[4],
            n * p.y_stride[0] + (int64_t)(d * p.kernel[0]) * p.y_stride[2] +
                (int64_t)(h * p.kernel[1]) * p.y_stride[3] + (int64_t)(w * p.kernel[2]) * p.y_stride[4]};
}

// The position of row `row` of 16 of a warp's part of a tile.
static __device__ __forceinline__ int nonoverlap90_place(const Nonoverlap90Problem &p, int tile, int warp, int row)
{
    return tile * 64 + warp * 16 + (p.pairs ? row % 8 * 2 + row / 8 : row);
}

// ---- Shared memory: weights, every warp's place for elements of x, tables ----

// lines_of_block: entries of its tables, a line of outputs each.
template <class Mode, class Tile, int Lists> struct Nonoverlap90Shared {
    enum { Stage = Tile::Positions * Tile::Channels * sizeof(typename Mode::T),
           Kept = Tile::Streams ? 1 : Mode::Parts };            // parts of the weights
    // Offsets in bytes; the weights begin at 0. slots: those of a stream; barrier: of the weights, of two slots; behind
    // them how often warps left the slots.
    int slots, slot, stages, lines, heads, barrier, any_wide, total;
    __host__ __device__ Nonoverlap90Shared(int rows, int chunks, int stage_count, int lines_of_block)
    {
        slot = rows * Tile::Channels * 2;
        slots = slot * chunks * Kept;
        stages = slots + (Tile::Streams ? 2 * slot : 0);
        lines = stages + Tile::Groups * stage_count * Stage;
        heads = lines + lines_of_block * 16;
        barrier = heads + (Lists == WHOLE_LIST ? lines_of_block * 8
                                               : Lists == LIGHT_LIST ? (lines_of_block + 1) / 2 * 8 : 0);
        any_wide = barrier + (Tile::Streams ? 32 : 8);
        total = any_wide + 4;
    }
};

// A line of outputs: where it begins in y, what undoes the scale of w, the bias; the channel, or of a light list the
// factor of its head.
struct alignas(16) Nonoverlap90Line {
    int offset;                     // -1: none to store here
    float inverse, bias;
    union { int oc;  float factor; };
};

// The head of a list for a line. A light one has its factor in the line, and terms alone behind the lines.
struct alignas(8) Nonoverlap90Head { float factor, term; };

// ---- x: from global memory to fragments ----

// Copies 16 bytes, or zero, to shared memory.
static __device__ __forceinline__ void copy_ahead(uint32_t to, const void *from, bool exists)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for the oldest of `stages` groups.
static __device__ __forceinline__ void copies_wait(int stages)
{
    if (stages == 1) asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (stages == 2) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else asm volatile("cp.async.wait_group 2;" ::: "memory");
    __syncwarp();
}

// Lane q of a quad wants, of 16 bytes' worth of channels, every fourth: `wide` channels from q*wide on, and on, 4*wide
// further. Which k of the product a channel becomes is nobody's concern but the packing's of w.
//
// A warp's place in a stage holds its 16 positions. Byte of an element of it. Channels last: 16-byte pieces as their
// readers want them, [piece of a reader][half of the positions][lane]. Otherwise [channel][position], pieces exchanged
// so that the four readers of a fragment's row find different banks.
template <class T, bool ChannelsLast> __device__ __forceinline__ int nonoverlap90_byte(int position, int channel)
{
    const int size = sizeof(T), wide = 16 / size;
    if (ChannelsLast)
        return ((channel / (4 * wide) * 2 + position / 8) * 32 + position % 8 * 4 + channel / wide % 4) * 16 +
               channel % wide * size;
    return (channel * 16 * size + position * size) ^ (channel / wide % 4) << 5;
}

// What a lane copies: 16 bytes of the same one or two positions in every chunk.
struct Nonoverlap90Ask { int number, tile, chunk;  int64_t at[2]; };    // offsets of the positions in x; -1: none

template <class T, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_aim(const Nonoverlap90Problem &p, Nonoverlap90Ask &ask)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, begin = ask.tile * 64 + warp * 16;
    if (ChannelsLast) {
        ask.at[0] = nonoverlap90_position(p, begin + lane / 4).x;
        ask.at[1] = nonoverlap90_position(p, begin + lane / 4 + 8).x;
    } else ask.at[0] = nonoverlap90_position(p, begin + lane % (int)sizeof(T) * (16 / (int)sizeof(T))).x;
}

// Asks for one chunk of a tile. Whole: all of it exists.
template <class Mode, class Tile, bool ChannelsLast, bool Whole>
__device__ __forceinline__ void nonoverlap90_copy(const Nonoverlap90Problem &p, uint32_t place,
                                                  const Nonoverlap90Ask &ask)
{
    typedef typename Mode::T T;
    enum { Size = sizeof(T), Wide = 16 / Size };
    const T *x = (const T *)p.x;
    int lane = threadIdx.x % 32, channel = ask.chunk * Tile::Channels;
    if (ChannelsLast) {
        channel += lane % 4 * Wide;
        const T *from[2] = {x + ask.at[0] + channel, x + ask.at[1] + channel};
        place += lane * 16;
#pragma unroll
        for (int i = 0; i < Tile::Channels / (4 * Wide); i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                bool exists = Whole || (ask.at[r] >= 0 && channel + i * 4 * Wide < p.in_channels);
                copy_ahead(place + (i * 2 + r) * 32 * 16, from[r] + i * 4 * Wide, exists);
            }
    } else {
        const int step = 32 / Size, mine = lane / Size, position = lane % Size * Wide;       // channels
        channel += mine;
        const T *from = x + ask.at[0] + channel * p.x_stride[1];
        const int64_t next = step * p.x_stride[1];
        const int to = nonoverlap90_byte<T, false>(position, mine);
#pragma unroll
        for (int c = 0; c < Tile::Channels; c += step) {
            bool exists = Whole || (ask.at[0] >= 0 && channel + c < p.in_channels);
            copy_ahead(place + (to ^ (c / Wide % 4) << 5) + c * 16 * Size, from, exists);
            from += next;
        }
    }
}

// The same with plain loads, element by element.
template <class Mode, class Tile, bool ChannelsLast>
__device__ __noinline__ void nonoverlap90_copy_singly(const Nonoverlap90Problem &p, unsigned char *place, int tile,
                                                      int chunk)
{
    typedef typename Mode::T T;
    const T *x = (const T *)p.x;
    int lane = threadIdx.x % 32, begin = tile * 64 + threadIdx.x / 32 % 4 * 16;
    int64_t at = nonoverlap90_position(p, begin + lane % 16).x;
#pragma unroll 1
    for (int c = lane / 16; c < Tile::Channels; c += 2) {
        int channel = chunk * Tile::Channels + c;
        T v = Number<T>::round(0);
        if (at >= 0 && channel < p.in_channels) v = x[at + channel * p.x_stride[1]];
        *(T *)(place + nonoverlap90_byte<T, ChannelsLast>(lane % 16, c)) = v;
    }
}

// place: the warp's, in a stage.
template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_ask(const Nonoverlap90Problem &p, unsigned char *place,
                                                 Nonoverlap90Ask &ask)
{
    bool whole = (ask.chunk + 1) * (int)Tile::Channels <= p.in_channels && ask.tile * 64 + 64 <= p.positions;
    if (!p.aligned) {
        nonoverlap90_copy_singly<Mode, Tile, ChannelsLast>(p, place, ask.tile, ask.chunk);
        return;
    }
    if (!Tile::Long || ask.chunk == 0) nonoverlap90_aim<typename Mode::T, ChannelsLast>(p, ask);
    if (whole) nonoverlap90_copy<Mode, Tile, ChannelsLast, true>(p, shared_address(place), ask);
    else nonoverlap90_copy<Mode, Tile, ChannelsLast, false>(p, shared_address(place), ask);
}

// A chunk as fragments of A, Parts of them; what undoes the scale of the thread's two positions; which are wide.
template <class Mode, class Tile> struct Nonoverlap90Fragments {
    enum { Steps = Tile::Channels / 16 };
    uint32_t high[Steps][4], low[Mode::Parts == 2 ? Steps : 1][4];
    float inverse[2];
    bool wide[2];
};

static __device__ __forceinline__ uint32_t halves_of(float a, float b)
{
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}

// The halves of two scaled floats, and what is left of them times 2^11 as halves.
static __device__ __forceinline__ void split_far(float a, float b, float factor, uint32_t &high, uint32_t &low)
{
    __half2 h = __floats2half2_rn(a * factor, b * factor);
    float2 f = __half22float2(h);
    float more = factor * 2048;
    high = *(uint32_t *)&h;
    low = halves_of(fmaf(f.x, -2048.0f, a * more), fmaf(f.y, -2048.0f, b * more));
}

// The thread's elements, 32 bits each: v[(i * 2 + r) * 4 + c] is channel 16i + 4q + c of its position r.
template <class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_read(const Nonoverlap90Problem &p, const unsigned char *place,
                                                  uint32_t (&v)[Tile::Channels / 2])
{
    enum { Pieces = Tile::Channels / 16 };
    int lane = threadIdx.x % 32, q = lane % 4, g = lane / 4;
    const unsigned char *from = place + (ChannelsLast ? lane * 16 : q * 4 * 64);
    // Bit 6 of an offset is the channel's lowest, bit 5 the position's highest: q exchanges them.
    int pair = g * 8 ^ q << 5, low = g * 4 ^ q << 5, high = low ^ 32;
    if (ChannelsLast) {
#pragma unroll
        for (int i = 0; i < 2 * Pieces; i++) {
            uint4 u = *(const uint4 *)(from + i * 32 * 16);
            v[4 * i] = u.x;  v[4 * i + 1] = u.y;  v[4 * i + 2] = u.z;  v[4 * i + 3] = u.w;
        }
    } else if (p.pairs) {
#pragma unroll
        for (int i = 0; i < Pieces * 4; i++) {
            uint2 u = *(const uint2 *)(from + i / 4 * 1024 + i % 4 / 2 * 128 + (pair ^ i % 2 * 64));
            v[i / 4 * 8 + i % 4] = u.x;
            v[i / 4 * 8 + 4 + i % 4] = u.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < Pieces * 4; i++) {
            const unsigned char *at = from + i / 4 * 1024 + i % 4 / 2 * 128;
            v[i / 4 * 8 + i % 4] = *(const uint32_t *)(at + (low ^ i % 2 * 64));
            v[i / 4 * 8 + 4 + i % 4] = *(const uint32_t *)(at + (high ^ i % 2 * 64));
        }
    }
}

template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_scaled(const Nonoverlap90Problem &p, const unsigned char *place,
                                                    Nonoverlap90Fragments<Mode, Tile> &a)
{
    uint32_t v[Tile::Channels / 2];
    nonoverlap90_read<Tile, ChannelsLast>(p, place, v);
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        Magnitudes range;
#pragma unroll
        for (int i = 0; i < Tile::Channels / 4; i++) {
            uint32_t bits = v[i / 4 * 8 + r * 4 + i % 4];
            if (Mode::Narrow) range.add(bits);
            else range.most = max(range.most, bits + bits);
        }
        range.most = max(range.most, __shfl_xor_sync(0xffffffffu, range.most, 1));
        range.most = max(range.most, __shfl_xor_sync(0xffffffffu, range.most, 2));
        if (Mode::Narrow) {
            range.least = min(range.least, __shfl_xor_sync(0xffffffffu, range.least, 1));
            range.least = min(range.least, __shfl_xor_sync(0xffffffffu, range.least, 2));
        }
        HalfScale scale(range, Mode::Narrow ? p.keep : 0);
        factor[r] = scale.factor;
        a.inverse[r] = scale.inverse;
        a.wide[r] = scale.wide;
    }
#pragma unroll
    for (int s = 0; s < a.Steps; s++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = i % 2, c = s * 8 + r * 4 + i / 2 * 2;
            float u0 = __uint_as_float(v[c]), u1 = __uint_as_float(v[c + 1]);
            if (Mode::Parts == 2) split_far(u0, u1, factor[r], a.high[s][i], a.low[s][i]);
            else a.high[s][i] = halves_of(u0 * factor[r], u1 * factor[r]);
        }
}

// Two positions 8 apart, of a channel and of the one 4 further.
static __device__ __forceinline__ void nonoverlap90_apart(const unsigned char *at, uint32_t &v, uint32_t &v4)
{
    v = *(const uint16_t *)at | (uint32_t)*(const uint16_t *)(at + 16) << 16;
    v4 = *(const uint16_t *)(at + 128) | (uint32_t)*(const uint16_t *)(at + 144) << 16;
}

template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_unscaled(const Nonoverlap90Problem &p, const unsigned char *place,
                                                      Nonoverlap90Fragments<Mode, Tile> &a)
{
    int lane = threadIdx.x % 32, q = lane % 4, g = lane / 4;
#pragma unroll
    for (int b = 0; b < Tile::Channels / 32; b++) {
        if (ChannelsLast) {
            uint4 u = *(const uint4 *)(place + (b * 2 * 32 + lane) * 16);
            uint4 v = *(const uint4 *)(place + ((b * 2 + 1) * 32 + lane) * 16);
            a.high[2 * b][0] = u.x;  a.high[2 * b][2] = u.y;  a.high[2 * b + 1][0] = u.z;  a.high[2 * b + 1][2] = u.w;
            a.high[2 * b][1] = v.x;  a.high[2 * b][3] = v.y;  a.high[2 * b + 1][1] = v.z;  a.high[2 * b + 1][3] = v.w;
            continue;
        }
        const unsigned char *from = place + (b * 32 + q * 8) * 32;
        uint32_t v[8];      // channel 8q + c of both positions
        // Bits 5 and 6 of an offset are the channel's lowest: q exchanges them.
        if (p.pairs) {
#pragma unroll
            for (int c = 0; c < 8; c++) v[c] = *(const uint32_t *)(from + c / 4 * 128 + (g * 4 ^ q << 5 ^ c % 4 * 32));
        } else {
#pragma unroll
            for (int c = 0; c < 4; c++) nonoverlap90_apart(from + (g * 2 ^ q << 5 ^ c * 32), v[c], v[c + 4]);
        }
#pragma unroll
        for (int c = 0; c < 8; c += 2) {
            a.high[2 * b + c / 4][c / 2 % 2 * 2] = __byte_perm(v[c], v[c + 1], 0x5410);
            a.high[2 * b + c / 4][c / 2 % 2 * 2 + 1] = __byte_perm(v[c], v[c + 1], 0x7632);
        }
    }
}

// ---- w ----

template <class T> __device__ __forceinline__ uint32_t nonoverlap90_bits(const T *at)
{
    return sizeof(T) == 4 ? __ldg((const unsigned *)at) : (uint32_t)__ldg((const unsigned short *)at);
}

// Element i (0 ... 7) of cell `cell` (0 ... 3) of a block of 32 channels: lane i / 2 of a quad holds it.
template <class T> __device__ __forceinline__ constexpr int nonoverlap90_channel(int cell, int i)
{
    return sizeof(T) == 4 ? cell / 2 * 16 + i / 2 * 4 + cell % 2 * 2 + i % 2
                          : i / 2 * 8 + cell / 2 * 4 + cell % 2 * 2 + i % 2;
}

template <class T>
__device__ __forceinline__ void nonoverlap90_fetch(const Nonoverlap90Problem &p, int column, int first,
                                                   uint32_t (&v)[32])
{
    const T *w = (const T *)p.w + (int64_t)first * p.columns + column;
#pragma unroll
    for (int i = 0; i < 32; i++)
        v[i] = column >= 0 && first + i < p.in_channels ? nonoverlap90_bits(w + (int64_t)i * p.columns) : 0;
}

// A cell, whose address may be a multiple of 2 alone.
static __device__ __forceinline__ void nonoverlap90_put_cell(unsigned char *to, const uint32_t (&v)[4])
{
    if ((uintptr_t)to % 16 == 0) *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
    else
#pragma unroll
        for (int i = 0; i < 8; i++) ((uint16_t *)to)[i] = (uint16_t)(v[i / 2] >> i % 2 * 16);
}

// 32 channels of one row of w into their four cells.
template <class Mode>
__device__ __forceinline__ void nonoverlap90_pack(unsigned char *to, int rows, int64_t part, const uint32_t (&v)[32],
                                                  float factor)
{
#pragma unroll
    for (int cell = 0; cell < 4; cell++) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t u0 = v[nonoverlap90_channel<typename Mode::T>(cell, 2 * i)];
            uint32_t u1 = v[nonoverlap90_channel<typename Mode::T>(cell, 2 * i + 1)];
            if (!Mode::Scaled) high[i] = u0 | u1 << 16;
            else if (Mode::Parts == 2) split_far(__uint_as_float(u0), __uint_as_float(u1), factor, high[i], low[i]);
            else high[i] = halves_of(__uint_as_float(u0) * factor, __uint_as_float(u1) * factor);
        }
        nonoverlap90_put_cell(to + cell * rows * 16, high);
        if (Mode::Parts == 2) nonoverlap90_put_cell(to + part + cell * rows * 16, low);
    }
}

static __device__ __forceinline__ HalfScale nonoverlap90_scale(const Nonoverlap90Problem &p, const uint32_t *magnitudes,
                                                               int line, bool narrow)
{
    Magnitudes range;
    range.most = magnitudes[line];
    if (narrow) range.least = ~magnitudes[p.lines + line];
    return HalfScale(range, narrow ? p.keep : 0);
}

// Whether a line is repaired: it is wide, or one that is stored together with it, of four channels.
template <bool ChannelsLast>
__device__ __forceinline__ bool nonoverlap90_wide_line(const Nonoverlap90Problem &p, const uint32_t *magnitudes,
                                                       int line, bool narrow)
{
    const int together = ChannelsLast ? 4 : 1, begin = line / together * together;
    bool wide = false;
    for (int i = begin; i < begin + together; i++)
        wide = wide || nonoverlap90_scale(p, magnitudes, i, narrow).wide;
    return wide;
}

// Packed, slice by slice: the cells, [part][eight channels][row], and the magnitudes of each line; after the last slice
// w itself, where values beyond the halves' range must be multiplied as they are.
template <class Mode> __host__ __device__ int64_t nonoverlap90_packed_slice(const Nonoverlap90Problem &p, int channels)
{
    return ((int64_t)p.rows * channels * 2 * Mode::Parts + p.lines * 8 + 15) / 16 * 16;
}

enum { NONOVERLAP90_PACK_ROWS = 16, NONOVERLAP90_PACK_THREADS = 256 };

// Row i of all slices in an order in which neighbours are neighbours in w. Its line within the block of 16.
struct Nonoverlap90Packed { int slice, n, column, line, line_of_block; };

template <bool ChannelsLast>
__device__ __forceinline__ Nonoverlap90Packed nonoverlap90_packed_row(const Nonoverlap90Problem &p, int i)
{
    Nonoverlap90Packed r;
    if (ChannelsLast) {
        int oc = i / p.taps, row = i < p.columns ? (i - oc * p.taps) * p.out_channels + oc : i;
        r.slice = row / p.rows;
        r.line = row - r.slice * p.rows;
        r.n = r.line / 16 * 16 + r.line % 4 / 2 * 8 + r.line % 16 / 4 * 2 + r.line % 2;
        r.column = i < p.columns ? i : -1;
        r.line_of_block = i % NONOVERLAP90_PACK_ROWS;
    } else {
        r.slice = i / p.rows;
        r.n = i - r.slice * p.rows;
        Nonoverlap90Row row = nonoverlap90_row<false>(p, r.slice, r.n);
        r.column = row.column;
        r.line = row.line;
        r.line_of_block = row.line - r.n / 16 * (16 / p.kernel[2]);
    }
    return r;
}

// A block packs 16 rows of w, all channels: whole lines.
template <class Mode, class Tile, bool ChannelsLast>
__global__ void __launch_bounds__(NONOVERLAP90_PACK_THREADS)
nonoverlap90_pack_kernel(const __grid_constant__ Nonoverlap90Problem p, unsigned char *packed, void *copy)
{
#if CONVT3D__SM90A
    typedef typename Mode::T T;
    enum { Rows = NONOVERLAP90_PACK_ROWS, Threads = NONOVERLAP90_PACK_THREADS };
    __shared__ uint32_t most[Rows], most_inverse[Rows];     // by line of the block; ~least
    asm volatile("griddepcontrol.launch_dependents;");
    int blocks = p.chunks * Tile::Channels / 32, units = Rows * blocks, begin = (int)blockIdx.x * Rows;
    uint32_t v[32];
    if (Mode::Scaled) {
        if (threadIdx.x < Rows) most[threadIdx.x] = most_inverse[threadIdx.x] = 0;
        __syncthreads();
        for (int unit = threadIdx.x; unit < units; unit += Threads) {
            Nonoverlap90Packed r = nonoverlap90_packed_row<ChannelsLast>(p, begin + unit % Rows);
            Magnitudes range;
            nonoverlap90_fetch<T>(p, r.column, unit / Rows * 32, v);
#pragma unroll
            for (int i = 0; i < 32; i++) range.add(v[i]);
            atomicMax(most + r.line_of_block, range.most);
            atomicMax(most_inverse + r.line_of_block, ~range.least);
        }
        __syncthreads();
    }
    for (int unit = threadIdx.x; unit < units; unit += Threads) {
        int block = unit / Rows;
        Nonoverlap90Packed r = nonoverlap90_packed_row<ChannelsLast>(p, begin + unit % Rows);
        unsigned char *to = packed + r.slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
        int64_t part = (int64_t)p.rows * blocks * 64;
        float factor = 1;
        if (!Mode::Scaled || units > (int)Threads) nonoverlap90_fetch<T>(p, r.column, block * 32, v);
        if (Mode::Scaled && copy && r.column >= 0)
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (block * 32 + i < p.in_channels)
                    ((uint32_t *)copy)[(int64_t)(block * 32 + i) * p.columns + r.column] = v[i];
        if (Mode::Scaled) {
            Magnitudes range;
            range.most = most[r.line_of_block];
            if (Mode::Narrow) range.least = ~most_inverse[r.line_of_block];
            factor = HalfScale(range, Mode::Narrow ? p.keep : 0).factor;
            if (block == 0) {
                uint32_t *magnitudes = (uint32_t *)(to + part * Mode::Parts);
                magnitudes[r.line] = range.most;
                if (Mode::Narrow) magnitudes[p.lines + r.line] = ~range.least;
            }
        }
        nonoverlap90_pack<Mode>(to + ((int64_t)block * 4 * p.rows + r.n) * 16, p.rows, part, v, factor);
    }
#endif
}

#if CONVT3D__SM90A

// The block's slice of w and its tables, for all threads.
template <class Mode, class Tile, bool ChannelsLast, int Lists>
__device__ __forceinline__ void nonoverlap90_prepare(const Nonoverlap90Problem &p,
                                                     [[maybe_unused]] const List<typename Mode::T> &list,
                                                     const Nonoverlap90Shared<Mode, Tile, Lists> &layout,
                                                     unsigned char *shared, int slice)
{
    typedef typename Mode::T T;
    uint32_t *any_wide = (uint32_t *)(shared + layout.any_wide);
    uint32_t barrier = shared_address(shared + layout.barrier);
    Nonoverlap90Line *lines = (Nonoverlap90Line *)(shared + layout.lines);
    const unsigned char *packed = p.packed + slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    if (threadIdx.x == 0) {
        for (int i = 0; i < (Tile::Streams ? 3 : 1); i++) barrier_init(barrier + 8 * i, 1);
        if (Tile::Streams) *(uint2 *)(shared + layout.barrier + 24) = make_uint2(0, 0);
        barrier_init_done();
        *any_wide = 0;
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    bool bulk = (uintptr_t)packed % 16 == 0;
    if (!bulk)
        for (int i = threadIdx.x; i < layout.slots / 2; i += Tile::Threads)
            ((uint16_t *)shared)[i] = ((const uint16_t *)packed)[i];
    if (!bulk) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (threadIdx.x == 0 && bulk) {
        const int most = 32768;
        barrier_expect(barrier, layout.slots);
        for (int at = 0; at < layout.slots; at += most)
            bulk_load(shared_address(shared) + at, packed + at, min(most, layout.slots - at), barrier);
    }
    const uint32_t *magnitudes = (const uint32_t *)(packed + layout.slot * p.chunks * Mode::Parts);
    for (int n = threadIdx.x; n < p.rows; n += Tile::Threads) {
        Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
        if (!ChannelsLast && r.kw > 0) continue;
        Nonoverlap90Line line = {-1, 1, 0, {0}};
        int oc = 0;
        bool wide = false;
        if (Mode::Scaled) {
            HalfScale scale = nonoverlap90_scale(p, magnitudes, r.line, Mode::Narrow);
            line.inverse = scale.inverse;
            wide = Lists ? nonoverlap90_wide_line<ChannelsLast>(p, magnitudes, r.line, Mode::Narrow) : scale.wide;
            if (wide) atomicOr(any_wide, 1);
        }
        if (r.column >= 0) {
            if (!(Lists && wide)) line.offset = (int)nonoverlap90_offset<ChannelsLast>(p, r);   // else it is repaired
            line.oc = oc = r.oc;
            if (p.bias) line.bias = Number<T>::widen(((const T *)p.bias)[r.oc]);
        }
        if constexpr (Lists == WHOLE_LIST)
            ((Nonoverlap90Head *)(shared + layout.heads))[r.line] = {list.head.factor(oc), list.head.term(oc)};
        if constexpr (Lists == LIGHT_LIST) {
            line.factor = list.head.factor(oc);
            ((float *)(shared + layout.heads))[r.line] = list.head.term(oc);
        }
        lines[r.line] = line;
    }
    __syncthreads();
    if (bulk) barrier_wait(barrier, 0);
}

// The low halves of w on their way through two slots, chunk after chunk, tile after tile. All warps of a block leave a
// slot, and the last of them has it filled again.
template <class Mode, class Tile, int Lists> struct Nonoverlap90Stream {
    typedef Nonoverlap90Shared<Mode, Tile, Lists> Layout;
    const Layout &layout;
    unsigned char *shared;
    const unsigned char *low;       // of the slice
    int chunks, at, end;            // chunks that this warp has left, and that there will be

    __device__ __forceinline__ uint32_t barrier(int i) const
    {
        return shared_address(shared + layout.barrier) + 8 + i % 2 * 8;
    }

    // By a warp: fills the slot of chunk i of all, if there is one.
    __device__ __forceinline__ void fill(int i) const
    {
        if (i >= end) return;
        unsigned char *to = shared + layout.slots + i % 2 * layout.slot;
        const unsigned char *from = low + (int64_t)(i % chunks) * layout.slot;
        const int lane = threadIdx.x % 32;
        if ((uintptr_t)from % 16 == 0) {
            if (lane > 0) return;
            barrier_expect(barrier(i), layout.slot);
            bulk_load(shared_address(to), from, layout.slot, barrier(i));
            return;
        }
        for (int k = lane; k < layout.slot / 2; k += 32) ((uint16_t *)to)[k] = ((const uint16_t *)from)[k];
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        if (lane == 0) barrier_expect(barrier(i), 0);
    }

    // Cells from the weights on to the next chunk, when it is there.
    __device__ __forceinline__ uint32_t next() const
    {
        barrier_wait(barrier(at), at / 2 % 2);
        return (uint32_t)(layout.slots + at % 2 * layout.slot) / 16;
    }

    __device__ __forceinline__ void leave()
    {
        uint32_t before = 0;
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;"
                         : "=r"(before) : "r"(shared_address(shared + layout.barrier) + 24 + at % 2 * 4) : "memory");
        before = __shfl_sync(0xffffffffu, before, 0);
        if (before % (Tile::Threads / 32) == Tile::Threads / 32 - 1) fill(at + 2);
        at++;
    }
};

#endif

// ---- y ----

// Streaming stores of Count neighbours; the predicate saves a branch.
template <class T, int Count, bool Aligned>
__device__ __forceinline__ void nonoverlap90_store(T *at, const float *v, bool here)
{
    alignas(16) T rounded[Count];
#pragma unroll
    for (int i = 0; i < Count; i++) rounded[i] = Number<T>::round(v[i]);
    const uint32_t *u = (const uint32_t *)rounded;
    if constexpr (!Aligned) {
#pragma unroll
        for (int i = 0; i < Count; i++)
            if (here) at[i] = rounded[i];
    } else if constexpr (Count * sizeof(T) == 16)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.cs.v4.b32 [%0], {%1, %2, %3, %4}; }"
                     :: "l"(at), "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3]), "r"((uint32_t)here));
    else if constexpr (Count * sizeof(T) == 8)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.cs.v2.b32 [%0], {%1, %2}; }"
                     :: "l"(at), "r"(u[0]), "r"(u[1]), "r"((uint32_t)here));
    else
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p st.global.cs.b32 [%0], %1; }"
                     :: "l"(at), "r"(u[0]), "r"((uint32_t)here));
}

// A residual whose strides are not those of y, one by one: of row n of the slice.
template <class T, bool ChannelsLast>
__device__ __noinline__ float nonoverlap90_residual(const Nonoverlap90Problem &p, const Entry<float> &e, int position,
                                                    int slice, int n)
{
    Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
    Where at = nonoverlap90_output(p, position);
    at.oc = r.oc;  at.od += r.kd;  at.oh += r.kh;  at.ow += r.kw;
    return Number<T>::widen(((const T *)e.residual)[offset_of(at, e.stride)]);
}

// A thread's sums of one piece: scale[r] and the line's inverse undo the scales of position r and of the row. sum[4j +
// 2r + e] is column 8j + 2q + e of position r. Kind: 0 channels last, else the kernel along W.
template <class T, int N, bool ChannelsLast, int Lists, bool Early> struct Nonoverlap90Finish {
    const Nonoverlap90Problem &p;
    const List<T> &list;
    const Nonoverlap90Line *lines;
    const void *heads;
    Nonoverlap90Line near[N / 8];   // the thread's lines of a piece, where they are every fourth: kernel 2 or 4 along W
    int slice, position[2];
    int64_t at[2];      // of the thread's two positions in y, tap 0, channel 0; they are stored where here[] says so
    bool here[2];

    static __device__ __forceinline__ Nonoverlap90Line load(const Nonoverlap90Line *line)
    {
        uint4 u = *(const uint4 *)line;
        return {(int)u.x, __uint_as_float(u.y), __uint_as_float(u.z), {(int)u.w}};
    }

    // The line of sum[i], from the thread's first of the piece.
    template <int Kind> static __device__ __forceinline__ constexpr int line_of(int i)
    {
        return Kind == 0 ? i / 8 * 16 + i % 8 / 4 * 2 + i % 2 : Kind == 4 ? i / 8 * 4 : Kind == 2 ? i / 4 * 4
                                                                                         : i / 4 * 8 + i % 2;
    }

    // The output of sum[i] in its line.
    template <int Kind> static __device__ __forceinline__ constexpr int tap_of(int i)
    {
        return Kind == 4 ? i % 8 / 4 * 2 + i % 2 : Kind == 2 ? i % 2 : 0;
    }

    // Loads what store() wants of a piece, early: between the stores these loads would queue behind them.
    __device__ __forceinline__ void ask_lines(int piece)
    {
        if (ChannelsLast || !Early) return;
        const Nonoverlap90Line *line = lines + piece * (N >> p.kernel[2] / 2) + threadIdx.x % 4;
        const Nonoverlap90Line *late = line - (p.kernel[2] == 4 ? N / 4 : 0);       // four taps: half as many lines
#pragma unroll
        for (int i = 0; i < N / 8; i++) near[i] = load((i < N / 16 ? line : late) + 4 * i);
    }

    // The line of sum[i].
    template <int Kind> __device__ __forceinline__ Nonoverlap90Line line_at(const Nonoverlap90Line *line, int i) const
    {
        if constexpr (Early && (Kind == 2 || Kind == 4)) return near[line_of<Kind>(i) / 4];
        else return load(line + line_of<Kind>(i));
    }

    // The one place where finished sums become values of y.
    __device__ __forceinline__ void store(float (&sum)[N / 2], const float (&scale)[2], int piece) const
    {
        int q = threadIdx.x % 4;
        if (ChannelsLast) store_kind<0>(sum, scale, piece, lines + piece * N + q * 4);
        else if (p.kernel[2] == 4) store_kind<4>(sum, scale, piece, lines + piece * (N / 4) + q);
        else if (p.kernel[2] == 2) store_kind<2>(sum, scale, piece, lines + piece * (N / 2) + q);
        else store_kind<1>(sum, scale, piece, lines + piece * N + q * 2);
    }

    template <int Kind>
    __device__ __forceinline__ void store_kind(float (&sum)[N / 2], const float (&scale)[2], int piece,
                                               const Nonoverlap90Line *line) const
    {
        if constexpr (Lists == WHOLE_LIST) {
            const bool wide = sizeof(T) == 2 && p.wide;
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                Nonoverlap90Line l = line_at<Kind>(line, i);
                sum[i] = fmaf(sum[i], scale[i / 2 % 2] * l.inverse, l.bias);
            }
            if (list.head.entries > 0)
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    Nonoverlap90Head head = ((const Nonoverlap90Head *)heads)[line - lines + line_of<Kind>(i)];
                    sum[i] = fmaf(sum[i], head.factor, head.term);
                }
            if (list.count > list.head.entries) apply<Kind>(sum, piece, line);
            if (wide && p.aligned) put<Kind, true, FINISHED, float>(sum, scale, line);
            else if (wide) put<Kind, false, FINISHED, float>(sum, scale, line);
            else if (p.aligned) put<Kind, true, FINISHED, T>(sum, scale, line);
            else put<Kind, false, FINISHED, T>(sum, scale, line);
        } else if constexpr (Lists == LIGHT_LIST) {
            if (!p.aligned) put<Kind, false, ANY_LIGHT, T>(sum, scale, line);
            else if (p.function == CONVT3D_OP_SILU) put<Kind, true, WITH_SILU, T>(sum, scale, line);
            else if (p.function == CONVT3D_OP_LEAKY_RELU) put<Kind, true, LEAKY, T>(sum, scale, line);
            else put<Kind, true, BOUNDED, T>(sum, scale, line);
        } else if (p.aligned) put<Kind, true, PLAIN, T>(sum, scale, line);
        else put<Kind, false, PLAIN, T>(sum, scale, line);
    }

    template <int Kind>
    __device__ __forceinline__ void apply(float (&sum)[N / 2], int piece, const Nonoverlap90Line *line) const
    {
        const int n = piece * N + (int)(threadIdx.x % 4) * 2;
        apply_in_registers(list, list.head.entries, reinterpret_cast<float (&)[N / 16][8]>(sum),
                           [&](int i) { return load(line + line_of<Kind>(i)).oc; },
                           [&](const Entry<float> &e, int g, float (&r)[8]) {
            if (!e.like_y) {
                for (int i = 0; i < 8; i++) {
                    bool exists = here[i / 2 % 2] && load(line + g * line_of<Kind>(8) + line_of<Kind>(i)).offset >= 0;
                    r[i] = exists ? nonoverlap90_residual<T, ChannelsLast>(p, e, position[i / 2 % 2], slice,
                                                                           n + g * 16 + i / 4 * 8 + i % 2) : 0;
                }
            } else if (p.aligned && e.aligned) residual_in_vectors<Kind>(e, line + g * line_of<Kind>(8), r);
            else
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int64_t offset = load(line + g * line_of<Kind>(8) + line_of<Kind>(i)).offset;
                    T v = Number<T>::round(0);
                    if (here[i / 2 % 2] && offset >= 0)
                        v = ((const T *)e.residual)[at[i / 2 % 2] + offset + tap_of<Kind>(i)];
                    r[i] = Number<T>::widen(v);
                }
        });
    }

    // Asks for what apply() will read of a residual that lies as y does.
    __device__ __forceinline__ void ask_residual(int piece) const
    {
        const Entry<float> &e = list.entry[list.residual];
        if (ChannelsLast || !e.like_y || !here[0]) return;
        const Nonoverlap90Line *line = lines + piece * (N / p.kernel[2]) + threadIdx.x % 4;
        for (int i = 0; i < N / p.kernel[2]; i += 4)
            if (line[i].offset >= 0) ask_early((const T *)e.residual + at[0] + line[i].offset);
    }

    // Of eight sums, as they are stored: in neighbours.
    template <int Kind>
    __device__ __forceinline__ void residual_in_vectors(const Entry<float> &e, const Nonoverlap90Line *line,
                                                        float (&r)[8]) const
    {
        constexpr int count = Kind == 1 ? 2 : 4;
#pragma unroll
        for (int i = 0; i < 8; i += count) {
            // The first and the step of the sums that lie side by side.
            const int which = Kind == 2 ? 0 : Kind == 1 ? 0 : i / 4;
            const int first = Kind == 2 ? i : Kind == 1 ? i / 4 * 4 + i / 2 % 2 : i / 4 * 2;
            const int offset = load(line + line_of<Kind>(first)).offset;
            float v[count] = {};
            if (here[which] && offset >= 0) residual_vectors<T>(e.residual, at[which] + offset, v);
#pragma unroll
            for (int j = 0; j < count; j++)
                r[first + (Kind == 2 ? j : Kind == 1 ? j * 2 : j / 2 * 4 + j % 2)] = v[j];
        }
    }

    // What is done to sums on the way: nothing where they are values; scales and bias; a light list besides.
    enum How { FINISHED, PLAIN, BOUNDED, LEAKY, WITH_SILU, ANY_LIGHT };

    template <How What> __device__ __forceinline__ float value(float sum, float scale, const Nonoverlap90Line &l,
                                                               float term) const
    {
        if (What == FINISHED) return sum;
        float v = fmaf(sum, scale * l.inverse, l.bias);
        if (What == PLAIN) return v;
        v = fmaf(v, l.factor, term);
        if (What == WITH_SILU || (What == ANY_LIGHT && p.function == CONVT3D_OP_SILU))
            return function_of(CONVT3D_OP_SILU, 0.0f, 0.0f, v);
        if (What == LEAKY || (What == ANY_LIGHT && p.function == CONVT3D_OP_LEAKY_RELU)) return max_nan(v, p.slope * v);
        return min_nan(max_nan(v, p.least), p.most);
    }

    // Of a light list, for line i from the slice's first.
    template <How What> __device__ __forceinline__ float term(const Nonoverlap90Line *line) const
    {
        return What == FINISHED || What == PLAIN ? 0 : ((const float *)heads)[line - lines];
    }

    template <int Kind, bool Aligned, How What, class Out>
    __device__ __forceinline__ void put(const float (&sum)[N / 2], const float (&scale)[2],
                                        const Nonoverlap90Line *line) const
    {
        Out *const y[2] = {(Out *)p.y + at[0], (Out *)p.y + at[1]};
        if constexpr (Kind == 0 || Kind == 4) {         // four neighbours: taps of a line, or channels
#pragma unroll
            for (int j = 0; j < N / 16; j++) {
                float v[2][4];
                Nonoverlap90Line l = line_at<Kind>(line, 8 * j);
                float term = this->term<What>(line + line_of<Kind>(8 * j));
                const int offset = l.offset;
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (Kind == 0 && e > 0) l = load(line + j * 16 + e), term = this->term<What>(line + j * 16 + e);
#pragma unroll
                    for (int r = 0; r < 2; r++)
                        v[r][e] = value<What>(sum[8 * j + e / 2 * 4 + 2 * r + e % 2], scale[r], l, term);
                }
                if constexpr (sizeof(Out) == 2 && Kind == 4 && Aligned)
                    nonoverlap90_store<Out, 8, true>(y[0] + offset, v[0], here[0] && offset >= 0);
                else
#pragma unroll
                    for (int r = 0; r < 2; r++)
                        nonoverlap90_store<Out, 4, Aligned>(y[r] + offset, v[r], here[r] && offset >= 0);
            }
        } else {    // Kind taps of two positions, which are neighbours where all is aligned
#pragma unroll
            for (int j = 0; j < N / 8 * (Kind == 1 ? 2 : 1); j++) {
                const int i = Kind == 1 ? j / 2 * 4 + j % 2 : 4 * j;
                Nonoverlap90Line l = line_at<Kind>(line, i);
                const float term = this->term<What>(line + line_of<Kind>(i));
                float v[2 * Kind];
#pragma unroll
                for (int k = 0; k < 2 * Kind; k++) {
                    const int which = Kind == 2 ? i + k : i + 2 * k;
                    v[k] = value<What>(sum[which], scale[which / 2 % 2], l, term);
                }
                if (Aligned) nonoverlap90_store<Out, 2 * Kind, true>(y[0] + l.offset, v, here[0] && l.offset >= 0);
                else {
                    nonoverlap90_store<Out, Kind, false>(y[0] + l.offset, v, here[0] && l.offset >= 0);
                    nonoverlap90_store<Out, Kind, false>(y[1] + l.offset, v + Kind, here[1] && l.offset >= 0);
                }
            }
        }
    }
};

// What halves cannot hold, by f32 FMA in the order of the channels, in rows begin ... end of the slice: all of them for
// wide positions, wide rows for all. `wide`: bits of the warp's 16 positions. A lane takes a row.
template <bool ChannelsLast>
__device__ __noinline__ void nonoverlap90_repair(const Nonoverlap90Problem &p, const List<float> &list,
                                                 const uint32_t *magnitudes, int slice, int tile, uint32_t wide,
                                                 int begin, int end, bool any_row, bool narrow)
{
    int warp = threadIdx.x / 32 % 4;
    for (int i = 0; i < 16; i++) {
        int position = nonoverlap90_place(p, tile, warp, i);
        Nonoverlap90Offsets at = nonoverlap90_position(p, position);
        bool all = wide >> i & 1;
        if (at.x < 0 || !(all || any_row)) continue;
        for (int n = begin + (int)(threadIdx.x % 32); n < end; n += 32) {
            Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
            if (r.column < 0 || !(all || nonoverlap90_wide_line<ChannelsLast>(p, magnitudes, r.line, narrow))) continue;
            const float *x = (const float *)p.x + at.x, *w = (const float *)p.w + r.column;
            float v = 0;
#pragma unroll 8
            for (int ic = 0; ic < p.in_channels; ic++)
                v = fmaf(__ldg(x + ic * p.x_stride[1]), __ldg(w + (int64_t)ic * p.columns), v);
            if (p.bias) v += ((const float *)p.bias)[r.oc];
            if (list.count > 0) {
                Where output = nonoverlap90_output(p, position);
                output.oc = r.oc;  output.od += r.kd;  output.oh += r.kh;  output.ow += r.kw;
                list_in_memory(list, &v, 1, 1, output);
            }
            ((float *)p.y)[at.y + nonoverlap90_offset<ChannelsLast>(p, r)] = v;
        }
    }
}

// ---- The product ----

#if CONVT3D__SM90A

// Has fragments in their registers before the fence.
template <int Steps> __device__ __forceinline__ void nonoverlap90_settle(uint32_t (&a)[Steps][4])
{
#pragma unroll
    for (int s = 0; s < Steps; s++)
        asm volatile("" : "+r"(a[s][0]), "+r"(a[s][1]), "+r"(a[s][2]), "+r"(a[s][3]) :: "memory");
}

// sum = A times N rows of w, the cross terms first; with `more` it is added to what sum holds. first_cell, low_cell: of
// their parts, from `weights` on.
// meanwhile(): what is done while the last products run.
template <class Mode, class Tile, class Meanwhile>
__device__ __forceinline__ void nonoverlap90_multiply(Nonoverlap90Fragments<Mode, Tile> &a, uint64_t weights,
                                                      int first_cell, int low_cell, int k_cells, bool more,
                                                      float (&sum)[Tile::N / 2], Meanwhile meanwhile)
{
    typedef WgmmaRows<typename Mode::Operand, Tile::N> Wgmma;
    enum { Steps = Tile::Channels / 16 };
    uint64_t high = wgmma_advance(weights, first_cell);
    nonoverlap90_settle(a.high);
    if constexpr (Mode::Parts == 2) {
        uint64_t low = wgmma_advance(weights, low_cell);
        nonoverlap90_settle(a.low);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < Steps; s++) Wgmma::multiply(sum, a.low[s], wgmma_advance(high, 2 * s * k_cells), s > 0);
#pragma unroll
        for (int s = 0; s < Steps; s++) Wgmma::multiply(sum, a.high[s], wgmma_advance(low, 2 * s * k_cells), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(sum);
#pragma unroll
        for (int i = 0; i < Tile::N / 2; i++) sum[i] *= 1.0f / 2048;
    }
    wgmma_pin(sum);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < Steps; s++)
        Wgmma::multiply(sum, a.high[s], wgmma_advance(high, 2 * s * k_cells),
                        Mode::Parts == 2 || s > 0 ? 1 : (int)more);
    wgmma_commit();
    meanwhile();
    wgmma_wait<0>();
    wgmma_pin(sum);
}

template <class Mode, class Tile, bool ChannelsLast, int Lists>
__device__ __forceinline__ void nonoverlap90_work(const Nonoverlap90Problem &p, const List<typename Mode::T> &list)
{
    typedef typename Mode::T T;
    extern __shared__ __align__(128) unsigned char nonoverlap90_memory[];
    unsigned char *shared = nonoverlap90_memory;
    const Nonoverlap90Shared<Mode, Tile, Lists> layout(p.rows, p.chunks, p.stages, p.lines);
    const int group = __shfl_sync(0xffffffffu, (int)(threadIdx.x / 128), 0), lane = threadIdx.x % 32;
    const int slice = (int)(blockIdx.x % (unsigned)p.slices), groups = p.blocks_of_slice * Tile::Groups;
    const int me = (int)(blockIdx.x / (unsigned)p.slices) * Tile::Groups + group;
    const int chunks = Tile::Long ? p.chunks : 1;
    const int warp = (int)threadIdx.x / 32 % 4;
    unsigned char *places = shared + layout.stages + group * p.stages * layout.Stage + warp * (layout.Stage / 4);
    const unsigned char *packed = p.packed + slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    const uint32_t *magnitudes = (const uint32_t *)(packed + layout.slot * p.chunks * Mode::Parts);

    Nonoverlap90Ask next = {0, nonoverlap90_tile_of(p, me, groups, 0), 0, {-1, -1}};
    int stage = 0;
    auto ask = [&](int at) {
        if (next.tile < p.tiles) {
            nonoverlap90_ask<Mode, Tile, ChannelsLast>(p, places + at * layout.Stage, next);
            if (!Tile::Long || ++next.chunk == chunks) {
                next.chunk = 0;
                next.tile = nonoverlap90_tile_of(p, me, groups, ++next.number);
            }
        }
        copies_end();
    };
    for (int i = 0; i < p.stages; i++) ask(i);
    nonoverlap90_prepare<Mode, Tile, ChannelsLast, Lists>(p, list, layout, shared, slice);

    uint64_t weights = wgmma_descriptor(shared_address(shared), p.rows);
    int part_cells = p.chunks * Tile::Channels / 8 * p.rows;
    [[maybe_unused]] Nonoverlap90Stream<Mode, Tile, Lists> stream = {
        layout, shared, packed + layout.slots, chunks, 0,
        (p.rounds + (me - group < p.left * p.shares ? 1 : 0)) * chunks};
    if (Tile::Streams && threadIdx.x < 32) { stream.fill(0);  stream.fill(1); }
    // What has one part has registers for the next chunk's fragments: they are read while products run.
    enum { Ahead = !ChannelsLast && Tile::Long && Mode::Parts == 1 && Tile::Groups < 4 };
    // Whether registers are left for a piece's table, beside what is held while it is stored.
    enum { Held = Tile::Long ? Tile::Pieces * Tile::N / 2 : Tile::N / 2 + Tile::Channels / 4 * Mode::Parts,
           Early = Lists == NO_LIST && Held + Tile::N / 8 * 3 + 40 + 12 * Mode::Scaled <= 65536 / Tile::Threads };
    Nonoverlap90Fragments<Mode, Tile> a, second;
    float sum[Tile::N / 2], total[Tile::Long ? Tile::Pieces : 1][Tile::Long ? Tile::N / 2 : 1];
    for (int number = 0, tile; (tile = nonoverlap90_tile_of(p, me, groups, number)) < p.tiles; number++) {
        bool wide[2] = {false, false};
        int share = number == p.rounds ? me / p.left : 0, shares = number == p.rounds ? p.shares : 1;
        int pieces = p.rows / Tile::N, begin = share * pieces / shares, end = (share + 1) * pieces / shares;
        auto take = [&](Nonoverlap90Fragments<Mode, Tile> &to) {
            copies_wait(p.stages);
            if constexpr (Mode::Scaled) {
                nonoverlap90_scaled<Mode, Tile, ChannelsLast>(p, places + stage * layout.Stage, to);
                wide[0] = wide[0] || to.wide[0];
                wide[1] = wide[1] || to.wide[1];
            } else nonoverlap90_unscaled<Mode, Tile, ChannelsLast>(p, places + stage * layout.Stage, to);
        };
        auto taken = [&] {
            __syncwarp();
            ask(stage);
            if (++stage == p.stages) stage = 0;
        };
        [[maybe_unused]] auto add_chunk = [&](int chunk, Nonoverlap90Fragments<Mode, Tile> &now,
                                              Nonoverlap90Fragments<Mode, Tile> &next) {
            const bool more = Ahead && chunk + 1 < chunks;
            int cell = chunk * (Tile::Channels / 8) * p.rows;
#pragma unroll
            for (int h = 0; h < Tile::Pieces; h++, cell += Tile::N) {
                auto meanwhile = [&] {
                    if (Tile::Streams) stream.leave();
                    if (Ahead && h == Tile::Pieces - 1 && more) take(next);
                };
                if constexpr (!Tile::Long) continue;
                else if constexpr (Mode::Scaled) {
                    const int low = Tile::Streams ? stream.next() : cell + part_cells;
                    nonoverlap90_multiply<Mode, Tile>(now, weights, cell, low, p.rows, false, sum, meanwhile);
#pragma unroll
                    for (int i = 0; i < Tile::N / 2; i++)
                        total[h][i] = fmaf(sum[i], now.inverse[i / 2 % 2], total[h][i]);
                } else nonoverlap90_multiply<Mode, Tile>(now, weights, cell, 0, p.rows, chunk > 0, total[h], meanwhile);
            }
            if (more) taken();
        };
        if constexpr (Tile::Long && Mode::Scaled)
#pragma unroll
            for (int i = 0; i < Tile::Pieces * Tile::N / 2; i++) total[i / (Tile::N / 2)][i % (Tile::N / 2)] = 0;
        take(a);
        taken();
        if constexpr (Ahead) {
#pragma unroll 1
            for (int chunk = 0; chunk < chunks; chunk += 2) {
                add_chunk(chunk, a, second);
                if (chunk + 1 < chunks) add_chunk(chunk + 1, second, a);
            }
        } else if constexpr (Tile::Long) {
            add_chunk(0, a, a);
#pragma unroll 1
            for (int chunk = 1; chunk < chunks; chunk++) {
                take(a);
                taken();
                add_chunk(chunk, a, a);
            }
        }
        Nonoverlap90Finish<T, Tile::N, ChannelsLast, Lists, Early> finish = {
            p, list, (const Nonoverlap90Line *)(shared + layout.lines),
            shared + layout.heads, {}, slice, {}, {}, {}};
        // With a list what is repaired is stored once, since y may be a residual. Pairs are stored together.
        if (Lists && p.pairs) wide[0] = wide[1] = wide[0] || wide[1];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            finish.position[r] = nonoverlap90_place(p, tile, warp, lane / 4 + 8 * r);
            finish.at[r] = nonoverlap90_position(p, finish.position[r]).y;
            finish.here[r] = finish.at[r] >= 0 && !(Lists && wide[r]);
        }
        if constexpr (Tile::Long) {
            const float one[2] = {1, 1};
#pragma unroll
            for (int h = 0; h < Tile::Pieces; h++) {
                finish.ask_lines(h);
                finish.store(total[h], one, h);
            }
        } else {
            float undo[2] = {Mode::Scaled ? a.inverse[0] : 1, Mode::Scaled ? a.inverse[1] : 1};
#pragma unroll 1
            for (int piece = begin; piece < end; piece++) {
                if (Lists == WHOLE_LIST && list.residual < list.count) finish.ask_residual(piece);
                nonoverlap90_multiply<Mode, Tile>(a, weights, piece * Tile::N, piece * Tile::N + part_cells, p.rows,
                                                  false, sum, [&] { finish.ask_lines(piece); });
                finish.store(sum, undo, piece);
            }
        }
        if constexpr (Mode::Scaled) {
            uint32_t first = __ballot_sync(0xffffffffu, wide[0]), second = __ballot_sync(0xffffffffu, wide[1]);
            uint32_t any_row = *(const uint32_t *)(shared + layout.any_wide);
            if (first | second | any_row) {
                uint32_t rows = 0;
                for (int i = 0; i < 8; i++) rows |= (first >> 4 * i & 1) << i | (second >> 4 * i & 1) << (i + 8);
                __syncwarp();
                nonoverlap90_repair<ChannelsLast>(p, list, magnitudes, slice, tile, rows, begin * Tile::N,
                                                  end * Tile::N, any_row != 0, Mode::Narrow);
            }
        }
    }
    if constexpr (Tile::Streams)        // warpgroups that had a tile less
        while (stream.at < stream.end) { stream.next();  stream.leave(); }
}

#endif

template <class Mode, class Tile, bool ChannelsLast, int Lists>
__global__ void __launch_bounds__(Tile::Threads, 1)
nonoverlap90_kernel(const __grid_constant__ Nonoverlap90Problem p, const __grid_constant__ List<typename Mode::T> list)
{
#if CONVT3D__SM90A
    nonoverlap90_work<Mode, Tile, ChannelsLast, Lists>(p, list);
#endif
}

// ---- The host's side ----

struct Nonoverlap90Choice {
    int tile, rows, lines, groups, pieces, slices, blocks_of_slice, stages, shared, chunks;
    double seconds;
};

static inline int64_t nonoverlap90_positions(const convt3d__plan *plan)
{
    return plan->desc.batch * plan->axis[0].in * plan->axis[1].in * plan->axis[2].in;
}

static inline bool nonoverlap90_channels_last(const convt3d__plan *plan)
{
    return plan->desc.x_stride[1] == 1 && plan->desc.y_stride[1] == 1 && plan->desc.x_stride[4] != 1;
}

// Seconds by the slowest of: products at the rate of wgmma for N columns, a warpgroup's own chain of work, bytes of
// device memory and of L2, which serves every slice; and what comes before.
template <class Mode, class Tile> void nonoverlap90_estimate(const convt3d__plan *plan, Nonoverlap90Choice *c)
{
    const int n = Tile::N;
    double tiles = (double)convt3d__ceil_div(nonoverlap90_positions(plan), Tile::Positions), pieces = c->rows / n;
    double element = (double)convt3d__element_size(plan->desc.dtype), multiprocessors = plan->multiprocessors;
    double channels = (double)c->chunks * Tile::Channels, products = Mode::Parts == 2 ? 3 : 1;
    double turns = (double)convt3d__ceil_div((int64_t)c->slices * c->blocks_of_slice, plan->multiprocessors);
    int64_t left = (int64_t)tiles % c->groups;
    double mine = (double)((int64_t)tiles / c->groups);
    if (left > 0) mine += 1 / (double)convt3d__max(1, convt3d__min(c->pieces, c->groups / left));
    double idle = mine * c->groups / tiles;         // over 1: warpgroups without work at the end
    mine *= turns;
    double cycles = n >= 128 ? n / 2 : 16 + n / 2;                 // of a wgmma, 16 deep
    double unit = pieces * channels / 16 * products * cycles;
    double rest = c->chunks * (200.0 + Tile::Channels * Tile::Positions * (Mode::Scaled ? 8 : 1) / 128.0) +
                  pieces * (c->chunks * (Mode::Parts == 2 ? 300 : 150) + n * 4 + 100);
    if (Tile::Long && c->stages < 2) rest *= 3;     // nothing is loaded ahead
    double busy = unit * Tile::Groups > unit + rest ? unit * Tile::Groups : unit + rest;
    double computed = mine * busy / 1.6e9, memory, cache;
    memory = ((double)plan->x_count + (double)plan->w_count) * element;
    memory = (memory + (double)plan->y_count * (double)convt3d__element_size(plan->stored)) / 3.7e12;
    cache = (double)plan->x_count * (c->slices - 1) * element / 6e12;
    if (Tile::Streams) cache += tiles / Tile::Groups * c->slices * c->rows * channels * 2 / 6e12;
    if (idle > 1.25) idle = 1.25;       // then it is not the bytes that take the time
    memory = (memory + cache) * (1 + idle) / 2;
    if (element == 2 && nonoverlap90_channels_last(plan)) memory *= 1.2;       // stores of 8 bytes: seen
    c->seconds = computed > memory ? computed : memory;
    if (Tile::Long && plan->desc.in_channels <= 64) c->seconds *= 1.1;      // rows in registers are multiplied again
    c->seconds += 5e-6 + turns * (1e-6 + c->rows * channels * 2 * Mode::Parts / 60e9);
}

// Tries every number of slices with the tile, and keeps the cheapest.
template <class Mode, class Tile, int Lists>
void nonoverlap90_try(const convt3d__plan *plan, int tile, Nonoverlap90Choice *best)
{
    const int64_t room = 227 * 1024, in = plan->desc.in_channels, rows = plan->desc.out_channels * plan->taps;
    Nonoverlap90Choice c = {};
    if (!Tile::Long && (in > Tile::Channels || (Tile::Channels > 64 && in <= 64))) return;
    int64_t tiles = convt3d__ceil_div(nonoverlap90_positions(plan), Tile::Positions);
    int64_t width = Tile::Long ? Tile::N * Tile::Pieces : Tile::N, pieces = convt3d__ceil_div(rows, width);
    int64_t most = Tile::Long ? pieces : convt3d__min(pieces, 64);
    c.tile = tile;
    c.chunks = (int)convt3d__ceil_div(in, Tile::Channels);
    for (int64_t slices = Tile::Long ? pieces : 1; slices <= most; slices++) {
        int64_t of_slice = convt3d__ceil_div(pieces, slices) * width;
        const int64_t part = of_slice * c.chunks * Tile::Channels * 2;
        if (part * (Tile::Streams ? 1 : Mode::Parts) > room || (Tile::Streams && part * Mode::Parts <= room)) continue;
        c.rows = (int)of_slice;
        c.slices = (int)convt3d__ceil_div(rows, of_slice);
        c.lines = nonoverlap90_channels_last(plan) ? c.rows : c.rows / (int)plan->axis[2].kernel;
        for (c.stages = Tile::Long ? 3 : 1; c.stages >= 1; c.stages--) {
            c.shared = Nonoverlap90Shared<Mode, Tile, Lists>(c.rows, c.chunks, c.stages, c.lines).total;
            if (c.shared <= room) break;
        }
        if (c.stages < 1) continue;
        c.blocks_of_slice = (int)convt3d__min(convt3d__ceil_div(tiles, Tile::Groups),
                                              convt3d__max(1, plan->multiprocessors / c.slices));
        c.groups = c.blocks_of_slice * Tile::Groups;
        c.pieces = Tile::Long ? 1 : c.rows / Tile::N;       // that warpgroups may share
        nonoverlap90_estimate<Mode, Tile>(plan, &c);
        if (best->rows == 0 || c.seconds < best->seconds) *best = c;
    }
}

template <class Mode, class Tile_, bool ChannelsLast, int Lists> struct Nonoverlap90Kernel {
    typedef Tile_ Tile;
    typedef typename Mode::T T;
    static auto *function() { return nonoverlap90_kernel<Mode, Tile, ChannelsLast, Lists>; }
    static auto *pack_function() { return nonoverlap90_pack_kernel<Mode, Tile, ChannelsLast>; }
    static int64_t slices(const Nonoverlap90Problem &p)         // bytes of them
    {
        return p.slices * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    }
    static bool keeps_w() { return Mode::Scaled; }
    static void attempt(const convt3d__plan *plan, int tile, Nonoverlap90Choice *best)
    {
        nonoverlap90_try<Mode, Tile, Lists>(plan, tile, best);
    }
};

// The tiles there are. What has one part has room for 160 columns; two parts then want a stream.
template <class Mode, bool Last, int Lists, class Act> auto nonoverlap90_tile(int tile, Act act)
{
    enum { One = Mode::Parts == 1, Scaled = Mode::Scaled, More = Scaled || Last ? 3 : 4, Broad = One && !Last,
           Streams = !One && !Last, Wide = One || Streams };
    switch (tile) {
    case 0:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 64, Last ? 4 : 3, 0>, Last, Lists>());
    case 1:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, 64, More, 0>, Last, Lists>());
    case 2:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Broad ? 128 : 64, Broad && Scaled ? 2 : More,
                                                                  Broad ? 1 : 2>, Last, Lists>());
    case 3:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 80, 3, 1>, Last, Lists>());
    case 4:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Wide ? 160 : 80, Wide ? 2 : 3, 1, Streams>, Last,
                                           Lists>());
    case 5:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, One ? 64 : 128, One ? More : 2, 0>, Last,
                                           Lists>());
    default: return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 32, 4, 1>, Last, Lists>());
    }
}

// Those of the instances that apply any list: fewer, for the compiler's sake. In NCDHW nothing of them lies on the
// stack, which is slow where stores fill the way to memory.
template <class Mode, bool Last, class Act> auto nonoverlap90_list_tile(int tile, Act act)
{
    enum { Three = Mode::Parts == 1 || Last };
    switch (tile) {
    case 0:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 64, Last ? 4 : 3, 0>, Last, WHOLE_LIST>());
    case 1:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<128, 64, Three ? 3 : 2, 0>, Last, WHOLE_LIST>());
    case 2:  return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, Last ? 64 : 128, Last ? 3 : 2, Last ? 2 : 1>,
                                           Last, WHOLE_LIST>());
    default: return act(Nonoverlap90Kernel<Mode, Nonoverlap90Tile<64, 32, 4, 1>, Last, WHOLE_LIST>());
    }
}

// What of a list the plan wants applied. f32 stores for 16-bit elements, and light lists in NDHWC, are left to the
// instances of all lists.
static inline int nonoverlap90_lists(const convt3d__plan *plan)
{
    const convt3d_io none = {};
    if (plan->stored != plan->desc.dtype) return WHOLE_LIST;
    const ListForm form = form_of(list_of<float>(plan, &none, 0, plan->fused));
    return form == LIGHT_LIST && nonoverlap90_channels_last(plan) ? WHOLE_LIST : form;
}

enum { NONOVERLAP90_TILES = 7 };

static inline bool nonoverlap90_has_tile(const convt3d__plan *plan, int tile)
{
    return nonoverlap90_lists(plan) != WHOLE_LIST || tile < 3 || tile == NONOVERLAP90_TILES - 1;
}

template <class Mode, bool ChannelsLast, class Act>
auto nonoverlap90_list(const convt3d__plan *plan, int tile, Act act)
{
    const int lists = nonoverlap90_lists(plan);
    if (lists == NO_LIST) return nonoverlap90_tile<Mode, ChannelsLast, NO_LIST>(tile, act);
    if constexpr (!ChannelsLast)
        if (lists == LIGHT_LIST) return nonoverlap90_tile<Mode, ChannelsLast, LIGHT_LIST>(tile, act);
    return nonoverlap90_list_tile<Mode, ChannelsLast>(tile, act);
}

// Calls act(kernel) for the kernel of the plan with the given tile: the one place where the instances are listed.
template <bool ChannelsLast, class Act> auto nonoverlap90_mode(const convt3d__plan *plan, int tile, Act act)
{
    if (plan->desc.dtype == CONVT3D_F16) return nonoverlap90_list<Nonoverlap90F16, ChannelsLast>(plan, tile, act);
    if (plan->desc.dtype == CONVT3D_BF16) return nonoverlap90_list<Nonoverlap90Bf16, ChannelsLast>(plan, tile, act);
    if (plan->desc.math == CONVT3D_TF32) return nonoverlap90_list<Nonoverlap90Tf32, ChannelsLast>(plan, tile, act);
    return nonoverlap90_list<Nonoverlap90F32, ChannelsLast>(plan, tile, act);
}

template <class Act> auto nonoverlap90_instance(const convt3d__plan *plan, int tile, Act act)
{
    return nonoverlap90_channels_last(plan) ? nonoverlap90_mode<true>(plan, tile, act)
                                            : nonoverlap90_mode<false>(plan, tile, act);
}

// In plan->state.
enum { NONOVERLAP90_TILE, NONOVERLAP90_ROWS, NONOVERLAP90_SLICES, NONOVERLAP90_BLOCKS_OF_SLICE, NONOVERLAP90_STAGES,
       NONOVERLAP90_SHARED, NONOVERLAP90_CHUNKS, NONOVERLAP90_LINES, NONOVERLAP90_GROUPS,
       NONOVERLAP90_PIECES, NONOVERLAP90_PICOSECONDS };

// Whether strides 0 ... last are multiples of `of`, that of the channels aside.
static bool nonoverlap90_multiples(const int64_t *stride, int last, int64_t of)
{
    for (int i = 0; i <= last; i++)
        if (i != 1 && stride[i] % of != 0) return false;
    return true;
}

// Neighbours in y of (kw, oc), channels last: those of all taps along W where y is dense there.
static int64_t nonoverlap90_run_length(const convt3d__plan *plan)
{
    int64_t channels = plan->desc.out_channels;
    return plan->desc.y_stride[4] == channels ? channels * plan->axis[2].kernel : channels;
}

// Whether whole pieces of x and of y can be moved at once, if the pointers allow it.
static bool nonoverlap90_aligned(const convt3d__plan *plan)
{
    const convt3d_desc &d = plan->desc;
    int64_t kernel = plan->axis[2].kernel, wide = 16 / convt3d__element_size(d.dtype);
    int64_t together = kernel == 4 ? wide : kernel * 2;
    if (nonoverlap90_channels_last(plan))
        return d.in_channels % wide == 0 && nonoverlap90_multiples(d.x_stride, 4, wide) &&
               nonoverlap90_multiples(d.y_stride, 3, 4) && d.y_stride[4] * kernel % 4 == 0;
    bool line = d.x_stride[3] == plan->axis[2].in && d.x_stride[2] == plan->axis[1].in * d.x_stride[3];
    int64_t in_a_row = line ? plan->axis[0].in * d.x_stride[2] : plan->axis[2].in;      // positions
    return d.x_stride[4] == 1 && plan->axis[2].in % 2 == 0 && in_a_row % wide == 0 && d.x_stride[0] % wide == 0 &&
           d.x_stride[1] % wide == 0 && (line || nonoverlap90_multiples(d.x_stride, 3, wide)) &&
           nonoverlap90_multiples(d.y_stride, 3, together) && d.y_stride[1] % together == 0;
}

static Nonoverlap90Problem nonoverlap90_problem(const convt3d__plan *plan)
{
    Nonoverlap90Problem p = {};
    const convt3d_desc &d = plan->desc;
    for (int i = 0; i < 5; i++) { p.x_stride[i] = d.x_stride[i];  p.y_stride[i] = d.y_stride[i]; }
    for (int a = 0; a < 3; a++) {
        p.in[a] = (int32_t)plan->axis[a].in;
        p.kernel[a] = (int32_t)plan->axis[a].kernel;
        p.by_in[a] = fixed_divisor(plan->axis[a].in);
    }
    p.positions = (int32_t)nonoverlap90_positions(plan);
    p.tiles = (int32_t)convt3d__ceil_div(p.positions, 64);
    p.in_channels = (int32_t)d.in_channels;  p.out_channels = (int32_t)d.out_channels;
    p.taps = (int32_t)plan->taps;
    p.columns = p.out_channels * p.taps;
    p.rows = (int32_t)plan->state[NONOVERLAP90_ROWS];
    p.slices = (int32_t)plan->state[NONOVERLAP90_SLICES];
    p.blocks_of_slice = (int32_t)plan->state[NONOVERLAP90_BLOCKS_OF_SLICE];
    p.chunks = (int32_t)plan->state[NONOVERLAP90_CHUNKS];
    p.stages = (int32_t)plan->state[NONOVERLAP90_STAGES];
    p.lines = (int32_t)plan->state[NONOVERLAP90_LINES];
    int32_t groups = (int32_t)plan->state[NONOVERLAP90_GROUPS], pieces = (int32_t)plan->state[NONOVERLAP90_PIECES];
    p.rounds = p.tiles / groups;
    p.left = p.tiles % groups;
    p.shares = (int32_t)convt3d__max(1, p.left > 0 ? convt3d__min(pieces, groups / p.left) : 1);
    if (p.left == 0) p.left = 1, p.shares = 0;
    p.keep = 1.0f / 16384;
    const convt3d_io none = {};
    const Common<float> common = list_of<float>(plan, &none, 0, plan->fused).common;
    p.function = common.kind;
    p.slope = common.a;
    p.least = common.kind == CONVT3D_OP_CLAMP ? common.a : common.kind == CONVT3D_OP_RELU ? 0 : -INFINITY;
    p.most = common.kind == CONVT3D_OP_CLAMP ? common.b : INFINITY;
    return p;
}

}

extern "C" int32_t convt3d__nonoverlap90_refuses(convt3d__plan *plan, char why[96])
{
    using namespace convt3d_cuda;
    Nonoverlap90Choice best = {};
    const convt3d_desc &d = plan->desc;
    if (!convt3d__has_sm90a(plan)) return convt3d__refuse(why, "needs an sm_90 card and sm_90a code");
    if (d.dtype == CONVT3D_F64) return convt3d__refuse(why, "not for f64");
    if (d.groups != 1) return convt3d__refuse(why, "needs one group");
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &axis = plan->axis[a];
        if (axis.kernel != axis.stride || (axis.dilation != 1 && axis.kernel > 1))
            return convt3d__refuse(why, "needs kernel == stride, dilation 1");
        if (axis.padding != 0 || axis.out != axis.in * axis.stride)
            return convt3d__refuse(why, "needs padding 0 and the whole output");
    }
    if (!fits_32_bits(plan) || nonoverlap90_positions(plan) > INT32_MAX / 2 ||
        d.out_channels * plan->taps > INT32_MAX / 64 || d.in_channels > 65536)
        return convt3d__refuse(why, "needs indices of 32 bits");
    if (nonoverlap90_positions(plan) == 0) return convt3d__refuse(why, "nothing to compute");
    int64_t kernel = plan->axis[2].kernel, reach = (d.out_channels - 1) * d.y_stride[1];
    for (int a = 0; a < 3; a++) reach += (plan->axis[a].kernel - 1) * d.y_stride[2 + a];
    if (reach > INT32_MAX) return convt3d__refuse(why, "needs offsets of 32 bits inside a sample");
    if (nonoverlap90_channels_last(plan) != (d.layout == CONVT3D_NDHWC))
        return convt3d__refuse(why, "needs x and y to lie as their layout says");
    if (nonoverlap90_channels_last(plan)) {
        if (nonoverlap90_run_length(plan) % 4 != 0 ||
            (d.y_stride[4] % 4 != 0 && kernel > 1 && d.y_stride[4] != d.out_channels))
            return convt3d__refuse(why, "needs channels of y in fours");
    } else if (d.y_stride[4] != 1 || (kernel != 1 && kernel != 2 && kernel != 4))
        return convt3d__refuse(why, "needs W or channels innermost in y, kernel 1, 2 or 4 along W");
    for (int tile = 0; tile < NONOVERLAP90_TILES; tile++)
        if (nonoverlap90_has_tile(plan, tile))
            nonoverlap90_instance(plan, tile, [&](auto kernel) { kernel.attempt(plan, tile, &best); });
    if (best.rows == 0) return convt3d__refuse(why, "too many in_channels for rows of w in shared memory");
    plan->state[NONOVERLAP90_TILE] = best.tile;
    plan->state[NONOVERLAP90_ROWS] = best.rows;
    plan->state[NONOVERLAP90_SLICES] = best.slices;
    plan->state[NONOVERLAP90_BLOCKS_OF_SLICE] = best.blocks_of_slice;
    plan->state[NONOVERLAP90_STAGES] = best.stages;
    plan->state[NONOVERLAP90_SHARED] = best.shared;
    plan->state[NONOVERLAP90_CHUNKS] = best.chunks;
    plan->state[NONOVERLAP90_LINES] = best.lines;
    plan->state[NONOVERLAP90_GROUPS] = best.groups;
    plan->state[NONOVERLAP90_PIECES] = best.pieces;
    plan->pack_variant = (uint64_t)best.tile << 32 | (uint64_t)(best.rows * 2 + nonoverlap90_channels_last(plan));
    plan->state[NONOVERLAP90_PICOSECONDS] = (int64_t)(best.seconds * (nonoverlap90_aligned(plan) ? 1e12 : 4e12));
    return 0;
}

extern "C" double convt3d__nonoverlap90_cost(const convt3d__plan *plan)
{
    return (double)plan->state[convt3d_cuda::NONOVERLAP90_PICOSECONDS] * 1e-12;
}

extern "C" int64_t convt3d__nonoverlap90_packed(const convt3d__plan *plan)
{
    using namespace convt3d_cuda;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        return kernel.slices(p) + (kernel.keeps_w() ? plan->w_count * 4 : 0);
    });
}

extern "C" int64_t convt3d__nonoverlap90_workspace(const convt3d__plan *plan)
{
    return convt3d__nonoverlap90_packed(plan);
}

extern "C" convt3d_status convt3d__nonoverlap90_ready(const convt3d__plan *plan, convt3d_error *error)
{
    using namespace convt3d_cuda;
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [=](auto kernel) {
        convt3d_status status = convt3d__load_kernel(error, plan, kernel.pack_function(), 0);
        if (status != CONVT3D_OK) return status;
        return convt3d__load_kernel(error, plan, kernel.function(), (size_t)plan->state[NONOVERLAP90_SHARED]);
    });
}

// Packs w; `keep` says that the pack must do without it.
static convt3d_status nonoverlap90_launch_pack(const convt3d__plan *plan, const void *w, void *packed, bool keep,
                                               void *stream, convt3d_error *error)
{
    using namespace convt3d_cuda;
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    p.w = w;
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        unsigned char *to = (unsigned char *)packed, *copy = keep && kernel.keeps_w() ? to + kernel.slices(p) : NULL;
        unsigned blocks = (unsigned)(p.slices * (p.rows / NONOVERLAP90_PACK_ROWS));
        return convt3d__launch(error, kernel.pack_function(), dim3(blocks), dim3(NONOVERLAP90_PACK_THREADS), 0, stream,
                               p, to, (void *)copy);
    });
}

extern "C" convt3d_status convt3d__nonoverlap90_pack(const convt3d__plan *plan, const void *w, void *packed,
                                                     void *stream, convt3d_error *error)
{
    return nonoverlap90_launch_pack(plan, w, packed, true, stream, error);
}

// With w to be packed, the main kernel is launched while that goes on, and waits for it itself.
extern "C" convt3d_status convt3d__nonoverlap90_run(const convt3d__plan *plan, const convt3d_io *io,
                                                    convt3d_error *error)
{
    using namespace convt3d_cuda;
    const void *packed = io->w_packed ? io->w_packed : io->workspace;
    convt3d_status status;
    if (io->w_packed) status = convt3d__check_device(plan, error);
    else status = nonoverlap90_launch_pack(plan, io->w, io->workspace, false, io->stream, error);
    if (status != CONVT3D_OK) return status;
    Nonoverlap90Problem p = nonoverlap90_problem(plan);
    p.x = io->x;  p.w = io->w;  p.bias = io->bias;  p.y = io->y;
    p.packed = (const unsigned char *)packed;
    p.aligned = nonoverlap90_aligned(plan) && (uintptr_t)io->x % 16 == 0 && (uintptr_t)io->y % 16 == 0;
    p.wide = plan->stored != plan->desc.dtype;
    p.pairs = p.aligned && !nonoverlap90_channels_last(plan) && !(p.kernel[2] == 4 && plan->desc.dtype == CONVT3D_F32);
    return nonoverlap90_instance(plan, (int)plan->state[NONOVERLAP90_TILE], [&](auto kernel) {
        if (io->w_packed) p.w = p.packed + kernel.slices(p);
        return convt3d__launch_early(error, !io->w_packed, kernel.function(),
                                     dim3((unsigned)(p.slices * p.blocks_of_slice)),
                                     dim3((unsigned)decltype(kernel)::Tile::Threads),
                                     (size_t)plan->state[NONOVERLAP90_SHARED], io->stream, p,
                                     list_of<typename decltype(kernel)::T>(plan, io, 0, plan->fused));
    });
}

#endif
