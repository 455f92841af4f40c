#include "hwtrain/perturb.h"

#define GOLDEN 0x9E3779B9u /* 2^32 / golden ratio: spreads consecutive counters over the whole range */

uint32_t hwt_mix32(uint32_t value) {
    value ^= value >> 16;
    value *= 0x7FEB352Du;
    value ^= value >> 15;
    value *= 0x846CA68Bu;
    value ^= value >> 16;
    return value;
}

void hwt_pattern_at(hwt_pattern_t *pattern, const hwt_code_t *code, uint32_t tick, uint32_t size) {
    uint32_t step = tick / code->hold;
    uint8_t kind = code->kind & (uint8_t)~HWT_ANTITHETIC;
    pattern->flip = 0;
    if (code->kind & HWT_ANTITHETIC) {
        if (((step >> 1) + (step & 1u)) & 1u) /* (step + 1) / 2 is odd, without overflow */
            pattern->flip = UINT32_MAX;
        step >>= 1;
    }
    pattern->walsh = kind != HWT_RADEMACHER;
    if (!pattern->walsh) {
        pattern->key = hwt_mix32(hwt_mix32(code->seed) ^ step);
        return;
    }
    uint32_t order = 1; /* the next power of two above `size` */
    while (order <= size && order < 0x80000000u)
        order <<= 1;
    pattern->key = step & (order - 1u);
    if (kind == HWT_WALSH_TWO_SIDED && ((step / order) & 1u))
        pattern->flip = ~pattern->flip;
}

static uint32_t parity(uint32_t value) {
    value ^= value >> 16;
    value ^= value >> 8;
    value ^= value >> 4;
    return (0x6996u >> (value & 15u)) & 1u;
}

/* Bit r is the parity of (32 * index + r) & column: one parity for the word, and for each of the five bits of r the word of
 * those r that have it, 0xFFFF0000 for bit 4 down to 0xAAAAAAAA for bit 0. */
static uint32_t hadamard(uint32_t index, uint32_t column) {
    uint32_t word = parity((index << 5) & column) ? UINT32_MAX : 0, having = 0xFFFF0000u;
    for (uint8_t bit = 16; bit; bit >>= 1) {
        if (column & bit)
            word ^= having;
        having ^= having >> (bit >> 1);
    }
    return word;
}

uint32_t hwt_pattern_word(const hwt_pattern_t *pattern, uint32_t index) {
    if (!pattern->walsh)
        return hwt_mix32(pattern->key + index * GOLDEN) ^ pattern->flip;
    /* Parameter i follows row i + 1, so a word is one aligned word of rows moved down by one. */
    uint32_t here = hadamard(index, pattern->key) >> 1;
    uint32_t next = parity(((index + 1u) << 5) & pattern->key) << 31;
    return (here | next) ^ pattern->flip;
}
