#include "scpi.h"

#include <stddef.h>

#include "hwtrain/frame.h"

enum { PLAIN, STRING, HASH, LENGTH, BLOCK, INDEFINITE };

/* ---- characters ---- */

static uint8_t upper(uint8_t c) {
    return c >= 'a' && c <= 'z' ? (uint8_t)(c - 'a' + 'A') : c;
}

static int is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static int is_letter(uint8_t c) {
    return upper(c) >= 'A' && upper(c) <= 'Z';
}

static int is_space(uint8_t c) {
    return c <= ' ' && c != '\n'; /* IEEE 488.2, 7.4.1.2 */
}

/* ---- status ---- */

void scpi_error(scpi_t *scpi, int code) {
    if (code <= -100 && code > -200)
        scpi->esr |= SCPI_ESR_COMMAND;
    else if (code <= -200 && code > -300)
        scpi->esr |= SCPI_ESR_EXECUTION;
    else if (code <= -400 && code > -500)
        scpi->esr |= SCPI_ESR_QUERY;
    else
        scpi->esr |= SCPI_ESR_DEVICE;
    if (scpi->waiting < SCPI_ERRORS) {
        scpi->errors[(scpi->first + scpi->waiting) % SCPI_ERRORS] = (int16_t)code;
        scpi->waiting++;
    } else {
        scpi->errors[(scpi->first + SCPI_ERRORS - 1u) % SCPI_ERRORS] = SCPI_OVERFLOW; /* SCPI-99, 21.8.1 */
    }
}

void scpi_condition(scpi_register_t *status, uint16_t bits, int on) {
    uint16_t now = (uint16_t)(on ? status->condition | bits : status->condition & ~bits);
    status->event = (uint16_t)(status->event | (now & ~status->condition));
    status->condition = now;
}

static uint8_t status_byte(const scpi_t *scpi) {
    uint8_t byte = 0;
    if (scpi->waiting)
        byte |= 4u;
    if (scpi->questionable.event & scpi->questionable.enable)
        byte |= 8u;
    if (scpi->answered)
        byte |= 16u; /* MAV: this message has answered before */
    if (scpi->esr & scpi->ese)
        byte |= 32u;
    if (scpi->operation.event & scpi->operation.enable)
        byte |= 128u;
    if (byte & scpi->sre & 0xBFu)
        byte |= 64u; /* MSS */
    return byte;
}

static const char *sentence(int code) {
    switch (code) {
    case SCPI_OK: return "No error";
    case SCPI_SYNTAX: return "Syntax error";
    case SCPI_TYPE: return "Data type error";
    case SCPI_NOT_ALLOWED: return "Parameter not allowed";
    case SCPI_MISSING: return "Missing parameter";
    case SCPI_UNDEFINED: return "Undefined header";
    case SCPI_NUMBER: return "Numeric data error";
    case SCPI_STRING: return "String data error";
    case SCPI_BLOCK: return "Block data error";
    case SCPI_CUT: return "Invalid block data";
    case SCPI_CONFLICT: return "Settings conflict";
    case SCPI_RANGE: return "Data out of range";
    case SCPI_TOO_MUCH: return "Too much data";
    case SCPI_ILLEGAL: return "Illegal parameter value";
    case SCPI_HARDWARE: return "Hardware error";
    case SCPI_SELF_TEST: return "Self-test failed";
    case SCPI_OVERFLOW: return "Queue overflow";
    case SCPI_OVERRUN: return "Input buffer overrun";
    case SCPI_WORN: return "A cell has had its pulses";
    case SCPI_SILENCE: return "The watchdog has switched off";
    default: return "Device-specific error";
    }
}

/* ---- answers ---- */

void scpi_say_byte(scpi_t *scpi, uint8_t byte) {
    scpi->sum = hwt_crc32(scpi->sum, &byte, 1);
    scpi->config->write(scpi->config->owner, byte);
}

static void say(scpi_t *scpi, const char *text) {
    while (*text)
        scpi_say_byte(scpi, (uint8_t)*text++);
}

