/* kernel_body.h - the leaves that every instruction set shares, for one real type. kernel_*.h define the vectors below,
 * include this file once for f32 and once for f64, and it takes the definitions away again. No include guard.
 *
 * Idea: a tile is COLUMNS vectors of consecutive output positions by ROWS output channels, all in registers. For each
 * tap and input channel it takes COLUMNS loads of x (unaligned: a tap is a shift of the line) and ROWS broadcasts of
 * packed weights for COLUMNS*ROWS multiply-adds. Nothing in it tests a border: x was packed with its zeros.
 * Requires: LEAF(name)       the name of a function of this instruction set and type
 *           LEAF_REAL, LEAF_VECTOR, LEAF_LANES, LEAF_LOAD(p), LEAF_STORE(p, v), LEAF_STREAM(p, v) (p is aligned),
 *           LEAF_STREAM_ONE(p, value), LEAF_SPLAT(p): all lanes *p
 *           LEAF_FMA(a, b, c)   a*b + c
 *           LEAF_ZIP(low, high, a, b)   low = a0 b0 a1 b1 ..., high = the upper halves likewise
 *           LEAF_COLUMNS_1 ... LEAF_COLUMNS_8   widest tile for so many channels; 0: no such tile
 */

/* One tile: positions at, at + 1, ... of the line. COLUMNS and ROWS are constants wherever this is inlined. */
CONVT3D__CPU_INLINE void LEAF(tile)(const convt3d__cpu_line *line, int64_t at, const int columns, const int rows)
{
    LEAF_VECTOR sum[8][8], x[8], w;
    LEAF_REAL *to = (LEAF_REAL *)line->sum + at;
    const LEAF_REAL *start = (const LEAF_REAL *)line->start, *px, *pw;
    int64_t tap, ic;
    int c, r;
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++)
            sum[r][c] = start ? LEAF_SPLAT(start + r) : LEAF_LOAD(to + r * line->sum_pitch + c * LEAF_LANES);
    }
    for (tap = 0; tap < line->taps; tap++) {
        px = (const LEAF_REAL *)line->x + line->tap[tap].x + at;
        pw = (const LEAF_REAL *)line->w + line->tap[tap].w * line->channels * rows;
        for (ic = 0; ic < line->channels; ic++, px += line->x_pitch, pw += rows) {
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) x[c] = LEAF_LOAD(px + c * LEAF_LANES);
            CONVT3D__CPU_PREFETCH(px + CONVT3D__CPU_AHEAD * line->x_pitch);
            CONVT3D__CPU_PREFETCH(px + CONVT3D__CPU_AHEAD * line->x_pitch + 64 / sizeof(LEAF_REAL));
            CONVT3D__CPU_UNROLL
            for (r = 0; r < rows; r++) {
                w = LEAF_SPLAT(pw + r);
                CONVT3D__CPU_UNROLL
                for (c = 0; c < columns; c++) sum[r][c] = LEAF_FMA(x[c], w, sum[r][c]);
            }
        }
    }
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++) LEAF_STORE(to + r * line->sum_pitch + c * LEAF_LANES, sum[r][c]);
    }
}

/* A whole line: the widest tiles, then one that is as wide as the rest needs. */
CONVT3D__CPU_INLINE void LEAF(line)(const convt3d__cpu_line *line, const int columns, const int rows)
{
    int64_t at = 0, rest;
    for (; line->length - at >= columns * LEAF_LANES; at += columns * LEAF_LANES) LEAF(tile)(line, at, columns, rows);
    rest = line->length - at;
    if (rest <= 0) return;
    if (columns > 1 && rest <= LEAF_LANES) LEAF(tile)(line, at, 1, rows);
    else if (columns > 2 && rest <= 2 * LEAF_LANES) LEAF(tile)(line, at, 2, rows);
    else if (columns > 4 && rest <= 4 * LEAF_LANES) LEAF(tile)(line, at, 4, rows);
    else LEAF(tile)(line, at, columns, rows);
}

static void LEAF(line1)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_1, 1); }
static void LEAF(line2)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_2, 2); }
static void LEAF(line3)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_3, 3); }
static void LEAF(line4)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_4, 4); }
static void LEAF(line5)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_5, 5); }
static void LEAF(line6)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_6, 6); }
#if LEAF_COLUMNS_8 > 0
static void LEAF(line8)(const convt3d__cpu_line *line) { LEAF(line)(line, LEAF_COLUMNS_8, 8); }
#endif

CONVT3D__CPU_INLINE void LEAF(put)(LEAF_REAL *to, LEAF_VECTOR v, const int stream)
{
    if (stream) LEAF_STREAM(to, v);
    else LEAF_STORE(to, v);
}

/* The middle of a weave: values [from j, to n) in whole groups of stride*LANES, from phases that start at a, b, c, d.
 * Returns where it stopped. */
