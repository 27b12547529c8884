"""Runs the notebooks from their first cell to their last, and stores what each cell shows.

    python notebooks/store_outputs.py

`jupyter nbconvert --execute --inplace` does the same; this needs no Jupyter, and stores no times and no counters.
"""

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def run_cell(code: str, namespace: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The outputs of a cell: what it prints, then the value of its last line, as text and as HTML."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(compile(tree, name, "exec"), namespace)
        value = None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if text.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.getvalue().splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "savefig"):  # a figure
            picture = io.BytesIO()
            value.savefig(picture, format="png", dpi=70, metadata={"Software": None})
            data["image/png"] = base64.b64encode(picture.getvalue()).decode() + "\n"
        shown = getattr(value, "_repr_html_", lambda: None)()
        if shown is not None:
            data["text/html"] = shown.splitlines(keepends=True)
        outputs.append({"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def store(path: Path) -> None:
    """Runs a notebook in an empty folder and writes it with its outputs."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["TMPDIR"] = folder
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = run_cell("".join(cell["source"]), namespace, f"{path.name}, {cell['id']}")
                cell["execution_count"] = None
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for notebook in sorted(Path(__file__).parent.glob("*.ipynb")):
        store(notebook)
        print(notebook.name)
