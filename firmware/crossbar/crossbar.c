#include "crossbar.h"

#include <stddef.h>

#define WATCHDOG 10000u /* [ms], after power on */
#define PAUSE 500u      /* [ms] within a block, after which no more of the message will come */
enum { OFF = 1u << 9, CLIPPED = 1u << 10 }; /* of the questionable status: the watchdog has acted; a reading was at the end */

crossbar_t *crossbar_of(scpi_t *scpi) {
    return scpi->config->owner;
}

float crossbar_float(const uint8_t *bytes) {
    uint32_t word = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static void say_word(scpi_t *scpi, uint32_t word) {
    for (int shift = 24; shift >= 0; shift -= 8)
        scpi_say_byte(scpi, (uint8_t)(word >> shift));
}

void crossbar_say_float(scpi_t *scpi, float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    say_word(scpi, word);
}

static void switch_off(crossbar_t *crossbar) {
    crossbar->config.port->safe(crossbar->config.port->context);
    crossbar->on = 0;
}

/* A code of the port as an error; everything is made safe where the hardware fails. */
static int judged(crossbar_t *crossbar, int code) {
    if (code < 0) {
        switch_off(crossbar);
        return SCPI_HARDWARE;
    }
    if (code > 0) {
        crossbar->scpi.questionable.event |= CLIPPED;
        return SCPI_DEVICE;
    }
    return SCPI_OK;
}

/* ---- places ---- */

typedef struct place {
    uint8_t tile;
    uint16_t row, column;
    uint32_t cell;
} place_t;

static uint32_t first_cell(const crossbar_t *crossbar, uint8_t tile) {
    uint32_t first = 0;
    for (uint8_t i = 0; i < tile; i++)
        first += (uint32_t)crossbar->config.tiles[i].rows * crossbar->config.tiles[i].columns;
    return first;
}

uint32_t crossbar_cells(const crossbar_t *crossbar) {
    return first_cell(crossbar, crossbar->config.tile_count);
}

static int take_tile(scpi_t *scpi, uint8_t *tile) {
    uint32_t number;
    int error = scpi_whole(scpi, 0.0, crossbar_of(scpi)->config.tile_count - 1.0, &number);
    *tile = (uint8_t)(error ? 0u : number);
    return error;
}

static int take_place(scpi_t *scpi, place_t *place) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint32_t row, column;
    int error = take_tile(scpi, &place->tile);
    const crossbar_tile_t *tile = &crossbar->config.tiles[place->tile];
    if (error || (error = scpi_whole(scpi, 0.0, tile->rows - 1.0, &row)) != 0 ||
        (error = scpi_whole(scpi, 0.0, tile->columns - 1.0, &column)) != 0)
        return error;
    place->row = (uint16_t)row;
    place->column = (uint16_t)column;
    place->cell = first_cell(crossbar, place->tile) + row * tile->columns + column;
    return SCPI_OK;
}

static void place_of(const crossbar_t *crossbar, uint32_t cell, place_t *place) {
    place->cell = cell;
    for (place->tile = 0;; place->tile++) {
        const crossbar_tile_t *tile = &crossbar->config.tiles[place->tile];
        uint32_t size = (uint32_t)tile->rows * tile->columns;
        if (cell < size) {
            place->row = (uint16_t)(cell / tile->columns);
            place->column = (uint16_t)(cell % tile->columns);
            return;
        }
        cell -= size;
    }
}

/* ---- what drives ---- */

static int ready(const crossbar_t *crossbar) {
    return crossbar->on ? SCPI_OK : SCPI_CONFLICT;
}

static float magnitude(float value) {
    return value < 0.0f ? -value : value;
}

static int within(const crossbar_t *crossbar, float volts, float width) {
    if (!(magnitude(volts) <= crossbar->limit_volts && width >= crossbar->config.shortest && width <= crossbar->limit_width))
        return SCPI_RANGE;
    return SCPI_OK;
}

int crossbar_bears(const crossbar_t *crossbar, uint32_t cell, uint32_t many) {
    return !many || (many <= crossbar->limit_pulses && crossbar->config.pulses[cell] <= crossbar->limit_pulses - many);
}

