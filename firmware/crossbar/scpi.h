/* SCPI on a stream of bytes: program messages, common commands, status and errors (IEEE 488.2-1992, SCPI-99).
 *
 * Messages end with LF. A message is kept whole, then its units are carried out one after another; answers of one message are
 * joined by ';' and end with LF. A unit that fails answers nothing and the next is carried out. Since a stream has no END, the
 * query errors -410 to -440 cannot arise: an answer leaves at once, whether or not it is read.
 *
 * A message whose last unit is :SYST:CRC? is carried out only where all before it came as it was sent; then no other is, until
 * told so.
 *
 * No allocation, no globals, no library but memcpy and memset.
 */
#ifndef CROSSBAR_SCPI_H
#define CROSSBAR_SCPI_H

#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count); /* a freestanding compiler has no string.h */
void *memset(void *to, int value, size_t count);

#define SCPI_ERRORS 16u /* places of the error queue */

enum {
    SCPI_OK = 0,
    SCPI_SYNTAX = -102, SCPI_TYPE = -104, SCPI_NOT_ALLOWED = -108, SCPI_MISSING = -109, SCPI_UNDEFINED = -113,
    SCPI_NUMBER = -120, SCPI_STRING = -150, SCPI_BLOCK = -160, SCPI_CUT = -161,
    SCPI_CONFLICT = -221, SCPI_RANGE = -222, SCPI_TOO_MUCH = -223, SCPI_ILLEGAL = -224, SCPI_HARDWARE = -240,
    SCPI_DEVICE = -300, SCPI_SELF_TEST = -330, SCPI_OVERFLOW = -350, SCPI_OVERRUN = -363,
    SCPI_WORN = 101, SCPI_SILENCE = 102 /* of the device's own, SCPI-99 volume 2, 21.8.2: positive */
};

enum { SCPI_ESR_COMPLETE = 1, SCPI_ESR_QUERY = 4, SCPI_ESR_DEVICE = 8, SCPI_ESR_EXECUTION = 16, SCPI_ESR_COMMAND = 32,
       SCPI_ESR_POWER_ON = 128 };

struct scpi;

/* One command: its header as in a manual, "XBAR:LIMit:VOLTage", short form in capitals, optional parts in brackets; with '?' if
 * it is a query. Returns 0 or an error. */
typedef struct scpi_command {
    const char *header;
    int (*run)(struct scpi *scpi);
} scpi_command_t;

/* A register that keeps events, SCPI-99 volume 1, 9. */
typedef struct scpi_register {
    uint16_t condition, event, enable;
} scpi_register_t;

/* The facts, which do not change; must outlive the rest. */
typedef struct scpi_config {
    const scpi_command_t *commands; /* beside those of the standard; ends with a header of NULL */
    const scpi_command_t *more;     /* and others, or NULL */
    const char *identity;           /* of *IDN?: maker, model, serial number, version */
    void *owner;                    /* for the commands */
    void (*write)(void *owner, uint8_t byte);
    void (*reset)(void *owner);  /* of *RST */
    int (*test)(void *owner);    /* of *TST?: 0 is passed */
    void (*begins)(void *owner); /* a whole message has come, and is about to be carried out */
    uint8_t *buffer;             /* one message */
    uint32_t size;
} scpi_config_t;

typedef struct scpi {
    const scpi_config_t *config;
    uint32_t length;     /* bytes of the message so far */
    uint32_t left;       /* of the block that is coming in */
    uint8_t mode;        /* where in a message the next byte stands */
    uint8_t digits;      /* of a block's length still to come */
    uint8_t quote;       /* of the string that is coming in */
    uint8_t overrun;     /* too long: dropped to its end */
    uint8_t checked;     /* are messages dropped that do not say their checksum? */
    uint8_t answered;    /* has this message answered yet? */
    uint32_t sum;        /* CRC-32 of what this message has been answered */
    uint8_t esr, ese, sre;
    scpi_register_t operation, questionable;
    int16_t errors[SCPI_ERRORS];
    uint8_t first, waiting;
    const uint8_t *at, *end; /* what is left of the parameters */
    uint8_t parameters;      /* taken so far */
} scpi_t;

/* As after power on. */
void scpi_init(scpi_t *scpi, const scpi_config_t *config);

/* Take a byte; carries a message out when its end has come. Returns 1 then. */
int scpi_take(scpi_t *scpi, uint8_t byte);

/* Is a block of a message coming in; forget such a message, of which no more comes: -161, or as any that is broken. */
int scpi_in_block(const scpi_t *scpi);
void scpi_forget(scpi_t *scpi);

/* Note an error, and set the bit of its class in the event status register. */
void scpi_error(scpi_t *scpi, int code);

/* Set or clear condition bits; those that rise become events. */
void scpi_condition(scpi_register_t *status, uint16_t bits, int on);

/* ---- parameters, in order; each returns 0 or an error ---- */
int scpi_number(scpi_t *scpi, double *value);
int scpi_whole(scpi_t *scpi, double low, double high, uint32_t *value); /* else SCPI_RANGE */
int scpi_flag(scpi_t *scpi, uint8_t *value);
int scpi_block(scpi_t *scpi, const uint8_t **data, uint32_t *count);
int scpi_more(scpi_t *scpi); /* is there another one? */

/* ---- answers ---- */
void scpi_say_number(scpi_t *scpi, double value);
void scpi_say_whole(scpi_t *scpi, int32_t value);
void scpi_say_text(scpi_t *scpi, const char *text); /* as it is */
void scpi_say_block(scpi_t *scpi, uint32_t count);  /* its head; scpi_say_byte then says the bytes */
void scpi_say_byte(scpi_t *scpi, uint8_t byte);

#endif
