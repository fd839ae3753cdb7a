"""What went wrong in a jail, in words: the kind of the fault and the submission's own part of the traceback."""

from __future__ import annotations

import errno
import re
import resource
import traceback
from collections.abc import Iterator
from typing import Any

MAX_MESSAGE_CHARS = 2000
MAX_TRACEBACK_CHARS = 12_000
MAX_CAUSES = 8
_REFUSED_CHARS = 1500
SOURCES = {"encode": "encoder.py", "decode": "decoder.py"}

# What a jail may say about itself; what it cannot know (signals, the wall clock) only the supervisor says.
REPORTABLE = frozenset(
    {
        "exception",
        "invalid_output",
        "contract_violation",
        "integrity",
        "memory_limit",
        "gpu_memory_limit",
        "output_limit",
        "disk_limit",
        "process_limit",
    }
)

_BY_ERRNO = {
    errno.ENOMEM: "memory_limit",
    errno.EMFILE: "process_limit",
    errno.ENOSPC: "disk_limit",
    errno.EFBIG: "disk_limit",
    errno.EDQUOT: "disk_limit",
}
_OUT_OF_MEMORY = (
    "MemoryError",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "Cannot allocate memory",
    "can't start new thread",
    "std::bad_alloc",
)


_OURS_IN_A_CRASH = re.compile(
    r"""^\ \ File\ "(?!(?:encoder|decoder)\.py")[^"]*",\ line\ \d+\ in\ .*\n|^Extension\ modules:\ .*\n?""",
    re.MULTILINE | re.VERBOSE,
)


# What the jail refuses by design, by the modules that a refused call was made from.
_REFUSALS = (
    (("/multiprocessing/synchronize.py",), "a submission cannot start processes, nor make locks for them"),
    (("subprocess.py", "/multiprocessing/", "/concurrent/futures/process.py"), "a submission cannot start processes"),
    (("/socket.py", "/ssl.py", "/asyncio/"), "a submission has no network and no sockets"),
)
_REFUSED = (
    "a submission cannot start processes, use sockets, change the mode, owner or times of files, signal or inspect "
    "others, or change its own privileges"
)


class ContractError(Exception):
    """The submission did not keep its contract. ``kind`` is an error type."""

    def __init__(self, kind: str, message: str, *, limit: float | None = None, used: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.limit = limit
        self.used = used


def describe(error: BaseException) -> dict[str, Any]:
    """A ``failed`` message for an exception. Never raises, whatever the exception's own methods do."""
    try:
        if isinstance(error, ContractError):
            cause = error.__cause__
            return {
                "error_type": error.kind,
                "message": str(error)[:MAX_MESSAGE_CHARS],
                "traceback": None if cause is None else own_traceback(cause),
                "limit": error.limit,
                "used": error.used,
            }
        refused = refusal(error)
        message = summary(error) if refused is None else f"{summary(error)[:_REFUSED_CHARS]} (the jail: {refused})"
        told = {"error_type": kind_of(error), "message": message, "traceback": own_traceback(error)}
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            told |= {"limit": open_files, "used": open_files}
        return told
    except BaseException:  # noqa: BLE001 - the submission's exception may be built to fail here
        # Nothing here may ask the exception itself: isinstance, for one, would ask its __class__.
        kind = "memory_limit" if issubclass(type(error), MemoryError) else "exception"
        message = f"{type.__getattribute__(type(error), '__name__')}, which could not be described"
        return {"error_type": kind, "message": message[:MAX_MESSAGE_CHARS], "traceback": None}


def kind_of(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory_limit"
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    if isinstance(error, BlockingIOError):
        return "process_limit"
    if isinstance(error, RuntimeError):
        if type(error).__name__ == "OutOfMemoryError":
            return "gpu_memory_limit"
        if looks_out_of_memory(str(error)):
            return "memory_limit"
    return "exception"


def refusal(error: BaseException) -> str | None:
    """In words what the jail did not allow, if that is what went wrong; None for anything else."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in (errno.EPERM, errno.EACCES):
            files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(cause.__traceback__)]
            told = (words for modules, words in _REFUSALS if any(name in file for name in modules for file in files))
            return next(told, _REFUSED if cause.errno == errno.EPERM else None)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, the first few."""
    current: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if current is None:
            return
        yield current
        reason = getattr(current, "reason", None)
        current = current.__cause__ or current.__context__ or (reason if isinstance(reason, BaseException) else None)


def own_log(text: str) -> str:
    """The log without what a crash in native code makes the interpreter print about our frames and modules."""
    return _OURS_IN_A_CRASH.sub("", text)


def looks_out_of_memory(text: str) -> bool:
    return any(phrase in text for phrase in _OUT_OF_MEMORY)


def summary(error: BaseException) -> str:
    """One line: the exception's type and text."""
    if isinstance(error, SystemExit):
        return f"SystemExit: the code called sys.exit({error.code!r})"[:MAX_MESSAGE_CHARS]
    told = traceback.TracebackException.from_exception(error)
    told.__notes__ = None  # they would come last
    lines = list(told.format_exception_only())
    return (lines[-1] if lines else type(error).__name__).strip()[:MAX_MESSAGE_CHARS]


def own_traceback(error: BaseException) -> str:
    """The traceback with the frames of ``encoder.py`` and ``decoder.py`` alone; the end of it where it is long."""
    _cut_chain(error)
    told = traceback.TracebackException.from_exception(error, compact=True)
    _confine(told, seen=set())
    text = "".join(told.format())
    return text if len(text) <= MAX_TRACEBACK_CHARS else "...\n" + text[-MAX_TRACEBACK_CHARS:]


def _cut_chain(error: BaseException) -> None:
    """Forget the causes beyond the first few: a long chain cannot be shown, and walking it can exhaust the stack."""
    for _ in range(MAX_CAUSES):
        cause = error.__cause__ or error.__context__
        if cause is None:
            return
        error = cause
    error.__cause__ = error.__context__ = None


def _confine(told: traceback.TracebackException | None, seen: set[int]) -> None:
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    own = [frame for frame in told.stack if frame.filename in SOURCES.values()]
    told.stack = traceback.StackSummary.from_list(own)
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        _confine(other, seen)
