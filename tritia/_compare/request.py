"""What a comparison is asked for, and how a folder that holds one completes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tritia._compare import folder, own_code, results
from tritia._compare.data_choice import DataChoice
from tritia._compare.errors import UsageError
from tritia._compare.optimizers import USUAL, Optimizer


@dataclasses.dataclass(frozen=True)
class Request(DataChoice):
    """What is asked for, besides the data.

    Attributes:
      optimizers: names in `optimizers.OPTIMIZERS`.
      optimizer_from: further optimizers, of one's own: `module:factory`, see `own_code.optimizer`.
      seeds: how many.
      epochs: how many.
      hidden: widths of the hidden layers.
      batch_size: rows in a minibatch; None for the data set's own, 0 for all training rows.
      tune: whether to tune the learning rate.
      learning_rate: without tuning, the learning rate of every optimizer; None for their usual one.
      x_axis: of the picture.
      goal: the test metric for "epochs to target"; None for the data set's own.
      out: where the results go.
    """

    optimizers: tuple[str, ...] = USUAL
    optimizer_from: tuple[str, ...] = ()
    seeds: int = 5
    epochs: int = 20
    hidden: tuple[int, ...] = (100, 100)
    batch_size: int | None = None
    tune: bool = True
    learning_rate: float | None = None
    x_axis: Literal["epochs", "gradients"] = "epochs"
    goal: float | None = None
    out: Path = Path("tritia-compare")

    def check(self) -> None:
        """Checks what can be checked before any work; raises UsageError."""
        super().check()
        if self.tune and self.learning_rate is not None:
            raise UsageError("`learning_rate` goes with `no_tune`: otherwise it is tuned")
        self.chosen()

    def chosen(self) -> dict[str, Optimizer]:
        """The optimizers by name, one's own included; raises UsageError."""
        return own_code.look_up(self.optimizers, self.optimizer_from)

    def arguments(self) -> dict[str, Any]:
        """What config.json keeps: everything but where it is."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "out"}


MAY_GROW = ("optimizers", "optimizer_from", "seeds", "epochs")
"""What a finished comparison takes more of."""


def resolve(given: Mapping[str, Any]) -> Request:
    """Completes what is given: by what the folder holds, where it does, or else by the defaults.

    Optimizers are added to those that the folder holds.

    Args:
      given: attributes of a `Request`.

    Returns:
      The `Request`, checked.

    Raises:
      UsageError: it can't be carried out.
    """
    if "dataset" in given and "data" in given:
        raise UsageError("`dataset` and `data` don't go together")
    given = dict(given)
    if "data" in given:
        given["dataset"] = None
    elif "dataset" in given:
        given = {**dict.fromkeys(("data", "target", "task")), "drop": (), "categories": (), **given}
    label = DataChoice(given.get("dataset", DataChoice.dataset), data=given.get("data")).label
    out = given.setdefault("out", Request.out / label)
    kept = _kept(out)
    for name in ("optimizers", "optimizer_from"):
        if name in given and name in kept:
            given[name] = tuple(dict.fromkeys((*kept[name], *given[name])))
    request = Request(**{**kept, **given})
    request.check()
    return request


def _kept(out: Path) -> dict[str, Any]:
    """The arguments of the comparison that a folder holds; none where it holds something else."""
    before = folder.earlier_config(out, results.OUTPUTS)
    if before is None or "interrupted" in before:
        return {}
    kept = before["arguments"]
    if set(kept) != set(Request().arguments()):
        return {}
    try:
        return {name: _argument(name, value) for name, value in kept.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{out / folder.CONFIG} is damaged ({error}); use another `out`, or delete the folder"
        ) from None


def _argument(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    if value is None and name in _OPTIONAL:
        return None
    if kind is tuple:
        part_kind = int if name == "hidden" else str
        if not isinstance(value, list) or not all(type(part) is part_kind for part in value):
            raise ValueError(f"{name} is {value!r}")
        return tuple(value)
    well = isinstance(value, (kind, int) if kind is float else kind)
    if not well or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{name} is {value!r}")
    if isinstance(value, int) and name in ("seeds", "epochs") and value < 1:
        raise ValueError(f"{name} is {value!r}")
    return Path(value) if isinstance(value, str) and name in ("data", "data_dir") else value


_OPTIONAL = (
    *("dataset", "data_dir", "data", "target", "task", "batch_size", "learning_rate", "goal"),
)
_KINDS: dict[str, type] = {
    **dict.fromkeys(("dataset", "data_dir", "data", "target", "task", "x_axis"), str),
    **dict.fromkeys(("drop", "categories", "optimizers", "optimizer_from", "hidden"), tuple),
    **dict.fromkeys(("seeds", "epochs", "batch_size"), int),
    **dict.fromkeys(("learning_rate", "goal"), float),
    "tune": bool,
}
