#!/bin/bash
# torchrun: the distillation on several nodes without a scheduler. Run the same line on every node; they meet at the first.
#
#   bash configs/torchrun.sh 2 node-1 configs/sdxl_jp.yaml            # nodes, the first one's name, any recipe, then overrides
#
# Start it in the clone with its environment activated, alike on every node; models and the run's folder lie where every node sees them.
# Change: GPUS=4 in front uses so many of a node's GPUs (default: all). PORT=... if 29500 is taken on the first node. Where nodes have
# several networks, export NCCL_SOCKET_IFNAME.
#
# How to stop it: send SIGTERM or SIGUSR1 to torchrun on one node. It hands the signal to its processes, which tell all others; training
# saves at its next logged step and ends. The same lines resume, with as many processes. torchrun itself ends with code 1, not 75.

set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: bash configs/torchrun.sh NODES FIRST_NODE RECIPE [section.key=value ...]" >&2
    exit 2
fi
nodes=$1 first=$2
shift 2
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 # seconds to save after a signal; torchrun's own 30 are too few for a checkpoint of full size
exec torchrun --nnodes "$nodes" --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id distill \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m distill.train "$@"
