/* Lines of SCPI, sound, damaged and senseless, through the controller, over hardware that fails at times: no crash, no value out
 * of the board's facts, nothing driven while outputs are off, no perturbation left, and the next sound question answered. Some
 * carry their checksum, and are damaged before or behind it.
 *
 *     fuzz [LINES] [SEED] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hwtrain/frame.h"
#include "model.h"

#define CELLS 64u
#define MESSAGE 1024u

static model_t model;
static uint8_t input[4096];
static size_t given, taken;
static char said[256];
static size_t said_count;
static uint32_t state = 1, clock_now, failures;

static uint32_t random_below(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static int read_byte(void *context) {
    (void)context;
    return taken < given ? input[taken++] : -1;
}

static void write_byte(void *context, uint8_t byte) {
    (void)context;
    if (said_count < sizeof said - 1u)
        said[said_count++] = (char)byte;
}

static uint32_t millis(void *context) {
    (void)context;
    return clock_now;
}

/* Now and then hardware fails, or a converter is at its end. */
static int failing(int code) {
    if (!failures || random_below(failures))
        return code;
    return random_below(2) ? 1 : -1;
}

static int select_cell(void *context, uint8_t t, uint16_t r, uint16_t c) { return failing(model_select(context, t, r, c)); }
static int pulse(void *context, float v, float s) { return failing(model_pulse(context, v, s)); }
static int read_cell(void *context, float v, float *i) { return failing(model_read(context, v, i)); }
static int multiply(void *context, uint8_t t, const float *v, float *i) { return failing(model_multiply(context, t, v, i)); }
static int perturb(void *context, uint32_t n, uint32_t s, float g) { return failing(model_perturb(context, n, s, g)); }

static const char *const words[] = {
    "*CLS", "*ESE", "*ESE?", "*ESR?", "*IDN?", "*OPC", "*OPC?", "*RST", "*SRE", "*SRE?", "*STB?", "*TST?", "*WAI", ":SYST:ERR?",
    "SYSTem:ERRor:NEXT?", "SYST:ERR:COUN?", "SYST:VERS?", "STAT:PRES", "STAT:OPER?", "STAT:QUES:COND?", "STAT:QUES:ENAB",
    ":XBAR:SIZE?", ":XBAR:LIM:VOLT", ":XBAR:LIM:VOLT?", "XBAR:LIM:READ", "XBAR:LIM:WIDT", "XBAR:LIM:PULS", "OUTP", "OUTP?",
    "OUTP:STAT", "XBAR:WATC", "XBAR:WATC?", "XBAR:ONCE", ":XBAR:PULS", ":XBAR:PULS:ARR", ":XBAR:READ?", ":XBAR:READ:ARR?",
    ":XBAR:MULT?", ":XBAR:WRIT:ARR", ":XBAR:WRIT?", ":XBAR:COUN?", "COUN:ARR?", ":XBAR:NETW", ":XBAR:NETW?", ":XBAR:LIM:MOVE",
    ":XBAR:NETW:WISH", "NETW:WISH?", ":XBAR:NETW:HELD?", ":XBAR:LEAR", ":XBAR:LEAR?", "LEAR:COST?", ":XBAR:TRA", "TRA:COST?", "*OPT?",
    "MOD:CELL", "MOD:TIL", "MOD:CONV", "MOD:DRIV?",
    "ON", "OFF", " 0", " 1", "1.5", "-2.9", "3", "3.1", "1e-6", "1E-7", "-1e-6", "9e99", "1e-999", "nan", "0.2", "0.31", "#H1F", "4",
    "7,7", "1,1", "\"a;b\"", "'c", "#0abc", "#14abcd", "#3128", "#9999999999", "#216", ",", ",", ",", ";", ";", ":", " ", "\t", "?",
};

