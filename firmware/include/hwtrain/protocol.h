/* The numbers of the wire. What they mean, byte by byte, is in firmware/PROTOCOL.md; hwtrain/devices/messages.py is the same
 * in Python, and a test holds the two together. */
#ifndef HWTRAIN_PROTOCOL_H
#define HWTRAIN_PROTOCOL_H

#define HWT_PROTOCOL 1u /* version of this protocol, first byte of every frame */
#define HWT_FIRMWARE_MAJOR 0u
#define HWT_FIRMWARE_MINOR 1u
#define HWT_FIRMWARE_PATCH 0u

enum hwt_message {
    HWT_HELLO = 0x01, /* not numbered: always answered, changes nothing */
    HWT_ADOPT = 0x02, /* not numbered: gives the board its boot id */
    HWT_NETWORK = 0x10,
    HWT_WRITE = 0x11,
    HWT_READ = 0x12,
    HWT_DIGEST = 0x13,
    HWT_SAMPLE = 0x14,
    HWT_MEASURE = 0x15,
    HWT_UPDATE = 0x16,
    HWT_TRAIN = 0x17,
    HWT_REST = 0x18,
    HWT_WATCHDOG = 0x19,
    HWT_COUNTERS = 0x1A,
    HWT_RESET = 0x1B,
    HWT_LEARN = 0x1C,
    HWT_STREAM = 0x1D,
    HWT_REPLY = 0x80 /* added to the kind of the request */
};

enum hwt_status {
    HWT_OK = 0,
    HWT_BAD_VERSION = 1,  /* detail: the version spoken here */
    HWT_BAD_BOOT = 2,     /* detail: the boot id of this board, 0 after a restart */
    HWT_BAD_SEQUENCE = 3, /* detail: the sequence number expected */
    HWT_BAD_KIND = 4,     /* detail: the kind */
    HWT_BAD_LENGTH = 5,   /* detail: the payload length wanted */
    HWT_BAD_VALUE = 6,    /* detail: offset of the field in the payload */
    HWT_BAD_RANGE = 7,    /* detail: number of the parameter outside the limits */
    HWT_NO_ROOM = 8,      /* detail: how many there is room for */
    HWT_NO_NETWORK = 9    /* detail: 0 */
};

enum hwt_observe { HWT_COST = 1, HWT_OUTPUT = 2, HWT_ACTIVITY = 4 };
enum hwt_format { HWT_FLOAT32 = 0, HWT_UINT8 = 1 };
enum hwt_baseline { HWT_BASELINE_NONE = 0, HWT_BASELINE_SHARED = 1, HWT_BASELINE_FRESH = 2 };

enum hwt_rule { HWT_FORWARD_FORWARD = 0, HWT_SYMBA = 1, HWT_MONO_FORWARD = 2 };
enum hwt_goodness { HWT_GOODNESS_SUM = 0, HWT_GOODNESS_MEAN = 1 };

enum hwt_stream_flags {
    HWT_STREAM_START = 1,
    HWT_STREAM_LEARN = 2,
    HWT_STREAM_ACTIVITY = 4,
    HWT_STREAM_CENTRE = 8,
    HWT_STREAM_MEAN = 16
};
enum hwt_reset_kind { HWT_RESET_HARD = 0, HWT_RESET_SOFT = 1 };
enum hwt_signal { HWT_SIGNAL_TARGET = 0, HWT_SIGNAL_LOCAL = 1, HWT_SIGNAL_ERROR = 2 };
enum hwt_shape { HWT_SHAPE_TANH = 0, HWT_SHAPE_FAST_SIGMOID = 1, HWT_SHAPE_TRIANGLE = 2 };

enum hwt_can { /* capabilities in HELLO */
    HWT_CAN_COST = 1,
    HWT_CAN_OUTPUT = 2,
    HWT_CAN_ACTIVITY = 4,
    HWT_CAN_PROBE = 8,
    HWT_CAN_UPDATE = 16,
    HWT_CAN_TRAIN = 32,
    HWT_CAN_RESET = 64, /* the port can restart itself */
    HWT_CAN_LEARN = 128,
    HWT_CAN_STREAM = 256
};

#endif
