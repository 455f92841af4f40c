"""A bench of instruments as a trainable device: DAC channels hold the parameters and the inputs, an ADC reads it out.

What is on the bench stands in YAML (conf/device/visa_bench.yaml and conf/device/instrument/), not in code. Parameters
are the volts of their channels. No value leaves that is not within limits of ours, which are tighter than the
instrument's; changes larger than a step are ramped; at rest all channels are at 0 V and disconnected.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from hwtrain import checks
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading
from hwtrain.costs import Cost
from hwtrain.devices.instruments import Instrument, Limits, Restarted, Talk
from hwtrain.devices.switch_off import Guard
from hwtrain.errors import ConfigError, DeviceError, HwtrainError
from hwtrain.limits import check

_Result = TypeVar("_Result")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,3})?")  # IEEE 488.2, 8.7.2 to 8.7.4


class Bench:
    """A chip between the DACs and the ADC of an instrument.

    Args:
        instrument: its facts.
        resource: where it is, as VISA names it.
        parameters: DAC channels that hold the parameters, in order.
        inputs: DAC channels that a sample enters by. With none, samples have one feature, which goes nowhere.
        outputs: ADC channels that the outputs are read from.
        cost: what is minimised; computed from the readings.
        low: lowest value of a parameter [V].
        high: highest value of a parameter [V].
        input_low: lowest value of an input channel [V].
        input_high: highest value of an input channel [V].
        input_gain: volts of an input of 1 [V].
        input_offset: volts of an input of 0 [V].
        output_gain: output per volt that is read.
        output_offset: output at 0 V.
        ramp: largest change at once [V]; larger ones go in steps.
        dwell: time between the steps of a ramp [s].
        noise: standard deviation of one cost reading, where it is known.
        timeout: silence after which a message is said again [s].
        patience: how long the instrument may be silent or away before the run fails [s].
        backend: of pyvisa; see `hwtrain.devices.visa.Address`.
        guard: is there a process beside that switches the outputs off if this one is killed?
        name: what messages call it; "" is the instrument's.

    Raises:
        ConfigError: a setting is wrong, or our limits leave the instrument's.
        ConnectError: nobody is there, or another instrument.
    """

    def __init__(
        self,
        instrument: Instrument,
        resource: str,
        parameters: Sequence[int | str],
        inputs: Sequence[int | str],
        outputs: Sequence[int | str],
        cost: Cost,
        low: float,
        high: float,
        input_low: float = 0.0,
        input_high: float = 1.0,
        input_gain: float = 1.0,
        input_offset: float = 0.0,
        output_gain: float = 1.0,
        output_offset: float = 0.0,
        ramp: float | None = None,
        dwell: float = 0.0,
        noise: float = 0.0,
        timeout: float = 1.0,
        patience: float = 10.0,
        backend: str = "@py",
        guard: bool = True,
        name: str = "",
    ) -> None:
        checks.number("device.ramp", ramp, low=0, above=True, why="volts", none="at once")
        checks.flag("device.guard", guard)
        checks.number("device.dwell", dwell, low=0, why="seconds")
        checks.number("device.timeout", timeout, low=0, above=True, why="seconds")
        checks.number("device.patience", patience, low=0, above=True, why="seconds")
        if not (instrument.set and instrument.read):
            raise ConfigError(f"device.instrument: {instrument.name} has no commands to set a channel and to read one")
        driven = (*parameters, *inputs)
        if "{channel}" not in instrument.set and len(driven) > 1:
            raise ConfigError(
                f"{instrument.name} has one output; device.parameters and device.inputs name {list(driven)}"
            )
        if len(set(driven)) < len(driven):
            raise ConfigError(f"device.parameters and device.inputs name a channel twice: {list(driven)}")
        for key, (lowest, highest) in {"": (low, high), "input_": (input_low, input_high)}.items():
            checks.number(f"device.{key}low", lowest, why="volts")
            checks.number(f"device.{key}high", highest, low=lowest, above=True, why="volts")
            if not instrument.low <= lowest <= 0 <= highest <= instrument.high:
                raise ConfigError(
                    f"device.{key}low={lowest:g} and device.{key}high={highest:g} must include 0 V, where outputs "
                    f"rest, and stay within what {instrument.name} gives, {instrument.low:g} to {instrument.high:g} V"
                )
        self._spec = DeviceSpec(
            name=name or instrument.name,
            inputs=max(len(inputs), 1),
            outputs=len(outputs),
            size=len(parameters),
            can=Can.COST | Can.SAMPLE_COST | Can.OUTPUT | Can.PROBE,
            low=low,
            high=high,
            unit="V",
            noise=noise,
        )
        self._cost, self._theta = cost, np.zeros(len(parameters))
        self._entries = len(inputs)
        self._input, self._output = (input_gain, input_offset), (output_gain, output_offset)
        limits = {channel: Limits(low, high) for channel in parameters}
        limits |= {channel: Limits(input_low, input_high) for channel in inputs}
        talk = Talk(instrument, instrument.address(resource, backend), timeout, patience)
        self._drive = Drive(talk, limits, tuple(outputs), ramp, dwell, guard)
        self._leave = weakref.finalize(self, _leave, self._drive)  # at the end of a program that forgot `close`

    @property
    def spec(self) -> DeviceSpec:
        """Parameters in volts, within our limits."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Set channels and read, one sample after another; everything is judged before the first byte leaves.

        Raises:
            LimitError: a parameter, a probe or an input would leave its limits.
            DeviceError: the instrument failed, and did not come back.
        """
        check(self._spec, commands, self._theta)
        theta = self._theta
        plans: list[tuple[Command, list[tuple[str, ...]]]] = []
        for command in commands:
            if isinstance(command, Program):
                theta = command.theta
                plans.append((command, self._drive.texts(self._volts(theta[None], np.zeros((1, self._entries))))))
            elif isinstance(command, Measure):
                plans.append((command, self._drive.texts(self._vectors(theta, command))))
        readings = []
        for command, texts in plans:
            if isinstance(command, Program):
                self._theta = np.array(command.theta, np.float64)
                self._drive.hold(texts[0][: self._spec.size])
            elif isinstance(command, Measure):
                readings.append(self._reading(command, self._drive.present(texts)))
        return tuple(readings)

    def rest(self) -> None:
        """All channels to 0 V, and disconnected.

        Raises:
            DeviceError: the instrument cannot be reached, so that outputs may still be on.
        """
        self._drive.rest()

    def close(self) -> None:
        """Rest, and let go of the instrument; may be called twice."""
        try:
            self._drive.leave()
        finally:
            self._leave.detach()

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Messages, bytes and what was survived, for the record."""
        talk = self._drive.talk
        return {"traffic": dict(talk.traffic), "disturbances": {k: v for k, v in talk.disturbances.items() if v}}

    def _vectors(self, theta: Array, command: Measure) -> Array:
        """Volts of all channels for every probe and sample, (k t b, channels)."""
        deltas = np.zeros((1, self._spec.size)) if command.probes is None else command.probes.dense(self._spec.size)
        x = command.sample.x.reshape(-1, self._spec.inputs)[:, : self._entries]
        moved = np.repeat(theta + deltas, len(x), axis=0)
        return self._volts(moved, np.tile(x, (len(deltas), 1)) * self._input[0] + self._input[1])

    @staticmethod
    def _volts(theta: Array, inputs: Array) -> Array:
        return np.concatenate([theta, inputs], axis=-1)

    def _reading(self, command: Measure, volts: Array) -> Reading:
        k = 1 if command.probes is None else command.probes.count
        x, target = command.sample.x, command.sample.target
        output = (volts * self._output[0] + self._output[1]).reshape(k, *x.shape[:-1], self._spec.outputs)
        each = None
        if command.observe & (Can.COST | Can.SAMPLE_COST):
            assert target is not None  # checked before
            each = self._cost(output, target[None]).mean(axis=-2)
        return Reading(
            cost=None if each is None or Can.COST not in command.observe else each.mean(axis=-1),
            sample_cost=each if Can.SAMPLE_COST in command.observe else None,
            output=output if Can.OUTPUT in command.observe else None,
        )


