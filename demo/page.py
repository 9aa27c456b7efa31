"""The page: fields, pictures, and what happens when a button is pressed. The door to gradio.

In:  a `Studio`.
Out: a server on 127.0.0.1, which neither asks nor tells anybody on the net.
"""

import html
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from configs.errors import DataError, RecipeError
from demo import studio, words
from demo.studio import Mistake, Side, SidePicture, Stopped, Studio, Wish
from demo.words import Language
from eval.paint import painter, picture_text
from eval.paint.request import DENOISING_END, MULTIPLE, STRENGTH
from eval.paint.schedulers import SCHEDULERS
from eval.pictures import painting

GRADIO_VERSION = str(gradio.__version__)
# Toyworld's miniature needs little guidance and few steps.
STEPS, GUIDANCE_OF_TOYWORLD = 20, 2.0
MOST_STEPS, MOST_PICTURES, MOST_PIXELS, LARGEST_SEED = 150, 8, 2048, 2**32 - 1
SHARP_BELOW = 128  # pixels: smaller pictures are shown with their pixels sharp
CSS = ".small img { image-rendering: pixelated; } .tokens { min-height: 1.5em; }"
DAY = 24 * 60 * 60
REPORT = "/report"
# Where gradio translates nothing, both languages.
SLIDER = "日本語 ⇔ English"
HEADINGS = ["日本語", "English", "(言葉:1.3) / (word:1.3)"]
SIDES: tuple[Side, ...] = ("ja", "en")
NAMES: dict[Side, str] = {"ja": "japanese", "en": "english"}
SAID = gradio.I18n()  # a key that the browser puts a text of `words` for


def serve(export: str, teacher: str | None, refiner: str | None, report: str | None) -> None:
    """Opens the page and waits until the process is told to stop. Raises DataError."""
    opened, notice = studio.load(studio.find(export, teacher, refiner, report))
    if notice:
        print(f"demo: {notice}", flush=True)
    address = launch(opened)
    print(f"demo: {address} (Ctrl-C ends it)", flush=True)
    threading.Event().wait()


def launch(opened: Studio) -> str:
    """Starts the server in a thread of its own; the page's address."""
    _, address, _ = Page(opened).blocks.launch(
        share=False,
        ssr_mode=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        footer_links=["settings"],
        i18n=_translations(opened.models["ja"].family.title),
        css=CSS,
        app_kwargs={"routes": _routes(opened.places.report)},
    )
    return str(address)


def _translations(family: str) -> gradio.I18n:
    both: list[dict[str, str]] = [
        {key: texts[i].replace("{family}", family) for key, texts in words.WORDS.items()}
        for i in range(2)
    ]
    return gradio.I18n(ja=both[0], en=both[1])


def _routes(report: str | None) -> list[Route]:
    """The report, which gradio itself would only offer as a download."""

    def shown(request: HttpRequest) -> Response:
        assert report is not None
        return FileResponse(report, media_type="text/html")

    return [Route(REPORT, shown)] if report and Path(report).is_file() else []


