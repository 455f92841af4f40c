/* Bytes to frames and back: COBS with a 0x00 delimiter, and the CRC-32 of zlib.
 *
 * A frame is at least HWT_FRAME_MIN bytes: header, payload, and the CRC over both, least significant byte first
 * (firmware/PROTOCOL.md, "Frames"). The decoder takes bytes one at a time, works in the caller's buffer, needs no memory of
 * what came before a delimiter, and gives nothing away that fails the CRC.
 */
#ifndef HWTRAIN_FRAME_H
#define HWTRAIN_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define HWT_HEADER 8u                   /* version, kind, sequence, boot id */
#define HWT_FRAME_MIN (HWT_HEADER + 4u) /* and the CRC */

/* CRC-32 of more bytes; start with 0. Equals zlib.crc32(bytes, crc). */
uint32_t hwt_crc32(uint32_t crc, const uint8_t *bytes, size_t count);

typedef struct hwt_decoder {
    uint8_t *buffer; /* the frame, as far as it has come */
    uint16_t size;   /* of the buffer: the longest frame accepted, CRC included */
    uint16_t length; /* bytes so far */
    uint8_t left;    /* bytes until the next code byte, itself included */
    uint8_t zero;    /* does a 0x00 stand before the next block? */
    uint8_t started; /* any byte since the last delimiter? */
    uint8_t broken;  /* too long: wait for the delimiter */
} hwt_decoder_t;

void hwt_decoder_init(hwt_decoder_t *decoder, uint8_t *buffer, uint16_t size);

/* Take one byte. Returns 0: more to come; > 0: a valid frame of this many bytes without its CRC is in the buffer, and stays
 * until the next call; -1: a damaged, short or overlong frame was dropped. */
int32_t hwt_decode(hwt_decoder_t *decoder, uint8_t byte);

/* Write `length` bytes as one frame: COBS of the bytes and their CRC, and a delimiter. `bytes` must have room for four more,
 * where the CRC is put. */
void hwt_encode(uint8_t *bytes, uint16_t length, void (*write)(void *context, uint8_t byte), void *context);

/* Little-endian values at any address. */
uint16_t hwt_get16(const uint8_t *bytes);
uint32_t hwt_get32(const uint8_t *bytes);
float hwt_get_float(const uint8_t *bytes);
void hwt_put16(uint8_t *bytes, uint16_t value);
void hwt_put32(uint8_t *bytes, uint32_t value);
void hwt_put_float(uint8_t *bytes, float value); /* a NaN becomes 0x7FC00000, the same from every target */
uint8_t hwt_is_finite(const uint8_t *bytes);     /* is the float here neither infinite nor NaN? */

#endif