class Drive:
    """Channels that are driven within limits, and readings.

    Args:
        talk: with the instrument.
        limits: of every channel that is driven, in order.
        outputs: channels that are read.
        ramp: largest change at once [V]; None is no limit.
        dwell: time between the steps of a ramp [s].
        guarded: are outputs switched off by a process beside if this one is killed?
    """

    def __init__(
        self,
        talk: Talk,
        limits: Mapping[int | str, Limits],
        outputs: tuple[int | str, ...],
        ramp: float | None,
        dwell: float,
        guarded: bool,
    ) -> None:
        self.talk = talk
        self._guarded = guarded
        self._guard: Guard | None = None
        self._limits, self._outputs, self._ramp, self._dwell = dict(limits), outputs, ramp, dwell
        self._channels = tuple(limits)
        self._zeros = tuple(limit.text(0, 0.0, talk.instrument.decimals) for limit in limits.values())
        self._told = list(self._zeros)  # what each channel was told last
        self._awake = self._closed = False
        try:
            talk.open()
        except BaseException:
            talk.close()
            raise

    def texts(self, volts: Array) -> list[tuple[str, ...]]:
        """Values as they will be written, (n, channels), each judged by its limits.

        Raises:
            LimitError: naming the first that leaves them.
        """
        decimals = self.talk.instrument.decimals
        return [
            tuple(
                limit.text(channel, value, decimals)
                for (channel, limit), value in zip(self._limits.items(), vector, strict=True)
            )
            for vector in volts.tolist()
        ]

    def hold(self, texts: Sequence[str]) -> None:
        """Bring the first channels there."""
        self._persistently(lambda: self._bring((*texts, *self._told[len(texts) :])))

    def present(self, texts: Sequence[tuple[str, ...]]) -> Array:
        """Bring all channels to one vector after another, and read every output at each, (n, outputs) [V]."""
        return self._persistently(lambda: self._presented(texts))

    def rest(self) -> None:
        """All channels to 0 V and disconnected, from any condition."""
        if self._closed or not self._awake:
            return
        facts = self.talk.instrument

        def switch_off() -> None:
            self._zero()
            self.talk.tell([facts.disable.format(channel=channel) for channel in self._limits] if facts.disable else [])

        try:
            self.talk.steadily(switch_off)
            self._awake = False
        except HwtrainError as error:
            error.add_note(f"The outputs of {facts.name} at {self.talk.address.resource} may still be on.")
            raise

    def leave(self) -> None:
        """Rest, and let go."""
        try:
            self.rest()
        finally:
            self._closed = True
            self.talk.close()
            if self._guard is not None and not self._awake:
                self._guard.dismiss()

    def _wake(self) -> None:
        """Compliance first, then 0 V, then on."""
        facts = self.talk.instrument
        if self._closed:
            raise DeviceError(f"{facts.name}: the device is closed")
        self._bring(self._zeros)  # where a lost connection left them
        self.talk.tell(list(facts.setup))
        self._zero()
        if self._guarded and self._guard is None:
            self._guard = Guard(self.talk.address, self._off())
        self._awake = True
        self.talk.tell([facts.enable.format(channel=channel) for channel in self._limits] if facts.enable else [])

    def _off(self) -> list[bytes]:
        """What switches everything off, whatever came before."""
        facts = self.talk.instrument
        units = [self._unit(index, zero) for index, zero in enumerate(self._zeros)]
        units += [facts.disable.format(channel=channel) for channel in self._limits] if facts.disable else []
        return [facts.terminator.encode(), *map(facts.message, self.talk.messages(units))]

    def _bring(self, texts: Sequence[str]) -> None:
        """Change what is not there yet, and wait until it is."""
        for units, pause in self._steps(texts):
            self.talk.tell(list(units.values()))
            time.sleep(pause)

    def _zero(self) -> None:
        """All channels to 0 V, whatever they are believed to be at."""
        self._bring(self._zeros)
        self.talk.tell([self._unit(index, zero) for index, zero in enumerate(self._zeros)])

    def _persistently(self, work: Callable[[], _Result]) -> _Result:
        """Do the work, from the start whenever the instrument has restarted or was lost."""

        def awake() -> _Result:
            try:
                if not self._awake:
                    self._wake()
                return work()
            except Restarted:
                self._awake = False
                raise

        return self.talk.steadily(awake)

    def _presented(self, texts: Sequence[tuple[str, ...]]) -> Array:
        facts = self.talk.instrument
        asking = [
            unit.format(channel=channel) for channel in self._outputs for unit in (facts.read, facts.again) if unit
        ]
        message = _Message(facts.longest - len(facts.tag) - 8)
        volts: list[float] = []

        def flush() -> None:
            if message.units:
                got = self.talk.ask(message.whole(), message.answers, self._sensible)
                volts.extend(self._numbers(got))
                message.clear()

        for vector in texts:
            before = list(self._told)
            for step, pause in self._steps(vector):
                settings = list(step.items())
                if not message.fits([unit for _, unit in settings], double=True):
                    flush()
                for index, unit in settings:
                    message.set(index, unit, self._unit(index, before[index]))
                if pause or self._ramp:  # a message that is said again must not leap
                    flush()
                    time.sleep(pause)
            if not message.fits(asking):
                flush()
            message.ask(asking)
        flush()
        return np.array(volts).reshape(len(texts), len(self._outputs))

    def _steps(self, wanted: Sequence[str]) -> Iterator[tuple[dict[int, str], float]]:
        """Commands that bring channels there, by their place, and how long to wait after each lot of them."""
        now, then = [float(text) for text in self._told], [float(text) for text in wanted]
        largest = max((abs(b - a) for a, b in zip(now, then, strict=True)), default=0.0)
        count = math.ceil(largest / self._ramp - 1e-9) if self._ramp else 1
        decimals, settle = self.talk.instrument.decimals, self.talk.instrument.settle
        for step in range(1, count + 1):
            texts = [
                end if step == count else limit.text(channel, a + (b - a) * step / count, decimals)
                for (channel, limit), a, b, end in zip(self._limits.items(), now, then, wanted, strict=True)
            ]
            units = {}
            for index, text in enumerate(texts):
                if text != self._told[index]:
                    units[index] = self._unit(index, text)
                    self._told[index] = text
            if units:
                yield units, settle if step == count else self._dwell

    def _unit(self, index: int, text: str) -> str:
        return self.talk.instrument.set.format(channel=self._channels[index], value=text)

    def _sensible(self, answers: Sequence[str]) -> bool:
        try:
            self._numbers(answers)
        except ValueError:
            return False
        return True

    def _numbers(self, answers: Sequence[str]) -> list[float]:
        """Readings; ValueError where one is no number, or is not what it was when asked for again."""
        if self.talk.instrument.again:
            if any(first != second for first, second in zip(answers[::2], answers[1::2], strict=True)):
                raise ValueError
            answers = answers[::2]
        if not all(_NUMBER.fullmatch(answer) for answer in answers):
            raise ValueError
        numbers = [float(answer) for answer in answers]
        for number in numbers:
            if abs(number) >= 9.9e37:  # SCPI 1999, 7.2.1.4: what stands for infinity and not-a-number
                raise DeviceError(
                    f"{self.talk.instrument.name} at {self.talk.address.resource} reads out of range ({number:g}). "
                    "Is the chip connected, and the range wide enough?"
                )
        return numbers


def _leave(drive: Drive) -> None:
    with contextlib.suppress(HwtrainError):
        drive.leave()


class _Message:
    """Settings and questions that go together, and do the same when they are said twice.

    A channel that is set further on is therefore set in front too, to what it held before.

    Args:
        room: characters at most.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self.clear()

    def clear(self) -> None:
        self.units: list[str] = []
        self.answers = 0
        self._length = 0
        self._set: set[int] = set()
        self._before: list[str] = []

    def fits(self, units: Sequence[str], *, double: bool = False) -> bool:
        more = sum(len(unit) + 2 for unit in units) * (2 if double else 1)
        return not self.units or self._length + more <= self._room

    def set(self, index: int, unit: str, before: str) -> None:
        if self.answers and index not in self._set:
            self._before.append(before)
            self._length += len(before) + 2
        self._set.add(index)
        self._add(unit)

    def ask(self, units: Sequence[str]) -> None:
        for unit in units:
            self._add(unit)
        self.answers += len(units)

    def whole(self) -> list[str]:
        return [*self._before, *self.units]

    def _add(self, unit: str) -> None:
        self.units.append(unit)
        self._length += len(unit) + 2