CONVT3D__CPU_INLINE int64_t LEAF(weave_groups)(LEAF_REAL *to, const LEAF_REAL *const *from, const int stride,
                                               int64_t n, const int stream)
{
    const LEAF_REAL *a = from[0], *b = from[stride / 2], *c = from[stride / 4], *d = from[stride - 1];
    LEAF_VECTOR ac0, ac1, bd0, bd1, low, high;
    int64_t i;
    for (i = 0; (i + LEAF_LANES) * stride <= n; i += LEAF_LANES, to += stride * LEAF_LANES) {
        if (stride == 1) {
            LEAF(put)(to, LEAF_LOAD(a + i), stream);
        } else if (stride == 2) {
            LEAF_ZIP(low, high, LEAF_LOAD(a + i), LEAF_LOAD(b + i));
            LEAF(put)(to, low, stream);
            LEAF(put)(to + LEAF_LANES, high, stream);
        } else {
            LEAF_ZIP(ac0, ac1, LEAF_LOAD(a + i), LEAF_LOAD(b + i));
            LEAF_ZIP(bd0, bd1, LEAF_LOAD(c + i), LEAF_LOAD(d + i));
            LEAF_ZIP(low, high, ac0, bd0);
            LEAF(put)(to, low, stream);
            LEAF(put)(to + LEAF_LANES, high, stream);
            LEAF_ZIP(low, high, ac1, bd1);
            LEAF(put)(to + 2 * LEAF_LANES, low, stream);
            LEAF(put)(to + 3 * LEAF_LANES, high, stream);
        }
    }
    return i * stride;
}

/* Values [begin, end) one by one. */
static void LEAF(weave_values)(LEAF_REAL *to, const void *const *from, int64_t stride, int64_t begin, int64_t end,
                               int32_t stream)
{
    const LEAF_REAL *a = (const LEAF_REAL *)from[0], *b = (const LEAF_REAL *)from[stride > 1];
    int64_t j = begin, p = begin % stride, i = begin / stride;
    if (stream) {
        for (; j < end; j++) {
            LEAF_STREAM_ONE(to + j, ((const LEAF_REAL *)from[p])[i]);
            if (++p == stride) { p = 0;  i++; }
        }
        return;
    }
    if (stride == 2 && p == 1 && j < end) { to[j++] = b[i++];  p = 0; }
    if (stride == 2) for (; j + 2 <= end; j += 2, i++) { to[j] = a[i];  to[j + 1] = b[i]; }
    for (; j < end; j++) {
        to[j] = ((const LEAF_REAL *)from[p])[i];
        if (++p == stride) { p = 0;  i++; }
    }
}

/* The middle of a row, in whole groups, for each way to weave. Returns how many values it did. */
static int64_t LEAF(weave_middle)(LEAF_REAL *to, const LEAF_REAL *const *from, int64_t stride, int64_t n,
                                  int32_t stream)
{
    if (stride == 1) return stream ? LEAF(weave_groups)(to, from, 1, n, 1) : LEAF(weave_groups)(to, from, 1, n, 0);
    if (stride == 2) return stream ? LEAF(weave_groups)(to, from, 2, n, 1) : LEAF(weave_groups)(to, from, 2, n, 0);
    if (stride == 4) return stream ? LEAF(weave_groups)(to, from, 4, n, 1) : LEAF(weave_groups)(to, from, 4, n, 0);
    return 0;
}

/* to[j] = from[j % stride][j / stride] for j < n: the W phases of a row of outputs take their places. With stream set
 * all goes around the caches, in whole lines but at the ends; ordinary stores there would have the lines behind them
 * fetched as well. */
static void LEAF(weave)(void *to_void, const void *const *from, int64_t stride, int64_t n, int32_t stream)
{
    const int64_t cache_line = 64 / (int64_t)sizeof(LEAF_REAL);
    LEAF_REAL *to = (LEAF_REAL *)to_void;
    const LEAF_REAL *at[4] = {NULL, NULL, NULL, NULL};
    int64_t head = 0, middle, i;
    if (stream) head = convt3d__min(n, (int64_t)((0 - (uintptr_t)to) % 64 / sizeof(LEAF_REAL)));
    middle = stream ? (n - head) / cache_line * cache_line : n;
    LEAF(weave_values)(to, from, stride, 0, head, stream);
    for (i = 0; stride <= 4 && i < stride; i++)
        at[i] = (const LEAF_REAL *)from[(head + i) % stride] + (head + i) / stride;
    middle = LEAF(weave_middle)(to + head, at, stride, middle, stream);
    LEAF(weave_values)(to, from, stride, head + middle, n, stream);
}

#undef LEAF
#undef LEAF_REAL
#undef LEAF_VECTOR
#undef LEAF_LANES
#undef LEAF_LOAD
#undef LEAF_STORE
#undef LEAF_STREAM
#undef LEAF_STREAM_ONE
#undef LEAF_SPLAT
#undef LEAF_FMA
#undef LEAF_ZIP
#undef LEAF_COLUMNS_1
#undef LEAF_COLUMNS_2
#undef LEAF_COLUMNS_3
#undef LEAF_COLUMNS_4
#undef LEAF_COLUMNS_5
#undef LEAF_COLUMNS_6
#undef LEAF_COLUMNS_8
