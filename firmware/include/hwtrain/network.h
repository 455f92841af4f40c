/* Networks, perturbed networks, costs, and the update: the arithmetic of the core.
 *
 * Everything here is float32, one rounding per operation, in an order that is part of the contract, so that every target
 * gives the same bits (compile with -ffp-contract=off; tests/firmware/reference.py is the same in numpy):
 *
 *   theta     layer after layer: the matrix (inputs, outputs) row by row, then the biases
 *   sum_j     = x_0 theta_0j + x_1 theta_1j + ...        from +0, in ascending order
 *   total     = x_0 + x_1 + ...                          from +0, in ascending order
 *   down_j    = the x_i whose theta_ij moves down, summed from +0 in ascending order
 *   square    = x_0^2 + x_1^2 + ...      from +0, in ascending order
 *   scale     = 1, or 1 / (sqrt(square) + tiny), or 1 / (sqrt(square / inputs) + tiny), tiny = 1e-8
 *   u_j       = scale * sum_j                                      unperturbed
 *             = scale * (sum_j + amplitude * (total - 2 down_j))   perturbed: the moves are summed apart from theta
 *   bias_j    = theta_j, or theta_j +- amplitude
 *   y_j       = activation(u_j + bias_j), or activation(u_j - bias_j)
 *   cost      = mean over the outputs of (y - target)^2, or cross-entropy of the softmax of y
 *
 * Summing the moves apart costs one addition per parameter that moves down and no multiplication, shares sum_j of the
 * first layer between all probes of a sample, and does not round a small move into a large parameter. It equals programming
 * theta +- amplitude up to that rounding. Inputs are normalised by scaling what has been summed, so that no normalised copy
 * of them is ever kept.
 */
#ifndef HWTRAIN_NETWORK_H
#define HWTRAIN_NETWORK_H

#include <stdint.h>

#include "hwtrain/perturb.h"

#ifndef HWT_LAYERS_MAX
#define HWT_LAYERS_MAX 4 /* dense layers a network may have; 4 bytes of RAM each */
#endif

#ifndef HWT_UPDATE_BLOCK
#define HWT_UPDATE_BLOCK 32 /* parameters updated together, 4 bytes of stack each; 4, 8, 16 or 32. Changes no bits. */
#endif

enum hwt_activation { HWT_LINEAR = 0, HWT_SIGMOID = 1, HWT_TANH = 2, HWT_RELU = 3, HWT_STEP = 4 };
enum hwt_bias { HWT_ADD = 0, HWT_SUBTRACT = 1 };                                            /* bit 0 of a layer's form */
enum hwt_normalise { HWT_NORMALISE_NONE = 0, HWT_NORMALISE_L2 = 1, HWT_NORMALISE_RMS = 2 }; /* and bits 1 to 2 */
enum hwt_memory { HWT_RECURRENT = 8 }; /* bit 3: its own outputs of the step before enter behind its inputs; for STREAM */
enum hwt_cost { HWT_MEAN_SQUARED_ERROR = 0, HWT_CROSS_ENTROPY = 1 };

typedef struct hwt_layer {
    uint16_t outputs;
    uint8_t activation; /* hwt_activation */
    uint8_t form;       /* hwt_bias + 2 * hwt_normalise, what the layer does to the length of its inputs, + hwt_memory */
} hwt_layer_t;

typedef struct hwt_network {
    uint16_t inputs;
    uint8_t count; /* layers; 0 is no network */
    uint8_t cost;  /* hwt_cost */
    hwt_layer_t layers[HWT_LAYERS_MAX];
} hwt_network_t;

/* Where a pass keeps its intermediate results; hwt_workspace_init lays it out in memory of the caller. */
typedef struct hwt_workspace {
    float *sums;      /* sum_j of the first layer, for the sample now presented */
    float *down;      /* down_j of the layer now computed */
    float *activity;  /* outputs of all layers, one after another; the network's output last */
    float scale;      /* of the sample now presented */
    float total;      /* the same, if gathered */
    uint8_t gathered; /* is `down` already that of the first layer and the next pattern? */
} hwt_workspace_t;

/* Rows of a layer's matrix, one for each of its inputs and, if it is recurrent, its outputs; is any layer recurrent? */
uint32_t hwt_rows(const hwt_layer_t *layer, uint16_t inputs);
uint8_t hwt_recurrent(const hwt_network_t *network);

