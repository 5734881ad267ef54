"""Runs the files of tests/eight_devices, each in a process of its own with eight devices."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / "eight_devices"


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("rows", "not slow"),
        ("lanes", "not slow"),
        ("layers", "not slow"),
        pytest.param("rows", "slow", marks=pytest.mark.slow),
        pytest.param("lanes", "slow", marks=pytest.mark.slow),
        pytest.param("layers", "slow", marks=pytest.mark.slow),
    ],
)
def test_on_eight_devices(name, marks):
    command = [sys.executable, "-m", "pytest", FOLDER / f"{name}.py", "-q", "-n0", f"-m={marks}"]
    found = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=FOLDER.parents[1],
        env=os.environ | {"TRITIA_TEST_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
