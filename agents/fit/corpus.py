"""English sentences to distil a sentence encoder on: WordNet's definitions and examples, and simple frames.

WordNet (Princeton University, free licence) is read from its own database files, which Debian ships as the
package wordnet-base. Nothing of it is shipped with this project; it only decides on which inputs the student
copies its teacher.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vlmreward.errors import StorageError

PARTS = ("noun", "verb", "adj", "adv")
MAX_WORDS = 16
FRAMES = (
    "a {noun} next to a {noun}",
    "the {noun} is {adj}",
    "a {adj} {noun}",
    "{verb} the {noun}",
    "{verb} the {adj} {noun}",
    "please {verb} the {noun}",
    "make the {noun} {adj}",
    "a {noun} on top of the {noun}",
    "the {adj} {noun} is on the left of the {noun}",
    "the {noun} is at the right of the {noun}",
    "keep the {noun} {adj}",
    "put the {noun} in the {noun}",
    "{verb} to the {noun}",
    "a {noun} and a {adj} {noun}",
    "the goal is to {verb} the {noun}",
    "I want the {noun} to {verb}",
)


def read_sentences(wordnet: Path) -> list[str]:
    """Return the short definitions and examples of WordNet, sorted and without doubles.

    Args:
        wordnet: Folder with ``data.noun`` and so on.

    Raises:
        StorageError: The folder does not hold WordNet's database.
    """
    found: set[str] = set()
    for part in PARTS:
        for line in _read(wordnet / f"data.{part}").splitlines():
            _, bar, gloss = line.partition(" | ")
            if not bar:
                continue
            for piece in re.split(r";\s*", gloss):
                text = piece.strip().strip('"').strip()
                if 2 <= len(text.split()) <= MAX_WORDS and text.isascii():
                    found.add(text)
    return sorted(found)


def read_words(wordnet: Path) -> dict[str, list[str]]:
    """Return the common single words of WordNet by part of speech, sorted.

    A word counts as common if WordNet's tagged texts hold one of its senses.
    """
    words: dict[str, list[str]] = {}
    for part in ("noun", "verb", "adj"):
        common = []
        for line in _read(wordnet / f"index.{part}").splitlines():
            fields = line.split()
            if line.startswith(" ") or not fields[0].isalpha():
                continue
            pointers = int(fields[3])
            tagged_senses = int(fields[5 + pointers])
            if tagged_senses > 0:
                common.append(fields[0])
        words[part] = sorted(common)
    return words


def frame_sentences(words: dict[str, list[str]], n: int, rng: np.random.Generator) -> list[str]:
    """Draw n sentences of simple frames over common words."""

    def fill(match: re.Match[str]) -> str:
        options = words[match.group(1)]
        return options[rng.integers(len(options))]

    return [re.sub(r"\{(\w+)\}", fill, FRAMES[rng.integers(len(FRAMES))]) for _ in range(n)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="latin-1")
    except OSError as e:
        raise StorageError(
            f"WordNet's database is not readable at {path} ({e.strerror}): "
            "install it with apt-get install wordnet-base, or set wordnet=<folder with data.noun>"
        ) from e
