"""The process `tritia`, where Ctrl-C is in hand before JAX is imported.

Python handles a signal between two of its own instructions. While XLA compiles there may be none
for minutes; an exception raised in a callback of XLA is lost; and an interpreter that shuts down
while a thread still compiles crashes. So SIGINT wakes a thread, which ends the process without
shutting down the interpreter: within half a second, after the file that is being written, and at
the second Ctrl-C at once. Whatever is finished is on disk already.

The script starts from this file, which is installed beside the package as `_tritia_command`, and
there alone: importing anything in `tritia` imports JAX first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

INTERRUPTED = 130

HELP = """\
usage: tritia [-h] [--version] COMMAND ...

High-order gradient steps, triple inertia and layer-wise training for Optax and
Flax, compared with other optimizers on real data.

commands:
  compare     train a small network with several optimizers and compare them
  report      draw the results of a comparison again, without training
  sweep       train with many settings of one optimizer at once

options:
  -h, --help  show this help message and exit
  --version   show the version and exit

examples:
  tritia compare
      the usual optimizers on two bundled data sets, to a report.html each
  tritia compare --dataset wine --optimizers sgd,adam,difference4
  tritia sweep --optimizer momentum --grid learning_rate=0.01,0.03,0.1

tritia COMMAND --help lists the arguments of a command.
"""


def main() -> int:
    """Runs the command line; returns the exit code."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]) and _print_help():
        return 0
    watch()
    from tritia._command_line.main import main as run

    return run()


def _print_help() -> bool:
    """Prints the help at once, without JAX; False where that fails, and what follows says why."""
    with contextlib.suppress(OSError, AttributeError):
        print(HELP, end="", flush=True)
        return True
    return False


def watch() -> None:
    """Lets a thread wait for Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as under nohup
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGINT, _do_nothing)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader,), daemon=True).start()


def _do_nothing(number: int, frame: Any) -> None:
    """The thread does it."""


def _wait(reader: int) -> None:
    _read_interrupt(reader)
    threading.Thread(target=_wait_again, args=(reader,), daemon=True).start()
    line = "tritia: interrupted before anything was started"
    try:
        line = sys.modules["tritia._command_line.interrupt"].leave()
    except (KeyError, AttributeError):  # not imported yet, or half
        pass
    finally:
        # A progress bar may be on the line, and the cursor hidden.
        clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{clear}{line}\n".encode(errors="backslashreplace"))
        os._exit(INTERRUPTED)


def _read_interrupt(reader: int) -> None:
    while os.read(reader, 1) != bytes([signal.SIGINT]):
        pass


def _wait_again(reader: int) -> None:
    _read_interrupt(reader)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
