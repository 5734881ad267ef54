"""The still picture: median and band over seeds, against epochs and against seconds."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tritia._compare.colours import Dash, styles
from tritia._compare.optimizers import Optimizer
from tritia._compare.summary import diverged_at
from tritia._compare.training import Curves

_DASHES: dict[Dash, Any] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.2)),
    "dashdot": (0, (6, 1.5, 1, 1.5)),
}
_LEGEND_CHARACTERS = 100  # that fit beside each other, handles included

XAxis = Literal["epochs", "gradients"]
UNITS: dict[str, str] = {
    "epochs": "epoch",
    "gradients": "gradient evaluations (passes over the training rows)",
    "seconds": "seconds of training, one seed",
}


def positions(
    axis: str, points: int, optimizer: Optimizer, seconds: Sequence[float] | None
) -> np.ndarray:
    """Where the points of a learning curve lie.

    Args:
      axis: "epochs", "gradients" (epochs times the gradients that one step takes) or "seconds" (
        epochs times the median time of one).
      points: how many, the one before training included.
      optimizer: from the registry.
      seconds: measured times per epoch and seed; only "seconds" needs them.

    Returns:
      float, shape (points,).
    """
    unit = 1.0
    if axis == "gradients":
        unit = optimizer.gradients_per_step
    elif axis == "seconds":
        unit = math.nan if seconds is None else float(np.median(seconds))
    return unit * np.arange(points)


def draw(
    curves: Mapping[str, Curves],
    optimizers: Mapping[str, Optimizer],
    title: str,
    metric: str,
    target: float,
    diverged_loss: float,
    x_axis: XAxis,
    seconds: Mapping[str, Sequence[float]] | None = None,
) -> bytes:
    """Draws learning curves.

    Args:
      curves: by optimizer; seeds that diverged are left out, and the legend says how many.
      optimizers: from the registry, by the same names.
      title: above the panels.
      metric: the name of the test metric.
      target: drawn as a line among the test metrics.
      diverged_loss: a training loss above it counts as diverged.
      x_axis: of the panels on the left.
      seconds: measured times per epoch and seed, by optimizer, for the panels on the right; without
        them there are none.

    Returns:
      The picture, PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns: list[str] = [x_axis, "seconds"] if seconds else [x_axis]
    labels = {name: _label(name, curves[name], diverged_loss) for name in curves}
    # Two em wider than the longest, for the handle.
    beside = max(1, _LEGEND_CHARACTERS // (max(map(len, labels.values()), default=0) + 8))
    height = 7.4 + 0.22 * math.ceil(len(labels) / beside)
    figure = Figure(figsize=(5.5 * len(columns), height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(columns), squeeze=False, sharex="col", sharey="row")
    handles = [
        _draw_one(
            panels,
            columns,
            found,
            optimizers[name],
            style,
            labels[name],
            diverged_loss,
            (seconds or {}).get(name),
        )
        for (name, found), style in zip(curves.items(), styles(curves).values(), strict=True)
    ]
    for axes in panels.flat:
        _tidy(axes)
    for axes, column in zip(panels[1], columns, strict=True):
        axes.set_xlabel(UNITS[column])
        if column == "epochs":
            axes.xaxis.get_major_locator().set_params(integer=True)
        _mark_target(axes, target)
    panels[0, 0].set_yscale("log")
    panels[0, 0].set_ylabel("training loss")
    panels[1, 0].set_ylabel(f"test {metric}")
    limits = metric_limits(curves, target, diverged_loss)
    if limits is not None:
        panels[1, 0].set_ylim(*limits)
    figure.suptitle(f"{title}\nline: median over seeds; band: quartiles", fontsize=11)
    figure.legend(
        handlelength=3.2,  # long enough to see the dashes
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), beside),
        frameon=False,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _label(name: str, curves: Curves, diverged_loss: float) -> str:
    bad = diverged_at(curves, diverged_loss) >= 0
    return f"{name} ({bad.sum()} of {len(bad)} diverged)" if bad.any() else name


def _draw_one(
    panels: np.ndarray,
    columns: Sequence[str],
    curves: Curves,
    optimizer: Optimizer,
    style: Any,
    label: str,
    diverged_loss: float,
    seconds: Sequence[float] | None,
) -> Any:
    """Draws an optimizer in every panel; returns the line for the legend."""
    well = diverged_at(curves, diverged_loss) < 0
    points = curves.training_loss.shape[1]
    look = {
        "color": style.colour,
        "linestyle": _DASHES[style.dash],
        "marker": style.marker,
        "markersize": 3.5,
        "markevery": max(1, points // 10),
        "linewidth": 1.6,
        "label": label,
    }
    line = panels[0, 0].plot([], [], **look)[0]
    if not well.any():
        return line
    for row, values in zip(
        panels, (curves.training_loss[well], curves.test_metric[well]), strict=True
    ):
        lower, middle, upper = np.percentile(values, (25, 50, 75), axis=0)
        for axes, column in zip(row, columns, strict=True):
            x = positions(column, points, optimizer, seconds)
            axes.fill_between(x, lower, upper, color=style.colour, alpha=0.15, linewidth=0)
            axes.plot(x, middle, **look)
    return line


def _tidy(axes: Any) -> None:
    axes.grid(True, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def metric_limits(
    curves: Mapping[str, Curves], target: float, diverged_loss: float
) -> tuple[float, float] | None:
    """Where the curves end up: the first epochs would flatten everything after them.

    Args:
      curves: by optimizer.
      target: is to be seen, too.
      diverged_loss: a training loss above it counts as diverged.

    Returns:
      The least and the greatest test metric to show; None where there is nothing.
    """
    low, high = target, target
    for found in curves.values():
        metric = found.test_metric[diverged_at(found, diverged_loss) < 0]
        if metric.size:
            after = max(1, metric.shape[1] // 5)
            low = min(low, np.median(metric, axis=0)[after:].min())
            high = max(high, metric.max())
    if low == high:
        return None
    room = max(high - low, 0.01) * 0.08
    return max(low, high - 1.0) - room, high + room


def _mark_target(axes: Any, target: float) -> None:
    axes.axhline(target, color="0.45", linewidth=0.9, linestyle=(0, (2, 3)))
    axes.annotate(
        f"target {target:g}",
        (1, target),
        xycoords=("axes fraction", "data"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color="0.35",
    )
