"""Whatever is wrong with the arguments is said in one line, with exit code 2, before any work."""

import pytest

from tritia._command_line.main import main

DIGITS = "9" * 20
COMPARE = ["compare", "--dataset", "wine", "--no-tune", "--optimizers", "sgd", "--epochs", "1"]
SWEEP = ["sweep", "--dataset", "wine", "--epochs", "1", "--seeds", "1"]


@pytest.fixture(autouse=True)
def nothing_may_be_trained(monkeypatch):
    def trained(*arguments, **options):
        raise AssertionError("it trains")

    monkeypatch.setattr("tritia._compare.training.prepare", trained)
    monkeypatch.setattr("tritia._command_line.sweep.prepare", trained)


def refusal(capsys, arguments):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert shown.err.startswith(f"tritia {arguments[0]}: ")
    assert len(shown.err) < 1100
    return shown.err


BOTH = [
    (["--seeds", DIGITS], "--seeds: '99999999999999999999' is too large, at most 10000"),
    (["--epochs", DIGITS], "--epochs: '99999999999999999999' is too large"),
    (["--seeds", "-" + DIGITS], "too small"),
    (["--seeds", "9" * 5000], "is not a whole number"),
    (["--seeds", "1e3"], "is not a whole number"),
    (["--seeds", ""], "'' is not a whole number"),
    (["--epochs", "nan"], "is not a whole number"),
    (["--batch-size", DIGITS], "too large"),
    (["--batch-size", "-1"], "at least 1"),
    (["--hidden", DIGITS], "too large"),
    (["--hidden", ","], "has no widths"),
    (["--hidden", ""], "has no widths"),
    (["--hidden", "4,x"], "'x' is not a whole number"),
    (["--out", ""], "--out: it is empty"),
    (["--out", "  "], "--out: it is empty"),
    (["--out", "a" * 300], "cannot write to --out"),
    (["--out", "/dev/null"], "cannot write to --out"),
    (["--out", "/dev/null/[/x]a"], "[/x]a"),
    (["--data-dir", ""], "--data-dir: it is empty"),
    (["--dataset", "mnist", "--data-dir", "a" * 300], "is not a folder"),
    (["--dataset", "cora", "--data-dir", "/dev/null"], "is not a folder"),
    (["--dataset", ""], "unknown data set ''"),
    (["--dataset", "\x1b[31mwine"], r"'\x1b[31mwine'"),
    (["--dataset", "\udcff"], r"unknown data set '\udcff'"),
    (["--dataset", "[/x]"], "'[/x]'"),
    (["more"], "unrecognized arguments: more"),
    (["--seeds"], "expected one argument"),
    (["--seeds=--"], "argument --seeds: "),  # the rest depends on the version of argparse
    (["--out=--"], "argument --out: expected one argument"),
    (["--dataset=--"], "argument --dataset: expected one argument"),
    (["--", "wine"], "unrecognized arguments: "),
]


@pytest.mark.parametrize(("arguments", "words"), BOTH)
@pytest.mark.parametrize("start", [COMPARE, SWEEP], ids=["compare", "sweep"])
def test_what_both_commands_refuse(capsys, tmp_path, monkeypatch, start, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(capsys, [*start, *arguments])
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--goal", "1e300"], "--goal"),
        (["--goal", "-1e300"], "--goal"),
        (["--goal", "1.5"], "'1.5' is not between -1 and 1"),
        (["--goal", "inf"], "is not finite"),
        (["--learning-rate", "1e300"], "too large"),
        (["--learning-rate", "1e-300"], "not above 0 in float32"),
        (["--learning-rate", "0"], "not above 0"),
        (["--learning-rate", "nan"], "is not finite"),
        (["--optimizers", ""], "--optimizers is empty"),
        (["--optimizers", "\x1b]0;x\x07"], r"\x1b]0;x\x07"),
        (["--x-axis", ""], "--x-axis"),
    ],
)
def test_what_compare_refuses(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(capsys, [*COMPARE, *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "learning_rate=,"], "'learning_rate=,' has no numbers"),
        (["--grid", "learning_rate= , "], "has no numbers"),
        (["--grid", "=1"], "not of the form NAME="),
        (["--grid", "learning_rate="], "not of the form NAME="),
        (["--grid", "learning_rate=inf"], "is not finite"),
        (["--grid", "learning_rate=1e300"], "too large"),
        (["--grid", "learning_rate=" + ",".join(["1"] * 100_001)], "more than 100000 combinations"),
        (["--draw", "learning_rate=-1e308:1e308"], "too large"),
        (["--draw", "learning_rate=1:0"], "low < high"),
        (["--draw", "learning_rate=0:"], "'' is not a number"),
        (["--draw", "learning_rate=:"], "'' is not a number"),
        (["--draw", "learning_rate=log:-1:1"], "0 < low"),
        (["--draw", "learning_rate=log:1"], "NAME=LOW:HIGH"),
        (["--draw", "learning_rate=0:nan"], "is not finite"),
        (["--draw", "learning_rate=0:1:2"], "'1:2' is not a number"),
        (["--count", "99999999999"], "at most 100000"),
        (["--count", "0"], "at least 1"),
        (["--count", "100000", "--seeds", "10000"], "at most 100000000 are kept"),
        (["--memory", "1e308GB"], "not between 1 and 2^60 bytes"),
        (["--memory", "1e400"], "not between 1 and 2^60 bytes"),
        (["--memory", "nan"], "not between 1 and 2^60 bytes"),
        (["--memory=-1GB"], "not between 1 and 2^60 bytes"),
        (["--memory", "GB"], "'GB' is not a size"),
        (["--memory", ""], "is not a size"),
        (["--halving"], "--halving and --epochs: records is 1"),
        (["--optimizer", ""], "unknown optimizer ''"),
        (["--optimizer", "lbfgs"], "no numbers to sweep"),
        (["--optimizer", "lbfgs", "--grid", "rho=1"], "no numbers to sweep"),
        (["--optimizer", "tiam", "--grid", "rho=1"], "unknown number of tritia.tiam"),
    ],
)
def test_what_sweep_refuses(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(capsys, [*SWEEP, *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["compere"], ["--colour"], ["--version=1"]])
def test_what_the_command_itself_refuses(capsys, arguments):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("tritia: ")
    assert shown.err.count("\n") == 1


def test_networks_that_no_memory_holds_are_refused_before_they_are_made(capsys, tmp_path):
    from tritia._compare import datasets, network
    from tritia._compare.errors import UsageError

    wine = datasets.DATASETS["wine"](None)
    with pytest.raises(UsageError, match="more than the memory holds"):
        network.build(wine, (1_000_000, 1_000_000), 1)
    with pytest.raises(UsageError, match="10000 networks"):
        network.build(wine, (100_000, 100), 10_000)
