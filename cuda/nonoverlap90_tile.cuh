// sm90_nonoverlap: what a kernel is, which column of w and which part of y its rows are, where positions lie, and what
// a block keeps in shared memory.
#pragma once

#if CONVT3D__PART(4)

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

}

#endif
