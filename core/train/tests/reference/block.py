"""Writes block.json: losses of 30 steps of training a block in PyTorch, by AdamW on weights and grids, and by signs on its rounding.

Needs torch and transformers, whose versions stand in the file:

    python block.py > block.json

The block is the second of transformers' Qwen3 in float64 with weights by a formula, which the test repeats, as it repeats the
formulas of its inputs. Sequences have different lengths and pass it one by one: there is no padding here.
"""

import json
import math

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

STEPS = 30
GROUP = 8
LENS = [12, 9, 12, 7]


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
    return made.model


def hidden(sequence, quantized):
    count = LENS[sequence] * 16
    values = [0.8 * math.sin(0.3 + 0.7 * sequence + 0.211 * i) for i in range(count)]
    if quantized:
        values = [v + 0.05 * math.cos(1.1 * i + sequence) for i, v in enumerate(values)]
    return torch.tensor(values, dtype=torch.float32).double().reshape(1, LENS[sequence], 16)


def forward(made, x):
    length = x.shape[1]
    mask = torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)[None, None]
    positions = torch.arange(length)[None]
    output = made.layers[1](x, attention_mask=mask, position_embeddings=made.rotary_emb(x, positions))
    return output[0] if isinstance(output, tuple) else output


def straight(rounded, x):
    return x + (rounded - x).detach()


def clamped(code, half):
    """Passes gradients where nothing is clipped, the last codes included, where torch.clamp (as of 2.14) passes none."""
    inside = (code >= -half) & (code <= half - 1)
    return torch.where(inside, code, code.detach().clamp(-half, half - 1))


def ranges(w):
    groups = w.detach().float().reshape(-1, GROUP)
    return groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)


class Trained:
    """A weight with its scales and zero-points, all of them learned."""

    def __init__(self, w, half):
        low, high = ranges(w)
        scale = (high - low) / (2 * half - 1)
        self.half = half
        self.w = w
        self.begun = torch.round(torch.clamp(-half - low / scale, -half, half - 1)).double()
        # Less than the range, so that values are clipped.
        self.scale = (scale * 0.75).double().requires_grad_()
        self.zero = self.begun.clone().requires_grad_()
        self.zero.register_hook(self.held)

    def held(self, gradient):
        zero = self.zero.detach()
        out = ((zero <= -self.half) & (gradient > 0)) | ((zero >= self.half - 1) & (gradient < 0))
        return torch.where(out, torch.zeros_like(gradient), gradient)

    def value(self):
        scale = straight(self.scale.detach().float().double(), self.scale)[:, None]
        zero = clamped(straight(torch.round(self.zero), self.zero), self.half)[:, None]
        place = self.w.reshape(-1, GROUP) / scale + zero
        code = clamped(straight(torch.round(place), place), self.half)
        return ((code - zero) * scale).reshape(self.w.shape)


class Rounded:
    """A weight that stays, with its rounding and its ranges."""

    def __init__(self, w, half, symmetric):
        self.w, self.half, self.symmetric = w.detach(), half, symmetric
        self.low, self.high = (end.double() for end in ranges(w))
        self.v = torch.zeros_like(self.w).requires_grad_()
        self.alpha = torch.ones_like(self.low).requires_grad_()
        self.beta = torch.ones_like(self.high).requires_grad_()

    def value(self):
        low, high = self.low * self.alpha, self.high * self.beta
        scale = torch.maximum(-low, high) / (self.half - 1) if self.symmetric else (high - low) / (2 * self.half - 1)
        place = -self.half - low / scale
        zero = torch.zeros_like(scale) if self.symmetric else straight(torch.round(place), place)
        scale, zero = scale[:, None], zero[:, None]
        place = self.w.reshape(-1, GROUP) / scale + self.v.reshape(-1, GROUP) + zero
        code = clamped(straight(torch.round(place), place), self.half)
        return ((code - zero) * scale).reshape(self.w.shape)


def replaced(made, make):
    """The linears of the block multiply what `make` makes of their weights."""
    all = []
    for name, module in made.layers[1].named_modules():
        if isinstance(module, torch.nn.Linear):
            own = make(module.weight)
            all.append(own)
            module.forward = lambda x, own=own: torch.nn.functional.linear(x, own.value())
    return all


def loss(made, inputs, targets):
    squares = sum(((forward(made, x) - t) ** 2).sum() for x, t in zip(inputs, targets))
    return squares / (sum(LENS) * 16)


def run(make, begin):
    original, made = model(), model()
    with torch.no_grad():
        targets = [forward(original, hidden(i, False)) for i in range(len(LENS))]
    inputs = [hidden(i, True) for i in range(len(LENS))]
    linears = replaced(made, make)
    step = begin(made, linears)
    losses = []
    for index in range(STEPS):
        value = loss(made, inputs, targets)
        made.zero_grad()
        value.backward()
        step(index)
        losses.append(value.item())
    return losses, loss(made, inputs, targets).item(), linears


def adamw(made, linears):
    norms = [p for name, p in made.layers[1].named_parameters() if "norm" in name]
    groups = [
        {"params": [own.scale for own in linears], "rate": 0.001},
        {"params": [own.zero for own in linears], "rate": 0.1},
        {"params": [own.w for own in linears] + norms, "rate": 0.001},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=1e-6, weight_decay=0.0)

    def step(index):
        factor = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * index / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        optimizer.step()
        optimizer.zero_grad()

    return step


def signs(made, linears):
    def step(index):
        rate = (1 - index / STEPS) / STEPS
        with torch.no_grad():
            for own in linears:
                for parameter, low, high in [(own.v, -0.5, 0.5), (own.alpha, 0, 1), (own.beta, 0, 1)]:
                    if parameter.grad is not None:
                        parameter.copy_((parameter - rate * parameter.grad.sign()).clamp(low, high))
                        parameter.grad = None

    return step


def result():
    losses, end, linears = run(lambda w: Trained(w, 4), adamw)
    moved = sum(int((torch.round(own.zero).clamp(-4, 3) != own.begun).sum()) for own in linears)
    found = {"trained": {"losses": losses, "end": end, "moved_zero_points": moved}}
    for name, symmetric in [("rounded_asymmetric", False), ("rounded_symmetric", True)]:
        losses, _, _ = run(lambda w, symmetric=symmetric: Rounded(w, 4, symmetric), signs)
        found[name] = {"losses": losses}
    return found


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**versions, **result()}))
