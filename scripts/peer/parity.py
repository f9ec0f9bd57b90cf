"""The work of scripts/parity.sh: the same recipes on both sides, in the peer's calibration mode, and what came out compared.

Round-to-nearest has to give the same codes, scales and zero-points. GPTQ cannot: both sides add up the same products in another
order, and one code that falls on the other side of a tie moves all columns after it. So what counts there is the loss on held-out
text, measured by the workbench on both folders: ours may be at most TOLERANCE nats per token above theirs. transformers measures the
same folders, and the model as it was given on the calibration text too: where the two evaluators agree on that, the tokens are the same.

From the second block on GPTQ is chaotic: on a small model at four bits a change of the dampening by a ten-thousandth moves the loss of
either side by up to .01 nats. --repeats runs each GPTQ recipe several times with dampenings that far apart, and compares the means.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TQDM_DISABLE", "1")
# Threads that spin while they wait would take the cores from whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

logging.set_verbosity_error()
ROOT = pathlib.Path(__file__).resolve().parents[2]

# Nats per token that our loss may lie above the peer's.
TOLERANCE = 0.005
# Nats per token by which the two evaluators may differ on one folder. Sums in another order move activations across the steps of
# their grid, which is the larger part of it.
EVALUATORS = 0.002

DYNAMIC = dict(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
STATIC = dict(num_bits=8, type="int", symmetric=True, strategy="tensor", dynamic=False)


def recipes(group_size):
    """By name: the method, the scheme, and the order of GPTQ's columns."""

    def weights(bits, symmetric=True, group=group_size):
        args = dict(num_bits=bits, type="int", symmetric=symmetric, strategy="group" if group else "channel")
        return dict(args, group_size=group) if group else args

    w4, w8, w8_channel = dict(weights=weights(4)), dict(weights=weights(8)), dict(weights=weights(8, group=None))
    dynamic, static = dict(w8_channel, input_activations=DYNAMIC), dict(w8_channel, input_activations=STATIC)
    return {
        "rtn-w4a16": ("rtn", w4, None),
        "rtn-w4a16-asym": ("rtn", dict(weights=weights(4, symmetric=False)), None),
        "rtn-w8a16": ("rtn", w8, None),
        "rtn-w8a16-channel": ("rtn", w8_channel, None),
        "rtn-w8a8": ("rtn", dynamic, None),
        "gptq-w4a16-static": ("gptq", w4, "static"),
        "gptq-w4a16-none": ("gptq", w4, None),
        "gptq-w4a16-asym-static": ("gptq", dict(weights=weights(4, symmetric=False)), "static"),
        "gptq-w8a8-dynamic": ("gptq", dynamic, "static"),
        "gptq-w8a8-static": ("gptq", static, "static"),
    }


RECIPES = list(recipes(128))


def repeated(chosen, repeats):
    """The runs of the recipes by name, each with its dampening."""
    runs = {}
    for name, (method, scheme, order) in chosen.items():
        for index in range(repeats if method == "gptq" else 1):
            runs[f"{name}.{index}" if index else name] = (method, scheme, order, round(0.01 * (1 + index * 1e-4), 9))
    return runs


