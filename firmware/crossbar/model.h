/* Cells behind the port, for boards that are not there: the array side of crossbar_port_t over numbers in memory.
 *
 * The cells are those of hwtrain/sim/pulsed.py with a constant step or soft bounds: the same fabrication and the same pulses from
 * the same seed, draw by draw. A weight w stands for the conductance `zero` + w * `scale`; the reference cell holds `zero`.
 */
#ifndef CROSSBAR_MODEL_H
#define CROSSBAR_MODEL_H

#include "crossbar.h"

/* A process: names and units as in hwtrain/sim/pulsed.py. */
typedef struct model_cell {
    double dw_min, dw_min_dtod, dw_min_std, up_down, up_down_dtod, w_max, w_max_dtod, w_min, w_min_dtod;
    uint8_t soft; /* do steps shrink to nothing at the bounds? */
} model_cell_t;

/* One device. */
typedef struct model_device {
    double value, low, high, up, down;
    uint32_t writes;
} model_device_t;

typedef struct model {
    model_cell_t cell;
    model_device_t *devices;
    uint32_t size;            /* places there */
    const crossbar_t *crossbar;
    uint32_t seed, pulse_seed;
    double scale;             /* of a weight of 1 [S] */
    float threshold;          /* pulses below change nothing [V] */
    float step_amperes;       /* of the converter; 0 is exact [A] */
    float most_amperes;       /* that it takes */
    uint32_t *signs;          /* of the perturbation, a word for 32 cells */
    float *moves;             /* and its size, for each word [S] */
    uint32_t connected;       /* cell; UINT32_MAX is none */
    uint8_t driven;           /* has anything been driven since `model_safe`? */
    uint32_t unsafe;          /* pulses and readings out of the board's facts: the controller must never ask for one */
} model_t;

/* New devices, as they leave the fab. Of the cells that the crossbar's tiles have. */
void model_fabricate(model_t *model);

/* For crossbar_port_t, whose context begins with the model. */
void model_safe(void *context);
int model_select(void *context, uint8_t tile, uint16_t row, uint16_t column);
int model_pulse(void *context, float volts, float seconds);
int model_read(void *context, float volts, float *amperes);
int model_multiply(void *context, uint8_t tile, const float *volts, float *amperes);
int model_perturb(void *context, uint32_t index, uint32_t signs, float siemens);

/* MODel:CELL, MODel:TILes and MODel:CONVerter, for crossbar_config_t.more. */
extern const scpi_command_t model_commands[];

#endif