/* So many pulses on a cell: up at `volts`, down at their negative. */
static int pulses(crossbar_t *crossbar, const place_t *place, float volts, float width, int32_t count) {
    const crossbar_port_t *port = crossbar->config.port;
    uint32_t many = count < 0 ? 0u - (uint32_t)count : (uint32_t)count;
    if (!many)
        return SCPI_OK;
    if (!crossbar_bears(crossbar, place->cell, many))
        return SCPI_WORN;
    int error = judged(crossbar, port->select(port->context, place->tile, place->row, place->column));
    for (; !error && many; many--) {
        crossbar->config.pulses[place->cell]++;
        crossbar->total++;
        crossbar->used++;
        error = judged(crossbar, port->pulse(port->context, count < 0 ? -volts : volts, width));
    }
    return error;
}

int crossbar_allows(const crossbar_t *crossbar, float volts, float width) {
    int error = ready(crossbar);
    return error ? error : within(crossbar, volts, width);
}

int crossbar_give(crossbar_t *crossbar, uint32_t cell, float volts, float width, int32_t count) {
    place_t place;
    place_of(crossbar, cell, &place);
    return pulses(crossbar, &place, volts, width, count);
}

/* Whatever goes wrong, all is made safe: cells half of which are moved must not be measured, nor left so. */
int crossbar_move(crossbar_t *crossbar, uint32_t index, uint32_t signs, float siemens) {
    const crossbar_port_t *port = crossbar->config.port;
    return judged(crossbar, port->perturb(port->context, index, signs, siemens) ? -1 : 0);
}

/* Conductance of a cell [S]. */
static int conductance(crossbar_t *crossbar, const place_t *place, float *siemens) {
    const crossbar_port_t *port = crossbar->config.port;
    float current;
    int error = judged(crossbar, port->select(port->context, place->tile, place->row, place->column));
    if (error)
        return error;
    crossbar->reads++;
    error = judged(crossbar, port->read(port->context, crossbar->limit_read, &current));
    *siemens = current / crossbar->limit_read;
    return error;
}

/* ---- settings ---- */

static int take_limit(scpi_t *scpi, float *limit, float least, float most) {
    double value;
    int error = scpi_number(scpi, &value);
    if (error)
        return error;
    if (!(value >= (double)least && value <= (double)most))
        return SCPI_RANGE; /* a limit can be lowered below the board's, never raised above */
    *limit = (float)value;
    return SCPI_OK;
}

static int run_limit_volts(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    return take_limit(scpi, &crossbar->limit_volts, 0.0f, crossbar->config.most_volts);
}

static int run_limit_read(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    return take_limit(scpi, &crossbar->limit_read, 1e-3f, crossbar->config.most_read_volts);
}

static int run_limit_width(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    return take_limit(scpi, &crossbar->limit_width, crossbar->config.shortest, crossbar->config.longest);
}

static int run_limit_move(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    return take_limit(scpi, &crossbar->limit_move, 0.0f, crossbar->config.most_move);
}

static int run_limit_pulses(scpi_t *scpi) {
    return scpi_whole(scpi, 0.0, 2147483647.0, &crossbar_of(scpi)->limit_pulses);
}

static int ask_limit_volts(scpi_t *scpi) {
    scpi_say_number(scpi, (double)crossbar_of(scpi)->limit_volts);
    return SCPI_OK;
}

static int ask_limit_read(scpi_t *scpi) {
    scpi_say_number(scpi, (double)crossbar_of(scpi)->limit_read);
    return SCPI_OK;
}

static int ask_limit_width(scpi_t *scpi) {
    scpi_say_number(scpi, (double)crossbar_of(scpi)->limit_width);
    return SCPI_OK;
}

static int ask_limit_move(scpi_t *scpi) {
    scpi_say_number(scpi, (double)crossbar_of(scpi)->limit_move);
    return SCPI_OK;
}

static int ask_limit_pulses(scpi_t *scpi) {
    scpi_say_whole(scpi, (int32_t)crossbar_of(scpi)->limit_pulses);
    return SCPI_OK;
}

static int run_output(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint8_t on;
    int error = scpi_flag(scpi, &on);
    if (error)
        return error;
    switch_off(crossbar);
    crossbar->on = on;
    if (on)
        scpi_condition(&scpi->questionable, OFF, 0);
    return SCPI_OK;
}

static int ask_output(scpi_t *scpi) {
    scpi_say_whole(scpi, crossbar_of(scpi)->on);
    return SCPI_OK;
}

static int run_watchdog(scpi_t *scpi) {
    double seconds;
    int error = scpi_number(scpi, &seconds);
    if (error)
        return error;
    if (!(seconds >= 0.0 && seconds <= 3600.0))
        return SCPI_RANGE;
    crossbar_of(scpi)->watchdog = (uint32_t)(1000.0 * seconds + 0.5);
    return SCPI_OK;
}

