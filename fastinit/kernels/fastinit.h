/* The whole interface of the kernel room: fill(index range) for one sampling and one key, on one target.
 *
 * Nothing here knows Python, allocates, raises or keeps state. The caller has checked everything; the kernels only compute.
 */
#ifndef FASTINIT_H
#define FASTINIT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "orthogonal.h"

enum {
    FASTINIT_FLOAT32,
    FASTINIT_FLOAT64,
    FASTINIT_FLOAT16,
    FASTINIT_BFLOAT16,
    FASTINIT_FLOAT8_E4M3FN,
    FASTINIT_FLOAT8_E5M2,
    FASTINIT_UINT32
};

/* What is drawn for an element. The names without a width compute in float32 from one 32-bit word, those with 64 compute in
 * float64 from a 64-bit draw; either is rounded to the output's dtype at the end. */
enum {
    FASTINIT_CONSTANT,
    FASTINIT_WORDS,
    FASTINIT_UNIFORM_SYMMETRIC, /* (-a, a), a = 2^24 scale */
    FASTINIT_UNIFORM,           /* low + [0, 1) */
    FASTINIT_NORMAL,
    FASTINIT_TRUNCATED_2, /* +-2 standard deviations */
    FASTINIT_TRUNCATED,   /* a window of the 2^32 cells of the unit interval */
    FASTINIT_UNIFORM_SYMMETRIC_64,
    FASTINIT_UNIFORM_64,
    FASTINIT_NORMAL_64,
    FASTINIT_TRUNCATED_64,      /* a window of the 2^64 cells of the unit interval */
    FASTINIT_TRUNCATED_TAIL_64, /* both bounds at least 4 standard deviations out on one side */
};

typedef struct {
    int32_t kind, dtype;
    double scale, shift;   /* value = draw * scale + shift; shift is added only where it is not 0 */
    double low, high;      /* the closed interval of the output's dtype that values are clamped into */
    int32_t clamped;       /* whether low and high matter */
    uint64_t first, count; /* TRUNCATED: the window [first, first + count) */
    double tail_low;       /* TAIL: the bound nearer to the mean, in standard deviations, positive */
    double tail_share;     /* TAIL: 1 - Q(far bound) / Q(near bound) */
    uint64_t bits;         /* CONSTANT: the value's bits in the output's dtype */
} fastinit_sampling;

/* Where the local elements lie, in memory and in the global tensor: a row-major lattice of `axes` axes. Local element
 * (j0, j1, ...) is global element start + sum j * index_stride, at base + sum j * byte_stride. On the last axis
 * index_stride is 1: it is a run. */
enum { FASTINIT_MAX_AXES = 64 };
typedef struct {
    char *base;
    uint64_t start;
    int64_t streamed; /* whether the region is too large to be found in a cache later */
    int64_t axes;
    int64_t extent[FASTINIT_MAX_AXES], index_stride[FASTINIT_MAX_AXES], byte_stride[FASTINIT_MAX_AXES];
} fastinit_region;

/* Writes the local elements [position, position + count), counted row-major within the region. Calls on disjoint ranges
 * may run at the same time. */
typedef void fastinit_fill_function(const fastinit_sampling *, const uint32_t key[4], const fastinit_region *,
                                    uint64_t position, uint64_t count);

typedef struct {
    const char *name;
    int (*supported)(void);
    fastinit_fill_function *fill;
    const fastinit_orthogonal *orthogonal;
} fastinit_target;

/* The compiled targets, the best one first; the last runs everywhere. */
extern const fastinit_target fastinit_targets[];
extern const int fastinit_target_count;

/* The floating-point environment that stream v1 is defined in: round to nearest even, subnormals kept. A caller may have changed
 * either; leave() takes what enter() returned and restores it. */
uint64_t fastinit_enter_environment(void);
void fastinit_leave_environment(uint64_t saved);

/* fill on a target, in that environment. */
void fastinit_fill(int target, const fastinit_sampling *, const uint32_t key[4], const fastinit_region *,
                   uint64_t position, uint64_t count);

/* A fill that threads share: how many elements there are, how many threads may come, how large a piece may be where it need not be
 * larger to be worth the while, and, of the moment, how many elements are taken and how many threads are at work. */
typedef struct {
    uint64_t size, threads, largest;
    _Atomic uint64_t taken, at_work;
} fastinit_pieces;

void fastinit_begin_pieces(fastinit_pieces *, uint64_t size, uint64_t threads, uint64_t largest);

/* Takes pieces and fills them until none is left, or until it has filled as much as the largest has; returns whether there may be more.
 * Any number of threads may call it at once. */
int fastinit_fill_pieces(fastinit_pieces *, int target, const fastinit_sampling *, const uint32_t key[4],
                         const fastinit_region *);

/* Lets no piece begin any more, and returns when those that have begun are filled: after that nobody writes. */
void fastinit_end_pieces(fastinit_pieces *);

/* Compares consecutive memory with elements [start, start + count) of the global tensor, `block` elements at a time, which are made in
 * `scratch`; a block that differs sets its byte of `marks`. Returns whether any does. */
int fastinit_compare(int target, const fastinit_sampling *, const uint32_t key[4], const char *memory, uint64_t start,
                     uint64_t count, uint64_t itemsize, uint64_t block, char *scratch, unsigned char *marks);

/* The two phases of orthogonal.h in that environment, for FASTINIT_FLOAT32 or FASTINIT_FLOAT64. */
void fastinit_reflectors(int target, int dtype, const void *normals, int64_t m, int64_t n, int64_t piece, void *factors,
                         void *scratch);
void fastinit_columns(int target, int dtype, const void *factors, int64_t m, int64_t n, int64_t piece, double gain,
                      void *scratch, void *out, int64_t row_stride, int64_t column_stride);

/* Asks for huge pages within [memory, memory + size): fresh memory is limited by its page faults. */
void fastinit_advise_huge_pages(void *memory, size_t size);

/* count values of float32, finite and within the dtype's range, to a narrower dtype, in that environment. */
void fastinit_narrow(const float *values, size_t count, int32_t dtype, char *out);

#endif
