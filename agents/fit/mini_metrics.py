"""What the embedded encoder has learned, measured on phrasings and states that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from vlmreward.agents.fit.pictures import PictureSet
from vlmreward.data.captions.concept import Concept, is_held_out
from vlmreward.types import Encoder


@dataclass(frozen=True)
class Phrasing:
    """A held-out sentence and the concept that it means."""

    env: str
    concept: str
    text: str


def held_out_phrasings(concepts: Sequence[Concept], each: int, seed: int) -> list[Phrasing]:
    """Draw phrasings of the grammar that training leaves out, ``each`` per concept where there are so many."""
    rng = np.random.default_rng(seed)
    out = []
    for concept in concepts:
        found: set[str] = set()
        for _ in range(4000):
            text = concept.sample(rng)
            if is_held_out(text):
                found.add(text)
            if len(found) == each:
                break
        out += [Phrasing(concept.env, concept.name, text) for text in sorted(found)]
    return out


def rank_correlations(
    encoder: Encoder, phrasings: Sequence[Phrasing], pictures: PictureSet, embeddings: np.ndarray, rows: np.ndarray
) -> list[float]:
    """Return each phrasing's Spearman correlation, over its own environment's pictures, of cosine and closeness.

    Args:
        encoder: Encodes the phrasings.
        phrasings: P sentences.
        pictures: The captioned pictures.
        embeddings: Of all pictures, shape (N, D).
        rows: True for the pictures to use, shape (N,).

    Returns:
        P numbers in [-1, 1]; closeness is minus the distance between the true state and the concept.
    """
    number = {(c.env, c.name): i for i, c in enumerate(pictures.concepts)}
    texts = encoder.encode_texts([p.text for p in phrasings])
    out = []
    for phrasing, text in zip(phrasings, texts, strict=True):
        own = rows & (pictures.domain == pictures.names.index(phrasing.env))
        distance = pictures.distance[number[phrasing.env, phrasing.concept], own].astype(np.float64)
        ranks = rankdata(embeddings[own] @ text), rankdata(-distance)
        out.append(float(np.corrcoef(*ranks)[0, 1]))
    return out


def retrieval_accuracy(
    encoder: Encoder, phrasings: Sequence[Phrasing], pictures: PictureSet, embeddings: np.ndarray, rows: np.ndarray
) -> dict[str, float]:
    """Return how often the caption nearest to a picture is a true one, per environment.

    The candidates are one phrasing of each simple concept of all environments. A caption is true of a picture if
    its distance is within 0.05 of the smallest among the candidates.
    """
    number = {(c.env, c.name): i for i, c in enumerate(pictures.concepts)}
    first: dict[tuple[str, str], Phrasing] = {}
    for p in phrasings:
        concept = pictures.concepts[number[p.env, p.concept]]
        if concept.targets and not concept.parts:
            first.setdefault((p.env, p.concept), p)
    candidates = list(first.values())
    texts = encoder.encode_texts([p.text for p in candidates])
    distance = pictures.distance[[number[p.env, p.concept] for p in candidates]].astype(np.float64)
    out = {}
    for index, name in enumerate(pictures.names):
        own = np.flatnonzero(rows & (pictures.domain == index))
        chosen = np.argmax(texts @ embeddings[own].T, axis=0)
        best = distance[:, own].min(axis=0)
        out[name] = float(np.mean(distance[chosen, own] <= best + 0.05))
    return out


def phrase_accuracy(encoder: Encoder, phrasings: Sequence[Phrasing], anchors: Sequence[Phrasing]) -> dict[str, float]:
    """Return how often a phrasing's nearest anchor sentence means the same, per environment and overall.

    Args:
        encoder: Encodes both.
        phrasings: The sentences to understand.
        anchors: One plain sentence per meaning.
    """
    similarity = encoder.encode_texts([p.text for p in phrasings]) @ encoder.encode_texts([a.text for a in anchors]).T
    right = np.array(
        [
            (anchors[best].env, anchors[best].concept) == (p.env, p.concept)
            for best, p in zip(similarity.argmax(axis=1), phrasings, strict=True)
        ]
    )
    envs = np.array([p.env for p in phrasings])
    return {"all": float(right.mean())} | {e: float(right[envs == e].mean()) for e in sorted(set(envs.tolist()))}
