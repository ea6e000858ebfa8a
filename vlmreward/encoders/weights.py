"""Find the weights, tokenizer and settings of a model of open_clip: in the cache, in a file, or over the network.

Nothing here waits for a network that is not there: files are looked for in the local cache first, and before a
download one short request asks whether the Hub answers. Files are loaded without unpickling.
"""

from __future__ import annotations

import difflib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.encoders.prompts import Tokenizer
from vlmreward.errors import ConfigError, DependencyNotInstalled, UnknownNameError, WeightsError
from vlmreward.optional import require_package

HUB_SECONDS = 5.0  # how long the Hub may take to answer one request for a header
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
LOCAL_FOLDER = "local-dir:"
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# licences of open_clip's tags, by what the tag starts with, as their model cards say
_LICENCES = {
    "openai": "MIT",
    "laion": "MIT",
    "datacomp_": "MIT",
    "commonpool": "MIT",
    "webli": "Apache-2.0",
    "metaclip": "CC-BY-NC-4.0",
    "dfn": "apple-amlr",
    "datacompdr": "apple-amlr",
}


@dataclass(frozen=True)
class Source:
    """Where a model comes from, decided before anything large is read.

    Attributes:
        model: Name of the architecture in open_clip, or ``local-dir:<folder>``.
        weights: File with the weights; None for random ones, or where the folder has them.
        config: The architecture, as open_clip's JSON file has it.
        preprocess: Settings that open_clip keeps with the tag rather than with the model.
        quick_gelu: Whether the weights were trained with that activation although the architecture's file has another.
        licence: Of the weights, where the tag tells.
    """

    model: str
    weights: Path | None
    config: dict[str, Any] = field(repr=False)
    preprocess: dict[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False
    licence: str = "unknown"

    @property
    def salt(self) -> str:
        """Return what shapes embeddings and is not in the weights."""
        return json.dumps([self.config, self.quick_gelu], sort_keys=True)


def find_source(model: str | None, pretrained: str | None, like: str | None, random_weights: bool) -> Source:
    """Decide where a model comes from; downloads its weights if they are not on this machine.

    Args:
        model: Name of an architecture in open_clip, or ``local-dir:<folder>``.
        pretrained: Tag or file.
        like: Tag whose preprocessing and activation a file has; needed only where the model's tags differ in them.
        random_weights: Take none.

    Raises:
        ConfigError: Settings are missing or contradict each other.
        UnknownNameError: The model or the tag is unknown.
        WeightsError: The weights can't be had.
    """
    import open_clip

    if not model:
        raise ConfigError("encoder open_clip needs a model: give encoder.model=ViT-B-32 encoder.pretrained=openai")
    if model.startswith(LOCAL_FOLDER):
        if pretrained or random_weights:
            raise ConfigError(f"model {model} brings its own weights: leave pretrained and random_weights away")
        return _folder_source(model)
    if model.startswith("hf-hub:"):
        raise ConfigError(
            f"model {model} is not one of open_clip's: download it and give encoder.model=local-dir:<folder>"
        )
    model = model.replace("/", "-")
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise UnknownNameError(f"open_clip has no model {model!r}: {_nearest(model, open_clip.list_models())}")
    tags: list[str] = open_clip.list_pretrained_tags_by_model(model)
    if random_weights:
        if pretrained:
            raise ConfigError(f"random_weights and pretrained={pretrained} contradict each other: give one of them")
        return Source(model, None, config, _shared_settings(model, tags[:1]))
    if not pretrained:
        hint = f"<tag or file>, tags: {', '.join(tags)}" if tags else "<file>"
        raise ConfigError(f"model {model} needs weights: give encoder.pretrained={hint}")
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag:
        weights = _download(tag, f"{model}/{pretrained}")
        return Source(model, weights, config, dict(tag), bool(tag.get("quick_gelu")), licence_of(pretrained))
    weights = Path(pretrained).expanduser()
    if not (weights.suffix in WEIGHT_SUFFIXES or os.sep in pretrained or weights.is_file()):
        known = "tags: " + ", ".join(tags) if tags else "it has no tags, give a file"
        raise UnknownNameError(f"model {model} has no weights {pretrained!r}: {known}")
    if not weights.is_file():
        raise WeightsError(f"there is no weights file {pretrained}: check the path")
    if weights.suffix not in WEIGHT_SUFFIXES:
        raise WeightsError(f"weights file {weights.name} has not one of the endings {', '.join(WEIGHT_SUFFIXES)}")
    if like is not None and not open_clip.get_pretrained_cfg(model, like):
        raise UnknownNameError(f"model {model} has no tag {like!r}: tags: {', '.join(tags)}")
    settings = _shared_settings(model, tags if like is None else [like])
    return Source(model, weights, config, settings, bool(settings.get("quick_gelu")))


def _folder_source(model: str) -> Source:
    folder = Path(model.removeprefix(LOCAL_FOLDER))
    file = folder / "open_clip_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise WeightsError(f"{file} can't be read ({_first_line(e)}): give a folder saved by open_clip") from e
    if not any(p.suffix in WEIGHT_SUFFIXES for p in folder.iterdir()):
        raise WeightsError(f"there are no weights in {folder}: put open_clip_model.safetensors there")
    return Source(model, None, config)


def _shared_settings(model: str, tags: list[str]) -> dict[str, Any]:
    """Return the preprocessing and activation that all tags of a model share; with no tags, open_clip's defaults."""
    import open_clip

    groups: dict[str, list[str]] = {}
    settings: dict[str, Any] = {}
    for tag in tags:
        found = open_clip.get_pretrained_cfg(model, tag)
        settings = {k: found[k] for k in (*_PREPROCESS_KEYS, "quick_gelu") if k in found}
        groups.setdefault(str(sorted(settings.items())), []).append(tag)
    if len(groups) > 1:
        examples = " or ".join(group[0] for group in groups.values())
        raise ConfigError(
            f"weights of {model} differ in preprocessing or activation: "
            f"say whose your file has, encoder.like={examples}"
        )
    return settings


def licence_of(tag: str) -> str:
    """Return the licence of the weights behind one of open_clip's tags, or ``"unknown"``."""
    # the longest start wins: datacompdr is not datacomp
    starts = [start for start in _LICENCES if tag.lower().replace("-", "_").startswith(start)]
    return _LICENCES[max(starts, key=len)] if starts else "unknown"


def _nearest(name: str, known: list[str]) -> str:
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(by_lower[c]) for c in close) + "?"
    return f"it has {len(known)}, for example ViT-B-32, ViT-B-16-SigLIP2, ViT-bigG-14"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # PyTorch names the first mismatch in the second line
    return " ".join(lines[:2])[:200]


