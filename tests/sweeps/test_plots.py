"""The picture of a sweep: its axes, its colours, and the statistic of the table."""

import itertools

import numpy as np
import pytest

from tritia.sweeps import Result, _plots


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.001, 0.003, 0.01, 0.03], True),
        ([0.1, 0.2, 0.3, 0.4], False),
        ([1, 2, 4, 8], True),
        ([0.0, 0.01, 0.1], False),
        ([-1.0, 1.0, 10.0], False),
        ([0.1, 0.1], False),
        ([0.1, 0.2], False),
        ([0.01, 1.0], True),
        (np.exp(np.random.default_rng(0).uniform(-7, 0, 16)), True),
        (np.random.default_rng(0).uniform(0.01, 0.9, 16), False),
    ],
)
def test_axes_are_logarithmic_where_values_are_spaced_so(values, expected):
    assert _plots.log_spaced(np.asarray(values)) == expected


def result(**numbers):
    settings = [
        dict(zip(numbers, point, strict=True)) for point in itertools.product(*numbers.values())
    ]
    generator = np.random.default_rng(0)
    losses, values = generator.random((2, len(settings), 3, 4))
    scores = values[:, :, -1].mean(1)
    scores[0] = -np.inf
    return Result(
        settings[int(scores.argmax())],
        settings,
        scores,
        losses,
        values,
        np.arange(4),
        np.zeros((len(settings), 3), bool),
        np.full(len(settings), 4),
        None,
        (1, 1),
        0,
        np.full(3, 3),
    )


@pytest.fixture
def figure(monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *rest, **how: (seen.append(self), save(self, *rest, **how))
    )

    def draw(found):
        assert _plots.draw(found, "title", "accuracy").startswith(b"\x89PNG")
        return seen[-1]

    return draw


def lines(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 1]


def test_one_number_has_means_on_a_logarithmic_axis_and_curves_told_apart(figure):
    found = result(learning_rate=[0.001, 0.01, 0.1, 1.0])
    scores, curves, bar = figure(found).axes
    assert scores.get_xscale() == "log"
    mean = next(line for line in scores.get_lines() if line.get_label() == "mean over seeds")
    np.testing.assert_allclose(mean.get_ydata(), found.scores[1:])
    drawn = [line for line in lines(curves) if line.get_label() != "best"]
    assert len({line.get_color() for line in drawn}) == 3
    for line, losses in zip(drawn, found.losses[1:], strict=True):
        np.testing.assert_allclose(line.get_ydata(), losses.mean(0))
    assert bar.get_ylabel() == "learning rate"
    assert bar.get_yscale() == "log"


def test_two_numbers_have_a_map_that_says_the_scores(figure):
    found = result(learning_rate=[0.001, 0.01, 0.1], momentum=[0.0, 0.5, 1.0])
    scores = figure(found).axes[0]
    assert (scores.get_xscale(), scores.get_yscale()) == ("log", "linear")
    written = {text.xy: text.get_text() for text in scores.texts}
    assert written == {
        tuple(setting.values()): f"{score:.3f}"
        for setting, score in zip(found.settings[1:], found.scores[1:], strict=True)
    }
    assert [line.get_label() for line in scores.get_lines()] == ["diverged"]


def test_three_numbers_have_a_panel_each(figure):
    found = result(a=[1, 2], b=[1, 2], c=[1, 2])
    assert [axes.get_xlabel() for axes in figure(found).axes] == ["a", "b", "c", "epoch", ""]
