"""Twins have the right answer, or there is none."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.records import canonical_json, task_id
from selfimp_dagster.tasks.suites import ReasoningGymSource, Task, stream_tasks
from selfimp_dagster.tasks.transformations import (
    TRANSFORMATIONS,
    numbers,
    renamed,
    reordered,
    reseeded,
    reworded,
)
from selfimp_dagster.tasks.transformations.names import FEMALE, MALE
from selfimp_dagster.tasks.verifiers import verify

CLIPS = "Ada sold {} clips in April and then half as many in May. How many clips did she sell altogether?"
CLIPS_SOLVED = "{0}/2 = <<{0}/2={1}>>{1} clips in May.\nTogether {0}+{1} = <<{0}+{1}={2}>>{2}.\n#### {2}"
SHELF = (
    "A shelf has 8 boards. Each board holds 15 books. A visitor takes 20% of the books. "
    "How many books are left after 6 weeks?"
)
SEEDS = range(12)


def question(prompt: str, answer: str, solution: str | None = None, verifier: str = "exact") -> Task:
    entry = None if solution is None else canonical_json({"solution": solution})
    id_ = task_id("words", prompt, answer)
    return Task(id_, "words", "file:w.jsonl", 1.0, prompt, answer, verifier, entry, "file")


def solved(prompt: str, *steps: str) -> Task:
    """A task whose solution is these steps (`48/2=24`), the last of which gives the answer."""
    lines = [f"{step.split('=')[0]} = <<{step}>>{step.split('=')[1]}" for step in steps]
    answer = steps[-1].split("=")[1]
    return question(prompt, answer, "\n".join([*lines, f"#### {answer}"]))


def figures(text: str | None) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", text or "")]


def items(family: str, count: int, **parameters: int) -> Iterable[Task]:
    source = ReasoningGymSource(family=family, parameters=parameters)
    return islice(stream_tasks(source, "skill", 3, Path("nowhere")), count)


def test_numbers_are_changed_and_the_solution_is_computed_again() -> None:
    task = question(CLIPS.format(48), "72", CLIPS_SOLVED.format(48, 24, 72))
    twins = [numbers(task, seed) for seed in SEEDS]
    for twin in twins:
        assert twin is not None
        [sold] = figures(twin.prompt)
        assert twin.prompt == CLIPS.format(sold)
        assert sold != 48
        assert sold % 2 == 0, "half of the clips is a number of clips"
        assert figures(twin.answer) == [sold + sold // 2]
        assert (twin.parent_ids, twin.source, twin.verifier) == ((task.task_id,), "numbers", "exact")
        assert verify(twin, twin.answer or "").value == 1
    assert len({twin.prompt for twin in twins if twin}) > 3
    assert numbers(task, 5) == numbers(task, 5)


def test_a_number_is_changed_wherever_it_is_used() -> None:
    task = solved(
        "Bo packs 20 bags of 5 figs and 20 bags of 8. How many figs?", "20*5=100", "20*8=160", "100+160=260"
    )
    for twin in filter(None, (numbers(task, seed) for seed in SEEDS)):
        bags, figs, again, others = figures(twin.prompt)
        assert bags == again
        assert twin.answer == str(bags * figs + again * others)


def test_divisions_stay_without_remainder_and_differences_above_zero() -> None:
    task = solved("Of 90 pens 34 are red. The others fill boxes of 8. How many boxes?", "90-34=56", "56/8=7")
    found = 0
    for twin in filter(None, (numbers(task, seed) for seed in range(40))):
        pens, red, box = figures(twin.prompt)
        assert (pens - red) % box == 0
        assert twin.answer == str((pens - red) // box)
        assert red < pens
        found += 1
    assert found > 10


def test_round_numbers_stay_round_and_thousands_keep_their_comma() -> None:
    task = solved("Rent is $1,500 and food is $400. What do both cost?", "1500+400=1900")
    for twin in filter(None, (numbers(task, seed) for seed in SEEDS)):
        rent, food = figures(twin.prompt)
        assert rent % 100 == food % 50 == 0
        assert f"${rent:,}" in twin.prompt
        assert food < rent


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        # The 7 of the week and the 7 of the prompt are not to be told apart.
        ("Cy eats 7 figs a day. How many in a week?", ["7*7=49"]),
        # The 60 is no number of the prompt, so some step is missing.
        ("Di has 20 red and 40 blue pens and loses 9. How many are left?", ["60-9=51"]),
        # 13 is not half of 25.
        ("Ed has 25 figs and eats half. How many are left?", ["25/2=13"]),
        # The comparison of the two is no step.
        (
            "Flo runs 30 laps of 9 minutes, Gus 40 of 8. How long does the slower one take?",
            ["30*9=270", "40*8=320"],
        ),
        # The 50 is not used: perhaps it is a limit.
        ("Tickets cost 30 each, for more than 50 less. What do 12 tickets cost?", ["12*30=360"]),
        # What can be changed (percentages, dates, clock times, fractions, small numbers) is not there.
        ("In 1995 Hal had 30% of 4 pies at 9 am. How much is 1/5?", ["1995-30=1965", "1965-4-9-1-5=1946"]),
        # A free number that equals an earlier result.
        ("Ida has 24 figs and buys 12 more, then 36 more. How many figs?", ["24+12=36", "36+36=72"]),
    ],
)
def test_numbers_that_are_not_understood_are_left_alone(prompt: str, steps: list[str]) -> None:
    twins = [numbers(solved(prompt, *steps), seed) for seed in SEEDS]
    assert twins == [None] * len(twins) or prompt.startswith("Ida")
    for twin in filter(None, twins):  # the ambiguous 36 must stay consistent
        first, second, third = figures(twin.prompt)
        assert twin.answer == str(first + second + third)
        assert third == first + second


@pytest.mark.parametrize(
    "solution",
    [
        "48/2 = <<48/2=24>>24 and 24 + 48 = 72.\n#### 72",  # an equation without annotation
        "48/2 = <<48/2=24>>24.\n48+24 = <<72=72>>72\n#### 72",  # an annotation without formula
        "48/2 = <<48/2=24>>24.\n48+24 = <<48+24=72>>72\n#### 71",  # another answer
        "48/2 = <<48/2=24>>24 of 37.\n48+24 = <<48+24=72>>72\n#### 72",  # a number from nowhere
        "<<__import__('os')=24>>24\n#### 72",
        f"<<{'(' * 5000}48{')' * 5000}=48>>\n#### 72",
        "<<48/0=24>>24\n<<48+24=72>>\n#### 72",
        "no annotation\n#### 72",
        "",
    ],
)
def test_a_solution_that_is_not_complete_gives_no_twin(solution: str) -> None:
    answer = "71" if "#### 71" in solution else "72"
    assert numbers(question(CLIPS.format(48), answer, solution), 1) is None


def test_without_a_solution_numbers_are_not_changed() -> None:
    assert numbers(question(CLIPS.format(48), "72"), 1) is None


def test_an_article_fits_the_new_number() -> None:
    task = solved("Jo fills an 8-liter tub and a 50-liter tub. How many liters?", "8+50=58")
    for twin in filter(None, (numbers(task, seed) for seed in range(30))):
        first, second = figures(twin.prompt)
        assert ("an 8-" in twin.prompt) or f"an {first}-" in twin.prompt
        assert first in (8, 11)
        assert not str(second).startswith("8")


def test_persons_get_other_names_of_their_gender() -> None:
    prompt = "James gives Emily 3 figs. James' sister gives Emily's brother 2. How many does Emily have?"
    task = question(prompt, "3")
    for seed in SEEDS:
        twin = renamed(task, seed)
        assert twin is not None
        match = re.fullmatch(
            r"(\w+) gives (\w+) 3 figs. (\w+)'s sister gives (\w+)'s brother 2. How many does (\w+) have\?",
            twin.prompt,
        )
        assert match is not None, twin.prompt
        he, she, *others = match.groups()
        assert others == [he, she, she]
        assert he in MALE
        assert she in FEMALE
        assert not {he, she} & {"James", "Emily"}
        assert twin.answer == "3"
    assert renamed(task, 1) == renamed(task, 1)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Who is older, Emily or Bob? Emily is 3, Bob is 2.", "Emily"),
        ("How many letters has Emily?", "5"),
        ("Let E be the age of Emily, 3. What is E?", "3"),
        ("Emily, or Emi for short, is 3. How old is Emi?", "3"),
        ("The train from Santa Barbara takes 3 hours. How long is that?", "3"),
        ("A farmer has 3 figs. How many?", "3"),
    ],
)
def test_names_that_may_matter_are_not_exchanged(prompt: str, answer: str) -> None:
    assert renamed(question(prompt, answer), 1) is None


def test_names_are_listed_once_and_for_one_gender() -> None:
    assert len({*FEMALE, *MALE}) == len(FEMALE) + len(MALE)
    assert not {"Mark", "Grace", "June", "Alex", "Charlotte"} & {*FEMALE, *MALE}


def test_operands_are_reordered_and_the_answer_stays() -> None:
    for family in ("chain_sum", "products"):
        for task in items(family, 30, min_terms=3, max_terms=4):
            twin = reordered(task, 1)
            if twin is None:
                continue
            assert sorted(figures(twin.prompt)) == sorted(figures(task.prompt))
            assert twin.answer == task.answer
            assert verify(twin, f"It is {twin.answer}.").value == 1
            assert verify(twin, "It is 1234567.").value == 0


def test_a_difference_keeps_its_signs() -> None:
    task = question("What is 71 - 72 * 2 + 80 =", "7")
    prompts = {twin.prompt for seed in range(60) if (twin := reordered(task, seed))}
    assert "What is 80 - 72 * 2 + 71 =" in prompts
    assert "What is 80 - 2 * 72 + 71 =" in prompts
    for prompt in prompts:
        expression = prompt.removeprefix("What is ").removesuffix(" =")
        assert eval(expression) == 7  # figures and signs alone


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is 3 + 4 * 5 / 2?", "13"),  # a division
        ("What is 3 + 4?", "8"),  # not the answer
        ("What is 3 + 4, or 4 + 5?", "7"),  # two of them
        ("What is 5 - 4?", "1"),  # nothing to exchange
    ],
)
def test_arithmetic_that_is_not_understood_is_left_alone(prompt: str, answer: str) -> None:
    assert all(reordered(question(prompt, answer), seed) is None for seed in SEEDS)


OPTIONS = "Which is the largest?\nA) a fig\nB) a melon\nC) a grape\nD) a plum\nAnswer with the letter."


def test_options_are_reordered_and_the_right_one_followed() -> None:
    letters = set()
    for seed in range(30):
        twin = reordered(question(OPTIONS, "B"), seed)
        assert twin is not None
        assert f"\n{twin.answer}) a melon\n" in twin.prompt
        assert sorted(twin.prompt.splitlines()[1:5]) != sorted(OPTIONS.splitlines()[1:5])
        letters.add(twin.answer)
        by_text = reordered(question(OPTIONS, "a melon"), seed)
        assert by_text is not None
        assert by_text.answer == "a melon"
    assert letters == set("ABCD")


@pytest.mark.parametrize("last", ["all of the above", "both A and B", "a fig"])
def test_options_that_refer_to_each_other_stay(last: str) -> None:
    assert reordered(question(OPTIONS.replace("a plum", last), "B"), 1) is None


def test_independent_premises_are_reordered() -> None:
    prompt = "Ada likes fruit. Each fig costs $2. Each melon costs $7. How much are 3 figs and a melon?"
    twin = reordered(question(prompt, "13"), 1)
    assert twin is not None
    assert (
        twin.prompt
        == "Ada likes fruit. Each melon costs $7. Each fig costs $2. How much are 3 figs and a melon?"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "Ada has 5 figs. Bo gave Ada 2 figs. How many has Ada?",  # something happens
        "Ada has 5 figs. She has 2 melons. How many has Ada?",  # she
        "Each fig costs $2. Each melon costs twice as much. What does a melon cost?",  # as what?
        "Each box has 5 figs. Each bag has 2 figs. These are ripe. How many are ripe?",  # which?
        "Mr. Hill has 5 figs. Bo has 2 figs. How many are there?",  # no sentence ends behind Mr.
        "Ada has 5 figs. Bo has 2. How many are there?",  # 2 what?
        "Ada has 5 figs. How many are there?",  # nothing to exchange
    ],
)
def test_premises_that_hang_together_stay(prompt: str) -> None:
    assert all(reordered(question(prompt, "7"), seed) is None for seed in SEEDS)


def test_words_are_exchanged_for_others_of_the_same_meaning() -> None:
    prompt = "Dad bought 3 figs each day and doesn't eat any. How many did Dad buy in total?"
    changes = {
        "Dad": "Father",
        "bought": "purchased",
        "each": "every",
        "doesn't": "does not",
        "in total": "altogether",
    }
    twins = {twin.prompt for seed in range(40) if (twin := reworded(question(prompt, "21"), seed))}
    assert len(twins) > 10
    for twin in twins:
        back = twin
        for old, new in changes.items():
            back = back.replace(new, old)
        assert back == prompt


def test_words_of_the_answer_are_not_exchanged() -> None:
    assert reworded(question("Is it a photo or a film?", "photo", verifier="contains"), 1) is None
    assert reworded(question("The movie and the film: how many?", "2"), 1) is None, "they would become one"


def test_an_item_of_a_family_is_drawn_anew() -> None:
    for family in ("chain_sum", "letter_counting", "gcd"):
        [task] = items(family, 1)
        twin = reseeded(task, 1)
        assert twin is not None
        assert twin.suite == task.suite
        assert twin.prompt != task.prompt
        assert twin.parent_ids == (task.task_id,)
        assert verify(twin, str(twin.answer)).value == 1
        assert reseeded(task, 1) == twin
        for name in ("numbers", "renamed", "reworded"):
            assert TRANSFORMATIONS[name](task, 1) is None


@given(prompt=st.text(max_size=80), answer=st.text(max_size=10), seed=st.integers(0, 9))
def test_nonsense_gives_no_error_and_never_the_same_prompt(prompt: str, answer: str, seed: int) -> None:
    for transformation in TRANSFORMATIONS.values():
        twin = transformation(question(prompt, answer, prompt), seed)
        assert twin is None or twin.prompt != prompt
