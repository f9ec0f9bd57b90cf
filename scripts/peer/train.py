"""The work of scripts/compare-train.sh: PyTorch and the workbench in turn, each as a process of its own, on the same weights and tokens."""

import argparse
import csv
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

from bench import ROOT, cpu, peak, program, random_model, rates, shown, timed

SHAPES = {"smollm2-135m": (30, 49152), "qwen3-0.6b": (28, 151936)}
RATE = 1e-4

SCRIPT = """
let batch = param("batch", 4);
let data = dataset("text.txt").tokens(#{ num_calibration_samples: batch, max_seq_length: param("length", 512), add_bos: false });
let options = #{
    data: data, batch_size: batch, max_steps: param("steps", 1), gradient_checkpointing: true, checkpoint_every: 0,
    learning_rate: %g, schedule: "constant", warmup_ratio: 0.0, max_grad_norm: 1.0,
};
let arm = param("arm", "sft");
let own = if arm == "sft" { #{} } else { #{ scheme: param("scheme", "W4A16"), loss: arm } };
model(param("model", "")).train(if arm == "sft" { "sft" } else { "qat" }, options + own).save_as("made");
""" % RATE


def peer_block(sequences, length, steps):
    import torch
    from transformers import AutoModel, Qwen3Config

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(1)
    config = Qwen3Config(
        hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=3072,
        num_hidden_layers=1, vocab_size=16,
    )  # fmt: skip
    network = AutoModel.from_config(config, dtype=torch.float32)
    layer, hidden = network.layers[0], torch.randn(sequences, length, 1024, requires_grad=True)
    by_output = torch.randn(sequences, length, 1024)
    turned = network.rotary_emb(hidden, torch.arange(length)[None])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)

    def step():
        output = layer(hidden, attention_mask=None, position_embeddings=turned)
        output = output if isinstance(output, torch.Tensor) else output[0]
        (output * by_output).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    print(json.dumps(dict(seconds=min(clocked(step) for _ in range(steps + 1)))))


def clocked(step):
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peer_model(model, text, sequences, length, steps):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count())
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    network.gradient_checkpointing_enable(dict(use_reentrant=False))
    network.config.use_cache = False
    ids = AutoTokenizer.from_pretrained(model)(pathlib.Path(text).read_text(), add_special_tokens=False)["input_ids"]
    rows = torch.tensor([ids[i * length : (i + 1) * length] for i in range(sequences)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, seconds = [], []
    for _ in range(steps + 1):

        def step():
            loss = network(input_ids=rows, labels=rows).loss
            losses.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        seconds.append(clocked(step))
    # The first step takes the memory.
    print(json.dumps(dict(seconds=sum(seconds[1:]) / steps, losses=losses, rss=peak())))


def run_peer(*arguments):
    _, printed = timed([sys.executable, __file__, "--peer", *map(str, arguments)])
    return json.loads(printed.strip().splitlines()[-1])


def run_node(work, model, arm, sequences, length, steps):
    shutil.rmtree(work / "results", ignore_errors=True)
    shutil.rmtree(work / "made", ignore_errors=True)
    (work / "compare.rhai").write_text(SCRIPT)
    (work / "workbench.toml").write_text("")
    command = [program(), "run", "compare.rhai", "--jobs", "1", "--threads", str(os.cpu_count())]
    for name, value in dict(model=model, arm=arm, batch=sequences, length=length, steps=steps).items():
        command += ["--set", f"{name}={value}"]
    timed(command, cwd=work)
    [folder] = [p.parent for p in (work / "results").glob("store/v1/objects/*/*/curve.csv")]
    node = json.loads((folder / "provenance.json").read_text())
    with (folder / "curve.csv").open() as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines) if row.get("loss")]
    return dict(seconds=node["seconds"], losses=losses, rss=node["peak_memory"])


def run_ours(work, model, arm, sequences, length, steps):
    few, many = (run_node(work, model, arm, sequences, length, count) for count in (1, 1 + steps))
    return dict(seconds=(many["seconds"] - few["seconds"]) / steps, losses=many["losses"], rss=many["rss"])


