/* The kernels without Python, for tests on other machines and compilers: reads fills and matrices from standard input,
 * one to a line, and writes the bytes that every target of the build gives for each.
 *
 *   fill kind dtype itemsize clamped scale shift low high first count tail_low tail_share bits
 *        k0 k1 c2 c3 start length offset
 *   orthogonal dtype itemsize m n gain k0 k1 c2 c3
 *
 * The offset is the buffer's distance from a cache line; the bytes around the buffer must stay as they are.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fastinit.h"

enum { GUARD = 192 };

static void *memory(size_t size) {
    char *p = malloc(size ? size : 1);
    if (p == NULL) exit(3);
    return p;
}

static int scan_key(uint32_t key[4]) {
    return scanf("%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &key[0], &key[1], &key[2], &key[3]);
}

static void fill(void) {
    fastinit_sampling s = {0};
    uint32_t key[4];
    uint64_t start;
    size_t length, itemsize, offset;
    int read = scanf("%" SCNd32 " %" SCNd32 " %zu %" SCNd32, &s.kind, &s.dtype, &itemsize, &s.clamped);
    read += scanf("%lf %lf %lf %lf %" SCNu64 " %" SCNu64, &s.scale, &s.shift, &s.low, &s.high, &s.first, &s.count);
    read += scanf("%lf %lf %" SCNu64, &s.tail_low, &s.tail_share, &s.bits);
    read += scan_key(key);
    read += scanf("%" SCNu64 " %zu %zu", &start, &length, &offset);
    if (read != 20) exit(2);
    const size_t size = length * itemsize, whole = size + 2 * GUARD + 128;
    char *block = memory(whole), *out = block + (64 - (uintptr_t)block % 64) + GUARD - 64 + offset;
    for (int target = 0; target < fastinit_target_count; target++) {
        if (!fastinit_targets[target].supported()) continue;
        for (size_t i = 0; i < whole; i++) block[i] = 0x5a;
        fastinit_region region = {.base = out, .start = start, .streamed = start & 1, .axes = 1};
        region.extent[0] = (int64_t)length;
        region.index_stride[0] = 1;
        region.byte_stride[0] = (int64_t)itemsize;
        fastinit_fill(target, &s, key, &region, 0, length);
        for (char *p = block; p < block + whole; p++)
            if ((p < out || p >= out + size) && *p != 0x5a) exit(4);
        fwrite(out, 1, size, stdout);
    }
    free(block);
}

static void orthogonal(void) {
    fastinit_sampling s = {.kind = FASTINIT_NORMAL, .scale = 1.0};
    uint32_t key[4];
    int64_t m, n;
    size_t itemsize;
    double gain;
    int read = scanf("%" SCNd32 " %zu %" SCNd64 " %" SCNd64 " %lf", &s.dtype, &itemsize, &m, &n, &gain);
    read += scan_key(key);
    if (read != 9) exit(2);
    if (s.dtype == FASTINIT_FLOAT64) s.kind = FASTINIT_NORMAL_64;
    const size_t size = (size_t)(m * n) * itemsize;
    char *normals = memory(size), *out = memory(size);
    char *factors = memory((size_t)fastinit_orthogonal_factors(m, n) * itemsize);
    char *scratch = memory((size_t)fastinit_orthogonal_scratch(m) * itemsize);
    for (int target = 0; target < fastinit_target_count; target++) {
        if (!fastinit_targets[target].supported()) continue;
        fastinit_region region = {.base = normals, .start = 0, .axes = 1};
        region.extent[0] = m * n;
        region.index_stride[0] = 1;
        region.byte_stride[0] = (int64_t)itemsize;
        fastinit_fill(target, &s, key, &region, 0, (uint64_t)(m * n));
        for (int64_t piece = 0; piece < fastinit_orthogonal_pieces(n); piece++)
            fastinit_reflectors(target, s.dtype, normals, m, n, piece, factors, scratch);
        for (int64_t piece = 0; piece < fastinit_orthogonal_pieces(n); piece++)
            fastinit_columns(target, s.dtype, factors, m, n, piece, gain, scratch, out, n, 1);
        fwrite(out, 1, size, stdout);
    }
    free(normals), free(out), free(factors), free(scratch);
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) { /* only the names of the targets that run here */
        for (int target = 0; target < fastinit_target_count; target++)
            if (fastinit_targets[target].supported()) puts(fastinit_targets[target].name);
        return 0;
    }
    char what[16];
    while (scanf("%15s", what) == 1) what[0] == 'f' ? fill() : orthogonal();
    return 0;
}
