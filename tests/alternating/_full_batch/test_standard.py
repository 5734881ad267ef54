"""Standardised inputs: what is measured, how it is folded into the params, and what it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._full_batch import standard

N, D, K = 40, 6, 3
SIZES = (D, 12, K)
SHIFT = np.array([0.0, 1e3, -5.0, 0.2, -300.0, 7.0])
UNITS = 10.0 ** np.array([0, 3, -3, 1, -2, 2])


def make_params(bias=True):
    keys = jax.random.split(jax.random.key(0), len(SIZES) - 1)
    return [
        {
            "kernel": jax.random.normal(key, (i, o), float) * (2 / i) ** 0.5,
            **({"bias": jnp.linspace(-0.1, 0.1, o, dtype=float)} if bias else {}),
        }
        for key, i, o in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def make_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, D)) ** 3  # some columns have deviations beyond three standard ones
    return x, np.argmax(x[:, :K] * x[:, K:], axis=1)


def mean_and_scale(x, weights, bias=True):
    """The docstring's words in NumPy's float64."""
    x, weights = x[weights > 0], weights[weights > 0]
    mean = np.average(x, axis=0, weights=weights) if bias else np.zeros(x.shape[1])
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    if len(x) < x.shape[1]:
        return mean, np.ones(len(mean))
    scale = np.maximum(deviation, np.abs(x - mean).max(axis=0) / 3)
    return mean, np.where(deviation > 0, scale, 1)


def outputs(params, x):
    for index, layer in enumerate(params):
        x = x @ np.asarray(layer["kernel"], float) + np.asarray(layer.get("bias", 0), float)
        x = np.maximum(x, 0) if index < len(params) - 1 else x
    return x


def train(params, x, y, steps=8, **settings):
    weights = settings.pop("weights", None)
    solver = tritia.tiam(N, **settings)
    state, update = solver.init(params), jax.jit(solver.update)
    for _ in range(steps):
        updates, state = update(None, state, params, inputs=x, targets=y, weights=weights)
        params = optax.apply_updates(params, updates)
    return params, tritia.tiam_diagnostics(state)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [N, 5])
def test_what_is_measured(x64, bias, rows):
    x = make_data()[0][:rows] * UNITS + SHIFT
    x[:, 3] = 0.25
    weights = np.linspace(0, 2, rows)
    mean, scale = mean_and_scale(x, weights, bias)
    padded = jnp.asarray(np.where(weights[:, None] > 0, x, 0))
    found = standard.measure(padded, Rows(jnp.asarray(weights)[:, None]), bias)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-10)


def test_columns_far_from_zero_keep_their_digits():
    """In float32, where a million is known to a sixteenth."""
    x = np.float32(make_data()[0] * 50 + 1e6)
    mean, scale = mean_and_scale(x.astype(float), np.ones(N))
    found = standard.measure(jnp.asarray(x), Rows(), True)
    np.testing.assert_allclose(found.mean, mean, atol=0.07)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-3)


@pytest.mark.parametrize(
    ("bias", "weighted", "settings"),
    [
        (True, False, {}),
        pytest.param(True, True, {"kernel_step": "line_search"}, marks=pytest.mark.slow),
        (False, False, {"restart": "always"}),
        pytest.param(
            True,
            False,
            {"kernel_step": "backtracking", "inertia": tritia.Inertia(0.5, 0.4, 0.3)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_any_units_give_the_network_of_standardised_inputs(x64, bias, weighted, settings):
    x, y = make_data()
    weights = np.linspace(0, 2, N) if weighted else np.ones(N)
    raw = x * UNITS + (SHIFT if bias else 0)
    mean, scale = mean_and_scale(raw, weights, bias)
    x = (raw - mean) / scale
    settings = {**settings, "weights": jnp.asarray(weights) if weighted else None}
    expected, there = train(make_params(bias), jnp.asarray(x), y, standardize=False, **settings)

    start = make_params(bias)
    kernel = np.asarray(start[0]["kernel"]) / scale[:, None]
    start[0]["kernel"] = jnp.asarray(kernel)
    if bias:
        start[0]["bias"] = jnp.asarray(np.asarray(start[0]["bias"]) - mean @ kernel)
    found, here = train(start, jnp.asarray(raw), y, **settings)
    np.testing.assert_allclose(outputs(found, raw), outputs(expected, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(here.objective, there.objective, rtol=1e-8)


def test_initial_params_for_inputs_of_any_units(x64):
    raw = make_data()[0] * UNITS + SHIFT
    mean, scale = mean_and_scale(raw, np.ones(N))
    params = make_params()
    found = tritia.params_for_inputs(params, jnp.asarray(raw))
    expected = outputs(params, (raw - mean) / scale)
    np.testing.assert_allclose(outputs(found, raw), expected, rtol=1e-9)
    single = tritia.params_for_inputs(jax.tree.map(jnp.float32, params), jnp.asarray(raw))
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(ValueError, match="first layer takes 6 inputs"):
        tritia.params_for_inputs(params, raw[:, :5])


def test_training_starts_from_the_function_that_was_given(x64):
    x, y = make_data()
    raw = jnp.asarray(x * UNITS + SHIFT)
    start = tritia.params_for_inputs(make_params(), raw)
    _, report = train(start, raw, y, steps=1, restart="always")
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs(start, np.asarray(raw)), y)
    np.testing.assert_allclose(report.network_loss, loss.sum(), rtol=1e-9)


def test_lanes_are_measured_each_on_its_own():
    x, y = make_data()
    lanes = jnp.asarray(np.stack([x, 30 * x + 4]), jnp.float32)
    params = jax.tree.map(jnp.float32, make_params())
    solver = tritia.tiam(N)

    def first_update(x):
        state = solver.init(params)
        return solver.update(None, state, params, inputs=x, targets=y)[1].standard

    found = jax.jit(jax.vmap(first_update))(lanes)
    np.testing.assert_allclose(found.scale[1], 30 * found.scale[0], rtol=1e-5)
    np.testing.assert_allclose(found.mean[1], 30 * found.mean[0] + 4, rtol=1e-4)


def test_a_wrong_setting_is_named():
    with pytest.raises(TypeError, match="standardize must be True or False; got 'columns'"):
        tritia.tiam(N, standardize="columns")
