"""Drawing takes half the time of a small comparison: a test that looks at what is drawn says so."""

import inspect

import pytest

from tritia._compare import interactive, plots


@pytest.fixture
def drawn():
    """Asks for real pictures and pages in this test."""


@pytest.fixture(autouse=True)
def _blank_unless_drawn(request, monkeypatch):
    """Of module-wide fixtures, which come before, everything is drawn."""
    if "drawn" in request.fixturenames:
        return
    for module, name, blank in ((plots, "draw", b""), (interactive, "page", "")):
        signature = inspect.signature(getattr(module, name))

        def draw(*arguments, signature=signature, blank=blank, **options):
            signature.bind(*arguments, **options)
            return blank

        monkeypatch.setattr(module, name, draw)
