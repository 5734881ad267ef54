"""The average of the iterates, against one that is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia


def _trained(decay, steps=12, dtype=jnp.float32):
    solver = optax.chain(optax.sgd(0.1, momentum=0.5), tritia.polyak_average(decay))
    params = {"w": jnp.array([2.0, -1.0], dtype), "frozen": jnp.ones(1, dtype)}
    state, iterates = solver.init(params), []
    for _ in range(steps):
        grads = {"w": params["w"] ** 3, "frozen": jnp.zeros(1, dtype)}
        updates, state = solver.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        iterates.append(np.asarray(params["w"], np.float64))
    return params, state, iterates


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0, tritia.growing_decay(0.5, 3.0)])
def test_it_averages_the_iterates(decay):
    params, state, iterates = _trained(decay)
    average = np.array([2.0, -1.0])
    for count, iterate in enumerate(iterates):
        e = min(0.5, count / (count + 3)) if callable(decay) else decay
        average = e * average + (1 - e) * iterate
    np.testing.assert_allclose(tritia.eval_params(state, params)["w"], average, rtol=1e-5)


def test_the_updates_are_left_alone():
    plain = optax.sgd(0.1, momentum=0.5)
    params, _, _ = _trained(0.9)
    expected = {"w": jnp.array([2.0, -1.0]), "frozen": jnp.ones(1)}
    state = plain.init(expected)
    for _ in range(12):
        grads = {"w": expected["w"] ** 3, "frozen": jnp.zeros(1)}
        updates, state = plain.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_array_equal(params["w"], expected["w"])


def test_the_average_of_half_precision_params_has_digits_of_its_own():
    params, state, _ = _trained(0.99, dtype=jnp.bfloat16)
    assert state[1].average["w"].dtype == jnp.float32
    assert jnp.any(state[1].average["w"] != state[1].average["w"].astype(jnp.bfloat16))
    assert tritia.eval_params(state, params)["w"].dtype == jnp.bfloat16


def test_masked_leaves_come_back_as_they_are():
    params = {"w": jnp.ones(2), "frozen": jnp.full(1, 3.0)}
    solver = optax.masked(tritia.polyak_average(0.5), {"w": True, "frozen": False})
    updates, state = solver.update(params, solver.init(params), params)
    evaluated = tritia.eval_params(state, optax.apply_updates(params, updates))
    np.testing.assert_allclose(evaluated["w"], 1.5)
    np.testing.assert_allclose(evaluated["frozen"], 6.0)


def test_it_needs_params():
    solver = tritia.polyak_average()
    with pytest.raises(ValueError, match=r"polyak_average.*update"):
        solver.update({"w": jnp.ones(1)}, solver.init({"w": jnp.ones(1)}))


def test_two_averages_are_refused():
    params = {"w": jnp.ones(2)}
    solver = optax.chain(tritia.polyak_average(), tritia.polyak_average())
    with pytest.raises(ValueError, match="two states"):
        tritia.eval_params(solver.init(params), params)


def test_a_batch_of_states_is_named():
    params = {"w": jnp.ones((3, 2))}
    state = jax.vmap(tritia.polyak_average().init)(params)
    with pytest.raises(ValueError, match="batch of states"):
        tritia.eval_params(state, params)
    assert jax.vmap(tritia.eval_params)(state, params)["w"].shape == (3, 2)


@pytest.mark.parametrize(("largest", "delay"), [(1.5, 10.0), (0.9, 0.0), (-0.1, 1.0)])
def test_growing_decay_checks_its_arguments(largest, delay):
    with pytest.raises(ValueError, match=r"largest|delay"):
        tritia.growing_decay(largest, delay)
