/* What every Cortex-M port shares: vectors, start-up, a millisecond tick, sleep, reset. Include it once, in the port's main
 * file, after defining TICK_COUNT, what SysTick counts in a millisecond. (ARM DDI0403.) */
#include "hwtrain/bare.h"
#include "hwtrain/ring.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* The vector table: where the stack begins, then the handlers of exceptions 1 to 15, then those of the interrupts. */
#define VECTORS(...)                                                \
    __attribute__((section(".start"), used)) static const struct {  \
        uint8_t *stack;                                             \
        void (*exceptions[15])(void), (*interrupts[64])(void);      \
    } vectors = {_stack, {_start, fault, fault, fault, fault, fault, [14] = tick}, {__VA_ARGS__}}

int main(void);

static volatile uint32_t milliseconds;

static void tick(void) {
    milliseconds++;
}

static void fault(void) {
    for (;;)
        ;
}

void _start(void) {
#ifdef __ARM_FP
    REGISTER(0xE000ED88) |= 0xFu << 20; /* CPACR: the FPU is off after a reset */
    __asm volatile("dsb\n isb" ::: "memory");
#endif
    hwt_start_memory();
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

/* Sleep unless a byte waits. WFI returns on a pending interrupt even while interrupts are masked: no wake-up is lost. */
static inline void cortex_sleep(const hwt_ring_t *ring) {
    __asm volatile("cpsid i" ::: "memory");
    if (hwt_ring_is_empty(ring))
        __asm volatile("wfi");
    __asm volatile("cpsie i" ::: "memory");
}

static inline void cortex_reset(void) {
    REGISTER(0xE000ED0C) = 0x05FA0004; /* AIRCR: SYSRESETREQ */
    fault();
}
