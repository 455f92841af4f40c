"""Bytes to frames and back."""

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrain.devices.frames import HEADER, Decoder, Frame, decode, encode, stuff, unstuff
from hwtrain.errors import ProtocolError

GOLDEN = json.loads((Path(__file__).parents[1] / "firmware" / "golden" / "frames.json").read_text())
PAYLOADS = st.one_of(st.binary(max_size=600), st.lists(st.sampled_from([0, 1, 255]), max_size=600).map(bytes))
FRAMES = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1), PAYLOADS
)


class TestCobs:
    @pytest.mark.parametrize(
        ("raw", "stuffed"),
        [
            (b"", b"\x01"),
            (b"\0", b"\x01\x01"),
            (b"\x11\0\x22", b"\x02\x11\x02\x22"),
            (b"\x11\0", b"\x02\x11\x01"),
            (bytes([7] * 254), b"\xff" + bytes([7] * 254)),
            (bytes([7] * 254) + b"\0", b"\xff" + bytes([7] * 254) + b"\x01\x01"),
            (bytes([7] * 255), b"\xff" + bytes([7] * 254) + b"\x02\x07"),
        ],
        ids=["empty", "zero", "middle", "end", "254", "254 and zero", "255"],
    )
    def test_examples(self, raw, stuffed):
        assert stuff(raw) == stuffed
        assert unstuff(stuffed) == raw

    @given(st.binary(max_size=1200))
    def test_round_trip(self, raw):
        stuffed = stuff(raw)
        assert 0 not in stuffed
        assert len(stuffed) <= len(raw) + len(raw) // 254 + 1
        assert unstuff(stuffed) == raw

    @pytest.mark.parametrize(
        "stuffed", [b"\x05\x01", b"\x03\x01\0\x01", b"\0"], ids=["cut", "zero inside", "zero length"]
    )
    def test_what_is_not_cobs_is_refused(self, stuffed):
        with pytest.raises(ProtocolError, match="cut short"):
            unstuff(stuffed)


class TestFrame:
    @pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["message"])
    def test_golden(self, case):
        body, wire = bytes.fromhex(case["body"]), bytes.fromhex(case["wire"])
        frame = Frame(*HEADER.unpack(body[:8]), body[8:])
        assert encode(frame) == wire
        assert decode(wire[:-1]) == frame

    @given(FRAMES)
    def test_round_trip(self, frame):
        wire = encode(frame)
        assert wire.index(0) == len(wire) - 1
        assert decode(wire[:-1]) == frame

    def test_short_frame(self):
        with pytest.raises(ProtocolError, match="at least 12 bytes, this one 4"):
            decode(stuff(bytes(4)))

    def test_wrong_crc(self):
        body = HEADER.pack(1, 2, 3, 4)
        with pytest.raises(ProtocolError, match="CRC"):
            decode(stuff(body + (zlib.crc32(body) ^ 1).to_bytes(4, "little")))


class TestDecoder:
    @given(st.lists(FRAMES, max_size=4), st.lists(st.integers(1, 40), min_size=1))
    def test_however_the_stream_is_cut(self, frames, cuts):
        wire, decoder, found, at = b"".join(map(encode, frames)), Decoder(), [], 0
        while at < len(wire):
            for cut in cuts:
                found += decoder.feed(wire[at : at + cut])
                at += cut
        assert found == frames
        assert decoder.damaged == 0

    @given(FRAMES, st.binary(max_size=300))
    def test_noise_before_a_frame_does_not_hide_it(self, frame, noise):
        assert Decoder().feed(noise + b"\0" + encode(frame))[-1] == frame

    @given(FRAMES, st.data())
    def test_a_flipped_bit_never_passes(self, frame, data):
        wire = bytearray(encode(frame))
        wire[data.draw(st.integers(0, len(wire) - 2))] ^= 1 << data.draw(st.integers(0, 7))
        decoder = Decoder()
        assert decoder.feed(bytes(wire)) == []
        assert decoder.damaged > 0

    def test_endless_noise_is_not_kept(self):
        decoder, frame = Decoder(longest=100), Frame(1, 2, 3, 4)
        for _ in range(50):
            assert decoder.feed(b"\x07" * 70) == []
        assert decoder.damaged == 1
        assert decoder.feed(b"\0" + encode(frame)) == [frame]
