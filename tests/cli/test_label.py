"""``collect`` and ``label``: from an environment to a labelled dataset; what is written, refused and resumed."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data import open_dataset

COLLECT = ("collect", "env=cartpole", "env.kwargs.width=32", "env.kwargs.height=32", "episodes=6", "seed=3")
GOAL = "goal=pole vertically upright on top of the cart"


@pytest.fixture
def dataset(cli: Any) -> Path:
    outcome = cli(*COLLECT, "policy=[random,zero]", "out=c")
    assert outcome.code == 0, outcome.err
    return Path("c")


def videos(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.mp4")}


def test_collected_episodes_have_their_truth_beside_them(cli, dataset):
    read = open_dataset(dataset)
    with np.load("c.truth.npz", allow_pickle=False) as truth:
        episode, frame, progress, success = (truth[n] for n in ("episode", "frame", "progress", "success"))
        assert truth["policy"].tolist() == ["random", "zero"] * 3
    rows = sum(e.rows for e in read.episodes)
    assert [e.rows for e in read.episodes] == [100] * 6
    assert len(episode) == rows + 6  # the frame after the last action is judged too
    assert np.isfinite(progress).all()
    assert set(success.tolist()) <= {0.0, 1.0}
    assert frame[101] == 0
    assert read.fps == 25
    # the recorded reward is the sum of the environment's over a held action: no label, but the same direction
    recorded = np.concatenate([read.transitions(e).reward for e in read.episodes])
    after = np.delete(progress, np.arange(6) * 101)
    assert np.corrcoef(recorded, after)[0, 1] > 0.9


def test_same_seed_collects_the_same(cli, dataset):
    assert cli(*COLLECT, "policy=[random,zero]", "out=d").code == 0
    one, other = open_dataset("c"), open_dataset("d")
    for a, b in zip(one.episodes, other.episodes, strict=True):
        np.testing.assert_array_equal(one.transitions(a).observation, other.transitions(b).observation)
        np.testing.assert_array_equal(one.transitions(a).action, other.transitions(b).action)


def test_noise_replaces_actions(cli):
    for out, policy in (("a", "zero"), ("b", "zero@0.5"), ("c", "zero@1")):
        assert cli(*COLLECT, f"policy=[{policy}]", f"out={out}").code == 0
    moved = []
    for out in "abc":
        read = open_dataset(out)
        moved.append(np.mean([(read.transitions(e).action != 0).mean() for e in read.episodes]))
    assert moved[0] == 0
    assert 0.6 < moved[2] < 0.73  # two of three actions move the cart
    assert abs(moved[1] - moved[2] / 2) < 0.08


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("policy=nobody",), ("unknown policy 'nobody'", "random")),
        (("policy=zero@2",), ("share of random actions",)),
        (("policy=agent",), ("policy=agent needs run=",)),
        (("format=nope",), ("unknown dataset format",)),
        (("out=c",), ("c is not empty",)),
    ],
)
def test_collect_refuses(cli, refused, dataset, more, words):
    before = sorted(str(p) for p in Path(".").rglob("*"))
    refused(cli(*COLLECT, *more), "collect", *words)
    assert sorted(str(p) for p in Path(".").rglob("*")) == before


@pytest.mark.parametrize("form", ["lerobot", "robomimic", "minari", "folder"])
def test_collect_that_broke_off_leaves_nothing_and_begins_anew(cli, refused, monkeypatch, form):
    from vlmreward.cli import collect
    from vlmreward.errors import RenderingError

    record, count = collect.record_episode, 0

    def break_off(*given):
        nonlocal count
        count += 1
        if count == 3:
            raise RenderingError("the screen is gone: look for it")
        return record(*given)

    command = (*COLLECT, "episodes=3", f"format={form}", "out=c", "env.kwargs.max_episode_steps=20")
    with monkeypatch.context() as patched:
        patched.setattr(collect, "record_episode", break_off)
        refused(cli(*command), "collect", "the screen is gone")
    assert list(Path(".").iterdir()) == []
    assert cli(*command).code == 0
    assert len(open_dataset("c").episodes) == 3


def test_labels_are_written_in_place_and_undone(cli, dataset):
    before, films = open_dataset(dataset), videos(dataset)
    outcome = cli("label", "dataset=c", "force=true")
    assert outcome.code == 0, outcome.err
    assert "600 frames labelled" in outcome.out
    assert "report card of 6 episodes" in outcome.out
    after = open_dataset(dataset)
    assert videos(dataset) == films
    for episode in after.episodes:
        valid = after.column(episode, "reward_vlm_valid")
        assert valid.tolist() == [1.0] * 99 + [0.0]  # the last row has no successor
        assert np.isfinite(after.column(episode, "reward_vlm")).all()
        a, b = before.transitions(before.episodes[episode.index]), after.transitions(episode)
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.reward, b.reward)
    assert cli("label", "dataset=c", "undo=true").code == 0
    assert "reward_vlm" not in open_dataset(dataset).features
    assert videos(dataset) == films


def test_row_t_has_the_reward_of_frame_t_plus_1(cli, dataset):
    from vlmreward.encoders import make_encoder
    from vlmreward.rewards import make_reward

    assert cli("label", "dataset=c", GOAL, "force=true", "encoder.runtime=torch", "encoder.precision=fp32").code == 0
    read = open_dataset(dataset)
    encoder = make_encoder("mini", device="cpu", precision="fp32", runtime="torch")
    model = make_reward("clip", encoder, goal=GOAL.removeprefix("goal="))
    pictures = np.stack(list(read.frames(read.episodes[2], read.cameras[0])))
    expected = model.score_embeddings(encoder.encode_images(pictures))
    np.testing.assert_allclose(read.column(read.episodes[2], "reward_vlm")[:-1], expected[1:], atol=1e-3)


def test_row_t_of_the_progress_file_is_frame_t(cli, dataset):
    import pyarrow.parquet as pq

    from vlmreward.labelling.stored_labels import list_runs, open_labels

    assert cli("label", "dataset=c", GOAL, "name=sarm_progress", "force=true", "run_dir=job").code == 0
    read, table = open_dataset(dataset), pq.read_table("c/sarm_progress.parquet")
    (run,) = list_runs(Path("job"))
    stored = open_labels(run, read)
    expected = np.concatenate([stored.frames(episode.index).progress for episode in read.episodes])
    np.testing.assert_array_equal(table["progress_sparse"].to_numpy(), expected)
    of_rows = stored.episode(2).progress
    assert of_rows is not None
    np.testing.assert_array_equal(expected[201:300], of_rows[:-1])
    assert table["frame_index"].to_pylist()[200] == 0
    assert expected[200] not in of_rows, "the first frame counts, and no row has it"


def test_another_goal_decodes_nothing(cli, dataset):
    cli("label", "dataset=c", "force=true")
    outcome = cli("label", "dataset=c", "goal=cart at the left end of the track", "name=reward_left", "force=true")
    assert outcome.code == 0, outcome.err
    assert "0 of them decoded in this run" in outcome.out
    assert {"reward_vlm", "reward_left"} <= set(open_dataset(dataset).features)


def test_several_goals_are_labelled_as_one_reward_and_have_a_control(cli, dataset):
    """The control is another instruction in as many sentences, or a reward of several goals could not be built."""
    goals = (GOAL, "goal=the pole points straight up")
    outcome = cli("label", "dataset=c", "reward=product", "baseline=pole and cart", *goals, "force=true", "run_dir=job")
    assert outcome.code == 0, outcome.err
    (result,) = Path("job").glob("labels-*/result.json")
    card = json.loads(result.read_text())["report_card"]
    assert card["rise"] != card["rise_of_control"]
    read = open_dataset(dataset)
    values = np.concatenate([read.column(e, "reward_vlm") for e in read.episodes])
    assert ((values >= 0) & (values <= 1)).all()
    assert values.std() > 0


def test_dry_run_changes_nothing(cli, dataset):
    before = sorted((str(p), p.stat().st_mtime_ns) for p in Path(".").rglob("*"))
    outcome = cli("label", "dataset=c", "--dry-run")
    assert outcome.code == 0
    assert "600 rows" in outcome.out
    assert sorted((str(p), p.stat().st_mtime_ns) for p in Path(".").rglob("*")) == before


def test_useless_labels_are_refused_with_the_figure(cli, refused, dataset):
    tree = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    outcome = cli("label", "dataset=c", "encoder=fake")
    assert outcome.code == 2
    assert "these labels would be refused" in outcome.err
    assert "force=true" in outcome.err
    assert {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()} == tree


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("dataset=nowhere",), ("'nowhere' does not exist",)),
        (("dataset=c.truth.npz",), ("no known dataset format",)),
        (("dataset=c", "camera=wrist"), ("unknown camera 'wrist'",)),
        (("dataset=c", "name=next.reward"), ("next.reward",)),
        (("dataset=c", "name=a b"), ("name must be a word",)),
        (("dataset=c", "filler=zero"), ("filler must be one of",)),
        (("dataset=c", "max_invalid=-1"), ("max_invalid",)),
        (("dataset=c", "encoder.precision=int8"), ("int8",)),
        (("dataset=c", "undo=true"), ("reward_vlm",)),
        (("dataset=c", "reward=contrastive"), ("contrastive",)),
        ((), ("dataset is not given",)),
    ],
)
def test_label_refuses(cli, refused, dataset, more, words):
    tree = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    refused(cli("label", *more), "label", *words)
    assert {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()} == tree


def test_too_many_lost_frames_are_no_labels(cli, refused, dataset):
    film = next(dataset.rglob("*.mp4"))
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    outcome = cli("label", "dataset=c", "force=true")
    assert outcome.code == 2
    assert not any(
        "reward_vlm" in name for name in json.loads((dataset / "meta" / "info.json").read_text())["features"]
    )


def test_tabletops_own_policies_are_collected_and_succeed(cli):
    small = ("env.kwargs.width=32", "env.kwargs.height=32", "episodes=4")
    outcome = cli("collect", "env=tabletop", "env.task=lift", *small, "out=t", "policy=[expert,failed]")
    assert outcome.code == 0, outcome.err
    read = open_dataset("t")
    assert [e.success for e in read.episodes] == [True, False, True, False]
    assert {e.instruction for e in read.episodes} == {"lift the blue cube"}


def test_cartpoles_own_policies_are_collected(cli):
    assert cli(*COLLECT, "policy=[swing_up,hang]", "out=s").code == 0
    with np.load("s.truth.npz", allow_pickle=False) as truth:
        ends = truth["progress"].reshape(6, 101)[:, -20:].mean(axis=1)
    assert ends[::2].min() > ends[1::2].max()  # the pole is higher where it was swung up


def test_an_episode_without_a_single_label_costs_no_other(cli):
    """Its only picture has no successor; the others' labels are written, and its own row is invalid."""
    from vlmreward.data import find_format
    from vlmreward.data.dataset import Recording

    create = find_format("lerobot").create
    assert create is not None
    writer = create(Path("short"), fps=10, env_id="noise")
    for number, rows in enumerate((20, 1, 20)):
        pictures = np.random.default_rng(number).integers(0, 256, (rows + 1, 32, 32, 3), np.uint8)
        zeros = np.zeros((rows + 1, 2), np.float32)
        writer.add(Recording({"main": pictures}, zeros, zeros[1:], None, False, True, "noise"))
    writer.finish()
    for name in ("reward_vlm", "sarm_progress"):
        outcome = cli("label", "dataset=short", f"name={name}", "force=true")
        assert outcome.code == 0, outcome.err
    read = open_dataset("short")
    valid = [read.column(episode, "reward_vlm_valid").tolist() for episode in read.episodes]
    assert [sum(v) for v in valid] == [19, 0, 19]


