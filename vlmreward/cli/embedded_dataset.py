"""A dataset and the embeddings of its frames: what ``label`` and ``fit-critic`` both begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmreward.data.dataset import EpisodeDataset
    from vlmreward.encoders.embedding_store import EmbeddingStore
    from vlmreward.labelling.labelling import Engine
    from vlmreward.labelling.plan import Plan
    from vlmreward.types import Encoder


LEAST_FRAMES = 4
"""An episode with fewer frames shows no progress."""


@dataclass(frozen=True)
class EmbeddedDataset:
    """Where the embeddings of a dataset's frames are, or will be.

    Attributes:
        dataset: Opened.
        camera: Whose pictures.
        layout: Changes when the pictures or their places do.
        path: Folder of the job.
        plan: Its shards.
        store: The embeddings.
        engine: Makes them.
    """

    dataset: EpisodeDataset
    camera: str
    layout: str
    path: Path
    plan: Plan
    store: EmbeddingStore
    engine: Engine


def embed_dataset(
    dataset: EpisodeDataset, options: Mapping[str, Any], encoder: Encoder, encoder_config: Mapping[str, Any]
) -> EmbeddedDataset:
    """Lay out the work on a dataset's frames.

    Args:
        dataset: Opened.
        options: ``camera``, ``run_dir``, ``cache``, ``cache_dtype``, ``encode_batch``, ``decode_threads``, ``device``
            and, where several engines can be chosen, ``engine`` and ``ray``.
        encoder: Of the frames.
        encoder_config: What an engine on other machines builds it from.

    Raises:
        VlmRewardError: There is no such camera, or the store can't be opened.
    """
    from vlmreward.cli.label_settings import choose_camera, job_folder
    from vlmreward.encoders.cached import open_cached
    from vlmreward.labelling.local_engine import LocalEngine
    from vlmreward.labelling.plan import layout_key, make_plan
    from vlmreward.labelling.ray_engine import ActorSettings, RayEngine

    camera = choose_camera(options["camera"], dataset.cameras)
    layout = layout_key(dataset, camera)
    path = job_folder(options, dataset.root, layout)
    store = open_cached(encoder, options["cache"] or path / "embeddings", options["cache_dtype"]).store
    plan = make_plan(dataset.episodes)
    engine: Engine
    if options.get("engine") == "ray":
        actors = ActorSettings(
            str(dataset.root.absolute()),
            plan.lengths_key,
            camera,
            encoder_config,
            encoder.id,
            options["device"],
            options["encode_batch"],
            max(1, int(options["ray"]["num_cpus"])),
        )
        engine = RayEngine(actors, **options["ray"])
    else:
        engine = LocalEngine(
            lambda index, start: dataset.frames(dataset.episodes[index], camera, start),
            encoder,
            lambda keys: store.find(keys) >= 0,
            options["encode_batch"],
            options["decode_threads"],
        )
    return EmbeddedDataset(dataset, camera, layout, path, plan, store, engine)
