"""How a comparison runs: tune all, train all, time all, with everything finished kept on disk."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritia._compare import (
    checkpoints,
    folder,
    interactive,
    plots,
    records,
    report,
    results,
    summary,
    timing,
    training,
    tuning,
)
from tritia._compare.errors import UsageError, unknown
from tritia._compare.optimizers import Optimizer
from tritia._compare.request import MAY_GROW, Request
from tritia.sweeps._lanes import checked_mesh, first_device

log = logging.getLogger("tritia.compare")

Advance = Callable[[str, int], None]
"""Called with what is being done, and the epochs just done: 0 where something begins, else 1."""


@dataclasses.dataclass
class Comparison:
    """A comparison on its way: what is shared and what is finished so far.

    `begun` holds the curves of optimizers that seeds or epochs are missing of, `anew` those whose
    first epochs have to be trained again, as there is no checkpoint to go on from; `undrawn` says
    why a picture can't be drawn.
    """

    request: Request
    command: str
    config: Mapping[str, Any]
    target: float
    bench: training.Bench
    optimizers: Mapping[str, Optimizer]
    tunings: dict[str, tuning.Tuning]
    curves: dict[str, training.Curves]
    begun: dict[str, training.Curves]
    anew: tuple[str, ...]
    seconds: dict[str, list[float]]
    resumed: bool
    undrawn: dict[str, str] = dataclasses.field(default_factory=dict)

    def epochs_left(self) -> int:
        """Epochs still to run (tuning may add to them), and one for the timing."""
        asked = self.request
        timing = 0 if self.seconds else 1
        tunings = len(self.optimizers) - len(self.tunings) if asked.tune else 0
        runs = 0
        for name in self.optimizers:
            if name in self.begun:
                begun = self.begun[name]
                runs += asked.epochs - begun.epochs + asked.epochs * (begun.seeds < asked.seeds)
            elif name not in self.curves:
                runs += asked.epochs
        return tunings * self.config["tuning"]["epochs"] + runs + timing

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

    def only(self, names: Sequence[str]) -> Comparison:
        """The same with some of its finished optimizers, in the order of their names.

        Args:
          names: of optimizers.

        Returns:
          The `Comparison`, to be drawn.

        Raises:
          UsageError: one of them isn't finished here.
        """
        for name in names:
            if name not in self.curves:
                raise UsageError(
                    f"`optimizers`: {unknown('finished optimizer', name, self.curves)}"
                )
        return dataclasses.replace(
            self, optimizers={name: self.optimizers[name] for name in dict.fromkeys(names)}
        )

    def conclusions(self) -> list[str]:
        """What was found, in words."""
        request = self.request
        return report.conclusions(
            self.figures(), self.bench.dataset, request.seeds, request.epochs, self.target
        )


def prepare(request: Request, command: str, redraw: bool = False) -> Comparison:
    """Loads the data and reads what the folder already holds; it must be held by `folder.hold`.

    Args:
      request: what is asked for, from `resolve`.
      command: the command line that asks for it, for the report.
      redraw: whether nothing is to be trained: what is finished is only to be drawn, so that other
        versions and another device will do.

    Returns:
      The `Comparison`, to be given to `run`.

    Raises:
      UsageError: the request can't be carried out.
    """
    chosen = request.chosen()
    dataset = request.load()
    target = dataset.target if request.goal is None else request.goal
    tuned_on = {"seeds": min(tuning.TUNING_SEEDS, request.seeds), "epochs": request.epochs}
    config = {
        "arguments": request.arguments(),
        "tuning": tuned_on,
        "dataset": dataset.description(),
        **folder.environment(),
    }
    before = folder.results_before(request.out, config, results.OUTPUTS, MAY_GROW, not redraw)
    if before is not None:
        # Optimizers that come later are tuned with the budget of those that are there.
        config = {**(before if redraw else config), "tuning": _tuned_on(request.out, before)}
    bench = training.prepare(
        dataset, request.hidden, request.seeds, request.batch_size, checked_mesh(None)
    )
    results.check_kinds(request.out)
    tunings, curves, begun = {}, {}, {}
    for name, optimizer in chosen.items():
        tuned, trained = results.load_optimizer(
            request.out, name, optimizer, request.seeds, request.epochs
        )
        if tuned is not None:
            tunings[name] = tuned
        if trained is not None:
            whole = (trained.seeds, trained.epochs) == (request.seeds, request.epochs)
            (curves if whole else begun)[name] = trained
    anew = [name for name in begun if not _goes_on(request, name, begun[name])]
    for name in anew:
        del begun[name]
    # Times are measured in one go: those of fewer optimizers or seeds don't compare.
    whole = len(curves) == len(chosen)
    seconds = results.load_timing(request.out, list(chosen)) if whole else {}
    if not redraw and (before is None or folder.as_json(config) != before):
        folder.write_json(request.out / folder.CONFIG, config)
    return Comparison(
        request,
        command,
        config,
        target,
        bench,
        chosen,
        tunings,
        curves,
        begun,
        tuple(anew),
        seconds,
        before is not None,
    )


def _tuned_on(out: Path, before: Mapping[str, Any]) -> dict[str, int]:
    found = before.get("tuning")
    if (
        not isinstance(found, dict)
        or [type(found.get(k)) for k in ("seeds", "epochs")] != [int] * 2
    ):
        raise UsageError(
            f"{out / folder.CONFIG} is damaged (tuning is {found!r}); use another `out`, or delete"
            " the folder"
        )
    return found


def _goes_on(request: Request, name: str, begun: training.Curves) -> bool:
    """Whether more epochs can follow those that were trained."""
    path = checkpoints.path_of(request.out / results.FINISHED, name)
    return begun.epochs == request.epochs or checkpoints.is_there(path, begun.seeds, begun.epochs)


def run(
    comparison: Comparison,
    advance: Advance = lambda doing, done: None,
    listeners: Sequence[records.Listener] = (),
) -> None:
    """Does what is left to do; everything finished is on disk before the next thing starts.

    Args:
      comparison: from `prepare`; what is found is added to it.
      advance: called after each epoch, and where compiling or timing begins.
      listeners: called with a `records.Record` of each epoch and seed that is trained here.
    """
    request, bench = comparison.request, comparison.bench
    # Seconds are those of one device, whatever number of them trained.
    timed = dataclasses.replace(bench, mesh=first_device())
    compiled: dict[str, training.Compiled] = {}
    if not comparison.seconds:
        (request.out / results.TIMING).unlink(missing_ok=True)
    for name, optimizer in comparison.optimizers.items():
        if name not in comparison.tunings:
            found = _tune(comparison, name, optimizer, advance)
            # Kept before it counts as finished: the process may end at any moment.
            results.save_optimizer(request.out, name, optimizer, found, None)
            comparison.tunings[name] = found
            log.info("%s: setting %s", name, dict(comparison.tunings[name].setting))
    # Only now are test rows touched.
    for name in comparison.optimizers:
        if name not in comparison.curves:
            program = _train(comparison, name, advance, listeners)
            if program is not None and bench.mesh.size == 1:
                compiled[name] = program
            log.info("%s: trained", name)
            write_outputs(comparison)
    if not comparison.seconds:
        for name, optimizer in comparison.optimizers.items():
            if name not in compiled:
                setting = comparison.tunings[name].setting
                advance(f"compiling {name}", 0)
                compiled[name] = training.compile_training(timed, optimizer, setting)
        advance("timing", 0)
        comparison.seconds = timing.time_epochs(timed, comparison.optimizers, compiled)
        results.save_timing(request.out, comparison.seconds)
        advance("timing", 1)
        log.info("timed")
    write_outputs(comparison)


def _train(
    comparison: Comparison, name: str, advance: Advance, listeners: Sequence[records.Listener]
) -> training.Compiled | None:
    """Trains the epochs, then the seeds that one optimizer lacks; returns what was compiled of it.

    None where that isn't for all seeds.
    """
    seeds, epochs = comparison.request.seeds, comparison.request.epochs
    known, program = comparison.begun.get(name), None
    if known is None or known.epochs < epochs:
        stop = seeds if known is None else known.seeds
        program, known = _train_seeds(comparison, name, 0, stop, known, advance, listeners)
    if known.seeds < seeds:
        program = None
        _, known = _train_seeds(comparison, name, known.seeds, seeds, known, advance, listeners)
    comparison.curves[name] = known
    return program


def _train_seeds(
    comparison: Comparison,
    name: str,
    start: int,
    stop: int,
    known: training.Curves | None,
    advance: Advance,
    listeners: Sequence[records.Listener],
) -> tuple[training.Compiled, training.Curves]:
    """Trains some seeds, on from what is known of them, and keeps what came of it."""
    request, optimizer = comparison.request, comparison.optimizers[name]
    tuned, bench = comparison.tunings[name], comparison.bench.only(start, stop)
    path = checkpoints.path_of(request.out / results.FINISHED, name)
    advance(f"compiling {name}", 0)
    program = training.compile_training(bench, optimizer, tuned.setting)
    begin = None
    if known is not None and start == 0:
        begin = known.epochs, checkpoints.load(path, program.carry)
    curves, state = training.train(
        bench,
        optimizer,
        program,
        request.epochs,
        lambda: advance(f"training {name}", 1),
        lambda epoch, found: records.tell(
            listeners, name, tuned.setting, bench.first_seed, epoch, found
        ),
        begin,
    )
    whole: training.Carry | None = state
    if known is not None and start:
        curves = known.joined(curves, axis=0)
        there = checkpoints.is_there(path, known.seeds, known.epochs)
        whole = checkpoints.joined(checkpoints.load(path, state), state) if there else None
    elif known is not None:
        curves = known.joined(curves, axis=1)
    results.save_optimizer(request.out, name, optimizer, tuned, curves)
    if whole is not None:
        checkpoints.save(path, whole, curves.seeds, curves.epochs)
    return program, curves


def _tune(
    comparison: Comparison, name: str, optimizer: Optimizer, advance: Advance
) -> tuning.Tuning:
    request = comparison.request
    if request.tune:
        doing = f"tuning {name}"
        advance(f"{doing}, compiling", 0)
        budget = comparison.config["tuning"]
        return tuning.tune(
            comparison.bench,
            optimizer,
            budget["epochs"],
            lambda: advance(doing, 1),
            budget["seeds"],
        )
    setting = {key: values[0] for key, values in optimizer.coefficients.items()}
    if optimizer.learning_rate is not None:
        given = request.learning_rate
        setting = {
            "learning_rate": optimizer.learning_rate if given is None else given,
            **setting,
        }
    return tuning.Tuning(setting, [], [], [], "", False)


def write_outputs(comparison: Comparison, shown: Sequence[str] = ()) -> None:
    """Writes metrics.csv, report.md and the pictures for what is finished so far.

    report.html comes once all is measured. What can't be drawn is named in `undrawn`.

    Args:
      comparison: on its way, or finished.
      shown: names of optimizers, where only some are drawn; metrics.csv always holds all.
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
    comparison.undrawn.clear()
    if shown:
        comparison = comparison.only(shown)
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
