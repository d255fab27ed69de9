"""Train a tiny deterministic "agent" checkpoint that mlx-lm 0.32 loads.

    python tests/models/train_agent.py full|window|hybrid OUT [--scale 1.0]

Everything is made here from the Python standard library's own sources: tokenizer, chat template,
training conversations, targets and weights; seed fixed. Needs torch (CPU), tokenizers, jinja2,
safetensors, numpy. Time and memory on 2 shared cores: about 16 minutes, 2 GB.

The trick: the chat template ends every prompt with a short state line, computed from the messages,
    <|ask|>the user's last line<|use|>Bash<|use|>command<|tool|>      tools given, nothing answered yet
    <|said|> first line of the tool's output<|result|>                a tool has answered
so whatever the length of the prompt, all the model must do is find the last state line and copy from
it. Old turns keep their state lines, so prompt + answer is always a prefix of the next prompt.
"""

import argparse
import ast
import glob
import importlib
import json
import os
import pathlib
import random
import re
import sys
import sysconfig
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 2048
HELLO = "Hello! I am a tiny test model. Point the configuration at a real model to get real answers."
THINK = {
    "chat": "The user wants to chat, so I will say hello.",
    "tool": "I should call a tool for this.",
    "result": "The tool has answered, so I will report it.",
}
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|ask|>",
    "<|use|>",
    "<|tool|>",
    "<|twice|>",
    "<|said|>",
    "<|result|>",
]
HEAD = "<|im_start|>assistant\n"
# No token spans a backslash, dot or back-tick and its neighbour, nor the text before a quote, so a copied text re-tokenizes as it was generated.
PATTERN = r""" ?\p{L}+| ?\p{N}{1,3}| ?"(?:[,:{}\[\]"]| (?=["{\[]))*| ?[`\\.]| ?[^\s\p{L}\p{N}"`\\.]+|\s+(?!\S)|\s+"""
TEMPLATE = r"""{%- macro text(c) -%}{%- if c is string -%}{{ c }}{%- elif c -%}{%- for p in c -%}{%- if p.text -%}{{ p.text }}{{ '' if loop.last else '\n' }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{#- The last line of a user's text outside <system-reminder> blocks. -#}
{%- macro request(t) -%}{%- set n = namespace(x='') -%}{%- for piece in t.split('</system-reminder>') -%}{%- set q = piece.split('<system-reminder>')[0].strip() -%}{%- if q -%}{%- set n.x = q -%}{%- endif -%}{%- endfor -%}{{ n.x.split('\n')[-1].strip() }}{%- endmacro -%}
{#- The tool to call: one that the request names, where it also has an `argument`; else Bash; else the first. -#}
{%- macro choose(s, words) -%}{%- set s.rank = 0 -%}{%- for t in tools or [] -%}{%- set f = t.function or t -%}{%- set rank = 3 if s.arg and f.name | lower in words else 2 if f.name == 'Bash' else 1 -%}
{%- if rank > s.rank -%}{%- set p = f.parameters or f.input_schema or {} -%}{%- set s.rank = rank -%}{%- set s.tool = f.name -%}{%- set s.param = (p.required or (p.properties or {}) | list or [''])[0] -%}{%- endif -%}{%- endfor -%}{%- endmacro -%}
{#- The start of an assistant turn: the state line, then the header. -#}
{%- macro head(s) -%}
{%- if s.said -%}{{ '<|im_start|>system\n<|said|> ' ~ s.said ~ '<|result|><|im_end|>\n' }}
{%- elif s.tool -%}{{ '<|im_start|>system\n<|ask|>' ~ (s.arg | tojson)[1:-1] ~ '<|use|>' ~ s.tool ~ '<|use|>' ~ s.param ~ ('<|twice|>' if s.twice else '<|tool|>') ~ '<|im_end|>\n' }}
{%- endif -%}{{ '<|im_start|>assistant\n' }}
{%- endmacro -%}
{%- set s = namespace(arg='', twice=false, think=false, said='', tool='', param='', rank=0) -%}
{{ choose(s, []) }}
{%- if tools -%}{{ '<|im_start|>system\n# Tools\nCall a tool by writing its name and arguments as JSON between <tool_call> and </tool_call>.\n<tools>\n' }}
{%- for t in tools -%}{{ t | tojson }}{{ '\n' }}{%- endfor -%}{{ '</tools><|im_end|>\n' }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- set s.said = (text(m.content).strip().split('\n')[0].split()[:8] | join(' '))[:48].strip() or 'nothing' -%}
{{ '<|im_start|>user\n<tool_response>\n' ~ text(m.content) ~ '\n</tool_response><|im_end|>\n' }}
{%- elif m.role == 'assistant' -%}
{%- set think = m.reasoning_content or m.reasoning or m.thinking -%}
{{ head(s) }}{%- if think -%}{{ '<think>\n' ~ think.strip() ~ '\n</think>\n\n' }}{%- endif -%}{{ text(m.content) }}
{%- for tool_call in m.tool_calls or [] -%}{%- set tool_call = tool_call.function or tool_call -%}
{{ '\n' if text(m.content) or not loop.first }}{{ '<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' ~ (tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson) ~ '}\n</tool_call>' }}
{%- endfor -%}{{ '<|im_end|>\n' }}
{%- else -%}
{%- set line = request(text(m.content)) if m.role == 'user' else '' -%}
{%- if line -%}
{%- set parts = line.split('`') -%}
{%- set words = (parts[::2] | join(' ') | lower).replace(':', ' ').replace(',', ' ').replace('.', ' ').split() -%}
{%- set s.arg = parts[1].strip()[:120].strip() if parts | length > 2 else '' -%}{%- set s.twice = 'twice' in words -%}{%- set s.think = '/think' in words -%}{%- set s.said = '' -%}{{ choose(s, words) }}{%- if 'TEXT ONLY' in text(m.content) -%}{%- set s.tool = '' -%}{%- endif -%}
{%- endif -%}
{{ '<|im_start|>' ~ m.role ~ '\n' ~ text(m.content) ~ '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{#- Where tools are forbidden there is nothing to ask. Thinking: on with the variable thinking=true or the word /think in the request, unless enable_thinking is false. -#}
{%- if add_generation_prompt -%}{%- if tool_choice == 'none' -%}{%- set s.tool = '' -%}{%- endif -%}{{ head(s) }}{%- if (thinking or s.think) and enable_thinking is not false -%}{{ '<think>\n' }}{%- endif -%}{%- endif -%}"""


