"""The picture of a sweep: the score against each number or pair of numbers, and the curves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from tritia.sweeps._result import Result

_MOST_NUMBERS = 3
_MOST_WRITTEN = 36  # cells of a map that say their score
_BEST = "#D55E00"


def draw(result: Result, title: str, value_name: str) -> bytes:
    """Draws a sweep with one record an epoch. Scores and curves are means over seeds.

    Args:
      result: of the sweep, greater values being better.
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
    count = 2 if len(varied) < 3 else len(varied) + 1
    figure = Figure(figsize=(5.2 * count, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count)
    if len(varied) == 2:
        _map_panel(figure, panels[0], result, numbers, (varied[0], varied[1]), value_name)
    else:
        for axes, name in zip(panels, varied, strict=False):
            _score_panel(axes, result, numbers[name], joined=len(varied) == 1)
            axes.set_xlabel(_words(name))
            axes.set_ylabel(value_name)
    if len(varied) == 1:
        column, told_by = numbers[varied[0]], _words(varied[0])
    else:
        column, told_by = np.where(_well(result), result.scores, np.nan), value_name
    _curve_panel(figure, panels[-1], result, column, told_by)
    for axes in panels:
        axes.grid(True, color="0.92", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def log_spaced(values: np.ndarray) -> bool:
    """Whether numbers lie more evenly on a logarithmic axis than on a plain one.

    Args:
      values: in any order, repeated or not.

    Returns:
      True where the gaps between their logarithms vary less than those between themselves; of two
      numbers, where one is at least ten times the other.
    """
    values = np.unique(values)
    if values[0] <= 0 or len(values) < 2:
        return False
    if len(values) == 2:
        return bool(values[1] >= 10 * values[0])

    def variation(gaps: np.ndarray) -> float:
        return float(gaps.std() / gaps.mean())

    return variation(np.diff(np.log(values))) < variation(np.diff(values))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _well(result: Result) -> np.ndarray:
    return np.isfinite(result.scores)


def _best(result: Result) -> int:
    return list(result.settings).index(result.best)


def _scale(axes: Any, axis: str, column: np.ndarray) -> None:
    if log_spaced(column):
        getattr(axes, f"set_{axis}scale")("log")


def _colours(figure: Any, axes: Any, column: np.ndarray, label: str) -> Any:
    """A colour for each number, with the bar that explains it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    finite = column[np.isfinite(column)]
    if not finite.size:
        finite = np.zeros(1)
    norm = (LogNorm if log_spaced(finite) else Normalize)(finite.min(), finite.max())
    colours = ScalarMappable(norm, "viridis")
    figure.colorbar(colours, ax=axes, label=label)
    return colours


def _curve_panel(figure: Any, axes: Any, result: Result, column: np.ndarray, label: str) -> None:
    """Draws each setting's curve in the colour of its number."""
    well, best = _well(result), _best(result)
    colours = _colours(figure, axes, column[well], label)
    for i in np.flatnonzero(well):
        curve = result.losses[i, :, : result.trained[i]].mean(axis=0)
        epochs = np.arange(1, len(curve) + 1)
        axes.plot(epochs, curve, color=colours.to_rgba(column[i]), linewidth=1.3)
        if i == best:
            axes.plot(
                epochs, curve, color=_BEST, linewidth=2.2, linestyle=(0, (4, 2)), label="best"
            )
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss (mean over seeds)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if well[best]:
        axes.legend(frameon=False)


def _map_panel(
    figure: Any,
    axes: Any,
    result: Result,
    numbers: Mapping[str, np.ndarray],
    names: tuple[str, str],
    value_name: str,
) -> None:
    """Draws a square for each setting where its two numbers are, in the colour of its score."""
    x, y = (numbers[name] for name in names)
    well, best = _well(result), _best(result)
    finished = result.trained == result.trained.max()
    across = max(len(np.unique(x)), len(np.unique(y)))
    size = float(np.clip((170 / min(across, 20)) ** 2, 60, 900))
    colours = _colours(figure, axes, result.scores[well], f"{value_name} (mean over seeds)")
    for chosen, part, label in (
        (well & finished, 1.0, ""),
        (well & ~finished, 0.3, "stopped early"),
    ):
        if chosen.any():
            shades = colours.to_rgba(result.scores[chosen])
            axes.scatter(x[chosen], y[chosen], c=shades, s=part * size, marker="s", label=label)
    if (~well).any():
        axes.plot(x[~well], y[~well], "x", color="0.3", label="diverged")
    if well[best]:
        axes.scatter(
            x[best], y[best], s=1.3 * size, marker="s", facecolors="none", edgecolors=_BEST,
            linewidths=2.2, label="best",
        )  # fmt: skip
    if well.sum() <= _MOST_WRITTEN and size > 300:
        for i in np.flatnonzero(well & finished):
            dark = sum(colours.to_rgba(result.scores[i])[:3]) < 1.5
            axes.annotate(
                f"{result.scores[i]:.3f}",
                (x[i], y[i]),
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if dark else "black",
            )
    for axis, name in zip("xy", names, strict=True):
        _scale(axes, axis, numbers[name])
        getattr(axes, f"set_{axis}label")(_words(name))
    axes.margins(0.12)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, markerscale=0.4
    )


def _score_panel(axes: Any, result: Result, column: np.ndarray, joined: bool) -> None:
    """Draws each seed as a dot, and the mean as a line, or a dash where other numbers vary too."""
    well, best = _well(result), _best(result)
    finished = result.trained == result.trained.max()
    last = np.take_along_axis(result.values, (result.trained - 1)[:, None, None], axis=2)[:, :, 0]
    for chosen, colour, label in (
        (well & finished, "#0072B2", "one seed"),
        (well & ~finished, "0.75", "one seed, stopped early"),
    ):
        if chosen.any():
            x = np.broadcast_to(column[chosen, None], last[chosen].shape)
            axes.plot(x, last[chosen], "o", color=colour, alpha=0.35, markersize=3.5, linewidth=0)
            axes.plot([], [], "o", color=colour, alpha=0.5, markersize=3.5, label=label)
    order = np.flatnonzero(well & finished)
    order = order[np.argsort(column[order])]
    axes.plot(
        column[order],
        result.scores[order],
        linestyle="-" if joined else "",
        marker="_",
        color="#0072B2",
        linewidth=1.3,
        label="mean over seeds",
    )
    if well[best]:
        axes.plot(column[best], result.scores[best], "D", color=_BEST, label="best (mean)")
    _scale(axes, "x", column)
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
