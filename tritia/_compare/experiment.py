"""How a comparison runs: tune all, train all, time all, with everything finished kept on disk."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tritia._compare import (
    folder,
    interactive,
    optimizers,
    plots,
    report,
    results,
    summary,
    timing,
    training,
    tuning,
)
from tritia._compare.datasets import DATASETS
from tritia._compare.optimizers import Optimizer

log = logging.getLogger("tritia.compare")

Advance = Callable[[str, int], None]
"""Called with what is being done, and the epochs just done: 0 where something begins, else 1."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
      dataset: a name in `datasets.DATASETS`.
      optimizers: names in `optimizers.OPTIMIZERS`.
      seeds: how many.
      epochs: how many.
      hidden: widths of the hidden layers.
      batch_size: rows in a minibatch; None for the data set's own, 0 for all training rows.
      data_dir: where mnist and cora are.
      tune: whether to tune the learning rate.
      learning_rate: without tuning, the learning rate of every optimizer; None for their usual one.
      x_axis: of the picture.
      target: the test metric for "epochs to target"; None for the data set's own.
      out: where the results go.
    """

    dataset: str = "digits"
    optimizers: tuple[str, ...] = (
        "sgd",
        "momentum",
        "adam",
        "adams_bashforth2",
        "bdf2",
        "difference3",
        "difference4",
        "tiam",
        "spectral_momentum",
    )
    seeds: int = 5
    epochs: int = 20
    hidden: tuple[int, ...] = (100, 100)
    batch_size: int | None = None
    data_dir: Path | None = None
    tune: bool = True
    learning_rate: float | None = None
    x_axis: Literal["epochs", "gradients"] = "epochs"
    target: float | None = None
    out: Path = Path("tritia-compare")


@dataclasses.dataclass
class Comparison:
    """A comparison on its way: what is shared, what is finished so far, what can't be drawn."""

    request: Request
    command: str
    config: Mapping[str, Any]
    target: float
    bench: training.Bench
    optimizers: Mapping[str, Optimizer]
    tunings: dict[str, tuning.Tuning]
    curves: dict[str, training.Curves]
    seconds: dict[str, list[float]]
    resumed: bool
    undrawn: dict[str, str] = dataclasses.field(default_factory=dict)

    def epochs_left(self) -> int:
        """Epochs still to run (tuning may add to them), and one for the timing."""
        timing = 0 if self.seconds else 1
        tunings = len(self.optimizers) - len(self.tunings) if self.request.tune else 0
        runs = len(self.optimizers) - len(self.curves)
        return (tunings + runs) * self.request.epochs + timing

    def figures(self) -> list[summary.Figures]:
        """The figures of every optimizer that is finished, in the order asked for."""
        return [
            summary.summarise(
                name,
                optimizer,
                self.tunings[name],
                self.curves[name],
                self.target,
                self.bench.dataset.diverged_loss,
                self.seconds.get(name),
            )
            for name, optimizer in self.optimizers.items()
            if name in self.curves
        ]

    def conclusions(self) -> list[str]:
        """What was found, in words."""
        request = self.request
        return report.conclusions(
            self.figures(), self.bench.dataset, request.seeds, request.epochs, self.target
        )


def prepare(request: Request, command: str) -> Comparison:
    """Loads the data and reads what the folder already holds; it must be held by `folder.hold`.

    Args:
      request: what is asked for.
      command: the command line that asks for it, for the report.

    Returns:
      The `Comparison`, to be given to `run`.

    Raises:
      UsageError: the request can't be carried out.
    """
    chosen = optimizers.look_up(request.optimizers)
    dataset = DATASETS[request.dataset](request.data_dir)
    target = dataset.target if request.target is None else request.target
    arguments = {**dataclasses.asdict(request), "target": target}
    del arguments["out"]
    config = {
        "arguments": arguments,
        "dataset": dataset.description(),
        **folder.environment(),
    }
    bench = training.prepare(dataset, request.hidden, request.seeds, request.batch_size)
    resumed = folder.holds_results(request.out, config, results.OUTPUTS)
    if not resumed:
        folder.write_json(request.out / folder.CONFIG, config)
    results.check_kinds(request.out)
    tunings, curves = {}, {}
    for name, optimizer in chosen.items():
        tuned, trained = results.load_optimizer(
            request.out, name, optimizer, request.seeds, request.epochs
        )
        if tuned is not None:
            tunings[name] = tuned
        if trained is not None:
            curves[name] = trained
    seconds = results.load_timing(request.out, list(chosen))
    return Comparison(
        request, command, config, target, bench, chosen, tunings, curves, seconds, resumed
    )


