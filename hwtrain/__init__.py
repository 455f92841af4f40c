"""hwtrain trains hardware: an analog chip, a memristor crossbar, a photonic mesh, a microcontroller, or its simulation."""

__version__ = "0.1.0"
