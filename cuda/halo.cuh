// Tiles of x with their halo in shared memory: shared by the kernels of plain multiply-adds, direct.cuh, depthwise.cuh.
//
// Columns   On each axis output o = stride*(q - first) + e, 0 <= e < stride, belongs to column q and has the phase
//           (e + rotation) mod stride. All outputs of column q read x near index q, so a tile of columns needs one tile
//           of x, whatever the stride. A column starts at a multiple of the stride, so where a thread owns all outputs
//           of a column of the width (they are `fused`) they are one aligned store.
// Tile      x is stored planar (channel, d, h, w) in the accumulator's type, zero outside the input. Zeros change no
//           bit of a sum as long as the weights are finite. Where one is not (found while packing), the blocks that use
//           it sum tap by tap from global memory instead (halo_exact_sum), in the same order.
// Weights   are packed first, by a kernel of their own into the workspace or by convt3d_pack_weights(): rows of taps x
//           output channels in the accumulator's type, so that a block stages them as 16-byte vectors.
// Order     Every kernel here sums over ic, kd, kh, kw in this order with one multiply-add each, as cuda_generic does:
//           an output's bits depend on no tile, no slab and no batch. The two classes of 16-bit problems on mma.sync
//           (direct_matrix.cuh, depthwise_matrix.cuh) have an order of their own, which the taps alone decide: slabs of
//           such a problem are of the same class, whatever their padding.
// Items     A block computes (phase of depth and height) x (block of output channels) items from one tile of x, its
//           warps split over items and positions. Where all input channels fit shared memory the tile is staged once
//           for all items (resident); else item by item in chunks of channels (streaming).
#pragma once

namespace convt3d_cuda {

enum { HALO_TABLE = 4, HALO_MOST_STRIDE = 4096, HALO_MOST_SHARED = 160 * 1024, HALO_LEAST_SHARED = 96 * 1024 };

// Division of n < 2^31 by a fixed divisor: a multiplication.
struct HaloDivisor {
    uint32_t divisor, factor, shift;
    __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(n, factor) + n) >> shift; }
    // Leaves the remainder in n.
    __device__ __forceinline__ uint32_t split(uint32_t &n) const
    {
        uint32_t quotient = divide(n);
        n -= quotient * divisor;
        return quotient;
    }
};

static inline HaloDivisor halo_divisor(int64_t divisor)
{
    HaloDivisor d = {(uint32_t)divisor, 1, 0};
    while ((INT64_C(1) << d.shift) < divisor) d.shift++;
    uint64_t above = (uint64_t)((INT64_C(1) << d.shift) - divisor);
    d.factor = (uint32_t)((above << 32) / (uint64_t)divisor + 1);
    return d;
}

// The tiling of a plan: made by halo_plan(), kept in plan->state.
struct HaloShape {
    int32_t first[3], columns[3];           // q of the first column; number of columns
    int32_t tile[3], tiles[3];              // columns of a tile; tiles
    int32_t low[3], extent[3];              // x index of the first staged column of tile q0 is q0 + low
    int32_t pitch, plane;                   // of the tile of x, in elements
    int32_t fused, rotation[3];             // fused: outputs of a column of the width that a thread owns
    int32_t channels, channel_blocks;       // output channels of a thread; blocks of them in a group
    int32_t lane_blocks, channel_items;     // blocks of channels side by side in a warp's lanes; such sets of them
    int32_t chunk, chunks;                  // input channels staged at a time
    int32_t phases, phase_step, channel_step, item_warps;   // of depth, height and unfused width; a block's share
    int32_t weight_row, weight_block;       // elements of one row of taps x channels; of a staged block of channels
    int32_t narrowest;                      // least columns of the width that the search considers
    int32_t rounds;                         // sets of slots that a warp computes one after the other
    int32_t shared, stage;                  // bytes; elements of a stage: streaming has two
    struct { int32_t k, offset, count; } phase[3][HALO_TABLE];   // where the stride is at most HALO_TABLE
};

// Whether a block, having one phase, stages that phase's rows of taps only: [kd][kh] are then counted from its first.
static __host__ __device__ __forceinline__ bool halo_compact(const HaloShape &s)
{
    return s.phase_step == 1 && s.phases > 1;
}

template <class T> struct HaloProblem {
    typedef typename Number<T>::Accumulator A;
    const T *x, *w;                         // w: only where a kernel reads it as the user laid it out
    const A *packed;
    const uint32_t *flags;                  // of each row (group, channel block, ic) of packed: 1: not all finite
    T *y;                                   // wide: of A in truth
    int32_t wide;
    Epilogue<T> epilogue;
    List<T> list;
    HaloShape s;
    Axis<int32_t> axis[3];
    int64_t x_stride[5], y_stride[5];       // elements
    HaloDivisor by_ranges[2], by_tiles[3], by_groups;   // a block's index: ranges of phases, of channels
    HaloDivisor by_width, by_height;        // an element of the staged plane
    HaloDivisor by_chunk;                   // a vector of channels
    HaloDivisor by_columns, by_rows;        // a slot of the tile
    int32_t groups, in_group, out_group, taps;
    int32_t x_vectors;                      // channels of x side by side may be read as vectors of 16 bytes
    int32_t packed_vectors;                 // packed is aligned to 16 bytes
    int32_t channels_inner;                 // x: neighbouring channels lie side by side
    int32_t row_neighbours;                 // y: the outputs of a row lie side by side
    int32_t row_vectors, channel_vectors;   // y: the outputs of a thread may be stored as vectors along w, along c
};

// What one kernel asks of halo_plan().
struct HaloKernel {
    int32_t channels, fused, span, slots, warps;    // span columns a slot, slots a warp
    int32_t window;                         // most taps of a phase that the kernel unrolls; 0: any number
    int32_t weight_row;
    int32_t rounds;                         // most sets of slots, one after the other, while all channels are staged
    int32_t planes;                         // 1: a thread owns the outputs of its columns of depth and height too
    int32_t shared;                         // bytes of shared memory that let enough blocks run on an SM
};

// One phase of one axis: its first tap, the x index of that tap relative to q, its taps.
struct HaloPhase { int32_t k, offset, count; };

