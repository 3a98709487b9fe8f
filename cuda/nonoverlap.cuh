// sm80_nonoverlap: dilation 1 and kernel <= stride, so that an output has at most one tap. kernel == stride is the case
// that most users run.
//
// Idea      One GEMM: x is [in_channels] x [positions], w is [in_channels] x [out_channels * taps] as it lies, and an
//           element of their product is an output. A block keeps a slice of w in shared memory for its whole life and
//           walks over tiles of positions. Producer warps read 64 channels x 16 positions at a time, bring them to
//           halves and put them into a ring of stages; consumer warps multiply (mma.sync) and store. Nobody waits for
//           a whole block, so loads, products and stores overlap.
// Stores    Rows of a fragment are chosen so that a thread holds four neighbours of y: both W taps of two positions
//           (kernel 2), four taps of one (kernel 4), or four channels of one (channels last). Four lanes write 64
//           bytes.
// f32       fp16x3: v = high + low, two halves, after a power-of-two scale per position and per row of w, each over 64
//           channels; low*high + high*low + high*high, undone and added to f32 registers every 64 channels. A position
//           or a row with an infinity, a NaN or magnitudes too far apart for halves is computed again by f32 FMA,
//           alone, so bits depend on the position only. TF32 math: high*high alone, 11 bits as TF32 has.
// f16, bf16 one product, f32 accumulator. f64: nonoverlap_f64.cuh.
// Requires  sm_80; dilation 1 and kernel <= stride on each axis; indices of 32 bits; a slice of w (at least 32 rows of
//           all in_channels of a group) in shared memory.
// Tiles     rows of w x positions: 256 x 64, 128 x 128, 96 x 128, 32 x 64, the cheapest by nonoverlap_tiling().
// Measured  one H200, NCDHW, w packed inside the call: nnunet_64_32_64 f32 0.30 ms (0.53 of the floor), TF32 0.196
//           (0.80), f16 0.102 (0.77); nnunet_128_64_32 0.144 (0.27), 0.064 (0.61), 0.042 (0.47). In f32 the two
//           consumer warps of a scheduler multiply at the same time, at 75% of the unit's rate, then both store.
// List      applied to the sums in registers; what is repaired, and outputs that no tap reaches, one by one.
// Outputs that no tap reaches are filled by the same launch.
#pragma once

CONVT3D__DECLARE_KERNEL(nonoverlap)

#if CONVT3D__PART(3)

#include "mma.cuh"
#include "divisor.cuh"

