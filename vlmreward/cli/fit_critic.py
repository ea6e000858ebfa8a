"""``vlmreward fit-critic``: train a progress critic on recorded episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.cli.arguments import Arguments, parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.embedded_dataset import LEAST_FRAMES
from vlmreward.cli.label_settings import settle_decode_threads
from vlmreward.cli.settings import check_cache_dtype
from vlmreward.cli.values import number, whole
from vlmreward.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from vlmreward.agents.fit.critic import CriticFitSettings
    from vlmreward.agents.fit.critic_episodes import CriticEpisode
    from vlmreward.rewards.critic import Critic
    from vlmreward.types import Encoder, FloatArray

CRITIC = "critic.safetensors"


@dataclass(frozen=True)
class FitCriticSettings:
    """What the command is asked.

    Attributes:
        datasets: Paths as given.
        rollouts: Paths as given.
        encoder: Config of the encoder.
        options: The command's own settings, checked.
    """

    datasets: tuple[str, ...]
    rollouts: tuple[str, ...]
    encoder: Mapping[str, Any]
    options: Mapping[str, Any]


def settle_fit_critic(arguments: Arguments) -> FitCriticSettings:
    """Check the settings of a command line.

    Raises:
        VlmRewardError: A setting is unknown, missing or out of range.
    """
    composed = compose("fit_critic", arguments)
    datasets, rollouts = tuple(composed["dataset"]), tuple(composed["rollouts"])
    if not datasets:
        raise ConfigError("dataset is not given: write dataset=<recorded episodes>, as often as there are datasets")
    checked = dict(composed)
    for name in ("steps", "groups", "width", "layers", "reference_frames", "encode_batch"):
        checked[name] = whole(name, composed[name], 2 if name == "reference_frames" else 1)
    checked["seed"] = whole("seed", composed["seed"], 0)
    if composed["stride"] != "auto":
        checked["stride"] = whole("stride", composed["stride"], 1)
    checked["learning_rate"] = number("learning_rate", composed["learning_rate"], 0)
    checked["push_back"] = number("push_back", composed["push_back"], 0)
    for name in ("held_out", "mismatched", "failures", "shown"):
        checked[name] = number(name, composed[name], 0)
        if checked[name] > 1:
            raise ConfigError(f"{name} must be a share in [0, 1], got {composed[name]}")
    if checked["push_back"] > 0 and not rollouts:
        raise ConfigError("push_back trains on an agent's own episodes: give them as rollouts=<dataset>")
    if composed["out"] is None:
        raise ConfigError("out must be a folder, got null: leave it out for the usual one")
    check_cache_dtype(composed["cache_dtype"])
    checked["decode_threads"] = settle_decode_threads(composed["decode_threads"])
    if composed["encoder"].get("precision") == "int8":
        raise ConfigError("encoder.precision=int8 is calibrated on an environment's frames: fit with auto or bf16")
    return FitCriticSettings(datasets, rollouts, composed["encoder"], {**checked, "run_dir": None})


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Raises:
        VlmRewardError: A setting is wrong, a dataset can't be read, no episode shows how a task is done, ...
    """
    arguments = parse_arguments(argv)
    refuse_words("fit-critic", arguments)
    settings = settle_fit_critic(arguments)
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(dict(settings.options), sort_keys=False, allow_unicode=True), end="")
        return 0
    from vlmreward.atomic import check_writable
    from vlmreward.cli.build import set_threads
    from vlmreward.cli.run_folder import describe_machine, write_json
    from vlmreward.encoders import make_encoder_from_config

    options, out = settings.options, Path(settings.options["out"])
    check_writable(out / CRITIC)
    set_threads(options["threads"])
    encoder = make_encoder_from_config(settings.encoder, device=options["device"])
    began = time.perf_counter()
    episodes = [e for path in settings.datasets for e in read_episodes(path, settings, encoder)]
    rollouts = [e for path in settings.rollouts for e in read_episodes(path, settings, encoder)]
    encoded = time.perf_counter()
    critic, figures = fit(settings, encoder, episodes, rollouts)
    critic.save(out / CRITIC)
    about = {
        "command": "fit-critic",
        "encoder": encoder.id,
        "licence": encoder.licence,
        "datasets": list(settings.datasets),
        "rollouts": list(settings.rollouts),
        "episodes": len(episodes),
        "frames": sum(len(e.embeddings) for e in episodes),
        "failures": sum(not e.shows_how for e in episodes),
        "stride": critic.meta.stride,
        "temperature": critic.meta.temperature,
        "bias": critic.meta.bias,
        "held_out": figures,
        "seconds": {"encode": round(encoded - began, 2), "fit": round(time.perf_counter() - encoded, 2)},
        "settings": {key: value for key, value in options.items() if key != "encoder"},
        **describe_machine(),
    }
    write_json(out / "result.json", about)
    for line in describe_figures(figures):
        print(line)
    print(f"critic: {out / CRITIC}\nresult: {out / 'result.json'}")
    return 0


