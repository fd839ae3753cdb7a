"""Make this host's pip settings usable in an image build.

``python host_pip.py CONF`` writes them as one pip.conf to CONF and prints, one a line, the local paths that they name
(wheel folders, certificates), which the build must mount at the same place.
"""

import configparser
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit


def settings() -> dict[str, dict[str, str]]:
    """What ``pip config list`` prints, by section; variables of the environment go before files, as in pip."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sections: dict[str, dict[str, str]] = {"global": {}}
    from_environment: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, quoted = line.partition("=")
        section, _, option = name.rpartition(".")
        value = quoted.strip("'")
        if section == ":env:":
            from_environment[option] = value
        else:
            sections.setdefault(section, {})[option] = value
    sections["global"] |= from_environment
    return sections


def local_paths(sections: dict[str, dict[str, str]]) -> list[str]:
    """Folders and files of this host that the values name, as paths or as file: URLs.

    Of an index at a file: URL it is the folder above, since an index's pages link to package files beside it.
    """
    words = [word for options in sections.values() for value in options.values() for word in value.split()]
    paths = [Path(urlsplit(word).path).parent if word.startswith("file:") else Path(word) for word in words]
    return sorted({str(path) for path in paths if path.is_absolute() and path.exists()})


def main(conf: Path) -> None:
    sections = settings()
    parser = configparser.RawConfigParser()
    parser.read_dict(sections)
    with conf.open("w") as out:
        parser.write(out)
    sys.stdout.writelines(f"{path}\n" for path in local_paths(sections))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
