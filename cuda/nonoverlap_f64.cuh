// The f64 part of sm80_nonoverlap: the same GEMM and the same order of rows, on the f64 matrix unit.
//
// A block computes 128 or 96 rows of w (32*RowWarps) x 64 positions at a time, two warps of 32 x 32 along the
// positions, and walks over tiles of positions. 16 channels come by cp.async into one of a few stages; where all of
// them fit, the rows of w are loaded once and stay. A thread holds two positions of a row, 4 apart so that a warp's
// stores are 64 bytes in a row, or two channels of a position. One H200, NCDHW, of the floor: nnunet_64_32_64 0.538 ms
// (0.58), nnunet_256_128_16 0.126 (0.60), pangu_384_5 1.87 (0.53). Blocks of 32, 64 and 160 rows were slower.
#pragma once

namespace convt3d_cuda {

enum { NONOVERLAP_F64_POSITIONS = 64, NONOVERLAP_F64_DEPTH = 16, NONOVERLAP_F64_PITCH = NONOVERLAP_F64_POSITIONS + 4,
       NONOVERLAP_F64_RESIDENT = 64,       // most channels for which w stays
       NONOVERLAP_F64_BLOCKS = 2 };        // of a multiprocessor

template <int RowWarps> struct NonoverlapF64Shared {
    enum { Rows = 32 * RowWarps, Pitch = Rows + 4, Stage = NONOVERLAP_F64_DEPTH * NONOVERLAP_F64_PITCH * 8,
           WeightStage = NONOVERLAP_F64_DEPTH * Pitch * 8 };
    int weights, y_of_position, y_of_row, bias, column, total;      // offsets in bytes; stages of x begin at 0
    __host__ __device__ NonoverlapF64Shared(int in_group, int stages)
    {
        int resident = (in_group + NONOVERLAP_F64_DEPTH - 1) / NONOVERLAP_F64_DEPTH;
        weights = stages * Stage;
        y_of_position = weights + (in_group <= NONOVERLAP_F64_RESIDENT ? resident : stages) * WeightStage;
        y_of_row = y_of_position + 2 * NONOVERLAP_F64_POSITIONS * 8;        // of two tiles
        bias = y_of_row + Rows * 8;
        column = bias + Rows * 8;
        total = column + Rows * 4;
    }
};

static __device__ __forceinline__ void copy_8_bytes(double *to, const double *from, bool exists)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(exists ? 8 : 0) : "memory");
}

