"""Activations against brute force: a fine grid of z, for every activation, at kinks and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from tritia.alternating._blocks.activations import (
    ACTIVATIONS,
    leaky_relu,
    monotone_activation,
    preimage,
    prox,
)

GRID = np.linspace(-14.0, 14.0, 28001)
KINKS = [-1.0, 0.0, 1.0, 6.0]
heights = st.one_of(st.floats(-3.0, 8.0), st.sampled_from(KINKS))
penalties = st.floats(0.05, 20.0)
monotone = [name for name, activation in ACTIVATIONS.items() if activation.inverse is not None]
compiled_preimage = jax.jit(preimage, static_argnums=0)
compiled_prox = jax.jit(prox, static_argnums=0)
each = pytest.mark.parametrize("name", ACTIVATIONS)
each_monotone = pytest.mark.parametrize("name", monotone)


@each_monotone
def test_inverse_and_range(name, x64):
    activation = ACTIVATIONS[name]
    h = np.asarray(activation.value(jnp.asarray(GRID)))
    assert np.all(np.diff(h) >= 0)
    assert np.all(h >= activation.lower)
    assert np.all(h <= activation.upper)
    inside = (h > activation.lower + 1e-6) & (h < activation.upper - 1e-6)
    again = np.asarray(activation.inverse(jnp.asarray(h[inside])))
    np.testing.assert_allclose(again, GRID[inside], rtol=1e-6, atol=1e-8)


@each
def test_pieces_are_the_activation(name):
    activation = ACTIVATIONS[name]
    h = np.asarray(activation.value(jnp.asarray(GRID, jnp.float32)))
    for piece in activation.pieces:
        on = (piece.left <= GRID) & (piece.right >= GRID)
        np.testing.assert_allclose(h[on], piece.slope * GRID[on] + piece.offset, atol=1e-5)
    if activation.pieces:
        assert activation.pieces[0].left == -np.inf
        assert activation.pieces[-1].right == np.inf


@each_monotone
@given(
    a=st.lists(heights, min_size=8, max_size=8),
    eps=st.one_of(st.just(0.0), st.floats(1e-3, 4.0)),
)
def test_preimage_is_where_the_constraint_holds(name, a, eps):
    with jax.enable_x64(True):
        activation = ACTIVATIONS[name]
        array = jnp.asarray(a)
        left, right = (np.asarray(end) for end in compiled_preimage(activation, array, eps))
        assert np.all(left <= right)
        gap = np.abs(np.asarray(activation.value(jnp.asarray(GRID)))[None] - np.asarray(a)[:, None])
        for i in range(len(a)):
            feasible = gap[i] <= eps
            inside = (left[i] - 1e-9 <= GRID) & (right[i] + 1e-9 >= GRID)
            if feasible.any():
                # no feasible grid point outside, no clearly infeasible one inside
                assert not np.any(feasible & ~inside)
                assert np.all(gap[i][inside] <= eps + 1e-6)
            elif np.isfinite(activation.lower) and a[i] < activation.lower - eps:
                z = np.clip(0.0, left[i], right[i])
                assert float(activation.value(jnp.asarray(z))) <= activation.lower + 1e-6
            elif np.isfinite(activation.upper) and a[i] > activation.upper + eps:
                z = np.clip(0.0, left[i], right[i])
                assert float(activation.value(jnp.asarray(z))) >= activation.upper - 1e-6


@each
@given(
    a=st.lists(heights, min_size=8, max_size=8),
    m=st.lists(st.one_of(st.floats(-8.0, 8.0), st.sampled_from(KINKS)), min_size=8, max_size=8),
    gamma=penalties,
    rho=penalties,
)
def test_prox_is_the_best_point_of_a_grid(name, a, m, gamma, rho):
    with jax.enable_x64(True):
        activation = ACTIVATIONS[name]
        a, m = np.asarray(a), np.asarray(m)
        z = compiled_prox(activation, jnp.asarray(a), jnp.asarray(m), jnp.zeros(8), gamma, rho)

        def objective(z):
            gap = a[:, None] - np.asarray(activation.value(jnp.asarray(z)))
            return 0.5 * gamma * gap**2 + 0.5 * rho * (z - m[:, None]) ** 2

        best = objective(GRID[None]).min(axis=1)
        assert np.all(objective(np.asarray(z)[:, None])[:, 0] <= best + 1e-6 * (1 + best))


@each
def test_prox_is_never_worse_than_its_start(name):
    rng = np.random.default_rng(0)
    a, m, start = (jnp.asarray(rng.normal(size=400) * 4, jnp.float32) for _ in range(3))
    activation = ACTIVATIONS[name]
    z = compiled_prox(activation, a, m, start, 0.7, 0.3)

    def objective(z):
        return 0.35 * (a - activation.value(z)) ** 2 + 0.15 * (z - m) ** 2

    assert bool(jnp.all(objective(z) <= objective(start) * (1 + 1e-5) + 1e-6))


@pytest.mark.parametrize("name", ["relu6", "tanh", "softplus", "gelu", "silu"])
def test_derivatives_are_those_of_the_minimiser(name, x64):
    """By what is matched and by both penalties, in both modes, against finite differences."""
    rng = np.random.default_rng(0)
    a, m, start = (jnp.asarray(rng.normal(size=20)) for _ in range(3))
    directions = jnp.asarray(rng.normal(size=20)), jnp.asarray(rng.normal(size=20)), 0.1, 0.2

    def outcome(t):
        theta = [x + t * d for x, d in zip((a, m, 0.5, 0.7), directions, strict=True)]
        z = prox(ACTIVATIONS[name], theta[0], theta[1], start, *theta[2:], iterations=40)
        return jnp.sum(jnp.arange(20) * z)

    h = 1e-4  # Newton's method ends where rounding hides its progress, at errors of about 1e-9
    value = jax.jit(outcome)
    expected = (value(h) - value(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(outcome))(0.0), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(outcome))(0.0), expected, rtol=1e-5)


def test_a_users_activation(x64):
    softsign = monotone_activation(
        lambda z: z / (1 + jnp.abs(z)), lambda t: t / (1 - jnp.abs(t)), lower=-1.0, upper=1.0
    )
    left, right = preimage(softsign, jnp.array([0.5, 2.0]), 0.25)
    np.testing.assert_allclose(left[0], 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(right[0], 3.0, rtol=1e-12)
    assert left[1] > 1e12
    assert right[1] == jnp.inf
    a, m = 0.6, -1.0
    z = prox(softsign, jnp.array([a]), jnp.array([m]), jnp.zeros(1), 3.0, 0.2)
    best = np.min(1.5 * (a - GRID / (1 + np.abs(GRID))) ** 2 + 0.1 * (GRID - m) ** 2)
    assert 1.5 * (a - z[0] / (1 + abs(z[0]))) ** 2 + 0.1 * (z[0] - m) ** 2 <= best + 1e-9


def test_wrong_activations():
    with pytest.raises(ValueError, match=r"inverse is not the inverse of value: value\(inverse\("):
        monotone_activation(jnp.tanh, lambda t: t, lower=-1.0, upper=1.0)
    with pytest.raises(ValueError, match="value must be an increasing function"):
        monotone_activation(lambda z: -z, lambda t: -t)
    with pytest.raises(ValueError, match=r"lower is 1\.0 and upper is 0\.0"):
        monotone_activation(jnp.tanh, jnp.arctanh, lower=1.0, upper=0.0)
    with pytest.raises(
        ValueError, match=r"negative_slope is 1\.5; allowed: 0 < negative_slope < 1"
    ):
        leaky_relu(1.5)
