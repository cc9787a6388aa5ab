/* Stores float32 and float64 values in a dtype, rounded once to nearest even.
 *
 * The caller guarantees that no value is NaN or exceeds the dtype's largest finite value.
 */
#ifndef FASTINIT_NARROW_H
#define FASTINIT_NARROW_H

#include "fastinit.h"
#include "vector.h"

/* Bytes per element. */
INLINE size_t size_of(int32_t dtype) {
    switch (dtype) {
    case FASTINIT_FLOAT64: return 8;
    case FASTINIT_FLOAT32:
    case FASTINIT_UINT32: return 4;
    case FASTINIT_FLOAT16:
    case FASTINIT_BFLOAT16: return 2;
    default: return 1;
    }
}

INLINE u32v bits_bfloat16(f32v x) {
    u32v bits = (u32v)x;
#if defined(FASTINIT_X86_V4)
    const __m512i half =
        _mm512_mask_blend_epi32(u32_clear_bit(bits, 16), (__m512i)u32_all(0x8000), (__m512i)u32_all(0x7fff));
    return (bits + (u32v)half) >> 16;
#else
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
}

/* Bits of an IEEE-like format with `width` bits, `fraction` of them after the point. Below its smallest normal
 * number, the addition of a float whose ulp is the format's smallest step does the rounding. */
INLINE u32v bits_small(f32v x, const int width, const int fraction) {
    const int bias = (1 << (width - fraction - 2)) - 1, shift = 23 - fraction;
    const uint32_t smallest_normal = (uint32_t)(128 - bias) << 23;
    const u32v magic = u32_all((uint32_t)(127 + 1 - bias - fraction + 23) << 23);
    u32v magnitude = (u32v)x & 0x7fffffff, sign = ((u32v)x & 0x80000000) >> (32 - width);
    u32v normal = ((magnitude + (((uint32_t)1 << (shift - 1)) - 1) + ((magnitude >> shift) & 1)) >> shift)
                  - ((uint32_t)(127 - bias) << fraction);
    u32v subnormal = (u32v)((f32v)magnitude + (f32v)magic) - magic;
    return u32_select((u32v)((i32v)magnitude < (i32v)u32_all(smallest_normal)), subnormal, normal) | sign;
}

INLINE void store_u16(char *out, u32v bits) {
    u16v halves = __builtin_convertvector(bits, u16v);
    memcpy(out, &halves, sizeof halves);
}

/* Stores two vectors of 16-bit numbers contiguously, with one store if the target can pack them. */
INLINE void store_u16_pair(char *out, u32v first, u32v second) {
#if defined(FASTINIT_X86_V4)
    const __m512i natural = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    __m512i packed = _mm512_packus_epi32((__m512i)first, (__m512i)second);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi64(natural, packed));
#elif defined(FASTINIT_X86_V3)
    __m256i packed = _mm256_packus_epi32((__m256i)first, (__m256i)second);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute4x64_epi64(packed, 0xd8));
#elif defined(FASTINIT_BASELINE)
    _mm_storeu_si128((__m128i *)out, _mm_packus_epi32((__m128i)first, (__m128i)second));
#elif defined(FASTINIT_NEON)
    uint16x8_t packed = vuzp1q_u16((uint16x8_t)first, (uint16x8_t)second);
    memcpy(out, &packed, sizeof packed);
#else
    store_u16(out, first);
    store_u16(out + 4 * LANES, second);
#endif
}

/* Stores a vector as float16, with the target's conversion instruction if it has one. */
INLINE void store_float16(char *out, f32v x) {
#if defined(FASTINIT_X86_V4)
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(FASTINIT_X86_V3)
    _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(FASTINIT_NEON)
    uint16x4_t bits = vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x));
    memcpy(out, &bits, sizeof bits);
#else
    store_u16(out, bits_small(x, 16, 10));
#endif
}

INLINE void store_u8(char *out, u32v bits) {
    u8v bytes = __builtin_convertvector(bits, u8v);
    memcpy(out, &bytes, sizeof bytes);
}

/* dtype + STREAMED selects streaming stores to aligned memory; only for dtypes without narrowing. */
enum { STREAMED = 16 };

/* Stores n vectors of float32 (n even) to contiguous elements of dtype. */
INLINE void store_f32(char *out, int32_t dtype, const f32v *x, const int n) {
    const int count = 2 * LANES;
    switch (dtype) {
    case FASTINIT_FLOAT32:
        SIDE_BY_SIDE(j, n) memcpy(out + j * count * 4, &x[j], sizeof x[j]);
        break;
    case FASTINIT_FLOAT32 + STREAMED:
        SIDE_BY_SIDE(j, n) stream(out + j * count * 4, (u64v)x[j]);
        break;
    case FASTINIT_BFLOAT16:
        SIDE_BY_SIDE(j, n / 2)
            store_u16_pair(out + j * count * 4, bits_bfloat16(x[2 * j]), bits_bfloat16(x[2 * j + 1]));
        break;
    case FASTINIT_FLOAT16:
        SIDE_BY_SIDE(j, n) store_float16(out + j * count * 2, x[j]);
        break;
    case FASTINIT_FLOAT8_E4M3FN:
        SIDE_BY_SIDE(j, n) store_u8(out + j * count, bits_small(x[j], 8, 3));
        break;
    case FASTINIT_FLOAT8_E5M2:
        SIDE_BY_SIDE(j, n) store_u8(out + j * count, bits_small(x[j], 8, 2));
        break;
    default: break;
    }
}

/* Stores 2n vectors of float64 to contiguous elements of dtype; to dtypes narrower than float32 by way of float32. */
INLINE void store_f64(char *out, int32_t dtype, const f64v *x, const int n) {
    if (dtype == FASTINIT_FLOAT64 + STREAMED) {
        SIDE_BY_SIDE(j, 2 * n) stream(out + j * LANES * 8, (u64v)x[j]);
        return;
    }
    if (dtype == FASTINIT_FLOAT64) {
        SIDE_BY_SIDE(j, 2 * n) memcpy(out + j * LANES * 8, &x[j], sizeof x[j]);
        return;
    }
    typedef VECTOR(float, LANES) f32half;
    union {
        f32half half[2];
        f32v whole;
    } pair;
    f32v single[N];
    SIDE_BY_SIDE(j, n) {
        pair.half[0] = __builtin_convertvector(x[2 * j], f32half);
        pair.half[1] = __builtin_convertvector(x[2 * j + 1], f32half);
        single[j] = pair.whole;
    }
    store_f32(out, dtype, single, n);
}

#endif