/* What stands before every answer; `parameters` counts those of the unit. */
static void open_answer(scpi_t *scpi) {
    if (scpi->parameters & 0x80u)
        scpi_say_byte(scpi, ',');
    else if (scpi->answered)
        scpi_say_byte(scpi, ';');
    scpi->parameters |= 0x80u;
    scpi->answered = 1;
}

static void say_digits(scpi_t *scpi, uint32_t value, uint8_t places) {
    char digits[11];
    uint8_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value || count < places);
    while (count)
        scpi_say_byte(scpi, (uint8_t)digits[--count]);
}

void scpi_say_whole(scpi_t *scpi, int32_t value) {
    open_answer(scpi);
    if (value < 0)
        scpi_say_byte(scpi, '-');
    say_digits(scpi, value < 0 ? 0u - (uint32_t)value : (uint32_t)value, 1);
}

/* NR3 with nine digits. */
void scpi_say_number(scpi_t *scpi, double value) {
    int exponent = 0;
    open_answer(scpi);
    if (!(value == value)) {
        say(scpi, "9.91E+37"); /* SCPI-99, 7.2.1.5 */
        return;
    }
    if (value < 0.0) {
        scpi_say_byte(scpi, '-');
        value = -value;
    }
    if (value > 9.9e37) {
        say(scpi, "9.9E+37");
        return;
    }
    if (value < 1e-99)
        value = 0.0;
    while (value >= 10.0) {
        value /= 10.0;
        exponent++;
    }
    while (value > 0.0 && value < 1.0) {
        value *= 10.0;
        exponent--;
    }
    uint32_t digits = (uint32_t)(value * 1e8 + 0.5);
    if (digits >= 1000000000u) {
        digits /= 10u;
        exponent++;
    }
    say_digits(scpi, digits / 100000000u, 1);
    scpi_say_byte(scpi, '.');
    say_digits(scpi, digits % 100000000u, 8);
    say(scpi, exponent < 0 ? "E-" : "E+");
    say_digits(scpi, (uint32_t)(exponent < 0 ? -exponent : exponent), 2);
}

void scpi_say_text(scpi_t *scpi, const char *text) {
    open_answer(scpi);
    say(scpi, text);
}

void scpi_say_block(scpi_t *scpi, uint32_t count) {
    uint32_t rest = count;
    uint8_t places = 0;
    do {
        places++;
        rest /= 10u;
    } while (rest);
    open_answer(scpi);
    scpi_say_byte(scpi, '#');
    scpi_say_byte(scpi, (uint8_t)('0' + places));
    say_digits(scpi, count, 1);
}

/* ---- parameters ---- */

static void skip_space(scpi_t *scpi) {
    while (scpi->at < scpi->end && is_space(*scpi->at))
        scpi->at++;
}

int scpi_more(scpi_t *scpi) {
    skip_space(scpi);
    return scpi->at < scpi->end;
}

/* Go to the next parameter. */
static int next(scpi_t *scpi) {
    if (!scpi_more(scpi))
        return SCPI_MISSING;
    if (scpi->parameters++) {
        if (*scpi->at != ',')
            return SCPI_SYNTAX;
        scpi->at++;
        if (!scpi_more(scpi))
            return SCPI_MISSING;
    }
    return *scpi->at == ',' ? SCPI_MISSING : SCPI_OK;
}

