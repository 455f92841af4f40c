/* Multiplexed gradient descent on the board (McCaughan et al., APL Machine Learning 1, 026118, 2023), in the order of
 * hwtrain/algorithms/mgd.py: the baseline where the sample or the parameters have changed, the probe, and at the end of the
 * window the update. No gradient is stored: the trace of the window and the signs, which are formulas, are all it takes. */
#include "hwtrain/board.h"

const float *hwt_sample(const hwt_board_t *board, uint16_t slot) {
    return board->config->samples + (uint32_t)slot * ((uint32_t)board->network.inputs + hwt_outputs(&board->network));
}

static float magnitude(float value) {
    return value < 0.0f ? -value : value;
}

/* Does an update by at most `reach` leave every parameter within [low, high]? Rounding is monotonic, so largest + reach bounds
 * every magnitude after it: nearly all updates are spared a look at each parameter. */
static uint8_t stays_within(const hwt_board_t *board, float reach, float low, float high) {
    float limit = -low < high ? -low : high;
    return board->largest + reach <= limit;
}

void hwt_settle(hwt_board_t *board, float reach, float low, float high) {
    if (stays_within(board, reach, low, high))
        board->largest += reach;
    else
        board->largest = hwt_clip(board->config->theta, board->size, low, high);
}

void hwt_apply(hwt_board_t *board, const hwt_code_t *code, uint32_t tick, const hwt_modulations_t *modulations, float low,
               float high, uint8_t clip) {
    float reach = 0.0f;
    for (uint16_t k = 0; k < modulations->count; k++)
        reach += magnitude(hwt_weight(modulations, k));
    hwt_update(board->config->theta, board->size, code, tick, modulations);
    if (clip)
        hwt_settle(board, reach, low, high);
    else
        board->largest += reach;
}

/* Mean cost over the samples of a presentation. A single sample that is already presented is not presented again. */
static float measure(hwt_board_t *board, uint16_t slot, uint16_t batch, const hwt_pattern_t *pattern, float amplitude,
                     uint8_t *presented) {
    float sum = 0.0f;
    for (uint16_t b = 0; b < batch; b++) {
        const float *x = hwt_sample(board, (uint16_t)(slot + b));
        if (!*presented)
            hwt_present(&board->network, board->config->theta, x, &board->work);
        *presented = batch == 1;
        sum += hwt_pass(&board->network, board->config->theta, x, x + board->network.inputs, pattern, amplitude, &board->work);
    }
    return sum / (float)batch;
}

void hwt_train(hwt_board_t *board, const hwt_block_t *block, uint8_t *trace) {
    hwt_pattern_t last, next;
    float baseline = 0.0f;
    uint8_t stale = 1, presented = 0;    /* is the baseline out of date; is the sample's first layer summed? */
    const uint8_t *slots = block->slots; /* of the presentation now on */
    uint16_t shown = (uint16_t)(block->first % block->tau_x), elapsed = 0; /* ticks of presentation, of window */
    hwt_modulations_t window = {trace + 4, 8, block->tau_theta, block->rate};
    uint8_t pending = 0; /* an update of a window of one tick, which waits for the next walk over the parameters */
    float weight = 0.0f;

    for (uint16_t t = 0; t < block->ticks; t++, trace += 8) {
        uint32_t tick = block->first + t;
        uint16_t slot = hwt_get16(slots);
        hwt_pattern_at(&next, &block->code, tick, board->size);

        if (pending && block->batch == 1 && stays_within(board, magnitude(weight), block->low, block->high)) {
            hwt_update_and_present(&board->network, board->config->theta, hwt_sample(board, slot), &last, weight, &next,
                                   &board->work);
            board->largest += magnitude(weight);
            presented = 1;
        } else if (pending) {
            hwt_apply(board, &block->code, tick - 1u, &window, block->low, block->high, 1);
            presented = 0;
        }
        if (block->baseline == HWT_BASELINE_FRESH || (block->baseline == HWT_BASELINE_SHARED && stale))
            baseline = measure(board, slot, block->batch, 0, 0.0f, &presented);
        float modulation = measure(board, slot, block->batch, &next, block->code.amplitude, &presented) - baseline;
        hwt_put_float(trace, baseline);
        hwt_put_float(trace + 4, modulation);

        stale = 0;
        if (++shown == block->tau_x) {
            shown = 0;
            slots += 2;
            stale = 1;
            presented = 0;
        }
        pending = block->tau_theta == 1;
        if (pending) {
            last = next;
            window.bytes = trace + 4;
            weight = hwt_weight(&window, 0);
            stale = 1;
            presented = 0;
        } else if (++elapsed == block->tau_theta) {
            hwt_apply(board, &block->code, tick + 1u - elapsed, &window, block->low, block->high, 1);
            window.bytes = trace + 12;
            elapsed = 0;
            stale = 1;
            presented = 0;
        }
    }
    if (pending)
        hwt_apply(board, &block->code, block->first + block->ticks - 1u, &window, block->low, block->high, 1);
}