def test_another_sample_is_the_same_run(cli, dataset):
    """The sample and its seed decide what is looked at first, and no label."""
    assert cli("label", "dataset=c", "encoder=fake", "force=true", "run_dir=job", "sample=10").code == 0
    labels = {p: p.read_bytes() for p in Path("job").glob("labels-*/*.npz")}
    outcome = cli("label", "dataset=c", "encoder=fake", "force=true", "run_dir=job", "sample=300", "seed=7")
    assert (outcome.code, outcome.err) == (0, "")
    assert "from this very run" in outcome.out
    outcome = cli("label", "dataset=c", "encoder=fake", "force=true", "run_dir=job", "sample=300", "write=false")
    assert outcome.code == 0
    assert {p: p.read_bytes() for p in Path("job").glob("labels-*/*.npz")} == labels


@pytest.mark.parametrize(("episodes", "judged"), [(4, False), (5, True)])
def test_few_episodes_are_labelled_and_not_judged(cli, episodes, judged):
    """Random pictures: the fake encoder's rewards rise nowhere, which five episodes are enough to tell."""
    from vlmreward.data import find_format
    from vlmreward.data.dataset import Recording

    create = find_format("folder").create
    assert create is not None
    writer = create(Path("few"), fps=10, env_id="noise")
    for number in range(episodes):
        pictures = np.random.default_rng(number).integers(0, 256, (31, 32, 32, 3), np.uint8)
        zeros = np.zeros((31, 2), np.float32)
        writer.add(Recording({"main": pictures}, zeros, zeros[1:], None, False, True, "noise"))
    writer.finish()
    outcome = cli("label", "dataset=few", "encoder=fake", "run_dir=job")
    assert outcome.code == (2 if judged else 0), outcome
    assert ("too few episodes to judge" in outcome.out) != judged
    assert (" to " in outcome.out.split("rise along episodes")[1].splitlines()[0]) == judged
    if not judged:
        (result,) = Path("job").glob("labels-*/result.json")
        card = json.loads(result.read_text())["report_card"]
        assert (card["is_enough"], card["refusal"], card["rise"][1:]) == (False, None, [None, None])


