#!/usr/bin/env python3
"""Turns a llama2.c checkpoint followed by its tokenizer into a Hugging Face folder. Needs nothing but Python.

    convert_llama2c.py llama2.data FOLDER

The checkpoint's layout is that of llama2.c's version 0 export: seven 32-bit integers (dim, hidden_dim, n_layers, n_heads,
n_kv_heads, vocab_size, seq_len), then the tensors in f32, layer after layer, tensor after tensor. Rotary pairs are
neighbours there and halves of a head here, so the rows of q and k are reordered. The tokenizer is a SentencePiece BPE
written as (score, length, bytes) for each token.
"""

import array
import hashlib
import json
import struct
import sys
from pathlib import Path

CHECKPOINT_SHA256 = "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a"


def half_split(rows, heads, head_dim, columns):
    """Reorders rows [heads, head_dim/2, 2] to [heads, 2, head_dim/2]."""
    out = array.array("f")
    for head in range(heads):
        for part in range(2):
            for pair in range(head_dim // 2):
                row = head * head_dim + 2 * pair + part
                out.extend(rows[row * columns : (row + 1) * columns])
    return out


def read_tensors(data):
    header = struct.unpack_from("<7i", data)
    dim, hidden, layers, heads, kv_heads, vocab, positions = header
    head_dim = dim // heads
    values = array.array("f")
    values.frombytes(data[28:])
    at = 0

    def take(count):
        nonlocal at
        at += count
        return values[at - count : at]

    tensors = {"model.embed_tokens.weight": ((vocab, dim), take(vocab * dim))}
    shapes = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (heads * head_dim, dim)),
        ("self_attn.k_proj", (kv_heads * head_dim, dim)),
        ("self_attn.v_proj", (kv_heads * head_dim, dim)),
        ("self_attn.o_proj", (dim, heads * head_dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]
    for name, shape in shapes:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        for layer in range(layers):
            tensor = take(count)
            if name.endswith("q_proj"):
                tensor = half_split(tensor, heads, head_dim, dim)
            elif name.endswith("k_proj"):
                tensor = half_split(tensor, kv_heads, head_dim, dim)
            tensors[f"model.layers.{layer}.{name}.weight"] = (shape, tensor)
    tensors["model.norm.weight"] = ((dim,), take(dim))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return config, tensors


def read_tokenizer(data, size):
    at, pieces = 4, []
    for _ in range(size):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((score, data[at + 8 : at + 8 + length].decode("utf-8")))
        at += 8 + length
    # llama2.c writes special tokens and single bytes as they look in a text, and the space where SentencePiece has its sign.
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [text.replace(" ", "\u2581") for _, text in pieces[259:]]
    vocab = {name: index for index, name in enumerate(names)}
    # A merge is a pair of tokens whose concatenation is one; the one with the highest score comes first.
    merges = []
    for index, name in enumerate(names):
        if index < 259:
            continue
        pairs = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        known = [(vocab[a], vocab[b], a, b) for a, b in pairs if a in vocab and b in vocab]
        merges.extend((pieces[index][0], [a, b]) for _, _, a, b in sorted(known))
    merges = [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
    special = [{"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i in range(3)]
    template = lambda *parts: [{"SpecialToken": {"id": "<s>", "type_id": i}} if p == "<s>" else {"Sequence": {"id": p, "type_id": i}} for p, i in parts]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template(("<s>", 0), ("A", 0)),
            "pair": template(("<s>", 0), ("A", 0), ("<s>", 0), ("B", 1)),
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges},
    }


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(values.tobytes())


def main():
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    data = source.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, positions = struct.unpack_from("<7i", data)
    kv = kv_heads * (dim // heads)
    floats = vocab * dim + layers * (2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * hidden * dim) + dim + positions * (dim // heads)
    end = 28 + 4 * floats
    if hashlib.sha256(data[:end]).hexdigest() != CHECKPOINT_SHA256:
        sys.exit(f"error: {source} is not the checkpoint that was expected")
    config, tensors = read_tensors(data[:end])
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    settings = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": positions, "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"config.json": config, "tokenizer.json": read_tokenizer(data[end:], vocab), "tokenizer_config.json": settings}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


main()
