"""The numbers that a text says without writing them in digits: number words, fractions, units."""

import re
from fractions import Fraction

_NUMBER_WORDS = """
zero one two three four five six seven eight nine
ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety
third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
"""
_ONES, _TEENS, _TENS, _PARTS = (line.split() for line in _NUMBER_WORDS.strip().splitlines())

_WORDS: dict[str, set[Fraction]] = {
    **{word: {Fraction(value)} for value, word in enumerate(_ONES + _TEENS)},
    **{word: {Fraction(10 * value)} for value, word in enumerate(_TENS, start=2)},
    **{
        f"{ten}-{unit}": {Fraction(10 * tens + units)}
        for tens, ten in enumerate(_TENS, start=2)
        for units, unit in enumerate(_ONES[1:], start=1)
    },
    **{
        part + plural: {Fraction(value), Fraction(1, value), 1 - Fraction(1, value), Fraction(value - 1)}
        for value, part in enumerate(_PARTS, start=3)
        for plural in ("", "s")
    },
    "hundred": {Fraction(100)},
    "thousand": {Fraction(1000)},
}

_MEANT: tuple[tuple[str, str], ...] = (
    (r"half|halves|halved|halfway", "2 1/2 3/2"),
    (r"twice|double[sd]?|doubling|both|pairs?|couples?|twins?", "2"),
    (r"thrice|triple[sd]?|triplets?|tripling|trio|triangles?", "3"),
    (r"quarters?|quarterly", "4 1/4 3/4 25 0.25 3"),
    (r"quadruple[sd]?|squares?|rectang\w+|cats?|dogs?|cows?|horses?|sheep|goats?|chairs?|tables?|cars?", "4"),
    (r"dozens?", "12"),
    (r"seconds?", "60"),
    (r"minutes?|min", "60"),
    (r"hours?|hourly|hr", "60 24 12 3600"),
    (r"days?|daily|every ?day|today|overnight|nights?", "24 7 30 31 365 14"),
    (r"weeks?|weekly|fortnight|biweekly|bi-weekly", "7 4 52 14 5"),
    (r"weekdays?|workweek|school week|work week|working days?|school days?", "5"),
    (r"weekends?", "2"),
    (r"months?|monthly|bimonthly", "12 30 31 4 28 2"),
    (r"(?-i:January|March|May|July|August|October|December)", "31"),
    (r"(?-i:April|June|September|November)", "30"),
    (r"(?-i:February)", "28 29"),
    (r"years?|yearly|annual\w*", "12 52 365 366 4"),
    (r"decades?", "10"),
    (r"century|centuries", "100"),
    (r"foot|feet|inch|inches", "12"),
    (r"yards?", "3 36"),
    (r"miles?", "5280 1760"),
    (r"pounds?|ounces?|lbs?|oz", "16"),
    (r"tons?", "2000"),
    (r"gallons?|quarts?|pints?|cups?", "2 4 8 16 128"),
    (r"tablespoons?|teaspoons?", "3"),
    (r"kilo\w*|kg|km|ml|milli\w*|liters?|litres?|grams?|meters?|metres?|mm|tonnes?", "1000 100"),
    (r"centi\w*|cm", "100"),
    (r"percent\w*|per cent|cents?|¢", "100"),
    (r"dimes?", "10 0.1"),
    (r"nickels?", "5 0.05"),
    (r"penn(?:y|ies)", "100 0.01"),
    (r"dollar bills?|coins?", "100"),
    (r"spiders?|octop\w+|octagon\w*", "8"),
    (r"insects?|cubes?|hexagon\w*|dice|die", "6"),
    (r"pentagon\w*", "5"),
    (r"degrees?|angles?", "90 180 360"),
    (r"decks?|cards?", "52"),
    (r"average\w*|mean", "2"),
    (r"grade|scores?|tests?|exams?", "100"),
)
_MEANT_BY = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), frozenset(map(Fraction, values.split())))
    for words, values in _MEANT
)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?", re.IGNORECASE)
_PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:%|percent|per cent)", re.IGNORECASE)
_FRACTION = re.compile(r"(?<![\d/.])(\d+)/(\d+)(?![\d/])")


def constants_of(text: str) -> frozenset[Fraction]:
    """What the words of a text may stand for in a calculation, as its percentages and fractions may.

    A percentage p may be p, p / 100, what is left of the whole, or the whole with it.
    """
    found: set[Fraction] = set()
    for word in _WORD.findall(text.lower()):
        for part in {word, *word.split("-")}:
            found |= _WORDS.get(part, set())
    for pattern, values in _MEANT_BY:
        if pattern.search(text):
            found |= values
    for share in _PERCENTAGE.findall(text):
        value = Fraction(share)
        for hundred in (Fraction(1), Fraction(100)):
            found |= {
                value / 100 * hundred,
                (1 - value / 100) * hundred,
                (1 + value / 100) * hundred,
                hundred,
            }
    for above, below in _FRACTION.findall(text):
        if int(below):
            part = Fraction(int(above), int(below))
            found |= {Fraction(above), Fraction(below), part, 1 - part, Fraction(below) - Fraction(above)}
    return frozenset(found)