/* Whole units: i is a small whole number, v some volts, w a width, s siemens, b a block of so many bytes as follow it. */
static const char *const units[] = {
    "OUTP ON;", "OUTP ON;", ":XBAR:PULS i,i,i,v,w,i;", ":XBAR:PULS i,i,i,v,w;", ":XBAR:PULS:ARR v,w,b044;", ":XBAR:READ? i,i,i;",
    ":XBAR:READ:ARR?;", ":XBAR:MULT? 0,b016;", ":XBAR:MULT? 1,b036;", ":XBAR:WRIT:ARR v,w,s,s,i,b088;", ":XBAR:ONCE i;",
    ":XBAR:LIM:VOLT v;", ":XBAR:WATC i;", ":XBAR:LIM:PULS 500000;", ":XBAR:COUN:ARR?;", ":MOD:TIL i,i,i,i;", ":MOD:TIL 4,4,3,2;",
    ":XBAR:LIM:VOLT 3;", ":XBAR:LIM:WIDT 1E-3;", "*RST;",
    /* a network, 3-4-2, and what trains it */
    ":MOD:TIL 4,4,5,2;:XBAR:NETW 2E-5,0.2,0.002,1,3,i,0,0;", ":XBAR:NETW 2E-5,0.2,0.002,1,i,i,0,0;", ":XBAR:NETW:WISH b104;",
    ":XBAR:NETW:HELD b104;", ":XBAR:NETW:WISH?;", ":XBAR:LEAR 1.5,1E-6,v,v,-1,1,i,b080;", ":XBAR:LEAR 1.5,1E-6,0.1,0.1,-1,1,2,b120;",
    ":XBAR:LEAR v,w,1,1,-1,1,1,b020;", ":XBAR:LEAR:COST?;:XBAR:LEAR?;",
    ":XBAR:TRA 1.5,1E-6,i,i,i,1,0.01,0,i,i,2,1,i,v,-1,1,b020;", ":XBAR:TRA 1.5,1E-6,0,i,i,1,0.01,0,4,2,i,2,i,v,-1,1,b080;",
    ":XBAR:TRA 1.5,1E-6,i,7,128,i,s,i,4,4,2,1,0,0.1,-1,1,b020;", ":XBAR:TRA? ;:XBAR:TRA:COST?;",
    /* one that amplifies without end, and rates as wild */
    ":MOD:TIL 4,3,4,3,4,3,4,2;:MOD:CELL 1,0,0.5,0,0,0,0,1,0,-1,0,1;:XBAR:NETW 1E-12,1E-3,1,0,i,0,i,0,0,0,0,0;",
    ":XBAR:NETW:WISH b212;:XBAR:LEAR 1.5,1E-6,3E38,3E38,-1,1,1,b020;",
    ":XBAR:TRA 1.5,1E-6,0,7,0,1,1E-9,0,4,2,4,1,1,3E38,-1,1,b040;:XBAR:NETW:WISH?;",
    ":XBAR:TRA 1.5,1E-6,2,7,i,1,1E-9,0,4,2,2,1,1,3E38,-1,1,b040;:XBAR:NETW:WISH?;",
};

static size_t text(uint8_t *to, const char *from) {
    size_t length = 0;
    while (*from)
        to[length++] = (uint8_t)*from++;
    return length;
}

static size_t unit(uint8_t *to) {
    static const char *const volts[] = {"1.5", "-1.5", "2.999", "3.01", "0.7"}, *const widths[] = {"1e-6", "5E-8", "1e-3", "2e-3"},
                             *const siemens[] = {"1e-5", "2e-6", "-3e-6", "0"}, *const whole[] = {"0", "1", "2", "3", "5"};
    size_t length = 0;
    int header = 1;
    for (const char *from = units[random_below(sizeof units / sizeof *units)]; *from; from++) {
        header = *from == ' ' ? 0 : *from == ';' ? 1 : header;
        if (header || *from < 'a' || *from > 'z')
            to[length++] = (uint8_t)*from;
        else if (*from == 'b') {
            uint32_t count = (uint32_t)(100 * (from[1] - '0') + 10 * (from[2] - '0') + (from[3] - '0'));
            length += text(to + length, "#3");
            for (int i = 1; i < 4; i++)
                to[length++] = (uint8_t)from[i];
            for (uint32_t n = 0; n < count; n++) /* small floats, small counts, and any bytes */
                to[length++] = (uint8_t)(n % 4u == 0 && count % 16u < 8u ? 0x3D : n % 2u ? random_below(8) : 0);
            from += 3;
        } else
            length += text(to + length, *from == 'v' ? volts[random_below(5)] : *from == 'w' ? widths[random_below(4)] :
                                        *from == 's' ? siemens[random_below(4)] : whole[random_below(5)]);
    }
    return length;
}

/* The unit that says the checksum of those before it. */
static size_t checked(uint8_t *to, size_t length) {
    return (size_t)sprintf((char *)to + length, ";:SYST:CRC? #H%08lX", (unsigned long)hwt_crc32(0, to, length));
}

