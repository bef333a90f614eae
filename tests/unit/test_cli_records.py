import io

import pytest

from ifinu.cli.records import Format, read
from ifinu.errors import ConfigurationError, InvalidNotification


def records(content, form):
    return list(read(io.BytesIO(content), form))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b'{"id":"a"}\n{"id":"b"}\n', [(1, {"id": "a"}), (2, {"id": "b"})]),
        (b'\xef\xbb\xbf{"id":"a"}\n\n  \n{"id":"b"}', [(1, {"id": "a"}), (4, {"id": "b"})]),
        (b'{"id":"a"}\r\n{"id":"b"}\r\n', [(1, {"id": "a"}), (2, {"id": "b"})]),
    ],
)
def test_json_lines_are_read_with_their_numbers(content, found):
    assert [(r.line, r.read()) for r in records(content, Format.JSONL)] == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"id,kind\n", []),
        (b"id,kind\na,lembrete\n", [(2, {"id": "a", "kind": "lembrete"})]),
        (b"id;tipo_notificacao\na;atraso\n", [(2, {"id": "a", "tipo_notificacao": "atraso"})]),
        (b"\xef\xbb\xbf ID , Kind \na,lembrete", [(2, {"id": "a", "kind": "lembrete"})]),
        (b"id,kind,name\na,lembrete,\n", [(2, {"id": "a", "kind": "lembrete"})]),
        (b"id;kind\n\na;b,c\n", [(3, {"id": "a", "kind": "b,c"})]),
        (
            b'kind,name\nlembrete,"Jo\xc3\xa3o\ne Maria"\natraso,Ana\n',
            [(2, {"kind": "lembrete", "name": "João\ne Maria"}), (4, {"kind": "atraso", "name": "Ana"})],
        ),
    ],
)
def test_a_csv_is_read_with_its_numbers(content, found):
    assert [(r.line, r.read()) for r in records(content, Format.CSV)] == found


@pytest.mark.parametrize(
    ("content", "form", "reason"),
    [
        (b"{bad\n", Format.JSONL, "is not JSON"),
        (b'{"id":"Jo\xe3o"}', Format.JSONL, "is not UTF-8, at byte 9"),
        (b"[1]", Format.JSONL, "must be a JSON object, not a list"),
        (b"id,kind\na\n", Format.CSV, "has 1 cells, and the header has 2"),
        (b"id,kind\na,b,c\n", Format.CSV, "has 3 cells, and the header has 2"),
        (b"id,kind\nJo\xe3o,b\n", Format.CSV, "is not UTF-8, at byte 2"),
    ],
)
def test_a_record_that_cannot_be_read_says_why_and_does_not_end_the_file(content, form, reason):
    (record,) = records(content, form)
    with pytest.raises(InvalidNotification, match=reason):
        record.read()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must name the columns, kind or tipo_notificacao among them"),
        (b"a,lembrete,77998616740\n", "must name the columns"),
        (b"id,kind,id\n", "names a column twice"),
    ],
)
def test_a_csv_without_a_good_header_is_refused_whole(content, reason):
    with pytest.raises(ConfigurationError, match=reason):
        records(content, Format.CSV)


def test_the_bytes_of_a_record_are_kept():
    header, *rows = b"id;kind\n", b'"a\nb";lembrete\n', b"c;\xe3\n"
    assert [(r.header, r.raw) for r in records(header + b"".join(rows), Format.CSV)] == [(header, row) for row in rows]
