/* A stand-in for Arduino's own header: what firmware/arduino uses of it, over standard input and output. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stdint.h>
#include <stdio.h>

class Stream {
  public:
    void begin(unsigned long) {}
    int read() { return getchar(); }
    size_t write(uint8_t byte) { return putchar(byte) == EOF ? 0 : 1; }
};

extern Stream Serial;
unsigned long millis();

#endif
