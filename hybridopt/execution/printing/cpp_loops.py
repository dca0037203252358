"""The loop of a rule over numbers in float32, as the text of a C++ function."""

import re
from collections.abc import Sequence

from .traced import Traced

__all__ = ["literals", "loop"]

OVER = re.compile(r"div_\((\w+), (n_\w+)\)")  # by a number of the step: the same for all elements
NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?![\w.])")
WORDS = {"inf": "HUGE_VALF", "nan": "NAN"}
LOOP = """\
static void {name}({arguments}) {{
{numbers}#pragma omp simd
    for (int i = 0; i < n; ++i) {{
{body}    }}
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
) -> str:
    """Return the function that moves the state and the weight of n elements.

    Args:
        name: of the function.
        rule: what the update of an element is; None: weights only decay.
        rate: the number that the direction is multiplied with.
        numbers: the names of all numbers of the step, in the order in which the kernel is told them.
        result: what becomes of the new weight {x}, such as "max_({x}, 0.f)".
        roots: slots of which the square root is kept, which the rule often has at hand.
    """
    slots = () if rule is None else rule.slots
    pointers = ["float* RESTRICT weight", *([] if rule is None else ["const float* RESTRICT grad"])]
    arguments = ["int n", *pointers, *(f"float* RESTRICT state_{slot}" for slot in slots)]
    body = ["const float p = weight[i];"]
    if rule is None:
        body.append(f"weight[i] = {result.format(x='p * decay')};")
    else:
        body.append("const float g = grad[i];")
        body += [f"const float s_{slot} = state_{slot}[i];" for slot in slots]
        body += [f"const auto {x} = {OVER.sub(_over, literals(text))};" for x, text in rule.lines]
        body += [f"state_{slot}[i] = {_kept(slot, roots).format(x=value)};" for slot, value in rule.state.items()]
        body.append(f"weight[i] = {result.format(x=f'p * decay - {rule.direction} * {rate}')};")
    words = set(re.findall(r"\w+", " ".join(body)))
    told = [(x, f"numbers[{i}]") for i, x in enumerate(numbers) if x in words]
    told += [(f"over_{x}", f"1.f / {x}") for x, _ in told if f"over_{x}" in words]
    return LOOP.format(
        name=name,
        arguments=", ".join([*arguments, "const float* numbers"]),
        numbers="".join(f"    const float {x} = {value};\n" for x, value in told),  # of their own: never reloaded
        body="".join(f"        {line}\n" for line in body),
    )


def _over(found: re.Match[str]) -> str:
    return f"over_({found[1]}, {found[2]}, over_{found[2]})"


def _kept(slot: str, roots: Sequence[str]) -> str:
    return "sqrt_({x})" if slot in roots else "{x}"