/* NRf, IEEE 488.2, 7.7.2. */
int scpi_number(scpi_t *scpi, double *value) {
    int error = next(scpi), exponent = 0, minus = 0, figures = 0;
    double number = 0.0;
    if (error)
        return error;
    if (*scpi->at == '+' || *scpi->at == '-')
        minus = *scpi->at++ == '-';
    for (int behind = 0; scpi->at < scpi->end; scpi->at++) {
        if (*scpi->at == '.' && !behind)
            behind = 1;
        else if (is_digit(*scpi->at)) {
            if (number < 1e17) {
                number = 10.0 * number + (double)(*scpi->at - '0');
                exponent -= behind;
            } else if (!behind && exponent < 1000) {
                exponent++;
            }
            figures = 1;
        } else
            break;
    }
    if (!figures)
        return SCPI_TYPE;
    if (scpi->at < scpi->end && upper(*scpi->at) == 'E') {
        int power = 0, down = 0;
        scpi->at++;
        if (scpi->at < scpi->end && (*scpi->at == '+' || *scpi->at == '-'))
            down = *scpi->at++ == '-';
        if (scpi->at == scpi->end || !is_digit(*scpi->at))
            return SCPI_NUMBER;
        for (; scpi->at < scpi->end && is_digit(*scpi->at); scpi->at++)
            power = power < 1000 ? 10 * power + (*scpi->at - '0') : power;
        exponent += down ? -power : power;
    }
    skip_space(scpi);
    if (scpi->at < scpi->end && *scpi->at != ',')
        return SCPI_NUMBER; /* a unit, or rubbish */
    if (exponent > 60 && number > 0.0)
        return SCPI_RANGE;
    for (; exponent > 0; exponent--)
        number *= 10.0;
    if (exponent < -400)
        number = 0.0;
    for (; exponent < 0 && number > 0.0; exponent++)
        number /= 10.0;
    *value = minus ? -number : number;
    return SCPI_OK;
}

int scpi_whole(scpi_t *scpi, double low, double high, uint32_t *value) {
    double number;
    int error = scpi_number(scpi, &number);
    if (error)
        return error;
    number = number < 0.0 ? number - 0.5 : number + 0.5; /* rounded, IEEE 488.2, 7.7.2.4 */
    if (!(number > low - 0.5 && number < high + 1.0) || number < 0.0)
        return SCPI_RANGE;
    *value = (uint32_t)number;
    return SCPI_OK;
}

int scpi_flag(scpi_t *scpi, uint8_t *value) {
    int error = next(scpi);
    uint32_t number;
    if (error)
        return error;
    if (!is_letter(*scpi->at)) {
        scpi->parameters--;
        const uint8_t *comma = scpi->at;
        if (scpi->parameters) { /* `next` has passed it */
            while (*comma != ',')
                comma--;
            scpi->at = comma;
        }
        error = scpi_whole(scpi, 0.0, 1.0, &number);
        *value = (uint8_t)(error ? 0u : number);
        return error;
    }
    char word[4] = {0};
    uint8_t count = 0;
    for (; scpi->at < scpi->end && is_letter(*scpi->at); scpi->at++)
        if (count < 4)
            word[count++] = (char)upper(*scpi->at);
    skip_space(scpi);
    if (scpi->at < scpi->end && *scpi->at != ',')
        return SCPI_TYPE;
    if (count == 2 && word[0] == 'O' && word[1] == 'N')
        *value = 1;
    else if (count == 3 && word[0] == 'O' && word[1] == 'F' && word[2] == 'F')
        *value = 0;
    else
        return SCPI_ILLEGAL;
    return SCPI_OK;
}

/* Definite, or indefinite to the end of the message: IEEE 488.2, 7.7.6. */
int scpi_block(scpi_t *scpi, const uint8_t **data, uint32_t *count) {
    int error = next(scpi);
    if (error)
        return error;
    if (scpi->end - scpi->at < 2 || *scpi->at != '#' || !is_digit(scpi->at[1]))
        return SCPI_TYPE;
    uint32_t digits = (uint32_t)(scpi->at[1] - '0'), length = 0;
    scpi->at += 2;
    if (!digits) {
        *data = scpi->at;
        *count = (uint32_t)(scpi->end - scpi->at);
        scpi->at = scpi->end;
        return SCPI_OK;
    }
    for (; digits; digits--, scpi->at++) {
        if (scpi->at == scpi->end || !is_digit(*scpi->at))
            return SCPI_BLOCK;
        length = length < 100000000u ? 10u * length + (uint32_t)(*scpi->at - '0') : length;
    }
    if ((uint32_t)(scpi->end - scpi->at) < length)
        return SCPI_BLOCK;
    *data = scpi->at;
    *count = length;
    scpi->at += length;
    skip_space(scpi);
    return scpi->at < scpi->end && *scpi->at != ',' ? SCPI_BLOCK : SCPI_OK;
}

