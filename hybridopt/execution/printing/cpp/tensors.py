"""How a printed C++ kernel reads a piece of a tensor into float32 numbers, and writes it back."""

from dataclasses import dataclass

from .structs import LEVELS, codes

__all__ = ["FloatPiece", "grad", "seeded", "slot", "weight"]

NEAREST = {"float16": "fp16", "bfloat16": "bf16"}  # functions of numbers of 16 bits, rounded to nearest


@dataclass(frozen=True)
class FloatPiece:
    """The lines by which a piece of one tensor, or of two that belong together, becomes float numbers and returns.

    Args:
        name: of the float numbers in the kernel.
        before: lines that declare them and read them.
        after: lines that write them.
        begin: lines before all pieces of some rows, where what is written goes on from one to the next.
        end: lines after all of them.
    """

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    begin: tuple[str, ...] = ()
    end: tuple[str, ...] = ()


def weight(kept: str, at: str, n: str, random: str = "") -> FloatPiece:
    """Return how the weight is read and written.

    Args:
        kept: "float32", "float16", "bfloat16", "bfloat16 random" or "bfloat16 split".
        at: the first element, in C++.
        n: how many there are.
        random: where random bits come from: `seeded`, or the name of some that were made.
    """
    raw = f"(u16*)task.at[PARAM] + {at}"
    if kept == "float32":
        return FloatPiece("weight", (f"float* weight = (float*)task.at[PARAM] + {at};",))
    made = "alignas(64) float weight[PIECE + SLACK];"
    if kept in NEAREST:
        own = NEAREST[kept]
        return FloatPiece("weight", (made, f"{own}_in(weight, {raw}, {n});"), (f"{own}_nearest({raw}, weight, {n});",))
    if kept == "bfloat16 random":
        read, write = f"bf16_in(weight, {raw}, {n});", f"bf16_random({raw}, weight, Made{{{random}}}, {n});"
        if "," in random:
            write = f"bf16_random_rows<PIECE>({raw}, weight, {random});"
        return FloatPiece("weight", (made, read), (write,))
    low = f"(i8*)task.at[LOW] + {at}"
    return FloatPiece(
        "weight", (made, f"bf16_joined(weight, {raw}, {low}, {n});"), (f"bf16_parted({raw}, {low}, weight, {n});",)
    )


def grad(dtype: str, at: str, n: str) -> FloatPiece:
    """Return how the gradient is read.

    Args:
        dtype: "float32", "float16" or "bfloat16".
        at: the first element, in C++.
        n: how many there are.
    """
    if dtype == "float32":
        return FloatPiece("grad", (f"const float* grad = (const float*)task.at[GRAD] + {at};",))
    made = "alignas(64) float grad[PIECE + SLACK];"
    return FloatPiece("grad", (made, f"{NEAREST[dtype]}_in(grad, (const u16*)task.at[GRAD] + {at}, {n});"))


def seeded(at: str, n: str, width: str, key: int) -> str:
    """Return the arguments of a function that rounds at random.

    Args:
        at: the first element, in C++, of a matrix that `task.first` rows of its stack come before.
        n: how many there are.
        width: of its rows.
        key: the number of the key.
    """
    return f"{at} + task.first * task.width, {n}, {width}, task.keys[{key}], given.columns"


def slot(name: str, kept: str, at: str, n: str, block: int, key: int) -> FloatPiece:
    """Return how a slot of the state is read and written.

    Args:
        name: of the slot.
        kept: "float32", "bfloat16" or one of LEVELS, a "uint8" for what is never negative.
        at: the first element, in C++.
        n: how many there are.
        block: the elements of a block of codes.
        key: the number of the key by which it is rounded at random; any number where it is not.
    """
    own, tensor = f"state_{name}", f"task.at[STATE_{name.upper()}]"
    if kept == "float32":
        return FloatPiece(own, (f"float* {own} = (float*){tensor} + {at};",))
    made = f"alignas(64) float {own}[PIECE + SLACK];"
    if kept == "bfloat16":
        raw = f"(u16*){tensor} + {at}"
        write = f"bf16_random_rows<PIECE>({raw}, {own}, {seeded(at, n, 'width', key)});"
        return FloatPiece(own, (made, f"bf16_in({own}, {raw}, {n});"), (write,))
    code, levels = codes(kept), f"{LEVELS[kept]}, {codes(kept)}"
    raw = f"({code}*){tensor}, (float*)task.at[STATE_{name.upper()}_ABSMAX]"
    told = f"{raw}, waiting_{name}, {block}, task.first * width / {block}, task.keys[{key}], given.columns"
    return FloatPiece(
        own,
        (made, f"int8_blocks_in<{levels}>({own}, {raw}, {at}, {n}, {block});"),
        (f"written_{name}.add({own}, {at}, {n});",),
        (f"alignas(64) float waiting_{name}[{block}];", f"Written<{levels}> written_{name}{{{told}}};"),
        (f"written_{name}.close();",),
    )
