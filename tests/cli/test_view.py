"""``vlmreward view`` on labels that ``vlmreward label`` has made, with an encoder that needs no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vlmreward import data
from vlmreward.cli.view_curves import name_runs
from vlmreward.data.dataset import Format, Recording
from vlmreward.data.labels import EpisodeLabels, FrameLabels, Provenance
from vlmreward.labelling.stored_labels import list_runs, open_labels

LABEL = ("label", "dataset=d", "encoder=fake", "write=false", "force=true", "sample=10", "max_invalid=1")


@pytest.fixture
def write_dataset(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a dataset ``d`` of a format that is registered for this test."""
    monkeypatch.setitem(data._FORMATS._targets, "fake", "fake_dataset:FORMAT")
    import fake_dataset  # within reach since ``cli`` was asked for

    def write(lengths: tuple[int, ...] = (12, 7, 9), name: str = "d", **more: Any) -> Path:
        return fake_dataset.write_dataset(tmp_path / name, lengths, **more)

    return write


def facts_of(outcome: Any) -> list[dict[str, Any]]:
    """Return what the page that was written says of each episode."""
    assert outcome.code == 0, outcome
    page = Path(outcome.out.split("page: ")[1].strip()).read_text(encoding="utf-8")
    return [json.loads(text) for text in re.findall(r'class="facts">(.*?)</script>', page, re.DOTALL)]


def values(curve: dict[str, Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in curve["values"]], np.float32)


@pytest.mark.parametrize("extra", [0, 1], ids=["T frames", "T + 1 frames"])
def test_labels_of_two_goals_are_found_and_drawn_frame_by_frame(cli, write_dataset, extra):
    root = write_dataset(extra=extra, bad=[[2, 4]])
    for goal in ("a red cube", "a blue cube"):
        assert cli(*LABEL, f"goal={goal}").code == 0
    outcome = cli("view", "dataset=d", "episode=[2,0]")
    first, second = facts_of(outcome)
    assert "2 episodes, 2 labelling runs, 0 columns" in outcome.out
    assert outcome.err == ""
    assert (first["frames"], second["frames"]) == (9 + extra, 12 + extra)
    assert first["lost"] == {"4": "could not be decoded: the file is cut off"}
    (job,) = Path("runs/labels").iterdir()
    stored = [open_labels(run, data.open_dataset(root)) for run in list_runs(job)]
    assert len(stored) == 2
    for facts, index in ((first, 2), (second, 0)):
        drawn = {c["source"].split(" · ")[0]: c for c in facts["curves"] if c["kind"] == "reward"}
        assert set(drawn) == {"a red cube", "a blue cube"}
        for labels in stored:
            truth = labels.frames(index)
            curve = drawn[labels.provenance.goal]
            np.testing.assert_allclose(values(curve), truth.reward, rtol=1e-5)
            (progress,) = (c for c in facts["curves"] if (c["source"], c["kind"]) == (curve["source"], "progress"))
            np.testing.assert_allclose(values(progress), truth.progress, rtol=1e-5, atol=1e-7)
            assert curve["reasons"] == {str(frame): why for frame, why in truth.reasons.items()}
            assert labels.provenance.run in curve["about"]
    assert np.isnan(values(first["curves"][0])[4])
    one, other = (values(c) for c in second["curves"] if c["kind"] == "reward")
    assert not np.allclose(one, other)


def test_one_run_or_all_of_a_job_can_be_named(cli, write_dataset):
    write_dataset()
    for goal in ("a red cube", "a blue cube", "a cup"):
        assert cli(*LABEL, f"goal={goal}", "run_dir=job, of mine").code == 0
    runs = list_runs(Path("job, of mine"))
    (alone,) = facts_of(cli("view", "dataset=d"))
    assert alone["curves"] == []  # the job is not in its usual place
    (all_three,) = facts_of(cli("view", "dataset=d", "runs=job, of mine"))
    names = [c["source"] for c in all_three["curves"] if c["kind"] == "reward"]
    assert len(set(names)) == 3
    (two,) = facts_of(cli("view", "dataset=d", f"runs={runs[2]}", f"runs={runs[0]}", f"runs={runs[0]}"))
    assert [c["source"] for c in two["curves"] if c["kind"] == "reward"] == [names[2], names[0]]


