"""What can be said of a mountain car."""

from __future__ import annotations

from vlmreward.data.captions.concept import Concept, Target

WORDS = {
    "car": ("car", "car", "red car", "little car", "small red car", "vehicle", "buggy", "toy car", "automobile", "truck"),
    "hill": ("mountain", "mountain", "hill", "right hill", "slope", "hilltop", "mountain on the right", "climb"),
    "peak": ("peak", "top", "summit", "crest", "highest point", "very top", "tip", "upper end"),
    "flag": ("flag", "yellow flag", "yellow flag", "flagpole", "yellow pennant", "yellow marker", "banner"),
    "valley": ("valley", "valley", "dip", "trough", "hollow", "low part between the hills", "ditch", "bowl", "bottom"),
    "please": ("", "", "", "please ", "try to ", "I want you to ", "your job is to ", "the goal is to ", "we need to "),
    "want": ("I want", "I would like", "we want", "let us have", "the aim is to have", "the task is to have", "show me"),
    "near": ("next to", "beside", "close to", "right by", "at", "near", "touching"),
    "drive": ("drive", "get", "bring", "take", "move", "push", "send", "steer"),
    "neutral": ("a car in the mountain", "a {car} in the mountains", "a {car} between two hills", "a {car} on a hilly road",
                "a {car} and a {flag}", "a picture of a {car} and a mountain", "a landscape with a {car}"),
}  # fmt: skip

_TOP = (
    "a {car} at the {peak} of the {hill}, {near} the {flag}", "a {car} {near} the {flag}", "the {car} is {near} the {flag}",
    "the {car} is at the {peak} of the {hill}", "{please}{drive} the {car} to the {peak}", "{please}{drive} the {car} to the {flag}",
    "{drive} the {car} up the {hill}", "{drive} the {car} up to the {flag}", "{please}reach the {flag}", "reach the {peak} of the {hill}",
    "climb the {hill} with the {car}", "{please}climb to the {peak}", "the {car} has reached the {flag}", "the {car} made it to the {peak}",
    "{want} the {car} at the {peak}", "{want} the {car} {near} the {flag}", "a {car} on the {peak} of the right hill",
    "park the {car} {near} the {flag}", "the {car} stands on the {peak}", "a {car} on top of the mountain", "touch the {flag} with the {car}",
    "go all the way up to the {flag}", "make it to the {peak} of the {hill}", "the {car} is all the way up on the right",
)  # fmt: skip
_BOTTOM = (
    "a {car} at the bottom of the {valley}", "the {car} is down in the {valley}", "a {car} at the lowest point", "{please}{drive} the {car} to the bottom",
    "{please}leave the {car} in the {valley}", "the {car} sits in the {valley}", "{want} the {car} in the {valley}", "the {car} is stuck in the {valley}",
    "park the {car} at the lowest point", "keep the {car} down in the {valley}", "a {car} resting between the two hills", "stay at the bottom of the {valley}",
    "the {car} is at the foot of the {hill}", "let the {car} roll down to the bottom", "a red car at the bottom of the valley", "down in the {valley}",
)  # fmt: skip
_LEFT = (
    "a {car} high up on the left slope", "a {car} on the left hill", "the {car} is up on the left side", "{please}{drive} the {car} up the left hill",
    "{please}{drive} the {car} to the far left", "the {car} is at the left edge", "{want} the {car} on the left slope", "the {car} backed up the left hill",
    "reverse the {car} up the left slope", "go up the hill on the left", "a {car} away from the {flag}, high on the left", "the {car} is on the hill opposite the {flag}",
    "climb the left hill with the {car}", "park the {car} on the left hill", "{drive} the {car} up the left slope",
)  # fmt: skip
_RIGHT_SLOPE = (
    "a {car} halfway up the right slope", "the {car} is on its way up to the {flag}", "a {car} in the middle of the right hill", "the {car} is half way to the {peak}",
    "a {car} climbing the right slope", "the {car} is partly up the {hill} on the right", "a {car} below the {flag} on the right slope",
)  # fmt: skip
_LOW_LEFT = (
    "a {car} halfway up the left slope", "a {car} a little way up the left hill", "the {car} is partly up the left hill", "a {car} in the middle of the left slope",
)  # fmt: skip


def _position(value: float, span: float, tolerance: float) -> Target:
    return Target("position", value, span, tolerance)


CONCEPTS = (
    Concept("mountaincar", "anything", (), ("{neutral}",), WORDS),
    Concept("mountaincar", "top", (_position(0.5236, 1.72, 0.03),), _TOP, WORDS),
    Concept("mountaincar", "bottom", (_position(-0.5236, 1.05, 0.06),), _BOTTOM, WORDS),
    Concept("mountaincar", "left_slope", (_position(-1.2, 1.72, 0.15),), _LEFT, WORDS),
    Concept("mountaincar", "right_slope", (_position(0.0, 1.2, 0.12),), _RIGHT_SLOPE, WORDS),
    Concept("mountaincar", "low_left", (_position(-0.85, 1.37, 0.08),), _LOW_LEFT, WORDS),
)
HELD_OUT_REGIONS = (("position", 0.15, 0.25), ("position", -0.98, -0.88), ("position", -0.35, -0.28))
