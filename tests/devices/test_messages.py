"""What frames mean."""

import struct

import numpy as np
import pytest

from hwtrain.devices import messages
from hwtrain.devices.frames import Frame
from hwtrain.devices.messages import (
    Activation,
    Adopt,
    Bias,
    Code,
    Cost,
    DenseLayer,
    Kind,
    Network,
    Observe,
    Pattern,
    Probe,
    Status,
)
from hwtrain.errors import FirmwareError, ProtocolError

XOR = Network(2, (DenseLayer(2), DenseLayer(1, Activation.TANH, Bias.SUBTRACT)), Cost.CROSS_ENTROPY, -2, 2)


def test_network_round_trip():
    assert Network.unpack(XOR.pack()) == XOR
    assert XOR.size == 9


def test_bias_and_normalisation_share_a_byte():
    forms = {}
    for bias in Bias:
        for normalise in messages.Normalise:
            layer = DenseLayer(3, bias=bias, normalise=normalise)
            forms[layer.form] = network = Network(2, (layer,))
            assert Network.unpack(network.pack()) == network
    assert sorted(forms) == [0, 1, 2, 3, 4, 5]
    spoilt = forms[5].pack()[:-1] + b"\6"
    with pytest.raises(ProtocolError, match="Normalise"):
        Network.unpack(spoilt)


def test_class_matrices_are_those_of_all_hidden_layers_but_the_last():
    assert XOR.classes_size == 0
    assert Network(9, tuple(DenseLayer(width) for width in (7, 6, 5, 3))).classes_size == 3 * (7 + 6)


def test_identity():
    head = struct.pack("<4BIHHHHIIIHBBIB", 1, 0, 1, 0, 77, 5, 1024, 512, 255, 127, 220, 53, 16, 4, 2, 1000, 4)
    identity = messages.Identity.unpack(head + b"uno!" + XOR.pack())
    assert (identity.name, identity.boot, identity.window, identity.network) == ("uno!", 77, 2, XOR)
    assert identity.can & messages.Capability.TRAIN
    nothing = struct.pack("<BBHff", 0, 0, 0, 0, 0)
    assert messages.Identity.unpack(head + b"uno!" + nothing).network is None


def test_probe_replies():
    values = np.arange(2 + 2 * 3 * 4, dtype="<f4")
    costs, seen = Probe(0, 3, True, 1, observe=Observe.COST | Observe.ACTIVITY).unpack(
        values.tobytes(), outputs=1, nodes=4
    )
    assert costs.tolist() == [0, 1]
    assert seen.shape == (2, 3, 4)
    costs, seen = Probe(0, observe=Observe.OUTPUT).unpack(values[:1].tobytes(), outputs=1, nodes=4)
    assert costs is None
    assert seen.shape == (1, 1, 1)


def test_what_a_step_sends_does_not_grow_with_parameters():
    code = Code(7, 0.01, Pattern.WALSH, antithetic=True)
    assert code.kind == 0x81
    assert len(Probe(0, count=100, code=code).pack()) == 24
    assert len(messages.Update(code, 0, 1.0, np.zeros(3, np.float32)).pack()) == 24 + 3 * 4
    assert len(messages.Train(code, 0, 5, [0] * 5, 1.0).pack()) == 36 + 5 * 2
    assert len(messages.Learn(messages.Rule.SYMBA, 2, [0] * 5, 1.0, 1.0, wrong=bytes(10)).pack()) == 28 + 5 * 2 + 10


def test_replies():
    request = messages.to_frame(messages.Digest(), 65536 + 9, 3)
    assert request.sequence == 9
    reply = Frame(1, Kind.DIGEST | messages.REPLY, 9, 3, b"\0" + struct.pack("<II", 9, 1))
    assert messages.Digest.unpack(messages.payload_of(reply, request)) == (9, 1)
    with pytest.raises(ProtocolError, match=r"reply to DIGEST \(frame 9\)"):
        messages.payload_of(Frame(1, Kind.READ | messages.REPLY, 9, 3, b"\0"), request)
    with pytest.raises(ProtocolError):
        messages.payload_of(Frame(1, Kind.DIGEST | messages.REPLY, 8, 3, b"\0"), request)


@pytest.mark.parametrize("status", [each for each in Status if each])
def test_every_refusal_has_a_sentence(status):
    request = messages.to_frame(Adopt(0, 1))
    reply = Frame(1, Kind.ADOPT | messages.REPLY, 0, 0, struct.pack("<BI", status, 17))
    with pytest.raises(FirmwareError, match=rf"^ADOPT: .*\(firmware error {int(status)}\)") as refused:
        messages.payload_of(reply, request)
    assert refused.value.code == status


def test_a_refusal_unknown_here():
    request = messages.to_frame(Adopt(0, 1))
    with pytest.raises(FirmwareError, match="unknown here"):
        messages.payload_of(Frame(1, Kind.ADOPT | messages.REPLY, 0, 0, b"\xc8\0\0\0\0"), request)
