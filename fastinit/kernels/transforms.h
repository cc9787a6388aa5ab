/* Transforms from 32-bit words to float32 values, one word per value: the definitions of docs/stream-v1.md, line by
 * line.
 *
 * Every operator is one correctly rounded IEEE operation, in the written order; the build forbids contraction. Each
 * function works on n <= N vectors side by side; n is a constant after inlining.
 */
#ifndef FASTINIT_TRANSFORMS_H
#define FASTINIT_TRANSFORMS_H

#include "tables.h"
#include "vector.h"

/* Odd integers in (-2^24, 2^24). */
INLINE f32v uniform_symmetric(u32v word) { return __builtin_convertvector(((i32v)word >> 7) | 1, f32v); }

/* Integers in [0, 2^24). */
INLINE f32v uniform_unit(u32v word) { return __builtin_convertvector((i32v)(word >> 8), f32v); }

/* Box and Muller, "A note on the generation of random normal deviates" (1958): two words give two independent
 * normals. */
INLINE void normal_pairs(const u32v *a, const u32v *b, f32v *z0, f32v *z1, const int n) {
    f32v y[N], k[N], p[N], r[N], x[N], t[N], s[N], c[N];
    SIDE_BY_SIDE(j, n) {
        f32v v = __builtin_convertvector((i32v)a[j], f32v) + 0.5f;
#if defined(FASTINIT_X86_V4)
        u32v bits = (u32v)v;
        f32v mantissa = (f32v)((bits & 0x7fffff) | 0x3f000000);
        y[j] = f32_select_by_bit(bits, 31, v * -0x1p-32f, 1.0f - mantissa);
        k[j] = __builtin_convertvector((i32v)u32_unless_bit(bits, 31, 158 - (bits >> 23)), f32v);
#else /* without masks: the same from v * 2^(k - 32), which is the mantissa or v 2^-32; k is a difference saturated at 0 */
        u32v bits = (u32v)v - (32u << 23), difference = u32_above_0(126, bits >> 23);
        y[j] = (f32v)(~u32_top_bit(bits) & 0x3f800000) - (f32v)(bits + (difference << 23));
        k[j] = __builtin_convertvector((i32v)difference, f32v);
#endif
    }
    POLYNOMIAL(p, y, fastinit_normal_l);
    SIDE_BY_SIDE(j, n) r[j] = f32_sqrt(p[j] * y[j] + k[j] * FASTINIT_TWO_LN2_F);
    SIDE_BY_SIDE(j, n) {
        x[j] = __builtin_convertvector((i32v)((b[j] << 2) | 2), f32v) * 0x1p-31f;
        t[j] = x[j] * x[j];
    }
    POLYNOMIAL(s, t, fastinit_normal_s);
    POLYNOMIAL(c, t, fastinit_normal_c);
    SIDE_BY_SIDE(j, n) {
        f32v sine = s[j] * x[j], cosine = c[j] * t[j] + 1.0f;
        cosine = (f32v)((u32v)cosine ^ (b[j] & 0x80000000));
        f32_exchange_unless_bit(b[j], 30, &sine, &cosine);
        z0[j] = sine * r[j];
        z1[j] = cosine * r[j];
    }
}

/* The normal truncated to +-2 standard deviations: its inverse CDF as a polynomial in a square root. The square root
 * unit needs as long per vector as the polynomial and runs in parallel to it. So the roots of the next n vectors are
 * computed together with the polynomials of the current n. */
typedef struct {
    f32v v[N], q[N];
} truncated_2_roots;

INLINE void truncated_2_root(truncated_2_roots *roots, const u32v *word, const int j) {
    f32v v = __builtin_convertvector((i32v)word[j] | 1, f32v) * 0x1p-31f;
    roots->v[j] = v;
    roots->q[j] = f32_sqrt(1.0f - (v * v) * FASTINIT_TRUNC2_SCALE) - FASTINIT_TRUNC2_SHIFT;
}

INLINE void truncated_2(truncated_2_roots *roots, const u32v *next, f32v *z, const int n) {
    truncated_2_roots next_roots;
    f32v p[N];
    _Static_assert(2 * N <= LENGTH(fastinit_trunc2_p), "every second step begins a root");
    POLYNOMIAL(p, roots->q, fastinit_trunc2_p,
               if (step % 2 == 0 && step / 2 < n) truncated_2_root(&next_roots, next, step / 2));
    SIDE_BY_SIDE(j, n) z[j] = p[j] * roots->v[j];
    *roots = next_roots;
}

/* The inverse normal CDF on 32 octaves of the tail probability, each with a polynomial of degree 8. */
INLINE f32v icdf_coefficient(const float *row, u32v octave) {
#if defined(FASTINIT_X86_V4)
    return (f32v)_mm512_permutex2var_ps(_mm512_loadu_ps(row), (__m512i)octave, _mm512_loadu_ps(row + 16));
#elif defined(FASTINIT_X86_V3)
    return (f32v)_mm256_i32gather_ps(row, (__m256i)octave, 4);
#else
    f32v c;
    for (int lane = 0; lane < 2 * LANES; lane++) c[lane] = row[octave[lane]];
    return c;
#endif
}

#if defined(FASTINIT_X86_V3)
/* The eight octaves nearest to 1/2 hold 255 in 256 of the cells. They need a permutation of one register, not a
 * gather. */
INLINE f32v icdf_top_coefficient(const float *row, u32v octave) {
    return (f32v)_mm256_permutevar8x32_ps(_mm256_loadu_ps(row + 24), (__m256i)octave);
}
INLINE int icdf_all_top(const u32v *octave, const int n) {
    u32v low = {0};
    SIDE_BY_SIDE(j, n) low |= (u32v)((i32v)octave[j] < 24);
    return _mm256_testz_si256((__m256i)low, (__m256i)low);
}
#endif

/* clang-format off */
#define ICDF_HORNER(lookup)                                                         \
    do {                                                                            \
        SIDE_BY_SIDE(j, n) z[j] = lookup(fastinit_icdf[8], octave[j]);                       \
        _Pragma("GCC unroll 8") for (int degree = 7; degree >= 0; degree--)         \
            SIDE_BY_SIDE(j, n) z[j] = z[j] * s[j] + lookup(fastinit_icdf[degree], octave[j]); \
    } while (0)
/* clang-format on */

INLINE void truncated(const u32v *cell, f32v *z, const int n) {
    f32v s[N];
    u32v sign[N], octave[N];
    SIDE_BY_SIDE(j, n) {
        u32v upper = u32_top_bit(cell[j]);
        f32v m = __builtin_convertvector((i32v)(cell[j] ^ upper), f32v) + 0.5f;
        u32v bits = (u32v)f32_min(m, f32_all(0x1.fffffep30f));
        octave[j] = (bits >> 23) - 126;
        s[j] = (f32v)((bits & 0x7fffff) | 0x3f800000) - 2.0f;
        sign[j] = ~cell[j] & 0x80000000;
    }
#if defined(FASTINIT_X86_V3)
    if (__builtin_expect(icdf_all_top(octave, n), 1))
        ICDF_HORNER(icdf_top_coefficient);
    else
#endif
        ICDF_HORNER(icdf_coefficient);
    SIDE_BY_SIDE(j, n) z[j] = (f32v)((u32v)z[j] ^ sign[j]);
}

#endif