/* ---- headers ---- */

/* Does one node of a header fit, in its short or its long form? */
static int fits(const char *pattern, const uint8_t *word, uint32_t length) {
    uint32_t brief = 0, whole = 0;
    while (pattern[whole] && pattern[whole] != ':' && pattern[whole] != '?' && pattern[whole] != '[' && pattern[whole] != ']') {
        if (pattern[whole] < 'a' || pattern[whole] > 'z')
            brief++;
        whole++;
    }
    if (length != brief && length != whole)
        return 0;
    for (uint32_t i = 0; i < length; i++)
        if (upper((uint8_t)pattern[i]) != upper(word[i]))
            return 0;
    return 1;
}

/* Does what is left of a header end here, as a query or as a command, just as its pattern does? */
static int ends(const char *pattern, const uint8_t *header, const uint8_t *end) {
    if (header == end)
        return !*pattern;
    return *header == '?' && header + 1 == end && *pattern == '?';
}

/* Does a header, "A:B?", fit a pattern, the last node of which may stand in brackets? */
static int matches(const char *pattern, const uint8_t *header, uint32_t length) {
    const uint8_t *end = header + length;
    for (;;) {
        const uint8_t *word = header;
        while (header < end && *header != ':' && *header != '?')
            header++;
        if (!fits(pattern, word, (uint32_t)(header - word)))
            return 0;
        while (*pattern && *pattern != ':' && *pattern != '?' && *pattern != '[' && *pattern != ']')
            pattern++;
        if (*pattern == '[') {
            const char *behind = pattern;
            while (*behind++ != ']')
                ;
            if (ends(behind, header, end))
                return 1;
            pattern++;
        } else if (*pattern == ']')
            pattern++;
        if (header == end || *header == '?')
            return ends(pattern, header, end);
        if (*pattern++ != ':')
            return 0;
        header++;
    }
}

/* ---- the commands of the standard ---- */

static int run_cls(scpi_t *scpi) {
    scpi->esr = 0;
    scpi->operation.event = scpi->questionable.event = 0;
    scpi->waiting = 0;
    return SCPI_OK;
}

static int take_byte(scpi_t *scpi, uint8_t *to, uint8_t mask) {
    uint32_t value;
    int error = scpi_whole(scpi, 0.0, 255.0, &value);
    if (!error)
        *to = (uint8_t)(value & mask);
    return error;
}

static int run_ese(scpi_t *scpi) {
    return take_byte(scpi, &scpi->ese, 255);
}

static int run_sre(scpi_t *scpi) {
    return take_byte(scpi, &scpi->sre, 0xBF);
}

static int ask_ese(scpi_t *scpi) {
    scpi_say_whole(scpi, scpi->ese);
    return SCPI_OK;
}

static int ask_sre(scpi_t *scpi) {
    scpi_say_whole(scpi, scpi->sre);
    return SCPI_OK;
}

static int ask_esr(scpi_t *scpi) {
    scpi_say_whole(scpi, scpi->esr);
    scpi->esr = 0;
    return SCPI_OK;
}

static int ask_stb(scpi_t *scpi) {
    scpi_say_whole(scpi, status_byte(scpi));
    return SCPI_OK;
}

static int ask_idn(scpi_t *scpi) {
    scpi_say_text(scpi, scpi->config->identity);
    return SCPI_OK;
}

static int run_opc(scpi_t *scpi) {
    scpi->esr |= SCPI_ESR_COMPLETE; /* every command has ended before the next begins */
    return SCPI_OK;
}

static int ask_opc(scpi_t *scpi) {
    scpi_say_whole(scpi, 1);
    return SCPI_OK;
}

static int run_wai(scpi_t *scpi) {
    (void)scpi;
    return SCPI_OK;
}

static int run_rst(scpi_t *scpi) {
    scpi->config->reset(scpi->config->owner);
    return SCPI_OK;
}

