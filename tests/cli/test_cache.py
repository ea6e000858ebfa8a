from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vlmreward.agents.checkpoint import CheckpointStore
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.settings import TrainSettings
from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.store_folder import META, StoreMeta

PPO = ("env=cartpole", "encoder=fake", "agent=ppo", "n_envs=2", "agent.n_steps=25", "agent.batch_size=50")
DQN = ("env=cartpole", "encoder=fake", "agent=dqn", "n_envs=2", "agent.learning_starts=50", "agent.buffer_size=150")
STEP_BY_STEP = ("env=cartpole", "encoder=fake", "agent=recurrent_ppo", "n_envs=2", "agent.n_steps=25")
SHORT = ("total_timesteps=100", "eval.episodes=1", "eval.every=50")
RANDOM = ("env=cartpole", "encoder=fake", "policy=random", "episodes=2", "seed=5")
AUDIT = ("audit", "env=cartpole", "encoder=fake", "count=120", "replicates=20", "landscapes=false", "out=audit")
STORE = "fake__float16"


@pytest.fixture
def encoded(fake_encoder: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of frames in the calls of the fake encoder."""
    from fake_encoder import FakeEncoder  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    calls: list[int] = []
    real = FakeEncoder.encode_images

    def encode_images(self: Any, frames: np.ndarray) -> np.ndarray:
        calls.append(len(frames))
        return real(self, frames)

    monkeypatch.setattr(FakeEncoder, "encode_images", encode_images)
    return calls


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# Scoring with a cache.


@pytest.mark.parametrize("settings", [PPO, DQN, STEP_BY_STEP], ids=["rollouts", "replay", "step by step"])
def test_second_run_encodes_nothing_and_is_the_same(
    cli: Any, tmp_path: Path, encoded: list[int], settings: tuple[str, ...]
) -> None:
    results = []
    for name in ("first", "second"):
        del encoded[:]
        outcome = cli("train", *settings, *SHORT, "cache=embeddings", f"run_dir={name}")
        assert outcome.code == 0, outcome.err
        results.append(result(tmp_path / name / "result.json"))
        cache = results[-1]["cache"]
        # the goal's vector in the fake encoder is that of a picture, which it encodes by itself
        assert sum(encoded) - encoded.count(1) <= cache["encoded"] <= sum(encoded)
        assert cache["frames"] == cache["hits"] + cache["encoded"]
        assert (cache["folder"], cache["dtype"]) == (str(tmp_path / "embeddings"), "float16")
    assert results[0]["cache"]["encoded"] > 150
    assert results[1]["cache"]["encoded"] == 0
    assert set(encoded) <= {1}
    assert results[1]["cache"]["frames"] == results[0]["cache"]["frames"]
    assert results[1]["evaluation"] == results[0]["evaluation"]
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")


def test_run_without_a_cache_says_so_and_leaves_none(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *PPO, *SHORT, "run_dir=run").code == 0
    assert result(tmp_path / "run" / "result.json")["cache"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("settings", [PPO, DQN], ids=["rollouts", "replay"])
def test_float32_cache_changes_nothing(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """The fake encoder gives a frame the same bits in any batch, and float32 keeps them."""
    cached = ("cache=embeddings", "cache_dtype=float32")
    for name, more in (("plain", ()), ("cold", cached), ("warm", cached)):
        assert cli("train", *settings, *SHORT, *more, f"run_dir={name}").code == 0
        assert numbers(tmp_path / name) == numbers(tmp_path / "plain")
        evaluation = result(tmp_path / name / "result.json")["evaluation"]
        assert evaluation == result(tmp_path / "plain" / "result.json")["evaluation"]


def test_float16_moves_returns_by_no_more_than_its_bound(cli: Any, tmp_path: Path) -> None:
    returns = []
    for more in ((), ("cache=embeddings",), ("cache=embeddings",)):
        assert cli("evaluate", *RANDOM, "out=x.json", *more).code == 0
        returns.append(result(tmp_path / "x.json")["evaluation"]["vlm_return"]["mean"])
    assert returns[1] == returns[2]
    # a reward is a dot product of two unit vectors, and an episode has 100 actions
    assert 0 < abs(returns[1] - returns[0]) < 100 * 2**-11


def test_all_commands_share_it(cli: Any, tmp_path: Path, encoded: list[int]) -> None:
    assert cli("train", *PPO, *SHORT, "run_dir=run", "cache=embeddings").code == 0
    seed = "seed=20000"  # of the final evaluation of training
    del encoded[:]
    outcome = cli("evaluate", "run=run", "episodes=1", seed, "cache=embeddings", "out=x.json")
    assert outcome.code == 0, outcome.err
    evaluated = result(tmp_path / "x.json")
    assert evaluated["cache"]["encoded"] == 0
    assert evaluated["evaluation"]["vlm_return"] == result(tmp_path / "run" / "result.json")["evaluation"]["vlm_return"]
    outcome = cli("record", "run=run", "episodes=1", seed, "cache=embeddings", "formats=png", "size=0")
    assert outcome.code == 0, outcome.err
    other_goal = ("goal=cart at the left end of the track", "cache=embeddings")
    assert cli("evaluate", "run=run", "episodes=1", seed, *other_goal).code == 0
    assert set(encoded) <= {1}
    assert cli("evaluate", "run=run", "episodes=1", seed).code == 0  # not told to: a run's cache is its own
    assert max(encoded) > 1


def test_second_audit_encodes_nothing_and_says_the_same(cli: Any, tmp_path: Path, encoded: list[int]) -> None:
    results = []
    for landscapes in ("true", "true", "false"):
        del encoded[:]
        outcome = cli(*AUDIT, "cache=embeddings", f"landscapes={landscapes}")
        assert outcome.code == 0, outcome.err
        results.append(result(tmp_path / "audit" / "audit.json"))
        counts = results[-1]["cache"]
        assert counts["frames"] == counts["hits"] + counts["encoded"]
        if len(results) > 1:
            assert counts["encoded"] == 0
            assert set(encoded) <= {1}  # the goal's vector, that of a picture
    first, second, bare = results
    assert first["cache"]["encoded"] > 200  # the landscapes' states are among them
    assert second["cache"]["frames"] == first["cache"]["frames"] > bare["cache"]["frames"] >= 118
    assert first["views"] == second["views"] == bare["views"]


def test_run_and_its_own_audit_share_it(cli: Any, encoded: list[int]) -> None:
    asked = ("train", *PPO, *SHORT, "cache=embeddings", "audit=require", "goal=nonsense", "env.task=left")
    for frames in (300, 0):  # of FRAMES in vlmreward.cli.gate; this reward is refused, so that nothing else is encoded
        del encoded[:]
        assert "does not beat chance" in cli(*asked).err
        assert frames // 2 < sum(encoded) - encoded.count(1) <= frames if frames else set(encoded) <= {1}


def test_resumed_run_keeps_its_cache_and_its_counts(
    cli: Any, tmp_path: Path, encoded: list[int], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("train", *PPO, *SHORT, "run_dir=run", "cache=embeddings", "cache_dtype=float32").code == 0
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    saved = store.load(store.find())[0]["cache"]  # the final evaluation came after that
    assert 0 < saved["encoded"] < result(tmp_path / "run" / "result.json")["cache"]["encoded"]
    settings = RunFolder.open("run")[1]
    assert (settings.cache, settings.cache_dtype) == (str(tmp_path / "embeddings"), "float32")
    for change in ("cache=other", "cache=null", "cache_dtype=float16"):
        key = change.partition("=")[0]
        refused(cli("train", "resume=run", change), "train", f"{key} can't change when a run is resumed")
    del encoded[:]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = cli("train", "resume=../run", "total_timesteps=150")
    assert outcome.code == 0, outcome.err
    assert list(Path().iterdir()) == []
    counts = result(tmp_path / "run" / "result.json")["cache"]
    assert counts["frames"] > saved["frames"] + 50
    assert saved["encoded"] + sum(encoded) - encoded.count(1) <= counts["encoded"] <= saved["encoded"] + sum(encoded)
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["fake__float32"]


def test_run_from_before_there_was_a_cache_can_be_opened(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *PPO, *SHORT, "run_dir=run").code == 0
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["cache"], config["cache_dtype"]
    assert TrainSettings.from_config(config).cache is None
    file.write_text(yaml.safe_dump(config))
    assert cli("train", "resume=run", "total_timesteps=150").code == 0
    assert cli("evaluate", "run=run", "episodes=1", "cache=embeddings").code == 0


def test_folder_is_taken_literally(cli: Any, tmp_path: Path) -> None:
    name = "it's, a [cache] = ${x} 100 %"
    assert cli("evaluate", *RANDOM, f"cache={name}").code == 0
    assert (tmp_path / name / STORE / META).is_file()
    assert name in cli("cache", f"path={name}", "all=true").out
    assert cli("evaluate", *RANDOM, "cache=null").code == 0
    assert not (tmp_path / "null").exists()


@pytest.mark.parametrize("command", [("train", *PPO, "run_dir=run"), AUDIT, ("evaluate", *RANDOM), ("record", *RANDOM)])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("cache=embeddings", "cache_dtype=int8"), "cache_dtype must be float16 or float32, got 'int8'"),
        (("cache_dtype=16",), "cache_dtype must be float16 or float32, got 16"),
        (("cache=",), "cache is empty: give a path as cache=<path>, or leave it out"),
        (("cache=file",), "file/fake__float16: not a directory; "),
        (("cahce=x",), "unknown setting 'cahce': did you mean 'cache'"),
    ],
)
def test_wrong_setting_is_one_line(
    cli: Any, refused: Any, tmp_path: Path, command: tuple[str, ...], settings: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file").write_text("")
    refused(cli(*command, *settings), command[0], words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_store_is_one_line(cli: Any, refused: Any, tmp_path: Path) -> None:
    assert cli("evaluate", *RANDOM, "cache=embeddings").code == 0
    path = tmp_path / "embeddings" / STORE / META
    meta = json.loads(path.read_text())
    path.write_text("{")
    refused(cli("evaluate", *RANDOM, "cache=embeddings"), "evaluate", "store.json is damaged: remove the folder")
    path.write_text(json.dumps({**meta, "dim": 65}))
    refused(cli("evaluate", *RANDOM, "cache=embeddings"), "evaluate", "dim=65", "wanted", "choose another cache")


def test_full_disk_is_one_line(
    cli: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    words = ("can't write embeddings to embeddings/fake__float16: no space left on device", "vlmreward cache")
    refused(cli("evaluate", *RANDOM, "cache=embeddings", "out=x.json"), "evaluate", *words)
    assert not (tmp_path / "x.json").exists()


# The command.


def add(cache: Path, encoder: str, frames: int, days: float = 0) -> EmbeddingStore:
    """Store embeddings of one segment that was written so many days ago."""
    store = EmbeddingStore(cache, StoreMeta(encoder, "fp32", 500, "float16"))
    keys = np.arange(2 * frames, dtype=np.uint64).reshape(-1, 2)
    store.add(keys, np.eye(500, dtype=np.float32)[np.arange(frames) % 500])
    written = time.time() - days * 86400
    for path in store.path.glob("*.keys"):
        os.utime(path, (written, written))
    return store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Stores of three encoders: 2.03, 1.02 and 0.10 MB."""
    for encoder, frames, days in (("mini-2-aa", 2000, 100), ("mini-2-bb", 1000, 50), ("ViT/B", 100, 1)):
        add(tmp_path / "embeddings", encoder, frames, days)
    return tmp_path / "embeddings"


def encoders(outcome: Any) -> list[str]:
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("encoder "))
    return [line.split()[0] for line in lines[start + 1 : -1]]


