/* The controller on an STM32F405, USART2 on PA2 (out) and PA3 (in), 115 200 baud 8N1, with cells in memory where a board would
 * have multiplexers, a DAC and an ADC; for QEMU (netduinoplus2, second -serial), where a millisecond is a tenth of one. Registers
 * as in ../ports/stm32f405/main.c. (RM0090, sections 7, 8, 30.) */
#define TICK_COUNT 16000u
#define HWT_RING_SIZE 4096u
#include "../ports/bare/cortex_m.h"
#include <stddef.h>

#include "model.h"

#define RCC_AHB1ENR REGISTER(0x40023830)
#define RCC_APB1ENR REGISTER(0x40023840)
#define GPIOA_MODER REGISTER(0x40020000)
#define GPIOA_AFRL REGISTER(0x40020020)
#define USART2_SR REGISTER(0x40004400)
#define USART2_DR REGISTER(0x40004404)
#define USART2_BRR REGISTER(0x40004408)
#define USART2_CR1 REGISTER(0x4000440C)
#define NVIC_ISER1 REGISTER(0xE000E104)
enum { SR_OVERRUN = 1 << 3, SR_RECEIVED = 1 << 5, SR_EMPTY = 1 << 7 };
#define CELLS 1536u
#define MEMORY 6144u

static hwt_ring_t received;
static model_t model;

static void on_receive(void) {
    uint32_t status = USART2_SR; /* read before DR: the pair clears both flags */
    if (status & SR_OVERRUN)
        received.lost++;
    if (status & (SR_RECEIVED | SR_OVERRUN))
        hwt_ring_put(&received, (uint8_t)USART2_DR);
}

static int read_byte(void *context) {
    (void)context;
    return hwt_ring_read(&received);
}

static void write_byte(void *context, uint8_t byte) {
    (void)context;
    while (!(USART2_SR & SR_EMPTY))
        ;
    USART2_DR = byte;
}

int main(void) {
    static crossbar_t crossbar;
    static model_device_t devices[CELLS];
    static uint32_t pulses[CELLS];
    static uint8_t buffer[16384];
    static float vector[256];
    static float memory[MEMORY], moves[(CELLS + 31u) / 32u];
    static uint32_t signs[(CELLS + 31u) / 32u];
    static const crossbar_port_t port = {
        &model, read_byte, write_byte, cortex_millis,
        model_safe, model_select, model_pulse, model_read, model_multiply, model_perturb,
    };
    static const crossbar_config_t config = {
        .port = &port, .identity = "hwtrain,crossbar,stm32f405,1.0", .tiles = {{16, 16}}, .tile_count = 1,
        .most_volts = 3.0f, .most_read_volts = 0.3f, .shortest = 50e-9f, .longest = 1e-3f, .most_move = 20e-6f,
        .pulses = pulses, .cells = CELLS, .buffer = buffer, .buffer_size = sizeof buffer, .vector = vector, .vector_size = 256,
        .memory = memory, .memory_size = MEMORY, .more = model_commands,
    };
    model = (model_t){
        .cell = {.dw_min = 0.002, .w_max = 1.0, .w_min = -1.0, .soft = 1}, .devices = devices, .size = CELLS,
        .signs = signs, .moves = moves, .crossbar = &crossbar, .scale = 20e-6, .threshold = 0.8f, .most_amperes = 1.0f,
    };
    RCC_AHB1ENR |= 1u;
    RCC_APB1ENR |= 1u << 17;
    GPIOA_MODER = (GPIOA_MODER & ~(0xFu << 4)) | (0xAu << 4);
    GPIOA_AFRL = (GPIOA_AFRL & ~(0xFFu << 8)) | (0x77u << 8);
    USART2_BRR = 139; /* 16 MHz / 115 200 */
    USART2_CR1 = (1u << 13) | (1u << 5) | (1u << 3) | (1u << 2);
    NVIC_ISER1 = 1u << (38 - 32);
    if (crossbar_init(&crossbar, &config))
        return 1;
    model_fabricate(&model);
    for (;;)
        if (!crossbar_poll(&crossbar))
            cortex_sleep(&received);
}

VECTORS([38] = on_receive);