/* One line; with its checksum in front of the damage or behind it, or without one. */
static size_t line(uint8_t *to, int with_check) {
    int first = with_check && random_below(2);
    size_t length = 0;
    for (uint32_t n = 1u + random_below(12); n; n--) {
        const char *word = words[random_below(sizeof words / sizeof *words)];
        if (n % 3u && length < 600) {
            length += unit(to + length);
            continue;
        }
        while (*word && length < 900)
            to[length++] = (uint8_t)*word++;
        if (random_below(2) && length < 900)
            to[length++] = (uint8_t) " ,;"[random_below(3)];
        if (!random_below(12))
            for (uint32_t bytes = random_below(300); bytes && length < 900; bytes--)
                to[length++] = (uint8_t)random_below(256);
    }
    if (first)
        length += checked(to, length);
    for (uint32_t n = random_below(3) ? 0 : random_below(4); n; n--)
        to[random_below((uint32_t)length)] = (uint8_t)random_below(256);
    if (with_check && !first)
        length += checked(to, length);
    to[length++] = '\n';
    return length;
}

static int poll(crossbar_t *crossbar) {
    said_count = 0;
    while (crossbar_poll(crossbar))
        ;
    said[said_count] = 0;
    for (uint32_t i = 0; i < (model.size + 31u) / 32u; i++)
        if (model.moves[i] != 0.0f)
            return 1; /* a perturbation is left */
    return !crossbar->on && model.driven; /* driven, though off */
}

int main(int argc, char **argv) {
    static crossbar_t crossbar;
    static model_device_t devices[CELLS];
    static uint32_t pulses[CELLS];
    static uint8_t buffer[MESSAGE];
    static float vector[24], memory[256];
    static float moves[CELLS / 32u];
    static uint32_t signs[CELLS / 32u];
    static const crossbar_port_t port = {
        &model, read_byte, write_byte, millis, model_safe, select_cell, pulse, read_cell, multiply, perturb,
    };
    static const crossbar_config_t config = {
        .port = &port, .identity = "fuzzed", .tiles = {{4, 4}, {3, 2}}, .tile_count = 2,
        .most_volts = 3.0f, .most_read_volts = 0.3f, .shortest = 50e-9f, .longest = 1e-3f, .most_move = 20e-6f,
        .pulses = pulses, .cells = CELLS, .buffer = buffer, .buffer_size = MESSAGE, .vector = vector, .vector_size = 24,
        .memory = memory, .memory_size = 256, .more = model_commands,
    };
    unsigned long lines = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    state = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) | 1u : 1u;
    model = (model_t){.cell = {.dw_min = 0.002, .w_max = 1.0, .w_min = -1.0}, .devices = devices, .size = CELLS,
                      .signs = signs, .moves = moves, .crossbar = &crossbar, .scale = 20e-6, .threshold = 0.8f, .most_amperes = 1.0f};
    if (crossbar_init(&crossbar, &config))
        return 1;
    model_fabricate(&model);
    for (unsigned long n = 0; n < lines; n++) {
        taken = 0;
        given = line(input, n / 16u % 2u);
        clock_now += random_below(400);
        failures = n % 4u ? 0 : 1u + random_below(200);
        if (poll(&crossbar) || model.unsafe) {
            printf("line %lu: driven while off, out of the board's facts, or a perturbation left\n", n);
            return 1;
        }
        if (n % 16u)
            continue;
        taken = given = 0;
        while (given < 1100)
            input[given++] = '\n'; /* ends any block */
        poll(&crossbar);
        taken = given = 0;
        given = text(input, "*CLS;*ESE 5;*ESE?;:SYST:ERR?");
        given += checked(input, given);
        input[given++] = '\n';
        poll(&crossbar);
        static char wanted[64] = "5;0,\"No error\"";
        wanted[14 + sprintf(wanted + 14, ";#H%08lX\n", (unsigned long)hwt_crc32(0, (const uint8_t *)wanted, 14))] = 0;
        if (strcmp(said, wanted)) {
            printf("line %lu: afterwards it says %s\n", n, said);
            return 1;
        }
        clock_now += 20000;
        taken = given = 0;
        poll(&crossbar);
        if (crossbar.on && crossbar.watchdog) {
            printf("line %lu: the watchdog sleeps\n", n);
            return 1;
        }
        given = text(input, "*RST\n"); /* lines without a checksum are taken again */
        poll(&crossbar);
    }
    printf("%lu lines, %lu pulses, %lu readings, %lu updates\n", lines, (unsigned long)crossbar.total, (unsigned long)crossbar.reads,
           (unsigned long)crossbar.trained);
    return 0;
}
