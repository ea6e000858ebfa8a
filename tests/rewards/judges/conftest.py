"""A server that speaks the OpenAI protocol over a socket, and does whatever a test wants of it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmreward.rewards.judges.http_judge import HttpJudge
from vlmreward.rewards.judges.questions import Answer, LogProb, Question, Usage


class Request:
    """What the server was sent."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.path, self.headers, self.began = handler.path, dict(handler.headers), time.monotonic()
        self.body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))

    @property
    def parts(self) -> list[Any]:
        """The texts and pictures of the question."""
        return [
            part["text"] if part["type"] == "text" else decode(part["image_url"]["url"])
            for part in self.body["messages"][0]["content"]
        ]


class ChatServer:
    """Serves ``behave(handler, request, number)``, which writes the reply; by default ``yes`` with 100 tokens."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behave: Callable[[Any, Request, int], None] = lambda handler, request, number: handler.say("yes")
        self.flying = self.most_flying = self.tokens = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = Request(self)
                with server.lock:
                    number = len(server.requests)
                    server.requests.append(request)
                    server.flying += 1
                    server.most_flying = max(server.most_flying, server.flying)
                try:
                    with contextlib.suppress(ConnectionError):  # the judge may well have gone
                        server.behave(self, request, number)
                finally:
                    with server.lock:
                        server.flying -= 1

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def reply(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content_Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def say(self, text: Any, tokens: int = 100, **more: Any) -> None:
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
                with server.lock:
                    server.tokens += tokens
                self.reply(200, json.dumps({"choices": [choice], "usage": {"total_tokens": tokens}}).encode())

            def say_likely(self, likely: dict[str, Any]) -> None:
                top = [{"token": token, "logprob": logprob} for token, logprob in likely.items()]
                self.say("True", logprobs={"content": [{"top_logprobs": top}]})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def judge(self, **settings: Any) -> HttpJudge:
        """Return a judge that asks this server."""
        return HttpJudge(**{"url": self.url, "model": "tiny-vlm", **settings})

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def decode(url: str) -> np.ndarray:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture
def other_server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture
def make_question() -> Callable[..., Question]:
    """Return a function that makes the question number k: a picture and a text that no other one has."""

    def make(k: int = 0, **more: Any) -> Question:
        picture = np.random.default_rng(k).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        return Question((f"question {k}: ", picture, " is it done?"), **more)

    return make


class FixedJudge:
    """Gives the answers it was told, in order: texts, log-probabilities or, for an exception, its reason."""

    id, licence = "fixed", "MIT"

    def __init__(self, *answers: Any) -> None:
        self.answers, self.questions, self.asks = list(answers), list[Question](), 0
        self.usage = Usage()

    def ask(self, questions: Any) -> list[Answer]:
        self.asks += 1
        self.questions += questions
        return [self._answer(self.answers.pop(0)) for _ in questions]

    def _answer(self, told: Any) -> Answer:
        if isinstance(told, Exception):
            return Answer(reason=str(told))
        if isinstance(told, str):
            return Answer(told)
        return Answer(None, tuple(LogProb(*x) if isinstance(x, tuple) else LogProb(x, x) for x in told))


@pytest.fixture
def fixed_judge() -> Callable[..., FixedJudge]:
    return FixedJudge


@pytest.fixture
def write_dataset() -> Callable[..., None]:
    """Return a function that writes a dataset of one episode."""

    def write(path: Path, frames: np.ndarray) -> None:
        path.mkdir()
        np.save(path / "frames.npy", frames)
        (path / "episodes.jsonl").write_text('{"video": "frames.npy", "task": "stack"}\n')

    return write