namespace convt3d_cuda {

enum {
    NONOVERLAP_CHUNK = 64,          // channels of a stage: one scale, one promotion
    NONOVERLAP_PRODUCERS = 8,       // warps
    NONOVERLAP_GROUP = 16,          // positions that a producer warp takes at a time
    NONOVERLAP_MOST_STAGES = 4
};

// What the elements become: Parts halves each, scaled or as they are. Promoted: each chunk's sum is added to another;
// where there is one chunk, its registers serve to load ahead.
struct NonoverlapF32 { typedef float T;  typedef MmaHalf Mma;  enum { Parts = 2, Scaled = 1, Promoted = 1 }; };
struct NonoverlapTf32 { typedef float T;  typedef MmaHalf Mma;  enum { Parts = 1, Scaled = 1, Promoted = 1 }; };
struct NonoverlapF32Short { typedef float T;  typedef MmaHalf Mma;  enum { Parts = 2, Scaled = 1, Promoted = 0 }; };
struct NonoverlapTf32Short { typedef float T;  typedef MmaHalf Mma;  enum { Parts = 1, Scaled = 1, Promoted = 0 }; };
struct NonoverlapF16 { typedef __half T;  typedef MmaHalf Mma;  enum { Parts = 1, Scaled = 0, Promoted = 0 }; };
struct NonoverlapBf16 {
    typedef __nv_bfloat16 T;
    typedef MmaBfloat Mma;
    enum { Parts = 1, Scaled = 0, Promoted = 0 };
};

// A consumer warp computes 16*RowTiles rows of w x 16*Blocks positions; RowWarps x PositionWarps of them make a tile.
template <int RowTiles_, int Blocks_, int RowWarps_, int PositionWarps_> struct NonoverlapTile {
    enum {
        RowTiles = RowTiles_, Blocks = Blocks_, RowWarps = RowWarps_, PositionWarps = PositionWarps_,
        Rows = 16 * RowTiles * RowWarps, Positions = 16 * Blocks * PositionWarps,
        Consumers = RowWarps * PositionWarps, FirstProducer = (Consumers + 3) / 4 * 4,      // whole warpgroups
        Threads = 32 * (FirstProducer + NONOVERLAP_PRODUCERS),
        Groups = Positions / NONOVERLAP_GROUP,
        Skip = NONOVERLAP_PRODUCERS / Groups        // stages from one of a producer to its next
    };
};

// How a producer warp reads 16 positions x 64 channels of x: element by element (lane: position l % 16, channels l /
// 16 * 32 ...); four positions at once (positions l % 4 * 4 ..., channels l / 4 * 8 ...); eight channels at once,
// where they lie side by side (position l / 8 + 4i, channels l % 8 * 8 ...). In each case a lane has four octets of
// channels.
enum { NONOVERLAP_SINGLY, NONOVERLAP_POSITIONS, NONOVERLAP_CHANNELS };

struct NonoverlapProblem {
    const void *x, *w, *bias;
    void *y;
    int64_t x_stride[5], y_stride[5];       // elements
    int64_t x_positions;                    // x_stride of consecutive positions where d, h and w are one line, or 0
    int32_t in[3], out[3], kernel[3], stride[3], padding[3];
    int32_t batch, positions, tiles;        // positions: batch * in_d * in_h * in_w
    FixedDivisor by_in[3], by_plane;             // in_d, in_h, in_w; their product
    int32_t in_group, out_group, groups, taps, columns;     // columns of w of one group: out_group * taps
    int32_t slices, slices_of_group, blocks_of_slice;       // slices of w; blocks that share one
    int32_t stages, chunks;
    int32_t loads;                          // how x is read: NONOVERLAP_SINGLY, ...
    int32_t quads;      // neighbours in y that a thread holds: kernel 1, 2 or 4 along W, 8: four channels; 0: none
    int32_t wide;       // 1: y has f32 for 16-bit elements
    int32_t cropped, fill;                  // some taps land outside y; some outputs get no tap
    float keep;                             // the least scaled magnitude that halves hold well enough
};

// A slot of what is known about a tile's positions: where they land in y (8 bytes each), which are wide (4 bytes each,
// in the chunks of either producer that a position has: then Skip times), which groups of 16 are regular, and have
// wide ones.

// ---- Shared memory: w, tables of its rows, stages, what is known about the positions of the tiles in flight ----

template <class Mode, class Tile> struct NonoverlapShared {
    enum { Pitch = (Tile::Positions + 1) * 16, Plane = 8 * Pitch, Stage = Plane * Mode::Parts + Tile::Positions * 4,
           RowTable = Tile::Rows * 16, Regular = Tile::Positions * (8 + 4 * Tile::Skip),
           Info = (Regular + Tile::Positions / 16 * 4 * (1 + Tile::Skip) + 15) / 16 * 16,
           Scratch = 16 * 17 * 4 };
    int weights, scales, table, info, scratch, barriers, total;     // offsets in bytes; stages begin at 0
    __host__ __device__ NonoverlapShared(int in_group, int stages)
    {
        int k16 = (in_group + 15) / 16, chunks = (in_group + 63) / 64;
        weights = stages * Stage;
        scales = weights + k16 * Tile::Rows * 32 * Mode::Parts;
        table = scales + (Mode::Scaled ? chunks * Tile::Rows * 4 : 0);
        info = table + RowTable;
        scratch = info + (stages + 1) * Info;
        barriers = scratch + Tile::Consumers * Scratch;
        total = barriers + 16 * NONOVERLAP_MOST_STAGES + 16;
    }
};

// ---- Rows of w: which column of w, which part of y ----

struct NonoverlapRow {
    int column, oc, kd, kh, kw;     // column -1: no such row
};

// Channels last: rows in the order of y. Otherwise eight rows share kw and differ in (oc, kd, kh), then comes the next
// kw.
template <bool ChannelsLast>
__device__ __forceinline__ NonoverlapRow nonoverlap_row(const NonoverlapProblem &p, int row)
{
    NonoverlapRow r;
    if (ChannelsLast) {
        r.oc = row % p.out_group;
        int tap = row / p.out_group;
        r.kw = tap % p.kernel[2];
        r.kh = tap / p.kernel[2] % p.kernel[1];
        r.kd = tap / (p.kernel[2] * p.kernel[1]);
        r.column = tap < p.taps ? r.oc * p.taps + tap : -1;
    } else {
        int line = row / 8 / p.kernel[2] * 8 + row % 8;      // (oc, kd, kh)
        r.kw = row / 8 % p.kernel[2];
        r.kh = line % p.kernel[1];
        r.kd = line / p.kernel[1] % p.kernel[0];
        r.oc = line / (p.kernel[1] * p.kernel[0]);
        r.column = r.oc < p.out_group ? line * p.kernel[2] + r.kw : -1;
    }
    return r;
}

struct NonoverlapPosition { int n, d, h, w; };

static __device__ __forceinline__ NonoverlapPosition nonoverlap_position(const NonoverlapProblem &p, int position)
{
    NonoverlapPosition at;
    int row = p.by_in[2].quotient(position), plane = p.by_in[1].quotient(row);
    at.n = p.by_in[0].quotient(plane);
    at.w = position - row * p.in[2];
    at.h = row - plane * p.in[1];
    at.d = plane - at.n * p.in[0];
    return at;
}

static __device__ __forceinline__ int64_t nonoverlap_x_offset(const NonoverlapProblem &p, int position)
{
    if (p.x_positions > 0) {
        int n = p.by_plane.quotient(position);
        return n * p.x_stride[0] + (position - n * (int)p.by_plane.divisor) * p.x_positions;
    }
    NonoverlapPosition at = nonoverlap_position(p, position);
    return at.n * p.x_stride[0] + at.d * p.x_stride[2] + at.h * p.x_stride[3] + at.w * p.x_stride[4];
}

// Where tap (0, 0, 0) of a position lands, were y unbounded.
static __device__ __forceinline__ int64_t nonoverlap_y_offset(const NonoverlapProblem &p, int position)
{
    NonoverlapPosition at = nonoverlap_position(p, position);
    return at.n * p.y_stride[0] + (int64_t)(at.d * p.stride[0] - p.padding[0]) * p.y_stride[2] +
           (int64_t)(at.h * p.stride[1] - p.padding[1]) * p.y_stride[3] +
           (int64_t)(at.w * p.stride[2] - p.padding[2]) * p.y_stride[4];
}

// ---- Producers ----

// A chunk of a tile, and where it goes: its stage and the tile's slot among those in flight. Parity is that of the
// stage's turn. Producers and consumers walk over the same sequence.
struct NonoverlapItem { int slice, tile, chunk, stage, parity, slot; };

static __device__ __forceinline__ NonoverlapItem nonoverlap_first(const NonoverlapProblem &p)
{
    int lanes = min(p.slices, (int)gridDim.x);
    return {(int)blockIdx.x % lanes, (int)blockIdx.x / lanes, 0, 0, 0, 0};
}

static __device__ __forceinline__ bool nonoverlap_exists(const NonoverlapProblem &p, const NonoverlapItem &i)
{
    return i.slice < p.slices;
}

static __device__ __forceinline__ void nonoverlap_next(const NonoverlapProblem &p, NonoverlapItem &i)
{
    if (++i.stage == p.stages) { i.stage = 0;  i.parity ^= 1; }
    if (++i.chunk < p.chunks) return;
    i.chunk = 0;
    if (++i.slot == p.stages + 1) i.slot = 0;
    i.tile += p.blocks_of_slice;
    if (i.tile < p.tiles) return;
    i.tile = (int)blockIdx.x / min(p.slices, (int)gridDim.x);
    i.slice += (int)gridDim.x;      // more slices than blocks: then blocks_of_slice is 1
}

template <class T> __device__ __forceinline__ uint32_t nonoverlap_bits(const T *at)
{
    return sizeof(T) == 4 ? __ldg((const unsigned *)at) : (uint32_t)__ldg((const unsigned short *)at);
}

// Asks for the item's elements. v[8i + j] is channel j of octet i, but for NONOVERLAP_POSITIONS: v[4j + i], or of 16
// bits v[2j + i / 2], and NONOVERLAP_CHANNELS of 16 bits: v[8i + j / 2].
template <class T, class Tile, int Loads>
__device__ __forceinline__ void nonoverlap_load(const NonoverlapProblem &p, const NonoverlapItem &item, int warp,
                                                uint32_t (&v)[32])
{
    int lane = threadIdx.x % 32, first = item.chunk * NONOVERLAP_CHUNK;
    int position = item.tile * Tile::Positions + warp % Tile::Groups * NONOVERLAP_GROUP +
                   (Loads == NONOVERLAP_POSITIONS ? lane % 4 * 4 : lane % 16);
    bool exists = position < p.positions;
    int64_t offset = exists ? nonoverlap_x_offset(p, position) : -1;
    const T *x = (const T *)p.x;
    if (p.groups > 1) x += (int64_t)(item.slice / p.slices_of_group) * p.in_group * p.x_stride[1];
    if (Loads == NONOVERLAP_CHANNELS) {
        int k = first + lane % 8 * 8;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t at = __shfl_sync(0xffffffffu, offset, lane / 8 + 4 * i);
            const uint4 *from = (const uint4 *)(x + at + k);
            uint4 a = make_uint4(0, 0, 0, 0), b = a;
            if (at >= 0 && k < p.in_group) a = __ldg(from);
            if (sizeof(T) == 4 && at >= 0 && k + 4 < p.in_group) b = __ldg(from + 1);
            v[8 * i] = a.x;  v[8 * i + 1] = a.y;  v[8 * i + 2] = a.z;  v[8 * i + 3] = a.w;
            v[8 * i + 4] = b.x;  v[8 * i + 5] = b.y;  v[8 * i + 6] = b.z;  v[8 * i + 7] = b.w;
        }
    } else if (Loads == NONOVERLAP_POSITIONS) {
        int k = first + lane / 4 * 8, here = exists ? p.in_group - k : 0;
        const T *from = x + offset + k * p.x_stride[1];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (sizeof(T) == 4) {
                uint4 a = make_uint4(0, 0, 0, 0);
                if (j < here) a = __ldg((const uint4 *)from);
                v[4 * j] = a.x;  v[4 * j + 1] = a.y;  v[4 * j + 2] = a.z;  v[4 * j + 3] = a.w;
            } else {
                uint2 a = make_uint2(0, 0);
                if (j < here) a = __ldg((const uint2 *)from);
                v[2 * j] = a.x;  v[2 * j + 1] = a.y;
            }
            from += p.x_stride[1];
        }
    } else {
        int k = first + lane / 16 * 32, here = exists ? p.in_group - k : 0;
        const T *from = x + offset + k * p.x_stride[1];
#pragma unroll
        for (int i = 0; i < 32; i++) {
            v[i] = i < here ? nonoverlap_bits(from) : 0;
            from += p.x_stride[1];
        }
    }
}

