/* From a scratch, where runs of the tensor are consecutive, to memory where they are not: that of a transposed tensor, of a channels-last
 * one, of a view with steps.
 */
#ifndef FASTINIT_SCATTER_H
#define FASTINIT_SCATTER_H

#include <stdlib.h>

#include "vector.h"

/* Bytes of the scratch: half of the first cache. A cache line of every column of a tile of shards.py fits. */
enum { SCRATCH = 1 << 14 };

/* How many runs of `length` elements, of the `left` that follow each other at row_stride, are drawn to the scratch and written together.
 * Where they lie nearer to each other than the elements of each, cache lines hold elements of several, and are written once: as many as
 * fit, to the end of a line. Else 1. */
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

/* The rows of the scratch, column by column. */
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
