// Operands of the backward pass on matrix units: a strided tensor taken apart into its phases.
//
// dx and dw meet dy at i*stride - padding + k*dilation. With that position written as (i + q)*stride + r, 0 <= r <
// stride, every tap k is a plane r of dy, taken from elements r, r + stride, ... of it, at the distance q from i: all
// is of unit stride, nothing is zero-inserted and no product is wasted. Phases that no tap meets are left out.
//
// Planes    [phase][cell of channels][part][position] of 16 bytes (split.cuh: cells, parts, scales), where `pair` cells
//           may lie before the next part. Positions run over n, d, h, w; an axis has as many more than
//           inputs as the q of one phase span, and position 0 stands for the least q: then i + q never leaves its row.
//           What lies outside the tensor is zero, also in the positions after a sample, with which it may be rounded
//           up.
// x         is the case of one phase, whose positions are its own.
// Threads   take two neighbouring positions of a row: pairs of elements come with one load, and two threads trade cells
//           so that each store fills whole sectors. Or, with fewer registers, one.
#pragma once

namespace convt3d_cuda {

enum { PHASE_MOST_STRIDE = 16, PHASE_MOST_TAPS = 400, PHASE_ROWS = 4, ROUGH_POSITIONS = 1024 };

// Where the taps of a problem meet dy.
struct PhaseShape {
    int count[3];                           // phases of an axis
    int32_t begin[3][PHASE_MOST_STRIDE];    // their first elements: least q times stride, and r
    int64_t pitch[3], plane, sample;        // positions of an axis, of a plane, of a sample
    int64_t reach;                          // the largest shift
    int taps, phases;
    uint8_t at[3][PHASE_MOST_TAPS];         // of an axis's taps: the phase, and how far from its first position
    int32_t q[3][PHASE_MOST_TAPS];
    uint16_t phase[PHASE_MOST_TAPS];        // of each tap of w
    int32_t shift[PHASE_MOST_TAPS];         // in positions
};

// One axis; false if its taps are too many or too far apart. Position 0 stands for the least q of all phases, which
// then lie side by side; or, where that makes the axis shorter, for the least of each. Along w, where neighbours are
// read together, only where it does so by an eighth.
static inline bool phase_axis(const convt3d__axis &axis, PhaseShape *s, int a)
{
    const int64_t limit = (int64_t)1 << 30, none = INT64_MAX;
    int64_t least[PHASE_MOST_STRIDE], all = none, each = 0, together = 0;
    int count = 0;
    if (axis.kernel > PHASE_MOST_TAPS) return false;
    for (int r = 0; r < (int)axis.stride; r++) least[r] = none;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t k = 0; k < axis.kernel; k++) {
            const int64_t v = k * axis.dilation - axis.padding, q = convt3d__floor_div(v, axis.stride);
            int64_t *of_phase = &least[convt3d__floor_mod(v, axis.stride)];
            if (q > limit || q < -limit / axis.stride) return false;
            if (pass == 0) {
                *of_phase = convt3d__min(*of_phase, q);
                all = convt3d__min(all, q);
            } else {
                each = convt3d__max(each, q - *of_phase);
                together = convt3d__max(together, q - all);
            }
        }
    if (a == 2 && (axis.in + each) * 8 > (axis.in + together) * 7) each = together;
    for (int r = 0; r < (int)axis.stride; r++) {
        if (least[r] == none) continue;
        if (each == together) least[r] = all;
        if (least[r] > limit / axis.stride - 1) return false;
        for (int64_t k = 0; k < axis.kernel; k++) {
            const int64_t v = k * axis.dilation - axis.padding;
            if (convt3d__floor_mod(v, axis.stride) != r) continue;
            s->at[a][k] = (uint8_t)count;
            s->q[a][k] = (int32_t)(convt3d__floor_div(v, axis.stride) - least[r]);
        }
        s->begin[a][count++] = (int32_t)(least[r] * axis.stride + r);
    }
    s->count[a] = count;
    s->pitch[a] = axis.in + each;
    return s->pitch[a] <= limit;
}

