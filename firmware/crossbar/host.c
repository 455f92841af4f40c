/* The controller as a POSIX process with cells in memory, behind a TCP port or a pseudo-terminal.
 *
 *     crossbar [--tcp PORT | --pty] [--baud N] [--no-actuator]
 *
 * Prints "ready socket://127.0.0.1:PORT" or "ready /dev/pts/N" when it can be reached. A connection that ends is a cable that was
 * pulled: the controller goes on, its watchdog too. Without an actuator nothing but pulses moves cells. */
#define _XOPEN_SOURCE 700

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../ports/host/line.h"
#include "model.h"

#define CELLS 65536u
#define MEMORY 262144u
#define MESSAGE (1u << 20)

typedef struct host {
    model_t model; /* first, so that the array side of the port finds it */
    line_t line;
    uint8_t in[65536], out[65536];
    size_t count, next, waiting;
} host_t;

static void flush(host_t *host) {
    line_write(&host->line, host->out, host->waiting);
    host->waiting = 0;
}

static int read_byte(void *context) {
    host_t *host = context;
    if (host->next < host->count)
        return host->in[host->next++];
    return -1;
}

static void write_byte(void *context, uint8_t byte) {
    host_t *host = context;
    host->out[host->waiting++] = byte;
    if (host->waiting == sizeof host->out)
        flush(host);
}

static uint32_t millis(void *context) {
    struct timespec now;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u);
}

static void safe(void *context) {
    model_safe(context);
}

static int select_cell(void *context, uint8_t tile, uint16_t row, uint16_t column) {
    return model_select(context, tile, row, column);
}

static int pulse(void *context, float volts, float seconds) {
    return model_pulse(context, volts, seconds);
}

static int read_cell(void *context, float volts, float *amperes) {
    return model_read(context, volts, amperes);
}

static int multiply(void *context, uint8_t tile, const float *volts, float *amperes) {
    return model_multiply(context, tile, volts, amperes);
}

static int perturb(void *context, uint32_t index, uint32_t signs, float siemens) {
    return model_perturb(context, index, signs, siemens);
}

model_t *model_of(crossbar_t *crossbar) {
    return crossbar->config.port->context;
}

int main(int argc, char **argv) {
    static host_t host;
    static crossbar_t crossbar;
    static model_device_t devices[CELLS];
    static uint32_t pulses[CELLS];
    static uint8_t buffer[MESSAGE];
    static float vector[8192];
    static float memory[MEMORY], moves[(CELLS + 31u) / 32u];
    static uint32_t signs[(CELLS + 31u) / 32u];
    static crossbar_port_t port = {
        &host, read_byte, write_byte, millis, safe, select_cell, pulse, read_cell, multiply, perturb,
    };
    static crossbar_config_t config = {
        .port = &port, .identity = "hwtrain,crossbar,host,1.0", .tiles = {{32, 32}}, .tile_count = 1,
        .most_volts = 3.0f, .most_read_volts = 0.3f, .shortest = 50e-9f, .longest = 1e-3f, .most_move = 20e-6f,
        .pulses = pulses, .cells = CELLS, .buffer = buffer, .buffer_size = MESSAGE, .vector = vector, .vector_size = 8192,
        .memory = memory, .memory_size = MEMORY, .more = model_commands,
    };
    long number = 0;
    double baud = 0.0;
    int pty = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--pty"))
            pty = 1;
        else if (!strcmp(argv[i], "--no-actuator"))
            port.perturb = NULL, config.most_move = 0.0f;
        else if (!strcmp(argv[i], "--tcp") && i + 1 < argc)
            number = strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--baud") && i + 1 < argc)
            number = (baud = strtod(argv[++i], NULL)) >= 1.0 ? number : -1;
        else
            number = -1;
    }
    if (number < 0 || number > 65535) {
        fprintf(stderr, "usage: %s [--tcp PORT | --pty] [--baud N] [--no-actuator]\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    host.model = (model_t){
        .cell = {.dw_min = 0.002, .w_max = 1.0, .w_min = -1.0, .soft = 1}, .devices = devices, .size = CELLS,
        .signs = signs, .moves = moves, .crossbar = &crossbar, .scale = 20e-6, .threshold = 0.8f, .most_amperes = 1.0f,
    };
    if ((pty ? line_pty(&host.line) : line_tcp(&host.line, (uint16_t)number)) ||
        (baud > 0.0 && line_pace(&host.line, baud)) || crossbar_init(&crossbar, &config)) {
        perror(argv[0]);
        return 1;
    }
    model_fabricate(&host.model);
    for (;;)
        if (!crossbar_poll(&crossbar)) {
            flush(&host);
            host.count = line_read(&host.line, host.in, sizeof host.in);
            host.next = 0;
        }
}
