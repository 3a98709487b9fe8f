/* bench.h - how a device is timed, apart from what is done with the times. bench_cpu.c times the CPU; another device
 * is another bench_device in another file, listed in bench.c. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "args.h"

/* What the machine can do, measured in the same run. */
typedef struct bench_ceilings {
    double copy_gbps;                   /* bytes read plus bytes written     */
    double gflops[4][2];                /* by dtype and math                 */
    double fma_gflops[2];               /* f32 and f64 multiply-adds that stay in registers; 0: not measured */
    char method[160];                   /* one line: how they were measured  */
} bench_ceilings;

typedef struct bench_time {
    double ms;                          /* median                            */
    int64_t repeats;
    double packed_ms;                   /* median with the weights packed beforehand; 0: not timed */
    double peer_ms;                     /* the peer's median; 0: it does not take the problem, or none was asked for */
    int64_t peer_repeats;
    const char *peer_how;               /* one word */
} bench_time;

/* The tensors of a row, dense in the problem's layout. */
typedef struct bench_pointers {
    void *x, *w, *bias, *y;             /* y is the peer's to write          */
    const void *ours;                   /* our y: the peer's must be the same but for rounding */
    size_t outputs;
} bench_pointers;

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

/* The tensors that the list of a row reads, random and dense: ops gets them from make(context, elements, dtype), which
 * returns NULL when memory is short. Returns 0 then; in any case all that was made is the maker's to free. */
int bench_list(const convt3d_desc *desc, const convt3d_info *info, convt3d_op_io ops[CONVT3D_MAX_OPS],
               void *(*make)(void *context, double elements, int dtype), void *context);
/* What the gradients of the list want beside those: mean and rstd as the forward pass leaves them, and the gradients. */
int bench_list_backward(const convt3d_desc *desc, const convt3d_info *info, convt3d_op_io ops[CONVT3D_MAX_OPS],
                        void *(*make)(void *context, double elements, int dtype), void *context);
enum { BENCH_LIST_TENSORS = 6 * CONVT3D_MAX_OPS };      /* the most that both make */

/* Elements of the buffer that y lies in. */
double bench_outputs(const convt3d_desc *desc, const convt3d_info *info);

double bench_median(double *values, int64_t count);     /* sorts values */

/* On the CPU: calls once to warm up, then for some time and at least --repeats times. Returns the median in ms, or a
 * negative number once a call returns anything but 0. */
double bench_time_calls(const options *opt, int (*call)(const void *context), const void *context, int64_t *repeats);

/* How far the peer's y is from ours, as a part of its size: 0.001 and more is another result. */
double bench_distance(int dtype, const bench_pointers *pointers);

/* The peer of --peer onednn, in builds with TOOLS_ONEDNN. Fills in the peer's part of *result. */
int bench_onednn(const options *opt, const convt3d_desc *desc, const convt3d_info *info, const bench_pointers *pointers,
                 bench_time *result);
const char *bench_onednn_version(void);                 /* to be called first; NULL after a message */

#endif
