// The f64 part of sm80_nonoverlap: the same GEMM and the same order of rows, on the f64 matrix unit (mma.sync m8n8k4).
//
// A block computes 128 rows of w x 64 positions; 16 channels of both at a time come by cp.async into one of two
// buffers. A warp has 32 x 32 outputs. A thread holds two positions of a row, or two channels of a position, and so
// both W taps of two positions where the kernel is 2: 32 bytes of y. One H200: nnunet_64_32_64 1.03 ms, 0.31 of the
// floor.
#pragma once

namespace convt3d_cuda {

enum { NONOVERLAP_F64_ROWS = 128, NONOVERLAP_F64_POSITIONS = 64, NONOVERLAP_F64_DEPTH = 16,
       NONOVERLAP_F64_THREADS = 256, NONOVERLAP_F64_ROW_PITCH = 132, NONOVERLAP_F64_POSITION_PITCH = 68 };

struct NonoverlapF64Shared {
    double w[2][NONOVERLAP_F64_DEPTH][NONOVERLAP_F64_ROW_PITCH];
    double x[2][NONOVERLAP_F64_DEPTH][NONOVERLAP_F64_POSITION_PITCH];
    int64_t y_of_position[NONOVERLAP_F64_POSITIONS], x_of_position[NONOVERLAP_F64_POSITIONS];    // INT64_MIN, -1: none
    int64_t y_of_row[NONOVERLAP_F64_ROWS];
    int column[NONOVERLAP_F64_ROWS];
    double bias[NONOVERLAP_F64_ROWS];
};

static __device__ __forceinline__ void copy_8_bytes(double *to, const double *from, bool exists)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(exists ? 8 : 0) : "memory");
}

static __device__ __forceinline__ void multiply_f64(double (&c)[2], double a, double b)
{
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+d"(c[0]), "+d"(c[1]) : "d"(a), "d"(b));
}

