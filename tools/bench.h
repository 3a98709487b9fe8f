/* bench.h - how a device is timed, apart from what is done with the times. bench_cpu.c times the CPU; another device
 * is another bench_device in another file, listed in bench.c. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "args.h"

/* What the machine can do, measured in the same run. */
typedef struct bench_ceilings {
    double copy_gbps;                   /* bytes read plus bytes written     */
    double gflops[4][2];                /* by dtype and math                 */
    char method[128];                   /* one line: how they were measured  */
} bench_ceilings;

typedef struct bench_time {
    double ms;                          /* median                            */
    int64_t repeats;
    double packed_ms;                   /* median with the weights packed beforehand; 0: not timed */
} bench_time;

typedef struct bench_device {
    int device;                         /* CONVT3D_DEVICE_...                */
    double least_ms;                    /* no call can be faster: launch     */
    /* Both return EXIT_PASS, or EXIT_USAGE after a message. machine has 128 bytes. */
    int (*measure_ceilings)(const options *opt, bench_ceilings *ceilings, char *machine);
    /* Plans desc, allocates and fills its tensors, runs once to warm up, then times. */
    int (*time)(const options *opt, const convt3d_desc *desc, const char *label, convt3d_info *info,
                bench_time *result);
} bench_device;

extern const bench_device bench_cpu;
extern const bench_device bench_cuda;                   /* in builds with TOOLS_CUDA: wants cuBLAS */

double bench_median(double *values, int64_t count);     /* sorts values */

#endif
