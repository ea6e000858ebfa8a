"""Encoders by name, and the rows of configs/encoder."""

import inspect
import subprocess
import sys
from importlib.resources import files
from typing import Any

import open_clip
import pytest
import yaml

from vlmreward.encoders import _ENCODERS, list_encoders, make_encoder, make_encoder_from_config, register_encoder
from vlmreward.encoders.weights import licence_of
from vlmreward.errors import ConfigError, UnknownNameError

ROWS = {path.name: yaml.safe_load(path.read_text()) for path in (files("vlmreward.configs") / "encoder").iterdir()}


class Fake:
    """Remembers what it was built with."""

    def __init__(self, side, device="auto", colour="grey"):
        self.settings = (side, device, colour)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(_ENCODERS, "_targets", dict(_ENCODERS._targets))
    monkeypatch.setitem(sys.modules, "fake_encoders", sys.modules[__name__])
    register_encoder("fake", "fake_encoders:Fake")


def test_names_are_listed_and_made(fake):
    assert {"fake", "mini", "open_clip"} <= set(list_encoders())
    made: list[Any] = [
        make_encoder("fake", side=3),
        make_encoder("fake", "cpu", side=3, colour="red"),
        make_encoder_from_config({"name": "fake", "side": 4}, device="cpu"),
    ]
    assert [m.settings for m in made] == [(3, "auto", "grey"), (3, "cpu", "red"), (4, "cpu", "grey")]


def test_wrong_names_and_settings_are_refused(fake):
    with pytest.raises(UnknownNameError, match="unknown encoder 'open_clop': did you mean 'open_clip'"):
        make_encoder("open_clop")
    with pytest.raises(ConfigError, match="encoder 'fake' has no setting 'color': did you mean 'colour'"):
        make_encoder("fake", side=3, color="red")
    with pytest.raises(ConfigError, match="encoder 'fake' needs the setting 'side'"):
        make_encoder("fake")
    with pytest.raises(ConfigError, match="needs 'name', got \\['side'\\]"):
        make_encoder_from_config({"side": 3})
    with pytest.raises(ValueError, match="registered already"):
        register_encoder("fake", "fake_encoders:Fake")


def test_importing_the_registry_loads_no_torch():
    code = "import sys, vlmreward.encoders as e; e.list_encoders(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("row", sorted(ROWS))
def test_every_row_names_settings_that_its_encoder_has(row):
    settings = dict(ROWS[row])
    target = _ENCODERS.get(settings.pop("name"))
    assert set(settings) <= set(inspect.signature(target).parameters)


@pytest.mark.parametrize("row", sorted(r for r in ROWS if ROWS[r].get("pretrained")))
def test_every_row_names_weights_that_open_clip_has(row):
    settings = ROWS[row]
    assert (settings["model"], settings["pretrained"]) in open_clip.list_pretrained()
    assert settings["licence"] == licence_of(settings["pretrained"])
