"""The folder of --out: checked before any work, held by one process, read with suspicion."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tritia._command_line.main import main
from tritia._compare import folder, training
from tritia._compare.errors import UsageError

SMALL = ["--dataset", "wine", "--seeds", "2", "--epochs", "2", "--hidden", "4"]
COMPARE = ["compare", *SMALL, "--no-tune", "--optimizers", "sgd,triple_inertia_sgd"]
SWEEP = ["sweep", *SMALL, "--grid", "learning_rate=0.1,1e9"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main([*COMPARE, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert main([*SWEEP, "--out", str(out)]) == 0
    return out


@pytest.fixture
def nothing_may_be_trained(monkeypatch):
    def trained(*arguments, **options):
        raise AssertionError("it trains")

    monkeypatch.setattr(training, "compile_training", trained)
    monkeypatch.setattr("tritia._command_line.sweep.build", trained)


def refusal(capsys, arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1, shown
    return shown


def files_of(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_sweep_again_shows_what_is_there(swept, capsys, nothing_may_be_trained):
    before = files_of(swept)
    assert set(before) == {"config.json", "result.json", "sweep.csv", "sweep.png"}
    capsys.readouterr()
    assert main([*SWEEP, "--out", str(swept)]) == 0
    shown = capsys.readouterr()
    assert "all of it is there" in shown.err
    assert shown.err.count("\n") == 1
    assert "1 of 2 settings diverged" in shown.out
    after = files_of(swept)
    assert after.pop("sweep.png").startswith(b"\x89PNG")
    del before["sweep.png"]
    assert after == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--epochs", "3"], "a run with epochs 2, this one has epochs 3"),
        (["--optimizer", "adam"], "a run with optimizer sgd"),
        (["--halving", "--epochs", "9"], "a run with epochs 2"),
        (["--memory", "1GB"], "a run with memory 2147483648"),
    ],
)
def test_another_sweep_in_the_same_folder_is_refused(
    swept, capsys, nothing_may_be_trained, changed, words
):
    before = files_of(swept)
    assert words in refusal(capsys, [*SWEEP, *changed, "--out", str(swept)])
    assert files_of(swept) == before


def test_another_command_in_the_same_folder_is_refused(swept, compared, capsys):
    before = files_of(swept), files_of(compared)
    for arguments in ([*COMPARE, "--out", str(swept)], [*SWEEP, "--out", str(compared)]):
        assert "results of another command" in refusal(capsys, arguments)
    assert (files_of(swept), files_of(compared)) == before


@pytest.mark.parametrize("command", [COMPARE, SWEEP], ids=["compare", "sweep"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_nothing_is_refused_before_training(
    capsys, tmp_path, monkeypatch, nothing_may_be_trained, command, code
):
    def no_room(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", no_room)
    line = refusal(capsys, [*command, "--out", str(tmp_path / "out")])
    assert f"cannot write to --out {tmp_path / 'out'} ({os.strerror(code)})" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [COMPARE, SWEEP], ids=["compare", "sweep"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_training(
    capsys, tmp_path, nothing_may_be_trained, command
):
    (tmp_path / "file").write_text("mine")
    assert "cannot write to --out" in refusal(capsys, [*command, "--out", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_whole_files_only(capsys, tmp_path, monkeypatch):
    out, sync = tmp_path / "out", os.fsync

    def full_for_results(descriptor):
        if any(name.startswith(".result.json") for name in os.listdir(out)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_for_results)
    assert main([*SWEEP, "--out", str(out)]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "No space left" in shown
    assert set(files_of(out)) == {"config.json", "run.log"}
    monkeypatch.setattr(os, "fsync", sync)
    assert main([*SWEEP, "--out", str(out)]) == 0
    assert {"result.json", "sweep.csv", "sweep.png"} < set(files_of(out))


def test_a_name_that_is_not_utf8_is_kept_and_shown_escaped(capsys, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff[/x]")
    assert main([*COMPARE, "--out", out]) == 0
    assert "\\udcff[/x]: report.html" in capsys.readouterr().out
    with open(os.path.join(out, "report.md"), "rb") as file:
        assert b"\xff[/x]" in file.read()


HOLD = """
import sys, time
from pathlib import Path
from tritia._compare import folder

with folder.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(out):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_do_not_share_a_folder_but_the_dead_give_it_up(capsys, tmp_path):
    out = tmp_path / "out"
    with holder(out) as process:
        for command in (COMPARE, SWEEP):
            line = refusal(capsys, [*command, "--out", str(out)])
            assert f"another process ({process.pid}) writes to --out {out}" in line
        process.send_signal(signal.SIGKILL)
    assert (out / folder.LOCK).exists()  # a killed process leaves it
    with folder.hold(out):
        pass
    assert not (out / folder.LOCK).exists()