static int ask_watchdog(scpi_t *scpi) {
    scpi_say_number(scpi, crossbar_of(scpi)->watchdog / 1000.0);
    return SCPI_OK;
}

static int ask_size(scpi_t *scpi) {
    const crossbar_t *crossbar = crossbar_of(scpi);
    for (uint8_t i = 0; i < crossbar->config.tile_count; i++) {
        scpi_say_whole(scpi, crossbar->config.tiles[i].rows);
        scpi_say_whole(scpi, crossbar->config.tiles[i].columns);
    }
    return SCPI_OK;
}

static int run_once(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint32_t number;
    int error = scpi_whole(scpi, 1.0, 2147483647.0, &number);
    if (error)
        return error;
    crossbar->skip = number == crossbar->once;
    crossbar->number = number;
    if (!crossbar->skip) /* what stands there is not of this message, should it be refused and its answer be lost */
        crossbar->training.updates = crossbar->training.results = 0;
    return SCPI_OK;
}

int crossbar_done(crossbar_t *crossbar) {
    if (!crossbar->skip && crossbar->number) {
        crossbar->once = crossbar->number;
        crossbar->number = 0;
        crossbar->numbered = 1;
        crossbar->fate = SCPI_OK;
    }
    return crossbar->skip;
}

/* What became of a change of cells. One that failed fails again where its message is said again: its answer may have been lost. */
static int settled(crossbar_t *crossbar, int error) {
    if (crossbar->numbered && !crossbar->fate)
        crossbar->fate = (int16_t)error;
    return crossbar->skip && !error ? crossbar->fate : error;
}

static int ask_once(scpi_t *scpi) {
    scpi_say_whole(scpi, (int32_t)crossbar_of(scpi)->once);
    return SCPI_OK;
}

/* ---- work ---- */

static int give_one(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    place_t place;
    double volts, width;
    uint32_t count = 1;
    int error = take_place(scpi, &place);
    if (error || (error = scpi_number(scpi, &volts)) != 0 || (error = scpi_number(scpi, &width)) != 0 ||
        (scpi_more(scpi) && (error = scpi_whole(scpi, 1.0, 65535.0, &count)) != 0))
        return error;
    if ((error = ready(crossbar)) != 0 || (error = within(crossbar, (float)volts, (float)width)) != 0 || crossbar_done(crossbar))
        return error;
    crossbar->used = 0;
    return pulses(crossbar, &place, (float)volts, (float)width, (int32_t)count);
}

static int16_t count_at(const uint8_t *data, uint32_t index) {
    return (int16_t)(uint16_t)((uint32_t)data[2u * index] << 8 | data[2u * index + 1u]);
}

/* Volts, width, and a count for every cell. All is looked at before the first pulse. */
static int give_all(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    const uint8_t *data;
    uint32_t length, cells = crossbar_cells(crossbar);
    double volts, width;
    int error = scpi_number(scpi, &volts);
    if (error || (error = scpi_number(scpi, &width)) != 0 || (error = scpi_block(scpi, &data, &length)) != 0)
        return error;
    if ((error = ready(crossbar)) != 0 || (error = within(crossbar, (float)volts, (float)width)) != 0)
        return error;
    if (length != 2u * cells)
        return SCPI_ILLEGAL;
    if (crossbar_done(crossbar))
        return SCPI_OK;
    for (uint32_t cell = 0; cell < cells; cell++) {
        int32_t count = count_at(data, cell);
        uint32_t many = (uint32_t)(count < 0 ? -count : count);
        if (!crossbar_bears(crossbar, cell, many))
            return SCPI_WORN;
    }
    crossbar->used = 0;
    for (uint32_t cell = 0; cell < cells && !error; cell++) {
        place_t place;
        if (count_at(data, cell)) {
            place_of(crossbar, cell, &place);
            error = pulses(crossbar, &place, (float)volts, (float)width, count_at(data, cell));
        }
    }
    return error;
}

static int ask_read(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    place_t place;
    float siemens;
    int error = take_place(scpi, &place);
    if (error || (error = ready(crossbar)) != 0 || (error = conductance(crossbar, &place, &siemens)) != 0)
        return error;
    scpi_say_number(scpi, (double)siemens);
    return SCPI_OK;
}