static int ask_tst(scpi_t *scpi) {
    int failed = scpi->config->test(scpi->config->owner);
    if (failed)
        scpi_error(scpi, SCPI_SELF_TEST);
    scpi_say_whole(scpi, failed);
    return SCPI_OK;
}

static int ask_error(scpi_t *scpi) {
    int code = 0;
    if (scpi->waiting) {
        code = scpi->errors[scpi->first];
        scpi->first = (uint8_t)((scpi->first + 1u) % SCPI_ERRORS);
        scpi->waiting--;
    }
    scpi_say_whole(scpi, code);
    say(scpi, ",\"");
    say(scpi, sentence(code));
    scpi_say_byte(scpi, '"');
    return SCPI_OK;
}

static int ask_count(scpi_t *scpi) {
    scpi_say_whole(scpi, scpi->waiting);
    return SCPI_OK;
}

static int run_check(scpi_t *scpi) {
    return scpi_flag(scpi, &scpi->checked);
}

static int ask_version(scpi_t *scpi) {
    scpi_say_text(scpi, "1999.0");
    return SCPI_OK;
}

static int run_preset(scpi_t *scpi) {
    scpi->operation.enable = scpi->questionable.enable = 0;
    return SCPI_OK;
}

static int say_event(scpi_t *scpi, scpi_register_t *status) {
    scpi_say_whole(scpi, status->event);
    status->event = 0;
    return SCPI_OK;
}

static int take_enable(scpi_t *scpi, scpi_register_t *status) {
    uint32_t value;
    int error = scpi_whole(scpi, 0.0, 65535.0, &value);
    if (!error)
        status->enable = (uint16_t)(value & 0x7FFFu);
    return error;
}

static int say_word(scpi_t *scpi, uint16_t value) {
    scpi_say_whole(scpi, value);
    return SCPI_OK;
}

static int ask_operation(scpi_t *scpi) { return say_event(scpi, &scpi->operation); }
static int ask_operation_condition(scpi_t *scpi) { return say_word(scpi, scpi->operation.condition); }
static int ask_operation_enable(scpi_t *scpi) { return say_word(scpi, scpi->operation.enable); }
static int run_operation_enable(scpi_t *scpi) { return take_enable(scpi, &scpi->operation); }
static int ask_questionable(scpi_t *scpi) { return say_event(scpi, &scpi->questionable); }
static int ask_questionable_condition(scpi_t *scpi) { return say_word(scpi, scpi->questionable.condition); }
static int ask_questionable_enable(scpi_t *scpi) { return say_word(scpi, scpi->questionable.enable); }
static int run_questionable_enable(scpi_t *scpi) { return take_enable(scpi, &scpi->questionable); }

static const scpi_command_t standard[] = {
    {"*CLS", run_cls}, {"*ESE", run_ese}, {"*ESE?", ask_ese}, {"*ESR?", ask_esr}, {"*IDN?", ask_idn}, {"*OPC", run_opc},
    {"*OPC?", ask_opc}, {"*RST", run_rst}, {"*SRE", run_sre}, {"*SRE?", ask_sre}, {"*STB?", ask_stb}, {"*TST?", ask_tst},
    {"*WAI", run_wai},
    {"SYSTem:ERRor[:NEXT]?", ask_error}, {"SYSTem:ERRor:COUNt?", ask_count}, {"SYSTem:VERSion?", ask_version},
    {"SYSTem:CRC", run_check},
    {"STATus:PRESet", run_preset},
    {"STATus:OPERation[:EVENt]?", ask_operation}, {"STATus:OPERation:CONDition?", ask_operation_condition},
    {"STATus:OPERation:ENABle?", ask_operation_enable}, {"STATus:OPERation:ENABle", run_operation_enable},
    {"STATus:QUEStionable[:EVENt]?", ask_questionable}, {"STATus:QUEStionable:CONDition?", ask_questionable_condition},
    {"STATus:QUEStionable:ENABle?", ask_questionable_enable}, {"STATus:QUEStionable:ENABle", run_questionable_enable},
    {NULL, NULL},
};

