"""What is public is documented: the API reference is made from these docstrings."""

import inspect
import re

import pytest

import tritia
import tritia.alternating
import tritia.flax
import tritia.layerwise
import tritia.sweeps

PACKAGES = (tritia, tritia.flax, tritia.sweeps, tritia.alternating, tritia.layerwise)
PUBLIC = {
    f"{package.__name__}.{name}": thing
    for package in PACKAGES
    for name, thing in vars(package).items()
    if not name.startswith("_") and getattr(thing, "__module__", "").startswith("tritia.")
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}


def test_public_names_are_found():
    assert {"tritia.rk4", "tritia.flax.grad_fn", "tritia.sweeps.run", "tritia.TiamState"} <= set(
        PUBLIC
    )
    assert len(FUNCTIONS) > 60


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
