#include "hwtrain/network.h"

#include <stddef.h>

#include "hwtrain/frame.h"

typedef union {
    float value;
    uint32_t bits;
} word_t;

/* Signs of consecutive parameters, 32 at a time. */
typedef struct signs {
    const hwt_pattern_t *pattern;
    uint32_t index; /* of the word after this one */
    uint32_t word;  /* signs not used up, the next one in the lowest bit */
    uint_fast8_t left; /* how many */
} signs_t;

static void signs_from(signs_t *signs, const hwt_pattern_t *pattern, uint32_t first) {
    signs->pattern = pattern;
    signs->index = (first >> 5) + 1u;
    signs->word = hwt_pattern_word(pattern, first >> 5) >> (first & 31u);
    signs->left = (uint_fast8_t)(32u - (first & 31u));
}

static inline uint32_t signs_next(signs_t *signs) {
    if (signs->left == 0) {
        signs->word = hwt_pattern_word(signs->pattern, signs->index++);
        signs->left = 32;
    }
    uint32_t bit = signs->word & 1u;
    signs->word >>= 1;
    signs->left--;
    return bit;
}

/* value where the sign is up, -value where the lowest bit of `word` says down: no branch, no multiplication. */
static inline float signed_by(word_t value, uint32_t word) {
    value.bits ^= word << 31;
    return value.value;
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

uint32_t hwt_size(const hwt_network_t *network) {
    uint32_t size = 0, inputs = network->inputs;
    for (uint8_t l = 0; l < network->count; l++) {
        size += (inputs + 1u) * network->layers[l].outputs;
        inputs = network->layers[l].outputs;
    }
    return size;
}

uint32_t hwt_nodes(const hwt_network_t *network) {
    uint32_t nodes = 0;
    for (uint8_t l = 0; l < network->count; l++)
        nodes += network->layers[l].outputs;
    return nodes;
}

uint16_t hwt_outputs(const hwt_network_t *network) {
    return network->layers[network->count - 1u].outputs;
}

static uint16_t widest(const hwt_network_t *network) {
    uint16_t most = 0;
    for (uint8_t l = 0; l < network->count; l++)
        if (network->layers[l].outputs > most)
            most = network->layers[l].outputs;
    return most;
}

uint32_t hwt_workspace_size(const hwt_network_t *network) {
    return (uint32_t)network->layers[0].outputs + widest(network) + hwt_nodes(network);
}

void hwt_workspace_init(hwt_workspace_t *work, const hwt_network_t *network, float *memory) {
    work->sums = memory;
    work->down = memory + network->layers[0].outputs;
    work->activity = work->down + widest(network);
    work->total = 0.0f;
}

/* ---- sums over one layer ------------------------------------------------------------------------------------------ */

/* Counts are at least 1 everywhere, so loops test at their end. */
static void zero(float *values, uint_fast16_t count) {
    do
        *values++ = 0.0f;
    while (--count);
}

/* sums[j] += x_i theta_ij. An x of zero adds nothing, bit for bit: no partial sum is ever -0. */
static void multiply(float *sums, const float *theta, const float *x, uint_fast16_t inputs, uint16_t outputs) {
    zero(sums, outputs);
    do {
        float input = *x++, *sum = sums;
        uint_fast16_t j = outputs;
        if (input == 0.0f) {
            theta += outputs;
            continue;
        }
        do
            *sum++ += input * *theta++;
        while (--j);
    } while (--inputs);
}

/* down[j] += x_i where the pattern moves theta_ij down; the layer's first parameter is number `first`. Returns the total. */
static float gather_down(float *down, const hwt_pattern_t *pattern, uint32_t first, const float *x,
                         uint_fast16_t inputs, uint16_t outputs) {
    signs_t signs;
    float total = 0.0f;
    signs_from(&signs, pattern, first);
    zero(down, outputs);
    do {
        float input = *x++, *sum = down;
        uint_fast16_t j = outputs;
        total += input;
        do {
            if (signs_next(&signs))
                *sum += input;
            sum++;
        } while (--j);
    } while (--inputs);
    return total;
}

/* ---- from sums to activity ---------------------------------------------------------------------------------------- */

static float activate(uint8_t activation, float u) {
    switch (activation) {
    case HWT_SIGMOID:
        return 1.0f / (1.0f + hwt_exp(-u));
    case HWT_TANH:
        return hwt_tanh(u);
    case HWT_RELU:
        return u > 0.0f ? u : 0.0f;
    default:
        return u;
    }
}

static float cost_of(uint8_t cost, const float *y, const float *target, uint16_t outputs) {
    float sum = 0.0f;
    if (cost == HWT_MEAN_SQUARED_ERROR) {
        for (uint16_t j = 0; j < outputs; j++) {
            float difference = y[j] - target[j];
            sum += difference * difference;
        }
        return sum / (float)outputs;
    }
    float largest = y[0], cross = 0.0f;
    for (uint16_t j = 1; j < outputs; j++)
        if (y[j] > largest)
            largest = y[j];
    for (uint16_t j = 0; j < outputs; j++)
        sum += hwt_exp(y[j] - largest);
    float log_sum = hwt_log(sum);
    for (uint16_t j = 0; j < outputs; j++)
        cross += target[j] * (log_sum - (y[j] - largest));
    return cross;
}

void hwt_present(const hwt_network_t *network, const float *theta, const float *x, hwt_workspace_t *work) {
    multiply(work->sums, theta, x, network->inputs, network->layers[0].outputs);
    work->gathered = 0;
}

float hwt_pass(const hwt_network_t *network, const float *theta, const float *x, const float *target,
               const hwt_pattern_t *pattern, float amplitude, hwt_workspace_t *work) {
    const float *input = x, *sums = work->sums;
    float *y = work->activity, total = work->total; /* of the first layer, if gathered */
    uint16_t inputs = network->inputs, outputs = 0;
    uint32_t first = 0; /* number of the layer's first parameter */
    word_t move = {.value = amplitude};
    for (uint8_t l = 0; l < network->count; l++) {
        const hwt_layer_t *layer = &network->layers[l];
        uint32_t biases = first + (uint32_t)inputs * layer->outputs;
        signs_t signs = {NULL, 0, 0, 0};
        outputs = layer->outputs;
        if (l > 0) {
            multiply(y, theta + first, input, inputs, outputs);
            sums = y;
        }
        if (pattern) {
            if (!work->gathered)
                total = gather_down(work->down, pattern, first, input, inputs, outputs);
            work->gathered = 0;
            signs_from(&signs, pattern, biases);
        }
        for (uint16_t j = 0; j < outputs; j++) {
            float u = sums[j], bias = theta[biases + j];
            if (pattern) {
                u += amplitude * (total - (work->down[j] + work->down[j]));
                bias += signed_by(move, signs_next(&signs));
            }
            y[j] = activate(layer->activation, layer->bias == HWT_ADD ? u + bias : u - bias);
        }
        input = y;
        inputs = outputs;
        y += outputs;
        first = biases + outputs;
    }
    return cost_of(network->cost, input, target, outputs);
}

/* ---- updates ------------------------------------------------------------------------------------------------------- */

static void step_down(float *theta, uint32_t first, uint32_t size, const hwt_pattern_t *pattern, float weight) {
    word_t step = {.value = weight};
    signs_t signs;
    signs_from(&signs, pattern, first);
    for (theta += first; first < size; first++)
        *theta++ -= signed_by(step, signs_next(&signs));
}

/* The hot loop of training on the board: every parameter is loaded once for its update, its product and its move. */
void hwt_update_and_present(const hwt_network_t *network, float *theta, const float *x, const hwt_pattern_t *last,
                            float weight, const hwt_pattern_t *next, hwt_workspace_t *work) {
    uint16_t outputs = network->layers[0].outputs;
    uint_fast16_t inputs = network->inputs;
    uint32_t updates = 0, moves = 0, index = 0;
    uint_fast8_t left = 1; /* parameters until the words are used up */
    const word_t step = {.value = weight};
    float *const sums = work->sums;
    const float *const end = sums + outputs;
    float *parameter = theta, total = 0.0f;
    zero(sums, outputs);
    zero(work->down, outputs);
    do {
        float input = *x++, *sum = sums, *down = work->down;
        total += input;
        do {
            updates >>= 1;
            moves >>= 1;
            if (--left == 0) {
                updates = hwt_pattern_word(last, index);
                moves = hwt_pattern_word(next, index++);
                left = 32;
            }
            float value = *parameter - signed_by(step, updates);
            *parameter++ = value;
            *sum++ += input * value;
            if (moves & 1u)
                *down += input;
            down++;
        } while (sum != end);
    } while (--inputs);
    work->total = total;
    work->gathered = 1;
    step_down(theta, (uint32_t)network->inputs * outputs, hwt_size(network), last, weight);
}

float hwt_weight(const hwt_modulations_t *modulations, uint16_t k) {
    const uint8_t *bytes = modulations->bytes + (uint32_t)k * modulations->stride;
    return hwt_is_finite(bytes) ? modulations->rate * hwt_get_float(bytes) : 0.0f;
}

void hwt_update(float *theta, uint32_t size, const hwt_code_t *code, uint32_t tick, const hwt_modulations_t *modulations) {
    hwt_pattern_t pattern;
    if (modulations->count == 0)
        return;
    if (modulations->count == 1) {
        hwt_pattern_at(&pattern, code, tick, size);
        step_down(theta, 0, size, &pattern, hwt_weight(modulations, 0));
        return;
    }
    for (uint32_t first = 0; first < size; first += HWT_UPDATE_BLOCK) {
        float sums[HWT_UPDATE_BLOCK] = {0};
        uint32_t rest = size - first;
        uint8_t block = rest < HWT_UPDATE_BLOCK ? (uint8_t)rest : HWT_UPDATE_BLOCK;
        for (uint16_t k = 0; k < modulations->count; k++) {
            word_t weight = {.value = hwt_weight(modulations, k)};
            hwt_pattern_at(&pattern, code, tick + k, size);
            uint32_t word = hwt_pattern_word(&pattern, first >> 5) >> (first & 31u);
            for (uint8_t i = 0; i < block; i++, word >>= 1) {
                float term = signed_by(weight, word);
                sums[i] = k ? sums[i] + term : term;
            }
        }
        for (uint8_t i = 0; i < block; i++)
            *theta++ -= sums[i];
    }
}

float hwt_clip(float *theta, uint32_t size, float low, float high) {
    float largest = 0.0f;
    for (; size; size--, theta++) {
        float value = *theta < low ? low : *theta > high ? high : *theta;
        float magnitude = value < 0.0f ? -value : value;
        *theta = value;
        if (magnitude > largest)
            largest = magnitude;
    }
    return largest;
}
