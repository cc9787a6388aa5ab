/* Transforms from 64-bit draws to float64 values: the definitions of docs/stream-v1.md, line by line.
 *
 * The truncated distributions also use division, which IEEE rounds correctly like the other operations.
 */
#ifndef FASTINIT_TRANSFORMS64_H
#define FASTINIT_TRANSFORMS64_H

#include "tables.h"
#include "vector.h"

#define MANTISSA 0xfffffffffffff
#define HALF 0x3fe0000000000000 /* the bits of 0.5 */

/* Odd integers in (-2^53, 2^53). */
INLINE f64v uniform_symmetric64(u64v draw) { return f64_from_i64(((i64v)draw >> 10) | 1); }

/* Integers in [0, 2^53). */
INLINE f64v uniform_unit64(u64v draw) { return f64_from_i64((i64v)(draw >> 11)); }

/* -2 ln(1 - y) + k 2 ln 2 for y in [0, 1/2]. */
INLINE void twice_neg_log(const f64v *y, const f64v *k, f64v *result, const int n) {
    f64v p[N];
    POLYNOMIAL(p, y, fastinit_normal64_l);
    SIDE_BY_SIDE(j, n) result[j] = p[j] * y[j] + k[j] * FASTINIT_TWO_LN2;
}

/* Splits m > 0 into (1 - y) 2^-k with y in [0, 1/2], for m < 2^(exponent - 1022). */
INLINE void split(f64v m, int64_t exponent, f64v *y, f64v *k) {
    *y = 1.0 - (f64v)(((u64v)m & MANTISSA) | HALF);
    *k = f64_from_i64((i64v)(exponent - ((u64v)m >> 52)));
}

/* Box and Muller (1958), like normal_pairs. */
INLINE void normal_pairs64(const u64v *a, const u64v *b, f64v *z0, f64v *z1, const int n) {
    f64v y[N], k[N], r[N], x[N], t[N], s[N], c[N];
    SIDE_BY_SIDE(j, n) {
        f64v v = f64_from_i64((i64v)a[j]) + 0.5;
        split(v, 1086, &y[j], &k[j]);
        y[j] = f64_select_by_bit((u64v)v, 63, v * -0x1p-64, y[j]);
        k[j] = f64_select_by_bit((u64v)v, 63, (f64v){0}, k[j]);
    }
    twice_neg_log(y, k, r, n);
    SIDE_BY_SIDE(j, n) {
        r[j] = f64_sqrt(r[j]);
        x[j] = f64_from_i64((i64v)((b[j] << 2) | 2)) * 0x1p-63;
        t[j] = x[j] * x[j];
    }
    POLYNOMIAL(s, t, fastinit_normal64_s);
    POLYNOMIAL(c, t, fastinit_normal64_c);
    SIDE_BY_SIDE(j, n) {
        f64v sine = s[j] * x[j], cosine = c[j] * t[j] + 1.0;
        cosine = (f64v)((u64v)cosine ^ (b[j] & 0x8000000000000000));
        z0[j] = f64_select_by_bit(b[j], 62, sine, cosine) * r[j];
        z1[j] = f64_select_by_bit(b[j], 62, cosine, sine) * r[j];
    }
}

/* The high halves of the 128-bit products draw * count, plus first. */
INLINE u64v window_draw(u64v draw, uint64_t first, uint64_t count) {
    u64v low = u64_all(count & 0xffffffff), high = u64_all(count >> 32);
    u64v middle = mul_even32(draw >> 32, low) + (mul_even32(draw, low) >> 32);
    u64v middle2 = mul_even32(draw, high) + (middle & 0xffffffff);
    return mul_even32(draw >> 32, high) + (middle >> 32) + (middle2 >> 32) + first;
}

/* The inverse normal CDF by AS 241 (Wichura, "The percentage points of the normal distribution", Applied Statistics 37,
 * 1988), with the logarithm of this file and IEEE square roots. */