def group_size(config):
    """The largest of the usual sizes that divides the inputs of every linear."""
    heads = config["num_attention_heads"]
    inner = heads * (config.get("head_dim") or config["hidden_size"] // heads)
    widths = [config["hidden_size"], config["intermediate_size"], inner]
    return next(size for size in (128, 64, 32, 16) if all(width % size == 0 for width in widths))


def in_dtype(model, dtype, folder):
    """The model with all its tensors in a dtype."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    folder.chmod(0o755)
    tensors = {}
    for file in sorted(model.glob("*.safetensors")):
        tensors.update(load_file(file))
    save_file({n: t.to(dtype).contiguous() for n, t in tensors.items()}, folder / "model.safetensors", dict(format="pt"))
    config = json.loads((model / "config.json").read_text())
    config.pop("torch_dtype", None)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(dict(config, dtype=str(dtype).removeprefix("torch.")), indent=1))
    return folder


def sequences(model, text, length, count, predicted=False):
    """The ids that `dataset(text).tokens(…)` makes of one text: cut without overlap, in front what the tokenizer puts there, all of it
    `length` tokens. Blocks that are predicted are longer by the last one, which no model is given, where something stands in front."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    front = tokenizer("")["input_ids"]
    length += bool(front) * predicted - len(front)
    if len(ids) < length * count:
        sys.exit(f"{text} has {len(ids)} tokens, not {count} x {length}: give a longer text, or less --samples and --blocks")
    return [front + ids[i * length : (i + 1) * length] for i in range(count)]


def run(command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def rhai(value):
    """JSON as a script writes it."""
    return json.dumps(value).replace("{", "#{")


def quantize_theirs(folder, chosen, ids, out):
    (out / "ids.json").write_text(json.dumps(ids))
    arguments = []
    for name, (method, scheme, order, dampening) in chosen.items():
        recipe = dict(config_groups=dict(group_0=dict(scheme, targets=["Linear"])), ignore=["lm_head"])
        if method == "gptq":
            recipe.update(modifier="GPTQModifier", actorder=order, dampening_frac=dampening)
        (out / f"{name}.json").write_text(json.dumps(recipe))
        arguments += [out / f"{name}.json", out / "theirs" / name]
    run([sys.executable, ROOT / "scripts/peer/quantize.py", folder, out / "ids.json", *arguments])


def quantize_ours(program, folder, dtype, chosen, given, out):
    tokens = dict(num_calibration_samples=given.samples, max_seq_length=given.length)
    lines = [
        f"let base = model({rhai(str(folder))});",
        f"let calibration = dataset({rhai(str(given.calibration))}).tokens({rhai(tokens)});",
    ]
    for name, (method, scheme, order, dampening) in chosen.items():
        options = dict(scheme=scheme)
        if method == "gptq":
            # The peer gathers a whole decoder layer at once, behind layers whose weights are quantized.
            options.update(observe="block", act_order=order or "none", dampening_fraction=dampening)
        elif dtype == torch.bfloat16:
            # The peer divides and rounds in the model's dtype, except within GPTQ.
            options.update(conventions=dict(compute="bf16"))
        if scheme.get("input_activations", DYNAMIC) == STATIC:
            options.update(observer="minmax")
        calibration = "" if method == "rtn" else "options.calibration = calibration; "
        lines.append(
            f"{{ let options = {rhai(options)}; {calibration}"
            f"base.quantize({rhai(method)}, options).save_as({rhai('ours/' + name)}); }}"
        )
    (out / "quantize.rhai").write_text("\n".join(lines) + "\n")
    run([program, "run", "quantize.rhai", "--jobs", 1, "--threads", os.cpu_count()], cwd=out)


def measure(program, models, texts, given, out):
    """Our loss in nats per token: by name of the model, by name of the text."""
    tasks = [
        f"perplexity(#{{ name: {rhai(name)}, text: dataset({rhai(str(text))}), max_seq_length: {given.length}, blocks: {count} }})"
        for name, (text, count) in texts.items()
    ]
    lines = [f"let suite = [{', '.join(tasks)}];", 'let table = report("parity");']
    for name, folder in models.items():
        lines.append(f"table.row(model({rhai(str(folder))}).evaluate(suite), #{{ model: {rhai(name)} }});")
    (out / "measure.rhai").write_text("\n".join([*lines, "table.write();"]) + "\n")
    run([program, "run", "measure.rhai", "--jobs", 1, "--threads", os.cpu_count()], cwd=out)
    with open(out / "results/reports/parity/table.csv") as file:
        return {row["model"]: {name: float(row[f"{name}.nll"]) for name in texts} for row in csv.DictReader(file)}


@torch.no_grad()
def measure_with_transformers(folder, rows):
    """The same by transformers, in f32."""
    total = 0.0
    # Progress bars that cannot be switched off.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids[:, :-1]).logits.double()
            total += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).item()
    return total / len(rows)


def opened(folder):
    """Codes, scales and zero-points of a folder, as a type of module and a kind of tensor name them."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    groups = json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"].values()
    (bits,) = {group["weights"]["num_bits"] for group in groups}
    found = {}
    for name in [n.removesuffix(".weight_scale") for n in tensors if n.endswith(".weight_scale")]:
        scale = tensors[f"{name}.weight_scale"]
        codes, points = tensors.get(f"{name}.weight"), tensors.get(f"{name}.weight_zero_point")
        if codes is None:
            shape = torch.Size(tensors[f"{name}.weight_shape"].tolist())
            codes = unpack_from_int32(tensors[f"{name}.weight_packed"], bits, shape)
        if points is not None and points.dtype == torch.int32:
            points = unpack_from_int32(points, bits, torch.Size([len(codes), scale.shape[1]]), packed_dim=0)
        if points is not None and not points.any():
            points = None
        found[name] = dict(codes=codes, scales=scale, zero_points=points)
        if f"{name}.input_scale" in tensors:
            found[name]["input_scale"] = tensors[f"{name}.input_scale"].float()
    return found


def differing(ours, theirs, kind):
    """How many values differ, of how many; everything where one side has none or another shape or dtype."""
    different = total = 0
    for name in ours.keys() | theirs.keys():
        a, b = (side.get(name, {}).get(kind) for side in (ours, theirs))
        if a is None and b is None:
            continue
        count = max(t.numel() for t in (a, b) if t is not None)
        same = a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype
        different += int((a != b).sum()) if same else count
        total += count
    return different, total


def compared(ours, theirs):
    """A line about what is stored, and whether all of it is equal."""
    counts = {kind: differing(ours, theirs, kind) for kind in ("codes", "scales", "zero_points")}
    parts = [f"{n} of {total} {kind.replace('_', '-')} differ" for kind, (n, total) in counts.items() if total]
    inputs = [(m["input_scale"], theirs[name]["input_scale"]) for name, m in ours.items() if "input_scale" in m]
    if inputs:
        parts.append(f"input scales within {max(float((a / b - 1).abs().max()) for a, b in inputs):.1e}")
    return ", ".join(parts), not any(n for n, _ in counts.values())


def compare(program, model, dtype, given, work):
    """All recipes on a model in one dtype; returns the names of those that failed."""
    name = str(dtype).removeprefix("torch.")
    out = work / name
    out.mkdir()
    (out / "workbench.toml").write_text("")
    folder = in_dtype(model, dtype, out / "model")
    config = json.loads((folder / "config.json").read_text())
    size = group_size(config)
    chosen = {recipe: value for recipe, value in recipes(size).items() if recipe in given.recipes}
    ids = sequences(folder, given.calibration, given.length, given.samples)
    held_out = sequences(folder, given.text, given.length, given.blocks, predicted=True)
    print(
        f"{name}: {model}, groups of {size}, calibrated on {len(ids)} x {len(ids[0])} tokens, "
        f"measured on {len(held_out)} x {len(held_out[0])}",
        flush=True,
    )
    runs = repeated(chosen, given.repeats)
    quantize_theirs(folder, runs, ids, out)
    quantize_ours(program, folder, dtype, runs, given, out)
    folders = {f"{side} {run}": out / side / run for run in runs for side in ("theirs", "ours")}
    losses = {run for run, (method, *_) in runs.items() if method != "rtn"}
    models = {key: path for key, path in folders.items() if key.split(" ")[1] in losses}
    # Some of the calibration data are enough to see that they are the same tokens.
    some = min(given.blocks, given.samples)
    texts = dict(text=(given.text, given.blocks), calibration=(given.calibration, some))
    nats = measure(program, {"model": folder}, texts, given, out)
    apart = {f"model on the {text}": abs(nats["model"][text] - measure_with_transformers(folder, rows))
             for text, rows in (("text", held_out), ("calibration", ids[:some]))}  # fmt: skip
    failed = []
    if models:
        nats.update(measure(program, models, dict(text=texts["text"]), given, out))
    for recipe in chosen:
        ours, theirs = f"ours {recipe}", f"theirs {recipe}"
        stored, equal = compared(opened(folders[ours]), opened(folders[theirs]))
        line, good = f"{name} {recipe}: {stored}", equal
        if recipe in losses:
            own = [run for run in runs if run.split(".")[0] == recipe]
            for key in [f"{side} {run}" for run in own for side in ("ours", "theirs")]:
                apart[key] = abs(nats[key]["text"] - measure_with_transformers(models[key], held_out))
            mean = {side: sum(nats[f"{side} {run}"]["text"] for run in own) / len(own) for side in ("ours", "theirs")}
            difference = mean["ours"] - mean["theirs"]
            good = difference <= TOLERANCE
            line += (
                f"; model {nats['model']['text']:.4f} nats, theirs {mean['theirs']:.4f}, ours {mean['ours']:.4f}, "
                f"difference {difference:+.4f} (at most {TOLERANCE})"
            )
            if len(own) > 1:
                single = [nats[f"ours {run}"]["text"] - nats[f"theirs {run}"]["text"] for run in own]
                line += f", mean of {len(own)} runs from {min(single):+.4f} to {max(single):+.4f}"
        print(f"{line}: {'pass' if good else 'FAIL'}", flush=True)
        failed += [] if good else [f"{name} {recipe}"]
    worst = max(apart, key=apart.get)
    good = math.isfinite(apart[worst]) and apart[worst] <= EVALUATORS
    print(
        f"{name} evaluators: the workbench and transformers differ by at most {apart[worst]:.1e} nats ({worst}; "
        f"{max(apart[key] for key in apart if key.startswith('model')):.1e} on the model as given): {'pass' if good else 'FAIL'}",
        flush=True,
    )
    return failed + ([] if good else [f"{name} evaluators"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "experiments/demo/model")
    parser.add_argument("--calibration", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=255)
    parser.add_argument("--blocks", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path)
    given = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    release = ROOT / "target/release/workbench"
    program = (given.program or (release if release.is_file() else ROOT / "target/debug/workbench")).resolve()
    failed = []
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = pathlib.Path(folder)
        for option, text in (("calibration", "stories/train"), ("text", "stories/test")):
            if getattr(given, option) is None:
                path = work / f"{option}.txt"
                path.write_text(run([program, "demo", "text", text]))
                setattr(given, option, path)
            setattr(given, option, getattr(given, option).resolve())
        for dtype in given.dtypes:
            failed += compare(program, given.model.resolve(), getattr(torch, dtype), given, work)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


main()
