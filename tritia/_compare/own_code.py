"""A user's own functions: an optimizer for the comparison, or what takes its records.

They are named `module:name`, as entry points are; the module is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from tritia._compare.errors import UsageError, unknown
from tritia._compare.optimizers import OPTIMIZERS, LearningTask, Optimizer, Setting

LEARNING_RATE = 1e-2
"""The middle of the learning rates tried where a factory names no default."""


def find(argument: str, spec: str) -> Callable[..., Any]:
    """Imports what `module:name` names.

    Args:
      argument: that names it, for messages.
      spec: `module:name`; the name may have dots.

    Returns:
      What it names, which can be called.

    Raises:
      UsageError: there is no such module or name, the module fails, or it can't be called.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise UsageError(f"`{argument}` {spec!r} is not of the form module:name")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"`{argument}` {spec}: there is no module {module_name!r}, neither in the current"
                " directory nor installed"
            ) from None
        raise UsageError(f"`{argument}` {spec}: {module_name} fails ({_said(error)})") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"`{argument}` {spec}: {module_name} fails ({_said(error)})") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            what = unknown(f"name of {module_name}", part, public)
            raise UsageError(f"`{argument}` {spec}: {what}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"`{argument}` {spec} is {type(found).__name__}, which can't be called")
    return found


def optimizer(spec: str) -> tuple[str, Optimizer]:
    """Makes an optimizer of the comparison from a user's factory.

    Its learning rate is tuned as that of every other: around the default of the factory's
    `learning_rate` where it has one, around 0.01 otherwise.

    Args:
      spec: `module:factory`; `factory(learning_rate)` returns an `optax.GradientTransformation`.
        The learning rate may be traced. A transformation with extra arguments is passed `grad_fn`,
        `value`, `grad` and `value_fn`. What is evaluated are the params that it updates.

    Returns:
      The factory's name, and the `Optimizer`.

    Raises:
      UsageError: there is no such factory, or it doesn't return a transformation.
    """
    factory = find("optimizer_from", spec)
    name = spec.partition(":")[2].rpartition(".")[2]
    if name in OPTIMIZERS:
        raise UsageError(
            f"`optimizer_from` {spec}: the optimizer {name!r} is there already; call the function"
            " otherwise"
        )
    made: list[Any] = []
    try:  # traced, as the sweep over learning rates has it
        jax.eval_shape(lambda rate: made.append(factory(rate)), 0.1)
    except Exception as error:
        raise UsageError(
            f"`optimizer_from` {spec}: calling it with a traced learning rate fails"
            f" ({_said(error)})"
        ) from error
    if not isinstance(
        made[0], (optax.GradientTransformation, optax.GradientTransformationExtraArgs)
    ):
        raise UsageError(
            f"`optimizer_from` {spec} returns {type(made[0]).__name__}, not an"
            " optax.GradientTransformation"
        )

    def build(setting: Setting, task: LearningTask) -> optax.GradientTransformation:
        return factory(setting["learning_rate"])

    extra = isinstance(made[0], optax.GradientTransformationExtraArgs)
    return name, Optimizer(
        f"{spec.replace(':', '.')}(learning_rate)",
        build,
        _centre(factory),
        extra="everything" if extra else "nothing",
        source=_source(factory),
    )


def optimizers(specs: Sequence[str]) -> dict[str, Optimizer]:
    """Makes several, by name; raises UsageError as `optimizer` does, and where two share a name."""
    found: dict[str, Optimizer] = {}
    for spec in specs:
        name, made = optimizer(spec)
        if name in found:
            raise UsageError(f"`optimizer_from`: two of them are called {name!r}")
        found[name] = made
    return found


def look_up(names: Sequence[str], specs: Sequence[str]) -> dict[str, Optimizer]:
    """Looks optimizers up: in the registry, and those of one's own, which need not be named.

    Args:
      names: of the registry, and of one's own where their place matters.
      specs: as `optimizer` takes them.

    Returns:
      The optimizers in the order of the names, then the others of one's own.

    Raises:
      UsageError: a name is unknown (the message lists those that are known and the nearest) or
        there twice, or what `optimizers` raises.
    """
    own = optimizers(specs)
    known: Mapping[str, Optimizer] = {**OPTIMIZERS, **own}
    for name in names:
        if name not in known:
            raise UsageError(unknown("optimizer", name, known))
        if list(names).count(name) > 1:
            raise UsageError(f"optimizer {name!r} is twice in `optimizers`")
    if not names and not own:
        raise UsageError("`optimizers` is empty")
    return {name: known[name] for name in dict.fromkeys((*names, *own))}


def _centre(factory: Callable[..., Any]) -> float:
    try:
        default = inspect.signature(factory).parameters["learning_rate"].default
    except (KeyError, TypeError, ValueError):
        return LEARNING_RATE
    usable = isinstance(default, (int, float)) and 1e-12 < default < 1e12
    return float(default) if usable else LEARNING_RATE


def _source(factory: Callable[..., Any]) -> str | None:
    """SHA-256 of the file that defines it: a folder of results tells whether it has changed."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(factory))
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, OSError, ValueError):
        return None


def _said(error: BaseException) -> str:
    """The error, and the line of the user's own code in which it was raised."""
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    installed = sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), _LIBRARY
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*installed, "<"))
    ]
    return f"{words}, {Path(own[-1].filename).name} line {own[-1].lineno}" if own else words


_LIBRARY = str(Path(__file__).parents[1])
