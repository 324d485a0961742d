"""From the champion back to the videos: every artefact behind it, its content, code and configuration (dvc.lock)."""

import hashlib
import json
from pathlib import Path

from ops.data_version import address, recorded

SUFFIX_CODE = ".py"


def champion_lineage(root: Path, name: str = "champion") -> list[dict[str, object]]:
    """One row an artefact behind `name`, nearest first; empty where nothing was recorded.

    Columns: artefact, content (DVC's hash), made_from (artefacts and videos with their hashes), code (one hash over
    its code files), params (as used).
    """
    lock = recorded(root)
    by_path = {out["path"]: stage for stage, entry in lock.items() for out in entry["outs"]}
    queue, seen, rows = [address(name)], set(), []
    while queue:
        stage = queue.pop(0)
        if stage in seen or stage not in lock:
            continue
        seen.add(stage)
        rows.append(_row(stage, lock[stage]))
        for dep in lock[stage].get("deps", []):
            queue += [maker for path, maker in by_path.items() if _inside(path, dep["path"])]
    return rows


def _row(stage: str, entry: dict) -> dict[str, object]:
    deps = entry.get("deps", [])
    data = [dep for dep in deps if not dep["path"].endswith(SUFFIX_CODE)]
    code = sorted((dep["path"], dep["md5"]) for dep in deps if dep["path"].endswith(SUFFIX_CODE))
    params = {key: value for file in entry.get("params", {}).values() for key, value in file.items()}
    return {
        "artefact": stage,
        "content": _short(entry["outs"][0]["md5"]),
        "made_from": ", ".join(f"{dep['path']} {_short(dep['md5'])}" for dep in data) or "nothing recorded",
        "code": f"{hashlib.sha256(json.dumps(code).encode()).hexdigest()[:10]} ({len(code)} files)",
        "params": json.dumps(params, sort_keys=True),
    }


def _inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _short(md5: str) -> str:
    return md5.removesuffix(".dir")[:10]
