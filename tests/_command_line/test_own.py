"""One's own data, optimizers and callbacks, through both commands."""

import csv
import json
import math
import pathlib
import sys
import types

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tritia._command_line.main import main
from tritia._compare import records

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

MODULE = """
import optax

seen = []

def fancy(learning_rate):
    return optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(learning_rate))

def note(record):
    seen.append(record)

def fail(record):
    raise OSError("the network is down")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with a table and a module in it."""
    random = np.random.default_rng(0)
    lines = ["x,colour,y"]
    for row in range(60):
        x, colour = random.normal(), ("red", "blue")[row % 2]
        lines.append(f"{x},{colour},{'yes' if x > 0 else 'no'}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "mine_for_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    sys.modules.pop("mine_for_own", None)


DATA = ["--data", "rows.csv", "--target", "y", "--hidden", "4", "--seeds", "2", "--epochs", "2"]
OWN = ["--optimizer-from", "mine_for_own:fancy"]
COMPARE = ["compare", *DATA, "--no-tune", "--optimizers", "sgd", *OWN]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, arguments, command="compare"):
    capsys.readouterr()
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"tritia {command}: ")
    assert line.count("\n") == 1, line
    return line


def test_own_data_and_optimizer_are_compared(here, capsys, drawn):
    tuned = [word for word in COMPARE if word != "--no-tune"]
    assert main(tuned) == 0
    out = here / "tritia-compare" / "rows"
    shown = capsys.readouterr()
    assert "predicts y (classification, 2 classes, recognised)" in shown.err
    assert "rows, 2 seeds, 2 epochs" in shown.out
    assert {row["optimizer"] for row in rows_of(out / "metrics.csv")} == {"sgd", "fancy"}
    report = (out / "report.md").read_text()
    assert "`mine_for_own.fancy(learning_rate)`" in report
    assert "Made by `tritia compare --data rows.csv --target y" in report
    assert "--optimizer-from mine_for_own:fancy" in report
    kept = json.loads((out / "finished" / "fancy.json").read_text())["tuning"]
    assert {0.01, 0.3} < {setting["learning_rate"] for setting in kept["tried"]}
    # The folder knows the rest.
    assert main(["compare", "--out", str(out)]) == 0
    assert "all of it is there" in capsys.readouterr().err


def test_own_momentum_is_the_registry_s(here):
    arguments = [*COMPARE, "--optimizers", "momentum", "--learning-rate", "0.05"]
    assert main([*arguments, "--out", "out"]) == 0
    rows = rows_of(here / "out" / "metrics.csv")
    losses = {
        name: [float(row["training_loss"]) for row in rows if row["optimizer"] == name]
        for name in ("momentum", "fancy")
    }
    np.testing.assert_allclose(losses["fancy"], losses["momentum"], rtol=1e-5)


def test_own_data_and_optimizer_are_swept(here, capsys):
    grid = ["--grid", "learning_rate=0.01,0.1"]
    assert main(["sweep", *DATA, *OWN, *grid]) == 0
    assert "fancy on rows, 2 settings" in capsys.readouterr().out
    rows = rows_of(here / "tritia-sweep" / "rows" / "fancy" / "sweep.csv")
    assert len(rows) == 2 * 2 * 2
    assert all(math.isfinite(float(row["validation_metric"])) for row in rows)


def test_an_optimizer_whose_file_changed_is_refused(here, capsys):
    assert main(COMPARE) == 0
    (here / "mine_for_own.py").write_text(MODULE.replace("0.9", "0.5"))
    line = refused(capsys, COMPARE)
    assert "fancy.json was made with another version of mine_for_own.fancy" in line
    (here / "tritia-compare" / "rows" / "finished" / "fancy.json").unlink()
    assert main(COMPARE) == 0


