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
    c.seed = 0  # of the weights, the order of the notes, dropout, and of the notes where they are made
    c.steps = 500  # updates

    c.data = ConfigDict()
    # builtin:icd10 (made), mimic3:DIR, mimic4:DIR:icd9, mimic4:DIR:icd10, codiesp:PATH, path:FILE.jsonl
    c.data.source = "builtin:icd10"
    c.data.characters = 0  # of a code that count, such as 3 for the categories of ICD-10; 0: all
    c.data.batch_size = 32  # notes of an update

    c.protocol = ConfigDict()  # which notes train, and which codes are labels (docs/icd.md)
    c.protocol.name = "given"  # "given-dev-as-test", "caml-full", "caml-50", "clean", "top-50"
    c.protocol.files = ""  # directory of the {train,dev,test}_full_hadm_ids.csv of "caml-full" and "caml-50"
    c.protocol.least = 10  # training notes that a label of "clean" needs
    c.protocol.top = 50  # labels of "caml-50" and "top-50"
    c.protocol.shares = (0.8, 0.1, 0.1)  # of the notes for train, dev and test, where patients are drawn
    c.protocol.seed = 0

    c.synthetic = ConfigDict()  # what builtin:icd10 makes
    c.synthetic.codes = 240
    c.synthetic.rare_share = 0.75  # of the codes: at most 10 training notes each
    c.synthetic.siblings = 3  # rare codes of a family, whose name or abbreviation is all that most notes say of them
    c.synthetic.rarest = 4  # training notes of the rarest code
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
    c.text.chunk_tokens = 158  # CLS and SEP come on top
    c.text.stride = 79  # tokens from the start of a chunk to that of the next
    c.text.max_chunks = 4  # what stands behind is not read
    c.text.remat = False  # the backward pass computes the encoder's layers again
    c.text.scratch = ConfigDict()  # of an encoder that starts from random weights
    c.text.scratch.vocab = 3000  # tokens at most, of the training notes; rows of the embedding
    c.text.scratch.width = 64
    c.text.scratch.mlp_width = 128
    c.text.scratch.layers = 1
    c.text.scratch.heads = 4

    c.graph = ConfigDict()
    c.graph.direction = "directed"  # "undirected": common codes attend to rare ones too; "none"
    c.graph.bias = "bucket"  # co-occurrence encoding; "continuous": log P times a learned number; "none"
    c.graph.bias_scale = 20.0  # what the biases are multiplied by: so many times faster do they learn
    c.graph.rare_at_most = 10  # training notes of a rare code
    c.graph.shuffle = False  # the control: each rare code has the edges of another
    c.graph.gate = False  # whether a code weighs its description against what the graph says
    c.graph.mlp_width = 128
    c.graph.rare_block = 4096  # rare codes that attend together

    c.labels = ConfigDict()  # label attention
    c.labels.queries = "described"  # "learned": one for each code, without a graph, as PLM-ICD
    c.labels.width = 128
    c.labels.heads = 4
    c.labels.code_block = 512  # codes that are looked at together
    c.labels.described = 256  # width of a description's embedding where the encoder is "scratch"

    c.dropout = 0.1
    c.loss = ConfigDict()
    c.loss.adjustment = 0.0  # tau of logit adjustment by training frequency; 0: plain binary cross-entropy

    c.threshold = ConfigDict()
    c.threshold.rule = "buckets"  # tuned on dev for codes of like frequency; "global": one for all; "fixed"
    c.threshold.figure = "micro"  # F1 that is tuned, or "macro"
    c.threshold.value = 0.5  # of "fixed"

    c.precision = "float32"  # of every forward pass, or "bfloat16"; what trains is float32

    c.optim = ConfigDict()
    c.optim.name = "adamw"
    c.optim.learning_rate = 4e-3
    c.optim.warmup_steps = 50  # updates, linear; then linear to 0 at the last step
    c.optim.b1 = 0.9
    c.optim.b2 = 0.99
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0  # global norm of the gradient

    c.micro = ConfigDict()
    c.micro.notes = 8  # of a micro-batch, on all devices together; the gradients of an update's are summed

    c.mesh = ConfigDict()  # devices along each axis; one may be -1: whatever is left
    c.mesh.replica = -1  # copies of the model
    c.mesh.fsdp = 1  # shards of weights and optimiser state
    c.mesh.tensor = 1  # shards of heads and MLP

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 250  # steps
    c.checkpoint.keep_last = 1
    c.checkpoint.keep_best = 1  # by micro-F1 on dev; the best one is what is evaluated on test

    c.eval = ConfigDict()
    c.eval.every = 250  # steps between evaluations on dev
    c.eval.patience = 0  # of them without a better micro-F1, after which the run ends; 0: it goes on
    c.eval.batch_size = 64  # notes
    c.eval.seed = 7  # of the resamples of intervals
    c.eval.resamples = 1000

    c.guard = ConfigDict()
    # A gradient norm that is over spike_factor times the median of the last updates: "warn", "skip" the update (the
    # schedule goes on), or "stop"
    c.guard.on_spike = "warn"
    c.guard.spike_factor = 10.0
    c.guard.spike_window = 64  # updates of the median
    c.guard.spike_after = 32  # updates before the first that is judged
    c.guard.stall_seconds = 1800.0  # a step or evaluation that takes longer leaves a stack dump; 0: none does

    presets[preset](c)
    return c.lock()


def _tiny(c: ConfigDict) -> None:
    c.steps = 6
    c.synthetic.codes = 24
    c.synthetic.rare_share = 0.6
    c.synthetic.notes = (60, 20, 30)
    c.synthetic.rarest = 1
    c.synthetic.rare_notes = (1, 1)
    c.synthetic.comorbid = 2
    c.text.scratch.vocab = 400
    c.text.scratch.width = 16
    c.text.scratch.mlp_width = 32
    c.graph.mlp_width = 16
    c.labels.width = 16
    c.labels.described = 16
    c.data.batch_size = 16
    c.micro.notes = 8  # also of eight devices
    c.optim.warmup_steps = 2
    c.checkpoint.every = 2
    c.eval.every = 2
    c.eval.batch_size = 8
    c.eval.resamples = 50


def _paper(c: ConfigDict) -> None:
    """GatorTron base (width 1024) on MIMIC-IV-ICD-10; --config.data.source=mimic4:DIR:icd10."""
    c.data.source = "mimic4:mimic-iv:icd10"
    c.protocol.name = "clean"
    c.protocol.least = 1  # every code of training
    c.data.batch_size = 16
    c.text.encoder = "hf:UFNLP/gatortron-base"
    c.text.chunk_tokens = 510
    c.text.stride = 255
    c.text.max_chunks = 23
    c.text.remat = True
    c.descriptions.kind = "both"
    c.descriptions.file = "descriptions.jsonl"
    c.graph.mlp_width = 512
    c.labels.width = 512
    c.threshold.rule = "fixed"
    c.precision = "bfloat16"
    c.steps = 100_000  # about 15 epochs of 110,000 notes
    c.optim.learning_rate = 2e-5
    c.optim.warmup_steps = 2000
    c.optim.b2 = 0.999
    c.micro.notes = 1
    c.eval.every = 6500  # about an epoch
    c.eval.patience = 5
    c.eval.batch_size = 8
    c.checkpoint.every = 6500
