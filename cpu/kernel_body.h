/* kernel_body.h - the leaves that every instruction set shares, for one real type. kernel_*.h define the vectors below,
 * include this file once for f32 and once for f64, and it takes the definitions away again. No include guard.
 *
 * Idea: a tile is COLUMNS vectors of consecutive output positions by ROWS output channels, all in registers. For each
 * tap and input channel it takes COLUMNS loads of x (unaligned: a tap is a shift of the line) and ROWS broadcasts of
 * packed weights for COLUMNS*ROWS multiply-adds. Nothing in it tests a border: x was packed with its zeros.
 * Requires: LEAF(name)       the name of a function of this instruction set and type
 *           LEAF_REAL, LEAF_VECTOR, LEAF_LANES, LEAF_LOAD(p), LEAF_STORE(p, v), LEAF_STREAM(p, v) (p is aligned),
 *           LEAF_SPLAT(p): all lanes *p
 *           LEAF_FMA(a, b, c)   a*b + c; LEAF_ADD(a, b)
 *           LEAF_ZIP(low, high, a, b)   low = a0 b0 a1 b1 ..., high = the upper halves likewise
 *           LEAF_KEEP(v)        v is in a register now: compilers would load it anew for each of its uses
 *           LEAF_EVENS(a, b)    a0 a2 ... b0 b2 ...
 *           LEAF_COLUMNS_1 ... LEAF_COLUMNS_8   widest tile for so many channels; 0: no such tile
 *           LEAF_POSITIONS      output positions by one or two vectors of channels in a tile, 4 to 8
 *           LEAF_PANEL_POSITIONS    the same in the largest tile of a panel: 4, 6, 8 or 14
 *           LEAF_WOVEN_COLUMNS  vectors of each W phase in a tile of woven rows, 3; only where a vector is a line of
 *                           the cache and there are 32 of them. With it LEAF_INDEX, LEAF_SHIFT_OF(lanes) and
 *                           LEAF_JOIN(low, index, high): the last `lanes` values of low, the first ones of high;
 *                           LEAF_STORE_SOME(p, v, first, end): lanes [first, end) alone;
 *                           LEAF_LARGER(a, b), LEAF_SMALLER(a, b): b where that is a NaN; LEAF_LIST, the leaf for
 *                           lists, and LEAF_LIST_OF, one entry on a vector
 *           LEAF_STACK_COLUMNS  vectors in a tile of four rows of one channel, at most 4; with 4, tiles of eight rows
 *                           by two vectors as well
 */

/* One tile: positions at, at + 1, ... of the line. COLUMNS, ROWS and SINGLE, one input channel, are constants wherever
 * this is inlined. */
CONVT3D__CPU_INLINE void LEAF(tile)(const convt3d__cpu_line *line, int64_t at, const int columns, const int rows,
                                    const int single)
{
    LEAF_VECTOR sum[8][8], x[8], w;
    LEAF_REAL *to = (LEAF_REAL *)line->sum + at;
    const LEAF_REAL *start = (const LEAF_REAL *)line->start, *px, *pw;
    const int64_t channels = single ? 1 : line->channels;
    const int lines = (columns * LEAF_LANES * (int)sizeof(LEAF_REAL) + 63) / 64;       /* of the cache */
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
        pw = (const LEAF_REAL *)line->w + line->tap[tap].w * channels * rows;
        for (ic = 0; ic < channels; ic++, px += line->x_pitch, pw += rows) {
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) x[c] = LEAF_LOAD(px + c * LEAF_LANES);
            CONVT3D__CPU_UNROLL
            for (c = 0; !single && c < lines; c++)
                CONVT3D__CPU_PREFETCH(px + CONVT3D__CPU_AHEAD * line->x_pitch + c * 64 / (int)sizeof(LEAF_REAL));
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
CONVT3D__CPU_INLINE void LEAF(tiles)(const convt3d__cpu_line *line, const int columns, const int rows, const int single)
{
    int64_t at = 0, rest;
    for (; line->length - at >= columns * LEAF_LANES; at += columns * LEAF_LANES)
        LEAF(tile)(line, at, columns, rows, single);
    rest = line->length - at;
    if (rest <= 0) return;
    if (columns > 1 && rest <= LEAF_LANES) LEAF(tile)(line, at, 1, rows, single);
    else if (columns > 2 && rest <= 2 * LEAF_LANES) LEAF(tile)(line, at, 2, rows, single);
    else if (columns > 4 && rest <= 4 * LEAF_LANES) LEAF(tile)(line, at, 4, rows, single);
    else LEAF(tile)(line, at, columns, rows, single);
}

CONVT3D__CPU_INLINE void LEAF(line)(const convt3d__cpu_line *line, const int columns, const int rows)
{
    if (line->channels == 1) LEAF(tiles)(line, columns, rows, 1);
    else LEAF(tiles)(line, columns, rows, 0);
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

/* ---- one output channel: output rows share the rows of x ---- */

/* Adds `height` taps along height, of one tap along depth and width and one channel, to rows*columns vectors of sums.
 * Every row of x is loaded once for all the output rows it belongs to. */
CONVT3D__CPU_INLINE void LEAF(stack_step)(const convt3d__cpu_line *line, LEAF_VECTOR sum[8][4], const LEAF_REAL *px,
                                          const LEAF_REAL *pw, const int columns, const int rows, const int height)
{
    const int64_t pitch = line->row_pitch;
    LEAF_VECTOR w[4], x[4];
    int c, r, i;
    CONVT3D__CPU_UNROLL
    for (i = 0; i < height; i++) w[i] = LEAF_SPLAT(pw + i * line->w_step);
    px -= (height - 1) * pitch;
    CONVT3D__CPU_UNROLL
    for (i = 0; i < rows + height - 1; i++, px += pitch) {                    /* at most 11 */
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++) {
            x[c] = LEAF_LOAD(px + c * LEAF_LANES);
            LEAF_KEEP(x[c]);
        }
        CONVT3D__CPU_UNROLL
        for (r = 0; r < rows; r++) {
            const int tap = r - i + height - 1;
            if (tap < 0 || tap >= height) continue;
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) sum[r][c] = LEAF_FMA(x[c], w[tap], sum[r][c]);
        }
    }
}

