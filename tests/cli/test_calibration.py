"""``encoder.precision=int8``: frames of the run's own environment, the gate, and the same tower for every command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vlmreward.cli import calibration
from vlmreward.cli.calibration import EPISODES, FRAMES_PER_EPISODE, collect_frames, held_out_score
from vlmreward.cli.settings import EnvSettings
from vlmreward.encoders.int8 import Int8Tower
from vlmreward.errors import RenderingError
from vlmreward.testing.fakes import LinearReward, ProjectionEncoder

needs_openvino = pytest.mark.skipif(
    not all(map(find_spec, ("openvino", "nncf"))), reason="needs pip install 'vlmreward[openvino]'"
)
TRAIN = (
    *("train", "env=cartpole", "encoder=mini", "encoder.precision=int8", "agent=ppo", "n_envs=2", "agent.n_steps=50"),
    *("agent.batch_size=50", "eval.episodes=1", "total_timesteps=100", "env.kwargs.max_episode_steps=40"),
)


@pytest.fixture
def pixel_env() -> Any:
    def settings(**kwargs: Any) -> EnvSettings:
        return EnvSettings("pixel", "test/Pixel-v0", kwargs)

    gym.register("test/Pixel-v0", "vlmreward.testing.fakes:PixelEnv")
    yield settings
    del gym.registry["test/Pixel-v0"]


def collect(settings: EnvSettings, seed: int) -> Any:
    return collect_frames(settings, seed, lambda frames: frames)


def test_frames_are_kept_at_the_size_that_the_encoder_takes(pixel_env: Any) -> None:
    whole, _ = collect(pixel_env(length=20), 0)
    small, _ = collect_frames(pixel_env(length=20), 0, lambda frames: frames[:, ::4, ::4])
    assert np.array_equal(small, whole[:, ::4, ::4])


def test_an_environment_that_fails_is_one_line(pixel_env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise gym.error.ResetNeeded("no picture before a reset")

    monkeypatch.setattr(EnvSettings, "factory", lambda _: fail)
    with pytest.raises(RenderingError, match=r"test/Pixel-v0 can't draw \(no picture before a reset\)"):
        collect(pixel_env(), 0)


def test_frames_are_spread_evenly_over_random_episodes(pixel_env: Any) -> None:
    frames, episode = collect(pixel_env(length=60), 0)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(episode), 16, 16, 3)
    counts = np.bincount(episode)
    assert len(counts) == EPISODES
    assert set(counts) == {8}  # of 61: every eighth, for every fourth would be 16
    for number in range(EPISODES):
        # the environment draws its time in green rows from the top
        rows = (frames[episode == number][:, :, 0, 1] == 200).sum(axis=1) - 1
        assert rows.tolist() == [step % 16 for step in range(0, 61, 8)]


@pytest.mark.parametrize("length", [1, 5, 8, 15, 16, 17, 40, 100])
def test_short_episodes_give_all_their_frames_and_long_ones_few(pixel_env: Any, length: int) -> None:
    counts = np.bincount(collect(pixel_env(length=length, size=110), 0)[1])
    if length + 1 < 2 * FRAMES_PER_EPISODE:
        assert set(counts) == {length + 1}
    else:
        assert set(counts) <= set(range(FRAMES_PER_EPISODE, 2 * FRAMES_PER_EPISODE))


def test_the_same_seed_gives_the_same_frames_and_another_others(pixel_env: Any) -> None:
    first, second, other = (collect(pixel_env(length=20), seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_frames_of_one_colour_are_left_out(pixel_env: Any) -> None:
    counts = np.bincount(collect(pixel_env(length=9, black_steps=(0, 3)), 0)[1])
    assert set(counts) == {8}


@pytest.mark.parametrize(
    ("context", "needs"),
    [("frame", ("embeddings", "initial")), *((c, ("embeddings",)) for c in ("frame", "pair", "prefix", "episode"))],
)
def test_rewards_of_held_out_frames_are_those_of_training(context: Any, needs: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    lengths = [5, 1, 7]
    frames = rng.integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    embeddings = ProjectionEncoder().encode_images(frames)
    judged = np.ones(13, bool)
    judged[[0, 3, 6, 12]] = False  # they are the others' context all the same
    tower = Int8Tower("", b"", b"", frames, embeddings, np.repeat([4, 1, 2], lengths), judged)
    reward = LinearReward(context=context, needs=needs)
    dots, found = embeddings @ reward.direction, []
    for first, length in zip((0, 5, 6), lengths, strict=True):
        own = dots[first : first + length]
        found += {
            "frame": list(own[1:] - (own[0] if "initial" in needs else 0)),
            "pair": list(own[1:] - own[:-1]),
            "prefix": [own[: k + 1].mean() for k in range(1, length)],
            "episode": [own.mean()] * (length - 1),
        }[context]
    rounding = 2e-3 if context in ("prefix", "episode") else 1e-6  # whole episodes are kept in float16
    scored = held_out_score(reward, tower, "")(embeddings)
    assert np.flatnonzero(np.isnan(scored)).tolist() == [0, 5, 6]  # frames of resets
    assert scored[~np.isnan(scored)] == pytest.approx(np.array(found), abs=rounding)


def test_a_frame_without_reward_is_nan() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    embeddings = ProjectionEncoder().encode_images(frames)
    tower = Int8Tower("", b"", b"", frames, embeddings, np.zeros(6, np.int64), np.ones(6, bool))
    reward = LinearReward(refuse_above=float(np.sort(embeddings[1:] @ LinearReward().direction)[-2]))
    assert np.isnan(held_out_score(reward, tower, "")(embeddings)).sum() == 1 + 1  # and that of the reset


@pytest.fixture
def trained(cli: Any, tmp_path: Path) -> Path:
    outcome = cli(*TRAIN, "run_dir=run")
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.out.splitlines() if line.startswith("int8: ")]
    assert said[0] == "int8: calibrating on random episodes of cartpole"
    assert "centred cosine 0.99" in said[1]
    assert "rank correlation of rewards 0.99" in said[1]
    return tmp_path / "run"


@needs_openvino
def test_a_run_keeps_its_tower_for_every_command(
    cli: Any, refused: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = json.loads((trained / "result.json").read_text())["encoder"]
    assert (encoder["precision"], encoder["runtime"]) == ("int8", "openvino")
    figures = encoder["int8_agreement"]
    assert figures["frames"] >= figures["rewards"] >= 64
    assert figures["centred_cosine"] >= 0.99
    assert figures["spearman"] >= 0.995
    stored = trained / "int8.safetensors"
    tower = Int8Tower.load(stored)
    assert encoder["id"].endswith(f"-int8-{tower.digest}")

    def calibrates(*_: Any) -> None:
        raise AssertionError("the run has a tower")

    monkeypatch.setattr(calibration, "quantise", calibrates)
    outcome = cli("evaluate", "run=run", "episodes=1", "goal=cart at the left end of the track", "out=left.json")
    assert outcome.code == 0, outcome.err
    evaluated = json.loads(Path("left.json").read_text())["encoder"]
    assert evaluated["id"] == encoder["id"]
    assert evaluated["int8_agreement"]["spearman"] != figures["spearman"]  # of the other goal's reward
    assert cli("train", "resume=run", "total_timesteps=200").code == 0
    assert Int8Tower.load(stored).digest == tower.digest

    few = np.flatnonzero(tower.judged)[:60]
    stored.write_bytes(replace(tower, judged=np.isin(np.arange(len(tower.judged)), few)).to_bytes())
    refused(cli("evaluate", "run=run", "episodes=1"), "evaluate", "int8 is refused", "the goal it was trained on")

    stored.write_bytes(tower.to_bytes())
    refused(cli("evaluate", "run=run", "episodes=1", "encoder.runtime=torch"), "evaluate", "got 'torch'")
    stored.write_bytes(stored.read_bytes()[:-5])
    refused(cli("evaluate", "run=run", "episodes=1"), "evaluate", "int8.safetensors can't be read")
    refused(cli("train", "resume=run", "total_timesteps=300"), "train", "int8.safetensors can't be read")
    stored.write_bytes(replace(tower, encoder="mini-1-abc").to_bytes())
    refused(cli("evaluate", "run=run", "episodes=1"), "evaluate", "made from encoder mini-1-abc", "this one is mini-")
    stored.unlink()
    refused(cli("record", "run=run", "episodes=1"), "record", "int8.safetensors can't be read")


@needs_openvino
def test_a_tower_that_does_not_agree_is_refused_and_leaves_nothing(
    cli: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = calibration.quantise

    def mixed_up(*arguments: Any) -> Int8Tower:
        tower = good(*arguments)
        return replace(tower, reference=tower.reference[::-1])

    monkeypatch.setattr(calibration, "quantise", mixed_up)
    words = ("int8 is refused", "centred cosine", "(at least 0.99)", "rank correlation", "(at least 0.995)", "auto")
    refused(cli(*TRAIN, "run_dir=run"), "train", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("encoder.runtime=opnvino",), ("unknown runtime 'opnvino': did you mean 'openvino'",)),
        (("encoder.runtime=cuda_graphs",), ("runtime cuda_graphs runs on device=cuda alone",)),
        (("encoder.precision=int4",), ("precision must be auto, fp32, bf16, fp16, int8, got 'int4'",)),
        (("encoder.precision=int8", "encoder.runtime=torch"), ("int8 is computed by runtime openvino, got 'torch'",)),
        (("encoder.precision=int8", "encoder=fake"), ("'fake' has no setting 'precision'",)),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    cli: Any, refused: Any, tmp_path: Path, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(cli("train", "env=cartpole", "device=cpu", *settings), "train", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_missing_package_is_one_line_that_names_the_extra(
    cli: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "nncf" and find_spec("openvino") is None:
        pytest.skip("needs pip install 'vlmreward[openvino]'")
    line = f"package '{package}' is not installed: run pip install 'vlmreward[openvino]'"
    refused(cli(*TRAIN), "train", line)
    if package == "openvino":
        refused(cli("train", "env=cartpole", "encoder.runtime=openvino"), "train", line)


def test_only_training_calibrates(cli: Any, refused: Any) -> None:
    outcome = cli("evaluate", "env=cartpole", "policy=random", "encoder.precision=int8")
    refused(outcome, "evaluate", "precision int8 is calibrated by train")
    outcome = cli("audit", "env=cartpole", "encoder.precision=int8")
    refused(outcome, "audit", "precision int8 is calibrated on pictures, which train does: use another precision here")


@needs_openvino
def test_audit_evaluate_and_record_run_in_the_engine_that_is_asked_for(cli: Any, refused: Any, tmp_path: Path) -> None:
    engine = "encoder.runtime=openvino"
    outcome = cli("audit", "env=cartpole", engine, "count=60", "replicates=20", "landscapes=false", "out=page")
    assert outcome.code == 0, outcome.err
    told = json.loads((tmp_path / "page" / "audit.json").read_text())
    assert [encoder["runtime"] for encoder in told["encoders"]] == ["openvino"]
    options = ("env=cartpole", "policy=random", "episodes=1", "env.kwargs.max_episode_steps=20")
    for runtime in ("openvino", "torch"):
        outcome = cli("evaluate", *options, f"encoder.runtime={runtime}", f"out={runtime}.json")
        assert outcome.code == 0, outcome.err
        assert json.loads((tmp_path / f"{runtime}.json").read_text())["encoder"]["runtime"] == runtime
    assert cli("record", *options, engine, "out=clips").code == 0
    refused(cli("record", *options, "encoder.runtime=cuda_graphs"), "record", "runs on device=cuda alone")  # it is read
