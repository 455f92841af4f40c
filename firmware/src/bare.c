#include "hwtrain/bare.h"

uint32_t hwt_painted(const uint8_t *from, const uint8_t *end) {
    const uint8_t *byte = from;
    while (byte < end && *byte == HWT_PAINT)
        byte++;
    return (uint32_t)(byte - from);
}

#if !__STDC_HOSTED__

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memset(void *to, int value, size_t count);

void *memcpy(void *restrict to, const void *restrict from, size_t count) {
    unsigned char *out = to;
    const unsigned char *in = from;
    while (count--)
        *out++ = *in++;
    return to;
}

void *memset(void *to, int value, size_t count) {
    unsigned char *out = to;
    while (count--)
        *out++ = (unsigned char)value;
    return to;
}

/* Addresses, since pointers into what C takes for different objects may not be subtracted. */
static size_t between(const void *from, const void *end) {
    return (uintptr_t)end - (uintptr_t)from;
}

void hwt_start_memory(void) {
    const uint8_t *frame = __builtin_frame_address(0);
    memcpy(_data, _data_load, between(_data, _data_end));
    memset(_bss, 0, between(_bss, _bss_end));
    memset(_bss_end, HWT_PAINT, between(_bss_end, frame) - 64u); /* but not on this frame, nor on that of memset */
}

uint32_t hwt_stack_free(void *context) {
    (void)context;
    return hwt_painted(_bss_end, _stack);
}

#endif
