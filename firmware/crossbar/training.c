/* Training by the controller: the network on the tiles learns from samples, and the host sends nothing else.
 *
 * What every cell is to hold, its wish, and what the pulses it was given make of it, what it is held to hold, are floats here:
 * the rule changes wishes, and as soon as a wish is a whole step of a pulse away, the cell gets the whole pulses that are
 * missing (mixed precision: Nandakumar et al., Frontiers in Neuroscience 14, 406 (2020); hwtrain/devices/programming.py has the
 * same on the host). Activities are those of the cells as they are; errors are passed back through wishes, where the rule does
 * so at all. The rule's arithmetic is that of ../src/local.c, and the same bits on every board:
 *
 *   most     = the largest magnitude of the inputs, at least 1
 *   row_i    = x_i / most * volts, of the bias +- volts / most, limited to +- volts
 *   y_j      = activation(ampere_j * (most / (volts * siemens)))
 */
#include "crossbar.h"
#include "hwtrain/board.h"
#include "hwtrain/protocol.h"

#if CROSSBAR_TILES > HWT_LAYERS_MAX
#error "a layer for each tile: compile with -DHWT_LAYERS_MAX of CROSSBAR_TILES or more"
#endif

#define MOST_PULSES 32767.0f /* of a cell in one update */
#define FINITE 3.402823466e38f

/* The board that ../src/local.c sees. */
typedef struct session {
    hwt_board_t board; /* first, so that hwt_array_pass finds the rest */
    hwt_config_t config;
    crossbar_t *crossbar;
    float *held, *samples;
    uint8_t *results;   /* little-endian floats */
    float volts, width; /* of a pulse */
    int error;          /* the first of the port's */
} session_t;

static float magnitude(float value) {
    return value < 0.0f ? -value : value;
}

static int is_finite(float value) {
    return value >= -FINITE && value <= FINITE;
}

/* ---- the network ---- */

/* Conductance and volts of 1, step of a pulse, cost, and for each tile what its layer does: activation, bias. */
int crossbar_run_network(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    const crossbar_tile_t *tiles = crossbar->config.tiles;
    crossbar_training_t training;
    double facts[3];
    uint32_t cost;
    int error = SCPI_OK;
    for (int i = 0; i < 3; i++)
        if ((error = scpi_number(scpi, &facts[i])) != 0)
            return error;
    if ((error = scpi_whole(scpi, HWT_MEAN_SQUARED_ERROR, HWT_CROSS_ENTROPY, &cost)) != 0)
        return error;
    memset(&training, 0, sizeof training);
    for (uint8_t l = 0; l < crossbar->config.tile_count; l++) {
        uint32_t activation, bias;
        if ((error = scpi_whole(scpi, HWT_LINEAR, HWT_RELU, &activation)) != 0 ||
            (error = scpi_whole(scpi, HWT_ADD, HWT_SUBTRACT, &bias)) != 0)
            return error;
        training.network.layers[l] = (hwt_layer_t){tiles[l].columns, (uint8_t)activation, (uint8_t)bias};
        if (tiles[l].rows < 2u || (l && tiles[l].rows != tiles[l - 1].columns + 1u))
            return SCPI_CONFLICT; /* a row for every input and one for the biases */
    }
    if (!(facts[0] >= 1e-12 && facts[0] <= 1.0 && facts[1] >= 1e-3 && facts[1] <= (double)crossbar->config.most_read_volts &&
          facts[2] >= 1e-9 && facts[2] <= 1e9))
        return SCPI_RANGE;
    training.siemens = (float)facts[0];
    training.volts = (float)facts[1];
    training.step = (float)facts[2];
    training.network.inputs = (uint16_t)(tiles[0].rows - 1u);
    training.network.count = crossbar->config.tile_count;
    training.network.cost = (uint8_t)cost;
    uint32_t cells = crossbar_cells(crossbar), classes = hwt_classes_size(&training.network), room = crossbar->config.memory_size;
    if (classes > room || 2u * cells > room - classes)
        return SCPI_TOO_MUCH;
    if (crossbar->skip)
        return SCPI_OK;
    crossbar->training = training;
    memset(crossbar->config.memory, 0, (2u * cells + classes) * sizeof *crossbar->config.memory);
    return SCPI_OK;
}

