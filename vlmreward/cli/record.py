"""``vlmreward record``: MP4 and GIF of an agent, with goal, reward curve and true success on the pictures."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vlmreward.cli.subject import read_subject
from vlmreward.errors import ConfigError

if TYPE_CHECKING:
    from vlmreward.agents.evaluation import Episode
    from vlmreward.cli.load_run import Subject
    from vlmreward.video.episodes import EpisodeClip
    from vlmreward.video.spool import FrameSpool


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    subject = read_subject("record", argv)
    if subject is None:
        return 0

    from vlmreward.atomic import check_writable
    from vlmreward.cli.file_names import clip_name
    from vlmreward.video.episodes import check_formats, clip_paths, write_clips
    from vlmreward.video.overlay import OverlaySettings, load_font, missing_letters
    from vlmreward.video.spool import FrameSpool

    settings, options = subject.settings, subject.options
    goal = " | ".join(settings.goal)
    formats = check_formats(options["formats"])
    if options["out"] is None:
        raise ConfigError("out must be a folder, got null: leave it out for the usual one")
    overlay = OverlaySettings(font=options["font"] or "")
    load_font(12, overlay.font)
    stem = Path(options["out"]) / clip_name(subject)
    for path in clip_paths(stem, formats).values():
        check_writable(path)  # before the episodes: they take time
    if missing := missing_letters(goal, overlay.font):
        warnings.warn(
            f"the font has no letters for {missing!r} of the goal, boxes are drawn: give one that has them with "
            "font=<path of a .ttf or .otf file>",
            stacklevel=1,
        )
    agent = settings.agent["name"] if options["policy"] == "agent" else options["policy"]
    learned_from = {"env": ", learned from the environment's reward", "add": ", environment's reward added"}.get(
        settings.reward.get("combine", "replace"), ""
    )
    note = f"{settings.env.name}, {agent}, {settings.encoder['name']}{learned_from}"
    with FrameSpool() as spool:
        episodes, clips, fps = _run(subject, spool)
        written = write_clips(stem, clips, goal, fps, note, formats, overlay)
    for number, episode in enumerate(episodes, 1):
        words = {True: "yes", False: "no", None: "null"}[episode.success[-1]]
        vlm = "not scored" if episode.vlm_return is None else f"{episode.vlm_return:.4g}"
        print(f"episode {number}: success {words}, VLM return {vlm}, environment return {sum(episode.env_rewards):.4g}")
    for path in written.values():
        print(f"video: {path}")
    return 0


def _run(subject: Subject, spool: FrameSpool) -> tuple[list[Episode], list[EpisodeClip], float]:
    """Run the episodes; return them, what they looked like, and pictures per second."""
    import gymnasium as gym  # what follows loads torch

    from vlmreward.agents.evaluation import run_episodes
    from vlmreward.agents.progress import Progress
    from vlmreward.cli.build import build_scoring, set_threads
    from vlmreward.cli.environments import explain_render_error, settle_rendering
    from vlmreward.cli.load_run import load_policy
    from vlmreward.cli.pictures import TakePictures, fine_twin, make_clip, picture_stride
    from vlmreward.wrappers.scoring import FrameScorer

    settings, options = subject.settings, subject.options
    set_threads(settings.threads)
    settle_rendering(settings.env.id)
    twin = fine_twin(settings.env, options["size"])
    env: gym.Env = settings.env.factory()()
    try:
        stride, fps = picture_stride(env, options["fps"])
        env = camera = TakePictures(env, twin() if twin else None, stride, spool)
        policy, _ = load_policy(subject, 1, camera)
        scoring = build_scoring(settings, subject.folder)
        scorer = FrameScorer(scoring.encoder, scoring.model, 1, " / ".join(settings.goal))
        if subject.note:
            print(f"note: {subject.note}", file=sys.stderr)
        with Progress("recording", options["episodes"], unit="episodes") as progress:
            try:
                episodes = run_episodes(
                    [camera],
                    policy,
                    options["episodes"],
                    options["seed"],
                    scorer,
                    settings.encode_batch,
                    lambda _: progress.update(len(spool)),
                )
            except gym.error.Error as e:
                raise explain_render_error(settings.env.id, e) from e
    finally:
        env.close()
    clips = [make_clip(spool.episode(number), episode, stride) for number, episode in enumerate(episodes)]
    return episodes, clips, fps
