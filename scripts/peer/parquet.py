#!/usr/bin/env python3
"""Writes Parquet files in the ways of pyarrow, pandas, datasets and older writers, for the tests of this project.

Usage: parquet.py        (pip install pyarrow==26.0.1; from anywhere, into tests/parquet)
"""

import datetime
import decimal
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/parquet"
# Line ends within texts, a letter of two bytes and one of four, an empty text, one that is there twice.
TEXTS = ["one", "two\r\nlines", "", "thr\u00e4e \U0001f600", "one", "five\n", "six"]


def write(name, table, **options):
    pq.write_table(table, FOLDER / f"{name}.parquet", **options)


def texts(kind=pa.string()):
    return pa.table({"id": pa.array(range(7), pa.int64()), "text": pa.array(TEXTS, kind)})


def messages(conversations, keys=("role", "content"), more=()):
    fields = [pa.field(key, pa.string()) for key in keys] + list(more)
    return pa.array([None if c is None else [dict(zip(keys, m)) for m in c] for c in conversations], pa.list_(pa.struct(fields)))


def main():
    FOLDER.mkdir(exist_ok=True)
    # Three row groups of three, three and one rows.
    for codec in ["none", "snappy", "gzip", "zstd"]:
        write(f"texts_{codec}", texts(), compression=codec, row_group_size=3)
    # Pages of the second version, of one value each, and the encodings that come with it.
    write("texts_v2", texts(pa.large_string()), data_page_version="2.0", use_dictionary=False, data_page_size=1,
          write_batch_size=1, column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"}, compression="zstd")
    write("texts_delta_length", texts(), use_dictionary=False, column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"})
    write("texts_category", pa.table({"text": pa.array(TEXTS).dictionary_encode()}))
    write("texts_required", pa.table({"text": pa.array(TEXTS)}, schema=pa.schema([pa.field("text", pa.string(), nullable=False)])))
    write("texts_lz4", texts(), compression="lz4")
    write("nulls", pa.table({"text": ["one", "two", None, "four"]}), row_group_size=2)
    write("empty", texts().slice(0, 0))
    write("twice", pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
    conversations = [
        [("user", "one"), ("assistant", "two\n")],
        [("system", ""), ("user", "\u00e4"), ("assistant", "x")],
        [("user", "alone")],
    ]
    more = [pa.field("tool_calls", pa.list_(pa.struct([pa.field("name", pa.string())]))), pa.field("weight", pa.float32())]
    write("chat", pa.table({"messages": messages(conversations, more=more), "source": ["a", "b", None]}), row_group_size=2)
    write("chat_v2", pa.table({"messages": messages(conversations)}), data_page_version="2.0", data_page_size=1, write_batch_size=1)
    write("chat_sharegpt", pa.table({"conversations": messages([[("human", "a"), ("gpt", "b")]], ("from", "value"))}))
    write("chat_null", pa.table({"messages": messages([conversations[0], None, []])}))
    # A file of the older ways: the repeated group is the element.
    write("chat_legacy", pa.table({"messages": messages(conversations)}), use_compliant_nested_type=False)
    moment = datetime.datetime(2024, 7, 26)
    write("types", pa.table({
        "text": ["a"],
        "binary": pa.array([b"a"]),
        "moment": pa.array([moment]),
        "day": pa.array([moment.date()]),
        "money": pa.array([decimal.Decimal("1.25")]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "half": pa.array([1.5], pa.float16()),
        "texts": [["a", "b"]],
        "columns": pa.array([{"role": ["user"], "content": ["a"]}]),
        "image": pa.array([{"bytes": b"a", "path": "p"}]),
        "nothing": pa.array([None], pa.null()),
        "number": pa.array([5], pa.int64()),
    }), coerce_timestamps="us")
    write("values", pa.table({
        "int8": pa.array([-5, 127, None], pa.int8()),
        "uint8": pa.array([250, 0, None], pa.uint8()),
        "uint32": pa.array([4294967295, 0, None], pa.uint32()),
        "uint64": pa.array([18446744073709551615, 1, None], pa.uint64()),
        "int64": pa.array([-9223372036854775808, 1, None], pa.int64()),
        "float": pa.array([0.1, float("nan"), None], pa.float32()),
        "double": pa.array([0.1, float("inf"), None], pa.float64()),
        "bool": pa.array([True, False, None]),
        "lists": pa.array([[["a", None], []], [], None], pa.list_(pa.list_(pa.string()))),
        "struct": pa.array([{"a": {"b": 1}, "c": [1, 2]}, {"a": None, "c": None}, None],
                           pa.struct([("a", pa.struct([("b", pa.int32())])), ("c", pa.list_(pa.int32()))])),
        "structs": pa.array([[{"a": 1, "b": ["x", "y"]}, {"a": None, "b": []}], [None], []],
                            pa.list_(pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]))),
        "nothing": pa.array([None, None, None], pa.null()),
    }))
    write("task", pa.table({
        "id": ["x", "y"],
        "question": ["Where?", "When?"],
        "options": [["here", "there"], ["now", "then", "never"]],
        "answer": pa.array([1, 0], pa.int64()),
        "when": pa.array([moment, moment]),
    }), coerce_timestamps="us")


main()