/* All taps and channels of a block of rows*columns vectors; height is a constant from 1 to 4, or 0: any number. */
CONVT3D__CPU_INLINE void LEAF(stack_taps)(const convt3d__cpu_line *line, LEAF_VECTOR sum[8][4], int64_t at,
                                          const int columns, const int rows, const int height)
{
    int64_t tap, ic, first;
    for (tap = 0; tap < line->taps; tap++) {
        const LEAF_REAL *px = (const LEAF_REAL *)line->x + line->tap[tap].x + at;
        const LEAF_REAL *pw = (const LEAF_REAL *)line->w + line->tap[tap].w * line->channels;
        for (ic = 0; ic < line->channels; ic++, px += line->x_pitch, pw++) {
            if (height > 0) { LEAF(stack_step)(line, sum, px, pw, columns, rows, height);  continue; }
            for (first = (line->height - 1) / 4 * 4; first >= 0; first -= 4) {
                const LEAF_REAL *qx = px - first * line->row_pitch, *qw = pw + first * line->w_step;
                switch (line->height - first) {
                case 1: LEAF(stack_step)(line, sum, qx, qw, columns, rows, 1);  break;
                case 2: LEAF(stack_step)(line, sum, qx, qw, columns, rows, 2);  break;
                case 3: LEAF(stack_step)(line, sum, qx, qw, columns, rows, 3);  break;
                default: LEAF(stack_step)(line, sum, qx, qw, columns, rows, 4);  break;
                }
            }
        }
    }
}

CONVT3D__CPU_INLINE void LEAF(stack_tile)(const convt3d__cpu_line *line, int64_t row, int64_t at, const int columns,
                                          const int rows, const int height)
{
    LEAF_VECTOR sum[8][4];
    LEAF_REAL *to = (LEAF_REAL *)line->sum + row * line->sum_row + at;
    const LEAF_REAL *start = (const LEAF_REAL *)line->start;
    int c, r;
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++)
            sum[r][c] = start ? LEAF_SPLAT(start) : LEAF_LOAD(to + r * line->sum_row + c * LEAF_LANES);
    }
    LEAF(stack_taps)(line, sum, row * line->row_pitch + at, columns, rows, height);
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++) LEAF_STORE(to + r * line->sum_row + c * LEAF_LANES, sum[r][c]);
    }
}

/* Some rows by tiles of some columns, then by narrower ones. */
CONVT3D__CPU_INLINE void LEAF(stack_rows)(const convt3d__cpu_line *line, int64_t row, const int columns, const int rows,
                                          const int height)
{
    int64_t at = 0;
    for (; line->length - at > (columns - 1) * LEAF_LANES; at += columns * LEAF_LANES)
        LEAF(stack_tile)(line, row, at, columns, rows, height);
    if (columns > 2 && line->length - at > LEAF_LANES) {
        LEAF(stack_tile)(line, row, at, 2, rows, height);
        at += 2 * LEAF_LANES;
    }
    if (at < line->length) LEAF(stack_tile)(line, row, at, 1, rows, height);
}

/* All rows. Short ones make up for it with tiles of eight, where there are registers for them. */
CONVT3D__CPU_INLINE void LEAF(stack_all)(const convt3d__cpu_line *line, const int height)
{
    int64_t row = 0;
#if LEAF_STACK_COLUMNS == 4
    if (line->length <= 2 * LEAF_LANES)
        for (; row + 8 <= line->rows; row += 8) LEAF(stack_rows)(line, row, 2, 8, height);
#endif
    for (; row + 4 <= line->rows; row += 4) LEAF(stack_rows)(line, row, LEAF_STACK_COLUMNS, 4, height);
    if (row + 2 <= line->rows) { LEAF(stack_rows)(line, row, LEAF_STACK_COLUMNS, 2, height);  row += 2; }
    if (row < line->rows) LEAF(stack_rows)(line, row, LEAF_STACK_COLUMNS, 1, height);
}

static void LEAF(stack)(const convt3d__cpu_line *line)
{
    switch (line->height) {
    case 1: LEAF(stack_all)(line, 1);  return;
    case 2: LEAF(stack_all)(line, 2);  return;
    case 3: LEAF(stack_all)(line, 3);  return;
    case 4: LEAF(stack_all)(line, 4);  return;
    default: LEAF(stack_all)(line, 0);  return;
    }
}

/* ---- vectors along output channels ---- */

CONVT3D__CPU_INLINE void LEAF(panel_tile)(const convt3d__cpu_panel *p, int64_t first, const int vectors,
                                          const int positions)
{
    LEAF_VECTOR sum[14][2], w[2], x;
    LEAF_REAL *to = (LEAF_REAL *)p->sum + first * vectors * LEAF_LANES;
    const LEAF_REAL *start = (const LEAF_REAL *)p->start;
    int64_t tap, ic, at[14];
    int i, v;
    CONVT3D__CPU_UNROLL
    for (i = 0; i < positions; i++) {
        at[i] = p->at[first + i];
        CONVT3D__CPU_UNROLL
        for (v = 0; v < vectors; v++)
            sum[i][v] = LEAF_LOAD(start ? start + v * LEAF_LANES : to + (i * vectors + v) * LEAF_LANES);
    }
    for (tap = 0; tap < p->taps; tap++) {
        const LEAF_REAL *px = (const LEAF_REAL *)p->x + p->tap[tap].x;
        const LEAF_REAL *pw = (const LEAF_REAL *)p->w + p->tap[tap].w * p->channels * vectors * LEAF_LANES;
        for (ic = 0; ic < p->channels; ic++, px++, pw += vectors * LEAF_LANES) {
            CONVT3D__CPU_UNROLL
            for (v = 0; v < vectors; v++) {
                w[v] = LEAF_LOAD(pw + v * LEAF_LANES);
                CONVT3D__CPU_PREFETCH(pw + (CONVT3D__CPU_PANEL_AHEAD * vectors + v) * LEAF_LANES);
            }
            CONVT3D__CPU_UNROLL
            for (i = 0; i < positions; i++) {
                x = LEAF_SPLAT(px + at[i]);
                CONVT3D__CPU_UNROLL
                for (v = 0; v < vectors; v++) sum[i][v] = LEAF_FMA(x, w[v], sum[i][v]);
            }
        }
    }
    CONVT3D__CPU_UNROLL
    for (i = 0; i < positions; i++) {
        CONVT3D__CPU_UNROLL
        for (v = 0; v < vectors; v++) LEAF_STORE(to + (i * vectors + v) * LEAF_LANES, sum[i][v]);
    }
}

