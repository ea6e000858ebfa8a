"""``vlmreward inspect``: what a dataset of recorded episodes holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.problems import count_left_out, printable
from vlmreward.cli.values import whole
from vlmreward.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from vlmreward.data.dataset import EpisodeDataset, Problem

WIDTH = 120  # where the output is no terminal


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments(argv)
    refuse_words("inspect", arguments)
    options = compose("inspect", arguments)
    most = whole("most", options["most"], 1)
    if "cfg" in arguments.flags:
        import yaml

        print(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), end="")
        return 0
    if options["dataset"] is None:
        raise ConfigError("dataset is not given: write dataset=<folder or file of recorded episodes>")
    from rich.console import Console

    from vlmreward.data import open_dataset

    dataset = open_dataset(options["dataset"])
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    found = dataset.problems()
    for table in (_overview(dataset, found), _tasks(dataset, most), _features(dataset, most), _problems(found, most)):
        console.print(table.title)
        table.title = None
        if table.row_count:
            console.print(table)
    return 0


def _overview(dataset: EpisodeDataset, problems: Sequence[Problem]) -> Table:
    table = _table(str(dataset.root), "", "")
    rows = [episode.rows for episode in dataset.episodes]
    frames = sum(episode.frames for episode in dataset.episodes)
    left_out = count_left_out(problems)
    ends = Counter(episode.success for episode in dataset.episodes)
    said = f"{ends[True]} successes, {ends[False]} failures, {ends[None]} not recorded"
    spread = f"{min(rows)} to {max(rows)} rows each" if len(rows) > 1 else f"{rows[0]} rows"
    after = "every row is followed by a frame" if frames == sum(rows) + len(rows) else "last rows without a successor"
    lines = {
        "format": dataset.format,
        "episodes": f"{len(rows):,} ({spread})" + (f", {left_out:,} more can't be read" if left_out else ""),
        "rows": f"{sum(rows):,}",
        "frames": f"{frames:,} of each camera ({after})",
        "fps": "not recorded, or mixed" if dataset.fps is None else f"{dataset.fps:g}",
        "success": said if ends[True] or ends[False] else "not recorded",
    }
    for name, value in lines.items():
        table.add_row(_text(name), _text(value))
    for camera in dataset.cameras:
        table.add_row(_text("camera"), _text(f"{camera}  {_size(dataset, camera)}"))
    if not dataset.cameras:
        table.add_row(_text("camera"), _text("none"))
    return table


def _size(dataset: EpisodeDataset, camera: str) -> str:
    from vlmreward.data.dataset import Undecodable

    first = next(iter(dataset.frames(dataset.episodes[0], camera)))
    if isinstance(first, Undecodable):
        return f"first picture can't be decoded: {first.reason}"
    return f"{first.shape[1]}x{first.shape[0]}"


def _tasks(dataset: EpisodeDataset, most: int) -> Table:
    table = _table("tasks", "episodes", "instruction")
    counts = Counter(episode.instruction for episode in dataset.episodes)
    for text, count in counts.most_common(most):
        table.add_row(_text(str(count)), _text(text or "(none recorded: give goal=... when labelling)"))
    _say_rest(table, len(counts), most)
    return table


def _features(dataset: EpisodeDataset, most: int) -> Table:
    table = _table("features", "name", "a row holds")
    for name, what in list(dataset.features.items())[:most]:
        table.add_row(_text(name), _text(what))
    _say_rest(table, len(dataset.features), most)
    return table


def _problems(found: Sequence[Problem], most: int) -> Table:
    table = _table(f"problems: {len(found) or 'none found'}", "where", "what")
    for problem in found[:most]:
        table.add_row(_text(problem.where), _text(problem.what))
    _say_rest(table, len(found), most)
    return table


def _table(title: str, *head: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=_text(title), box=box.SIMPLE, show_header=any(head), pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    return table


def _say_rest(table: Table, count: int, most: int) -> None:
    if count > most:
        table.add_row(_text("..."), _text(f"{count - most} more: most={count} shows all"))


def _text(value: Any) -> Text:
    """Return text of others as it is: no markup in it counts, and nothing in it moves the cursor."""
    from rich.text import Text

    return Text(printable(value))
