"""The networks of the race, in Flax NNX."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx


class Perceptron(nnx.Module):
    """Dense layers with an activation between them."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs, *, tanh: bool = False) -> None:
        initializer = nnx.initializers.lecun_normal() if tanh else nnx.initializers.he_normal()
        self.activation = nnx.tanh if tanh else nnx.relu
        self.layers = nnx.List(
            nnx.Linear(before, after, kernel_init=initializer, rngs=rngs)
            for before, after in itertools.pairwise(widths)
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        return self.layers[-1](hidden)


class Convolutional(nnx.Module):
    """Two convolutions of 3 x 3 with stride 2 and two dense layers: 51 000 parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(7 * 7 * 32, 29, rngs=rngs)
        self.output = nnx.Linear(29, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = images
        for convolution in (self.first, self.second):
            hidden = nnx.relu(convolution(hidden))
        hidden = hidden.reshape(len(images), -1)
        return self.output(nnx.relu(self.hidden(hidden)))


class Block(nnx.Module):
    """A layer of a transformer: causal attention, then a dense part, each after a LayerNorm."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.mix = nnx.Linear(width, width, rngs=rngs)
        self.before_dense = nnx.LayerNorm(width, rngs=rngs)
        self.widen = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        rows, length, width = hidden.shape
        normal = self.before_attention(hidden)
        query, key, value = (
            layer(normal).reshape(rows, length, self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.mix(mixed.reshape(rows, length, width))
        return hidden + self.narrow(nnx.gelu(self.widen(self.before_dense(hidden))))


class Transformer(nnx.Module):
    """A decoder over symbols, with learned positions."""

    def __init__(
        self, symbols: int, window: int, width: int, layers: int, heads: int, rngs: nnx.Rngs
    ) -> None:
        self.symbols = nnx.Embed(symbols, width, rngs=rngs)
        self.positions = nnx.Embed(window, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, heads, rngs) for _ in range(layers))
        self.last_norm = nnx.LayerNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, symbols, rngs=rngs)

    def __call__(self, symbols: jax.Array) -> jax.Array:
        hidden = self.symbols(symbols) + self.positions(jnp.arange(symbols.shape[-1]))
        for block in self.blocks:
            hidden = block(hidden)
        return self.output(self.last_norm(hidden))
