"""A model of ours for lm-evaluation-harness (lm_eval, an optional dependency), with the conventions of its own
Hugging Face backend: how a pair is tokenised, what is cut where a text is too long, rolling windows, stops."""

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from camopd_jax import sharding
from camopd_jax.chat import THINKING, fill
from camopd_jax.engine import Engine, Policy
from camopd_jax.evals import likelihood
from camopd_jax.evals.said import said
from camopd_jax.templates import Refused
from camopd_jax.types import Params

log = logging.getLogger(__name__)

MAX_GEN_TOKS = 256  # where a task says nothing, as in the Hugging Face backend
# The one value of an option that we can do; of the first three any value is as good where decoding is greedy.
NEUTRAL = {"top_p": (1,), "top_k": (0, -1), "min_p": (0,), "num_beams": (1,), "repetition_penalty": (1,)}
WHEN_SAMPLING = ("top_p", "top_k", "min_p")


@dataclass(frozen=True)
class Generation:
    """How to answer: the generation_kwargs of a task, as far as we have them."""

    max_new_tokens: int
    temperature: float  # 0: greedy
    until: tuple[str, ...]  # texts that end an answer, and are cut from it

    @classmethod
    def of(cls, kwargs: dict) -> "Generation":
        """Read generation_kwargs.

        Raises:
          ValueError: if an option is unknown or has a value that is not supported here.
        """
        options = dict(normalize_gen_kwargs(kwargs, MAX_GEN_TOKS))
        until, tokens = options.pop("until") or [], options.pop("max_gen_toks")
        sampled, temperature = options.pop("do_sample"), float(options.pop("temperature", 0.0))
        if type(sampled) is not bool or temperature < 0 or sampled != (temperature > 0):
            raise ValueError(
                f"do_sample = {sampled!r} with temperature = {temperature:g}: allowed are False, and True with a "
                "temperature above 0"
            )
        if tokens < 1:
            raise ValueError(f"max_gen_toks = {tokens}: allowed is a whole number, 1 or more")
        for name, value in options.items():
            if name not in NEUTRAL:
                known = ", ".join(("until", "max_gen_toks", "do_sample", "temperature", *NEUTRAL))
                raise ValueError(f"{name} = {value!r} is not supported; allowed are {known}")
            if value is not None and value not in NEUTRAL[name] and (sampled or name not in WHEN_SAMPLING):
                allowed = " or ".join(map(str, NEUTRAL[name]))
                raise ValueError(f"{name} = {value!r} is not supported; allowed is {allowed}")
        return cls(tokens, temperature, tuple(text for text in until if text))


