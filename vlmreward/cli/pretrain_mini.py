"""``vlmreward pretrain-mini``: train the embedded encoder from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.errors import UnknownNameError
from vlmreward.registry import suggest

if TYPE_CHECKING:
    from vlmreward.agents.fit.pictures import Domain


# Where the pictures and the captions of each environment come from.
DOMAINS = {
    "cartpole": ("vlmreward.envs.classic.pictures:sample_cartpole", "vlmreward.data.captions.cartpole"),
    "mountaincar": ("vlmreward.envs.classic.pictures:sample_mountaincar", "vlmreward.data.captions.mountaincar"),
    "humanoid": ("vlmreward.envs.mujoco.humanoid.pictures:sample_humanoid", "vlmreward.data.captions.humanoid"),
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


def main(argv: Sequence[str]) -> int:
    """Run the stages that are not done yet, and say where the weights are."""
    arguments = parse_arguments(argv)
    config = compose("pretrain_mini", arguments)
    if "cfg" in arguments.flags:
        import yaml

        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0

    from vlmreward.agents.fit.pretrain import Pretraining, PretrainSettings
    from vlmreward.agents.progress import Progress
    from vlmreward.encoders import mini
    from vlmreward.envs.mujoco.gl import ensure_gl

    ensure_gl()
    settings = PretrainSettings(
        seed=config["seed"],
        wordnet=config["wordnet"],
        distil_steps=config["distil_steps"],
        pictures=config["pictures"],
    )
    settings = replace(settings, fit=replace(settings.fit, steps=config["fit_steps"]))
    bars: dict[str, Progress] = {}

    def report(stage: str, done: int, total: int, loss: float | None) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars.clear()
            bars[stage] = Progress(stage, total).__enter__()
        bars[stage].update(done, loss=loss)

    run = Pretraining(settings, Path(config["out"]), load_domains(config["pictures"]), report)
    if config["install"] or not (mini.data_folder() / f"{mini.NAME}.json").exists():
        mini.write_config(mini.data_folder())
    try:
        path = run.fit(mini.VERSION, settings.fit)
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)
    print(f"weights: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if config["install"]:
        shutil.copyfile(path, mini.data_folder() / mini.WEIGHTS)
        print(f"installed in {mini.data_folder()}")
    else:
        print(f"use them with encoder.weights={path}, or install them with install=true")
    return 0
