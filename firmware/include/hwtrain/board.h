/* A trainable board: the port it stands on, the memory it may use, and one call that makes it live.
 *
 *     static hwt_board_t board;
 *     hwt_board_init(&board, &config);
 *     for (;;)
 *         if (!hwt_board_poll(&board))
 *             sleep_until_a_byte_or_a_tick();
 *
 * The core allocates nothing, has no globals, calls no library but memcpy and memset (which compilers insist on), and never
 * waits except inside port->write. All of it runs in the caller's context; only port->read may race with an interrupt, and
 * that is the port's business (a ring of bytes, see ports/).
 */
#ifndef HWTRAIN_BOARD_H
#define HWTRAIN_BOARD_H

#include <stdint.h>

#include "hwtrain/frame.h"
#include "hwtrain/network.h"
#include "hwtrain/protocol.h"

/* What the core asks of a board. Every call gets `context` back untouched. Only `reset`, `overruns` and `stack_free` may be
 * NULL. */
typedef struct hwt_port {
    void *context;

    /* The next received byte, or -1. Never waits. */
    int (*read)(void *context);

    /* Send one byte. May wait for the transmitter, which must not depend on the host reading. */
    void (*write)(void *context, uint8_t byte);

    /* Milliseconds since any moment, modulo 2^32. */
    uint32_t (*millis)(void *context);

    /* Make everything the board drives safe: outputs off, supplies to zero. Called on REST, on a silent host, and before a
     * reset; from any condition, any number of times. */
    void (*rest)(void *context);

    /* Restart the board as a power cycle would. */
    void (*reset)(void *context);

    /* Received bytes lost so far. */
    uint32_t (*overruns)(void *context);

    /* Bytes of stack never used so far. */
    uint32_t (*stack_free)(void *context);
} hwt_port_t;

#ifndef HWT_LOCAL_RULES
#define HWT_LOCAL_RULES 1 /* 0 leaves out LEARN, some KB of flash */
#endif

#ifndef HWT_STREAMS
#ifdef __AVR__
#define HWT_STREAMS 0 /* no room for traces */
#else
#define HWT_STREAMS HWT_LOCAL_RULES /* 0 leaves out STREAM, some KB of flash */
#endif
#endif

/* Memory and facts of a board; must outlive the board. Sizes of float buffers count floats. */
typedef struct hwt_config {
    const char *name; /* at most 31 characters */
    const hwt_port_t *port;

    float *theta; /* parameters, and behind them Mono-Forward's class matrices, or what runs on from step to step of STREAM */
    uint32_t theta_size;

    float *samples; /* stored samples, inputs then target, one after another */
    uint32_t samples_size;

    float *work; /* intermediate results: hwt_workspace_size of the largest network, hwt_learn_work_size of LEARN */
    uint16_t work_size;

    uint8_t *receive; /* one request; at least 128 bytes */
    uint16_t receive_size;

    uint8_t *replies; /* `window` replies of reply_size bytes each; reply_size at least 64 */
    uint16_t reply_size;
    uint8_t window; /* requests the host may send ahead, and replies kept for repeats; a power of two */

    uint16_t ring; /* received bytes the port holds while the core computes; what a window must fit into */
} hwt_config_t;

/* Requests counted since the start, all modulo 2^32. */
typedef struct hwt_counters {
    uint32_t executed; /* numbered requests carried out or refused, each once */
    uint32_t repeated; /* answered again from the kept reply */
    uint32_t refused;  /* wrong version, boot id or sequence number: not executed */
    uint32_t damaged;  /* frames dropped: CRC, length, framing */
    uint32_t rests;    /* times the host was silent for too long */
} hwt_counters_t;

/* The board's state. Treat as private; the caller only provides the memory. */
typedef struct hwt_board {
    const hwt_config_t *config;
    hwt_decoder_t decoder;
    hwt_counters_t counters;

    uint32_t boot;     /* given by the host; 0 after a start */
    uint16_t expected; /* sequence number of the next new request */
    uint8_t kept;      /* replies held: min(window, requests since ADOPT) */
    uint8_t resting;   /* has the watchdog called rest since the last frame? */

    uint32_t watchdog; /* [ms], 0 is never */
    uint32_t heard;    /* when the last valid frame was finished with */

    hwt_network_t network;
    hwt_workspace_t work;
    uint32_t size;  /* parameters of the network */
    float low;      /* parameters are held within these, ends included */
    float high;
    float largest;  /* no parameter's magnitude is above this */
#if HWT_STREAMS
    uint8_t streaming; /* has a sequence begun whose neurons still stand behind the parameters? */
#endif
} hwt_board_t;

/* Start. The board is fresh: boot id 0, no network. Returns 0, or -1 where the config breaks a rule above. */
int hwt_board_init(hwt_board_t *board, const hwt_config_t *config);

/* Take received bytes, at most one frame of them, and answer it; look after the watchdog. Returns 1 if there was anything to
 * do, 0 if the board may sleep until the next byte or millisecond tick. */
