"""How the figures are shown: a table and report.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tritia._compare.datasets import Dataset
from tritia._compare.summary import Figures, Spread
from tritia._compare.tuning import EXTENSIONS, TUNING_SEEDS
from tritia._compare.wording import count, fixed, median, names, number


def setting(figures: Figures) -> str:
    """The learning rate and coefficients, with * where the best is the last one tried."""
    mark = "*" if figures.tuning is not None and figures.tuning.at_edge else ""
    words = [
        f"{number(value)}{mark}" if name == "learning_rate" else f"{name}={number(value)}"
        for name, value in figures.setting.items()
    ]
    return ", ".join(words) or "none"


def _range(found: Spread | None, show: Any) -> str:
    if found is None:
        return "-"
    return f"{show(found.median)} [{show(found.least)}, {show(found.greatest)}]"


def _to_target(figures: Figures, seeds: int) -> str:
    epochs = f"{figures.epochs_to_target:.0f}" if math.isfinite(figures.epochs_to_target) else "-"
    return epochs if figures.reached == seeds else f"{epochs} ({figures.reached} of {seeds})"


def table(
    figures: Sequence[Figures], dataset: Dataset, seeds: int, target: float
) -> tuple[list[str], list[list[str]]]:
    """The final table: its heads and its rows."""
    columns = {
        "optimizer": [found.name for found in figures],
        "learning rate": [setting(found) for found in figures],
        "training loss": [number(median(found.training_loss)) for found in figures],
        f"test {dataset.metric}": [_range(found.test_metric, fixed) for found in figures],
        f"epochs to {target:g}": [_to_target(found, seeds) for found in figures],
        "gradients a step": [str(found.optimizer.gradients_per_step) for found in figures],
        "ms an epoch": [
            "-" if found.seconds_per_epoch is None else number(1e3 * found.seconds_per_epoch.median)
            for found in figures
        ],
        "compile s": [f"{found.compile_seconds:.1f}" for found in figures],
        "diverged": [f"{found.diverged} of {seeds}" for found in figures],
    }
    if all(found.optimizer.gradients_per_step == 1 for found in figures):
        del columns["gradients a step"]
    if not any(found.diverged for found in figures):
        del columns["diverged"]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


LEGEND = (
    "Medians [least, greatest] over seeds, at the last epoch; ms an epoch: all seeds together,"
    " divided by their number; * the best learning rate is the last one tried."
)


def markdown(
    figures: Sequence[Figures],
    dataset: Dataset,
    config: Mapping[str, Any],
    command: str,
    paragraph: str,
    rounds: int,
    rows: Mapping[str, int],
    batch_size: int,
) -> str:
    """Writes report.md.

    Args:
      figures: of every optimizer that is finished.
      dataset: what they were trained on.
      config: as in config.json.
      command: what made it.
      paragraph: from `conclusion`.
      rounds: how often each epoch was timed.
      rows: how many rows train, validate and test.
      batch_size: rows in a minibatch.

    Returns:
      The text.
    """
    arguments = config["arguments"]
    seeds, target = arguments["--seeds"], arguments["--target"]
    heads, body = table(figures, dataset, seeds, target)
    metric = dataset.metric
    details = _grid(
        [
            "optimizer",
            "in code",
            "training loss [least, greatest]",
            "quartiles",
            "training loss at its best epoch",
            f"test {metric}, quartiles",
            f"test {metric} at its best epoch",
            "ms an epoch, quartiles",
        ],
        [
            [
                found.name,
                f"`{found.optimizer.call}`",
                _range(found.training_loss, number),
                _quartiles(found.training_loss, number),
                "-" if found.least_training_loss is None else number(found.least_training_loss[0]),
                _quartiles(found.test_metric, fixed),
                "-" if found.greatest_test_metric is None else fixed(found.greatest_test_metric[0]),
                _quartiles(found.seconds_per_epoch, lambda seconds: number(1e3 * seconds)),
            ]
            for found in figures
        ],
    )
    units = "; targets are standardised, so the loss is in units of their variance"
    lines = [
        f"# {dataset.name}: {count(len(figures), 'optimizer')} side by side",
        "",
        f"Made by `{command}`.",
        "",
        paragraph,
        "",
        "![Learning curves](learning_curves.png)",
        "",
        _grid(heads, body),
        "",
        LEGEND,
        "",
        "## More of the figures",
        "",
        details,
        "",
        "Quartiles over seeds; for times, over rounds. The best epoch for a test figure is chosen"
        " on test rows, so that figure is optimistic.",
        "",
        "## How it was measured",
        "",
        f"- Data: {dataset.name} ({dataset.source}), {rows['training']} rows to train, "
        f"{rows['validation']} to validate, {rows['test']} to test. The test rows are the same for"
        " every seed"
        + (
            ", and so are the others."
            if dataset.one_split
            else "; training and validation rows are drawn by seed."
        ),
        f"- Features: {_SCALING[dataset.scaling]}"
        + (units if dataset.task == "regression" else "")
        + ".",
        f"- Network: a Flax NNX multilayer perceptron with {_layers(arguments['--hidden'])},"
        " He initialisation;"
        f" {'cross-entropy' if dataset.task == 'classification' else 'mean squared error'};"
        f" minibatches of {batch_size} rows; rows that don't fill one wait for the next epoch.",
        "- Seeds: a seed decides the initial weights"
        + (" and" if dataset.one_split else ", which rows train and")
        + " their order; it is the same for every optimizer, so they can be compared seed by seed.",
        "- " + _tuning_words(arguments),
        "- Losses and metrics are evaluated on all rows of their part after each epoch.",
        f"- Diverged: a loss that is not finite, or a training loss above"
        f" {dataset.diverged_loss:.3g}, a hundred times that of saying the same of every row. Such"
        " seeds are counted, and left out of every median.",
        "- Times: one compiled epoch of all seeds as one vmapped computation, divided by the"
        f" number of seeds; {rounds} rounds of one epoch of each optimizer in turn; gathering the"
        " minibatches is part of it, shuffling, evaluating and compiling are not.",
        "",
    ]
    if any(found.tuning is not None for found in figures):
        lines += [
            "## Tuning",
            "",
            f"Validation {metric} of every setting tried, averaged over the second half of the"
            " epochs:",
            "",
        ]
        for found in figures:
            if found.tuning is not None:
                lines += [f"- {found.name}: {_tried(found)}"]
        lines += [""]
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    lines += [
        "## Where",
        "",
        f"{versions}; {config['device']}; {config['processors']} processors; {config['platform']}.",
        f"Data checksum (SHA-256) {config['dataset']['sha256']}.",
        "",
    ]
    return "\n".join(lines)


_SCALING = {
    "columns": "each column standardised with the mean and deviation of the training rows",
    "pixels": "all pixels standardised with one mean and one deviation, of the training rows",
    "none": "as they come, not standardised",
}


def _layers(hidden: Sequence[int]) -> str:
    if not hidden:
        return "no hidden layer"
    widths = names([str(width) for width in hidden])
    return f"hidden {'layer' if len(hidden) == 1 else 'layers'} of {widths}, ReLU"


def _tuning_words(arguments: Mapping[str, Any]) -> str:
    if arguments["--no-tune"]:
        given = arguments["--learning-rate"]
        if given is None:
            return "Learning rates: not tuned; each optimizer's usual one."
        return f"Learning rates: not tuned; as given, {given}."
    return (
        f"Learning rates: tuned for each optimizer on the validation rows of"
        f" {count(min(TUNING_SEEDS, arguments['--seeds']), 'seed')}, for as many epochs, before"
        " any test row is seen: seven of them, half a decade apart, and up to"
        f" {EXTENSIONS} times seven more beyond an edge that is best."
    )


def _quartiles(found: Spread | None, show: Any) -> str:
    return "-" if found is None else f"{show(found.lower)} to {show(found.upper)}"


def _tried(found: Figures) -> str:
    assert found.tuning is not None
    return ", ".join(
        ", ".join(f"{name} {number(value)}" for name, value in tried.items()).replace(
            "learning_rate ", ""
        )
        + (f": {fixed(score)}" if math.isfinite(score) else ": diverged")
        for tried, score in sorted(
            zip(found.tuning.tried, found.tuning.scores, strict=True),
            key=lambda pair: pair[0].get("learning_rate", 0.0),
        )
    )


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
