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

#include "hwtrain/board.h"
#include "line.h"

#define WINDOW 4
#define FRAME LINE_BUFFER

typedef struct host {
    line_t line; /* first, so that its calls find it */
    int restart;
} host_t;

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
    for (int i = 1, taken; i < argc; i += taken) {
        taken = line_argument(&host.line, argc - i, argv + i);
        if (taken)
            continue;
        taken = 2;
        if (!strcmp(argv[i], "--name") && i + 1 < argc)
            name = argv[i + 1];
        else if (!strcmp(argv[i], "--parameters") && i + 1 < argc)
            parameters = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else
            host.line.port = -1;
    }
    if (host.line.port < 0 || host.line.port > 65535) {
        fprintf(stderr, "usage: %s [--tcp PORT | --pty] [--baud N] [--name NAME] [--parameters N]\n", argv[0]);
        return 2;
    }
    float *theta = malloc(parameters * sizeof *theta), *samples = malloc(parameters * sizeof *samples);
    const hwt_port_t port = {&host, line_read, line_write, line_millis, host_rest, host_reset, NULL, NULL};
    const hwt_config_t config = {
        .name = name, .port = &port,
        .theta = theta, .theta_size = parameters, .samples = samples, .samples_size = parameters,
        .work = work, .work_size = 16384,
        .receive = receive, .receive_size = FRAME, .replies = replies, .reply_size = FRAME, .window = WINDOW, .ring = FRAME,
    };
    signal(SIGPIPE, SIG_IGN);
    if (!theta || !samples || line_open(&host.line)) {
        perror(argv[0]);
        return 1;
    }
    for (;;) {
        if (hwt_board_init(&board, &config))
            return 1;
        host.restart = 0;
        while (!host.restart)
            if (!hwt_board_poll(&board))
                line_wait(&host.line);
        line_flush(&host.line);
        host.line.count = host.line.next = 0;
    }
}
