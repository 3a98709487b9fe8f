// Operands of the backward pass on matrix units: a strided tensor taken apart into its phases.
//
// dx and dw meet dy at i*stride - padding + k*dilation. With that position written as (i + q)*stride + r, 0 <= r <
// stride, every tap k is a plane r of dy, taken from elements r, r + stride, ... of it, at the distance q from i: all
// is of unit stride, nothing is zero-inserted and no product is wasted. Phases that no tap meets are left out.
//
// Planes    [phase][cell of channels][part][position] of 16 bytes (split.cuh: cells, parts, scales), where `pair` cells
//           may lie before the next part. Positions run over n, d, h, w; an axis has in + Q - 1 of them, Q being the
//           most different q that one of its phases has, and position 0 stands for the least q of each phase: then
//           i + q never leaves its row. What lies outside the tensor is zero, also in the positions after a sample,
//           with which it may be rounded up.
// x         is the case of one phase, whose positions are its own.
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

// One axis; false if its taps are too many or too far apart.
static inline bool phase_axis(const convt3d__axis &axis, PhaseShape *s, int a)
{
    const int64_t limit = (int64_t)1 << 30;
    int count = 0;
    if (axis.kernel > PHASE_MOST_TAPS) return false;
    s->pitch[a] = axis.in;
    for (int r = 0; r < (int)axis.stride; r++) {
        int64_t least = INT64_MAX;
        for (int64_t k = 0; k < axis.kernel; k++) {
            const int64_t v = k * axis.dilation - axis.padding;
            if (convt3d__floor_mod(v, axis.stride) != r) continue;
            least = convt3d__min(least, convt3d__floor_div(v, axis.stride));
            const int64_t q = convt3d__floor_div(v, axis.stride) - least;       // v grows with k: the first is the least
            if (q > limit) return false;
            s->at[a][k] = (uint8_t)count;
            s->q[a][k] = (int32_t)q;
            s->pitch[a] = convt3d__max(s->pitch[a], axis.in + q);
        }
        if (least == INT64_MAX) continue;
        if (least > limit / axis.stride - 1 || least < -limit / axis.stride) return false;
        s->begin[a][count++] = (int32_t)(least * axis.stride + r);
    }
    s->count[a] = count;
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
    Divisor sample;         // positions of a sample
    int step[3], count[3];
    int begin[3][PHASE_MOST_STRIDE];
    int lag;                // pairs: the second of the two is of the position `lag` later
    int pair;               // cells side by side in a part
    int lead;               // positions before the first, all zero
    uint32_t limit;         // COPY_16: exponent bits from which on a value is not finite, 0: not looked for
    float *sums;            // [row along d, h and cells][block of positions][channel of a cell]: for dbias, or null
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

// Position of a thread, and of what it reads along d and h.
struct PhasePlace {
    int flat, n, d, h, w;       // d, h: in the tensor; w: position
    bool first, inside;         // of its sample; in the tensor, but for w
    __device__ __forceinline__ PhasePlace(const PhaseProblem &p, int at, int rd, int rh) : flat(at)
    {
        uint32_t rest, column, row;
        n = (int)divide((uint32_t)max(flat - p.lead, 0), p.sample, &rest);
        if (flat < p.lead) n = p.base.batch;
        first = rest == 0 && n < p.base.batch;
        uint32_t plane = divide(divide(rest, p.base.w, &column), p.base.h, &row);
        d = (int)plane * p.step[0] + p.begin[0][rd];
        h = (int)row * p.step[1] + p.begin[1][rh];
        w = (int)column;
        inside = n < p.base.batch && plane < p.base.d.by && d >= 0 && d < p.base.in[0] && h >= 0 && h < p.base.in[1];
    }
};

// Operands of one position, to where they belong.
template <int Kind>
__device__ __forceinline__ void phase_store(const PhaseProblem &p, int64_t row, int flat, int cell,
                                            const typename CellKind<Kind>::Element (&v)[CellKind<Kind>::Channels],
                                            int exponent, uint32_t *beyond)
{
    enum { Parts = CellKind<Kind>::Parts };
    alignas(16) uint32_t high[4], low[4];
    cell_operands<Kind>(v, exponent, beyond, high, low);
    if (Kind == SPLIT_F16 && p.rough && cell_is_rough(high, low)) p.rough[flat / ROUGH_POSITIONS] = 1;
    if (Kind == COPY_16 && p.limit != 0 && beyond && cell_not_finite(high, p.limit)) *beyond = 1;
    uint4 *out = p.base.planes + ((row - cell % p.pair) * Parts + cell % p.pair) * p.base.pitch + flat;
    *out = *(const uint4 *)high;
    if (Kind == SPLIT_F16) out[(int64_t)p.pair * p.base.pitch] = *(const uint4 *)low;
}

// As planes_block of split.cuh, of one thread: its place, what it reads and where that goes. sum: of what it read.
// base.pairs: the two w phases of a stride of 2, read together; with a lag, the second of position 0 is read alone.
template <int Kind>
__device__ __forceinline__ void phase_thread(const PhaseProblem &p, const PhasePlace &at, int plane, int cell,
                                             int exponent, uint32_t *beyond, float (&sum)[CellKind<Kind>::Channels])
{
    typedef CellKind<Kind> Cell;
    typedef typename Cell::Element Element;
    struct alignas(2 * sizeof(Element)) Pair { Element at[2]; };
    const PlanesProblem &b = p.base;
    const int g = cell / b.cells_group, channel = (cell - g * b.cells_group) * Cell::Channels;
    const int channels = at.inside ? min(b.in_group - channel, (int)Cell::Channels) : 0;
    const Element *x = (const Element *)b.x + at.n * b.stride[0] + (g * b.in_group + channel) * b.stride[1] +
                       at.d * b.stride[2] + at.h * b.stride[3];
    const int64_t out = (int64_t)plane * p.count[2] * b.cells + cell;
    const bool follows = p.lag == 0 || (at.w + 1 < (int)b.w.by && at.flat + 1 < b.pitch);   // there is a later position
    auto single = [&](int r, int later) {
        alignas(16) Element v[Cell::Channels] = {};
        const int i = (at.w + later) * p.step[2] + p.begin[2][r];
        if (i >= 0 && i < b.in[2] && channels > 0)
            load_cell(x + i * b.stride[4], b.stride[1], channels, b.vectors, v);
        phase_store<Kind>(p, out + r * b.cells, at.flat + later, cell, v, exponent, beyond);
        if (p.sums)
#pragma unroll
            for (int c = 0; c < Cell::Channels; c++) sum[c] += phase_value(v[c], p.limit);
    };
    const int w = at.w * p.step[2] + p.begin[2][0];
    if (b.pairs && channels > 0 && w >= 0 && w + 1 < b.in[2]) {
        Pair v[Cell::Channels] = {};
#pragma unroll
        for (int c = 0; c < Cell::Channels; c++) if (c < channels) v[c] = *(const Pair *)(x + c * b.stride[1] + w);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Element one[Cell::Channels];
#pragma unroll
            for (int c = 0; c < Cell::Channels; c++) one[c] = v[c].at[i];
            if (i == 1 && !follows) continue;
            phase_store<Kind>(p, out + i * b.cells, at.flat + i * p.lag, cell, one, exponent, beyond);
        }
        if (p.sums)
#pragma unroll
            for (int c = 0; c < Cell::Channels; c++)
                sum[c] += phase_value(v[c].at[0], p.limit) + phase_value(v[c].at[1], p.limit);
    } else {
#pragma unroll 2
        for (int r = 0; r < p.count[2]; r++) if (r != 1 || follows) single(r, r == 1 ? p.lag : 0);
    }
    if (p.lag > 0 && at.w == 0) single(1, 0);
}

