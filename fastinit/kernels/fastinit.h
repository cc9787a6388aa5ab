/* Interface of the kernels. The main function fills a range of elements for one sampling and one key, on one target.
 *
 * The kernels do not use Python, allocate memory, raise errors or keep state. The caller has checked all arguments.
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

/* Samplers. Those without a suffix compute in float32 from one 32-bit word, those with 64 in float64 from a 64-bit
 * draw. The result is then rounded to the output's dtype. */
enum {
    FASTINIT_CONSTANT,
    FASTINIT_WORDS,
    FASTINIT_UNIFORM_SYMMETRIC, /* (-a, a), a = 2^24 scale */
    FASTINIT_UNIFORM,           /* low + [0, 1) */
    FASTINIT_NORMAL,
    FASTINIT_TRUNCATED_2, /* at +-2 standard deviations */
    FASTINIT_TRUNCATED,   /* a window of the 2^32 cells of the unit interval */
    FASTINIT_UNIFORM_SYMMETRIC_64,
    FASTINIT_UNIFORM_64,
    FASTINIT_NORMAL_64,
    FASTINIT_TRUNCATED_64,      /* a window of the 2^64 cells of the unit interval */
    FASTINIT_TRUNCATED_TAIL_64, /* both bounds at least 4 standard deviations from the mean, on one side */
};

typedef struct {
    int32_t kind, dtype;
    double scale, shift;   /* value = draw * scale + shift; shift is added unless it is 0 */
    double low, high;      /* closed clamping interval, in the output's dtype */
    int32_t clamped;       /* whether to clamp */
    uint64_t first, count; /* TRUNCATED: the window [first, first + count) */
    double tail_low;       /* TAIL: the bound nearer to the mean, in standard deviations, > 0 */
    double tail_share;     /* TAIL: 1 - Q(far bound) / Q(near bound) */
    uint64_t bits;         /* CONSTANT: the value's bits in the output's dtype */
} fastinit_sampling;

/* Location of the local elements in memory and in the global tensor: a row-major lattice of `axes` axes. Local element
 * (j0, j1, ...) is global element start + sum j * index_stride, at base + sum j * byte_stride. The last axis is a run:
 * its index_stride is 1. */
enum { FASTINIT_MAX_AXES = 64 };
typedef struct {
    char *base;
    uint64_t start;
    int64_t streamed; /* whether to use streaming stores: the region is larger than any cache */
    int64_t axes;
    int64_t extent[FASTINIT_MAX_AXES], index_stride[FASTINIT_MAX_AXES], byte_stride[FASTINIT_MAX_AXES];
} fastinit_region;

/* Writes local elements [position, position + count), numbered row-major within the region. Calls on disjoint ranges
 * may run concurrently. */
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

/* The floating-point environment of stream v1: round to nearest even, subnormals kept. A caller may have changed
 * either. leave() restores the environment from the result of enter(). */
uint64_t fastinit_enter_environment(void);
void fastinit_leave_environment(uint64_t saved);

/* Runs a target's fill in that environment. */
void fastinit_fill(int target, const fastinit_sampling *, const uint32_t key[4], const fastinit_region *,
                   uint64_t position, uint64_t count);

/* A fill shared by threads: number of elements, maximum number of threads, maximum piece size; and the current
 * numbers of elements taken and of threads at work. */
typedef struct {
    uint64_t size, threads, largest;
    _Atomic uint64_t taken, at_work;
} fastinit_pieces;

void fastinit_begin_pieces(fastinit_pieces *, uint64_t size, uint64_t threads, uint64_t largest);

/* Takes pieces and fills them until none is left, or until it has filled at least `largest` elements. Returns
 * whether there may be more. Any number of threads may call it concurrently. */
int fastinit_fill_pieces(fastinit_pieces *, int target, const fastinit_sampling *, const uint32_t key[4],
                         const fastinit_region *);

/* Prevents new pieces from starting, and waits for those that have started. No thread writes afterwards. */
void fastinit_end_pieces(fastinit_pieces *);

/* Compares contiguous memory with elements [start, start + count) of the global tensor. Generates `block` elements at a
 * time in `scratch`. A block that differs sets its byte of `marks`. Returns whether any block differs. */
int fastinit_compare(int target, const fastinit_sampling *, const uint32_t key[4], const char *memory, uint64_t start,
                     uint64_t count, uint64_t itemsize, uint64_t block, char *scratch, unsigned char *marks);

/* The two phases of orthogonal.h in that environment, for FASTINIT_FLOAT32 or FASTINIT_FLOAT64. */
void fastinit_reflectors(int target, int dtype, const void *normals, int64_t m, int64_t n, int64_t piece, void *factors,
                         void *scratch);
void fastinit_columns(int target, int dtype, const void *factors, int64_t m, int64_t n, int64_t piece, double gain,
                      void *scratch, void *out, int64_t row_stride, int64_t column_stride);

/* Asks for huge pages within [memory, memory + size): page faults limit the speed of writing fresh memory. */
void fastinit_advise_huge_pages(void *memory, size_t size);

/* Rounds count float32 values to a narrower dtype, in that environment. They must be finite and within its range. */
void fastinit_narrow(const float *values, size_t count, int32_t dtype, char *out);

#endif
