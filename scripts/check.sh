#!/usr/bin/env bash
# Formatting, lints, documentation, a build of the host and every plugin, and all tests. Nothing is checked anywhere else
# that is not checked here.
#
# Usage: scripts/check.sh [build|test|lint]...      (default: all)
set -euo pipefail
cd "$(dirname "$0")/.."

# `cargo test` does not build the dynamic libraries of other packages, so the build comes first.
build() { cargo build --workspace --locked; }
test() { build && cargo test --workspace --locked; }
lint() {
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
}

for step in "${@:-lint}"; do "$step"; done
[ $# -gt 0 ] || test
