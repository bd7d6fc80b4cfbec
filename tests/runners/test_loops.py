"""An event loop of our own: Ctrl-C reaches it however the system delivers it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from dagger_dsl.runners.loops import run_in_loop

# The signal goes to a thread that handles none, so nothing interrupts the loop's sleep: what
# happens by chance to a signal that comes just before that sleep.
ASLEEP = """
    import asyncio, signal, threading
    {imports}

    def interrupt():
        started.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        threading.Event().wait()

    started = threading.Event()
    threading.Thread(target=interrupt, daemon=True).start()

    async def work():
        asyncio.get_running_loop().call_soon(started.set)
        await asyncio.Event().wait()

    try:
        {run}
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread here")
@pytest.mark.parametrize(
    ("imports", "run"),
    [
        ("from dagger_dsl.runners.loops import run_in_loop", "run_in_loop(work())"),
        (
            "from dagger_dsl import DAG, action",
            "dag = DAG('d'); dag.add(action(work)); dag.run(runner='asyncio')",
        ),
    ],
    ids=["coroutine", "graph"],
)
def test_ctrl_c_wakes_a_loop_that_sleeps(imports: str, run: str) -> None:
    code = textwrap.dedent(ASLEEP).format(imports=imports, run=run)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_it_leaves_the_signals_of_the_process_as_they_were() -> None:
    with socket.socket() as own:
        own.setblocking(False)
        before = signal.set_wakeup_fd(own.fileno())
        try:
            assert run_in_loop(asyncio.sleep(0, "done")) == "done"
            with pytest.raises(ZeroDivisionError):
                run_in_loop(fails())
            assert signal.set_wakeup_fd(own.fileno()) == own.fileno()
        finally:
            signal.set_wakeup_fd(before)


async def fails() -> None:
    raise ZeroDivisionError


def test_many_signals_are_no_trouble() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    async def work() -> None:
        for _ in range(10_000):
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)

    try:
        run_in_loop(work())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard


def test_a_thread_runs_one_as_well() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(run_in_loop(asyncio.sleep(0, "done"))))
    thread.start()
    thread.join()
    assert found == ["done"]
