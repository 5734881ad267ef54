"""Gradients preconditioned by the Gram matrices of what went into their layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia import _mesh as mesh
from tritia._arguments import ScalarOrSchedule
from tritia._leaves import check_gradients, is_placeholder, passed_through, trained
from tritia._mesh import beside, vary, varying_axes, with_auto_axes
from tritia._names import leaf_names
from tritia._schedules import growing_period
from tritia._trees import compute_dtype
from tritia.layerwise._damped_inverse import damped_inverse, times_columns, zero_inverse
from tritia.layerwise._matrices import (
    Axes,
    MatrixAxes,
    axes_of,
    check_axes,
    from_matrices,
    shape_of,
    stack_axes,
    to_matrices,
)
from tritia.layerwise._running_gram import (
    InputGramState,
    advance,
    check_settings,
    placeholder_state,
)
from tritia.layerwise._uses import LayerInputs, ProductUse

CALL = "updates, state = solver.update(grads, state, params, layer_inputs=inputs)"


def scale_by_input_gram(
    *,
    damping: ScalarOrSchedule = 10.0,
    decay: ScalarOrSchedule = 0.95,
    refresh_period: ScalarOrSchedule = growing_period(1, 20),  # noqa: B008
    factor_period: ScalarOrSchedule = growing_period(5, 100),  # noqa: B008
    max_gram: int = 1024,
    rank: int | None = 16,
    axes: Axes = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Preconditions gradients by the Gram matrices of their layers' inputs.

    For a layer with inputs a (n, d) and the gradient g (d, k) of its kernel,

    .. math::

      g \leftarrow (G + \lambda I)^{-1} g, \qquad
      G = \operatorname{average} \frac{a^T a}{n}, \qquad
      \lambda = damping \cdot \frac{\operatorname{tr} G}{d}

    `tritia.with_layer_inputs` finds the inputs of every layer of a model. The rows of a are all
    examples and all positions at which the layer is applied; of a convolution they are its patches.
    A leaf without inputs passes through unchanged, as does one with a single axis.

    **Relations.** It is the input-side factor of KFAC, which preconditions by the Gram matrix of
    the back-propagated output gradients as well; the weight step of proximal back-propagation,
    which solves the same system on each minibatch by conjugate gradients; and, with an average G,
    gradient descent on neurons (FOOF). It is the weight block of `tritia.stochastic_tiam` too.

    **On a CPU** XLA has SciPy factorise the matrices. OpenBLAS's threads gain nothing there, and
    wait by spinning: beside other work a matrix of 784 rows took 163 ms of CPU time instead of 1.
    Set OPENBLAS_NUM_THREADS=1, or call `threadpoolctl.threadpool_limits(1, "blas")`.

    Args:
      damping: lambda relative to the mean diagonal entry of G, >= 0, so that one number suits
        layers of any scale. Large: plain gradients over lambda. A number or a schedule, as the next
        three.
      decay: of the running average of G at each refresh, in [0, 1); it is debiased.
      refresh_period: steps between two refreshes of G, >= 1. The first step refreshes. By default
        it grows from 1 to 20, because G changes fastest at the start.
      factor_period: steps between two inversions of G, >= 1, each of O(d^3), or of O(d^2 r) with a
        rank r. The first step inverts. By default it grows from 5 to 100.
      max_gram: the largest d for which the whole G is kept; its diagonal alone above; static.
      rank: None inverts G as a whole; an int r keeps its r leading eigenvectors, one subspace
        iteration at each inversion, and the mean of what is left, where that is cheaper: where
        2 r < d; static.
      axes: which axes of an array hold the layer's inputs: a dict from names of leaves to
        `tritia.MatrixAxes`, or None for a leaf that has no Gram matrix, as `tritia.layer_axes`
        finds it. For leaves that it lacks, all axes but the last, as in Flax's layers.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `tritia.InputGramState`, whose Gram matrices
      are (matrices, d, d) or (matrices, d) by the leaf's name. Call its
      `update(grads, state, params, layer_inputs=)` with what the loss that
      `tritia.with_layer_inputs` returns gives, or with a dict from names of leaves to arrays
      (..., d). The state holds no data. On a mesh the Gram matrices and their inverses lie where
      the compiler puts them, and on every device under explicit axes.

    Raises:
      ValueError: a number outside its range; from `init` and `update`, axes and inputs that do not
        fit params.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Martens and Grosse, `Optimizing Neural Networks with Kronecker-factored Approximate Curvature
      <https://arxiv.org/abs/1503.05671>`_, 2015

      Frerix et al., `Proximal Backpropagation <https://arxiv.org/abs/1706.04638>`_, 2018

      Benzing, `Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization
      <https://arxiv.org/abs/2201.12250>`_, 2022

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> x = jax.random.normal(jax.random.key(0), (50, 3)) * jnp.array([10.0, 1.0, 0.1])
      >>> y = x @ jnp.array([[0.1], [1.0], [10.0]])
      >>> params = {"kernel": jnp.zeros((3, 1))}
      >>> loss = lambda p: 0.5 * jnp.mean((x @ p["kernel"] - y) ** 2)
      >>> solver = optax.chain(tritia.scale_by_input_gram(damping=1e-6), optax.scale(-1.0))
      >>> state = solver.init(params)
      >>> value_and_grad = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
      >>> (value, inputs), grads = value_and_grad(params)
      >>> updates, state = solver.update(grads, state, params, layer_inputs=inputs)
      >>> params = optax.apply_updates(params, updates)
      >>> print([f"{w:.1f}" for w in params["kernel"].ravel()])
      ['0.1', '1.0', '10.0']
    """
    settings = check_settings(
        damping=damping,
        decay=decay,
        refresh_period=refresh_period,
        factor_period=factor_period,
        max_gram=max_gram,
        rank=rank,
    )
    check_axes(axes)

    def init_fn(params: optax.Params) -> InputGramState:
        if is_placeholder(params):
            return placeholder_state()
        params = trained(params)
        leaves = jax.tree.leaves(params)
        dtype = compute_dtype(*map(jnp.result_type, leaves), jnp.float32)  # there may be no leaf
        grams, inverses = {}, {}
        for name, (one, leaf) in _matrices(axes, params).items():
            count, inputs, _ = shape_of(one, jnp.shape(leaf))
            diagonal = inputs > settings.max_gram
            shape = (count, inputs) if diagonal else (count, inputs, inputs)
            grams[name] = jnp.zeros(shape, dtype)
            inverses[name] = jax.tree.map(
                lambda leaf, count=count: jnp.tile(leaf, (count,) + (1,) * leaf.ndim),
                zero_inverse(inputs, dtype, diagonal=diagonal, rank=settings.rank),
            )
        zero = jnp.zeros((), jnp.int32)
        mass = jnp.zeros((), dtype)
        state = InputGramState(zero, zero.copy(), zero.copy(), mass, grams, inverses)
        return beside(params, vary(state, varying_axes(params)))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        layer_inputs: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, InputGramState]:
        del extra
        given = updates
        updates, _ = check_gradients(updates, params)
        inputs = _convert(layer_inputs, _matrices(axes, updates))
        varying = varying_axes((updates, state))
        # Axes that spread the rows alone: their Gram matrices are those of all rows.
        rows = varying_axes(inputs) - varying
        updates, state, inputs = vary((updates, state, inputs), varying)
        result = with_auto_axes(
            functools.partial(step, rows), (updates, state), updates, state, inputs
        )
        scaled, state = vary(result, varying)
        return passed_through(scaled, given), state

    def step(
        rows: mesh.Axes,
        updates: optax.Updates,
        state: InputGramState,
        inputs: dict[str, LayerInputs],
    ) -> tuple[optax.Updates, InputGramState]:
        found = _matrices(axes, updates)
        minibatch = functools.partial(_grams, rows)
        invert = jax.vmap(damped_inverse, (0, None, 0))
        state = advance(settings, state, minibatch, inputs, invert)
        leaves, structure = jax.tree.flatten(updates)
        for i, name in enumerate(leaf_names(updates)):
            if name in inputs:
                one, leaf = found[name]
                matrices = to_matrices(one, leaf).astype(state.mass.dtype)
                scaled = jax.vmap(times_columns)(state.inverses[name], matrices)
                leaves[i] = from_matrices(one, scaled, leaf.shape).astype(leaf.dtype)
        return jax.tree.unflatten(structure, leaves), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _matrices(axes: Axes, params: Any) -> dict[str, tuple[MatrixAxes, Any]]:
    """Returns the leaves that may have a Gram matrix, by name, and their axes."""
    names = leaf_names(params)
    each = zip(names, axes_of(axes, params), jax.tree.leaves(params), strict=True)
    named = axes or {}
    return {
        name: (one, leaf)
        for name, one, leaf in each
        if jnp.size(leaf) and (named[name] is not None if name in named else jnp.ndim(leaf) > 1)
    }


