/* Throws frames at a board: random bytes, sound frames with random contents, and sound frames damaged in up to three bits.
 *
 *     fuzz [COUNT] [SEED]       build with -fsanitize=address,undefined; make fuzz does, and runs ten million
 *
 * Fails if a damaged frame is accepted or a reply is not a sound frame. The sanitizers fail it for anything else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hwtrain/board.h"

static uint32_t counter, seed, now;
static uint8_t in[4096], out[8192];
static size_t in_count, in_next, out_count;

static uint32_t draw(void) {
    return hwt_mix32(seed + counter++ * 0x9E3779B9u);
}

static int take(void *context) {
    (void)context;
    return in_next < in_count ? in[in_next++] : -1;
}

static void put(void *context, uint8_t byte) {
    (void)context;
    if (out_count < sizeof out)
        out[out_count++] = byte;
}

static void put_in(void *context, uint8_t byte) {
    (void)context;
    in[in_count++] = byte;
}

static uint32_t millis(void *context) {
    (void)context;
    return now += 3;
}

static void rest(void *context) {
    (void)context;
}

static uint32_t accepted(const hwt_board_t *board) {
    return board->counters.executed + board->counters.repeated + board->counters.refused;
}

static void fail(const char *what, unsigned long turn) {
    fprintf(stderr, "frame %lu of seed %u: %s\n", turn, seed, what);
    exit(1);
}

/* A sound frame; contents mostly small numbers, so that many get past the first check. */
static void sound_frame(const hwt_board_t *board) {
    static const uint8_t kinds[] = {HWT_HELLO, HWT_ADOPT, HWT_NETWORK, HWT_WRITE, HWT_READ, HWT_DIGEST, HWT_SAMPLE, HWT_MEASURE,
                                    HWT_MEASURE, HWT_UPDATE, HWT_TRAIN, HWT_TRAIN, HWT_REST, HWT_WATCHDOG, HWT_COUNTERS,
                                    HWT_RESET, HWT_NETWORK, HWT_LEARN, HWT_LEARN, HWT_LEARN, HWT_STREAM, HWT_STREAM};
    static const uint8_t lengths[] = {0, 8, 20, 12, 6, 0, 20, 24, 24, 36, 38, 40, 0, 4, 0, 0, 24, 30, 31, 32, 56, 56};
    uint8_t frame[300], which = (uint8_t)(draw() % sizeof kinds), tame = draw() % 4u != 0;
    uint16_t length = draw() % 8u ? lengths[which] : (uint16_t)(draw() % 180u);
    frame[0] = draw() % 64u ? HWT_PROTOCOL : (uint8_t)draw();
    frame[1] = draw() % 64u ? kinds[which] : (uint8_t)draw();
    hwt_put16(frame + 2, (uint16_t)(board->expected - (draw() % 8u ? 0u : draw() % 4u)));
    hwt_put32(frame + 4, draw() % 32u ? board->boot : draw() % 3u);
    for (uint16_t i = 0; i < length; i++)
        frame[8u + i] = (uint8_t)(tame ? (draw() % 3u ? 0u : draw() % 3u) : draw());
    if (tame && kinds[which] == HWT_NETWORK) {
        hwt_put16(frame + 8, (uint16_t)((length == 24u ? 0x300u : 0x200u) | draw() % 2u));
        hwt_put16(frame + 10, (uint16_t)(1u + draw() % 5u));
        hwt_put_float(frame + 12, -2.0f);
        hwt_put_float(frame + 16, 2.0f);
        for (uint16_t at = 20; at < 8u + length; at = (uint16_t)(at + 4u))
            hwt_put32(frame + at, 1u + draw() % 4u + ((draw() % 5u) << 16) + ((draw() % 2u ? draw() % 6u : 0u) << 24));
        if (length == 20u && draw() % 3u == 0) { /* spiking neurons, and what reads them */
            frame[22] = HWT_STEP;
            frame[23] = (uint8_t)(HWT_SUBTRACT | (draw() % 2u ? HWT_RECURRENT : 0));
            frame[26] = HWT_LINEAR;
        }
    } else if (tame && kinds[which] == HWT_ADOPT) {
        hwt_put32(frame + 8, board->boot);
        hwt_put32(frame + 12, 1u + draw() % 3u);
    } else if (tame && kinds[which] == HWT_TRAIN) {
        for (uint8_t i = 2; i < 12; i = (uint8_t)(i + 2u))
            hwt_put16(frame + 8 + i, 1);
        for (uint8_t i = 0; i < 2; i++)
            hwt_put_float(frame + 28 + 4u * i, (float)(draw() % 100u) * 0.1f);
        hwt_put_float(frame + 36, -1.5f);
        hwt_put_float(frame + 40, 1.5f);
    } else if (tame && kinds[which] == HWT_LEARN) {
        frame[8] = length == 30 ? HWT_MONO_FORWARD : (uint8_t)(draw() % 2u);
        hwt_put16(frame + 10, (uint16_t)(length == 32 ? 2u : 1u + draw() % 2u));
        hwt_put16(frame + 12, 1);
        for (uint8_t i = 0; i < 3; i++)
            hwt_put_float(frame + 16 + 4u * i, (float)(draw() % 100u) * 0.1f);
        hwt_put_float(frame + 28, -1.5f);
        hwt_put_float(frame + 32, 1.5f);
    }
    if (tame && kinds[which] == HWT_STREAM && length == 56) {
        frame[8] = (uint8_t)(draw() % 16u);
        for (uint8_t i = 1; i < 4; i++)
            frame[8u + i] = (uint8_t)(draw() % (i == 1 ? 2u : 3u));
        hwt_put16(frame + 12, (uint16_t)(draw() % 2u));
        hwt_put16(frame + 14, (uint16_t)(1u + draw() % 3u));
        for (uint8_t i = 0; i < 9; i++)
            hwt_put_float(frame + 16 + 4u * i, (float)(draw() % 100u) * 0.1f);
        hwt_put_float(frame + 52, -1.5f);
        hwt_put_float(frame + 56, 1.5f);
        if (draw() % 4u == 0 && board->network.count && hwt_outputs(&board->network) < 5u) { /* sums of the targets */
            frame[8] |= HWT_STREAM_MEAN;
            for (uint16_t c = 0; c <= hwt_outputs(&board->network); c++, length = (uint16_t)(length + 4u))
                hwt_put_float(frame + 8u + length, (float)(draw() % 5u));
        }
    }
    hwt_encode(frame, (uint16_t)(8u + length), put_in, NULL);
}

