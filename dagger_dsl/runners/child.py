"""A worker process: makes the calls that its run sends, one at a time, until the run is gone.

While a body runs, its process may ask the run for something (`ask`): the thread there that waits
for the call answers. Log records go the same way. What the process writes to standard output and
error goes where the run's own output goes.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import CoroutineType
from typing import Any

from dagger_dsl.runners import wire
from dagger_dsl.runners.transfer import dumps, function_from, loads, rebuilt, told

__all__ = ["ask", "given_object", "heard", "main"]


class _Link:
    """This process's end of the connection.

    Attributes:
        busy: A call is being made, so that somebody listens.
        heard: Errors of what the call was given, with the numbers that the run knows them by.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.busy = False
        self.heard: list[tuple[BaseException, int]] = []
        self.lock = threading.RLock()

    def send(self, letter: bytes, body: bytes = b"") -> None:
        with self.lock:
            wire.send(self.fd, letter, 0, body)

    def ask(self, what: str, arguments: tuple[Any, ...]) -> Any:
        question = dumps((what, arguments))
        with self.lock:
            if not self.busy:
                from dagger_dsl.errors import InvalidState

                raise InvalidState(
                    f"{what} was asked for after the call had ended; under runner='processes' a "
                    "body talks to its run only while it runs"
                )
            wire.send(self.fd, wire.ASK, 0, question)
            letter, _, body = wire.receive(self.fd)
        if letter == wire.ERROR:
            raise rebuilt(pickle.loads(body))
        return loads(body)


_link: _Link | None = None
_object: Any = None


def ask(what: str, *arguments: Any) -> Any:
    """Ask the run of the current call for something; whatever it raises there is raised here."""
    assert _link is not None
    return _link.ask(what, arguments)


def heard(failure: dict[str, Any]) -> BaseException:
    """Return an error of something that the call was given; the run will know it again."""
    assert _link is not None
    error = rebuilt(failure)
    _link.heard.append((error, failure["told"]))
    return error


def given_object() -> Any:
    """Return the run's `app_data`: a copy, which lives as long as this process."""
    return _object


class _ToRun(logging.Handler):
    """Sends records to the run, whose own handlers take them."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self.link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            told_of = dict(vars(record), msg=record.getMessage(), args=None, exc_info=None)
            if record.exc_info:
                told_of["exc_text"] = logging.Formatter().formatException(record.exc_info)
            plain = {key: value for key, value in told_of.items() if _is_plain(value)}
            with self.link.lock:
                if self.link.busy:
                    wire.send(self.link.fd, wire.LOG, 0, pickle.dumps(plain))
        except Exception:
            self.handleError(record)


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return True
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _set_up(settings: Mapping[str, Any], link: _Link) -> None:
    sys.argv[:] = settings["argv"]
    root = logging.getLogger()
    root.addHandler(_ToRun(link))
    for name, level in settings["levels"].items():
        logging.getLogger(name).setLevel(level)
    logging.disable(settings["disabled"])


def main(fd: int, life: int, settings: Mapping[str, Any]) -> None:
    """Serve until the other end is closed.

    Args:
        fd: The connection.
        life: What is at its end as soon as the run's process is.
        settings: How the run's process is set up.
    """
    global _link
    _end_with(life)
    link = _link = _Link(fd)
    _set_up(settings, link)
    worker = _Worker(link)
    while True:
        try:
            letter, number, body = wire.receive(fd)
        except (EOFError, OSError):
            return
        try:
            worker.serve(letter, number, body)
        except (BrokenPipeError, ConnectionError):
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass


def _end_with(life: int) -> None:
    """End this process, and what it has started, when the run's process ends.

    A body may be anywhere then, in a C library that never looks up: the kernel has to do it. Where
    it cannot, a thread does.
    """
    if os.uname().sysname == "Linux":  # `sys.platform` would have the rest unchecked
        import fcntl

        # The pipe's end is a SIGIO for the whole group, which ends who does not expect it.
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
        import select

        if select.select([life], [], [], 0)[0]:  # it ended before we could say so
            os._exit(1)
        return

    def watch() -> None:
        os.read(life, 1)
        os._exit(1)

    threading.Thread(target=watch, name="dagger-dsl-life", daemon=True).start()


class _Worker:
    """Does what the messages ask for."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.functions: dict[int, Callable[..., Any]] = {}
        self.stream: Iterator[Any] | None = None

    def serve(self, letter: bytes, number: int, body: bytes) -> None:
        global _object
        link = self.link
        link.busy = True
        answer, data = wire.VALUE, b""
        try:
            if letter == wire.CALL:
                answer, data = self.call(number, body)
            elif letter == wire.MORE:
                answer, data = self.more()
            elif letter == wire.CLOSE:
                self.close()
            elif letter == wire.FUNCTION:
                self.functions[number] = function_from(body)
            else:
                _object = loads(body)
        except BaseException as error:
            answer, data = wire.ERROR, pickle.dumps(self.told(error))
        if self.stream is None:
            link.heard.clear()
        with link.lock:
            link.busy = False
            wire.send(link.fd, answer, 0, data)

    def call(self, number: int, body: bytes) -> tuple[bytes, bytes]:
        try:
            profiled, args, kwargs = loads(body)
        except Exception as error:
            raise _transfer_error(
                f"its arguments cannot be made again in the worker process: "
                f"{type(error).__name__}: {error}; what they are made of must be importable there"
            ) from error
        function = self.functions[number]
        if profiled:
            value = self.profile(function, args, kwargs)
        else:
            value = function(*args, **kwargs)
        kind = type(value)
        if kind is CoroutineType:
            value.close()
            return wire.LOST, b""
        if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
            self.stream = value
            return wire.STREAM, b""
        return wire.VALUE, _sent(value, "its result")

    def profile(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        import cProfile

        profiler = cProfile.Profile()
        try:
            return profiler.runcall(function, *args, **kwargs)
        finally:
            profiler.create_stats()
            self.link.send(wire.PROFILE, pickle.dumps(profiler.stats))

    def more(self) -> tuple[bytes, bytes]:
        stream = self.stream
        assert stream is not None
        items: list[Any] = []
        over = True
        error: BaseException | None = None
        try:
            over = wire.handful(stream, items)
        except BaseException as raised:
            error = raised
        if over:
            self.stream = None
        failure = None if error is None else self.told(error)
        return wire.ITEMS, _sent((items, over, failure), "an item that it yielded")

    def told(self, error: BaseException) -> dict[str, Any]:
        """Return an error as plain data, with its number where the run has told of it."""
        data = told(error)
        for each, number in self.link.heard:
            if each is error:
                data["told"] = number
        return data

    def close(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and hasattr(stream, "close"):
            stream.close()


def _sent(value: Any, what: str) -> bytes:
    try:
        return dumps(value)
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise _transfer_error(
            f"{what} ({kind}) cannot leave the worker process: {error}; return plain data, or run "
            "with runner='threads'"
        ) from None


def _transfer_error(text: str) -> Exception:
    from dagger_dsl.errors import TransferError

    return TransferError(text)
