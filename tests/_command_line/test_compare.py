"""`tritia compare` as a user meets it: what it writes, how it goes on, what it refuses."""

import csv
import importlib.util
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest

import tritia
from tests._compare.files import write_cora, write_mnist
from tritia._command_line.main import main
from tritia._compare import experiment, folder, optimizers, results, training, tuning
from tritia._compare.errors import UsageError

SMALL = ["compare", "--dataset", "wine", "--seeds", "2", "--epochs", "2", "--hidden", "4"]
QUICK = [*SMALL, "--no-tune", "--optimizers", "sgd,momentum"]
OUTPUTS = {"config.json", "metrics.csv", "report.md", "learning_curves.png", "timing.json"}
OUTPUTS |= {"report.html"}


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, arguments):
    """Runs it; it must refuse with code 2 and one line, no traceback; returns the line."""
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("tritia compare: ")
    assert shown.err.count("\n") == 1, shown.err
    return shown.err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A finished run with tuning, one optimizer of Optax and one of tritia."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    assert main([*SMALL, "--optimizers", "sgd,adams_bashforth2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A finished run without tuning."""
    folder = tmp_path_factory.mktemp("quick") / "out"
    assert main([*QUICK, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_its_results(tuned):
    assert {path.name for path in tuned.iterdir()} >= OUTPUTS
    assert not list(tuned.rglob(".*"))  # no temporary file
    assert (tuned / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((tuned / "config.json").read_text())
    assert config["arguments"]["optimizers"] == ["sgd", "adams_bashforth2"]
    assert config["versions"]["tritia"] == tritia.__version__
    assert {"python", "jax", "jaxlib", "optax", "flax", "numpy"} <= set(config["versions"])
    assert len(config["dataset"]["sha256"]) == 64
    assert config["arguments"]["seeds"] == 2
    assert config["device"]


def test_metrics_are_one_row_per_optimizer_seed_and_epoch(tuned):
    rows = rows_of(tuned)
    keys = [(row["optimizer"], row["seed"], row["epoch"]) for row in rows]
    assert len(keys) == len(set(keys)) == 2 * 2 * 3
    steps = 113 // 16
    assert all(int(row["gradient_evaluations"]) == steps * int(row["epoch"]) for row in rows)
    assert all(0 <= float(row["test_metric"]) <= 1 for row in rows)


def test_the_report_agrees_with_the_metrics_and_the_tuning(tuned):
    report = (tuned / "report.md").read_text()
    for name in ("sgd", "adams_bashforth2"):
        last = [row for row in rows_of(tuned) if row["optimizer"] == name and row["epoch"] == "2"]
        line = next(line for line in report.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        losses = [float(row["training_loss"]) for row in last]
        tests = [float(row["test_metric"]) for row in last]
        kept = json.loads((tuned / "finished" / f"{name}.json").read_text())["tuning"]
        assert cells[1].rstrip("*") == f"{kept['setting']['learning_rate']:.3g}"
        assert cells[2] == f"{statistics.median(losses):.3g}"
        assert cells[3] == (f"{statistics.median(tests):.3f} [{min(tests):.3f}, {max(tests):.3f}]")
        best = max(score for score in kept["scores"] if score is not None)
        assert kept["scores"][kept["tried"].index(kept["setting"])] == best
        assert ("*" in cells[1]) == bool(kept["at_edge"])
    assert "tritia compare --dataset wine" in report


def test_the_same_command_again_repeats_the_report_without_training(tuned, capsys, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("trained again")

    for module, name in ((training, "train"), (tuning, "tune")):
        monkeypatch.setattr(module, name, forbidden)
    before = (tuned / "metrics.csv").read_bytes()
    arguments = [*SMALL, "--optimizers", "sgd,adams_bashforth2", "--out", str(tuned)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "all of it is there" in shown.err
    assert "On wine (2 seeds, 2 epochs)" in shown.out
    assert (tuned / "metrics.csv").read_bytes() == before


def test_no_tune_uses_the_usual_learning_rate(quick):
    kept = json.loads((quick / "finished" / "momentum.json").read_text())
    assert kept["tuning"]["setting"] == {
        "learning_rate": optimizers.OPTIMIZERS["momentum"].learning_rate
    }
    assert kept["tuning"]["tried"] == []


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path, quick, capsys, monkeypatch
):
    train, trained = training.train, []

    def interrupted(bench, optimizer, *rest):
        if trained:
            raise KeyboardInterrupt
        trained.append(optimizer)
        return train(bench, optimizer, *rest)

    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(training, "train", interrupted)
    assert main([*QUICK, *out]) == 130
    shown = capsys.readouterr()
    assert "sgd (trained)" in shown.err
    assert "To go on: tritia compare --dataset wine" in shown.err
    assert shown.err.strip().count("\n") == 0
    assert {row["optimizer"] for row in rows_of(tmp_path / "out")} == {"sgd"}

    monkeypatch.setattr(training, "train", train)
    kept = (tmp_path / "out" / "finished" / "sgd.json").read_bytes()
    assert main([*QUICK, *out]) == 0
    assert "1 still to train" in capsys.readouterr().err
    assert (tmp_path / "out" / "finished" / "sgd.json").read_bytes() == kept
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == (quick / "metrics.csv").read_bytes()


def test_a_killed_process_leaves_whole_files_and_is_resumed(tmp_path, quick):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tritia", *QUICK, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = out / "finished" / "sgd.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    json.loads(first.read_text())
    assert main(command[3:]) == 0
    assert (out / "metrics.csv").read_bytes() == (quick / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--epochs", "1"], "a run with epochs 2, this one has epochs 1"),
        (["--seeds", "1"], "a run with seeds 2, this one has seeds 1"),
        (["--learning-rate", "0.2"], "learning rate not given, this one has"),
        (["--hidden", "none"], "hidden 4, this one has hidden none;"),
        (["--dataset", "digits"], "dataset wine, this one has dataset digits"),
    ],
)
def test_other_arguments_in_the_same_folder_are_refused(quick, capsys, changed, words):
    before = {path: path.read_bytes() for path in quick.iterdir() if path.is_file()}
    assert words in refused(capsys, [*QUICK, "--out", str(quick), *changed])
    assert before == {path: path.read_bytes() for path in quick.iterdir() if path.is_file()}


def test_other_data_and_other_versions_in_the_same_folder_are_refused(tmp_path):
    config = {
        "arguments": {"seeds": 2},
        "dataset": {"name": "wine", "sha256": "a"},
        "versions": {"jax": "1"},
        "device": "cpu",
    }
    assert not folder.results_before(tmp_path, config, results.OUTPUTS)
    folder.write_json(tmp_path / folder.CONFIG, config)
    assert not folder.results_before(tmp_path, config, results.OUTPUTS)  # there is no result yet
    (tmp_path / results.TIMING).write_text("{}")
    assert folder.results_before(tmp_path, config, results.OUTPUTS)
    for key, value, words in (
        ("dataset", {"name": "wine", "sha256": "b"}, "other data"),
        ("versions", {"jax": "2"}, "made with jax 1, this is 2"),
        ("device", "gpu", "made with device cpu"),
    ):
        with pytest.raises(UsageError, match=words):
            folder.results_before(tmp_path, {**config, key: value}, results.OUTPUTS)


def test_a_folder_with_somebody_elses_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    assert "report.md but no config.json" in refused(capsys, [*QUICK, "--out", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == "mine"


def test_diverged_runs_are_counted_and_enter_no_mean(tmp_path, capsys, drawn):
    out = tmp_path / "out"
    arguments = [*QUICK, "--learning-rate", "1e6", "--optimizers", "sgd,adam"]
    assert main([*arguments, "--out", str(out)]) == 0
    report = (out / "report.md").read_text()
    line = next(line for line in report.splitlines() if line.startswith("| sgd |"))
    assert "2 of 2" in line
    assert "sgd" in capsys.readouterr().out
    assert "diverged" in report
    for file in ("report.md", "metrics.csv", "timing.json", "finished/sgd.json"):
        words = (out / file).read_text().lower().replace("/", " ").replace("|", " ").split()
        assert not {"nan", "inf", "-inf", "infinity"} & set(words), file
    assert all(row["diverged"] == "1" for row in rows_of(out) if row["epoch"] == "2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--optimizers", "sgd,adms"],
            ["unknown optimizer 'adms'", "Did you mean 'adam'?", "lion"],
        ),
        (["--optimizers", "sgd,sgd"], ["twice"]),
        (["--optimizers", ","], ["--optimizers is empty"]),
        (["--dataset", "digit"], ["unknown data set 'digit'", "Did you mean 'digits'?", "cora"]),
        (["--seeds", "0"], ["--seeds", "at least 1"]),
        (["--epochs", "-1"], ["--epochs", "at least 1"]),
        (["--epochs", "two"], ["--epochs", "'two' is not a whole number"]),
        (["--hidden", "4,0"], ["--hidden", "at least 1"]),
        (["--batch-size", "0"], ["--batch-size", "at least 1"]),
        (["--learning-rate", "0.1"], ["--no-tune"]),
        (["--no-tune", "--learning-rate", "-1"], ["--learning-rate", "above 0"]),
        (["--goal", "nan"], ["--goal", "not finite"]),
        (["--x-axis", "steps"], ["--x-axis", "gradients"]),
        (["--dataset", "mnist"], ["--data-dir", "yann.lecun.com"]),
        (["--dataset", "cora"], ["--data-dir", "kimiyoung/planetoid"]),
        (["--dataset", "mnist", "--data-dir", "/nowhere"], ["/nowhere is not a folder"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, tmp_path, arguments, words):
    line = refused(capsys, ["compare", "--out", str(tmp_path / "out"), *arguments])
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to --out" in refused(capsys, [*QUICK, "--out", str(tmp_path / "file/out")])


def test_a_damaged_result_is_named(quick, capsys, tmp_path):
    import shutil

    out = shutil.copytree(quick, tmp_path / "out")
    (out / "finished" / "sgd.json").write_text('{"tuning": ')
    assert "sgd.json is damaged" in refused(capsys, [*QUICK, "--out", str(out)])


def test_a_missing_extra_says_what_to_install(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("flax", "sklearn") else find(name, *rest),
    )
    line = refused(capsys, QUICK)
    assert "flax, scikit-learn not installed" in line
    assert 'pip install "tritia[compare]"' in line
    assert 'in a checkout pip install ".[compare]"' in line


def test_what_breaks_leaves_its_traceback_in_the_log(capsys, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr(experiment.training, "compile_training", broken)
    assert main([*QUICK, "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "the machine is on fire" in shown.err
    assert "run.log" in shown.err
    assert "Traceback" not in shown.err
    log = (tmp_path / "out" / "run.log").read_text()
    assert "Traceback (most recent call last)" in log


def test_version_help_and_list(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tritia {tritia.__version__}\n"
    assert main(["compare", "--help"]) == 0
    assert "--optimizers" in capsys.readouterr().out
    assert main([]) == 0
    assert "compare" in capsys.readouterr().out
    assert main(["compare", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "tritia.adams_bashforth(learning_rate, order=2)" in shown
    for name in (*optimizers.OPTIMIZERS, "digits", "cora"):
        assert f"  {name} " in shown


def test_mnist_and_cora_run_from_their_files(tmp_path):
    for name, write in (("mnist", write_mnist), ("cora", write_cora)):
        folder = tmp_path / name
        folder.mkdir()
        write(folder)
        arguments = ["compare", "--dataset", name, "--data-dir", str(folder), "--seeds", "1"]
        arguments += ["--epochs", "1", "--hidden", "none", "--no-tune", "--optimizers", "sgd"]
        assert main([*arguments, "--out", str(tmp_path / f"{name}-out")]) == 0
        assert math.isfinite(float(rows_of(tmp_path / f"{name}-out")[-1]["test_loss"]))


def test_regression_and_gradient_counts(tmp_path, capsys, drawn):
    arguments = ["compare", "--dataset", "diabetes", "--seeds", "1", "--epochs", "1"]
    arguments += ["--hidden", "4", "--no-tune", "--learning-rate", "0.01", "--optimizers"]
    arguments += ["sgd,heun", "--x-axis", "gradients", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "test R^2" in capsys.readouterr().out
    counts = {
        row["optimizer"]: int(row["gradient_evaluations"])
        for row in rows_of(tmp_path / "out")
        if row["epoch"] == "1"
    }
    assert counts["heun"] == 2 * counts["sgd"] == 2 * (282 // 32)


def test_a_picture_that_cannot_be_drawn_loses_nothing(tmp_path, capsys, monkeypatch, quick, drawn):
    def broken(contents):
        raise RuntimeError("no ink")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(experiment.interactive, "page", broken)
        patch.setattr(experiment.plots, "draw", broken)
        assert main([*QUICK, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "report.html could not be drawn (RuntimeError: no ink); the traceback is in" in shown.err
    assert "learning_curves.png could not be drawn" in shown.err
    assert ": report.md, metrics.csv, config.json" in shown.out
    assert (out / "metrics.csv").read_bytes() == (quick / "metrics.csv").read_bytes()
    assert "no ink" in (out / "run.log").read_text()
    assert main([*QUICK, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= OUTPUTS


def test_the_page_says_what_the_report_says(quick):
    page = (quick / "report.html").read_text()
    report = (quick / "report.md").read_text()
    bullets = re.findall("^- (On wine .*)$", report, re.MULTILINE)
    assert len(bullets) == 1
    assert f"<li>{bullets[0]}</li>" in page
    assert "tritia compare --dataset wine --optimizers sgd,momentum" in page


def test_without_a_data_set_both_regimes_are_shown(tmp_path, capsys, monkeypatch):
    arguments = ["compare", "--no-tune", "--optimizers", "sgd", "--seeds", "1", "--epochs", "1"]
    arguments += ["--hidden", "none", "--out", str(tmp_path)]
    train = training.train

    def interrupted(bench, *rest):
        if bench.dataset.name == "few_digits":
            raise KeyboardInterrupt
        return train(bench, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        assert main(arguments) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    _, _, words = line.partition("To go on: ")
    assert main(words.split()[1:]) == 0
    shown = capsys.readouterr()
    done = f"Going on with {tmp_path / 'digits'}: digits, 1 seed, 1 epoch; sgd (trained); all of it"
    assert done in shown.err
    assert "digits: minibatches of 64 of 1149 rows, 1 seed, 1 epoch" in shown.out
    assert "few_digits: full batches of 50 rows, 1 seed, 1 epoch" in shown.out
    for name in ("digits", "few_digits"):
        assert f"tritia compare --dataset {name} " in (tmp_path / name / "report.md").read_text()
