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

uint32_t hwt_rows(const hwt_layer_t *layer, uint16_t inputs) {
    return (uint32_t)inputs + ((layer->form & HWT_RECURRENT) ? layer->outputs : 0u);
}

uint8_t hwt_recurrent(const hwt_network_t *network) {
    uint8_t forms = 0;
    for (uint8_t l = 0; l < network->count; l++)
        forms |= network->layers[l].form;
    return forms & HWT_RECURRENT;
}

uint32_t hwt_size(const hwt_network_t *network) {
    uint32_t size = 0;
    uint16_t inputs = network->inputs;
    for (uint8_t l = 0; l < network->count; l++) {
        size += (hwt_rows(&network->layers[l], inputs) + 1u) * network->layers[l].outputs;
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

uint16_t hwt_widest(const hwt_network_t *network) {
    uint16_t most = 0;
    for (uint8_t l = 0; l < network->count; l++)
        if (network->layers[l].outputs > most)
            most = network->layers[l].outputs;
    return most;
}

uint32_t hwt_workspace_size(const hwt_network_t *network) {
    return (uint32_t)network->layers[0].outputs + hwt_widest(network) + hwt_nodes(network);
}

void hwt_workspace_init(hwt_workspace_t *work, const hwt_network_t *network, float *memory) {
    work->sums = memory;
    work->down = memory + network->layers[0].outputs;
    work->activity = work->down + hwt_widest(network);
    work->scale = 1.0f;
    work->total = 0.0f;
}

/* ---- sums over one layer ------------------------------------------------------------------------------------------ */

/* Counts are at least 1 everywhere, so loops test at their end. */
static void zero(float *values, uint_fast16_t count) {
    do
        *values++ = 0.0f;
    while (--count);
}

/* An x of zero adds nothing, bit for bit: no partial sum is ever -0. */
void hwt_multiply(float *sums, const float *matrix, const float *x, uint_fast16_t inputs, uint16_t outputs) {
    zero(sums, outputs);
    do {
        float input = *x++, *sum = sums;
        uint_fast16_t j = outputs;
        if (input == 0.0f) {
            matrix += outputs;
            continue;
        }
        do
            *sum++ += input * *matrix++;
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

float hwt_square(const float *x, uint_fast16_t count) {
    float square = 0.0f;
    do
        square += *x * *x;
    while (x++, --count);
    return square;
}

float hwt_scale(uint8_t form, float square, uint16_t inputs) {
    if (form >> 1 == HWT_NORMALISE_NONE)
        return 1.0f;
    if (form >> 1 == HWT_NORMALISE_RMS)
        square /= (float)inputs;
    return 1.0f / (hwt_sqrt(square) + 1e-8f);
}

static float scale_of(uint8_t form, const float *x, uint16_t inputs) {
    return form >> 1 == HWT_NORMALISE_NONE ? 1.0f : hwt_scale(form, hwt_square(x, inputs), inputs);
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
    case HWT_STEP:
        return u > 0.0f ? 1.0f : 0.0f;
    default:
        return u;
    }
}

float hwt_respond(const hwt_layer_t *layer, float u, float bias) {
    return activate(layer->activation, (layer->form & 1u) == HWT_ADD ? u + bias : u - bias);
}

float hwt_layer_pass(const hwt_layer_t *layer, const float *theta, const float *x, uint16_t inputs, float *y) {
    float scale = scale_of(layer->form, x, inputs);
    const float *bias = theta + (uint32_t)inputs * layer->outputs;
    hwt_multiply(y, theta, x, inputs, layer->outputs);
    for (uint16_t j = 0; j < layer->outputs; j++)
        y[j] = hwt_respond(layer, scale * y[j], bias[j]);
    return scale;
}

float hwt_cost_of(uint8_t cost, const float *y, const float *target, uint16_t outputs) {
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
    hwt_multiply(work->sums, theta, x, network->inputs, network->layers[0].outputs);
    work->scale = scale_of(network->layers[0].form, x, network->inputs);
    work->gathered = 0;
}

float hwt_pass(const hwt_network_t *network, const float *theta, const float *x, const float *target,
               const hwt_pattern_t *pattern, float amplitude, hwt_workspace_t *work) {
    const float *input = x, *sums = work->sums;
    float *y = work->activity, scale = work->scale, total = work->total; /* of the first layer, if gathered */
    uint16_t inputs = network->inputs, outputs = 0;
    uint32_t first = 0; /* number of the layer's first parameter */
    word_t move = {.value = amplitude};
    for (uint8_t l = 0; l < network->count; l++) {
        const hwt_layer_t *layer = &network->layers[l];
        uint32_t biases = first + (uint32_t)inputs * layer->outputs;
        signs_t signs = {NULL, 0, 0, 0};
        outputs = layer->outputs;
        if (l > 0) {
            hwt_multiply(y, theta + first, input, inputs, outputs);
            scale = scale_of(layer->form, input, inputs);
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
            y[j] = hwt_respond(layer, scale * u, bias);
        }
        input = y;
        inputs = outputs;
        y += outputs;
        first = biases + outputs;
    }
    return hwt_cost_of(network->cost, input, target, outputs);
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
    work->scale = scale_of(network->layers[0].form, x - network->inputs, network->inputs);
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

/* Two terms of every element of a row at once. They are added to `sums` where those are begun. */
static void gather_two(float *sums, const float *end, uint8_t begun, const float *errors[2], const float x[2]) {
    const float *first = errors[0], *second = errors[1];
    const float one = x[0], other = x[1];
    if (begun)
        do
            *sums = *sums + one * *first++ + other * *second++;
        while (++sums != end);
    else
        do
            *sums++ = one * *first++ + other * *second++;
        while (sums != end);
}

/* hwt_descend for one vector, whose terms need no summing. */
static void descend_once(float *matrix, const float *x, uint_fast16_t inputs, const float *errors, uint16_t outputs) {
    const float *const end = errors + outputs;
    do {
        const float input = *x++, *error = errors;
        if (input == 0.0f) {
            matrix += outputs;
            continue;
        }
        do
            *matrix++ -= input * *error++;
        while (error != end);
    } while (--inputs);
}

/* Row by row, so that a row of zeros costs nothing but a look at them. The last one or two terms are taken along when the
 * parameter is written. */
void hwt_descend(float *matrix, const hwt_vectors_t *x, uint_fast16_t inputs, const float *errors, uint16_t outputs,
                 float *sums) {
    const float *const end = sums + outputs;
    const float *column = x->first;
    if (x->count == 1) {
        descend_once(matrix, column, inputs, errors, outputs);
        return;
    }
    do {
        const float *input = column++, *error = errors, *waiting[2] = {NULL, NULL};
        float factors[2] = {0.0f, 0.0f}; /* of the errors that wait */
        uint8_t count = 0, begun = 0;
        for (uint16_t k = x->count; k; k--, input += x->stride, error += outputs) {
            if (*input == 0.0f)
                continue;
            if (count == 2) {
                gather_two(sums, end, begun, waiting, factors);
                begun = 1;
                count = 0;
            }
            waiting[count] = error;
            factors[count++] = *input;
        }
        const float *sum = sums, *first = waiting[0], *second = waiting[1];
        const float one = factors[0], other = factors[1];
        if (count == 0)
            matrix += outputs;
        else if (count == 1 && !begun)
            do
                *matrix++ -= one * *first++;
            while (++sum != end);
        else if (count == 1)
            do
                *matrix++ -= *sum + one * *first++;
            while (++sum != end);
        else if (!begun)
            do
                *matrix++ -= one * *first++ + other * *second++;
            while (++sum != end);
        else
            do
                *matrix++ -= *sum + one * *first++ + other * *second++;
            while (++sum != end);
    } while (--inputs);
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
