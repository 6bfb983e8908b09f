"""Names in folders that are no data: hidden files, and what desktops leave beside a user's files.

macOS writes a companion ``._NAME`` beside every file on disks of other systems, with the suffix of the file,
and a folder ``__MACOSX`` of them into archives.
"""

_LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


def is_data(name: str) -> bool:
    """Tell whether a file or folder of this name may hold data.

    >>> [is_data(name) for name in ("a.jpg", "._a.jpg", ".DS_Store", "__MACOSX", "Thumbs.db")]
    [True, False, False, False, False]
    """
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND
