"""Names of the files that ``evaluate`` and ``record`` write: whatever is asked otherwise than usual is in the name.

An evaluation stands in its run's folder. A clip stands beside those of other runs and has no more of a run in its name
than environment, reward, algorithm and seed: runs that differ in other settings need another ``out``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmreward.cli.environments import find_tasks
from vlmreward.cli.run_folder import run_name, slug
from vlmreward.cli.settings import TrainSettings

if TYPE_CHECKING:
    from vlmreward.cli.load_run import Subject


def clip_name(subject: Subject) -> str:
    """Return the name of a film, without its suffix.

    It begins with the run's name, ``cartpole__clip__ppo__seed0``, and goes on with what is not the usual: the goal
    that the agent was trained on, another one that it is asked for (``asked-...``), arguments of the environment, the
    baseline, the checkpoint, and whether actions are sampled.
    """
    settings, options = subject.settings, subject.options
    is_agent = options["policy"] == "agent"
    # a trivial policy was trained on nothing: its goal is the one it is scored for
    own = subject.trained if is_agent and subject.trained is not None else settings
    task = subject.default_task
    asked = _name_goal(settings, own.goal, own.env.task)
    parts = [
        run_name(settings, settings.agent["name"] if is_agent else options["policy"]),
        _name_goal(own, _goal_of(own.env.id, task), task),
        f"asked-{asked}" if asked else "",
        *_name_changes(subject.asked),
    ]
    if is_agent and options["checkpoint"] != "last":
        parts.append(f"checkpoint-{slug(str(options['checkpoint']))}")
    if is_agent and not options["deterministic"]:
        parts.append("sampled")
    return "__".join(filter(None, parts))


def evaluation_path(subject: Subject) -> Path | None:
    """Return the file for an evaluation's result; None if there is none: no run, and no ``out``."""
    settings, options = subject.settings, subject.options
    if options["out"]:
        return Path(options["out"])
    if subject.run is None or subject.trained is None:
        return None
    goal = _name_goal(settings, subject.trained.goal, subject.trained.env.task) or settings.env.task or "goal"
    parts = ["evaluation", options["policy"], str(options["checkpoint"]), goal, *_name_changes(subject.asked)]
    if options["episodes"] != subject.usual["episodes"]:
        parts.append(f"{options['episodes']}-episodes")
    if options["policy"] == "agent" and not options["deterministic"]:
        parts.append("sampled")
    if options["frame_gate"] is not None:
        parts.append(slug(f"gated {options['frame_gate']:g}"))
    if not options["score"]:
        parts.append("unscored")
    return subject.run.path / f"{'__'.join(parts)}__seed{options['seed']}.json"


def _name_goal(settings: TrainSettings, usual_goal: tuple[str, ...], usual_task: str | None) -> str:
    """Return the task and, where it is not the task's, the goal; "" if both are the usual ones."""
    task = settings.env.task
    if (settings.goal, task) == (usual_goal, usual_task):
        return ""
    own_words = "" if settings.goal == _goal_of(settings.env.id, task) else slug(" ".join(settings.goal))
    return "__".join(part for part in (task, own_words) if part)


def _name_changes(asked: dict[str, Any]) -> list[str]:
    """Return the parts of a name for changed arguments of the environment and another baseline."""
    kwargs = {key.removeprefix("env.kwargs."): value for key, value in asked.items() if key != "baseline"}
    words = [f"{key} {value}".replace(" -", " minus ") for key, value in kwargs.items()]
    parts = [slug(" ".join(words))] if words else []
    if "baseline" in asked:
        parts.append(f"baseline-{slug(' '.join(asked['baseline']))}")
    return parts


def _goal_of(env_id: str, task: str | None) -> tuple[str, ...]:
    tasks = find_tasks(env_id)
    return (tasks[task].goal,) if task in tasks else ()
