/* Promise: each fast CPU kernel, pinned by force, is held to the numeric contract on the whole table of cases and on
 * random ones, in every type and layout, and takes the cases it must take; what it refuses it refuses by name. A row
 * that this processor lacks is skipped. The gradients of layers of real sizes are the reference's, value for value, and
 * nothing outside the tensors is touched; test_backward.c has the rest of their contract. */
#include "guard.h"
#include "contract.h"

typedef struct kernel_row {
    const char *name;
    int least;                  /* cases of the table that it must take */
} kernel_row;

static const kernel_row rows[] = {{"avx512", 95}, {"avx2", 95}, {"neon", 95}, {"portable", 95}};

static convt3d_status status_of(const convt3d_desc *d, convt3d_error *error)
{
    convt3d_plan plan;
    return convt3d_plan_init(&plan, d, CONVT3D_FORWARD, error);
}

/* Absent from this build, or no such processor: nothing to test. */
static int missing(const char *name)
{
    convt3d_desc d = common_desc(4, 4, 4, 3, 1, 1);
    convt3d_error error;
    convt3d_status status;
    contract_use(&d, name);
    status = status_of(&d, &error);
    return status == CONVT3D_KERNEL_UNKNOWN || (status == CONVT3D_REFUSED && strstr(error.text, "this processor"));
}

/* -1: refused; 0: wrong; 1: right */
static int check(convt3d_desc d, const char *name, uint64_t seed)
{
    static const int32_t threads[3] = {1, 2, 7};
    check_request request;
    convt3d_error error;
    int exact, pass = 1;
    contract_use(&d, name);
    if (status_of(&d, &error) == CONVT3D_REFUSED) return -1;
    memset(&request, 0, sizeof request);
    request.desc = d;
    for (exact = 0; exact < 2; exact++) {
        request.exact = exact;
        request.seed = seed;
        request.desc.threads = threads[(seed + (uint64_t)exact) % 3];
        pass &= common_check(&request);
    }
    return pass;
}

static void test_table(const kernel_row *row)
{
    int i, dtype, layout, taken = 0, wrong = 0;
    for (i = 0; i < SHAPES_COUNT; i++) {
        int takes = 1;
        for (dtype = 0; dtype < 4; dtype++)
            for (layout = 0; layout < 2; layout++) {
                convt3d_desc d = shapes_table[i].desc;
                int result;
                d.dtype = dtype;
                d.layout = layout;
                result = check(d, row->name, (uint64_t)(i * 8 + dtype * 2 + layout));
                takes = takes && result >= 0;
                wrong += result == 0;
            }
        if (!takes) tap_note("%s refuses %s", row->name, shapes_table[i].name);
        taken += takes;
    }
    tap_ok(wrong == 0, "%s: every case of the table that it takes is right", row->name);
    tap_ok(taken >= row->least, "%s: takes %d of the table's %d cases, at least %d", row->name, taken, SHAPES_COUNT,
           row->least);
}

static void test_random(const kernel_row *row)
{
    int i, wrong = 0, refused = 0;
    for (i = 0; i < 600; i++) {
        convt3d_desc d = shapes_random(4000 + (uint64_t)i);
        int result;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        result = check(d, row->name, (uint64_t)i);
        wrong += result == 0;
        refused += result < 0;
    }
    tap_ok(wrong == 0 && refused == 0, "%s: 600 random cases, all taken", row->name);
}

/* Layers of real sizes: many vectors to a line, several runs, units and blocks of input channels. The types and layouts
 * take turns. */
static void test_layers(const kernel_row *row)
{
    static const int64_t layers[][6] = {    /* in, out, size, kernel, stride, padding */
        {48, 48, 18, 3, 1, 0}, {64, 32, 10, 2, 2, 0}, {150, 12, 8, 3, 2, 1}, {32, 8, 14, 4, 2, 1}, {300, 5, 7, 4, 4, 0},
        {4, 32, 20, 3, 2, 1}, {64, 1, 12, 4, 2, 1}, {8, 8, 29, 5, 1, 2}, {3, 7, 30, 3, 3, 0},
    };
    size_t i;
    int turn, wrong = 0;
    for (i = 0; i < sizeof layers / sizeof layers[0]; i++)
        for (turn = 0; turn < 2; turn++) {
            const int64_t *l = layers[i];
            convt3d_desc d = common_desc(l[0], l[1], l[2], l[3], l[4], l[5]);
            d.dtype = (int32_t)(i + (size_t)turn * 2) % 4;
            d.layout = (int32_t)(i / 2 + (size_t)turn) % 2;
            wrong += check(d, row->name, i * 6) != 1;
        }
    tap_ok(wrong == 0, "%s: layers of real sizes", row->name);
}

