r"""Layer-wise alternating minimisation of multilayer perceptrons, on all rows or on minibatches.

`tiam` and `stochastic_tiam` are solvers with Optax's interface: they take the examples instead of a
gradient. This page says how `tiam` works and how to choose its settings; `stochastic_tiam`, which
finds its blocks' displacements from one minibatch, says in its own place what steps it makes of
them: of a fixed size (`SpectralStep`), or with inertia.

## The problem

Pre-activations z and activations a become variables beside the kernels W and biases b. With h the
activation functions and R the loss, on all `num_examples` rows at once, the problem

.. math::

  \min \; R(z_L, y) + \sum_l \frac{\mu_l}{2} |W_l|^2
      + \sum_l \frac{\rho_l}{2} |z_l - a_{l-1} W_l - b_l|^2
      + \sum_{l<L} \frac{\gamma_l}{2} |a_l - h(z_l)|^2

splits into small blocks, each of which has a closed form or a convergent iteration. An update is
one block pass: it visits every block, and no gradient goes through the network. With
`coupling="inequality"` the last sum is replaced by the constraint
:math:`|a_l - h(z_l)| \le \epsilon`.

## Order of the blocks

Each visit lowers the objective over one block while the others are held, or leaves it as it is, so
that a pass never raises the objective, in whatever order it visits them. "backward" goes from the
output to the inputs and "forward" the other way; "symmetric" does both. In "red_black" every second
layer comes first, and in "pipeline" all kernels come last: among those, no visit reads what another
one writes.

## Deep networks, and layers over devices

Equal layers may be stacked in one kernel (layers, width, width) and one bias (layers, width), as
`nnx.vmap` and `nnx.scan` make them; by default they are solved one after the other like any others.
In the order "red_black" every second one can be solved at the same time: with
`layer_sharding=NamedSharding(mesh, PartitionSpec("layers"))` each device of the mesh axis holds its
share of the stack, with its z and a, and an update sends the neighbouring devices 3 arrays (n,
width) whatever the depth; the params of the first and the last layer, which lie on every device,
are summed. A mesh of one device solves half of the stack as one batch: 24 layers of 100 compiled in
a third of the time, with 3 times the temporary memory; on a CPU an update takes longer then.

## Inertia

For a block u with the last displacement :math:`d = u - u_{prev}`, triple inertia is

.. math::

  c = u + p_1 d, \quad e = u + p_2 d, \quad v = step(c, e), \quad u_{next} = v + p_3 (v - u)

where the block's step starts at c (its proximal centre), its gradient is taken at e, and the result
is projected again where the block is constrained. A block that is solved exactly has no e, and a c
only through its proximal term `tau`; the correction p_3 always acts, and it is what the defaults
use. So the kernels read p_1 and p_2 under the kernel steps "line_search" and "backtracking", and
the activations under coupling "inequality"; exact kernels read p_1 where tau > 0.

## When to use it

Use it where the examples fit in memory and are few and wide, and there is no time to tune a
learning rate: it takes 5 to 50 updates. With many examples minibatches of Adam are much faster.
`coupling="inequality"` hardly moves the hidden layers once eps is small; it is there to reproduce
published methods, which `dlam`, `mdlam` and `bcd` are.

## Restart

Pass by pass z and a leave the network: the kernels then fit targets that it cannot reach, and the
loss of the network stays far above that of the auxiliary variables. `restart="always"` starts every
update from a forward pass. It is far better where the function is curved and inputs are few: two
spirals, three layers, 50 updates: 0.91 where the default gives 0.58. The objective is then no
longer that of one run of descent: an update ends at most at the network's loss plus its weight
decay, from where it started, and the safeguard guarantees no more. `restart="guarded"` restarts a
row only where the objective does not rise by it; this keeps the promise that the objective never
rises, and most of the stall.

With "always" take larger steps, `inertia=Inertia(0.0, 0.0, 0.6)` and `penalty_growth=2.8`: a deep
network that restarts under the defaults hardly learns. These settings pay where many classes or
curved boundaries have to be fitted (validation accuracy of letter 0.76 where the defaults give
0.65, splice 0.80 and 0.73, vowel 0.82 and 0.71), and lose on tables that are fitted too well
(australian 0.80 and 0.85) and on a regression (diabetes, R^2 of test rows 0.38 and 0.45): they are
no defaults.

## Penalties

Mostly, only the ratios of the penalties matter. From the output down, rho and gamma fall by
`penalty_growth` a layer, :math:`\rho_l = \rho \, q^{l-L}` and
:math:`\gamma_l = \gamma \, q^{l-L+1/2}`: a block follows the side of the output more than that of
the input. Otherwise the influence of the targets fades from layer to layer, and networks of 6 or
more layers do not learn. The weight decay is relative,
:math:`\mu_l = \mu \, \rho_l \, d_{l-1}`, because a fixed one that suits a wide input makes narrow
hidden layers collapse to zero; `scale_mu=False` takes :math:`\mu_l = \mu`.

## In a training loop

Pass the data as arguments of the jitted function (data closed over become constants, which slows
compilation), and the same data and weights in the same order at every update. The first update
starts z and a from a forward pass and computes the eigendecomposition of the first layer's Gram
matrix, of size min(num_examples, inputs). Put the solver first in a chain, where `updates` may be
None; `optax.chain(tritia.tiam(...), optax.scale(0.9))` damps it. Under `optax.inject_hyperparams`
name num_examples, activation_steps, safeguard, restart, scale_mu and standardize in static_args.
`tiam_diagnostics` reads the objective and more from the state; `tiam_network_loss` beside its
`loss` shows how far z and a have left the network.

## Scale of the inputs

By default the solver standardises inside, so that the weight decay means the same in any units.
Initial weights do not: `params_for_inputs` adapts those that a library draws, which presume
standardised inputs. With fewer rows than columns the scale of the inputs is left as it is: rare
columns, such as the words of Cora, would become noise; there, divide all columns by one number.
Minibatches have no standard deviation to rely on: standardise the inputs of `stochastic_tiam`.

## Precision

Accelerators round the operands of a float32 matrix product, to TF32 or bfloat16, unless asked not
to, and no product here asks: kernels are solved for as corrections, and the safeguard compares sums
of squares, which are not products of matrices. With rounded operands networks learn as well; under
TF32 the objective falls as ever. Under bfloat16, once it is small, it may rise in an update, by up
to 0.4 of itself in the problems that were tried, and ends up to a half higher. Where that matters,
`jax.default_matmul_precision("highest")` around the update asks for every product in full.

## References

Wang et al., [Accelerated Gradient-free Neural Network Training by Multi-convex Alternating
Optimization](https://arxiv.org/abs/1811.04187), 2018; Zeng et al., [Global Convergence of Block
Coordinate Descent in Deep Learning](https://arxiv.org/abs/1803.00225), 2019; Yan et al., [A
Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
Training](https://arxiv.org/abs/2503.08489), 2025.
"""