template <int Loads> __device__ __forceinline__ uint32_t nonoverlap_element(const uint32_t (&v)[32], int i, int j)
{
    return v[Loads == NONOVERLAP_POSITIONS ? 4 * j + i : 8 * i + j];
}

// Octet i, brought to halves, into the stage: 16 bytes of each part.
template <class Mode, int Loads>
__device__ __forceinline__ void nonoverlap_put_octet(unsigned char *to, int plane, const uint32_t (&v)[32], int i,
                                                     float factor)
{
    uint32_t high[4], low[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (Mode::Scaled) {
            float a = __uint_as_float(nonoverlap_element<Loads>(v, i, 2 * j));
            float b = __uint_as_float(nonoverlap_element<Loads>(v, i, 2 * j + 1));
            if (Mode::Parts == 2) split_scaled_pair(a, b, factor, high[j], low[j]);
            else high[j] = round_scaled_pair(a, b, factor);
        } else if (Loads == NONOVERLAP_CHANNELS) high[j] = v[8 * i + j];
        else if (Loads == NONOVERLAP_SINGLY) high[j] = v[8 * i + 2 * j] | v[8 * i + 2 * j + 1] << 16;
        else high[j] = __byte_perm(v[4 * j + i / 2], v[4 * j + 2 + i / 2], i % 2 ? 0x7632 : 0x5410);
    }
    *(uint4 *)to = make_uint4(high[0], high[1], high[2], high[3]);
    if (Mode::Parts == 2) *(uint4 *)(to + plane) = make_uint4(low[0], low[1], low[2], low[3]);
}

// Where the item's positions land in y, and whether their stores need no test.
template <class Tile>
__device__ __forceinline__ void nonoverlap_locate(const NonoverlapProblem &p, unsigned char *info,
                                                  const NonoverlapItem &item, int begin)
{
    int lane = threadIdx.x % 32, position = item.tile * Tile::Positions + begin + lane % 16;
    int64_t base = position < p.positions ? nonoverlap_y_offset(p, position) : INT64_MIN;
    int64_t next = __shfl_down_sync(0xffffffffu, base, 1);
    bool odd = lane % 2 == 1;
    bool regular = base != INT64_MIN && (p.quads == 2 ? odd || (base % 4 == 0 && next == base + 2) :
                                         p.quads == 1 ? odd || (base % 2 == 0 && next == base + 1) : p.quads > 0);
    regular = __all_sync(0xffffffffu, regular);
    if (lane < 16) ((int64_t *)info)[begin + lane] = base;
    if (lane == 0) ((int *)(info + Tile::Positions * (8 + 4 * Tile::Skip)))[begin / 16] = regular;
}

template <class Mode, class Tile, int Loads>
__device__ __forceinline__ void nonoverlap_put(const NonoverlapProblem &p, const NonoverlapShared<Mode, Tile> &layout,
                                               unsigned char *shared, const NonoverlapItem &item, int warp,
                                               const uint32_t (&v)[32])
{
    typedef NonoverlapShared<Mode, Tile> Shared;
    int lane = threadIdx.x % 32, begin = warp % Tile::Groups * NONOVERLAP_GROUP;
    unsigned char *stage = shared + item.stage * Shared::Stage;
    unsigned char *info = shared + layout.info + item.slot * Shared::Info;
    float *scales = (float *)(stage + Shared::Plane * Mode::Parts);
    const int turn = item.chunk % Tile::Skip;       // a producer sees every Skip-th chunk
    uint32_t *flags = (uint32_t *)(info + Tile::Positions * 8) + turn * Tile::Positions;
    float factor[4] = {1, 1, 1, 1};
    if (item.chunk == 0) nonoverlap_locate<Tile>(p, info, item, begin);
    if (Mode::Scaled) {
        Magnitudes range[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                range[Loads == NONOVERLAP_SINGLY ? 0 : i].add(nonoverlap_element<Loads>(v, i, j));
        bool wide = false;
#pragma unroll
        for (int i = 0; i < (Loads == NONOVERLAP_SINGLY ? 1 : 4); i++) {
            if (Loads == NONOVERLAP_CHANNELS) { range[i].exchange(1);  range[i].exchange(2);  range[i].exchange(4); }
            if (Loads == NONOVERLAP_POSITIONS) { range[i].exchange(4);  range[i].exchange(8); }
            if (Loads != NONOVERLAP_CHANNELS) range[i].exchange(16);
            HalfScale scale(range[i], p.keep);
            int position = begin + (Loads == NONOVERLAP_CHANNELS ? lane / 8 + 4 * i :
                                    Loads == NONOVERLAP_POSITIONS ? lane % 4 * 4 + i : lane % 16);
            bool mine = Loads == NONOVERLAP_CHANNELS ? lane % 8 == 0 : lane < (Loads == NONOVERLAP_POSITIONS ? 4 : 16);
            factor[i] = scale.factor;
            wide = wide || scale.wide;
            if (mine) {
                scales[position] = scale.inverse;
                flags[position] = (item.chunk >= Tile::Skip ? flags[position] : 0) | (uint32_t)scale.wide;
            }
        }
        wide = __any_sync(0xffffffffu, wide);
        int *wide_group = (int *)(info + Shared::Regular) + (1 + turn) * (Tile::Positions / 16) + begin / 16;
        if (lane == 0) *wide_group = (item.chunk >= Tile::Skip && *wide_group) || wide;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int octet = Loads == NONOVERLAP_CHANNELS ? lane % 8 :
                    Loads == NONOVERLAP_POSITIONS ? lane / 4 : lane / 16 * 4 + i;
        int position = begin + (Loads == NONOVERLAP_CHANNELS ? lane / 8 + 4 * i :
                                Loads == NONOVERLAP_POSITIONS ? lane % 4 * 4 + i : lane % 16);
        nonoverlap_put_octet<Mode, Loads>(stage + octet * Shared::Pitch + position * 16, Shared::Plane, v, i,
                                          factor[Loads == NONOVERLAP_SINGLY ? 0 : i]);
    }
}

template <class Mode, class Tile, int Loads>
__device__ __forceinline__ void nonoverlap_produce(const NonoverlapProblem &p,
                                                   const NonoverlapShared<Mode, Tile> &layout,
                                                   unsigned char *shared, uint32_t barriers, const NonoverlapItem &item,
                                                   int warp, const uint32_t (&v)[32])
{
    mbarrier_wait(barriers + 16 * item.stage + 8, (uint32_t)item.parity ^ 1);       // the first turn finds it free
    nonoverlap_put<Mode, Tile, Loads>(p, layout, shared, item, warp, v);
    __syncwarp();
    mbarrier_arrive(barriers + 16 * item.stage);
}

// Two items are in flight, but one where elements are read one by one, which is slow anyhow.
template <class Mode, class Tile, int Loads>
__device__ __forceinline__ void nonoverlap_producer(const NonoverlapProblem &p,
                                                    const NonoverlapShared<Mode, Tile> &layout, unsigned char *shared,
                                                    uint32_t barriers, int warp)
{
    typedef typename Mode::T T;
    NonoverlapItem item = nonoverlap_first(p), next;
    uint32_t a[32], b[32];
    for (int i = 0; i < warp / Tile::Groups; i++) nonoverlap_next(p, item);
    if (nonoverlap_exists(p, item)) nonoverlap_load<T, Tile, Loads>(p, item, warp, a);
    while (nonoverlap_exists(p, item)) {
        next = item;
        for (int i = 0; i < Tile::Skip; i++) nonoverlap_next(p, next);
        if (Loads == NONOVERLAP_SINGLY) {
            nonoverlap_produce<Mode, Tile, Loads>(p, layout, shared, barriers, item, warp, a);
            item = next;
            if (nonoverlap_exists(p, item)) nonoverlap_load<T, Tile, Loads>(p, item, warp, a);
            continue;
        }
        if (nonoverlap_exists(p, next)) nonoverlap_load<T, Tile, Loads>(p, next, warp, b);
        nonoverlap_produce<Mode, Tile, Loads>(p, layout, shared, barriers, item, warp, a);
        if (!nonoverlap_exists(p, next)) break;
        item = next;
        for (int i = 0; i < Tile::Skip; i++) nonoverlap_next(p, item);
        if (nonoverlap_exists(p, item)) nonoverlap_load<T, Tile, Loads>(p, item, warp, a);
        nonoverlap_produce<Mode, Tile, Loads>(p, layout, shared, barriers, next, warp, b);
    }
}

// ---- Consumers: w ----

// Byte of lane (row r of 8, k pair) in a fragment of 512 bytes: neither reads of 16 bytes nor writes along r conflict.
static __device__ __forceinline__ int nonoverlap_slot(int r, int pair) { return (pair * 8 + (r + 2 * pair) % 8) * 16; }

// One row of w, 64 channels, to its fragments; scale and flag beside it.
template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_pack_row(const NonoverlapProblem &p, unsigned char *weights, float *scale_of,
                                                    int *wide_row, int *any_wide, const typename Mode::T *w, int row,
                                                    int chunk, int column)
{
    uint32_t v[64];
    int k16 = (p.in_group + 15) / 16, first = chunk * NONOVERLAP_CHUNK;
    const typename Mode::T *from = w + (int64_t)first * p.columns + column;
#pragma unroll
    for (int i = 0; i < 64; i++)
        v[i] = column >= 0 && first + i < p.in_group ? nonoverlap_bits(from + (int64_t)i * p.columns) : 0;
    float factor = 1;
    if (Mode::Scaled) {
        Magnitudes range;
#pragma unroll
        for (int i = 0; i < 64; i++) range.add(v[i]);
        HalfScale scale(range, p.keep);
        factor = scale.factor;
        *scale_of = scale.inverse;
        if (scale.wide) { atomicOr(wide_row, 1);  atomicOr(any_wide, 1); }
    }
    int r = row % 16;       // row of the fragment; channels last wants four neighbours in one thread
    if (ChannelsLast) r = (r / 2 % 2) * 8 + r / 4 * 2 + r % 2;
    unsigned char *to = weights + (row / 16 * k16 + chunk * 4) * 512 * Mode::Parts + r / 8 * (ChannelsLast ? 8 : 4);
#pragma unroll
    for (int kc = 0; kc < 4; kc++) {
        if (chunk * 4 + kc >= k16) break;
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            unsigned char *at = to + kc * 512 * Mode::Parts + nonoverlap_slot(r % 8, pair);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t a = v[kc * 16 + half * 8 + pair * 2], b = v[kc * 16 + half * 8 + pair * 2 + 1], h, l = 0;
                if (!Mode::Scaled) h = a | b << 16;
                else if (Mode::Parts == 2) split_scaled_pair(__uint_as_float(a), __uint_as_float(b), factor, h, l);
                else h = round_scaled_pair(__uint_as_float(a), __uint_as_float(b), factor);
                int to_register = half * (ChannelsLast ? 4 : 8);
                *(uint32_t *)(at + to_register) = h;
                if (Mode::Parts == 2) *(uint32_t *)(at + 512 + to_register) = l;
            }
        }
    }
}

