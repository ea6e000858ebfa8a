"""A judge behind a server that speaks the OpenAI protocol of chat completions: vLLM, llama.cpp, Ollama, hosted ones."""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import json
import math
import os
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from vlmreward.errors import ConfigError
from vlmreward.optional import require_package
from vlmreward.rewards.judges.answer_cache import AnswerCache, known
from vlmreward.rewards.judges.budget import Budget, Pace
from vlmreward.rewards.judges.chat_completion import (
    Reply,
    check_parameters,
    most_tokens,
    parse_reply,
    request_body,
)
from vlmreward.rewards.judges.questions import Answer, Question, Usage, as_line
from vlmreward.rewards.settings import check_number

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 1_000_000
"""Longest body of a reply that is read."""

FIRST_WAIT = 0.5
"""Seconds before the first retry where the server doesn't say; twice as long before each further one."""

LEAST_KEY = 8
"""Shorter keys can't be told from words, and are not struck out of replies."""

_AGAIN = frozenset({408, 425, 429, *range(500, 600)})

_T = TypeVar("_T")


class _Attempt(NamedTuple):
    """What one request came to.

    Attributes:
        reply: What the server said, or why it said nothing.
        again: Whether another try may help.
        wait: Seconds that the server asks to wait before, or None.
        used: Whether the server may have worked on the question.
    """

    reply: Reply
    again: bool = False
    wait: float | None = None
    used: bool = True


