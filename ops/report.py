"""One self-contained HTML page about a workspace: what was made, from what, how well, and how it looks.

Everything shown is read from the artefacts' ``report.json`` and tables; nothing is computed here.
"""

import base64
import html
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from ops import pipeline, store
from ops.config import Config, load
from ops.stages import STAGES, Stage
from ops.store import Report

SAMPLE_ROWS = 6
FOLDED_ROWS = 9  # longer tables are folded
STYLE = """
:root{--ink:#1c2430;--soft:#5b6777;--line:#d9dfe7;--card:#fff;--bg:#f4f6f9;--accent:#1f6feb;--warn:#9a6700}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}h1{font-size:26px;margin:0 0 4px}h2{font-size:20px;margin:36px 0 12px}
h3{font-size:16px;margin:0 0 8px}.soft{color:var(--soft)}.card{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:16px 18px;margin:0 0 16px;overflow-x:auto}table{border-collapse:collapse;font-size:13px;width:100%}
th{text-align:left;color:var(--soft);font-weight:600}th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--line);
vertical-align:top}img{max-width:100%;border-radius:6px;border:1px solid var(--line)}figure{margin:0 0 14px}
figcaption{color:var(--soft);font-size:13px}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:16px}
.note{border-left:3px solid var(--warn);padding-left:10px;color:var(--warn)}svg text{font:11.5px system-ui,sans-serif}
nav a{margin-right:14px;color:var(--accent);text-decoration:none}code{font-size:13px}
"""
SECTIONS = (
    ("Scores and promotion", ("benchmark_scores", "champion")),
    ("Videos and hands", ("raw_videos", "mano_fits")),
    ("3-D geometry", ("point_clouds", "objects", "calibrated_point_clouds")),
    ("Hand3D", ("hand3d_visual", "hand3d_action", "hand3d_test", "hand3d_dataset")),
    (
        "Training",
        ("base_model", "stage1_checkpoint", "stage2_checkpoint", "robot_demonstrations", "posttrained_policies"),
    ),
)
SAMPLE_TABLES = {
    "hand3d_visual": ("visual_rows", ["task", "question", "answer", "distance_m", "clip_id", "frames"]),
    "hand3d_action": ("action_rows", ["task", "instruction", "prompt", "target_tokens", "displacement_m", "clip_id"]),
    "hand3d_test": ("visual_rows", ["task", "question", "answer", "distance_m", "clip_id", "frames"]),
}


def write(root: Path, path: Path | None = None) -> Path:
    """Write the page (default ``<root>/report.html``); stages that have not been made are shown as missing."""
    config = load(root / "params.yaml")
    reports = {stage.name: _reports(root, config, stage) for stage in STAGES}
    body = [_head(root, config), _flow(reports)]
    body += [_section(root, title, names, reports) for title, names in SECTIONS]
    body += [_rejects(reports), _lineage(root)]
    links = "".join(
        f"<a href='#{_anchor(title)}'>{title}</a>"
        for title in ["Flow", *(t for t, _ in SECTIONS), "Rejects", "Lineage"]
    )
    page = f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Hand3D run report</title><style>{STYLE}</style><main>{body[0]}<nav>{links}</nav>{''.join(body[1:])}</main></html>"
    path = path or root / "report.html"
    store.write_file(path, page.encode())
    return path


def _reports(root: Path, config: Config, stage: Stage) -> dict[str, Report]:
    """Shard -> report, for the shards (or the one output, key "") that exist."""
    keys = list(config.shards) if stage.partitioned else [""]
    folders = {key: pipeline.output(root, stage.name, key) for key in keys}
    return {key: Report.load(folder) for key, folder in folders.items() if (folder / "report.json").is_file()}


def _head(root: Path, config: Config) -> str:
    from ops.code_version import git_commit

    now = datetime.now(UTC).isoformat(timespec="minutes")
    shards = ", ".join(f"{name} ({shard.kind})" for name, shard in config.shards.items())
    return f"<h1>From hand video to registered policy</h1><p class=soft>Written {now}, commit {git_commit() or 'unknown'}. Shards: {html.escape(shards)}.</p>"


