"""report.html: the figures as Plotly draws them, in one file that needs no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tritia._compare.colours import styles
from tritia._compare.plots import UNITS, metric_limits, positions
from tritia._compare.summary import Figures, diverged_at
from tritia._compare.training import Curves

_MOST_SEEDS = 20  # with lines of their own


class Contents(NamedTuple):
    """What the page shows.

    Attributes:
      title: of the page.
      command: that made it.
      bullets: what was found.
      heads: of the table.
      rows: of the table.
      legend: below the table.
      figures: of every optimizer that is finished.
      curves: by optimizer.
      seconds: measured times per epoch and seed, by optimizer; empty while not measured.
      metric: the name of the test metric.
      target: the test metric that counts as having got there.
      diverged_loss: a training loss above it counts as diverged.
      x_axis: which learning curves are shown first.
      config: as in config.json.
    """

    title: str
    command: str
    bullets: Sequence[str]
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: str
    figures: Sequence[Figures]
    curves: Mapping[str, Curves]
    seconds: Mapping[str, Sequence[float]]
    metric: str
    target: float
    diverged_loss: float
    x_axis: str
    config: Mapping[str, Any]


def page(contents: Contents) -> str:
    """Writes the page.

    Args:
      contents: what it shows.

    Returns:
      HTML, Plotly's script included.
    """
    from plotly.offline import get_plotlyjs

    shown = (
        ("Learning curves", learning_curves(contents), _CURVES_HELP),
        (f"Test {contents.metric} at the last epoch", final_metric(contents), _FINAL_HELP),
        ("Cost", cost(contents), _COST_HELP),
        ("Tuning", tuning_curves(contents), _TUNING_HELP),
    )
    parts = [
        f"<h1>{_text(contents.title)}</h1>",
        f"<p>Made by <code>{_text(contents.command)}</code>.</p>",
        "<ul>",
        *(f"<li>{_text(bullet)}</li>" for bullet in contents.bullets),
        "</ul>",
        _table(contents.heads, contents.rows),
        f"<p class=note>{_text(contents.legend)}</p>",
    ]
    for title, figure, words in shown:
        if figure is not None:
            name = title.split()[0].lower()
            parts += [f"<h2>{_text(title)}</h2>", f"<p class=note>{words}</p>", _div(figure, name)]
    arguments = {k.replace("_", " "): v for k, v in contents.config["arguments"].items()}
    for title, named in (
        ("Optimizers", {found.name: found.optimizer.call for found in contents.figures}),
        ("Arguments", arguments),
        ("Data", contents.config["dataset"]),
        ("Versions and machine", _machine(contents.config)),
    ):
        rows = [[name, _written(value)] for name, value in named.items()]
        parts += [f"<h2>{title}</h2>", _table((), rows)]
    return _PAGE.format(
        title=_text(contents.title), script=get_plotlyjs(), body="\n".join(parts), policy=_POLICY
    )


def learning_curves(contents: Contents) -> Any:
    """Training loss and test metric, the median in bold and each seed pale.

    Buttons change the axis: epochs, gradient evaluations where optimizers take several a step, and
    seconds where they are measured.
    """
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    optimizers = {found.name: found.optimizer for found in contents.figures}
    axes = _axes(contents, optimizers.values())
    figure: Figure = make_subplots(
        cols=2, subplot_titles=("training loss", f"test {contents.metric}")
    )
    places: dict[str, list[list[float]]] = {axis: [] for axis in axes}

    def add(group: str, column: int, y: np.ndarray, **look: Any) -> None:
        for axis in axes:
            seconds = contents.seconds.get(group)
            x = positions(axis, len(y), optimizers[group], seconds).tolist()
            places[axis].append(x)
        figure.add_trace(
            Scatter(x=places[axes[0]][-1], y=_finite(y), legendgroup=group, mode="lines", **look),
            row=1,
            col=column,
        )

    for name, style in styles(optimizers).items():
        curves = contents.curves[name]
        well = np.flatnonzero(diverged_at(curves, contents.diverged_loss) < 0)
        line = {"color": style.colour, "dash": style.dash}
        both = ((1, curves.training_loss, True), (2, curves.test_metric, False))
        for column, values, first in both:
            for seed in well[:_MOST_SEEDS]:
                add(
                    name,
                    column,
                    values[seed],
                    name=f"{name}, seed {seed}",
                    line={**line, "width": 1},
                    opacity=0.3,
                    showlegend=False,
                )
            middle = np.median(values[well], axis=0) if well.size else np.empty(0)
            add(
                name,
                column,
                middle,
                name=name,
                line={**line, "width": 2.5},
                showlegend=first,
            )
    buttons = [
        {
            "label": axis,
            "method": "update",
            "args": [
                {"x": places[axis]},
                {
                    f"xaxis{number}.{key}": value
                    for number in ("", "2")
                    for key, value in (("title.text", UNITS[axis]), ("autorange", True))
                },
            ],
        }
        for axis in axes
    ]
    figure.update_layout(
        height=560,
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "x": 0,
                "xanchor": "left",
                "y": 1.18,
                "yanchor": "top",
                "buttons": buttons,
            }
        ],
        legend={"groupclick": "togglegroup"},
    )
    figure.update_xaxes(title_text=UNITS[axes[0]])
    figure.update_yaxes(type="log", col=1)
    limits = metric_limits(contents.curves, contents.target, contents.diverged_loss)
    figure.update_yaxes(range=limits, col=2)
    figure.add_hline(contents.target, line={"color": "grey", "dash": "dot"}, row=1, col=2)  # type: ignore
    return _looks(figure)


def _axes(contents: Contents, optimizers: Any) -> list[str]:
    several = any(optimizer.gradients_per_step > 1 for optimizer in optimizers)
    axes = ["epochs", "gradients"] if several or contents.x_axis == "gradients" else ["epochs"]
    axes.sort(key=lambda axis: axis != contents.x_axis)
    return [*axes, "seconds"] if contents.seconds else axes


def final_metric(contents: Contents) -> Any:
    """A box and a dot for each seed: the test metric at the last epoch."""
    from plotly.graph_objects import Box, Figure

    figure = Figure()
    for name, style in _backwards(contents):
        values = next(found.final_metrics for found in contents.figures if found.name == name)
        seeds = np.flatnonzero(np.isfinite(values))
        figure.add_trace(
            Box(
                x=values[seeds].tolist(),
                name=name,
                orientation="h",
                boxpoints="all",
                pointpos=0,
                jitter=0.4,
                text=[f"seed {seed}" for seed in seeds],
                marker={"color": style.colour, "size": 6},
                line={"width": 1.5},
                showlegend=False,
            )
        )
    figure.update_layout(height=_height(contents))
    figure.update_xaxes(title_text=f"test {contents.metric}")
    return _looks(figure)


def cost(contents: Contents) -> Any:
    """A bar for each optimizer: the median time of an epoch, with quartiles over the rounds."""
    from plotly.graph_objects import Bar, Figure

    if not contents.seconds:
        return None
    figure = Figure()
    for name, style in _backwards(contents):
        times = 1e3 * np.asarray(contents.seconds[name])
        lower, middle, upper = np.percentile(times, (25, 50, 75)).tolist()
        figure.add_trace(
            Bar(
                x=[middle],
                y=[name],
                name=name,
                orientation="h",
                marker={"color": style.colour},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [upper - middle],
                    "arrayminus": [middle - lower],
                },
                showlegend=False,
            )
        )
    figure.update_layout(height=_height(contents))
    figure.update_xaxes(title_text="milliseconds an epoch, one seed", rangemode="tozero")
    return _looks(figure)


def tuning_curves(contents: Contents) -> Any:
    """The validation metric against the learning rate; a star marks the one that was chosen."""
    from plotly.graph_objects import Figure, Scatter

    tuned = [
        (found, tuning)
        for found in contents.figures
        if (tuning := found.tuning) is not None and found.optimizer.learning_rate is not None
    ]
    if not tuned:
        return None
    figure = Figure()
    looks = styles(found.name for found in contents.figures)
    for found, tuning in tuned:
        style, usual = looks[found.name], found.optimizer.coefficients
        points = sorted(
            (setting["learning_rate"], score, dict(setting))
            for setting, score in zip(tuning.tried, tuning.scores, strict=True)
            if all(setting[name] == values[0] for name, values in usual.items())
        )
        best = tuning.scores[list(tuning.tried).index(tuning.setting)]
        figure.add_trace(
            Scatter(
                x=[rate for rate, *_ in points],
                y=_finite(np.asarray([score for _, score, _ in points])),
                text=[_written(setting) for *_, setting in points],
                name=found.name,
                legendgroup=found.name,
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 1.5},
            )
        )
        figure.add_trace(
            Scatter(
                x=[tuning.setting["learning_rate"]],
                y=_finite(np.asarray([best])),
                text=[_written(tuning.setting)],
                name=f"{found.name}, chosen",
                legendgroup=found.name,
                mode="markers",
                marker={
                    "color": style.colour,
                    "symbol": "star",
                    "size": 15,
                    "line": {"color": "white", "width": 1},
                },
                showlegend=False,
            )
        )
    figure.update_layout(height=520)
    figure.update_xaxes(type="log", title_text="learning rate", dtick=1)
    figure.update_yaxes(title_text=f"validation {contents.metric}")
    return _looks(figure)


def _backwards(contents: Contents) -> list[tuple[str, Any]]:
    """Plotly draws from the bottom up."""
    return list(reversed(styles(found.name for found in contents.figures).items()))


def _height(contents: Contents) -> int:
    return 130 + 34 * len(contents.figures)


def _looks(figure: Any) -> Any:
    figure.update_layout(
        template="plotly_white", margin={"l": 20, "r": 20, "t": 90, "b": 20}, hovermode="closest"
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _div(figure: Any, name: str) -> str:
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"responsive": True, "displaylogo": False},
    )


def _machine(config: Mapping[str, Any]) -> dict[str, Any]:
    parts = ("device", "devices", "processors", "platform")
    return {**config["versions"], **{part: config[part] for part in parts if part in config}}


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:.4g}" for name, number in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "none"
    return "default" if value is None else str(value)


def _text(words: str) -> str:
    # A file's name may hold bytes that are not UTF-8.
    return html.escape(words.encode("utf-8", "replace").decode())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<div class=wide><table>"]
    if heads:
        lines.append("<tr>" + "".join(f"<th>{_text(head)}</th>" for head in heads) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table></div>"])


_CURVES_HELP = (
    "Bold: median over seeds; pale: each seed, which the pointer names. Seeds that diverged are"
    " left out. A click on a name hides it, a double click hides the others; drag to look closer."
)
_FINAL_HELP = "A dot for each seed; the box is from the lower to the upper quartile."
_COST_HELP = (
    "The median time of a compiled epoch of all seeds, divided by their number; the line is from"
    " the lower to the upper quartile over the rounds."
)
_TUNING_HELP = (
    "What each learning rate reached on the validation rows, averaged over the second half of the"
    " epochs; the star was chosen. Learning rates at which a seed diverged have no dot."
)

# Nothing is fetched from anywhere, whatever the scripts would like.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff; }}
h1, h2 {{ font-weight: 600; line-height: 1.2; }}
h2 {{ margin: 2em 0 0.3em; font-size: 1.2em; }}
code {{ background: #f2f2f2; padding: 0.1em 0.3em; overflow-wrap: anywhere; }}
.note {{ color: #666; font-size: 0.9em; margin: 0.3em 0; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.5em 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 0.25em 1em 0.25em 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }}
</style>
<script>{script}</script>
</head>
<body>
{body}
</body>
</html>
"""