static const scpi_command_t *find(const scpi_command_t *commands, const uint8_t *header, uint32_t length) {
    for (; commands->header; commands++)
        if (matches(commands->header, header, length))
            return commands;
    return NULL;
}

/* ---- messages ---- */

#define LONGEST_HEADER 64u

/* The path that the header of the next unit may leave out: SCPI-99, 6.2.4. */
typedef struct path {
    uint8_t text[LONGEST_HEADER];
    uint32_t length;
} path_t;

/* Carry out one unit. */
static int carry_out(scpi_t *scpi, path_t *path, const uint8_t *at, const uint8_t *end) {
    uint8_t header[2u * LONGEST_HEADER] = {0};
    uint32_t length = 0;
    while (at < end && is_space(*at))
        at++;
    if (at == end)
        return SCPI_OK; /* an empty unit is allowed */
    if (*at == ':')
        at++;
    else if (*at != '*') {
        memcpy(header, path->text, path->length);
        length = path->length;
    }
    uint32_t from = length;
    for (; at < end && !is_space(*at); at++) {
        if (!is_letter(*at) && !is_digit(*at) && *at != ':' && *at != '_' && !(*at == '*' && length == from) &&
            !(*at == '?' && (at + 1 == end || is_space(at[1]))))
            return SCPI_SYNTAX;
        if (length - from >= LONGEST_HEADER)
            return SCPI_UNDEFINED;
        header[length++] = *at;
    }
    if (length > from && header[from] != '*') {
        uint32_t parent = length;
        while (parent && header[parent - 1u] != ':')
            parent--;
        if (parent <= LONGEST_HEADER) {
            memcpy(path->text, header, parent);
            path->length = parent;
        }
    }
    const scpi_command_t *command = find(standard, header, length);
    if (!command)
        command = find(scpi->config->commands, header, length);
    if (!command && scpi->config->more)
        command = find(scpi->config->more, header, length);
    if (!command)
        return SCPI_UNDEFINED;
    scpi->at = at;
    scpi->end = end;
    scpi->parameters = 0;
    int error = command->run(scpi);
    if (!error && scpi_more(scpi))
        error = SCPI_NOT_ALLOWED;
    return error;
}

/* The end of the unit that begins at `at`: its ';', or `end`. */
static const uint8_t *unit_end(const uint8_t *at, const uint8_t *end) {
    uint8_t quote = 0;
    for (; at < end; at++) {
        if (quote) {
            quote = *at == quote ? 0 : quote;
        } else if (*at == '"' || *at == '\'') {
            quote = *at;
        } else if (*at == ';') {
            return at;
        } else if (*at == '#' && at + 1 < end && is_digit(at[1])) {
            uint32_t digits = (uint32_t)(at[1] - '0'), length = 0;
            if (!digits)
                return end;
            for (at += 2; digits && at < end && is_digit(*at); digits--, at++)
                length = length < 100000000u ? 10u * length + (uint32_t)(*at - '0') : length;
            if (digits || (uint32_t)(end - at) < length)
                return end;
            at += length;
            at--;
        }
    }
    return end;
}

static const char check[] = ";:SYST:CRC? #H";
#define CHECK ((uint32_t)sizeof check - 1u)
#define CHECKED (CHECK + 8u) /* with eight hexadecimal digits */

static const char hex[] = "0123456789ABCDEF";

/* Do so many bytes end with the unit that says the checksum of those before it? */
static int ends_checked(const uint8_t *bytes, uint32_t length, uint32_t *sum) {
    if (length < CHECKED)
        return 0;
    bytes += length - CHECKED;
    for (uint32_t i = 0; i < CHECK; i++)
        if (bytes[i] != (uint8_t)check[i])
            return 0;
    *sum = 0;
    for (uint32_t i = CHECK; i < CHECKED; i++) {
        uint32_t digit = 0;
        while (digit < 16u && bytes[i] != (uint8_t)hex[digit])
            digit++;
        if (digit == 16u)
            return 0;
        *sum = *sum << 4 | digit;
    }
    return 1;
}

