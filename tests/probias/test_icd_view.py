"""The page of a note: what it says, that hostile text stays text, and what a browser makes of it."""

import base64
import hashlib
import html
import re

import browser
import pytest

from camopd_jax.probias import view
from camopd_jax.probias.evidence import Span
from camopd_jax.probias.view import Prediction

NOTE = "Hypertension & type 2 diabetes.\nDenies <b>chest</b> pain. Seen again on Friday."
NASTY = "</mark></script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'\x00\u202egpj\x1b[31m"
needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt-get install chromium")


def spans(*words, text=NOTE):
    return tuple(Span(text.index(w), text.index(w) + len(w), share) for w, share in words)


def predictions():
    return [
        Prediction("R07.9", "Chest pain, unspecified", 0.2, 0.4, spans(("chest</b> pain", 0.9))),
        Prediction("I10", "Essential (primary) hypertension", 0.7, 0.4, spans(("Hypertension", 0.5))),
        Prediction("E11.9", "Type 2 diabetes", 0.9, 0.4, spans(("type 2 diabetes", 0.6), ("Hypertension & type", 0.3))),
    ]  # fmt: skip


def page_of(text=NOTE, predicted=None, read=None, name="note 1"):
    given = predictions() if predicted is None else predicted
    return view.html(text, given, name=name, model="runs/icd-small", read=len(text) if read is None else read)


def note_of(page):
    return re.search(r'id="note".*?>(.*)</div>\n</section>', page, re.DOTALL)[1]


def plain(markup):
    return html.unescape(re.sub("<[^>]*>", "", markup))


def test_the_note_is_whole_and_pieces_know_their_codes():
    """Codes by falling probability: E11.9 is 0, I10 1, R07.9, below its threshold, 2."""
    note = note_of(page_of())
    assert plain(note) == NOTE
    assert re.findall(r'<mark( class="suggested")? data-start="(\d+)" data-codes="([^"]+)">([^<]*)<', note) == [
        (' class="suggested"', "0", "0:0.500 1:1.000", "Hypertension"),
        (' class="suggested"', "12", "0:0.500", " &amp; "),
        (' class="suggested"', "15", "0:1.000", "type"),
        (' class="suggested"', "19", "0:1.000", " 2 diabetes"),
        ("", "42", "2:1.000", "chest&lt;/b&gt; pain"),
    ]


def test_what_the_model_has_not_read_is_grey_and_said():
    page = page_of(read=NOTE.index(" Seen"))
    assert '<span class="unread"> Seen again on Friday.</span>' in page
    assert "The model has read the first 57 characters; the rest of the note is grey." in page
    assert plain(note_of(page)) == NOTE
    assert "has read the first" not in page_of() and '<span class="unread">' not in page_of()


def test_the_table_of_codes():
    page = page_of()
    assert [html.unescape(c) for c in re.findall(r'class="code"[^>]*>([^<]*)<', page)] == ["E11.9", "I10", "R07.9"]
    assert page.index("I10") < page.index("Below their threshold") < page.index("R07.9")
    assert "2 codes suggested by runs/icd-small; 79 characters" in page
    assert '0.900<meter min="0" max="1" value="0.9000"' in page and "threshold 0.400" in page
    assert "60 %</span>" in page and "&amp; <b>type 2 diabetes</b>." in page


def test_nothing_to_show():
    page = page_of("", [], name="empty.txt")
    assert "The note is empty." in page and "No code is at or above its threshold." in page
    assert "Below their threshold" not in page and "0 codes suggested" in page
    assert view.table("", []) == "no code"


def test_the_policy_allows_the_own_script_alone_and_no_data_is_in_it():
    page = page_of(NASTY, [Prediction(NASTY, NASTY, 0.5, 0.4, (Span(0, 40, 1.0),))], name=NASTY)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert scripts == [(view.ASSETS / "view.js").read_text()]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert "<img" not in page and not re.search("[\x00\u202e\x1b]", page)
    assert "⟨0000⟩⟨202E⟩gpj⟨001B⟩[31m" in plain(note_of(page))
    assert not re.search(r"(src|href)=\"?https?:", page)