int main(int argc, char **argv) {
    unsigned long turns = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    seed = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1;
    float *theta = malloc(64 * sizeof(float)), *samples = malloc(40 * sizeof(float)), *work = malloc(64 * sizeof(float));
    uint8_t *receive = malloc(160), *replies = malloc(2 * 96), *buffer = malloc(160);
    const hwt_port_t port = {NULL, take, put, millis, rest, NULL, NULL, NULL};
    const hwt_config_t config = {"fuzz", &port, theta, 64, samples, 40, work, 64, receive, 160, replies, 96, 2, 100};
    hwt_board_t board;
    hwt_decoder_t decoder;
    unsigned long damaged = 0, replied = 0, learnt = 0;
    if (hwt_board_init(&board, &config))
        return 1;
    hwt_decoder_init(&decoder, buffer, 160);
    for (unsigned long turn = 0; turn < turns; turn++) {
        uint32_t before = accepted(&board);
        uint8_t kind = (uint8_t)(draw() % 4u);
        in_count = in_next = out_count = 0;
        if (kind == 0) {
            for (uint32_t count = draw() % 300u; count; count--)
                put_in(NULL, (uint8_t)draw());
            put_in(NULL, 0);
        } else {
            sound_frame(&board);
            if (kind == 1) {
                uint8_t copy[400];
                memcpy(copy, in, in_count);
                for (uint32_t flips = 1u + draw() % 3u; flips; flips--)
                    in[draw() % (in_count - 1u)] ^= (uint8_t)(1u << draw() % 8u);
                damaged++;
                if (!memcmp(copy, in, in_count))
                    continue;
            }
        }
        while (hwt_board_poll(&board))
            ;
        if (kind < 2 && accepted(&board) != before)
            fail("a damaged frame was accepted", turn);
        for (size_t i = 0; i < out_count; i++) {
            int32_t length = hwt_decode(&decoder, out[i]);
            if (length < 0)
                fail("a reply is damaged", turn);
            replied += length > 0;
            learnt += length > 0 && buffer[8] == HWT_OK &&
                      (buffer[1] == (HWT_LEARN | HWT_REPLY) || buffer[1] == (HWT_STREAM | HWT_REPLY));
        }
    }
    printf("%lu frames, %lu damaged, %lu replies, %u executed, %u refused, %lu blocks learnt\n", turns, damaged, replied,
           board.counters.executed, board.counters.refused, learnt);
    free(theta), free(samples), free(work), free(receive), free(replies), free(buffer);
    return 0;
}