// The phases of a problem's dy. Empty text, or why not.
static inline const char *phase_shape(const convt3d__plan *plan, PhaseShape *s)
{
    const int64_t limit = (int64_t)1 << 30;
    if (plan->taps > PHASE_MOST_TAPS) return "more than 400 taps";
    for (int a = 0; a < 3; a++) {
        if (plan->axis[a].stride > PHASE_MOST_STRIDE) return "stride above 16";
        if (!phase_axis(plan->axis[a], s, a)) return "too many positions";
    }
    s->plane = s->pitch[1] * s->pitch[2];
    if (s->plane > limit || s->pitch[0] * s->plane > limit) return "too many positions";
    s->sample = s->pitch[0] * s->plane;
    s->taps = (int)plan->taps;
    s->phases = s->count[0] * s->count[1] * s->count[2];
    s->reach = 0;
    for (int k = 0; k < s->taps; k++) {
        int64_t w = plan->axis[2].kernel, h = plan->axis[1].kernel, kw = k % w, kh = k / w % h, kd = k / w / h;
        s->phase[k] = (uint16_t)((s->at[0][kd] * s->count[1] + s->at[1][kh]) * s->count[2] + s->at[2][kw]);
        s->shift[k] = (int32_t)(s->q[0][kd] * s->plane + s->q[1][kh] * s->pitch[2] + s->q[2][kw]);
        s->reach = convt3d__max(s->reach, s->shift[k]);
    }
    return "";
}

// A tensor whose planes are wanted: x, or dy by phases.
struct PhaseProblem {
    PlanesProblem base;     // in: the tensor's size; d, h, w: positions of an axis; pitch: of all
    int sample;             // positions of a sample
    Divisor slots, across;  // threads' shares of positions: of a sample, of a row
    int step[3], count[3];
    int begin[3][PHASE_MOST_STRIDE];
    int pair;               // cells side by side in a part
    int lead;               // positions before the first, all zero
    uint32_t limit;         // COPY_16: exponent bits from which on a value is not finite, 0: not looked for
    float *sums;            // [row along d, h and cells][block of slots][channel of a cell]: for dbias, or null
    int *rough;             // [position / ROUGH_POSITIONS]: set where a high half alone has too few digits, or null
};

// Blocks of threads that planes take.
__host__ __device__ __forceinline__ int phase_blocks(const PhaseProblem &p)
{
    return p.base.width * ((p.base.height + PHASE_ROWS - 1) / PHASE_ROWS);
}

// What a tensor's element is, held as CellKind has it. limit: of PhaseProblem, tells the 16-bit types apart.
__device__ __forceinline__ float phase_value(float v, uint32_t) { return v; }
__device__ __forceinline__ float phase_value(uint16_t v, uint32_t limit)
{
    return limit == 0x7c00 ? __half2float(__ushort_as_half(v)) : __uint_as_float((uint32_t)v << 16);
}

// The warp's sums of what its threads read: of channel lane / (32 / Channels), right in the first lane of each.
template <int Channels> __device__ __forceinline__ float phase_warp_sum(float (&sum)[Channels])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = Channels / 2, bit = 16; n > 0; n /= 2, bit /= 2)
#pragma unroll
        for (int i = 0; i < n; i++) {
            const bool upper = (lane & bit) != 0;
            const float give = upper ? sum[i] : sum[i + n], keep = upper ? sum[i + n] : sum[i];
            sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, bit);
        }
    float total = sum[0];
#pragma unroll
    for (int bit = 16 / Channels; bit > 0; bit /= 2) total += __shfl_xor_sync(0xffffffffu, total, bit);
    return total;
}

// Whether any of a cell's 16-bit values is NaN or infinite.
__device__ __forceinline__ bool cell_not_finite(const uint32_t (&cell)[4], uint32_t limit)
{
    uint32_t most = __vmaxu2(__vmaxu2(cell[0] & 0x7fff7fffu, cell[1] & 0x7fff7fffu),
                             __vmaxu2(cell[2] & 0x7fff7fffu, cell[3] & 0x7fff7fffu));
    return max(most >> 16, most & 0xffffu) >= limit;
}

