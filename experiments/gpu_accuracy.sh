#!/usr/bin/env bash
# About ten minutes of one GPU with 16 CPU cores: every result of this project that needs one, side by side.
#
#     HYPERSIGN_DATA=... experiments/gpu_accuracy.sh [SECONDS] [FOLDER] [RESULTS]
#
# Networks of published size train as far as the budget goes (gpu_accuracy.py). Beside them run the comparison of the
# methods (methods.py), float twins with three seeds (twins.py), and the networks with the layers in float that a
# forecast names (forecast_training.py). Runs and logs go to FOLDER (runs/gpu), JSON files to RESULTS (docs/results).
# JOBS names another list of jobs. Where NVIDIA's multi-process service is installed, small networks share the GPU with
# large ones.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600} folder=${2:-runs/gpu} results=${3:-docs/results}
export OMP_NUM_THREADS=1 PYTHON=${PYTHON:-python3}
mkdir -p "$folder/twins" "$results"

if command -v nvidia-cuda-mps-control > /dev/null; then
    export CUDA_MPS_PIPE_DIRECTORY=${CUDA_MPS_PIPE_DIRECTORY:-/tmp/hypersign-mps}
    export CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"
    nvidia-cuda-mps-control -d && trap 'echo quit | nvidia-cuda-mps-control' EXIT
fi
for name in digits mnist fashion-mnist cifar10-quarter; do
    [ -e "$folder/twins/$name" ] || cp -r "src/hypersign/pretrained/networks/$name" "$folder/twins/$name"
done

jobs=${JOBS:-$folder/jobs.txt}
accuracy="env CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50 $PYTHON experiments/gpu_accuracy.py --seconds {left} --folder $folder --results $results"
low="nice -n 2"
methods="$low $PYTHON experiments/methods.py --device cuda --cells $results/methods --folder $folder/methods"
twins="$low $PYTHON experiments/twins.py --device cuda"
forecast="$low $PYTHON experiments/forecast_training.py --device cuda --folder $folder/forecast"
first="bnn xnor ls-1 ls-2 ls-t greedy adabin ir-net recu siman rbnn hadanets distribution-aware biper"
second="reste reactnet bitnet paretoq bit bop bop-second-order proxquant parq binary-relax askew-sgd ovsw lab mpt"
[ -n "${JOBS:-}" ] || {
    echo "vgg-small: $accuracy vgg-small"
    echo "resnet20: $accuracy resnet20"
    echo "vgg: $accuracy vgg --most 80"
    for seed in 0 1 2; do
        echo "methods-1-$seed: $methods --only $seed --methods $first; touch $folder/methods-1-$seed.done"
        echo "methods-2-$seed: $methods --only $seed --methods $second; touch $folder/methods-2-$seed.done"
    done
    for seed in 0 1 2; do echo "cifar10-quarter-$seed: $twins $folder/twins/cifar10-quarter --only $seed"; done
    if [ ! -e "$folder/forecast/vgg/alone.json" ]; then
        echo "forecast: $PYTHON experiments/forecast.py --networks vgg --folder $folder/forecast"
    fi
    for seed in 0 1 2; do echo "forecast-$seed: $forecast --only $seed"; done
    wait="while [ \$(ls $folder/methods-*.done | wc -l) -lt 6 ]; do sleep 1; done"
    for seed in 0 1 2; do
        echo "methods-resnet20-1-$seed: $wait; $methods --only $seed --network resnet20 --best 1 3"
        echo "methods-resnet20-2-$seed: $wait; $methods --only $seed --network resnet20 --best 4 6"
    done
    for name in digits mnist fashion-mnist; do
        for seed in 0 1 2; do echo "$name-$seed: $twins $folder/twins/$name --only $seed"; done
    done
    echo "resnet18: $accuracy resnet18"
} > "$jobs"
$PYTHON experiments/parallel_jobs.py "$jobs" --slots "${SLOTS:-18}" --seconds "$seconds" --logs "$folder/logs"

# What is finished becomes JSON files; what is not is left for another call.
finish="timeout 30"
$finish $methods --epochs 0 --json "$results/methods.json" &
$finish $methods --epochs 0 --network resnet20 --json "$results/methods-resnet20.json" &
$finish $forecast --json "$results/forecast-training.json" &
for name in cifar10-quarter digits mnist fashion-mnist; do
    $finish $twins "$folder/twins/$name" --json "$results/twins-$name.json" &
done
wait
