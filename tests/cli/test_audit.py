"""``vlmreward audit`` and the gate of ``train``, with an encoder that needs no weights."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmreward.cli import gate
from vlmreward.cli.gate import name_audit
from vlmreward.errors import ConfigError

AUDIT = ("audit", "encoder=fake", "count=120", "replicates=50", "landscapes=false", "out=a")
TRAIN = (
    "train", "env=cartpole", "encoder=fake", "agent=ppo", "n_envs=2", "agent.n_steps=50", "agent.batch_size=50",
    "eval.episodes=2", "run_dir=run",
)  # fmt: skip


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def folder(path: Path, labels: list[int], value=lambda i: 30 * i) -> Path:
    """Write pictures that grow brighter, with labels."""
    path.mkdir()
    for i in range(len(labels)):
        picture = np.full((64, 64, 3), 255, np.uint8)
        picture[: 8 + i, :32] = value(i)
        Image.fromarray(picture).save(path / f"{i}.png")
    rows = [f"{i}.png,{label}" for i, label in enumerate(labels)]
    (path / "labels.csv").write_text("\n".join(["file,success", *rows]) + "\n")
    return path


def test_an_audit_leaves_json_and_page(cli, tmp_path):
    outcome = cli(*AUDIT, "env=cartpole", "vary.reward.alpha=[0,0.5]")
    assert outcome.code == 0, outcome.err
    assert "best of 2" in outcome.out
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["audit.html", "audit.json"]
    result = read(tmp_path / "a" / "audit.json")
    assert result["goal"] == ["pole vertically upright on top of the cart"]
    assert len(result["settings"]["mismatched"]) == 3
    (view,) = result["views"]
    assert (view["frames"], view["sources"]) == (120, {"states": 60, "random": 60})
    names = [row["name"] for row in view["sweeps"]]
    assert names[:2] == ["alpha 0", "alpha 0.5"]
    assert "baseline: time index" in names
    assert view["sweeps"][1]["settings"] == {"reward.alpha": 0.5}
    first = view["sweeps"][0]["metrics"]["audit_score"]
    assert first["low"] <= first["value"] <= first["high"]


def test_goals_baselines_encoders_and_looks_are_varied_together(cli, tmp_path):
    sweep = ("vary.goal=a, b", "vary.goal=c", "vary.encoder.salt=[x,y]", "vary.env.kwargs.quality=[fast,fine]")
    outcome = cli(*AUDIT, "env=cartpole", "env.task=left", *sweep)
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "a" / "audit.json")
    assert [v["env_kwargs"]["quality"] for v in result["views"]] == ["fast", "fine"]
    assert [len([r for r in v["sweeps"] if "settings" in r]) for v in result["views"]] == [4, 4]
    assert [e["id"] for e in result["encoders"]] == ["fakex", "fakey"]
    assert result["task"] == "left"
    assert result["views"][0]["success_frames"] == result["views"][1]["success_frames"]


def test_landscapes_are_drawn_along_the_environments_sweeps(cli, tmp_path):
    assert cli(*AUDIT, "env=mountaincar", "landscapes=true").code == 0
    picture = tmp_path / "a" / "landscape_position.png"
    assert np.ptp(np.array(Image.open(picture))) > 0
    assert "data:image/png" in (tmp_path / "a" / "audit.html").read_text()


def test_a_runs_own_episodes_are_audited(cli, tmp_path):
    assert cli(*TRAIN, "total_timesteps=200").code == 0
    assert cli(*AUDIT, "env=cartpole", "run=run").code == 0
    (view,) = read(tmp_path / "a" / "audit.json")["views"]
    assert view["sources"] == {"states": 40, "random": 40, "agent": 40}
    outcome = cli(*AUDIT, "env=mountaincar", "run=run")
    assert outcome.code == 2
    assert "the run is of vlmreward/CartPole-v0, not of vlmreward/MountainCar-v0" in outcome.err


def test_pictures_of_ones_own(cli, tmp_path):
    folder(tmp_path / "pictures", [0, 0, 0, 1, 1, 1])
    outcome = cli(*AUDIT, "frames=pictures", "goal=anything")
    assert outcome.code == 0, outcome.err
    (view,) = read(tmp_path / "a" / "audit.json")["views"]
    assert (view["frames"], view["success_frames"], view["env_kwargs"]) == (6, 3, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "none of env, frames and dataset is given: write env=<name>, frames=<CSV file>"),
        (("env=cartpole", "frames=x"), "both env and frames are given"),
        (("frames=nowhere", "goal=x"), "no labels at nowhere"),
        (("frames=empty", "goal=x"), "empty holds 0 CSV files"),
        (("frames=ones", "goal=x"), "all 3 rows of ones/labels.csv have success 1: an audit needs both kinds"),
        (("frames=same", "goal=x"), "encoder fake maps all 4 frames to one vector"),
        (("frames=same",), "goal is not given"),
        (("env=cartpol",), "unknown env 'cartpol': did you mean 'cartpole'"),
        (("env=cartpole", "count=1"), "count must be a whole number >= 2, got 1"),
        (("env=cartpole", "replicates=x"), "replicates must be a whole number >= 0, got 'x'"),
        (("env=cartpole", "vary.rewards=[clip]"), "unknown setting 'rewards': did you mean 'reward'"),
        (("env=cartpole", "run=nowhere"), "nowhere"),
        (("env=cartpole", "vary.seed=[0,1]"), "an audit can't vary seed: it compares goal, baseline, reward"),
        (("env=cartpole", "vary.env.task=[upright,left]"), "an audit can't vary env.task"),
        (("env=cartpole", "vary.encoder.weights=[a,b]"), "write vary.encoder.weights=<a> vary.encoder.weights=<b>"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "ones", [1, 1, 1])
    (tmp_path / "same").mkdir()
    for i in range(4):
        Image.fromarray(np.full((64, 64, 3), 10, np.uint8)).save(tmp_path / "same" / f"{i}.png")
    (tmp_path / "same" / "labels.csv").write_text("file,success\n0.png,0\n1.png,1\n2.png,0\n3.png,1\n")
    outcome = cli(*AUDIT, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_settings_can_be_looked_at(cli):
    outcome = cli(*AUDIT, "env=cartpole", "vary.reward.alpha=[0,1]", "--cfg")
    assert outcome.code == 0
    assert outcome.out.count("alpha: ") == 2


# The gate.


@pytest.fixture
def few_frames(monkeypatch):
    """A run of 300 actions is long enough for an audit, of 30 frames."""
    monkeypatch.setattr(gate, "LEAST", 30)
    monkeypatch.setattr(gate, "STEPS_A_FRAME", 10)


@pytest.mark.parametrize(
    ("mode", "steps", "frames"),
    [("warn", 9_999, 0), ("warn", 10_000, 100), ("warn", 25_099, 250), ("warn", 10**6, 300), ("off", 10**6, 0),
     ("require", 1, 300)],
)  # fmt: skip
def test_frames_of_an_audit_are_a_hundredth_of_the_runs(mode, steps, frames):
    settings: Any = SimpleNamespace(total_timesteps=steps, reward={"name": "clip"})
    assert gate.count_frames(settings, mode) == frames
    settings.reward["combine"] = "env"
    assert gate.count_frames(settings, mode) == 0


def test_train_says_what_it_saw_and_keeps_it(cli, tmp_path, few_frames):
    outcome = cli(*TRAIN, "total_timesteps=300")
    assert outcome.code == 0, outcome.err
    assert "audit of 30 frames: AUROC of success" in outcome.err
    audited = read(tmp_path / "run" / "result.json")["audit"]
    assert (audited["mode"], audited["frames"]) == ("warn", 30)
    assert audited["figure"] in outcome.err


def test_a_short_run_and_audit_off_are_left_alone(cli, tmp_path, few_frames):
    assert "audit of" not in cli(*TRAIN, "total_timesteps=200").err
    assert read(tmp_path / "run" / "result.json")["audit"] is None
    shutil.rmtree(tmp_path / "run")
    assert "audit of" not in cli(*TRAIN, "total_timesteps=300", "audit=off").err


def test_require_refuses_a_reward_that_does_not_beat_chance(cli, tmp_path):
    outcome = cli(*TRAIN, "total_timesteps=200", "audit=require", "goal=nonsense", "env.task=left")
    assert outcome.code == 2
    assert "audit=require: the reward does not beat chance (AUROC of success" in outcome.err
    assert not (tmp_path / "run").exists()


def test_require_lets_a_good_reward_through(cli):
    outcome = cli(*TRAIN, "encoder=mini", "total_timesteps=200", "audit=require")
    assert outcome.code == 0, outcome.err
    assert "audit of 300 frames" in outcome.err


def learned(run: Path) -> list[dict]:
    """Return what a run logged of its learning, times apart."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.split("/")[0] in ("step", "rollout", "train")} for line in lines]


