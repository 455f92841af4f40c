/* Optional, for ports without an operating system: memory at start-up, and how much of the stack was never used.
 *
 * The stack is painted at start; where the paint has gone, it was used. A freestanding build (-ffreestanding -nostdlib) finds
 * here also memcpy and memset, which compilers call by themselves.
 */
#ifndef HWTRAIN_BARE_H
#define HWTRAIN_BARE_H

#include <stdint.h>

#define HWT_PAINT 0xC5u /* every byte of unused stack */

/* Painted bytes from `from` upwards, before `end`. */
uint32_t hwt_painted(const uint8_t *from, const uint8_t *end);

#if !__STDC_HOSTED__

/* From the linker script (ports/bare/link.ld): where variables are kept in flash and where they live, zeroed variables, and the
 * upper end of the stack, which grows down towards them. */
extern uint8_t _data_load[], _data[], _data_end[], _bss[], _bss_end[], _stack[];

/* Give variables their first values, and paint the stack. The first call after a reset, on the stack's first bytes. */
void hwt_start_memory(void);

/* hwt_port.stack_free. */
uint32_t hwt_stack_free(void *context);

#endif

#endif
