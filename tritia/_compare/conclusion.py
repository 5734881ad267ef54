"""What was found, in one paragraph of plain words, without claiming more than the seeds show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tritia._compare.datasets import Dataset
from tritia._compare.summary import Figures
from tritia._compare.wording import count, fixed, median, names, number


def conclude(
    figures: Sequence[Figures], dataset: Dataset, seeds: int, epochs: int, target: float
) -> str:
    """What was found, in one paragraph of plain words.

    Args:
      figures: of every optimizer that is finished.
      dataset: what they were trained on.
      seeds: how many.
      epochs: how many.
      target: the test metric for "epochs to target".

    Returns:
      The paragraph, one line.
    """
    ran = [found for found in figures if found.test_metric is not None]
    lost = [found for found in figures if found.test_metric is None]
    words: list[str] = []
    where = f"On {dataset.name} ({count(seeds, 'seed')}, {count(epochs, 'epoch')})"
    if not ran:
        return f"{where}, every run of every optimizer diverged; a smaller learning rate is needed."

    ranked = sorted(ran, key=lambda found: -median(found.test_metric))
    words.append(_ranking(where, ranked, dataset.metric))
    ours = [found for found in ranked if found.optimizer.ours]
    theirs = [found for found in ranked if not found.optimizer.ours]
    if ours and theirs:
        words.append(_head_to_head(ours[0], theirs[0], dataset.metric, ours))
        base = next((found for found in theirs if found.name == "sgd"), None)
        if base is not None and base is not theirs[0]:
            words.append(_against_sgd(ours, base, dataset.metric))
    words.append(_training(ran))
    words.append(_quickest(ran, dataset.metric, target))
    words.append(_reproducibility(ran, dataset.metric, seeds))
    words.append(_cost(ran))
    words += _caveats(figures, lost, seeds)
    return " ".join(word for word in words if word)


def _ranking(where: str, ranked: Sequence[Figures], metric: str) -> str:
    best = ranked[0]
    top = median(best.test_metric)
    first = [found.name for found in ranked if fixed(median(found.test_metric)) == fixed(top)]
    lead = f"{where}, {names(first)} {'ends' if len(first) == 1 else 'end'}"
    sentence = f"{lead} with the best median test {metric}, {fixed(top)}"
    rest = [found for found in ranked if found.name not in first]
    if not rest:
        return f"{sentence}."
    others = ", ".join(f"{found.name} {fixed(median(found.test_metric))}" for found in rest)
    return f"{sentence}; then {others}."


def _seed_by_seed(one: Figures, other: Figures) -> tuple[int, int, int]:
    """On how many seeds `one` is ahead, level and behind; the same seeds started alike."""
    difference = one.final_metrics - other.final_metrics
    difference = difference[np.isfinite(difference)]
    level = np.abs(difference) < 5e-7
    return (
        int((~level & (difference > 0)).sum()),
        int(level.sum()),
        int((~level & (difference < 0)).sum()),
    )


def _verdict(one: Figures, other: Figures) -> str:
    """How `one` fares against `other` over the seeds, without claiming more than they show."""
    ahead, level, behind = _seed_by_seed(one, other)
    seeds = ahead + level + behind
    if seeds == 0:
        return "no seed survives in both, so nothing can be said"
    if ahead == seeds or behind == seeds:
        side = "ahead" if ahead else "behind"
        if seeds >= 5:
            return f"{side} on all {seeds} seeds"
        return (
            f"{side} on {'the one seed' if seeds == 1 else f'all {seeds} seeds'}, too few to tell"
        )
    if level == seeds:
        return f"level on all {seeds} seeds"
    if ahead and behind:
        counts = f"ahead on {ahead}, level on {level} and behind on {behind} of {seeds} seeds"
        return f"{counts}, so no difference is shown"
    side, times = ("ahead", ahead) if ahead else ("behind", behind)
    return f"{side} on {times} and level on {level} of {seeds} seeds: {side}, but not surely"


def _head_to_head(one: Figures, other: Figures, metric: str, ours: Sequence[Figures]) -> str:
    gap = median(one.test_metric) - median(other.test_metric)
    lead = "tritia's method" if len(ours) == 1 else "The best of tritia's methods"
    if abs(gap) < 5e-4:
        compared = f"as good as {other.name}"
    else:
        compared = f"{fixed(abs(gap))} {'better' if gap > 0 else 'worse'} than {other.name}"
    verdict = _verdict(one, other)
    sentence = (
        f"{lead}, {one.name}, is {compared} in the median, the best of the others:"
        f" seed by seed it is {verdict}."
    )
    return sentence.replace("it is no seed", "no seed")


def _against_sgd(ours: Sequence[Figures], base: Figures, metric: str) -> str:
    parts = []
    for found in ours:
        gap = median(found.test_metric) - median(base.test_metric)
        ahead, level, behind = _seed_by_seed(found, base)
        parts.append(
            f"{found.name} {gap:+.3f} (seeds ahead {ahead}, level {level}, behind {behind})"
        )
    return f"Against plain sgd, the median test {metric} changes by: {'; '.join(parts)}."


def _training(ran: Sequence[Figures]) -> str:
    ranked = sorted(ran, key=lambda found: median(found.training_loss))
    best = ranked[0]
    sentence = f"The lowest training loss is {best.name}'s, {number(median(best.training_loss))}"
    ours = next((found for found in ranked if found.optimizer.ours), None)
    if ours is None or ours is best:
        other = next((found for found in ranked if not found.optimizer.ours), None)
        if ours is None or other is None:
            return f"{sentence}."
        theirs = f"{other.name}, {number(median(other.training_loss))}"
        return f"{sentence} (best of the others: {theirs})."
    factor = median(ours.training_loss) / median(best.training_loss)
    return (
        f"{sentence}; tritia's lowest, {ours.name}'s, is {number(median(ours.training_loss))},"
        f" {number(factor)} times as high."
    )


def _quickest(ran: Sequence[Figures], metric: str, target: float) -> str:
    arrived = sorted(
        (found for found in ran if math.isfinite(found.epochs_to_target)),
        key=lambda found: found.epochs_to_target,
    )
    if not arrived:
        return f"None reaches a test {metric} of {target:g} on most seeds."
    fewest = arrived[0].epochs_to_target
    first = [found.name for found in arrived if found.epochs_to_target == fewest]
    sentence = (
        f"A test {metric} of {target:g} is first reached by {names(first)}, after"
        f" {count(int(fewest), 'epoch')}"
    )
    most = arrived[-1].epochs_to_target
    if most > fewest:
        last = [found.name for found in arrived if found.epochs_to_target == most]
        sentence += f"; last by {names(last)}, after {most:.0f}"
    never = [found.name for found in ran if not math.isfinite(found.epochs_to_target)]
    if never:
        sentence += f"; not by {names(never)} on most seeds"
    costly = [found for found in arrived if found.optimizer.gradients_per_step > 1]
    if costly:
        sentence += "; an epoch takes more gradients with " + names(
            [f"{found.name} ({found.optimizer.gradients_per_step} a step)" for found in costly]
        )
    return f"{sentence}."


def _reproducibility(ran: Sequence[Figures], metric: str, seeds: int) -> str:
    if seeds == 1:
        return "One seed says nothing about reproducibility."
    widths = sorted(
        (found.test_metric.width, found.name) for found in ran if found.test_metric is not None
    )
    if len(widths) == 1:
        return f"Over seeds the test {metric} spreads by {fixed(widths[0][0])}."
    return (
        f"Over seeds the test {metric} spreads least with {widths[0][1]} ({fixed(widths[0][0])}"
        f" from worst to best) and most with {widths[-1][1]} ({fixed(widths[-1][0])})."
    )


def _cost(ran: Sequence[Figures]) -> str:
    timed = sorted(
        (found.seconds_per_epoch.median, found.name)
        for found in ran
        if found.seconds_per_epoch is not None
    )
    if not timed:
        return ""
    cheapest, name = timed[0]
    sentence = f"An epoch is cheapest with {name}, {number(1e3 * cheapest)} ms per seed"
    if len(timed) == 1:
        return f"{sentence}."
    others = ", ".join(f"{other} {seconds / cheapest:.2f}" for seconds, other in timed[1:])
    return f"{sentence}; times as much: {others}."


def _caveats(figures: Sequence[Figures], lost: Sequence[Figures], seeds: int) -> list[str]:
    words = []
    if lost:
        words.append(f"{names([found.name for found in lost])} diverged on every seed.")
    partly = [found for found in figures if found.diverged and found not in lost]
    if partly:
        counts = names([f"{found.name} on {found.diverged} of {seeds}" for found in partly])
        words.append(f"Seeds diverged and are left out of the medians: {counts}.")
    edge = [
        found.name
        for found in figures
        if found.tuning is not None and found.tuning.at_edge and not found.tuning.failed
    ]
    if edge:
        words.append(
            f"The learning rate of {names(edge)} is the last one tried: one beyond might do better."
        )
    failed = [found.name for found in figures if found.tuning is not None and found.tuning.failed]
    if failed:
        words.append(f"No learning rate tried works for {names(failed)}.")
    if 1 < seeds < 5:
        words.append(f"{count(seeds, 'seed')} are few: small differences mean nothing.")
    return words
