"""The layer-wise step beside the optimizers that a user would pick instead, on many networks."""