def test_an_audit_does_not_change_what_is_learned(cli, tmp_path):
    for name, mode in (("x", "require"), ("y", "off")):
        asked = ("encoder=mini", "encoder.runtime=torch", "total_timesteps=400", f"run_dir={name}", f"audit={mode}")
        assert cli(*TRAIN[:-1], *asked).code == 0
    x, y = (read(tmp_path / name / "result.json")["evaluation"] for name in "xy")
    assert x == y
    assert any("train/loss" in line for line in learned(tmp_path / "x"))
    assert learned(tmp_path / "x") == learned(tmp_path / "y")


def test_a_baseline_that_is_another_tasks_goal_is_audited(cli, few_frames):
    """The control's prompts are those of other tasks; one that is the run's own baseline is left out of it."""
    ends = ("goal=cart at the left end of the track", "baseline=cart at the right end of the track")
    outcome = cli(*TRAIN, "total_timesteps=300", "reward=contrastive", *ends)
    assert outcome.code == 0, outcome.err
    assert "audit of 30 frames: AUROC of success" in outcome.err


@pytest.mark.parametrize("reward", ["par", "clip_delta", "potential", "soft_and", "product", "constrained"])
def test_shaped_and_composite_rewards_are_audited(cli, tmp_path, reward):
    goals = ("goal=pole vertically upright on top of the cart", "goal=cart at the left end of the track")
    several = reward in ("soft_and", "product", "constrained")
    outcome = cli(*AUDIT, "env=cartpole", f"reward={reward}", *goals[: 1 + several], "baseline=a cart")
    assert outcome.code == 0, outcome.err
    assert (reward in ("clip_delta", "potential")) == ("is what was audited" in outcome.out)
    row = read(tmp_path / "a" / "audit.json")["views"][0]["sweeps"][0]["metrics"]
    assert row["audit_score"]["value"] is not None
    assert row["prompt_margin"]["value"] is not None


