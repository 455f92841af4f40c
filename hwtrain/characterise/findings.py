"""What the readings of one device say: each trait with its interval, and one sentence."""

from __future__ import annotations

from hwtrain.characterise.chip import Chip, Finding
from hwtrain.characterise.neurons import activities
from hwtrain.characterise.parameters import parameters
from hwtrain.characterise.pulsing import pulsing
from hwtrain.characterise.recommend import ratio
from hwtrain.characterise.response import probing, resolution, response
from hwtrain.characterise.steadiness import noise, writing


def conclude(chip: Chip) -> dict[str, Finding]:
    """All findings that the readings allow, by name."""
    found: dict[str, Finding] = {}
    for trait in (noise, writing, parameters, resolution, activities, response, probing, ratio, pulsing):
        found |= {finding.name: finding for finding in trait(chip, found)}
    return found
