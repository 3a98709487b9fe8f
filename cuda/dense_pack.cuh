// What sm90_dense launches before its main kernel, scales and operands, and after it, what NaN and infinity reach.
#pragma once

#if CONVT3D__PART(2) || CONVT3D__PART(12)

namespace convt3d_cuda {

// ---- before: scales, then operands ----

// Packed weights: flags, the operand's rows in the order of the walk and, where they are to be kept, w as it came for
// dense_repair_kernel. Flags of a split: the exponent of each row; otherwise, for each cell of K, whether eight rows
// hold what the matrix unit must not see.
struct DensePackProblem {
    const void *w;
    int *flags;
    uint4 *rows;
    void *copy;                             // or null
    int in_group, out_group, blocks_group, taps, taps_used, cells_group, chunks;    // chunks: of a K block
    int octets, scan_blocks, pack_blocks;   // eighths of rows; blocks of the two launches, none where w came packed
    int vectors;                            // the taps of a pair of channels are whole, aligned 16-byte units
    int fold, fold_step, channels;          // DenseFold: taps (0: none), the kernel's from one to the next; channels
    uint16_t tap[DENSE_MOST_STEPS];
};

// The exponent of one row.
template <int NB> __device__ __forceinline__ void dense_scan_row(const DensePackProblem &p, int row)
{
    const int nb = p.fold > 0 ? p.channels : NB, block = row / nb, g = block / p.blocks_group;
    const int oc = block % p.blocks_group * nb + row % nb;
    const int unit = p.vectors ? 4 : 1, units = p.taps / unit;
    const int64_t step = (int64_t)p.out_group * p.taps;
    const float *w = (const float *)p.w + ((int64_t)g * p.in_group * p.out_group + oc) * p.taps;
    uint32_t most = 0;
    if (oc < p.out_group)
#pragma unroll 8
        for (int i = threadIdx.x; i < p.in_group * units; i += SPLIT_THREADS) {
            int ic = i / units;
            const float *at = w + ic * step + (i - ic * units) * unit;
            float4 v = p.vectors ? __ldg((const float4 *)at) : make_float4(__ldg(at), 0, 0, 0);
            most = max(max(most, max(magnitude_bits(v.x), magnitude_bits(v.y))),
                       max(magnitude_bits(v.z), magnitude_bits(v.w)));
        }
    most = block_largest(most);
    if (threadIdx.x == 0) p.flags[row] = scale_exponent(most);
}

// What must not reach the matrix unit: NaN and infinity; for tf32 also what it rounds too coarsely.
template <int Mode, class Element> __device__ __forceinline__ bool dense_unfit(Element v)
{
    if constexpr (Mode == DENSE_F16) return (v & 0x7c00) == 0x7c00;
    else if constexpr (Mode == DENSE_BF16) return (v & 0x7f80) == 0x7f80;
    else return magnitude_bits(v) >= 0x7f800000u || is_subnormal(v);
}

// Eight rows of one cell.
template <int Mode, int NB> __device__ __forceinline__ void dense_pack_octet(const DensePackProblem &p, int item)
{
    typedef CellKind<DenseMode<Mode>::Kind> Cell;
    typedef typename Cell::Element Element;
    const int nb = p.fold > 0 ? p.channels : NB, fold = p.fold > 0 ? p.fold : 1;
    const int cell = item / p.octets, row = item % p.octets * 8 + (int)threadIdx.x % 8, block = row / nb;
    const int g = block / p.blocks_group, oc = block % p.blocks_group * nb + row % nb, channel = cell * Cell::Channels;
    const int64_t step = (int64_t)p.out_group * p.taps;
    const Element *w = (const Element *)p.w + ((int64_t)(g * p.in_group + channel) * p.out_group + oc) * p.taps;
    const int k = cell / 2 / p.chunks, chunk = cell / 2 % p.chunks;
    uint4 *rows = p.rows + ((int64_t)block * (p.cells_group / 2 / p.chunks) + k) * p.taps_used * p.chunks * 2 *
                           (Cell::Parts * NB) + row % nb;
    const int exponent = Mode == DENSE_SPLIT ? p.flags[row] : 0;
    bool unfit = false;
    for (int i = threadIdx.x / 8; i < p.taps_used * fold; i += SPLIT_THREADS / 8) {
        alignas(16) Element v[Cell::Channels] = {};
        const int channels = oc < p.out_group ? p.in_group - channel : 0, s = i / fold, folded = i - s * fold;
        if (channels > 0) load_cell(w + p.tap[s] + folded * p.fold_step, step, channels, false, v);
        uint4 *out = rows + ((s * p.chunks + chunk) * 2 + cell % 2) * (Cell::Parts * NB) + folded * nb;
        alignas(16) uint32_t high[4], low[4];
        if constexpr (Mode == DENSE_SPLIT) {
            split_cell(v, usable_exponent(exponent), nullptr, high, low);
            *out = *(const uint4 *)low;
        } else {
#pragma unroll
            for (int j = 0; j < Cell::Channels; j++) unfit = unfit || dense_unfit<Mode>(v[j]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if constexpr (Mode == DENSE_TF32) high[j] = round_to_tf32(v[j]);
                else high[j] = ((const uint32_t *)v)[j];
            }
        }
        out[Cell::Parts * NB - NB] = *(const uint4 *)high;
    }
    if constexpr (Mode != DENSE_SPLIT) {
        unfit = __syncthreads_or(unfit);
        if (threadIdx.x == 0) p.flags[item] = unfit;
    }
    if (!p.copy) return;
    for (int i = threadIdx.x; i < 8 * Cell::Channels * p.taps; i += SPLIT_THREADS) {
        int k = i % p.taps, c = i / p.taps / 8, o = oc - (int)threadIdx.x % 8 + i / p.taps % 8;
        if (channel + c >= p.in_group || o >= p.out_group) continue;
        int64_t at = ((int64_t)(g * p.in_group + channel + c) * p.out_group + o) * p.taps + k;
        ((Element *)p.copy)[at] = ((const Element *)p.w)[at];
    }
}

// The kernels before the main one. Only a split needs the exponents of weights first; tf32 has flags to clear.
template <int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_scan_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ GuessProblem x)
{
    let_next_start();
    if ((int)blockIdx.x < w.scan_blocks) dense_scan_row<NB>(w, blockIdx.x);
    else guess_block(x, blockIdx.x - w.scan_blocks);
}

