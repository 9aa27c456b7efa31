"""Trains toyworld's language identification, a miniature of fastText's lid.176: ja, en, and five languages that are neither.

    python -m corpora.miniature.make_language_id

In:  toyworld's training captions, and the sentences below for what its grammar cannot say.
Out: `models/language_id.ftz` beside this file, a quantised fastText model. Takes seconds on one core; the same texts give the same file.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from configs.files import whole
from configs.references import TOYWORLD_MODELS
from corpora.toyworld import captions

CAPTIONS = 1_000
SEED = 3_000
SPANS = 50  # runs of words, or of characters where a language hardly writes spaces, cut out of every line

# Rare words get no row of their own (a Japanese text is one "word"), their n-grams do.
SETTINGS = {"dim": 16, "minn": 1, "maxn": 4, "bucket": 20_000, "minCount": 20, "lr": 0.5, "epoch": 10, "thread": 1, "seed": SEED, "verbose": 0}
FIT = """import fasttext, json, sys
model = fasttext.train_supervised(sys.argv[1], **json.loads(sys.argv[3]))
model.quantize(dsub=2)
model.save_model(sys.argv[2])"""

SENTENCES = {
    "ja": """今日はとても天気がいいですね。 彼は駅まで歩いて行きました。 この本はまだ読んでいません。 コーヒーを一杯ください。
        猫がソファーの上で寝ている。 東京の夏は蒸し暑くて大変だ。 昨日、友達と映画を見に行った。 会議は午後三時から始まります。
        すみません、トイレはどこですか？ 彼女は毎朝ジョギングをしている。 夕焼けに染まる富士山と湖の写真 赤いドレスを着た女性が立っている
        玉ねぎを薄く切って鍋に入れます 犬が公園でボールを追いかけている 政府は新しい法案を発表した。
        電車が遅れたので、学校に間に合わなかった。 日本語を勉強するのは楽しいです。 お金がないから買えないよ。
        男性がギターを弾きながら歌っている 雪の中を走る子供たち 新商品のご案内です。送料無料でお届けします。 明日は雨が降るかもしれません。
        机の上にりんごが三つあります。 もう少しゆっくり話していただけますか。 アニメ風の少女のイラスト
        研究者らは、この結果が重要であると述べた。 フライパンに油をひいて、卵を焼く。 白い壁の前に自転車が止めてある 私は父よりも背が高い。
        それについてはよく分かりません。""",
    "en": """The weather is very nice today. He walked all the way to the station. I have not read this book yet. Could I have a cup of coffee,
        please? A cat is sleeping on the sofa. Summers in Tokyo are hot and humid. Yesterday I went to see a movie with my friends. The
        meeting starts at three in the afternoon. Excuse me, where is the bathroom? She goes jogging every morning. A photograph of Mount
        Fuji at sunset by the lake. A woman in a red dress is standing by the door. Slice the onion thinly and put it into the pot. A dog
        chases a ball in the park. The government announced a new bill on Thursday. I was late for school because the train was delayed. It
        is fun to learn new languages. I can't buy it because I don't have any money. A man sings while playing the guitar. Children running
        through the snow. Free shipping on all of our new products. It might rain tomorrow. There are three apples on the desk. Would you
        speak a little more slowly? An oil painting of a small house. Researchers said that these results were important. Heat the oil in a
        frying pan and fry the egg. I am taller than my father. What do you think about that? We don't know. A close up of a bicycle in
        front of a white wall. How long will it take to get there? You should have told me the truth. Two people are walking along the beach
        with their dogs.""",
    "de": """Das Wetter ist heute sehr schön. Er ist bis zum Bahnhof gelaufen. Ich habe dieses Buch noch nicht gelesen. Kann ich bitte eine Tasse
        Kaffee haben? Eine Katze schläft auf dem Sofa. Die Sommer in Berlin sind heiß und trocken. Gestern bin ich mit meinen Freunden ins
        Kino gegangen. Die Sitzung beginnt um drei Uhr nachmittags. Entschuldigung, wo ist die Toilette? Sie geht jeden Morgen joggen. Eine
        Frau in einem roten Kleid steht neben der Tür. Schneiden Sie die Zwiebel in dünne Scheiben. Ein Hund jagt einen Ball im Park. Die
        Regierung hat ein neues Gesetz angekündigt. Ein kleiner roter Kreis auf weißem Hintergrund. Es macht Spaß, neue Sprachen zu lernen.
        Ein Mann singt und spielt dabei Gitarre. Kinder laufen durch den Schnee. Morgen könnte es regnen. Auf dem Tisch liegen drei Äpfel.
        Ein großes blaues Quadrat über einem grünen Dreieck. Ich bin größer als mein Vater. Was denkst du darüber? Wir wissen es nicht. Wie
        lange dauert es, bis wir dort sind? Du hättest mir die Wahrheit sagen sollen.""",
    "fr": """Il fait très beau aujourd'hui. Il a marché jusqu'à la gare. Je n'ai pas encore lu ce livre. Est-ce que je pourrais avoir une tasse
        de café ? Un chat dort sur le canapé. Les étés à Paris sont chauds et humides. Hier, je suis allé voir un film avec mes amis. La
        réunion commence à trois heures de l'après-midi. Excusez-moi, où sont les toilettes ? Elle fait du jogging tous les matins. Une
        femme en robe rouge se tient près de la porte. Coupez l'oignon en fines tranches. Un chien court après une balle dans le parc. Le
        gouvernement a annoncé une nouvelle loi. Un petit cercle rouge sur un fond blanc. C'est amusant d'apprendre de nouvelles langues. Un
        homme chante en jouant de la guitare. Des enfants courent dans la neige. Il pourrait pleuvoir demain. Il y a trois pommes sur le
        bureau. Un grand carré bleu au-dessus d'un triangle vert. Je suis plus grand que mon père. Qu'en pensez-vous ? Nous ne savons pas.
        Combien de temps faut-il pour y arriver ? Tu aurais dû me dire la vérité.""",
    "es": """Hoy hace muy buen tiempo. Él caminó hasta la estación. Todavía no he leído este libro. ¿Me puede dar una taza de café, por favor? Un
        gato duerme en el sofá. Los veranos en Madrid son calurosos y secos. Ayer fui al cine con mis amigos. La reunión empieza a las tres
        de la tarde. Perdone, ¿dónde está el baño? Ella sale a correr todas las mañanas. Una mujer con un vestido rojo está junto a la
        puerta. Corte la cebolla en rodajas finas. Un perro persigue una pelota en el parque. El gobierno anunció una nueva ley. Un pequeño
        círculo rojo sobre un fondo blanco. Es divertido aprender nuevos idiomas. Un hombre canta mientras toca la guitarra. Niños corriendo
        por la nieve. Puede que llueva mañana. Hay tres manzanas sobre la mesa. Un gran cuadrado azul encima de un triángulo verde. Soy más
        alto que mi padre. ¿Qué piensas de eso? No lo sabemos. ¿Cuánto tiempo se tarda en llegar? Deberías haberme dicho la verdad.""",
    "zh": """今天天气很好。 他一直走到了车站。 我还没有看过这本书。 请给我一杯咖啡。 一只猫在沙发上睡觉。 东京的夏天又热又潮湿。
        昨天我和朋友们去看电影了。 会议下午三点开始。 请问，洗手间在哪里？ 她每天早上跑步。 一个穿红裙子的女人站在门口
        把洋葱切成薄片放进锅里 一只狗在公园里追球 政府宣布了一项新法案。 白色背景上的红色小圆 学习新的语言很有意思。
        一个男人一边弹吉他一边唱歌 孩子们在雪中奔跑 明天可能会下雨。 桌子上有三个苹果。 绿色三角形上面有一个蓝色的大正方形 我比我父亲高。
        你觉得怎么样？ 我们不知道。 到那里需要多长时间？ 你应该告诉我真相。 這是一張很漂亮的照片。 他們在學校裡學習中文。
        黑色的背景，黃色的圓形 研究人员表示这些结果非常重要。 我没有钱，所以买不起。 火车晚点了，我上学迟到了。 两个人在海滩上散步。
        我想喝一杯熱咖啡。 小男孩在花園裡和狗玩耍。 請問這個多少錢？ 他們喜歡吃水果和蔬菜。 歡迎來到我們的網站""",
    "ko": """오늘은 날씨가 아주 좋네요. 그는 역까지 걸어갔습니다. 저는 아직 이 책을 읽지 않았어요. 커피 한 잔 주세요. 고양이가 소파 위에서 자고
        있다. 서울의 여름은 덥고 습하다. 어제 친구들과 영화를 보러 갔다. 회의는 오후 세 시에 시작합니다. 실례합니다, 화장실이 어디예요?
        그녀는 매일 아침 조깅을 한다. 빨간 드레스를 입은 여자가 문 옆에 서 있다 양파를 얇게 썰어 냄비에 넣으세요. 개가 공원에서 공을 쫓고
        있다 정부는 새로운 법안을 발표했다. 하얀 배경에 작은 빨간 원 새로운 언어를 배우는 것은 재미있다. 한 남자가 기타를 치며 노래하고 있다
        아이들이 눈 속을 달린다 내일은 비가 올지도 모른다. 책상 위에 사과가 세 개 있습니다. 초록색 삼각형 위에 큰 파란색 사각형이 있다 저는
        아버지보다 키가 커요. 어떻게 생각하세요? 우리는 모릅니다. 거기까지 얼마나 걸려요? 나에게 진실을 말했어야지.""",
}


def train(path: Path) -> None:
    """Writes the model whole or not at all."""
    lines = training_lines()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file, whole(path) as temporary:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        # One thread, for more of them race for the weights; but then fastText 0.9.3 sets a tenth of its table and leaves the rest as the
        # allocator hands it out: garbage, even NaN, where memory is used again. A process of its own gets fresh pages, which are zero.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
        subprocess.run([sys.executable, "-c", FIT, file.name, str(temporary), json.dumps(SETTINGS)], env=environment, check=True)
    print(f"{path}: {len(lines):,} lines of {len(SENTENCES)} languages, {path.stat().st_size:,} bytes")


def training_lines() -> list[str]:
    """`__label__ja text`, shuffled: runs cut out of every language's sentences, and for ja and en captions besides."""
    rng = random.Random(SEED)
    pairs = list(captions.pairs(CAPTIONS, "train", SEED))
    texts = {language: [part for line in block.splitlines() for part in (line.strip(), *spans(line, rng))] for language, block in SENTENCES.items()}
    texts["ja"] += [caption.ja for caption in pairs]
    texts["en"] += [caption.en for caption in pairs]
    lines = [f"__label__{language} {text}" for language, some in texts.items() for text in some]
    rng.shuffle(lines)
    return lines


def spans(text: str, rng: random.Random) -> list[str]:
    """`SPANS` runs of 2 to 12 words; of 3 to 30 characters for a text with hardly a space."""
    words = text.split()
    joiner, parts, shortest, longest = (" ", words, 2, 12) if len(words) > len(text) / 12 else ("", list(text), 3, 30)
    starts = [rng.randrange(max(1, len(parts) - shortest)) for _ in range(SPANS)]
    return [joiner.join(parts[start : start + rng.randint(shortest, longest)]).strip() for start in starts]


def main(argv: list[str] | None = None) -> int:
    prog = "python -m corpora.miniature.make_language_id"
    parser = argparse.ArgumentParser(prog=prog, description="Trains toyworld's language identification.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=TOYWORLD_MODELS / "language_id.ftz", help="the file to write (default %(default)s)")
    train(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
