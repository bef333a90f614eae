"""Files of records: CSV, JSON and spreadsheets of any program."""

import builtins
import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ifinu import names
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.tables import Fields, Format, Table
from ifinu.tables import table as table_module
from ifinu.tables.delimited import shielded

CASES = Path(__file__).parents[1] / "cases"
NAMES = {"id": "id", "kind": "kind", "tipo": "kind", "name": "name", "usuario_id": "usuario_id"}
FIELDS = Fields(names=NAMES, needed=[("id",), ("kind",)], guards=frozenset({"usuario_id"}), likely=names.likely)


def table(content, form=None, *, fields=FIELDS, name="a.csv", sheet=None):
    return Table(io.BytesIO(content), fields, name=name, form=form, sheet=sheet)


def outcomes(content, form=None, **options):
    """By line: the record read there, or the reason for its refusal."""
    found = {}
    opened = table(content, form, **options)
    for record in opened:
        try:
            found[record.line] = opened.read(record)
        except InvalidNotification as exc:
            found[record.line] = str(exc)
    return found


def a(**more):
    return {"id": "a", "kind": "x", **more}


def b(**more):
    return {"id": "b", "kind": "y", **more}


# -- CSV


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"id,kind\n", {}),
        (b"id,kind\na,x\n", {2: a()}),
        (b"id;tipo\na;x\n", {2: a()}),
        (b"id\tkind\na\tx\n", {2: a()}),
        (b"id|kind\na|x\n", {2: a()}),
        (b"sep=|\r\nid|kind\r\na|x\r\n", {3: a()}),
        (b"sep=#\nid#kind\na#x\n", {3: a()}),
        (b"\xef\xbb\xbf ID , Kind \na,x", {2: a()}),
        (b"id,kind,name\na,x,\n", {2: a()}),
        (b"id;kind\n\n;\n;;;\na;x\n", {5: a()}),
        (b"id;kind;;\na;x;;\nb;y\n", {2: a(), 3: b()}),
        (b"id;kind;name\na;x\nb;y;", {2: a(), 3: b()}),
        (b"Charges of May;;\n\nid;kind;name\na;x;Ana\n", {4: a(name="Ana")}),
        (b"id;kind;obs;obs\na;x;1;2\n", {2: a()}),
        ('kind,id,"name\n(whole)"\nx,a,"João\ne Maria"\ny,b,"5"" pipe"\n'.encode(), {3: a(), 5: b()}),
        ('kind,id,name\nx,a,"João\ne Maria"\ny,b,"5"" pipe"\n'.encode(),
         {2: a(name="João\ne Maria"), 4: b(name='5" pipe')}),
        (b'id,kind,name\na, "x" ,Ana "A" Lima\n', {2: a(name='Ana "A" Lima')}),
        (b"id;kind;name\n'1;x;'Ana\n", {2: {"id": "1", "kind": "x", "name": "'Ana"}}),
        (b"id;kind\ra;x\rb;y\r", {2: a(), 3: b()}),
        (b'id;kind;name\r\na;x;"A\rB"\r\n', {2: a(name="A\rB")}),
        (b"id;kind;name\r\na;x;\\N\r\n\x1a", {2: a()}),
        (b"id\tkind\tname\na\tx\tAna\\nLima\n", {2: f"name: {table_module._COPIED}"}),
        ("\ufeff\ufeffid;kind\na;x\n".encode(), {2: a()}),
    ],
)  # fmt: skip
def test_a_csv_is_read_as_a_person_reads_it(content, found):
    assert outcomes(content) == found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'a;x;"Ana', 'has a " that no other one closes'),
        (b'a;x;"Ana" Lima', 'has a " that no other one closes'),
        (b'"', 'has a " that no other one closes'),
        (b"a;x;A\rB", "has a carriage return inside a cell"),
        (b"a;x;A\0B", "has NUL bytes"),
        (b"a;x;Ana;1", "has 4 cells, and the header has 3"),
        (b'a;x;"A;B', 'has a " that no other one closes'),
        (b"a;x;" + b"z" * 1_100_000, "is longer than 1,048,576 bytes"),
        (b"\xe3;x", "is not UTF-8, at byte 0"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_one_wrong_line_is_one_refused_line(line, reason):
    above, below = "b;y;João".encode(), b'b;y;"J;L"\nb;y'
    found = outcomes(b"id;kind;name\n" + above + b"\n" + line + b"\n" + below + b"\n")
    assert found.pop(3).startswith(reason)
    assert found == {2: b(name="João"), 4: b(name="J;L"), 5: b()}


def test_quotes_in_two_rows_do_not_swallow_the_rows_between():
    found = outcomes(b'id;kind;name\na;x;"Ana\nb;y;Bia"\nb;y\n')
    assert found[2].startswith('has a " that no other one closes')
    assert (found[3], found[4]) == (b(name='Bia"'), b())


def test_a_row_that_ends_too_early_is_refused_where_that_matters():
    assert outcomes(b"id;kind;name;usuario_id\na;x;Ana\nb;y\n") == {
        2: "usuario_id: is not in this row, which has 3 cells where the header has 4",
        3: "usuario_id: is not in this row, which has 2 cells where the header has 4",
    }
    assert outcomes(b"id;kind;name\na;x;Ana\nb;y")[3] == "has 2 cells, and the header has 3: the file is cut off here"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a.csv: line 1 must name the columns, id, kind or tipo among them"),
        (b"a,x\nb,y\n", "no line of the first 20 names all needed columns; missing: id, kind or tipo$"),
        (b"id;name\n", "missing: kind or tipo; line 1 has: id, name$"),
        (b"Title\n\nid;Cliente\n1;Ana\n", "missing: kind or tipo; line 3 has: id, Cliente"),
        (b"id;kind;id\n", "line 1 names a column twice: id"),
        (b"id;kind;tipo\n", "line 1 names a column twice: tipo"),
        (b"\0\1\2\3" * 999, "has no header that can be read: line 1 has NUL bytes"),
        (b"\x1f\x8b\x08\0", "is compressed; unpack it first"),
        (b"\n<html><body>", "is HTML or XML"),
        (b"%PDF-1.4", "is a PDF"),
        (b"PK\x03\x04 and no spreadsheet", "looks like a spreadsheet but cannot be read"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "looks like a spreadsheet but cannot be read"),
    ],
)
def test_an_unreadable_file_is_refused_with_a_reason(content, reason):
    with pytest.raises(ConfigurationError, match=reason):
        table(content)


