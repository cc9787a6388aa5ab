/* The code of orthogonal.c for one type, REAL; included once per type. All matrices in factors and scratch have rows of
 * TILE elements. */

/* c += a b for ROWS rows and COLUMNS vectors of columns. */
INLINE void NAME(product_block)(REAL *c, const REAL *a, const int64_t a_row, const int64_t a_k, const REAL *b,
                                int64_t inner) {
    enum { WIDTH = sizeof(VECTOR_OF_REAL) / sizeof(REAL) };
    VECTOR_OF_REAL sum[ROWS][COLUMNS] = {{{0}}}, row[COLUMNS];
    for (int64_t k = 0; k < inner; k++, a += a_k, b += TILE) {
        SIDE_BY_SIDE(j, COLUMNS) memcpy(&row[j], b + j * WIDTH, sizeof row[j]);
        SIDE_BY_SIDE(i, ROWS)
            SIDE_BY_SIDE(j, COLUMNS) sum[i][j] += a[i * a_row] * row[j];
    }
    SIDE_BY_SIDE(i, ROWS)
        SIDE_BY_SIDE(j, COLUMNS) {
            REAL *place = c + i * TILE + j * WIDTH;
            memcpy(&row[j], place, sizeof row[j]);
            row[j] += sum[i][j];
            memcpy(place, &row[j], sizeof row[j]);
        }
}

/* c += a b, for c of up to TILE x TILE, rounded up to whole blocks, and a(i, k) = a[i * a_row + k * a_k]. Every block
 * also prefetches its share of the tiles after a and stream, which the caller's next product reads. */
INLINE void NAME(product)(REAL *c, const REAL *a, const int64_t a_row, const int64_t a_k, const REAL *b,
                          const REAL *stream, int64_t rows, int64_t inner, int64_t columns) {
    enum { WIDTH = COLUMNS * sizeof(VECTOR_OF_REAL) / sizeof(REAL), SHARE = ROWS * WIDTH, LINE = 64 / sizeof(REAL) };
    int64_t ahead = TILE * TILE;
    for (int64_t j = 0; j < columns; j += WIDTH)
        for (int64_t i = 0; i < rows; i += ROWS, ahead += SHARE) {
            for (int64_t element = ahead; element < ahead + SHARE; element += LINE) {
                __builtin_prefetch(a + element);
                __builtin_prefetch(stream + element);
            }
            NAME(product_block)(c + i * TILE + j, a + i * a_row, a_row, a_k, b + j, inner);
        }
}

static void NAME(add_product)(REAL *c, const REAL *a, const REAL *b, int64_t rows, int64_t inner, int64_t columns) {
    NAME(product)(c, a, TILE, 1, b, c, rows, inner, columns);
}

static void NAME(add_product_transposed)(REAL *c, const REAL *a, const REAL *b, int64_t rows, int64_t inner,
                                         int64_t columns) {
    NAME(product)(c, a, 1, TILE, b, b, rows, inner, columns);
}

/* Computes the factors of a piece: -T, a row with the signs of R's diagonal, and V with its unit diagonal, zeros
 * above it and padding rows of zeros below. */
