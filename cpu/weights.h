/* weights.h - values of any type and step to f32 or f64 and back, and packed weights.
 *
 * Idea: a flag byte for each block of ROWS output channels (1: it holds a NaN or an infinity), then the blocks: [block
 * of input channels][tap][input channel][ROWS], as the leaves read them. For products every tap is an output channel.
 */
#ifndef CONVT3D_CPU_WEIGHTS_H
#define CONVT3D_CPU_WEIGHTS_H

static int64_t convt3d__cpu_all_blocks(const convt3d__plan *p, const convt3d__cpu_blocking *b)
{
    return b->blocks * p->desc.groups;
}

static int64_t convt3d__cpu_packed(const convt3d__plan *p)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    int64_t blocks = convt3d__cpu_all_blocks(p, &b);
    return convt3d__cpu_round_up(blocks, CONVT3D__CPU_PACK_HEADER) +
           blocks * b.rows * p->in_group * convt3d__cpu_w_taps(p, &b) * convt3d__cpu_real_size(p);
}

static int64_t convt3d__cpu_workspace(const convt3d__plan *p)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    return 64 + b.threads * b.thread_bytes + convt3d__cpu_round_up(convt3d__cpu_packed(p), 64);
}

static const char *convt3d__cpu_block_weights(const convt3d__plan *p, const convt3d__cpu_blocking *b,
                                              const void *packed, int64_t block)
{
    return (const char *)packed + convt3d__cpu_round_up(convt3d__cpu_all_blocks(p, b), CONVT3D__CPU_PACK_HEADER) +
           block * b->rows * p->in_group * convt3d__cpu_w_taps(p, b) * convt3d__cpu_real_size(p);
}

/* n values 2 or 4 apart, as f32, or as f64 for f64: every second one, once or twice. */
static void convt3d__cpu_gather_evens(const convt3d__cpu_leaves *leaves, int32_t dtype, char *to, const char *from,
                                      int64_t step, int64_t n)
{
    int64_t real = dtype == CONVT3D_F64 ? 8 : 4, size = convt3d__element_size(dtype), i, m;
    int32_t is_f64 = dtype == CONVT3D_F64;
    double wide[256], half[128];
    for (i = 0; i < n; i += m) {
        const void *values = from + i * step * size;
        m = convt3d__min(n - i, 256 / step);
        if (dtype > CONVT3D_F64) {
            leaves->widen[dtype == CONVT3D_BF16]((float *)wide, (const uint16_t *)values, (m - 1) * step + 1);
            values = wide;
        }
        if (step == 4) {
            leaves->evens[is_f64](half, values, 2 * m - 1);
            values = half;
        }
        leaves->evens[is_f64](to + i * real, values, m);
    }
}

/* n values of any type and step, as f32, or as f64 for f64. */
static void convt3d__cpu_gather(const convt3d__cpu_leaves *leaves, int32_t dtype, void *to, const void *from,
                                int64_t step, int64_t n)
{
    int64_t i;
    if (step == 1) {
        if (dtype == CONVT3D_F16 || dtype == CONVT3D_BF16)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to, (const uint16_t *)from, n);
        else memcpy(to, from, (size_t)(n * (dtype == CONVT3D_F64 ? 8 : 4)));
    } else if ((step == 2 || step == 4) && n > 4) {
        convt3d__cpu_gather_evens(leaves, dtype, (char *)to, (const char *)from, step, n);
    } else if (dtype == CONVT3D_F64) {
        for (i = 0; i < n; i++) ((double *)to)[i] = ((const double *)from)[i * step];
    } else if (dtype == CONVT3D_F32) {
        for (i = 0; i < n; i++) ((float *)to)[i] = ((const float *)from)[i * step];
    } else {
        for (i = 0; i < n; i++)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to + i, (const uint16_t *)from + i * step, 1);
    }
}