/* Number of parameters, of outputs of all layers, of network outputs, of outputs of the widest layer, and of floats a workspace
 * takes. */
uint32_t hwt_size(const hwt_network_t *network);
uint32_t hwt_nodes(const hwt_network_t *network);
uint16_t hwt_outputs(const hwt_network_t *network);
uint16_t hwt_widest(const hwt_network_t *network);
uint32_t hwt_workspace_size(const hwt_network_t *network);
void hwt_workspace_init(hwt_workspace_t *work, const hwt_network_t *network, float *memory);

/* Present a sample: what all passes over it share. */
void hwt_present(const hwt_network_t *network, const float *theta, const float *x, hwt_workspace_t *work);

/* A pass over the sample presented last; `pattern` NULL is unperturbed. Results are in work->activity. Returns the cost. */
float hwt_pass(const hwt_network_t *network, const float *theta, const float *x, const float *target,
               const hwt_pattern_t *pattern, float amplitude, hwt_workspace_t *work);

/* What the costs of a window say about the parameters: one modulation per tick, as little-endian floats. */
typedef struct hwt_modulations {
    const uint8_t *bytes;
    uint8_t stride; /* bytes from one to the next */
    uint16_t count;
    float rate;
} hwt_modulations_t;

/* Weight k of an update: rate * modulation k; 0 where the modulation is not finite, since a measurement that failed moves
 * nothing. */
float hwt_weight(const hwt_modulations_t *modulations, uint16_t k);

/* theta_i -= sum over k of +-weight k, the signs being those of pattern tick + k. The sum is taken from its first term on, in
 * ascending order, and subtracted once. */
void hwt_update(float *theta, uint32_t size, const hwt_code_t *code, uint32_t tick, const hwt_modulations_t *modulations);

/* hwt_update by one weight, then hwt_present: the same bits in one walk over the first layer, which also gathers the down_j
 * that the next perturbed pass, under `next`, will want. */
void hwt_update_and_present(const hwt_network_t *network, float *theta, const float *x, const hwt_pattern_t *last,
                            float weight, const hwt_pattern_t *next, hwt_workspace_t *work);

/* Limit parameters to [low, high]. Returns the largest magnitude left. */
float hwt_clip(float *theta, uint32_t size, float low, float high);

/* ---- single layers, for rules that learn layer by layer. Counts are at least 1. ---- */

/* sum_j of a matrix (inputs, outputs). An x of zero adds nothing. */
void hwt_multiply(float *sums, const float *matrix, const float *x, uint_fast16_t inputs, uint16_t outputs);

/* square, and scale from it. */
float hwt_square(const float *x, uint_fast16_t count);
float hwt_scale(uint8_t form, float square, uint16_t inputs);

/* y_j from u_j and the bias. */
float hwt_respond(const hwt_layer_t *layer, float u, float bias);

/* A whole layer: y from x and the layer's parameters, its matrix, then its biases. Returns the scale. */
float hwt_layer_pass(const hwt_layer_t *layer, const float *theta, const float *x, uint16_t inputs, float *y);

/* Of an output; `cost` is one of hwt_cost. */
float hwt_cost_of(uint8_t cost, const float *y, const float *target, uint16_t outputs);

/* Vectors that stand in memory one after another, `stride` floats from one to the next. */
typedef struct hwt_vectors {
    const float *first;
    uint32_t stride;
    uint16_t count;
} hwt_vectors_t;

/* theta_ij -= x_0i e_0j + x_1i e_1j + ..., for vectors of inputs x and as many of errors e. The sum is taken over the inputs
 * that are not zero, from its first term on, in ascending order, and subtracted once. `sums` is room for a row. */
void hwt_descend(float *matrix, const hwt_vectors_t *x, uint_fast16_t inputs, const float *errors, uint16_t outputs,
                 float *sums);

/* What is said becomes its softmax less the target. Returns the cross-entropy. In local.c. */
float hwt_class_errors(float *said, const float *target, uint16_t classes);

/* The elementary functions, correct to about 2 units in the last place; arguments beyond +-87 count as +-87. */
float hwt_exp(float x);
float hwt_log(float x); /* x normal and positive */
float hwt_tanh(float x);

/* The square root, correctly rounded; below 2^-126 it is 0. x is not negative. */
float hwt_sqrt(float x);

#endif
