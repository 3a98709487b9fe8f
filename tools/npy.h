/* npy.h - NumPy's .npy files (format 1.0, 2.0 and 3.0): f2, f4 and f8 of either byte order, C order. */
#ifndef TOOLS_NPY_H
#define TOOLS_NPY_H

#include <stddef.h>
#include <stdint.h>

enum { NPY_DIMENSIONS = 8 };

typedef struct npy_array {
    int dtype;                          /* CONVT3D_F16, F32 or F64 */
    int dimensions;
    int64_t shape[NPY_DIMENSIONS], count;
    void *data;                         /* malloc; never NULL after a successful npy_read() */
} npy_array;

/* Both return 0, or -1 with a message that starts with the path. npy_read() allocates nothing that the file does not
 * back with bytes; npy_write() leaves the target complete or as it was. */
int npy_read(const char *path, npy_array *array, char *message, size_t size);
int npy_write(const char *path, const npy_array *array, char *message, size_t size);
void npy_free(npy_array *array);

#endif