static inline HaloPhase halo_phase(const convt3d__axis &a, int64_t r)
{
    int64_t k = convt3d__first_tap(&a, r - a.padding);
    if (k < 0) return {0, 0, 0};
    return {(int32_t)k, (int32_t)((r - k * a.dilation) / a.stride), (int32_t)((a.kernel - 1 - k) / a.tap_step + 1)};
}

// The phase of the outputs e of all columns.
static __device__ __forceinline__ HaloPhase halo_phase(const HaloShape &s, const Axis<int32_t> &axis, int a, int32_t e)
{
    if (axis.stride <= HALO_TABLE) return {s.phase[a][e].k, s.phase[a][e].offset, s.phase[a][e].count};
    HaloPhase none = {0, 0, 0};
    int32_t r = e + s.rotation[a], carry = r >= axis.stride;
    r -= carry * axis.stride;
    if (r % axis.gcd != 0) return none;
    int32_t k = mul_mod(r / axis.gcd, axis.inverse, axis.tap_step);
    if (k >= axis.kernel) return none;
    return {k, (r - k * axis.dilation) / axis.stride + carry, (axis.kernel - 1 - k) / axis.tap_step + 1};
}

// ---- on the host: choosing tiles ----

// Columns of one axis, and how far around a column its phases read.
static inline void halo_axis(HaloShape &s, int a, const convt3d__axis &axis, const HaloKernel &kernel)
{
    int64_t first = convt3d__floor_div(axis.padding, axis.stride), low = 0, high = 0;
    int64_t rotation = axis.padding - first * axis.stride;
    for (int64_t e = 0; e < axis.stride; e++) {
        int64_t carry = e + rotation >= axis.stride;
        HaloPhase phase = halo_phase(axis, e + rotation - carry * axis.stride);
        int64_t offset = phase.offset + carry;
        if (axis.stride <= HALO_TABLE) s.phase[a][e] = {phase.k, (int32_t)offset, phase.count};
        if (phase.count == 0) continue;
        low = convt3d__min(low, offset - (phase.count - 1) * axis.in_step);
        high = convt3d__max(high, offset);
    }
    if (a == 2 && kernel.window > 0) { low = 1 - kernel.window;  high = 1; }
    s.first[a] = (int32_t)first;
    s.rotation[a] = (int32_t)rotation;
    s.columns[a] = (int32_t)convt3d__ceil_div(axis.out, axis.stride);
    s.low[a] = (int32_t)low;
    s.extent[a] = (int32_t)(high - low);        // beyond the tile, until the tile is known
    if (a == 2) s.fused = kernel.fused == axis.stride ? kernel.fused : 1;
}

// Columns of a tile on an axis when at most `most` are wanted: as even as the axis divides.
static inline int32_t halo_even(int32_t columns, int64_t most, int32_t span)
{
    int64_t tile = convt3d__max(convt3d__min(most, columns), 1);
    tile = convt3d__ceil_div(columns, convt3d__ceil_div(columns, tile));
    return (int32_t)(convt3d__ceil_div(tile, span) * span);
}

// Bytes of shared memory of a tile with `chunk` input channels; fills in pitch and plane. INT64_MAX: too large.
static inline int64_t halo_bytes(const convt3d__plan *plan, HaloShape &s, const HaloKernel &kernel,
                                 const int32_t tile[3], int64_t chunk)
{
    const int64_t element = plan->desc.dtype == CONVT3D_F64 ? 8 : 4;
    int64_t rows_of_taps = 1;
    for (int a = 0; a < 2; a++)
        rows_of_taps *= halo_compact(s) ? convt3d__ceil_div(plan->axis[a].kernel, plan->axis[a].tap_step)
                                        : plan->axis[a].kernel;
    const int64_t most = INT32_MAX / 64;
    int64_t width = tile[2] + s.extent[2], vector = 16 / element, banks = 128 / element;
    if (kernel.window > 0) width = tile[2] + convt3d__ceil_div(kernel.window, vector) * vector;
    int64_t pitch = convt3d__ceil_div(width, vector) * vector, rows = (int64_t)tile[0] + s.extent[0];
    int64_t shift = (banks + tile[2] - pitch % banks) % banks;      // for rows of a warp to meet different banks
    if (kernel.window == 0 && tile[2] < banks && shift <= pitch / 2) pitch += shift;
    else if (pitch % 32 == 0) pitch += vector;
    rows *= (int64_t)tile[1] + s.extent[1];
    if (rows > most / pitch) return INT64_MAX;
    int64_t plane = rows * pitch;
    plane += (36 - plane % 32) % 32;            // 4 mod 32: channels staged side by side meet different banks
    if (plane > most / chunk) return INT64_MAX;
    int64_t block = chunk * rows_of_taps;
    if (block > most / s.weight_row / (s.channel_step * s.lane_blocks)) return INT64_MAX;
    block *= s.weight_row;
    if (s.lane_blocks > 1) block += (banks + vector - block % banks) % banks;   // lanes of other blocks: other banks
    s.weight_block = (int32_t)block;
    s.pitch = (int32_t)pitch;
    s.plane = (int32_t)plane;
    s.stage = (int32_t)(s.channel_step * s.lane_blocks * block + chunk * plane);
    return s.stage * element * (chunk < plan->in_group ? 2 : 1);
}

// What a tile costs an SM, in lanes of instructions: multiply-adds of its slots, staged elements, and rows of y, where
// the sectors that a row shares with its neighbours are paid twice.
struct HaloCost { double slot, y_row, y_column; };

static inline double halo_tile_cost(const HaloShape &s, const HaloKernel &kernel, const int32_t tile[3], double slots,
                                    const HaloCost &cost)
{
    double tiles = 1;
    for (int a = 0; a < 3; a++) tiles *= (double)convt3d__ceil_div(s.columns[a], tile[a]);
    double rows = (double)(tile[0] + s.extent[0]) * (double)(tile[1] + s.extent[1]);
    return tiles * (slots * kernel.span * cost.slot + 12 * rows * (double)(tile[2] + s.extent[2] + 16) +
                    (double)tile[0] * tile[1] * (cost.y_row + tile[2] * cost.y_column));
}

