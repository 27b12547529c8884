"""The report page of each network that comes with HyperSign, for the gallery: `make gallery`.

A page is left out if the network's data are not on the machine, and made once. Minutes per network.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import hypersign
from hypersign import data, pretrained, study


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    here = {status.name for status in data.status() if status.path is not None}
    for name in pretrained.names():
        page, run = folder / f"{name}.html", hypersign.load(name)
        if page.exists() or run.info["data"]["name"] not in here:
            continue
        with tempfile.TemporaryDirectory() as parts:
            found = hypersign.inspect(run, images=200)
            shutil.copy(study.write_report(run, found, Path(parts)), page)
        print(page)


main(Path(sys.argv[1]))
