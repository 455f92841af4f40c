/* ARM MPS2 with the AN385 image: a Cortex-M3, so all floating point is software; CMSDK UART0. Runs in QEMU (mps2-an385), where
 * 25 MHz is the clock. (ARM DAI0385, CMSDK TRM DDI0479.) */
#define TICK_COUNT 25000u
#include "../bare/cortex_m.h"
#include "hwtrain/board.h"

#define UART_DATA REGISTER(0x40004000)
#define UART_STATE REGISTER(0x40004004)
#define UART_CTRL REGISTER(0x40004008)
#define UART_INTERRUPT REGISTER(0x4000400C)
#define UART_BAUDDIV REGISTER(0x40004010)
#define NVIC_ISER0 REGISTER(0xE000E100)
#define STATE_SENDING 1u
#define STATE_RECEIVED 2u
#define STATE_OVERRUN 8u
#define INTERRUPT_RECEIVE 2u

static hwt_ring_t received;

static void on_receive(void) {
    UART_INTERRUPT = INTERRUPT_RECEIVE; /* acknowledge first: a byte that comes while draining must interrupt again */
    if (UART_STATE & STATE_OVERRUN) {
        UART_STATE = STATE_OVERRUN;
        received.lost++;
    }
    while (UART_STATE & STATE_RECEIVED)
        hwt_ring_put(&received, (uint8_t)UART_DATA);
}

static void write(void *context, uint8_t byte) {
    (void)context;
    while (UART_STATE & STATE_SENDING)
        ;
    UART_DATA = byte;
}

static void rest(void *context) {
    (void)context; /* the network is numbers in RAM: this board drives nothing */
}

static void reset(void *context) {
    (void)context;
    while (UART_STATE & STATE_SENDING)
        ;
    cortex_reset();
}

int main(void) {
    static float theta[30720], samples[12800], work[2048];
    static uint8_t receive[1024], replies[4 * 1024];
    static hwt_board_t board;
    static const hwt_port_t port = {&received, hwt_ring_read, write, cortex_millis,
                                    rest, reset, hwt_ring_overruns, hwt_stack_free};
    static const hwt_config_t config = {
        .name = "mps2_an385", .port = &port,
        .theta = theta, .theta_size = 30720, .samples = samples, .samples_size = 12800, .work = work, .work_size = 2048,
        .receive = receive, .receive_size = sizeof receive, .replies = replies, .reply_size = 1024, .window = 4,
        .ring = HWT_RING_SIZE - 1u,
    };
    UART_BAUDDIV = 25000000u / 115200u;
    UART_CTRL = 0xB; /* send, receive, receive interrupt */
    NVIC_ISER0 = 1u;
    if (hwt_board_init(&board, &config))
        return 1;
    for (;;)
        if (!hwt_board_poll(&board))
            cortex_sleep(&received);
}

VECTORS([0] = on_receive);
