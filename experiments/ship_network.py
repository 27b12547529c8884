"""Puts a trained run into the package, as one of the networks of `hypersign models`.

    python experiments/ship_network.py RUN NAME [--twin RUN] [--command TEXT]

The network's folder is a model repository with latent weights in float16. Run it on a quiet machine: the card has the
time of one image.
"""

import argparse
from pathlib import Path

from hypersign import hub, runs
from hypersign.pretrained import NETWORKS


def main() -> None:
    """Writes the folder of one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("name", help="the network's name")
    parser.add_argument("--twin", type=Path, help="the run of the float twin")
    parser.add_argument("--command", default="", help="the command that made the run")
    given = parser.parse_args()
    twin = None if given.twin is None else runs.load(given.twin)
    folder = hub.save_pretrained(
        runs.load(given.run), NETWORKS / given.name, twin=twin, command=given.command, half=True
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size:,} bytes")


if __name__ == "__main__":
    main()
