/* What every Cortex-M port shares: start-up, a millisecond tick, sleep, reset, stack high-water. Include it once, in the port's
 * main file, after defining TICK_COUNT, what SysTick counts in a millisecond. */
#ifndef HWTRAIN_CORTEX_M_H
#define HWTRAIN_CORTEX_M_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define PAINT 0x5AFEC0DEu

extern uint32_t _data_load[], _data[], _data_end[], _bss[], _bss_end[], _stack[]; /* link.ld */
int main(void);
void Reset_Handler(void);
void SysTick_Handler(void);

static volatile uint32_t milliseconds;

void SysTick_Handler(void) {
    milliseconds++;
}

/* The vector table: where the stack begins, then the handlers of exceptions 1 to 15, then those of the interrupts. */
typedef struct vectors {
    uint32_t *stack;
    void (*exceptions[15])(void);
    void (*interrupts[64])(void);
} vectors_t;

#define VECTORS(...)                                                                                              \
    __attribute__((section(".vectors"), used)) static const vectors_t vectors = {                                 \
        _stack, {Reset_Handler, fault, fault, fault, fault, fault, [14] = SysTick_Handler}, {__VA_ARGS__}}

static void fault(void) {
    for (;;)
        ;
}

/* Data and stack as the compiler expects them; the unused stack is painted, so that its high-water mark can be read. */
void Reset_Handler(void) {
    uint32_t *to = _data, *from = _data_load, *here = (uint32_t *)__builtin_frame_address(0) - 16;
    while (to < _data_end)
        *to++ = *from++;
    for (to = _bss; to < _bss_end;)
        *to++ = 0;
    while (to < here)
        *to++ = PAINT;
#ifdef __ARM_FP
    REGISTER(0xE000ED88) |= 0xFu << 20; /* CPACR: the FPU is off after a reset */
    __asm volatile("dsb\n isb" ::: "memory");
#endif
    REGISTER(0xE000E014) = TICK_COUNT - 1u; /* SysTick */
    REGISTER(0xE000E018) = 0;
    REGISTER(0xE000E010) = 7;
    main();
    fault();
}

static inline uint32_t cortex_millis(void *context) {
    (void)context;
    return milliseconds;
}

static inline uint32_t cortex_stack_free(void *context) {
    const uint32_t *word = _bss_end;
    (void)context;
    while (word < _stack && *word == PAINT)
        word++;
    return (uint32_t)((uintptr_t)word - (uintptr_t)_bss_end);
}

static inline void cortex_reset(void) {
    REGISTER(0xE000ED0C) = 0x05FA0004; /* AIRCR: SYSRESETREQ */
    fault();
}

/* Sleep unless a byte waits. WFI returns on a pending interrupt even while interrupts are masked: no wake-up is lost. */
#define CORTEX_SLEEP_UNLESS(ready)                 \
    do {                                           \
        __asm volatile("cpsid i" ::: "memory");    \
        if (!(ready))                              \
            __asm volatile("wfi");                 \
        __asm volatile("cpsie i" ::: "memory");    \
    } while (0)

#endif
