/* What is between the twin and its host: a TCP port or a pseudo-terminal, as fast as it goes or as fast as a serial line. */
#ifndef LINE_H
#define LINE_H

#include <stddef.h>
#include <stdint.h>

#define LINE_BUFFER 4096

/* Where a host may connect. At least one of listener and link is -1: a connection that has not come yet, or a listener that is
 * not needed since the connection never ends. The rest is zero at first. */
typedef struct line {
    int listener, link;
    long port;   /* 0 is any free one, -1 one that there is not */
    double baud; /* 0 is as fast as it goes */
    int pty;
    uint8_t in[LINE_BUFFER], out[LINE_BUFFER];
    size_t count, next, waiting;
} line_t;

/* Take an argument: "--tcp PORT", "--pty" or "--baud N". Returns how many words it has, 0 where it is none of these. */
int line_argument(line_t *line, int count, char **words);

/* Open a port or a pseudo-terminal, and print how a host opens it. With a baud rate, bytes then pass in each direction as on a
 * line of 8 bits, no parity, one stop bit: no faster than `baud` / 10 a second, and while the caller computes. Returns 0, or -1
 * and errno. */
int line_open(line_t *line);

/* ---- what a port offers; `context` is the line ---- */

/* The next byte that has come, or -1. */
int line_read(void *context);

/* Send, at the latest when the caller waits. Bytes on a pulled cable are lost. */
void line_write(void *context, uint8_t byte);

/* Milliseconds modulo 2^32. */
uint32_t line_millis(void *context);

/* ---- */

/* Send what is to be sent. */
void line_flush(line_t *line);

/* When all that had come is read: send, and wait for more for at most a millisecond. Takes a connection if there is none. */
void line_wait(line_t *line);

#endif
