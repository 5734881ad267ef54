"""Every public transform at the limits of what it may be given.

Extreme numbers, JAX's strict modes, leaves that are not trained, parts of a network, meshes whose
axes are in the types. What a trace shows is traced and not compiled.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contract import RUN, Case, each, step, types

STEPS = 4
LIMITS = jnp.finfo(jnp.float32)
every_case = each(RUN)
every_tree_case = each([case for case in RUN if case.problem.any_tree])


# --- Numbers ---


@functools.cache
def _train(case: Case) -> Any:
    """Trains with any numbers and from any params, compiled once; returns params and state."""

    @jax.jit
    def train(numbers, params):
        optimizer = case.make(**numbers)

        def body(carry, _):
            return step(case, optimizer, *carry), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)[0]

    return lambda changes, params: train(
        {name: jnp.float32(value) for name, value in {**case.numbers, **changes}.items()}, params
    )


def _is_allowed(case: Case, name: str, value: float) -> bool:
    try:
        case.make(**{name: value})
    except ValueError:  # which test_wrong_arguments_name_the_argument looks at
        return False
    return True


def _is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


SMALLEST = [0.0, float(LIMITS.smallest_subnormal), float(LIMITS.tiny)]
LARGEST = float(LIMITS.max)


@each([case for case in RUN if case.numbers])
def test_numbers_at_the_ends_of_their_range(case):
    """They are refused, or training runs; and it stays finite, but for the largest numbers."""
    wrong = []
    for name in case.numbers:
        for value in (*SMALLEST, LARGEST):
            if _is_allowed(case, name, value):
                after = _train(case)({name: value}, case.problem.params())
                if value != LARGEST and not _is_finite(after):
                    wrong.append(f"{name} = {value}")
    assert not wrong


every_case_with_a_rate = each([case for case in RUN if "learning_rate" in case.numbers])


@every_case_with_a_rate
def test_a_learning_rate_of_almost_zero_moves_nothing(case):
    params = case.problem.params()
    for rate in SMALLEST:
        after, _ = _train(case)({"learning_rate": rate}, params)
        chex.assert_trees_all_close(after, params, rtol=0, atol=0 if rate == 0 else 1e-7)


@each([case for case in RUN if "learning_rate" in case.numbers and case.problem.any_tree])
def test_the_largest_learning_rate_does_not_move_what_has_no_gradient(case):
    zero = jax.tree.map(jnp.zeros_like, case.problem.params())
    after, _ = _train(case)({"learning_rate": LARGEST}, zero)
    chex.assert_trees_all_equal(after, zero)


@every_case_with_a_rate
def test_schedules_from_and_at_almost_zero(case):
    """Steps of size 0 and of denormal size leave nothing behind that is not finite."""

    @jax.jit
    def train(rates):
        optimizer = case.make(learning_rate=lambda count: rates[jnp.minimum(count, 3)])
        params = case.problem.params()

        def body(carry, _):
            return step(case, optimizer, *carry), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=4 * STEPS)[0]

    start = case.problem.params()
    for rate in SMALLEST:
        after = train(jnp.full(4, rate, jnp.float32))
        assert _is_finite(after)
        chex.assert_trees_all_close(after[0], start, rtol=0, atol=1e-7)
    warm_up = train(jnp.asarray([*SMALLEST, 0.1], jnp.float32))
    assert _is_finite(warm_up)
    leaves = zip(*map(jax.tree.leaves, (start, warm_up[0])), strict=True)
    assert all(bool(jnp.any(x != y)) for x, y in leaves)


# --- JAX's strict modes ---


def _as(case: Case, kind: str) -> dict[str, Any]:
    """The case's numbers as they are, as arrays, or as schedules where they may be schedules."""
    make = {
        "numbers": lambda value: value,
        "arrays": jnp.asarray,
        "schedules": optax.constant_schedule,
    }[kind]
    fixed = case.constants if kind == "schedules" else ()
    return {name: value if name in fixed else make(value) for name, value in case.numbers.items()}


@every_case
@pytest.mark.parametrize(
    "numbers", [pytest.param("numbers", marks=pytest.mark.slow), "arrays", "schedules"]
)
def test_neither_ranks_nor_dtypes_are_promoted_silently(case, numbers):
    params, numbers = case.problem.params(), _as(case, numbers)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        optimizer = case.make(**numbers)
        state = jax.eval_shape(optimizer.init, params)
        after = jax.eval_shape(functools.partial(step, case, optimizer), params, state)
    assert types(after) == types((params, state))


# --- Leaves that are not trained ---


FUNCTION, TABLE, KEY = jax.nn.relu, np.arange(3), jax.random.key(0)


