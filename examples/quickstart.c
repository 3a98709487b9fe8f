/* Quick start: one transposed convolution, the whole program. From the project's root:
 *     cc -O2 -fopenmp examples/quickstart.c -o quickstart -lm && ./quickstart
 * Doubles a 2x2x2 volume on every axis with a 2x2x2 kernel and stride 2, as the decoder of a U-Net does. */
#define CONVT3D_IMPLEMENTATION
#include "../convt3d.h"
#include <stdio.h>

int main(void) {
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};          /* [batch 1][in_channels 1][2][2][2] */
    float w[8] = {1, 0, 0, 0, 0, 0, 0, 10};         /* [in_channels 1][out_channels 1][2][2][2] */
    float bias[1] = {0.5f};
    float y[64];                                    /* [batch 1][out_channels 1][4][4][4] */

    convt3d_desc desc = {0};
    desc.batch = desc.in_channels = desc.out_channels = 1;
    for (int a = 0; a < 3; a++) desc.in_size[a] = desc.kernel[a] = desc.stride[a] = 2;

    convt3d_io io = {0};
    io.x = x;  io.w = w;  io.bias = bias;  io.y = y;

    convt3d_error error;
    if (convt3d(&desc, &io, &error) != CONVT3D_OK) {
        fprintf(stderr, "quickstart: %s\n", error.text);
        return 1;
    }
    for (int d = 0; d < 4; d++)
        for (int h = 0; h < 4; h++) {
            for (int i = 0; i < 4; i++) printf("%6.1f", (double)y[(d * 4 + h) * 4 + i]);
            printf(h < 3 ? "\n" : "\n\n");
        }
    return 0;
}