int crossbar_ask_network(scpi_t *scpi) {
    const crossbar_training_t *training = &crossbar_of(scpi)->training;
    if (!training->network.count)
        return SCPI_CONFLICT;
    scpi_say_number(scpi, (double)training->siemens);
    scpi_say_number(scpi, (double)training->volts);
    scpi_say_number(scpi, (double)training->step);
    scpi_say_whole(scpi, training->network.cost);
    for (uint8_t l = 0; l < training->network.count; l++) {
        scpi_say_whole(scpi, training->network.layers[l].activation);
        scpi_say_whole(scpi, training->network.layers[l].form);
    }
    return SCPI_OK;
}

/* Wishes, and behind them class matrices. */
static uint32_t wishes(const crossbar_t *crossbar) {
    return crossbar_cells(crossbar) + hwt_classes_size(&crossbar->training.network);
}

static int take_floats(scpi_t *scpi, float *to, uint32_t count) {
    const uint8_t *data;
    uint32_t length;
    int error = scpi_block(scpi, &data, &length);
    if (error)
        return error;
    if (length != 4u * count)
        return SCPI_ILLEGAL;
    for (uint32_t i = 0; i < count; i++)
        if (!is_finite(crossbar_float(data + 4u * i)))
            return SCPI_RANGE;
    for (uint32_t i = 0; i < count && !crossbar_of(scpi)->skip; i++)
        to[i] = crossbar_float(data + 4u * i);
    return SCPI_OK;
}

static void say_floats(scpi_t *scpi, const float *from, uint32_t count) {
    scpi_say_block(scpi, 4u * count);
    while (count--)
        crossbar_say_float(scpi, *from++);
}

int crossbar_run_wish(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    return crossbar->training.network.count ? take_floats(scpi, crossbar->config.memory, wishes(crossbar)) : SCPI_CONFLICT;
}

int crossbar_ask_wish(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    if (!crossbar->training.network.count)
        return SCPI_CONFLICT;
    say_floats(scpi, crossbar->config.memory, wishes(crossbar));
    return SCPI_OK;
}

int crossbar_run_held(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    if (!crossbar->training.network.count)
        return SCPI_CONFLICT;
    return take_floats(scpi, crossbar->config.memory + wishes(crossbar), crossbar_cells(crossbar));
}

int crossbar_ask_held(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    if (!crossbar->training.network.count)
        return SCPI_CONFLICT;
    say_floats(scpi, crossbar->config.memory + wishes(crossbar), crossbar_cells(crossbar));
    return SCPI_OK;
}

/* ---- products ---- */

static const union {
    uint32_t bits;
    float value;
} no_number = {0x7FC00000u};

float hwt_array_pass(hwt_board_t *board, const hwt_layer_t *layer, const float *x, float *y) {
    session_t *session = (session_t *)board;
    crossbar_t *crossbar = session->crossbar;
    const crossbar_training_t *training = &crossbar->training;
    const uint8_t tile = (uint8_t)(layer - board->network.layers);
    const uint16_t inputs = (uint16_t)(crossbar->config.tiles[tile].rows - 1u);
    const float reference = training->volts;
    float *volts = crossbar->config.vector, *amperes = volts + inputs + 1u, most = 1.0f;
    for (uint16_t i = 0; i < inputs; i++) {
        if (!is_finite(x[i]) && !session->error)
            session->error = SCPI_DEVICE; /* of layers that amplify too much: no voltage stands for it */
        if (magnitude(x[i]) > most)
            most = magnitude(x[i]);
    }
    for (uint16_t i = 0; i < inputs; i++) {
        float level = x[i] / most * reference;
        volts[i] = level > reference ? reference : level < -reference ? -reference : level; /* of rounding alone */
    }
    volts[inputs] = (layer->form & 1u) == HWT_ADD ? reference / most : -reference / most;
    if (!session->error)
        session->error = crossbar_product(crossbar, tile, volts, amperes);
    const float gain = most / (reference * training->siemens);
    for (uint16_t j = 0; j < layer->outputs; j++)
        if (session->error)
            y[j] = no_number.value; /* of which no rule learns */
        else
            y[j] = hwt_respond(layer, amperes[j] * gain, 0.0f);
    return 1.0f;
}

