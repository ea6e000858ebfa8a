"""The independent sentences on which the language of ``mini`` is measured are none of the grammar's."""

import json
import re
from pathlib import Path

import pytest

from vlmreward.data.captions import cartpole, humanoid, mountaincar, tabletop

SENTENCES = json.loads((Path(__file__).parents[3] / "benchmarks" / "data" / "phrasings.json").read_text())
CONCEPTS = [*cartpole.CONCEPTS, *mountaincar.CONCEPTS, *humanoid.CONCEPTS, *tabletop.CONCEPTS]


def plain(text):
    return " ".join(re.findall(r"[\w'-]+", text.lower()))


def grammar_of(concept):
    """Return a pattern of everything that a concept without parts can be called."""

    def pattern(text):
        pieces = re.split(r"\{(\w+)\}", text)
        return "".join(
            f"(?:{'|'.join(pattern(option) for option in concept.words[piece])})" if i % 2 else re.escape(piece)
            for i, piece in enumerate(pieces)
        )

    return re.compile("|".join(f"(?:{pattern(template)})" for template in concept.templates))


@pytest.fixture(scope="module")
def grammar():
    return [grammar_of(concept) for concept in CONCEPTS if not concept.parts]


def test_pattern_holds_what_the_grammar_says(grammar):
    import numpy as np

    rng = np.random.default_rng(0)
    simple = [concept for concept in CONCEPTS if not concept.parts]
    assert all(p.fullmatch(c.sample(rng)) for c, p in zip(simple, grammar, strict=True) for _ in range(20))


def test_no_independent_sentence_is_the_grammars(grammar):
    texts = [p["text"] for p in SENTENCES["held_out"]] + SENTENCES["in_domain_extra"]
    assert len(SENTENCES["held_out"]) >= 200
    known = [t for t in texts if any(p.fullmatch(form) for p in grammar for form in (t, plain(t)))]
    assert known == []
