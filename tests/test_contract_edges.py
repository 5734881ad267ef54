"""Every transform where training ends: extreme numbers, JAX's strict modes, leaves that are not
trained, meshes whose axes are in the types. What a trace shows is traced and not compiled."""

from __future__ import annotations

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
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
    """Trains with the given numbers, and returns params and states after each step."""

    @jax.jit
    def train(numbers):
        params, optimizer = case.problem.params(), case.make(**numbers)

        def body(carry, _):
            carry = step(case, optimizer, *carry)
            return carry, carry

        return jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)[1]

    return train


def _is_allowed(case: Case, name: str, value: float) -> bool:
    try:
        case.make(**{name: value})
    except ValueError:  # which test_wrong_arguments_name_the_argument looks at
        return False
    return True


@each([case for case in RUN if case.numbers])
def test_numbers_at_the_ends_of_their_range(case):
    """They are refused, or training runs; and it stays finite, but for the largest numbers."""
    numbers = {name: jnp.float32(value) for name, value in case.numbers.items()}
    wrong = []
    for name in case.numbers:
        for value in (0.0, LIMITS.smallest_subnormal, LIMITS.tiny, LIMITS.max):
            if not _is_allowed(case, name, float(value)):
                continue
            after = _train(case)({**numbers, name: jnp.float32(value)})
            finite = all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(after))
            if not finite and value != LIMITS.max:
                wrong.append(f"{name} = {value}")
    assert not wrong


@each([case for case in RUN if "learning_rate" in case.numbers])
def test_a_learning_rate_of_zero_moves_nothing(case):
    numbers = {name: jnp.float32(value) for name, value in case.numbers.items()}
    params, _ = _train(case)({**numbers, "learning_rate": jnp.float32(0)})
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], params), case.problem.params())


# --- JAX's strict modes ---


@every_case
@pytest.mark.parametrize("schedules", [False, True], ids=["numbers", "schedules"])
def test_neither_ranks_nor_dtypes_are_promoted_silently(case, schedules):
    params, numbers = case.problem.params(), {}
    if schedules and case.schedules:
        numbers = {name: optax.constant_schedule(v) for name, v in case.numbers.items()}
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        optimizer = case.make(**numbers)
        state = jax.eval_shape(optimizer.init, params)
        after = jax.eval_shape(functools.partial(step, case, optimizer), params, state)
    assert types(after) == types((params, state))


# --- Leaves that are not trained ---


@every_tree_case
def test_a_leaf_without_a_gradient_is_left_alone(case):
    """As in Optax: init sees the arrays; update a gradient of None beside a leaf of any kind."""
    arrays = {**case.problem.params(), "activation": None, "nothing": None}
    optimizer = case.make()

    def gradient(params):
        return case.problem.gradient({**params, "activation": None})

    extra = {"grad_fn": gradient} if case.problem.missing == "grad_fn" else {}

    def update(arrays, state):
        params = {**arrays, "activation": jax.nn.relu}
        return optimizer.update(gradient(arrays), state, params, **extra)

    state = jax.eval_shape(optimizer.init, arrays)
    updates, after = jax.eval_shape(update, arrays, state)
    assert types(updates) == types(arrays)
    assert updates["activation"] is None
    assert types(after) == types(state)


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
        with pytest.raises(ValueError, match="masked"):
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
@pytest.mark.parametrize("schedules", [False, True], ids=["numbers", "schedules"])
def test_in_a_shard_map_over_different_params(case, schedules):
    """With the default `check_vma`: what is carried varies over the axis as the params do."""
    mesh, spec = jax.make_mesh((2,), ("data",)), jax.sharding.PartitionSpec("data")
    each_device = [case.problem.params(seed=seed) for seed in range(2)]
    stacked = jax.device_put(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *each_device),
        jax.sharding.NamedSharding(mesh, spec),
    )
    numbers = {}
    if schedules and case.schedules:
        numbers = {name: optax.constant_schedule(v) for name, v in case.numbers.items()}
    optimizer = case.make(**numbers)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    def train(stacked):
        params = jax.tree.map(lambda leaf: leaf[0], stacked)

        def body(carry, _):
            return step(case, optimizer, *carry), None

        (params, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)
        return jax.tree.map(lambda leaf: leaf[None], params)

    assert types(jax.eval_shape(train, stacked)) == types(stacked)
