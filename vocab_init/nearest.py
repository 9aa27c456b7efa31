"""Exact nearest neighbours by cosine similarity.

In and out: tensors; nothing on disk.

Shape letters: Q queries, V candidates, D width, N neighbours.
"""

import torch
from tqdm import tqdm

BLOCK_BYTES = 256 * 2**20


def nearest(
    queries_QD: torch.Tensor,
    candidates_VD: torch.Tensor,
    count: int = 3,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, N) int64 and cosine similarities (Q, N) float32 of the `count` best candidates
    (or of all, if fewer), best first.

    Both inputs hold unit vectors (a zero vector is similar to nothing). Products are summed in
    float64 and compared as float32: equal candidates then tie whatever the block or the number of
    threads, and the lowest index wins. A block of queries takes `block_bytes`, and half as much
    again.
    """
    count = min(count, len(candidates_VD))
    block = max(1, block_bytes // (8 * max(1, len(candidates_VD))))
    candidates_DV = candidates_VD.double().T
    indices_QN = torch.empty(len(queries_QD), count, dtype=torch.int64)
    similarity_QN = torch.empty(len(queries_QD), count, dtype=torch.float32)
    with tqdm(total=len(queries_QD), desc="nearest English tokens", unit="piece") as progress:
        for start in range(0, len(queries_QD), block):
            rows = slice(start, start + block)
            similarity_BV = (queries_QD[rows].double() @ candidates_DV).float()
            for n in range(count):  # topk leaves the order of equals open, argmax takes the first
                best_B1 = similarity_BV.argmax(dim=1, keepdim=True)
                indices_QN[rows, n] = best_B1[:, 0].cpu()
                similarity_QN[rows, n] = similarity_BV.gather(1, best_B1)[:, 0].cpu()
                similarity_BV.scatter_(1, best_B1, -torch.inf)
            progress.update(len(similarity_BV))
    return indices_QN, similarity_QN