template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_pack_slice(const NonoverlapProblem &p,
                                                      const NonoverlapShared<Mode, Tile> &layout, unsigned char *shared,
                                                      int slice, int thread)
{
    typedef typename Mode::T T;
    int g = slice / p.slices_of_group, begin = (slice - g * p.slices_of_group) * Tile::Rows;
    const T *w = (const T *)p.w + (int64_t)g * p.in_group * p.columns;
    int64_t *offsets = (int64_t *)(shared + layout.table);
    float *bias = (float *)(offsets + Tile::Rows);
    int *wide_rows = (int *)(bias + Tile::Rows);
    int *any_wide = (int *)(shared + layout.barriers + 16 * NONOVERLAP_MOST_STAGES);
    float *scales = (float *)(shared + layout.scales);
    for (int row = thread; row < Tile::Rows; row += 32 * Tile::Consumers) wide_rows[row] = 0;
    if (thread == 0) *any_wide = 0;
    barrier_of(1, 32 * Tile::Consumers);
    for (int unit = thread; unit < Tile::Rows * p.chunks; unit += 32 * Tile::Consumers) {
        int row = unit % Tile::Rows, chunk = unit / Tile::Rows;
        NonoverlapRow r = nonoverlap_row<ChannelsLast>(p, begin + row);
        nonoverlap_pack_row<Mode, Tile, ChannelsLast>(p, shared + layout.weights, scales + unit, wide_rows + row,
                                                      any_wide, w, row, chunk, r.column);
        if (chunk > 0) continue;
        int64_t oc = (int64_t)g * p.out_group + r.oc;
        offsets[row] = r.column < 0 ? INT64_MIN : oc * p.y_stride[1] + r.kd * p.y_stride[2] + r.kh * p.y_stride[3] +
                                                  r.kw * p.y_stride[4];
        bias[row] = r.column >= 0 && p.bias ? Number<T>::widen(((const T *)p.bias)[oc]) : 0;
    }
}

// ---- Consumers: outputs one by one ----

// The output of a row of the group's w at a position; it may lie outside y.
template <bool ChannelsLast>
__device__ __forceinline__ Where nonoverlap_output(const NonoverlapProblem &p, int position, int g, int row)
{
    NonoverlapPosition at = nonoverlap_position(p, position);
    NonoverlapRow r = nonoverlap_row<ChannelsLast>(p, row);
    return {at.n, (int64_t)g * p.out_group + r.oc, at.d * p.stride[0] - p.padding[0] + r.kd,
            at.h * p.stride[1] - p.padding[1] + r.kh, at.w * p.stride[2] - p.padding[2] + r.kw, 1, 1};
}

template <bool ChannelsLast>
__device__ __forceinline__ bool nonoverlap_inside(const NonoverlapProblem &p, int position, int row)
{
    Where o = nonoverlap_output<ChannelsLast>(p, position, 0, row);
    return o.od >= 0 && o.od < p.out[0] && o.oh >= 0 && o.oh < p.out[1] && o.ow >= 0 && o.ow < p.out[2];
}

// The rounding and the store of an output that is computed alone.
template <class T>
__device__ __forceinline__ void nonoverlap_put_one(const NonoverlapProblem &p, int64_t offset,
                                                   typename Number<T>::Accumulator v)
{
    if (sizeof(T) == 2 && p.wide) ((typename Number<T>::Accumulator *)p.y)[offset] = v;
    else ((T *)p.y)[offset] = Number<T>::round(v);
}

