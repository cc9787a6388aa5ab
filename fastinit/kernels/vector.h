/* The vector types of one target, and the few primitives that differ between targets.
 *
 * All other kernel code is written once, in GCC/Clang vector extensions. The build defines exactly one of
 * FASTINIT_X86_V4_INTEL, FASTINIT_X86_V4, FASTINIT_X86_V3, FASTINIT_BASELINE, FASTINIT_NEON and FASTINIT_GENERIC.
 *
 * LANES is the number of 64-bit lanes per vector; a vector of 32-bit values has 2 * LANES. Every operation is lanewise
 * and correctly rounded, so results do not depend on the vector width.
 */
#ifndef FASTINIT_VECTOR_H
#define FASTINIT_VECTOR_H

#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "fastinit promises the same bytes everywhere: its kernels must be built without -ffast-math"
#endif

#if defined(FASTINIT_X86_V4_INTEL)
#define FASTINIT_X86_V4 /* the same except for high_halves() */
#endif
#if defined(FASTINIT_X86_V4)
#include <immintrin.h>
#define LANES 8
#elif defined(FASTINIT_X86_V3)
#include <immintrin.h>
#define LANES 4
#elif defined(FASTINIT_BASELINE)
#include <smmintrin.h>
#define LANES 2
#elif defined(FASTINIT_NEON)
#include <arm_neon.h>
#define LANES 2
#elif defined(FASTINIT_GENERIC)
#define LANES 2
#else
#error "define the target that this file is compiled for"
#endif

#define VECTOR(type, count) __attribute__((vector_size(sizeof(type) * (count)))) type
typedef VECTOR(uint64_t, LANES) u64v;
typedef VECTOR(int64_t, LANES) i64v;
typedef VECTOR(double, LANES) f64v;
typedef VECTOR(uint32_t, 2 * LANES) u32v;
typedef VECTOR(int32_t, 2 * LANES) i32v;
typedef VECTOR(float, 2 * LANES) f32v;
typedef VECTOR(uint16_t, 2 * LANES) u16v;
typedef VECTOR(uint8_t, 2 * LANES) u8v;

#define INLINE static inline __attribute__((always_inline))

/* An unrolled loop over a few independent iterations: each step is computed for all of them side by side, which hides
 * latency. */
