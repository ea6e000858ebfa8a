"""A judge on this machine: any image-text-to-text model of Hugging Face transformers, several questions in one call."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from vlmreward.encoders.clip_model import fingerprint, warn_licence
from vlmreward.encoders.device import resolve_devices
from vlmreward.errors import ConfigError, WeightsError
from vlmreward.optional import require_package
from vlmreward.rewards.judges.questions import Answer, LogProb, Question, Usage

Tokens = tuple[int, ...]


class TransformersJudge:
    """Answers questions with a Hugging Face model in this process, several in one call.

    Questions are padded on the left, so that in one batch all answers begin in the same place: N questions cost one
    ``generate`` call, or one forward call where log-probabilities of continuations are wanted. A continuation of
    several tokens is scored as a whole; continuations that begin alike share a row of the batch, so that single words
    need one row for each question.

    Args:
        weights: Folder of a model as ``save_pretrained`` writes it, or the name of one on the Hugging Face hub.
        licence: Of the weights.
        device: As for an encoder; a model is on one device.
        dtype: ``"auto"``: as stored; ``"float32"``, ``"bfloat16"``, ``"float16"``.
        batch_size: Most rows of a call.
        revision: Of the model on the hub; None: the newest.

    Attributes:
        id: Changes with the weights.
        licence: As given.
        privileged: False.
        usage: Of all answers so far.

    Raises:
        ConfigError: A setting is wrong.
        DependencyNotInstalled: The extra ``judge`` is missing.
        WeightsError: There is no such model, or it can't be read.
    """

    privileged = False

    def __init__(
        self,
        weights: str,
        licence: str = "unknown",
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
        revision: str | None = None,
    ) -> None:
        transformers = require_package("transformers", "judge")
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
        known = ("auto", "float32", "bfloat16", "float16")
        if dtype not in known:
            raise ConfigError(f"dtype must be one of {', '.join(known)}, got {dtype!r}")
        self._device, self._batch_size, self._lock = resolve_devices(device)[0], batch_size, threading.Lock()
        try:
            self._processor: Any = transformers.AutoProcessor.from_pretrained(weights, revision=revision)
            self._model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                weights, revision=revision, dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, ImportError) as e:
            why = " ".join(str(e).split())[:200]
            raise WeightsError(
                f"no image-text-to-text model can be read from {weights} ({why}): give a folder or the name of one"
            ) from e
        self._tokenizer = self._processor.tokenizer
        if self._processor.chat_template is None and self._tokenizer.chat_template is None:
            raise WeightsError(f"{weights} has no chat template, so that it can't be asked: choose an instructed model")
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.to(self._device).eval()
        ends = self._model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends: Tokens = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        keeps = inspect.signature(self._model.forward).parameters
        self._keeps_some = "logits_to_keep" in keeps  # all logits of a long question are gigabytes
        self.id = f"transformers {weights} {fingerprint(self._model)} {self._model.dtype}"
        self.licence, self.usage = licence, Usage()
        warn_licence(weights, licence)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, ``batch_size`` rows at a time.

        Args:
            questions: Any number.

        Raises:
            ConfigError: Two continuations are the same tokens, or a continuation is none.
        """
        answers: dict[int, Answer] = {}
        groups: dict[int, list[int]] = {}  # by the length of the answer; 0: log-probabilities
        for number, question in enumerate(questions):
            groups.setdefault(0 if question.continuations else question.max_tokens, []).append(number)
        with self._lock, torch.inference_mode():
            for max_tokens, numbers in groups.items():
                asked = [questions[number] for number in numbers]
                found = self._generate(asked, max_tokens) if max_tokens else self._score(asked)
                answers.update(zip(numbers, found, strict=True))
            self.usage = sum((answer.usage for answer in answers.values()), self.usage)
        return [answers[number] for number in range(len(questions))]

    def _generate(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        for start in range(0, len(questions), self._batch_size):
            inputs = self._prepare(questions[start : start + self._batch_size])
            length = inputs["input_ids"].shape[1]
            out = self._model.generate(
                **inputs, do_sample=False, max_new_tokens=max_tokens, pad_token_id=self._tokenizer.pad_token_id
            )
            texts = self._tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
            asked = inputs["attention_mask"].sum(dim=1).tolist()
            written = (out[:, length:] != self._tokenizer.pad_token_id).sum(dim=1).tolist()
            for row, text in enumerate(texts):
                yield Answer(text.strip(), usage=Usage(calls=int(row == 0), tokens=asked[row] + written[row]))

    def _score(self, questions: Sequence[Question]) -> list[Answer]:
        """Score the continuations of each question; rows of different questions share calls."""
        targets = [self._targets(question) for question in questions]
        rows = [(number, context) for number, wanted in enumerate(targets) for context in _contexts(wanted)]
        logprobs: list[dict[tuple[Tokens, ...], float]] = [{} for _ in questions]
        usages = [Usage() for _ in questions]
        for start in range(0, len(rows), self._batch_size):
            chunk = rows[start : start + self._batch_size]
            logits, lengths = self._forward([questions[n] for n, _ in chunk], [context for _, context in chunk])
            for row, (number, context) in enumerate(chunk):
                usages[number] += Usage(calls=int(row == 0), tokens=lengths[row])
                for target in targets[number]:
                    if target not in logprobs[number] and _plain(target[:-1]) == context[: len(target) - 1]:
                        first = logits.shape[1] - 1 - len(context)
                        steps = [
                            torch.logsumexp(logits[row, first + k, list(tokens)], dim=0)
                            for k, tokens in enumerate(target)
                        ]
                        logprobs[number][target] = min(float(torch.stack(steps).sum()), 0.0)
        return [
            Answer(None, tuple(LogProb(found[t], found[t]) for t in wanted), usage=usage)
            for found, wanted, usage in zip(logprobs, targets, usages, strict=True)
        ]

    def _targets(self, question: Question) -> list[tuple[Tokens, ...]]:
        """Return the tokens of each continuation: at each place the ids that count, one but for the end."""
        targets: list[tuple[Tokens, ...]] = []
        for continuation in question.continuations:
            ids = self._tokenizer(continuation, add_special_tokens=False)["input_ids"]
            targets.append((*((token,) for token in ids), *([self._ends] if question.whole and self._ends else [])))
            if not ids or targets[-1] in targets[:-1]:
                raise ConfigError(
                    f"the model's tokenizer can't tell {continuation!r} from another answer or none: use other words"
                )
        return targets

    def _forward(self, questions: Sequence[Question], contexts: Sequence[Tokens]) -> tuple[torch.Tensor, list[int]]:
        """Return log-probabilities after each question and each token of its context, and the rows' lengths.

        Returns:
            float32, shape (R, K, V), K - 1 being the longest context: the last one of a row is after its last token.
        """
        inputs = self._prepare(questions)
        shape, mask = inputs["input_ids"].shape, inputs["attention_mask"].bool()
        rows = range(len(questions))
        lengths = [int(mask[row].sum()) + len(contexts[row]) for row in rows]
        for name, values in list(inputs.items()):
            if values.shape != shape:
                continue
            pad = self._tokenizer.pad_token_id if name == "input_ids" else 0
            out = torch.full((shape[0], max(lengths)), pad, dtype=values.dtype, device=values.device)
            for row in rows:  # what was padded once is padded anew, the context behind the question
                own = {"input_ids": list(contexts[row]), "attention_mask": [1] * len(contexts[row])}
                more = torch.tensor(own.get(name, [0] * len(contexts[row])), dtype=values.dtype, device=values.device)
                out[row, out.shape[1] - lengths[row] :] = torch.cat([values[row][mask[row]], more])
            inputs[name] = out
        keep = 1 + max(len(context) for context in contexts)
        some = {"logits_to_keep": keep} if self._keeps_some else {}
        logits = self._model(**inputs, **some, use_cache=False).logits[:, -keep:]
        return torch.log_softmax(logits.float(), dim=-1), lengths

    def _prepare(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Return the model's inputs: each question as the user's turn of a chat, padded on the left."""
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                        for part in question.parts
                    ],
                }
            ]
            for question in questions
        ]
        texts = self._processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        pictures = [[Image.fromarray(picture) for picture in question.pictures] for question in questions]
        begins = self._tokenizer.bos_token is not None and texts[0].startswith(self._tokenizer.bos_token)
        inputs = self._processor(
            text=texts,
            images=pictures if any(pictures) else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not begins,  # a second beginning would be one too many
        )
        moved = {name: value.to(self._device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        return {name: v.to(self._model.dtype) if v.is_floating_point() else v for name, v in moved.items()}


def _plain(places: Sequence[Tokens]) -> Tokens:
    """Return the tokens of places that have one each."""
    return tuple(place[0] for place in places)


def _contexts(targets: Sequence[tuple[Tokens, ...]]) -> list[Tokens]:
    """Return the fewest rows of tokens after which every step of every target can be read off."""
    found = sorted({_plain(target[:-1]) for target in targets}, key=lambda one: (-len(one), one))
    return [one for place, one in enumerate(found) if not any(o[: len(one)] == one for o in found[:place])]
