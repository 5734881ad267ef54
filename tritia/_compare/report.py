"""How the figures are shown: a table, two sentences and report.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tritia._compare.datasets import Dataset, Scaling
from tritia._compare.summary import Figures, Spread
from tritia._compare.training import Bench
from tritia._compare.tuning import EXTENSIONS

LEGEND = (
    "Medians [least, greatest] over seeds, at the last epoch, without the seeds that diverged;"
    " ahead/level/behind: on how many seeds the test figure is better, equal or worse than the"
    " named optimizer's; ms an epoch: all seeds together, divided by their number; * the best"
    " learning rate is the last one tried."
)


def baseline(figures: Sequence[Figures]) -> Figures:
    """The optimizer that the others are held against, seed by seed: sgd, or else the first."""
    return next((found for found in figures if found.name == "sgd"), figures[0])


def seed_counts(one: Figures, other: Figures) -> tuple[int, int, int]:
    """On how many seeds `one` is ahead, level and behind; seeds that diverge in either don't count.

    The same seed starts both from the same weights and shows them the same rows.
    """
    difference = one.final_metrics - other.final_metrics
    difference = difference[np.isfinite(difference)]
    level = np.abs(difference) < 5e-7
    return (
        int((~level & (difference > 0)).sum()),
        int(level.sum()),
        int((~level & (difference < 0)).sum()),
    )


def table(
    figures: Sequence[Figures], dataset: Dataset, seeds: int, target: float
) -> tuple[list[str], list[list[str]]]:
    """The final table: its heads and its rows.

    Args:
      figures: of every optimizer that is finished.
      dataset: what they were trained on.
      seeds: how many.
      target: the test metric for "epochs to target".

    Returns:
      The heads of the columns, and the cells of each row.
    """
    base = baseline(figures)
    columns = {
        "optimizer": [found.name for found in figures],
        "learning rate": [setting(found) for found in figures],
        "training loss": [number(median(found.training_loss)) for found in figures],
        f"test {dataset.metric}": [_range(found.test_metric, fixed) for found in figures],
        f"ahead/level/behind {base.name}": [
            "" if found is base else "/".join(map(str, seed_counts(found, base)))
            for found in figures
        ],
        f"epochs to {target:g}": [_to_target(found, seeds) for found in figures],
        "gradients a step": [str(found.optimizer.gradients_per_step) for found in figures],
        "ms an epoch": [number(1e3 * median(found.seconds_per_epoch)) for found in figures],
        "compile s": [f"{found.compile_seconds:.1f}" for found in figures],
        "diverged": [f"{found.diverged} of {seeds}" for found in figures],
    }
    if len(figures) == 1:
        del columns[f"ahead/level/behind {base.name}"]
    if all(found.optimizer.gradients_per_step == 1 for found in figures):
        del columns["gradients a step"]
    if not any(found.diverged for found in figures):
        del columns["diverged"]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def sentences(figures: Sequence[Figures], dataset: Dataset, seeds: int, epochs: int) -> str:
    """What was found, in two sentences that claim no more than the seeds show.

    Args:
      figures: of every optimizer that is finished.
      dataset: what they were trained on.
      seeds: how many.
      epochs: how many.

    Returns:
      One line: who ends with the best median; and how the best of tritia's does against the best of
      the others, seed by seed, where there are both.
    """
    where = f"On {dataset.name} ({count(seeds, 'seed')}, {count(epochs, 'epoch')})"
    ran = sorted(
        (found for found in figures if found.test_metric is not None),
        key=lambda found: -median(found.test_metric),
    )
    if not ran:
        return f"{where}, every run of every optimizer diverged; a smaller learning rate is needed."
    top = fixed(median(ran[0].test_metric))
    first = [found.name for found in ran if fixed(median(found.test_metric)) == top]
    words = (
        f"{where}, the best median test {dataset.metric}, {top}, is that of {' and '.join(first)}."
    )
    ours = next((found for found in ran if found.optimizer.ours), None)
    other = next((found for found in ran if not found.optimizer.ours), None)
    if ours is None or other is None:
        return words
    ahead, level, behind = seed_counts(ours, other)
    few = ", too few to tell" if ahead + level + behind < 5 else ""
    return (
        f"{words} {ours.name}, the best of tritia's, is ahead of {other.name}, the best of the"
        f" others, on {ahead}, level on {level} and behind on {behind} of"
        f" {count(ahead + level + behind, 'seed')}{few}."
    )


def markdown(
    figures: Sequence[Figures],
    bench: Bench,
    config: Mapping[str, Any],
    *,
    command: str,
    found: str,
    target: float,
    rounds: int,
) -> str:
    """Writes report.md.

    Args:
      figures: of every optimizer that is finished.
      bench: what they were trained on.
      config: as in config.json.
      command: what made it.
      found: from `sentences`.
      target: the test metric for "epochs to target".
      rounds: how often each epoch was timed.

    Returns:
      The text.
    """
    dataset, arguments = bench.dataset, config["arguments"]
    parts = (bench.splits.training, bench.splits.validation, bench.splits.test)
    training, validation, test = (rows.shape[1] for rows in parts)
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    lines = [
        f"# {dataset.name}: {count(len(figures), 'optimizer')} side by side",
        "",
        f"Made by `{command}`.",
        "",
        found,
        "",
        "![Learning curves](learning_curves.png)",
        "",
        _grid(*table(figures, dataset, bench.seeds, target)),
        "",
        LEGEND,
        "",
        *(f"- {found.name}: `{found.optimizer.call}`" for found in figures),
        "",
        "## How it was measured",
        "",
        f"- Data: {dataset.source}; {training} rows to train, {validation} to validate and"
        f" {test} to test; the test rows are the same for every seed. Features are"
        f" {_SCALING[dataset.scaling]}"
        + ("; so are targets." if dataset.task == "regression" else "."),
        f"- Network: hidden layers {', '.join(map(str, arguments['hidden'])) or 'none'}, ReLU, He"
        f" initialisation; minibatches of {bench.batch_size} rows.",
        "- A seed decides the initial weights and the order of the rows"
        + ("" if dataset.one_split else ", and which rows train")
        + "; it is the same for every optimizer.",
        f"- Learning rates: {_tuning_words(arguments, config['tuning'])}",
        f"- Diverged: a loss that is not finite, or a training loss above"
        f" {dataset.diverged_loss:.3g}.",
        f"- Times: one compiled epoch of all seeds, {count(rounds, 'round')} of each optimizer in"
        " turn, without compiling, shuffling and evaluating.",
        f"- {versions}; {config['device']}; {config['processors']} processors;"
        f" {config['platform']}. SHA-256 of the data: {config['dataset']['sha256']}.",
        "",
    ]
    return "\n".join(lines)


_SCALING: dict[Scaling, str] = {
    "columns": "standardised, each column by the mean and deviation of the training rows",
    "pixels": "standardised, all pixels by one mean and one deviation of the training rows",
    "none": "left as they come",
}


def _tuning_words(arguments: Mapping[str, Any], budget: Mapping[str, int]) -> str:
    if not arguments["tune"]:
        given = arguments["learning_rate"]
        return "each optimizer's usual one." if given is None else f"{given}, as given."
    return (
        f"the best of seven, half a decade apart, on the validation rows of"
        f" {count(budget['seeds'], 'seed')}, for {count(budget['epochs'], 'epoch')}; up to"
        f" {EXTENSIONS} times seven more where the best is the last one tried. What was tried is in"
        " finished/."
    )


def setting(figures: Figures) -> str:
    """The learning rate and coefficients, with * where the best is the last one tried."""
    mark = "*" if figures.tuning is not None and figures.tuning.at_edge else ""
    words = [
        f"{number(value)}{mark}" if name == "learning_rate" else f"{name}={number(value)}"
        for name, value in figures.setting.items()
    ]
    return ", ".join(words) or "none"


def number(value: float) -> str:
    """Three significant digits, and thousands written out."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def fixed(value: float) -> str:
    """Three decimals, for accuracies and R^2."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def count(number: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def median(found: Spread | None) -> float:
    """The median, NaN of nothing."""
    return math.nan if found is None else found.median


def _range(found: Spread | None, show: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    return f"{show(found.median)} [{show(found.least)}, {show(found.greatest)}]"


def _to_target(figures: Figures, seeds: int) -> str:
    epochs = f"{figures.epochs_to_target:.0f}" if math.isfinite(figures.epochs_to_target) else "-"
    return epochs if figures.reached == seeds else f"{epochs} ({figures.reached} of {seeds})"


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
