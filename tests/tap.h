/* tap.h - reports test points in TAP, the Test Anything Protocol. Not part of any promise itself. */
#ifndef CONVT3D_TESTS_TAP_H
#define CONVT3D_TESTS_TAP_H

#include <stdarg.h>
#include <stdio.h>

static int tap_count, tap_failed;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline int tap_ok(int pass, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("%sok %d - ", pass ? "" : "not ", ++tap_count);
    vprintf(format, list);
    printf("\n");
    va_end(list);
    fflush(stdout);
    tap_failed += !pass;
    return pass;
}

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static inline void tap_note(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("# ");
    vprintf(format, list);
    printf("\n");
    va_end(list);
}

static inline void tap_skip(const char *what, const char *reason)
{
    printf("ok %d - %s # SKIP %s\n", ++tap_count, what, reason);
}

/* Ends the program: prints the plan, returns the exit status. */
static inline int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed ? 1 : 0;
}

#endif
