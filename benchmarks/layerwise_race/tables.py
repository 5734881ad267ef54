"""The race's Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.layerwise_race.results import REFERENCE, Entry, Race, text
from benchmarks.layerwise_race.training import Curve
from benchmarks.timing import table


def tuning(race: Race, methods: Sequence[str]) -> None:
    """What each setting gave on validation rows."""
    print(f"{race.task.title}: {race.task.objective.name} on validation rows, best setting first\n")
    rows = [
        [method, *(f"{text(setting)}: {run.averaged_score[-1]:.4g}" for setting, run in found)]
        for method in methods
        if (found := race.tuning(method))
    ]
    widest = max((len(row) for row in rows), default=1)
    table(
        ["method", *(str(place) for place in range(1, widest))],
        [row + ["-"] * (widest - len(row)) for row in rows],
    )


def finals(race: Race, entries: Sequence[Entry], seeds: int) -> None:
    """What a step costs and what a run reaches: medians over the seeds, least and greatest."""
    task, name = race.task, race.task.objective.name
    print(f"{task.title}: {task.steps} steps of {task.batch} rows, {seeds} seeds\n")
    reference = next((entry for entry in entries if entry.method == REFERENCE), None)
    heads = ["method", "setting", "CPU ms a step", f"over {REFERENCE}'s", "ms", "compile s"]
    if not task.goals:
        heads += ["after a third", "after two thirds"]
    heads += [name, "last iterate's"]
    if task.objective.score is not None:
        heads.append("loss")
    heads.append(f"{name} in {REFERENCE}'s CPU s (steps)")
    rows = []
    for entry in entries:
        runs = race.curves(entry, seeds)
        spent = race.step_seconds(entry, seeds)
        row = [entry.method, text(entry.setting), f"{1e3 * spent:.3g}", "-"]
        if reference is not None:
            row[-1] = f"{spent / race.step_seconds(reference, seeds):.2f}"
        clock = np.median(np.concatenate([run.seconds for run in runs])) / task.round_steps
        row += [f"{1e3 * clock:.3g}", f"{race.compile_seconds(entry, seeds):.1f}"]
        if not task.goals:
            for part in (1, 2):
                row.append(
                    spread([run.averaged_score[len(run.steps) * part // 3 - 1] for run in runs])
                )
        row.append(spread([run.averaged_score[-1] for run in runs]))
        row.append(spread([run.score[-1] for run in runs]))
        if task.objective.score is not None:
            row.append(spread([run.averaged_loss[-1] for run in runs]))
        row.append("-" if reference is None else at_equal_seconds(race, entry, reference, seeds))
        rows.append(row)
    table(heads, rows)


def goals(race: Race, entries: Sequence[Entry], seeds: int) -> None:
    """How far it is to each goal; nothing where the task has none."""
    task = race.task
    if not task.goals:
        return
    unit = "steps" if task.epoch is None else "epochs"
    print(f"{task.title}: {unit} and CPU seconds to a test {task.objective.name} of\n")
    rows = []
    for entry in entries:
        runs = race.curves(entry, seeds)
        row = [entry.method]
        for goal in task.goals:
            row += reached(runs, goal, task.epoch or 1)
        rows.append(row)
    table(["method", *(head for goal in task.goals for head in (f"{goal:g}", "CPU s"))], rows)


def spread(values: Sequence[float]) -> str:
    """Median [least, greatest]; "-" for NaN."""
    if not np.isfinite(values).all():
        return "-"
    return f"{np.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


def reached(runs: Sequence[Curve], goal: float, unit: int) -> list[str]:
    """Units of steps and CPU seconds to a goal, at the averaged iterate and (at the last one).

    "-" where most seeds miss it.
    """
    steps, seconds = [], []
    for scores in ("averaged_score", "score"):
        when = [_first(run, getattr(run, scores), goal) for run in runs]
        middle = statistics.median_high([one[0] for one in when])
        clock = statistics.median_high([one[1] for one in when])
        missed = sum(np.isinf(one[0]) for one in when)
        note = f", {missed} never" if missed and np.isfinite(middle) else ""
        steps.append(f"{middle / unit:g}{note}" if np.isfinite(middle) else "-")
        seconds.append(f"{clock:.3g}" if np.isfinite(middle) else "-")
    return [f"{steps[0]} ({steps[1]})", f"{seconds[0]} ({seconds[1]})"]


def _first(run: Curve, scores: Sequence[float], goal: float) -> tuple[float, float]:
    """Steps and CPU seconds until a score is there; infinite where it never is."""
    for place, score in enumerate(scores):
        if score >= goal:
            return run.steps[place], sum(run.cpu_seconds[: place + 1])
    return np.inf, np.inf


def at_equal_seconds(race: Race, entry: Entry, reference: Entry, seeds: int) -> str:
    """The final score of runs that take as many CPU seconds as the reference's; the steps."""
    steps = race.equal_steps(entry, reference, seeds)
    runs = race.curves(entry, seeds, steps)
    if not runs:
        return f"- ({steps})"
    return f"{spread([run.averaged_score[-1] for run in runs])} ({steps})"
