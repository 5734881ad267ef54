"""The orders of a block pass: what each visits, and which visits do not read each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tritia.alternating._blocks.activations import ACTIVATIONS
from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.losses import LOSSES
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch import block_pass
from tritia.alternating._full_batch.block_order import BLOCK_ORDERS, Visit, visits
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import Method, Numbers, Variables
from tritia.inertia import Inertia

DEPTH, N = 4, 20


@pytest.mark.parametrize("order", BLOCK_ORDERS)
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_every_block_is_visited_as_often_as_the_order_says(order, depth):
    found = visits(order, depth)
    blocks = {
        Visit(block, layer) for block in ("pre_activation", "kernel") for layer in range(depth)
    }
    blocks |= {Visit("activation", layer) for layer in range(depth - 1)}
    assert set(found) == blocks
    assert len(found) == (2 if order == "symmetric" else 1) * len(blocks)


def test_three_layers_in_each_new_order():
    def text(order):
        return " ".join(f"{visit.block[0]}{visit.layer + 1}" for visit in visits(order, 3))

    assert text("red_black") == "p3 k3 a2 p1 k1 p2 k2 a1"
    assert text("pipeline") == "p3 a2 p2 a1 p1 k1 k2 k3"


def start(order):
    sizes = (4, 7, 6, 5, 3)
    keys = jax.random.split(jax.random.key(0), DEPTH + 2)
    kernels = tuple(
        jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=False)
    )
    biases = tuple(jnp.zeros(width) for width in sizes[1:])
    method = Method(
        (ACTIVATIONS["tanh"],) * (DEPTH - 1),
        LOSSES["softmax_cross_entropy"],
        ("exact",) * DEPTH,
        (False,) * DEPTH,
        block_order=order,
    )
    labels = jax.random.randint(keys[-2], (N,), 0, sizes[-1])
    inputs = jax.random.normal(keys[-1], (N, sizes[0]))
    examples = Examples(inputs, jax.nn.one_hot(labels, sizes[-1], dtype=inputs.dtype), Rows())
    z, a = forward_pass(kernels, biases, method.activations, inputs)
    return method, Variables(kernels, biases, z, a[1:]), examples


def passes(order, count=3):
    method, variables, examples = start(order)
    numbers = Numbers((0.3,) * DEPTH, (0.2,) * (DEPTH - 1), (0.1,) * DEPTH, 0.0, 0.0)
    inertias = Inertias(*(Inertia(0.0, 0.0, 0.3),) * 5)

    @jax.jit
    def one_pass(variables):
        return block_pass.update_blocks(method, numbers, inertias, variables, examples).variables

    for _ in range(count):
        variables = one_pass(variables)
    return jax.tree.leaves(variables)


def shuffled(order, depth):
    """The visits of an order with those turned round that are said not to read each other."""
    if order == "pipeline":
        rows = visits(order, depth)[:-depth]
        return rows + tuple(reversed(visits(order, depth)[-depth:]))
    groups = [range(depth - 1, -1, -2), range(depth - 2, -1, -2)]
    of_layer = {layer: [] for layer in range(depth)}
    for visit in visits(order, depth):
        # An activation goes with the layer it enters.
        of_layer[visit.layer + (visit.block == "activation")].append(visit)
    layers = [layer for group in groups for layer in reversed(group)]
    return tuple(visit for layer in layers for visit in of_layer[layer])


# Of the order red-black is also test_layer_parallel.py.
@pytest.mark.parametrize("order", [pytest.param("red_black", marks=pytest.mark.slow), "pipeline"])
def test_independent_visits_may_come_in_any_order(order, x64, monkeypatch):
    expected = passes(order)
    monkeypatch.setattr(block_pass, "visits", shuffled)
    assert shuffled(order, DEPTH) != visits(order, DEPTH)
    for actual, wanted in zip(passes(order), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-12)


def test_visits_that_do_read_each_other_may_not(x64, monkeypatch):
    expected = passes("backward")
    monkeypatch.setattr(block_pass, "visits", lambda order, depth: visits("pipeline", depth))
    gaps = [np.max(np.abs(x - y)) for x, y in zip(passes("backward"), expected, strict=True)]
    assert max(gaps) > 1e-3


def test_rows_go_down_the_pipeline_alone():
    """The blocks of a row depend on other rows through the kernels alone, which come last."""
    method, variables, examples = start("pipeline")
    numbers = Numbers((0.3,) * DEPTH, (0.2,) * (DEPTH - 1), (0.1,) * DEPTH, 0.0, 0.0)
    some = slice(3, 9)

    @jax.jit
    def down(variables, examples):
        result = block_pass.update_blocks(method, numbers, Inertias(), variables, examples)
        return result.variables.pre_activations, result.variables.activations

    kept = variables._replace(
        pre_activations=tuple(z[some] for z in variables.pre_activations),
        activations=tuple(a[some] for a in variables.activations),
    )
    part = Examples(examples.inputs[some], examples.targets[some], Rows())
    for whole, alone in zip(
        jax.tree.leaves(down(variables, examples)), jax.tree.leaves(down(kept, part)), strict=True
    ):
        np.testing.assert_allclose(whole[some], alone, rtol=1e-4, atol=1e-5)