def read_episodes(path: str, settings: FitCriticSettings, encoder: Encoder) -> list[CriticEpisode]:
    """Return the episodes of a dataset as embeddings, each frame encoded once ever.

    Raises:
        VlmRewardError: The dataset can't be read, or an episode has no task.
    """
    import numpy as np

    from vlmreward.agents.fit.critic_episodes import CriticEpisode
    from vlmreward.agents.progress import Progress
    from vlmreward.cli.embedded_dataset import embed_dataset
    from vlmreward.data import open_dataset
    from vlmreward.labelling.labelling import Counts, Labeller
    from vlmreward.labelling.scoring import goals_of
    from vlmreward.labelling.work_folder import WorkFolder

    dataset = open_dataset(path)
    goals = goals_of(dataset.episodes, None)
    job = embed_dataset(dataset, settings.options, encoder, settings.encoder)
    labeller = Labeller(job.plan, WorkFolder(job.path, job.layout, "none"), job.store, job.engine)
    with Progress(f"encoding {dataset.root.name}", job.plan.total, unit="frames") as progress:
        labeller.encode([shard.number for shard in job.plan.shards], progress.advance, Counts())
    episodes = []
    for episode in dataset.episodes:
        frames = labeller.embeddings(episode.index, 0, episode.frames)
        frames = frames[np.isfinite(frames).all(axis=1)]
        if len(frames) >= LEAST_FRAMES:
            episodes.append(CriticEpisode(frames, goals[episode.index], episode.success))
    if not episodes:
        raise DatasetError(
            f"{path} has no episode of at least {LEAST_FRAMES} frames that could be encoded: give another"
        )
    return episodes


def fit(
    settings: FitCriticSettings, encoder: Encoder, episodes: Sequence[CriticEpisode], rollouts: Sequence[CriticEpisode]
) -> tuple[Critic, dict[str, Any]]:
    """Fit and calibrate a critic; return it with its figures on held-out episodes, empty where none are held out.

    Raises:
        VlmRewardError: No episode shows how a task is done.
    """
    import numpy as np

    from vlmreward import __version__
    from vlmreward.agents.fit.critic import CriticFit, fit_done
    from vlmreward.agents.progress import Progress
    from vlmreward.audit.critic_figures import HeldOut, held_out_figures, judge_episode
    from vlmreward.cli.audit_parts import UNRELATED
    from vlmreward.rewards.critic import Critic, CriticMeta
    from vlmreward.rewards.critic_net import NetSettings

    options = settings.options
    texts = embed_texts(encoder, [*(e.instruction for e in [*episodes, *rollouts]), *UNRELATED])
    kept, held = split(episodes, options["held_out"], options["seed"])
    net = NetSettings(encoder.dim, options["width"], options["layers"])
    run = CriticFit(net, kept, texts, fit_settings(options), rollouts)
    stride = options["stride"]
    if stride == "auto":
        stride = max(1, round(float(np.median([len(e.embeddings) for e in kept])) / 20))
    with Progress("critic", options["steps"], unit="steps") as progress:
        run.fit(lambda terms: progress.advance(1, loss=sum(terms.values())))
    made: dict[str, Any] = {
        "by": f"vlmreward {__version__} fit-critic",
        "datasets": [Path(p).name for p in settings.datasets],
    }
    made |= {"seed": options["seed"], "steps": options["steps"], "episodes": len(kept)}
    meta = CriticMeta(encoder.id, encoder.licence, stride, 1.0, 0.0, options["reference_frames"], made)
    critic = Critic(run.model, meta)
    if held:
        judged = [judge_episode(critic, texts[e.instruction], e.embeddings, stride)[-1] for e in held]
        probability, marks = np.concatenate([every.done for every in judged]), np.concatenate([e.done for e in held])
        told = np.isfinite(marks)
        p = np.clip(probability[told].astype(np.float64), 1e-6, 1 - 1e-6)
        temperature, bias = fit_done(np.log(p / (1 - p)).astype(np.float32), marks[told] > 0.5)
        critic = Critic(run.model, replace(meta, temperature=temperature, bias=bias))
    critic = Critic(run.model, replace(critic.meta, spans=find_spans(critic, kept, texts)))
    if not held:
        return critic, {}
    unlike = {t: min(texts.keys() - {t}, key=lambda other: (float(texts[other] @ x), other)) for t, x in texts.items()}
    spans = {text: critic.meta.spans.get(text, (0.0, 1.0)) for text in texts}
    return critic, held_out_figures(
        critic,
        [
            HeldOut(
                e.embeddings,
                texts[e.instruction],
                texts[other],
                e.done,
                not e.shows_how,
                (spans[e.instruction], spans[other]),
            )
            for e in held
            for other in (unlike[e.instruction],)
        ],
        stride,
    )


