"""The figures of docs/mini.md, on three pictures whose answers can be worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from vlmreward.agents.fit.mini_metrics import (
    Phrasing,
    held_out_phrasings,
    phrase_accuracy,
    rank_correlations,
    retrieval_accuracy,
)
from vlmreward.agents.fit.pictures import PictureSet
from vlmreward.data.captions.concept import Concept, Target, is_held_out

VECTORS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0), "north-east": (0.6, 0.8)}
HERE = Target("x", 0.0, 1.0)


class Compass:
    """Texts are directions of the plane."""

    id, image_size, dim, licence = "compass", 1, 2, "MIT"

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([VECTORS[text] for text in texts], np.float32)

    def encode_images(self, frames: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def pictures(distance: Sequence[Sequence[float]], domain: Sequence[int] = (0, 0, 0)) -> PictureSet:
    concepts = (Concept("a", "east", (HERE,), ("east",)), Concept("a", "north", (HERE,), ("north",)))
    n = len(domain)
    none = np.zeros(n, bool)
    names = ("a", "b")[: max(domain) + 1]
    frames = np.zeros((n, 1, 1, 3), np.uint8)
    return PictureSet(frames, np.array(domain), names, concepts, np.array(distance, np.float16), none, ~none, ({},) * n)


EMBEDDINGS = np.array([VECTORS["east"], VECTORS["north-east"], VECTORS["west"]], np.float32)
ALL = np.ones(3, bool)


def test_rank_correlation_by_hand() -> None:
    """Cosines with east: 1, .6, -1. Ranks 3 2 1; closeness of the second concept's distances: ranks 2 3 1."""
    shown = pictures([[0.0, 0.3, 0.9], [0.2, 0.1, 0.9]])
    east, as_north = Phrasing("a", "east", "east"), Phrasing("a", "north", "east")
    got = rank_correlations(Compass(), [east, as_north], shown, EMBEDDINGS, ALL)
    assert got == pytest.approx([1.0, 1 - 6 * 2 / (3 * 8)])  # Spearman: 1 - 6 sum d^2 / (n (n^2 - 1))


def test_rank_correlation_looks_at_its_own_environment_alone() -> None:
    shown = pictures([[0.0, 0.3, 0.1], [0.2, 0.1, 0.9]], domain=(0, 0, 1))  # the third would turn the order
    assert rank_correlations(Compass(), [Phrasing("a", "east", "east")], shown, EMBEDDINGS, ALL) == pytest.approx([1.0])


def test_nearest_caption_by_hand() -> None:
    """Nearest captions: east, north, north; true ones: east, east (north is .04 off, which still counts), east."""
    shown = pictures([[0.0, 0.30, 0.1], [0.9, 0.34, 0.9]])
    both = [Phrasing("a", "east", "east"), Phrasing("a", "north", "north")]
    assert retrieval_accuracy(Compass(), both, shown, EMBEDDINGS, ALL)["a"] == pytest.approx(2 / 3)


def test_nearest_meaning_by_hand() -> None:
    anchors = [Phrasing("a", "east", "east"), Phrasing("b", "north", "north")]
    said = [
        Phrasing("a", "east", "east"),
        Phrasing("a", "east", "north-east"),  # nearer to north: misunderstood
        Phrasing("b", "north", "north-east"),
        Phrasing("b", "north", "west"),  # equally far from north, and opposite to east
    ]
    assert phrase_accuracy(Compass(), said, anchors) == {"all": 0.75, "a": 0.5, "b": 1.0}


def test_drawn_phrasings_are_held_out_and_different() -> None:
    words = {"n": [str(i) for i in range(200)]}
    concept = Concept("a", "number", (HERE,), ("number {n}",), words)
    drawn = held_out_phrasings([concept], 5, seed=0)
    assert len({p.text for p in drawn}) == 5
    assert all(is_held_out(p.text) for p in drawn)
    assert drawn == held_out_phrasings([concept], 5, seed=0)
