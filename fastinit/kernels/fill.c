/* fill(): the loop over runs, batches and blocks. Compiled once per target. */
#include "fastinit.h"
#include "narrow.h"
#include "philox.h"
#include "scatter.h"
#include "transforms.h"
#include "transforms64.h"

/* Groups per small batch, for the rest of a run. */
enum { FEW_GROUPS = 2 };

/* Batches whose words are drawn before the first one is transformed: few enough for the first-level cache, many
 * enough to make the transitions between the two loops, which the processor cannot overlap, rare. */
enum { BATCHES = 8 };

_Static_assert((int)GROUPS == (int)N, "a transform of pairs takes one batch");

/* Parameters of all batches of a run, in the precision of the arithmetic. */
typedef struct {
    philox_stream stream;
    const fastinit_sampling *sampling;
    float scale, shift, low, high;
    int32_t dtype; /* of the current stores: the sampling's dtype, or its streamed variant */
    int streamable;
} fill_job;

INLINE void finish_f32(const fill_job *job, char *out, f32v *z, const int n) {
    const fastinit_sampling *sampling = job->sampling;
    SIDE_BY_SIDE(j, n) z[j] = z[j] * job->scale;
    if (job->shift != 0)
        SIDE_BY_SIDE(j, n) z[j] = z[j] + job->shift;
    if (sampling->clamped)
        SIDE_BY_SIDE(j, n) z[j] = f32_clamp(z[j], f32_all(job->low), f32_all(job->high));
    store_f32(out, job->dtype, z, n);
}

INLINE void finish_f64(const fill_job *job, char *out, f64v *z, const int n) {
    const fastinit_sampling *sampling = job->sampling;
    SIDE_BY_SIDE(j, 2 * n) z[j] = z[j] * sampling->scale;
    if (sampling->shift != 0)
        SIDE_BY_SIDE(j, 2 * n) z[j] = z[j] + sampling->shift;
    if (sampling->clamped)
        SIDE_BY_SIDE(j, 2 * n) z[j] = f64_clamp(z[j], f64_all(sampling->low), f64_all(sampling->high));
    store_f64(out, job->dtype, z, n);
}

/* The words of one batch in the order required by the transform of a 32-bit kind, two vectors per group. Normals:
 * first the words of all radii, then those of all angles. Windows: the selected cells. Others: all words in natural
 * order. */
INLINE void draw32(const fill_job *job, const int kind, uint32_t block, u32v *word, const int groups) {
    u64v w[4][GROUPS];
    philox_blocks(&job->stream, block, groups, w);
    SIDE_BY_SIDE(g, groups) {
        u64v a, b;
        if (kind == FASTINIT_NORMAL) {
            word[g] = philox_words_0_2(&job->stream, w, g);
            word[groups + g] = philox_words_1_3(w, g);
            continue;
        }
        if (kind == FASTINIT_TRUNCATED) { /* cells of the window: first + high half of word * count */
            const u64v count = u64_all(job->sampling->count);
            const uint32_t first = (uint32_t)job->sampling->first;
            const u64v w0 = philox_word_0(&job->stream, w, g), w2 = philox_word_2(&job->stream, w, g);
            a = (u64v)(merge_high_halves(mul_even32(w0, count), mul_even32(w[0][g], count)) + first);
            b = (u64v)(merge_high_halves(mul_even32(w2, count), mul_even32(w[2][g], count)) + first);
        } else {
            a = in_memory_order(philox_draw_0(&job->stream, w, g));
            b = in_memory_order(philox_draw_1(&job->stream, w, g));
        }
        /* natural order: blocks 0 .. LANES/2 - 1 of the group come first */
        word[2 * g] = (u32v)unpack_even64(a, b);
        word[2 * g + 1] = (u32v)unpack_odd64(a, b);
    }
}

/* Writes `batches` batches of 4 * groups * LANES elements of a 32-bit kind, from `block` on. It draws all words
 * first, then computes all values: each loop is short enough to fit the registers and to let the processor overlap
 * iterations. */