// The shape of a tile of at most `slots` slots that costs least and fits; false if none does.
static inline bool halo_tile(const convt3d__plan *plan, HaloShape &s, const HaloKernel &kernel, int64_t slots,
                             int64_t chunk, const HaloCost &work, int64_t limit)
{
    double least = 0;
    bool found = false;
    int32_t best[3] = {1, 1, 1};
    for (int64_t wide = slots; wide >= 1; wide /= 2)
        for (int64_t deep = 1; deep <= convt3d__min(8, slots / wide); deep++) {
            int32_t tile[3];
            tile[2] = halo_even(s.columns[2], wide * kernel.span, kernel.span);
            if (tile[2] < convt3d__min(s.columns[2], s.narrowest)) continue;
            tile[0] = halo_even(s.columns[0], deep, 1);
            tile[1] = halo_even(s.columns[1], slots / (tile[0] * (tile[2] / kernel.span)), 1);
            if (halo_bytes(plan, s, kernel, tile, chunk) > limit) continue;
            double cost = halo_tile_cost(s, kernel, tile, (double)slots, work);
            if (found && cost >= least) continue;
            found = true;
            least = cost;
            memcpy(best, tile, sizeof best);
        }
    if (!found) return false;
    memcpy(s.tile, best, sizeof best);
    s.shared = (int32_t)halo_bytes(plan, s, kernel, best, chunk);
    return true;
}

// Whether offsets within a tile of x, and within the columns of a tile of y, fit 32 bits.
static inline bool halo_spans_32_bits(const convt3d__plan *plan, const HaloShape &s)
{
    int64_t x = 0, y = 0;
    for (int a = 0; a < 3; a++) {
        int64_t outputs = s.tile[a] * plan->axis[a].stride;
        if (plan->desc.x_stride[2 + a] > INT32_MAX / s.extent[a] || plan->desc.y_stride[2 + a] > INT32_MAX / outputs)
            return false;
        x += plan->desc.x_stride[2 + a] * s.extent[a];
        y += plan->desc.y_stride[2 + a] * outputs;
    }
    return x <= INT32_MAX && y <= INT32_MAX;
}

static inline int64_t halo_packed_rows(const convt3d__plan *plan, const HaloShape &s)
{
    return plan->desc.groups * s.channel_blocks * plan->in_group;
}

static inline int64_t halo_blocks(const convt3d__plan *plan, const HaloShape &s)
{
    int64_t blocks = plan->desc.batch * plan->desc.groups * convt3d__ceil_div(s.phases, s.phase_step) *
                     convt3d__ceil_div(s.channel_items, s.channel_step);
    for (int a = 0; a < 3; a++) blocks *= s.tiles[a];
    return blocks;
}

static inline bool halo_try(const convt3d__plan *plan, HaloShape &s, const HaloKernel &kernel, int64_t chunk,
                            int64_t limit)
{
    double channels = (double)s.channels * s.channel_step * s.lane_blocks;
    double rows = (double)s.phase_step * channels * (kernel.planes ? 4 : 1);
    double staged_channels = (double)plan->in_group, per_byte = 6 / staged_channels;
    HaloCost work = {(double)plan->taps * channels * s.phase_step / s.phases * 1.4,
                     rows * 96 * per_byte, rows * s.fused * (double)convt3d__element_size(plan->desc.dtype) * per_byte};
    int64_t slots = (int64_t)kernel.warps / s.item_warps * kernel.slots * 32 / s.lane_blocks * s.rounds;
    if (!halo_tile(plan, s, kernel, slots, chunk, work, limit)) return false;
    s.chunk = (int32_t)chunk;
    s.chunks = (int32_t)convt3d__ceil_div(plan->in_group, chunk);
    for (int a = 0; a < 3; a++) {
        s.tiles[a] = (int32_t)convt3d__ceil_div(s.columns[a], s.tile[a]);
        s.extent[a] += s.tile[a];
    }
    return true;
}

// Bytes of shared memory that a block may have: some cards after sm_80 have less than it.
static inline int64_t halo_most_shared(const convt3d__plan *plan)
{
    int32_t arch = plan->cuda_arch;
    return arch == 86 || arch == 88 || arch == 89 || arch >= 120 ? HALO_LEAST_SHARED : HALO_MOST_SHARED;
}

// All input channels staged once for all items. Warps go over to items until a tile fits and the card is full, then
// items to the grid.
static inline bool halo_resident(const convt3d__plan *plan, HaloShape &s, const HaloKernel &kernel)
{
    const int64_t wanted = 24 / kernel.warps * (int64_t)plan->multiprocessors;
    HaloShape blank = s;
    bool found = false;
    if (plan->in_group > 1024) return false;
    blank.rounds = kernel.rounds;
    for (;;) {
        HaloShape trial = blank;
        if (halo_try(plan, trial, kernel, plan->in_group, convt3d__min(kernel.shared, halo_most_shared(plan)))) {
            s = trial;
            found = true;
            if (halo_blocks(plan, s) >= wanted) return true;
        }
        if (blank.rounds > 1) blank.rounds /= 2;
        else if (2 * blank.item_warps <= kernel.warps && 2 * blank.item_warps <= blank.phase_step * blank.channel_step)
            blank.item_warps *= 2;
        else if (!found) return false;
        else if (blank.phase_step > 1) blank.phase_step = (blank.phase_step + 1) / 2;
        else if (blank.channel_step > 1) blank.channel_step = (blank.channel_step + 1) / 2;
        else return true;
        while (blank.item_warps > blank.phase_step * blank.channel_step) blank.item_warps /= 2;
    }
}

// One phase at a time and as many blocks of channels as there are warps for them, in chunks of input channels.
static inline bool halo_streaming(const convt3d__plan *plan, HaloShape &s, const HaloKernel &kernel)
{
    HaloShape blank = s;
    blank.phase_step = 1;
    blank.item_warps = 1;
    for (int32_t warps = 2; warps <= convt3d__min(kernel.warps, 4); warps *= 2)     // unless that leaves warps idle
        if (convt3d__ceil_div(s.channel_items, warps) * warps <= s.channel_items + s.channel_items / 8)
            blank.item_warps = warps;
    blank.channel_step = blank.item_warps;
    const int64_t limits[2] = {convt3d__min(kernel.shared, halo_most_shared(plan)), halo_most_shared(plan)};
    for (int64_t limit : limits)
        for (int64_t chunk = convt3d__min(16, plan->in_group); chunk >= 1; chunk /= 2) {
            HaloShape trial = blank;
            if (!halo_try(plan, trial, kernel, chunk, limit)) continue;
            s = trial;
            return true;
        }
    return false;
}

