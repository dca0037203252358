"""How a printed C++ kernel is told where numbers lie, and how: the structs of `execution/cpp/skeleton/tensors.h`."""

__all__ = ["LEVELS", "ROOTS", "begin", "blocks", "codes", "grad", "raw", "slot", "weight"]

LEVELS = {"int8": "Linear", "uint8": "Linear", "companded int8": "Companded", "companded uint8": "Companded"}
ROOTS = frozenset({"uint8", "companded uint8"})  # kept as square roots
KINDS = {"float32": "float", "bfloat16": "u16", "float16": "u16"}


def codes(kept: str) -> str:
    """Return the type of the numbers of a slot that is kept as levels."""
    return "u8" if kept in ROOTS else "i8"


def weight(kept: str, at: str, bits: str) -> str:
    """Return the struct of the weight.

    Args:
        kept: "float32", "float16", "bfloat16", "bfloat16 random" or "bfloat16 split".
        at: the first element, in C++.
        bits: what makes its random bits, where it is rounded by some.
    """
    own = f"({KINDS[kept.split()[0]]}*)task.at[PARAM] + {at}"
    return {
        "float32": f"Floats{{{own}}}",
        "float16": f"Fp16{{{own}}}",
        "bfloat16": f"Bf16{{{own}}}",
        "bfloat16 random": f"bf16_by({own}, {bits})",
        "bfloat16 split": f"Bf16Split{{{own}, (i8*)task.at[LOW] + {at}}}",
    }[kept]


def grad(dtype: str, at: str) -> str:
    """Return the struct of the gradient.

    Args:
        dtype: "float32", "float16" or "bfloat16".
        at: the first element, in C++.
    """
    name = {"float32": "Floats", "float16": "Fp16", "bfloat16": "Bf16"}[dtype]
    return f"{name}{{({KINDS[dtype]}*)task.at[GRAD] + {at}}}"


def raw(name: str, kept: str, at: str) -> str:
    """Return the address of an element of a slot.

    Args:
        name: of the slot.
        kept: "float32", "bfloat16" or one of LEVELS, a "uint8" for what is never negative.
        at: the element, in C++.
    """
    kind = codes(kept) if kept in LEVELS else KINDS[kept]
    return f"({kind}*)task.at[STATE_{name.upper()}] + {at}"


def blocks(name: str, kept: str) -> list[str]:
    """Return lines that declare the blocks of codes of a slot, and the floats of the one that waits for its scale.

    Args:
        name: of the slot.
        kept: one of LEVELS.
    """
    return [
        f"alignas(64) float waiting_{name}[BLOCK];",
        f"Blocks<{LEVELS[kept]}, {codes(kept)}> blocks_{name}(waiting_{name});",
    ]


def begin(name: str, kept: str, at: str, count: str, bits: str) -> str:
    """Return the line that goes to the block of codes that begins at an element of a slot.

    Args:
        name: of the slot.
        kept: one of LEVELS.
        at: the element, in C++.
        count: how many elements the block has, in C++.
        bits: what makes its random bits.
    """
    most = f"(float*)task.at[STATE_{name.upper()}_ABSMAX] + ({at}) / BLOCK"
    return f"blocks_{name}.begin({raw(name, kept, at)}, {most}, {count}, {bits});"


def slot(name: str, kept: str, at: str, bits: str) -> str:
    """Return the struct of a slot; that of codes is what `begin` has made.

    Args:
        name: of the slot.
        kept: "float32", "bfloat16" or one of LEVELS, a "uint8" for what is never negative.
        at: the first element, in C++.
        bits: what makes its random bits, where it is rounded by some.
    """
    own = raw(name, kept, at)
    if kept == "float32":
        return f"Floats{{{own}}}"
    if kept == "bfloat16":
        return f"bf16_by({own}, {bits})"
    return f"codes_{name}"
