"""What a process holds in memory, and giving back what it no longer needs (Linux; elsewhere these do nothing)."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_DONTNEED = 4


def private_memory() -> int:
    """Bytes of this process's memory that belong to no file; 0 where the system does not tell (only Linux does)."""
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def drop_mapped_pages(file: Path) -> None:
    """Give back the resident pages of this process's mappings of `file`; touched again, they are read again.

    ONNX Runtime keeps weights mapped after it has rearranged them in private memory, and they would count twice.
    """
    wanted, mapping = str(file.resolve()), None
    try:
        library = ctypes.CDLL(None)
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):  # the first line of a mapping; its counters follow
            mapping = fields[0] if len(fields) == 6 and fields[5] == wanted else None
        elif mapping and fields[:2] == ["Anonymous:", "0"]:  # pages that were written to would be lost; there are none
            start, stop = (int(address, 16) for address in mapping.split("-"))
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)
