"""Ctrl-C ends the process within a second, with one line and 130, at whatever moment it comes."""

import os
import signal
import subprocess
import sys
import time

import pytest

SMALL = ["--dataset", "wine", "--seeds", "2", "--epochs", "2", "--hidden", "4"]
LIMIT = 2.0  # a second, and another for a machine that is busy
COMPARE = ["compare", *SMALL, "--no-tune", "--optimizers", "sgd,momentum"]
SWEEP = ["sweep", *SMALL]

# Runs the command as its script does; says where a module is imported, or where a function of it is
# called for the n-th time, and goes on.
RUN = """
import functools, importlib.util, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
where, number, *arguments = sys.argv[1:]
sys.argv = ["tritia", *arguments]

def reached():
    print("reached", flush=True)

def wrap(module, name, calls=[0]):
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        calls[0] += 1
        if calls[0] == int(number):
            reached()
        return function(*arguments, **options)

    setattr(module, name, wrapped)

class Watch:
    # Wraps the function when its module has been imported; or stops at the import.
    def find_spec(self, name, path=None, target=None):
        module, _, function = where.partition(":")
        if name != module:
            return None
        sys.meta_path.remove(self)
        if not function:
            reached()
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(found):
            execute(found)
            wrap(found, function)

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Watch())
import _tritia_command
sys.exit(_tritia_command.main())
"""


def interrupted(tmp_path, where, number, arguments, environment, delay=0.05):
    """Interrupts a process at a moment; returns its exit code, the lines, and the seconds."""
    command = [sys.executable, "-c", RUN, where, str(number), *arguments]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n", process.communicate()
    time.sleep(delay)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, lines = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    # How far it was before is said every few seconds.
    said = [line for line in lines.splitlines(keepends=True) if " so far, " not in line]
    return process.returncode, "".join(said), seconds


def check(out, code, lines, seconds):
    assert code == 130, lines
    assert lines.count("\n") == 1, lines
    assert "interrupted" in lines
    assert seconds < LIMIT
    if out.exists():
        assert not list(out.rglob(".*"))  # neither a lock nor half a file


# A fresh compilation takes seconds here, in which Python has nothing to do.
SLOW_COMPILATION = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": ""}
MOMENTS = [
    ("jax.numpy", 1, COMPARE, {}),  # imports
    ("flax.nnx", 1, COMPARE, {}),
    ("sklearn.datasets", 1, COMPARE, {}),  # data
    ("tritia._compare.training:prepare", 1, COMPARE, {}),
    ("tritia._compare.training:compile_training", 1, COMPARE, SLOW_COMPILATION),
    ("tritia._compare.training:compile_training", 2, COMPARE, SLOW_COMPILATION),
    ("tritia._compare.training:train", 1, COMPARE, {}),
    ("tritia._compare.tuning:validate", 1, ["compare", *SMALL, "--optimizers", "tiam"], {}),
    ("tritia._compare.timing:time_epochs", 1, COMPARE, {}),
    ("tritia._compare.plots:draw", 1, COMPARE, {}),  # writing
    ("tritia._compare.folder:write", 3, COMPARE, {}),
    ("tritia._compare.folder:write_json", 2, COMPARE, {}),
    ("tritia.sweeps._vmapped:start", 1, SWEEP, SLOW_COMPILATION),
    ("tritia._command_line.sweep_results:save", 1, SWEEP, {}),
]


@pytest.mark.parametrize("moment", [MOMENTS[0], MOMENTS[6]], ids=["imports", "training"])
def test_ctrl_c_ends_it_with_one_line(tmp_path, moment):
    where, number, arguments, environment = moment
    found = interrupted(tmp_path, where, number, arguments, environment)
    check(tmp_path / "out", *found)
    said = {0: "before anything was started", 6: "Kept in"}[MOMENTS.index(moment)]
    assert said in found[1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=[f"{where}-{n}" for where, n, *_ in MOMENTS])
def test_ctrl_c_ends_it_at_any_moment(tmp_path, moment):
    where, number, arguments, environment = moment
    check(tmp_path / "out", *interrupted(tmp_path, where, number, arguments, environment))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["jax", "tritia._compare.training:compile_training"])
@pytest.mark.parametrize("delay", [0.02, 0.3, 1.0, 3.0])
def test_ctrl_c_ends_it_after_any_time(tmp_path, where, delay):
    """What takes longest to import, and what takes longest to compile."""
    arguments = ["compare", *SMALL, "--no-tune", "--optimizers", "tiam", "--epochs", "500"]
    check(tmp_path / "out", *interrupted(tmp_path, where, 1, arguments, SLOW_COMPILATION, delay))


# The disk hangs while a file is written.
HANG = """
import signal
import time
import _tritia_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
_tritia_command.watch()
from tritia._command_line import interrupt
from tritia._compare import folder
folder.WRITING.acquire()
print("reached", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("times", "least", "most"), [(1, 0.4, LIMIT), (2, 0.0, 0.4)])
def test_ctrl_c_waits_for_the_file_and_twice_does_not(times, least, most):
    process = subprocess.Popen(
        [sys.executable, "-c", HANG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lines == ("tritia: interrupted before anything was started\n" if times == 1 else "")
    assert least <= time.monotonic() - began < most


def test_where_ctrl_c_is_ignored_it_stays_ignored():
    """As under nohup."""
    code = (
        "import signal, _tritia_command; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "_tritia_command.watch(); assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
