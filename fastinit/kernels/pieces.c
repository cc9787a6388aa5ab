/* One fill by any number of threads: each takes the next piece until none is left. */
#include "fastinit.h"

#if defined(_WIN32)
__declspec(dllimport) int __stdcall SwitchToThread(void);
#define sched_yield SwitchToThread
#else
#include <sched.h>
#endif

/* Pieces become smaller towards the end, so that all threads finish together. Each is a multiple of STRETCH, which is a
 * whole number of batches on every target, so pieces need no small batches at their ends. */
enum { STRETCH = 1536, LEAST = 8 * STRETCH };

static uint64_t next_piece(const fastinit_pieces *pieces, uint64_t left) {
    uint64_t piece = left / (4 * pieces->threads);
    if (piece > pieces->largest) piece = pieces->largest;
    if (piece < LEAST) piece = LEAST;
    piece -= piece % STRETCH;
    return piece < left ? piece : left;
}

void fastinit_begin_pieces(fastinit_pieces *pieces, uint64_t size, uint64_t threads, uint64_t largest) {
    pieces->size = size;
    pieces->threads = threads;
    pieces->largest = largest;
    atomic_init(&pieces->taken, 0);
    atomic_init(&pieces->at_work, 0);
}

int fastinit_fill_pieces(fastinit_pieces *pieces, int target, const fastinit_sampling *sampling, const uint32_t key[4],
                         const fastinit_region *region) {
    int more = 1;
    uint64_t filled = 0;
    atomic_fetch_add(&pieces->at_work, 1); /* before taking a piece, so that end_pieces() sees this thread */
    while (filled < pieces->largest) {
        uint64_t position = atomic_load(&pieces->taken), piece;
        do {
            piece = next_piece(pieces, pieces->size - position);
            more = piece > 0;
        } while (more && !atomic_compare_exchange_weak(&pieces->taken, &position, position + piece));
        if (!more) break;
        fastinit_fill(target, sampling, key, region, position, piece);
        filled += piece;
    }
    atomic_fetch_sub(&pieces->at_work, 1);
    return more;
}

void fastinit_end_pieces(fastinit_pieces *pieces) {
    atomic_store(&pieces->taken, pieces->size);
    /* Spin, since sleeping would take longer; then yield, in case a working thread needs this processor. */
    for (int turn = 0; atomic_load(&pieces->at_work) > 0; turn++)
        if (turn >= 100) sched_yield();
}
