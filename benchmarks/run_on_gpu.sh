#!/usr/bin/env bash
# Everything that needs a GPU: compiles the CUDA kernels, tests them, looks for memory errors and races, times them
# and training steps of RetinaNet with BATCH images (16; fewer where memory ends). Takes a Python environment with a
# CUDA PyTorch, torchvision and the dev packages, and nvcc.
#
#   PYTHON=python3 BATCH=16 benchmarks/run_on_gpu.sh [folder for the results, default benchmarks/results]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python}
results=${1:-benchmarks/results}
mkdir -p "$results"
gpu=$("$PYTHON" - <<'NAME'
import re, torch
print(re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name()).lower())
NAME
)
date=$(date -u +%F)

FORCE_CUDA=1 "$PYTHON" setup.py build_ext --inplace
export PYTHONPATH=$PWD
"$PYTHON" -m labelenc.ops
"$PYTHON" -m pytest -q tests/gpu tests/ops

# Slow under the sanitizer, so a few of the tests only; a PyTorch wheel brings no sanitizer, a toolkit does.
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  few="(same_as_the_cpu_kernel or layouts_and_offsets or roi_align or deform_conv) and not 16384 and not 40000"
  for tool in memcheck racecheck; do
    # PyTorch probes for features with calls that may fail: only kernels count.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --report-api-errors no --error-exitcode 1 \
      "$PYTHON" -m pytest -q -x tests/gpu -k "$few"
  done
else
  echo "compute-sanitizer not found: memory errors and races were not looked for" >&2
fi

for dtype in float32 bfloat16; do
  "$PYTHON" benchmarks/ops.py --device cuda --dtype "$dtype" --repeats 15 --output "$results/${date}_ops_${gpu}_$dtype.json"
done

# As the public records are measured; compiled or not, only our side changes.
for compiled in False True; do
  "$PYTHON" benchmarks/train_step.py --device cuda --dtype bfloat16 --detectors retinanet --size 800x1333 \
    --batch "${BATCH:-16}" --warmup 5 --steps 5 --repeats 10 --opts SOLVER.COMPILE "$compiled" \
    --output "$results/${date}_train_step_${gpu}_compile_$compiled.json"
done