// Tiles the plan for a kernel; false and why if it cannot be.
static inline bool halo_plan(const convt3d__plan *plan, const HaloKernel &kernel, HaloShape &s, char why[96])
{
    convt3d__text text = {why, 96, 0};
    memset(&s, 0, sizeof s);
    if (plan->cuda_arch < 80) { convt3d__put(&text, "needs sm_80");  return false; }
    if (!fits_32_bits(plan)) { convt3d__put(&text, "an index needs more than 32 bits");  return false; }
    for (int a = 0; a < 3; a++)
        if (plan->axis[a].stride > HALO_MOST_STRIDE) {
            convt3d__put(&text, "stride beyond 4096");
            return false;
        }
    if (plan->taps > INT32_MAX / 64 || plan->desc.in_channels > INT32_MAX || plan->desc.out_channels > INT32_MAX) {
        convt3d__put(&text, "too many taps or channels");
        return false;
    }
    if (plan->y_count == 0) { s.chunk = 1;  return true; }
    for (int a = 0; a < 3; a++) halo_axis(s, a, plan->axis[a], kernel);
    s.channels = kernel.channels;
    s.channel_blocks = (int32_t)convt3d__ceil_div(plan->out_group, kernel.channels);
    s.lane_blocks = s.rounds = 1;
    if (plan->desc.y_stride[1] == 1 && kernel.window == 0)      // NDHWC: lanes write neighbouring channels
        while (s.lane_blocks < 4 && 2 * s.lane_blocks <= s.channel_blocks) s.lane_blocks *= 2;
    int64_t columns = (int64_t)s.columns[0] * s.columns[1] * s.columns[2];
    while (kernel.window == 0 && s.lane_blocks < 4 && 2 * s.lane_blocks <= s.channel_blocks &&
           columns * s.lane_blocks * 2 <= kernel.slots * 32)        // a sample is smaller than a warp's columns
        s.lane_blocks *= 2;
    s.channel_items = (int32_t)convt3d__ceil_div(s.channel_blocks, s.lane_blocks);
    s.weight_row = kernel.weight_row;
    s.phases = (int32_t)(plan->axis[0].stride * plan->axis[1].stride * (s.fused == plan->axis[2].stride ? 1
                                                                        : plan->axis[2].stride));
    if (kernel.planes) s.phases = 1;
    s.phase_step = s.phases;
    s.channel_step = s.channel_items;
    s.item_warps = 1;
    if (plan->axis[0].stride * plan->axis[1].stride > INT32_MAX / HALO_MOST_STRIDE) {
        convt3d__put(&text, "too many phases");
        return false;
    }
    s.narrowest = 16;                       // narrower rows share too many sectors of x and y with their neighbours
    bool found = halo_resident(plan, s, kernel) || halo_streaming(plan, s, kernel);
    if (!found) {
        s.narrowest = 1;
        found = halo_resident(plan, s, kernel) || halo_streaming(plan, s, kernel);
    }
    if (!found) {
        convt3d__put(&text, "a tile with its halo and weights exceeds shared memory");
        return false;
    }
    if (!halo_spans_32_bits(plan, s)) {
        convt3d__put(&text, "a tile spans more than 2^31 elements of x or y");
        return false;
    }
    if (halo_blocks(plan, s) <= INT32_MAX && halo_packed_rows(plan, s) <= INT32_MAX) return true;
    convt3d__put(&text, "too many tiles for one grid");
    return false;
}

// Bytes of the packed weights: the rows, then one flag each.
static inline int64_t halo_packed(const convt3d__plan *plan, const HaloShape &s)
{
    int64_t element = plan->desc.dtype == CONVT3D_F64 ? 8 : 4, taps = plan->axis[0].kernel * plan->axis[1].kernel;
    return halo_packed_rows(plan, s) * (taps * s.weight_row * element + 4);
}

static inline HaloShape halo_shape(const convt3d__plan *plan) { return kept_shape<HaloShape>(plan); }

// Whether the plan's kernel has anything to do between the bias and the rounding: there are instances that have not.
static inline bool halo_lists(const convt3d__plan *plan)
{
    return plan->fused > 0 || plan->stored != plan->desc.dtype;
}

// Of the kernels that have three instances, the one for this plan.
static inline ListForm halo_form(const convt3d__plan *plan)
{
    const convt3d_io io = {};
    return plan->stored != plan->desc.dtype ? WHOLE_LIST : form_of(list_of<float>(plan, &io, 0, plan->fused));
}

// act(its form as a constant)
template <ListForm Form_> struct HaloForm { static constexpr ListForm Form = Form_; };
template <class Act> auto halo_with_form(const convt3d__plan *plan, Act act)
{
    switch (halo_form(plan)) {
    case NO_LIST:    return act(HaloForm<NO_LIST>());
    case LIGHT_LIST: return act(HaloForm<LIGHT_LIST>());
    default:         return act(HaloForm<WHOLE_LIST>());
    }
}

