"""What the comparisons with other tools share: models to compare on, processes with a clock, and the rates of matrix products."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def random_model(folder, layers, shape, vocabulary=32000):
    """A checkpoint in bfloat16 of random weights in the shapes of some layers of a model, with the tokenizer of the demo."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3Config, Qwen3MoeConfig

    torch.manual_seed(1234)
    common = dict(
        num_hidden_layers=layers, vocab_size=vocabulary, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=2, pad_token_id=0, bos_token_id=0,
    )  # fmt: skip
    if shape == "qwen3-0.6b":
        config = Qwen3Config(
            hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=3072, **common
        )  # fmt: skip
    elif shape == "smollm2-135m":
        config = LlamaConfig(
            hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64, intermediate_size=1536, **common
        )  # fmt: skip
    else:
        config = Qwen3MoeConfig(
            hidden_size=2048, num_attention_heads=32, num_key_value_heads=4, head_dim=128, intermediate_size=6144,
            moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, **common,
        )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "experiments/demo/model").save_pretrained(folder)


def rates():
    """GFLOP/s of products of 512 x 1024 by 1024 x 3072, f32 and bfloat16: torch's, and the best that the workbench's kernels reach here."""
    import torch

    torch.set_num_threads(os.cpu_count())
    found = {}
    for name, dtype in dict(f32=torch.float32, bfloat16=torch.bfloat16).items():
        a, b = torch.randn(512, 1024).to(dtype), torch.randn(3072, 1024).to(dtype)
        seconds = float("inf")
        until = time.time() + 1
        while time.time() < until:
            began = time.perf_counter()
            torch.nn.functional.linear(a, b)
            seconds = min(seconds, time.perf_counter() - began)
        found[name] = [2e-9 * 512 * 1024 * 3072 / seconds]
    _, doctor = timed([program(), "doctor", "--json"], cwd=ROOT)
    text = next(finding["text"] for finding in json.loads(doctor)["findings"] if finding["what"] == "products")
    for part in text.split(";"):
        name = part.split()[0]
        found[name].append(max(float(rate) for rate in re.findall(r"[a-z0-9-]+ (\d+)(?=[,)])", part)))
    return found


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def program():
    """The workbench in target/: of the release profile where it was built."""
    release = ROOT / "target/release/workbench"
    return str(release if release.is_file() else ROOT / "target/debug/workbench")


def timed(command, **options):
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.time() - began, done.stdout


def shown(known):
    return "GFLOP/s, torch / ours: " + "; ".join(f"{name} {a:.0f} / {b:.0f}" for name, (a, b) in known.items())


def peak():
    """The largest resident size of this process in bytes. What `getrusage` tells is at least that of the process it was started by."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
