/* Learning layer by layer on the board, in the order of hwtrain/algorithms/forward_forward.py and mono_forward.py:
 *
 *   forward-forward   Hinton, arXiv 2212.13345 (2022)
 *   SymBa             Lee and Song, arXiv 2303.08418 (2023)
 *   Mono-Forward      Gong, Li and Abdulla, arXiv 2501.09238 (2025)
 *
 * No layer waits for another one's error, so at any time only the inputs of one layer, its activities and its errors are held;
 * and no gradient is, since a walk over the matrix sums it, element by element, and takes it off at once. All layers change
 * from the parameters before the update: each passes on activities that it had before its own change.
 *
 * As in network.h, the order of operations is part of the contract (tests/firmware/reference.py is the same in numpy):
 *
 *   y         = activation(scale * sum +- bias)         as network.h says; but in the first layer of forward-forward
 *   sum       = (sum over all inputs behind the label) + (sum over the label: its row, or 0.1 * the sum of all rows)
 *   square    = (of all inputs behind the label) + 1, or + 0.01 * classes where no label is shown
 *   goodness  = y_0^2 + y_1^2 + ... from +0, for the mean divided by the number of units
 *   e         = -+ (2 * rate / batch [/ units] * sigmoid(...)) * (y * slope), with alpha * sigmoid(...) for SymBa
 *             = rate / batch * ((softmax - target) . class matrix * slope) for Mono-Forward
 *             = rate / batch * (softmax - target) for a class matrix, and with its own rate for the read-out
 *   bias      -+= sum of e over samples from +0, for each sample the positive version before the negative one
 *   theta_ij  -= sum of x_i * (scale * e_j) as hwt_descend has it, over the positive versions, then the negative ones; where
 *                both have the same x_i, in the first layer behind the label, over samples, with the sum of both for e_j
 *
 * Errors are thus kept times rate / batch, so that they are what parameters move by. Parameters are limited when the update is
 * over. A matrix, or biases, that would move by something that is not finite stay as they are. */
#include "hwtrain/board.h"

#define NEUTRAL 0.1f          /* what stands for every label where none is shown */
#define NEUTRAL_SQUARE 0.01f
#define FINITE 3.402823466e38f /* nothing finite is larger */

/* One update; the memory is that of the board's workspace. */
typedef struct update {
    hwt_board_t *board;
    const hwt_lesson_t *lesson;
    const float *samples; /* the batch, one after another */
    const uint8_t *wrong; /* their wrong labels */
    float *sums;          /* of one row */
    float *biases;        /* what the biases of a layer move by */
    float *classes;       /* errors of the read-out or of a class matrix; before, the labels that are shown */
    float *vectors;       /* from here on: of a layer its inputs, its activities, its errors */
    float cost;           /* so far, a sum over layers and samples */
    float reach;          /* no parameter has moved by more */
} update_t;

typedef union {
    float value;
    uint32_t bits;
} word_t;

/* ---- memory -------------------------------------------------------------------------------------------------------- */

uint8_t hwt_can_learn(const hwt_network_t *network, uint8_t rule) {
    const hwt_layer_t *last = &network->layers[network->count - 1u];
    if (network->count < 2 || last->activation != HWT_LINEAR)
        return 0;
    return rule == HWT_MONO_FORWARD ? last->form >> 1 == HWT_NORMALISE_NONE : network->inputs > last->outputs;
}

/* Two vectors as wide as the widest layer, an error or label for every class, and of the layer that takes most its inputs, if
 * these are activities, its activities and its errors. */
uint32_t hwt_learn_work_size(const hwt_network_t *network, uint8_t rule, uint16_t batch) {
    uint32_t most = 0, inputs = 0, width = hwt_widest(network);
    uint32_t versions = rule == HWT_MONO_FORWARD ? 1 : 3, contrasts = rule == HWT_MONO_FORWARD ? 1 : 2;
    if (batch > UINT16_MAX / width)
        return UINT32_MAX;
    for (uint8_t l = 0; l + 1u < network->count; l++) {
        uint32_t outputs = network->layers[l].outputs, size = versions * (inputs + outputs) + contrasts * outputs;
        most = size > most ? size : most;
        inputs = outputs;
    }
    return 2u * width + batch * (contrasts * hwt_outputs(network) + most);
}

uint32_t hwt_classes_size(const hwt_network_t *network) {
    uint32_t size = 0;
    for (uint8_t l = 0; l + 2u < network->count; l++) {
        uint32_t part = (uint32_t)network->layers[l].outputs * hwt_outputs(network);
        if (part > UINT32_MAX - size)
            return UINT32_MAX;
        size += part;
    }
    return size;
}

