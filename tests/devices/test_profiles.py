"""Profiles of instruments: what each says is a golden file; the Keithleys' also against pyvisa-sim.

To write the golden files anew after a change: python -m tests.devices.test_profiles
"""

import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import pyvisa

from hwtrain.core import Measure, Probes, Program, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.bench import Bench
from hwtrain.errors import ConfigError, DeviceError
from hwtrain.perturb import Rademacher
from tests.devices.test_visa import facts

GOLDEN = Path(__file__).parents[1] / "golden" / "visa"
CHANNELS = {
    "dac_adc": ([1, 2], [10], [1]),
    "keithley_2450": ([1], [], [1]),
    "keithley_2600": (["a"], ["b"], ["a"]),
    "red_pitaya": ([0, 1], [2], [0]),
}
NAMES = {
    "keithley_2450": "KEITHLEY INSTRUMENTS,MODEL 2450,01234567,1.7.12b",
    "red_pitaya": "REDPITAYA,INSTR2024,0,2",
}


class Played:
    """An instrument that answers any message as its dialect does, and keeps the conversation."""

    def __init__(self, name):
        self.tsp, self.name, self.ese, self.esr, self.level = name == "keithley_2600", name, 0, 128, 0.0
        self.lines = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.resource = f"TCPIP::127.0.0.1::{self.server.getsockname()[1]}::SOCKET"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        link, _ = self.server.accept()
        with link, link.makefile("rb") as lines:
            for line in lines:
                text = line.decode()
                self.lines.append("> " + text.replace("\r", "\\r").rstrip("\n"))
                answers = self._tsp(text) if self.tsp else self._scpi(text.strip())
                for answer in answers:
                    self.lines.append(f"< {answer}")
                    link.sendall(f"{answer}\n".encode())

    def _tsp(self, text):
        answers = []
        if "errorqueue.next" in text:
            answers.append("0.00000000e+00\tQueue Is Empty\t0.00000000e+00\t0.00000000e+00")
        if "localnode.model" in text:
            answers.append("2602B")
        answers += ["5.00000000e-04"] * (text.count("print(ra)"))
        tag = re.search(r"hwt=(\d+)", text)
        if tag:
            answers += ["0", str(self.ese), tag[1]]
            self.ese = int(tag[1])
        return answers

    def _scpi(self, text):
        answers = []
        for unit in text.split(";"):
            if unit == "*ESR?":
                answers.append(str(self.esr))
                self.esr = 0
            elif unit == "*ESE?":
                answers.append(str(self.ese))
            elif unit.startswith("*ESE "):
                self.ese = int(unit[5:])
            elif unit == "*IDN?":
                answers.append(NAMES.get(self.name, "ACME,DACBOX,0,1.0"))
            elif unit == ":SYST:ERR?":
                answers.append('0,"No error;0;0 0"' if self.name == "keithley_2450" else '0,"No error"')
            elif unit.split(" ")[0].endswith("?"):
                answers.append("5.000000E-04")
        return [";".join(answers)] if answers else []

    def close(self):
        self.server.close()
        self.thread.join(5)


def bench(name, resource, **settings):
    table = facts(name)
    limits = {"low": max(table.low, -1.5), "high": min(table.high, 1.5)}
    return Bench(table, resource, *CHANNELS[name], cost=MeanSquaredError(), guard=False, **limits, **settings)


def conversation(name):
    """Open, program, measure, probe, measure, rest."""
    played = Played(name)
    device = bench(name, played.resource)
    size = device.spec.size
    sample = Sample(np.array([[[0.0], [1.0]]]), np.zeros((1, 2, 1)))
    device.execute([Program(np.full(size, 0.5)), Measure(sample)])
    device.execute([Measure(sample, Probes(Rademacher(amplitude=0.125), np.uint32(1), 0, 2))])
    device.rest()
    device.close()
    played.close()
    return "\n".join(played.lines) + "\n"


@pytest.mark.parametrize("name", CHANNELS)
def test_conversation_is_the_golden_one(name):
    assert conversation(name) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", CHANNELS)
def test_compliance_first_then_zero_then_on_and_zero_then_off(name):
    said = "\n".join(line[2:] for line in (GOLDEN / f"{name}.txt").read_text().splitlines() if line.startswith(">"))
    table = facts(name)
    places = [said.index(unit) for unit in table.setup]
    first = said.index(table.set.format(channel=CHANNELS[name][0][0], value=f"{0:.{table.decimals}f}"))
    assert places == sorted(places) and all(place < first for place in places)
    if table.enable:
        channel = CHANNELS[name][0][0]
        on, off = (unit.format(channel=channel) for unit in (table.enable, table.disable))
        zero, half = (table.set.format(channel=channel, value=f"{v:.{table.decimals}f}") for v in (0, 0.5))
        assert said.index(zero) < said.index(on) < said.index(half) < said.rindex(zero) < said.index(off)