// Stores one value with every test: position is of the tile, row of the slice that begins at slice_row.
template <class T, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_store_tested(const NonoverlapProblem &p, const unsigned char *table,
                                                        int tile, int slice_row, const int64_t *bases, int position,
                                                        int row, float v)
{
    int64_t base = bases[position], offset = ((const int64_t *)table)[row];
    if (base == INT64_MIN || offset == INT64_MIN) return;
    if (p.cropped && !nonoverlap_inside<ChannelsLast>(p, tile * Tile::Positions + position, slice_row + row)) return;
    nonoverlap_put_one<T>(p, base + offset, v);
}

// A residual's element of an output; 0 where there is none. offset: in y.
template <class T, bool ChannelsLast>
__device__ __noinline__ typename Number<T>::Accumulator
nonoverlap_residual(const NonoverlapProblem &p, const Entry<typename Number<T>::Accumulator> &e, int64_t offset,
                    int position, int g, int row)
{
    if (p.cropped && !nonoverlap_inside<ChannelsLast>(p, position, row)) return 0;
    if (!e.like_y) offset = offset_of(nonoverlap_output<ChannelsLast>(p, position, g, row), e.stride);
    return Number<T>::widen(((const T *)e.residual)[offset]);
}

template <class Tile>
__device__ __forceinline__ bool nonoverlap_wide_position(const NonoverlapProblem &p, const int64_t *bases, int position)
{
    const uint32_t *flags = (const uint32_t *)(bases + Tile::Positions) + position;
    bool wide = flags[0] != 0;
    if (Tile::Skip > 1 && p.chunks > 1) wide = wide || flags[Tile::Positions] != 0;
    return wide;
}

// A position's outputs in the rows of a warp, by f32 FMA in the order of the channels; a lane takes a row.
template <class Tile, bool ChannelsLast>
__device__ __noinline__ void nonoverlap_exact(const NonoverlapProblem &p, const List<float> &list,
                                              const unsigned char *table, int tile, int slice, const int64_t *bases,
                                              int position, int row_begin)
{
    int g = slice / p.slices_of_group, slice_row = (slice - g * p.slices_of_group) * Tile::Rows;
    const float *bias = (const float *)(table + Tile::Rows * 8);
    const int *wide_row = (const int *)(table + Tile::Rows * 12);
    bool wide_position = nonoverlap_wide_position<Tile>(p, bases, position);
    const float *x = (const float *)p.x + (int64_t)g * p.in_group * p.x_stride[1] +
                     nonoverlap_x_offset(p, tile * Tile::Positions + position);
    for (int row = row_begin + (int)(threadIdx.x % 32); row < row_begin + 16 * Tile::RowTiles; row += 32) {
        int column = nonoverlap_row<ChannelsLast>(p, slice_row + row).column;
        if (column < 0 || !(wide_row[row] || wide_position)) continue;
        const float *w = (const float *)p.w + (int64_t)g * p.in_group * p.columns + column;
        float v = 0;
#pragma unroll 16
        for (int ic = 0; ic < p.in_group; ic++)
            v = fmaf(__ldg(x + ic * p.x_stride[1]), __ldg(w + (int64_t)ic * p.columns), v);
        v += bias[row];
        if (list.count > 0) {
            const int at = tile * Tile::Positions + position;
            if (p.cropped && !nonoverlap_inside<ChannelsLast>(p, at, slice_row + row)) continue;
            list_in_memory(list, &v, 1, 1, nonoverlap_output<ChannelsLast>(p, at, g, slice_row + row));
        }
        nonoverlap_store_tested<float, Tile, ChannelsLast>(p, table, tile, slice_row, bases, position, row, v);
    }
}

// ---- Consumers: products ----

