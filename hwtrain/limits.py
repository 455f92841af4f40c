"""Refuse a command before it is sent: the one place where limits are enforced on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwtrain.core import (
    Array,
    Can,
    Command,
    DeviceSpec,
    Learn,
    LearnInTime,
    Measure,
    Program,
    Pulse,
    Read,
    Sample,
    Site,
    Train,
)
from hwtrain.errors import CapabilityError, LimitError

_FROM_TARGET = Can.COST | Can.SAMPLE_COST | Can.GRADIENT


def check(spec: DeviceSpec, commands: Sequence[Command], held: Array | None = None) -> None:
    """Check all commands of a step against what the device declared.

    Args:
        spec: the device's account of itself.
        commands: in the order in which they will be carried out.
        held: parameters that the device holds already, (..., p), where they are known.

    Raises:
        CapabilityError: a command wants what the device does not offer.
        LimitError: a parameter is not finite or out of range, also under a probe, or a shape is wrong.
    """
    theta = held
    for command in commands:
        match command:
            case Program():
                if Can.PULSE in spec.can:
                    raise CapabilityError(
                        f"{spec.name!r} moves by pulses and takes no values. Set device.programming=open_loop, or an "
                        "algorithm that pulses. Nothing was sent."
                    )
                theta = command.theta
                _check_theta(spec, theta, 0.0)
            case Pulse():
                _check_pulse(spec, command)
                theta = None
            case Read():
                _check_read(spec, command)
            case Measure():
                _check_measure(spec, command, theta)
            case Train():
                _check_train(spec, command, theta)
                theta = None  # the device's own, within the block's limits
            case Learn():
                _check_learn(spec, command)
                theta = None
            case LearnInTime():
                _check_learn_in_time(spec, command)
                theta = None


def _check_measure(spec: DeviceSpec, command: Measure, theta: Array | None) -> None:
    needed = command.observe
    probes = command.probes
    if probes is not None:
        needed |= Can.PROBE if probes.site is Site.PARAMETERS else Can.NODE_PROBE
        if probes.count < 1:
            raise LimitError(f"{probes.count} probes asked of {spec.name!r}; at least 1. Nothing was sent.")
        if np.shape(probes.seed) != spec.replicas:
            raise LimitError(
                f"probes for seeds of shape {np.shape(probes.seed)}; {spec.name!r} has replicas {spec.replicas}. "
                "Nothing was sent."
            )
    if needed not in spec.can:
        missing = needed & ~spec.can
        raise CapabilityError(
            f"a measurement wants {missing.names()}; {spec.name!r} offers {spec.can.names()}. Nothing was sent."
        )
    _check_sample(spec, command.sample, needs_target=bool(command.observe & _FROM_TARGET))
    if probes is not None and theta is not None and probes.site is Site.PARAMETERS and _bounded(spec):
        _check_theta(spec, theta, probes.perturbation.reach(spec.size))


def _check_pulse(spec: DeviceSpec, command: Pulse) -> None:
    if Can.PULSE not in spec.can:
        raise CapabilityError(f"{spec.name!r} takes values and no pulses. Nothing was sent.")
    counts = command.counts
    if counts.shape != (*spec.replicas, spec.size) or not np.issubdtype(counts.dtype, np.integer):
        raise LimitError(
            f"pulses of shape {counts.shape} and type {counts.dtype}; {spec.name!r} takes whole numbers, "
            f"{(*spec.replicas, spec.size)}. Nothing was sent."
        )
    _check_fast(spec, command)


def _check_read(spec: DeviceSpec, command: Read) -> None:
    if Can.READ not in spec.can:
        raise CapabilityError(f"{spec.name!r} cannot read its parameters. Nothing was sent.")
    which = command.which
    if which is not None and not (which.ndim == 1 and ((which >= 0) & (which < spec.size)).all()):
        raise LimitError(
            f"{spec.name!r} has parameters 0 to {spec.size - 1}; others were to be read. Nothing was sent."
        )
    _check_fast(spec, command)


def _check_fast(spec: DeviceSpec, command: Pulse | Read) -> None:
    if command.fast and not spec.fast_step:
        raise CapabilityError(
            f"{spec.name!r} has no second array of cells. Set device=pulsed, or device.fast=same. Nothing was sent."
        )


def _check_train(spec: DeviceSpec, block: Train, theta: Array | None) -> None:
    if Can.TRAIN not in spec.can:
        raise CapabilityError(
            f"a block of training wants TRAIN; {spec.name!r} offers {spec.can.names()}. Nothing was sent."
        )
    ticks, reach = block.probes, block.probes.perturbation.reach(spec.size)
    if ticks.count < 1 or ticks.count % block.tau_theta or ticks.first % block.tau_theta:
        raise LimitError(
            f"a block of {ticks.count} ticks from tick {ticks.first}; {spec.name!r} trains whole windows of "
            f"{block.tau_theta} ticks. Nothing was sent."
        )
    _check_sample(spec, block.sample, needs_target=True)
    if block.sample.x.shape[-2] != block.batch * len(block.presentations):
        raise LimitError(
            f"{block.sample.x.shape[-2]} samples for {len(block.presentations)} presentations of {block.batch}. "
            "Nothing was sent."
        )
    if not spec.low <= block.low - reach < block.high + reach <= spec.high:
        raise LimitError(
            f"a block of training would keep parameters within {block.low:g} to {block.high:g}{_unit(spec)}, moved by "
            f"{reach:g}; {spec.name!r} holds {spec.low:g} to {spec.high:g}{_unit(spec)}. Nothing was sent."
        )
    if theta is not None:
        _check_theta(spec, theta, reach)


def _check_learn(spec: DeviceSpec, block: Learn) -> None:
    if Can.LEARN not in spec.can:
        raise CapabilityError(
            f"a block of local learning wants LEARN; {spec.name!r} offers {spec.can.names()}. Nothing was sent."
        )
    if block.rule not in Learn.RULES:
        raise CapabilityError(
            f"{block.rule!r} is no local rule that devices run by themselves; those are {', '.join(Learn.RULES)}. "
            "Set algo.on_device=false. Nothing was sent."
        )
    _check_sample(spec, block.sample, needs_target=True)
    samples = block.sample.x.shape[-2]
    if block.rule != "mono_forward":
        _check_wrong(spec, block)
    if block.batch < 1 or not samples or samples % block.batch:
        raise LimitError(f"{samples} samples are no whole number of batches of {block.batch}. Nothing was sent.")
    _check_numbers(spec, block)
    _check_kept(spec, block)


def _check_learn_in_time(spec: DeviceSpec, block: LearnInTime) -> None:
    if Can.LEARN_IN_TIME not in spec.can:
        raise CapabilityError(
            f"a block of learning in time wants LEARN_IN_TIME; {spec.name!r} offers {spec.can.names()}. "
            "Set algo.on_device=false. Nothing was sent."
        )
    for what, value, known in (("signal", block.signal, block.SIGNALS), ("surrogate", block.shape, block.SHAPES)):
        if value not in known:
            raise CapabilityError(
                f"{value!r} is no {what} by which devices learn in time; those are {', '.join(known)}. "
                "Set algo.on_device=false. Nothing was sent."
            )
    _check_sample(spec, block.sample, needs_target=True)
    if not block.sample.x.shape[-2]:
        raise LimitError(f"no sequences to learn from were given to {spec.name!r}. Nothing was sent.")
    if not block.sample.start:
        raise LimitError(
            f"{spec.name!r} learns from sequences by itself from their start on; one was to go on. Present it whole "
            "(start=True). Nothing was sent."
        )
    _check_numbers(spec, block, "slope", "height")
    wanted: dict[str, tuple[int, ...]] = {"seeds": (len(spec.layers) - 1,)}
    wanted |= {"targets": (spec.outputs,), "shown": ()} if block.centre else {}
    for name, shape in wanted.items():
        numbers: Array | None = getattr(block, name)
        if numbers is None or np.shape(numbers) != (*spec.replicas, *shape) or not np.isfinite(numbers).all():
            raise LimitError(
                f"the {name} of a block of learning in time must be numbers of shape {(*spec.replicas, *shape)}, not "
                f"{'none' if numbers is None else f'of shape {np.shape(numbers)}'}. Nothing was sent."
            )
    _check_kept(spec, block)


def _check_numbers(spec: DeviceSpec, block: Learn | LearnInTime, *others: str) -> None:
    most = float(np.finfo(spec.dtype).max)
    for name in ("rate", "readout_rate", "scale", *others):
        if not abs(value := getattr(block, name)) <= most:
            raise LimitError(
                f"the {name} of a block of local learning is {value:g}, no finite number in the {spec.precision} "
                f"precision of {spec.name!r}. Choose another. Nothing was sent."
            )


def _check_kept(spec: DeviceSpec, block: Learn | LearnInTime) -> None:
    if not spec.low <= block.low < block.high <= spec.high:
        raise LimitError(
            f"a block of local learning would keep parameters within {block.low:g} to {block.high:g}{_unit(spec)}; "
            f"{spec.name!r} holds {spec.low:g} to {spec.high:g}{_unit(spec)}. Nothing was sent."
        )


def _check_wrong(spec: DeviceSpec, block: Learn) -> None:
    wanted = block.sample.x.shape[:-1]
    wrong = np.zeros(0) if block.wrong is None else np.asarray(block.wrong)
    if wrong.shape != wanted or not ((wrong >= 0) & (wrong < spec.outputs)).all():
        raise LimitError(
            f"forward-forward shows {spec.name!r} one wrong label of 0 to {spec.outputs - 1} for each of "
            f"{math.prod(wanted)} samples; it was given others. Nothing was sent."
        )
    if (right := wrong == block.sample.target.argmax(axis=-1)).any():  # type: ignore[union-attr]
        raise LimitError(f"{right.sum()} of the wrong labels for {spec.name!r} are right. Nothing was sent.")


def _check_sample(spec: DeviceSpec, sample: Sample, *, needs_target: bool) -> None:
    x, target = sample.x, sample.target
    if x.ndim < 3 or x.shape[-1] != spec.inputs or x.shape[:-3] not in ((), spec.replicas):
        replicas = f"{spec.replicas} or no replica axes, then " if spec.replicas else ""
        raise LimitError(
            f"sample of shape {x.shape}; {spec.name!r} takes {replicas}(t, b, {spec.inputs}). Nothing was sent."
        )
    if target is None:
        if needs_target:
            raise LimitError("a cost was asked for a sample without a target. Nothing was sent.")
    elif target.shape != (*x.shape[:-1], spec.outputs):
        raise LimitError(
            f"target of shape {target.shape}; this sample's must be {(*x.shape[:-1], spec.outputs)}. Nothing was sent."
        )


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
        theta = theta.astype(np.float64)
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