template <class T>
HaloProblem<T> halo_problem(const convt3d__plan *plan, const convt3d_io *io, const HaloShape &s, int32_t span)
{
    HaloProblem<T> p = {};
    const convt3d_desc &d = plan->desc;
    const int64_t element = convt3d__element_size(plan->stored);
    int64_t vector = 16 / (int64_t)sizeof(T), y_vector = 16 / element;
    bool other_multiples = true, all_multiples = true;
    p.x = (const T *)io->x;
    p.w = (const T *)(io->w_packed ? io->w_packed : io->w);
    p.packed = (const typename HaloProblem<T>::A *)(io->w_packed ? io->w_packed : io->workspace);
    p.flags = (const uint32_t *)(p.packed + halo_packed_rows(plan, s) * plan->axis[0].kernel * plan->axis[1].kernel *
                                 s.weight_row);
    p.packed_vectors = (uintptr_t)p.packed % 16 == 0;
    p.y = (T *)io->y;
    p.wide = plan->stored != d.dtype;
    p.epilogue.bias = (const T *)io->bias;
    p.list = list_of<T>(plan, io, 0, plan->fused);
    p.s = s;
    for (int a = 0; a < 3; a++) p.axis[a] = axis_of<int32_t>(plan->axis[a]);
    for (int i = 0; i < 5; i++) {
        p.x_stride[i] = d.x_stride[i];
        p.y_stride[i] = d.y_stride[i];
        if (i < 4) other_multiples = other_multiples && d.y_stride[i] % convt3d__min(y_vector, s.fused) == 0;
        if (i < 4) all_multiples = all_multiples && d.y_stride[i] % y_vector == 0;
    }
    p.groups = (int32_t)d.groups;
    p.in_group = (int32_t)plan->in_group;
    p.out_group = (int32_t)plan->out_group;
    p.taps = (int32_t)plan->taps;
    p.channels_inner = d.x_stride[1] == 1 && d.x_stride[4] != 1 && s.chunk > 1;
    p.x_vectors = p.channels_inner && d.alignment >= 16 && s.chunk % vector == 0 && plan->in_group % vector == 0;
    for (int i = 0; i < 5; i++)
        if (i != 1 && d.x_stride[i] % vector != 0) p.x_vectors = 0;
    p.by_ranges[0] = halo_divisor(convt3d__ceil_div(s.phases, s.phase_step));
    p.by_ranges[1] = halo_divisor(convt3d__ceil_div(s.channel_items, s.channel_step));
    for (int a = 0; a < 3; a++) p.by_tiles[a] = halo_divisor(convt3d__max(s.tiles[a], 1));
    p.by_groups = halo_divisor(d.groups);
    p.by_width = halo_divisor(convt3d__max(s.extent[2], 1));
    p.by_height = halo_divisor(convt3d__max(s.extent[1], 1));
    p.by_chunk = halo_divisor(convt3d__max(p.x_vectors ? s.chunk / vector : s.chunk, 1));
    p.by_columns = halo_divisor(convt3d__max(s.tile[2] / span, 1));
    p.by_rows = halo_divisor(convt3d__max(s.tile[1], 1));
    p.row_neighbours = d.y_stride[4] == 1;
    // 2: whole 16-byte vectors along w; 1: vectors of one column
    p.row_vectors = d.y_stride[4] != 1 ? 0 : all_multiples && d.alignment >= 16 ? 2
                  : other_multiples && d.alignment >= convt3d__min(16, s.fused * element) ? 1 : 0;
    p.channel_vectors = d.y_stride[1] == 1 && d.alignment >= 16 && plan->out_group % s.channels == 0 &&
                        s.channels > 1;
    for (int i = 0; i < 5; i++)
        if (i != 1 && d.y_stride[i] % convt3d__min(y_vector, s.channels) != 0) p.channel_vectors = 0;
    return p;
}

// ---- on the device: staging ----

extern __shared__ __align__(16) unsigned char halo_shared[];

static __device__ __forceinline__ bool not_finite(float v) { return !(fabsf(v) <= 3.402823466e38f); }
static __device__ __forceinline__ bool not_finite(double v) { return !(fabs(v) <= 1.7976931348623157e308); }

static __device__ __forceinline__ void stage_element(float *to, const float *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}
static __device__ __forceinline__ void stage_element(double *to, const double *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}
template <class A> __device__ __forceinline__ void stage_vector(A *to, const A *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}
template <class T> __device__ __forceinline__ void stage_element(float *to, const T *from)
{
    *to = Number<T>::widen(*from);
}
static __device__ __forceinline__ void stage_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <class A> struct alignas(16) HaloVector { A v[16 / sizeof(A)]; };

// Consecutive elements of shared memory, 16 bytes at a time.
template <class A, int N> __device__ __forceinline__ void load_vectors(A (&to)[N], const A *from)
{
    constexpr int vector = 16 / (int)sizeof(A);
#pragma unroll
    for (int i = 0; i < N / vector; i++) {
        HaloVector<A> v = ((const HaloVector<A> *)from)[i];
#pragma unroll
        for (int j = 0; j < vector; j++) to[i * vector + j] = v.v[j];
    }
}

// Which tile of which sample and group a block has, which of its items, and the column that the tile starts at.
struct HaloBlock {
    int32_t q[3], g, phase, channel_block;
    int64_t n;
};

template <class T> __device__ __forceinline__ HaloBlock halo_block(const HaloProblem<T> &p, uint32_t index)
{
    HaloBlock b;
    uint32_t next = p.by_ranges[0].split(index);
    b.phase = (int32_t)index * p.s.phase_step;
    index = next;
    next = p.by_ranges[1].split(index);
    b.channel_block = (int32_t)index * p.s.channel_step * p.s.lane_blocks;
    index = next;                           // groups before tiles: in NDHWC they share lines of x and y
    next = p.by_groups.split(index);
    b.g = (int32_t)index;
    for (int a = 2; a >= 0; a--) {
        index = next;
        next = p.by_tiles[a].split(index);
        b.q[a] = p.s.first[a] + (int32_t)index * p.s.tile[a];
    }
    b.n = next;
    return b;
}

// The column of a slot of the tile, in columns from the tile's first; d beyond the tile for slots beyond it.
struct HaloColumn { int32_t d, h, w; };

template <class T> __device__ __forceinline__ HaloColumn halo_column(const HaloProblem<T> &p, uint32_t slot)
{
    uint32_t row = p.by_columns.split(slot), d = p.by_rows.split(row);
    return {(int32_t)d, (int32_t)row, (int32_t)slot};
}

// One element of the staged tile: where it goes, where it comes from, and whether it is inside the input.
struct HaloElement { int32_t to, from; bool inside; };

template <class T>
__device__ __forceinline__ HaloElement halo_element(const HaloProblem<T> &p, const HaloBlock &b, uint32_t at)
{
    uint32_t row = p.by_width.split(at), h = row, d = p.by_height.split(h);
    int32_t id = b.q[0] + p.s.low[0] + (int32_t)d, ih = b.q[1] + p.s.low[1] + (int32_t)h;
    int32_t iw = b.q[2] + p.s.low[2] + (int32_t)at;
    HaloElement e;
    e.to = (int32_t)row * p.s.pitch + (int32_t)at;
    e.from = (int32_t)d * (int32_t)p.x_stride[2] + (int32_t)h * (int32_t)p.x_stride[3] +
             (int32_t)at * (int32_t)p.x_stride[4];
    e.inside = (uint32_t)id < (uint32_t)p.axis[0].in && (uint32_t)ih < (uint32_t)p.axis[1].in &&
               (uint32_t)iw < (uint32_t)p.axis[2].in;
    return e;
}