def test_data_that_changed_are_refused(here, capsys):
    assert main(COMPARE) == 0
    with (here / "rows.csv").open("a") as file:
        file.write("\n0.5,red,yes")
    assert "other data (the checksum of rows differs)" in refused(capsys, COMPARE)
    assert "other data" in refused(capsys, ["report", "tritia-compare/rows"], "report")


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere.csv", "--target", "y"], "there is no file nowhere.csv"),
        (["--data", "rows.csv"], "--data needs --target"),
        (["--target", "y"], "--target goes with --data"),
        (["--drop", "x"], "--drop goes with --data"),
        (["--data", "rows.csv", "--target", "z"], "--target: unknown column of rows.csv 'z'"),
        (["--data", "rows.csv", "--target", "y", "--dataset", "wine"], "don't go together"),
        (["--data", "rows.csv", "--target", "y", "--drop", "z"], "--drop: unknown column"),
        (["--data", "rows.csv", "--target", "y", "--task", "ranking"], "invalid choice"),
        (["--data", "rows.csv", "--target", "y", "--task", "regression"], "holds text"),
        (["--optimizer-from", "mine_for_own:gone"], "--optimizer-from mine_for_own:gone: unknown"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(here, capsys, command, arguments, words):
    assert words in refused(capsys, [command, *arguments], command)
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == [
        "mine_for_own.py",
        "rows.csv",
    ]


def test_a_callback_is_told_of_every_epoch_and_seed(here):
    arguments = [*COMPARE, "--callback", "mine_for_own:note"]
    assert main(arguments) == 0
    seen = list(sys.modules["mine_for_own"].seen)
    rows = rows_of(here / "tritia-compare" / "rows" / "metrics.csv")
    told = {(r.optimizer, r.seed, r.epoch): r for r in seen}
    assert len(told) == len(seen) == len(rows) == 2 * 2 * 3
    for row in rows:
        record = told[row["optimizer"], int(row["seed"]), int(row["epoch"])]
        assert set(record.metrics) == set(records._FIGURES)
        for name, value in record.metrics.items():
            assert float(row[name]) == value
        assert set(record.setting) == {"learning_rate"}
    # Nothing is trained again, so nothing is told again; a report tells all of it.
    sys.modules["mine_for_own"].seen.clear()
    assert main(arguments) == 0
    assert not sys.modules["mine_for_own"].seen
    report = ["report", "tritia-compare/rows", "--callback", "mine_for_own:note"]
    assert main(report) == 0
    assert sorted(map(str, sys.modules["mine_for_own"].seen)) == sorted(map(str, seen))
    sys.modules["mine_for_own"].seen.clear()
    assert main([*arguments, "--epochs", "3", "--seeds", "3"]) == 0
    further = {(r.optimizer, r.seed, r.epoch) for r in sys.modules["mine_for_own"].seen}
    assert further == {
        (name, seed, epoch)
        for name in ("sgd", "fancy")
        for seed, epochs in ((0, [3]), (1, [3]), (2, [0, 1, 2, 3]))
        for epoch in epochs
    }


def test_a_callback_that_fails_leaves_its_traceback(here, capsys):
    assert main([*COMPARE, "--callback", "mine_for_own:fail"]) == 1
    assert "the network is down" in capsys.readouterr().err
    assert (
        'in fail\n    raise OSError("the network'
        in (here / "tritia-compare" / "rows" / "run.log").read_text()
    )


def test_tensorboard_reads_what_was_written(here):
    assert main([*COMPARE, "--tensorboard", "board"]) == 0
    assert main([*COMPARE, "--tensorboard", "board", "--epochs", "4"]) == 0
    rows = rows_of(here / "tritia-compare" / "rows" / "metrics.csv")
    for name in ("sgd", "fancy"):
        for seed in range(2):
            events = EventAccumulator(str(here / "board" / name / f"seed{seed}")).Reload()
            assert set(events.Tags()["scalars"]) == set(records._FIGURES)
            mine = [row for row in rows if (row["optimizer"], row["seed"]) == (name, str(seed))]
            for tag in records._FIGURES:
                found = {event.step: event.value for event in events.Scalars(tag)}
                assert list(found) == [0, 1, 2, 3, 4]
                expected = [float(row[tag]) for row in mine]
                np.testing.assert_allclose(list(found.values()), expected, rtol=1e-6)


def test_tensorboard_says_what_it_needs(here, capsys, monkeypatch):
    (here / "file").write_text("")
    line = refused(capsys, [*COMPARE, "--tensorboard", "file/board"])
    assert "cannot write to --tensorboard file/board" in line
    assert "201 are too many" in refused(
        capsys, [*COMPARE, "--seeds", "201", "--tensorboard", "board"]
    )
    find = records.importlib.util.find_spec
    monkeypatch.setattr(
        records.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboardX" else find(name, *rest),
    )
    line = refused(capsys, [*COMPARE, "--tensorboard", "board"])
    assert 'pip install "tritia[tensorboard]"' in line
    assert 'pip install ".[tensorboard]"' in line


class Wandb(types.ModuleType):
    """Stands for wandb: `init` returns a run with `log`, as in its documentation."""

    def __init__(self):
        super().__init__("wandb")
        self.logged = {}

    def init(self, *, group, name, config, reinit):
        assert reinit == "create_new"  # several runs at once
        figures = self.logged[name] = {"group": group, "config": config}
        return types.SimpleNamespace(log=lambda metrics, step: figures.update({step: metrics}))


class Mlflow(types.ModuleType):
    """Stands for mlflow: a client with `create_run`, `log_param` and `log_metric`."""

    def __init__(self):
        super().__init__("mlflow")
        self.logged = {}

    def MlflowClient(self):
        return self

    def create_run(self, experiment_id, run_name):
        self.logged[run_name] = {}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name))

    def log_param(self, run_id, key, value):
        self.logged[run_id].setdefault("config", {})[key] = value

    def log_metric(self, run_id, key, value, step):
        self.logged[run_id].setdefault(step, {})[key] = value


@pytest.mark.parametrize("module", [Wandb(), Mlflow()], ids=["wandb", "mlflow"])
def test_the_examples_log_what_metrics_csv_holds(here, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(EXAMPLES)
    assert main([*COMPARE, "--callback", f"log_to_{module.__name__}:log"]) == 0
    sys.modules.pop(f"log_to_{module.__name__}")
    rows = rows_of(here / "tritia-compare" / "rows" / "metrics.csv")
    assert len(module.logged) == 2 * 2
    for row in rows:
        run = module.logged[f"{row['optimizer']} {row['seed']}"]
        assert run[int(row["epoch"])]["test_metric"] == float(row["test_metric"])
        assert set(run["config"]) == {"learning_rate"}