def test_a_column_is_mapped():
    mapped = Fields.mapping(["Código = interno=id", "Nome Completo=name"], NAMES)
    fields = Fields(names=NAMES, needed=[("id",)], mapped=mapped)
    content = "id;código = interno;NOME  completo\n1;a;Ana\n".encode()
    opened = table(content, fields=fields)
    assert opened.spelling == {"id": "código = interno", "name": "NOME completo"}
    assert outcomes(content, fields=fields) == {2: {"id": "a", "name": "Ana"}}
    assert outcomes(b'{"Nome Completo":"Ana"}', fields=fields) == {1: {"name": "Ana"}}
    with pytest.raises(ConfigurationError, match="missing: 'Nome Completo'"):
        table("código = interno\n1\n".encode(), fields=fields)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["Nome"], 'write it as "Column=field"'),
        (["=id"], 'write it as "Column=field"'),
        (["Nome=nome"], "unknown field; the fields are id, kind"),
        (["A=id", "B=id"], "another column is mapped to id already"),
    ],
)
def test_a_malformed_mapping_is_refused(options, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Fields.mapping(options, NAMES)


def test_unused_columns_are_named_with_the_fields_they_resemble():
    opened = table("id;kind;Usuário;obs\n".encode())
    assert opened.guesses == {"Usuário": "usuario_id"}
    assert opened.notes[0].startswith("columns not used: 'Usuário' (did you mean usuario_id?), 'obs';")


# -- encodings

ROWS = "id;kind;name\na;x;João\nb;y;Conceição\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (ROWS.encode(), "UTF-8"),
        (ROWS.encode("utf-8-sig"), "UTF-8"),
        (ROWS.encode("cp1252"), "Windows-1252"),
        (ROWS.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + ROWS.encode("utf-16-be"), "UTF-16"),
        (ROWS.encode("utf-16-le"), "UTF-16"),
        (ROWS.encode("utf-16-be"), "UTF-16"),
        (ROWS.encode("utf-32"), "UTF-32"),
    ],
)
def test_an_encoding_is_detected(content, encoding):
    opened = table(content)
    assert [opened.read(record) for record in opened] == [a(name="João"), b(name="Conceição")]
    assert opened.encoding == encoding


def test_an_encoding_is_detected_far_into_a_file():
    plain = b"b;y;Ana Lima\n" * 20_000
    found = outcomes(b"id;kind;name\n" + plain + "a;x;João\n".encode("cp1252"))
    assert found[20_002] == a(name="João")


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (["João".encode(), "José".encode(), "João".encode("cp1252")], {4: "is not UTF-8, at byte 6"}),
        (["João".encode("cp1252"), "José".encode("cp1252"), "João".encode()],
         {4: "is UTF-8, while the lines above are Windows-1252"}),
        (["João".encode(), "Conceição".encode("cp850")], {3: "is not UTF-8, at byte 10"}),
        (["João".encode("cp1252"), "Conceição".encode("cp850")], {3: "is neither UTF-8 nor Windows-1252"}),
    ],
)  # fmt: skip
def test_a_line_in_another_encoding_is_refused(lines, refused):
    found = outcomes(b"id;kind;name\n" + b"\n".join(b"a;x;" + line for line in lines))
    assert {line: reason for line, reason in found.items() if isinstance(reason, str)} == refused