def test_a_reward_that_cant_be_audited_is_said_to_be_so(cli, tmp_path, few_frames, monkeypatch):
    def refuse(*_):
        raise ConfigError("it needs more than frames")

    monkeypatch.setattr("vlmreward.cli.audit_parts.check_scores_frames", refuse)
    outcome = cli(*TRAIN, "total_timesteps=300")
    assert outcome.code == 0, outcome.err
    assert "the reward was not audited: it needs more than frames" in outcome.err
    assert read(tmp_path / "run" / "result.json")["audit"]["skipped"] == "it needs more than frames"


def test_the_hint_audits_the_same_reward():
    argv = ["env=cartpole", "env.task=left", "reward.alpha=0.5", "encoder=siglip2", "n_envs=2", "seed=3"]
    assert name_audit(argv, "it's left") == (
        "vlmreward audit env=cartpole env.task=left reward.alpha=0.5 encoder=siglip2 'goal=it'\"'\"'s left'"
    )
    assert name_audit(["goal=x y", "+agent.gamma=1"], "x y") == "vlmreward audit 'goal=x y'"


def test_one_encoder_in_two_precisions_is_encoded_twice(cli, tmp_path):
    arguments = [a for a in AUDIT if a != "encoder=fake"]
    outcome = cli(*arguments, "encoder=mini", "env=cartpole", "vary.encoder.precision=[fp32,bf16]")
    assert outcome.code == 0, outcome.err
    rows = read(tmp_path / "a" / "audit.json")["views"][0]["sweeps"][:2]
    first, second = (row["metrics"]["pearson_progress"]["value"] for row in rows)
    assert first != second
    assert first == pytest.approx(second, abs=0.01)


def test_unknown_mode_is_refused(cli):
    outcome = cli(*TRAIN, "total_timesteps=200", "audit=maybe")
    assert outcome.code == 2
    assert "unknown audit='maybe'" in outcome.err


def test_without_a_true_success_a_warning_is_all_there_is(cli, tmp_path, few_frames):
    outcome = cli(*TRAIN, "total_timesteps=300", "goal=something else")
    assert outcome.code == 0, outcome.err
    assert "no labels; the reward spans" in outcome.err
    refused = cli(*TRAIN[:-1], "run_dir=other", "total_timesteps=200", "goal=something else", "audit=require")
    assert refused.code == 2
    assert "can't be judged" in refused.err


# The page.


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_the_page_is_drawn_and_sorted_by_a_real_browser(cli, tmp_path):
    """The page's own script runs: a click on a heading sorts the rows by it, baselines and all."""
    assert cli(*AUDIT, "env=cartpole", "landscapes=true", "vary.reward.alpha=[0,0.5,1]").code == 0
    page = (tmp_path / "a" / "audit.html").read_text()
    click = "<script>document.querySelectorAll('.sorted th')[1].click()</script></body>"
    (tmp_path / "clicked.html").write_text(page.replace("</body>", click))
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    )  # fmt: skip
    url = (tmp_path / "clicked.html").as_uri()
    dom = subprocess.run(
        ["chromium", *options, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    cells = [row.split("<td")[2] for row in body.split("<tr")[1:]]
    values = [float(c.split('data-sort="')[1].split('"')[0] or "nan") for c in cells]
    known = [v for v in values if not np.isnan(v)]
    assert len(known) >= 4
    assert known == sorted(known, reverse=True)
    assert np.isnan(values[len(known) :]).all()  # what is undefined goes last
    shot = tmp_path / "page.png"
    subprocess.run(
        ["chromium", *options, "--window-size=1320,2400", f"--screenshot={shot}", url],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    picture = np.array(Image.open(shot).convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500  # text, curves, a heat map, film strips
