"""timm: a vision transformer in bfloat16 with AdaLomo, whose gradients are freed within the backward pass."""

import timm
import torch

import hybridopt

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4)  # pretrained=True
hybridopt.wrap(model.bfloat16(), policy="adalomo")
print(model.hybrid.report())

optimizer = model.hybrid.optimizer(lr=1e-2, release="fused", clip=1.0, clip_mode="previous")
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 30)  # timm's own schedulers set lr, too
labels = torch.arange(32) % 4
images = torch.randn(4, 3, 32, 32)[labels] + torch.randn(32, 3, 32, 32)
for step in range(30):
    loss = torch.nn.functional.cross_entropy(model(images.bfloat16()).float(), labels)
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 10 == 9 or step == 0:
        print(f"step {step}: loss {loss.item():.2f}, gradient norm {float(optimizer.grad_norm):.2f}")