INLINE void batches32(const fill_job *job, const int kind, uint32_t block, const int batches, char *out,
                      const size_t itemsize, const int groups) {
    const int per_batch = 2 * groups, most = kind == FASTINIT_TRUNCATED_2 || kind == FASTINIT_TRUNCATED ? N : 2 * N;
    const int vectors = batches * per_batch, n = per_batch < most ? per_batch : most;
    u32v word[BATCHES * 2 * GROUPS];
    truncated_2_roots roots;
    for (int b = 0; b < batches; b++) draw32(job, kind, block + b * groups * LANES, word + b * per_batch, groups);
    if (kind == FASTINIT_TRUNCATED_2)
        SIDE_BY_SIDE(j, n) truncated_2_root(&roots, word, j);
    for (int g = 0; g < vectors; g += n) {
        char *const place = out + g * 2 * LANES * itemsize;
        f32v z[2 * N];
        if (kind == FASTINIT_WORDS) {
            SIDE_BY_SIDE(j, n) memcpy(place + j * sizeof *word, &word[g + j], sizeof *word);
            continue;
        }
        if (kind == FASTINIT_UNIFORM_SYMMETRIC)
            SIDE_BY_SIDE(j, n) z[j] = uniform_symmetric(word[g + j]);
        if (kind == FASTINIT_UNIFORM)
            SIDE_BY_SIDE(j, n) z[j] = uniform_unit(word[g + j]);
        if (kind == FASTINIT_NORMAL) {
            f32v z0[N], z1[N];
            normal_pairs(word + g, word + g + n / 2, z0, z1, n / 2);
            SIDE_BY_SIDE(j, n / 2) {
                z[2 * j] = unpack_lower32(z0[j], z1[j]);
                z[2 * j + 1] = unpack_upper32(z0[j], z1[j]);
            }
        }
        if (kind == FASTINIT_TRUNCATED_2) truncated_2(&roots, g + n < vectors ? word + g + n : word, z, n);
        if (kind == FASTINIT_TRUNCATED) truncated(word + g, z, n);
        finish_f32(job, place, z, n);
    }
}

/* The draws of one batch for a 64-bit kind: from the first halves (a) and the second halves (b) of its blocks. */
INLINE void draw64(const fill_job *job, uint32_t block, u64v *a, u64v *b, const int groups) {
    u64v w[4][GROUPS];
    philox_blocks(&job->stream, block, groups, w);
    SIDE_BY_SIDE(g, groups) {
        a[g] = philox_draw_0(&job->stream, w, g);
        b[g] = philox_draw_1(&job->stream, w, g);
    }
}

/* Writes `batches` batches of 2 * groups * LANES elements of a 64-bit kind, like batches32. */
INLINE void batches64(const fill_job *job, const int kind, uint32_t block, const int batches, char *out,
                      const size_t itemsize, const int groups) {
    const fastinit_sampling *sampling = job->sampling;
    u64v draws[2][BATCHES * GROUPS];
    for (int g = 0; g < batches * groups; g += groups)
        draw64(job, block + g * LANES, draws[0] + g, draws[1] + g, groups);
    for (int g = 0; g < batches * groups; g += groups) {
        const u64v *a = draws[0] + g, *b = draws[1] + g;
        f64v z0[N], z1[N], z[2 * N];
        if (kind == FASTINIT_NORMAL_64) {
            normal_pairs64(a, b, z0, z1, groups);
        } else if (kind == FASTINIT_UNIFORM_SYMMETRIC_64) {
            SIDE_BY_SIDE(j, groups) z0[j] = uniform_symmetric64(a[j]), z1[j] = uniform_symmetric64(b[j]);
        } else if (kind == FASTINIT_UNIFORM_64) {
            SIDE_BY_SIDE(j, groups) z0[j] = uniform_unit64(a[j]), z1[j] = uniform_unit64(b[j]);
        } else if (kind == FASTINIT_TRUNCATED_64) {
            truncated64(a, z0, sampling->first, sampling->count, groups);
            truncated64(b, z1, sampling->first, sampling->count, groups);
        } else {
            truncated_tail64(a, z0, sampling->tail_low, sampling->tail_share, groups);
            truncated_tail64(b, z1, sampling->tail_low, sampling->tail_share, groups);
        }
        SIDE_BY_SIDE(j, groups) {
            z[2 * j] = (f64v)unpack_even64((u64v)z0[j], (u64v)z1[j]);
            z[2 * j + 1] = (f64v)unpack_odd64((u64v)z0[j], (u64v)z1[j]);
        }
        finish_f64(job, out + 2 * g * LANES * itemsize, z, groups);
    }
}

