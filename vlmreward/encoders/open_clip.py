"""Any model of the open_clip library as an encoder, with its own tokenizer, mean, deviation and resize mode."""

from __future__ import annotations

from pathlib import Path

from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import Precision
from vlmreward.encoders.prompts import Tokenizer
from vlmreward.encoders.runtime import Runtime
from vlmreward.encoders.weights import LOCAL_FOLDER, find_source, load_model, load_tokenizer, preprocess_of


class OpenClipEncoder(ClipEncoder):
    """A model of open_clip, with downloaded weights, a file's, or (for speed tests) random ones.

    Everything that differs between models is taken from the model: a CLIP crops the centre, a SigLIP squashes; each
    has its own mean, deviation, interpolation, tokenizer and activation. For weights from a file these come from
    what the tags of the same architecture agree on; where they don't, ``like`` must name one of them.

    Args:
        model: Name of an architecture (``ViT-B-32``, ``ViT-B-16-SigLIP2``, ...), or ``local-dir:<folder>`` for a
            folder with ``open_clip_config.json``, weights and tokenizer.
        pretrained: Tag (``openai``, ``laion2b_s34b_b79k``, ...; downloaded on first use) or a file, ``.safetensors``
            or one that ``torch.load(weights_only=True)`` reads.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` (every GPU), ``"cuda:0"`` or several with commas between.
        precision: Of the image tower: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch_size: Largest number of frames at a time on one device; None: what the runtime is fastest with.
        runtime: Engine of the image tower: ``"auto"``, ``"torch"``, ``"openvino"`` (CPU) or ``"cuda_graphs"`` (GPU).
        licence: Of the weights; ``"unknown"``: that of the tag where it is known.
        tokenizer: A tokenizer, or the folder of a Hugging Face one; None: the model's own.
        like: For a file: the tag whose preprocessing and activation it has.
        random_weights: Load none, for measuring speed; the id says so. Never for rewards.

    Raises:
        ConfigError: A setting is missing, out of range or contradicts another.
        UnknownNameError: open_clip has no such model, or the model no such tag.
        WeightsError: The weights or the tokenizer can't be read or had.
        DependencyNotInstalled: The model's tokenizer needs the package transformers.

    Example:
        >>> encoder = OpenClipEncoder("ViT-B-32", random_weights=True, precision="fp32")
        >>> encoder.encode_texts(["a pole upright on a cart"]).shape
        (1, 512)
    """

    def __init__(
        self,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        runtime: Runtime = "auto",
        licence: str = "unknown",
        tokenizer: Tokenizer | str | None = None,
        like: str | None = None,
        random_weights: bool = False,
    ) -> None:
        source = find_source(model, pretrained, like, random_weights)
        if tokenizer is None and random_weights and source.config["text_cfg"].get("hf_tokenizer_name"):
            words = None  # its files would have to be downloaded, and random weights are for pictures
        elif tokenizer is None or isinstance(tokenizer, str):
            words = load_tokenizer(source, tokenizer)  # before the weights: it fails in seconds where they take minutes
        else:
            words = tokenizer
        loaded = load_model(source)
        name = Path(source.model.removeprefix(LOCAL_FOLDER)).name  # of a folder: without the path to it
        super().__init__(
            loaded,
            words,
            preprocess_of(loaded),
            name=f"random-{name}" if random_weights else name,
            salt=source.salt,
            device=device,
            precision=precision,
            batch_size=batch_size,
            runtime=runtime,
            licence=source.licence if licence == "unknown" else licence,
        )
