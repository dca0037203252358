"""What all policies under their methods' names share, among it the options that most of them end with."""

from abc import abstractmethod
from dataclasses import is_dataclass, replace
from inspect import get_annotations
from typing import TypeVar, dataclass_transform

from ...core.contracts import Ready
from ...core.registry import make, title
from ..end_rates import scaled
from ..routes import Route, place
from ..treatment import Treatment

__all__ = ["FreePlaces", "NamedPolicy", "Places", "shared_options"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def shared_options(cls: type[T]) -> type[T]:
    """Tell type checkers that the annotated attributes of `cls` are options of the dataclasses that subclass it."""
    return cls


@shared_options
class NamedPolicy(Ready[Route]):
    """A policy whose routes follow from its options; they are made with it, so that bad options show at once.

    Every subclass that is a dataclass has the options here after its own: in its constructor, its saved form and its
    lists. One that has `store` among its options lets it be said how all of its weights are kept.
    """

    embeddings_lr_scale: float = 1.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        base = cls.__base__
        if base is None or is_dataclass(base):
            return  # which has the options here already
        shared = get_annotations(base)
        own = {name: kind for name, kind in get_annotations(cls).items() if name not in shared}
        cls.__annotations__ = own | shared  # a base's fields would come first

    def __post_init__(self) -> None:
        routes = scaled(self.make_routes(), self.embeddings_lr_scale, title(type(self)))
        asked = vars(self).get("store")
        if asked is not None:
            store = make("stores", asked)
            routes = tuple(r if r.use is None else replace(r, use=replace(r.use, store=store)) for r in routes)
        object.__setattr__(self, "routes", routes)

    @abstractmethod
    def make_routes(self) -> tuple[Route, ...]:
        """Return the routes; HybridOptError for options that make no sense."""


@shared_options
class Places(NamedPolicy):
    """Options that most policies end with: where parameters of a role go, and one place for all that have no role.

    "full" is state-full, "free" state-free, "split" as linear weights, "frozen" not at all.
    """

    embeddings: str = "full"
    norms: str = "full"
    biases: str = "full"
    head: str = "full"
    adapters: str = "full"

    def roles(self) -> dict[str, str]:
        """Return the places by role, as `place` takes them."""
        return {
            "embedding": self.embeddings,
            "norm": self.norms,
            "bias": self.biases,
            "head": self.head,
            "adapter": self.adapters,
        }

    def placed(self, body: Treatment, **more: str) -> tuple[Route, ...]:
        """Return the routes: linear and convolution weights by `body`, other roles as the options and `more` say."""
        return place(body, **self.roles(), **more)


@shared_options
class FreePlaces(Places):
    """`Places` that are state-free unless something else is said."""

    embeddings = norms = biases = head = adapters = "free"

    def placed(self, body: Treatment, **more: str) -> tuple[Route, ...]:
        """Return the routes as `Places` does, with what has no role of its own state-free, too."""
        return super().placed(body, other="free", **more)
