#!/usr/bin/env python3
"""Opens model folders with transformers and compressed-tensors on the CPU and writes down what they compute.

Usage: load.py IDS.json FOLDER OUT.safetensors [FOLDER OUT.safetensors]...

IDS.json is a list of equally long lists of token ids. OUT.safetensors gets

  logits            [sequences, tokens, vocabulary] F32, computed in f32
  weight.MODULE     the weight of every quantized module, dequantized by the package, in the type it gives out
  input.MODULE      what every linear with quantized inputs is given, [sequences, tokens, features] F32
  rounded.MODULE    the same, rounded by the package

compressed-tensors gives some layouts (nvfp4-pack-quantized, mxfp4-pack-quantized, mxfp8-quantized) out in bfloat16 alone.
The weights are written down like that, but the logits are computed with the package's own dequantization in f32.
"""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization.lifecycle.forward import dequantize, forward_quantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, logging

logging.set_verbosity_error()
ROUNDED = ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized")


def stored(folder):
    """The tensors of a folder's files."""
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    return tensors


def in_f32(name, scheme, tensors):
    """A weight as the package dequantizes it, with f32 in place of bfloat16."""
    scale = tensors[f"{name}.weight_scale"]
    if scale.dtype == torch.uint8:
        scale = decompress_mx_scale(scale)
    packed = tensors.get(f"{name}.weight_packed")
    if packed is None:
        codes = tensors[f"{name}.weight"]
    else:
        codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
    global_scale = tensors.get(f"{name}.weight_global_scale")
    return dequantize(codes, scale.float(), args=scheme.weights, dtype=torch.float32, global_scale=global_scale)


def watch(name, out):
    """A hook that writes down what a linear is given and what the package makes of it."""

    def hook(module, args):
        x = args[0]
        out[f"input.{name}"] = x.detach().clone().contiguous()
        rounded = forward_quantize(module, x, "input", module.quantization_scheme.input_activations)
        out[f"rounded.{name}"] = rounded.detach().clone().contiguous()

    return hook


@torch.no_grad()
def run(folder, ids):
    config = json.load(open(os.path.join(folder, "config.json")))
    groups = config.get("quantization_config", {}).get("config_groups", {}).values()
    rounded = any(group["format"] in ROUNDED for group in groups)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if rounded else torch.float32, output_loading_info=True
    )
    wrong = {key: names for key, names in info.items() if names}
    if wrong:
        sys.exit(f"{folder}: transformers does not find its tensors: {wrong}")
    model.eval()
    # The first pass decompresses.
    model(input_ids=ids[:1, :4])
    out = {}
    tensors = stored(folder) if rounded else {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None:
            out[f"weight.{name}"] = module.weight.detach().clone().contiguous()
    if rounded:
        # Dense tensors as they are stored: bfloat16 may have rounded them too.
        state = torch.nn.Module.float(model).state_dict()
        for name, value in tensors.items():
            if name in state and value.is_floating_point() and value.dtype != torch.float8_e4m3fn:
                state[name].copy_(value)
        for name, module in model.named_modules():
            if f"weight.{name}" in out and module.quantization_scheme.format in ROUNDED:
                module.weight.data = in_f32(name, module.quantization_scheme, tensors)
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if isinstance(module, torch.nn.Linear) and scheme is not None and scheme.input_activations is not None:
            module.register_forward_pre_hook(watch(name, out))
    out["logits"] = model(input_ids=ids).logits.float().contiguous()
    return out


def main():
    arguments = sys.argv[1:]
    if len(arguments) < 3 or len(arguments) % 2 == 0:
        sys.exit(__doc__)
    torch.set_num_threads(2)
    ids = torch.tensor(json.load(open(arguments[0])))
    for folder, target in zip(arguments[1::2], arguments[2::2]):
        save_file(run(folder, ids), target)
        print(f"opened {folder}", flush=True)


main()
