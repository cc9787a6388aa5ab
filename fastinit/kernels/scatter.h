/* Copies runs from a contiguous scratch to strided memory: transposed or channels-last tensors, or views with steps. */
#ifndef FASTINIT_SCATTER_H
#define FASTINIT_SCATTER_H

#include <stdlib.h>

#include "vector.h"

/* Bytes of the scratch: half of the first-level cache. It holds a cache line for every column of a tile of
 * shards.py. */
enum { SCRATCH = 1 << 14 };

/* Number of runs of `length` elements to draw to the scratch and write together, of `left` runs at distance
 * row_stride. If runs are closer to each other than the elements of a run, cache lines hold elements of several runs
 * and should be written once: then as many runs as fit, up to the end of a line. Otherwise 1. */
static uint64_t rows_at_once(const char *out, int64_t row_stride, int64_t stride, uint64_t left, uint64_t length,
                             size_t itemsize) {
    if (llabs(row_stride) >= llabs(stride) || length > SCRATCH / itemsize) return 1;
    uint64_t rows = SCRATCH / (length * itemsize);
    if (rows > left) rows = left;
    const uint64_t beyond = ((uintptr_t)out / itemsize + rows) % (64 / itemsize);
    return row_stride == (int64_t)itemsize && rows > beyond ? rows - beyond : rows;
}

INLINE void scatter_items(char *out, int64_t row_stride, int64_t column_stride, const char *scratch, uint64_t rows,
                          uint64_t columns, const size_t itemsize) {
    for (uint64_t column = 0; column < columns; column++)
        for (uint64_t row = 0; row < rows; row++)
            memcpy(out + (int64_t)row * row_stride + (int64_t)column * column_stride,
                   scratch + (row * columns + column) * itemsize, itemsize);
}

/* Writes the rows of the scratch, column by column. */
static void scatter(char *out, int64_t row_stride, int64_t column_stride, const char *scratch, uint64_t rows,
                    uint64_t columns, size_t itemsize) {
    switch (itemsize) {
    case 8: scatter_items(out, row_stride, column_stride, scratch, rows, columns, 8); break;
    case 4: scatter_items(out, row_stride, column_stride, scratch, rows, columns, 4); break;
    case 2: scatter_items(out, row_stride, column_stride, scratch, rows, columns, 2); break;
    default: scatter_items(out, row_stride, column_stride, scratch, rows, columns, 1);
    }
}

#endif
