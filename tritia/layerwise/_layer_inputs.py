"""A loss that also says what went into each matrix of its params."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tritia._names import leaf_names
from tritia.layerwise._matrices import MatrixAxes
from tritia.layerwise._origins import Origins
from tritia.layerwise._recording import Record, Trace, evaluate
from tritia.layerwise._slices import joined
from tritia.layerwise._uses import LayerInputs, Use
from tritia.layerwise._views import Constant, Data, NotUnderstoodError, whole


def with_layer_inputs(
    loss: Callable[..., Any], *, has_aux: bool = False, skip: Sequence[str] = ()
) -> Callable[..., Any]:
    """Makes a loss also return what went into the matrix products with its params.

    The loss is traced, and each leaf of params is followed through transposes, reshapes, casts,
    sharding constraints and the calls of `jax.jit`, `jax.checkpoint`, `jax.custom_jvp`,
    `jax.custom_vjp` and `jax.lax.scan` to the matrix products and convolutions that it is an
    operand of. The other operand is returned: it is an intermediate value of the loss that the
    backward pass keeps anyway, so that there is still one forward pass. Nothing is asked of the
    model: Flax, Equinox, Haiku and plain functions are all alike, for what is looked at is the
    computation.

    * A stack of layers in one array that `jax.lax.scan` runs over has inputs for each layer. So has
      one that a Python loop or unpacking takes apart, index by index to the last. Slices that are
      multiplied by one and the same input, such as fused gates, are outputs of one layer; ranges of
      outputs with inputs of their own have the sum of these.
    * Tied weights have those of each use. A lookup, as in an embedding, is no product: of an
      embedding that is also the last layer, the last layer alone counts.
    * A leaf that scales, shifts or gates activations by element, or of which rows are looked up,
      has none.
    * A kernel that something is done to before the product, other than a product with a number, is
      named in an error: a mask (DropConnect), noise, normalisation, rounding, another matrix added
      to it, a choice among experts.

    kfac-jax looks for layers by matching patterns of several operations in the traced loss, because
    K-FAC needs the gradients by each layer's outputs too. Inputs alone can be seen from single
    operations, hence without a pattern for each kind of layer.

    Args:
      loss: a function of params, a pytree, and of anything else. What else it is given may hold
        arrays and anything that is not one; whatever it returns is returned.
      has_aux: whether the loss returns a pair, the value and something auxiliary.
      skip: names of leaves that are not looked at, such as "decoder/kernel", or the beginnings of
        names up to a slash, such as "decoder".

    Returns:
      A function of the same arguments that returns (value, inputs), or (value, (aux, inputs)) where
      `has_aux` is True, for ``jax.value_and_grad(..., has_aux=True)``. `inputs` is a dict from the
      names of leaves to `tritia.layerwise.LayerInputs`: pass it on to the optimizer, as in
      ``update(grads, state, params, layer_inputs=inputs)``.

    Raises:
      ValueError: from the returned function, params whose use is not understood, with their names:
        such as a weight that is normalised or masked before it is multiplied, one of which two
        products sum over different axes, or one of which `jax.lax.fori_loop` takes the layer of an
        index, with other inputs for each. Skip them; the optimizer then does without their inputs.
        So may be named an array without a batch's axis that is added to activations of its shape,
        where these go into a product with other activations: it looks like a kernel with noise.

    References:
      Botev and Martens, `KFAC-JAX <https://github.com/google-deepmind/kfac-jax>`_, 2022

    Examples:
      >>> import jax, jax.numpy as jnp, tritia
      >>> def loss(params, x, y):
      ...   hidden = jax.nn.relu(x @ params["first"] + params["bias"])
      ...   return jnp.mean((hidden @ params["second"] - y) ** 2)
      >>> params = {"first": jnp.ones((3, 4)), "bias": jnp.zeros(4), "second": jnp.ones((4, 1))}
      >>> value_and_grad = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
      >>> (value, inputs), grads = value_and_grad(params, jnp.ones((10, 3)), jnp.ones((10, 1)))
      >>> {name: one.gram().shape for name, one in inputs.items()}
      {'first': (1, 3, 3), 'second': (1, 4, 4)}
      >>> print(inputs["second"].gram()[0, 0])
      [9. 9. 9. 9.]
    """
    if isinstance(skip, str) or not all(isinstance(name, str) for name in skip):
        raise TypeError(f"skip must be a sequence of names of leaves; got {skip!r}.")
    skipped = tuple(skip)

    @functools.wraps(loss)
    def recorded(params: Any, *args: Any, **kwargs: Any) -> Any:
        names = leaf_names(params)
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(f"params has several leaves of one name: {', '.join(twice)}.")
        _check_skip(skipped, names)
        leaves, structure = jax.tree.flatten(params)
        others, other_structure = jax.tree.flatten((args, kwargs))
        trained = [i for i, leaf in enumerate(leaves) if _is_trained(leaf)]
        moving = [i for i, leaf in enumerate(others) if isinstance(leaf, jax.Array | np.ndarray)]
        rest = [i for i, leaf in enumerate(leaves) if i not in trained and _is_array(leaf)]

        def flat(some: Any, state: Any, data: Any) -> Any:
            all_leaves, all_others = list(leaves), list(others)
            for i, leaf in (*zip(trained, some, strict=True), *zip(rest, state, strict=True)):
                all_leaves[i] = leaf
            for i, leaf in zip(moving, data, strict=True):
                all_others[i] = leaf
            args, kwargs = jax.tree.unflatten(other_structure, all_others)
            return loss(jax.tree.unflatten(structure, all_leaves), *args, **kwargs)

        inputs = (
            [leaves[i] for i in trained],
            [leaves[i] for i in rest],
            [others[i] for i in moving],
        )
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*inputs)
        problems: dict[int, str] = {}

        def report(leaf: int, reason: str) -> None:
            problems.setdefault(leaf, reason)

        kinds = [
            Constant() if _matches(names[i], skipped) else whole(i, jnp.shape(leaves[i]))
            for i in trained
        ]
        kinds += [Data()] * (len(rest) + len(moving))
        values = jax.tree.leaves(inputs)
        origins = Origins()
        results, records = evaluate(
            closed,
            closed.consts,
            values,
            kinds,
            [origins.new(0) for _ in values],
            Trace(origins, report),
        )
        found = _collected(records, leaves, problems)
        if problems:
            raise ValueError(_message(problems, names))
        result = jax.tree.unflatten(jax.tree.structure(shapes), results)
        by_name = {names[i]: found[i] for i in sorted(found)}
        if has_aux:
            value, aux = result
            return value, (aux, by_name)
        return result, by_name

    return recorded


def layer_axes(
    loss: Callable[..., Any], *, has_aux: bool = False, skip: Sequence[str] = ()
) -> Callable[..., dict[str, MatrixAxes | None]]:
    """Makes a function that says which axes of params hold the inputs of a layer.

    It is needed where these are not all axes but the last, as in Equinox's layers, in attention
    with an axis for the heads, and in stacks of layers, whether `jax.lax.scan` or a Python loop
    over indices takes these apart. Nothing is computed: the loss is traced.

    Args:
      loss: a function of params and of anything else, as for `with_layer_inputs`.
      has_aux: whether the loss returns a pair, the value and something auxiliary.
      skip: names of leaves that are not looked at.

    Returns:
      A function of the same arguments that returns a dict from the names of all leaves of params to
      their `tritia.MatrixAxes`, None for those that are in no matrix product: the argument `axes`
      of `tritia.spectral_momentum` and of the transforms that it is made of.

    Raises:
      ValueError: from the returned function, params whose use is not understood.

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> def loss(params, x):
      ...   return jnp.mean((x @ params["weight"].T + params["bias"]) ** 2)
      >>> params = {"bias": jnp.zeros(4), "weight": jnp.zeros((4, 3))}
      >>> tritia.layer_axes(loss)(params, jnp.zeros((10, 3)))
      {'bias': None, 'weight': MatrixAxes(inputs=(1,), outputs=(0,))}
    """
    recorded = with_layer_inputs(loss, has_aux=has_aux, skip=skip)

    @functools.wraps(loss)
    def axes(params: Any, *args: Any, **kwargs: Any) -> dict[str, MatrixAxes | None]:
        found: dict[str, MatrixAxes | None] = dict.fromkeys(leaf_names(params))

        def trace() -> None:
            _, extra = recorded(params, *args, **kwargs)
            inputs = extra[1] if has_aux else extra
            found.update({name: one.axes for name, one in inputs.items()})

        jax.eval_shape(trace)
        return found

    return axes


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_trained(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _matches(name: str, skip: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in skip)


def _check_skip(skip: Sequence[str], names: Sequence[str]) -> None:
    unknown = [one for one in skip if not any(_matches(name, (one,)) for name in names)]
    if unknown:
        raise ValueError(f"skip has {unknown}, but params has the leaves {list(names)}.")


def _collected(
    records: Sequence[Record], leaves: Sequence[Any], problems: dict[int, str]
) -> dict[int, LayerInputs]:
    """Returns the inputs of each leaf; one whose uses disagree becomes a problem."""
    by_leaf: dict[int, list[Record]] = {}
    for record in records:
        by_leaf.setdefault(record.leaf, []).append(record)
    found: dict[int, LayerInputs] = {}
    for leaf, some in by_leaf.items():
        try:
            found[leaf] = _agreed(joined(some, jnp.shape(leaves[leaf])))
        except NotUnderstoodError as error:
            problems.setdefault(leaf, str(error))
    return found


def _agreed(uses: Sequence[tuple[MatrixAxes, Use]]) -> LayerInputs:
    """Returns the uses of a leaf.

    Raises:
      NotUnderstoodError: they sum over different axes.
    """
    (first, _), *more = uses
    for axes, _ in more:
        if axes != first:
            raise NotUnderstoodError(
                f"its axes {first.inputs} are summed over in one product, and"
                f" {axes.inputs} in another"
            )
    return LayerInputs(tuple(use for _, use in uses), first)


def _message(problems: dict[int, str], names: Sequence[str]) -> str:
    listed = "; ".join(f"{names[i]!r}: {problems[i]}" for i in sorted(problems))
    return (
        f"the inputs of some params can't be told from the traced loss. {listed}. Pass"
        f" skip={[names[i] for i in sorted(problems)]} to with_layer_inputs to do without them."
    )
