#!/bin/sh
# Trains with PyTorch and with the workbench in turn, on the same weights and tokens, in f32, and prints seconds a step, the ratios, the
# share of the machine's better f32 rate, and the largest resident sizes.
#
#     scripts/compare-train.sh VENV [--parts block model] [--shape smollm2-135m|qwen3-0.6b] [--layers 30] [--sequences 4] [--length 512]
#                              [--steps 3] [--rounds 1] [--work FOLDER] [--alone]
#
# block: one block of Qwen3-0.6B's shapes, 2 x 512 tokens, forward, backward and AdamW (a benchmark of the workbench's training loop).
# model: whole steps with gradient checkpointing, of random weights in the shapes of SmolLM2-135M or Qwen3-0.6B: `sft` beside
# transformers, whose losses have to agree, and `qat` by cross-entropy and by distillation beside `sft`.
# VENV is a Python environment with transformers: scripts/peer/install.sh FOLDER llmcompressor makes one. --alone leaves the peer out.
# A step of the workbench is the difference of two nodes with more and fewer steps: loading, digests and writing are not in it.
set -eu
[ $# -ge 1 ] || { sed -n 2,13p "$0" | cut -c3- >&2; exit 2; }
venv=$1
shift
exec "$venv/bin/python" "$(dirname "$0")/peer/train.py" "$@"
