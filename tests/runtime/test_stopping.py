"""Stop strings: the text ends before the first, however it is cut into pieces, and nothing of it is shown before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flextron_export.runtime.stopping import StopStrings

letters = st.text(alphabet="abc", max_size=30)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def expected(text, stops):
    """As if characters came one by one: the first end of a stop string decides."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(st.lists(letters, max_size=8), stops)
def test_any_cut_of_a_text_gives_the_text_before_the_first_stop_string(pieces, stops):
    watched, shown, text = StopStrings(stops), "", "".join(pieces)
    wanted = expected(text, stops)
    final = text if wanted is None else wanted
    for piece in pieces:
        shown += watched.push(piece)
        assert final.startswith(shown)
    assert (watched.found is None) == (wanted is None)
    if wanted is None:
        shown += watched.finish()
    assert shown == final


def test_only_what_may_become_a_stop_string_is_held_back():
    watched = StopStrings(["\n\nUser:"])
    assert watched.push("Hello.\n") == "Hello."
    assert watched.push("\nUse") == ""
    assert watched.push("ful") == "\n\nUseful"
    assert watched.push(" \n") == " " and watched.finish() == "\n"


@pytest.mark.parametrize("pieces", [["a<e", "nd>b"], ["a<end>b"], list("a<end>b")])
def test_nothing_comes_after_a_stop_string(pieces):
    watched = StopStrings(["<end>", "other"])
    assert "".join(watched.push(piece) for piece in [*pieces, "more"]) + watched.finish() == "a"
    assert watched.found == "<end>"
