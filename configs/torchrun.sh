#!/bin/bash
# torchrun: the distillation on several nodes without a scheduler. Run the same line on every node; they meet at the first.
#
#   bash configs/torchrun.sh 2 node-1 configs/sdxl_jp.yaml            # nodes, the first one's name, any recipe, then overrides
#
# Start it in the clone with its environment activated, alike on every node; models and the run's folder lie where every node sees them.
# Change: GPUS=4 in front uses so many of a node's GPUs (default: all). PORT=... if 29500 is taken on the first node. Where nodes have
# several networks, export NCCL_SOCKET_IFNAME.
#
# How to stop it: send SIGTERM, SIGHUP, SIGUSR1 or SIGINT to this script on one node (or to torchrun). torchrun hands it
# to its processes, which tell all others; training saves after the step it is at and ends. The same lines resume, with
# any number of processes. This script ends with 75 (130 after SIGINT): torchrun itself would end with 1 whatever its
# processes return, so the run's status.json is asked. A process that hangs ends the training within
# distill.hung_after_seconds. docs/cluster.md has the details.

set -u
if [ "$#" -lt 3 ]; then
    echo "usage: bash configs/torchrun.sh NODES FIRST_NODE RECIPE [section.key=value ...]" >&2
    exit 2
fi
nodes=$1 first=$2
shift 2
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 # seconds to save after a signal; torchrun's own 30 are too few for a checkpoint of full size

# torchrun gets SIGTERM for each of them: in its first seconds it handles none of them, and dies of this one.
asked=0
for name in TERM HUP USR1 INT; do
    trap "asked=\${asked/#0/$name}; kill -TERM \$torchrun" "$name"
done
started=$(date +%s)
torchrun --nnodes "$nodes" --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id distill \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m distill.train "$@" &
torchrun=$!
while wait "$torchrun"; code=$?; kill -0 "$torchrun" 2> /dev/null; do :; done # a signal ends `wait`, not torchrun

if [ "$code" -ne 0 ]; then
    python -m distill.status "$@" --since "$started" >&2
    case $? in 75) code=75 ;; 130) code=130 ;; esac
    if [ "$asked" != 0 ] && [ "$code" -gt 128 ]; then code=75; fi # torchrun died before it had started a process
    if [ "$asked" = INT ] && [ "$code" -eq 75 ]; then code=130; fi
fi
exit "$code"
