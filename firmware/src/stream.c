/* Learning in time on the board: spiking neural units (Wozniak et al., Nature Machine Intelligence 2, 325, 2020) taught step by
 * step by online spatio-temporal learning with target projection (Ortner et al., AICAS 2023) or a relative, in the order of
 * hwtrain/algorithms/traces.py and osttp.py. Sequences are streamed: a step is presented, learnt from, and forgotten.
 *
 * The order of operations is part of the contract (tests/firmware/stream.py is the same in numpy). A hidden layer, with s, y
 * and psi those of the step before:
 *
 *   s'        = sum + decay * s * (1 - y)                  hard reset
 *             = sum + (decay * s - threshold * y)          soft reset
 *   z         = (s' - threshold) - bias
 *   y'        = 1 where z > 0, else 0; or sigmoid(z)
 *   psi'      = height * shape(slope * z); or y' (1 - y')
 *   through   = ds'/dy * psi, with ds'/dy = -(decay * s) or -threshold
 *   eps_ij    = (ds'/ds + through) * eps_ij + x_i, with ds'/ds = decay * (1 - y) or decay
 *   eps_j     = (ds'/ds + through) * eps_j - through       of the bias
 *   signal_j  = sum over outputs c from +0 of v_c * B_cj
 *   theta_ij -= (rate * (signal_j * psi'_j)) * eps_ij, theta_j -= rate * (signal_j * (psi'_j * eps_j - psi'_j))
 *
 * The x of a recurrent layer are its inputs and, behind them, its own y of the step before; what reaches a neuron through
 * others is left out of its traces.
 *
 * v is the target, perhaps less its mean over all steps so far; or dE/do of what the layer itself says, o_c = sum over j of
 * y'_j B_cj; or that of the network's output. The read-out:
 *
 *   eps_i     = decay * eps_i + gain * x_i
 *   o_j       = gain * sum_j + decay * o_j, said o_j + bias_j or o_j - bias_j
 *   theta_ij -= (rate * dE/do_j) * eps_i, theta_j -+= rate * dE/do_j
 *
 * All layers of a step change after all have answered. B_cj is scale * (2^-31 * draw), draws being word c * units + j of the
 * hash of the layer's seed as a signed number: a formula, so that no memory holds it. */
#include "hwtrain/board.h"

#if HWT_STREAMS

#define SHARE 4.656612873077393e-10f /* 2^-31 */
#define GOLDEN 0x9E3779B9u

/* What runs on from step to step stands behind the parameters: of each hidden layer s, y, psi, then its traces, which end with
 * those of the biases; of the read-out its traces and states; then sums of the targets, and how many there were. */
uint32_t hwt_stream_size(const hwt_network_t *network) {
    uint32_t size = 0;
    uint16_t inputs = network->inputs;
    for (uint8_t l = 0; l + 1u < network->count; l++) {
        size += (hwt_rows(&network->layers[l], inputs) + 4u) * network->layers[l].outputs;
        inputs = network->layers[l].outputs;
    }
    return size + inputs + 2u * hwt_outputs(network) + 1u;
}

/* Errors or targets, signals, and the activities of all layers. */
uint32_t hwt_stream_work_size(const hwt_network_t *network) {
    return (uint32_t)hwt_outputs(network) + hwt_widest(network) + hwt_nodes(network);
}

uint8_t hwt_can_stream(const hwt_network_t *network) {
    uint8_t last = (uint8_t)(network->count - 1u);
    for (uint8_t l = 0; l < last; l++) {
        const hwt_layer_t *layer = &network->layers[l];
        if ((layer->activation != HWT_STEP && layer->activation != HWT_SIGMOID) || (layer->form & 7u) != HWT_SUBTRACT)
            return 0;
    }
    return last > 0 && network->layers[last].activation == HWT_LINEAR && network->layers[last].form >> 1 == HWT_NORMALISE_NONE;
}

static float shape_of(const hwt_stream_t *stream, float z) {
    float u = stream->slope * z;
    if (stream->shape == HWT_SHAPE_TANH) {
        const float t = hwt_tanh(u);
        return 1.0f - t * t;
    }
    u = u < 0.0f ? -u : u;
    if (stream->shape == HWT_SHAPE_FAST_SIGMOID)
        return 1.0f / ((u + 1.0f) * (u + 1.0f));
    return u < 1.0f ? 1.0f - u : 0.0f;
}

/* Theta moves by -step unless that is no number, and stays within the limits. */
static void descend(const hwt_stream_t *stream, float *theta, float step) {
    float value = *theta - step;
    if (value >= stream->low && value <= stream->high)
        *theta = value;
    else if (value < stream->low)
        *theta = stream->low;
    else if (value > stream->high)
        *theta = stream->high;
}

