#!/usr/bin/env python3
"""Quantizes a model folder with llm-compressor on the CPU.

Usage: quantize.py MODEL IDS.json RECIPE.json OUT [RECIPE.json OUT]...

A recipe holds the keyword arguments of llm-compressor's QuantizationModifier: `scheme`, `targets`, `ignore`, `config_groups`,
`kv_cache_scheme`; or, with `"modifier": "GPTQModifier"`, those of that one: `actorder` and `dampening_frac` too. IDS.json, a list of
lists of token ids, is the calibration data of recipes that need some.
"""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TQDM_DISABLE", "1")
# Threads that spin while they wait would take the cores from whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

MODIFIERS = {"QuantizationModifier": QuantizationModifier, "GPTQModifier": GPTQModifier}


def needs_data(modifier):
    return modifier.requires_calibration_data or modifier.resolved_config.requires_calibration_data()


def in_order(rows):
    """Rows of equal length, placed so that the peer takes them in their order: it sorts them by their length, and not stably. A
    moving average of ranges depends on the order more than on anything else."""
    lengths = [len(row) for row in rows]
    if len(set(lengths)) != 1:
        return rows
    order = torch.argsort(torch.tensor(lengths), descending=True).tolist()
    placed = dict(zip(order, rows))
    return [placed[i] for i in range(len(rows))]


def main():
    if len(sys.argv) < 5 or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    torch.set_num_threads(2)
    folder, rows = sys.argv[1], in_order(json.load(open(sys.argv[2])))
    for recipe, target in zip(sys.argv[3::2], sys.argv[4::2]):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        asked = json.load(open(recipe))
        modifier = MODIFIERS[asked.pop("modifier", "QuantizationModifier")](**asked)
        data = {}
        if needs_data(modifier):
            masks = [[1] * len(row) for row in rows]
            data = dict(
                dataset=Dataset.from_dict(dict(input_ids=rows, attention_mask=masks)),
                num_calibration_samples=len(rows),
                max_seq_length=max(map(len, rows)),
                shuffle_calibration_samples=False,
            )
        oneshot(model=model, recipe=[modifier], **data)
        model.save_pretrained(target, save_compressed=True)
        AutoTokenizer.from_pretrained(folder).save_pretrained(target)
        print(f"wrote {target}", flush=True)


main()