def require_hub(what: str) -> None:
    """Check that the Hugging Face Hub answers, in seconds, where its own client would try for minutes.

    Args:
        what: What is to be downloaded.

    Raises:
        WeightsError: It does not answer, or ``HF_HUB_OFFLINE`` is set.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    hint = "download it where there is a network, or give a file with encoder.pretrained=<file>"
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{what} is not in the cache and HF_HUB_OFFLINE is set: {hint}")
    outcome: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            outcome.append("")
        except Exception as e:  # the client's own kinds differ from version to version; reported below
            outcome.append(_first_line(e))

    # in a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * HUB_SECONDS)
    problem = outcome[0] if outcome else f"no answer in {2 * HUB_SECONDS:g} s"
    if problem:
        raise WeightsError(f"{what} is not in the cache and {constants.ENDPOINT} can't be reached ({problem}): {hint}")


def _download(tag: dict[str, Any], what: str) -> Path:
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    repo, name = os.path.split(tag.get("hf_hub", ""))
    # the files that open_clip looks for, in its order
    names = (
        [name[:-4] + ".safetensors", name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    )
    for file in names if repo else []:
        cached = try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return Path(cached)
    require_hub(what)
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as e:  # of whatever kind the client raises: no network half-way, no rights, no space
        raise WeightsError(f"{what} could not be downloaded ({_first_line(e)}): try again, or give a file") from e


def load_model(source: Source) -> torch.nn.Module:
    """Build a model and load its weights, in float32 on the CPU.

    Args:
        source: From :func:`find_source`.

    Returns:
        A model of open_clip. Random weights are the same ones each time.

    Raises:
        WeightsError: The file is damaged, or does not fit the model.
        DependencyNotInstalled: The text tower needs the package transformers.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    text_tower = source.config.get("text_cfg", {}).get("hf_model_name")
    if text_tower:
        _require_transformers(source.model)
        if not isinstance(try_to_load_from_cache(text_tower, "config.json"), str):
            require_hub(f"the config of the text tower {text_tower}")
    random = source.weights is None and not source.model.startswith(LOCAL_FOLDER)
    try:
        with torch.random.fork_rng(devices=[], enabled=random):
            if random:
                torch.manual_seed(0)
            return open_clip.create_model(
                source.model,
                pretrained=None if source.weights is None else str(source.weights),
                force_quick_gelu=source.quick_gelu,
                force_preprocess_cfg=source.preprocess,
                pretrained_text=False,
                require_pretrained=not random,
                weights_only=True,
            )
    except Exception as e:  # damaged files raise a dozen kinds, from safetensors, zipfile, pickle and torch
        if random and not text_tower:
            raise
        name = source.weights or source.model
        raise WeightsError(
            f"weights {name} can't be loaded into {source.model} ({_first_line(e)}): "
            "the file is damaged, or of another model"
        ) from e


def preprocess_of(model: torch.nn.Module) -> PreprocessConfig:
    """Return how a model of open_clip wants its pictures, from the model itself."""
    return PreprocessConfig.from_mapping(model.visual.preprocess_cfg)  # type: ignore[union-attr, arg-type]


def load_tokenizer(source: Source, folder: str | None = None) -> Tokenizer:
    """Return the model's own tokenizer.

    Args:
        source: From :func:`find_source`.
        folder: Files of a Hugging Face tokenizer, for machines without a network; None: the model's own.

    Raises:
        DependencyNotInstalled: The tokenizer needs the package transformers.
        WeightsError: Its files can't be had.
    """
    import open_clip

    text = source.config.get("text_cfg", {})
    if folder is None and not text.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(source.model)
    _require_transformers(source.model)
    if folder is not None:
        try:
            return open_clip.tokenizer.HFTokenizer(
                folder, text.get("context_length", 77), local_files_only=True, **text.get("tokenizer_kwargs", {})
            )
        except Exception as e:
            raise WeightsError(f"no tokenizer can be read from {folder} ({_first_line(e)}): check the folder") from e
    try:
        return open_clip.get_tokenizer(source.model, local_files_only=True)
    except Exception:  # not in the cache, which every version of transformers says in its own way
        what = f"the tokenizer {text['hf_tokenizer_name']}"
        require_hub(what)
    try:
        return open_clip.get_tokenizer(source.model)
    except Exception as e:
        raise WeightsError(f"{what} could not be downloaded ({_first_line(e)}): try again") from e


def _require_transformers(model: str) -> None:
    try:
        require_package("transformers", "siglip")
    except DependencyNotInstalled as e:
        raise DependencyNotInstalled(f"model {model} has a Hugging Face tokenizer: {e}") from e
