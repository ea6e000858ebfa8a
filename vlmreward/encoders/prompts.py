"""Prompts to tokens, without the silent cut at the context's end that tokenizers make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from vlmreward.errors import ConfigError, PromptError


class Tokenizer(Protocol):
    """What turns prompts into token ids: open_clip's tokenizers, or any object with these.

    A tokenizer that is neither open_clip's ``SimpleTokenizer`` (``encode``) nor built on Hugging Face's (``tokenizer``)
    must have ``count(text) -> int``: the number of tokens with the special ones, before any cut.
    """

    @property
    def context_length(self) -> int | None:
        """Number of tokens that the model reads, with the special ones."""
        ...

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Return token ids, int64, shape (M, context_length)."""
        ...


def count_tokens(tokenizer: Any, text: str) -> int:
    """Return how many tokens a text is, with the special ones and before any cut.

    Args:
        tokenizer: See :class:`Tokenizer`.
        text: One prompt.

    Raises:
        ConfigError: There is no way to count with this tokenizer.
    """
    if hasattr(tokenizer, "count"):
        return int(tokenizer.count(text))
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2  # start and end of text
    if hasattr(tokenizer, "tokenizer"):
        clean: Callable[[str], str] = getattr(tokenizer, "clean_fn", str)
        if getattr(tokenizer, "tokenizer_mode", "") == "clips":  # open_clip adds start, end and class itself
            return len(tokenizer.tokenizer(clean(text), add_special_tokens=False, verbose=False).input_ids) + 3
        return len(tokenizer.tokenizer(clean(text), verbose=False).input_ids)
    raise ConfigError(
        f"tokenizer {type(tokenizer).__name__} can't count tokens: give it a method count(text) -> int, "
        "so that long prompts are refused instead of cut"
    )


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], encoder: str) -> torch.Tensor:
    """Turn prompts into token ids.

    Args:
        tokenizer: The model's own.
        texts: Prompts, at least one.
        encoder: Name of the encoder, for messages.

    Returns:
        Token ids, int64, shape (M, context_length).

    Raises:
        PromptError: There are no prompts, or one is empty or longer than the context.
        ConfigError: The tokenizer does not say how much the model reads.
    """
    if isinstance(texts, str):
        raise PromptError(f"prompts must be a list of texts, got the text {texts[:40]!r}: put it into a list")
    if len(texts) == 0:
        raise PromptError("no prompts were given: give at least one text")
    limit = tokenizer.context_length
    if limit is None:
        raise ConfigError(f"tokenizer {type(tokenizer).__name__} has no context_length: set the model's")
    nothing = count_tokens(tokenizer, "")
    for text in texts:
        if not isinstance(text, str):
            raise PromptError(f"a prompt must be a text, got {type(text).__name__}: put quotes around it")
        count = count_tokens(tokenizer, text) if text.strip() else nothing
        if count <= nothing:
            raise PromptError(f"prompt {text!r} is empty for encoder {encoder}: say the goal in words")
        if count > limit:
            raise PromptError(
                f"prompt {text[:40]!r}... is {count} tokens long, encoder {encoder} reads {limit}: shorten it"
            )
    return tokenizer(list(texts))
