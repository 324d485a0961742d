"""Cells of an Excel workbook as texts, with the standard library: a zip of XML files (ECMA-376).

Formulas, styles and dates are not looked at. Entities and document types in the XML are refused, and the unpacked size is
limited, so that a crafted file cannot fill the memory.
"""

import re
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

from ops.rejects import ClipError, Reason

NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
MAX_PART_BYTES = 512 * 1024 * 1024


def read_sheets(path: Path) -> dict[str, list[list[str]]]:
    """Rows of texts by sheet name; an empty cell is "". Raises ClipError BAD_SIDE_FILE for no readable workbook."""
    try:
        with zipfile.ZipFile(path) as book:
            shared = _shared_texts(book)
            return {name: _rows(_xml(book, part), shared) for name, part in _parts(book).items()}
    except (OSError, KeyError, IndexError, ValueError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no readable .xlsx workbook: {error!r}") from error


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > MAX_PART_BYTES:
        raise ValueError(f"{name} would be {book.getinfo(name).file_size} bytes, {MAX_PART_BYTES} are allowed")
    content = book.read(name)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError(f"{name} declares entities, which no workbook needs")
    return ElementTree.fromstring(content)


def _parts(book: zipfile.ZipFile) -> dict[str, str]:
    """File of each sheet by its name, in the workbook's order."""
    targets = {item.get("Id"): item.get("Target") for item in _xml(book, "xl/_rels/workbook.xml.rels")}
    sheets = _xml(book, "xl/workbook.xml").iter(f"{NS}sheet")
    return {item.get("name"): "xl/" + targets[item.get(RELATION)].removeprefix("/xl/") for item in sheets}


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_text(item) for item in _xml(book, "xl/sharedStrings.xml").iter(f"{NS}si")]


def _text(item: ElementTree.Element) -> str:
    """Plain text of a string item; runs of formatted text joined, phonetic hints left out."""
    runs = [child for child in item if child.tag in (f"{NS}t", f"{NS}r")]
    return "".join(part.text or "" for run in runs for part in ([run] if run.tag == f"{NS}t" else run.iter(f"{NS}t")))


def _rows(sheet: ElementTree.Element, shared: list[str]) -> list[list[str]]:
    rows = []
    for row in sheet.iter(f"{NS}row"):
        cells: list[str] = []
        for cell in row.iter(f"{NS}c"):
            column = _column(cell.get("r"), len(cells))
            cells += [""] * (column + 1 - len(cells))
            cells[column] = _value(cell, shared)
        rows.append(cells)
    return rows


def _column(reference: str | None, following: int) -> int:
    """ "AB12" -> 27; a cell without reference follows the one before."""
    letters = re.match(r"[A-Z]{1,3}", reference or "")
    if letters is None:
        return following
    number = 0
    for letter in letters.group():
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, shared: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        inline = cell.find(f"{NS}is")
        return "" if inline is None else _text(inline)
    value = cell.findtext(f"{NS}v") or ""
    if cell.get("t") == "s":
        return shared[int(value)]
    return value.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", value) else value


def write_sheets(path: Path, sheets: dict[str, list[list[str]]]) -> None:
    """A minimal workbook: numbers as numbers, texts as shared strings, as Excel writes them."""
    texts = sorted({cell for rows in sheets.values() for row in rows for cell in row if not cell.isdigit()})
    index = {text: number for number, text in enumerate(texts)}
    names = list(sheets)
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    listed = "".join(f'<sheet name="{escape(name)}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(names, 1))
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(names) + 1)
    )
    overrides = "".join(
        f'<Override PartName="/xl/worksheets/sheet{n}.xml" ContentType="{kinds}.worksheet+xml"/>'
        for n in range(1, len(names) + 1)
    )
    strings = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/><Override PartName="/xl/sharedStrings.xml" ContentType="{kinds}.sharedStrings+xml"/>{overrides}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">{related}<Relationship Id="rId{len(names) + 1}" Type="{office}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst {main} uniqueCount="{len(texts)}">{strings}</sst>',
    } | {f"xl/worksheets/sheet{n}.xml": _sheet(rows, index, main) for n, rows in enumerate(sheets.values(), 1)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in parts.items():
            book.writestr(name, f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{content}')


def _sheet(rows: list[list[str]], index: dict[str, int], main: str) -> str:
    lines = []
    for y, row in enumerate(rows, 1):
        cells = [
            f'<c r="{chr(65 + x)}{y}"><v>{cell}</v></c>'
            if cell.isdigit()
            else f'<c r="{chr(65 + x)}{y}" t="s"><v>{index[cell]}</v></c>'
            for x, cell in enumerate(row)
        ]
        lines.append(f'<row r="{y}">{"".join(cells)}</row>')
    return f"<worksheet {main}><sheetData>{''.join(lines)}</sheetData></worksheet>"
