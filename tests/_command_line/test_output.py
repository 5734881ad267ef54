"""What is printed: no commands to the terminal, no traceback where nobody reads."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

from tests._compare.files import write_cora
from tritia._command_line import failures, process, screen, tables
from tritia._command_line.main import main


def run(arguments, **options):
    command = [sys.executable, "-m", "tritia", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=120, check=False, **options)


def test_the_script_starts_where_ctrl_c_is_in_hand():
    project = pathlib.Path(__file__).parents[2] / "pyproject.toml"
    settings = tomllib.loads(project.read_text())
    assert settings["project"]["scripts"] == {"tritia": "_tritia_command:main"}
    installed = importlib.util.find_spec("_tritia_command")
    assert installed is not None
    assert installed.origin is not None
    # An editable installation has a copy, too: install again after a change.
    source = pathlib.Path(process.__file__).read_text()
    assert pathlib.Path(installed.origin).read_text() == source
    code = "import sys, _tritia_command; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("arguments", [["compare", "--list"], ["compare", "--help"]])
def test_a_closed_pipe_is_no_failure(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(arguments, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_takes_nothing_is_said():
    with open("/dev/full", "wb") as full:
        done = run(["compare", "--list"], stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"tritia compare: cannot print (No space left on device)\n"


class Closed:
    """A standard output whose reader has gone."""

    encoding = "utf-8"

    def __init__(self, path):
        self.file = path.open("w")

    def fileno(self):
        return self.file.fileno()

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        pass


def test_a_table_that_nobody_reads_is_no_failure(tmp_path, monkeypatch):
    stdout = Closed(tmp_path / "stdout")
    monkeypatch.setattr(sys, "stdout", stdout)
    tables.show("one", "two")
    os.close(os.dup(stdout.fileno()))  # it is still open: on nothing
    stdout.file.close()
    assert (tmp_path / "stdout").read_text() == ""


@pytest.mark.slow
def test_results_are_kept_where_nobody_reads_the_table(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["sweep", "--dataset", "wine", "--seeds", "1", "--epochs", "1", "--hidden", "4"]
    done = run([*arguments, "--out", str(tmp_path / "out")], stdout=writer)
    os.close(writer)
    # How far it is is said every few seconds.
    said = [line for line in done.stderr.splitlines() if b" so far, " not in line]
    assert (done.returncode, said) == (0, [])
    assert (tmp_path / "out" / "sweep.csv").exists()


def test_names_from_a_file_are_printed_escaped(tmp_path, capsys):
    write_cora(tmp_path)
    (tmp_path / "ind.cora.graph").write_bytes(b"\x80\x02cos\n\x1b]0;owned\x07\x1b[2J\n.")
    arguments = ["compare", "--dataset", "cora", "--data-dir", str(tmp_path)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert r"it asks for os.\x1b]0;owned\x07\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a b c"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202e", r"\u202e"),  # from here on right to left
        ("\udcff", r"\udcff"),
        ("ünïcode ∞", "ünïcode ∞"),
        ("x" * 5000, "x" * 997 + "..."),
    ],
)
def test_text_is_made_printable(text, shown):
    assert screen.printable(text) == shown


def test_a_failure_before_there_is_a_folder_prints_one_line(capsys, tmp_path, monkeypatch):
    def broken(arguments):
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr("tritia._command_line.compare._request", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["compare"]) == 1
    shown = capsys.readouterr().err
    (log,) = tmp_path.iterdir()
    expected = f"tritia compare: failed (RuntimeError: no luck at all); the traceback is in {log}\n"
    assert shown == expected
    assert "in broken" in log.read_text()


def test_a_failure_whose_traceback_cannot_be_kept_prints_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert failures.report_failure("tritia sweep", tmp_path / "gone", ValueError("x")) == 1
    expected = "tritia sweep: failed (ValueError: x); its traceback could not be kept\n"
    assert capsys.readouterr().err == expected