// c += a * b, 16 x 8 x 8: c0 is rows 0-7, c1 rows 8-15; ai[t] rows 8i + lane / 4, k = 4t + lane % 4; b[t] likewise.
// Hopper's unit is faster with this shape.
static __device__ __forceinline__ void multiply_f64(double (&c0)[2], double (&c1)[2], const double (&a0)[2],
                                                    const double (&a1)[2], const double (&b)[2])
{
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+d"(c0[0]), "+d"(c0[1]), "+d"(c1[0]), "+d"(c1[1])
        : "d"(a0[0]), "d"(a1[0]), "d"(a0[1]), "d"(a1[1]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
    for (int t = 0; t < 2; t++) {
        asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+d"(c0[0]), "+d"(c0[1]) : "d"(a0[t]), "d"(b[t]));
        asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+d"(c1[0]), "+d"(c1[1]) : "d"(a1[t]), "d"(b[t]));
    }
#endif
}

// Position of a tile that column i of the product stands for: a thread's two columns are 4 positions apart.
static __device__ __forceinline__ int nonoverlap_f64_place(int i) { return i / 8 * 8 + i / 2 % 4 + i % 2 * 4; }

template <int RowWarps, bool ChannelsLast, bool Lists> struct NonoverlapF64Block {
    typedef NonoverlapF64Shared<RowWarps> Shared;
    enum { Rows = Shared::Rows, Threads = 64 * RowWarps, Depth = NONOVERLAP_F64_DEPTH,
           Positions = NONOVERLAP_F64_POSITIONS, Pitch = NONOVERLAP_F64_PITCH,
           Copies = (Depth * Positions + Threads - 1) / Threads };

    const NonoverlapProblem &p;
    const List<double> &list;
    double *x_stages, *weights, *bias;
    int64_t *y_of_position, *y_of_row;      // INT64_MIN: none
    int *column;
    int g, slice_row, chunks;
    bool resident;

    __device__ __forceinline__ NonoverlapF64Block(const NonoverlapProblem &problem, const List<double> &what_follows,
                                                  unsigned char *shared, int slice)
        : p(problem), list(what_follows)
    {
        const Shared layout(p.in_group, p.stages);
        x_stages = (double *)shared;
        weights = (double *)(shared + layout.weights);
        bias = (double *)(shared + layout.bias);
        y_of_position = (int64_t *)(shared + layout.y_of_position);
        y_of_row = (int64_t *)(shared + layout.y_of_row);
        column = (int *)(shared + layout.column);
        g = slice / p.slices_of_group;
        slice_row = (slice - g * p.slices_of_group) * Rows;
        chunks = (p.in_group + Depth - 1) / Depth;
        resident = p.in_group <= NONOVERLAP_F64_RESIDENT;
    }

    __device__ __forceinline__ void rows_of_slice()
    {
        for (int i = threadIdx.x; i < Rows; i += Threads) {
            NonoverlapRow r = nonoverlap_row<ChannelsLast>(p, slice_row + i);
            int64_t oc = (int64_t)g * p.out_group + r.oc;
            column[i] = r.column;
            y_of_row[i] = r.column < 0 ? INT64_MIN : oc * p.y_stride[1] + r.kd * p.y_stride[2] +
                                                     r.kh * p.y_stride[3] + r.kw * p.y_stride[4];
            bias[i] = r.column >= 0 && p.bias ? ((const double *)p.bias)[oc] : 0;
        }
        __syncthreads();
    }

    // Channels 16*chunk ... + 15 of the rows, to stage `at` of w. A thread copies of one row, every second channel.
    __device__ __forceinline__ void ask_rows(int chunk, int at)
    {
        int row = threadIdx.x % Rows, k = threadIdx.x / Rows, from = column[row];
        const double *w = (const double *)p.w + max(from, 0) +
                          ((int64_t)g * p.in_group + chunk * Depth + k) * p.columns;
        double *to = weights + at * (Depth * Shared::Pitch) + k * Shared::Pitch + row;
        int left = from >= 0 ? p.in_group - chunk * Depth - k : 0;
#pragma unroll
        for (int i = 0; i < Depth / 2; i++) {
            copy_8_bytes(to + i * 2 * Shared::Pitch, 2 * i < left ? w : (const double *)p.w, 2 * i < left);
            w += 2 * (int64_t)p.columns;
        }
    }

    // What a thread copies of a tile's positions: neighbouring threads take neighbouring positions of a channel, or,
    // where x is so, neighbouring channels of a position.
    struct Aim { int64_t at[Copies]; };      // offsets in x; -1: none

    __device__ __forceinline__ Aim aim(int tile) const
    {
        Aim a;
#pragma unroll
        for (int i = 0; i < Copies; i++) {
            if (p.x_stride[1] != 1 && i > 0) { a.at[i] = a.at[0];  continue; }
            int column = p.x_stride[1] == 1 ? (int)threadIdx.x / Depth + i * (Threads / Depth)
                                            : (int)threadIdx.x % Positions;
            int position = tile * Positions + nonoverlap_f64_place(column);
            a.at[i] = column < Positions && position < p.positions ? nonoverlap_x_offset(p, position) : -1;
        }
        return a;
    }

    __device__ __forceinline__ void ask_positions(const Aim &aim, int chunk, int at)
    {
        const double *x = (const double *)p.x + ((int64_t)g * p.in_group + chunk * Depth) * p.x_stride[1];
        double *to = x_stages + at * (Depth * Pitch);
        bool channels_first = p.x_stride[1] == 1;
        int left = p.in_group - chunk * Depth;
#pragma unroll
        for (int i = 0; i < Copies; i++) {
            int column = channels_first ? (int)threadIdx.x / Depth + i * (Threads / Depth) : threadIdx.x % Positions;
            int k = channels_first ? threadIdx.x % Depth : (int)threadIdx.x / Positions + i * (Threads / Positions);
            bool exists = aim.at[i] >= 0 && k < left;
            if (column < Positions && k < Depth)
                copy_8_bytes(to + k * Pitch + column, exists ? x + aim.at[i] + k * p.x_stride[1] : x, exists);
        }
    }

    __device__ __forceinline__ void store_one(const int64_t *bases, int tile, int row, int i, double v) const
    {
        int64_t base = bases[i], offset = y_of_row[row];
        int position = tile * Positions + nonoverlap_f64_place(i);
        if (base == INT64_MIN || offset == INT64_MIN) return;
        if (p.cropped && !nonoverlap_inside<ChannelsLast>(p, position, slice_row + row)) return;
        ((double *)p.y)[base + offset] = v;
    }

    // Row and position of element e of sum[m][n].
    static __device__ __forceinline__ int row_of(int m, int e)
    {
        return m * 8 + (ChannelsLast ? threadIdx.x % 4 * 2 + e : threadIdx.x % 32 / 4);
    }
    static __device__ __forceinline__ int column_of(int n, int e)
    {
        return n * 8 + (ChannelsLast ? threadIdx.x % 32 / 4 : threadIdx.x % 4 * 2 + e);
    }

    // Sums become values: the bias, the list.
    __device__ __forceinline__ void finish(const int64_t *bases, int tile, int row, int column,
                                           double (&sum)[4][4][2]) const
    {
#pragma unroll
        for (int i = 0; i < 32; i++) sum[i / 8][i / 2 % 4][i % 2] += bias[row + row_of(i / 8, i % 2)];
        if constexpr (Lists) apply(bases, tile, row, column, sum);
    }

    __device__ __forceinline__ void apply(const int64_t *bases, int tile, int row, int column,
                                          double (&sum)[4][4][2]) const
    {
        auto channel = [&](int i) {
            const int oc = nonoverlap_row<ChannelsLast>(p, slice_row + row + row_of(i / 8, i % 2)).oc;
            return min(g * p.out_group + oc, p.groups * p.out_group - 1);
        };
        apply_in_registers(list, 0, reinterpret_cast<double (&)[8][4]>(sum), channel,
                           [&](const Entry<double> &e, int group, double (&r)[4]) {
#pragma unroll 1
            for (int i = 0; i < 4; i++) {
                const int mine = row + row_of(group / 2, i % 2), at = column + column_of(group % 2 * 2 + i / 2, i % 2);
                const int64_t base = bases[at], offset = y_of_row[mine];
                double v = 0;
                if (base != INT64_MIN && offset != INT64_MIN)
                    v = nonoverlap_residual<double, ChannelsLast>(p, e, base + offset,
                                                                  tile * Positions + nonoverlap_f64_place(at), g,
                                                                  slice_row + mine);
#pragma unroll
                for (int j = 0; j < 4; j++) if (j == i) r[j] = v;
            }
        });
    }

    // The one place where finished sums become values of y. sum[m][n]: rows row ... row + 7 x columns position ... + 7,
    // for m, n = 0 ... 3.
    __device__ __forceinline__ void store(const int64_t *bases, int tile, int row, int position,
                                          const double (&sum)[4][4][2]) const
    {
        int lane = threadIdx.x % 32, across = lane / 4, along = lane % 4 * 2;
        double *y = (double *)p.y;
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                int r = row + m * 8 + (ChannelsLast ? along : across);
                int i = position + n * 8 + (ChannelsLast ? across : along);
                if (ChannelsLast ? p.quads != 0 : p.quads == 2 || p.quads == 4) {
                    const int other = !ChannelsLast && m % 2 == 0 ? m + 1 : m;
                    int64_t offset = y_of_row[r];
                    if (!ChannelsLast && m % 2 == 1) continue;
#pragma unroll
                    for (int e = 0; e < (ChannelsLast ? 1 : 2); e++) {
                        double2 v = ChannelsLast ? make_double2(sum[m][n][0], sum[m][n][1])
                                                 : make_double2(sum[m][n][e], sum[other][n][e]);
                        if (bases[i + e] != INT64_MIN && offset != INT64_MIN)
                            __stcs((double2 *)(y + bases[i + e] + offset), v);
                    }
                    continue;
                }
#pragma unroll
                for (int e = 0; e < 2; e++)
                    store_one(bases, tile, r + (ChannelsLast ? e : 0), i + (ChannelsLast ? 0 : e), sum[m][n][e]);
            }
    }

    __device__ __forceinline__ void multiply(const double *w, const double *x, int row, int position,
                                             double (&sum)[4][4][2]) const
    {
        int lane = threadIdx.x % 32;
        w += lane % 4 * Shared::Pitch + row + lane / 4;
        x += lane % 4 * Pitch + position + lane / 4;
#pragma unroll
        for (int k = 0; k < Depth; k += 8) {
            double a[4][2], b[4][2];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                a[i / 2][i % 2] = w[(k + i % 2 * 4) * Shared::Pitch + i / 2 * 8];
                b[i / 2][i % 2] = x[(k + i % 2 * 4) * Pitch + i / 2 * 8];
            }
#pragma unroll
            for (int i = 0; i < 4; i += 2)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (ChannelsLast) multiply_f64(sum[j][i], sum[j][i + 1], b[i], b[i + 1], a[j]);
                    else multiply_f64(sum[i][j], sum[i + 1][j], a[i], a[i + 1], b[j]);
        }
    }

    // All tiles of positions tile, tile + step, ...: the copies run `stages` - 1 chunks ahead, across tiles.
    __device__ __forceinline__ void walk(int tile, int step)
    {
        int warp = threadIdx.x / 32, row = warp / 2 * 32, position = warp % 2 * 32;
        int ask_tile = tile, ask_chunk = 0, ask_stage = 0, stage = 0;
        double sum[4][4][2];
        Aim target;
        auto ask = [&]() {
            if (ask_tile < p.tiles) {
                if (!resident) ask_rows(ask_chunk, ask_stage);
                if (ask_chunk == 0) target = aim(ask_tile);
                ask_positions(target, ask_chunk, ask_stage);
                if (++ask_chunk == chunks) { ask_chunk = 0;  ask_tile += step; }
                if (++ask_stage == p.stages) ask_stage = 0;
            }
            asm volatile("cp.async.commit_group;" ::: "memory");
        };
        rows_of_slice();
        if (resident)
            for (int chunk = 0; chunk < chunks; chunk++) ask_rows(chunk, chunk);
        for (int i = 0; i < p.stages - 1; i++) ask();
        for (int odd = 0; tile < p.tiles; tile += step, odd ^= 1) {
            int64_t *bases = y_of_position + odd * Positions;
            for (int i = threadIdx.x; i < Positions; i += Threads) {
                int at = tile * Positions + nonoverlap_f64_place(i);
                bases[i] = at < p.positions ? nonoverlap_y_offset(p, at) : INT64_MIN;
            }
#pragma unroll
            for (int i = 0; i < 32; i++) sum[i / 8][i / 2 % 4][i % 2] = 0;
            for (int chunk = 0; chunk < chunks; chunk++) {
                if (p.stages == 4) asm volatile("cp.async.wait_group 2;" ::: "memory");
                else if (p.stages == 3) asm volatile("cp.async.wait_group 1;" ::: "memory");
                else asm volatile("cp.async.wait_group 0;" ::: "memory");
                __syncthreads();
                ask();
                multiply(weights + (resident ? chunk : stage) * (Depth * Shared::Pitch),
                         x_stages + stage * (Depth * Pitch), row, position, sum);
                if (++stage == p.stages) stage = 0;
            }
            if (chunks == 0) __syncthreads();
            finish(bases, tile, row, position, sum);
            store(bases, tile, row, position, sum);
        }
    }
};

template <int RowWarps, bool ChannelsLast, bool Lists>
__global__ void __launch_bounds__(64 * RowWarps, NONOVERLAP_F64_BLOCKS)
nonoverlap_f64_kernel(const __grid_constant__ NonoverlapProblem p, const __grid_constant__ List<double> list)
{
#if __CUDA_ARCH__ >= 800
    extern __shared__ __align__(128) unsigned char nonoverlap_memory[];
    int slices = max(p.slices, 1), slice = (int)blockIdx.x % slices;
    if (p.tiles > 0)
        NonoverlapF64Block<RowWarps, ChannelsLast, Lists>(p, list, nonoverlap_memory, slice)
            .walk((int)blockIdx.x / slices, p.blocks_of_slice);
    if (p.fill) nonoverlap_fill<double, ChannelsLast, Lists>(p, list);
#endif
}

}
