"""hwtrain trains hardware: analog chips, crossbars, photonic meshes, microcontrollers, and their simulation."""

__version__ = "0.1.0"