/* As few tiles as there can be, none much smaller than the others: each reads all the weights. */
CONVT3D__CPU_INLINE void LEAF(panel)(const convt3d__cpu_panel *p, const int vectors)
{
    int64_t i, n, tiles;
    for (i = 0; i < p->positions; i += n) {
        tiles = (p->positions - i + LEAF_PANEL_POSITIONS - 1) / LEAF_PANEL_POSITIONS;
        n = (p->positions - i + tiles - 1) / tiles;
        switch (n) {
        case 1: LEAF(panel_tile)(p, i, vectors, 1);  break;
        case 2: LEAF(panel_tile)(p, i, vectors, 2);  break;
        case 3: LEAF(panel_tile)(p, i, vectors, 3);  break;
        case 4: LEAF(panel_tile)(p, i, vectors, 4);  break;
#if LEAF_PANEL_POSITIONS > 4
        case 5: LEAF(panel_tile)(p, i, vectors, 5);  break;
        case 6: LEAF(panel_tile)(p, i, vectors, 6);  break;
#endif
#if LEAF_PANEL_POSITIONS > 6
        case 7: LEAF(panel_tile)(p, i, vectors, 7);  break;
        case 8: LEAF(panel_tile)(p, i, vectors, 8);  break;
#endif
#if LEAF_PANEL_POSITIONS > 8
        case 9: LEAF(panel_tile)(p, i, vectors, 9);  break;
        case 10: LEAF(panel_tile)(p, i, vectors, 10);  break;
        case 11: LEAF(panel_tile)(p, i, vectors, 11);  break;
        case 12: LEAF(panel_tile)(p, i, vectors, 12);  break;
        case 13: LEAF(panel_tile)(p, i, vectors, 13);  break;
        default: LEAF(panel_tile)(p, i, vectors, 14);  break;
#endif
        }
    }
}

static void LEAF(panel1)(const convt3d__cpu_panel *p) { LEAF(panel)(p, 1); }
static void LEAF(panel2)(const convt3d__cpu_panel *p) { LEAF(panel)(p, 2); }

/* to[j] += from[j] for j < n, in each of some rows. */
static void LEAF(add)(void *to_void, const void *from_void, int64_t n, int64_t rows, int64_t to_row, int64_t from_row)
{
    LEAF_REAL *to = (LEAF_REAL *)to_void;
    const LEAF_REAL *from = (const LEAF_REAL *)from_void;
    int64_t j;
    for (; rows > 0; rows--, to += to_row, from += from_row) {
        for (j = 0; j + LEAF_LANES <= n; j += LEAF_LANES)
            LEAF_STORE(to + j, LEAF_ADD(LEAF_LOAD(to + j), LEAF_LOAD(from + j)));
        for (; j < n; j++) to[j] += from[j];
    }
}

/* ---- sums over positions ---- */

/* Columns by vectors, all in registers from the first position to the last. */
CONVT3D__CPU_INLINE void LEAF(outer_tile)(const convt3d__cpu_outer *o, const int vectors, const int columns)
{
    const LEAF_REAL zero = 0;
    LEAF_VECTOR sum[8][8], v[8], b[8];
    LEAF_REAL *to = (LEAF_REAL *)o->sum;
    const int64_t v_step = o->v_step[2], b_step = o->b_step[2], column = o->column;
    int64_t d, h, n;
    int c, i;
    CONVT3D__CPU_UNROLL
    for (c = 0; c < columns; c++) {
        CONVT3D__CPU_UNROLL
        for (i = 0; i < vectors; i++) sum[c][i] = LEAF_SPLAT(&zero);
    }
    for (d = 0; d < o->size[0]; d++) {
        const LEAF_REAL *row_v = (const LEAF_REAL *)o->v + d * o->v_step[0];
        const LEAF_REAL *row_b = (const LEAF_REAL *)o->b + d * o->b_step[0];
        for (h = o->size[1]; h > 0; h--, row_v += o->v_step[1], row_b += o->b_step[1]) {
            const LEAF_REAL *pv = row_v, *p0 = row_b, *p3 = p0 + 3 * column, *p6 = p3 + 3 * column;
            for (n = o->size[2]; n > 0; n--, pv += v_step, p0 += b_step, p3 += b_step, p6 += b_step) {
                if (vectors <= columns) {
                    CONVT3D__CPU_UNROLL
                    for (i = 0; i < vectors; i++) v[i] = LEAF_LOAD(pv + i * LEAF_LANES);
                    CONVT3D__CPU_UNROLL
                    for (c = 0; c < columns; c++) {
                        b[0] = LEAF_SPLAT((c < 3 ? p0 : c < 6 ? p3 : p6) + c % 3 * column);
                        CONVT3D__CPU_UNROLL
                        for (i = 0; i < vectors; i++) sum[c][i] = LEAF_FMA(v[i], b[0], sum[c][i]);
                    }
                } else {
                    CONVT3D__CPU_UNROLL
                    for (c = 0; c < columns; c++) b[c] = LEAF_SPLAT(p0 + c * column);
                    CONVT3D__CPU_UNROLL
                    for (i = 0; i < vectors; i++) {
                        v[0] = LEAF_LOAD(pv + i * LEAF_LANES);
                        CONVT3D__CPU_UNROLL
                        for (c = 0; c < columns; c++) sum[c][i] = LEAF_FMA(v[0], b[c], sum[c][i]);
                    }
                }
            }
        }
    }
    CONVT3D__CPU_UNROLL
    for (c = 0; c < columns; c++) {
        CONVT3D__CPU_UNROLL
        for (i = 0; i < vectors; i++, to += LEAF_LANES) LEAF_STORE(to, LEAF_ADD(LEAF_LOAD(to), sum[c][i]));
    }
}