/* ---- pulses ---- */

/* Those that are missing of a cell's wish; none where a rate has made it no number. */
static int32_t due(const session_t *session, uint32_t cell) {
    float missing = (session->config.theta[cell] - session->held[cell]) / session->crossbar->training.step;
    if (missing != missing)
        return 0;
    return (int32_t)(missing > MOST_PULSES ? MOST_PULSES : missing < -MOST_PULSES ? -MOST_PULSES : missing);
}

/* Bring the cells near their wishes. Where one of them has had its pulses, none gets any. */
static int pay(session_t *session) {
    crossbar_t *crossbar = session->crossbar;
    const uint32_t cells = crossbar_cells(crossbar);
    for (uint32_t cell = 0; cell < cells; cell++) {
        int32_t count = due(session, cell);
        if (!crossbar_bears(crossbar, cell, (uint32_t)(count < 0 ? -count : count)))
            return SCPI_WORN;
    }
    for (uint32_t cell = 0; cell < cells; cell++) {
        int32_t count = due(session, cell);
        int error = count ? crossbar_watch(crossbar) : SCPI_OK;
        if (!error)
            error = crossbar_give(crossbar, cell, session->volts, session->width, count);
        if (error)
            return error;
        session->held[cell] += (float)count * crossbar->training.step;
    }
    return SCPI_OK;
}

/* ---- sessions ---- */

/* Lay out the memory: wishes and class matrices, what is held, results, samples, work. */
static int begin(session_t *session, crossbar_t *crossbar, uint32_t results, uint32_t samples, uint32_t work) {
    const crossbar_training_t *training = &crossbar->training;
    const uint32_t cells = crossbar_cells(crossbar), before = wishes(crossbar) + cells;
    uint32_t room = crossbar->config.memory_size - before;
    if (results > room || samples > room - results || work > room - results - samples || work > UINT16_MAX)
        return SCPI_TOO_MUCH;
    memset(session, 0, sizeof *session);
    session->crossbar = crossbar;
    session->held = crossbar->config.memory + wishes(crossbar);
    session->results = (void *)(crossbar->config.memory + before);
    session->samples = crossbar->config.memory + before + results;
    session->config.theta = crossbar->config.memory;
    session->config.theta_size = wishes(crossbar);
    session->config.samples = session->samples;
    session->config.samples_size = samples;
    session->config.work = session->samples + samples;
    session->config.work_size = (uint16_t)work;
    session->board.config = &session->config;
    session->board.network = training->network;
    session->board.size = cells;
    session->board.largest = FINITE; /* nobody has looked */
    return SCPI_OK;
}

static uint32_t stride(const crossbar_t *crossbar) {
    return (uint32_t)crossbar->training.network.inputs + hwt_outputs(&crossbar->training.network);
}

/* Volts and width of a pulse, rates of hidden layers and read-out, what wishes are kept within, samples of an update, and the
 * samples: inputs, then target. */
