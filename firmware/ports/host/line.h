/* What is between the twin and its host: a TCP port or a pseudo-terminal, as fast as it goes or as fast as a serial line. */
#ifndef LINE_H
#define LINE_H

#include <stddef.h>
#include <stdint.h>

/* Where a host may connect. At least one of the two is -1: a connection that has not come yet, or a listener that is not needed
 * since the connection never ends. */
typedef struct line {
    int listener, link;
} line_t;

/* Open a port (0 is any free one) or a pseudo-terminal, and print how a host opens it. Returns 0, or -1 and errno. */
int line_tcp(line_t *line, uint16_t port);
int line_pty(line_t *line);

/* Read what has come: waits for at most a millisecond, and takes a connection if there is none. Returns the bytes read. */
size_t line_read(line_t *line, uint8_t *bytes, size_t size);

/* Send. Bytes on a pulled cable are lost. */
void line_write(line_t *line, const uint8_t *bytes, size_t count);

/* From now on bytes pass in each direction as on a line of 8 bits, no parity, one stop bit: no faster than `baud` / 10 a
 * second, and while the caller computes. Returns 0, or -1 and errno. */
int line_pace(line_t *line, double baud);

#endif
