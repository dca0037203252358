"""An ordered list of routes from roles and names to treatments; the first that fits wins. JSON both ways."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Protocol

from ..core.errors import HybridOptError, check_choice, known
from ..core.files import plain_json
from ..core.registry import build, find, names, pack, unpack
from ..model.roles import ROLES, Param
from ..parts.splits.empty import Empty
from ..parts.splits.whole import Whole
from .treatment import Treatment

__all__ = [
    "PLACES",
    "Policy",
    "Ready",
    "Route",
    "assign",
    "check_routes",
    "learning_rate",
    "pack_routes",
    "pack_treatment",
    "place",
    "places",
    "read_policy",
    "unpack_routes",
]

PLACES = ("full", "split", "free", "frozen")


@dataclass(frozen=True)
class Route:
    """Parameters whose role and name fit the patterns (fnmatch, alternatives by "|") get a treatment; None: frozen."""

    use: Treatment | None
    role: str = "*"
    name: str = "*"

    def __post_init__(self):
        if self.use is not None and not isinstance(self.use, Treatment):
            raise HybridOptError(f"Route: use={self.use!r} is not allowed; give a Treatment, or None for frozen")
        for name in ("role", "name"):
            if not isinstance(getattr(self, name), str):
                raise HybridOptError(f"Route: {name}={getattr(self, name)!r} is not allowed; give patterns as text")
        for pattern in self.role.split("|"):
            if not any(fnmatchcase(role, pattern) for role in ROLES):
                raise HybridOptError(f"Route: role={pattern!r} fits no role; {known(pattern, ROLES)}")

    def fits(self, p: Param) -> bool:
        """Do role and name of `p` fit?"""
        return _any(p.role, self.role) and _any(p.name, self.name)


class Ready(Protocol):
    """What has routes: a `Policy`, or one of the policies under their methods' names."""

    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Policy:
    """Own routes: `Policy((Route(None, name="*.wte.*"), Route(Treatment())))`."""

    routes: tuple[Route, ...]

    def __post_init__(self):
        if isinstance(self.routes, list):
            object.__setattr__(self, "routes", tuple(self.routes))
        if not isinstance(self.routes, tuple) or not self.routes or not all(isinstance(r, Route) for r in self.routes):
            raise HybridOptError(f"Policy: routes={self.routes!r} is not allowed; give at least one Route")

    def to_json(self) -> str:
        """The routes as JSON text."""
        return json.dumps({"format": 1, "routes": pack_routes(self)}, indent=1)

    @staticmethod
    def from_json(source: str | PathLike) -> "Policy":
        """A policy from JSON text, or from a file (a Path); it can name parts of this package only, never code."""
        text = isinstance(source, str)
        return unpack_routes(plain_json.parse(source, "policy") if text else plain_json.read(source, "policy"))


def pack_routes(policy: Ready) -> list[dict]:
    """Routes as plain data."""
    return [
        {"role": r.role, "name": r.name, "use": None if r.use is None else pack_treatment(r.use)}
        for r in policy.routes
    ]


def pack_treatment(treatment: Treatment) -> dict:
    """A treatment as plain data."""
    return {k: pack(getattr(treatment, k)) for k in Treatment.__dataclass_fields__}


def unpack_routes(data: dict) -> Policy:
    """A policy from plain data."""
    plain_json.only(data, ("format", "routes"), "policy")
    check_format(plain_json.take(data, "format", int, "policy"), "policy")
    return Policy(tuple(_unpack_route(r) for r in plain_json.take(data, "routes", list, "policy")))


def check_format(version: int, what: str) -> None:
    """Raise unless this is a format version that this hybridopt reads."""
    if version != 1:
        raise HybridOptError(
            f"{what}: format={version!r} is not known; this hybridopt reads format 1, a newer one may read it"
        )