int crossbar_run_learn(scpi_t *scpi) {
    static const uint8_t first[2] = {0, 0};
    crossbar_t *crossbar = crossbar_of(scpi);
    const hwt_network_t *network = &crossbar->training.network;
    session_t session;
    const uint8_t *data;
    uint32_t length, batch;
    double how[6];
    int error = SCPI_OK;
    for (int i = 0; i < 6; i++)
        if ((error = scpi_number(scpi, &how[i])) != 0)
            return error;
    if ((error = scpi_whole(scpi, 1.0, UINT16_MAX, &batch)) != 0 || (error = scpi_block(scpi, &data, &length)) != 0 ||
        (error = crossbar_allows(crossbar, (float)how[0], (float)how[1])) != 0)
        return error;
    if (!network->count || !hwt_can_learn(network, HWT_MONO_FORWARD))
        return SCPI_CONFLICT;
    for (int i = 2; i < 6; i++)
        if (!(how[i] >= -(double)FINITE && how[i] <= (double)FINITE))
            return SCPI_RANGE;
    if (crossbar->training.volts > crossbar->limit_read || !(how[4] < how[5]))
        return SCPI_RANGE;
    if (batch > crossbar->config.memory_size / stride(crossbar))
        return SCPI_TOO_MUCH;
    if (!length || length % 4u || length / 4u % (batch * stride(crossbar)))
        return SCPI_ILLEGAL;
    for (uint32_t at = 0; at < length; at += 4u)
        if (!is_finite(crossbar_float(data + at)))
            return SCPI_RANGE;
    const uint32_t size = batch * stride(crossbar), updates = length / 4u / size;
    const uint32_t work = hwt_learn_work_size(network, HWT_MONO_FORWARD, (uint16_t)batch);
    if ((error = begin(&session, crossbar, updates, size, work)) != 0 || crossbar_done(crossbar))
        return error;
    const hwt_lesson_t lesson = {.batch = (uint16_t)batch, .updates = 1, .rate = (float)how[2], .readout_rate = (float)how[3],
                                 .low = (float)how[4], .high = (float)how[5], .rule = HWT_MONO_FORWARD, .slots = first};
    session.volts = (float)how[0];
    session.width = (float)how[1];
    crossbar->used = 0;
    crossbar->training.updates = crossbar->training.results = 0;
    for (uint32_t update = 0; update < updates; update++) {
        for (uint32_t i = 0; i < size; i++, data += 4)
            session.samples[i] = crossbar_float(data);
        if ((error = crossbar_watch(crossbar)) != 0)
            return error;
        hwt_learn(&session.board, &lesson, session.results + 4u * update);
        if (session.error)
            return session.error;
        if ((error = pay(&session)) != 0)
            return error;
        crossbar->training.updates = ++crossbar->training.results;
        crossbar->trained++;
    }
    return SCPI_OK;
}

/* ---- multiplexed gradient descent ---- */

/* How cells are perturbed: by the port's own means, or by so many pulses there and back. */
typedef struct shake {
    hwt_code_t code;
    int32_t pulses; /* 0 is by the port's */
    float siemens;  /* of that */
} shake_t;

/* Every cell by the sign of the pattern, or back. Where one of them has had its pulses, none gets any. */
static int shaken(session_t *session, const shake_t *shake, const hwt_pattern_t *pattern, int back) {
    crossbar_t *crossbar = session->crossbar;
    const uint32_t cells = crossbar_cells(crossbar);
    for (uint32_t index = 0; !shake->pulses && 32u * index < cells; index++) {
        int error = crossbar_move(crossbar, index, back ? 0 : hwt_pattern_word(pattern, index), back ? 0.0f : shake->siemens);
        if (error)
            return error;
    }
    for (uint32_t cell = 0; shake->pulses && !back && cell < cells; cell++)
        if (!crossbar_bears(crossbar, cell, 2u * (uint32_t)shake->pulses))
            return SCPI_WORN;
    for (uint32_t cell = 0; shake->pulses && cell < cells; cell++) {
        int down = (int)(hwt_pattern_word(pattern, cell / 32u) >> (cell % 32u) & 1u);
        int error = crossbar_give(crossbar, cell, session->volts, session->width, down != back ? -shake->pulses : shake->pulses);
        if (error)
            return error;
    }
    return SCPI_OK;
}