def test_table_shows_every_store(cli: Any, cache: Path) -> None:
    outcome = cli("cache", "path=embeddings")
    head, *rows, total = (line.split() for line in outcome.out.splitlines())
    assert " ".join(head) == "encoder precision runtime stored as dim frames size last written in use"
    yesterday, long_ago = (time.strftime("%Y-%m-%d", time.localtime(time.time() - d * 86400)) for d in (1, 100))
    assert [row[:7] + row[8:10] for row in rows] == [
        ["ViT/B", "fp32", "-", "float16", "500", "100", "0.1", yesterday, rows[0][9]],
        ["mini-2-aa", "fp32", "-", "float16", "500", "2,000", "2.0", long_ago, rows[1][9]],
        ["mini-2-bb", "fp32", "-", "float16", "500", "1,000", "1.0", rows[2][8], rows[2][9]],
    ]
    assert [row[7] + row[-1] for row in rows] == ["MBno"] * 3
    assert total == ["all", "3,100", "3.1", "MB"]
    assert encoders(cli("cache", "path=embeddings", "id=mini-2")) == ["mini-2-aa", "mini-2-bb"]


@pytest.mark.parametrize(
    ("settings", "left", "removed"),
    [
        (("older_than=60",), ["ViT/B", "mini-2-bb"], "2.0 MB"),
        (("older_than=0.5",), [], "3.1 MB"),
        (("older_than=1000",), ["ViT/B", "mini-2-aa", "mini-2-bb"], "0.0 MB"),
        (("max_size=0.0012",), ["ViT/B", "mini-2-bb"], "2.0 MB"),
        (("max_size=0.001",), ["ViT/B"], "3.0 MB"),
        (("max_size=1",), ["ViT/B", "mini-2-aa", "mini-2-bb"], "0.0 MB"),
        (("max_size=0",), [], "3.1 MB"),
        (("older_than=60", "max_size=0.001"), ["ViT/B"], "3.0 MB"),
        (("all=true",), [], "3.1 MB"),
        (("all=true", "id=mini-2-a"), ["ViT/B", "mini-2-bb"], "2.0 MB"),
        (("all=true", "id=mini"), ["ViT/B"], "3.0 MB"),
        (("max_size=0.0015", "id=mini"), ["ViT/B", "mini-2-bb"], "2.0 MB"),
        (("older_than=0.5", "id=ViT/B"), ["mini-2-aa", "mini-2-bb"], "0.1 MB"),
    ],
    ids=str,
)
def test_pruning(cli: Any, cache: Path, settings: tuple[str, ...], left: list[str], removed: str) -> None:
    outcome = cli("cache", "path=embeddings", *settings)
    assert outcome.out.splitlines()[0] == f"removed {removed}"
    if left:
        assert encoders(outcome) == left
    else:
        assert outcome.out.splitlines()[1:] == ["embeddings holds no embeddings"]
    assert len(list(cache.iterdir())) == len(left)
    assert cli("cache", "path=embeddings").out.splitlines() == outcome.out.splitlines()[1:]


