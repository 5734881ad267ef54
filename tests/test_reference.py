"""What is public is documented: the API reference is made from these docstrings."""

import inspect
import pathlib
import re
import subprocess
import sys
from typing import get_args

import pytest

import tritia
import tritia.alternating
import tritia.flax
import tritia.inertia
import tritia.layerwise
import tritia.sweeps
from tritia.alternating._blocks.activations import ActivationName
from tritia.alternating._blocks.losses import LossName
from tritia.alternating._full_batch.coefficients import BlockKind, Inertias
from tritia.gradient_flow._multistep.named_schemes import MultistepName
from tritia.gradient_flow._runge_kutta.named_tableaus import TableauName

PACKAGES = (
    tritia,
    tritia.flax,
    tritia.sweeps,
    tritia.alternating,
    tritia.inertia,
    tritia.layerwise,
)
PUBLIC = {
    f"{package.__name__}.{name}": thing
    for package in PACKAGES
    for name, thing in vars(package).items()
    if not name.startswith("_") and getattr(thing, "__module__", "").startswith("tritia.")
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


def test_what_is_public_is_what_the_reference_shows():
    """A cached function, say, is neither a function nor a class: pdoc and doctest pass it over."""
    known = {*FUNCTIONS, *CLASSES}
    assert [name for name in PUBLIC if name not in known] == []


def _members(kind):
    """The public methods and properties of a class, those that it inherits from ours included."""
    for name, member in inspect.getmembers_static(kind):
        function = getattr(member, "fget", getattr(member, "func", member))
        ours = (getattr(function, "__module__", None) or "").startswith("tritia.")
        if not name.startswith("_") and ours and inspect.isfunction(function):
            yield name, function


MEMBERS = {
    f"{owner}.{name}": function
    for owner, kind in CLASSES.items()
    for name, function in _members(kind)
}


@pytest.mark.parametrize("name", MEMBERS)
def test_methods_and_properties_say_what_they_are(name):
    text = inspect.getdoc(MEMBERS[name])
    assert text
    arguments = text.partition("Args:")[2].partition("\nReturns:")[0]
    parameters = list(inspect.signature(MEMBERS[name]).parameters)[1:]
    for parameter in parameters:
        assert re.search(rf"^ *\**([\w, ]+, )?{parameter}\b.*:", arguments, re.MULTILINE), parameter


def test_schemes_have_methods_and_properties():
    for owner in ("LinearMultistep", "ButcherTableau", "ChebyshevScheme"):
        assert f"tritia.{owner}.describe" in MEMBERS
        assert f"tritia.{owner}.noise_gain" in MEMBERS


def test_public_names_are_found():
    assert {"tritia.rk4", "tritia.flax.grad_fn", "tritia.sweeps.run", "tritia.TiamState"} <= set(
        PUBLIC
    )
    assert len(FUNCTIONS) > 40


@pytest.mark.parametrize("name", PUBLIC)
def test_has_a_docstring_of_its_own(name):
    text = vars(PUBLIC[name])["__doc__"] if inspect.isclass(PUBLIC[name]) else PUBLIC[name].__doc__
    assert text
    # NamedTuple and dataclass write "Name(field, ...)" where there is none.
    assert not text.startswith(f"{name.rsplit('.', 1)[1]}(")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_their_arguments_and_show_an_example(name):
    text = inspect.getdoc(FUNCTIONS[name])
    assert "Examples:" in text
    assert ">>> " in text.partition("Examples:")[2]
    arguments = text.partition("Args:")[2].partition("\nReturns:")[0]
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert re.search(rf"^ *\**([\w, ]+, )?{parameter}\b.*:", arguments, re.MULTILINE), parameter


@pytest.mark.parametrize(
    ("annotation", "names"),
    [
        (MultistepName, tritia.MULTISTEP_SCHEMES),
        (TableauName, tritia.TABLEAUS),
        (ActivationName, tritia.alternating.ACTIVATIONS),
        (LossName, tritia.alternating.LOSSES),
        (BlockKind, Inertias._fields),
    ],
)
def test_annotations_list_the_names_that_there_are(annotation, names):
    assert get_args(annotation) == tuple(names)


@pytest.mark.slow
def test_the_pages_open_with_what_is_called_and_need_no_network(tmp_path):
    pytest.importorskip("pdoc")
    pytest.importorskip("latex2mathml")
    script = pathlib.Path(__file__).parents[1] / ".ci" / "reference.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=300)
    shown = {path.stem: path.read_text() for path in tmp_path.rglob("*.html")}
    members = re.findall('<section id="(\\w+)"', shown["tritia"])
    assert members[:4] == ["difference", "adams_bashforth", "bdf", "linear_multistep"]
    assert members.index("rk4") < members.index("LinearMultistep") < members.index("TiamState")
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    text = re.sub("<pre>.*?</pre>", "", text, flags=re.DOTALL)  # the source, as it stands
    assert "<math" in shown["tritia"]
    assert "<mfrac>" in shown["alternating"]
    for trace in ("standsin", ":math:", ".. math::", "MathJax", "katex"):
        assert trace not in text, trace
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//", text)
