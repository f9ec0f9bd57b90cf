#!/bin/sh
# Runs transformers and the workbench in turn on the same checkpoint and the same windows of text, in f32, and prints tokens a second,
# the ratio, both losses and the largest resident sizes.
#
#     scripts/compare-eval.sh VENV [--model FOLDER | --shape smollm2-135m|qwen3-0.6b] [--windows 16] [--batches 1 4] [--rounds 1]
#                             [--work FOLDER]
#
# VENV is a Python environment with transformers: scripts/peer/install.sh FOLDER llmcompressor makes one. Without --model it is random
# weights in the shapes of SmolLM2-135M or Qwen3-0.6B. The time of the workbench is that of the whole node: the digest of the model,
# its loading and the text included; that of transformers begins when all that is done.
set -eu
[ $# -ge 1 ] || { sed -n 2,10p "$0" | cut -c3- >&2; exit 2; }
venv=$1
shift
exec "$venv/bin/python" "$(dirname "$0")/peer/perplexity.py" "$@"
