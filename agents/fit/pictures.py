"""Captioned pictures of the project's environments, as arrays: frames, and each concept's distance from each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmreward.data.captions.concept import Concept

Sampler = Callable[[np.random.Generator, int, int, bool], tuple[np.ndarray, dict[str, float]]]
Region = tuple[str, float, float]

OTHER_ENV = 1.25  # distance of a concept from every picture of another environment; 1 is the farthest of its own


@dataclass(frozen=True)
class Domain:
    """One environment that ``mini`` learns.

    Attributes:
        name: Short name, e.g. ``"cartpole"``.
        sampler: Draws (rng, width, height, varied) -> picture and facts.
        concepts: What can be said of its states.
        held_out: Regions (fact, low, high) of states that are kept for evaluation.
    """

    name: str
    sampler: Sampler
    concepts: tuple[Concept, ...]
    held_out: tuple[Region, ...]


@dataclass(frozen=True)
class PictureSet:
    """Pictures of several domains.

    Attributes:
        frames: uint8, shape (N, H, W, 3).
        domain: Index into ``names`` of each picture, shape (N,).
        names: Names of the domains.
        concepts: All concepts of all domains, C of them.
        distance: Of each concept from each picture, float16, shape (C, N), in [0, OTHER_ENV].
        held_out: True for states of a held-out region, shape (N,).
        plain: True for pictures in the environment's own look, shape (N,).
        facts: The true facts of each picture.
    """

    frames: np.ndarray
    domain: np.ndarray
    names: tuple[str, ...]
    concepts: tuple[Concept, ...]
    distance: np.ndarray
    held_out: np.ndarray
    plain: np.ndarray
    facts: tuple[dict[str, float], ...]


def make_pictures(
    domains: Sequence[Domain],
    counts: Mapping[str, int],
    size: int,
    seed: int,
    plain_share: float,
    progress: Callable[[int], None] = lambda n: None,
) -> PictureSet:
    """Render and caption pictures.

    Args:
        domains: What to render.
        counts: Number of pictures of each domain.
        size: Side of the square pictures, in pixels.
        seed: Seed of states and looks; each domain has its own stream.
        plain_share: Share of pictures in the environment's own look.
        progress: Called with the number of pictures made since the last call.

    Returns:
        The pictures, domain after domain.
    """
    total = sum(counts[d.name] for d in domains)
    frames = np.empty((total, size, size, 3), np.uint8)
    facts: list[dict[str, float]] = []
    domain, plain = np.empty(total, np.int64), np.empty(total, bool)
    held_out = np.zeros(total, bool)
    row = 0
    for index, d in enumerate(domains):
        rng = np.random.default_rng([seed, *d.name.encode()])
        for _ in range(counts[d.name]):
            plain[row] = rng.random() < plain_share
            frames[row], fact = d.sampler(rng, size, size, not plain[row])
            held_out[row] = any(low <= fact[name] <= high for name, low, high in d.held_out)
            domain[row] = index
            facts.append(fact)
            row += 1
            progress(1)
    concepts = tuple(c for d in domains for c in d.concepts)
    distance = np.full((len(concepts), total), OTHER_ENV, np.float16)
    for index, d in enumerate(domains):
        rows = np.flatnonzero(domain == index)
        columns = {name: np.array([facts[i][name] for i in rows]) for name in facts[rows[0]]}
        for c, concept in enumerate(concepts):
            if concept.env == d.name:
                distance[c, rows] = concept.distance(columns, len(rows))
    names = tuple(d.name for d in domains)
    return PictureSet(frames, domain, names, concepts, distance, held_out, plain, tuple(facts))
