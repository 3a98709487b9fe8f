/* platform.h - what the command line needs from the operating system, and files that appear whole or not at all. */
#ifndef TOOLS_PLATFORM_H
#define TOOLS_PLATFORM_H

#include <stdint.h>
#include <stdio.h>

double platform_seconds(void);                              /* monotonic                                       */
int platform_is_terminal(FILE *stream);
int64_t platform_file_size(FILE *file);                     /* bytes, or -1 where it is not a regular file     */
void platform_machine(char *text, size_t size);             /* the processor's name, or "unknown"              */
int platform_threads(int64_t wanted);                       /* how many threads the library will use for that  */

/* An output file is written under another name beside its target and takes the target's name when it is complete.
 * Where the target is no regular file (a pipe, /dev/stdout) it is written directly. */
typedef struct output_file {
    FILE *file;
    char *target, *temporary;   /* temporary == NULL: written directly */
} output_file;

int output_open(output_file *output, const char *path);     /* 0, or -1 with errno set                         */
int output_commit(output_file *output);                     /* 0, or -1 with errno set and the target as it was */
void output_discard(output_file *output);

#endif