def test_a_lock_is_released_with_its_folder(tmp_path):
    with folder.hold(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
        with pytest.raises(UsageError, match="another process"), folder.hold(tmp_path / "out"):
            pass
        assert (tmp_path / "out" / folder.LOCK).exists()
    assert not (tmp_path / "out").exists()  # it was made here, and stayed empty
    with folder.hold(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    with folder.hold(tmp_path / "c" / "d"):
        (tmp_path / "c" / "d" / "file").write_text("")
    assert (tmp_path / "c" / "d" / "file").exists()


def damaged(text, change):
    """JSON with one part replaced: `change` takes what it holds."""
    content = json.loads(text)
    change(content)
    return json.dumps(content)


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


def _shorter(*path):
    def change(content):
        for key in path:
            content = content[key]
        content.pop()

    return change


ANY = ["", "{", "null", "[]", "{}", "3", '"x"', "[" * 100_000, "\x00\xff", "9" * 5000]
TUNED = ("finished/triple_inertia_sgd.json", "tuning")
CURVES = ("finished/sgd.json", "curves")
SPECIFIC = [
    (CURVES[0], _set("curves", "training_loss", [[1.0]])),
    (CURVES[0], _shorter("curves", "training_loss")),
    (CURVES[0], _shorter("curves", "test_metric", 0)),
    (CURVES[0], _set("curves", "test_metric", [[1, 2, 3], [1, 2, 3], [1, 2, 3]])),
    (CURVES[0], _set("curves", "test_loss", 0, 0, "1.0")),
    (CURVES[0], _set("curves", "test_loss", 0, 0, True)),
    (CURVES[0], _set("curves", "test_loss", 0, 0, [1.0])),
    (CURVES[0], _set("curves", "diagnostics", {"x": [[1.0]]})),
    (CURVES[0], _set("curves", "diagnostics", [])),
    (CURVES[0], _set("curves", "compile_seconds", None)),
    (CURVES[0], _set("curves", "another", [[1, 2, 3], [1, 2, 3]])),
    (CURVES[0], _set("curves", [])),
    (TUNED[0], _set("tuning", "setting", {})),
    (TUNED[0], _set("tuning", "setting", "learning_rate", None)),
    (TUNED[0], _set("tuning", "setting", "learning_rate", "0.1")),
    (TUNED[0], _set("tuning", "setting", "another", 0.1)),
    (TUNED[0], _set("tuning", "scores", [1.0])),
    (TUNED[0], _set("tuning", "tried", [{"learning_rate": 1}])),
    (TUNED[0], _set("tuning", "at_edge", "left")),
    (TUNED[0], _set("tuning", "failed", 0)),
    (TUNED[0], _set("tuning", None)),
    ("timing.json", _set("sgd", [])),
    ("timing.json", _set("sgd", [1.0])),
    ("timing.json", _set("sgd", None)),
    ("timing.json", _set("adam", [1.0])),
]


def check_damage(capsys, arguments, out, name, monkeypatch):
    """A damaged file is named, and what the message advises helps."""
    path = out / name
    line = refusal(capsys, [*arguments, "--out", str(out)])
    assert str(path) in line
    if name == "config.json":
        assert "use another --out, or delete the folder" in line
        return
    assert "delete it to" in line
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main([*arguments, "--out", str(out)]) == 0


QUICK_DAMAGE = [
    ("config.json", "{"),
    ("finished/sgd.json", '{"tuning": '),
    ("finished/sgd.json", _shorter("curves", "training_loss")),
    ("timing.json", "[]"),
]


def damage(path, change):
    if callable(change):
        path.write_text(damaged(path.read_text(), change))
    else:
        path.write_bytes(change.encode("latin1"))


@pytest.mark.parametrize(("name", "change"), QUICK_DAMAGE)
def test_a_damaged_result_is_named_and_its_deletion_helps(
    compared, tmp_path, capsys, monkeypatch, name, change
):
    out = shutil.copytree(compared, tmp_path / "out")
    damage(out / name, change)
    check_damage(capsys, COMPARE, out, name, monkeypatch)
    if name != "config.json":
        assert (out / "metrics.csv").read_bytes() == (compared / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_every_kind_of_damage_is_refused(compared, tmp_path, capsys, nothing_may_be_trained):
    names = ("config.json", "finished/sgd.json", "timing.json")
    for name, change in [*((name, text) for name in names for text in ANY), *SPECIFIC]:
        out = shutil.copytree(compared, tmp_path / "out")
        damage(out / name, change)
        line = refusal(capsys, [*COMPARE, "--out", str(out)])
        assert str(out / name) in line or "holds the results of another command" in line
        shutil.rmtree(out)


@pytest.mark.parametrize("name", ["config.json", "timing.json", "report.md", "finished/sgd.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused(compared, tmp_path, capsys, nothing_may_be_trained, name, kind):
    out = shutil.copytree(compared, tmp_path / "out")
    (out / name).unlink()
    (out / name).mkdir() if kind == "folder" else os.mkfifo(out / name)
    if (name, kind) == ("report.md", "pipe"):  # it is replaced
        assert main([*COMPARE, "--out", str(out)]) == 0
        assert (out / name).is_file()
    else:
        assert str(out / name) in refusal(capsys, [*COMPARE, "--out", str(out)])


@pytest.mark.parametrize(
    "change",
    [
        *ANY,
        _set("losses", [[[1.0]]]),
        _shorter("losses", 0),
        _shorter("scores"),
        _set("trained", [0, 1]),
        _set("trained", [2, 3]),
        _set("diverged", 0, 0, None),
        _set("best", {"learning_rate": 7}),
        _set("at_once", [1]),
        _set("bytes", "many"),
    ],
)
def test_a_damaged_sweep_is_refused(swept, tmp_path, capsys, nothing_may_be_trained, change):
    out = shutil.copytree(swept, tmp_path / "out")
    damage(out / "result.json", change)
    line = refusal(capsys, [*SWEEP, "--out", str(out)])
    assert f"{out / 'result.json'} is damaged" in line
    assert "delete it to compute it again" in line


def test_a_sweep_whose_result_was_deleted_is_computed_again(swept, tmp_path):
    out = shutil.copytree(swept, tmp_path / "out")
    (out / "result.json").unlink()
    assert main([*SWEEP, "--out", str(out)]) == 0
    assert (out / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()


def test_a_folder_that_was_interrupted_before_any_result_takes_another_request(tmp_path, swept):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(swept / "config.json", out)
    assert main([*SWEEP, "--epochs", "1", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["arguments"]["epochs"] == 1
