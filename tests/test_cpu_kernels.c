/* Promise: each fast CPU kernel, pinned by force, is held to the numeric contract on the whole table of cases and on
 * random ones, in every type and layout, and takes the cases it must take; what it refuses it refuses by name. A row
 * that this processor lacks is skipped. */
#include "common.h"

typedef struct kernel_row {
    const char *name;
    int least;                  /* cases of the table that it must take */
} kernel_row;

static const kernel_row rows[] = {{"avx512", 95}, {"avx2", 95}, {"neon", 95}, {"portable", 95}};

static void use(convt3d_desc *d, const char *name)
{
    memset(d->force, 0, sizeof d->force);
    memcpy(d->force, name, strlen(name));
}

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
    use(&d, name);
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
    use(&d, name);
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

/* Layers of real sizes: many vectors to a line, several runs, units, input-channel blocks and stores past the caches. */
static void test_layers(const kernel_row *row)
{
    static const int64_t layers[][6] = {    /* in, out, size, kernel, stride, padding */
        {48, 48, 20, 3, 1, 0}, {64, 32, 12, 2, 2, 0}, {150, 12, 8, 3, 2, 1}, {32, 8, 16, 4, 2, 1}, {300, 5, 9, 4, 4, 0},
        {4, 32, 24, 3, 2, 1}, {64, 1, 14, 4, 2, 1}, {8, 8, 33, 5, 1, 2}, {3, 7, 40, 3, 3, 0},
    };
    size_t i;
    int layout, dtype, wrong = 0;
    for (i = 0; i < sizeof layers / sizeof layers[0]; i++)
        for (layout = 0; layout < 2; layout++)
            for (dtype = 0; dtype < 4; dtype++) {
                const int64_t *l = layers[i];
                convt3d_desc d = common_desc(l[0], l[1], l[2], l[3], l[4], l[5]);
                d.dtype = dtype;
                d.layout = layout;
                wrong += check(d, row->name, i * 6) != 1;
            }
    tap_ok(wrong == 0, "%s: layers of real sizes", row->name);
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
        test_layers(&rows[i]);
    }
    return tap_done();
}
