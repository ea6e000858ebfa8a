"""The OpenAI form of a question about pictures, and what a reply in it says; nothing of a reply is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.pictures import data_url
from vlmreward.rewards.judges.questions import LogProb, Question

OVERHEAD = 64
"""Tokens that a chat template may add to a question."""

MOST_TOKENS = 10**9
"""No reply has used more, whatever it says."""

MOST_LISTED = 1000
"""Likely tokens that are looked at."""

LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
OURS = frozenset({"n", "best_of", "stream", "messages", "model"})
"""Parameters of a request that no user sets."""

LEAST_LOGPROB = -1e6
"""Anything below it is no log-probability; servers write -9999 for none."""


class Reply(NamedTuple):
    """What a server's reply says.

    Attributes:
        text: The answer, or None.
        logprobs: Of the question's continuations, or None.
        tokens: Used, or None where the reply doesn't say.
        reason: Why what was asked for is missing, or "".
    """

    text: str | None = None
    logprobs: tuple[LogProb, ...] | None = None
    tokens: int | None = None
    reason: str = ""


def request_body(question: Question, model: str, top_logprobs: int, parameters: Mapping[str, Any]) -> bytes:
    """Return the JSON of a request, greedy and in one piece.

    Args:
        question: What is asked.
        model: The server's name of the model.
        top_logprobs: How many likely tokens are asked for, where log-probabilities are wanted.
        parameters: Further ones; they take the place of ours.
    """
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in question.parts
    ]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": question.max_tokens,
        "stream": False,
    }
    if question.continuations:
        body |= {"logprobs": True, "top_logprobs": top_logprobs, "max_tokens": 1}
    return json.dumps({**body, **parameters}).encode("ascii")


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a request that would cost more than is reserved, or give another kind of reply.

    Raises:
        ConfigError: There is one.
    """
    for name in OURS & parameters.keys():
        raise ConfigError(f"parameters.{name} can't be set: one question has one answer, in one piece")
    for name in LIMITS & parameters.keys():
        if type(parameters[name]) is not int or parameters[name] < 1:
            raise ConfigError(f"parameters.{name} must be a whole number of tokens >= 1, got {parameters[name]!r}")


def most_tokens(question: Question, picture_tokens: int, parameters: Mapping[str, Any]) -> int:
    """Return a bound of the tokens of a question and its answer: a token of text has at least one byte.

    Args:
        question: What is asked.
        picture_tokens: Bound of one picture.
        parameters: Of the request; one that allows a longer answer counts.
    """
    text = sum(len(part.encode("utf-8", "surrogatepass")) for part in question.parts if isinstance(part, str))
    longest = max([question.max_tokens, *(parameters[name] for name in LIMITS & parameters.keys())])
    return OVERHEAD + text + picture_tokens * len(question.pictures) + longest


def parse_reply(raw: bytes, question: Question) -> Reply:
    """Return what a reply says about a question.

    Args:
        raw: The body of a reply, whatever it is.
        question: What was asked.
    """
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        return Reply(reason=f"the server's reply is not JSON: {raw.decode('utf-8', 'replace')}")
    tokens = _tokens(reply)
    match reply:
        case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
            pass
        case {"choices": [{"message": {"refusal": str(refusal)}}, *_]}:
            return Reply(tokens=tokens, reason=f"the model refused: {refusal}")
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return Reply(tokens=tokens, reason=f"the server reports an error: {message}")
        case _:
            why = "the server's reply holds no answer: choices[0].message.content is no text"
            return Reply(tokens=tokens, reason=why)
    if choice.get("finish_reason") == "content_filter":
        return Reply(tokens=tokens, reason="the server's filter cut the answer")
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate can't be printed
    if not question.continuations:
        return Reply(text, None, tokens)
    listed = _listed(choice)
    if listed is None:
        return Reply(text, None, tokens, "the server tells no log-probabilities (logprobs.content[0].top_logprobs)")
    if question.whole:
        return Reply(text, None, tokens, "a server tells the likely first tokens only, not those of whole answers")
    return Reply(text, tuple(bounds(continuation, listed) for continuation in question.continuations), tokens)


def bounds(continuation: str, listed: Mapping[str, float]) -> LogProb:
    """Return what the likeliest first tokens tell about the probability that an answer begins with a text.

    Tokens are compared without white space around them. One that is a beginning of the text may or may not go on to
    it. What is not listed is no likelier than the last that is.

    Args:
        continuation: The text.
        listed: Log-probability of the likeliest first tokens, at least one.
    """
    own, maybe = [], []
    for token, logprob in listed.items():
        word = token.strip()
        if word == continuation:
            own.append(logprob)
        elif word and continuation.startswith(word):
            maybe.append(logprob)
    low = _log_sum(own)
    return LogProb(low, min(0.0, _log_sum([*own, *maybe, *([] if own else [min(listed.values())])])))


def _log_sum(logprobs: list[float]) -> float:
    top = max(logprobs, default=-math.inf)
    if top == -math.inf:
        return top
    return min(0.0, top + math.log(math.fsum(math.exp(x - top) for x in logprobs)))


def _tokens(reply: Any) -> int | None:
    match reply:
        case {"usage": {"total_tokens": int(total)}} if type(total) is int and 0 <= total <= MOST_TOKENS:
            return total
    return None


def _listed(choice: Any) -> dict[str, float] | None:
    """Return the likeliest first tokens, or None where one of them is not what it should be."""
    match choice:
        case {"logprobs": {"content": [{"top_logprobs": list(top)}, *_]}} if top:
            pass
        case _:
            return None
    listed: dict[str, float] = {}
    for entry in top[:MOST_LISTED]:
        match entry:
            case {"token": str(token), "logprob": float() | int() as logprob}:
                if isinstance(logprob, bool) or not LEAST_LOGPROB <= logprob <= 1e-3:  # rounding may lead above 0
                    return None
                listed[token] = max(min(float(logprob), 0.0), listed.get(token, -math.inf))
            case _:
                return None
    return listed
