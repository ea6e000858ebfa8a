"""A concept: something that can be said of a state, with its phrasings and its distance from any state."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Facts = Mapping[str, np.ndarray]
Words = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Target:
    """Where one fact should be.

    Attributes:
        fact: Name of the fact, as the environment's ``describe`` gives it.
        value: Where it should be.
        span: The distance from ``value`` that counts as 1, in the fact's unit.
        tolerance: Closer than this counts as 0.
        period: Length of the circle if the fact is an angle (360 for degrees), else None.
    """

    fact: str
    value: float
    span: float
    tolerance: float = 0.0
    period: float | None = None

    def distance(self, facts: Facts) -> np.ndarray:
        """Return how far states are from the target, float, shape (N,), in [0, 1]."""
        off = np.abs(np.asarray(facts[self.fact], dtype=np.float64) - self.value)
        if self.period is not None:
            off = np.minimum(off % self.period, self.period - off % self.period)
        return np.clip((off - self.tolerance) / (self.span - self.tolerance), 0.0, 1.0)


@dataclass(frozen=True)
class Concept:
    """One thing that can be said of a state.

    Attributes:
        env: Short name of the environment, e.g. ``"cartpole"``.
        name: Name of the concept, unique in its environment.
        targets: What must be so; the distance is the mean over them. Empty: true of every state.
        templates: Phrasings with slots, ``"keep the {pole} {upright}"``.
        words: What may stand in the slots.
        parts: Names of the concepts this one is composed of, if it is a composition.
    """

    env: str
    name: str
    targets: tuple[Target, ...]
    templates: tuple[str, ...]
    words: Words = field(default_factory=dict, repr=False)
    parts: tuple[str, ...] = ()

    def distance(self, facts: Facts, n: int) -> np.ndarray:
        """Return how far n states are from the concept, float, shape (n,), in [0, 1]."""
        if not self.targets:
            return np.zeros(n)
        return np.mean([target.distance(facts) for target in self.targets], axis=0)

    def sample(self, rng: np.random.Generator) -> str:
        """Draw one phrasing."""
        text = self.templates[int(rng.integers(len(self.templates)))]
        while match := _SLOT.search(text):
            options = self.words[match.group(1)]
            text = text[: match.start()] + options[int(rng.integers(len(options)))] + text[match.end() :]
        return text

    def phrasings(self, limit: int, rng: np.random.Generator) -> list[str]:
        """Return up to ``limit`` different phrasings, sorted."""
        found: set[str] = set()
        for _ in range(8 * limit):  # a concept may have fewer phrasings than asked for
            found.add(self.sample(rng))
            if len(found) == limit:
                break
        return sorted(found)


def is_held_out(text: str, share: float = 0.1) -> bool:
    """Return whether a phrasing is kept for evaluation: a fixed property of the text, not of a random draw."""
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32 < share