def _convert(
    layer_inputs: Any, found: Mapping[str, tuple[MatrixAxes, Any]]
) -> dict[str, LayerInputs]:
    """Returns the inputs of the leaves that have some, checked."""
    if not isinstance(layer_inputs, Mapping):
        got = "none" if layer_inputs is None else f"a {type(layer_inputs).__name__}"
        raise ValueError(
            f"scale_by_input_gram needs what went into each layer: call {CALL} with the dict that"
            f" the loss made by tritia.with_layer_inputs gives; got {got}."
        )
    inputs = {}
    for name, (axes, leaf) in found.items():
        given = layer_inputs.get(name)
        if given is None:
            continue
        if not isinstance(given, LayerInputs):
            given = _from_array(name, axes, leaf, given)
        if _ordered(given.axes) != _ordered(axes):
            raise ValueError(
                f"layer_inputs has {given.axes} for {name!r}, of shape {tuple(jnp.shape(leaf))},"
                f" where the optimizer was made for {axes}: pass"
                " axes=tritia.layer_axes(loss)(params, ...) to it."
            )
        inputs[name] = LayerInputs(given.uses, axes)
    return inputs


def _ordered(axes: MatrixAxes) -> tuple[tuple[int, ...], frozenset[int]]:
    return axes.inputs, frozenset(axes.outputs)


