"""Encoders, by name; an encoder's module (and with it torch) is imported when its name is first used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmreward.registry import Registry
from vlmreward.types import Encoder

_ENCODERS = Registry("encoder", prefix="encoder.")


def register_encoder(name: str, target: str) -> None:
    """Add an encoder: a callable with a parameter named ``device`` and its own settings.

    Args:
        name: The name users write.
        target: ``"package.module:Class"``.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _ENCODERS.register(name, target)


def list_encoders() -> list[str]:
    """Return the name of every encoder, sorted."""
    return _ENCODERS.names()


def make_encoder(name: str, /, device: str = "auto", **kwargs: Any) -> Encoder:
    """Build an encoder and load its weights.

    Args:
        name: One of :func:`list_encoders`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` (every GPU), ``"cuda:0"`` or several with commas between.
        **kwargs: The encoder's own settings: ``model``, ``pretrained``, ``precision``, ...

    Returns:
        The encoder, ready to use.

    Raises:
        UnknownNameError: The name, the model or the tag of its weights is unknown.
        ConfigError: A setting is unknown, missing or out of range, or the device is not there.
        WeightsError: The weights can't be read or had.
    """
    return _ENCODERS.make(name, {"device": device}, **kwargs)


def make_encoder_from_config(config: Mapping[str, Any], /, device: str = "auto") -> Encoder:
    """Build what a file of ``configs/encoder`` describes.

    Args:
        config: ``name`` and the encoder's own settings.
        device: As in :func:`make_encoder`; it stands outside the encoder's group.

    Returns:
        The encoder, ready to use.

    Raises:
        ConfigError: ``name`` is missing; and whatever :func:`make_encoder` raises.
    """
    own = {k: v for k, v in config.items() if k != "name"}
    return make_encoder(_ENCODERS.name_in(config), device=device, **own)


register_encoder("mini", "vlmreward.encoders.mini:MiniEncoder")
register_encoder("open_clip", "vlmreward.encoders.open_clip:OpenClipEncoder")
