"""The pictures show the figures of the run, each optimizer in a colour of its own."""

import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest

from tritia._compare import interactive, plots, summary, training, tuning
from tritia._compare.colours import styles
from tritia._compare.experiment import Request
from tritia._compare.optimizers import OPTIMIZERS

NAMES = ("sgd", "heun", "tiam")
SEEDS, POINTS = 5, 4
SECONDS = {"sgd": [0.1, 0.2, 0.4], "heun": [0.3, 0.3, 0.3], "tiam": [1.0, 3.0, 2.0]}


def _lab(colour):
    """CIELAB under D65, from the definition."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / (0.9505, 1.0, 1.089)
    )
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_optimizer_of_the_usual_run_has_a_colour_of_its_own():
    usual = styles(Request.optimizers)
    assert tuple(usual) == Request.optimizers
    for one, other in itertools.combinations(usual.values(), 2):
        assert np.linalg.norm(_lab(one.colour) - _lab(other.colour)) > 20, (one, other)
    # And none too pale for a line on white.
    assert all(_lab(style.colour)[0] < 75 for style in usual.values())


def test_colours_stay_from_one_run_to_the_next():
    usual = styles(Request.optimizers)
    few = styles(["lion", "tiam", "sgd"])
    assert (few["tiam"], few["sgd"]) == (usual["tiam"], usual["sgd"])
    assert few["lion"] not in (few["tiam"], few["sgd"])
    assert styles(["lion", "tiam", "sgd", "adam", "momentum"])["lion"] == few["lion"]
    everything = styles(OPTIMIZERS)
    assert len(everything) == len(OPTIMIZERS)
    assert len({(style.colour, style.dash) for style in list(everything.values())[:40]}) == 40
    assert len({style.colour for style in styles(list(OPTIMIZERS)[:12]).values()}) == 12


@pytest.fixture(scope="module")
def contents():
    generator = np.random.default_rng(0)
    curves, figures = {}, []
    for name in NAMES:
        loss, metric = generator.random((2, SEEDS, POINTS))
        if name == "heun":
            loss[1, 2] = np.nan
        curves[name] = training.Curves(loss, metric, loss, metric, {}, 1.0)
        rates = [0.1, 0.01, 1.0]
        found = tuning.Tuning(
            {"learning_rate": 0.1},
            [{"learning_rate": rate} for rate in rates],
            [0.9, 0.5, -np.inf],
            [0.1, 0.2, np.inf],
            "",
            False,
        )
        if name == "tiam":
            found = tuning.Tuning({}, [], [], [], "", False)
        figures.append(
            summary.summarise(
                name, OPTIMIZERS[name], found, curves[name], 0.9, 100.0, SECONDS[name]
            )
        )
    return interactive.Contents(
        title="wine </script> & others",
        command="tritia compare --out '<b>\udcff'",
        bullets=["one", "two < three"],
        heads=["optimizer", "test accuracy"],
        rows=[[name, "0.9"] for name in NAMES],
        legend="Medians.",
        figures=figures,
        curves=curves,
        seconds=SECONDS,
        metric="accuracy",
        target=0.9,
        diverged_loss=100.0,
        x_axis="epochs",
        config={
            "arguments": {"dataset": "wine", "batch_size": None, "hidden": (4,)},
            "dataset": {"name": "wine"},
            "versions": {"jax": "1.2.3"},
            "device": "cpu",
            "devices": 1,
            "processors": 2,
            "platform": "here",
        },
    )


def test_learning_curves_show_every_seed_and_the_median(contents):
    figure = interactive.learning_curves(contents)
    traces = {(trace.name, trace.yaxis): trace for trace in figure.data}
    for name, curves in contents.curves.items():
        well = [seed for seed in range(SEEDS) if not (name == "heun" and seed == 1)]
        for axis, values in (("y", curves.training_loss), ("y2", curves.test_metric)):
            for seed in well:
                np.testing.assert_array_equal(traces[f"{name}, seed {seed}", axis].y, values[seed])
            np.testing.assert_allclose(traces[name, axis].y, np.median(values[well], axis=0))
    assert ("heun, seed 1", "y") not in traces
    colours = {trace.legendgroup: trace.line.color for trace in figure.data}
    assert colours == {name: style.colour for name, style in styles(NAMES).items()}


def test_buttons_change_epochs_to_gradients_and_seconds(contents):
    figure = interactive.learning_curves(contents)
    buttons = {button.label: button.args for button in figure.layout.updatemenus[0].buttons}
    assert list(buttons) == ["epochs", "gradients", "seconds"]
    steps = {
        "epochs": dict.fromkeys(NAMES, 1.0),
        "gradients": {"sgd": 1, "heun": 2, "tiam": 1},
        "seconds": {"sgd": 0.2, "heun": 0.3, "tiam": 2.0},
    }
    for axis, (data, layout) in buttons.items():
        assert len(data["x"]) == len(figure.data)
        for trace, x in zip(figure.data, data["x"], strict=True):
            np.testing.assert_allclose(x, steps[axis][trace.legendgroup] * np.arange(POINTS))
        assert layout["xaxis.title.text"] == layout["xaxis2.title.text"] == plots.UNITS[axis]


def test_final_metrics_cost_and_tuning_are_those_of_the_run(contents):
    boxes = {trace.name: trace for trace in interactive.final_metric(contents).data}
    np.testing.assert_array_equal(boxes["sgd"].x, contents.curves["sgd"].test_metric[:, -1])
    assert len(boxes["heun"].x) == SEEDS - 1
    bars = {trace.name: trace for trace in interactive.cost(contents).data}
    assert bars["sgd"].x[0] == pytest.approx(200)
    assert bars["sgd"].error_x.arrayminus[0] == pytest.approx(200 - 150)
    assert bars["sgd"].error_x.array[0] == pytest.approx(300 - 200)
    tried = {trace.name: trace for trace in interactive.tuning_curves(contents).data}
    assert set(tried) == {"sgd", "sgd, chosen", "heun", "heun, chosen"}  # tiam has nothing to tune
    assert tuple(tried["sgd"].x) == (0.01, 0.1, 1.0)
    assert tuple(tried["sgd"].y) == (0.5, 0.9, None)
    assert (tried["sgd, chosen"].x, tried["sgd, chosen"].y) == ((0.1,), (0.9,))


def test_the_page_is_one_file_with_everything_in_it(contents):
    page = interactive.page(contents)
    for words in ("two &lt; three", "wine &lt;/script&gt; &amp; others", "1.2.3", "hidden"):
        assert words in page
    assert page.count("plotly.js v") == 1
    # All that is fetched is named in attributes of tags.
    tags = re.findall(
        r"<(?:script|link|img|iframe)\b[^>]*>",
        re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL),
    )
    assert not [tag for tag in tags if "src=" in tag or "href=" in tag]
    assert "default-src 'none'" in page


def test_the_page_shows_what_is_there(contents):
    untimed = contents._replace(seconds={}, figures=contents.figures[:1])
    buttons = interactive.learning_curves(untimed).layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["epochs"]
    assert interactive.cost(untimed) is None
    untuned = [found for found in contents.figures if found.name == "tiam"]
    assert interactive.tuning_curves(contents._replace(figures=untuned)) is None


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open it with")
def test_a_browser_draws_the_page_without_an_error(contents, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(interactive.page(contents), encoding="utf-8")
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--disable-gpu", "--no-sandbox"]
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            *quiet,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=8000",
            "--enable-logging=stderr",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    # What scripts complain of, and what the page's policy keeps them from fetching.
    complaints = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert complaints == []
    drawn = done.stdout.decode()
    for name in ("learning", "test", "cost", "tuning"):
        assert re.search(rf'<div id="{name}"[^>]*class="[^"]*js-plotly-plot', drawn), name
    assert drawn.count('class="main-svg"') >= 4


@pytest.mark.parametrize("seconds", [None, SECONDS])
def test_the_still_picture_has_seconds_beside_epochs(contents, seconds, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *rest, **how: (seen.append(self), save(self, *rest, **how))
    )
    names = [*NAMES, *(name for name in OPTIMIZERS if name not in NAMES)][:30]
    curves = {name: contents.curves[NAMES[i % 3]] for i, name in enumerate(names)}
    if seconds is not None:
        seconds = {name: seconds[NAMES[i % 3]] for i, name in enumerate(names)}
    picture = plots.draw(curves, OPTIMIZERS, "wine", "accuracy", 0.9, 100.0, "epochs", seconds)
    assert picture.startswith(b"\x89PNG")
    (figure,) = seen
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == (
        ["epoch", "seconds of training, one seed"] if seconds else ["", "epoch"]
    )
    # The legend of thirty lies within the picture.
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= 0
    line = figure.axes[-1].get_lines()[0]
    expected = 0.2 if seconds else 1.0
    np.testing.assert_allclose(line.get_xdata(), expected * np.arange(POINTS))