def test_half_a_character_of_utf_16_is_refused_with_its_line():
    content = ROWS.encode("utf-16-le").replace("João".encode("utf-16-le"), b"\x00\xd8o\0")
    found = outcomes(b"\xff\xfe" + content)
    assert found[2].startswith("is not UTF-16")
    assert found[3] == b(name="Conceição")


# -- JSON


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", {}),
        (b'{"id":"a"}\n{"id":"b"}\n', {1: {"id": "a"}, 2: {"id": "b"}}),
        (b'\xef\xbb\xbf{"id":"a"}\r\n\n  \n{"id":"b"}', {1: {"id": "a"}, 4: {"id": "b"}}),
        (b'[{"id":"a"},{"id":"b"}]', {1: {"id": "b"}}),
        (b'[\n {"id":"a"},\n {"id":"b"}\n]\n', {2: {"id": "a"}, 3: {"id": "b"}}),
        (b'{\n "id": "a",\n "c": {"d": ["{", {"e": 1}]}\n}\n{\n "id": "b"\n}',
         {1: {"id": "a", "c": {"d": ["{", {"e": 1}]}}, 5: {"id": "b"}}),
        ('[{"id":"J\\"}{ã"}]'.encode("cp1252"), {1: {"id": 'J"}{ã'}}),
        ('[{"id":"ã"}]'.encode("utf-16"), {1: {"id": "ã"}}),
        (b'{"id":"a","path":"C:\\\\temp\\\\nota.pdf"}', {1: {"id": "a", "path": "C:\\temp\\nota.pdf"}}),
        (b"[]", {}),
    ],
)  # fmt: skip
def test_json_is_read_one_a_line_or_as_an_array(content, found):
    assert outcomes(content, Format.JSONL) == found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id":"a"', "is not JSON"),
        (b'{"id":"a}', "is not JSON"),
        (b'{"id":"a"}}', "is no"),
        (b'{"id":"a","c":{"d":1}', "is not JSON"),
        (b'["id"]', "is not a JSON object"),
        (b"nonsense", "is not a JSON object"),
        (b'{"id":"a","id":"a"}', "is not valid JSON"),
        (b'{"id":"a\\\\nb"}', "id: has a line break or a quote that is spelled out"),
        (b'{"id":"a \\\\"b\\\\""}', "has a line break or a quote that is spelled out"),
        (b'{"id":"' + b"z" * 1_100_000 + b'"}', "is longer than"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_one_wrong_object_is_one_refused_object(line, reason):
    found = outcomes(b'[\n{"id":"x"},\n' + line + b',\n{"id":"y"},\n{"id":"z"}\n]')
    assert found[3].startswith(reason)
    assert (found[2], found[4], found[5]) == ({"id": "x"}, {"id": "y"}, {"id": "z"})


def test_a_json_array_on_one_line_is_read_in_pieces():
    objects = [{"id": f"{number}", "text": "{ã}" * 50} for number in range(5_000)]
    opened = table(json.dumps(objects, ensure_ascii=False).encode(), Format.JSONL)
    assert [opened.read(record) for record in opened] == objects


# -- spreadsheets


def test_a_spreadsheet_is_read_by_its_rows():
    content = (CASES / "a-spreadsheet.xlsx").read_bytes()
    fields = Fields(names={one: one for one in ("id", "telefone", "valor", "vencimento")}, needed=[("id",)])
    opened = table(content, fields=fields)
    assert [(record.line, opened.read(record)) for record in opened] == [
        (2, {"id": "i1", "telefone": "11987654321", "valor": "89.9", "vencimento": "2026-12-05"})
    ]
    assert opened.unit == "row"
    with pytest.raises(ConfigurationError, match="has no sheet 'Plan2'; it has Sheet"):
        table(content, fields=fields, sheet="Plan2")


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def workbook(sheets, hidden):
    """An .xlsx: name -> rows of cells; a cell is a number, a text, or (attributes, value)."""
    names = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="r{n}" state="{"hidden" if name == hidden else "visible"}"/>'
        for n, name in enumerate(sheets, 1)
    )
    links = "".join(
        f'<Relationship Id="r{n}" Type="{OFFICE}/worksheet" Target="worksheets/s{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    parts = {
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="r" Type="{OFFICE}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}">{links}<Relationship Id="s" '
        f'Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/>'
        "</cellXfs></styleSheet>",
    }
    for n, rows in enumerate(sheets.values(), 1):
        lines = "".join(
            f'<row r="{r}">{"".join(cell(f"{chr(65 + c)}{r}", value) for c, value in enumerate(row))}</row>'
            for r, row in enumerate(rows, 1)
        )
        parts[f"xl/worksheets/s{n}.xml"] = f'<worksheet xmlns="{MAIN}"><sheetData>{lines}</sheetData></worksheet>'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return out.getvalue()


