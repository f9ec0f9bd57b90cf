#!/usr/bin/env bash
# Makes a Python environment with transformers and compressed-tensors, in which the models that the workbench writes are
# opened (about 6 GB, most of it torch).
#
# Usage: scripts/peer/install.sh FOLDER [llmcompressor]
#        WORKBENCH_PEER_PYTHON=FOLDER/bin/python cargo test --test tests peer
#
# With `llmcompressor`, models that llm-compressor writes are opened here as well. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL
# choose where packages come from, for example https://download.pytorch.org/whl/cpu for a torch without CUDA.
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,10p "$0" | cut -c3- >&2; exit 2; }
folder=$1
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
packages=(torch==2.14.0 transformers==5.17.0 compressed-tensors==0.19.0 safetensors==0.8.0 tokenizers==0.23.3 numpy==2.4.6
    accelerate==1.15.0)
case ${2:-} in
'') ;;
llmcompressor) packages+=(llmcompressor==0.14.0.1) ;;
*) echo "unknown group $2" >&2; exit 2 ;;
esac
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
"$folder/bin/python" -c 'import torch, transformers, compressed_tensors as c; print(torch.__version__, transformers.__version__, c.__version__)'
