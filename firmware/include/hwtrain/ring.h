/* Optional, for ports: received bytes between an interrupt and the main loop.
 *
 * One writer (the interrupt), one reader (the main loop), and indices that are written in one instruction: no lock. Define
 * HWT_RING_SIZE before including this, and announce HWT_RING_SIZE - 1 as `ring` in the config. With a ring as its context, a
 * port has its `read` and its `overruns` here.
 */
#ifndef HWTRAIN_RING_H
#define HWTRAIN_RING_H

#include <stdint.h>

#ifndef HWT_RING_SIZE
#define HWT_RING_SIZE 1024u /* a power of two; one byte stays free */
#endif

#if HWT_RING_SIZE <= 256
typedef uint8_t hwt_ring_index_t; /* all that an 8-bit processor writes at once */
#else
typedef uint16_t hwt_ring_index_t;
#endif

/* Starts as zeros. */
typedef struct hwt_ring {
    volatile hwt_ring_index_t in, out;
    volatile uint16_t lost; /* bytes that found no room, modulo 2^16 */
    volatile uint8_t bytes[HWT_RING_SIZE];
} hwt_ring_t;

/* Keep a byte, or count it as lost. In the interrupt. */
static inline void hwt_ring_put(hwt_ring_t *ring, uint8_t byte) {
    hwt_ring_index_t next = (hwt_ring_index_t)((ring->in + 1u) & (HWT_RING_SIZE - 1u));
    if (next == ring->out) {
        ring->lost++;
        return;
    }
    ring->bytes[ring->in] = byte;
    ring->in = next;
}

/* Is there nothing to read? Ask with interrupts off where the answer decides on sleeping. */
static inline int hwt_ring_is_empty(const hwt_ring_t *ring) {
    return ring->in == ring->out;
}

/* hwt_port.read: the next byte, or -1. */
static inline int hwt_ring_read(void *context) {
    hwt_ring_t *ring = (hwt_ring_t *)context;
    if (hwt_ring_is_empty(ring))
        return -1;
    int byte = ring->bytes[ring->out];
    ring->out = (hwt_ring_index_t)((ring->out + 1u) & (HWT_RING_SIZE - 1u));
    return byte;
}

/* hwt_port.overruns: what found no room here, and what the interrupt added to `lost` because the receiver said so. */
static inline uint32_t hwt_ring_overruns(void *context) {
    return ((const hwt_ring_t *)context)->lost;
}

#endif
