"""Several devices trained in one run: as replicas, or as one whose gradient is an average.

    replicas   every device has parameters of its own, and the replica axis leads through them
    averaged   all hold the same parameters, and share the probes of a measurement out among themselves

A device that fails is named and left out, and asked back in the background; the others go on. As a replica it reads NaN
meanwhile, which moves nothing of it or of the others; of an average, the others take its share of the probes. Probes
that a device has measured are seen against its own baseline, so devices may differ. What a device holds by itself
(`Can.STATE`) a rack cannot save, since it may come back another.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np

from hwtrain import checks
from hwtrain.core import (
    Array,
    Can,
    Command,
    Counting,
    Device,
    DeviceSpec,
    Learn,
    LearnInTime,
    Measure,
    Probes,
    Program,
    Pulse,
    Reading,
    Sample,
    Train,
)
from hwtrain.errors import ConfigError, ConnectError, DeviceError, HwtrainError
from hwtrain.limits import check

MODES = ("replicas", "averaged")
RETRY = 1.0  # pause between attempts to get a device back [s]
_SHARED = Can.COST | Can.SAMPLE_COST | Can.OUTPUT | Can.ACTIVITY | Can.PROBE | Can.NODE_PROBE


class Rack:
    """Devices side by side.

    Args:
        makers: each makes one, by name, now and whenever it is to come back.
        mode: "replicas" or "averaged"; see the module.

    Raises:
        ConfigError: the devices are not alike.
        ConnectError: one is not there at the start.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Device]], mode: str = "replicas") -> None:
        checks.one_of("device.mode", mode, MODES)
        if not makers:
            raise ConfigError("a rack needs a device at least; set device.count or device.vary")
        self._places = [_Place(name, make) for name, make in makers.items()]
        self._mode = mode
        self.disturbances: Counter[str] = Counter()
        try:
            for place in self._places:
                place.device = place.make()
            specs = [place.spec for place in self._places]
            first = specs[0]
            for place, spec in zip(self._places, specs, strict=True):
                unlike = [key for key in _ALIKE if getattr(spec, key) != getattr(first, key)]
                if unlike or spec.replicas:
                    raise ConfigError(
                        f"device {place.name!r} of the rack is not like the first: "
                        f"{', '.join(unlike) or 'replicas'} differ"
                    )
        except BaseException:
            for place in self._places:
                place.close()
            raise
        offered = first.can & ~(Can.STATE | Can.GRADIENT | Can.MEMBRANES)
        self._spec = replace(
            first,
            name=f"rack of {len(self._places)} {first.name}",
            can=offered if mode == "replicas" else offered & _SHARED,
            noise=max(spec.noise for spec in specs),
            low=max(spec.low for spec in specs),
            high=min(spec.high for spec in specs),
            replicas=(len(self._places),) if mode == "replicas" else (),
        )
        self._held: Array | None = None
        self._pool = ThreadPoolExecutor(len(self._places), thread_name_prefix="rack")

    @property
    def spec(self) -> DeviceSpec:
        """What all devices have in common."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """All devices at once.

        Raises:
            DeviceError: none of them is left.
        """
        check(self._spec, commands, self._held)
        result = self._apart(commands) if self._mode == "replicas" else self._together(commands)
        for command in commands:
            match command:
                case Program():
                    self._held = np.array(command.theta)
                case Pulse() | Train() | Learn() | LearnInTime():
                    self._held = None
        return result

    def rest(self) -> None:
        """Make every device safe that is there."""
        self._each([(place, lambda device: device.rest()) for place in self._live()], "rest")

    def close(self) -> None:
        """Let go of all; may be called twice."""
        failed: list[BaseException] = []
        for place in self._places:
            try:
                place.close()
            except BaseException as error:  # the others must be let go of all the same
                failed.append(error)
        self._pool.shutdown()
        if failed:
            raise failed[0]

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What became of each device, and their own counts together."""
        traffic: Counter[str] = Counter()
        for place in self._live():
            if isinstance(place.device, Counting):
                traffic.update(place.device.counts().get("traffic", {}))
        return {"traffic": dict(traffic), "disturbances": dict(self.disturbances)}

    def _live(self) -> list[_Place]:
        back = [place for place in self._places if place.came_back()]
        self.disturbances.update(f"{place.name} came back" for place in back)
        return [place for place in self._places if place.device is not None]

    def _each(self, work: Sequence[tuple[_Place, Callable[[Device], Any]]], what: str) -> list[Any]:
        """Do something with several devices at once; None in the place of one that failed, which is left out.

        Raises:
            DeviceError: all failed.
        """
        futures = [self._pool.submit(place.use, job) for place, job in work]
        results, errors = [], []
        for (place, _), future in zip(work, futures, strict=True):
            try:
                results.append(future.result())
            except (DeviceError, OSError) as error:
                results.append(None)
                errors.append(error)
                self.disturbances[f"{place.name} dropped out"] += 1
                place.drop()
        if errors and len(errors) == len(work):
            raise DeviceError(f"{what}: no device of {self._spec.name!r} is left. The last: {errors[-1]}") from errors[
                -1
            ]
        return results

    def _caught_up(self, place: _Place, commands: Sequence[Command], held: Array | None) -> list[Command]:
        """The commands, after what brings a device that came back to the parameters that it should hold."""
        if place.fresh and held is not None and not (commands and isinstance(commands[0], Program)):
            return [Program(held), *commands]
        return list(commands)

    def _apart(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        work: list[tuple[_Place, Callable[[Device], Any]]] = []
        live = self._live()
        for place in live:
            index = self._places.index(place)
            own = [_of(command, index, self._spec.replicas) for command in commands]
            own = self._caught_up(place, own, None if self._held is None else self._held[index])
            work.append((place, lambda device, own=own: device.execute(own)))  # type: ignore[misc]
        if not work:
            raise ConnectError(f"no device of {self._spec.name!r} is left")
        results = dict(zip((place.name for place in live), self._each(work, "execute"), strict=True))
        pattern = next(result for result in results.values() if result is not None)
        rows = [results.get(place.name) or tuple(map(_nothing, pattern)) for place in self._places]
        return tuple(_stacked(readings) for readings in zip(*rows, strict=True))

    def _together(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        while True:
            live = self._live()
            if not live:
                raise ConnectError(f"no device of {self._spec.name!r} is left")
            shares = [_shared(commands, index, len(live)) for index in range(len(live))]
            work = []
            for place, own in zip(live, shares, strict=True):
                asked = self._caught_up(place, [command for command in own if command is not None], self._held)
                work.append((place, lambda device, asked=asked: device.execute(asked)))
            results = self._each(work, "execute")
            if all(result is not None for result in results):
                return _joined(commands, shares, results)


class _Place:
    """One device of a rack, or the place where it was.

    Args:
        name: for messages.
        make: makes it.
    """

    def __init__(self, name: str, make: Callable[[], Device]) -> None:
        self.name, self.make = name, make
        self.device: Device | None = None
        self.fresh = False  # has come back, and holds nothing yet
        self._found: Device | None = None
        self._lock = threading.RLock()
        self._end = threading.Event()

    @property
    def spec(self) -> DeviceSpec:
        assert self.device is not None
        return self.device.spec

    def use(self, work: Callable[[Device], Any]) -> Any:
        """Do something with the device, alone."""
        with self._lock:
            if self.device is None:
                raise DeviceError(f"{self.name} is not there")
            result = work(self.device)
            self.fresh = False
            return result

    def drop(self) -> None:
        """Leave it out, and ask it back in the background."""
        with self._lock:
            device, self.device = self.device, None
        _closed(device)
        threading.Thread(target=self._ask_back, name=f"{self.name} comes back", daemon=True).start()

    def came_back(self) -> bool:
        """Has it? Then it is there again."""
        with self._lock:
            if self._found is None:
                return False
            self.device, self._found, self.fresh = self._found, None, True
            return True

    def close(self) -> None:
        """Let go; may be called twice."""
        self._end.set()
        with self._lock:
            device, self.device = self.device, None
            found, self._found = self._found, None
        _closed(found)
        if device is not None:
            device.close()

    def _ask_back(self) -> None:
        while not self._end.wait(RETRY):
            try:
                device = self.make()
            except (HwtrainError, OSError):
                continue
            with self._lock:
                if not self._end.is_set():
                    self._found = device
                    return
            _closed(device)


def rack(
    part: Callable[..., Device],
    count: int | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "replicas",
) -> Rack:
    """A rack of one kind of device.

    Args:
        part: makes a device.
        count: how many, where they are all the same.
        vary: settings in which they differ, each with a value for every device: {port: [/dev/ttyACM0, /dev/ttyACM1]}.
        mode: "replicas" or "averaged".
    """
    checks.whole("device.count", count, none="as many as device.vary says")
    vary = vary or {}
    lengths = {len(values) for values in vary.values()} | ({count} if count else set())
    if len(lengths) != 1:
        raise ConfigError(
            "device.count and the lists of device.vary must say the same number of devices, and one of them must; "
            f"they say {sorted(lengths) or 'nothing'}"
        )
    (number,) = lengths
    assert number is not None
    makers: dict[str, Callable[[], Device]] = {}
    for index in range(number):
        own = {name: values[index] for name, values in vary.items()}
        makers[str(own.get("port", own.get("resource", f"device {index}")))] = lambda own=own: part(**own)  # type: ignore[misc]
    return Rack(makers, mode)


_ALIKE = ("inputs", "outputs", "size", "can", "unit", "layers", "precision")


def _closed(device: Device | None) -> None:
    try:
        if device is not None:
            device.close()
    except (HwtrainError, OSError):  # it has failed before
        pass


def _of(command: Command, index: int, replicas: tuple[int, ...]) -> Command:
    """What a command asks of one replica."""
    match command:
        case Program():
            change = command.change
            if change is not None:
                modulation = change.modulation[index] if change.modulation.ndim > 1 else change.modulation
                change = replace(change, probes=_seeded(change.probes, index), modulation=modulation)
            return Program(command.theta[index], change)
        case Pulse():
            return replace(command, counts=command.counts[index])
        case Measure():
            probes = None if command.probes is None else _seeded(command.probes, index)
            return replace(command, sample=_own(command.sample, index, replicas), probes=probes)
        case Train():
            own = _own(command.sample, index, replicas)
            return replace(command, sample=own, probes=_seeded(command.probes, index))
        case Learn():
            wrong = command.wrong
            if wrong is not None and wrong.ndim > 2:
                wrong = wrong[index]
            local = None if command.local is None else command.local[index]
            return replace(command, sample=_own(command.sample, index, replicas), wrong=wrong, local=local)
        case LearnInTime():
            own, (targets, shown) = _own(command.sample, index, replicas), (command.targets, command.shown)
            return replace(
                command,
                sample=own,
                seeds=command.seeds[index],
                targets=None if targets is None else targets[index],
                shown=None if shown is None else shown[index],
            )
    return command


def _seeded(probes: Probes, index: int) -> Probes:
    return replace(probes, seed=np.asarray(probes.seed)[index])


def _own(sample: Sample, index: int, replicas: tuple[int, ...]) -> Sample:
    """A sample's part for one replica; replica axes are there or not."""
    x = sample.x[index] if sample.x.ndim > 3 else sample.x
    target = sample.target
    if target is not None and target.ndim > 3:
        target = target[index]
    return Sample(x, target, sample.start)


def _nothing(reading: Reading) -> Reading:
    """A reading of the same shape that says nothing."""
    return Reading(
        **{name: _mapped(lambda values: np.full_like(values, np.nan), value) for name, value in _parts(reading)}
    )


def _stacked(readings: Sequence[Reading]) -> Reading:
    """Readings of replicas as one."""
    stacked: dict[str, Any] = {}
    for name, first in _parts(readings[0]):
        values = [getattr(reading, name) for reading in readings]
        stacked[name] = (
            tuple(map(np.stack, zip(*values, strict=True))) if isinstance(first, tuple) else np.stack(values)
        )
    return Reading(**stacked)


def _parts(reading: Reading) -> list[tuple[str, Any]]:
    return [(field.name, value) for field in fields(reading) if (value := getattr(reading, field.name)) is not None]


def _mapped(function: Callable[[Array], Array], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _shared(commands: Sequence[Command], index: int, count: int) -> list[Command | None]:
    """One device's share of commands: all of them, but of the probes a part, or None."""
    own: list[Command | None] = []
    for command in commands:
        if not isinstance(command, Measure) or command.probes is None:
            own.append(command)
            continue
        probes = command.probes
        first, last = (probes.count * i // count for i in (index, index + 1))
        part = replace(probes, first=probes.first + first, count=last - first)
        own.append(replace(command, probes=part) if part.count else None)
    return own


def _joined(
    commands: Sequence[Command], shares: Sequence[Sequence[Command | None]], results: Sequence[Sequence[Reading]]
) -> tuple[Reading, ...]:
    """One reading for each measurement: means of plain ones, and the probes of all one after another."""
    queues = [list(result) for result in results]
    readings = []
    baselines: dict[int, list[Array]] = {}  # of the devices, by sample
    for number, command in enumerate(commands):
        if not isinstance(command, Measure):
            continue
        got = [queue.pop(0) if share[number] is not None else None for queue, share in zip(queues, shares, strict=True)]
        if command.probes is None:
            there = [reading for reading in got if reading is not None]
            readings.append(Reading(**{name: _over(there, name, _mean) for name, _ in _parts(there[0])}))
            if there[0].cost is not None:
                baselines[id(command.sample)] = [reading.cost for reading in there if reading.cost is not None]
            continue
        if (own := baselines.get(id(command.sample))) is not None:
            middle = _mean(own)
            got = [
                reading
                if reading is None or reading.cost is None
                else replace(reading, cost=reading.cost + (middle - base))
                for reading, base in zip(got, own, strict=True)
            ]
        there = [reading for reading in got if reading is not None]
        readings.append(Reading(**{name: _over(there, name, np.concatenate) for name, _ in _parts(there[0])}))
    return tuple(readings)


def _over(readings: Sequence[Reading], name: str, function: Callable[[Any], Array]) -> Any:
    values = [getattr(reading, name) for reading in readings]
    return tuple(map(function, zip(*values, strict=True))) if isinstance(values[0], tuple) else function(values)


def _mean(values: Sequence[Array]) -> Array:
    """The mean, exact where all are the same."""
    first = values[0]
    result: Array = first + np.mean([value - first for value in values], axis=0, dtype=first.dtype)
    return result
