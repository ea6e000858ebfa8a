"""How much a judge may cost, and how fast: reserved before anything is sent, so that nothing in flight exceeds it."""

from __future__ import annotations

import asyncio
import time

from vlmreward.errors import ConfigError


class Budget:
    """Calls and tokens that may be spent.

    Used within one event loop at a time, each of which is told of by :meth:`begin`.

    Args:
        calls: Most calls; None: any number.
        tokens: Most tokens; None: any number.

    Attributes:
        spent_calls: So far, those in flight included.
        spent_tokens: So far, without what is reserved.

    Raises:
        ConfigError: A limit is not a whole number >= 0.
    """

    def __init__(self, calls: int | None = None, tokens: int | None = None) -> None:
        for name, limit in (("budget_calls", calls), ("budget_tokens", tokens)):
            if limit is not None and (type(limit) is not int or limit < 0):
                raise ConfigError(f"{name} must be a whole number >= 0 or null, got {limit!r}")
        self._most_calls, self._most_tokens = calls, tokens
        self.spent_calls, self.spent_tokens = 0, 0
        self.begin()

    def begin(self) -> None:
        """Begin in a new event loop, with nothing in flight."""
        self._reserved, self._in_flight = 0, 0
        self._changed = asyncio.Condition()

    async def reserve(self, tokens: int) -> str:
        """Reserve one call and the most tokens that it can use; waits while calls in flight may give tokens back.

        Returns:
            "", or why there is nothing left.
        """
        async with self._changed:
            while True:
                if self._most_calls is not None and self.spent_calls >= self._most_calls:
                    return f"the budget of {self._most_calls} calls is used up"
                if self._most_tokens is None or self.spent_tokens + self._reserved + tokens <= self._most_tokens:
                    self.spent_calls += 1
                    self._reserved += tokens
                    self._in_flight += 1
                    return ""
                if not self._in_flight:
                    return (
                        f"the budget of {self._most_tokens} tokens is used up: {self.spent_tokens} are spent, and this "
                        f"question may take {tokens}"
                    )
                await self._changed.wait()

    async def settle(self, reserved: int, used: int) -> None:
        """Give back what a call had reserved, and count what it has used."""
        async with self._changed:
            self._reserved -= reserved
            self._in_flight -= 1
            self.spent_tokens += used
            self._changed.notify_all()


class Pace:
    """Spaces calls evenly, and holds all of them back for a while when the server asks for it.

    Args:
        per_minute: Most calls in a minute; None: any number.

    Raises:
        ConfigError: It is not a number > 0.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        if per_minute is not None and (isinstance(per_minute, bool) or not 0 < per_minute < float("inf")):
            raise ConfigError(f"per_minute must be a number > 0 or null, got {per_minute!r}")
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for this call's turn."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval
        if turn > now:
            await asyncio.sleep(turn - now)

    def pause(self, seconds: float) -> None:
        """Let no further call begin for some seconds."""
        self._next = max(self._next, time.monotonic() + seconds)
