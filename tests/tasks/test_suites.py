"""Task sources: what they refuse, and that their streams can be drawn again."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.tasks import families
from selfimp_dagster.tasks.suites import (
    FileRow,
    FileSource,
    ReasoningGymSource,
    TaskSource,
    check,
    read_rows,
    stream_tasks,
)

ROWS = [
    {"question": "Ada has 3 red and 4 blue pens. How many pens?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    {"question": "A crate holds 1,200 nuts. How many do 2 crates hold?", "answer": "2 * 1,200\n#### 2,400"},
    {"question": "Bo walks 5 km a day. How far in 6 days?", "answer": "5 * 6 = <<5*6=30>>30\n#### 30"},
]


def file_source(**changes: Any) -> FileSource:
    values = {
        "path": "words.jsonl",
        "prompt_column": "question",
        "answer_column": "answer",
        "answer_pattern": "#### (.+)$",
    }
    return FileSource(**{**values, **changes})


def write_jsonl(folder: Path, rows: list[Any], name: str = "words.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def refusal(source: ReasoningGymSource | FileSource, folder: Path) -> SelfimpError:
    with pytest.raises(SelfimpError) as caught:
        check(source, "skills.words", folder)
    assert caught.value.fix
    return caught.value


def test_the_suite_field_decides_the_kind_of_source() -> None:
    adapter: TypeAdapter[TaskSource] = TypeAdapter(TaskSource)
    assert isinstance(
        adapter.validate_python({"suite": "reasoning_gym", "family": "gcd"}), ReasoningGymSource
    )
    with pytest.raises(ValidationError, match="prompt_column"):
        adapter.validate_python({"suite": "file", "path": "x.jsonl", "answer_column": "a"})
    with pytest.raises(ValidationError, match="familly"):
        adapter.validate_python({"suite": "reasoning_gym", "family": "gcd", "familly": "gcd"})


@pytest.mark.parametrize(
    ("family", "parameters", "where", "what"),
    [
        ("chainsum", {}, "skills.words.family", "did you mean chain_sum"),
        ("chain_sum", {"max_term": 3}, "skills.words.parameters.max_term", "did you mean max_terms"),
        ("chain_sum", {"seed": 3}, "skills.words.parameters.seed", "no parameter 'seed' to set"),
        ("chain_sum", {"min_terms": "two"}, "skills.words.parameters.min_terms", "valid integer"),
        (
            "chain_sum",
            {"min_terms": 9},
            "skills.words.parameters.min_terms",
            "max_terms must be >= min_terms",
        ),
        ("ransom_note", {}, "skills.words.family", "other items in every Python process"),
    ],
)
def test_a_wrong_family_or_parameter_is_refused_by_name(
    family: str, parameters: dict[str, Any], where: str, what: str, tmp_path: Path
) -> None:
    error = refusal(ReasoningGymSource(family=family, parameters=parameters), tmp_path)
    assert error.where == where
    assert what in error.what


def test_a_sound_source_passes(tmp_path: Path) -> None:
    check(ReasoningGymSource(family="chain_sum", parameters={"max_terms": 2}), "skills.sums", tmp_path)
    write_jsonl(tmp_path, ROWS)
    check(file_source(), "skills.words", tmp_path)


@pytest.mark.parametrize(
    "family", ["chain_sum", "arc_1d", "advanced_geometry", "gsm_symbolic", "letter_counting"]
)
def test_a_stored_item_is_restored_exactly(family: str) -> None:
    for item in islice(families.items(family, {}, seed=5), 5):
        assert families.decode_item(families.encode_item(family, {}, item)) == (family, {}, item)


def test_values_that_json_does_not_know_survive() -> None:
    item = {"question": "q", "metadata": {(1, 2): [{3, 4}, {"$tuple": (5, (6,))}], 7: None}}
    assert families.decode_item(families.encode_item("gcd", {}, item))[2] == item


def test_a_stream_depends_on_skill_and_seed_alone(tmp_path: Path) -> None:
    source = ReasoningGymSource(family="chain_sum")

    def prompts(skill: str, seed: int) -> list[str]:
        return [task.prompt for task in islice(stream_tasks(source, skill, seed, tmp_path), 300)]

    assert prompts("sums", 1) == prompts("sums", 1)
    assert prompts("sums", 1) != prompts("sums", 2)
    assert prompts("sums", 1) != prompts("more sums", 1)
    assert len(set(prompts("sums", 1))) > families.CHUNK_ITEMS  # a second chunk brings other items


def test_a_file_yields_every_row_once_in_an_order_given_by_the_seed(tmp_path: Path) -> None:
    rows = [{"question": f"What is {number} + 1?", "answer": f"#### {number + 1}"} for number in range(20)]
    write_jsonl(tmp_path, rows)
    first, again, other = (
        [task.prompt for task in stream_tasks(file_source(), "words", seed, tmp_path)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(first) == sorted(other) == sorted(row["question"] for row in rows)


def test_the_pattern_takes_the_final_answer_out_of_the_column(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS)
    tasks = list(stream_tasks(file_source(), "words", 0, tmp_path))
    assert {task.answer for task in tasks} == {"7", "2,400", "30"}
    assert {(task.suite, task.verifier, task.source) for task in tasks} == {
        ("file:words.jsonl", "math", "file")
    }


def test_parquet_rows_are_read_like_jsonl_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS)
    pl.DataFrame(ROWS).write_parquet(tmp_path / "words.parquet")
    assert read_rows(file_source(path="words.parquet"), tmp_path) == read_rows(file_source(), tmp_path)


def test_rows_without_a_usable_answer_are_skipped_and_counted(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path,
        [*ROWS, {"question": "Why?", "answer": "because"}, {"question": "Who?"}, {"answer": "#### 1"}],
    )
    content = read_rows(file_source(), tmp_path)
    assert len(content.rows) == 3
    assert content.skipped == {"answer_pattern does not match": 2, "no prompt": 1}


def test_numbers_in_the_answer_column_are_answers(tmp_path: Path) -> None:
    write_jsonl(tmp_path, [{"question": "3 + 4?", "answer": 7}])
    assert read_rows(file_source(answer_pattern=None), tmp_path).rows == (FileRow("3 + 4?", "7"),)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS[:1])
    assert len(read_rows(file_source(), tmp_path).rows) == 1
    write_jsonl(tmp_path, ROWS)
    assert len(read_rows(file_source(), tmp_path).rows) == 3


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"path": "absent.jsonl"}, "skills.words.path", "there is no file"),
        ({"path": "words.csv"}, "skills.words.path", "neither JSONL nor Parquet"),
        ({"path": "broken.jsonl"}, "skills.words.path", "line 2 of broken.jsonl is not JSON"),
        ({"path": "list.jsonl"}, "skills.words.path", "line 1 of list.jsonl is not a JSON object"),
        ({"path": "latin.jsonl"}, "skills.words.path", "not UTF-8"),
        ({"path": "broken.parquet"}, "skills.words.path", "cannot be read as Parquet"),
        ({"path": "empty.jsonl"}, "skills.words.prompt_column", "no column 'question'"),
        ({"prompt_column": "prompt"}, "skills.words.prompt_column", "no column 'prompt'"),
        ({"answer_column": "solution"}, "skills.words.answer_column", "no column 'solution'"),
        ({"answer_pattern": "@@ (.+)"}, "skills.words.answer_pattern", "none of the 3 rows"),
    ],
)
def test_a_wrong_file_or_column_is_refused_by_name(
    changes: dict[str, str], where: str, what: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path, ROWS)
    write_jsonl(tmp_path, [["not", "an", "object"]], "list.jsonl")
    (tmp_path / "words.csv").write_text("question,answer\n")
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROWS[0]) + "\n{oops\n")
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é"}'.encode("latin-1"))
    (tmp_path / "broken.parquet").write_text("not parquet")
    (tmp_path / "empty.jsonl").write_text("")
    error = refusal(file_source(**changes), tmp_path)
    assert error.where == where
    assert what in error.what


def test_a_missing_column_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS)
    assert "answer, question" in refusal(file_source(prompt_column="prompt"), tmp_path).fix


@pytest.mark.parametrize("pattern", ["#### .+", "(a)(b)", "(unclosed"])
def test_an_answer_pattern_needs_one_group(pattern: str) -> None:
    with pytest.raises(ValidationError, match="answer_pattern"):
        file_source(answer_pattern=pattern)
