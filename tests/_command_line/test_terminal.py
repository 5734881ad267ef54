"""Tables that fit, progress with a time left, the help without JAX."""

import io
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from tritia._command_line import main, process, progress, screen, tables

NAMES = ["sgd", "adams_bashforth2", "spectral_momentum"]
HEADS = ["optimizer", "learning rate", "training loss", "test accuracy"]
HEADS += ["ahead/level/behind sgd", "epochs to 0.95", "ms an epoch", "compile s"]
ROWS = [
    [name, "0.0003*", "0.00123", "0.992 [0.989, 0.994]", "5/0/0", "19 (3 of 5)", "0.284", "11.3"]
    for name in NAMES
]
DISPENSABLE = ["compile s", "epochs to", "training loss"]


def printed(parts, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 170])
def test_a_table_fits_and_no_name_is_cut(width):
    shown = printed(tables.fitting("title", HEADS, ROWS, width, DISPENSABLE), width)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "\u2026" not in shown
    firsts = [line.split()[0] for line in shown.splitlines() if line[:1].strip()]
    assert [first for first in firsts if first in NAMES] == NAMES
    for cell in ("0.0003*", "[0.989, 0.994]", "5/0/0", "0.284"):
        assert shown.count(cell) == len(NAMES), cell
    (line,) = [line for line in shown.splitlines() if line.startswith("spectral_momentum")]
    assert line.split()[:2] == ["spectral_momentum", "0.0003*"]
    left_out = re.findall("Left out at this width: (.*)\\.", " ".join(shown.split()))
    assert left_out == (["compile s, epochs to 0.95, training loss"] if width == 60 else [])


def test_a_wide_table_has_a_line_for_each_row():
    shown = printed(tables.fitting("title", HEADS, ROWS, 170, DISPENSABLE), 170)
    assert len(shown.splitlines()) == 3 + len(ROWS)
    assert "0.992 [0.989, 0.994]" in shown


def test_bullets_are_indented():
    shown = printed(tables.bullets(["word " * 20, "end"]), 40).splitlines()
    assert shown[0].startswith("- word")
    assert shown[1].startswith("  word")


def test_without_a_terminal_a_line_comes_every_few_seconds(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    console = Console(stderr=True, force_terminal=False)
    with progress.shown("tritia compare", 10, "epochs", console) as tell:
        tell("compiling sgd", 3, 12)
        shown = ""
        while shown.count("\n") < 2:  # it goes on while nothing is told
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "tritia compare: compiling sgd: 3 of 12 epochs, 0:00 so far" in shown
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_the_time_left_is_that_at_the_speed_so_far(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    steps = progress.Steps(40)
    assert steps.left() == "time left unknown"
    now[0], steps.done, steps.doing = 130.0, 10, "training adam"
    words = "training adam: 10 of 40 epochs, 0:30 so far, about 1:30 left"
    assert progress.line(steps, "epochs") == words
    now[0], steps.done, steps.total = 4000.0, 0.5, 1.0
    assert progress.line(steps, "%") == "training adam: 50%, 1:05:00 so far, about 1:05:00 left"


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_has_a_bar_with_unit_and_time_left(width, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with progress.shown("tritia compare", 400, "epochs", console) as tell:
        tell("tuning spectral_momentum, compiling", 123, 400)
        time.sleep(0.3)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", file.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]", shown) if "123/400" in line]
    assert lines
    assert all(len(line) <= width for line in lines)
    assert all("123/400 epochs" in line and line.endswith("unknown") for line in lines)
    assert len({line[0] for line in lines}) > 1  # it moves while nothing is told


def test_the_help_comes_without_jax():
    code = (
        "import sys; from importlib.util import spec_from_file_location, module_from_spec;"
        f"spec = spec_from_file_location('p', {process.__file__!r});"
        "p = module_from_spec(spec); spec.loader.exec_module(p);"
        "sys.argv = ['tritia', *sys.argv[1:]];"
        "assert p.main() == 0; assert not {'jax', 'tritia', 'numpy'} & set(sys.modules)"
    )
    for words in ([], ["-h"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, process.HELP), done.stderr


def test_the_help_names_every_command_and_has_no_markup(capsys):
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == process.HELP
    assert not set("`*") & set(shown)
    assert all(len(line) <= 80 for line in shown.splitlines())
    parser = main._parser()
    (commands,) = [action for action in parser._actions if action.dest == "subcommand"]
    for choice in commands._choices_actions:
        assert re.search(rf"^  {choice.dest} +{choice.help}$", shown, re.MULTILINE), choice.dest
    for example in re.findall("^  (tritia .*)$", shown, re.MULTILINE):
        parser.parse_args(example.split()[1:])  # raises where it is wrong


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_the_help_of_a_command_has_an_example(capsys, command):
    assert main.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = re.findall(rf"^  (tritia {command} .*)$", shown, re.MULTILINE)
    assert examples
    for example in examples:
        main._parser().parse_args(example.split()[1:])


def test_progress_lines_are_printable(capsys):
    screen.complain("tritia compare", "tuning \x1b[31m")
    assert "\x1b" not in capsys.readouterr().err
