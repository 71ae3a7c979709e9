"""Whether files are as they were when something was done with them, told by their sizes and times, which takes no time."""

import json
import os
from pathlib import Path


def states(paths):
    """Size and time of each file, None where there is none."""
    found = {}
    for path in paths:
        try:
            known = os.stat(path)
            found[str(path)] = [known.st_size, known.st_mtime_ns]
        except OSError:
            found[str(path)] = None
    return found


def note(stamp, paths, purpose=""):
    """Remember in the file `stamp`, if its folder exists, how the files at `paths` are now and what was done with them."""
    stamp = Path(stamp)
    if not stamp.parent.is_dir():
        return
    temporary = stamp.with_name(f"{stamp.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"purpose": str(purpose), "files": states(paths)}), encoding="utf-8")
    temporary.replace(stamp)


def unchanged(stamp, purpose="", paths=None):
    """Whether the same was done with files that are as `note` found them: those at `paths`, no more and no fewer, or
    without `paths` those that it was given."""
    try:
        before = json.loads(Path(stamp).read_text(encoding="utf-8"))
        return before["purpose"] == str(purpose) and before["files"] == states(
            before["files"] if paths is None else paths
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