// Stages channels [ic, ic + count) of the block's tile of x, zeros outside the input.
template <class T, class A, int Threads>
__device__ __forceinline__ void halo_stage_x(const HaloProblem<T> &p, const HaloBlock &b, int32_t ic, int32_t count,
                                             A *to)
{
    const HaloShape &s = p.s;
    const uint32_t elements = s.extent[0] * s.extent[1] * s.extent[2];
    const T *x = p.x + b.n * p.x_stride[0] + ((int64_t)b.g * p.in_group + ic) * p.x_stride[1] +
                 (b.q[0] + s.low[0]) * p.x_stride[2] + (b.q[1] + s.low[1]) * p.x_stride[3] +
                 (b.q[2] + s.low[2]) * p.x_stride[4];
    if (p.x_vectors) {
        constexpr int vector = 16 / (int)sizeof(T), together = 2;
        struct alignas(16) Pack { T v[vector]; };
        const uint32_t all = elements * p.by_chunk.divisor;
        for (uint32_t first = threadIdx.x; first < all; first += together * Threads) {
            Pack pack[together] = {};
            A *element[together];
#pragma unroll
            for (int j = 0; j < together; j++) {
                uint32_t c = first + j * Threads, at = p.by_chunk.split(c);
                HaloElement e = halo_element(p, b, at);
                bool staged = at < elements && (int32_t)c * vector < count;
                element[j] = staged ? to + (int32_t)c * vector * s.plane + e.to : NULL;
                if (element[j] && e.inside) pack[j] = *(const Pack *)(x + e.from + (int32_t)c * vector);
            }
#pragma unroll
            for (int j = 0; j < together; j++)
                if (element[j])
#pragma unroll
                    for (int v = 0; v < vector; v++) element[j][v * s.plane] = Number<T>::widen(pack[j].v[v]);
        }
    } else if (p.channels_inner) {
        for (uint32_t i = threadIdx.x; i < elements * (uint32_t)s.chunk; i += Threads) {
            uint32_t c = i;
            HaloElement e = halo_element(p, b, p.by_chunk.split(c));
            if ((int32_t)c >= count) continue;
            if (e.inside) stage_element(to + (int32_t)c * s.plane + e.to, x + e.from + c);
            else to[(int32_t)c * s.plane + e.to] = 0;
        }
    } else if (sizeof(T) >= 4 && count == 1) {
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < elements; i += Threads) {
            HaloElement e = halo_element(p, b, i);
            if (e.inside) stage_element(to + e.to, x + e.from);
            else to[e.to] = 0;
        }
    } else if constexpr (sizeof(T) >= 4) {
        for (uint32_t i = threadIdx.x; i < elements; i += Threads) {
            HaloElement e = halo_element(p, b, i);
            const T *from = x + e.from;
            A *element = to + e.to;
            if (e.inside)
#pragma unroll 4
                for (int32_t c = 0; c < count; c++, from += p.x_stride[1], element += s.plane)
                    stage_element(element, from);
            else
#pragma unroll 4
                for (int32_t c = 0; c < count; c++, element += s.plane) *element = 0;
        }
    } else {
        constexpr int together = 4;             // loads in flight
        for (uint32_t first = threadIdx.x; first < elements; first += together * Threads) {
            HaloElement e[together];
#pragma unroll
            for (int j = 0; j < together; j++) e[j] = halo_element(p, b, first + j * Threads);
            for (int32_t c = 0; c < count; c++) {
                T v[together] = {};
#pragma unroll
                for (int j = 0; j < together; j++)
                    if (e[j].inside && first + j * Threads < elements) v[j] = x[e[j].from + c * p.x_stride[1]];
#pragma unroll
                for (int j = 0; j < together; j++)
                    if (first + j * Threads < elements) to[e[j].to + c * s.plane] = Number<T>::widen(v[j]);
            }
        }
    }
}

// Stages the packed weights of the block's items as [channel block][ic][kd][kh][row]. Returns whether one of those that
// this thread looked after is not finite.
template <class T, class A, int Threads>
__device__ __forceinline__ bool halo_stage_w(const HaloProblem<T> &p, const HaloBlock &b, int32_t ic, int32_t count,
                                             A *to)
{
    const HaloShape &s = p.s;
    const int32_t kernel_h = p.axis[1].kernel, rows = p.axis[0].kernel * kernel_h;
    const int32_t blocks = min(s.channel_step * s.lane_blocks, s.channel_blocks - b.channel_block);
    constexpr int32_t vector = 16 / (int32_t)sizeof(A);
    HaloPhase d = {0, 0, p.axis[0].kernel}, h = {0, 0, kernel_h};
    int32_t step_d = 1, step_h = 1;
    if (halo_compact(s)) {
        int32_t dh = b.phase / (s.fused == p.axis[2].stride ? 1 : p.axis[2].stride);
        d = halo_phase(s, p.axis[0], 0, dh / p.axis[1].stride);
        h = halo_phase(s, p.axis[1], 1, dh % p.axis[1].stride);
        step_d = p.axis[0].tap_step;
        step_h = p.axis[1].tap_step;
    }
    bool found = false;
    const uint32_t row_vectors = s.weight_row / vector, used = d.count * h.count;
    for (int32_t block = 0; block < blocks; block++) {
        int64_t row = ((int64_t)b.g * s.channel_blocks + b.channel_block + block) * p.in_group + ic;
        const A *from = p.packed + row * rows * s.weight_row;
        A *block_to = to + block * s.weight_block;
        for (int32_t i = threadIdx.x; i < count; i += Threads) found = found || p.flags[row + i];
        for (uint32_t i = threadIdx.x; i < used * count * row_vectors; i += Threads) {
            uint32_t at = i * vector;
            if (used != (uint32_t)rows) {
                uint32_t rest = i / row_vectors, c = rest / used, tap = rest - c * used, td = tap / h.count;
                at = ((c * rows + (d.k + td * step_d) * kernel_h + h.k + (tap - td * h.count) * step_h) * row_vectors +
                      i - rest * row_vectors) * vector;
            }
            if (p.packed_vectors) stage_vector(block_to + i * vector, from + at);
            else
                for (int j = 0; j < vector; j++) stage_element(block_to + i * vector + j, from + at + j);
        }
    }
    return found;
}

