/* Promise: the header may be included twice, with CONVT3D_IMPLEMENTATION defined on the command line, and two
 * translation units with CONVT3D_STATIC hold private copies that do not clash (test_embed_other.c is the other). As
 * C99 and as C++17: test_embed_cpp.cpp includes this file. Build it with -DCONVT3D_IMPLEMENTATION -DCONVT3D_STATIC. */
#include "../convt3d.h"
#include "../convt3d.h"
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
float embed_other(void);
#ifdef __cplusplus
}
#endif

/* 3 * 5 + 2 by one voxel */
static float embed_here(void)
{
    static float x[4] = {3}, w[4] = {5}, bias[4] = {2}, y[4];
    convt3d_desc d;
    convt3d_io io;
    int a;
    memset(&d, 0, sizeof d);
    memset(&io, 0, sizeof io);
    d.batch = d.in_channels = d.out_channels = 1;
    for (a = 0; a < 3; a++) d.in_size[a] = d.kernel[a] = 1;
    d.alignment = 4;
    io.x = x; io.w = w; io.bias = bias; io.y = y;
    return convt3d(&d, &io, NULL) == CONVT3D_OK ? y[0] : -1;
}

#ifndef EMBED_OTHER
int main(void)
{
    int here = embed_here() == 17, other = embed_other() == 17, size = sizeof(convt3d_plan) == 3072;
    printf("%sok 1 - this file's copy\n", here ? "" : "not ");
    printf("%sok 2 - the other file's copy\n", other ? "" : "not ");
    printf("%sok 3 - a plan has the same size in every build\n", size ? "" : "not ");
    printf("1..3\n");
    return !(here && other && size);
}
#endif
