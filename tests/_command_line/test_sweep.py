"""`tritia sweep`: what it writes, and what it refuses."""

import csv

import numpy as np
import pytest

from tritia._command_line import sweep_options
from tritia._command_line.main import main

SMALL = ["sweep", "--dataset", "wine", "--seeds", "2", "--epochs", "3", "--hidden", "4"]


def rows_of(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_written_with_its_picture(tmp_path, capsys):
    grid = ["--grid", "learning_rate=0.001,0.1,1e9", "--memory", "1GB"]
    assert main([*SMALL, *grid, "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 3 * 2 * 3
    assert {row["learning_rate"] for row in rows} == {"0.001", "0.1", "1000000000.0"}
    assert {row["diverged"] for row in rows if row["setting"] == "2"} == {"1"}
    shown = capsys.readouterr().out
    best = max(
        (0, 1),
        key=lambda i: np.mean(
            [
                float(row["validation_metric"])
                for row in rows
                if row["setting"] == str(i) and row["epoch"] == "3"
            ]
        ),
    )
    assert shown.index(["0.001", "0.1"][best]) < shown.index(["0.001", "0.1"][1 - best])
    assert "1 of 3 settings diverged" in shown
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_draws_of_several_numbers_with_halving(tmp_path):
    arguments = [*SMALL, "--optimizer", "triple_inertia_sgd", "--count", "9", "--halving"]
    arguments += ["--draw", "learning_rate=log:0.01:0.3", "--draw", "predict=0:0.9"]
    arguments[arguments.index("3")] = "9"  # epochs
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    trained = [
        sum(row["setting"] == str(i) and row["seed"] == "0" for row in rows) for i in range(9)
    ]
    assert sorted(trained) == [1] * 6 + [3] * 2 + [9]
    rates = np.array([float(row["learning_rate"]) for row in rows])
    assert rates.min() >= 0.01
    assert rates.max() <= 0.3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer", "sdg"], ["unknown optimizer 'sdg'", "'sgd'"]),
        (["--dataset", "wines"], ["unknown data set 'wines'", "'wine'"]),
        (["--grid", "learning_rat=1"], ["learning_rat", "'learning_rate'"]),
        (["--grid", "learning_rate"], ["not of the form NAME="]),
        (["--grid", "learning_rate=a"], ["'a' is not a number"]),
        (["--draw", "learning_rate=1"], ["NAME=LOW:HIGH"]),
        (["--draw", "learning_rate=log:0:1"], ["0 < low"]),
        (["--grid", "learning_rate=1", "--draw", "learning_rate=0:1"], ["twice"]),
        (["--grid", "learning_rate=1", "--count", "3"], ["--count goes with --draw"]),
        (["--memory", "much"], ["'much' is not a size"]),
        (["--memory", "1KB"], ["--memory", "one setting with one seed"]),
        (["--halving"], ["--epochs", "9 are enough"]),
        (["--epochs", "two"], ["'two' is not a whole number"]),
        (["--colour", "red"], ["unrecognized arguments: --colour red"]),
        (["--optimizer", "cocob"], ["no numbers to sweep"]),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(capsys, arguments, words):
    assert main([*SMALL, *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1, shown.err
    assert shown.err.startswith("tritia sweep: ")
    for word in words:
        assert word in shown.err


def test_memory_is_read():
    assert sweep_options.memory("500MB") == 500 * 2**20
    assert sweep_options.memory("1.5 gb") == 3 * 2**29
    assert sweep_options.memory("2000") == 2000