def find_spans(
    critic: Critic, episodes: Sequence[CriticEpisode], texts: Mapping[str, FloatArray]
) -> dict[str, tuple[float, float]]:
    """Return the 1 % and the 99 % quantile of what a calibrated critic makes of the frames of each instruction."""
    import numpy as np

    from vlmreward.rewards.critic import direct

    found: dict[str, list[FloatArray]] = {}
    for e in episodes:
        first = np.tile(e.embeddings[0], (len(e.embeddings), 1))
        seen = critic.compare(texts[e.instruction], first, first, e.embeddings, both_ways=False)
        found.setdefault(e.instruction, []).append(direct(seen))
    ends = {text: np.quantile(np.concatenate(values), (0.01, 0.99)).tolist() for text, values in found.items()}
    return {text: (low, high) for text, (low, high) in ends.items() if high > low}


def fit_settings(options: Mapping[str, Any]) -> CriticFitSettings:
    """Return the settings of the fit that the command's options name."""
    from vlmreward.agents.fit.critic import CriticFitSettings
    from vlmreward.agents.fit.critic_pairs import PairSettings

    pairs = {name: options[name] for name in ("mismatched", "failures", "shown", "reference_frames")}
    own = {name: options[name] for name in ("steps", "groups", "learning_rate", "push_back", "seed")}
    return CriticFitSettings(**own, pairs=PairSettings(**pairs))


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> dict[str, FloatArray]:
    """Return the embedding of each different text."""
    import warnings

    import numpy as np

    from vlmreward.rewards.prompted import encode_prompts

    different = list(dict.fromkeys(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sentences that have nothing to do with any task are meant to be strange
        return dict(zip(different, encode_prompts(encoder, different).astype(np.float32), strict=True))


def split(
    episodes: Sequence[CriticEpisode], share: float, seed: int
) -> tuple[list[CriticEpisode], list[CriticEpisode]]:
    """Hold out a share of the episodes of each instruction and outcome, drawn by the seed; one of each kind stays."""
    import numpy as np

    rng = np.random.default_rng([seed, 3])
    kinds: dict[tuple[str, bool], list[CriticEpisode]] = {}
    for episode in episodes:
        kinds.setdefault((episode.instruction, episode.shows_how), []).append(episode)
    kept: list[CriticEpisode] = []
    held: list[CriticEpisode] = []
    for members in kinds.values():
        order = rng.permutation(len(members))
        count = min(round(share * len(members)), len(members) - 1)
        held += [members[i] for i in order[:count]]
        kept += [members[i] for i in order[count:]]
    return kept, held


def describe_figures(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures on held-out episodes as lines of text."""
    if not figures:
        return ["no episode was held out: the critic is not calibrated and nothing is known of it"]
    shown = {name: "-" if value is None else f"{value:.2f}" for name, value in figures.items()}
    outcomes = f"{figures['failures']} of them failures"
    return [
        f"{figures['episodes']} held-out episodes, {outcomes}; all that is known of them is time and outcome",
        f"  order of values              {shown['voc']} forwards, {shown['vroc']} backwards; time itself 1 and -1",
        f"  progress at the end          {shown['end']}, of failures {shown['end_of_failures']}",
        f"  for another instruction      {shown['end_of_other']}",
        f"  done: AUROC                  {shown['done_auroc']}, calibration error {shown['done_calibration_error']}",
    ]
