"""A process that has imported everything and makes children that run victims.

Starting Python costs three hundred times what a run of twenty nodes does. The test writes one JSON
line ``{"spec": ..., "folder": ..., "nth": ..., "mode": ...}`` for each victim and reads one back:
``{"status": ..., "calls": ..., "told": ..., "process": ...}``: the exit code, or minus the signal
that ended it; a letter for each call that the shim counted; the run's status or its error; the
process id. The shim is preloaded into this process; each child arms it for itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from typing import Any

import sqlalchemy.dialects.sqlite  # noqa: F401 - loaded once, here

import dagger_dsl.engine.hooks
import dagger_dsl.engine.mapping
import dagger_dsl.engine.recorder
import dagger_dsl.engine.steering
import dagger_dsl.runners.aio  # noqa: F401
from tests.reliability import victim
from tests.reliability.workloads import Spec

__all__ = ["main"]


def _child(order: dict[str, Any], answer: int) -> None:
    shim = ctypes.CDLL(None)
    shim.shim_arm(order["folder"].encode(), ctypes.c_long(order["nth"]), order["mode"])
    code, told = 0, ""
    try:
        report = victim.run(Spec(**order["spec"]))
        told = str(report.status)
        code = 0 if report.success or told == "paused" else 1
    except BaseException as error:
        code, told = 3, f"{type(error).__name__}: {error}"
        if order.get("loud"):
            traceback.print_exc()
    shim.shim_kinds.restype = ctypes.c_char_p
    os.write(answer, json.dumps({"calls": shim.shim_kinds().decode(), "told": told}).encode())
    os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            _child(order, theirs)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        found = {"calls": "", "told": ""} | (json.loads(said) if said else {})
        found["status"] = os.waitstatus_to_exitcode(status)
        found["process"] = child
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
