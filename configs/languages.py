"""The languages a student can be taught, and everything that is particular to each.

A recipe names one by its code (`language: ko`). To add a language, add a value to `LANGUAGES`; a
language without rules of its own for short texts or numerals is judged by its script and by
language identification alone.
"""

import re
from dataclasses import dataclass
from functools import cached_property

KANJI_LETTERS = "\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


@dataclass(frozen=True)
class Language:
    """A student's language.

    `code`: BCP 47, the default name of columns and files. `name`: in English, for messages; in
    lower case it is part of drop reasons. `letters`: its letters, as they stand inside of a regex
    class, and `script_name` what to call one. `fasttext`, `nllb`, `m2m`: its labels in language
    identification and translation models. `names`: the codes and names by which files and tools
    call it, lower case. `verification_prompts`: what `distill.verify` compares states on.
    """

    code: str
    name: str
    letters: str
    script_name: str
    fasttext: str
    nllb: str
    m2m: str
    names: tuple[str, ...]
    verification_prompts: tuple[str, ...]

    @cached_property
    def script(self) -> re.Pattern[str]:
        """Matches one letter of the language."""
        return re.compile(f"[{self.letters}]")


JAPANESE = Language(
    code="ja",
    name="Japanese",
    # kanji and kana, full and half width; the bullet ・ is no letter
    letters=f"{KANJI_LETTERS}\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\uff66-\uff9f",
    script_name="kana or kanji",
    fasttext="ja",
    nllb="jpn_Jpan",
    m2m="ja",
    names=("ja", "jp", "jpn", "japanese", "日本語", "和文"),
    verification_prompts=(
        "窓辺で眠る白い猫、水彩画、やわらかい光",
        "青い四角の左に大きな緑の三角があります。",
        "",
        "夕暮れの海辺を歩く人々、" * 20,  # over 77 tokens in any vocabulary
        "👩‍👩‍👧と🐈‍⬛が公園にいる 🇯🇵",
        "ｶﾞﾝﾀﾞﾑのﾎﾟｽﾀｰ",
        "すごい!!! 花火!",  # "!" is the padding token of SDXL's own second tokenizer
        "東京タワー at night, 8k, highly detailed bokeh",
        "ＡＢＣ　１２３ ㍻ ①",
        "  赤い  丸  ",
        "</s> <pad> 赤い丸 <unk><|endoftext|>",
        "改行\nとタブ\tと結合文字 か\u3099 は\u309a",
    ),
)

KOREAN = Language(
    code="ko",
    name="Korean",
    letters="\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa1-\uffdc",
    script_name="Hangul",
    fasttext="ko",
    nllb="kor_Hang",
    m2m="ko",
    names=("ko", "kr", "kor", "korean", "한국어"),
    verification_prompts=(
        "창가에서 자는 하얀 고양이, 수채화, 부드러운 빛",
        "파란 사각형 왼쪽에 커다란 초록색 삼각형이 있습니다.",
        "",
        "해 질 녘 바닷가를 걷는 사람들, " * 20,  # over 77 tokens in any vocabulary
        "👩‍👩‍👧와 🐈‍⬛가 공원에 있다 🇰🇷",
        "ﾤﾷﾱ 포스터",  # half-width letters
        "굉장하다!!! 불꽃놀이!",  # "!" is the padding token of SDXL's own second tokenizer
        "남산타워 at night, 8k, highly detailed bokeh",
        "ＡＢＣ　１２３ ㈜ ①",
        "  빨간  동그라미  ",
        "</s> <pad> 빨간 동그라미 <unk><|endoftext|>",
        "줄바꿈\n과 탭\t과 결합 문자 \u1112\u1161\u11ab",
    ),
)

ENGLISH_NAMES = ("en", "eng", "english", "英語", "英文")  # the teacher's language is no choice
LANGUAGES = {one.code: one for one in (JAPANESE, KOREAN)}
