"""The model card: its snippets run, its numbers are those of the run, and nothing of this machine
stands in it.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint, write_pairs, write_run_record
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file

from configs.files import file_sha256
from configs.records import with_sha256
from configs.references import TOYWORLD_MODELS
from configs.schema import yaml12
from configs.schema.load import dump_recipe, load_recipe
from corpora import pair
from corpora.toyworld import captions
from distill.export import __main__ as export_entry
from distill.export import push
from distill.model_card import __main__ as model_card_entry
from distill.model_card import model_card
from distill.model_card.evaluation import PaintedExample, Pictures
from distill.tokenizer import portable
from eval import card as card_tables
from eval import rows
from eval.compare_hidden_states import __main__ as compare_hidden_states_entry
from eval.generate import __main__ as generate_entry

ROOT = Path(__file__).resolve().parents[2]
HUB_NAME = "stabilityai/stable-diffusion-xl-base-1.0"
PIPELINES = ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
HOMES = str(Path("/", "home"))
DROPPED = {"too_long": 1234, "wrong_language": 5}


class Run:
    """A run whose every path is absolute; `before` holds the cards the export wrote, by folder."""

    def __init__(self, tiny_sdxl: Path, place: Path) -> None:
        self.place, self.folder, self.path = place, place / "run", place / "recipe.yaml"
        tree = yaml12.read((ROOT / "configs" / "toyworld.yaml").read_text(encoding="utf-8"))
        web = {
            "kind": "tsv",
            "name": "web|captions",
            "path": str(place / "pairs.tsv"),
            "licence": "CC BY-SA 4.0",
        }
        tree["run"] = str(self.folder)
        tree["corpora"]["sources"].append(web)
        tree["vocab_init"] |= {
            "tokenizer": str(TOYWORLD_MODELS / "spiece.model"),
            "sentence_encoder": str(place / "models" / "encoder"),
        }
        tree["distill"] |= {"base": str(tiny_sdxl / "base"), "refiner": str(tiny_sdxl / "refiner")}
        tree["export"] |= {"license": "openrail++"}
        tree["eval"] |= {
            "pairs": 8,
            "timesteps": 2,
            "gap_pairs": 4,
            "prompts": 3,
            "inference_steps": 4,
            "denoising_end": 0.5,
            "batch_size": 4,
        }
        self.path.write_text(yaml12.write(tree), encoding="utf-8")

        vocabulary = portable.build(
            TOYWORLD_MODELS / "spiece.model", self.folder / "initial_student" / "tokenizer"
        )
        tensors = write_checkpoint(self.folder, tiny_sdxl / "base", len(vocabulary), step=500)
        embeddings = {
            name: tensors[f"{name}.text_model.embeddings.token_embedding.weight"]
            for name in ("clip_l", "clip_bigg")
        }
        save_file(embeddings, self.folder / "initial_student" / "token_embeddings.safetensors")
        write_run_record(self.folder)
        write_pairs(
            self.folder / "pairs",
            [(caption.text, caption.en) for caption in captions.pairs(8, "held_out", 0)],
        )
        manifest = pair.read_manifest(self.folder / "pairs")
        stage = pair.StageCounts(
            name="filters", rows_in=8 + sum(DROPPED.values()), dropped=DROPPED, rows_out=8
        )
        pair.write_manifest(self.folder / "pairs", manifest.model_copy(update={"stages": [stage]}))

        assert export_entry.main([str(self.path)]) == 0
        self.before = {
            path.parent.name: path.read_text(encoding="utf-8")
            for path in self.exported("README.md")
        }
        assert (
            compare_hidden_states_entry.main([str(self.path)])
            == generate_entry.main([str(self.path)])
            == model_card_entry.main([str(self.path)])
            == 0
        )

    def exported(self, name: str) -> list[Path]:
        return sorted((self.folder / "export").glob(f"*/{name}"))

    def copy(self, place: Path) -> "Run":
        """The same in a folder that a test may change."""
        shutil.copytree(self.folder, place / "run")
        clone = object.__new__(Run)
        clone.place, clone.folder, clone.path, clone.before = (
            place,
            place / "run",
            place / "recipe.yaml",
            self.before,
        )
        clone.path.write_text(
            self.path.read_text(encoding="utf-8").replace(str(self.folder), str(clone.folder)),
            encoding="utf-8",
        )
        return clone

    def card(
        self, folder: str, *overrides: str, repository: str | None = None, **made_from: str
    ) -> str:
        """The card of an exported folder as it would be with these changes."""
        recipe, path = load_recipe(self.path, list(overrides)), self.folder / "export" / folder
        made_from = (
            json.loads((path / "verification.json").read_text(encoding="utf-8"))["made_from"]
            | made_from
        )
        return model_card.render(
            path, recipe, made_from, model_card.measured_pictures(recipe, made_from), repository
        )

    def result(self, name: str) -> dict:
        return json.loads((self.folder / "eval" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tiny_sdxl, tmp_path_factory.mktemp("card"))


def snippets(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)


def table(card: str, first_heading: str) -> dict[str, list[str]]:
    """The rows of the one table whose second column is called so, by their first cell."""
    lines = card.split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith(f"| | {first_heading} |")]
    assert len(starts) == 1 and re.fullmatch(r"[|-]+", lines[starts[0] + 1])
    rows = {}
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = line.strip("| ").split(" | ")
        rows[name] = cells
    return rows


@pytest.mark.parametrize("kind", ["base", "refiner", "encoders", *PIPELINES])
def test_the_snippet_runs_and_paints(
    kind: str, run: Run, tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = run.copy(tmp_path)
    exported = changed.folder / "export"
    if kind in PIPELINES:
        index = exported / "base" / "model_index.json"
        index.write_text(
            index.read_text(encoding="utf-8").replace("StableDiffusionXLPipeline", kind),
            encoding="utf-8",
        )
    japanese, english = snippets(changed.card("base" if kind in PIPELINES else kind))
    assert (
        ast.dump(ast.parse(japanese)) == ast.dump(ast.parse(english)) and japanese != english
    )  # only the comments differ
    folders = {
        "BASE": exported / "base",
        "REFINER": exported / "refiner",
        "SDXL": tiny_sdxl / "base",
    }
    folders |= {"REPOSITORY": exported / ("encoders" if kind == "encoders" else "base")}
    for name in set(folders) & set(re.findall(r"^(\w+) = ", japanese, re.M)):
        japanese = re.sub(
            rf"^{name} = .*$",
            lambda _, name=name: f"{name} = {str(folders[name])!r}",
            japanese,
            flags=re.M,
        )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("image.png")
    Image.new("L", (32, 32), 255).save("mask.png")
    torch.manual_seed(0)
    exec(compile(japanese, "README.md", "exec"), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (32, 32)
        if kind == "encoders":
            assert picture.tobytes() == painted_by(exported / "base", changed).tobytes()


def painted_by(base: Path, run: Run) -> Image.Image:
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    settings = load_recipe(run.path).eval
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    prompt = model_card.TOYWORLD_PROMPT[0]
    return pipeline(
        prompt, num_inference_steps=settings.inference_steps, guidance_scale=settings.guidance_scale
    ).images[0]


def test_front_matter_is_what_the_hub_reads(run: Run) -> None:
    base = ModelCard(run.card("base", teacher=HUB_NAME)).data.to_dict()
    assert (base["language"], base["license"], base["library_name"], base["pipeline_tag"]) == (
        ["ja", "en"],  # some pairs of the recipe are English on both sides
        "openrail++",
        "diffusers",
        "text-to-image",
    )
    assert (
        base["license_link"] == f"https://huggingface.co/{HUB_NAME}/blob/main/LICENSE.md"
        and base["base_model"] == HUB_NAME
    )
    assert not {"base_model", "license_link"} & set(
        ModelCard(run.card("base", "export.license=apache-2.0")).data.to_dict()
    )
    assert base["base_model_relation"] == "finetune"
    assert ModelCard(run.card("refiner")).data.pipeline_tag == "image-to-image"
    assert "text-encoder" in ModelCard(run.card("encoders")).data.tags


def test_the_hub_gets_pictures_figures_languages_and_data_sets(run: Run) -> None:
    """As huggingface_hub reads the card: figures are the results', pictures the student's."""
    data = ModelCard(run.card("base")).data
    assert data.language == ["ja", "en"] and "datasets" not in data.to_dict()
    comparison, pictures = run.result("compare_hidden_states.json"), run.result("pictures.json")
    student = comparison["rows"]["student"]
    assert data.model_name == "toyworld"
    assert {one.metric_type: one.metric_value for one in data.eval_results} == {
        "noise_prediction_gap": student["noise_gap"]["value"],
        "recall_at_1": student["states"]["pooled"]["pooled"]["recall_at_1_text_en"],
        "accuracy": pictures["rows"]["student"]["scene_accuracy"]["value"],
    }
    assert all(one.task_type == "text-to-image" for one in data.eval_results)
    assert len(data.widget) == len(pictures["examples"]) == 3
    for shown, example in zip(data.widget, pictures["examples"], strict=True):
        assert shown["text"] == example["text"]
        for folder in ("base", "refiner", "encoders"):
            picture = run.folder / "export" / folder / shown["output"]["url"]
            painted = run.folder / "eval" / example["pictures"]["student"]
            assert picture.read_bytes() == painted.read_bytes()
    before = ModelCard(run.before["base"]).data.to_dict()
    assert not {"widget", "model-index", "datasets"} & set(before)

    sources = [
        {"kind": "hub", "name": "a", "licence": "x", "dataset": "ORG/A"},
        {"kind": "hub", "name": "b", "licence": "x", "dataset": "./folder"},
        {
            "kind": "parquet",
            "name": "c",
            "licence": "x",
            "path": "hf://datasets/ORG/C@main/*.parquet",
        },
    ]
    settings = [f"corpora.sources={json.dumps(sources)}", "distill.english_share=0"]
    data = ModelCard(run.card("base", *settings)).data
    assert data.datasets == ["ORG/A", "ORG/C"] and data.language == ["ja"]
    assert data.eval_results[0].dataset_type == "ORG/A"


def test_how_long_it_took_is_what_the_run_has_recorded(run: Run, tmp_path: Path) -> None:
    changed = run.copy(tmp_path)
    assert "Time on record" not in changed.card("base")
    with open(changed.folder / "stages.jsonl", "a", encoding="utf-8") as file:
        for seconds in (3600, 65.4):
            file.write(json.dumps({"stage": "distill.train", "seconds": seconds}) + "\n")
    assert "Time on record, h:mm:ss (`distill.train` 1:01:05)" in changed.card("base")


def test_what_is_said_of_other_programs(run: Run) -> None:
    for folder in ("base", "refiner", "encoders"):
        card = run.card(folder)
        assert "kohya's trainers, given this folder, train on wrong ids without an error" in card
        assert card.count("docs/programs.md") == card.count("*Load Japanese CLIP*") == 2
        assert card.count("from_single_file") == (0 if folder == "refiner" else 2)
        assert "single files" not in card and "arXiv:2307.01952" in card
        (entry,) = re.findall(r"```bibtex\n(.*?)```", card, re.S)
        assert entry.count("{") == entry.count("}") and entry.startswith("@misc{toyworld,")
    assert "may be Japanese or English." in card
    assert "may be Japanese." in run.card("base", "distill.english_share=0")


def test_names_are_those_that_push_gives(run: Run) -> None:
    for folder in ("base", "refiner"):
        card = run.card(folder, repository=f"someone/jp-{folder}")
        assert (
            card.count('BASE = "someone/jp-base"\nREFINER = "someone/jp-refiner"\n') == 2
            and "ORG/NAME" not in card
        )
        assert f"python -m distill.verify someone/jp-{folder}\n" in card
    assert run.card("encoders", repository="someone/jp").count('REPOSITORY = "someone/jp"\n') == 2
    alone = run.card("base", "distill.refiner=null", repository="someone/jp-base")
    assert alone.count('REPOSITORY = "someone/jp-base"\n') == 2 and "REFINER" not in alone


def test_before_the_evaluation_the_card_says_how_to_make_it(run: Run) -> None:
    assert set(run.before) == {"base", "refiner", "encoders"}
    for card in run.before.values():
        assert (
            model_card.COMPARE in card
            and model_card.GENERATE in card
            and "images/" not in card
            and "95 %" not in card
        )
        assert "| filters | 1,247 | too_long 1,234, wrong_language 5 | 8 |" in card
        assert "| toyworld | Apache-2.0 |\n| web\\|captions | CC BY-SA 4.0 |" in card


def test_numbers_are_the_results(run: Run, tmp_path: Path) -> None:
    changed = run.copy(tmp_path)
    comparison, pictures = (
        changed.result("compare_hidden_states.json"),
        changed.result("pictures.json"),
    )
    del pictures["sha256"]
    for i, numbers in enumerate(
        pictures["rows"].values()
    ):  # random weights paint no scene right: all rows would show the same
        numbers["scene_accuracy"] |= {"value": 0.5 + i / 7, "low": 0.4 + i / 7, "high": 0.6 + i / 7}
    pictures["card"] = card_tables.pictures(pictures["prompts"], pictures, "Japanese")
    (changed.folder / "eval" / "pictures.json").write_text(
        json.dumps(with_sha256(pictures)), encoding="utf-8"
    )
    assert model_card_entry.main([str(changed.path)]) == 0
    for path in changed.exported("README.md"):
        card = path.read_text(encoding="utf-8")
        assert model_card.COMPARE not in card and model_card.GENERATE not in card
        shown, accuracies = table(card, "noise-prediction gap"), table(card, "right scenes")
        assert len(shown) == len(card_tables.ROWS) and len(accuracies) == len(pictures["rows"])
        for row in card_tables.ROWS:
            numbers = comparison["rows"][row]
            clip_l, clip_bigg, pooled = (
                numbers["states"][name] for name in ("clip_l", "clip_bigg", "pooled")
            )
            expected = [
                numbers["noise_gap"]["value"],
                clip_l["content"]["nmse"],
                clip_bigg["content"]["nmse"],
                pooled["pooled"]["nmse"],
            ]
            expected += [
                pooled["pooled"]["recall_at_1_text_en"],
                pooled["pooled"]["recall_at_1_en_text"],
            ]
            assert list(map(float, shown[rows.label(row, "Japanese")])) == pytest.approx(
                expected, abs=5.1e-5
            )
        for row, numbers in pictures["rows"].items():
            right, interval = accuracies[rows.label(row, "Japanese")]
            found = [float(right), *map(float, interval.split(" to "))]
            assert found == pytest.approx(
                [numbers["scene_accuracy"][key] for key in ("value", "low", "high")], abs=5.1e-5
            )
        assert all(
            f"| {one['number']} | {one['text']} | {one['en']} |" in card
            for one in pictures["examples"]
        )
        assert (path.parent / "images" / "grid.png").read_bytes() == (
            changed.folder / "eval" / "grid.png"
        ).read_bytes()


def test_results_of_another_export_are_not_this_ones(run: Run, tmp_path: Path) -> None:
    assert "95 %" not in run.card("base", manifest_sha256="0" * 64)
    assert "95 %" not in run.card("base", "name=another")
    changed = run.copy(tmp_path)
    assert "95 %" in changed.card("base")
    path = changed.folder / "export" / "base" / "verification.json"
    path.write_bytes(
        path.read_bytes() + b"\n"
    )  # exported again after the evaluation, and not alike
    assert "95 %" not in changed.card("base") and model_card.COMPARE in changed.card("base")


def test_encoders_put_into_another_sdxl_show_no_pictures_of_their_teachers(run: Run) -> None:
    card = run.card("base", teacher="someone/finetuned")
    assert (
        "`someone/finetuned`" in card
        and "images/" not in card
        and "right scenes" not in card
        and model_card.GENERATE not in card
    )
    assert (
        "noise-prediction gap" in card
        and f"with the UNet of `{model_card.public(load_recipe(run.path).distill.base)}`" in card
    )
    assert 'REPOSITORY = "ORG/NAME"' in card and "REFINER" not in card


def test_the_trained_recipe_counts_not_the_commands_overrides(run: Run, tmp_path: Path) -> None:
    changed = run.copy(tmp_path)
    recipe = load_recipe(changed.path)
    (changed.folder / "distill" / "run.json").unlink()
    (changed.folder / "distill" / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert (
        model_card_entry.main(
            [str(changed.path), "distill.steps=77777", "corpora.sources.1.name=other"]
        )
        == 0
    )
    for path in changed.exported("README.md"):
        card = path.read_text(encoding="utf-8")
        assert (
            f"| steps | {recipe.distill.steps:,} |" in card
            and "77,777" not in card
            and "web\\|captions" in card
        )


def test_texts_from_the_web_stay_texts(run: Run) -> None:
    recipe, path = load_recipe(run.path), run.folder / "export" / "base"
    made_from = json.loads((path / "verification.json").read_text(encoding="utf-8"))["made_from"]
    text, en = "<script>|赤\n# 丸</script>", "[here](http://x) *bold* `code` ![](y) &lt; a_b _c_"
    example = PaintedExample(number=1, picture="x", text=text, en=en)
    pictures = Pictures(prompts=1, accuracy=None, table=None, examples=[example])
    card = model_card.render(path, recipe, made_from, pictures)
    assert (
        r"| 1 | \<script\>\|赤 \# 丸\</script\> | \[here\](http://x) \*bold\* \`code\` !\[\](y) "
        r"\&lt; a_b \_c\_ |" in card
    )


def test_nothing_of_this_machine_gets_in(run: Run) -> None:
    for path in run.exported("README.md"):
        card = path.read_text(encoding="utf-8")
        assert "models/encoder" in card and "models/spiece.model" in card
        assert not [
            place
            for place in (run.place, ROOT, Path.home(), run.place.parent)
            if f"{place}/" in card or f"{place}`" in card
        ]
        assert "pairs.tsv" not in card
        push.check_text(path, path.parent)


@pytest.mark.parametrize(
    ("reference", "name"),
    {
        "intfloat/multilingual-e5-large": "intfloat/multilingual-e5-large",
        "toyworld:spiece.model": "toyworld:spiece.model",
        "models/line/japanese-large-lm/spiece.model": "japanese-large-lm/spiece.model",
        "/data/models/e5/": "models/e5",
        f"{HOMES}/alice/e5": "e5",
        f"/data{HOMES}/alice/e5": "e5",
        "/e5": "e5",
        str(Path.home() / "e5"): "e5",
        "open_clip:ViT-bigG-14/laion2b_s39b_b160k": "open_clip:ViT-bigG-14/laion2b_s39b_b160k",
        "open_clip:ViT-bigG-14//data/alice/weights.pt": "open_clip:ViT-bigG-14/weights.pt",
    }.items(),
)
def test_models_by_their_public_names(reference: str, name: str) -> None:
    assert model_card.public(reference) == name


def test_a_second_time_nothing_changes(run: Run) -> None:
    files = [*run.exported("README.md"), *run.exported("images/*.png")]
    times = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 3 * (1 + 1 + 3) and model_card_entry.main([str(run.path)]) == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    assert not list((run.folder / "export").rglob(".*"))


def test_what_is_missing_or_damaged_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*overrides: str) -> str:
        capsys.readouterr()
        assert model_card_entry.main([str(changed.path), *overrides]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        return line

    changed = run.copy(tmp_path)
    assert "made from the recipe 'toyworld', this one is 'another'" in refused("name=another")
    for name, made_by in (
        ("pictures.json", model_card.GENERATE),
        ("compare_hidden_states.json", model_card.COMPARE),
    ):
        path = changed.folder / "eval" / name
        export = file_sha256(changed.folder / "export" / "base" / "verification.json")
        result = {"recipe": "toyworld", "rows": {}, "export_sha256": export}
        for content, what in (
            (with_sha256(result), "card is not as this version writes it"),
            (result, "damaged, or another version's"),
        ):
            path.write_text(json.dumps(content), encoding="utf-8")
            line = refused()
            assert f"{name}: {what}" in line and f"delete it and run: {made_by}" in line
        path.unlink()
    assert "nothing is exported yet; make it with: python -m distill.export" in refused(
        f"run={tmp_path / 'nowhere'}"
    )