def cell(place, value):
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
    attributes, number = value if isinstance(value, tuple) else ("", value)
    return f'<c r="{place}" {attributes}><v>{number}</v></c>'


def test_a_cell_is_read_as_its_number_format_shows_it():
    header = ["id", "kind", "name"]
    content = workbook(
        {
            "Cover": [["Charges of May"]],
            "Old": [header],
            "This": [
                ["Charges"], [], header,
                [1, "x", 89.90000000000001], [], [2.0, "x", ('s="1"', 46357)], [11987654321, "x", ('s="1"', 46357.75)],
                [4, "x", ('t="e"', "#N/A")], [5, "x", ('t="b"', 1)],
            ],
            "Next": [header],
        },
        hidden="Old",
    )  # fmt: skip
    assert outcomes(content) == {
        4: {"id": "1", "kind": "x", "name": "89.9"},
        6: {"id": "2", "kind": "x", "name": "2026-12-01"},
        7: {"id": "11987654321", "kind": "x", "name": "2026-12-01T18:00:00"},
        8: "name: is #N/A: a formula of the spreadsheet failed",
        9: {"id": "5", "kind": "x", "name": "true"},
    }
    assert table(content).notes == ["the sheet 'This' is read, not 'Next'; --sheet chooses"]
    assert outcomes(content, sheet="Old") == {}
    with pytest.raises(ConfigurationError, match="no row of the first 20 names all needed columns"):
        table(content, sheet="Cover")


def test_a_spreadsheet_without_its_reader_says_what_to_install(monkeypatch):
    def without(name, *rest):
        if name == "python_calamine":
            raise ModuleNotFoundError(name)
        return importing(name, *rest)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"a\.csv is a spreadsheet.*pip install 'ifinu\[xlsx\]'"):
        table((CASES / "a-spreadsheet-named.csv").read_bytes())


def test_text_is_no_spreadsheet():
    with pytest.raises(ConfigurationError, match="is not a spreadsheet"):
        table(b"id;kind\n", Format.XLSX)


# -- anything


@settings(max_examples=400)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"id;kind;name\n", b"[", b"{\n", b"\xff\xfei\0d\0,\0", b"PK\x03\x04"]),
)
@example(b"\xd8\x00", b"\xfe\xff")
def test_any_bytes_are_records_or_an_error(content, beginning):
    try:
        found = outcomes(beginning + content)
    except ConfigurationError as exc:
        found = str(exc)
    assert str(found).encode("utf-8", "surrogatepass")


LINES = st.text(
    st.characters(exclude_characters="\n", exclude_categories=[]) | st.sampled_from('";\r\0\\{}[],'), max_size=30
)


@settings(max_examples=400)
@given(LINES.map(lambda line: line.encode("utf-8", "surrogatepass")), st.sampled_from(["csv", "jsonl", "array"]))
def test_no_content_of_one_line_hides_the_others(line, form):
    """The line has a header or bracket above and valid lines around it, one with quotes and a non-ASCII letter."""
    if form == "csv":
        good, around = b'a;x;"J\xc3\xa3;o"', (b"id;kind;name\n", b"")
        expected = a(name="Jã;o")
    else:
        good, around = b'{"id":"J\xc3\xa3{o"}', (b"[\n", b"]") if form == "array" else (b"\n", b"")
        expected = {"id": "Jã{o"}
        good += b"," if form == "array" else b""
    found = outcomes(
        around[0] + b"\n".join([good, good, line, good, good, around[1]]), Format(form.replace("array", "jsonl"))
    )
    assert [found.get(number) for number in (2, 3, 5, 6)] == [expected] * 4


# -- written files


@pytest.mark.parametrize("cell", ["=1+1", "+55 77 9****-1234", "-2", "@SUM(A1)", "João", "O'Neil", "'quoted'"])
def test_a_written_cell_is_not_a_formula_and_reads_back_unchanged(cell):
    written = shielded(cell)
    assert written[0] not in "=+-@"
    assert outcomes(f"id,kind\n{written},x\n".encode()) == {2: {"id": cell, "kind": "x"}}
