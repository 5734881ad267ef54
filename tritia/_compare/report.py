"""How the figures are shown: a table, a few sentences and report.md."""

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


def conclusions(
    figures: Sequence[Figures], dataset: Dataset, seeds: int, epochs: int, target: float
) -> list[str]:
    """What was found, in a few sentences that claim no more than the seeds show.

    Args:
      figures: of every optimizer that is finished.
      dataset: what they were trained on.
      seeds: how many.
      epochs: how many.
      target: the test metric for "epochs to target".

    Returns:
      Up to five: who ends with the best median; how the best of tritia's does against the best of
      the others, seed by seed, and which of tritia's lose to it, where there are both; who reaches
      the target first; and what an epoch costs, where that was measured.
    """
    where = f"On {dataset.name} ({count(seeds, 'seed')}, {count(epochs, 'epoch')})"
    ran = sorted(
        (found for found in figures if found.test_metric is not None),
        key=lambda found: (-median(found.test_metric), -float(np.nanmean(found.final_metrics))),
    )
    if not ran:
        return [
            f"{where}, every run of every optimizer diverged; a smaller learning rate is needed."
        ]
    top = fixed(median(ran[0].test_metric))
    first = [found.name for found in ran if fixed(median(found.test_metric)) == top]
    words = [f"{where}, the best median test {dataset.metric}, {top}, is that of {_listed(first)}."]
    ours = [found for found in ran if found.optimizer.ours]
    other = next((found for found in ran if not found.optimizer.ours), None)
    if ours and other is not None:
        words += _against(ours, other)
    words.append(_first_there(ran, f"test {dataset.metric} of {target:g}"))
    return words + _cost(figures)


def _against(ours: Sequence[Figures], other: Figures) -> list[str]:
    """Seed by seed: the best of tritia's, and those that lose."""
    ahead, level, behind = seed_counts(ours[0], other)
    few = ", too few to tell" if ahead + level + behind < 5 else ""
    best = (
        f"{ours[0].name}, the best of tritia's, is ahead of {other.name}, the best of the others,"
        f" on {ahead}, level on {level} and behind on {behind} of"
        f" {count(ahead + level + behind, 'seed')}{few}."
    )
    counts = {found.name: seed_counts(found, other) for found in ours}
    lost = [
        f"{name} ({'/'.join(map(str, seeds))})"
        for name, seeds in counts.items()
        if seeds[2] > seeds[0]
    ]
    if not lost:
        return [best, f"None of tritia's is behind {other.name} on more seeds than ahead."]
    return [
        best,
        f"Behind {other.name} on more seeds than ahead (ahead/level/behind): {', '.join(lost)}.",
    ]


def _first_there(ran: Sequence[Figures], what: str) -> str:
    there = [found for found in ran if math.isfinite(found.epochs_to_target)]
    if not there:
        return f"Nobody reaches a {what} on more than half of the seeds."
    fewest = min(found.epochs_to_target for found in there)
    first = [found.name for found in there if found.epochs_to_target == fewest]
    words = f"A {what} takes {_listed(first)} the fewest epochs, {fewest:.0f}"
    seconds = {
        found.name: found.epochs_to_target * found.seconds_per_epoch.median
        for found in there
        if found.seconds_per_epoch is not None
    }
    if not seconds:
        return f"{words}."
    soonest = min(seconds, key=lambda name: seconds[name])
    same = "" if first == [soonest] else f"{soonest} "
    return f"{words}, and {same}the fewest seconds, {number(seconds[soonest])} a seed."


def _cost(figures: Sequence[Figures]) -> list[str]:
    base = baseline(figures)
    times = {found.name: median(found.seconds_per_epoch) for found in figures}
    if not all(map(math.isfinite, times.values())):
        return []
    own = times.pop(base.name)
    words = f"An epoch of {base.name} takes {number(1e3 * own)} ms a seed"
    if not times:
        return [f"{words}."]
    names = sorted(times, key=lambda name: times[name])
    ratios = [
        f"{times[name] / own:.2g} times that for {name}"
        for name in dict.fromkeys((names[0], names[-1]))
    ]
    return [f"{words}; {' up to '.join(ratios)}."]


def _listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def markdown(
    figures: Sequence[Figures],
    bench: Bench,
    config: Mapping[str, Any],
    *,
    command: str,
    found: Sequence[str],
    target: float,
    rounds: int,
) -> str:
    """Writes report.md.

    Args:
      figures: of every optimizer that is finished.
      bench: what they were trained on.
      config: as in config.json.
      command: what made it.
      found: from `conclusions`.
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
        f"Made by `{command}`. report.html beside this file has the figures to point at.",
        "",
        *(f"- {bullet}" for bullet in found),
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
        f" initialisation; {batches(bench)}.",
        "- A seed decides the initial weights and the order of the rows"
        + ("" if dataset.one_split else ", and which rows train")
        + "; it is the same for every optimizer.",
        f"- Learning rates: {_tuning_words(arguments, config['tuning'])}",
        f"- Diverged: a loss that is not finite, or a training loss above"
        f" {dataset.diverged_loss:.3g}.",
        f"- Times: one compiled epoch of all seeds on one device, {count(rounds, 'round')} of each"
        " optimizer in turn, without compiling, shuffling and evaluating.",
        f"- {versions}; {config['device']}{_spread(config)}; {config['processors']} processors;"
        f" {config['platform']}. SHA-256 of the data: {config['dataset']['sha256']}.",
        "",
    ]
    return "\n".join(lines)


def _spread(config: Mapping[str, Any]) -> str:
    devices = config.get("devices", 1)
    return "" if devices == 1 else f", {devices} of them, over which the seeds were spread"


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


def batches(bench: Bench) -> str:
    """What a step sees."""
    rows = bench.training_rows
    if bench.batch_size == rows:
        return f"full batches of {rows} rows"
    return f"minibatches of {bench.batch_size} of {rows} rows"


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