def read_policy(policy: "str | PathLike | Ready", options: dict) -> Ready:
    """A policy from its name and options, from a JSON file, or as it is."""
    if isinstance(policy, str) and policy.replace("-", "_") in names("policies"):
        return build(find("policies", policy), options)
    if isinstance(policy, PathLike) or (isinstance(policy, str) and policy.endswith(".json")):
        policy = Policy.from_json(Path(policy))
    if isinstance(policy, str):
        check_choice("hybridopt", "policy", policy, names("policies"))
    if not isinstance(getattr(policy, "routes", None), tuple):
        raise HybridOptError(f"policy={policy!r} is not allowed; give a name, a Policy or a path to a policy .json")
    if options:
        raise HybridOptError(
            f"options {sorted(options)} belong to policies by name; put them into the Policy's treatments"
        )
    return policy


def learning_rate(policy: Ready, lr: object) -> object:
    """The learning rate asked for, else the policy's own, else 1e-3; HybridOptError where the first two differ."""
    own = getattr(policy, "lr", None)
    if lr is not None and own is not None and float(lr) != own:
        raise HybridOptError(f"lr={lr!r}, but zo_lr and fo_lr of the policy say {own!r}; leave one of them out")
    return (1e-3 if own is None else own) if lr is None else lr


def assign(policy: Ready, params: Iterable[Param]) -> dict[str, Treatment | None]:
    """Every parameter's treatment by name (None: frozen), or an error naming the parameter that fits no route."""
    return {p.name: _treatment(policy, p) for p in params}


def check_routes(policy: Ready, names: Iterable[str]) -> None:
    """Raise HybridOptError for a route whose name pattern matches none of these parameters."""
    names = list(names)
    for route in policy.routes:
        if route.name != "*" and not any(_any(name, route.name) for name in names):
            raise HybridOptError(
                f"{type(policy).__name__}: route name={route.name!r} matches no parameter; the model has for example "
                + ", ".join(repr(name) for name in names[:3])
                + ". Take another policy, write routes with names of this model, or, for unnamed tensors, give "
                "model.named_parameters()"
            )


def place(body: Treatment, **places: str) -> tuple[Route, ...]:
    """The routes that most policies share.

    Quantized weights and their scales are frozen, linear and convolution weights get `body`, and every role named in
    `places` (for example norm="full") gets what is said: "full" (state-full), "split" (`body`), "free" (state-free),
    "frozen". Norms and biases do not decay.
    """
    for role, where in places.items():
        check_choice("policy", role, where, PLACES)

    routes = [Route(None, role="quantized|scales")]
    for role, where in places.items():
        use = _use(body, where)
        still = use is not None and role in ("norm", "bias")
        routes.append(Route(replace(use, weight_decay=0.0) if still else use, role=role))
    return (*routes, Route(body, role="linear|conv"), Route(_use(body, "full")))


def places(policy: object) -> dict[str, str]:
    """For `place`, by role: what the options that most policies share say."""
    return {
        "embedding": policy.embeddings,
        "norm": policy.norms,
        "bias": policy.biases,
        "head": policy.head,
        "adapter": policy.adapters,
    }


def _use(body, where):
    """The treatment at a place; made only when asked for, as not every body has a state-free form."""
    match where:
        case "full":
            return replace(body, split=Whole(), lr_scale=1.0)
        case "free":
            return replace(body, split=Empty())
    return body if where == "split" else None


def _treatment(policy, p):
    for route in policy.routes:
        if route.fits(p):
            return route.use
    raise HybridOptError(
        f"no route fits parameter {p.name!r} (role {p.role!r}, shape {p.shape}); end the policy with Route(use=...)"
    )


def _any(text, patterns):
    return any(fnmatchcase(text, pattern) for pattern in patterns.split("|"))


def _unpack_route(data):
    if not isinstance(data, dict):
        raise HybridOptError(f"policy: route {data!r} is not allowed; give an object with use, role, name")
    plain_json.only(data, ("use", "role", "name"), "route")
    use = plain_json.take(data, "use", (dict, type(None)), "route")
    role, name = (plain_json.take(data, key, str, "route", "*") for key in ("role", "name"))
    return Route(use and build(Treatment, {k: unpack(v) for k, v in use.items()}), role, name)
