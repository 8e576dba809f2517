"""Where two files part: the row, field, tensor or line, both values, and how far it goes."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.lineage.differences import Difference, file_difference, value_differences

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)
_SAMPLES = pl.DataFrame(
    {
        "sample_id": ["a", "b", "c"],
        "response": ["7", "0", "7"],
        "sum_logprob": [-0.5, -1.5, float("nan")],
        "messages": [[{"role": "user", "content": "learn"}]] * 3,
    }
)


@given(_JSON)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert not list(value_differences(value, json.loads(json.dumps(value))))


@given(st.dictionaries(st.sampled_from("abc"), _JSON, min_size=1), _JSON, st.data())
def test_what_was_changed_is_what_is_found(value: dict[str, Any], other: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    changed = {**value, name: {"changed": other}}
    places = [place for place, _, _ in value_differences(value, changed)]
    assert places
    assert all(place == name or place.startswith(f"{name}.") for place in places)


def _tables(folder: Path, now: pl.DataFrame, recorded: pl.DataFrame = _SAMPLES) -> Difference:
    recorded.write_parquet(folder / "recorded.parquet")
    now.write_parquet(folder / "now.parquet")
    return file_difference("samples.parquet", folder / "recorded.parquet", folder / "now.parquet")


def test_the_first_row_and_column_that_differ_are_named_and_the_others_counted(tmp_path: Path) -> None:
    now = _SAMPLES.with_columns(
        response=pl.Series(["7", "1", "2"]), sum_logprob=pl.Series([-0.5, -1.25, float("nan")])
    )
    assert _tables(tmp_path, now) == Difference(
        "samples.parquet",
        "row sample_id=b, column response",
        "'0'",
        "'1'",
        "2 of 3 rows differ; 2 in response; 1 in sum_logprob, by at most 0.25",
    )


def test_rows_are_found_by_their_id_wherever_they_are(tmp_path: Path) -> None:
    now = _SAMPLES.reverse().with_columns(
        response=pl.when(pl.col("sample_id") == "b").then(pl.lit("1")).otherwise("response")
    )
    assert _tables(tmp_path, now).place == "row sample_id=b, column response"


@pytest.mark.parametrize(
    ("now", "place", "recorded", "found"),
    [
        (_SAMPLES[1:], "row sample_id=a", "there", "not there"),
        (
            pl.concat([_SAMPLES, _SAMPLES[:1].with_columns(sample_id=pl.lit("d"))]),
            "row sample_id=d",
            "not there",
            "there",
        ),
        (_SAMPLES.reverse(), "order of the rows, from row 0 on", "sample_id=a", "sample_id=c"),
        (_SAMPLES.drop("response"), "column response", "'String'", "nothing"),
        (
            _SAMPLES.with_columns(pl.col("sum_logprob").cast(pl.Float32)),
            "column sum_logprob",
            "'Float64'",
            "'Float32'",
        ),
    ],
)
def test_rows_order_and_columns_are_told_apart(
    tmp_path: Path, now: pl.DataFrame, place: str, recorded: str, found: str
) -> None:
    difference = _tables(tmp_path, now)
    assert (difference.place, difference.recorded, difference.now) == (place, recorded, found)


def test_the_same_table_in_other_bytes_is_said_to_be_that(tmp_path: Path) -> None:
    _SAMPLES.write_parquet(tmp_path / "recorded.parquet")
    _SAMPLES.write_parquet(tmp_path / "now.parquet", compression="uncompressed")
    difference = file_difference("samples.parquet", tmp_path / "recorded.parquet", tmp_path / "now.parquet")
    assert difference.place == "its bytes"
    assert difference.recorded != difference.now
    assert difference.extent == "the same content, written in another way"


def test_rows_of_an_unknown_table_are_compared_by_their_place(tmp_path: Path) -> None:
    for name, values in (("recorded", [1, 2]), ("now", [1, 3])):
        pl.DataFrame({"n": values}).write_parquet(tmp_path / f"{name}.parquet")
    difference = file_difference("others.parquet", tmp_path / "recorded.parquet", tmp_path / "now.parquet")
    assert (difference.place, difference.recorded, difference.now) == ("row place=1, column n", "2", "3")


def test_weights_tell_the_tensor_how_many_values_and_how_far(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    recorded = {"a": torch.zeros(4), "b": torch.zeros(2, 5), "c": torch.ones(3)}
    now = {name: tensor.clone() for name, tensor in recorded.items()}
    now["b"][1, 2], now["b"][0, 0], now["c"][0] = 0.5, 0.25, 3.0
    save_file(recorded, tmp_path / "recorded.safetensors")
    save_file(now, tmp_path / "now.safetensors")
    assert file_difference(
        "model.safetensors", tmp_path / "recorded.safetensors", tmp_path / "now.safetensors"
    ) == Difference(
        "model.safetensors",
        "tensor b, value 7",
        "0",
        "0.5",
        "20.0% of its values differ, by at most 0.5; 2 of 3 tensors, by at most 2",
    )


@pytest.mark.parametrize(
    ("now", "place", "recorded", "found"),
    [
        ({"a": "zeros", "b": 3}, "tensor b", "torch.float32 (2,)", "torch.float32 (3,)"),
        ({"a": "zeros"}, "tensor b", "there", "not there"),
        ({"a": "zeros", "b": 2, "c": 1}, "tensor c", "not there", "there"),
    ],
)
def test_other_tensors_are_named(
    tmp_path: Path, now: dict[str, Any], place: str, recorded: str, found: str
) -> None:
    import torch
    from safetensors.torch import save_file

    def save(name: str, sizes: dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(
            {tensor: torch.zeros(2 if size == "zeros" else size) for tensor, size in sizes.items()}, path
        )
        return path

    difference = file_difference("m.safetensors", save("recorded", {"a": "zeros", "b": 2}), save("now", now))
    assert (difference.place, difference.recorded, difference.now) == (place, recorded, found)


def test_a_document_tells_the_field(tmp_path: Path) -> None:
    (tmp_path / "recorded.json").write_text('{"scores": [{"accuracy": 0.5}, {"accuracy": 0.25}], "n": 1}')
    (tmp_path / "now.json").write_text('{"scores": [{"accuracy": 0.5}, {"accuracy": 0.75}]}')
    assert file_difference("report.json", tmp_path / "recorded.json", tmp_path / "now.json") == Difference(
        "report.json", "n", "1", "nothing", "2 values differ"
    )


def test_a_text_tells_the_line_and_long_lines_from_where_they_part(tmp_path: Path) -> None:
    (tmp_path / "recorded.md").write_text("# title\n" + 200 * "-" + "left\nend\n")
    (tmp_path / "now.md").write_text("# title\n" + 200 * "-" + "right\nend\n")
    difference = file_difference("README.md", tmp_path / "recorded.md", tmp_path / "now.md")
    assert difference.place == "line 2"
    assert difference.recorded.startswith("...---")
    assert difference.recorded.endswith("left'")
    assert difference.now.endswith("right'")
