"""Ctrl-C and SIGTERM as requests, which the training loop answers between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequest", "stoppable"]


class StopRequest:
    """Whether the training was asked to stop."""

    def __init__(self) -> None:
        self.made = False


@contextlib.contextmanager
def stoppable(processes: int) -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM makes the request; a second Ctrl-C stops at once.

    In other threads than the main one nothing changes, because Python delivers signals to the main thread only.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        # A launcher passes on a Ctrl-C that the terminal has already sent to every process.
        if request.made and number == signal.SIGINT and processes == 1:
            raise KeyboardInterrupt
        request.made = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
