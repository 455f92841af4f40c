"""The conformance kit: what every device, algorithm and perturbation must do, as pytest classes to inherit.

A new implementation, ours or not, inherits the class of its kind and says in fixtures what is to be checked:

    class TestMyChip(DeviceConformance):
        @pytest.fixture
        def device(self):
            chip = MyChip("/dev/ttyUSB0")
            yield chip
            chip.close()

Checks skip what a spec does not declare. A failure says in a sentence what is broken. The package needs pytest and is
never imported at run time.

devices.py has the fixtures of a device and the checks of all that it does, device_spec.py those of what it declares,
device_probes.py and device_learning.py those of what it may offer; bench.py is what they do to it. algorithms.py checks
algorithms, with rig.py, which trains, and wrapped.py, devices that spoil or record what passes. perturbations.py checks
perturbations. samples.py makes what is shown, readings.py names what is read, values.py compares and complains.
"""

from hwtrain.conformance.algorithms import AlgorithmConformance, Goal
from hwtrain.conformance.devices import DeviceConformance
from hwtrain.conformance.perturbations import PerturbationConformance

__all__ = ["AlgorithmConformance", "DeviceConformance", "Goal", "PerturbationConformance"]
