/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11), GROUPS * LANES
 * blocks at a time.
 *
 * Each 32-bit state word is in the low half of a 64-bit lane. A round is two widening multiplications, the high halves
 * of two products, and two three-way exclusive ors. The high halves of the words hold garbage that no multiplication
 * reads.
 *
 * c1, c2 and c3 are constant until the low half of the block number wraps. So products of the first two rounds that
 * depend on them alone are computed once, and the other product of round 1 is linear in c0: 17 of 20 multiplications
 * remain.
 */
#ifndef FASTINIT_PHILOX_H
#define FASTINIT_PHILOX_H

#include "vector.h"

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u
#define PHILOX_ROUNDS 10

/* Maximum number of groups of LANES blocks in flight: six hide the latency of the multiplications. */
enum { GROUPS = 6 };

typedef struct {
    uint64_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS]; /* the round keys */
    uint32_t c1, c2, c3;
    uint64_t r1_c2;               /* c3 ^ k1, mixed into word 2 by round 1 */
    uint64_t r2_c0, r2_c2, r2_c3; /* the same for round 2, and its constant word 3 */
    uint64_t last_k0_k1;          /* the last two round keys, side by side in memory order */
} philox_stream;

/* Sets the round keys of (k0, k1) and the stream (c2, c3). */
static void philox_open(philox_stream *s, const uint32_t words[4]) {
    uint32_t k0 = words[0], k1 = words[1];
    for (int r = 0; r < PHILOX_ROUNDS; r++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
        s->k0[r] = k0;
        s->k1[r] = k1;
    }
    memcpy(&s->last_k0_k1, (uint32_t[]){k0 - PHILOX_W0, k1 - PHILOX_W1}, sizeof s->last_k0_k1);
    s->c2 = words[2];
    s->c3 = words[3];
}

/* Sets the high half of the block number. */
static void philox_set_high(philox_stream *s, uint32_t c1) {
    s->c1 = c1;
    uint64_t p1 = (uint64_t)PHILOX_M1 * s->c2;
    uint32_t c0 = (uint32_t)(p1 >> 32) ^ c1 ^ (uint32_t)s->k0[0];
    s->r1_c2 = s->c3 ^ s->k1[0];
    uint64_t p0 = (uint64_t)PHILOX_M0 * c0;
    s->r2_c0 = (uint32_t)p1 ^ s->k0[1];
    s->r2_c2 = (p0 >> 32) ^ s->k1[1];
    s->r2_c3 = (uint32_t)p0;
}

/* Computes block + g * LANES + LANE_BLOCK[j] in lane j of w[.][g], except for the last step of the last round, which
 * the functions below do. w holds p1, c1, p0 and c3, where w0 = high(p1) ^ c1 ^ k0, w1 = low(p1), w2 = high(p0) ^ c3
 * ^ k1 and w3 = low(p0). */
INLINE void philox_blocks(const philox_stream *s, uint32_t block, const int groups, u64v w[4][GROUPS]) {
    const u64v m0 = u64_all(PHILOX_M0), m1 = u64_all(PHILOX_M1);
    u64v first = mul_even32((u64v)LANE_BLOCK + block, m0);
    SIDE_BY_SIDE(g, groups) {
        u64v p0 = first + (uint64_t)PHILOX_M0 * LANES * g;
        u64v p1 = mul_even32((p0 >> 32) ^ s->r1_c2, m1);
        w[0][g] = (p1 >> 32) ^ s->r2_c0;
        w[1][g] = p1;
        w[2][g] = p0 ^ s->r2_c2;
        w[3][g] = u64_all(s->r2_c3);
    }
#pragma GCC unroll 10
    for (int r = 2; r < PHILOX_ROUNDS; r++) {
        SIDE_BY_SIDE(g, groups) {
            u64v p0 = mul_even32(w[0][g], m0), p1 = mul_even32(w[2][g], m1);
            if (r == PHILOX_ROUNDS - 1) {
                w[0][g] = p1;
                w[2][g] = p0;
                continue;
            }
            w[0][g] = high_halves(&p1) ^ w[1][g] ^ s->k0[r];
            w[1][g] = p1;
            w[2][g] = high_halves(&p0) ^ w[3][g] ^ s->k1[r];
            w[3][g] = p0;
        }
    }
}

/* Words 0 and 2 in the low halves of their lanes. Words 1 and 3 are there already. */
INLINE u64v philox_word_0(const philox_stream *s, u64v w[4][GROUPS], int g) {
    return (w[0][g] >> 32) ^ w[1][g] ^ s->k0[PHILOX_ROUNDS - 1];
}
INLINE u64v philox_word_2(const philox_stream *s, u64v w[4][GROUPS], int g) {
    return (w[2][g] >> 32) ^ w[3][g] ^ s->k1[PHILOX_ROUNDS - 1];
}

/* Words 0 and 2 side by side in memory order; words 1 and 3 likewise. */
INLINE u32v philox_words_0_2(const philox_stream *s, u64v w[4][GROUPS], int g) {
    return merge_high_halves(w[0][g], w[2][g]) ^ merge_low_halves(w[1][g], w[3][g]) ^ (u32v)u64_all(s->last_k0_k1);
}
INLINE u32v philox_words_1_3(u64v w[4][GROUPS], int g) { return merge_low_halves(w[0][g], w[2][g]); }

/* Words 0 and 1 as the low and high half of a 64-bit value; words 2 and 3 likewise. */
INLINE u64v philox_draw_0(const philox_stream *s, u64v w[4][GROUPS], int g) {
    return mix_low_halves(swap_halves(w[0][g]), w[1][g], s->k0[PHILOX_ROUNDS - 1]);
}
INLINE u64v philox_draw_1(const philox_stream *s, u64v w[4][GROUPS], int g) {
    return mix_low_halves(swap_halves(w[2][g]), w[3][g], s->k1[PHILOX_ROUNDS - 1]);
}

#endif
