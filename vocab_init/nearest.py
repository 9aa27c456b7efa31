"""Exact nearest neighbours by cosine similarity.

In and out: tensors; nothing on disk.

Shape letters: Q queries, V candidates, D width, N neighbours.
"""

import torch
from tqdm import tqdm

BLOCK_BYTES = 128 * 2**20


def nearest(
    queries_QD: torch.Tensor,
    candidates_VD: torch.Tensor,
    count: int = 3,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, N) int64 and cosine similarities (Q, N) float32 of the `count` best candidates
    (or of all, if fewer), best first.

    Both inputs hold unit vectors (or zero vectors, whose similarity is 0). Products are summed in
    float64 and compared as float32, so that equal candidates tie for any block size and number of
    threads; the lowest index wins. A block of queries takes 1.5 times `block_bytes` of memory.
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
            for n in range(count):  # argmax takes the first of equals; topk may not
                best_B1 = similarity_BV.argmax(dim=1, keepdim=True)
                indices_QN[rows, n] = best_B1[:, 0].cpu()
                similarity_QN[rows, n] = similarity_BV.gather(1, best_B1)[:, 0].cpu()
                similarity_BV.scatter_(1, best_B1, -torch.inf)
            progress.update(len(similarity_BV))
    return indices_QN, similarity_QN
