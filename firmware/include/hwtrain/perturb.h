/* Perturbations as formulas.
 *
 * A perturbation is named, never sent: (kind, seed, tick) gives the sign of every parameter in 32-bit integer arithmetic,
 * bit for bit what hwtrain/perturb.py gives. One evaluation yields the signs of 32 parameters, so a pass over a network
 * pays a handful of integer operations per 32 of them and stores none.
 */
#ifndef HWTRAIN_PERTURB_H
#define HWTRAIN_PERTURB_H

#include <stdint.h>

enum hwt_kind {
    HWT_RADEMACHER = 0,      /* independent random signs */
    HWT_WALSH = 1,           /* rows of a Hadamard matrix, row 0 left out */
    HWT_WALSH_TWO_SIDED = 2, /* the same, all signs flipped in every second block */
    HWT_ANTITHETIC = 0x80    /* added to a kind: every pattern with both signs, in the order + - - + */
};

/* A code: the patterns of a whole run. */
typedef struct hwt_code {
    uint32_t seed;
    uint16_t hold;   /* ticks for which one pattern is held, at least 1 (tau_p) */
    uint8_t kind;    /* one of hwt_kind, HWT_ANTITHETIC added or not */
    float amplitude; /* every parameter moves by plus or minus this */
} hwt_code_t;

/* One pattern of a code: the signs of one tick. Filled by hwt_pattern_at, read by hwt_pattern_word. */
typedef struct hwt_pattern {
    uint32_t key;  /* stream of the hash, or column of the Hadamard matrix */
    uint32_t flip; /* all ones where every sign is reversed */
    uint8_t walsh;
} hwt_pattern_t;

/* The mixer of all draws: lowbias32 (Wellons 2018, public domain), a bijection of 32-bit integers. */
uint32_t hwt_mix32(uint32_t value);

/* The pattern of `tick` over `size` parameters. */
void hwt_pattern_at(hwt_pattern_t *pattern, const hwt_code_t *code, uint32_t tick, uint32_t size);

/* Signs of parameters 32 * index to 32 * index + 31, the first in the lowest bit; a set bit is a move down. */
uint32_t hwt_pattern_word(const hwt_pattern_t *pattern, uint32_t index);

#endif