/* Every cell, one after another; what fails half-way is NaN from there on, for the head of the block is gone by then. */
static int ask_read_array(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint32_t cells = crossbar_cells(crossbar);
    int error = ready(crossbar);
    if (error)
        return error;
    scpi_say_block(scpi, 4u * cells);
    for (uint32_t cell = 0; cell < cells; cell++) {
        place_t place;
        float siemens = 0.0f;
        place_of(crossbar, cell, &place);
        if (!error)
            error = conductance(crossbar, &place, &siemens);
        if (error)
            say_word(scpi, 0x7FC00000u);
        else
            crossbar_say_float(scpi, siemens);
    }
    return error;
}

int crossbar_product(crossbar_t *crossbar, uint8_t tile, const float *volts, float *amperes) {
    const crossbar_port_t *port = crossbar->config.port;
    const crossbar_tile_t *size = &crossbar->config.tiles[tile];
    if (port->multiply) {
        crossbar->reads++;
        return judged(crossbar, port->multiply(port->context, tile, volts, amperes));
    }
    for (uint16_t column = 0; column < size->columns; column++) {
        amperes[column] = 0.0f;
        for (uint16_t row = 0; row < size->rows; row++) {
            float current = 0.0f;
            if (volts[row] == 0.0f)
                continue;
            int error = judged(crossbar, port->select(port->context, tile, row, column));
            crossbar->reads++;
            if (error || (error = judged(crossbar, port->read(port->context, volts[row], &current))) != 0)
                return error;
            amperes[column] += current;
        }
    }
    return SCPI_OK;
}

/* A tile, and vectors of voltages: a voltage for each row, one vector after another. */
static int ask_multiply(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint8_t tile;
    const uint8_t *data;
    uint32_t length;
    int error = take_tile(scpi, &tile);
    if (error || (error = scpi_block(scpi, &data, &length)) != 0 || (error = ready(crossbar)) != 0)
        return error;
    const crossbar_tile_t *size = &crossbar->config.tiles[tile];
    float *volts = crossbar->config.vector, *amperes = volts + size->rows;
    if (!length || length % (4u * size->rows))
        return SCPI_ILLEGAL;
    for (uint32_t at = 0; at < length; at += 4u) {
        float value = crossbar_float(data + at);
        if (!(magnitude(value) <= crossbar->limit_read))
            return SCPI_RANGE;
    }
    uint32_t vectors = length / (4u * size->rows);
    scpi_say_block(scpi, 4u * vectors * size->columns);
    for (uint32_t i = 0; i < vectors; i++, data += 4u * size->rows) {
        for (uint16_t row = 0; row < size->rows; row++)
            volts[row] = crossbar_float(data + 4u * row);
        if (!error)
            error = crossbar_product(crossbar, tile, volts, amperes);
        for (uint16_t column = 0; column < size->columns; column++)
            if (error)
                say_word(scpi, 0x7FC00000u);
            else
                crossbar_say_float(scpi, amperes[column]);
    }
    return error;
}

/* Bring a cell near a conductance: read, pulse what is missing, read again. */
static int write_cell(crossbar_t *crossbar, const place_t *place, float target, const double *how) {
    float volts = (float)how[0], width = (float)how[1], tolerance = (float)how[2], step = (float)how[3];
    for (uint32_t round = 0; round < (uint32_t)how[4]; round++) {
        float now;
        int error = conductance(crossbar, place, &now);
        if (error)
            return error;
        float off = target - now;
        if (magnitude(off) <= tolerance)
            return SCPI_OK;
        float wished = off / step + (off < 0.0f ? -0.5f : 0.5f);
        int32_t count = wished > 1000.0f ? 1000 : wished < -1000.0f ? -1000 : (int32_t)wished;
        if (!count)
            return SCPI_OK; /* nearer than a pulse can bring it */
        if ((error = pulses(crossbar, place, volts, width, count)) != 0)
            return error;
    }
    crossbar->failed++;
    return SCPI_OK;
}

