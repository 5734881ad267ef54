"""The preconditioner: its averages and inverses against NumPy, its periods, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia

SIZES = (4, 7, 3)


def make_params(bias=True):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        f"layer{i}": {"kernel": jax.random.normal(keys[i], SIZES[i : i + 2])}
        | ({"bias": jnp.ones(SIZES[i + 1])} if bias else {})
        for i in range(2)
    }


def make_inputs(n, seed):
    keys = jax.random.split(jax.random.key(10 + seed), 2)
    return tuple(jax.random.normal(k, (n, d)) + 0.5 for k, d in zip(keys, SIZES, strict=False))


def run(solver, params, steps, n=9):
    state = solver.init(params)
    update = jax.jit(
        lambda state, inputs: solver.update(params, state, params, layer_inputs=inputs)
    )
    history = []
    for step in range(steps):
        updates, state = update(state, make_inputs(n, step))
        history.append((updates, state))
    assert update._cache_size() == 1
    return history


def gram(a, bias=True):
    a = np.asarray(a, np.float64)
    a = np.concatenate([a, np.ones((len(a), 1))], axis=1) if bias else a
    return a.T @ a / len(a)


@pytest.mark.parametrize("bias", [True, False])
def test_averages_are_debiased_and_inverses_damped(bias):
    decay, damping = 0.7, 0.3
    solver = tritia.scale_by_input_gram(
        damping=damping, decay=decay, refresh_period=2, factor_period=3
    )
    params = make_params(bias)
    history = run(solver, params, 7)
    # Refreshed at steps 0, 2, 4, 6, factored at 0, 3, 6.
    for last, taken in ((2, [0]), (3, [0, 2]), (5, [0, 2]), (6, [0, 2, 4, 6])):
        updates, state = history[last]
        weights = np.array([decay ** (len(taken) - 1 - i) for i in range(len(taken))])
        for layer in range(2):
            average = sum(
                w * gram(make_inputs(9, step)[layer], bias)
                for w, step in zip(weights / weights.sum(), taken, strict=True)
            )
            shift = damping * np.trace(average) / len(average)
            inverse = np.linalg.inv(average + shift * np.eye(len(average)))
            np.testing.assert_allclose(state.inverses[layer], inverse, rtol=1e-3, atol=1e-4)
            gradient = np.asarray(params[f"layer{layer}"]["kernel"])
            if bias:
                gradient = np.concatenate([gradient, np.ones((1, SIZES[layer + 1]))])
            expected = inverse @ gradient
            found = updates[f"layer{layer}"]
            np.testing.assert_allclose(
                found["kernel"], expected[: SIZES[layer]], rtol=1e-3, atol=1e-4
            )
            if bias:
                np.testing.assert_allclose(found["bias"], expected[-1], rtol=1e-3, atol=1e-4)


def test_periods_may_be_schedules():
    solver = tritia.scale_by_input_gram(
        refresh_period=lambda count: jnp.where(count < 2, 1, 3),
        factor_period=lambda count: count + 1,
        decay=lambda count: 0.5,
    )
    history = run(solver, make_params(), 8)
    counts = np.array([[s.next_refresh, s.next_factor] for _, s in history])
    assert counts[:, 0].tolist() == [1, 2, 5, 5, 5, 8, 8, 8]  # at 0, 1, 2, 5
    assert counts[:, 1].tolist() == [1, 3, 3, 7, 7, 7, 7, 15]  # at 0, 1, 3, 7


def test_a_wide_gram_matrix_is_its_diagonal():
    solver = tritia.scale_by_input_gram(damping=0.2, max_gram=6)
    params = make_params()
    updates, state = run(solver, params, 1)[0]
    assert [inverse.shape for inverse in state.inverses] == [(5, 5), (8,)]
    diagonal = np.diagonal(gram(make_inputs(9, 0)[1]))
    scale = 1 / (diagonal + 0.2 * diagonal.mean())
    np.testing.assert_allclose(
        updates["layer1"]["kernel"], scale[:-1, None] * params["layer1"]["kernel"], rtol=1e-4
    )
    np.testing.assert_allclose(updates["layer1"]["bias"], scale[-1] * np.ones(3), rtol=1e-4)


def test_leading_eigenvectors_and_a_flat_rest_are_the_whole_inverse():
    """Inputs of 3 strong directions and 9 equally weak ones: rank 3 is exact."""
    strengths = jnp.array([30.0, 10.0, 5.0] + 9 * [0.5])
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (12, 12)))[0]
    whiten = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (40, 12)))[0] * jnp.sqrt(40.0)
    inputs = whiten * strengths @ basis
    params = {"kernel": jax.random.normal(jax.random.key(2), (12, 2))}

    def two_steps(**settings):
        solver = tritia.scale_by_input_gram(damping=0.01, factor_period=1, **settings)
        state = solver.init(params)
        update = jax.jit(lambda s: solver.update(params, s, params, layer_inputs=(inputs,)))
        return update(update(state)[1])

    exact, _ = two_steps()
    low, state = two_steps(rank=3)
    assert state.inverses[0].vectors.shape == (12, 3)
    np.testing.assert_allclose(low["kernel"], exact["kernel"], rtol=1e-3, atol=1e-5)
    # Where it would not be cheaper the inverse stays whole.
    assert tritia.scale_by_input_gram(rank=6).init(params).inverses[0].shape == (12, 12)


def test_the_step_does_not_depend_on_the_scale_of_the_inputs():
    """Damping is relative: a layer without bias whose inputs are c times larger moves as far."""
    params = make_params(bias=False)
    small = run(tritia.scale_by_input_gram(damping=0.5), params, 1)[0][0]
    solver = tritia.scale_by_input_gram(damping=0.5)
    inputs = tuple(100.0 * a for a in make_inputs(9, 0))
    large, _ = solver.update(params, solver.init(params), params, layer_inputs=inputs)
    for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
        np.testing.assert_allclose(a, 1e4 * b, rtol=1e-3)


def test_weights_of_rows():
    params = make_params()
    solver = tritia.scale_by_input_gram()
    first = make_inputs(9, 0)
    expected, _ = solver.update(params, solver.init(params), params, layer_inputs=first)
    padded = tuple(jnp.concatenate([a, jnp.full((2, a.shape[1]), jnp.nan)]) for a in first)
    weights = jnp.concatenate([3 * jnp.ones(9), jnp.zeros(2)])
    updates, _ = solver.update(
        params, solver.init(params), params, layer_inputs=padded, weights=weights
    )
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_it_needs_no_params():
    grads = make_params()
    solver = tritia.scale_by_input_gram()
    updates, _ = solver.update(grads, solver.init(grads), layer_inputs=make_inputs(9, 0))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)


def test_training_with_it_beats_plain_gradients_on_scaled_inputs():
    """Least squares with a condition number of 1e4: what a preconditioner is for."""
    x = jax.random.normal(jax.random.key(0), (200, 4)) * jnp.array([100.0, 10.0, 1.0, 1.0])
    y = jnp.sum(x / jnp.array([100.0, 10.0, 1.0, 1.0]), axis=1, keepdims=True)

    def loss(params):
        return 0.5 * jnp.mean((x @ params["kernel"] - y) ** 2)

    def train(solver):
        params = {"kernel": jnp.zeros((4, 1))}
        state = solver.init(params)
        for _ in range(20):
            updates, state = solver.update(jax.grad(loss)(params), state, params, layer_inputs=(x,))
            params = optax.apply_updates(params, updates)
        return float(loss(params))

    ours = train(optax.chain(tritia.scale_by_input_gram(damping=1e-6), optax.scale(-1.0)))
    curvature = float(jnp.linalg.norm(x.T @ x / 200, 2))
    plain = train(optax.with_extra_args_support(optax.sgd(1 / curvature)))
    assert ours < 1e-4 < 0.1 < plain


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, r"update\(.*layer_inputs="),
        (make_inputs(9, 0)[:1], r"one array for each of the layers.*got 1"),
        (jnp.ones((9, 4)), r"layer_inputs must be a sequence.*got ArrayImpl"),
        ((jnp.ones((9, 4)), jnp.ones((9, 6))), r"shape \(9, 6\) for layer 'layer1'.*\(9, 7\)"),
        ((jnp.ones((9, 4)), jnp.ones((8, 7))), r"shape \(8, 7\) for layer 'layer1'.*\(9, 7\)"),
    ],
)
def test_what_update_refuses(inputs, message):
    params = make_params()
    solver = tritia.scale_by_input_gram()
    with pytest.raises(ValueError, match=message):
        solver.update(params, solver.init(params), params, layer_inputs=inputs)


def test_params_of_a_convolution_are_refused_in_its_own_name():
    with pytest.raises(ValueError, match=r"a convolution; scale_by_input_gram needs kernels"):
        tritia.scale_by_input_gram().init({"kernel": jnp.ones((3, 3, 1, 8))})


def test_weights_of_another_length_are_refused():
    params = make_params()
    solver = tritia.scale_by_input_gram()
    with pytest.raises(ValueError, match=r"weights has shape \(3,\).*\(9,\)"):
        solver.update(
            params,
            solver.init(params),
            params,
            layer_inputs=make_inputs(9, 0),
            weights=jnp.ones(3),
        )