class JaxLM(TemplateLM):
    """An engine with one model's weights, which are placed at the first request.

    Args:
      name: of tokenizer and template, in results; info: what else results should say about the model.
      batch_size: rows of a batch over all devices; max_length: tokens of prompt and answer together.
      thinking: what the chat template is told, a key of chat.THINKING; date: YYYY-MM-DD, what it takes for today.
      think_end: an answer begins after the last of these; "": it is whole.
      seed: of sampled answers; the same requests in the same batches are answered alike.
    """

    def __init__(
        self, policy: Policy, *, name: str, info: dict, batch_size: int, max_length: int, thinking: str,
        date: str, think_end: str, seed: int,
    ):  # fmt: skip
        super().__init__()
        engine = self.engine = policy.engine
        most = engine.cfg.max_positions
        if not 2 <= max_length <= most:
            raise ValueError(f"max_length = {max_length}: allowed is 2 to {most}, what the model was made for")
        self._place, self.info, self.tokenizer_name = policy.place, info, name
        self.tokenizer, self.batch_size, self.max_length = engine.tokenizer, batch_size, max_length
        self.thinking, self.date, self.think_end, self.seed = thinking, date, think_end, seed
        self.think_id = engine.tokenizer.get_vocab().get(think_end)
        rows, n = sharding.by_rows(engine.mesh), engine.numerics
        scores = functools.partial(likelihood.token_scores, engine.graph, chunk=n.logit_chunk, mesh=engine.mesh)
        self._scores = jax.jit(
            functools.partial(scores, dtype=n.dtype, vocab=n.vocab),
            in_shardings=(engine.params_at, rows),
            out_shardings=rows,
        )
        self._stopping_at = functools.cache(self._build_stopping_at)

    @functools.cached_property
    def params(self) -> Params:
        return self._place()

    def get_model_info(self) -> dict:
        return self.info

    tokenizer_name = ""  # a property of the base class; each model has its own

    @property
    def eot_token_id(self) -> int:
        return self.engine.stop_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands in front of a text without context."""
        tokenizer = self.tokenizer
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, self.eot_token_id)
        return next(i for i in ids if i is not None)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds unless the text has its BOS already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        return self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        def render(messages):
            (text,) = fill(
                self.tokenizer, [messages], date=self.date, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt, **THINKING[self.thinking],
            )  # fmt: skip
            return text

        try:
            return render(chat_history)
        except Refused:
            without = [m for m in chat_history if m["role"] != "system"]
            if without == chat_history:
                raise
            log.warning("the chat template refuses a system message; it is left out")
            return render(without)

    def _by_length(self, lengths: Sequence[int], longest: int) -> Iterator[tuple[int, int, list[int]]]:
        """(rows, width, indices) of batches, the longest first: of few shapes, as each is compiled.

        All have the same number of rows, of which the last batch may not fill all; the width is a power of two.
        """
        shards = sharding.data_shards(self.engine.mesh)
        rows = -(-min(self.batch_size, len(lengths)) // shards) * shards
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            yield rows, min(likelihood.bucket(lengths[batch[0]], 64, 2), longest), batch

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str] | None, list[int], list[int]]], disable_tqdm: bool = False, **kwargs
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities of each continuation, in nats, and whether greedy decoding would give it.

        Requests whose tokens differ in the last one alone, such as the letters of a question, share a row.
        """
        members = defaultdict(list)  # input -> the requests that are read off it
        cut = 0
        for i, (_, context, continuation) in enumerate(requests):
            if not 1 <= len(continuation) <= self.max_length:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens cannot be scored; allowed are 1 to "
                    f"{self.max_length} (max_length)"
                )
            cut += len(context) + len(continuation) > self.max_length + 1
            members[tuple((context + continuation)[-self.max_length - 1 : -1])].append(i)
        if cut:
            log.warning("%d contexts are cut on the left: they are longer than %d tokens", cut, self.max_length)
        inputs = list(members)
        results: list = [None] * len(requests)
        with tqdm(total=len(requests), desc="scoring", disable=disable_tqdm) as bar:
            for rows, width, batch in self._by_length([len(x) for x in inputs], self.max_length):
                row_members = [members[inputs[i]] for i in batch]
                labels = [[requests[m][2] for m in some] for some in row_members]
                packed = likelihood.lay([inputs[i] for i in batch], labels, rows, width)
                packed = sharding.spread(packed, sharding.by_rows(self.engine.mesh))
                logp_RS, greedy_RS = sharding.fetch(self._scores(self.params, packed))
                for row, some in enumerate(row_members):
                    at = 0
                    for m in some:
                        here = slice(at, at := at + len(requests[m][2]))
                        results[m] = float(logp_RS[row, here].sum(dtype=np.float64)), bool(greedy_RS[row, here].all())
                    bar.update(len(some))
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, nats; a long one in windows of max_length, each after one token of the one before."""
        windows, owner = [], []
        for i, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            parts = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            windows += [(None, *make_disjoint_window(part)) for part in parts]
            owner += [i] * (len(windows) - len(owner))
        totals = [0.0] * len(requests)
        for i, (logp, _) in zip(owner, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm), strict=True):
            totals[i] += logp
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, without what the model thought before them, up to the first stop text."""
        groups = defaultdict(list)
        for i, request in enumerate(requests):
            groups[Generation.of(request.args[1])].append(i)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="answering", disable=disable_tqdm) as bar:
            for how, members in groups.items():
                for i, text in self._answers(how, {i: requests[i].args[0] for i in members}, bar.update):
                    texts[i] = text
        return texts

    def _answers(self, how: Generation, contexts: dict[int, str], done: Callable) -> Iterator[tuple[int, str]]:
        room = self.max_length - how.max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_gen_toks = {how.max_new_tokens}: allowed is less than max_length = {self.max_length}"
            )
        which = list(contexts)
        prompts = [self.tok_encode(contexts[i]) or [self.prefix_token_id] for i in which]
        if cut := sum(len(prompt) > room for prompt in prompts):
            log.warning("%d prompts are cut on the left, to %d tokens: the answer needs the rest", cut, room)
        prompts = [prompt[-room:] for prompt in prompts]
        engine = self._stopping_at(how.until)
        for n, (rows, width, batch) in enumerate(self._by_length([len(p) for p in prompts], room)):
            filled = [prompts[i] for i in (batch + batch[-1:] * rows)[:rows]]
            rollout = engine.sample(
                self.params, filled, jax.random.fold_in(jax.random.key(self.seed), n), width=width, batch=rows,
                max_new_tokens=how.max_new_tokens, temperature=how.temperature,
            )  # fmt: skip
            for row, i in enumerate(batch):
                ids = rollout.tokens_BL[row, width:][rollout.response_mask_BT[row]]
                yield which[i], self._text(ids.tolist(), how.until)
            done(len(batch))

    def _text(self, ids: list[int], until: tuple[str, ...]) -> str:
        """An answer: after the end of the thinking, before the end of the turn and before the first stop text."""
        text = said(self.tokenizer, ids, self.engine.stop_ids, self.think_end)
        for stop in until:
            text = text.partition(stop)[0]
        return text

    def _build_stopping_at(self, until: tuple[str, ...]) -> Engine:
        """An engine that also ends an answer at each token whose text holds a stop text.

        A stop text that comes in several tokens cuts the answer afterwards, without ending it earlier. A model that
        thinks is not stopped early: what ends its answer may well stand in its thoughts.
        """
        e = self.engine
        if self.think_id is not None:
            return e
        ends = [i for i, text in enumerate(self._token_texts) if any(stop in text for stop in until)]
        return Engine(e.cfg, e.mesh, e.tokenizer, (*e.stop_ids, *ends), e.shape, e.numerics)

    @functools.cached_property
    def _token_texts(self) -> list[str]:
        return self.tokenizer.batch_decode([[i] for i in range(self.engine.numerics.vocab)])
