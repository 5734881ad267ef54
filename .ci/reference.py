"""Writes the API reference to a folder: python .ci/reference.py FOLDER.

pdoc makes it from the docstrings. This names the pages, lists on each what its package exports,
brings formulas through Markdown and HTML unharmed, and shows annotations as they are written:
`optax.Params`, not the union of nine types behind it.
"""

import functools
import inspect
import re
import sys
import warnings
from pathlib import Path

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


_FORMULAS = re.compile(r":math:`[^`]+`|^( *)\.\. math::.*(\n(\1 .*)?)*", re.MULTILINE)


def _shield(formula):
    """Avoids what Markdown (a backslash before another) and HTML (<) take for themselves."""
    text = formula[0].replace("\\\\", r"\cr").replace("<", r"\lt ")
    return " ".join(text.split()) if text.startswith(":") else text


def _prepare(thing):
    """Shields the formulas and annotations of a function, or of a class and its methods."""
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
        thing.__doc__ = _FORMULAS.sub(_shield, inspect.getdoc(thing) or "")
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
        package.__doc__ = _FORMULAS.sub(_shield, inspect.getdoc(package) or "")
        for name in package.__all__:
            _prepare(getattr(package, name))
    tritia.__all__ += ["sklearn", "flax", "sweeps", "alternating", "inertia"]
    pdoc.render.configure(docformat="google", math=True, footer_text=f"tritia {tritia.__version__}")
    # The package that is imported, wherever it is: given its name, pdoc looks in this folder too.
    pdoc.pdoc(Path(tritia.__file__).parent, output_directory=Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
