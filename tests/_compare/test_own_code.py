"""A user's own optimizers: found, checked and named, or refused in one line."""

import sys

import pytest

from tritia._compare import own_code
from tritia._compare.errors import UsageError

MODULE = """
import optax

def plain(learning_rate):
    return optax.GradientTransformation(
        optax.sgd(learning_rate).init, optax.sgd(learning_rate).update
    )

def centred(learning_rate=0.3):
    return optax.sgd(learning_rate)

def adam(learning_rate):
    return optax.adam(learning_rate)

def nothing(learning_rate):
    pass

def branching(learning_rate):
    return optax.sgd(0.1 if learning_rate > 1 else learning_rate)

class Family:
    @staticmethod
    def member(learning_rate):
        return optax.sgd(learning_rate)

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_for_test.py").write_text(MODULE)
    (tmp_path / "broken_for_test.py").write_text("1 / 0")
    (tmp_path / "needy_for_test.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine_for_test", None)


def test_a_factory_becomes_an_optimizer(mine):
    name, plain = own_code.optimizer("mine_for_test:plain")
    assert (name, plain.learning_rate, plain.extra) == ("plain", 0.01, "nothing")
    assert plain.call == "mine_for_test.plain(learning_rate)"
    _, centred = own_code.optimizer("mine_for_test:centred")
    assert (centred.learning_rate, centred.extra) == (0.3, "everything")
    assert own_code.optimizer("mine_for_test:Family.member")[0] == "member"
    assert plain.source == centred.source
    (mine / "mine_for_test.py").write_text(MODULE + "# changed\n")
    assert own_code.optimizer("mine_for_test:plain")[1].source != plain.source


def test_own_optimizers_come_after_those_named_unless_named(mine):
    specs = ["mine_for_test:plain"]
    assert list(own_code.look_up(["sgd"], specs)) == ["sgd", "plain"]
    assert list(own_code.look_up(["plain", "sgd"], specs)) == ["plain", "sgd"]
    assert list(own_code.look_up([], specs)) == ["plain"]
    with pytest.raises(UsageError, match="unknown optimizer 'plain'"):
        own_code.look_up(["plain"], [])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mine_for_test", "not of the form module:name"),
        (":plain", "not of the form module:name"),
        ("nowhere_at_all:plain", "there is no module 'nowhere_at_all'"),
        (
            "needy_for_test:plain",
            "fails .ModuleNotFoundError: .* needy_for_test.py line 1",
        ),
        (
            "broken_for_test:plain",
            "fails .ZeroDivisionError: .* broken_for_test.py line 1",
        ),
        ("mine_for_test:plan", "unknown name of mine_for_test 'plan'. Did you mean 'plain'"),
        ("mine_for_test:number", "is int, which can't be called"),
        ("mine_for_test:nothing", "returns NoneType, not an optax.GradientTransformation"),
        (
            "mine_for_test:branching",
            "traced learning rate fails .TracerBool.*, mine_for_test.py line 19",
        ),
        ("mine_for_test:adam", "the optimizer 'adam' is there already"),
    ],
)
def test_what_is_no_optimizer_is_refused(mine, spec, words):
    with pytest.raises(UsageError, match=words) as caught:
        own_code.optimizers([spec])
    assert "\n" not in str(caught.value)
    assert "`optimizer_from`" in str(caught.value)


def test_two_of_one_name_are_refused(mine):
    with pytest.raises(UsageError, match="two of them are called 'plain'"):
        own_code.optimizers(["mine_for_test:plain", "mine_for_test:plain"])
