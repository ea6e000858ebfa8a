"""What a user can get wrong is told before anything is made; the stages are tested in tests/agents/fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmreward.cli.pretrain_mini import load_domains, read_settings
from vlmreward.errors import UnknownNameError


@pytest.fixture(autouse=True)
def no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmreward.agents.fit.pretrain import Pretraining

    monkeypatch.setattr(Pretraining, "__init__", lambda *arguments: pytest.fail("the stages began"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("install=no", "install must be true or false, got 'no'"),
        ("install=1", "install must be true or false, got 1"),
        ("fit_steps=abc", "fit_steps must be a whole number >= 1, got 'abc'"),
        ("fit_steps=0", "fit_steps must be a whole number >= 1, got 0"),
        ("distil_steps=1.5", "distil_steps must be a whole number >= 1, got 1.5"),
        ("seed=x", "seed must be a whole number >= 0, got 'x'"),
        ("seed=true", "seed must be a whole number >= 0, got True"),
        ("pictures=3", "pictures is a group of settings"),
        ("pictures.cartpole=many", "pictures.cartpole must be a whole number >= 1, got 'many'"),
        ("pictures.cartpol=3", "unknown setting 'pictures.cartpol': did you mean 'pictures.cartpole'"),
        ("sede=1", "unknown setting 'sede': did you mean 'seed'"),
        ("wordnet=/nowhere", "/nowhere"),
        ("out=null", "out must be a folder, got null"),
        ("out=file/mini", "can't write file/mini/settings.json: a part of the path is a file"),
        ("mini", "'mini' is not of the form key=value"),
    ],
)
def test_wrong_setting_leaves_nothing(cli: Any, refused: Any, tmp_path: Path, asked: str, words: str) -> None:
    (tmp_path / "file").write_text("")
    refused(cli("pretrain-mini", asked), "pretrain-mini", words)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_settings_reach_the_stages() -> None:
    pictures = {"cartpole": 2e3}
    config = {"seed": 3, "wordnet": "w", "distil_steps": 1e2, "fit_steps": 7, "pictures": pictures}
    settings = read_settings(config)
    assert (settings.seed, settings.wordnet, settings.distil_steps, settings.fit.steps) == (3, "w", 100, 7)
    assert settings.pictures == {"cartpole": 2000}


def test_environment_without_captions_is_refused() -> None:
    assert [domain.name for domain in load_domains(["cartpole"])] == ["cartpole"]
    with pytest.raises(UnknownNameError, match="no captions for environment 'cartpol': did you mean 'cartpole'"):
        load_domains(["cartpol"])
