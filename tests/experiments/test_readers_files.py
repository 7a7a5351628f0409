"""Shapes of files and names of columns: read as they are meant, or refused in one sentence that names line and column."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.describe import configure, describe, measure
from bufferlab.experiments.workloads.readers import Reading, find_reader, read_requests
from bufferlab.sim.workload import Columns


def read(folder: Path, text: str | bytes, name: str = "t.csv", **options: Any) -> Reading:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_requests(path, options)


def rows(reading: Reading) -> list[tuple[float, int, int, int, str]]:
    """Arrival, total, text, images and client of every row."""
    columns = reading.columns
    names = [columns.clients[client] for client in columns.client.tolist()]
    return list(
        zip(
            columns.arrival_s.tolist(), columns.total_tokens.tolist(), columns.text_tokens.tolist(),
            columns.images.tolist(), names, strict=True,
        )
    )  # fmt: skip


PLAIN = [(0.0, 5, 5, 0, ""), (1.5, 7, 3, 1, "")]


@pytest.mark.parametrize(
    "text",
    [
        "arrival_s,total_tokens,text_tokens,images\n0,5,5,0\n1.5,7,3,1\n",
        "arrival_s,total_tokens,text_tokens,images\n0,5,5,0,\n1.5,7,3,1,\n",
        "arrival_s,total_tokens,text_tokens,images\n0,5,5,0,,,\n1.5,7,3,1\n\n,,,\n",
        "arrival_s,total_tokens,text_tokens,images,\n0,5,5,0,\n1.5,7,3,1,\n",
        "arrival_s;total_tokens;text_tokens;images\n0;5;5;0\n1,5;7;3;1\n",
        "sep=;\narrival_s;total_tokens;text_tokens;images\n0;5;5;0\n1,5;7;3;1\n",
        "arrival_s\ttotal_tokens\ttext_tokens\timages\r\n0\t5\t5\t0\r\n1.5\t7\t3\t1\r\n",
        "arrival_s total_tokens text_tokens images\n0 5 5 0\n1.5 7 3 1\n",
        "\ufeffarrival_s,total_tokens,text_tokens,images\n0,5,5,0\n1.5,7,3,1\n",
        "# from my log\narrival_s, total_tokens, text_tokens, images\n0, 5, 5, 0\n1.5, 7, 3, 1\n",
        '"arrival_s","total_tokens","text_tokens","images"\n"0","5","5","0"\n"1.5","7","3","1"\n',
        ",arrival_s,total_tokens,text_tokens,images\n0,0,5,5,0\n1,1.5,7,3,1\n",
        "Arrival_S,Total Tokens,textTokens,Num-Images\n0,5.0,5,0\n1.5,7.0,3,1e0\n",
        "images,text_tokens,total_tokens,arrival_s\n1,3,7,1.5\n0,5,5,0\n",
    ],
)  # fmt: skip
def test_one_table_however_it_is_written(tmp_path: Path, text: str) -> None:
    assert rows(read(tmp_path, text)) == PLAIN
    assert rows(read(tmp_path, gzip.compress(text.encode()), "t.csv.gz")) == PLAIN
    assert rows(read(tmp_path, text.encode("utf-16"), "u.csv")) == PLAIN


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arrival_s,total_tokens\n0,5\n1,5,9\n", "line 3 has 3 fields, its header has 2: arrival_s, total_tokens"),
        ("arrival_s,total_tokens,images\n0,5,1\n\n1,5\n", "line 4 has 2 fields, its header has 3"),
        ("arrival_s,total_tokens\n0,5\n1,5,5\n", "line 3 has 3 fields"),
        ("arrival_s,total_tokens\n0,5\n1,", "line 3: total_tokens is empty, it must be a whole number from 1"),
        ("0,1000\n1,1001\n", "its first line must name the columns, it is 0,1000"),
        ("arrival_s,total_tokens,total_tokens\n0,5,6\n", "has the column total_tokens 2 times, it must have it once"),
        ('arrival_s,total_tokens\n0,"1,024"\n', "line 2: total_tokens is 1,024, it must be a whole number"),
        ("arrival_s;total_tokens\n0;1,024\n", "line 2: total_tokens is 1,024, it must be a whole number"),
        ("arrival_s,total_tokens\n0,5\n1,1_000\n", "line 3: total_tokens is 1_000, it must be a whole number"),
        ("arrival_s,total_tokens,images\n0,5,-1\n", "line 2: images is -1, it must be a whole number from 0 to"),
        ("arrival_s,prompt_tokens\n0,5\n1,-2\n", "line 3: prompt_tokens is -2, it must be a whole number from 1"),
        ("when,tok,imgs\n0,5,1\n", r"lacks the columns arrival_s \(or timestamp_s, timestamp, …\) and total_tokens \(or text_tokens and image_tokens\); its columns are when, tok, imgs; .*workload.options.columns says which column is which, and bufferlab workload --template"),
        ("ts,text_tokens,vison tokens\n0,5,6\n", r"lacks the column image_tokens \(beside text_tokens; or total_tokens in place of both\); .*as in --set workload.options.columns.image_tokens='\"vison tokens\"', and"),
        ("arival_s,total_tokens\n0,5\n", r"lacks the column arrival_s .*; not used: arival_s \(did you mean arrival_s\?\)"),
        ("arrival_s,user,client_id,total_tokens\n0,a,b,5\n", r"client_id and user may all be client; say which with workload.options.columns.client"),
        ("arrival_time,arrival,total_tokens\n0,0,5\n", "may all be arrival_s; say which"),
        ("arrival_s,total_tokens,text_tokens,image_tokens\n0,5,4,3\n", "line 2: text_tokens and image_tokens are 4 and 3, they must be at most total_tokens, 5, together"),
        ("arrival_s,total_tokens,image_tokens\n0,5,6\n", "line 2: image_tokens is 6, it must be at most total_tokens, 5"),
        ("arrival_s,text_tokens,image_tokens\n0,0,0\n", "line 2: text_tokens and image_tokens are 0"),
        ("arrival_s,total_tokens,prompt_tokens\n0,5,4\n", r"total_tokens and prompt_tokens may all be total_tokens, and differ"),
        ("arrival_s,total_tokens,encode_factor\n0,5,-1\n", "line 2: encode_factor is -1, it must be a number of at least 0"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as csv: it is not UTF-8 text"):
        read(tmp_path, b"arrival_s,total_tokens,client\n0,5,\xff\xff\n")
    with pytest.raises(UserError, match="line 2 cannot be read as jsonl: it must be an object in braces"):
        read(tmp_path, '{"arrival_s": 0, "total_tokens": 5}\n[1, 2]\n', "t.jsonl")
    with pytest.raises(UserError, match="line 2 cannot be read as jsonl"):
        read(tmp_path, '{"arrival_s": 0, "total_tokens": 5}\n{"arrival_s": 1, "tot', "t.jsonl")


# --- columns ---


def test_a_newcomers_table_is_read(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        "request_id,timestamp,model,prompt_tokens,image_tokens,num_images,output_tokens\n"
        "a1,2026-01-05T10:00:00.250+00:00,qwen,1307,1222,1,80\na2,2026-01-05T10:00:02+00:00,qwen,85,0,0,9\n",
    )
    assert rows(reading) == [(0.0, 1307, 85, 1, ""), (1.75, 85, 85, 0, "")]
    assert reading.notes == (
        "times are dates from 2026-01-05 10:00:00.250000 on, moved so that the first is at 0",
        "prompt_tokens taken as the whole length, with image_tokens in it (workload.options.columns.text_tokens = "
        '"prompt_tokens" if it is the text alone)',
        "columns: timestamp is arrival_s, prompt_tokens is total_tokens, num_images is images",
        "columns not used: request_id, model, output_tokens",
    )
    # Said otherwise, the prompt is the text alone; and where it cannot be the whole, it is.
    option = {"columns": {"text_tokens": "prompt_tokens"}}
    assert rows(Reading(read_requests(tmp_path / "t.csv", option).columns, 2))[0][1:3] == (1307 + 1222, 1307)
    part = read(tmp_path, "arrival_s,prompt_tokens,image_tokens\n0,50,1222\n1,60,0\n", "part.csv")
    assert rows(part) == [(0.0, 1272, 50, 0, ""), (1.0, 60, 60, 0, "")]
    assert "prompt_tokens taken as the text alone, since image_tokens is more in 1 rows" in part.notes


@pytest.mark.parametrize(
    ("head", "field"),
    [
        *((name, "images") for name in ("images", "num_images", "image_count", "NumImages", "n_images")),
        *((name, "client") for name in ("client", "user", "client_id", "user_id", "User ID", "tenant")),
        *((name, "total_tokens") for name in ("total_tokens", "prompt_tokens", "input_tokens", "input_length", "ContextTokens", "tokens_in")),
        *((name, "time") for name in ("arrival_s", "timestamp_s", "arrival_ms", "time_us", "Timestamp (ns)", "start_time_s", "ts_ms")),
    ],
)  # fmt: skip
def test_usual_names_of_columns(tmp_path: Path, head: str, field: str) -> None:
    names = {"time": "arrival_s", "total_tokens": "total_tokens", "text_tokens": "text_tokens", "images": "images",
             "client": "client"}  # fmt: skip
    names[field] = head
    reading = read(tmp_path, ",".join(names.values()) + "\n0,9,4,2,3\n" + "1000,9,4,2,b\n")
    assert [row[1:] for row in rows(reading)] == [(9, 4, 2, "3"), (9, 4, 2, "b")]
    assert not any("not used" in note for note in reading.notes)


def test_rows_that_may_be_slips_or_were_never_served_are_told(tmp_path: Path) -> None:
    rows_of = [f"{number},{100 + number},{503 if number in (4, 9) else 200}" for number in range(30)]
    head = "arrival_s,total_tokens,http_status"
    told = read(tmp_path, "\n".join([head, *rows_of]) + "\n").notes
    assert told[-2:] == (
        "columns not used: http_status",
        "2 rows with http_status of 400 or more, such as 503, are requests like the others; take them out of the file "
        "if they were turned away before any work",
    )
    rows_of[7] = "7,5000000,200"
    told = read(tmp_path, "\n".join([head, *rows_of]) + "\n").notes
    assert told[-1] == (
        "line 9 has 5,000,000 tokens, more than 10 times as many as the other rows have at most (129); if that is a "
        "slip, mend it in the file"
    )
    words = [f"{number},{100 + number},ok" for number in range(30)]
    assert (
        read(tmp_path, "\n".join(["arrival_s,total_tokens,status", *words]) + "\n").notes[-1]
        == "columns not used: status"
    )


def test_unused_columns_are_named_with_the_nearest_field(tmp_path: Path) -> None:
    reading = read(tmp_path, "arrival_s,total_tokens,text_tokens,imgs_count,usr,model,colour\n0,9,4,2,a,m,red\n")
    assert reading.notes[-1] == (
        "columns not used: imgs_count (did you mean images?), usr (did you mean client?), model, colour"
    )


def test_the_option_says_which_column_is_which_either_way_round(tmp_path: Path) -> None:
    text = "when,len,who\n0,9,a\n1500,8,b\n"
    for columns in (
        {"arrival_s": "when", "total_tokens": "len", "client": "who"},
        {"when": "arrival_s", "len": "total_tokens", "who": "client"},
    ):
        assert [row[:2] for row in rows(read(tmp_path, text, columns=columns))] == [(0, 9), (1500, 8)]
        assert rows(read(tmp_path, text, columns=columns, time_unit="ms"))[1] == (1.5, 8, 0, 0, "b")
    for columns, sentence in (
        (
            {"arrival_s": "wen"},
            r"workload.options.columns.arrival_s is 'wen' \(did you mean when\?\), it must be a column",
        ),
        ({"arival": "when"}, r"workload.options.columns has arival = 'when', one of which must be a field \(did you"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(tmp_path, text, columns=columns)
    # A mapped column makes a table of what looked like a public trace.
    own = "timestamp,input_length,text_tokens\n0,9,4\n1,9,4\n"
    assert rows(read(tmp_path, own, "m.csv", columns={"timestamp_s": "timestamp"}))[1] == (1.0, 9, 4, 0, "")


def test_the_sum_of_prompt_and_answer_is_not_the_prompt(tmp_path: Path) -> None:
    reading = read(tmp_path, "arrival_s,prompt_tokens,completion_tokens,total_tokens\n0,10,5,15\n1,20,1,21\n")
    assert reading.columns.total_tokens.tolist() == [10, 20]
    assert "total_tokens (it is prompt_tokens and completion_tokens together)" in reading.notes[-1]


def test_lengths_alone_are_said_to_be_images(tmp_path: Path) -> None:
    text = "arrival_s,total_tokens\n0,9\n1,8\n"
    assumed = read(tmp_path, text)
    assert assumed.columns.text_tokens.tolist() == [0, 0]
    assert (
        'no column says which part is text: all tokens taken as images\'; workload.options.content = "text"'
        in (assumed.notes[0])
    )
    assert read(tmp_path, text, content="text").columns.text_tokens.tolist() == [9, 8]
    # Requests without images are text.
    counted = read(tmp_path, "arrival_s,total_tokens,images\n0,9,0\n1,8,2\n")
    assert counted.columns.text_tokens.tolist() == [9, 0]


# --- public formats ---


def test_public_formats_are_known_by_their_columns(tmp_path: Path) -> None:
    burst = read(
        tmp_path,
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "19440110.0,aa,43,GPT-4,906,446,1352,Conversation log\n19440161.0,bb,2,ChatGPT,36,0,36,API log\n"
        "19440192.0,cc,2,ChatGPT,0,0,0,API log\n",
        "burst.csv",
    )
    assert rows(burst) == [(0.0, 906, 906, 0, ""), (51.0, 36, 36, 0, "")]
    assert (burst.rows, len(burst.columns)) == (3, 2)
    assert "1 row without tokens left out" in burst.notes
    old = read(
        tmp_path,
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,230,1317,Conversation log\n",
        "old.csv",
    )
    assert rows(old) == [(0.0, 472, 472, 0, ""), (40.0, 1087, 1087, 0, "")]
    bailian = read(
        tmp_path,
        '{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.25, "input_length": 521, "output_length": 132, '
        '"type": "text", "turn": 1, "hash_ids": [1089, 1090]}\n'
        '{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.5, "input_length": 900, "output_length": 1, '
        '"type": "image", "turn": 2, "hash_ids": [1]}\n',
        "bailian.jsonl",
    )
    assert rows(bailian) == [(0.0, 521, 521, 0, ""), (1.25, 900, 0, 1, "")]
    lmm = read(
        tmp_path,
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15T12:00:00.269Z,1,1408,77\n"
        "2024-10-15T12:00:01.269Z,,,\n2024-10-15T12:00:02.269Z,0,776,141\n",
        "lmm.csv",
    )
    assert rows(lmm) == [(0.0, 1408, 0, 1, ""), (2.0, 776, 776, 0, "")]
    assert "1 row without tokens left out" in lmm.notes
    week = read(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:00.017335+00:00,2399,6\n2024-05-10 00:00:01+00:00,76,15\n",
        "week.csv",
    )
    assert week.columns.arrival_s.tolist() == pytest.approx([0, 0.007405, 0.99007])
    titles = {path.name: find_reader(path).title for path in tmp_path.iterdir()}
    assert titles == {
        "burst.csv": "a BurstGPT trace", "old.csv": "a BurstGPT trace", "bailian.jsonl": "a Qwen-Bailian trace",
        "lmm.csv": "an Azure trace", "week.csv": "an Azure trace",
    }  # fmt: skip


def test_public_formats_in_other_containers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"timestamp": [0, 3000, 6000], "input_length": [5, 6, 7], "output_length": [1, 1, 1]})
    frame.to_parquet(tmp_path / "m.parquet")
    frame.to_csv(tmp_path / "m.csv", index=False)
    frame.to_json(tmp_path / "m.jsonl", orient="records", lines=True)
    for name in ("m.parquet", "m.csv", "m.jsonl"):
        assert read_requests(tmp_path / name).columns.arrival_s.tolist() == [0, 3, 6], name
    moments = pd.to_datetime(["2024-10-15 12:00:00.25", "2024-10-15 12:00:01"], format="ISO8601")
    azure = pd.DataFrame({"TIMESTAMP": moments, "ContextTokens": [5, 6]})
    azure.to_parquet(tmp_path / "a.parquet")
    assert read_requests(tmp_path / "a.parquet").columns.arrival_s.tolist() == [0, 0.75]


def test_the_spread_of_coarse_stamps_is_said(tmp_path: Path) -> None:
    text = "".join(f'{{"timestamp": {stamp}, "input_length": 5}}\n' for stamp in (0, 0, 0, 3000, 3000, 6000))
    reading = read(tmp_path, text, "m.jsonl")
    assert any(note.startswith("requests that share a time stamp (3 s apart) spread evenly") for note in reading.notes)


# --- describing ---


def test_a_long_silence_takes_no_memory() -> None:
    import tracemalloc

    times = np.asarray([0.0, 1.0, 2.0, 3e7])
    tracemalloc.start()
    found = measure(Columns.of(times, np.asarray([5, 5, 5, 5])), [10])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    # Thirty million windows of a second, in three of which there is one request.
    assert found["dispersion 1"] == pytest.approx(1.0, abs=1e-6)
    assert found["peak 1"] == pytest.approx(3e7 / 3)


def test_a_description_says_what_was_assumed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,total_tokens,colour\n0,9,red\n1,8,blue\n")
    described = describe(configure(str(tmp_path / "t.csv")), [10])
    assert described["traffic"]["sentence"] == "workload: 2 of 2 requests of t.csv, 1 s, 1/s"
    assert described["traffic"]["notes"][-1] == "columns not used: colour"


def test_a_quote_that_is_not_closed_hides_no_rows(tmp_path: Path) -> None:
    head = "arrival_s,total_tokens,note\n"
    for broken in ('0,5,a\n1,5,"b\n2,5,c\n3,5,d\n', '0,5,a\n1,5,"b\n2,5,c\n3,5,"d"\n'):
        with pytest.raises(UserError, match=r"t.csv, line 3 cannot be read as csv: .*is a quote not closed there"):
            read(tmp_path, head + broken)
    whole = read(tmp_path, head + '0,5,"a\nb"\n1,"5" ,"say ""so"" , please"\n')
    assert whole.columns.total_tokens.tolist() == [5, 5]


def test_clients_are_found_in_tables_of_public_forms(tmp_path: Path) -> None:
    for text in (
        "TIMESTAMP,ContextTokens,GeneratedTokens,User\n2024-05-10 00:00:00,5,1,a\n2024-05-10 00:00:01,6,1,b\n",
        "timestamp,input_length,output_length,client_id\n0,5,1,a\n1000,6,1,b\n",
    ):
        reading = read(tmp_path, text)
        assert reading.columns.clients == ("a", "b")
        assert "is client" in " ".join(reading.notes)


def test_what_json_nests_is_named_and_no_column_is_two_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: images is a list, it must be a whole number"):
        read(tmp_path, '{"arrival_s": 0, "total_tokens": 5, "images": ["a.png"]}\n', "t.jsonl")
    with pytest.raises(UserError, match=r"columns has len for images and total_tokens, it must be one of them"):
        read(tmp_path, "arrival_s,len\n0,5\n", columns={"total_tokens": "len", "images": "len"})


def test_every_format_of_the_folder_is_known() -> None:
    """A new format is one new module: nobody lists them."""
    import bufferlab.experiments.workloads.readers as package

    known = {reader.__module__.rpartition(".")[2] for reader in package.readers()}
    folder = Path(package.__path__[0])
    registering = {path.stem for path in folder.glob("*.py") if "@register" in path.read_text(encoding="utf-8")}
    assert known == registering
    assert {"azure", "burstgpt", "mooncake"} <= known


COUNTED = ["arrival_s{0}text_tokens{0}image_tokens\n0{0}5{0}5\n", "2{0}{1}{0}5\n"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("cell", ["1,000", "12,345", "1,234,567"])
def test_a_comma_between_thousands_is_never_a_decimal_comma(tmp_path: Path, delimiter: str, cell: str) -> None:
    text = "".join(COUNTED).format(delimiter, f'"{cell}"' if delimiter == "," else cell)
    with pytest.raises(UserError, match=f"line 3: text_tokens is {cell}, it must be"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "arrival_s;total_tokens\n0;1.000\n1;2.000\n",
        "arrival_s\ttotal_tokens\n0\t1.000\n1\t2.000\n",
        "arrival_s;total_tokens\n0;500\n1;1.000\n",
    ],
)
def test_a_point_that_may_stand_between_thousands_is_asked_about(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"total_tokens is 1\.000, it must be a whole number .*, with nothing"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("delimiter", "late"), [("\t", "1,842"), (";", "1,842"), (";", "1.842"), ("|", "1,842"), ("\t", "1.842")]
)
def test_times_with_thousands_are_asked_about(tmp_path: Path, delimiter: str, late: str) -> None:
    rows = [("arrival_ms", "total_tokens"), ("0", "5"), ("512", "5"), (late, "5")]
    with pytest.raises(UserError, match=f"line 4: arrival_ms is {late}, it must be"):
        read(tmp_path, "".join(delimiter.join(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("0,0", "0,154", "2,842"), [0, 0.154, 2.842]),
        (("0.000", "1.154", "2.842"), [0, 1.154, 2.842]),
        (("1.154", "2.842", "3.100"), [0, 1.688, 1.946]),
        (("0,5", "1,154", "2,842"), [0, 0.654, 2.342]),
    ],
)
def test_decimals_that_can_be_nothing_else_are_read(
    tmp_path: Path, times: tuple[str, ...], expected: list[float]
) -> None:
    text = "timestamp_s;total_tokens\n" + "".join(f"{time};5\n" for time in times)
    assert read(tmp_path, text).columns.arrival_s.tolist() == pytest.approx(expected)


DATES = ("2024-05-10 00:00:00.000", "2024-05-10 00:00:01.500")


@pytest.mark.parametrize(
    ("head", "cells", "known"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", [f"{date},100,7" for date in DATES], "an Azure trace"),
        ("Timestamp,Request tokens,Response tokens", ["0,100,7", "2,100,7"], "a BurstGPT trace"),
        ("timestamp,input_length,output_length,chat_id,type", ["0,100,7,1,text", "2,100,7,2,text"], "a Qwen-Bailian"),
        ("timestamp,input_length,output_length", ["0,100,7", "2000,100,7"], "a Mooncake trace"),
    ],
)
@pytest.mark.parametrize("images", ["num_image_tokens", "Image tokens", "vision_tokens"])
def test_images_beside_a_published_header_are_not_thrown_away(
    tmp_path: Path, head: str, cells: list[str], known: str, images: str
) -> None:
    plain, own = tmp_path / "plain.csv", tmp_path / "own.csv"
    plain.write_text("\n".join([head, *cells]))
    own.write_text("\n".join([f"{head},{images}", *(f"{cell},60" for cell in cells)]))
    assert find_reader(plain).title.startswith(known)
    options = {} if "Azure" in known else {"time_unit": "s"}
    assert [row[1:3] for row in rows(read_requests(own, options))] == [(100, 40), (100, 40)]


@pytest.mark.parametrize("name", ["images", "num_images", "image_count"])
def test_bailians_requests_have_the_images_that_a_column_of_them_says(tmp_path: Path, name: str) -> None:
    text = f"chat_id,timestamp,input_length,type,{name}\n1,0,100,image,3\n2,1,50,text,0\n"
    assert [row[3] for row in rows(read(tmp_path, text, time_unit="s"))] == [3, 0]


def test_two_columns_of_images_are_asked_about_unless_they_are_the_same(tmp_path: Path) -> None:
    text = "arrival_s,total_tokens,images,num_images\n0,5,1,{}\n1,5,0,0\n"
    with pytest.raises(UserError, match=r"images and num_images may both be images, and differ; say which with"):
        read(tmp_path, text.format(2))
    reading = read(tmp_path, text.format(1), "same.csv")
    assert "columns not used: num_images (the same as images)" in reading.notes
    mapped = read(tmp_path, text.format(2), "mapped.csv", columns={"images": "num_images"})
    assert [row[3] for row in rows(mapped)] == [2, 0]


def test_azures_rows_without_a_number_of_images_have_none(tmp_path: Path) -> None:
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n" + f"{DATES[0]},,100,7\n{DATES[1]},2.0,50,7\n"
    reading = read(tmp_path, text)
    assert rows(reading) == [(0.0, 100, 100, 0, ""), (1.5, 50, 0, 2, "")]
    assert "1 row with nothing in NumImages taken as without images" in reading.notes
    with pytest.raises(UserError, match="line 2: NumImages is many, it must be a whole number"):
        read(tmp_path, text.replace(",,100", ",many,100"), "bad.csv")


def test_a_total_with_the_answer_in_it_is_told_from_one_of_the_parts(tmp_path: Path) -> None:
    text = "arrival_s,text_tokens,image_tokens,output_tokens,total_tokens\n0,10,20,5,{}\n1,1,2,3,{}\n"
    reading = read(tmp_path, text.format(35, 6))
    assert [row[1:3] for row in rows(reading)] == [(30, 10), (3, 1)]
    assert any("total_tokens (it is text_tokens, image_tokens and output_tokens together)" in n for n in reading.notes)
    assert [row[1] for row in rows(read(tmp_path, text.format(30, 3), "parts.csv"))] == [30, 3]
    with pytest.raises(UserError, match="line 3: text_tokens and image_tokens make 3, but total_tokens is 12"):
        read(tmp_path, text.format(30, 12), "bad.csv")


def test_a_total_beside_an_answer_alone_is_said(tmp_path: Path) -> None:
    reading = read(tmp_path, "arrival_s,total_tokens,completion_tokens\n0,10,5\n1,7,3\n")
    assert any(
        note.startswith("total_tokens taken as the whole prompt, without completion_tokens;") for note in reading.notes
    )
