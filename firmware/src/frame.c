#include "hwtrain/frame.h"

typedef union {
    float value;
    uint32_t bits;
} word_t;

uint32_t hwt_crc32(uint32_t crc, const uint8_t *bytes, size_t count) {
    crc = ~crc;
    while (count--) {
        crc ^= *bytes++;
        for (uint8_t bit = 0; bit < 8; bit++)
            crc = (crc & 1u) ? (crc >> 1) ^ 0xEDB88320u : crc >> 1;
    }
    return ~crc;
}

void hwt_decoder_init(hwt_decoder_t *decoder, uint8_t *buffer, uint16_t size) {
    decoder->buffer = buffer;
    decoder->size = size;
    decoder->length = 0;
    decoder->left = 1;
    decoder->zero = 0;
    decoder->started = 0;
    decoder->broken = 0;
}

static int32_t end_of_frame(hwt_decoder_t *decoder) {
    uint16_t length = decoder->length;
    uint8_t started = decoder->started;
    uint8_t whole = decoder->left == 1 && !decoder->broken && length >= HWT_FRAME_MIN;
    hwt_decoder_init(decoder, decoder->buffer, decoder->size);
    if (!started)
        return 0; /* a delimiter after a delimiter */
    if (!whole)
        return -1;
    length = (uint16_t)(length - 4u);
    if (hwt_crc32(0, decoder->buffer, length) != hwt_get32(decoder->buffer + length))
        return -1;
    return (int32_t)length;
}

static void keep(hwt_decoder_t *decoder, uint8_t byte) {
    if (decoder->length < decoder->size)
        decoder->buffer[decoder->length++] = byte;
    else
        decoder->broken = 1;
}

int32_t hwt_decode(hwt_decoder_t *decoder, uint8_t byte) {
    if (byte == 0)
        return end_of_frame(decoder);
    if (--decoder->left) {
        keep(decoder, byte);
        return 0;
    }
    if (decoder->started && decoder->zero)
        keep(decoder, 0);
    decoder->started = 1;
    decoder->left = byte;
    decoder->zero = byte != 0xFF;
    return 0;
}

void hwt_encode(uint8_t *bytes, uint16_t length, void (*write)(void *context, uint8_t byte), void *context) {
    hwt_put32(bytes + length, hwt_crc32(0, bytes, length));
    uint16_t rest = (uint16_t)(length + 4u);
    for (;;) {
        uint8_t run = 0;
        while (run < rest && run < 254 && bytes[run])
            run++;
        write(context, (uint8_t)(run + 1u));
        for (uint8_t i = 0; i < run; i++)
            write(context, bytes[i]);
        bytes += run;
        rest = (uint16_t)(rest - run);
        if (rest == 0)
            break;
        if (run < 254) { /* the zero that ended the run is in its code */
            bytes++;
            rest--;
        }
    }
    write(context, 0);
}

uint8_t hwt_is_finite(const uint8_t *bytes) {
    return (hwt_get16(bytes + 2) & 0x7F80u) != 0x7F80u;
}

uint16_t hwt_get16(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] | ((uint16_t)bytes[1] << 8));
}

uint32_t hwt_get32(const uint8_t *bytes) {
    return hwt_get16(bytes) | (uint32_t)hwt_get16(bytes + 2) << 16;
}

float hwt_get_float(const uint8_t *bytes) {
    word_t word = {.bits = hwt_get32(bytes)};
    return word.value;
}

void hwt_put16(uint8_t *bytes, uint16_t value) {
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

void hwt_put32(uint8_t *bytes, uint32_t value) {
    hwt_put16(bytes, (uint16_t)value);
    hwt_put16(bytes + 2, (uint16_t)(value >> 16));
}

void hwt_put_float(uint8_t *bytes, float value) {
    word_t word = {.value = value};
    if ((word.bits & 0x7FFFFFFFu) > 0x7F800000u)
        word.bits = 0x7FC00000u;
    hwt_put32(bytes, word.bits);
}