def test_the_table_for_a_terminal():
    assert view.table(NOTE, predictions()).splitlines() == [
        "0.900  E11.9    Type 2 diabetes",
        "                 60 %  Hypertension & [type 2 diabetes]. Denies <b>chest</b> …",
        "                 30 %  [Hypertension & type] 2 diabetes. Denies …",
        "0.700  I10      Essential (primary) hypertension",
        "                 50 %  [Hypertension] & type 2 diabetes. Denies …",
        "0.200  (R07.9)  Chest pain, unspecified",
        "                 90 %  … type 2 diabetes. Denies <b>[chest</b> pain]. Seen again on Friday.",
    ]
    nasty = view.table(NASTY, [Prediction(NASTY, NASTY, 0.5, 0.4, (Span(0, len(NASTY), 1.0),))])
    assert len(nasty.splitlines()) == 2 and not re.search("[\x00\u202e\x1b]", nasty)


@pytest.fixture(scope="module")
def page():
    with browser.Page() as page:
        yield page


def opened(page, path, content, width):
    path.write_text(content, encoding="utf-8")
    page.events.clear()
    page.open(f"file://{path}", width, 800, dark=False)
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
    urls = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert not [e for e in page.events if e["method"] in kinds]
    assert not [u for u in urls if not u.startswith(("file:", "about:"))]


def lit(page):
    """The marked words and their strength."""
    return page.evaluate(
        "[...document.querySelectorAll('mark.on')].map(m => [m.textContent, +m.style.getPropertyValue('--strength')])"
    )


def press(page, key, code):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


@needs_chromium
def test_codes_are_walked_by_keyboard(page, tmp_path):
    opened(page, tmp_path / "view.html", page_of(), 1280)
    assert lit(page) == []
    page.evaluate("document.querySelector('button.code').focus()")
    assert lit(page) == [["Hypertension", 0.575], [" & ", 0.575], ["type", 1], [" 2 diabetes", 1]]
    press(page, "ArrowDown", 40)
    assert lit(page) == [["Hypertension", 1]]
    said = "document.getElementById('shown').textContent"
    assert page.evaluate(said) == "I10 Essential (primary) hypertension: 1 passage"
    press(page, "Enter", 13)
    page.evaluate("document.activeElement.blur()")
    assert lit(page) == [["Hypertension", 1]]  # kept
    assert page.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 1
    press(page, "Escape", 27)
    assert lit(page) == [] and "Underlined" in page.evaluate(said)


@needs_chromium
def test_a_passage_and_a_place_in_the_note_lead_to_each_other(page, tmp_path):
    opened(page, tmp_path / "view.html", page_of(NOTE + "\n" * 200), 1280)
    page.evaluate("document.querySelectorAll('.passage')[3].click()")
    assert lit(page) == [["chest</b> pain", 1]]
    assert page.evaluate("document.querySelector('mark.here').textContent") == "chest</b> pain"
    page.evaluate("document.querySelector('mark').click()")  # of two codes; it is the strongest of I10
    assert lit(page) == [["Hypertension", 1]]
    page.evaluate("document.querySelector('tr[data-code=\"2\"]').dispatchEvent(new PointerEvent('pointerenter'))")
    assert lit(page) == [["chest</b> pain", 1]]


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_text_stays_text_and_nothing_sticks_out(page, tmp_path, width):
    predicted = [Prediction("X" * 60, NASTY * 3, 0.5, 0.4, (Span(0, 40, 1.0), Span(20, 60, 0.5)))]
    opened(page, tmp_path / "view.html", page_of(NASTY + "y" * 500, predicted, name=NASTY), width)
    assert page.evaluate("window.hacked === undefined && !document.querySelector('img')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
