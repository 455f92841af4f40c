/* The digital twin: the same core as a POSIX process, behind a TCP port or a pseudo-terminal.
 *
 *     twin [--tcp PORT | --pty] [--baud N] [--name NAME] [--parameters N]
 *
 * Prints one line, "ready socket://127.0.0.1:PORT" or "ready /dev/pts/N", when it can be opened by pyserial. Port 0 (the
 * default) is any free one. With --baud, bytes take as long as on a serial line of that speed. A connection that ends is a
 * cable that was pulled: the board goes on, and waits for the next. */
#define _XOPEN_SOURCE 700

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hwtrain/board.h"
#include "line.h"

#define WINDOW 4
#define FRAME 4096

typedef struct host {
    line_t line;
    uint8_t in[FRAME], out[FRAME];
    size_t in_count, in_next, out_count;
    int restart;
} host_t;

static void flush(host_t *host) {
    line_write(&host->line, host->out, host->out_count);
    host->out_count = 0;
}

static int host_read(void *context) {
    host_t *host = context;
    return host->in_next < host->in_count ? host->in[host->in_next++] : -1;
}

static void host_write(void *context, uint8_t byte) {
    host_t *host = context;
    host->out[host->out_count++] = byte;
    if (host->out_count == sizeof host->out)
        flush(host);
}

static uint32_t host_millis(void *context) {
    struct timespec now;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u);
}

static void host_rest(void *context) {
    (void)context; /* the network is numbers in memory: the twin drives nothing */
}

static void host_reset(void *context) {
    ((host_t *)context)->restart = 1;
}

int main(int argc, char **argv) {
    static host_t host;
    static hwt_board_t board;
    static float work[16384];
    static uint8_t receive[FRAME], replies[WINDOW * FRAME];
    const char *name = "host";
    uint32_t parameters = 1u << 20;
    double baud = 0.0;
    long number = 0;
    int pty = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--pty"))
            pty = 1;
        else if (!strcmp(argv[i], "--tcp") && i + 1 < argc)
            number = strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--baud") && i + 1 < argc)
            number = (baud = strtod(argv[++i], NULL)) >= 1.0 ? number : -1;
        else if (!strcmp(argv[i], "--name") && i + 1 < argc)
            name = argv[++i];
        else if (!strcmp(argv[i], "--parameters") && i + 1 < argc)
            parameters = (uint32_t)strtoul(argv[++i], NULL, 10);
        else
            number = -1;
    }
    if (number < 0 || number > 65535) {
        fprintf(stderr, "usage: %s [--tcp PORT | --pty] [--baud N] [--name NAME] [--parameters N]\n", argv[0]);
        return 2;
    }
    float *theta = malloc(parameters * sizeof *theta), *samples = malloc(parameters * sizeof *samples);
    const hwt_port_t port = {&host, host_read, host_write, host_millis, host_rest, host_reset, NULL, NULL};
    const hwt_config_t config = {
        .name = name, .port = &port,
        .theta = theta, .theta_size = parameters, .samples = samples, .samples_size = parameters,
        .work = work, .work_size = 16384,
        .receive = receive, .receive_size = FRAME, .replies = replies, .reply_size = FRAME, .window = WINDOW, .ring = FRAME,
    };
    signal(SIGPIPE, SIG_IGN);
    if (!theta || !samples || (pty ? line_pty(&host.line) : line_tcp(&host.line, (uint16_t)number)) ||
        (baud > 0.0 && line_pace(&host.line, baud))) {
        perror(argv[0]);
        return 1;
    }
    for (;;) {
        if (hwt_board_init(&board, &config))
            return 1;
        host.restart = 0;
        while (!host.restart)
            if (!hwt_board_poll(&board)) {
                flush(&host);
                host.in_count = line_read(&host.line, host.in, sizeof host.in);
                host.in_next = 0;
            }
        flush(&host);
        host.in_count = host.in_next = 0;
    }
}
