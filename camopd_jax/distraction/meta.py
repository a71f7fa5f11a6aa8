"""Operations of meta-processing: about the text as a text, its words, sentences and their order; see operations.py."""

from camopd_jax.distraction.content import Genre, genres
from camopd_jax.distraction.operations import (
    LINE,
    NAMED,
    Plan,
    Rng,
    Solved,
    copied_lines,
    edge_word,
    focused,
    opens,
    parts,
    pick,
    rows,
    task_of,
    truth,
    values,
    verbatim,
    whole_name,
)
from camopd_jax.distraction.texts import NUMBERS, accepted
from camopd_jax.distraction.words import words


def first_word(genre: Genre, rng: Rng) -> Plan:
    """The word that opens the text."""
    return Plan((), lambda doc: _word(edge_word(doc, last=False)), keep=("start",))


def last_word(genre: Genre, rng: Rng) -> Plan:
    """The word that ends the text."""
    return Plan((), lambda doc: _word(edge_word(doc, last=True)), keep=("end",))


def _word(word: str) -> Solved:
    return Solved({}, word, verbatim(word), [LINE])


def first_sentence(genre: Genre, rng: Rng) -> Plan:
    """The opening sentence, word for word."""
    return Plan((), lambda doc: _sentence(doc.sentences[0]), keep=("start",))


def last_sentence(genre: Genre, rng: Rng) -> Plan:
    """The final sentence, word for word."""
    return Plan((), lambda doc: _sentence(doc.sentences[-1]), keep=("end",))


def _sentence(sentence: str) -> Solved:
    return Solved({}, sentence, verbatim(sentence), [copied_lines(1)])


def earlier(genre: Genre, rng: Rng) -> Plan:
    """Which of two values comes first in the text."""
    a, b = pick(genre, NAMED, 2, rng)

    def solve(doc):
        one, other = doc.facts[a.name], doc.facts[b.name]
        first, later = sorted((a, b), key=lambda f: doc.text.find(doc.facts[f.name]))
        right, wrong = doc.facts[first.name], doc.facts[later.name]
        return Solved({"a": one, "b": other}, right, values([accepted(first, right)], [wrong]), [LINE])

    return Plan((a.name, b.name), solve)


def contains_word(genre: Genre, rng: Rng, *, yes: str, no: str) -> Plan:
    """Whether the text has a word."""
    holds = bool(rng.integers(2))

    def solve(doc):
        candidates = [v for v in genre.list["values"] if (v in doc.listed) == holds and (v in words(doc.text)) == holds]
        word = str(rng.choice(candidates))
        return Solved({"word": word}, yes if holds else no, truth(holds), [LINE], alien=(word,))

    return Plan(("list",), solve)


def sentence_with(genre: Genre, rng: Rng, *, lead: str) -> Plan:
    """The sentence that gives a fact, word for word."""
    (fact,) = pick(genre, (*NAMED, *NUMBERS), 1, rng)

    def solve(doc):
        sentence = doc.sentences[doc.where[fact.name]]
        form = [copied_lines(1)] + ([{"kind": "begins", "opening": lead.strip()}] if lead else [])
        return Solved({"noun": fact.noun}, lead + sentence, verbatim(sentence), form)

    return Plan((fact.name,), solve)


def first_and_last_sentence(genre: Genre, rng: Rng) -> Plan:
    """The opening and the final sentence, a line each."""

    def solve(doc):
        first, last = doc.sentences[0], doc.sentences[-1]
        return Solved({}, f"{first}\n{last}", rows(verbatim(first), verbatim(last)), [copied_lines(2)])

    return Plan((), solve, keep=("start", "end"))


def first_and_last_word(genre: Genre, rng: Rng) -> Plan:
    """The words that open and end the text, with a plus sign between them."""

    def solve(doc):
        first, last = edge_word(doc, last=False), edge_word(doc, last=True)
        gold = f"{first} + {last}"
        return Solved({}, gold, verbatim(gold), [{"kind": "joined_by", "joint": "+", "n": 2}])

    return Plan((), solve, keep=("start", "end"))


def absent(genre: Genre, rng: Rng) -> Plan:
    """Which of four words the text does not have."""

    def solve(doc):
        gone = [v for v in genre.list["values"] if v not in words(doc.text)]
        there = [str(v) for v in rng.permutation(doc.listed)[:3]]
        word = str(rng.choice(gone))
        named = ", ".join(str(v) for v in rng.permutation([word, *there]))
        return Solved({"words": named}, word, values([[word]], there, denial=True), [LINE], alien=(word, *there))

    return Plan(("list",), solve)


def completion(genre: Genre, rng: Rng) -> Plan:
    """How a sentence goes on from a few words before a fact's value."""

    def solve(doc):
        for name in rng.permutation(sorted(doc.facts)):
            stem, value, rest = doc.sentences[doc.where[name]].partition(doc.facts[name])
            if len(words(stem)) > 1 and doc.text.count(stem) == 1:
                gold = value + rest.rstrip(".")
                return Solved({"stem": stem.strip()}, gold, focused(values([[gold]], []), doc, str(name)), [LINE])
        return None

    return Plan((), solve)


def mentioned(genre: Genre, rng: Rng, *, type: str) -> Plan:
    """The only value of a type that the text has, which opens the text where its first sentence gives one."""
    (fact, *others) = sorted(pick(genre, (type,), len(genre.facts), rng), key=lambda f: not opens(genre, f))

    def solve(doc):
        task = whole_name(task_of(fact, doc)) if type == "person" else task_of(fact, doc)
        return Solved({}, doc.facts[fact.name], focused(task, doc, fact.name), [LINE])

    return Plan((fact.name,), solve, without=frozenset(f.name for f in others if not opens(genre, f)))


def kind_of_text(genre: Genre, rng: Rng, *, split: str) -> Plan:
    """Which of two kinds of text it is."""
    other = str(rng.choice([g.title for g in genres(split) if g.genre != genre.genre]))

    def solve(doc):
        a, b = (str(t) for t in rng.permutation([genre.title, other]))
        accept = [_bare(genre.title)] + [w for w in words(genre.title)[-1:] if w not in words(other)]
        return Solved({"a": a, "b": b}, _bare(genre.title), values([accept], [_bare(other)]), [LINE])

    return Plan((), solve)


def _bare(title: str) -> str:
    return title.partition(" ")[2]


def order(genre: Genre, rng: Rng) -> Plan:
    """Three values in the order of the text."""
    facts = pick(genre, NAMED, 3, rng)

    def solve(doc):
        ranked = sorted(facts, key=lambda f: doc.text.find(doc.facts[f.name]))
        asked = ", ".join(doc.facts[f.name] for f in facts)
        found = [doc.facts[f.name] for f in ranked]
        gold = " > ".join(found)
        task = parts(
            *(values([accepted(f, v)], [w for w in found if w != v]) for f, v in zip(ranked, found, strict=True)),
            ordered=True,
        )
        return Solved({"words": asked}, gold, task, [{"kind": "joined_by", "joint": ">", "n": 3}])

    return Plan(tuple(f.name for f in facts), solve)