// Where the weight of a tap and channel is in the packed weights.
struct HaloPacking { int32_t channels, channel_blocks, weight_row; };

// The sum of one output, tap by tap: what is right whatever the weights are.
template <class T, class W> __device__ __noinline__ typename Number<T>::Accumulator
halo_exact_sum(const HaloProblem<T> &p, const W *w, HaloPacking packing, int64_t n, int32_t g, int32_t oc, int32_t od,
               int32_t oh, int32_t ow)
{
    typename Number<T>::Accumulator sum = 0;
    Taps<int32_t> d = taps_of(p.axis[0], od), h = taps_of(p.axis[1], oh), l = taps_of(p.axis[2], ow);
    for (int32_t ic = 0; ic < p.in_group; ic++)
        for (int32_t a = 0; a < d.count; a++)
            for (int32_t b = 0; b < h.count; b++)
                for (int32_t c = 0; c < l.count; c++) {
                    int64_t id = d.i - a * p.axis[0].in_step, kd = d.k + a * p.axis[0].tap_step;
                    int64_t ih = h.i - b * p.axis[1].in_step, kh = h.k + b * p.axis[1].tap_step;
                    int64_t iw = l.i - c * p.axis[2].in_step, kw = l.k + c * p.axis[2].tap_step;
                    int64_t row = ((int64_t)g * packing.channel_blocks + oc / packing.channels) * p.in_group + ic;
                    row = (row * p.axis[0].kernel + kd) * p.axis[1].kernel + kh;
                    sum += Number<T>::widen(p.x[n * p.x_stride[0] + ((int64_t)g * p.in_group + ic) * p.x_stride[1] +
                                                id * p.x_stride[2] + ih * p.x_stride[3] + iw * p.x_stride[4]]) *
                           Number<W>::widen(w[row * packing.weight_row + kw * packing.channels +
                                              oc % packing.channels]);
                }
    return sum;
}

// One block a row of the packed weights: [group][channel block][ic] of [kd][kh][kw][channel], zeros where there is no
// such tap or channel, and whether all are finite.
template <class T> struct HaloPack {
    typedef typename Number<T>::Accumulator A;
    const T *w;
    A *packed;
    uint32_t *flags;
    int32_t in_group, out_group, channels, channel_blocks, kernel_w, weight_row, taps;
};

template <class T> __global__ void __launch_bounds__(128) halo_pack_kernel(const __grid_constant__ HaloPack<T> p)
{
    uint32_t ic = blockIdx.x % (uint32_t)p.in_group, rest = blockIdx.x / (uint32_t)p.in_group;
    uint32_t block = rest % (uint32_t)p.channel_blocks, g = rest / (uint32_t)p.channel_blocks;
    uint32_t rows = p.taps / p.kernel_w, elements = rows * p.weight_row;
    const T *from = p.w + ((int64_t)g * p.in_group + ic) * p.out_group * p.taps;
    bool found = false;
    for (uint32_t i = threadIdx.x; i < elements; i += 128) {
        uint32_t row = i / (uint32_t)p.weight_row, at = i - row * p.weight_row, kw = at / (uint32_t)p.channels;
        uint32_t oc = block * p.channels + at - kw * p.channels;
        typename HaloPack<T>::A v = 0;
        if (kw < (uint32_t)p.kernel_w && oc < (uint32_t)p.out_group)
            v = Number<T>::widen(from[(int64_t)oc * p.taps + row * p.kernel_w + kw]);
        found = found || not_finite(v);
        p.packed[(int64_t)blockIdx.x * elements + i] = v;
    }
    found = __syncthreads_or(found);
    if (threadIdx.x == 0) p.flags[blockIdx.x] = found;
}

template <class T>
convt3d_status halo_pack(const convt3d__plan *plan, const HaloShape &s, const void *w, void *packed, void *stream,
                         convt3d_error *error)
{
    HaloPack<T> p = {};
    int64_t rows = halo_packed_rows(plan, s);
    p.w = (const T *)w;
    p.packed = (typename HaloPack<T>::A *)packed;
    p.flags = (uint32_t *)(p.packed + rows * plan->axis[0].kernel * plan->axis[1].kernel * s.weight_row);
    p.in_group = (int32_t)plan->in_group;
    p.out_group = (int32_t)plan->out_group;
    p.channels = s.channels;
    p.channel_blocks = s.channel_blocks;
    p.kernel_w = (int32_t)plan->axis[2].kernel;
    p.weight_row = s.weight_row;
    p.taps = (int32_t)plan->taps;
    return convt3d__launch(error, halo_pack_kernel<T>, dim3((unsigned)rows), dim3(128), 0, stream, p);
}

// Packs, unless that was done before, and launches a kernel on all tiles.
template <class T>
convt3d_status halo_run(const convt3d__plan *plan, const convt3d_io *io, void (*kernel)(HaloProblem<T>), int threads,
                        int32_t span, convt3d_error *error)
{
    HaloShape s = halo_shape(plan);
    if (!io->w_packed) {
        convt3d_status status = halo_pack<T>(plan, s, io->w, io->workspace, io->stream, error);
        if (status != CONVT3D_OK) return status;
    }
    return convt3d__launch(error, kernel, dim3((unsigned)halo_blocks(plan, s)), dim3((unsigned)threads),
                           (size_t)s.shared, io->stream, halo_problem<T>(plan, io, s, span));
}

// What kernels have in common that pack w as halo_pack() does, and those that read it as it came. The one to launch is
// Kernel::function(plan).
template <class Kernel, class T> struct HaloPacker {
    static constexpr bool plain = false;
    convt3d_status ready(const convt3d__plan *plan, convt3d_error *error) const
    {
        convt3d_status status = convt3d__load_kernel(error, plan, halo_pack_kernel<T>, 0);
        if (status != CONVT3D_OK) return status;
        return convt3d__load_kernel(error, plan, Kernel::function(plan), (size_t)halo_shape(plan).shared);
    }
    convt3d_status pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                        convt3d_error *error) const
    {
        return halo_pack<T>(plan, halo_shape(plan), w, packed, stream, error);
    }
};
template <class Kernel> struct HaloPlain {
    static constexpr bool plain = true;
    convt3d_status ready(const convt3d__plan *plan, convt3d_error *error) const
    {
        return convt3d__load_kernel(error, plan, Kernel::function(plan), (size_t)halo_shape(plan).shared);
    }
    convt3d_status pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                        convt3d_error *error) const
    {
        return convt3d__plain_w_pack(plan, w, packed, stream, error);
    }
};