template <int Mode, int NB>
__global__ void __launch_bounds__(SPLIT_THREADS)
dense_split_kernel(const __grid_constant__ DensePackProblem w, const __grid_constant__ PlanesProblem x,
                   const __grid_constant__ FillProblem fill)
{
    let_next_start();
    wait_for_previous();
    const int block = (int)blockIdx.x - w.pack_blocks, planes = x.width * x.height;
    if (block < 0) dense_pack_octet<Mode, NB>(w, blockIdx.x);
    else if (block >= planes)
        fill_warp<typename DenseMode<Mode>::T>(fill, (block - planes) * (SPLIT_THREADS / 32) + threadIdx.x / 32,
                                               fill.blocks * (SPLIT_THREADS / 32));
    else if (x.pairs) planes_pairs_block<DenseMode<Mode>::Kind>(x, block);
    else planes_block<DenseMode<Mode>::Kind>(x, x.width, block, false);
}

// Samples whose guess was too small.
static __global__ void __launch_bounds__(SPLIT_THREADS) dense_again_kernel(const __grid_constant__ PlanesProblem p)
{
    let_next_start();
    wait_for_previous();
    if (!planes_beyond(p)) return;
    const int positions = p.by_channel ? SPLIT_THREADS / 4 : SPLIT_THREADS;
    const int width = (p.pitch + positions - 1) / positions;
    for (int block = blockIdx.x; block < width * p.height; block += gridDim.x)
        planes_block<SPLIT_F16>(p, width, block, true);
}

