"""quality.html: one self-contained page about a release, for someone who decides whether to train on it.

Everything on it stands in the stage's report or in the tables given; nothing is computed here. Pictures are inside the page.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ops.hand3d.audit import Audit
from ops.hand3d.gallery import Drawn
from ops.store import Report

STYLE = """
:root{--ink:#18202b;--soft:#5a6675;--line:#dde3ea;--card:#fff;--bg:#f3f5f8;--accent:#1f6feb;--good:#116b35;--bad:#b3261e}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);margin:0}
main{max-width:1240px;margin:0 auto;padding:28px 24px 60px}h1{font-size:27px;margin:0 0 4px}h2{font-size:20px;margin:38px 0 12px}
h3{font-size:15px;margin:0 0 8px}.soft{color:var(--soft)}.card{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:16px 18px;margin:0 0 16px;overflow-x:auto}.pair{display:grid;gap:16px;
grid-template-columns:repeat(auto-fit,minmax(520px,1fr))}.facts{display:grid;gap:12px;
grid-template-columns:repeat(auto-fit,minmax(170px,1fr));margin:18px 0}.fact{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:12px 16px}.fact b{display:block;font-size:22px;line-height:1.25}.fact span{color:var(--soft);font-size:13px}
.good b{color:var(--good)}.bad b{color:var(--bad)}table{border-collapse:collapse;font-size:13px;width:100%}
th{text-align:left;color:var(--soft);font-weight:600}th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr:last-child td{border-bottom:0}
td .bar{height:7px;border-radius:3px;background:var(--accent);min-width:1px}td .bar.p{background:#aab6c5}img{max-width:100%;border-radius:6px}
.gallery{display:grid;gap:18px;grid-template-columns:repeat(auto-fill,minmax(540px,1fr))}figure{margin:0;background:var(--card);
border:1px solid var(--line);border-radius:10px;padding:12px}figure img{display:block;max-height:320px}figcaption{font-size:14px;margin-top:8px}
figcaption .id{color:var(--soft);font-size:12px;overflow-wrap:anywhere}.q{font-weight:600}nav a{margin-right:16px;color:var(--accent);text-decoration:none}
.none{background:#eef1f5;border-radius:6px;padding:40px 16px;text-align:center;color:var(--soft)}
"""
_MEANING = {
    "exact": "same clip, frames, question and answer (or motion tokens)",
    "near": "same clip, frames and relation, numbers in the same cell",
    "recurring": "same relation and numbers in other frames of the clip, as where nothing moves",
}


def write(
    path: Path, report: Report, found: Audit, rejects: pl.DataFrame, drawn: Sequence[Drawn], folder: Path
) -> None:
    """report: with tables, metrics and pictures of ops.hand3d.quality. folder: where the pictures lie."""
    sections = {
        "Beside the paper": _beside(report),
        "Distances and directions": _distributions(report, folder),
        "Left out": _rejects(rejects),
        "Repeats": _repeats(report),
        "Second route": _second_route(found),
        "Gallery": _gallery(drawn),
    }
    links = "".join(f"<a href='#{_anchor(title)}'>{title}</a>" for title in sections)
    body = "".join(f"<h2 id='{_anchor(title)}'>{title}</h2>{text}" for title, text in sections.items())
    notes = "".join(f"<p class=soft>{html.escape(note)}</p>" for note in report.notes)
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>Hand3D quality report</title>"
    page = f"<!doctype html><html lang=en>{head}<style>{STYLE}</style><main><h1>Hand3D: quality of this release</h1>{_facts(report, found, rejects)}{notes}<nav>{links}</nav>{body}</main></html>"
    path.write_text(page, encoding="utf-8")


def _facts(report: Report, found: Audit, rejects: pl.DataFrame) -> str:
    near = [f"{report.metrics.get(f'{kind}_near_repeat_share', 0.0):.1%}" for kind in ("visual", "action")]
    agree = "all agree" if not found.problems else f"{len(found.problems)} disagree"
    facts = [
        (f"{report.rows['visual_rows']:,}", "rows of Hand3D-visual", ""),
        (f"{report.rows['action_rows']:,}", "rows of Hand3D-action", ""),
        (f"{report.rows['clips']:,}", "clips", ""),
        (agree, f"of {found.checked.total():,} rows recomputed from labels", "bad" if found.problems else "good"),
        (f"{int(rejects['count'].sum()):,}", "candidates left out, each with a reason", ""),
        (" / ".join(near), "near repeats, visual / action", ""),
    ]
    boxes = "".join(
        f"<div class='fact {style}'><b>{value}</b><span>{what}</span></div>" for value, what, style in facts
    )
    return f"<div class=facts>{boxes}</div>"


def _beside(report: Report) -> str:
    cards = [f"<div class=card><h3>{html.escape(title)}</h3>{_shares(rows)}</div>" for title, rows in report.tables.items() if "beside the paper" in title]  # fmt: skip
    return f"<p class=soft>Training rows. Grey bars: the paper's share; blue: ours. A dash: the paper has no such source.</p><div class=pair>{''.join(cards)}</div>"


def _shares(rows: list[dict[str, object]]) -> str:
    lines = []
    for row in rows:
        bars = "".join(f"<div class='bar{style}' style='width:{_width(row[key])}%'></div>" for key, style in (("paper %", " p"), ("ours %", "")))  # fmt: skip
        cells = f"<td>{html.escape(str(row['']))}<td class=n>{_text(row['paper'])}<td class=n>{row['paper %']}<td class=n>{_text(row['ours'])}<td class=n>{row['ours %']}"
        lines.append(f"<tr>{cells}<td style='width:32%'>{bars if row[''] != 'total' else ''}")
    return f"<table><tr><th><th class=n>paper<th class=n>%<th class=n>ours<th class=n>%<th>{''.join(lines)}</table>"


def _width(share: object) -> float:
    return 0.0 if share == "-" else float(str(share))


def _distributions(report: Report, folder: Path) -> str:
    pictures = "".join(
        f"<div class=card><img alt='{html.escape(title)}' src='{_png(folder / name)}'></div>"
        for title, name in report.pictures.items()
        if title != "rows on frames"
    )
    return f"{pictures}<div class=card>{table(report.tables['distances and path lengths'])}</div>"


def _rejects(rejects: pl.DataFrame) -> str:
    rows = rejects.select("stage", "reason", "count", "shards", "example").to_dicts()
    text = "Everything that could have become a row and did not, over all stages, with one example of each reason. Nothing is dropped without one."
    return f"<p class=soft>{text}</p><div class=card>{table(rows) or 'nothing was left out'}</div>"


def _repeats(report: Report) -> str:
    rows = [
        row | {"share": f"{row['share']:.2%}", "meaning": _MEANING[str(row["repeat"])]}
        for row in report.tables["repeats"]
    ]
    return f"<p class=soft>Rows that say what an earlier row says; each kind contains the ones before it.</p><div class=card>{table(rows)}</div>"


def _second_route(found: Audit) -> str:
    text = (
        "Rows read back from the released Parquet files, recomputed one by one from the labels by code that shares nothing with "
        "the generators. Hands and cameras must agree with the source's labels to 1 mm. An object's place is measured, from box and "
        "depth, and its label may be another point of it, so those only have to be near. Rows without such a label are not in that column."
    )
    worst = [{"problem": problem} for problem in found.problems]
    spread = [
        {"task": task, "rows recomputed": num, "with a label": len(errors := found.labels.get(task, []))} | _from_labels(errors)
        for task, num in sorted(found.checked.items())
    ]  # fmt: skip
    return f"<p class=soft>{text}</p><div class=card>{table(spread)}{table(worst)}</div>"


def _from_labels(errors_m: list[float]) -> dict[str, object]:
    """Quantiles of the distance from labels, mm; dashes for none."""
    names = ("median from label, mm", "90% below, mm", "largest, mm")
    values = np.quantile(errors_m, [0.5, 0.9, 1.0]) * 1000 if errors_m else ()
    return dict.fromkeys(names, "-") | dict(zip(names, (round(float(v), 3) for v in values), strict=False))


def _gallery(drawn: Sequence[Drawn]) -> str:
    parts = [
        "<p class=soft>Yellow circle: where the vector starts. Red: where it ends. Blue: the object's box. The triad shows the vector in the "
        "camera's axes, since forward and backward cannot be seen in a picture. Motions run from dark to bright; grey is the part already seen.</p>"
    ]
    for task in dict.fromkeys(str(item.row["task"]) for item in drawn):
        figures = "".join(_figure(item) for item in drawn if item.row["task"] == task)
        parts.append(f"<h3>{task.replace('_', ' ')}</h3><div class=gallery>{figures}</div><br>")
    return "".join(parts)


def _figure(item: Drawn) -> str:
    question, answer = words_of(item.row)
    if item.picture is None:
        picture = f"<div class=none>no picture: {html.escape(item.why)}</div>"
    else:
        picture = f"<img loading=lazy alt='{html.escape(answer)}' src='{_jpeg(item.picture)}'>"
    numbers = _numbers(item.row)
    return f"<figure>{picture}<figcaption><div class=q>{html.escape(question)}</div><div>{html.escape(answer)}</div><div class=id>{html.escape(numbers)}<br>{html.escape(str(item.row['row_id']))}</div></figcaption></figure>"


def words_of(row: dict[str, object]) -> tuple[str, str]:
    """Question and answer of a visual or action row, tokens as a count."""
    if "question" in row:
        return str(row["question"]), str(row["answer"])
    num = len(row["target_tokens"]) // 3  # type: ignore[arg-type]
    return str(row["prompt"]), str(row["target_text"]) if row["target_text"] is not None else f"{num} waypoints"


def _numbers(row: dict[str, object]) -> str:
    if "question" in row:
        vector = ", ".join(f"{v:+.3f}" for v in row["vector"])  # type: ignore[union-attr]
        return f"vector ({vector}) m, distance {row['distance_m']:.3f} m, frames {row['frames']}"
    return f"path {row['displacement_m']:.3f} m, {row['num_clipped']} waypoints clipped, frame {row['frame']}"


def table(rows: Sequence[dict[str, object]]) -> str:
    """An HTML table of rows of one shape; numbers to the right; empty for none."""
    if not rows:
        return ""
    head = "".join(
        f"<th{' class=n' if _is_number(value) else ''}>{html.escape(name)}" for name, value in rows[0].items()
    )
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if _is_number(v) else ''}>{html.escape(_text(v))}" for v in row.values())
        for row in rows
    )
    return f"<table><tr>{head}{body}</table>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _jpeg(picture) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
