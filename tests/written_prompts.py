"""Thirty prompts in the forms people write them: tags, lists, mixed languages, weights, full-width
signs, BREAK, negative prompts, over 77 tokens, emoji, underscores, escaped brackets.
"""

from typing import NamedTuple


class Written(NamedTuple):
    """A prompt; the plain text that A1111's grammar leaves of it, `|` for BREAK, None where that is
    the prompt itself; and its weighted parts in order.
    """

    prompt: str
    plain: str | None = None
    weighted: tuple[tuple[str, float], ...] = ()


QUALITY = "masterpiece, best quality, highly detailed"
BAD = "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, cropped"
WRITTEN = [
    Written("1girl, 浴衣, 夏祭り, 花火, masterpiece, best quality"),
    Written("夕暮れの海辺を走る白い犬、逆光、水しぶき、写実的"),
    Written("赤い丸、青い四角、緑の三角"),
    Written("茶色い背景に大きな緑のリング、シンプルな構図、8k"),
    Written("古い木造の駅舎、雪、朝、1人の駅員 / cinematic lighting, 35mm, bokeh"),
    Written(
        "かわいい猫、窓辺、朝の光、(ふわふわ：1.3)",
        "かわいい猫、窓辺、朝の光、ふわふわ",
        (("ふわふわ", 1.3),),
    ),
    Written(
        "かわいい猫、（ふわふわの毛：１．２）、窓辺",
        "かわいい猫、ふわふわの毛、窓辺",
        (("ふわふわの毛", 1.2),),
    ),
    Written("大きい(赤い:1.0)丸", "大きい赤い丸"),
    Written(
        "（（星空））、［街灯］、静かな湖",
        "星空、街灯、静かな湖",
        (("星空", 1.21), ("街灯", 0.909091)),
    ),
    Written(
        "((masterpiece)), (浴衣の少女:1.25), [crowd], 花火",
        "masterpiece, 浴衣の少女, crowd, 花火",
        (("masterpiece", 1.21), ("浴衣の少女", 1.25), ("crowd", 0.909091)),
    ),
    Written(
        "(城、(赤い屋根:1.3)、石垣:0.8)と桜",
        "城、赤い屋根、石垣と桜",
        (("城、", 0.8), ("赤い屋根", 1.04), ("、石垣", 0.8)),
    ),
    Written("(紅葉:1.2) の 渓谷", "紅葉 の 渓谷", (("紅葉", 1.2),)),
    Written("銀河鉄道（SL）の夜", "銀河鉄道SLの夜", (("SL", 1.1),)),
    Written(r"hatsune_miku \(cosplay\), 舞台, 青い照明", "hatsune_miku (cosplay), 舞台, 青い照明"),
    Written(
        r"saber \(fate\), (blue_dress:1.1), blonde_hair, 剣",
        "saber (fate), blue_dress, blonde_hair, 剣",
        (("blue_dress", 1.1),),
    ),
    Written("solo, long_hair, looking_at_viewer, school_uniform, 桜並木, outdoors"),
    Written("score_9, score_8_up, score_7_up, 1boy, 和室, 書道, source_anime"),
    Written("👩‍🚀が月面で🍣を食べる、写真風"),
    Written("🐈‍⬛と(🌕:1.4)、和紙の質感", "🐈‍⬛と🌕、和紙の質感", (("🌕", 1.4),)),
    Written("猫の顔 (=^・^=) ロゴ", "猫の顔 =^・^= ロゴ", (("=^・^=", 1.1),)),
    Written(
        f"{QUALITY} BREAK 浴衣の少女、(金魚すくい:1.2) BREAK 夜店の灯り",
        f"{QUALITY}|浴衣の少女、金魚すくい|夜店の灯り",
        (("金魚すくい", 1.2),),
    ),
    Written("富士山、湖面の反射\nBREAK\n手前に桜の枝", "富士山、湖面の反射|手前に桜の枝"),
    Written(f"{BAD}, worst quality, jpeg artifacts, signature, watermark, username, blurry"),
    Written(
        "(worst quality:1.4), (low quality:1.4), 文字、ぼやけ、指が多い",
        "worst quality, low quality, 文字、ぼやけ、指が多い",
        (("worst quality", 1.4), ("low quality", 1.4)),
    ),
    Written(
        "embedding:easynegative, (embedding:bad-hands-5:1.1), 低品質",
        "embedding:easynegative, embedding:bad-hands-5, 低品質",
        (("embedding:bad-hands-5", 1.1),),
    ),
    Written("、".join(["石畳の路地", "赤い提灯", "雨上がり", "水たまりの反射", "傘をさす人"] * 6)),
    Written(
        f"{QUALITY}, 1girl, "
        + "花、蝶、木漏れ日、" * 12
        + "(逆光:1.1), film grain, 35mm photograph",
        f"{QUALITY}, 1girl, " + "花、蝶、木漏れ日、" * 12 + "逆光, film grain, 35mm photograph",
        (("逆光", 1.1),),
    ),
    Written("ｶﾞﾗｽのﾋﾞﾝ、ＡＢＣの文字、①番、㈱の看板"),
    Written(
        "時刻は12:30、(時計:1.2)の針、比率16:9",
        "時刻は12:30、時計の針、比率16:9",
        (("時計", 1.2),),
    ),
    Written("閉じ忘れ (夕焼け、雲", "閉じ忘れ 夕焼け、雲", (("夕焼け、雲", 1.1),)),
]