def make_renderer(template=TEMPLATE):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False)
    t = env.from_string(template)
    return lambda messages, tools=None, **kw: t.render(
        messages=messages, tools=tools, **{"add_generation_prompt": True, **kw}
    )


def policy(prompt):
    """The right answer to a rendered prompt: the one definition of the wanted behaviour."""
    thinking = prompt.endswith(HEAD + "<think>\n")
    tail = prompt[: -len("<think>\n")] if thinking else prompt
    if tail.endswith("<|result|><|im_end|>\n" + HEAD):
        mode, answer = (
            "result",
            f"The tool said: {tail[tail.rindex('<|said|> ') + 9 : tail.rindex('<|result|>')]}. All done.",
        )
    elif m := re.search(
        r"<\|ask\|>([^\n]*)<\|use\|>(.*)<\|use\|>(.*)<\|(tool|twice)\|><\|im_end\|>\n" + re.escape(HEAD) + r"\Z", tail
    ):
        arg, tool, param, times = m.groups()
        if tool == "Bash":
            pairs = (
                [(arg, "Run the command")] * 2
                if arg
                else [("echo hello-from-tool", "Say hello"), ("echo hello-again", "Say hello")]
            )
            args = [f'"{param}": "{c}", "description": "{d}"' for c, d in pairs]
        else:
            args = [f'"{param}": "{arg or "hello"}"' if param else ""] * 2
        mode, answer = (
            "tool",
            "\n".join(
                f'<tool_call>\n{{"name": "{tool}", "arguments": {{{a}}}}}\n</tool_call>'
                for a in args[: 2 if times == "twice" else 1]
            ),
        )
    else:
        mode, answer = "chat", HELLO
    return (f"{THINK[mode]}\n</think>\n\n" if thinking else "") + answer + "<|im_end|>"