/* y larger than most last-level caches: rows are then stored around them, in lines that begin anywhere. */
static void test_large_output(const kernel_row *row)
{
    /* size, kernel, stride, padding */
    static const int64_t layers[][4] = {{190, 1, 1, 0}, {96, 3, 2, 1}, {48, 4, 4, 1}};
    int i, wrong = 0;
    for (i = 0; i < 3; i++) {
        convt3d_desc d = common_desc(2, 3, layers[i][0], layers[i][1], layers[i][2], layers[i][3]);
        d.dtype = i == 0 ? CONVT3D_F64 : CONVT3D_F32;
        wrong += check(d, row->name, 0) != 1;
    }
    for (i = 1; i <= 2; i++) {                              /* rows shorter than a line of the cache */
        convt3d_desc d = common_desc(2, 3, 450, i * 2 - 1, i, i - 1);
        d.in_size[0] = i == 1 ? 450 : 60;
        d.in_size[2] = 5;
        wrong += check(d, row->name, 0) != 1;
    }
    tap_ok(wrong == 0, "%s: outputs beyond the caches", row->name);
}

/* A stride of 2 along rows of several vectors: every width of a tile, channels that do not fill a block, lists of a
 * tile, rows that begin anywhere in a line of the cache, y within the caches and beyond them. */
static void test_wide_rows(const kernel_row *row)
{
    static const char *const lists[] = {
        "", "relu", "channel_affine,relu", "affine:0.5:-2,silu", "channel_affine,gelu", "sigmoid", "add,relu"};
    static const int64_t layers[][5] = {    /* in, out, width, kernel, padding */
        {3, 8, 35, 3, 1}, {5, 4, 18, 2, 0}, {4, 7, 70, 4, 1}, {2, 16, 101, 3, 0}, {9, 8, 64, 2, 0}, {1, 4, 51, 5, 2},
    };
    char why[THEN_TEXT];
    int i, list, wrong = 0;
    for (i = 0; i < 6; i++)
        for (list = 0; list < 7; list++) {
            const int64_t *l = layers[i];
            convt3d_desc d = common_desc(l[0], l[1], 3, l[3], 2, l[4]);
            d.in_size[2] = l[2];
            d.dtype = list % 2 ? CONVT3D_F32 : i % 4;
            if (*lists[list] && !then_parse(lists[list], d.ops, why)) wrong++;
            if (list == i + 1 || list == 0) {               /* beyond the caches, once for each list */
                d.in_size[0] = 24;
                d.in_size[1] = 12000 / (l[1] * l[2]) + 8;
                d.dtype = CONVT3D_F32;
            }
            wrong += check(d, row->name, (uint64_t)(i * 7 + list)) != 1;
        }
    tap_ok(wrong == 0, "%s: wide rows of stride 2, and lists on them", row->name);
}

static void test_special(const kernel_row *row)
{
    static const double special[3] = {NAN, INFINITY, -INFINITY};
    int i, wrong = 0;
    for (i = 0; i < 300; i++) {
        convt3d_desc d = shapes_random(9000 + (uint64_t)i);
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        contract_use(&d, row->name);
        wrong += !contract_special_as_reference(&d, special[i % 3], i / 3 % 2, (uint64_t)i * 5);
    }
    tap_ok(wrong == 0, "%s: NaN and infinity spread as in the reference", row->name);
}

static int copy_to_guard(guard_memory *g, const check_buffer *from, int at_end)
{
    *g = guard_make(from->bytes, at_end);
    if (g->data && from->bytes) memcpy(g->data, from->data, from->bytes);
    return g->data != NULL;
}

/* Tensors that begin or end at a page that may not be touched. */
static int run_guarded(convt3d_desc d, int at_end)
{
    common_data c;
    guard_memory x, w, bias, y;
    convt3d_io io;
    int pass = 0;
    if (!common_make(&c, &d, 1, 5)) return 0;
    common_run(&c);
    if (copy_to_guard(&x, &c.x, at_end) & copy_to_guard(&w, &c.w, at_end) & copy_to_guard(&bias, &c.bias, at_end)
        & copy_to_guard(&y, &c.y, at_end)) {
        memset(&io, 0, sizeof io);
        io.x = x.data; io.w = w.data; io.bias = bias.data; io.y = y.data;
        pass = convt3d(&d, &io, NULL) == CONVT3D_OK && (!c.y.bytes || !memcmp(y.data, c.y.data, c.y.bytes));
    }
    guard_free(&x); guard_free(&w); guard_free(&bias); guard_free(&y);
    common_free(&c);
    return pass;
}

static void test_guarded(const kernel_row *row)
{
    int i, wrong = 0;
    for (i = 0; GUARD_PAGES && i < SHAPES_COUNT; i++) {
        convt3d_desc d = shapes_table[i].desc;
        convt3d_error error;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        d.threads = 1 + i % 2;
        contract_use(&d, row->name);
        if (status_of(&d, &error) != CONVT3D_OK) continue;
        wrong += !run_guarded(d, 0) + !run_guarded(d, 1);
    }
    tap_ok(wrong == 0, "%s: nothing outside the tensors is touched", row->name);
}