/* Is the message to be carried out? Its check is cut off. */
static int trusted(scpi_t *scpi, int *checked) {
    const uint8_t *bytes = scpi->config->buffer;
    uint32_t length = scpi->length, sum;
    while (length && is_space(bytes[length - 1u]))
        length--;
    *checked = ends_checked(bytes, length, &sum);
    if (*checked) {
        scpi->length = length - CHECKED;
        if (hwt_crc32(0, bytes, scpi->length) != sum)
            return 0;
        scpi->checked = 1;
        return 1;
    }
    if (fits("*RST", bytes, length))
        scpi->checked = 0;
    return !scpi->checked;
}

static void say_check(scpi_t *scpi) {
    const uint32_t sum = scpi->sum;
    scpi->parameters = 0;
    scpi_say_text(scpi, "#H");
    for (int shift = 28; shift >= 0; shift -= 4)
        scpi_say_byte(scpi, (uint8_t)hex[sum >> shift & 15u]);
}

static void message(scpi_t *scpi, int checked) {
    path_t path = {{0}, 0};
    const uint8_t *at = scpi->config->buffer, *end = at + scpi->length;
    scpi->answered = 0;
    scpi->sum = 0;
    scpi->config->begins(scpi->config->owner);
    for (;;) {
        const uint8_t *stop = unit_end(at, end);
        int error = carry_out(scpi, &path, at, stop);
        if (error)
            scpi_error(scpi, error);
        if (stop == end)
            break;
        at = stop + 1;
    }
    if (checked)
        say_check(scpi);
    if (scpi->answered)
        scpi_say_byte(scpi, '\n');
    scpi->answered = 0;
}

void scpi_init(scpi_t *scpi, const scpi_config_t *config) {
    memset(scpi, 0, sizeof *scpi);
    scpi->config = config;
    scpi->esr = SCPI_ESR_POWER_ON;
}

int scpi_in_block(const scpi_t *scpi) {
    return scpi->mode == BLOCK;
}

void scpi_forget(scpi_t *scpi) {
    scpi->length = 0;
    scpi->mode = PLAIN;
    scpi->overrun = 0;
    if (!scpi->checked)
        scpi_error(scpi, SCPI_CUT);
}

int scpi_take(scpi_t *scpi, uint8_t byte) {
    if (byte == '\n' && (scpi->mode != BLOCK)) {
        int checked = 0, whole = !scpi->overrun && trusted(scpi, &checked);
        if (whole)
            message(scpi, checked);
        scpi->length = 0;
        scpi->mode = PLAIN;
        scpi->overrun = 0;
        return whole;
    }
    switch (scpi->mode) {
    case STRING:
        scpi->mode = byte == scpi->quote ? PLAIN : STRING;
        break;
    case HASH:
        scpi->mode = PLAIN;
        if (byte == '0')
            scpi->mode = INDEFINITE;
        else if (is_digit(byte)) {
            scpi->mode = LENGTH;
            scpi->digits = (uint8_t)(byte - '0');
            scpi->left = 0;
        }
        break;
    case LENGTH:
        if (!is_digit(byte)) {
            scpi->mode = PLAIN;
            break;
        }
        scpi->left = 10u * scpi->left + (uint32_t)(byte - '0');
        if (!--scpi->digits)
            scpi->mode = scpi->left && scpi->left <= scpi->config->size ? BLOCK : PLAIN; /* one that cannot fit ends at LF */
        break;
    case BLOCK:
        if (!--scpi->left)
            scpi->mode = PLAIN;
        break;
    case INDEFINITE:
        break;
    default:
        if (byte == '"' || byte == '\'') {
            scpi->mode = STRING;
            scpi->quote = byte;
        } else if (byte == '#')
            scpi->mode = HASH;
    }
    if (scpi->length < scpi->config->size)
        scpi->config->buffer[scpi->length++] = byte;
    else if (!scpi->overrun) {
        scpi->overrun = 1;
        if (!scpi->checked)
            scpi_error(scpi, SCPI_OVERRUN);
    }
    return 0;
}
