"""The work of scripts/compare-eval.sh: transformers and the workbench in turn, each as a process of its own, on the same windows of text."""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from bench import cpu, peak, program, random_model, rates, shown, timed

LENGTH = 512
SHAPES = {"smollm2-135m": (30, 49152), "qwen3-0.6b": (28, 151936)}

SCRIPT = """
let options = #{ text: dataset("text.txt"), add_bos: false, max_seq_length: 512, blocks: param("windows", 16), name: "text" };
let table = report("compare");
table.row(model(param("model", "")).evaluate(perplexity(options)), #{});
table.write();
"""


def peer(model, text, windows, batch):
    """Runs in a process of its own and prints what it measured as its last line."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count())
    began = time.time()
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    load = time.time() - began
    ids = AutoTokenizer.from_pretrained(model)(pathlib.Path(text).read_text(), add_special_tokens=False)["input_ids"]
    rows = torch.tensor([ids[i * LENGTH : (i + 1) * LENGTH] for i in range(windows)])
    sums = 0.0

    def score(some):
        logits = network(some[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="sum").item()

    with torch.inference_mode():
        score(rows[:batch])  # A first pass makes the threads and takes the memory.
        began = time.time()
        for start in range(0, windows, batch):
            sums += score(rows[start : start + batch])
        seconds = time.time() - began
    print(json.dumps(dict(load=load, seconds=seconds, nll=sums / (windows * (LENGTH - 1)), rss=peak())))


def run_peer(model, work, windows, batch):
    _, printed = timed([sys.executable, __file__, "--peer", str(model), str(work / "text.txt"), str(windows), str(batch)])
    return json.loads(printed.strip().splitlines()[-1])


def run_ours(model, work, windows):
    shutil.rmtree(work / "results", ignore_errors=True)
    (work / "compare.rhai").write_text(SCRIPT)
    (work / "workbench.toml").write_text("")
    command = [program(), "run", "compare.rhai", "--jobs", "1", "--threads", str(os.cpu_count())]
    timed(command + ["--set", f"model={model}", "--set", f"windows={windows}"], cwd=work)
    [folder] = [p.parent for p in (work / "results").glob("store/v1/objects/*/*/provenance.json")]
    node, record = (json.loads((folder / name).read_text()) for name in ["provenance.json", "record.json"])
    return dict(seconds=node["seconds"], nll=record["values"]["nll"], rss=node["peak_memory"])


def flop(model):
    """Of the products of one token: linears, the head, and attention over half of a window."""
    config = json.loads((model / "config.json").read_text())
    if any("expert" in key for key in config):
        sys.exit("the operations of a mixture of experts are not counted here; choose a dense model")
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    q, kv = heads * dim, config["num_key_value_heads"] * dim
    layer = 2 * (hidden * (2 * q + 2 * kv + 3 * inner)) + 4 * q * (LENGTH / 2)
    return config["num_hidden_layers"] * layer + 2 * hidden * config["vocab_size"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="batch sizes of transformers; the fastest counts")
    parser.add_argument("--work", type=pathlib.Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = pathlib.Path(folder)
        model = (given.model or work / "model").resolve()
        if given.model is None:
            layers, vocabulary = SHAPES[given.shape]
            random_model(model, layers, given.shape, vocabulary)
        _, text = timed([program(), "demo", "text", "stories/train"])
        # A token of any tokenizer is far below 16 bytes on average.
        (work / "text.txt").write_text(text[: 16 * LENGTH * given.windows])
        size = sum(p.stat().st_size for p in model.glob("*.safetensors"))
        print(f"{program()}, {os.cpu_count()} cores of {cpu()}, {given.model or given.shape}, {given.windows} windows of {LENGTH} tokens, f32")
        for _ in range(given.rounds):
            known = rates()
            print(shown(known))
            theirs = min((run_peer(model, work, given.windows, batch) for batch in given.batches), key=lambda run: run["seconds"])
            ours = run_ours(model, work, given.windows)
            if abs(theirs["nll"] - ours["nll"]) > 1e-4:
                sys.exit(f"the losses differ, {theirs['nll']} and {ours['nll']}: times of different work are not compared")
            tokens = given.windows * (LENGTH - 1)
            speed, reached = tokens / ours["seconds"], tokens * flop(model) / ours["seconds"] / 1e9 / max(known["f32"])
            print(
                f"tokens/s: transformers {tokens / theirs['seconds']:.0f} (after loading for {theirs['load']:.1f} s), workbench {speed:.0f} "
                f"(loading included) = {theirs['seconds'] / ours['seconds']:.2f}; {flop(model) * 1e-6:.0f} MFLOP a token, {reached:.0%} of the better "
                f"f32 rate; peak memory {theirs['rss'] / 2**20:.0f} MiB / {ours['rss'] / 2**20:.0f} MiB, model {size / 2**20:.0f} MiB; "
                f"nll {theirs['nll']:.6f} / {ours['nll']:.6f}",
                flush=True,
            )


if len(sys.argv) > 1 and sys.argv[1] == "--peer":
    peer(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
else:
    main()
