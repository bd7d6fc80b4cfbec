"""Worker processes: plain calls that a run's threads hand over, and wait for.

A run under ``processes`` is driven as under ``threads``: the same workers take released calls and
step the coordinator. What differs is the call itself. `Processes.call` takes an idle worker process
(or starts one), sends it the function, once, and the arguments, and waits for the outcome. A
process can be ended from outside, so a call that overruns its limit or is left behind is killed,
with everything that it has started, and nothing goes on behind the run's back.

Worker processes are fresh interpreters, never forks of this one, whose threads and locks they would
inherit; the user's script is not run again in them. They live as long as their run. They form a
process group each: Ctrl-C reaches the run alone, which decides. When this process ends, however
that happens, the kernel ends them.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from dagger_dsl.errors import DaggerError, ProcessDied, TransferError, shown
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.runners import wire
from dagger_dsl.runners.base import Overran
from dagger_dsl.runners.transfer import dumps, function_to, loads, rebuilt, told
from dagger_dsl.runners.views import Items, Unsent  # with it come the reducers of what bodies see

__all__ = ["Errand", "Processes"]

# How long worker processes get to end by themselves when their run has ended (seconds).
_FAREWELL = 2.0

_BOOT = """\
# a worker process of dagger_dsl
import os, pickle, sys
fd, life = int(sys.argv[1]), int(sys.argv[2])
data = b""
while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "little"):
    more = os.read(fd, 8 + int.from_bytes(data[:8], "little") - len(data) if len(data) >= 8 else 8)
    if not more:
        sys.exit(1)
    data += more
settings = pickle.loads(data[8:])
sys.path[:] = settings["path"]
from dagger_dsl.runners.child import main
main(fd, life, settings)
"""


@attrs.frozen
class Errand:
    """What is to be called elsewhere.

    Attributes:
        slot: Where the call belongs.
        node_id: Of which node, for messages.
        function: Its number, from `Processes.add`.
        limit: Seconds it may take, None for any time.
        begins: Called just before the call is made; what comes before is ours.
        profile: Takes what a profiler counted; None profiles nothing.
    """

    slot: int
    node_id: str
    function: int
    limit: float | None = None
    begins: Callable[[], None] = lambda: None
    profile: Callable[[Any], None] | None = None


class _Gone(Exception):
    """A worker process has ended."""


class _Late(Exception):
    """A worker process has not answered in time."""


class _Patience(threading.local):
    """Until when the call may take for which a thread reads an iterator; None for any time."""

    until: float | None = None


_patience = _Patience()


class _Child:
    """One worker process, used by one thread at a time.

    Args:
        settings: What it is told first.

    Attributes:
        known: Functions that it has.
        has_object: It has the run's `app_data`.
        streams: It holds a generator that is not being read just now.
    """

    def __init__(self, settings: bytes) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-P",
                    "-c",
                    _BOOT,
                    str(theirs.fileno()),
                    str(life),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life),
                process_group=0,
            )
        except BaseException:
            ours.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life)
        self._socket = ours
        self._fd = ours.fileno()
        self._ending = threading.Lock()
        self._using = threading.Lock()
        self._users, self._closed = 0, False
        self.known: set[int] = set()
        self.has_object = False
        self.streams = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        try:
            os.write(self._fd, len(settings).to_bytes(8, "little"))
            self._socket.sendall(settings)
        except OSError:
            pass  # it died; whoever uses it next finds that out
        self.pid = self._process.pid

    def send(self, letter: bytes, number: int = 0, body: bytes = b"") -> None:
        """Send a message; raise `_Gone` when nobody takes it."""
        self._enter()
        try:
            wire.send(self._fd, letter, number, body)
        except OSError:
            raise _Gone from None
        finally:
            self._leave()

    def receive(self, until: float | None = None) -> tuple[bytes, bytes]:
        """Wait for a message; raise `_Late` when none has come *until* then, or `_Gone`."""
        self._enter()
        try:
            if until is not None:
                left = until - time.monotonic()
                while not self._poll.poll(max(0.0, min(left, 3600.0)) * 1000.0):
                    left = until - time.monotonic()
                    if left <= 0.0:
                        raise _Late
            letter, _, body = wire.receive(self._fd)
        except (EOFError, OSError):
            raise _Gone from None
        finally:
            self._leave()
        return letter, body

    def _enter(self) -> None:
        """Keep the connection's number from being closed, and given to another file, in its use."""
        with self._using:
            if self._closed:
                raise _Gone
            self._users += 1

    def _leave(self) -> None:
        with self._using:
            self._users -= 1
            if self._closed and not self._users:
                self._socket.close()

    def _close(self) -> None:
        """End the connection; who waits for a message is told, and closes it."""
        with self._using:
            if self._closed:
                return
            self._closed = True
            os.close(self._life)
            if self._users:
                self.dismiss()
            else:
                self._socket.close()

    def kill(self) -> None:
        """End it and what it has started; safe from any thread."""
        with self._ending:
            if self._process.returncode is None:  # else its number may be somebody else's by now
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    self._process.kill()

    def dismiss(self) -> None:
        """Tell it that there is nothing more to do."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def reap(self, seconds: float) -> int:
        """Wait for its end, and see to it after so many seconds; return its exit code."""
        until = time.monotonic() + seconds
        pause = 0.0005
        code = self._polled()
        while code is None:
            if time.monotonic() >= until:
                self.kill()
                until += 1.0
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
            code = self._polled()
        self._close()
        return code

    def _polled(self) -> int | None:
        with self._ending:
            return self._process.poll()


class _Stock:
    """What a run and those that are nested in it share.

    Attributes:
        functions: What is sent, with its number.
        by_number: The same, by number.
        idle: Processes that wait for work.
        all: Those that were started and have not ended.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.functions: dict[bytes, int] = {}
        self.by_number: list[bytes] = []
        self.idle: list[_Child] = []
        self.all: set[_Child] = set()
        self.closed = False


