"""Writes e2e_qp.json: losses of 50 steps in which PyTorch trains the scales of a model of codes, by cross-entropy and by distillation.

Needs torch and transformers, whose versions stand in the file:

    python e2e_qp.py > e2e_qp.json

The model is transformers' Qwen3 in float64 with weights by a formula, which the test repeats; so do codes of 3 bits, zero-points and
scales of groups of 8. Weights are (code - zero-point) times scale, and scales alone are trained, by torch's AdamW with a warm-up of 10 %,
half a cosine and gradients clipped to a norm of .3.
"""

import json
import math

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

STEPS = 50
WARMUP = 5
RATE = 0.002


def weight(index, shape, norm):
    count = math.prod(shape)
    values = [0.1 * math.sin(0.7 + 1.3 * index + 0.37 * i) + (1.0 if norm else 0.0) for i in range(count)]
    return torch.tensor(values, dtype=torch.float32).double().reshape(shape)


def model():
    config = Qwen3Config(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=1e4,
        tie_word_embeddings=True, attn_implementation="eager",
    )
    made = Qwen3ForCausalLM(config).double()
    names = sorted(name for name, _ in made.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(weight(names.index(name), tuple(parameter.shape), "norm" in name))
    made.requires_grad_(False)
    return made, names


def coded(made, names):
    """Replaces the linears of the blocks by codes, and returns their scales, the only parameters."""
    scales = []
    for name, module in made.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        index = names.index(name + ".weight")
        rows, columns = module.weight.shape
        codes = [(i * i // 3 + 5 * i + index) % 8 - 4 for i in range(rows * columns)]
        codes = torch.tensor(codes, dtype=torch.float64).reshape(rows, -1, 8)
        groups = range(rows * columns // 8)
        points = torch.tensor([(g + index) % 3 - 1 for g in groups], dtype=torch.float64).reshape(rows, -1, 1)
        start = torch.tensor([0.02 + 0.005 * math.sin(g + index) for g in groups], dtype=torch.float32)
        scale = torch.nn.Parameter(start.double().reshape(rows, -1, 1))
        steps = codes - points
        least = scale.detach() / 128
        scale.register_hook(lambda g, s=scale, least=least: torch.where((s <= least) & (g > 0), torch.zeros_like(g), g))
        module.forward = lambda x, s=scale, u=steps, least=least: torch.nn.functional.linear(
            x, (floored(s, least) * u).reshape(u.shape[0], -1)
        )
        scales.append(scale)
    return scales


def floored(scale, least):
    """What is used: never less than a 128th of where it began; gradients pass as if it were the variable."""
    return scale + (scale.clamp(min=least) - scale).detach()


def factor(step):
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def run(distil):
    ids = torch.tensor([[(i * 7 + j * (i + 1)) % 30 for j in range(12)] for i in range(4)])
    (student, names), (teacher, _) = model(), model()
    scales = coded(student, names)
    # A large eps: steps of scales whose gradients are next to zero shall not hang on the noise in them.
    optimizer = torch.optim.AdamW(scales, lr=RATE, eps=1e-3, weight_decay=0.0)
    losses, norms = [], []
    for step in range(STEPS):
        logits = student(ids).logits[:, :-1].log_softmax(-1).flatten(0, 1)
        if distil:
            with torch.no_grad():
                target = teacher(ids).logits[:, :-1].log_softmax(-1).flatten(0, 1)
            loss = (target.exp() * (target - logits)).sum(-1).mean()
        else:
            loss = torch.nn.functional.nll_loss(logits, ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float((scale.grad**2).sum()) for scale in scales))
        for scale in scales:
            scale.grad *= min(1.0, 0.3 / norm)
        optimizer.param_groups[0]["lr"] = RATE * factor(step)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    return {"losses": losses, "norms": norms}


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**versions, "cross_entropy": run(False), "distillation": run(True)}))