def test_columns_are_of_the_frame_after_their_row(cli, write_dataset):
    """By hand: row t is about frame t + 1; of T frames the last row's is not there; progress has the reward's gaps."""
    columns = {
        "reward_vlm": [[0.1, 0.2, 0.3, 0.4]],
        "reward_vlm_valid": [[1, 0, 1, 1]],
        "reward_vlm_progress": [[0.5, 0.6, 0.7, 0.8]],
        "next.reward": [[1, 2, 3, 4]],
        "is_success": [[0, 0, 0, 1]],
    }
    for name, extra in (("d", 1), ("e", 0)):
        write_dataset((4,), name, extra=extra, columns=columns)
        (facts,) = facts_of(cli("view", f"dataset={name}"))
        drawn = {(c["source"], c["kind"]): c["values"] for c in facts["curves"]}
        assert drawn == {
            ("column reward_vlm", "reward"): [None, 0.1, None, 0.3, 0.4][: 4 + extra],
            ("column reward_vlm", "progress"): [None, 0.5, None, 0.7, 0.8][: 4 + extra],
        }
        (facts,) = facts_of(cli("view", f"dataset={name}", "columns=[next.reward,is_success]"))
        drawn = {(c["source"], c["kind"]): c["values"] for c in facts["curves"]}
        assert drawn == {
            ("column next.reward", "reward"): [None, 1, 2, 3, 4][: 4 + extra],
            ("column is", "success"): [None, 0, 0, 0, 1][: 4 + extra],
        }
    (facts,) = facts_of(cli("view", "dataset=d", "columns=[]"))
    assert facts["curves"] == []


def test_without_labels_the_film_alone_is_shown_and_that_is_said(cli, write_dataset):
    write_dataset()
    outcome = cli("view", "dataset=d")
    (facts,) = facts_of(outcome)
    assert facts["curves"] == []
    assert outcome.err == "note: no labels were found (vlmreward label makes them): the page shows the film alone\n"


def test_the_page_has_a_name_of_its_own_or_the_one_asked_for(cli, write_dataset):
    write_dataset(cameras=["front", "left wrist"])
    assert cli("view", "dataset=d", "camera=left wrist", "episode=[0,2]").code == 0
    assert [path.name for path in Path("runs/views").iterdir()] == ["d-left-wrist-0-2.html"]
    assert cli("view", "dataset=d", "camera=front", "out=a, b.html").code == 0
    assert Path("a, b.html").is_file()


def record(kind: str, episodes: int = 1) -> Format:
    """Write episodes of four rows, ``set.hdf5`` in any format, and return the format."""
    form = data.find_format(kind)
    assert form.create is not None
    writer = form.create(Path("set.hdf5"), fps=10.0, env_id="Noise-v0")
    pictures, zeros = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8), np.zeros((5, 2), np.float32)
    for _ in range(episodes):
        writer.add(Recording({"front": pictures}, zeros, zeros[1:], zeros[1:, 0], False, True, "open it"))
    writer.finish()
    return form


class HandLabels:
    """Labels of one episode of four rows; row 1 has none."""

    provenance = Provenance("ab" * 8, "mini-1 fp32", "MIT", {}, "a goal", "front", "0.1.0")

    def episode(self, index: int) -> EpisodeLabels:
        reward, progress = (np.array(v, np.float32) for v in ([0.1, 9, 0.3, 0.4], [0.5, 9, 0.7, 0.8]))
        return EpisodeLabels(reward, np.array([True, False, True, True]), None, progress)

    def frames(self, index: int) -> FrameLabels:
        raise AssertionError("columns are of rows")

    def __iter__(self) -> Iterator[EpisodeLabels]:
        return iter([self.episode(0)])


@pytest.mark.parametrize("kind", data.list_formats())
def test_labels_in_a_dataset_are_drawn_whatever_its_format(cli, kind):
    """By hand: row t is about frame t + 1, row 1 has no label; LeRobot keeps no frame after the last action."""
    form = record(kind)
    (bare,) = facts_of(cli("view", "dataset=set.hdf5"))
    assert bare["curves"] == []
    form.label(data.open_dataset("set.hdf5"), "reward_vlm").write(HandLabels())
    frames = 4 if kind == "lerobot" else 5
    reward, progress = [None, 0.1, None, 0.3, 0.4][:frames], [None, 0.5, None, 0.7, 0.8][:frames]
    in_file = {"lerobot": ["reward_vlm", "reward_vlm_progress"], "folder": ["vlm", "progress_vlm"]}
    asked = in_file.get(kind, ["rewards_vlm", "progress_vlm"])
    for settings, name in (([], "reward_vlm"), ([f"columns=[{','.join(asked)}]"], asked[0])):
        outcome = cli("view", "dataset=set.hdf5", *settings)
        assert (outcome.err, "2 columns" in outcome.out) == ("", True)
        (facts,) = facts_of(outcome)
        drawn = {(c["source"], c["kind"]): c["values"] for c in facts["curves"]}
        assert drawn == {(f"column {name}", "reward"): reward, (f"column {name}", "progress"): progress}


def test_episode_that_was_recorded_after_the_labels_is_shown_without_them(cli, refused):
    record("robomimic", episodes=2)
    with h5py.File("set.hdf5", "r+") as file:
        file["data/demo_0/rewards_vlm"] = np.arange(4, dtype=np.float32)
    first, second = facts_of(cli("view", "dataset=set.hdf5", "episode=[0,1]"))
    assert [c["values"] for c in first["curves"]] == [[None, 0, 1, 2, 3]]
    assert second["curves"] == []
    outcome = cli("view", "dataset=set.hdf5", "episode=[0,1]", "columns=rewards_vlm")
    refused(outcome, "view", "episode 1 has no column 'rewards_vlm'")