// Whether the high half of any of a cell's values, where these are not zero, is no normal number: then it has fewer
// digits than tf32.
__device__ __forceinline__ bool cell_is_rough(const uint32_t (&high)[4], const uint32_t (&low)[4])
{
    uint32_t any = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t below = ~((high[i] & 0x7c007c00u) + 0x7c007c00u) & 0x80008000u;      // exponents that are zero
        any |= (below >> 15) * 0xffffu & ((high[i] & 0x03ff03ffu) | (low[i] & 0x7fff7fffu));
    }
    return any != 0;
}

// A thread's N neighbouring positions, one or two.
template <int N> struct PhasePlace {
    int flat, n, d, h, w;       // d, h, w: positions
    bool real[2];               // whether there are such positions
    bool first, inside;         // the first of its sample; in the tensor, as far as n and d tell
    bool trade;                 // the neighbour of this thread has the two positions beside
    __device__ __forceinline__ PhasePlace(const PhaseProblem &p, int slot)
    {
        uint32_t rest, column, row, plane;
        n = (int)divide((uint32_t)slot, p.slots, &rest);
        row = divide(rest, p.across, &column);
        w = N * (int)column;
        const int at = (int)row * (int)p.base.w.by + w;
        flat = p.lead + n * p.sample + at;
#pragma unroll
        for (int i = 0; i < 2; i++)
            real[i] = w + i < (int)p.base.w.by && at + i < p.sample && flat + i < p.base.pitch;
        plane = divide(row, p.base.h, &row);
        d = (int)plane;  h = (int)row;
        first = at == 0 && n < p.base.batch;
        inside = n < p.base.batch && plane < p.base.d.by;
        trade = false;
        if (N == 1) return;
        const bool both = real[0] && real[1], odd = threadIdx.x % 2 != 0;
        const int other = __shfl_xor_sync(0xffffffffu, both ? flat : -8, 1);
        trade = both && other == flat + (odd ? -2 : 2);
    }
};

// Two neighbouring cells of each thread. As store_pairs, where two threads have four.
__device__ __forceinline__ void phase_store(uint4 *out, const uint32_t (&cell)[2][4], bool trade, bool first,
                                            bool second)
{
    const bool odd = threadIdx.x % 2 != 0;
    alignas(16) uint32_t a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? cell[0][i] : cell[1][i], 1);
        a[i] = trade && odd ? other : cell[0][i];
        b[i] = !trade || odd ? cell[1][i] : other;
    }
    const int at = trade && odd ? -1 : 0;
    if (first) out[at] = *(const uint4 *)a;
    if (second) out[at + (trade ? 2 : 1)] = *(const uint4 *)b;
}

// Operands of a thread's positions, to where they belong; live: whether it has any.
template <int Kind, int N>
__device__ __forceinline__ void phase_put(const PhaseProblem &p, const PhasePlace<N> &at, int64_t row, int cell,
                                          const typename CellKind<Kind>::Element (&v)[N][CellKind<Kind>::Channels],
                                          int exponent, uint32_t *beyond, bool live)
{
    enum { Parts = CellKind<Kind>::Parts };
    uint32_t high[2][4], low[2][4];
#pragma unroll
    for (int i = 0; i < N; i++) {
        cell_operands<Kind>(v[i], exponent, beyond, high[i], low[i]);
        if (Kind == SPLIT_F16 && p.rough && live && at.real[i] && cell_is_rough(high[i], low[i]))
            p.rough[(at.flat + i) / ROUGH_POSITIONS] = 1;
        if (Kind == COPY_16 && p.limit != 0 && beyond && cell_not_finite(high[i], p.limit)) *beyond = 1;
    }
    uint4 *out = p.base.planes + ((row - cell % p.pair) * Parts + cell % p.pair) * p.base.pitch + at.flat;
    uint4 *out_low = out + (int64_t)p.pair * p.base.pitch;
    if constexpr (N == 2) {
        phase_store(out, high, at.trade, live && at.real[0], live && at.real[1]);
        if (Kind == SPLIT_F16) phase_store(out_low, low, at.trade, live && at.real[0], live && at.real[1]);
    } else if (live && at.real[0]) {
        *out = make_uint4(high[0][0], high[0][1], high[0][2], high[0][3]);
        if (Kind == SPLIT_F16) *out_low = make_uint4(low[0][0], low[0][1], low[0][2], low[0][3]);
    }
}

