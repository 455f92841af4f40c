/* exp, log and tanh from + - * / and conversions only, so that every target gives the same bits. The coefficients are our own
 * least-maximum fits; tests/firmware/reference.py holds the same formulas in numpy. The square root is integer arithmetic. */
#include "hwtrain/network.h"

typedef union {
    float value;
    uint32_t bits;
} word_t;

#define LOG2E 1.44269504f
#define LN2_HIGH 0.69287109375f /* 11 bits, so that its product with an exponent is exact */
#define LN2_LOW 2.7608681e-4f

float hwt_exp(float x) {
    if (x < -87.0f)
        x = -87.0f;
    if (!(x < 87.0f)) /* NaN too */
        x = 87.0f;
    int16_t power = (int16_t)(x * LOG2E + (x < 0.0f ? -0.5f : 0.5f)); /* nearest, by truncation */
    float scaled = (float)power;
    float r = x - scaled * LN2_HIGH - scaled * LN2_LOW;
    float p = 1.39517e-3f;
    p = p * r + 8.3696e-3f;
    p = p * r + 4.166619e-2f;
    p = p * r + 1.6666513e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    word_t scale = {.bits = (uint32_t)(uint16_t)(power + 127) << 23};
    return p * scale.value;
}

float hwt_log(float x) {
    word_t mantissa = {.value = x};
    int16_t power = (int16_t)((int16_t)(mantissa.bits >> 23) - 126);
    mantissa.bits = (mantissa.bits & 0x007FFFFFu) | 0x3F000000u; /* in [1/2, 1) */
    if (mantissa.value < 0.70710678f) {
        mantissa.value += mantissa.value;
        power--;
    }
    float f = mantissa.value - 1.0f;
    float p = 6.746601e-2f;
    p = p * f + -1.1675641e-1f;
    p = p * f + 1.1888175e-1f;
    p = p * f + -1.2405591e-1f;
    p = p * f + 1.4219551e-1f;
    p = p * f + -1.6667996e-1f;
    p = p * f + 2.0002119e-1f;
    p = p * f + -2.500001e-1f;
    p = p * f + 3.3333313e-1f;
    float square = f * f;
    float scaled = (float)power;
    return scaled * LN2_HIGH + (f + (square * f * p - 0.5f * square + scaled * LN2_LOW));
}

float hwt_tanh(float x) {
    float magnitude = x < 0.0f ? -x : x;
    if (magnitude < 0.625f) {
        float z = x * x;
        float p = -5.71704e-3f;
        p = p * z + 2.065058e-2f;
        p = p * z + -5.37435e-2f;
        p = p * z + 1.3331491e-1f;
        p = p * z + -3.3333284e-1f;
        return x + x * z * p;
    }
    float y = 1.0f - 2.0f / (hwt_exp(magnitude + magnitude) + 1.0f);
    return x < 0.0f ? -y : y;
}

/* The root of the mantissa, bit by bit from the top: 24 bits and one to round by. A root that ended there would have a square
 * of 49 bits, which no float has, so half a unit is never left over. */
float hwt_sqrt(float x) {
    word_t word = {.value = x};
    uint32_t rest = word.bits & 0x007FFFFFu, exponent = word.bits >> 23, root = 0, tried = 0;
    if (exponent == 0)
        return 0.0f;
    if (exponent == 255) /* infinite, NaN */
        return x;
    rest = (rest | 0x00800000u) << (exponent & 1u ? 1 : 2); /* an even power of two is left */
    for (uint32_t bit = 0x01000000u; bit; bit >>= 1, rest <<= 1) {
        uint32_t next = tried + bit;
        if (next <= rest) {
            tried = next + bit;
            rest -= next;
            root += bit;
        }
    }
    word.bits = ((root + 1u) >> 1) + ((((exponent + 1u) >> 1) + 62u) << 23);
    return word.value;
}
