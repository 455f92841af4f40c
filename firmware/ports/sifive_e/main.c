/* SiFive FE310 (RV32IMAC, no floating-point unit), UART0, 115 200 baud 8N1. Runs in QEMU (sifive_e), whose timer counts 10 MHz;
 * silicon counts 32 768 Hz. Interrupts only end the sleep, so there is no handler: the receiver's 8 bytes are read by polling,
 * which is enough for a window of one request. (FE310-G002 manual.) */
#include "hwtrain/bare.h"
#include "hwtrain/board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART_TXDATA REGISTER(0x10013000)
#define UART_RXDATA REGISTER(0x10013004)
#define UART_TXCTRL REGISTER(0x10013008)
#define UART_RXCTRL REGISTER(0x1001300C)
#define UART_IE REGISTER(0x10013010)
#define UART_DIV REGISTER(0x10013018)
#define PLIC_PRIORITY_UART REGISTER(0x0C00000C)
#define PLIC_ENABLE REGISTER(0x0C002000)
#define PLIC_THRESHOLD REGISTER(0x0C200000)
#define PLIC_CLAIM REGISTER(0x0C200004)
#define MTIME REGISTER(0x0200BFF8)
#define MTIMECMP REGISTER(0x02004000)
#define MTIMECMP_HIGH REGISTER(0x02004004)
#define MTIME_HIGH REGISTER(0x0200BFFC)
#ifndef TICK_HZ
#define TICK_HZ 10000000u
#endif
#define TICKS_PER_MS (TICK_HZ / 1000u)

static int read(void *context) {
    uint32_t word = UART_RXDATA;
    (void)context;
    return word >> 31 ? -1 : (int)(word & 0xFFu);
}

static void write(void *context, uint8_t byte) {
    (void)context;
    while (UART_TXDATA >> 31)
        ;
    UART_TXDATA = byte;
}

static uint64_t ticks(void) {
    uint32_t high, low;
    do {
        high = MTIME_HIGH;
        low = MTIME;
    } while (high != MTIME_HIGH);
    return (uint64_t)high << 32 | low;
}

/* From all 64 bits of the timer: the quotient of its lower half alone would jump where that wraps. */
static uint32_t millis(void *context) {
    (void)context;
    return (uint32_t)(ticks() / TICKS_PER_MS);
}

static void rest(void *context) {
    (void)context; /* the network is numbers in RAM: this board drives nothing */
}

/* Until a byte or the next millisecond: WFI returns when an enabled interrupt is pending, though none is ever taken. */
static void sleep(void) {
    uint64_t next = ticks() + TICKS_PER_MS;
    MTIMECMP_HIGH = UINT32_MAX; /* not due between the two halves */
    MTIMECMP = (uint32_t)next;
    MTIMECMP_HIGH = (uint32_t)(next >> 32);
    __asm volatile("wfi");
    uint32_t source = PLIC_CLAIM;
    if (source)
        PLIC_CLAIM = source;
}

int main(void) {
    static float theta[1024], samples[512], work[256];
    static uint8_t receive[1024], replies[1024];
    static hwt_board_t board;
    static const hwt_port_t port = {0, read, write, millis, rest, 0, 0, hwt_stack_free};
    static const hwt_config_t config = {
        .name = "sifive_e", .port = &port,
        .theta = theta, .theta_size = 1024, .samples = samples, .samples_size = 512, .work = work, .work_size = 256,
        .receive = receive, .receive_size = sizeof receive, .replies = replies, .reply_size = 1024, .window = 1, .ring = 8,
    };
    UART_DIV = 138; /* 16 MHz / 115 200 - 1 */
    UART_TXCTRL = 1;
    UART_RXCTRL = 1;
    UART_IE = 2;
    PLIC_PRIORITY_UART = 1;
    PLIC_ENABLE = 1u << 3;
    PLIC_THRESHOLD = 0;
    __asm volatile("csrw mie, %0" ::"r"((1u << 11) | (1u << 7)));
    if (hwt_board_init(&board, &config))
        return 1;
    for (;;)
        if (!hwt_board_poll(&board))
            sleep();
}

/* Where the processor begins. */
__asm(".section .start, \"ax\"\n"
      ".globl _start\n"
      "_start: la sp, _stack\n"
      "  call hwt_start_memory\n"
      "  call main\n"
      "1: j 1b\n"
      ".text\n");
