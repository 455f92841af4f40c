/* Counts instructions in QEMU, started with -icount shift=0, where one instruction is one nanosecond: on the Cortex-M4F of
 * netduinoplus2 (SysTick counts 168 MHz) or, with BENCH_M3, on the Cortex-M3 of mps2-an385 (25 MHz). Instructions, not cycles:
 * QEMU knows neither wait states nor pipelines.
 *
 * A line is a network, what it does, and the instructions that takes, per sample where it is learning:
 *
 *     forward          a forward pass
 *     step             a training step of multiplexed gradient descent: update, baseline, probe
 *     two-perturbed    the sums that probes share, and two perturbed passes
 *     forward-forward  positive, negative, neutral version; all layers updated
 *     mono-forward     the same, from the sample alone
 *
 * the last two also from batches of eight; and of a spiking network, per step of time:
 *
 *     answer           all layers answer, and their traces follow
 *     target, local    the same, and all parameters learn by that signal
 *
 * Samples are dense random numbers, or (sparse) one in five is not zero. */
#define TICK_COUNT 0x1000000u /* the longest period of SysTick */
#include "../bare/cortex_m.h"
#include "hwtrain/board.h"

#ifdef BENCH_M3
#define UART_DATA REGISTER(0x40004000)
#define UART_CONTROL REGISTER(0x40004008)
#define UART_ON 1u
#define MHZ 25u
#else
#define UART_DATA REGISTER(0x40011004) /* USART1 */
#define UART_CONTROL REGISTER(0x4001100C)
#define UART_ON ((1u << 13) | (1u << 3))
#define MHZ 168u
#endif
#define MOST 400u
#define BATCH 8u

static hwt_board_t board;
static float theta[13000], samples[BATCH * 794], work[1024];
static uint8_t receive[128], replies[64], trace[8 * MOST], slots[2 * MOST], wrong[MOST];
static uint32_t started;

static void put(const char *text) {
    while (*text)
        UART_DATA = (uint8_t)*text++;
}

static uint32_t now(void) {
    return REGISTER(0xE000E018);
}

static void start(void) {
    started = now();
}

static void report(const char *network, const char *name, uint32_t times) {
    uint32_t ticks = (started - now()) & 0xFFFFFFu;
    uint32_t each = (uint32_t)((uint64_t)ticks * 1000u / MHZ / times);
    char digits[12];
    uint8_t at = 11;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + each % 10u);
    while (each /= 10u);
    put(network);
    put(" ");
    put(name);
    put(" ");
    put(digits + at);
    put("\n");
}

static uint32_t millis(void *context) {
    (void)context;
    return 0;
}

static void pass(const hwt_code_t *code) {
    hwt_pattern_t pattern;
    hwt_present(&board.network, theta, samples, &board.work);
    if (code == 0)
        hwt_pass(&board.network, theta, samples, samples + board.network.inputs, 0, 0.0f, &board.work);
    for (uint32_t probe = 0; code && probe < 2; probe++) {
        hwt_pattern_at(&pattern, code, probe, board.size);
        hwt_pass(&board.network, theta, samples, samples + board.network.inputs, &pattern, code->amplitude, &board.work);
    }
}

static void learn(const char *network, const char *name, uint8_t rule, uint16_t batch, uint16_t updates) {
    const hwt_lesson_t lesson = {batch, updates, 1e-4f, 1e-4f, 2.0f, -8.0f, 8.0f, rule, HWT_GOODNESS_SUM, slots, wrong};
    start();
    hwt_learn(&board, &lesson, trace);
    report(network, name, (uint32_t)batch * updates);
}

