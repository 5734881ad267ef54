"""The Gram preconditioner for any tree, against NumPy and against itself for stacks of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia import MatrixAxes

ONCE = {"refresh_period": 100, "factor_period": 100}


def _reference(rows, gradient, damping):
    gram = rows.T @ rows / len(rows)
    shift = damping * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + shift * np.eye(len(gram)), gradient)


def _rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape) * np.geomspace(0.1, 10, shape[-1])


@pytest.mark.parametrize("damping", [0.1, 10.0])
def test_every_axis_layout_is_the_same_solve(damping, x64):
    """One matrix, its transpose, with an axis for heads, and in a stack."""
    rows, gradient = _rows(0, 30, 6), _rows(1, 6, 4)
    expected = _reference(rows, gradient, damping)
    more = _rows(2, 30, 6)
    gradients = {
        "plain": gradient,
        "net": {"transposed": gradient.T, "heads": gradient.reshape(6, 2, 2)},
        "stack": np.stack([gradient, gradient]),
    }
    axes = {
        "net/transposed": MatrixAxes((1,), (0,)),
        "net/heads": MatrixAxes((0,), (1, 2)),
        "stack": MatrixAxes((1,), (2,)),
    }

    def loss(params):
        stack = jnp.einsum("snd,sdk->snk", jnp.stack([rows, more]), params["stack"])
        heads = jnp.einsum("nd,dhk->nhk", rows, params["net"]["heads"])
        return sum(
            jnp.sum(part)
            for part in (rows @ params["plain"], rows @ params["net"]["transposed"].T, heads, stack)
        )

    gradients = jax.tree.map(jnp.asarray, gradients)
    assert tritia.layer_axes(loss)(gradients) == {"plain": MatrixAxes((0,), (1,)), **axes}
    _, inputs = tritia.with_layer_inputs(loss)(gradients)
    solver = tritia.scale_by_input_gram(damping=damping, rank=None, axes=axes, **ONCE)
    update = jax.jit(solver.update)
    scaled, _ = update(gradients, solver.init(gradients), layer_inputs=inputs)
    np.testing.assert_allclose(scaled["plain"], expected, rtol=1e-8)
    np.testing.assert_allclose(scaled["net"]["transposed"].T, expected, rtol=1e-8)
    np.testing.assert_allclose(scaled["net"]["heads"].reshape(6, 4), expected, rtol=1e-8)
    np.testing.assert_allclose(scaled["stack"][0], expected, rtol=1e-8)
    np.testing.assert_allclose(scaled["stack"][1], _reference(more, gradient, damping), rtol=1e-8)


def test_a_wide_layer_has_a_diagonal(x64):
    rows, gradient = _rows(0, 30, 6), jnp.asarray(_rows(1, 6, 4))
    solver = tritia.scale_by_input_gram(damping=1.0, max_gram=5, **ONCE)
    state = solver.init({"w": gradient})
    assert state.grams["w"].shape == (1, 6)
    scaled, _ = jax.jit(solver.update)({"w": gradient}, state, layer_inputs={"w": rows})
    diagonal = np.mean(rows**2, axis=0)
    expected = gradient / (diagonal + np.mean(diagonal))[:, None]
    np.testing.assert_allclose(scaled["w"], expected, rtol=1e-8)


def test_the_average_is_debiased(x64):
    batches = [_rows(seed, 30, 3) for seed in range(3)]
    gradient = jnp.asarray(_rows(9, 3, 2))
    solver = tritia.scale_by_input_gram(damping=0.5, decay=0.8, refresh_period=1, factor_period=1)
    state, update = solver.init({"w": gradient}), jax.jit(solver.update)
    for rows in batches:
        scaled, state = update({"w": gradient}, state, layer_inputs={"w": rows})
    weights = np.array([0.8**2, 0.8, 1]) / (0.8**2 + 0.8 + 1)
    gram = sum(w * a.T @ a / len(a) for w, a in zip(weights, batches, strict=True))
    expected = np.linalg.solve(gram + 0.5 * np.trace(gram) / 3 * np.eye(3), gradient)
    np.testing.assert_allclose(scaled["w"], expected, rtol=1e-8)


def test_the_scale_of_the_inputs_only_scales_the_step(x64):
    rows, gradient = _rows(0, 30, 6), jnp.asarray(_rows(1, 6, 4))
    one, hundred = (
        tritia.scale_by_input_gram(rank=2, **ONCE).update(
            {"w": gradient},
            tritia.scale_by_input_gram(rank=2, **ONCE).init({"w": gradient}),
            layer_inputs={"w": factor * rows},
        )[0]["w"]
        for factor in (1, 100)
    )
    np.testing.assert_allclose(hundred * 1e4, one, rtol=1e-8)


def test_leaves_without_inputs_pass_through():
    params = {
        "w": jnp.ones((3, 2)),
        "b": jnp.ones(2),
        "lookup": jnp.ones((5, 3)),
        "n": jnp.ones(()),
    }
    solver = tritia.scale_by_input_gram(axes={"lookup": None})
    state = solver.init(params)
    assert set(state.grams) == {"w"}
    scaled, _ = solver.update(params, state, layer_inputs={"w": jnp.ones((4, 3))})
    for name in ("b", "lookup", "n"):
        np.testing.assert_array_equal(scaled[name], params[name])
    assert jnp.all(scaled["w"] != params["w"])
    # One that the loss did not use this time.
    scaled, _ = solver.update(params, state, layer_inputs={})
    np.testing.assert_array_equal(scaled["w"], params["w"])


def test_inputs_that_are_not_finite_are_refused():
    params, rows = {"w": jnp.ones((3, 2))}, jnp.asarray(_rows(0, 8, 3))
    solver = tritia.scale_by_input_gram(refresh_period=1, factor_period=1)
    _, state = solver.update(params, solver.init(params), layer_inputs={"w": rows})
    _, after = solver.update(params, state, layer_inputs={"w": rows.at[0, 0].set(jnp.nan)})
    np.testing.assert_array_equal(after.grams["w"], state.grams["w"])


def test_inputs_that_do_not_fit_are_named():
    params = {"net": {"w": jnp.ones((3, 2))}}
    solver = tritia.scale_by_input_gram()
    state = solver.init(params)
    with pytest.raises(ValueError, match=r"\(4, 5\) for 'net/w'.*\(\.\.\., 3\)"):
        solver.update(params, state, layer_inputs={"net/w": jnp.ones((4, 5))})
    with pytest.raises(ValueError, match=r"with_layer_inputs gives; got a tuple"):
        solver.update(params, state, layer_inputs=(jnp.ones((4, 3)),))

    def transposed(params):
        return jnp.sum(jnp.ones((4, 2)) @ params["net"]["w"].T)

    _, inputs = tritia.with_layer_inputs(transposed)(params)
    with pytest.raises(ValueError, match=r"inputs=\(1,\).*'net/w'.*axes=tritia\.layer_axes"):
        solver.update(params, state, layer_inputs=inputs)


def test_periods_may_be_schedules():
    params, rows = {"w": jnp.ones((3, 2))}, jnp.asarray(_rows(0, 8, 3))
    solver = tritia.scale_by_input_gram(
        refresh_period=lambda count: jnp.where(count < 2, 1, 3),
        factor_period=lambda count: count + 1,
        decay=lambda count: 0.5,
    )
    state, counts = solver.init(params), []
    update = jax.jit(lambda state: solver.update(params, state, layer_inputs={"w": rows}))
    for _ in range(8):
        _, state = update(state)
        counts.append((int(state.next_refresh), int(state.next_factor)))
    refreshes, factors = zip(*counts, strict=True)
    assert refreshes == (1, 2, 5, 5, 5, 8, 8, 8)  # at 0, 1, 2, 5
    assert factors == (1, 3, 3, 7, 7, 7, 7, 15)  # at 0, 1, 3, 7


def test_leading_eigenvectors_and_a_flat_rest_are_the_whole_inverse():
    """Inputs of 3 strong directions and 9 equally weak ones: rank 3 is exact."""
    strengths = jnp.array([30.0, 10.0, 5.0] + 9 * [0.5])
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (12, 12)))[0]
    whiten = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (40, 12)))[0] * jnp.sqrt(40.0)
    inputs = {"w": whiten * strengths @ basis}
    params = {"w": jax.random.normal(jax.random.key(2), (12, 2))}

    def two_steps(rank):
        solver = tritia.scale_by_input_gram(damping=0.01, factor_period=1, rank=rank)
        update = jax.jit(lambda state: solver.update(params, state, layer_inputs=inputs))
        return update(update(solver.init(params))[1])

    exact, _ = two_steps(None)
    low, state = two_steps(3)
    assert state.inverses["w"].vectors.shape == (1, 12, 3)
    np.testing.assert_allclose(low["w"], exact["w"], rtol=1e-3, atol=1e-5)
    # Where it would not be cheaper the inverse stays whole.
    whole = tritia.scale_by_input_gram(rank=6).init(params)
    assert whole.inverses["w"].shape == (1, 12, 12)


def test_it_beats_plain_gradients_on_scaled_inputs():
    """Least squares with a condition number of 1e4: what a preconditioner is for."""
    scale = jnp.array([100.0, 10.0, 1.0, 1.0])
    x = jax.random.normal(jax.random.key(0), (200, 4)) * scale
    y = jnp.sum(x / scale, axis=1, keepdims=True)

    def loss(params):
        return 0.5 * jnp.mean((x @ params["w"] - y) ** 2)

    def train(solver):
        params = {"w": jnp.zeros((4, 1))}
        state = solver.init(params)

        @jax.jit
        def step(params, state):
            grads = jax.grad(loss)(params)
            updates, state = solver.update(grads, state, params, layer_inputs={"w": x})
            return optax.apply_updates(params, updates), state

        for _ in range(20):
            params, state = step(params, state)
        return float(loss(params))

    ours = train(optax.chain(tritia.scale_by_input_gram(damping=1e-6), optax.scale(-1.0)))
    curvature = float(jnp.linalg.norm(x.T @ x / 200, 2))
    plain = train(optax.with_extra_args_support(optax.sgd(1 / curvature)))
    assert ours < 1e-4 < 0.1 < plain