template <class Mode, class Tile, bool ChannelsLast, bool Lists> struct NonoverlapWarp {
    typedef typename Mode::T T;
    typedef NonoverlapShared<Mode, Tile> Shared;
    enum { RowTiles = Tile::RowTiles, Blocks = Tile::Blocks };

    const NonoverlapProblem &p;
    const List<T> &list;
    const Shared &layout;
    unsigned char *shared;
    int lane, row_begin, position_begin;        // of this warp in the tile
    float sum[RowTiles][Blocks][8];             // where it is promoted, a chunk's; else all
    float total[Mode::Promoted ? RowTiles : 1][Mode::Promoted ? Blocks : 1][8];

    __device__ __forceinline__ NonoverlapWarp(const NonoverlapProblem &problem, const List<T> &what_follows,
                                              const Shared &l, unsigned char *s, int warp)
        : p(problem), list(what_follows), layout(l), shared(s), lane(threadIdx.x % 32),
          row_begin(warp / Tile::PositionWarps * 16 * RowTiles),
          position_begin(warp % Tile::PositionWarps * 16 * Blocks)
    {
    }

    // Whether the slice's rows end before this warp's begin.
    __device__ __forceinline__ bool has_no_rows() const
    {
        const int64_t *offsets = (const int64_t *)(shared + layout.table) + row_begin;
        bool none = true;
        for (int row = lane; row < 16 * RowTiles; row += 32) none = none && offsets[row] == INT64_MIN;
        return __all_sync(0xffffffffu, none);
    }

    template <class Registers> static __device__ __forceinline__ void clear(Registers &r)
    {
        float *f = &r[0][0][0];
#pragma unroll
        for (int i = 0; i < (int)(sizeof r / sizeof *f); i++) f[i] = 0;
    }

    // Registers come in the order in which the instruction wants them: {k low, k high} of eight rows where they are B.
    static __device__ __forceinline__ void multiply(float (&c)[8], const uint4 &w, const uint32_t (&x)[4])
    {
        if (ChannelsLast) {
            Mode::Mma::add(c, x[0], x[1], x[2], x[3], w.x, w.y);
            Mode::Mma::add(c + 4, x[0], x[1], x[2], x[3], w.z, w.w);
        } else {
            Mode::Mma::add(c, w.x, w.y, w.z, w.w, x[0], x[1]);
            Mode::Mma::add(c + 4, w.x, w.y, w.z, w.w, x[2], x[3]);
        }
    }

    __device__ __forceinline__ void load_rows(uint4 (&high)[RowTiles], uint4 (&low)[RowTiles],
                                              const unsigned char *w) const
    {
        int k16 = (p.in_group + 15) / 16;
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
            high[m] = *(const uint4 *)(w + m * k16 * 512 * Mode::Parts);
            if (Mode::Parts == 2) low[m] = *(const uint4 *)(w + m * k16 * 512 * Mode::Parts + 512);
        }
    }

    static __device__ __forceinline__ void load_positions(uint32_t (&high)[4], uint32_t (&low)[4], uint32_t x)
    {
        load_matrices(high, x);
        if (Mode::Parts == 2) load_matrices(low, x + Shared::Plane);
    }

    // Adds 16*Count channels. The next fragments are asked for before these are multiplied.
    template <int Count> __device__ __forceinline__ void add_channels(const unsigned char *w, uint32_t x)
    {
        enum { Ahead = !Mode::Promoted };
        uint4 high[2][RowTiles], low[2][RowTiles];
        uint32_t x_high[2][4], x_low[2][4];
        load_rows(high[0], low[0], w);
        load_positions(x_high[0], x_low[0], x);
#pragma unroll
        for (int i = 0; i < Count * Blocks; i++) {
            const int kc = i / Blocks, b = i % Blocks, next = i + 1, rows = Ahead ? kc % 2 : 0;
            if (next < Count * Blocks)
                load_positions(x_high[next % 2], x_low[next % 2],
                               x + next / Blocks * 2 * Shared::Pitch + next % Blocks * 256);
            if (Ahead && b == 0 && kc + 1 < Count)
                load_rows(high[(kc + 1) % 2], low[(kc + 1) % 2], w + (kc + 1) * 512 * Mode::Parts);
            if (!Ahead && b == 0 && kc > 0) load_rows(high[0], low[0], w + kc * 512 * Mode::Parts);
            if (Mode::Parts == 2) {
#pragma unroll
                for (int m = 0; m < RowTiles; m++) multiply(sum[m][b], high[rows][m], x_low[i % 2]);
#pragma unroll
                for (int m = 0; m < RowTiles; m++) multiply(sum[m][b], low[rows][m], x_high[i % 2]);
            }
#pragma unroll
            for (int m = 0; m < RowTiles; m++) multiply(sum[m][b], high[rows][m], x_high[i % 2]);
        }
    }

    // Undoes the scales of a chunk and adds it to the totals.
    __device__ __forceinline__ void promote(const unsigned char *stage, int chunk)
    {
        const float *x = (const float *)(stage + Shared::Plane * Mode::Parts) + position_begin;
        const float *w = (const float *)(shared + layout.scales) + chunk * Tile::Rows + row_begin;
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
            float4 rows;        // of sum[0], [1] / [2], [3] or of the four neighbours
            if (ChannelsLast) rows = *(const float4 *)(w + m * 16 + lane % 4 * 4);
            else { rows.x = w[m * 16 + lane / 4];  rows.y = w[m * 16 + 8 + lane / 4]; }
#pragma unroll
            for (int b = 0; b < Blocks; b++) {
                if (ChannelsLast) {
                    float first = x[b * 16 + lane / 4], second = x[b * 16 + 8 + lane / 4];
                    undo(m, b, 0, first * rows.x);  undo(m, b, 1, first * rows.y);
                    undo(m, b, 4, first * rows.z);  undo(m, b, 5, first * rows.w);
                    undo(m, b, 2, second * rows.x);  undo(m, b, 3, second * rows.y);
                    undo(m, b, 6, second * rows.z);  undo(m, b, 7, second * rows.w);
                } else {
#pragma unroll
                    for (int t = 0; t < 2; t++) {
                        float2 pair = *(const float2 *)(x + b * 16 + t * 8 + lane % 4 * 2);
                        undo(m, b, 4 * t, pair.x * rows.x);  undo(m, b, 4 * t + 1, pair.y * rows.x);
                        undo(m, b, 4 * t + 2, pair.x * rows.y);  undo(m, b, 4 * t + 3, pair.y * rows.y);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void undo(int m, int b, int i, float factor)
    {
        if constexpr (Mode::Promoted) total[m][b][i] = fmaf(sum[m][b][i], factor, total[m][b][i]);
        else sum[m][b][i] *= factor;
    }

    // The finished sums.
    __device__ __forceinline__ float (&values())[RowTiles][Blocks][8]
    {
        if constexpr (Mode::Promoted) return total;
        else return sum;
    }

    __device__ __forceinline__ float value(int m, int b, int i) const
    {
        if constexpr (Mode::Promoted) return total[m][b][i];
        else return sum[m][b][i];
    }

    // Row and position of value i of a fragment.
    __device__ __forceinline__ int row_of(int m, int i) const
    {
        return row_begin + m * 16 + (ChannelsLast ? lane % 4 * 4 + i / 4 * 2 + i % 2 : lane / 4 + i / 2 % 2 * 8);
    }
    __device__ __forceinline__ int position_of(int b, int i) const
    {
        return position_begin + b * 16 + (ChannelsLast ? lane / 4 + i / 2 % 2 * 8 : lane % 4 * 2 + i % 2 + i / 4 * 8);
    }

    // Sums become values: the bias, the list.
    __device__ __forceinline__ void apply(int tile, int slice, const int64_t *bases)
    {
        const int64_t *offsets = (const int64_t *)(shared + layout.table);
        const float *bias = (const float *)(offsets + Tile::Rows);
        const int g = slice / p.slices_of_group, slice_row = (slice - g * p.slices_of_group) * Tile::Rows;
        float (&all)[RowTiles * Blocks][8] = reinterpret_cast<float (&)[RowTiles * Blocks][8]>(values());
#pragma unroll
        for (int i = 0; i < RowTiles * Blocks * 8; i++) all[i / 8][i % 8] += bias[row_of(i / 8 / Blocks, i % 8)];
        if (list.count == 0) return;
        auto channel = [&](int i) {
            const int row = slice_row + row_of(i / 8 / Blocks, i % 8);
            return min(g * p.out_group + nonoverlap_row<ChannelsLast>(p, row).oc, p.groups * p.out_group - 1);
        };
        apply_in_registers(list, 0, all, channel, [&](const Entry<float> &e, int fragment, float (&r)[8]) {
            const int m = fragment / Blocks, b = fragment % Blocks;
#pragma unroll 1
            for (int i = 0; i < 8; i++) {
                const int64_t base = bases[position_of(b, i)], offset = offsets[row_of(m, i)];
                float v = 0;
                if (base != INT64_MIN && offset != INT64_MIN)
                    v = nonoverlap_residual<T, ChannelsLast>(p, e, base + offset,
                                                             tile * Tile::Positions + position_of(b, i), g,
                                                             slice_row + row_of(m, i));
#pragma unroll
                for (int j = 0; j < 8; j++) if (j == i) r[j] = v;
            }
        });
    }

    // One chunk of one tile, from a stage that is full.
    __device__ __forceinline__ void chunk(int chunk, int stage_index)
    {
        int k16 = (p.in_group + 15) / 16, here = min(4, k16 - chunk * 4);
        unsigned char *stage = shared + stage_index * Shared::Stage;
        const unsigned char *w = shared + layout.weights + (row_begin / 16 * k16 + chunk * 4) * 512 * Mode::Parts +
                                 nonoverlap_slot(lane / 4, lane % 4);
        int position = ChannelsLast ? lane % 16 : lane % 8 + lane / 16 * 8;
        int octet = ChannelsLast ? lane / 16 : lane / 8 % 2;
        uint32_t x = shared_address(stage) + (position_begin + position) * 16 + octet * Shared::Pitch;
        if (Mode::Promoted) clear(sum);
        if (here == 4) add_channels<4>(w, x);
        else if (here == 3) add_channels<3>(w, x);
        else
#pragma unroll 1
            for (int kc = 0; kc < here; kc++) add_channels<1>(w + kc * 512 * Mode::Parts, x + kc * 2 * Shared::Pitch);
        if (Mode::Scaled) promote(stage, chunk);
    }

    // ---- stores ----

    // Streaming stores, where `here`; the predicate saves a branch.
    template <class Out> static __device__ __forceinline__ void store_two(Out *at, float a, float b, bool here)
    {
        alignas(8) Out v[2] = {Number<Out>::round(a), Number<Out>::round(b)};
        if (sizeof(Out) == 4)
            asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.cs.v2.b32 [%0], {%1, %2}; }"
                         :: "l"(at), "r"(((uint32_t *)v)[0]), "r"(((uint32_t *)v)[sizeof(Out) / 4]),
                            "r"((uint32_t)here));
        else asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p st.global.cs.b32 [%0], %1; }"
                          :: "l"(at), "r"(*(uint32_t *)v), "r"((uint32_t)here));
    }

    template <class Out>
    static __device__ __forceinline__ void store_four(Out *at, float a, float b, float c, float d, bool here)
    {
        alignas(16) Out v[4] = {Number<Out>::round(a), Number<Out>::round(b), Number<Out>::round(c),
                                Number<Out>::round(d)};
        const uint32_t *bits = (const uint32_t *)v;
        if (sizeof(Out) == 4)
            asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.cs.v4.b32 [%0], {%1, %2, %3, %4}; }"
                         :: "l"(at), "r"(bits[0]), "r"(bits[1]), "r"(bits[sizeof(Out) / 2]),
                            "r"(bits[sizeof(Out) / 4 * 3]), "r"((uint32_t)here));
        else asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.cs.v2.b32 [%0], {%1, %2}; }"
                          :: "l"(at), "r"(bits[0]), "r"(bits[1]), "r"((uint32_t)here));
    }

    // A block whose outputs are cropped, lie unaligned or are repaired: by way of shared memory, every value tested.
    // What is repaired is not stored before, since y may be a residual. Lists: the bias is added.
    __device__ __forceinline__ void store_block_tested(int tile, int slice_row, const int64_t *bases, int b)
    {
        [[maybe_unused]] const int *wide_row = (const int *)(shared + layout.table + Tile::Rows * 12);
        float *scratch = (float *)(shared + layout.scratch) + (threadIdx.x / 32) * (Shared::Scratch / 4);
        const float *bias = (const float *)(shared + layout.table + Tile::Rows * 8);
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 8; i++) {
                int row = row_of(0, i) - row_begin, position = position_of(b, i) - position_begin - b * 16;
                scratch[row * 17 + position] = value(m, b, i);
            }
            __syncwarp();
