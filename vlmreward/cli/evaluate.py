"""``vlmreward evaluate``: true success, environment return and VLM return of an agent or a trivial policy."""

from __future__ import annotations

import sys

from vlmreward.cli.subject import read_subject


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    subject = read_subject("evaluate", argv)
    if subject is None:
        return 0

    from vlmreward.atomic import check_writable
    from vlmreward.cli.file_names import evaluation_path

    path = evaluation_path(subject)
    if path is not None:
        check_writable(path)  # before the episodes, which may take hours

    import gymnasium as gym  # what follows loads torch

    from vlmreward.agents.evaluation import Episode, run_episodes, summarise
    from vlmreward.agents.progress import Progress
    from vlmreward.cli.build import build_scoring, make_gate, set_threads
    from vlmreward.cli.environments import explain_render_error, settle_rendering
    from vlmreward.cli.load_run import load_policy
    from vlmreward.cli.results import describe_run, format_summary
    from vlmreward.cli.run_folder import write_json
    from vlmreward.wrappers.frame_gate import describe_gate
    from vlmreward.wrappers.scoring import FrameScorer

    settings, options = subject.settings, subject.options
    episodes, seed = options["episodes"], options["seed"]
    count = min(options["n_envs"], episodes)
    set_threads(settings.threads)
    settle_rendering(settings.env.id)
    envs: list[gym.Env] = []
    try:
        envs.extend(settings.env.factory()() for _ in range(count))
        policy, about = load_policy(subject, count, envs[0])
        scoring = build_scoring(settings, subject.folder) if options["score"] else None
        words = " / ".join(settings.goal)
        gate = make_gate(settings)
        scorer = FrameScorer(scoring.encoder, scoring.model, count, words, gate=gate) if scoring else None
        print(f"goal: {' | '.join(settings.goal)}", flush=True)
        if subject.note:
            print(f"note: {subject.note}", file=sys.stderr)
        with Progress("evaluating", episodes, unit="episodes") as progress:
            ended: list[Episode] = []

            def show(episode: Episode) -> None:
                ended.append(episode)
                known = [bool(e.success[-1]) for e in ended if e.success[-1] is not None]
                progress.update(len(ended), success=sum(known) / len(known) if known else None)

            try:
                results = run_episodes(envs, policy, episodes, seed, scorer, settings.encode_batch, show)
            except gym.error.Error as e:
                raise explain_render_error(settings.env.id, e) from e
    finally:
        for env in envs:
            env.close()
    summary = summarise(results)
    result = {"command": "evaluate", **describe_run(settings, scoring, subject.note), **about, "seed": seed}
    result |= {"run_seed": settings.seed, "deterministic": options["deterministic"], "evaluation": summary}
    result["frame_gate"] = gate.report() if gate else None
    print(format_summary(summary))
    if gate:
        print(describe_gate(gate.report()))
    if path is not None:
        write_json(path, result)
        print(f"result: {path}")
    return 0