def run(comparison: Comparison, advance: Advance = lambda doing, done: None) -> None:
    """Does what is left to do; everything finished is on disk before the next thing starts.

    Args:
      comparison: from `prepare`; what is found is added to it.
      advance: called after each epoch, and where compiling or timing begins.
    """
    request, bench = comparison.request, comparison.bench
    compiled: dict[str, training.Compiled] = {}
    for name, optimizer in comparison.optimizers.items():
        if name not in comparison.tunings:
            found = _tune(comparison, name, optimizer, advance)
            # Kept before it counts as finished: the process may end at any moment.
            results.save_optimizer(request.out, name, found, None)
            comparison.tunings[name] = found
            log.info("%s: setting %s", name, dict(comparison.tunings[name].setting))
    # Only now are test rows touched.
    for name, optimizer in comparison.optimizers.items():
        if name not in comparison.curves:
            setting = comparison.tunings[name].setting
            advance(f"compiling {name}", 0)
            compiled[name] = training.compile_training(bench, optimizer, setting)
            doing = f"training {name}"
            curves = training.train(
                bench, optimizer, compiled[name], request.epochs, lambda d=doing: advance(d, 1)
            )
            results.save_optimizer(request.out, name, comparison.tunings[name], curves)
            comparison.curves[name] = curves
            log.info("%s: trained", name)
            write_outputs(comparison)
    if not comparison.seconds:
        for name, optimizer in comparison.optimizers.items():
            if name not in compiled:
                setting = comparison.tunings[name].setting
                advance(f"compiling {name}", 0)
                compiled[name] = training.compile_training(bench, optimizer, setting)
        advance("timing", 0)
        comparison.seconds = timing.time_epochs(bench, comparison.optimizers, compiled)
        results.save_timing(request.out, comparison.seconds)
        advance("timing", 1)
        log.info("timed")
    write_outputs(comparison)


def _tune(
    comparison: Comparison, name: str, optimizer: Optimizer, advance: Advance
) -> tuning.Tuning:
    request = comparison.request
    if request.tune:
        doing = f"tuning {name}"
        advance(f"{doing}, compiling", 0)
        return tuning.tune(comparison.bench, optimizer, request.epochs, lambda: advance(doing, 1))
    setting = {key: values[0] for key, values in optimizer.coefficients.items()}
    if optimizer.learning_rate is not None:
        given = request.learning_rate
        setting = {
            "learning_rate": optimizer.learning_rate if given is None else given,
            **setting,
        }
    return tuning.Tuning(setting, [], [], [], "", False)


def write_outputs(comparison: Comparison) -> None:
    """Writes metrics.csv, report.md and the pictures for what is finished so far.

    report.html comes once all is measured. What can't be drawn is named in `undrawn`.
    """
    request, bench = comparison.request, comparison.bench
    rows = [
        row
        for name, optimizer in comparison.optimizers.items()
        if name in comparison.curves
        for row in summary.metric_rows(
            name,
            optimizer,
            comparison.curves[name],
            bench.dataset.diverged_loss,
            bench.steps_per_epoch(optimizer),
        )
    ]
    folder.write(request.out / results.METRICS, results.metrics_csv(rows))
    text = report.markdown(
        comparison.figures(),
        bench,
        comparison.config,
        command=comparison.command,
        found=comparison.conclusions(),
        target=comparison.target,
        rounds=max((len(times) for times in comparison.seconds.values()), default=0),
    )
    folder.write(request.out / results.REPORT, text)
    comparison.undrawn.clear()
    _write_drawn(comparison, results.PICTURE, _picture)
    if comparison.seconds:
        _write_drawn(comparison, results.PAGE, _page)


def _write_drawn(
    comparison: Comparison, name: str, draw: Callable[[Comparison], str | bytes]
) -> None:
    """Writes what a library draws; where it fails, the numbers are there all the same."""
    try:
        content = draw(comparison)
    except Exception as error:
        log.exception("%s could not be drawn", name)
        comparison.undrawn[name] = f"{type(error).__name__}: {error}"
    else:
        folder.write(comparison.request.out / name, content)


def _finished_curves(comparison: Comparison) -> dict[str, training.Curves]:
    names = (name for name in comparison.optimizers if name in comparison.curves)
    return {name: comparison.curves[name] for name in names}


def _picture(comparison: Comparison) -> bytes:
    request, dataset = comparison.request, comparison.bench.dataset
    return plots.draw(
        _finished_curves(comparison),
        comparison.optimizers,
        f"{dataset.name}, {report.count(request.seeds, 'seed')}",
        dataset.metric,
        comparison.target,
        dataset.diverged_loss,
        request.x_axis,
        comparison.seconds,
    )


def _page(comparison: Comparison) -> str:
    request, dataset = comparison.request, comparison.bench.dataset
    figures = comparison.figures()
    heads, rows = report.table(figures, dataset, request.seeds, comparison.target)
    return interactive.page(
        interactive.Contents(
            title=f"{dataset.name}: {report.count(len(figures), 'optimizer')} side by side",
            command=comparison.command,
            bullets=comparison.conclusions(),
            heads=heads,
            rows=rows,
            legend=report.LEGEND,
            figures=figures,
            curves=_finished_curves(comparison),
            seconds=comparison.seconds,
            metric=dataset.metric,
            target=comparison.target,
            diverged_loss=dataset.diverged_loss,
            x_axis=request.x_axis,
            config=comparison.config,
        )
    )
