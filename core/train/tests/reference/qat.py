"""Writes qat.json: losses of 50 steps of quantization-aware training in PyTorch, by cross-entropy and by distillation.

Needs torch and transformers, whose versions stand in the file:

    python qat.py > qat.json

The model is transformers' Qwen3 in float64 with weights by a formula, which the test repeats. Linears of the blocks multiply weights
rounded to 4 bits in groups of 8 and inputs rounded to 8 bits per token, straight through; AdamW is torch's.
"""

import json
import math

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

STEPS = 50


def weight(index, shape, norm):
    count = math.prod(shape)
    values = [0.1 * math.sin(0.7 + 1.3 * index + 0.37 * i) + (1.0 if norm else 0.0) for i in range(count)]
    return torch.tensor(values, dtype=torch.float32).double().reshape(shape)


def fake(x, half):
    """Straight through, on an asymmetric grid: of a symmetric one the largest magnitude lies between two codes, at a tie."""
    values = x.detach().float()
    low = values.amin(-1, keepdim=True).clamp(max=0)
    high = values.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2 * half - 1)
    zero = torch.round(torch.clamp(-half - low / scale, -half, half - 1))
    rounded = (torch.round(torch.clamp(values / scale + zero, -half, half - 1)) - zero) * scale
    return x + (rounded.double() - x).detach()


def fake_weight(w):
    return fake(w.reshape(w.shape[0], -1, 8), 8).reshape(w.shape)


def fake_input(x):
    return fake(x, 128)


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
    return made


def quantized(made):
    for name, module in made.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.forward = lambda x, m=module: torch.nn.functional.linear(fake_input(x), fake_weight(m.weight))
    return made


def run(distil):
    ids = torch.tensor([[(i * 7 + j * (i + 1)) % 30 for j in range(12)] for i in range(4)])
    student, teacher = quantized(model()), model()
    decay = [p for p in student.parameters() if p.dim() >= 2]
    rest = [p for p in student.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    # A large eps: steps of weights whose gradients are next to zero shall not hang on the noise in them.
    optimizer = torch.optim.AdamW(groups, lr=0.002, eps=1e-2)
    losses = []
    for _ in range(STEPS):
        logits = student(ids).logits[:, :-1].log_softmax(-1).flatten(0, 1)
        if distil:
            with torch.no_grad():
                target = teacher(ids).logits[:, :-1].log_softmax(-1).flatten(0, 1)
            loss = (target.exp() * (target - logits)).sum(-1).mean()
        else:
            loss = torch.nn.functional.nll_loss(logits, ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**versions, "cross_entropy": run(False), "distillation": run(True)}))
