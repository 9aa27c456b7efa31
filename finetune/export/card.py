"""The cards (`README.md`) of what a stage of finetuning exports: what it is, what it was made from,
whose data.

In:  a `TrainedStage` stage, `<run>/pictures/manifest.json`, the exported folder.
Out: `README.md`.
"""

from pathlib import Path

from configs import artefact
from configs.files import file_sha256, whole
from configs.languages import JAPANESE
from configs.references import looks_like_hub_name
from configs.schema import yaml12
from distill.model_card.front_matter import LICENSE_LINKS, TAGS
from distill.model_card.model_card import SPECIAL, public
from distill.run import run_folder
from distill.sdxl.repository import INDEX, read_index
from finetune.export.trained import TrainedStage
from finetune.pictures import store

NEXT = "\n\n"
THE_PICTURES = "the pictures"  # as the stage's record calls them
STARTS = {
    "export": "the distilled student",
    "initial_student": "the student before any training",
    "random": "random weights",
}


def write_pipeline(folder: Path, found: TrainedStage) -> None:
    """Of a whole pipeline."""
    language = found.recipe.text_language.name
    pipeline = read_index(folder)["_class_name"]
    japanese = (
        f"{_base(found)} を、キャプション付きの画像で学習した、日本語のプロンプト用のものです。\n"
        f"改造していない diffusers の `{pipeline}` が読み込み、"
        "日本語のプロンプトがそのまま使えます。"
    )
    snippet = f"""\
```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("ORG/NAME")  # or this folder
pipeline("{found.recipe.text_language.verification_prompts[0]}").images[0].save("picture.png")
```
"""
    text = f"""\
# {_plain(found.recipe.name)}: {language} text to picture

{_in_japanese(found, japanese)}\
{_base(found)} for {language} prompts, learnt from captioned pictures.

{_in_japanese(found, f"## 使い方{NEXT}{snippet}")}\
## How to use it

{snippet}
{_training(found)}
{_licence(folder, found)}
{_checker(folder)}
{_limits(found)}
`verification.json` holds every file's SHA-256; `python -m distill.verify` compares them, and what
the installed libraries give, with it.
"""
    _put(folder, _front(found, []) + text)


def _in_japanese(found: TrainedStage, text: str) -> str:
    """A paragraph for readers of Japanese, where that is the language of the prompts."""
    return f"{text.rstrip()}{NEXT}" if found.recipe.text_language == JAPANESE else ""


def _limits(found: TrainedStage) -> str:
    """What the pipeline cannot do, as `distill.model_card` lists it of what was distilled."""
    title, language = found.family.title, found.recipe.text_language.name
    japanese = [
        "一度に読めるのは BOS と EOS を含めて 77 トークンまでで、その先は捨てられます。",
        "トークナイザーは `AutoTokenizer` か `PreTrainedTokenizerFast` で読み込んでください"
        "(パイプラインはそうします)。`CLIPTokenizer` では読めません。",
        f"学習した画像とキャプションの偏りと、元の {title} の偏りを受け継ぎます。",
    ]
    english = [
        "One window of 77 tokens, BOS and EOS among them, is read; what goes beyond is cut off.",
        "The tokenizers load with `AutoTokenizer` or `PreTrainedTokenizerFast`, as the pipeline "
        "does it. `CLIPTokenizer` cannot read them.",
        f"The biases of the pictures, of their captions and of {title} itself are in it.",
    ]
    if not found.changes_unet:
        japanese.insert(
            0,
            "UNet は元のままです。UNet が見たことのないもの、たとえば日本の人物、場所、文化は描ける"
            "ようになりません。",
        )
        english.insert(
            0,
            f"The UNet is the base's: what it never saw, such as {language} faces, places and "
            "culture, it still cannot paint.",
        )
    lists = ["\n".join(f"- {line}" for line in lines) for lines in (japanese, english)]
    heading = f"## できないこと{NEXT}{lists[0]}"
    return f"{_in_japanese(found, heading)}## What it cannot do{NEXT}{lists[1]}\n"


def write_lora(folder: Path, found: TrainedStage, files: dict[str, str], trains_text: bool) -> None:
    """Of LoRA files, by format."""
    assert found.stage.lora is not None
    parts = "text encoders and UNet" if trains_text else "UNet"
    named = "\n".join(f"- `{name}`: in the format of {form}" for form, name in files.items())
    language, lora = found.recipe.text_language.name, found.stage.lora
    of = "テキストエンコーダーと UNet" if trains_text else "UNet"
    japanese = (
        f"{_base(found)} の{of}を変える、ランク {lora.rank}、alpha {lora.effective_alpha} の LoRA "
        "です。\n**`encoders/` のテキストエンコーダーとトークナイザーとだけ使えます。**\n"
        "語彙が違うので、トークナイザーを自分で持っているプログラムでは使えません。"
    )
    text = f"""\
# {_plain(found.recipe.name)}: a LoRA for {language} text to picture

{_in_japanese(found, japanese)}\
Changes of the {parts} of {_base(found)}, of rank {lora.rank} and alpha {lora.effective_alpha}.

{named}

**It belongs to the text encoders and tokenizers in `encoders/` only.** Their vocabulary is
{language}; with other ones the file is without meaning, and a program that brings a tokenizer of
its own cannot use it.

{_lora_use(found, next(iter(files.values())), trains_text)}
{_training(found)}
{_licence(folder, found)}"""
    _put(folder, _front(found, ["lora"]) + text)