/* Writes elements [index, index + count) of the global tensor to contiguous memory. */
INLINE void fill_run(fill_job *job, const int kind, uint64_t index, uint64_t count, char *out) {
    const int wide = kind >= FASTINIT_UNIFORM_SYMMETRIC_64;
    /* a uniform's transform is too short for a separate loop */
    const int at_once = kind == FASTINIT_WORDS || kind == FASTINIT_UNIFORM_SYMMETRIC || kind == FASTINIT_UNIFORM
                        || kind == FASTINIT_UNIFORM_SYMMETRIC_64 || kind == FASTINIT_UNIFORM_64;
    const uint64_t per_block = wide ? 2 : 4;
    const uint64_t many = GROUPS * LANES * per_block, few = FEW_GROUPS * LANES * per_block;
    const size_t itemsize = size_of(job->sampling->dtype);
    const int32_t streamed = job->streamable && itemsize >= 4 ? job->sampling->dtype + STREAMED : job->sampling->dtype;
    /* With streaming stores: never mix streaming and ordinary stores within one cache line, which would transfer it
     * twice. */
    const int past_caches = streamed != job->sampling->dtype;
    _Alignas(64) char scratch[FEW_GROUPS * LANES * 4 * 4];
#define FILL(batches, groups)                                                       \
    (wide ? batches64(job, kind, (uint32_t)block, batches, place, itemsize, groups) \
          : batches32(job, kind, (uint32_t)block, batches, place, itemsize, groups))

    while (count > 0) {
        uint64_t block = index / per_block, skipped = index % per_block;
        /* stop where the low half of the block number wraps */
        uint64_t left = (0x100000000 - (uint32_t)block) * per_block - skipped;
        if (left > count) left = count;
        index += left;
        count -= left;
        if (job->stream.c1 != block >> 32) philox_set_high(&job->stream, (uint32_t)(block >> 32));
        if (past_caches) /* prefetch the last lines, or streamed stores after them would wait for a miss */
            for (uint64_t byte = 1; byte <= few * itemsize && byte <= left * itemsize; byte += 64)
                __builtin_prefetch(out + left * itemsize - byte, 1);
        uint64_t written = 0;
        int lined = left < 4 * many; /* whether aligned to a cache line, or too short to align */
        while (left > 0) {
            const uint64_t to_line = -(uintptr_t)out & 63;
            uint64_t step, back = 0;
            char *place = out;
            if (skipped == 0 && left >= many && (lined || to_line == 0)) {
                const int batches = at_once ? 1 : left < BATCHES * many ? (int)(left / many) : BATCHES;
                step = batches * many;
                if (to_line == 0) job->dtype = streamed;
                FILL(batches, GROUPS);
                job->dtype = job->sampling->dtype;
            } else {
                if (skipped == 0 && left >= many) {
                    /* advance to the cache line, if a block boundary lies there; the next batch overwrites the
                     * surplus */
                    lined = 1;
                    step = to_line < few * itemsize && to_line % (per_block * itemsize) == 0 ? to_line / itemsize : few;
                    if (past_caches && step < few) place = scratch;
                } else {
                    step = few - skipped < left ? few - skipped : left;
                    /* at the end of a run, rewrite elements before it, so as not to write beyond it */
                    if (!past_caches && skipped == 0 && step % per_block == 0 && written >= few - step)
                        back = few - step;
                    place = skipped == 0 && back + step == few ? out - back * itemsize : scratch;
                }
                block -= back / per_block;
                FILL(1, FEW_GROUPS);
                if (place == scratch) memcpy(out, scratch + skipped * itemsize, step * itemsize);
            }
            block += (skipped + back + step) / per_block; /* only the last step may end inside a block */
            skipped = 0;
            written += step;
            out += step * itemsize;
            left -= step;
        }
    }
#undef FILL
}

