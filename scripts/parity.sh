#!/bin/sh
# Quantizes the same models with llm-compressor and with the workbench on the same tokens, and holds what comes out against each
# other: round-to-nearest code by code, GPTQ by its loss on held-out text. Ends with status 1 if a recipe fails.
#
#     scripts/parity.sh VENV [--model FOLDER] [--calibration FILE --text FILE] [--recipes gptq-w4a16-static ...]
#                       [--dtypes float32 bfloat16] [--samples 128] [--length 255] [--blocks 128] [--repeats 1] [--work FOLDER]
#                       [--program FILE]
#
# VENV is a Python environment with llm-compressor: scripts/peer/install.sh FOLDER llmcompressor makes one. Without --model it
# is the demo model on its own texts. --program defaults to target/release/workbench if it is there, else target/debug/workbench.
set -eu
[ $# -ge 1 ] || { sed -n 2,10p "$0" | cut -c3- >&2; exit 2; }
venv=$1
shift
exec "$venv/bin/python" "$(dirname "$0")/peer/parity.py" "$@"
