r"""Gram matrices of layer inputs as a preconditioner.

A dense layer with inputs a (n, d), a column of ones among them where it has a bias, and output
displacements s (n, k) has the proximal least squares problem

.. math:: \min_D \; \frac{1}{2n} |a D - s|^2 + \frac\lambda2 |D|^2
    \quad\Longrightarrow\quad D = (G + \lambda I)^{-1} \frac{a^T s}{n}, \qquad G = \frac{a^T a}{n}

Because :math:`a^T s / n` is a gradient by the weights when s is one by the outputs, the matrix
preconditions gradients as well. Minibatches give G as a running average, which is costly only in
what is done to it once in a while: refreshing and factoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_number,
    check_static_int,
    value_at,
)
from tritia._batching import lockstep_cond
from tritia.alternating.arguments import is_placeholder, solver_dtype
from tritia.alternating.damped_inverse import damped_inverse, times_columns, zero_inverse
from tritia.alternating.network import Network, find_layers, layers_of, like_params

CALL = "updates, state = solver.update(grads, state, params, layer_inputs=(a_0, a_1, ...))"


class GramSettings(NamedTuple):
    """How Gram matrices are kept: the checked arguments that `check_settings` returns.

    Attributes:
      damping: lambda over the mean diagonal entry of G.
      decay: of the running average, at each refresh.
      refresh_period: steps from one refresh to the next.
      factor_period: steps from one factorisation to the next.
      max_gram: the widest Gram matrix that is kept whole.
      rank: of low-rank inverses, or None for whole ones.
      input_gram: the first layer's, or None.
    """

    damping: ScalarOrSchedule
    decay: ScalarOrSchedule
    refresh_period: ScalarOrSchedule
    factor_period: ScalarOrSchedule
    max_gram: int
    rank: int | None
    input_gram: jax.Array | None


class InputGramState(NamedTuple):
    r"""State of `tritia.scale_by_input_gram`, and a part of that of `tritia.stochastic_tiam`.

    Attributes:
      count: number of updates so far, (), int32.
      next_refresh: the count at which the Gram matrices take in a minibatch next, (), int32.
      next_factor: the count at which they are factored next, (), int32.
      mass: the share of the averages that minibatches have filled, :math:`1 - decay^k` after k of
        them, (): the averages are divided by it.
      grams: for each layer the running average of :math:`a^T a / n`: (d, d), or its diagonal, (d,),
        where d is above `max_gram`; d counts the column of ones.
      inverses: for each layer :math:`(G + \lambda I)^{-1}`: (d, d), (d,), or by leading
        eigenvectors, a `tritia.alternating.damped_inverse.LowRank`.
    """

    count: jax.Array
    next_refresh: jax.Array
    next_factor: jax.Array
    mass: jax.Array
    grams: Any
    inverses: Any


def check_settings(
    *,
    damping: Any,
    decay: Any,
    refresh_period: Any,
    factor_period: Any,
    max_gram: Any,
    rank: Any,
    input_gram: Any,
) -> GramSettings:
    """Checks the arguments that say how Gram matrices are kept.

    Raises:
      ValueError: a number outside its range, or `input_gram` is not a square matrix.
      TypeError: an argument of the wrong type.
    """
    check_number("damping", damping, minimum=0)
    check_number("decay", decay, minimum=0, maximum=1, exclusive_maximum=True)
    for name, period in (("refresh_period", refresh_period), ("factor_period", factor_period)):
        check_number(name, period, minimum=1)
    largest = check_static_int("max_gram", max_gram, minimum=0)
    rank = None if rank is None else check_static_int("rank", rank, minimum=1)
    if input_gram is not None:
        shape = tuple(jnp.shape(input_gram))
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"input_gram has shape {shape}; it must be a square matrix, a^T a / n of all"
                " inputs a with a column of ones last where the first layer has a bias."
            )
    return GramSettings(damping, decay, refresh_period, factor_period, largest, rank, input_gram)


def widths(network: Network) -> tuple[int, ...]:
    """Returns the number of inputs of each layer, the constant one of a bias included."""
    return tuple(
        size + (bias is not None)
        for size, bias in zip(network.sizes[:-1], network.biases, strict=True)
    )


def with_ones(a: jax.Array, bias: Any) -> jax.Array:
    """Returns a, (n, d), with a column of ones last for a layer that has a bias."""
    return a if bias is None else jnp.pad(a, ((0, 0), (0, 1)), constant_values=1)


def start(settings: GramSettings, sizes: Sequence[int], dtype: Any) -> InputGramState:
    """Returns the state before the first minibatch.

    Raises:
      ValueError: `input_gram` does not fit the first layer.
    """

    def zeros(size: int) -> jax.Array:
        return jnp.zeros((size,) if size > settings.max_gram else (size, size), dtype)

    grams = [zeros(size) for size in sizes]
    if settings.input_gram is not None:
        shape = tuple(jnp.shape(settings.input_gram))
        if shape != (sizes[0], sizes[0]):
            raise ValueError(
                f"input_gram has shape {shape}, but the first layer needs"
                f" ({sizes[0]}, {sizes[0]}): a row for each input, and a last one for the bias if"
                " it has one."
            )
        given = jnp.array(settings.input_gram, dtype, copy=True)
        grams[0] = given if grams[0].ndim == 2 else jnp.diagonal(given).copy()
    return InputGramState(
        count=jnp.zeros((), jnp.int32),
        next_refresh=jnp.zeros((), jnp.int32),
        next_factor=jnp.zeros((), jnp.int32),
        mass=jnp.zeros((), dtype),
        grams=tuple(grams),
        inverses=tuple(
            zero_inverse(size, dtype, diagonal=size > settings.max_gram, rank=settings.rank)
            for size in sizes
        ),
    )


def advance(
    settings: GramSettings, state: InputGramState, inputs: Sequence[jax.Array], shares: jax.Array
) -> InputGramState:
    """Returns the state after a minibatch: refreshed and factored if that is due.

    Args:
      settings: how the Gram matrices are kept.
      state: before the minibatch.
      inputs: of each layer, (n, d) with the column of ones.
      shares: how the rows count, as `row_shares` says.
    """
    dtype = state.mass.dtype
    known = settings.input_gram is not None  # the first Gram matrix stays what it is
    first = int(known)

    def period(number: ScalarOrSchedule) -> jax.Array:
        steps = jnp.round(jnp.asarray(value_at(number, state.count)))
        return state.count + jnp.maximum(steps.astype(jnp.int32), 1)

    def refresh(decay, mass, grams, inputs, shares):
        news = tuple(
            mean_gram(a, shares, gram.ndim == 1) for gram, a in zip(grams, inputs, strict=True)
        )
        # Rows that all count nothing say nothing; NaN would never leave an average again.
        usable = jnp.any(shares > 0)
        for new in news:
            usable &= jnp.all(jnp.isfinite(new))
        share = jnp.where(usable, 1 - decay, 0)
        grams = tuple(
            jnp.where(usable, gram + share * (new - gram), gram)
            for gram, new in zip(grams, news, strict=True)
        )
        return usable, mass + share * (1 - mass), grams

    refreshed, mass, grams = lockstep_cond(
        state.count >= state.next_refresh,
        refresh,
        lambda decay, mass, grams, inputs, shares: (jnp.zeros((), bool), mass, grams),
        jnp.asarray(value_at(settings.decay, state.count), dtype),
        state.mass,
        state.grams[first:],
        tuple(inputs[first:]),
        shares,
    )
    damping = jnp.asarray(value_at(settings.damping, state.count), dtype)
    factored = (state.count >= state.next_factor) & (mass > 0)
    inverses = lockstep_cond(
        factored,
        lambda damping, mass, grams, kept: tuple(
            damped_inverse(gram / jnp.where(mass > 0, mass, 1), damping, last)
            for gram, last in zip(grams, kept, strict=True)
        ),
        lambda damping, mass, grams, kept: kept,
        damping,
        mass,
        grams,
        state.inverses[first:],
    )
    if known:
        inverse = lockstep_cond(
            state.count == 0,
            lambda damping, gram, kept: damped_inverse(gram, damping, kept),
            lambda damping, gram, kept: kept,
            damping,
            state.grams[0],
            state.inverses[0],
        )
        grams, inverses = (state.grams[0], *grams), (inverse, *inverses)
    return InputGramState(
        count=cast(jax.Array, optax.safe_increment(state.count)),
        next_refresh=jnp.where(refreshed, period(settings.refresh_period), state.next_refresh),
        next_factor=jnp.where(factored, period(settings.factor_period), state.next_factor),
        mass=mass,
        grams=grams,
        inverses=inverses,
    )


def row_shares(weights: jax.Array | None, n: int, dtype: Any) -> jax.Array:
    """Returns the share of each row in a mean, (n, 1); zeros where no row counts."""
    if weights is None:
        return jnp.full((n, 1), 1 / n, dtype)
    total = jnp.sum(weights)
    return weights.reshape(n, 1) / jnp.where(total > 0, total, 1)


def mean_gram(a: jax.Array, shares: jax.Array, diagonal: bool) -> jax.Array:
    """Returns the mean over the rows of a^T a, (d, d), or its diagonal, (d,)."""
    weighted = shares * a
    return jnp.sum(weighted * a, axis=0) if diagonal else weighted.T @ a


def scale_by_input_gram(
    *,
    damping: ScalarOrSchedule = 0.1,
    decay: ScalarOrSchedule = 0.95,
    refresh_period: ScalarOrSchedule = 10,
    factor_period: ScalarOrSchedule = 100,
    max_gram: int = 1024,
    rank: int | None = None,
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

    This is the weight block of `tritia.stochastic_tiam` on its own, for gradients from anywhere:
    of any loss, any activation, dropout and so on. The one thing to pass in besides gradients is
    what went into each layer. Multiply by a negative learning rate after it; 0.1 to 1 is usual for
    a loss that is averaged over the rows.

    **Relations.** It is the input-side factor of KFAC, which preconditions by the Gram matrix of
    the back-propagated output gradients as well; the weight step of proximal back-propagation,
    which solves the same system on each minibatch by conjugate gradients; and, with an average G,
    gradient descent on neurons (FOOF).

    Args:
      damping: lambda relative to the mean diagonal entry of G, >= 0, so that one number suits
        layers of any scale. Large: plain gradients over lambda. A number or a schedule, as the next
        three.
      decay: of the running average of G at each refresh, in [0, 1); it is debiased.
      refresh_period: steps between two refreshes of G, >= 1. The first step refreshes.
      factor_period: steps between two inversions of G, >= 1, each of O(d^3). The first step
        inverts.
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
      ValueError: a number outside its range; from `init` and `update`, params that are no stack of
        dense layers, and inputs that do not fit them.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Martens and Grosse, `Optimizing Neural Networks with Kronecker-factored Approximate Curvature
      <https://arxiv.org/abs/1503.05671>`_, 2015

      Frerix et al., `Proximal Backpropagation <https://arxiv.org/abs/1706.04638>`_, 2018

      Benzing, `Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization
      <https://arxiv.org/abs/2201.12250>`_, 2022

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> x = jax.random.normal(jax.random.key(0), (50, 3)) * jnp.array([100.0, 1.0, 0.01])
      >>> y = x @ jnp.array([[0.01], [1.0], [100.0]])
      >>> params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
      >>> loss = lambda p: 0.5 * jnp.mean((x @ p["kernel"] + p["bias"] - y) ** 2)
      >>> solver = optax.chain(tritia.scale_by_input_gram(damping=1e-8), optax.scale(-1.0))
      >>> state = solver.init(params)
      >>> grads = jax.grad(loss)(params)
      >>> updates, state = solver.update(grads, state, params, layer_inputs=(x,))
      >>> params = optax.apply_updates(params, updates)
      >>> print([f"{w:.2f}" for w in params["kernel"].ravel()])
      ['0.01', '1.00', '100.00']
    """
    settings = check_settings(
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
            return placeholder_state()
        return start(settings, widths(find_layers(params, layer_order)), solver_dtype(params))

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
        network = find_layers(updates, layer_order)
        dtype = state.mass.dtype
        shares, inputs = _convert(layer_inputs, weights, network, dtype)
        state = advance(settings, state, inputs, shares)
        kernels, biases = layers_of(network, updates, dtype)
        scaled = [
            split(times_columns(inverse, joined(kernel, bias)), bias is not None)
            for inverse, kernel, bias in zip(state.inverses, kernels, biases, strict=True)
        ]
        new = like_params(network, updates, *zip(*scaled, strict=True))
        return jax.tree.map(lambda x, g: x.astype(jnp.result_type(g)), new, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def joined(kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns a kernel with its bias as the last row."""
    return kernel if bias is None else jnp.concatenate([kernel, bias[None]])


def split(matrix: jax.Array, has_bias: bool) -> tuple[jax.Array, jax.Array | None]:
    """Returns the kernel and the bias of a matrix that `joined` made."""
    return (matrix[:-1], matrix[-1]) if has_bias else (matrix, None)


def placeholder_state() -> InputGramState:
    """Returns a state with one leaf in every field: for `optax.tree.map_params`, no copy of params.

    How many layers there are is unknown here; a leaf stands for any tuple in `jax.tree.map`.
    """
    return InputGramState(*(jnp.zeros(()) for _ in InputGramState._fields))


def _convert(
    layer_inputs: Any, weights: Any, network: Network, dtype: Any
) -> tuple[jax.Array, list[jax.Array]]:
    if layer_inputs is None:
        raise ValueError(
            f"scale_by_input_gram needs what went into each layer: call {CALL}, with one array"
            " (rows, inputs) for each layer."
        )
    if not isinstance(layer_inputs, Sequence) or len(layer_inputs) != len(network.names):
        count = f"{len(layer_inputs)}" if isinstance(layer_inputs, Sequence) else "no sequence"
        raise ValueError(
            f"layer_inputs must be a sequence with one array for each of the layers"
            f" {list(network.names)}; got {count} ({type(layer_inputs).__name__})."
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
    arrays = [with_ones(a, bias) for a, bias in zip(arrays, network.biases, strict=True)]
    return row_shares(weights, n, dtype), arrays
