"""Schedules count steps under `optax.inject_hyperparams` too, where an update may be one stage."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tritia.gradient_flow._runge_kutta.named_tableaus import check_scheme

Factory = TypeVar("Factory", bound=Callable[..., Any])


def schedule_counts_steps(
    scheme: Callable[[Mapping[str, Any]], Any],
) -> Callable[[Factory], Factory]:
    """Makes a factory of Runge-Kutta steps whose injected schedules count steps, not updates.

    `optax.inject_hyperparams` reads a schedule itself, at the number of updates, and hands over its
    value: in transparent mode s updates are one step, so that the schedule would run s times as
    fast, and differ within a step. Nothing in the value tells how it came about. But Optax binds
    the user's arguments by the factory's signature, and this one's replaces a schedule by the same
    schedule of completed steps.

    Args:
      scheme: from the factory's arguments, by name, to the scheme or its name.
    """

    class Signature(inspect.Signature):
        def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
            bound = super().bind(*args, **kwargs)
            complete = inspect.BoundArguments(self, bound.arguments.copy())  # pyright: ignore
            complete.apply_defaults()
            schedule = bound.arguments.get("learning_rate")
            if callable(schedule) and complete.arguments.get("mode") == "transparent":
                stages = check_scheme(scheme(complete.arguments)).gradients_per_step
                bound.arguments["learning_rate"] = lambda count: schedule(count // stages)
            return bound

    def signed(factory: Factory) -> Factory:
        plain = inspect.signature(factory)
        factory.__signature__ = Signature(  # pyright: ignore[reportFunctionMemberAccess]
            list(plain.parameters.values()), return_annotation=plain.return_annotation
        )
        return factory

    return signed