CONVT3D__CPU_INLINE LEAF_REAL LEAF(across)(LEAF_VECTOR v)
{
    LEAF_REAL lane[LEAF_LANES], sum = 0;
    int i;
    LEAF_STORE(lane, v);
    for (i = 0; i < LEAF_LANES; i++) sum += lane[i];
    return sum;
}

/* One sum, its vectors along W; rows end in zeros where they may be read beyond their end. */
static void LEAF(dot)(const convt3d__cpu_outer *o)
{
    const LEAF_REAL zero = 0;
    LEAF_VECTOR sum[4];
    LEAF_REAL rest = 0;
    int64_t d, h, j, n = o->size[2];
    int i;
    for (i = 0; i < 4; i++) sum[i] = LEAF_SPLAT(&zero);
    for (d = 0; d < o->size[0]; d++)
        for (h = 0; h < o->size[1]; h++) {
            const LEAF_REAL *v = (const LEAF_REAL *)o->v + d * o->v_step[0] + h * o->v_step[1];
            const LEAF_REAL *b = (const LEAF_REAL *)o->b + d * o->b_step[0] + h * o->b_step[1];
            if (o->columns == 0) {
                for (j = 0; j < n; j++) rest += v[j] * b[j];
                continue;
            }
            for (j = 0; j + 3 * LEAF_LANES < n; j += 4 * LEAF_LANES) {
                CONVT3D__CPU_UNROLL
                for (i = 0; i < 4; i++)
                    sum[i] = LEAF_FMA(LEAF_LOAD(v + j + i * LEAF_LANES), LEAF_LOAD(b + j + i * LEAF_LANES), sum[i]);
            }
            if (j < n) sum[0] = LEAF_FMA(LEAF_LOAD(v + j), LEAF_LOAD(b + j), sum[0]);
            j += LEAF_LANES;
            if (j < n) sum[1] = LEAF_FMA(LEAF_LOAD(v + j), LEAF_LOAD(b + j), sum[1]);
            j += LEAF_LANES;
            if (j < n) sum[2] = LEAF_FMA(LEAF_LOAD(v + j), LEAF_LOAD(b + j), sum[2]);
        }
    rest += LEAF(across)(LEAF_ADD(LEAF_ADD(sum[0], sum[1]), LEAF_ADD(sum[2], sum[3])));
    *(LEAF_REAL *)o->sum += rest;
}

static void LEAF(outer)(const convt3d__cpu_outer *o)
{
    switch (o->vectors * 16 + o->columns) {
    case 0x00: case 0x01: LEAF(dot)(o);  return;
    case 0x11: LEAF(outer_tile)(o, 1, 1);  return;
    case 0x12: LEAF(outer_tile)(o, 1, 2);  return;
    case 0x13: LEAF(outer_tile)(o, 1, 3);  return;
    case 0x14: LEAF(outer_tile)(o, 1, 4);  return;
    case 0x15: LEAF(outer_tile)(o, 1, 5);  return;
    case 0x16: LEAF(outer_tile)(o, 1, 6);  return;
    case 0x17: LEAF(outer_tile)(o, 1, 7);  return;
    case 0x18: LEAF(outer_tile)(o, 1, 8);  return;
    case 0x21: LEAF(outer_tile)(o, 2, 1);  return;
    case 0x22: LEAF(outer_tile)(o, 2, 2);  return;
    case 0x23: LEAF(outer_tile)(o, 2, 3);  return;
    case 0x24: LEAF(outer_tile)(o, 2, 4);  return;
    case 0x25: LEAF(outer_tile)(o, 2, 5);  return;
    case 0x26: LEAF(outer_tile)(o, 2, 6);  return;
#if LEAF_POSITIONS >= 8
    case 0x27: LEAF(outer_tile)(o, 2, 7);  return;
    case 0x28: LEAF(outer_tile)(o, 2, 8);  return;
#endif
    case 0x41: LEAF(outer_tile)(o, 4, 1);  return;
    case 0x42: LEAF(outer_tile)(o, 4, 2);  return;
    case 0x43: LEAF(outer_tile)(o, 4, 3);  return;
    case 0x81: LEAF(outer_tile)(o, 8, 1);  return;
    default: return;
    }
}

/* The sum of n values: in vectors, up to 64 of them at a time, then in double. */
static double LEAF(total)(const void *values, int64_t n)
{
    const LEAF_REAL *from = (const LEAF_REAL *)values, zero = 0;
    LEAF_VECTOR sum[4];
    double total = 0;
    int64_t j = 0, end;
    int i;
    while (n - j >= 4 * LEAF_LANES) {
        end = convt3d__min(n, j + 64 * LEAF_LANES);
        CONVT3D__CPU_UNROLL
        for (i = 0; i < 4; i++) sum[i] = LEAF_SPLAT(&zero);
        for (; j + 4 * LEAF_LANES <= end; j += 4 * LEAF_LANES) {
            CONVT3D__CPU_UNROLL
            for (i = 0; i < 4; i++) sum[i] = LEAF_ADD(sum[i], LEAF_LOAD(from + j + i * LEAF_LANES));
        }
        total += (double)LEAF(across)(LEAF_ADD(LEAF_ADD(sum[0], sum[1]), LEAF_ADD(sum[2], sum[3])));
    }
    for (; j < n; j++) total += (double)from[j];
    return total;
}