class TestSimulatedKeithley:
    """pyvisa-sim takes one command a message, so the table is told to say them one by one."""

    @pytest.fixture
    def table(self):
        return facts("keithley_2450", separator="\n", answer_separator="\n", tag="*ESR?\n*ESE?\n*ESE {tag}\n*ESE?")

    @pytest.fixture
    def backend(self):
        return f"{GOLDEN / 'keithley_2450.yaml'}@sim"

    def test_drives_reads_and_rests(self, table, backend):
        device = Bench(
            table, "TCPIP::10.0.0.5::INSTR", [1], [], [1], MeanSquaredError(), -2.0, 2.0, backend=backend, guard=False
        )
        ends = {"read_termination": "\n", "write_termination": "\n"}
        other = pyvisa.ResourceManager(backend).open_resource("TCPIP::10.0.0.5::INSTR", **ends)
        sample = Sample(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
        (reading,) = device.execute([Program(np.array([1.25])), Measure(sample)])
        assert reading.cost == pytest.approx(2.5e-7)
        assert other.query(":OUTP?") == "ON" and float(other.query(":SOUR:VOLT:ILIM?")) == 1e-3
        device.rest()
        assert other.query(":OUTP?") == "OFF" and float(other.query(":SOUR:VOLT:LEV?")) == 0
        device.close()
        other.close()

    def test_what_it_refuses_is_said_in_its_words(self, backend, table):
        wrong = facts("keithley_2450", separator="\n", answer_separator="\n", tag=table.tag, setup=[":SOUR:NONSENSE 1"])
        device = Bench(
            wrong, "TCPIP::10.0.0.5::INSTR", [1], [], [1], MeanSquaredError(), -2.0, 2.0, backend=backend, guard=False
        )
        with pytest.raises(DeviceError, match="Undefined header"):
            device.execute([Program(np.array([1.0]))])
        device.close()

    def test_one_output_is_one_channel(self, table, backend):
        with pytest.raises(ConfigError, match="has one output"):
            Bench(
                table,
                "TCPIP::10.0.0.5::INSTR",
                [1],
                [2],
                [1],
                MeanSquaredError(),
                -2.0,
                2.0,
                backend=backend,
                guard=False,
            )

    def test_limits_of_ours_stay_within_the_instruments(self, table, backend):
        with pytest.raises(ConfigError, match="-20 to 20 V"):
            Bench(table, "TCPIP::10.0.0.5::INSTR", [1], [], [1], MeanSquaredError(), -2.0, 25.0, backend=backend)


class TestSimulatedKeithley2600:
    """TSP, statement by statement: pyvisa-sim runs no Lua."""

    TAG = (
        'print(string.format("%d",errorqueue.count>0 and 4 or 0))',
        'print(string.format("%d",hwt or 0))',
        "hwt={tag}",
        'print(string.format("%d",hwt or 0))',
    )

    @pytest.fixture
    def backend(self):
        return f"{GOLDEN / 'keithley_2600.yaml'}@sim"

    def table(self, **more):
        return facts("keithley_2600", separator="\n", tag="\n".join(self.TAG), **more)

    def bench(self, backend, **more):
        place = "TCPIP::10.0.0.6::INSTR"
        table = self.table(**more)
        return Bench(table, place, ["a"], ["b"], ["a"], MeanSquaredError(), -2.0, 2.0, backend=backend, guard=False)

    def test_drives_both_channels_reads_one_and_rests(self, backend):
        device = self.bench(backend)
        ends = {"read_termination": "\n", "write_termination": "\n"}
        other = pyvisa.ResourceManager(backend).open_resource("TCPIP::10.0.0.6::INSTR", **ends)
        sample = Sample(np.array([[[0.75]]]), np.zeros((1, 1, 1)))
        (reading,) = device.execute([Program(np.array([1.25])), Measure(sample)])
        assert reading.cost == pytest.approx(2.5e-7)
        for channel, level in (("a", 1.25), ("b", 0.75)):
            assert other.query(f"print(smu{channel}.source.output)") == "ON"
            assert float(other.query(f"print(smu{channel}.source.levelv)")) == level
            assert float(other.query(f"print(smu{channel}.source.limiti)")) == 1e-3
        device.rest()
        for channel in "ab":
            assert other.query(f"print(smu{channel}.source.output)") == "OFF"
            assert float(other.query(f"print(smu{channel}.source.levelv)")) == 0
        device.close()
        other.close()

    def test_what_it_refuses_is_said_in_its_words(self, backend):
        device = self.bench(backend, setup=["smua.source.nonsense=1"])
        with pytest.raises(DeviceError, match="TSP Syntax error"):
            device.execute([Program(np.array([1.0]))])
        device.close()


if __name__ == "__main__":
    for each in CHANNELS:
        (GOLDEN / f"{each}.txt").write_text(conversation(each))
