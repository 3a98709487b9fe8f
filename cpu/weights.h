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

/* n values of any type and step, as f32, or as f64 for f64. */
static void convt3d__cpu_gather(const convt3d__cpu_leaves *leaves, int32_t dtype, void *to, const void *from,
                                int64_t step, int64_t n)
{
    int64_t i;
    if (step == 1) {
        if (dtype == CONVT3D_F16 || dtype == CONVT3D_BF16)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to, (const uint16_t *)from, n);
        else memcpy(to, from, (size_t)(n * (dtype == CONVT3D_F64 ? 8 : 4)));
    } else if (dtype == CONVT3D_F64) {
        for (i = 0; i < n; i++) ((double *)to)[i] = ((const double *)from)[i * step];
    } else if (dtype == CONVT3D_F32) {
        for (i = 0; i < n; i++) ((float *)to)[i] = ((const float *)from)[i * step];
    } else {
        for (i = 0; i < n; i++)
            leaves->widen[dtype == CONVT3D_BF16]((float *)to + i, (const uint16_t *)from + i * step, 1);
    }
}

/* The reverse, rounding once. */
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

/* The taps of ROWS output channels and one input channel, from [row][tap] in w to [tap][input channel][row]. */
static void convt3d__cpu_pack_channel(const convt3d__cpu_leaves *leaves, const convt3d__plan *p, int64_t all_rows,
                                      int64_t taps, const void *w, int64_t rows, char *to, int64_t step)
{
    int64_t real = convt3d__cpu_real_size(p), tap, r, i, n;
    int32_t type = p->desc.dtype;
    double chunk[CONVT3D__CPU_MOST_PANEL][64];
    for (tap = 0; tap < taps; tap += 64) {
        n = convt3d__min(64, taps - tap);
        for (r = 0; r < all_rows; r++) {
            const void *from = convt3d__cpu_element(w, type, r * taps + tap);
            if (r < rows) convt3d__cpu_gather(leaves, type, chunk[r], from, 1, n);
            else memset(chunk[r], 0, sizeof chunk[r]);
        }
        for (i = 0; i < n; i++)
            for (r = 0; r < all_rows; r++)
                memcpy(to + ((tap + i) * step + r) * real, (const char *)chunk[r] + i * real, (size_t)real);
    }
}

static void convt3d__cpu_pack_block(const convt3d__cpu_leaves *leaves, const convt3d__plan *p,
                                    const convt3d__cpu_blocking *b, const void *w, void *packed, int64_t block)
{
    int64_t real = convt3d__cpu_real_size(p), g = block / b->blocks, oc = block % b->blocks * b->rows, ic, first, n;
    int64_t channels = convt3d__cpu_w_channels(p, b), taps = convt3d__cpu_w_taps(p, b);
    int64_t rows = convt3d__min(b->rows, channels - oc);
    char *to = (char *)packed + (convt3d__cpu_block_weights(p, b, packed, block) - (const char *)packed);
    for (first = 0; first < p->in_group; first += b->ic_block) {
        n = convt3d__min(b->ic_block, p->in_group - first);
        for (ic = 0; ic < n; ic++) {
            int64_t from = ((g * p->in_group + first + ic) * channels + oc) * taps;
            char *part = to + (first * taps + ic) * b->rows * real;
            convt3d__cpu_pack_channel(leaves, p, b->rows, taps, convt3d__cpu_element(w, p->desc.dtype, from), rows,
                                      part, n * b->rows);
        }
    }
    ((unsigned char *)packed)[block] =
        (unsigned char)!convt3d__cpu_all_finite(to, p->desc.dtype == CONVT3D_F64, b->rows * p->in_group * taps);
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
