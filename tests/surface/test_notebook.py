"""The notebook tells the truth: it runs from top to bottom, and what its words promise
is in its figures.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "learn" / "finetune.ipynb"
CHECK = """
print(json.dumps({
    "splits": {split: len(rows) for split, rows in splits.items()},
    "by_hand": by_hand.item(),
    "ours": ours,
    "trained": trained,
    "whole": whole,
    "curve": curve,
    "validations": validations,
    "difference": float(difference),
    "reported": vars(reported),
    "p": float(p),
    "interval": interval.tolist(),
    "forgotten": forgotten.value,
    "adapter_bytes": adapter_bytes,
    "answer": answer,
}))
"""


@pytest.fixture(scope="module")
def page() -> Any:
    return nbformat.read(PAGE, as_version=4)


def test_it_is_kept_without_outputs_and_can_be_read_without_running(page: Any) -> None:
    nbformat.validate(page)
    for cell in page.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            ast.parse(cell.source)
    prose = "\n".join(
        cell.source for cell in page.cells if cell.cell_type == "markdown"
    )
    assert [number for number in "12345" if f"\n## {number}. " in f"\n{prose}"] == list(
        "12345"
    )
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning"
)  # of the notebook client, not ours
def test_it_runs_and_its_figures_are_what_it_says(
    page: Any, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    page.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(
        page,
        timeout=1000,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute(env=dict(os.environ))
    found = json.loads(
        "".join(
            output.text
            for output in page.cells[-1].outputs
            if output.get("name") == "stdout"
        )
    )
    assert sum(found["splits"].values()) == 48
    assert found["by_hand"] == pytest.approx(found["ours"], abs=1e-3)
    assert found["trained"] / found["whole"] < 0.03
    assert found["curve"][-1] < found["curve"][0] / 2
    assert found["validations"][-1][1] < found["validations"][0][1]
    reported = found["reported"]
    assert found["difference"] == pytest.approx(reported["value"], abs=1e-4)
    assert (
        reported["better"] is True and reported["value"] < -1
    )  # nats a token: a large effect, on questions that were not trained on
    assert found["p"] < 0.01 and reported["p"] < 0.01
    assert found["interval"] == pytest.approx(
        [reported["low"], reported["high"]], abs=0.15
    )
    assert abs(found["forgotten"]) < 1
    assert found["adapter_bytes"] < 12e6
    assert "sailcloth" in found["answer"]
