"""``vlmreward audit``: tell before any training whether a reward is any good."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.atomic import check_writable
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import refuse_words

if TYPE_CHECKING:
    import gymnasium as gym

    from vlmreward.audit.audit import Variant, View
    from vlmreward.audit.report import Figure
    from vlmreward.audit.survey import Block
    from vlmreward.cli.audit_settings import AuditSettings
    from vlmreward.types import Encoder, RewardModel


@dataclass
class Audited:
    """What an audit found.

    Attributes:
        encoders: What encoded the frames.
        views: One for each look.
        figures: The landscapes.
        seconds: By the clock on the wall: ``frames`` were drawn and encoded, ``metrics`` computed with their
            intervals, ``landscapes`` drawn, encoded and plotted.
    """

    encoders: list[Encoder]
    views: list[View] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"frames": 0.0, "metrics": 0.0, "landscapes": 0.0})


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Args:
        argv: The arguments after the command's name.

    Raises:
        VlmRewardError: A setting is wrong, a picture can't be read or made, ...
    """
    arguments = parse_arguments(argv)
    refuse_words("audit", arguments)
    if arguments.path("dataset") is not None:
        from vlmreward.cli.audit_dataset import audit_dataset

        return audit_dataset(arguments)
    from vlmreward.cli.audit_settings import settle_audit

    settings = settle_audit(arguments)
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True), end="")
        return 0
    folder = _folder(settings)
    check_writable(folder / "audit.json")

    from vlmreward.audit.report import write_report
    from vlmreward.audit.verdict import judge
    from vlmreward.cli.build import set_threads
    from vlmreward.cli.results import describe_cache
    from vlmreward.cli.run_folder import describe_machine

    set_threads(settings.options["threads"])
    if settings.note:
        print(f"note: {settings.note}", file=sys.stderr)
    found = run_audit(settings)
    first = settings.scorers[0]
    goals = list(dict.fromkeys(" / ".join(s.goal) for s in settings.scorers))
    about = {
        "command": "audit",
        "title": goals[0] if len(goals) == 1 else f"{len(goals)} prompts, {goals[0]} first",
        "subject": settings.env.id if settings.env else str(settings.frames),
        "task": settings.env.task if settings.env else None,
        "goal": list(first.goal),
        "baseline": list(first.baseline),
        "settings": _plain(settings),
        "encoders": [
            {"id": e.id, "licence": e.licence, **{key: getattr(e, key, None) for key in ("precision", "runtime")}}
            for e in found.encoders
        ],
        "cache": describe_cache(settings.options, found.encoders),
        "seed": settings.options["seed"],
        "seconds": {name: round(seconds, 2) for name, seconds in found.seconds.items()},
        **describe_machine(),
    }
    json_path, html_path = write_report(folder, about, found.views, found.figures)
    for view in found.views:
        best = view.best
        verdict = judge(view, best)
        if len(view.variants) > 1 and view.floors:
            print(f"best of {len(view.variants)}: {view.variants[best].name}")
        mark = {True: "beats chance", False: "DOES NOT BEAT CHANCE", None: "can't be judged"}
        print(f"{mark[verdict.beats_chance]}: {verdict.figure}")
        for warning in verdict.warnings:
            print(f"warning: {warning}")
    print(f"result: {json_path}\npage:   {html_path}")
    return 0


def run_audit(settings: AuditSettings) -> Audited:
    """Draw the frames, encode them once, and compare every way of scoring."""
    from vlmreward.agents.progress import Progress
    from vlmreward.audit.audit import audit_view
    from vlmreward.audit.gallery import build_gallery
    from vlmreward.cli.audit_parts import open_encoders

    encoders = open_encoders([scorer.encoder for scorer in settings.scorers], settings.options)
    variants = make_variants(settings, encoders)  # before the frames: a bad prompt is told in a second
    looks = list(dict.fromkeys(s.look for s in settings.scorers))
    found = Audited(list(encoders.values()))
    for look in looks:
        pairs = [(s, v) for s, v in zip(settings.scorers, variants, strict=True) if s.look == look]
        mine = [v for _, v in pairs]
        kwargs = pairs[0][0].env_kwargs
        used = {v.encoder: encoders[v.encoder] for v in mine}
        total = settings.options["count"] if settings.frames is None else None
        began = time.perf_counter()
        with Progress("encoding", total or 0, unit="frames") as progress:
            gallery = build_gallery(_counted(survey(settings, kwargs), progress), used)
        drawn = time.perf_counter()
        shown = kwargs if len(looks) > 1 else {}
        view = audit_view(gallery, mine, shown, settings.options["replicates"], settings.options["seed"])
        found.views.append(view)
        measured = time.perf_counter()
        if settings.options["landscapes"] and settings.env is not None:
            prefix = f"{len(found.views)}_" if len(looks) > 1 else ""
            found.figures += draw_landscapes(settings, kwargs, view, used, prefix)
        found.seconds["frames"] += drawn - began
        found.seconds["metrics"] += measured - drawn
        found.seconds["landscapes"] += time.perf_counter() - measured
    return found