/* fill_run() compiled for one kind. */
typedef void sampler(fill_job *, uint64_t index, uint64_t count, char *out);
#define SAMPLER(name, kind)                                                                                \
    static __attribute__((noinline)) void name(fill_job *job, uint64_t index, uint64_t count, char *out) { \
        fill_run(job, kind, index, count, out);                                                            \
    }
SAMPLER(sample_words, FASTINIT_WORDS)
SAMPLER(sample_uniform_symmetric, FASTINIT_UNIFORM_SYMMETRIC)
SAMPLER(sample_uniform, FASTINIT_UNIFORM)
SAMPLER(sample_normal, FASTINIT_NORMAL)
SAMPLER(sample_truncated_2, FASTINIT_TRUNCATED_2)
SAMPLER(sample_truncated, FASTINIT_TRUNCATED)
SAMPLER(sample_uniform_symmetric_64, FASTINIT_UNIFORM_SYMMETRIC_64)
SAMPLER(sample_uniform_64, FASTINIT_UNIFORM_64)
SAMPLER(sample_normal_64, FASTINIT_NORMAL_64)
SAMPLER(sample_truncated_64, FASTINIT_TRUNCATED_64)
SAMPLER(sample_truncated_tail_64, FASTINIT_TRUNCATED_TAIL_64)

static void sample_constant(fill_job *job, uint64_t index, uint64_t count, char *out) {
    const uint64_t bits = job->sampling->bits;
    (void)index;
    switch (size_of(job->sampling->dtype)) {
    case 8:
        for (uint64_t j = 0; j < count; j++) memcpy(out + 8 * j, &bits, 8);
        break;
    case 4: {
        const uint32_t x = (uint32_t)bits;
        for (uint64_t j = 0; j < count; j++) memcpy(out + 4 * j, &x, 4);
        break;
    }
    case 2: {
        const uint16_t x = (uint16_t)bits;
        for (uint64_t j = 0; j < count; j++) memcpy(out + 2 * j, &x, 2);
        break;
    }
    default: memset(out, (int)(bits & 0xff), count);
    }
}

static sampler *const samplers[] = {
    [FASTINIT_CONSTANT] = sample_constant,
    [FASTINIT_WORDS] = sample_words,
    [FASTINIT_UNIFORM_SYMMETRIC] = sample_uniform_symmetric,
    [FASTINIT_UNIFORM] = sample_uniform,
    [FASTINIT_NORMAL] = sample_normal,
    [FASTINIT_TRUNCATED_2] = sample_truncated_2,
    [FASTINIT_TRUNCATED] = sample_truncated,
    [FASTINIT_UNIFORM_SYMMETRIC_64] = sample_uniform_symmetric_64,
    [FASTINIT_UNIFORM_64] = sample_uniform_64,
    [FASTINIT_NORMAL_64] = sample_normal_64,
    [FASTINIT_TRUNCATED_64] = sample_truncated_64,
    [FASTINIT_TRUNCATED_TAIL_64] = sample_truncated_tail_64,
};

/* Writes strided runs of `length` elements through a scratch: the run at `out`, and following runs (up to `count`
 * elements in total) that scatter.h can write together with it. Returns the number of runs. */