#pragma unroll 1
            for (int i = lane; i < 256; i += 32) {
                int row = ChannelsLast ? i % 16 : i / 16, position = ChannelsLast ? i / 16 : i % 16;
                float v = scratch[row * 17 + position] + (Lists ? 0 : bias[row_begin + m * 16 + row]);
                if constexpr (Mode::Scaled)
                    if (wide_row[row_begin + m * 16 + row] ||
                        nonoverlap_wide_position<Tile>(p, bases, position_begin + b * 16 + position)) continue;
                nonoverlap_store_tested<T, Tile, ChannelsLast>(p, shared + layout.table, tile, slice_row, bases,
                                                               position_begin + b * 16 + position,
                                                               row_begin + m * 16 + row, v);
            }
        }
    }

    // Channels last: four channels of a position. Lists: the bias is added.
    template <class Out> __device__ __forceinline__ void store_channels(const int64_t *bases) const
    {
        const int64_t *offsets = (const int64_t *)(shared + layout.table) + row_begin + lane % 4 * 4;
        const float *bias = (const float *)(shared + layout.table + Tile::Rows * 8) + row_begin + lane % 4 * 4;
        Out *y[2 * Blocks];
#pragma unroll
        for (int b = 0; b < 2 * Blocks; b++) y[b] = (Out *)p.y + bases[position_begin + b * 8 + lane / 4];
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
            int64_t offset = offsets[m * 16];
            float4 add = make_float4(0, 0, 0, 0);
            if (!Lists) add = *(const float4 *)(bias + m * 16);
#pragma unroll
            for (int b = 0; b < 2 * Blocks; b++) {
                const int i = b % 2 * 2;
                store_four(y[b] + offset, value(m, b / 2, i) + add.x, value(m, b / 2, i + 1) + add.y,
                           value(m, b / 2, i + 4) + add.z, value(m, b / 2, i + 5) + add.w, offset != INT64_MIN);
            }
        }
    }

    // Planes, kernel Quads along W and as large a stride: the outputs of two positions, neighbours in a row.
    template <int Quads, class Out>
    __device__ __forceinline__ void store_planes(const int64_t *bases) const
    {
        const int64_t *offsets = (const int64_t *)(shared + layout.table) + row_begin + lane / 4;
        const float *bias = (const float *)(shared + layout.table + Tile::Rows * 8) + row_begin + lane / 4;
        Out *y[2 * Blocks];
        int64_t next = Quads;       // where four taps make a position, the second may lie anywhere
#pragma unroll
        for (int b = 0; b < 2 * Blocks; b++) y[b] = (Out *)p.y + bases[position_begin + b * 8 + lane % 4 * 2];
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
            if (Quads == 4 && m % 2 == 1) continue;
            int64_t offset = offsets[m * 16], second = Quads == 1 ? offsets[m * 16 + 8] : 0;
            float add = Lists ? 0 : bias[m * 16], add_second = Quads == 1 && !Lists ? bias[m * 16 + 8] : 0;
            bool here = offset != INT64_MIN;
            const int pair = Quads == 4 && m + 1 < RowTiles ? m + 1 : m;
#pragma unroll
            for (int b = 0; b < 2 * Blocks; b++) {
                const int i = b % 2 * 4;
                Out *at = y[b] + offset;
                if (Quads == 2)
                    store_four(at, value(m, b / 2, i) + add, value(m, b / 2, i + 2) + add, value(m, b / 2, i + 1) + add,
                               value(m, b / 2, i + 3) + add, here);
                if (Quads == 1) {
                    store_two(at, value(m, b / 2, i) + add, value(m, b / 2, i + 1) + add, here);
                    store_two(y[b] + second, value(m, b / 2, i + 2) + add_second, value(m, b / 2, i + 3) + add_second,
                              second != INT64_MIN);
                }
                if (Quads == 4) {
                    const int64_t *two = bases + position_begin + b * 8 + lane % 4 * 2;
                    next = two[1] - two[0];
                    store_four(at, value(m, b / 2, i) + add, value(m, b / 2, i + 2) + add, value(pair, b / 2, i) + add,
                               value(pair, b / 2, i + 2) + add, here);
                    store_four(at + next, value(m, b / 2, i + 1) + add, value(m, b / 2, i + 3) + add,
                               value(pair, b / 2, i + 1) + add, value(pair, b / 2, i + 3) + add, here);
                }
            }
        }
    }

    template <class Out> __device__ __forceinline__ void store_regular(const int64_t *bases) const
    {
        if (ChannelsLast) store_channels<Out>(bases);
        else if (p.quads == 2) store_planes<2, Out>(bases);
        else if (p.quads == 4) store_planes<4, Out>(bases);
        else store_planes<1, Out>(bases);
    }

    // What halves cannot hold: the outputs of a wide row of w or of a wide position, again and exactly.
    __device__ __forceinline__ void repair(int tile, int slice, const int64_t *bases) const
    {
        bool all = *(const int *)(shared + layout.barriers + 16 * NONOVERLAP_MOST_STAGES) != 0;
        for (int begin = position_begin; begin < position_begin + 16 * Blocks; begin += 32) {
            bool mine = lane < 16 * Blocks && bases[begin + lane] != INT64_MIN &&
                        (all || nonoverlap_wide_position<Tile>(p, bases, begin + lane));
            uint32_t left = __ballot_sync(0xffffffffu, mine);
            for (; left; left &= left - 1)
                nonoverlap_exact<Tile, ChannelsLast>(p, list, shared + layout.table, tile, slice, bases,
                                                     begin + __ffs((int)left) - 1, row_begin);
        }
    }

    // Whether the flag is set for all, or for any, of the warp's groups of 16 positions.
    __device__ __forceinline__ bool all_of(const int *flags) const
    {
        bool all = true;
#pragma unroll
        for (int b = 0; b < Blocks; b++) all = all && flags[b];
        return all;
    }

    __device__ __forceinline__ bool any_of(const int *flags) const
    {
        bool any = false;
#pragma unroll
        for (int b = 0; b < Blocks; b++) any = any || flags[b];
        return any;
    }

    __device__ __forceinline__ void finish(int tile, int slice, int slot)
    {
        const int64_t *bases = (const int64_t *)(shared + layout.info + slot * Shared::Info);
        const int *regular = (const int *)((const unsigned char *)bases + Shared::Regular) + position_begin / 16;
        bool repairs = false;
        if constexpr (Mode::Scaled)
            repairs = any_of(regular + Tile::Positions / 16) ||
                      *(const int *)(shared + layout.barriers + 16 * NONOVERLAP_MOST_STAGES) ||
                      (Tile::Skip > 1 && p.chunks > 1 && any_of(regular + 2 * Tile::Positions / 16));
        if constexpr (Lists) apply(tile, slice, bases);
        if (!all_of(regular) || (Lists && repairs)) {
#pragma unroll
            for (int b = 0; b < Blocks; b++)
                store_block_tested(tile, slice % p.slices_of_group * Tile::Rows, bases, b);
        } else if (Lists && sizeof(T) == 2 && p.wide) store_regular<float>(bases);
        else store_regular<T>(bases);
        if constexpr (Mode::Scaled)
            if (repairs) {
                asm volatile("" ::: "memory");
                __syncwarp();
                repair(tile, slice, bases);
            }
    }
};

