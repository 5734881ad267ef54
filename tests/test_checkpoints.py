"""Runs that were saved in the middle of something go on as if nothing had happened.

That every transform does so from some state is in the contract battery; here are the states that
hold work in progress, and what is not to be mixed up.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx

import tritia
from tests.contract import LAYERS, ROWS, TREE
from tritia._checkpoints import check_restorable


def save(path, tree):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def restore(path, template):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        check_restorable(checkpointer.metadata(path), template)
        return checkpointer.restore(path, template)


def steps_of(optimizer, problem):
    def step(params, state):
        updates, state = optimizer.update(
            problem.gradient(params), state, params, **problem.extra(params)
        )
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


@pytest.mark.parametrize(
    ("factory", "stages"),
    [
        (tritia.heun, 2),
        (functools.partial(tritia.runge_kutta, scheme="kutta3"), 3),
        (tritia.rk4, 4),
    ],
    ids=["heun", "kutta3", "rk4"],
)
def test_a_transparent_step_goes_on_after_any_of_its_stages(tmp_path, factory, stages):
    optimizer = factory(0.1, mode="transparent")
    step = steps_of(optimizer, TREE)
    params = TREE.params()
    trajectory = [(params, optimizer.init(params))]
    for _ in range(2 * stages):
        trajectory.append(step(*trajectory[-1]))
    for done in range(1, stages):
        assert not bool(tritia.at_step_boundary(trajectory[done][1]))
        save(tmp_path / str(done), trajectory[done])
        again = restore(tmp_path / str(done), trajectory[0])
        chex.assert_trees_all_equal(again, trajectory[done])
        for later in range(done + 1, 2 * stages + 1):
            again = step(*again)
            chex.assert_trees_all_equal(again, trajectory[later])


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(tritia.mdlam, marks=pytest.mark.slow),
        functools.partial(tritia.tiam, inertia=tritia.Inertia(0.5, 0.5, 0.2), kernel_step="exact"),
    ],
    ids=["mdlam", "tiam"],
)
def test_layerwise_training_goes_on_with_its_auxiliary_variables(tmp_path, factory):
    optimizer = factory(ROWS)
    step = steps_of(optimizer, LAYERS)
    params = LAYERS.params()
    start = params, optimizer.init(params)
    halfway = step(*step(*start))
    assert any(np.any(z) for z in halfway[1].pre_activations)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(halfway[1].displacement))
    save(tmp_path / "saved", halfway)
    again = restore(tmp_path / "saved", start)
    for _ in range(2):
        halfway, again = step(*halfway), step(*again)
        chex.assert_trees_all_equal(again, halfway)
    # The auxiliary variables matter: a fresh state from the same params goes elsewhere.
    fresh = step(*step(params := restore(tmp_path / "saved", start)[0], optimizer.init(params)))
    assert not np.array_equal(jax.tree.leaves(fresh[0])[0], jax.tree.leaves(again[0])[0])


def test_an_nnx_model_and_its_optimizer_go_on(tmp_path):
    x = jax.random.normal(jax.random.key(0), (8, 3))

    def build():
        model = nnx.Sequential(
            nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.3, rngs=nnx.Rngs(1))
        )
        solver = tritia.triple_inertia(optax.adam(0.01), predict=0.5, evaluate=0.5, correct=0.1)
        return model, nnx.Optimizer(model, solver, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(jnp.cosh(model(x))))(model))

    def arrays(both):  # the keys of dropout are saved as the numbers they are made of
        leaf = lambda x: (  # noqa: E731
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        return nnx.to_pure_dict(jax.tree.map(leaf, nnx.as_pure(nnx.state(both))))

    both = build()
    for _ in range(3):
        step(*both)
    save(tmp_path / "saved", arrays(both))
    again = build()
    restored = restore(tmp_path / "saved", arrays(again))
    state = nnx.state(again)
    leaves, structure = jax.tree.flatten(state)
    new = [
        jax.random.wrap_key_data(value)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else value
        for leaf, value in zip(leaves, jax.tree.leaves(restored), strict=True)
    ]
    nnx.update(again, jax.tree.unflatten(structure, new))
    chex.assert_trees_all_equal(arrays(again), arrays(both))
    for _ in range(2):
        step(*both)
        step(*again)
    chex.assert_trees_all_equal(arrays(again), arrays(both))


PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
OTHER = {"w": jnp.ones((4, 2)), "b": jnp.ones(2)}


@pytest.mark.parametrize(
    ("saved", "wanted", "named"),
    [
        (
            (tritia.difference(0.1, steps=3), PARAMS),
            (tritia.difference(0.1, steps=4), PARAMS),
            [
                "1/step_sizes: saved (2,) float32, expected (3,) float32",
                "1/displacements/2/w: saved nothing",
            ],
        ),
        (
            (tritia.difference(0.1), PARAMS),
            (tritia.difference(0.1), OTHER),
            [
                "0/w: saved (3, 2) float32, expected (4, 2) float32",
                "1/displacements/0/w: saved (3, 2)",
            ],
        ),
        (
            (tritia.difference(0.1), PARAMS),
            (tritia.difference(0.1, accumulator_dtype="bfloat16"), PARAMS),
            ["1/displacements/0/b: saved (2,) float32, expected (2,) bfloat16"],
        ),
        (
            (tritia.rk4(0.1, mode="transparent"), PARAMS),
            (tritia.rk4(0.1), PARAMS),
            ["1/base/w: saved (3, 2) float32, expected nothing"],
        ),
        (
            (tritia.tiam(ROWS), LAYERS.params()),
            (tritia.tiam(ROWS + 1), LAYERS.params()),
            [f"1/activations/0: saved ({ROWS}, 6) float32, expected ({ROWS + 1}, 6) float32"],
        ),
        (
            (tritia.tiam(ROWS, kernel_step="exact"), LAYERS.params()),
            (tritia.tiam(ROWS, kernel_step="backtracking"), LAYERS.params()),
            ["1/tau: saved nothing, expected (2,) float32"],
        ),
    ],
    ids=["steps", "params", "dtype", "mode", "rows", "kernel_step"],
)
def test_another_configuration_is_named(tmp_path, saved, wanted, named):
    (optimizer, params), (other, other_params) = saved, wanted
    save(tmp_path / "saved", (params, optimizer.init(params)))
    with pytest.raises(ValueError, match="another configuration") as error:
        restore(tmp_path / "saved", (other_params, other.init(other_params)))
    for words in named:
        assert words in str(error.value)
    restore(tmp_path / "saved", (params, optimizer.init(params)))  # and its own is accepted
