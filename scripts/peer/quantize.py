#!/usr/bin/env python3
"""Quantizes a model folder with llm-compressor on the CPU.

Usage: quantize.py MODEL IDS.json RECIPE.json OUT [RECIPE.json OUT]...

A recipe holds the keyword arguments of llm-compressor's QuantizationModifier: `scheme`, `targets`, `ignore`, `config_groups`,
`kv_cache_scheme`. IDS.json, a list of lists of token ids, is the calibration data of recipes that need some.
"""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    if len(sys.argv) < 5 or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    torch.set_num_threads(2)
    folder, rows = sys.argv[1], json.load(open(sys.argv[2]))
    for recipe, target in zip(sys.argv[3::2], sys.argv[4::2]):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        modifier = QuantizationModifier(**json.load(open(recipe)))
        data = {}
        if modifier.resolved_config.requires_calibration_data():
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
