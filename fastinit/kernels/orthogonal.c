/* Stewart, "The efficient generation of random orthogonal matrices with an application to condition estimators" (1980):
 * column j of Householder's QR of a Gaussian matrix is a vector of m - j normals, independent of everything before. So
 * the reflectors are built from fresh normals, without the factorization. Their product is exactly Haar-distributed if
 * each column takes the sign of its diagonal element of R (Mezzadri, "How to generate random matrices from the
 * classical compact groups", 2007).
 *
 * Reflectors are applied 96 at a time as I - V T V^T (Schreiber and Van Loan, 1989), from the last to the first, to an
 * identity matrix. All expensive steps are products of 96-wide tiles. An element of a product is a sum over k = 0, 1,
 * 2, ... in this order, with one multiplication and one addition each. It starts from 0 for every tile of up to 96
 * terms and is then added to the result. Vectors run across columns, and the tile size is fixed, so the bits depend
 * neither on the vector width, nor on the number of rows computed at once, nor on the threads.
 */
#include "orthogonal.h"
#include "vector.h"

#if !defined(FASTINIT_X86_V4_INTEL) /* uses the functions of x86_v4, which are the same */

#if defined(FASTINIT_X86_V4)
#define TARGET x86_v4
#elif defined(FASTINIT_X86_V3)
#define TARGET x86_v3
#elif defined(FASTINIT_BASELINE)
#define TARGET baseline
#elif defined(FASTINIT_NEON)
#define TARGET neon
#else
#define TARGET generic
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

/* Block of products that fits the registers (32 or 16): ROWS x COLUMNS vectors. */
#if defined(FASTINIT_X86_V4) || defined(FASTINIT_NEON)
enum { ROWS = 8, COLUMNS = 3 };
#else
enum { ROWS = 4, COLUMNS = 2 };
#endif

enum { TILE = FASTINIT_TILE };

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Replaces V^T V by -T, on and above the diagonal: T = (diag(1 / tau) + strict upper triangle of V^T V)^-1 (Puglisi,
 * 1992), row by row from the last. In double for float32 too, which halves the distance from orthogonality. */
static void invert(double *gram, const double *tau, int64_t width) {
    for (int64_t i = width - 1; i >= 0; i--) {
        double sum[TILE] = {0}, *row = gram + i * TILE;
        for (int64_t k = i + 1; k < width; k++)
            for (int64_t j = k; j < width; j++) sum[j] += row[k] * gram[k * TILE + j];
        row[i] = -tau[i];
        for (int64_t j = i + 1; j < width; j++) row[j] = -tau[i] * sum[j];
    }
}

#define REAL double
#define VECTOR_OF_REAL f64v
#define NAME(function) JOIN(function, float64)
#include "orthogonal_text.h"

#define REAL float
#define VECTOR_OF_REAL f32v
#define NAME(function) JOIN(function, float32)
#include "orthogonal_text.h"

const fastinit_orthogonal JOIN(fastinit_orthogonal, TARGET) = {
    reflectors_float32,
    columns_float32,
    reflectors_float64,
    columns_float64,
};

#endif
