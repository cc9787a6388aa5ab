/* Haar-distributed orthogonal matrices from independent standard normals, on one target.
 *
 * Turns an m x n matrix of normals, m >= n >= 1, row-major and contiguous, into an m x n matrix with orthonormal
 * columns, in two phases. Each phase has fastinit_orthogonal_pieces(n) independent pieces, which threads may take in
 * any order. The first phase must be complete before the second begins. The result has the same bits on every target
 * and any number of threads.
 *
 *   1. reflectors(normals, m, n, piece, factors, scratch) turns 96 columns of normals into Householder reflectors. It
 *      reads column j from row j down. The cost of piece p is proportional to m - 96 p, so begin with the first.
 *   2. columns(factors, m, n, piece, gain, scratch, out, row_stride, column_stride) writes 96 columns of gain * Q:
 *      element (i, j) goes to out[i * row_stride + j * column_stride]. It applies the reflectors of pieces p, p - 1,
 *      ..., 0, so begin with the last.
 *
 * out may be the memory of normals, also transposed, since phase 2 does not read them. All calls share factors, which
 * needs fastinit_orthogonal_factors(m, n) elements of the matrix's type, about m n - n^2 / 2. Each thread needs its own
 * scratch of fastinit_orthogonal_scratch(m) elements, about 96 m. Neither needs initialization. Both must be aligned to
 * 8 bytes; 64 is faster.
 *
 * The caller sets the floating-point environment (round to nearest even, subnormals kept). The normals must be finite,
 * and no column may be zero from row j down; the sampler never returns 0.
 */
#ifndef FASTINIT_ORTHOGONAL_H
#define FASTINIT_ORTHOGONAL_H

#include <stdint.h>

enum { FASTINIT_TILE = 96 }; /* fixed: the bits depend on it, see orthogonal.c */

static inline int64_t fastinit_orthogonal_pieces(int64_t n) { return (n + FASTINIT_TILE - 1) / FASTINIT_TILE; }

/* Rows rounded up to a multiple of those computed at once. */
static inline int64_t fastinit_orthogonal_rows(int64_t m) { return (m + 7) / 8 * 8; }

/* Start of a piece's factors. Each earlier piece has a tile, a row of signs, and the rows from its diagonal down. */
static inline int64_t fastinit_orthogonal_offset(int64_t m, int64_t piece) {
    return FASTINIT_TILE * piece * (FASTINIT_TILE + 1 + fastinit_orthogonal_rows(m) - FASTINIT_TILE * (piece - 1) / 2);
}

static inline int64_t fastinit_orthogonal_factors(int64_t m, int64_t n) {
    int64_t last = fastinit_orthogonal_pieces(n) - 1;
    int64_t rows = FASTINIT_TILE + 1 + fastinit_orthogonal_rows(m) - FASTINIT_TILE * last;
    return fastinit_orthogonal_offset(m, last) + FASTINIT_TILE * rows;
}

static inline int64_t fastinit_orthogonal_scratch(int64_t m) {
    int64_t rows = fastinit_orthogonal_rows(m); /* a panel, or two tiles of double in place of four of float */
    return FASTINIT_TILE * (2 * FASTINIT_TILE + (rows < 2 * FASTINIT_TILE ? 2 * FASTINIT_TILE : rows));
}

typedef void fastinit_reflectors_float32(const float *normals, int64_t m, int64_t n, int64_t piece, float *factors,
                                         void *scratch);
typedef void fastinit_reflectors_float64(const double *normals, int64_t m, int64_t n, int64_t piece, double *factors,
                                         void *scratch);
typedef void fastinit_columns_float32(const float *factors, int64_t m, int64_t n, int64_t piece, float gain,
                                      void *scratch, float *out, int64_t row_stride, int64_t column_stride);
typedef void fastinit_columns_float64(const double *factors, int64_t m, int64_t n, int64_t piece, double gain,
                                      void *scratch, double *out, int64_t row_stride, int64_t column_stride);

/* One target's functions; the object compiled for x86_v4 defines fastinit_orthogonal_x86_v4, and so on. */
typedef struct {
    fastinit_reflectors_float32 *reflectors_float32;
    fastinit_columns_float32 *columns_float32;
    fastinit_reflectors_float64 *reflectors_float64;
    fastinit_columns_float64 *columns_float64;
} fastinit_orthogonal;

extern const fastinit_orthogonal fastinit_orthogonal_x86_v4, fastinit_orthogonal_x86_v3, fastinit_orthogonal_baseline,
    fastinit_orthogonal_neon, fastinit_orthogonal_generic;

#endif
