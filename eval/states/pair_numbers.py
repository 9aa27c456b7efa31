"""A row compared with the teacher, pair by pair and batch by batch: hidden states are not kept,
only sums and mean vectors.

In:  batches of encodings of the same pairs, the teacher's and the row's; `Moments` of the teacher
     from a pass before.
Out: `PairNumbers` by place, and the metrics of any part of the pairs (a length, a source). Nothing
     on disk.

A place is an encoder and a region, such as ("clip_l", "content"); the pooled vector, where a family
has one, is ("pooled", "pooled"). Positions are compared one to one, over the regions of the English
text. Variances are those over all pairs, also for a part of them.

Shape letters: B batch (pairs), L token position, D width, R rows.
"""

from collections.abc import Iterator

import numpy as np
import torch

from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TokenIds
from distill.objective.distances import floored, region_masks
from eval.states import metrics

Place = tuple[str, str]
POOLED: Place = ("pooled", "pooled")
Metrics = dict[str, dict[str, dict[str, float]]]


def whole_text(family: Family) -> Place:
    """The place whose vector stands for a whole text: the pooled one, or where there is none the
    state at EOS, which CLIP would pool.
    """
    return POOLED if family.pooled else (list(family.parts)[-1], "eos")


def places(
    encoding: Encoding, english: TokenIds
) -> Iterator[tuple[Place, torch.Tensor, torch.Tensor]]:
    """Every place's states (B, L, D) and which positions belong to it (B, L); `english` is the
    English text, whose EOS parts the regions.
    """
    for name, tensor_BLD in encoding.states.items():
        states_BLD = tensor_BLD.float()
        masks = region_masks(english.eos[name].to(states_BLD.device), states_BLD.shape[1])
        yield from (((name, region), states_BLD, mask_BL) for region, mask_BL in masks.items())
    if encoding.pooled_BP is not None:
        pooled_B1P = encoding.pooled_BP.float()[:, None]
        yield (
            POOLED,
            pooled_B1P,
            torch.ones(pooled_B1P.shape[:2], dtype=torch.bool, device=pooled_B1P.device),
        )


