/* Counts instructions in QEMU, started with -icount shift=0, where one instruction is one nanosecond: on the Cortex-M4F of
 * netduinoplus2 (SysTick counts 168 MHz) or, with BENCH_M3, on the Cortex-M3 of mps2-an385 (25 MHz). Prints instructions per
 * forward pass and per training step of a 49-4-4 sigmoid network with dense random samples. Instructions, not cycles: QEMU
 * knows neither wait states nor pipelines. */
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
#define TIMES 400u

static hwt_board_t board;
static float theta[220], samples[53], work[16];
static uint8_t receive[128], replies[64], trace[8 * TIMES], slots[2 * TIMES];

static void put(const char *text) {
    while (*text)
        UART_DATA = (uint8_t)*text++;
}

static void report(const char *name, uint32_t before, uint32_t after) {
    uint32_t ticks = (before - after) & 0xFFFFFFu;
    uint32_t each = (uint32_t)((uint64_t)ticks * 1000u / MHZ / TIMES);
    char digits[12];
    uint8_t at = 11;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + each % 10u);
    while (each /= 10u);
    put(name);
    put(digits + at);
    put("\n");
}

static uint32_t now(void) {
    return REGISTER(0xE000E018);
}

static uint32_t millis(void *context) {
    (void)context;
    return 0;
}

int main(void) {
    static const hwt_port_t port = {.millis = millis};
    static const hwt_config_t config = {
        .name = "bench", .port = &port, .theta = theta, .theta_size = 220, .samples = samples, .samples_size = 53,
        .work = work, .work_size = 16, .receive = receive, .receive_size = 128, .replies = replies, .reply_size = 64,
        .window = 1,
    };
    hwt_block_t block = {{7, 1, HWT_RADEMACHER, 0.01f}, 0, TIMES, 1, 1, 1, 0.01f, -8.0f, 8.0f, HWT_BASELINE_SHARED, slots};
    UART_CONTROL = UART_ON;
    hwt_board_init(&board, &config);
    board.network = (hwt_network_t){49, 2, HWT_MEAN_SQUARED_ERROR, {{4, HWT_SIGMOID, HWT_ADD}, {4, HWT_SIGMOID, HWT_ADD}}};
    board.size = hwt_size(&board.network);
    board.largest = 1.0f;
    hwt_workspace_init(&board.work, &board.network, work);
    for (uint32_t i = 0; i < 220; i++)
        theta[i] = (float)(hwt_mix32(i) >> 8) * 0x1p-23f - 1.0f;
    for (uint32_t i = 0; i < 53; i++)
        samples[i] = (float)((hwt_mix32(i) >> 8) + 1u) * 0x1p-24f;

    uint32_t start = now();
    for (uint32_t i = 0; i < TIMES; i++) {
        hwt_present(&board.network, theta, samples, &board.work);
        hwt_pass(&board.network, theta, samples, samples + 49, 0, 0.0f, &board.work);
    }
    report("forward ", start, now());
    start = now();
    hwt_train(&board, &block, trace);
    report("step ", start, now());
    put("end\n");
    for (;;)
        ;
}

VECTORS(0);
