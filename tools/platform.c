/* platform.c - the operating system behind platform.h. Only this file asks for more than C99. */
#if defined(__unix__) || defined(__APPLE__)
#  define TOOLS_POSIX
#  define _XOPEN_SOURCE 700
#  define _FILE_OFFSET_BITS 64
#endif

#include "platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#if defined(TOOLS_POSIX)
#  include <fcntl.h>
#  include <unistd.h>
#elif defined(_WIN32)
#  include <io.h>
#  include <windows.h>
#endif
#ifdef _OPENMP
#  include <omp.h>
#endif

double platform_seconds(void)
{
#if defined(TOOLS_POSIX)
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#elif defined(_WIN32)
    LARGE_INTEGER ticks, rate;
    QueryPerformanceFrequency(&rate);
    QueryPerformanceCounter(&ticks);
    return (double)ticks.QuadPart / (double)rate.QuadPart;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

int platform_is_terminal(FILE *stream)
{
#if defined(TOOLS_POSIX)
    return isatty(fileno(stream));
#elif defined(_WIN32)
    return _isatty(_fileno(stream));
#else
    (void)stream;
    return 0;
#endif
}

int64_t platform_file_size(FILE *file)
{
#if defined(TOOLS_POSIX)
    struct stat status;
    return fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode) ? (int64_t)status.st_size : -1;
#elif defined(_WIN32)
    struct _stat64 status;
    return _fstat64(_fileno(file), &status) == 0 && (status.st_mode & _S_IFREG) ? (int64_t)status.st_size : -1;
#else
    long here = ftell(file), size = -1;
    if (here >= 0 && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    return here >= 0 && fseek(file, here, SEEK_SET) == 0 ? size : -1;
#endif
}

void platform_machine(char *text, size_t size)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(text, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *name = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !name) continue;
        name += 1 + (name[1] == ' ');
        snprintf(text, size, "%.*s", (int)strcspn(name, "\r\n"), name);
        break;
    }
    if (file) fclose(file);
}

int platform_threads(int64_t wanted)
{
#ifdef _OPENMP
    return wanted > 0 ? (int)wanted : omp_get_max_threads();
#else
    (void)wanted;
    return 1;
#endif
}

/* ---- output files ---- */

static char *copy_text(const char *text, const char *suffix)
{
    size_t length = strlen(text), more = strlen(suffix);
    char *copy = (char *)malloc(length + more + 1);
    if (!copy) {
        errno = ENOMEM;
        return NULL;
    }
    memcpy(copy, text, length);
    memcpy(copy + length, suffix, more + 1);
    return copy;
}

static void output_free(output_file *output)
{
    free(output->target);
    free(output->temporary);
    memset(output, 0, sizeof *output);
}

/* A link is followed, so that the file it names is replaced and not the link. */
static char *resolve(const char *path)
{
#if defined(TOOLS_POSIX)
    char *resolved = realpath(path, NULL);
    if (resolved || errno != ENOENT) return resolved;
#endif
    return copy_text(path, "");
}

static int is_special(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && (status.st_mode & S_IFMT) != S_IFREG;
}

static FILE *open_temporary(const char *path)
{
#if defined(TOOLS_POSIX)
    int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (!file && descriptor >= 0) {
        close(descriptor);
        unlink(path);
    }
    return file;
#else
    return fopen(path, "wb");
#endif
}

int output_open(output_file *output, const char *path)
{
    char suffix[48];
#if defined(TOOLS_POSIX)
    long process = (long)getpid();
#else
    long process = 0;
#endif
    memset(output, 0, sizeof *output);
    output->target = resolve(path);
    if (!output->target) return -1;
    if (is_special(output->target)) {
        output->file = fopen(output->target, "wb");
    } else {
        snprintf(suffix, sizeof suffix, ".%ld.tmp", process);
        output->temporary = copy_text(output->target, suffix);
        if (output->temporary) output->file = open_temporary(output->temporary);
    }
    if (output->file) return 0;
    output_free(output);
    return -1;
}

/* Everything on the disk before the name changes. */
static int output_flush(output_file *output)
{
    int failed = ferror(output->file) || fflush(output->file) != 0;
#if defined(TOOLS_POSIX)
    if (!failed && output->temporary) failed = fsync(fileno(output->file)) != 0;
#endif
    return failed;
}

int output_commit(output_file *output)
{
    int failed = output_flush(output), reason = errno;
    if (fclose(output->file) != 0 && !failed) {
        failed = 1;
        reason = errno;
    }
    output->file = NULL;
    if (!failed && output->temporary) {
#if defined(_WIN32)
        remove(output->target);
#endif
        failed = rename(output->temporary, output->target) != 0;
        reason = errno;
    }
    if (failed && output->temporary) remove(output->temporary);
    output_free(output);
    errno = failed ? (reason ? reason : EIO) : 0;
    return failed ? -1 : 0;
}

void output_discard(output_file *output)
{
    int reason = errno;
    if (output->file) fclose(output->file);
    if (output->temporary) remove(output->temporary);
    output_free(output);
    errno = reason;
}
