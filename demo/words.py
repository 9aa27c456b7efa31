"""What the page says, in both languages, and the prompts that it offers.

In:  a key, and which of the two languages a browser asks for.
Out: texts.
"""

from typing import Literal

Language = Literal["ja", "en"]

# By key: Japanese, English. What stands on the page itself the browser translates; the rest is said
# in the language that the browser asks for.
WORDS = {
    "title": ("# 日本語で描く {family}", "# {family} that reads Japanese"),
    "about": (
        "同じ乱数、同じ UNet で、日本語(学習したテキストエンコーダー)と英語(元のもの)を"
        "並べて描きます。英語を空にすると日本語だけを描きます。",
        "Same seed, same UNet: Japanese through the trained text encoders, English through those "
        "they were taught by. Without English text only the Japanese is painted.",
    ),
    "about_alone": (
        "学習した日本語のテキストエンコーダーで描きます。",
        "Paints through the trained Japanese text encoders.",
    ),
    "report": ("学習の報告を開く", "Report of the training"),
    "japanese": ("プロンプト(日本語)", "Prompt (Japanese)"),
    "english": ("プロンプト(英語、任意)", "Prompt (English, may be empty)"),
    "japanese_negative": ("ネガティブプロンプト", "Negative prompt"),
    "english_negative": ("ネガティブプロンプト(英語側)", "Negative prompt (English side)"),
    "paint": ("描く", "Paint"),
    "stop": ("中止", "Stop"),
    "settings": ("設定", "Settings"),
    "steps": ("ステップ数", "Steps"),
    "guidance": ("ガイダンス(CFG)", "Guidance (CFG)"),
    "scheduler": ("サンプラー", "Sampler"),
    "weights": ("重みの書き方 (言葉:1.3)", "Weights, (word:1.3), as in"),
    "width": ("幅", "Width"),
    "height": ("高さ", "Height"),
    "count": ("枚数", "Pictures"),
    "seed": ("シード", "Seed"),
    "dice": ("🎲 シードを変える", "🎲 Another seed"),
    "refine": ("リファイナーで仕上げる", "Finish with the refiner"),
    "denoising_end": ("リファイナーに渡すところ", "Hand over to the refiner at"),
    "start": ("元にする画像(任意)", "Picture to start from (may be empty)"),
    "strength": ("元の画像をどれだけ変えるか", "How much of it to repaint"),
    "pictures_ja": ("日本語", "Japanese"),
    "pictures_en": ("英語(元のエンコーダー)", "English (original encoders)"),
    "made_with": ("PNG に入っている設定", "Settings inside the PNG"),
    "examples": ("例", "Examples"),
    # said by the server
    "tokens": ("{count} / {window} トークン", "{count} / {window} tokens"),
    "tokens_free": ("{count} トークン", "{count} tokens"),
    "too_long": (
        "⚠️ {count} / {window} トークン: 終わりの部分は読まれません。"
        "重みの書き方を選ぶと全部読みます。",
        "⚠️ {count} / {window} tokens: the end is not read. With weights on, all of it is.",
    ),
    "cut": ("読まれない部分: {text}", "Not read: {text}"),
    "painting": ("描いています", "Painting"),
    "stopped": ("中止しました。", "Stopped."),
    "error": ("エラー", "Error"),
    "no_prompt": (
        "プロンプト(日本語)が空です。描きたいものを書いてください。",
        "The Japanese prompt is empty; write what to paint.",
    ),
    "no_number": ("{field}が空です。数を入れてください。", "{field} is empty; give a number."),
    "no_multiple": (
        "{field}の {value} は {of} の倍数ではありません。いちばん近いのは {nearest} です。",
        "{field}: {value} is not a multiple of {of}; the nearest is {nearest}.",
    ),
    "no_memory": (
        "メモリが足りません。幅と高さを小さくしてください。",
        "Not enough memory; give a smaller width and height.",
    ),
}

# Japanese, English, how weights are written.
EXAMPLES = (
    (
        "窓辺で眠る白い猫、水彩画、やわらかい光",
        "a white cat asleep by the window, watercolour, soft light",
        "",
    ),
    (
        "雪山のふもとの小さな木の家、夕焼け、写真",
        "a small wooden house at the foot of a snowy mountain, sunset, photograph",
        "",
    ),
    (
        "机の上の赤いりんごと青い花瓶、油絵",
        "a red apple and a blue vase on a table, oil painting",
        "",
    ),
    (
        "夜の港、（花火：1.3）、［人混み］",
        "a harbour at night, (fireworks:1.3), [crowd]",
        "a1111",
    ),
)
TOYWORLD_EXAMPLES = (
    (
        "白い背景に、大きい青い四角の左に小さい赤い丸がある",
        "on a white background, a large blue square with a small red circle to its left",
        "",
    ),
    (
        "茶色い背景に大きな緑のリング",
        "on a brown background there is a large green ring",
        "",
    ),
    (
        "灰色の背景に、黄色ではなく紫色の小さいリング",
        "gray background with one little purple ring",
        "",
    ),
    (
        "黒い背景に、大きい（水色：1.2）のひし形の左にオレンジ色でちっちゃいリングがある",
        "a little orange ring left of a big (cyan:1.2) diamond on a black background",
        "a1111",
    ),
)


def say(language: Language, key: str, **values: object) -> str:
    return WORDS[key][0 if language == "ja" else 1].format(**values)


def language_of(accepted: str) -> Language:
    """Japanese where the header `Accept-Language` of a request names it first, else English."""
    return "ja" if accepted.strip().lower().startswith("ja") else "en"
