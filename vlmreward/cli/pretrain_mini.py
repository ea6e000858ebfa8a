"""``vlmreward pretrain-mini``: train the embedded encoder from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmreward.atomic import check_writable
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.values import flag, whole
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

if TYPE_CHECKING:
    from vlmreward.agents.fit.pictures import Domain
    from vlmreward.agents.fit.pretrain import PretrainSettings


# Where the pictures and the captions of each environment come from.
DOMAINS = {
    "cartpole": ("vlmreward.envs.classic.pictures:sample_cartpole", "vlmreward.data.captions.cartpole"),
    "mountaincar": ("vlmreward.envs.classic.pictures:sample_mountaincar", "vlmreward.data.captions.mountaincar"),
    "humanoid": ("vlmreward.envs.mujoco.humanoid.pictures:sample_humanoid", "vlmreward.data.captions.humanoid"),
    "tabletop": ("vlmreward.envs.mujoco.tabletop.pictures:sample_tabletop", "vlmreward.data.captions.tabletop"),
}


def load_domains(names: Iterable[str]) -> list[Domain]:
    """Return what ``mini`` can learn, by environment.

    Raises:
        UnknownNameError: There are no captions for an environment.
    """
    from vlmreward.agents.fit.pictures import Domain

    domains = []
    for name in names:
        if name not in DOMAINS:
            raise UnknownNameError(f"no captions for environment {name!r}: {suggest(name, DOMAINS)}")
        sampler, captions = DOMAINS[name]
        module, function = sampler.split(":")
        words = import_module(captions)
        domains.append(Domain(name, getattr(import_module(module), function), words.CONCEPTS, words.HELD_OUT_REGIONS))
    return domains


def read_settings(config: Mapping[str, Any]) -> PretrainSettings:
    """Return the settings of a composed config.

    Raises:
        ConfigError: One has a value of the wrong kind.
    """
    from vlmreward.agents.fit.pretrain import PretrainSettings

    settings = PretrainSettings(
        seed=whole("seed", config["seed"], 0),
        wordnet=str(config["wordnet"]),
        distil_steps=whole("distil_steps", config["distil_steps"], 1),
        pictures={env: whole(f"pictures.{env}", count, 1) for env, count in config["pictures"].items()},
    )
    return replace(settings, fit=replace(settings.fit, steps=whole("fit_steps", config["fit_steps"], 1)))


def main(argv: Sequence[str]) -> int:
    """Run the stages that are not done yet, and say where the weights are."""
    arguments = parse_arguments(argv)
    refuse_words("pretrain-mini", arguments)
    config = compose("pretrain_mini", arguments)
    if "cfg" in arguments.flags:
        import yaml

        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0

    from vlmreward.agents.fit import corpus
    from vlmreward.agents.fit.pretrain import Pretraining
    from vlmreward.agents.progress import Progress
    from vlmreward.encoders import mini
    from vlmreward.envs.mujoco.gl import ensure_gl

    # Whatever can be wrong is found before the first file is made.
    settings, install = read_settings(config), flag("install", config["install"])
    if config["out"] is None:
        raise ConfigError("out must be a folder, got null: leave it out for the usual one")
    folder = Path(config["out"])
    check_writable(folder / "settings.json")
    if install:
        check_writable(mini.data_folder() / mini.WEIGHTS)
    domains = load_domains(settings.pictures)
    corpus.read_words(Path(settings.wordnet))
    ensure_gl()
    bars: dict[str, Progress] = {}

    def report(stage: str, done: int, total: int, loss: float | None) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars.clear()
            bars[stage] = Progress(stage, total).__enter__()
        bars[stage].update(done, loss=loss)

    run = Pretraining(settings, folder, domains, report)
    if install or not (mini.data_folder() / f"{mini.NAME}.json").exists():
        mini.write_config(mini.data_folder())
    try:
        path = run.fit(mini.VERSION, settings.fit)
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)
    print(f"weights: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if install:
        shutil.copyfile(path, mini.data_folder() / mini.WEIGHTS)
        print(f"installed in {mini.data_folder()}")
    else:
        print(f"use them with encoder.weights={path}, or install them with install=true")
    return 0
