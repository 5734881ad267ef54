"""Two processes of four devices each, as on two hosts, and a checkpoint that outlives them."""

import contextlib
import itertools
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import two_processes as worker

ROOT = pathlib.Path(__file__).parents[1]


def _start(folder, *arguments):
    log = (folder / f"log-{'-'.join(map(str, arguments))}").open("w+")
    command = [sys.executable, "-m", "tests.two_processes", *map(str, arguments[:-1])]
    process = subprocess.Popen(
        [*command, folder, arguments[-1]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return process, log


def _output(log):
    log.seek(0)
    return log.read()


def _free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _close(file, expected):
    with np.load(file) as found:
        for key, leaf in zip(found.files, jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found[key], leaf, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_save_and_are_gone_on_from(tmp_path):
    port = _free_port()
    both = [_start(tmp_path, number, 2, 4, port, "save") for number in range(2)]
    try:
        while not all((tmp_path / f"save-8-{number}").exists() for number in range(2)):
            for process, log in both:
                assert process.poll() is None, _output(log)
            time.sleep(0.1)
    finally:
        for process, log in both:
            process.kill()
            process.wait()
            log.close()
    for devices in (8, 4):
        process, log = _start(tmp_path, 0, 1, devices, 0, "go_on")
        with log:
            assert process.wait() == 0, _output(log)

    x, y = worker.examples()
    for name, optimizer in worker.optimizers().items():
        params = jax.tree.map(jax.numpy.asarray, worker.first_params())
        carry = worker.train(optimizer, params, optimizer.init(params), x, y)
        _close(tmp_path / f"{name}-save-8.npz", carry[0])
        carry = worker.train(optimizer, *carry, x, y)
        for devices in (8, 4):
            _close(tmp_path / f"{name}-go_on-{devices}.npz", carry[0])


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path):
    port = _free_port()
    both = [_start(tmp_path, number, 2, 4, port, "sweep") for number in range(2)]
    try:
        for process, log in both:
            assert process.wait() == 0, _output(log)
    finally:
        for process, log in both:
            process.kill()
            process.wait()
            log.close()
    for name, result in worker.sweeps().items():
        for number, way in itertools.product(range(2), ("", " in chunks")):
            _close(tmp_path / f"{name}{way}-{number}.npz", worker.numbers(result))
