"""Checks of arguments, and numbers that may be schedules.

Every transform of the library takes three kinds of argument, and there is one rule for each:

* a *number* to tune: a Python float, a traced array or a schedule. Concrete Python numbers are
  range-checked when the transform is built; traced values cannot be.
* a *static* integer or name (an order, a count of stages, a mode): it shapes the computation, so it
  must be concrete when the transform is built.
* a dtype.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

ScalarOrSchedule = float | jax.Array | Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
"""A number, an array of shape (), or a function from the step count to a number."""


def value_at(number: ScalarOrSchedule, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """Returns the value of a number or schedule at step `count`."""
    if not callable(number):
        return number
    with jax.numpy_dtype_promotion("standard"):  # schedules divide integers by numbers
        return number(count)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive_minimum: bool = False,
    exclusive_maximum: bool = False,
    schedule: bool = True,
) -> None:
    """Checks a number that a user may tune.

    Args:
      name: the argument's name, for the message.
      value: what the user passed: a concrete number, an array of shape () (traced or not) or, where
        `schedule` is True, a callable.
      minimum: the least value allowed.
      maximum: the greatest value allowed.
      exclusive_minimum: True where `minimum` itself is refused.
      exclusive_maximum: True where `maximum` itself is refused.
      schedule: whether a schedule is allowed.

    Raises:
      TypeError: `value` is not a number, an array or (if allowed) a schedule.
      ValueError: `value` is a concrete Python or NumPy number outside the range or not finite, or
        an array that is not a scalar.
    """
    kinds = "a number, a scalar array or a schedule" if schedule else "a number or a scalar array"
    if callable(value) and schedule and not isinstance(value, type):
        return
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape != ():
            raise ValueError(f"{name} must be {kinds}; got an array of shape {value.shape}.")
        if not (
            jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        ):
            raise TypeError(f"{name} must be {kinds}; got an array of dtype {value.dtype}.")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be {kinds}; got {value!r} of type {type(value).__name__}.")
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        number = math.inf
    too_low = number < minimum or (exclusive_minimum and number == minimum)
    too_high = number > maximum or (exclusive_maximum and number == maximum)
    if not math.isfinite(number) or too_low or too_high:
        left = "" if minimum == -math.inf else f"{minimum} {'<' if exclusive_minimum else '<='} "
        right = "" if maximum == math.inf else f" {'<' if exclusive_maximum else '<='} {maximum}"
        allowed = f"{left}{name}{right}" if left or right else "a finite number"
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}.")


def check_static_int(
    name: str,
    value: Any,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    allowed: Iterable[int] | None = None,
) -> int:
    """Checks an integer that shapes the computation, and returns it as a Python int.

    Raises:
      TypeError: `value` is traced or an array, or not an integer.
      ValueError: `value` is not among those allowed.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(static_message(name, value))
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{name} must be a Python int; got {value!r} of type {type(value).__name__}."
        )
    integer = int(value)
    if allowed is not None:
        choices = sorted(allowed)
        if integer not in choices:
            listed = ", ".join(map(str, choices))
            raise ValueError(f"{name} is {integer}; allowed: {listed}.")
    if (minimum is not None and integer < minimum) or (maximum is not None and integer > maximum):
        left = "" if minimum is None else f"{minimum} <= "
        right = "" if maximum is None else f" <= {maximum}"
        raise ValueError(f"{name} is {integer}; allowed: {left}{name}{right}.")
    return integer


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Checks a name (or None) against those that are known.

    Raises:
      TypeError: `value` is an array, traced or not.
      ValueError: `value` is unknown; the message lists the choices and the nearest match.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(static_message(name, value))
    known = list(choices)
    if value in known:
        return
    listed = ", ".join(repr(choice) for choice in known)
    near = difflib.get_close_matches(str(value), [str(choice) for choice in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} is {value!r}; allowed: {listed}.{hint}")


def static_message(name: str, value: Any) -> str:
    """Says that an argument is static and what to do when it arrives as an array."""
    return (
        f"{name} is static: it must be a Python value known when the transform is built; got an"
        f" array ({value}). Under optax.inject_hyperparams, name it in static_args:"
        f" optax.inject_hyperparams(factory, static_args={name!r})."
    )


def check_static(**arguments: Any) -> None:
    """Checks that none of a factory's static arguments is an array, and names all that are.

    `optax.inject_hyperparams` makes arrays of all numbers, those that are left out included: to
    name one of them at a time would take as many attempts.

    Raises:
      TypeError: there is an array among them, traced or not.
    """
    arrays = [n for n, value in arguments.items() if isinstance(value, (jax.Array, np.ndarray))]
    if len(arrays) == 1:
        raise TypeError(static_message(arrays[0], arguments[arrays[0]]))
    if arrays:
        raise TypeError(
            f"{', '.join(arrays[:-1])} and {arrays[-1]} are static: they must be Python values,"
            " known when the transform is built; got arrays. Under optax.inject_hyperparams, name"
            " them in static_args:"
            f" optax.inject_hyperparams(factory, static_args={tuple(arrays)!r})."
        )


def check_transform(name: str, value: Any) -> optax.GradientTransformationExtraArgs:
    """Checks that `value` is an Optax transform, and returns it with extra arguments supported.

    Raises:
      TypeError: `value` has no `init` and `update`.
    """
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation, such as optax.scale_by_adam();"
            f" got {value!r} of type {type(value).__name__}."
        )
    return with_extra_args(cast(optax.GradientTransformation, value))


def with_extra_args(
    transform: optax.GradientTransformation | optax.MultiSteps,
) -> optax.GradientTransformationExtraArgs:
    """Returns a transform whose `update` takes extra arguments, and drops them where it must.

    `optax.with_extra_args_support` drops them for everything but
    `optax.GradientTransformationExtraArgs`. `optax.MultiSteps`, and the transform that it makes, is
    none, but passes them on.
    """
    kinds = {
        parameter.kind for parameter in inspect.signature(transform.update).parameters.values()
    }
    if inspect.Parameter.VAR_KEYWORD in kinds:
        update = cast(optax.TransformUpdateExtraArgsFn, transform.update)
        return optax.GradientTransformationExtraArgs(transform.init, update)
    return optax.with_extra_args_support(cast(optax.GradientTransformation, transform))


def check_dtype(name: str, value: Any) -> Any:
    """Checks an optional floating (or complex) dtype and returns it in JAX's canonical form.

    Raises:
      TypeError: `value` is not a floating or complex dtype.
    """
    if value is None:
        return None
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(static_message(name, value))
    try:
        dtype = jax.dtypes.canonicalize_dtype(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a dtype or None; got {value!r}.") from error
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"{name} must be a floating or complex dtype or None; got {dtype}.")
    return dtype