#ifdef __clang__
#define SIDE_BY_SIDE(j, n) _Pragma("clang loop unroll(full)") for (int j = 0; j < (n); j++)
#else
#define SIDE_BY_SIDE(j, n) _Pragma("GCC unroll 16") for (int j = 0; j < (n); j++)
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(index_type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(index_type, a, b, ...) __builtin_shuffle(a, b, (index_type){__VA_ARGS__})
#endif

/* Number of vectors that a transform works on side by side: enough to hide the latency of a polynomial's steps. */
enum { N = 6 };

#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Evaluates p[j], the polynomial with these coefficients (index = degree) at x[j], for j < n, by Horner's rule. A
 * statement after the coefficients runs after each step and may use its number `step`. */
#define POLYNOMIAL(p, x, coefficients, ...)                                                        \
    do {                                                                                           \
        SIDE_BY_SIDE(j, n) p[j] = coefficients[LENGTH(coefficients) - 1] - (__typeof__(p[j])){0};  \
        _Pragma("GCC unroll 32") for (int step = 0; step < LENGTH(coefficients) - 1; step++) {     \
            SIDE_BY_SIDE(j, n) p[j] = p[j] * x[j] + coefficients[LENGTH(coefficients) - 2 - step]; \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

INLINE u64v u64_all(uint64_t x) { return (u64v){0} + x; }
INLINE u32v u32_all(uint32_t x) { return (u32v){0} + x; }
INLINE f32v f32_all(float x) { return x - (f32v){0}; } /* x - 0 keeps the sign of -0.0 */
INLINE f64v f64_all(double x) { return x - (f64v){0}; }

/* mask ? a : b, lane by lane, for masks whose lanes are all ones or all zeros. */
INLINE u32v u32_select(u32v mask, u32v a, u32v b) { return (a & mask) | (b & ~mask); }
INLINE f32v f32_select(u32v mask, f32v a, f32v b) { return (f32v)u32_select(mask, (u32v)a, (u32v)b); }
INLINE u64v u64_select(u64v mask, u64v a, u64v b) { return (a & mask) | (b & ~mask); }
INLINE f64v f64_select(u64v mask, f64v a, f64v b) { return (f64v)u64_select(mask, (u64v)a, (u64v)b); }

/* A mask of the lanes where the top bit is set. */
INLINE u32v u32_top_bit(u32v x) { return (u32v)((i32v)x >> 31); }
INLINE u64v u64_top_bit(u64v x) { return (u64v)((i64v)x >> 63); }

#if defined(FASTINIT_X86_V4)
/* A mask of the lanes where this bit is clear. */
INLINE __mmask16 u32_clear_bit(u32v x, const int bit) {
    return _mm512_testn_epi32_mask((__m512i)x, (__m512i)u32_all(1u << bit));
}
INLINE __mmask8 u64_clear_bit(u64v x, const int bit) {
    return _mm512_testn_epi64_mask((__m512i)x, (__m512i)u64_all(1ull << bit));
}
#endif

/* a where this bit of x is set, b elsewhere. */
INLINE f32v f32_select_by_bit(u32v x, const int bit, f32v a, f32v b) {
#if defined(FASTINIT_X86_V4)
    return (f32v)_mm512_mask_blend_ps(u32_clear_bit(x, bit), (__m512)a, (__m512)b);
#elif defined(FASTINIT_X86_V3)
    return (f32v)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)(x << (31 - bit)));
#elif defined(FASTINIT_BASELINE)
    return (f32v)_mm_blendv_ps((__m128)b, (__m128)a, (__m128)(x << (31 - bit)));
#else
    return f32_select(u32_top_bit(x << (31 - bit)), a, b);
#endif
}

/* Exchanges a and b where this bit of x is clear. With AVX2 exclusive ors are cheaper, since a selection takes three
 * operations. */
INLINE void f32_exchange_unless_bit(u32v x, const int bit, f32v *a, f32v *b) {
    const f32v first = *a, second = *b;
#if defined(FASTINIT_X86_V3)
    const u32v kept = ((u32v)first ^ (u32v)second) & u32_top_bit(x << (31 - bit));
    *a = (f32v)((u32v)second ^ kept);
    *b = (f32v)((u32v)first ^ kept);
#else
    *a = f32_select_by_bit(x, bit, first, second);
    *b = f32_select_by_bit(x, bit, second, first);
#endif
}

INLINE f64v f64_select_by_bit(u64v x, const int bit, f64v a, f64v b) {
#if defined(FASTINIT_X86_V4)
    return (f64v)_mm512_mask_blend_pd(u64_clear_bit(x, bit), (__m512d)a, (__m512d)b);
#else
    return f64_select(u64_top_bit(x << (63 - bit)), a, b);
#endif
}

/* 0 where this bit of x is set, a elsewhere. */
INLINE u32v u32_unless_bit(u32v x, const int bit, u32v a) {
#if defined(FASTINIT_X86_V4)
    return (u32v)_mm512_maskz_mov_epi32(u32_clear_bit(x, bit), (__m512i)a);
#else
    return a & ~u32_top_bit(x << (31 - bit));
#endif
}

/* a - b, or 0 where negative; a and b are below 2^16. Unused on AVX-512, where a mask does the same for free. */
INLINE u32v u32_above_0(const uint32_t a, u32v b) {
#if defined(FASTINIT_X86_V3)
    return (u32v)_mm256_subs_epu16((__m256i)u32_all(a), (__m256i)b);
#elif defined(FASTINIT_BASELINE)
    return (u32v)_mm_subs_epu16((__m128i)u32_all(a), (__m128i)b);
#elif defined(FASTINIT_NEON)
    return (u32v)vqsubq_u32((uint32x4_t)u32_all(a), (uint32x4_t)b);
#else
    return (a - b) & (u32v)(b <= a);
#endif
}

/* The 64-bit products of the low halves of the lanes; the high halves are ignored. */
INLINE u64v mul_even32(u64v a, u64v b) {
#if defined(FASTINIT_X86_V4)
    return (u64v)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(FASTINIT_X86_V3)
    return (u64v)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(FASTINIT_BASELINE)
    return (u64v)_mm_mul_epu32((__m128i)a, (__m128i)b);
#elif defined(FASTINIT_NEON)
    return (u64v)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

/* The high halves of the lanes, moved to the low halves. Intel's processors shift wide vectors on one of the two
 * ports that compute with them. A load that duplicates odd elements uses a third port, so going through memory
 * leaves both free. */
INLINE u64v high_halves(const u64v *x) {
#if defined(FASTINIT_X86_V4_INTEL)
    u64v result;
    __asm__("vmovshdup %1, %0" : "=v"(result) : "m"(*x));
    return result;
#else
    return *x >> 32;
#endif
}

INLINE f32v f32_sqrt(f32v x) {
#if defined(FASTINIT_X86_V4)
    return (f32v)_mm512_sqrt_ps((__m512)x);
#elif defined(FASTINIT_X86_V3)
    return (f32v)_mm256_sqrt_ps((__m256)x);
#elif defined(FASTINIT_BASELINE)
    return (f32v)_mm_sqrt_ps((__m128)x);
#elif defined(FASTINIT_NEON)
    return (f32v)vsqrtq_f32((float32x4_t)x);
#else
    for (int j = 0; j < 2 * LANES; j++) x[j] = __builtin_sqrtf(x[j]);
    return x;
#endif
}

INLINE f64v f64_sqrt(f64v x) {
#if defined(FASTINIT_X86_V4)
    return (f64v)_mm512_sqrt_pd((__m512d)x);
#elif defined(FASTINIT_X86_V3)
    return (f64v)_mm256_sqrt_pd((__m256d)x);
#elif defined(FASTINIT_BASELINE)
    return (f64v)_mm_sqrt_pd((__m128d)x);
#elif defined(FASTINIT_NEON)
    return (f64v)vsqrtq_f64((float64x2_t)x);
#else
    for (int j = 0; j < LANES; j++) x[j] = __builtin_sqrt(x[j]);
    return x;
#endif
}

/* A streaming store to memory aligned to the vector; an ordinary store if the target has no streaming stores. */
INLINE void stream(char *out, u64v x) {
#if defined(FASTINIT_X86_V4)
    _mm512_stream_si512((void *)out, (__m512i)x);
#elif defined(FASTINIT_X86_V3)
    _mm256_stream_si256((void *)out, (__m256i)x);
#elif defined(FASTINIT_BASELINE)
    _mm_stream_si128((void *)out, (__m128i)x);
#else
    memcpy(out, &x, sizeof x);
#endif
}

/* Orders streaming stores before later memory operations. */
INLINE void stream_fence(void) {
#if defined(FASTINIT_X86_V4) || defined(FASTINIT_X86_V3) || defined(FASTINIT_BASELINE)
    _mm_sfence();
#endif
}

/* x < low ? low : x, then x > high ? high : x; no lane may be NaN. The instructions return their second operand if
 * both are zero, so this operand order keeps the sign of x. */
INLINE f32v f32_clamp(f32v x, f32v low, f32v high) {
#if defined(FASTINIT_X86_V4)
    return (f32v)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
#elif defined(FASTINIT_X86_V3)
    return (f32v)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
#elif defined(FASTINIT_BASELINE)
    return (f32v)_mm_min_ps((__m128)high, _mm_max_ps((__m128)low, (__m128)x));
#else
    x = f32_select((u32v)(x < low), low, x);
    return f32_select((u32v)(x > high), high, x);
#endif
}

INLINE f32v f32_min(f32v x, f32v high) {
#if defined(FASTINIT_X86_V4)
    return (f32v)_mm512_min_ps((__m512)x, (__m512)high);
#elif defined(FASTINIT_X86_V3)
    return (f32v)_mm256_min_ps((__m256)x, (__m256)high);
#elif defined(FASTINIT_BASELINE)
    return (f32v)_mm_min_ps((__m128)x, (__m128)high);
#else
    return f32_select((u32v)(x > high), high, x);
#endif
}

INLINE f64v f64_clamp(f64v x, f64v low, f64v high) {
    x = f64_select((u64v)(x < low), low, x);
    return f64_select((u64v)(x > high), high, x);
}

/* int64 to double, rounded to nearest even. Without an instruction: the exact halves are joined by one rounding
 * addition. */
INLINE f64v f64_from_i64(i64v x) {
#if defined(FASTINIT_X86_V4) || defined(FASTINIT_NEON)
    return __builtin_convertvector(x, f64v);
#else
    f64v high = (f64v)((((u64v)x >> 32) ^ 0x80000000) | 0x4330000000000000) - 0x1.00000800p+52;
    f64v low = (f64v)(((u64v)x & 0xffffffff) | 0x4330000000000000) - 0x1p+52;
    return high * 0x1p+32 + low;
#endif
}

/* Joins the low halves of `low` and `high`: that of `low` becomes the low half, that of `high` the high half. */
INLINE u64v join_low_halves(u64v low, u64v high) {
#if defined(FASTINIT_X86_V4)
    return (u64v)_mm512_mask_shuffle_epi32((__m512i)low, 0xaaaa, (__m512i)high, 0xa0);
#elif defined(FASTINIT_X86_V3)
    return (u64v)_mm256_blend_epi32((__m256i)low, (__m256i)(high << 32), 0xaa);
#elif defined(FASTINIT_BASELINE)
    return (u64v)_mm_blend_epi16((__m128i)low, (__m128i)(high << 32), 0xcc);
#elif defined(FASTINIT_NEON)
    return (u64v)vtrn1q_u32((uint32x4_t)low, (uint32x4_t)high);
#else
    return (low & 0xffffffff) | (high << 32);
#endif
}

/* Joins the high halves likewise. */
INLINE u64v join_high_halves(u64v low, u64v high) {
#if defined(FASTINIT_X86_V4)
    return (u64v)_mm512_mask_shuffle_epi32((__m512i)high, 0x5555, (__m512i)low, 0xf5);
#elif defined(FASTINIT_X86_V3)
    return (u64v)_mm256_blend_epi32((__m256i)(low >> 32), (__m256i)high, 0xaa);
#elif defined(FASTINIT_BASELINE)
    return (u64v)_mm_blend_epi16((__m128i)(low >> 32), (__m128i)high, 0xcc);
#elif defined(FASTINIT_NEON)
    return (u64v)vtrn2q_u32((uint32x4_t)low, (uint32x4_t)high);
#else
    return (low >> 32) | (high & 0xffffffff00000000);
#endif
}

/* Exchanges the halves of every lane. */
INLINE u64v swap_halves(u64v x) {
#if LANES == 8
    return (u64v)SHUFFLE(u32v, (u32v)x, (u32v)x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif LANES == 4
    return (u64v)SHUFFLE(u32v, (u32v)x, (u32v)x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return (u64v)SHUFFLE(u32v, (u32v)x, (u32v)x, 1, 0, 3, 2);
#endif
}

/* x ^ a ^ b in the low halves of the lanes, x in the high halves; b is below 2^32. */
INLINE u64v mix_low_halves(u64v x, u64v a, uint64_t b) {
#if defined(FASTINIT_X86_V4)
    return (u64v)_mm512_mask_ternarylogic_epi32((__m512i)x, 0x5555, (__m512i)a, (__m512i)u64_all(b), 0x96);
#elif defined(FASTINIT_X86_V3)
    return x ^ (u64v)_mm256_blend_epi32((__m256i)a, _mm256_setzero_si256(), 0xaa) ^ b;
#elif defined(FASTINIT_BASELINE)
    return x ^ (u64v)_mm_blend_epi16((__m128i)a, _mm_setzero_si128(), 0xcc) ^ b;
#else
    return x ^ (a & 0xffffffff) ^ b;
#endif
}

/* The low (or high) halves of lanes a[j] and b[j] side by side in memory order: a[0] b[0] a[1] b[1] ... */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
INLINE u32v merge_low_halves(u64v a, u64v b) { return (u32v)join_low_halves(b, a); }
INLINE u32v merge_high_halves(u64v a, u64v b) { return (u32v)join_high_halves(b, a); }
INLINE u64v in_memory_order(u64v x) { return swap_halves(x); }
#else
INLINE u32v merge_low_halves(u64v a, u64v b) { return (u32v)join_low_halves(a, b); }
INLINE u32v merge_high_halves(u64v a, u64v b) { return (u32v)join_high_halves(a, b); }
INLINE u64v in_memory_order(u64v x) { return x; } /* the low half of two words comes first */
#endif

/* Lane j of the counters holds block LANE_BLOCK[j]. With this order the two unpacks below give blocks in natural
 * order. */
#if LANES == 8
#define LANE_BLOCK {0, 4, 1, 5, 2, 6, 3, 7}
#elif LANES == 4
#define LANE_BLOCK {0, 2, 1, 3}
#else
#define LANE_BLOCK {0, 1}
#endif

/* From every pair of 64-bit lanes (2j, 2j+1): the even lanes of a and b, or the odd ones. */
INLINE u64v unpack_even64(u64v a, u64v b) {
#if LANES == 8
    return SHUFFLE(u64v, a, b, 0, 8, 2, 10, 4, 12, 6, 14);
#elif LANES == 4
    return SHUFFLE(u64v, a, b, 0, 4, 2, 6);
#else
    return SHUFFLE(u64v, a, b, 0, 2);
#endif
}

INLINE u64v unpack_odd64(u64v a, u64v b) {
#if LANES == 8
    return SHUFFLE(u64v, a, b, 1, 9, 3, 11, 5, 13, 7, 15);
#elif LANES == 4
    return SHUFFLE(u64v, a, b, 1, 5, 3, 7);
#else
    return SHUFFLE(u64v, a, b, 1, 3);
#endif
}

/* From every four 32-bit lanes: the lower two of a and b interleaved (a0 b0 a1 b1), or the upper two (a2 b2 a3 b3). */
INLINE f32v unpack_lower32(f32v a, f32v b) {
#if LANES == 8
    return SHUFFLE(u32v, a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
#elif LANES == 4
    return SHUFFLE(u32v, a, b, 0, 8, 1, 9, 4, 12, 5, 13);
#else
    return SHUFFLE(u32v, a, b, 0, 4, 1, 5);
#endif
}

INLINE f32v unpack_upper32(f32v a, f32v b) {
#if LANES == 8
    return SHUFFLE(u32v, a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
#elif LANES == 4
    return SHUFFLE(u32v, a, b, 2, 10, 3, 11, 6, 14, 7, 15);
#else
    return SHUFFLE(u32v, a, b, 2, 6, 3, 7);
#endif
}

#endif
