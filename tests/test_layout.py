"""Which module may import which: arrows point from what is on top to what it stands on."""

import ast
import pathlib

import pytest

import tritia

ROOT = pathlib.Path(tritia.__file__).parent


def _imports(path):
    """Every module that a file imports, wherever in the file and for whatever purpose."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # Of `from tritia import sweeps` the module may be either.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _lies_in(module, package):
    return module == package or module.startswith(package + ".")


def _files(package):
    folder = ROOT.joinpath(*package.split(".")[1:])
    files = sorted(folder.rglob("*.py"))
    assert files, f"{package} is not there"
    return files


LIBRARIES = sorted(
    f"tritia.{path.name}"
    for path in ROOT.iterdir()
    if (path / "__init__.py").exists() and path.name != "_command_line"
)


@pytest.mark.parametrize(
    ("package", "stranger"),
    [
        ("tritia.gradient_flow._multistep", "tritia.gradient_flow._runge_kutta"),
        ("tritia.gradient_flow._runge_kutta", "tritia.gradient_flow._multistep"),
        ("tritia.alternating._full_batch", "tritia.alternating._minibatch"),
        ("tritia.alternating._minibatch", "tritia.alternating._full_batch"),
        *((library, "tritia._command_line") for library in LIBRARIES),
    ],
)
def test_packages_that_do_not_know_each_other(package, stranger):
    assert _files(stranger)
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in _files(package)
        for module in _imports(path)
        if _lies_in(module, stranger)
    ]
    assert not found


# As CONTRIBUTING.md lists them: a package imports only packages that come before it.
ORDER = (
    "gradient_flow",
    "inertia",
    "layerwise",
    "alternating",
    "flax",
    "sweeps",
    "sklearn",
    "_compare",
    "_command_line",
)


def test_every_package_has_its_place_in_the_order():
    assert {f"tritia.{name}" for name in ORDER} == {*LIBRARIES, "tritia._command_line"}


@pytest.mark.parametrize("position", range(len(ORDER)), ids=ORDER)
def test_packages_import_only_those_before_them(position):
    later = [f"tritia.{name}" for name in ORDER[position + 1 :]]
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in _files(f"tritia.{ORDER[position]}")
        for module in _imports(path)
        for package in later
        if _lies_in(module, package)
    ]
    assert not found


def test_libraries_are_found():
    assert {"tritia.gradient_flow", "tritia.alternating", "tritia._compare"} <= set(LIBRARIES)


def test_every_module_is_private_or_lies_in_a_package_that_is():
    public = [
        path.relative_to(ROOT)
        for path in _files("tritia")
        if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
    ]
    assert not public


def test_annotations_are_postponed_everywhere():
    for path in _files("tritia"):
        if path.name != "__init__.py":
            assert "from __future__ import annotations" in path.read_text(), path