template <class Mode, class Tile, bool ChannelsLast, bool Lists>
__device__ __forceinline__ void nonoverlap_consumer(const NonoverlapProblem &p, const List<typename Mode::T> &list,
                                                    const NonoverlapShared<Mode, Tile> &layout, unsigned char *shared,
                                                    uint32_t barriers, int warp)
{
    NonoverlapWarp<Mode, Tile, ChannelsLast, Lists> me(p, list, layout, shared, warp);
    NonoverlapItem item = nonoverlap_first(p);
    while (nonoverlap_exists(p, item)) {
        int slice = item.slice;
        barrier_of(1, 32 * Tile::Consumers);
        nonoverlap_pack_slice<Mode, Tile, ChannelsLast>(p, layout, shared, slice, warp * 32 + me.lane);
        barrier_of(1, 32 * Tile::Consumers);
        bool idle = me.has_no_rows();
        while (item.slice == slice) {
            int tile = item.tile, slot = item.slot;
            if (Mode::Promoted) me.clear(me.total);
            else me.clear(me.sum);
            for (int chunk = 0; chunk < p.chunks; chunk++, nonoverlap_next(p, item)) {
                mbarrier_wait(barriers + 16 * item.stage, (uint32_t)item.parity);
                if (!idle) me.chunk(chunk, item.stage);
                mbarrier_arrive(barriers + 16 * item.stage + 8);
            }
            if (!idle) me.finish(tile, slice, slot);
        }
    }
}

// ---- Outputs that no tap reaches ----

static __device__ __forceinline__ bool nonoverlap_reached(const NonoverlapProblem &p, int axis, int o)
{
    int position = o + p.padding[axis];
    return position >= 0 && position / p.stride[axis] < p.in[axis] && position % p.stride[axis] < p.kernel[axis];
}

// A warp takes a row of outputs: along W, or along (W, channel) where channels lie side by side.
template <class T, bool ChannelsLast, bool Lists>
__device__ __forceinline__ void nonoverlap_fill(const NonoverlapProblem &p, const List<T> &list)
{
    int channels = p.groups * p.out_group, inner = ChannelsLast ? channels : 1, warps = (int)(blockDim.x / 32);
    int64_t rows = (int64_t)p.batch * p.out[0] * p.out[1] * (ChannelsLast ? 1 : channels);
    for (int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32; row < rows; row += (int64_t)gridDim.x * warps) {
        int oh = (int)(row % p.out[1]), od = (int)(row / p.out[1] % p.out[0]);
        int64_t rest = row / p.out[1] / p.out[0];
        int row_channel = ChannelsLast ? 0 : (int)(rest % channels);
        int64_t n = ChannelsLast ? rest : rest / channels;
        bool reached = nonoverlap_reached(p, 0, od) && nonoverlap_reached(p, 1, oh);
        auto fill = [&](int c, int ow) {
            const Where place = {n, c, od, oh, ow, 1, 1};
            typename Number<T>::Accumulator v = p.bias ? Number<T>::widen(((const T *)p.bias)[c]) : 0;
            if constexpr (Lists) list_in_memory(list, &v, 1, 1, place);
            nonoverlap_put_one<T>(p, offset_of(place, p.y_stride), v);
        };
        for (int ow = 0; ow < p.out[2]; ow++) {
            if (!ChannelsLast) {
                int mine = ow + (int)(threadIdx.x % 32);
                if (mine < p.out[2] && !(reached && nonoverlap_reached(p, 2, mine))) fill(row_channel, mine);
                ow += 31;
            } else if (!(reached && nonoverlap_reached(p, 2, ow)))
                for (int c = (int)(threadIdx.x % 32); c < inner; c += 32) fill(c, ow);
        }
    }
}

template <class Mode, class Tile>
__device__ __forceinline__ void nonoverlap_produce_all(const NonoverlapProblem &p,
                                                       const NonoverlapShared<Mode, Tile> &layout,
                                                       unsigned char *shared, uint32_t barriers, int warp)
{
    if (p.loads == NONOVERLAP_POSITIONS)
        nonoverlap_producer<Mode, Tile, NONOVERLAP_POSITIONS>(p, layout, shared, barriers, warp);
    else if (p.loads == NONOVERLAP_CHANNELS)
        nonoverlap_producer<Mode, Tile, NONOVERLAP_CHANNELS>(p, layout, shared, barriers, warp);
    else nonoverlap_producer<Mode, Tile, NONOVERLAP_SINGLY>(p, layout, shared, barriers, warp);
}

template <class Mode, class Tile, bool ChannelsLast, bool Lists>
__global__ void __launch_bounds__(Tile::Threads, 1)
nonoverlap_kernel(const __grid_constant__ NonoverlapProblem p, const __grid_constant__ List<typename Mode::T> list)
{
#if __CUDA_ARCH__ >= 800
    extern __shared__ __align__(128) unsigned char nonoverlap_memory[];
    unsigned char *shared = nonoverlap_memory;
    const NonoverlapShared<Mode, Tile> layout(p.in_group, p.stages);
    uint32_t barriers = shared_address(shared + layout.barriers);
    if (threadIdx.x == 0)
        for (int i = 0; i < p.stages; i++) {
            // Each lane arrives for itself: racecheck loses an order that goes through __syncwarp() to one lane.
            mbarrier_init(barriers + 16 * i, 32 * Tile::Groups);
            mbarrier_init(barriers + 16 * i + 8, 32 * Tile::Consumers);
        }
    __syncthreads();
    int warp = __shfl_sync(0xffffffffu, (int)(threadIdx.x / 32), 0);
    if (warp >= Tile::FirstProducer) {
        release_registers<Mode::Promoted ? 88 : 104>();        // of 128: what the consumers then take
        if (p.tiles > 0) nonoverlap_produce_all<Mode, Tile>(p, layout, shared, barriers, warp - Tile::FirstProducer);
    } else {
        claim_registers<Mode::Promoted ? 168 : 152>();
        if (p.tiles > 0 && warp < Tile::Consumers)
            nonoverlap_consumer<Mode, Tile, ChannelsLast, Lists>(p, list, layout, shared, barriers, warp);
    }
    if (p.fill) nonoverlap_fill<typename Mode::T, ChannelsLast, Lists>(p, list);
#endif
}

}

#endif
