/* Rounds an array of float32 to a narrower dtype, for tensors that are computed whole before storing. */
#include "narrow.h"

void fastinit_narrow(const float *values, size_t count, int32_t dtype, char *out) {
    enum { PAIR = 2 * 2 * LANES };
    const size_t itemsize = size_of(dtype);
    const uint64_t saved = fastinit_enter_environment(); /* rounding of subnormals uses an addition */
    for (size_t done = 0; done < count; done += PAIR) {
        const size_t piece = count - done < PAIR ? count - done : PAIR;
        char narrow[2 * sizeof(f32v)];
        f32v x[2] = {0};
        memcpy(x, values + done, piece * sizeof *values);
        store_f32(narrow, dtype, x, 2);
        memcpy(out + done * itemsize, narrow, piece * itemsize);
    }
    fastinit_leave_environment(saved);
}
