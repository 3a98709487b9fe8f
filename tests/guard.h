/* guard.h - memory whose first or last byte touches a page that may not be read or written (POSIX).
 * Include it before any system header. */
#ifndef CONVT3D_TESTS_GUARD_H
#define CONVT3D_TESTS_GUARD_H

#if defined(__unix__) || defined(__APPLE__)
#  define GUARD_PAGES 1
#  ifndef _DEFAULT_SOURCE
#    define _DEFAULT_SOURCE 1
#  endif
#  include <sys/mman.h>
#  include <unistd.h>
#  ifndef MAP_ANONYMOUS
#    define MAP_ANONYMOUS MAP_ANON
#  endif
#else
#  define GUARD_PAGES 0
#endif
#include <stdlib.h>

typedef struct guard_memory {
    void *data;
    unsigned char *map;
    size_t map_bytes;
} guard_memory;

/* bytes of memory: at_end 1 ends at the forbidden page, 0 starts right behind it. data is NULL when there is none. */
static inline guard_memory guard_make(size_t bytes, int at_end)
{
    guard_memory g = {NULL, NULL, 0};
#if GUARD_PAGES
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    void *map;
    if (inner == 0) inner = page;
    map = mmap(NULL, inner + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return g;
    g.map = (unsigned char *)map;
    g.map_bytes = inner + 2 * page;
    if (mprotect(g.map, page, PROT_NONE) || mprotect(g.map + page + inner, page, PROT_NONE)) return g;
    g.data = at_end ? g.map + page + inner - bytes : g.map + page;
#else
    (void)at_end;
    g.data = malloc(bytes + 1);
#endif
    return g;
}

static inline void guard_free(guard_memory *g)
{
#if GUARD_PAGES
    if (g->map) munmap(g->map, g->map_bytes);
#else
    free(g->data);
#endif
    g->data = NULL;
}

#endif
