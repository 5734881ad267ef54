"""Many settings and seeds of a transform as one vmapped, compiled run.

* `run` trains with every setting and returns curves and the best one; `build` does so again and
  again without compiling again;
* `grid` and `draw` (with `uniform`, `log_uniform` and `choice`) write settings;
* `plain_problem` and `nnx_problem` say what is trained;
* `drive` lets an Optuna study choose the settings, a batch at a time.
"""

from tritia.sweeps._halving import Halving as Halving
from tritia.sweeps._problem import (
    Problem as Problem,
    minibatches as minibatches,
    nnx_problem as nnx_problem,
    plain_problem as plain_problem,
)
from tritia.sweeps._result import Result as Result
from tritia.sweeps._runner import build as build, run as run
from tritia.sweeps._space import (
    choice as choice,
    draw as draw,
    grid as grid,
    log_uniform as log_uniform,
    uniform as uniform,
)
from tritia.sweeps._study import drive as drive