/* to[j] = from[2*j] for j < n; from[2*n - 1] is not read. */
static void LEAF(evens)(void *to_void, const void *from_void, int64_t n)
{
    LEAF_REAL *to = (LEAF_REAL *)to_void;
    const LEAF_REAL *from = (const LEAF_REAL *)from_void;
    int64_t j;
    for (j = 0; j + LEAF_LANES < n; j += LEAF_LANES)
        LEAF_STORE(to + j, LEAF_EVENS(LEAF_LOAD(from + 2 * j), LEAF_LOAD(from + 2 * j + LEAF_LANES)));
    for (; j < n; j++) to[j] = from[2 * j];
}

/* ---- rows of outputs ---- */

#define LEAF_LINE ((int64_t)(64 / sizeof(LEAF_REAL)))       /* values of a line of the cache */

CONVT3D__CPU_INLINE void LEAF(put)(LEAF_REAL *to, LEAF_VECTOR v, const int stream)
{
    if (stream) LEAF_STREAM(to, v);
    else LEAF_STORE(to, v);
}

/* Weaves whole groups of stride*LANES values as long as they end at or before n: those of phases whose values begin at
 * at[0], at[1], ... Returns how many values it did. */
CONVT3D__CPU_INLINE int64_t LEAF(weave_groups)(LEAF_REAL *to, const LEAF_REAL *const *at, const int stride, int64_t n,
                                               const int stream)
{
    const LEAF_REAL *a = at[0], *b = at[stride / 2], *c = at[stride / 4], *d = at[stride - 1];
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

/* Where the phases have the values from j on. */
CONVT3D__CPU_INLINE void LEAF(phases_at)(const LEAF_REAL *at[4], const LEAF_REAL *const *from, const int stride,
                                         int64_t row, int64_t j)
{
    int i;
    CONVT3D__CPU_UNROLL
    for (i = 0; i < stride; i++) at[i] = from[(j + i) % stride] + row + (j + i) / stride;
}

/* Values [j, end) of a row as whole groups; what lies behind `end` in the last one is written too. */
CONVT3D__CPU_INLINE void LEAF(weave_part)(LEAF_REAL *to, const LEAF_REAL *const *from, const int stride, int64_t row,
                                          int64_t j, int64_t end)
{
    const LEAF_REAL *at[4];
    const int64_t group = stride * LEAF_LANES;
    LEAF(phases_at)(at, from, stride, row, j);
    LEAF(weave_groups)(to, at, stride, (end - j + group - 1) / group * group, 0);
}

/* The same, and nothing behind it: the part of a line that a row begins or ends with. Its other part comes another
 * time, so it stays in the caches until then. */
CONVT3D__CPU_INLINE void LEAF(edge_part)(LEAF_REAL *to, const LEAF_REAL *const *from, const int stride, int64_t row,
                                           int64_t j, int64_t end)
{
    LEAF_REAL part[8 * LEAF_LANES + LEAF_LINE];
    int64_t i;
    LEAF(weave_part)(part, from, stride, row, j, end);
    for (i = j; i < end; i++) to[i] = part[i - j];
}

/* One row whose values start at `row` in each phase. What no whole group reaches is done by a group that ends with the
 * row and repeats some values, or, around the caches, one by one. */
CONVT3D__CPU_INLINE void LEAF(weave_row)(LEAF_REAL *to, const LEAF_REAL *const *from, const int stride, int64_t row,
                                         int64_t n, const int stream)
{
    const LEAF_REAL *at[4];
    int64_t head = 0, j;
    if (stream) {
        head = convt3d__min(n, (int64_t)((0 - (uintptr_t)to) % 64 / sizeof(LEAF_REAL)));
        if (head > 0) LEAF(edge_part)(to, from, stride, row, 0, head);
    }
    LEAF(phases_at)(at, from, stride, row, head);
    j = head + LEAF(weave_groups)(to + head, at, stride, n - head, stream);
    if (j == n) return;
    if (stream) { LEAF(edge_part)(to, from, stride, row, j, n);  return; }
    if (n >= stride * LEAF_LANES) {
        j = n - stride * LEAF_LANES;
        LEAF(phases_at)(at, from, stride, row, j);
        LEAF(weave_groups)(to + j, at, stride, n - j, 0);
    } else for (j = 0; j < n; j++) to[j] = from[j % stride][row + j / stride];
}

CONVT3D__CPU_INLINE void LEAF(stream_lines)(LEAF_REAL *to, const LEAF_REAL *from, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i += LEAF_LANES) LEAF_STREAM(to + i, LEAF_LOAD(from + i));
}

/* Rows that lie end to end in y, around the caches, as one row: the line in which one ends and the next begins is put
 * together in a buffer. It leaves after the next row, when what was written into it no longer waits behind stores. */
CONVT3D__CPU_INLINE void LEAF(weave_joined)(const convt3d__cpu_weave *w, const LEAF_REAL *const *from, const int stride)
{
    LEAF_REAL part[2][12 * LEAF_LANES + 3 * LEAF_LINE], *to = (LEAF_REAL *)w->to, *line = NULL;    /* one that waits */
    const LEAF_REAL *at[4], *waiting = NULL;
    int64_t row, high = 0, start = 0, j, n = w->length, full;
    int64_t open = (int64_t)((uintptr_t)to % 64 / sizeof(LEAF_REAL));    /* values of the line that came before */
    LEAF_REAL *last = part[0];                                           /* that line */
    CONVT3D__CPU_PREFETCH_WRITE(to);
    CONVT3D__CPU_PREFETCH_WRITE(to + w->rows * n - 1);
    int alone = open > 0, side = 0;                                      /* alone: it began before these rows */
    for (row = 0; row < w->rows; row++) {
        const int64_t at_row = start + high * w->from_high;
        if (++high == w->high) { high = 0;  start += w->from_pitch; }
        j = open > 0 ? convt3d__min(n, LEAF_LINE - open) : 0;
        if (alone) {
            LEAF(edge_part)(to, from, stride, at_row, 0, j);
        } else if (j > 0) LEAF(weave_part)(last + open, from, stride, at_row, 0, j);
        open += j;
        if (line) LEAF(stream_lines)(line, waiting, LEAF_LINE);
        line = NULL;
        if (open == LEAF_LINE) {
            if (!alone) { line = to + j - LEAF_LINE;  waiting = last; }
            open = alone = 0;
        }
        if (j < n) {
            LEAF(phases_at)(at, from, stride, at_row, j);
            j += LEAF(weave_groups)(to + j, at, stride, (n - j) / LEAF_LINE * LEAF_LINE, 1);
            side = 1 - side;
            last = part[side];
            LEAF(weave_part)(last, from, stride, at_row, j, n);
            full = (n - j) / LEAF_LINE * LEAF_LINE;
            LEAF(stream_lines)(to + j, last, full);
            last += full;
            open = n - j - full;
        }
        to += n;
    }
    if (line) LEAF(stream_lines)(line, waiting, LEAF_LINE);
    for (j = 0; !alone && j < open; j++) to[j - open] = last[j];
}