def make_variants(settings: AuditSettings, encoders: Mapping[str, Encoder]) -> list[Variant]:
    """Build every reward model, and beside each the same with the prompts of other goals."""
    from vlmreward.cli.audit_parts import build_variant, key_of
    from vlmreward.cli.audit_settings import names_of

    known: dict[str, RewardModel] = {}
    return [
        build_variant(
            name,
            s.chosen,
            encoders[key_of(s.encoder)],
            s.reward,
            s.goal,
            s.baseline,
            settings.mismatched,
            key_of(s.encoder),
            known,
        )
        for s, name in zip(settings.scorers, names_of([s.name for s in settings.scorers]), strict=True)
    ]


def survey(settings: AuditSettings, kwargs: Mapping[str, Any]) -> Iterator[Block]:
    """Yield the frames of one look."""
    from vlmreward.agents.policies import RandomPolicy
    from vlmreward.audit.folder import read_folder
    from vlmreward.cli.audit_parts import survey_env
    from vlmreward.cli.load_run import load_agent

    if settings.frames is not None:
        yield from read_folder(settings.frames)
        return
    assert settings.env is not None
    env = _make_env(settings, kwargs)
    try:
        policies: dict[str, Any] = {"random": RandomPolicy(env.action_space, 1)}
        if settings.options["run"] is not None:
            policies["agent"] = load_agent(str(settings.options["run"]), settings.env, env)
        yield from survey_env(env, settings.env, policies, settings.options["count"], settings.options["seed"])
    finally:
        env.close()


def draw_landscapes(
    settings: AuditSettings, kwargs: Mapping[str, Any], view: View, encoders: Mapping[str, Encoder], prefix: str
) -> list[Figure]:
    """Draw the best rewards along the environment's lines, and the best one over its planes."""
    from vlmreward.audit.audit import SCORE
    from vlmreward.audit.landscape import CURVES, draw_landscape, survey_landscape
    from vlmreward.audit.report import Figure
    from vlmreward.cli.run_folder import slug
    from vlmreward.types import Surveyable

    assert settings.env is not None
    env = _make_env(settings, kwargs)
    try:
        bare = env.unwrapped
        if not isinstance(bare, Surveyable):
            return []
        order = list(range(len(view.variants)))
        if SCORE in view.table.columns:
            order = [i for i in view.table.best_first(SCORE).tolist() if i < len(view.variants)]
        figures = []
        for sweep in bare.sweeps(settings.env.task):
            shown = order[:CURVES] if len(sweep.axes) == 1 else order[:1]
            landscape = survey_landscape(env, sweep, settings.env.task, view, shown, encoders)
            words = " and ".join(axis.name for axis in sweep.axes)
            name = f"landscape_{prefix}" + "_".join(slug(axis.name) for axis in sweep.axes)
            title = f"reward over {words}"
            figures.append(Figure(name, title, draw_landscape(landscape, title)))
        return figures
    finally:
        env.close()


def _make_env(settings: AuditSettings, kwargs: Mapping[str, Any]) -> gym.Env:
    import gymnasium as gym

    from vlmreward.cli.environments import explain_render_error, settle_rendering

    assert settings.env is not None
    settle_rendering(settings.env.id)
    try:
        return settings.env.factory(**kwargs)()
    except gym.error.Error as e:
        raise explain_render_error(settings.env.id, e) from e


def _counted(blocks: Iterator[Block], progress: Any) -> Iterator[Block]:
    done = 0
    for block in blocks:
        yield block
        done += len(block.episode)
        progress.update(done)


def _folder(settings: AuditSettings) -> Path:
    if settings.options["out"] is not None:
        return Path(settings.options["out"])
    from vlmreward.cli.run_folder import slug

    subject = settings.env.name if settings.env else "frames"
    return Path("audits") / f"{subject}__{slug(' '.join(settings.scorers[0].goal))}"


def _plain(settings: AuditSettings) -> dict[str, Any]:
    from dataclasses import asdict

    env = asdict(settings.env) if settings.env else None
    return {
        **{
            k: v
            for k, v in settings.options.items()
            if k not in ("encoder", "reward", "goal", "baseline", "mismatched", "out")
        },
        "env": env,
        "mismatched": list(settings.mismatched),
        "scorers": [
            {
                "name": s.name,
                "goal": list(s.goal),
                "baseline": list(s.baseline),
                "reward": dict(s.reward),
                "encoder": dict(s.encoder),
                "env_kwargs": dict(s.env_kwargs),
            }
            for s in settings.scorers
        ],
    }
