r"""Standardised inputs: what the first layer's block problem sees, and what the user's params see.

With the mean m and the standard deviation s of each column of the inputs,

.. math:: x W + b = \frac{x - m}{s} (s W) + (b + m W)

so that a network of the inputs is one of standardised inputs with another first kernel and bias.
The weight decay and the rounding of the block problems then do not depend on the columns' units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia.alternating._blocks.losses import Loss
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._examples import receive
from tritia.alternating._network import layers_of, like_params

_LARGEST = 3.0
"""Of a standardised column. Of 2, 3 and no bound none is best on all tables that were tried:
`python -m benchmarks.tiam_tables scale`."""

_NO_LOSS = Loss("none", lambda z, y: y, lambda z, y: y)

Layers = tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]
"""Kernels, and biases or None."""


class Standard(NamedTuple):
    """The mean and the scale of each column.

    Attributes:
      mean: (d,), the weighted mean; 0 where the first layer has no bias to take it up.
      scale: (d,), > 0.
    """

    mean: jax.Array
    scale: jax.Array


def measure(inputs: jax.Array, rows: Rows, centred: bool) -> Standard:
    """Returns the mean and the scale of the columns.

    The scale of a column is its standard deviation, or a third of its largest deviation where that
    is more, so that a rare value does not become a large one; 1 where the column is constant to
    rounding, and where rows are fewer than columns: rare columns would become noise.

    Args:
      inputs: (n, d), 0 in rows of weight 0.
      rows: their sample weights.
      centred: whether the first layer has a bias; without one, deviations are those from 0.
    """
    n, d = inputs.shape
    counted = n if rows.weights is None else jnp.sum(rows.weights > 0)
    # The mean of columns far from 0 loses digits; the mean of what is left beside it does not.
    near = rows.mean(inputs) if centred else jnp.zeros(d, inputs.dtype)
    apart = inputs - near[None]
    if rows.weights is not None:
        apart = jnp.where(rows.weights > 0, apart, 0)
    rest = rows.mean(apart) if centred else jnp.zeros_like(near)
    mean = near + rest
    variance = rows.mean(apart * apart) - rest * rest
    varies = variance > (10 * jnp.finfo(inputs.dtype).eps * mean) ** 2
    scale = jnp.sqrt(jnp.where(varies, variance, 1))  # no derivative of a root of 0
    largest = jnp.max(jnp.abs(apart), axis=0)
    scaled = varies & (counted >= d)
    return Standard(mean, jnp.where(scaled, jnp.maximum(scale, largest / _LARGEST), 1))


def standardised(standard: Standard, inputs: jax.Array) -> jax.Array:
    """Returns the inputs in units of the scale, from the mean, (n, d)."""
    return (inputs - standard.mean[None]) / standard.scale[None]


def for_standardised(standard: Standard, layers: Layers) -> Layers:
    """Returns the layers that do to standardised inputs what `layers` do to the inputs."""
    kernels, (bias, *biases) = layers
    if bias is not None:
        bias = bias + _of_mean(standard, kernels[0])
    return in_units(standard, (kernels, (bias, *biases)))


def in_units(standard: Standard, layers: Layers) -> Layers:
    """Returns the layers with the first kernel in units of the scale: s W."""
    (kernel, *kernels), biases = layers
    return (standard.scale[:, None] * kernel, *kernels), biases


def for_inputs(standard: Standard, layers: Layers) -> Layers:
    """Returns the inverse of `for_standardised`."""
    (kernel, *kernels), (bias, *biases) = layers
    kernel = kernel / standard.scale[:, None]
    if bias is not None:
        bias = bias - _of_mean(standard, kernel)
    return (kernel, *kernels), (bias, *biases)


def _of_mean(standard: Standard, kernel: jax.Array) -> jax.Array:
    """Returns m W as a sum: an accelerator would round the operands of a product."""
    return jnp.sum(standard.mean[:, None] * kernel, axis=0)


def params_for_inputs(
    params: optax.Params,
    inputs: jax.typing.ArrayLike,
    weights: jax.typing.ArrayLike | None = None,
    *,
    layer_order: Sequence[str] | None = None,
) -> optax.Params:
    r"""Returns initial params of inputs of any scale, from initial params of standardised ones.

    The usual initial weights presume columns of mean 0 and variance 1; on other ones a network
    starts too large or too small, and stays so for many updates. With m and s as
    `tritia.tiam(standardize=True)` measures them, the first layer becomes

    .. math:: W \leftarrow W / s, \qquad b \leftarrow b - m (W / s)

    which does to the inputs what the given layer does to :math:`(x - m) / s`. `tritia.tiam` then
    trains the network that it trains on standardised inputs, whatever the units of the columns.

    Args:
      params: a pytree of dense layers, as `tritia.tiam` takes them.
      inputs: (n, d_0), the training rows.
      weights: (n,), sample weights >= 0; rows of weight 0 may hold anything.
      layer_order: as of `tritia.tiam`.

    Returns:
      Params like those that came, in their dtypes. Without a bias in the first layer, m is 0 and
      s the root mean square.

    Raises:
      ValueError: params are not a stack of dense layers, or the shapes do not fit them.
      TypeError: not arrays of numbers.

    Examples:
      >>> import jax, jax.numpy as jnp, tritia
      >>> x = 100 + 5 * jax.random.normal(jax.random.key(0), (50, 4))
      >>> kernel = jax.random.normal(jax.random.key(1), (4, 10)) / 2
      >>> params = tritia.params_for_inputs({"kernel": kernel, "bias": jnp.zeros(10)}, x)
      >>> z = x @ params["kernel"] + params["bias"]
      >>> bool(jnp.all(jnp.abs(z.mean(axis=0)) < 1e-3))
      True
    """
    network, examples = receive(
        "params_for_inputs",
        params,
        inputs,
        jnp.zeros(jnp.shape(inputs)[:1]),
        weights,
        layer_order=layer_order,
        num_examples=None,
        loss=_NO_LOSS,
    )
    if network.kernels[0].index is None:
        # The other layers stay as they are, and where they are.
        network = network._replace(kernels=network.kernels[:1], biases=network.biases[:1])
    layers = layers_of(network, params, examples.inputs.dtype)
    standard = measure(examples.inputs, examples.rows, layers[1][0] is not None)
    found = like_params(network, params, *for_inputs(standard, layers))
    return jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), found, params)
