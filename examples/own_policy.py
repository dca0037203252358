"""Own routes: which parameters are trained how, as data, saved to JSON and read back."""

import torch
from torch import nn

import hybridopt
from hybridopt import Policy, Route, Treatment
from hybridopt.parts import Block, Columns, Linear
from hybridopt.parts.codecs.int8 import Int8
from hybridopt.parts.rules.lion import Lion

policy = Policy(
    (
        Route(None, name="embed.*"),  # frozen
        Route(Treatment(), role="head|norm|bias"),  # AdamW
        Route(Treatment(full=Lion(), split=Block(density=0.5, update_gap=10, order="descending")), name="layers.0.*"),
        Route(Treatment(split=Columns(density=Linear(0.5, 0.1, steps=40), update_gap=10), codec=Int8())),
    )
)
assert Policy.from_json(policy.to_json()) == policy

torch.manual_seed(0)
model = nn.ModuleDict(
    {
        "embed": nn.Embedding(50, 64),
        "layers": nn.ModuleList([nn.Linear(64, 64) for _ in range(3)]),
        "head": nn.Linear(64, 50),
    }
)
hybridopt.wrap(model, policy=policy)
print(model.hybrid.report())

optimizer = model.hybrid.optimizer(lr=3e-3)
tokens = torch.randint(50, (256,))
for step in range(50):
    x = model["embed"](tokens)
    for layer in model["layers"]:
        x = x + torch.relu(layer(x))
    loss = nn.functional.cross_entropy(model["head"](x), tokens.roll(-1))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step:2d}  loss {loss.item():.3f}")
