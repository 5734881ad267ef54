"""Guards of speed that do not look at the clock: compilations, bytes, and matrix products.

Each bound is the larger of what JAX 0.10 and 0.12 took, with a little room for another version's
compiler; `python -m benchmarks` has the times behind them. Sizes are in copies of the params, small
arrays that a few scalars beside them do not matter to.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import tritia
from benchmarks import programs


@pytest.fixture(scope="module", autouse=True)
def _without_the_compilation_cache():
    """A program that is read from it does not know all that is counted here."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # the setting is read once
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


PARAMS = {"kernel": jnp.ones((64, 48)), "more": [jnp.ones(256), jnp.ones((32, 64))]}


class Cost(NamedTuple):
    """What a compiled, donated update and apply_updates needs, in copies of the params."""

    state: float
    temporary: float  # memory beside params, state and gradient
    traffic: float  # read and written by the compiled operations, one after the other
    flops: float  # a parameter


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _step(optimizer: Any, params: Any, state: Any, grads: Any) -> Any:
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _cost(optimizer: Any, params: Any = PARAMS) -> Cost:
    state, unit = optimizer.init(params), _bytes(params)
    step = jax.jit(functools.partial(_step, optimizer), donate_argnums=(0, 1))
    compiled = step.lower(params, state, params).compile()
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    # All arrays are overwritten in place; a scalar that is not read may be made anew.
    assert memory.alias_size_in_bytes >= _bytes((params, state)) - 16
    return Cost(
        state=_bytes(state) / unit,
        temporary=memory.temp_size_in_bytes / unit,
        traffic=analysis["bytes accessed"] / unit,
        flops=analysis["flops"] / (unit / 4),
    )


SGD, MOMENTUM = optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)
NESTEROV = optax.sgd(0.1, momentum=0.9, nesterov=True)
OPTIMISTIC, ADAM = optax.optimistic_gradient_descent(0.1), optax.adam(0.1)

# Each with Optax's of as much memory. Conditionals are counted with all their branches, of which a
# step runs one: difference(2, 3) has two of 4 copies and moves 8, which is less than Adam's 10.
COSTS = [
    (tritia.adams_bashforth(0.1, 1), SGD, Cost(0, 0, 3, 2)),
    (tritia.linear_multistep(0.1, tritia.heavy_ball_scheme("9/10")), MOMENTUM, Cost(1, 0, 6, 4)),
    (tritia.adams_bashforth(0.1, 2), OPTIMISTIC, Cost(1, 1, 8, 4)),
    (
        tritia.triple_inertia(SGD, predict=0.9, evaluate=0.9, correct=0.1),
        NESTEROV,
        Cost(1, 0, 7, 9),
    ),
    (tritia.difference(0.1, 2, 3), ADAM, Cost(2, 0, 12, 12)),
    (tritia.bdf(0.1, 2), ADAM, Cost(2, 0, 9, 6)),
    # More memory than any of Optax: one copy beside it, however much it is.
    (tritia.adams_bashforth(0.1, 5), ADAM, Cost(4, 1, 17, 10)),
    (tritia.difference(0.1, 3, 6), ADAM, Cost(5, 1, 20, 12)),
]
ROOM = Cost(0.01, 0.1, 0.1, 0.1)  # for scalars, beside arrays this small


@pytest.mark.parametrize(("optimizer", "peer", "most"), COSTS)
def test_an_update_costs_no_more_than_it_did(optimizer, peer, most):
    found = _cost(optimizer)
    for name in Cost._fields:
        assert getattr(found, name) <= getattr(most, name) + getattr(ROOM, name), name
    if most.state <= 2:
        theirs = _cost(peer)
        assert found.state <= theirs.state + ROOM.state
        assert found.temporary <= theirs.temporary + ROOM.temporary
        assert found.traffic <= 1.21 * theirs.traffic + ROOM.traffic
        assert found.flops <= 2 * theirs.flops + ROOM.flops


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    # With one slot beside the base the temporary memory is the update itself.
    ("tableau", "state", "temporary"),
    [("heun", 2, 1), ("rk4", 2, 1), ("rk38", 3, 2), ("dormand_prince", 4, 3)],
)
def test_a_transparent_stage_copies_no_more_than_it_did(tableau, state, temporary, dtype):
    optimizer = tritia.runge_kutta(0.1, tableau, mode="transparent")
    found = _cost(optimizer, optax.tree.cast(PARAMS, dtype))
    assert found.state <= state + ROOM.state
    assert found.temporary <= temporary + ROOM.temporary


def test_triple_inertia_on_bfloat16_copies_no_more_than_its_memory():
    params = optax.tree.cast(PARAMS, jnp.bfloat16)
    found = _cost(tritia.triple_inertia(SGD, predict=0.9, evaluate=0.9, correct=0.1), params)
    assert found.temporary <= 1 + ROOM.temporary  # sums in float32 would be two more


