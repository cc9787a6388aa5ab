/* Compares memory with the values of a fill. */
#include <string.h>

#include "fastinit.h"

enum { LINE = 64 };

/* Prefetches the lines of [memory, memory + size). */
static void fetch(const char *memory, uint64_t size) {
    for (uint64_t offset = 0; offset < size; offset += LINE) __builtin_prefetch(memory + offset, 0, 2);
}

int fastinit_compare(int target, const fastinit_sampling *sampling, const uint32_t key[4], const char *memory,
                     uint64_t start, uint64_t count, uint64_t itemsize, uint64_t block, char *scratch,
                     unsigned char *marks) {
    int differs = 0;
    for (uint64_t position = 0, number = 0; position < count; position += block, number++) {
        const uint64_t left = count - position, size = left < block ? left : block;
        const uint64_t next = left - size < block ? left - size : block;
        const char *here = memory + position * itemsize;
        fastinit_region region = {.base = scratch, .start = start + position, .axes = 1};
        region.extent[0] = (int64_t)size, region.index_stride[0] = 1, region.byte_stride[0] = (int64_t)itemsize;
        /* prefetch the next block while this one is generated: the hardware prefetcher cannot predict it */
        fetch(here + size * itemsize, next * itemsize);
        fastinit_fill(target, sampling, key, &region, 0, size);
        if (memcmp(here, scratch, size * itemsize)) marks[number] = 1, differs = 1;
    }
    return differs;
}