CONVT3D__CPU_INLINE void LEAF(weave_rows)(const convt3d__cpu_weave *w, const int stride, const int stream)
{
    LEAF_REAL *to = (LEAF_REAL *)w->to;
    const LEAF_REAL *from[4] = {NULL, NULL, NULL, NULL};
    int64_t row, high = 0, at = 0;
    int i;
    for (i = 0; i < stride; i++) from[i] = (const LEAF_REAL *)w->from[i];
    if (stream && w->to_pitch == w->length && w->length % LEAF_LINE != 0) {
        LEAF(weave_joined)(w, from, stride);
        return;
    }
    for (row = 0; row < w->rows; row++, to += w->to_pitch) {
        LEAF(weave_row)(to, from, stride, at + high * w->from_high, w->length, stream);
        if (++high == w->high) { high = 0;  at += w->from_pitch; }
    }
}

static void LEAF(weave)(const convt3d__cpu_weave *w)
{
    LEAF_REAL *to = (LEAF_REAL *)w->to;
    int64_t row, phase, j;
    switch (w->stride * 2 + (w->stream != 0)) {
    case 2: LEAF(weave_rows)(w, 1, 0);  return;
    case 3: LEAF(weave_rows)(w, 1, 1);  return;
    case 4: LEAF(weave_rows)(w, 2, 0);  return;
    case 5: LEAF(weave_rows)(w, 2, 1);  return;
    case 8: LEAF(weave_rows)(w, 4, 0);  return;
    case 9: LEAF(weave_rows)(w, 4, 1);  return;
    default: break;
    }
    for (row = 0; row < w->rows; row++, to += w->to_pitch)
        for (phase = 0; phase < w->stride; phase++) {
            const LEAF_REAL *from = (const LEAF_REAL *)w->from[phase] + row % w->high * w->from_high +
                                    row / w->high * w->from_pitch;
            for (j = phase; j < w->length; j += w->stride) to[j] = *from++;
        }
}

#ifdef LEAF_WOVEN_COLUMNS
/* ---- lines whose two W phases are woven before they leave ---- */

/* A row whose lines of the cache do not begin with it, around the caches: what each channel has left over for its next
 * line, the last `lanes` values of `carry`. */
typedef struct LEAF(rest) {
    LEAF_VECTOR carry[8];
    LEAF_INDEX index[8];
    int64_t lanes[8];
} LEAF(rest);

/* The sums of one phase, from position `at` on. */
CONVT3D__CPU_INLINE void LEAF(woven_sum)(const convt3d__cpu_woven *p, LEAF_VECTOR sum[8][LEAF_WOVEN_COLUMNS],
                                         const int phase, int64_t at, const int columns, const int rows)
{
    LEAF_VECTOR x[LEAF_WOVEN_COLUMNS], w;
    const convt3d__cpu_tap *tap = p->tap[phase], *end = tap + p->taps[phase];
    int64_t ic;
    int c, r;
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        sum[r][0] = LEAF_SPLAT((const LEAF_REAL *)p->start + r);
        CONVT3D__CPU_UNROLL
        for (c = 1; c < columns; c++) sum[r][c] = sum[r][0];
    }
    for (; tap < end; tap++) {
        const LEAF_REAL *px = (const LEAF_REAL *)p->x + tap->x + at;
        const LEAF_REAL *pw = (const LEAF_REAL *)p->w + tap->w * p->channels * rows;
        for (ic = p->channels; ic > 0; ic--, px += p->x_pitch, pw += rows) {
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) {
                x[c] = LEAF_LOAD(px + c * LEAF_LANES);
                CONVT3D__CPU_PREFETCH(px + CONVT3D__CPU_AHEAD * p->x_pitch + c * LEAF_LANES);
            }
            CONVT3D__CPU_UNROLL
            for (r = 0; r < rows; r++) {
                w = LEAF_SPLAT(pw + r);
                CONVT3D__CPU_UNROLL
                for (c = 0; c < columns; c++) sum[r][c] = LEAF_FMA(x[c], w, sum[r][c]);
            }
        }
    }
}

/* The first `entries` of the list on finished sums, `n` of each channel: on all of them where channels are alike. */
CONVT3D__CPU_INLINE void LEAF(woven_list)(const convt3d__cpu_woven *p, int entries, LEAF_REAL *values, int64_t n,
                                          const int rows)
{
    int i, r;
    for (i = 0; i < entries; i++) {
        const convt3d__cpu_entry *e = p->entry + i;
        const int64_t m = e->kind == CONVT3D_OP_AFFINE ? n : rows * n;
        for (r = 0; r * m < rows * n; r++) LEAF_LIST(e->kind, e->a[r], e->b[r], values + r * m, m);
    }
}