/* Volts, width, tolerance [S], step of a pulse [S], rounds at most, and for every cell a target [S] or NaN. */
static int write_all(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    const uint8_t *data;
    uint32_t length, cells = crossbar_cells(crossbar);
    double how[5];
    int error = SCPI_OK;
    for (int i = 0; i < 5; i++)
        if ((error = scpi_number(scpi, &how[i])) != 0)
            return error;
    if ((error = scpi_block(scpi, &data, &length)) != 0 || (error = ready(crossbar)) != 0 ||
        (error = within(crossbar, (float)how[0], (float)how[1])) != 0)
        return error;
    if (!(how[2] > 0.0 && how[3] > 0.0 && how[4] >= 1.0 && how[4] <= 1000.0))
        return SCPI_RANGE;
    if (length != 4u * cells)
        return SCPI_ILLEGAL;
    if (crossbar_done(crossbar))
        return SCPI_OK;
    crossbar->used = crossbar->failed = 0;
    for (uint32_t cell = 0; cell < cells && !error; cell++) {
        float target = crossbar_float(data + 4u * cell);
        place_t place;
        place_of(crossbar, cell, &place);
        if (target == target)
            error = write_cell(crossbar, &place, target, how);
    }
    return error;
}

static int ask_write(scpi_t *scpi) {
    scpi_say_whole(scpi, (int32_t)crossbar_of(scpi)->used);
    scpi_say_whole(scpi, (int32_t)crossbar_of(scpi)->failed);
    return SCPI_OK;
}

static int ask_count(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint32_t most = 0, cells = crossbar_cells(crossbar);
    for (uint32_t cell = 0; cell < cells; cell++)
        if (crossbar->config.pulses[cell] > most)
            most = crossbar->config.pulses[cell];
    scpi_say_whole(scpi, (int32_t)crossbar->total);
    scpi_say_whole(scpi, (int32_t)most);
    scpi_say_whole(scpi, (int32_t)crossbar->reads);
    return SCPI_OK;
}

static int ask_count_array(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    uint32_t cells = crossbar_cells(crossbar);
    scpi_say_block(scpi, 4u * cells);
    for (uint32_t cell = 0; cell < cells; cell++)
        say_word(scpi, crossbar->config.pulses[cell]);
    return SCPI_OK;
}

static int run_pulse(scpi_t *scpi) {
    return settled(crossbar_of(scpi), give_one(scpi));
}

static int run_pulse_array(scpi_t *scpi) {
    return settled(crossbar_of(scpi), give_all(scpi));
}

static int run_write_array(scpi_t *scpi) {
    return settled(crossbar_of(scpi), write_all(scpi));
}

/* IEEE 488.2, 10.14: what it can beside, or 0. */
static int ask_options(scpi_t *scpi) {
    const crossbar_config_t *config = &crossbar_of(scpi)->config;
    scpi_say_text(scpi, !config->memory_size ? "0" : config->port->perturb ? "LEARN,TRAIN,PERTURB" : "LEARN,TRAIN");
    return SCPI_OK;
}

static const scpi_command_t commands[] = {
    {"*OPT?", ask_options},
    {"XBAR:SIZE?", ask_size},
    {"XBAR:LIMit:VOLTage", run_limit_volts}, {"XBAR:LIMit:VOLTage?", ask_limit_volts},
    {"XBAR:LIMit:READ", run_limit_read}, {"XBAR:LIMit:READ?", ask_limit_read},
    {"XBAR:LIMit:WIDTh", run_limit_width}, {"XBAR:LIMit:WIDTh?", ask_limit_width},
    {"XBAR:LIMit:MOVE", run_limit_move}, {"XBAR:LIMit:MOVE?", ask_limit_move},
    {"XBAR:LIMit:PULSes", run_limit_pulses}, {"XBAR:LIMit:PULSes?", ask_limit_pulses},
    {"OUTPut[:STATe]", run_output}, {"OUTPut[:STATe]?", ask_output},
    {"XBAR:WATChdog", run_watchdog}, {"XBAR:WATChdog?", ask_watchdog},
    {"XBAR:ONCE", run_once}, {"XBAR:ONCE?", ask_once},
    {"XBAR:PULSe", run_pulse}, {"XBAR:PULSe:ARRay", run_pulse_array},
    {"XBAR:READ?", ask_read}, {"XBAR:READ:ARRay?", ask_read_array},
    {"XBAR:MULTiply?", ask_multiply},
    {"XBAR:WRITe:ARRay", run_write_array}, {"XBAR:WRITe?", ask_write},
    {"XBAR:COUNt?", ask_count}, {"XBAR:COUNt:ARRay?", ask_count_array},
    {"XBAR:NETWork", crossbar_run_network}, {"XBAR:NETWork?", crossbar_ask_network},
    {"XBAR:NETWork:WISH", crossbar_run_wish}, {"XBAR:NETWork:WISH?", crossbar_ask_wish},
    {"XBAR:NETWork:HELD", crossbar_run_held}, {"XBAR:NETWork:HELD?", crossbar_ask_held},
    {"XBAR:LEARn", crossbar_run_learn}, {"XBAR:LEARn?", crossbar_ask_training}, {"XBAR:LEARn:COST?", crossbar_ask_results},
    {"XBAR:TRAin", crossbar_run_train}, {"XBAR:TRAin?", crossbar_ask_training}, {"XBAR:TRAin:COST?", crossbar_ask_results},
    {NULL, NULL},
};

