"""English articles and plurals of emoji's names, by rule and by lists of exceptions."""

import re

VOWEL_SPELT = re.compile(r"[aeiou]|x-|hourglass|SUV|VHS", re.I)
CONSONANT_HEARD = re.compile(r"one-|unicorn|UFO|euro|ewe", re.I)
PROPER = re.compile(r"(?:Mount Fuji|Tokyo Tower|Santa Claus|Mrs\. Claus|Saturn|planet Earth)$")
ONE_OF_A_KIND = {"Statue of Liberty", "kaaba", "milky way", "sun"}
# Stuff that is not counted, by the last word.
STUFF = set(
    "bacon bread broccoli butter candy chocolate coral custard dango fire flame fondue food "
    "fruit garlic ice luggage meat oden paella pasta popcorn pudding ramen "
    "rice sake salad soap spaghetti stew sushi tempura thread yarn".split()
)
COUNTED_ALL_THE_SAME = {"canned food", "kiwi fruit", "custard"}
# Words that end in s in the singular.
SINGULAR_S = re.compile(r"(?:ss|us|is|os)$")
PREPOSITIONS = re.compile(r" (?:of|with|without|behind|over|on|in|at|by|from|through|to|and) ")
IRREGULAR = {
    **{"mouse": "mice", "man": "men", "woman": "women", "person": "people", "child": "children"},
    **{"foot": "feet", "tooth": "teeth", "ox": "oxen", "die": "dice"},
    **{"leaf": "leaves", "knife": "knives", "wolf": "wolves", "loaf": "loaves", "scarf": "scarves"},
    **{"elf": "elves", "sheep": "sheep", "deer": "deer", "shrimp": "shrimp", "squid": "squid"},
    **{"bison": "bison", "moai": "moai", "fish": "fish"},
    **{"potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "buffalo": "buffaloes"},
    **{"volcano": "volcanoes", "mosquito": "mosquitoes", "tornado": "tornadoes"},
    **{"superhero": "superheroes"},
}


def with_article(name: str) -> str:
    """'cat' to 'a cat', 'grapes' to 'grapes', 'sun' to 'the sun'."""
    if PROPER.match(name) or is_plural(name) or is_stuff(name):
        return name
    if name in ONE_OF_A_KIND:
        return f"the {name}"
    vowel = VOWEL_SPELT.match(name) and not CONSONANT_HEARD.match(name)
    return f"{'an' if vowel else 'a'} {name}"


def plural(name: str) -> str:
    """'cat' to 'cats', 'glass of milk' to 'glasses of milk'; nothing where counting reads badly."""
    head, found, rest = _head(name)
    bad = found.strip() not in ("", "of", "with", "without")
    if bad or PROPER.match(name) or name in ONE_OF_A_KIND or is_plural(name) or is_stuff(name):
        return ""
    *before, word = head.split(" ")
    return " ".join([*before, _plural_of_word(word)]) + found + rest


def is_plural(name: str) -> bool:
    word = _head(name)[0].rpartition(" ")[2]
    return word.endswith("s") and not SINGULAR_S.search(word)


def is_stuff(name: str) -> bool:
    head = _head(name)[0]
    return name not in COUNTED_ALL_THE_SAME and head.rpartition(" ")[2] in STUFF


def _head(name: str) -> tuple[str, str, str]:
    """The noun with what stands before it, a preposition, the rest."""
    found = PREPOSITIONS.search(name)
    return (name[: found.start()], found[0], name[found.end() :]) if found else (name, "", "")


def _plural_of_word(word: str) -> str:
    for singular, several in IRREGULAR.items():
        alone = word.lower() == singular
        if alone or (len(singular) > 2 and word.lower().endswith(singular)):
            return word[: len(word) - len(singular)] + several
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"