/* The frequent entries, while the sums are in registers. */
CONVT3D__CPU_INLINE void LEAF(woven_light)(const convt3d__cpu_woven *p, LEAF_VECTOR sum[8][LEAF_WOVEN_COLUMNS],
                                           const int columns, const int rows)
{
    LEAF_REAL a, b;
    int c, r;
    if (p->affine) {
        CONVT3D__CPU_UNROLL
        for (r = 0; r < rows; r++) {
            a = (LEAF_REAL)p->affine->a[r];
            b = (LEAF_REAL)p->affine->b[r];
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) sum[r][c] = LEAF_FMA(sum[r][c], LEAF_SPLAT(&a), LEAF_SPLAT(&b));
        }
    }
    if (!p->bounds) return;
    a = (LEAF_REAL)p->bounds->a[0];
    b = (LEAF_REAL)p->bounds->b[0];
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++) sum[r][c] = LEAF_LARGER(LEAF_SPLAT(&a), sum[r][c]);
    }
    if (b == (LEAF_REAL)INFINITY) return;
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++) sum[r][c] = LEAF_SMALLER(LEAF_SPLAT(&b), sum[r][c]);
    }
}

/* A line of outputs from output o on, of a row that begins at `to`; whole: all of it is the row's. */
CONVT3D__CPU_INLINE void LEAF(woven_line)(const convt3d__cpu_woven *p, LEAF_REAL *to, LEAF_VECTOR v, int64_t o,
                                          const int whole, const int stream)
{
    int64_t first = o < 0 ? -o : 0, end = p->length - o;
    if (!whole && (first > 0 || end < LEAF_LANES)) {
        if (end > first) LEAF_STORE_SOME(to + o, v, first, end < LEAF_LANES ? end : LEAF_LANES);
    } else LEAF(put)(to + o, v, stream);
}

/* A vector of each phase, from output o on. */
CONVT3D__CPU_INLINE void LEAF(woven_pair)(const convt3d__cpu_woven *p, LEAF(rest) *rest, const int channel, int64_t o,
                                          LEAF_VECTOR a, LEAF_VECTOR b, const int whole, const int stream)
{
    LEAF_REAL *to = (LEAF_REAL *)p->to + channel * p->to_channel;
    LEAF_VECTOR v[2], low;
    LEAF_ZIP(v[0], v[1], a, b);
    if (rest) {
        low = rest->carry[channel];
        rest->carry[channel] = v[1];
        v[1] = LEAF_JOIN(v[0], rest->index[channel], v[1]);
        v[0] = LEAF_JOIN(low, rest->index[channel], v[0]);
        o -= rest->lanes[channel];
    }
    LEAF(woven_line)(p, to, v[0], o, whole, stream);
    LEAF(woven_line)(p, to, v[1], o + LEAF_LANES, whole, stream);
}

/* Whether all that a tile of `columns` vectors of each phase puts from output o on is the row's. */
CONVT3D__CPU_INLINE int LEAF(woven_whole)(const convt3d__cpu_woven *p, const LEAF(rest) *rest, int64_t o, int columns)
{
    return o >= (rest ? LEAF_LANES : 0) && o + 2 * columns * LEAF_LANES <= p->length;
}

/* One entry, `kind`, on finished sums on their way to y: `first`, those of the second phase behind those of the first
 * for each channel. They are loaded once: each load waits for a store to come by. */
CONVT3D__CPU_INLINE void LEAF(woven_through)(const convt3d__cpu_woven *p, LEAF(rest) *rest, int64_t o,
                                             const LEAF_REAL *first, const int64_t columns, const int32_t kind)
{
    const convt3d__cpu_entry *e = p->entry + p->entries - 1;
    int64_t c, r;
    for (r = 0; r < p->valid; r++, first += 2 * columns * LEAF_LANES)
        for (c = 0; c < columns; c++) {
            LEAF_VECTOR a = LEAF_LOAD(first + c * LEAF_LANES), b = LEAF_LOAD(first + (columns + c) * LEAF_LANES);
            LEAF_KEEP(a);
            LEAF_KEEP(b);
            a = LEAF_LIST_OF(kind, a, e->a[r], e->b[r]);
            b = LEAF_LIST_OF(kind, b, e->a[r], e->b[r]);
            LEAF(woven_pair)(p, rest, (int)r, o + 2 * c * LEAF_LANES, a, b, 1, 1);
        }
}

CONVT3D__CPU_APART void LEAF(woven_last)(const convt3d__cpu_woven *p, LEAF(rest) *rest, int64_t o,
                                         const LEAF_REAL *first, int64_t columns)
{
    switch (p->entry[p->entries - 1].kind) {
#define LEAF_WOVEN_CASE(name) \
    case CONVT3D_OP_##name: LEAF(woven_through)(p, rest, o, first, columns, CONVT3D_OP_##name);  break;
    CONVT3D__CPU_FUNCTIONS(LEAF_WOVEN_CASE)
#undef LEAF_WOVEN_CASE
    default: break;
    }
}

/* Finished sums become lines of y. */
CONVT3D__CPU_INLINE void LEAF(woven_put)(const convt3d__cpu_woven *p, LEAF(rest) *rest, int64_t o,
                                         const LEAF_REAL *first, LEAF_VECTOR sum[8][LEAF_WOVEN_COLUMNS],
                                         const int columns, const int rows, const int whole, const int stream)
{
    int c, r;
    CONVT3D__CPU_UNROLL
    for (r = 0; r < rows; r++) {
        if (r >= p->valid) return;
        CONVT3D__CPU_UNROLL
        for (c = 0; c < columns; c++)
            LEAF(woven_pair)(p, rest, r, o + 2 * c * LEAF_LANES, LEAF_LOAD(first + (2 * r * columns + c) * LEAF_LANES),
                             sum[r][c], whole, stream);
    }
}

/* All channels by `columns` vectors of each phase, from output o on. The sums of the first phase wait in memory while
 * those of the second are formed, so that each has the registers of a line's tile. Few instructions stand between the
 * sums of a tile and those of the next one, so that a processor works on both while the lines leave. */
