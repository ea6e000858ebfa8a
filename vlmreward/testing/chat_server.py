"""A server that speaks the OpenAI protocol of chat completions over a socket, and does whatever it is told."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from vlmreward.rewards.judges.http_judge import HttpJudge
from vlmreward.rewards.judges.questions import Picture


class Request:
    """What a server was sent.

    Attributes:
        path: Of the URL.
        headers: As sent.
        body: The JSON.
        began: When it came, of the monotonic clock, seconds.
    """

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
    """A server in a thread of its own, on a free port of this machine.

    Attributes:
        url: Where the protocol begins.
        behave: Called as ``behave(handler, request, number)`` to write the reply, with the methods of the handler
            (``reply``, ``say``, ``say_likely``) or by hand; at first it says ``yes``, for 100 tokens.
        requests: All so far.
        most_flying: Most requests that were under way at a time.
        tokens: That ``say`` has told of.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behave: Callable[[Any, Request, int], None] = lambda handler, request, number: handler.say("yes")
        self.flying = self.most_flying = self.tokens = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take a request."""
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

            do_GET = do_POST  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def reply(self, status: int, body: bytes, **headers: str) -> None:
                """Send a whole reply."""
                self.send_response(status)
                for name, value in {"Content_Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def say(self, text: Any, tokens: int = 100, **more: Any) -> None:
                """Send an answer, with more keys of its choice."""
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
                with server.lock:
                    server.tokens += tokens
                self.reply(200, json.dumps({"choices": [choice], "usage": {"total_tokens": tokens}}).encode())

            def say_likely(self, likely: dict[str, Any]) -> None:
                """Send log-probabilities of first tokens."""
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
        """Stop."""
        self.http.shutdown()
        self.http.server_close()


def decode(url: str) -> Picture:
    """Return the picture in a data URL, uint8, shape (H, W, 3)."""
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