def _from_array(name: str, axes: MatrixAxes, leaf: Any, array: Any) -> LayerInputs:
    shape, size = tuple(jnp.shape(array)), shape_of(axes, jnp.shape(leaf))[1]
    if stack_axes(axes, jnp.ndim(leaf)) or len(shape) < 2 or shape[-1] != size:
        raise ValueError(
            f"layer_inputs has an array of shape {shape} for {name!r}, of shape"
            f" {tuple(jnp.shape(leaf))}; it must have the shape (..., {size}), of a single matrix."
        )
    return LayerInputs((ProductUse(jnp.asarray(array).reshape(-1, size), (), ()),), axes)


def _grams(
    rows: mesh.Axes, averages: dict[str, jax.Array], inputs: dict[str, LayerInputs]
) -> tuple[jax.Array, dict[str, jax.Array | None]]:
    """Returns that there are rows, and their Gram matrices; None for a leaf without inputs."""

    def of_leaf(name: str, average: jax.Array) -> jax.Array | None:
        if name not in inputs:
            return None
        gram = inputs[name].gram(diagonal=average.ndim == 2).astype(average.dtype)
        return jax.lax.pmean(gram, tuple(sorted(rows))) if rows else gram

    return jnp.asarray(True), {name: of_leaf(name, one) for name, one in averages.items()}
