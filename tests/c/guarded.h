/* Random numbers, the same each time, and memory that ends where a page does: a byte more is a fault. */
#ifndef GUARDED_H
#define GUARDED_H

#include "check.h"
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t random_state = 4711;

static inline uint32_t
below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

/* The last bytes of a page whose successor must not be touched. */
static inline uint8_t *
guarded_end(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK(mprotect(pages + page, page, PROT_NONE) == 0);
    return pages + page;
}

#endif
