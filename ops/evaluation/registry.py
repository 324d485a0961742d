"""What happened to a registered policy: promoted, refused, rolled back; and the way back to an earlier champion.

MLflow keeps where the alias `champion` points, not where it pointed before. Each decision is therefore written to the
version it is about, as a tag `event.<time>` that is never changed again. Whoever moves the alias by hand leaves no
event; that shows, because the alias is not where the last event left it.
"""

import getpass
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ops import tracking

PREFIX = "event."
PROMOTED, REFUSED, FELL, ROLLED_BACK, BY_HAND = "promoted", "refused", "fell", "rolled_back", "moved_by_hand"
WITHDRAWN = "rolled_back"
"""Tag of a version that was rolled back, with the reason: the gate does not promote it again by itself."""
MAX_REASON = 2000


@dataclass(frozen=True)
class Event:
    """One decision. at: UTC, ISO 8601. kind: as above. version: it is about. before, after: champion's version, None
    for none. by: user name on the machine where it was decided."""

    at: str
    kind: str
    version: int
    before: int | None
    after: int | None
    reason: str
    by: str = ""


def note(root: Path, model_name: str, kind: str, version: int, before: int | None, reason: str) -> Event:
    """Write down that something has just happened; `after` is where the alias points now."""
    after = tracking.get_alias(root, model_name, "champion")
    now = datetime.now(UTC)
    event = Event(now.isoformat(timespec="microseconds"), kind, version, before, after, reason[:MAX_REASON], _user())
    key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}Z"
    tracking.set_version_tag(root, model_name, version, key, json.dumps(asdict(event)))
    return event


def events(root: Path, model_name: str) -> list[Event]:
    """All that was written down, oldest first."""
    found = []
    for version in tracking.versions(root, model_name):
        tags = tracking.version_tags(root, model_name, version)
        found += [Event(**json.loads(value)) for key, value in tags.items() if key.startswith(PREFIX)]
    return sorted(found, key=lambda event: event.at)


def rollback(root: Path, model_name: str, reason: str, to: int | None = None) -> Event:
    """Move the alias `champion` back: to the champion before the present one, or to `to`.

    The version that loses it is tagged `rolled_back`, and the gate refuses it from then on; a roll-back TO it lifts
    that. Raises ValueError where there is nothing to go back to, where the gate never passed the version, and where
    its files are gone or are not those that were registered.
    """
    if not reason.strip():
        raise ValueError("a roll-back needs a reason, which is kept with the version: --reason TEXT")
    known = tracking.versions(root, model_name)
    if not known:
        raise ValueError(f"no version of {model_name} is registered: run `hand3d run champion` first")
    before = tracking.get_alias(root, model_name, "champion")
    target = previous(root, model_name) if to is None else to
    if target not in known:
        raise ValueError(f"{model_name} has the versions {', '.join(map(str, known))}, not {target}")
    if target == before:
        raise ValueError(f"version {target} of {model_name} is the champion already")
    _require_passed(root, model_name, target)
    require_whole(root, model_name, target)
    if before is not None:  # first, so that a kill in between leaves no way back in for what is being taken out
        tracking.set_version_tag(root, model_name, before, WITHDRAWN, reason[:MAX_REASON])
    if WITHDRAWN in tracking.version_tags(root, model_name, target):
        tracking.delete_version_tag(root, model_name, target, WITHDRAWN)
    tracking.set_alias(root, model_name, "champion", target)
    return note(root, model_name, ROLLED_BACK, target, before, reason)


def previous(root: Path, model_name: str) -> int:
    """The version that was champion last before the present one, and was neither rolled back nor failed the gate
    since. Raises ValueError for none."""
    now = tracking.get_alias(root, model_name, "champion")
    when = {event.after: event.at for event in events(root, model_name) if event.after is not None}
    candidates = []
    for version in tracking.versions(root, model_name):
        tags = tracking.version_tags(root, model_name, version)
        if version != now and tags.get("gate") == "passed" and WITHDRAWN not in tags:
            # champions of before events were written down come in the order of their numbers
            candidates.append((when.get(version, ""), version))
    if not candidates:
        raise ValueError(f"{model_name} has no earlier champion to go back to; name a version with --to")
    return max(candidates)[1]


def require_whole(root: Path, model_name: str, version: int) -> None:
    """Raises ValueError where a version's files cannot be had, or are not the bytes that were registered."""
    content = tracking.version_tags(root, model_name, version).get("content", "")
    with TemporaryDirectory() as temporary:
        try:
            found = tracking.folder_version(tracking.download(root, model_name, version, Path(temporary)))
        except Exception as error:  # whatever kind of store it is
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"the files of version {version} of {model_name} are gone: {said}") from error
    if found != content:
        raise ValueError(
            f"the files of version {version} of {model_name} are not those that were registered (content {found[:12]}, "
            f"tag {content[:12] or 'missing'}): restore the artifact store from its backup, or choose another version"
        )


def _require_passed(root: Path, model_name: str, version: int) -> None:
    gate = tracking.version_tags(root, model_name, version).get("gate", "never judged")
    promoted = any(event.kind == PROMOTED and event.version == version for event in events(root, model_name))
    if gate != "passed" and not promoted:
        raise ValueError(f"version {version} of {model_name} never passed the gate (gate: {gate}); choose one that did")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