def flop(model, length):
    """Of the products of one token forward: linears and attention over half of a sequence; and of the head."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    q, kv = heads * dim, config["num_key_value_heads"] * dim
    layer = 2 * (hidden * (2 * q + 2 * kv + 3 * inner)) + 4 * q * (length / 2)
    return config["num_hidden_layers"] * layer, 2 * hidden * config["vocab_size"]


def block(given, known):
    sequences, length = 2, 512
    linears = 1024 * (2 * 2048 + 2 * 1024 + 3 * 3072)
    operations = 3 * sequences * length * (2 * linears + 4 * 2048 * length / 2)
    _, printed = timed(["cargo", "bench", "--locked", "--workspace", "--bench", "step", "--", "block"], cwd=ROOT)
    ours = float(re.search(r"^block: ([0-9.]+) s", printed, re.M)[1])
    share = operations / ours / 1e9 / max(known["f32"])
    line = f"block of Qwen3-0.6B, {sequences} x {length} tokens, {operations / 1e9:.0f} GFLOP: workbench {ours:.3f} s = {share:.0%} of the better f32 rate"
    if not given.alone:
        theirs = run_peer("block", sequences, length, 8)["seconds"]
        line += f"; PyTorch {theirs:.3f} s, ratio {theirs / ours:.2f}"
    print(line, flush=True)


def model(given, known, work):
    folder = work / "model"
    layers, vocabulary = SHAPES[given.shape]
    if not folder.exists():
        random_model(folder, given.layers or layers, given.shape, vocabulary)
        _, text = timed([program(), "demo", "text", "stories/train"])
        (work / "text.txt").write_text(text[: 16 * given.length * given.sequences])
    tokens = given.sequences * given.length
    body, head = flop(folder, given.length)
    # Forward, forward once more through the blocks, and backward.
    operations = tokens * (4 * body + 3 * head)
    size = (given.sequences, given.length, given.steps)
    found = {arm: run_ours(work, folder, arm, *size) for arm in ["sft", "cross_entropy", "distillation"]}
    ours = found["sft"]
    share = operations / ours["seconds"] / 1e9 / max(known["f32"])
    line = f"{given.shape}, {given.sequences} x {given.length} tokens, {operations / 1e9:.0f} GFLOP a step: sft {ours['seconds']:.2f} s = {share:.0%} of the better f32 rate, peak {ours['rss'] / 2**20:.0f} MiB"
    if not given.alone:
        theirs = run_peer("model", folder, work / "text.txt", *size)
        apart = max(abs(a - b) for a, b in zip(theirs["losses"], ours["losses"]))
        if apart > 1e-3 or len(theirs["losses"]) != len(ours["losses"]):
            sys.exit(f"the losses differ, {theirs['losses']} and {ours['losses']}: times of different work are not compared")
        line += f"; PyTorch {theirs['seconds']:.2f} s, peak {theirs['rss'] / 2**20:.0f} MiB; ratio {theirs['seconds'] / ours['seconds']:.2f}, memory {ours['rss'] / theirs['rss']:.2f}, losses within {apart:.1e}"
    print(line, flush=True)
    qat, kd = found["cross_entropy"], found["distillation"]
    print(
        f"  qat W4A16 {qat['seconds']:.2f} s = {qat['seconds'] / ours['seconds']:.2f} of sft, peak {qat['rss'] / 2**20:.0f} MiB; by "
        f"distillation {kd['seconds']:.2f} s = {kd['seconds'] / qat['seconds']:.2f} of qat, peak {kd['rss'] / 2**20:.0f} MiB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", choices=["block", "model"], default=["block", "model"])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--layers", type=int, help="those of the model if not given")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--alone", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = pathlib.Path(folder)
        print(f"{program()}, {os.cpu_count()} cores of {cpu()}, f32")
        for _ in range(given.rounds):
            known = rates()
            print(shown(known))
            if "block" in given.parts:
                block(given, known)
            if "model" in given.parts:
                model(given, known, work)


if len(sys.argv) > 1 and sys.argv[1] == "--peer":
    part, *rest = sys.argv[2:]
    if part == "block":
        peer_block(*map(int, rest))
    else:
        peer_model(*rest[:2], *map(int, rest[2:]))
else:
    main()
