#!/usr/bin/env python3
"""Reads numbers off compressed-tensors for the tests of this project, and writes them as JSON.

Usage: golden.py            (in the environment of scripts/peer/install.sh, from the project's root)
"""

import json
import pathlib

import compressed_tensors
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS, COLUMNS = 8, 64


def presets():
    """Every preset, as the package writes it into a config.json."""
    named = {name: preset_name_to_scheme(name, ["Linear"]).model_dump(mode="json") for name in PRESET_SCHEMES}
    return {"compressed_tensors": compressed_tensors.__version__, "presets": named}


def ranges(weight, args):
    """Smallest and largest value of every group of a weight."""
    if args.strategy == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block":
        height, width = args.block_structure
        blocks = [[weight[i : i + height, j : j + width] for j in range(0, COLUMNS, width)] for i in range(0, ROWS, height)]
        low = torch.stack([torch.stack([block.amin() for block in row]) for row in blocks])
        high = torch.stack([torch.stack([block.amax() for block in row]) for row in blocks])
        return low, high
    groups = weight.reshape(ROWS, -1, args.group_size)
    return groups.amin(-1), groups.amax(-1)


def layout(preset, name, weight, **changes):
    """A weight as the package compresses it, and what it decompresses to."""
    scheme = preset_name_to_scheme(preset, ["Linear"])
    for key, value in changes.items():
        setattr(scheme.weights, key, value)
    args = scheme.weights
    low, high = ranges(weight, args)
    state = {"weight": weight}
    if args.strategy == "tensor_group":
        state["weight_global_scale"] = generate_gparam(weight.amin(), weight.amax())
    state["weight_scale"], _ = calculate_qparams(low, high, args, state.get("weight_global_scale"))
    compressor = BaseCompressor.get_value_from_registry(name)
    stored = compressor.compress(state, scheme)
    values = compressor.decompress(stored, scheme)["weight"]
    parts = {
        key: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "bytes": tensor.contiguous().view(torch.uint8).numpy().tobytes().hex(),
        }
        for key, tensor in stored.items()
    }
    return {
        "format": name,
        "weights": args.model_dump(mode="json"),
        "stored": parts,
        # In the type that the package gives them out in: bfloat16 for all but float-quantized.
        "values_dtype": str(values.dtype).removeprefix("torch."),
        "values": values.float().numpy().tobytes().hex(),
    }


def layouts():
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    weight[:, 5] *= 8
    weight[2] *= 1e-3
    weight[3, :32] = 0
    cases = {
        "fp8_tensor": layout("FP8", "float-quantized", weight),
        "fp8_channel": layout("FP8_DYNAMIC", "float-quantized", weight),
        "fp8_block": layout("FP8_BLOCK", "float-quantized", weight, block_structure=[4, 32]),
        "mxfp4": layout("MXFP4A16", "mxfp4-pack-quantized", weight),
        "mxfp8": layout("MXFP8A16", "mxfp8-quantized", weight),
        "nvfp4": layout("NVFP4A16", "nvfp4-pack-quantized", weight),
    }
    made_by = {"compressed_tensors": compressed_tensors.__version__, "torch": torch.__version__}
    return {"made_by": made_by, "shape": [ROWS, COLUMNS], "weight": weight.numpy().tobytes().hex(), "cases": cases}


for path, value in [
    ("core/quant/tests/golden/presets.json", presets()),
    ("core/model/tests/golden/float_layouts.json", layouts()),
]:
    (ROOT / path).write_text(json.dumps(value, indent=1) + "\n")
    print(path)