// Asks for channels first ... first + 15 of the block's rows and positions.
static __device__ __forceinline__ void nonoverlap_f64_load(const NonoverlapProblem &p, NonoverlapF64Shared &s, int g,
                                                           int first, int buffer)
{
    const double *w = (const double *)p.w + (int64_t)g * p.in_group * p.columns;
    const double *x = (const double *)p.x + (int64_t)g * p.in_group * p.x_stride[1];
    for (int i = threadIdx.x; i < NONOVERLAP_F64_DEPTH * NONOVERLAP_F64_ROWS; i += NONOVERLAP_F64_THREADS) {
        int row = i % NONOVERLAP_F64_ROWS, k = i / NONOVERLAP_F64_ROWS, column = s.column[row];
        bool exists = column >= 0 && first + k < p.in_group;
        copy_8_bytes(&s.w[buffer][k][row], exists ? w + (int64_t)(first + k) * p.columns + column : w, exists);
    }
    bool channels_first = p.x_stride[1] == 1;       // then neighbouring threads take neighbouring channels
    for (int i = threadIdx.x; i < NONOVERLAP_F64_DEPTH * NONOVERLAP_F64_POSITIONS; i += NONOVERLAP_F64_THREADS) {
        int position = channels_first ? i / NONOVERLAP_F64_DEPTH : i % NONOVERLAP_F64_POSITIONS;
        int k = channels_first ? i % NONOVERLAP_F64_DEPTH : i / NONOVERLAP_F64_POSITIONS;
        int64_t at = s.x_of_position[position];
        bool exists = at >= 0 && first + k < p.in_group;
        copy_8_bytes(&s.x[buffer][k][position], exists ? x + at + (first + k) * p.x_stride[1] : x, exists);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_f64_tables(const NonoverlapProblem &p, NonoverlapF64Shared &s, int g,
                                                      int slice_row, int tile)
{
    for (int i = threadIdx.x; i < NONOVERLAP_F64_ROWS; i += NONOVERLAP_F64_THREADS) {
        NonoverlapRow r = nonoverlap_row<ChannelsLast>(p, slice_row + i);
        int64_t oc = (int64_t)g * p.out_group + r.oc;
        s.column[i] = r.column;
        s.y_of_row[i] = r.column < 0 ? INT64_MIN : oc * p.y_stride[1] + r.kd * p.y_stride[2] + r.kh * p.y_stride[3] +
                                                   r.kw * p.y_stride[4];
        s.bias[i] = r.column >= 0 && p.bias ? ((const double *)p.bias)[oc] : 0;
    }
    for (int i = threadIdx.x; i < NONOVERLAP_F64_POSITIONS; i += NONOVERLAP_F64_THREADS) {
        int position = tile * NONOVERLAP_F64_POSITIONS + i;
        bool exists = position < p.positions;
        s.y_of_position[i] = exists ? nonoverlap_y_offset(p, position) : INT64_MIN;
        s.x_of_position[i] = exists ? nonoverlap_x_offset(p, position) : -1;
    }
    __syncthreads();
}

template <bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_f64_store_one(const NonoverlapProblem &p, const NonoverlapF64Shared &s,
                                                         int slice_row, int tile, int row, int position, double v)
{
    int64_t base = s.y_of_position[position], offset = s.y_of_row[row];
    if (base == INT64_MIN || offset == INT64_MIN) return;
    if (p.cropped && !nonoverlap_inside<ChannelsLast>(p, tile * NONOVERLAP_F64_POSITIONS + position, slice_row + row))
        return;
    ((double *)p.y)[base + offset] = v + s.bias[row];
}

// sum[m][n]: rows row ... row + 7 x positions position ... position + 7, for m, n = 0 ... 3.
template <bool ChannelsLast>
__device__ __forceinline__ void nonoverlap_f64_store(const NonoverlapProblem &p, const NonoverlapF64Shared &s,
                                                     int slice_row, int tile, int row, int position,
                                                     const double (&sum)[4][4][2])
{
    int lane = threadIdx.x % 32, across = lane / 4, along = lane % 4 * 2;
    double *y = (double *)p.y;
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            int r = row + m * 8 + (ChannelsLast ? along : across);
            int i = position + n * 8 + (ChannelsLast ? across : along);
            int64_t base = s.y_of_position[i], offset = s.y_of_row[r];
            if (ChannelsLast && p.quads) {
                if (base != INT64_MIN && offset != INT64_MIN)
                    __stcs((double2 *)(y + base + offset),
                           make_double2(sum[m][n][0] + s.bias[r], sum[m][n][1] + s.bias[r + 1]));
                continue;
            }
            if (!ChannelsLast && p.quads == 2) {
                if (m % 2 == 1) continue;
                const int other = m % 2 == 0 ? m + 1 : m;
                double add = s.bias[r];
                int64_t next = s.y_of_position[i + 1];
                if (offset == INT64_MIN) continue;
                if (base != INT64_MIN)
                    __stcs((double2 *)(y + base + offset), make_double2(sum[m][n][0] + add, sum[other][n][0] + add));
                if (next != INT64_MIN)
                    __stcs((double2 *)(y + next + offset), make_double2(sum[m][n][1] + add, sum[other][n][1] + add));
                continue;
            }
#pragma unroll
            for (int e = 0; e < 2; e++)
                nonoverlap_f64_store_one<ChannelsLast>(p, s, slice_row, tile, r + (ChannelsLast ? e : 0),
                                                       i + (ChannelsLast ? 0 : e), sum[m][n][e]);
        }
}

template <bool ChannelsLast>
__global__ void __launch_bounds__(NONOVERLAP_F64_THREADS)
nonoverlap_f64_kernel(const __grid_constant__ NonoverlapProblem p)
{
#if __CUDA_ARCH__ >= 800
    extern __shared__ __align__(128) unsigned char nonoverlap_memory[];
    NonoverlapF64Shared &s = *(NonoverlapF64Shared *)nonoverlap_memory;
    int slice = (int)(blockIdx.x % (unsigned)max(p.slices, 1)), tile = (int)(blockIdx.x / (unsigned)max(p.slices, 1));
    int g = slice / p.slices_of_group, slice_row = (slice - g * p.slices_of_group) * NONOVERLAP_F64_ROWS;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp / 2 * 32, position = warp % 2 * 32;
    if (tile < p.tiles) {
        double sum[4][4][2] = {};
        nonoverlap_f64_tables<ChannelsLast>(p, s, g, slice_row, tile);
        nonoverlap_f64_load(p, s, g, 0, 0);
        for (int first = 0, buffer = 0; first < p.in_group; first += NONOVERLAP_F64_DEPTH, buffer ^= 1) {
            bool more = first + NONOVERLAP_F64_DEPTH < p.in_group;
            if (more) nonoverlap_f64_load(p, s, g, first + NONOVERLAP_F64_DEPTH, buffer ^ 1);
            if (more) asm volatile("cp.async.wait_group 1;" ::: "memory");
            else asm volatile("cp.async.wait_group 0;" ::: "memory");
            __syncthreads();
#pragma unroll
            for (int k = 0; k < NONOVERLAP_F64_DEPTH; k += 4) {
                double w[4], x[4];
#pragma unroll
                for (int m = 0; m < 4; m++) w[m] = s.w[buffer][k + lane % 4][row + m * 8 + lane / 4];
#pragma unroll
                for (int n = 0; n < 4; n++) x[n] = s.x[buffer][k + lane % 4][position + n * 8 + lane / 4];
#pragma unroll
                for (int m = 0; m < 4; m++)
#pragma unroll
                    for (int n = 0; n < 4; n++)
                        if (ChannelsLast) multiply_f64(sum[m][n], x[n], w[m]);
                        else multiply_f64(sum[m][n], w[m], x[n]);
            }
            __syncthreads();
        }
        nonoverlap_f64_store<ChannelsLast>(p, s, slice_row, tile, row, position, sum);
    }
    if (p.fill) nonoverlap_fill<double, ChannelsLast>(p);
#endif
}

}
