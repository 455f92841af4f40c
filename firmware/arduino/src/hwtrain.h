/* A trainable board behind any Arduino Stream.
 *
 *     Hwtrain<> board(Serial, "uno");
 *     void loop() { board.poll(); }
 *
 * The template arguments are the memory: parameters, floats of stored samples, floats of intermediate results, bytes of a frame.
 * The defaults hold a 49-4-4 network. Give a `rest` function if the sketch drives anything that must be made safe.
 */
#ifndef HWTRAIN_H
#define HWTRAIN_H

#include <Arduino.h>

extern "C" {
#include "hwtrain/board.h"
}

template <uint32_t Parameters = 220, uint32_t Samples = 53, uint16_t Work = 16, uint16_t Frame = 128>
class Hwtrain {
  public:
    Hwtrain(Stream &stream, const char *name, void (*rest)() = nullptr) : stream_(stream), rest_(rest) {
        port_ = {};
        port_.context = this;
        port_.read = [](void *self) -> int { return me(self)->stream_.read(); };
        port_.write = [](void *self, uint8_t byte) { me(self)->stream_.write(byte); };
        port_.millis = [](void *) -> uint32_t { return static_cast<uint32_t>(::millis()); };
        port_.rest = [](void *self) {
            if (me(self)->rest_)
                me(self)->rest_();
        };
        config_ = {};
        config_.name = name;
        config_.port = &port_;
        config_.theta = theta_;
        config_.theta_size = Parameters;
        config_.samples = samples_;
        config_.samples_size = Samples;
        config_.work = work_;
        config_.work_size = Work;
        config_.receive = receive_;
        config_.receive_size = Frame;
        config_.replies = reply_;
        config_.reply_size = Frame;
        config_.window = 1;
        config_.ring = 63; /* the receive buffer of most cores */
        hwt_board_init(&board_, &config_);
    }

    /* Call it from loop(), as often as may be. Returns whether there was anything to do. */
    bool poll() { return hwt_board_poll(&board_) != 0; }

  private:
    static Hwtrain *me(void *self) { return static_cast<Hwtrain *>(self); }

    Stream &stream_;
    void (*rest_)();
    hwt_port_t port_;
    hwt_config_t config_;
    hwt_board_t board_;
    float theta_[Parameters], samples_[Samples], work_[Work];
    uint8_t receive_[Frame], reply_[Frame];
};

#endif
