"""The report claims no more than the seeds show."""

import numpy as np
import pytest

from tritia._compare import datasets, report, summary, training, tuning
from tritia._compare.optimizers import OPTIMIZERS


def figures(name, final, target=0.9, **changes):
    """Figures of an optimizer whose test metric ends at the given values, one per seed."""
    final = np.asarray(final)
    ones = np.ones((len(final), 2))
    curves = training.Curves(ones, ones, ones, np.stack([0 * final, final], 1), {}, 1.0)
    curves = curves._replace(**changes)
    tuned = tuning.Tuning({"learning_rate": 0.1}, [], [], [], "", False)
    return summary.summarise(name, OPTIMIZERS[name], tuned, curves, target, 100.0, [0.001, 0.002])


WINE = datasets.DATASETS["wine"](None)


def test_seeds_are_counted_one_by_one():
    one = figures("bdf2", [0.9, 0.8, 0.7, 0.6])
    other = figures("sgd", [0.8, 0.8, 0.8, 0.7])
    assert report.seed_counts(one, other) == (1, 1, 2)
    heads, rows = report.table([one, other], WINE, 4, 0.9)
    column = heads.index("ahead/level/behind sgd")
    assert [row[column] for row in rows] == ["1/1/2", ""]


def test_a_seed_that_diverged_counts_for_nobody():
    loss = np.array([[1.0, 1.0], [1.0, np.nan], [1.0, 1.0]])
    one = figures("bdf2", [0.9, 0.9, 0.9], training_loss=loss)
    other = figures("sgd", [0.8, 0.8, 0.8])
    assert report.seed_counts(one, other) == (2, 0, 0)
    assert one.diverged == 1


def test_the_conclusions_name_the_best_and_count_the_seeds():
    found = [figures("sgd", [0.8] * 5), figures("adam", [0.9] * 5), figures("bdf2", [0.95] * 5)]
    assert report.conclusions(found, WINE, 5, 3, 0.9) == [
        "On wine (5 seeds, 3 epochs), the best median test accuracy, 0.950, is that of bdf2.",
        "bdf2, the best of tritia's, is ahead of adam, the best of the others, on 5, level on 0 and"
        " behind on 0 of 5 seeds.",
        "None of tritia's is behind adam on more seeds than ahead.",
        "A test accuracy of 0.9 takes bdf2 and adam the fewest epochs, 1, and bdf2 the fewest"
        " seconds, 0.0015 a seed.",
        "An epoch of sgd takes 1.5 ms a seed; 1 times that for adam up to 1 times that for bdf2.",
    ]
    few = [figures("sgd", [0.8] * 2), figures("bdf2", [0.8] * 2)]
    words = report.conclusions(few, WINE, 2, 1, 0.9)
    assert words[0].endswith("is that of sgd and bdf2.")
    assert words[1].endswith("of 2 seeds, too few to tell.")
    assert words[3] == "Nobody reaches a test accuracy of 0.9 on more than half of the seeds."
    assert len(report.conclusions(found[:2], WINE, 5, 3, 0.9)) == 3


def test_the_conclusions_name_those_that_lose():
    found = [figures("adam", [0.9] * 5), figures("bdf2", [0.8, 0.8, 0.8, 0.9, 0.95])]
    lost = report.conclusions(found, WINE, 5, 3, 0.9)[2]
    assert lost == "Behind adam on more seeds than ahead (ahead/level/behind): bdf2 (1/1/3)."


def test_all_runs_diverging_is_said():
    lost = figures("sgd", [0.8, 0.8], training_loss=np.full((2, 2), np.inf))
    (words,) = report.conclusions([lost], WINE, 2, 1, 0.9)
    assert "every run of every optimizer diverged" in words
    assert report.table([lost], WINE, 2, 0.9)[1][0][-1] == "2 of 2"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.00123456, "0.00123"), (12345.6, "12346"), (np.inf, "-"), (np.nan, "-")]
)
def test_numbers_are_short(value, shown):
    assert report.number(value) == shown


def test_an_optimizer_that_is_alone_is_compared_with_nobody():
    heads, _ = report.table([figures("sgd", [0.8])], WINE, 1, 0.9)
    assert not [head for head in heads if head.startswith("ahead")]