// Two neighbours of a row.
template <class Element> struct alignas(2 * sizeof(Element)) PhasePair { Element at[2]; };

// Those of `channels` channels, the first at an even place i of a row of `size`. What decides is the same for all of
// them, so that they are loaded together.
template <class Element, int Channels>
__device__ __forceinline__ void phase_pairs(const Element *x, int64_t stride, int i, int size, int channels,
                                            PhasePair<Element> (&v)[Channels])
{
#pragma unroll
    for (int c = 0; c < Channels; c++) v[c] = PhasePair<Element>();
    if (i >= 0 && i + 1 < size) {
#pragma unroll
        for (int c = 0; c < Channels; c++) if (c < channels) v[c] = *(const PhasePair<Element> *)(x + c * stride + i);
    } else if (i >= 0 && i < size) {
#pragma unroll
        for (int c = 0; c < Channels; c++) if (c < channels) v[c].at[0] = x[c * stride + i];
    }
}

// As planes_block of split.cuh, of one thread: its place, what it reads and where that goes. sum: of what it read.
// base.pairs: neighbours are read together, with a stride of 2 those of the two w phases. All threads of a warp.
template <int Kind, int N>
__device__ __forceinline__ void phase_thread(const PhaseProblem &p, const PhasePlace<N> &at, int plane, int cell,
                                             int exponent, uint32_t *beyond, bool live,
                                             float (&sum)[CellKind<Kind>::Channels])
{
    typedef CellKind<Kind> Cell;
    typedef typename Cell::Element Element;
    const PlanesProblem &b = p.base;
    const int rd = plane / p.count[1], d = at.d * p.step[0] + p.begin[0][rd];
    const int h = at.h * p.step[1] + p.begin[1][plane - rd * p.count[1]];
    const bool inside = live && at.inside && d >= 0 && d < b.in[0] && h >= 0 && h < b.in[1];
    const int g = cell / b.cells_group, channel = (cell - g * b.cells_group) * Cell::Channels;
    const int channels = inside ? min(b.in_group - channel, (int)Cell::Channels) : 0;
    const Element *x = (const Element *)b.x + at.n * b.stride[0] + (g * b.in_group + channel) * b.stride[1] +
                       d * b.stride[2] + h * b.stride[3];
    const int64_t out = (int64_t)plane * p.count[2] * b.cells + cell;
    if (!inside) beyond = nullptr;
    auto put = [&](int r, const Element (&v)[N][Cell::Channels]) {
        phase_put<Kind>(p, at, out + r * b.cells, cell, v, exponent, beyond, live);
        if (p.sums)
#pragma unroll
            for (int c = 0; c < Cell::Channels; c++)
#pragma unroll
                for (int i = 0; i < N; i++) sum[c] += phase_value(v[i][c], p.limit);
    };
    const int w = at.w * p.step[2] + p.begin[2][0];
    if (N == 2 && b.pairs && p.count[2] == 1) {
        PhasePair<Element> pair[Cell::Channels];
        Element v[N][Cell::Channels];
        phase_pairs(x, b.stride[1], w, at.real[1] ? b.in[2] : min(b.in[2], w + 1), at.real[0] ? channels : 0, pair);
#pragma unroll
        for (int c = 0; c < Cell::Channels; c++)
#pragma unroll
            for (int i = 0; i < N; i++) v[i][c] = pair[c].at[i];
        put(0, v);
    } else if (b.pairs && p.count[2] == 2) {
        PhasePair<Element> pair[N][Cell::Channels];
#pragma unroll
        for (int i = 0; i < N; i++)
            phase_pairs(x, b.stride[1], w + 2 * i, b.in[2], at.real[i] ? channels : 0, pair[i]);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            Element v[N][Cell::Channels];
#pragma unroll
            for (int c = 0; c < Cell::Channels; c++)
#pragma unroll
                for (int i = 0; i < N; i++) v[i][c] = pair[i][c].at[r];
            put(r, v);
        }
    } else {
#pragma unroll 1
        for (int r = 0; r < p.count[2]; r++) {
            alignas(16) Element v[N][Cell::Channels] = {};
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int e = (at.w + i) * p.step[2] + p.begin[2][r];
                if (e >= 0 && e < b.in[2] && channels > 0 && at.real[i])
                    load_cell(x + e * b.stride[4], b.stride[1], channels, b.vectors, v[i]);
            }
            put(r, v);
        }
    }
}