/* ---- the machine ---- */

static void write_byte(void *owner, uint8_t byte) {
    crossbar_t *crossbar = owner;
    crossbar->config.port->write_byte(crossbar->config.port->context, byte);
}

/* *RST: outputs off, limits as wide as the board's. Cells and what they have been through stay. */
static void reset(void *owner) {
    crossbar_t *crossbar = owner;
    switch_off(crossbar);
    crossbar->limit_volts = crossbar->config.most_volts;
    crossbar->limit_read = crossbar->config.most_read_volts;
    crossbar->limit_width = crossbar->config.longest;
    crossbar->limit_move = crossbar->config.most_move;
    crossbar->limit_pulses = 2147483647u;
    crossbar->watchdog = WATCHDOG;
}

static int test(void *owner) {
    const crossbar_t *crossbar = owner;
    return crossbar_cells(crossbar) ? 0 : 1;
}

static void begins(void *owner) {
    crossbar_t *crossbar = owner;
    crossbar->skip = crossbar->numbered = 0;
    crossbar->number = 0;
    crossbar->heard = crossbar->config.port->millis(crossbar->config.port->context);
}

int crossbar_lay_out(crossbar_t *crossbar, const crossbar_tile_t *tiles, uint8_t count) {
    uint32_t cells = 0;
    if (count < 1 || count > CROSSBAR_TILES)
        return -1;
    for (uint8_t i = 0; i < count; i++) {
        uint32_t size = (uint32_t)tiles[i].rows * tiles[i].columns;
        if (!size || size > crossbar->config.cells - cells ||
            (uint32_t)tiles[i].rows + tiles[i].columns > crossbar->config.vector_size)
            return -1;
        cells += size;
    }
    for (uint8_t i = 0; i < count; i++)
        crossbar->config.tiles[i] = tiles[i];
    crossbar->config.tile_count = count;
    memset(&crossbar->training, 0, sizeof crossbar->training);
    memset(crossbar->config.pulses, 0, cells * sizeof *crossbar->config.pulses);
    return 0;
}

int crossbar_init(crossbar_t *crossbar, const crossbar_config_t *config) {
    memset(crossbar, 0, sizeof *crossbar);
    crossbar->config = *config;
    reset(crossbar);
    crossbar->scpi_config = (scpi_config_t){
        .commands = commands, .more = config->more, .identity = config->identity, .owner = crossbar, .write = write_byte,
        .reset = reset, .test = test, .begins = begins, .buffer = config->buffer, .size = config->buffer_size,
    };
    scpi_init(&crossbar->scpi, &crossbar->scpi_config);
    return crossbar_lay_out(crossbar, config->tiles, config->tile_count);
}

int crossbar_watch(crossbar_t *crossbar) {
    const crossbar_port_t *port = crossbar->config.port;
    if (!crossbar->watchdog || port->millis(port->context) - crossbar->heard < crossbar->watchdog)
        return SCPI_OK;
    crossbar->scpi.checked = 0; /* who speaks next may be another */
    if (!crossbar->on)
        return SCPI_OK;
    switch_off(crossbar);
    scpi_condition(&crossbar->scpi.questionable, OFF, 1);
    return SCPI_SILENCE;
}

int crossbar_poll(crossbar_t *crossbar) {
    const crossbar_port_t *port = crossbar->config.port;
    int byte = port->read_byte(port->context), busy = byte >= 0;
    if (busy || !scpi_in_block(&crossbar->scpi))
        crossbar->came = port->millis(port->context);
    else if (port->millis(port->context) - crossbar->came >= PAUSE)
        scpi_forget(&crossbar->scpi); /* or what the host says next would be taken for data */
    while (byte >= 0 && !scpi_take(&crossbar->scpi, (uint8_t)byte))
        byte = port->read_byte(port->context);
    if (byte >= 0)
        crossbar->heard = port->millis(port->context); /* the host was not silent while we worked */
    crossbar_watch(crossbar);
    return busy;
}