/* ---- the backward pass ---- */

enum { TENSORS = 6 };                   /* x, w, dy, and the gradients dx, dw, dbias */

static convt3d_status backward_of(const convt3d_desc *d, const guard_memory tensor[TENSORS])
{
    convt3d_io io;
    memset(&io, 0, sizeof io);
    io.x = tensor[0].data;  io.w = tensor[1].data;  io.dy = tensor[2].data;
    io.dx = tensor[3].data;  io.dw = tensor[4].data;  io.dbias = tensor[5].data;
    return convt3d_backward(d, &io, NULL);
}

/* Small integers in memory at a forbidden page. */
static guard_memory integers(int32_t dtype, int64_t n, int at_end, uint64_t seed)
{
    guard_memory memory = guard_make((size_t)(n * oracle_format_of(dtype).size), at_end);
    int64_t i;
    for (i = 0; memory.data && i < n; i++)
        oracle_store(dtype, memory.data, i, (double)(oracle_hash(seed, (uint64_t)i) % 5) - 2);
    return memory;
}

static int same_values(int32_t dtype, const void *a, const void *b, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++)
        if (!oracle_same(oracle_load(dtype, a, i), oracle_load(dtype, b, i))) return 0;
    return 1;
}

static int gradients_as_reference(convt3d_desc d, const char *name, int at_end, uint64_t seed)
{
    guard_memory t[2][TENSORS];
    oracle_problem p;
    int64_t count[TENSORS];
    int pass = oracle_init(&p, &d), run, i;
    count[0] = count[3] = oracle_count(p.in);
    count[1] = count[4] = p.w_count;
    count[2] = p.y_count;
    count[5] = d.out_channels;
    for (run = 0; run < 2; run++) {
        for (i = 0; i < TENSORS; i++) {
            t[run][i] = integers(d.dtype, count[i], at_end, seed + (uint64_t)i);
            pass &= t[run][i].data != NULL;
        }
        contract_use(&d, run ? name : "reference");
        pass = pass && backward_of(&d, t[run]) == CONVT3D_OK;
    }
    for (i = 3; pass && i < TENSORS; i++) pass = same_values(d.dtype, t[0][i].data, t[1][i].data, count[i]);
    for (run = 0; run < 2; run++)
        for (i = 0; i < TENSORS; i++) guard_free(&t[run][i]);
    return pass;
}

/* Several tiles, partial sums and parts of the channels; each way to sum; rows that lie end to end or not. */
static void test_gradients(const kernel_row *row)
{
    static const int64_t layers[][7] = {    /* in, out, size, kernel, stride, padding, groups */
        {48, 40, 12, 3, 1, 1, 1}, {64, 32, 10, 2, 2, 0, 1}, {20, 12, 13, 3, 2, 1, 1}, {70, 1, 9, 4, 2, 1, 1},
        {130, 66, 4, 4, 2, 1, 1}, {4, 32, 20, 3, 2, 1, 1}, {32, 5, 12, 4, 4, 0, 1}, {6, 6, 27, 5, 2, 2, 6},
        {16, 24, 11, 3, 3, 0, 4}, {3, 2, 36, 3, 1, 0, 1},
    };
    size_t i;
    int turn, wrong = 0;
    for (i = 0; i < sizeof layers / sizeof layers[0]; i++)
        for (turn = 0; turn < 2; turn++) {
            const int64_t *l = layers[i];
            convt3d_desc d = common_desc(l[0], l[1], l[2], l[3], l[4], l[5]);
            d.groups = l[6];
            d.dtype = (int32_t)(i + (size_t)turn * 2) % 4;
            d.layout = (int32_t)(i / 2 + (size_t)turn) % 2;
            d.threads = 1 + (int32_t)(i % 3);
            d.accumulate = i % 4 == 3 ? CONVT3D_BACKWARD_X | CONVT3D_BACKWARD_W | CONVT3D_BACKWARD_BIAS : 0;
            if (gradients_as_reference(d, row->name, turn, i * 6)) continue;
            tap_note("%s: layer %d, %s, %s", row->name, (int)i, common_dtypes[d.dtype], common_layouts[d.layout]);
            wrong++;
        }
    tap_ok(wrong == 0, "%s: gradients of layers of real sizes are the reference's", row->name);
}

int main(void)
{
    size_t i;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (missing(rows[i].name)) {
            tap_skip(rows[i].name, "not in this build or not on this processor");
            continue;
        }
        test_table(&rows[i]);
        test_random(&rows[i]);
        test_special(&rows[i]);
        test_guarded(&rows[i]);
        test_layers(&rows[i]);
        test_large_output(&rows[i]);
        test_wide_rows(&rows[i]);
        test_gradients(&rows[i]);
    }
    return tap_done();
}
