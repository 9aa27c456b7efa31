"""The recipe: one YAML file, typed and strict, that holds the settings of every stage.

In:  `configs/<recipe>.yaml` and dotted overrides (`distill.learning_rate=3e-4`).
Out: a frozen `Recipe`. Anything unknown, misspelt, missing or of the wrong type raises one `RecipeError` line
     that names the field, the value and the way out. No torch is imported here.
"""

import difflib
import os
import reprlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from configs import captions, executors, sources, yaml12
from configs.captions import Captions
from configs.distill import Distill
from configs.errors import RecipeError
from configs.executors import Executor, Local
from configs.secrets import masked_tree
from configs.section import Positive, Section, Share
from configs.sources import Source

TOYWORLD_MODELS = Path(__file__).resolve().parent.parent / "corpora" / "toyworld" / "models"

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxdict = _SHORT.maxlist = 6
_SHORT.maxlevel = 3


class LanguageId(Section):
    model: str = Field(description="a fastText model: a path, or toyworld:NAME")
    sha256: str | None = Field(None, description="refuse the model file unless its digest is this one")
    min_probability: Share = Field(
        0.15,
        description="keep a text whose language is the likeliest or at least this probable; 0: all",
    )


class Filters(Section):
    min_characters: Positive = 2
    max_characters: Positive = 1000
    max_length_ratio: float = Field(6.0, gt=1.0, description="longer side over shorter, in UTF-8 bytes")


class NearDuplicates(Section):
    ignored_words: list[str] = Field(
        ["a", "an", "the"], description="English words that make no difference between two pairs"
    )


class ClipTokens(Section):
    tokenizer: str = Field(description="of the SDXL that teaches: a folder, toyworld:base/tokenizer, or ORG/SDXL//tokenizer of the hub")
    most: Positive = Field(77, description="tokens of an English text, both specials among them; SDXL reads 77 and cuts the rest")


class Semantic(Section):
    model: str = Field(description="a multilingual sentence-transformers model: a path, a hub name, or toyworld:NAME")
    prompt: str = Field("", description='put before every text; "query: " for the e5 family')
    min_margin: float = Field(
        0.97,
        gt=0.0,
        description="cosine of the two sides over the mean cosine of their nearest neighbours",
    )
    neighbors: Positive = 4
    batch_size: Positive = 256


class Corpora(Section):
    sources: list[Source] = Field(min_length=1)
    language_id: LanguageId
    filters: Filters = Filters()
    clip_tokens: ClipTokens | None = Field(None, description="drop pairs whose English SDXL would cut; halves the rows a second")
    semantic: Semantic | None = Field(None, description="drop pairs whose sides do not say the same; a GPU's work for large corpora")
    near_duplicates: NearDuplicates | None = NearDuplicates()
    held_out_pairs: int = Field(0, ge=0, description="rows kept apart from file sources, chosen by a hash of the text")
    shard_rows: Positive = 100_000
    workers: Positive = Field(1, description="pieces of the work done at once, on this machine or on the cluster")
    executor: Executor = Local()


class VocabInit(Section):
    tokenizer: str = Field(description="a SentencePiece unigram model: a path, or toyworld:NAME")
    sentence_encoder: str = Field(description="a sentence-transformers model: a path, a hub name, or toyworld:NAME")
    prompt: str = Field("", description='put before every piece; "query: " for the e5 family')
    batch_size: Positive = 256
    pad_vocab_to_multiple_of: Positive = 1


class Export(Section):
    encoders_only: bool = False
    variants: list[Literal["fp16", "bf16"]] = Field([], description="half-precision weights written beside the fp32 ones")
    license: str = Field("openrail++", description="the hub's name of the licence in the model card; SDXL's own by default")


class Eval(Section):
    pairs: Positive = Field(256, description="held-out pairs compared")
    timesteps: Positive = Field(4, description="timesteps at which the noise-prediction gap is measured")
    gap_pairs: Positive = Field(64, description="pairs the noise-prediction gap is measured on")
    prompts: Positive = Field(200, description="held-out prompts painted")
    inference_steps: Positive = 50
    denoising_end: float = Field(0.8, gt=0.0, le=1.0, description="where the refiner takes over; 1 leaves it out")
    guidance_scale: float = Field(5.0, ge=0.0)
    batch_size: Positive = 16
    seed: int = 0
    translator: str | None = Field(None, description="a Japanese-to-English model to compete with, as captions.translator takes one")
    repositories: dict[str, str] = Field({}, description="by a name of your own: other Japanese SDXLs (folder or hub name) to compare with")
    unets: dict[str, str] = Field({}, description="by a name of your own: SDXLs (base or refiner) whose UNets no student saw, for eval.transfer")
    clip_model: str | None = Field(None, description="a CLIP or SigLIP, path or hub name: do pictures fit the English caption, and one another?")
    dino_model: str | None = Field(None, description="a DINOv2, path or hub name: do two pictures show the same?")
    lpips_model: str | None = Field(None, description="torchvision's AlexNet weights, a file: LPIPS, the distance people see between two pictures")


