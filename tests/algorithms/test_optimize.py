"""Steps of the optimizers keep the limits, in both precisions."""

import numpy as np
import pytest

from hwtrain.core import Can, DeviceSpec, Program
from hwtrain.errors import LimitError
from hwtrain.limits import check
from hwtrain.optimize import moved

LOW, HIGH = -0.8276, 1.1724  # neither is a float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_are_kept_in_the_precision_of_the_parameters(dtype):
    spec = DeviceSpec("chip", 1, 1, 3, Can.COST, LOW, HIGH)
    theta = moved(np.array([0.0, 1.0, -0.5], dtype), np.array([0.1, -1.0, 1.0], dtype), LOW, HIGH).astype(dtype)
    check(spec, [Program(theta)])
    assert theta == pytest.approx([-0.1, HIGH, LOW], rel=1e-6)


def test_a_single_precision_value_just_outside_is_named():
    spec = DeviceSpec("chip", 1, 1, 2, Can.COST, LOW, HIGH)
    with pytest.raises(LimitError, match=r"parameter \(1,\) would be 1.1724"):
        check(spec, [Program(np.array([0, np.nextafter(np.float32(HIGH), np.float32(2))], np.float32))])


def test_what_overflows_stays_where_it_was():
    theta = moved(np.array([1.0, 2.0]), np.array([np.inf, 0.5]), -np.inf, np.inf)
    assert theta.tolist() == [1.0, 1.5]