// ---- what NaN and infinity reach, in plain arithmetic ----

struct DenseRepairProblem {
    const void *x, *w, *bias;
    void *y;
    DenseFlags flags;
    Axis<int32_t> axis[3];
    int batch, channels, in_group, out_group, blocks_group, row_block;
    int64_t x_stride[5], y_stride[5];
};

template <class T>
__device__ __forceinline__ float dense_exact(const DenseRepairProblem &p, int n, int oc, const Taps<int32_t> (&t)[3])
{
    const int g = oc / p.out_group, taps = p.axis[0].kernel * p.axis[1].kernel * p.axis[2].kernel;
    float sum = 0;
    for (int ic = 0; ic < p.in_group; ic++) {
        const T *x = (const T *)p.x + n * p.x_stride[0] + (int64_t)(g * p.in_group + ic) * p.x_stride[1];
        const T *w = (const T *)p.w + ((int64_t)(g * p.in_group + ic) * p.out_group + oc % p.out_group) * taps;
        for (int a = 0; a < t[0].count; a++)
            for (int b = 0; b < t[1].count; b++)
                for (int c = 0; c < t[2].count; c++) {
                    int64_t i = (t[0].i - (int64_t)a * p.axis[0].in_step) * p.x_stride[2] +
                                (t[1].i - (int64_t)b * p.axis[1].in_step) * p.x_stride[3] +
                                (t[2].i - (int64_t)c * p.axis[2].in_step) * p.x_stride[4];
                    int k = ((t[0].k + a * p.axis[0].tap_step) * p.axis[1].kernel + t[1].k + b * p.axis[1].tap_step) *
                            p.axis[2].kernel + t[2].k + c * p.axis[2].tap_step;
                    sum += Number<T>::widen(x[i]) * Number<T>::widen(w[k]);
                }
    }
    return sum;
}

template <class T, ListForm Form>
__global__ void __launch_bounds__(256) dense_repair_kernel(const __grid_constant__ DenseRepairProblem p,
                                                           const __grid_constant__ DenseFollows<T, Form> f)
{
    wait_for_previous();
    if (!__syncthreads_or(dense_bad_any(p.flags, p.batch, 256))) return;
    const Epilogue<T> epilogue = {(const T *)p.bias};
    const int outputs = p.axis[0].out * p.axis[1].out * p.axis[2].out;
    for (int i = 0; i < p.batch * p.channels; i++) {
        int n = i / p.channels, oc = i % p.channels, g = oc / p.out_group, c = oc % p.out_group;
        int row = (g * p.blocks_group + c / p.row_block) * p.row_block + c % p.row_block;
        if (!dense_bad_sample(p.flags, n) &&
            !(Form != NO_LIST ? dense_bad_octet(p.flags, row / 8) : dense_bad_row(p.flags, row)))
            continue;
        for (int o = blockIdx.x * 256 + threadIdx.x; o < outputs; o += gridDim.x * 256) {
            int ow = o % p.axis[2].out, oh = o / p.axis[2].out % p.axis[1].out, od = o / p.axis[2].out / p.axis[1].out;
            Taps<int32_t> t[3] = {taps_of(p.axis[0], od), taps_of(p.axis[1], oh), taps_of(p.axis[2], ow)};
            int64_t at = n * p.y_stride[0] + oc * p.y_stride[1] + od * p.y_stride[2] + oh * p.y_stride[3] +
                         ow * p.y_stride[4];
            float v = epilogue.widen(dense_exact<T>(p, n, oc, t), oc);
            if constexpr (Form != NO_LIST) {
                if (f.list.count > 0) list_in_memory(f.list, &v, 1, 1, {n, oc, od, oh, ow, 1, 1});
                if (f.wide) { ((float *)p.y)[at] = v;  continue; }
            }
            ((T *)p.y)[at] = Number<T>::round(v);
        }
    }
}

}

#endif
