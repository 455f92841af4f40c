/* The digital twin: the same core as a POSIX process, behind a TCP port or a pseudo-terminal.
 *
 *     twin [--tcp PORT | --pty] [--name NAME] [--parameters N]
 *
 * Prints one line, "ready socket://127.0.0.1:PORT" or "ready /dev/pts/N", when it can be opened by pyserial. Port 0 (the
 * default) is any free one. A connection that ends is a cable that was pulled: the board goes on, and waits for the next. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "hwtrain/board.h"

#define WINDOW 4
#define FRAME 4096

typedef struct host {
    int listener, link; /* -1 is none */
    uint8_t in[4096], out[4096];
    size_t in_count, in_next, out_count;
    int restart;
    uint32_t rests;
} host_t;

static void flush(host_t *host) {
    size_t done = 0;
    while (host->link >= 0 && done < host->out_count) {
        ssize_t count = write(host->link, host->out + done, host->out_count - done);
        if (count <= 0)
            break; /* nobody listens any more: bytes on a pulled cable are lost */
        done += (size_t)count;
    }
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
    ((host_t *)context)->rests++;
}

static void host_reset(void *context) {
    ((host_t *)context)->restart = 1;
}

/* Wait for bytes, a connection, or a millisecond tick of the watchdog. */
static void wait_for_bytes(host_t *host) {
    struct pollfd ready = {host->link >= 0 ? host->link : host->listener, POLLIN, 0};
    if (poll(&ready, 1, 1) <= 0)
        return;
    if (host->link < 0) {
        int on = 1;
        host->link = accept(host->listener, NULL, NULL);
        if (host->link >= 0)
            setsockopt(host->link, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return;
    }
    ssize_t count = read(host->link, host->in, sizeof host->in);
    host->in_next = 0;
    host->in_count = count > 0 ? (size_t)count : 0;
    if (count <= 0 && host->listener >= 0) {
        close(host->link);
        host->link = -1;
    }
}

static int open_tcp(host_t *host, uint16_t number) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int on = 1;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(number);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    host->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (host->listener < 0)
        return -1;
    setsockopt(host->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(host->listener, (struct sockaddr *)&address, length) || listen(host->listener, 1) ||
        getsockname(host->listener, (struct sockaddr *)&address, &length))
        return -1;
    printf("ready socket://127.0.0.1:%u\n", (unsigned)ntohs(address.sin_port));
    return 0;
}

static int open_pty(host_t *host) {
    struct termios mode;
    host->link = posix_openpt(O_RDWR | O_NOCTTY);
    if (host->link < 0 || grantpt(host->link) || unlockpt(host->link))
        return -1;
    int other = open(ptsname(host->link), O_RDWR | O_NOCTTY); /* kept open, so that a host may come and go */
    if (other < 0 || tcgetattr(other, &mode))
        return -1;
    cfmakeraw(&mode);
    if (tcsetattr(other, TCSANOW, &mode))
        return -1;
    printf("ready %s\n", ptsname(host->link));
    return 0;
}

int main(int argc, char **argv) {
    static host_t host = {.listener = -1, .link = -1};
    static hwt_board_t board;
    static float work[16384];
    static uint8_t receive[FRAME], replies[WINDOW * FRAME];
    const char *name = "host";
    uint32_t parameters = 1u << 20;
    long number = 0;
    int pty = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--pty"))
            pty = 1;
        else if (!strcmp(argv[i], "--tcp") && i + 1 < argc)
            number = strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--name") && i + 1 < argc)
            name = argv[++i];
        else if (!strcmp(argv[i], "--parameters") && i + 1 < argc)
            parameters = (uint32_t)strtoul(argv[++i], NULL, 10);
        else
            number = -1;
    }
    float *theta = malloc(parameters * sizeof *theta), *samples = malloc(parameters * sizeof *samples);
    if (number < 0 || number > 65535 || !theta || !samples) {
        fprintf(stderr, "usage: %s [--tcp PORT | --pty] [--name NAME] [--parameters N]\n", argv[0]);
        return 2;
    }
    const hwt_port_t port = {&host, host_read, host_write, host_millis, host_rest, host_reset, NULL, NULL};
    const hwt_config_t config = {
        .name = name, .port = &port,
        .theta = theta, .theta_size = parameters, .samples = samples, .samples_size = parameters,
        .work = work, .work_size = 16384,
        .receive = receive, .receive_size = FRAME, .replies = replies, .reply_size = FRAME, .window = WINDOW, .ring = FRAME,
    };
    signal(SIGPIPE, SIG_IGN);
    if (pty ? open_pty(&host) : open_tcp(&host, (uint16_t)number)) {
        perror(argv[0]);
        return 1;
    }
    fflush(stdout);
    for (;;) {
        if (hwt_board_init(&board, &config))
            return 1;
        host.restart = 0;
        while (!host.restart)
            if (!hwt_board_poll(&board)) {
                flush(&host);
                wait_for_bytes(&host);
            }
        flush(&host);
        host.in_count = host.in_next = 0;
    }
}
