"""From a row of ops/stages.py and a text for the catalogue to an asset with metadata, data version and checks."""

import ast
import base64
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import dagster as dg

from assets.automation import automation
from assets.handles import StageRunner
from assets.partitions import by_shard
from ops import artefacts, checks
from ops import stages as ops_stages
from ops.artefacts import Artefact
from ops.code_version import code_version
from ops.config import Config
from ops.dvc_file import parameters
from ops.pipeline import output
from ops.stages import BY_NAME, Stage

CODE_TAG, DATA_TAG = "dagster/code_version", "dagster/data_version"
"""Tags of Dagster's events."""
ONLY_STALE = "hand3d/only_stale"
"""Run tag: a step whose artefact is up to date records it instead of making it again."""
MAX_PICTURE_BYTES = 300_000
MAX_PICTURES = 6
OWNERS = ["team:hand3d"]
VIDEO_FOLDERS = "video_folders"
SCORED_WITHIN = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=90), warn_window=timedelta(days=60))
FRESHNESS = {"benchmark_scores": SCORED_WITHIN, "champion": SCORED_WITHIN}
"""Nothing new was scored for two months; sources and the champion's score are looked at in assets/upkeep.py."""


@dataclass(frozen=True)
class Described:
    """An asset's place in the catalogue. name: its stage. text: written for a robot-learning reader."""

    name: str
    kinds: tuple[str, ...]
    text: str


def build(described: Described, group: str, config: Config, root: Path) -> dg.AssetsDefinition:
    """The asset of one stage. Its body asks the runner; nothing else happens here."""
    stage = BY_NAME[described.name]

    @dg.asset(
        name=stage.name,
        description=described.text,
        group_name=group,
        kinds=set(described.kinds),
        owners=OWNERS,
        tags={"gpu": "wanted"} if stage.gpu else None,
        deps=inputs(stage),
        partitions_def=by_shard(config) if stage.partitioned else None,
        code_version=version_of_code(stage, config),
        check_specs=[
            dg.AssetCheckSpec(
                check.name,
                asset=stage.name,
                description=check.text,
                blocking=check.blocking,
                partitions_def=by_shard(config) if stage.partitioned else None,
            )
            for check in checks.checks_of(stage.name)
        ],
        automation_condition=automation(stage, VIDEO_FOLDERS),
        freshness_policy=FRESHNESS.get(stage.name),
        metadata={
            "dagster/uri": str(root / "data" / stage.name),
            "params.yaml": ", ".join(stage.params) or "no section of it",
            "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[code_reference(stage)]),
        },
        pool="gpu" if stage.gpu else None,
    )
    def asset(context: dg.AssetExecutionContext, runner: dg.ResourceParam[StageRunner]) -> dg.MaterializeResult:
        shard = context.partition_key if stage.partitioned else ""
        return materialised(_made(context, runner, stage, shard))

    return asset


def inputs(stage: Stage) -> list[str]:
    """Keys of the assets that a stage's asset depends on."""
    return [*stage.reads, *([VIDEO_FOLDERS] if stage.partitioned and not stage.reads else [])]


def _made(context: dg.AssetExecutionContext, runner: StageRunner, stage: Stage, shard: str) -> Artefact:
    from ops import data_version

    data_version.prepare(runner.folder)
    artefacts.drop_removed_shards(runner.folder, runner.settings())
    if context.run.tags.get(ONLY_STALE) == "true" and output(runner.folder, stage.name, shard).is_dir():
        address = data_version.address(stage.name, shard)
        if address not in data_version.stale(runner.folder, [address]):
            return runner.load(stage.name, shard)
    return runner.run(stage.name, shard, context)


def materialised(artefact: Artefact) -> dg.MaterializeResult:
    """Everything the catalogue shows, with DVC's content hash as data version."""
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artefact.version),
        metadata=metadata(artefact),
        check_results=[
            dg.AssetCheckResult(
                check_name=finding.name,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.ERROR if finding.blocking else dg.AssetCheckSeverity.WARN,
                description=finding.detail,
            )
            for finding in artefact.findings
        ],
    )


def metadata(artefact: Artefact) -> dict[str, dg.MetadataValue]:
    """What a person looks at first comes first: pictures, rows and rejects, metrics, tables, notes; then where it lies."""
    report = artefact.report
    values: dict[str, dg.MetadataValue] = {}
    for title, path in list(report.pictures.items())[:MAX_PICTURES]:
        values[f"picture/{title}"] = picture(artefact.folder / path, title)
    if report.rows:
        values["dagster/row_count"] = dg.MetadataValue.int(next(iter(report.rows.values())))
    values |= {f"rows/{name}": dg.MetadataValue.int(count) for name, count in report.rows.items()}
    values |= {f"rejected/{reason}": dg.MetadataValue.int(count) for reason, count in report.rejects.items()}
    values |= {f"metric/{name}": dg.MetadataValue.float(_rounded(value)) for name, value in report.metrics.items()}
    values |= {f"table/{title}": dg.MetadataValue.md(markdown_table(rows)) for title, rows in report.tables.items()}
    if report.notes:
        values["notes"] = dg.MetadataValue.md(markdown_list(report.notes))
    schema, lineage = column_schema(artefact.stage), column_lineage(artefact.stage)
    values |= {"dagster/column_schema": schema} if schema else {}
    values |= {"dagster/column_lineage": lineage} if lineage else {}
    if artefact.seconds:  # of one that stood already it is not known
        values["seconds"] = dg.MetadataValue.float(round(artefact.seconds, 2))
    return values | {
        "folder": dg.MetadataValue.path(str(artefact.folder)),
        "dvc_hash": dg.MetadataValue.text(artefact.version),
    }


