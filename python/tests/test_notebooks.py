"""The notebooks run from their first cell to their last, in a kernel of their own."""

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="no nbclient here: the notebooks are skipped")
nbclient = pytest.importorskip("nbclient", reason="no nbclient here: the notebooks are skipped")
pytest.importorskip("ipykernel", reason="no ipykernel here: the notebooks are skipped")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["maps", "own_network"])
def test_notebook(name, tmp_path):
    notebook = nbformat.read(ROOT / "docs/python/notebooks" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert "text/plain" in shown
    if name == "maps":
        assert shown.count("image/png") == 4
        assert "<table>" in "".join(output.get("data", {}).get("text/html", "") for output in outputs)
