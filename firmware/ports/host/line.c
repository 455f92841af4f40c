#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* of Linux and of macOS: what POSIX leaves out */
#define _DARWIN_C_SOURCE

#include "line.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int open_tcp(line_t *line) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int on = 1;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)line->port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    line->link = -1;
    line->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (line->listener < 0)
        return -1;
    setsockopt(line->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(line->listener, (struct sockaddr *)&address, length) || listen(line->listener, 1) ||
        getsockname(line->listener, (struct sockaddr *)&address, &length))
        return -1;
    printf("ready socket://127.0.0.1:%u\n", (unsigned)ntohs(address.sin_port));
    return fflush(stdout);
}

static int open_pty(line_t *line) {
    struct termios mode;
    line->listener = -1;
    line->link = posix_openpt(O_RDWR | O_NOCTTY);
    if (line->link < 0 || grantpt(line->link) || unlockpt(line->link))
        return -1;
    int other = open(ptsname(line->link), O_RDWR | O_NOCTTY); /* kept open, so that a host may come and go */
    if (other < 0 || tcgetattr(other, &mode))
        return -1;
    cfmakeraw(&mode);
    if (tcsetattr(other, TCSANOW, &mode))
        return -1;
    printf("ready %s\n", ptsname(line->link));
    return fflush(stdout);
}

static int take_connection(line_t *line) {
    int on = 1;
    line->link = accept(line->listener, NULL, NULL);
    return line->link < 0 ? -1 : setsockopt(line->link, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Bytes that are there. 0 is a cable that was pulled. */
static size_t take_bytes(line_t *line, uint8_t *bytes, size_t size) {
    ssize_t count = read(line->link, bytes, size);
    if (count > 0)
        return (size_t)count;
    if (line->listener < 0)
        exit(1); /* a pseudo-terminal never ends, and the other half of a paced line only with the twin */
    close(line->link);
    line->link = -1;
    return 0;
}

void line_wait(line_t *line) {
    line_flush(line);
    struct pollfd ready = {line->link >= 0 ? line->link : line->listener, POLLIN, 0};
    line->count = line->next = 0;
    if (poll(&ready, 1, 1) <= 0)
        return;
    if (line->link >= 0)
        line->count = take_bytes(line, line->in, sizeof line->in);
    else
        take_connection(line);
}

int line_read(void *context) {
    line_t *line = context;
    return line->next < line->count ? line->in[line->next++] : -1;
}

void line_write(void *context, uint8_t byte) {
    line_t *line = context;
    line->out[line->waiting++] = byte;
    if (line->waiting == sizeof line->out)
        line_flush(line);
}

void line_flush(line_t *line) {
    const uint8_t *bytes = line->out;
    size_t count = line->waiting;
    line->waiting = 0;
    while (line->link >= 0 && count) {
        ssize_t written = write(line->link, bytes, count);
        if (written <= 0)
            return;
        bytes += written;
        count -= (size_t)written;
    }
}

/* ---- pacing: a process of its own, so that bytes move while the board computes, as with a UART served by interrupt ---- */

#define GRAIN 250e-6 /* [s]: a long burst comes a few bytes at a time, as from a receiver with a FIFO; its end comes on time */

/* One direction. Byte i has arrived at `began` + (i + 1) * seconds a byte. */
typedef struct lane {
    uint8_t bytes[4096];
    size_t count;
    double began;
} lane_t;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

uint32_t line_millis(void *context) {
    (void)context;
    return (uint32_t)(uint64_t)(1e3 * now());
}

/* Take bytes in behind those under way. The first begins when it comes, or when the last one has ended. */
static void enter(lane_t *lane, line_t *from) {
    size_t count = take_bytes(from, lane->bytes + lane->count, sizeof lane->bytes - lane->count);
    double here = now();
    if (lane->count == 0 && lane->began < here)
        lane->began = here;
    lane->count += count;
}

/* Hand over what has arrived: to nobody where nobody is connected. What a receiver does not take stays. */
static void leave(lane_t *lane, int to, double each) {
    double arrived = (now() - lane->began) / each;
    size_t count = arrived < (double)lane->count ? (size_t)arrived : lane->count;
    if (to >= 0 && count) {
        ssize_t written = write(to, lane->bytes, count);
        count = written > 0 ? (size_t)written : 0;
    }
    lane->count -= count;
    lane->began += (double)count * each;
    memmove(lane->bytes, lane->bytes + count, lane->count);
}

/* Seconds until bytes should be handed over. */
static double due(const lane_t *lane, double each) {
    double rest = lane->began + (double)lane->count * each - now(), group = each > GRAIN ? each : GRAIN;
    if (rest > 0.0 && rest < group)
        group = rest;
    return lane->count && group < 0.5 ? group : 0.5;
}

/* Until the twin ends. */
static void carry(line_t *host, line_t *board, double each, pid_t twin) {
    static lane_t in, out;
    while (getppid() == twin) {
        double first = due(&in, each), second = due(&out, each);
        struct timespec patience = {0, (long)(1e9 * (first < second ? first : second))};
        int outside = host->link >= 0 ? host->link : host->listener;
        fd_set ready;
        FD_ZERO(&ready);
        if (in.count < sizeof in.bytes)
            FD_SET(outside, &ready);
        if (out.count < sizeof out.bytes)
            FD_SET(board->link, &ready);
        if (pselect((outside > board->link ? outside : board->link) + 1, &ready, NULL, NULL, &patience, NULL) > 0) {
            if (FD_ISSET(board->link, &ready))
                enter(&out, board);
            if (FD_ISSET(outside, &ready) && host->link >= 0)
                enter(&in, host);
            else if (FD_ISSET(outside, &ready) && take_connection(host) >= 0)
                fcntl(host->link, F_SETFL, O_NONBLOCK);
        }
        leave(&in, board->link, each);
        leave(&out, host->link, each);
    }
}

static int pace(line_t *line) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return -1;
    pid_t twin = getpid(), child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        line_t board = {.listener = -1, .link = ends[1]};
        close(ends[0]);
        fcntl(ends[1], F_SETFL, O_NONBLOCK);
        if (line->link >= 0)
            fcntl(line->link, F_SETFL, O_NONBLOCK);
        carry(line, &board, 10.0 / line->baud, twin);
        exit(0);
    }
    close(ends[1]);
    close(line->listener >= 0 ? line->listener : line->link);
    line->listener = -1;
    line->link = ends[0];
    return 0;
}

int line_argument(line_t *line, int count, char **words) {
    if (!strcmp(words[0], "--pty"))
        return line->pty = 1;
    if (count < 2)
        return 0;
    if (!strcmp(words[0], "--tcp"))
        line->port = strtol(words[1], NULL, 10);
    else if (!strcmp(words[0], "--baud"))
        line->port = (line->baud = strtod(words[1], NULL)) >= 1.0 ? line->port : -1;
    else
        return 0;
    return 2;
}

int line_open(line_t *line) {
    int error = line->pty ? open_pty(line) : open_tcp(line);
    return error || line->baud == 0.0 ? error : pace(line);
}