class Recipe(Section):
    name: str
    run: str = Field(description="the folder every stage writes below")
    captions: Captions | None = Field(None, description="captions of pictures that have no English yet; corpora.captions makes pairs of them")
    corpora: Corpora
    vocab_init: VocabInit
    distill: Distill
    export: Export = Export()
    eval: Eval = Eval()

    @property
    def run_dir(self) -> Path:
        return Path(self.run)

    @model_validator(mode="after")
    def _steps_agree(self) -> "Recipe":
        if self.distill.warmup_steps >= self.distill.steps:
            raise ValueError(f"distill.warmup_steps ({self.distill.warmup_steps}) must be below distill.steps ({self.distill.steps})")
        return self


def resolve_model(reference: str) -> str:
    """`toyworld:NAME` becomes the path of a model that ships with the project; anything else is returned as it is."""
    if reference.startswith("toyworld:"):
        return str(TOYWORLD_MODELS / reference.removeprefix("toyworld:"))
    return reference


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies `section.key=value` overrides. Raises RecipeError."""
    path = Path(os.path.expanduser(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: the recipe cannot be read ({error}); give the path of a YAML file such as configs/toyworld.yaml") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, this file holds {type(tree).__name__}; start from configs/toyworld.yaml")
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, for a file: `load` of it gives an equal recipe but for secrets, which are masked."""
    return yaml12.write(masked_tree(recipe.model_dump(mode="json")))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml12.read(text)
    except ValueError as error:
        raise RecipeError(f"{where}: not valid YAML{error}; correct that line") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {override!r}: write it as section.key=value, for example distill.steps=100")
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, key)
        if node is None:
            raise RecipeError(f"override {override!r}: the recipe has nothing at {name!r}; write the whole section in the recipe first")
    parsed = _parse(value, f"override {override!r}")
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        above = ".".join(parents)
        raise RecipeError(f"override {override!r}: {above} holds a single value, it has no key {last!r}; override {above} itself")


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    if isinstance(node, dict):
        return node.setdefault(name, {})
    raise RecipeError(f"override {key!r}: {name!r} lies below a single value; see the recipe for the keys there are")


def _index(node: list[Any], name: str, key: str) -> int:
    if name not in map(str, range(len(node))):
        raise RecipeError(f"override {key!r}: {name!r} is not one of the {len(node)} entries there; count them from 0")
    return int(name)


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints as `field: what, value; way out`."""
    first = error.errors()[0]
    # a union puts the kind it tried in the path (sources.0.tsv.path, sources.0.tsv.ja.str): the user wrote no such key
    location = [_cut(str(part)) for part in first["loc"]]
    kinds = _kinds(first["loc"])
    if location[:2] == ["corpora", "sources"]:
        location = location[:3] + location[4:5]
    if location[:2] in (["corpora", "executor"], ["captions", "images"]):
        location = location[:2] + location[3:5]
    if location[:2] == ["distill", "objective"]:  # a number or a ramp: likewise
        location = location[:3]
    field = ".".join(location) or "recipe"
    value = _short(first.get("input"))
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such key (its value is {value}); {_nearest(first['loc'])}{more}"
    if first["type"].startswith("union_tag"):
        kind = first["ctx"].get("tag")
        close = difflib.get_close_matches(str(kind), kinds, n=1)
        way_out = f"did you mean {close[0]!r}?" if close else f"the kinds are {', '.join(kinds)}"
        return f"{field}.kind: {'missing' if kind is None else f'there is no kind {_short(kind)}'}; {way_out}{more}"
    if first["type"] == "missing":
        return f"{field}: missing, and it has no default; add it{more}"
    if first["type"] == "value_error":
        return f"{first['msg'].removeprefix('Value error, ')}; change one of them{more}"
    return f"{field}: {first['msg']}, not {value}; correct the value{more}"


def _kinds(location: tuple[int | str, ...]) -> dict[str, type[Section]]:
    """The sections that `kind` chooses from at this place of a recipe."""
    kinds = {"corpora.sources": sources.KINDS, "corpora.executor": executors.KINDS, "captions.images": captions.IMAGE_KINDS}
    return kinds.get(".".join(map(str, location[:2])), {})


def _short(value: Any) -> str:
    """At most 60 characters; of long texts and large values only the beginning is looked at."""
    return _cut(_SHORT.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(location: tuple[int | str, ...]) -> str:
    """What the user may have meant by an unknown key: the closest name among the keys of that section."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        if part in _kinds(location):
            model = _kinds(location)[str(part)]
        elif isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            options = [annotation, *getattr(annotation, "__args__", ())]
            found = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
            model = found[0] if found else model
    names = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(names)}"
