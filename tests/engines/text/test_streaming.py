"""Text streams never show a stop string, and show everything else as soon as may be."""

from hypothesis import given
from hypothesis import strategies as st
from tests.engines.text.test_detokenizer import CUTS, TEXT, cut

from miaobi.engines.text.detokenizer import ByteDetokenizer
from miaobi.engines.text.streaming import StopText, TextStream

STOPS = st.lists(
    st.text(st.sampled_from("ab 春江🌙"), min_size=1, max_size=3), max_size=3
)


@given(TEXT, CUTS, STOPS)
def test_stop_strings_never_show(text: str, cuts: list[int], stops: list[str]) -> None:
    table = cut(text.encode(), cuts)
    stream = TextStream(ByteDetokenizer(table), stops)
    output = ""
    for token in range(len(table)):
        output += stream.push(token)
        assert text.startswith(output)
        assert not any(stop in output for stop in stops)
        if stream.stopped:
            break
    output += stream.finish()

    starts = {stop: text.find(stop) for stop in stops if stop in text}
    assert stream.stopped == bool(starts)
    if not starts:
        assert output == text
        return
    # The cut is where the first stop string to be completed begins.
    _, first_completed = min(
        (start + len(stop), start) for stop, start in starts.items()
    )
    assert len(output) <= first_completed or output == text[: min(starts.values())]
    assert text.startswith(output)


def test_stop_text_holds_back_only_what_may_begin_a_stop() -> None:
    stop = StopText(["###", "END"])
    assert stop.push("hello #") == "hello "
    assert stop.push("#x E") == "##x "
    assert stop.push("N") == ""
    assert stop.push("D more") == ""
    assert stop.stopped
    assert stop.flush() == ""