def _rounded(value: float) -> float:
    """Four digits: what a catalogue can show. The report keeps all of them."""
    return float(f"{float(value):.4g}")


def column_schema(name: str) -> dg.TableSchemaMetadataValue | None:
    """Columns of the stage's first table, as ops/tables.py has them."""
    from ops.columns import COLUMN_SOURCES
    from ops.tables import SCHEMAS

    files = checks.TABLES.get(name)
    if not files:
        return None
    schema = next(iter(files.values()))
    columns, notes, sources = SCHEMAS[schema].columns, column_notes().get(schema, {}), COLUMN_SOURCES.get(name, {})
    return dg.MetadataValue.table_schema(
        dg.TableSchema(
            [
                dg.TableColumn(
                    column,
                    str(spec.dtype),
                    described(notes.get(column), sources.get(column, ())),
                    constraints=dg.TableColumnConstraints(nullable=spec.nullable, unique=spec.unique),
                )
                for column, spec in columns.items()
            ]
        )
    )


def described(note: str | None, sources: Sequence[str]) -> str | None:
    """A column's description, which is shown as Markdown: what it is, and the columns upstream that it comes from, since
    the open-source UI does not draw column lineage."""
    said = [html.escape(note, quote=False)] if note else []
    said += [f"from {', '.join(f'`{source}`' for source in sources)}"] if sources else []
    return "; ".join(said) or None


def column_lineage(name: str) -> dg.TableColumnLineageMetadataValue | None:
    """Columns upstream that the stage's columns come from, as ops/columns.py has them."""
    from ops.columns import COLUMN_SOURCES

    if name not in COLUMN_SOURCES:
        return None
    sources = {column: [source.split(".") for source in found] for column, found in COLUMN_SOURCES[name].items()}
    deps = {
        column: [dg.TableColumnDep(dg.AssetKey(stage), upstream) for stage, upstream in found]
        for column, found in sources.items()
    }
    return dg.MetadataValue.column_lineage(dg.TableColumnLineage(deps))


def code_reference(stage: Stage) -> dg.LocalFileCodeReference:
    """File and line of the function that makes it; nothing is imported."""
    module, function = stage.entry.split(":")
    path = Path(ops_stages.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    defined = ast.parse(path.read_bytes()).body
    line = next(node.lineno for node in defined if isinstance(node, ast.FunctionDef) and node.name == function)
    label = f"{stage.entry}: makes {stage.name}"
    return dg.LocalFileCodeReference(file_path=str(path), line_number=line, label=label)


@cache
def column_notes() -> dict[str, dict[str, str]]:
    """Schema -> column -> the comment that ops/tables.py has beside it: units, frames, meanings."""
    from ops import tables

    notes: dict[str, dict[str, str]] = {}
    schema = ""
    folded = re.sub(r"_col\(\n\s+(.*)\n\s+\)", r"_col(\1)", Path(tables.__file__).read_text(encoding="utf-8"))
    for line in folded.splitlines():
        if begins := re.match(r'    "(\w+)": pa\.DataFrameSchema', line):
            schema = begins[1]
        elif note := re.match(r'\s+"(\w+)": .*?  # (.+)', line):
            notes.setdefault(schema, {})[note[1]] = note[2]
    return notes


def markdown_list(lines: Sequence[str]) -> str:
    """As bullets; what looks like HTML in them is shown as it is."""
    return "\n".join(f"- {html.escape(line)}" for line in lines)


def markdown_table(rows: Sequence[dict[str, object]]) -> str:
    """Rows of one shape as a Markdown table; empty for none."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")[:200]


def picture(path: Path, title: str) -> dg.MarkdownMetadataValue:
    """A PNG inside the metadata, so that the catalogue shows it wherever it runs; a large one is named only."""
    if not path.is_file():
        return dg.MetadataValue.md(f"{path.name} is missing")
    data = path.read_bytes()
    if len(data) > MAX_PICTURE_BYTES:
        return dg.MetadataValue.md(f"{path} ({len(data) / 1e6:.1f} MB: too large to show here)")
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(data).decode()})")


def version_of_code(stage: Stage, config: Config) -> str:
    """Code and parameters: what makes an artefact stale beside its inputs; and which shards there are, where it reads all
    of them: of a shard that is taken out of params.yaml nothing is left that could change."""
    version = f"{code_version(stage)[:16]}-{parameters(stage, config)[:16]}"
    if stage.partitioned or not any(BY_NAME[name].partitioned for name in stage.reads):
        return version
    return f"{version}-{hashlib.sha256(' '.join(sorted(config.shards)).encode()).hexdigest()[:8]}"


def build_group(described: Sequence[Described], group: str, config: Config, root: Path) -> list[dg.AssetsDefinition]:
    """Assets of one module of this package."""
    return [build(item, group, config, root) for item in described]
