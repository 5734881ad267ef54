"""A finished comparison takes more optimizers, seeds and epochs, and is drawn again."""

import csv
import json
import shutil

import numpy as np
import pytest

from tritia._command_line.main import main
from tritia._compare import checkpoints, training, tuning
from tritia._compare.request import resolve

# noisy_sgd keeps a random key; triple_inertia_sgd is evaluated elsewhere than at its params.
NAMES = "sgd,noisy_sgd,triple_inertia_sgd"
BASE = ["compare", "--dataset", "wine", "--hidden", "4", "--no-tune"]


def size(seeds, epochs):
    return ["--seeds", str(seeds), "--epochs", str(epochs)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "out"
    assert main([*BASE, *size(2, 2), "--optimizers", "sgd,noisy_sgd", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the extended comparisons must come to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([*BASE, *size(3, 4), "--optimizers", NAMES, "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(small, tmp_path):
    return shutil.copytree(small, tmp_path / "out")


@pytest.fixture
def trained(monkeypatch):
    """How many epochs of how many seeds each call of `train` computes."""
    calls, train = [], training.train

    def counted(bench, optimizer, compiled, epochs, progress, watch, begin):
        calls.append((bench.first_seed, bench.seeds, 0 if begin is None else begin[0], epochs))
        return train(bench, optimizer, compiled, epochs, progress, watch, begin)

    monkeypatch.setattr(training, "train", counted)
    return calls


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same(folder, expected):
    found, known = rows_of(folder), rows_of(expected)
    assert [list(row)[:4] for row in found] == [list(row)[:4] for row in known]
    for row, other in zip(found, known, strict=True):
        assert [row[k] for k in ("optimizer", "seed", "epoch")] == [
            other[k] for k in ("optimizer", "seed", "epoch")
        ]
        for column in ("training_loss", "test_loss", "test_metric"):
            # As many seeds as are computed at once decide how sums are rounded.
            np.testing.assert_allclose(float(row[column]), float(other[column]), rtol=1e-4)


def test_more_of_everything_ends_as_if_it_had_been_asked_for(out, whole, trained, capsys):
    assert main(["compare", "--epochs", "4", "--out", str(out)]) == 0
    assert "sgd, noisy_sgd (trained in part); 2 still to train" in capsys.readouterr().err
    assert trained == [(0, 2, 2, 4)] * 2
    trained.clear()
    assert main(["compare", "--seeds", "3", "--out", str(out)]) == 0
    assert trained == [(2, 1, 0, 4)] * 2
    trained.clear()
    assert main(["compare", "--optimizers", "triple_inertia_sgd", "--out", str(out)]) == 0
    assert trained == [(0, 3, 0, 4)]
    check_same(out, whole)
    timed = json.loads((out / "timing.json").read_text())
    assert list(timed) == NAMES.split(",")
    trained.clear()
    assert main([*BASE, *size(3, 4), "--optimizers", NAMES, "--out", str(out)]) == 0
    assert not trained


def test_seeds_and_epochs_at_once(out, whole, trained):
    arguments = [*BASE, *size(3, 4), "--optimizers", NAMES, "--out", str(out)]
    assert main(arguments) == 0
    assert trained == [(0, 2, 2, 4), (2, 1, 0, 4)] * 2 + [(0, 3, 0, 4)]
    check_same(out, whole)
    # What is kept of both goes on.
    trained.clear()
    assert main(["compare", "--epochs", "5", "--out", str(out)]) == 0
    assert trained == [(0, 3, 4, 5)] * 3


def test_an_extension_that_is_interrupted_goes_on(out, whole, monkeypatch, capsys):
    save, saved = checkpoints.save, []

    def interrupted(*arguments):
        saved.append(save(*arguments))
        if len(saved) == 2:  # the first two seeds of noisy_sgd
            raise KeyboardInterrupt

    arguments = [*BASE, *size(3, 4), "--optimizers", NAMES, "--out", str(out)]
    monkeypatch.setattr(checkpoints, "save", interrupted)
    saved.append(None)  # the first part of sgd counts
    assert main(arguments) == 130
    monkeypatch.setattr(checkpoints, "save", save)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "still to train" in capsys.readouterr().err
    check_same(out, whole)


def test_without_a_checkpoint_epochs_are_trained_anew_which_is_said(out, trained, capsys):
    (out / "finished" / "sgd.npz").unlink()
    before = rows_of(out)
    assert main(["compare", "--epochs", "3", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "sgd: from the first epoch again, as there is no checkpoint to go on from" in shown
    assert trained == [(0, 2, 0, 3), (0, 2, 2, 3)]
    again = [row for row in rows_of(out) if int(row["epoch"]) < 3]
    assert again == before


def test_large_states_are_not_kept(out, trained, monkeypatch):
    monkeypatch.setattr(checkpoints, "MOST_BYTES", 100)
    assert main(["compare", "--epochs", "3", "--out", str(out)]) == 0
    assert not list((out / "finished").glob("*.npz"))
    assert main(["compare", "--seeds", "3", "--out", str(out)]) == 0
    assert trained[2:] == [(2, 1, 0, 3)] * 2


def test_a_damaged_checkpoint_is_named_and_its_deletion_helps(out, capsys):
    path = out / "finished" / "sgd.npz"
    arguments = ["compare", "--epochs", "3", "--out", str(out)]
    for content in (b"", b"PK", b"\x93NUMPY"):
        path.write_bytes(content)
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert f"{path} is damaged" in line
        assert line.count("\n") == 1
    path.unlink()
    assert main(arguments) == 0


def test_optimizers_that_come_later_get_the_same_budget_of_tuning(tmp_path, monkeypatch):
    budgets, validate = [], tuning.validate

    def noted(bench, optimizer, settings, epochs, progress):
        budgets.append((bench.seeds, epochs))
        return validate(bench, optimizer, settings, epochs, progress)

    monkeypatch.setattr(tuning, "validate", noted)
    out = ["--out", str(tmp_path / "out")]
    tuned = [*BASE[:-1], *size(1, 1), "--optimizers", "sgd"]
    assert main([*tuned, *out]) == 0
    assert main(["compare", "--optimizers", "momentum", "--seeds", "2", "--epochs", "2", *out]) == 0
    assert set(budgets) == {(1, 1)}
    assert "rows of 1 seed, for 1 epoch;" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--seeds", "1"], "a run with seeds 2, this one has seeds 1"),
        (["--epochs", "1"], "a run with epochs 2, this one has epochs 1"),
        (["--dataset", "digits"], "dataset wine, this one has dataset digits"),
        (["--hidden", "5"], "hidden 4, this one has hidden 5"),
        (["--batch-size", "8"], "batch size not given, this one has batch size 8"),
        (["--learning-rate", "0.2"], "learning rate not given"),
    ],
)
def test_what_would_not_compare_is_refused(out, capsys, trained, changed, words):
    assert main(["compare", *changed, "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not trained


def test_a_config_that_was_tampered_with_is_refused(out, capsys):
    path = out / "config.json"
    kept = json.loads(path.read_text())
    for name, value in (
        ("seeds", "2"),
        ("seeds", 0),
        ("seeds", True),
        ("tune", 1),
        ("hidden", [4.5]),
        ("optimizers", "sgd"),
        ("data", 3),
        ("epochs", None),
    ):
        path.write_text(json.dumps({**kept, "arguments": {**kept["arguments"], name: value}}))
        for command in (["compare", "--out", str(out)], ["report", str(out)]):
            assert main(command) == 2
            assert f"config.json is damaged ({name} is" in capsys.readouterr().err
    for budget in (None, {}, {"seeds": "1", "epochs": 2}):
        path.write_text(json.dumps({**kept, "tuning": budget}))
        assert main(["compare", "--out", str(out)]) == 2
        assert "config.json is damaged (tuning is" in capsys.readouterr().err


def test_a_report_is_drawn_again_without_training(out, trained, drawn, capsys, monkeypatch):
    monkeypatch.setattr(training, "compile_training", None)
    rows, config = rows_of(out), (out / "config.json").read_text()
    assert main(["report", str(out)]) == 0
    picture = (out / "learning_curves.png").read_bytes()
    options = ["--x-axis", "gradients", "--goal", "0.125", "--optimizers", "noisy_sgd"]
    assert main(["report", str(out), *options]) == 0
    report = (out / "report.md").read_text()
    assert "epochs to 0.125" in report
    assert "| noisy_sgd |" in report
    assert "| sgd |" not in report
    assert "noisy_sgd" in capsys.readouterr().out
    assert (out / "learning_curves.png").read_bytes() != picture
    assert rows_of(out) == rows
    assert (out / "config.json").read_text() == config
    assert main(["report", str(out)]) == 0
    assert "| sgd |" in (out / "report.md").read_text()
    assert (out / "learning_curves.png").read_bytes() == picture


def test_a_report_of_other_versions_names_them(out, capsys):
    config = json.loads((out / "config.json").read_text())
    config["versions"]["jax"] = "0.0.7"
    (out / "config.json").write_text(json.dumps(config))
    assert main(["report", str(out)]) == 0
    assert "jax 0.0.7" in (out / "report.md").read_text()
    assert main(["compare", "--out", str(out)]) == 2
    assert "made with jax 0.0.7" in capsys.readouterr().err


def test_what_holds_no_report_is_refused(out, tmp_path, capsys, monkeypatch):
    for arguments, words in (
        ([str(tmp_path / "nowhere")], "holds no results of tritia compare"),
        ([str(tmp_path)], "holds no results of tritia compare"),
        ([str(out), "--optimizers", "adam"], "--optimizers: unknown finished optimizer 'adam'"),
        ([str(out), "--goal", "2"], "'2' is not between -1 and 1"),
    ):
        assert main(["report", *arguments]) == 2
        line = capsys.readouterr().err
        assert line.startswith("tritia report: ")
        assert words in line
        assert line.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_what_is_resolved_is_the_same_request_as_before(out):
    request = resolve({"out": out})
    assert (request.label, request.seeds, request.optimizers) == ("wine", 2, ("sgd", "noisy_sgd"))
    more = resolve({"out": out, "optimizers": ("adam", "sgd")})
    assert more.optimizers == ("sgd", "noisy_sgd", "adam")
