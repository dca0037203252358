"""The loop of a rule over some elements, as the text of a C++ function."""

import re
from collections.abc import Sequence

from ..tracing.updates import Traced

__all__ = ["literals", "loop"]

OVER = re.compile(r"div_\((\w+), (n_\w+)\)")  # by a number of the step: the same for all elements
NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?![\w.])")
WORDS = {"inf": "HUGE_VALF", "nan": "NAN"}
LOOP = """\
template <class Weight{types}>
INLINE void {name}({arguments}) {{
{numbers}    {each}(n, [&](int i, auto some{next}) ALWAYS {{
{body}    }}{told});
}}
"""
HALF = "}, [&](int i, auto some"  # what the second half of a loop begins with
Line = tuple[str, str]  # the name that a line gives a number, "" of one that writes, and the line


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
        each: "in_lanes"; "in_order" where what is written depends on what was before; "in_blocks" where the state has
            blocks of codes, which the function is told behind the numbers.
    """
    slots = () if rule is None else rule.slots
    body = _lines(rule, rate, result, roots)
    halves = each == "in_blocks" or each == "in_lanes" and any("sqrt_(" in line for _, line in body)
    text = _in_halves(body) if halves else [line for _, line in body]
    words = set(re.findall(r"\w+", " ".join(text)))
    told = [(x, f"numbers[{i}]") for i, x in enumerate(numbers) if x in words]
    told += [(f"over_{x}", f"div_(1.f, {x})") for x, _ in told if f"over_{x}" in words]
    tensors = ["grad"] * (rule is not None) + [f"state_{slot}" for slot in slots]
    arguments = ["int n", "Weight weight", *(f"{x.title()} {x}" for x in tensors), "const float* numbers"]
    blocks = each == "in_blocks"
    return LOOP.format(
        name=name,
        types="".join(f", class {x.title()}" for x in tensors) + ", class... Slots" * blocks,
        arguments=", ".join(arguments + ["Slots&... blocks"] * blocks),
        numbers="".join(f"    const F {x} = {value};\n" for x, value in told),  # of their own: never reloaded
        each=each,
        next=", auto next" * halves,
        body="".join(f"    {line}\n" if line.startswith(HALF) else f"        {line}\n" for line in text),
        told=", blocks..." * blocks,
    )


def _lines(rule: Traced | None, rate: str, result: str, roots: Sequence[str]) -> list[Line]:
    """Return what is done to an element, line by line."""
    weight = "p * decay" if rule is None else f"p * decay - {rule.direction} * {rate}"
    out = [("p", "const F p = weight.in(i, some);")]
    if rule is not None:
        out.append(("g", "const F g = grad.in(i, some);"))
        out += [(f"s_{slot}", f"const F s_{slot} = state_{slot}.in(i, some);") for slot in rule.slots]
        out += [(x, f"const auto {x} = {OVER.sub(_over, literals(text))};") for x, text in rule.lines]
        out += [("", f"state_{slot}.out(i, {_kept(slot, rule, roots)}, some);") for slot in rule.slots]
    return [*out, ("", f"weight.out(i, {result.format(x=weight)}, some);")]


def _in_halves(body: Sequence[Line]) -> list[str]:
    """Return lines in two halves, of which the first ends with the first root, for which a core waits long."""
    named = [name for name, _ in body if name]
    roots = (i for i, (name, line) in enumerate(body) if name and "sqrt_(" in line)
    early = {name for name, _ in body[: next(roots, len(body)) + 1] if name}
    first = [one for one in body[1:-1] if ({one[0]} if one[0] else _read(one[1], named)) <= early]
    if any("p" in _read(line, named) for _, line in first):
        first.insert(0, body[0])
    second = [line for line in body if line not in first]
    read = {name for _, line in second for name in _read(line, named)}
    kept = [name for name, _ in first if name in read]
    told = "".join(f", auto {name}" for name in kept)
    texts = [[line for _, line in half] for half in (first, second)]
    return [*texts[0], f"return next({', '.join(kept)});", f"{HALF}{told}) ALWAYS {{", *texts[1]]


def _read(line: str, named: Sequence[str]) -> set[str]:
    """Return which of the numbers with a name a line reads."""
    return set(re.findall(r"\w+", line.split(" = ")[-1])) & set(named)


def _over(found: re.Match[str]) -> str:
    return f"over_({found[1]}, {found[2]}, over_{found[2]})"


def _kept(slot: str, rule: Traced, roots: Sequence[str]) -> str:
    value = rule.state.get(slot, f"s_{slot}")
    return f"sqrt_({value})" if slot in roots else value
