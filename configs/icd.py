"""ProBias: code clinical notes with ICD codes, most of which are rare (arXiv 2511.09559).

    python bin/train.py --config=configs/icd.py          made notes with real codes, 2 CPU cores: about 3 minutes
    python bin/train.py --config=configs/icd.py:tiny     a few notes, seconds: does it run here?
    python bin/train.py --config=configs/icd.py:paper --config.data.source=mimic4:DIR:icd10     a user's own MIMIC

Common codes tell rare ones what comes with them: a directed bipartite graph, whose attention is biased by the
probability of the common code where the rare one is, makes the queries of a label attention. See docs/icd.md.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "small") -> ConfigDict:
    presets = {"small": lambda c: None, "tiny": _tiny, "paper": _paper}
    if preset not in presets:
        raise ValueError(f"configs/icd.py:{preset}: allowed presets are {', '.join(presets)}")
    c = ConfigDict()
    c.name = "icd"
    c.preset = preset
    c.seed = 0  # of the weights, the order of the notes and dropout
    c.steps = 1250  # updates

    c.data = ConfigDict()
    # builtin:icd10 (made), mimic3:DIR, mimic4:DIR:icd9, mimic4:DIR:icd10, codiesp:PATH, path:FILE.jsonl
    c.data.source = "builtin:icd10"
    c.data.characters = 0  # of a code that count, such as 3 for the categories of ICD-10; 0: all
    c.data.batch_size = 16  # notes of an update

    c.protocol = ConfigDict()  # which notes train, and which codes are labels (docs/icd.md)
    c.protocol.name = "given"  # "given-dev-as-test", "caml-full", "caml-50", "clean", "top-50"
    c.protocol.files = ""  # directory of the {train,dev,test}_full_hadm_ids.csv of "caml-full" and "caml-50"
    c.protocol.least = 10  # training notes that a label of "clean" needs
    c.protocol.top = 50  # labels of "caml-50" and "top-50"
    c.protocol.shares = (0.8, 0.1, 0.1)  # of the notes for train, dev and test, where patients are drawn
    c.protocol.seed = 0

    c.synthetic = ConfigDict()  # what builtin:icd10 makes
    c.synthetic.seed = 0
    c.synthetic.codes = 300
    c.synthetic.rare_share = 0.6  # of the codes: at most 10 training notes each
    c.synthetic.siblings = 3  # rare codes of a family, whose name or abbreviation is all that most notes say of them
    c.synthetic.notes = (2000, 400, 800)  # of train, dev and test
    c.synthetic.most = 0.25  # share of the notes that have the most frequent code
    c.synthetic.zipf = 0.8  # the common code of rank i is in about most / i^zipf of the notes
    c.synthetic.rare_notes = (2, 5)  # of dev and test that each rare code is in: more than by its frequency
    c.synthetic.comorbid = 3  # common codes that come with a rare one
    c.synthetic.likely = 0.9  # P(common | rare) of those at strength 1
    c.synthetic.strength = 1.0  # 0: these are as frequent there as in any other note
    c.synthetic.clear = 0.1  # share of the mentions of a rare code that have its own title
    c.synthetic.silent = 0.1  # share of them where nothing is said
    c.synthetic.abbreviated = 0.2  # share of the mentions of common codes that are abbreviations, where there are any
    c.synthetic.negated = 1.0  # mean number of mentions of codes that a note does not have
    c.synthetic.noise = 1  # sentences about nothing, in each note

    c.descriptions = ConfigDict()  # of the codes; what the graph starts from
    c.descriptions.kind = "official"  # titles and inclusion terms; "written": by a model (bin/describe.py); "both"
    c.descriptions.file = ""  # JSONL of written ones

    c.text = ConfigDict()  # the text encoder
    c.text.encoder = "scratch"  # or a model source of the BERT family, such as hf:UFNLP/gatortron-base
    return c.lock()


def _tiny(c: ConfigDict) -> None:
    pass


def _paper(c: ConfigDict) -> None:
    pass
