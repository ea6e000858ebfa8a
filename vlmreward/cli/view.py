"""``vlmreward view``: one page with the film of recorded episodes and what labels say of every frame."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.values import number, whole
from vlmreward.errors import ConfigError

if TYPE_CHECKING:
    from vlmreward.data.dataset import Episode, EpisodeDataset
    from vlmreward.video.viewer import Picture

USUAL_FPS = 10.0
"""Pictures a second of a dataset that does not say."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Args:
        argv: The arguments after the command's name.

    Raises:
        VlmRewardError: A setting is wrong, the dataset or labels can't be read, the page can't be written.
    """
    arguments = parse_arguments(argv)
    refuse_words("view", arguments)
    options = _check(compose("view", arguments))
    if "cfg" in arguments.flags:
        import yaml

        print(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), end="")
        return 0
    from vlmreward.atomic import check_writable
    from vlmreward.cli.label_settings import choose_camera
    from vlmreward.cli.view_curves import choose_columns, curves_of_columns, curves_of_runs, open_runs
    from vlmreward.data import open_dataset
    from vlmreward.video.viewer import ShownEpisode, write_viewer

    dataset = open_dataset(options["dataset"])
    camera = choose_camera(options["camera"], dataset.cameras)
    episodes = choose_episodes(options["episode"], dataset.episodes)
    columns = {episode.index: choose_columns(dataset, options["columns"], episode) for episode in episodes}
    runs = open_runs(dataset, options["runs"])
    out = _page(options["out"], dataset, camera, episodes)
    check_writable(out)
    drawn = {name for names in columns.values() for name in names}
    if not runs and not drawn:
        print("note: no labels were found (vlmreward label makes them): the page shows the film alone", file=sys.stderr)
    shown = [
        ShownEpisode(
            title=_title(episode),
            task=episode.instruction,
            pictures=_pictures(dataset, episode, camera),
            curves=[
                *curves_of_runs(runs, camera, episode),
                *curves_of_columns(dataset, columns[episode.index], episode),
            ],
        )
        for episode in episodes
    ]
    fps = options["fps"] or dataset.fps or USUAL_FPS
    size = write_viewer(out, f"{dataset.root.name}, camera {camera}", shown, fps, options["size"])
    labels = f"{len(runs)} labelling runs, {len(drawn)} columns"
    print(f"{len(episodes)} episodes, {labels}, {size / 1e6:.1f} MB")
    print(f"page: {out}")
    return 0


def _check(options: dict[str, Any]) -> dict[str, Any]:
    """Check the kinds of the settings' values."""
    from vlmreward.video.recorder import check_fps

    if options["dataset"] is None:
        raise ConfigError("dataset is not given: write dataset=<folder or file of recorded episodes>")
    if options["fps"] is not None:
        check_fps(number("fps", options["fps"], 0))
    given = options["episode"]
    asked = given if isinstance(given, list) else [given]
    if not asked:
        raise ConfigError("episode must be a number or several, [0,3], got none")
    if options["out"] is not None and Path(options["out"]).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"out must be a page's name that ends in .html, got {options['out']}")
    return {
        **options,
        "episode": [whole("episode", one, 0) for one in dict.fromkeys(asked)],
        "size": whole("size", options["size"], 16),
    }


def choose_episodes(asked: Sequence[int], episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes that are shown.

    Raises:
        ConfigError: There is no such episode.
    """
    for index in asked:
        if index >= len(episodes):
            has = f"{len(episodes)}, 0 to {len(episodes) - 1}" if episodes else "none"
            raise ConfigError(f"there is no episode {index}: of episodes the dataset has {has}")
    return [episodes[index] for index in asked]


def _page(asked: str | None, dataset: EpisodeDataset, camera: str, episodes: Sequence[Episode]) -> Path:
    """Return where the page goes: as asked, or a name that tells dataset, camera and episodes."""
    if asked is not None:
        return Path(asked)
    from vlmreward.cli.run_folder import slug

    numbers = slug("-".join(str(episode.index) for episode in episodes), 24)
    return Path("runs") / "views" / f"{slug(dataset.root.name)}-{slug(camera)}-{numbers}.html"


def _title(episode: Episode) -> str:
    outcome = {True: ", recorded as a success", False: ", recorded as a failure", None: ""}[episode.success]
    return f"episode {episode.index}: {episode.name}{outcome}"


def _pictures(dataset: EpisodeDataset, episode: Episode, camera: str) -> Iterator[Picture | str]:
    from vlmreward.data.dataset import Undecodable

    for frame in dataset.frames(episode, camera):
        yield f"could not be decoded: {frame.reason}" if isinstance(frame, Undecodable) else frame