static uint64_t strided_runs(sampler *sample, fill_job *job, const fastinit_region *region, const int64_t *at,
                             uint64_t index, uint64_t length, uint64_t count, char *out) {
    char scratch[SCRATCH];
    const size_t itemsize = size_of(job->sampling->dtype);
    const int64_t last = region->axes - 1, stride = region->byte_stride[last];
    if (last > 0 && length == (uint64_t)region->extent[last]) {
        const int64_t row_stride = region->byte_stride[last - 1], step = region->index_stride[last - 1];
        const uint64_t on_axis = (uint64_t)(region->extent[last - 1] - at[last - 1]), whole = count / length;
        const uint64_t rows =
            rows_at_once(out, row_stride, stride, on_axis < whole ? on_axis : whole, length, itemsize);
        if (rows > 1) {
            if (step == (int64_t)length) /* consecutive in the tensor */
                sample(job, index, rows * length, scratch);
            else
                for (uint64_t row = 0; row < rows; row++)
                    sample(job, index + row * (uint64_t)step, length, scratch + row * length * itemsize);
            scatter(out, row_stride, stride, scratch, rows, length, itemsize);
            return rows;
        }
    }
    while (length > 0) {
        const uint64_t piece = length < SCRATCH / itemsize ? length : SCRATCH / itemsize;
        sample(job, index, piece, scratch);
        scatter(out, stride, 0, scratch, piece, 1, itemsize); /* as one column */
        index += piece;
        length -= piece;
        out += (int64_t)piece * stride;
    }
    return 1;
}

#define NAME_(target) fastinit_fill_##target
#define NAME(target) NAME_(target)

void NAME(FASTINIT_TARGET)(const fastinit_sampling *sampling, const uint32_t key[4], const fastinit_region *region,
                           uint64_t position, uint64_t count) {
    if (count == 0) return; /* an axis may be empty */
    fill_job job = {.sampling = sampling,
                    .scale = (float)sampling->scale,
                    .shift = (float)sampling->shift,
                    .low = (float)sampling->low,
                    .high = (float)sampling->high,
                    .dtype = sampling->dtype};
    philox_open(&job.stream, key);
    philox_set_high(&job.stream, 0);
    sampler *const sample = samplers[sampling->kind];
    const size_t itemsize = size_of(sampling->dtype);
    const int64_t last = region->axes - 1;
    const int consecutive = region->byte_stride[last] == (int64_t)itemsize;
    job.streamable = region->streamed && consecutive; /* strided runs go through a scratch */

    /* the coordinates of position, and its index and address */
    int64_t at[FASTINIT_MAX_AXES];
    uint64_t index = region->start, rest = position;
    char *out = region->base;
    for (int64_t axis = last; axis >= 0; axis--) {
        at[axis] = (int64_t)(rest % (uint64_t)region->extent[axis]);
        rest /= (uint64_t)region->extent[axis];
        index += (uint64_t)(at[axis] * region->index_stride[axis]);
        out += at[axis] * region->byte_stride[axis];
    }
    while (count > 0) {
        uint64_t length = (uint64_t)(region->extent[last] - at[last]);
        uint64_t rows = 1;
        if (length > count) length = count;
        if (consecutive)
            sample(&job, index, length, out);
        else
            rows = strided_runs(sample, &job, region, at, index, length, count, out);
        count -= rows * length;
        /* advance to the start of the next run, with carries */
        index -= (uint64_t)(at[last] * region->index_stride[last]);
        out -= at[last] * region->byte_stride[last];
        at[last] = 0;
        if (rows > 1) { /* skip to the last written run */
            at[last - 1] += (int64_t)rows - 1;
            index += (rows - 1) * (uint64_t)region->index_stride[last - 1];
            out += ((int64_t)rows - 1) * region->byte_stride[last - 1];
        }
        for (int64_t axis = last - 1; axis >= 0; axis--) {
            index += (uint64_t)region->index_stride[axis];
            out += region->byte_stride[axis];
            if (++at[axis] < region->extent[axis]) break;
            index -= (uint64_t)(region->extent[axis] * region->index_stride[axis]);
            out -= region->extent[axis] * region->byte_stride[axis];
            at[axis] = 0;
        }
    }
    if (job.streamable) stream_fence();
}