class Moments:
    """The teacher's mean and variance per dimension of every place but BOS, which has none; one
    pass, fp64.
    """

    def __init__(self) -> None:
        self._sums: dict[Place, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """To be kept in a file; `of` reads them."""
        found = {}
        for place, (count, sum_D, square_D) in self._sums.items():
            found[f"{_name(place)}|count"] = torch.tensor(count)
            found |= {f"{_name(place)}|sum": sum_D, f"{_name(place)}|square": square_D}
        return found

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> "Moments":
        moments = cls()
        for place, found in _by_place(tensors).items():
            moments._sums[place] = int(found["count"]), found["sum"], found["square"]
        return moments

    def add(self, teacher: Encoding, english: TokenIds) -> None:
        for place, states_BLD, mask_BL in places(teacher, english):
            rows_RD = states_BLD[mask_BL].double().cpu()
            count, sum_D, square_D = self._sums.get(place, (0, torch.zeros(()), torch.zeros(())))
            self._sums[place] = (
                count + len(rows_RD),
                sum_D + rows_RD.sum(dim=0),
                square_D + rows_RD.square().sum(dim=0),
            )

    def mean(self, place: Place) -> torch.Tensor:
        count, sum_D, _ = self._sums[place]
        return (sum_D / max(1, count)).float()

    def variance(self, place: Place) -> torch.Tensor:
        """Of the population, small ones raised as in the losses (`distances.floored`)."""
        count, sum_D, square_D = self._sums[place]
        return floored(
            (square_D / max(1, count) - (sum_D / max(1, count)).square()).clamp_min(0).float()
        )


class PairNumbers:
    """One row at one place: sums over each pair's positions (0 for a pair without any), and each
    pair's mean state.

    Room for all pairs is taken at once: small tensors kept between the large ones of each batch
    would keep the heap from shrinking.
    """

    def __init__(self, pairs: int, width: int) -> None:
        self.positions_B, self.error_B, self.reference_B, self.cosine_B = np.zeros((4, pairs))
        self.vector_BD = torch.zeros(pairs, width)


class RowNumbers:
    """One row at every place. Add the batches, `rank`, then ask for metrics."""

    def __init__(self, moments: Moments, pairs: int) -> None:
        self.moments, self.pairs = moments, pairs
        self.at: dict[Place, PairNumbers] = {}
        self._ranks: dict[Place, tuple[np.ndarray, np.ndarray]] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All but the ranks, to be kept in a file; `of` reads them."""
        return {
            f"{_name(place)}|{name}": torch.as_tensor(value)
            for place, numbers in self.at.items()
            for name, value in vars(numbers).items()
        }

    @classmethod
    def of(cls, moments: Moments, pairs: int, tensors: dict[str, torch.Tensor]) -> "RowNumbers":
        row = cls(moments, pairs)
        for place, found in _by_place(tensors).items():
            vector_BD = found.pop("vector_BD")
            row.at[place] = PairNumbers(pairs, vector_BD.shape[1])
            row.at[place].vector_BD = vector_BD
            for name, values_B in found.items():
                setattr(row.at[place], name, values_B.numpy())
        return row

    @property
    def encoders(self) -> list[str]:
        return [encoder for encoder, region in self.at if region == "content"]

    def add(self, start: int, row: Encoding, teacher: Encoding, english: TokenIds) -> None:
        """A batch of the row's prompts, the first of them number `start`, and of the English texts
        they are translations of.
        """
        for (place, row_BLD, mask_BL), (_, teacher_BLD, _) in zip(
            places(row, english), places(teacher, english), strict=True
        ):
            bos = place[1] == "bos"
            if bos:
                error_BL, reference_BL = (
                    (row_BLD - teacher_BLD).square().sum(dim=-1),
                    teacher_BLD.square().sum(dim=-1),
                )
                cosine_BL = torch.zeros_like(error_BL)
            else:
                mean_D, variance_D = (
                    moment.to(row_BLD.device)
                    for moment in (self.moments.mean(place), self.moments.variance(place))
                )
                error_BL, reference_BL = (
                    ((row_BLD - teacher_BLD).square() / variance_D).mean(dim=-1),
                    torch.ones_like(row_BLD[:, :, 0]),
                )
                cosine_BL = torch.nn.functional.cosine_similarity(
                    row_BLD - mean_D, teacher_BLD - mean_D, dim=-1
                )
            if place not in self.at:
                self.at[place] = PairNumbers(
                    self.pairs, 0 if bos else row_BLD.shape[2]
                )  # BOS is the same for all: there is nothing to keep
            numbers, part = self.at[place], slice(start, start + len(row_BLD))
            numbers.positions_B[part] = mask_BL.sum(dim=1).cpu()
            for sums_B, column_BL in (
                (numbers.error_B, error_BL),
                (numbers.reference_B, reference_BL),
                (numbers.cosine_B, cosine_BL),
            ):
                sums_B[part] = (column_BL.double() * mask_BL).sum(dim=1).cpu()
            if not bos:
                numbers.vector_BD[part] = metrics.region_means(row_BLD, mask_BL).cpu()

    def rank(self, teacher: "RowNumbers") -> None:
        """Ranks each pair's mean vector among those of all pairs, in both directions; `teacher` is
        the teacher's own row.
        """
        for place, numbers in self.at.items():
            present_B = numbers.positions_B > 0
            if place[1] != "bos" and present_B.any():
                mean_D = self.moments.mean(place)
                own, others = (
                    row.at[place].vector_BD[present_B] - mean_D for row in (self, teacher)
                )
                both = np.zeros((2, len(present_B)), dtype=np.int64)
                both[0, present_B], both[1, present_B] = (
                    metrics.ranks(own, others).numpy(),
                    metrics.ranks(others, own).numpy(),
                )
                self._ranks[place] = both[0], both[1]

    def metrics(self, teacher: "RowNumbers", chosen_B: np.ndarray) -> Metrics:
        """`{encoder: {region: {metric: value}}}` over the chosen pairs; a region that none of them
        has is left out.
        """
        found: Metrics = {}
        for place, numbers in self.at.items():
            here_B = chosen_B & (numbers.positions_B > 0)
            if not here_B.any():
                continue
            error = numbers.error_B[here_B].sum() / numbers.reference_B[here_B].sum()
            if place[1] == "bos":
                values = {"relative_squared_error": error}
            else:
                values = {
                    "nmse": error,
                    "centred_cosine": numbers.cosine_B[here_B].sum()
                    / numbers.positions_B[here_B].sum(),
                }
                values |= {name: hit_B[here_B].mean() for name, hit_B in self.hits(place).items()}
                similarity = metrics.linear_cka(
                    numbers.vector_BD[here_B], teacher.at[place].vector_BD[here_B]
                )
                values |= {} if similarity is None else {"linear_cka": similarity}
            found.setdefault(place[0], {})[place[1]] = {
                name: float(value) for name, value in values.items()
            }
        return found

    def hits(self, place: Place) -> dict[str, np.ndarray]:
        """By recall's name: whether each pair is found, 0.0 or 1.0."""
        directions = zip(("text_en", "en_text"), self._ranks[place], strict=True)
        return {
            f"recall_at_{k}_{name}": (ranks_B < k).astype(np.float64)
            for name, ranks_B in directions
            for k in (1, 10)
        }

    def whole_prompt(self) -> torch.Tensor:
        """Mean state after BOS of all encoders, concatenated, over the teacher's standard
        deviation: (B, D of all). Does not change when the states are permuted.
        """
        sides = []
        for name in self.encoders:
            regions = [(name, region) for region in ("content", "eos", "pads")]
            weights = [torch.from_numpy(self.at[place].positions_B)[:, None] for place in regions]
            total_BD = sum(
                weight * self.at[place].vector_BD
                for weight, place in zip(weights, regions, strict=True)
            )
            sides.append(total_BD / sum(weights) / self.moments.variance(regions[0]).sqrt())
        return torch.cat(sides, dim=1)


def _name(place: Place) -> str:
    return "|".join(place)


def _by_place(tensors: dict[str, torch.Tensor]) -> dict[Place, dict[str, torch.Tensor]]:
    """Tensors whose names begin with `_name(place)`, in the order of the places' names."""
    found: dict[Place, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        encoder, region, name = key.split("|")
        found.setdefault((encoder, region), {})[name] = tensor
    return found
