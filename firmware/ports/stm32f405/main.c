/* STM32F405 on its 16 MHz internal oscillator, USART2 on PA2 (out) and PA3 (in), 115 200 baud 8N1: the ST-Link's virtual serial
 * port on Nucleo-64 boards. The same file runs in QEMU (netduinoplus2, second -serial), where SysTick counts 168 MHz, so that a
 * millisecond is a tenth of one. No wait depends on a ready bit: QEMU has no RCC. (RM0090, sections 7, 8, 30.) */
#define TICK_COUNT 16000u
#include "../bare/cortex_m.h"
#include "hwtrain/board.h"

#define RCC_AHB1ENR REGISTER(0x40023830)
#define RCC_APB1ENR REGISTER(0x40023840)
#define GPIOA_MODER REGISTER(0x40020000)
#define GPIOA_AFRL REGISTER(0x40020020)
#define USART2_SR REGISTER(0x40004400)
#define USART2_DR REGISTER(0x40004404)
#define USART2_BRR REGISTER(0x40004408)
#define USART2_CR1 REGISTER(0x4000440C)
#define NVIC_ISER1 REGISTER(0xE000E104)
enum { SR_OVERRUN = 1 << 3, SR_RECEIVED = 1 << 5, SR_SENT = 1 << 6, SR_EMPTY = 1 << 7 };
#define CCM __attribute__((section(".more"))) /* core-coupled memory, 64 KB: in reach of the processor alone */

static hwt_ring_t received;

static void on_receive(void) {
    uint32_t status = USART2_SR; /* read before DR: the pair clears both flags */
    if (status & SR_OVERRUN)
        received.lost++;
    if (status & (SR_RECEIVED | SR_OVERRUN))
        hwt_ring_put(&received, (uint8_t)USART2_DR);
}

static void write(void *context, uint8_t byte) {
    (void)context;
    while (!(USART2_SR & SR_EMPTY))
        ;
    USART2_DR = byte;
}

static void rest(void *context) {
    (void)context; /* the network is numbers in RAM: this board drives nothing */
}

static void reset(void *context) {
    (void)context;
    while (!(USART2_SR & SR_SENT))
        ;
    cortex_reset();
}

int main(void) {
    static float theta[30720];
    static CCM float samples[12800], work[2048];
    static CCM uint8_t receive[1024], replies[4 * 1024];
    static hwt_board_t board;
    static const hwt_port_t port = {&received, hwt_ring_read, write, cortex_millis,
                                    rest, reset, hwt_ring_overruns, hwt_stack_free};
    static const hwt_config_t config = {
        .name = "stm32f405", .port = &port, .window = 4, .ring = HWT_RING_SIZE - 1u,
        .theta = theta, .theta_size = 30720, .samples = samples, .samples_size = 12800, .work = work, .work_size = 2048,
        .receive = receive, .receive_size = sizeof receive, .replies = replies, .reply_size = 1024,
    };
    RCC_AHB1ENR |= 1u;
    RCC_APB1ENR |= 1u << 17;
    GPIOA_MODER = (GPIOA_MODER & ~(0xFu << 4)) | (0xAu << 4);
    GPIOA_AFRL = (GPIOA_AFRL & ~(0xFFu << 8)) | (0x77u << 8);
    USART2_BRR = 139; /* 16 MHz / 115 200 */
    USART2_CR1 = (1u << 13) | (1u << 5) | (1u << 3) | (1u << 2);
    NVIC_ISER1 = 1u << (38 - 32);
    if (hwt_board_init(&board, &config))
        return 1;
    for (;;)
        if (!hwt_board_poll(&board))
            cortex_sleep(&received);
}

VECTORS([38] = on_receive);
