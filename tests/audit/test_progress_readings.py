"""What a model is shown of an episode, against models whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlmreward.audit.progress_metrics import voc, vroc
from vlmreward.audit.progress_readings import Film, baselines, check_reads_films, nearness, read_film
from vlmreward.audit.progress_table import METRICS
from vlmreward.errors import ConfigError
from vlmreward.rewards.accumulation import accumulate
from vlmreward.rewards.critic import Critic
from vlmreward.rewards.critic_reward import CriticReward
from vlmreward.rewards.judges.gvl import GvlReward
from vlmreward.rewards.judges.scripted_judge import ScriptedJudge, TruthTable
from vlmreward.rewards.judges.vlac import VlacReward
from vlmreward.testing.critics import save_random_critic
from vlmreward.testing.fakes import ProjectionEncoder
from vlmreward.types import RewardBatch

UP = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def film(progress: Any = UP, number: int = 0, **more: Any) -> Film:
    """Return a film whose pictures and embeddings show its true progress."""
    progress = np.asarray(progress, np.float64)
    frames = np.random.default_rng(number).integers(0, 40, (len(progress), 448, 448, 3)).astype(np.uint8)
    frames[..., 0] = (255 * progress)[:, None, None]
    thumbs = (255 * progress).astype(np.float32)[:, None]
    seen = np.stack([progress, 1 - progress], axis=1).astype(np.float32)
    own: dict[str, Any] = {
        "instruction": "lift it",
        "success": True,
        "embeddings": {"e": seen},
        "progress": progress,
        **more,
    }
    return Film(number, frames=frames, step=np.arange(len(progress)), thumbs=thumbs, **own)


def model(score: Any, context: str = "frame", causal: bool = True, **more: Any) -> Any:
    """Return a model that scores embeddings by a function of the batch."""

    def compute_reward(batch: Any) -> RewardBatch:
        reward = np.asarray(score(batch), np.float32)
        return RewardBatch(
            reward, np.isfinite(reward), reasons=dict.fromkeys(np.flatnonzero(np.isnan(reward)).tolist(), "lost")
        )

    own = {"context": context, "causal": causal, "needs": ("embeddings",), "range": (0.0, 1.0), **more}
    return SimpleNamespace(compute_reward=compute_reward, **own)


def content(batch: Any) -> Any:
    return batch.embeddings[:, 0]


def test_a_model_that_sees_progress_sees_it_in_both_directions():
    read = read_film(film(), lambda text: model(content), "e")
    np.testing.assert_allclose(read.forward, UP, rtol=1e-6)
    np.testing.assert_allclose(read.backward, UP[::-1], rtol=1e-6)
    assert (voc(read.forward), vroc(read.backward)) == (1, 1)
    np.testing.assert_allclose(read.prefix, UP[read.anchors], rtol=1e-6)
    assert (read.anchors[0], read.anchors[-1]) == (1, 9)
    assert read.bounded


def test_a_model_that_counts_frames_is_found_out_backwards():
    read = read_film(film(), lambda text: model(lambda batch: batch.step / 9), "e")
    assert (voc(read.forward), vroc(read.backward)) == (1, -1)


def test_a_model_that_looks_ahead_is_asked_about_each_beginning_alone():
    lengths: list[int] = []

    def share(batch: Any) -> Any:
        lengths.append(len(batch))
        return np.arange(len(batch)) / (len(batch) - 1)

    read = read_film(film(), lambda text: model(share, context="episode", causal=False), "e")
    assert voc(read.forward) == 1
    assert read.prefix.tolist() == [1.0] * len(read.anchors)  # every beginning looks finished
    assert lengths == [10, *(read.anchors + 1), 10]


def test_what_models_declare_to_need_is_there_in_the_order_that_is_shown():
    seen: list[Any] = []
    needy = model(
        lambda batch: seen.append(batch) or content(batch), needs=("embeddings", "frames", "initial", "previous")
    )
    read_film(film(), lambda text: needy, "e")
    there, back = seen
    assert there.initial[:, 0].tolist() == [0.0] * 10
    assert back.initial[:, 0].tolist() == [1.0] * 10
    np.testing.assert_allclose(there.previous[:, 0], [0, *UP[:-1]], rtol=1e-6)
    np.testing.assert_allclose(back.previous[:, 0], [1, *UP[:0:-1]], rtol=1e-6)
    assert there.frames[-1, 0, 0, 0] == back.frames[0, 0, 0, 0] == 255
    assert back.step.tolist() == list(range(10))


def test_instructions_and_wordings_are_asked_one_by_one():
    models = {"lift it": 1.0, "raise it": 0.8, "drop it": 0.1, "paint it": 0.3}
    read = read_film(
        film(), lambda text: model(lambda b: content(b) * models[text]), "e", ["drop it", "paint it"], ["raise it"]
    )
    assert read.ends == pytest.approx({"lift it": 1.0, "drop it": 0.1, "paint it": 0.3})
    assert read.reworded == pytest.approx([0.8])


def test_a_frame_without_a_value_is_no_number_and_its_reason_is_counted():
    def lost(batch: Any) -> Any:
        return np.where(batch.step == 9, np.nan, content(batch))

    read = read_film(film(), lambda text: model(lost), "e")
    assert np.isnan(read.forward).tolist() == [False] * 9 + [True]
    assert read.reasons == {"lost": 1}
    assert read.ends["lift it"] == pytest.approx(0.9)  # the last that is known


def judge(*films: Film) -> ScriptedJudge:
    table = TruthTable()
    for one in films:
        assert one.progress is not None
        table.add(one.frames, one.progress)
    return ScriptedJudge(truth=table)


def test_a_sum_of_steps_begins_at_one_backwards():
    shown = film()
    read = read_film(shown, lambda text: VlacReward(judge(shown), text), "e")
    assert voc(read.forward) == 1
    assert read.backward[0] == 1
    assert (np.diff(read.backward) < 0).all()
    assert vroc(read.backward) == 1
    assert read.residual == pytest.approx(np.zeros(9))  # of the steps: the first frame ends none
    silent = model(content, context="prefix", rule="bounded")
    assert np.isnan(read_film(shown, lambda text: silent, "e").backward).all()


@pytest.mark.parametrize(("estimate", "stride"), [("accumulated", 1), ("accumulated", 3), ("fused", 3)])
def test_steps_of_a_critic_begin_at_one_backwards(tmp_path, estimate, stride):
    encoder = ProjectionEncoder()
    path = save_random_critic(tmp_path / "critic.safetensors", encoder)
    seen = np.random.default_rng(0).standard_normal((10, encoder.dim)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    critic = CriticReward(encoder, "lift it", path=path, estimate=estimate, stride=stride)
    back = read_film(film(embeddings={"e": seen}), lambda text: critic, "e").backward
    text, shown = encoder.encode_texts(["lift it"])[0], seen[::-1]
    step = 1 if estimate == "fused" else stride
    for phase in range(1, step + 1):
        chain = [0, *range(phase, 10, step)]
        first = np.tile(shown[0], (len(chain) - 1, 1))
        steps = Critic.load(path).compare(text, first, shown[chain[:-1]], shown[chain[1:]])
        np.testing.assert_allclose(back[chain], accumulate(steps.delta, start=1.0), atol=1e-6)
    assert np.isfinite(vroc(back))


def test_gvl_is_asked_about_beginnings():
    shown = film()
    read = read_film(shown, lambda text: GvlReward(judge(shown), text), "e")
    assert vroc(read.backward[1:]) == pytest.approx(1)  # the frame that is shown first counts as 0
    np.testing.assert_allclose(read.prefix, UP[read.anchors], atol=0.01)


def test_baselines_by_hand():
    shown = film([0.0, 0.5, 0.25, 1.0], number=3)
    rows = baselines(shown, longest=6, seed=1, others=["x"], rewordings=["y"])
    time, constant, random, pixels = (rows[f"baseline: {name}"] for name in (
        "time index", "constant", "random", "pixel distance to the last frame"
    ))  # fmt: skip
    assert time.forward == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert vroc(time.backward) == -1
    assert time.prefix.tolist() == time.forward[time.anchors].tolist()
    assert np.isnan(voc(constant.forward))
    assert pixels.forward == pytest.approx([0, 0.5, 0.25, 1])
    assert pixels.backward == pytest.approx([0, 0.75, 0.5, 1])
    assert pixels.prefix.tolist() == [1] * len(pixels.anchors)  # so far, the present frame is the last one
    assert random.forward.tolist() != baselines(shown, 6, seed=2)["baseline: random"].forward.tolist()
    for row in rows.values():
        assert row.ends["x"] == row.ends["lift it"] == row.reworded[0] == row.forward[-1]
        assert METRICS["instruction_gap"].measure([(shown, row)])(np.array([0])) == 0
    assert nearness(np.ones((3, 2), np.float32)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            model(content, needs=("embeddings", "reference")),
            "reward x looks at reference, which recorded episodes have not",
        ),
        (model(content, context="pair"), "reward x pays differences"),
        (model(content, learns=True), "has no head yet: give reward.path="),
    ],
)
def test_models_that_can_not_be_shown_an_episode_are_refused(made, words):
    with pytest.raises(ConfigError, match=words):
        check_reads_films(made, "x")