// One block's share: PHASE_ROWS rows of planes, at SPLIT_THREADS slots. again: only samples whose first scale was too
// large, with the right one.
template <int Kind, int N = 2> __device__ __forceinline__ void phase_block(const PhaseProblem &p, int block, bool again)
{
    enum { Channels = CellKind<Kind>::Channels };
    __shared__ int exponents[SPLIT_THREADS + 1];
    __shared__ float sums[PHASE_ROWS][SPLIT_THREADS / 32][Channels];
    const PlanesProblem &b = p.base;
    const int part = block % b.width, begin = part * SPLIT_THREADS, row0 = block / b.width * PHASE_ROWS;
    const int first = begin / (int)p.slots.by;
    PhasePlace<N> at(p, begin + (int)threadIdx.x);
    if (Kind == SPLIT_F16 && !again)
        load_guesses(b, first, min((begin + SPLIT_THREADS - 1) / (int)p.slots.by, b.batch - 1) - first + 1, exponents);
    const uint32_t largest = again && at.n < b.batch ? b.beyond[at.n] : 0;
    const bool live = !again || largest != 0;
    at.trade = __shfl_xor_sync(0xffffffffu, (int)live, 1) && live && at.trade;
    const int exponent = Kind != SPLIT_F16 || at.n >= b.batch ? 0 : again ? scale_exponent(largest)
                                                                          : exponents[at.n - first];
    if (Kind == SPLIT_F16 && row0 == 0 && at.first && live)
        b.exponent[at.n] = again || b.exact ? exponent : usable_exponent(exponent);
#pragma unroll 1
    for (int row = row0; row < min(row0 + PHASE_ROWS, b.height); row++) {
        const int cell = row % b.cells, plane = row / b.cells;
        float sum[Channels] = {};
        phase_thread<Kind>(p, at, plane, cell, exponent, again || b.exact ? nullptr : b.beyond + at.n, live, sum);
        if (part == 0 && !again)                // zeros before the first position
            for (int i = threadIdx.x; i < p.lead; i += SPLIT_THREADS)
                for (int j = 0; j < CellKind<Kind>::Parts; j++)
                    b.planes[((int64_t)(row - cell % p.pair) * CellKind<Kind>::Parts + cell % p.pair + j * p.pair) *
                             b.pitch + i] = make_uint4(0, 0, 0, 0);
        if (!p.sums || again) continue;
        const float total = phase_warp_sum(sum);
        if (threadIdx.x % (32 / Channels) == 0)
            sums[row - row0][threadIdx.x / 32][threadIdx.x % 32 / (32 / Channels)] = total;
    }
    if (!p.sums || again) return;
    __syncthreads();
    const int row = row0 + (int)threadIdx.x / Channels, channel = threadIdx.x % Channels;
    if (threadIdx.x >= PHASE_ROWS * Channels || row >= b.height) return;
    float total = 0;
    for (int warp = 0; warp < SPLIT_THREADS / 32; warp++) total += sums[row - row0][warp][channel];
    p.sums[((int64_t)row * b.width + part) * Channels + channel] = total;
}

// ---- the host's side ----

// A tensor of the problem, as its planes are made from it.
struct PhaseTensor {
    const void *data;
    const int64_t *stride, *size;
    int64_t channels, batch;
    uint32_t limit;                         // of PhaseProblem
    int64_t count() const { return channels * size[0] * size[1] * size[2]; }    // of a sample
};

static inline uint32_t phase_limit(const convt3d_desc &d) { return d.dtype == CONVT3D_F16 ? 0x7c00 : 0x7f80; }