def test_a_schedule_is_worked_out_once_and_not_for_each_array():
    schedule = optax.cosine_decay_schedule(0.1, 100)
    found, constant = _cost(tritia.adams_bashforth(schedule)), _cost(tritia.adams_bashforth(0.1))
    assert found.flops <= constant.flops + 0.2
    assert found.traffic <= constant.traffic + 0.2


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: tritia.difference(rate, 3, 6),
        lambda rate: tritia.bdf(rate, 2),
        lambda rate: tritia.heun(rate, mode="transparent"),
        lambda rate: tritia.triple_inertia(
            optax.adam(rate), predict=0.5, evaluate=0.5, correct=0.1
        ),
        lambda rate: tritia.triple_momentum(lambda count: 1 / rate(count), strong_convexity=0.1),
    ],
)
def test_a_run_with_a_schedule_is_compiled_once(make):
    optimizer = make(optax.warmup_cosine_decay_schedule(1e-3, 0.1, 3, 9))
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        traces.append(None)
        return _step(optimizer, params, state, params)

    params = jax.tree.map(jnp.copy, PARAMS)
    state = optimizer.init(params)
    for _ in range(12):
        params, state = step(params, state)
    assert len(traces) == 1
    assert step._cache_size() == 1


def _update_of_tiam(depth: int, **settings: Any) -> Any:
    """The program of an update that goes on from the params that the last one led to."""
    sizes = (6, *(5,) * (depth - 1), 3)
    params = [
        {"kernel": jnp.ones((i, o)), "bias": jnp.ones(o)} for i, o in itertools.pairwise(sizes)
    ]
    solver = tritia.tiam(8, **settings)
    update = functools.partial(solver.update, None)
    examples = {"inputs": jnp.ones((8, 6)), "targets": jnp.arange(8) % 3}
    return jax.make_jaxpr(update)(solver.init(params), params, **examples)


def _matrix_products(program: Any) -> int:
    return programs.products(program, lambda product: 1)


def test_matrix_products_of_a_block_pass_grow_by_nine_a_layer():
    """13 with 2 layers and 22 with 3.

    A fit that is not kept, as an objective computed in full, adds one a layer.
    """
    method = {"coupling": "penalty", "kernel_step": "exact", "block_order": "backward"}
    two, three, five = (_matrix_products(_update_of_tiam(depth, **method)) for depth in (2, 3, 5))
    assert three <= 22
    assert three - two <= 9
    assert five - three <= 2 * 9  # linear in the depth


@pytest.mark.parametrize("kernel_step", ["exact", "backtracking"])
def test_a_batch_of_solvers_is_not_a_program_of_another_size(kernel_step):
    """What takes long to compile is a long program: the search for tau stays a loop under vmap."""
    params = [{"kernel": jnp.ones((6, 5)), "bias": jnp.ones(5)}, {"kernel": jnp.ones((5, 3))}]
    examples = {"inputs": jnp.ones((8, 6)), "targets": jnp.arange(8) % 3}

    def update(mu: Any) -> Any:
        inertia = tritia.Inertia(0.5, 0.4, 0.3)
        solver = tritia.tiam(8, mu=mu, kernel_step=kernel_step, inertia=inertia)
        return solver.update(None, solver.init(params), params, **examples)[0]

    alone, batched = (
        jax.jit(function).lower(mu).as_text().count("\n")
        for function, mu in ((update, jnp.float32(0.1)), (jax.vmap(update), jnp.ones(4)))
    )
    assert batched < 1.5 * alone


def test_equal_coefficients_of_inertia_need_not_be_one_object():
    """Where c and e are known to be one point, its product with the inputs is taken once."""
    number, again = 0.5, float("0.5")
    assert number is not again
    one, two, other = (
        _update_of_tiam(3, kernel_step="line_search", inertia=tritia.Inertia(number, evaluate, 0.0))
        for evaluate in (number, again, 0.25)
    )
    assert _matrix_products(two) == _matrix_products(one) < _matrix_products(other)


@pytest.mark.parametrize(
    "method",
    [{"kernel_step": "exact", "tau": 0.1}, {"kernel_step": "exact", "coupling": "inequality"}],
    ids=str,
)
def test_equal_coefficients_of_inertia_make_one_program(method):
    number, again = 0.5, float("0.5")

    def program(evaluate, correct):
        kinds = {
            "kernels": tritia.Inertia(number, number, number),
            "biases": tritia.Inertia(0.0, 0.0, correct),
            "activations": tritia.Inertia(number, evaluate, number),
        }
        return str(_update_of_tiam(3, inertia=kinds, **method))

    assert program(again, again) == program(number, number)
    assert program(number, 0.25) != program(number, number)


@pytest.mark.parametrize(
    ("tableau", "gradients"), [("heun", 2), ("ssp_rk3", 3), ("rk4", 4), ("dormand_prince", 6)]
)
def test_a_runge_kutta_step_takes_one_gradient_a_stage(tableau, gradients):
    optimizer, points = tritia.runge_kutta(0.1, tableau), []

    def grad_fn(params):
        points.append(None)
        return jax.tree.map(jnp.sin, params)

    def step(params):
        return optimizer.update(grad_fn(params), optimizer.init(params), params, grad_fn=grad_fn)

    program = str(jax.make_jaxpr(step)(jnp.ones(3)))
    assert len(points) == gradients
    assert program.count("= sin ") == gradients


def test_stages_of_chebyshev_are_one_program_whatever_their_number():
    def step(params, stages):
        optimizer = tritia.rkc(0.1, stages=stages)
        return optimizer.update(params, optimizer.init(params), params, grad_fn=jnp.sin)

    few, many = (str(jax.make_jaxpr(lambda w, s=s: step(w, s))(jnp.ones(3))) for s in (5, 50))
    assert few.count("= sin ") == many.count("= sin ") == 1
    assert few.count(" = ") == many.count(" = ")