/* n positions, step apart, of channels that lie side by side, 16 by 64 at a time: to[c*pitch + j]. */
static void convt3d__cpu_gather_lines(const convt3d__cpu_leaves *leaves, int32_t dtype, char *to, int64_t pitch,
                                      const void *from, int64_t step, int64_t channels, int64_t n)
{
    int64_t real = dtype == CONVT3D_F64 ? 8 : 4, size = convt3d__element_size(dtype), j, k, c;
    double wide[16 * 64];
    for (c = 0; c < channels; c += 64)
        for (j = 0; j < n; j += 16) {
            int64_t columns = convt3d__min(16, n - j), width = convt3d__min(64, channels - c);
            for (k = 0; k < columns; k++)
                convt3d__cpu_gather(leaves, dtype, (char *)wide + k * 64 * real,
                                    (const char *)from + (c + (j + k) * step) * size, 1, width);
            leaves->transpose[dtype == CONVT3D_F64](to + (c * pitch + j) * real, pitch, wide, 64, columns, width);
        }
}

/* n positions of one row as [position][channel]: to[j*pitch + c]; c_step and step: from channel to channel and from
 * position to position. */
static void convt3d__cpu_gather_columns(const convt3d__cpu_leaves *leaves, int32_t dtype, char *to, int64_t pitch,
                                        const void *from, int64_t c_step, int64_t step, int64_t channels, int64_t n)
{
    int64_t real = dtype == CONVT3D_F64 ? 8 : 4, size = convt3d__element_size(dtype), i, j, m, k;
    const char *at = (const char *)from;
    double part[8 * 64];
    if (step != 1) {
        for (i = 0; i < n; i++)
            convt3d__cpu_gather(leaves, dtype, to + i * pitch * real, at + i * step * size, c_step, channels);
    } else if (dtype <= CONVT3D_F64) {
        leaves->transpose[dtype == CONVT3D_F64](to, pitch, from, c_step, channels, n);
    } else for (j = 0; j < n; j += 64)
        for (i = 0, m = convt3d__min(64, n - j); i < channels; i += 8) {
            for (k = 0; k < convt3d__min(8, channels - i); k++)
                convt3d__cpu_gather(leaves, dtype, (float *)(void *)part + k * 64,
                                    at + ((i + k) * c_step + j) * size, 1, m);
            leaves->transpose[0](to + (j * pitch + i) * real, pitch, part, 64, k, m);
        }
}

/* The reverse of convt3d__cpu_gather, rounding once. */
static void convt3d__cpu_scatter(const convt3d__cpu_leaves *leaves, int32_t dtype, void *to, int64_t step,
                                 const void *from, int64_t n)
{
    int64_t i;
    if (step == 1) {
        if (dtype == CONVT3D_F16 || dtype == CONVT3D_BF16)
            leaves->narrow[dtype == CONVT3D_BF16]((uint16_t *)to, (const float *)from, n);
        else memcpy(to, from, (size_t)(n * (dtype == CONVT3D_F64 ? 8 : 4)));
    } else if (dtype == CONVT3D_F64) {
        for (i = 0; i < n; i++) ((double *)to)[i * step] = ((const double *)from)[i];
    } else if (dtype == CONVT3D_F32) {
        for (i = 0; i < n; i++) ((float *)to)[i * step] = ((const float *)from)[i];
    } else {
        for (i = 0; i < n; i++)
            leaves->narrow[dtype == CONVT3D_BF16]((uint16_t *)to + i * step, (const float *)from + i, 1);
    }
}

static const void *convt3d__cpu_element(const void *base, int32_t dtype, int64_t index)
{
    return (const char *)base + index * convt3d__element_size(dtype);
}

static int convt3d__cpu_all_finite(const void *values, int32_t is_f64, int64_t n)
{
    uint64_t wide;
    uint32_t word;
    int64_t i;
    for (i = 0; i < n; i++) {
        if (is_f64) {
            memcpy(&wide, (const double *)values + i, sizeof wide);
            if ((wide >> 52 & 0x7ff) == 0x7ff) return 0;
        } else {
            memcpy(&word, (const float *)values + i, sizeof word);
            if ((word >> 23 & 0xff) == 0xff) return 0;
        }
    }
    return 1;
}