/* The stream of a layer's projection; word c * units + j of it is B_cj. */
static uint32_t projection_of(const hwt_stream_t *stream, uint8_t layer) {
    return hwt_mix32(hwt_mix32(hwt_get32(stream->seeds + 4u * layer))); /* of count 0 */
}

static float projected(const hwt_stream_t *stream, uint32_t key, uint32_t index) {
    union {
        uint32_t word;
        int32_t number;
    } draw = {hwt_mix32(key + index * GOLDEN) ^ 0x80000000u};
    return stream->scale * (SHARE * (float)draw.number);
}

/* A hidden layer answers, and its traces follow. */
static void answer(const hwt_stream_t *stream, const hwt_layer_t *layer, const float *theta, const float *x, uint16_t inputs,
                   float *memory, float *factors, float *y) {
    const uint16_t units = layer->outputs;
    const uint32_t rows = hwt_rows(layer, inputs);
    const float *bias = theta + rows * units, *back = theta + (uint32_t)inputs * units;
    float *states = memory, *spikes = memory + units, *slopes = spikes + units, *eps = slopes + units;
    float *bias_eps = eps + rows * units;
    hwt_multiply(y, theta, x, inputs, units);
    for (uint16_t i = 0; back < bias; i++, back += units)
        for (uint16_t j = 0; spikes[i] != 0.0f && j < units; j++)
            y[j] += spikes[i] * back[j];
    for (uint16_t j = 0; j < units; j++) {
        float before = spikes[j], left = stream->decay * states[j], kept, through, z;
        if (stream->reset == HWT_RESET_HARD) {
            kept = stream->decay * (1.0f - before);
            through = -left * slopes[j];
            states[j] = y[j] + left * (1.0f - before);
        } else {
            kept = stream->decay;
            through = -stream->threshold * slopes[j];
            states[j] = y[j] + (left - stream->threshold * before);
        }
        z = (states[j] - stream->threshold) - bias[j];
        if (layer->activation == HWT_STEP) {
            y[j] = z > 0.0f ? 1.0f : 0.0f;
            slopes[j] = stream->height * shape_of(stream, z);
        } else {
            y[j] = 1.0f / (1.0f + hwt_exp(-z));
            slopes[j] = y[j] * (1.0f - y[j]);
        }
        factors[j] = kept + through;
        bias_eps[j] = factors[j] * bias_eps[j] - through;
    }
    for (uint32_t i = 0; i < rows; i++) {
        const float entered = i < inputs ? x[i] : spikes[i - inputs];
        for (uint16_t j = 0; j < units; j++, eps++)
            *eps = factors[j] * *eps + entered;
    }
    for (uint16_t j = 0; j < units; j++)
        spikes[j] = y[j];
}

/* The derivative of a cost of what was said, in its place; returns the cost. */
static float told(uint8_t cost, float *said, const float *target, uint16_t outputs) {
    float sum = 0.0f;
    if (cost == HWT_CROSS_ENTROPY)
        return hwt_class_errors(said, target, outputs);
    for (uint16_t j = 0; j < outputs; j++) {
        float difference = said[j] - target[j];
        sum += difference * difference;
        said[j] = (difference + difference) / (float)outputs;
    }
    return sum / (float)outputs;
}

/* A hidden layer learns. `v` is the target or the error that is projected; for the local signal room for it. */
static void learn_hidden(const hwt_stream_t *stream, const hwt_network_t *network, uint8_t number, float *theta,
                         uint32_t rows, const float *memory, const float *target, float *v, float *signals) {
    const uint16_t units = network->layers[number].outputs, outputs = hwt_outputs(network);
    const float *spikes = memory + units, *slopes = spikes + units, *eps = slopes + units;
    const uint32_t key = projection_of(stream, number);
    uint32_t index = 0;
    if (stream->signal == HWT_SIGNAL_LOCAL) {
        for (uint16_t c = 0; c < outputs; c++) {
            v[c] = 0.0f;
            for (uint16_t j = 0; j < units; j++, index++)
                if (spikes[j] != 0.0f)
                    v[c] += spikes[j] * projected(stream, key, index);
        }
        told(network->cost, v, target, outputs);
    }
    for (uint16_t j = 0; j < units; j++)
        signals[j] = 0.0f;
    index = 0;
    for (uint16_t c = 0; c < outputs; c++) {
        if (v[c] == 0.0f) {
            index += units;
            continue;
        }
        for (uint16_t j = 0; j < units; j++, index++)
            signals[j] += v[c] * projected(stream, key, index);
    }
    const float *bias_eps = eps + rows * units;
    float *bias = theta + rows * units;
    for (uint16_t j = 0; j < units; j++) {
        descend(stream, bias + j, stream->rate * (signals[j] * (slopes[j] * bias_eps[j] - slopes[j])));
        signals[j] = stream->rate * (signals[j] * slopes[j]);
    }
    for (uint32_t i = 0; i < rows; i++)
        for (uint16_t j = 0; j < units; j++)
            descend(stream, theta++, signals[j] * *eps++);
}

