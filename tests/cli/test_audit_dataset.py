"""``vlmreward audit dataset=...`` from the command line to the page, with an encoder that needs no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.testing.chat_server import ChatServer

TASKS = ("move it right", "move it left")
FEW = ("audit", "dataset=c", "encoder=fake", "replicates=50", "out=a")


def write_dataset(path: Path, episodes: int = 8, frames: int = 10) -> None:
    """Write films of a bar that moves to one side or the other; each fourth goes back again, and is a failure."""
    path.mkdir()
    rng, lines, truth = np.random.default_rng(0), [], []
    for number in range(episodes):
        failed = number % 4 == 3
        place = np.linspace(0, 1, frames)
        progress = np.minimum(place, 0.9 - place).clip(0) if failed else place
        column = np.rint(progress * 24).astype(int)
        film = rng.integers(0, 20, (frames, 32, 32, 3)).astype(np.uint8)
        for picture, start in zip(film, column if number % 2 == 0 else 24 - column, strict=True):
            picture[:, start : start + 8] = 255
        np.save(path / f"{number}.npy", film)
        line = {"video": f"{number}.npy", "task": TASKS[number % 2], "success": not failed}
        lines.append(json.dumps(line) + "\n")
        truth.append(progress)
    (path / "episodes.jsonl").write_text("".join(lines))
    np.savez(
        path.with_name(f"{path.name}.truth.npz"),
        episode=np.repeat(np.arange(episodes), frames),
        frame=np.tile(np.arange(frames), episodes),
        progress=np.concatenate(truth),
        success=np.full(episodes * frames, np.nan),
    )


@pytest.fixture
def dataset(cli: Any) -> None:  # which puts the test into a folder of its own
    write_dataset(Path("c"))


def rows(path: str = "a/audit.json") -> dict[str, Any]:
    result = json.loads(Path(path).read_text())
    values = {row["name"]: {k: m["value"] for k, m in row["metrics"].items()} for row in result["rows"]}
    return {"result": result, **values}


def test_rewards_and_baselines_stand_in_one_table(cli: Any, dataset: None) -> None:
    outcome = cli(*FEW, "vary.reward=[clip,contrastive]", "baseline=a table", "reward.alpha=0.5", "episodes=6")
    assert outcome.code == 0, outcome.err
    found = rows()
    result = found["result"]
    baselines = ["time index", "constant", "random", "pixel distance to the last frame"]
    expected = ["reward clip", "reward contrastive", *(f"baseline: {b}" for b in baselines)]
    assert [row["name"] for row in result["rows"]] == expected
    assert result["films"]["episodes"] == 6
    assert result["films"]["frames"] == 60
    assert set(result["instructions"]) == set(TASKS)
    rewards = [row["reward"] for row in result["settings"]["rows"]]
    assert ["alpha" in reward for reward in rewards] == [True, False]  # a setting goes to who has it
    assert rewards[0]["alpha"] == 0.5
    assert result["truth"] == "c.truth.npz"
    time, constant = found["baseline: time index"], found["baseline: constant"]
    assert (time["voc"], time["vroc"], time["voc_f1"], time["confusion_gap"]) == (1, -1, 0, 0)
    assert constant["voc"] is None
    assert found["baseline: pixel distance to the last frame"]["voc"] > 0.5
    for name in ("reward clip", "reward contrastive"):
        assert found[name]["voc"] is not None
        assert found[name]["spearman_true"] is not None
        assert found[name]["antisymmetry"] is None
    # a bar is the same to both when shown backwards: a model of single frames sees time in both directions
    assert found["reward clip"]["vroc"] == pytest.approx(found["reward clip"]["voc"], abs=1e-5)
    assert "[6] baseline: pixel distance" in outcome.out
    assert Path("a/audit.html").read_text().count("<tr") >= 7


def test_the_same_command_gives_the_same_table(cli: Any, dataset: None) -> None:
    assert cli(*FEW, "episodes=3").code == 0
    assert cli(*FEW[:-1], "episodes=3", "out=b").code == 0
    assert rows("a/audit.json")["result"]["rows"] == rows("b/audit.json")["result"]["rows"]
    assert len(rows()["result"]["films"]["numbers"]) == 3


def test_a_judge_stands_beside_the_others_and_its_cost_is_told(cli: Any, dataset: None) -> None:
    films = [np.load(f"c/{n}.npy") for n in range(8)]
    with np.load("c.truth.npz") as truth:
        np.savez("known.npz", frames=np.concatenate(films), progress=truth["progress"])
    judge = ("reward.judge.name=scripted", "reward.judge.path=known.npz")
    outcome = cli(*FEW, "vary.reward=[clip,gvl,rubric]", *judge, "goal=move it", "paraphrase=shift it", "episodes=4")
    assert outcome.code == 0, outcome.err
    found = rows()
    gvl, rubric = found["reward gvl"], found["reward rubric"]
    assert gvl["voc"] == pytest.approx(1)
    assert gvl["voc_prefix"] == pytest.approx(1)  # asked about beginnings, it is as good
    assert rubric["sign_accuracy"] == pytest.approx(1)
    assert rubric["ties"] > 0  # it knows five grades
    assert gvl["spearman_true"] == pytest.approx(1, abs=1e-3)
    assert gvl["instruction_gap"] == gvl["paraphrase_spread"] == 0  # it reads no instruction
    told = found["result"]["judges"]
    assert told.keys() == {"reward gvl", "reward rubric"}
    assert told["reward rubric"]["privileged"]
    assert told["reward rubric"]["calls"] > 4 * 10


def test_a_judge_that_answers_nothing_has_no_figures_and_is_quoted(cli: Any, dataset: None) -> None:
    server = ChatServer()
    try:
        judge = (f"reward.judge.url={server.url}", "reward.judge.model=m")
        outcome = cli(*FEW, "reward=rubric", *judge, "episodes=2", "every=3")
    finally:
        server.close()
    assert outcome.code == 0, outcome.err
    found = rows()
    assert found["rubric"]["voc"] is None
    assert found["rubric"]["undefined"] == 1
    (row,) = [row for row in found["result"]["rows"] if row["name"] == "rubric"]
    assert row["invalid"] == 8  # of ten frames four: 0, 3, 6, 9
    assert row["reasons"] == {"the reply is not one grade from 1 to 5: yes": 8}


def test_what_can_not_work_is_one_line(cli: Any, refused: Any, dataset: None) -> None:
    refused(cli(*FEW, "vary.reward=[clip,rubric]", "reward.alpah=1"), "audit", "unknown setting 'reward.alpah'")
    refused(cli(*FEW, "vary.goal=a", "vary.goal=b"), "audit", "can't vary goal")
    refused(cli(*FEW, "frames=x.csv"), "audit", "both dataset and frames are given")
    refused(cli(*FEW, "env=cartpole"), "audit", "both dataset and env are given")
    refused(cli(*FEW, "paraphrase=shift it"), "audit", "these episodes have 2")
    refused(cli(*FEW, "reward=preference"), "audit", "has no head yet: give reward.path=")
    refused(cli(*FEW, "truth=no.npz"), "audit", "no truth at no.npz")
    refused(cli(*FEW, "episodes=0"), "audit", "episodes must be")
    refused(cli("audit", "encoder=fake"), "audit", "none of env, frames and dataset is given")
    np.savez("other.npz", episode=[0], frame=[0], progress=[0.0], success=[0.0])
    refused(cli(*FEW, "truth=other.npz"), "audit", "holds nothing of frame")
    Path("other.npz").write_bytes(b"PK")
    refused(cli(*FEW, "truth=other.npz"), "audit", "can't be read as the truth")
    assert not Path("a/audit.json").exists()