/* Activities of layers take turns at both ends, so that a layer finds its inputs where the one before has put them. */
static float *activities(const update_t *update, uint8_t layer, uint32_t size) {
    const hwt_config_t *config = update->board->config;
    return layer & 1u ? config->work + config->work_size - size : update->vectors;
}

/* Number of floats from one stored sample to the next. */
static uint32_t sample_stride(const hwt_network_t *network) {
    return (uint32_t)network->inputs + hwt_outputs(network);
}

/* ---- vectors --------------------------------------------------------------------------------------------------------- */

static void fill(float *values, uint32_t count, float value) {
    while (count--)
        *values++ = value;
}

static void multiply_by(float *values, uint32_t count, float factor) {
    while (count--)
        *values++ *= factor;
}

static void add(float *sums, const float *values, uint16_t count) {
    while (count--)
        *sums++ += *values++;
}

/* out_i = x . row i */
static void project(float *out, const float *rows, const float *x, uint16_t count, uint16_t width) {
    while (count--) {
        float sum = 0.0f;
        for (uint16_t j = 0; j < width; j++)
            sum += *rows++ * x[j];
        *out++ = sum;
    }
}

/* The largest magnitude. As numbers without a sign, magnitudes have the order of their bits; what is not finite comes last. */
static float largest(const float *values, uint16_t count) {
    word_t most = {.bits = 0};
    while (count--) {
        word_t word = {.value = *values++};
        word.bits &= 0x7FFFFFFFu;
        if (word.bits > most.bits)
            most = word;
    }
    return most.value;
}

/* A layer's activities from its parameters, or from the array that holds them. Returns the scale. */
static float pass(const update_t *update, const hwt_layer_t *layer, const float *theta, const float *x, uint16_t inputs, float *y) {
#ifdef HWT_ARRAY
    (void)theta;
    (void)inputs;
    return hwt_array_pass(update->board, layer, x, y);
#else
    (void)update;
    return hwt_layer_pass(layer, theta, x, inputs, y);
#endif
}

/* ---- descending ------------------------------------------------------------------------------------------------------ */

/* A bound for what any element moves by, since rounding is monotonic: the sum over samples of the largest input times the
 * largest error. */
static float reach_of(const hwt_vectors_t *x, uint16_t inputs, const float *errors, uint16_t outputs) {
    float reach = 0.0f;
    for (uint16_t k = 0; k < x->count; k++)
        reach += largest(x->first + k * x->stride, inputs) * largest(errors + (uint32_t)k * outputs, outputs);
    return reach;
}

static void note(update_t *update, float reach) {
    if (reach > update->reach)
        update->reach = reach;
}

/* Rows of a matrix, unless they would become something that is not finite. Returns their reach. */
static float descend(const update_t *update, float *matrix, const hwt_vectors_t *x, uint16_t inputs, const float *errors,
                     uint16_t outputs) {
    float reach = reach_of(x, inputs, errors, outputs);
    if (!(reach <= FINITE))
        return 0.0f;
    hwt_descend(matrix, x, inputs, errors, outputs, update->sums);
    return reach;
}

static void descend_biases(update_t *update, const hwt_layer_t *layer, float *bias) {
    float reach = largest(update->biases, layer->outputs);
    if (!(reach <= FINITE))
        return;
    for (uint16_t j = 0; j < layer->outputs; j++)
        bias[j] = (layer->form & 1u) == HWT_ADD ? bias[j] - update->biases[j] : bias[j] + update->biases[j];
    note(update, reach);
}

/* A layer: matrix and biases. */
static void descend_layer(update_t *update, const hwt_layer_t *layer, float *theta, const hwt_vectors_t *x, uint16_t inputs,
                          const float *errors) {
    note(update, descend(update, theta, x, inputs, errors, layer->outputs));
    descend_biases(update, layer, theta + (uint32_t)inputs * layer->outputs);
}

/* ---- functions ------------------------------------------------------------------------------------------------------- */

static float sigmoid(float x) {
    return 1.0f / (1.0f + hwt_exp(-x));
}

/* log(1 + exp(x)) */
static float softplus(float x) {
    return (x < 0.0f ? 0.0f : x) + hwt_log(1.0f + hwt_exp(x < 0.0f ? x : -x));
}