static void measure(const char *name, const hwt_network_t *network, uint16_t times, uint8_t one_in) {
    hwt_block_t block = {{7, 1, HWT_RADEMACHER, 0.01f}, 0, times, 1, 1, 1, 0.01f, -8.0f, 8.0f, HWT_BASELINE_SHARED, slots};
    const uint32_t length = (uint32_t)network->inputs + hwt_outputs(network);
    board.network = *network;
    board.size = hwt_size(network);
    board.largest = 1.0f;
    hwt_workspace_init(&board.work, network, work);
    for (uint32_t i = 0; i < board.size; i++)
        theta[i] = (float)(hwt_mix32(i) >> 8) * 0x1p-23f - 1.0f;
    for (uint32_t i = 0; i < BATCH * length; i++)
        samples[i] = (hwt_mix32(~i) % one_in) ? 0.0f : (float)((hwt_mix32(i) >> 8) + 1u) * 0x1p-24f;

    start();
    for (uint32_t i = 0; i < times; i++)
        pass(0);
    report(name, "forward", times);
    start();
    for (uint32_t i = 0; i < times; i++)
        pass(&block.code);
    report(name, "two-perturbed", times);
    start();
    hwt_train(&board, &block, trace);
    report(name, "step", times);
    if (!hwt_can_learn(network, HWT_FORWARD_FORWARD))
        return;
    learn(name, "forward-forward", HWT_FORWARD_FORWARD, 1, times);
    learn(name, "mono-forward", HWT_MONO_FORWARD, 1, times);
    learn(name, "forward-forward-8", HWT_FORWARD_FORWARD, BATCH, times / BATCH);
    learn(name, "mono-forward-8", HWT_MONO_FORWARD, BATCH, times / BATCH);
}

static void stream(const char *network, const char *name, uint8_t flags, uint8_t signal, uint16_t steps) {
    static const uint8_t seed[4] = {1};
    const hwt_stream_t block = {flags, HWT_RESET_SOFT, signal, HWT_SHAPE_TRIANGLE, 0, BATCH, 0.95f, 1.0f, 1.0f, 0.3f, 0.99f, 0.1f,
                                1e-3f, 1e-3f, 0.77f, -8.0f, 8.0f, seed, 0};
    start();
    for (uint16_t done = 0; done < steps; done = (uint16_t)(done + BATCH))
        hwt_stream_run(&board, &block, trace);
    report(network, name, steps);
}

int main(void) {
    static const hwt_port_t port = {.millis = millis};
    static const hwt_config_t config = {
        .name = "bench", .port = &port, .theta = theta, .theta_size = sizeof theta / sizeof *theta, .samples = samples,
        .samples_size = sizeof samples / sizeof *samples, .work = work, .work_size = sizeof work / sizeof *work,
        .receive = receive, .receive_size = 128, .replies = replies, .reply_size = 64, .window = 1,
    };
    static const hwt_network_t letters = {
        49, 2, HWT_MEAN_SQUARED_ERROR, {{4, HWT_SIGMOID, HWT_ADD}, {4, HWT_SIGMOID, HWT_ADD}}};
    static const hwt_network_t digits = {
        784, 2, HWT_CROSS_ENTROPY, {{16, HWT_RELU, 2 * HWT_NORMALISE_RMS}, {10, HWT_LINEAR, HWT_ADD}}};
    static const hwt_network_t deep = {
        49, 3, HWT_CROSS_ENTROPY,
        {{16, HWT_RELU, 2 * HWT_NORMALISE_RMS}, {16, HWT_RELU, 2 * HWT_NORMALISE_RMS}, {4, HWT_LINEAR, HWT_ADD}}};
    static const hwt_network_t spiking = {
        32, 2, HWT_CROSS_ENTROPY, {{64, HWT_STEP, HWT_SUBTRACT}, {10, HWT_LINEAR, HWT_ADD}}};
    UART_CONTROL = UART_ON;
    hwt_board_init(&board, &config);
    measure("49-4-4", &letters, MOST, 1);
    measure("784-16-10", &digits, 24, 1);
    measure("784-16-10-sparse", &digits, 24, 5);
    measure("49-16-16-4", &deep, 80, 1);
    measure("32-64-10", &spiking, 24, 1);
    board.streaming = 0;
    stream("32-64-10", "answer", HWT_STREAM_START, HWT_SIGNAL_TARGET, 24);
    stream("32-64-10", "target", HWT_STREAM_LEARN, HWT_SIGNAL_TARGET, 24);
    stream("32-64-10", "local", HWT_STREAM_LEARN, HWT_SIGNAL_LOCAL, 24);
    put("end\n");
    for (;;)
        ;
}

VECTORS(0);