// Stages one chunk: weights, then x. K: a kernel's configuration.
template <class K>
__device__ __forceinline__ bool halo_stage(const HaloProblem<typename K::Element> &p, const HaloBlock &b, int32_t chunk,
                                           typename K::Accumulator *to)
{
    typedef typename K::Accumulator A;
    int32_t ic = chunk * p.s.chunk, count = min(p.s.chunk, p.in_group - ic);
    bool found = halo_stage_w<typename K::Element, A, K::Threads>(p, b, ic, count, to);
    to += p.s.channel_step * p.s.lane_blocks * p.s.weight_block;
    halo_stage_x<typename K::Element, A, K::Threads>(p, b, ic, count, to);
    return found;
}

// The bias of an output channel, to be read once for many outputs: y may not be written in between.
template <class T>
__device__ __forceinline__ typename Number<T>::Accumulator halo_bias(const HaloProblem<T> &p, int64_t oc)
{
    return p.epilogue.bias ? Number<T>::widen(p.epilogue.bias[oc]) : typename Number<T>::Accumulator(0);
}

// An output summed one by one, to y: the bias, the list, the rounding.
template <class T>
__device__ __forceinline__ void halo_finish(const HaloProblem<T> &p, int64_t offset,
                                            typename Number<T>::Accumulator sum, const Where &place)
{
    typename Number<T>::Accumulator v[1] = {p.epilogue.widen(sum, place.oc)};
    if (p.list.count > 0) list_in_memory(p.list, v, 1, 1, place);
    if (sizeof(T) == 2 && p.wide) ((typename Number<T>::Accumulator *)p.y)[offset] = v[0];
    else ((T *)p.y)[offset] = Number<T>::round(v[0]);
}

// A few neighbours of T as they came from memory: 16-bit types stay in pairs until they are wanted.
template <int Bytes> struct HaloRaw;
template <> struct HaloRaw<2> { typedef uint16_t Type; };
template <> struct HaloRaw<4> { typedef uint32_t Type; };
template <> struct HaloRaw<8> { typedef uint2 Type; };

static __device__ __forceinline__ float2 widen_pair(uint32_t v, const __half *)
{
    return __half22float2(*(const __half2 *)&v);
}
static __device__ __forceinline__ float2 widen_pair(uint32_t v, const __nv_bfloat16 *)
{
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

template <class T, int N>
__device__ __forceinline__ void widen_raw(const typename HaloRaw<N * (int)sizeof(T)>::Type &raw,
                                          typename Number<T>::Accumulator (&v)[N])
{
    if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float2 pair = widen_pair(((const uint32_t *)&raw)[i], (const T *)0);
            v[2 * i] = pair.x;
            v[2 * i + 1] = pair.y;
        }
    } else
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = Number<T>::widen(((const T *)&raw)[i]);
}

// N words of 4 bytes to where 16 bytes, or all of them, may be stored at once; evict-first: y is not read again.
template <int N> __device__ __forceinline__ void store_words(void *to, const uint32_t (&word)[N])
{
    static_assert(N == 1 || N == 2 || N % 4 == 0, "a width that stores have");
    if constexpr (N == 1) __stcs((uint32_t *)to, word[0]);
    else if constexpr (N == 2) __stcs((uint2 *)to, make_uint2(word[0], word[1]));
    else
#pragma unroll
        for (int i = 0; i < N; i += 4)
            __stcs((uint4 *)to + i / 4, make_uint4(word[i], word[i + 1], word[i + 2], word[i + 3]));
}

// N values to consecutive elements, in stores of 16 bytes or of all N; evict-first, since y is not read again.
template <class T, int N> __device__ __forceinline__ void store_vector(T *to, const T (&value)[N])
{
    constexpr int bytes = N * (int)sizeof(T);
    static_assert(bytes == 2 || bytes == 4 || bytes == 8 || bytes % 16 == 0, "a width that stores have");
    union { T value[N];  uint4 v16[(bytes + 15) / 16];  uint2 v8;  uint32_t v4;  uint16_t v2; } pack = {};
#pragma unroll
    for (int i = 0; i < N; i++) pack.value[i] = value[i];
    if constexpr (bytes >= 16) {
#pragma unroll
        for (int i = 0; i < bytes / 16; i++) __stcs((uint4 *)to + i, pack.v16[i]);
    } else if constexpr (bytes == 8) __stcs((uint2 *)to, pack.v8);
    else if constexpr (bytes == 4) __stcs((uint32_t *)to, pack.v4);
    else __stcs((uint16_t *)to, pack.v2);
}

// Two rounded neighbours as one word.
static __device__ __forceinline__ uint32_t round_pair(float a, float b, const __half *)
{
    const __half2 pair = __floats2half2_rn(a, b);
    return *(const uint32_t *)&pair;
}
static __device__ __forceinline__ uint32_t round_pair(float a, float b, const __nv_bfloat16 *)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&pair;
}

// N sums, rounded, to consecutive elements, as store_vector() does it.
template <class T, int N>
__device__ __forceinline__ void store_rounded(T *to, const typename Number<T>::Accumulator (&sum)[N])
{
    if constexpr (sizeof(T) == 2 && N % 2 == 0) {
        uint32_t word[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) word[i] = round_pair(sum[2 * i], sum[2 * i + 1], (const T *)0);
        store_words(to, word);
    } else {
        T value[N];
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = Number<T>::round(sum[i]);
        store_vector(to, value);
    }
}

// A light list on values of one channel, to which the bias has been added.
template <class T, int N>
__device__ __forceinline__ void halo_light(const List<T> &list, int64_t channel,
                                           typename Number<T>::Accumulator (&v)[N])
{
    const typename Number<T>::Accumulator factor = list.head.factor(channel), term = list.head.term(channel);
    if (list.head.entries > 0)
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = fma(v[i], factor, term);
    apply_light(list, v);
}

}
