/* The float32 samplers over every word there is: the limits and orders that docs/stream-v1.md claims of them.
 * Prints a line for each claim with what was found; a claim that does not hold ends the program with 1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "transforms.h"

enum { WORDS = 2 * LANES * N };

static void require(int holds, const char *claim, uint64_t word) {
    if (holds) return;
    printf("FALSE: %s, at word %llx\n", claim, (unsigned long long)word);
    exit(1);
}

static void words_from(uint64_t first, u32v *w) {
    for (int j = 0; j < N; j++)
        for (int lane = 0; lane < 2 * LANES; lane++) w[j][lane] = (uint32_t)(first + (uint64_t)(j * 2 * LANES + lane));
}

/* The radius: the angle's word 0 makes z0 = 1 * r. */
static void radius(void) {
    float before = INFINITY, largest = 0, smallest = INFINITY;
    for (uint64_t word = 0; word < 0x100000000; word += WORDS) {
        u32v a[N], b[N] = {0};
        f32v z0[N], z1[N];
        words_from(word, a);
        normal_pairs(a, b, z0, z1, N);
        for (int j = 0; j < N; j++)
            for (int lane = 0; lane < 2 * LANES && word + j * 2 * LANES + lane < 0x100000000; lane++) {
                float r = z0[j][lane];
                require(r <= before, "the radius never increases", word);
                require(r > 0 && r < 6.7638f, "the radius is in (0, 6.7638)", word);
                largest = r > largest ? r : largest;
                smallest = r < smallest ? r : smallest;
                before = r;
            }
    }
    require(largest == 0x1.b0e08ep+2f, "the largest radius is 0x1.b0e08ep+2, that of the word 0", 0);
    printf("radius %.9g to %.9g\n", smallest, largest);
}

/* Sine and cosine of every angle, at radius of the word that is nearest to 1. */
static void angle(void) {
    double farthest = 0, smallest = 1;
    u32v a[N];
    f32v one[N], z1[N];
    uint32_t unit = 0x9b4597e3; /* u = exp(-1/2) */
    for (int j = 0; j < N; j++) a[j] = (u32v){0} + unit;
    u32v zero[N] = {0};
    normal_pairs(a, zero, one, z1, N);
    const double r = one[0][0];
    for (uint64_t word = 0; word < 0x100000000; word += WORDS) {
        u32v b[N];
        f32v z0[N];
        words_from(word, b);
        normal_pairs(a, b, z0, z1, N);
        for (int j = 0; j < N; j++)
            for (int lane = 0; lane < 2 * LANES; lane++) {
                require(fabsf(z0[j][lane]) <= one[0][0] && fabsf(z1[j][lane]) <= one[0][0],
                        "no angle makes a radius longer", word);
                double p = z0[j][lane] / r, q = z1[j][lane] / r, off = fabs(p * p + q * q - 1);
                double least = fabs(p) < fabs(q) ? fabs(p) : fabs(q);
                farthest = off > farthest ? off : farthest;
                smallest = least < smallest ? least : smallest;
            }
    }
    require(farthest < 5e-7, "sine and cosine lie on the circle", 0);
    require(smallest > 0, "sine and cosine are never 0", 0);
    printf("angle: off the circle by at most %.3g, never below %.3g\n", farthest, smallest);
}

/* An inverse distribution function never decreases, is odd, never 0, and keeps its bounds. */
static void inverse(const char *name, int all_cells, float limit) {
    float before = -INFINITY, smallest = INFINITY;
    for (uint64_t step = 0; step < 0x100000000; step += WORDS) {
        u32v w[N], mirrored[N];
        f32v z[N], opposite[N];
        words_from(all_cells ? step : step + 0x80000000, w); /* truncated_2 reads its word as signed */
        for (int j = 0; j < N; j++) mirrored[j] = all_cells ? ~w[j] : -(w[j] | 1);
        if (all_cells) {
            truncated(w, z, N);
            truncated(mirrored, opposite, N);
        } else {
            truncated_2_roots roots;
            for (int j = 0; j < N; j++) truncated_2_root(&roots, w, j);
            truncated_2(&roots, mirrored, z, N);
            truncated_2(&roots, w, opposite, N);
        }
        for (int j = 0; j < N; j++)
            for (int lane = 0; lane < 2 * LANES && step + j * 2 * LANES + lane < 0x100000000; lane++) {
                float x = z[j][lane];
                require(x >= before, "the quantile never decreases", step);
                require(x != 0 && fabsf(x) <= limit, "the quantile keeps its bounds and is never 0", step);
                require(x == -opposite[j][lane], "the quantile is odd", step);
                smallest = fabsf(x) < smallest ? fabsf(x) : smallest;
                before = x;
            }
    }
    printf("%s: from %.3g to %.9g\n", name, smallest, before);
}

int main(void) {
    radius();
    angle();
    inverse("truncated_2", 0, 2.0f);
    inverse("truncated", 1, 6.3382f);
    return 0;
}
