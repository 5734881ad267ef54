"""The kernel step of TIAM on minibatches, as a preconditioner of any gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule
from tritia._trees import cast_like
from tritia.alternating._arguments import is_placeholder, solver_dtype
from tritia.alternating._minibatch import running_gram as grams
from tritia.alternating._minibatch.damped_inverse import times_columns
from tritia.alternating._minibatch.running_gram import InputGramState
from tritia.alternating._network import Network, find_layers, layers_of, like_params
from tritia.alternating._schedules import growing_period

NAME = "scale_by_input_gram"
CALL = "updates, state = solver.update(grads, state, params, layer_inputs=(a_0, a_1, ...))"


def scale_by_input_gram(
    *,
    damping: ScalarOrSchedule = 10.0,
    decay: ScalarOrSchedule = 0.95,
    refresh_period: ScalarOrSchedule = growing_period(1, 10),  # noqa: B008
    factor_period: ScalarOrSchedule = growing_period(5, 100),  # noqa: B008
    max_gram: int = 1024,
    rank: int | None = 32,
    input_gram: jax.Array | None = None,
    layer_order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Preconditions the gradients of dense layers by the Gram matrices of their inputs.

    For a layer with inputs a (n, d), with a column of ones last if it has a bias, and the gradient
    g (d, k) of its kernel with that of its bias as the last row,

    .. math::

      g \leftarrow (G + \lambda I)^{-1} g, \qquad
      G = \operatorname{average} \frac{a^T a}{n}, \qquad
      \lambda = damping \cdot \frac{\operatorname{tr} G}{d}

    This is the kernel step of `tritia.stochastic_tiam` on its own, for gradients of any loss, with
    any activation, dropout and so on. Besides gradients it takes the inputs of each layer. Multiply
    by a negative learning rate after it; 3 to 10 is usual for a loss that is averaged over the
    rows, and a tenth of that with a momentum of 0.9.

    **Relations.** It is the input-side factor of KFAC, which preconditions by the Gram matrix of
    the back-propagated output gradients as well; the kernel step of proximal back-propagation,
    which solves the same system on each minibatch by conjugate gradients; and, with an average G,
    gradient descent on neurons (FOOF).

    Args:
      damping: lambda relative to the mean diagonal entry of G, >= 0, so that one number suits
        layers of any scale. Large: plain gradients over lambda. A number or a schedule, as the next
        three.
      decay: of the running average of G at each refresh, in [0, 1); it is debiased.
      refresh_period: steps between two refreshes of G, >= 1. The first step refreshes. By default
        it grows from 1 to 10, because G changes fastest at the start.
      factor_period: steps between two inversions of G, >= 1, each of O(d^3). The first step
        inverts. By default it grows from 5 to 100.
      max_gram: the largest d for which the whole G is kept; its diagonal alone above; static.
      rank: None inverts G as a whole; an int r keeps its r leading eigenvectors, one subspace
        iteration at each inversion, and the mean of what is left, where that is cheaper: where
        2 r < d; static.
      input_gram: the first layer's G where it is known, such as that of the whole data, (d, d);
        inverted once. None averages it like the others.
      layer_order: the paths of the layers, such as ("encoder", "decoder"), in the order of
        `layer_inputs`; None takes the natural order of the paths.

    Returns:
      An `optax.GradientTransformationExtraArgs` with an `InputGramState`. Call its
      `update(grads, state, params, layer_inputs=, weights=None)` with the inputs of each layer,
      (n, d_l) each, without the ones, and optionally the weights of the rows, (n,), >= 0. The
      state holds no data and n may change from call to call.

    Raises:
      ValueError: a number outside its range; from `init` and `update`, params that are not a stack
        of dense layers, and inputs that do not fit them.
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
      >>> params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
      >>> loss = lambda p: 0.5 * jnp.mean((x @ p["kernel"] + p["bias"] - y) ** 2)
      >>> solver = optax.chain(tritia.scale_by_input_gram(damping=1e-6), optax.scale(-1.0))
      >>> state = solver.init(params)
      >>> grads = jax.grad(loss)(params)
      >>> updates, state = solver.update(grads, state, params, layer_inputs=(x,))
      >>> params = optax.apply_updates(params, updates)
      >>> print([f"{w:.1f}" for w in params["kernel"].ravel()])
      ['0.1', '1.0', '10.0']
    """
    settings = grams.check_settings(
        damping=damping,
        decay=decay,
        refresh_period=refresh_period,
        factor_period=factor_period,
        max_gram=max_gram,
        rank=rank,
        input_gram=input_gram,
    )

    def init_fn(params: optax.Params) -> InputGramState:
        if is_placeholder(params):
            return grams.placeholder_state()
        return grams.start(
            settings,
            grams.widths(find_layers(params, layer_order, solver=NAME)),
            solver_dtype(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        layer_inputs: Any = None,
        weights: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, InputGramState]:
        del params, extra
        network = find_layers(updates, layer_order, solver=NAME)
        dtype = state.mass.dtype
        shares, inputs = _convert(layer_inputs, weights, network, dtype)
        state = grams.advance(settings, state, inputs, shares)
        kernels, biases = layers_of(network, updates, dtype)
        scaled = [
            grams.split(times_columns(inverse, grams.joined(kernel, bias)), bias is not None)
            for inverse, kernel, bias in zip(state.inverses, kernels, biases, strict=True)
        ]
        new = like_params(network, updates, *zip(*scaled, strict=True))
        return cast_like(new, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _convert(
    layer_inputs: Any, weights: Any, network: Network, dtype: Any
) -> tuple[jax.Array, list[jax.Array]]:
    if layer_inputs is None:
        raise ValueError(
            f"scale_by_input_gram needs the inputs of each layer: call {CALL}, with one array"
            " (rows, inputs) for each layer."
        )
    if not isinstance(layer_inputs, Sequence) or len(layer_inputs) != len(network.names):
        count = f"{len(layer_inputs)} in a " if isinstance(layer_inputs, Sequence) else ""
        raise ValueError(
            f"layer_inputs must be a sequence with one array for each of the layers"
            f" {list(network.names)}; got {count}{type(layer_inputs).__name__}."
        )
    n = None
    for name, size, a in zip(network.names, network.sizes, layer_inputs, strict=False):
        shape = tuple(jnp.shape(a))
        n = shape[0] if n is None and shape else n
        if shape != (n, size):
            raise ValueError(
                f"layer_inputs has an array of shape {shape} for layer {name!r}; it must be"
                f" ({n}, {size}): one row for each example."
            )
    assert n is not None
    arrays = [jnp.asarray(a, dtype) for a in layer_inputs]
    if weights is not None:
        if tuple(jnp.shape(weights)) != (n,):
            raise ValueError(
                f"weights has shape {tuple(jnp.shape(weights))}; it needs one number for each row,"
                f" ({n},)."
            )
        weights = jnp.asarray(weights, dtype)[:, None]
        # A padded row may hold anything, NaN too: 0 * NaN would spread it.
        arrays = [jnp.where(weights > 0, a, 0) for a in arrays]
    arrays = [grams.with_ones(a, bias) for a, bias in zip(arrays, network.biases, strict=True)]
    return grams.row_shares(weights, n, dtype), arrays
