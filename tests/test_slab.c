/* Promise: slabs of any axis, and boxes (slabs of slabs), put together equal the whole bit for bit under the reference,
 * which says exact_slabs, while each reads only the inputs that convt3d_slab() names: they come in a buffer that ends
 * at a page that may not be touched, everything in it that is not theirs being NaN. */
#include "guard.h"
#include "common.h"

typedef struct piece {
    convt3d_desc desc;
    int64_t x_begin[3], y_begin[3];     /* of the piece within the whole */
} piece;

/* The inputs of the piece, at the strides of the whole, ending at a guard page. */
static guard_memory piece_inputs(const common_data *whole, const piece *part, const oracle_problem *p)
{
    guard_memory g = guard_make((size_t)p->x_span * (size_t)whole->size, 1);
    int64_t j, count = oracle_count(p->in), index[5] = {0, 0, 0, 0, 0}, from[5];
    int a;
    if (!g.data) return g;
    memset(g.data, 0xFF, (size_t)p->x_span * (size_t)whole->size);
    for (j = 0; j < count; j++, oracle_step(p->in, index)) {
        memcpy(from, index, sizeof from);
        for (a = 0; a < 3; a++) from[2 + a] += part->x_begin[a];
        memcpy((char *)g.data + oracle_offset(index, p->x_stride) * whole->size,
               whole->x.data + oracle_offset(from, whole->problem.x_stride) * whole->size, (size_t)whole->size);
    }
    return g;
}

static int run_piece(const common_data *whole, const piece *part)
{
    oracle_problem p;
    guard_memory x;
    convt3d_io io = whole->io;
    convt3d_error error;
    int64_t offset = 0;
    int a, pass;
    if (!oracle_init(&p, &part->desc)) return 0;
    x = piece_inputs(whole, part, &p);
    for (a = 0; a < 3; a++) offset += part->y_begin[a] * p.y_stride[2 + a];
    io.x = x.data;
    if (p.y_count > 0) io.y = whole->y.data + offset * whole->size;
    pass = x.data && convt3d(&part->desc, &io, &error) == CONVT3D_OK;
    guard_free(&x);
    return pass;
}

/* Cuts the axis of a piece at random and runs the parts; deeper pieces cut the next axis as well. */
static int run_cut(const common_data *whole, const piece *part, int axis, int depth, uint64_t seed)
{
    int64_t out[3], at = 0, to;
    uint64_t counter = 0;
    if (convt3d_output_size(&part->desc, out, NULL) != CONVT3D_OK) return 0;
    while (at < out[axis] || (at == 0 && out[axis] == 0)) {
        piece inner = *part;
        int64_t from_in, to_in;
        convt3d_error error;
        to = at + oracle_below(seed, &counter, out[axis] / 2 + 2);      /* empty slabs are legal */
        if (to > out[axis]) to = out[axis];
        if (convt3d_slab(&part->desc, axis, at, to, &inner.desc, &from_in, &to_in, &error) != CONVT3D_OK) return 0;
        if (inner.desc.in_size[axis] != to_in - from_in) return 0;
        inner.x_begin[axis] += from_in;
        inner.y_begin[axis] += at;
        if (depth > 1 && !run_cut(whole, &inner, (axis + 1) % 3, depth - 1, seed + 1)) return 0;
        if (depth == 1 && !run_piece(whole, &inner)) return 0;
        at = to;
        if (out[axis] == 0) break;
    }
    return 1;
}

static int slabs_equal_whole(convt3d_desc d, uint64_t seed)
{
    common_data one, cut;
    convt3d_plan plan;
    convt3d_info info;
    piece all;
    int axis, pass, made;
    memcpy(d.force, "reference", sizeof "reference");
    made = common_make(&one, &d, 0, seed) & common_make(&cut, &d, 0, seed);
    pass = made && common_run(&one) && convt3d_plan_init(&plan, &d, CONVT3D_FORWARD, NULL) == CONVT3D_OK
        && convt3d_plan_info(&plan, &info, NULL) == CONVT3D_OK && info.exact_slabs == 1;
    memset(&all, 0, sizeof all);
    all.desc = d;
    for (axis = 0; axis < 3 && pass; axis++) {
        common_poison(&cut);
        pass = run_cut(&cut, &all, axis, 1 + (int)(seed + (uint64_t)axis) % 3, seed)
            && common_same_outputs(&one, &cut);
    }
    common_free(&one);
    common_free(&cut);
    return pass;
}

int main(void)
{
    int i;
    for (i = 0; i < SHAPES_COUNT; i++) {
        convt3d_desc d = shapes_table[i].desc;
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        tap_ok(slabs_equal_whole(d, (uint64_t)i), "%s", shapes_table[i].name);
    }
    for (i = 0; i < 150; i++) {
        convt3d_desc d = shapes_random(2500 + (uint64_t)i);
        d.dtype = i % 4;
        d.layout = i / 4 % 2;
        if (!slabs_equal_whole(d, (uint64_t)i)) break;
    }
    tap_ok(i == 150, "random problems (first failing: %d)", i);
    return tap_done();
}