static void NAME(reflectors)(const REAL *normals, int64_t m, int64_t n, int64_t piece, REAL *factors, void *scratch) {
    const int64_t first = piece * TILE, rows = m - first, padded = fastinit_orthogonal_rows(rows);
    const int64_t width = min(n - first, TILE), padded_width = fastinit_orthogonal_rows(width);
    REAL *t = factors + fastinit_orthogonal_offset(m, piece), *sign = t + TILE * TILE, *v = sign + TILE;
    double *gram = scratch, *tile = gram + TILE * TILE, squares[TILE] = {0}, scale[TILE], tau[TILE];
    normals += first * n + first;

    for (int64_t top = 0; top < rows; top += TILE) { /* squared norms, tile by tile */
        double sum[TILE] = {0};
        for (int64_t i = top; i < min(top + TILE, rows); i++)
            for (int64_t j = 0; j < min(i + 1, width); j++) {
                double x = (double)normals[i * n + j];
                sum[j] += x * x;
            }
        for (int64_t j = 0; j < width; j++) squares[j] += sum[j];
    }
    for (int64_t j = 0; j < width; j++) { /* H x = beta e with H = I - tau v v^T, v = (x - beta e) * scale, v[0] = 1 */
        double x = (double)normals[j * n + j], norm = __builtin_sqrt(squares[j]), beta = x > 0 ? -norm : norm;
        sign[j] = x > 0 ? -1 : 1;
        scale[j] = 1 / (x - beta);
        tau[j] = (beta - x) / beta;
    }
    memset(gram, 0, sizeof(double) * TILE * padded_width);
    for (int64_t top = 0; top < padded; top += TILE) { /* V, and V^T V of its rounded values */
        for (int64_t i = top; i < min(top + TILE, padded); i++) {
            REAL *row = v + i * TILE;
            int64_t below = i < rows ? min(i, width) : 0; /* columns whose diagonal lies above row i */
            for (int64_t j = 0; j < below; j++) row[j] = (REAL)((double)normals[i * n + j] * scale[j]);
            for (int64_t j = below; j < TILE; j++) row[j] = i == j && j < width;
            for (int64_t j = 0; j < TILE; j++) tile[(i - top) * TILE + j] = (double)row[j];
        }
        add_product_transposed_float64(gram, tile, tile, width, min(TILE, rows - top), width);
    }
    invert(gram, tau, width);
    for (int64_t i = 0; i < padded_width; i++)
        for (int64_t j = 0; j < TILE; j++) t[i * TILE + j] = i <= j && j < width ? (REAL)gram[i * TILE + j] : 0;
}

/* q += V (-T V^T q): applies a piece's reflectors to the rows of a panel from its diagonal down. Only rows begin to end
 * are not 0. */
static void NAME(reflect)(const REAL *t, REAL *q, int64_t rows, int64_t begin, int64_t end, int64_t width,
                          int64_t columns, REAL *w) {
    const REAL *v = t + TILE * (TILE + 1);
    REAL *tw = w + TILE * TILE;
    memset(w, 0, sizeof(REAL) * TILE * fastinit_orthogonal_rows(width));
    memset(tw, 0, sizeof(REAL) * TILE * fastinit_orthogonal_rows(width));
    for (int64_t top = begin; top < end; top += TILE)
        NAME(add_product_transposed)(w, v + top * TILE, q + top * TILE, width, min(TILE, end - top), columns);
    NAME(add_product)(tw, t, w, width, width, columns);
    for (int64_t top = 0; top < rows; top += TILE)
        NAME(add_product)(q + top * TILE, v + top * TILE, tw, min(TILE, rows - top), width, columns);
}

static void NAME(columns)(const REAL *factors, int64_t m, int64_t n, int64_t piece, REAL gain, void *scratch, REAL *out,
                          int64_t row_stride, int64_t column_stride) {
    const int64_t first = piece * TILE, width = min(n - first, TILE);
    REAL *w = scratch, *q = w + 2 * TILE * TILE, scale[TILE];
    memset(q, 0, sizeof(REAL) * TILE * fastinit_orthogonal_rows(m));
    for (int64_t j = 0; j < width; j++) q[(first + j) * TILE + j] = 1;

    for (int64_t p = piece; p >= 0; p--) { /* for pieces further left, the first TILE rows are 0 */
        int64_t top = p * TILE, begin = p == piece ? 0 : TILE, end = p == piece ? width : m - top;
        NAME(reflect)(factors + fastinit_orthogonal_offset(m, p), q + top * TILE, m - top, begin, end,
                      min(n - top, TILE), width, w);
    }
    const REAL *sign = factors + fastinit_orthogonal_offset(m, piece) + TILE * TILE;
    for (int64_t j = 0; j < width; j++) scale[j] = gain * sign[j];
    out += first * column_stride;
    for (int64_t top = 0; top < m; top += TILE) /* by tiles, so that a transposed result is also written in runs */
        if (column_stride == 1)
            for (int64_t i = top; i < min(top + TILE, m); i++)
                for (int64_t j = 0; j < width; j++) out[i * row_stride + j] = scale[j] * q[i * TILE + j];
        else
            for (int64_t j = 0; j < width; j++)
                for (int64_t i = top; i < min(top + TILE, m); i++)
                    out[i * row_stride + j * column_stride] = scale[j] * q[i * TILE + j];
}

#undef REAL
#undef VECTOR_OF_REAL
#undef NAME