/* f'(z) where y = f(z) */
static float slope(uint8_t activation, float y) {
    switch (activation) {
    case HWT_SIGMOID:
        return y * (1.0f - y);
    case HWT_TANH:
        return 1.0f - y * y;
    case HWT_RELU:
        return y > 0.0f ? 1.0f : 0.0f;
    case HWT_STEP:
        return 0.0f;
    default:
        return 1.0f;
    }
}

float hwt_class_errors(float *said, const float *target, uint16_t classes) {
    float most = said[0], sum = 0.0f, aim = 0.0f, whole = 0.0f, cost;
    for (uint16_t j = 1; j < classes; j++)
        if (said[j] > most)
            most = said[j];
    for (uint16_t j = 0; j < classes; j++) {
        float shifted = said[j] - most;
        aim += target[j] * shifted;
        whole += target[j];
        said[j] = hwt_exp(shifted);
        sum += said[j];
    }
    cost = whole * hwt_log(sum) - aim;
    if (!(cost <= FINITE))
        sum = 0.0f * cost; /* no number, and so no error is one */
    for (uint16_t j = 0; j < classes; j++)
        said[j] = said[j] / sum - target[j];
    return cost;
}

/* The first of the largest. */
static uint16_t label_of(const float *target, uint16_t classes) {
    uint16_t label = 0;
    for (uint16_t j = 1; j < classes; j++)
        if (target[j] > target[label])
            label = j;
    return label;
}

/* ---- forward-forward and SymBa ------------------------------------------------------------------------------------------ */

/* The local cost of one layer and sample; `up` and `down` become the errors of the positive and of the negative activity. */
static void tell_apart(update_t *update, const hwt_layer_t *layer, const float *positive, const float *negative, float *up,
                       float *down) {
    const hwt_lesson_t *lesson = update->lesson;
    uint16_t units = layer->outputs;
    float good = hwt_square(positive, units), bad = hwt_square(negative, units); /* goodness */
    float push, pull, weight = lesson->rate / (float)lesson->batch;
    weight += weight; /* of dG/dy = 2 y */
    if (lesson->goodness == HWT_GOODNESS_MEAN) {
        good /= (float)units;
        bad /= (float)units;
        weight /= (float)units;
    }
    if (lesson->rule == HWT_SYMBA) {
        float gap = lesson->scale * (bad - good);
        update->cost += softplus(gap);
        push = pull = weight * (lesson->scale * sigmoid(gap));
    } else {
        float lacking = lesson->scale - good, excess = bad - lesson->scale;
        update->cost += softplus(lacking) + softplus(excess);
        push = weight * sigmoid(lacking);
        pull = weight * sigmoid(excess);
    }
    for (uint16_t j = 0; j < units; j++) {
        up[j] = -push * (positive[j] * slope(layer->activation, positive[j]));
        down[j] = pull * (negative[j] * slope(layer->activation, negative[j]));
    }
    add(update->biases, up, units);
    add(update->biases, down, units);
}

/* The first layer. The versions of a sample differ only in the label, which stands in the place of the first inputs, so they
 * share the sum over all others; and so do their errors, whose sum is what moves the parameters of those inputs. */
static void contrast_samples(update_t *update, float *theta, float *y, float *errors) {
    const hwt_network_t *network = &update->board->network;
    const hwt_layer_t *layer = &network->layers[0];
    const uint16_t batch = update->lesson->batch, classes = hwt_outputs(network), units = layer->outputs;
    const uint16_t others = (uint16_t)(network->inputs - classes);
    const float *bias = theta + (uint32_t)network->inputs * units;
    float *matrix = theta + (uint32_t)classes * units; /* of the other inputs */
    const hwt_vectors_t x = {update->samples + classes, sample_stride(network), batch};
    const hwt_vectors_t labels = {update->classes, classes, (uint16_t)(2u * batch)};

    fill(update->sums, units, 0.0f);
    for (uint16_t i = 0; i < classes; i++)
        add(update->sums, theta + (uint32_t)i * units, units);
    fill(update->classes, 2u * (uint32_t)batch * classes, 0.0f);
    for (uint16_t k = 0; k < batch; k++) {
        const float *pixels = x.first + k * x.stride;
        const uint16_t right = label_of(pixels + others, classes), wrong = update->wrong[k];
        const float *with_right = theta + (uint32_t)right * units, *with_wrong = theta + (uint32_t)wrong * units;
        const float square = hwt_square(pixels, others);
        const float scale = hwt_scale(layer->form, square + 1.0f, network->inputs);
        const float neutral_scale = hwt_scale(layer->form, square + (float)classes * NEUTRAL_SQUARE, network->inputs);
        float *positive = y + (uint32_t)k * units, *negative = positive + (uint32_t)batch * units;
        float *neutral = negative + (uint32_t)batch * units;
        float *up = errors + (uint32_t)k * units, *down = up + (uint32_t)batch * units;
        hwt_multiply(positive, matrix, pixels, others, units);
        for (uint16_t j = 0; j < units; j++) {
            float sum = positive[j];
            positive[j] = hwt_respond(layer, scale * (sum + with_right[j]), bias[j]);
            negative[j] = hwt_respond(layer, scale * (sum + with_wrong[j]), bias[j]);
            neutral[j] = hwt_respond(layer, neutral_scale * (sum + NEUTRAL * update->sums[j]), bias[j]);
        }
        tell_apart(update, layer, positive, negative, up, down);
        multiply_by(up, units, scale);
        multiply_by(down, units, scale);
        update->classes[(uint32_t)k * classes + right] = 1.0f;
        update->classes[((uint32_t)batch + k) * classes + wrong] = 1.0f;
    }
    note(update, descend(update, theta, &labels, classes, errors, units));
    for (uint16_t k = 0; k < batch; k++)
        add(errors + (uint32_t)k * units, errors + ((uint32_t)batch + k) * units, units);
    descend_layer(update, layer, matrix, &x, others, errors);
}