CONVT3D__CPU_INLINE void LEAF(woven_tile)(const convt3d__cpu_woven *p, LEAF(rest) *rest, int64_t o, const int columns,
                                          const int rows)
{
    LEAF_REAL memory[(2 * 8 * LEAF_WOVEN_COLUMNS + 1) * LEAF_LANES];
    LEAF_REAL *first = memory + (0 - (uintptr_t)memory) % 64 / sizeof(LEAF_REAL);
    const int whole = p->stream && LEAF(woven_whole)(p, rest, o, columns);
    LEAF_VECTOR sum[8][LEAF_WOVEN_COLUMNS];
    int phase, c, r;
    CONVT3D__CPU_UNROLL
    for (phase = 0; phase < 2; phase++) {
        LEAF(woven_sum)(p, sum, phase, o / 2, columns, rows);
        if (p->affine || p->bounds) LEAF(woven_light)(p, sum, columns, rows);
        if (phase == 1 && p->entries == 0) break;
        CONVT3D__CPU_UNROLL
        for (r = 0; r < rows; r++) {
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) LEAF_STORE(first + ((2 * r + phase) * columns + c) * LEAF_LANES, sum[r][c]);
        }
    }
    if (p->entries > 0) {
        LEAF(woven_list)(p, p->entries - whole, first, 2 * columns * LEAF_LANES, rows);
        if (whole) { LEAF(woven_last)(p, rest, o, first, columns);  return; }
        CONVT3D__CPU_UNROLL
        for (r = 0; r < rows; r++) {
            CONVT3D__CPU_UNROLL
            for (c = 0; c < columns; c++) sum[r][c] = LEAF_LOAD(first + ((2 * r + 1) * columns + c) * LEAF_LANES);
        }
    }
    if (!whole) LEAF(woven_put)(p, rest, o, first, sum, columns, rows, 0, p->stream != 0);
    else if (rest) LEAF(woven_put)(p, rest, o, first, sum, columns, rows, 1, 1);
    else LEAF(woven_put)(p, NULL, o, first, sum, columns, rows, 1, 1);
}

/* Functions of their own: what the caller keeps would take registers from the sums. */
#define LEAF_WOVEN_TILE(rows, columns) \
    CONVT3D__CPU_APART void LEAF(woven##rows##columns)(const convt3d__cpu_woven *p, LEAF(rest) *rest, int64_t o) \
    { \
        LEAF(woven_tile)(p, rest, o, columns, rows); \
    }
LEAF_WOVEN_TILE(4, 1)
LEAF_WOVEN_TILE(4, 2)
LEAF_WOVEN_TILE(4, 3)
LEAF_WOVEN_TILE(8, 1)
LEAF_WOVEN_TILE(8, 2)
LEAF_WOVEN_TILE(8, 3)
#undef LEAF_WOVEN_TILE

static void LEAF(woven_row)(const convt3d__cpu_woven *p, LEAF(rest) *rest)
{
    const int64_t vectors = (p->length + 2 * LEAF_LANES - 1) / (2 * LEAF_LANES);
    int64_t at, columns, channel, o = 0;
    for (at = 0; at < vectors; at += columns, o += 2 * columns * LEAF_LANES) {
        columns = vectors - at == 4 ? 2 : convt3d__min(vectors - at, 3);
        switch (p->rows + columns) {
        case 5: LEAF(woven41)(p, rest, o);  break;
        case 6: LEAF(woven42)(p, rest, o);  break;
        case 7: LEAF(woven43)(p, rest, o);  break;
        case 9: LEAF(woven81)(p, rest, o);  break;
        case 10: LEAF(woven82)(p, rest, o);  break;
        default: LEAF(woven83)(p, rest, o);  break;
        }
    }
    for (channel = 0; rest && channel < p->valid; channel++)
        LEAF(woven_line)(p, (LEAF_REAL *)p->to + channel * p->to_channel,
                         LEAF_JOIN(rest->carry[channel], rest->index[channel], rest->carry[channel]),
                         o - rest->lanes[channel], 0, 1);
}

static void LEAF(woven)(const convt3d__cpu_woven *p)
{
    LEAF(rest) rest;
    int64_t channel;
    if (!p->stream || ((uintptr_t)p->to | (uintptr_t)p->to_channel * sizeof(LEAF_REAL)) % 64 == 0) {
        LEAF(woven_row)(p, NULL);
        return;
    }
    for (channel = 0; channel < p->valid; channel++) {
        uintptr_t to = (uintptr_t)((LEAF_REAL *)p->to + channel * p->to_channel);
        rest.lanes[channel] = (int64_t)(to % 64 / sizeof(LEAF_REAL));
        rest.index[channel] = LEAF_SHIFT_OF(rest.lanes[channel]);
        rest.carry[channel] = LEAF_SPLAT((const LEAF_REAL *)p->start);     /* none of it is stored */
        CONVT3D__CPU_PREFETCH_WRITE((const void *)to);      /* the lines that the row shares */
        CONVT3D__CPU_PREFETCH_WRITE((const void *)(to + (uintptr_t)p->length * sizeof(LEAF_REAL)));
    }
    LEAF(woven_row)(p, &rest);
}
#endif

#undef LEAF
#undef LEAF_REAL
#undef LEAF_VECTOR
#undef LEAF_LANES
#undef LEAF_LINE
#undef LEAF_LOAD
#undef LEAF_STORE
#undef LEAF_STREAM
#undef LEAF_SPLAT
#undef LEAF_FMA
#undef LEAF_ADD
#undef LEAF_ZIP
#undef LEAF_EVENS
#undef LEAF_KEEP
#undef LEAF_COLUMNS_1
#undef LEAF_COLUMNS_2
#undef LEAF_COLUMNS_3
#undef LEAF_COLUMNS_4
#undef LEAF_COLUMNS_5
#undef LEAF_COLUMNS_6
#undef LEAF_COLUMNS_8
#undef LEAF_STACK_COLUMNS
#undef LEAF_POSITIONS
#undef LEAF_PANEL_POSITIONS
#undef LEAF_WOVEN_COLUMNS
#undef LEAF_INDEX
#undef LEAF_SHIFT_OF
#undef LEAF_JOIN
#undef LEAF_STORE_SOME
#undef LEAF_LARGER
#undef LEAF_SMALLER
#undef LEAF_LIST
#undef LEAF_LIST_OF