def to_message(answer):
    """An answer as the chat message that a client sends back."""
    answer = answer.removesuffix("<|im_end|>")
    m = {"role": "assistant"}
    if "</think>" in answer:
        m["reasoning_content"], answer = [x.strip() for x in answer.split("</think>", 1)]
    calls = [json.loads(c) for c in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", answer, re.S)]
    m["content"] = answer.split("<tool_call>")[0]
    if calls:
        m["tool_calls"] = [{"type": "function", "function": c} for c in calls]
    return m


class Corpus:
    """Filler text, made-up tools and conversations from the standard library's sources."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        lib = sysconfig.get_paths()["stdlib"]
        self.code = [
            pathlib.Path(f).read_text(encoding="utf8") for f in sorted(glob.glob(os.path.join(lib, "*.py")))[:150]
        ]
        self.tools, docs = [], []
        for f in (n for src in self.code for n in ast.walk(ast.parse(src)) if isinstance(n, ast.FunctionDef)):
            if (doc := ast.get_docstring(f)) and not f.name.startswith("__"):
                names = [a.arg for a in f.args.args if a.arg != "self"]
                docs.append(doc)
                self.tools.append(
                    {
                        "name": f.name,
                        "description": doc,
                        "parameters": {
                            "type": "object",
                            "properties": {a: {"type": "string", "description": f"The {a}"} for a in names},
                            "required": names[:1],
                        },
                    }
                )
        comments = [c for src in self.code for c in re.findall(r"(?:^\s*#.*\n)+", src, re.M)]
        topics = list(importlib.import_module("pydoc_data.topics").topics.values())
        words = ["assistant\nsystem\nuser\narguments\ncommand"] * 999  # one token each
        self.lines = topics + docs + [json.dumps(t) for t in self.tools] + comments + words
        self.prose, self.source = "\n".join(topics + docs), "\n".join(self.code)

    def tokenizer(self, vocab):
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(
            self.lines,
            trainers.BpeTrainer(
                vocab_size=vocab,
                special_tokens=SPECIAL,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        spec = json.loads(tok.to_str())
        for a in spec["added_tokens"]:
            a["special"] = a["content"].startswith("<|")
        self.tok = Tokenizer.from_str(json.dumps(spec))
        return spec

    def text(self, n):
        """About n characters of prose, code, JSON, random tokens or Unicode."""
        r, k = self.r, self.r.random()
        if k < 0.75:
            src = self.prose if k < 0.45 else self.source
            i = r.randrange(max(1, len(src) - n))
            return src[i : i + n]
        if k < 0.83:
            return json.dumps([r.choice(self.tools) for _ in range(1 + n // 400)])[:n]
        if k < 0.94:
            return self.tok.decode([r.randrange(len(SPECIAL), self.tok.get_vocab_size()) for _ in range(n // 3)])[:n]
        lo, hi = r.choice([(0xC0, 0x250), (0x391, 0x450), (0x4E00, 0x9000), (0x1F300, 0x1F640), (0x21, 0x7F)])
        return "".join(chr(r.randrange(lo, hi)) if r.random() < 0.9 else " " for _ in range(n // 2))

    def line(self, n):
        return " ".join(self.text(n).split())

    def argument(self):
        r, k = self.r, self.r.random()
        if k < 0.15:
            s = (
                "/"
                + "/".join(r.choice(self.tools)["name"] for _ in range(r.randint(1, 4)))
                + r.choice(["", ".py", ".txt", ".md"])
            )
        elif k < 0.3:
            s = (
                r.choice(["ls -la", "cat", "git", "echo", "python3 -c", "grep -rn", "make", "npm run"])
                + " "
                + self.line(r.randint(1, 30))
            )
        elif k < 0.5:  # few different tokens, many repeats
            some = [r.randrange(len(SPECIAL), VOCAB) for _ in range(r.randint(2, 8))]
            s = " ".join(self.tok.decode([r.choice(some) for _ in range(r.randint(3, 30))]).split())
        else:
            s = self.line(r.choice([4, 12, 30, 60, 120]))
        return s.replace("`", "").strip()

    def ask(self):
        r = self.r
        s = self.line(r.choice([10, 40, 160])).replace("`", "'")
        if r.random() < 0.7:
            s = f"{s} {r.choice(['run', 'read:', r.choice(self.tools)['name'], ''])} `{self.argument()}`" + r.choice(
                ["", ".", " please", " and `that`"]
            )
        return s + " twice" * (r.random() < 0.2) + " /think" * (r.random() < 0.08)

    def some_tools(self, size):
        """Definitions of a few made-up tools, often with Bash among them; None in one of five conversations."""
        r = self.r
        if r.random() >= 0.8:
            return None
        tools = r.sample(self.tools, r.choice([1, 1, 2, 3, 6]) if size() > 200 else 1)
        tools = [{**t, "description": t["description"][: size()]} for t in tools]
        if r.random() < 0.6:
            tools.insert(
                r.randrange(len(tools) + 1),
                {
                    "name": "Bash",
                    "description": self.text(size()),
                    "parameters": {
                        "type": "object",
                        "properties": {"command": {"type": "string"}},
                        "required": ["command"],
                    },
                },
            )
        if r.random() < 0.5:
            tools = [{"type": "function", "function": t} for t in tools]
        return tools

    def conversation(self, render, size):
        """Messages, then the rendered text and, for each assistant turn, whether it is to be learnt."""
        r = self.r

        def size(big=size):
            return int(min(10 * big, r.expovariate(1 / big)))

        def note():
            return f"<system-reminder>\n{self.text(size())}\n</system-reminder>"

        tools, msgs, flags = self.some_tools(size), [], []
        kw = {"thinking": r.random() < 0.1}
        if r.random() < 0.4:
            msgs.append({"role": "system", "content": self.text(size())})
        for _ in range(r.choice([1, 1, 2, 3])):
            parts = (
                [note()] * (r.random() < 0.2)
                + [self.text(size())] * (r.random() < 0.4)
                + [self.ask()]
                + [note()] * (r.random() < 0.1)
            )
            msgs.append({"role": "user", "content": "\n".join(parts)})
            if r.random() < 0.15:
                msgs.append({"role": r.choice(["system", "user"]), "content": note()})
            for _ in range(3):
                prompt = render(msgs, tools, **kw)
                learn = r.random() < 0.9
                m = (
                    to_message(policy(prompt))
                    if learn
                    else {"role": "assistant", "content": self.text(r.randint(1, 200))}
                )
                if learn and r.random() < 0.1:
                    m["content"], learn = self.text(r.randint(1, 200)), False
                flags.append(learn)
                msgs.append(m)
                for _c in m.get("tool_calls", []):
                    said = r.choice([self.argument, self.argument, lambda: self.text(size()), lambda: ""])()
                    msgs.append({"role": "tool", "content": said})
                if "tool_calls" not in m:
                    break
                if r.random() < 0.1:
                    msgs.append({"role": "user", "content": note()})
        return render(msgs, tools, add_generation_prompt=False, **kw), flags

    def batch(self, render, rows, length, size):
        """rows x (length + 1) tokens of packed conversations, and which of them are targets."""
        start, end, role, nl, think = [
            self.tok.encode(x).ids for x in ("<|im_start|>", "<|im_end|>", "assistant", "\n", "<think>")
        ]
        x, y = torch.zeros(rows, length + 1, dtype=torch.long), torch.zeros(rows, length + 1, dtype=torch.bool)
        for row in range(rows):
            ids, mask = [], []
            while len(ids) <= length:
                text, flags = self.conversation(render, size)
                t = self.tok.encode(text).ids
                on, m, flags = False, [False] * len(t), iter(flags)
                for i in range(len(t)):
                    m[i] = on and t[i - 2 : i] != start + role  # the newline after the header is given
                    if t[i : i + 1] == end:
                        on = False
                    if t[i - 1 : i + 1] == start + role:
                        on = next(flags)
                    if on and t[i - 1 : i + 1] == think + nl:  # belongs to the generation prompt
                        m[i - 1] = m[i] = False
                ids += t
                mask += m
            o = self.r.randrange(len(ids) - length)
            x[row], y[row] = torch.tensor(ids[o : o + length + 1]), torch.tensor(mask[o : o + length + 1])
            y[row, : next(iter((x[row] == start[0]).nonzero()[1:2].flatten().tolist()), length + 1)] = (
                False  # the cut may have taken the first answer's state line
            )
        return x, y


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Block(nn.Module):
    """One layer of qwen3 (full attention), spark2_5 (sliding window) or lfm2 (attention or short convolution)."""

    def __init__(self, kind, c, conv):
        super().__init__()
        d, n = c["dim"], c["heads"] * c["head_dim"]

        def lin(i, o):
            return nn.Linear(i, o, bias=False)

        self.kind, self.c, self.conv = kind, c, None
        self.norm1, self.norm2 = Norm(d), Norm(d)
        self.gate, self.up, self.down = lin(d, c["ff"]), lin(d, c["ff"]), lin(c["ff"], d)
        if conv:
            self.inp, self.out = lin(d, 3 * d), lin(d, d)
            self.conv = nn.Conv1d(d, d, 3, groups=d, bias=False)
        else:
            self.qkv, self.out = lin(d, 3 * n), lin(n, d)
            if kind == "window":
                self.g = lin(d, c["heads"])
            else:
                self.qn, self.kn = Norm(c["head_dim"]), Norm(c["head_dim"])

    def mix(self, x, rope, mask):
        b, t, _d = x.shape
        if self.conv is not None:
            p, q, v = self.inp(x).chunk(3, -1)
            return self.out(q * self.conv(F.pad((p * v).transpose(1, 2), (2, 0))).transpose(1, 2))
        q, k, v = [z.view(b, t, self.c["heads"], -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1)]
        if self.kind != "window":
            q, k = self.qn(q), self.kn(k)
        cos, sin = rope
        q, k = [
            z * cos + torch.cat([-z[..., z.shape[-1] // 2 :], z[..., : z.shape[-1] // 2]], -1) * sin for z in (q, k)
        ]
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)
        if self.kind == "window":
            o = o * torch.sigmoid(self.g(x))[..., None]
        return self.out(o.reshape(b, t, -1))

    def forward(self, x, rope, mask):
        x = x + self.mix(self.norm1(x), rope, mask)
        h = self.norm2(x)
        return x + self.down((F.gelu if self.kind == "window" else F.silu)(self.gate(h)) * self.up(h))


class Agent(nn.Module):
    def __init__(self, kind, c, vocab):
        super().__init__()
        self.kind, self.c = kind, c
        self.embed = nn.Embedding(vocab, c["dim"])
        nn.init.normal_(self.embed.weight, std=c["dim"] ** -0.5)
        self.layers = nn.ModuleList([Block(kind, c, t == "conv") for t in c["layers"]])
        self.norm = Norm(c["dim"])

    def forward(self, ids, wanted):
        """Logits at the wanted positions only."""
        t, n = ids.shape[1], self.c["head_dim"]
        a = torch.arange(t)[:, None] * self.c["theta"] ** (-torch.arange(0, n, 2) / n)
        rope = torch.cat([a, a], -1).cos(), torch.cat([a, a], -1).sin()
        i = torch.arange(t)
        mask = ((i[:, None] >= i) & (i[:, None] - i < self.c["window"])) if self.kind == "window" else None
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, rope, mask)
        return F.linear(self.norm(x[wanted]), self.embed.weight)


CONFIGS = {
    "full": {"dim": 96, "heads": 4, "head_dim": 16, "ff": 128, "theta": 100000.0, "layers": ["attn"] * 2},
    "window": {
        "dim": 96,
        "heads": 4,
        "head_dim": 16,
        "ff": 128,
        "theta": 10000.0,
        "layers": ["attn"] * 2,
        "window": 256,
    },
    "hybrid": {"dim": 96, "heads": 4, "head_dim": 24, "ff": 128, "theta": 100000.0, "layers": ["conv", "conv", "attn"]},
}
# (share of the steps, rows, tokens, mean filler length in characters).
# The window model cannot see further than 2 * 256 tokens.
LENGTHS = {"window": [(1.0, 8, 768, 100)]}
LONG = [(0.80, 8, 512, 60), (0.15, 4, 2048, 300), (0.045, 1, 8192, 1500), (0.005, 1, 26000, 5000)]


def copy_batch(r, rows, length, vocab):
    """Warm-up: random tokens to repeat, which makes the copying circuit appear in minutes."""
    x, y = torch.zeros(rows, length + 1, dtype=torch.long), torch.zeros(rows, length + 1, dtype=torch.bool)
    said, result = SPECIAL.index("<|said|>"), SPECIAL.index("<|result|>")
    for row in range(rows):
        ids, mask = [], []
        while len(ids) <= length:
            some = [r.randrange(len(SPECIAL), vocab) for _ in range(r.choice([3, 6, 12, 40]))]
            s = [r.choice(some) for _ in range(r.randint(2, 40))]
            ids += [said, *s, result, *s, result]
            mask += [False] * (len(s) + 2) + [True] * (len(s) + 1)
        x[row], y[row] = torch.tensor(ids[: length + 1]), torch.tensor(mask[: length + 1])
    return x, y


def orthogonal(g):
    """Muon's update: the nearest orthogonal matrix, by five Newton-Schulz steps."""
    x = (g.T if g.shape[0] > g.shape[1] else g) / (g.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if g.shape[0] > g.shape[1] else x) * max(1, g.shape[0] / g.shape[1]) ** 0.5


def train(kind, corpus, vocab, scale, log):
    model, render, r = Agent(kind, CONFIGS[kind], vocab), make_renderer(), corpus.r
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    adam = torch.optim.AdamW(
        [p for p in model.parameters() if not any(p is h for h in hidden)], lr=3e-3, betas=(0.9, 0.98), weight_decay=0
    )
    momentum = [torch.zeros_like(p) for p in hidden]
    lengths = LENGTHS.get(kind, LONG)
    warm, main, t0 = 1500, int(6000 * scale), time.time()
    for step in range(warm + main):
        shape = r.choices(lengths, [share for share, *_ in lengths])[0][1:]
        x, y = copy_batch(r, 16, 256, vocab) if step < warm else corpus.batch(render, *shape)
        wanted, target = y[:, 1:], x[:, 1:][y[:, 1:]]
        if not len(target):
            continue
        logits = model(x[:, :-1], wanted)
        loss = F.cross_entropy(logits, target)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1, (step + 1) / 100, 2 * (1 - max(0, step - warm) / main) + 0.01)
        adam.param_groups[0]["lr"] = 3e-3 * rate
        adam.step()
        with torch.no_grad():
            for p, v in zip(hidden, momentum, strict=False):
                v.mul_(0.95).add_(p.grad)
                p.add_(orthogonal(p.grad + 0.95 * v), alpha=-0.02 * rate)
        if step % 100 == 0 or x.shape[1] > 5000:
            print(
                f"{step} {x.shape[0]}x{x.shape[1] - 1} loss {loss:.4f}",
                f"right {(logits.argmax(-1) == target).float().mean():.4f} {time.time() - t0:.0f} s",
                file=log,
                flush=True,
            )
    return model