int hwt_board_poll(hwt_board_t *board);

/* ---- between board.c, train.c, local.c and stream.c ---- */

/* The arguments of TRAIN (PROTOCOL.md) after they have been checked. */
typedef struct hwt_block {
    hwt_code_t code;
    uint32_t first;       /* tick */
    uint16_t ticks;       /* in this block, a multiple of tau_theta */
    uint16_t tau_x;       /* ticks for which samples are presented */
    uint16_t tau_theta;   /* ticks between updates */
    uint16_t batch;       /* samples presented together */
    float rate;           /* weight of an update per modulation */
    float low, high;      /* the updated parameters are kept within these */
    uint8_t baseline;     /* hwt_baseline */
    const uint8_t *slots; /* first slot of each presentation, two bytes each */
} hwt_block_t;

/* Run a block; `trace` gets two little-endian floats per tick, baseline and modulation. */
void hwt_train(hwt_board_t *board, const hwt_block_t *block, uint8_t *trace);

/* hwt_update, and where `clip` says so the parameters are then limited to [low, high]. */
void hwt_apply(hwt_board_t *board, const hwt_code_t *code, uint32_t tick, const hwt_modulations_t *modulations, float low,
               float high, uint8_t clip);

/* After an update by at most `reach`: limit the parameters to [low, high], if any of them can have left. */
void hwt_settle(hwt_board_t *board, float reach, float low, float high);

/* The arguments of LEARN (PROTOCOL.md) after they have been checked. */
typedef struct hwt_lesson {
    uint16_t batch;       /* samples of an update */
    uint16_t updates;
    float rate;           /* of the hidden layers */
    float readout_rate;   /* of the last layer */
    float scale;          /* theta of forward-forward, alpha of SymBa */
    float low, high;      /* parameters are kept within these */
    uint8_t rule;         /* hwt_rule */
    uint8_t goodness;     /* hwt_goodness */
    const uint8_t *slots; /* first sample of each update, two bytes each */
    const uint8_t *wrong; /* a wrong label for each sample */
} hwt_lesson_t;

/* Does the rule apply to the network: is the last layer a read-out, and, for forward-forward, room for a label beside other
 * inputs? */
uint8_t hwt_can_learn(const hwt_network_t *network, uint8_t rule);

/* Floats of `work` that LEARN takes, and of `theta` behind the parameters for class matrices; UINT32_MAX is too many. */
uint32_t hwt_learn_work_size(const hwt_network_t *network, uint8_t rule, uint16_t batch);
uint32_t hwt_classes_size(const hwt_network_t *network);

/* Run updates of a local rule; `costs` gets a little-endian float for each. */
void hwt_learn(hwt_board_t *board, const hwt_lesson_t *lesson, uint8_t *costs);

#ifdef HWT_ARRAY
/* Where matrices stand in an array (crossbar/training.c): a layer's activities y as they are measured, in place of hwt_layer_pass.
 * Parameters are then what the array is to hold, and whoever calls hwt_learn brings the array near. Returns the scale, 1. */
float hwt_array_pass(hwt_board_t *board, const hwt_layer_t *layer, const float *x, float *y);
#endif

/* The arguments of STREAM (PROTOCOL.md) after they have been checked. */
typedef struct hwt_stream {
    uint8_t flags;         /* hwt_stream_flags */
    uint8_t reset;         /* hwt_reset_kind */
    uint8_t signal;        /* hwt_signal */
    uint8_t shape;         /* hwt_shape */
    uint16_t slot;         /* of the first step */
    uint16_t steps;
    float decay;           /* share of a membrane that is left after a step */
    float threshold;       /* to which each unit's bias is added */
    float slope, height;   /* of the surrogate derivative */
    float readout_decay;   /* of the last layer, which integrates */
    float readout_gain;
    float rate;            /* of the hidden layers */
    float readout_rate;    /* of the last layer */
    float scale;           /* half-width of the projections */
    float low, high;       /* parameters are kept within these */
    const uint8_t *seeds;  /* of each hidden layer's projection, four bytes each */
    const uint8_t *sums;   /* of the targets so far, and how many they were; or 0: those that the board has */
} hwt_stream_t;

/* Are the layers spiking ones or soft ones, and a linear read-out? */
uint8_t hwt_can_stream(const hwt_network_t *network);

/* Floats that STREAM takes of `theta` behind the parameters, and of `work`. */
uint32_t hwt_stream_size(const hwt_network_t *network);
uint32_t hwt_stream_work_size(const hwt_network_t *network);

/* Present steps of a sequence, and learn from each; `reply` gets a little-endian float for each, its cost, and then, if asked
 * for, the activities of all layers. */
void hwt_stream_run(hwt_board_t *board, const hwt_stream_t *stream, uint8_t *reply);

/* Sample `slot` of the store: inputs, then target. */
const float *hwt_sample(const hwt_board_t *board, uint16_t slot);

#endif
