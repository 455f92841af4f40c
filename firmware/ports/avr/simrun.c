/* Runs an AVR image in simavr and joins its USART0 to a pseudo-terminal.
 *
 *     simrun MCU IMAGE.elf [--cycles] [--paced]
 *
 * Prints "ready /dev/pts/N". As fast as the host allows, or with --paced as fast as the real thing; asleep while the
 * firmware sleeps and nothing is sent. With --cycles it also prints, for every frame, "cycles N": clock cycles from its last
 * byte in to the first byte of its reply out. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* of Linux and of macOS: what POSIX leaves out */
#define _DARWIN_C_SOURCE

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <avr_uart.h>
#include <sim_avr.h>
#include <sim_elf.h>
#include <sim_irq.h>

#define HZ 16000000
#define LAG 0.01 /* [s]: a simulation that lags further does not make up for it, so as never to be faster than the real thing */

static int link_fd;
static int may_send = 1;
static int counting, paced;
static double origin; /* when cycle 0 was, in seconds */
static avr_t *avr;
static avr_cycle_count_t asked;
static avr_irq_t *input;
static unsigned char out[256];
static size_t out_count;

static void flush(void) {
    size_t done = 0;
    while (done < out_count) {
        ssize_t count = write(link_fd, out + done, out_count - done);
        if (count <= 0)
            break;
        done += (size_t)count;
    }
    out_count = 0;
}

static void on_byte(struct avr_irq_t *irq, uint32_t value, void *context) {
    (void)irq;
    (void)context;
    if (counting && asked) {
        printf("cycles %llu\n", (unsigned long long)(avr->cycle - asked));
        fflush(stdout);
        asked = 0;
    }
    out[out_count++] = (unsigned char)value;
    if (out_count == sizeof out)
        flush();
}

static void on_xon(struct avr_irq_t *irq, uint32_t value, void *context) {
    (void)irq;
    (void)value;
    (void)context;
    may_send = 1;
}

static void on_xoff(struct avr_irq_t *irq, uint32_t value, void *context) {
    (void)irq;
    (void)value;
    (void)context;
    may_send = 0;
}

/* Is there a byte that the receiver would take? Waits for at most `patience` seconds. */
static int is_waiting(double patience) {
    struct timespec limit = {0, (long)(1e9 * patience)};
    fd_set ready;
    FD_ZERO(&ready);
    if (may_send)
        FD_SET(link_fd, &ready);
    return pselect(link_fd + 1, &ready, NULL, NULL, &limit, NULL) > 0;
}

/* Hand over waiting bytes, one at a time, for as long as the receiver takes them. */
static void pump(void) {
    unsigned char byte;
    flush();
    while (is_waiting(0.0) && read(link_fd, &byte, 1) == 1) {
        asked = byte ? 0 : avr->cycle;
        avr_raise_irq(input, byte);
    }
}

/* Seconds until a cycle is due; 0 where it is overdue. */
static double until(avr_cycle_count_t cycle) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    double rest = origin + (double)cycle / HZ - ((double)time.tv_sec + 1e-9 * (double)time.tv_nsec);
    if (rest < -LAG)
        origin -= rest;
    return rest < 0.0 ? 0.0 : rest;
}

/* The firmware sleeps, for `cycles` unless a byte comes; simavr adds them afterwards. */
static void on_sleep(avr_t *who, avr_cycle_count_t cycles) {
    (void)who;
    flush();
    if (!paced) {
        if (may_send && is_waiting((double)cycles / HZ))
            pump();
        return;
    }
    avr_cycle_count_t end = avr->cycle + cycles;
    while (!is_waiting(until(end)) && until(end) > 0.0)
        ;
    avr_cycle_count_t rest = (avr_cycle_count_t)(until(end) * HZ);
    avr->cycle = end - (rest < cycles ? rest : cycles); /* now */
    pump();
    avr->cycle -= cycles;
}

int main(int argc, char **argv) {
    elf_firmware_t firmware;
    struct termios mode;
    uint32_t flags = 0;
    for (int i = 3; i < argc; i++) {
        counting |= !strcmp(argv[i], "--cycles");
        paced |= !strcmp(argv[i], "--paced");
    }
    if (argc < 3 || argc != 3 + counting + paced) {
        fprintf(stderr, "usage: %s MCU IMAGE.elf [--cycles] [--paced]\n", argv[0]);
        return 2;
    }
    memset(&firmware, 0, sizeof firmware);
    avr = avr_make_mcu_by_name(argv[1]);
    if (!avr || elf_read_firmware(argv[2], &firmware))
        return 1;
    avr_init(avr);
    firmware.frequency = HZ;
    avr_load_firmware(avr, &firmware);
    avr->sleep = on_sleep;

    link_fd = posix_openpt(O_RDWR | O_NOCTTY);
    if (link_fd < 0 || grantpt(link_fd) || unlockpt(link_fd))
        return 1;
    int other = open(ptsname(link_fd), O_RDWR | O_NOCTTY);
    tcgetattr(other, &mode);
    cfmakeraw(&mode);
    tcsetattr(other, TCSANOW, &mode);

    avr_ioctl(avr, AVR_IOCTL_UART_GET_FLAGS('0'), &flags);
    flags &= ~(uint32_t)(AVR_UART_FLAG_STDIO | AVR_UART_FLAG_POOL_SLEEP);
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    input = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
    avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), on_byte, NULL);
    avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUT_XON), on_xon, NULL);
    avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUT_XOFF), on_xoff, NULL);
    printf("ready %s\n", ptsname(link_fd));
    fflush(stdout);

    for (unsigned turn = 0;; turn++) {
        int state = avr_run(avr);
        if (state == cpu_Done || state == cpu_Crashed) {
            fprintf(stderr, "simrun: the firmware %s\n", state == cpu_Done ? "ended" : "crashed");
            return 1;
        }
        if (turn & 63u)
            continue;
        pump();
        if (paced && until(avr->cycle) > 0.0002)
            is_waiting(until(avr->cycle));
    }
}