/* A layer behind the first, whose inputs `x` are activities: positive ones, negative ones, neutral ones. */
static void contrast_activities(update_t *update, const hwt_layer_t *layer, float *theta, const float *x, uint16_t inputs,
                                float *y, float *errors) {
    const uint16_t batch = update->lesson->batch, units = layer->outputs;
    const hwt_vectors_t shown = {x, inputs, (uint16_t)(2u * batch)};
    for (uint16_t k = 0; k < batch; k++) {
        float scales[3];
        for (uint8_t version = 0; version < 3; version++) {
            uint32_t number = (uint32_t)version * batch + k;
            scales[version] = pass(update, layer, theta, x + number * inputs, inputs, y + number * units);
        }
        float *positive = y + (uint32_t)k * units, *up = errors + (uint32_t)k * units, *down = up + (uint32_t)batch * units;
        tell_apart(update, layer, positive, positive + (uint32_t)batch * units, up, down);
        multiply_by(up, units, scales[0]);
        multiply_by(down, units, scales[1]);
    }
    descend_layer(update, layer, theta, &shown, inputs, errors);
}

/* The read-out: a softmax of what it makes of the last hidden layer, `x`, if that has been told of no label. Its error goes no
 * further. */
static void read_out(update_t *update, float *theta, const float *x, uint16_t inputs) {
    const hwt_network_t *network = &update->board->network;
    const hwt_layer_t *layer = &network->layers[network->count - 1u];
    const uint16_t batch = update->lesson->batch, classes = layer->outputs;
    const hwt_vectors_t shown = {x, inputs, batch};
    fill(update->biases, classes, 0.0f);
    for (uint16_t k = 0; k < batch; k++) {
        float *said = update->classes + (uint32_t)k * classes;
        float scale = pass(update, layer, theta, x + (uint32_t)k * inputs, inputs, said);
        hwt_class_errors(said, update->samples + k * sample_stride(network) + network->inputs, classes);
        multiply_by(said, classes, update->lesson->readout_rate / (float)batch);
        add(update->biases, said, classes);
        multiply_by(said, classes, scale);
    }
    descend_layer(update, layer, theta, &shown, inputs, update->classes);
}

static void forward_forward(update_t *update) {
    const hwt_network_t *network = &update->board->network;
    const uint32_t batch = update->lesson->batch;
    float *theta = update->board->config->theta, *x = update->vectors;
    uint16_t inputs = network->inputs;
    for (uint8_t l = 0; l + 1u < network->count; l++) {
        const hwt_layer_t *layer = &network->layers[l];
        const uint16_t units = layer->outputs;
        float *y = activities(update, l, 3u * batch * units);
        fill(update->biases, units, 0.0f);
        if (l == 0)
            contrast_samples(update, theta, y, y + 3u * batch * units);
        else
            contrast_activities(update, layer, theta, x, inputs, y, l & 1u ? x + 3u * batch * inputs : y + 3u * batch * units);
        theta += ((uint32_t)inputs + 1u) * units;
        x = y;
        inputs = units;
    }
    read_out(update, theta, x + 2u * batch * inputs, inputs);
}

