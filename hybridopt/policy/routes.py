"""An ordered list of routes from roles and names to treatments; the first that fits wins. JSON both ways."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any

from ..core.contracts import Ready
from ..core.contracts.check import missing
from ..core.errors import HybridOptError, check_choice, known, shown
from ..core.files import plain_json
from ..core.files.paths import path_of
from ..core.registry import build, find, names, pack, title, unpack
from ..model.roles import ROLES, Param
from ..parts.splits.empty import Empty
from ..parts.splits.whole import Whole
from .other_names import check_known
from .treatment import Treatment

__all__ = [
    "PLACES",
    "Policy",
    "Ready",
    "Route",
    "assign",
    "check_routes",
    "pack_routes",
    "pack_treatment",
    "place",
    "read_policy",
    "unpack_routes",
]

LONGEST = 100_000  # characters of alternatives
PLACES = ("full", "split", "free", "frozen")
OPTIONS = {"embedding": "embeddings", "norm": "norms", "bias": "biases", "adapter": "adapters"}  # of policies, by role


@dataclass(frozen=True)
class Route:
    """Parameters whose role and name fit the patterns (fnmatch, alternatives by "|") get a treatment; None: frozen."""

    use: Treatment | None
    role: str = "*"
    name: str = "*"

    def __post_init__(self) -> None:
        if self.use is not None and not isinstance(self.use, Treatment):
            raise HybridOptError(f"use={self.use!r} is not allowed; give a Treatment, or None for frozen", "Route")
        for name, pattern in {"role": self.role, "name": self.name}.items():
            if not isinstance(pattern, str) or len(pattern) > LONGEST:
                limit = f"text of up to {LONGEST} characters"
                raise HybridOptError(f"{name}={shown(pattern)} is not allowed; give patterns as {limit}", "Route")
        for pattern in self.role.split("|"):
            if not any(fnmatchcase(role, pattern) for role in ROLES):
                raise HybridOptError(f"role={pattern!r} fits no role; {known(pattern, ROLES)}", "Route")

    def fits(self, p: Param) -> bool:
        """Return whether role and name of `p` fit."""
        return self.takes(p.role) and _any(p.name, self.name)

    def takes(self, role: str) -> bool:
        """Return whether it is for parameters of this role, of some name."""
        return _any(role, self.role)


@dataclass(frozen=True)
class Policy(Ready[Route]):
    """Own routes: `Policy((Route(None, name="*.wte.*"), Route(Treatment())))`."""

    routes: tuple[Route, ...]

    def __post_init__(self) -> None:
        if isinstance(self.routes, list):
            object.__setattr__(self, "routes", tuple(self.routes))
        if not isinstance(self.routes, tuple) or not self.routes or not all(isinstance(r, Route) for r in self.routes):
            raise HybridOptError(f"routes={self.routes!r} is not allowed; give at least one Route", "Policy")

    def to_json(self) -> str:
        """Write the routes as JSON text."""
        return json.dumps({"format": 1, "routes": pack_routes(self)}, indent=1)

    @staticmethod
    def from_json(source: str | PathLike[str]) -> "Policy":
        """Read a policy from JSON text, or from a file (a Path); it can name parts of this package, never code."""
        if isinstance(source, str):
            return unpack_routes(plain_json.parse(source, "policy"))
        return unpack_routes(plain_json.read(Path(source), "policy"))


def pack_routes(policy: Ready[Route]) -> list[dict[str, Any]]:
    """Return the routes of a policy as plain data."""
    return [
        {"role": r.role, "name": r.name, "use": None if r.use is None else pack_treatment(r.use)}
        for r in policy.routes
    ]


def pack_treatment(treatment: Treatment) -> dict[str, Any]:
    """Return a treatment as plain data, axis by axis; without a gap where there is none, as older versions."""
    found = {f.name: pack(vars(treatment)[f.name]) for f in fields(treatment)}
    return found if treatment.gap is not None else {k: v for k, v in found.items() if k != "gap"}


def unpack_routes(data: dict[str, Any]) -> Policy:
    """Return a policy from plain data; HybridOptError for other keys, types or formats."""
    plain_json.only(data, ("format", "routes"), "policy")
    check_format(plain_json.take(data, "format", int, "policy"), "policy")
    return Policy(tuple(_unpack_route(r) for r in plain_json.take(data, "routes", list, "policy")))


def check_format(version: int, what: str) -> None:
    """Raise HybridOptError, naming `what`, unless this is a format version that this hybridopt reads."""
    if version != 1:
        raise HybridOptError(
            f"{what}: format={version!r} is not known; this hybridopt reads format 1, a newer one may read it"
        )


def read_policy(policy: "str | PathLike[str] | Ready[Route]", options: dict[str, Any]) -> Ready[Route]:
    """Return a policy by its name and options, from a JSON file, or as it is; HybridOptError for anything else."""
    if isinstance(policy, str) and policy.replace("-", "_") in names("policies"):
        cls = find("policies", policy)
        check_known(policy, options, [f.name for f in fields(cls)])
        named: Ready[Route] = build(cls, options)
        return named
    if isinstance(policy, PathLike) or (isinstance(policy, str) and policy.endswith(".json")):
        policy = Policy.from_json(path_of(policy, "policy", "a JSON file"))
    ready = _checked(policy)
    if options:
        raise HybridOptError(
            f"options {sorted(options)} belong to policies by name; put them into the Policy's treatments"
        )
    return ready


def assign(policy: Ready[Route], params: Iterable[Param]) -> dict[str, Treatment | None]:
    """Return every parameter's treatment by name, None if frozen; HybridOptError, naming it, if no route fits."""
    return {p.name: _treatment(policy, p) for p in params}


