/* args.h - the options of the command line: one table drives parsing, --help and the messages. */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include "shape.h"

/* What a subcommand returns and the process exits with. */
enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_USAGE = 2 };

enum { CMD_RUN = 1, CMD_CHECK = 2, CMD_EXPLAIN = 4, CMD_BENCH = 8 };

enum { DATA_EXACT = 0, DATA_REAL = 1 };
enum { SCALE_FULL = 0, SCALE_SMALL = 1, SCALE_CPU = 2 };

/* Words chosen from a dictionary, as the enum values they stand for. */
typedef struct word_list { int count, value[4]; } word_list;

typedef struct options {
    unsigned command;                   /* CMD_... */
    const char *x, *w, *bias, *out;     /* .npy files */
    const char *json, *kernel;
    int64_t stride[3], padding[3], output_padding[3], dilation[3], out_size[3];
    int64_t groups, threads, repeats;
    int64_t batch;                      /* -1: as the shape says */
    int has_out_size;
    convt3d_op then[CONVT3D_MAX_OPS];   /* what follows the convolution */
    int32_t pass;                       /* CONVT3D_FORWARD, or CONVT3D_BACKWARD_... added up */
    uint64_t seed;
    word_list device, dtype, math, layout, data, scale;
    word_list peer;                     /* count 0: none */
    const char **shapes;                /* SHAPE and @file arguments, in argv */
    int shape_count;
} options;

/* Names of the enum values: dtype, layout, device and math of convt3d.h, and DATA_... */
const char *dtype_name(int dtype);
const char *layout_name(int layout);
const char *device_name(int device);
const char *math_name(int math);
const char *data_name(int data);
const char *pass_name(int32_t pass);

/* Reads argv[2...]. Returns EXIT_PASS, EXIT_USAGE after a message, or -1 after --help. Reorders argv. */
int options_parse(options *opt, unsigned command, int argc, char **argv);

/* The fields of a desc that options set for every problem: device, kernel, threads, and the first of each list. */
void options_desc(const options *opt, convt3d_desc *desc);

/* The problems that the arguments name, each in every dtype, layout and math asked for, with --batch and --scale
 * applied. *cases is for the caller to free, also after an error. */
int options_cases(const options *opt, shape_case **cases, size_t *count);

/* One line on standard error, "convt3d: ...", control characters blanked. Returns EXIT_USAGE. */
int fail(const char *format, ...);

/* The name of a workload or, for a bare SHAPE, the SHAPE. text has SHAPE_TEXT bytes. */
const char *case_label(const shape_case *row, char *text);

/* "[3/28] name" on standard error, if that is a terminal. done == 0 wipes it. */
void progress(size_t done, size_t total, const char *what);

#endif
