"""``vlmreward record``: MP4 and GIF of an agent, with goal, reward curve and true success on the pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from vlmreward.cli.subject import read_subject


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    subject = read_subject("record", argv)
    if subject is None:
        return 0

    import gymnasium as gym  # what follows loads torch

    from vlmreward.agents.evaluation import run_episodes
    from vlmreward.agents.progress import Progress
    from vlmreward.cli.build import build_scoring, set_threads
    from vlmreward.cli.environments import explain_render_error, settle_rendering
    from vlmreward.cli.load_run import load_policy, option
    from vlmreward.cli.pictures import TakePictures, fine_twin, make_clip, picture_stride
    from vlmreward.cli.run_folder import run_name
    from vlmreward.video.episodes import check_formats, write_clips
    from vlmreward.wrappers.scoring import FrameScorer

    settings, options = subject.settings, subject.options
    size, most = int(option(options, "size", 0)), option(options, "fps", 1)
    formats = check_formats(options["formats"])
    set_threads(settings)
    settle_rendering(settings.env.id)
    twin = fine_twin(settings.env, size)
    env: gym.Env = settings.env.factory()()
    try:
        stride, fps = picture_stride(env, most)
        camera = TakePictures(env, twin() if twin else None, stride)
        env = camera
        policy, _ = load_policy(subject, 1, camera)
        scoring = build_scoring(settings)
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
                    lambda _: progress.update(len(camera.episodes)),
                )
            except gym.error.Error as e:
                raise explain_render_error(settings.env.id, e) from e
    finally:
        env.close()
    clips = [make_clip(shots, episode, stride) for shots, episode in zip(camera.episodes, episodes, strict=True)]
    agent = settings.agent["name"] if options["policy"] == "agent" else options["policy"]
    name = run_name(settings).replace(f"__{settings.agent['name']}__", f"__{agent}__")
    if subject.other_goal:
        name += f"__{subject.other_goal}"
    written = write_clips(
        Path(str(options["out"])) / name,
        clips,
        " | ".join(settings.goal),
        fps,
        note=f"{settings.env.name}, {agent}, {settings.encoder['name']}"
        + {"env": ", learned from the environment's reward", "add": ", environment's reward added"}.get(
            settings.reward.get("combine", "replace"), ""
        ),
        formats=formats,
    )
    for number, episode in enumerate(episodes, 1):
        words = {True: "yes", False: "no", None: "null"}[episode.success[-1]]
        vlm = "not scored" if episode.vlm_return is None else f"{episode.vlm_return:.4g}"
        print(f"episode {number}: success {words}, VLM return {vlm}, environment return {sum(episode.env_rewards):.4g}")
    for path in written.values():
        print(f"video: {path}")
    return 0
