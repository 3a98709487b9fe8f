/* tensors.h - the .npy operands of `run` and `check`, and the problem that they and the options describe. */
#ifndef TOOLS_TENSORS_H
#define TOOLS_TENSORS_H

#include "args.h"
#include "npy.h"

typedef struct tensors {
    npy_array x, w, bias;               /* bias.data == NULL: none */
    convt3d_desc desc;
} tensors;

/* EXIT_PASS, or EXIT_USAGE after a message. tensors_free() in any case. */
int tensors_load(const options *opt, tensors *t);
void tensors_free(tensors *t);

#endif
