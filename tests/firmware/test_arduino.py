"""The Arduino library: its sketch, compiled against a stand-in for Arduino.h, answers."""

import subprocess
from pathlib import Path

from hwtrain.devices import frames, messages
from tests.firmware import boards

MAIN = """
#include <Arduino.h>
Stream Serial;
unsigned long millis() { static unsigned long now; return now++; }
#include "trainable.ino"
int main() { setup(); do loop(); while (!feof(stdin)); loop(); return 0; }
"""


def test_the_example_answers(out):
    boards.need("g++", "g++")
    library = out / "arduino"
    subprocess.run(["make", "-s", "-C", str(boards.ROOT), "arduino", f"ARDUINO={library}"], check=True, timeout=60)
    (out / "sketch.cpp").write_text(MAIN)
    objects = []
    for source in sorted((library / "src").glob("*.c")):
        objects.append(str(out / f"arduino_{source.stem}.o"))
        flags = ["-std=c99", "-Os", "-ffp-contract=off", f"-I{library / 'src'}"]
        line = ["gcc", *flags, "-c", str(source), "-o", objects[-1]]
        subprocess.run(line, check=True, timeout=60)
    warnings = ["-std=c++11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
    include = [f"-I{each}" for each in (library / "src", library / "examples" / "trainable", Path(__file__).parent)]
    program = str(out / "sketch")
    line = ["g++", *warnings, *include, str(out / "sketch.cpp"), *objects, "-o", program]
    subprocess.run(line, check=True, timeout=60)

    requests = [messages.to_frame(messages.Hello()), messages.to_frame(messages.Adopt(0, 5))]
    network = messages.Network(2, (messages.DenseLayer(2), messages.DenseLayer(1)))
    requests.append(messages.to_frame(network, 0, 5))
    wire = b"\0".join(frames.encode(frame) for frame in requests)
    answer = subprocess.run([program], input=wire, capture_output=True, check=True, timeout=60).stdout
    replies = frames.Decoder().feed(answer)
    payloads = [messages.payload_of(reply, frame) for reply, frame in zip(replies, requests, strict=True)]
    assert messages.Identity.unpack(payloads[0]).name == "arduino"
    assert payloads[2] == (9).to_bytes(4, "little")