class Page:
    """`fields`: the components by the names of a `Wish`. `stops`: by session what stops it."""

    def __init__(self, opened: Studio) -> None:
        self.studio = opened
        self.fields: dict[str, Any] = {}
        self.stops: dict[str | None, threading.Event] = {}
        self.blocks = self._blocks()

    def paint(
        self,
        values: dict[Any, Any],
        request: gradio.Request,
        progress: gradio.Progress = gradio.Progress(),  # noqa: B008 (how gradio hands it over)
    ) -> Iterator[tuple[Any, ...]]:
        """After every picture what the galleries, the slider and the settings show."""
        language = _language(request)
        wish = Wish(**{name: values[field] for name, field in self.fields.items()})
        stop = self.stops[request.session_hash] = threading.Event()
        found: dict[str, list[tuple[str, str]]] = {"ja": [], "en": []}

        def on_progress(done: float) -> None:
            progress(done, desc=words.say(language, "painting"))

        with tempfile.TemporaryDirectory() as folder:
            try:
                for made in self.studio.paint(wish, on_progress, stop):
                    _warn(made, language)
                    path = _write(Path(folder), made)
                    seed = made.painted.made_with["seed"]
                    found[made.side].append((str(path), f"{words.say(language, 'seed')} {seed}"))
                    yield self._shown(found, 0)
            except Stopped:
                gradio.Info(words.say(language, "stopped"))
            except Mistake as mistake:
                raise _error(_explained(mistake, language), language) from None
            except (RecipeError, DataError) as error:
                raise _error(str(error), language) from None
            finally:
                self.stops.pop(request.session_hash, None)

    def stop(self, request: gradio.Request) -> None:
        """What this visitor's pictures are painted for ends after the next step."""
        if stop := self.stops.get(request.session_hash):
            stop.set()

    def select(self, japanese: Any, english: Any, event: gradio.SelectData) -> tuple[Any, ...]:
        """The slider and the settings of the pair whose picture was chosen."""
        return self._shown({"ja": japanese or [], "en": english or []}, int(event.index))[2:]

    def tokens(self, side: Side, text: str, weights: Any, language: Language) -> str:
        """The line below a prompt."""
        count = self.studio.tokens(side, text, weights)
        key = "tokens_free" if weights else "tokens" if count <= studio.WINDOW else "too_long"
        return words.say(language, key, count=count, window=studio.WINDOW)

    def _shown(self, found: dict[str, list[tuple[str, str]]], chosen: int) -> tuple[Any, ...]:
        """Both galleries, the slider, and the settings of a pair of pictures."""
        japanese, english = (found[side][chosen : chosen + 1] for side in ("ja", "en"))
        pair = (japanese[0][0], english[0][0]) if japanese and english else None
        texts = [picture_text.read(Path(path))[0] for path, _ in (*japanese, *english)]
        slider = gradio.ImageSlider(value=pair, visible=pair is not None)
        return found["ja"], found["en"], slider, "\n\n".join(texts)

    def _blocks(self) -> gradio.Blocks:
        """The page from top to bottom, and what its buttons do."""
        sides = list(self.studio.models)
        with gradio.Blocks(
            title="Japanese SDXL", analytics_enabled=False, delete_cache=(DAY, DAY)
        ) as blocks:
            self._heading()
            counters = {}
            with gradio.Row():
                for side in sides:
                    with gradio.Column():
                        counters[side] = self._prompts(side)
            for name in ("english", "english_negative"):
                if name not in self.fields:  # no teacher: never seen, always empty
                    self.fields[name] = gradio.Textbox(visible=False)
            with gradio.Row():
                paint = gradio.Button(SAID("paint"), variant="primary", elem_id="paint")
                stop = gradio.Button(SAID("stop"), variant="stop", elem_id="stop")
            with gradio.Accordion(SAID("settings"), open=False, elem_id="settings"):
                self._settings()
            shown = self._pictures()
            self._examples()
            event = paint.click(
                self.paint,
                inputs=set(self.fields.values()),
                outputs=shown,
                api_name="paint",
                concurrency_limit=1,
            )
            # the event that still waits is taken out of the queue; the one that runs ends itself
            stop.click(self.stop, cancels=[event], queue=False, api_visibility="private")
            for side, counter in counters.items():
                self._count(side, counter)
        return blocks

    @property
    def _sharpness(self) -> str:
        """The class of what shows pictures."""
        size = painter.own_size(self.studio.models["ja"].pipelines.base)
        small = all(side is not None and side < SHARP_BELOW for side in size)
        return "small" if small else "large"

    def _heading(self) -> None:
        gradio.Markdown(SAID("title"), elem_id="title", header_links=False)
        gradio.Markdown(SAID("about" if "en" in self.studio.models else "about_alone"))
        if report := self.studio.places.report:
            address = REPORT if Path(report).is_file() else report
            gradio.Button(SAID("report"), link=address, link_target="_blank", size="sm")

    def _prompts(self, side: Side) -> Any:
        """Both texts of a side; the line for its tokens."""
        name = NAMES[side]
        self.fields[name] = gradio.Textbox(label=SAID(name), lines=3, elem_id=name)
        counter = gradio.Markdown("", elem_id=f"tokens_{side}", elem_classes="tokens")
        negative = f"{name}_negative"
        self.fields[negative] = gradio.Textbox(label=SAID(negative), elem_id=negative)
        return counter

    def _settings(self) -> None:
        """How a picture is painted: of what a family paints with, toyworld's own apart."""
        base = self.studio.models["ja"].pipelines.base
        usual = self.studio.models["ja"].family.guidance_scales[0]
        guidance = GUIDANCE_OF_TOYWORLD if self.studio.places.is_toyworld else usual
        height, width = painter.own_size(base)
        with gradio.Row():
            self._number("steps", STEPS, 1, MOST_STEPS)
            self._number("guidance", guidance, 0, 30, precision=1)
            self._choice("scheduler", [(one.title, name) for name, one in SCHEDULERS.items()])
            self._choice("weights", [("AUTOMATIC1111", "a1111"), ("ComfyUI", "comfyui")])
        with gradio.Row():
            self._number("width", width, 8, MOST_PIXELS)
            self._number("height", height, 8, MOST_PIXELS)
            self._number("count", 1, 1, MOST_PICTURES)
            self._number("seed", 0, 0, LARGEST_SEED)
            dice = gradio.Button(SAID("dice"), elem_id="dice")
        dice.click(
            lambda: random.randrange(LARGEST_SEED + 1),
            outputs=self.fields["seed"],
            queue=False,
            api_visibility="private",
        )
        has = self.studio.places.refiner is not None
        with gradio.Row(visible=has):
            self.fields["refine"] = gradio.Checkbox(False, label=SAID("refine"), elem_id="refine")
            self._share("denoising_end", DENOISING_END, 0.99)
        with gradio.Row():
            self.fields["start"] = gradio.Image(
                label=SAID("start"), type="filepath", sources=["upload", "clipboard"], height=200
            )
            self._share("strength", STRENGTH, 1.0)

    def _number(
        self, name: str, value: float | None, least: float, most: float, precision: int = 0
    ) -> None:
        self.fields[name] = gradio.Number(
            value,
            label=SAID(name),
            minimum=least,
            maximum=most,
            precision=precision,
            step=MULTIPLE if name in ("width", "height") else 10**-precision,
            min_width=120,
            elem_id=name,
        )

    def _share(self, name: str, value: float, most: float) -> None:
        self.fields[name] = gradio.Slider(0.05, most, value, step=0.01, label=SAID(name))

    def _choice(self, name: str, choices: list[tuple[str, str]]) -> None:
        """With the repository's own way first."""
        self.fields[name] = gradio.Dropdown(
            [("–", ""), *choices], value="", label=SAID(name), elem_id=name
        )

    def _pictures(self) -> list[Any]:
        """Both galleries, the slider, and the settings; choosing a picture fills the last two."""
        galleries = []
        with gradio.Row():
            for side in SIDES:
                gallery = gradio.Gallery(
                    label=SAID(f"pictures_{side}"),
                    format="png",
                    columns=2,
                    height=420,
                    object_fit="contain",
                    buttons=["download", "download_all", "fullscreen"],
                    interactive=False,
                    visible=side in self.studio.models,
                    elem_id=f"pictures_{side}",
                    elem_classes=self._sharpness,
                )
                galleries.append(gallery)
        slider = gradio.ImageSlider(
            label=SLIDER,
            type="filepath",
            format="png",
            interactive=False,
            visible=False,
            elem_id="slider",
            elem_classes=self._sharpness,
        )
        made_with = gradio.Textbox(
            label=SAID("made_with"),
            lines=4,
            interactive=False,
            buttons=["copy"],
            elem_id="made_with",
        )
        for gallery in galleries:
            gallery.select(
                self.select,
                inputs=galleries,
                outputs=[slider, made_with],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )
        return [*galleries, slider, made_with]

    def _examples(self) -> None:
        toyworld = self.studio.places.is_toyworld
        rows = words.TOYWORLD_EXAMPLES if toyworld else words.EXAMPLES
        fields = [self.fields[name] for name in ("japanese", "english", "weights")]
        kinds = [gradio.Textbox(visible=False) for _ in HEADINGS]
        table = gradio.Dataset(
            label=SAID("examples"),
            components=kinds,
            headers=HEADINGS,
            samples=[list(row) for row in rows],
            elem_id="examples",
        )
        table.click(lambda row: row, table, fields, queue=False, api_visibility="private")

    def _count(self, side: Side, counter: Any) -> None:
        """The line of tokens, kept up to date."""
        text, weights = self.fields[NAMES[side]], self.fields["weights"]

        def tokens(text: str, weights: Any, request: gradio.Request) -> str:
            return self.tokens(side, text, weights, _language(request))

        gradio.on(
            [text.change, weights.change],
            tokens,
            inputs=[text, weights],
            outputs=counter,
            queue=False,
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )


def _write(folder: Path, made: SidePicture) -> Path:
    """The picture as a PNG that holds its settings; gradio copies it."""
    picture, made_with = made.painted
    path = folder / f"{made.side}-{made_with['seed']}.png"
    path.write_bytes(painting.png(picture, picture_text.texts(made_with)))
    return path


def _warn(made: SidePicture, language: Language) -> None:
    for text in made.cut:
        gradio.Warning(html.escape(words.say(language, "cut", text=text)))
    for notice in made.notices:
        gradio.Info(html.escape(notice))


def _explained(mistake: Mistake, language: Language) -> str:
    values = dict(mistake.values)
    if "field" in values:
        values["field"] = words.say(language, str(values["field"]))
    return words.say(language, mistake.key, **values)


def _error(message: str, language: Language) -> gradio.Error:
    """A line in the page; what a user has written is no markup."""
    title = words.say(language, "error")
    return gradio.Error(html.escape(message), title=title, print_exception=False)


def _language(request: gradio.Request) -> Language:
    return words.language_of(request.headers.get("accept-language", ""))
