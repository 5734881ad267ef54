"""Flax NNX and Linen: what a transform needs beyond a gradient, taken from the model.

`import tritia.flax` needs Flax (`pip install "tritia[flax]"`); `import tritia` does not. Transforms
that take one gradient per step need nothing from here: `nnx.Optimizer(model, tx, wrt=nnx.Param)`
and Linen's `TrainState` take them as they are.

* `grad_fn` makes the gradient function of Runge-Kutta steps from a model and its loss;
* `tiam` and `stochastic_tiam` make the layer-wise solvers for a model: they find the layers and
  their activations;
* `with_layer_inputs` makes a loss of an NNX module also return what went into each layer;
* `eval_model` returns a copy of the model that holds the evaluation parameters;
* `apply_gradients` steps a Linen `TrainState` with extra arguments.
"""

from tritia.flax._training import (
    apply_gradients as apply_gradients,
    eval_model as eval_model,
    grad_fn as grad_fn,
    stochastic_tiam as stochastic_tiam,
    tiam as tiam,
    with_layer_inputs as with_layer_inputs,
)
