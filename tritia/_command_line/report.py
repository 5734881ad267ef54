"""`tritia report`: what a comparison found, drawn again."""

from __future__ import annotations

import argparse

from rich.console import Console

from tritia._command_line import compare, own_code
from tritia._command_line.compare_options import command
from tritia._command_line.failures import report_failure
from tritia._command_line.screen import complain
from tritia._compare import experiment, folder, records, results
from tritia._compare.errors import UsageError
from tritia._compare.request import resolve


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Args:
      arguments: as `report_options.add` has them parsed.

    Returns:
      The exit code.

    Raises:
      UsageError: there is nothing to draw; one line says why.
    """
    own_code.import_from_here()
    out = arguments.out
    if not (out / folder.CONFIG).exists() or not (out / results.FINISHED).exists():
        raise UsageError(f"{out} holds no results of tritia compare")
    drawing = {"out": out, "x_axis": arguments.x_axis, "goal": arguments.goal}
    request = resolve({k: v for k, v in drawing.items() if v is not None})
    try:
        with own_code.listeners(arguments, request.seeds) as listeners, folder.hold(out):
            with Console(stderr=True).status("loading data"):
                comparison = experiment.prepare(request, command(request), redraw=True)
            if not comparison.curves:
                raise UsageError(f"{out} holds no optimizer that is finished")
            shown = arguments.optimizers or list(comparison.curves)
            view = comparison.only(shown)
            experiment.write_outputs(comparison, shown)
            for name in shown:
                setting = comparison.tunings[name].setting
                records.tell_all(listeners, name, setting, comparison.curves[name])
    except UsageError:
        raise
    except KeyboardInterrupt:
        complain("tritia report", "interrupted; nothing is lost")
        return 130
    except Exception as error:
        return report_failure("tritia report", out, error)
    compare.show(view)
    return 0
