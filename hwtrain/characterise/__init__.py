"""Know a device before it is trained: `python -m hwtrain.characterise device=...`

bench.py asks with care, record.py keeps what was read, experiments.py says what is asked. estimates.py knows how sure a
number is; chip.py is one device as it was measured, and findings.py what it is like, put together from steadiness.py
(noise, drift, writing), parameters.py, response.py (resolution, range, probes) and neurons.py. recommend.py chooses
settings to train with, twin.py writes them and the preset of a simulated twin, report.py draws; gap.py compares a
device with its twin; settings.py and __main__.py are the command.
"""
