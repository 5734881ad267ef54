"""Writes the API reference to a folder: python .ci/reference.py FOLDER.

pdoc makes it from the docstrings. This names the pages, lists on each what its package exports,
what is called first, writes formulas as MathML, so that no script has to come from the network, and
shows annotations as they are written: `optax.Params`, not the union of nine types behind it.
"""

import functools
import inspect
import re
import sys
import warnings
from pathlib import Path

import latex2mathml.converter
import pdoc

import tritia
import tritia.alternating
import tritia.flax
import tritia.inertia
import tritia.sklearn
import tritia.sweeps

PAGES = (
    tritia,
    tritia.sklearn,
    tritia.flax,
    tritia.sweeps,
    tritia.alternating,
    tritia.inertia,
)


class _Written:
    """An annotation that is shown as it stands in the source."""

    def __init__(self, annotation):
        self.text = getattr(annotation, "__forward_arg__", annotation)

    def __repr__(self):
        return self.text if isinstance(self.text, str) else inspect.formatannotation(self.text)


_FORMULAS = re.compile(
    r":math:`(?P<inline>[^`]+)`|^(?P<indent> *)\.\. math::(?P<block>.*(?:\n(?:(?P=indent) .*)?)*)",
    re.MULTILINE,
)
_written: list[tuple[str, str]] = []  # MathML and words, by the number in the formula's stand-in


def _stand_in(formula):
    """Puts a word that Markdown leaves alone in the place of a formula."""
    kind = "block" if formula["inline"] is None else "inline"
    text = " ".join(formula[kind].split())
    mathml = latex2mathml.converter.convert(text, display=kind)
    _written.append((mathml, re.sub(r"\W+", " ", text)))
    word = f"formula{len(_written) - 1}standsin"
    return word if kind == "inline" else f"{formula['indent']}{word}\n\n"


def _put_formulas(folder):
    """Puts MathML, which browsers show by themselves, in the places of the stand-ins."""
    for suffix, part in ((".html", 0), (".js", 1)):
        for path in folder.rglob(f"*{suffix}"):
            pieces = re.split(r"formula(\d+)standsin", path.read_text(encoding="utf-8"))
            pieces[1::2] = [_written[int(number)][part] for number in pieces[1::2]]
            path.write_text("".join(pieces), encoding="utf-8")


def _order(package):
    """Sorts names: functions as the page's text mentions them, other functions, constants, classes.

    The states of optimizers, which few need, come last.
    """
    mentioned = re.findall(r"`(\w+)[`(]", package.__doc__)

    def key(name):
        thing = getattr(package, name)
        kind = 0 if inspect.isfunction(thing) else 2 if inspect.isclass(thing) else 1
        place = mentioned.index(name) if name in mentioned else len(mentioned)
        return kind, name.endswith("State"), place

    return key


def _prepare(thing):
    """Prepares the formulas and annotations of a function, or of a class and its methods."""
    if inspect.isclass(thing) and thing.__module__.startswith("tritia"):
        for member in vars(thing).values():
            if isinstance(member, functools.cached_property):
                _prepare(member.func)
                member.__doc__ = member.func.__doc__
            else:
                _prepare(getattr(member, "fget", None) or getattr(member, "__func__", member))
    elif not inspect.isfunction(thing):
        return
    if thing.__doc__:
        thing.__doc__ = _FORMULAS.sub(_stand_in, inspect.getdoc(thing) or "")
    for name, annotation in inspect.get_annotations(thing).items():
        thing.__annotations__[name] = _Written(annotation)


def main(folder):
    """Writes the pages; a warning is an error."""
    warnings.simplefilter("error")
    for package in PAGES:
        package.__all__ = [
            name
            for name, thing in vars(package).items()
            if name[0] != "_" and not inspect.ismodule(thing)
            # Each thing has one page.
            if package is tritia or thing is not vars(tritia).get(name)
        ]
        package.__all__.sort(key=_order(package))
        package.__doc__ = _FORMULAS.sub(_stand_in, inspect.getdoc(package) or "")
        for name in package.__all__:
            _prepare(getattr(package, name))
    tritia.__all__ += ["sklearn", "flax", "sweeps", "alternating", "inertia"]
    pdoc.render.configure(docformat="google", footer_text=f"tritia {tritia.__version__}")
    # The package that is imported, wherever it is: given its name, pdoc looks in this folder too.
    pdoc.pdoc(Path(tritia.__file__).parent, output_directory=Path(folder))
    _put_formulas(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
