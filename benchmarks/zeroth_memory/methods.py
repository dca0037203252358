"""The zeroth-order methods, and SGD within the backward pass, whose memory is measured."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A policy; how many sequences are probed, and how many, of which part of the length, go backward."""

    label: str
    policy: str
    probed: int = 0
    backward: int = 0
    share: float = 1.0
    checkpointing: bool = False
    options: dict = field(default_factory=dict)


METHODS = {
    "forward": Method("forward passes alone", "mezo", 16),
    "mezo": Method("MeZO, 16 sequences", "mezo", 16),
    "lezo": Method("LeZO, a quarter of the layers", "lezo", 16),
    "subzero": Method("SubZero, rank 24", "subzero", 16),
    "addax": Method("Addax, 6 probed, 4 short backward", "addax", 6, 4, 0.25),
    "ip-sgd-short": Method("IP-SGD, 4 short", "ip_sgd", 0, 4, 0.25),
    "ip-sgd-checkpointing": Method("IP-SGD, 4, gradient checkpointing", "ip_sgd", 0, 4, 1.0, True),
    "ip-sgd": Method("IP-SGD, 4", "ip_sgd", 0, 4),
}