/* Mean cost over the samples of a presentation. */
static float measure(session_t *session, uint16_t batch) {
    const hwt_network_t *network = &session->board.network;
    float sum = 0.0f;
    for (uint16_t b = 0; b < batch; b++) {
        const float *sample = session->samples + b * stride(session->crossbar), *x = sample;
        float *y = session->config.work;
        for (uint8_t l = 0; l < network->count; l++) {
            hwt_array_pass(&session->board, &network->layers[l], x, y);
            x = y;
            y += network->layers[l].outputs;
        }
        sum += hwt_cost_of(network->cost, x, sample + network->inputs, hwt_outputs(network));
    }
    return sum / (float)batch;
}

/* A tick: a baseline where one is due, and the cost under the perturbation. */
static int one_tick(session_t *session, const shake_t *shake, uint32_t tick, uint16_t batch, int plain, float *baseline,
                    float *modulation) {
    hwt_pattern_t pattern;
    int error, after;
    hwt_pattern_at(&pattern, &shake->code, tick, session->board.size);
    if (plain)
        *baseline = measure(session, batch);
    if (session->error)
        return session->error;
    if ((error = shaken(session, shake, &pattern, 0)) != 0)
        return error;
    *modulation = measure(session, batch) - *baseline;
    error = session->error;
    if (!session->crossbar->on)
        return error; /* all is safe by now */
    after = shaken(session, shake, &pattern, 1);
    return error ? error : after;
}

/* Volts and width of a pulse; perturbation by 0, the port's means, or by so many pulses; its seed, kind, hold and amplitude;
 * first tick, ticks, tau_x, tau_theta, batch, baseline, rate, what wishes are kept within, and samples of every presentation. */
