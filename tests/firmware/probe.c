/* The C core, asked line by line, for tests that compare it with golden files and with Python. Each line of standard input is a
 * word and its arguments; each answer is one line.
 *
 *     signs KIND HOLD SEED TICK SIZE   the words of hwt_pattern_word, in hex
 *     encode HEX                       the frame around header and payload, in hex
 *     decode HEX                       what the stream of bytes holds: a frame's header and payload in hex, or -
 *     elementary BITS                  bits of exp, log of the magnitude, tanh, square root of the magnitude
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hwtrain/board.h"

static char line[200000], word[16];
static uint8_t bytes[100000];

static size_t from_hex(const char *hex) {
    size_t count = 0;
    unsigned value;
    for (; sscanf(hex, "%2x", &value) == 1; hex += 2)
        bytes[count++] = (uint8_t)value;
    return count;
}

static void put(void *context, uint8_t byte) {
    (void)context;
    printf("%02x", byte);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

int main(void) {
    while (fgets(line, sizeof line, stdin)) {
        int at = 0;
        sscanf(line, "%15s%n", word, &at);
        const char *rest = line + at + (line[at] == ' ');
        if (!strcmp(word, "signs")) {
            unsigned kind, hold;
            uint32_t seed, tick, size;
            hwt_pattern_t pattern;
            if (sscanf(rest, "%u %u %u %u %u", &kind, &hold, &seed, &tick, &size) != 5)
                return 2;
            hwt_code_t code = {seed, (uint16_t)hold, (uint8_t)kind, 1.0f};
            hwt_pattern_at(&pattern, &code, tick, size);
            for (uint32_t i = 0; i * 32u < size; i++)
                printf("%08x", hwt_pattern_word(&pattern, i));
        } else if (!strcmp(word, "encode")) {
            hwt_encode(bytes, (uint16_t)from_hex(rest), put, NULL);
        } else if (!strcmp(word, "decode")) {
            hwt_decoder_t decoder;
            size_t count = from_hex(rest);
            uint8_t *buffer = malloc(4096); /* on the heap, so that the sanitizer sees one byte too far */
            hwt_decoder_init(&decoder, buffer, 4096);
            for (size_t i = 0; i < count; i++) {
                int32_t length = hwt_decode(&decoder, bytes[i]);
                for (int32_t k = 0; k < length; k++)
                    put(NULL, buffer[k]);
                if (length)
                    printf(length < 0 ? "- " : " ");
            }
            free(buffer);
        } else if (!strcmp(word, "elementary")) {
            uint32_t bits = (uint32_t)strtoul(rest, NULL, 16);
            float x;
            memcpy(&x, &bits, 4);
            float size = x < 0.0f ? -x : x;
            printf("%08x %08x %08x %08x", bits_of(hwt_exp(x)), bits_of(hwt_log(size)), bits_of(hwt_tanh(x)),
                   bits_of(hwt_sqrt(size)));
        } else {
            return 2;
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
