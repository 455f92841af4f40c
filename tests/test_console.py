"""The status line."""

import io

from hwtrain.console import Status


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_fits_the_terminal_so_that_the_next_takes_its_place(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    status = Status(stream)
    status.show("step 1 000 (10%)  cost 0.25  accuracy 50.0%")
    status.end("step 2 000")
    first, second = stream.getvalue().removeprefix("\r").split("\r")
    assert first == "step 1 000 (10%)  c"
    assert second == "step 2 000         \n"
