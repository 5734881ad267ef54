"""What each setting of triple inertia is, against Optax and against loops written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia

RATE = 0.05
START = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.3)}


def loss(params):
    w, b = params["w"], params["b"]
    return jnp.sum(jnp.cosh(w) * jnp.array([4.0, 1.0, 0.25])) + (b - w[0]) ** 2


def train(solver, steps=30, start=START, jit=True):
    """Returns the params, the states' eval_params where there are any, and the last state."""

    def step(params, state):
        updates, state = solver.update(jax.grad(loss)(params), state, params)
        return updates, state

    step = jax.jit(step) if jit else step
    params, state, trajectory = start, solver.init(start), []
    for _ in range(steps):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return jax.tree.map(lambda *x: np.stack(x), *trajectory), state


def assert_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "inner",
    [
        optax.sgd(RATE),
        optax.adam(RATE),
        optax.adamw(RATE, weight_decay=0.1),
        optax.sgd(RATE, momentum=0.9, nesterov=True),
    ],
    ids=["sgd", "adam", "adamw", "momentum"],
)
def test_all_zero_is_inner_bit_for_bit(inner, jit):
    wrapped, state = train(tritia.triple_inertia(inner), jit=jit)
    plain, _ = train(inner, jit=jit)
    jax.tree.map(np.testing.assert_array_equal, wrapped, plain)
    last = jax.tree.map(lambda x: jnp.asarray(x[-1]), wrapped)
    jax.tree.map(np.testing.assert_array_equal, tritia.eval_params(state, last), last)


def test_predict_alone_is_heavy_ball():
    wrapped, _ = train(tritia.triple_inertia(optax.sgd(RATE), predict=0.8))
    heavy_ball, _ = train(optax.sgd(RATE, momentum=0.8))
    assert_close(wrapped, heavy_ball, rtol=1e-4, atol=1e-6)


def test_predict_and_evaluate_are_nesterov_at_the_same_params():
    wrapped, state = train(tritia.triple_inertia(optax.sgd(RATE), predict=0.8, evaluate=0.8))
    nesterov, trace_state = train(optax.sgd(RATE, momentum=0.8, nesterov=True))
    # Both loops' params are the evaluation point e ...
    assert_close(wrapped, nesterov, rtol=1e-4, atol=1e-6)
    # ... and Optax's trace t is the displacement in units of minus the learning rate, d = -lr t, so
    # that the iterate of Optax's loop is e - m d = e + m lr t.
    trace = trace_state[0].trace
    assert_close(state.displacement, jax.tree.map(lambda t: -RATE * t, trace), atol=1e-6)
    last = jax.tree.map(lambda x: x[-1], nesterov)
    iterate = jax.tree.map(lambda e, t: e + 0.8 * RATE * t, last, trace)
    assert_close(tritia.eval_params(state, last), iterate, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correction", [-0.5, 0.3])
def test_correct_alone_scales_the_step(correction):
    wrapped, _ = train(tritia.triple_inertia(optax.sgd(RATE), correct=correction))
    scaled, _ = train(optax.sgd(RATE * (1.0 + correction)))
    assert_close(wrapped, scaled, rtol=1e-4, atol=1e-6)


def test_unconstrained_correction_is_a_change_of_the_other_numbers():
    # (p1, p2, p3) with a learning rate h is (p1 (1 + p3), p2, 0) with (1 + p3) h.
    wrapped, _ = train(
        tritia.triple_inertia(optax.sgd(RATE), predict=0.5, evaluate=0.3, correct=0.4)
    )
    other, _ = train(tritia.triple_inertia(optax.sgd(1.4 * RATE), predict=0.7, evaluate=0.3))
    assert_close(wrapped, other, rtol=1e-4, atol=1e-6)


def test_all_three_against_a_loop_written_by_hand(x64):
    p1, p2, p3 = 0.7, 0.4, 0.2
    gradient = jax.grad(lambda w: jnp.sum(jnp.cosh(w) * jnp.array([4.0, 1.0, 0.25])))
    u = u_previous = np.array([1.0, -2.0, 0.5])
    solver = tritia.triple_inertia(optax.sgd(RATE), predict=p1, evaluate=p2, correct=p3)
    params = jnp.array(u)
    state = solver.init(params)
    for _ in range(30):
        e = u + p2 * (u - u_previous)
        np.testing.assert_allclose(params, e, rtol=1e-12)
        c = u + p1 * (u - u_previous)
        v = c - RATE * np.asarray(gradient(jnp.array(e)))
        u_previous, u = u, v + p3 * (v - u)
        updates, state = solver.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(tritia.eval_params(state, params), u, rtol=1e-12)


def test_scheduled_nesterov_against_the_textbook(x64):
    # Nesterov's method with its classical coefficient: x_k is the iterate, and the gradient is
    # taken at y_k = x_k + (k - 1)/(k + 2) (x_k - x_{k-1}), where x_1 is the first step's result.
    gradient = jax.grad(lambda w: jnp.sum(jnp.cosh(w) * jnp.array([4.0, 1.0, 0.25])))
    x = y = np.array([1.0, -2.0, 0.5])
    momentum = tritia.nesterov_schedule()
    solver = tritia.triple_inertia(optax.sgd(RATE), predict=momentum, evaluate=momentum)
    params = jnp.array(x)
    state = solver.init(params)
    for k in range(1, 40):
        x_next = y - RATE * np.asarray(gradient(jnp.array(y)))
        y = x_next + (k - 1) / (k + 2) * (x_next - x)
        x = x_next
        updates, state = solver.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, y, rtol=1e-12)
        np.testing.assert_allclose(tritia.eval_params(state, params), x, rtol=1e-12)


def test_different_schedules_are_read_at_the_documented_step(x64):
    # Read at update t: predict and evaluate act in update t + 1, correct in update t.
    def predict(t):
        return 0.1 * (t + 1)

    def evaluate(t):
        return 0.05 * (t + 1) ** 2

    def correct(t):
        return 0.03 * t

    def gradient(w):
        return 3.0 * w

    solver = tritia.triple_inertia(
        optax.sgd(0.1), predict=predict, evaluate=evaluate, correct=correct
    )
    u, d = 1.0, 0.0
    params = jnp.array(1.0)
    state = solver.init(params)
    for t in range(6):
        e, c = (u + p(t - 1) * d for p in (evaluate, predict))
        np.testing.assert_allclose(params, e, rtol=1e-12)
        v = c - 0.1 * gradient(e)
        u_next = v + correct(t) * (v - u)
        u, d = u_next, u_next - u
        updates, state = solver.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)


def test_nesterov_schedule_values():
    momentum = tritia.nesterov_schedule()
    assert [momentum(k) for k in (0, 1, 3)] == [0.0, 0.25, 0.5]
    saturated = jnp.array(jnp.iinfo(jnp.int32).max, jnp.int32)
    assert float(momentum(saturated)) == 1.0
