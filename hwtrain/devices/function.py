"""Anything that computes `y = f(theta, x)` as a device, in one line: an adapter for a lab's own chip or model."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np

from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading
from hwtrain.costs import Cost, MeanSquaredError
from hwtrain.errors import ConfigError, DeviceError
from hwtrain.limits import check


class FunctionDevice:
    """A device made of a function.

    Args:
        function: takes parameters (p,) and inputs (b, n), gives outputs (b, m); or its name as
            "package.module:function".
        size: number of parameters, p.
        inputs: features of one sample, n.
        outputs: features of one output, m.
        cost: what is minimised.
        low: lowest parameter value, in `unit`; None is open.
        high: highest parameter value.
        unit: of the parameters, "" for a plain number.
        noise: standard deviation of one cost reading, where it is known.
        name: what messages call it.
    """

    def __init__(
        self,
        function: Callable[[Array, Array], Array] | str,
        size: int,
        inputs: int,
        outputs: int,
        cost: Cost | None = None,
        low: float | None = None,
        high: float | None = None,
        unit: str = "",
        noise: float = 0.0,
        name: str = "function",
    ) -> None:
        self._function = _checked(_named(function) if isinstance(function, str) else function)
        self._cost = MeanSquaredError() if cost is None else cost
        self._spec = DeviceSpec(
            name=name,
            inputs=inputs,
            outputs=outputs,
            size=size,
            can=Can.COST | Can.OUTPUT | Can.PROBE,
            low=-math.inf if low is None else low,
            high=math.inf if high is None else high,
            unit=unit,
            noise=noise,
        )
        self._theta = np.zeros(size)

    @property
    def spec(self) -> DeviceSpec:
        """Sizes and limits as given."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Call the function once for every measurement and every time step of the sample."""
        check(self._spec, commands, self._theta)
        readings = []
        for command in commands:
            match command:
                case Program():
                    self._theta = command.theta
                case Measure():
                    readings.append(self._measure(command))
        return tuple(readings)

    def rest(self) -> None:
        """Nothing to make safe."""

    def close(self) -> None:
        """Nothing to let go of."""

    def _measure(self, command: Measure) -> Reading:
        deltas = np.zeros((1, self._spec.size)) if command.probes is None else command.probes.dense(self._spec.size)
        sample = command.sample
        output = np.stack([[self._call(self._theta + delta, x) for x in sample.x] for delta in deltas])
        cost = None
        if command.observe & Can.COST:
            assert sample.target is not None  # checked above
            cost = self._cost(output, sample.target).mean(axis=(-2, -1))
        return Reading(cost=cost, output=output if command.observe & Can.OUTPUT else None)

    def _call(self, theta: Array, x: Array) -> Array:
        answer, wanted = self._function(theta, x), (len(x), self._spec.outputs)
        try:
            output = np.asarray(answer)
        except ValueError:  # rows of different lengths
            output = np.asarray(None)
        if output.dtype.kind not in "biuf" or output.shape != wanted:
            raise DeviceError(
                f"{self._spec.name!r} gave {_told(answer)} for {len(x)} samples; it must give numbers of shape {wanted}"
            )
        return output.astype(np.float64, copy=False)


def _named(path: str) -> Callable[[Array, Array], Array]:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"device.function: {path!r} cannot be imported ({error}). Write package.module:function, "
            "and start where Python finds the package."
        ) from error
    found: Callable[[Array, Array], Array] = function
    return found


def _checked(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Refuse what cannot be called with parameters and inputs."""
    if not callable(function):
        raise ConfigError(f"device.function must be a function or package.module:function, not {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of one that is compiled
        return function
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"device.function takes {signature}; it is called with parameters (p,) and inputs (b, n)"
        ) from error
    return function


def _told(answer: object) -> str:
    if isinstance(answer, np.ndarray):
        return f"outputs of shape {answer.shape} ({answer.dtype})"
    return f"a {type(answer).__name__}"
