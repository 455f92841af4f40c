/* ATmega328P (Uno, Nano) and ATmega2560 (Mega) at 16 MHz: USART0, 115 200 baud 8N1, the board's USB serial port. Runs in
 * simavr. The 328P's 2 KB of RAM hold a 49-4-4 network (220 parameters), one sample, one request, one reply and 490 bytes of
 * stack. (DS40002061, DS40002211.) */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/wdt.h>

#ifdef __AVR_ATmega328P__
#define HWT_RING_SIZE 16u
#define NAME "atmega328p"
#define THETA 220
#define SAMPLES 53
#define WORK 16
#define RECEIVE 128
#define REPLY 96
#define USART_RECEIVED USART_RX_vect
#else
#define HWT_RING_SIZE 256u
#define NAME "atmega2560"
#define THETA 768
#define SAMPLES 256
#define WORK 192
#define RECEIVE 512
#define REPLY 512
#define USART_RECEIVED USART0_RX_vect
#endif
#include "hwtrain/bare.h"
#include "hwtrain/board.h"
#include "hwtrain/ring.h"

extern uint8_t __heap_start[]; /* end of the static data, from the linker */

static hwt_ring_t received;
static volatile uint32_t milliseconds;

/* Paint the stack (HWT_PAINT) before the C runtime has used any. */
__asm(".section .init3, \"ax\", @progbits\n"
      "  ldi r30, lo8(__heap_start)\n  ldi r31, hi8(__heap_start)\n  ldi r24, 0xC5\n  ldi r25, hi8(__stack + 1)\n"
      "1: st Z+, r24\n  cpi r30, lo8(__stack + 1)\n  cpc r31, r25\n  brne 1b\n"
      ".text\n");

ISR(USART_RECEIVED) {
    if (UCSR0A & (1 << DOR0))
        received.lost++;
    hwt_ring_put(&received, UDR0);
}

ISR(TIMER0_COMPA_vect) {
    milliseconds++;
}

static void write(void *context, uint8_t byte) {
    (void)context;
    while (!(UCSR0A & (1 << UDRE0)))
        ;
    UCSR0A |= 1 << TXC0; /* so that reset can wait for this byte */
    UDR0 = byte;
}

static uint32_t millis(void *context) {
    uint8_t state = SREG;
    (void)context;
    cli();
    uint32_t now = milliseconds;
    SREG = state;
    return now;
}

static void rest(void *context) {
    (void)context; /* the network is numbers in RAM: this board drives nothing */
}

static void reset(void *context) {
    (void)context;
    while (!(UCSR0A & (1 << TXC0)))
        ;
    cli();
    wdt_enable(WDTO_15MS);
    for (;;)
        ;
}

static uint32_t stack_free(void *context) {
    (void)context;
    return hwt_painted(__heap_start, (const uint8_t *)RAMEND + 1);
}

int main(void) {
    static float theta[THETA], samples[SAMPLES], work[WORK];
    static uint8_t receive[RECEIVE], replies[REPLY];
    static hwt_board_t board;
    static const hwt_port_t port = {&received, hwt_ring_read, write, millis, rest, reset, hwt_ring_overruns, stack_free};
    static const hwt_config_t config = {
        .name = NAME, .port = &port,
        .theta = theta, .theta_size = THETA, .samples = samples, .samples_size = SAMPLES, .work = work, .work_size = WORK,
        .receive = receive, .receive_size = RECEIVE, .replies = replies, .reply_size = REPLY, .window = 1,
        .ring = HWT_RING_SIZE - 1u,
    };
    MCUSR = 0; /* a watchdog that caused this start is still running */
    wdt_disable();
    UCSR0A = 1 << U2X0;
    UBRR0 = 16; /* 117 647 baud, 2.1 % fast */
    UCSR0B = (1 << RXEN0) | (1 << TXEN0) | (1 << RXCIE0);
    TCCR0A = 1 << WGM01;
    TCCR0B = (1 << CS01) | (1 << CS00); /* 16 MHz / 64 / 250 = 1 kHz */
    OCR0A = 249;
    TIMSK0 = 1 << OCIE0A;
    if (hwt_board_init(&board, &config))
        return 1;
    sei();
    for (;;)
        if (!hwt_board_poll(&board)) {
            cli();
            if (hwt_ring_is_empty(&received)) {
                sleep_enable();
                sei(); /* takes effect after the next instruction: no wake-up is lost */
                sleep_cpu();
                sleep_disable();
            }
            sei();
        }
}