static inline PhaseTensor phase_tensor_x(const convt3d__plan *plan, const convt3d_io *io)
{
    const convt3d_desc &d = plan->desc;
    return {io->x, d.x_stride, d.in_size, d.in_channels, d.batch, phase_limit(d)};
}

// size: the output's, three numbers that outlive this.
static inline PhaseTensor phase_tensor_dy(const convt3d__plan *plan, const convt3d_io *io, const int64_t *size)
{
    const convt3d_desc &d = plan->desc;
    return {io->dy, d.dy_stride, size, d.out_channels, d.batch, phase_limit(d)};
}

// Is a sample one run of elements?
static inline bool phase_contiguous(const PhaseTensor &t)
{
    static const int orders[2][4] = {{4, 3, 2, 1}, {1, 4, 3, 2}};
    for (const int *order : orders) {
        int64_t step = 1;
        bool dense = true;
        for (int i = 0; i < 4; i++) {
            int a = order[i];
            dense = dense && t.stride[a] == step;
            step *= a == 1 ? t.channels : t.size[a - 2];
        }
        if (dense) return true;
    }
    return false;
}

// By the sample alone: its bits must not depend on how many there are.
static inline bool phase_looks_up(const PhaseTensor &t) { return t.count() < 65536 || !phase_contiguous(t); }
static inline int phase_guess_blocks(const PhaseTensor &t)
{
    return (int)convt3d__max(1, convt3d__min(GUESS_MOST_BLOCKS, t.count() / 4096));
}

// guess, beyond: in the workspace; for COPY_16 there is nothing to guess, but beyond is to be zeroed.
static inline GuessProblem phase_guess(const PhaseTensor &t, bool split, uint32_t *guess, uint32_t *beyond)
{
    GuessProblem p = {};
    p.x = (const float *)t.data;
    p.guess = guess;
    p.beyond = beyond;
    p.blocks = split ? phase_guess_blocks(t) : 1;
    p.n_stride = t.stride[0];
    if (!split) return p;
    p.count = t.count();
    if (phase_contiguous(t)) {
        p.skip = phase_looks_up(t) ? 1 : GUESS_STRIDE;
        p.runs = convt3d__ceil_div(p.count, GUESS_RUN * p.skip);
        return p;
    }
    p.rows = t.channels * t.size[0] * t.size[1];
    p.row = t.size[2];  p.h = t.size[1];  p.d = t.size[0];
    for (int i = 0; i < 4; i++) p.stride[i] = t.stride[1 + i];
    return p;
}

// Whether the planes of dy hold every element of it.
static inline bool phase_covers(const convt3d__plan *plan, const PhaseShape &s)
{
    for (int a = 0; a < 3; a++) {
        const int64_t stride = plan->axis[a].stride;
        if (s.count[a] != stride) return false;
        for (int i = 0; i < s.count[a]; i++)
            if (s.begin[a][i] >= stride || s.begin[a][i] + s.pitch[a] * stride < plan->axis[a].out) return false;
    }
    return true;
}

// Where dy's planes lie from the beginning of the workspace, and what goes with them. sm90_dgrad and sm90_wgrad lay
// them out alike where they can, so that the second finds what the first has left.
struct PhaseRoom {
    int64_t pitch, exponent, beyond, guess, sums, bytes;
    int cells_group, cells;                 // of a group, of all
};

enum { PHASE_SLACK = 1024 };                // positions that tiles and stages may read beyond the last sample

// Slots of a sample, `each` positions of a row; blocks of threads for those of `positions`.
static inline int64_t phase_slots(int64_t sample, int64_t row, int each)
{
    return convt3d__ceil_div(sample, row) * convt3d__ceil_div(row, each);
}
static inline int phase_width(int64_t positions, int64_t sample, int64_t row, int each)
{
    return (int)convt3d__ceil_div(convt3d__ceil_div(positions, sample) * phase_slots(sample, row, each), SPLIT_THREADS);
}

static int64_t phase_round(int64_t bytes) { return (bytes + 255) / 256 * 256; }

