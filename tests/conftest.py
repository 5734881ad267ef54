"""What every test shares: hypothesis's settings, and float64 where a test asks for it."""

import hypothesis
import jax
import pytest

# Compiling is what takes the time here, not the property: no deadline, few but real examples, and
# the same ones on every run.
hypothesis.settings.register_profile("tritia", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("tritia")


@pytest.fixture
def x64():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield
