"""A person as judge, at the terminal or in a browser on the same machine."""

from __future__ import annotations

import base64
import hmac
import html
import io
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import gettempdir
from urllib.parse import parse_qs

import numpy as np
from PIL import Image

from vlmreward.atomic import write_bytes
from vlmreward.errors import ConfigError
from vlmreward.rewards.annotators.answers import Answer, Choice
from vlmreward.rewards.settings import check_number
from vlmreward.types import FrameBatch, Frames

KEYS: dict[str, Choice] = {"1": "first", "2": "second", "u": "unsure"}
GAP = 8
"""Pixels between the two pictures."""
SHOWN_HEIGHT = 320
"""Pictures are shown at least this high, in pixels."""


def draw_pair(first: Frames, second: Frames) -> bytes:
    """Return a PNG of two pictures side by side, uint8, shape (H, W, 3) each."""
    gap = np.full((len(first), GAP, 3), 255, np.uint8)
    picture = Image.fromarray(np.concatenate([first, gap, second], axis=1))
    factor = max(1, round(SHOWN_HEIGHT / picture.height))
    out = io.BytesIO()
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


class TerminalComparer:
    """Writes each pair into a picture file and asks for 1, 2 or u (unsure) at the terminal.

    Args:
        picture: Where the pair is shown; written anew for each. None: in the folder for temporary files.
        read: Reads a line after showing a prompt.

    Raises:
        ConfigError: There is nobody at the terminal.
    """

    calls_per_pair = 1
    privileged = False

    def __init__(self, picture: str | Path | None = None, read: Callable[[str], str] | None = None) -> None:
        if read is None and not sys.stdin.isatty():
            raise ConfigError("annotator terminal asks a person, and standard input is no terminal: choose another")
        self._picture = Path(gettempdir()) / "vlmreward_pair.png" if picture is None else Path(picture)
        self._read = read or input
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair."""
        assert first.frames is not None
        assert second.frames is not None
        answers = []
        for row, (a, b) in enumerate(zip(first.frames, second.frames, strict=True)):
            write_bytes(self._picture, draw_pair(a, b))
            goal = first.instruction if isinstance(first.instruction, str) else first.instruction[row]
            asked = f"{self._picture}: which is nearer to {goal!r}? 1 left, 2 right, u unsure: "
            self.calls += 1
            while (key := self._read(asked).strip().lower()) not in KEYS:
                asked = "1, 2 or u: "
            answers.append(Answer(KEYS[key]))
        return answers


PAGE = """<!doctype html><meta charset="utf-8"><title>vlmreward</title>
<style>body{{font:18px sans-serif;text-align:center}}button{{font:inherit;margin:.5em;padding:.5em 1em}}</style>
<p>Which is nearer to: <b>{goal}</b></p><img alt="two frames" src="data:image/png;base64,{picture}">
<form method="post"><input type="hidden" name="number" value="{number}">
<button name="key" value="1" accesskey="1">left</button><button name="key" value="u">unsure</button>
<button name="key" value="2" accesskey="2">right</button></form><p>{left} left</p>"""
NOTHING = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><p>No question now.</p>'


class PageComparer:
    """Shows pairs on a page of this machine and waits for the buttons.

    The page's address holds a token, so that no other page that a browser shows can answer or look in.

    Args:
        port: Of the page; 0 for a free one, which is printed.
        timeout: Seconds after which pairs without an answer are invalid.

    Raises:
        ConfigError: The time-out is not positive, or the port is taken.

    Attributes:
        url: Where the page is.
        token: The last part of it.
    """

    calls_per_pair = 1
    privileged = False

    def __init__(self, port: int = 0, timeout: float = 3600.0) -> None:
        self.timeout = check_number("timeout", timeout, 0, above=True)
        self.calls = 0
        self._changed = threading.Condition()
        self._pairs: dict[int, tuple[bytes, str]] = {}  # that wait for an answer, oldest first
        self._answers: dict[int, Answer] = {}
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except (OSError, OverflowError, TypeError) as e:
            raise ConfigError(f"no page can be served at port {port!r} ({e}): give port=0 for a free one") from e
        self.token = secrets.token_urlsafe(16)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}"
        threading.Thread(target=self._server.serve_forever, name="vlmreward-page", daemon=True).start()
        print(f"compare pairs at {self.url}", file=sys.stderr, flush=True)

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair."""
        assert first.frames is not None
        assert second.frames is not None
        goals = [first.instruction] * len(first) if isinstance(first.instruction, str) else list(first.instruction)
        with self._changed:
            numbers = range(self.calls, self.calls + len(first))
            self.calls += len(first)
            for number, a, b, goal in zip(numbers, first.frames, second.frames, goals, strict=True):
                self._pairs[number] = draw_pair(a, b), goal
            self._changed.wait_for(lambda: all(n in self._answers for n in numbers), self.timeout)
            for number in numbers:
                self._pairs.pop(number, None)
            late = Answer("invalid", f"nobody answered within {self.timeout:g} s")
            return [self._answers.pop(number, late) for number in numbers]

    def page(self) -> str:
        """Return the page of the oldest pair."""
        with self._changed:
            if not self._pairs:
                return NOTHING
            number, (picture, goal) = next(iter(self._pairs.items()))
            encoded = base64.b64encode(picture).decode()
            return PAGE.format(goal=html.escape(goal), picture=encoded, number=number, left=len(self._pairs))

    def take(self, number: int, key: str) -> None:
        """Take an answer; one for a pair that is not asked about (any more) is ignored."""
        with self._changed:
            if key in KEYS and self._pairs.pop(number, None) is not None:
                self._answers[number] = Answer(KEYS[key])
                self._changed.notify_all()

    def close(self) -> None:
        """Take the page away."""
        self._server.shutdown()
        self._server.server_close()


def _handler(comparer: PageComparer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self._may():
                self._send(comparer.page())

        def _may(self) -> bool:
            """Return whether the token was given; otherwise the request is refused."""
            given = hmac.compare_digest(self.path.removeprefix("/").encode(), comparer.token.encode())
            if not given:
                self.send_error(403, "the address is the one that was printed, with its token")
            return given

        def do_POST(self) -> None:
            if not self._may():
                return
            length = self.headers.get("Content-Length", "")
            fields = parse_qs(
                self.rfile.read(min(int(length), 1000) if length.isdigit() else 0).decode("ascii", "replace")
            )
            number, key = (fields.get(name, [""])[0] for name in ("number", "key"))
            if number.isdecimal():
                comparer.take(int(number), key)
            self._send(comparer.page())

        def _send(self, page: str) -> None:
            content = page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep requests out of the terminal."""

    return Handler