class HttpJudge:
    """Asks a server that speaks the OpenAI protocol, several questions at a time.

    Only https is spoken to other machines, redirects are not followed, proxies of the environment are not used, and no
    reply is longer, slower or otherwise than it may be: whatever goes wrong is the reason of an answer. The key is read
    from the environment when questions are sent, goes into one header, and is neither kept nor shown.

    Args:
        url: Where the protocol begins, e.g. ``http://localhost:8000/v1``.
        model: The server's name of the model.
        key_variable: Environment variable that holds the key; None: no key is sent.
        licence: Of the model's weights, as far as the user knows.
        timeout: Most seconds of one try, from sending to the last byte.
        retries: Further tries after time-outs, broken connections and statuses 408, 425, 429 and 5xx.
        max_wait: Most seconds between two tries; a server that asks for more gets no further try.
        concurrency: Questions that are under way at a time.
        per_minute: Most requests in a minute; None: any number.
        budget_calls: Most requests, retries included; None: any number.
        budget_tokens: Most tokens; None: any number.
        picture_tokens: Bound of the tokens of one picture, with which a budget in tokens reckons beforehand.
        cache: Folder for answers; None: none.
        top_logprobs: Likely first tokens that are asked for where log-probabilities are wanted.
        insecure: Allow http to other machines.
        parameters: Further parameters of every request, which take the place of ours.

    Attributes:
        id: Of the model, where it runs and with which parameters.
        licence: As given.
        privileged: False.
        usage: Of all answers so far.

    Raises:
        ConfigError: A setting is wrong, or the address is neither https nor on this machine.
        DependencyNotInstalled: The extra ``judge`` is missing.
        StorageError: The cache can't be written.
    """

    privileged = False

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        licence: str = "unknown",
        timeout: float = 60.0,
        retries: int = 4,
        max_wait: float = 60.0,
        concurrency: int = 8,
        per_minute: float | None = None,
        budget_calls: int | None = None,
        budget_tokens: int | None = None,
        picture_tokens: int = 3000,
        cache: str | Path | None = None,
        top_logprobs: int = 20,
        insecure: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._http = require_package("httpx2", "judge")
        self._url = check_url(url, insecure) + "/chat/completions"
        try:
            self._http.URL(self._url)
        except self._http.InvalidURL as e:
            raise ConfigError(f"url is no address ({e}), got {url!r}") from e
        if not isinstance(model, str) or not model.strip():
            raise ConfigError(f"model must be the server's name of a model, got {model!r}: see its page /v1/models")
        counts = {"retries": (retries, 0), "concurrency": (concurrency, 1), "picture_tokens": (picture_tokens, 1)}
        for name, (value, least) in {**counts, "top_logprobs": (top_logprobs, 2)}.items():
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise ConfigError(f"parameters must hold <name>: <value>, got {parameters!r}")
        check_parameters(parameters or {})
        self._model, self._key_variable = model, key_variable
        self._timeout = check_number("timeout", timeout, 0, above=True)
        self._max_wait = check_number("max_wait", max_wait, 0)
        self._retries, self._concurrency, self._top_logprobs = retries, concurrency, top_logprobs
        self._picture_tokens, self._parameters = picture_tokens, dict(parameters or {})
        self._budget, self._pace = Budget(budget_calls, budget_tokens), Pace(per_minute)
        self._cache = None if cache is None else AnswerCache(cache)
        self._lock, self._surplus = threading.Lock(), 0
        # made once: reading the certificates takes longer than a request; over http nothing reads them
        self._tls = self._http.create_ssl_context() if self._url.startswith("https:") else False
        told = {"top_logprobs": top_logprobs, **self._parameters}
        self.id = f"http {self._url} {model} {json.dumps(told, sort_keys=True, default=str)}"
        self.licence, self.usage = licence, Usage()
        self._read_key()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions; each different one is sent once, and not at all if its answer is in the cache.

        Args:
            questions: Any number.

        Raises:
            ConfigError: The key is gone from the environment.
            StorageError: The cache can't be written.
        """
        keys = [question.digest(self.id) for question in questions]
        with self._lock:
            found = _run(self._ask_all(dict(zip(keys, questions, strict=True))))
            answers = []
            for key in keys:
                answers.append(found[key])
                found[key] = known(found[key])
            self.usage = sum((answer.usage for answer in answers), self.usage)
        return answers

    async def _ask_all(self, questions: Mapping[str, Question]) -> dict[str, Answer]:
        self._budget.begin()
        free = asyncio.Semaphore(self._concurrency)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key := self._read_key():
            headers["Authorization"] = f"Bearer {key}"
        limits = self._http.Limits(max_connections=self._concurrency)
        async with self._http.AsyncClient(
            headers=headers,
            timeout=self._timeout,
            limits=limits,
            verify=self._tls,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            answers = await asyncio.gather(*(self._answer(k, q, client, free, key) for k, q in questions.items()))
        return dict(zip(questions, answers, strict=True))

    async def _answer(
        self, key: str, question: Question, client: httpx2.AsyncClient, free: asyncio.Semaphore, secret: str
    ) -> Answer:
        async with free:
            if self._cache is not None and (answer := await asyncio.to_thread(self._cache.read, key)) is not None:
                return answer
            answer = _clean(await self._try(question, client), secret)
            if self._cache is not None:
                await asyncio.to_thread(self._cache.write, key, answer)
            return answer

    async def _try(self, question: Question, client: httpx2.AsyncClient) -> Answer:
        """Send a question until there is an answer, or no more reason to try."""
        body = request_body(question, self._model, self._top_logprobs, self._parameters)
        usage, reply, last = Usage(), Reply(), ""
        for number in range(self._retries + 1):
            reserved = most_tokens(question, self._picture_tokens, self._parameters) + self._surplus
            if spent := await self._budget.reserve(reserved):
                return Answer(reason=f"{spent}{last and f'; before that {last}'}", usage=usage)
            used = reserved
            try:
                await self._pace.wait()
                attempt = await self._send(client, body, question)
                told = attempt.reply.tokens
                used = (reserved if told is None else told) if attempt.used else 0
                self._surplus += max(used - reserved, 0)  # pictures take more than was thought
            finally:
                await self._budget.settle(reserved, used)
            usage += Usage(calls=1, tokens=used)
            reply, last = attempt.reply, attempt.reply.reason
            if not attempt.again or number == self._retries:
                break
            wait = min(FIRST_WAIT * 2**number, self._max_wait) if attempt.wait is None else attempt.wait
            if wait > self._max_wait:
                last = f"{last}, and to wait {wait:.4g} s, which is more than max_wait={self._max_wait:g}"
                break
            if attempt.wait is not None:
                self._pace.pause(wait)  # it is meant for all
            await asyncio.sleep(wait)
        return Answer(reply.text, reply.logprobs, last, usage)

    async def _send(self, client: httpx2.AsyncClient, body: bytes, question: Question) -> _Attempt:
        try:
            async with asyncio.timeout(self._timeout), client.stream("POST", self._url, content=body) as response:
                status, wait = response.status_code, _retry_after(response.headers.get("retry-after"))
                raw = await _read(response)
        except (TimeoutError, self._http.TimeoutException):
            return _Attempt(Reply(reason=f"no whole reply within {self._timeout:g} s"), again=True)
        except self._http.ConnectError:
            return _Attempt(Reply(reason="no connection to the server"), again=True, used=False)
        except self._http.HTTPError as e:  # its text may hold what was sent
            return _Attempt(Reply(reason=f"the connection failed ({type(e).__name__})"), again=True)
        if raw is None:
            return _Attempt(Reply(reason=f"the reply is compressed or longer than {MOST_BYTES} bytes"))
        if status == 200:
            return _Attempt(parse_reply(raw, question))
        if 300 <= status < 400:
            return _Attempt(Reply(reason=f"status {status}: the server redirects, which is not followed"), used=False)
        reply = Reply(reason=f"status {status}: {raw.decode('utf-8', 'replace')}")
        return _Attempt(reply, status in _AGAIN, wait, used=status >= 500)

    def _read_key(self) -> str:
        if self._key_variable is None:
            return ""
        key = os.environ.get(self._key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            state = "holds no key" if key else "is not set"
            raise ConfigError(f"the environment variable {self._key_variable} {state}: set it, or key_variable=null")
        return key


def check_url(url: str, insecure: bool) -> str:
    """Return where a server speaks the protocol, without a slash at the end.

    Args:
        url: What the user wrote.
        insecure: Whether http to other machines is allowed.

    Raises:
        ConfigError: It is no address, holds a name and password, or is neither https nor on this machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except (ValueError, AttributeError, TypeError):
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"url must be where the protocol begins, e.g. http://localhost:8000/v1, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("url must hold no name and password: put the key into an environment variable, key_variable=")
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise ConfigError(f"url must be https for another machine, got http to {host}: or set insecure=true")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _read(response: httpx2.Response) -> bytes | None:
    """Return the body of a reply, or None where it is compressed or too long."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may be a date; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _clean(answer: Answer, secret: str) -> Answer:
    """Return an answer without the key, which a server may repeat, and with a reason of one line."""
    text, reason = answer.text, answer.reason
    if len(secret) >= LEAST_KEY:
        text = None if text is None else text.replace(secret, "***")
        reason = reason.replace(secret, "***")
    return Answer(text, answer.logprobs, as_line(reason), answer.usage)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run asynchronous work to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
