"""Instruments as tables of facts, and a conversation with one in which no answer is taken for another's.

SCPI numbers nothing: an answer that comes late is taken for that of the next question, and so are all that follow. But
IEEE 488.2 gives every instrument a register that does nothing by itself, *ESE. Each message ends with

    *ESR?;*ESE?;*ESE 38;*ESE?        answered   0;37;38

so an answer names its question (38), a restart shows (the register is 0 again, not the 37 of the message before), and
an error that the instrument noted shows at once (*ESR?). What was not answered so is asked again: settings are
absolute and readings change nothing, so saying a message twice does what saying it once does.

*ESR? tells a thing once, and the next message hides that the register was 0. So where an answer was lost, the message
is said again with a question for a second register, *SRE, which was set when the conversation began and which a restart
clears.

On a line that garbles bytes this is not enough: a value may have changed under way. An instrument that knows checksums
(`Instrument.check`) carries out what came as it was sent, and nothing else, and its answers carry theirs.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hwtrain import checks
from hwtrain.devices.link import PortLost
from hwtrain.devices.visa import Address, Wire
from hwtrain.errors import ConfigError, ConnectError, DeviceError, LimitError, ProtocolError, ReplyTimeout

_Result = TypeVar("_Result")
ERRORS = 0b00111100  # of *ESR?: query, device, execution and command error (IEEE 488.2, 11.5.1)
_SMALL = re.compile(r"\+?\d{1,3}")
POWER_ON = 0b10000000
ATTEMPTS = 20  # at one piece of work, between which the instrument restarts or is lost
OLD_ERRORS = 64  # asked for at most
BACK_OFF = 0.5  # longest pause between attempts to connect again [s]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What an instrument understands; facts, no code. Commands name {channel}, {value} and {tag} where these belong.

    Args:
        name: of the instrument, for messages.
        setup: said once after connecting and before anything is driven: compliance first, then ranges.
        set: brings a channel to a value [V].
        enable: connects a channel's output, said at 0 V; "" where outputs are always connected.
        disable: disconnects it, said at 0 V; "".
        read: asks for a reading of a channel.
        again: asks for the last reading once more, to tell a garbled answer; "" where there is no such command.
        low: lowest value that the instrument itself can be set to [V].
        high: the highest.
        decimals: digits behind the point of a value that is sent.
        identify: asks who it is; "" where it cannot say.
        answers_to: what the answer must contain.
        tag: makes answers carry the number of their question, see the module; "" where nothing of the kind exists.
        tagged: what the answers to `tag` are, in order: esr, before, tag.
        check: ends a message that is carried out only where {crc} is the CRC-32, zlib's, of all before it; "" where
            nothing of the kind exists. Its own separator stands in it.
        checked: is the last answer to such a message, likewise.
        mark: sets to 1 what stays until a restart clears it, and what nothing else uses; "" where there is none.
        marked: asks for it.
        error: asks for the oldest error; "" where it cannot say.
        fine: what the answer begins with where there is none.
        separator: between the commands of a message.
        answer_separator: between the answers to a message.
        terminator: what ends a message.
        longest: characters of a message at most.
        pause: silence after which it forgets a message that was cut short within a block [s]; 0 where it never does.
        settle: time from a setting until readings follow it [s].
        baudrate: of a serial line [bits per second].
        parity: of a serial line: none, even or odd.
    """

    name: str
    set: str
    read: str
    low: float
    high: float
    setup: tuple[str, ...] | list[str] = ()
    enable: str = ""
    disable: str = ""
    again: str = ""
    decimals: int = 6
    identify: str = "*IDN?"
    answers_to: str = ""
    tag: str = "*ESR?;*ESE?;*ESE {tag};*ESE?"
    tagged: tuple[str, ...] | list[str] = ("esr", "before", "tag")
    check: str = ""
    checked: str = ""
    mark: str = "*SRE 1"
    marked: str = "*SRE?"
    error: str = ":SYST:ERR?"
    fine: str = "0"
    separator: str = ";"
    answer_separator: str = ";"
    terminator: str = "\n"
    longest: int = 1024
    pause: float = 0.0
    settle: float = 0.0
    baudrate: int = 9600
    parity: str = "none"

    def __post_init__(self) -> None:
        for name in ("name", "separator", "answer_separator"):
            checks.text(f"device.instrument.{name}", getattr(self, name))
        for name in ("low", "high"):
            checks.number(f"device.instrument.{name}", getattr(self, name), why="volts")
        checks.whole("device.instrument.decimals", self.decimals, 0, 9)
        checks.whole("device.instrument.longest", self.longest, low=64, why="characters")
        for name in ("pause", "settle"):
            checks.number(f"device.instrument.{name}", getattr(self, name), low=0, why="seconds")
        if not self.low <= 0 <= self.high:
            raise ConfigError(
                f"device.instrument: low ({self.low:g}) to high ({self.high:g}) must include 0 V, where outputs rest"
            )
        for known in self.tagged:
            checks.one_of("device.instrument.tagged", known, ("esr", "before", "tag"))
        if self.tag and "tag" not in self.tagged:
            raise ConfigError("device.instrument.tagged must name `tag`, the answer that shows which question it is to")
        if bool(self.check) != bool(self.checked):
            raise ConfigError("device.instrument: check and checked go together; set both, or none")
        named = {"set": {"channel", "value"}, "read": {"channel"}, "tag": {"tag"}, "check": {"crc"}, "checked": {"crc"}}
        for key, names in named.items():
            used = set(re.findall(r"\{(\w*)[^}]*\}", getattr(self, key)))
            if used - names or (key == "set" and self.set and "value" not in used):
                raise ConfigError(
                    f"device.instrument.{key}: {getattr(self, key)!r} may name {sorted(names)}, "
                    f"and names {sorted(used)}"
                )

    def message(self, units: Sequence[str]) -> bytes:
        """Commands as they are sent, with their checksum where there is one."""
        data = self.separator.join(units).encode("latin-1")
        return data + (self.check.format(crc=zlib.crc32(data)) + self.terminator).encode()

    def address(self, resource: str, backend: str, connect: float = 5.0) -> Address:
        """Where such an instrument is."""
        return Address(resource, backend, self.terminator, self.baudrate, self.parity, connect)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may ever be put on the wire: ours, and tighter than the instrument's.

    Args:
        low: lowest value of a channel [V].
        high: highest value of a channel [V].
    """

    low: float
    high: float

    def text(self, channel: object, value: float, decimals: int) -> str:
        """A value as it is written, judged as written.

        Never with an exponent: of a message that is cut, less than the value may arrive, but not more.

        Raises:
            LimitError: it is out of the limits, or no number.
        """
        written = f"{value:.{decimals}f}"
        if not (math.isfinite(value) and self.low <= float(written) <= self.high):
            raise LimitError(
                f"channel {channel} would be set to {value:g} V; its limits are {self.low:g} to {self.high:g} V. "
                "Nothing was sent."
            )
        return written if float(written) else f"{0:.{decimals}f}"


class Restarted(DeviceError):
    """The instrument has lost its settings, or may have; what it was told must be told again."""


@dataclass(slots=True)
class Talk:
    """A conversation with one instrument, over as many connections as it takes.

    Args:
        instrument: its facts.
        address: where it is.
        timeout: silence after which a message is said again [s].
        patience: how long it may be silent or away before the run fails [s]; work is allowed for beside.
        connect: opens the wire.

    Attributes:
        traffic: messages and bytes, by name.
        disturbances: what was survived, by name.
    """

    instrument: Instrument
    address: Address
    timeout: float = 1.0
    patience: float = 10.0
    connect: Callable[[Address], Wire] = Wire
    traffic: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    _wire: Wire | None = None
    _tag: int = 0
    _cut: bool = False  # may a block of the last message have been cut short?
    _heard: int = 0  # tag of the message whose answer was judged last
    _marks: set[int] = field(default_factory=set)  # tags of messages that have set the mark
    _marked: bool = False
    _doubt: bool = False  # have answers been lost that may have told of a restart?
    _said: set[int] = field(default_factory=lambda: set(range(256)))  # tags that the register may hold
    _turn: threading.RLock = field(default_factory=threading.RLock)  # one thread at a time: answers name no asker

    def open(self) -> str:
        """Connect, and ask who is there; "" where it cannot say.

        Raises:
            ConnectError: nobody answers, or another instrument.
        """
        facts = self.instrument
        self._wire = self.connect(self.address)
        try:
            try:
                self.synchronise(time.monotonic() + self.patience)
            except PortLost as error:
                with contextlib.suppress(Restarted):
                    self._again(error)
            self.errors()  # those that were there before are no business of ours
            if not facts.identify:
                return ""
            (name,) = self.steadily(lambda: self.ask([facts.identify], 1))
        except ReplyTimeout as error:
            checks_too = ", and does it know checksums (device.instrument.check)" if facts.check else ""
            raise ConnectError(
                f"{self.address.resource} is silent. Is it a {facts.name}, and are its terminator and line settings "
                f"those of device.instrument{checks_too}? ({error})"
            ) from error
        if facts.answers_to not in name:
            raise ConnectError(
                f"{self.address.resource} says it is {name!r}; {facts.name} would say {facts.answers_to!r}. Choose "
                "another device/instrument, or set device.instrument.answers_to."
            )
        return name

    def ask(
        self,
        units: Sequence[str],
        answers: int,
        sense: Callable[[list[str]], bool] = lambda answers: True,
        block: bool = False,
        allow: float = 0.0,
    ) -> list[str]:
        """Say a message, as often as it takes; its answers.

        Args:
            units: commands, all of which do the same when they are carried out twice.
            answers: how many of them answer.
            sense: can these be the answers? Where not, they were garbled.
            block: is the first answer a definite block? Its bytes come as text, one character each.
            allow: how long the work may take beside [s].

        Raises:
            Restarted: the instrument has restarted, or the connection was lost and made again.
            DeviceError: it refuses a command.
            ReplyTimeout: silence for longer than patience allows.
            ConnectError: it went away and did not come back.
        """
        deadline = time.monotonic() + self.patience + ATTEMPTS * allow
        while True:
            try:
                with self._turn:
                    wire = self._open_wire()
                    check = [self.instrument.marked] if self._doubt else []
                    said = self._say(wire, [*units, *check])
                    until = time.monotonic() + self.timeout + allow
                    got = self._hear(wire, said, answers + len(check), block, until)
                    if got is not None and check:
                        got = self._checked(got)
                    if got is not None and not self._doubt and sense(got):
                        return got
                    self.disturbances["repeated"] += 1
                    if time.monotonic() > deadline:
                        raise ReplyTimeout(
                            f"{self.address.resource}: no answer to {' '.join(units[:1])!r} that makes sense "
                            f"within {self.patience:g} s, though it was repeated. So far: {dict(self.disturbances)}"
                        )
                    self.synchronise(time.monotonic() + self.patience)
            except PortLost as error:
                self._again(error)

    def steadily(self, work: Callable[[], _Result]) -> _Result:
        """Work that needs no settings, again after each restart or lost connection.

        Raises:
            ConnectError: there are too many of them.
        """
        for _ in range(ATTEMPTS):
            with contextlib.suppress(Restarted):
                return work()
        raise ConnectError(
            f"{self.address.resource} restarts or goes away again and again ({ATTEMPTS} times in one piece of work). "
            f"Is its supply strong enough? So far: {dict(self.disturbances)}"
        )

    def tell(self, units: Sequence[str]) -> None:
        """Say commands that do not answer, and see that they arrived; as long as they fit, in one message."""
        for message in self.messages(units):
            self.ask(message, 0)

    def messages(self, units: Sequence[str]) -> list[list[str]]:
        """Commands as messages that are not too long."""
        facts = self.instrument
        room = facts.longest - len(facts.tag) - len(facts.mark) - len(facts.check) - 16
        parts: list[list[str]] = [[]]
        length = 0
        for unit in units:
            if parts[-1] and length + len(unit) + 2 > room:
                parts.append([])
                length = 0
            parts[-1].append(unit)
            length += len(unit) + 2
        return parts if parts[0] else []

    def synchronise(self, until: float) -> None:
        """Bring questions and answers in step: drop all that comes, until the answer to a question just asked.

        Raises:
            Restarted: the instrument has restarted meanwhile.
            ReplyTimeout: it stays silent.
        """
        wire = self._open_wire()
        facts, wait = self.instrument, self.timeout
        if self._cut:  # what is said now would be taken for the rest of it
            time.sleep(facts.pause)
            self._cut = False
        while True:
            self.disturbances["stale"] += wire.drop() > 0
            if not facts.tag:
                return
            said = self._say(wire, [])
            if self._hear(wire, said, 0, False, time.monotonic() + wait, skip=True) is not None:
                return
            if time.monotonic() > until:
                raise ReplyTimeout(
                    f"{self.address.resource}: no answer to {facts.tag.format(tag=said)!r} within {self.patience:g} s. "
                    f"So far: {dict(self.disturbances)}"
                )
            wait = min(2 * wait, max(self.timeout, until - time.monotonic()))

    def close(self) -> None:
        """Let go of the wire; may be called twice."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def errors(self) -> list[str]:
        """Those that the instrument has noted, oldest first; it forgets them."""
        facts = self.instrument
        found: list[str] = []
        for _ in range(OLD_ERRORS if facts.error else 0):
            (error,) = self.steadily(lambda: self.ask([facts.error], 1))
            if error.lstrip("+").startswith(facts.fine):
                break
            found.append(error)
        return found

    def _open_wire(self) -> Wire:
        if self._wire is None:
            raise PortLost("the wire is closed")
        return self._wire

    def _say(self, wire: Wire, units: Sequence[str]) -> int:
        """Send a message, with a tag never used in the last 254."""
        facts = self.instrument
        self._tag = self._tag % 255 + 1
        tag = [facts.tag.format(tag=self._tag)] if facts.tag else []
        mark = [facts.mark] if facts.tag and facts.mark and not self._marked else []
        if mark:
            self._marks.add(self._tag)
        data = facts.message([*mark, *units, *tag])
        self._said.add(self._tag)
        self._cut = any("#" in unit for unit in units)
        for part in data.splitlines(keepends=True) if facts.separator == "\n" else [data]:
            wire.write(part)  # each a message of its own, where the line knows where one ends
        self.traffic["messages"] += 1
        self.traffic["bytes sent"] += len(data)
        return self._tag

    def _hear(
        self, wire: Wire, said: int, answers: int, block: bool, until: float, *, skip: bool = False
    ) -> list[str] | None:
        """The answers to the message with tag `said`; None where they do not come, or are another's or garbled.

        Args:
            skip: read on where they are another's, rather than ask again.
        """
        facts = self.instrument
        tags = facts.tagged if facts.tag else ()
        if not answers + len(tags):
            return []
        while True:
            got = self._answers(wire, answers + len(tags), block, until)
            if got is None:
                self.disturbances["late"] += 1
                return None
            found = min(len(got) - len(tags), answers)  # a question that is refused has no answer
            tail = dict(zip(tags, got[max(found, 0) :], strict=False))
            whole = len(got) == found + len(tags) and (found == answers or (found >= 0 and bool(tail)))
            whole = whole and all(map(_SMALL.fullmatch, tail.values()))
            if whole and (not tail or int(tail["tag"]) == said) and self._judge(tail, said, skip) and found == answers:
                return got[:answers]
            self.disturbances["stale or garbled"] += 1
            if not skip:
                return None

    def _answers(self, wire: Wire, wanted: int, block: bool, until: float) -> list[str] | None:
        """One message's answers, cut apart; None after silence, and nothing where they are not what was sent."""
        facts = self.instrument
        first: list[str] = []
        ahead = begun = b""
        if block:
            head = wire.exactly(2, max(until - time.monotonic(), 0.0))
            if head is None:
                return None
            if head[:1] == b"#" and not (facts.checked and head == b"#0"):
                data = _block(wire, head, until)
                if data is None:
                    return None
                ahead = head + data
                first, wanted = [data[int(head[1:]) :].decode("latin-1")], wanted - 1
            else:
                begun = head  # of the next answer: the question was refused
        lines = 1 if facts.answer_separator not in "\r\n" else wanted
        parts: list[str] = []
        for _ in range(lines):
            line = wire.line(max(until - time.monotonic(), 0.0))
            if line is None:
                return None
            self.traffic["bytes received"] += len(line) + 1
            line, begun = begun + line, b""
            if facts.checked:
                answer, _, check = (ahead + line).rpartition(facts.answer_separator.encode())
                if check != facts.checked.format(crc=zlib.crc32(answer)).encode():
                    return []
                line = answer[len(ahead) :]
            text = line.decode("latin-1")
            parts += [part.strip() for part in (_cut(text, facts.answer_separator) if lines == 1 else [text])]
        if first:
            parts = parts[1:] if parts and not parts[0] else parts
        return first + parts

    def _judge(self, tail: Mapping[str, str], said: int, again: bool) -> bool:
        """Can the answers to the tag be? And what they say beside: a restart, or an error since the message before.

        Args:
            again: is the message before to be said again? Where it carried a checksum, it was refused because that was
                garbled, or will be refused again.

        Raises:
            Restarted: the instrument has been off.
            DeviceError: it notes an error.
        """
        before, status = int(tail.get("before", said)), int(tail.get("esr", 0))
        known = self._said
        if before not in known and before:
            return False
        begun = len(known) < 256
        self._doubt |= begun and before != self._heard and self._marked
        self._said, self._heard, self._marked = {said}, said, self._marked or said in self._marks
        if before not in known or (status & POWER_ON and begun):
            raise self._restarted()
        if status & ERRORS and self.instrument.error and begun:
            repeated = self.disturbances["repeated"]
            (error,) = self.ask([self.instrument.error], 1)
            if error.lstrip("+").startswith(self.instrument.fine):
                return self.disturbances["repeated"] == repeated  # or a lost answer told the error
            if not (again and self.instrument.check):
                raise DeviceError(f"{self.address.resource} refuses a command of {self.instrument.name!r}: {error}")
            self._clear()
        return True

    def _clear(self) -> None:
        """Forget what errors are noted."""
        for _ in range(OLD_ERRORS):
            if self.ask([self.instrument.error], 1)[0].lstrip("+").startswith(self.instrument.fine):
                return

    def _checked(self, got: list[str]) -> list[str] | None:
        """The answers but for the last, which says whether the mark is there; None where that is garbled.

        Raises:
            Restarted: it is not.
        """
        *rest, mark = got
        if mark.lstrip("+") not in ("0", "1"):
            return None
        if mark.lstrip("+") == "0":
            raise self._restarted()
        self._doubt = False
        return rest

    def _unmark(self) -> None:
        self._marked = self._doubt = False
        self._marks.clear()

    def _restarted(self) -> Restarted:
        """That it has; what it was told before is gone, the mark too."""
        self.disturbances["restarts"] += 1
        self._unmark()
        return Restarted(f"{self.address.resource}: the instrument has restarted")

    def _again(self, why: PortLost) -> None:
        """Connect again, and say so.

        Raises:
            Restarted: always, where it succeeds: nobody knows what became of the instrument meanwhile.
            ConnectError: it does not come back.
        """
        self.close()
        self.disturbances["lost connections"] += 1
        since, pause, attempts = time.monotonic(), 0.01, 0
        while True:
            time.sleep(pause)
            pause, attempts = min(2 * pause, BACK_OFF), attempts + 1
            try:
                self._wire = self.connect(self.address)
                self._said = set(range(256))  # it may have gone through any of them
                self._unmark()
                self.synchronise(time.monotonic() + self.patience)
            except (PortLost, ConnectError) as error:
                self.close()
                if time.monotonic() - since > self.patience:
                    raise ConnectError(
                        f"{self.address.resource} went away ({why}) and did not come back within {self.patience:g} s "
                        f"({attempts} attempts). The last: {error}"
                    ) from error
                continue
            raise Restarted(f"{self.address.resource}: the connection was lost ({why}) and made again")


def _cut(text: str, separator: str) -> list[str]:
    """A line cut at its separators, but not within quotes."""
    parts = [""]
    for number, quoted in enumerate(text.split('"')):
        if number % 2:
            parts[-1] += f'"{quoted}"'
        else:
            first, *rest = quoted.split(separator)
            parts[-1] += first
            parts += rest
    return parts


def _block(wire: Wire, head: bytes, until: float) -> bytes | None:
    """What is behind the first two bytes of a definite block, length and data; None where it does not come.

    Raises:
        ProtocolError: an indefinite block, which ends nowhere on a stream; or no block.
    """

    def take(count: int) -> bytes | None:
        return wire.exactly(count, max(until - time.monotonic(), 0.0))

    if not head[1:].isdigit():
        return None
    if head[1:] == b"0":
        raise ProtocolError("an indefinite block (#0) came, of which nobody knows the end; use definite blocks")
    length = take(int(head[1:]))
    if length is None or not length.isdigit():
        return None
    data = take(int(length))
    return None if data is None else length + data
