#!/usr/bin/env bash
# Trains compact-distilled for some minutes on a machine with a GPU, torch and no network.
#
#   benchmarks/gpu.sh PACK OUT [MINUTES] [--cpu] [options of gpu.py train]
#
# PACK is what `python benchmarks/gpu.py pack` made. OUT gets weights every two minutes, losses.csv,
# report.json and log.txt; whenever this is killed, what lies there is whole. MINUTES (9) count from now.
set -euo pipefail
began=$EPOCHREALTIME
. "$(dirname "${BASH_SOURCE[0]}")/bare.sh"
[ $# -ge 2 ] || { echo "expected PACK OUT [MINUTES], found $# arguments: name two folders" >&2; exit 2; }
pack=$1 out=$2
shift 2
minutes=9
case ${1:-} in [0-9]* | .[0-9]*) minutes=$1 && shift ;; esac
case " $* " in *" --cpu "*) export CUDA_VISIBLE_DEVICES= ;; esac
ready "$pack" torch numpy PIL safetensors imagecodecs tifffile accelerate filelock tensorboard
mkdir -p "$out"
# The signal lets the run end its step; what is planned ends before it comes.
timeout --signal=TERM --kill-after=10 "${minutes}m" \
  "$PYTHON" "$ROOT/benchmarks/gpu.py" train --pack "$pack" --out "$out" --minutes "$minutes" \
  --began "$began" "$@" 2>&1 | tee "$out/log.txt"
