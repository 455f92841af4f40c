/* A controller of crossbar arrays behind SCPI: selects, pulses, reads, multiplies, writes and verifies, within limits of its own.
 *
 *     static crossbar_t crossbar;
 *     crossbar_init(&crossbar, &config);
 *     for (;;)
 *         if (!crossbar_poll(&crossbar))
 *             sleep_until_a_byte_or_a_tick();
 *
 * Commands are in SCPI.md. An array of rows and columns is a tile; cells are counted row by row. All conductances are those that
 * a cell has above a reference cell beside it, so that they are signed.
 */
#ifndef CROSSBAR_H
#define CROSSBAR_H

#include <stdint.h>

#include "hwtrain/network.h"
#include "scpi.h"

#ifndef CROSSBAR_TILES
#define CROSSBAR_TILES 8u
#endif

/* What the controller asks of a board. Calls get `context` back untouched; those that drive return 0, or -1 when the hardware
 * fails, or 1 when a converter was at the end of its range. */
typedef struct crossbar_port {
    void *context;

    /* The line to the host: the next byte or -1; send one, which may wait for the transmitter; milliseconds modulo 2^32. */
    int (*read_byte)(void *context);
    void (*write_byte)(void *context, uint8_t byte);
    uint32_t (*millis)(void *context);

    /* All drivers at 0 V, all switches open. From any condition, any number of times. */
    void (*safe)(void *context);

    /* Connect one row and one column of a tile to the drivers, and no other. */
    int (*select)(void *context, uint8_t tile, uint16_t row, uint16_t column);

    /* One pulse across the cell that is connected, at most as high and as long as the facts say. */
    int (*pulse)(void *context, float volts, float seconds);

    /* The current through it at a voltage, above that through the reference [A]. */
    int (*read)(void *context, float volts, float *amperes);

    /* The currents of all columns at the voltages of all rows. NULL where only one cell can be connected at a time. */
    int (*multiply)(void *context, uint8_t tile, const float *volts, float *amperes);

    /* Move cells 32 * index and the 31 behind it up by so much [S], down where a bit of `signs` is set, the first in the lowest,
     * until told otherwise or all is made safe. Volatile: what pulses have made of them stays. Whatever is not 0 is a failure of
     * the hardware. NULL where nothing can. */
    int (*perturb)(void *context, uint32_t index, uint32_t signs, float siemens);
} crossbar_port_t;

/* One array. */
typedef struct crossbar_tile {
    uint16_t rows, columns;
} crossbar_tile_t;

/* What the board bears, and its memory; must outlive the crossbar. */
typedef struct crossbar_config {
    const crossbar_port_t *port;
    const char *identity; /* of *IDN? */
    crossbar_tile_t tiles[CROSSBAR_TILES];
    uint8_t tile_count;
    float most_volts;      /* of a pulse, either way [V] */
    float most_read_volts; /* of a reading [V] */
    float shortest, longest; /* pulse [s] */
    float most_move;       /* of a cell by a perturbation [S] */
    uint32_t *pulses;      /* of each cell so far */
    uint32_t cells;        /* places there */
    uint8_t *buffer;       /* a message */
    uint32_t buffer_size;
    float *vector;         /* as many as the longest tile has rows, and columns */
    uint32_t vector_size;
    float *memory;         /* of training, or NULL: two places for every cell, class matrices, samples, what training.c works with */
    uint32_t memory_size;
    const scpi_command_t *more; /* commands of the port's own, or NULL */
} crossbar_config_t;

/* The network that lies on the tiles, one layer on each; and what the last training has left. */
typedef struct crossbar_training {
    hwt_network_t network; /* of no layers where there is none */
    float siemens;         /* above the reference for a weight of 1 */
    float volts;           /* of a row for an input of 1 */
    float step;            /* that a pulse changes a weight by, nominally */
    uint32_t updates;      /* made */
    uint32_t results;      /* floats of what was measured */
} crossbar_training_t;

typedef struct crossbar {
    crossbar_config_t config; /* tiles may be laid out anew */
    scpi_config_t scpi_config;
    scpi_t scpi;
    float limit_volts, limit_read, limit_width, limit_move;
    uint32_t limit_pulses; /* of a cell in its life */
    uint32_t watchdog;     /* [ms], 0 is never */
    uint32_t heard;        /* when the last message came */
    uint32_t came;         /* and the last byte */
    uint32_t once;         /* number of the work done last */
    uint32_t number;       /* of the work that this message is yet to do */
    uint32_t total, reads; /* pulses and readings so far */
    uint32_t trained;      /* updates so far */
    uint32_t used, failed; /* pulses of the last write, and cells that it did not bring near */
    crossbar_training_t training;
    uint8_t on;            /* may anything be driven? */
    uint8_t skip;          /* has this message been carried out before? */
    uint8_t numbered;      /* or has it changed cells under a new number? */
    int16_t fate;          /* of what the last numbered message changed: 0, or the error */
} crossbar_t;

/* Start: outputs off. Returns 0, or -1 where the config breaks a rule. */
int crossbar_init(crossbar_t *crossbar, const crossbar_config_t *config);

/* Lay out other tiles, all cells new. Returns 0, or -1 where there is no room. */
int crossbar_lay_out(crossbar_t *crossbar, const crossbar_tile_t *tiles, uint8_t count);

/* Take what bytes there are, at most one message; look after the watchdog. Returns 1 if there was anything to do. */
int crossbar_poll(crossbar_t *crossbar);

/* The crossbar that a command is for. */
crossbar_t *crossbar_of(scpi_t *scpi);

/* Floats of blocks are big-endian (IEEE 488.2, 8.7.9 says most significant byte first). */
float crossbar_float(const uint8_t *bytes);

/* ---- between crossbar.c and training.c: each returns 0 or an error ---- */

uint32_t crossbar_cells(const crossbar_t *crossbar);
void crossbar_say_float(scpi_t *scpi, float value);

/* May this drive: are outputs on, and a pulse within limits? */
int crossbar_allows(const crossbar_t *crossbar, float volts, float width);

/* May a cell get so many more pulses? */
int crossbar_bears(const crossbar_t *crossbar, uint32_t cell, uint32_t many);

/* So many pulses on a cell; the currents of all columns of a tile at the voltages of all rows. */
int crossbar_give(crossbar_t *crossbar, uint32_t cell, float volts, float width, int32_t count);
int crossbar_product(crossbar_t *crossbar, uint8_t tile, const float *volts, float *amperes);

/* Move 32 cells, by nothing to let go of them. */
int crossbar_move(crossbar_t *crossbar, uint32_t index, uint32_t signs, float siemens);

/* Was the change of cells that is now to be made, and which nothing forbids, made before? Else its number is taken. */
int crossbar_done(crossbar_t *crossbar);

/* Was the host silent for longer than the watchdog allows? All is safe then. */
int crossbar_watch(crossbar_t *crossbar);

/* Commands of training.c. */
int crossbar_run_network(scpi_t *scpi);
int crossbar_ask_network(scpi_t *scpi);
int crossbar_run_wish(scpi_t *scpi);
int crossbar_ask_wish(scpi_t *scpi);
int crossbar_run_held(scpi_t *scpi);
int crossbar_ask_held(scpi_t *scpi);
int crossbar_run_learn(scpi_t *scpi);
int crossbar_run_train(scpi_t *scpi);
int crossbar_ask_training(scpi_t *scpi);
int crossbar_ask_results(scpi_t *scpi);

#endif
