"""The block pass: it never raises the objective, stays feasible, and rests at a minimum."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tritia.alternating._blocks.activations import ACTIVATIONS
from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.losses import LOSSES
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch.block_pass import update_blocks
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    Variables,
    objective,
)
from tritia.inertia import Inertia

SIZES = (5, 6, 4, 3)
DEPTH = len(SIZES) - 1
N = 12


def method(coupling="penalty", step="exact", order="backward", activation="relu", **changes):
    return Method(
        activations=(ACTIVATIONS[activation],) * (DEPTH - 1),
        loss=LOSSES[changes.pop("loss", "softmax_cross_entropy")],
        coupling=coupling,
        kernel_steps=(step,) * DEPTH,
        by_rows=(False,) * DEPTH,
        block_order=order,
        **changes,
    )


def problem(seed, loss="softmax_cross_entropy"):
    keys = jax.random.split(jax.random.key(seed), DEPTH + 2)
    kernels = tuple(
        jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        for key, shape in zip(keys, itertools.pairwise(SIZES), strict=False)
    )
    x = jax.random.normal(keys[-1], (N, SIZES[0]))
    labels = jax.random.randint(keys[-2], (N,), 0, SIZES[-1])
    targets = jax.nn.one_hot(labels, SIZES[-1], dtype=x.dtype)
    return kernels, tuple(jnp.zeros(k) for k in SIZES[1:]), Examples(x, targets, Rows())


def numbers(rho=0.3, gamma=0.2, mu=0.1, tau=0.0, eps=0.5):
    return Numbers((rho,) * DEPTH, (gamma,) * (DEPTH - 1), (mu,) * DEPTH, tau, eps)


def feasible(method, kernels, biases, examples):
    """The variables of a forward pass, where every coupling holds."""
    z, a = forward_pass(kernels, biases, method.activations, examples.inputs)
    return Variables(kernels, biases, z, a[1:])


def at_rest(variables):
    return Displacements(
        jax.tree.map(jnp.zeros_like, variables.kernels),
        jax.tree.map(jnp.zeros_like, variables.activations),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(method, passes, seed, numbers, coefficients):
    """Passes with one compilation per method; returns the objectives and the last variables."""
    kernels, biases, examples = problem(seed)
    start = feasible(method, kernels, biases, examples)
    inertias = Inertias(*(Inertia(*coefficients),) * 5)
    tau = jnp.ones(DEPTH) if method.kernel_steps[0] == "backtracking" else ()

    def body(carry, _):
        variables, displacements, tau = carry
        result = update_blocks(
            method, numbers, inertias, variables, examples, displacements=displacements, tau=tau
        )
        carry = result.variables, result.displacements, result.tau
        return carry, (result.objective, result.rejected)

    first = objective(method, numbers, start, examples)[0]
    carry, (values, rejected) = jax.lax.scan(body, (start, at_rest(start), tau), length=passes)
    return jnp.concatenate([first[None], values]), rejected, carry[0]


coefficient = st.floats(-0.5, 1.5)


@pytest.mark.parametrize(
    ("step", "order", "activation"),
    [
        ("exact", "backward", "relu"),
        pytest.param("exact", "symmetric", "tanh", marks=pytest.mark.slow),
        pytest.param("line_search", "forward", "leaky_relu", marks=pytest.mark.slow),
        ("backtracking", "backward", "silu"),
        ("exact", "red_black", "relu"),
        pytest.param("exact", "pipeline", "tanh", marks=pytest.mark.slow),
        ("line_search", "pipeline", "relu"),
    ],
)
@given(
    seed=st.integers(0, 1000),
    penalties=st.tuples(*(st.floats(1e-3, 3.0),) * 3),
    p=st.tuples(coefficient, coefficient, coefficient),
)
@settings(max_examples=10)
def test_with_the_safeguard_the_objective_never_rises(step, order, activation, seed, penalties, p):
    rho, gamma, mu = penalties
    values = np.asarray(
        train(
            method(step=step, order=order, activation=activation),
            8,
            seed,
            numbers(rho, gamma, mu),
            p,
        )[0],
        np.float64,
    )
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) <= 2e-6 * np.abs(values[:-1]) + 1e-6)
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("order", "activation"),
    [
        pytest.param("forward", "relu", marks=pytest.mark.slow),
        pytest.param("backward", "tanh", marks=pytest.mark.slow),
        pytest.param("symmetric", "relu6", marks=pytest.mark.slow),
        pytest.param("backward", "softplus", marks=pytest.mark.slow),
        ("red_black", "relu"),
        ("pipeline", "tanh"),
    ],
)
def test_inequality_passes_are_feasible(order, activation):
    """Also right after eps has shrunk far below what the last pass allowed."""
    chosen = method("inequality", "exact", order, activation)
    kernels, biases, examples = problem(0)
    variables = feasible(chosen, kernels, biases, examples)
    displacements = at_rest(variables)
    inertias = Inertias(*(Inertia(0.5, 0.4, 0.6),) * 5)
    step = jax.jit(functools.partial(update_blocks, chosen))
    for eps in (10.0, 2.0, 0.1, 0.1, 1e-3):
        result = step(numbers(eps=eps), inertias, variables, examples, displacements=displacements)
        variables, displacements = result.variables, result.displacements
        for a, z in zip(variables.activations, variables.pre_activations, strict=False):
            gap = jnp.abs(a - ACTIVATIONS[activation].value(z))
            assert float(jnp.max(gap)) <= eps + 1e-5


@pytest.mark.parametrize("step", ["exact", pytest.param("line_search", marks=pytest.mark.slow)])
def test_with_constant_eps_the_objective_falls_under_inequality_too(step):
    values = np.asarray(train(method("inequality", step), 20, 0, numbers(), (0.3, 0.3, 0.3))[0])
    assert np.all(np.diff(values) <= 1e-5 * values[:-1])


@pytest.mark.parametrize(
    ("coupling", "step"),
    [
        ("penalty", "exact"),
        pytest.param("penalty", "backtracking", marks=pytest.mark.slow),
        ("inequality", "line_search"),
    ],
)
def test_zero_inertia_is_the_plain_method_exactly(coupling, step):
    """Traced zeros go through every extrapolation; Python zeros skip them."""
    chosen = method(coupling, step, safeguard=False)
    extrapolated = train(chosen, 3, 0, numbers(), (0.0, 0.0, 0.0))[2]
    kernels, biases, examples = problem(0)
    variables = feasible(chosen, kernels, biases, examples)
    tau = jnp.ones(DEPTH) if step == "backtracking" else ()
    one = jax.jit(lambda v, t, d: update_blocks(chosen, numbers(), Inertias(), v, d, tau=t))
    for _ in range(3):
        result = one(variables, tau, examples)
        variables, tau = result.variables, result.tau
    for expected, actual in zip(
        jax.tree.leaves(variables), jax.tree.leaves(extrapolated), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_inertia_changes_the_iterates():
    for p in ((0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)):
        plain, moved = (
            train(method(step="line_search", safeguard=False), 3, 0, numbers(), q)[2].kernels[0]
            for q in ((0.0, 0.0, 0.0), p)
        )
        assert float(jnp.max(jnp.abs(plain - moved))) > 1e-4


@pytest.mark.parametrize(
    ("activation", "seed"), [pytest.param("relu", 0, marks=pytest.mark.slow), ("tanh", 1)]
)
def test_a_fixed_point_stays_fixed(x64, activation, seed):
    chosen, settled = method(activation=activation), numbers(1.0, 1.0, 2.0)
    _, _, variables = train(chosen, 1000, seed, settled, (0.0, 0.0, 0.3))
    _, _, examples = problem(seed)
    once = jax.jit(lambda v: update_blocks(chosen, settled, Inertias(), v, examples))
    again = once(variables).variables
    for before, after in zip(jax.tree.leaves(variables), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_fixed_point_has_no_gradient(x64):
    """By autodiff of the objective, where relu is smooth: the pass minimises what it says."""
    chosen, settled = method(activation="tanh"), numbers(1.0, 1.0, 2.0)
    _, _, variables = train(chosen, 1000, 1, settled, (0.0, 0.0, 0.3))
    _, _, examples = problem(1)
    gradient = jax.jit(jax.grad(lambda v: objective(chosen, settled, v, examples)[0]))(variables)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) < 1e-6


def test_rejections_are_reported():
    rejected = train(method(), 5, 0, numbers(), (0.0, 0.0, 5.0))[1]
    assert float(jnp.max(rejected.kernels)) == 1.0
    calm = train(method(), 5, 0, numbers(), (0.0, 0.0, 0.0))[1]
    assert float(jnp.max(calm.kernels)) == 0.0