/* ---- Mono-Forward ------------------------------------------------------------------------------------------------------- */

/* One hidden layer and its class matrix, which for the last hidden layer is the read-out. */
static void classify(update_t *update, uint8_t number, float *theta, const hwt_vectors_t *x, uint16_t inputs, float *matrix,
                     float *y, float *errors) {
    const hwt_network_t *network = &update->board->network;
    const hwt_lesson_t *lesson = update->lesson;
    const hwt_layer_t *layer = &network->layers[number], *last = &network->layers[network->count - 1u];
    const uint16_t batch = lesson->batch, units = layer->outputs, classes = last->outputs;
    const uint8_t is_last = number + 2u == network->count;
    const hwt_vectors_t own = {y, units, batch}, said = {update->classes, classes, batch};
    float *const readout = theta + ((uint32_t)inputs + 1u) * units;
    fill(update->biases, units, 0.0f);
    for (uint16_t k = 0; k < batch; k++) {
        float *activity = y + (uint32_t)k * units, *says = update->classes + (uint32_t)k * classes;
        float *error = errors + (uint32_t)k * units;
        float scale = pass(update, layer, theta, x->first + k * x->stride, inputs, activity);
        if (is_last)
            pass(update, last, readout, activity, units, says);
        else
            project(says, matrix, activity, classes, units);
        update->cost += hwt_class_errors(says, update->samples + k * sample_stride(network) + network->inputs, classes);
        if (is_last)
            project(error, readout, says, units, classes);
        else
            hwt_multiply(error, matrix, says, classes, units);
        for (uint16_t j = 0; j < units; j++)
            error[j] *= slope(layer->activation, activity[j]);
        multiply_by(error, units, lesson->rate / (float)batch);
        add(update->biases, error, units);
        multiply_by(error, units, scale);
        multiply_by(says, classes, (is_last ? lesson->readout_rate : lesson->rate) / (float)batch);
    }
    descend_layer(update, layer, theta, x, inputs, errors);
    if (is_last) {
        fill(update->biases, classes, 0.0f);
        for (uint16_t k = 0; k < batch; k++)
            add(update->biases, update->classes + (uint32_t)k * classes, classes);
        descend_layer(update, last, readout, &own, units, update->classes);
    } else {
        descend(update, matrix, &said, classes, y, units); /* has no limits */
    }
}

static void mono_forward(update_t *update) {
    const hwt_network_t *network = &update->board->network;
    const uint16_t batch = update->lesson->batch;
    float *theta = update->board->config->theta, *matrix = theta + update->board->size;
    hwt_vectors_t x = {update->samples, sample_stride(network), batch};
    uint16_t inputs = network->inputs;
    for (uint8_t l = 0; l + 1u < network->count; l++) {
        const uint16_t units = network->layers[l].outputs;
        float *y = activities(update, l, (uint32_t)batch * units);
        uint32_t before = l & 1u ? (uint32_t)batch * inputs : (uint32_t)batch * units; /* errors stand behind */
        classify(update, l, theta, &x, inputs, matrix, y, update->vectors + before);
        theta += ((uint32_t)inputs + 1u) * units;
        matrix += (uint32_t)units * hwt_outputs(network);
        x = (hwt_vectors_t){y, units, batch};
        inputs = units;
    }
}

/* ---- blocks ------------------------------------------------------------------------------------------------------------ */

void hwt_learn(hwt_board_t *board, const hwt_lesson_t *lesson, uint8_t *costs) {
    const hwt_network_t *network = &board->network;
    const uint16_t width = hwt_widest(network), batch = lesson->batch;
    const uint8_t contrasts = lesson->rule == HWT_MONO_FORWARD ? 1 : 2;
    float *const sums = board->config->work, *const classes = sums + 2u * (uint32_t)width;
    for (uint16_t u = 0; u < lesson->updates; u++) {
        update_t update = {.board = board, .lesson = lesson, .sums = sums, .biases = sums + width, .classes = classes};
        update.samples = hwt_sample(board, hwt_get16(lesson->slots + 2u * u));
        update.wrong = lesson->wrong + (uint32_t)u * batch;
        update.vectors = classes + (uint32_t)contrasts * batch * hwt_outputs(network);
        if (lesson->rule == HWT_MONO_FORWARD)
            mono_forward(&update);
        else
            forward_forward(&update);
        hwt_settle(board, update.reach, lesson->low, lesson->high);
        hwt_put_float(costs + 4u * u, update.cost / ((float)batch * (float)(network->count - 1u)));
    }
}