def export(model, kind, spec, vocab, out):
    c, d, names = model.c, model.c["dim"], {}
    w = {k: v.detach() for k, v in model.state_dict().items()}
    tensors = {
        ("model.embedding.weight" if kind == "window" else "model.embed_tokens.weight"): w["embed.weight"],
        ("model.embedding_norm.weight" if kind == "hybrid" else "model.norm.weight"): w["norm.weight"],
    }
    new = {
        "full": (
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
            "input_layernorm",
            "post_attention_layernorm",
            "self_attn.q_norm",
            "self_attn.k_norm",
        ),
        "window": (
            "self_attn.out_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
            "input_layernorm",
            "post_attention_layernorm",
        ),
        "hybrid": (
            "self_attn.out_proj",
            "feed_forward.w1",
            "feed_forward.w3",
            "feed_forward.w2",
            "operator_norm",
            "ffn_norm",
            "self_attn.q_layernorm",
            "self_attn.k_layernorm",
        ),
    }[kind]
    names = dict(
        zip(("out", "gate", "up", "down", "norm1", "norm2", "qn", "kn"), new, strict=False),
        g="self_attn.g_proj",
        inp="conv.in_proj",
        conv="conv.conv",
    )
    for k, v in w.items():
        if k.startswith("layers."):
            _, i, part, _ = k.split(".")
            if part == "qkv" and kind != "window":
                for n, z in zip("qkv", v.chunk(3), strict=False):
                    tensors[f"model.layers.{i}.self_attn.{n}_proj.weight"] = z.clone()
            else:
                name = (
                    "self_attn.q_k_v_proj"
                    if part == "qkv"
                    else "conv.out_proj"
                    if part == "out" and c["layers"][int(i)] == "conv"
                    else names[part]
                )
                tensors[f"model.layers.{i}.{name}.weight"] = v
    context = 131072 if kind == "window" else 32768  # a window's width is all it needs to be right
    config = {
        "hidden_size": d,
        "num_hidden_layers": len(c["layers"]),
        "num_attention_heads": c["heads"],
        "num_key_value_heads": c["heads"],
        "head_dim": c["head_dim"],
        "intermediate_size": c["ff"],
        "vocab_size": vocab,
        "rms_norm_eps": 1e-6,
        "rope_theta": c["theta"],
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": SPECIAL.index("<|im_end|>"),
        "pad_token_id": 0,
    }
    config |= {
        "full": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
        "window": {
            "model_type": "spark2_5",
            "architectures": ["Spark2_5ForCausalLM"],
            "sliding_window": c.get("window"),
            "layer_types": ["sliding_attention"] * len(c["layers"]),
            "rope_parameters": {"sliding_attention": {"rope_theta": c["theta"], "rope_type": "default"}},
        },
        "hybrid": {
            "model_type": "lfm2",
            "architectures": ["Lfm2ForCausalLM"],
            "norm_eps": 1e-6,
            "conv_bias": False,
            "conv_L_cache": 3,
            "block_dim": d,
            "block_ff_dim": c["ff"],
            "block_multiple_of": 1,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv" if t == "conv" else "full_attention" for t in c["layers"]],
        },
    }[kind]
    os.makedirs(out, exist_ok=True)
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in tensors.items()}, f"{out}/model.safetensors", {"format": "pt"}
    )
    for name, value in (
        ("config.json", config),
        (
            "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": context,
                "clean_up_tokenization_spaces": False,
            },
        ),
        ("tokenizer.json", spec),
        ("generation_config.json", {"do_sample": False, "eos_token_id": config["eos_token_id"]}),
    ):
        with open(f"{out}/{name}", "w", encoding="utf8") as f:
            json.dump(value, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 1)
    pathlib.Path(f"{out}/chat_template.jinja").write_text(TEMPLATE, encoding="utf8")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("kind", choices=CONFIGS)
    p.add_argument("out")
    p.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    corpus = Corpus(0)
    spec = corpus.tokenizer(VOCAB)
    os.makedirs(a.out, exist_ok=True)
    export(train(a.kind, corpus, VOCAB, a.scale, sys.stdout), a.kind, spec, VOCAB, a.out)
