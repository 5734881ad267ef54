"""High-order gradient steps and triple-inertial alternating minimisation for Optax and Flax."""

__version__ = "0.1.0"