static inline PhaseRoom phase_room(const convt3d__plan *plan, const PhaseShape &s, int cells_group, int parts)
{
    const convt3d_desc &d = plan->desc;
    const int64_t size[3] = {plan->axis[0].out, plan->axis[1].out, plan->axis[2].out}, samples = d.batch * 4;
    const convt3d_io none = {};
    PhaseRoom r;
    r.cells_group = cells_group;
    r.cells = (int)d.groups * cells_group;
    r.pitch = (d.batch * s.sample + s.reach + PHASE_SLACK) / 64 * 64;
    r.exponent = phase_round(r.pitch * s.phases * r.cells * parts * 16);
    r.beyond = phase_round(r.exponent + samples);
    r.guess = phase_round(r.beyond + samples);
    r.sums = phase_round(r.guess + samples * phase_guess_blocks(phase_tensor_dy(plan, &none, size)));
    r.bytes = phase_round(r.sums + s.count[0] * s.count[1] * r.cells *
                                       phase_width(r.pitch, s.sample, s.pitch[2], 1) * 32);
    return r;
}

// Whether both have the same cells of dy, two of them side by side: not where one rounds to tf32.
static inline bool phase_is_common(const convt3d__plan *plan)
{
    return convt3d__ceil_div(plan->out_group, 8) % 2 == 0 &&
           !(plan->desc.dtype == CONVT3D_F32 && plan->desc.math == CONVT3D_TF32);
}

// How planes are laid out: channels a group in cells, `pair` of them side by side; positions of a sample and in all.
struct PhaseLayout {
    int64_t sample, pitch;
    int groups, in_group, cells_group, pair, lead, each;     // each: positions of a thread
};

// phases: of dy, or null for x, whose positions are the shape's all the same.
template <int Kind>
PhaseProblem phase_problem(const PhaseTensor &t, const PhaseShape &s, bool phases, const int64_t *stride,
                           const PhaseLayout &l)
{
    typedef CellKind<Kind> Cell;
    const int64_t size = (int64_t)sizeof(typename Cell::Element);
    PhaseProblem p = {};
    PlanesProblem &b = p.base;
    b.x = t.data;
    b.blocks = Kind == SPLIT_F16 ? phase_guess_blocks(t) : 1;
    b.exact = Kind == SPLIT_F16 && phase_looks_up(t);
    b.batch = (int)t.batch;
    b.in_group = l.in_group;  b.cells_group = l.cells_group;  b.cells = l.groups * l.cells_group;
    b.pitch = (int)l.pitch;
    b.width = phase_width(l.pitch - l.lead, l.sample, s.pitch[2], l.each);
    b.d = divisor_of(s.pitch[0]);  b.h = divisor_of(s.pitch[1]);  b.w = divisor_of(s.pitch[2]);
    p.sample = (int)l.sample;
    p.across = divisor_of(convt3d__ceil_div(s.pitch[2], l.each));
    p.slots = divisor_of(phase_slots(l.sample, s.pitch[2], l.each));
    p.pair = l.pair;  p.lead = l.lead;
    for (int a = 0; a < 5; a++) b.stride[a] = t.stride[a];
    for (int a = 0; a < 3; a++) {
        b.in[a] = (int)t.size[a];
        p.step[a] = phases ? (int)stride[a] : 1;
        p.count[a] = phases ? s.count[a] : 1;
        if (phases) memcpy(p.begin[a], s.begin[a], sizeof p.begin[a]);
    }
    b.height = p.count[0] * p.count[1] * b.cells;
    bool vectors = (uintptr_t)t.data % 16 == 0 && t.stride[1] == 1 && l.in_group % Cell::Channels == 0;
    bool pairs = t.stride[4] == 1 && (uintptr_t)t.data % (2 * size) == 0 && p.begin[2][0] % 2 == 0 &&
                 (p.step[2] == 1 ? p.count[2] == 1
                                 : p.step[2] == 2 && p.count[2] == 2 && p.begin[2][1] == p.begin[2][0] + 1);
    for (int a = 0; a < 5; a++) {
        vectors = vectors && (a == 1 || t.stride[a] * size % 16 == 0);
        pairs = pairs && (a == 4 || t.stride[a] % 2 == 0);
    }
    b.vectors = vectors;
    b.pairs = pairs;
    p.limit = t.limit;
    return p;
}

}
