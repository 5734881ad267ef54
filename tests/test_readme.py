"""What the README shows is what happens."""

import doctest
import pathlib
import re

import optax
import pytest

import tritia

README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_the_examples_run_in_order():
    names = {}
    first, *others = _blocks("python")
    exec(compile(first, str(README), "exec"), names)
    assert float(names["loss"](names["params"])) < 1e-3
    for block in others:
        exec(compile(block, str(README), "exec"), names)
    loss = optax.softmax_cross_entropy_with_integer_labels(names["model"](names["x"]), names["y"])
    assert float(loss.mean()) < 0.45  # log 2 untrained


def test_the_session_prints_what_is_shown():
    sessions = _blocks("pycon")
    assert sessions
    for session in sessions:
        examples = doctest.DocTestParser().get_doctest(
            session, {"tritia": tritia}, "README", None, 0
        )
        assert (
            doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples).failed
            == 0
        )


def _numbers(cell):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]


ROWS = {
    "tritia.difference(lr, order=2, steps=3)": [tritia.difference_scheme(2, 3)],
    "tritia.difference(lr, order=2, steps=4 / 5 / 6)": [
        tritia.difference_scheme(2, k) for k in (4, 5, 6)
    ],
    "tritia.difference(lr, order=3, steps=4 / 5 / 6)": [
        tritia.difference_scheme(3, k) for k in (4, 5, 6)
    ],
    "tritia.adams_bashforth(lr, order=2 / 3 / 4 / 5)": [
        tritia.adams_bashforth_scheme(p) for p in (2, 3, 4, 5)
    ],
    "tritia.bdf(lr, order=2 / 3)": [tritia.bdf_scheme(p) for p in (2, 3)],
    "tritia.midpoint": [tritia.TABLEAUS["midpoint"]],
    'tritia.runge_kutta(lr, "kutta3")': [tritia.TABLEAUS["kutta3"]],
    "tritia.rk4": [tritia.TABLEAUS["rk4"]],
    "tritia.rkc(lr, stages=5, order=1 / 2)": [
        tritia.ChebyshevScheme(stages=5, order=p) for p in (1, 2)
    ],
}


@pytest.mark.parametrize("start", ROWS)
def test_the_table_has_the_properties_of_the_schemes(start):
    (line,) = [row for row in README.read_text().splitlines() if row.startswith(f"| `{start}`")]
    _, _, gradients, order, interval, copies, _ = (cell.strip() for cell in line.split("|"))
    for i, scheme in enumerate(ROWS[start]):

        def shown(cell, i=i):
            numbers = _numbers(cell)
            return numbers[min(i, len(numbers) - 1)]

        assert shown(gradients) == scheme.gradients_per_step
        assert shown(order) == scheme.order
        assert shown(interval) == pytest.approx(scheme.stability_interval, rel=0.02)
        assert shown(copies) == scheme.memory
