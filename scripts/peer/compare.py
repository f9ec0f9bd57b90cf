"""The work of scripts/compare-peer.sh: the peer and the workbench in turn, each as a process of its own."""

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
RECIPES = ["rtn-w4a16", "rtn-w8a8", "rotate-rtn-w4a16", "gptq-w4a16", "gptq-w4a16-f32"]

SCRIPT = """
let base = model(param("model", ""));
let recipe = param("recipe", "");
let w4 = #{ weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "group", group_size: 128 } };
let w8a8 = #{
    weights: #{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" },
    input_activations: #{ num_bits: 8, type: "int", symmetric: true, strategy: "token", dynamic: true },
};
let made = switch recipe {
    "rtn-w4a16" => base.quantize("rtn", #{ scheme: w4 }),
    "rtn-w8a8" => base.quantize("rtn", #{ scheme: w8a8 }),
    "rotate-rtn-w4a16" => base.transform("rotate", #{ kind: "hadamard", dtype: "bfloat16" }).quantize("rtn", #{ scheme: w4 }),
    "gptq-w4a16" | "gptq-w4a16-f32" => {
        let tokens = #{ num_calibration_samples: param("samples", 128), max_seq_length: 512, add_bos: false };
        let dtype = if recipe == "gptq-w4a16" { "bfloat16" } else { "float32" };
        base.quantize("gptq", #{ scheme: w4, calibration: dataset("text.txt").tokens(tokens), compute_dtype: dtype })
    },
    _ => throw `no recipe ${recipe}`,
};
made.save_as("ours");
"""


def peer(recipe, model, text, samples, out):
    """Runs in a process of its own and prints what it measured as its last line."""
    began = time.time()
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count())
    imported = time.time()
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = time.time()
    plain = dict(targets="Linear", ignore=["lm_head"])
    data, recipes = {}, []
    if recipe.startswith("rotate"):
        from llmcompressor.modifiers.transform import SpinQuantModifier

        recipes.append(SpinQuantModifier(rotations=["R1", "R2"], transform_type="hadamard"))
    if recipe.startswith("gptq"):
        ids = tokenizer(pathlib.Path(text).read_text(), add_special_tokens=False)["input_ids"]
        rows = [ids[i * LENGTH : (i + 1) * LENGTH] for i in range(samples)]
        assert all(len(row) == LENGTH for row in rows), "the text is too short"
        data = dict(
            dataset=Dataset.from_dict(dict(input_ids=rows, attention_mask=[[1] * LENGTH] * samples)),
            num_calibration_samples=samples,
            max_seq_length=LENGTH,
            shuffle_calibration_samples=False,
        )
        recipes.append(GPTQModifier(scheme="W4A16", actorder="static", **plain))
    else:
        recipes.append(QuantizationModifier(scheme="W8A8" if "w8a8" in recipe else "W4A16", **plain))
    start = time.time()
    oneshot(model=network, recipe=recipes, **data)
    done = time.time()
    network.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)
    print(json.dumps(dict(imports=imported - began, load=loaded - imported, quantize=done - start, rss=peak())))


def gptq_flop(model, samples):
    """Of the linears, each once, and of one half of each Gram matrix: what calibration cannot do without. `None` for a mixture of experts."""
    config = json.loads((model / "config.json").read_text())
    if "num_experts_per_tok" in config:
        return None
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q, kv = (config[heads] * config["head_dim"] for heads in ["num_attention_heads", "num_key_value_heads"])
    weights = hidden * (2 * q + 2 * kv + 3 * inner)
    grams = 2 * hidden**2 + q**2 + inner**2
    return config["num_hidden_layers"] * samples * LENGTH * (2 * weights + grams)


def run_peer(recipe, model, work, samples):
    out = work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--peer", recipe, str(model), str(work / "text.txt"), str(samples), str(out)]
    whole, printed = timed(command)
    return dict(json.loads(printed.strip().splitlines()[-1]), whole=whole)


def run_ours(recipe, model, work, samples):
    for left in ["results", "ours"]:
        shutil.rmtree(work / left, ignore_errors=True)
    (work / "compare.rhai").write_text(SCRIPT)
    (work / "workbench.toml").write_text("")
    command = [program(), "run", "compare.rhai", "--jobs", "1", "--threads", str(os.cpu_count())]
    for setting in [f"model={model}", f"recipe={recipe}"] + ([f"samples={samples}"] if "gptq" in recipe else []):
        command += ["--set", setting]
    whole, _ = timed(command, cwd=work)
    nodes = [json.loads(p.read_text()) for p in (work / "results").glob("store/v1/objects/*/*/provenance.json")]
    return dict(
        whole=whole, quantize=sum(n["seconds"] for n in nodes), rss=max(n["peak_memory"] for n in nodes)
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shape", choices=["qwen3-0.6b", "qwen3-30b-a3b"], default="qwen3-0.6b")
    parser.add_argument("--alone", action="store_true", help="run the workbench without the peer")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = pathlib.Path(folder)
        model = (given.model or work / "model").resolve()
        if given.model is None:
            random_model(model, given.layers, given.shape)
        _, text = timed([program(), "demo", "text", "stories/train"])
        # A token of any tokenizer is far below 16 bytes on average.
        (work / "text.txt").write_text(text[: 16 * LENGTH * given.samples])
        print(f"{program()}, {os.cpu_count()} cores of {cpu()}, {model}, {given.samples} x {LENGTH} tokens")
        known = rates()
        print(shown(known))
        best = max(rate for pair in known.values() for rate in pair)
        for recipe in given.recipes * given.rounds:
            theirs = None if given.alone else run_peer(recipe, model, work, given.samples)
            ours = run_ours(recipe, model, work, given.samples)
            copied, _ = timed(["cp", "-r", str(model), str(work / "copied")])
            shutil.rmtree(work / "copied")
            share = ""
            flop = gptq_flop(model, given.samples) if recipe.startswith("gptq") else None
            if flop is not None:
                reached = flop / ours["quantize"] / (max(known["f32"]) if recipe.endswith("f32") else best) / 1e9
                share = f"; {flop * 1e-12:.1f} TFLOP, {reached:.0%} of the better rate"
            if theirs is None:
                print(
                    f"{recipe}: quantize {ours['quantize']:.1f} s{share}; whole process {ours['whole']:.1f} s; "
                    f"peak memory {ours['rss'] / 2**20:.0f} MiB; cp of the input {copied:.2f} s",
                    flush=True,
                )
                continue
            without = theirs["whole"] - theirs["imports"]
            print(
                f"{recipe}: quantize {theirs['quantize']:.1f} s / {ours['quantize']:.1f} s = {theirs['quantize'] / ours['quantize']:.2f}{share}; "
                f"whole process {theirs['whole']:.1f} s / {ours['whole']:.1f} s = {theirs['whole'] / ours['whole']:.2f} "
                f"({without / ours['whole']:.2f} without the peer's imports); "
                f"peak memory {theirs['rss'] / 2**20:.0f} MiB / {ours['rss'] / 2**20:.0f} MiB; cp of the input {copied:.2f} s",
                flush=True,
            )


if len(sys.argv) > 1 and sys.argv[1] == "--peer":
    peer(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6])
else:
    main()
