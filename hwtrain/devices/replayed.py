"""A board that was there once: a transcript from a bench answers in its place."""

from __future__ import annotations

from hwtrain.costs import Cost
from hwtrain.devices.board import Board
from hwtrain.devices.link import Link
from hwtrain.devices.spiking import Layered
from hwtrain.devices.wrappers import Replayed


class ReplayedBoard(Board):
    """Replays what `transcript` of another device kept; everything else must be as it was then.

    Args:
        transcript: the file.
        network: what the board computed.
        cost: what it minimised.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        watchdog: as it was [s].

    Raises:
        RecordError: the file cannot be read.
        ProtocolError: this run asks for something else than the recorded one did.
    """

    def __init__(
        self,
        transcript: str,
        network: Layered,
        cost: Cost,
        low: float | None = None,
        high: float | None = None,
        watchdog: float = 10.0,
    ) -> None:
        replay = Replayed(transcript)
        link = Link(replay, transcript, clock=replay.clock, sleep=replay.sleep)
        super().__init__(link, network, cost, low, high, watchdog)