def _lora_use(found: TrainedStage, file: str, trains_text: bool) -> str:
    """How the file is loaded: the changes of text encoders must not be added twice."""
    pipeline, parts = found.family.pipelines[0], found.family.parts.values()
    classes = [*sorted({part.class_name for part in parts}), "PreTrainedTokenizerFast"]
    modules = "".join(
        f'    {name}={kind}.from_pretrained(HERE, subfolder="encoders/{name}"),\n'
        for part in parts
        for name, kind in ((part.tokenizer, classes[-1]), (part.subfolder, part.class_name))
    )
    load = f'pipeline.load_lora_weights(HERE, weight_name="{file}")'
    if trains_text:
        load = f"""\
# the text encoders have their changes already: only the UNet's are loaded
state, alphas, metadata = pipeline.lora_state_dict(
    HERE, weight_name="{file}", return_lora_metadata=True
)
state = {{name: value for name, value in state.items() if name.startswith("unet.")}}
pipeline.load_lora_into_unet(state, alphas, pipeline.unet, metadata=metadata)"""
    text = f"""\
```python
from diffusers import {pipeline}
from transformers import {", ".join(classes)}

HERE = "."  # this folder
BASE = "{_loaded(found)}"
pipeline = {pipeline}.from_pretrained(BASE)
pipeline.register_modules(
{modules})
{load}
```
"""
    if trains_text:
        text += f"""
`pipeline.load_lora_weights` adds both, and is right for a pipeline with the text encoders that the
stage started from ({_start(found)}).
"""
    return text


def _front(found: TrainedStage, tags: list[str]) -> str:
    """The YAML head, as the Hub reads it."""
    recipe = found.recipe
    link, source = LICENSE_LINKS.get(recipe.export.license), found.made_from["teacher"]
    head = {
        "language": [recipe.language],
        "license": recipe.export.license,
        **({"license_link": link} if link else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **({"base_model": source} if looks_like_hub_name(source) else {}),
        "tags": [found.family.tag, recipe.text_language.name.lower(), TAGS[-1], *tags],
    }
    return f"---\n{yaml12.write(head).rstrip()}\n---\n\n"


def _source(found: TrainedStage) -> str:
    return public(found.recipe.distill.base)


def _loaded(found: TrainedStage) -> str:
    """The base as `from_pretrained` takes it, without this machine's folders."""
    return found.made_from["teacher"].replace("toyworld:", "corpora/toyworld/models/")


def _base(found: TrainedStage) -> str:
    return f"{found.family.title} ({_plain(_source(found))})"


def _start(found: TrainedStage) -> str:
    """Whose weights the stage began with."""
    assert found.recipe.finetune is not None
    names = list(found.recipe.finetune.stages)
    place = names.index(found.name)
    return f"stage {names[place - 1]}" if place else STARTS[found.recipe.finetune.start]


def _training(found: TrainedStage) -> str:
    stage = found.stage
    how = f", by LoRA of rank {stage.lora.rank}" if stage.lora else ""
    what = " and ".join(one.replace("_", "-") for one in stage.trains)
    average = ", the running average of the weights" if stage.ema_decay else ""
    return f"""\
## Training

| | |
|---|---|
| base | {_plain(_source(found))} |
| stage | {found.name}, from {_start(found)} |
| trained in it | {what}{how} |
| steps | {int(found.checkpoint.name.removeprefix("step_")):,} of {stage.steps:,}{average} |
| batch size | {stage.batch_size:,} pictures |
| learning rate | {stage.learning_rate:g} |
| checkpoint's manifest, SHA-256 | {found.made_from["manifest_sha256"]} |

{_sources(found)}"""


def _sources(found: TrainedStage) -> str:
    """The data, as the pictures' own manifest counts them."""
    folder = found.recipe.run_dir / store.FOLDER
    path = folder / artefact.MANIFEST
    recorded = run_folder.recorded_inputs(found.folder).get(THE_PICTURES)
    if not path.is_file() or recorded != file_sha256(path):
        return "The pictures it learnt from are not there any more, so that none are counted here."
    details = store.details(artefact.ArtefactManifest.read(path, store.WAY_OUT), folder)
    rows = "\n".join(
        f"| {_plain(one.label)} | {_plain(one.licence or 'not stated')} | {one.pictures:,} "
        f"| {one.captions:,} |"
        for one in details.sources
    )
    held = details.pictures.get("held_out", 0)
    return f"""\
| pictures | licence | pictures kept | captions |
|---|---|---|---|
{rows}

{held:,} of them were held out and never trained on.
"""


def _licence(folder: Path, found: TrainedStage) -> str:
    files = ", ".join(f"`{path.name}`" for path in sorted(folder.glob("LICENSE*")))
    where = f"; its text: {files}" if files else ""
    licence = _plain(found.recipe.export.license)
    return f"""\
## Licence

{licence}, the licence of the base{where}. What the licences of the pictures ask for holds too.
"""


def _checker(folder: Path) -> str:
    """Whether the base's own safety checker is in the folder."""
    if (folder / INDEX).is_file() and read_index(folder).get("safety_checker", [None])[0]:
        return "The base's safety checker was kept unchanged: what it flags comes out black.\n"
    return "The base has no safety checker, so there is none here.\n"


def _plain(text: str) -> str:
    """Text in Markdown, whatever characters it has."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.splitlines()))


def _put(folder: Path, text: str) -> None:
    """An unchanged card keeps its time."""
    path = folder / "README.md"
    content = text.encode()
    if not path.is_file() or path.read_bytes() != content:  # a damaged one need not be text
        with whole(path) as temporary:
            temporary.write_bytes(content)
