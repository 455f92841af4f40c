#include <hwtrain.h>

Hwtrain<> board(Serial, "arduino");

void setup() { Serial.begin(115200); }

void loop() { board.poll(); }
