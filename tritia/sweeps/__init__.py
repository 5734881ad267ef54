"""Many settings and seeds of a transform as one vmapped, compiled run.

* `run` trains with every setting and returns curves and the best one; `build` does so again and
  again without compiling again;
* `grid` and `draw` (with `uniform`, `log_uniform` and `choice`) write settings;
* `plain_problem` and `nnx_problem` say what is trained;
* `drive` lets an Optuna study choose the settings, a batch at a time.

With `keep="best"` and a problem that evaluates validation rows, the number of steps is chosen too.
So `tritia.tiam` needs no number of yours: a path of weight decays on the same rows, as one run.

>>> import jax, jax.numpy as jnp, optax, tritia
>>> x = jax.random.normal(jax.random.key(0), (60, 4))
>>> rows = {"inputs": x, "targets": (x[:, 0] + x[:, 1] > 0).astype(int)}
>>> data = {
...   "training": jax.tree.map(lambda column: column[:40], rows),
...   "validation": jax.tree.map(lambda column: column[40:], rows)}
>>> def init(key):
...   keys = jax.random.split(key)
...   return [
...     {"kernel": jax.random.normal(keys[0], (4, 8)) / 2, "bias": jnp.zeros(8)},
...     {"kernel": jax.random.normal(keys[1], (8, 2)) / 2, "bias": jnp.zeros(2)}]
>>> def loss(params, rows):
...   hidden = jax.nn.relu(rows["inputs"] @ params[0]["kernel"] + params[0]["bias"])
...   outputs = hidden @ params[1]["kernel"] + params[1]["bias"]
...   losses = optax.softmax_cross_entropy_with_integer_labels(outputs, rows["targets"])
...   return jnp.mean(losses)
>>> problem = plain_problem(
...   init, loss, evaluate=lambda params, data: loss(params, data["validation"]))
>>> path = run(
...   lambda setting: tritia.tiam(40, mu=setting["mu"]),
...   grid(mu=[0.01, 0.03, 0.1, 0.3, 1.0]), problem, data, steps=20, keep="best",
...   batch=lambda key, step, data: data["training"], extra=lambda batch: batch)
>>> bool(path.scores.min() < 0.5), path.best["mu"] in (0.01, 0.03, 0.1, 0.3, 1.0)
(True, True)
>>> mu, updates, params = path.best["mu"], int(path.kept[0]), path.params
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
