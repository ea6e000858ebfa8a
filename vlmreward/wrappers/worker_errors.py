"""Carry an error from an environment's process to the main process as one line of text, never as a pickle."""

from __future__ import annotations

from vlmreward import errors


def pack_error(error: BaseException) -> str:
    """Return an error as ``"ClassName: message"`` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def unpack_error(text: str, env_index: int) -> Exception:
    """Return the error to raise in the main process.

    Args:
        text: What :func:`pack_error` returned.
        env_index: Number of the environment.

    Returns:
        An error of the same class where it is one of ``vlmreward.errors``, else a RuntimeError with the text.
    """
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.VlmRewardError):
        return kind(message)
    return RuntimeError(f"environment {env_index} failed: {text}")