INLINE void truncated64(const u64v *draw, f64v *z, uint64_t first, uint64_t count, const int n) {
    f64v y[N], k[N], q[N], x[N], r[N], t[N], u[N], numerator[N], denominator[N], tail[N];
    u64v upper[N];
    SIDE_BY_SIDE(j, n) {
        u64v w = window_draw(draw[j], first, count);
        upper[j] = u64_top_bit(w);
        u64v m = w ^ upper[j]; /* number of cells between w and the nearer end of the unit interval, below 2^63 */
        q[j] = (f64_from_i64((i64v)m) + 0.5) * 0x1p-64;
        x[j] = (f64_from_i64((i64v)(0x7fffffffffffffff - m)) + 0.5) * 0x1p-64; /* 1/2 - q, exact near 0 */
        split(q[j], 1022, &y[j], &k[j]);
    }
    twice_neg_log(y, k, t, n);
    SIDE_BY_SIDE(j, n) {
        t[j] = f64_sqrt(t[j] * 0.5);
        r[j] = t[j] - 1.6;
        u[j] = t[j] - 5.0;
    }
    POLYNOMIAL(numerator, r, fastinit_as241_c);
    POLYNOMIAL(denominator, r, fastinit_as241_d);
    SIDE_BY_SIDE(j, n) tail[j] = numerator[j] / denominator[j];
    POLYNOMIAL(numerator, u, fastinit_as241_e);
    POLYNOMIAL(denominator, u, fastinit_as241_f);
    SIDE_BY_SIDE(j, n) tail[j] = f64_select((u64v)(t[j] <= 5.0), tail[j], numerator[j] / denominator[j]);
    SIDE_BY_SIDE(j, n) r[j] = 0.180625 - x[j] * x[j];
    POLYNOMIAL(numerator, r, fastinit_as241_a);
    POLYNOMIAL(denominator, r, fastinit_as241_b);
    SIDE_BY_SIDE(j, n) {
        f64v central = (x[j] * numerator[j]) / denominator[j];
        f64v magnitude = f64_select((u64v)(x[j] <= 0.425), central, tail[j]);
        z[j] = (f64v)((u64v)magnitude ^ (~upper[j] & 0x8000000000000000));
    }
}

/* The normal beyond `low` >= 4: solves ln(Q(low) / Q(x)) = -ln(1 - U share), with Q(x) = phi(x) N(1/x^2) / x the
 * upper tail, by three steps of Newton's method from sqrt(low^2 + 2s). */
INLINE void truncated_tail64(const u64v *draw, f64v *z, double low, double share, const int n) {
    f64v y[N], k[N], target[N], x[N], t[N], mills[N], mills_low[N], excess[N];
    SIDE_BY_SIDE(j, n) {
        f64v u = (f64_from_i64((i64v)(draw[j] >> 12)) + 0.5) * 0x1p-52 * share;
        u64v upper = (u64v)(u > 0.5);
        split(1.0 - u, 1022, &y[j], &k[j]);
        y[j] = f64_select(upper, y[j], u);
        k[j] = f64_select(upper, k[j], (f64v){0});
        t[j] = f64_all(1.0) / f64_all(low * low);
    }
    POLYNOMIAL(mills_low, t, fastinit_tail_n);
    twice_neg_log(y, k, excess, n);
    SIDE_BY_SIDE(j, n) {
        target[j] = low * low + excess[j];
        x[j] = f64_sqrt(target[j]);
    }
    for (int turn = 0; turn < 3; turn++) {
        SIDE_BY_SIDE(j, n) t[j] = 1.0 / (x[j] * x[j]);
        POLYNOMIAL(mills, t, fastinit_tail_n);
        SIDE_BY_SIDE(j, n) split((low * mills[j]) / (x[j] * mills_low[j]), 1022, &y[j], &k[j]);
        twice_neg_log(y, k, excess, n);
        SIDE_BY_SIDE(j, n) x[j] = x[j] - ((x[j] * x[j] - target[j]) + excess[j]) * mills[j] / (2.0 * x[j]);
    }
    SIDE_BY_SIDE(j, n) z[j] = x[j];
}

#endif