class Processes:
    """The worker processes of one run, started when there is work for them.

    Those of a nested run are its outer run's: an idle one serves both.

    Args:
        answers: What bodies may ask for while they run, by name; called in the waiting thread.
        given: The run's `app_data`, sent to each process once. What cannot be sent has a stand-in
            there that says so when it is used.
        outer: Those of the run that this one is nested in, whose `app_data` is the same.
    """

    def __init__(
        self,
        answers: Mapping[str, Callable[..., Any]],
        given: Any = None,
        outer: Processes | None = None,
    ) -> None:
        self._answers = answers
        self._given = given
        self._object: bytes | None = None
        self._nested = outer is not None
        self._stock: _Stock = _Stock() if outer is None else outer._stock
        self._lock = self._stock.lock
        self._busy: dict[int, set[_Child]] = {}  # several where a generator was left behind
        self._doomed: set[int] = set()
        self._closed = False

    def add(self, fn: Callable[..., Any]) -> int:
        """Return the number of a function, which can be sent from now on.

        Raises:
            TransferError, MissingExtra: It cannot be sent.
        """
        data = function_to(fn)
        with self._lock:
            stock = self._stock
            number = stock.functions.get(data)
            if number is None:
                number = stock.functions[data] = len(stock.by_number)
                stock.by_number.append(data)
            return number

    def call(
        self,
        errand: Errand,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> Any:
        """Call a function in a worker process and return what it returned.

        Args:
            errand: What, and for whom.
            args: Positional arguments.
            kwargs: Arguments by name.
            names: What `args` are called, for messages.

        Raises:
            BaseException: Whatever the body raised.
            Overran: It took longer than its limit; its process was killed.
            ProcessDied: Its process ended without an outcome.
            TransferError: An argument or the result cannot cross; the message names it.
        """
        given = _Given(self._answers)
        sent = given.sent(kwargs.values())
        body = _packed(errand, given.sent(args), dict(zip(kwargs, sent, strict=True)), names)
        child = self._take(errand.slot)
        fit = False
        try:
            self._teach(child, errand)
            errand.begins()
            until = None if errand.limit is None else time.monotonic() + errand.limit
            child.send(wire.CALL, errand.function, body)
            letter, data = _outcome(child, given, until, errand.profile)
            fit = True
        except _Late:
            assert errand.limit is not None
            raise Overran(errand.limit) from None
        except _Gone:
            raise ProcessDied(errand.node_id, child.reap(_FAREWELL)) from None
        finally:
            if not fit or letter != wire.STREAM:
                self._give_back(errand.slot, child, fit)
        if letter == wire.VALUE:
            return _unpacked(errand, data)
        if letter == wire.STREAM:
            stream = self._stream(errand, child, given)
            next(stream)  # from now on its end gives the process back
            return stream
        if letter == wire.LOST:
            return _nobody()
        raise given.raised(pickle.loads(data))

    def kill(self, slots: Collection[int], *, for_good: bool = True) -> None:
        """End the calls of some slots, with their processes; they raise.

        Args:
            slots: Whose.
            for_good: Make no further call for them.
        """
        with self._lock:
            if for_good:
                self._doomed.update(slots)
            found = [child for slot in slots for child in self._busy.get(slot, ())]
        for child in found:
            child.kill()

    def close(self) -> None:
        """End all processes and wait for that; what still runs in them is killed.

        Idle ones of a nested run stay with its outer run.
        """
        stock = self._stock
        with self._lock:
            self._closed = True
            busy = [child for held in self._busy.values() for child in held]
            idle: list[_Child] = []
            unread = [child for child in busy if child.streams]
            if not self._nested:
                stock.closed = True
                idle, stock.idle = stock.idle, []
        for child in busy:
            child.kill()
        for child in idle:
            child.dismiss()
        until = time.monotonic() + _FAREWELL
        for child in idle + unread:
            self._bury(child, until - time.monotonic())
        # A process whose outcome a thread waits for is buried by that thread.
        while stock.all and not self._nested and time.monotonic() < until:
            time.sleep(0.001)

    # --- processes -------------------------------------------------------------------------------

    def _take(self, slot: int) -> _Child:
        with self._lock:
            self._refuse(slot)
            child = self._stock.idle.pop() if self._stock.idle else None
            if child is not None:
                self._busy.setdefault(slot, set()).add(child)
                return child
        child = _Child(self._settings())
        with self._lock:
            self._stock.all.add(child)
            self._busy.setdefault(slot, set()).add(child)
            late = self._closed or self._stock.closed or slot in self._doomed
        if late:
            self._give_back(slot, child, False)
            raise ProcessDied("", -signal.SIGKILL)
        return child

    def _refuse(self, slot: int) -> None:
        if self._closed or slot in self._doomed:  # nobody waits for the outcome
            raise ProcessDied("", -signal.SIGKILL)

    def _give_back(self, slot: int, child: _Child, fit: bool) -> None:
        with self._lock:
            held = self._busy.get(slot, set())
            held.discard(child)
            if not held:
                self._busy.pop(slot, None)
            stock = self._stock
            if fit and not (self._closed or stock.closed or slot in self._doomed):
                stock.idle.append(child)
                return
        child.kill()
        self._bury(child, _FAREWELL)

    def _bury(self, child: _Child, seconds: float) -> None:
        child.reap(seconds)
        with self._lock:
            self._stock.all.discard(child)

    def _settings(self) -> bytes:
        root = logging.getLogger()
        levels = {
            name: logger.level
            for name, logger in list(root.manager.loggerDict.items())
            if isinstance(logger, logging.Logger) and logger.level
        }
        levels[""] = root.level
        return pickle.dumps(
            {
                "path": [each or os.getcwd() for each in sys.path],
                "argv": list(sys.argv),
                "levels": levels,
                "disabled": root.manager.disable,
            }
        )

    def _teach(self, child: _Child, errand: Errand) -> None:
        """Let a process know the function, and the run's object, before the call's time begins."""
        if self._given is not None and not child.has_object:
            if self._object is None:
                self._object = _object_bytes(self._given)
            self._tell(child, errand, wire.OBJECT, 0, self._object)
            child.has_object = True
        if errand.function not in child.known:
            self._tell(
                child,
                errand,
                wire.FUNCTION,
                errand.function,
                self._stock.by_number[errand.function],
            )
            child.known.add(errand.function)

    def _tell(self, child: _Child, errand: Errand, letter: bytes, number: int, body: bytes) -> None:
        child.send(letter, number, body)
        answer, data = _outcome(child, _Given(self._answers))
        if answer == wire.ERROR:
            error = rebuilt(pickle.loads(data))
            what = "its function" if letter == wire.FUNCTION else "the run's app_data"
            raise TransferError(
                f"node {shown(errand.node_id)}: {what} cannot be made again in a worker process: "
                f"{type(error).__name__}: {error}; its module must be importable there, or run "
                "with runner='threads'"
            ) from error

    # --- one call --------------------------------------------------------------------------------

    def _stream(self, errand: Errand, child: _Child, given: _Given) -> Iterator[Any]:
        """Yield what a generator yields in its process, which belongs to it until it ends."""
        fit = False
        try:
            child.streams = True
            yield None
            over = False
            while not over:
                child.streams = False
                child.send(wire.MORE)
                letter, data = _outcome(child, given, _patience.until)
                child.streams = True
                if letter == wire.ERROR:
                    fit = True
                    raise given.raised(pickle.loads(data))
                items, over, failure = _unpacked(errand, data)
                yield from items
                if failure is not None:
                    fit = True
                    raise given.raised(failure)
            fit = True
        except GeneratorExit:
            try:
                child.send(wire.CLOSE)
                letter, data = _outcome(child, given, _patience.until)
            except _Gone:  # the run has ended, and the process with it
                raise GeneratorExit from None
            fit = True
            if letter == wire.ERROR:
                raise given.raised(pickle.loads(data)) from None
            raise
        except _Gone:
            raise ProcessDied(errand.node_id, child.reap(_FAREWELL)) from None
        finally:
            child.streams = False
            self._give_back(errand.slot, child, fit)


class _Given:
    """What one call was given that stays here, and what its body may ask for.

    Args:
        answers: What every body may ask for.
    """

    def __init__(self, answers: Mapping[str, Callable[..., Any]]) -> None:
        self._run_answers = answers
        self._iterators: list[Any] = []
        self._ctx: NodeCtx | None = None
        self._told: list[BaseException] = []

    def sent(self, values: Iterable[Any]) -> list[Any]:
        """Return what is sent in the place of the arguments."""
        found = []
        for value in values:
            if type(value) is NodeCtx:
                self._ctx = value
            elif hasattr(type(value), "__next__"):  # it can be read once, and here
                self._iterators.append(value)
                value = Items(len(self._iterators) - 1)
            found.append(value)
        return found

    def answer(self, what: str, arguments: tuple[Any, ...]) -> Any:
        """Return what a body asks for."""
        if what == "items":
            return self._handful(self._iterators[arguments[0]])
        if what == "close":
            try:
                getattr(self._iterators[arguments[0]], "close", lambda: None)()
            except _Late:
                raise
            except Exception as error:
                return self._tell(error)
            return None
        if what == "ctx":
            return getattr(self._ctx, arguments[0])(*arguments[1:])
        return self._run_answers[what](*arguments)

    def _handful(self, iterator: Iterator[Any]) -> tuple[list[Any], bool, dict[str, Any] | None]:
        """Return some items, whether these are the last, and what was raised instead of more."""
        items: list[Any] = []
        try:
            return items, wire.handful(iterator, items), None
        except _Late:
            raise
        except Exception as error:
            return items, True, self._tell(error)

    def _tell(self, error: BaseException) -> dict[str, Any]:
        self._told.append(error)
        return told(error) | {"told": len(self._told) - 1}

    def raised(self, failure: dict[str, Any]) -> BaseException:
        """Return what the body raised: the error of an iterator itself, not a copy of it.

        Whose error it was is seen by that.
        """
        error = rebuilt(failure)
        number = failure.get("told")
        if number is None:
            return error
        itself: BaseException = self._told[number]
        for note in getattr(error, "__notes__", ()):
            if note not in getattr(itself, "__notes__", ()):
                itself.add_note(note)
        itself.__traceback__ = error.__traceback__
        return itself


def _outcome(
    child: _Child,
    given: _Given,
    until: float | None = None,
    profile: Callable[[Any], None] | None = None,
) -> tuple[bytes, bytes]:
    """Wait for what ends a request, and answer what is asked meanwhile."""
    while True:
        letter, data = child.receive(until)
        if letter == wire.ASK:
            _answer(child, given, data, until)
        elif letter == wire.LOG:
            _take_record(data)
        elif letter == wire.PROFILE:
            if profile is not None:
                profile(pickle.loads(data))
        else:
            return letter, data


def _answer(child: _Child, given: _Given, question: bytes, until: float | None) -> None:
    before = _patience.until
    if before is None or (until is not None and until < before):
        _patience.until = until
    try:
        letter, data = wire.VALUE, dumps(given.answer(*loads(question)))
    except _Late:
        raise
    except Exception as error:
        letter, data = wire.ERROR, pickle.dumps(told(error))
    finally:
        _patience.until = before
    if until is not None and time.monotonic() >= until:  # whatever a body here made of that
        raise _Late
    child.send(letter, 0, data)


def _packed(
    errand: Errand, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> bytes:
    """Return the arguments of a call as bytes; an error names the one that cannot be."""
    try:
        return dumps((errand.profile is not None, tuple(args), dict(kwargs)))
    except Exception:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            try:
                dumps(value)
            except Exception as why:
                error = why
                what = (
                    f"its argument {name!r} ({type(value).__module__}.{type(value).__qualname__})"
                )
                break
        else:
            what = "its arguments"
        if not isinstance(error, DaggerError):
            raise
        raise TransferError(
            f"node {shown(errand.node_id)}: {what} cannot go to a worker process: {error}; pass "
            "plain data, or run with runner='threads'"
        ) from error


def _unpacked(errand: Errand, data: bytes) -> Any:
    try:
        return loads(data)
    except Exception as error:
        raise TransferError(
            f"node {shown(errand.node_id)}: its result came back from the worker process and "
            f"cannot be made again here: {type(error).__name__}: {error}; return plain data, or "
            "run with runner='threads'"
        ) from error


def _object_bytes(given: Any) -> bytes:
    try:
        return dumps(given)
    except Exception as error:
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        return dumps(Unsent(f"app_data ({kind}) cannot go to a worker process: {error}"))


def _take_record(data: bytes) -> None:
    record = logging.makeLogRecord(pickle.loads(data))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


async def _nobody() -> None:
    """What stands for a coroutine that a worker process returned, and that nobody can await."""