@every_tree_case
@pytest.mark.parametrize(
    "gradients",
    [
        {"function": None, "table": None, "key": None},
        {
            "function": None,
            "table": np.zeros(3, jax.dtypes.float0),
            "key": np.zeros((), jax.dtypes.float0),
        },
    ],
    ids=["None", "float0"],
)
def test_leaves_that_are_not_trained_are_left_alone(case, gradients):
    """Functions, integers and random keys: the program is the one without them.

    As in Optax, init sees the arrays and update the whole model.
    """
    optimizer, start = case.make(), case.problem.params()

    def program(rest, untouched):
        def gradient(params):
            trained = {name: params[name] for name in start}
            return {**case.problem.gradient(trained), **untouched}

        extra = {"grad_fn": gradient} if case.problem.missing == "grad_fn" else {}

        def update(params, state):
            whole = {**params, **rest}
            updates, state = optimizer.update(gradient(whole), state, whole, **extra)
            for name, leaf in untouched.items():
                assert updates.pop(name) is leaf
            return updates, state

        arrays = {name: None if leaf is FUNCTION else leaf for name, leaf in rest.items()}
        state = jax.eval_shape(lambda params: optimizer.init({**params, **arrays}), start)
        return jax.make_jaxpr(update)(start, state)

    rest = {"function": FUNCTION, "table": TABLE, "key": KEY}
    with_them, alone = program(rest, gradients), program({}, {})
    assert str(with_them.jaxpr) == str(alone.jaxpr)


@every_case
def test_integer_params_are_refused_by_name(case):
    params = case.problem.params()
    leaves, structure = jax.tree.flatten(params)
    leaves[0] = leaves[0].astype(jnp.int32)
    params, optimizer = jax.tree.unflatten(structure, leaves), case.make()
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(params)
    name = str(getattr(path[-1], "key", path[-1]))
    with pytest.raises(TypeError, match=rf"(?s)(?=.*\b{re.escape(name)}\b)(?=.*int32)"):
        jax.eval_shape(lambda p: step(case, optimizer, p, optimizer.init(p)), params)


@each([case for case in RUN if not case.problem.any_tree])
def test_a_solver_given_part_of_the_layers_says_so_or_works(case):
    params = case.problem.params()
    mask = {"layers": [{"kernel": True, "bias": True}, {"kernel": False, "bias": False}]}
    optimizer = optax.masked(case.make(), mask)

    def masked_step(params):
        return step(case, optimizer, params, optimizer.init(params))

    if not case.masked:
        with pytest.raises(ValueError, match=r"masked|layer_inputs must"):
            jax.eval_shape(masked_step, params)
        return
    after, _ = jax.jit(masked_step)(params)
    whole = case.make()
    alone, _ = jax.jit(lambda p: step(case, whole, p, whole.init(p)))(params)
    chex.assert_trees_all_close(after["layers"][0], alone["layers"][0], rtol=1e-5, atol=1e-6)


# --- Meshes whose axes are in the types ---


def _split(leaf: jax.Array) -> jax.sharding.PartitionSpec:
    """Along the first axis of even length."""
    even = [i for i, size in enumerate(leaf.shape) if size % 2 == 0]
    return jax.sharding.PartitionSpec(
        *("data" if even and i == even[0] else None for i in range(leaf.ndim))
    )


@every_case
def test_on_an_explicit_mesh(case):
    """Arrays over explicit axes, JAX's default, keep their shardings; solvers' are replicated."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    optimizer, params = case.make(), case.problem.params()

    def spec(leaf):
        return _split(leaf) if case.problem.any_tree else jax.sharding.PartitionSpec()

    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda leaf: jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec(leaf))), params
        )
        state = jax.eval_shape(optimizer.init, params)
        after, _ = jax.eval_shape(functools.partial(step, case, optimizer), params, state)
    for new, old in zip(*map(jax.tree.leaves, (after, params)), strict=True):
        assert new.sharding.spec == jax.typeof(old).sharding.spec


@every_case
@pytest.mark.parametrize("numbers", [pytest.param("numbers", marks=pytest.mark.slow), "schedules"])
def test_in_a_shard_map_over_different_params(case, numbers):
    """With the default `check_vma`: what is carried varies over the axis as the params do."""
    mesh, spec = jax.make_mesh((2,), ("data",)), jax.sharding.PartitionSpec("data")
    each_device = [case.problem.params(seed=seed) for seed in range(2)]
    stacked = jax.device_put(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *each_device),
        jax.sharding.NamedSharding(mesh, spec),
    )
    optimizer = case.make(**_as(case, numbers))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    def train(stacked):
        params = jax.tree.map(lambda leaf: leaf[0], stacked)

        def body(carry, _):
            return step(case, optimizer, *carry), None

        (params, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)
        return jax.tree.map(lambda leaf: leaf[None], params)

    assert types(jax.eval_shape(train, stacked)) == types(stacked)
