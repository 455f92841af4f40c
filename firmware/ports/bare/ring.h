/* Received bytes between an interrupt and the main loop. One writer, one reader, indices of one byte or word: no lock. */
#ifndef HWTRAIN_RING_H
#define HWTRAIN_RING_H

#include <stdint.h>

#ifndef RING_SIZE
#define RING_SIZE 1024u /* a power of two; one byte stays free */
#endif
#if RING_SIZE <= 256
typedef uint8_t ring_index_t;
#else
typedef uint16_t ring_index_t;
#endif

typedef struct ring {
    volatile ring_index_t in, out;
    volatile uint16_t lost; /* bytes that found no room */
    volatile uint8_t bytes[RING_SIZE];
} ring_t;

static inline void ring_put(ring_t *ring, uint8_t byte) {
    ring_index_t next = (ring_index_t)((ring->in + 1u) & (RING_SIZE - 1u));
    if (next == ring->out) {
        ring->lost++;
        return;
    }
    ring->bytes[ring->in] = byte;
    ring->in = next;
}

static inline int ring_get(ring_t *ring) {
    if (ring->out == ring->in)
        return -1;
    int byte = ring->bytes[ring->out];
    ring->out = (ring_index_t)((ring->out + 1u) & (RING_SIZE - 1u));
    return byte;
}

#endif
