/*
 * Large pages for what is looked up at random: a table of a million names spans thousands of small pages, and each
 * look-up would miss the TLB as well as the cache. A wish, not a need: where the kernel does not grant it nothing
 * changes. To be said before the memory is touched. Private to acl/.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* The whole huge pages inside of [memory, memory + size). */
static inline void advise_huge(void *memory, size_t size)
{
    uintptr_t start = ((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    uintptr_t end = ((uintptr_t)memory + size) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (start < end)
        madvise((void *)start, end - start, MADV_HUGEPAGE);
}
