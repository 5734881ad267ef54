"""Gradient flows to integrate, and independent solutions of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.integrate

import tritia


def quadratic(w):
    """Curvatures 1 and 5 along axes that are turned against the coordinates."""
    x, y = w["x"], w["y"]
    return 0.5 * ((x + 2 * y) ** 2 + (2 * x - y) ** 2 / 5)


def rosenbrock(w):
    return (1 - w["x"]) ** 2 + 5 * (w["y"] - w["x"] ** 2) ** 2


def gentle(w):
    """Nonlinear, coupled and not stiff: orders show at step sizes where rounding does not."""
    x, y = w["x"], w["y"]
    return jnp.sin(x + 2 * y) + 0.2 * x**4 + jnp.cos(x * y)


INPUTS = jnp.linspace(-1, 1, 7)[:, None]


def network(w):
    """A tanh network with five hidden units that fits a sine."""
    hidden = jnp.tanh(INPUTS.astype(w["a"].dtype) @ w["a"] + w["b"])
    return jnp.mean((hidden @ w["c"] - jnp.sin(3 * INPUTS[:, 0] + 1)) ** 2)


def start(loss):
    if loss is network:
        draw = np.random.default_rng(3).normal
        return {
            "a": jnp.asarray(draw(size=(1, 5))),
            "b": jnp.zeros(5),
            "c": jnp.asarray(draw(size=5)),
        }
    return {"x": jnp.asarray(-0.7), "y": jnp.asarray(1.1)}


FLOWS = {
    "quadratic": quadratic,
    "rosenbrock": rosenbrock,
    "network": network,
    "gentle": gentle,
}


@functools.cache
def exact(name, time):
    """The flow at a time, by SciPy's eighth-order method at its tightest tolerances."""
    loss = FLOWS[name]
    flat, restore = jax.flatten_util.ravel_pytree(start(loss))
    slope = jax.jit(lambda w: -jax.grad(lambda v: loss(restore(v)))(w))
    found = scipy.integrate.solve_ivp(
        lambda _, w: np.asarray(slope(w)), (0, time), flat, "DOP853", rtol=3e-14, atol=1e-14
    )
    return found.y[:, -1]


def descend(optimizer, loss, params, steps, give_grad_fn=True):
    """Runs plain Optax updates in a scan; returns params and state."""
    gradient = jax.grad(loss)
    extra = {"grad_fn": gradient} if give_grad_fn else {}

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w, **extra)
        return (optax.apply_updates(w, updates), state), None

    run = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[0])
    return run(params)


def flat(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


SCHEMES = [*tritia.TABLEAUS.values(), tritia.ChebyshevScheme(4, 1), tritia.ChebyshevScheme(5, 2)]