def check_routes(policy: Ready[Route], names: Iterable[str]) -> None:
    """Raise HybridOptError for a route whose name pattern matches none of these parameters."""
    names = list(names)
    for route in policy.routes:
        if route.name != "*" and not any(_any(name, route.name) for name in names):
            raise HybridOptError(
                f"route name={route.name!r} matches no parameter; the model has for example "
                + ", ".join(repr(name) for name in names[:3])
                + ". Take another policy, write routes with names of this model, or, for unnamed tensors, give "
                "model.named_parameters()",
                title(type(policy)),
            )


def place(body: Treatment, **places: str) -> tuple[Route, ...]:
    """Return the routes that most policies share.

    Quantized weights and their scales are frozen, linear and convolution weights get `body`, and every role named in
    `places` (for example norm="full") gets what is said: "full" (state-full), "split" (`body`), "free" (state-free),
    "frozen". Norms and biases do not decay.

    Args:
        body: the treatment of linear and convolution weights.
        **places: where by role; HybridOptError for any other place.
    """
    for role, where in places.items():
        check_choice("policy", OPTIONS.get(role, role), where, PLACES)

    routes = [Route(None, role="quantized|scales")]
    for role, where in places.items():
        use = _use(body, where)
        if use is not None and role in ("norm", "bias"):
            use = replace(use, weight_decay=0.0)
        routes.append(Route(use, role=role))
    return (*routes, Route(body, role="linear|conv"), Route(_use(body, "full")))


def _checked(policy: "str | Ready[Route]") -> Ready[Route]:
    if isinstance(policy, str):
        check_choice("", "policy", policy, names("policies"))
    lost = missing(policy, Ready)
    if lost and "routes" not in lost:
        raise HybridOptError(
            f"policy={policy!r} is not allowed: it lacks {', '.join(lost)}; give a Policy, or an instance of a class "
            "that subclasses hybridopt.core.contracts.Ready, which has defaults for all but routes"
        )
    if isinstance(policy, str | type) or lost or not isinstance(policy.routes, tuple):
        raise HybridOptError(f"policy={policy!r} is not allowed; give a name, a Policy or a path to a policy .json")
    return policy


def _use(body: Treatment, where: str) -> Treatment | None:
    """Return the treatment at a place; made only when asked for, as not every body has a state-free form."""
    match where:
        case "full":
            return replace(body, split=Whole(), lr_scale=1.0, gap=None)
        case "free":
            return replace(body, split=Empty(), gap=None)
    return body if where == "split" else None


def _treatment(policy: Ready[Route], p: Param) -> Treatment | None:
    for route in policy.routes:
        if route.fits(p):
            return route.use
    raise HybridOptError(
        f"no route fits parameter {p.name!r} (role {p.role!r}, shape {p.shape}); end the policy with Route(use=...)"
    )


def _any(text: str, patterns: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns.split("|"))


def _unpack_route(data: object) -> Route:
    if not isinstance(data, dict):
        raise HybridOptError(f"policy: route {data!r} is not allowed; give an object with use, role, name")
    plain_json.only(data, ("use", "role", "name"), "route")
    use = plain_json.take(data, "use", (dict, type(None)), "route")
    role, name = (plain_json.take(data, key, str, "route", "*") for key in ("role", "name"))
    return Route(use and build(Treatment, {k: unpack(v) for k, v in use.items()}), role, name)
