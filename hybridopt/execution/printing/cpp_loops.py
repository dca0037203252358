"""The loop of a rule over some elements, as the text of a C++ function."""

import re
from collections.abc import Sequence

from .traced import Traced

__all__ = ["literals", "loop"]

OVER = re.compile(r"div_\((\w+), (n_\w+)\)")  # by a number of the step: the same for all elements
NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?![\w.])")
WORDS = {"inf": "HUGE_VALF", "nan": "NAN"}
LOOP = """\
template <class Weight{types}>
INLINE void {name}({arguments}) {{
{numbers}    {each}(n, [&](int i, auto some) ALWAYS {{
{body}    }});
}}
"""


def literals(text: str) -> str:
    """Return an expression with its numbers as float32: in C++ they would be double, and so would the sum."""
    text = NUMBER.sub(r"\1f", text)
    return re.sub(r"\b(inf|nan)\b", lambda found: WORDS[found[0]], text)


def loop(
    name: str,
    rule: Traced | None,
    rate: str,
    numbers: Sequence[str],
    result: str = "{x}",
    roots: Sequence[str] = (),
    each: str = "in_lanes",
) -> str:
    """Return the function that moves the state and the weight of n elements.

    It is told weight, gradient and state as structs of `skeleton/tensors.h`, whatever they are kept in.

    Args:
        name: of the function.
        rule: what the update of an element is; None: weights only decay.
        rate: the number that the direction is multiplied with.
        numbers: the names of all numbers of the step, in the order in which the kernel is told them.
        result: what becomes of the new weight {x}, such as "max_({x}, 0.f)".
        roots: slots of which the square root is kept, which the rule often has at hand.
        each: "in_lanes", or "in_order" where what is written depends on what was before.
    """
    slots = () if rule is None else rule.slots
    body = ["const F p = weight.in(i, some);"]
    if rule is None:
        body.append(f"weight.out(i, {result.format(x='p * decay')}, some);")
    else:
        body.append("const F g = grad.in(i, some);")
        body += [f"const F s_{slot} = state_{slot}.in(i, some);" for slot in slots]
        body += [f"const auto {x} = {OVER.sub(_over, literals(text))};" for x, text in rule.lines]
        body += [f"state_{slot}.out(i, {_kept(slot, rule, roots)}, some);" for slot in slots]
        body.append(f"weight.out(i, {result.format(x=f'p * decay - {rule.direction} * {rate}')}, some);")
    words = set(re.findall(r"\w+", " ".join(body)))
    told = [(x, f"numbers[{i}]") for i, x in enumerate(numbers) if x in words]
    told += [(f"over_{x}", f"div_(1.f, {x})") for x, _ in told if f"over_{x}" in words]
    tensors = ["grad"] * (rule is not None) + [f"state_{slot}" for slot in slots]
    return LOOP.format(
        name=name,
        types="".join(f", class {x.title()}" for x in tensors),
        arguments=", ".join(
            ["int n", "Weight weight", *(f"{x.title()} {x}" for x in tensors), "const float* numbers"]
        ),
        numbers="".join(f"    const F {x} = {value};\n" for x, value in told),  # of their own: never reloaded
        each=each,
        body="".join(f"        {line}\n" for line in body),
    )


def _over(found: re.Match[str]) -> str:
    return f"over_({found[1]}, {found[2]}, over_{found[2]})"


def _kept(slot: str, rule: Traced, roots: Sequence[str]) -> str:
    value = rule.state.get(slot, f"s_{slot}")
    return f"sqrt_({value})" if slot in roots else value
