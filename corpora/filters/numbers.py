"""Finds stray indices in a text: numbers that the other side lacks.

Numbers are digits or words, with counters, months and units, and each language omits some that the
other has, so a missing number alone is no evidence. A stray index is
(赤い服の1男性と4ビキニの3女性): a digit after a particle that counts nothing, and that the English
lacks.

In:  two normalised texts.
Out: whether the text has such digits, if its language has rules for them: Japanese.
"""

import re
import unicodedata

# What follows a number that counts something: counters, units, currencies, magnitudes, and what
# follows a bare number in a sentence.
COUNTERS = (
    "人 名 匹 頭 羽 本 枚 個 箇 つ 台 杯 冊 回 度 階 歳 才 年 月 日 時 分 秒 週 円 元 弗 銭 万 千 "
    "百 十 億 兆 番 位 号 点 倍 割"
    " 種 組 対 件 者 行 字 文 語 曲 話 章 巻 頁 世 色 面 軒 戸 室 席 両 機 隻 艘 着 足 膳 輪 玉 粒 "
    "滴 段 列 層 目 代 系 式 型"
    " 等 級 次 部 通 切 片 丁 束 袋 缶 皿 品 社 校 店 箱 瓶 株 房 斤 合 升 坪 畳 寸 尺 里 乗 泊 食 "
    "膜 門 節 歩 票 試 打"
    " 勝 敗 戦 安 失 得 択 進 角 辺 拍 連 重 発 問 期 区 か所 か月 カ ヶ ヵ ケ か国 セ メ キ ミ グ "
    "リ ド ユ ポ パ ペ イ フ"
    " マイル ヤード エーカー オンス カップ さじ 大さじ 小さじ クラス チーム ラウンド セント ウォン "
    "ルピー ペンス カロリー"
    " ギガ テラ バイト ビット ボルト ワット アンペア ヘルツ トン ダース ダイム ダイ カラット "
    "ステップ ゴール ストライク 大"
    " 親 姉 兄 弟 家 都 県 国 州 市 町 村 教 科 差 塁 死 幕 場 桁 級 枠 周 往 強 弱 半 近 余 以 未 "
    "前 後"
    " 基 口 脚 灯 棟 尾 錠 筋 挺 張 首 句 駅 局 架 振 体 幅 編 話 頂 艇 票 席 袋 滴 挟 塊 房 株 節 "
    "駒 缶 例 案 巡 往"
    " 客 数 ひき コマ タイプ ピース ドア が は を の に と も で や へ な だ ず ほ 超 ％ % ℃"
).split()
_COUNTED = "|".join(sorted(map(re.escape, dict.fromkeys(COUNTERS)), key=len, reverse=True))
_AFTER = "[\u3041-\u3096、。・（(「『】\\s]"  # particles, endings, punctuation
_LETTER = "[\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff]"
INDICES = {"ja": re.compile(rf"(?:^|(?<={_AFTER}))[1-9][0-9]?(?!{_COUNTED})(?={_LETTER})")}

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
).split()
MONTHS = (
    "january february march april may june july august september october november december".split()
)
VALUES = (
    {word: number for number, word in enumerate(ONES)}
    | {word: 10 * number for number, word in enumerate(TENS, 2)}
    | {word: number for number, word in enumerate(ORDINALS)}
    | {word: number for number, word in enumerate(MONTHS, 1)}
    | {word[:3]: number for number, word in enumerate(MONTHS, 1)}
    | {"once": 1, "twice": 2, "both": 2, "pair": 2, "couple": 2, "twin": 2, "twins": 2, "double": 2}
    | {"single": 1, "half": 2, "quarter": 4, "triple": 3, "noon": 12, "midnight": 12, "dozen": 12}
    | {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10}
)
_WORD = re.compile(r"[0-9]+|[a-z]+")


def english_values(text: str) -> set[int]:
    """The numbers in a text, as digits or words; "twenty-five" is 20, 5 and 25."""
    found: set[int] = set()
    before = 0
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        value = int(word[:18]) if word.isdigit() else VALUES.get(word)
        if value is None and word.endswith("s"):
            value = VALUES.get(word[:-1])
        if value is None:
            before = 0
            continue
        found |= {value, before + value} if before in range(20, 100, 10) else {value}
        before = value
    return found


def indices(text: str, en: str, code: str) -> list[str]:
    """The digits of the text that count nothing and that the English lacks. `code`: the text's
    language.
    """
    found = INDICES[code].findall(text) if code in INDICES else []
    if not found:
        return []
    values = english_values(en)
    return [one for one in found if int(one) not in values]


def are_unmatched(text: str, en: str, code: str) -> bool:
    """Whether there are such digits. A single 1 does not count: English says "a"."""
    return indices(text, en, code) not in ([], ["1"])
