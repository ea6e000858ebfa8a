"""Decode and encode on many machines: the local engine's plan as a Ray Data pipeline with a pool of encoder actors.

An actor gets whole shards and does with them what :class:`vlmreward.labelling.local_engine.LocalEngine` does. A shard
is a pure function of the dataset, so one that is done again, after an actor or a machine was lost, gives the same bits
where machines of one kind do it. Actors never see labels, goals or the store; these are the driver's.

Ray Data starts a lost actor again without end. A shard that kills whoever decodes it would so be begun for ever: an
actor of its own counts how often each one was.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmreward import errors
from vlmreward.encoders.frame_hash import Keys
from vlmreward.errors import ConfigError, DatasetError, VlmRewardError, WorkerError
from vlmreward.labelling.labelling import Advance
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.plan import Plan, Shard, make_plan
from vlmreward.labelling.shard_frames import ShardFrames
from vlmreward.optional import require_package

MAX_DEATHS = 20
"""Workers that may die over one shard; over a whole run as many may as will."""


@dataclass(frozen=True)
class ActorSettings:
    """What an actor builds itself from, on its own machine.

    Attributes:
        dataset: Path of the dataset, the same on every machine.
        lengths_key: What :attr:`vlmreward.labelling.plan.Plan.lengths_key` of it must be: another copy is refused.
        camera: Whose pictures.
        encoder: Config of the encoder.
        encoder_id: What the encoder's id must be: other weights on another machine are refused.
        device: Of the encoder.
        batch_size: Largest number of frames of a batch.
        threads: Torch's, in each actor.
        deaths: Workers that may die over one shard.
    """

    dataset: str
    lengths_key: str
    camera: str
    encoder: Mapping[str, Any]
    encoder_id: str
    device: str
    batch_size: int
    threads: int
    deaths: int = MAX_DEATHS


class CountBegun:
    """An actor: how often each shard was begun. Should it die itself, it counts anew."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Return how often a shard was begun before."""
        self._begun[shard] += 1
        return self._begun[shard] - 1


class EncodeShards:
    """An actor: a dataset and an encoder, built once.

    Args:
        settings: Of the job.
        begun: Handle of a :class:`CountBegun`.
    """

    def __init__(self, settings: ActorSettings, begun: Any) -> None:
        self._settings, self._begun = settings, begun
        self._parts: tuple[LocalEngine, Plan] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Encode one shard: a batch of one row, ``shard``.

        What is the user's fault comes back as a row with an ``error``: Ray would wrap it in pages of its own.
        """
        number = int(batch["shard"][0])
        try:
            self._check_deaths(number)
            engine, plan = self._build()
            frames = next(iter(engine.run([plan.shards[number]], lambda count: None)))
        except VlmRewardError as e:
            lost: dict[str, list[Any]] = {"shard": [number], "keys": [b""], "embeddings": [b""], "reasons": ["{}"]}
            return {**lost, "error": [json.dumps([type(e).__name__, str(e)])]}
        reasons = json.dumps({str(row): why for row, why in sorted(frames.reasons.items())})
        arrays = {"keys": [frames.keys.tobytes()], "embeddings": [frames.embeddings.tobytes()]}
        return {"shard": [number], **arrays, "reasons": [reasons], "error": [""]}

    def _check_deaths(self, shard: int) -> None:
        """Refuse a shard that has cost too many workers; what builds dataset and encoder counts, too."""
        deaths = require_package("ray", "ray").get(self._begun.begin.remote(shard))
        if deaths >= self._settings.deaths:
            raise WorkerError(
                f"{deaths} workers died over shard {shard}: if memory ran out, give fewer ray.actors, "
                "more ray.num_cpus or a smaller encode_batch; else engine=local shows where it breaks"
            )

    def _build(self) -> tuple[LocalEngine, Plan]:
        if self._parts is None:
            import torch

            from vlmreward.data import open_dataset
            from vlmreward.encoders import make_encoder_from_config

            asked = self._settings
            torch.set_num_threads(asked.threads)
            dataset = open_dataset(asked.dataset)
            plan = make_plan(dataset.episodes)
            if plan.lengths_key != asked.lengths_key:
                raise DatasetError(
                    f"{asked.dataset} on a worker has {len(plan.frames)} episodes of other lengths than the driver's: "
                    "give all machines the same copy of the dataset"
                )
            encoder = make_encoder_from_config(asked.encoder, device=asked.device)
            if encoder.id != asked.encoder_id:
                raise ConfigError(
                    f"the encoder on a worker is {encoder.id}, the driver's {asked.encoder_id}: "
                    "give all machines the same weights"
                )
            engine = LocalEngine(
                lambda index, start: dataset.frames(dataset.episodes[index], asked.camera, start),
                encoder,
                _none_known,
                asked.batch_size,
                threads=1,
            )
            self._parts = engine, plan
        return self._parts


class RayEngine:
    """Encodes shards in Ray actors, and gives them back in order.

    A worker or machine that is lost costs the shards it had in hand; Ray starts another, however often that happens.

    Args:
        settings: Of the actors.
        actors: How many.
        num_cpus: Cores of each.
        num_gpus: GPUs of each, may be a share of one.
        address: Of a running cluster; None starts one on this machine, which only this machine can reach.

    Raises:
        DependencyNotInstalled: Ray is not installed.
    """

    def __init__(
        self,
        settings: ActorSettings,
        actors: int = 1,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        address: str | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported over the network
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        self._ray = require_package("ray", "ray")
        self._data = require_package("ray.data", "ray")
        self._settings, self._actors, self._address = settings, actors, address
        self._resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def run(self, shards: Sequence[Shard], advance: Advance) -> Iterator[ShardFrames]:
        """Yield every shard, in order; see :meth:`vlmreward.labelling.local_engine.LocalEngine.run`.

        Raises:
            VlmRewardError: What a reader or the encoder raised in an actor.
            WorkerError: Too many workers died over one shard.
        """
        if not shards:
            return
        self._start()
        context = self._data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False  # there is one already
        begun = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(CountBegun).remote()
        rows = self._data.from_items(
            [{"shard": shard.number} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            EncodeShards,
            fn_constructor_args=(self._settings, begun),
            batch_size=1,
            compute=self._data.ActorPoolStrategy(size=self._actors, max_tasks_in_flight_per_actor=2),
            **self._resources,
        )
        for row in rows.iter_rows():
            if row["error"]:
                name, message = json.loads(row["error"])
                raise getattr(errors, name)(message)
            keys = np.frombuffer(row["keys"], np.uint64).reshape(-1, 2).copy()
            embeddings = np.frombuffer(row["embeddings"], np.float32).reshape(len(keys), -1).copy()
            reasons = {int(at): why for at, why in json.loads(row["reasons"]).items()}
            advance(len(keys))
            yield ShardFrames(int(row["shard"]), keys, embeddings, reasons)

    def _start(self) -> None:
        if self._ray.is_initialized():
            return
        here: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        self._ray.init(
            address=self._address,
            log_to_driver=False,
            logging_level="ERROR",
            **({} if self._address else here),
        )


def _none_known(keys: Keys) -> np.ndarray:
    return np.zeros(len(keys), bool)
