"""TIAM on minibatches: block targets, and kernels preconditioned by running Gram matrices."""