def test_column_that_can_not_be_read_is_not_left_out(cli, refused):
    record("folder")
    Path("set.hdf5/labels_vlm.parquet").write_bytes(b"cut off")
    refused(cli("view", "dataset=set.hdf5"), "view", "labels_vlm.parquet can't be read")


def test_frames_a_second_are_the_recorded_ones_the_asked_for_or_ten(cli, write_dataset):
    write_dataset(fps=29.97)
    write_dataset(name="e", fps=None)
    assert facts_of(cli("view", "dataset=d"))[0]["fps"] == 29.97
    assert facts_of(cli("view", "dataset=d", "fps=5"))[0]["fps"] == 5
    assert facts_of(cli("view", "dataset=e"))[0]["fps"] == 10


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), ("dataset is not given",)),
        (("dataset=nowhere",), ("nowhere", "does not exist")),
        (("dataset=d", "episode=3"), ("no episode 3", "3, 0 to 2")),
        (("dataset=d", "episode=first"), ("episode must be a whole number", "'first'")),
        (("dataset=d", "episode=[]"), ("episode must be a number or several",)),
        (("dataset=d", "episode=[0,-1]"), ("episode must be a whole number >= 0", "-1")),
        (("dataset=d", "camera=back"), ("unknown camera 'back'",)),
        (("dataset=d", "columns=[reward]"), ("no column 'reward'", "action")),
        (("dataset=d", "runs=nowhere"), ("runs=nowhere is no folder",)),
        (("dataset=d", "runs=d"), ("holds no finished labels",)),
        (("dataset=d", "size=8"), ("size must be a whole number >= 16",)),
        (("dataset=d", "fps=0"), ("fps must be between 0.1 and 240",)),
        (("dataset=d", "out=page.pdf"), ("ends in .html", "page.pdf")),
        (("dataset=d", "out=d/fake.json/page.html"), ("can't write", "not a folder")),
        (("dataset=d", "epsiode=1"), ("did you mean 'episode'",)),
        (("d",), ("write dataset=d",)),
    ],
)
def test_mistakes_are_told_in_one_line(cli, refused, write_dataset, settings, words):
    write_dataset()
    refused(cli("view", *settings), "view", *words)
    assert not Path("runs/views").exists()


def test_labels_of_another_dataset_or_damaged_ones_are_refused(cli, refused, write_dataset):
    write_dataset()
    write_dataset((5, 5), "shorter")
    write_dataset((7, 12, 9), "as long")
    write_dataset(name="other pictures", bad=[[2, 4]])
    write_dataset(name="other camera", cameras=["wrist"])
    assert cli(*LABEL, "goal=a red cube", "run_dir=job").code == 0
    (run,) = list_runs(Path("job"))
    for name in ("shorter", "as long", "other pictures", "other camera"):
        refused(cli("view", f"dataset={name}", "runs=job"), "view", "camera 'front'", "they are of another dataset")
    shard, result = run / "000000.npz", run / "result.json"
    kept, said = shard.read_bytes(), result.read_text()
    shard.write_bytes(kept[:100])
    refused(cli("view", "dataset=d", "runs=job"), "view", "000000.npz can't be read")
    shard.unlink()
    refused(cli("view", "dataset=d", "runs=job"), "view", "shard 0", "is missing", "run the same vlmreward label")
    shard.write_bytes(kept)
    for broken in (
        "{",
        "[]",
        said.replace("provenance", "origin"),
        said.replace('"encoder":', '"coder":'),
        said.replace("layout", "plan"),
    ):
        result.write_text(broken)
        refused(cli("view", "dataset=d", f"runs={run}"), "view", "result.json can't be read", f"remove {run}")
    result.unlink()
    refused(cli("view", "dataset=d", f"runs={run}"), "view", "holds no finished labels", "let it finish")
    result.write_text(said)
    assert cli("view", "dataset=d", f"runs={run}").code == 0


def run_of(number: int, goal: str = "up", camera: str = "front", **reward: Any) -> Provenance:
    encoder = "mini-2-569cc4f36dd6751b bf16"
    return Provenance(f"{number:016x}", encoder, "MIT", {"name": "clip", **reward}, goal, camera, "1")


def test_names_tell_runs_apart():
    assert name_runs([run_of(1), run_of(2, "")], "front") == [
        "up · mini-2 · clip",
        "each episode's own task · mini-2 · clip",
    ]
    assert name_runs([run_of(1), run_of(2, camera="wrist")], "front")[1] == "up · mini-2 · clip · camera wrist"
    assert name_runs([run_of(1, alpha=0, scale=1), run_of(2, alpha=0.5, scale=1)], "front") == [
        "up · mini-2 · clip alpha=0",
        "up · mini-2 · clip alpha=0.5",
    ]
    same = name_runs([run_of(0xABCDEF << 40), run_of(0x123456 << 40)], "front")
    assert same == ["up · mini-2 · clip (abcdef)", "up · mini-2 · clip (123456)"]
