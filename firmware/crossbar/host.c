/* The controller as a POSIX process with cells in memory, behind a TCP port or a pseudo-terminal.
 *
 *     crossbar [--tcp PORT | --pty] [--baud N] [--no-actuator]
 *
 * Prints "ready socket://127.0.0.1:PORT" or "ready /dev/pts/N" when it can be reached. A connection that ends is a cable that was
 * pulled: the controller goes on, its watchdog too. Without an actuator nothing but pulses moves cells. */
#define _XOPEN_SOURCE 700

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "../ports/host/line.h"
#include "model.h"

#define CELLS 65536u
#define MEMORY 262144u
#define MESSAGE (1u << 20)

typedef struct host {
    model_t model; /* first, so that the array side of the port finds it */
    line_t line;
} host_t;

static int read_byte(void *context) {
    return line_read(&((host_t *)context)->line);
}

static void write_byte(void *context, uint8_t byte) {
    line_write(&((host_t *)context)->line, byte);
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
        &host, read_byte, write_byte, line_millis,
        model_safe, model_select, model_pulse, model_read, model_multiply, model_perturb,
    };
    static crossbar_config_t config = {
        .port = &port, .identity = "hwtrain,crossbar,host,1.0", .tiles = {{32, 32}}, .tile_count = 1,
        .most_volts = 3.0f, .most_read_volts = 0.3f, .shortest = 50e-9f, .longest = 1e-3f, .most_move = 20e-6f,
        .pulses = pulses, .cells = CELLS, .buffer = buffer, .buffer_size = MESSAGE, .vector = vector, .vector_size = 8192,
        .memory = memory, .memory_size = MEMORY, .more = model_commands,
    };
    for (int i = 1, taken; i < argc; i += taken ? taken : 1) {
        taken = line_argument(&host.line, argc - i, argv + i);
        if (!taken && !strcmp(argv[i], "--no-actuator"))
            port.perturb = NULL, config.most_move = 0.0f;
        else if (!taken)
            host.line.port = -1;
    }
    if (host.line.port < 0 || host.line.port > 65535) {
        fprintf(stderr, "usage: %s [--tcp PORT | --pty] [--baud N] [--no-actuator]\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    host.model = (model_t){
        .cell = {.dw_min = 0.002, .w_max = 1.0, .w_min = -1.0, .soft = 1}, .devices = devices, .size = CELLS,
        .signs = signs, .moves = moves, .crossbar = &crossbar, .scale = 20e-6, .threshold = 0.8f, .most_amperes = 1.0f,
    };
    if (line_open(&host.line) || crossbar_init(&crossbar, &config)) {
        perror(argv[0]);
        return 1;
    }
    model_fabricate(&host.model);
    for (;;)
        if (!crossbar_poll(&crossbar))
            line_wait(&host.line);
}