// One block's share: PHASE_ROWS rows of planes, at SPLIT_THREADS positions. again: only samples whose first scale was
// too large, with the right one.
template <int Kind> __device__ __forceinline__ void phase_block(const PhaseProblem &p, int block, bool again)
{
    enum { Channels = CellKind<Kind>::Channels };
    __shared__ int exponents[SPLIT_THREADS + 1];
    __shared__ float sums[PHASE_ROWS][SPLIT_THREADS / 32][Channels];
    const PlanesProblem &b = p.base;
    const int part = block % b.width, begin = part * SPLIT_THREADS, row0 = block / b.width * PHASE_ROWS;
    const int sample = (int)p.sample.by, first = max(begin - p.lead, 0) / sample, flat = begin + (int)threadIdx.x;
    if (Kind == SPLIT_F16 && !again)
        load_guesses(b, first, min(max(begin + SPLIT_THREADS - 1 - p.lead, 0) / sample, b.batch - 1) - first + 1,
                     exponents);
#pragma unroll 1
    for (int row = row0; row < min(row0 + PHASE_ROWS, b.height); row++) {
        const int cell = row % b.cells, plane = row / b.cells;
        const PhasePlace at(p, flat, plane / p.count[1], plane % p.count[1]);
        float sum[Channels] = {};
        uint32_t largest = 0;
        if (flat < b.pitch && !(again && (at.n >= b.batch || (largest = b.beyond[at.n]) == 0))) {
            const int exponent = Kind != SPLIT_F16 || at.n >= b.batch ? 0 : again ? scale_exponent(largest)
                                                                                  : exponents[at.n - first];
            phase_thread<Kind>(p, at, plane, cell, exponent,
                               again || b.exact || !at.inside ? nullptr : b.beyond + at.n, sum);
            if (Kind == SPLIT_F16 && row == 0 && at.first)
                b.exponent[at.n] = again || b.exact ? exponent : usable_exponent(exponent);
        }
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
    int64_t count() const { return channels * size[0] * size[1] * size[2]; }    // of a sample
};

static inline PhaseTensor phase_tensor_x(const convt3d__plan *plan, const convt3d_io *io)
{
    const convt3d_desc &d = plan->desc;
    return {io->x, d.x_stride, d.in_size, d.in_channels, d.batch};
}

// size: the output's, three numbers that outlive this.
static inline PhaseTensor phase_tensor_dy(const convt3d__plan *plan, const convt3d_io *io, const int64_t *size)
{
    const convt3d_desc &d = plan->desc;
    return {io->dy, d.dy_stride, size, d.out_channels, d.batch};
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

// How planes are laid out: channels a group in cells, `pair` of them side by side; positions of a sample and in all.
struct PhaseLayout {
    int64_t sample, pitch;
    int groups, in_group, cells_group, pair, lead;
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
    b.width = (int)convt3d__ceil_div(l.pitch, SPLIT_THREADS);
    b.d = divisor_of(s.pitch[0]);  b.h = divisor_of(s.pitch[1]);  b.w = divisor_of(s.pitch[2]);
    p.sample = divisor_of(l.sample);
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
    const int lag = (p.begin[2][0] + 1 - p.begin[2][1]) / 2;
    bool pairs = p.step[2] == 2 && p.count[2] == 2 && t.stride[4] == 1 && (uintptr_t)t.data % (2 * size) == 0 &&
                 lag >= 0 && lag <= 1;
    for (int a = 0; a < 5; a++) {
        vectors = vectors && (a == 1 || t.stride[a] * size % 16 == 0);
        pairs = pairs && (a == 4 || t.stride[a] % 2 == 0);
    }
    b.vectors = vectors;
    b.pairs = pairs;
    p.lag = pairs ? lag : 0;
    return p;
}

}
