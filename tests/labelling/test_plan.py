"""Which frames are in which shard, and which shards are looked at first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vlmreward.data.dataset import Episode
from vlmreward.labelling import plan as module
from vlmreward.labelling.plan import Plan, make_plan


def plan_of(lengths: list[int]) -> Plan:
    return make_plan([Episode(i, f"e{i}", length, length) for i, length in enumerate(lengths)])


def test_an_episode_is_where_its_shards_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_FRAMES", 32)
    plan = plan_of([20, 90, 1, 33, 64])
    assert plan.total == 208
    for episode, length in enumerate(plan.frames):
        told = [
            (number, rows.start + i, frames.start + i)
            for number, rows, frames in plan.where(episode)
            for i in range(rows.stop - rows.start)
        ]
        found = []
        for shard in plan.shards:
            row = 0
            for span in shard.spans:
                for frame in range(span.start, span.stop):
                    if span.episode == episode:
                        found.append((shard.number, row, frame))
                    row += 1
        assert told == found
        assert len(told) == length


class Counted(tuple[int, ...]):
    """Lengths of episodes that count how many of them were looked at, but for single ones."""

    looked_at = 0

    def __iter__(self) -> Iterator[int]:
        for value in super().__iter__():
            Counted.looked_at += 1
            yield value

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        Counted.looked_at += len(found) if isinstance(key, slice) else 0
        return found


def test_where_all_episodes_are_costs_one_look_at_each() -> None:
    plan = plan_of([7] * 500)
    counted = Plan(plan.shards, Counted(plan.frames))
    found = [list(counted.where(episode)) for episode in range(500)]
    assert found[499][-1][2].stop == 7
    assert 500 <= Counted.looked_at <= 1000


def test_of_long_episodes_no_more_are_encoded_than_are_needed() -> None:
    """879 shards, of which an episode lies in 9 or 10: twenty whole episodes are in 200 at most."""
    plan = plan_of([18_000] * 100)
    assert len(plan.shards) == 879
    chosen = plan.sample(frames=2000, episodes=20, seed=0)
    assert len(plan.whole_episodes(chosen)) == 20
    assert set(chosen) == {n for e in plan.whole_episodes(chosen) for n, _, _ in plan.where(e)}
    assert 20 * 18_000 / 2048 <= len(chosen) <= 200


def test_of_short_episodes_those_that_share_a_shard_count_too() -> None:
    plan = plan_of([100] * 2000)
    chosen = plan.sample(frames=2000, episodes=20, seed=0)
    assert len(chosen) <= 4  # an episode lies in two at most, and the first one's have 18 others at least
    assert len(plan.whole_episodes(chosen)) >= 20


def test_the_sample_is_drawn_by_its_seed_and_has_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_FRAMES", 32)
    plan = plan_of([5, 70, 33, 12, 128, 1] * 20)
    samples = [plan.sample(frames=100, episodes=6, seed=seed) for seed in (0, 0, 1, 2)]
    assert samples[0] == samples[1]
    assert len({tuple(sample) for sample in samples}) == 3
    for sample in samples:
        assert sample == sorted(set(sample))
        assert sum(len(plan.shards[n]) for n in sample) >= 100
        assert len(plan.whole_episodes(sample)) >= 6
    assert plan.sample(frames=10**9, episodes=1, seed=0) == list(range(len(plan.shards)))
    assert plan.sample(frames=1, episodes=10**9, seed=0) == list(range(len(plan.shards)))
