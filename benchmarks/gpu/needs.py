"""How much of a card's memory the parts need, by arithmetic."""

from math import prod

from ..shared.llama import SETS

GIB = 2**30
CONTEXT = 1.5 * GIB  # of CUDA, and what no allocator can use
ACTIVATIONS = 4 * GIB  # of one sequence of 2,048 tokens at 8B with gradient checkpointing, logits above all
COPIES = 4 * GIB  # two buffers between which bytes are copied to see how fast that is
ADAM = 8  # bytes of state a parameter, float32


def parameters(size: str, share: float = 1.0) -> float:
    """Return the parameters of a model; of its linear layers, only a share."""
    numbers = {name: prod(shape) for name, shape in SETS[size].shapes.items()}
    return sum(share * n if "_proj" in name else n for name, n in numbers.items())


def training(size: str, gradients: bool = True, density: float = 1.0, state: float = ADAM) -> float:
    """Return the bytes of a training step in bfloat16.

    Args:
        size: of the model.
        gradients: are all of them there at a time?
        density: share of the linear layers that has state.
        state: bytes of it a parameter.
    """
    weights = 2 * parameters(size)
    return weights * (1 + gradients) + state * parameters(size, density) + ACTIVATIONS + CONTEXT


def stepping(size: str, state: float = ADAM) -> float:
    """Return the bytes of steps without a model: weights, gradients, the yardstick's bfloat16 state, and state.

    Args:
        size: of the model whose shapes they are.
        state: bytes of it a parameter.
    """
    return (2 + 2 + 4 + state) * parameters(size) + COPIES + CONTEXT


def quantized(size: str, beside: float) -> float:
    """Return the bytes of a model whose linear layers take half a byte a parameter, and a constant every 64 of them.

    Args:
        size: of the model.
        beside: bytes of everything else.
    """
    rest = parameters(size, 0)
    return (0.5 + 1 / 64) * (parameters(size) - rest) + rest + beside + CONTEXT


def forward(size: str) -> float:
    """Return the bytes of losses without a backward pass."""
    return 2 * parameters(size) + ACTIVATIONS + CONTEXT
