"""Refuse a command before it is sent: the one place where limits are enforced on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Site
from hwtrain.errors import CapabilityError, LimitError


def check(spec: DeviceSpec, commands: Sequence[Command]) -> None:
    """Check all commands of a step against what the device declared.

    Raises:
        CapabilityError: a command wants what the device does not offer.
        LimitError: a parameter is not finite or out of range, also under a probe, or a shape is wrong.
    """
    theta: Array | None = None
    for command in commands:
        match command:
            case Program():
                theta = command.theta
                _check_theta(spec, theta, 0.0)
            case Measure():
                _check_measure(spec, command, theta)


def _check_measure(spec: DeviceSpec, command: Measure, theta: Array | None) -> None:
    needed = command.observe
    probes = command.probes
    if probes is not None:
        needed |= Can.PROBE if probes.site is Site.PARAMETERS else Can.NODE_PROBE
        if probes.count < 1:
            raise LimitError(f"{probes.count} probes asked of {spec.name!r}; at least 1. Nothing was sent.")
    if needed not in spec.can:
        missing = needed & ~spec.can
        raise CapabilityError(
            f"a measurement wants {missing.names()}; {spec.name!r} offers {spec.can.names()}. Nothing was sent."
        )
    if command.sample.x.shape[-1] != spec.inputs or command.sample.x.ndim < 3:
        raise LimitError(
            f"sample of shape {command.sample.x.shape}; {spec.name!r} takes (..., t, b, {spec.inputs}). "
            "Nothing was sent."
        )
    target = command.sample.target
    if target is not None and target.shape[-1] != spec.outputs:
        raise LimitError(
            f"target of shape {target.shape}; {spec.name!r} gives (..., t, b, {spec.outputs}). Nothing was sent."
        )
    if probes is not None and theta is not None and probes.site is Site.PARAMETERS and _bounded(spec):
        _check_theta(spec, theta, probes.perturbation.reach(spec.size))


def _bounded(spec: DeviceSpec) -> bool:
    return math.isfinite(spec.low) or math.isfinite(spec.high)


def _check_theta(spec: DeviceSpec, theta: Array, reach: float) -> None:
    """Refuse what is not finite, or comes out of range when moved by `reach` either way."""
    if theta.shape != (*spec.replicas, spec.size):
        raise LimitError(
            f"parameters of shape {theta.shape}; {spec.name!r} holds {(*spec.replicas, spec.size)}. Nothing was sent."
        )
    low, high = float(theta.min()), float(theta.max())  # a NaN anywhere makes both NaN
    if spec.low <= low - reach and high + reach <= spec.high and math.isfinite(low) and math.isfinite(high):
        return
    with np.errstate(invalid="ignore"):
        wrong = ~((theta - reach >= spec.low) & (theta + reach <= spec.high) & np.isfinite(theta))
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    value = float(theta[index])
    probe = f", moved by up to {reach:g}{_unit(spec)} by a probe," if reach else ""
    raise LimitError(
        f"parameter {index} would be {value:g}{_unit(spec)}{probe}; {spec.name!r} holds "
        f"{spec.low:g} to {spec.high:g}{_unit(spec)}. Nothing was sent."
    )


def _unit(spec: DeviceSpec) -> str:
    return f" {spec.unit}" if spec.unit else ""
