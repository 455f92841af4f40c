"""The forward-forward algorithm: every layer learns to tell good samples from bad ones by its own activity.

Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345 (2022).

A layer's goodness G is the sum (or mean) of its squared activities. It shall be high for positive samples and low for
negative ones, so each layer descends the cost

    threshold   softplus(theta - G+) + softplus(G- - theta)                 Hinton
    symba       log(1 + exp(-alpha (G+ - G-)))                              Lee & Song, arXiv 2303.08418

by dC/dz_j = dC/dG * 2 y_j f'(z_j), and nothing crosses from one layer to another: a layer sees the one before with its
length taken away (`Layer.normalise`), and never the one behind. All it takes of a device is its activities.

The last layer is the read-out: a softmax on the last hidden layer, under the neutral code, that learns beside and lets
nothing of its own error through. The other read-out shows every label in turn and takes the one with most goodness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from hwtrain import checks
from hwtrain.algorithms import contrast, local
from hwtrain.algorithms.contrast import Contrast
from hwtrain.core import Array, Can, Command, DeviceSpec, Learn, Measure, Program, Reading, Sample
from hwtrain.errors import ConfigError
from hwtrain.optimize import Adam, Descent, Optimizer, returned
from hwtrain.start import Fan, Start

LOSSES = ("threshold", "symba")
GOODNESS = ("sum", "mean")
NEGATIVES = ("uniform", "hard", "hybrid", "pair")
READOUTS = ("sweep", "softmax")
SMOOTHING = 0.9  # of the running mean activities of peer normalisation


@dataclass(frozen=True, slots=True)
class State(local.State):
    """All that changes.

    Args:
        peers: running mean activity of every hidden unit on positive samples, (..., units); empty without `peer`.
        likely: what the read-out thought of the samples that come next, (..., t, b, m); empty where nobody asks.
    """

    peers: Array = field(default_factory=lambda: np.zeros(0))
    likely: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardForward(local.Descending):
    """Forward-forward (citations in the module docstring).

    Args:
        loss: "threshold" or "symba".
        goodness: "sum" or "mean" of squared activities.
        threshold: theta per unit: goodness is compared with threshold * n for the sum over n units, with threshold for
            the mean.
        alpha: steepness of "symba".
        negatives: "uniform", a wrong label drawn evenly; "hard", one that the read-out thinks likely; and without
            labels "hybrid", two images in one, or "pair", an image laid over another (self-contrastive).
        readout: "sweep", the label with most goodness; or "softmax", the last layer.
        sweep_from: first hidden layer whose goodness the sweep adds, from 1.
        peer: weight of peer normalisation, which keeps units from falling silent; 0 is off.
        layer_updates: updates for one hidden layer before the next one's turn; None trains all at once.
        on_device: the device runs `block` updates by itself.
        block: updates the device runs at once.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Fan)
    loss: str = "threshold"
    goodness: str = "sum"
    threshold: float = 1.0
    alpha: float = 4.0
    negatives: str = "uniform"
    readout: str = "sweep"
    sweep_from: int = 1
    peer: float = 0.0
    layer_updates: int | None = None
    on_device: bool = False
    block: int = 50

    def __post_init__(self) -> None:
        local.Descending.__post_init__(self)
        checks.one_of("algo.loss", self.loss, LOSSES)
        checks.one_of("algo.goodness", self.goodness, GOODNESS)
        checks.number("algo.threshold", self.threshold)
        checks.number("algo.alpha", self.alpha, low=0, above=True)
        checks.one_of("algo.negatives", self.negatives, NEGATIVES)
        checks.one_of("algo.readout", self.readout, READOUTS)
        checks.whole("algo.sweep_from", self.sweep_from)
        checks.number("algo.peer", self.peer, low=0)
        checks.whole("algo.layer_updates", self.layer_updates, why="updates", none="all layers at once")
        checks.flag("algo.on_device", self.on_device)
        checks.whole("algo.block", self.block, why="updates")
        if self.readout == "sweep" and not self._labelled:
            raise ConfigError(
                f"algo.negatives={self.negatives} shows no labels, so none can be swept. Set algo.readout=softmax."
            )
        plain = isinstance(self.optimizer, Descent) and self.negatives == "uniform"
        if self.on_device and (not plain or self.peer or self.decay or self.layer_updates is not None):
            raise ConfigError(
                "algo.on_device: a device descends by plain steps from uniform wrong labels, all layers at once. Set "
                "algo/optimizer=descent algo.negatives=uniform algo.peer=0 algo.decay=0 algo.layer_updates=null, or "
                "algo.on_device=false."
            )

    @property
    def needs(self) -> Can:
        """Activities, or all of it by itself."""
        return (Can.LEARN if self.on_device else Can(0)) | Can.ACTIVITY | Can.OUTPUT

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica.

        Raises:
            ConfigError: the device passes the length of activities on, or has no room for a label.
        """
        begun = self.begin(spec, seed, "forward-forward")
        for number, layer in enumerate(begun.layers, 1):
            if layer.normalise == "none":
                raise ConfigError(
                    f"forward-forward: layer {number} of {spec.name!r} sees the length of its inputs, which is the "
                    "goodness of the layer before. Set network.normalise=rms, or let the host normalise between "
                    "single layers (device=chain)."
                )
        if self._labelled and spec.inputs <= spec.outputs:
            raise ConfigError(
                f"forward-forward writes the label over the first {spec.outputs} inputs and needs others beside; "
                f"{spec.name!r} has {spec.inputs}. Set algo.negatives=pair algo.readout=softmax."
            )
        if self.sweep_from >= len(begun.layers):
            raise ConfigError(
                f"algo.sweep_from must be at most the number of hidden layers, {len(begun.layers) - 1}, not "
                f"{self.sweep_from}"
            )
        units = sum(local.widths(begun.layers)[:-1]) if self.peer else 0
        peers = np.zeros((*begun.theta.shape[:-1], units), begun.theta.dtype)
        return State(**{name: getattr(begun, name) for name in local.State.__slots__}, peers=peers)

    def presents(self, state: State) -> range:
        """A new sample for every update; the next one too where its wrong labels shall be hard; a block of them."""
        ahead = self.block if self.on_device else 2 if self.negatives == "hard" else 1
        return range(state.step, state.step + ahead)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta; show it the positive, the negative and the neutral version of the sample."""
        if self.on_device:
            return Program(state.theta), self._block(state, sample)
        shown = self._shown(state, sample)
        positive, negative = (Measure(part, observe=Can.ACTIVITY) for part in (shown.positive, shown.negative))
        return Program(state.theta), positive, negative, Measure(shown.neutral, observe=Can.ACTIVITY)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Every hidden layer descends its own cost, and the read-out its own."""
        if self.on_device:
            return self._follow(state, readings[0])
        shown = self._shown(state, sample)
        positive, negative, neutral = (local.activities(state, reading) for reading in readings)
        seen_positive = local.presented(state, shown.positive.x, positive)
        seen_negative = local.presented(state, shown.negative.x, negative)
        seen_neutral = local.presented(state, shown.neutral.x, neutral)

        parts, costs, peers = [], [], []
        for number, layer in enumerate(state.layers[:-1]):
            cost, error_positive, error_negative = self.contrast(layer.activation, positive[number], negative[number])
            if self.peer:
                mean, error = self._peer(state, number, positive[number])
                peers.append(mean)
                error_positive = error_positive + error * local.SLOPES[layer.activation](positive[number])
            parts.append(
                local.gradient_of(layer, seen_positive[number], error_positive)
                + local.gradient_of(layer, seen_negative[number], error_negative)
            )
            costs.append(cost)
        probability = softmax(neutral[-1], axis=-1)
        error = (probability - local.wanted(shown.neutral, probability.dtype)) / probability.shape[-2]
        parts.append(local.gradient_of(state.layers[-1], seen_neutral[-1], error))

        state = self._descended(state, np.concatenate(parts, axis=-1))
        if self.peer:
            state = replace(state, peers=np.concatenate(peers, axis=-1))
        if self.negatives == "hard":
            lead = (*probability.shape[:-2], sample.x.shape[-3], -1)
            state = replace(state, likely=probability.reshape(*lead, probability.shape[-1]))
        return state, {"cost": np.asarray(np.mean(costs, axis=0, dtype=np.float64))}

    def contrast(self, activation: str, positive: Array, negative: Array) -> tuple[Array, Array, Array]:
        """Cost of one layer, and its derivative with respect to the pre-activations.

        Args:
            activation: of the layer.
            positive: activities on positive samples, (..., s, n).
            negative: on negative ones.

        Returns:
            Mean cost (...,), and the derivatives (..., s, n) on positive and on negative samples.
        """
        samples, units = positive.shape[-2:]
        per = 1 if self.goodness == "sum" else units
        good, bad = (np.einsum("...n,...n->...", y, y)[..., None] / per for y in (positive, negative))
        if self.loss == "symba":
            cost = np.logaddexp(0, -self.alpha * (good - bad))
            push = pull = self.alpha * expit(-self.alpha * (good - bad))
        else:
            theta = self._theta(units)
            cost = np.logaddexp(0, theta - good) + np.logaddexp(0, bad - theta)
            push, pull = expit(theta - good), expit(bad - theta)
        slope = local.SLOPES[activation]
        weight = 2 / (samples * per)
        up = -weight * push * positive
        down = weight * pull * negative
        if activation != "relu":  # whose activity is zero where its slope is
            up, down = up * slope(positive), down * slope(negative)
        return cost.mean(axis=(-2, -1)), up.astype(positive.dtype, copy=False), down.astype(positive.dtype, copy=False)

    def gradient(self, state: State) -> Array | None:
        """The gradient of a global cost is never known: each layer has a cost of its own."""
        return None

    def queries(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """One pass with every label, or one with none."""
        if self.readout == "sweep":
            codes = np.eye(state.layers[-1].outputs[0])
            return tuple(Measure(contrast.coded(sample, code), observe=Can.ACTIVITY) for code in codes)
        return (Measure(self._neutral(sample), observe=Can.OUTPUT),)

    def predict(self, state: State, sample: Sample, readings: Sequence[Reading]) -> Array:
        """Mean goodness under every label, added over layers; or the read-out's output."""
        if self.readout == "softmax":
            output = readings[0].output
            assert output is not None
            return output[..., 0, :, :, :]
        scores = []
        for reading in readings:
            assert reading.activity is not None
            hidden = reading.activity[self.sweep_from - 1 : -1]
            scores.append(sum((layer[..., 0, :, :, :] ** 2).mean(axis=-1) for layer in hidden))
        return np.stack(scores, axis=-1)

    @property
    def _labelled(self) -> bool:
        return self.negatives in ("uniform", "hard")

    def _theta(self, units: int) -> float:
        return self.threshold * (units if self.goodness == "sum" else 1)

    def _neutral(self, sample: Sample) -> Sample:
        return contrast.coded(sample, contrast.NEUTRAL) if self._labelled else sample

    def _shown(self, state: State, sample: Sample) -> Contrast:
        """The versions of the sample that this update shows."""
        match self.negatives:
            case "hybrid":
                return contrast.hybrids(state.seed, state.step, sample)
            case "pair":
                return contrast.pairs(state.seed, state.step, sample)
            case "uniform":
                assert sample.target is not None
                return contrast.by_label(sample, contrast.wrong_labels(state.seed, state.step, sample.target))
        now, then = _halves(sample)
        assert now.target is not None
        likely = state.likely if state.likely.size else None
        shown = contrast.by_label(now, contrast.wrong_labels(state.seed, state.step, now.target, likely))
        return replace(shown, neutral=contrast.coded(then, contrast.NEUTRAL))

    def _peer(self, state: State, number: int, positive: Array) -> tuple[Array, Array]:
        """Running means of one layer, and the derivative of its peer cost with respect to its activities.

        The cost is peer * mean over units of (mean of all running means - own running mean)^2.
        """
        ends = np.cumsum([0, *local.widths(state.layers)[:-1]])
        before = state.peers[..., ends[number] : ends[number + 1]]
        mean = SMOOTHING * before + (1 - SMOOTHING) * positive.mean(axis=-2)
        samples, units = positive.shape[-2:]
        away = mean - mean.mean(axis=-1, keepdims=True)
        error = self.peer * 2 / units * (1 - SMOOTHING) / samples * away
        return mean, error[..., None, :]

    def _descended(self, state: State, gradient: Array) -> State:
        """All layers, or the one whose turn it is and the read-out."""
        scale = self.scale(state)
        if self.layer_updates is None:
            return state.descended(gradient, scale, self)
        parts = local.slices(state.layers)
        turn = min(state.step // self.layer_updates, len(parts) - 2)
        held = np.ones(scale.shape, bool)
        held[parts[turn]] = held[parts[-1]] = False
        after = state.descended(np.where(held, 0, gradient), np.where(held, 0, scale), self)
        moments = tuple(np.where(held, old, new) for old, new in zip(state.moments, after.moments, strict=True))
        return replace(after, moments=moments)

    def _block(self, state: State, sample: Sample) -> Learn:
        """The updates that the device runs next by itself."""
        assert sample.target is not None
        batch = sample.x.shape[-2] // self.block
        targets = np.split(sample.target, self.block, axis=-2)
        wrong = [contrast.wrong_labels(state.seed, state.step + k, target) for k, target in enumerate(targets)]
        rate = self.rate(state.step)
        width = local.widths(state.layers)[0]
        if self.loss == "threshold" and self.goodness == "sum" and len(set(local.widths(state.layers)[:-1])) > 1:
            raise ConfigError("algo.on_device: one threshold serves all layers, which must be equally wide.")
        return Learn(
            rule="forward_forward" if self.loss == "threshold" else "symba",
            sample=sample,
            batch=batch,
            rate=rate,
            readout_rate=rate if self.readout_eta is None else rate * self.readout_eta / self.eta,
            low=state.low,
            high=state.high,
            scale=self._theta(width) if self.loss == "threshold" else self.alpha,
            mean=self.goodness == "mean",
            wrong=np.concatenate(wrong, axis=-1).astype(np.uint8),
        )

    def _follow(self, state: State, reading: Reading) -> tuple[State, Mapping[str, Array]]:
        assert reading.theta is not None and reading.cost is not None
        after = replace(state, theta=returned(state.theta, reading.theta), step=state.step + self.block)
        return after, {"cost": np.asarray(np.mean(reading.cost, axis=-1, dtype=np.float64))}


def _halves(sample: Sample) -> tuple[Sample, Sample]:
    """Two samples that came joined along the batch axis."""
    assert sample.target is not None
    (x, then), (target, wanted) = (np.split(part, 2, axis=-2) for part in (sample.x, sample.target))
    return replace(sample, x=x, target=target), replace(sample, x=then, target=wanted)