/* What is read soon. */
static void convt3d__cpu_prefetch(const void *from, int64_t bytes)
{
    int64_t i;
    for (i = 0; i < bytes; i += 64) CONVT3D__CPU_PREFETCH((const char *)from + i);
}

/* The taps of ROWS output channels, row_step apart, and one input channel to [tap][input channel][row]. */
static void convt3d__cpu_pack_channel(const convt3d__cpu_leaves *leaves, const convt3d__plan *p, int64_t all_rows,
                                      int64_t taps, const void *w, int64_t row_step, int64_t rows, char *to,
                                      int64_t step)
{
    int64_t real = convt3d__cpu_real_size(p), tap, r, i, n;
    int32_t type = p->desc.dtype;
    double chunk[CONVT3D__CPU_MOST_PANEL][64];
    for (tap = 0; tap < taps; tap += 64, to += 64 * step * real) {
        const void *from = convt3d__cpu_element(w, type, tap);
        n = convt3d__min(64, taps - tap);
        if (row_step > taps)                /* rows far from each other, which processors do not follow */
            for (r = 0; r < rows; r++)
                convt3d__cpu_prefetch(convt3d__cpu_element(from, type, r * row_step + 64), n * real);
        for (r = 0; type > CONVT3D_F64 && r < rows; r++)
            convt3d__cpu_gather(leaves, type, chunk[r], convt3d__cpu_element(from, type, r * row_step), 1, n);
        if (type > CONVT3D_F64) leaves->transpose[0](to, step, chunk, 128, rows, n);
        else leaves->transpose[type == CONVT3D_F64](to, step, from, row_step, rows, n);
        for (i = 0; rows < all_rows && i < n; i++)
            memset(to + (i * step + rows) * real, 0, (size_t)((all_rows - rows) * real));
    }
}

static void convt3d__cpu_pack_block(const convt3d__cpu_leaves *leaves, const convt3d__plan *p,
                                    const convt3d__cpu_blocking *b, const void *w, void *packed, int64_t block)
{
    int64_t real = convt3d__cpu_real_size(p), g = block / b->blocks, oc = block % b->blocks * b->rows, ic, first, n;
    int64_t channels = convt3d__cpu_w_channels(p, b), taps = convt3d__cpu_w_taps(p, b);
    int64_t rows = convt3d__min(b->rows, channels - oc);
    double sum;
    char *to = (char *)packed + (convt3d__cpu_block_weights(p, b, packed, block) - (const char *)packed);
    for (first = 0; first < p->in_group; first += b->ic_block) {
        n = convt3d__min(b->ic_block, p->in_group - first);
        for (ic = 0; ic < n; ic++) {
            int64_t from = ((g * p->in_group + first + ic) * channels + oc) * taps;
            if (convt3d__cpu_is_dx(p)) from = ((g * channels + oc) * p->in_group + first + ic) * taps;
            char *part = to + (first * taps + ic) * b->rows * real;
            convt3d__cpu_pack_channel(leaves, p, b->rows, taps, convt3d__cpu_element(w, p->desc.dtype, from),
                                      convt3d__cpu_is_dx(p) ? p->in_group * taps : taps, rows, part, n * b->rows);
        }
    }
    n = b->rows * p->in_group * taps;
    sum = leaves->total[p->desc.dtype == CONVT3D_F64](to, n);           /* finite, as long as nothing overflows */
    ((unsigned char *)packed)[block] =
        (unsigned char)(sum - sum != 0 && !convt3d__cpu_all_finite(to, p->desc.dtype == CONVT3D_F64, n));
}

static convt3d_status convt3d__cpu_pack(const convt3d__plan *p, const convt3d__cpu_leaves *leaves, const void *w,
                                        void *packed, convt3d_error *error)
{
    convt3d__cpu_blocking b = convt3d__cpu_blocking_of(p);
    int64_t blocks = convt3d__cpu_all_blocks(p, &b), i;
    int threads = (int)convt3d__min(b.threads, blocks);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (i = 0; i < blocks; i++) convt3d__cpu_pack_block(leaves, p, &b, w, packed, i);
    return convt3d__ok(error);
}
#endif
