"""A note with its predicted codes, for a coder's second look: an HTML page that needs nothing else, and a table."""

import base64
import hashlib
import html as escaping
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from camopd_jax import shown
from camopd_jax.probias.evidence import Span, quote

ASSETS = Path(__file__).parents[1] / "assets" / "icd"
QUOTED = 70  # characters of a passage in a table


@dataclass(frozen=True)
class Prediction:
    """A code of a note."""

    code: str
    title: str
    probability: float
    threshold: float  # least probability at which the code is suggested
    evidence: tuple[Span, ...]  # heaviest first

    @property
    def suggested(self) -> bool:
        return self.probability >= self.threshold


def html(text: str, predictions: Sequence[Prediction], *, name: str, model: str, read: int) -> str:
    """The page of a note: codes by falling probability, and the note, in which the passages of a code are marked.

    Whatever the note, the codes and their titles are made of stands as text. The page loads nothing, and the one
    script that its policy allows is ours.

    Args:
      name: what the note is called.
      model: where the weights are from.
      read: characters of the note that the model has read; what follows is shown as left out.
    """
    ranked = ranking(predictions)
    suggested = [p for p in ranked if p.suggested]
    style, script = ((ASSETS / f"view.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    parts = {
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
                  "form-action 'none'",
        "style": style,
        "script": script,
        "name": _text(name),
        "facts": _text(f"{_count(len(suggested), 'code')} suggested by {model}; {len(text):,} characters"),
        "unread": _unread(text, read),
        "suggested": _rows(suggested, 0, text) or _across("td", "No code is at or above its threshold."),
        "others": _others(ranked[len(suggested) :], len(suggested), text),
        "note": _note(text, ranked, read),
    }  # fmt: skip
    template = (ASSETS / "view.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def table(text: str, predictions: Sequence[Prediction]) -> str:
    """The codes for a terminal: probability, code, title, and under each the passages with their share of attention.

    A code below its threshold stands in brackets; a passage stands in square ones, among the words around it.
    """
    lines = []
    wide = max((len(p.code) for p in predictions), default=0) + 2
    for p in ranking(predictions):
        code = shown.line(p.code if p.suggested else f"({p.code})")
        lines.append(f"{p.probability:.3f}  {code:{wide}s}  {shown.line(p.title)}")
        lines += [f"{'':{wide + 9}s}{100 * span.weight:3.0f} %  {_quoted(text, span)}" for span in p.evidence]
    return "\n".join(lines) or "no code"


def _quoted(text: str, span: Span) -> str:
    before, words, after = quote(text, span, QUOTED)
    return shown.line(f"{before}[{words}]{after}")


def ranking(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Suggested codes first, each part by falling probability, equal ones by code."""
    return sorted(predictions, key=lambda p: (not p.suggested, -p.probability, p.code))


def _rows(some: Sequence[Prediction], first: int, text: str) -> str:
    return "".join(_row(number, p, text) for number, p in enumerate(some, start=first))


def _others(some: Sequence[Prediction], first: int, text: str) -> str:
    if not some:
        return ""
    return f'<tbody id="others">{_across("th", "Below their threshold")}{_rows(some, first, text)}</tbody>'


def _across(tag: str, words: str) -> str:
    return f'<tr><{tag} colspan="3">{words}</{tag}></tr>\n'


def _row(number: int, p: Prediction, text: str) -> str:
    return (
        f'<tr data-code="{number}"><th scope="row"><button type="button" class="code" aria-pressed="false" '
        f'data-code="{number}">{_text(p.code)}</button></th>'
        f'<td><span class="said title">{_text(p.title)}</span>'
        f'<ul class="passages">{"".join(_passage(number, span, text) for span in p.evidence)}</ul></td>'
        f'<td class="number">{p.probability:.3f}'
        f'<meter min="0" max="1" value="{p.probability:.4f}" aria-hidden="true"></meter>'
        f'<span class="quiet">threshold {p.threshold:.3f}</span></td></tr>\n'
    )


def _passage(number: int, span: Span, text: str) -> str:
    before, words, after = map(_text, quote(text, span, QUOTED))
    return (
        f'<li><span class="share">{100 * span.weight:.0f} %</span> <button type="button" class="passage said" '
        f'data-code="{number}" data-start="{span.start}">{before}<b>{words}</b>{after}</button></li>'
    )


def _note(text: str, ranked: Sequence[Prediction], read: int) -> str:
    """The note cut where a passage of any code begins or ends; a piece knows the codes whose passages it is in."""
    if not text.strip():
        return '<p class="quiet">The note is empty.</p>'
    begin: dict[int, list] = {}
    for number, p in enumerate(ranked):
        most = max((span.weight for span in p.evidence), default=0.0)
        for span in p.evidence:
            begin.setdefault(span.start, []).append((span.end, number, span.weight / most if most else 0.0))
    ends = {0, len(text), min(read, len(text)), *begin, *(end for items in begin.values() for end, *_ in items)}
    cuts = sorted(at for at in ends if at <= len(text))
    suggested = sum(p.suggested for p in ranked)
    out, here = [], []
    for start, end in itertools.pairwise(cuts):
        here = [item for item in here if item[0] > start] + begin.get(start, [])
        out.append(_piece(text[start:end], start, here, suggested) if start < read else _left_out(text[start:end]))
    return "".join(out)


def _piece(words: str, start: int, here: list, suggested: int) -> str:
    if not here:
        return _text(words)
    strength: dict[int, float] = {}
    for _, code, share in here:
        strength[code] = max(strength.get(code, 0.0), share)
    codes = " ".join(f"{code}:{share:.3f}" for code, share in sorted(strength.items()))
    kind = ' class="suggested"' if min(strength) < suggested else ""
    return f'<mark{kind} data-start="{start}" data-codes="{codes}">{_text(words)}</mark>'


def _left_out(words: str) -> str:
    return f'<span class="unread">{_text(words)}</span>'


def _unread(text: str, read: int) -> str:
    if read >= len(text):
        return ""
    return f'<p class="warning">The model has read the first {read:,} characters; the rest of the note is grey.</p>'


def _text(words: str) -> str:
    return escaping.escape(shown.visible(words))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _hash(words: str) -> str:
    """The source expression of a Content Security Policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()}'"
