/* The compiled targets, the tests for processor support, and the floating-point environment around a fill. */
#include "fastinit.h"
#include "orthogonal.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

static int always(void) { return 1; }

#ifdef FASTINIT_HAS_X86
/* __builtin_cpu_supports checks cpuid and, for wide registers, whether the operating system saves them (xgetbv). */
static int supports_v4(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2")
           && __builtin_cpu_supports("bmi2");
}
/* The same instructions, arranged for Intel's execution ports; on other processors x86_v4 is faster. */
static int supports_v4_intel(void) { return supports_v4() && __builtin_cpu_is("intel"); }
/* float16 conversion has its own cpuid bit, which not every compiler knows by name. */
static int supports_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
static int supports_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && supports_f16c();
}
static int supports_v2(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
extern fastinit_fill_function fastinit_fill_x86_v4_intel, fastinit_fill_x86_v4, fastinit_fill_x86_v3,
    fastinit_fill_baseline;
#endif
#ifdef FASTINIT_HAS_NEON
extern fastinit_fill_function fastinit_fill_neon;
#endif
extern fastinit_fill_function fastinit_fill_generic;

const fastinit_target fastinit_targets[] = {
#ifdef FASTINIT_HAS_X86
    {"x86_v4_intel", supports_v4_intel, fastinit_fill_x86_v4_intel, &fastinit_orthogonal_x86_v4},
    {"x86_v4", supports_v4, fastinit_fill_x86_v4, &fastinit_orthogonal_x86_v4},
    {"x86_v3", supports_v3, fastinit_fill_x86_v3, &fastinit_orthogonal_x86_v3},
    {"baseline", supports_v2, fastinit_fill_baseline, &fastinit_orthogonal_baseline},
#endif
#ifdef FASTINIT_HAS_NEON
    {"neon", always, fastinit_fill_neon, &fastinit_orthogonal_neon},
#endif
    {"generic", always, fastinit_fill_generic, &fastinit_orthogonal_generic},
};
const int fastinit_target_count = sizeof fastinit_targets / sizeof *fastinit_targets;

#if defined(__SSE__)
/* The x87 unit converts long double, and fesetround() changes it too. Usual: round to nearest, all 64 bits, no
 * traps. */
enum { X87_USUAL = 0x37f };
static uint16_t x87_control(void) {
    uint16_t control;
    __asm__ volatile("fnstcw %0" : "=m"(control));
    return control;
}
static void set_x87_control(uint16_t control) { __asm__ volatile("fldcw %0" : : "m"(control)); }
#endif

uint64_t fastinit_enter_environment(void) {
#if defined(__SSE__)
    const uint16_t x87 = x87_control();
    uint64_t saved = _mm_getcsr() | (uint64_t)x87 << 32;
    _mm_setcsr(0x1f80);
    if (x87 != X87_USUAL) set_x87_control(X87_USUAL);
#elif defined(__aarch64__)
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#else
    uint64_t saved = 0;
#endif
    return saved;
}

void fastinit_leave_environment(uint64_t saved) {
#if defined(__SSE__)
    _mm_setcsr((unsigned)saved);
    if ((uint16_t)(saved >> 32) != X87_USUAL) set_x87_control((uint16_t)(saved >> 32));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

void fastinit_fill(int target, const fastinit_sampling *sampling, const uint32_t key[4], const fastinit_region *region,
                   uint64_t position, uint64_t count) {
    const uint64_t saved = fastinit_enter_environment();
    fastinit_targets[target].fill(sampling, key, region, position, count);
    fastinit_leave_environment(saved);
}

void fastinit_reflectors(int target, int dtype, const void *normals, int64_t m, int64_t n, int64_t piece, void *factors,
                         void *scratch) {
    const uint64_t saved = fastinit_enter_environment();
    if (dtype == FASTINIT_FLOAT64)
        fastinit_targets[target].orthogonal->reflectors_float64(normals, m, n, piece, factors, scratch);
    else
        fastinit_targets[target].orthogonal->reflectors_float32(normals, m, n, piece, factors, scratch);
    fastinit_leave_environment(saved);
}

void fastinit_columns(int target, int dtype, const void *factors, int64_t m, int64_t n, int64_t piece, double gain,
                      void *scratch, void *out, int64_t row_stride, int64_t column_stride) {
    const uint64_t saved = fastinit_enter_environment();
    if (dtype == FASTINIT_FLOAT64)
        fastinit_targets[target].orthogonal->columns_float64(factors, m, n, piece, gain, scratch, out, row_stride,
                                                             column_stride);
    else
        fastinit_targets[target].orthogonal->columns_float32(factors, m, n, piece, (float)gain, scratch, out,
                                                             row_stride, column_stride);
    fastinit_leave_environment(saved);
}