/* One step: its cost; activities of all layers one after another at `y`. */
static float step(hwt_board_t *board, const hwt_stream_t *stream, const float *x, float *v, float *signals, float *y) {
    const hwt_network_t *network = &board->network;
    const uint8_t last = (uint8_t)(network->count - 1u);
    const hwt_layer_t *readout = &network->layers[last];
    const uint16_t outputs = readout->outputs;
    const float *target = x + network->inputs, *input = x;
    float *theta = board->config->theta, *memory = theta + board->size, *said;
    uint16_t inputs = network->inputs;
    for (uint8_t l = 0; l < last; l++) {
        const uint16_t units = network->layers[l].outputs;
        const uint32_t rows = hwt_rows(&network->layers[l], inputs);
        answer(stream, &network->layers[l], theta, input, inputs, memory, signals, y);
        theta += (rows + 1u) * units;
        memory += (rows + 4u) * units;
        input = y;
        y += units;
        inputs = units;
    }
    float *eps = memory, *states = eps + inputs, *sums = states + outputs, *shown = sums + outputs;
    float *bias = theta + (uint32_t)inputs * outputs;
    for (uint16_t i = 0; i < inputs; i++)
        eps[i] = stream->readout_decay * eps[i] + stream->readout_gain * input[i];
    said = y;
    hwt_multiply(said, theta, input, inputs, outputs);
    for (uint16_t j = 0; j < outputs; j++) {
        states[j] = stream->readout_gain * said[j] + stream->readout_decay * states[j];
        said[j] = hwt_respond(readout, states[j], bias[j]);
        v[j] = said[j];
    }
    const float cost = told(network->cost, v, target, outputs);
    if (!(stream->flags & HWT_STREAM_LEARN))
        return cost;

    for (uint16_t j = 0; j < outputs; j++) {
        const float error = stream->readout_rate * v[j];
        descend(stream, bias + j, readout->form == HWT_ADD ? error : -error);
        signals[j] = error;
    }
    for (uint16_t i = 0; i < inputs; i++)
        for (uint16_t j = 0; j < outputs; j++)
            descend(stream, theta++, signals[j] * eps[i]);
    if (stream->signal == HWT_SIGNAL_TARGET) {
        *shown += 1.0f;
        for (uint16_t j = 0; j < outputs; j++) {
            sums[j] += target[j];
            v[j] = stream->flags & HWT_STREAM_CENTRE ? target[j] - sums[j] / *shown : target[j];
        }
    }
    theta = board->config->theta;
    memory = theta + board->size;
    inputs = network->inputs;
    for (uint8_t l = 0; l < last; l++) {
        const uint16_t units = network->layers[l].outputs;
        const uint32_t rows = hwt_rows(&network->layers[l], inputs);
        learn_hidden(stream, network, l, theta, rows, memory, target, v, signals);
        theta += (rows + 1u) * units;
        memory += (rows + 4u) * units;
        inputs = units;
    }
    return cost;
}

void hwt_stream_run(hwt_board_t *board, const hwt_stream_t *stream, uint8_t *reply) {
    const hwt_network_t *network = &board->network;
    const uint32_t nodes = hwt_nodes(network), size = hwt_stream_size(network);
    const uint16_t outputs = hwt_outputs(network);
    float *const memory = board->config->theta + board->size;
    float *const v = board->config->work, *const signals = v + outputs, *const y = signals + hwt_widest(network);
    uint8_t *costs = reply, *record = reply + 4u * (uint32_t)stream->steps;
    /* A new sequence finds neurons asleep; the mean of the targets goes on, unless nothing has streamed yet. */
    if (stream->flags & HWT_STREAM_START)
        for (uint32_t i = 0; i < (board->streaming ? size - outputs - 1u : size); i++)
            memory[i] = 0.0f;
    board->streaming = 1;
    for (uint32_t i = 0; stream->sums && i <= outputs; i++)
        memory[size - outputs - 1u + i] = hwt_get_float(stream->sums + 4u * i);
    for (uint16_t t = 0; t < stream->steps; t++) {
        float cost = step(board, stream, hwt_sample(board, (uint16_t)(stream->slot + t)), v, signals, y);
        hwt_put_float(costs + 4u * t, cost);
        if (stream->flags & HWT_STREAM_ACTIVITY)
            for (uint32_t j = 0; j < nodes; j++, record += 4)
                hwt_put_float(record, y[j]);
    }
    if (stream->flags & HWT_STREAM_LEARN) { /* a bound for what parameters have become; where there is none, they are */
        board->largest = -stream->low > stream->high ? -stream->low : stream->high;
        if (!(board->largest <= 3.402823466e38f))
            board->largest = hwt_clip(board->config->theta, board->size, stream->low, stream->high);
    }
}

#endif