def _flow(reports: dict[str, dict[str, Report]]) -> str:
    """The asset graph as an inline SVG: columns by depth, row counts in the boxes."""
    depth: dict[str, int] = {}
    for stage in STAGES:
        depth[stage.name] = 1 + max((depth[name] for name in stage.reads), default=-1)
    columns: dict[int, list[str]] = {}
    for name, level in depth.items():
        columns.setdefault(level, []).append(name)
    where = {
        name: (level * 142 + 4, 12 + 62 * row) for level, names in columns.items() for row, name in enumerate(names)
    }
    lines, boxes = [], []
    for stage in STAGES:
        x, y = where[stage.name]
        for read in stage.reads:
            x0, y0 = where[read]
            lines.append(
                f"<path d='M{x0 + 132},{y0 + 22} C{x0 + 144},{y0 + 22} {x - 14},{y + 22} {x},{y + 22}' fill=none stroke='#b9c4d2'/>"
            )
        made = reports[stage.name]
        rows = sum(next(iter(r.rows.values()), 0) for r in made.values())
        label = f"{rows:,} rows" if rows else ("made" if made else "missing")
        fill = "#e7f0ff" if made else "#fdecec"
        boxes.append(
            f"<rect x={x} y={y} width=132 height=44 rx=7 fill='{fill}' stroke='#b9c4d2'/>"
            f"<text x={x + 66} y={y + 18} text-anchor=middle font-weight=600>{stage.name}</text>"
            f"<text x={x + 66} y={y + 35} text-anchor=middle fill='#5b6777'>{label}</text>"
        )
    width, height = (max(depth.values()) + 1) * 142, 20 + 62 * max(len(names) for names in columns.values())
    return f"<h2 id=flow>Flow</h2><div class=card><svg viewBox='0 0 {width} {height}' width='100%' role=img aria-label='asset graph'>{''.join(lines)}{''.join(boxes)}</svg></div>"


def _section(root: Path, title: str, names: tuple[str, ...], reports: dict[str, dict[str, Report]]) -> str:
    parts = [f"<h2 id={_anchor(title)}>{title}</h2>"]
    for name in names:
        made = reports[name]
        parts.append(f"<div class=card><h3>{name}</h3>")
        parts.append(_numbers(made) if made else "<p class=note>not made</p>")
        if name in SAMPLE_TABLES and made:
            parts.append(_sample(root, name))
        pictures = [
            _picture(pipeline.output(root, name, key) / path, f"{caption}{f' ({key})' if key else ''}")
            for key, report in made.items()
            for caption, path in report.pictures.items()
        ]
        parts.append(f"<div class=pair>{''.join(pictures)}</div></div>")
    return "".join(parts)


def _numbers(made: dict[str, Report]) -> str:
    """Notes, small tables, then every number, folded where they are many."""
    notes = dict.fromkeys(note for report in made.values() for note in report.notes)
    tables = "".join(_table(title, rows) for report in made.values() for title, rows in report.tables.items())
    parts, many = [], 0
    for key, report in made.items():
        cells = {**report.rows, **report.metrics}
        many = max(many, len(cells))
        rows = "".join(f"<tr><td>{html.escape(name)}<td>{_number(value)}" for name, value in cells.items())
        parts.append(f"<div><b>{html.escape(key)}</b><table>{rows}</table></div>" if cells else "")
    numbers = f"<div class=pair>{''.join(parts)}</div>"
    if many > FOLDED_ROWS:
        numbers = f"<details><summary class=soft>all numbers</summary>{numbers}</details>"
    return "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes) + tables + numbers


def _sample(root: Path, name: str) -> str:
    table, columns = SAMPLE_TABLES[name]
    paths = sorted((root / "data" / name).glob(f"**/{table}.parquet"))
    rows = pl.concat([pl.read_parquet(path, columns=columns) for path in paths])
    if rows.is_empty():
        return ""
    sample = rows.gather_every(max(1, rows.height // SAMPLE_ROWS)).head(SAMPLE_ROWS)
    return _table(f"{SAMPLE_ROWS} of {rows.height:,} rows", sample.to_dicts())


def _table(title: str, rows: list[dict[str, object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(str(name))}" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_number(value))}" for value in row.values()) for row in rows)
    table = f"<table><tr>{head}{body}</table>"
    if len(rows) > FOLDED_ROWS:
        return f"<details><summary class=soft>{html.escape(title)} ({len(rows)} rows)</summary>{table}</details>"
    return f"<p class=soft>{html.escape(title)}</p>{table}"


def _picture(path: Path, caption: str) -> str:
    if not path.is_file():
        return f"<p class=note>picture {html.escape(path.name)} is missing</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,{data}'><figcaption>{html.escape(caption)}</figcaption></figure>"


def _rejects(reports: dict[str, dict[str, Report]]) -> str:
    rows = [
        {"stage": name, "shard": key, "reason": reason, "count": count}
        for name, made in reports.items()
        for key, report in made.items()
        for reason, count in report.rejects.items()
    ]
    return f"<h2 id=rejects>Rejects</h2><div class=card>{_table('Nothing is dropped without a reason', rows) or 'none'}</div>"


def _lineage(root: Path) -> str:
    from ops.lineage import champion_lineage

    rows = champion_lineage(root)
    return f"<h2 id=lineage>Lineage</h2><div class=card>{_table('Behind the policy: artefact, content hash, what it was made from', rows) or 'nothing recorded yet'}</div>"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        text = json.dumps(value)
        return text if len(text) <= 90 else text[:87] + "..."
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
