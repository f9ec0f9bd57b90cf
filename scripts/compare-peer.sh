#!/bin/sh
# Runs llm-compressor and the workbench in turn on the same checkpoint and the same calibration tokens, and prints the ratios of
# their times and of their largest resident sizes.
#
#     scripts/compare-peer.sh VENV [--model FOLDER | --shape qwen3-0.6b --layers 4] [--samples 128] [--recipes gptq-w4a16 ...]
#                             [--rounds 1] [--work FOLDER] [--alone]
#
# VENV is a Python environment with llm-compressor: scripts/peer/install.sh FOLDER llmcompressor makes one. Without --model it
# is random weights in the shapes of some layers of Qwen3-0.6B or Qwen3-30B-A3B. --alone leaves the peer out. --work on a tmpfs
# measures without a disk.
# Uses target/release/workbench if it is there, else target/debug/workbench, and says which.
set -eu
[ $# -ge 1 ] || { sed -n 2,11p "$0" | cut -c3- >&2; exit 2; }
venv=$1
shift
exec "$venv/bin/python" "$(dirname "$0")/peer/compare.py" "$@"
