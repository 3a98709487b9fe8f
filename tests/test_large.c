/* Promise: 64-bit indices. Views of x and y whose elements lie more than 2^31 elements, or 2^32 bytes, apart give the
 * bits of dense tensors. The buffers are address space, of which only the pages touched take memory. */
#include "guard.h"
#include "common.h"

#if GUARD_PAGES && UINTPTR_MAX > 0xFFFFFFFFu && defined(MAP_NORESERVE)
static void *sparse_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void sparse_free(void *p, size_t bytes)
{
    if (p) munmap(p, bytes);
}
#else
static void *sparse_memory(size_t bytes) { (void)bytes; return NULL; }
static void sparse_free(void *p, size_t bytes) { (void)p; (void)bytes; }
#endif

static void copy_elements(const oracle_problem *p, const int64_t size[5], void *to, const int64_t to_stride[5],
                          const void *from, const int64_t from_stride[5])
{
    int64_t i, index[5] = {0, 0, 0, 0, 0}, count = oracle_count(size);
    for (i = 0; i < count; i++, oracle_step(size, index))
        oracle_store(p->dtype, to, oracle_offset(index, to_stride),
                     oracle_load(p->dtype, from, oracle_offset(index, from_stride)));
}

/* 1 right, 0 wrong, -1 no address space */
static int far_apart(int32_t dtype, const int64_t x_stride[5], const int64_t y_stride[5])
{
    convt3d_desc d = common_desc(4, 6, 3, 3, 2, 1), far_desc;
    common_data dense;
    oracle_problem p;
    convt3d_io io;
    convt3d_error error;
    void *x, *y;
    int64_t i, index[5] = {0, 0, 0, 0, 0};
    int result = 0;
    d.batch = 2;
    d.groups = 2;
    d.dtype = dtype;
    far_desc = d;
    memcpy(far_desc.x_stride, x_stride, sizeof far_desc.x_stride);
    memcpy(far_desc.y_stride, y_stride, sizeof far_desc.y_stride);
    if (!common_make(&dense, &d, 0, 1)) return 0;
    if (!common_run(&dense) || !oracle_init(&p, &far_desc)) { common_free(&dense); return 0; }
    x = sparse_memory((size_t)(p.x_span * dense.size));
    y = sparse_memory((size_t)(p.y_span * dense.size));
    if (x && y) {
        copy_elements(&p, p.in, x, p.x_stride, dense.x.data, dense.problem.x_stride);
        io = dense.io;
        io.x = x;
        io.y = y;
        result = convt3d(&far_desc, &io, &error) == CONVT3D_OK;
        for (i = 0; result && i < p.y_count; i++, oracle_step(p.out, index))
            result = oracle_load(dtype, y, oracle_offset(index, p.y_stride)) == common_get(&dense, i);
    }
    if (!x || !y) result = -1;
    sparse_free(x, (size_t)(p.x_span * dense.size));
    sparse_free(y, (size_t)(p.y_span * dense.size));
    common_free(&dense);
    return result;
}

int main(void)
{
    static const int64_t big = (int64_t)1 << 31;
    static const int64_t near_x[5] = {108, 27, 9, 3, 1}, near_y[5] = {750, 125, 25, 5, 1};
    int axis, dtype;
    for (axis = 0; axis < 5; axis++)
        for (dtype = 0; dtype < 3; dtype += 2) {
            int64_t x[5], y[5];
            int result_x, result_y;
            memcpy(x, near_x, sizeof x);
            memcpy(y, near_y, sizeof y);
            x[axis] = big + 1013;
            y[axis] = big + 1013;
            result_x = far_apart(dtype, x, near_y);
            result_y = far_apart(dtype, near_x, y);
            if (result_x < 0 || result_y < 0) tap_skip("elements far apart", "no address space");
            else tap_ok(result_x && result_y, "%s: axis %d, elements over 2^31 apart", common_dtypes[dtype], axis);
        }
    return tap_done();
}