int crossbar_run_train(scpi_t *scpi) {
    enum { PULSES, SEED, KIND, HOLD, FIRST, TICKS, TAU_X, TAU_THETA, BATCH, BASELINE, WHOLE };
    static const double least[WHOLE] = {0, 0, 0, 1, 0, 1, 1, 1, 1, HWT_BASELINE_NONE};
    static const double most[WHOLE] = {1000, 4294967295.0, 255, 65535, 4294901760.0, 65535, 65535, 65535, 65535, HWT_BASELINE_FRESH};
    crossbar_t *crossbar = crossbar_of(scpi);
    const hwt_network_t *network = &crossbar->training.network;
    session_t session;
    const uint8_t *data;
    uint32_t whole[WHOLE], length;
    double volts, width, amplitude, rate, low, high;
    int error = scpi_number(scpi, &volts);
    if (error || (error = scpi_number(scpi, &width)) != 0)
        return error;
    for (int i = PULSES; i <= HOLD; i++)
        if ((error = scpi_whole(scpi, least[i], most[i], &whole[i])) != 0)
            return error;
    if ((error = scpi_number(scpi, &amplitude)) != 0)
        return error;
    for (int i = FIRST; i < WHOLE; i++)
        if ((error = scpi_whole(scpi, least[i], most[i], &whole[i])) != 0)
            return error;
    if ((error = scpi_number(scpi, &rate)) != 0 || (error = scpi_number(scpi, &low)) != 0 ||
        (error = scpi_number(scpi, &high)) != 0 || (error = scpi_block(scpi, &data, &length)) != 0 ||
        (error = crossbar_allows(crossbar, (float)volts, (float)width)) != 0)
        return error;
    if (!network->count || (!whole[PULSES] && !crossbar->config.port->perturb))
        return SCPI_CONFLICT;
    if (!is_finite((float)rate) || !is_finite((float)low) || !is_finite((float)high) || !(low < high) ||
        !(amplitude > 0.0 && amplitude <= 1e6) || crossbar->training.volts > crossbar->limit_read ||
        (whole[KIND] & (uint8_t)~HWT_ANTITHETIC) > HWT_WALSH_TWO_SIDED)
        return SCPI_RANGE;
    const shake_t shake = {{whole[SEED], (uint16_t)whole[HOLD], (uint8_t)whole[KIND], (float)amplitude}, (int32_t)whole[PULSES],
                           (float)amplitude * crossbar->training.siemens};
    if (!shake.pulses && shake.siemens > crossbar->limit_move)
        return SCPI_RANGE;
    const uint32_t first = whole[FIRST], ticks = whole[TICKS], tau_x = whole[TAU_X], window = whole[TAU_THETA];
    const uint32_t batch = whole[BATCH], presentations = (first + ticks - 1u) / tau_x - first / tau_x + 1u;
    if (ticks % window || first % window || batch > crossbar->config.memory_size ||
        length != (uint64_t)4u * batch * stride(crossbar) * presentations)
        return SCPI_ILLEGAL;
    for (uint32_t at = 0; at < length; at += 4u)
        if (!is_finite(crossbar_float(data + at)))
            return SCPI_RANGE;
    if ((error = begin(&session, crossbar, 2u * ticks, batch * stride(crossbar), hwt_nodes(network))) != 0 || crossbar_done(crossbar))
        return error;
    for (uint32_t cell = 0; cell < crossbar_cells(crossbar); cell++)
        if (!crossbar_bears(crossbar, cell, 2u * ticks * whole[PULSES]))
            return SCPI_WORN;
    float baseline = 0.0f, modulation = 0.0f;
    int stale = 1, shown = 0; /* is the baseline out of date; do samples of the presentation stand there? */
    session.volts = (float)volts;
    session.width = (float)width;
    crossbar->used = 0;
    crossbar->training.updates = crossbar->training.results = 0;
    for (uint32_t t = 0; t < ticks; t++) {
        const uint32_t tick = first + t;
        for (uint32_t i = 0; !shown && i < batch * stride(crossbar); i++, data += 4)
            session.samples[i] = crossbar_float(data);
        if ((error = crossbar_watch(crossbar)) != 0)
            return error;
        const int plain = whole[BASELINE] == HWT_BASELINE_FRESH || (whole[BASELINE] == HWT_BASELINE_SHARED && stale);
        if ((error = one_tick(&session, &shake, tick, (uint16_t)batch, plain, &baseline, &modulation)) != 0)
            return error;
        hwt_put_float(session.results + 8u * t, baseline);
        hwt_put_float(session.results + 8u * t + 4u, modulation);
        crossbar->training.results += 2u;
        shown = (tick + 1u) % tau_x != 0;
        stale = !shown;
        if ((tick + 1u) % window == 0) {
            const uint32_t begun = t + 1u - window;
            const hwt_modulations_t modulations = {session.results + 8u * begun + 4u, 8, (uint16_t)window, (float)rate};
            hwt_apply(&session.board, &shake.code, first + begun, &modulations, (float)low, (float)high, 1);
            if ((error = pay(&session)) != 0)
                return error;
            crossbar->training.updates++;
            crossbar->trained++;
            stale = 1;
        }
    }
    return SCPI_OK;
}

/* Updates and pulses of the last training; what it has measured. */
int crossbar_ask_training(scpi_t *scpi) {
    const crossbar_t *crossbar = crossbar_of(scpi);
    scpi_say_whole(scpi, (int32_t)crossbar->training.updates);
    scpi_say_whole(scpi, (int32_t)crossbar->used);
    return SCPI_OK;
}

int crossbar_ask_results(scpi_t *scpi) {
    const crossbar_t *crossbar = crossbar_of(scpi);
    if (!crossbar->training.network.count)
        return SCPI_CONFLICT;
    const uint8_t *from = (const void *)(crossbar->config.memory + wishes(crossbar) + crossbar_cells(crossbar));
    scpi_say_block(scpi, 4u * crossbar->training.results);
    for (uint32_t i = 0; i < crossbar->training.results; i++, from += 4)
        crossbar_say_float(scpi, hwt_get_float(from));
    return SCPI_OK;
}