from tritia._schedules import growing_period as growing_period, halving as halving
from tritia.alternating._blocks.activations import (
    ACTIVATIONS as ACTIVATIONS,
    Activation as Activation,
    leaky_relu as leaky_relu,
    monotone_activation as monotone_activation,
)
from tritia.alternating._blocks.losses import (
    LOSSES as LOSSES,
    Loss as Loss,
    smooth_loss as smooth_loss,
)
from tritia.alternating._full_batch.diagnostics import (
    Diagnostics as Diagnostics,
    tiam_diagnostics as tiam_diagnostics,
    tiam_network_loss as tiam_network_loss,
)
from tritia.alternating._full_batch.presets import bcd as bcd, dlam as dlam, mdlam as mdlam
from tritia.alternating._full_batch.problem import Rejected as Rejected
from tritia.alternating._full_batch.standard import params_for_inputs as params_for_inputs
from tritia.alternating._full_batch.state import TiamState as TiamState
from tritia.alternating._full_batch.tiam import tiam as tiam
from tritia.alternating._minibatch.block_step import StochasticTiamState as StochasticTiamState
from tritia.alternating._minibatch.steps import (
    SpectralStep as SpectralStep,
    SpectralStepState as SpectralStepState,
)
from tritia.alternating._minibatch.stochastic import stochastic_tiam as stochastic_tiam
