"""Runs of a sweep, and seeds of a comparison, spread over eight devices.

Halving, chunks and solvers are quick over two devices, in tests/sweeps.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from benchmarks.collectives import bytes_of_collectives
from tritia._compare import datasets, training, tuning
from tritia._compare.optimizers import OPTIMIZERS
from tritia.sweeps import Halving, grid, minibatches, plain_problem, run
from tritia.sweeps._lanes import checked_mesh, first_device, lanes_for
from tritia.sweeps._vmapped import Plan, compile_runs, iterate

ROWS = 40


@functools.cache
def _data():
    x = jax.random.normal(jax.random.key(0), (ROWS, 6))
    return {"x": x, "y": (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)}


def _init(key):
    keys = jax.random.split(key)
    return [
        {"kernel": jax.random.normal(keys[0], (6, 8)), "bias": jnp.zeros(8)},
        {"kernel": jax.random.normal(keys[1], (8, 2)), "bias": jnp.zeros(2)},
    ]


def _loss(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params[0]["kernel"] + params[0]["bias"])
    logits = hidden @ params[1]["kernel"] + params[1]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


PROBLEM = plain_problem(_init, _loss, evaluate=_loss)
MAKE = {
    "difference": lambda setting: tritia.difference(setting["learning_rate"]),
    "stochastic_tiam": lambda setting: tritia.stochastic_tiam(setting["learning_rate"]),
}


def _examples(batch):
    return {"inputs": batch["x"], "targets": batch["y"]}


def _rates(count):
    return grid(learning_rate=np.geomspace(0.01, 0.1, count))


def _run(name, settings, devices, **options):
    mesh = jax.sharding.Mesh(jax.devices()[:devices], ("any",)) if devices else None
    return run(
        MAKE[name],
        settings,
        PROBLEM,
        _data(),
        steps=20,
        batch=minibatches(20),
        extra=_examples if name == "stochastic_tiam" else None,
        mesh=mesh,
        **options,
    )


def _agree(spread, alone):
    for name in ("losses", "values", "scores"):
        np.testing.assert_allclose(getattr(spread, name), getattr(alone, name), rtol=1e-4)
    assert spread.best == alone.best
    assert spread.at_once == alone.at_once
    chex.assert_trees_all_close(
        jax.device_get(spread.params), jax.device_get(alone.params), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "seeds"),
    [(11, 3), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((16, 1), (2, 8)))],
)
def test_results_do_not_depend_on_the_number_of_devices(settings, seeds):
    alone = _run("difference", _rates(settings), 1, seeds=seeds)
    for devices in (None, 3):  # None: all of them
        spread = _run("difference", _rates(settings), devices, seeds=seeds)
        _agree(spread, alone)
        assert spread.bytes < alone.bytes


def test_where_a_mesh_is_set_runs_are_not_spread():
    alone = _run("difference", _rates(8), 1)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))):
        _agree(_run("difference", _rates(8), None), alone)
        with pytest.raises(ValueError, match=r"mesh is .*set by jax\.set_mesh; call"):
            _run("difference", _rates(8), 8)


@pytest.mark.slow
def test_a_solver_is_spread():
    _agree(*(_run("stochastic_tiam", _rates(8), devices, seeds=2) for devices in (None, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, 30_000])
def test_halving(memory):
    options = {"seeds": 3, "halving": Halving()}
    spread = _run("difference", _rates(9), None, memory=memory, **options)
    alone = _run("difference", _rates(9), 1, **options)
    np.testing.assert_array_equal(spread.trained, alone.trained)
    np.testing.assert_allclose(spread.losses, alone.losses, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [40, 1])
def test_chunks_fit_the_memory_of_each_device(settings):
    seeds = 40 // settings
    whole = _run("difference", _rates(settings), None, seeds=seeds)
    part = _run("difference", _rates(settings), None, seeds=seeds, memory=whole.bytes // 2)
    assert part.bytes <= whole.bytes // 2
    assert np.prod(part.at_once) < 40
    np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "seeds"), [("difference", 2, 8), ("stochastic_tiam", 8, 2)]
)
def test_nothing_travels_between_devices(name, settings, seeds):
    extra = _examples if name == "stochastic_tiam" else lambda batch: {}
    plan = Plan(MAKE[name], PROBLEM, minibatches(20), extra, iterate, 2)
    lanes = lanes_for(checked_mesh(None), settings, seeds)
    rates = {"learning_rate": jax.ShapeDtypeStruct((settings,), jnp.float32)}
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds, dtype=jnp.uint32))
    runs = compile_runs(plan, rates, keys, _data(), lanes)
    assert bytes_of_collectives(runs.advance) == {}
    carry = runs.start({"learning_rate": jnp.ones(settings)}, keys)
    for leaf in jax.tree.leaves(carry):
        assert leaf.sharding.num_devices == 8
        assert not leaf.sharding.is_fully_replicated


def test_what_is_no_mesh_is_refused():
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh or None; got 8"):
        run(MAKE["difference"], _rates(2), PROBLEM, _data(), steps=2, mesh=8)


@pytest.fixture(scope="module")
def bench():
    wine = datasets.DATASETS["wine"](None)
    return training.prepare(wine, (6,), seeds=11, batch_size=None, mesh=checked_mesh(None))


def test_seeds_of_a_comparison_are_spread_and_gone_on_with_anywhere(bench):
    """11 seeds: two on each of six devices, one of them twice."""
    optimizer, setting = OPTIMIZERS["adam"], {"learning_rate": 0.01}
    one = dataclasses.replace(bench, mesh=first_device())
    spread, alone = (training.compile_training(b, optimizer, setting) for b in (bench, one))
    lies = {leaf.sharding.num_devices for leaf in jax.tree.leaves(spread.carry)}
    assert lies == {6}
    assert bytes_of_collectives(spread.program) == {}

    # Each goes on from where the other stopped, as from a checkpoint.
    curves, states = zip(
        *(training.train(b, optimizer, c, 2) for b, c in ((bench, spread), (one, alone))),
        strict=True,
    )
    for leaf in jax.tree.leaves(states):
        assert (len(leaf), leaf.sharding.num_devices) == (bench.seeds, 1)
    found = curves[0].joined(training.train(one, optimizer, alone, 3, begin=(2, states[0]))[0], 1)
    other = training.train(bench, optimizer, spread, 3, begin=(2, states[1]))[0]
    for first, second in zip(found[:4], curves[1].joined(other, axis=1)[:4], strict=True):
        assert first.shape == (bench.seeds, 4)
        np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize(
    ("rates", "seeds"),
    [(11, 2), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((2, 3), (0, 3)))],
)
def test_tuning_is_spread(bench, rates, seeds):
    """The rates, the seeds, and the seeds of an optimizer without any number to tune."""
    settings = [{"learning_rate": rate} for rate in np.geomspace(0.01, 1, rates)] or [{}]
    sgd = OPTIMIZERS["sgd"]
    if not rates:
        sgd = dataclasses.replace(sgd, build=lambda setting, task: optax.sgd(0.1))
    bench = bench.only(0, seeds)
    one = dataclasses.replace(bench, mesh=first_device())
    found, expected = (tuning.validate(b, sgd, settings, 2) for b in (bench, one))
    assert len(found[0]) == len(settings)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