def test_truth_is_there_before_the_dataset_and_goes_with_it(cli, refused, monkeypatch):
    from vlmreward.data.staging import Staged
    from vlmreward.errors import StorageError

    seen = []

    def refuse(self: Staged, path: Path | None = None) -> None:
        seen.append(np.load("c.truth.npz")["policy"].tolist())
        raise StorageError("can't write c: no room left on the disk; free some room")

    command = ("collect", "env=cartpole", "env.kwargs.width=32", "env.kwargs.height=32", "episodes=2", "out=c")
    with monkeypatch.context() as patched:
        patched.setattr(Staged, "commit", refuse)
        refused(cli(*command), "collect", "no room left")
    assert seen == [["random", "random"]]
    assert list(Path(".").iterdir()) == []
    commit = Staged.commit

    def fail_late(self: Staged, path: Path | None = None) -> None:
        commit(self, path)
        raise StorageError("can't write c: the disk is gone")

    monkeypatch.setattr(Staged, "commit", fail_late)
    refused(cli(*command), "collect", "the disk is gone")
    assert len(open_dataset("c").episodes) == len(np.load("c.truth.npz")["policy"]) == 2


def test_truth_of_others_is_never_replaced(cli, refused, monkeypatch):
    from vlmreward.cli import collect

    def record(*given: Any) -> None:
        raise AssertionError("an episode was recorded")

    monkeypatch.setattr(collect, "record_episode", record)
    Path("c.truth.npz").write_bytes(b"precious")
    refused(cli(*COLLECT, "out=c"), "collect", "c.truth.npz exists", "move it away")
    assert [(p.name, p.read_bytes()) for p in Path(".").iterdir()] == [("c.truth.npz", b"precious")]


def test_what_collect_calls_success_is_the_last_frame_and_it_says_so(cli):
    """The tabletop's own success asks that it lasts for half a second: both are said, one is recorded."""
    touch = ("collect", "env=tabletop", "env.task=touch", "env.kwargs.width=32", "env.kwargs.height=32")
    outcome = cli(*touch, "episodes=2", "out=t", "policy=[expert,failed]")
    assert outcome.code == 0, outcome.err
    with np.load("t.truth.npz") as truth:
        ends = [truth["success"][truth["episode"] == number][-1] for number in range(2)]
    assert [float(e.success) for e in open_dataset("t").episodes] == ends
    assert f"{int(sum(ends))} of them successful in the last frame" in outcome.out
    assert "last frame" in cli("collect", "--help").out
