"""What the study of labels compares is the reward of a row and the truth of the frame that the row is judged by."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vlmreward.data.labels import EpisodeLabels

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "label_quality.py"
LENGTHS = (9, 7, 8, 6, 9, 10)  # rows of the episodes; each has a frame more


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_quality", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["label_quality"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    """Truth of every frame as ``collect`` writes it: progress jumps about, episodes 0, 2 and 4 end in success."""
    rng = np.random.default_rng(0)
    progress = [rng.permutation(length + 1) / (length + 2) for length in LENGTHS]
    for one in progress[::2]:
        one[-1] = 1.0
    return {
        "episode": np.repeat(np.arange(len(LENGTHS)), [length + 1 for length in LENGTHS]),
        "frame": np.concatenate([np.arange(length + 1) for length in LENGTHS]),
        "progress": np.concatenate(progress),
        "success": (np.concatenate(progress) == 1).astype(np.float64),
    }


def as_labels(values: np.ndarray, episode: np.ndarray, shift: int) -> list[EpisodeLabels]:
    """Return labels whose row t holds the value of frame t + shift."""
    labels = []
    for number, rows in enumerate(LENGTHS):
        own = values[episode == number][shift : shift + rows].astype(np.float32)
        labels.append(EpisodeLabels(reward=own, valid=np.ones(rows, bool), success=None, progress=None, reasons={}))
    return labels


def value(table: Any, metric: str, sweep: str) -> float:
    return float(table.columns[metric].value[table.sweeps.index(sweep)])


def test_a_row_is_held_against_the_frame_after_it(quality, truth):
    rows = quality.read_rows(truth)
    right = quality.reward_of_rows(as_labels(truth["progress"], truth["episode"], 1))
    early = quality.reward_of_rows(as_labels(truth["progress"], truth["episode"], 0))
    table = quality.measure({"right": right, "early": early}, rows)
    for metric in quality.FIGURES:
        assert value(table, metric, "right") == pytest.approx(1)
        assert value(table, metric, "early") < 0.9
    assert table.groups == len(LENGTHS)


def test_an_invalid_label_is_left_out(quality, truth):
    rows = quality.read_rows(truth)
    labels = as_labels(truth["progress"], truth["episode"], 1)
    labels[1].reward[3], labels[1].valid[3] = -5.0, False
    reward = quality.reward_of_rows(labels)
    assert np.isnan(reward).sum() == 1
    assert value(quality.measure({"right": reward}, rows), "spearman_progress", "right") == pytest.approx(1)


def test_the_end_of_an_episode_is_its_last_row(quality, truth):
    rows = quality.read_rows(truth)
    assert rows.frame[rows.ends].tolist() == list(LENGTHS)
    at_the_end = np.where(rows.ends, rows.success, np.random.default_rng(1).random(len(rows.frame)))
    assert value(quality.measure({"end": at_the_end}, rows), "auroc_end", "end") == 1


def test_a_task_is_recorded_labelled_and_measured(quality, tmp_path, monkeypatch):
    """On cart-pole `mini` knows what it sees; what labelling does not take is named with the reason."""
    monkeypatch.setattr(quality, "list_groups", lambda: {"reward": ["clip", "potential"]})
    target = tmp_path / "cartpole.json"
    quality.study(quality.Subject("cartpole", "upright"), 7, {"episodes": 7}, target)
    found = json.loads(target.read_text())
    assert found["rows"] == 700
    assert found["policies"]["swing_up"]["episodes"] == 1
    assert list(found["not_labelled"]) == ["potential"]
    assert "terminated" in found["not_labelled"]["potential"]
    figures = quality.figures_by_sweep(found)
    assert figures["clip"]["spearman_progress"]["value"] > 0.9
    assert figures[f"clip{quality.OTHER}"]["spearman_progress"]["value"] < 0
    assert {"time index", "constant", "random", "pixels: near success"} < set(figures)
    assert "| clip |" in quality.markdown([found])
    quality.draw([found], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_other_instruction_is_that_of_another_task(quality):
    for subject in quality.SUBJECTS:
        sentences = quality.SENTENCES[subject.env]
        assert subject.other != subject.task
        assert not set(sentences[subject.other]) & set(sentences[subject.task])


def test_another_encoder_or_number_of_episodes_is_measured_again(quality, tmp_path):
    target, settings = tmp_path / "push.json", {"encoder": "mini-2", "episodes": 70, "seed": 1}
    assert not quality.is_done(target, settings)
    target.write_text(json.dumps({**settings, "rows": 3}))
    assert quality.is_done(target, settings)
    assert not quality.is_done(target, {**settings, "encoder": "mini-3"})


def test_figures_are_short_and_what_is_unknown_is_no_number(quality):
    assert quality.words({"value": 0.712, "low": 0.6, "high": 0.999}) == ".71 (.60 to 1.00)"
    assert quality.words({"value": -0.25, "low": None, "high": None}) == "-.25"
    assert quality.words({"value": -0.001, "low": None, "high": None}) == ".00"
    assert quality.words({"value": None, "low": None, "high": None}) == "–"
