// sm90_dense's tiles: what a launch is told, the instances, and how blocks, warps and shared memory share the work.
#pragma once

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {

enum { DENSE_SPLIT = 0, DENSE_F16 = 1, DENSE_BF16 = 2, DENSE_TF32 = 3 };
enum { DENSE_THREADS = 512, DENSE_MOST_PHASES = 64, DENSE_MOST_STAGES = 86, DENSE_MOST_STEPS = 640 };
enum { DENSE_EXACT = 65536 };   // elements of a sample below which its largest magnitude is looked up, not guessed
enum { DENSE_MOST_X = 6, DENSE_MOST_SLOTS = 8, DENSE_MOST_CHUNKS = 4 };
enum { DENSE_TABLES = 4 };      // chunks whose addresses are looked up ahead
enum { DENSE_BARRIER_BYTES = 512, DENSE_SHARED = 227 * 1024 };
enum { DENSE_MOST_REACH = 20 };     // positions along w that a fold sums over, but for one

// ---- the walk over taps, made on the host ----

struct DensePhase { uint8_t begin, end, d, h, w; };         // stages; its first output on each axis
struct DenseStage { uint16_t length, first[2], count[2]; }; // positions; steps of each w phase

struct DenseTable {
    int phases, stages, steps;
    DensePhase phase[DENSE_MOST_PHASES];
    int32_t base[DENSE_MOST_STAGES];        // of a stage: its first shift
    DenseStage stage[DENSE_MOST_STAGES];
    uint16_t offset[DENSE_MOST_STEPS];      // of a step (one k of the matrix unit), in cells from its segment's first
};

// How a mode multiplies.
template <int Mode> struct DenseMode;
template <> struct DenseMode<DENSE_SPLIT> { typedef float T; typedef __half Operand; enum { Kind = SPLIT_F16 }; };
template <> struct DenseMode<DENSE_F16> { typedef __half T; typedef __half Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_BF16> { typedef __nv_bfloat16 T, Operand; enum { Kind = COPY_16 }; };
template <> struct DenseMode<DENSE_TF32> { typedef float T; typedef Tf32 Operand; enum { Kind = ROUND_TF32 }; };

static constexpr int dense_least(int a, int b) { return a < b ? a : b; }
static constexpr int dense_most(int a, int b) { return a < b ? b : a; }

template <bool Wide, class T> struct DenseChunk { typedef T Value; };
template <class T> struct DenseChunk<true, T> { typedef float Value; };

// One instance: NB channels, R times 64 positions a warpgroup, Q w phases, U steps a slot of weights. Light: a light
// list is applied to what leaves the accumulators. Lists: results stay f32 in their ring, and the warps that store them
// apply the list, and round if y is not wide.
template <int Mode_, int NB_, int R_, int Q_, int U_, ListForm Form_, bool Folds_ = false> struct DenseTile {
    static constexpr ListForm Form = Form_;
    static constexpr ListForm RepairForm = Form == NO_LIST ? NO_LIST : WHOLE_LIST;
    static constexpr bool Light = Form == LIGHT_LIST, Lists = Form == WHOLE_LIST, Folds = Folds_;
    typedef typename DenseMode<Mode_>::T T;
    typedef typename DenseChunk<Lists || Folds, T>::Value Value;  // a result in the ring
    typedef typename DenseMode<Mode_>::Operand Operand;
    static constexpr int Mode = Mode_, NB = NB_, R = R_, Q = Q_, U = U_;
    static constexpr int Kind = DenseMode<Mode>::Kind, Parts = CellKind<Kind>::Parts;
    static constexpr int Rows = Parts * NB;                         // of the weights' operand
    static constexpr int Positions = R * 128;
    static constexpr int LeastSlots = Mode == DENSE_SPLIT && Q == 2 ? 3 : 4;
    static constexpr int Slots = NB == 48 ? 1 : Q == 2 || NB == 64 ? 2 : 3; // of these, those a split takes at a time
    static constexpr int Ping = Q * R * NB / 2 + 2 * NB <= 195 ? 2 : 1;     // accumulators of a split, by registers
    static constexpr int SlotBytes = U * 2 * Rows * 16;
    static constexpr int Columns = Q * 64;                          // of a chunk of results, R of them a warpgroup
    // Between channels; keeps banks apart.
    static constexpr int RowPitch = Columns + (Folds ? DENSE_MOST_REACH : sizeof(Value) == 4 ? 4 : 8);
    // Between columns, where channels lie together; the same.
    static constexpr int CellPitch = Q == 2 && sizeof(Value) == 4 ? NB + 4 : NB % 16 == 0 ? NB + 8 : NB;
    static constexpr int ChunkBytes = dense_most(NB * RowPitch, Folds ? 0 : Columns * CellPitch) * (int)sizeof(Value);
    // A ring for all of a tile is worth less than long stages, but where these are short anyway.
    static constexpr int RingBytes =
        (Folds ? 40 : Mode == DENSE_SPLIT && Q == 1 ? 58 : Lists && Q == 1 ? 40 : 28) * 1024;
    static constexpr int Chunks = dense_least(R, dense_most(1, RingBytes / ChunkBytes));
    static constexpr int ScaleBytes = (Light ? 6 : 4) * NB * 4;                  // DenseScales
    static constexpr bool Tables = Lists || Q == 2;     // other warps look up where results go, see dense_table
    static constexpr int TableBytes = Tables ? DENSE_TABLES * 64 * 8 : 0;
    // Of a thread, by role; multiplying counts twice, 512 in all. What has a list wants more to store.
    static constexpr int MultiplyRegisters =
        !Lists ? (Q == 1 ? 216 : 200) : Mode != DENSE_SPLIT ? 176 : Q == 1 ? 208 : 200;
    static constexpr int LoadRegisters = Lists ? (Mode != DENSE_SPLIT ? 32 : 24) : Q == 1 ? 24 : 32;
    static constexpr int StoreRegisters = 512 - 2 * MultiplyRegisters - LoadRegisters;
    static constexpr int Listed = Mode == DENSE_SPLIT ? 4 : 8;  // results that a list is applied to at a time
    static constexpr int FixedBytes = DENSE_BARRIER_BYTES + LeastSlots * SlotBytes +
                                      2 * (Chunks * ChunkBytes + ScaleBytes + TableBytes);
};

// Tiles of whole rows: what is added to steps between tiles and chunks of 64 positions; rows of a plane and groups of
// as many of them as a tile has chunks; planes of a sample, but for zeros; positions of a row, and what a chunk has
// besides. Strips as of PlanesProblem. All zero: tiles run on over zeros.
struct DenseRows {
    Divisor groups, depth, across, strips;
    int strip, tile_more, chunk_more, height, unused;
};

// Taps along w as columns of the weights' operand: column tap*channels + c. All zero: they are not.
struct DenseFold {
    uint8_t taps, channels, step, reach;            // a tap's distance from the next; of the last from the first
    Divisor by_channels, by_half, by_eighth;        // channels, half of them, an eighth of them
};

struct DenseProblem {
    const uint4 *planes, *weights;
    const int *x_exponent, *w_exponent;
    const void *bias;
    void *y;
    int64_t y_stride[5];
    int batch, out[3], stride[3], in_d;
    int skips, filled;                              // whether a segment may hold zeros alone; of a plane, not zero
    int out_group, blocks_group, blocks;            // channel blocks of a group, of all
    int units, tiles;                               // position tiles x blocks; with phases
    int pitch, lead, plane_blocks, cells;           // K blocks of a group; cells of one (position of a stage)
    int segment, x_stages, more_slots;              // cells between planes of a segment in shared memory; of weights
    int y_vectors;                                  // channels lie side by side, in whole 16-byte units
    Divisor d, h, w, plane;
    DenseRows rows;
    DenseFold fold;
    int full;                                       // units that are dealt out in whole rounds
    Divisor grid, rest, phases, block;              // blocks of threads; units but for `full`; phases; blocks
    DenseTable table;
};

// Slots of weights. A split's loops are written out for a number known when they are compiled.
template <class C> __device__ __forceinline__ int dense_slots(const DenseProblem &p)
{
    return C::Mode == DENSE_SPLIT ? C::LeastSlots : C::LeastSlots + p.more_slots;
}

// What says that outputs are to be computed again.
struct DenseFlags {
    const int *x_exponent, *w;
    const uint32_t *subnormal;              // of each sample; this and x_exponent: null where x needs no repair
    int count, flag;                        // how many of w there are, and what says so; of a channel:
    int rows, step;                         // rows that share one; from one of a channel to its next, or 0
};

// What an instance that applies lists wants besides.
template <class T, ListForm Form> struct DenseFollows {};
template <class T> struct DenseFollows<T, LIGHT_LIST> {
    Head<float> head;
    Light<float> light;
};
template <class T> struct DenseFollows<T, WHOLE_LIST> {
    List<T> list;
    DenseFlags flags;
    int wide;                               // y has f32, whatever T
};
static_assert(sizeof(DenseProblem) + sizeof(DenseFollows<float, WHOLE_LIST>) <= 4096, "a kernel's parameters");

__device__ __forceinline__ bool dense_bad_sample(const DenseFlags &f, int n)
{
    return (f.x_exponent && f.x_exponent[n] == NOT_FINITE) || (f.subnormal && f.subnormal[n] != 0);
}

__device__ __forceinline__ bool dense_bad_row(const DenseFlags &f, int row)
{
    int i = row / f.rows;
    bool any = f.w[i] == f.flag;
    if (f.step > 0) for (i += f.step; i < f.count && !any; i += f.step) any = f.w[i] == f.flag;
    return any;
}

// Lists: eight rows are stored, or left to be repaired, together.
__device__ __forceinline__ bool dense_bad_octet(const DenseFlags &f, int octet)
{
    bool any = false;
    for (int i = 0; i < 8; i += f.rows) any = any || dense_bad_row(f, octet * 8 + i);
    return any;
}

// Of this thread's share.
__device__ __forceinline__ bool dense_bad_any(const DenseFlags &f, int batch, int threads)
{
    bool any = false;
    for (int n = threadIdx.x; n < batch; n += threads) any = any || dense_bad_sample(f, n);
#pragma unroll 4
    for (int i = threadIdx.x; i < f.count; i += threads) any = any || f.w[i] == f.flag;
    return any;
}

#if CONVT3D__SM90A

// A tile as both producers and consumers see it. Blocks take a band of as many units (positions x channels) as there
// are blocks through all its phases, so that all have the same work and x is still in L2; what is left over is dealt
// out phase by phase, the heaviest first.
struct DenseWork {
    int position, block, phase, chunks;         // chunks: those before its plane ends
    __device__ __forceinline__ DenseWork(const DenseProblem &p, int tile, int positions)
    {
        uint32_t rest, first = (uint32_t)(p.full * p.table.phases), unit;
        if ((uint32_t)tile < first) {
            uint32_t round = divide((uint32_t)tile, p.grid, &rest), band = divide(round, p.phases, &unit);
            phase = (int)unit;
            unit = band * p.grid.by + rest;
        } else {
            phase = (int)divide((uint32_t)tile - first, p.rest, &rest);
            unit = (uint32_t)p.full + rest;
        }
        unit = divide(unit, p.block, &rest);
        block = (int)rest;
        uint32_t group, plane = divide(unit, p.rows.groups, &group), sample = divide(plane, p.rows.depth, &plane);
        position = (int)((sample * p.d.by + plane) * p.plane.by + group * (positions + p.rows.tile_more));
        chunks = p.rows.height == 0 ? positions : p.rows.height - (int)group * (positions / 64);
    }
    // A chunk of 64 positions; negative: it has none.
    __device__ __forceinline__ int chunk(const DenseProblem &p, int i) const
    {
        return i < chunks ? position + i * (64 + p.rows.chunk_more) : -(1 << 30);
    }
};

// Position i of a chunk in the order of y's rows; negative: it is none.
__device__ __forceinline__ int dense_cell(const DenseProblem &p, int i)
{
    uint32_t w, strip = divide((uint32_t)i, p.rows.across, &w), strips = max(1u, p.rows.strips.by);
    return strip < strips ? (int)(w * strips + strip) : -(1 << 30);
}

// Where a position that is not negative lies.
struct DensePlace {
    uint32_t n, d, h, w;
    __device__ __forceinline__ DensePlace(const DenseProblem &p, int position)
    {
        uint32_t strip = 0, rest = (uint32_t)position;
        if (p.rows.strips.by > 1) rest = divide(rest, p.rows.strips, &strip);
        n = divide(strip * p.rows.strip + divide(divide(rest, p.w, &w), p.h, &h), p.d, &d);
    }
    static __device__ __forceinline__ int sample(const DenseProblem &p, int position)
    {
        uint32_t strip = 0, rest;
        if (p.rows.strips.by > 1) divide((uint32_t)position, p.rows.strips, &strip);
        return (int)divide(strip * p.rows.strip + divide((uint32_t)position, p.plane, &rest), p.d, &rest);
    }
};

// A segment that holds nothing but the zeros between samples is neither loaded nor multiplied.
__device__ __forceinline__ bool dense_skips(const DenseProblem &p, int first, int length)
{
    if (!p.skips) return false;
    uint32_t rest, d;
    int last = first + length - 1;
    if (last < 0) return true;
    uint32_t end = divide((uint32_t)last, p.plane, &rest), begin = divide((uint32_t)max(first, 0), p.plane, &rest);
    if (rest >= (uint32_t)p.filled && first >= 0) begin++;
    divide(begin, p.d, &d);
    return (int)d >= p.in_d && end - begin < p.d.by - d;
}

// Where a ring of buffers stands.
struct Ring {
    int index = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next(int size)
    {
        if (++index == size) { index = 0;  parity ^= 1; }
    }
};

struct DenseShared {
    uint32_t x_full, x_empty, w_full, w_empty, y_full, y_empty, t_full, t_empty;
    uint32_t segments, slots, scales, tables, chunks;
    template <class C> __device__ __forceinline__ static DenseShared of(uint32_t base, int w_slots)
    {
        DenseShared s;
        s.x_full = base;  s.x_empty = base + 64;  s.w_full = base + 128;  s.w_empty = base + 192;
        s.y_full = base + 256;  s.y_empty = base + 320;  s.t_full = base + 384;  s.t_empty = base + 448;
        s.slots = base + DENSE_BARRIER_BYTES;
        s.scales = s.slots + w_slots * C::SlotBytes;
        s.tables = s.scales + 2 * C::ScaleBytes;
        s.chunks = s.tables + 2 * C::TableBytes;
        s.segments = s.chunks + 2 * C::Chunks * C::ChunkBytes;
        return s;
    }
    // Of a warpgroup's ring of results.
    template <class C> __device__ __forceinline__ uint32_t chunk(int group, int index) const
    {
        return chunks + (uint32_t)((group * C::Chunks + index) * C::ChunkBytes);
    }
    static __device__ __forceinline__ uint32_t ring(int group, int index)
    {
        return (uint32_t)((group * DENSE_MOST_CHUNKS + index) * 8);
    }
};
#endif

}

#endif
