"""What the embedded encoder has learned, and the controls that tell learning from luck. Writes results/mini.json.

Reads the folder of a ``vlmreward pretrain-mini out=<folder>`` (its sentences and its distilled text tower are
reused; the controls are fitted there, each with the same few steps, beside a reference with as many; that one and the
one on shuffled captions also train the demo's agent, which must fail on the latter).

    python benchmarks/mini.py --folder runs/mini              # the packaged encoder
    python benchmarks/mini.py --folder runs/mini --controls   # and the controls
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.agents.fit.contrastive import FitSettings, text_features
from vlmreward.agents.fit.domain import auroc
from vlmreward.agents.fit.mini_metrics import (
    Phrasing,
    held_out_phrasings,
    phrase_accuracy,
    rank_correlations,
    retrieval_accuracy,
)
from vlmreward.agents.fit.pictures import PictureSet
from vlmreward.agents.fit.pretrain import Pretraining, PretrainSettings
from vlmreward.cli.pretrain_mini import load_domains
from vlmreward.data.captions.cartpole import HELD_OUT_COMPOSITIONS
from vlmreward.encoders.mini import MiniEncoder
from vlmreward.envs.mujoco.gl import ensure_gl

HERE = Path(__file__).parent
# names of the independent sentences' tasks in the grammar
CONCEPT_OF = {"tilted_left": "lean_left", "tilted_right": "lean_right", "left": "left_end", "right": "right_end"}
CONCEPT_OF |= {"horizontal": "flat"}
EVALUATION_SEED = 1000


def load_phrasings() -> tuple[list[Phrasing], dict[str, list[str]]]:
    """Return the independent held-out phrasings, and the other lists of sentences."""
    data = json.loads((HERE / "data" / "phrasings.json").read_text())
    held_out = [Phrasing(p["env"], CONCEPT_OF.get(p["task"], p["task"]), p["text"]) for p in data["held_out"]]
    return held_out, {name: data[name] for name in ("out_of_domain", "in_domain_extra")}


def interval(values: Sequence[float], rng: np.random.Generator) -> list[float]:
    """Return mean and 95 % bootstrap interval."""
    x = np.asarray(values)
    means = x[rng.integers(len(x), size=(2000, len(x)))].mean(axis=1)
    return [round(float(v), 4) for v in (x.mean(), *np.quantile(means, [0.025, 0.975]))]


class BagOfWordsEncoder(MiniEncoder):
    """``mini`` with the mean of its token embeddings in place of the text transformer."""

    def __init__(self, weights: Path) -> None:
        super().__init__(weights=weights)
        model = self._model
        model.encode_text = lambda tokens: text_features(model, tokens, True) @ model.text_projection  # type: ignore


def measure(encoder: MiniEncoder, pictures: PictureSet) -> dict[str, Any]:
    """Return every figure of one encoder."""
    rng = np.random.default_rng(0)
    embeddings = encoder.encode_images(pictures.frames)
    grammar = held_out_phrasings(pictures.concepts, 5, seed=0)
    concepts = {(c.env, c.name): c for c in pictures.concepts}
    specific = [p for p in grammar if concepts[p.env, p.concept].targets]
    simple = [p for p in specific if not concepts[p.env, p.concept].parts]
    composed = [p for p in specific if concepts[p.env, p.concept].parts in HELD_OUT_COMPOSITIONS]
    seen_composed = [
        p
        for p in specific
        if concepts[p.env, p.concept].parts and concepts[p.env, p.concept].parts not in HELD_OUT_COMPOSITIONS
    ]
    independent, sentences = load_phrasings()
    meanings = sorted({(p.env, p.concept) for p in independent})
    anchors = [Phrasing(e, c, concepts[e, c].sample(np.random.default_rng(1))) for e, c in meanings]
    result: dict[str, Any] = {"retrieval_accuracy": {}, "spearman": {}}
    views = {"plain": pictures.plain, "varied": ~pictures.plain, "held_out_states": pictures.held_out}
    for view, rows in views.items():
        result["retrieval_accuracy"][view] = retrieval_accuracy(encoder, grammar, pictures, embeddings, rows)
        found = rank_correlations(encoder, simple, pictures, embeddings, rows)
        result["spearman"][view] = by_env(simple, found, rng)
    result["spearman_by_concept"] = by_concept(
        simple, rank_correlations(encoder, simple, pictures, embeddings, pictures.plain)
    )
    for name, phrasings in (("held_out_compositions", composed), ("seen_compositions", seen_composed)):
        found = rank_correlations(encoder, phrasings, pictures, embeddings, pictures.plain)
        result["spearman"][name] = interval(found, rng)
    found = rank_correlations(encoder, independent, pictures, embeddings, pictures.plain)
    result["independent_phrasings"] = {
        "n": len(independent),
        "nearest_meaning_accuracy": phrase_accuracy(encoder, independent, anchors),
        "chance": round(1 / len(anchors), 4),
        "spearman": by_env(independent, found, rng) | {"all": interval(found, rng)},
        "spearman_by_meaning": by_concept(independent, found),
        "share_above_0.6": round(float(np.mean(np.array(found) > 0.6)), 4),
    }
    inside = encoder.domain_scores([p.text for p in independent] + sentences["in_domain_extra"])
    outside = encoder.domain_scores(sentences["out_of_domain"])
    result["domain_warning"] = {
        "inside": len(inside),
        "outside": len(outside),
        "auroc": round(auroc(inside, outside), 4),
        "warned_inside": round(float(np.mean(inside < 0)), 4),
        "warned_outside": round(float(np.mean(outside < 0)), 4),
    }
    return result


def by_env(phrasings: Sequence[Phrasing], values: Sequence[float], rng: np.random.Generator) -> dict[str, Any]:
    """Return mean and interval per environment."""
    envs = sorted({p.env for p in phrasings})
    return {e: interval([v for p, v in zip(phrasings, values, strict=True) if p.env == e], rng) for e in envs}


def by_concept(phrasings: Sequence[Phrasing], values: Sequence[float]) -> dict[str, float]:
    """Return the mean per concept."""
    names = sorted({f"{p.env}/{p.concept}" for p in phrasings})
    return {
        n: round(float(np.mean([v for p, v in zip(phrasings, values, strict=True) if f"{p.env}/{p.concept}" == n])), 4)
        for n in names
    }


def controls(steps: int, names: Sequence[str]) -> dict[str, FitSettings]:
    """Return the settings of the reference and of each control."""
    base = FitSettings(steps=steps)
    return {
        "reference": base,
        "bag_of_words": replace(base, bag_of_words=True),
        "shuffled_captions": replace(base, shuffled=True),
        **{f"without_{name}": replace(base, skip=(name,)) for name in names},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="out= of vlmreward pretrain-mini")
    parser.add_argument("--controls", action="store_true", help="fit and measure the controls too")
    parser.add_argument("--control-steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mini.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # the warnings about out-of-domain texts are what is measured
    ensure_gl()
    settings = PretrainSettings()
    run = Pretraining(settings, arguments.folder, load_domains(settings.pictures), lambda *_: None)
    pictures = run.pictures(seed_offset=EVALUATION_SEED, share=0.15)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    encoder = MiniEncoder()
    result |= {"encoder": encoder.id, "pictures": len(pictures.frames), "figures": measure(encoder, pictures)}
    write(arguments.out, result)
    if arguments.controls:
        made_with = {"encoder": encoder.id, "steps": arguments.control_steps}
        if result.get("controls_made_with") != made_with:  # those of another encoder say nothing about this one
            result |= {"controls_made_with": made_with, "controls": {}}
        table = result["controls"]
        for name, fit in controls(arguments.control_steps, list(settings.pictures)).items():
            weights = run.fit(f"control-{name}", fit)  # one control at a time, resumable
            kind = BagOfWordsEncoder if fit.bag_of_words else MiniEncoder
            figures = measure(kind(weights=weights), pictures)
            del figures["domain_warning"]  # its classifier stands on the text tower alone, which no control is about
            demo = {key: value for key, value in table.get(name, {}).items() if key.startswith("demo_")}
            if not demo and name in ("reference", "shuffled_captions"):
                demo = train_demo(weights)
            table[name] = figures | demo
            write(arguments.out, result)
    print(json.dumps({k: v for k, v in result.items() if k != "controls"}, indent=2))


def train_demo(weights: Path) -> dict[str, Any]:
    """Train the demo's agent with other weights; return its true success from any start, and which agent it is."""
    with tempfile.TemporaryDirectory() as scratch:
        run, out = Path(scratch) / "run", Path(scratch) / "evaluation.json"
        for arguments in (
            ("train", "env=cartpole", f"encoder.weights={weights}", f"run_dir={run}"),
            ("evaluate", f"run={run}", "episodes=100", "score=false", f"out={out}"),
        ):
            subprocess.run([sys.executable, "-m", "vlmreward.cli", *arguments], check=True)
        agent = json.loads((run / "result.json").read_text())["agent"]["name"]
        return {"demo_success": json.loads(out.read_text())["evaluation"]["success"], "demo_agent": agent}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
