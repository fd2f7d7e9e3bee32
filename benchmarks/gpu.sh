#!/usr/bin/env bash
# Figures of a GPU beside a PyTorch program, a line of JSON each, appended to $OUT/gpu.jsonl as soon as it is there.
#   PEER=path/to/torch_peer.py [PEER_PYTHON=python] [OUT=folder] [JOBS="search train infer"] benchmarks/gpu.sh
# Programs are compiled first, all at the same time, into a cache; then each is timed alone. Compiling takes minutes: the
# search step's took more than 3 beside 16 other programs on 16 cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-benchmarks/out}"
PEER_PYTHON="${PEER_PYTHON:-python}"
mkdir -p "$OUT"
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR="$OUT/cache" TORCHINDUCTOR_CACHE_DIR="$OUT/cache"
size() { [[ $1 == search ]] && echo 64 || echo 128; }
ours() { # job, precision, more flags
  python -m benchmarks.step --cache --job="$1" --patch="$(size "$1")" --precision="$2" "${@:3}"
}
peer() { # job, more flags
  "$PEER_PYTHON" "$PEER" --job "$1" --patch "$(size "$1")" "${@:2}"
}
BEST="--compile --amp --channels_last --tf32"
for job in ${JOBS:-search train infer}; do
  for precision in float32 bfloat16; do ours "$job" "$precision" --steps=1 --warmup=0 >/dev/null & done
  # shellcheck disable=SC2086
  [[ -z "${PEER:-}" ]] || peer "$job" $BEST --steps 1 --warmup 1 >/dev/null &
done
wait
for job in ${JOBS:-search train infer}; do
  ours "$job" float32 --steps=20 --profile | tee -a "$OUT/gpu.jsonl"
  [[ -z "${PEER:-}" ]] || peer "$job" --steps 15 | tee -a "$OUT/gpu.jsonl"
  ours "$job" bfloat16 --steps=20 --profile | tee -a "$OUT/gpu.jsonl"
  # shellcheck disable=SC2086
  [[ -z "${PEER:-}" ]] || peer "$job" $BEST --steps 15 | tee -a "$OUT/gpu.jsonl"
done
python -m benchmarks.convolutions | tee -a "$OUT/convolutions.tsv"
