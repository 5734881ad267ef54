"""What every test shares: hypothesis's settings, a compilation cache, float64 on request."""

import gc
import os
import pathlib
import tempfile

# The tests compile far more than they compute: ask XLA for quick compilation, not for fast code.
# Its flags are read when a first array is made, and one that it does not know ends the process.
import hypothesis
import jax
import jaxlib
import pytest

FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # every part costs as much as a program of its own
]
if jaxlib.version.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # halves the time; later always true
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

# Compiling is what takes the time here, not the property: no deadline, few but real examples, and
# the same ones on every run.
hypothesis.settings.register_profile("tritia", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("tritia")

# Two devices, so that shardings are tested for real; tests/test_eight_devices.py asks for more.
jax.config.update("jax_num_cpu_devices", int(os.environ.get("TRITIA_TEST_DEVICES", "2")))
if "TRITIA_TEST_DEVICES" not in os.environ:
    collect_ignore = ["eight_devices"]

# Equal programs are compiled once, in this run and the next. The key holds the program, JAX's
# version, the compiler's flags and the processor's kind.
CACHE = pathlib.Path(
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or pathlib.Path(tempfile.gettempdir()) / f"tritia-tests-{os.getuid()}"
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish():
    """What was imported stays, and is not looked through for garbage over and over."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped():
    """After each file: thousands of programs take gigabytes. Those in the cache are read again."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield
