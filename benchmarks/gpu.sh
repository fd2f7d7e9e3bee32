#!/usr/bin/env bash
# All figures of a GPU beside a PyTorch program, as lines of JSON in the folder $OUT (default: benchmarks/out).
#   PEER=path/to/torch_peer.py [PEER_PYTHON=python] [OUT=folder] benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-benchmarks/out}"
PEER_PYTHON="${PEER_PYTHON:-python}"
mkdir -p "$OUT"
compare() { # name, then flags of benchmarks.compare
  local name="$1"; shift
  python -m benchmarks.compare --peer="$PEER" --peer_python="$PEER_PYTHON" --rounds=1 --steps=30 --warmup=5 "$@" | tee "$OUT/$name.json"
}
compare search_float32 --job=search --patch=64
compare train_float32 --job=train --patch=128
compare infer_float32 --job=infer --patch=128
compare search_best --job=search --patch=64 --our_flags=--precision=bfloat16 --peer_flags="--compile --amp --channels_last --tf32"
compare train_best --job=train --patch=128 --our_flags=--precision=bfloat16 --peer_flags="--compile --amp --channels_last --tf32"
compare infer_best --job=infer --patch=128 --our_flags=--precision=bfloat16 --peer_flags="--compile --amp --channels_last --tf32"
python -m benchmarks.step --job=search --variant=paper --precision=tf32 | tee "$OUT/search_paper_tf32.json"
python -m benchmarks.precision --steps=50 | tee "$OUT/precision.json"
