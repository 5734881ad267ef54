"""The picture: median and band over seeds, training loss on the left, test metric on the right."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tritia._compare.optimizers import Optimizer
from tritia._compare.summary import diverged_at
from tritia._compare.training import Curves

# Okabe and Ito's colours, told apart by most colour-blind readers; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "osD^vP*"


def draw(
    curves: Mapping[str, Curves],
    optimizers: Mapping[str, Optimizer],
    title: str,
    metric: str,
    target: float,
    diverged_loss: float,
    x_axis: Literal["epochs", "gradients"],
) -> bytes:
    """Draws learning curves.

    Args:
      curves: by optimizer; seeds that diverged are left out, and the legend says how many.
      optimizers: from the registry, by the same names.
      title: above the panels.
      metric: the name of the test metric.
      target: drawn as a line among the test metrics.
      diverged_loss: a training loss above it counts as diverged.
      x_axis: "epochs", or "gradients" for epochs times the gradients that one step takes.

    Returns:
      The picture, PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    handles: list[Any] = []
    lows, highs = [], []
    styles = itertools.product(_DASHES, zip(_COLOURS, _MARKERS, strict=True))
    for (name, found), (dash, (colour, marker)) in zip(curves.items(), styles, strict=False):
        well = diverged_at(found, diverged_loss) < 0
        diverged = int((~well).sum())
        label = name if not diverged else f"{name} ({diverged} of {len(well)} diverged)"
        if not well.any():
            handles.append(left.plot([], [], color=colour, linestyle=dash, label=label)[0])
            continue
        points = np.arange(found.training_loss.shape[1])
        if x_axis == "gradients":
            points = points * optimizers[name].gradients_per_step
        for axes, values in ((left, found.training_loss[well]), (right, found.test_metric[well])):
            lower, upper = np.percentile(values, (25, 75), axis=0)
            axes.fill_between(points, lower, upper, color=colour, alpha=0.15, linewidth=0)
            line = axes.plot(
                points,
                np.median(values, axis=0),
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=3.5,
                markevery=max(1, len(points) // 10),
                linewidth=1.6,
                label=label,
            )[0]
        handles.append(line)
        median = np.median(found.test_metric[well], axis=0)
        lows.append(median[max(1, len(points) // 5) :].min())
        highs.append(found.test_metric[well].max())

    unit = "epoch" if x_axis == "epochs" else "gradient evaluations (passes over the training rows)"
    for axes in (left, right):
        axes.set_xlabel(unit)
        axes.grid(True, color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if x_axis == "epochs":
            axes.xaxis.get_major_locator().set_params(integer=True)
    left.set_yscale("log")
    left.set_ylabel("training loss")
    right.set_ylabel(f"test {metric}")
    if lows:
        # The first epochs would flatten everything after them: show where the curves end up.
        high = max(max(highs), target)
        low = min(min(lows), target)
        room = max(high - low, 0.01) * 0.08
        right.set_ylim(max(low, high - 1.0) - room, high + room)
        right.axhline(target, color="0.45", linewidth=0.9, linestyle=(0, (2, 3)))
        right.annotate(
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
    figure.suptitle(f"{title}\nline: median over seeds; band: quartiles", fontsize=11)
    figure.legend(
        handlelength=3.2,  # long enough to see the dashes
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
