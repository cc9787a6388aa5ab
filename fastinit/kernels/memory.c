/* Hints to the operating system about memory to be written. */
#define _DEFAULT_SOURCE /* madvise */
#include "fastinit.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

void fastinit_advise_huge_pages(void *memory, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    /* Only whole huge pages: neighbouring memory belongs to others. A failure affects the speed only. */
    const uintptr_t page = (uintptr_t)1 << 21;
    uintptr_t first = ((uintptr_t)memory + page - 1) & ~(page - 1), end = ((uintptr_t)memory + size) & ~(page - 1);
    if (first < end) (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}