def test_run_that_has_a_store_open_keeps_what_it_writes_to(cli: Any, cache: Path) -> None:
    store = add(cache, "mini-2-cc", 30)
    outcome = cli("cache", "path=embeddings", "all=true")
    assert "kept mini-2-cc's newest segment: a running process has it open" in outcome.out
    assert outcome.out.splitlines()[1] == "removed 3.1 MB"
    assert encoders(outcome) == ["mini-2-cc"]
    assert outcome.out.splitlines()[3].endswith("yes")
    del store
    assert "holds no embeddings" in cli("cache", "path=embeddings", "all=true").out


@pytest.mark.parametrize("text", ["", '{"version": 2}'], ids=["damaged", "another version"])
def test_unknown_store_is_shown_and_removed_only_by_its_name(cli: Any, cache: Path, text: str) -> None:
    (cache / "ViT%2FB__fp32__float16" / META).write_text(text)
    outcome = cli("cache", "path=embeddings")
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("ViT%2FB")]
    assert line.split()[1:7] == ["unknown", "unknown", "unknown", "unknown", "-", "0.1"]
    before = sorted(path for path in cache.rglob("*") if "ViT" in str(path))
    for limits in (("max_size=1",), ("older_than=1000", "id=ViT")):
        assert (
            "kept ViT%2FB__fp32__float16: it is damaged or of another version"
            in cli("cache", "path=embeddings", *limits).out
        )
    assert sorted(path for path in cache.rglob("*") if "ViT" in str(path)) == before
    assert encoders(cli("cache", "path=embeddings", "id=ViT", "all=true")) == ["mini-2-aa", "mini-2-bb"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "path is not given: write path=<folder>, the one that was given as cache=<folder>"),
        (("path=null",), "path is not given"),
        (("path=",), "path is empty"),
        (("path=nowhere",), "path=nowhere is not a folder"),
        (("path=runs",), "path=runs holds no embeddings: give the folder that was given as cache=<folder>"),
        (("path=embeddings/mini-2-aa__fp32__float16",), "write path=embeddings id=<encoder id>"),
        (("path=embeddings", "id=mini-3"), "no embeddings of encoder 'mini-3' in embeddings: "),
        (("path=embeddings", "older_than=-1"), "older_than must be a number >= 0, got -1"),
        (("path=embeddings", "older_than=week"), "older_than must be a number >= 0, got 'week'"),
        (("path=embeddings", "max_size=5GB"), "max_size must be a number >= 0, got '5GB'"),
        (("path=embeddings", "all=yes"), "all must be true or false, got 'yes'"),
        (("path=embeddings", "al=true"), "unknown setting 'al': did you mean 'all'"),
        (("embeddings",), "'embeddings' is not of the form key=value: write path=embeddings"),
        (("path=embeddings", "--all"), "unknown option '--all'"),
        (("path=embeddings", "env=cartpole"), "unknown setting 'env'"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_removes_nothing(
    cli: Any, refused: Any, cache: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    before = sorted(cache.rglob("*"))
    refused(cli("cache", *arguments), "cache", words)
    assert sorted(cache.rglob("*")) == before


def test_empty_folder_holds_nothing(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "embeddings").mkdir()
    for more in ((), ("all=true",), ("id=mini",)):
        outcome = cli("cache", "path=embeddings", *more)
        assert outcome.code == 0
        assert outcome.out.splitlines()[-1] == "embeddings holds no embeddings"


def test_settings_are_printed_and_nothing_is_done(cli: Any, cache: Path) -> None:
    outcome = cli("cache", "path=embeddings", "all=true", "id=mini-2", "--cfg")
    assert yaml.safe_load(outcome.out) == {
        "path": "embeddings",
        "id": "mini-2",
        "older_than": None,
        "max_size": None,
        "all": True,
    }
    assert len(list(cache.iterdir())) == 3


def test_page_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    from vlmreward.cli import main

    assert main(["cache", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("examples:", "path=embeddings", "older_than: null", "days", "max_size: null", "GB", "all: false"):
        assert words in out
    main(["train", "--help"])
    assert "cache: null" in capsys.readouterr().out


def test_command_loads_no_torch(cache: Path) -> None:
    code = (
        "import sys; from vlmreward.cli import main; "
        f"assert main(['cache', {f'path={cache}'!r}, 'max_size=1']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
