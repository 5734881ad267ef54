"""The picture of a sweep: the score against each number, and the curves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from tritia.sweeps._result import Result

_MOST_NUMBERS = 3
_BEST = "#D55E00"


def draw(result: Result, title: str, value_name: str) -> bytes:
    """Draws a sweep with one record an epoch.

    Args:
      result: what came of it, greater values being better.
      title: above the panels.
      value_name: what was judged.

    Returns:
      The picture, PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = {
        name: np.asarray([setting[name] for setting in result.settings])
        for name in result.settings[0]
    }
    varied = [name for name, column in numbers.items() if len(np.unique(column)) > 1]
    varied = varied[:_MOST_NUMBERS] or list(numbers)[:1]
    figure = Figure(figsize=(4.6 * (len(varied) + 1), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(varied) + 1))
    well = np.isfinite(result.scores)
    finished = result.trained == result.trained.max()
    best = result.settings.index(result.best)
    for axes, name in zip(panels, varied, strict=False):
        _score_panel(axes, result, numbers[name], well, finished, best, len(varied) == 1)
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel(value_name)
    curves = panels[-1]
    shown = result.scores[well]
    ranks = np.argsort(np.argsort(result.scores[well])) / max(1, len(shown) - 1)
    for rank, i in sorted(zip(ranks, np.flatnonzero(well), strict=True)):
        curve = np.nanmedian(result.losses[i, :, : result.trained[i]], axis=0)
        is_best = i == best
        curves.plot(
            np.arange(1, len(curve) + 1),
            curve,
            color=_BEST if is_best else str(0.85 - 0.5 * rank),
            linewidth=2.2 if is_best else 0.9,
            label="best setting" if is_best else None,
            zorder=3 if is_best else 2,
        )
    curves.set_yscale("log")
    curves.set_xlabel("epoch")
    curves.set_ylabel("training loss (median over seeds)")
    curves.xaxis.get_major_locator().set_params(integer=True)
    if well.any():
        curves.legend(frameon=False)
    for axes in panels:
        axes.grid(True, color="0.92", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _score_panel(
    axes: Any,
    result: Result,
    column: np.ndarray,
    well: np.ndarray,
    finished: np.ndarray,
    best: int,
    joined: bool,
) -> None:
    """Draws each seed as a dot and the mean as a line (or a dot, where other numbers vary too)."""
    last = np.take_along_axis(result.values, (result.trained - 1)[:, None, None], axis=2)[:, :, 0]
    for chosen, colour, label in (
        (well & finished, "#0072B2", "one seed"),
        (well & ~finished, "0.75", "one seed, stopped early"),
    ):
        if chosen.any():
            x = np.broadcast_to(column[chosen, None], last[chosen].shape)
            axes.plot(x, last[chosen], "o", color=colour, alpha=0.35, markersize=3.5, linewidth=0)
            axes.plot([], [], "o", color=colour, alpha=0.5, markersize=3.5, label=label)
    if joined:
        order = np.argsort(column[well & finished])
        axes.plot(
            column[well & finished][order],
            result.scores[well & finished][order],
            color="#0072B2",
            linewidth=1.3,
            label="mean over seeds",
        )
    if well[best]:
        axes.plot(column[best], result.scores[best], "D", color=_BEST, label="best setting")
    if column.min() > 0 and column.max() / column.min() > 20:
        axes.set_xscale("log")
    lowest, highest = axes.get_ylim()
    if (~well).any():
        axes.plot(
            column[~well],
            np.full((~well).sum(), lowest),
            "x",
            color="0.3",
            markersize=5,
            label="diverged",
            clip_on=False,
        )
        axes.set_ylim(lowest, highest)
    axes.legend(frameon=False, fontsize=8)
